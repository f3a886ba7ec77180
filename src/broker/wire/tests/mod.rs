use super::*;

mod connects;
mod hostile;
mod rules;
mod trips;
mod written;

pub(super) const V311: Version = Version::V311;
pub(super) const V5: Version = Version::V5;
pub(super) const BOTH: [Version; 2] = [V311, V5];

pub(super) const LIMITS: WireLimits =
    WireLimits { packet: 4096, topic_bytes: 24, topic_levels: 3, filters: 3, user_properties: 2 };
/// As wide as MQTT.
pub(super) const WIDE: WireLimits =
    WireLimits { packet: 1 << 20, topic_bytes: 65_535, topic_levels: 128, filters: 100, user_properties: 100 };

/// A packet with its fixed header.
pub(super) fn whole(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut bytes = vec![first];
    fields::put_varint(&mut bytes, body.len());
    bytes.extend(body);
    bytes
}

/// A text with its length.
pub(super) fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    fields::put_binary(&mut bytes, text.as_ref());
    bytes
}

/// Properties with their length; 3.1.1 has none.
pub(super) fn properties(version: Version, properties: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if version == V5 {
        fields::put_varint(&mut bytes, properties.len());
        bytes.extend(properties);
    }
    bytes
}

/// Reads bytes that are one packet.
pub(super) fn read<'a>(version: Version, bytes: &'a [u8], limits: &WireLimits) -> Result<Packet<'a>, PacketError> {
    match frame(bytes, version, limits.packet)? {
        Framing::Whole { first, body, total } if total == bytes.len() => packet(version, first, &bytes[body], limits),
        other => panic!("{other:?} of {bytes:x?}"),
    }
}

/// The body of a CONNECT.
pub(super) fn hello(level: u8, flags: u8, properties: &[u8], payload: &[&[u8]]) -> Vec<u8> {
    let head =
        [&text("MQTT")[..], &[level, flags, 0, 60], &self::properties(if level == 5 { V5 } else { V311 }, properties)];
    [head.concat(), payload.concat()].concat()
}

/// One correct packet of each kind behind CONNECT, with as many fields as it can have.
pub(super) fn correct(version: Version) -> Vec<Vec<u8>> {
    let message =
        b"\x01\x01\x02\0\0\0\x09\x03\0\x01t\x08\0\x01r\x09\0\x02\0\xff\x26\0\x01k\0\x01v\x23\0\x01\x26\0\0\0\0";
    let ack = if version == V5 { &b"\0\x08\x1f\0\0\x26\0\0\0\0"[..] } else { &[] };
    let subscribe = properties(version, b"\x0b\x80\x01\x26\0\x01k\0\x01v");
    let user = properties(version, b"\x26\0\x01k\0\x01v");
    let options: &[u8] = if version == V5 { &[0x2e] } else { &[2] };
    vec![
        whole(0x31, &[&text("a"), &properties(version, message), b"body"]),
        whole(0x3b, &[&text("a"), b"\0\x01", &properties(version, message), b"body"]),
        whole(0x34, &[&text("a/b"), b"\xff\xff", &properties(version, b""), b""]),
        whole(0x40, &[b"\0\x01", ack]),
        whole(0x50, &[b"\0\x01", ack]),
        whole(0x62, &[b"\0\x01", ack]),
        whole(0x70, &[b"\0\x01", ack]),
        whole(0x82, &[b"\0\x01", &subscribe, &text("a/+"), options, &text("$share/g/#"), &[1]]),
        whole(0xa2, &[b"\0\x01", &user, &text("a/+"), &text("$share/g/#")]),
        whole(0xc0, &[]),
        whole(0xe0, &[if version == V5 { b"\x04\x0a\x11\0\0\0\x05\x26\0\0\0\0" } else { b"" }]),
    ]
}

/// CONNECTs with as many fields as they can have.
pub(super) fn correct_connect(version: Version) -> Vec<u8> {
    let of_will = properties(
        version,
        b"\x18\0\0\0\x05\x01\x01\x02\0\0\0\x09\x03\0\x01t\x08\0\x01r\x09\0\x02\0\xff\x26\0\x01k\0\x01v",
    );
    let own = b"\x11\0\0\0\x05\x21\0\x0a\x27\0\0\x01\0\x22\0\x07\x19\x01\x17\0\x26\0\x01k\0\x01v\x15\0\x01m\x16\0\x01d";
    let payload = [&text("c")[..], &of_will, &text("w"), &text("bye"), &text("u"), &text("p")];
    hello(if version == V5 { 5 } else { 4 }, 0xf6, own, &payload)
}
