//! Sessions that go on where the last connection broke off (4.1, 4.4).

use crate::client::Client;
use crate::target::{BOTH, ONLY_V5, Row, Target, row};
use crate::wire::{PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Publish, Value, ack, prop};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("[MQTT-4.3.3-10] inbound QoS 2, cut before PUBREC was seen", BOTH, inbound_before_pubrec),
        row("[MQTT-4.3.3-10] inbound QoS 2, cut before PUBREL", BOTH, inbound_before_pubrel),
        row("[MQTT-4.3.3-11] inbound QoS 2, cut before PUBCOMP was seen", BOTH, inbound_before_pubcomp),
        row("[MQTT-4.4.0-1] inbound QoS 2: a full window comes again", ONLY_V5, full_window_again),
        row("[MQTT-4.4.0-1] outbound QoS 2, cut before PUBREC", BOTH, outbound_before_pubrec),
        row("[MQTT-4.4.0-1] outbound QoS 2, cut after PUBREC: only PUBREL comes again", BOTH, outbound_before_pubrel),
        row("[MQTT-4.4.0-1] outbound QoS 2, cut before PUBCOMP: PUBREL comes again", BOTH, outbound_before_pubcomp),
        row("[MQTT-4.3.2-1] outbound QoS 1: what is not acknowledged comes again, with DUP", BOTH, outbound_qos_1),
        row("[MQTT-4.4.0-1] the same identifiers, in the order of the first time", BOTH, same_ids_in_order),
        row("[MQTT-4.6.0-1] QoS 1 and 2 mixed: the order of the first time", BOTH, mixed_order),
        row("[MQTT-3.1.2-5] messages for a session that is away wait, in order", BOTH, offline_queue),
        row("what waits comes after what comes again", BOTH, again_before_new),
        row("three cuts in a row lose nothing", BOTH, many_cuts),
        row("[MQTT-3.1.4-3] a take-over resumes as a cut does", BOTH, taken_over),
        row("[MQTT-3.1.2-4] a clean start forgets what was in flight", BOTH, clean_start_forgets),
        row("[MQTT-3.1.2-4] a clean start forgets inbound QoS 2", BOTH, clean_start_forgets_inbound),
        row("a resumed session respects a smaller receive maximum", ONLY_V5, smaller_window),
        row("a session that is kept no longer is served as before until it ends", ONLY_V5, kept_no_longer),
        row("an identifier whose PUBREL is open is not used for another message", BOTH, open_pubrel_keeps_its_id),
    ]
}

/// A reader on topic `t` whose session lasts, and a publisher.
async fn pair(target: &Target, qos: u8) -> (Client, Client, String) {
    let topic = target.name("t");
    let (mut reader, resumed) = target.lasting_client("r").await;
    assert!(!resumed);
    reader.subscribe(&topic, qos).await;
    (reader, target.client("p").await, topic)
}

/// The session of [`pair`]'s reader again.
async fn back(target: &Target) -> Client {
    let (reader, resumed) = target.lasting_client("r").await;
    assert!(resumed);
    reader
}

async fn inbound_before_pubrec(target: Target) {
    let (mut reader, _, topic) = pair(&target, 2).await;
    let (mut publisher, _) = target.lasting_client("q").await;
    let publish = Publish::new(&topic, "once", 2, 9);
    publisher.say(&publish).await;
    publisher.cut_off();
    let (mut publisher, _) = target.lasting_client("q").await;
    publisher.publish(&publish.again()).await;
    publisher.publish(&Publish::new(&topic, "next", 2, 10)).await;
    reader.gets("once").await;
    reader.gets("next").await;
}

