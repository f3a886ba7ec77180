//! What a verb works with: the connection inside a transaction, the limits, and the counters as they would be.

use super::claim_on_accept::OnAcceptByTransport;
use super::recipient_queue::{InFlight, NOTHING, RecipientQueue};
use super::sessions::QueueFacts;
use super::shrink::FreePages;
use crate::chat::id::Row;
use crate::chat::transport::Transport;
use crate::store::{Claimed, CommitEvent, Limits, QueueId, RowCount, StoreFigures};
use rusqlite::{Connection, OptionalExtension, Params};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Deref;

/// Document numbers reserved with one write.
const SEQ_BLOCK: i64 = 100_000;

/// The next document number, and the first that is not reserved.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DocumentNumbers {
    pub(super) next: i64,
    pub(super) ceiling: i64,
}

/// A settled row and when it was settled, in Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HistoryEntry {
    pub(super) at: u64,
    pub(super) row: Row,
}

/// Where the scan of the outbox for old documents stands (see `sweep`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum OutboxScan {
    /// Nothing was forgotten since the last scan.
    #[default]
    Idle,
    /// The scan goes on behind this document.
    After(String, i64),
}

/// What is known without asking the file. Changes only after a commit.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) figures: StoreFigures,
    pub(super) numbers: DocumentNumbers,
    /// Settled deliveries, oldest first.
    pub(super) deliveries: VecDeque<HistoryEntry>,
    /// Settled upstream messages, oldest first.
    pub(super) upstream: VecDeque<HistoryEntry>,
    pub(super) outbox_scan: OutboxScan,
    pub(super) free_pages: FreePages,
    pub(super) on_accept: OnAcceptByTransport,
    /// Users who were erased, and whose names are not free.
    pub(super) erased: u64,
    /// What each recipient's transport has; at most what was claimed and not recorded.
    in_flight: HashMap<RecipientQueue, InFlight>,
}

impl Memory {
    /// What the batch changed, after its commit.
    pub(super) fn adopt(&mut self, memory_draft: MemoryDraft) {
        self.figures = memory_draft.figures;
        self.numbers = memory_draft.numbers;
        self.outbox_scan = memory_draft.outbox_scan;
        self.free_pages = memory_draft.free_pages;
        self.on_accept = memory_draft.on_accept;
        self.erased = memory_draft.erased;
        memory_draft.deliveries.join(&mut self.deliveries);
        memory_draft.upstream.join(&mut self.upstream);
        self.figures.history_rows = (self.deliveries.len() + self.upstream.len()) as u64;
        for (queue, flights) in memory_draft.in_flight {
            if flights.is_over() {
                self.in_flight.remove(&queue);
            } else {
                self.in_flight.insert(queue, flights);
            }
        }
    }
}

/// Changes of one history.
#[derive(Debug, Default)]
pub(super) struct HistoryDraft {
    added: Vec<HistoryEntry>,
    forgotten: usize,
}

impl HistoryDraft {
    pub(super) fn add(&mut self, settled: HistoryEntry) {
        self.added.push(settled);
    }

    /// Takes the oldest entry out if there are more than `rows` of them or it is from before `since`.
    pub(super) fn forget(&mut self, history: &VecDeque<HistoryEntry>, rows: u64, since: u64) -> Option<Row> {
        let left = history.len() - self.forgotten + self.added.len();
        let oldest = history.get(self.forgotten)?;
        let too_many = u64::try_from(left).is_ok_and(|left| left > rows);
        (too_many || oldest.at < since).then(|| {
            self.forgotten += 1;
            oldest.row
        })
    }

    fn join(self, history: &mut VecDeque<HistoryEntry>) {
        history.drain(..self.forgotten);
        history.extend(self.added);
    }
}

/// Changes of one batch, thrown away when it is rolled back.
#[derive(Debug, Default)]
pub(super) struct MemoryDraft {
    pub(super) figures: StoreFigures,
    pub(super) numbers: DocumentNumbers,
    pub(super) deliveries: HistoryDraft,
    pub(super) upstream: HistoryDraft,
    pub(super) outbox_scan: OutboxScan,
    pub(super) free_pages: FreePages,
    /// Whether all free pages that the file can spare were given back now.
    pub(super) shrunk: bool,
    /// Whether the file is to be rebuilt after the commit.
    pub(super) scrub: bool,
    /// Topics that got a document.
    pub(super) topics: HashSet<String>,
    /// Whether a delivery became due.
    pub(super) due: bool,
    pub(super) on_accept: OnAcceptByTransport,
    /// As in [`Memory`].
    pub(super) erased: u64,
    /// What was claimed on acceptance, in this order.
    pub(super) claimed_on_accept: Vec<(Transport, Claimed)>,
    /// What the batch brings to the embedded broker, if there is one.
    pub(super) events: Option<Vec<CommitEvent>>,
    /// What was asked of the table `queues` in this batch.
    pub(super) queues: HashMap<QueueId, Option<QueueFacts>>,
    /// Of the queues that changed.
    in_flight: HashMap<RecipientQueue, InFlight>,
}

