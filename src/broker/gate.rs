//! The socket as the engine sees it, with our hand on what passes.
//!
//! ```text
//!   client ──PUBLISH──▶ gate ──▶ engine ──event──▶ Inbound + Ack ──▶ bridge ──▶ disk
//!   client ◀──PUBACK─── gate ◀─ held back ─ engine                    │
//!                        ▲                                            │
//!                        └──────────────── AckWord ───────────────────┘
//! ```
//!
//! # Why a gate
//!
//! A PUBACK must mean "on disk". The engine would let us wait inside its publish event, but it handles one packet of a
//! client at a time, so that every message would cost a whole commit and a publisher that sends ahead would gain
//! nothing from group commit. So the event returns at once, and the PUBACK (or PUBREC) that the engine then writes
//! waits here for the bridge's word. Everything else passes at once: a client can ping, subscribe and receive while its
//! acknowledgements are held.
//!
//! The gate hands the engine one packet at a time. So what it saw last is what the engine has in hand, and the number
//! of held acknowledgements is exact: at the limit the next PUBLISH stays in the gate until there is room.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use mqtt5::broker::transport::WebSocketTransport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::acks::{Acks, Release};
use super::faults::{self, Fault};
use super::frames::{Frame, Framer, Kind, Version};
use super::link::{End, Link, Passing, Start};
use crate::mqtt::MarkCopy;
use crate::ops::metrics::{Metric, Metrics};

const PINGREQ: &[u8] = &[0xc0, 0];
/// How much is read from the socket at once.
const READ_CHUNK: usize = 8 * 1024;
/// How much may wait for the socket before the engine is told to wait.
const OUT_LIMIT: usize = 64 * 1024;
/// First byte of a DISCONNECT.
const DISCONNECT: u8 = 0xe0;
/// Reason codes from here on are refusals.
const FAILURE: u8 = 0x80;

/// Limits of one gate.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateLimits {
    /// The biggest packet of a client, in bytes.
    pub(super) packet: usize,
    /// The number of acknowledgements held back.
    pub(super) held: usize,
}

/// A connection's stream between the client and the engine.
#[derive(Debug)]
pub(super) struct Gate<S> {
    stream: S,
    peer: SocketAddr,
    link: Arc<Link>,
    metrics: Arc<Metrics>,
    held_limit: usize,
    incoming: Framer,
    /// A PUBLISH for which there is no room yet.
    waiting: Option<Frame>,
    /// What the engine has still to read of the packet in hand.
    in_hand: Bytes,
    outgoing: Framer,
    acks: Acks,
    /// What the socket has still to take.
    out: BytesMut,
    /// Publications at QoS 0 in `out`.
    unwritten: Vec<u64>,
    /// Set once the connection has been ended by us: nothing passes any more.
    ended: Option<End>,
    /// PINGREQs that are not the client's and have no answer yet.
    own_pings: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    pub(super) fn new(stream: S, peer: SocketAddr, link: Arc<Link>, metrics: Arc<Metrics>, limits: GateLimits) -> Self {
        Self {
            stream,
            peer,
            link,
            metrics,
            held_limit: limits.held,
            incoming: Framer::new(limits.packet),
            waiting: None,
            in_hand: Bytes::new(),
            outgoing: Framer::new(usize::MAX),
            acks: Acks::default(),
            out: BytesMut::new(),
            unwritten: Vec::new(),
            ended: None,
            own_pings: 0,
        }
    }

