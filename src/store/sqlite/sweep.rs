//! The expiry: what is overdue expires, what is settled long enough is forgotten, and room that nothing needs is given back.
//! In small chunks, so that no verb waits long behind it.

use super::column::{NEVER, from_sql, sql_ms, state};
use super::delivery::Delivery;
use super::message::{FanOutMessage, SEVERAL};
use super::outbox;
use super::shrink;
use super::tx::{OutboxScan, Tx};
use crate::chat::delivery::State;
use crate::chat::id::Row;
use crate::store::{INBOX, RECEIPT_GRACE_MS, Swept};
use rusqlite::params;

/// Rows of one kind handled per call.
const CHUNK: usize = 250;
/// What is in flight at its deadline is left to its transport, and looked at again after this time.
const IN_FLIGHT_LOOK_MS: u64 = 60 * 1000;

pub(super) const OVERDUE: &str = "SELECT row, state, deadline, sent_at, way FROM deliveries
    WHERE final_at IS NULL AND look_at <= ?1 ORDER BY look_at LIMIT ?2";
const LOOK_LATER: &str = "UPDATE deliveries SET look_at = ?2 WHERE row = ?1";
const FORGET_DELIVERY: &str = "DELETE FROM deliveries WHERE row = ?1 AND final_at IS NOT NULL AND state < ?2";
pub(super) const KEPT: &str = "SELECT row FROM messages WHERE kept_until <= ?1 ORDER BY kept_until LIMIT ?2";
const FORGET_UPSTREAM: &str = "DELETE FROM inbox WHERE row = ?1 AND final_at IS NOT NULL";
pub(super) const SCAN: &str = "SELECT topic, seq, kind = 3 AND queued_at < ?4
        OR kind IN (0, 4) AND NOT EXISTS (SELECT 1 FROM deliveries WHERE row = about)
        OR kind IN (5, 6) AND queued_at < (SELECT chat_since FROM marks WHERE only = 1)
        OR kind = 5 AND NOT EXISTS (SELECT 1 FROM chat WHERE row = about)
            AND NOT EXISTS (SELECT 1 FROM calls WHERE row = about)
    FROM outbox WHERE (topic, seq) > (?1, ?2) ORDER BY topic, seq LIMIT ?3";
const DROP: &str = "DELETE FROM outbox WHERE topic = ?1 AND seq = ?2";

pub(in crate::store) fn sweep(tx: &mut Tx<'_>, now: u64) -> rusqlite::Result<Swept> {
    let mut expired = 0;
    let overdue = expire(tx, now, &mut expired)?;
    let forgotten = forget(tx, now)?;
    if forgotten > 0 && tx.memory_draft.outbox_scan == OutboxScan::Idle {
        tx.memory_draft.outbox_scan = OutboxScan::After(String::new(), 0);
    }
    let scanned = scan_outbox(tx, now)?;
    let dropped = outbox::drop_expired(tx, now, CHUNK)?;
    let more = [overdue, forgotten, scanned, dropped].iter().any(|rows| *rows >= CHUNK);
    // Pages are given back only after the last chunk was forgotten. One chunk a sweep, so that no verb waits long.
    if !more {
        shrink::give_back(tx, now)?;
    }
    Ok(Swept { expired, more })
}

fn expire(tx: &mut Tx<'_>, now: u64, expired: &mut u64) -> rusqlite::Result<usize> {
    let overdue: Vec<(Row, State, u64, bool)> = tx.all(OVERDUE, params![sql_ms(now), CHUNK as i64], |row| {
        let state = state(row, 1)?;
        Ok((row.get(0)?, state, end(row, state)?, row.get_ref(4)?.as_str()? == INBOX))
    })?;
    for &(row, state, end, in_inbox) in &overdue {
        if state == State::InFlight && !in_inbox {
            tx.execute(LOOK_LATER, params![row, sql_ms(now + IN_FLIGHT_LOOK_MS)])?;
        } else if end > now {
            tx.execute(LOOK_LATER, params![row, sql_ms(end)])?;
        } else if let Some(mut delivery) = Delivery::by_row(tx, row)? {
            *expired += u64::from(delivery.expire(tx, now)?);
        }
    }
    Ok(overdue.len())
}

/// When a delivery in this state ends: what was sent waits for its receipt a while longer, and where there is no deadline so
/// long from its sending on.
fn end(row: &rusqlite::Row<'_>, state: State) -> rusqlite::Result<u64> {
    let deadline = row.get(2)?;
    if state != State::Sent {
        return Ok(from_sql(deadline));
    }
    let from = if deadline == NEVER { row.get::<_, Option<i64>>(3)?.unwrap_or(NEVER) } else { deadline };
    Ok(from_sql(from).saturating_add(RECEIPT_GRACE_MS))
}

/// Returns how many rows went, of the kind of which most did. A message with several deliveries goes whole.
fn forget(tx: &mut Tx<'_>, now: u64) -> rusqlite::Result<usize> {
    let since = now.saturating_sub(tx.limits.history_ms());
    let rows = tx.limits.history_rows;
    let memory = tx.memory;
    let (mut deliveries, mut upstream, mut kept) = (0, 0, 0);
    while deliveries < CHUNK
        && let Some(row) = tx.memory_draft.deliveries.forget(&memory.deliveries, rows, since)
    {
        deliveries += match tx.execute(FORGET_DELIVERY, params![row, SEVERAL])? {
            0 => FanOutMessage::forget(tx, row)?.max(1),
            one => one,
        };
    }
    while upstream < CHUNK
        && let Some(row) = tx.memory_draft.upstream.forget(&memory.upstream, rows, since)
    {
        tx.execute(FORGET_UPSTREAM, [row])?;
        upstream += 1;
    }
    for row in tx.all(KEPT, params![sql_ms(now), CHUNK as i64], |row| row.get::<_, Row>(0))? {
        if kept < CHUNK {
            kept += FanOutMessage::kept_enough(tx, row)?.max(1);
        }
    }
    Ok(deliveries.max(upstream).max(kept))
}

/// Scans on along the outbox and drops what nobody came to read: statuses of forgotten deliveries, old notes, what chat users
/// are told and is not kept any more. Upstream messages are never dropped.
fn scan_outbox(tx: &mut Tx<'_>, now: u64) -> rusqlite::Result<usize> {
    let OutboxScan::After(topic, seq) = &tx.memory_draft.outbox_scan else { return Ok(0) };
    let since = sql_ms(now.saturating_sub(tx.limits.history_ms()));
    let steps: Vec<(String, i64, bool)> =
        tx.all(SCAN, params![topic, seq, CHUNK as i64, since], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for (topic, seq, _) in steps.iter().filter(|(.., drop)| *drop) {
        tx.execute(DROP, params![topic, seq])?;
    }
    let count = steps.len();
    let last = steps.into_iter().last().filter(|_| count == CHUNK);
    tx.memory_draft.outbox_scan = last.map_or(OutboxScan::Idle, |(topic, seq, _)| OutboxScan::After(topic, seq));
    Ok(count)
}
