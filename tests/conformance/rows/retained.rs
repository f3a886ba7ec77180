//! Retained messages (3.3.1.3).

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::sleep;

use crate::client::Client;
use crate::target::{BOTH, ONLY_V5, Row, Target, row};
use crate::wire::{Packet, Props, Publish, Value, prop};

/// Options of a subscription (3.8.3.1).
const AS_PUBLISHED: u8 = 0x08;
const IF_NEW: u8 = 0x10;
const NEVER: u8 = 0x20;

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("[MQTT-3.3.1-5] the last retained message is kept, and told to new subscribers", BOTH, set_and_replace),
        row("[MQTT-3.3.1-6,7] an empty retained message clears, and is not kept itself", BOTH, clear),
        row("[MQTT-3.3.1-8] a message that is not retained changes nothing, empty or not", BOTH, not_retained),
        row("[MQTT-3.3.1-12] RETAIN is 0 for who had subscribed before, 1 for who comes later", BOTH, flag),
        row("[MQTT-3.3.1-13] retain as published", ONLY_V5, as_published),
        row("[MQTT-3.3.1-9] retain handling 0: with every SUBSCRIBE", BOTH, handling_0),
        row("[MQTT-3.3.1-10] retain handling 1: with a new subscription only", ONLY_V5, handling_1),
        row("[MQTT-3.3.1-11] retain handling 2: never", ONLY_V5, handling_2),
        row("retain handling 3 is an error", ONLY_V5, handling_3),
        row("a retained message comes at the lower QoS of both", BOTH, lower_qos),
        row("[MQTT-3.3.1-9] 2,000 retained messages to one SUBSCRIBE at QoS 0", BOTH, |target| many(target, 0)),
        row("[MQTT-3.3.1-9] 1,000 retained messages to one SUBSCRIBE at QoS 1", BOTH, |target| many(target, 1)),
        row("[MQTT-3.3.1-9] 1,000 retained messages to one SUBSCRIBE at QoS 2", BOTH, |target| many(target, 2)),
        row("retained messages outlive the session of their publisher", BOTH, outlive),
        row("wildcards find retained messages as they find others", BOTH, wildcards),
        row("each filter of a SUBSCRIBE finds its retained messages", BOTH, each_filter),
        row("[MQTT-3.3.2-5] a retained message expires", ONLY_V5, expiry),
        row("properties are retained", ONLY_V5, properties),
        row("a retained message at QoS 0 is kept", BOTH, qos_0),
        row("[MQTT-3.3.4-3] a retained message carries the subscription identifier", ONLY_V5, subscription_id),
        row("[MQTT-4.7.2-1] # and + find no retained message below $", BOTH, dollar),
        row("a resumed session is not told again", BOTH, resumed),
    ]
}

async fn set_and_replace(target: Target) {
    let (mut publisher, topic) = (target.client("p").await, target.name("t"));
    for payload in ["first", "second"] {
        publisher.publish(&Publish::new(&topic, payload, 1, 1).retained()).await;
        let mut reader = target.client("r").await;
        reader.subscribe(&topic, 1).await;
        let kept = reader.gets(payload).await;
        assert!(kept.retain && !kept.dup);
        reader.quiet().await;
        reader.leave().await;
    }
}

async fn clear(target: Target) {
    let (mut publisher, topic) = (target.client("p").await, target.name("t"));
    for qos in 0..3 {
        publisher.publish(&Publish::new(&topic, "kept", 1, 1).retained()).await;
        let mut reader = target.client("r").await;
        reader.subscribe(&topic, 1).await;
        reader.gets("kept").await;
        publisher.publish(&Publish::new(&topic, "", qos, 1).retained()).await;
        let empty = reader.gets("").await;
        assert!(!empty.retain);
        reader.subscribe(&topic, 1).await;
        publisher.post(&topic, "end").await;
        reader.gets("end").await;
        reader.leave().await;
    }
}

pub(crate) async fn not_retained(target: Target) {
    let (mut publisher, topic) = (target.client("p").await, target.name("t"));
    publisher.publish(&Publish::new(&topic, "kept", 1, 1).retained()).await;
    for (qos, payload) in [(0, ""), (1, ""), (2, ""), (1, "other")] {
        publisher.publish(&Publish::new(&topic, payload, qos, 1)).await;
        publisher.quiet().await;
        let mut reader = target.client("r").await;
        reader.subscribe(&topic, 1).await;
        assert!(reader.gets("kept").await.retain);
        reader.leave().await;
    }
}

async fn flag(target: Target) {
    let (mut publisher, topic) = (target.client("p").await, target.name("t"));
    let mut early = target.client("early").await;
    early.subscribe(&topic, 1).await;
    publisher.publish(&Publish::new(&topic, "x", 1, 1).retained()).await;
    assert!(!early.gets("x").await.retain);
    let mut late = target.client("late").await;
    late.subscribe(&topic, 1).await;
    assert!(late.gets("x").await.retain);
}