impl MemoryDraft {
    pub(super) fn of(memory: &Memory) -> Self {
        Self {
            figures: memory.figures,
            numbers: memory.numbers,
            outbox_scan: memory.outbox_scan.clone(),
            free_pages: memory.free_pages,
            on_accept: memory.on_accept.clone(),
            erased: memory.erased,
            ..Self::default()
        }
    }
}

pub(in crate::store) struct Tx<'a> {
    pub(super) read: ReadTx<'a>,
    pub(super) memory: &'a Memory,
    pub(super) memory_draft: MemoryDraft,
}

/// What a verb works with that changes nothing: any connection inside a transaction, and the limits.
#[derive(Clone, Copy)]
pub(in crate::store) struct ReadTx<'a> {
    pub(super) conn: &'a Connection,
    pub(super) limits: &'a Limits,
}

/// Whatever reads can also be asked beside what changes.
impl<'a> Deref for Tx<'a> {
    type Target = ReadTx<'a>;

    fn deref(&self) -> &ReadTx<'a> {
        &self.read
    }
}

impl ReadTx<'_> {
    /// The first row that a statement finds, which is kept prepared.
    pub(super) fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        self.conn.prepare_cached(sql)?.query_row(params, read).optional()
    }

    pub(super) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.conn.prepare_cached(sql)?.query_map(params, read)?.collect()
    }

    pub(super) fn exists(&self, sql: &str, params: impl Params) -> rusqlite::Result<bool> {
        self.conn.prepare_cached(sql)?.exists(params)
    }
}

impl Tx<'_> {
    /// Runs a statement that is kept prepared; returns how many rows it changed.
    pub(super) fn execute(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.conn.prepare_cached(sql)?.execute(params)
    }

    /// What of this queue is in flight.
    pub(super) fn in_flight(&self, queue: &RecipientQueue) -> &InFlight {
        self.memory_draft.in_flight.get(queue).or_else(|| self.memory.in_flight.get(queue)).unwrap_or(&NOTHING)
    }

    /// The same, to be changed.
    pub(super) fn in_flight_mut(&mut self, queue: &RecipientQueue) -> &mut InFlight {
        let memory = self.memory;
        let known = || memory.in_flight.get(queue).unwrap_or(&NOTHING).clone();
        self.memory_draft.in_flight.entry(queue.clone()).or_insert_with(known)
    }

    /// The next document number. Numbers never repeat, not even after a restart, because whole blocks are reserved.
    pub(super) fn next_seq(&mut self) -> rusqlite::Result<i64> {
        let seq = self.memory_draft.numbers.next;
        if seq >= self.memory_draft.numbers.ceiling {
            self.memory_draft.numbers.ceiling = seq + SEQ_BLOCK;
            self.execute("UPDATE marks SET seq_ceiling = ?1", [seq + SEQ_BLOCK])?;
        }
        self.memory_draft.numbers.next += 1;
        Ok(seq)
    }

    /// Rows of a queue went that nobody acknowledged: the broker, which counts them, is told.
    pub(super) fn rows_gone(&mut self, queue: QueueId, gone: RowCount) {
        if let Some(events) = &mut self.memory_draft.events
            && gone != RowCount::default()
        {
            events.push(CommitEvent::Gone { queue, gone });
        }
    }

    /// Whether there is no room for so many rows and bytes more. What brings no row needs room for one all the same.
    pub(super) fn queue_is_full(&self, rows: u64, bytes: u64) -> bool {
        let figures = &self.memory_draft.figures;
        figures.queue_rows + rows.max(1) > self.limits.queue_rows
            || figures.queue_bytes + bytes > self.limits.queue_bytes
    }

    pub(super) fn spool_is_full(&self, bytes: u64) -> bool {
        let figures = &self.memory_draft.figures;
        figures.spool_rows >= self.limits.spool_rows || figures.spool_bytes + bytes > self.limits.spool_bytes
    }
}
