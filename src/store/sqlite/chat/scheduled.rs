//! Messages that are to be sent at a time: a row each until then. All rules are asked when it comes; only whether its times can
//! be kept to, and how many wait, is asked before.
//!
//! ```text
//!   a message with `not_before` ──▶ scheduled ──its time──▶ written like any other, in the same transaction
//!                                       │
//!                                       └──cancel──▶ taken back ──a week──▶ gone
//! ```
//!
//! One about which a BAL is to be asked, and whose publisher is not to wait for that, is due at once. So are those behind it, which
//! keep their order.
//!
//! Of one that was taken back the id and the time stay for a while: a client that did not hear that it was taken publishes it once
//! more, perhaps after another device has cancelled it.

use super::group::message as group_message;
use super::message::{by_id, status_note, write_now};
use super::{Call, owner, tell};
use crate::chat::id::{MessageId, Owner, Row, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::suffix::messages::UserMessage;
use crate::chat::suffix::scheduled::{ScheduledStatus, scheduled_document};
use crate::chat::topic::Device;
use crate::store::sqlite::column::{from_sql, sid, sql_ms};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{
    ChatCall, ChatOutcome, GroupOutcome, NewChatMessage, NewGroupMessage, SYNC_BYTES, SYNC_MAX, ScheduledMessage,
    ScheduledPage, Writer,
};
use rusqlite::params;
use std::collections::HashSet;

/// How much later one is tried again for which its BAL has no room, in milliseconds.
const FULL_MS: u64 = 1_000;
/// For how long one that was taken back is known, in milliseconds.
const TAKEN_BACK_MS: u64 = 7 * 24 * 3_600_000;
/// Of how many of a writer this is known, the newest, at most.
const TAKEN_BACK_MAX: u32 = 100;
/// In the place of the document of one that was taken back; its time is in the place of `ttl`.
const TAKEN_BACK: &[u8] = b"null";
/// Those are forgotten by one call, at most.
const FORGOTTEN_MAX: u32 = 1_000;

macro_rules! scheduled_rows {
    ($rest:literal) => {
        concat!("SELECT row, tail, writer, by_bal, id, dev, not_before, ttl, document, by_token FROM scheduled ", $rest)
    };
}

const INSERT: &str = "INSERT INTO scheduled (row, tail, writer, by_bal, id, dev, not_before, ttl, document, by_token)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
pub(in crate::store::sqlite) const BY_ID: &str = scheduled_rows!("WHERE writer = ?1 AND id = ?2");
pub(in crate::store::sqlite) const OF_WRITER: &str =
    scheduled_rows!("WHERE writer = ?1 AND row > ?2 AND document <> x'6e756c6c' ORDER BY row LIMIT ?3");
pub(in crate::store::sqlite) const DUE: &str =
    scheduled_rows!("WHERE not_before <= ?1 AND document <> x'6e756c6c' ORDER BY not_before, row");
pub(in crate::store::sqlite) const NEXT: &str = "SELECT not_before FROM scheduled ORDER BY not_before LIMIT 1";
pub(in crate::store::sqlite) const COUNT: &str =
    "SELECT count(*) FROM scheduled WHERE writer = ?1 AND document <> x'6e756c6c'";
pub(in crate::store::sqlite) const HAS_DUE: &str =
    "SELECT 1 FROM scheduled WHERE writer = ?1 AND not_before <= ?2 AND document <> x'6e756c6c' LIMIT 1";
const IS_THERE: &str = "SELECT id FROM scheduled WHERE row = ?1 AND document <> x'6e756c6c'";
const TAKE_BACK: &str = "UPDATE scheduled SET document = x'6e756c6c', ttl = not_before, not_before = ?2 WHERE row = ?1";
const FORGET_OLDEST: &str = "DELETE FROM scheduled WHERE row IN (SELECT row FROM scheduled
    WHERE writer = ?1 AND document = x'6e756c6c' ORDER BY row DESC LIMIT -1 OFFSET ?2)";
const FORGET_OVER: &str = "DELETE FROM scheduled WHERE row IN (SELECT row FROM scheduled
    WHERE not_before <= ?1 AND document = x'6e756c6c' LIMIT ?2)";
const DELETE: &str = "DELETE FROM scheduled WHERE row = ?1";
const DELETE_OF: &str =
    "DELETE FROM scheduled WHERE row IN (SELECT row FROM scheduled WHERE writer = ?1 ORDER BY row LIMIT ?2)";
