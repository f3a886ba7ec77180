//! SUBSCRIBE, UNSUBSCRIBE and topic filters.

use crate::client::Client;
use crate::target::{BOTH, ONLY_V5, Row, Target, row};
use crate::wire::{Packet, Props, Publish, Value, prop, subscribe, unsubscribe};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("[MQTT-4.7.1-1,2] wildcards match what they are to match", BOTH, wildcards),
        row("[MQTT-4.7.2-1] # and + at the front match no $ topic", BOTH, dollar),
        row("[MQTT-4.7.1-1,2] filters that are none are refused", BOTH, bad_filters),
        row("[MQTT-4.7.3-1,2] an empty filter, and one with NUL, are refused", BOTH, empty_filters),
        row("[MQTT-3.8.4-6] one code per filter, in order", BOTH, codes),
        row("[MQTT-3.8.4-3] subscribing again replaces", BOTH, replaces),
        row("[MQTT-3.3.4-2] overlapping subscriptions: at least one copy, at the highest QoS", BOTH, overlapping),
        row("[MQTT-3.3.4-3,4,5] subscription identifiers", ONLY_V5, identifiers),
        row("[MQTT-3.8.4-3] an identifier is replaced, and taken away", ONLY_V5, identifier_replaced),
        row("3.8.2.1.2 an identifier of 0 is an error", ONLY_V5, identifier_0),
        row("[MQTT-3.8.3-3] no local", ONLY_V5, no_local),
        row("without no local a client hears itself", BOTH, hears_itself),
        row("[MQTT-3.10.4-1,5] unsubscribing ends delivery, and is answered", BOTH, unsubscribing),
        row("[MQTT-3.10.4-2] what was on its way before may still come", BOTH, unsubscribing_in_flight),
        row("[MQTT-3.8.3-1,2] SUBSCRIBE without a filter is an error", BOTH, no_filter),
        row("[MQTT-3.8.3-5] reserved bits of the options", BOTH, reserved_options),
        row("[MQTT-3.8.3-4] QoS 3 is an error", BOTH, qos_3),
        row("[MQTT-3.8.1-1] a hundred filters at once", BOTH, hundred),
        row("filters with letters, spaces and many levels", BOTH, odd_filters),
        row("a subscriber of one version hears publishers of the other", BOTH, across_versions),
    ]
}

async fn wildcards(target: Target) {
    let mut client = target.client("c").await;
    let cases: [(&str, &[&str], &[&str]); 9] = [
        ("/sport/#", &["/sport", "/sport/", "/sport/a", "/sport/a/b"], &["/sports", "/Sport"]),
        ("/sport/+", &["/sport/", "/sport/a"], &["/sport", "/sport/a/b"]),
        ("/+/+", &["/a/b", "//", "/a/"], &["/a", "/a/b/c"]),
        ("/+", &["/", "/finance"], &["/a/b"]),
        ("/+/tennis/#", &["/x/tennis", "/x/tennis/y/z", "//tennis"], &["/tennis", "/x/y/tennis"]),
        ("/a/+/c", &["/a/b/c", "/a//c"], &["/a/b/b/c", "/a/c"]),
        ("/#", &["/", "/a", "//a", "/a/b/c/d/e/f/g"], &[]),
        ("/a/b", &["/a/b"], &["/a/b/", "/a/B", "//a/b"]),
        ("/a/+/+/#", &["/a/b/c", "/a/b/c/d", "/a///"], &["/a/b"]),
    ];
    for (filter, matching, others) in cases {
        client.subscribe(&target.name(filter), 1).await;
        for topic in others {
            client.post(&target.name(topic), "not matching").await;
        }
        for topic in matching {
            client.post(&target.name(topic), topic).await;
            assert_eq!(client.message().await.text(), *topic, "{filter}");
        }
        client.unsubscribe(&[&target.name(filter)]).await;
    }
}

async fn dollar(target: Target) {
    let mut client = target.client("c").await;
    for filter in ["#", "+/#", "+/monitor/+"] {
        client.subscribe(filter, 1).await;
    }
    // It may be refused, or end the forger's connection.
    let mut forger = target.client("f").await;
    forger.say(&Publish::new("$SYS/monitor/x", "hidden", 1, 1)).await;
    forger.next().await;
    let end = target.name("end");
    client.post(&end, "end").await;
    loop {
        let message = client.message().await;
        assert!(!message.topic.starts_with('$'), "{message:?}");
        if message.topic == end {
            return;
        }
    }
}

