use mqtt5::QoS;
use mqtt5::WillMessage;
use mqtt5::packet::Packet;
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::packet::puback::PubAckPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::transport::packet_io::encode_packet_to_buffer;
use mqtt5::types::ConnectOptions;
use proptest::prelude::*;

use super::connect::{Connect, Protocol, Reasons};
use super::*;

const LIMIT: usize = 100_000;

/// A PUBLISH as a client may send it, and what the gate is to read of it.
#[derive(Debug, Clone)]
struct Sample {
    packet: PublishPacket,
    version: Version,
}

fn sample() -> impl Strategy<Value = Sample> {
    let properties = (any::<Option<u32>>(), any::<bool>(), prop::collection::vec("[a-z]{0,200}", 0..3));
    (any::<bool>(), 0..3u8, "[a-z/]{1,40}", any::<Vec<u8>>(), 1..=u16::MAX, properties).prop_map(
        |(new, qos, topic, payload, id, (expiry, all, user))| {
            let version = if new { Version::V5 } else { Version::V311 };
            let make = if new { PublishPacket::new } else { PublishPacket::new_v311 };
            let mut packet: PublishPacket = make(topic, payload, QoS::from(qos)).with_packet_id(id);
            if new {
                for text in user {
                    packet.properties.add_user_property("key".to_owned(), text);
                }
                if let Some(expiry) = expiry {
                    packet.properties.set_message_expiry_interval(expiry);
                }
                if all {
                    packet.properties.set_payload_format_indicator(true);
                    packet.properties.set_content_type("application/json".to_owned());
                    packet.properties.set_response_topic("a/b".to_owned());
                    packet.properties.set_correlation_data(Bytes::from_static(&[1, 2, 3]));
                    packet.properties.set_topic_alias(7);
                    packet.properties.set_subscription_identifier(300);
                }
            }
            Sample { packet, version }
        },
    )
}

fn encode(packet: Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_packet_to_buffer(&packet, &mut bytes).unwrap();
    bytes
}

