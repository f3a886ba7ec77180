//! What one connection leaves to the next.

use crate::harness::{BODY, Bridge, Logs, QUEUE, config, outcome};
use crate::mosquitto::{Mosquitto, Peer};
use crate::scripted::{Scripted, connack};
use bytes::Bytes;
use fcm_mqtt_bridge::mqtt::{AckWord, BrokerLink, ClientConfig, Outcome, Version, Will};
use fcm_mqtt_bridge::secret::Secret;
use rumqttc_v5::mqttbytes::v5::{Packet, PubAckReason};
use std::process::Command;
use std::time::Duration;

#[tokio::test]
async fn what_was_told_as_lost_is_not_sent_again_by_the_library() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    let mut lost = Vec::new();
    for n in 0..3 {
        lost.push(bridge.publish(&format!("old/{n}")).await);
        link.published().await;
    }
    drop(link);
    for rx in lost {
        assert_eq!(outcome(rx).await, Outcome::Lost);
    }
    let mut link = broker.welcome(connack(true)).await;
    bridge.broker_link(BrokerLink::Up).await;
    let again = bridge.publish("new").await;
    let publish = link.published().await;
    assert_eq!((&publish.topic[..], publish.dup), (&b"new"[..], false));
    link.puback(publish.pkid, PubAckReason::Success).await;
    assert_eq!(outcome(again).await, Outcome::Confirmed);
}

#[tokio::test]
async fn what_was_decided_for_an_earlier_connection_is_given_back_and_what_follows_it_waits_for_it() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let link = broker.welcome(connack(false)).await;
    bridge.broker_link(BrokerLink::Up).await;
    let earlier = Some(*bridge.port.connections.borrow());
    drop(link);
    bridge.broker_link(BrokerLink::Down).await;
    let old = bridge.send("t", "old", |o| o.connection = earlier).await;
    let other = bridge.send("other", BODY, |o| o.connection = earlier).await;
    let of_any = bridge.publish("any").await;

    let mut link = broker.welcome(connack(true)).await;
    assert_eq!(&link.published().await.topic[..], b"any");
    assert_eq!((outcome(old).await, outcome(other).await), (Outcome::Unsent, Outcome::Unsent));
    bridge.broker_link(BrokerLink::Up).await;
    let now = Some(*bridge.port.connections.borrow());
    assert_ne!(now, earlier);
    // The bridge may have published it before it heard of the first one.
    let behind = bridge.send("t", "behind", |o| (o.connection, o.resume) = (now, false)).await;
    assert_eq!(outcome(behind).await, Outcome::Unsent);
    let again = bridge.send("t", "again", |o| o.connection = now).await;
    let publish = link.published().await;
    assert_eq!((&publish.topic[..], &publish.payload[..], publish.dup), (&b"t"[..], &b"again"[..], false));
    link.puback(publish.pkid, PubAckReason::Success).await;
    assert_eq!(outcome(again).await, Outcome::Confirmed);
    drop(of_any);
}

#[tokio::test]
async fn after_a_failure_nothing_of_the_topic_is_sent_until_the_publisher_resumes() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    let lost = bridge.publish("t").await;
    link.published().await;
    drop(link);
    bridge.broker_link(BrokerLink::Down).await;
    let behind = bridge.send("t", "behind", |o| o.resume = false).await;
    let other = bridge.send("other", BODY, |o| o.resume = false).await;
    let resumed = bridge.send("t", "resumed", |o| o.resume = true).await;
    assert_eq!(outcome(lost).await, Outcome::Lost);

    let mut link = broker.welcome(connack(true)).await;
    for topic in [&b"other"[..], b"t"] {
        let publish = link.published().await;
        assert_eq!(&publish.topic[..], topic);
        link.puback(publish.pkid, PubAckReason::Success).await;
    }
    assert_eq!(outcome(behind).await, Outcome::Unsent);
    assert_eq!((outcome(other).await, outcome(resumed).await), (Outcome::Confirmed, Outcome::Confirmed));
}

#[tokio::test]
async fn a_puback_that_was_read_before_the_end_still_counts() {
    let broker = Scripted::listen().await;
    let bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    let first = bridge.publish("t/1").await;
    let second = bridge.publish("t/2").await;
    let pkid = link.published().await.pkid;
    link.published().await;
    link.puback(pkid, PubAckReason::Success).await;
    drop(link);
    assert_eq!((outcome(first).await, outcome(second).await), (Outcome::Confirmed, Outcome::Lost));
}

