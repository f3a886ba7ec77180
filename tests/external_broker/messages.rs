//! Messages in both directions, through mosquitto.

use crate::harness::{BODY, Bridge, Logs, config, outcome, soon};
use crate::mosquitto::{Mosquitto, Peer};
use crate::scripted::{Scripted, connack};
use fcm_mqtt_bridge::chat::principal::{Principal, Proof, Role, Senders};
use fcm_mqtt_bridge::mqtt::{AckWord, ClientConfig, Inbound, Outcome, Version};
use rumqttc_v5::PublishOptions;

async fn messages_pass_both_ways(version: Version) {
    let (logs, _guard) = Logs::collect();
    let broker = Mosquitto::start().await;
    let mut bridge = Bridge::open(config(broker.url(), version)).await;
    let mut peer = Peer::connect(&broker, "bal").await;
    peer.subscribe("bal/others/#").await;
    for n in 0..100 {
        peer.publish("bal/self/messages", &format!("in {n}")).await;
        let inbound = bridge.inbound().await;
        assert_eq!((inbound.topic.as_str(), inbound.retain), ("bal/self/messages", false));
        assert_eq!(inbound.payload, format!("in {n}"));
        inbound.ack.release(AckWord::Done);
    }
    let mut outcomes = Vec::new();
    for n in 0..100 {
        outcomes.push(bridge.send("bal/others/messages", &format!("out {n}"), |_| {}).await);
    }
    for (n, rx) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome(rx).await, Outcome::Confirmed);
        assert_eq!(peer.next().await.payload, format!("out {n}"));
    }
    bridge.stop().await;
    assert!(logs.lines(&["WARN"]).is_empty() && logs.lines(&["ERROR"]).is_empty(), "{}", logs.text());
}

#[tokio::test]
async fn messages_pass_both_ways_with_mqtt_5() {
    messages_pass_both_ways(Version::V5).await;
}

#[tokio::test]
async fn messages_pass_both_ways_with_mqtt_3_1_1() {
    messages_pass_both_ways(Version::V311).await;
}

#[tokio::test]
async fn the_topic_says_who_published() {
    for version in [Version::V5, Version::V311] {
        let broker = Mosquitto::start().await;
        let senders = Senders::TopicRules { bals: ["bal".to_owned()].into() };
        let mut bridge = Bridge::open(ClientConfig { senders, ..config(broker.url(), version) }).await;
        let peer = Peer::connect(&broker, "anyone").await;
        for (topic, name, role) in
            [("bal/self/messages", "bal", Role::Bal), ("alice/self/presence/phone", "alice", Role::User)]
        {
            peer.publish(topic, BODY).await;
            let Inbound { principal, ack, .. } = bridge.inbound().await;
            ack.release(AckWord::Done);
            let expected =
                Principal { name: name.into(), role, device: None, background: false, proof: Proof::TopicRules };
            assert_eq!(principal, expected);
        }
        bridge.stop().await;
    }
}

#[tokio::test]
async fn a_topic_without_a_subscriber_has_no_reader_until_one_comes() {
    let broker = Mosquitto::start().await;
    let mut bridge = Bridge::open(config(broker.url(), Version::V5)).await;
    assert_eq!(outcome(bridge.publish("bal/others/messages").await).await, Outcome::NoReader);
    let mut peer = Peer::connect(&broker, "bal").await;
    peer.subscribe("bal/others/messages").await;
    // As the bridge does it: publish again whenever a reader may have come.
    loop {
        soon(bridge.port.readers.changed()).await.unwrap();
        match outcome(bridge.publish("bal/others/messages").await).await {
            Outcome::NoReader => {}
            confirmed => break assert_eq!(confirmed, Outcome::Confirmed),
        }
    }
    assert_eq!(peer.next().await.payload, BODY);
}