/// Pushes `bytes` in pieces that end at `cuts`, and takes the packets as they come.
fn cut(bytes: &[u8], cuts: &[usize], limit: usize) -> Result<Vec<Frame>, FrameError> {
    let mut framer = Framer::new(limit);
    let mut frames = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        framer.push(&bytes[from..to]);
        from = to;
        while let Some(frame) = framer.next_frame()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn packets_are_the_same_under_every_split(samples in prop::collection::vec(sample(), 1..4), seed in any::<[prop::sample::Index; 6]>()) {
        let mut stream = BytesMut::new();
        let mut each = Vec::new();
        for sample in &samples {
            let bytes = encode(Packet::Publish(sample.packet.clone()));
            each.push(bytes.to_vec());
            stream.extend_from_slice(&bytes);
        }
        let mut cuts: Vec<usize> = seed.iter().map(|index| index.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let frames = cut(&stream, &cuts, LIMIT).unwrap();
        let bytes: Vec<_> = frames.iter().map(|frame| frame.bytes().to_vec()).collect();
        prop_assert_eq!(bytes, each);
    }

    #[test]
    fn a_publish_is_read_as_the_engine_wrote_it(sample in sample()) {
        let Sample { packet, version } = sample;
        let stream = encode(Packet::Publish(packet.clone()));
        let frames = cut(&stream, &[], LIMIT).unwrap();
        prop_assert_eq!(frames[0].kind(), Kind::Publish);
        let publish = frames[0].publish(version).unwrap();
        prop_assert_eq!(publish.topic, packet.topic_name.as_bytes());
        prop_assert_eq!(publish.id, packet.packet_id);
        prop_assert_eq!(publish.expiry, packet.properties.get_message_expiry_interval());
        prop_assert_eq!(publish.payload, &packet.payload[..]);
    }

    #[test]
    fn a_truncated_packet_is_not_a_packet(sample in sample(), at in any::<prop::sample::Index>()) {
        let stream = encode(Packet::Publish(sample.packet));
        let frames = cut(&stream[..at.index(stream.len())], &[], LIMIT).unwrap();
        prop_assert!(frames.is_empty());
    }

    #[test]
    fn garbage_never_panics(garbage in any::<Vec<u8>>()) {
        if let Ok(frames) = cut(&garbage, &[garbage.len() / 2], LIMIT) {
            for frame in frames {
                let _ = (frame.kind(), frame.ack_id(), frame.protocol(), frame.hello(), frame.session_present());
                for version in [Version::V311, Version::V5] {
                    let _ = frame.publish(version);
                    if let Ok(places) = frame.filters(version, 10) {
                        let _ = frame.with_filters_replaced(&places, b"#/");
                    }
                }
            }
        }
    }

    #[test]
    fn garbled_properties_never_panic(sample in sample(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut stream = encode(Packet::Publish(sample.packet));
        let at = at.index(stream.len());
        stream[at] = byte;
        for frame in cut(&stream, &[], LIMIT).into_iter().flatten() {
            let _ = frame.publish(sample.version);
        }
    }
}

#[test]
fn every_single_split_of_two_packets() {
    let mut stream =
        encode(Packet::Publish(PublishPacket::new("a/b", vec![7; 300], QoS::AtLeastOnce).with_packet_id(9)));
    stream.extend_from_slice(&encode(Packet::PubAck(PubAckPacket::new(0x0102))));
    for at in 0..=stream.len() {
        let frames = cut(&stream, &[at], LIMIT).unwrap();
        assert_eq!(frames.iter().map(Frame::kind).collect::<Vec<_>>(), [Kind::Publish, Kind::PubAck]);
        assert_eq!(frames[1].ack_id(), Some(0x0102));
    }
}

#[test]
fn a_length_of_five_bytes_is_refused() {
    assert_eq!(cut(&[0x30, 0xff, 0xff, 0xff, 0xff], &[], LIMIT), Err(FrameError::Length));
    assert_eq!(cut(&[0x30, 0xff, 0xff, 0xff], &[], LIMIT), Ok(Vec::new()));
}

#[test]
fn a_packet_over_the_limit_is_refused_before_it_is_there() {
    let stream = encode(Packet::Publish(PublishPacket::new("a", vec![7; 300], QoS::AtMostOnce)));
    let size = stream.len();
    assert_eq!(cut(&stream[..3], &[], size - 1), Err(FrameError::TooBig { size, limit: size - 1 }));
    assert_eq!(cut(&stream, &[], size).map(|frames| frames.len()), Ok(1));
}

#[test]
fn the_protocol_is_read_from_the_connect() {
    let connect = |name: &str, level: u8| {
        let body = [&[0, name.len() as u8], name.as_bytes(), &[level, 2, 0, 0, 0, 0, 0]].concat();
        cut(Frame::new(0x10, &body).bytes(), &[], LIMIT).unwrap().remove(0).protocol()
    };
    let known = Protocol::Known;
    assert_eq!((connect("MQTT", 4), connect("MQTT", 5)), (known(Version::V311), known(Version::V5)));
    assert_eq!(connect("MQTT", 0x84), known(Version::V311), "a bridge of mosquitto");
    assert_eq!((connect("MQIsdp", 3), connect("MQIsdp", 0x83)), (Protocol::V31, Protocol::V31));
    for level in [0, 3, 6, 0x80, 0x83, 0x85, 0xff] {
        assert_eq!(connect("MQTT", level), Protocol::Level(level));
    }
    for name in ["", "mqtt", "MQTTT", "\u{3}\u{1}"] {
        assert_eq!(connect(name, 4), Protocol::Other);
    }
    assert_eq!(cut(b"\x10\x02\0\x04", &[], LIMIT).unwrap().remove(0).protocol(), Protocol::Other);
}

#[test]
fn the_packet_limit_is_read_among_all_other_properties_of_a_connect() {
    let mut options = ConnectOptions::new("client").protocol_options;
    options.properties.session_expiry_interval = Some(1);
    options.properties.receive_maximum = Some(2);
    options.properties.maximum_packet_size = Some(70_000);
    options.properties.topic_alias_maximum = Some(3);
    options.properties.request_response_information = Some(true);
    options.properties.request_problem_information = Some(true);
    options.properties.authentication_method = Some("method".to_owned());
    options.properties.authentication_data = Some(vec![1]);
    options.properties.user_properties = vec![("key".to_owned(), "value".to_owned())];
    let options_keep_alive = u16::try_from(options.keep_alive.as_secs()).unwrap();
    let stream = encode(Packet::Connect(Box::new(ConnectPacket::new(options))));
    let frames = cut(&stream, &[], LIMIT).unwrap();
    let connect = Connect {
        version: Version::V5,
        keep_alive: options_keep_alive,
        max_packet: Some(70_000),
        reasons: Reasons::Wanted,
    };
    let hello = frames[0].hello().unwrap();
    assert_eq!((hello.connect, hello.client, hello.has_auth_method), (connect, "client", true));
}

/// A CONNECT with everything in it.
fn full(version: Version, client: &str) -> Frame {
    let mut options = ConnectOptions::new(client)
        .with_clean_start(true)
        .with_credentials("alice", "secret")
        .with_will(WillMessage::new("alice/self/presence", "gone"))
        .protocol_options;
    options.properties.request_problem_information = Some(false);
    let connect = match version {
        Version::V5 => ConnectPacket::new(options),
        Version::V311 => ConnectPacket::new_v311(options),
    };
    cut(&encode(Packet::Connect(Box::new(connect))), &[], LIMIT).unwrap().remove(0)
}

#[test]
fn all_of_a_connect_is_read_and_only_the_client_id_is_replaced() {
    for version in [Version::V311, Version::V5] {
        let frame = full(version, "mqttjs_1a2b3c4d");
        let hello = frame.hello().unwrap();
        assert_eq!((hello.client, hello.clean, hello.user), ("mqttjs_1a2b3c4d", true, Some("alice")));
        assert_eq!((hello.will_topic, hello.password), (Some("alice/self/presence"), Some(&b"secret"[..])));
        let reasons = if version == Version::V5 { Reasons::Unwanted } else { Reasons::Wanted };
        assert_eq!((hello.connect.version, hello.connect.reasons), (version, reasons));
        assert!(!format!("{hello:?}").contains("secret"));
        assert_eq!(
            frame.with_client_id(version, "alice::mqttjs_1a2b3c4d"),
            Some(full(version, "alice::mqttjs_1a2b3c4d"))
        );
        assert_eq!(frame.with_client_id(version, ""), Some(full(version, "")));
    }
}

#[test]
fn the_engine_does_not_see_that_a_client_is_a_bridge() {
    let plain = full(Version::V311, "host.main");
    let mut bytes = plain.bytes().to_vec();
    bytes[8] |= 0x80;
    let bridge = cut(&bytes, &[], LIMIT).unwrap().remove(0);
    assert_eq!(bridge.hello(), plain.hello());
    assert_eq!(bridge.with_client_id(Version::V311, "host.main"), Some(plain));
}

#[test]
fn a_connect_that_breaks_off_or_contradicts_itself_says_nothing() {
    for version in [Version::V311, Version::V5] {
        let whole = full(version, "c");
        for end in 0..whole.body().len() {
            let short = Frame::new(0x10, &whole.body()[..end]);
            assert!(
                short.hello().is_none() && !matches!(short.with_client_id(version, "x"), Some(same) if same == whole)
            );
        }
        let body = |flags: u8, rest: &[u8]| {
            let (level, properties): (u8, &[u8]) = if version == Version::V5 { (5, &[0]) } else { (4, &[]) };
            Frame::new(0x10, &[&b"\0\x04MQTT"[..], &[level, flags, 0, 0], properties, rest].concat())
        };
        assert!(body(2, b"\0\x01c").hello().is_some());
        // The reserved flag; QoS 3; QoS or retain without a will.
        for flags in [0x03, 0x1e, 0x0a, 0x22] {
            assert!(body(flags, b"\0\x01c\0\x01w\0\x01x").hello().is_none(), "{flags:#x}");
        }
        assert_eq!(body(0x42, b"\0\x01c\0\x01p").hello().is_some(), version == Version::V5, "only a password");
        for text in [&b"\0\x01\xff"[..], b"\0\x03a\0b"] {
            assert!(body(2, text).hello().is_none());
            assert!(body(0x82, &[&b"\0\x01c"[..], text].concat()).hello().is_none(), "a user name");
        }
        assert!(Frame::new(0x11, whole.body()).hello().is_none(), "flags of the fixed header");
    }
}

#[test]
fn a_reason_is_added_where_there_is_none() {
    let explained = |bytes: &[u8]| cut(bytes, &[], LIMIT).unwrap().remove(0).with_reason_string("no").into_bytes();
    assert_eq!(explained(b"\xe0\x01\x98"), &b"\xe0\x07\x98\x05\x1f\0\x02no"[..]);
    assert_eq!(explained(b"\xe0\x02\x98\0"), &b"\xe0\x07\x98\x05\x1f\0\x02no"[..]);
    assert_eq!(explained(b"\x20\x03\0\x87\0"), &b"\x20\x08\0\x87\x05\x1f\0\x02no"[..]);
    assert_eq!(explained(b"\x40\x03\0\x01\x90"), &b"\x40\x09\0\x01\x90\x05\x1f\0\x02no"[..]);
    for own in [&b"\x50\x09\x12\x34\x87\x05\x1f\0\x02hm"[..], b"\xe0\x07\x98\x05\x1f\0\x02hm"] {
        assert_eq!(explained(own), own);
    }
}

#[test]
fn a_connack_names_the_client_id_that_was_given() {
    let named = |bytes: &[u8]| cut(bytes, &[], LIMIT).unwrap().remove(0).with_assigned_client_id("auto").into_bytes();
    assert_eq!(named(b"\x20\x05\0\0\x02\x25\x01"), &b"\x20\x0c\0\0\x09\x25\x01\x12\0\x04auto"[..]);
    assert_eq!(named(b"\x20\x03\0\0\0"), &b"\x20\x0a\0\0\x07\x12\0\x04auto"[..]);
}

#[test]
fn what_3_1_1_does_not_have_is_left_out() {
    let fit = |bytes: &[u8], version| cut(bytes, &[], LIMIT).unwrap().remove(0).fit(version).map(Frame::into_bytes);
    let refusal = &b"\x50\x09\x12\x34\x87\x05\x1f\0\x02no"[..];
    assert_eq!(fit(refusal, Version::V311).as_deref(), Some(&b"\x50\x02\x12\x34"[..]));
    assert_eq!(fit(b"\xe0\x01\x8e", Version::V311), None);
    for bytes in [refusal, b"\xe0\x01\x8e", b"\x40\x02\0\x01"] {
        assert_eq!(fit(bytes, Version::V5).as_deref(), Some(bytes));
    }
    assert_eq!(fit(b"\x62\x02\0\x01", Version::V311).as_deref(), Some(&b"\x62\x02\0\x01"[..]));
}

#[test]
fn the_receive_maximum_of_a_connack_is_replaced() {
    let replaced = |bytes: &[u8]| cut(bytes, &[], LIMIT).unwrap().remove(0).with_receive_maximum(0x0405).into_bytes();
    assert_eq!(
        replaced(b"\x20\x0b\0\0\x08\x22\0\x20\x21\x01\x01\x25\x01"),
        &b"\x20\x0b\0\0\x08\x22\0\x20\x21\x04\x05\x25\x01"[..]
    );
    for without in [&b"\x20\x02\0\0"[..], b"\x20\x03\0\0\0", b"\x20\x05\0\0\x02\x25\x01"] {
        assert_eq!(replaced(without), without);
    }
}
