//! Messages that are deleted at a time: everywhere, but for a tombstone that keeps their place.
//!
//! When its time is over, the row of `chat` keeps who wrote to whom, and its `n`; its text is gone, there and in what waits for
//! sessions, for a BAL, and for the push service. The copies that wait in the outbox are known by their numbers; those that
//! are rows of a queue have the time with them.

use super::group::tombstones::Tombstones;
use super::notified::{self, Seen};
use super::{Call, ChatRow, amend, group};
use crate::chat::amendment::Why;
use crate::chat::id::Row;
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
const FORGET_DOCUMENT: &str = "DELETE FROM expiring_documents WHERE row = ?1 AND seq = ?2";
/// What is not kept any more has no row in `chat`.
pub(in crate::store::sqlite) const OVER: &str = "SELECT row FROM expiring WHERE at <= ?1 ORDER BY at LIMIT ?2";
const STOP_WAITING: &str = "UPDATE chat SET waits = 0 WHERE row = ?1";

/// The message is to be deleted at `at` (Unix milliseconds). To be said before its copies are made.
pub(super) fn note(tx: &mut Tx<'_>, row: Row, at: u64) -> rusqlite::Result<()> {
    tx.execute(NOTE, params![row, sql_ms(at)])?;
    tx.memory_draft.figures.chat_expiring += 1;
    Ok(())
}

/// An edit or retract is to be deleted with its message. To be said before its copies are made.
pub(super) fn note_amendment(tx: &mut Tx<'_>, amendment: &ChatRow) -> rusqlite::Result<()> {
    if tx.memory_draft.figures.chat_expiring == 0 {
        return Ok(());
    }
    let at = tx.one(AT, [amendment.amends], |row| row.get(0).map(from_sql))?;
    at.map_or(Ok(()), |at| note(tx, amendment.sid.row(), at))
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

/// The copy of a message under this number waits no more. One of a year would be known as long otherwise, for each of its readers.
pub(in crate::store::sqlite) fn forget_document(tx: &Tx<'_>, row: Row, seq: i64) -> rusqlite::Result<()> {
    if tx.memory_draft.figures.chat_expiring > 0 {
        tx.execute(FORGET_DOCUMENT, params![row, seq])?;
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
    let over: Vec<Row> = tx.all(OVER, values, |row| row.get(0))?;
    if over.is_empty() {
        return Ok(false);
    }
    let is_full = over.len() == limit;
    tx.conn.pragma_update(None, "secure_delete", "ON")?;
    let deleted = delete_all(tx, over, call.at);
    tx.conn.pragma_update(None, "secure_delete", "OFF")?;
    let (deleted, has_copies) = deleted?;
    let shown = deleted.into_iter().flatten().filter(|message| !message.hidden && message.amends.is_none());
    // What is unread is known by now, and was not before.
    call.tombstones = Tombstones::default();
    for message in shown {
        if message.peer.is_group() {
            group::amend::clear_all(tx, &message, call)?;
            continue;
        }
        let seen = Seen { user: &message.peer, peer: &message.writer, sid: message.sid, up_to: false };
        notified::clear(tx, &seen, None, &[], call)?;
    }
    Ok(is_full || has_copies)
}

/// The rows of messages whose time is over, with the copies that wait in queues. Yields what the messages were, and whether more of
/// those copies may be there.
fn delete_all(tx: &mut Tx<'_>, over: Vec<Row>, now: u64) -> rusqlite::Result<(Vec<Option<ChatRow>>, bool)> {
    let has_copies = queues::drop_documents(tx, now)?;
    let deleted = over.into_iter().map(|row| delete_row(tx, row, now)).collect::<rusqlite::Result<Vec<_>>>()?;
    Ok((deleted, has_copies))
}

/// The row of a message whose time is over, or of a change of one. Yields what it was, if it is still kept.
fn delete_row(tx: &mut Tx<'_>, row: Row, now: u64) -> rusqlite::Result<Option<ChatRow>> {
    let message = tx.one(super::position::BY_ROW, [row], ChatRow::read)?;
    if let Some(message) = &message {
        delete(tx, message, now)?;
    }
    forget(tx, row)?;
    Ok(message)
}

/// Deletes what a message says, wherever it is, and leaves a tombstone in its place.
fn delete(tx: &mut Tx<'_>, message: &ChatRow, now: u64) -> rusqlite::Result<()> {
    let row = message.sid.row();
    if !message.gone && !message.peer.is_group() {
        // While it still counts.
        amend::forget_unread(tx, &message.peer, message)?;
    }
    amend::bury_as(tx, message, Why::Expired)?;
    tx.execute(STOP_WAITING, [row])?;
    for (topic, seq) in tx.all(DOCUMENTS, [row], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))? {
        outbox::withdraw(tx, &topic, seq)?;
    }
    upstream::expired(tx, row, now)
}

fn forget(tx: &mut Tx<'_>, row: Row) -> rusqlite::Result<()> {
    let forgotten = tx.execute(FORGET, [row])? as u64;
    tx.execute(FORGET_DOCUMENTS, [row])?;
    let figures = &mut tx.memory_draft.figures;
    figures.chat_expiring = figures.chat_expiring.saturating_sub(forgotten);
    Ok(())
}

/// The message is not kept any more.
pub(super) fn dropped(tx: &mut Tx<'_>, message: &ChatRow) -> rusqlite::Result<()> {
    if tx.memory_draft.figures.chat_expiring > 0 { forget(tx, message.sid.row()) } else { Ok(()) }
}
