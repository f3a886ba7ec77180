//! The bridge's publications that nobody has confirmed yet, and the sessions they went to.
//!
//! # Why our own hands deliver them
//!
//! The engine's router tells nobody where a message went, and picks the member of a shared subscription in secret. So a
//! publication of the bridge at QoS 1 does not take that way: the [`Ledger`] knows who subscribes to what, puts a copy
//! into the engine's queue of each session itself, and knows from then on who has to answer. The gate sees the copy
//! leave (by the [`mark`] of topic and payload: nothing else of ours survives the way through the engine to a 3.1.1
//! client), notes its packet identifier, and sees the PUBACK.
//!
//! # What happens when a subscriber goes
//!
//! The bridge's store is the only durable queue. A publication whose last connected holder goes is answered
//! [`Outcome::Lost`], and the engine is made to [`Forget`] the copies that it keeps for sessions that may come back,
//! under the engine's lock of that session: the bridge publishes it again, marked, and a copy from the engine would be
//! a second, unmarked one. Rejected: to leave it to the engine to redeliver with DUP. Then a message would hang on one
//! absent member of a shared subscription while others are there, or on a session that never comes back; and the bridge
//! could not withdraw it.
//!
//! When a new connection takes the session over, nothing is lost: the engine hands the copies to it, in order and with
//! DUP, and the gate of the new connection sees them.
//!
//! A copy that the engine drops (expired, or the queue of a client is full) shows when a later one leaves: copies go
//! out in the order in which they were queued.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mqtt5::WillMessage;
use mqtt5::broker::storage::QueueHandle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::oneshot;
use tracing::warn;

use super::link::{Link, Start};
use super::sessions::{Delivery, Handed, Reader, Sessions};
use crate::mqtt::barrier::Barrier;
use crate::mqtt::{Outbound, Outcome};

/// What tells one publication from others on its way through the engine. Equal ones are told apart by their order.
pub(super) fn mark(topic: &[u8], payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    topic.hash(&mut hasher);
    payload.hash(&mut hasher);
    hasher.finish()
}

/// Copies that the engine must not deliver any more: the marks, by client.
pub(super) type Forget = HashMap<Arc<str>, Vec<u64>>;

/// What counts as a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The acknowledgement of a subscriber.
    Ack,
    /// All subscribers have QoS 0: that it is on the socket.
    Write,
}

/// Who is connected, who reads what, and what is not confirmed.
///
/// A lock because gates, events and the publishing task all need it, the gates while they are polled. It is held for a
/// few map operations and never across an await.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sessions: Sessions,
    open: HashMap<u64, Open>,
    /// Topics on which something failed; what follows there must not overtake it.
    barrier: Barrier,
    /// The number of the last publication.
    last: u64,
}

/// A publication that is not confirmed.
#[derive(Debug)]
struct Open {
    topic: String,
    outcome: oneshot::Sender<Outcome>,
    proof: Proof,
    /// The sessions that have a copy.
    holders: HashSet<Arc<str>>,
    /// Its part of the limit on unconfirmed publications.
    _room: OwnedSemaphorePermit,
}

impl Ledger {
    /// Delivers a publication at QoS 1 that is not retained.
    pub(super) fn publish(&self, message: Outbound, room: OwnedSemaphorePermit) {
        // The copies are handed out under the lock: a disconnect comes either before them or after them.
        let mut state = self.lock();
        if !state.barrier.admits(&message.topic, message.resume) {
            let _ = message.outcome.send(Outcome::Unsent);
            return;
        }
        let copies = state.sessions.copies_of(&message.topic);
        let (here, away): (Vec<_>, Vec<_>) =
            copies.into_iter().partition(|copy| state.sessions.is_connected(&copy.client));
        state.last += 1;
        let id = state.last;
        let connected = state.hand_out(&here, id, &message);
        if connected.holders.is_empty() && connected.too_big == 0 {
            state.barrier.broke(&message.topic);
            let _ = message.outcome.send(Outcome::NoReader);
            return;
        }
        let wants_ack = |copy: &Delivery| copy.wants_ack() && connected.holders.contains(&copy.client);
        let proof = if here.iter().any(wants_ack) { Proof::Ack } else { Proof::Write };
        let nobody_can = connected.holders.is_empty();
        let mut holders = connected.holders;
        holders.extend(state.hand_out(&away, id, &message).holders);
        let bytes = message.payload.len();
        let open = Open { topic: message.topic, outcome: message.outcome, proof, holders, _room: room };
        state.open.insert(id, open);
        if nobody_can {
            // As if the sending was complete: MQTT 5, 3.1.2.11.4. Published again it would be too big again.
            warn!(bytes, "publication is bigger than what its readers take");
            state.settle(id, Outcome::Confirmed);
        }
    }

    /// A copy leaves for `client`: which publication it is, if one of ours. `after` is the last one seen to leave on
    /// that connection.
    pub(super) fn sent(&self, client: &str, after: u64, mark: impl FnOnce() -> u64) -> Option<u64> {
        let mut state = self.lock();
        let (id, overtaken) = state.sessions.get(client)?.find(after, mark)?;
        for dropped in overtaken {
            state.give_up(dropped, client);
        }
        Some(id)
    }

    /// A copy at QoS 0 is on the socket of `client`, from which nothing more will be heard about it.
    pub(super) fn wrote(&self, client: &str, id: u64) {
        let mut state = self.lock();
        match state.open.get(&id).map(|open| open.proof) {
            Some(Proof::Write) => drop(state.settle(id, Outcome::Confirmed)),
            Some(Proof::Ack) => state.give_up(id, client),
            None => {}
        }
    }

