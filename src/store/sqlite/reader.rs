//! The reader thread: pages for users, beside the writer.
//!
//! A page of a history reads many rows and changes none. In the writer's transactions it would hold up every message that comes
//! meanwhile, so a thread reads it by a connection of its own.
//!
//! A read goes through the queue of verbs, and to this thread when the transaction is on disk in which its turn came. So it finds
//! whatever was asked for before it, as every verb does, and nothing that could be lost again.

use super::errors;
use super::file;
use super::tx::{ReadTx, Tx};
use super::verb_queue::QueuedVerb;
use crate::store::{Committed, Limits, OpenError, StoreError};
use rusqlite::Connection;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Reads that are under way at most: one more waits until one of these is answered.
const READS: usize = 256;

/// A read and who waits for it, whatever it finds.
trait QueuedRead: Send {
    /// Reads and answers. May be asked again when it failed.
    fn read(&mut self, tx: &ReadTx<'_>) -> rusqlite::Result<()>;

    /// Answers that it cannot be read.
    fn fail(&mut self, error: StoreError);
}

struct ReadCall<F, T> {
    read: F,
    /// Gone with the answer.
    reply: Option<oneshot::Sender<Result<T, StoreError>>>,
    _place: OwnedSemaphorePermit,
}

impl<F, T> QueuedRead for ReadCall<F, T>
where
    F: FnMut(&ReadTx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn read(&mut self, tx: &ReadTx<'_>) -> rusqlite::Result<()> {
        if self.reply.as_ref().is_none_or(oneshot::Sender::is_closed) {
            return Ok(());
        }
        let found = (self.read)(tx)?;
        self.answer(Ok(found));
        Ok(())
    }

    fn fail(&mut self, error: StoreError) {
        self.answer(Err(error));
    }
}

impl<F, T> ReadCall<F, T> {
    fn answer(&mut self, answer: Result<T, StoreError>) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        }
    }
}

/// What the thread is told.
enum Told {
    Read(Box<dyn QueuedRead>),
    Close,
}

/// A read on its way through the queue of verbs.
struct HandOver {
    read: Box<dyn QueuedRead>,
    thread: SyncSender<Told>,
}

impl QueuedVerb for HandOver {
    fn run(&mut self, _: &mut Tx<'_>) -> rusqlite::Result<()> {
        Ok(())
    }

    fn fail(&mut self, error: StoreError) {
        self.read.fail(error);
    }

    fn release(self: Box<Self>) {
        let Self { read, thread } = *self;
        // There is a place for each read, so this fails only when the thread has ended; whoever asked is told so.
        let _ = thread.try_send(Told::Read(read));
    }
}

/// Where reads are asked for. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::store) struct Reads {
    thread: SyncSender<Told>,
    places: Arc<Semaphore>,
}

impl Reads {
    /// A read, to be put into the queue of verbs. Waits for a place.
    pub(super) async fn call<T, F>(&self, read: F) -> Result<(Box<dyn QueuedVerb>, Committed<T>), StoreError>
    where
        F: FnMut(&ReadTx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_closed| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let call = ReadCall { read, reply: Some(reply), _place: place };
        Ok((Box::new(HandOver { read: Box::new(call), thread: self.thread.clone() }), Committed::new(answer)))
    }
}

/// The thread. When this is dropped, the reads that were handed over are answered, and its connection is closed.
#[derive(Debug)]
pub(super) struct Reader {
    thread: SyncSender<Told>,
    ended: Option<JoinHandle<()>>,
}

impl Reader {
    /// # Errors
    /// When the file cannot be read, or the system gives no thread.
    pub(super) fn start(path: &Path, limits: Limits, retry_pause: Duration) -> Result<(Self, Reads), OpenError> {
        let (thread, told) = sync_channel(READS + 1);
        let conn = file::open_reader(path)?;
        let mut worker =
            Worker { conn, path: path.to_owned(), limits, retry_pause, waiting: VecDeque::new(), is_refused: false };
        let ended = Builder::new().name("reader".to_owned()).spawn(move || worker.run(&told))?;
        let reads = Reads { thread: thread.clone(), places: Arc::new(Semaphore::new(READS)) };
        Ok((Self { thread, ended: Some(ended) }, reads))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // There is always room for this one.
        let _ = self.thread.try_send(Told::Close);
        if self.ended.take().is_some_and(|ended| ended.join().is_err()) {
            tracing::warn!("the thread that reads the store failed");
        }
    }
}

struct Worker {
    conn: Connection,
    path: PathBuf,
    limits: Limits,
    retry_pause: Duration,
    /// What came while the disk refused.
    waiting: VecDeque<Box<dyn QueuedRead>>,
    /// Whether the disk refused last, which was said.
    is_refused: bool,
}

