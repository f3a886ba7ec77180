//! MQTT packets cut out of a byte stream, and the few fields of them that the gate looks at.
//!
//! The engine owns the protocol: it judges, we only watch. So this file decodes no more than the gate needs and leaves
//! every other fault for the engine to find; the one thing it insists on is the framing itself.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// A remaining length has four bytes at most (MQTT 5, 1.5.5).
const MAX_LENGTH_BYTES: usize = 4;
/// The most that fits into them.
const MAX_LENGTH: usize = 268_435_455;
/// A length before a field has two bytes (MQTT 5, 1.5.4).
const PREFIX_BYTES: usize = 2;
/// The flag of a CONNECT that says that it has a will (MQTT 5, 3.1.2.5).
const WILL_FLAG: u8 = 0x04;
/// Properties of MQTT 5.
const MESSAGE_EXPIRY: u8 = 0x02;
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
    PubComp,
    Subscribe,
    Unsubscribe,
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
    /// Seconds after which a client that was silent speaks; 0 if it need not.
    pub(super) keep_alive: u16,
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

/// Why the topic filters of a packet cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FiltersFault {
    /// For the engine to refuse.
    Malformed,
    TooMany,
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

    /// Changes the limit for the packets that follow.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How much is held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
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
    /// A packet with the first byte `first`.
    pub(super) fn new(first: u8, body: &[u8]) -> Self {
        Self::of(first, &[body])
    }

    fn of(first: u8, body: &[&[u8]]) -> Self {
        let length = body.iter().map(|part| part.len()).sum();
        let mut bytes = BytesMut::with_capacity(1 + MAX_LENGTH_BYTES + length);
        bytes.put_u8(first);
        put_varint(&mut bytes, length);
        let header = bytes.len();
        for part in body {
            bytes.put_slice(part);
        }
        Self { bytes: bytes.freeze(), header }
    }

    pub(super) fn kind(&self) -> Kind {
        match self.bytes[0] >> 4 {
            1 => Kind::Connect,
            2 => Kind::ConnAck,
            3 => Kind::Publish,
            4 => Kind::PubAck,
            5 => Kind::PubRec,
            7 => Kind::PubComp,
            8 => Kind::Subscribe,
            10 => Kind::Unsubscribe,
            13 => Kind::PingResp,
            _ => Kind::Other,
        }
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

    /// The fields of a CONNECT; none if it is malformed or of an unknown version, which is for the engine to refuse.
    pub(super) fn connect(&self) -> Option<Connect> {
        let mut body = self.body();
        take_prefixed(&mut body)?;
        let version = match body.try_get_u8().ok()? {
            4 => Version::V311,
            5 => Version::V5,
            _ => return None,
        };
        let _flags = body.try_get_u8().ok()?;
        let keep_alive = body.try_get_u16().ok()?;
        let max_packet = match version {
            Version::V311 => None,
            Version::V5 => take_properties(&mut body, MAXIMUM_PACKET_SIZE)?,
        };
        let naming = if take_prefixed(&mut body)?.is_empty() { Naming::Assigned } else { Naming::Chosen };
        Some(Connect { version, keep_alive, max_packet, naming })
    }

    /// The reason code of an acknowledgement; 0 if it leaves it out.
    pub(super) fn ack_reason(&self) -> u8 {
        self.body().get(2).copied().unwrap_or_default()
    }

    /// The topic of the will in a CONNECT, if there is one and it can be told.
    pub(super) fn will_topic(&self, version: Version) -> Option<&[u8]> {
        let mut body = self.body();
        take_prefixed(&mut body)?;
        let _level = body.try_get_u8().ok()?;
        if body.try_get_u8().ok()? & WILL_FLAG == 0 {
            return None;
        }
        let _keep_alive = body.try_get_u16().ok()?;
        skip_properties(&mut body, version)?;
        let _client = take_prefixed(&mut body)?;
        skip_properties(&mut body, version)?;
        take_prefixed(&mut body)
    }

    /// The packet identifier of a SUBSCRIBE or UNSUBSCRIBE and the places of its topic filters, without their lengths.
    pub(super) fn filters(&self, version: Version, most: usize) -> Result<Vec<Range<usize>>, FiltersFault> {
        let has_options = self.kind() == Kind::Subscribe;
        let mut body = self.body();
        let mut found = Vec::new();
        let _id = body.try_get_u16().map_err(|_| FiltersFault::Malformed)?;
        skip_properties(&mut body, version).ok_or(FiltersFault::Malformed)?;
        while body.has_remaining() {
            if found.len() == most {
                return Err(FiltersFault::TooMany);
            }
            let filter = take_prefixed(&mut body).ok_or(FiltersFault::Malformed)?;
            let end = self.bytes.len() - body.len();
            found.push(end - filter.len()..end);
            if has_options {
                body.try_get_u8().map_err(|_| FiltersFault::Malformed)?;
            }
        }
        Ok(found)
    }

    /// The same packet with other topic filters in the places of some.
    pub(super) fn with_filters_replaced(&self, places: &[Range<usize>], by: &[u8]) -> Self {
        let mut body = BytesMut::with_capacity(self.bytes.len());
        let mut copied = self.header;
        for place in places {
            body.put_slice(&self.bytes[copied..place.start - PREFIX_BYTES]);
            body.put_u16(u16::try_from(by.len()).unwrap_or(u16::MAX));
            body.put_slice(by);
            copied = place.end;
        }
        body.put_slice(&self.bytes[copied..]);
        Self::new(self.bytes[0], &body)
    }

    /// Whether a CONNACK says that the session was resumed.
    pub(super) fn session_present(&self) -> bool {
        self.body().first().is_some_and(|flags| flags & 1 == 1)
    }

    /// The fields of a PUBLISH; none if it is malformed.
    pub(super) fn publish(&self, version: Version) -> Option<Publish<'_>> {
        let mut body = self.body();
        let qos = (self.bytes[0] >> 1) & 0b11;
        let topic = take_prefixed(&mut body)?;
        let id = if qos == 0 { None } else { Some(body.try_get_u16().ok()?) };
        let expiry = match version {
            Version::V311 => None,
            Version::V5 => take_properties(&mut body, MESSAGE_EXPIRY)?,
        };
        Some(Publish { topic, qos, id, expiry, payload: body })
    }

    /// The same PUBLISH with another payload; none if the packet is malformed or would be too big for MQTT.
    pub(super) fn with_payload(&self, version: Version, payload: &[u8]) -> Option<Self> {
        let before = self.body().len() - self.publish(version)?.payload.len();
        let head = &self.body()[..before];
        (head.len() + payload.len() <= MAX_LENGTH).then(|| Self::of(self.bytes[0], &[head, payload]))
    }

    fn body(&self) -> &[u8] {
        &self.bytes[self.header..]
    }
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

