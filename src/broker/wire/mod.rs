//! MQTT 3.1.1 and 5 as a server reads and writes them: bytes in, packets out, and the other way round.
//!
//! Nothing here keeps a state, waits, or reads a clock. What is read borrows from the buffer that it came in; only a
//! list of filters and properties in pieces are copied, after [`frame`] has judged the size of the packet.
//!
//! A packet that is returned keeps every rule that it can keep alone: what the library of a subscriber might stumble over
//! (a wildcard in a topic, a property that does not belong there) does not come through. Everything else is a [`PacketError`],
//! which ends the connection. Rules that need to know more are the connection's: that CONNECT comes first, topic aliases,
//! the receive maximum. Paragraphs are those of MQTT 5.

use std::ops::Range;

use acks::{OF_RECEIPT, OF_RELEASE};
use fields::is_padded;

pub(crate) use acks::{Ack, Disconnect};
pub(crate) use connect::{Connect, Will, connect};
pub(crate) use error::PacketError;
pub(crate) use properties::MessageProperties;
pub(crate) use publish::Publish;
pub(crate) use subscribe::{Options, Subscribe, Unsubscribe};
pub(crate) use write::{
    AckKind, ClientEncoding, Connack, PublishOut, ack, connack, disconnect, pingresp, publish, publish_size, suback,
    unsuback,
};

#[cfg(test)]
use {connect::Refused, subscribe::Filter};

mod acks;
mod connect;
mod error;
mod fields;
mod properties;
mod publish;
mod subscribe;
mod write;

/// The packet type of CONNECT (2.1.2), with which each connection begins.
pub(crate) const CONNECT: u8 = 1;
/// What comes before the group name in a filter of a shared subscription. Neither counts as a level.
const SHARED: &str = "$share/";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V311,
    V5,
}

/// What a packet may ask of the broker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WireLimits {
    /// The biggest packet, in bytes, fixed header included.
    pub(crate) packet: usize,
    /// The longest topic or filter, in bytes.
    pub(crate) topic_bytes: usize,
    /// Levels of a topic or filter; [`MAX_LEVELS`](crate::chat::filter::MAX_LEVELS) at most.
    pub(crate) topic_levels: usize,
    /// Filters in one packet.
    pub(crate) filters: usize,
    /// User properties in one packet, and in a will.
    pub(crate) user_properties: usize,
}

impl WireLimits {
    fn allow(&self, topic: &str) -> bool {
        let levels = match topic.strip_prefix(SHARED) {
            Some(shared) => shared.split_once('/').map_or(shared, |(_group, filter)| filter),
            None => topic,
        };
        let most = self.topic_levels.min(crate::chat::filter::MAX_LEVELS);
        topic.len() <= self.topic_bytes && levels.bytes().filter(|&byte| byte == b'/').count() < most
    }
}

/// What is at the front of a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A part of a packet, of which so many bytes have to be there before more can be told. Never over the size limit.
    Incomplete { wants: usize },
    /// A packet: its first byte, where its body is, and how many bytes it has altogether.
    Whole { first: u8, body: Range<usize>, total: usize },
}

/// Finds the packet at the front of a buffer. Packet type, flags and size are judged from the fixed header alone,
/// before the rest is there. `version` is 3.1.1 as long as nobody knows: it lets a length have more bytes than it needs.
///
/// # Errors
///
/// If the fixed header is that of no packet of a client, or the packet has more than `limit` bytes.
pub(crate) fn frame(buffer: &[u8], version: Version, limit: usize) -> Result<Framing, PacketError> {
    let Some((&first, rest)) = buffer.split_first() else {
        return Ok(Framing::Incomplete { wants: 2 });
    };
    check_first(first)?;
    let Some((value, bytes)) = fields::varint(rest)? else {
        return Ok(Framing::Incomplete { wants: buffer.len() + 1 });
    };
    let (header, total) = (1 + bytes, 1 + bytes + value as usize);
    if total > limit {
        return Err(PacketError::PacketSize { size: total, limit });
    }
    if version == Version::V5 && is_padded(&rest[..bytes]) {
        return Err(PacketError::Padded);
    }
    if buffer.len() < total {
        return Ok(Framing::Incomplete { wants: total });
    }
    Ok(Framing::Whole { first, body: header..total, total })
}

/// Whether a packet of a client can begin with this byte: its type and flags (2.1).
fn check_first(first: u8) -> Result<(), PacketError> {
    let (kind, flags) = (first >> 4, first & 0x0f);
    match (kind, flags) {
        (3, _) => publish::qos(first).map(|_| ()),
        // AUTH, too: no authentication method is known here.
        (0 | 15, _) => Err(PacketError::Type(kind)),
        (2 | 9 | 11 | 13, _) => Err(PacketError::Direction(kind)),
        (6 | 8 | 10, 0b0010) | (1 | 4 | 5 | 7 | 12 | 14, 0) => Ok(()),
        _ => Err(PacketError::Flags(kind)),
    }
}

/// A packet of a client behind its CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Publish(Publish<'a>),
    Puback(Ack),
    Pubrec(Ack),
    Pubrel(Ack),
    Pubcomp(Ack),
    Subscribe(Subscribe<'a>),
    Unsubscribe(Unsubscribe<'a>),
    Pingreq,
    Disconnect(Disconnect),
}

/// Reads a packet that [`frame`] found.
///
/// # Errors
///
/// If it breaks a rule.
pub(crate) fn packet<'a>(
    version: Version,
    first: u8,
    body: &'a [u8],
    limits: &WireLimits,
) -> Result<Packet<'a>, PacketError> {
    check_first(first)?;
    let ack = |codes| acks::ack(version, codes, body, limits);
    match first >> 4 {
        3 => publish::publish(version, first, body, limits).map(Packet::Publish),
        4 => ack(OF_RECEIPT).map(Packet::Puback),
        5 => ack(OF_RECEIPT).map(Packet::Pubrec),
        6 => ack(OF_RELEASE).map(Packet::Pubrel),
        7 => ack(OF_RELEASE).map(Packet::Pubcomp),
        8 => subscribe::subscribe(version, body, limits).map(Packet::Subscribe),
        10 => subscribe::unsubscribe(version, body, limits).map(Packet::Unsubscribe),
        12 if body.is_empty() => Ok(Packet::Pingreq),
        12 => Err(PacketError::Rest),
        14 => acks::disconnect(version, body, limits).map(Packet::Disconnect),
        // A second CONNECT.
        other => Err(PacketError::Type(other)),
    }
}

#[cfg(test)]
mod tests;
