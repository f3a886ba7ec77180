//! An MQTT client that costs less than any broker: its packets are made before the clock starts and written many at a
//! time, and of what comes in it looks only at what must be acknowledged or counted.

use crate::login::Login;
use crate::wire::{self, CONNACK, Connack, DISCONNECT, Message, PUBACK, PUBLISH, SUBACK, Session, Version};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// A buffer starts small, for there are ten thousand of them, and grows where much comes in.
const SMALLEST_BUFFER: usize = 1_024;
const LARGEST_BUFFER: usize = 256 * 1_024;
/// What has not come when nothing came for so long is missing.
const SILENCE: Duration = Duration::from_secs(10);

/// Messages to publish, as the bytes of their packets.
pub(crate) struct Load {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Load {
    /// So many, each with the topic and payload that are made for its number. No packet id comes twice among 65,535.
    pub(crate) fn new(version: Version, messages: usize, make: impl Fn(usize) -> (String, Vec<u8>)) -> Self {
        let mut load = Self::none();
        for n in 0..messages {
            let (topic, payload) = make(n);
            let id = (n % usize::from(u16::MAX)) as u16 + 1;
            load.bytes.extend(wire::publish(version, &topic, id, &payload));
            load.ends.push(load.bytes.len());
        }
        load
    }

    /// Of one who only reads.
    pub(crate) fn none() -> Self {
        Self { bytes: Vec::new(), ends: vec![0] }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len() - 1
    }
}

/// What a reader got.
pub(crate) struct Delivered {
    pub(crate) messages: usize,
    /// When the last one came.
    pub(crate) last: Instant,
}

pub(crate) struct Client {
    stream: TcpStream,
    version: Version,
    buffer: Vec<u8>,
    filled: usize,
    /// Whether the broker had a session of it.
    pub(crate) session_present: bool,
    receive_maximum: usize,
}

impl Client {
    /// Returns after the CONNACK.
    pub(crate) async fn connect(broker: SocketAddr, version: Version, session: Session, id: &str) -> Result<Self> {
        Self::open(broker, version, &wire::connect(version, session, id, None)).await
    }

    /// A device of a user, with a clean session. Returns after the CONNACK.
    pub(crate) async fn log_in(broker: SocketAddr, version: Version, id: &str, login: &Login) -> Result<Self> {
        Self::open(broker, version, &wire::connect(version, Session::Clean, id, Some(login))).await
    }

    async fn open(broker: SocketAddr, version: Version, connect: &[u8]) -> Result<Self> {
        let stream = TcpStream::connect(broker).await?;
        stream.set_nodelay(true)?;
        let buffer = vec![0; SMALLEST_BUFFER];
        let mut client = Self { stream, version, buffer, filled: 0, session_present: false, receive_maximum: 0 };
        client.stream.write_all(connect).await?;
        let body = client.answer(CONNACK).await?;
        let connack = Connack::read(version, &body).context("a CONNACK that cannot be read")?;
        ensure!(connack.code == 0, "CONNACK {:#04x}", connack.code);
        client.session_present = connack.session_present;
        client.receive_maximum = connack.receive_maximum.into();
        Ok(client)
    }

    /// Returns after the SUBACK, which must grant everything.
    pub(crate) async fn subscribe(&mut self, filters: &[String]) -> Result<()> {
        self.stream.write_all(&wire::subscribe(self.version, filters)).await?;
        let body = self.answer(SUBACK).await?;
        ensure!(body.ends_with(&vec![1; filters.len()]), "not all of {} subscriptions are granted", filters.len());
        Ok(())
    }

    /// Publishes everything, so many messages unacknowledged at a time (fewer if the broker takes no more), and returns
    /// after the last PUBACK.
    pub(crate) async fn publish(&mut self, load: &Load, window: usize) -> Result<()> {
        let window = window.min(self.receive_maximum);
        let (mut sent, mut acknowledged, mut refused) = (0, 0, 0);
        while acknowledged < load.len() {
            let until = load.len().min(acknowledged + window);
            self.stream.write_all(&load.bytes[load.ends[sent]..load.ends[until]]).await?;
            sent = until;
            timeout(SILENCE, self.fill()).await.with_context(|| format!("{acknowledged} PUBACKs of {sent}"))??;
            self.packets(|kind, body| {
                if kind >> 4 == PUBACK {
                    acknowledged += 1;
                    refused += usize::from(wire::puback_code(body) >= 0x80);
                }
                Ok(())
            })?;
        }
        ensure!(refused == 0, "{refused} of {acknowledged} messages were refused");
        Ok(())
    }

    /// Acknowledges messages and hands their payloads over, until so many have come, or none for a while.
    pub(crate) async fn read(&mut self, wanted: usize, mut each: impl FnMut(&[u8])) -> Result<Delivered> {
        let mut delivered = Delivered { messages: 0, last: Instant::now() };
        let mut acks = Vec::new();
        let version = self.version;
        while delivered.messages < wanted {
            let Ok(filled) = timeout(SILENCE, self.fill()).await else { break };
            filled?;
            self.packets(|kind, body| {
                if kind >> 4 == PUBLISH {
                    let message = Message::read(version, kind, body).context("a PUBLISH that cannot be read")?;
                    acks.extend([PUBACK << 4, 2, message.id[0], message.id[1]]);
                    delivered.messages += 1;
                    each(message.payload);
                }
                Ok(())
            })?;
            if !acks.is_empty() {
                delivered.last = Instant::now();
                self.stream.write_all(&acks).await?;
                acks.clear();
            }
        }
        // Copies may have come behind the last one.
        delivered.messages = delivered.messages.min(wanted);
        Ok(delivered)
    }