/// Subscribing to `filter` is refused: by its code, or by the end of the connection.
async fn refused(target: &Target, filter: &str) {
    let mut client = target.client("c").await;
    client.send(&subscribe(target.version, &[(filter, 0)], &Props::default())).await;
    let codes: &[u8] = if target.is_v5() { &[0x80, 0x8f] } else { &[0x80] };
    match client.next().await {
        Packet::SubAck { codes: given, .. } => {
            assert!(given.len() == 1 && codes.contains(&given[0]), "{filter:?}: {given:x?}");
            client.leave().await;
        }
        Packet::Closed => {}
        Packet::Disconnect { code, .. } => assert!([0x81, 0x82, 0x8f].contains(&code), "{filter:?}: {code:#x}"),
        other => panic!("{filter:?}: {other:?}"),
    }
}

async fn bad_filters(target: Target) {
    for filter in ["a/#/b", "a#", "#a", "#/a", "a/b#", "a+/b", "a/+b", "+a", "a++", "a/##", "++"] {
        refused(&target, filter).await;
    }
    for filter in ["a+/b", "+b"] {
        let mut client = target.client("c").await;
        client.send(&unsubscribe(target.version, &[filter])).await;
        // It cannot be subscribed to, so 0x11 is as right as 0x8F.
        match client.next().await {
            Packet::UnsubAck { codes, .. } => {
                assert!(!target.is_v5() || [0x11, 0x8f].contains(&codes[0]), "{codes:x?}");
                client.leave().await;
            }
            Packet::Closed => {}
            Packet::Disconnect { code, .. } => assert!([0x81, 0x82, 0x8f].contains(&code), "{code:#x}"),
            other => panic!("{other:?}"),
        }
    }
}

async fn empty_filters(target: Target) {
    for filter in ["", "a\0b"] {
        refused(&target, filter).await;
    }
}

async fn codes(target: Target) {
    let mut client = target.client("c").await;
    let names: Vec<String> = (0..5).map(|n| target.name(&n.to_string())).collect();
    let filters = [(&*names[0], 2), (&*names[1], 0), (&*names[2], 1), (&*names[3], 2), (&*names[4], 0)];
    assert_eq!(client.subscribe_with(&filters, &Props::default()).await, [2, 0, 1, 2, 0]);
}

async fn replaces(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    for qos in [2, 0, 1, 1] {
        client.subscribe(&topic, qos).await;
        client.publish(&Publish::new(&topic, "x", 2, 1)).await;
        assert_eq!(client.gets("x").await.qos, qos);
        client.quiet().await;
    }
}

async fn overlapping(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("a/b"));
    for (filter, qos) in [("a/#", 2), ("a/+", 1), ("a/b", 0)] {
        client.subscribe(&target.name(filter), qos).await;
    }
    let mut publisher = target.client("p").await;
    for n in 0..10 {
        publisher.publish(&Publish::new(&topic, n.to_string(), 2, 1)).await;
    }
    publisher.publish(&Publish::new(&topic, "end", 2, 1)).await;
    // One copy at QoS 2, or one per subscription.
    let mut at_qos_2 = Vec::new();
    while at_qos_2.last().is_none_or(|text| text != "end") {
        let message = client.message().await;
        if message.qos == 2 {
            at_qos_2.push(message.text().to_owned());
        }
    }
    let wanted: Vec<String> = (0..10).map(|n: u8| n.to_string()).chain(["end".to_owned()]).collect();
    assert_eq!(at_qos_2, wanted);
}

async fn subscribe_as(client: &mut Client, filter: &str, id: u32) {
    let props = Props::default().with(prop::SUBSCRIPTION_ID, Value::Variable(id));
    assert_eq!(client.subscribe_with(&[(filter, 1)], &props).await, [1]);
}

async fn identifiers(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("a/b"));
    subscribe_as(&mut client, &topic, 1).await;
    subscribe_as(&mut client, &target.name("a/+"), 268_435_455).await;
    subscribe_as(&mut client, &target.name("x"), 7).await;
    client.post(&topic, "x").await;
    // Both in one copy, or one in each.
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let message = client.gets("x").await;
        let ids = message.props.all(prop::SUBSCRIPTION_ID);
        assert!(!ids.is_empty(), "{message:?}");
        seen.extend(ids.into_iter().cloned());
    }
    seen.sort_by_key(|id| format!("{id:?}"));
    assert_eq!(seen, [Value::Variable(1), Value::Variable(268_435_455)]);
    client.quiet().await;
}

