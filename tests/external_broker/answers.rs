//! What the broker answers, and what the bridge is told.

use crate::harness::{BODY, Bridge, Logs, QUEUE, config, outcome, soon};
use crate::scripted::{Scripted, connack, connack_with};
use bytes::Bytes;
use fcm_mqtt_bridge::mqtt::{AckWord, BrokerLink, ClientConfig, Notice, Outcome, Version};
use rumqttc_v5::QoS;
use rumqttc_v5::mqttbytes::v5::{Disconnect, DisconnectReasonCode, Packet, PubAckReason, SubscribeReasonCode};
use std::time::Duration;

#[tokio::test]
async fn the_connect_asks_for_a_lasting_session_and_for_no_more_than_the_queue_holds() {
    let broker = Scripted::listen().await;
    let bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.accept().await;
    let connect = link.connect(connack(false)).await;
    let properties = connect.properties.unwrap();
    assert!(!connect.clean_start);
    assert_eq!(connect.client_id, "bridge");
    assert_eq!(properties.session_expiry_interval, Some(7 * 24 * 3600));
    assert_eq!(properties.receive_maximum, Some(u16::try_from(QUEUE).unwrap()));
    assert_eq!(properties.max_packet_size, Some(1024 * 1024));
    bridge.crash().await;
}

#[tokio::test]
async fn nothing_is_published_before_the_suback() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let confirmed = bridge.publish("bal/others/messages").await;
    let mut link = broker.accept().await;
    link.connect(connack(true)).await;
    let (pkid, _) = link.subscribe().await;
    // A session that was kept has messages; they are taken at once.
    link.publish(1, "queued").await;
    bridge.inbound().await.ack.release(AckWord::Done);
    assert_eq!(link.acknowledged().await, (1, PubAckReason::Success));
    assert_eq!(*bridge.port.broker_link.borrow(), BrokerLink::Down);
    link.suback(pkid, vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)]).await;
    let publish = link.published().await;
    link.puback(publish.pkid, PubAckReason::Success).await;
    assert_eq!(outcome(confirmed).await, Outcome::Confirmed);
    assert_eq!(*bridge.port.broker_link.borrow(), BrokerLink::Up);
}

/// What the bridge reads along with `chat.direct`.
const DIRECT: &str = "+/others/messages";

fn granted() -> SubscribeReasonCode {
    SubscribeReasonCode::Success(QoS::AtLeastOnce)
}

#[tokio::test]
async fn a_refused_filter_is_named_with_what_is_lost_and_what_is_granted_is_used_until_it_is_granted_as_well() {
    let (logs, _guard) = Logs::collect();
    let broker = Scripted::listen().await;
    let mut config = upgraded(broker.url());
    config.filters.push(DIRECT.into());
    config.unused_filters.clear();
    let mut bridge = Bridge::start(config);
    let mut link = broker.accept().await;
    link.connect(connack(false)).await;
    let (pkid, _) = link.subscribe().await;
    link.suback(pkid, vec![granted(), SubscribeReasonCode::NotAuthorized]).await;
    bridge.broker_link(BrokerLink::Up).await;
    let line = logs.line(&["ERROR", DIRECT, "NotAuthorized", "neither stored nor pushed"]).await;
    assert!(!line.contains("+/self/#"), "{line}");
    let why =
        "refuses the subscription +/others/messages: NotAuthorized (messages that users write directly are neither";
    bridge.trouble(Some(why)).await;
    // Something else that is refused for a while does not hide it.
    let refused = bridge.publish("eve/others/messages").await;
    let asked_again = loop {
        match link.packet().await {
            Some(Packet::Publish(publish)) => link.puback(publish.pkid, PubAckReason::NotAuthorized).await,
            Some(Packet::Subscribe(subscribe)) => break subscribe,
            other => panic!("neither a PUBLISH nor a SUBSCRIBE but {other:?}: nothing that was granted is taken back"),
        }
    };
    assert_eq!(outcome(refused).await, Outcome::Lost);
    bridge.trouble(Some(why)).await;
    assert_eq!(asked_again.filters.iter().map(|filter| &filter.path[..]).collect::<Vec<_>>(), [DIRECT]);
    link.suback(asked_again.pkid, vec![granted()]).await;
    bridge.trouble(None).await;
    logs.line(&["INFO", DIRECT, "grants a subscription that it refused"]).await;
    assert_eq!(logs.lines(&["ERROR", "refuses a subscription"]).len(), 1);
}

