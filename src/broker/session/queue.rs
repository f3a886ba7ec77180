//! What waits for the consumers of one queue: a bounded piece of it, and how far the disk was read.
//!
//! Rows have one cursor, documents one for each topic. A cursor is **live** when everything up to it was read: then what a
//! commit notifies of is taken as it is. It is **behind** when something is on disk that was not read: then notifications
//! only say how far there is to read, so that order holds, and [`Queue::next_read`] asks for the next page. A notification
//! that comes while a page is under way finds the cursor behind; whether the page had it shows in the page's last number.
//!
//! Order per publisher and topic holds across qualities of service: nothing passes anything else, but for QoS 0 where what
//! stands before it has no room in the window.

mod cursor;
mod disk;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::outgoing_message::{OutgoingMessage, Source};
use crate::chat::qos::QoS;
use crate::store::{DocumentRef, Seen};
use cursor::Cursor;
pub(crate) use disk::{PageRequest, ReadWhat};

/// Messages from disk that are in memory for one queue.
pub(crate) const QUEUE_ITEMS: usize = 1_000;
/// Their bytes; one message always fits.
pub(crate) const QUEUE_BYTES: usize = 256 * 1024;
/// Topics of documents whose cursors one queue knows. What is beyond is found on disk when there is room again.
pub(crate) const TOPICS_MAX: usize = 10_000;
/// Topics beside those that are only remembered. When there are more, all are forgotten: what its client would not take, or
/// was sent at QoS 0 and others have not acknowledged, may come once more.
const REMEMBERED_MAX: usize = 10 * TOPICS_MAX;
/// Room for messages that an empty queue keeps.
const ROOM_KEPT: usize = 16;

/// How much of what is not on disk waits in one queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryLimits {
    pub(crate) messages: usize,
    /// Bytes; one message always fits.
    pub(crate) bytes: usize,
}

/// What became of a message that is not on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits.
    Taken,
    /// There is no room, or no consumer: with QoS 0 it is dropped, with more its client is too slow.
    Full,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pulled {
    /// To be sent.
    Send(OutgoingMessage),
    /// Not worth delivering any more: its row is acknowledged without being sent.
    Expired(OutgoingMessage),
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    items: usize,
    bytes: usize,
}

/// A message that is not on disk, pushed while rows before it are still there.
#[derive(Debug)]
struct BehindRows {
    item: OutgoingMessage,
    /// The last row that comes before it.
    after: u64,
}

/// The queue of a session or of a group.
#[derive(Debug)]
pub(crate) struct Queue {
    loaded: VecDeque<OutgoingMessage>,
    held: VecDeque<BehindRows>,
    disk: Load,
    memory: Load,
    limits: MemoryLimits,
    rows: Cursor,
    /// The last row that was handed out.
    rows_sent: u64,
    topics: HashMap<Arc<str>, Cursor>,
    /// Topics that are read, where something on disk is not to come again ([`Cursor::is_remembered`]).
    remembered: HashMap<Arc<str>, Cursor>,
    /// Topics that are behind, each once, in the order in which they are read.
    read_order: VecDeque<Arc<str>>,
    /// There are topics that wait and have no cursor.
    missed: bool,
    reading: Option<PageRequest>,
    /// The number of the last read.
    reads: u64,
    /// The next read is of rows, if both rows and documents are behind.
    rows_next: bool,
    /// It has a consumer.
    open: bool,
    /// How often all consumers have left.
    generation: u64,
}

impl Queue {
    /// A queue that is new: nothing is on disk, and it is open.
    pub(crate) fn new(limits: MemoryLimits) -> Self {
        let (loaded, held, topics, remembered, read_order) = Default::default();
        let (disk, memory, rows) = (Load::default(), Load::default(), Cursor::live());
        let (rows_sent, missed, reading, reads, rows_next) = (0, false, None, 0, true);
        let (open, generation) = (true, 0);
        Self {
            loaded,
            held,
            disk,
            memory,
            limits,
            rows,
            rows_sent,
            topics,
            remembered,
            read_order,
            missed,
            reading,
            reads,
            rows_next,
            open,
            generation,
        }
    }

    /// A queue that the store kept, without a consumer.
    pub(crate) fn kept(limits: MemoryLimits) -> Self {
        Self { rows: Cursor::behind(), open: false, ..Self::new(limits) }
    }

    /// The queue has a consumer. From now on it is notified of what commits; what is on disk is read: its rows, and the
    /// documents of the topics that are given to [`Self::watch`] after this.
    pub(crate) fn open(&mut self) {
        self.open = true;
    }

    /// A message that is not on disk. `after` is the last number of which any queue was notified: rows up to it come before
    /// the message, later ones after it. So a publisher's messages keep their order, if each is taken when the queues were
    /// notified of the one before. `None`: something came since whose number is not known; then QoS 0 is not taken by a queue
    /// that is behind.
    pub(crate) fn push(&mut self, item: OutgoingMessage, after: Option<u64>) -> Pushed {
        let size = item.size();
        let Load { items, bytes } = self.memory;
        let fits = items < self.limits.messages && bytes + size <= self.limits.bytes;
        let lost = after.is_none() && !self.rows.is_live() && item.qos == QoS::AtMostOnce;
        if !self.open || lost || !(fits || items == 0) {
            return Pushed::Full;
        }
        self.memory.add(size);
        if self.rows.is_live() {
            self.loaded.push_back(item);
        } else {
            self.held.push_back(BehindRows { item, after: after.unwrap_or(u64::MAX) });
        }
        Pushed::Taken
    }

    /// How much of what is not on disk fits.
    pub(crate) fn limits(&self) -> MemoryLimits {
        self.limits
    }

    /// Whether there is anything to be handed out.
    pub(crate) fn has_loaded(&self) -> bool {
        !self.loaded.is_empty()
    }

