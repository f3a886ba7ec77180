//! Sessions, and two connections that want the same one.

use std::time::Duration;

use tokio::time::sleep;

use crate::target::{BOTH, ONLY_V5, ONLY_V311, Row, Target, row};
use crate::wire::{Packet, Props, Publish, V5, Value, disconnect, prop};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("[MQTT-3.1.4-3] a second connection ends the first, with 0x8E in MQTT 5", BOTH, take_over),
        row("a take-over from the other version", BOTH, take_over_across_versions),
        row("a take-over leaves others alone", BOTH, take_over_leaves_others),
        row("[MQTT-3.1.2-6] a clean session is gone with its connection", BOTH, clean_session),
        row("[MQTT-3.1.2-23] a session without expiry is gone with its connection", ONLY_V5, expiry_0),
        row("[MQTT-3.1.2-23] a session lives as long as its expiry", ONLY_V5, expiry_1),
        row("a session of 3.1.1 that is not clean lives on", ONLY_V311, lives_on),
        row("[MQTT-3.1.2-23] a session may be clean at the start and kept at the end", ONLY_V5, clean_and_kept),
        row("[MQTT-3.14.2-2] the expiry may change with DISCONNECT", ONLY_V5, updated),
        row("[MQTT-3.14.2-2] but not from 0", ONLY_V5, not_from_0),
        row("subscriptions and their options are kept with the session", ONLY_V5, options_are_kept),
        row("unsubscribing is kept with the session", BOTH, unsubscribed),
        row("QoS 0 messages of before are not needed after; others are all there", BOTH, mixed),
        row("sessions of 200 clients", BOTH, crowd),
    ]
}

async fn take_over(target: Target) {
    for lasting in [false, true] {
        let connect = if lasting { target.lasting("c") } else { target.clean("c") };
        let (mut old, ..) = target.connect(&connect).await;
        let (mut new, resumed, _) = target.connect(&connect).await;
        assert_eq!(resumed, lasting);
        if target.is_v5() {
            assert!(matches!(old.next().await, Packet::Disconnect { code: 0x8e, .. }));
        }
        assert_eq!(old.next().await, Packet::Closed);
        new.quiet().await;
        new.leave().await;
    }
}

async fn take_over_across_versions(target: Target) {
    let mut old = target.client("c").await;
    let mut new = target.other_version("c").await;
    old.ended(&[0x8e]).await;
    new.quiet().await;
}

async fn take_over_leaves_others(target: Target) {
    let mut others = Vec::new();
    for n in 0..10 {
        others.push(target.client(&format!("other{n}")).await);
    }
    let mut connections = Vec::new();
    for _ in 0..30 {
        connections.push(target.client("c").await);
    }
    for other in &mut others {
        other.quiet().await;
    }
    connections.pop().unwrap().quiet().await;
}

async fn clean_session(target: Target) {
    let topic = target.name("t");
    let mut client = target.client("c").await;
    client.subscribe(&topic, 1).await;
    client.leave().await;
    target.client("p").await.post(&topic, "lost").await;
    let (mut client, resumed) = target.lasting_client("c").await;
    assert!(!resumed);
    client.post(&topic, "not subscribed").await;
    client.quiet().await;
}

async fn expiry_0(target: Target) {
    let zero = target.lasting("c").with(prop::SESSION_EXPIRY, Value::Four(0));
    let absent = crate::wire::Connect { props: Props::default(), ..target.lasting("c") };
    for connect in [zero, absent] {
        let (mut client, ..) = target.connect(&connect).await;
        client.subscribe(&target.name("t"), 1).await;
        client.cut_off();
        sleep(Duration::from_millis(100)).await;
        let (client, resumed) = target.lasting_client("c").await;
        assert!(!resumed);
        client.leave().await;
        target.client("c").await.leave().await;
    }
}

async fn expiry_1(target: Target) {
    let topic = target.name("t");
    let short = target.lasting("c").with(prop::SESSION_EXPIRY, Value::Four(2));
    let (mut client, ..) = target.connect(&short).await;
    client.subscribe(&topic, 1).await;
    client.leave().await;
    sleep(Duration::from_millis(500)).await;
    let (client, resumed, _) = target.connect(&short).await;
    assert!(resumed);
    client.leave().await;
    target.client("p").await.post(&topic, "too late").await;
    sleep(Duration::from_millis(3_200)).await;
    let (mut client, resumed, _) = target.connect(&short).await;
    assert!(!resumed);
    client.subscribe(&topic, 1).await;
    client.quiet().await;
}

