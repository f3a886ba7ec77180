//! PUBLISH and its acknowledgements, in both directions.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::target::{BOTH, ONLY_V5, Row, Target, row};
use crate::wire::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Publish, V5, Value, ack, frame, ping, prop};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("[MQTT-3.8.4-8] a message is delivered at the lower QoS of both", BOTH, lower_qos),
        row("[MQTT-4.3.3-10] QoS 2: a repeated PUBLISH is delivered once", BOTH, repeated_publish),
        row("[MQTT-4.3.3-11] QoS 2: each PUBREL is answered, the message delivered once", BOTH, repeated_pubrel),
        row("[MQTT-4.3.3-11] a PUBREL out of nowhere is answered", BOTH, stray_pubrel),
        row("[MQTT-4.3.3-12] QoS 2: an identifier is free again after PUBCOMP", BOTH, reused_id),
        row("[MQTT-4.3.3-4] a refused PUBREC ends the exchange", ONLY_V5, refused_pubrec),
        row("QoS 2: a repeated PUBREC is answered again", BOTH, repeated_pubrec),
        row("acknowledgements out of nowhere do no harm", BOTH, stray_acks),
        row("[MQTT-4.6.0-2] PUBACKs come in the order of the PUBLISHes", BOTH, acks_in_order),
        row("[MQTT-4.6.0-6] messages of a topic keep their order", BOTH, order),
        row("[MQTT-3.3.1-3] DUP is not passed on", BOTH, dup_is_not_passed_on),
        row("[MQTT-2.2.1-2] identifiers of client and server are independent", BOTH, independent_ids),
        row("[MQTT-2.2.1-4] an identifier is not used twice at a time", BOTH, distinct_ids),
        row("an empty payload, and one with every byte, arrive", BOTH, payloads),
        row("a payload of 200 kB arrives", BOTH, big_payload),
        row("[MQTT-4.7.3-1] odd topics: slashes, spaces, letters, length", BOTH, odd_topics),
        row("a message that nobody reads is acknowledged", BOTH, nobody),
        row("[MQTT-3.12.4-1] PINGRESP comes while 150 messages are not acknowledged", BOTH, ping_in_flight),
        row("a publisher gets on while its own 150 deliveries are not acknowledged", BOTH, publish_in_flight),
        row("[MQTT-3.3.4-9] no more is in flight than the client's receive maximum", ONLY_V5, client_window),
        row("[MQTT-3.3.4-9] QoS 2 counts until PUBCOMP", ONLY_V5, client_window_qos_2),
        row("[MQTT-3.3.4-8] QoS 0 is delivered while the window is full", ONLY_V5, qos_0_passes),
        row("[MQTT-3.3.4-7] a client that runs over the receive maximum is stopped", ONLY_V5, server_window),
        row("[MQTT-3.3.4-7] as many open QoS 2 exchanges as the receive maximum, and 300 in 3.1.1", BOTH, full_window),
        row("[MQTT-3.1.2-24,25] a packet bigger than the client takes is not sent", ONLY_V5, client_packet_size),
        row("[MQTT-3.2.2-15] a packet bigger than the server takes ends the connection", ONLY_V5, server_packet_size),
        row("$ topics are not for clients to publish", BOTH, dollar_topic),
    ]
}

pub(crate) async fn lower_qos(target: Target) {
    let mut publisher = target.client("p").await;
    for wanted in 0..3 {
        let topic = target.name(&format!("t{wanted}"));
        let mut reader = target.client("r").await;
        reader.subscribe(&topic, wanted).await;
        for qos in 0..3 {
            publisher.publish(&Publish::new(&topic, qos.to_string(), qos, 7)).await;
            assert_eq!(reader.gets(&qos.to_string()).await.qos, qos.min(wanted), "{qos} for {wanted}");
        }
        reader.leave().await;
    }
}

async fn repeated_publish(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 2).await;
    let publish = Publish::new(&topic, "once", 2, 9);
    client.say(&publish).await;
    assert_eq!(client.acked(PUBREC, 9).await, 0);
    for _ in 0..3 {
        client.say(&publish.clone().again()).await;
        assert!(client.acked(PUBREC, 9).await < 0x80);
    }
    client.send(&ack(PUBREL, 9)).await;
    assert_eq!(client.acked(PUBCOMP, 9).await, 0);
    client.publish(&Publish::new(&topic, "next", 2, 10)).await;
    client.gets("once").await;
    client.gets("next").await;
}

async fn repeated_pubrel(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 2).await;
    client.publish(&Publish::new(&topic, "once", 2, 9)).await;
    for _ in 0..3 {
        client.send(&ack(PUBREL, 9)).await;
        assert!([0, 0x92].contains(&client.acked(PUBCOMP, 9).await));
    }
    client.publish(&Publish::new(&topic, "next", 2, 9)).await;
    client.gets("once").await;
    client.gets("next").await;
}

