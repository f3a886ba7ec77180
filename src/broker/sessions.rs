//! The sessions of the clients, as far as the bridge's publications need them: who is connected, who reads what, and
//! which copies each has.

mod copies;

pub(super) use copies::{Handed, Marks, Readers, is_for_several};

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};

use mqtt5::broker::storage::{ClientSession, QueueHandle};

use super::filters::Filters;
use super::link::Link;
use super::readers::Reader;
use super::wills::DelayedWill;
use crate::chat::access::Rights;

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    presence: Presence,
    link: Weak<Link>,
    queue: QueueHandle,
    /// The engine's generation of the queue: a message for an earlier one is not for this session.
    epoch: u64,
    /// The biggest packet that the client takes (MQTT 5).
    max_packet: Option<usize>,
    /// What its client may read: no copy of anything else is made for it.
    rights: Rights,
    readers: Vec<Reader>,
    lasting: Lasting,
    delayed_will: Option<DelayedWill>,
    /// Copies that are not confirmed, in the order in which they were queued.
    copies: VecDeque<Held>,
    /// Copies of an earlier run that were taken over. The engine sends them before all others.
    adopted: Vec<Held>,
    /// What else the engine has from an earlier run: marks, in the order in which it will send it. After a crash these
    /// copies may have been acknowledged already.
    left: Vec<u64>,
}

/// Whether a session outlives its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Lasting {
    /// It ends with the connection.
    #[default]
    Connection,
    /// For a while.
    Longer,
}

impl Lasting {
    pub(super) fn of(session: &ClientSession) -> Self {
        if session.expiry_interval == Some(0) { Self::Connection } else { Self::Longer }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Connected,
    Away,
}

#[derive(Debug)]
struct Held {
    id: u64,
    mark: u64,
    /// At QoS 0 the engine does not keep it when the connection ends.
    wants_ack: bool,
    /// It has left for the client.
    sent: bool,
}

impl Session {
    fn new(presence: Presence, link: Weak<Link>, queue: QueueHandle) -> Self {
        Self {
            presence,
            link,
            epoch: queue.epoch(),
            queue,
            max_packet: None,
            rights: Rights::Nobody,
            readers: Vec::new(),
            lasting: Lasting::default(),
            delayed_will: None,
            copies: VecDeque::new(),
            adopted: Vec::new(),
            left: Vec::new(),
        }
    }

    /// The connection that serves it, if there is one.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.upgrade()
    }

    pub(super) fn is_served_by(&self, link: &Arc<Link>) -> bool {
        std::ptr::eq(self.link.as_ptr(), Arc::as_ptr(link))
    }

    /// The first copy after `after` with this mark leaves.
    pub(super) fn send(&mut self, after: u64, mark: impl FnOnce() -> u64) -> Option<Sent> {
        let start = self.copies.partition_point(|copy| copy.id <= after);
        if start == self.copies.len() && self.adopted.is_empty() && self.left.is_empty() {
            return None;
        }
        let mark = mark();
        if let Some(at) = self.left.iter().position(|left| *left == mark) {
            self.left.remove(at);
            return Some(Sent { id: None, before: true, overtaken: Vec::new() });
        }
        // Their numbers say nothing about the order in which the engine has them, and none of them is dropped silently:
        // it queues them before it serves the client.
        if let Some(copy) = self.adopted.iter().find(|copy| copy.mark == mark) {
            return Some(Sent { id: Some(copy.id), before: true, overtaken: Vec::new() });
        }
        let found = start + self.copies.range(start..).position(|copy| copy.mark == mark)?;
        let overtaken = self.copies.range(start..found).map(|copy| copy.id).collect();
        let copy = &mut self.copies[found];
        let before = std::mem::replace(&mut copy.sent, true);
        Some(Sent { id: Some(copy.id), before, overtaken })
    }

    pub(super) fn set_left(&mut self, left: Vec<u64>) {
        self.left = left;
    }

    pub(super) fn set_delayed_will(&mut self, will: Option<DelayedWill>) {
        self.delayed_will = will;
    }

    pub(super) fn take_delayed_will(&mut self) -> Option<DelayedWill> {
        self.delayed_will.take()
    }

    /// Forgets the copies of a publication. Yields the mark of each, if the session is away.
    pub(super) fn drop_copy(&mut self, id: u64) -> Vec<u64> {
        let from = self.copies.partition_point(|copy| copy.id < id);
        let to = self.copies.partition_point(|copy| copy.id <= id);
        let adopted = self.adopted.extract_if(.., |copy| copy.id == id);
        let marks = adopted.chain(self.copies.drain(from..to)).map(|copy| copy.mark);
        match self.presence {
            Presence::Away => marks.collect(),
            Presence::Connected => Vec::new(),
        }
    }
}

