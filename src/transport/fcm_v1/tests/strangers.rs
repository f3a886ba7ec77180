//! Servers that speak HTTP/2 and are not quite FCM. None of them costs a message, and none is asked in a tight loop.

use super::harness::{Harness, config, message, sids, soon};
use super::peer::{CANCEL, INITIAL_WINDOW_SIZE, Last, MAX_CONCURRENT_STREAMS, NO_ERROR, Peer};
use super::{FEW, SECOND, accepted, backoff, mids, quiet, refusal, retry_after};
use crate::chat::delivery::Fate;
use crate::chat::id::Sid;
use crate::chat::refusal::{Arrival, Decision, Refusal, Scope};
use crate::transport::fcm_v1::{FcmConfig, OnAmbiguous, Timing};
use crate::transport::{Link, Report};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::Instant;

const JSON: (&str, &str) = ("content-type", "application/json");
const HTML: (&str, &str) = ("content-type", "text/html");
const UNREGISTERED: &[u8] = br#"{"error":{"code":404,"details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"UNREGISTERED"}]}}"#;

/// A message that was asked about on a new connection.
async fn asked(harness: &mut Harness) -> (Peer, Sid, u32) {
    let mut peer = harness.peer(100).await;
    let sid = sids(1)[0];
    harness.send(message(sid, 1)).await;
    let asked = peer.next().await;
    (peer, sid, asked.stream)
}