async fn lives_on(target: Target) {
    let topic = target.name("t");
    let (mut client, _) = target.lasting_client("c").await;
    client.subscribe(&topic, 1).await;
    client.leave().await;
    target.client("p").await.post(&topic, "x").await;
    sleep(Duration::from_millis(1_500)).await;
    let (mut client, resumed) = target.lasting_client("c").await;
    assert!(resumed);
    client.gets("x").await;
}

async fn clean_and_kept(target: Target) {
    let topic = target.name("t");
    let clean = target.clean("c").with(prop::SESSION_EXPIRY, Value::Four(60));
    let (mut client, ..) = target.connect(&clean).await;
    client.subscribe(&topic, 1).await;
    client.leave().await;
    target.client("p").await.post(&topic, "x").await;
    let (mut client, resumed) = target.lasting_client("c").await;
    assert!(resumed);
    client.gets("x").await;
}

async fn updated(target: Target) {
    // To the end of it.
    let (mut client, _) = target.lasting_client("c").await;
    client.send(&disconnect(0, &Props::default().with(prop::SESSION_EXPIRY, Value::Four(0)))).await;
    client.ended(&[]).await;
    let (mut client, resumed, _) =
        target.connect(&target.lasting("c").with(prop::SESSION_EXPIRY, Value::Four(1))).await;
    assert!(!resumed);
    // To a longer life.
    client.send(&disconnect(0, &Props::default().with(prop::SESSION_EXPIRY, Value::Four(60)))).await;
    client.ended(&[]).await;
    sleep(Duration::from_millis(2_200)).await;
    let (_, resumed) = target.lasting_client("c").await;
    assert!(resumed);
}

async fn not_from_0(target: Target) {
    let mut client = target.client("c").await;
    client.send(&disconnect(0, &Props::default().with(prop::SESSION_EXPIRY, Value::Four(60)))).await;
    client.ended(&[0x82]).await;
    let (_, resumed) = target.lasting_client("c").await;
    assert!(!resumed);
}

async fn options_are_kept(target: Target) {
    let topic = target.name("t");
    let (mut client, _) = target.lasting_client("c").await;
    let props = Props::default().with(prop::SUBSCRIPTION_ID, Value::Variable(5));
    // No local, retain as published.
    assert_eq!(client.subscribe_with(&[(&topic, 0x0c | 1)], &props).await, [1]);
    client.leave().await;
    let (mut client, resumed) = target.lasting_client("c").await;
    assert!(resumed);
    client.post(&topic, "own").await;
    target.client("p").await.publish(&Publish::new(&topic, "kept", 2, 1).retained()).await;
    let seen = client.gets("kept").await;
    assert!(seen.retain && seen.qos == 1, "{seen:?}");
    assert_eq!(seen.props.all(prop::SUBSCRIPTION_ID), [&Value::Variable(5)]);
}

async fn unsubscribed(target: Target) {
    let (gone, kept) = (target.name("a"), target.name("b"));
    let (mut client, _) = target.lasting_client("c").await;
    client.subscribe(&gone, 1).await;
    client.subscribe(&kept, 1).await;
    client.unsubscribe(&[&gone]).await;
    client.leave().await;
    let mut publisher = target.client("p").await;
    publisher.post(&gone, "x").await;
    publisher.post(&kept, "y").await;
    let (mut client, _) = target.lasting_client("c").await;
    client.gets("y").await;
    client.quiet().await;
}

async fn mixed(target: Target) {
    let topic = target.name("t");
    let (mut client, _) = target.lasting_client("c").await;
    client.subscribe(&topic, 2).await;
    client.leave().await;
    let mut publisher = target.client("p").await;
    for n in 0..30 {
        publisher.publish(&Publish::new(&topic, n.to_string(), n % 3, 1)).await;
    }
    let (mut client, _) = target.lasting_client("c").await;
    let mut seen = Vec::new();
    while seen.last() != Some(&29) {
        let message = client.message().await;
        let n: u8 = message.text().parse().unwrap();
        assert_eq!(message.qos, n % 3);
        if message.qos > 0 {
            seen.push(n);
        }
    }
    assert_eq!(seen, (0..30).filter(|n| n % 3 > 0).collect::<Vec<_>>());
}

async fn crowd(target: Target) {
    let topic = target.name("t");
    for n in 0..200 {
        let (mut client, _) = target.lasting_client(&format!("c{n}")).await;
        client.subscribe(&topic, 1).await;
        client.leave().await;
    }
    target.client("p").await.post(&topic, "x").await;
    for n in 0..200 {
        let (mut client, resumed) = target.lasting_client(&format!("c{n}")).await;
        assert!(resumed);
        client.gets("x").await;
        client.quiet().await;
        if client.version == V5 {
            client.leave().await;
        }
    }
}
