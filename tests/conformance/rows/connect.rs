//! CONNECT, CONNACK, keep-alive and the end of a connection.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::client::Client;
use crate::target::{BOTH, ONLY_V5, ONLY_V311, Row, Target, row};
use crate::wire::{
    Connect, Packet, Props, Publish, V5, V311, Value, Will, disconnect, frame, ping, prop, subscribe, word,
};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("[MQTT-3.1.0-1] the first packet must be a CONNECT", BOTH, first_packet),
        row("[MQTT-3.1.0-2] a second CONNECT ends the connection", BOTH, second_connect),
        row("[MQTT-3.1.2-1] a wrong protocol name is refused", BOTH, protocol_name),
        row("[MQTT-3.1.2-2] an unknown version is refused with the right code", BOTH, protocol_level),
        row("[MQTT-3.1.2-3] the reserved flag must be 0", BOTH, reserved_flag),
        row("[MQTT-3.1.2-11,12,13] flags of a will must fit together", BOTH, will_flags),
        row("[MQTT-3.1.2-22] a password needs a user name in 3.1.1", ONLY_V311, lonely_password),
        row("[MQTT-3.1.3-6] an empty client id is accepted with a clean session", BOTH, empty_client_id),
        row("[MQTT-3.1.3-8] an empty client id without a clean session is refused", ONLY_V311, empty_lasting_id),
        row("[MQTT-3.1.3-7] an assigned client id can be used to resume", ONLY_V5, assigned_client_id),
        row("[MQTT-3.1.3-5] client ids of 1 to 23 letters and digits", BOTH, plain_client_ids),
        row("client ids with odd characters work", BOTH, odd_client_ids),
        row("[MQTT-3.1.3-5] a client id that is odder works or is refused by its code", BOTH, odder_client_ids),
        row("[MQTT-3.2.2-2,3] session present", BOTH, session_present),
        row("[MQTT-3.1.4-5] packets may follow CONNECT at once", BOTH, eager),
        row("a CONNECT that comes byte by byte", BOTH, byte_by_byte),
        row("3.2.2.3 properties of CONNACK are what they may be", ONLY_V5, connack_properties),
        row("[MQTT-3.2.2-21] a session expiry that is cut is told", ONLY_V5, session_expiry_cut),
        row("[MQTT-3.1.2-22] silence for 1.5 keep-alives ends the connection", BOTH, keep_alive),
        row("[MQTT-3.12.4-1] PINGREQ is answered, and keeps the connection", BOTH, pings),
        row("[MQTT-3.1.2-28] no response information unless asked for", ONLY_V5, response_information),
        row("[MQTT-3.1.2-29] no reason strings for who wants none", ONLY_V5, problem_information),
        row("[MQTT-4.12.0-1] an unknown authentication method is refused", ONLY_V5, unknown_method),
        row("[MQTT-4.12.0-6] AUTH without a method in CONNECT is an error", ONLY_V5, unexpected_auth),
        row("packet types 0 and 15 end a connection of 3.1.1", ONLY_V311, reserved_types),
        row("[MQTT-3.14.1-1] DISCONNECT: flags, nothing after it, an unknown property", BOTH, disconnects),
        row("packets that only a server sends end the connection", BOTH, server_packets),
    ]
}

async fn first_packet(target: Target) {
    let publish = Publish::new("a", "x", 0, 0).bytes(target.version);
    for packet in [ping(), publish, subscribe(target.version, &[("a", 0)], &Props::default()), frame(0xe0, &[])] {
        let mut client = target.dial().await;
        client.send(&packet).await;
        client.ended(&[0x81, 0x82]).await;
    }
}

async fn second_connect(target: Target) {
    let mut client = target.client("c").await;
    client.send(&target.clean("c").bytes(target.version)).await;
    client.ended(&[0x82]).await;
}

async fn protocol_name(target: Target) {
    for name in ["MQTU", "mqtt", "", "MQTTT"] {
        let mut client = target.dial().await;
        client.send(&target.clean("c").bytes_with(name, target.version, 2)).await;
        refused(&mut client, &[0x01, 0x84]).await;
    }
}