async fn stray_pubrel(target: Target) {
    let mut client = target.client("c").await;
    client.send(&ack(PUBREL, 77)).await;
    assert!([0, 0x92].contains(&client.acked(PUBCOMP, 77).await));
    client.quiet().await;
}

async fn reused_id(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 0).await;
    for n in 0..20 {
        client.publish(&Publish::new(&topic, n.to_string(), 1 + n % 2, 5)).await;
    }
    for n in 0..20 {
        client.gets(&n.to_string()).await;
    }
}

async fn refused_pubrec(target: Target) {
    let (mut reader, topic) = (target.client("r").await, target.name("t"));
    reader.subscribe(&topic, 2).await;
    let mut publisher = target.client("p").await;
    publisher.publish(&Publish::new(&topic, "bad", 2, 1)).await;
    let bad = reader.delivery().await;
    reader.send(&frame(0x50, &[&bad.id.to_be_bytes()[..], &[0x99]].concat())).await;
    publisher.publish(&Publish::new(&topic, "good", 2, 1)).await;
    reader.gets("good").await;
    reader.quiet().await;
}

async fn repeated_pubrec(target: Target) {
    let (mut reader, topic) = (target.client("r").await, target.name("t"));
    reader.subscribe(&topic, 2).await;
    target.client("p").await.publish(&Publish::new(&topic, "x", 2, 1)).await;
    let publish = reader.delivery().await;
    for _ in 0..3 {
        reader.send(&ack(PUBREC, publish.id)).await;
        assert_eq!(reader.acked(PUBREL, publish.id).await, 0);
    }
    reader.send(&ack(PUBCOMP, publish.id)).await;
    reader.quiet().await;
}

async fn stray_acks(target: Target) {
    let mut client = target.client("c").await;
    client.send(&[ack(PUBACK, 1_000), ack(PUBCOMP, 1_001)].concat()).await;
    client.quiet().await;
    // To a PUBREC, [MQTT-4.3.3-4] in MQTT 5 wants a PUBREL, which may say 0x92.
    client.send(&[ack(PUBREC, 1_002), ping()].concat()).await;
    client.until(|packet| matches!(packet, Packet::Pong).then_some(())).await;
}

async fn acks_in_order(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    let packets: Vec<u8> =
        (1..=200).flat_map(|id| Publish::new(&topic, "x", 1, id * 3).bytes(target.version)).collect();
    client.send(&packets).await;
    for id in 1..=200 {
        assert!(matches!(client.next().await, Packet::Ack { kind: PUBACK, id: found, .. } if found == id * 3));
    }
}

async fn order(target: Target) {
    for qos in 0..3 {
        let (mut reader, topic) = (target.client("r").await, target.name(&format!("t{qos}")));
        reader.subscribe(&topic, qos).await;
        let mut publisher = target.client("p").await;
        // In bursts that no lane for QoS 0 may drop.
        for burst in 0..3_u16 {
            for n in 1..=100 {
                let id = burst * 100 + n;
                publisher.say(&Publish::new(&topic, id.to_string(), qos, id)).await;
            }
            for n in 1..=100 {
                let id = burst * 100 + n;
                match qos {
                    0 => {}
                    1 => assert!(publisher.acked(PUBACK, id).await < 0x80),
                    _ => {
                        publisher.acked(PUBREC, id).await;
                        publisher.send(&ack(PUBREL, id)).await;
                        publisher.acked(PUBCOMP, id).await;
                    }
                }
            }
            for n in 1..=100 {
                reader.gets(&(burst * 100 + n).to_string()).await;
            }
        }
        publisher.leave().await;
        reader.leave().await;
    }
}

async fn dup_is_not_passed_on(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 2).await;
    for qos in [1, 2] {
        client.publish(&Publish::new(&topic, "x", qos, 1).again()).await;
        assert!(!client.gets("x").await.dup);
    }
}

async fn independent_ids(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 2).await;
    let mut publisher = target.client("p").await;
    for qos in [1, 2] {
        publisher.publish(&Publish::new(&topic, "in", qos, 50)).await;
        let open = client.delivery().await;
        // The same identifier, the other way.
        client.publish(&Publish::new(&target.name("elsewhere"), "out", qos, open.id)).await;
        client.take(&open).await;
    }
    client.quiet().await;
}

