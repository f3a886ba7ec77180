//! How much the store holds, what it found at the start, and what it let go.

use crate::chat::id::Sid;
use std::time::Duration;

/// How long after its deadline a sent message may still be confirmed by the device: the receipt of a message that was
/// handed over in its last second travels, too.
pub const RECEIPT_GRACE_MS: u64 = 10 * 60 * 1000;

/// Figures for metrics, at one moment: they follow the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreFigures {
    /// Deliveries of downstream messages that are still to be pushed.
    pub queue_rows: u64,
    /// The bytes that are kept for them; what several recipients get is there once.
    pub queue_bytes: u64,
    /// Upstream messages not yet with their BAL.
    pub spool_rows: u64,
    /// The bytes of their payloads.
    pub spool_bytes: u64,
    /// What chat users wrote and is kept: messages and invitations.
    pub chat_rows: u64,
    /// The bytes of their documents.
    pub chat_bytes: u64,
    /// Of these, how many have a push that waits for room in the queue.
    pub chat_unpushed: u64,
    /// Messages of chat users that are to be deleted at a time.
    pub chat_expiring: u64,
    /// Messages of chat users that are to be sent at a time.
    pub chat_scheduled: u64,
    /// Settled messages that are remembered, both ways; not those that are kept.
    pub history_rows: u64,
    /// Notes dropped because nobody read them, since the start.
    pub notes_dropped: u64,
    /// Transactions since the start; an empty batch is none.
    pub commits: u64,
    /// Verbs since the start; divided by `commits`, the size of a batch.
    pub verbs: u64,
    /// How long the transactions took.
    pub times: CommitTimes,
}

/// The upper limits of [`CommitTimes::buckets`].
pub const COMMIT_LIMITS: [Duration; 10] = [
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// How long transactions took, each with its way to the disk. What the disk refused does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitTimes {
    /// How many took no longer than each of [`COMMIT_LIMITS`], and longer than the one before it.
    pub buckets: [u64; COMMIT_LIMITS.len()],
    /// All of them together.
    pub sum: Duration,
}

impl CommitTimes {
    pub(super) fn add(&mut self, time: Duration) {
        self.sum += time;
        let bucket = COMMIT_LIMITS.iter().zip(&mut self.buckets).find(|(limit, _)| time <= **limit);
        if let Some((_, count)) = bucket {
            *count += 1;
        }
    }
}

/// What is to be sent by one transport, and is not on its way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueState {
    /// Which one.
    pub transport: String,
    /// Messages that may go now.
    pub due: u64,
    /// Messages that are put off until a time.
    pub put_off: u64,
    /// Messages behind another of their recipient.
    pub behind: u64,
    /// When the oldest of them was accepted, in Unix milliseconds.
    pub oldest_at: u64,
}

impl StoreFigures {
    pub(super) fn unqueue(&mut self, bytes: u64) {
        self.queue_rows = self.queue_rows.saturating_sub(1);
        self.queue_bytes = self.queue_bytes.saturating_sub(bytes);
    }

    pub(super) fn unspool(&mut self, bytes: u64) {
        self.spool_rows = self.spool_rows.saturating_sub(1);
        self.spool_bytes = self.spool_bytes.saturating_sub(bytes);
    }
}

/// What was found at the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Deliveries that were in flight; they are due again, and marked.
    pub crashed: u64,
    /// Deliveries whose transport is not configured any more; they go by the first one that is.
    pub rerouted: u64,
    /// Documents that may have been published already; they are marked.
    pub redelivered: u64,
    /// The newest id on disk: new ones must be greater.
    pub last_sid: Option<Sid>,
}

/// What one call of [`super::Store::sweep`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// How many deliveries expired whose sender was told so.
    pub expired: u64,
    /// There is more to do at once.
    pub more: bool,
}
