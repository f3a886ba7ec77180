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
//! ```text
//!             a copy leaves          a reader acknowledges           other copies are on disk
//!  Queued ───────────────────▶ Sent ───────────────────────▶ Safe ─────────────────────────▶ Confirmed
//!     │                         │ ▲
//!     │ the last connected      │ │ it comes back: the engine sends it again, with DUP
//!     │ holder goes             ▼ │
//!     └──▶ Unsent             parked ──▶ Lost: another reader came, the session ended, or too many are parked
//! ```
//!
//! A publication of which no copy had left is given back to the bridge, whose store is the durable queue. One that was
//! sent and not acknowledged waits with the session it was sent to, and the engine sends it again when the client comes
//! back, as MQTT wants it (4.4): same packet identifier, DUP, in order. It does not wait for ever: as soon as another
//! reader of the topic is there, or the session ends, or more than a limit are parked, it is answered
//! [`Outcome::Lost`], and the engine is made to [`Forget`] the copies, under its lock of the session: the bridge
//! publishes it again, marked, and a copy from the engine would be a second, unmarked one. Rejected: to leave them with
//! the session whatever happens. Then messages would hang on one absent member of a shared subscription while others are
//! there, or on a session that never comes back.
//!
//! When a new connection takes the session over, nothing is lost: the engine hands the copies to it, in order and with
//! DUP, and the gate of the new connection sees them.
//!
//! A copy that the engine drops (expired, or the queue of a client is full) shows when a later one leaves: copies go
//! out in the order in which they were queued.
//!
//! # What happens at a stop
//!
//! What is parked stays with the engine, in its files, and is answered [`Outcome::Kept`]; the next run [adopts]
//! it. After a crash those files hold an arbitrary part of it, out of which no order can be made: they are cleaned of
//! everything that the bridge will publish again.
//!
//! A publication that one reader has confirmed is settled only when the copies of others, which only the engine will
//! have from then on, are in its files.
//!
//! [adopts]: Ledger::adopt

mod state;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mqtt5::broker::storage::QueueHandle;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tracing::warn;

use super::link::{Link, Start};
use super::parked::ParkedLimits;
use super::readers::{Delivery, Reader};
use super::sessions::{Lasting, Readers, Sent};
use super::wills::DelayedWill;
use crate::chat::access::Rights;
use crate::mqtt::{Former, MarkCopy, Outbound, Outcome};
use state::{Open, Progress, Proof, State};

/// What tells one publication from others on its way through the engine. Equal ones are told apart by their order.
pub(super) fn mark(topic: &[u8], payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    topic.hash(&mut hasher);
    payload.hash(&mut hasher);
    hasher.finish()
}

/// Copies that the engine must not deliver any more: the marks, by client.
pub(super) type Forget = HashMap<Arc<str>, Vec<u64>>;

/// What becomes of publications whose readers are away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keeping {
    /// Whether the engine's files outlive the process.
    pub(super) durable: bool,
    /// How much may wait for sessions without a connection.
    pub(super) parked: ParkedLimits,
    /// How copies are marked that a crash left, of which nobody knows whether they were acknowledged.
    pub(super) mark_copy: Option<MarkCopy>,
}

/// Who is connected, who reads what, and what is not confirmed.
///
/// A lock because gates, events and the publishing task all need it, the gates while they are polled. It is held for a
/// few map operations and never across an await.
#[derive(Debug)]
pub(super) struct Ledger {
    state: Mutex<State>,
    /// Something is safe, and copies for others have to be written.
    unwritten: Notify,
    keeping: Keeping,
}

/// A copy that leaves for a client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    /// The publication; none if an earlier run left it.
    pub(super) id: Option<u64>,
    /// How it is to be marked.
    pub(super) mark_copy: Option<MarkCopy>,
}

impl Ledger {
    pub(super) fn new(keeping: Keeping) -> Self {
        Self { state: Mutex::new(State::new(keeping.parked)), unwritten: Notify::new(), keeping }
    }