async fn protocol_level(target: Target) {
    let (levels, code): (&[u8], _) = if target.is_v5() { (&[6, 0x7f, 0xff], 0x84) } else { (&[0, 2, 3], 0x01) };
    for level in levels {
        let mut client = target.dial().await;
        client.send(&target.clean("c").bytes_with("MQTT", *level, 2)).await;
        assert_eq!(client.next().await, Packet::ConnAck { resumed: false, code, props: Props::default() }, "{level}");
        assert_eq!(client.next().await, Packet::Closed);
    }
}

async fn reserved_flag(target: Target) {
    let mut client = target.dial().await;
    client.send(&target.clean("c").bytes_with("MQTT", target.version, 3)).await;
    refused(&mut client, &[0x81]).await;
}

async fn will_flags(target: Target) {
    let plain = target.clean("c");
    let mut with_will = target.clean("c");
    with_will.will = Some(Will::new("w", "x"));
    // Will QoS 3; QoS 1 without a will; retain without a will.
    for (connect, flags) in [(&with_will, 0x1e), (&plain, 0x0a), (&plain, 0x22)] {
        let mut client = target.dial().await;
        client.send(&connect.bytes_with("MQTT", target.version, flags)).await;
        refused(&mut client, &[0x81, 0x82]).await;
    }
}

async fn lonely_password(target: Target) {
    let mut client = target.dial().await;
    let mut body = [crate::wire::text("MQTT"), vec![4, 0x42, 0, 0]].concat();
    body.extend([crate::wire::text(&target.name("c")), crate::wire::text("secret")].concat());
    client.send(&frame(0x10, &body)).await;
    client.ended(&[]).await;
}

async fn empty_client_id(target: Target) {
    let (mut one, resumed, props) = target.connect(&Connect::clean("")).await;
    let (mut two, _, others) = target.connect(&Connect::clean("")).await;
    assert!(!resumed);
    one.quiet().await;
    two.quiet().await;
    if target.is_v5() {
        let names = (props.get(prop::ASSIGNED_CLIENT), others.get(prop::ASSIGNED_CLIENT));
        assert!(names.0.is_some() && names.1.is_some() && names.0 != names.1, "[MQTT-3.2.2-16] {names:?}");
    }
}

async fn empty_lasting_id(target: Target) {
    let mut client = target.dial().await;
    client.send(&Connect::lasting("").bytes(V311)).await;
    assert_eq!(client.next().await, Packet::ConnAck { resumed: false, code: 2, props: Props::default() });
    assert_eq!(client.next().await, Packet::Closed);
}

async fn assigned_client_id(target: Target) {
    let (client, _, props) = target.connect(&Connect::lasting("")).await;
    let Some(Value::Text(name)) = props.get(prop::ASSIGNED_CLIENT) else { panic!("{props:?}") };
    client.leave().await;
    assert!(target.connect(&Connect::lasting(name)).await.1);
}

async fn plain_client_ids(target: Target) {
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    // Not the same in both versions, which may be at the same broker.
    let own: &[&str] =
        if target.is_v5() { &["a", "0", &letters[..23], &letters[39..]] } else { &["Z", "9", &letters[20..43]] };
    for id in own {
        target.connect(&Connect::clean(id)).await.0.quiet().await;
    }
}

async fn odd_client_ids(target: Target) {
    for id in ["a b", "ünï", "emoji😀", "a:b", "a.b", "a_b-c", "a+b", "a#b", "$a", "a@b", "%u", "'\"", "{}"] {
        let (mut client, resumed) = target.lasting_client(id).await;
        assert!(!resumed, "{id}");
        let topic = target.name("t");
        client.subscribe(&topic, 1).await;
        client.leave().await;
        target.client("p").await.post(&topic, id).await;
        let (mut client, resumed) = target.lasting_client(id).await;
        assert!(resumed, "{id}");
        client.gets(id).await;
        client.leave().await;
        target.client(id).await.leave().await;
    }
}

async fn odder_client_ids(target: Target) {
    let long = "x".repeat(60_000);
    for id in ["a/b", "a/b", "../../x", "a\\b", "/", &long] {
        let mut client = target.dial().await;
        client.send(&Connect::clean(id).bytes(target.version)).await;
        let Packet::ConnAck { code, .. } = client.next().await else { panic!("no CONNACK") };
        let refused = if target.is_v5() { 0x85 } else { 2 };
        assert!([0, refused].contains(&code), "{id}: {code:#x}");
    }
    target.client("c").await.quiet().await;
}