/// The report, while the peer goes on reading.
async fn report(harness: &mut Harness, peer: &mut Peer) -> Report {
    let reading = async {
        while peer.asked().await.is_some() {}
        std::future::pending().await
    };
    tokio::select! {
        report = harness.report() => report,
        () = reading => unreachable!("it reads to the end, and then waits"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_come_in_pieces_with_words_before_and_after() {
    let mut harness = Harness::open(config());
    let (mut peer, sid, stream) = asked(&mut harness).await;
    peer.head(stream, Some("103"), &[("link", "</x>")], Last::No).await;
    peer.head(stream, Some("100"), &[], Last::No).await;
    peer.head(stream, Some("404"), &[JSON], Last::No).await;
    for byte in UNREGISTERED {
        peer.data(stream, &[*byte], Last::No).await;
    }
    peer.head(stream, None, &[("grpc-status", "5")], Last::Yes).await;
    let report = report(&mut harness, &mut peer).await;
    assert_eq!(refusal(&report), (sid, Decision::REMOVE_TOKEN, "DEVICE_UNREGISTERED", Arrival::No));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_body_is_one() {
    let mut harness = Harness::open(config());
    let (mut peer, sid, stream) = asked(&mut harness).await;
    peer.head(stream, Some("503"), &[("retry-after", "33")], Last::Yes).await;
    let report = report(&mut harness, &mut peer).await;
    let expected = retry_after(33, Scope::Message);
    assert_eq!(refusal(&report), (sid, expected, "SERVICE_UNAVAILABLE", Arrival::Maybe));
}

/// How an answer ends before it is complete.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    /// Nothing more comes.
    Stalls,
    /// The stream is reset.
    Breaks,
}

/// What is reported of a message whose answer was cut after this much of it.
async fn cut(config: FcmConfig, cut: Cut, status: &str, headers: &[(&str, &str)], body: &[u8]) -> (Sid, Report) {
    let mut harness = Harness::open(config);
    let (mut peer, sid, stream) = asked(&mut harness).await;
    peer.head(stream, Some(status), headers, Last::No).await;
    if !body.is_empty() {
        peer.data(stream, body, Last::No).await;
    }
    if cut == Cut::Breaks {
        peer.reset(stream, CANCEL).await;
    }
    let began = Instant::now();
    let report = report(&mut harness, &mut peer).await;
    let waited = if cut == Cut::Stalls { Timing::default().request } else { Duration::ZERO };
    assert_eq!(began.elapsed(), waited, "{status} {cut:?}");
    (sid, report)
}

#[tokio::test(start_paused = true)]
async fn taken_is_taken_though_the_rest_of_the_answer_never_comes() {
    for (headers, body) in [
        (&[JSON][..], &b"{\"name\": \"proj"[..]),
        (&[JSON], b""),
        (&[], b"{\"name\": \"proj"),
        (&[], b""),
        (&[HTML], b""),
    ] {
        for end in [Cut::Stalls, Cut::Breaks] {
            let (sid, report) = cut(config(), end, "200", headers, body).await;
            let fate = Fate::Accepted { canonical: None, provider_id: None, detail: None, can_confirm: false };
            let expected = Report::Back { sid, fate, copies: 1, replays: 0 };
            assert_eq!(report, expected, "{headers:?} {end:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_refusal_is_judged_by_its_status_and_what_came_of_it() {
    use Arrival::{Maybe, No};
    let (of_device, of_fcm) = (retry_after(90, Scope::Recipient), retry_after(33, Scope::Message));
    for (status, headers, body, expected) in [
        ("404", &[JSON][..], &UNREGISTERED[..30], (FEW, "INTERNAL_SERVER_ERROR", No)),
        ("403", &[JSON], b"", (FEW, "INTERNAL_SERVER_ERROR", No)),
        // All of it but its end.
        ("404", &[JSON], UNREGISTERED, (Decision::REMOVE_TOKEN, "DEVICE_UNREGISTERED", No)),
        ("413", &[HTML], b"<html>", (Decision::FAIL, "TOO_BIG", No)),
        ("429", &[JSON, ("retry-after", "90")], b"{\"error\":", (of_device, "QUOTA_EXCEEDED", No)),
        ("503", &[JSON, ("retry-after", "33")], b"{\"error\":", (of_fcm, "SERVICE_UNAVAILABLE", Maybe)),
        ("500", &[], b"", (backoff(10), "INTERNAL_SERVER_ERROR", Maybe)),
    ] {
        for end in [Cut::Stalls, Cut::Breaks] {
            let (sid, report) = cut(config(), end, status, headers, body).await;
            let (which, refusal, code, arrival) = refusal(&report);
            assert_eq!((which, (refusal, code, arrival)), (sid, expected), "{status} {end:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_that_speaks_of_an_error_is_in_doubt_and_stops_nobody() {
    for (on_ambiguous, expected) in [
        (OnAmbiguous::Retry, (backoff(10), "AMBIGUOUS", Arrival::Maybe)),
        (OnAmbiguous::Report, (Decision::FAIL, "AMBIGUOUS", Arrival::Maybe)),
    ] {
        let mut harness = Harness::open(FcmConfig { on_ambiguous, ..config() });
        let (mut peer, sid, stream) = asked(&mut harness).await;
        peer.head(stream, Some("200"), &[JSON], Last::No).await;
        peer.data(stream, UNREGISTERED, Last::Yes).await;
        let report = report(&mut harness, &mut peer).await;
        let (which, refusal, code, arrival) = refusal(&report);
        assert_eq!((which, (refusal, code, arrival)), (sid, expected));
        assert_eq!(*harness.port.link.borrow(), Link::Up);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_of_somebody_else_takes_nothing_and_loses_nothing() {
    for (status, headers, body) in [
        ("302", vec![("location", "https://example.com/")], &b""[..]),
        ("200", vec![HTML], b"<html><title>Sign in to the WLAN</title>"),
        ("200", vec![], b"OK"),
        ("200", vec![JSON], br#"{"error":"upstream timed out"}"#),
    ] {
        let mut harness = Harness::open(config());
        let (mut peer, sid, stream) = asked(&mut harness).await;
        peer.head(stream, Some(status), &headers, Last::No).await;
        peer.data(stream, body, Last::Yes).await;
        harness.link(Link::Down("not_fcm")).await;
        let began = Instant::now();
        let (which, refusal) = harness.back().await;
        let refusal = refusal.unwrap();
        // What may be on its device is marked on disk before it goes again.
        let arrival = if status == "200" { Arrival::Maybe } else { Arrival::No };
        assert_eq!((which, &*refusal.code, refusal.arrival), (sid, "not_fcm", arrival));
        harness.link(Link::Probing("not_fcm")).await;
        tokio::time::sleep(SECOND).await;
        harness.send(message(sid, 1)).await;
        let probe = peer.next().await;
        assert!(began.elapsed() >= 10 * SECOND && probe.mid() == sid.to_string());
        peer.take(probe.stream).await;
        assert!(
            matches!(harness.report().await, Report::Back { sid: which, fate: Fate::Accepted { .. }, .. } if which == sid)
        );
        harness.link(Link::Up).await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_an_answer_without_end_only_the_beginning_is_read() {
    let mut harness = Harness::open(config());
    let stream = soon(harness.dialled.recv()).await.unwrap();
    let sids = sids(2);
    harness.send(message(sids[0], 1)).await;
    harness.send(message(sids[1], 2)).await;
    let mut server = h2::server::handshake(stream).await.unwrap();
    let (_, mut endless) = soon(server.accept()).await.unwrap().unwrap();
    let (_, mut short) = soon(server.accept()).await.unwrap().unwrap();
    let head = http::Response::builder().status(503).body(()).unwrap();
    let mut body = endless.send_response(head, false).unwrap();
    body.send_data(Bytes::from(vec![b'x'; 4 << 20]), false).unwrap();
    let head = http::Response::builder().status(200).header("content-type", "application/json").body(()).unwrap();
    let serve = async { while soon(server.accept()).await.is_some() {} };
    let work = async {
        let report = harness.report().await;
        let expected = (sids[0], backoff(10), "SERVICE_UNAVAILABLE", Arrival::Maybe);
        assert_eq!(refusal(&report), expected);
        // What was left unread takes no room on the connection.
        let mut body = short.send_response(head, false).unwrap();
        body.send_data(Bytes::from(vec![b' '; 60_000]), false).unwrap();
        body.send_data(Bytes::from_static(br#"{"name":"projects/p/messages/1"}"#), true).unwrap();
        assert_eq!(harness.report().await, accepted(sids[1], 1));
    };
    tokio::select! {
        () = work => {}
        () = serve => panic!("the connection was given up"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_without_end_is_no_answer() {
    let mut harness = Harness::open(config());
    let (mut peer, sid, stream) = asked(&mut harness).await;
    let long = "x".repeat(15_000);
    peer.head(stream, Some("200"), &[JSON, ("a", &long)], Last::No).await;
    peer.data(stream, b"{\"name\":\"projects/p/messages/1\"}", Last::Yes).await;
    assert_eq!(report(&mut harness, &mut peer).await, accepted(sid, 1));
    let (other, token) = (sids(1)[0], 2);
    harness.send(message(other, token)).await;
    let stream = peer.next().await.stream;
    // In one frame, by a name that stands for it: a kilobyte on the wire, and a hundred in memory.
    let mut bomb = vec![8, 3, b'2', b'0', b'0', 0x40, 1, b'a', 127, 0xa9, 0x07];
    bomb.extend([b'x'; 1_064]);
    bomb.extend([0xbe; 100]);
    peer.raw_head(stream, &bomb).await;
    let report = report(&mut harness, &mut peer).await;
    assert!(
        matches!(report, Report::Back { fate: Fate::Refused(Refusal { arrival: Arrival::Maybe, .. }), .. }),
        "{report:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn settings_that_shrink_in_mid_connection_are_kept() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sids = sids(6);
    harness.send(message(sids[0], 0)).await;
    let first = peer.next().await;
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await;
    quiet(&mut peer).await;
    for (recipient, sid) in (1..).zip(&sids[1..4]) {
        harness.send(message(*sid, recipient)).await;
    }
    quiet(&mut peer).await;
    let mut stream = first.stream;
    for sid in &sids[1..4] {
        peer.take(stream).await;
        harness.report().await;
        let asked = peer.next().await;
        assert_eq!(asked.mid(), sid.to_string());
        quiet(&mut peer).await;
        stream = asked.stream;
    }
    // None at all: what is open is still answered, and no message goes.
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
    peer.take(stream).await;
    harness.report().await;
    harness.link(Link::UNCONNECTED).await;
    harness.send(message(sids[4], 9)).await;
    quiet(&mut peer).await;
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 2)]).await;
    assert_eq!(mids(&mut peer, 1).await, [sids[4].to_string()]);
    harness.link(Link::Up).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_streams_is_not_dialled_in_a_tight_loop() {
    let mut harness = Harness::open(FcmConfig { connections: 3, ..config() });
    let mut peers = vec![harness.peer(0).await];
    harness.send(message(sids(1)[0], 1)).await;
    let began = Instant::now();
    while let Ok(Some(stream)) = tokio::time::timeout(60 * SECOND, harness.dialled.recv()).await {
        peers.push(Peer::accept(stream, 0).await);
        assert!(peers.len() <= 3 || began.elapsed() > 60 * SECOND, "{} connections", peers.len());
        if began.elapsed() > 600 * SECOND {
            break;
        }
    }
    // Three at a time, of which the spare ones live for a minute, even if none of the waits between them is drawn long.
    assert!(peers.len() < 30, "{} connections in ten minutes", peers.len());
    assert_eq!(*harness.port.link.borrow(), Link::UNCONNECTED);
}

#[tokio::test(start_paused = true)]
async fn a_window_that_stays_shut_costs_a_connection_and_no_message() {
    let mut harness = Harness::open(config());
    let stream = soon(harness.dialled.recv()).await.unwrap();
    let mut peer = Peer::greet(stream).await;
    peer.settings(&[(MAX_CONCURRENT_STREAMS, 100), (INITIAL_WINDOW_SIZE, 0)]).await;
    let sids = sids(5);
    for (recipient, sid) in (1..).zip(&sids) {
        harness.send(message(*sid, recipient)).await;
    }
    for sid in &sids {
        let report = report(&mut harness, &mut peer).await;
        assert_eq!(refusal(&report).0, *sid);
        assert_eq!(refusal(&report).1, backoff(10));
    }
    // It answers pings and nothing else: another one is opened.
    let mut next = harness.peer(100).await;
    soon(async { while peer.asked().await.is_some() {} }).await;
    harness.send(message(sids[0], 1)).await;
    let asked = next.next().await;
    next.take(asked.stream).await;
    assert_eq!(harness.report().await, accepted(sids[0], asked.stream));
}

#[tokio::test(start_paused = true)]
async fn settings_that_never_come_are_waited_for_and_then_dialled_anew() {
    let mut harness = Harness::open(config());
    let began = Instant::now();
    let mut mute = Vec::new();
    for _ in 0..6 {
        let stream = soon(harness.dialled.recv()).await.unwrap();
        mute.push(Peer::greet(stream).await);
    }
    let elapsed = began.elapsed();
    assert!(elapsed >= 5 * Timing::default().request && elapsed < 300 * SECOND, "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_goodbye_at_once_is_dialled_ever_more_slowly() {
    let mut harness = Harness::open(config());
    harness.send(message(sids(1)[0], 1)).await;
    let (began, mut peers) = (Instant::now(), Vec::new());
    for _ in 0..12 {
        let stream = soon(harness.dialled.recv()).await.unwrap();
        let mut peer = Peer::accept(stream, 100).await;
        peer.go_away(0, NO_ERROR).await;
        // And it does not close.
        peers.push(peer);
    }
    assert!(began.elapsed() > 20 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_keeps_nobody_from_work() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sids = sids(20);
    for (recipient, sid) in (1..).zip(&sids) {
        harness.send(message(*sid, recipient)).await;
        for _ in 0..500 {
            peer.ping().await;
            peer.settings(&[]).await;
        }
        let asked = peer.next().await;
        peer.take(asked.stream).await;
        assert_eq!(harness.report().await, accepted(*sid, asked.stream));
    }
}
