//! Properties of MQTT 5 that travel with a message.

use std::time::Duration;

use tokio::time::sleep;

use crate::client::Client;
use crate::target::{ONLY_V5, Row, Target, row};
use crate::wire::{PUBACK, Props, Publish, V5, Value, pair, prop, word};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row(
            "[MQTT-3.3.2-4,15,16,17,18,20] properties arrive as they were sent, user properties in order",
            ONLY_V5,
            arrive,
        ),
        row("properties wait with a message for a session that is away", ONLY_V5, wait),
        row("[MQTT-3.3.2-5,6] message expiry is counted down, and kept", ONLY_V5, expiry),
        row("[MQTT-3.3.2-5,6] so it is while a message waits for a slow client", ONLY_V5, expiry_in_a_full_window),
        row("a message with properties reaches 3.1.1 without them", ONLY_V5, to_v311),
        row("[MQTT-3.3.2-7..12] topic aliases", ONLY_V5, aliases),
        row("[MQTT-3.3.2-8] an alias belongs to its connection", ONLY_V5, alias_of_connection),
        row("[MQTT-3.3.2-8,9] aliases that are none end the connection", ONLY_V5, bad_aliases),
        row("[MQTT-3.3.2-11] no alias for a client that allows none", ONLY_V5, no_alias_out),
        row("[MQTT-3.3.2-14] a response topic has no wildcards", ONLY_V5, bad_response_topic),
        row("[MQTT-3.3.4-6] a client sends no subscription identifier", ONLY_V5, identifier_in),
        row("properties of PUBACK, PUBREC, PUBREL and PUBCOMP are read over", ONLY_V5, acks_with_properties),
        row("user properties of CONNECT, SUBSCRIBE and UNSUBSCRIBE are read over", ONLY_V5, user_everywhere),
    ]
}

fn full(topic: &str, qos: u8) -> Publish {
    Publish::new(topic, "{}", qos, 1)
        .with(prop::PAYLOAD_FORMAT, Value::Byte(1))
        .with(prop::CONTENT_TYPE, word("application/json"))
        .with(prop::RESPONSE_TOPIC, word("answers/for me"))
        .with(prop::CORRELATION, Value::Binary((0..=255).collect()))
        .with(prop::USER, pair("b", "1"))
        .with(prop::USER, pair("a", "2"))
        .with(prop::USER, pair("b", "1"))
        .with(prop::USER, pair("", ""))
        .with(prop::USER, pair("long", &"ü".repeat(500)))
}

fn check(seen: &Publish, topic: &str) {
    let sent = full(topic, 1);
    for id in [prop::PAYLOAD_FORMAT, prop::CONTENT_TYPE, prop::RESPONSE_TOPIC, prop::CORRELATION] {
        assert_eq!(seen.props.all(id), sent.props.all(id), "{id:#x}");
    }
    assert_eq!(seen.props.user(), sent.props.user());
    assert_eq!(seen.props.get(prop::TOPIC_ALIAS), None);
}

async fn arrive(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 2).await;
    for qos in 0..3 {
        client.publish(&full(&topic, qos)).await;
        check(&client.gets("{}").await, &topic);
    }
    client.publish(&Publish::new(&topic, "bare", 1, 1)).await;
    let bare = client.gets("bare").await;
    assert!(bare.props.0.is_empty(), "{bare:?}");
}

async fn wait(target: Target) {
    let topic = target.name("t");
    let (mut reader, _) = target.lasting_client("r").await;
    reader.subscribe(&topic, 2).await;
    reader.leave().await;
    let mut publisher = target.client("p").await;
    publisher.publish(&full(&topic, 1)).await;
    publisher.publish(&full(&topic, 2)).await;
    let (mut reader, _) = target.lasting_client("r").await;
    check(&reader.gets("{}").await, &topic);
    let open = reader.delivery().await;
    check(&open, &topic);
    reader.cut_off();
    let (mut reader, _) = target.lasting_client("r").await;
    check(&reader.gets("{}").await, &topic);
}