#[tokio::test]
async fn acknowledgements_go_out_in_the_order_of_arrival() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    let mut acks = Vec::new();
    for pkid in 1..=4 {
        link.publish(pkid, "m").await;
        acks.push(bridge.inbound().await.ack);
    }
    let [first, second, third, fourth] = <[_; 4]>::try_from(acks).unwrap();
    fourth.release(AckWord::Done);
    third.release(AckWord::Quota);
    drop(second);
    first.release(AckWord::Done);
    assert_eq!(link.acknowledged().await, (1, PubAckReason::Success));
    assert_eq!(link.acknowledged().await, (3, PubAckReason::QuotaExceeded));
    assert_eq!(link.acknowledged().await, (4, PubAckReason::Success));
}

#[tokio::test]
async fn an_acknowledgement_of_an_old_connection_does_not_leave_on_a_new_one() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    link.publish(7, "m").await;
    let old = bridge.inbound().await;
    drop(link);
    bridge.broker_link(BrokerLink::Down).await;
    let mut link = broker.welcome(connack(true)).await;
    link.publish(7, "m").await;
    let new = bridge.inbound().await;
    old.ack.release(AckWord::Done);
    new.ack.release(AckWord::Quota);
    assert_eq!(link.acknowledged().await, (7, PubAckReason::QuotaExceeded));
}

#[tokio::test]
async fn a_copy_on_the_same_connection_is_neither_taken_nor_acknowledged_besides() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    for _ in 0..3 {
        link.publish(7, "m").await;
    }
    link.publish(8, "behind").await;
    let (first, behind) = (bridge.inbound().await, bridge.inbound().await);
    assert_eq!((&first.payload[..], &behind.payload[..]), (&b"m"[..], &b"behind"[..]));
    first.ack.release(AckWord::Done);
    behind.ack.release(AckWord::Done);
    for pkid in [7, 8] {
        assert_eq!(link.acknowledged().await, (pkid, PubAckReason::Success));
    }
    // The broker may use the packet id again.
    link.publish(7, "another").await;
    let another = bridge.inbound().await;
    assert_eq!(another.payload, "another");
    another.ack.release(AckWord::Done);
    assert_eq!(link.acknowledged().await, (7, PubAckReason::Success));
}

#[tokio::test]
async fn pings_go_on_while_the_bridge_takes_nothing() {
    let broker = Scripted::listen().await;
    let mut config = config(broker.url(), Version::V5);
    config.limits.keep_alive = Duration::from_secs(1);
    let _bridge = Bridge::start(config);
    let mut link = broker.welcome(connack(false)).await;
    for pkid in 1..=u16::try_from(QUEUE).unwrap() {
        link.publish(pkid, "m").await;
    }
    assert_eq!(link.packet().await, Some(Packet::PingReq));
}

async fn unacknowledged_messages_come_again(version: Version) {
    let broker = Mosquitto::start().await;
    let mut config = config(broker.url(), version);
    config.limits.redelivery = Duration::from_millis(50);
    let mut bridge = Bridge::open(config).await;
    let peer = Peer::connect(&broker, "bal").await;
    peer.publish("bal/self/messages", "taken").await;
    peer.publish("bal/self/messages", "not taken").await;
    bridge.inbound().await.ack.release(AckWord::Done);
    let first = bridge.inbound().await;
    assert!(!first.dup);
    drop(first.ack);
    let again = bridge.inbound().await;
    assert_eq!((&again.payload[..], again.dup), (&b"not taken"[..], true));
    again.ack.release(AckWord::Done);
}

#[tokio::test]
async fn unacknowledged_messages_come_again_with_mqtt_5() {
    unacknowledged_messages_come_again(Version::V5).await;
}

#[tokio::test]
async fn unacknowledged_messages_come_again_with_mqtt_3_1_1() {
    unacknowledged_messages_come_again(Version::V311).await;
}

#[tokio::test]
async fn without_a_word_for_quota_the_message_comes_again() {
    let broker = Mosquitto::start().await;
    let mut config = config(broker.url(), Version::V311);
    config.limits.redelivery = Duration::from_millis(50);
    let mut bridge = Bridge::open(config).await;
    Peer::connect(&broker, "bal").await.publish("bal/self/messages", "m").await;
    bridge.inbound().await.ack.release(AckWord::Quota);
    bridge.inbound().await.ack.release(AckWord::Done);
}

