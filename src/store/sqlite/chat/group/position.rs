//! How far each member of a group has got. A message has no row for each of them: a position is all there is.

use super::message::by_row;
use super::span::Span;
use super::{Group, Member};
use crate::chat::contact::tells_back;
use crate::chat::group::RECEIPTS_MAX;
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::principal::Role;
use crate::chat::status::Status;
use crate::chat::suffix::read::read_document;
use crate::chat::suffix::receipts::ReceiptDocument;
use crate::store::Writer;
use crate::store::sqlite::chat::message::tell_receipt;
use crate::store::sqlite::chat::position::Reader;
use crate::store::sqlite::chat::{Call, ChatRow, Kind, mention, notified, people, tell};
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::tx::{ReadTx, Tx};
use rusqlite::params;
use std::collections::BTreeMap;

/// Messages whose writers are told of one step of a position, at most: the newest.
const TOLD_MAX: i64 = 1_000;
const RECEIVED: &str = "UPDATE members SET received = ?3 WHERE gid = ?1 AND user = ?2 AND received < ?3";
const READ: &str = "UPDATE members SET read = ?3, read_counted = ?4, received = max(received, ?3)
    WHERE gid = ?1 AND user = ?2";
pub(in crate::store::sqlite) const BETWEEN: &str = chat_rows!(
    "WHERE peer = ?1 AND hidden = 0 AND row > ?2 AND row <= ?3 AND writer <> ?4 AND kind < 2 AND receipt = 1
    ORDER BY row DESC LIMIT ?5"
);

pub(in crate::store::sqlite) const OWN_UP_TO: &str = chat_rows!(
    "INDEXED BY chat_pair WHERE peer = ?1 AND writer = ?2 AND row >= ?3 AND row <= ?4 AND hidden = 0 AND kind < 2
    AND receipt = 1 ORDER BY row DESC LIMIT 1"
);

/// A device of a member has a message, and what came before it. An edit or a notice says nothing of that, unless it is said of all
/// `up_to` it.
pub(in crate::store::sqlite::chat) fn received(
    tx: &mut Tx<'_>,
    user: &Owner,
    row: &ChatRow,
    (up_to, at): (bool, u64),
) -> rusqlite::Result<()> {
    if !up_to && matches!(row.kind, Kind::Amendment | Kind::Notice) {
        return Ok(());
    }
    let Some(member) = Member::load(tx, &row.peer, user)? else { return Ok(()) };
    if tx.execute(RECEIVED, params![row.peer.as_str(), user.as_str(), row.sid.row()])? == 0 {
        return Ok(());
    }
    let Some(group) = Group::load(tx, &row.peer)? else { return Ok(()) };
    let between = (member.received.max(before(member.came)), row.sid.row());
    tell_writers(tx, (&group, &row.peer), (user, member.is_bal), between, (Status::Delivered, at))
}

/// The last row before this one.
fn before(row: Row) -> Row {
    Row(row.0.saturating_sub(1))
}

/// A member has read up to a message. Who is gone may read what there was.
pub(in crate::store::sqlite::chat) fn read(
    tx: &mut Tx<'_>,
    reader: &Reader<'_>,
    row: &ChatRow,
    call: &mut Call<'_>,
) -> rusqlite::Result<()> {
    let Some(member) = Member::now_or_before(tx, &row.peer, reader.user)? else { return Ok(()) };
    let Some(group) = Group::load(tx, &row.peer)? else { return Ok(()) };
    read_up_to(tx, reader, row, (&group, &member), call)
}

fn read_up_to(
    tx: &mut Tx<'_>,
    reader: &Reader<'_>,
    row: &ChatRow,
    (group, member): (&Group, &Member),
    call: &mut Call<'_>,
) -> rusqlite::Result<()> {
    let (name, place) = (&row.peer, row.sid.row());
    if place <= member.read {
        return Ok(());
    }
    let user = reader.user;
    tx.execute(READ, params![name.as_str(), user.as_str(), place, sql_ms(row.theirs_reader)])?;
    mention::read(tx, user, name, place)?;
    let is_in = member.gone.is_none();
    let unread = if is_in { group.unread(tx, (name, user), (place, row.theirs_reader))? } else { 0 };
    tell(tx, user, "read", &read_document(name, row.sid, unread), call.at)?;
    if is_in {
        let since = before(member.came);
        let delivered = (member.received.max(since), place);
        let by = (user, member.is_bal);
        tell_writers(tx, (group, name), by, delivered, (Status::Delivered, call.at))?;
        tell_writers(tx, (group, name), by, (member.read.max(since), place), (Status::Read, call.at))?;
    }
    let seen = notified::Seen { user, peer: name, sid: row.sid, up_to: true };
    notified::clear(tx, &seen, reader.dev, reader.connected, call)
}

