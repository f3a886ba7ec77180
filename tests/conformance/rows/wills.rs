//! Wills (3.1.2.5).

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::target::{BOTH, ONLY_V5, Row, Target, row};
use crate::wire::{Connect, Props, Publish, Value, Will, disconnect, frame, pair, prop, word};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("[MQTT-3.1.2-8] a broken connection publishes the will", BOTH, broken),
        row("[MQTT-3.1.2-8] silence publishes the will", BOTH, silent),
        row("[MQTT-3.1.2-8] a protocol error publishes the will", BOTH, at_fault),
        row("[MQTT-3.1.2-8] DISCONNECT 0x04 publishes the will", ONLY_V5, disconnect_with_will),
        row("[MQTT-3.14.4-3] DISCONNECT discards the will", BOTH, discarded),
        row("[MQTT-3.1.2-10] a will is published once", BOTH, once),
        row("[MQTT-3.1.2-14,15] a will is retained if it says so", BOTH, retained),
        row("[MQTT-3.1.2-12] a will comes at its QoS", BOTH, at_its_qos),
        row("3.1.3.2 properties of a will are published with it", ONLY_V5, properties),
        row("an empty will, and one of 60 kB", BOTH, sizes),
        row("each connection has a will of its own, or none", BOTH, of_its_own),
        row("[MQTT-3.1.3-9] a delayed will comes after its delay", ONLY_V5, delayed),
        row("[MQTT-3.1.3-9] a delayed will does not come if the client returns", ONLY_V5, delayed_and_cancelled),
        row("[MQTT-3.1.3-9] the end of the session ends the delay", ONLY_V5, session_ends_first),
        row("[MQTT-3.1.3-9] so does a clean start, which ends the session", ONLY_V5, clean_start),
        row("[MQTT-3.1.2-8] a session without expiry delays no will", ONLY_V5, no_session_no_delay),
        row("[MQTT-3.1.4-3] a take-over publishes the will of the old connection", BOTH, taken_over),
        row("[MQTT-3.1.4-3] a take-over in time cancels a delayed will", ONLY_V5, taken_over_in_time),
        row("[MQTT-3.1.3-9] a clean take-over publishes a delayed will", ONLY_V5, taken_over_clean),
        row("after a take-over the new connection has its own will", BOTH, own_will_after_take_over),
        row("a will on a topic that is not allowed is not published", BOTH, forbidden),
        row("a will topic with a wildcard, or none, is refused", BOTH, bad_topic),
    ]
}

/// A client with a will, and one who reads it.
async fn pair_of(target: &Target, connect: Connect) -> (Client, Client) {
    let mut reader = target.client("r").await;
    reader.subscribe(&target.name("w"), 2).await;
    (target.connect(&connect).await.0, reader)
}

fn will(target: &Target, payload: &str) -> Will {
    Will::new(&target.name("w"), payload)
}

/// The next message is one that is published now: no will was before it.
async fn none_came(target: &Target, reader: &mut Client) {
    target.client("marker").await.post(&target.name("w"), "marker").await;
    reader.gets("marker").await;
}

async fn broken(target: Target) {
    let (client, mut reader) = pair_of(&target, target.clean("c").will(will(&target, "gone"))).await;
    client.cut_off();
    assert!(!reader.gets("gone").await.retain);
}

async fn silent(target: Target) {
    let connect = Connect { keep_alive: 1, ..target.clean("c").will(will(&target, "gone")) };
    let (_client, mut reader) = pair_of(&target, connect).await;
    reader.gets("gone").await;
}

async fn at_fault(target: Target) {
    let (mut client, mut reader) = pair_of(&target, target.clean("c").will(will(&target, "gone"))).await;
    client.send(&frame(0x36, b"\0\x01a\0\x01x")).await;
    client.ended(&[0x81, 0x82]).await;
    reader.gets("gone").await;
    // A second CONNECT is one as well.
    let (mut client, ..) = target.connect(&target.clean("c").will(will(&target, "gone"))).await;
    client.send(&target.clean("c").bytes(target.version)).await;
    client.ended(&[0x82]).await;
    reader.gets("gone").await;
}