async fn the_broker_keeps_messages_while_the_bridge_is_away(version: Version) {
    let broker = Mosquitto::start().await;
    Bridge::open(config(broker.url(), version)).await.stop().await;
    let peer = Peer::connect(&broker, "bal").await;
    peer.publish("bal/self/messages", "1").await;
    peer.publish("bal/self/messages", "2").await;
    let mut bridge = Bridge::start(config(broker.url(), version));
    for payload in ["1", "2"] {
        let inbound = bridge.inbound().await;
        assert_eq!(inbound.payload, payload);
        inbound.ack.release(AckWord::Done);
    }
    // In a session that was kept the client must be able to publish, too.
    assert_eq!(outcome(bridge.send("x/others/messages", BODY, |o| o.retain = true).await).await, Outcome::Confirmed);
}

#[tokio::test]
async fn the_broker_keeps_messages_while_the_bridge_is_away_with_mqtt_5() {
    the_broker_keeps_messages_while_the_bridge_is_away(Version::V5).await;
}

#[tokio::test]
async fn the_broker_keeps_messages_while_the_bridge_is_away_with_mqtt_3_1_1() {
    the_broker_keeps_messages_while_the_bridge_is_away(Version::V311).await;
}

async fn a_broker_killed_in_mid_flow_loses_nothing(version: Version) {
    let (logs, _guard) = Logs::collect();
    let mut broker = Mosquitto::start().await;
    let mut bridge = Bridge::open(config(broker.url(), version)).await;
    let peer = Peer::connect(&broker, "bal").await;
    peer.subscribe("bal/others/messages").await;
    assert_eq!(outcome(bridge.publish("bal/others/messages").await).await, Outcome::Confirmed);
    broker.freeze();
    let mut outstanding = Vec::new();
    for _ in 0..5 {
        outstanding.push(bridge.publish("bal/others/messages").await);
    }
    broker.kill().await;
    for rx in outstanding {
        assert_eq!(outcome(rx).await, Outcome::Lost);
    }
    bridge.broker_link(BrokerLink::Down).await;
    let waiting = bridge.send("_bridge/status", BODY, |o| o.retain = true).await;
    logs.line(&["DEBUG", "still no connection to the broker"]).await;
    broker.restart().await;
    bridge.broker_link(BrokerLink::Up).await;
    assert_eq!(outcome(waiting).await, Outcome::Confirmed);
    let mut peer = Peer::connect(&broker, "bal").await;
    peer.subscribe("bal/others/again").await;
    assert_eq!(outcome(bridge.publish("bal/others/again").await).await, Outcome::Confirmed);
    assert_eq!(peer.next().await.payload, BODY);
    assert_eq!(logs.lines(&["WARN", "no connection to the broker"]).len(), 1);
    assert!(logs.lines(&["ERROR"]).is_empty());
}

#[tokio::test]
async fn a_broker_killed_in_mid_flow_loses_nothing_with_mqtt_5() {
    a_broker_killed_in_mid_flow_loses_nothing(Version::V5).await;
}

#[tokio::test]
async fn a_broker_killed_in_mid_flow_loses_nothing_with_mqtt_3_1_1() {
    a_broker_killed_in_mid_flow_loses_nothing(Version::V311).await;
}

async fn the_will_follows_a_crash_and_not_a_stop(version: Version) {
    let mut broker = Mosquitto::start().await;
    let will = Will { topic: "_bridge/status".into(), payload: Bytes::from("offline"), qos: 1, retain: true };
    let mut peer = Peer::connect(&broker, "bal").await;
    peer.subscribe("_bridge/status").await;
    let config = ClientConfig { will: Some(will), ..config(broker.url(), version) };
    Bridge::open(config.clone()).await.stop().await;
    broker.logged("Received DISCONNECT from bridge").await;

    let bridge = Bridge::open(config).await;
    assert_eq!(outcome(bridge.send("_bridge/status", "online", |o| o.retain = true).await).await, Outcome::Confirmed);
    bridge.crash().await;
    // The stop before left no will, so this is the first word.
    assert_eq!(peer.next().await.payload, "online");
    assert_eq!(peer.next().await.payload, "offline");
}

#[tokio::test]
async fn the_will_follows_a_crash_and_not_a_stop_with_mqtt_5() {
    the_will_follows_a_crash_and_not_a_stop(Version::V5).await;
}

#[tokio::test]
async fn the_will_follows_a_crash_and_not_a_stop_with_mqtt_3_1_1() {
    the_will_follows_a_crash_and_not_a_stop(Version::V311).await;
}