/// A copy that left for its client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// The publication; none if an earlier run left it.
    pub(super) id: Option<u64>,
    /// Whether it had left before.
    pub(super) before: bool,
    /// The copies that it overtook, which the engine must have dropped.
    pub(super) overtaken: Vec<u64>,
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    by_client: HashMap<Arc<str>, Session>,
    /// How many of them have a connection.
    connected: usize,
    filters: Filters<Reader>,
    /// Whose turn it is in a shared subscription.
    turn: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { by_client: HashMap::new(), connected: 0, filters: Filters::new(), turn: 0 }
    }
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(super) fn connected(&self) -> usize {
        self.connected
    }

    pub(super) fn get(&self, client: &str) -> Option<&Session> {
        self.by_client.get(client)
    }

    pub(super) fn get_mut(&mut self, client: &str) -> Option<&mut Session> {
        self.by_client.get_mut(client)
    }

    pub(super) fn is_connected(&self, client: &str) -> bool {
        self.get(client).is_some_and(|session| session.presence == Presence::Connected)
    }

    /// A connection serves the session from now on.
    pub(super) fn attach(&mut self, client: &Arc<str>, link: &Arc<Link>, queue: QueueHandle) {
        self.part(client);
        self.connected += 1;
        let old = self.by_client.remove(client);
        let mut session = Session::new(Presence::Connected, Arc::downgrade(link), queue);
        session.max_packet = link.max_packet();
        session.rights = link.rights();
        if let Some(old) = old {
            Session {
                readers: session.readers,
                copies: session.copies,
                adopted: session.adopted,
                lasting: session.lasting,
                ..
            } = old;
        }
        self.by_client.insert(client.clone(), session);
    }

    /// A session of an earlier run. `left` are the marks of what the engine has for it.
    pub(super) fn restore(&mut self, client: &Arc<str>, rights: Rights, queue: QueueHandle, left: Vec<u64>) {
        let session = Session { rights, left, ..Session::new(Presence::Away, Weak::new(), queue) };
        self.by_client.insert(client.clone(), session);
    }

    /// Takes over what sessions have of a publication of an earlier run. Yields their clients.
    pub(super) fn adopt(&mut self, id: u64, marks: &[u64]) -> HashSet<Arc<str>> {
        let mut holders = HashSet::new();
        for (client, session) in &mut self.by_client {
            if let Some(at) = session.left.iter().position(|mark| marks.contains(mark)) {
                let mark = session.left.remove(at);
                session.adopted.push(Held { id, mark, wants_ack: true, sent: true });
                holders.insert(client.clone());
            }
        }
        holders
    }

    pub(super) fn forget_left(&mut self) {
        for session in self.by_client.values_mut() {
            session.left = Vec::new();
        }
    }

    /// The session reads exactly this.
    pub(super) fn subscribe(&mut self, client: &str, readers: Vec<Reader>, lasting: Lasting) {
        let Some(session) = self.by_client.get_mut(client) else {
            return;
        };
        session.lasting = lasting;
        for reader in &session.readers {
            self.filters.remove(reader.pattern(), reader);
        }
        for reader in &readers {
            self.filters.insert(reader.pattern(), reader.clone());
        }
        session.readers = readers;
    }

    /// The session has no connection any more. Yields the copies that the engine keeps for its return, and those that it
    /// does not.
    pub(super) fn away(&mut self, client: &str) -> (Vec<u64>, Vec<u64>) {
        self.part(client);
        let (kept, dropped): (Vec<&Held>, Vec<&Held>) = self.held(client).partition(|copy| copy.wants_ack);
        let ids = |copies: Vec<&Held>| copies.into_iter().map(|copy| copy.id).collect();
        (ids(kept), ids(dropped))
    }

    /// The copies that a session has.
    pub(super) fn copies_with(&self, client: &str) -> Vec<u64> {
        self.held(client).map(|copy| copy.id).collect()
    }

    fn held(&self, client: &str) -> impl Iterator<Item = &Held> {
        self.by_client.get(client).into_iter().flat_map(|session| session.adopted.iter().chain(&session.copies))
    }

    /// Whether a session that has no connection now has got a copy and may still acknowledge it.
    pub(super) fn may_return_for(&self, client: &str, id: u64) -> bool {
        !self.is_connected(client) && self.held(client).any(|copy| copy.id == id && copy.sent && copy.wants_ack)
    }

    /// Whether the session outlives its connection.
    pub(super) fn lasts(&self, client: &str) -> bool {
        self.get(client).is_some_and(|session| session.lasting == Lasting::Longer)
    }

    /// The filters of a session.
    pub(super) fn filters_of(&self, client: &str) -> impl Iterator<Item = &str> {
        self.get(client).into_iter().flat_map(|session| session.readers.iter().map(|reader| &*reader.filter))
    }

    /// Whether the client of a session may read a topic.
    pub(super) fn may_read(&self, client: &str, topic: &str) -> bool {
        self.get(client).is_some_and(|session| session.rights.may_read(topic))
    }

    /// The subscriptions that match a topic, of those who may read it.
    fn readers_of(&self, topic: &str) -> impl Iterator<Item = &Reader> {
        self.filters.matches(topic).into_iter().filter(move |reader| self.may_read(&reader.client, topic))
    }

    /// Whether somebody else who is connected reads a topic.
    pub(super) fn has_reader_besides(&self, topic: &str, holders: &HashSet<Arc<str>>) -> bool {
        self.readers_of(topic).any(|reader| self.is_connected(&reader.client) && !holders.contains(&reader.client))
    }

    /// The session is over. Yields its copies.
    pub(super) fn remove(&mut self, client: &str) -> Vec<u64> {
        self.part(client);
        self.subscribe(client, Vec::new(), Lasting::Connection);
        let held = self.copies_with(client);
        self.by_client.remove(client);
        held
    }

    fn part(&mut self, client: &str) {
        let connected = |session: &&mut Session| session.presence == Presence::Connected;
        if let Some(session) = self.by_client.get_mut(client).filter(connected) {
            session.presence = Presence::Away;
            self.connected -= 1;
        }
    }

    pub(super) fn unattended(&self) -> Vec<Arc<str>> {
        let alone =
            |(client, session): (&Arc<str>, &Session)| (session.link.strong_count() == 0).then(|| client.clone());
        self.by_client.iter().filter_map(alone).collect()
    }
}
