//! What a shared queue guards by its lock: the queue, who sends what is in it, and who waits for it.

use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;

use crate::broker::connection::ConnectionHandle;
use crate::broker::session::{OutgoingMessage, Queue};

/// How many messages one member of a group gets before the next one.
const MEMBER_SHARE: usize = 16;

#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: Queue,
    /// The connections that send what is in it: that of the session, or those of the group's members.
    pub(super) consumers: Vec<Consumer>,
    /// The consumer to be woken next.
    pub(super) next: usize,
    /// The connection that was given something last, and how much more it may have before others.
    pub(super) share: (u64, usize),
    /// Publishers that wait for room, and queues that wait until this one has read a document.
    pub(super) held: Vec<Waker>,
    /// Messages refused since that was last reported.
    pub(super) refused: u64,
    pub(super) told: Option<Instant>,
    /// While retained messages are sent.
    pub(super) later: Option<Later>,
    /// The number of the last one who began that.
    pub(super) last_begun: u64,
}

/// What is published while retained messages are sent, to follow them.
#[derive(Debug, Default)]
pub(super) struct Later {
    /// The numbers of those for whom it waits.
    pub(super) waits_for: Vec<u64>,
    /// Each with the number of the last row of which any queue was notified, if it is known.
    pub(super) items: Vec<(OutgoingMessage, Option<u64>)>,
}

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) handle: Arc<ConnectionHandle>,
    /// Its window or its socket is full.
    pub(super) full: bool,
}

impl State {
    /// Wakes one consumer that can take something, in rotation. Where something is to be read, one that is full does that
    /// as well.
    pub(super) fn wake_next(&mut self) {
        let count = self.consumers.len();
        let in_rotation = || (0..count).map(|step| (self.next + step) % count);
        let takes = |at: &usize| !self.consumers[*at].full;
        // A single consumer is woken even if it is full: it checks for itself.
        let is_left = |at: &usize| count == 1 || self.consumers[*at].handle.ending().is_none();
        let woken = in_rotation()
            .find(takes)
            .or_else(|| if count == 1 || self.queue.has_to_read() { in_rotation().find(is_left) } else { None });
        if let Some(at) = woken {
            self.consumers[at].handle.wake();
            self.next = at + 1;
        }
    }

    /// Whether this consumer may pull now: each member of a group gets a share, as long as others can take something.
    pub(super) fn may_pull(&mut self, handle: &ConnectionHandle) -> bool {
        let spent = self.share == (handle.number(), 0);
        let others = self.consumers.iter().any(|other| other.handle.number() != handle.number() && !other.full);
        if spent && others && self.queue.has_loaded() {
            self.wake_next();
            return false;
        }
        true
    }

    pub(super) fn count_pull(&mut self, handle: &ConnectionHandle) {
        let (last, left) = self.share;
        self.share = match left.checked_sub(1) {
            Some(left) if last == handle.number() => (last, left),
            _ => (handle.number(), (self.queue.loaded() / self.consumers.len().max(1)).min(MEMBER_SHARE)),
        };
    }

    pub(super) fn set_full(&mut self, handle: &ConnectionHandle, full: bool) {
        if let Some(consumer) = self.consumers.iter_mut().find(|consumer| consumer.handle.number() == handle.number()) {
            consumer.full = full;
        }
    }

    pub(super) fn hold(&mut self, waker: &Waker) {
        if !self.held.iter().any(|held| held.will_wake(waker)) {
            self.held.push(waker.clone());
        }
    }

    pub(super) fn release_held(&mut self) {
        // With the room that many publishers needed.
        std::mem::take(&mut self.held).into_iter().for_each(Waker::wake);
    }
}
