//! The properties of MQTT 5 (2.2.2).

use std::borrow::Cow;
use std::ops::Range;

use super::WireLimits;
use super::error::PacketError;
use super::fields::Reader;

/// Identifiers of properties (2.2.2.2).
pub(super) mod id {
    pub(in super::super) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(in super::super) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(in super::super) const CONTENT_TYPE: u8 = 0x03;
    pub(in super::super) const RESPONSE_TOPIC: u8 = 0x08;
    pub(in super::super) const CORRELATION: u8 = 0x09;
    pub(in super::super) const SUBSCRIPTION_ID: u8 = 0x0b;
    pub(in super::super) const SESSION_EXPIRY: u8 = 0x11;
    pub(in super::super) const ASSIGNED_CLIENT: u8 = 0x12;
    pub(in super::super) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(in super::super) const AUTH_METHOD: u8 = 0x15;
    pub(in super::super) const AUTH_DATA: u8 = 0x16;
    pub(in super::super) const PROBLEM_INFORMATION: u8 = 0x17;
    pub(in super::super) const WILL_DELAY: u8 = 0x18;
    pub(in super::super) const RESPONSE_INFORMATION: u8 = 0x19;
    pub(in super::super) const REASON: u8 = 0x1f;
    pub(in super::super) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(in super::super) const ALIAS_MAXIMUM: u8 = 0x22;
    pub(in super::super) const ALIAS: u8 = 0x23;
    pub(in super::super) const USER: u8 = 0x26;
    pub(in super::super) const MAXIMUM_PACKET: u8 = 0x27;
}

/// Where properties of a client may stand: a bit for each kind of packet, and for the will.
pub(super) const OF_CONNECT: u8 = 1;
pub(super) const OF_WILL: u8 = 1 << 1;
pub(super) const OF_PUBLISH: u8 = 1 << 2;
pub(super) const OF_ACKS: u8 = 1 << 3;
pub(super) const OF_SUBSCRIBE: u8 = 1 << 4;
pub(super) const OF_UNSUBSCRIBE: u8 = 1 << 5;
pub(super) const OF_DISCONNECT: u8 = 1 << 6;
const OF_MESSAGES: u8 = OF_PUBLISH | OF_WILL;

/// How the value of a property is written; numbers with the least that they can be.
enum ValueType {
    Flag,
    TwoBytes(u32),
    FourBytes(u32),
    Varint(u32),
    Text,
    Binary,
    Pair,
}

/// The form of a property that a client may send, and where.
fn value_type_of(id: u8) -> Option<(ValueType, u8)> {
    Some(match id {
        id::PAYLOAD_FORMAT => (ValueType::Flag, OF_MESSAGES),
        id::MESSAGE_EXPIRY => (ValueType::FourBytes(0), OF_MESSAGES),
        id::CONTENT_TYPE | id::RESPONSE_TOPIC => (ValueType::Text, OF_MESSAGES),
        id::CORRELATION => (ValueType::Binary, OF_MESSAGES),
        id::SUBSCRIPTION_ID => (ValueType::Varint(1), OF_SUBSCRIBE),
        id::SESSION_EXPIRY => (ValueType::FourBytes(0), OF_CONNECT | OF_DISCONNECT),
        id::AUTH_METHOD => (ValueType::Text, OF_CONNECT),
        id::AUTH_DATA => (ValueType::Binary, OF_CONNECT),
        id::PROBLEM_INFORMATION | id::RESPONSE_INFORMATION => (ValueType::Flag, OF_CONNECT),
        id::WILL_DELAY => (ValueType::FourBytes(0), OF_WILL),
        id::REASON => (ValueType::Text, OF_ACKS | OF_DISCONNECT),
        id::RECEIVE_MAXIMUM => (ValueType::TwoBytes(1), OF_CONNECT),
        id::ALIAS_MAXIMUM => (ValueType::TwoBytes(0), OF_CONNECT),
        id::ALIAS => (ValueType::TwoBytes(1), OF_PUBLISH),
        id::USER => (ValueType::Pair, u8::MAX),
        id::MAXIMUM_PACKET => (ValueType::FourBytes(1), OF_CONNECT),
        _ => return None,
    })
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Number(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    /// Of a user property, at which nobody looks.
    Pair,
}

/// The properties of one packet, or of a will.
#[derive(Debug)]
pub(super) struct Properties<'a> {
    block: &'a [u8],
    rest: Reader<'a>,
    /// In what they stand.
    packet: u8,
    seen: u64,
    /// How many user properties there may still be, and how many there might be at first.
    user: usize,
    limit: usize,
    /// Where the last one stands in the block, with its identifier.
    place: Range<usize>,
}

impl<'a> Properties<'a> {
    /// Steps over the properties in `reader`, and yields them.
    pub(super) fn take(reader: &mut Reader<'a>, packet: u8, limits: &WireLimits) -> Result<Self, PacketError> {
        let length = reader.varint()?;
        Ok(Self::of(reader.take(length as usize)?, packet, limits.user_properties))
    }

    fn of(block: &'a [u8], packet: u8, limit: usize) -> Self {
        Self { block, rest: Reader::new(block), packet, seen: 0, user: limit, limit, place: 0..0 }
    }