async fn session_present(target: Target) {
    let (client, resumed) = target.lasting_client("c").await;
    assert!(!resumed, "a new session");
    client.leave().await;
    let (client, resumed) = target.lasting_client("c").await;
    assert!(resumed, "after DISCONNECT");
    client.cut_off();
    let (client, resumed) = target.lasting_client("c").await;
    assert!(resumed, "after a cut");
    client.leave().await;
    let (client, resumed, _) = target.connect(&target.clean("c")).await;
    assert!(!resumed, "clean");
    client.leave().await;
    let (_, resumed) = target.lasting_client("c").await;
    assert!(!resumed, "the clean one left nothing");
}

async fn eager(target: Target) {
    let mut client = target.dial().await;
    let topic = target.name("t");
    let mut bytes = target.clean("c").bytes(target.version);
    bytes.extend(subscribe(target.version, &[(&topic, 0)], &Props::default()));
    bytes.extend(Publish::new(&topic, "x", 0, 0).bytes(target.version));
    bytes.extend(ping());
    client.send(&bytes).await;
    assert!(matches!(client.next().await, Packet::ConnAck { code: 0, .. }));
    client.until(|packet| matches!(packet, Packet::SubAck { .. }).then_some(())).await;
    client.until(|packet| matches!(packet, Packet::Pong).then_some(())).await;
    client.gets("x").await;
}