    /// Delivers a publication at QoS 1 that is not retained.
    pub(super) fn publish(&self, message: Outbound, room: OwnedSemaphorePermit) {
        // The copies are handed out under the lock: a disconnect comes either before them or after them.
        let mut state = self.lock();
        if !state.barrier.admits(&message.topic, message.resume) {
            let _ = message.outcome.send(Outcome::Unsent);
            return;
        }
        let copies = state.sessions.copies_of(&message.topic);
        let readers = if copies.len() > 1 { Readers::Several } else { Readers::One };
        let (here, away): (Vec<_>, Vec<_>) =
            copies.into_iter().partition(|copy| state.sessions.is_connected(&copy.client));
        state.last += 1;
        let id = state.last;
        let connected = state.hand_out(&here, id, &message, readers);
        if connected.holders.is_empty() && connected.too_big == 0 {
            state.barrier.broke(&message.topic);
            let _ = message.outcome.send(Outcome::NoReader);
            return;
        }
        let wants_ack = |copy: &Delivery| copy.wants_ack() && connected.holders.contains(&copy.client);
        let proof = if here.iter().any(wants_ack) { Proof::Ack } else { Proof::Write };
        let nobody_can = connected.holders.is_empty();
        let mut holders = connected.holders;
        holders.extend(state.hand_out(&away, id, &message, readers).holders);
        let bytes = message.payload.len();
        let Outbound { topic, outcome, mark_copy, .. } = message;
        let open = Open { topic, outcome, proof, progress: Progress::Queued, mark_copy, holders, _room: room };
        state.open.insert(id, open);
        if nobody_can {
            // As if the sending was complete: MQTT 5, 3.1.2.11.4. Published again it would be too big again.
            warn!(bytes, "publication is bigger than what its readers take");
            state.settle(id, Outcome::Confirmed);
        }
    }

