//! One conversation, page by page, as one of its users has it.
//!
//! Its items are messages, reactions, invitations and what comes beside them, each with its newest text; edits and retracts are
//! no items of their own here.

use super::deletion::{self, OwnCopy};
use super::message::{document_of, stamped_for};
use super::{ChatRow, group, load};
use crate::chat::amendment::{Why, is_tombstone, tombstone, without_writer};
use crate::chat::group::not_member;
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::message::Rejection;
use crate::chat::suffix::requests::HistoryFrom;
use crate::store::sqlite::tx::ReadTx;
use crate::store::{HistoryPage, HistoryQuery, SYNC_BYTES};
use rusqlite::params;

/// One direction of a conversation; what is hidden is its writer's.
pub(in crate::store::sqlite) const BEFORE: &str = chat_rows!(
    "INDEXED BY chat_pair WHERE peer = ?1 AND writer = ?2 AND row < ?3 AND row > ?4 AND hidden <= ?5 AND kind <> 4
    ORDER BY row DESC LIMIT ?6"
);
pub(in crate::store::sqlite) const AFTER: &str = chat_rows!(
    "INDEXED BY chat_pair WHERE peer = ?1 AND writer = ?2 AND row > ?3 AND row > ?4 AND hidden <= ?5 AND kind <> 4
    ORDER BY row LIMIT ?6"
);
/// The newest of one direction that `?6` has not deleted.
pub(in crate::store::sqlite) const NEWEST: &str = chat_rows!(
    "INDEXED BY chat_pair WHERE peer = ?1 AND writer = ?2 AND row > ?3 AND hidden <= ?4 AND kind <> 4
    AND NOT EXISTS (SELECT 1 FROM deleted d WHERE d.user = ?5 AND d.peer = ?6 AND d.row = chat.row)
    ORDER BY row DESC LIMIT 1"
);
/// The newest of one direction, whatever it is.
pub(in crate::store::sqlite) const LAST: &str =
    chat_rows!("INDEXED BY chat_pair WHERE peer = ?1 AND writer = ?2 AND hidden <= ?3 ORDER BY row DESC LIMIT 1");

/// What a user gets of a row that is on its side.
pub(super) enum Shown {
    /// The stamped document; of a single item that the user has deleted, or whose writer was blocked, its tombstone.
    Item(Vec<u8>),
    /// It belongs to what the user has deleted as a whole, or changes what the user has deleted.
    Nothing,
}

/// What `user` gets of a row that is on its side.
pub(super) fn shown(tx: &ReadTx<'_>, user: &Owner, row: &ChatRow) -> rusqlite::Result<Shown> {
    let document = match deletion::own_copy(tx, user, row)? {
        OwnCopy::Whole => whole(tx, user, row)?,
        OwnCopy::Deleted if row.amends.is_none() => tombstone(&document_of(tx, row, user)?, Why::Deleted),
        OwnCopy::Blocked if row.amends.is_none() => return Ok(Shown::Item(group::message::hidden(row))),
        OwnCopy::Deleted | OwnCopy::DeletedWithAll | OwnCopy::Blocked => return Ok(Shown::Nothing),
    };
    Ok(Shown::Item(stamped_for(row, &document, user, false)))
}

/// What `user` reads of a row of which it has the own copy. Of an owner of a group whom it had blocked, it hears that a message
/// was retracted and not more; and what was edited while it was not in the group is not for it.
fn whole(tx: &ReadTx<'_>, user: &Owner, row: &ChatRow) -> rusqlite::Result<Vec<u8>> {
    let kept = document_of(tx, row, user)?;
    if !row.peer.is_group() || is_tombstone(&kept) {
        return Ok(kept);
    }
    if row.amends.is_some() && deletion::is_hidden(tx, user, row)? {
        return Ok(without_writer(&kept));
    }
    Ok(if group::former::is_changed_meanwhile(tx, user, row)? { tombstone(&kept, Why::Edited) } else { kept })
}

