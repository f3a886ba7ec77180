//! A file of the first release, with as many rows as are wanted.

use super::super::schema::STEPS;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

/// The schema that the first release wrote.
pub(super) const OLD: i32 = 4;
/// Rows that are only in the write-ahead log, as after a kill.
const IN_LOG: u32 = 100;

/// The states of ten messages, by their codes: most are settled, some are sent and may get a receipt, some are in flight,
/// behind an order key and due; of the due ones every third was put off.
pub(super) const MIXED: &str = "4443350012";
/// Of ten messages whose push service is away.
pub(super) const ALL_DUE: &str = "0000000000";

const DELIVERIES: &str = "
WITH RECURSIVE numbers(n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?2),
    messages AS (SELECT n, 1700000000000 + n AS at, CAST(substr(?3, 1 + n % 10, 1) AS INTEGER) AS state FROM numbers)
INSERT INTO deliveries (row, tail, bal, id, recipient, order_key, state, due_at, deadline, look_at, accepted_at, claimed_at,
    sent_at, final_at, attempt, dup_possible, receipt, told_seq, reply, body)
SELECT at << 20, n % 131072, 'client' || n % 7, printf('%08x-5d1f-4c0e-9a77-%012x', n * 2654435761 % 4294967296, n),
    n % 50000, iif(state = 1, 'chat-' || n % 500, NULL), state, iif(state = 0 AND n % 3 = 0, at + 60000, NULL),
    at + 3600000, at + 3600000, at, iif(state >= 2, at + 1, NULL), iif(state IN (3, 4), at + 2, NULL),
    iif(state >= 4, at + 3, NULL), state > 1, 0, 1, n + 1, 'client' || n % 7 || '/others/status',
    iif(state < 3, randomblob(?4 / 2 + n % ?4), NULL)
FROM messages";
const INBOX: &str = "
WITH RECURSIVE numbers(n) AS (SELECT ?1 UNION ALL SELECT n + 10 FROM numbers WHERE n + 10 < ?2)
INSERT INTO inbox (row, tail, key, bal, category, topic, seq, received_at)
SELECT 1800000000000 + n << 20, 0, randomblob(32), 'client1', 'com.example', 'client1/others/messages', n + 1,
    1800000000000 + n FROM numbers";
const OUTBOX: &str = "
WITH RECURSIVE numbers(n) AS (SELECT ?1 UNION ALL SELECT n + 10 FROM numbers WHERE n + 10 < ?2)
INSERT INTO outbox (topic, seq, kind, about, tail, queued_at, redelivered, payload)
SELECT 'client1/others/status', n + 1, 0, 1700000000000 + n << 20, 0, 1700000000000, 0, randomblob(200) FROM numbers";

/// Makes a store as the first release did, which was killed: so many messages in these states, with bodies of so many bytes
/// on average, and for each ten of them a message of a device and a status that nobody has read.
pub(super) fn make(path: &Path, messages: u32, states: &str, body: u32) {
    let conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "journal_mode", "WAL").unwrap();
    conn.pragma_update(None, "synchronous", "OFF").unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    conn.execute_batch(&STEPS[..OLD as usize].concat()).unwrap();
    conn.execute_batch("UPDATE marks SET seq_ceiling = 2000000").unwrap();
    let step = 10_000;
    let before = messages - IN_LOG;
    let bounds = (0..before).step_by(step).map(|from| (from, before.min(from + 10_000)));
    for (from, to) in bounds.chain([(before, messages)]) {
        conn.execute(DELIVERIES, params![from, to, states, body]).unwrap();
        conn.execute(INBOX, params![from, to]).unwrap();
        conn.execute(OUTBOX, params![from, to]).unwrap();
        if to == before {
            mark(&conn, OLD);
            conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        }
    }
    drop(conn);
    assert!(super::super::file::beside(path, "-wal").metadata().unwrap().len() > 0);
}

/// Marks the file as a store of this schema.
pub(super) fn mark(conn: &Connection, schema: i32) {
    conn.pragma_update(None, "application_id", super::super::schema::APPLICATION_ID).unwrap();
    conn.pragma_update(None, "user_version", schema).unwrap();
}

/// What is in a store: its schema, and a number that stands for every value of every row that the first release had.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) schema: i32,
    pub(super) rows: u64,
}

pub(super) fn content(path: &Path) -> Content {
    // Its reader leaves it as it is, also what a kill left.
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get(0)).unwrap();
    let sound: String = conn.pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let first = Connection::open_in_memory().unwrap();
    first.execute_batch(&STEPS[..OLD as usize].concat()).unwrap();
    let mut hasher = DefaultHasher::new();
    for table in ["deliveries", "inbox", "outbox", "claims", "marks", "presence"] {
        let columns = "SELECT group_concat('quote(' || name || ')', ' || '',''  || ') FROM pragma_table_info(?1)";
        let columns: String = first.query_row(columns, [table], |row| row.get(0)).unwrap();
        let mut statement = conn.prepare(&format!("SELECT {columns} FROM {table} ORDER BY 1")).unwrap();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            row.get::<_, String>(0).unwrap().hash(&mut hasher);
        }
    }
    Content { schema: pragma("user_version"), rows: hasher.finish() }
}
