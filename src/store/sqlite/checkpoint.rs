//! Moves pages out of the write-ahead log while the writer goes on.
//!
//! SQLite itself does that in the transaction after which the log has many pages, and then everybody waits for some thirty
//! milliseconds. Here a thread with a connection of its own moves most of them before; what is left for the writer is what came
//! meanwhile, and only the writer begins the log anew. Nothing depends on it: where it fails, the writer does all of it.

use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::time::Instant;

/// Verbs after which the pages that they wrote are moved.
const EVERY_VERBS: usize = 128;
/// Not more often than this: at full speed pages are written many times over, and each move costs.
const PAUSE: Duration = Duration::from_millis(100);

/// The thread, and when it is asked again.
#[derive(Debug)]
pub(super) struct Checkpoints {
    ask: SyncSender<()>,
    thread: JoinHandle<()>,
    verbs: usize,
    asked_at: Instant,
}

impl Checkpoints {
    pub(super) fn new(path: &Path) -> std::io::Result<Self> {
        // One that is asked for while another one is done covers all that was asked for.
        let (ask, asked) = sync_channel(1);
        let path = path.to_owned();
        let thread = Builder::new().name("checkpoint".to_owned()).spawn(move || work(&path, &asked))?;
        Ok(Self { ask, thread, verbs: 0, asked_at: Instant::now() })
    }

    /// A transaction with so many verbs was committed.
    pub(super) fn committed(&mut self, verbs: usize) {
        self.verbs += verbs;
        if self.verbs >= EVERY_VERBS && self.asked_at.elapsed() >= PAUSE && self.ask.try_send(()).is_ok() {
            (self.verbs, self.asked_at) = (0, Instant::now());
        }
    }

    /// Waits until its connection is closed.
    pub(super) fn close(self) {
        drop(self.ask);
        if self.thread.join().is_err() {
            tracing::warn!("the thread that makes checkpoints failed");
        }
    }
}

fn work(path: &Path, asked: &Receiver<()>) {
    let mut conn = None;
    while asked.recv().is_ok() {
        if let Err(error) = move_pages(path, &mut conn) {
            tracing::debug!(%error, "no checkpoint of the write-ahead log beside the writer");
            conn = None;
        }
    }
}

fn move_pages(path: &Path, conn: &mut Option<Connection>) -> rusqlite::Result<()> {
    let conn = match conn {
        Some(conn) => conn,
        None => {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let opened = Connection::open_with_flags(path, flags)?;
            opened.pragma_update(None, "synchronous", "FULL")?;
            conn.insert(opened)
        }
    };
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
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
            checkpoints.committed(1);
            assert_eq!(checkpoints.verbs, n % EVERY_VERBS);
        }
        checkpoints.close();
        assert!(std::fs::metadata(&path).unwrap().len() > before, "the file has the pages");
        let count: i64 = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, EVERY_VERBS as i64);
    }
}