    /// A copy leaves for `client`: which publication it is, if one of ours. `after` is the last one seen to leave on
    /// that connection.
    pub(super) fn sent(&self, client: &str, after: u64, mark: impl FnOnce() -> u64) -> Option<Leaving> {
        let mut state = self.lock();
        let Sent { id, before, overtaken } = state.sessions.get_mut(client)?.send(after, mark)?;
        for dropped in overtaken {
            state.give_up(dropped, client);
        }
        let Some(id) = id else {
            return Some(Leaving { id, mark_copy: self.keeping.mark_copy });
        };
        let open = state.open.get_mut(&id)?;
        if open.progress == Progress::Queued {
            open.progress = Progress::Sent;
        }
        Some(Leaving { id: Some(id), mark_copy: open.mark_copy.filter(|_| before) })
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

    /// The copy of `client` was taken back: it may not read the topic any more.
    pub(super) fn withheld(&self, client: &str, id: u64) {
        self.lock().give_up(id, client);
    }

    /// A subscriber has it.
    pub(super) fn confirm(&self, client: &str, id: u64) {
        let mut state = self.lock();
        state.release(id, client);
        let State { open, sessions, safe, .. } = &mut *state;
        let Some(open) = open.get_mut(&id) else { return };
        if self.keeping.durable && open.holders.iter().any(|holder| sessions.lasts(holder)) {
            if open.progress != Progress::Safe {
                open.progress = Progress::Safe;
                safe.push(id);
                self.unwritten.notify_one();
            }
        } else {
            // The copies of sessions that are away stay with the engine: they are theirs.
            drop(state.settle(id, Outcome::Confirmed));
        }
    }

    /// Waits until copies have to be written before something can be settled. Yields what is to be [settled](
    /// Self::written) once everything that the engine has now is in its files.
    pub(super) async fn unwritten(&self) -> Vec<u64> {
        loop {
            let safe = std::mem::take(&mut self.lock().safe);
            if !safe.is_empty() {
                return safe;
            }
            self.unwritten.notified().await;
        }
    }

    /// The copies of these are in the engine's files.
    pub(super) fn written(&self, ids: &[u64]) {
        let mut state = self.lock();
        for id in ids {
            drop(state.settle(*id, Outcome::Confirmed));
        }
    }

    /// A client has connected. `queue` is the engine's queue of its session.
    pub(super) fn attach(&self, client: &Arc<str>, link: &Arc<Link>, start: Start, queue: QueueHandle) -> Forget {
        let mut state = self.lock();
        let forget = match start {
            Start::Fresh => state.end(client),
            Start::Resumed => Forget::new(),
        };
        state.sessions.attach(client, link, queue);
        for id in state.sessions.copies_with(client) {
            state.parked.remove(id);
        }
        forget
    }

    /// The session of a client is now this.
    pub(super) fn subscribe(&self, client: &str, readers: Vec<Reader>, lasting: Lasting) -> Forget {
        let mut state = self.lock();
        state.sessions.subscribe(client, readers, lasting);
        state.unpark_for(client)
    }

    /// A session of an earlier run. `left` are the marks of what the engine has for it.
    pub(super) fn restore(&self, client: &Arc<str>, rights: Rights, queue: QueueHandle, left: Vec<u64>) {
        self.lock().sessions.restore(client, rights, queue, left);
    }

    /// Takes over what an earlier run left with sessions; what none has is answered [`Outcome::Lost`].
    pub(super) fn adopt(&self, former: Former, room: Option<OwnedSemaphorePermit>) {
        let mut state = self.lock();
        let Former { topic, payloads, outcome } = former;
        let marks: Vec<u64> = payloads.iter().map(|payload| mark(topic.as_bytes(), payload)).collect();
        let id = state.last + 1;
        let holders = state.sessions.adopt(id, &marks);
        let (Some(room), false) = (room, holders.is_empty()) else {
            state.barrier.broke(&topic);
            let _ = outcome.send(Outcome::Lost);
            return;
        };
        state.last = id;
        state.parked.insert(id, &topic);
        // After an orderly stop the protocol's own DUP says enough: what comes is what was missed.
        let (proof, progress, mark_copy) = (Proof::Ack, Progress::Sent, None);
        let open = Open { topic, outcome, proof, progress, mark_copy, holders, _room: room };
        state.open.insert(id, open);
    }

    /// What a crash left with a session.
    pub(super) fn doubt(&self, client: &str, left: Vec<u64>) {
        if let Some(session) = self.lock().sessions.get_mut(client) {
            session.set_left(left);
        }
    }

    /// After an orderly stop, what was not asked for is the engine's own affair: it was not confirmed and has its DUP.
    pub(super) fn adopted(&self) {
        self.lock().sessions.forget_left();
    }

    /// Keeps what the engine publishes some time after the connection of `client` broke.
    pub(super) fn set_delayed_will(&self, client: &str, will: Option<DelayedWill>) {
        if let Some(session) = self.lock().sessions.get_mut(client) {
            session.set_delayed_will(will);
        }
    }

    /// The connection that serves a session.
    pub(super) fn link_of(&self, client: &str) -> Option<Arc<Link>> {
        self.lock().sessions.get(client)?.link()
    }

    pub(super) fn take_delayed_will(&self, client: &str) -> Option<DelayedWill> {
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

    /// The broker stops, and no connection is left. Yields the answers to everything that is open, to be given once the
    /// engine has forgotten what is to be forgotten and everything else is in its files.
    pub(super) fn close(&self) -> (Vec<Farewell>, Forget) {
        let mut state = self.lock();
        let (mut answers, mut forget) = (Vec::new(), Forget::new());
        let ids: Vec<u64> = state.open.keys().copied().collect();
        for id in ids {
            let Some(open) = state.open.get(&id) else { continue };
            let stays = |holder: &Arc<str>| state.sessions.may_return_for(holder, id) && state.sessions.lasts(holder);
            let outcome = match open.progress {
                Progress::Safe => Outcome::Confirmed,
                Progress::Sent if self.keeping.durable && open.holders.iter().any(stays) => Outcome::Kept,
                Progress::Sent => Outcome::Lost,
                Progress::Queued => Outcome::Unsent,
            };
            let Some((open, left)) = state.close(id) else { continue };
            answers.push((open.outcome, outcome));
            if matches!(outcome, Outcome::Lost | Outcome::Unsent) {
                for (client, mark) in left {
                    forget.entry(client).or_default().push(mark);
                }
            }
        }
        (answers, forget)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer that is still to be given.
pub(super) type Farewell = (oneshot::Sender<Outcome>, Outcome);

/// What is left of a session whose connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It may come back.
    Away,
    /// Nothing.
    Ended,
}

#[cfg(test)]
mod tests;