/// A page of the conversation of `user` with another one.
pub(in crate::store) fn page(
    tx: &ReadTx<'_>,
    user: &Owner,
    query: &HistoryQuery,
) -> rusqlite::Result<Result<HistoryPage, Rejection>> {
    let is_backwards = !matches!(query.from, HistoryFrom::After(_));
    let rows = match query.with.is_group() {
        true => group::screen::history(tx, user, query)?,
        false => Some(of_two(tx, user, query)?),
    };
    let Some(mut rows) = rows else { return Ok(Err(not_member())) };
    rows.sort_by_key(|row| row.sid);
    if is_backwards {
        rows.reverse();
    }
    let mut page = HistoryPage { items: Vec::new(), complete: rows.len() <= query.limit };
    let mut bytes = 0;
    for row in rows.iter().take(query.limit) {
        let Shown::Item(item) = shown(tx, user, row)? else { continue };
        if bytes > 0 && bytes + item.len() > SYNC_BYTES {
            page.complete = false;
            break;
        }
        bytes += item.len();
        page.items.push(item.into());
    }
    if is_backwards {
        page.items.reverse();
    }
    Ok(Ok(page))
}

/// The rows of a page, in any order, and one more.
fn of_two(tx: &ReadTx<'_>, user: &Owner, query: &HistoryQuery) -> rusqlite::Result<Vec<ChatRow>> {
    let (conversation, side) = load(tx, user, &query.with)?;
    let floor = conversation.of(side).deleted.map_or(Row(0), Sid::row);
    let (sql, edge) = match query.from {
        HistoryFrom::Newest => (BEFORE, Row(i64::MAX)),
        HistoryFrom::Before(sid) => (BEFORE, sid.row()),
        HistoryFrom::After(sid) => (AFTER, sid.row()),
    };
    let mut rows = Vec::new();
    for (peer, writer, hidden) in directions(user, &query.with) {
        let values = params![peer.as_str(), writer.as_str(), edge, floor, hidden, query.limit as i64 + 1];
        rows.extend(tx.all(sql, values, ChatRow::read)?);
    }
    Ok(rows)
}

/// The newest item that `user` has of the conversation with another one, tombstones of its own left out.
pub(in crate::store::sqlite) fn newest_item(
    tx: &ReadTx<'_>,
    user: &Owner,
    with: &Owner,
) -> rusqlite::Result<Option<ChatRow>> {
    let (conversation, side) = load(tx, user, with)?;
    let floor = conversation.of(side).deleted.map_or(Row(0), Sid::row);
    let mut newest: Option<ChatRow> = None;
    for (peer, writer, hidden) in directions(user, with) {
        let values = params![peer.as_str(), writer.as_str(), floor, hidden, user.as_str(), with.as_str()];
        newest = later(newest, tx.one(NEWEST, values, ChatRow::read)?);
    }
    Ok(newest)
}

/// The newest row that `user` has of the conversation with another one, be it an edit.
pub(super) fn last_row(tx: &ReadTx<'_>, user: &Owner, with: &Owner) -> rusqlite::Result<Option<ChatRow>> {
    let mut last: Option<ChatRow> = None;
    for (peer, writer, hidden) in directions(user, with) {
        last = later(last, tx.one(LAST, params![peer.as_str(), writer.as_str(), hidden], ChatRow::read)?);
    }
    Ok(last)
}

fn later(one: Option<ChatRow>, other: Option<ChatRow>) -> Option<ChatRow> {
    one.into_iter().chain(other).max_by_key(|row| row.sid)
}

/// What `user` wrote, and what the other one wrote that is not hidden: peer, writer, and whether hidden rows belong to it.
pub(super) fn directions<'a>(user: &'a Owner, with: &'a Owner) -> impl Iterator<Item = (&'a Owner, &'a Owner, bool)> {
    [Some((with, user, true)), (user != with).then_some((user, with, false))].into_iter().flatten()
}
