//! The few MQTT packets that the client of the benchmarks writes and reads.

use crate::login::Login;

/// A version of the protocol, by its number in a CONNECT.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V3 = 4,
    V5 = 5,
}

/// What the broker keeps of a client that is away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    Clean,
    Lasting,
}

pub(crate) const CONNACK: u8 = 2;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const SUBACK: u8 = 9;
pub(crate) const DISCONNECT: [u8; 2] = [0xE0, 0];

const QOS_1: u8 = 1;
const DUP: u8 = 8;
const RETAIN: u8 = 1;
const USER_AND_PASSWORD: u8 = 0xC0;
/// How long a lasting session is kept, in seconds.
const EXPIRY: u32 = 3_600;
const SESSION_EXPIRY_INTERVAL: u8 = 17;
const RECEIVE_MAXIMUM: u8 = 33;

/// A CONNECT without keep-alive.
pub(crate) fn connect(version: Version, session: Session, id: &str, login: Option<&Login>) -> Vec<u8> {
    let clean = u8::from(session == Session::Clean) << 1;
    let mut body = text("MQTT");
    body.extend([version as u8, clean | login.map_or(0, |_| USER_AND_PASSWORD), 0, 0]);
    match (version, session) {
        (Version::V3, _) => {}
        (Version::V5, Session::Clean) => body.push(0),
        (Version::V5, Session::Lasting) => {
            body.extend([5, SESSION_EXPIRY_INTERVAL]);
            body.extend(EXPIRY.to_be_bytes());
        }
    }
    body.extend(text(id));
    if let Some(login) = login {
        body.extend([text(&login.user), text(&login.password)].concat());
    }
    packet(0x10, &body)
}

/// A SUBSCRIBE for QoS 1.
pub(crate) fn subscribe(version: Version, filters: &[String]) -> Vec<u8> {
    let mut body = vec![0, 1];
    body.extend(no_properties(version));
    for filter in filters {
        body.extend(text(filter));
        body.push(QOS_1);
    }
    packet(0x82, &body)
}

/// A PUBLISH with QoS 1.
pub(crate) fn publish(version: Version, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    body.extend(id.to_be_bytes());
    body.extend(no_properties(version));
    body.extend(payload);
    packet(0x30 | QOS_1 << 1, &body)
}

/// The same PUBLISH, retained.
pub(crate) fn retained(mut publish: Vec<u8>) -> Vec<u8> {
    publish[0] |= RETAIN;
    publish
}

/// What a PUBLISH with QoS 1 that came in brings.
pub(crate) struct Message<'a> {
    /// It is marked as one that may have come before.
    pub(crate) is_marked: bool,
    pub(crate) topic: &'a [u8],
    pub(crate) id: [u8; 2],
    pub(crate) payload: &'a [u8],
}

impl<'a> Message<'a> {
    pub(crate) fn read(version: Version, kind: u8, body: &'a [u8]) -> Option<Self> {
        let (length, rest) = body.split_first_chunk()?;
        let (topic, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let (id, rest) = rest.split_first_chunk()?;
        let payload = if version == Version::V5 { properties(rest)?.1 } else { rest };
        Some(Self { is_marked: kind & DUP != 0, topic, id: *id, payload })
    }
}

/// The reason code of a PUBACK: what is not there means success.
pub(crate) fn puback_code(body: &[u8]) -> u8 {
    body.get(2).copied().unwrap_or(0)
}

/// What a CONNACK says.
pub(crate) struct Connack {
    pub(crate) session_present: bool,
    pub(crate) code: u8,
    /// How many PUBLISH packets the broker takes unacknowledged.
    pub(crate) receive_maximum: u16,
}

impl Connack {
    pub(crate) fn read(version: Version, body: &[u8]) -> Option<Self> {
        let (&[flags, code], rest) = body.split_first_chunk()?;
        let mut properties = if version == Version::V5 { properties(rest)?.0 } else { &[] };
        let mut receive_maximum = u16::MAX;
        while let Some((&property, value)) = properties.split_first() {
            if property == RECEIVE_MAXIMUM {
                receive_maximum = u16::from_be_bytes(*value.first_chunk()?);
            }
            properties = value.get(length(property, value)?..)?;
        }
        Some(Self { session_present: flags & 1 == 1, code, receive_maximum })
    }
}

/// How long the value of a property of a CONNACK is (MQTT 5, 3.2.2.3).
fn length(property: u8, value: &[u8]) -> Option<usize> {
    let text = |value: &[u8]| Some(2 + usize::from(u16::from_be_bytes(*value.first_chunk()?)));
    match property {
        36 | 37 | 40 | 41 | 42 => Some(1),
        19 | RECEIVE_MAXIMUM | 34 => Some(2),
        SESSION_EXPIRY_INTERVAL | 39 => Some(4),
        18 | 21 | 22 | 26 | 28 | 31 => text(value),
        38 => {
            let name = text(value)?;
            Some(name + text(value.get(name..)?)?)
        }
        _ => None,
    }
}

/// The properties at the start of `bytes`, and what follows them.
fn properties(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, used) = variable(bytes)?;
    bytes.get(used..)?.split_at_checked(length)
}

/// The first byte, the body and the size of the packet at the start of `bytes`, if it is there whole.
pub(crate) fn first(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&kind, rest) = bytes.split_first()?;
    let (length, used) = variable(rest)?;
    let body = rest.get(used..used + length)?;
    Some((kind, body, 1 + used + length))
}

/// A variable byte integer, and how many bytes it takes.
fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, place + 1));
        }
    }
    None
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    while length >= 0x80 {
        packet.push(length as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend(body);
    packet
}

fn text(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("texts of the benchmark are short");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn no_properties(version: Version) -> &'static [u8] {
    if version == Version::V5 { &[0] } else { &[] }
}