#[tokio::test]
async fn without_what_clients_publish_the_broker_counts_as_away_until_it_is_granted() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.accept().await;
    link.connect(connack(false)).await;
    let (pkid, _) = link.subscribe().await;
    link.suback(pkid, vec![SubscribeReasonCode::NotAuthorized]).await;
    bridge.trouble(Some("refuses the subscription +/self/#: NotAuthorized (nothing that clients publish")).await;
    let (pkid, filters) = link.subscribe().await;
    assert_eq!(filters, 1);
    assert_eq!(*bridge.port.broker_link.borrow(), BrokerLink::Down);
    link.suback(pkid, vec![granted()]).await;
    bridge.broker_link(BrokerLink::Up).await;
    bridge.trouble(None).await;
}

fn upgraded(url: String) -> ClientConfig {
    ClientConfig {
        former_filters: vec!["+/self/messages".into(), "+/self/receipts".into()],
        unused_filters: vec!["+/others/messages".into()],
        ..config(url, Version::V5)
    }
}

#[tokio::test]
async fn the_subscriptions_of_an_earlier_release_and_of_other_settings_are_taken_back_from_a_session_that_was_kept() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(upgraded(broker.url()));
    for session_present in [true, false] {
        let mut link = broker.accept().await;
        link.connect(connack(session_present)).await;
        link.grant().await;
        // One by one, and nobody waits for an answer: rumqttd has none for what it does not know.
        let surplus = ["+/self/messages", "+/self/receipts", "+/others/messages"];
        for filter in surplus.into_iter().filter(|_| session_present) {
            let Some(Packet::Unsubscribe(taken_back)) = link.packet().await else { panic!("no UNSUBSCRIBE") };
            assert_eq!(taken_back.filters, [filter]);
        }
        bridge.broker_link(BrokerLink::Up).await;
        // The next packet is this one, so nothing else was taken back.
        let _answer = bridge.publish("bal/others/messages").await;
        link.published().await;
        drop(link);
        bridge.broker_link(BrokerLink::Down).await;
    }
}

#[tokio::test]
async fn a_broker_that_grants_only_the_former_subscriptions_is_used_with_them() {
    let (logs, _guard) = Logs::collect();
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(upgraded(broker.url()));
    let mut link = broker.accept().await;
    link.connect(connack(true)).await;
    let (pkid, _) = link.subscribe().await;
    link.suback(pkid, vec![SubscribeReasonCode::NotAuthorized]).await;
    let (pkid, filters) = link.subscribe().await;
    assert_eq!(filters, 2);
    link.suback(pkid, vec![granted(); 2]).await;
    for filter in ["+/self/#", "+/others/messages"] {
        let Some(Packet::Unsubscribe(taken_back)) = link.packet().await else { panic!("no UNSUBSCRIBE") };
        assert_eq!(taken_back.filters, [filter], "an earlier connection may have been granted it");
    }
    bridge.broker_link(BrokerLink::Up).await;
    logs.line(&["WARN", "misspelt topics cannot be told"]).await;
    bridge.trouble(Some("of chat nothing but messages, receipts and presence reaches the bridge")).await;
    // It is asked for again, and takes their place.
    let (pkid, filters) = link.subscribe().await;
    assert_eq!(filters, 1);
    link.suback(pkid, vec![granted()]).await;
    for filter in ["+/self/messages", "+/self/receipts"] {
        let Some(Packet::Unsubscribe(taken_back)) = link.packet().await else { panic!("no UNSUBSCRIBE") };
        assert_eq!(taken_back.filters, [filter]);
    }
    bridge.trouble(None).await;
}

