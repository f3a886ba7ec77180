//! Packets that are none. The broker ends the connection, for this client alone; in MQTT 5 it may say why (4.13).

use std::sync::Arc;

use crate::target::{BOTH, ONLY_V5, ONLY_V311, Row, Target, row};
use crate::wire::{Packet, Props, Publish, V5, Value, frame, prop, text, variable, word};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, versions, body) in in_connections() {
        rows.push(row(name, versions, move |target| ends(target, Arc::clone(&body))));
    }
    for (name, body) in in_connects() {
        let body: Arc<[u8]> = body.into();
        rows.push(row(name, ONLY_V5, move |target| refuses(target, Arc::clone(&body))));
    }
    rows.push(row("a broker survives a thousand random packets", BOTH, noise));
    rows.push(row("a connection that ends inside a packet ends quietly", BOTH, truncated));
    rows
}

type Build = Arc<dyn Fn(u8) -> Vec<u8> + Send + Sync>;

fn in_connections() -> Vec<(&'static str, &'static [u8], Build)> {
    fn case(
        name: &'static str,
        versions: &'static [u8],
        build: impl Fn(u8) -> Vec<u8> + Send + Sync + 'static,
    ) -> (&'static str, &'static [u8], Build) {
        (name, versions, Arc::new(build))
    }
    let none = |version| Props::default().encode(version);
    let publish = |version, first: u8, id: &[u8], props: Props| {
        frame(first, &[text("a"), id.to_vec(), props.encode(version), b"x".to_vec()].concat())
    };
    let doubled = |id, value: Value| Props::default().with(id, value.clone()).with(id, value);
    vec![
        case("[MQTT-3.3.1-4] PUBLISH at QoS 3", BOTH, move |v| publish(v, 0x36, &[0, 1], Props::default())),
        case("[MQTT-3.3.1-2] PUBLISH at QoS 0 with DUP", BOTH, move |v| publish(v, 0x38, &[], Props::default())),
        case("[MQTT-2.2.1-3] PUBLISH with identifier 0", BOTH, move |v| publish(v, 0x32, &[0, 0], Props::default())),
        case("[MQTT-3.3.2-2] PUBLISH to a wildcard #", BOTH, |v| Publish::new("a/#", "x", 1, 1).bytes(v)),
        case("[MQTT-3.3.2-2] PUBLISH to a wildcard +", BOTH, |v| Publish::new("+/a", "x", 0, 0).bytes(v)),
        case("[MQTT-4.7.3-1] PUBLISH to an empty topic", BOTH, |v| Publish::new("", "x", 1, 1).bytes(v)),
        case("[MQTT-1.5.4-2] PUBLISH to a topic with NUL", BOTH, |v| Publish::new("a\0b", "x", 1, 1).bytes(v)),
        case("[MQTT-1.5.4-1] PUBLISH to a topic that is no UTF-8", BOTH, move |v| {
            frame(0x30, &[b"\0\x02\xc3\x28".to_vec(), none(v)].concat())
        }),
        case("[MQTT-1.5.4-1] PUBLISH to a topic with a surrogate", BOTH, move |v| {
            frame(0x30, &[b"\0\x03\xed\xa0\x80".to_vec(), none(v)].concat())
        }),
        case("PUBLISH that ends in its topic", BOTH, |_| frame(0x30, b"\0\x05ab")),
        case("PUBLISH that ends before its identifier", BOTH, |_| frame(0x32, b"\0\x01a\0")),
        case("PUBLISH of nothing", BOTH, |_| frame(0x30, b"")),
        case("[MQTT-3.6.1-1] PUBREL with wrong flags", BOTH, |_| frame(0x60, &[0, 1])),
        case("[MQTT-2.1.3-1] PUBACK with flags", BOTH, |_| frame(0x41, &[0, 1])),
        case("[MQTT-2.1.3-1] PUBREC with flags", BOTH, |_| frame(0x52, &[0, 1])),
        case("[MQTT-2.1.3-1] PUBCOMP with flags", BOTH, |_| frame(0x78, &[0, 1])),
        case("[MQTT-2.1.3-1] PINGREQ with flags", BOTH, |_| frame(0xc1, &[])),
        case("PUBACK that is too short", BOTH, |_| frame(0x40, &[0])),
        case("PUBREL that is too short", BOTH, |_| frame(0x62, &[])),
        case("PINGREQ with a body", BOTH, |_| frame(0xc0, b"x")),
        case("[MQTT-3.8.1-1] SUBSCRIBE with wrong flags", BOTH, move |v| {
            frame(0x80, &[vec![0, 1], none(v), text("a"), vec![0]].concat())
        }),
        case("[MQTT-2.2.1-3] SUBSCRIBE with identifier 0", BOTH, move |v| {
            frame(0x82, &[vec![0, 0], none(v), text("a"), vec![0]].concat())
        }),
        case("SUBSCRIBE without options", BOTH, move |v| frame(0x82, &[vec![0, 1], none(v), text("a")].concat())),
        case("SUBSCRIBE whose second filter is cut", BOTH, move |v| {
            frame(0x82, &[vec![0, 1], none(v), text("a"), vec![0], b"\0\x09b".to_vec()].concat())
        }),
        case("[MQTT-3.8.3-1] SUBSCRIBE to a filter that is no UTF-8", BOTH, move |v| {
            frame(0x82, &[vec![0, 1], none(v), b"\0\x01\xff\0".to_vec()].concat())
        }),
        case("[MQTT-3.10.1-1] UNSUBSCRIBE with wrong flags", BOTH, move |v| {
            frame(0xa0, &[vec![0, 1], none(v), text("a")].concat())
        }),
        case("[MQTT-2.2.1-3] UNSUBSCRIBE with identifier 0", BOTH, move |v| {
            frame(0xa2, &[vec![0, 0], none(v), text("a")].concat())
        }),
        case("UNSUBSCRIBE whose filter is cut", BOTH, move |v| {
            frame(0xa2, &[vec![0, 1], none(v), b"\0\x09b".to_vec()].concat())
        }),
        case("[MQTT-1.5.5-1] a remaining length of five bytes", BOTH, |_| vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01]),
        case("packet type 0", BOTH, |_| frame(0x00, &[])),
        case("a DISCONNECT of 3.1.1 with a body", ONLY_V311, |_| frame(0xe0, &[0])),
        case("an unknown property in PUBLISH", ONLY_V5, move |v| {
            publish(v, 0x32, &[0, 1], Props::default().with(0x7e, Value::Byte(1)))
        }),
        case("a property that PUBLISH does not have", ONLY_V5, move |v| {
            publish(v, 0x32, &[0, 1], Props::default().with(prop::SESSION_EXPIRY, Value::Four(1)))
        }),
        case("2.2.2.2 message expiry twice", ONLY_V5, move |v| {
            publish(v, 0x32, &[0, 1], doubled(prop::MESSAGE_EXPIRY, Value::Four(1)))
        }),
        case("2.2.2.2 content type twice", ONLY_V5, move |v| {
            publish(v, 0x32, &[0, 1], doubled(prop::CONTENT_TYPE, word("a")))
        }),
        case("2.2.2.2 correlation twice", ONLY_V5, move |v| {
            publish(v, 0x32, &[0, 1], doubled(prop::CORRELATION, Value::Binary(vec![1])))
        }),
        case("a payload format of 2", ONLY_V5, move |v| {
            publish(v, 0x32, &[0, 1], Props::default().with(prop::PAYLOAD_FORMAT, Value::Byte(2)))
        }),
        case("a content type that is no UTF-8", ONLY_V5, |_| {
            frame(0x32, &[text("a"), vec![0, 1, 4, prop::CONTENT_TYPE, 0, 1, 0xff]].concat())
        }),
        case("properties longer than the packet", ONLY_V5, |_| frame(0x30, &[text("a"), vec![0x20, 0x01]].concat())),
        case("properties with a length of five bytes", ONLY_V5, |_| {
            frame(0x30, &[text("a"), vec![0x80, 0x80, 0x80, 0x80, 0x01]].concat())
        }),
        case("a property that is cut", ONLY_V5, |_| {
            frame(0x30, &[text("a"), vec![3, prop::MESSAGE_EXPIRY, 0, 0]].concat())
        }),
        case("a user property without a value", ONLY_V5, |_| {
            frame(0x30, &[text("a"), vec![4, prop::USER, 0, 1, b'k']].concat())
        }),
        case("a subscription identifier twice", ONLY_V5, move |v| {
            let props = doubled(prop::SUBSCRIPTION_ID, Value::Variable(1));
            frame(0x82, &[vec![0, 1], props.encode(v), text("a"), vec![0]].concat())
        }),
        case("a reason code that PUBACK does not have", ONLY_V5, |_| frame(0x40, &[0, 1, 0x04])),
        case("a reason code that DISCONNECT does not have", ONLY_V5, |_| frame(0xe0, &[0x01])),
    ]
}

