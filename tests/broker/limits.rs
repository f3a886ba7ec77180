//! What is refused, and what is cut off.

use std::time::Duration;

use fcm_mqtt_bridge::broker::{Broker, BrokerConfig, BrokerError, BrokerLimits, Listen};

use super::peer::{Connect, Peer, Seen, V5, V311};
use super::world::{World, config};

#[tokio::test]
async fn a_taken_port_is_told() {
    let first = Broker::bind(config()).await.unwrap();
    let taken = first.addresses().tcp.unwrap();
    let second = Broker::bind(BrokerConfig { listen: Listen::tcp(taken), ..config() }).await;
    assert!(matches!(second, Err(BrokerError::Taken(address)) if address == taken));
}

#[tokio::test]
async fn strangers_are_not_let_in_from_outside() {
    let everywhere = ([0, 0, 0, 0], 0).into();
    let exposed = Broker::bind(BrokerConfig { listen: Listen::tcp(everywhere), ..config() }).await;
    assert!(matches!(exposed, Err(BrokerError::Exposed(address)) if address == everywhere));
}

#[tokio::test]
async fn a_limit_of_nothing_is_refused() {
    let limits = BrokerLimits { held_acks: 0, ..BrokerLimits::default() };
    let error = Broker::bind(BrokerConfig { limits, ..config() }).await.unwrap_err();
    assert_eq!(error.to_string(), "limit `held_acks` must be at least 1");
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off() {
    let limits = BrokerLimits { connect_timeout: Duration::from_secs(1), ..BrokerLimits::default() };
    let world = World::with(limits).await;
    let mut silent = Peer::dial(&world, V5).await;
    let mut polite = Peer::new(&world, "polite").await;
    tokio::time::pause();
    assert_eq!(silent.next().await, Seen::Closed);
    tokio::time::resume();
    polite.quiet().await;
    world.close().await;
}

#[tokio::test]
async fn a_packet_over_the_limit_ends_the_connection() {
    let world = World::with(BrokerLimits { packet_bytes: 1024, ..BrokerLimits::default() }).await;
    for version in [V311, V5] {
        let (mut client, _) = Peer::connect(&world, Connect { version, ..Connect::default() }).await;
        client.publish("elsewhere", 1, &"x".repeat(1000)).await;
        assert!(matches!(client.next().await, Seen::Ack(..)));
        client.publish("elsewhere", 1, &"x".repeat(1024)).await;
        assert_eq!(client.next().await, Seen::Closed);
    }
    world.close().await;
}

#[tokio::test]
async fn one_connection_too_many_waits_for_a_place() {
    let world = World::with(BrokerLimits { connections: 1, ..BrokerLimits::default() }).await;
    let first = Peer::new(&world, "first").await;
    let mut second = Peer::dial(&world, V5).await;
    second.say_connect(&Connect { client: "second", ..Connect::default() }).await;
    first.disconnect().await;
    assert_eq!(second.next().await, Seen::ConnAck { resumed: false, code: 0 });
    world.close().await;
}

#[tokio::test]
async fn one_session_too_many_is_refused() {
    let world = World::with(BrokerLimits { sessions: 1, ..BrokerLimits::default() }).await;
    let (first, _) = Peer::lasting(&world, "first").await;
    first.disconnect().await;
    let mut second = Peer::dial(&world, V5).await;
    second.say_connect(&Connect { client: "second", ..Connect::default() }).await;
    assert_eq!(second.next().await, Seen::ConnAck { resumed: false, code: 0x88 });
    let (_, resumed) = Peer::lasting(&world, "first").await;
    assert!(resumed);
    world.close().await;
}

#[tokio::test]
async fn without_anonymous_clients_nobody_comes_in_yet() {
    let broker = BrokerConfig { anonymous: false, ..config() };
    let world = World::bind(broker).await;
    for (version, code) in [(V311, 5), (V5, 0x87)] {
        let mut client = Peer::dial(&world, version).await;
        client.say_connect(&Connect { version, ..Connect::default() }).await;
        assert_eq!(client.next().await, Seen::ConnAck { resumed: false, code });
    }
    world.close().await;
}
