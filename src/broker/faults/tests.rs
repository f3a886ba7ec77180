use mqtt5::QoS;
use mqtt5::packet::Packet;
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::transport::packet_io::encode_packet_to_buffer;
use mqtt5::types::ConnectOptions;
use mqtt5::{WillMessage, WillProperties};

use super::*;
use crate::broker::frames::Framer;

fn judge(bytes: &[u8], version: Version) -> Result<(), Fault> {
    let mut framer = Framer::new(10_000);
    framer.push(bytes);
    check(&framer.next_frame().unwrap().unwrap(), version)
}

fn encode(packet: &Packet) -> Vec<u8> {
    let mut bytes = bytes::BytesMut::new();
    encode_packet_to_buffer(packet, &mut bytes).unwrap();
    bytes.to_vec()
}

#[test]
fn what_clients_send_passes() {
    let mut publish = PublishPacket::new("a", "x", QoS::AtLeastOnce).with_packet_id(1);
    publish.properties.set_payload_format_indicator(true);
    publish.properties.set_message_expiry_interval(0);
    publish.properties.set_content_type("text/plain".to_owned());
    publish.properties.set_response_topic("b".to_owned());
    publish.properties.set_correlation_data(bytes::Bytes::from_static(&[1]));
    publish.properties.set_topic_alias(1);
    for _ in 0..2 {
        publish.properties.add_user_property("k".to_owned(), "v".to_owned());
    }
    assert_eq!(judge(&encode(&Packet::Publish(publish)), Version::V5), Ok(()));

    let properties = WillProperties { will_delay_interval: Some(1), ..WillProperties::default() };
    let will = WillMessage { properties, ..WillMessage::new("w", "x") };
    let options = ConnectOptions::new("c").with_credentials("user", "password").with_will(will);
    let connects =
        [ConnectPacket::new(options.protocol_options.clone()), ConnectPacket::new_v311(options.protocol_options)];
    for connect in connects {
        assert_eq!(judge(&encode(&Packet::Connect(Box::new(connect))), Version::V5), Ok(()));
    }
    for (bytes, version) in [
        (&b"\x82\x06\0\x01\0\x01a\x02"[..], Version::V311),
        (b"\x82\x0e\0\x01\x07\x0b\x01\x26\0\0\0\0\0\x01a\x02", Version::V5),
        (b"\xa2\x05\0\x01\0\x01a", Version::V311),
        (b"\x40\x02\0\x01", Version::V311),
        (b"\x40\x03\0\x01\0", Version::V5),
        (b"\xe0\0", Version::V311),
        (b"\xe0\x07\0\x05\x11\0\0\0\x01", Version::V5),
        (b"\xc0\0", Version::V5),
    ] {
        assert_eq!(judge(bytes, version), Ok(()), "{bytes:x?}");
    }
}

