//! One line for each rule that a packet can break.

use super::*;

/// A packet that breaks a rule, and one that just keeps it.
type Rule = (&'static str, &'static [Version], PacketError, fn(Version) -> Vec<u8>, fn(Version) -> Vec<u8>);

fn publish(version: Version, first: u8, id: &[u8], properties: &[u8]) -> Vec<u8> {
    whole(first, &[&text("a"), id, &super::properties(version, properties), b"x"])
}

fn to(version: Version, topic: &[u8]) -> Vec<u8> {
    whole(0x30, &[&text(topic), &properties(version, b""), b"x"])
}

fn with(properties: &[u8]) -> Vec<u8> {
    publish(V5, 0x30, b"", properties)
}

fn subscribe(version: Version, id: &[u8], filter: &[u8], options: &[u8]) -> Vec<u8> {
    whole(0x82, &[id, &properties(version, b""), &text(filter), options])
}

fn subscribe_with(properties: &[u8]) -> Vec<u8> {
    whole(0x82, &[b"\0\x01", &super::properties(V5, properties), &text("a"), &[0]])
}

fn unsubscribe(version: Version, id: &[u8], filters: &[u8]) -> Vec<u8> {
    whole(0xa2, &[id, &properties(version, b""), filters])
}

const ONLY_V311: &[Version] = &[V311];
const ONLY_V5: &[Version] = &[V5];

const FRAMES: &[Rule] = &[
    (
        "1.5.5 four bytes of length",
        &BOTH,
        PacketError::Length,
        |_| vec![0x30, 0xff, 0xff, 0xff, 0xff, 1],
        |v| to(v, b"a"),
    ),
    ("[MQTT-1.5.5-1]", ONLY_V5, PacketError::Padded, |_| vec![0xc0, 0x80, 0], |_| vec![0xc0, 0]),
    ("2.1.2 type 0", &BOTH, PacketError::Type(0), |_| vec![0, 0], |_| vec![0xc0, 0]),
    ("2.1.2 type 15", &BOTH, PacketError::Type(15), |_| vec![0xf0, 0], |_| vec![0xc0, 0]),
    ("2.1.2 CONNACK", &BOTH, PacketError::Direction(2), |_| vec![0x20, 2, 0, 0], |_| vec![0xc0, 0]),
    ("2.1.2 SUBACK", &BOTH, PacketError::Direction(9), |_| vec![0x90, 3, 0, 1, 0], |_| vec![0xc0, 0]),
    ("2.1.2 UNSUBACK", &BOTH, PacketError::Direction(11), |_| vec![0xb0, 2, 0, 1], |_| vec![0xc0, 0]),
    ("2.1.2 PINGRESP", &BOTH, PacketError::Direction(13), |_| vec![0xd0, 0], |_| vec![0xc0, 0]),
    ("[MQTT-3.1.0-2]", &BOTH, PacketError::Type(1), |v| whole(0x10, &[&correct_connect(v)]), |_| vec![0xc0, 0]),
    ("[MQTT-2.1.3-1] CONNECT", &BOTH, PacketError::Flags(1), |_| vec![0x11, 0], |_| vec![0xc0, 0]),
    ("[MQTT-2.1.3-1] PUBACK", &BOTH, PacketError::Flags(4), |_| vec![0x42, 2, 0, 1], |_| vec![0x40, 2, 0, 1]),
    ("[MQTT-2.1.3-1] PUBREC", &BOTH, PacketError::Flags(5), |_| vec![0x51, 2, 0, 1], |_| vec![0x50, 2, 0, 1]),
    ("[MQTT-3.6.1-1]", &BOTH, PacketError::Flags(6), |_| vec![0x60, 2, 0, 1], |_| vec![0x62, 2, 0, 1]),
    ("[MQTT-2.1.3-1] PUBCOMP", &BOTH, PacketError::Flags(7), |_| vec![0x78, 2, 0, 1], |_| vec![0x70, 2, 0, 1]),
    ("[MQTT-3.8.1-1]", &BOTH, PacketError::Flags(8), |_| vec![0x80, 0], |v| subscribe(v, b"\0\x01", b"a", b"\0")),
    ("[MQTT-3.10.1-1]", &BOTH, PacketError::Flags(10), |_| vec![0xa0, 0], |v| unsubscribe(v, b"\0\x01", b"\0\x01a")),
    ("[MQTT-2.1.3-1] PINGREQ", &BOTH, PacketError::Flags(12), |_| vec![0xc1, 0], |_| vec![0xc0, 0]),
    ("[MQTT-3.14.1-1]", &BOTH, PacketError::Flags(14), |_| vec![0xe1, 0], |_| vec![0xe0, 0]),
    ("3.12 no body", &BOTH, PacketError::Rest, |_| vec![0xc0, 1, 0], |_| vec![0xc0, 0]),
];

