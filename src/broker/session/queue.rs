//! What waits for the consumers of one queue: a bounded piece of it, and how far the disk was read.
//!
//! Rows have one cursor, documents one for each topic. A cursor is **live** when everything up to it was read: then what a
//! commit announces is taken as it is. It is **behind** when something is on disk that was not read: then announcements
//! only say how far there is to read, so that order holds, and [`Queue::next_read`] asks for the next page. An announcement
//! that comes while a page is under way finds the cursor behind; whether the page had it shows in the page's last number.
//!
//! Order per publisher and topic holds across qualities of service: nothing passes anything else, and QoS 0 waits behind
//! what has no room in the window.

mod cursor;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::item::{Item, Source};
use crate::chat::qos::QoS;
use crate::store::{DocumentRef, Page, QueueRow, Seen};
use cursor::Cursor;

/// Items from disk that are in memory for one queue.
pub(crate) const QUEUE_ITEMS: usize = 1_000;
/// Their bytes; one item always fits.
pub(crate) const QUEUE_BYTES: usize = 256 * 1024;
/// Topics of documents whose cursors one queue knows. What is beyond is found on disk when there is room again.
pub(crate) const TOPICS_MAX: usize = 10_000;
/// Room for items that an empty queue keeps.
const ROOM_KEPT: usize = 16;

/// How much of what is not on disk waits in one queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryLimits {
    /// Messages.
    pub(crate) messages: usize,
    /// Bytes; one message always fits.
    pub(crate) bytes: usize,
}

/// What became of an item that is not on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits.
    Taken,
    /// There is no room, or nobody reads: with QoS 0 it is dropped, with more its reader is too slow.
    Full,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pulled {
    /// To be sent.
    Item(Item),
    /// Not worth delivering any more: its row is acknowledged without being sent.
    Expired(Item),
}

/// What is to be asked of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Read {
    /// What.
    pub(crate) what: Wanted,
    /// How much at most.
    pub(crate) page: Page,
    /// Tells answers apart: one that comes too late is none.
    number: u64,
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Rows behind this number. The answer is [`Queue::rows_came`].
    Rows(u64),
    /// Documents of a topic behind this number. The answer is [`Queue::documents_came`].
    Documents(Arc<str>, u64),
    /// Which topics of the subscriptions wait: there were too many to know them all. The answer is [`Queue::topics_came`].
    Topics,
}

/// What is left when nobody reads a queue any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Away {
    /// For each topic of documents that was known: the last one that was handed out and not acknowledged, or 0. For
    /// [`crate::store::Store::documents_seen`], which also says that the topic is not read here any more.
    pub(crate) seen: Vec<Seen>,
    /// The last row that was handed out since the queue is known; rows up to it come back as copies.
    pub(crate) rows: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    items: usize,
    bytes: usize,
}

/// An item that is not on disk, pushed while rows before it are still there.
#[derive(Debug)]
struct Held {
    item: Item,
    /// The first row that comes after it, as soon as one is known.
    before: Option<u64>,
}

/// The queue of a session or of a group.
#[derive(Debug)]
pub(crate) struct Queue {
    ready: VecDeque<Item>,
    held: VecDeque<Held>,
    disk: Load,
    memory: Load,
    limits: MemoryLimits,
    rows: Cursor,
    /// The last row that was handed out.
    rows_sent: u64,
    topics: HashMap<Arc<str>, Cursor>,
    /// Topics that are behind, each once, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    /// There are topics that wait and have no cursor.
    missed: bool,
    reading: Option<Read>,
    /// The number of the last read.
    reads: u64,
    /// The next read is of rows, if both rows and documents are behind.
    rows_turn: bool,
    /// Somebody reads it.
    open: bool,
}

impl Queue {
    /// A queue that is new: nothing is on disk, and it is open.
    pub(crate) fn new(limits: MemoryLimits) -> Self {
        let (ready, held, topics, turns) = Default::default();
        let (disk, memory, rows) = (Load::default(), Load::default(), Cursor::live());
        let (rows_sent, missed, reading, reads, rows_turn, open) = (0, false, None, 0, true, true);
        Self {
            ready,
            held,
            disk,
            memory,
            limits,
            rows,
            rows_sent,
            topics,
            turns,
            missed,
            reading,
            reads,
            rows_turn,
            open,
        }
    }

    /// A queue that the store kept, and that nobody reads yet.
    pub(crate) fn kept(limits: MemoryLimits) -> Self {
        Self { rows: Cursor::behind(), open: false, ..Self::new(limits) }
    }

