//! The ledger's books, and what happens in them. Everything here is called under the ledger's lock.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Forget, Rest, mark};
use crate::broker::parked::{Parked, ParkedLimits};
use crate::broker::readers::Delivery;
use crate::broker::sessions::{Handed, Marks, Readers, Sessions};
use crate::mqtt::barrier::Barrier;
use crate::mqtt::{MarkCopy, Outbound, Outcome};

/// A copy in the engine's queue of a client, and its mark.
pub(super) type Copy = (Arc<str>, u64);

/// What counts as a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The acknowledgement of a subscriber.
    Ack,
    /// All subscribers have QoS 0: that it is on the socket.
    Write,
}

/// How far a publication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// No copy has left.
    Queued,
    /// A copy has left for a client.
    Sent,
    /// A reader has it. Copies for others are on their way to the engine's files.
    Safe,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) sessions: Sessions,
    pub(super) open: HashMap<u64, Open>,
    /// Those that wait for sessions without a connection.
    pub(super) parked: Parked,
    /// Those that are safe.
    pub(super) safe: Vec<u64>,
    /// Topics on which something failed; what follows there must not overtake it.
    pub(super) barrier: Barrier,
    /// The number of the last publication.
    pub(super) last: u64,
}

/// A publication that is not confirmed.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) topic: String,
    pub(super) outcome: oneshot::Sender<Outcome>,
    pub(super) proof: Proof,
    pub(super) progress: Progress,
    /// How a copy is marked that leaves once more for the same client.
    pub(super) mark_copy: Option<MarkCopy>,
    /// The sessions that have a copy.
    pub(super) holders: HashSet<Arc<str>>,
    /// Its part of the limit on unconfirmed publications.
    pub(super) _room: OwnedSemaphorePermit,
}

/// Who got a copy.
#[derive(Debug, Default)]
pub(super) struct HandedOut {
    pub(super) holders: HashSet<Arc<str>>,
    /// How many take no packet of that size.
    pub(super) too_big: usize,
}

impl State {
    pub(super) fn new(parked: ParkedLimits) -> Self {
        Self {
            sessions: Sessions::default(),
            open: HashMap::new(),
            parked: Parked::new(parked),
            safe: Vec::new(),
            barrier: Barrier::default(),
            last: 0,
        }
    }

    pub(super) fn hand_out(&mut self, copies: &[Delivery], id: u64, message: &Outbound, readers: Readers) -> HandedOut {
        let marks = Marks { mark: mark(message.topic.as_bytes(), &message.payload), readers };
        let mut out = HandedOut::default();
        for copy in copies {
            match self.sessions.hand(copy, id, message, marks) {
                Handed::Queued => drop(out.holders.insert(copy.client.clone())),
                Handed::TooBig => out.too_big += 1,
                // Its end is about to be told.
                Handed::Gone => {}
            }
        }
        out
    }

    pub(super) fn leave(&mut self, client: &str, rest: Rest) -> Forget {
        match rest {
            Rest::Ended => self.end(client),
            Rest::Away => {
                let (kept, dropped) = self.sessions.away(client);
                for id in &dropped {
                    self.release(*id, client);
                }
                self.reconsider(&[kept, dropped].concat(), Some(client))
            }
        }
    }

    pub(super) fn end(&mut self, client: &str) -> Forget {
        let held = self.sessions.remove(client);
        for id in &held {
            self.release(*id, client);
        }
        self.reconsider(&held, None)
    }

    /// `client` has no copy of it any more.
    pub(super) fn release(&mut self, id: u64, client: &str) {
        if let Some(open) = self.open.get_mut(&id) {
            open.holders.remove(client);
        }
        if let Some(session) = self.sessions.get_mut(client) {
            session.drop_copy(id);
        }
    }

    /// As [`Self::release`], while the gate is polled: no time to make the engine forget. Should a session that is away
    /// have a copy too, it will get that one and the one published again, which is marked.
    pub(super) fn give_up(&mut self, id: u64, client: &str) {
        self.release(id, client);
        drop(self.reconsider(&[id], None));
    }

    /// A holder of `ids` has gone: what no connected session holds is parked or taken back. `locked` is the session
    /// that cannot come back before the caller has made the engine forget.
    pub(super) fn reconsider(&mut self, ids: &[u64], locked: Option<&str>) -> Forget {
        let mut forget = Forget::new();
        for &id in ids {
            let Some(open) = self.open.get(&id) else { continue };
            if open.progress == Progress::Safe || open.holders.iter().any(|holder| self.sessions.is_connected(holder)) {
                continue;
            }
            let may_wait = open.holders.iter().any(|holder| self.sessions.may_return_for(holder, id));
            if may_wait && !self.sessions.has_reader_besides(&open.topic, &open.holders) {
                self.parked.insert(id, &open.topic);
            } else {
                self.take_back(id, &mut forget, locked);
            }
        }
        for id in self.parked.excess() {
            self.take_back(id, &mut forget, locked);
        }
        forget
    }

    /// A reader has come, or reads more than before: what waits for others on its topics is taken back for it.
    pub(super) fn unpark_for(&mut self, client: &str) -> Forget {
        let mut forget = Forget::new();
        for id in self.parked.read_by(self.sessions.filters_of(client)) {
            let waits_for_others =
                |open: &Open| !open.holders.contains(client) && self.sessions.may_read(client, &open.topic);
            if self.open.get(&id).is_some_and(waits_for_others) {
                self.take_back(id, &mut forget, None);
            }
        }
        forget
    }

    /// A copy that waits for a session other than `locked` counts as sent: it may come back, and get it, before the
    /// engine has forgotten it.
    pub(super) fn take_back(&mut self, id: u64, forget: &mut Forget, locked: Option<&str>) {
        let others = |open: &Open| open.holders.iter().any(|holder| Some(&**holder) != locked);
        let may_be_seen = self.open.get(&id).is_some_and(|open| open.progress == Progress::Sent || others(open));
        let outcome = if may_be_seen { Outcome::Lost } else { Outcome::Unsent };
        for (client, mark) in self.settle(id, outcome) {
            forget.entry(client).or_default().push(mark);
        }
    }

    /// Answers a publication. Yields the copies that sessions which are away have of it.
    pub(super) fn settle(&mut self, id: u64, outcome: Outcome) -> Vec<Copy> {
        let Some((open, left)) = self.close(id) else {
            return Vec::new();
        };
        if outcome != Outcome::Confirmed {
            self.barrier.broke(&open.topic);
        }
        let _ = open.outcome.send(outcome);
        left
    }

    pub(super) fn close(&mut self, id: u64) -> Option<(Open, Vec<Copy>)> {
        self.parked.remove(id);
        let open = self.open.remove(&id)?;
        let mut left = Vec::new();
        for holder in &open.holders {
            let marks = self.sessions.get_mut(holder).map(|session| session.drop_copy(id)).unwrap_or_default();
            left.extend(marks.into_iter().map(|mark| (holder.clone(), mark)));
        }
        Some((open, left))
    }
}