    /// Publishes everything, so many messages unacknowledged at a time, and meanwhile acknowledges messages and hands them
    /// over. Returns when all PUBACKs are there and `each` has said of a message that it was the last one, or when nothing
    /// came for a while.
    pub(crate) async fn exchange(
        &mut self,
        load: &Load,
        window: usize,
        mut each: impl FnMut(&Message<'_>) -> bool,
    ) -> Result<()> {
        let (window, version) = (window.min(self.receive_maximum), self.version);
        let (mut taken, mut acknowledged, mut refused, mut is_complete) = (0, 0, 0, false);
        let mut unwritten = Vec::new();
        while !(is_complete && acknowledged == load.len()) {
            let until = load.len().min(acknowledged + window);
            unwritten.extend_from_slice(&load.bytes[load.ends[taken]..load.ends[until]]);
            taken = until;
            let Ok(moved) = timeout(SILENCE, self.read_or_write(&mut unwritten)).await else { break };
            moved?;
            self.packets(|kind, body| {
                if kind >> 4 == PUBACK {
                    acknowledged += 1;
                    refused += usize::from(wire::puback_code(body) >= 0x80);
                } else if kind >> 4 == PUBLISH {
                    let message = Message::read(version, kind, body).context("a PUBLISH that cannot be read")?;
                    unwritten.extend([PUBACK << 4, 2, message.id[0], message.id[1]]);
                    is_complete |= each(&message);
                }
                Ok(())
            })?;
        }
        ensure!(refused == 0, "{refused} of {acknowledged} messages were refused");
        // What was the last message still wants its PUBACK.
        Ok(self.stream.write_all(&unwritten).await?)
    }

    /// Writes the packets that are handed in, and acknowledges what comes and hands it over, until nobody hands in any more,
    /// or `each` has said that there is nothing to wait for.
    pub(crate) async fn serve(
        &mut self,
        packets: &mut mpsc::Receiver<Vec<u8>>,
        mut each: impl FnMut(&Message<'_>) -> bool,
    ) -> Result<()> {
        let (mut unwritten, mut is_over, version) = (Vec::new(), false, self.version);
        while !is_over {
            tokio::select! {
                moved = self.read_or_write(&mut unwritten) => moved?,
                packet = packets.recv() => match packet {
                    Some(packet) => unwritten.extend(packet),
                    None => is_over = true,
                },
            }
            self.packets(|kind, body| {
                if kind >> 4 == PUBACK {
                    let code = wire::puback_code(body);
                    ensure!(code < 0x80, "a message was refused: PUBACK {code:#04x}");
                } else if kind >> 4 == PUBLISH {
                    let message = Message::read(version, kind, body).context("a PUBLISH that cannot be read")?;
                    unwritten.extend([PUBACK << 4, 2, message.id[0], message.id[1]]);
                    is_over |= each(&message);
                }
                Ok(())
            })?;
        }
        Ok(self.stream.write_all(&unwritten).await?)
    }

    /// Says goodbye and waits until the broker has closed the connection.
    pub(crate) async fn disconnect(mut self) -> Result<()> {
        self.stream.write_all(&DISCONNECT).await?;
        timeout(SILENCE, async {
            while self.stream.read(&mut self.buffer).await? > 0 {}
            Ok(())
        })
        .await
        .context("the broker does not close the connection")?
    }

    /// The body of the next packet of this kind; others are passed over.
    async fn answer(&mut self, wanted: u8) -> Result<Vec<u8>> {
        let mut answer = None;
        loop {
            self.packets(|kind, body| {
                if kind >> 4 == wanted {
                    answer = Some(body.to_vec());
                }
                Ok(())
            })?;
            match answer {
                Some(body) => return Ok(body),
                None => timeout(SILENCE, self.fill()).await.context("the broker does not answer")??,
            }
        }
    }

    /// Reads what there is, at least one byte.
    async fn fill(&mut self) -> Result<()> {
        let read = self.stream.read(&mut self.buffer[self.filled..]).await?;
        self.filled(read)
    }

    /// The same, or writes what the broker takes of `unwritten`: it may wait for us to read, as we wait for it.
    async fn read_or_write(&mut self, unwritten: &mut Vec<u8>) -> Result<()> {
        let (mut reads, mut writes) = self.stream.split();
        tokio::select! {
            written = writes.write(unwritten), if !unwritten.is_empty() => drop(unwritten.drain(..written?)),
            read = reads.read(&mut self.buffer[self.filled..]) => {
                let read = read?;
                self.filled(read)?;
            }
        }
        Ok(())
    }

    fn filled(&mut self, read: usize) -> Result<()> {
        ensure!(read > 0, "the broker closed the connection");
        self.filled += read;
        if self.filled == self.buffer.len() && self.filled < LARGEST_BUFFER {
            self.buffer.resize(2 * self.filled, 0);
        }
        Ok(())
    }

    /// Takes all whole packets out of the buffer: the first byte and the body of each.
    fn packets(&mut self, mut take: impl FnMut(u8, &[u8]) -> Result<()>) -> Result<()> {
        let mut taken = 0;
        while let Some((kind, body, size)) = wire::first(&self.buffer[taken..self.filled]) {
            take(kind, body)?;
            taken += size;
        }
        self.buffer.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Ok(())
    }
}