const PUBLISHES: &[Rule] = &[
    (
        "[MQTT-3.3.1-4]",
        &BOTH,
        PacketError::Qos,
        |v| publish(v, 0x36, b"\0\x01", b""),
        |v| publish(v, 0x34, b"\0\x01", b""),
    ),
    ("[MQTT-3.3.1-2]", &BOTH, PacketError::Dup, |v| publish(v, 0x38, b"", b""), |v| publish(v, 0x3a, b"\0\x01", b"")),
    (
        "[MQTT-2.2.1-3] 1",
        &BOTH,
        PacketError::Identifier,
        |v| publish(v, 0x32, b"\0\0", b""),
        |v| publish(v, 0x32, b"\0\x01", b""),
    ),
    (
        "[MQTT-2.2.1-3] 2",
        &BOTH,
        PacketError::Identifier,
        |v| publish(v, 0x34, b"\0\0", b""),
        |v| publish(v, 0x34, b"\xff\xff", b""),
    ),
    ("[MQTT-3.3.2-2] +", &BOTH, PacketError::Wildcard, |v| to(v, b"a/+"), |v| to(v, b"a/-")),
    ("[MQTT-3.3.2-2] #", &BOTH, PacketError::Wildcard, |v| to(v, b"#"), |v| to(v, b"/")),
    ("[MQTT-4.7.3-1]", &BOTH, PacketError::NoTopic, |v| to(v, b""), |v| to(v, b" ")),
    ("[MQTT-1.5.4-1] not UTF-8", &BOTH, PacketError::Text, |v| to(v, b"\xc3\x28"), |v| to(v, b"\xc3\xa4")),
    ("[MQTT-1.5.4-1] surrogate", &BOTH, PacketError::Text, |v| to(v, b"\xed\xa0\x80"), |v| to(v, b"\xed\x9f\xbf")),
    ("[MQTT-1.5.4-2]", &BOTH, PacketError::Text, |v| to(v, b"a\0"), |v| to(v, b"a\x01")),
    ("[MQTT-1.5.4-3] a BOM is a letter", &BOTH, PacketError::Text, |v| to(v, b"\xef\xbb"), |v| to(v, b"\xef\xbb\xbf")),
    ("3.3.2.1 length of the topic", &BOTH, PacketError::Short, |_| whole(0x30, &[b"\0\x02a"]), |v| to(v, b"aa")),
    (
        "3.3.2.2 identifier",
        &BOTH,
        PacketError::Short,
        |_| whole(0x32, &[b"\0\x01a\0"]),
        |v| publish(v, 0x32, b"\0\x01", b""),
    ),
    (
        "3.3.2.3 length of properties",
        ONLY_V5,
        PacketError::Short,
        |_| whole(0x30, &[b"\0\x01a\x01"]),
        |_| whole(0x30, &[b"\0\x01a\0"]),
    ),
    (
        "3.3.2.3 length in five bytes",
        ONLY_V5,
        PacketError::Length,
        |_| whole(0x30, &[b"\0\x01a\x80\x80\x80\x80\x01"]),
        |_| with(b""),
    ),
    ("[MQTT-1.5.5-1] properties", ONLY_V5, PacketError::Padded, |_| whole(0x30, &[b"\0\x01a\x80\0"]), |_| with(b"")),
];

