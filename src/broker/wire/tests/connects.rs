use super::*;
use crate::broker::refusals::Refusal;
use crate::chat::qos::QoS;

fn error_of(body: &[u8]) -> (PacketError, Option<Version>) {
    let refused: Refused<'_> = connect(body, &LIMITS).expect_err("a CONNECT that breaks a rule");
    (refused.error, refused.version)
}

#[test]
fn everything_in_a_connect_is_read() {
    for version in BOTH {
        let body = correct_connect(version);
        let read: Connect<'_> = connect(&body, &LIMITS).unwrap();
        let is_v5 = version == V5;
        assert_eq!((read.version, read.clean, read.keep_alive, read.client), (version, true, 60, "c"));
        assert_eq!((read.user, read.password), (Some("u"), Some(&b"p"[..])));
        assert_eq!(read.session_expiry_s, if is_v5 { 5 } else { 0 });
        assert_eq!(read.receive_maximum, if is_v5 { 10 } else { u16::MAX });
        assert_eq!((read.max_packet, read.topic_alias_maximum), if is_v5 { (Some(256), 7) } else { (None, 0) });
        assert_eq!(read.request_problem_information, !is_v5);
        assert_eq!(read.has_auth_method, is_v5);
        let max_packet = if is_v5 { 256 } else { usize::MAX };
        assert_eq!(read.encoding(), ClientEncoding { version, max_packet, reasons: !is_v5 });
        let will: Will<'_> = read.will.clone().unwrap();
        assert_eq!((will.topic, will.payload, will.qos), ("w", &b"bye"[..], QoS::ExactlyOnce));
        assert!(will.retain && !will.over_limit);
        if is_v5 {
            assert_eq!((will.properties.delay_s, will.properties.expiry_s, will.properties.user), (5, Some(9), 1));
            assert_eq!(will.properties.response_topic, Some("r"));
            assert_eq!(
                *will.properties.forwarded,
                *b"\x01\x01\x03\0\x01t\x08\0\x01r\x09\0\x02\0\xff\x26\0\x01k\0\x01v"
            );
        } else {
            assert_eq!(will.properties, MessageProperties::default());
        }
        assert!(!format!("{read:?}").contains("password"));
    }
}

#[test]
fn what_is_absent_has_its_value() {
    for (level, version) in [(4, V311), (0x84, V311), (5, V5)] {
        let body = hello(level, 0, b"", &[&text("")]);
        let read = connect(&body, &LIMITS).unwrap();
        assert_eq!((read.version, read.clean, read.client), (version, false, ""));
        assert_eq!(read.session_expiry_s, if version == V311 { u32::MAX } else { 0 });
        assert_eq!((read.receive_maximum, read.max_packet, read.has_auth_method), (u16::MAX, None, false));
        assert!(read.request_problem_information);
        assert_eq!((read.user, read.password, read.will), (None, None, None));
    }
}

#[test]
fn each_rule_of_connect_is_kept() {
    let c = text("c");
    let v5 = |flags, properties: &[u8], payload: &[&[u8]]| hello(5, flags, properties, payload);
    let will = |properties: &[u8], topic: &[u8]| {
        v5(6, b"", &[&text("c"), &super::properties(V5, properties), &text(topic), &text("x")])
    };
    for (rule, body, error) in [
        ("3.1.2.11.2 twice", v5(2, b"\x11\0\0\0\x01\x11\0\0\0\x01", &[&c]), PacketError::Duplicate(0x11)),
        ("3.1.2.11.3 zero", v5(2, b"\x21\0\0", &[&c]), PacketError::Range(0x21)),
        ("3.1.2.11.4 zero", v5(2, b"\x27\0\0\0\0", &[&c]), PacketError::Range(0x27)),
        ("3.1.2.11.5 twice", v5(2, b"\x22\0\0\x22\0\0", &[&c]), PacketError::Duplicate(0x22)),
        ("3.1.2.11.6", v5(2, b"\x19\x02", &[&c]), PacketError::Range(0x19)),
        ("3.1.2.11.7", v5(2, b"\x17\x02", &[&c]), PacketError::Range(0x17)),
        ("3.1.2.11.9 twice", v5(2, b"\x15\0\0\x15\0\0", &[&c]), PacketError::Duplicate(0x15)),
        ("3.1.2.11.10", v5(2, b"\x16\0\0", &[&c]), PacketError::Method),
        ("a property of PUBLISH", v5(2, b"\x03\0\0", &[&c]), PacketError::Property(3)),
        ("an unknown property", v5(2, b"\x7e\0", &[&c]), PacketError::Property(0x7e)),
        ("too many user properties", v5(2, &b"\x26\0\0\0\0".repeat(3), &[&c]), PacketError::UserProperties(2)),
        ("[MQTT-3.1.3-3]", v5(2, b"", &[]), PacketError::Short),
        ("[MQTT-3.1.3-4]", v5(2, b"", &[&text(b"\xff")]), PacketError::Text),
        ("[MQTT-1.5.4-2]", v5(2, b"", &[&text("a\0")]), PacketError::Text),
        ("[MQTT-3.1.2-3]", v5(3, b"", &[&c]), PacketError::ConnectFlags),
        ("[MQTT-3.1.2-12]", v5(0x1e, b"", &[&c, b"\0", &c, &c]), PacketError::ConnectFlags),
        ("[MQTT-3.1.2-11]", v5(0x0a, b"", &[&c]), PacketError::ConnectFlags),
        ("[MQTT-3.1.2-13]", v5(0x22, b"", &[&c]), PacketError::ConnectFlags),
        ("[MQTT-3.1.2-16]", v5(0x82, b"", &[&c]), PacketError::Short),
        ("[MQTT-3.1.2-18]", v5(0xc2, b"", &[&c, &c]), PacketError::Short),
        ("[MQTT-3.1.3-12]", v5(0x82, b"", &[&c, &text(b"\xff")]), PacketError::Text),
        ("bytes behind", v5(2, b"", &[&c, &c]), PacketError::Rest),
        ("[MQTT-3.1.3-11]", will(b"", b"\xff"), PacketError::Text),
        ("the will has a topic", will(b"", b""), PacketError::WillTopic),
        ("without wildcards", will(b"", b"a/+"), PacketError::WillTopic),
        ("no alias in a will", will(b"\x23\0\x01", b"w"), PacketError::Property(0x23)),
        ("3.1.3.2.2 twice", will(b"\x18\0\0\0\x01\x18\0\0\0\x01", b"w"), PacketError::Duplicate(0x18)),
        ("3.1.3.2.3", will(b"\x01\x02", b"w"), PacketError::Range(1)),
        ("3.1.3.2.6", will(b"\x08\0\x01#", b"w"), PacketError::ResponseTopic),
    ] {
        assert_eq!(error_of(&body), (error, Some(V5)), "{rule}");
    }
    // [MQTT-3.1.2-22] of 3.1.1: a password needs a user name.
    assert_eq!(error_of(&hello(4, 0x42, b"", &[&c, &c])), (PacketError::ConnectFlags, Some(V311)));
    assert!(connect(&hello(5, 0x42, b"", &[&c, &c]), &LIMITS).is_ok());
    assert!(connect(&will(b"\x18\0\0\0\0\x01\x01", b"w"), &LIMITS).is_ok());
}

