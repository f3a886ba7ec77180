//! The few packets of MQTT 3.1.1 that are needed here, and a connection that reads and writes them.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::harness::Harness;
use super::sockets::{self, SocketKind, Wire};

pub(crate) const CONNACK: u8 = 2;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const SUBACK: u8 = 9;
pub(crate) const PINGRESP: u8 = 13;
pub(crate) const PINGREQ: &[u8] = &[0xc0, 0];
pub(crate) const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A handshake that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    while length > 0x7f {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes.extend_from_slice(body);
    bytes
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    body.put_u16(text.len().try_into().unwrap());
    body.put_slice(text.as_bytes());
}

pub(crate) fn connect(client: &str, keep_alive: u16) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, "MQTT");
    body.put_slice(&[4, 2]);
    body.put_u16(keep_alive);
    put_text(&mut body, client);
    packet(0x10, &body)
}

pub(crate) fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    put_text(&mut body, filter);
    body.push(qos);
    packet(0x82, &body)
}

/// QoS 0 without an identifier, QoS 1 with one.
pub(crate) fn publish(topic: &str, id: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, topic);
    if let Some(id) = id {
        body.put_u16(id);
    }
    body.put_slice(payload);
    packet(if id.is_some() { 0x32 } else { 0x30 }, &body)
}

pub(crate) fn puback(id: u16) -> Vec<u8> {
    packet(0x40, &id.to_be_bytes())
}

/// The identifier and the payload of a PUBLISH at QoS 1.
pub(crate) fn open_publish(mut body: Bytes) -> (u16, Bytes) {
    let topic = body.get_u16().into();
    body.advance(topic);
    (body.get_u16(), body)
}

pub(crate) struct Line {
    wire: Box<dyn Wire>,
    buffer: BytesMut,
}

impl Line {
    /// Connects and takes the CONNACK.
    pub(crate) async fn open(
        harness: &Harness,
        kind: SocketKind,
        from: IpAddr,
        client: &str,
        keep_alive: u16,
    ) -> io::Result<Self> {
        let open = async {
            let wire = sockets::dial(kind, harness.address(kind), from, &harness.tls).await?;
            let mut line = Self { wire, buffer: BytesMut::new() };
            line.say(&connect(client, keep_alive)).await?;
            line.expect(CONNACK).await?;
            Ok(line)
        };
        timeout(PATIENCE, open).await?
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> io::Result<()> {
        self.say(&subscribe(filter, qos)).await?;
        self.expect(SUBACK).await.map(drop)
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes).await?;
        self.wire.flush().await
    }

    pub(crate) async fn expect(&mut self, kind: u8) -> io::Result<Bytes> {
        match self.next().await? {
            (found, body) if found == kind => Ok(body),
            (other, _) => Err(io::Error::other(format!("packet type {other} instead of {kind}"))),
        }
    }

    /// The type and the body of the next packet. Cancel safe.
    pub(crate) async fn next(&mut self) -> io::Result<(u8, Bytes)> {
        loop {
            if let Some(packet) = self.cut() {
                return Ok(packet);
            }
            if self.wire.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn cut(&mut self) -> Option<(u8, Bytes)> {
        let mut length = 0;
        for at in 1..5 {
            let byte = usize::from(*self.buffer.get(at)?);
            length |= (byte & 0x7f) << (7 * (at - 1));
            if byte & 0x80 == 0 {
                if self.buffer.len() <= at + length {
                    return None;
                }
                let kind = self.buffer[0] >> 4;
                self.buffer.advance(at + 1);
                return Some((kind, self.buffer.split_to(length).freeze()));
            }
        }
        panic!("the broker sent nonsense")
    }
}
