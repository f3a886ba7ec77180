//! How a queue follows what is on disk: notifications, reads, topics.

use std::sync::Arc;

use super::cursor::Cursor;
use super::{Load, OutgoingMessage, QUEUE_BYTES, QUEUE_ITEMS, Queue, REMEMBERED_MAX, Source, TOPICS_MAX};
use crate::store::{DocumentRef, Page, QueueRow, Seen};

/// What is to be asked of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageRequest {
    pub(crate) what: ReadWhat,
    /// How much at most.
    pub(crate) page: Page,
    /// Tells answers apart: one that comes too late is none.
    number: u64,
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadWhat {
    /// Rows behind this number. The answer is [`Queue::rows_came`].
    Rows(u64),
    /// Documents of a topic behind this number. The answer is [`Queue::documents_came`].
    Documents(Arc<str>, u64),
    /// Which topics of the subscriptions wait: there were too many to know them all. The answer is [`Queue::topics_came`].
    Topics,
}

impl Queue {
    /// A row was committed. `false`: it is read from disk later, or known already.
    pub(crate) fn notify_row(&mut self, seq: u64, item: OutgoingMessage) -> bool {
        let taken = self.open && self.rows.notify(seq, self.disk.has_room(item.size()));
        if taken {
            self.append(item);
        }
        taken
    }

    /// A document was committed. `false`: it is read from disk later, or known already.
    pub(crate) fn notify_document(&mut self, reference: &DocumentRef, item: OutgoingMessage) -> bool {
        let room = self.disk.has_room(item.size());
        if !self.open || !self.know(&reference.topic) {
            return false;
        }
        let Some(cursor) = self.topics.get_mut(&reference.topic) else { return false };
        let taken = cursor.notify(reference.seq, room) && cursor.add(reference.seq);
        if taken {
            self.append(item);
        } else {
            self.schedule(&reference.topic);
        }
        taken
    }

    /// Rows were committed of which the queue was not notified one by one.
    pub(crate) fn behind_on_rows(&mut self) {
        self.rows.fall_behind();
    }

    /// Documents of a topic were committed of which the queue was not notified one by one.
    pub(crate) fn behind_on(&mut self, topic: &Arc<str>) {
        if self.open && self.know(topic) {
            self.topics.entry(Arc::clone(topic)).and_modify(Cursor::fall_behind);
            self.schedule(topic);
        }
    }