async fn inbound_before_pubrel(target: Target) {
    let (mut reader, _, topic) = pair(&target, 2).await;
    let (mut publisher, _) = target.lasting_client("q").await;
    let publish = Publish::new(&topic, "once", 2, 9);
    publisher.say(&publish).await;
    assert_eq!(publisher.acked(PUBREC, 9).await, 0);
    publisher.cut_off();
    let (mut publisher, resumed) = target.lasting_client("q").await;
    assert!(resumed);
    // It may even have missed the PUBREC.
    publisher.say(&publish.again()).await;
    assert!(publisher.acked(PUBREC, 9).await < 0x80);
    publisher.cut_off();
    let (mut publisher, _) = target.lasting_client("q").await;
    publisher.send(&ack(PUBREL, 9)).await;
    assert_eq!(publisher.acked(PUBCOMP, 9).await, 0);
    publisher.publish(&Publish::new(&topic, "next", 2, 10)).await;
    reader.gets("once").await;
    reader.gets("next").await;
}

async fn inbound_before_pubcomp(target: Target) {
    let (mut reader, _, topic) = pair(&target, 2).await;
    let (mut publisher, _) = target.lasting_client("q").await;
    publisher.publish(&Publish::new(&topic, "once", 2, 9)).await;
    publisher.cut_off();
    let (mut publisher, resumed) = target.lasting_client("q").await;
    assert!(resumed);
    publisher.send(&ack(PUBREL, 9)).await;
    assert!([0, 0x92].contains(&publisher.acked(PUBCOMP, 9).await));
    publisher.publish(&Publish::new(&topic, "next", 2, 9)).await;
    reader.gets("once").await;
    reader.gets("next").await;
}

async fn full_window_again(target: Target) {
    let (mut reader, _, topic) = pair(&target, 0).await;
    let (mut publisher, _, props) = target.connect(&target.lasting("q")).await;
    let window = match props.get(prop::RECEIVE_MAXIMUM) {
        Some(Value::Two(window)) => *window,
        _ => 300,
    };
    for id in 1..=window {
        publisher.say(&Publish::new(&topic, id.to_string(), 2, id)).await;
    }
    for id in 1..=window {
        publisher.acked(PUBREC, id).await;
    }
    publisher.cut_off();
    // The PUBRECs never arrived.
    let (mut publisher, resumed) = target.lasting_client("q").await;
    assert!(resumed);
    for id in 1..=window {
        publisher.say(&Publish::new(&topic, id.to_string(), 2, id).again()).await;
    }
    for id in 1..=window {
        assert!(publisher.acked(PUBREC, id).await < 0x80);
        publisher.send(&ack(PUBREL, id)).await;
        publisher.acked(PUBCOMP, id).await;
        reader.gets(&id.to_string()).await;
    }
}

async fn outbound_before_pubrec(target: Target) {
    let (mut reader, mut publisher, topic) = pair(&target, 2).await;
    publisher.publish(&Publish::new(&topic, "x", 2, 1)).await;
    let first = reader.delivery().await;
    reader.cut_off();
    let mut reader = back(&target).await;
    let again = reader.message().await;
    assert_eq!((again.text(), again.id, again.dup), ("x", first.id, true), "[MQTT-3.3.1-1]");
    reader.quiet().await;
}

async fn outbound_before_pubrel(target: Target) {
    let (mut reader, mut publisher, topic) = pair(&target, 2).await;
    publisher.publish(&Publish::new(&topic, "x", 2, 1)).await;
    let first = reader.delivery().await;
    reader.send(&ack(PUBREC, first.id)).await;
    reader.acked(PUBREL, first.id).await;
    reader.cut_off();
    let mut reader = back(&target).await;
    assert!(matches!(reader.next().await, Packet::Ack { kind: PUBREL, id, .. } if id == first.id));
    reader.send(&ack(PUBCOMP, first.id)).await;
    publisher.publish(&Publish::new(&topic, "next", 2, 1)).await;
    reader.gets("next").await;
}

async fn outbound_before_pubcomp(target: Target) {
    let (mut reader, mut publisher, topic) = pair(&target, 2).await;
    publisher.publish(&Publish::new(&topic, "x", 2, 1)).await;
    let first = reader.delivery().await;
    reader.send(&ack(PUBREC, first.id)).await;
    reader.acked(PUBREL, first.id).await;
    for _ in 0..3 {
        reader.cut_off();
        reader = back(&target).await;
        assert_eq!(reader.acked(PUBREL, first.id).await, 0);
    }
    reader.send(&ack(PUBCOMP, first.id)).await;
    reader.quiet().await;
    reader.leave().await;
    let mut reader = back(&target).await;
    reader.quiet().await;
}