const PROPERTIES: &[Rule] = &[
    ("2.2.2.2 unknown", ONLY_V5, PacketError::Property(0x7e), |_| with(b"\x7e\x01"), |_| with(b"\x01\x01")),
    ("2.2.2.2 unknown, above all", ONLY_V5, PacketError::Property(0xff), |_| with(b"\xff\x01"), |_| with(b"\x01\0")),
    (
        "2.2.2.2 of another packet",
        ONLY_V5,
        PacketError::Property(0x11),
        |_| with(b"\x11\0\0\0\x01"),
        |_| with(b"\x02\0\0\0\x01"),
    ),
    ("2.2.2.2 of a server", ONLY_V5, PacketError::Property(0x12), |_| with(b"\x12\0\0"), |_| with(b"\x03\0\0")),
    ("2.2.2.2 of a will", ONLY_V5, PacketError::Property(0x18), |_| with(b"\x18\0\0\0\x01"), |_| with(b"\x02\0\0\0\0")),
    ("[MQTT-3.3.4-6]", ONLY_V5, PacketError::Property(0x0b), |_| with(b"\x0b\x01"), |_| subscribe_with(b"\x0b\x01")),
    ("2.2.2.2 cut", ONLY_V5, PacketError::Short, |_| with(b"\x02\0\0"), |_| with(b"\x02\0\0\0\x01")),
    ("2.2.2.2 half a pair", ONLY_V5, PacketError::Short, |_| with(b"\x26\0\x01k"), |_| with(b"\x26\0\x01k\0\0")),
    (
        "2.2.2.2 payload format twice",
        ONLY_V5,
        PacketError::Duplicate(1),
        |_| with(b"\x01\x01\x01\x01"),
        |_| with(b"\x01\x01"),
    ),
    (
        "2.2.2.2 expiry twice",
        ONLY_V5,
        PacketError::Duplicate(2),
        |_| with(b"\x02\0\0\0\x01\x02\0\0\0\x01"),
        |_| with(b"\x02\0\0\0\x01"),
    ),
    (
        "2.2.2.2 content type twice",
        ONLY_V5,
        PacketError::Duplicate(3),
        |_| with(b"\x03\0\0\x03\0\0"),
        |_| with(b"\x03\0\0"),
    ),
    (
        "2.2.2.2 response topic twice",
        ONLY_V5,
        PacketError::Duplicate(8),
        |_| with(b"\x08\0\x01a\x08\0\x01a"),
        |_| with(b"\x08\0\x01a"),
    ),
    (
        "2.2.2.2 correlation twice",
        ONLY_V5,
        PacketError::Duplicate(9),
        |_| with(b"\x09\0\0\x09\0\0"),
        |_| with(b"\x09\0\0"),
    ),
    (
        "2.2.2.2 alias twice",
        ONLY_V5,
        PacketError::Duplicate(0x23),
        |_| with(b"\x23\0\x01\x23\0\x02"),
        |_| with(b"\x23\0\x02"),
    ),
    ("3.3.2.3.2", ONLY_V5, PacketError::Range(1), |_| with(b"\x01\x02"), |_| with(b"\x01\x01")),
    ("[MQTT-3.3.2-8]", ONLY_V5, PacketError::Range(0x23), |_| with(b"\x23\0\0"), |_| with(b"\x23\xff\xff")),
    ("[MQTT-3.3.2-14]", ONLY_V5, PacketError::ResponseTopic, |_| with(b"\x08\0\x03a/+"), |_| with(b"\x08\0\x03a/b")),
    ("[MQTT-4.7.3-1] response", ONLY_V5, PacketError::ResponseTopic, |_| with(b"\x08\0\0"), |_| with(b"\x08\0\x01 ")),
    ("[MQTT-3.3.2-13]", ONLY_V5, PacketError::Text, |_| with(b"\x08\0\x01\xff"), |_| with(b"\x08\0\x01a")),
    ("[MQTT-3.3.2-19]", ONLY_V5, PacketError::Text, |_| with(b"\x03\0\x01\xff"), |_| with(b"\x03\0\x02\xc3\xa4")),
    ("3.3.2.3.7 name", ONLY_V5, PacketError::Text, |_| with(b"\x26\0\x01\0\0\0"), |_| with(b"\x26\0\0\0\0")),
    ("3.3.2.3.7 value", ONLY_V5, PacketError::Text, |_| with(b"\x26\0\0\0\x01\xff"), |_| with(b"\x26\0\0\0\x01a")),
    (
        "no more than the limit",
        ONLY_V5,
        PacketError::UserProperties(2),
        |_| with(&b"\x26\0\0\0\0".repeat(3)),
        |_| with(&b"\x26\0\0\0\0".repeat(2)),
    ),
    (
        "3.8.2.1.2 zero",
        ONLY_V5,
        PacketError::Range(0x0b),
        |_| subscribe_with(b"\x0b\0"),
        |_| subscribe_with(b"\x0b\x01"),
    ),
    (
        "3.8.2.1.2 twice",
        ONLY_V5,
        PacketError::Duplicate(0x0b),
        |_| subscribe_with(b"\x0b\x01\x0b\x01"),
        |_| subscribe_with(b"\x0b\xff\xff\xff\x7f"),
    ),
    (
        "3.8.2.1.2 padded",
        ONLY_V5,
        PacketError::Padded,
        |_| subscribe_with(b"\x0b\x81\0"),
        |_| subscribe_with(b"\x0b\x80\x01"),
    ),
    (
        "3.8.2.1.2 five bytes",
        ONLY_V5,
        PacketError::Length,
        |_| subscribe_with(b"\x0b\x80\x80\x80\x80\x01"),
        |_| subscribe_with(b"\x0b\x80\x80\x80\x01"),
    ),
];