    /// Topics of a subscription, of which documents may wait on disk. Those that are known already are not read again.
    pub(crate) fn watch<'a>(&mut self, topics: impl IntoIterator<Item = &'a Arc<str>>) {
        for topic in topics {
            if self.open && !self.remembered.contains_key(topic) && self.know(topic) {
                self.topics.entry(Arc::clone(topic)).and_modify(Cursor::watch);
                self.schedule(topic);
            }
        }
    }

    /// Subscriptions ended: documents of topics that are not read any more are dropped from memory. Those that were handed
    /// out stay known until they are acknowledged. The answer is as of [`Self::away`].
    pub(crate) fn unwatch(&mut self, still_read: impl Fn(&str) -> bool) -> Vec<Seen> {
        let ended = self.remembered.extract_if(|topic, _| !still_read(topic));
        let mut seen: Vec<_> = ended.map(|(topic, cursor)| cursor.seen(&topic)).collect();
        for (topic, cursor) in self.topics.iter_mut().filter(|(topic, _)| !still_read(topic)) {
            seen.push(cursor.seen(topic));
            cursor.unwatch();
        }
        self.drop_loaded(|item| matches!(&item.source, Source::Document(reference) if !still_read(&reference.topic)));
        self.topics.retain(|_, cursor| !cursor.is_done());
        self.read_order.retain(|topic| self.topics.get(topic).is_some_and(Cursor::is_behind));
        self.reading.take_if(|read| matches!(&read.what, ReadWhat::Documents(topic, _) if !still_read(topic)));
        seen
    }

    /// What to ask the store next, if something is on disk and at least half the room is free. One at a time: until its
    /// answer comes, or [`Self::read_failed`].
    pub(crate) fn next_read(&mut self) -> Option<PageRequest> {
        let Load { items, bytes } = self.disk;
        if !self.open || self.reading.is_some() || self.disk_half_full() {
            return None;
        }
        let first = if self.rows_next { self.ask_rows() } else { None };
        let what = first.or_else(|| self.ask_topics()).or_else(|| self.ask_documents()).or_else(|| self.ask_rows())?;
        self.rows_next = !matches!(what, ReadWhat::Rows(_));
        self.reads += 1;
        let page = Page { rows: QUEUE_ITEMS - items, bytes: QUEUE_BYTES - bytes };
        self.reading = Some(PageRequest { what, page, number: self.reads });
        self.reading.clone()
    }

    /// Whether [`Self::next_read`] asks for something.
    pub(crate) fn has_to_read(&self) -> bool {
        let behind = self.rows.is_behind() || !self.read_order.is_empty() || self.looks_for_topics();
        self.open && self.reading.is_none() && !self.disk_half_full() && behind
    }

    /// The number of the last read, unless its answer is still to come.
    pub(crate) fn last_read(&self) -> Option<u64> {
        if self.reading.is_none() { Some(self.reads) } else { None }
    }

    /// The rows that were asked for. Those that were released are the window's only.
    pub(crate) fn rows_came(&mut self, read: &PageRequest, rows: Vec<QueueRow>) {
        if !self.is_answered(read) {
            return;
        }
        self.rows.answer(rows.last().map(|row| row.seq));
        for row in rows {
            self.release_held(row.seq);
            if !row.released {
                let seq = row.seq;
                let mut item = OutgoingMessage::from(row);
                item.copy |= seq <= self.rows_sent;
                self.append(item);
            }
        }
        if self.rows.is_live() {
            self.release_held(u64::MAX);
        }
    }

    /// The documents that were asked for, as outgoing messages.
    pub(crate) fn documents_came(&mut self, read: &PageRequest, documents: Vec<OutgoingMessage>) {
        let ReadWhat::Documents(topic, _) = &read.what else { return };
        if !self.is_answered(read) {
            return;
        }
        let seq_of =
            |item: &OutgoingMessage| if let Source::Document(reference) = &item.source { reference.seq } else { 0 };
        let Some(cursor) = self.topics.get_mut(topic) else { return };
        cursor.answer(documents.last().map(seq_of));
        for item in documents {
            let seq = seq_of(&item);
            if cursor.add(seq) {
                let item = if cursor.has_left(seq) { item.into_copy() } else { item };
                self.disk.add(item.size());
                self.loaded.push_back(item);
            }
        }
        self.schedule(topic);
        self.forget_if_idle(topic);
    }

    /// The topics that wait.
    pub(crate) fn topics_came(&mut self, read: &PageRequest, topics: &[Arc<str>]) {
        if self.is_answered(read) {
            self.watch(topics);
        }
    }

    /// The store did not answer, or whoever asked it is gone: the same is asked again.
    pub(crate) fn read_failed(&mut self, read: &PageRequest) {
        if !self.is_answered(read) {
            return;
        }
        match &read.what {
            ReadWhat::Rows(_) => {}
            ReadWhat::Topics => self.missed = true,
            ReadWhat::Documents(topic, _) => self.not_answered(topic),
        }
    }

    /// Subscriptions were made: which topics of theirs wait is to be found out.
    pub(crate) fn look_for_topics(&mut self) {
        self.missed = true;
    }

    /// Whether a read may still bring a document: it has to stay on disk until then.
    pub(crate) fn is_to_read(&self, reference: &DocumentRef) -> bool {
        match self.topics.get(&reference.topic) {
            Some(cursor) => cursor.is_behind() && !cursor.has_reached(reference.seq),
            None if self.remembered.contains_key(&reference.topic) => false,
            None => self.missed || self.reading.as_ref().is_some_and(|read| read.what == ReadWhat::Topics),
        }
    }

    /// A document that was handed out is acknowledged: the store was told so, or will be before it is read again.
    pub(crate) fn acknowledged(&mut self, reference: &DocumentRef) {
        if let Some(cursor) = self.topics.get_mut(&reference.topic) {
            cursor.remove(reference.seq);
            self.forget_if_idle(&reference.topic);
        }
    }

    /// A document that was handed out at QoS 0 stays in the outbox for consumers with more. It is not offered again.
    pub(crate) fn left_for_others(&mut self, reference: &DocumentRef) {
        if let Some(cursor) = self.topics.get_mut(&reference.topic) {
            cursor.leave(reference.seq);
            self.forget_if_idle(&reference.topic);
        }
    }

    /// A document that was handed out is bigger than its client takes. It stays in the outbox and is not offered again
    /// until [`Self::offer_again`], or until the queue is opened again.
    pub(crate) fn set_aside(&mut self, reference: &DocumentRef) {
        if let Some(cursor) = self.topics.get_mut(&reference.topic) {
            cursor.set_aside(reference.seq);
            self.forget_if_idle(&reference.topic);
        }
    }

    /// A consumer came that may take bigger packets: what was set aside is read again.
    pub(crate) fn offer_again(&mut self) {
        let aside: Vec<_> = self.remembered.extract_if(|_, cursor| cursor.has_aside()).collect();
        self.topics.extend(aside);
        let again = |(topic, cursor): (&Arc<str>, &mut Cursor)| cursor.rewind().then(|| Arc::clone(topic));
        for topic in self.topics.iter_mut().filter_map(again).collect::<Vec<_>>() {
            let is_it = |read: &mut PageRequest| matches!(&read.what, ReadWhat::Documents(asked, _) if *asked == topic);
            if self.reading.take_if(is_it).is_some() {
                self.not_answered(&topic);
            }
            self.schedule(&topic);
        }
    }

    fn not_answered(&mut self, topic: &Arc<str>) {
        self.topics.entry(Arc::clone(topic)).and_modify(Cursor::not_answered);
        self.schedule(topic);
    }

    /// Makes sure that a topic has a cursor; a new one is behind from 0: its first read claims it. `false` if there is no
    /// room for it: then it is remembered that topics were missed.
    fn know(&mut self, topic: &Arc<str>) -> bool {
        if self.topics.contains_key(topic) {
            return true;
        }
        // Also beyond `TOPICS_MAX`: both together are not more than before.
        if let Some((topic, cursor)) = self.remembered.remove_entry(topic) {
            self.topics.insert(topic, cursor);
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

    /// Above half of `TOPICS_MAX` an idle cursor is dropped at once, so that a full table has no idle ones left to look
    /// for. One that is to be remembered makes room as well.
    fn forget_if_idle(&mut self, topic: &Arc<str>) {
        let many = self.topics.len() > TOPICS_MAX / 2;
        let Some(cursor) = self.topics.get(topic) else { return };
        if cursor.is_done() || many && cursor.is_idle() {
            self.topics.remove(topic);
        } else if cursor.is_remembered() {
            if self.remembered.len() >= REMEMBERED_MAX {
                self.remembered.clear();
            }
            self.remembered.extend(self.topics.remove_entry(topic));
        }
    }

    /// Adds a topic to those that wait to be read, if it is behind and not among them.
    fn schedule(&mut self, topic: &Arc<str>) {
        if self.topics.get_mut(topic).is_some_and(Cursor::schedule) {
            self.read_order.push_back(Arc::clone(topic));
        }
    }

    fn ask_rows(&mut self) -> Option<ReadWhat> {
        self.rows.ask().map(ReadWhat::Rows)
    }

    fn ask_documents(&mut self) -> Option<ReadWhat> {
        std::iter::from_fn(|| self.read_order.pop_front()).find_map(|topic| {
            let after = self.topics.get_mut(&topic)?.ask()?;
            Some(ReadWhat::Documents(topic, after))
        })
    }

    fn ask_topics(&mut self) -> Option<ReadWhat> {
        let now = self.looks_for_topics();
        self.missed &= !now;
        now.then_some(ReadWhat::Topics)
    }

    fn looks_for_topics(&self) -> bool {
        self.missed && self.topics.len() <= TOPICS_MAX / 2
    }

    fn is_answered(&mut self, read: &PageRequest) -> bool {
        self.reading.take_if(|asked| asked.number == read.number).is_some()
    }
}
