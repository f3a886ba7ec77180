//! The writer thread: group commit, and stop-and-resume when the disk refuses.

use super::file::Lock;
use super::tx::{Draft, Memory, Tx};
use crate::store::{CloseError, Limits, StoreError, StoreFigures};
use rusqlite::{Connection, ErrorCode};
use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver as StopSignal, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Verbs per transaction, at most.
pub const BATCH_VERBS: usize = 512;

/// Whether the store takes what it is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StoreHealth {
    /// It does.
    #[default]
    Ok,
    /// The disk is full or refuses: nothing is lost, nothing is answered, and the same work is tried again.
    Blocked {
        /// SQLite's words.
        reason: String,
    },
}

/// What the writer thread shows to the handles.
#[derive(Debug, Default)]
pub(in crate::store) struct Board {
    /// Under a mutex like the topics below; held for a copy only.
    figures: Mutex<StoreFigures>,
    /// A set shared under a mutex, because a topic that gets a thousand documents is to be looked at once: a channel
    /// would have to be unbounded or make the writer wait for the reader. Held for an insert or a take only.
    fresh_topics: Mutex<BTreeSet<String>>,
    pub(in crate::store) fresh: Notify,
    pub(in crate::store) health: watch::Sender<StoreHealth>,
    pub(in crate::store) due: watch::Sender<u64>,
}

impl Board {
    pub(in crate::store) fn figures(&self) -> StoreFigures {
        *lock(&self.figures)
    }

    pub(in crate::store) fn show(&self, figures: StoreFigures) {
        *lock(&self.figures) = figures;
    }

    pub(in crate::store) fn take_fresh_topics(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.fresh_topics))
    }

    fn announce(&self, draft: &mut Draft) {
        if !draft.topics.is_empty() {
            lock(&self.fresh_topics).extend(draft.topics.drain());
            self.fresh.notify_one();
        }
        if draft.due {
            self.due.send_modify(|n| *n = n.wrapping_add(1));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A verb in the queue. It may run several times before its answer is released.
pub(in crate::store) trait Work: Send {
    /// Runs it, unless it failed by itself before; keeps the answer.
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// It failed by itself; that is its answer.
    fn fail(&mut self, error: rusqlite::Error);
    /// Lets the answer go, after the commit.
    fn release(self: Box<Self>);
}

/// A verb with its answer.
pub(in crate::store) struct Job<F, T> {
    verb: F,
    answer: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job<F, T> {
    pub(in crate::store) fn new(verb: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        (Self { verb, answer: None, reply }, answer)
    }
}

impl<F, T> Work for Job<F, T>
where
    F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        if !matches!(self.answer, Some(Err(_))) {
            self.answer = Some(Ok((self.verb)(tx)?));
        }
        Ok(())
    }

    fn fail(&mut self, error: rusqlite::Error) {
        self.answer = Some(Err(StoreError::Sqlite(error)));
    }

    fn release(self: Box<Self>) {
        if let Some(answer) = self.answer {
            // Whoever asked may be gone; what was done is done.
            let _ = self.reply.send(answer);
        }
    }
}

/// What goes through the queue.
pub(in crate::store) enum Item {
    Work(Box<dyn Work>),
    /// Finish what is queued, then end.
    Close,
}

/// Runs a piece of test set-up on the connection before each try of a batch.
#[cfg(test)]
pub(in crate::store) type Hook = Box<dyn FnMut(&Connection) + Send>;

/// The thread's belongings.
pub(in crate::store) struct Writer {
    pub(in crate::store) conn: Connection,
    pub(in crate::store) lock: Lock,
    pub(in crate::store) limits: Limits,
    pub(in crate::store) memory: Memory,
    pub(in crate::store) queue: mpsc::Receiver<Item>,
    pub(in crate::store) stop: StopSignal<()>,
    pub(in crate::store) retry_pause: Duration,
    pub(in crate::store) board: Arc<Board>,
    #[cfg(test)]
    pub(in crate::store) hook: Hook,
}

/// Why a batch was rolled back.
enum Trouble {
    /// The disk: the same batch again, later.
    Disk(rusqlite::Error),
    /// One verb failed by itself: the batch again without it.
    Verb(usize, rusqlite::Error),
}

impl Writer {
    /// Works until the queue is closed and empty; then everything that was queued is on disk.
    ///
    /// # Errors
    /// When it was told to stop while the disk refused: what was queued is not done, and nobody was answered.
    pub(in crate::store) fn run(mut self) -> Result<(), CloseError> {
        let mut batch = Vec::new();
        while let Some(item) = self.queue.blocking_recv() {
            self.gather(item, &mut batch);
            self.commit(&mut batch)?;
            batch.drain(..).for_each(Work::release);
        }
        self.finish();
        Ok(())
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

    /// Tries until the batch is on disk.
    fn commit(&mut self, batch: &mut [Box<dyn Work>]) -> Result<(), CloseError> {
        if batch.is_empty() {
            return Ok(());
        }
        loop {
            match self.attempt(batch) {
                Ok(mut draft) => {
                    if self.turned(StoreHealth::Ok) {
                        tracing::info!("the store works again");
                    }
                    self.board.announce(&mut draft);
                    draft.figures.commits += 1;
                    draft.figures.verbs += batch.len() as u64;
                    self.memory.adopt(draft);
                    self.board.show(self.memory.figures);
                    return Ok(());
                }
                Err(Trouble::Verb(index, error)) => {
                    tracing::warn!(%error, "a verb of the store failed");
                    batch[index].fail(error);
                }
                Err(Trouble::Disk(error)) => {
                    let reason = error.to_string();
                    if self.turned(StoreHealth::Blocked { reason: reason.clone() }) {
                        tracing::error!(%error, "the disk refuses the store; everything waits until it works again");
                    }
                    if self.stop.recv_timeout(self.retry_pause) != Err(RecvTimeoutError::Timeout) {
                        return Err(CloseError::Blocked { reason });
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
        for (index, work) in batch.iter_mut().enumerate() {
            work.run(&mut tx).map_err(|error| {
                if is_own_fault(&error) { Trouble::Verb(index, error) } else { Trouble::Disk(error) }
            })?;
        }
        let draft = tx.draft;
        run("COMMIT").map_err(Trouble::Disk)?;
        Ok(draft)
    }

    /// Shows how the disk is. True if it is news: another reason of the same trouble is none.
    fn turned(&self, now: StoreHealth) -> bool {
        self.board.health.send_if_modified(|health| {
            let news = (*health == StoreHealth::Ok) != (now == StoreHealth::Ok);
            *health = now;
            news
        })
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
