//! The start: what a stop, however it came about, left behind.

use super::Settings;
use super::column::{NEVER, bytes_of, fan_out, from_sql, sid, state};
use super::delivery::Delivery;
use super::message::SEVERAL;
use super::recipient_queue::PARKED;
use super::sessions::state::STARTED;
use super::tx::{DocumentNumbers, HistoryEntry, Memory, MemoryDraft, ReadTx, Tx};
use crate::chat::delivery::{Event, State};
use crate::chat::id::{Row, Sid};
use crate::store::{INBOX, Recovery};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::VecDeque;

/// One pass over all rows. A settled row is short, so this reads a million of them in about a second; an index over what
/// is unsettled would cost every message two writes to save it. Those at the end of a row are asked for where they decide:
/// one of several deliveries (it has no `bal`) may lie in an inbox, and is not remembered for itself; nor is a message that
/// is kept. State 8 is [`SEVERAL`], and below 3 ([`State::Sent`]) all that is still to be sent.
const DELIVERIES: &str = "SELECT row, tail,
    CASE WHEN bal = '' THEN NULL
        WHEN state = 8 THEN (SELECT final_at WHERE NOT EXISTS (
            SELECT 1 FROM messages m WHERE m.row = deliveries.row AND m.kept_until IS NOT NULL))
        ELSE final_at END,
    state, length(body), CASE WHEN state < 3 AND bal = '' THEN way END FROM deliveries";
/// The bodies of messages with several deliveries, of which some are still to be pushed.
pub(super) const SHARED_BODIES: &str =
    "SELECT m.fan_out, length(d.body) FROM deliveries d JOIN messages m ON m.row = d.row
    WHERE d.final_at IS NULL AND d.look_at = ?1";
const UPSTREAM: &str = "SELECT row, tail, final_at FROM inbox";
const SPOOL: &str = "SELECT count(*), coalesce(sum(length(payload)), 0) FROM outbox WHERE kind IN (1, 2)";
const MAYBE_PUBLISHED: &str = "UPDATE outbox SET redelivered = 1
    WHERE redelivered = 0 AND EXISTS (SELECT 1 FROM claims c WHERE c.topic = outbox.topic AND c.seq >= outbox.seq)";
/// Makes the first of each queue due if it is parked: nothing is in flight after a start.
pub(super) const LOOK_AGAIN: &str = "UPDATE deliveries SET due_at = 0
    WHERE state = 0 AND due_at = ?1 AND NOT EXISTS (
        SELECT 1 FROM deliveries older WHERE older.recipient = deliveries.recipient AND older.row < deliveries.row
            AND older.way = deliveries.way AND older.state = 0 AND older.due_at IS NOT NULL)";
/// Two queues that became one: what was never put off must not be older than what was.
pub(super) const KEEP_PLACES: &str = "UPDATE deliveries SET due_at = 0
    WHERE state = 0 AND due_at IS NULL AND EXISTS (
        SELECT 1 FROM deliveries younger WHERE younger.recipient = deliveries.recipient AND younger.row > deliveries.row
            AND younger.way = deliveries.way AND younger.state = 0 AND younger.due_at IS NOT NULL)";
/// Runs before the pass over all rows, so that the pass sees where everything goes now.
const REROUTE: &str = "UPDATE deliveries SET way = ?1
    WHERE state IN (0, 1, 2) AND way NOT IN (SELECT value FROM json_each(?2))";
const NEWEST_CHAT: &str = "SELECT row, tail FROM chat ORDER BY row DESC LIMIT 1";
const UNPUSHED: &str = "SELECT count(*) FROM unpushed";
const EXPIRING: &str = "SELECT count(*) FROM expiring";
const SCHEDULED: &str = "SELECT count(*) FROM scheduled";
const NEWEST_SCHEDULED: &str = "SELECT row, tail FROM scheduled ORDER BY row DESC LIMIT 1";
const CHAT_MARKS: &str = "SELECT chat_rows, chat_bytes, chat_floor FROM marks";
/// The greatest that there is: of the ids of a row that is gone any may have been given out.
const TAIL_MAX: u32 = (1 << 17) - 1;
const SEQ_CEILING: &str = "SELECT seq_ceiling FROM marks";

