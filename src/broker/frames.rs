//! MQTT packets cut out of a byte stream, and the few fields of them that the gate looks at.
//!
//! The engine owns the protocol: it judges, we only watch. So this file decodes no more than the gate needs and leaves
//! every other fault for the engine to find, or for `faults`; the one thing it insists on is the framing itself.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use fields::{
    Varint, find_property, put_prefixed, put_varint, skip_properties, take, take_prefixed, take_properties,
    take_property, take_varint,
};

pub(super) mod connect;
pub(super) mod fields;

/// A remaining length has four bytes at most (MQTT 5, 1.5.5).
const MAX_LENGTH_BYTES: usize = 4;
/// The most that fits into them.
const MAX_LENGTH: usize = 268_435_455;
/// A length before a field has two bytes (MQTT 5, 1.5.4).
const PREFIX_BYTES: usize = 2;
/// The length of a packet identifier.
const ID_BYTES: usize = 2;
/// Packet types.
const CONNACK: u8 = 2;
const PUBACK: u8 = 4;
const PUBCOMP: u8 = 7;
const SUBACK: u8 = 9;
const DISCONNECT: u8 = 14;
/// The flag of a PUBLISH that says that it was sent before (MQTT 5, 3.3.1.1).
const DUP_FLAG: u8 = 0x08;
/// Flags and reason code of a CONNACK.
const CONNACK_HEAD: usize = 2;
/// Properties of MQTT 5.
const MESSAGE_EXPIRY: u8 = 0x02;
const RECEIVE_MAXIMUM: u8 = 0x21;
const REASON_STRING: u8 = 0x1f;
const ASSIGNED_CLIENT_ID: u8 = 0x12;
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
    Subscribe,
    SubAck,
    Unsubscribe,
    PingResp,
    Disconnect,
    Other,
}

/// One whole packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    bytes: Bytes,
    header: usize,
}

