//! The packets of a server. What goes over the biggest packet of a client is not written, and `false` says so. Whoever
//! calls sees to it that texts are shorter than 64 kB; what is longer is cut.

use super::Version;
use super::acks::Ack;
use super::fields::{cut, put_binary, put_varint, varint_len};
use super::properties::id;
use super::publish::{DUP, RETAIN};
use crate::chat::qos::QoS;

/// First bytes of packets.
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const SUBACK: u8 = 0x90;
const UNSUBACK: u8 = 0xb0;
const PINGRESP: u8 = 0xd0;
const DISCONNECT: u8 = 0xe0;
/// The most that can stand behind a fixed header (1.5.5).
const MAX_LENGTH: usize = 268_435_455;
/// Reason codes from here on are refusals, for which a SUBACK of 3.1.1 has this one alone (3.9.3).
const FAILURE: u8 = 0x80;

/// In what form a client takes packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientEncoding {
    pub(crate) version: Version,
    /// The biggest packet that it takes, in bytes.
    pub(crate) max_packet: usize,
    /// Whether it wants reason strings.
    pub(crate) reasons: bool,
}

/// A CONNACK. Of 3.1.1 it has the first two fields.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Connack<'a> {
    pub(crate) session_present: bool,
    /// The reason code of MQTT 5, or the return code of 3.1.1.
    pub(crate) code: u8,
    /// `None`: as requested by the client, or the MQTT 5 default.
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) max_packet: Option<u32>,
    pub(crate) assigned_client: Option<&'a str>,
    pub(crate) topic_alias_maximum: Option<u16>,
    pub(crate) keep_alive: Option<u16>,
    pub(crate) reason: Option<&'a str>,
}

/// A message as a client gets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PublishOut<'a> {
    pub(crate) dup: bool,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Empty if the client knows the alias.
    pub(crate) topic: &'a str,
    /// Of no meaning at QoS 0.
    pub(crate) id: u16,
    pub(crate) alias: Option<u16>,
    /// Seconds that are left.
    pub(crate) expiry_s: Option<u32>,
    pub(crate) subscriptions: &'a [u32],
    /// In wire form.
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum AckKind {
    Puback = 0x40,
    Pubrec = 0x50,
    Pubrel = 0x62,
    Pubcomp = 0x70,
}

#[must_use]
pub(crate) fn connack(out: &mut Vec<u8>, encoding: ClientEncoding, connack: &Connack<'_>) -> bool {
    let head = [connack.session_present.into(), connack.code];
    if encoding.version == Version::V311 {
        return whole(out, encoding, CONNACK, &[&head]);
    }
    let numbers = [
        (id::SESSION_EXPIRY, connack.session_expiry_s, 4),
        (id::RECEIVE_MAXIMUM, connack.receive_maximum.map(u32::from), 2),
        (id::MAXIMUM_PACKET, connack.max_packet, 4),
        (id::ALIAS_MAXIMUM, connack.topic_alias_maximum.map(u32::from), 2),
        (id::SERVER_KEEP_ALIVE, connack.keep_alive.map(u32::from), 2),
    ];
    let mut properties = Vec::new();
    for (id, value, bytes) in numbers {
        if let Some(value) = value {
            properties.push(id);
            properties.extend_from_slice(&value.to_be_bytes()[4 - bytes..]);
        }
    }
    if let Some(client) = connack.assigned_client {
        properties.push(id::ASSIGNED_CLIENT);
        put_binary(&mut properties, client.as_bytes());
    }
    let with_reason = connack.reason.filter(|_| encoding.reasons).map(|reason| with_reason(&properties, reason));
    let mut length = Vec::new();
    put_varint(&mut length, properties.len());
    with_reason.is_some_and(|properties| whole(out, encoding, CONNACK, &[&head, &properties]))
        || whole(out, encoding, CONNACK, &[&head, &length, &properties])
}

pub(crate) fn publish_size(version: Version, publish: &PublishOut<'_>) -> usize {
    let length = publish_length(version, publish);
    1 + varint_len(length) + length
}

fn publish_length(version: Version, publish: &PublishOut<'_>) -> usize {
    let id = if publish.qos == QoS::AtMostOnce { 0 } else { 2 };
    let properties = match version {
        Version::V311 => 0,
        Version::V5 => {
            let length = properties_length(publish);
            varint_len(length) + length
        }
    };
    2 + cut(publish.topic.as_bytes()).len() + id + properties + publish.payload.len()
}

fn properties_length(publish: &PublishOut<'_>) -> usize {
    let ids: usize = publish.subscriptions.iter().map(|&id| 1 + varint_len(id as usize)).sum();
    publish.alias.map_or(0, |_| 3) + publish.expiry_s.map_or(0, |_| 5) + ids + publish.properties.len()
}