    /// The next one, or none behind the last.
    pub(super) fn next(&mut self) -> Result<Option<(u8, Value<'a>)>, PacketError> {
        if self.rest.is_empty() {
            let has = |id: u8| self.seen & 1 << id != 0;
            let lacks_method = has(id::AUTH_DATA) && !has(id::AUTH_METHOD);
            return if lacks_method { Err(PacketError::Method) } else { Ok(None) };
        }
        let start = self.block.len() - self.rest.len();
        let id = self.rest.u8()?;
        let value_type = value_type_of(id).filter(|(_, packets)| packets & self.packet != 0);
        let (value_type, _) = value_type.ok_or(PacketError::Property(id))?;
        let bit = 1 << id;
        if id == id::USER {
            self.user = self.user.checked_sub(1).ok_or(PacketError::UserProperties(self.limit))?;
        } else if self.seen & bit != 0 {
            return Err(PacketError::Duplicate(id));
        }
        self.seen |= bit;
        let value = value_type.value(&mut self.rest)?.ok_or(PacketError::Range(id))?;
        self.place = start..self.block.len() - self.rest.len();
        Ok(Some((id, value)))
    }

    /// Reads all, of which nothing is wanted.
    pub(super) fn skip(mut self) -> Result<(), PacketError> {
        while self.next()?.is_some() {}
        Ok(())
    }

    fn bytes(&self, place: Range<usize>) -> &'a [u8] {
        self.block.get(place).unwrap_or_default()
    }
}

impl ValueType {
    /// Reads a value; `None` if it is one that the property cannot have.
    fn value<'a>(self, rest: &mut Reader<'a>) -> Result<Option<Value<'a>>, PacketError> {
        let (number, possible) = match self {
            Self::Flag => (rest.u8()?.into(), 0..=1),
            Self::TwoBytes(least) => (rest.u16()?.into(), least..=u32::MAX),
            Self::FourBytes(least) => (rest.u32()?, least..=u32::MAX),
            Self::Varint(least) => (rest.varint()?, least..=u32::MAX),
            Self::Text => return Ok(Some(Value::Text(rest.text()?))),
            Self::Binary => return Ok(Some(Value::Binary(rest.binary()?))),
            Self::Pair => return rest.text().and_then(|_| rest.text()).map(|_| Some(Value::Pair)),
        };
        Ok(possible.contains(&number).then_some(Value::Number(number)))
    }
}

/// The properties of a message: of a PUBLISH or a will.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MessageProperties<'a> {
    /// Seconds.
    pub(crate) expiry_s: Option<u32>,
    /// Of a PUBLISH only.
    pub(crate) alias: Option<u16>,
    /// Of a will only: seconds.
    pub(crate) delay_s: u32,
    pub(crate) response_topic: Option<&'a str>,
    pub(crate) correlation: Option<&'a [u8]>,
    /// How many user properties there are.
    pub(crate) user: usize,
    /// What is passed on unchanged, in wire form: payload format, content type, response topic, correlation data and
    /// user properties, in the order in which they came. Copied only where another property stands between them.
    pub(crate) forwarded: Cow<'a, [u8]>,
}

impl<'a> MessageProperties<'a> {
    pub(super) fn take(reader: &mut Reader<'a>, packet: u8, limits: &WireLimits) -> Result<Self, PacketError> {
        Self::read(Properties::take(reader, packet, limits)?)
    }

    /// Those of a will that came before: what of it was [forwarded](Self::forwarded).
    pub(crate) fn of_will(forwarded: &'a [u8]) -> Self {
        // A kept will was checked when it arrived; limits are not applied again.
        Self::read(Properties::of(forwarded, OF_WILL, usize::MAX)).unwrap_or_default()
    }

    fn read(mut list: Properties<'a>) -> Result<Self, PacketError> {
        let (mut found, mut run, mut copy) = (Self::default(), 0..0, None::<Vec<u8>>);
        while let Some((id, value)) = list.next()? {
            match (id, value) {
                (id::MESSAGE_EXPIRY, Value::Number(seconds)) => {
                    found.expiry_s = Some(seconds);
                    continue;
                }
                (id::WILL_DELAY, Value::Number(seconds)) => {
                    found.delay_s = seconds;
                    continue;
                }
                (id::ALIAS, Value::Number(alias)) => {
                    found.alias = Some(alias as u16);
                    continue;
                }
                (id::RESPONSE_TOPIC, Value::Text(topic)) if !is_topic(topic) => return Err(PacketError::ResponseTopic),
                (id::RESPONSE_TOPIC, Value::Text(topic)) => found.response_topic = Some(topic),
                (id::CORRELATION, Value::Binary(data)) => found.correlation = Some(data),
                (id::USER, _) => found.user += 1,
                _ => {}
            }
            let place = list.place.clone();
            match &mut copy {
                Some(copy) => copy.extend_from_slice(list.bytes(place)),
                None if run.is_empty() => run = place,
                None if run.end == place.start => run.end = place.end,
                None => copy = Some([list.bytes(run.clone()), list.bytes(place)].concat()),
            }
        }
        found.forwarded = copy.map_or_else(|| Cow::Borrowed(list.bytes(run)), Cow::Owned);
        Ok(found)
    }
}

/// Whether a text can be the topic of a message (4.7): it is not empty and has no wildcards.
pub(super) fn is_topic(text: &str) -> bool {
    !text.is_empty() && !has_wildcards(text)
}

pub(super) fn has_wildcards(text: &str) -> bool {
    text.bytes().any(|byte| matches!(byte, b'+' | b'#'))
}