impl Worker {
    fn run(&mut self, told: &Receiver<Told>) {
        loop {
            let Some(mut read) = self.waiting.pop_front() else {
                match told.recv() {
                    Ok(Told::Read(read)) => self.waiting.push_back(read),
                    Ok(Told::Close) | Err(_) => return,
                }
                continue;
            };
            let Err(error) = self.attempt(&mut *read) else {
                if std::mem::take(&mut self.is_refused) {
                    tracing::info!("pages can be read from the store again");
                }
                continue;
            };
            if errors::is_of_the_verb(&error) {
                tracing::warn!(%error, "a read of the store failed");
                read.fail(errors::of_verb(error));
                continue;
            }
            if !std::mem::replace(&mut self.is_refused, true) {
                tracing::error!(%error, "the disk refuses to read the store; pages wait until it works again");
            }
            self.waiting.push_front(read);
            match told.recv_timeout(self.retry_pause) {
                Ok(Told::Read(read)) => self.waiting.push_back(read),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Told::Close) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// All of a page is read from one state of the file.
    fn attempt(&mut self, read: &mut dyn QueuedRead) -> rusqlite::Result<()> {
        if self.is_refused {
            self.conn = file::connect_reader(&self.path)?;
        }
        let run = |sql| self.conn.prepare_cached(sql)?.execute([]);
        run("BEGIN")?;
        let result = read.read(&ReadTx { conn: &self.conn, limits: &self.limits });
        run("ROLLBACK")?;
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::{Error, ffi};

    const PAUSE: Duration = Duration::from_millis(1);

    fn started(dir: &tempfile::TempDir) -> (Reader, Reads) {
        let path = dir.path().join("store.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a); INSERT INTO t VALUES (7)").unwrap();
        Reader::start(&path, Limits::default(), PAUSE).unwrap()
    }

    fn a(tx: &ReadTx<'_>) -> rusqlite::Result<Option<i64>> {
        tx.one("SELECT a FROM t", [], |row| row.get(0))
    }

    /// What a read finds whose turn came.
    async fn asked<T: Send + 'static>(
        reads: &Reads,
        read: impl FnMut(&ReadTx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Committed<T> {
        let (verb, answer) = reads.call(read).await.unwrap();
        verb.release();
        answer
    }

    #[tokio::test]
    async fn a_read_that_the_disk_refuses_waits_and_those_behind_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let (_reader, reads) = started(&dir);
        let mut refusals = [ffi::SQLITE_IOERR, ffi::SQLITE_CANTOPEN, ffi::SQLITE_BUSY].into_iter();
        let first = asked(&reads, move |tx| match refusals.next() {
            Some(code) => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
            None => a(tx),
        });
        let (first, second) = (first.await, asked(&reads, a).await);
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Some(7), Some(7)));
    }

    #[tokio::test]
    async fn a_read_that_fails_by_itself_is_told_why_and_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (_reader, reads) = started(&dir);
        let wrong = asked(&reads, |tx| tx.one("SELECT b FROM t", [], |row| row.get::<_, i64>(0))).await;
        assert!(matches!(wrong.await, Err(StoreError::Failed { reason }) if reason.contains("no such column")));
        assert_eq!(asked(&reads, a).await.await.unwrap(), Some(7));
    }

    #[tokio::test]
    async fn what_was_handed_over_is_answered_at_the_end_and_what_comes_later_is_told_that_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (reader, reads) = started(&dir);
        let before = asked(&reads, a).await;
        drop(reader);
        assert_eq!(before.await.unwrap(), Some(7));
        assert_eq!(asked(&reads, a).await.await, Err(StoreError::Closed));
    }

    #[tokio::test]
    async fn more_reads_than_there_are_places_wait_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let (_reader, reads) = started(&dir);
        let (go, blocked) = sync_channel::<()>(0);
        let first = asked(&reads, move |tx| {
            blocked.recv().unwrap();
            a(tx)
        });
        let first = first.await;
        let mut others = Vec::new();
        for _ in 1..READS {
            others.push(asked(&reads, a).await);
        }
        assert_eq!(reads.places.available_permits(), 0);
        go.send(()).unwrap();
        first.await.unwrap();
        for other in others {
            other.await.unwrap();
        }
        asked(&reads, a).await.await.unwrap();
    }

    #[test]
    fn nothing_can_be_changed_by_its_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Connection::open(&path).unwrap().execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (a)").unwrap();
        let refused = file::open_reader(&path).unwrap().execute("INSERT INTO t VALUES (1)", []).unwrap_err();
        assert_eq!(refused.sqlite_error_code(), Some(rusqlite::ErrorCode::ReadOnly));
    }
}
