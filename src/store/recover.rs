//! The start: what a stop, however it came about, left behind.

use super::delivery::{Delivery, sid, state};
use super::recipient_queue::PARKED;
use super::tx::{Counts, Draft, Memory, Settled, Tx, bytes_of};
use super::{Settings, from_sql};
use crate::chat::delivery::{Event, State};
use crate::chat::id::{Row, Sid};
use rusqlite::{Connection, params};
use std::fmt;

/// One pass over all rows. A settled row is short, so this reads a million of them in about a second; an index over what
/// is unsettled would cost every message two writes to save it.
const DELIVERIES: &str = "SELECT row, tail, state, final_at, length(body) FROM deliveries";
const INBOX: &str = "SELECT row, tail, final_at FROM inbox";
const SPOOL: &str = "SELECT count(*), coalesce(sum(length(payload)), 0) FROM outbox WHERE kind IN (1, 2)";
const MAYBE_PUBLISHED: &str = "UPDATE outbox SET redelivered = 1
    WHERE redelivered = 0 AND EXISTS (SELECT 1 FROM claims c WHERE c.topic = outbox.topic AND c.seq >= outbox.seq)";
/// The first of each queue, if it is parked: whether what it waited for is still there will be seen.
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
const FORMER: &str = "SELECT DISTINCT topic FROM outbox WHERE redelivered = 1 AND topic <> ''";
const SEQ_CEILING: &str = "SELECT seq_ceiling FROM marks";

/// What was found at the start.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Deliveries that were in flight; they are due again, and marked.
    pub crashed: u64,
    /// Deliveries whose transport is not configured any more; they go by the first one that is.
    pub rerouted: u64,
    /// Documents that may have been published already; they are marked.
    pub redelivered: u64,
    /// Topics with documents that may have been published by an earlier run.
    pub former: Vec<String>,
    /// Downstream messages not sent yet.
    pub queue_rows: u64,
    /// Upstream messages not yet with their BAL.
    pub spool_rows: u64,
    /// The newest id on disk: new ones must be greater.
    pub last_sid: Option<Sid>,
}

/// For the log: of what may be many, how many.
impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recovery")
            .field("crashed", &self.crashed)
            .field("rerouted", &self.rerouted)
            .field("redelivered", &self.redelivered)
            .field("former", &self.former.len())
            .field("queue_rows", &self.queue_rows)
            .field("spool_rows", &self.spool_rows)
            .field("last_sid", &self.last_sid)
            .finish()
    }
}

/// Puts the file in order and reads what is kept in memory.
pub(super) fn recover(conn: &mut Connection, settings: &Settings, now: u64) -> rusqlite::Result<(Memory, Recovery)> {
    let mut memory = Memory::default();
    let mut recovery = Recovery::default();
    let transaction = conn.transaction()?;
    if let Some(first) = settings.transports.first() {
        let known = serde_json::json!(settings.transports.iter().map(ToString::to_string).collect::<Vec<_>>());
        recovery.rerouted = transaction.execute(REROUTE, params![first.to_string(), known.to_string()])? as u64;
    }
    let crashed = read_deliveries(&transaction, &mut memory, &mut recovery)?;
    read_inbox(&transaction, &mut memory, &mut recovery)?;
    read_counts(&transaction, &mut memory.counts)?;

    let mut tx = Tx { conn: &transaction, limits: &settings.limits, draft: Draft::of(&memory), memory: &memory };
    for &row in &crashed {
        if let Some(mut delivery) = Delivery::by_row(&tx, row)? {
            delivery.apply(&mut tx, &Event::Crashed, now)?;
        }
    }
    let draft = tx.draft;
    memory.adopt(draft);
    recovery.crashed = crashed.len() as u64;
    if recovery.rerouted > 0 {
        transaction.execute(KEEP_PLACES, [])?;
    }
    transaction.execute(LOOK_AGAIN, [PARKED])?;
    recovery.redelivered = transaction.execute(MAYBE_PUBLISHED, [])? as u64;
    transaction.execute("DELETE FROM claims", [])?;
    recovery.former = transaction.prepare(FORMER)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    transaction.commit()?;

    recovery.queue_rows = memory.counts.queue_rows;
    recovery.spool_rows = memory.counts.spool_rows;
    Ok((memory, recovery))
}

/// Counts and sorts; returns the rows that were in flight.
fn read_deliveries(conn: &Connection, memory: &mut Memory, recovery: &mut Recovery) -> rusqlite::Result<Vec<Row>> {
    let mut in_flight = Vec::new();
    let mut settled = Vec::new();
    let mut statement = conn.prepare(DELIVERIES)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let sid = sid(row, 0, 1)?;
        let state = state(row, 2)?;
        recovery.last_sid = recovery.last_sid.max(Some(sid));
        if let Some(at) = row.get::<_, Option<i64>>(3)? {
            settled.push(Settled { at: from_sql(at), row: sid.row() });
        }
        if matches!(state, State::Due | State::Waiting | State::InFlight) {
            memory.counts.queue_rows += 1;
            memory.counts.queue_bytes += bytes_of(row.get(4)?);
        }
        if state == State::InFlight {
            in_flight.push(sid.row());
        }
    }
    settled.sort_unstable();
    memory.deliveries = settled.into();
    Ok(in_flight)
}

fn read_inbox(conn: &Connection, memory: &mut Memory, recovery: &mut Recovery) -> rusqlite::Result<()> {
    let mut settled = Vec::new();
    let mut statement = conn.prepare(INBOX)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let sid = sid(row, 0, 1)?;
        recovery.last_sid = recovery.last_sid.max(Some(sid));
        if let Some(at) = row.get::<_, Option<i64>>(2)? {
            settled.push(Settled { at: from_sql(at), row: sid.row() });
        }
    }
    settled.sort_unstable();
    memory.inbox = settled.into();
    Ok(())
}

fn read_counts(conn: &Connection, counts: &mut Counts) -> rusqlite::Result<()> {
    let ceiling = conn.query_row(SEQ_CEILING, [], |row| row.get(0))?;
    counts.next_seq = ceiling;
    counts.seq_ceiling = ceiling;
    (counts.spool_rows, counts.spool_bytes) =
        conn.query_row(SPOOL, [], |row| Ok((from_sql(row.get(0)?), from_sql(row.get(1)?))))?;
    Ok(())
}