const PUT_OFF: &str = "UPDATE scheduled SET not_before = ?2 WHERE row = ?1";

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<ScheduledMessage> {
    let id = row.get::<_, String>(4)?;
    let id = MessageId::new(id)
        .map_err(|_| rusqlite::Error::InvalidColumnType(4, "id".into(), rusqlite::types::Type::Text))?;
    Ok(ScheduledMessage {
        sid: sid(row, 0, 1)?,
        writer: owner(row, 2)?,
        role: if row.get(3)? { Role::Bal } else { Role::User },
        id,
        dev: row.get::<_, Option<String>>(5)?.and_then(|dev| Device::new(dev).ok()),
        not_before: from_sql(row.get(6)?),
        ttl_ms: from_sql(row.get(7)?),
        document: row.get::<_, Vec<u8>>(8)?.into(),
        by_token: row.get(9)?,
    })
}

/// A message that somebody writes now, to whomever.
pub(super) struct Written<'a> {
    pub(super) sid: Sid,
    pub(super) from: &'a Writer,
    pub(super) message: &'a UserMessage,
    pub(super) deadline_ms: u64,
}

/// What is done with a message before it is sent; `None`: it is to be sent now.
pub(super) fn before(tx: &mut Tx<'_>, new: &Written<'_>, call: &Call<'_>) -> rusqlite::Result<Option<ChatOutcome>> {
    if let Some(known) = known(tx, new, call.at)? {
        return Ok(Some(known));
    }
    let (times, later) = (new.message.check_times(call.at), new.message.not_before.filter(|at| *at > call.at));
    // What was taken once is repeated by a client that did not hear so, whatever its times are by now.
    if later.is_none() && times.is_ok() || is_sent(tx, new)? {
        return Ok(None);
    }
    match (times, later) {
        (Err(rejection), _) => Ok(Some(ChatOutcome::Refused(rejection))),
        (Ok(()), Some(not_before)) => keep(tx, new, not_before, call).map(Some),
        (Ok(()), None) => Ok(None),
    }
}

/// The same, where a BAL is asked about messages and the publisher is not to wait for that: one that has to be asked about
/// (`asks`), or behind which another one of its writer waits, is kept and is due.
pub(super) fn in_order(
    tx: &mut Tx<'_>,
    new: &Written<'_>,
    asks: bool,
    call: &Call<'_>,
) -> rusqlite::Result<Option<ChatOutcome>> {
    if let Some(outcome) = before(tx, new, call)? {
        return Ok(Some(outcome));
    }
    if is_sent(tx, new)? || !asks && !has_due(tx, &new.from.name, call.at)? {
        return Ok(None);
    }
    keep(tx, new, call.at, call).map(Some)
}

fn has_due(tx: &Tx<'_>, writer: &Owner, at: u64) -> rusqlite::Result<bool> {
    let some_wait = tx.memory_draft.figures.chat_scheduled > 0;
    Ok(some_wait && tx.one(HAS_DUE, params![writer.as_str(), sql_ms(at)], |_| Ok(()))?.is_some())
}

/// Whether it waits for its turn, and not for its time: then it was due when it came.
fn is_due_at_once(waiting: &ScheduledMessage) -> bool {
    waiting.not_before <= waiting.sid.millis()
}

fn is_sent(tx: &ReadTx<'_>, new: &Written<'_>) -> rusqlite::Result<bool> {
    let Some(id) = &new.message.id else { return Ok(false) };
    Ok(by_id(tx, &new.from.name, id.as_str())?.is_some())
}

/// What is said of a message whose id waits already.
fn known(tx: &mut Tx<'_>, new: &Written<'_>, at: u64) -> rusqlite::Result<Option<ChatOutcome>> {
    let Some(id) = new.message.id.as_ref().filter(|_| tx.memory_draft.figures.chat_scheduled > 0) else {
        return Ok(None);
    };
    let writer = &new.from.name;
    let Some(waiting) = tx.one(BY_ID, params![writer.as_str(), id.as_str()], read)? else { return Ok(None) };
    if &*waiting.document == TAKEN_BACK {
        if new.message.not_before != Some(waiting.ttl_ms) {
            // It is another one.
            remove(tx, waiting.sid.row())?;
            return Ok(None);
        }
        let document = scheduled_document(id.as_str(), &ScheduledStatus::Cancelled, at, true);
        told(tx, (writer, new.from.role), &document, at)?;
        return Ok(Some(ChatOutcome::Repeated));
    }
    let in_order = is_due_at_once(&waiting);
    let has_its_time = new.message.not_before == Some(waiting.not_before);
    let has_no_later = new.message.not_before.is_none_or(|not_before| not_before <= at);
    let same_time = if in_order { has_no_later } else { has_its_time };
    if !same_time || !new.message.says_the_same(&waiting.document) {
        let detail = "another message of the same writer has this `id`, and waits for its time";
        let rejection = Rejection::new(ErrorCode::Duplicate, detail).about(Some(id.clone()));
        return Ok(Some(ChatOutcome::Refused(rejection)));
    }
    if !in_order {
        let status = ScheduledStatus::Scheduled(waiting.not_before);
        told(tx, (writer, new.from.role), &scheduled_document(id.as_str(), &status, at, true), at)?;
    }
    Ok(Some(ChatOutcome::Repeated))
}

