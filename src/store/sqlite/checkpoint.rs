//! Moves pages out of the write-ahead log while the writer goes on.
//!
//! SQLite itself does that in the transaction after which the log has many pages, and then everybody waits until some thirty
//! megabytes are written and on disk. Here a thread with a connection of its own moves the pages and syncs the file. SQLite does
//! not sync it for a checkpoint beside which pages were written, so the thread does. Only the writer can begin the log anew: it
//! moves what came meanwhile when the thread says that this is little. Nothing depends on the thread: where it fails, the writer
//! does all of it.

use rusqlite::{Connection, OpenFlags};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::time::Instant;

/// Verbs after which the pages that they wrote are moved.
const EVERY_VERBS: usize = 128;
/// Not more often than this: at full speed pages are written many times over, and each move costs.
const PAUSE: Duration = Duration::from_millis(100);
/// Pages in the log above which it is begun anew. 32 MiB let hot pages be rewritten many times before they are moved once.
const LOG_PAGES: i64 = 8192;
/// So many may be left to the writer, which moves and syncs them in a millisecond or two.
const LEFT_PAGES: i64 = 256;
/// How often the thread moves what came while it moved, until that is little. At full speed it never is.
const MOVES: usize = 5;
/// What the writer does when little is left.
const MOVE: &str = "PRAGMA wal_checkpoint(PASSIVE)";

/// The thread, and when it is asked again.
#[derive(Debug)]
pub(super) struct Checkpoints {
    ask: SyncSender<()>,
    thread: JoinHandle<()>,
    verbs: usize,
    asked_at: Instant,
    log: Arc<Log>,
}

/// What both know.
#[derive(Debug)]
struct Log {
    /// The writer may begin the log anew.
    is_moved: AtomicBool,
    /// The main file, for syncing it. The process loses SQLite's locks on the file when any of its descriptors is closed, so this
    /// one is closed behind the connections.
    file: File,
    path: PathBuf,
}

/// Closes the main file. To be dropped behind all connections.
#[derive(Debug)]
pub(super) struct MainFile(#[expect(dead_code, reason = "it is there to be dropped")] Arc<Log>);

impl Checkpoints {
    pub(super) fn new(path: &Path) -> std::io::Result<Self> {
        // One that is asked for while another one is done covers all that was asked for.
        let (ask, asked) = sync_channel(1);
        let file = OpenOptions::new().append(true).open(path)?;
        let log = Arc::new(Log { is_moved: AtomicBool::new(false), file, path: path.to_owned() });
        let of_thread = Arc::clone(&log);
        let thread = Builder::new().name("checkpoint".to_owned()).spawn(move || work(&of_thread, &asked))?;
        Ok(Self { ask, thread, verbs: 0, asked_at: Instant::now(), log })
    }

    /// A transaction with so many verbs was committed, and those who asked for them have their answers.
    pub(super) fn committed(&mut self, conn: &Connection, verbs: usize) {
        if self.log.is_moved.swap(false, Relaxed)
            && let Err(error) = conn.query_row(MOVE, [], |_| Ok(()))
        {
            tracing::debug!(%error, "the writer could not move the rest of the write-ahead log");
        }
        self.verbs += verbs;
        if self.verbs >= EVERY_VERBS && self.asked_at.elapsed() >= PAUSE && self.ask.try_send(()).is_ok() {
            (self.verbs, self.asked_at) = (0, Instant::now());
        }
    }

    /// Waits until its connection is closed.
    pub(super) fn close(self) -> MainFile {
        drop(self.ask);
        if self.thread.join().is_err() {
            tracing::warn!("the thread that makes checkpoints failed");
        }
        MainFile(self.log)
    }
}

fn work(log: &Log, asked: &Receiver<()>) {
    let mut conn = None;
    while asked.recv().is_ok() {
        match log.move_pages(&mut conn) {
            Ok(left) => log.is_moved.store(left, Relaxed),
            Err(error) => {
                tracing::debug!(%error, "no checkpoint of the write-ahead log beside the writer");
                conn = None;
            }
        }
    }
}

impl Log {
    /// Moves the pages that are in the log, and those that come meanwhile. Whether it is to be begun anew.
    fn move_pages(&self, conn: &mut Option<Connection>) -> Result<bool, MoveError> {
        let conn = match conn {
            Some(conn) => conn,
            None => conn.insert(self.open()?),
        };
        let mut pages = 0;
        for _ in 0..MOVES {
            let before = pages;
            pages = conn.query_row(MOVE, [], |row| row.get("log"))?;
            self.file.sync_data()?;
            let came = pages - before;
            if pages < LOG_PAGES || came <= LEFT_PAGES {
                break;
            }
        }
        Ok(pages >= LOG_PAGES)
    }

    fn open(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags)?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        Ok(conn)
    }
}

/// The writer will move the pages.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum MoveError {
    Sqlite(#[from] rusqlite::Error),
    Sync(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_moved_beside_a_writer_that_has_its_connection_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let conn = Connection::open(&path).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        conn.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        conn.execute_batch("CREATE TABLE t (a)").unwrap();
        let before = std::fs::metadata(&path).unwrap().len();
        let mut checkpoints = Checkpoints::new(&path).unwrap();
        for n in 1..=EVERY_VERBS {
            conn.execute("INSERT INTO t VALUES (randomblob(100))", []).unwrap();
            checkpoints.asked_at -= PAUSE;
            checkpoints.committed(&conn, 1);
            assert_eq!(checkpoints.verbs, n % EVERY_VERBS);
        }
        checkpoints.close();
        assert!(std::fs::metadata(&path).unwrap().len() > before, "the file has the pages");
        let count: i64 = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, EVERY_VERBS as i64);
    }
}
