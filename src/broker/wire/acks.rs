//! PUBACK, PUBREC, PUBREL, PUBCOMP (3.4 to 3.7) and DISCONNECT (3.14).

use super::error::PacketError;
use super::fields::Reader;
use super::properties::{self, Properties, Value, id};
use super::{Version, WireLimits};

/// Reason codes of acknowledgements: of PUBACK and PUBREC, and of PUBREL and PUBCOMP (3.4.2.1, 3.6.2.1).
pub(super) const OF_RECEIPT: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
pub(super) const OF_RELEASE: &[u8] = &[0x00, 0x92];
/// Those of a DISCONNECT of a client (3.14.2.1).
const OF_DISCONNECT: &[u8] = &[0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) id: u16,
    /// The reason code; 0 in 3.1.1.
    pub(crate) code: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disconnect {
    /// The reason code: 0 for a goodbye, which 3.1.1 always says; 4 if the will is wanted.
    pub(crate) code: u8,
    /// Seconds for which the session is kept from now on, if they are others than CONNECT said.
    pub(crate) session_expiry_s: Option<u32>,
}

pub(super) fn ack(version: Version, codes: &[u8], body: &[u8], limits: &WireLimits) -> Result<Ack, PacketError> {
    let mut reader = Reader::new(body);
    let id = reader.id()?;
    let (code, list) = reason(version, reader, (codes, properties::OF_ACKS), limits)?;
    list.map_or(Ok(()), Properties::skip)?;
    Ok(Ack { id, code })
}

pub(super) fn disconnect(version: Version, body: &[u8], limits: &WireLimits) -> Result<Disconnect, PacketError> {
    let allowed = (OF_DISCONNECT, properties::OF_DISCONNECT);
    let (code, mut list) = reason(version, Reader::new(body), allowed, limits)?;
    let mut session_expiry_s = None;
    while let Some(list) = &mut list
        && let Some((id, value)) = list.next()?
    {
        if let (id::SESSION_EXPIRY, Value::Number(seconds)) = (id, value) {
            session_expiry_s = Some(seconds);
        }
    }
    Ok(Disconnect { code, session_expiry_s })
}

/// A reason code and properties at the end of a packet. MQTT 5 lets both be left out, or the latter.
fn reason<'a>(
    version: Version,
    mut reader: Reader<'a>,
    (codes, packet): (&[u8], u8),
    limits: &WireLimits,
) -> Result<(u8, Option<Properties<'a>>), PacketError> {
    if version == Version::V311 || reader.is_empty() {
        return reader.end().map(|()| (0, None));
    }
    let code = reader.u8()?;
    if !codes.contains(&code) {
        return Err(PacketError::Reason(code));
    }
    if reader.is_empty() {
        return Ok((code, None));
    }
    let list = Properties::take(&mut reader, packet, limits)?;
    reader.end().map(|()| (code, Some(list)))
}