const ACKS: &[Rule] = &[
    ("3.4.2 identifier", &BOTH, PacketError::Short, |_| vec![0x40, 1, 0], |_| vec![0x40, 2, 0, 1]),
    ("3.5.2 nothing", &BOTH, PacketError::Short, |_| vec![0x50, 0], |_| vec![0x50, 2, 0, 1]),
    ("[MQTT-2.2.1-3] PUBREL", &BOTH, PacketError::Identifier, |_| vec![0x62, 2, 0, 0], |_| vec![0x62, 2, 0, 1]),
    ("3.1.1 has no codes", ONLY_V311, PacketError::Rest, |_| vec![0x40, 3, 0, 1, 0], |_| vec![0x40, 2, 0, 1]),
    ("[MQTT-3.4.2-1]", ONLY_V5, PacketError::Reason(4), |_| vec![0x40, 3, 0, 1, 4], |_| vec![0x40, 3, 0, 1, 0x10]),
    (
        "[MQTT-3.5.2-1]",
        ONLY_V5,
        PacketError::Reason(0x92),
        |_| vec![0x50, 3, 0, 1, 0x92],
        |_| vec![0x50, 3, 0, 1, 0x80],
    ),
    (
        "[MQTT-3.6.2-1]",
        ONLY_V5,
        PacketError::Reason(0x10),
        |_| vec![0x62, 3, 0, 1, 0x10],
        |_| vec![0x62, 3, 0, 1, 0x92],
    ),
    ("[MQTT-3.7.2-1]", ONLY_V5, PacketError::Reason(0x80), |_| vec![0x70, 3, 0, 1, 0x80], |_| vec![0x70, 3, 0, 1, 0]),
    (
        "3.4.2.2 property",
        ONLY_V5,
        PacketError::Property(1),
        |_| vec![0x40, 6, 0, 1, 0, 2, 1, 1],
        |_| vec![0x40, 4, 0, 1, 0, 0],
    ),
    (
        "3.4.2.2 reason twice",
        ONLY_V5,
        PacketError::Duplicate(0x1f),
        |_| whole(0x40, &[b"\0\x01\0\x06\x1f\0\0\x1f\0\0"]),
        |_| whole(0x40, &[b"\0\x01\0\x03\x1f\0\0"]),
    ),
    ("3.4.2.2 cut", ONLY_V5, PacketError::Short, |_| vec![0x40, 4, 0, 1, 0, 5], |_| vec![0x40, 4, 0, 1, 0, 0]),
    ("3.4 end", ONLY_V5, PacketError::Rest, |_| vec![0x40, 5, 0, 1, 0, 0, 0], |_| vec![0x40, 4, 0, 1, 0, 0]),
    ("3.1.1 has no reasons", ONLY_V311, PacketError::Rest, |_| vec![0xe0, 1, 0], |_| vec![0xe0, 0]),
    ("[MQTT-3.14.2-1] no such code", ONLY_V5, PacketError::Reason(1), |_| vec![0xe0, 1, 1], |_| vec![0xe0, 1, 4]),
    (
        "[MQTT-3.14.2-1] of a server",
        ONLY_V5,
        PacketError::Reason(0x8e),
        |_| vec![0xe0, 1, 0x8e],
        |_| vec![0xe0, 1, 0x80],
    ),
    (
        "3.14.2.2 property",
        ONLY_V5,
        PacketError::Property(0x1c),
        |_| vec![0xe0, 5, 0, 3, 0x1c, 0, 0],
        |_| vec![0xe0, 5, 0, 3, 0x1f, 0, 0],
    ),
    ("3.14 end", ONLY_V5, PacketError::Rest, |_| vec![0xe0, 3, 0, 0, 0], |_| vec![0xe0, 2, 0, 0]),
];