async fn distinct_ids(target: Target) {
    let (mut reader, topic) = (target.client("r").await, target.name("t"));
    reader.subscribe(&topic, 2).await;
    let mut publisher = target.client("p").await;
    let mut open = Vec::new();
    for n in 0..20 {
        publisher.publish(&Publish::new(&topic, n.to_string(), 1 + n % 2, 1)).await;
        let delivery = reader.delivery().await;
        assert!(!open.contains(&delivery.id), "{delivery:?}");
        open.push(delivery.id);
        // One that is only half done is not free.
        if delivery.qos == 2 {
            reader.send(&ack(PUBREC, delivery.id)).await;
            reader.acked(PUBREL, delivery.id).await;
        }
    }
}

async fn payloads(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 2).await;
    for qos in 0..3 {
        for payload in [Bytes::new(), (0..=255).collect()] {
            let publish = Publish { payload: payload.clone(), ..Publish::new(&topic, "", qos, 1) };
            client.publish(&publish).await;
            assert_eq!(client.message().await.payload, payload);
        }
    }
}

async fn big_payload(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 2).await;
    for qos in 0..3 {
        let payload = "0123456789".repeat(20_000);
        client.publish(&Publish::new(&topic, payload.as_str(), qos, 1)).await;
        client.gets(&payload).await;
    }
}

async fn odd_topics(target: Target) {
    let mut client = target.client("c").await;
    let base = target.name("t");
    let long = format!("{base}/{}", "x".repeat(500));
    let topics = [
        format!("/{base}"),
        format!("{base}/"),
        format!("{base}//"),
        format!("//{base}"),
        format!("{base} with spaces / and ümläuts/😀"),
        format!("{base}/a\u{feff}b"),
        base.to_uppercase(),
        long,
        base,
    ];
    for topic in &topics {
        client.subscribe(topic, 1).await;
    }
    for topic in &topics {
        client.post(topic, topic).await;
        assert_eq!(&client.gets(topic).await.topic, topic);
    }
    client.quiet().await;
}

async fn nobody(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.say(&Publish::new(&topic, "x", 1, 1)).await;
    assert!([0, 0x10].contains(&client.acked(PUBACK, 1).await));
    client.say(&Publish::new(&topic, "x", 2, 2)).await;
    assert!([0, 0x10].contains(&client.acked(PUBREC, 2).await));
}