async fn identifier_replaced(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    subscribe_as(&mut client, &topic, 1).await;
    subscribe_as(&mut client, &topic, 2).await;
    client.post(&topic, "x").await;
    assert_eq!(client.gets("x").await.props.all(prop::SUBSCRIPTION_ID), [&Value::Variable(2)]);
    client.subscribe(&topic, 1).await;
    client.post(&topic, "y").await;
    assert_eq!(client.gets("y").await.props.get(prop::SUBSCRIPTION_ID), None);
}

async fn identifier_0(target: Target) {
    let mut client = target.client("c").await;
    let props = Props::default().with(prop::SUBSCRIPTION_ID, Value::Variable(0));
    client.send(&subscribe(target.version, &[("a", 1)], &props)).await;
    client.ended(&[0x81, 0x82]).await;
}

async fn no_local(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 0x04 | 1).await;
    client.post(&topic, "own").await;
    target.client("p").await.post(&topic, "another's").await;
    client.gets("another's").await;
    client.quiet().await;
}

async fn hears_itself(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 1).await;
    client.post(&topic, "own").await;
    client.gets("own").await;
}

async fn unsubscribing(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 1).await;
    client.subscribe(&target.name("u"), 1).await;
    let codes = client.unsubscribe(&[&topic, &target.name("never"), &target.name("/#")]).await;
    assert!(!target.is_v5() || codes == [0, 0x11, 0x11], "{codes:x?}");
    client.post(&topic, "x").await;
    client.post(&target.name("u"), "y").await;
    client.gets("y").await;
    let codes = client.unsubscribe(&[&topic]).await;
    assert!(!target.is_v5() || codes == [0x11], "{codes:x?}");
}

async fn unsubscribing_in_flight(target: Target) {
    let (mut client, topic) = (target.client("c").await, target.name("t"));
    client.subscribe(&topic, 2).await;
    target.client("p").await.publish(&Publish::new(&topic, "x", 2, 1)).await;
    let open = client.delivery().await;
    client.unsubscribe(&[&topic]).await;
    // The exchange that has begun is brought to its end.
    client.take(&open).await;
    client.quiet().await;
}

async fn no_filter(target: Target) {
    for packet in [subscribe(target.version, &[], &Props::default()), unsubscribe(target.version, &[])] {
        let mut client = target.client("c").await;
        client.send(&packet).await;
        client.ended(&[0x81, 0x82]).await;
    }
}

async fn reserved_options(target: Target) {
    let reserved: &[u8] = if target.is_v5() { &[0x40, 0x80, 0xc1] } else { &[0x04, 0x08, 0x10, 0x40, 0x80] };
    for options in reserved {
        let mut client = target.client("c").await;
        client.send(&subscribe(target.version, &[("a", *options)], &Props::default())).await;
        client.ended(&[0x81, 0x82]).await;
    }
}

async fn qos_3(target: Target) {
    let mut client = target.client("c").await;
    client.send(&subscribe(target.version, &[("a", 3)], &Props::default())).await;
    client.ended(&[0x81, 0x82]).await;
}

async fn hundred(target: Target) {
    let mut client = target.client("c").await;
    let topics: Vec<String> = (0..100).map(|n| target.name(&format!("t{n}"))).collect();
    let filters: Vec<(&str, u8)> = topics.iter().map(|topic| (topic.as_str(), 1)).collect();
    assert_eq!(client.subscribe_with(&filters, &Props::default()).await, [1; 100]);
    client.post(&topics[99], "x").await;
    client.gets("x").await;
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let codes = client.unsubscribe(&names).await;
    assert!(!target.is_v5() || codes == [0; 100]);
}

async fn odd_filters(target: Target) {
    let mut client = target.client("c").await;
    for name in ["/a b/ü/😀/+", "/ /+", "//+", "/a/b/c/d/e/f/g/h/i/j/+"] {
        let filter = target.name(name);
        client.subscribe(&filter, 1).await;
        client.post(&filter.replace('+', "x"), name).await;
        client.gets(name).await;
        client.unsubscribe(&[&filter]).await;
    }
}

pub(crate) async fn across_versions(target: Target) {
    let (mut reader, topic) = (target.client("r").await, target.name("t"));
    reader.subscribe(&topic, 2).await;
    let mut publisher = target.other_version("p").await;
    for qos in 0..3 {
        publisher.publish(&Publish::new(&topic, qos.to_string(), qos, 1)).await;
        reader.gets(&qos.to_string()).await;
    }
}