#[test]
fn what_clients_must_not_send_is_named() {
    let connect = |flags: u8, rest: &[u8]| {
        let body = [&b"\0\x04MQTT\x05"[..], &[flags, 0, 0], rest].concat();
        [&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat()
    };
    for (bytes, fault) in [
        (b"\x20\x02\0\0".to_vec(), Fault::Direction(2)),
        (b"\xd0\0".to_vec(), Fault::Direction(13)),
        (b"\xc0\x01x".to_vec(), Fault::Rest),
        (b"\x32\x06\0\x01a\0\0\0".to_vec(), Fault::Identifier),
        (b"\x40\x02\0\0".to_vec(), Fault::Identifier),
        (b"\x82\x07\0\0\0\0\x01a\0".to_vec(), Fault::Identifier),
        (b"\xa2\x06\0\0\0\0\x01a".to_vec(), Fault::Identifier),
        (b"\x30\x09\0\x01a\x05\x11\0\0\0\x01".to_vec(), Fault::Property(0x11)),
        (b"\x30\x06\0\x01a\x02\x0b\x01".to_vec(), Fault::Property(0x0b)),
        (b"\x30\x06\0\x01a\x02\x01\x02".to_vec(), Fault::Range(1)),
        (b"\x30\x08\0\x01a\x04\x01\x01\x01\x01".to_vec(), Fault::Twice(1)),
        (b"\x82\x09\0\x01\x02\x0b\0\0\x01a\0".to_vec(), Fault::Range(0x0b)),
        (b"\x82\x0f\0\x01\0\0\x09$share//x\0".to_vec(), Fault::ShareName),
        (b"\xe0\x04\0\x02\x01\x01".to_vec(), Fault::Property(1)),
        (connect(2, b"\x03\x21\0\0\0\x01c"), Fault::Range(0x21)),
        (connect(2, b"\x04\x16\0\x01x\0\x01c"), Fault::Method),
        (connect(2, b"\0\0\x01cmore"), Fault::Rest),
        (connect(6, b"\0\0\x01c\0\0\x03a/+\0\0"), Fault::WillTopic),
        (connect(6, b"\0\0\x01c\x03\x23\0\x01\0\x01w\0\0"), Fault::Property(0x23)),
    ] {
        assert_eq!(judge(&bytes, Version::V5), Err(fault), "{bytes:x?}");
    }
    assert_eq!(judge(b"\x82\x06\0\x01\0\x01a\x03", Version::V311), Err(Fault::Options));
}

#[test]
fn what_the_engine_would_end_without_a_word_is_named() {
    for (bytes, fault) in [
        (&b"\x32\x07\0\x01+\0\x01\0x"[..], Fault::Wildcard),
        (b"\x32\x05\0\0\0\x01\0", Fault::NoTopic),
        (b"\x32\x06\0\x01\0\0\x01\0", Fault::Text),
        (b"\x32\x06\0\x01\xff\0\x01\0", Fault::Text),
        (b"\x36\x06\0\x01a\0\x01\0", Fault::Qos),
        (b"\x32\x03\0\x01a", Fault::Short),
        (b"\x32\x01\0", Fault::Short),
        (b"\x40\x01\0", Fault::Short),
        (b"\x40\x04\0\x01\0\x05", Fault::Short),
        (b"\x60\x02\0\x01", Fault::Flags(6)),
        (b"\x80\x07\0\x01\0\0\x01a\0", Fault::Flags(8)),
        (b"\xc1\0", Fault::Flags(12)),
        (b"\x82\x03\0\x01\0", Fault::NoFilter),
        (b"\xa2\x03\0\x01\0", Fault::NoFilter),
        (b"\x82\x06\0\x01\0\0\x01a", Fault::Short),
        (b"\x82\x07\0\x01\0\0\x01a\x03", Fault::Options),
        (b"\x82\x07\0\x01\0\0\x01a\x30", Fault::Options),
        (b"\x82\x07\0\x01\0\0\x01a\x40", Fault::Options),
        (b"\x82\x07\0\x01\0\0\x01\0\0", Fault::Text),
        (b"\xf0\0", Fault::Type(15)),
        (b"\0\0", Fault::Type(0)),
    ] {
        assert_eq!(judge(bytes, Version::V5), Err(fault), "{bytes:x?}");
        assert!(fault.code() >= 0x80);
    }
    assert_eq!(judge(b"\x32\x08\0\0\0\x01\x03\x23\0\x01", Version::V5), Ok(()), "an alias stands for a topic");
    assert_eq!(judge(b"\x30\x02\0\0", Version::V311), Err(Fault::NoTopic));
    for whole in [
        &b"\x10\x13\0\x04MQTT\x05\x06\0\0\0\0\x01c\0\0\x01w\0\0"[..],
        b"\x82\x0e\0\x01\x07\x0b\x01\x26\0\0\0\0\0\x01a\x02",
    ] {
        // Below that the CONNECT does not say of which protocol it is.
        for end in 9.min(whole.len())..whole.len() {
            let mut cut = whole[..end].to_vec();
            cut[1] = u8::try_from(end - 2).unwrap();
            assert!(judge(&cut, Version::V5).is_err(), "{cut:x?}");
        }
    }
}
