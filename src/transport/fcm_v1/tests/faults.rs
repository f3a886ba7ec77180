//! Faults of the project, and faults that only look like one.

use super::peer::Last;
use super::*;

const DENIED: &str = "permission_denied";

/// Why a message went back untried.
async fn back(harness: &mut Harness) -> (Sid, String) {
    let (sid, refusal) = harness.back().await;
    (sid, refusal.map_or_else(String::new, |refusal| refusal.code))
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_ours_stops_everything_costs_nothing_and_ends_by_itself() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sids = sids(3);
    harness.send(message(sids[0], 1)).await;
    let asked = peer.next().await;
    peer.fault(asked.stream, 403, None, &[]).await;
    harness.link(Link::Down(DENIED)).await;
    assert_eq!(back(&mut harness).await, (sids[0], DENIED.to_owned()));
    let began = Instant::now();
    harness.send(message(sids[1], 2)).await;
    assert_eq!(harness.back().await, (sids[1], None), "the disk is the queue");
    harness.link(Link::Probing(DENIED)).await;
    assert_eq!(began.elapsed().as_secs(), 10);
    // Another would rather be asked, but there is none.
    harness.send(message(sids[0], 1)).await;
    assert_eq!(
        harness.report().await,
        Report::Back {
            sid: sids[0],
            fate: Fate::Deferred { wait: SECOND, why: "another message is to find out whether any is taken".into() },
            copies: 0,
            replays: 0
        }
    );
    tokio::time::sleep(SECOND).await;
    harness.send(message(sids[0], 1)).await;
    let probe = peer.next().await;
    harness.link(Link::Down(DENIED)).await;
    peer.fault(probe.stream, 403, None, &[]).await;
    assert_eq!(back(&mut harness).await, (sids[0], DENIED.to_owned()));
    let began = Instant::now();
    harness.link(Link::Probing(DENIED)).await;
    assert_eq!(began.elapsed().as_secs(), 20, "the wait doubles");
    harness.send(message(sids[1], 2)).await;
    let probe = peer.next().await;
    peer.take(probe.stream).await;
    assert_eq!(harness.report().await, accepted(sids[1], probe.stream));
    harness.link(Link::Up).await;
    harness.send(message(sids[0], 1)).await;
    let asked = peer.next().await;
    peer.take(asked.stream).await;
    assert_eq!(harness.report().await, accepted(sids[0], asked.stream));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_forbids_is_no_word_of_fcm_about_the_key() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    harness.send(message(sids(1)[0], 1)).await;
    let asked = peer.next().await;
    let html = [("content-type", "text/html; charset=UTF-8")];
    peer.head(asked.stream, Some("403"), &html, Last::No).await;
    peer.data(asked.stream, b"<html><title>Blocked by policy</title>", Last::Yes).await;
    harness.link(Link::Down("not_fcm")).await;
}

#[tokio::test(start_paused = true)]
async fn with_credentials_that_were_read_again_what_waited_goes_at_once() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sids = sids(8);
    // The waits between two attempts become minutes long.
    for sid in &sids[..6] {
        harness.send(message(*sid, 1)).await;
        let asked = peer.next().await;
        peer.fault(asked.stream, 403, None, &[]).await;
        assert_eq!(back(&mut harness).await, (*sid, DENIED.to_owned()));
        if *sid != sids[5] {
            harness.link(Link::Probing(DENIED)).await;
        }
    }
    let began = Instant::now();
    harness.reload.send_replace(1);
    harness.link(Link::Probing(DENIED)).await;
    for sid in &sids[6..] {
        harness.send(message(*sid, 2)).await;
        let asked = peer.next().await;
        peer.take(asked.stream).await;
        assert_eq!(harness.report().await, accepted(*sid, asked.stream));
    }
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!(harness.fetched(), 2, "with a new access token");
    harness.link(Link::Up).await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_only_one_message_meets_stops_nobody_else() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sids = sids(3);
    harness.send(message(sids[0], 1)).await;
    let asked = peer.next().await;
    peer.fault(asked.stream, 404, None, &[]).await;
    assert_eq!(back(&mut harness).await, (sids[0], "unknown_project".to_owned()));
    harness.link(Link::Probing("unknown_project")).await;
    let trouble = harness.port.snapshot.borrow().trouble.clone().unwrap();
    assert!(trouble.words.contains("the project is `p`, by `fcm.project_id`"), "{}", trouble.words);
    harness.send(message(sids[0], 1)).await;
    assert!(
        matches!(harness.report().await, Report::Back { sid, fate: Fate::Deferred { .. }, .. } if sid == sids[0]),
        "another is the probe"
    );
    harness.send(message(sids[1], 2)).await;
    let probe = peer.next().await;
    assert_eq!(probe.mid(), sids[1].to_string());
    peer.take(probe.stream).await;
    assert_eq!(harness.report().await, accepted(sids[1], probe.stream));
    // It is refused again, though others are not: it waits by itself, and stops nobody from then on.
    for _ in 0..2 {
        harness.send(message(sids[0], 1)).await;
        let asked = peer.next().await;
        peer.fault(asked.stream, 404, None, &[]).await;
        let report = harness.report().await;
        let expected = (sids[0], backoff(10), "INTERNAL_SERVER_ERROR", Arrival::No);
        assert_eq!(refusal(&report), expected);
        assert_eq!(*harness.port.link.borrow(), Link::Up);
    }
    harness.send(message(sids[2], 3)).await;
    let asked = peer.next().await;
    peer.take(asked.stream).await;
    assert_eq!(harness.report().await, accepted(sids[2], asked.stream));
}

#[tokio::test(start_paused = true)]
async fn among_answers_that_show_the_project_in_order_one_fault_stops_nobody() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sids = sids(2);
    harness.send(message(sids[0], 1)).await;
    harness.send(message(sids[1], 2)).await;
    let [faulty, good] = [peer.next().await, peer.next().await];
    peer.take(good.stream).await;
    assert_eq!(harness.report().await, accepted(sids[1], good.stream));
    peer.fault(faulty.stream, 403, None, &[]).await;
    assert_eq!(refusal(&harness.report().await).1, backoff(10));
    assert_eq!(*harness.port.link.borrow(), Link::Up);
}
