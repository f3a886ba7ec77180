//! Sessions that outlive their connection.

use fcm_mqtt_bridge::mqtt::Outcome;

use super::peer::{Connect, PUBACK, Peer, V5, V311};
use super::world::{World, outcome};

const INBOX: &str = "bal1/others/messages";

/// A client whose session outlives its connection, in either version.
async fn lasting(world: &World, version: u8, client: &str) -> (Peer, bool) {
    let connect = Connect { client, version, clean: false, expiry: 3600, ..Connect::default() };
    Peer::connect(world, connect).await
}

/// Most messages on their way to one client (`BrokerLimits::inflight`).
const INFLIGHT: usize = 64;

#[tokio::test]
async fn a_resumed_session_gets_everything_once_and_in_order() {
    for version in [V311, V5] {
        let mut world = World::open().await;
        let (mut bal, resumed) = lasting(&world, version, "bal1").await;
        assert!(!resumed);
        bal.subscribe(INBOX, 1).await;
        let mut answers = Vec::new();
        for n in 0..100 {
            answers.push(world.publish_to_reader(INBOX, &n.to_string()).await);
        }
        for n in 0..10 {
            let (payload, id, _) = bal.message().await;
            assert_eq!(payload, n.to_string());
            bal.ack(PUBACK, id).await;
            assert_eq!(outcome(answers.remove(0)).await, Outcome::Confirmed);
        }
        // Some that arrive unacknowledged, the rest still in the broker.
        for n in 10..20 {
            assert_eq!(bal.message().await.0, n.to_string());
        }
        drop(bal);
        // What had left for the client waits for it; the rest is given back to the bridge.
        let unsent = answers.split_off(INFLIGHT);
        for answer in unsent {
            assert_eq!(outcome(answer).await, Outcome::Unsent);
        }
        assert_eq!(outcome(world.publish(INBOX, "100").await).await, Outcome::NoReader);

        let (mut bal, resumed) = lasting(&world, version, "bal1").await;
        assert!(resumed);
        for n in 10..10 + INFLIGHT {
            let (payload, id, dup) = bal.message().await;
            assert_eq!((payload, dup), (n.to_string(), true));
            bal.ack(PUBACK, id).await;
            assert_eq!(outcome(answers.remove(0)).await, Outcome::Confirmed);
        }
        bal.quiet().await;
        for n in 10 + INFLIGHT..100 {
            let answer = world.publish_to_reader(INBOX, &n.to_string()).await;
            let (payload, id, dup) = bal.message().await;
            assert_eq!((payload, dup), (n.to_string(), false));
            bal.ack(PUBACK, id).await;
            assert_eq!(outcome(answer).await, Outcome::Confirmed);
        }
        bal.quiet().await;
        world.close().await;
    }
}

#[tokio::test]
async fn a_taken_over_session_is_served_on_marked_as_duplicate() {
    let mut world = World::open().await;
    let (mut old, _) = Peer::lasting(&world, "bal1").await;
    old.subscribe(INBOX, 1).await;
    let mut answers = Vec::new();
    for n in 0..100 {
        answers.push(world.publish_to_reader(INBOX, &n.to_string()).await);
    }
    for n in 0..64 {
        assert_eq!(old.message().await.0, n.to_string());
    }
    let (mut new, resumed) = Peer::lasting(&world, "bal1").await;
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
    world.close().await;
}

#[tokio::test]
async fn a_clean_start_ends_the_old_session_and_loses_what_it_held() {
    let mut world = World::open().await;
    let (mut old, _) = Peer::lasting(&world, "bal1").await;
    old.subscribe(INBOX, 1).await;
    let answer = world.publish_to_reader(INBOX, "x").await;
    old.message().await;
    let mut new = Peer::new(&world, "bal1").await;
    assert_eq!(outcome(answer).await, Outcome::Lost);
    assert_eq!(outcome(world.publish(INBOX, "x").await).await, Outcome::NoReader);
    new.quiet().await;
    world.close().await;
}

#[tokio::test]
async fn a_session_that_is_away_gets_its_copy_when_another_reader_confirmed() {
    let mut world = World::open().await;
    let (mut laptop, _) = Peer::lasting(&world, "alice:laptop").await;
    laptop.subscribe("alice/others/+", 1).await;
    laptop.disconnect().await;
    let mut phone = Peer::new(&world, "alice:phone").await;
    phone.subscribe("alice/others/+", 1).await;
    let answer = world.publish_to_reader("alice/others/messages", "hello").await;
    let (_, id, _) = phone.message().await;
    phone.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);

    // The next one is lost by the phone; the laptop must not get it from the broker as well.
    let answer = world.publish_to_reader("alice/others/messages", "lost").await;
    phone.message().await;
    drop(phone);
    assert_eq!(outcome(answer).await, Outcome::Lost);

    let (mut laptop, resumed) = Peer::lasting(&world, "alice:laptop").await;
    assert!(resumed);
    assert_eq!(laptop.message().await.0, "hello");
    laptop.quiet().await;
    let again = world.publish_to_reader("alice/others/messages", "lost").await;
    let (payload, id, dup) = laptop.message().await;
    assert_eq!((payload.as_str(), dup), ("lost", false));
    laptop.ack(PUBACK, id).await;
    assert_eq!(outcome(again).await, Outcome::Confirmed);
    world.close().await;
}

#[tokio::test]
async fn a_session_that_returns_in_time_confirms_for_the_one_that_went() {
    let mut world = World::open().await;
    let (mut laptop, _) = Peer::lasting(&world, "alice:laptop").await;
    laptop.subscribe("alice/others/+", 1).await;
    laptop.disconnect().await;
    let mut phone = Peer::new(&world, "alice:phone").await;
    phone.subscribe("alice/others/+", 1).await;
    let answer = world.publish_to_reader("alice/others/messages", "hello").await;
    phone.message().await;
    let (mut laptop, _) = Peer::lasting(&world, "alice:laptop").await;
    let (payload, id, _) = laptop.message().await;
    assert_eq!(payload, "hello");
    phone.disconnect().await;
    laptop.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    world.close().await;
}

#[tokio::test]
async fn an_unsubscribed_topic_has_no_reader() {
    let mut world = World::open().await;
    let mut bal = Peer::new(&world, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    let answer = world.publish_to_reader(INBOX, "x").await;
    let (_, id, _) = bal.message().await;
    bal.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    bal.unsubscribe(INBOX).await;
    bal.quiet().await;
    assert_eq!(outcome(world.publish(INBOX, "y").await).await, Outcome::NoReader);
    world.close().await;
}

#[tokio::test]
async fn the_connected_clients_are_counted() {
    let mut world = World::open().await;
    let (bal, _) = lasting(&world, V5, "bal1").await;
    let other = Peer::new(&world, "other").await;
    world.port.clients.wait_for(|clients| *clients == Some(2)).await.unwrap();
    drop(bal);
    world.port.clients.wait_for(|clients| *clients == Some(1)).await.unwrap();
    let (bal, _) = lasting(&world, V5, "bal1").await;
    let (again, _) = lasting(&world, V5, "bal1").await;
    world.port.clients.wait_for(|clients| *clients == Some(2)).await.unwrap();
    other.disconnect().await;
    world.port.clients.wait_for(|clients| *clients == Some(1)).await.unwrap();
    drop((bal, again));
    world.close().await;
}
