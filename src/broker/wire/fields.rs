//! The fields that packets are made of (MQTT 5, 1.5).

use super::error::PacketError;

/// A variable byte integer has four bytes at most (1.5.5).
const VARINT_BYTES: usize = 4;

/// What is left to be read of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// That was all of the packet.
    pub(super) fn end(self) -> Result<(), PacketError> {
        if self.rest.is_empty() { Ok(()) } else { Err(PacketError::Rest) }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], PacketError> {
        let (field, rest) = self.rest.split_at_checked(length).ok_or(PacketError::Short)?;
        self.rest = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PacketError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(PacketError::Short)?;
        self.rest = rest;
        Ok(*field)
    }

    pub(super) fn u8(&mut self) -> Result<u8, PacketError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, PacketError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, PacketError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer, which has no more bytes than it needs \[MQTT-1.5.5-1\].
    pub(super) fn varint(&mut self) -> Result<u32, PacketError> {
        let (value, bytes) = varint(self.rest)?.ok_or(PacketError::Short)?;
        let field = self.take(bytes)?;
        if is_padded(field) { Err(PacketError::Padded) } else { Ok(value) }
    }

    /// Bytes with a two-byte length before them (1.5.6).
    pub(super) fn binary(&mut self) -> Result<&'a [u8], PacketError> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// A text: UTF-8 without surrogates and NUL (1.5.4).
    pub(super) fn text(&mut self) -> Result<&'a str, PacketError> {
        let field = self.binary()?;
        if field.contains(&0) {
            return Err(PacketError::Text);
        }
        str::from_utf8(field).map_err(|_| PacketError::Text)
    }

    /// A packet identifier, which is never 0 \[MQTT-2.2.1-3\].
    pub(super) fn id(&mut self) -> Result<u16, PacketError> {
        match self.u16()? {
            0 => Err(PacketError::Identifier),
            id => Ok(id),
        }
    }
}

/// Reads a variable byte integer, and how many bytes it has; none if its last byte is not there yet.
pub(super) fn varint(field: &[u8]) -> Result<Option<(u32, usize)>, PacketError> {
    let mut value = 0;
    for (place, &byte) in field.iter().take(VARINT_BYTES).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((value, place + 1)));
        }
    }
    if field.len() < VARINT_BYTES { Ok(None) } else { Err(PacketError::Length) }
}

/// Whether a variable byte integer has more bytes than it needs.
pub(super) fn is_padded(field: &[u8]) -> bool {
    field.len() > 1 && field.last() == Some(&0)
}

/// How many bytes a variable byte integer has.
pub(super) fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// As much of a field as its two-byte length can name.
pub(super) fn cut(field: &[u8]) -> &[u8] {
    field.get(..u16::MAX.into()).unwrap_or(field)
}

/// Writes a field with its length before it.
pub(super) fn put_binary(out: &mut Vec<u8>, field: &[u8]) {
    let field = cut(field);
    out.extend_from_slice(&(field.len() as u16).to_be_bytes());
    out.extend_from_slice(field);
}