    /// A reader is there (again). From now on what commits is announced; what is on disk is read: its rows, and the
    /// documents of the topics that are given to [`Self::watch`] after this.
    pub(crate) fn open(&mut self) {
        self.open = true;
    }

    /// An item that is not on disk.
    pub(crate) fn push(&mut self, item: Item) -> Pushed {
        let size = item.size();
        let Load { items, bytes } = self.memory;
        let fits = items < self.limits.messages && bytes + size <= self.limits.bytes;
        if !self.open || !(fits || items == 0) {
            return Pushed::Full;
        }
        self.memory.add(size);
        if self.rows.is_live() {
            self.ready.push_back(item);
        } else {
            self.held.push_back(Held { item, before: None });
        }
        Pushed::Taken
    }

    /// Whether what is not on disk takes more than half its room: publishers are slowed down.
    pub(crate) fn is_above_half(&self) -> bool {
        self.memory.items > self.limits.messages / 2 || self.memory.bytes > self.limits.bytes / 2
    }

    /// Whether there is anything to be handed out.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether what came from the disk takes more than half its room.
    pub(crate) fn is_crowded(&self) -> bool {
        self.disk.items > QUEUE_ITEMS / 2 || self.disk.bytes > QUEUE_BYTES / 2
    }

    /// A row was committed. `false`: it is read from disk later, or known already.
    pub(crate) fn announce_row(&mut self, seq: u64, item: Item) -> bool {
        self.held.iter_mut().rev().take_while(|held| held.before.is_none()).for_each(|held| held.before = Some(seq));
        let size = item.size();
        let taken = self.open && self.rows.announce(seq, self.disk.has_room(size));
        if taken {
            self.append(item, size);
        }
        taken
    }

    /// A document was committed. `false`: it is read from disk later, or known already.
    pub(crate) fn announce_document(&mut self, reference: &DocumentRef, item: Item) -> bool {
        let size = item.size();
        let room = self.disk.has_room(size);
        if !self.open || !self.know(&reference.topic) {
            return false;
        }
        let Some(cursor) = self.topics.get_mut(&reference.topic) else { return false };
        let taken = cursor.announce(reference.seq, room) && cursor.add(reference.seq);
        if taken {
            self.append(item, size);
        } else {
            self.line_up(&reference.topic);
        }
        taken
    }

    /// Rows were committed that were not announced one by one. What has QoS 0 and waits for its place among them is dropped:
    /// its place is not known.
    pub(crate) fn behind_on_rows(&mut self) {
        self.rows.fall_behind();
        let memory = &mut self.memory;
        self.held.retain(|Held { item, before }| {
            let stays = before.is_some() || item.qos != QoS::AtMostOnce;
            if !stays {
                memory.remove(item.size());
            }
            stays
        });
    }

    /// Documents of a topic were committed that were not announced one by one.
    pub(crate) fn behind_on(&mut self, topic: &Arc<str>) {
        if self.open && self.know(topic) {
            self.topics.entry(Arc::clone(topic)).and_modify(Cursor::fall_behind);
            self.line_up(topic);
        }
    }

