use mqtt5::QoS;
use mqtt5::packet::Packet;
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::packet::puback::PubAckPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::transport::packet_io::encode_packet_to_buffer;
use mqtt5::types::ConnectOptions;
use proptest::prelude::*;

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
                let _ = (frame.kind(), frame.ack_id(), frame.connect(), frame.session_present());
                for version in [Version::V311, Version::V5] {
                    let _ = (frame.publish(version), frame.will_topic(version));
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
fn the_version_is_read_from_the_connect() {
    let connect = |level: u8| [&[0x10, 13, 0, 4], &b"MQTT"[..], &[level, 2, 0, 0, 0, 0, 0]].concat();
    for (level, version) in [(4, Some(Version::V311)), (5, Some(Version::V5)), (3, None)] {
        let frames = cut(&connect(level), &[], LIMIT).unwrap();
        assert_eq!(frames[0].kind(), Kind::Connect);
        let read =
            version.map(|version| Connect { version, keep_alive: 0, max_packet: None, naming: Naming::Assigned });
        assert_eq!(frames[0].connect(), read);
    }
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
    assert_eq!(
        frames[0].connect(),
        Some(Connect {
            version: Version::V5,
            keep_alive: options_keep_alive,
            max_packet: Some(70_000),
            naming: Naming::Chosen
        })
    );
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
