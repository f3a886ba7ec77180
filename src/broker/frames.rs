//! MQTT packets cut out of a byte stream, and the few fields of them that the gate looks at.
//!
//! The engine owns the protocol: it judges, we only watch. So this file decodes no more than the gate needs and leaves
//! every other fault for the engine to find, or for `faults`; the one thing it insists on is the framing itself.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// A remaining length has four bytes at most (MQTT 5, 1.5.5).
const MAX_LENGTH_BYTES: usize = 4;
/// The QoS in the first byte of a PUBLISH.
const QOS: u8 = 0b0110;
const QOS_2: u8 = 0b0100;
/// The length of a packet identifier.
const ID_BYTES: usize = 2;
/// Packet types.
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBCOMP: u8 = 7;
const DISCONNECT: u8 = 14;
/// Properties of MQTT 5.
const MESSAGE_EXPIRY: u8 = 0x02;
const RECEIVE_MAXIMUM: u8 = 0x21;
const MAXIMUM_PACKET_SIZE: u8 = 0x27;

/// Why a byte stream is not MQTT. Always the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum FrameError {
    #[error("the remaining length has more than four bytes")]
    Length,
    #[error("a packet of {size} bytes is over the limit of {limit}")]
    TooBig { size: usize, limit: usize },
}

/// The protocol version of a connection. It decides whether packets have properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V311,
    V5,
}

/// The packet types that the gate treats in some special way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    PingResp,
    Other,
}

/// One whole packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    bytes: Bytes,
    header: usize,
}

/// What the gate reads of a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connect {
    pub(super) version: Version,
    /// The biggest packet that the client takes.
    pub(super) max_packet: Option<u32>,
    pub(super) naming: Naming,
}

/// Who chose the client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// The client.
    Chosen,
    /// The engine, because the client left it empty.
    Assigned,
}

/// What the gate reads of a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Publish<'a> {
    pub(super) topic: &'a [u8],
    pub(super) qos: u8,
    /// Absent at QoS 0.
    pub(super) id: Option<u16>,
    /// MQTT 5 message expiry, in seconds.
    pub(super) expiry: Option<u32>,
    pub(super) payload: &'a [u8],
}

/// Cuts packets out of a stream. Holds at most one incomplete packet and what was pushed behind it.
#[derive(Debug)]
pub(super) struct Framer {
    buffer: BytesMut,
    limit: usize,
}

impl Framer {
    /// `limit` is the size of the biggest packet let through, header included.
    pub(super) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole packet, if it is there. After an error the stream has no more packets.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, size)) = measure(&self.buffer)? else {
            return Ok(None);
        };
        if size > self.limit {
            return Err(FrameError::TooBig { size, limit: self.limit });
        }
        if self.buffer.len() < size {
            return Ok(None);
        }
        Ok(Some(Frame { bytes: self.buffer.split_to(size).freeze(), header }))
    }
}

impl Frame {
    pub(super) fn kind(&self) -> Kind {
        match self.packet_type() {
            1 => Kind::Connect,
            2 => Kind::ConnAck,
            3 => Kind::Publish,
            4 => Kind::PubAck,
            5 => Kind::PubRec,
            6 => Kind::PubRel,
            7 => Kind::PubComp,
            13 => Kind::PingResp,
            _ => Kind::Other,
        }
    }

    /// The packet type as a number (2.1.2).
    pub(super) fn packet_type(&self) -> u8 {
        self.bytes[0] >> 4
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The packet identifier of an acknowledgement: its first two bytes.
    pub(super) fn ack_id(&self) -> Option<u16> {
        self.body().try_get_u16().ok()
    }

    /// A packet of the engine in the form that the client's version has, if it has one: 3.1.1 knows no DISCONNECT of a
    /// server, and no reason codes in acknowledgements, but the engine sends both.
    pub(super) fn fit(self, version: Version) -> Option<Self> {
        match (version, self.packet_type()) {
            (Version::V311, DISCONNECT) => None,
            (Version::V311, PUBACK..=PUBCOMP) if self.body().len() > ID_BYTES => {
                let mut bytes = BytesMut::from(&[self.bytes[0], 2][..]);
                bytes.extend_from_slice(&self.body()[..ID_BYTES]);
                Some(Self { bytes: bytes.freeze(), header: 2 })
            }
            _ => Some(self),
        }
    }

    /// A CONNACK with another receive maximum, if it tells one.
    pub(super) fn with_receive_maximum(&self, maximum: u16) -> Self {
        let at = self.find_receive_maximum();
        let mut bytes = BytesMut::from(&self.bytes[..]);
        if let Some(value) = at.and_then(|at| bytes.get_mut(at..at + size_of::<u16>())) {
            value.copy_from_slice(&maximum.to_be_bytes());
        }
        Self { bytes: bytes.freeze(), header: self.header }
    }

    /// Where the value of a CONNACK's receive maximum is.
    fn find_receive_maximum(&self) -> Option<usize> {
        let mut rest = self.body();
        let _flags_and_code = take(&mut rest, 2)?;
        let mut properties = take_properties(&mut rest)?;
        loop {
            let (id, _) = take_property(&mut properties)?;
            if id == RECEIVE_MAXIMUM {
                return Some(self.bytes.len() - rest.len() - properties.len() - size_of::<u16>());
            }
        }
    }

    /// The fields of a CONNECT; none if it is malformed or of an unknown version, which is for the engine to refuse.
    pub(super) fn connect(&self) -> Option<Connect> {
        let mut body = self.body();
        take_prefixed(&mut body)?;
        let version = match body.try_get_u8().ok()? {
            4 => Version::V311,
            5 => Version::V5,
            _ => return None,
        };
        let _flags_and_keep_alive = take(&mut body, 3)?;
        let max_packet = match version {
            Version::V311 => None,
            Version::V5 => find_property(&mut body, MAXIMUM_PACKET_SIZE)?,
        };
        let naming = if take_prefixed(&mut body)?.is_empty() { Naming::Assigned } else { Naming::Chosen };
        Some(Connect { version, max_packet, naming })
    }

    /// The reason code of an acknowledgement; 0 if it leaves it out.
    pub(super) fn ack_reason(&self) -> u8 {
        self.body().get(2).copied().unwrap_or_default()
    }

    /// Whether a CONNACK says yes.
    pub(super) fn accepts(&self) -> bool {
        self.body().get(1) == Some(&0)
    }

    /// Whether a CONNACK says that the session was resumed.
    pub(super) fn session_present(&self) -> bool {
        self.body().first().is_some_and(|flags| flags & 1 == 1)
    }

    /// The fields of a PUBLISH; none if it is malformed.
    pub(super) fn publish(&self, version: Version) -> Option<Publish<'_>> {
        let qos = (self.bytes[0] >> 1) & 0b11;
        let mut body = self.body();
        let topic = take_prefixed(&mut body)?;
        let id = if qos == 0 { None } else { Some(body.try_get_u16().ok()?) };
        let expiry = match version {
            Version::V311 => None,
            Version::V5 => find_property(&mut body, MESSAGE_EXPIRY)?,
        };
        Some(Publish { topic, qos, id, expiry, payload: body })
    }

