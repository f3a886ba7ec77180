//! The file of an earlier release becomes one of this: in place, and one way only.
//!
//! ```text
//!   a copy beside it:  `.part` ──► fsync ──► its name ──► fsync of the folder      (where there is room for one)
//!   then the file:     BEGIN · step · step · ... · its new number · COMMIT
//! ```
//!
//! After a `kill -9` the file is either the old one, and the next start does all of this again, or the new one, and its copy
//! is whole. The copy is read by SQLite (its backup interface): what is only in the write-ahead log is in it, and a reader of
//! the store does not stand in its way.

use super::environment::{Environment, Phase, folder, reserve};
use super::file::{beside, private_file};
use super::schema::{self, MAKES_TABLES_ONLY, SCHEMA_VERSION};
use super::{errors, shrink};
use crate::store::OpenError;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, ffi};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::time::Instant;

/// Pages that are copied between two looks at the clock: 1 MiB.
const PAGES_AT_ONCE: i32 = 256;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum CopyError {
    Sqlite(#[from] rusqlite::Error),
    Io(#[from] io::Error),
}

impl CopyError {
    /// Whether only room is missing.
    fn is_full(&self) -> bool {
        match self {
            Self::Sqlite(error) => error.sqlite_error_code() == Some(ErrorCode::DiskFull),
            Self::Io(error) => matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
        }
    }
}

/// Brings a file of schema `found` to today's, and keeps a copy of it where there is room, unless it gets new tables only.
///
/// # Errors
/// When the copy fails for another reason than room, or the change does: the file is as it was.
pub(super) fn migrate(
    conn: &mut Connection,
    path: &Path,
    found: i32,
    environment: &Environment,
) -> Result<(), OpenError> {
    let sorted = |e| errors::of_opening(path, e);
    let (started, store) = (Instant::now(), path.display());
    if found >= MAKES_TABLES_ONLY {
        tracing::warn!(%store, schema = found, becomes = SCHEMA_VERSION,
            "the store gets further tables: earlier releases cannot open it afterwards");
        return change(conn, found, environment).map_err(sorted);
    }
    // What is only in the write-ahead log needs room in the file, before any copy does.
    if let Err(error) = shrink::checkpoint(conn) {
        tracing::warn!(%store, %error, "the checkpoint of the store's write-ahead log failed");
    }
    let copy = beside(path, &format!(".schema-{found}"));
    remove_former(&copy).map_err(|error| of_copy(path, &copy, error.into()))?;
    let bytes = shrink::Size::of(conn).map_err(sorted)?.bytes();
    let needed_bytes = bytes + reserve(bytes);
    let room = environment.free_beside(path);
    let free_bytes = room.map_err(|error| OpenError::Refused { reason: error.to_string() })?;
    if free_bytes < needed_bytes {
        tracing::warn!(%store, schema = found, becomes = SCHEMA_VERSION, needed_bytes, free_bytes,
            "the store is of an earlier release and is changed now: earlier releases cannot open it afterwards. There is \
            no room for a copy of the old one");
    } else {
        tracing::warn!(%store, schema = found, becomes = SCHEMA_VERSION, copy = %copy.display(),
            "the store is of an earlier release and is changed now: earlier releases cannot open it afterwards. A copy of \
            the old one is made beside it");
        if let Err(error) = make_copy(conn, &copy, environment) {
            // Its room is wanted, whatever comes next.
            let _ = remove(&beside(&copy, ".part"));
            if !error.is_full() {
                return Err(of_copy(path, &copy, error));
            }
            tracing::warn!(%store, error = %error, "there is no room for the copy after all");
        }
    }
    change(conn, found, environment).map_err(sorted)?;
    tracing::info!(%store, schema = SCHEMA_VERSION, seconds = started.elapsed().as_secs_f32(), "the store is changed");
    Ok(())
}

/// A copy that is there already is of a change that was not finished, or of one that was taken back.
fn remove_former(copy: &Path) -> io::Result<()> {
    remove(&beside(copy, ".part"))?;
    if remove(copy)? {
        tracing::info!(copy = %copy.display(), "an earlier copy of the store is removed");
    }
    Ok(())
}

/// Whether there was anything.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// Makes a copy that is complete once it has its name.
fn make_copy(conn: &Connection, copy: &Path, environment: &Environment) -> Result<(), CopyError> {
    let part = beside(copy, ".part");
    private_file().open(&part)?;
    let mut to = Connection::open(&part)?;
    // Until it has its name it is worth nothing: no journal, and one fsync at its end.
    to.pragma_update(None, "journal_mode", "OFF")?;
    to.pragma_update(None, "synchronous", "OFF")?;
    let page = u64::from(shrink::Size::of(conn)?.page);
    let backup = Backup::new(conn, &mut to)?;
    loop {
        match backup.step(PAGES_AT_ONCE)? {
            StepResult::Done => break,
            StepResult::More => {
                let (of, left) = (backup.progress().pagecount, backup.progress().remaining);
                let bytes = |pages: i32| u64::try_from(pages).unwrap_or(0) * page;
                (environment.watch)(Phase::Copying { done: bytes(of - left), of: bytes(of) });
            }
            _ => return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None).into()),
        }
    }
    drop(backup);
    // SQLite has closed it: its locks of a file end with whatever closes that file first.
    to.close().map_err(|(_, error)| error)?;
    File::open(&part)?.sync_all()?;
    fs::rename(&part, copy)?;
    // Some file systems cannot do this; then the copy may be missing after a power cut, and nothing else.
    let _ = File::open(folder(copy)).and_then(|folder| folder.sync_all());
    Ok(())
}

fn of_copy(path: &Path, copy: &Path, error: CopyError) -> OpenError {
    let told = |why: &dyn std::fmt::Display| OpenError::Refused {
        reason: format!("the copy {} of the old one could not be made: {why}", copy.display()),
    };
    match error {
        CopyError::Io(error) => told(&error),
        CopyError::Sqlite(error) => match errors::of_opening(path, error) {
            OpenError::Refused { reason } => told(&reason),
            of_the_store => of_the_store,
        },
    }
}

/// Takes the steps, and lets the watcher see which one it is.
fn change(conn: &mut Connection, found: i32, environment: &Environment) -> rusqlite::Result<()> {
    let taken = usize::try_from(found).unwrap_or(0);
    let of = schema::STEPS.len() - taken;
    let at = Arc::new(AtomicUsize::new(1));
    let seen = at.clone();
    let phase = move || Phase::Changing { step: seen.load(Relaxed), of };
    environment.during(conn, phase, |conn| {
        schema::migrate(conn, found, |step| match step {
            Some(step) => at.store(step - taken, Relaxed),
            None => (environment.watch)(Phase::Committing),
        })
    })
}
