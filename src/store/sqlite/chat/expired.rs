//! Messages that are deleted at a time: everywhere, but for a tombstone that keeps their place.
//!
//! When its time is over, the row of `chat` keeps who wrote to whom, and its `n`; its text is gone, there and in what waits for
//! sessions, for a BAL, and for the push service. The copies that wait in the outbox are known by their numbers; those that
//! are rows of a queue have the time with them.

use super::message::document_of;
use super::notified::{self, Seen};
use super::{Call, ChatRow, Kind, load, people, save};
use crate::chat::id::{Owner, Row};
use crate::chat::suffix::messages::expired as tombstone;
use crate::store::sqlite::column::{from_sql, sql_ms};
use crate::store::sqlite::sessions::sweep as queues;
use crate::store::sqlite::tx::Tx;
use crate::store::sqlite::{outbox, upstream};
use crate::store::{Origin, USER_DEVICES_MAX};
use rusqlite::params;

/// Messages that are deleted by one call.
const CHUNK: usize = 250;

const NOTE: &str = "INSERT INTO expiring (row, at) VALUES (?1, ?2)";
const AT: &str = "SELECT at FROM expiring WHERE row = ?1";
const FORGET: &str = "DELETE FROM expiring WHERE row = ?1";
const NOTE_DOCUMENT: &str = "INSERT INTO expiring_documents (row, seq, topic) VALUES (?1, ?2, ?3)";
pub(in crate::store::sqlite) const DOCUMENTS: &str = "SELECT topic, seq FROM expiring_documents WHERE row = ?1";
const FORGET_DOCUMENTS: &str = "DELETE FROM expiring_documents WHERE row = ?1";
/// What is not kept any more has no row in `chat`.
pub(in crate::store::sqlite) const OVER: &str = "SELECT row, at FROM expiring WHERE at <= ?1 ORDER BY at LIMIT ?2";
pub(in crate::store::sqlite) const BEHIND: &str =
    "SELECT count(*) FROM tombstones WHERE peer = ?1 AND writer = ?2 AND row > ?3";
const BURY: &str = "UPDATE chat SET document = ?2, waits = 0 WHERE row = ?1";
const KEEP_PLACE: &str = "INSERT INTO tombstones (peer, writer, row) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
const DROP_PLACE: &str = "DELETE FROM tombstones WHERE peer = ?1 AND writer = ?2 AND row = ?3";

/// The message is to be deleted at `at` (Unix milliseconds). To be said before its copies are made.
pub(super) fn note(tx: &mut Tx<'_>, row: Row, at: u64) -> rusqlite::Result<()> {
    tx.execute(NOTE, params![row, sql_ms(at)])?;
    tx.memory_draft.figures.chat_expiring += 1;
    Ok(())
}

/// When the message that a document is a copy of is to be deleted.
pub(in crate::store::sqlite) fn time_of(tx: &Tx<'_>, origin: Origin) -> rusqlite::Result<Option<u64>> {
    match origin {
        Origin::ChatCopy(sid) | Origin::Upstream(sid) | Origin::UpstreamToAck(sid)
            if tx.memory_draft.figures.chat_expiring > 0 =>
        {
            tx.one(AT, [sid.row()], |row| row.get(0).map(from_sql))
        }
        _ => Ok(None),
    }
}

/// A copy of a message waits under this number.
pub(super) fn note_document(tx: &Tx<'_>, origin: Origin, topic: &str, seq: i64) -> rusqlite::Result<()> {
    if let Origin::ChatCopy(sid) = origin
        && time_of(tx, origin)?.is_some()
    {
        tx.execute(NOTE_DOCUMENT, params![sid.row(), seq, topic])?;
    }
    Ok(())
}

/// Deletes messages whose time is over, as many as there are ids for what clears their notifications. Whether there is more.
pub(super) fn sweep(tx: &mut Tx<'_>, call: &mut Call<'_>) -> rusqlite::Result<bool> {
    let limit = CHUNK.min(call.push_sids.len() / USER_DEVICES_MAX);
    if tx.memory_draft.figures.chat_expiring == 0 || limit == 0 {
        return Ok(false);
    }
    let values = params![sql_ms(call.at), limit as i64];
    let over: Vec<(Row, u64)> = tx.all(OVER, values, |row| Ok((row.get(0)?, row.get(1).map(from_sql)?)))?;
    let (mut more, mut shown) = (over.len() == limit, Vec::with_capacity(over.len()));
    if !over.is_empty() {
        more |= queues::drop_documents(tx, call.at)?;
    }
    for (row, at) in over {
        if let Some(message) = tx.one(super::position::BY_ROW, [row], ChatRow::read)? {
            delete(tx, &message, at, call.at)?;
            shown.extend((!message.hidden).then_some(message));
        }
        forget(tx, row)?;
    }
    // What is unread is known by now.
    for message in shown {
        let seen = Seen { user: &message.peer, peer: &message.writer, sid: message.sid, up_to: false };
        notified::clear(tx, &seen, None, &[], call)?;
    }
    Ok(more)
}

/// Deletes what a message says, wherever it is, and leaves a tombstone in its place.
fn delete(tx: &mut Tx<'_>, message: &ChatRow, at: u64, now: u64) -> rusqlite::Result<()> {
    let row = message.sid.row();
    let before = document_of(tx, message)?.len() as u64;
    let left = tombstone(message.id.as_deref(), &message.peer, at);
    tx.execute(BURY, params![row, left])?;
    let bytes = &mut tx.memory_draft.figures.chat_bytes;
    *bytes = bytes.saturating_sub(before) + left.len() as u64;
    for (topic, seq) in tx.all(DOCUMENTS, [row], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))? {
        outbox::withdraw(tx, &topic, seq)?;
    }
    upstream::expired(tx, row, now)?;
    if message.kind == Kind::Message && !message.hidden {
        tx.execute(KEEP_PLACE, params![message.peer.as_str(), message.writer.as_str(), row])?;
        let (mut conversation, side) = load(tx, &message.peer, &message.writer)?;
        if conversation.handle_dropped(side, message.sid) {
            save(tx, &message.peer, &message.writer, &conversation)?;
            people::add_unread(tx, &message.peer, -1)?;
        }
    }
    Ok(())
}

fn forget(tx: &mut Tx<'_>, row: Row) -> rusqlite::Result<()> {
    let forgotten = tx.execute(FORGET, [row])? as u64;
    tx.execute(FORGET_DOCUMENTS, [row])?;
    let figures = &mut tx.memory_draft.figures;
    figures.chat_expiring = figures.chat_expiring.saturating_sub(forgotten);
    Ok(())
}

/// The message is not kept any more. Whether it was a tombstone, which counts as unread no longer.
pub(super) fn dropped(tx: &mut Tx<'_>, message: &ChatRow) -> rusqlite::Result<bool> {
    if tx.memory_draft.figures.chat_expiring > 0 {
        forget(tx, message.sid.row())?;
    }
    let place = params![message.peer.as_str(), message.writer.as_str(), message.sid.row()];
    Ok(tx.execute(DROP_PLACE, place)? > 0)
}

/// How many messages of `writer` to `reader` behind a row were deleted: they are not unread.
pub(super) fn behind(tx: &Tx<'_>, reader: &Owner, writer: &Owner, row: Row) -> rusqlite::Result<u64> {
    let count = tx.one(BEHIND, params![reader.as_str(), writer.as_str(), row], |row| row.get(0).map(from_sql))?;
    Ok(count.unwrap_or(0))
}