/// Puts the file in order and reads what is kept in memory.
pub(super) fn recover(conn: &mut Connection, settings: &Settings, now: u64) -> rusqlite::Result<(Memory, Recovery)> {
    let mut memory = Memory::default();
    let mut recovery = Recovery::default();
    let transaction = conn.transaction()?;
    if let Some(first) = settings.transports.first() {
        let transports = settings.transports.iter().map(ToString::to_string);
        let known = serde_json::json!(transports.chain([INBOX.to_owned()]).collect::<Vec<_>>());
        recovery.rerouted = transaction.execute(REROUTE, params![first.to_string(), known.to_string()])? as u64;
    }
    let mut crashed = Vec::new();
    memory.deliveries = pass(&transaction, DELIVERIES, |row, sid| {
        recovery.last_sid = recovery.last_sid.max(Some(sid));
        // What lies in an inbox is not in flight, whatever the start finds: its document is where it was.
        if row.get::<_, i64>(3)? == SEVERAL || row.get_ref(5)?.as_str_or_null()? == Some(INBOX) {
            return Ok(());
        }
        let state = state(row, 3)?;
        if matches!(state, State::Due | State::Waiting | State::InFlight) {
            memory.figures.queue_rows += 1;
            memory.figures.queue_bytes += bytes_of(row.get(4)?);
        }
        if state == State::InFlight {
            crashed.push(sid.row());
        }
        Ok(())
    })?;
    memory.figures.queue_bytes += shared_bodies(&transaction)?;
    memory.upstream = pass(&transaction, UPSTREAM, |_, sid| {
        recovery.last_sid = recovery.last_sid.max(Some(sid));
        Ok(())
    })?;
    let last = chat(&transaction, &mut memory)?;
    recovery.last_sid = recovery.last_sid.max(last);
    let ceiling = transaction.query_row(SEQ_CEILING, [], |row| row.get(0))?;
    memory.numbers = DocumentNumbers { next: ceiling, ceiling };
    transaction.execute(STARTED, [ceiling - 1])?;
    (memory.figures.spool_rows, memory.figures.spool_bytes) =
        transaction.query_row(SPOOL, [], |row| Ok((from_sql(row.get(0)?), from_sql(row.get(1)?))))?;

    let mut tx = Tx {
        read: ReadTx { conn: &transaction, limits: &settings.limits },
        memory_draft: MemoryDraft::of(&memory),
        memory: &memory,
    };
    for &row in &crashed {
        if let Some(mut delivery) = Delivery::by_row(&tx, row)? {
            delivery.apply(&mut tx, &Event::Crashed, now)?;
        }
    }
    let memory_draft = tx.memory_draft;
    memory.adopt(memory_draft);
    recovery.crashed = crashed.len() as u64;
    if recovery.rerouted > 0 {
        transaction.execute(KEEP_PLACES, [])?;
    }
    transaction.execute(LOOK_AGAIN, [PARKED])?;
    recovery.redelivered = transaction.execute(MAYBE_PUBLISHED, [])? as u64;
    transaction.execute("DELETE FROM claims", [])?;
    transaction.commit()?;
    Ok((memory, recovery))
}

/// How much chat users have written; returns the newest id that was given out for it.
fn chat(conn: &Connection, memory: &mut Memory) -> rusqlite::Result<Option<Sid>> {
    let floor = conn.query_row(CHAT_MARKS, [], |row| {
        memory.figures.chat_rows = from_sql(row.get(0)?);
        memory.figures.chat_bytes = from_sql(row.get(1)?);
        row.get::<_, Row>(2)
    })?;
    memory.figures.chat_unpushed = conn.query_row(UNPUSHED, [], |row| row.get(0).map(from_sql))?;
    memory.figures.chat_expiring = conn.query_row(EXPIRING, [], |row| row.get(0).map(from_sql))?;
    memory.figures.chat_scheduled = conn.query_row(SCHEDULED, [], |row| row.get(0).map(from_sql))?;
    let written = conn.query_row(NEWEST_CHAT, [], |row| sid(row, 0, 1)).optional()?;
    let newest = written.max(conn.query_row(NEWEST_SCHEDULED, [], |row| sid(row, 0, 1)).optional()?);
    Ok(newest.max(Sid::from_parts(floor, TAIL_MAX).filter(|_| floor > Row(0))))
}

fn shared_bodies(conn: &Connection) -> rusqlite::Result<u64> {
    let mut statement = conn.prepare(SHARED_BODIES)?;
    let mut rows = statement.query([NEVER])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if fan_out(row, 0)?.pushes() {
            bytes += bytes_of(row.get(1)?);
        }
    }
    Ok(bytes)
}

/// Lets `see` every row; returns those that are settled, oldest first.
fn pass(
    conn: &Connection,
    sql: &str,
    mut see: impl FnMut(&rusqlite::Row<'_>, Sid) -> rusqlite::Result<()>,
) -> rusqlite::Result<VecDeque<HistoryEntry>> {
    let mut settled = Vec::new();
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let sid = sid(row, 0, 1)?;
        if let Some(at) = row.get::<_, Option<i64>>(2)? {
            settled.push(HistoryEntry { at: from_sql(at), row: sid.row() });
        }
        see(row, sid)?;
    }
    settled.sort_unstable();
    Ok(settled.into())
}
