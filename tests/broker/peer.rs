//! An MQTT client that does exactly what a test says, byte for byte, and nothing by itself.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{Harness, soon};
use super::sockets::Wire;

pub(crate) const V311: u8 = 4;
pub(crate) const V5: u8 = 5;

/// What came from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    ConnAck {
        resumed: bool,
        code: u8,
    },
    Publish {
        topic: String,
        payload: String,
        id: Option<u16>,
        dup: bool,
        retain: bool,
    },
    /// PUBACK, PUBREC, PUBREL, PUBCOMP: type, identifier, reason.
    Ack(u8, u16, u8),
    SubAck(u16),
    /// A SUBACK that refuses: identifier and code.
    SubRefused(u16, u8),
    UnsubAck(u16),
    Pong,
    /// The reason code.
    Disconnect(u8),
    Closed,
}

pub(crate) const PUBACK: u8 = 4;
pub(crate) const PUBREC: u8 = 5;
pub(crate) const PUBREL: u8 = 6;
pub(crate) const PUBCOMP: u8 = 7;

pub(crate) struct Connect<'a> {
    pub(crate) client: &'a str,
    pub(crate) version: u8,
    pub(crate) clean: bool,
    /// In seconds.
    pub(crate) keep_alive: u16,
    /// MQTT 5 session expiry.
    pub(crate) expiry: u32,
    /// MQTT 5 maximum packet size.
    pub(crate) max_packet: Option<u32>,
    /// Topic, payload and MQTT 5 delay.
    pub(crate) will: Option<(&'a str, &'a str, u32)>,
    /// Further MQTT 5 properties of the will.
    pub(crate) will_properties: &'a [u8],
    pub(crate) user: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
}

impl Default for Connect<'_> {
    fn default() -> Self {
        Self {
            client: "peer",
            version: V5,
            clean: true,
            keep_alive: 0,
            expiry: 0,
            max_packet: None,
            will: None,
            will_properties: &[],
            user: None,
            password: None,
        }
    }
}

pub(crate) struct Peer {
    stream: Box<dyn Wire>,
    buffer: BytesMut,
    version: u8,
}

impl Peer {
    pub(crate) async fn dial(harness: &Harness, version: u8) -> Self {
        let stream = TcpStream::connect(harness.address).await.unwrap();
        Self::over(stream, version)
    }

    /// A client on a connection that is there.
    pub(crate) fn over(stream: impl Wire + 'static, version: u8) -> Self {
        Self { stream: Box::new(stream), buffer: BytesMut::new(), version }
    }

