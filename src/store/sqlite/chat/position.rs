//! How far each side has got: what devices have confirmed, and what users have read.

use super::calls::ringing;
use super::message::{receipt, receipt_up_to};
use super::{Call, ChatRow, Kind, group, load, mention, notified, people, save, tell};
use crate::chat::contact::tells_back;
use crate::chat::conversation::{Conversation, Moved, Side, Standing};
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::status::Status;
use crate::chat::suffix::read::read_document;
use crate::chat::topic::Device;
use crate::store::sqlite::column::from_sql;
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{ChatCall, ChatOutcome, NewReceipt, ReceiptOf, Writer};
use rusqlite::params;
use std::collections::BTreeSet;

/// Messages that one receipt `up_to` marks as received, at most. What is left counts by the position of its reader.
const UP_TO_MAX: i64 = 1_000;

const RECEIVED: &str = "UPDATE chat SET received = 1 WHERE row = ?1 AND received = 0";
pub(in crate::store::sqlite) const ALL_RECEIVED: &str = "UPDATE chat SET received = 1 WHERE row IN (
    SELECT row FROM chat INDEXED BY chat_pair
    WHERE peer = ?1 AND writer = ?2 AND row <= ?3 AND row > ?4 AND received = 0 AND hidden = 0 ORDER BY row LIMIT ?5)";
pub(in crate::store::sqlite) const NEWEST_UNRECEIVED: &str = chat_rows!(
    "INDEXED BY chat_pair WHERE peer = ?1 AND writer = ?2 AND row <= ?3 AND row > ?4 AND received = 0 AND hidden = 0
    ORDER BY row DESC LIMIT 1"
);
/// Of those the newest whose writer wants to hear of it.
pub(in crate::store::sqlite) const NEWEST_TO_CONFIRM: &str = chat_rows!(
    "INDEXED BY chat_pair WHERE peer = ?1 AND writer = ?2 AND row <= ?3 AND row > ?4 AND received = 0 AND hidden = 0
    AND receipt = 1 ORDER BY row DESC LIMIT 1"
);
pub(in crate::store::sqlite) const NEWEST_MESSAGE: &str = chat_rows!(
    "INDEXED BY chat_pair WHERE peer = ?1 AND writer = ?4 AND row <= ?2 AND row > ?3 AND hidden = 0 AND kind < 2
    AND receipt >= ?5 ORDER BY row DESC LIMIT 1"
);
pub(in crate::store::sqlite) const BY_ROW: &str = chat_rows!("WHERE row = ?1");
/// Messages (and calls that were missed) that were counted as unread and are not any more, behind a row: retracted ones, and those of which the reader has
/// deleted the own copy.
pub(in crate::store::sqlite) const RETRACTED_BEHIND: &str = "SELECT count(*) FROM chat INDEXED BY chat_gone
    WHERE peer = ?1 AND writer = ?2 AND row > ?3 AND gone = 1
    AND (kind = 0 OR kind = 6 AND deadline > at) AND hidden = 0";
pub(in crate::store::sqlite) const DELETED_BEHIND: &str =
    "SELECT count(*) FROM deleted d CROSS JOIN chat c ON c.row = d.row
    WHERE d.user = ?1 AND d.peer = ?2 AND d.row > ?3 AND c.writer = ?2 AND c.gone = 0
    AND (c.kind = 0 OR c.kind = 6 AND c.deadline > c.at) AND c.hidden = 0";

/// Who says something about what it has.
pub(super) struct Reader<'a> {
    pub(super) user: &'a Owner,
    pub(super) dev: Option<&'a Device>,
    /// The devices that have a connection.
    pub(super) connected: &'a [Device],
}