async fn outbound_qos_1(target: Target) {
    let (mut reader, mut publisher, topic) = pair(&target, 1).await;
    for n in 0..4 {
        publisher.post(&topic, &n.to_string()).await;
    }
    let first: Vec<Publish> = [reader.delivery().await, reader.delivery().await, reader.delivery().await].into();
    reader.send(&ack(PUBACK, first[1].id)).await;
    reader.quiet_but_for_messages().await;
    reader.cut_off();
    let mut reader = back(&target).await;
    for n in [0, 2] {
        let again = reader.gets(&n.to_string()).await;
        assert_eq!((again.id, again.dup), (first[n].id, true), "[MQTT-3.3.1-1]");
    }
    reader.gets("3").await;
    reader.quiet().await;
}

async fn same_ids_in_order(target: Target) {
    for qos in [1, 2] {
        let (mut reader, mut publisher, topic) = pair(&target, qos).await;
        let mut first = Vec::new();
        for n in 0..15 {
            publisher.publish(&Publish::new(&topic, n.to_string(), qos, 1)).await;
            first.push(reader.delivery().await);
        }
        for _ in 0..2 {
            reader.cut_off();
            reader = back(&target).await;
            for before in &first {
                let again = reader.delivery().await;
                assert_eq!((again.text(), again.id, again.dup), (before.text(), before.id, true));
            }
        }
        reader.leave().await;
        publisher.leave().await;
        target.client("r").await.leave().await;
    }
}

async fn mixed_order(target: Target) {
    let (mut reader, mut publisher, topic) = pair(&target, 2).await;
    for n in 0..12 {
        publisher.publish(&Publish::new(&topic, n.to_string(), 1 + n % 2, 1)).await;
        assert_eq!(reader.delivery().await.text(), n.to_string());
    }
    reader.cut_off();
    let mut reader = back(&target).await;
    for n in 0..12 {
        let again = reader.gets(&n.to_string()).await;
        assert_eq!(again.qos, 1 + n % 2);
    }
}

async fn offline_queue(target: Target) {
    let (reader, mut publisher, topic) = pair(&target, 2).await;
    reader.leave().await;
    for n in 0..500 {
        publisher.publish(&Publish::new(&topic, n.to_string(), 1, 1)).await;
    }
    let mut reader = back(&target).await;
    for n in 0..500 {
        let message = reader.gets(&n.to_string()).await;
        assert!(!message.dup);
    }
    reader.quiet().await;
}

async fn again_before_new(target: Target) {
    let (mut reader, mut publisher, topic) = pair(&target, 1).await;
    for n in 0..5 {
        publisher.post(&topic, &n.to_string()).await;
        reader.delivery().await;
    }
    reader.cut_off();
    for n in 5..10 {
        publisher.post(&topic, &n.to_string()).await;
    }
    let mut reader = back(&target).await;
    for n in 0..10 {
        reader.gets(&n.to_string()).await;
    }
    reader.quiet().await;
}

async fn many_cuts(target: Target) {
    for qos in [1, 2] {
        let (mut reader, mut publisher, topic) = pair(&target, qos).await;
        let mut taken: Vec<String> = Vec::new();
        for round in 0..4 {
            for n in 0..40 {
                publisher.publish(&Publish::new(&topic, format!("{round}.{n}"), qos, 1)).await;
            }
            for _ in 0..10 {
                taken.push(reader.message().await.text().to_owned());
            }
            reader.quiet_but_for_messages().await;
            reader.cut_off();
            reader = back(&target).await;
        }
        while taken.len() < 160 {
            taken.push(reader.message().await.text().to_owned());
        }
        reader.quiet().await;
        let all: Vec<String> = (0..4).flat_map(|round| (0..40).map(move |n| format!("{round}.{n}"))).collect();
        assert_eq!(taken, all);
        reader.leave().await;
        publisher.leave().await;
        target.client("r").await.leave().await;
    }
}