/// What the gate reads of a PUBLISH.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Publish<'a> {
    pub(super) topic: &'a [u8],
    pub(super) qos: u8,
    /// Absent at QoS 0.
    pub(super) id: Option<u16>,
    pub(super) dup: bool,
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
        match self.packet_type() {
            1 => Kind::Connect,
            2 => Kind::ConnAck,
            3 => Kind::Publish,
            4 => Kind::PubAck,
            5 => Kind::PubRec,
            6 => Kind::PubRel,
            7 => Kind::PubComp,
            8 => Kind::Subscribe,
            9 => Kind::SubAck,
            10 => Kind::Unsubscribe,
            13 => Kind::PingResp,
            14 => Kind::Disconnect,
            _ => Kind::Other,
        }
    }

    /// The packet type as a number (2.1.2).
    pub(super) fn packet_type(&self) -> u8 {
        self.bytes[0] >> 4
    }

    /// The QoS of a PUBLISH.
    pub(super) fn qos(&self) -> u8 {
        (self.bytes[0] >> 1) & 0b11
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
        self.with_value(RECEIVE_MAXIMUM, &maximum.to_be_bytes())
    }

    /// A CONNACK with another maximum packet size, if it tells one.
    pub(super) fn with_maximum_packet_size(&self, maximum: u32) -> Self {
        self.with_value(MAXIMUM_PACKET_SIZE, &maximum.to_be_bytes())
    }

    fn with_value(&self, property: u8, value: &[u8]) -> Self {
        let end = self.find_end_of(property);
        let mut bytes = BytesMut::from(&self.bytes[..]);
        if let Some(old) = end.and_then(|end| bytes.get_mut(end - value.len()..end)) {
            old.copy_from_slice(value);
        }
        Self { bytes: bytes.freeze(), header: self.header }
    }

    /// Where the value of a CONNACK's property ends.
    fn find_end_of(&self, property: u8) -> Option<usize> {
        let mut rest = self.body();
        let _flags_and_code = take(&mut rest, 2)?;
        let mut properties = take_properties(&mut rest)?;
        loop {
            let (id, _) = take_property(&mut properties)?;
            if id == property {
                return Some(self.bytes.len() - rest.len() - properties.len());
            }
        }
    }

    /// A CONNACK of MQTT 5 that names the client id that the broker gave; unchanged if it is malformed.
    pub(super) fn with_assigned_client_id(&self, client: &str) -> Self {
        self.with_property(CONNACK_HEAD, ASSIGNED_CLIENT_ID, client).unwrap_or_else(|| self.clone())
    }

    /// The same CONNACK, DISCONNECT or acknowledgement of MQTT 5, which says why in words. Unchanged if it has words of
    /// its own or is malformed.
    pub(super) fn with_reason_string(&self, reason: &str) -> Self {
        let head = match self.packet_type() {
            DISCONNECT => 1,
            CONNACK => CONNACK_HEAD,
            SUBACK => ID_BYTES,
            _ => ID_BYTES + 1,
        };
        let mut rest = self.body().get(head..).unwrap_or_default();
        if take_properties(&mut rest).is_some_and(|properties| !properties.is_empty()) {
            return self.clone();
        }
        self.with_property(head, REASON_STRING, reason).unwrap_or_else(|| self.clone())
    }

    /// The same packet with one more property. `head` is what comes before the properties.
    fn with_property(&self, head: usize, id: u8, text: &str) -> Option<Self> {
        let mut rest = self.body();
        let head = take(&mut rest, head)?;
        let properties = if rest.is_empty() { rest } else { take_properties(&mut rest)? };
        let mut added = BytesMut::with_capacity(1 + PREFIX_BYTES + text.len());
        added.put_u8(id);
        put_prefixed(&mut added, text.as_bytes());
        let mut length = BytesMut::with_capacity(MAX_LENGTH_BYTES);
        put_varint(&mut length, properties.len() + added.len());
        Some(Self::of(self.bytes[0], &[head, &length, properties, &added, rest]))
    }

    /// The reason code of an acknowledgement; 0 if it leaves it out.
    pub(super) fn ack_reason(&self) -> u8 {
        self.body().get(2).copied().unwrap_or_default()
    }

    /// The reason code of a DISCONNECT; 0 if it leaves it out.
    pub(super) fn reason(&self) -> u8 {
        self.body().first().copied().unwrap_or_default()
    }

    /// Whether a CONNACK says yes.
    pub(super) fn accepts(&self) -> bool {
        self.body().get(1) == Some(&0)
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
        let topic = take_prefixed(&mut body)?;
        let id = if self.qos() == 0 { None } else { Some(body.try_get_u16().ok()?) };
        let expiry = match version {
            Version::V311 => None,
            Version::V5 => find_property(&mut body, MESSAGE_EXPIRY)?,
        };
        let dup = self.bytes[0] & DUP_FLAG != 0;
        Some(Publish { topic, qos: self.qos(), id, dup, expiry, payload: body })
    }

    /// The same PUBLISH with another payload; none if the packet is malformed or would be too big for MQTT.
    pub(super) fn with_payload(&self, version: Version, payload: &[u8]) -> Option<Self> {
        let before = self.body().len() - self.publish(version)?.payload.len();
        let head = &self.body()[..before];
        (head.len() + payload.len() <= MAX_LENGTH).then(|| Self::of(self.bytes[0], &[head, payload]))
    }

    /// The packet identifier of a PUBLISH at QoS 2.
    pub(super) fn exactly_once_id(&self) -> Option<u16> {
        let mut body = self.body();
        if self.kind() != Kind::Publish || self.qos() != 2 {
            return None;
        }
        take_prefixed(&mut body)?;
        body.try_get_u16().ok()
    }

    /// What follows the fixed header.
    pub(super) fn body(&self) -> &[u8] {
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

#[cfg(test)]
mod tests;