    /// The same PUBLISH with another payload; none if the packet is malformed or would be too big for MQTT.
    pub(super) fn with_payload(&self, version: Version, payload: &[u8]) -> Option<Self> {
        let before = self.body().len() - self.publish(version)?.payload.len();
        let head = &self.body()[..before];
        let mut bytes = BytesMut::with_capacity(1 + MAX_LENGTH_BYTES + head.len() + payload.len());
        bytes.put_u8(self.bytes[0]);
        put_varint(&mut bytes, head.len() + payload.len())?;
        let header = bytes.len();
        bytes.put_slice(head);
        bytes.put_slice(payload);
        Some(Self { bytes: bytes.freeze(), header })
    }

    /// The packet identifier of a PUBLISH at QoS 2.
    pub(super) fn exactly_once_id(&self) -> Option<u16> {
        if self.packet_type() != PUBLISH || self.bytes[0] & QOS != QOS_2 {
            return None;
        }
        let mut body = self.body();
        take_prefixed(&mut body)?;
        body.try_get_u16().ok()
    }

    /// What follows the fixed header.
    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[self.header..]
    }
}

fn put_varint(bytes: &mut BytesMut, mut value: usize) -> Option<()> {
    for _ in 0..MAX_LENGTH_BYTES {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        bytes.put_u8(if value == 0 { byte } else { byte | 0x80 });
        if value == 0 {
            return Some(());
        }
    }
    None
}

/// The size of the header, and that of the whole packet, once both can be told.
fn measure(buffer: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let Some(mut rest) = buffer.get(1..) else {
        return Ok(None);
    };
    match take_varint(&mut rest) {
        Varint::Value(length) => {
            let header = buffer.len() - rest.len();
            Ok(Some((header, header + length)))
        }
        Varint::Short => Ok(None),
        Varint::Long => Err(FrameError::Length),
    }
}

/// A variable byte integer, or why there is none.
enum Varint {
    Value(usize),
    Short,
    Long,
}

fn take_varint(rest: &mut &[u8]) -> Varint {
    let mut value = 0;
    for place in 0..MAX_LENGTH_BYTES {
        let Ok(byte) = rest.try_get_u8() else {
            return Varint::Short;
        };
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Varint::Value(value);
        }
    }
    Varint::Long
}

/// A field with a two-byte length before it.
pub(super) fn take_prefixed<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(rest.try_get_u16().ok()?);
    take(rest, length)
}

pub(super) fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (field, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(field)
}

/// The value of a property, as far as anybody here looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Number(u32),
    Text,
}

/// The properties of a packet or of a will (MQTT 5, 2.2.2.2), without the length before them.
pub(super) fn take_properties<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    match take_varint(rest) {
        Varint::Value(length) => take(rest, length),
        Varint::Short | Varint::Long => None,
    }
}

/// The next property: its number and its value. `None` means malformed.
pub(super) fn take_property(properties: &mut &[u8]) -> Option<(u8, Value)> {
    let id = properties.try_get_u8().ok()?;
    let value = match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => Value::Number(properties.try_get_u8().ok()?.into()),
        0x13 | 0x21..=0x23 => Value::Number(properties.try_get_u16().ok()?.into()),
        0x02 | 0x11 | 0x18 | 0x27 => Value::Number(properties.try_get_u32().ok()?),
        0x0b => match take_varint(properties) {
            Varint::Value(value) => Value::Number(value.try_into().ok()?),
            Varint::Short | Varint::Long => return None,
        },
        0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
            take_prefixed(properties)?;
            Value::Text
        }
        0x26 => {
            take_prefixed(properties)?;
            take_prefixed(properties)?;
            Value::Text
        }
        _ => return None,
    };
    Some((id, value))
}

/// Steps over the properties of a packet. Yields the number under `wanted`. `None` means malformed.
fn find_property(rest: &mut &[u8], wanted: u8) -> Option<Option<u32>> {
    let mut properties = take_properties(rest)?;
    let mut found = None;
    while !properties.is_empty() {
        match take_property(&mut properties)? {
            (id, Value::Number(value)) if id == wanted => found = Some(value),
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests;