pub(crate) async fn ping_in_flight(target: Target) {
    let topic = target.name("t");
    let (mut reader, _) = target.lasting_client("r").await;
    reader.subscribe(&topic, 1).await;
    reader.leave().await;
    let mut publisher = target.client("p").await;
    for n in 0..150 {
        publisher.post(&topic, &n.to_string()).await;
    }
    let (mut reader, ..) = target.connect(&Connect { keep_alive: 2, ..target.lasting("r") }).await;
    let mut seen = 0;
    let end = Instant::now() + Duration::from_secs(4);
    // Longer than a keep-alive, and more often than it asks for.
    while Instant::now() < end {
        reader.send(&ping()).await;
        let round = Instant::now() + Duration::from_secs(1);
        let mut answered = false;
        while let Ok(packet) = timeout_at(round, reader.next()).await {
            match packet {
                Packet::Pong => answered = true,
                Packet::Publish(_) => seen += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(answered, "no PINGRESP while {seen} messages are not acknowledged");
    }
    assert!(seen > 0);
}

async fn publish_in_flight(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 1).await;
    for n in 1..=150 {
        client.publish(&Publish::new(&topic, n.to_string(), 1, n)).await;
    }
    for n in 1..=150 {
        client.gets(&n.to_string()).await;
    }
}

async fn client_window(target: Target) {
    let (mut reader, ..) = target.connect(&target.clean("r").with(prop::RECEIVE_MAXIMUM, Value::Two(3))).await;
    let topic = target.name("t");
    reader.subscribe(&topic, 1).await;
    let mut publisher = target.client("p").await;
    for n in 0..30 {
        publisher.post(&topic, &n.to_string()).await;
    }
    let mut open: Vec<Publish> = Vec::new();
    for n in 0..30 {
        if open.len() == 3 {
            reader.quiet().await;
            reader.take(&open.remove(0)).await;
        }
        let next = reader.delivery().await;
        assert_eq!(next.text(), n.to_string());
        open.push(next);
    }
}

async fn client_window_qos_2(target: Target) {
    let (mut reader, ..) = target.connect(&target.clean("r").with(prop::RECEIVE_MAXIMUM, Value::Two(1))).await;
    let topic = target.name("t");
    reader.subscribe(&topic, 2).await;
    let mut publisher = target.client("p").await;
    for n in 0..5 {
        publisher.publish(&Publish::new(&topic, n.to_string(), 2, 1)).await;
    }
    for n in 0..5 {
        let next = reader.delivery().await;
        assert_eq!(next.text(), n.to_string());
        reader.quiet().await;
        reader.send(&ack(PUBREC, next.id)).await;
        assert_eq!(reader.acked(PUBREL, next.id).await, 0);
        reader.quiet().await;
        reader.send(&ack(PUBCOMP, next.id)).await;
    }
}

async fn qos_0_passes(target: Target) {
    let (mut reader, ..) = target.connect(&target.clean("r").with(prop::RECEIVE_MAXIMUM, Value::Two(1))).await;
    let topic = target.name("t");
    reader.subscribe(&topic, 1).await;
    let mut publisher = target.client("p").await;
    publisher.post(&topic, "1").await;
    publisher.post(&topic, "2").await;
    let open = reader.delivery().await;
    publisher.publish(&Publish::new(&topic, "0", 0, 0)).await;
    assert_eq!(reader.delivery().await.text(), "0");
    reader.take(&open).await;
    reader.gets("2").await;
}

async fn server_window(target: Target) {
    let (mut client, _, props) = target.connect(&target.clean("c")).await;
    let limit = match props.get(prop::RECEIVE_MAXIMUM) {
        Some(Value::Two(limit)) => *limit,
        _ => return,
    };
    let topic = target.name("t");
    for id in 1..=limit {
        client.say(&Publish::new(&topic, "x", 2, id)).await;
        assert_eq!(client.acked(PUBREC, id).await & 0x80, 0);
    }
    client.say(&Publish::new(&topic, "x", 2, limit + 1)).await;
    // The server may take more than it promised, or stop the client (4.9).
    match client.next().await {
        Packet::Ack { kind: PUBREC, .. } => {}
        Packet::Disconnect { code, .. } => assert_eq!(code, 0x93),
        other => panic!("{other:?}"),
    }
}

async fn full_window(target: Target) {
    let (mut client, _, props) = target.connect(&target.clean("c")).await;
    let limit = match props.get(prop::RECEIVE_MAXIMUM) {
        Some(Value::Two(limit)) => *limit,
        // 3.1.1 has none.
        _ => 300,
    };
    let topic = target.name("t");
    for round in 0..3 {
        for id in 1..=limit {
            client.say(&Publish::new(&topic, round.to_string(), 2, id)).await;
        }
        for id in 1..=limit {
            client.acked(PUBREC, id).await;
            client.send(&ack(PUBREL, id)).await;
        }
        for id in 1..=limit {
            client.acked(PUBCOMP, id).await;
        }
    }
}

async fn client_packet_size(target: Target) {
    let (mut reader, ..) = target.connect(&target.clean("r").with(prop::MAXIMUM_PACKET, Value::Four(200))).await;
    let topic = target.name("t");
    reader.subscribe(&topic, 2).await;
    let mut publisher = target.client("p").await;
    for qos in 0..3 {
        publisher.publish(&Publish::new(&topic, "x".repeat(300), qos, 1)).await;
        publisher.publish(&Publish::new(&topic, "small", qos, 2)).await;
        assert_eq!(reader.gets("small").await.qos, qos);
    }
}

async fn server_packet_size(target: Target) {
    let (mut client, _, props) = target.connect(&target.clean("c")).await;
    let Some(Value::Four(limit)) = props.get(prop::MAXIMUM_PACKET) else { return };
    let limit = usize::try_from(*limit).unwrap();
    let topic = target.name("t");
    let around = Publish::new(&topic, "", 1, 1).bytes(V5).len();
    client.publish(&Publish::new(&topic, "x".repeat(limit - around - 2), 1, 1)).await;
    let over = Publish::new(&topic, "x".repeat(limit), 1, 2).bytes(V5);
    // It need not read all of it first.
    client.send(&over[..64]).await;
    client.ended(&[0x95]).await;
}

async fn dollar_topic(target: Target) {
    let mut client = target.client("c").await;
    client.subscribe("$SYS/#", 1).await;
    let mut forger = target.client("f").await;
    forger.say(&Publish::new("$SYS/fake", "fake", 1, 1)).await;
    match forger.next().await {
        Packet::Ack { kind: PUBACK, code, .. } => {
            assert!(!target.is_v5() || [0, 0x10, 0x87, 0x90].contains(&code), "{code:#x}");
        }
        // [MQTT-3.3.5-2] of 3.1.1
        Packet::Closed => {}
        other => panic!("{other:?}"),
    }
    // Whatever else is said there, this is not.
    client.send(&ping()).await;
    loop {
        match client.next().await {
            Packet::Pong => break,
            Packet::Publish(publish) => assert_ne!(publish.text(), "fake"),
            other => panic!("{other:?}"),
        }
    }
}
