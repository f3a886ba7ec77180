//! What a device got, in order: the truth that tests compare with what was sent.

use super::device::Message;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// One delivery.
#[derive(Debug, Clone)]
pub struct Record {
    /// Counted from 1 per device, over everything it ever got.
    pub seq: u64,
    /// What it got.
    pub message: Arc<Message>,
    /// When, in Unix milliseconds.
    pub at: u64,
    /// 1 for the first copy of an id, 2 and more for duplicates.
    pub copy: u32,
}

/// The last deliveries of one device.
#[derive(Debug, Default)]
pub(super) struct Log {
    records: VecDeque<Record>,
    /// Copies of each id in `records`.
    copies: HashMap<Arc<str>, u32>,
    received: u64,
    duplicates: u64,
}

impl Log {
    /// Everything ever received, duplicates included.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// How many of those had an id that was still remembered.
    pub(super) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// The number of the oldest record that is remembered.
    pub(super) fn first_seq(&self) -> Option<u64> {
        self.records.front().map(|record| record.seq)
    }

    /// The remembered records behind number `after`.
    pub(super) fn after(&self, after: u64) -> impl Iterator<Item = &Record> {
        let skip = self.first_seq().map_or(0, |first| after.saturating_add(1).saturating_sub(first));
        self.records.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX))
    }

    /// Remembers a delivery and says which copy of the id it is.
    pub(super) fn add(&mut self, message: Arc<Message>, at: u64) -> u32 {
        let copies = self.copies.entry(message.id.clone()).or_insert(0);
        *copies += 1;
        let copy = *copies;
        self.received += 1;
        self.duplicates += u64::from(copy > 1);
        self.records.push_back(Record { seq: self.received, message, at, copy });
        copy
    }

    /// Forgets the oldest record and gives it back.
    pub(super) fn forget_oldest(&mut self) -> Option<Record> {
        let record = self.records.pop_front()?;
        if let Some(copies) = self.copies.get_mut(&record.message.id) {
            *copies -= 1;
            if *copies == 0 {
                self.copies.remove(&record.message.id);
            }
        }
        Some(record)
    }

    /// How many records are remembered.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}
