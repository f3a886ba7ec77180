//! The properties of MQTT 5 (2.2.2).

use std::borrow::Cow;
use std::ops::Range;

use super::WireLimits;
use super::fault::Fault;
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

/// Which properties a client may send in a packet: a bit for each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed(u64);

impl Allowed {
    const fn of(ids: &[u8]) -> Self {
        let (mut bits, mut at) = (1 << id::USER, 0);
        while at < ids.len() {
            bits |= 1 << ids[at];
            at += 1;
        }
        Self(bits)
    }
}

/// User properties are allowed everywhere.
pub(super) const OF_CONNECT: Allowed = Allowed::of(&[
    id::SESSION_EXPIRY,
    id::AUTH_METHOD,
    id::AUTH_DATA,
    id::PROBLEM_INFORMATION,
    id::RESPONSE_INFORMATION,
    id::RECEIVE_MAXIMUM,
    id::ALIAS_MAXIMUM,
    id::MAXIMUM_PACKET,
]);
pub(super) const OF_PUBLISH: Allowed = Allowed::of(&[
    id::PAYLOAD_FORMAT,
    id::MESSAGE_EXPIRY,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION,
    id::ALIAS,
]);
pub(super) const OF_WILL: Allowed = Allowed::of(&[
    id::PAYLOAD_FORMAT,
    id::MESSAGE_EXPIRY,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION,
    id::WILL_DELAY,
]);
pub(super) const OF_ACKS: Allowed = Allowed::of(&[id::REASON]);
pub(super) const OF_SUBSCRIBE: Allowed = Allowed::of(&[id::SUBSCRIPTION_ID]);
pub(super) const OF_UNSUBSCRIBE: Allowed = Allowed::of(&[]);
pub(super) const OF_DISCONNECT: Allowed = Allowed::of(&[id::SESSION_EXPIRY, id::REASON]);

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
    allowed: Allowed,
    seen: u64,
    /// How many user properties there may still be, and how many there might be at first.
    user: usize,
    limit: usize,
    /// Where the last one stands in the block, with its identifier.
    place: Range<usize>,
}

impl<'a> Properties<'a> {
    /// Steps over the properties in `reader`, and yields them.
    pub(super) fn take(reader: &mut Reader<'a>, allowed: Allowed, limits: &WireLimits) -> Result<Self, Fault> {
        let length = reader.varint()?;
        Ok(Self::of(reader.take(length as usize)?, allowed, limits.user_properties))
    }

    fn of(block: &'a [u8], allowed: Allowed, limit: usize) -> Self {
        Self { block, rest: Reader::new(block), allowed, seen: 0, user: limit, limit, place: 0..0 }
    }

    /// The next one, or none behind the last.
    pub(super) fn next(&mut self) -> Result<Option<(u8, Value<'a>)>, Fault> {
        if self.rest.is_empty() {
            let has = |id: u8| self.seen & 1 << id != 0;
            let lacks_method = has(id::AUTH_DATA) && !has(id::AUTH_METHOD);
            return if lacks_method { Err(Fault::Method) } else { Ok(None) };
        }
        let start = self.block.len() - self.rest.len();
        let id = self.rest.u8()?;
        let bit = 1_u64.checked_shl(id.into()).unwrap_or_default();
        if self.allowed.0 & bit == 0 {
            return Err(Fault::Property(id));
        }
        if id == id::USER {
            self.user = self.user.checked_sub(1).ok_or(Fault::UserProperties(self.limit))?;
        } else if self.seen & bit != 0 {
            return Err(Fault::Twice(id));
        }
        self.seen |= bit;
        let value = take_value(&mut self.rest, id)?;
        self.place = start..self.block.len() - self.rest.len();
        Ok(Some((id, value)))
    }

    /// Reads all, of which nothing is wanted.
    pub(super) fn skip(mut self) -> Result<(), Fault> {
        while self.next()?.is_some() {}
        Ok(())
    }

    fn bytes(&self, place: Range<usize>) -> &'a [u8] {
        self.block.get(place).unwrap_or_default()
    }
}

/// The value of a property, if it is one that this property can have.
fn take_value<'a>(rest: &mut Reader<'a>, id: u8) -> Result<Value<'a>, Fault> {
    let number = match id {
        id::PAYLOAD_FORMAT | id::PROBLEM_INFORMATION | id::RESPONSE_INFORMATION => rest.u8()?.into(),
        id::RECEIVE_MAXIMUM | id::ALIAS_MAXIMUM | id::ALIAS => rest.u16()?.into(),
        id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::MAXIMUM_PACKET => rest.u32()?,
        id::SUBSCRIPTION_ID => rest.varint()?,
        id::CONTENT_TYPE | id::RESPONSE_TOPIC | id::AUTH_METHOD | id::REASON => return rest.text().map(Value::Text),
        id::CORRELATION | id::AUTH_DATA => return rest.binary().map(Value::Binary),
        id::USER => {
            rest.text()?;
            rest.text()?;
            return Ok(Value::Pair);
        }
        unknown => return Err(Fault::Property(unknown)),
    };
    let is_possible = match id {
        id::PAYLOAD_FORMAT | id::PROBLEM_INFORMATION | id::RESPONSE_INFORMATION => number <= 1,
        id::SUBSCRIPTION_ID | id::RECEIVE_MAXIMUM | id::ALIAS | id::MAXIMUM_PACKET => number > 0,
        _ => true,
    };
    if is_possible { Ok(Value::Number(number)) } else { Err(Fault::Range(id)) }
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
    pub(super) fn take(reader: &mut Reader<'a>, allowed: Allowed, limits: &WireLimits) -> Result<Self, Fault> {
        Self::read(Properties::take(reader, allowed, limits)?)
    }

    /// Those of a will that came before: what of it was [forwarded](Self::forwarded).
    pub(crate) fn of_will(forwarded: &'a [u8]) -> Self {
        // A rule that they break was none when they came.
        Self::read(Properties::of(forwarded, OF_WILL, usize::MAX)).unwrap_or_default()
    }

    fn read(mut list: Properties<'a>) -> Result<Self, Fault> {
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
                (id::RESPONSE_TOPIC, Value::Text(topic)) if !is_topic(topic) => return Err(Fault::ResponseTopic),
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