async fn expiry(target: Target) {
    let topic = target.name("t");
    let (mut reader, _) = target.lasting_client("r").await;
    reader.subscribe(&topic, 1).await;
    let mut publisher = target.client("p").await;
    let expiring = |text, seconds| Publish::new(&topic, text, 1, 1).with(prop::MESSAGE_EXPIRY, Value::Four(seconds));
    publisher.publish(&expiring("at once", 100)).await;
    let left = reader.gets("at once").await;
    assert!(matches!(left.props.get(prop::MESSAGE_EXPIRY), Some(Value::Four(99 | 100))), "{left:?}");
    reader.leave().await;
    publisher.publish(&expiring("short", 1)).await;
    publisher.publish(&expiring("long", 100)).await;
    sleep(Duration::from_millis(2_100)).await;
    let (mut reader, _) = target.lasting_client("r").await;
    let left = reader.gets("long").await;
    assert!(matches!(left.props.get(prop::MESSAGE_EXPIRY), Some(Value::Four(96..=98))), "{left:?}");
    reader.quiet().await;
}

async fn expiry_in_a_full_window(target: Target) {
    let topic = target.name("t");
    let (mut reader, ..) = target.connect(&target.clean("r").with(prop::RECEIVE_MAXIMUM, Value::Two(1))).await;
    reader.subscribe(&topic, 1).await;
    let mut publisher = target.client("p").await;
    publisher.post(&topic, "first").await;
    let open = reader.delivery().await;
    for (text, seconds) in [("short", 1), ("long", 100)] {
        publisher.publish(&Publish::new(&topic, text, 1, 1).with(prop::MESSAGE_EXPIRY, Value::Four(seconds))).await;
    }
    sleep(Duration::from_millis(2_100)).await;
    reader.take(&open).await;
    let left = reader.gets("long").await;
    assert!(matches!(left.props.get(prop::MESSAGE_EXPIRY), Some(Value::Four(96..=98))), "{left:?}");
    reader.quiet().await;
}

pub(crate) async fn to_v311(target: Target) {
    let (mut reader, topic) = (target.other_version("r").await, target.name("t"));
    reader.subscribe(&topic, 2).await;
    let mut publisher = target.client("p").await;
    for qos in 0..3 {
        publisher.publish(&full(&topic, qos)).await;
        reader.gets("{}").await;
    }
    publisher.publish(&full(&topic, 1).retained()).await;
    reader.gets("{}").await;
    reader.subscribe(&topic, 1).await;
    assert!(reader.gets("{}").await.retain);
    reader.quiet().await;
}

/// A client, and how many aliases it may use.
async fn aliased(target: &Target, id: &str) -> (Client, u16) {
    let (client, _, props) = target.connect(&target.clean(id)).await;
    match props.get(prop::TOPIC_ALIAS_MAXIMUM) {
        Some(Value::Two(maximum)) => (client, *maximum),
        _ => (client, 0),
    }
}

async fn aliases(target: Target) {
    let (mut client, maximum) = aliased(&target, "c").await;
    assert!(maximum > 1);
    let topics = [target.name("a"), target.name("b")];
    for topic in &topics {
        client.subscribe(topic, 1).await;
    }
    let alias = |topic: &str, n| Publish::new(topic, "x", 1, 1).with(prop::TOPIC_ALIAS, Value::Two(n));
    for (topic, n, lands) in [
        (&*topics[0], 1, 0),
        ("", 1, 0),
        (&*topics[1], maximum, 1),
        ("", maximum, 1),
        ("", 1, 0),
        // It is given another meaning.
        (&*topics[1], 1, 1),
        ("", 1, 1),
    ] {
        client.publish(&alias(topic, n)).await;
        let seen = client.gets("x").await;
        assert_eq!(seen.topic, topics[lands]);
        assert_eq!(seen.props.get(prop::TOPIC_ALIAS), None);
    }
}

