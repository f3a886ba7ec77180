//! The file: opening, locking, schema.

use super::fault;
use crate::store::OpenError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Marks the file as ours (`PRAGMA application_id`): "FMBr".
const APPLICATION_ID: i32 = 0x464d_4272;
/// Prepared statements kept by the connection; more than the verbs have.
const STATEMENTS: usize = 128;
/// Pages in the write-ahead log before they are moved to the main file. 32 MiB let hot pages be rewritten many times
/// before they are moved once.
const CHECKPOINT_PAGES: u32 = 8192;
/// Page cache, in KiB.
const CACHE_KIB: i64 = 65_536;
/// What is left of the write-ahead log after a checkpoint, in bytes.
const WAL_KEPT: i64 = 64 << 20;
/// How long a reader waits for the writer's short exclusive moments (start, end).
const READER_PATIENCE: Duration = Duration::from_secs(5);

/// What makes each schema out of the one before, the first out of an empty file. A step that was released is never
/// changed: files in the field have taken it.
const STEPS: [&str; 5] = [FIRST, PRESENCE, WAYS, TRIED, SEVERAL];
/// The schema this program writes.
const SCHEMA_VERSION: i32 = STEPS.len() as i32;

const FIRST: &str = "
CREATE TABLE deliveries (
    row INTEGER PRIMARY KEY,      -- upper 62 bits of the id, grows with time
    tail INTEGER NOT NULL,        -- lower 17 bits of the id
    bal TEXT NOT NULL,
    id TEXT NOT NULL,             -- as the sender chose it
    recipient INTEGER NOT NULL,
    order_key TEXT,
    state INTEGER NOT NULL,
    due_at INTEGER,               -- NULL: never put off; 0: before all others; else Unix ms
    deadline INTEGER NOT NULL,
    look_at INTEGER NOT NULL,     -- when the sweep looks at it, while unsettled
    accepted_at INTEGER NOT NULL,
    claimed_at INTEGER,
    sent_at INTEGER,
    final_at INTEGER,             -- NULL: unsettled
    attempt INTEGER NOT NULL,
    dup_possible INTEGER NOT NULL,
    receipt INTEGER NOT NULL,
    told_seq INTEGER NOT NULL,    -- last status document in the outbox
    code TEXT,
    detail TEXT,
    token_action INTEGER,
    new_token TEXT,
    reply TEXT NOT NULL,
    corr BLOB,
    log TEXT,                     -- JSON array of what was unusual
    body BLOB                     -- NULL once it need not be sent any more
) STRICT;
CREATE UNIQUE INDEX deliveries_id ON deliveries (id, bal);
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state = 0;
CREATE INDEX deliveries_parked ON deliveries (recipient) WHERE state = 0 AND due_at IS NOT NULL;
CREATE INDEX deliveries_look ON deliveries (look_at) WHERE final_at IS NULL;
CREATE INDEX deliveries_order ON deliveries (bal, order_key) WHERE order_key IS NOT NULL AND final_at IS NULL;

