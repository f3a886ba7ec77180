//! What does not stay: messages beyond what is kept or after their time, invitations whose time is over, devices that say nothing for long. In
//! small chunks, so that no verb waits long behind it.

use super::notified::{self, Seen};
use super::{Call, ChatRow, Kind, deletion, device, expired, group, load, mention, people, save};
use crate::chat::id::{Owner, Row};
use crate::store::sqlite::column::{from_sql, sql_ms};
use crate::store::sqlite::tx::{OutboxScan, ReadTx, Tx};
use crate::store::{ChatCall, Keep, USER_DEVICES_MAX};
use rusqlite::params;

/// Rows of one kind handled per call.
const CHUNK: usize = 250;
/// A device that is silent so long is told of, in milliseconds; pushes to it are still tried.
const STALE_MS: u64 = 30 * 24 * 3_600_000;
/// A device that is silent so long has no registration any more, in milliseconds.
const GONE_MS: u64 = 270 * 24 * 3_600_000;
/// How far the time before which documents are dropped moves at least, in milliseconds: each step reads the outbox once.
const SINCE_STEP_MS: u64 = 3_600_000;

pub(in crate::store::sqlite) const OLDEST: &str = chat_rows!("ORDER BY row LIMIT ?1");
const LENGTH: &str = "SELECT length(document) + coalesce(length(own), 0) FROM chat WHERE row = ?1";
const DROP: &str = "DELETE FROM chat WHERE row = ?1";
const UNNOTE: &str = "DELETE FROM pushed WHERE user = ?1 AND peer = ?2 AND row = ?3";
const FLOOR: &str = "UPDATE marks SET chat_floor = max(chat_floor, ?1)";
const SINCE: &str = "SELECT chat_since FROM marks";
const SET_SINCE: &str = "UPDATE marks SET chat_since = ?1";
pub(in crate::store::sqlite) const OVER: &str =
    chat_rows!("INDEXED BY chat_open WHERE kind = 2 AND answer IS NULL AND deadline <= ?1 ORDER BY deadline LIMIT ?2");
const END: &str = "UPDATE chat SET answer = 0, waits = 0 WHERE row = ?1";
pub(in crate::store::sqlite) const SILENT: &str =
    "SELECT user, dev FROM devices WHERE stale = ?1 AND seen_at <= ?2 ORDER BY seen_at LIMIT ?3";

/// A chunk of each; whether there is more to do at once.
pub(in crate::store) fn sweep(tx: &mut Tx<'_>, keep: Keep, call: &ChatCall) -> rusqlite::Result<bool> {
    let call = &mut Call::of(call);
    let dropped = drop_oldest(tx, keep, call.at)?;
    drop_documents(tx, dropped > 0, call.at.saturating_sub(keep.for_ms))?;
    let ended = end_invitations(tx, call)?;
    let deleted = expired::sweep(tx, call)?;
    let silent = silent_devices(tx, call.at)?;
    let purged = deletion::purge_some(tx)?;
    let forgotten = group::former::sweep(tx)?;
    let made = group::bal_copy::make_waiting(tx, call)?;
    Ok(dropped >= CHUNK || ended || deleted || silent >= CHUNK || purged || forgotten || made)
}

/// The oldest go while they are too old, or all together too many.
fn drop_oldest(tx: &mut Tx<'_>, keep: Keep, now: u64) -> rusqlite::Result<usize> {
    let since = now.saturating_sub(keep.for_ms);
    let mut dropped = 0;
    for row in tx.all(OLDEST, [CHUNK as i64], ChatRow::read)? {
        if row.at >= since && tx.memory_draft.figures.chat_bytes <= keep.bytes {
            break;
        }
        drop_row(tx, &row)?;
        dropped += 1;
    }
    Ok(dropped)
}

