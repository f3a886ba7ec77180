//! What is refused, and what is cut off.

use std::time::Duration;

use fcm_mqtt_bridge::broker::{Broker, BrokerConfig, BrokerError, BrokerLimits, Listen};
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::ops::metrics::Metric;

use super::harness::{Harness, Users, config};
use super::peer::{Connect, Peer, Seen, V5, V311};

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
    let harness = Harness::with(limits).await;
    let mut silent = Peer::dial(&harness, V5).await;
    let mut polite = Peer::new(&harness, "polite").await;
    tokio::time::pause();
    assert_eq!(silent.next().await, Seen::Closed);
    tokio::time::resume();
    polite.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_packet_over_the_limit_ends_the_connection() {
    let harness = Harness::with(BrokerLimits { packet_bytes: 1024, ..BrokerLimits::default() }).await;
    for version in [V311, V5] {
        let (mut client, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        client.publish("elsewhere", 1, &"x".repeat(1000)).await;
        assert!(matches!(client.next().await, Seen::Ack(..)));
        client.publish("elsewhere", 1, &"x".repeat(1024)).await;
        if version == V5 {
            assert_eq!(client.next().await, Seen::Disconnect(0x95));
        }
        assert_eq!(client.next().await, Seen::Closed);
    }
    assert_eq!(harness.metrics.get(Metric::BrokerPacketsTooBig), 2);
    harness.close().await;
}

/// The body of a SUBSCRIBE.
fn subscribe(version: u8, filters: &[&str]) -> Vec<u8> {
    let mut body = vec![0, 1];
    if version == V5 {
        body.push(0);
    }
    for filter in filters {
        body.extend(u16::try_from(filter.len()).unwrap().to_be_bytes());
        body.extend(filter.as_bytes());
        body.push(1);
    }
    body
}

#[tokio::test]
async fn filters_over_a_limit_are_refused_one_by_one() {
    let limits = BrokerLimits { topic_bytes: 64, topic_levels: 4, ..BrokerLimits::default() };
    let harness = Harness::with(limits).await;
    let long = "x".repeat(65);
    let why = [&[36, 0x1f, 0, 33][..], b"a topic or filter is over a limit", &[1, 0x8f, 0x8f, 1]].concat();
    for (version, rest) in [(V311, &[1, 0x80, 0x80, 1][..]), (V5, &why)] {
        let (mut client, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        client.say(0x82, &subscribe(version, &["a/b/c/d", "a/b/c/d/e", &long, "$share/g/a/b/c/#"])).await;
        let (first, body) = client.next_raw().await.unwrap();
        assert_eq!((first, &body[..2], &body[2..]), (0x90, &[0, 1][..], rest));
        client.publish("a/b/c/d", 1, "served").await;
        assert!(matches!(client.next().await, Seen::Publish { .. } | Seen::Ack(..)));
    }
    assert_eq!(harness.metrics.get(Metric::BrokerTopicsRefused), 2);
    harness.close().await;
}

#[tokio::test]
async fn topics_over_a_limit_are_refused() {
    let harness = Harness::with(BrokerLimits { topic_levels: 4, ..BrokerLimits::default() }).await;
    let deep = "a/b/c/d/e";
    let mut client = Peer::new(&harness, "new").await;
    client.publish(deep, 1, "x").await;
    client.publish_with(0b0100, deep, 2, &[], "x").await;
    client.publish("a/b/c/d", 3, "x").await;
    for answer in [Seen::Ack(4, 1, 0x90), Seen::Ack(5, 2, 0x90), Seen::Ack(4, 3, 0)] {
        assert_eq!(client.next().await, answer);
    }
    client.publish_with(0, deep, 0, &[], "x").await;
    assert_eq!(client.next().await, Seen::Disconnect(0x90));
    assert_eq!(client.next().await, Seen::Closed);

    let (mut client, _) = Peer::connect(&harness, Connect { version: V311, ..Connect::default() }).await;
    client.publish(deep, 1, "x").await;
    assert_eq!(client.next().await, Seen::Closed);

    for (version, answers) in [(V5, vec![Seen::ConnAck { resumed: false, code: 0x90 }]), (V311, vec![])] {
        let mut client = Peer::dial(&harness, version).await;
        client.say_connect(&Connect { version, will: Some((deep, "bye", 0)), ..Connect::default() }).await;
        for answer in answers {
            assert_eq!(client.next().await, answer);
        }
        assert_eq!(client.next().await, Seen::Closed);
    }
    harness.close().await;
}

#[tokio::test]
async fn too_many_filters_at_once_end_the_connection() {
    let harness = Harness::with(BrokerLimits { subscriptions: 3, ..BrokerLimits::default() }).await;
    for version in [V311, V5] {
        let (mut client, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        client.say(0x82, &subscribe(version, &["a", "b", "c"])).await;
        assert_eq!(client.next().await, Seen::SubAck(1));
        client.say(0x82, &subscribe(version, &["a", "b", "c", "d"])).await;
        if version == V5 {
            assert_eq!(client.next().await, Seen::Disconnect(0x97));
        }
        assert_eq!(client.next().await, Seen::Closed);
    }
    harness.close().await;
}

#[tokio::test]
async fn one_connection_too_many_waits_for_a_place() {
    let harness = Harness::with(BrokerLimits { connections: 1, ..BrokerLimits::default() }).await;
    let first = Peer::new(&harness, "first").await;
    let mut second = Peer::dial(&harness, V5).await;
    second.say_connect(&Connect { client: "second", ..Connect::default() }).await;
    first.disconnect().await;
    assert_eq!(second.next().await, Seen::ConnAck { resumed: false, code: 0 });
    harness.close().await;
}

#[tokio::test]
async fn one_session_too_many_is_refused() {
    let harness = Harness::with(BrokerLimits { sessions: 1, ..BrokerLimits::default() }).await;
    let (first, _) = Peer::lasting(&harness, "first").await;
    first.disconnect().await;
    let mut second = Peer::dial(&harness, V5).await;
    second.say_connect(&Connect { client: "second", ..Connect::default() }).await;
    assert_eq!(second.next().await, Seen::ConnAck { resumed: false, code: 0x88 });
    let (_, resumed) = Peer::lasting(&harness, "first").await;
    assert!(resumed);
    harness.close().await;
}

#[tokio::test]
async fn without_anonymous_clients_nobody_comes_in_yet() {
    let broker = BrokerConfig { anonymous: false, ..config() };
    let harness = Harness::bind(broker).await;
    for (version, code) in [(V311, 5), (V5, 0x87)] {
        let mut client = Peer::dial(&harness, version).await;
        client.say_connect(&Connect { version, ..Connect::default() }).await;
        assert_eq!(client.next().await, Seen::ConnAck { resumed: false, code });
    }
    harness.close().await;
}

#[tokio::test]
async fn a_connect_may_be_as_big_as_any_packet_whatever_the_key_of_its_session() {
    let limits = BrokerLimits { packet_bytes: 2_048, ..BrokerLimits::default() };
    let users = Users::new(&[("alice", Role::User)]);
    let harness = Harness::bind(BrokerConfig { limits, ..users.config() }).await;
    for version in [V311, V5] {
        for (client, size, fits) in [("x", 2_048, true), ("x y", 2_048, true), ("x", 2_049, false)] {
            // What comes before and after the payload of the will.
            let rest = if version == V5 { 64 } else { 52 };
            let payload = "x".repeat(size - rest - client.len());
            let will = Some(("alice/self/messages", payload.as_str(), 0));
            let (user, password) = (Some("alice"), Some("ecila"));
            let mut peer = Peer::dial(&harness, version).await;
            let said = peer.say_connect(&Connect { client, version, will, user, password, ..Connect::default() }).await;
            assert_eq!(said, size, "this test is to be about the limit");
            let answer = peer.next_raw().await;
            if !fits {
                // 3.1.1 has no word for it.
                assert_eq!(answer.map(|(_, body)| body[1]), (version == V5).then_some(0x95), "{client} {size}");
                continue;
            }
            let (_, body) = answer.unwrap();
            assert_eq!(body[1], 0);
            let advertised = body.windows(5).any(|property| property == [0x27, 0, 0, 8, 0]);
            assert_eq!(advertised, version == V5, "{body:x?}");
            peer.disconnect().await;
        }
    }
    harness.close().await;
}

#[tokio::test]
async fn a_keep_alive_over_the_limit_is_answered_with_the_limit() {
    let limits = BrokerLimits { keep_alive: 60, ..BrokerLimits::default() };
    let harness = Harness::with(limits).await;
    for (asked, told) in [(0, true), (60, false), (61, true)] {
        let mut peer = Peer::dial(&harness, V5).await;
        peer.say_connect(&Connect { keep_alive: asked, version: V5, ..Connect::default() }).await;
        let (_, connack) = peer.next_raw().await.unwrap();
        let is_there = connack.windows(3).any(|property| property == [0x13, 0, 60]);
        assert_eq!(is_there, told, "{asked}: {connack:x?}");
    }
    harness.close().await;
}
