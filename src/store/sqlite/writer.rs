//! The writer thread: group commit, and stop-and-resume when the disk refuses.

use super::file::Lock;
use super::tx::{Draft, Memory, Tx};
use super::{fault, outbox, shrink};
use crate::store::board::Board;
use crate::store::{CloseError, Committed, Limits, StoreError, StoreHealth};
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::mpsc::{Receiver as StopSignal, RecvTimeoutError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// Verbs per transaction, at most.
const BATCH_VERBS: usize = 512;
/// Verbs that must not wait may be so many more than the others ([`Queue::submit_reserved`]).
const RESERVE: usize = 16_384;

/// A verb in the queue. It may run several times before its answer is released.
pub(super) trait Work: Send {
    /// Runs it, unless it failed by itself before; keeps the answer.
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// It failed by itself; that is its answer.
    fn fail(&mut self, error: StoreError);
    /// Lets the answer go, after the commit.
    fn release(self: Box<Self>);
}

pub(super) struct Job<F, T> {
    verb: F,
    answer: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job<F, T> {
    pub(super) fn new(verb: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
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

    fn fail(&mut self, error: StoreError) {
        self.answer = Some(Err(error));
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
    /// It may wait for others ([`Queue::submit_patiently`]).
    Patient(Box<dyn Work>),
    /// Finish what is queued, then end.
    Close,
}

/// What waits for the thread, and the room that it takes meanwhile.
pub(super) struct Queued {
    item: Item,
    _room: Option<OwnedSemaphorePermit>,
}

/// The way to the thread.
#[derive(Debug, Clone)]
pub(in crate::store) struct Queue {
    verbs: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
}

impl Queue {
    /// One with room for so many verbs and the [`RESERVE`], and its end at the thread.
    pub(super) fn new(room: usize) -> (Self, mpsc::Receiver<Queued>) {
        let (verbs, queued) = mpsc::channel(room + RESERVE);
        (Self { verbs, room: Arc::new(Semaphore::new(room)) }, queued)
    }

    /// Asks for what `verb` does. It may be done several times, until one of them is on disk.
    pub(in crate::store) async fn submit<T, F>(&self, verb: F) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let room = self.wait_for_room().await?;
        self.send(verb, Item::Work, Some(room)).await
    }

    /// The same for what must not wait behind others: it has a reserve of its own, and waits when that is used up too.
    pub(in crate::store) async fn submit_reserved<T, F>(&self, verb: F) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.send(verb, Item::Work, None).await
    }

    /// The same as [`Self::submit`], but what `verb` does may be forgotten in a crash without harm: it goes with the next transaction of others,
    /// or after [`super::open::Settings::patience`] in one of its own.
    pub(in crate::store) async fn submit_patiently<T, F>(&self, verb: F) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let room = self.wait_for_room().await?;
        self.send(verb, Item::Patient, Some(room)).await
    }

    async fn wait_for_room(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        Arc::clone(&self.room).acquire_owned().await.map_err(|_closed| StoreError::Closed)
    }

    async fn send<T, F>(
        &self,
        verb: F,
        how: fn(Box<dyn Work>) -> Item,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (job, answer) = Job::new(verb);
        let queued = Queued { item: how(Box::new(job)), _room: room };
        self.verbs.send(queued).await.map_err(|_| StoreError::Closed)?;
        Ok(Committed::new(answer))
    }

    /// Lets the thread end when everything before this is done.
    pub(super) async fn close(&self) {
        let _ = self.verbs.send(Queued { item: Item::Close, _room: None }).await;
    }
}

/// Runs a piece of test set-up on the connection before each try of a batch.
#[cfg(test)]
pub(super) type Hook = Box<dyn FnMut(&Connection) + Send>;

/// What the writer thread owns.
pub(super) struct Writer {
    pub(super) conn: Connection,
    pub(super) lock: Lock,
    pub(super) limits: Limits,
    pub(super) memory: Memory,
    pub(super) queue: mpsc::Receiver<Queued>,
    pub(super) stop: StopSignal<()>,
    pub(super) retry_pause: Duration,
    pub(super) patience: Duration,
    /// For waits that end.
    pub(super) timers: Runtime,
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
    /// Works until the queue is closed and empty; then everything that was queued is on disk.
    ///
    /// # Errors
    /// When it was told to stop while the disk refused: what was queued is not done, and nobody was answered.
    pub(super) fn run(mut self) -> Result<(), CloseError> {
        let mut batch = Vec::new();
        while let Some(queued) = self.queue.blocking_recv() {
            self.gather(queued, &mut batch);
            self.commit(&mut batch)?;
            batch.drain(..).for_each(Work::release);
        }
        self.finish();
        Ok(())
    }

    /// What is queued by now. If all of that has time, what comes until then, up to the first that has none.
    fn gather(&mut self, first: Queued, batch: &mut Vec<Box<dyn Work>>) {
        let (mut next, mut urgent, until) = (Some(first), false, Instant::now() + self.patience);
        while let Some(queued) = next {
            match queued.item {
                Item::Work(work) => {
                    batch.push(work);
                    urgent = true;
                }
                Item::Patient(work) => batch.push(work),
                Item::Close => self.queue.close(),
            }
            if batch.len() >= BATCH_VERBS {
                return;
            }
            next = match self.queue.try_recv() {
                Err(TryRecvError::Empty) if !urgent => self.wait_for_more(until),
                queued => queued.ok(),
            };
        }
    }

    fn wait_for_more(&mut self, until: Instant) -> Option<Queued> {
        let Self { timers, queue, .. } = self;
        timers.block_on(async { timeout_at(until, queue.recv()).await.ok().flatten() })
    }

    /// Tries until the batch is on disk.
    fn commit(&mut self, batch: &mut [Box<dyn Work>]) -> Result<(), CloseError> {
        if batch.is_empty() {
            return Ok(());
        }
        loop {
            let begun = Instant::now();
            match self.attempt(batch) {
                Ok(mut draft) => {
                    draft.figures.times.add(begun.elapsed());
                    if self.board.turned(StoreHealth::Ok) {
                        tracing::info!("the store works again");
                    }
                    self.board.announce(std::mem::take(&mut draft.topics), draft.due);
                    self.board.announce_gone(std::mem::take(&mut draft.gone));
                    self.board.announce_news(draft.fresh.take().unwrap_or_default());
                    draft.figures.commits += 1;
                    draft.figures.verbs += batch.len() as u64;
                    let shrunk = draft.shrunk;
                    self.memory.adopt(draft);
                    self.board.show(self.memory.figures);
                    if shrunk && let Err(error) = shrink::cut(&self.conn) {
                        tracing::warn!(%error, "the store could not be made shorter yet");
                    }
                    return Ok(());
                }
                Err(Trouble::Verb(index, error)) => {
                    tracing::warn!(%error, "a verb of the store failed");
                    batch[index].fail(fault::of_verb(error));
                }
                Err(Trouble::Disk(error)) => {
                    let reason = error.to_string();
                    if self.board.turned(StoreHealth::Blocked { reason: reason.clone() }) {
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
        let mut draft = Draft::of(&self.memory);
        draft.fresh = self.board.is_heard().then(Vec::new);
        let mut tx = Tx { conn: &self.conn, limits: &self.limits, memory: &self.memory, draft };
        for (index, work) in batch.iter_mut().enumerate() {
            work.run(&mut tx).map_err(|error| {
                if fault::is_of_the_verb(&error) { Trouble::Verb(index, error) } else { Trouble::Disk(error) }
            })?;
        }
        outbox::fill_news(&mut tx).map_err(Trouble::Disk)?;
        let draft = tx.draft;
        run("COMMIT").map_err(Trouble::Disk)?;
        Ok(draft)
    }

    /// Leaves one tidy file behind. If that fails, the write-ahead log stays, and the next start reads it.
    fn finish(self) {
        let Self { conn, lock, .. } = self;
        conn.flush_prepared_statement_cache();
        if let Err(error) = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::warn!(%error, "the checkpoint of the write-ahead log failed");
        }
        // The lock goes last: nobody may open the file while the connection still has it.
        drop(conn);
        drop(lock);
    }
}
