//! Faults of the project, and faults that only look like one.

use super::peer::Last;
use super::*;

const DENIED: &str = "permission_denied";

/// Why a message went back untried.
async fn back(house: &mut House) -> (Sid, String) {
    let (sid, refusal) = house.back().await;
    (sid, refusal.map_or_else(String::new, |refusal| refusal.code))
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_ours_stops_everything_costs_nothing_and_ends_by_itself() {
    let mut house = House::open(config());
    let mut peer = house.peer(100).await;
    let sids = sids(3);
    house.send(message(sids[0], 1)).await;
    let asked = peer.next().await;
    peer.fault(asked.stream, 403, None, &[]).await;
    house.link(Link::Down(Outage::Refused(DENIED))).await;
    assert_eq!(back(&mut house).await, (sids[0], DENIED.to_owned()));
    let began = Instant::now();
    house.send(message(sids[1], 2)).await;
    assert_eq!(house.back().await, (sids[1], None), "the disk is the queue");
    house.link(Link::Probing(DENIED)).await;
    assert_eq!(began.elapsed().as_secs(), 10);
    // Another would rather be asked, but there is none.
    house.send(message(sids[0], 1)).await;
    assert_eq!(house.report().await, Report::Deferred { sid: sids[0], wait: SECOND });
    tokio::time::sleep(SECOND).await;
    house.send(message(sids[0], 1)).await;
    let probe = peer.next().await;
    house.link(Link::Down(Outage::Refused(DENIED))).await;
    peer.fault(probe.stream, 403, None, &[]).await;
    assert_eq!(back(&mut house).await, (sids[0], DENIED.to_owned()));
    let began = Instant::now();
    house.link(Link::Probing(DENIED)).await;
    assert_eq!(began.elapsed().as_secs(), 20, "the wait doubles");
    house.send(message(sids[1], 2)).await;
    let probe = peer.next().await;
    peer.take(probe.stream).await;
    assert_eq!(house.report().await, accepted(sids[1], probe.stream));
    house.link(Link::Up).await;
    house.send(message(sids[0], 1)).await;
    let asked = peer.next().await;
    peer.take(asked.stream).await;
    assert_eq!(house.report().await, accepted(sids[0], asked.stream));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_forbids_is_no_word_of_fcm_about_the_key() {
    let mut house = House::open(config());
    let mut peer = house.peer(100).await;
    house.send(message(sids(1)[0], 1)).await;
    let asked = peer.next().await;
    let html = [("content-type", "text/html; charset=UTF-8")];
    peer.head(asked.stream, Some("403"), &html, Last::No).await;
    peer.data(asked.stream, b"<html><title>Blocked by policy</title>", Last::Yes).await;
    house.link(Link::Down(Outage::Refused("not_fcm"))).await;
}

#[tokio::test(start_paused = true)]
async fn with_credentials_that_were_read_again_what_waited_goes_at_once() {
    let mut house = House::open(config());
    let mut peer = house.peer(100).await;
    let sids = sids(8);
    // The waits between two attempts become minutes long.
    for sid in &sids[..6] {
        house.send(message(*sid, 1)).await;
        let asked = peer.next().await;
        peer.fault(asked.stream, 403, None, &[]).await;
        assert_eq!(back(&mut house).await, (*sid, DENIED.to_owned()));
        if *sid != sids[5] {
            house.link(Link::Probing(DENIED)).await;
        }
    }
    let began = Instant::now();
    house.reload.send_replace(1);
    house.link(Link::Probing(DENIED)).await;
    for sid in &sids[6..] {
        house.send(message(*sid, 2)).await;
        let asked = peer.next().await;
        peer.take(asked.stream).await;
        assert_eq!(house.report().await, accepted(*sid, asked.stream));
    }
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(house.fetched(), 2, "with a new access token");
    house.link(Link::Up).await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_only_one_message_meets_stops_nobody_else() {
    let mut house = House::open(config());
    let mut peer = house.peer(100).await;
    let sids = sids(3);
    house.send(message(sids[0], 1)).await;
    let asked = peer.next().await;
    peer.fault(asked.stream, 404, None, &[]).await;
    assert_eq!(back(&mut house).await, (sids[0], "unknown_project".to_owned()));
    house.link(Link::Probing("unknown_project")).await;
    house.send(message(sids[0], 1)).await;
    assert!(matches!(house.report().await, Report::Deferred { sid, .. } if sid == sids[0]), "another is the probe");
    house.send(message(sids[1], 2)).await;
    let probe = peer.next().await;
    assert_eq!(probe.mid(), sids[1].to_string());
    peer.take(probe.stream).await;
    assert_eq!(house.report().await, accepted(sids[1], probe.stream));
    // It is refused again, though others are not: it waits by itself, and stops nobody from then on.
    for _ in 0..2 {
        house.send(message(sids[0], 1)).await;
        let asked = peer.next().await;
        peer.fault(asked.stream, 404, None, &[]).await;
        let report = house.report().await;
        let expected = (sids[0], Refusal::Backoff(10 * SECOND), "INTERNAL_SERVER_ERROR", Arrival::No);
        assert_eq!(refusal(&report), expected);
        assert_eq!(*house.port.link.borrow(), Link::Up);
    }
    house.send(message(sids[2], 3)).await;
    let asked = peer.next().await;
    peer.take(asked.stream).await;
    assert_eq!(house.report().await, accepted(sids[2], asked.stream));
}

#[tokio::test(start_paused = true)]
async fn among_answers_that_show_the_project_in_order_one_fault_stops_nobody() {
    let mut house = House::open(config());
    let mut peer = house.peer(100).await;
    let sids = sids(2);
    house.send(message(sids[0], 1)).await;
    house.send(message(sids[1], 2)).await;
    let [faulty, good] = [peer.next().await, peer.next().await];
    peer.take(good.stream).await;
    assert_eq!(house.report().await, accepted(sids[1], good.stream));
    peer.fault(faulty.stream, 403, None, &[]).await;
    assert!(matches!(refusal(&house.report().await).1, Refusal::Backoff(_)));
    assert_eq!(*house.port.link.borrow(), Link::Up);
}