const SUBSCRIPTIONS: &[Rule] = &[
    (
        "[MQTT-2.2.1-3] SUBSCRIBE",
        &BOTH,
        PacketError::Identifier,
        |v| subscribe(v, b"\0\0", b"a", b"\0"),
        |v| subscribe(v, b"\0\x01", b"a", b"\0"),
    ),
    (
        "[MQTT-3.8.3-2]",
        &BOTH,
        PacketError::NoFilter,
        |v| whole(0x82, &[b"\0\x01", &properties(v, b"")]),
        |v| subscribe(v, b"\0\x01", b"a", b"\0"),
    ),
    (
        "3.8.3 no options",
        &BOTH,
        PacketError::Short,
        |v| subscribe(v, b"\0\x01", b"a", b""),
        |v| subscribe(v, b"\0\x01", b"a", b"\x02"),
    ),
    (
        "3.8.3 cut",
        &BOTH,
        PacketError::Short,
        |v| subscribe(v, b"\0\x01", b"a", b"\0\0\x02a"),
        |v| subscribe(v, b"\0\x01", b"a", b"\0\0\x01a\0"),
    ),
    (
        "[MQTT-3.8.3-1]",
        &BOTH,
        PacketError::Text,
        |v| subscribe(v, b"\0\x01", b"\xff", b"\0"),
        |v| subscribe(v, b"\0\x01", b"\xc3\xa4", b"\0"),
    ),
    (
        "[MQTT-4.7.3-2]",
        &BOTH,
        PacketError::Text,
        |v| subscribe(v, b"\0\x01", b"a\0", b"\0"),
        |v| subscribe(v, b"\0\x01", b"", b"\0"),
    ),
    (
        "3.8.3.1 QoS",
        &BOTH,
        PacketError::Options,
        |v| subscribe(v, b"\0\x01", b"a", b"\x03"),
        |v| subscribe(v, b"\0\x01", b"a", b"\x02"),
    ),
    (
        "3.8.3.1 reserved 1",
        &BOTH,
        PacketError::Options,
        |v| subscribe(v, b"\0\x01", b"a", b"\x40"),
        |v| subscribe(v, b"\0\x01", b"a", b"\x01"),
    ),
    (
        "[MQTT-3.8.3-5]",
        &BOTH,
        PacketError::Options,
        |v| subscribe(v, b"\0\x01", b"a", b"\x80"),
        |v| subscribe(v, b"\0\x01", b"a", b"\0"),
    ),
    (
        "3.8.3.1 retain handling",
        ONLY_V5,
        PacketError::Options,
        |v| subscribe(v, b"\0\x01", b"a", b"\x30"),
        |v| subscribe(v, b"\0\x01", b"a", b"\x2c"),
    ),
    (
        "3.1.1 has the QoS alone",
        ONLY_V311,
        PacketError::Options,
        |v| subscribe(v, b"\0\x01", b"a", b"\x04"),
        |v| subscribe(v, b"\0\x01", b"a", b"\x02"),
    ),
    (
        "[MQTT-4.8.2-1]",
        &BOTH,
        PacketError::ShareName,
        |v| subscribe(v, b"\0\x01", b"$share//x", b"\0"),
        |v| subscribe(v, b"\0\x01", b"$share/g/x", b"\0"),
    ),
    (
        "[MQTT-3.8.3-4]",
        ONLY_V5,
        PacketError::NoLocal,
        |v| subscribe(v, b"\0\x01", b"$share/g/x", b"\x04"),
        |v| subscribe(v, b"\0\x01", b"x", b"\x04"),
    ),
    (
        "3.8.2.1 property",
        ONLY_V5,
        PacketError::Property(0x1f),
        |_| subscribe_with(b"\x1f\0\0"),
        |_| subscribe_with(b"\x26\0\0\0\0"),
    ),
    (
        "no more filters than the limit",
        &BOTH,
        PacketError::FilterCount(3),
        |v| subscribe(v, b"\0\x01", b"a", &b"\0\0\x01a".repeat(4)[..13]),
        |v| subscribe(v, b"\0\x01", b"a", b"\0\0\x01a\0\0\x01a\0"),
    ),
    (
        "[MQTT-2.2.1-3] UNSUBSCRIBE",
        &BOTH,
        PacketError::Identifier,
        |v| unsubscribe(v, b"\0\0", b"\0\x01a"),
        |v| unsubscribe(v, b"\0\x01", b"\0\x01a"),
    ),
    (
        "[MQTT-3.10.3-2]",
        &BOTH,
        PacketError::NoFilter,
        |v| unsubscribe(v, b"\0\x01", b""),
        |v| unsubscribe(v, b"\0\x01", b"\0\0"),
    ),
    (
        "[MQTT-3.10.3-1]",
        &BOTH,
        PacketError::Text,
        |v| unsubscribe(v, b"\0\x01", b"\0\x01\xff"),
        |v| unsubscribe(v, b"\0\x01", b"\0\x01/"),
    ),
    (
        "3.10.3 cut",
        &BOTH,
        PacketError::Short,
        |v| unsubscribe(v, b"\0\x01", b"\0\x02a"),
        |v| unsubscribe(v, b"\0\x01", b"\0\x02aa"),
    ),
    (
        "3.10.2.1 property",
        ONLY_V5,
        PacketError::Property(0x0b),
        |_| whole(0xa2, &[b"\0\x01\x02\x0b\x01\0\x01a"]),
        |_| whole(0xa2, &[b"\0\x01\0\0\x01a"]),
    ),
    (
        "no more filters to forget either",
        &BOTH,
        PacketError::FilterCount(3),
        |v| unsubscribe(v, b"\0\x01", &b"\0\x01a".repeat(4)),
        |v| unsubscribe(v, b"\0\x01", &b"\0\x01a".repeat(3)),
    ),
];

