//! What waits for the socket.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::Stream;
use super::handle::ConnectionHandle;
use crate::broker::session::InFlight;

/// How much may wait for the socket before nothing more is read or delivered.
pub(super) const OUT_LIMIT: usize = 64 * 1024;

/// Room for documents at QoS 0 that a connection keeps when the socket has all of them.
const ROOM_KEPT: usize = 4;

thread_local! {
    /// Memory for what is written at once, so that a connection for which nothing waits has none.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The bytes on their way out of one connection.
#[derive(Debug, Default)]
pub(super) struct Out {
    bytes: Vec<u8>,
    /// So many of them the socket has.
    taken: usize,
    /// TLS and WebSocket keep what they took until they are told to flush.
    unflushed: bool,
    /// All bytes that the socket ever took before `bytes`.
    before: u64,
    /// Documents at QoS 0 and where each ends: its last byte on the socket acknowledges it.
    unwritten: VecDeque<(u64, InFlight)>,
}

impl Out {
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.take();
        }
        &mut self.bytes
    }

    /// Whether so much waits that nothing more is read or delivered.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() - self.taken >= OUT_LIMIT
    }

    /// The last byte of the packet that was written last acknowledges this message.
    pub(super) fn watch(&mut self, flight: InFlight) {
        self.unwritten.push_back((self.before + self.bytes.len() as u64, flight));
    }

    /// What the socket has of the watched, in order.
    pub(super) fn next_written(&mut self) -> Option<InFlight> {
        let end = self.before + self.taken as u64;
        let is_there = !self.unflushed && self.unwritten.front().is_some_and(|(at, _)| *at <= end);
        let (_, flight) = if is_there { self.unwritten.pop_front() } else { None }?;
        if self.unwritten.is_empty() && self.unwritten.capacity() > ROOM_KEPT {
            self.unwritten = VecDeque::new();
        }
        Some(flight)
    }

    /// Gives the socket what it takes. Ready when it has everything.
    pub(super) fn poll_drain(
        &mut self,
        stream: &mut Box<dyn Stream>,
        handle: &ConnectionHandle,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        let taken = self.taken;
        let drained = self.poll_write(stream, cx);
        match drained {
            Poll::Pending if self.taken == taken => handle.stalled(),
            Poll::Pending => {
                handle.not_stalled();
                handle.stalled();
            }
            Poll::Ready(_) => {
                handle.not_stalled();
                self.before += self.taken as u64;
                self.taken = 0;
                self.bytes.clear();
                spare(mem::take(&mut self.bytes));
            }
        }
        drained
    }

    fn poll_write(&mut self, stream: &mut Box<dyn Stream>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.bytes.get(self.taken..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken += written;
            self.unflushed = true;
        }
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}

/// Keeps memory for the next connection that this thread serves, unless it has some or this is too much.
fn spare(bytes: Vec<u8>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.capacity() < bytes.capacity() && bytes.capacity() <= 4 * OUT_LIMIT {
            *spare = bytes;
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::broker::session::{OutgoingMessage, QueueRef};
    use crate::chat::qos::QoS;
    use crate::store::{Message, QueueId, Target};

    #[test]
    fn the_room_that_a_burst_needed_is_given_back() {
        let (topic, nothing, qos) = (Arc::from("a"), Bytes::new(), QoS::AtMostOnce);
        let properties = nothing.clone();
        let message = Message { topic, payload: nothing, properties, qos, retain: false, expires_at: None };
        let target = Target { queue: QueueId(1), qos, retain: false, ids: Vec::new() };
        let item = OutgoingMessage::memory(Arc::new(message), target);
        let mut out = Out::default();
        for _ in 0..1_000 {
            out.buffer().push(0);
            out.watch(InFlight::unsent(QueueRef::Own, &item));
        }
        out.taken = 999;
        assert_eq!(std::iter::from_fn(|| out.next_written()).count(), 999);
        out.taken = 1_000;
        assert!(out.next_written().is_some() && out.next_written().is_none());
        assert!(out.unwritten.capacity() <= ROOM_KEPT);
    }
}