#[tokio::test]
async fn a_grant_of_qos_0_is_no_grant() {
    let (logs, _guard) = Logs::collect();
    let broker = Scripted::listen().await;
    let _bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.accept().await;
    link.connect(connack(false)).await;
    let (pkid, _) = link.subscribe().await;
    link.suback(pkid, vec![SubscribeReasonCode::Success(QoS::AtMostOnce)]).await;
    logs.line(&["ERROR", "+/self/#", "granted at QoS 0 only"]).await;
}

#[tokio::test]
async fn a_refused_publication_is_told_once_and_held_while_others_pass() {
    let (logs, _guard) = Logs::collect();
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    for _ in 0..2 {
        let refused = bridge.publish("eve/others/messages").await;
        let publish = link.published().await;
        link.puback(publish.pkid, PubAckReason::NotAuthorized).await;
        bridge.trouble(Some("refuses what is published on eve/others/messages: NotAuthorized")).await;
        let passed = bridge.publish("bal/others/messages").await;
        let publish = link.published().await;
        link.puback(publish.pkid, PubAckReason::Success).await;
        assert_eq!(outcome(passed).await, Outcome::Confirmed);
        assert_eq!(outcome(refused).await, Outcome::Lost);
    }
    // It is not published again, so nothing is refused any more.
    bridge.trouble(None).await;
    assert_eq!(logs.lines(&["ERROR", "eve/others/messages", "NotAuthorized"]).len(), 1);
    assert!(!logs.text().contains("the words of a message"));
}

#[tokio::test]
async fn no_matching_subscriber_means_no_reader_unless_the_broker_keeps_it() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    bridge.broker_link(BrokerLink::Up).await;
    let kept = bridge.send("_bridge/status", BODY, |o| o.retain = true).await;
    let publish = link.published().await;
    link.puback(publish.pkid, PubAckReason::NoMatchingSubscribers).await;
    assert_eq!(outcome(kept).await, Outcome::Confirmed);

    bridge.port.readers.mark_unchanged();
    let unread = bridge.publish("bal/others/messages").await;
    let publish = link.published().await;
    link.puback(publish.pkid, PubAckReason::NoMatchingSubscribers).await;
    assert_eq!(outcome(unread).await, Outcome::NoReader);
    soon(bridge.port.readers.changed()).await.unwrap();
}

#[tokio::test]
async fn properties_go_with_a_publication_and_come_with_a_message() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    let rx = bridge.send("bal/others/messages", BODY, |o| o.correlation = Some(Bytes::from_static(b"c1"))).await;
    let mut publish = link.published().await;
    let properties = publish.properties.clone().unwrap();
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"c1"[..]));
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(properties.payload_format_indicator, Some(1));
    link.puback(publish.pkid, PubAckReason::Success).await;
    assert_eq!(outcome(rx).await, Outcome::Confirmed);

    let properties = publish.properties.as_mut().unwrap();
    properties.response_topic = Some("bal/my/answers".into());
    properties.message_expiry_interval = Some(60);
    publish.retain = true;
    link.send(Packet::Publish(publish)).await;
    let inbound = bridge.inbound().await;
    assert_eq!((inbound.topic.as_str(), inbound.retain), ("bal/others/messages", true));
    assert_eq!(inbound.payload, BODY);
    assert_eq!(inbound.expiry, Some(60));
    assert_eq!(inbound.correlation.as_deref(), Some(&b"c1"[..]));
    assert_eq!(inbound.response_topic.as_deref(), Some("bal/my/answers"));
}

#[tokio::test]
async fn no_more_is_in_flight_than_the_broker_takes() {
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack_with(|p| p.receive_max = Some(2))).await;
    for topic in ["t/1", "t/2", "t/3"] {
        drop(bridge.publish(topic).await);
    }
    let first = link.published().await;
    assert_eq!((&first.topic[..], &link.published().await.topic[..]), (&b"t/1"[..], &b"t/2"[..]));
    // An acknowledgement overtakes the third, which has to wait.
    link.publish(9, "m").await;
    bridge.inbound().await.ack.release(AckWord::Done);
    assert_eq!(link.acknowledged().await, (9, PubAckReason::Success));
    link.puback(first.pkid, PubAckReason::Success).await;
    assert_eq!(&link.published().await.topic[..], b"t/3");
}