async fn disconnect_with_will(target: Target) {
    let (mut client, mut reader) = pair_of(&target, target.clean("c").will(will(&target, "gone"))).await;
    client.send(&disconnect(0x04, &Props::default())).await;
    client.ended(&[]).await;
    reader.gets("gone").await;
}

async fn discarded(target: Target) {
    for connect in [target.clean("c"), target.lasting("c")] {
        let (client, mut reader) = pair_of(&target, connect.will(will(&target, "gone"))).await;
        client.leave().await;
        none_came(&target, &mut reader).await;
        reader.leave().await;
    }
}

async fn once(target: Target) {
    let (client, mut reader) = pair_of(&target, target.lasting("c").will(will(&target, "gone"))).await;
    client.cut_off();
    reader.gets("gone").await;
    let (client, resumed) = target.lasting_client("c").await;
    assert!(resumed);
    client.cut_off();
    none_came(&target, &mut reader).await;
}

async fn retained(target: Target) {
    let (client, mut reader) =
        pair_of(&target, target.clean("c").will(Will { retain: true, ..will(&target, "gone") })).await;
    client.cut_off();
    assert!(!reader.gets("gone").await.retain);
    reader.subscribe(&target.name("w"), 1).await;
    assert!(reader.gets("gone").await.retain);
}

async fn at_its_qos(target: Target) {
    for qos in 0..3 {
        let (client, mut reader) =
            pair_of(&target, target.clean("c").will(Will { qos, ..will(&target, "gone") })).await;
        client.cut_off();
        assert_eq!(reader.gets("gone").await.qos, qos);
        reader.leave().await;
    }
}

async fn properties(target: Target) {
    let props = Props::default()
        .with(prop::PAYLOAD_FORMAT, Value::Byte(1))
        .with(prop::MESSAGE_EXPIRY, Value::Four(77))
        .with(prop::CONTENT_TYPE, word("text/plain"))
        .with(prop::RESPONSE_TOPIC, word("answers/here"))
        .with(prop::CORRELATION, Value::Binary(vec![0, 1, 255]))
        .with(prop::USER, pair("b", "1"))
        .with(prop::USER, pair("a", "2"))
        .with(prop::USER, pair("b", "3"));
    let will = Will { props: props.clone(), ..will(&target, "gone") };
    let (client, mut reader) = pair_of(&target, target.clean("c").will(will)).await;
    client.cut_off();
    let seen = reader.gets("gone").await.props;
    for id in [prop::PAYLOAD_FORMAT, prop::CONTENT_TYPE, prop::RESPONSE_TOPIC, prop::CORRELATION] {
        assert_eq!(seen.get(id), props.get(id), "{id:#x}");
    }
    assert!(matches!(seen.get(prop::MESSAGE_EXPIRY), Some(Value::Four(75..=77))), "{seen:?}");
    assert_eq!(seen.user(), [("b", "1"), ("a", "2"), ("b", "3")]);
    assert_eq!(seen.get(prop::WILL_DELAY), None);
}

async fn sizes(target: Target) {
    for payload in [String::new(), "x".repeat(60_000)] {
        let (client, mut reader) = pair_of(&target, target.clean("c").will(will(&target, &payload))).await;
        client.cut_off();
        reader.gets(&payload).await;
        reader.leave().await;
    }
}

async fn of_its_own(target: Target) {
    let (client, mut reader) = pair_of(&target, target.lasting("c").will(will(&target, "first"))).await;
    client.leave().await;
    let (client, ..) = target.connect(&target.lasting("c").will(will(&target, "second"))).await;
    client.cut_off();
    reader.gets("second").await;
    let (client, _) = target.lasting_client("c").await;
    client.cut_off();
    none_came(&target, &mut reader).await;
}

async fn delayed(target: Target) {
    let connect = target.lasting("c").will(will(&target, "gone").delayed(1));
    let (client, mut reader) = pair_of(&target, connect).await;
    client.cut_off();
    let start = Instant::now();
    reader.gets("gone").await;
    assert!(start.elapsed() > Duration::from_millis(800), "{:?}", start.elapsed());
}

