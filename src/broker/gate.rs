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
//!
//! Since everything passes here, here is also where clients are kept within their limits: the size of packets and
//! topics (`judge`), the rate of publications (`pace`), the time for which a socket may take nothing (`out`). Whoever
//! has to go is told why, where the protocol has a word for it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use mqtt5::broker::transport::WebSocketTransport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::acks::{Acks, Release};
use super::faults;
use super::frames::{Frame, Framer, Kind};
use super::link::Link;
use super::refusals::{Refusal, Refusals};
use crate::ops::metrics::{Metric, Metrics};
use farewell::{Farewell, closed, not_mqtt};
pub(super) use judge::{REFUSED_FILTER, TopicLimits};
use out::{Out, OutError};
use pace::{Brake, Passed};
use pulse::{PINGREQ, Pulse, Waiting};

mod farewell;
mod inward;
mod judge;
mod opening;
mod out;
mod outward;
mod pace;
mod pulse;

/// How much is read from the socket at once.
const READ_CHUNK: usize = 8 * 1024;
/// How much may wait for the socket before the engine and the client are told to wait.
const OUT_LIMIT: usize = 64 * 1024;
/// The biggest CONNECT: whoever has not shown who they are gets no room for more.
const CONNECT_LIMIT: usize = 64 * 1024;

/// Limits of one gate.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateLimits {
    /// The biggest packet of a client, in bytes.
    pub(super) packet: usize,
    /// The number of acknowledgements held back.
    pub(super) held: usize,
    /// Topics and filters.
    pub(super) topics: TopicLimits,
}

/// A connection's stream between the client and the engine.
#[derive(Debug)]
pub(super) struct Gate<S> {
    stream: S,
    peer: SocketAddr,
    link: Arc<Link>,
    limits: GateLimits,
    metrics: Arc<Metrics>,
    refusals: Arc<Refusals>,
    incoming: Framer,
    /// The next packet for the engine: the CONNECT, or a PUBLISH for which there is no room yet.
    next: Option<Frame>,
    /// What the engine has still to read of the packet in hand.
    in_hand: Bytes,
    outgoing: Framer,
    acks: Acks,
    out: Out,
    /// Publications at QoS 0 in `out`.
    unwritten: Vec<u64>,
    /// Set once the connection has been ended by us: nothing passes any more.
    ended: Option<Refusal>,
    brake: Brake,
    /// From the CONNECT on.
    pulse: Option<Pulse>,
    farewell: Option<Farewell>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    pub(super) fn new(
        stream: S,
        peer: SocketAddr,
        link: Arc<Link>,
        limits: GateLimits,
        refusals: Arc<Refusals>,
    ) -> Self {
        Self {
            stream,
            peer,
            link,
            limits,
            metrics: Arc::clone(refusals.metrics()),
            refusals,
            incoming: Framer::new(limits.packet.min(CONNECT_LIMIT)),
            next: None,
            in_hand: Bytes::new(),
            outgoing: Framer::new(usize::MAX),
            acks: Acks::default(),
            out: Out::default(),
            unwritten: Vec::new(),
            ended: None,
            brake: Brake::default(),
            pulse: None,
            farewell: None,
        }
    }