fn put_varint(bytes: &mut BytesMut, mut value: usize) {
    while value > 0x7f {
        bytes.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.put_u8(value as u8);
}

/// A field with a two-byte length before it.
fn take_prefixed<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(rest.try_get_u16().ok()?);
    take(rest, length)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (field, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(field)
}

/// Steps over all properties. `None` means malformed.
fn skip_properties(rest: &mut &[u8], version: Version) -> Option<()> {
    if version == Version::V5 {
        let Varint::Value(length) = take_varint(rest) else {
            return None;
        };
        take(rest, length)?;
    }
    Some(())
}

/// Steps over the properties of a CONNECT or PUBLISH (MQTT 5, 2.2.2.2). Yields the one with the number `wanted`, which
/// has four bytes. `None` means malformed.
fn take_properties(rest: &mut &[u8], wanted: u8) -> Option<Option<u32>> {
    let Varint::Value(length) = take_varint(rest) else {
        return None;
    };
    let mut properties = take(rest, length)?;
    let mut found = None;
    while let Ok(id) = properties.try_get_u8() {
        match id {
            0x02 | 0x11 | 0x27 => {
                let value = properties.try_get_u32().ok()?;
                if id == wanted {
                    found = Some(value);
                }
            }
            0x01 | 0x17 | 0x19 => drop(take(&mut properties, 1)?),
            0x21..=0x23 => drop(take(&mut properties, 2)?),
            0x03 | 0x08 | 0x09 | 0x15 | 0x16 => drop(take_prefixed(&mut properties)?),
            0x26 => {
                take_prefixed(&mut properties)?;
                take_prefixed(&mut properties)?;
            }
            0x0b => {
                let Varint::Value(_) = take_varint(&mut properties) else {
                    return None;
                };
            }
            _ => return None,
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests;