#[tokio::test]
async fn a_retained_message_is_kept_though_nobody_reads_it_yet() {
    let broker = Mosquitto::start().await;
    let bridge = Bridge::open(config(broker.url(), Version::V5)).await;
    let kept = bridge.send("_bridge/status", "online", |o| o.retain = true).await;
    assert_eq!(outcome(kept).await, Outcome::Confirmed);
    let mut peer = Peer::connect(&broker, "late").await;
    peer.subscribe("_bridge/status").await;
    let status = peer.next().await;
    assert_eq!((&status.payload[..], status.retain), (&b"online"[..], true));
}

#[tokio::test]
async fn a_retained_message_from_before_is_marked_and_a_fresh_one_is_not() {
    let broker = Mosquitto::start().await;
    let peer = Peer::connect(&broker, "bal").await;
    peer.publish_with("bal/self/presence", "before", PublishOptions::at_least_once().retained()).await;
    let mut bridge = Bridge::open(config(broker.url(), Version::V5)).await;
    let before = bridge.inbound().await;
    assert_eq!((&before.payload[..], before.retain), (&b"before"[..], true));
    before.ack.release(AckWord::Done);
    peer.publish_with("bal/self/presence", "fresh", PublishOptions::at_least_once().retained()).await;
    let fresh = bridge.inbound().await;
    assert_eq!((&fresh.payload[..], fresh.retain), (&b"fresh"[..], false));
}

#[tokio::test]
async fn the_bridge_does_not_hear_itself_with_mqtt_5() {
    let broker = Mosquitto::start().await;
    let mut bridge = Bridge::open(config(broker.url(), Version::V5)).await;
    let own = bridge.send("alice/self/presence", "own", |o| o.retain = true).await;
    assert_eq!(outcome(own).await, Outcome::Confirmed);
    Peer::connect(&broker, "alice").await.publish("alice/self/messages", "hers").await;
    assert_eq!(bridge.inbound().await.payload, "hers");
}

/// As the bridge clears what a broker keeps of a chat user: the word of a user, at QoS 1, is not taken for it.
async fn a_kept_copy_is_cleared_at_qos_0(version: Version) {
    let broker = Mosquitto::start().await;
    let peer = Peer::connect(&broker, "bob:phone").await;
    peer.publish_with("bob/self/devices/phone", "kept", PublishOptions::at_least_once().retained()).await;
    let mut bridge = Bridge::open(config(broker.url(), version)).await;
    let kept = bridge.inbound().await;
    assert_eq!((&kept.payload[..], kept.retain), (&b"kept"[..], true));
    kept.ack.release(AckWord::Done);
    let cleared = bridge.send("bob/self/devices/phone", "", |o| (o.retain, o.qos) = (true, 0)).await;
    assert_eq!(outcome(cleared).await, Outcome::Confirmed);
    if version == Version::V311 {
        let echo = bridge.inbound().await;
        assert_eq!((echo.payload.len(), echo.at_most_once, echo.retain), (0, true, false));
        echo.ack.release(AckWord::Done);
    }
    peer.publish_with("bob/self/devices/phone", "", PublishOptions::at_least_once()).await;
    let word = bridge.inbound().await;
    assert_eq!((word.payload.len(), word.at_most_once), (0, false));
    word.ack.release(AckWord::Done);
    bridge.stop().await;
    let mut bridge = Bridge::open(config(broker.url(), version)).await;
    peer.publish_with("bob/self/messages", "next", PublishOptions::at_least_once()).await;
    let mut next = bridge.inbound().await;
    if next.dup {
        // The acknowledgement of the word came too late.
        next.ack.release(AckWord::Done);
        next = bridge.inbound().await;
    }
    assert_eq!((&next.payload[..], next.retain), (&b"next"[..], false), "nothing is kept any more");
}

#[tokio::test]
async fn a_kept_copy_is_cleared_at_qos_0_with_mqtt_5() {
    a_kept_copy_is_cleared_at_qos_0(Version::V5).await;
}