/// What is not kept is not unread. Its place in the count of its conversation stays its own.
fn drop_row(tx: &mut Tx<'_>, row: &ChatRow) -> rusqlite::Result<()> {
    let number = row.sid.row();
    if row.peer.is_group() && row.kind == Kind::Message {
        group::handle_dropped(tx, row)?;
    }
    if row.peer.is_group() {
        group::push::dropped(tx, number)?;
    }
    let bytes = tx.one(LENGTH, [number], |row| row.get(0).map(from_sql))?.unwrap_or_default();
    tx.execute(DROP, [number])?;
    tx.execute(UNNOTE, params![row.peer.as_str(), row.writer.as_str(), number])?;
    mention::forget(tx, &row.peer, &row.writer, number)?;
    // Before it is forgotten who has deleted it.
    let of_two = row.counts() && !row.hidden && !row.peer.is_group();
    let counts = of_two && !row.gone && !deletion::is_deleted(tx, &row.peer, row)?;
    deletion::forget(tx, row)?;
    tx.execute(FLOOR, [number])?;
    let figures = &mut tx.memory_draft.figures;
    figures.chat_rows = figures.chat_rows.saturating_sub(1);
    figures.chat_bytes = figures.chat_bytes.saturating_sub(bytes);
    expired::dropped(tx, row)?;
    if !counts {
        return Ok(());
    }
    let (mut conversation, side) = load(tx, &row.peer, &row.writer)?;
    if conversation.handle_dropped(side, row.sid) {
        save(tx, &row.peer, &row.writer, &conversation)?;
        people::add_unread(tx, &row.peer, -1)?;
    }
    Ok(())
}

/// Documents of before `since`, and copies of what was dropped, wait for no session any longer: the sweep of the outbox looks
/// for them.
fn drop_documents(tx: &mut Tx<'_>, dropped: bool, since: u64) -> rusqlite::Result<()> {
    let before = tx.one(SINCE, [], |row| row.get(0).map(from_sql))?.unwrap_or_default();
    if !dropped && since < before.saturating_add(SINCE_STEP_MS) {
        return Ok(());
    }
    tx.execute(SET_SINCE, [sql_ms(since.max(before))])?;
    if tx.memory_draft.outbox_scan == OutboxScan::Idle {
        tx.memory_draft.outbox_scan = OutboxScan::After(String::new(), 0);
    }
    Ok(())
}

/// As far as there are ids for what clears their notifications. Whether there is more.
fn end_invitations(tx: &mut Tx<'_>, call: &mut Call<'_>) -> rusqlite::Result<bool> {
    let over = tx.all(OVER, params![sql_ms(call.at), CHUNK as i64], ChatRow::read)?;
    let found = over.len();
    for (done, row) in over.into_iter().enumerate() {
        if call.push_sids.len() < USER_DEVICES_MAX {
            return Ok(done > 0);
        }
        tx.execute(END, [row.sid.row()])?;
        let seen = Seen { user: &row.peer, peer: &row.writer, sid: row.sid, up_to: false };
        notified::clear(tx, &seen, None, &[], call)?;
    }
    Ok(found >= CHUNK)
}

fn silent_devices(tx: &mut Tx<'_>, now: u64) -> rusqlite::Result<usize> {
    let silent = |tx: &ReadTx<'_>, stale: bool, ms: u64| {
        let values = params![stale, sql_ms(now.saturating_sub(ms)), CHUNK as i64];
        tx.all(SILENT, values, |row| Ok((super::owner(row, 0)?, row.get::<_, String>(1)?)))
    };
    let gone: Vec<(Owner, String)> = silent(tx, true, GONE_MS)?;
    for (user, dev) in &gone {
        device::remove_silent(tx, user, dev, now)?;
    }
    let stale = silent(tx, false, STALE_MS)?;
    for (user, dev) in &stale {
        device::tell_stale(tx, user, dev, now)?;
    }
    Ok(gone.len().max(stale.len()))
}

/// The row below which nothing of what chat users wrote is kept for sure.
pub(super) fn floor(tx: &ReadTx<'_>) -> rusqlite::Result<Row> {
    Ok(tx.one("SELECT chat_floor FROM marks", [], |row| row.get(0))?.unwrap_or(Row(0)))
}