#[tokio::test]
async fn what_is_too_large_for_the_broker_is_set_aside_and_the_connection_stays() {
    let (logs, _guard) = Logs::collect();
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack_with(|p| p.max_packet_size = Some(200))).await;
    let large = bridge.send("bal/others/messages", &"x".repeat(200), |_| {}).await;
    let small = bridge.publish("bal/others/messages").await;
    let publish = link.published().await;
    assert_eq!(publish.payload, BODY);
    link.puback(publish.pkid, PubAckReason::Success).await;
    assert_eq!(outcome(small).await, Outcome::Confirmed);
    assert_eq!(outcome(large).await, Outcome::SetAside);
    let Some(Notice::SetAside(told)) = soon(bridge.port.notices.recv()).await else { panic!("nobody is told") };
    assert_eq!((&*told.topic, told.payload.len(), told.most), ("bal/others/messages", 200, 200));
    assert!((201..300).contains(&told.bytes), "{told:?}");
    logs.line(&["WARN", "bal/others/messages", "set aside"]).await;
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_left() {
    let (logs, _guard) = Logs::collect();
    let broker = Scripted::listen().await;
    let mut config = config(broker.url(), Version::V5);
    config.limits.answer = Duration::from_millis(200);
    let bridge = Bridge::start(config);
    let mut link = broker.welcome(connack(false)).await;
    let lost = bridge.publish("bal/others/messages").await;
    link.published().await;
    assert_eq!(outcome(lost).await, Outcome::Lost);
    logs.line(&["WARN", "has not answered for 200ms"]).await;
    broker.welcome(connack(true)).await;
}

#[tokio::test]
async fn a_second_client_with_the_same_id_is_told_as_an_error() {
    let (logs, _guard) = Logs::collect();
    let broker = Scripted::listen().await;
    let _bridge = Bridge::start(config(broker.url(), Version::V5));
    let mut link = broker.welcome(connack(false)).await;
    link.send(Packet::Disconnect(Disconnect::new(DisconnectReasonCode::SessionTakenOver))).await;
    logs.line(&["ERROR", "same client id"]).await;
}

#[tokio::test]
async fn a_session_that_is_not_kept_is_told_of() {
    let (logs, _guard) = Logs::collect();
    let broker = Scripted::listen().await;
    let mut bridge = Bridge::start(config(broker.url(), Version::V5));
    drop(broker.welcome(connack_with(|p| p.session_expiry_interval = Some(60))).await);
    let week = 7 * 24 * 3600;
    assert_eq!(soon(bridge.port.notices.recv()).await, Some(Notice::SessionShort { seconds: 60, asked: week }));
    logs.line(&["WARN", "for less time than asked for"]).await;
    let _link = broker.welcome(connack(false)).await;
    assert_eq!(soon(bridge.port.notices.recv()).await, Some(Notice::SessionLost));
    logs.line(&["WARN", "has not kept the bridge's session"]).await;
}

#[tokio::test]
async fn what_cuts_one_connection_after_the_other_is_set_aside_where_the_broker_does_not_say_what_it_takes() {
    let broker = Scripted::listen().await;
    let bridge = Bridge::start(config(broker.url(), Version::V5));
    let large = "x".repeat(20_000);
    for _ in 0..3 {
        let mut link = broker.welcome(connack(true)).await;
        let lost = bridge.send("bal/others/messages", &large, |_| {}).await;
        assert_eq!(link.published().await.payload.len(), large.len());
        drop(link);
        assert_eq!(outcome(lost).await, Outcome::Lost);
    }
    let mut link = broker.welcome(connack(true)).await;
    assert_eq!(outcome(bridge.send("bal/others/messages", &large, |_| {}).await).await, Outcome::SetAside);
    let passed = bridge.publish("bal/others/messages").await;
    let publish = link.published().await;
    assert_eq!(publish.payload, BODY);
    link.puback(publish.pkid, PubAckReason::Success).await;
    assert_eq!(outcome(passed).await, Outcome::Confirmed);
}