/// Keeps a message until its time, and tells its writer so unless that has come. Without an id it gets one, by which it can be taken back.
fn keep(tx: &mut Tx<'_>, new: &Written<'_>, not_before: u64, call: &Call<'_>) -> rusqlite::Result<ChatOutcome> {
    let writer = &new.from.name;
    let waiting = tx.one(COUNT, [writer.as_str()], |row| row.get(0).map(from_sql))?.unwrap_or(0);
    if waiting >= u64::from(call.policy.scheduled_max) {
        let detail = format!("{waiting} messages of the same writer wait for their time");
        return Ok(ChatOutcome::Refused(Rejection::new(ErrorCode::RateLimited, detail).about(new.message.id.clone())));
    }
    let id = new.message.id.clone().unwrap_or_else(|| MessageId::from(new.sid));
    let document = new.message.clone().named(id.clone()).to_bytes();
    let (row, tail) = new.sid.parts();
    let values = params![
        row,
        tail,
        writer.as_str(),
        new.from.role == Role::Bal,
        id.as_str(),
        new.from.dev.as_ref().map(Device::as_str),
        sql_ms(not_before),
        sql_ms(new.deadline_ms.saturating_sub(call.at)),
        document,
        new.from.by_token,
    ];
    tx.execute(INSERT, values)?;
    tx.memory_draft.figures.chat_scheduled += 1;
    if not_before > call.at {
        let status = ScheduledStatus::Scheduled(not_before);
        told(tx, (writer, new.from.role), &scheduled_document(id.as_str(), &status, call.at, false), call.at)?;
    }
    Ok(ChatOutcome::Scheduled)
}

fn told(tx: &mut Tx<'_>, (writer, role): (&Owner, Role), document: &[u8], at: u64) -> rusqlite::Result<()> {
    match role {
        Role::Bal => status_note(tx, writer, document, at),
        _ => tell(tx, writer, "receipts", document, at),
    }
}

/// Takes a message back; false if none of this id waits.
pub(in crate::store) fn cancel(tx: &mut Tx<'_>, writer: (&Owner, Role), id: &str, at: u64) -> rusqlite::Result<bool> {
    let found = tx.one(BY_ID, params![writer.0.as_str(), id], read)?;
    let Some(waiting) = found.filter(|waiting| &*waiting.document != TAKEN_BACK) else { return Ok(false) };
    tx.execute(TAKE_BACK, params![waiting.sid.row(), sql_ms(at.saturating_add(TAKEN_BACK_MS))])?;
    let forgotten = tx.execute(FORGET_OLDEST, params![writer.0.as_str(), TAKEN_BACK_MAX])?;
    count_gone(tx, forgotten);
    told(tx, writer, &scheduled_document(id, &ScheduledStatus::Cancelled, at, false), at)?;
    Ok(true)
}

fn remove(tx: &mut Tx<'_>, row: Row) -> rusqlite::Result<()> {
    let removed = tx.execute(DELETE, [row])?;
    count_gone(tx, removed);
    Ok(())
}

/// So many of what waits of a writer, whom nobody tells; how many there were.
pub(in crate::store::sqlite) fn remove_all(tx: &mut Tx<'_>, writer: &str, limit: i64) -> rusqlite::Result<usize> {
    let removed = tx.execute(DELETE_OF, params![writer, limit])?;
    count_gone(tx, removed);
    Ok(removed)
}

fn count_gone(tx: &mut Tx<'_>, rows: usize) {
    let figures = &mut tx.memory_draft.figures;
    figures.chat_scheduled = figures.chat_scheduled.saturating_sub(rows as u64);
}

