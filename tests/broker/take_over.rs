//! A connection takes over the session of another one with the same client id: the old one ends wholly, its will done,
//! before the new one is let in.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fcm_mqtt_bridge::broker::BrokerLimits;
use tokio::net::TcpStream;
use tokio::sync::{Barrier, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::harness::{Harness, soon};
use super::peer::{Connect, PUBACK, Peer, Seen, V5, V311};

/// Connects at once with one client id.
const CONNECTS: usize = 1_000;
const TAKEN_OVER: u8 = 0x8e;
/// A slow machine does not come to all of them in the time that a log-in may take.
const BUSY: u8 = 0x89;
const WILLS: &str = "wills/one";

/// A client with a will on [`WILLS`], sent after `delay` seconds.
fn with_will(payload: &str, delay: u32) -> Connect<'_> {
    let will = Some((WILLS, payload, delay));
    Connect { client: "one", clean: false, expiry: 3600, will, ..Connect::default() }
}

/// A client who reads all wills.
async fn observer(harness: &Harness) -> Peer {
    let mut observer = Peer::new(harness, "observer").await;
    observer.subscribe("wills/#", 1).await;
    observer
}

/// The next message of somebody who acknowledges.
async fn take(peer: &mut Peer) -> String {
    let (payload, id, dup) = peer.message().await;
    assert!(!dup, "{payload} came before");
    peer.ack(PUBACK, id).await;
    payload
}

async fn say(peer: &mut Peer, topic: &str, payload: &str) {
    peer.publish(topic, 1, payload).await;
    assert!(matches!(peer.next().await, Seen::Ack(PUBACK, 1, code) if code < 0x80));
}