CREATE TABLE inbox (
    row INTEGER PRIMARY KEY,
    tail INTEGER NOT NULL,
    key BLOB NOT NULL,            -- of (token, the device's id)
    bal TEXT,                     -- NULL: no route yet
    category TEXT,
    topic TEXT NOT NULL,
    seq INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    published_at INTEGER,
    final_at INTEGER              -- published, and acknowledged where that is asked for
) STRICT;
CREATE UNIQUE INDEX inbox_key ON inbox (key);

CREATE TABLE outbox (
    topic TEXT NOT NULL,          -- '': no route yet
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    about INTEGER NOT NULL,       -- row of the delivery or inbox; 0: none
    tail INTEGER NOT NULL,
    queued_at INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    corr BLOB,
    payload BLOB NOT NULL,
    PRIMARY KEY (topic, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_notes ON outbox (topic, seq) WHERE kind = 3;

CREATE TABLE claims (
    topic TEXT PRIMARY KEY,
    seq INTEGER NOT NULL          -- up to here documents may have been published
) STRICT, WITHOUT ROWID;

CREATE TABLE marks (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    seq_ceiling INTEGER NOT NULL  -- no document number from here on was ever used
) STRICT;
INSERT INTO marks VALUES (1, 1);
";

const PRESENCE: &str = "
CREATE TABLE presence (
    user TEXT PRIMARY KEY,
    online INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    last_seen INTEGER             -- NULL: was never away
) STRICT, WITHOUT ROWID;
ALTER TABLE marks ADD COLUMN alive_at INTEGER NOT NULL DEFAULT 0;  -- the bridge was running then
";

const WAYS: &str = "
ALTER TABLE deliveries ADD COLUMN way TEXT NOT NULL DEFAULT 'ccs';
ALTER TABLE deliveries ADD COLUMN provider_id TEXT;                 -- the push service's name for it
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (way, due_at) WHERE state = 0;
";

const TRIED: &str = "
ALTER TABLE deliveries ADD COLUMN waited_ms INTEGER NOT NULL DEFAULT 0;  -- after refusals, all together
ALTER TABLE deliveries ADD COLUMN unknown INTEGER NOT NULL DEFAULT 0;    -- refusals in words that nobody knows
";

const SEVERAL: &str = "
ALTER TABLE deliveries ADD COLUMN message INTEGER;  -- the row of the message that this is one of several deliveries of
CREATE INDEX deliveries_message ON deliveries (message) WHERE message IS NOT NULL;
CREATE TABLE messages (           -- what a message with several deliveries has beside its row in `deliveries`
    row INTEGER PRIMARY KEY,
    fan_out TEXT NOT NULL,        -- JSON: how many of its deliveries stand where, and what was told
    told_at INTEGER NOT NULL,     -- when the last status was told
    kept_until INTEGER            -- NULL: dropped after its end like any; else Unix ms
) STRICT;
CREATE INDEX messages_kept ON messages (kept_until) WHERE kept_until IS NOT NULL;
";

/// Held while the store is open. The kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the lock and opens the file for writing; makes it if it is missing.
pub(super) fn open(path: &Path) -> Result<(Connection, Lock), OpenError> {
    let lock = lock(path)?;
    // Made by hand, because SQLite would let others read it. The write-ahead log takes over its mode.
    private_file().open(path)?;
    let mut conn = Connection::open(path).map_err(|e| fault::of_opening(path, e))?;
    schema(&conn, path)?;
    prepare(&mut conn).map_err(|e| fault::of_opening(path, e))?;
    Ok((conn, lock))
}

/// Opens the file for reading only, also while the bridge writes.
pub(super) fn open_read_only(path: &Path) -> Result<Connection, OpenError> {
    match read_only(path, path, OpenFlags::empty())? {
        (_, 0) => Err(OpenError::Foreign(path.to_owned())),
        (conn, _) => Ok(conn),
    }
}

/// The connection to `path`, which SQLite knows by `name`, and its schema, 0 for an empty file.
fn read_only(path: &Path, name: impl AsRef<Path>, more: OpenFlags) -> Result<(Connection, i32), OpenError> {
    let sorted = |e| fault::of_opening(path, e);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let conn = Connection::open_with_flags(name, flags).map_err(sorted)?;
    conn.busy_timeout(READER_PATIENCE).map_err(sorted)?;
    let found = schema(&conn, path)?;
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
    match (beside(path, "-wal").exists(), url::Url::from_file_path(std::path::absolute(path)?)) {
        (false, Ok(mut url)) => {
            url.set_query(Some("immutable=1"));
            read_only(path, url.as_str(), OpenFlags::SQLITE_OPEN_URI)
        }
        _ => read_only(path, path, OpenFlags::empty()),
    }
    .map(drop)
}

fn lock(path: &Path) -> Result<Lock, OpenError> {
    let file = private_file().open(beside(path, ".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Makes a file that only its owner may read: there are registration tokens in the store.
fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Whose file it is; returns its schema, 0 for an empty file.
fn schema(conn: &Connection, path: &Path) -> Result<i32, OpenError> {
    let sorted = |e| fault::of_opening(path, e);
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(sorted);
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sorted)?;
    if tables == 0 {
        return Ok(0);
    }
    if pragma("application_id")? != APPLICATION_ID {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    let found = pragma("user_version")?;
    if found > SCHEMA_VERSION {
        return Err(OpenError::TooNew { found, known: SCHEMA_VERSION });
    }
    Ok(found)
}

fn prepare(conn: &mut Connection) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    // Otherwise a statement with a range is compiled anew for each value that is bound to it: its plan might depend on it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "journal_size_limit", WAL_KEPT)?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    // A reader that starts or ends at the same moment holds a lock for an instant; that is no reason to be blocked.
    conn.busy_timeout(READER_PATIENCE)?;
    let found: i32 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found < SCHEMA_VERSION {
        let tx = conn.transaction()?;
        for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
            tx.execute_batch(step)?;
        }
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        tx.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn an_older_schema_is_brought_forward_with_its_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(FIRST).unwrap();
        old.execute_batch("UPDATE marks SET seq_ceiling = 42").unwrap();
        old.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);
        for _ in 0..2 {
            let (conn, _lock) = open(&path).unwrap();
            let marks = conn.query_row("SELECT seq_ceiling, alive_at FROM marks", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            });
            assert_eq!(marks.unwrap(), (42, 0));
            assert_eq!(schema(&conn, &path).unwrap(), SCHEMA_VERSION);
        }
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
