//! Sessions and groups: that they are kept, what they subscribe to, that they leave and end.

use super::{ENDED, GROUP, SESSION, retained, role_number, row};
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{KeptSubscription, QueueId, SessionRecord, Will};
use rusqlite::params;

/// Rows of a queue that has ended which one transaction takes out.
pub(super) const CHUNK: i64 = 500;

pub(in crate::store::sqlite) const FIND: &str = "SELECT queue FROM queues WHERE key = ?1 AND kind = ?2";
const INSERT: &str =
    "INSERT INTO queues (queue, kind, key, user, client, expiry_s, role, token_key, sent_up_to, crashed_up_to)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, 0)";
const UPDATE: &str =
    "UPDATE queues SET user = ?2, client = ?3, expiry_s = ?4, role = ?5, token_key = ?6, left_at = NULL
    WHERE queue = ?1";
const LEFT: &str = "UPDATE queues SET left_at = ?2, expiry_s = ?3, sent_up_to = min(sent_up_to, ?4)
    WHERE queue = ?1 AND kind < 2";
const IS_READ: &str = "UPDATE queues SET left_at = NULL WHERE queue = ?1";
const ALL_LEFT: &str = "UPDATE queues SET left_at = ?1 WHERE left_at IS NULL";
const SUBSCRIBE: &str = "INSERT INTO subscriptions (queue, filter, options, id) SELECT ?1, ?2, ?3, ?4
    WHERE EXISTS (SELECT 1 FROM queues WHERE queue = ?1 AND kind < 2)
    ON CONFLICT (queue, filter) DO UPDATE SET options = excluded.options, id = excluded.id";
const UNSUBSCRIBE: &str = "DELETE FROM subscriptions WHERE queue = ?1 AND filter = ?2";
const END: &str = "UPDATE queues SET kind = ?2, key = queue WHERE queue = ?1";
/// What goes at once with a queue that ends.
const OF_ENDED: [&str; 2] = ["DELETE FROM subscriptions WHERE queue = ?1", "DELETE FROM incoming WHERE queue = ?1"];
pub(in crate::store::sqlite) const ITS_ROWS: &str = "SELECT seq FROM queue WHERE queue = ?1 ORDER BY seq LIMIT ?2";
const FORGET: &str = "DELETE FROM queues WHERE queue = ?1";

/// Stores the session as connected, with this will.
pub(in crate::store) fn keep(
    tx: &mut Tx<'_>,
    session: &SessionRecord,
    will: Option<&Will>,
) -> rusqlite::Result<QueueId> {
    let SessionRecord { key, user, client, expiry_s, login } = session;
    let (role, token_key) = (login.map(|login| role_number(login.role)), login.and_then(|login| login.token_key));
    let found = find(tx, key, SESSION)?;
    let queue = match found {
        Some(queue) => {
            tx.memory_draft.queues.remove(&queue);
            tx.execute(UPDATE, params![queue, user, client, expiry_s, role, token_key])?;
            queue
        }
        None => {
            let queue = QueueId(tx.next_seq()?);
            tx.execute(INSERT, params![queue, SESSION, key, user, client, expiry_s, role, token_key])?;
            queue
        }
    };
    match will {
        Some(will) => retained::keep_will(tx, queue, will)?,
        None if found.is_some() => retained::drop_will_of(tx, queue)?,
        None => {}
    }
    Ok(queue)
}

pub(in crate::store) fn keep_group(tx: &mut Tx<'_>, name: &str) -> rusqlite::Result<QueueId> {
    if let Some(queue) = find(tx, name, GROUP)? {
        tx.memory_draft.queues.remove(&queue);
        tx.execute(IS_READ, [queue])?;
        return Ok(queue);
    }
    let queue = QueueId(tx.next_seq()?);
    tx.execute(INSERT, params![queue, GROUP, name, None::<&str>, "", u32::MAX, None::<i64>, None::<&[u8]>])?;
    Ok(queue)
}

pub(super) fn find(tx: &ReadTx<'_>, key: &str, kind: i64) -> rusqlite::Result<Option<QueueId>> {
    tx.one(FIND, params![key, kind], |row| row.get(0))
}

/// Its connection has ended, or the last one of a group. What comes from now on is not sent. The will that it had is published
/// later, or not at all.
pub(in crate::store) fn left(
    tx: &mut Tx<'_>,
    queue: QueueId,
    at: u64,
    expiry_s: u32,
    will_due: Option<u64>,
) -> rusqlite::Result<()> {
    tx.memory_draft.queues.remove(&queue);
    let last = tx.memory_draft.numbers.next - 1;
    tx.execute(LEFT, params![queue, sql_ms(at), expiry_s, last])?;
    match will_due {
        Some(due_at) => retained::will_due(tx, queue, due_at),
        None => retained::drop_will_of(tx, queue),
    }
}

/// No session or group has a connection any more.
pub(in crate::store) fn all_left(tx: &mut Tx<'_>, at: u64) -> rusqlite::Result<()> {
    tx.memory_draft.queues.clear();
    retained::wills_due(tx, at)?;
    tx.execute(ALL_LEFT, [sql_ms(at)]).map(drop)
}

pub(in crate::store) fn subscribe(
    tx: &Tx<'_>,
    queue: QueueId,
    subscriptions: &[KeptSubscription],
) -> rusqlite::Result<()> {
    subscriptions.iter().try_for_each(|KeptSubscription { filter, options, id }| {
        tx.execute(SUBSCRIBE, params![queue, filter, options, id]).map(drop)
    })
}

pub(in crate::store) fn unsubscribe(tx: &Tx<'_>, queue: QueueId, filters: &[String]) -> rusqlite::Result<()> {
    filters.iter().try_for_each(|filter| tx.execute(UNSUBSCRIBE, params![queue, filter]).map(drop))
}

pub(in crate::store) fn end_group(tx: &mut Tx<'_>, name: &str) -> rusqlite::Result<()> {
    find(tx, name, GROUP)?.map_or(Ok(()), |queue| end(tx, queue).map(drop))
}

/// The queue ends: at once for everybody, but its rows go in chunks. Returns whether there are more of them.
pub(in crate::store) fn end(tx: &mut Tx<'_>, queue: QueueId) -> rusqlite::Result<bool> {
    tx.memory_draft.queues.remove(&queue);
    if tx.execute(END, params![queue, ENDED])? == 0 {
        return Ok(false);
    }
    OF_ENDED.iter().try_for_each(|sql| tx.execute(sql, [queue]).map(drop))?;
    retained::drop_will_of(tx, queue)?;
    let rows: Vec<i64> = tx.all(ITS_ROWS, params![queue, CHUNK], |row| row.get(0))?;
    for seq in &rows {
        row::remove(tx, queue, *seq)?;
    }
    let more = rows.len() as i64 == CHUNK;
    if !more {
        tx.execute(FORGET, [queue])?;
    }
    Ok(more)
}
