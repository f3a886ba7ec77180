//! The writer thread: group commit, and stop-and-resume when the disk refuses.

use super::file::Lock;
use super::handle::StoreError;
use super::tx::{Counts, Draft, Limits, Memory, Tx};
use rusqlite::{Connection, ErrorCode};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver as StopSignal, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Verbs per transaction, at most.
pub const BATCH_VERBS: usize = 512;

/// Whether the store takes what it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    /// It does.
    Ok,
    /// The disk is full or refuses: nothing is lost, nothing is answered, and the same work is tried again.
    Blocked {
        /// SQLite's words.
        reason: String,
    },
}

/// Figures for metrics, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreFigures {
    /// Downstream messages not sent yet.
    pub queue_rows: u64,
    /// Their bytes.
    pub queue_bytes: u64,
    /// Upstream messages not yet with their BAL.
    pub spool_rows: u64,
    /// Their bytes.
    pub spool_bytes: u64,
    /// Settled messages that are remembered, both ways.
    pub history_rows: u64,
    /// Notes dropped because nobody read them, since the start.
    pub notes_dropped: u64,
    /// Transactions since the start.
    pub commits: u64,
    /// Verbs since the start; divided by `commits`, the size of a batch.
    pub verbs: u64,
}

/// What the writer thread shows to the handles.
#[derive(Debug)]
pub(super) struct Board {
    queue_rows: AtomicU64,
    queue_bytes: AtomicU64,
    spool_rows: AtomicU64,
    spool_bytes: AtomicU64,
    history_rows: AtomicU64,
    notes_dropped: AtomicU64,
    commits: AtomicU64,
    verbs: AtomicU64,
    /// A set shared under a mutex, because a topic that gets a thousand documents is to be looked at once: a channel
    /// would have to be unbounded or make the writer wait for the reader. Held for an insert or a take only.
    fresh_topics: Mutex<BTreeSet<String>>,
    pub(super) fresh: Notify,
    pub(super) health: watch::Sender<StoreHealth>,
    pub(super) due: watch::Sender<u64>,
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            queue_rows: AtomicU64::new(0),
            queue_bytes: AtomicU64::new(0),
            spool_rows: AtomicU64::new(0),
            spool_bytes: AtomicU64::new(0),
            history_rows: AtomicU64::new(0),
            notes_dropped: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            verbs: AtomicU64::new(0),
            fresh_topics: Mutex::new(BTreeSet::new()),
            fresh: Notify::new(),
            health: watch::Sender::new(StoreHealth::Ok),
            due: watch::Sender::new(0),
        }
    }

    pub(super) fn figures(&self) -> StoreFigures {
        StoreFigures {
            queue_rows: self.queue_rows.load(Relaxed),
            queue_bytes: self.queue_bytes.load(Relaxed),
            spool_rows: self.spool_rows.load(Relaxed),
            spool_bytes: self.spool_bytes.load(Relaxed),
            history_rows: self.history_rows.load(Relaxed),
            notes_dropped: self.notes_dropped.load(Relaxed),
            commits: self.commits.load(Relaxed),
            verbs: self.verbs.load(Relaxed),
        }
    }

    pub(super) fn take_fresh_topics(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.fresh_topics.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn show(&self, memory: &Memory) {
        let Counts { queue_rows, queue_bytes, spool_rows, spool_bytes, notes_dropped, .. } = memory.counts;
        self.queue_rows.store(queue_rows, Relaxed);
        self.queue_bytes.store(queue_bytes, Relaxed);
        self.spool_rows.store(spool_rows, Relaxed);
        self.spool_bytes.store(spool_bytes, Relaxed);
        self.notes_dropped.store(notes_dropped, Relaxed);
        self.history_rows.store((memory.deliveries.len() + memory.inbox.len()) as u64, Relaxed);
    }

    fn announce(&self, draft: &mut Draft, verbs: usize) {
        self.commits.fetch_add(1, Relaxed);
        self.verbs.fetch_add(verbs as u64, Relaxed);
        if !draft.topics.is_empty() {
            self.fresh_topics.lock().unwrap_or_else(PoisonError::into_inner).extend(draft.topics.drain());
            self.fresh.notify_one();
        }
        if draft.due {
            self.due.send_modify(|n| *n = n.wrapping_add(1));
        }
    }
}

/// A verb in the queue. It may run several times before its answer is released.
pub(super) trait Work: Send {
    /// Runs it; keeps the answer.
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// It failed by itself; that is its answer.
    fn fail(&mut self, error: rusqlite::Error);
    /// Whether it still has to run.
    fn open(&self) -> bool;
    /// Lets the answer go, after the commit.
    fn release(self: Box<Self>);
}

/// A verb with its answer.
pub(super) struct Job<F, T> {
    verb: F,
    answer: Option<Result<T, StoreError>>,
    failed: bool,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job<F, T> {
    pub(super) fn new(verb: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        (Self { verb, answer: None, failed: false, reply }, answer)
    }
}

impl<F, T> Work for Job<F, T>
where
    F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.answer = Some(Ok((self.verb)(tx)?));
        Ok(())
    }

    fn fail(&mut self, error: rusqlite::Error) {
        self.answer = Some(Err(StoreError::Sqlite(error)));
        self.failed = true;
    }

    fn open(&self) -> bool {
        !self.failed
    }

    fn release(self: Box<Self>) {
        if let Some(answer) = self.answer {
            // Whoever asked may be gone; what was done is done.
            let _ = self.reply.send(answer);
        }
    }
}

