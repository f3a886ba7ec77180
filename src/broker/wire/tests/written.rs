use super::*;
use crate::chat::qos::QoS;

const OLD: ClientEncoding = ClientEncoding { version: V311, max_packet: usize::MAX, reasons: true };
const NEW: ClientEncoding = ClientEncoding { version: V5, max_packet: usize::MAX, reasons: true };
const CURT: ClientEncoding = ClientEncoding { reasons: false, ..NEW };

fn written(write: impl FnOnce(&mut Vec<u8>) -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    assert_eq!(write(&mut out), !out.is_empty());
    out
}

#[test]
fn connacks_are_as_the_specification_draws_them() {
    let bare = Connack { session_present: true, ..Connack::default() };
    assert_eq!(written(|out| connack(out, OLD, &bare)), [0x20, 2, 1, 0]);
    assert_eq!(written(|out| connack(out, NEW, &bare)), [0x20, 3, 1, 0, 0]);
    let full = Connack {
        session_present: false,
        code: 0,
        session_expiry_s: Some(60),
        receive_maximum: Some(10),
        max_packet: Some(2048),
        assigned_client: Some("id"),
        topic_alias_maximum: Some(5),
        keep_alive: Some(30),
        reason: Some("why"),
    };
    let properties = b"\x11\0\0\0\x3c\x21\0\x0a\x27\0\0\x08\0\x22\0\x05\x13\0\x1e\x12\0\x02id";
    let explained = [&b"\x20\x21\0\0\x1e"[..], properties, b"\x1f\0\x03why"].concat();
    let plain = [&b"\x20\x1b\0\0\x18"[..], properties].concat();
    assert_eq!(written(|out| connack(out, NEW, &full)), explained);
    assert_eq!(written(|out| connack(out, CURT, &full)), plain);
    assert_eq!(written(|out| connack(out, OLD, &full)), [0x20, 2, 0, 0]);
    for (max_packet, expected) in [(35, &explained), (34, &plain), (29, &plain), (28, &vec![])] {
        assert_eq!(written(|out| connack(out, ClientEncoding { max_packet, ..NEW }, &full)), *expected, "{max_packet}");
    }
}

#[test]
fn acknowledgements_are_as_short_as_they_may_be() {
    for (kind, first) in
        [(AckKind::Puback, 0x40), (AckKind::Pubrec, 0x50), (AckKind::Pubrel, 0x62), (AckKind::Pubcomp, 0x70)]
    {
        let said = |encoding, code, reason| written(|out| ack(out, encoding, kind, Ack { id: 0x0102, code }, reason));
        assert_eq!(said(NEW, 0, None), [first, 2, 1, 2]);
        assert_eq!(said(NEW, 0x92, None), [first, 3, 1, 2, 0x92]);
        assert_eq!(said(NEW, 0x87, Some("no")), [first, 9, 1, 2, 0x87, 5, 0x1f, 0, 2, b'n', b'o']);
        assert_eq!(said(CURT, 0x87, Some("no")), [first, 3, 1, 2, 0x87]);
        assert_eq!(said(ClientEncoding { max_packet: 10, ..NEW }, 0x87, Some("no")), [first, 3, 1, 2, 0x87]);
        assert!(said(ClientEncoding { max_packet: 4, ..NEW }, 0x87, Some("no")).is_empty());
        assert_eq!(said(OLD, 0x87, Some("no")), [first, 2, 1, 2]);
    }
}

