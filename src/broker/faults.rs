//! Packets of clients that the specification forbids and the engine lets pass.
//!
//! Most of them would hurt others: a property that does not belong into a PUBLISH, or a will on a wildcard, would be
//! handed on to subscribers, whose libraries then end *their* connections. The others are found here because the engine
//! ends the connection without a word; left to it are topic aliases, texts in properties and the order of packets.

use bytes::Buf;
use thiserror::Error;

use super::frames::connect::Protocol;
use super::frames::fields::{Value, take, take_prefixed, take_properties, take_property};
use super::frames::{Frame, Version};

/// Properties (MQTT 5, 2.2.2.2) with values of which some are wrong.
const PAYLOAD_FORMAT: u8 = 0x01;
const SUBSCRIPTION_ID: u8 = 0x0b;
const AUTH_METHOD: u8 = 0x15;
const AUTH_DATA: u8 = 0x16;
const PROBLEM_INFORMATION: u8 = 0x17;
const RESPONSE_INFORMATION: u8 = 0x19;
const RECEIVE_MAXIMUM: u8 = 0x21;
const TOPIC_ALIAS: u8 = 0x23;
const USER: u8 = 0x26;
const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// Which properties a client may send, and where (MQTT 5, 2.2.2.2).
const OF_CONNECT: &[u8] = &[0x11, AUTH_METHOD, AUTH_DATA, 0x17, 0x19, RECEIVE_MAXIMUM, 0x22, USER, MAXIMUM_PACKET_SIZE];
const OF_WILL: &[u8] = &[PAYLOAD_FORMAT, 0x02, 0x03, 0x08, 0x09, 0x18, USER];
const OF_PUBLISH: &[u8] = &[PAYLOAD_FORMAT, 0x02, 0x03, 0x08, 0x09, TOPIC_ALIAS, USER];
const OF_ACKS: &[u8] = &[0x1f, USER];
const OF_SUBSCRIBE: &[u8] = &[SUBSCRIPTION_ID, USER];
const OF_UNSUBSCRIBE: &[u8] = &[USER];
const OF_DISCONNECT: &[u8] = &[0x11, 0x1f, USER];

/// Flags of CONNECT (3.1.2.3).
const WILL: u8 = 0x04;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;

/// The shared subscriptions of a group without a name.
const NAMELESS_GROUP: &[u8] = b"$share//";

/// What is wrong with a packet. Always the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Fault {
    #[error("packet type {0} is for servers to send")]
    Direction(u8),
    #[error("a packet identifier is 0")]
    Identifier,
    #[error("property {0:#x} does not belong here")]
    Property(u8),
    #[error("property {0:#x} is there twice")]
    Twice(u8),
    #[error("property {0:#x} has a value that it cannot have")]
    Range(u8),
    #[error("authentication data without a method")]
    Method,
    #[error("the will's topic is none")]
    WillTopic,
    #[error("reserved bits of a subscription are set, or its QoS is 3")]
    Options,
    #[error("a packet without a topic filter")]
    NoFilter,
    #[error("a PUBLISH without a topic")]
    NoTopic,
    #[error("a wildcard in the topic of a PUBLISH")]
    Wildcard,
    #[error("a text that is not UTF-8, or has a NUL in it")]
    Text,
    #[error("QoS 3")]
    Qos,
    #[error("the flags of the fixed header are not those of packet type {0}")]
    Flags(u8),
    #[error("packet type {0} is not expected here")]
    Type(u8),
    #[error("a packet ends before its last field")]
    Short,
    #[error("a share group without a name")]
    ShareName,
    #[error("bytes behind the last field")]
    Rest,
    #[error("a CONNECT that cannot be read, or whose flags do not fit together")]
    Connect,
}

impl Fault {
    /// The reason code of MQTT 5 (4.13).
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Identifier | Self::Options | Self::Rest | Self::Property(_) | Self::Connect => 0x81,
            Self::Text | Self::Qos | Self::Flags(_) | Self::Short => 0x81,
            Self::ShareName => 0x8f,
            Self::WillTopic | Self::Wildcard => 0x90,
            _ => 0x82,
        }
    }
}

