//! What the bridge is told of those who come and go.

use std::collections::HashSet;

use fcm_mqtt_bridge::broker::BrokerConfig;
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::mqtt::ClientChange::{Broke, Came, Left};
use fcm_mqtt_bridge::mqtt::{ClientChange, Sighting};

use super::harness::{Harness, Users, config, password, soon};
use super::peer::{Connect, Peer, V5, V311};

/// A broker that knows `alice` and `bal1`.
async fn harness() -> (Harness, Users) {
    let users = Users::new(&[("alice", Role::User), ("bal1", Role::Bal)]);
    (Harness::bind(users.config()).await, users)
}

impl Harness {
    async fn sighting(&mut self) -> Sighting {
        soon("a sighting", self.port.sightings.recv()).await.expect("the broker is gone")
    }

    async fn seen(&mut self) -> (String, ClientChange) {
        let sighting = self.sighting().await;
        (sighting.client.to_string(), sighting.change)
    }
}

async fn come(harness: &Harness, client: &str, connect: Connect<'_>) -> Peer {
    let user = client.split(':').next().unwrap();
    let connect = Connect { client, user: Some(user), password: Some(&password(user)), ..connect };
    Peer::connect(harness, connect).await.0
}

#[tokio::test]
async fn a_goodbye_and_a_cut_are_told_apart() {
    for version in [V311, V5] {
        let (mut harness, _users) = harness().await;
        let version = || Connect { version, ..Connect::default() };
        let peer = come(&harness, "alice:phone", version()).await;
        let came = harness.sighting().await;
        assert_eq!((&*came.user, came.role, &*came.client, came.change), ("alice", Role::User, "alice:phone", Came));
        assert_eq!(&*came.device, "phone");
        peer.disconnect().await;
        assert_eq!(harness.sighting().await, Sighting { change: Left, ..came.clone() }, "the same connection");

        let peer = come(&harness, "alice:phone", version()).await;
        let again = harness.sighting().await;
        assert!(again.connection > came.connection, "a number of its own");
        drop(peer);
        assert_eq!(harness.sighting().await, Sighting { change: Broke, ..again });
        assert!(harness.port.sightings.try_recv().is_err());
        harness.close().await;
    }
}

#[tokio::test]
async fn only_a_disconnect_with_reason_0_is_a_goodbye() {
    let (mut harness, _users) = harness().await;
    for reason in [0x04, 0x80] {
        let mut peer = come(&harness, "alice", Connect::default()).await;
        peer.say(0xe0, &[reason]).await;
        assert_eq!([harness.seen().await.1, harness.seen().await.1], [Came, Broke], "{reason:#x}");
    }
    harness.close().await;
}

#[tokio::test]
async fn everybody_with_a_name_is_told_and_nobody_else() {
    let users = Users::new(&[("alice", Role::User), ("bal1", Role::Bal)]);
    let mut harness = Harness::bind(BrokerConfig { users_file: Some(users.path()), ..config() }).await;
    Peer::new(&harness, "somebody").await.disconnect().await;
    drop(Peer::new(&harness, "somebody").await);
    let _bal = come(&harness, "bal1", Connect::default()).await;
    let first = harness.sighting().await;
    assert_eq!((&*first.user, first.role, first.change), ("bal1", Role::Bal, Came), "nothing before it");
    let refused = Connect { client: "alice", user: Some("alice"), password: Some("wrong"), ..Connect::default() };
    assert_ne!(Peer::try_connect(&harness, refused).await.1, 0);
    let _alice = come(&harness, "alice", Connect::default()).await;
    assert_eq!(harness.seen().await, ("alice".to_owned(), Came), "nothing of who was sent away");
    harness.close().await;
}

#[tokio::test]
async fn a_take_over_is_the_break_of_the_old_connection() {
    let (mut harness, _users) = harness().await;
    let _old = come(&harness, "alice", Connect::default()).await;
    let old = harness.sighting().await;
    let new = come(&harness, "alice", Connect::default()).await;
    let mut both = [harness.sighting().await, harness.sighting().await];
    both.sort_by_key(|sighting| sighting.connection);
    let [ended, began] = both;
    assert_eq!(ended, Sighting { change: Broke, ..old });
    assert_eq!((began.change, &*began.client), (Came, "alice"));
    drop(new);
    assert_eq!(harness.sighting().await, Sighting { change: Broke, ..began });
    harness.close().await;
}

#[tokio::test]
async fn the_end_is_told_before_the_will() {
    let (mut harness, _users) = harness().await;
    let will = Some(("alice/self/presence", "F", 0));
    let peer = come(&harness, "alice", Connect { will, ..Connect::default() }).await;
    assert_eq!(harness.seen().await.1, Came);
    drop(peer);
    assert_eq!(harness.take().await, ("alice/self/presence".to_owned(), "F".to_owned()));
    assert_eq!(harness.port.sightings.try_recv().unwrap().change, Broke);
    harness.close().await;
}

#[tokio::test]
async fn the_beginning_is_told_before_anything_that_the_client_says() {
    let (mut harness, _users) = harness().await;
    let mut peer = come(&harness, "alice", Connect::default()).await;
    peer.publish("alice/self/presence", 1, "L").await;
    harness.take().await;
    assert_eq!(harness.port.sightings.try_recv().unwrap().change, Came);
    harness.close().await;
}

#[tokio::test]
async fn every_one_of_many_quick_connections_begins_and_ends_once() {
    const TIMES: usize = 200;
    let (mut harness, _users) = harness().await;
    let mut last = None;
    for n in 0..TIMES {
        let peer = come(&harness, "alice:phone", Connect::default()).await;
        match n % 3 {
            0 => peer.disconnect().await,
            1 => drop(peer),
            // Left to be taken over.
            _ => last = Some(peer),
        }
    }
    drop(last);
    let (mut open, mut goodbyes) = (HashSet::new(), 0);
    for _ in 0..2 * TIMES {
        let sighting = harness.sighting().await;
        match sighting.change {
            Came => assert!(open.insert(sighting.connection), "a number was used twice"),
            Left | Broke => assert!(open.remove(&sighting.connection), "it ended before it began, or twice"),
        }
        goodbyes += usize::from(sighting.change == Left);
    }
    assert!(open.is_empty() && harness.port.sightings.try_recv().is_err());
    assert_eq!(goodbyes, TIMES.div_ceil(3));
    harness.close().await;
}
