//! A session: what of an MQTT client outlives its connections, or ends with them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::admit::FOREVER;
use super::group::Group;
use super::queue::SharedQueue;
use super::subscribe::RequestedSubscription;
use crate::broker::connection::ConnectionHandle;
use crate::broker::identity::{Caller, device_of};
use crate::broker::session::{Incoming, Window};
use crate::broker::wire::Options;
use crate::store::{Will, WillRef};

/// One session. It belongs to a user and a client id.
#[derive(Debug)]
pub(crate) struct Session {
    /// Names user and client id ([`crate::broker::identity`]).
    pub(crate) key: Arc<str>,
    /// Whose it is; `None` for a client without a log-in.
    pub(crate) user: Option<Arc<str>>,
    /// The MQTT client id.
    pub(crate) client: Arc<str>,
    /// Of a connection in the background ([`crate::broker::identity`]).
    background: bool,
    /// What waits for it. Its number names the session within the process.
    pub(crate) queue: Arc<SharedQueue>,
    /// A lock because its connection changes it and others look at it; held for moments.
    state: Mutex<State>,
    /// Held while the store is asked how groups are: one subscriber has it compose one at a time.
    pub(super) group_states: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) handle: Option<Arc<ConnectionHandle>>,
    /// While it has no connection. On the heap, because most sessions have one.
    pub(super) packet_ids: Option<Box<PacketIds>>,
    pub(super) subscriptions: BTreeMap<Box<str>, Subscription>,
    /// How many of them it may have without asking: they count for no limit.
    pub(super) unasked: usize,
    /// The store verb for the subscriptions was cut short: the disk may not have them all.
    pub(super) subscriptions_unsure: bool,
    /// How long it is kept without a connection, in seconds; `u32::MAX` for ever.
    pub(super) expiry_s: u32,
    /// When its last connection ended, in Unix milliseconds.
    pub(super) left_ms: Option<u64>,
    /// Published when the connection breaks. On the heap, because most sessions have none.
    pub(super) will: Option<Box<SessionWill>>,
    /// When it is published, if that is yet to come.
    pub(super) will_due: Option<Instant>,
    /// Who was let in last, also before the last start, as far as that was kept.
    pub(super) caller: Option<Caller>,
    /// Another connection takes it over and wants a new one.
    pub(super) ends_by_take_over: bool,
}

/// The will of a session, and what the store knows of it.
#[derive(Debug, Clone)]
pub(super) struct SessionWill {
    pub(super) will: Will,
    /// When the store was told that it is due, in Unix milliseconds.
    pub(super) due_at: Option<u64>,
    /// It may have been published already, before the last start.
    pub(super) again: bool,
}

impl From<Will> for SessionWill {
    fn from(will: Will) -> Self {
        Self { will, due_at: None, again: false }
    }
}

/// What is to be done at the end of a connection, and for how long the session is kept after it.
#[derive(Debug)]
pub(super) struct Wishes {
    will: Option<Box<SessionWill>>,
    expiry_s: u32,
}

/// What of a session belongs to its connection as long as it has one.
#[derive(Debug)]
pub(crate) struct PacketIds {
    /// The packet identifiers of what was sent.
    pub(crate) window: Window,
    /// Those of QoS 2 messages that came.
    pub(crate) incoming: Incoming,
}

/// A subscription as the client made it (MQTT 5, 3.8.3.1).
#[derive(Debug, Clone)]
pub(super) struct Subscription {
    pub(super) options: Options,
    /// Where it is shared.
    pub(super) group: Option<Arc<Group>>,
}

/// A queue from which a connection is sent.
#[derive(Debug, Clone)]
pub(crate) struct SendQueue {
    /// The session's own, or a group's.
    pub(crate) queue: Arc<SharedQueue>,
    /// How the member of a group wants what it gets.
    pub(crate) member: Option<Options>,
}

impl Session {
    pub(super) fn new(key: Arc<str>, user: Option<Arc<str>>, client: Arc<str>, queue: Arc<SharedQueue>) -> Arc<Self> {
        let (state, group_states) = Default::default();
        Arc::new(Self { key, user, client, background: false, queue, state, group_states })
    }