/// Looks at a packet of a client.
pub(super) fn check(frame: &Frame, version: Version) -> Result<(), Fault> {
    let kind = frame.packet_type();
    if !has_flags_of(kind, frame.bytes()[0] & 0x0f) {
        return Err(Fault::Flags(kind));
    }
    let judged = match kind {
        1 => return connect(frame).unwrap_or(Err(Fault::Connect)),
        3 => publish(frame, version),
        4..=7 => ack(frame.body(), version),
        8 => subscribe(frame.body(), version),
        10 => unsubscribe(frame.body(), version),
        12 if !frame.body().is_empty() => Some(Err(Fault::Rest)),
        14 => disconnect(frame.body(), version),
        server @ (2 | 9 | 11 | 13) => Some(Err(Fault::Direction(server))),
        // AUTH, too: no authentication method is known here.
        other @ (0 | 15) => Some(Err(Fault::Type(other))),
        _ => Some(Ok(())),
    };
    judged.unwrap_or(Err(Fault::Short))
}

/// Whether these can be the flags of a packet of a client (2.1.3). Those of a PUBLISH mean something.
fn has_flags_of(kind: u8, flags: u8) -> bool {
    match kind {
        1 | 4 | 5 | 7 | 12 | 14 => flags == 0,
        6 | 8 | 10 => flags == 0b0010,
        _ => true,
    }
}

/// In these, `None` means that the packet cannot be read.
type Judged = Option<Result<(), Fault>>;

fn connect(frame: &Frame) -> Judged {
    // The others are refused for that.
    let Protocol::Known(version) = frame.protocol() else {
        return Some(Ok(()));
    };
    let mut body = frame.body();
    take_prefixed(&mut body)?;
    let _level = body.try_get_u8().ok()?;
    let flags = body.try_get_u8().ok()?;
    let _keep_alive = take(&mut body, 2)?;
    if let Err(fault) = properties(&mut body, version, OF_CONNECT)? {
        return Some(Err(fault));
    }
    let _client = take_prefixed(&mut body)?;
    if flags & WILL != 0 {
        if let Err(fault) = properties(&mut body, version, OF_WILL)? {
            return Some(Err(fault));
        }
        let topic = take_prefixed(&mut body)?;
        let _payload = take_prefixed(&mut body)?;
        if topic.is_empty() || topic.iter().any(|byte| b"+#\0".contains(byte)) {
            return Some(Err(Fault::WillTopic));
        }
    }
    for _ in [USER_NAME, PASSWORD].iter().filter(|flag| flags & **flag != 0) {
        take_prefixed(&mut body)?;
    }
    Some(if body.is_empty() { Ok(()) } else { Err(Fault::Rest) })
}

fn publish(frame: &Frame, version: Version) -> Judged {
    let mut body = frame.body();
    let topic = take_prefixed(&mut body)?;
    if frame.qos() > 2 {
        return Some(Err(Fault::Qos));
    }
    if frame.qos() > 0 && body.try_get_u16().ok()? == 0 {
        return Some(Err(Fault::Identifier));
    }
    let before_properties = body;
    if let Err(fault) = properties(&mut body, version, OF_PUBLISH)? {
        return Some(Err(fault));
    }
    let has_alias = || version == Version::V5 && has_property(before_properties, TOPIC_ALIAS);
    Some(match str::from_utf8(topic) {
        Ok("") if !has_alias() => Err(Fault::NoTopic),
        Ok(topic) if topic.contains(['+', '#']) => Err(Fault::Wildcard),
        Ok(topic) if !topic.contains('\0') => Ok(()),
        _ => Err(Fault::Text),
    })
}

fn has_property(mut body: &[u8], wanted: u8) -> bool {
    let mut properties = take_properties(&mut body).unwrap_or_default();
    std::iter::from_fn(|| take_property(&mut properties)).any(|(id, _)| id == wanted)
}