#[tokio::test]
async fn a_kept_copy_is_cleared_at_qos_0_with_mqtt_3_1_1() {
    a_kept_copy_is_cleared_at_qos_0(Version::V311).await;
}

#[tokio::test]
async fn qos_0_works_both_ways() {
    let broker = Mosquitto::start().await;
    let mut bridge = Bridge::open(config(broker.url(), Version::V5)).await;
    let mut peer = Peer::connect(&broker, "bal").await;
    peer.subscribe("bal/others/chatstate").await;
    peer.publish_with("bal/self/chatstate", "composing", PublishOptions::at_most_once()).await;
    let inbound = bridge.inbound().await;
    assert_eq!(inbound.payload, "composing");
    inbound.ack.release(AckWord::Done);
    let sent = bridge.send("bal/others/chatstate", "composing", |o| o.qos = 0).await;
    assert_eq!(outcome(sent).await, Outcome::Confirmed);
    assert_eq!(peer.next().await.payload, "composing");
}

#[tokio::test]
async fn a_qos_0_flood_is_dropped_and_told_once_while_qos_1_passes() {
    let (logs, _guard) = Logs::collect();
    let broker = Mosquitto::start().await;
    let mut bridge = Bridge::open(config(broker.url(), Version::V5)).await;
    let peer = Peer::connect(&broker, "bal").await;
    for _ in 0..200 {
        peer.publish_with("bal/self/chatstate", "composing", PublishOptions::at_most_once()).await;
    }
    peer.publish("bal/self/messages", "safe").await;
    logs.line(&["WARN", "QoS 0"]).await;
    loop {
        let inbound = bridge.inbound().await;
        if inbound.payload == "safe" {
            break;
        }
    }
    assert_eq!(logs.lines(&["WARN"]).len(), 1);
}

async fn large_payloads_pass_up_to_the_limit(version: Version) {
    let broker = Mosquitto::start().await;
    let mut bridge = Bridge::open(config(broker.url(), version)).await;
    let large = "x".repeat(70_000);
    Peer::connect(&broker, "bal").await.publish("bal/self/messages", &large).await;
    let inbound = bridge.inbound().await;
    assert_eq!(inbound.payload.len(), 70_000);
    inbound.ack.release(AckWord::Done);
}

#[tokio::test]
async fn large_payloads_pass_up_to_the_limit_with_mqtt_5() {
    large_payloads_pass_up_to_the_limit(Version::V5).await;
}

#[tokio::test]
async fn large_payloads_pass_up_to_the_limit_with_mqtt_3_1_1() {
    large_payloads_pass_up_to_the_limit(Version::V311).await;
}

#[tokio::test]
async fn a_packet_above_the_limit_is_an_error_with_the_name_of_the_limit_where_the_broker_was_told_of_it() {
    let (logs, _guard) = Logs::collect();
    let broker = Scripted::listen().await;
    let mut config = config(broker.url(), Version::V5);
    config.limits.max_packet_bytes = 2_000;
    let _bridge = Bridge::start(config);
    broker.welcome(connack(false)).await.publish(1, &"x".repeat(5_000)).await;
    let line = logs.line(&["ERROR", "max_packet_bytes"]).await;
    assert!(line.contains("50"), "{line}");
}

#[tokio::test]
async fn a_packet_above_the_limit_stops_nothing_where_the_broker_cannot_be_told_of_it() {
    let broker = Mosquitto::start().await;
    let mut config = config(broker.url(), Version::V311);
    config.limits.max_packet_bytes = 2_000;
    let mut bridge = Bridge::open(config).await;
    let peer = Peer::connect(&broker, "bal").await;
    for (payload, comes) in [("x".repeat(3_000_000), 2_001), ("y".repeat(2_000), 2_000)] {
        peer.publish("bal/self/messages", &payload).await;
        let inbound = bridge.inbound().await;
        assert_eq!(inbound.payload, payload[..comes], "cut to one byte more than is taken");
        inbound.ack.release(AckWord::Done);
    }
    bridge.stop().await;
}