#[test]
fn each_rule_is_kept_and_no_more_than_that() {
    for table in [FRAMES, PUBLISHES, PROPERTIES, ACKS, SUBSCRIPTIONS] {
        for (rule, versions, error, broken, kept) in table {
            for &version in *versions {
                let (broken, kept) = (broken(version), kept(version));
                let judged = frame(&broken, version, LIMITS.packet).and_then(|framing| match framing {
                    Framing::Whole { first, body, .. } => packet(version, first, &broken[body], &LIMITS),
                    Framing::Incomplete { .. } => panic!("{rule}"),
                });
                assert_eq!(judged, Err(*error), "{rule} {version:?} {broken:x?}");
                assert!(error.code() >= 0x80 && !error.reason().is_empty(), "{rule}");
                let kept = read(version, &kept, &LIMITS);
                assert!(kept.is_ok(), "{rule} {version:?} {kept:?}");
            }
        }
    }
}

#[test]
fn faults_say_what_they_said_in_the_first_release() {
    for (error, code, reason) in [
        (PacketError::Identifier, 0x81, "a packet identifier is 0"),
        (PacketError::Wildcard, 0x90, "a wildcard in the topic of a PUBLISH"),
        (PacketError::NoTopic, 0x82, "a PUBLISH without a topic"),
        (PacketError::Qos, 0x81, "QoS 3"),
        (PacketError::NoFilter, 0x82, "a packet without a topic filter"),
        (PacketError::Type(15), 0x82, "packet type 15 is not expected here"),
        (PacketError::Short, 0x81, "a packet ends before its last field"),
        (PacketError::ShareName, 0x8f, "a share group without a name"),
        (PacketError::WillTopic, 0x90, "the will's topic is none"),
        (PacketError::Property(0x11), 0x81, "property 0x11 does not belong here"),
        (PacketError::Duplicate(1), 0x82, "property 0x1 is there twice"),
        (PacketError::PacketSize { size: 9, limit: 8 }, 0x95, "a packet is over the size limit"),
        (PacketError::FilterCount(3), 0x97, "too many filters are in one packet"),
        (PacketError::UserProperties(2), 0x95, "more than 2 user properties"),
        (PacketError::FirstPacket(12), 0x82, "the first packet is not a CONNECT"),
        (PacketError::AliasUnknown, 0x82, "a topic alias that stands for no topic"),
        (PacketError::AliasMaximum, 0x94, "a topic alias over the maximum"),
        (PacketError::SessionExpiry, 0x82, "a session expiry in DISCONNECT after none in CONNECT"),
    ] {
        assert_eq!((error.code(), &*error.reason()), (code, reason));
    }
    assert_eq!(PacketError::PacketSize { size: 9, limit: 8 }.to_string(), "a packet of 9 bytes is over the limit of 8");
    assert_eq!(PacketError::FirstPacket(12).to_string(), "packet type 12");
}

