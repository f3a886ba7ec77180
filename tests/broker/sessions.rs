//! Sessions that outlive their connection.

use fcm_mqtt_bridge::mqtt::Outcome;

use super::harness::{Harness, outcome};
use super::peer::{Connect, PUBACK, Peer, V5, V311};

const INBOX: &str = "bal1/others/messages";

/// A client whose session outlives its connection, in either version.
async fn lasting(harness: &Harness, version: u8, client: &str) -> (Peer, bool) {
    let connect = Connect { client, version, clean: false, expiry: 3600, ..Connect::default() };
    Peer::connect(harness, connect).await
}

/// Most messages on their way to one client (`BrokerLimits::inflight`).
const INFLIGHT: usize = 64;

#[tokio::test]
async fn a_resumed_session_gets_everything_once_and_in_order() {
    for version in [V311, V5] {
        let harness = Harness::open().await;
        let (mut bal, resumed) = lasting(&harness, version, "bal1").await;
        assert!(!resumed);
        bal.subscribe(INBOX, 1).await;
        let mut answers = Vec::new();
        for n in 0..100 {
            answers.push(harness.publish(INBOX, &n.to_string()).await);
        }
        for n in 0..10 {
            let (payload, id, _) = bal.message().await;
            assert_eq!(payload, n.to_string());
            bal.ack(PUBACK, id).await;
            assert_eq!(outcome(answers.remove(0)).await, Outcome::Confirmed);
        }
        // Some that arrive unacknowledged, some on their way, the rest not sent yet; then some that come while it is away.
        let mut ids = Vec::new();
        for n in 10..20 {
            let (payload, id, dup) = bal.message().await;
            assert_eq!((payload, dup), (n.to_string(), false));
            ids.push(id);
        }
        drop(bal);
        for n in 100..110 {
            answers.push(harness.publish(INBOX, &n.to_string()).await);
        }
        assert_eq!(harness.waits(INBOX), 100);

        let (mut bal, resumed) = lasting(&harness, version, "bal1").await;
        assert!(resumed);
        for (n, answer) in (10..110).zip(answers) {
            let (payload, id, dup) = bal.message().await;
            assert_eq!((payload, dup), (n.to_string(), n < 10 + INFLIGHT));
            if let Some(former) = ids.get(n - 10) {
                assert_eq!(id, *former, "[MQTT-4.4.0-1]");
            }
            bal.ack(PUBACK, id).await;
            assert_eq!(outcome(answer).await, Outcome::Confirmed);
        }
        bal.quiet().await;
        harness.close().await;
    }
}