async fn ends(target: Target, packet: Build) {
    let mut other = target.client("other").await;
    let mut client = target.client("c").await;
    client.send(&packet(target.version)).await;
    client.ended(&[0x80, 0x81, 0x82, 0x90, 0x93, 0x94, 0x95, 0x99]).await;
    other.quiet().await;
}

/// CONNECTs of MQTT 5 that must not succeed.
fn in_connects() -> Vec<(&'static str, Vec<u8>)> {
    let connect = |flags: u8, props: Props, rest: Vec<u8>| {
        frame(0x10, &[text("MQTT"), vec![5, flags, 0, 0], props.encode(V5), rest].concat())
    };
    let with = |id, value| connect(2, Props::default().with(id, value), text("c"));
    let twice = |id, value: Value| connect(2, Props::default().with(id, value.clone()).with(id, value), text("c"));
    vec![
        ("3.1.2.11.3 a receive maximum of 0", with(prop::RECEIVE_MAXIMUM, Value::Two(0))),
        ("3.1.2.11.4 a maximum packet size of 0", with(prop::MAXIMUM_PACKET, Value::Four(0))),
        ("3.1.2.11.6 request response information of 2", with(prop::RESPONSE_INFORMATION_WANTED, Value::Byte(2))),
        ("3.1.2.11.7 request problem information of 2", with(prop::PROBLEM_INFORMATION, Value::Byte(2))),
        ("3.1.2.11.10 authentication data without a method", with(prop::AUTH_DATA, Value::Binary(vec![1]))),
        ("an unknown property in CONNECT", with(0x7e, Value::Byte(1))),
        ("a property that CONNECT does not have", with(prop::CONTENT_TYPE, word("a"))),
        ("3.1.2.11.2 session expiry twice", twice(prop::SESSION_EXPIRY, Value::Four(1))),
        ("3.1.2.11.3 receive maximum twice", twice(prop::RECEIVE_MAXIMUM, Value::Two(1))),
        ("3.1.2.11.9 authentication method twice", twice(prop::AUTH_METHOD, word("a"))),
        ("CONNECT without a client id", connect(2, Props::default(), vec![])),
        ("[MQTT-3.1.3-4] a client id that is no UTF-8", connect(2, Props::default(), vec![0, 1, 0xff])),
        ("[MQTT-1.5.4-2] a client id with NUL", connect(2, Props::default(), text("a\0b"))),
        ("CONNECT that ends before its will", connect(6, Props::default(), text("c"))),
        (
            "CONNECT that ends in its will",
            connect(6, Props::default(), [text("c"), vec![0], vec![0, 9, b'w']].concat()),
        ),
        ("CONNECT without the user name that it promises", connect(0x82, Props::default(), text("c"))),
        (
            "CONNECT without the password that it promises",
            connect(0xc2, Props::default(), [text("c"), text("u")].concat()),
        ),
        (
            "[MQTT-3.1.3-12] a user name that is no UTF-8",
            connect(0x82, Props::default(), [text("c"), vec![0, 1, 0xff]].concat()),
        ),
        ("bytes behind the last field of CONNECT", connect(2, Props::default(), [text("c"), text("more")].concat())),
        ("CONNECT with flags in its fixed header", {
            let mut packet = connect(2, Props::default(), text("c"));
            packet[0] = 0x11;
            packet
        }),
        ("an empty CONNECT", frame(0x10, b"")),
        ("CONNECT of one byte", frame(0x10, b"\0")),
        ("a property of the will that it does not have", {
            let will = Props::default().with(prop::TOPIC_ALIAS, Value::Two(1)).encode(V5);
            connect(6, Props::default(), [text("c"), will, text("w"), text("x")].concat())
        }),
        ("properties of CONNECT that are longer than it", {
            frame(0x10, &[text("MQTT"), vec![5, 2, 0, 0], variable(2_000), text("c")].concat())
        }),
    ]
}