    /// That of a connection in the background, which nobody takes over and which ends with it.
    pub(super) fn in_background(key: Arc<str>, user: Arc<str>, client: Arc<str>, queue: Arc<SharedQueue>) -> Arc<Self> {
        let (state, group_states) = Default::default();
        Arc::new(Self { key, user: Some(user), client, background: true, queue, state, group_states })
    }

    /// Whether it is that of a connection in the background: one that publishes, and does nothing else.
    pub(crate) fn is_background(&self) -> bool {
        self.background
    }

    /// The queues that its connection sends from: its own first, then those of its groups.
    pub(crate) fn send_queues(&self) -> Vec<SendQueue> {
        let own = SendQueue { queue: Arc::clone(&self.queue), member: None };
        let state = self.lock();
        let shared = state.subscriptions.values().filter_map(|subscription| {
            let queue = Arc::clone(&subscription.group.as_ref()?.queue);
            Some(SendQueue { queue, member: Some(subscription.options) })
        });
        [own].into_iter().chain(shared).collect()
    }

    /// What it subscribed to.
    pub(super) fn filters(&self) -> Vec<Box<str>> {
        self.lock().subscriptions.keys().cloned().collect()
    }

    /// Whether it subscribed to all this already, with the same options.
    pub(super) fn has_all(&self, wanted: &[RequestedSubscription]) -> bool {
        let state = self.lock();
        if state.subscriptions_unsure {
            return false;
        }
        let mut same =
            wanted.iter().map(|RequestedSubscription { filter, options }| (state.subscriptions.get(filter), options));
        same.all(|(there, options)| there.is_some_and(|there| there.options == *options))
    }

    /// The filters that bring something into one of its queues, without what makes them shared.
    pub(super) fn filters_of(&self, queue: &SharedQueue) -> Vec<Box<str>> {
        if queue.number() != self.queue.number() {
            return vec![Group::filter_in(queue.name()).into()];
        }
        let state = self.lock();
        let own = state.subscriptions.iter().filter(|(_, subscription)| subscription.group.is_none());
        own.map(|(filter, _)| filter.clone()).collect()
    }

    /// What the client of the last connection wished to be done at its end.
    pub(super) fn wishes(&self) -> Wishes {
        let state = self.lock();
        Wishes { will: state.will.clone(), expiry_s: state.expiry_s }
    }

    /// Puts back what a client wished before another one that was not let in.
    pub(super) fn put_back(&self, Wishes { will, expiry_s }: Wishes) {
        let mut state = self.lock();
        state.will = will;
        state.expiry_s = expiry_s;
    }

    /// Whether its time without a connection is over.
    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        let state = self.lock();
        let kept_ms = u64::from(state.expiry_s) * 1_000;
        let over = state.left_ms.is_some_and(|left| now_ms >= left.saturating_add(kept_ms));
        state.handle.is_none() && state.expiry_s != FOREVER && over
    }

    /// Its will that is due at that time, as the store knows it, if it is on disk.
    pub(super) fn stored_will(&self, due_at: Option<u64>) -> Option<WillRef> {
        Some(WillRef { queue: self.queue.stored()?, due_at })
    }

    /// Whether it was a token with which its client logged in last.
    pub(super) fn came_by_token(&self) -> bool {
        self.lock().caller.as_ref().is_some_and(|caller| caller.by_token().is_some())
    }

    /// Whether it outlives its connection, or has done so.
    pub(super) fn is_kept(&self) -> bool {
        self.lock().expiry_s > 0
    }

    /// Since when it has no connection, in Unix milliseconds.
    pub(super) fn left_ms(&self) -> Option<u64> {
        let state = self.lock();
        if state.handle.is_none() { state.left_ms } else { None }
    }

    /// Which of its user's devices it is.
    pub(crate) fn device(&self) -> Option<Arc<str>> {
        self.user.as_deref().map(|user| device_of(user, &self.client).into())
    }

    pub(super) fn handle(&self) -> Option<Arc<ConnectionHandle>> {
        self.lock().handle.clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