/// What waits of a writer, in the order in which it was written: a page behind `after`.
pub(in crate::store) fn of_writer(
    tx: &ReadTx<'_>,
    writer: &Owner,
    after: Option<Sid>,
) -> rusqlite::Result<ScheduledPage> {
    let after = after.map_or(Row(0), Sid::row);
    let found = tx.all(OF_WRITER, params![writer.as_str(), after, SYNC_MAX as i64 + 1], read)?;
    let (mut page, mut bytes) = (ScheduledPage { items: Vec::new(), complete: found.len() <= SYNC_MAX }, 0);
    for waiting in found.into_iter().take(SYNC_MAX) {
        if bytes > 0 && bytes + waiting.document.len() > SYNC_BYTES {
            page.complete = false;
            break;
        }
        bytes += waiting.document.len();
        page.items.push(waiting);
    }
    Ok(page)
}

/// When the next one is to be sent.
pub(in crate::store) fn next(tx: &ReadTx<'_>) -> rusqlite::Result<Option<u64>> {
    tx.one(NEXT, [], |row| row.get(0).map(from_sql))
}

/// Those whose time has come, at most `limit`, in their order, but for those of the writers `but_of`. Those that were taken back
/// long enough ago are forgotten.
pub(in crate::store) fn due(
    tx: &mut Tx<'_>,
    at: u64,
    limit: usize,
    but_of: &HashSet<Owner>,
) -> rusqlite::Result<Vec<ScheduledMessage>> {
    let forgotten = tx.execute(FORGET_OVER, params![sql_ms(at), FORGOTTEN_MAX])?;
    count_gone(tx, forgotten);
    let mut statement = tx.conn.prepare_cached(DUE)?;
    let mut rows = statement.query([sql_ms(at)])?;
    let mut due = Vec::new();
    while due.len() < limit
        && let Some(row) = rows.next()?
    {
        if !but_of.contains(&owner(row, 2)?) {
            due.push(read(row)?);
        }
    }
    Ok(due)
}

/// Its time has come: it is written like any other, and waits no longer, in one transaction. If it was taken back meanwhile,
/// nothing is done ([`ChatOutcome::Repeated`]); if it is refused, its writer is told in the same transaction.
pub(in crate::store) fn send(
    tx: &mut Tx<'_>,
    waiting: Sid,
    new: &NewChatMessage,
    call: &ChatCall,
) -> rusqlite::Result<ChatOutcome> {
    let row = waiting.row();
    let Some(id) = tx.one(IS_THERE, [row], |row| row.get::<_, String>(0))? else { return Ok(ChatOutcome::Repeated) };
    let outcome = write_now(tx, new, false, &mut Call::of(call))?;
    if outcome == ChatOutcome::Full {
        put_off(tx, waiting, call.at.saturating_add(FULL_MS))?;
        return Ok(outcome);
    }
    if let ChatOutcome::Refused(why) = &outcome {
        tell_failed(tx, &new.from, (&id, why), call.at)?;
    }
    remove(tx, row)?;
    Ok(outcome)
}

/// The same of one to a group. Whoever is no member by now is refused.
pub(in crate::store) fn send_to_group(
    tx: &mut Tx<'_>,
    waiting: Sid,
    new: &NewGroupMessage,
    call: &ChatCall,
) -> rusqlite::Result<GroupOutcome> {
    let row = waiting.row();
    let Some(id) = tx.one(IS_THERE, [row], |row| row.get::<_, String>(0))? else { return Ok(GroupOutcome::Repeated) };
    let outcome = group_message::write_now(tx, new, false, &mut Call::of(call))?;
    if let GroupOutcome::Refused(why) = &outcome {
        tell_failed(tx, &new.from, (&id, why), call.at)?;
    }
    remove(tx, row)?;
    Ok(outcome)
}

fn tell_failed(tx: &mut Tx<'_>, from: &Writer, (id, why): (&str, &Rejection), at: u64) -> rusqlite::Result<()> {
    let status = ScheduledStatus::Failed(why.clone());
    told(tx, (&from.name, from.role), &scheduled_document(id, &status, at, false), at)
}

/// It is tried again at `until`.
pub(in crate::store) fn put_off(tx: &Tx<'_>, waiting: Sid, until: u64) -> rusqlite::Result<()> {
    tx.execute(PUT_OFF, params![waiting.row(), sql_ms(until)]).map(drop)
}

/// A message that cannot be read any more is refused, and goes.
pub(in crate::store) fn give_up(
    tx: &mut Tx<'_>,
    waiting: &ScheduledMessage,
    why: &Rejection,
    at: u64,
) -> rusqlite::Result<()> {
    remove(tx, waiting.sid.row())?;
    let document = scheduled_document(waiting.id.as_str(), &ScheduledStatus::Failed(why.clone()), at, false);
    told(tx, (&waiting.writer, waiting.role), &document, at)
}
