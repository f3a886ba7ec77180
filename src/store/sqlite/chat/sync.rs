//! What a client asks for that has missed something: pages of all that a user has, in order.

use super::group::OfUser;
use super::history::{Shown, shown};
use super::{ChatRow, group, keep};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::sqlite::tx::ReadTx;
use crate::store::{SYNC_BYTES, SYNC_MAX, SyncPage};
use rusqlite::params;

pub(in crate::store::sqlite) const WRITTEN: &str = chat_rows!("WHERE writer = ?1 AND row > ?2 ORDER BY row LIMIT ?3");
pub(in crate::store::sqlite) const NEWEST_WRITTEN: &str =
    chat_rows!("WHERE writer = ?1 AND row < ?2 ORDER BY row DESC LIMIT ?3");
pub(in crate::store::sqlite) const GOT: &str =
    chat_rows!("WHERE peer = ?1 AND hidden = 0 AND writer <> ?1 AND row > ?2 ORDER BY row LIMIT ?3");
pub(in crate::store::sqlite) const NEWEST_GOT: &str =
    chat_rows!("WHERE peer = ?1 AND hidden = 0 AND writer <> ?1 AND row < ?2 ORDER BY row DESC LIMIT ?3");
pub(in crate::store::sqlite) const OF_GROUP: &str =
    chat_rows!("WHERE peer = ?1 AND hidden = 0 AND row > ?2 AND row <= ?3 AND writer <> ?4 ORDER BY row LIMIT ?5");
pub(in crate::store::sqlite) const NEWEST_OF_GROUP: &str =
    chat_rows!("WHERE peer = ?1 AND hidden = 0 AND row > ?2 AND row <= ?3 AND writer <> ?4 ORDER BY row DESC LIMIT ?5");

/// So many of the newest rows are looked at for those that a user has not deleted.
const LOOKED_AT_MAX: usize = 20 * SYNC_MAX;

/// On which side of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edge {
    /// The oldest behind it.
    Behind(Row),
    /// The newest before it.
    Before(Row),
}

/// What `user` has behind `since`; without it the newest. The floor of what is kept is that of all conversations together: a
/// client that hears of a gap asks for the history of each that it shows.
pub(in crate::store) fn sync(tx: &ReadTx<'_>, user: &Owner, since: Option<Sid>) -> rusqlite::Result<SyncPage> {
    let floor = keep::floor(tx)?;
    let gap = since.is_some_and(|since| since.row() < floor);
    let rows = match since {
        Some(since) => behind(tx, user, since.row())?,
        None => newest(tx, user)?,
    };
    let mut page = SyncPage { complete: rows.len() <= SYNC_MAX, gap, ..SyncPage::default() };
    let mut bytes = 0;
    for row in rows.iter().take(SYNC_MAX) {
        let Shown::Item(item) = shown(tx, user, row)? else {
            page.next = Some(row.sid);
            continue;
        };
        if bytes > 0 && bytes + item.len() > SYNC_BYTES {
            page.complete = false;
            break;
        }
        bytes += item.len();
        page.items.push(item.into());
        page.next = Some(row.sid);
    }
    Ok(page)
}

/// One more than a page has room for, in their order.
fn behind(tx: &ReadTx<'_>, user: &Owner, since: Row) -> rusqlite::Result<Vec<ChatRow>> {
    let mut rows = rows(tx, user, Edge::Behind(since))?;
    rows.truncate(SYNC_MAX + 1);
    Ok(rows)
}

/// The newest that the user has not deleted.
fn newest(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<Vec<ChatRow>> {
    let (mut found, mut before, mut looked_at) = (Vec::new(), Row(i64::MAX), 0);
    while found.len() < SYNC_MAX && looked_at < LOOKED_AT_MAX {
        let mut rows = rows(tx, user, Edge::Before(before))?;
        let surplus = rows.len().saturating_sub(SYNC_MAX);
        rows.drain(..surplus);
        let Some(first) = rows.first() else { break };
        before = first.sid.row();
        looked_at += rows.len();
        for row in rows.into_iter().rev() {
            if found.len() < SYNC_MAX && !matches!(shown(tx, user, &row)?, Shown::Nothing) {
                found.push(row);
            }
        }
    }
    found.reverse();
    Ok(found)
}

/// What the user wrote, and what others wrote to the user, or to a group while the user was in it.
fn rows(tx: &ReadTx<'_>, user: &Owner, edge: Edge) -> rusqlite::Result<Vec<ChatRow>> {
    let (written, got, of_group, row) = match edge {
        Edge::Behind(row) => (WRITTEN, GOT, OF_GROUP, row),
        Edge::Before(row) => (NEWEST_WRITTEN, NEWEST_GOT, NEWEST_OF_GROUP, row),
    };
    let values = params![user.as_str(), row, SYNC_MAX as i64 + 1];
    let mut rows = tx.all(written, values, ChatRow::read)?;
    rows.extend(tx.all(got, values, ChatRow::read)?);
    for group in group::groups_of(tx, user)? {
        rows.extend(of_one_group(tx, user, &group, (of_group, edge))?);
    }
    rows.sort_by_key(|row| row.sid);
    Ok(rows)
}

/// What others wrote to a group while the user was in it, from the edge on.
fn of_one_group(
    tx: &ReadTx<'_>,
    user: &Owner,
    OfUser { group, spans }: &OfUser,
    (sql, edge): (&str, Edge),
) -> rusqlite::Result<Vec<ChatRow>> {
    let mut spans = spans.clone();
    if matches!(edge, Edge::Before(_)) {
        spans.reverse();
    }
    let mut rows = Vec::new();
    for (before, last) in spans {
        let (behind, up_to) = match edge {
            Edge::Behind(row) => (row.max(before), last),
            Edge::Before(row) => (before, last.min(Row(row.0 - 1))),
        };
        let left = SYNC_MAX + 1 - rows.len();
        if behind < up_to && left > 0 {
            let values = params![group.as_str(), behind, up_to, user.as_str(), left as i64];
            rows.extend(tx.all(sql, values, ChatRow::read)?);
        }
    }
    Ok(rows)
}