    /// Connects and takes the CONNACK. Says whether the session was resumed.
    pub(crate) async fn connect(harness: &Harness, connect: Connect<'_>) -> (Self, bool) {
        let mut peer = Self::dial(harness, connect.version).await;
        peer.say_connect(&connect).await;
        match peer.next().await {
            Seen::ConnAck { resumed, code: 0 } => (peer, resumed),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn new(harness: &Harness, client: &str) -> Self {
        Self::connect(harness, Connect { client, ..Connect::default() }).await.0
    }

    /// A client with a session that outlives its connection.
    pub(crate) async fn lasting(harness: &Harness, client: &str) -> (Self, bool) {
        Self::connect(harness, Connect { client, clean: false, expiry: 3600, ..Connect::default() }).await
    }

    /// Yields the size of the packet.
    pub(crate) async fn say_connect(&mut self, connect: &Connect<'_>) -> usize {
        let mut body = BytesMut::new();
        text(&mut body, "MQTT");
        body.put_u8(connect.version);
        let mut flags = u8::from(connect.clean) << 1 | if connect.will.is_some() { 0b1100 } else { 0 };
        flags |= u8::from(connect.user.is_some()) << 7 | u8::from(connect.password.is_some()) << 6;
        body.put_u8(flags);
        body.put_u16(connect.keep_alive);
        if connect.version == V5 {
            body.put_u8(if connect.max_packet.is_some() { 10 } else { 5 });
            body.put_u8(0x11);
            body.put_u32(connect.expiry);
            if let Some(size) = connect.max_packet {
                body.put_u8(0x27);
                body.put_u32(size);
            }
        }
        text(&mut body, connect.client);
        if let Some((topic, payload, delay)) = connect.will {
            if connect.version == V5 {
                body.put_u8(5 + u8::try_from(connect.will_properties.len()).unwrap());
                body.put_u8(0x18);
                body.put_u32(delay);
                body.put_slice(connect.will_properties);
            }
            text(&mut body, topic);
            text(&mut body, payload);
        }
        for field in [connect.user, connect.password].into_iter().flatten() {
            text(&mut body, field);
        }
        self.say(0x10, &body).await
    }

    /// Connects and takes the CONNACK: its code.
    pub(crate) async fn try_connect(harness: &Harness, connect: Connect<'_>) -> (Self, u8) {
        let mut peer = Self::dial(harness, connect.version).await;
        peer.say_connect(&connect).await;
        match peer.next().await {
            Seen::ConnAck { code, .. } => (peer, code),
            other => panic!("{other:?}"),
        }
    }

    /// Subscribes and takes the SUBACK.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) {
        assert_eq!(self.try_subscribe(filter, qos).await, Seen::SubAck(1));
    }

    /// Subscribes. Yields the SUBACK.
    pub(crate) async fn try_subscribe(&mut self, filter: &str, qos: u8) -> Seen {
        self.say_subscribe(filter, qos).await;
        self.next().await
    }

    pub(crate) async fn say_subscribe(&mut self, filter: &str, qos: u8) {
        let mut body = BytesMut::new();
        body.put_u16(1);
        self.no_properties(&mut body);
        text(&mut body, filter);
        body.put_u8(qos);
        self.say(0x82, &body).await;
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) {
        let mut body = BytesMut::new();
        body.put_u16(2);
        self.no_properties(&mut body);
        text(&mut body, filter);
        self.say(0xa2, &body).await;
        assert_eq!(self.next().await, Seen::UnsubAck(2));
    }

    /// `flags` is the lower half of the first byte: DUP, QoS, RETAIN.
    pub(crate) async fn publish_with(&mut self, flags: u8, topic: &str, id: u16, properties: &[u8], payload: &str) {
        let mut body = BytesMut::new();
        text(&mut body, topic);
        if flags & 0b110 != 0 {
            body.put_u16(id);
        }
        if self.version == V5 {
            body.put_u8(properties.len().try_into().unwrap());
            body.put_slice(properties);
        }
        body.put_slice(payload.as_bytes());
        self.say(0x30 | flags, &body).await;
    }

    /// Publishes at QoS 1.
    pub(crate) async fn publish(&mut self, topic: &str, id: u16, payload: &str) {
        self.publish_with(0b0010, topic, id, &[], payload).await;
    }

    pub(crate) async fn ack(&mut self, kind: u8, id: u16) {
        self.say(kind << 4 | if kind == PUBREL { 2 } else { 0 }, &id.to_be_bytes()).await;
    }

    pub(crate) async fn ping(&mut self) {
        self.say(0xc0, &[]).await;
    }

    pub(crate) async fn disconnect(mut self) {
        self.say(0xe0, &[]).await;
        assert_eq!(self.next().await, Seen::Closed);
    }

    /// Yields the size of the packet.
    pub(crate) async fn say(&mut self, first: u8, body: &[u8]) -> usize {
        self.try_say(first, body).await.unwrap()
    }

    /// As [`Self::say`], where the broker may have hung up already.
    pub(crate) async fn try_say(&mut self, first: u8, body: &[u8]) -> std::io::Result<usize> {
        let mut packet = BytesMut::new();
        packet.put_u8(first);
        let mut length = body.len();
        loop {
            let more = if length > 0x7f { 0x80 } else { 0 };
            packet.put_u8(u8::try_from(length & 0x7f).unwrap() | more);
            length >>= 7;
            if length == 0 {
                break;
            }
        }
        packet.put_slice(body);
        self.stream.write_all(&packet).await?;
        Ok(packet.len())
    }

    /// The next packet.
    pub(crate) async fn next(&mut self) -> Seen {
        soon("a packet", self.next_in_its_time()).await
    }

    /// The next packet, however long it takes.
    pub(crate) async fn next_in_its_time(&mut self) -> Seen {
        match self.read_packet().await {
            Some((first, body)) => self.parse(first, body),
            None => Seen::Closed,
        }
    }

    /// The next packet as it is: its first byte, and what comes after the length.
    pub(crate) async fn next_raw(&mut self) -> Option<(u8, Bytes)> {
        soon("a packet", self.read_packet()).await
    }

    async fn read_packet(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if let Some(packet) = self.cut() {
                return Some(packet);
            }
            // A connection that was reset is closed as well.
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next packet, which must be a PUBLISH at QoS 1 or 2: its payload, identifier and DUP flag.
    pub(crate) async fn message(&mut self) -> (String, u16, bool) {
        match self.next().await {
            Seen::Publish { payload, id: Some(id), dup, .. } => (payload, id, dup),
            other => panic!("{other:?}"),
        }
    }

    /// Asserts that nothing is on the way to this client.
    pub(crate) async fn quiet(&mut self) {
        self.ping().await;
        assert_eq!(self.next().await, Seen::Pong);
    }

    fn cut(&mut self) -> Option<(u8, Bytes)> {
        let mut length = 0;
        for at in 1..5 {
            let byte = usize::from(*self.buffer.get(at)?);
            length |= (byte & 0x7f) << (7 * (at - 1));
            if byte & 0x80 == 0 {
                if self.buffer.len() < at + 1 + length {
                    return None;
                }
                let first = self.buffer[0];
                self.buffer.advance(at + 1);
                return Some((first, self.buffer.split_to(length).freeze()));
            }
        }
        panic!("the broker sent nonsense")
    }

    fn parse(&self, first: u8, mut body: Bytes) -> Seen {
        match first >> 4 {
            2 => Seen::ConnAck { resumed: body[0] & 1 == 1, code: body[1] },
            3 => {
                let size = body.get_u16().into();
                let topic = String::from_utf8(body.split_to(size).to_vec()).unwrap();
                let id = (first & 0b110 != 0).then(|| body.get_u16());
                if self.version == V5 {
                    let size = usize::from(body.get_u8());
                    assert!(size < 0x80, "more properties than this client can read");
                    body.advance(size);
                }
                let payload = String::from_utf8(body.to_vec()).unwrap();
                Seen::Publish { topic, payload, id, dup: first & 8 != 0, retain: first & 1 != 0 }
            }
            kind @ 4..=7 => Seen::Ack(kind, body.get_u16(), if body.is_empty() { 0 } else { body[0] }),
            9 => match (body.get_u16(), body.last()) {
                (id, Some(code)) if *code >= 0x80 => Seen::SubRefused(id, *code),
                (id, _) => Seen::SubAck(id),
            },
            11 => Seen::UnsubAck(body.get_u16()),
            13 => Seen::Pong,
            14 => Seen::Disconnect(body.first().copied().unwrap_or_default()),
            other => panic!("packet type {other}"),
        }
    }

    fn no_properties(&self, body: &mut BytesMut) {
        if self.version == V5 {
            body.put_u8(0);
        }
    }
}

fn text(body: &mut BytesMut, text: &str) {
    body.put_u16(text.len().try_into().unwrap());
    body.put_slice(text.as_bytes());
}