    /// Topics of a subscription, of which documents may wait on disk. Those that are known already are not read again.
    pub(crate) fn watch<'a>(&mut self, topics: impl IntoIterator<Item = &'a Arc<str>>) {
        for topic in topics {
            if self.open && self.know(topic) {
                self.topics.entry(Arc::clone(topic)).and_modify(Cursor::watch);
                self.line_up(topic);
            }
        }
    }

    /// Subscriptions ended: documents of topics that are not read any more are dropped from memory. Those that were handed
    /// out stay known until they are acknowledged. The answer is as [`Away::seen`].
    pub(crate) fn unwatch(&mut self, still_read: impl Fn(&str) -> bool) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (topic, cursor) in self.topics.iter_mut().filter(|(topic, _)| !still_read(topic)) {
            seen.push(cursor.seen(topic));
            cursor.unwatch();
        }
        self.drop_ready(|item| matches!(&item.source, Source::Document(reference) if !still_read(&reference.topic)));
        self.topics.retain(|_, cursor| !cursor.is_done());
        self.turns.retain(|topic| self.topics.get(topic).is_some_and(Cursor::is_behind));
        self.reading.take_if(|read| matches!(&read.what, Wanted::Documents(topic, _) if !still_read(topic)));
        seen
    }

    /// What to ask the store next, if something is on disk and at least half the room is free. One at a time: until its
    /// answer comes, or [`Self::read_failed`].
    pub(crate) fn next_read(&mut self) -> Option<Read> {
        let Load { items, bytes } = self.disk;
        if !self.open || self.reading.is_some() || items > QUEUE_ITEMS / 2 || bytes > QUEUE_BYTES / 2 {
            return None;
        }
        let first = if self.rows_turn { self.ask_rows() } else { self.ask_documents() };
        let what = first.or_else(|| self.ask_documents()).or_else(|| self.ask_rows()).or_else(|| self.ask_topics())?;
        self.rows_turn = !matches!(what, Wanted::Rows(_));
        self.reads += 1;
        let page = Page { rows: QUEUE_ITEMS - items, bytes: QUEUE_BYTES - bytes };
        self.reading = Some(Read { what, page, number: self.reads });
        self.reading.clone()
    }

    /// The rows that were asked for. Those that were released are the window's only.
    pub(crate) fn rows_came(&mut self, read: &Read, rows: Vec<QueueRow>) {
        if !self.is_answered(read) {
            return;
        }
        self.rows.answer(rows.last().map(|row| row.seq));
        for row in rows {
            self.release_held(Some(row.seq));
            if !row.released {
                let seq = row.seq;
                let mut item = Item::from(row);
                item.copy |= seq <= self.rows_sent;
                let size = item.size();
                self.append(item, size);
            }
        }
        if self.rows.is_live() {
            self.release_held(None);
        }
    }

    /// The documents that were asked for, as items.
    pub(crate) fn documents_came(&mut self, read: &Read, documents: Vec<Item>) {
        let Wanted::Documents(topic, _) = &read.what else { return };
        if !self.is_answered(read) {
            return;
        }
        let seq_of = |item: &Item| if let Source::Document(reference) = &item.source { reference.seq } else { 0 };
        let Some(cursor) = self.topics.get_mut(topic) else { return };
        cursor.answer(documents.last().map(seq_of));
        for item in documents {
            if cursor.add(seq_of(&item)) {
                self.disk.add(item.size());
                self.ready.push_back(item);
            }
        }
        self.line_up(topic);
        self.forget_if_idle(topic);
    }

    /// The topics that wait.
    pub(crate) fn topics_came(&mut self, read: &Read, topics: &[Arc<str>]) {
        if self.is_answered(read) {
            self.watch(topics);
        }
    }

    /// The store did not answer, or whoever asked it is gone: the same is asked again.
    pub(crate) fn read_failed(&mut self, read: &Read) {
        if !self.is_answered(read) {
            return;
        }
        match &read.what {
            Wanted::Rows(_) => {}
            Wanted::Topics => self.missed = true,
            Wanted::Documents(topic, _) => {
                self.topics.entry(Arc::clone(topic)).and_modify(Cursor::not_answered);
                self.line_up(topic);
            }
        }
    }

    /// Whether a document is in memory, was handed out, or is past: a read cannot bring it any more.
    pub(crate) fn has_reached(&self, reference: &DocumentRef) -> bool {
        self.topics.get(&reference.topic).is_some_and(|cursor| cursor.has_reached(reference.seq))
    }

    /// What comes next. Without room in the window only QoS 0 comes, and only if it is the next.
    pub(crate) fn pull(&mut self, window_has_room: bool, now_ms: u64) -> Option<Pulled> {
        loop {
            let next = self.ready.front()?;
            let expired = next.message.expires_at.is_some_and(|at| at <= now_ms);
            if !expired && !window_has_room && next.qos > QoS::AtMostOnce {
                return None;
            }
            let item = self.ready.pop_front()?;
            self.load_of(&item.source).remove(item.size());
            if self.ready.is_empty() && self.ready.capacity() > ROOM_KEPT {
                self.ready = VecDeque::new();
            }
            match &item.source {
                Source::Memory if expired => continue,
                Source::Memory => {}
                Source::Row(seq) => self.rows_sent = self.rows_sent.max(*seq),
                Source::Document(reference) => self.hand_out(reference),
            }
            return Some(if expired { Pulled::Expired(item) } else { Pulled::Item(item) });
        }
    }

    /// What was handed out and is to be handed out once more, before anything else; in this order, as copies. What the
    /// queue will read from disk anyway, because it was away since, is not taken.
    pub(crate) fn give_back(&mut self, items: Vec<Item>) {
        for mut item in items.into_iter().rev() {
            let comes_back = match &item.source {
                Source::Memory => true,
                Source::Row(seq) => self.open && self.rows.has_reached(*seq),
                Source::Document(reference) => {
                    self.topics.get_mut(&reference.topic).is_some_and(|cursor| cursor.take_back(reference.seq))
                }
            };
            if comes_back {
                item.copy = true;
                self.load_of(&item.source).add(item.size());
                self.ready.push_front(item);
            }
        }
    }

    /// A document that was handed out is acknowledged: the store was told so, or will be before it is read again.
    pub(crate) fn acknowledged(&mut self, reference: &DocumentRef) {
        if let Some(cursor) = self.topics.get_mut(&reference.topic) {
            cursor.remove(reference.seq);
            self.forget_if_idle(&reference.topic);
        }
    }

    /// A document that was handed out is bigger than its reader takes. It stays in the outbox and is not offered again
    /// until [`Self::offer_again`], or until the queue is opened again.
    pub(crate) fn set_aside(&mut self, reference: &DocumentRef) {
        if let Some(cursor) = self.topics.get_mut(&reference.topic) {
            cursor.set_aside(reference.seq);
        }
    }

    /// A reader is there that takes more: what was set aside is read again.
    pub(crate) fn offer_again(&mut self) {
        for (topic, cursor) in &mut self.topics {
            let lined_up = cursor.is_lined_up();
            if !cursor.rewind() {
                continue;
            }
            let being_read =
                self.reading.take_if(|read| matches!(&read.what, Wanted::Documents(read, _) if read == topic));
            if being_read.is_some() || !lined_up {
                self.turns.push_back(Arc::clone(topic));
            }
        }
    }

    /// Nobody reads any more. What is on disk is dropped from memory, and so is QoS 0; what is only in memory with more
    /// stays.
    pub(crate) fn away(&mut self) -> Away {
        let seen = self.topics.drain().map(|(topic, cursor)| cursor.seen(&topic)).collect();
        self.ready.extend(self.held.drain(..).map(|held| held.item));
        self.drop_ready(|item| item.source != Source::Memory || item.qos == QoS::AtMostOnce);
        (self.topics, self.turns, self.held) = Default::default();
        self.ready.shrink_to_fit();
        (self.rows, self.missed, self.reading, self.open) = (Cursor::behind(), false, None, false);
        Away { seen, rows: self.rows_sent }
    }

    fn append(&mut self, item: Item, size: usize) {
        self.disk.add(size);
        self.ready.push_back(item);
    }

    /// Lets in what was pushed before this row, or all of it.
    fn release_held(&mut self, row: Option<u64>) {
        let due = |held: &Held| row.is_none_or(|row| held.before.is_some_and(|before| before <= row));
        let count = self.held.iter().take_while(|held| due(held)).count();
        self.ready.extend(self.held.drain(..count).map(|held| held.item));
    }

    fn drop_ready(&mut self, unwanted: impl Fn(&Item) -> bool) {
        let (disk, memory) = (&mut self.disk, &mut self.memory);
        self.ready.retain(|item| {
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

    /// Makes sure that a topic has a cursor; a new one is behind from 0: its first read claims it. `false` if there is no
    /// room for it: then it is remembered that topics were missed.
    fn know(&mut self, topic: &Arc<str>) -> bool {
        if self.topics.contains_key(topic) {
            return true;
        }
        if self.topics.len() >= TOPICS_MAX && !self.missed {
            self.topics.retain(|_, cursor| !cursor.is_idle());
        }
        self.missed |= self.topics.len() >= TOPICS_MAX;
        if self.topics.len() < TOPICS_MAX {
            self.topics.insert(Arc::clone(topic), Cursor::behind());
        }
        self.topics.contains_key(topic)
    }

    /// Above half the room, what is idle goes at once: so the sweep of a full table finds something, or nothing is idle.
    fn forget_if_idle(&mut self, topic: &Arc<str>) {
        let many = self.topics.len() > TOPICS_MAX / 2;
        if self.topics.get(topic).is_some_and(|cursor| cursor.is_done() || many && cursor.is_idle()) {
            self.topics.remove(topic);
        }
    }

    /// Lines a topic up to be read, if it is behind and stands nowhere yet.
    fn line_up(&mut self, topic: &Arc<str>) {
        if self.topics.get_mut(topic).is_some_and(Cursor::line_up) {
            self.turns.push_back(Arc::clone(topic));
        }
    }

    fn ask_rows(&mut self) -> Option<Wanted> {
        self.rows.ask().map(Wanted::Rows)
    }

    fn ask_documents(&mut self) -> Option<Wanted> {
        std::iter::from_fn(|| self.turns.pop_front()).find_map(|topic| {
            let after = self.topics.get_mut(&topic)?.ask()?;
            Some(Wanted::Documents(topic, after))
        })
    }

    fn ask_topics(&mut self) -> Option<Wanted> {
        let now = self.missed && self.topics.len() <= TOPICS_MAX / 2;
        self.missed &= !now;
        now.then_some(Wanted::Topics)
    }

    fn is_answered(&mut self, read: &Read) -> bool {
        self.reading.take_if(|asked| asked.number == read.number).is_some()
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
