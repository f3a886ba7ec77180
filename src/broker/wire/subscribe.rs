//! SUBSCRIBE (3.8) and UNSUBSCRIBE (3.10).

use super::super::refusals::Refusal;
use super::error::PacketError;
use super::fields::Reader;
use super::properties::{self, Properties, Value, id};
use super::{SHARED, Version, WireLimits};
use crate::chat::filter::is_subscription;
use crate::chat::qos::QoS;

/// Bits of the subscription options (3.8.3.1).
const QOS: u8 = 0x03;
const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RETAIN_HANDLING: u8 = 0x30;
const RESERVED: u8 = 0xc0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subscribe<'a> {
    pub(crate) id: u16,
    /// At least one.
    pub(crate) filters: Vec<(Filter<'a>, Options)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsubscribe<'a> {
    pub(crate) id: u16,
    /// At least one.
    pub(crate) filters: Vec<Filter<'a>>,
}

/// A topic filter, whole: with what makes it shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filter<'a> {
    pub(crate) text: &'a str,
    /// `FilterInvalid` or `TopicLimit`: the filter alone is refused, with 0x8F for both, as 0x90 is not for filters.
    pub(in crate::broker) refused: Option<Refusal>,
}

/// How a subscriber wants what matches a filter. 3.1.1 has the QoS alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    /// The highest quality of service.
    pub(crate) qos: QoS,
    /// Not what the same session published.
    pub(crate) no_local: bool,
    /// With the retain flag as it was published.
    pub(crate) retain_as_published: bool,
    /// When retained messages are sent: 0 always, 1 to a new subscription, 2 never.
    pub(crate) retain_handling: u8,
    /// The subscription identifier, which is one for all filters of a packet.
    pub(crate) id: Option<u32>,
}

impl Options {
    /// From the byte that stands for them; none if there are no such options.
    pub(crate) fn read(byte: u8, id: Option<u32>) -> Option<Self> {
        let is_possible = byte & RETAIN_HANDLING != RETAIN_HANDLING && byte & RESERVED == 0;
        let options = Self {
            qos: QoS::from_u8(byte & QOS)?,
            no_local: byte & NO_LOCAL != 0,
            retain_as_published: byte & RETAIN_AS_PUBLISHED != 0,
            retain_handling: (byte & RETAIN_HANDLING) >> RETAIN_HANDLING.trailing_zeros(),
            id,
        };
        is_possible.then_some(options)
    }

    pub(crate) fn as_u8(self) -> u8 {
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        self.qos as u8
            | flag(self.no_local, NO_LOCAL)
            | flag(self.retain_as_published, RETAIN_AS_PUBLISHED)
            | self.retain_handling << RETAIN_HANDLING.trailing_zeros()
    }
}

pub(super) fn subscribe<'a>(
    version: Version,
    body: &'a [u8],
    limits: &WireLimits,
) -> Result<Subscribe<'a>, PacketError> {
    let mut reader = Reader::new(body);
    let (packet, mut subscription) = (reader.id()?, None);
    if version == Version::V5 {
        let mut list = Properties::take(&mut reader, properties::OF_SUBSCRIBE, limits)?;
        while let Some((id, value)) = list.next()? {
            if let (id::SUBSCRIPTION_ID, Value::Number(number)) = (id, value) {
                subscription = Some(number);
            }
        }
    }
    let filters = filters(reader, limits, |filter, reader| {
        let byte = reader.u8()?;
        let shared = filter.text.strip_prefix(SHARED);
        if shared.is_some_and(|shared| shared.starts_with('/')) {
            return Err(PacketError::ShareName);
        }
        let options = Options::read(byte, subscription).filter(|_| version == Version::V5 || byte & !QOS == 0);
        match options.ok_or(PacketError::Options)? {
            // [MQTT-3.8.3-4]
            options if shared.is_some() && options.no_local => Err(PacketError::NoLocal),
            options => Ok((filter, options)),
        }
    })?;
    Ok(Subscribe { id: packet, filters })
}

pub(super) fn unsubscribe<'a>(
    version: Version,
    body: &'a [u8],
    limits: &WireLimits,
) -> Result<Unsubscribe<'a>, PacketError> {
    let mut reader = Reader::new(body);
    let id = reader.id()?;
    if version == Version::V5 {
        Properties::take(&mut reader, properties::OF_UNSUBSCRIBE, limits)?.skip()?;
    }
    Ok(Unsubscribe { id, filters: filters(reader, limits, |filter, _| Ok(filter))? })
}

/// Reads filters to the end of the packet, each with what `entry` makes of it and of what follows it.
fn filters<'a, T>(
    mut reader: Reader<'a>,
    limits: &WireLimits,
    entry: impl Fn(Filter<'a>, &mut Reader<'a>) -> Result<T, PacketError>,
) -> Result<Vec<T>, PacketError> {
    if reader.is_empty() {
        return Err(PacketError::NoFilter);
    }
    let mut found = Vec::new();
    while !reader.is_empty() {
        if found.len() >= limits.filters {
            return Err(PacketError::FilterCount(limits.filters));
        }
        let text = reader.text()?;
        let refused = match text {
            _ if !limits.allow(text) => Some(Refusal::TopicLimit),
            _ if !is_subscription(text) => Some(Refusal::FilterInvalid),
            _ => None,
        };
        found.push(entry(Filter { text, refused }, &mut reader)?);
    }
    Ok(found)
}
