//! The file: opening and locking.

use super::environment::Environment;
use super::schema::{self, SCHEMA_VERSION};
use super::{errors, migrate, shrink};
use crate::store::OpenError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Prepared statements kept by the connection; more than the verbs have.
const STATEMENTS: usize = 128;
/// Pages in the write-ahead log before the writer moves them to the main file by itself: 128 MiB. As a rule they were moved
/// before (`checkpoint`).
const CHECKPOINT_PAGES: u32 = 32_768;
/// Page cache, in KiB.
const CACHE_KIB: i64 = 32_768;
/// What is left of the write-ahead log after a checkpoint, in bytes.
const WAL_KEPT: i64 = 64 << 20;
/// How long a reader waits for the writer's short exclusive moments (start, end).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often and how long the lock of a store that is in use is looked at: half a second.
const LOCK_LOOKS: u32 = 25;
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// Held while the store is open. The kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the lock and opens the file for writing; makes it if it is missing, and changes it if an earlier release left it.
pub(super) fn open(path: &Path) -> Result<(Connection, Lock), OpenError> {
    open_in(path, &Environment::real())
}

pub(super) fn open_in(path: &Path, environment: &Environment) -> Result<(Connection, Lock), OpenError> {
    let lock = lock(path)?;
    // Made by hand, because SQLite would let others read it. The write-ahead log takes over its mode.
    private_file().open(path)?;
    let sorted = |e| errors::of_opening(path, e);
    let mut conn = Connection::open(path).map_err(sorted)?;
    let found = schema::check_version(&conn, path)?;
    prepare(&conn).map_err(sorted)?;
    // Where a link leads is where the write-ahead log is, and the room.
    let file = path.canonicalize()?;
    match found {
        0 => schema::migrate(&mut conn, 0, |_| ()).map_err(sorted)?,
        SCHEMA_VERSION => {}
        _ => migrate::migrate(&mut conn, &file, found, environment)?,
    }
    shrink::rebuild_once(&mut conn, &file, environment).map_err(sorted)?;
    Ok((conn, lock))
}

/// The connection of the thread that reads for the writer's process ([`super::reader`]).
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    connect_reader(path).map_err(|e| errors::of_opening(path, e))
}

/// The same of a file that was open before.
pub(super) fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    // By a name that is a link SQLite would look for another write-ahead log.
    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(file, flags)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(conn)
}

/// Opens the file for reading only, also while the bridge writes.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, OpenError> {
    match read_only(path, path, OpenFlags::empty())? {
        (_, 0) => Err(OpenError::Foreign(path.to_owned())),
        (conn, SCHEMA_VERSION) => Ok(conn),
        (_, found) => Err(OpenError::TooOld { found, known: SCHEMA_VERSION }),
    }
}

/// The connection to `path`, which SQLite knows by `name`, and its schema, 0 for an empty file.
fn read_only(path: &Path, name: impl AsRef<Path>, more: OpenFlags) -> Result<(Connection, i32), OpenError> {
    let sorted = |e| errors::of_opening(path, e);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let conn = Connection::open_with_flags(name, flags).map_err(sorted)?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(sorted)?;
    let found = schema::check_version(&conn, path)?;
    Ok((conn, found))
}

/// Checks that opening could use what is at `path`, if anything is, and changes nothing. Whether another process has it is
/// not asked: that may be the bridge whose configuration is looked at.
///
/// # Errors
/// Why it could not be opened.
pub fn check(path: &Path) -> Result<(), OpenError> {
    match OpenOptions::new().append(true).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    // SQLite makes files beside the store even for a reader. Without a write-ahead log nothing writes, and the file alone
    // is all there is: then it may be read as one that never changes.
    let file = path.canonicalize()?;
    match (beside(&file, "-wal").exists(), url::Url::from_file_path(&file)) {
        (false, Ok(mut url)) => {
            url.set_query(Some("immutable=1"));
            read_only(path, url.as_str(), OpenFlags::SQLITE_OPEN_URI)
        }
        _ => read_only(path, path, OpenFlags::empty()),
    }
    .map(drop)
}

/// Waits a moment for the lock: a process that ends still has it, and so has a child that was forked and has not begun its own
/// program yet.
fn lock(path: &Path) -> Result<Lock, OpenError> {
    let file = private_file().open(beside(path, ".lock"))?;
    for _ in 0..LOCK_LOOKS {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_LOOK),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Err(OpenError::InUse(path.to_owned()))
}

pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Makes a file that only its owner may read: there are registration tokens in the store.
pub(super) fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn prepare(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    // Otherwise a statement with a range is compiled anew for each value that is bound to it: its plan might depend on it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Before anything is written: a file that has pages takes this only with a VACUUM (`shrink::rebuild_once`).
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    // A reader that starts or ends at the same moment holds a lock for an instant; that is no reason to be blocked.
    conn.busy_timeout(BUSY_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_let_go_in_a_moment_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let held = lock(&path).unwrap();
        let (begun, waits) = std::sync::mpsc::sync_channel(1);
        let other = std::thread::spawn({
            let path = path.clone();
            move || {
                begun.send(()).unwrap();
                lock(&path).map(drop)
            }
        });
        waits.recv().unwrap();
        drop(held);
        other.join().unwrap().unwrap();
        let _held = lock(&path).unwrap();
        assert!(matches!(lock(&path), Err(OpenError::InUse(_))));
    }

    #[test]
    fn a_foreign_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "a text that is long enough to be looked at by SQLite".repeat(100)).unwrap();
        assert!(matches!(open(&text), Err(OpenError::Foreign(_))));
        let other = dir.path().join("other.db");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
        assert!(matches!(open(&other), Err(OpenError::Foreign(_))));
        assert!(matches!(open_read_only(&other), Err(OpenError::Foreign(_))));
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let (conn, lock) = open(&path).unwrap();
        conn.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(check(&path), Err(OpenError::TooNew { found: 99, .. })), "from the write-ahead log");
        drop((conn, lock));
        assert!(matches!(check(&path), Err(OpenError::TooNew { found: 99, .. })));
        assert!(matches!(open(&path), Err(OpenError::TooNew { found: 99, known: SCHEMA_VERSION })));
    }

    #[test]
    fn a_check_sees_what_opening_would_and_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names
        };
        // A name that needs care in a URL.
        let path = dir.path().join("a store?.db");
        check(&path).unwrap();
        assert!(names().is_empty());
        let (conn, lock) = open(&path).unwrap();
        check(&path).expect("the bridge runs");
        drop((conn, lock));
        let before = names();
        check(&path).unwrap();
        assert_eq!(names(), before);
        std::fs::write(&path, "").unwrap();
        check(&path).expect("an empty file becomes a store");
        std::fs::write(&path, "a text that is long enough to be looked at by SQLite".repeat(100)).unwrap();
        assert!(matches!(check(&path), Err(OpenError::Foreign(_))));
        assert!(check(dir.path()).is_err(), "a folder");
    }

    #[test]
    fn a_damaged_file_is_named_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        drop(open(&path).unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100..4096].fill(0x5a);
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(open(&path), Err(OpenError::Damaged { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let _open = open(&path).unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.file_name());
        }
    }

    #[test]
    fn only_one_process_has_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let first = open(&path).unwrap();
        assert!(matches!(open(&path), Err(OpenError::InUse(_))));
        open_read_only(&path).unwrap();
        drop(first);
        open(&path).unwrap();
    }
}