/// A broker at which the password of the user `bridge` is `right`.
async fn broker_with_a_password() -> Mosquitto {
    Mosquitto::with(|port, dir| {
        let file = dir.join("passwords");
        let made = Command::new("mosquitto_passwd").arg("-c").arg("-b").arg(&file).args(["bridge", "right"]).status();
        assert!(made.unwrap().success());
        format!("listener {port} 127.0.0.1\npassword_file {}\n", file.display())
    })
    .await
}

async fn a_password_in_a_file_is_read_again_before_each_login(version: Version) {
    let (logs, _guard) = Logs::collect();
    let mut broker = broker_with_a_password().await;
    let file = broker.dir.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let mut config = config(broker.url(), version);
    config.username = Some("bridge".into());
    config.password = Some(Secret::new("hunter2"));
    config.password_file = Some(file.clone());
    let mut bridge = Bridge::start(config);
    broker.logged("not authorised").await;
    std::fs::write(&file, "\n").unwrap();
    logs.line(&["ERROR", "mqtt.password_file", "the file is empty"]).await;
    std::fs::write(&file, "right\n").unwrap();
    bridge.broker_link(BrokerLink::Up).await;
    assert!(!logs.text().contains("hunter2"), "{}", logs.text());
    // Host and port, and the key that names them.
    logs.line(&["ERROR", "refused by the broker", &format!("{} (mqtt.url)", broker.url())]).await;
    bridge.stop().await;
}

#[tokio::test]
async fn a_password_in_a_file_is_read_again_before_each_login_with_mqtt_5() {
    a_password_in_a_file_is_read_again_before_each_login(Version::V5).await;
}

#[tokio::test]
async fn a_password_in_a_file_is_read_again_before_each_login_with_mqtt_3_1_1() {
    a_password_in_a_file_is_read_again_before_each_login(Version::V311).await;
}

async fn a_wrong_password_is_an_error_told_once(version: Version) {
    let (logs, _guard) = Logs::collect();
    let mut broker = broker_with_a_password().await;
    let mut right = config(broker.url(), version);
    right.username = Some("bridge".into());
    let mut wrong = right.clone();
    right.password = Some(Secret::new("right"));
    wrong.password = Some(Secret::new("hunter2"));
    let mut bridge = Bridge::start(wrong);
    for _ in 0..3 {
        broker.logged("not authorised").await;
    }
    logs.line(&["DEBUG", "still no connection"]).await;
    assert_eq!(logs.lines(&["ERROR"]).len(), 1, "{}", logs.text());
    logs.line(&["ERROR", "refused by the broker"]).await;
    bridge.trouble(Some(" (mqtt.url): refused by the broker: ")).await;
    assert!(!logs.text().contains("hunter2"));
    assert_eq!(*bridge.port.broker_link.borrow(), BrokerLink::Down);
    bridge.stop().await;
    Bridge::open(right).await.stop().await;
}

#[tokio::test]
async fn a_wrong_password_is_an_error_told_once_with_mqtt_5() {
    a_wrong_password_is_an_error_told_once(Version::V5).await;
}

#[tokio::test]
async fn a_wrong_password_is_an_error_told_once_with_mqtt_3_1_1() {
    a_wrong_password_is_an_error_told_once(Version::V311).await;
}

#[tokio::test]
async fn a_stop_waits_for_what_is_outstanding() {
    let broker = Scripted::listen().await;
    let bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    let first = bridge.publish("t/1").await;
    let pkid = link.published().await.pkid;
    let second = bridge.publish("t/2").await;
    bridge.ask_to_stop();
    let last = link.published().await.pkid;
    link.puback(pkid, PubAckReason::Success).await;
    link.puback(last, PubAckReason::Success).await;
    assert_eq!((outcome(first).await, outcome(second).await), (Outcome::Confirmed, Outcome::Confirmed));
    assert!(matches!(link.packet().await, Some(Packet::Disconnect(_))));
    bridge.stop().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let broker = Scripted::listen().await;
    let mut config = config(broker.url(), Version::V5);
    config.limits.grace = Duration::from_millis(100);
    let bridge = Bridge::start(config);
    let mut link = broker.welcome(connack(false)).await;
    let lost = bridge.publish("t/1").await;
    link.published().await;
    bridge.stop().await;
    assert_eq!(outcome(lost).await, Outcome::Lost);
    // Without it the broker would publish the will.
    assert!(matches!(link.packet().await, Some(Packet::Disconnect(_))));
}