/// Writes a PUBLISH, without its properties in 3.1.1. Whether the client takes one of [`publish_size`] is for the caller
/// to see to; what would be too big for MQTT is not written.
pub(crate) fn publish(out: &mut Vec<u8>, version: Version, publish: &PublishOut<'_>) {
    let length = publish_length(version, publish);
    if length > MAX_LENGTH {
        return;
    }
    out.reserve(1 + varint_len(length) + length);
    let dup = if publish.dup { DUP } else { 0 };
    out.push(PUBLISH | dup | (publish.qos as u8) << 1 | if publish.retain { RETAIN } else { 0 });
    put_varint(out, length);
    put_binary(out, publish.topic.as_bytes());
    if publish.qos != QoS::AtMostOnce {
        out.extend_from_slice(&publish.id.to_be_bytes());
    }
    if version == Version::V5 {
        put_varint(out, properties_length(publish));
        if let Some(alias) = publish.alias {
            out.push(id::ALIAS);
            out.extend_from_slice(&alias.to_be_bytes());
        }
        if let Some(seconds) = publish.expiry_s {
            out.push(id::MESSAGE_EXPIRY);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        for &subscription in publish.subscriptions {
            out.push(id::SUBSCRIPTION_ID);
            put_varint(out, subscription as usize);
        }
        out.extend_from_slice(publish.properties);
    }
    out.extend_from_slice(publish.payload);
}

/// Writes a PUBACK, PUBREC, PUBREL or PUBCOMP, in 3.1.1 without its code.
pub(crate) fn ack(out: &mut Vec<u8>, encoding: ClientEncoding, kind: AckKind, ack: Ack, reason: Option<&str>) -> bool {
    let [high, low] = ack.id.to_be_bytes();
    let head = [high, low, ack.code];
    let bare = if encoding.version == Version::V311 || ack.code == 0 { &head[..2] } else { &head };
    explained(out, encoding, kind as u8, (&head, reason, &[]), &[bare])
}

/// Writes a SUBACK: a code for each filter, of MQTT 5. 3.1.1 has one for all refusals.
pub(crate) fn suback(out: &mut Vec<u8>, encoding: ClientEncoding, id: u16, codes: &[u8], reason: Option<&str>) -> bool {
    let id = id.to_be_bytes();
    if encoding.version == Version::V311 {
        let codes: Vec<u8> = codes.iter().map(|&code| code.min(FAILURE)).collect();
        return whole(out, encoding, SUBACK, &[&id, &codes]);
    }
    explained(out, encoding, SUBACK, (&id, reason, codes), &[&id, &[0], codes])
}

/// Writes an UNSUBACK: a code for each filter, of which 3.1.1 has none.
pub(crate) fn unsuback(
    out: &mut Vec<u8>,
    encoding: ClientEncoding,
    id: u16,
    codes: &[u8],
    reason: Option<&str>,
) -> bool {
    let id = id.to_be_bytes();
    if encoding.version == Version::V311 {
        return whole(out, encoding, UNSUBACK, &[&id]);
    }
    explained(out, encoding, UNSUBACK, (&id, reason, codes), &[&id, &[0], codes])
}

pub(crate) fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[PINGRESP, 0]);
}

/// Writes a DISCONNECT, which a server of 3.1.1 does not have.
pub(crate) fn disconnect(out: &mut Vec<u8>, encoding: ClientEncoding, code: u8, reason: Option<&str>) -> bool {
    if encoding.version == Version::V311 {
        return false;
    }
    let bare = if code == 0 { &[][..] } else { &[code] };
    explained(out, encoding, DISCONNECT, (&[code], reason, &[]), &[bare])
}

/// Writes a packet with a reason string between head and tail, if there is one, the client wants it and takes a packet of
/// that size \[MQTT-3.2.2-19\]; otherwise the bare packet.
fn explained(
    out: &mut Vec<u8>,
    encoding: ClientEncoding,
    first: u8,
    (head, reason, tail): (&[u8], Option<&str>, &[u8]),
    bare: &[&[u8]],
) -> bool {
    let reason = reason.filter(|_| encoding.reasons && encoding.version == Version::V5);
    reason.is_some_and(|reason| whole(out, encoding, first, &[head, &with_reason(&[], reason), tail]))
        || whole(out, encoding, first, bare)
}

/// These properties and a reason string, with their length before them.
fn with_reason(others: &[u8], reason: &str) -> Vec<u8> {
    let reason = cut(reason.as_bytes());
    let length = others.len() + 3 + reason.len();
    let mut properties = Vec::with_capacity(4 + length);
    put_varint(&mut properties, length);
    properties.extend_from_slice(others);
    properties.push(id::REASON);
    put_binary(&mut properties, reason);
    properties
}

/// Writes a packet, if the client takes one of that size \[MQTT-3.1.2-24\].
fn whole(out: &mut Vec<u8>, encoding: ClientEncoding, first: u8, parts: &[&[u8]]) -> bool {
    let length = parts.iter().map(|part| part.len()).sum();
    let fits = length <= MAX_LENGTH && 1 + varint_len(length) + length <= encoding.max_packet;
    if fits {
        out.push(first);
        put_varint(out, length);
        parts.iter().for_each(|part| out.extend_from_slice(part));
    }
    fits
}
