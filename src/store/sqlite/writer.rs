//! The writer thread: group commit, and stop-and-resume when the disk refuses.

use super::batch::{Batch, Place};
use super::checkpoint::Checkpoints;
use super::file::Lock;
use super::reader::Reader;
use super::tx::{Memory, MemoryDraft, ReadTx, Tx};
use super::{erase, errors, outbox, shrink};
use crate::ops::clock::machine_now;
use crate::store::shared_status::SharedStatus;
use crate::store::{CloseError, Limits, StoreHealth};
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::mpsc::{Receiver as StopSignal, RecvTimeoutError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// Runs a piece of test set-up on the connection before each try of a batch.
#[cfg(test)]
pub(super) type Hook = Box<dyn FnMut(&Connection) + Send>;

/// What the writer thread owns.
pub(super) struct Writer {
    pub(super) conn: Connection,
    /// Ends before the file is closed.
    pub(super) reader: Reader,
    pub(super) lock: Lock,
    pub(super) checkpoints: Checkpoints,
    pub(super) limits: Limits,
    pub(super) memory: Memory,
    pub(super) stop: StopSignal<()>,
    pub(super) retry_pause: Duration,
    pub(super) max_commit_delay: Duration,
    /// For waits that end.
    pub(super) timers: Runtime,
    pub(super) status: Arc<SharedStatus>,
    #[cfg(test)]
    pub(super) hook: Hook,
}

/// Why a batch was rolled back.
enum BatchError {
    /// The disk: the same batch again, later.
    Disk(rusqlite::Error),
    /// One verb failed by itself: the batch again without it.
    Verb(Place, rusqlite::Error),
}

impl Writer {
    /// Works until the queues are closed and empty; then everything that was queued is on disk.
    ///
    /// # Errors
    /// When it was told to stop while the disk refused: what was queued is not done, and nobody was answered.
    pub(super) fn run(mut self, mut batch: Batch) -> Result<(), CloseError> {
        while batch.fill(&self.timers, self.max_commit_delay) {
            self.commit(&mut batch)?;
            let verbs = batch.verbs();
            batch.release();
            self.checkpoints.committed(&self.conn, verbs);
        }
        self.finish();
        Ok(())
    }

    /// Tries until the batch is on disk.
    fn commit(&mut self, batch: &mut Batch) -> Result<(), CloseError> {
        loop {
            let begun = Instant::now();
            self.status.disk_asked(machine_now());
            let result = self.attempt(batch);
            self.status.disk_answered();
            match result {
                Ok(mut memory_draft) => {
                    memory_draft.figures.times.add(begun.elapsed());
                    self.tell_that_it_works();
                    let (topics, due) = (std::mem::take(&mut memory_draft.topics), memory_draft.due);
                    let claimed = std::mem::take(&mut memory_draft.claimed_on_accept);
                    let events = memory_draft.events.take().unwrap_or_default();
                    memory_draft.figures.commits += 1;
                    memory_draft.figures.verbs += batch.verbs() as u64;
                    let (shrunk, scrub) = (memory_draft.shrunk, memory_draft.scrub);
                    self.memory.adopt(memory_draft);
                    // Whoever hears of the batch sees its figures.
                    self.status.show(self.memory.figures);
                    self.status.notify(topics, due);
                    self.status.notify_claimed_on_accept(claimed);
                    self.status.notify_events(events);
                    self.status.disk_asked(machine_now());
                    if shrunk && let Err(error) = shrink::cut(&self.conn) {
                        tracing::warn!(%error, "the store could not be made shorter yet");
                    }
                    if scrub {
                        self.status.set_scrubbed(erase::scrub(&self.conn));
                    }
                    self.status.disk_answered();
                    self.tell_that_it_works();
                    return Ok(());
                }
                Err(BatchError::Verb(place, error)) => {
                    tracing::warn!(%error, "a verb of the store failed");
                    batch.fail(place, errors::of_verb(error));
                }
                Err(BatchError::Disk(error)) => {
                    let reason = error.to_string();
                    if self.status.set_health(StoreHealth::Blocked { reason: reason.clone() }) {
                        tracing::error!(%error, "the disk refuses the store; everything waits until it works again");
                    }
                    if self.stop.recv_timeout(self.retry_pause) != Err(RecvTimeoutError::Timeout) {
                        return Err(CloseError::Blocked { reason });
                    }
                }
            }
        }
    }

    fn tell_that_it_works(&self) {
        if self.status.set_health(StoreHealth::Ok) {
            tracing::info!("the store works again");
        }
    }

    fn attempt(&mut self, batch: &mut Batch) -> Result<MemoryDraft, BatchError> {
        #[cfg(test)]
        (self.hook)(&self.conn);
        let result = self.transaction(batch);
        if result.is_err() && !self.conn.is_autocommit() {
            // SQLite rolls back by itself after some failures; after the others it is told to.
            if let Err(error) = self.conn.execute_batch("ROLLBACK") {
                return Err(BatchError::Disk(error));
            }
        }
        result
    }

    fn transaction(&self, batch: &mut Batch) -> Result<MemoryDraft, BatchError> {
        let run = |sql| self.conn.prepare_cached(sql)?.execute([]);
        run("BEGIN IMMEDIATE").map_err(BatchError::Disk)?;
        let mut memory_draft = MemoryDraft::of(&self.memory);
        memory_draft.events = self.status.has_listener().then(Vec::new);
        let read = ReadTx { conn: &self.conn, limits: &self.limits };
        let mut tx = Tx { read, memory: &self.memory, memory_draft };
        batch.run(&mut tx).map_err(|(place, error)| {
            if errors::is_of_the_verb(&error) { BatchError::Verb(place, error) } else { BatchError::Disk(error) }
        })?;
        outbox::fill_events(&mut tx).map_err(BatchError::Disk)?;
        super::chat::write_figures(&tx).map_err(BatchError::Disk)?;
        let memory_draft = tx.memory_draft;
        run("COMMIT").map_err(BatchError::Disk)?;
        Ok(memory_draft)
    }

    /// Leaves one tidy file behind. If that fails, the write-ahead log stays, and the next start reads it.
    fn finish(self) {
        let Self { conn, reader, lock, checkpoints, .. } = self;
        drop(reader);
        let file = checkpoints.close();
        conn.flush_prepared_statement_cache();
        if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(%error, "the checkpoint of the write-ahead log failed");
        }
        drop(conn);
        drop(file);
        // The lock goes last: nobody may open the file while the connection still has it.
        drop(lock);
    }
}