/// What goes through the queue.
pub(super) enum Item {
    Work(Box<dyn Work>),
    /// Finish what is queued, then end.
    Close,
}

/// How the thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Everything that was queued is on disk.
    Drained,
    /// It was told to stop while the disk refused; what was queued is not done, and nobody was answered.
    Blocked,
}

/// Runs a piece of test set-up on the connection before each try of a batch.
#[cfg(test)]
pub(super) type Hook = Box<dyn FnMut(&Connection) + Send>;

/// The thread's belongings.
pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) lock: Lock,
    pub(super) limits: Limits,
    pub(super) memory: Memory,
    pub(super) queue: mpsc::Receiver<Item>,
    pub(super) stop: StopSignal<()>,
    pub(super) retry_pause: Duration,
    pub(super) board: Arc<Board>,
    #[cfg(test)]
    pub(super) hook: Hook,
}

/// Why a batch was rolled back.
enum Trouble {
    /// The disk: the same batch again, later.
    Disk(rusqlite::Error),
    /// One verb failed by itself: the batch again without it.
    Verb(usize, rusqlite::Error),
}

impl Writer {
    /// Works until the queue is closed and empty, or until it is told to stop while blocked.
    pub(super) fn run(mut self) -> End {
        let mut batch = Vec::new();
        while let Some(item) = self.queue.blocking_recv() {
            self.gather(item, &mut batch);
            if !self.commit(&mut batch) {
                return End::Blocked;
            }
            batch.drain(..).for_each(Work::release);
        }
        self.finish();
        End::Drained
    }

    /// What is queued by now, without waiting for more.
    fn gather(&mut self, first: Item, batch: &mut Vec<Box<dyn Work>>) {
        let mut next = Some(first);
        while let Some(item) = next {
            match item {
                Item::Work(work) => batch.push(work),
                Item::Close => self.queue.close(),
            }
            next = if batch.len() < BATCH_VERBS { self.queue.try_recv().ok() } else { None };
        }
    }

    /// Tries until the batch is on disk; false if the thread has to end before.
    fn commit(&mut self, batch: &mut [Box<dyn Work>]) -> bool {
        if batch.is_empty() {
            return true;
        }
        loop {
            match self.attempt(batch) {
                Ok(mut draft) => {
                    self.resumed();
                    self.board.announce(&mut draft, batch.len());
                    self.memory.adopt(draft);
                    self.board.show(&self.memory);
                    return true;
                }
                Err(Trouble::Verb(index, error)) => {
                    tracing::warn!(%error, "a verb of the store failed");
                    batch[index].fail(error);
                }
                Err(Trouble::Disk(error)) => {
                    self.blocked(&error);
                    match self.stop.recv_timeout(self.retry_pause) {
                        Err(RecvTimeoutError::Timeout) => {}
                        Ok(()) | Err(RecvTimeoutError::Disconnected) => return false,
                    }
                }
            }
        }
    }

    fn attempt(&mut self, batch: &mut [Box<dyn Work>]) -> Result<Draft, Trouble> {
        #[cfg(test)]
        (self.hook)(&self.conn);
        let result = self.transaction(batch);
        if result.is_err() && !self.conn.is_autocommit() {
            // SQLite rolls back by itself after some failures; after the others it is told to.
            if let Err(error) = self.conn.execute_batch("ROLLBACK") {
                return Err(Trouble::Disk(error));
            }
        }
        result
    }

    fn transaction(&self, batch: &mut [Box<dyn Work>]) -> Result<Draft, Trouble> {
        let run = |sql| self.conn.prepare_cached(sql)?.execute([]);
        run("BEGIN IMMEDIATE").map_err(Trouble::Disk)?;
        let mut tx =
            Tx { conn: &self.conn, limits: &self.limits, memory: &self.memory, draft: Draft::of(&self.memory) };
        for (index, work) in batch.iter_mut().enumerate().filter(|(_, work)| work.open()) {
            work.run(&mut tx).map_err(|error| {
                if is_own_fault(&error) { Trouble::Verb(index, error) } else { Trouble::Disk(error) }
            })?;
        }
        let draft = tx.draft;
        run("COMMIT").map_err(Trouble::Disk)?;
        Ok(draft)
    }

    fn blocked(&self, error: &rusqlite::Error) {
        let reason = error.to_string();
        let news = self.board.health.send_if_modified(|health| {
            let news = *health == StoreHealth::Ok;
            *health = StoreHealth::Blocked { reason };
            news
        });
        if news {
            tracing::error!(%error, "the disk refuses the store; everything waits until it works again");
        }
    }

    fn resumed(&self) {
        let news = self.board.health.send_if_modified(|health| {
            let news = *health != StoreHealth::Ok;
            *health = StoreHealth::Ok;
            news
        });
        if news {
            tracing::info!("the store works again");
        }
    }

    /// Leaves one tidy file behind. If that fails, the write-ahead log stays, and the next start reads it.
    fn finish(self) {
        let Self { conn, lock, .. } = self;
        conn.flush_prepared_statement_cache();
        if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(%error, "the write-ahead log could not be folded in");
        }
        // The lock goes last: nobody may open the file while the connection still has it.
        drop(conn);
        drop(lock);
    }
}

/// Whether the verb itself is at fault, so that it would fail again on a healthy disk.
fn is_own_fault(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::CannotOpen
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::OutOfMemory
                | ErrorCode::PermissionDenied
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::NoLargeFileSupport
        )
    )
}