/// A device has messages, or its user has read them. `sids` that are not the user's are refused, and nothing is done then.
pub(in crate::store) fn receipt_of_user(
    tx: &mut Tx<'_>,
    new: &NewReceipt,
    call: &ChatCall,
) -> rusqlite::Result<ChatOutcome> {
    let call = &mut Call::of(call);
    let reader = Reader { user: &new.user, dev: new.dev.as_ref(), connected: &new.connected };
    let sids = match &new.of {
        ReceiptOf::Each(sids) => sids.as_slice(),
        ReceiptOf::UpTo(sid) | ReceiptOf::In(_, sid) => std::slice::from_ref(sid),
    };
    let (mut rows, mut offers) = (Vec::with_capacity(sids.len()), Vec::new());
    for sid in sids {
        let with = if let ReceiptOf::In(with, _) = &new.of { Some(with) } else { None };
        let row = ChatRow::by_sid(tx, *sid)?.filter(|row| with.is_none_or(|with| row.other(reader.user) == with));
        let is_own = match &row {
            // What one wrote oneself is a place in a conversation, but nothing that one could confirm.
            Some(row) if row.writer == *reader.user => with.is_some(),
            Some(row) => row.went_to(tx, reader.user)?,
            None => false,
        };
        let Some(row) = row.filter(|_| is_own) else {
            if with.is_none() && ringing::is_to(tx, reader.user, *sid)? {
                offers.push(*sid);
                continue;
            }
            let detail = "a `sid` is that of no message that went to this user";
            return Ok(ChatOutcome::Refused(Rejection::new(ErrorCode::NotFound, detail)));
        };
        rows.push(row);
    }
    offers.into_iter().try_for_each(|offer| ringing::receipt(tx, new, offer, call))?;
    let up_to = !matches!(new.of, ReceiptOf::Each(_));
    let mut confirmed = sids.to_vec();
    if new.read {
        keep_newest(&mut rows, reader.user);
    }
    for row in &rows {
        let waited = if up_to || new.read { waited_before(tx, new, row)? } else { Vec::new() };
        if new.read && row.peer.is_group() {
            group::position::read(tx, &reader, row, call)?;
        } else if new.read {
            read(tx, &reader, row, call)?;
        } else {
            let attended = new.attended || !waited.is_empty();
            received(tx, new, row, (up_to, attended), call)?;
        }
        confirmed.extend(waited);
    }
    if let Some(dev) = &new.dev {
        notified::device_spoke(tx, &new.user, dev, call.at)?;
    }
    Ok(ChatOutcome::Done { seen: Vec::new(), stranger: false, waits: false, confirmed })
}

/// A read position goes forward once in each conversation, to the newest of the messages that were read.
fn keep_newest(rows: &mut Vec<ChatRow>, reader: &Owner) {
    rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.sid));
    let mut seen = BTreeSet::new();
    rows.retain(|row| seen.insert(row.other(reader).as_str().to_owned()));
    rows.reverse();
}

/// The messages before this one in its conversation of which pushes wait for the device that confirms.
fn waited_before(tx: &ReadTx<'_>, new: &NewReceipt, row: &ChatRow) -> rusqlite::Result<Vec<Sid>> {
    let mut before = Vec::new();
    for sid in new.waited.iter().filter(|sid| **sid < row.sid) {
        let Some(of) = ChatRow::by_sid(tx, *sid)?.filter(|of| of.writer != new.user) else { continue };
        if of.other(&new.user) == row.other(&new.user) && of.went_to(tx, &new.user)? {
            before.push(*sid);
        }
    }
    Ok(before)
}

/// The device acknowledged the copy of a message to its user, over MQTT.
pub(in crate::store::sqlite) fn acknowledged(tx: &mut Tx<'_>, user: &str, sid: Sid, at: u64) -> rusqlite::Result<()> {
    let Some(row) = ChatRow::by_sid(tx, sid)? else { return ringing::acknowledged(tx, user, sid).map(drop) };
    if row.peer.is_group() {
        let Ok(user) = Owner::new(user) else { return Ok(()) };
        return if row.writer == user { Ok(()) } else { group::position::received(tx, &user, &row, (false, at)) };
    }
    if row.peer.as_str() == user && !row.hidden { confirm(tx, &row, false, at) } else { Ok(()) }
}

fn received(
    tx: &mut Tx<'_>,
    new: &NewReceipt,
    row: &ChatRow,
    (up_to, attended): (bool, bool),
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    if row.peer.is_group() {
        group::position::received(tx, &new.user, row, (up_to, call.at))?;
    } else {
        confirm(tx, row, up_to, call.at)?;
    }
    // A device that nobody looks at says nothing of the others.
    if let Some(dev) = new.dev.as_ref().filter(|_| attended) {
        let seen = notified::Seen { user: &new.user, peer: row.other(&new.user), sid: row.sid, up_to };
        notified::withdraw(tx, &seen, dev, call)?;
    }
    Ok(())
}

/// The first confirmation of a message is told to its writer.
fn confirm(tx: &mut Tx<'_>, row: &ChatRow, up_to: bool, at: u64) -> rusqlite::Result<()> {
    if row.kind == Kind::Amendment && !up_to {
        // It says nothing of the messages before it.
        return tx.execute(RECEIVED, [row.sid.row()]).map(drop);
    }
    let (mut conversation, side) = load(tx, &row.peer, &row.writer)?;
    let confirmed = conversation.of(side).confirmed;
    let Some(Marked { newest, to_confirm }) = mark_received(tx, row, up_to, confirmed)? else { return Ok(()) };
    let is_known = conversation.of(side).confirmed.is_some_and(|confirmed| newest <= confirmed);
    let mut is_changed = conversation.handle_received(side, newest, up_to);
    if let Some(newest) = to_confirm.filter(|_| !is_known)
        && may_tell(tx, &newest, false)?
    {
        conversation.handle_told_delivered(side, newest.sid);
        is_changed = true;
        receipt_up_to(tx, &newest, Status::Delivered, up_to, at)?;
    }
    if is_changed { save(tx, &row.peer, &row.writer, &conversation) } else { Ok(()) }
}