async fn as_published(target: Target) {
    let (mut publisher, topic) = (target.client("p").await, target.name("t"));
    let mut reader = target.client("r").await;
    reader.subscribe(&topic, 1 | AS_PUBLISHED).await;
    publisher.publish(&Publish::new(&topic, "live", 1, 1)).await;
    assert!(!reader.gets("live").await.retain);
    publisher.publish(&Publish::new(&topic, "kept", 1, 1).retained()).await;
    assert!(reader.gets("kept").await.retain);
    publisher.publish(&Publish::new(&topic, "", 1, 1).retained()).await;
    assert!(reader.gets("").await.retain);
}

async fn handling_0(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.publish(&Publish::new(&topic, "kept", 1, 1).retained()).await;
    for _ in 0..3 {
        client.subscribe(&topic, 1).await;
        client.gets("kept").await;
        client.quiet().await;
    }
}

async fn handling_1(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.publish(&Publish::new(&topic, "kept", 1, 1).retained()).await;
    client.subscribe(&topic, 1 | IF_NEW).await;
    client.gets("kept").await;
    client.subscribe(&topic, IF_NEW).await;
    nothing_more(&mut client, &topic).await;
    client.unsubscribe(&[&topic]).await;
    client.subscribe(&topic, 1 | IF_NEW).await;
    client.gets("kept").await;
}

async fn handling_2(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.publish(&Publish::new(&topic, "kept", 1, 1).retained()).await;
    client.subscribe(&topic, 1 | NEVER).await;
    nothing_more(&mut client, &topic).await;
}

async fn handling_3(target: Target) {
    let mut client = target.client("c").await;
    client
        .send(&crate::wire::subscribe(target.version, &[(&target.name("t"), IF_NEW | NEVER)], &Props::default()))
        .await;
    client.ended(&[0x81, 0x82]).await;
}

async fn lower_qos(target: Target) {
    let mut publisher = target.client("p").await;
    for qos in 0..3 {
        let topic = target.name(&format!("t{qos}"));
        publisher.publish(&Publish::new(&topic, "x", qos, 1).retained()).await;
        publisher.quiet().await;
        for wanted in 0..3 {
            let mut reader = target.client("r").await;
            reader.subscribe(&topic, wanted).await;
            assert_eq!(reader.gets("x").await.qos, qos.min(wanted), "{qos} for {wanted}");
            reader.leave().await;
        }
    }
}

pub(crate) async fn many(target: Target, qos: u8) {
    let mut publisher = target.client("p").await;
    let count = if qos == 0 { 2_000 } else { 1_000 };
    for n in 0..count {
        publisher.say(&Publish::new(&target.name(&format!("/{n}")), n.to_string(), 0, 0).retained()).await;
    }
    for n in 0..if qos == 0 { 0 } else { count } {
        publisher.publish(&Publish::new(&target.name(&format!("/{n}")), n.to_string(), qos, 1).retained()).await;
    }
    publisher.quiet().await;
    let mut reader = target.client("r").await;
    reader.subscribe(&target.name("/#"), qos).await;
    let mut seen = HashSet::new();
    publisher.post(&target.name("/end"), "end").await;
    loop {
        let message = reader.message().await;
        if message.text() == "end" && qos > 0 {
            break;
        }
        assert!(message.retain || message.text() == "end");
        assert!(seen.insert(message.text().to_owned()), "twice: {message:?}");
        if qos == 0 && seen.len() == count + 1 {
            break;
        }
    }
    assert!(seen.len() >= count, "{} of {count}", seen.len());
}

async fn outlive(target: Target) {
    let topic = target.name("t");
    let mut publisher = target.client("p").await;
    publisher.publish(&Publish::new(&topic, "kept", 1, 1).retained()).await;
    publisher.leave().await;
    target.client("p").await.leave().await;
    let mut reader = target.client("r").await;
    reader.subscribe(&topic, 1).await;
    reader.gets("kept").await;
}

async fn wildcards(target: Target) {
    let mut publisher = target.client("p").await;
    for topic in ["/a", "/a/b", "/a/b/c", "/x/b"] {
        publisher.publish(&Publish::new(&target.name(topic), topic, 1, 1).retained()).await;
    }
    let found: [(&str, &[&str]); 6] = [
        ("/a/#", &["/a", "/a/b", "/a/b/c"]),
        ("/+", &["/a"]),
        ("/+/b", &["/a/b", "/x/b"]),
        ("/+/+/+", &["/a/b/c"]),
        ("/+/#", &["/a", "/a/b", "/a/b/c", "/x/b"]),
        ("/a/b/c/d/#", &[]),
    ];
    for (filter, topics) in found {
        let mut reader = target.client("r").await;
        reader.subscribe(&target.name(filter), 1).await;
        let mut seen = Vec::new();
        for _ in topics {
            seen.push(reader.message().await.text().to_owned());
        }
        seen.sort();
        assert_eq!(seen, topics, "{filter}");
        reader.quiet().await;
        reader.leave().await;
    }
}

