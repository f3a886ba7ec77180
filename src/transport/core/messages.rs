//! Which message is where: waiting for a connection, or on one. Pure.
//!
//! Every message keeps the place in the order in which it was taken until it has its report, so what comes back from a
//! connection goes out again before anything newer. A recipient's messages are on one connection at a time: while one of
//! them is unanswered, the next go to that connection or wait. A draining connection takes nothing, so they wait until it
//! has answered, refused or ended; sent elsewhere they could overtake.

use super::isolation::Breaks;
use super::service::{Location, Message};
use crate::chat::id::{Recipient, Sid};
use crate::transport::{ConnectionId, Send};
use std::collections::{BTreeMap, HashMap};

/// The messages that were taken and have no report yet.
#[derive(Debug)]
pub(super) struct Messages<M> {
    taken: u64,
    sent: u64,
    pub(super) all: HashMap<Sid, Message<M>>,
    waiting: BTreeMap<u64, Sid>,
    /// Those that are sent alone, by their places.
    isolated: BTreeMap<u64, Sid>,
    recipients: HashMap<Recipient, Affinity>,
}

/// Where a recipient's messages are, and how many.
#[derive(Debug)]
struct Affinity {
    connection: ConnectionId,
    in_flight: usize,
}

impl<M: Default> Messages<M> {
    pub(super) fn new() -> Self {
        Self {
            taken: 0,
            sent: 0,
            all: HashMap::new(),
            waiting: BTreeMap::new(),
            isolated: BTreeMap::new(),
            recipients: HashMap::new(),
        }
    }

    /// Takes a message; false if its id is known already.
    pub(super) fn take(&mut self, send: Send) -> bool {
        let sid = send.sid;
        if self.all.contains_key(&sid) {
            return false;
        }
        self.taken += 1;
        self.waiting.insert(self.taken, sid);
        let message = Message {
            send,
            copies: 0,
            tries: 0,
            memo: M::default(),
            seq: self.taken,
            location: Location::Waiting,
            refused_by: None,
            ignored: 0,
            breaks: Breaks::default(),
            had_time: false,
            received: false,
        };
        self.all.insert(sid, message);
        true
    }

    /// The oldest that waits, from a place on.
    pub(super) fn next_waiting(&self, from: u64) -> Option<(u64, Sid)> {
        self.waiting.range(from..).next().map(|(seq, sid)| (*seq, *sid))
    }

    /// Those that wait and for which `wanted` holds, oldest first.
    pub(super) fn waiting_where(&self, wanted: impl Fn(&Message<M>) -> bool) -> Vec<Sid> {
        self.waiting.values().copied().filter(|sid| self.all.get(sid).is_some_and(&wanted)).collect()
    }

    pub(super) fn connection_of(&self, recipient: Recipient) -> Option<ConnectionId> {
        self.recipients.get(&recipient).map(|affinity| affinity.connection)
    }

    /// The place of each recipient's newest message that may have been taken.
    pub(super) fn newest_tried(&self) -> HashMap<Recipient, u64> {
        let mut newest = HashMap::new();
        for message in self.all.values().filter(|message| message.copies > 0) {
            let seq: &mut u64 = newest.entry(message.recipient()).or_default();
            *seq = message.seq.max(*seq);
        }
        newest
    }

    /// A message is sent alone from now on.
    pub(super) fn isolate(&mut self, sid: Sid) {
        if let Some(message) = self.all.get(&sid) {
            self.isolated.insert(message.seq, sid);
        }
    }

    /// Those that are sent alone, oldest first.
    pub(super) fn isolated(&self) -> impl Iterator<Item = Sid> {
        self.isolated.values().copied()
    }

    /// Whether an older one of its recipient waits.
    pub(super) fn is_behind_another(&self, message: &Message<M>) -> bool {
        let same = |sid: &Sid| self.all.get(sid).is_some_and(|older| older.recipient() == message.recipient());
        self.waiting.range(..message.seq).any(|(_, sid)| same(sid))
    }

    /// A message is written to a connection. Returns its number there.
    pub(super) fn assign(&mut self, sid: Sid, connection: ConnectionId) -> Option<u64> {
        let message = self.all.get_mut(&sid)?;
        self.sent += 1;
        message.copies += 1;
        message.tries += 1;
        message.location = Location::InFlight { connection, number: self.sent };
        self.waiting.remove(&message.seq);
        let affinity = Affinity { connection, in_flight: 0 };
        self.recipients.entry(message.recipient()).or_insert(affinity).in_flight += 1;
        Some(self.sent)
    }

    /// A message that was on a connection waits again, in its place.
    pub(super) fn requeue(&mut self, sid: Sid) {
        let Some(message) = self.all.get_mut(&sid).filter(|message| message.location != Location::Waiting) else {
            return;
        };
        message.location = Location::Waiting;
        self.waiting.insert(message.seq, sid);
        let recipient = message.recipient();
        self.leave(recipient);
    }

    /// A message has its report.
    pub(super) fn remove(&mut self, sid: Sid) -> Option<Message<M>> {
        let message = self.all.remove(&sid)?;
        self.isolated.remove(&message.seq);
        match message.location {
            Location::Waiting => {
                self.waiting.remove(&message.seq);
            }
            Location::InFlight { .. } => self.leave(message.recipient()),
        }
        Some(message)
    }

    /// Everything with its copies, oldest first.
    pub(super) fn oldest_first(&self) -> Vec<(Sid, u32)> {
        let mut all: Vec<&Message<M>> = self.all.values().collect();
        all.sort_unstable_by_key(|message| message.seq);
        all.into_iter().map(|message| (message.send.sid, message.copies)).collect()
    }

    fn leave(&mut self, recipient: Recipient) {
        if let Some(affinity) = self.recipients.get_mut(&recipient) {
            affinity.in_flight -= 1;
            if affinity.in_flight == 0 {
                self.recipients.remove(&recipient);
            }
        }
    }
}