/// Whoever writes in a group has read what is in it.
pub(super) fn read_all(
    tx: &mut Tx<'_>,
    writer: &Writer,
    name: &Owner,
    (group, member): (&Group, &Member),
    call: &mut Call<'_>,
) -> rusqlite::Result<()> {
    if group.newest <= member.read {
        return Ok(());
    }
    // What is not kept any more is read by what is written now.
    let Some(newest) = by_row(tx, group.newest)?.filter(|row| row.peer == *name) else { return Ok(()) };
    let reader = Reader { user: &writer.name, dev: writer.dev.as_ref(), connected: &writer.connected };
    read_up_to(tx, &reader, &newest, (group, member), call)
}

/// Tells those who wrote something between two places of a small group that a member has it, or has read it: of the newest
/// of each, and so of all before it.
fn tell_writers(
    tx: &mut Tx<'_>,
    (group, name): (&Group, &Owner),
    (member, is_bal): (&Owner, bool),
    (behind, up_to): (Row, Row),
    (status, at): (Status, u64),
) -> rusqlite::Result<()> {
    if group.members > RECEIPTS_MAX || behind >= up_to {
        return Ok(());
    }
    let rows = tx.all(BETWEEN, params![name.as_str(), behind, up_to, member.as_str(), TOLD_MAX], ChatRow::read)?;
    let mut newest: BTreeMap<String, (ChatRow, bool)> = BTreeMap::new();
    for row in rows {
        newest.entry(row.writer.as_str().to_owned()).and_modify(|(_, several)| *several = true).or_insert((row, false));
    }
    for (row, several) in newest.into_values() {
        // Who is out of the group hears no more of it.
        if Member::load(tx, name, &row.writer)?.is_some()
            && may_tell(tx, (member, is_bal), (&row.writer, row.by_bal), status)?
        {
            let up_to = several || status == Status::Read;
            let document = ReceiptDocument {
                up_to,
                by: Some(member.as_str()),
                ..ReceiptDocument::new(row.id.as_deref(), row.sid, status, at)
            };
            tell_receipt(tx, &row, &document, at)?;
        }
    }
    Ok(())
}

/// Of the messages of `writer` in a small group the newest that another member has, and the newest that it has read: as far as
/// the writer is told of it now.
pub(super) fn told_to(
    tx: &ReadTx<'_>,
    (group, name): (&Group, &Owner),
    (writer, by_bal): (&Owner, bool),
    user: &Owner,
) -> rusqlite::Result<(Option<Sid>, Option<Sid>)> {
    if group.members > RECEIPTS_MAX || writer == user {
        return Ok((None, None));
    }
    let Some(member) = Member::load(tx, name, user)? else { return Ok((None, None)) };
    let newest = |up_to: fn(Span) -> Row, status| -> rusqlite::Result<Option<Sid>> {
        if !may_tell(tx, (user, member.is_bal), (writer, by_bal), status)? {
            return Ok(None);
        }
        for span in member.spans() {
            let values = params![name.as_str(), writer.as_str(), span.came, up_to(span)];
            if let Some(row) = tx.one(OWN_UP_TO, values, ChatRow::read)? {
                return Ok(Some(row.sid));
            }
        }
        Ok(None)
    };
    Ok((newest(|span| span.received, Status::Delivered)?, newest(|span| span.read, Status::Read)?))
}

/// Whether the writer may hear how far the member has got: as between two, contacts alone do, and BALs are never strangers.
fn may_tell(
    tx: &ReadTx<'_>,
    (member, is_bal): (&Owner, bool),
    (writer, by_bal): (&Owner, bool),
    status: Status,
) -> rusqlite::Result<bool> {
    let is_read = status == Status::Read;
    let hide_read = is_read && people::settings(tx, member)?.unwrap_or_default().hide_read;
    let entry = people::entry(tx, member, writer)?;
    let role = if is_bal || by_bal { Role::Bal } else { Role::User };
    Ok(tells_back(role, entry, is_read, hide_read) && !people::entry(tx, writer, member)?.blocked)
}