async fn taken_over(target: Target) {
    let (mut reader, mut publisher, topic) = pair(&target, 2).await;
    for (n, qos) in [(0, 1), (1, 2), (2, 2)] {
        publisher.publish(&Publish::new(&topic, n.to_string(), qos, 1)).await;
    }
    let first = [reader.delivery().await, reader.delivery().await, reader.delivery().await];
    reader.send(&ack(PUBREC, first[2].id)).await;
    reader.acked(PUBREL, first[2].id).await;
    let mut new = back(&target).await;
    reader.ended(&[0x8e]).await;
    assert_eq!(new.acked(PUBREL, first[2].id).await, 0);
    new.send(&ack(PUBCOMP, first[2].id)).await;
    for before in &first[..2] {
        let again = new.gets(before.text()).await;
        assert_eq!((again.id, again.dup), (before.id, true));
    }
    new.quiet().await;
}

async fn clean_start_forgets(target: Target) {
    let (mut reader, mut publisher, topic) = pair(&target, 2).await;
    for qos in [1, 2] {
        publisher.publish(&Publish::new(&topic, "old", qos, 1)).await;
        reader.delivery().await;
    }
    reader.cut_off();
    publisher.post(&topic, "old").await;
    let mut reader = target.client("r").await;
    reader.subscribe(&topic, 1).await;
    publisher.post(&topic, "new").await;
    reader.gets("new").await;
    reader.quiet().await;
}

async fn clean_start_forgets_inbound(target: Target) {
    let (mut reader, _, topic) = pair(&target, 2).await;
    let (mut publisher, _) = target.lasting_client("q").await;
    publisher.say(&Publish::new(&topic, "never released", 2, 9)).await;
    publisher.acked(PUBREC, 9).await;
    publisher.cut_off();
    let mut publisher = target.client("q").await;
    // It was handed on when it came, not when it was released (4.3.3).
    reader.gets("never released").await;
    // Another message, that happens to have the same identifier.
    publisher.publish(&Publish::new(&topic, "new", 2, 9)).await;
    reader.gets("new").await;
    reader.quiet().await;
}

async fn kept_no_longer(target: Target) {
    let (reader, mut publisher, topic) = pair(&target, 1).await;
    reader.leave().await;
    publisher.post(&topic, "away").await;
    let last = target.lasting("r").with(prop::SESSION_EXPIRY, Value::Four(0));
    let (mut reader, resumed, _) = target.connect(&last).await;
    assert!(resumed);
    reader.gets("away").await;
    publisher.post(&topic, "here").await;
    reader.gets("here").await;
    reader.leave().await;
    assert!(!target.lasting_client("r").await.1);
}

async fn smaller_window(target: Target) {
    let (mut reader, mut publisher, topic) = pair(&target, 1).await;
    for n in 0..10 {
        publisher.post(&topic, &n.to_string()).await;
        reader.delivery().await;
    }
    reader.cut_off();
    let small = target.lasting("r").with(prop::RECEIVE_MAXIMUM, Value::Two(2));
    let (mut reader, resumed, _) = target.connect(&small).await;
    assert!(resumed);
    for n in (0..10).step_by(2) {
        let two = [reader.delivery().await, reader.delivery().await];
        assert_eq!((two[0].text(), two[1].text()), (n.to_string().as_str(), (n + 1).to_string().as_str()));
        reader.quiet().await;
        reader.take(&two[0]).await;
        reader.take(&two[1]).await;
    }
}

async fn open_pubrel_keeps_its_id(target: Target) {
    let (mut reader, mut publisher, topic) = pair(&target, 2).await;
    publisher.publish(&Publish::new(&topic, "open", 2, 1)).await;
    let open = reader.delivery().await;
    reader.send(&ack(PUBREC, open.id)).await;
    reader.acked(PUBREL, open.id).await;
    reader.cut_off();
    let mut reader = back(&target).await;
    reader.acked(PUBREL, open.id).await;
    for n in 0..5 {
        publisher.publish(&Publish::new(&topic, n.to_string(), 2, 1)).await;
        assert_ne!(reader.gets(&n.to_string()).await.id, open.id);
    }
}
