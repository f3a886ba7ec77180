//! How far each side has got: what devices have confirmed, and what users have read.

use super::message::{receipt, receipt_up_to};
use super::{COLUMNS, ChatRow, load, newest, people, push, save, tell};
use crate::chat::contact::tells_back;
use crate::chat::conversation::Moved;
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::status::Status;
use crate::chat::suffix::read::read_document;
use crate::chat::topic::Device;
use crate::store::sqlite::tx::Tx;
use crate::store::{ChatCall, ChatOutcome, NewReceipt, ReceiptOf, Writer};
use rusqlite::params;

/// Messages that one receipt `up_to` marks as received, at most; what is left is marked by the next one.
const UP_TO_MAX: i64 = 1_000;

const RECEIVED: &str = "UPDATE chat SET received = 1, waits = 0 WHERE row = ?1";
const ALL_RECEIVED: &str = "UPDATE chat SET received = 1, waits = 0 WHERE row IN (SELECT row FROM chat
    WHERE peer = ?1 AND writer = ?2 AND row <= ?3 AND received = 0 AND hidden = 0 ORDER BY row LIMIT ?4)";

/// Who says something about what it has.
struct Reader<'a> {
    user: &'a Owner,
    dev: Option<&'a Device>,
    /// The devices that have a connection.
    connected: &'a [Device],
}

/// A device has messages, or its user has read them. `sids` that are not the user's are refused, and nothing is done then.
pub(in crate::store) fn receipt_of_user(
    tx: &mut Tx<'_>,
    new: &NewReceipt,
    call: &ChatCall,
) -> rusqlite::Result<ChatOutcome> {
    let reader = Reader { user: &new.user, dev: new.dev.as_ref(), connected: &new.connected };
    let sids = match &new.of {
        ReceiptOf::Each(sids) => sids.as_slice(),
        ReceiptOf::UpTo(sid) | ReceiptOf::In(_, sid) => std::slice::from_ref(sid),
    };
    let mut rows = Vec::with_capacity(sids.len());
    for sid in sids {
        let with = if let ReceiptOf::In(with, _) = &new.of { Some(with) } else { None };
        let is_own = |row: &ChatRow| {
            // What one wrote oneself is a place in a conversation, but nothing that one could confirm.
            let is_place = with.is_some() && row.is_of(reader.user);
            let is_of = is_place || row.peer == *reader.user && row.writer != *reader.user && !row.hidden;
            is_of && with.is_none_or(|with| row.other(reader.user) == with)
        };
        let Some(row) = ChatRow::by_sid(tx, *sid)?.filter(is_own) else {
            let detail = "a `sid` is that of no message that went to this user";
            return Ok(ChatOutcome::Refused(Rejection::new(ErrorCode::NotFound, detail)));
        };
        rows.push(row);
    }
    let up_to = !matches!(new.of, ReceiptOf::Each(_));
    for row in &rows {
        if new.read {
            read(tx, &reader, row, call)?;
        } else {
            received(tx, new, row, up_to, call)?;
        }
    }
    if let Some(dev) = &new.dev {
        push::device_spoke(tx, &new.user, dev, call.at)?;
    }
    Ok(ChatOutcome::Done { seen: Vec::new(), stranger: false, waits: false })
}

/// The device acknowledged the copy of a message to its user, over MQTT.
pub(in crate::store::sqlite) fn acknowledged(tx: &mut Tx<'_>, user: &str, sid: Sid, at: u64) -> rusqlite::Result<()> {
    let is_own = |row: &ChatRow| row.peer.as_str() == user && !row.hidden;
    match ChatRow::by_sid(tx, sid)?.filter(is_own) {
        Some(row) => confirm(tx, &row, false, at),
        None => Ok(()),
    }
}

fn received(tx: &mut Tx<'_>, new: &NewReceipt, row: &ChatRow, up_to: bool, call: &ChatCall) -> rusqlite::Result<()> {
    confirm(tx, row, up_to, call.at)?;
    // A device that nobody looks at says nothing of the others.
    if let Some(dev) = new.dev.as_ref().filter(|_| new.attended) {
        push::withdraw(tx, &push::Seen { user: &new.user, peer: &row.writer, sid: row.sid, up_to }, Some(dev), call)?;
    }
    Ok(())
}

