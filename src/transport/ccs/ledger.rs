//! Which message is where: taken from the bridge, in flight on a connection, or waiting for one. Pure.
//!
//! Every message keeps the place in the order in which it was taken until it is settled, so what comes back from a
//! connection that ended goes out again before anything newer. A recipient's messages are in flight on one connection
//! at a time: while one of them is unanswered, the next go to that connection or wait. A draining connection takes
//! nothing, so they wait until it has answered, refused or closed; sent elsewhere they could overtake.

use super::encode::downstream;
use crate::chat::id::Sid;
use crate::chat::push::Target;
use crate::transport::Send;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Where the messages are.
#[derive(Debug)]
pub(super) struct Ledger {
    window: usize,
    connections: usize,
    taken: u64,
    pending: HashMap<Sid, Pending>,
    backlog: BTreeMap<u64, Sid>,
    recipients: HashMap<i64, Affinity>,
    links: BTreeMap<u64, Load>,
}

#[derive(Debug)]
struct Pending {
    send: Send,
    place: u64,
    copies: u32,
    /// How often it was written to a connection, taken or not.
    tries: u32,
    link: Option<u64>,
    /// The device has it already; only its answer is missing.
    received: bool,
}

/// Where a recipient's messages are in flight, and how many.
#[derive(Debug)]
struct Affinity {
    link: u64,
    in_flight: usize,
}

#[derive(Debug)]
struct Load {
    phase: LoadPhase,
    in_flight: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LoadPhase {
    Open,
    Draining,
}

/// A message as it is to be written to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// Which message.
    pub(super) sid: Sid,
    /// Its payload.
    pub(super) json: String,
}

/// A message that needs no more care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    /// Which message.
    pub(super) sid: Sid,
    /// How often it was written to a connection.
    pub(super) copies: u32,
    /// How often it was sent again at once.
    pub(super) replays: u32,
    /// Where it was to go.
    pub(super) target: Target,
}

/// What is to be done after a change.
#[derive(Debug, Default)]
pub(super) struct Dispatch {
    /// What goes to which connection, in order.
    pub(super) orders: Vec<(u64, Order)>,
    /// What is not worth sending any more.
    pub(super) expired: Vec<Settled>,
    /// How many of the orders were written to an earlier connection already.
    pub(super) resends: u64,
}

impl Ledger {
    /// A ledger for `connections` connections of `window` messages each.
    pub(super) fn new(window: usize, connections: usize) -> Self {
        Self {
            window,
            connections,
            taken: 0,
            pending: HashMap::new(),
            backlog: BTreeMap::new(),
            recipients: HashMap::new(),
            links: BTreeMap::new(),
        }
    }

    /// Whether another message may be taken from the bridge. What a draining connection has in flight does not count:
    /// the connection beside it would stand idle.
    pub(super) fn has_room(&self) -> bool {
        let draining = self.links.values().filter(|load| load.phase == LoadPhase::Draining);
        let draining: usize = draining.map(|load| load.in_flight).sum();
        self.pending.len() - draining < self.window * self.connections
    }

    /// While no connection takes messages, `more` are taken beyond the room, so that the time to live of all that the
    /// bridge has handed over is watched.
    pub(super) fn has_room_to_wait(&self, more: usize) -> bool {
        let open = self.links.values().any(|load| load.phase == LoadPhase::Open);
        !open && self.pending.len() < self.window * self.connections + more
    }

    /// How many messages are taken and not settled.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Takes a message; false if its id is known already.
    pub(super) fn accept(&mut self, send: Send) -> bool {
        let sid = send.sid;
        if self.pending.contains_key(&sid) {
            return false;
        }
        self.taken += 1;
        self.backlog.insert(self.taken, sid);
        self.pending.insert(sid, Pending { send, place: self.taken, copies: 0, tries: 0, link: None, received: false });
        true
    }

    /// A connection takes messages from now on.
    pub(super) fn open(&mut self, link: u64) {
        self.links.insert(link, Load { phase: LoadPhase::Open, in_flight: 0 });
    }

    /// A connection takes no new messages any more.
    pub(super) fn drain(&mut self, link: u64) {
        if let Some(load) = self.links.get_mut(&link) {
            load.phase = LoadPhase::Draining;
        }
    }

    /// A connection is gone: what is in flight on it waits for another one. `unwritten` never left.
    /// Returns what needs no other connection, because the device has it.
    pub(super) fn close(&mut self, link: u64, unwritten: &[Sid]) -> Vec<Settled> {
        for sid in unwritten {
            self.take_back_unwritten(*sid);
        }
        let in_flight = |pending: &Pending| pending.link == Some(link);
        let left: Vec<Sid> = self.pending.iter().filter(|(_, p)| in_flight(p)).map(|(sid, _)| *sid).collect();
        let mut settled = Vec::new();
        for sid in left {
            if self.pending.get(&sid).is_some_and(|pending| pending.received) {
                settled.extend(self.settle(sid));
            } else {
                self.requeue(sid);
            }
        }
        self.links.remove(&link);
        settled
    }

    /// A message was certainly not taken by the connection it was given to: it waits again, as if never sent.
    pub(super) fn take_back(&mut self, sid: Sid) {
        if let Some(pending) = self.pending.get_mut(&sid).filter(|pending| pending.link.is_some()) {
            pending.copies -= 1;
            self.requeue(sid);
        }
    }

