//! What a change of the file finds around it: the room on its disk, and who is told how far it is.

use rusqlite::Connection;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::time::Instant;

/// How often an operator is told, in milliseconds.
const TELL_MS: u64 = 2000;
/// Instructions of SQLite's virtual machine between two calls of its progress handler; some hundred microseconds.
const INSTRUCTIONS: i32 = 10_000;
/// The most that a change leaves free on the disk, in bytes: the write-ahead log of the first traffic wants room as well.
const RESERVE_MAX: u64 = 64 << 20;

/// How far a change of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The old file is copied; bytes.
    Copying { done: u64, of: u64 },
    /// A step of the schema is taken, counted from 1.
    Changing { step: usize, of: usize },
    /// All steps are taken, and none of them counts yet.
    Committing,
    /// The file is written anew, so that it can shrink from now on.
    Rebuilding,
    /// The rebuilt file is committed and in the write-ahead log, which is moved into the file.
    Checkpointing,
}

/// The surroundings of the file. A test brings its own.
pub(super) struct Environment {
    /// The bytes that this process may still write below a folder.
    pub(super) free: fn(&Path) -> io::Result<u64>,
    /// Sees each phase, many times.
    pub(super) watch: Arc<dyn Fn(Phase) + Send + Sync>,
}

impl Environment {
    /// The disk as it is, and the log.
    pub(super) fn real() -> Self {
        Self { free: free_bytes, watch: Arc::new(telling()) }
    }

    /// The free bytes where the file is.
    ///
    /// # Errors
    /// With the folder of which it is not known.
    pub(super) fn free_beside(&self, path: &Path) -> io::Result<u64> {
        let folder = folder(path);
        let unknown =
            |error| io::Error::other(format!("how much room there is in {} is not known: {error}", folder.display()));
        (self.free)(folder).map_err(unknown)
    }

    /// Shows the watcher what `phase` says again and again, as long as `work` keeps SQLite busy.
    pub(super) fn during<T>(
        &self,
        conn: &mut Connection,
        phase: impl Fn() -> Phase + Send + 'static,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let watch = self.watch.clone();
        let handler = move || {
            watch(phase());
            false
        };
        conn.progress_handler(INSTRUCTIONS, Some(handler))?;
        let done = work(conn);
        conn.progress_handler(0, None::<fn() -> bool>)?;
        done
    }
}

/// The folder that a file is in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// What is left free beside so many bytes that are written.
pub(super) fn reserve(bytes: u64) -> u64 {
    bytes.min(RESERVE_MAX)
}

fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Tells how far a change is in the log, when it takes longer.
fn telling() -> impl Fn(Phase) {
    let started = Instant::now();
    let told_ms = AtomicU64::new(0);
    move |phase| {
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if ms < told_ms.load(Relaxed) + TELL_MS {
            return;
        }
        told_ms.store(ms, Relaxed);
        let seconds = ms / 1000;
        match phase {
            Phase::Copying { done, of } => {
                tracing::info!(copied_bytes = done, of_bytes = of, seconds, "the old store is being copied");
            }
            Phase::Changing { step, of } => tracing::info!(step, of, seconds, "the store is being changed"),
            Phase::Committing => tracing::info!(seconds, "the change of the store is being written to disk"),
            Phase::Rebuilding => tracing::info!(seconds, "the store is being rebuilt"),
            Phase::Checkpointing => tracing::info!(seconds, "the rebuilt store is being moved into its file"),
        }
    }
}