    /// Lets go the acknowledgements whose word has come, and gives the socket what it takes. Each of the poll functions
    /// does this first: the engine always has at least one of them going, whose waker then also hears the next word.
    fn poll_advance(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let version = self.link.version();
        while let Poll::Ready(release) = self.acks.poll_release(cx, version) {
            match release {
                Release::Send(frame) => self.out.push(&frame),
                Release::Full(answer) => {
                    self.tell(Refusal::Quota, "");
                    self.out.push(&answer.unwrap_or_default());
                }
                Release::Unsafe => {
                    self.tell_end(Refusal::NotStored, "");
                    // What was released before may still leave, as far as the socket takes it at once.
                    let _ = self.poll_out(cx)?;
                    return Err(closed("a message could not be made safe"));
                }
            }
        }
        match self.link.poll_ending(cx) {
            None => {}
            // First what the client has a right to know: which of the messages before are safe.
            Some(Refusal::PublishDenied) if self.acks.len() > 0 || self.poll_out(cx)?.is_pending() => {}
            Some(end) => return Err(self.end(cx, end)?),
        }
        match self.poll_out(cx) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Says goodbye, as far as the socket takes it at once. Yields what the engine is told.
    fn end(&mut self, cx: &mut Context<'_>, end: Refusal) -> io::Result<io::Error> {
        if self.ended.replace(end).is_none() {
            self.tell_end(end, "");
            if self.link.has_begun() {
                self.out.push(&self.last_words(end, end.code(), end.rule()));
            }
        }
        let _ = self.poll_out(cx)?;
        Ok(ended())
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(self.out.poll_drain(&mut self.stream, cx)) {
            Ok(()) => {
                for id in self.unwritten.drain(..) {
                    self.link.wrote(id);
                }
                Poll::Ready(Ok(()))
            }
            Err(OutError::Stalled) => {
                self.tell_end(Refusal::NotReading, "");
                Poll::Ready(Err(closed("the client does not read")))
            }
            Err(OutError::Io(error)) => Poll::Ready(Err(error)),
        }
    }

    /// The next packet for the engine.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.next.is_none() && self.link.max_packet().is_some() && !self.link.has_begun() {
            // The engine has read the CONNECT and wants more: it has dropped its CONNACK as too big for the client.
            self.refuse_for_connack();
            return self.poll_farewell(cx).map(Err);
        }
        if let Some(frame) = self.acks.next_for_engine() {
            return Poll::Ready(Ok(Some(frame)));
        }
        if self.link.ending().is_some() {
            // Only acknowledgements have still to leave, and the first of them has our waker.
            return Poll::Pending;
        }
        if self.link.take_nudge()
            && let Some(pulse) = &mut self.pulse
        {
            pulse.ask();
            return Poll::Ready(Ok(Some(Bytes::from_static(PINGREQ))));
        }
        loop {
            if self.is_backed_up() {
                // The socket has our waker.
                return Poll::Pending;
            }
            let next = match self.next.take() {
                Some(frame) => Ok(Some(frame)),
                None => self.incoming.next_frame(),
            };
            let frame = match next {
                Ok(Some(frame)) => frame,
                Ok(None) if ready!(self.poll_fill(cx))? == 0 => return Poll::Ready(Ok(None)),
                Ok(None) => continue,
                Err(error) => {
                    self.refuse_stream(error);
                    return self.poll_farewell(cx).map(Err);
                }
            };
            if let Err(fault) = faults::check(&frame, self.link.version()) {
                self.refuse_packet(fault);
                return self.poll_farewell(cx).map(Err);
            }
            if frame.kind() == Kind::Publish && self.poll_admit(cx).is_pending() {
                self.next = Some(frame);
                return Poll::Pending;
            }
            let Some(passed) = self.pass_in(frame) else {
                if self.farewell.is_some() {
                    return self.poll_farewell(cx).map(Err);
                }
                self.poll_advance(cx)?;
                continue;
            };
            if passed.exactly_once_id().is_some_and(|id| self.acks.repeats(id)) {
                self.poll_advance(cx)?;
                continue;
            }
            self.watch_incoming(&passed);
            return Poll::Ready(Ok(Some(passed.into_bytes())));
        }
    }

    /// Whether so much waits for the socket that nothing more is read, of the client or of the engine: what is answered
    /// here never reaches the engine, and would pile up.
    fn is_backed_up(&self) -> bool {
        self.out.len() >= OUT_LIMIT
    }

    /// Whether another PUBLISH may pass now.
    fn poll_admit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.acks.len() >= self.limits.held {
            // The first of the held ones has our waker.
            return Poll::Pending;
        }
        if let Some(rate) = self.link.publish_rate()
            && ready!(self.brake.poll_pass(rate, cx)) == Passed::Slowed
        {
            self.metrics.count(Metric::BrokerPublishSlowed);
        }
        Poll::Ready(())
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [0; READ_CHUNK];
        let mut buffer = ReadBuf::new(&mut chunk);
        if let Err(error) = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
            // A stream below ours says so of what it cannot read: see `listen::ws`.
            if error.kind() == io::ErrorKind::InvalidData {
                self.tell_end(Refusal::Malformed, &error);
            }
            return Poll::Ready(Err(error));
        }
        self.incoming.push(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gate<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if gate.farewell.is_some() {
            return gate.poll_farewell(cx).map(Err);
        }
        gate.poll_advance(cx)?;
        if gate.in_hand.is_empty() {
            match gate.poll_next(cx)? {
                Poll::Ready(Some(packet)) => gate.in_hand = packet,
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    let waiting = if gate.next.is_some() || gate.is_backed_up() { Waiting::Yes } else { Waiting::No };
                    let Some(pulse) = &mut gate.pulse else {
                        return Poll::Pending;
                    };
                    ready!(pulse.poll_beat(cx, waiting));
                    gate.in_hand = Bytes::from_static(PINGREQ);
                }
            }
            if let Some(pulse) = &mut gate.pulse {
                pulse.fed();
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
        if let Some(farewell) = &gate.farewell {
            return Poll::Ready(Err(closed(farewell.why())));
        }
        gate.poll_advance(cx)?;
        if gate.is_backed_up() {
            return Poll::Pending;
        }
        gate.outgoing.push(buf);
        while let Some(frame) = gate.outgoing.next_frame().map_err(not_mqtt)? {
            gate.accept(frame);
        }
        gate.poll_advance(cx)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        gate.poll_advance(cx)?;
        gate.poll_out(cx)
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

/// As [`not_safe`].
fn ended() -> io::Error {
    closed("ended by the broker")
}

#[cfg(test)]
mod tests;