#[tokio::test]
async fn a_taken_over_session_is_served_on_marked_as_duplicate() {
    let harness = Harness::open().await;
    let (mut old, _) = Peer::lasting(&harness, "bal1").await;
    old.subscribe(INBOX, 1).await;
    let mut answers = Vec::new();
    for n in 0..100 {
        answers.push(harness.publish(INBOX, &n.to_string()).await);
    }
    for n in 0..64 {
        assert_eq!(old.message().await.0, n.to_string());
    }
    let (mut new, resumed) = Peer::lasting(&harness, "bal1").await;
    assert!(resumed);
    for n in 0..100 {
        let (payload, id, dup) = new.message().await;
        assert_eq!((payload, dup), (n.to_string(), n < 64));
        new.ack(PUBACK, id).await;
    }
    for answer in answers {
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    new.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_clean_start_ends_the_old_session_and_leaves_what_it_held_to_the_next_reader() {
    let harness = Harness::open().await;
    let (mut old, _) = Peer::lasting(&harness, "bal1").await;
    old.subscribe(INBOX, 1).await;
    let answer = harness.publish(INBOX, "{}").await;
    old.message().await;
    let mut new = Peer::new(&harness, "bal1").await;
    new.quiet().await;
    assert_eq!(harness.waits(INBOX), 1);
    new.subscribe(INBOX, 1).await;
    let (payload, id, _) = new.message().await;
    assert_eq!(payload, r#"{"redelivered":true}"#);
    new.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    harness.close().await;
}

#[tokio::test]
async fn a_session_that_is_away_gets_its_copy_when_another_reader_confirmed() {
    let harness = Harness::open().await;
    let (mut laptop, _) = Peer::lasting(&harness, "alice:laptop").await;
    laptop.subscribe("alice/others/+", 1).await;
    laptop.disconnect().await;
    let mut phone = Peer::new(&harness, "alice:phone").await;
    phone.subscribe("alice/others/+", 1).await;
    let answer = harness.publish("alice/others/messages", "hello").await;
    let (_, id, _) = phone.message().await;
    phone.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);

    // The next one is lost by the phone, and so is for the laptop alone.
    let lost = harness.publish("alice/others/messages", "lost").await;
    phone.message().await;
    drop(phone);
    // It waits for the end of the one before, which is sent nothing more.
    Peer::new(&harness, "alice:phone").await.disconnect().await;
    let third = harness.publish("alice/others/messages", "third").await;

    let (mut laptop, resumed) = Peer::lasting(&harness, "alice:laptop").await;
    assert!(resumed);
    let (payload, hello, dup) = laptop.message().await;
    assert_eq!((payload.as_str(), dup), ("hello", false), "the phone has had it, this session has not");
    let (payload, id, _) = laptop.message().await;
    assert_eq!(payload, "lost");
    let (payload, last, dup) = laptop.message().await;
    assert_eq!((payload.as_str(), dup), ("third", false));
    for id in [hello, id, last] {
        laptop.ack(PUBACK, id).await;
    }
    assert_eq!(outcome(lost).await, Outcome::Confirmed);
    assert_eq!(outcome(third).await, Outcome::Confirmed);
    laptop.quiet().await;
    laptop.disconnect().await;
    let (mut laptop, resumed) = Peer::lasting(&harness, "alice:laptop").await;
    assert!(resumed);
    laptop.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_session_that_returns_in_time_confirms_for_the_one_that_went() {
    let harness = Harness::open().await;
    let (mut laptop, _) = Peer::lasting(&harness, "alice:laptop").await;
    laptop.subscribe("alice/others/+", 1).await;
    laptop.disconnect().await;
    let mut phone = Peer::new(&harness, "alice:phone").await;
    phone.subscribe("alice/others/+", 1).await;
    let answer = harness.publish("alice/others/messages", "hello").await;
    phone.message().await;
    let (mut laptop, _) = Peer::lasting(&harness, "alice:laptop").await;
    let (payload, id, _) = laptop.message().await;
    assert_eq!(payload, "hello");
    phone.disconnect().await;
    laptop.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    harness.close().await;
}

#[tokio::test]
async fn an_unsubscribed_topic_has_no_reader() {
    let harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    let answer = harness.publish(INBOX, "x").await;
    let (_, id, _) = bal.message().await;
    bal.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    bal.unsubscribe(INBOX).await;
    bal.quiet().await;
    harness.publish(INBOX, "y").await;
    harness.barrier().await;
    bal.quiet().await;
    assert_eq!(harness.waits(INBOX), 1);
    harness.close().await;
}

#[tokio::test]
async fn the_connected_clients_are_counted() {
    let mut harness = Harness::open().await;
    let (bal, _) = lasting(&harness, V5, "bal1").await;
    let other = Peer::new(&harness, "other").await;
    harness.port.clients.wait_for(|clients| *clients == Some(2)).await.unwrap();
    drop(bal);
    harness.port.clients.wait_for(|clients| *clients == Some(1)).await.unwrap();
    let (bal, _) = lasting(&harness, V5, "bal1").await;
    let (again, _) = lasting(&harness, V5, "bal1").await;
    harness.port.clients.wait_for(|clients| *clients == Some(2)).await.unwrap();
    other.disconnect().await;
    harness.port.clients.wait_for(|clients| *clients == Some(1)).await.unwrap();
    drop((bal, again));
    harness.close().await;
}