/// `user` has `other` as a contact now: what `user` has confirmed and read before can be told.
pub(super) fn tell_contact(tx: &mut Tx<'_>, user: &Owner, other: &Owner, at: u64) -> rusqlite::Result<()> {
    let (mut conversation, side) = load(tx, user, other)?;
    let Standing { received, read, told_delivered, told_read, .. } = *conversation.of(side);
    let newest = |tx: &ReadTx<'_>, up_to: Option<Sid>, behind: Option<Sid>| {
        let Some(up_to) = up_to.filter(|up_to| behind < Some(*up_to)) else { return Ok(None) };
        let behind = behind.map_or(Row(0), Sid::row);
        tx.one(NEWEST_MESSAGE, params![user.as_str(), up_to.row(), behind, other.as_str(), true], ChatRow::read)
    };
    if let Some(last) = newest(tx, received, told_delivered)?
        && may_tell(tx, &last, false)?
    {
        conversation.handle_told_delivered(side, last.sid);
        receipt_up_to(tx, &last, Status::Delivered, true, at)?;
    }
    if let Some(last) = newest(tx, read, told_read)?
        && may_tell(tx, &last, true)?
    {
        tell_read(tx, (&mut conversation, side), &last, at)?;
    }
    save(tx, user, other, &conversation)
}

/// Tells the writer that a message was read, and before it that it was delivered, unless that was told.
fn tell_read(
    tx: &mut Tx<'_>,
    (conversation, side): (&mut Conversation, Side),
    last: &ChatRow,
    at: u64,
) -> rusqlite::Result<()> {
    if conversation.handle_told_read(side, last.sid) {
        receipt_up_to(tx, last, Status::Delivered, true, at)?;
    }
    receipt_up_to(tx, last, Status::Read, true, at)
}

/// Messages that a device has confirmed, and none before.
struct Marked {
    newest: Sid,
    /// The newest of them whose writer wants to hear of it.
    to_confirm: Option<ChatRow>,
}

/// Marks a message, or all up to it, as received; all up to `confirmed` are.
fn mark_received(tx: &Tx<'_>, row: &ChatRow, up_to: bool, confirmed: Option<Sid>) -> rusqlite::Result<Option<Marked>> {
    if !up_to {
        let marked = Marked { newest: row.sid, to_confirm: Some(row.clone()).filter(|row| row.receipt) };
        return Ok((tx.execute(RECEIVED, [row.sid.row()])? > 0).then_some(marked));
    }
    let behind = confirmed.map_or(Row(0), Sid::row);
    let place = params![row.peer.as_str(), row.writer.as_str(), row.sid.row(), behind];
    let Some(newest) = tx.one(NEWEST_UNRECEIVED, place, ChatRow::read)? else { return Ok(None) };
    let sid = newest.sid;
    let to_confirm = if newest.receipt { Some(newest) } else { tx.one(NEWEST_TO_CONFIRM, place, ChatRow::read)? };
    tx.execute(ALL_RECEIVED, params![row.peer.as_str(), row.writer.as_str(), row.sid.row(), behind, UP_TO_MAX])?;
    Ok(Some(Marked { newest: sid, to_confirm }))
}

/// Whether the writer of a message may hear what became of it at its reader.
fn may_tell(tx: &ReadTx<'_>, row: &ChatRow, is_read: bool) -> rusqlite::Result<bool> {
    let role = if row.by_bal { Role::Bal } else { Role::User };
    let entry = people::entry(tx, &row.peer, &row.writer)?;
    let hide_read = is_read && people::settings(tx, &row.peer)?.unwrap_or_default().hide_read;
    // Nothing of a blocked user comes to whoever has blocked it, and receipts are no exception.
    let is_blocked = people::entry(tx, &row.writer, &row.peer)?.blocked;
    Ok(tells_back(role, entry, is_read, hide_read) && !is_blocked)
}

