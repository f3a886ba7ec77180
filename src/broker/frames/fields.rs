//! The fields that packets are made of (MQTT 5, 1.5 and 2.2.2).

use bytes::{Buf, BufMut, BytesMut};

use super::{MAX_LENGTH_BYTES, Version};

/// A variable byte integer, or why there is none.
pub(super) enum Varint {
    Value(usize),
    Short,
    Long,
}

pub(super) fn take_varint(rest: &mut &[u8]) -> Varint {
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

pub(super) fn put_varint(bytes: &mut BytesMut, mut value: usize) {
    while value > 0x7f {
        bytes.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.put_u8(value as u8);
}

/// Writes a field with a two-byte length before it. What does not fit into that length is left out.
pub(super) fn put_prefixed(bytes: &mut BytesMut, field: &[u8]) {
    let length = u16::try_from(field.len()).unwrap_or(u16::MAX);
    bytes.put_u16(length);
    bytes.put_slice(&field[..length.into()]);
}

/// A field with a two-byte length before it.
pub(in crate::broker) fn take_prefixed<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(rest.try_get_u16().ok()?);
    take(rest, length)
}

pub(in crate::broker) fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (field, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(field)
}

/// Steps over all properties. `None` means malformed.
pub(super) fn skip_properties(rest: &mut &[u8], version: Version) -> Option<()> {
    if version == Version::V5 {
        take_properties(rest)?;
    }
    Some(())
}

/// The value of a property, as far as anybody here looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Value {
    Number(u32),
    Text,
}

/// The properties of a packet or of a will (MQTT 5, 2.2.2.2), without the length before them.
pub(in crate::broker) fn take_properties<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    match take_varint(rest) {
        Varint::Value(length) => take(rest, length),
        Varint::Short | Varint::Long => None,
    }
}

/// The next property: its number and its value. `None` means malformed.
pub(in crate::broker) fn take_property(properties: &mut &[u8]) -> Option<(u8, Value)> {
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
pub(super) fn find_property(rest: &mut &[u8], wanted: u8) -> Option<Option<u32>> {
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
