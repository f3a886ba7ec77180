//! PUBLISH (3.3).

use super::error::PacketError;
use super::fields::Reader;
use super::properties::{self, MessageProperties, has_wildcards};
use super::{Version, WireLimits};
use crate::chat::qos::QoS;

/// Flags of the fixed header (3.3.1).
pub(super) const RETAIN: u8 = 0x01;
pub(super) const DUP: u8 = 0x08;
const QOS: u8 = 0x06;

/// A message as a client sends it. Nothing is copied, unless [`MessageProperties::forwarded`] is in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    /// Whether the client may have sent it before.
    pub(crate) dup: bool,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Empty if an alias stands for it.
    pub(crate) topic: &'a str,
    /// The topic is over a limit: MQTT 5 has an acknowledgement for it above QoS 0, else the connection ends.
    pub(crate) over_limit: bool,
    /// Absent at QoS 0.
    pub(crate) id: Option<u16>,
    /// Empty in 3.1.1.
    pub(crate) properties: MessageProperties<'a>,
    pub(crate) payload: &'a [u8],
}

/// The QoS in the first byte of a PUBLISH.
pub(super) fn qos(first: u8) -> Result<QoS, PacketError> {
    match QoS::from_u8((first & QOS) >> 1).ok_or(PacketError::Qos)? {
        QoS::AtMostOnce if first & DUP != 0 => Err(PacketError::Dup),
        qos => Ok(qos),
    }
}

pub(super) fn publish<'a>(
    version: Version,
    first: u8,
    body: &'a [u8],
    limits: &WireLimits,
) -> Result<Publish<'a>, PacketError> {
    let mut reader = Reader::new(body);
    let qos = qos(first)?;
    let topic = reader.text()?;
    let id = if qos == QoS::AtMostOnce { None } else { Some(reader.id()?) };
    let properties = match version {
        Version::V311 => MessageProperties::default(),
        Version::V5 => MessageProperties::take(&mut reader, properties::OF_PUBLISH, limits)?,
    };
    if topic.is_empty() && properties.alias.is_none() {
        return Err(PacketError::NoTopic);
    }
    if has_wildcards(topic) {
        return Err(PacketError::Wildcard);
    }
    Ok(Publish {
        dup: first & DUP != 0,
        qos,
        retain: first & RETAIN != 0,
        topic,
        over_limit: !limits.allow(topic),
        id,
        properties,
        payload: reader.rest(),
    })
}