/// The first confirmation of a message is told to its writer.
fn confirm(tx: &mut Tx<'_>, row: &ChatRow, up_to: bool, at: u64) -> rusqlite::Result<()> {
    let changed = match up_to {
        true => {
            let values = params![row.peer.as_str(), row.writer.as_str(), row.sid.row(), UP_TO_MAX];
            tx.execute(ALL_RECEIVED, values)?
        }
        false if row.received => 0,
        false => tx.execute(RECEIVED, [row.sid.row()])?,
    };
    if changed == 0 {
        return Ok(());
    }
    let (mut conversation, side) = load(tx, &row.peer, &row.writer)?;
    if conversation.handle_received(side, row.sid) {
        save(tx, &row.peer, &row.writer, &conversation)?;
    }
    if may_tell(tx, row, false)? {
        receipt_up_to(tx, row, Status::Delivered, up_to, at)?;
    }
    Ok(())
}

/// Whether the writer of a message may hear what became of it at its reader.
fn may_tell(tx: &Tx<'_>, row: &ChatRow, is_read: bool) -> rusqlite::Result<bool> {
    let role = if row.by_bal { Role::Bal } else { Role::User };
    let entry = people::entry(tx, &row.peer, &row.writer)?;
    let hide_read = is_read && people::settings(tx, &row.peer)?.unwrap_or_default().hide_read;
    Ok(tells_back(role, entry, is_read, hide_read))
}

/// The user has read the conversation up to a row, on whichever side that was written.
fn read(tx: &mut Tx<'_>, reader: &Reader<'_>, row: &ChatRow, call: &ChatCall) -> rusqlite::Result<()> {
    let with = row.other(reader.user).clone();
    let (mut conversation, side) = load(tx, reader.user, &with)?;
    let before = conversation.of(side).unread;
    let theirs = conversation.of(side).theirs;
    let behind = || Ok::<_, rusqlite::Error>(theirs.saturating_sub(row.theirs(reader.user)));
    let Moved::To { unread } = conversation.handle_read(side, row.sid, behind)? else { return Ok(()) };
    save(tx, reader.user, &with, &conversation)?;
    people::add_unread(tx, reader.user, unread as i64 - before as i64)?;
    tell(tx, reader.user, "read", &read_document(&with, row.sid, unread), call.at)?;
    let received = params![reader.user.as_str(), with.as_str(), row.sid.row(), UP_TO_MAX];
    let received = tx.execute(ALL_RECEIVED, received)? > 0;
    if let Some(last) = newest(tx, &with, reader.user, row.sid.row())? {
        // Reading is the first confirmation of what no device has confirmed.
        if received && may_tell(tx, &last, false)? {
            receipt_up_to(tx, &last, Status::Delivered, true, call.at)?;
        }
        if may_tell(tx, &last, true)? {
            receipt_up_to(tx, &last, Status::Read, true, call.at)?;
        }
    }
    let seen = push::Seen { user: reader.user, peer: &with, sid: row.sid, up_to: true };
    push::clear(tx, &seen, reader.dev, reader.connected, call)
}

/// Whoever writes in a conversation has read it.
pub(super) fn read_all(tx: &mut Tx<'_>, writer: &Writer, peer: &Owner, call: &ChatCall) -> rusqlite::Result<()> {
    if writer.role != Role::User || writer.name == *peer {
        return Ok(());
    }
    let (conversation, side) = load(tx, &writer.name, peer)?;
    let standing = conversation.of(side);
    if standing.unread == 0 {
        return Ok(());
    }
    let Some(last) = last_to(tx, &writer.name, peer)? else { return Ok(()) };
    let reader = Reader { user: &writer.name, dev: writer.dev.as_ref(), connected: &writer.connected };
    read(tx, &reader, &last, call)
}

/// The newest message of `peer` to `user`.
fn last_to(tx: &Tx<'_>, user: &Owner, peer: &Owner) -> rusqlite::Result<Option<ChatRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM chat WHERE peer = ?1 AND writer = ?2 AND hidden = 0 AND kind < 2
        ORDER BY row DESC LIMIT 1"
    );
    tx.one(&sql, params![user.as_str(), peer.as_str()], ChatRow::read)
}

/// A BAL has taken a user's message.
pub(in crate::store::sqlite) fn taken_by_bal(tx: &mut Tx<'_>, row: Row, at: u64) -> rusqlite::Result<()> {
    let sql = format!("SELECT {COLUMNS} FROM chat WHERE row = ?1");
    let Some(row) = tx.one(&sql, [row], ChatRow::read)?.filter(|row| !row.received) else { return Ok(()) };
    tx.execute(RECEIVED, [row.sid.row()])?;
    receipt(tx, &row, Status::Delivered, at)
}
