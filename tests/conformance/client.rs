//! An MQTT client that does exactly what a row says.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::soon;
use crate::wire::{
    Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Props, Publish, ack, frame, ping, subscribe, unsubscribe,
};

pub(crate) struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    /// Read, but not asked for yet.
    early: VecDeque<Packet>,
    pub(crate) version: u8,
}

impl Client {
    pub(crate) async fn dial(address: SocketAddr, version: u8) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: BytesMut::new(), early: VecDeque::new(), version }
    }

    /// Connects, and takes the CONNACK, which must say yes. Says whether the session was resumed, and the properties.
    pub(crate) async fn connect(address: SocketAddr, version: u8, connect: &Connect) -> (Self, bool, Props) {
        let mut client = Self::dial(address, version).await;
        client.send(&connect.bytes(version)).await;
        match client.next().await {
            Packet::ConnAck { resumed, code: 0, props } => (client, resumed, props),
            other => panic!("instead of a CONNACK: {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet.
    pub(crate) async fn next(&mut self) -> Packet {
        match self.early.pop_front() {
            Some(packet) => packet,
            None => self.read().await,
        }
    }

    /// The first packet of which `wanted` makes something; those before it are kept for later.
    pub(crate) async fn until<T>(&mut self, wanted: impl Fn(&Packet) -> Option<T>) -> T {
        if let Some(at) = self.early.iter().position(|packet| wanted(packet).is_some()) {
            let packet = self.early.remove(at).unwrap();
            return wanted(&packet).unwrap();
        }
        loop {
            let packet = self.read().await;
            match wanted(&packet) {
                Some(value) => return value,
                None if packet == Packet::Closed => panic!("closed; before: {:?}", self.early),
                None => self.early.push_back(packet),
            }
        }
    }

    async fn read(&mut self) -> Packet {
        soon("a packet", async {
            loop {
                if let Some(packet) = self.cut() {
                    return packet;
                }
                // A connection that was reset is closed as well.
                if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                    return Packet::Closed;
                }
            }
        })
        .await
    }

    fn cut(&mut self) -> Option<Packet> {
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
                return Some(Packet::decode(self.version, first, self.buffer.split_to(length).freeze()));
            }
        }
        panic!("[MQTT-1.5.5-1]")
    }

    /// Subscribes to one filter, which must be granted as asked.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) {
        assert_eq!(self.subscribe_with(&[(filter, qos)], &Props::default()).await, [qos & 3], "{filter}");
    }

    /// Subscribes. Yields the reason codes.
    pub(crate) async fn subscribe_with(&mut self, filters: &[(&str, u8)], props: &Props) -> Vec<u8> {
        let packet = subscribe(self.version, filters, props);
        self.send(&packet).await;
        self.until(|packet| match packet {
            Packet::SubAck { id: 1, codes, .. } => Some(codes.clone()),
            _ => None,
        })
        .await
    }

    /// Unsubscribes. Yields the reason codes, which only MQTT 5 has.
    pub(crate) async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let packet = unsubscribe(self.version, filters);
        self.send(&packet).await;
        self.until(|packet| match packet {
            Packet::UnsubAck { id: 2, codes } => Some(codes.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn say(&mut self, publish: &Publish) {
        let bytes = publish.bytes(self.version);
        self.send(&bytes).await;
    }

    /// Publishes with the whole exchange of its QoS, which must succeed.
    pub(crate) async fn publish(&mut self, publish: &Publish) {
        self.say(publish).await;
        match publish.qos {
            0 => {}
            1 => assert!(self.acked(PUBACK, publish.id).await < 0x80, "{publish:?}"),
            _ => {
                assert!(self.acked(PUBREC, publish.id).await < 0x80, "{publish:?}");
                self.send(&ack(PUBREL, publish.id)).await;
                assert_eq!(self.acked(PUBCOMP, publish.id).await, 0);
            }
        }
    }

    /// Publishes a text at QoS 1.
    pub(crate) async fn post(&mut self, topic: &str, payload: &str) {
        self.publish(&Publish::new(topic, payload, 1, 0x7001)).await;
    }

    /// Waits for an acknowledgement. Yields its reason code.
    pub(crate) async fn acked(&mut self, wanted: u8, number: u16) -> u8 {
        self.until(|packet| match packet {
            Packet::Ack { kind, id, code, .. } if *kind == wanted && *id == number => Some(*code),
            _ => None,
        })
        .await
    }

    /// The next packet, which must be a PUBLISH. It is not acknowledged.
    pub(crate) async fn delivery(&mut self) -> Publish {
        match self.next().await {
            Packet::Publish(publish) => publish,
            other => panic!("instead of a message: {other:?}"),
        }
    }

    /// The next PUBLISH, with the whole exchange of its QoS.
    pub(crate) async fn message(&mut self) -> Publish {
        let publish = self.delivery().await;
        self.take(&publish).await;
        publish
    }

    /// Acknowledges a PUBLISH, with the whole exchange of its QoS.
    pub(crate) async fn take(&mut self, publish: &Publish) {
        match publish.qos {
            0 => {}
            1 => self.send(&ack(PUBACK, publish.id)).await,
            _ => {
                self.send(&ack(PUBREC, publish.id)).await;
                assert_eq!(self.acked(PUBREL, publish.id).await, 0);
                self.send(&ack(PUBCOMP, publish.id)).await;
            }
        }
    }

    /// The next message must have this payload.
    pub(crate) async fn gets(&mut self, payload: &str) -> Publish {
        let publish = self.message().await;
        assert_eq!(publish.text(), payload, "{publish:?}");
        publish
    }

    /// Nothing of this connection is on the way to it, and it lives. What others sent may still be.
    pub(crate) async fn quiet(&mut self) {
        self.send(&ping()).await;
        assert_eq!(self.next().await, Packet::Pong);
    }

    /// The broker has read everything that was sent before. Messages that come meanwhile are kept for later.
    pub(crate) async fn quiet_but_for_messages(&mut self) {
        self.send(&ping()).await;
        self.until(|packet| matches!(packet, Packet::Pong).then_some(())).await;
    }

    /// The broker ends the connection. In MQTT 5 it may say why; a reason must be one of `codes`.
    pub(crate) async fn ended(&mut self, codes: &[u8]) {
        match self.next().await {
            Packet::Closed => {}
            Packet::Disconnect { code, .. } => {
                assert!(codes.contains(&code), "DISCONNECT {code:#x}, and not one of {codes:x?}");
                assert_eq!(self.next().await, Packet::Closed, "[MQTT-3.14.4-1]");
            }
            other => panic!("instead of the end: {other:?}"),
        }
    }

    /// Leaves in an orderly way, and waits for the end.
    pub(crate) async fn leave(mut self) {
        self.send(&frame(0xe0, &[])).await;
        loop {
            match self.read().await {
                Packet::Closed => return,
                Packet::Disconnect { .. } => panic!("a DISCONNECT answers a DISCONNECT"),
                _ => {}
            }
        }
    }

    /// Breaks off without a word.
    pub(crate) fn cut_off(self) {
        drop(self);
    }
}