fn ack(mut body: &[u8], version: Version) -> Judged {
    if body.try_get_u16().ok()? == 0 {
        return Some(Err(Fault::Identifier));
    }
    reason(&mut body, version, OF_ACKS)
}

fn subscribe(mut body: &[u8], version: Version) -> Judged {
    if body.try_get_u16().ok()? == 0 {
        return Some(Err(Fault::Identifier));
    }
    if let Err(fault) = properties(&mut body, version, OF_SUBSCRIBE)? {
        return Some(Err(fault));
    }
    if body.is_empty() {
        return Some(Err(Fault::NoFilter));
    }
    while !body.is_empty() {
        let filter = take_prefixed(&mut body)?;
        if !is_text(filter) {
            return Some(Err(Fault::Text));
        }
        let options = body.try_get_u8().ok()?;
        if filter.starts_with(NAMELESS_GROUP) {
            return Some(Err(Fault::ShareName));
        }
        if !are_options(options, version) {
            return Some(Err(Fault::Options));
        }
    }
    Some(Ok(()))
}

fn unsubscribe(mut body: &[u8], version: Version) -> Judged {
    if body.try_get_u16().ok()? == 0 {
        return Some(Err(Fault::Identifier));
    }
    if let Err(fault) = properties(&mut body, version, OF_UNSUBSCRIBE)? {
        return Some(Err(fault));
    }
    if body.is_empty() {
        return Some(Err(Fault::NoFilter));
    }
    while !body.is_empty() {
        if !is_text(take_prefixed(&mut body)?) {
            return Some(Err(Fault::Text));
        }
    }
    Some(Ok(()))
}

/// Whether a subscription can have these (3.8.3.1).
fn are_options(options: u8, version: Version) -> bool {
    let (qos, retain_handling, reserved) = (options & 0b11, options >> 4 & 0b11, options & 0b1100_0000);
    match version {
        Version::V311 => options <= 2,
        Version::V5 => qos <= 2 && retain_handling <= 2 && reserved == 0,
    }
}

fn is_text(field: &[u8]) -> bool {
    str::from_utf8(field).is_ok_and(|text| !text.contains('\0'))
}

fn disconnect(mut body: &[u8], version: Version) -> Judged {
    reason(&mut body, version, OF_DISCONNECT)
}

/// A reason code and properties, of which MQTT 5 lets both be left out, or the last.
fn reason(body: &mut &[u8], version: Version, allowed: &[u8]) -> Judged {
    if body.is_empty() {
        return Some(Ok(()));
    }
    let _reason = body.try_get_u8().ok()?;
    if body.is_empty() { Some(Ok(())) } else { properties(body, version, allowed) }
}

/// Looks at the properties of a packet, of which 3.1.1 has none, and steps over them.
fn properties(body: &mut &[u8], version: Version, allowed: &[u8]) -> Judged {
    if version == Version::V311 {
        return Some(Ok(()));
    }
    let mut properties = take_properties(body)?;
    // One bit for each property that was there; the numbers go up to 0x2a.
    let mut seen = 0_u64;
    while !properties.is_empty() {
        let (id, value) = take_property(&mut properties)?;
        if !allowed.contains(&id) {
            return Some(Err(Fault::Property(id)));
        }
        if id != USER && seen & 1 << id != 0 {
            return Some(Err(Fault::Twice(id)));
        }
        if !is_in_range(id, value) {
            return Some(Err(Fault::Range(id)));
        }
        seen |= 1 << id;
    }
    let needs_method = seen & 1 << AUTH_DATA != 0 && seen & 1 << AUTH_METHOD == 0;
    Some(if needs_method { Err(Fault::Method) } else { Ok(()) })
}

fn is_in_range(id: u8, value: Value) -> bool {
    let Value::Number(number) = value else {
        return true;
    };
    match id {
        PAYLOAD_FORMAT | PROBLEM_INFORMATION | RESPONSE_INFORMATION => number <= 1,
        SUBSCRIPTION_ID | RECEIVE_MAXIMUM | TOPIC_ALIAS | MAXIMUM_PACKET_SIZE => number > 0,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