async fn alias_of_connection(target: Target) {
    let topic = target.name("a");
    let (mut client, _) = target.lasting_client("c").await;
    client.publish(&Publish::new(&topic, "x", 1, 1).with(prop::TOPIC_ALIAS, Value::Two(1))).await;
    client.cut_off();
    let (mut client, resumed) = target.lasting_client("c").await;
    assert!(resumed);
    client.say(&Publish::new("", "x", 1, 1).with(prop::TOPIC_ALIAS, Value::Two(1))).await;
    client.ended(&[0x82]).await;
}

async fn bad_aliases(target: Target) {
    let (_, maximum) = aliased(&target, "c").await;
    for (topic, alias) in [("a", 0), ("a", maximum + 1), ("a", u16::MAX), ("", 1)] {
        let mut client = target.client("c").await;
        client.say(&Publish::new(topic, "x", 1, 1).with(prop::TOPIC_ALIAS, Value::Two(alias))).await;
        client.ended(&[0x82, 0x94]).await;
    }
}

async fn no_alias_out(target: Target) {
    let topic = target.name("t");
    for maximum in [None, Some(0), Some(10)] {
        let mut connect = target.clean("r");
        if let Some(maximum) = maximum {
            connect = connect.with(prop::TOPIC_ALIAS_MAXIMUM, Value::Two(maximum));
        }
        let (mut reader, ..) = target.connect(&connect).await;
        reader.subscribe(&topic, 1).await;
        let mut publisher = target.client("p").await;
        for _ in 0..5 {
            publisher.publish(&Publish::new(&topic, "x", 1, 1).with(prop::TOPIC_ALIAS, Value::Two(3))).await;
            let alias = reader.message().await.props.get(prop::TOPIC_ALIAS).cloned();
            assert!(alias.is_none() || maximum == Some(10), "{alias:?}");
        }
    }
}

async fn bad_response_topic(target: Target) {
    for topic in ["a/+", "#"] {
        let mut client = target.client("c").await;
        client.say(&Publish::new("a", "x", 1, 1).with(prop::RESPONSE_TOPIC, word(topic))).await;
        client.ended(&[0x81, 0x82, 0x90]).await;
    }
}

async fn identifier_in(target: Target) {
    let mut client = target.client("c").await;
    client.say(&Publish::new("a", "x", 1, 1).with(prop::SUBSCRIPTION_ID, Value::Variable(1))).await;
    client.ended(&[0x81, 0x82]).await;
}

async fn acks_with_properties(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 2).await;
    let props = Props::default().with(prop::REASON, word("because")).with(prop::USER, pair("a", "b")).encode(V5);
    let with_props = |first, id: u16| crate::wire::frame(first, &[&id.to_be_bytes()[..], &[0], &props].concat());
    client.post(&topic, "1").await;
    let one = client.delivery().await;
    client.send(&with_props(0x40, one.id)).await;
    client.say(&Publish::new(&topic, "2", 2, 9)).await;
    client.acked(crate::wire::PUBREC, 9).await;
    client.send(&with_props(0x62, 9)).await;
    client.acked(crate::wire::PUBCOMP, 9).await;
    let two = client.delivery().await;
    client.send(&with_props(0x50, two.id)).await;
    client.acked(crate::wire::PUBREL, two.id).await;
    client.send(&with_props(0x70, two.id)).await;
    client.quiet().await;
}

async fn user_everywhere(target: Target) {
    let topic = target.name("t");
    let (mut client, ..) = target.connect(&target.clean("c").with(prop::USER, pair("a", "b"))).await;
    let props = Props::default().with(prop::USER, pair("a", "b")).with(prop::USER, pair("a", "b"));
    assert_eq!(client.subscribe_with(&[(&topic, 1)], &props).await, [1]);
    let body = [vec![0, 2], props.encode(V5), crate::wire::text(&topic)].concat();
    client.send(&crate::wire::frame(0xa2, &body)).await;
    assert!(matches!(client.next().await, crate::wire::Packet::UnsubAck { codes, .. } if codes == [0]));
    client.say(&Publish::new(&topic, "x", 1, 1)).await;
    client.acked(PUBACK, 1).await;
    client.quiet().await;
}