/// The user has read the conversation up to a row, on whichever side that was written.
fn read(tx: &mut Tx<'_>, reader: &Reader<'_>, row: &ChatRow, call: &mut Call<'_>) -> rusqlite::Result<()> {
    let with = row.other(reader.user).clone();
    let (mut conversation, side) = load(tx, reader.user, &with)?;
    let Standing { unread: before, read: position, confirmed, deleted, .. } = *conversation.of(side);
    let as_it_was = conversation;
    let behind = || {
        Ok::<_, rusqlite::Error>(as_it_was.behind(
            side,
            row.theirs(reader.user),
            gone_behind(tx, reader.user, row, deleted)?,
        ))
    };
    let Moved::To { unread } = conversation.handle_read(side, row.sid, behind)? else { return Ok(()) };
    people::add_unread(tx, reader.user, unread as i64 - before as i64)?;
    mention::read(tx, reader.user, &with, row.sid.row())?;
    tell(tx, reader.user, "read", &read_document(&with, row.sid, unread), call.at)?;
    let last = last_message(tx, reader.user, row, position, false)?;
    // Reading is the first confirmation of what no device has confirmed.
    if let Some(last) = &last {
        mark_received(tx, last, true, confirmed)?;
    }
    if let Some(last) = last_message(tx, reader.user, row, position, true)? {
        if may_tell(tx, &last, true)? {
            tell_read(tx, (&mut conversation, side), &last, call.at)?;
        } else if conversation.of(side).told_delivered < Some(last.sid) && may_tell(tx, &last, false)? {
            conversation.handle_told_delivered(side, last.sid);
            receipt_up_to(tx, &last, Status::Delivered, true, call.at)?;
        }
    }
    save(tx, reader.user, &with, &conversation)?;
    let seen = notified::Seen { user: reader.user, peer: &with, sid: row.sid, up_to: true };
    notified::clear(tx, &seen, reader.dev, reader.connected, call)
}

/// How many messages of the other side behind a row are retracted, or deleted by the reader one by one; those of what the reader
/// has `deleted` as a whole were counted off with it.
fn gone_behind(tx: &ReadTx<'_>, reader: &Owner, row: &ChatRow, deleted: Option<Sid>) -> rusqlite::Result<u64> {
    let behind = Some(row.sid).max(deleted).map_or(Row(0), Sid::row);
    let place = params![reader.as_str(), row.other(reader).as_str(), behind];
    let count = |sql| Ok::<_, rusqlite::Error>(tx.one(sql, place, |row| row.get(0).map(from_sql))?.unwrap_or_default());
    Ok(count(RETRACTED_BEHIND)? + count(DELETED_BEHIND)?)
}

/// The newest message of the other side to the reader up to a row and behind the position before; with `to_tell` the newest
/// whose writer wants to hear of it.
fn last_message(
    tx: &ReadTx<'_>,
    reader: &Owner,
    row: &ChatRow,
    position: Option<Sid>,
    to_tell: bool,
) -> rusqlite::Result<Option<ChatRow>> {
    let with = row.other(reader);
    if row.writer == *with && matches!(row.kind, Kind::Message | Kind::Reaction) && (row.receipt || !to_tell) {
        return Ok(Some(row.clone()));
    }
    let before = position.map_or(Row(0), Sid::row);
    tx.one(NEWEST_MESSAGE, params![reader.as_str(), row.sid.row(), before, with.as_str(), to_tell], ChatRow::read)
}

/// Whoever writes in a conversation has read it.
pub(super) fn read_all(tx: &mut Tx<'_>, writer: &Writer, peer: &Owner, call: &mut Call<'_>) -> rusqlite::Result<()> {
    if writer.role != Role::User || writer.name == *peer {
        return Ok(());
    }
    let (mut conversation, side) = load(tx, &writer.name, peer)?;
    // A reaction is not counted as unread, and may have been pushed all the same.
    let Standing { unread, newest, read: position, .. } = *conversation.of(side);
    if unread == 0 && newest <= position {
        return Ok(());
    }
    let last = newest.map_or(Ok(None), |sid| ChatRow::by_sid(tx, sid))?;
    if let Some(last) = last {
        let reader = Reader { user: &writer.name, dev: writer.dev.as_ref(), connected: &writer.connected };
        return read(tx, &reader, &last, call);
    }
    // It is not kept any more; what was counted of it still is.
    conversation.forget_unread(side);
    save(tx, &writer.name, peer, &conversation)?;
    mention::read(tx, &writer.name, peer, Row(i64::MAX))?;
    people::add_unread(tx, &writer.name, -i64::try_from(unread).unwrap_or(i64::MAX))
}

/// A BAL has taken a user's message.
pub(in crate::store::sqlite) fn taken_by_bal(tx: &mut Tx<'_>, row: Row, at: u64) -> rusqlite::Result<()> {
    let Some(row) = tx.one(BY_ROW, [row], ChatRow::read)? else { return Ok(()) };
    if tx.execute(RECEIVED, [row.sid.row()])? > 0 && row.receipt {
        receipt(tx, &row, Status::Delivered, at)?;
    }
    Ok(())
}