#[test]
fn a_version_that_is_not_spoken_is_told_in_the_form_that_its_client_reads() {
    let named = |name: &str, level| [&text(name)[..], &[level, 2, 0, 60], &text("c")].concat();
    for (name, level, version, error, refusal) in [
        ("MQIsdp", 3, Some(V311), PacketError::Mqtt31, Refusal::Mqtt31),
        ("MQIsdp", 0x83, Some(V311), PacketError::Mqtt31, Refusal::Mqtt31),
        ("MQTT", 0, Some(V311), PacketError::ProtocolLevel(0), Refusal::ProtocolLevel),
        ("MQTT", 3, Some(V311), PacketError::ProtocolLevel(3), Refusal::ProtocolLevel),
        ("MQTT", 6, Some(V5), PacketError::ProtocolLevel(6), Refusal::ProtocolLevel),
        ("MQTT", 0x85, Some(V5), PacketError::ProtocolLevel(0x85), Refusal::ProtocolLevel),
        ("MQTU", 5, None, PacketError::ProtocolName, Refusal::Malformed),
        ("mqtt", 4, None, PacketError::ProtocolName, Refusal::Malformed),
        ("", 5, None, PacketError::ProtocolName, Refusal::Malformed),
    ] {
        let body = named(name, level);
        let refused = connect(&body, &LIMITS).unwrap_err();
        assert_eq!((refused.error, refused.version, error.refusal()), (error, version, refusal), "{name} {level}");
        assert_eq!(refused.seen.client, if name == "MQIsdp" { "c" } else { "" }, "for the log");
        let Some(version) = version else { continue };
        let mut answer = Vec::new();
        let code = if version == V5 { error.code() } else { refusal.connack().unwrap() };
        let connack = Connack { code, reason: Some("not for it"), ..Connack::default() };
        assert!(super::connack(&mut answer, ClientEncoding { version, ..refused.seen.encoding() }, &connack));
        assert_eq!(answer, if version == V5 { &[0x20, 3, 0, 0x84, 0][..] } else { &[0x20, 2, 0, 1] });
    }
    assert_eq!(error_of(b""), (PacketError::Short, None));
    assert_eq!(error_of(b"\0\x04MQTT"), (PacketError::Short, None));
}

#[test]
fn who_sent_a_wrong_connect_is_known_as_far_as_it_was_read() {
    let body = hello(5, 0x82, b"\x17\0\x27\0\0\0\x20", &[&text("c"), &text("u"), b"more"]);
    let refused = connect(&body, &LIMITS).unwrap_err();
    assert_eq!((refused.error, refused.seen.client, refused.seen.user), (PacketError::Rest, "c", Some("u")));
    assert_eq!(refused.seen.encoding(), ClientEncoding { version: V5, max_packet: 32, reasons: false });
}

#[test]
fn a_will_over_a_limit_is_marked() {
    for (topic, over_limit) in [("a/b/c", false), ("a/b/c/d", true), ("1234567890123456789012345", true)] {
        let body = hello(4, 6, b"", &[&text("c"), &text(topic), &text("x")]);
        assert_eq!(connect(&body, &LIMITS).unwrap().will.unwrap().over_limit, over_limit);
    }
}