#[test]
fn filters_that_are_none_are_refused_alone() {
    use crate::broker::refusals::Refusal::{FilterInvalid, TopicLimit};
    let cases = [
        ("a", None),
        ("", Some(FilterInvalid)),
        ("#", None),
        ("a/#", None),
        ("+/+/#", None),
        ("/", None),
        ("$share", None),
        ("$share/g/a/b/c", None),
        ("a/#/b", Some(FilterInvalid)),
        ("#/", Some(FilterInvalid)),
        ("a#", Some(FilterInvalid)),
        ("a+/b", Some(FilterInvalid)),
        ("++", Some(FilterInvalid)),
        ("$share/x", Some(FilterInvalid)),
        ("$share/g/", Some(FilterInvalid)),
        ("$share/+/x", Some(FilterInvalid)),
        ("$share/g#/x", Some(FilterInvalid)),
        ("$share/g/a#", Some(FilterInvalid)),
        ("a/b/c/d", Some(TopicLimit)),
        ("1234567890123456789012345", Some(TopicLimit)),
        ("$share/g/a/b/c/d", Some(TopicLimit)),
    ];
    for version in BOTH {
        for (filter, refused) in cases {
            let good = &[&text("good")[..], &[1]].concat();
            let bytes = whole(0x82, &[b"\0\x01", &properties(version, b""), &text(filter), &[2], good]);
            let Ok(Packet::Subscribe(subscribe)) = read(version, &bytes, &LIMITS) else { panic!("{filter}") };
            assert_eq!(subscribe.filters[0].0, Filter { text: filter, refused });
            assert_eq!(subscribe.filters[1].0, Filter { text: "good", refused: None });
            let bytes = whole(0xa2, &[b"\0\x01", &properties(version, b""), &text(filter), &text("good")]);
            let Ok(Packet::Unsubscribe(unsubscribe)) = read(version, &bytes, &LIMITS) else { panic!("{filter}") };
            assert_eq!(unsubscribe.filters, [Filter { text: filter, refused }, Filter { text: "good", refused: None }]);
        }
    }
}

#[test]
fn no_filter_has_more_levels_than_a_tree_of_filters_takes() {
    let limits = WireLimits { topic_levels: 1_000, ..WIDE };
    for (levels, fits) in [(128, true), (129, false)] {
        let filter = vec!["x"; levels].join("/");
        let bytes = whole(0x82, &[b"\0\x01\0", &text(&filter), &[0]]);
        let Ok(Packet::Subscribe(subscribe)) = read(V5, &bytes, &limits) else { panic!("{levels}") };
        assert_eq!(subscribe.filters[0].0.refused.is_none(), fits);
        let bytes = whole(0x30, &[&text(&filter), b"\0"]);
        let Ok(Packet::Publish(publish)) = read(V5, &bytes, &limits) else { panic!("{levels}") };
        assert_eq!(publish.over_limit, !fits);
    }
}

#[test]
fn options_of_a_subscription_are_read() {
    let options = Options::read(0x2d, None).unwrap();
    assert_eq!((options.qos as u8, options.no_local, options.retain_as_published), (1, true, true));
    assert_eq!(options.retain_handling, 2);
    let all = (0..=u8::MAX).filter_map(|byte| Options::read(byte, None).map(|options| (byte, options)));
    assert_eq!(all.clone().count(), 3 * 2 * 2 * 3);
    all.for_each(|(byte, options)| assert_eq!(options.as_u8(), byte));
}