#[test]
fn subscriptions_are_answered_with_a_code_for_each_filter() {
    let codes = [1, 0x8f, 0x87];
    assert_eq!(written(|out| suback(out, NEW, 9, &codes, None)), [0x90, 6, 0, 9, 0, 1, 0x8f, 0x87]);
    let explained = [&[0x90, 11, 0, 9, 5, 0x1f, 0, 2], &b"no"[..], &codes].concat();
    assert_eq!(written(|out| suback(out, NEW, 9, &codes, Some("no"))), explained);
    assert_eq!(written(|out| suback(out, CURT, 9, &codes, Some("no"))), [0x90, 6, 0, 9, 0, 1, 0x8f, 0x87]);
    assert_eq!(written(|out| suback(out, OLD, 9, &codes, Some("no"))), [0x90, 5, 0, 9, 1, 0x80, 0x80]);
    assert_eq!(written(|out| unsuback(out, NEW, 9, &[0, 0x11], None)), [0xb0, 5, 0, 9, 0, 0, 0x11]);
    let explained = [&[0xb0, 10, 0, 9, 5, 0x1f, 0, 2], &b"no"[..], &[0, 0x8f]].concat();
    assert_eq!(written(|out| unsuback(out, NEW, 9, &[0, 0x8f], Some("no"))), explained);
    assert_eq!(written(|out| unsuback(out, OLD, 9, &[0, 0x8f], Some("no"))), [0xb0, 2, 0, 9]);
}

#[test]
fn a_disconnect_is_for_mqtt_5() {
    assert_eq!(written(|out| disconnect(out, NEW, 0, None)), [0xe0, 0]);
    assert_eq!(written(|out| disconnect(out, NEW, 0x8d, None)), [0xe0, 1, 0x8d]);
    assert_eq!(written(|out| disconnect(out, NEW, 0x8d, Some("no"))), b"\xe0\x07\x8d\x05\x1f\0\x02no");
    assert_eq!(written(|out| disconnect(out, CURT, 0x8d, Some("no"))), [0xe0, 1, 0x8d]);
    assert_eq!(
        written(|out| disconnect(out, ClientEncoding { max_packet: 8, ..NEW }, 0x8d, Some("no"))),
        [0xe0, 1, 0x8d]
    );
    assert!(written(|out| disconnect(out, ClientEncoding { max_packet: 2, ..NEW }, 0x8d, Some("no"))).is_empty());
    assert!(written(|out| disconnect(out, OLD, 0x8d, Some("no"))).is_empty());
    let mut pong = Vec::new();
    pingresp(&mut pong);
    assert_eq!(pong, [0xd0, 0]);
}

#[test]
fn a_publish_has_the_properties_of_its_version() {
    let message = PublishOut {
        dup: true,
        qos: QoS::ExactlyOnce,
        retain: true,
        topic: "t",
        id: 7,
        alias: Some(3),
        expiry_s: Some(9),
        subscriptions: &[1, 300],
        properties: b"\x01\x01",
        payload: b"body",
    };
    let mut out = Vec::new();
    publish(&mut out, V5, &message);
    let properties = b"\x0f\x23\0\x03\x02\0\0\0\x09\x0b\x01\x0b\xac\x02\x01\x01";
    assert_eq!(out, [&b"\x3d\x19\0\x01t\0\x07"[..], properties, b"body"].concat());
    out.clear();
    publish(&mut out, V311, &message);
    assert_eq!(out, b"\x3d\x09\0\x01t\0\x07body");
    out.clear();
    publish(&mut out, V311, &PublishOut { dup: false, retain: false, qos: QoS::AtMostOnce, ..message });
    assert_eq!(out, b"\x30\x07\0\x01tbody");
}

#[test]
fn texts_that_are_too_long_are_cut_and_nothing_panics() {
    let long = "x".repeat(70_000);
    let out = written(|out| disconnect(out, NEW, 0x80, Some(&long)));
    let Ok(Framing::Whole { total, .. }) = frame(&out, V5, usize::MAX) else { panic!("no packet") };
    assert_eq!(total, out.len());
    let message = PublishOut {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: &long,
        id: 0,
        alias: None,
        expiry_s: None,
        subscriptions: &[],
        properties: b"",
        payload: b"",
    };
    let mut out = Vec::new();
    publish(&mut out, V5, &message);
    assert_eq!((out.len(), publish_size(V5, &message)), (65_542, 65_542));
    let huge = vec![0; 268_435_456];
    out.clear();
    publish(&mut out, V5, &PublishOut { topic: "t", payload: &huge, ..message });
    assert!(out.is_empty());
}
