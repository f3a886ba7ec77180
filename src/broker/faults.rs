//! Packets of clients that the specification forbids and the engine lets pass.
//!
//! Most of them would hurt others: a property that does not belong into a PUBLISH, or a will on a wildcard, would be
//! handed on to subscribers, whose libraries then end *their* connections. What cannot be read at all is left for the
//! engine to find.

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
            Self::ShareName => 0x8f,
            Self::WillTopic => 0x90,
            _ => 0x82,
        }
    }
}

/// Looks at a packet of a client.
pub(super) fn check(frame: &Frame, version: Version) -> Result<(), Fault> {
    let judged = match frame.packet_type() {
        1 => connect(frame),
        3 => publish(frame, version),
        4..=7 => ack(frame.body(), version),
        8 => subscribe(frame.body(), version),
        10 => unsubscribe(frame.body(), version),
        12 if !frame.body().is_empty() => Some(Err(Fault::Rest)),
        14 => disconnect(frame.body(), version),
        server @ (2 | 9 | 11 | 13) => Some(Err(Fault::Direction(server))),
        _ => None,
    };
    judged.unwrap_or(Ok(()))
}

/// In these, `None` means that the packet cannot be read.
type Judged = Option<Result<(), Fault>>;

fn connect(frame: &Frame) -> Judged {
    let Protocol::Known(version) = frame.protocol() else {
        return None;
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
    take_prefixed(&mut body)?;
    let qos = (frame.bytes()[0] >> 1) & 0b11;
    if qos > 0 && body.try_get_u16().ok()? == 0 {
        return Some(Err(Fault::Identifier));
    }
    properties(&mut body, version, OF_PUBLISH)
}

fn ack(mut body: &[u8], version: Version) -> Judged {
    if body.try_get_u16().ok()? == 0 {
        return Some(Err(Fault::Identifier));
    }
    let _reason = body.try_get_u8().ok()?;
    properties(&mut body, version, OF_ACKS)
}

fn subscribe(mut body: &[u8], version: Version) -> Judged {
    if body.try_get_u16().ok()? == 0 {
        return Some(Err(Fault::Identifier));
    }
    if let Err(fault) = properties(&mut body, version, OF_SUBSCRIBE)? {
        return Some(Err(fault));
    }
    while !body.is_empty() {
        let filter = take_prefixed(&mut body)?;
        let options = body.try_get_u8().ok()?;
        if filter.starts_with(NAMELESS_GROUP) {
            return Some(Err(Fault::ShareName));
        }
        // Of MQTT 5 the engine looks at them.
        if version == Version::V311 && options > 2 {
            return Some(Err(Fault::Options));
        }
    }
    Some(Ok(()))
}

fn unsubscribe(mut body: &[u8], version: Version) -> Judged {
    if body.try_get_u16().ok()? == 0 {
        return Some(Err(Fault::Identifier));
    }
    properties(&mut body, version, OF_UNSUBSCRIBE)
}

fn disconnect(mut body: &[u8], version: Version) -> Judged {
    let _reason = body.try_get_u8().ok()?;
    properties(&mut body, version, OF_DISCONNECT)
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