    /// A subscriber has it.
    pub(super) fn confirm(&self, id: u64) {
        // The copies of sessions that are away stay with the engine: they are theirs.
        drop(self.lock().settle(id, Outcome::Confirmed));
    }

    /// A client has connected. `queue` is the engine's queue of its session.
    pub(super) fn attach(&self, client: &Arc<str>, link: &Arc<Link>, start: Start, queue: QueueHandle) -> Forget {
        let mut state = self.lock();
        let forget = match start {
            Start::Fresh => state.end(client),
            Start::Resumed => Forget::new(),
        };
        state.sessions.attach(client, link, queue);
        forget
    }

    /// The subscriptions of a client are now these.
    pub(super) fn subscribe(&self, client: &str, readers: Vec<Reader>) {
        self.lock().sessions.subscribe(client, readers);
    }

    /// The will that the engine publishes some time after the connection of `client` broke.
    pub(super) fn set_delayed_will(&self, client: &str, will: Option<WillMessage>) {
        if let Some(session) = self.lock().sessions.get_mut(client) {
            session.set_delayed_will(will);
        }
    }

    pub(super) fn take_delayed_will(&self, client: &str) -> Option<WillMessage> {
        self.lock().sessions.get_mut(client)?.take_delayed_will()
    }

    /// A connection has ended. Does nothing if another one has taken over the session.
    pub(super) fn detach(&self, client: &str, link: &Arc<Link>, rest: Rest) -> Forget {
        let mut state = self.lock();
        if !state.sessions.get(client).is_some_and(|session| session.is_served_by(link)) {
            return Forget::new();
        }
        state.leave(client, rest)
    }

    /// The session of a client has expired, or its connection has vanished without an event.
    pub(super) fn abandon(&self, client: &str, rest: Rest) -> Forget {
        self.lock().leave(client, rest)
    }

    /// Sessions that have no living connection: those that are away, and those whose connection vanished.
    pub(super) fn unattended(&self) -> Vec<Arc<str>> {
        self.lock().sessions.unattended()
    }

    /// Whether there is a session of this client, and how many sessions there are.
    pub(super) fn census(&self, client: &str) -> (bool, usize) {
        let state = self.lock();
        (state.sessions.get(client).is_some(), state.sessions.len())
    }

    /// How many sessions have a connection.
    pub(super) fn connected(&self) -> usize {
        self.lock().sessions.connected()
    }

    /// Answers everything that is open: the broker stops.
    pub(super) fn close(&self) {
        for (_, open) in self.lock().open.drain() {
            let _ = open.outcome.send(Outcome::Lost);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left of a session whose connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It may come back.
    Away,
    /// Nothing.
    Ended,
}

/// Who got a copy.
#[derive(Debug, Default)]
struct HandedOut {
    holders: HashSet<Arc<str>>,
    /// How many take no packet of that size.
    too_big: usize,
}

impl State {
    fn hand_out(&mut self, copies: &[Delivery], id: u64, message: &Outbound) -> HandedOut {
        let mark = mark(message.topic.as_bytes(), &message.payload);
        let mut out = HandedOut::default();
        for copy in copies {
            match self.sessions.hand(copy, id, mark, message) {
                Handed::Queued => drop(out.holders.insert(copy.client.clone())),
                Handed::TooBig => out.too_big += 1,
                // Its end is about to be told.
                Handed::Gone => {}
            }
        }
        out
    }

    fn leave(&mut self, client: &str, rest: Rest) -> Forget {
        match rest {
            Rest::Ended => self.end(client),
            Rest::Away => {
                let held = self.sessions.away(client);
                self.lose(&held)
            }
        }
    }

    fn end(&mut self, client: &str) -> Forget {
        let held = self.sessions.remove(client);
        for id in &held {
            self.release(*id, client);
        }
        self.lose(&held)
    }

    /// `client` has no copy of it any more.
    fn release(&mut self, id: u64, client: &str) {
        if let Some(open) = self.open.get_mut(&id) {
            open.holders.remove(client);
        }
        if let Some(session) = self.sessions.get_mut(client) {
            session.drop_copy(id);
        }
    }

    /// As [`Self::release`], while the gate is polled: no time to make the engine forget. Should a session that is away
    /// have a copy too, it will get that one and the one published again, under the same application id.
    fn give_up(&mut self, id: u64, client: &str) {
        self.release(id, client);
        self.lose(&[id]);
    }

    /// Answers those of `ids` that no connected session holds.
    fn lose(&mut self, ids: &[u64]) -> Forget {
        let mut forget = Forget::new();
        for id in ids {
            let held = |open: &Open| open.holders.iter().any(|holder| self.sessions.is_connected(holder));
            if self.open.get(id).is_some_and(|open| !held(open)) {
                for (client, mark) in self.settle(*id, Outcome::Lost) {
                    forget.entry(client).or_default().push(mark);
                }
            }
        }
        forget
    }

    /// Answers a publication. Yields the copies that sessions which are away have of it.
    fn settle(&mut self, id: u64, outcome: Outcome) -> Vec<(Arc<str>, u64)> {
        let Some(open) = self.open.remove(&id) else {
            return Vec::new();
        };
        if outcome != Outcome::Confirmed {
            self.barrier.broke(&open.topic);
        }
        let _ = open.outcome.send(outcome);
        let mut left = Vec::new();
        for holder in open.holders {
            let marks = self.sessions.get_mut(&holder).map(|session| session.drop_copy(id)).unwrap_or_default();
            left.extend(marks.into_iter().map(|mark| (holder.clone(), mark)));
        }
        left
    }
}

#[cfg(test)]
mod tests;