async fn delayed_and_cancelled(target: Target) {
    let connect = target.lasting("c").will(will(&target, "gone").delayed(1));
    let (client, mut reader) = pair_of(&target, connect).await;
    client.cut_off();
    let (client, resumed) = target.lasting_client("c").await;
    assert!(resumed);
    sleep(Duration::from_millis(1_500)).await;
    none_came(&target, &mut reader).await;
    client.leave().await;
}

async fn session_ends_first(target: Target) {
    let connect = target.clean("c").with(prop::SESSION_EXPIRY, Value::Four(1));
    let (client, mut reader) = pair_of(&target, connect.will(will(&target, "gone").delayed(600))).await;
    client.cut_off();
    reader.gets("gone").await;
}

async fn clean_start(target: Target) {
    let connect = target.lasting("c").will(will(&target, "gone").delayed(600));
    let (client, mut reader) = pair_of(&target, connect).await;
    client.cut_off();
    none_came(&target, &mut reader).await;
    let _new = target.client("c").await;
    reader.gets("gone").await;
    none_came(&target, &mut reader).await;
}

async fn no_session_no_delay(target: Target) {
    let (client, mut reader) = pair_of(&target, target.clean("c").will(will(&target, "gone").delayed(600))).await;
    client.cut_off();
    reader.gets("gone").await;
}

async fn taken_over(target: Target) {
    let (mut client, mut reader) = pair_of(&target, target.clean("c").will(will(&target, "gone"))).await;
    let _new = target.client("c").await;
    client.ended(&[0x8e]).await;
    reader.gets("gone").await;
}

async fn taken_over_in_time(target: Target) {
    let connect = target.lasting("c").will(will(&target, "gone").delayed(1));
    let (mut client, mut reader) = pair_of(&target, connect).await;
    let (_new, resumed) = target.lasting_client("c").await;
    assert!(resumed);
    client.ended(&[0x8e]).await;
    sleep(Duration::from_millis(1_500)).await;
    none_came(&target, &mut reader).await;
}

async fn taken_over_clean(target: Target) {
    let connect = target.lasting("c").will(will(&target, "gone").delayed(600));
    let (mut client, mut reader) = pair_of(&target, connect).await;
    let _new = target.client("c").await;
    client.ended(&[0x8e]).await;
    reader.gets("gone").await;
    none_came(&target, &mut reader).await;
}

pub(crate) async fn own_will_after_take_over(target: Target) {
    let (mut client, mut reader) = pair_of(&target, target.lasting("c").will(will(&target, "old"))).await;
    let (new, resumed, _) = target.connect(&target.lasting("c").will(will(&target, "new"))).await;
    assert!(resumed);
    client.ended(&[0x8e]).await;
    reader.gets("old").await;
    new.cut_off();
    reader.gets("new").await;
}

async fn forbidden(target: Target) {
    let mut reader = target.client("r").await;
    reader.subscribe("$SYS/will", 1).await;
    reader.subscribe(&target.name("w"), 1).await;
    let (client, ..) = target.connect(&target.clean("c").will(Will::new("$SYS/will", "gone"))).await;
    client.cut_off();
    // The next will of the same client comes after the first has been dealt with.
    let (client, ..) = target.connect(&target.clean("c").will(will(&target, "gone"))).await;
    client.cut_off();
    assert_eq!(reader.message().await.topic, target.name("w"));
}

async fn bad_topic(target: Target) {
    for topic in ["a/+", "#", "", "a\0b"] {
        let mut client = target.dial().await;
        client.send(&target.clean("c").will(Will::new(topic, "x")).bytes(target.version)).await;
        let end = client.next().await;
        match end {
            crate::wire::Packet::Closed => continue,
            crate::wire::Packet::ConnAck { code, .. } => {
                assert!([0x81, 0x82, 0x90].contains(&code), "{topic}: {code:#x}")
            }
            other => panic!("{topic}: {other:?}"),
        }
    }
    // The broker goes on.
    target.client("p").await.publish(&Publish::new(&target.name("t"), "x", 1, 1)).await;
}