async fn each_filter(target: Target) {
    let mut client = target.client("c").await;
    let topics = [target.name("a"), target.name("b"), target.name("c")];
    for topic in &topics {
        client.publish(&Publish::new(topic, topic.as_str(), 1, 1).retained()).await;
    }
    let filters: Vec<(&str, u8)> = topics.iter().map(|topic| (topic.as_str(), 1)).collect();
    assert_eq!(client.subscribe_with(&filters, &Props::default()).await, [1, 1, 1]);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(client.message().await.topic);
    }
    seen.sort();
    assert_eq!(seen, topics);
}

async fn expiry(target: Target) {
    let (mut publisher, topic) = (target.client("p").await, target.name("t"));
    let expiring = |payload: &str, seconds| {
        Publish::new(&topic, payload, 1, 1).retained().with(prop::MESSAGE_EXPIRY, Value::Four(seconds))
    };
    publisher.publish(&expiring("long", 100)).await;
    sleep(Duration::from_millis(1_200)).await;
    let mut reader = target.client("r").await;
    reader.subscribe(&topic, 1).await;
    let left = reader.gets("long").await;
    assert!(matches!(left.props.get(prop::MESSAGE_EXPIRY), Some(Value::Four(97..=99))), "[MQTT-3.3.2-6] {left:?}");
    reader.leave().await;
    publisher.publish(&expiring("short", 1)).await;
    sleep(Duration::from_millis(2_200)).await;
    let mut reader = target.client("r").await;
    reader.subscribe(&topic, 1).await;
    nothing_more(&mut reader, &topic).await;
}

async fn properties(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    let publish = Publish::new(&topic, "x", 1, 1)
        .retained()
        .with(prop::CONTENT_TYPE, Value::Text("text/plain".to_owned()))
        .with(prop::PAYLOAD_FORMAT, Value::Byte(1))
        .with(prop::USER, crate::wire::pair("b", "1"))
        .with(prop::USER, crate::wire::pair("a", "2"));
    client.publish(&publish).await;
    client.subscribe(&topic, 1).await;
    let kept = client.gets("x").await.props;
    assert_eq!(kept.get(prop::CONTENT_TYPE), publish.props.get(prop::CONTENT_TYPE));
    assert_eq!(kept.get(prop::PAYLOAD_FORMAT), publish.props.get(prop::PAYLOAD_FORMAT));
    assert_eq!(kept.user(), [("b", "1"), ("a", "2")]);
}

async fn qos_0(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.publish(&Publish::new(&topic, "x", 0, 0).retained()).await;
    client.subscribe(&topic, 2).await;
    client.gets("x").await;
}

async fn subscription_id(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.publish(&Publish::new(&topic, "x", 1, 1).retained()).await;
    let props = Props::default().with(prop::SUBSCRIPTION_ID, Value::Variable(300));
    client.subscribe_with(&[(&topic, 1)], &props).await;
    assert_eq!(client.gets("x").await.props.all(prop::SUBSCRIPTION_ID), [&Value::Variable(300)]);
}

async fn dollar(target: Target) {
    let mut client = target.client("c").await;
    client.subscribe("#", 1).await;
    client.subscribe("+/#", 1).await;
    client.subscribe("+", 1).await;
    let topic = target.name("end");
    client.post(&topic, "end").await;
    loop {
        let message = client.message().await;
        assert!(!message.topic.starts_with('$'), "{message:?}");
        if message.topic == topic {
            return;
        }
    }
}

async fn resumed(target: Target) {
    let (mut reader, _) = target.lasting_client("r").await;
    let topic = target.name("t");
    reader.publish(&Publish::new(&topic, "kept", 1, 1).retained()).await;
    reader.subscribe(&topic, 1).await;
    reader.gets("kept").await;
    reader.leave().await;
    let (mut reader, resumed) = target.lasting_client("r").await;
    assert!(resumed);
    nothing_more(&mut reader, &topic).await;
}

/// The next message that comes on `topic` is one that is published now.
async fn nothing_more(client: &mut Client, topic: &str) {
    client.say(&Publish::new(topic, "end", 1, 0x7002)).await;
    let end = client.until(|packet| match packet {
        Packet::Publish(publish) => Some(publish.clone()),
        _ => None,
    });
    let end = end.await;
    assert_eq!(end.text(), "end", "{end:?}");
    client.take(&end).await;
    client.acked(crate::wire::PUBACK, 0x7002).await;
}
