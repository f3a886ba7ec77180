//! What a client asks for that has missed something: pages of all that a user has, in order.

use super::message::{document_of, stamped_for};
use super::{ChatRow, group, keep};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::sqlite::tx::Tx;
use crate::store::{SYNC_BYTES, SYNC_MAX, SyncPage};
use rusqlite::params;

pub(in crate::store::sqlite) const WRITTEN: &str = chat_rows!("WHERE writer = ?1 AND row > ?2 ORDER BY row LIMIT ?3");
pub(in crate::store::sqlite) const NEWEST_WRITTEN: &str =
    chat_rows!("WHERE writer = ?1 AND row > ?2 ORDER BY row DESC LIMIT ?3");
pub(in crate::store::sqlite) const GOT: &str =
    chat_rows!("WHERE peer = ?1 AND hidden = 0 AND writer <> ?1 AND row > ?2 ORDER BY row LIMIT ?3");
pub(in crate::store::sqlite) const NEWEST_GOT: &str =
    chat_rows!("WHERE peer = ?1 AND hidden = 0 AND writer <> ?1 AND row > ?2 ORDER BY row DESC LIMIT ?3");

pub(in crate::store::sqlite) const OF_GROUP: &str =
    chat_rows!("WHERE peer = ?1 AND hidden = 0 AND row > ?2 AND row <= ?3 AND writer <> ?4 ORDER BY row LIMIT ?5");
pub(in crate::store::sqlite) const NEWEST_OF_GROUP: &str =
    chat_rows!("WHERE peer = ?1 AND hidden = 0 AND row > ?2 AND row <= ?3 AND writer <> ?4 ORDER BY row DESC LIMIT ?5");

/// What `user` has behind `since`; without it the newest.
pub(in crate::store) fn sync(tx: &Tx<'_>, user: &Owner, since: Option<Sid>) -> rusqlite::Result<SyncPage> {
    let floor = keep::floor(tx)?;
    let gap = since.is_some_and(|since| since.row() < floor);
    let rows = match since {
        Some(since) => behind(tx, user, since.row())?,
        None => newest(tx, user)?,
    };
    let mut page = SyncPage { complete: rows.len() <= SYNC_MAX, gap, ..SyncPage::default() };
    let mut bytes = 0;
    for row in rows.iter().take(SYNC_MAX) {
        let kept = document_of(tx, row)?;
        let is_of_group = row.peer.is_group() && row.writer != *user;
        let item = if is_of_group {
            group::message::copy_of(tx, row, &kept, user)?
        } else {
            stamped_for(row, &kept, user, false)
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
fn behind(tx: &Tx<'_>, user: &Owner, since: Row) -> rusqlite::Result<Vec<ChatRow>> {
    let mut rows = both(tx, user, (WRITTEN, GOT, OF_GROUP), since)?;
    rows.truncate(SYNC_MAX + 1);
    Ok(rows)
}

fn newest(tx: &Tx<'_>, user: &Owner) -> rusqlite::Result<Vec<ChatRow>> {
    let mut rows = both(tx, user, (NEWEST_WRITTEN, NEWEST_GOT, NEWEST_OF_GROUP), Row(0))?;
    let surplus = rows.len().saturating_sub(SYNC_MAX);
    rows.drain(..surplus);
    Ok(rows)
}

/// What the user wrote, and what others wrote to the user, or to a group while the user was in it.
fn both(
    tx: &Tx<'_>,
    user: &Owner,
    (written, got, of_group): (&str, &str, &str),
    since: Row,
) -> rusqlite::Result<Vec<ChatRow>> {
    let values = params![user.as_str(), since, SYNC_MAX as i64 + 1];
    let mut rows = tx.all(written, values, ChatRow::read)?;
    rows.extend(tx.all(got, values, ChatRow::read)?);
    for group in group::groups_of(tx, user)?.iter().filter(|group| group.newest > since) {
        let (name, gone) = (group.group.as_str(), group.gone.unwrap_or(Row(i64::MAX)));
        let behind = since.max(Row(group.came.0 - 1));
        let values = params![name, behind, gone, user.as_str(), SYNC_MAX as i64 + 1];
        rows.extend(tx.all(of_group, values, ChatRow::read)?);
    }
    rows.sort_by_key(|row| row.sid);
    Ok(rows)
}