/// All that one of them saw, until it was ended, or until `end` and a PING after it.
async fn one_of_many(address: SocketAddr, n: usize, start: Arc<Barrier>, end: CancellationToken) -> Vec<Seen> {
    let mut peer = Peer::over(TcpStream::connect(address).await.unwrap(), V5);
    start.wait().await;
    peer.say_connect(&with_will(&n.to_string(), 0)).await;
    let (mut seen, mut asked) = (Vec::new(), false);
    while !matches!(seen.last(), Some(Seen::Closed | Seen::Pong)) {
        tokio::select! {
            packet = peer.next_in_its_time() => seen.push(packet),
            () = end.cancelled(), if !asked => {
                peer.ping().await;
                asked = true;
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_connects_with_one_id_at_once_one_lives_and_all_others_are_told() {
    let limits = BrokerLimits { connections_per_user: 2 * CONNECTS, ..BrokerLimits::default() };
    let harness = Harness::with(limits).await;
    let mut observer = observer(&harness).await;
    let (start, end) = (Arc::new(Barrier::new(CONNECTS)), CancellationToken::new());
    let (ended, mut ends) = mpsc::channel(CONNECTS);
    let mut connects = JoinSet::new();
    for n in 0..CONNECTS {
        let (one, ended) = (one_of_many(harness.address, n, start.clone(), end.clone()), ended.clone());
        connects.spawn(async move { ended.send((n, one.await)).await.unwrap() });
    }
    let (mut wills, mut refused) = (BTreeSet::new(), 0);
    for _ in 1..CONNECTS {
        let (n, seen) = ends.recv().await.unwrap();
        if matches!(seen[..], [Seen::ConnAck { code: BUSY, .. }, Seen::Closed]) {
            refused += 1;
            continue;
        }
        assert!(matches!(seen.first(), Some(Seen::ConnAck { code: 0, .. })), "{n}: {seen:?}");
        assert_eq!(seen[1..], [Seen::Disconnect(TAKEN_OVER), Seen::Closed], "{n}");
        let will: usize = take(&mut observer).await.parse().unwrap();
        assert!(wills.insert(will), "the will of {will} came twice");
    }
    end.cancel();
    let (last, seen) = soon("the one that lives", ends.recv()).await.unwrap();
    assert!(matches!(seen[..], [Seen::ConnAck { code: 0, .. }, Seen::Pong]), "{seen:?}");
    assert!(!wills.contains(&last) && wills.len() + refused == CONNECTS - 1);
    // Then it goes without a word as well.
    assert_eq!(take(&mut observer).await, last.to_string());
    observer.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn the_will_of_a_taken_over_connection_comes_once_and_before_the_connack_of_its_successor() {
    for (version, clean) in [(V5, false), (V5, true), (V311, false), (V311, true)] {
        let harness = Harness::open().await;
        let mut observer = observer(&harness).await;
        let mut before: Option<Peer> = None;
        for n in 0..100 {
            let will = format!("end {n}");
            let expiry = if clean { 0 } else { 3600 };
            let connect = Connect { version, clean, expiry, ..with_will(&will, 0) };
            let (mut peer, resumed) = Peer::connect(&harness, connect).await;
            assert_eq!(resumed, n > 0 && !clean);
            // Said after the CONNACK: a will that was published before it is in front.
            say(&mut peer, WILLS, &format!("begin {n}")).await;
            if let Some(mut before) = before.replace(peer) {
                if version == V5 {
                    assert_eq!(before.next().await, Seen::Disconnect(TAKEN_OVER));
                }
                assert_eq!(before.next().await, Seen::Closed);
                assert_eq!(take(&mut observer).await, format!("end {}", n - 1));
            }
            assert_eq!(take(&mut observer).await, format!("begin {n}"));
        }
        observer.quiet().await;
        harness.close().await;
    }
}

#[tokio::test]
async fn a_delayed_will_is_cancelled_by_the_return_of_its_session_and_sent_without_it() {
    let harness = Harness::open().await;
    let mut observer = observer(&harness).await;
    let began = Instant::now();
    let (cut, _) = Peer::connect(&harness, with_will("cancelled by a return", 1)).await;
    let other = Connect { client: "two", ..with_will("cancelled by a take-over", 1) };
    let (mut taken_over, _) = Peer::connect(&harness, other).await;
    drop(cut);
    let (_one, resumed) = Peer::connect(&harness, Connect { will: None, ..with_will("", 0) }).await;
    assert!(resumed);
    let (_two, resumed) = Peer::connect(&harness, Connect { client: "two", will: None, ..with_will("", 0) }).await;
    assert!(resumed);
    assert_eq!(taken_over.next().await, Seen::Disconnect(TAKEN_OVER));
    // Later than those would have been.
    drop(Peer::connect(&harness, Connect { client: "three", ..with_will("nobody returned", 2) }).await);
    assert_eq!(take(&mut observer).await, "nobody returned");
    assert!(began.elapsed() >= Duration::from_secs(2));
    observer.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_delayed_will_is_sent_when_its_session_ends_before_the_delay() {
    let harness = Harness::open().await;
    let mut observer = observer(&harness).await;
    // A clean start ends the session, whether it is away or connected.
    drop(Peer::connect(&harness, with_will("away", 3600)).await);
    let clean = |payload| Connect { clean: true, ..with_will(payload, 3600) };
    let (mut first, resumed) = Peer::connect(&harness, clean("taken over")).await;
    assert!(!resumed);
    say(&mut first, WILLS, "begin").await;
    let (mut second, resumed) = Peer::connect(&harness, clean("expired")).await;
    assert!(!resumed);
    say(&mut second, WILLS, "begin again").await;
    for expected in ["away", "begin", "taken over", "begin again"] {
        assert_eq!(take(&mut observer).await, expected);
    }
    // Disconnect with will message, and a session expiry of one second.
    second.say(0xe0, &[4, 5, 0x11, 0, 0, 0, 1]).await;
    assert_eq!(take(&mut observer).await, "expired");
    observer.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_will_is_dropped_by_an_orderly_end_and_sent_on_request() {
    let harness = Harness::open().await;
    let mut observer = observer(&harness).await;
    let (orderly, _) = Peer::connect(&harness, with_will("dropped", 0)).await;
    orderly.disconnect().await;
    let (mut wished, _) = Peer::connect(&harness, with_will("wished", 0)).await;
    // Disconnect with will message (MQTT 5, 3.14.2.1).
    wished.say(0xe0, &[4]).await;
    assert_eq!(wished.next().await, Seen::Closed);
    assert_eq!(take(&mut observer).await, "wished");
    observer.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_clean_start_takes_over_and_finds_nothing_of_the_session_before() {
    for version in [V311, V5] {
        let harness = Harness::open().await;
        let lasting = Connect { client: "one", version, clean: false, expiry: 3600, ..Connect::default() };
        let (mut old, _) = Peer::connect(&harness, lasting).await;
        old.subscribe("chat/x", 1).await;
        let mut other = Peer::new(&harness, "other").await;
        say(&mut other, "chat/x", "in flight").await;
        assert_eq!(old.message().await.0, "in flight");
        let (mut new, resumed) =
            Peer::connect(&harness, Connect { client: "one", version, ..Connect::default() }).await;
        assert!(!resumed);
        if version == V5 {
            assert_eq!(old.next().await, Seen::Disconnect(TAKEN_OVER));
        }
        assert_eq!(old.next().await, Seen::Closed);
        say(&mut other, "chat/x", "nobody reads this").await;
        new.quiet().await;
        new.subscribe("chat/x", 1).await;
        say(&mut other, "chat/x", "read").await;
        assert_eq!(take(&mut new).await, "read");
        harness.close().await;
    }
}