    /// The same for one that was never written.
    pub(super) fn take_back_unwritten(&mut self, sid: Sid) {
        if let Some(pending) = self.pending.get_mut(&sid).filter(|pending| pending.link.is_some()) {
            pending.tries -= 1;
            self.take_back(sid);
        }
    }

    /// A message is answered.
    pub(super) fn settle(&mut self, sid: Sid) -> Option<Settled> {
        let pending = self.pending.remove(&sid)?;
        self.leave(pending.link, pending.send.recipient.number());
        self.backlog.remove(&pending.place);
        Some(settled(sid, pending))
    }

    /// A device has the message, so the push service took it, whatever became of its answer. If it waits to be sent
    /// again it is settled, and needs not be; if its answer is still to come, it is not sent again without it.
    pub(super) fn received(&mut self, sid: Sid) -> Option<Settled> {
        let pending = self.pending.get_mut(&sid).filter(|pending| pending.copies > 0)?;
        pending.received = true;
        if pending.link.is_none() { self.settle(sid) } else { None }
    }

    /// How often an unanswered message was written to a connection.
    pub(super) fn copies(&self, sid: Sid) -> u32 {
        self.pending.get(&sid).map_or(0, |pending| pending.copies)
    }

    /// Gives what waits to the connections that have room, oldest first.
    pub(super) fn dispatch(&mut self, now_ms: u64) -> Dispatch {
        let mut dispatch = Dispatch::default();
        let mut held: HashSet<i64> = HashSet::new();
        let mut next = 0;
        while let Some((&place, &sid)) = self.backlog.range(next..).next() {
            if self.free() == 0 {
                break;
            }
            next = place + 1;
            let Some(pending) = self.pending.get(&sid) else { continue };
            if pending.send.deadline_ms < now_ms {
                dispatch.expired.extend(self.settle(sid));
                continue;
            }
            let recipient = pending.send.recipient.number();
            match self.route(recipient).filter(|_| !held.contains(&recipient)) {
                Some(link) => {
                    dispatch.resends += u64::from(pending.copies > 0);
                    dispatch.orders.push((link, self.give(place, sid, link, now_ms)));
                }
                None => {
                    held.insert(recipient);
                }
            }
        }
        dispatch
    }

    /// Takes out what waits and is not worth sending any more.
    pub(super) fn expire(&mut self, now_ms: u64) -> Vec<Settled> {
        let late = |sid: &&Sid| self.pending.get(sid).is_some_and(|pending| pending.send.deadline_ms < now_ms);
        let late: Vec<Sid> = self.backlog.values().filter(late).copied().collect();
        late.into_iter().filter_map(|sid| self.settle(sid)).collect()
    }

    /// Everything that is not settled, oldest first.
    pub(super) fn into_unsettled(self) -> Vec<Settled> {
        let mut pending: Vec<(Sid, Pending)> = self.pending.into_iter().collect();
        pending.sort_unstable_by_key(|(_, pending)| pending.place);
        pending.into_iter().map(|(sid, pending)| settled(sid, pending)).collect()
    }

    fn free(&self) -> usize {
        let open = self.links.values().filter(|load| load.phase == LoadPhase::Open);
        open.map(|load| self.window.saturating_sub(load.in_flight)).sum()
    }

    /// The connection for a recipient: the one that holds him, else the one with most room.
    fn route(&self, recipient: i64) -> Option<u64> {
        let has_room = |load: &Load| load.phase == LoadPhase::Open && load.in_flight < self.window;
        match self.recipients.get(&recipient) {
            Some(affinity) => self.links.get(&affinity.link).filter(|load| has_room(load)).map(|_| affinity.link),
            None => {
                let open = self.links.iter().filter(|(_, load)| has_room(load));
                open.min_by_key(|(_, load)| load.in_flight).map(|(link, _)| *link)
            }
        }
    }

    fn give(&mut self, place: u64, sid: Sid, link: u64, now_ms: u64) -> Order {
        self.backlog.remove(&place);
        let pending = self.pending.get_mut(&sid).expect("what waits is pending");
        pending.copies += 1;
        pending.tries += 1;
        pending.link = Some(link);
        self.links.get_mut(&link).expect("a route leads to a known connection").in_flight += 1;
        let affinity =
            self.recipients.entry(pending.send.recipient.number()).or_insert(Affinity { link, in_flight: 0 });
        affinity.in_flight += 1;
        Order { sid, json: downstream(&pending.send, now_ms).to_json() }
    }

    fn requeue(&mut self, sid: Sid) {
        let Some(pending) = self.pending.get_mut(&sid) else { return };
        let (link, recipient) = (pending.link.take(), pending.send.recipient.number());
        self.backlog.insert(pending.place, sid);
        self.leave(link, recipient);
    }

    fn leave(&mut self, link: Option<u64>, recipient: i64) {
        let Some(link) = link else { return };
        if let Some(load) = self.links.get_mut(&link) {
            load.in_flight -= 1;
        }
        if let Some(affinity) = self.recipients.get_mut(&recipient) {
            affinity.in_flight -= 1;
            if affinity.in_flight == 0 {
                self.recipients.remove(&recipient);
            }
        }
    }
}

fn settled(sid: Sid, pending: Pending) -> Settled {
    let replays = pending.tries.saturating_sub(1);
    Settled { sid, copies: pending.copies, replays, target: pending.send.push.target }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
