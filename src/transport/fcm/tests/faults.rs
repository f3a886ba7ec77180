//! Faults of the project, and faults that only look like one.

use super::peer::Last;
use super::*;

#[tokio::test(start_paused = true)]
async fn a_fault_of_ours_stops_everything_costs_nothing_and_ends_by_itself() {
    let mut house = House::open(config());
    let mut peer = house.peer(100).await;
    let sids = sids(3);
    house.send(message(sids[0], 1)).await;
    let asked = peer.next().await;
    peer.fault(asked.stream, 403, None, &[]).await;
    house.link(Link::Down(Outage::Refused("permission_denied"))).await;
    let began = Instant::now();
    // Another would be asked for first, but there is none.
    house.link(Link::Probing("permission_denied")).await;
    let probe = peer.next().await;
    assert_eq!((probe.mid(), began.elapsed().as_secs()), (sids[0].to_string(), 11), "the one that was refused");
    house.send(message(sids[1], 2)).await;
    peer.fault(probe.stream, 403, None, &[]).await;
    let began = Instant::now();
    let probe = peer.next().await;
    assert_eq!(probe.mid(), sids[1].to_string(), "one that was not refused");
    assert!(began.elapsed() >= Duration::from_secs(20), "the wait doubles");
    peer.take(probe.stream).await;
    assert_eq!(house.report().await, accepted(sids[1], probe.stream));
    house.link(Link::Up).await;
    let asked = peer.next().await;
    peer.take(asked.stream).await;
    assert_eq!(house.report().await, accepted_after(2, sids[0], asked.stream));
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
    let sids = sids(2);
    house.send(message(sids[0], 1)).await;
    // The waits between two attempts become minutes long.
    for _ in 0..6 {
        let asked = peer.next().await;
        peer.fault(asked.stream, 403, None, &[]).await;
        house.link(Link::Down(Outage::Refused("permission_denied"))).await;
    }
    house.send(message(sids[1], 2)).await;
    let began = Instant::now();
    house.reload.send_replace(1);
    for _ in 0..2 {
        let asked = peer.next().await;
        peer.take(asked.stream).await;
        assert!(matches!(house.report().await, Report::Accepted { .. }));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(house.fetched(), 2, "with a new access token");
    house.link(Link::Up).await;
}

#[tokio::test(start_paused = true)]
async fn when_nothing_is_left_for_a_probe_the_next_message_is_one() {
    let mut house = House::open(config());
    let mut peer = house.peer(100).await;
    let sids = sids(2);
    let deadline_ms = now_ms() + 50;
    house.send(Send { deadline_ms, ..message(sids[0], 1) }).await;
    let asked = peer.next().await;
    peer.fault(asked.stream, 404, None, &[]).await;
    house.link(Link::Down(Outage::Refused("unknown_project"))).await;
    // Deadlines are in the time of the world, which no test owns.
    while now_ms() <= deadline_ms {
        std::hint::spin_loop();
    }
    let report = house.report().await;
    let held = matches!(&report, Report::Expired { sid, held: Some(word), .. } if *sid == sids[0] && word == "unknown_project");
    assert!(held, "with the word for which it was held: {report:?}");
    house.link(Link::Up).await;
    house.send(message(sids[1], 1)).await;
    let asked = peer.next().await;
    peer.take(asked.stream).await;
    assert_eq!(house.report().await, accepted(sids[1], asked.stream));
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
    house.link(Link::Probing("unknown_project")).await;
    house.send(message(sids[1], 2)).await;
    let probe = peer.next().await;
    assert_eq!(probe.mid(), sids[1].to_string());
    peer.take(probe.stream).await;
    assert_eq!(house.report().await, accepted(sids[1], probe.stream));
    // It is refused again, though others are not: it waits by itself.
    let asked = peer.next().await;
    assert_eq!(asked.mid(), sids[0].to_string());
    peer.fault(asked.stream, 404, None, &[]).await;
    let report = house.report().await;
    let expected = (sids[0], Refusal::Backoff(Duration::from_secs(10)), "INTERNAL_SERVER_ERROR", Arrival::No);
    assert_eq!(refusal(&report), expected);
    assert_eq!(*house.port.link.borrow(), Link::Up);
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