    /// How much there is to be handed out.
    pub(crate) fn loaded(&self) -> usize {
        self.loaded.len()
    }

    /// The quality of service of what comes next.
    pub(crate) fn next_qos(&self) -> Option<QoS> {
        self.loaded.front().map(|item| item.qos)
    }

    /// Whether everything up to this row was handed out, or is gone. For a queue that is read up to its end.
    pub(crate) fn has_passed(&self, row: u64) -> bool {
        self.rows_sent >= row || self.rows.is_live() && self.loaded.is_empty()
    }

    /// Whether what came from the disk takes more than half its room: no more is read.
    pub(crate) fn disk_half_full(&self) -> bool {
        self.disk.items > QUEUE_ITEMS / 2 || self.disk.bytes > QUEUE_BYTES / 2
    }

    /// Whether what is not on disk takes more than half its room: publishers are slowed down.
    pub(crate) fn is_above_half(&self) -> bool {
        self.memory.items > self.limits.messages / 2 || self.memory.bytes > self.limits.bytes / 2
    }

    /// What comes next. Without room in the window that is the next one at QoS 0, which no window holds up
    /// ([MQTT-3.3.4-9]); otherwise nothing passes anything.
    pub(crate) fn pull(&mut self, window_has_room: bool, now_ms: u64) -> Option<Pulled> {
        loop {
            let is_expired = |item: &OutgoingMessage| item.message.expires_at.is_some_and(|at| at <= now_ms);
            let next = self.loaded.front()?;
            let may_go = |item: &OutgoingMessage| window_has_room || item.qos == QoS::AtMostOnce;
            let place = match may_go(next) || is_expired(next) {
                true => 0,
                false if self.memory.items == 0 => return None,
                false => self.loaded.iter().position(may_go)?,
            };
            let mut item = self.loaded.remove(place)?;
            item.generation = self.generation;
            let expired = is_expired(&item);
            self.load_of(&item.source).remove(item.size());
            if self.loaded.is_empty() && self.loaded.capacity() > ROOM_KEPT {
                self.loaded = VecDeque::new();
            }
            match &item.source {
                Source::Memory if expired => continue,
                Source::Memory => {}
                Source::Row(seq) => self.rows_sent = self.rows_sent.max(*seq),
                Source::Document(reference) => self.hand_out(reference),
            }
            return Some(if expired { Pulled::Expired(item) } else { Pulled::Send(item) });
        }
    }

    /// What was handed out and is to be handed out once more, before anything else; in this order, as copies. What the
    /// queue reads from disk anyway, or has read, because it was away since, is not taken.
    pub(crate) fn give_back(&mut self, items: Vec<OutgoingMessage>) {
        for item in items.into_iter().rev() {
            let comes_back = match &item.source {
                Source::Memory => true,
                _ if item.generation != self.generation => false,
                Source::Row(seq) => self.open && self.rows.has_reached(*seq),
                Source::Document(reference) => {
                    self.topics.get_mut(&reference.topic).is_some_and(|cursor| cursor.take_back(reference.seq))
                }
            };
            if comes_back {
                let item = item.into_copy();
                self.load_of(&item.source).add(item.size());
                self.loaded.push_front(item);
            }
        }
    }

    /// Nobody reads any more. What is on disk is dropped from memory, and so is QoS 0; what is only in memory with more
    /// stays. Yields for each topic of documents that was known the last one that was sent and stays on disk, or 0: for
    /// [`crate::store::Store::documents_seen`], which also says that the topic is not read here any more.
    pub(crate) fn away(&mut self) -> Vec<Seen> {
        let known = self.topics.drain().chain(self.remembered.drain());
        let seen = known.map(|(topic, cursor)| cursor.seen(&topic)).collect();
        self.loaded.extend(self.held.drain(..).map(|held| held.item));
        self.drop_loaded(|item| item.source != Source::Memory || item.qos == QoS::AtMostOnce);
        (self.topics, self.remembered, self.read_order, self.held) = Default::default();
        self.generation += 1;
        self.loaded.shrink_to_fit();
        (self.rows, self.missed, self.reading, self.open) = (Cursor::behind(), false, None, false);
        seen
    }

    fn append(&mut self, item: OutgoingMessage) {
        self.disk.add(item.size());
        self.loaded.push_back(item);
    }

    /// Lets in what comes before this row; at `u64::MAX` all of it.
    fn release_held(&mut self, row: u64) {
        let count = self.held.iter().take_while(|held| held.after < row || row == u64::MAX).count();
        self.loaded.extend(self.held.drain(..count).map(|held| held.item));
    }

    fn drop_loaded(&mut self, unwanted: impl Fn(&OutgoingMessage) -> bool) {
        let (disk, memory) = (&mut self.disk, &mut self.memory);
        self.loaded.retain(|item| {
            let stays = !unwanted(item);
            if !stays {
                let load = if item.source == Source::Memory { &mut *memory } else { &mut *disk };
                load.remove(item.size());
            }
            stays
        });
    }

    fn load_of(&mut self, source: &Source) -> &mut Load {
        if *source == Source::Memory { &mut self.memory } else { &mut self.disk }
    }

    fn hand_out(&mut self, reference: &DocumentRef) {
        if let Some(cursor) = self.topics.get_mut(&reference.topic) {
            cursor.hand_out(reference.seq);
        }
    }
}

impl Load {
    fn has_room(self, size: usize) -> bool {
        self.items == 0 || self.items < QUEUE_ITEMS && self.bytes + size <= QUEUE_BYTES
    }

    fn add(&mut self, size: usize) {
        self.items += 1;
        self.bytes += size;
    }

    fn remove(&mut self, size: usize) {
        self.items -= 1;
        self.bytes -= size;
    }
}