    /// Lets go the acknowledgements whose word has come, and gives the socket what it takes. Each of the poll functions
    /// does this first: the engine always has at least one of them going, whose waker then also hears the next word.
    fn poll_advance(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let version = self.link.version();
        while let Poll::Ready(release) = self.acks.poll_release(cx, version) {
            match release {
                Release::Send(frame) => self.out.extend_from_slice(&frame),
                Release::Nothing => {}
                Release::Unsafe => {
                    // What was released before may still leave, as far as the socket takes it at once.
                    let _ = self.poll_out(cx)?;
                    return Err(not_safe());
                }
            }
        }
        match self.link.poll_ending(cx) {
            None => {}
            // First what the client has a right to know: which of the messages before are safe.
            Some(End::Denied) if self.acks.len() > 0 || self.poll_out(cx)?.is_pending() => {}
            Some(end) => return Err(self.end(cx, end)?),
        }
        match self.poll_out(cx) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Says goodbye, as far as the socket takes it at once. Yields what the engine is told.
    fn end(&mut self, cx: &mut Context<'_>, end: End) -> io::Result<io::Error> {
        let first_time = self.ended.replace(end).is_none();
        if first_time
            && let Some(reason) = end.reason()
            && self.link.version() == Version::V5
            && self.link.has_begun()
        {
            self.out.extend_from_slice(&[DISCONNECT, 1, reason]);
        }
        let _ = self.poll_out(cx)?;
        Ok(ended())
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        for id in self.unwritten.drain(..) {
            self.link.wrote(id);
        }
        Poll::Ready(Ok(()))
    }

    /// The next packet for the engine.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Some(frame) = self.acks.next_for_engine() {
            return Poll::Ready(Ok(Some(frame)));
        }
        if self.link.ending().is_some() {
            // Only acknowledgements have still to leave, and the first of them has our waker.
            return Poll::Pending;
        }
        if self.link.take_nudge() {
            self.own_pings += 1;
            return Poll::Ready(Ok(Some(Bytes::from_static(PINGREQ))));
        }
        loop {
            let next = match self.waiting.take() {
                Some(frame) => Some(frame),
                None => self.next_incoming(cx)?,
            };
            if let Some(frame) = next {
                if frame.kind() == Kind::Publish && self.acks.len() >= self.held_limit {
                    // The first of the held ones has our waker.
                    self.waiting = Some(frame);
                    return Poll::Pending;
                }
                if frame.exactly_once_id().is_some_and(|id| self.acks.repeats(id)) {
                    self.poll_advance(cx)?;
                    continue;
                }
                self.watch_incoming(&frame);
                return Poll::Ready(Ok(Some(frame.into_bytes())));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(None));
            }
        }
    }

    fn next_incoming(&mut self, cx: &mut Context<'_>) -> io::Result<Option<Frame>> {
        let next = self.incoming.next_frame().map_err(malformed)?;
        match next.as_ref().map(|frame| faults::check(frame, self.link.version())) {
            Some(Err(fault)) => Err(self.refuse(fault, cx)),
            _ => Ok(next),
        }
    }

    /// Tells the client what is wrong with its packet, if its version can, as far as the socket takes it at once. The
    /// error ends the connection.
    fn refuse(&mut self, fault: Fault, cx: &mut Context<'_>) -> io::Error {
        if self.link.has_begun() && self.link.version() == Version::V5 {
            self.out.extend_from_slice(&[DISCONNECT, 1, fault.code()]);
            if let Poll::Ready(Err(error)) = self.poll_out(cx) {
                return error;
            }
        }
        malformed(fault)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [0; READ_CHUNK];
        let mut buffer = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        self.incoming.push(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn watch_incoming(&mut self, frame: &Frame) {
        match frame.kind() {
            Kind::Connect => self.link.saw_connect(frame),
            Kind::Publish => self.link.saw_publish_of_client(frame),
            // At QoS 2 the PUBREC says that the client has it.
            Kind::PubAck | Kind::PubRec => {
                if let Some(id) = frame.ack_id() {
                    self.link.saw_ack_of_client(id);
                }
            }
            Kind::PubRel => {
                if let Some(id) = frame.ack_id() {
                    self.acks.released(id);
                }
            }
            Kind::ConnAck | Kind::PubComp | Kind::PingResp | Kind::Other => {}
        }
    }

    /// The same PUBLISH with its payload marked, unless that is more than the client takes.
    fn marked(&self, frame: &Frame, mark_copy: MarkCopy) -> Option<Frame> {
        let version = self.link.version();
        let payload = mark_copy(frame.publish(version)?.payload)?;
        let marked = frame.with_payload(version, &payload)?;
        self.link.max_packet().is_none_or(|most| marked.bytes().len() <= most).then_some(marked)
    }

    /// Takes a packet of the engine in the form that the client's version has.
    fn accept(&mut self, frame: Frame) {
        let version = self.link.version();
        let is_refusal = matches!(frame.kind(), Kind::PubAck | Kind::PubRec) && frame.ack_reason() >= FAILURE;
        // MQTT 3.1.1 has no word for a refusal. After a denied message the connection ends; a retained message for
        // which there is no room stays unacknowledged, as one beyond the quota of the bridge does.
        if is_refusal && version == Version::V311 {
            return;
        }
        if let Some(frame) = frame.fit(version) {
            self.pass_out(&frame);
        }
    }

    /// Passes a packet of the engine on, holds it, or drops it.
    fn pass_out(&mut self, frame: &Frame) {
        match frame.kind() {
            Kind::PubAck | Kind::PubRec => {
                let word = frame.ack_id().and_then(|id| self.link.take_word(id));
                // Also those that need not wait queue up: [MQTT-4.6.0-2] wants them in the order of the PUBLISHes.
                self.acks.push(frame, word);
                return;
            }
            Kind::PubComp if self.acks.swallows(frame) => return,
            // One answer is like the other.
            Kind::PingResp if self.own_pings > 0 => {
                self.own_pings -= 1;
                return;
            }
            Kind::ConnAck => {
                self.link.began(if frame.session_present() { Start::Resumed } else { Start::Fresh });
                if frame.accepts() {
                    self.link.claimed();
                }
                let maximum = self.held_limit.try_into().unwrap_or(u16::MAX);
                self.out.extend_from_slice(frame.with_receive_maximum(maximum).bytes());
                return;
            }
            Kind::Publish => match self.link.saw_publish_to_client(frame) {
                Passing::AsItIs => {}
                Passing::TellWritten(id) => self.unwritten.push(id),
                Passing::Marked(mark_copy) => {
                    if let Some(marked) = self.marked(frame, mark_copy) {
                        self.out.extend_from_slice(marked.bytes());
                        return;
                    }
                }
                Passing::Withheld { qos, id } => {
                    self.metrics.count(Metric::DeliveriesFiltered);
                    self.acks.answer_withheld(qos, id);
                    return;
                }
            },
            Kind::Connect | Kind::PubRel | Kind::PubComp | Kind::PingResp | Kind::Other => {}
        }
        self.out.extend_from_slice(frame.bytes());
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gate<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        gate.poll_advance(cx)?;
        if gate.in_hand.is_empty() {
            match ready!(gate.poll_next(cx))? {
                Some(packet) => gate.in_hand = packet,
                None if gate.link.has_said_connect() => return Poll::Ready(Ok(())),
                None => return Poll::Ready(Err(hung_up())),
            }
        }
        let size = gate.in_hand.len().min(buf.remaining());
        buf.put_slice(&gate.in_hand.split_to(size));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        gate.poll_advance(cx)?;
        if gate.out.len() >= OUT_LIMIT {
            return Poll::Pending;
        }
        gate.outgoing.push(buf);
        while let Some(frame) = gate.outgoing.next_frame().map_err(malformed)? {
            gate.accept(frame);
        }
        gate.poll_advance(cx)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        gate.poll_advance(cx)?;
        ready!(gate.poll_out(cx))?;
        Pin::new(&mut gate.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        ready!(gate.poll_out(cx))?;
        Pin::new(&mut gate.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> WebSocketTransport for Gate<S> {
    fn peer_addr(&self) -> mqtt5::Result<SocketAddr> {
        Ok(self.peer)
    }
}

/// Before the CONNECT an end of the stream makes the engine warn, unless it reads these two words. A port that is probed
/// by a health check is no reason to warn.
fn hung_up() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "Connection closed before CONNECT")
}

/// As [`not_safe`].
fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "Connection reset: ended by the broker")
}

/// The engine takes an error with these two words for an ordinary end of the connection and does not warn.
fn not_safe() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "Connection reset: a message could not be made safe")
}

fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("Connection reset: {error}"))
}

#[cfg(test)]
mod tests;