async fn refuses(target: Target, packet: Arc<[u8]>) {
    let mut client = target.dial().await;
    client.send(&packet).await;
    match client.next().await {
        Packet::Closed => {}
        Packet::ConnAck { code, resumed: false, .. } => {
            assert!([0x80, 0x81, 0x82, 0x85, 0x8c].contains(&code), "{code:#x}");
            assert_eq!(client.next().await, Packet::Closed);
        }
        Packet::Disconnect { code, .. } => assert!([0x81, 0x82].contains(&code), "{code:#x}"),
        other => panic!("{other:?}"),
    }
    target.client("other").await.quiet().await;
}

/// Bytes without a meaning, the same in each run.
async fn noise(target: Target) {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[3]
    };
    for round in 0..200 {
        let mut client = if round % 2 == 0 { target.dial().await } else { target.client("noise").await };
        let mut bytes = Vec::new();
        for _ in 0..5 {
            let body: Vec<u8> = (0..random() % 40).map(|_| random()).collect();
            // CONNECT would need more luck than there is.
            bytes.extend(frame(random(), &body));
        }
        client.send(&bytes).await;
        client.cut_off();
    }
    target.client("other").await.quiet().await;
}

async fn truncated(target: Target) {
    let mut other = target.client("other").await;
    other.subscribe(&target.name("t"), 1).await;
    let publish = Publish::new(&target.name("t"), "never whole", 1, 1).bytes(target.version);
    for end in 1..publish.len() {
        let mut client = target.client("c").await;
        client.send(&publish[..end]).await;
        client.cut_off();
    }
    target.client("p").await.post(&target.name("t"), "whole").await;
    other.gets("whole").await;
    other.quiet().await;
}