async fn byte_by_byte(target: Target) {
    let mut client = target.dial().await;
    for byte in [target.clean("c").bytes(target.version), ping()].concat() {
        client.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert!(matches!(client.next().await, Packet::ConnAck { code: 0, .. }));
    assert_eq!(client.next().await, Packet::Pong);
}

async fn connack_properties(target: Target) {
    let (_, _, props) = target.connect(&target.clean("c").with(prop::SESSION_EXPIRY, Value::Four(60))).await;
    for (id, _) in &props.0 {
        assert!(*id == prop::USER || props.all(*id).len() == 1, "{id:#x} twice");
    }
    assert!(!matches!(props.get(prop::RECEIVE_MAXIMUM), Some(Value::Two(0))), "{props:?}");
    assert!(!matches!(props.get(prop::MAXIMUM_PACKET), Some(Value::Four(0))), "{props:?}");
    assert!(!matches!(props.get(prop::MAXIMUM_QOS), Some(Value::Byte(2..))), "{props:?}");
    assert_eq!(props.get(prop::ASSIGNED_CLIENT), None, "[MQTT-3.2.2-16]");
    assert!(matches!(props.get(prop::SESSION_EXPIRY), None | Some(Value::Four(60))), "{props:?}");
    // Everything is on offer, said or unsaid.
    let on_offer =
        [prop::RETAIN_AVAILABLE, prop::WILDCARDS_AVAILABLE, prop::SUBSCRIPTION_IDS_AVAILABLE, prop::SHARED_AVAILABLE];
    for id in on_offer {
        assert!(matches!(props.get(id), None | Some(Value::Byte(1))), "{id:#x}: {props:?}");
    }
}

async fn session_expiry_cut(target: Target) {
    let (_, _, props) = target.connect(&target.clean("c").with(prop::SESSION_EXPIRY, Value::Four(u32::MAX))).await;
    // Either it is granted, or the CONNACK says what is.
    if let Some(expiry) = props.get(prop::SESSION_EXPIRY) {
        assert!(matches!(expiry, Value::Four(3_600..)), "{expiry:?}");
    }
}

async fn keep_alive(target: Target) {
    // The broker counts from the CONNECT, which the client may hear of late.
    let before = Instant::now();
    let (mut client, _, props) = target.connect(&Connect { keep_alive: 1, ..target.clean("c") }).await;
    assert_eq!(props.get(prop::SERVER_KEEP_ALIVE), None);
    let start = Instant::now();
    client.ended(&[0x8d]).await;
    let (longest, lived) = (before.elapsed(), start.elapsed());
    assert!(longest >= Duration::from_millis(1_400), "cut after {longest:?}");
    assert!(lived < Duration::from_secs(5), "cut after {lived:?}");
}

async fn pings(target: Target) {
    let (mut client, ..) = target.connect(&Connect { keep_alive: 2, ..target.clean("c") }).await;
    for _ in 0..2 {
        // What would be a message must not come, nor the end.
        assert!(timeout(Duration::from_millis(1_800), client.next()).await.is_err());
        client.quiet().await;
    }
}

async fn response_information(target: Target) {
    for wanted in [None, Some(0), Some(1)] {
        let mut connect = target.clean("c");
        if let Some(wanted) = wanted {
            connect = connect.with(prop::RESPONSE_INFORMATION_WANTED, Value::Byte(wanted));
        }
        let (_, _, props) = target.connect(&connect).await;
        assert!(wanted == Some(1) || props.get(prop::RESPONSE_INFORMATION).is_none(), "{props:?}");
    }
}

async fn problem_information(target: Target) {
    let (mut client, ..) = target.connect(&target.clean("c").with(prop::PROBLEM_INFORMATION, Value::Byte(0))).await;
    let silent = |props: &Props| props.get(prop::REASON).is_none() && props.get(prop::USER).is_none();
    client.say(&Publish::new("$forbidden", "x", 1, 1)).await;
    client.say(&Publish::new("$forbidden", "x", 2, 2)).await;
    client.send(&subscribe(V5, &[("a/#/b", 0)], &Props::default())).await;
    for _ in 0..3 {
        match client.next().await {
            Packet::Ack { props, .. } | Packet::SubAck { props, .. } => assert!(silent(&props), "{props:?}"),
            other => panic!("{other:?}"),
        }
    }
}

async fn unknown_method(target: Target) {
    let mut client = target.dial().await;
    client.send(&target.clean("c").with(prop::AUTH_METHOD, word("NEVER-HEARD")).bytes(V5)).await;
    refused(&mut client, &[0x8c]).await;
}

async fn unexpected_auth(target: Target) {
    let method = Props::default().with(prop::AUTH_METHOD, word("NEVER-HEARD")).encode(V5);
    for body in [vec![], [vec![0x18], method.clone()].concat(), [vec![0x19], method].concat()] {
        let mut client = target.client("c").await;
        client.send(&frame(0xf0, &body)).await;
        client.ended(&[0x81, 0x82, 0x8c]).await;
    }
}

async fn reserved_types(target: Target) {
    for first in [0x00, 0xf0] {
        let mut client = target.client("c").await;
        client.send(&frame(first, &[])).await;
        client.ended(&[]).await;
    }
}

async fn disconnects(target: Target) {
    // [MQTT-3.14.4-2]: what follows is not for the server any more.
    let (topic, mut reader) = (target.name("t"), target.client("r").await);
    reader.subscribe(&topic, 1).await;
    let mut client = target.client("c").await;
    client.send(&[frame(0xe0, &[]), Publish::new(&topic, "late", 1, 1).bytes(target.version)].concat()).await;
    assert_eq!(client.next().await, Packet::Closed);
    target.client("p").await.post(&topic, "next").await;
    reader.gets("next").await;
    // A flag that must be 0.
    let mut client = target.client("c").await;
    client.send(&frame(0xe1, &[])).await;
    client.ended(&[0x81]).await;
    if target.is_v5() {
        for props in
            [Props::default().with(0x7e, Value::Byte(0)), Props::default().with(prop::TOPIC_ALIAS, Value::Two(1))]
        {
            let mut client = target.client("c").await;
            client.send(&disconnect(0, &props)).await;
            client.ended(&[0x81, 0x82]).await;
        }
    }
}

async fn server_packets(target: Target) {
    for first in [0x20, 0x90, 0xb0, 0xd0] {
        let mut client = target.client("c").await;
        let body: &[u8] = match (first, target.version) {
            (0xd0, _) => &[],
            (0x20, V5) => &[0, 0, 0],
            (0x20, _) => &[0, 0],
            (_, V5) => &[0, 1, 0, 0],
            _ => &[0, 1, 0],
        };
        client.send(&frame(first, body)).await;
        client.ended(&[0x81, 0x82]).await;
    }
}

/// The CONNECT is refused with one of `codes`, or without a word.
async fn refused(client: &mut Client, codes: &[u8]) {
    match client.next().await {
        Packet::Closed => return,
        Packet::ConnAck { resumed: false, code, .. } => assert!(codes.contains(&code), "{code:#x}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.next().await, Packet::Closed);
}
