//! What a client asks for that has missed something: pages of all that a user has, in order.

use super::message::stamped_for;
use super::{COLUMNS, ChatRow};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::sqlite::tx::Tx;
use crate::store::{SYNC_BYTES, SYNC_MAX, SyncPage};
use rusqlite::params;

const FLOOR: &str = "SELECT chat_floor FROM marks";

/// What `user` has behind `since`; without it the newest.
pub(in crate::store) fn sync(tx: &Tx<'_>, user: &Owner, since: Option<Sid>) -> rusqlite::Result<SyncPage> {
    let floor = tx.one(FLOOR, [], |row| row.get::<_, i64>(0))?.unwrap_or_default();
    let gap = since.is_some_and(|since| since.row().0 < floor);
    let rows = match since {
        Some(since) => behind(tx, user, since.row())?,
        None => newest(tx, user)?,
    };
    let mut page = SyncPage { complete: rows.len() <= SYNC_MAX, gap, ..SyncPage::default() };
    let mut bytes = 0;
    for (row, document) in rows.into_iter().take(SYNC_MAX) {
        let item = stamped_for(&row, &document, user, false);
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

type Found = Vec<(ChatRow, Vec<u8>)>;

/// One more than a page has room for, in the order of their rows.
fn behind(tx: &Tx<'_>, user: &Owner, since: Row) -> rusqlite::Result<Found> {
    let mut rows = both(
        tx,
        user,
        |side| format!("SELECT {COLUMNS}, document FROM chat WHERE {side} AND row > ?2 ORDER BY row LIMIT ?3"),
        since,
    )?;
    rows.sort_by_key(|(row, _)| row.sid);
    rows.truncate(SYNC_MAX + 1);
    Ok(rows)
}

fn newest(tx: &Tx<'_>, user: &Owner) -> rusqlite::Result<Found> {
    let mut rows = both(
        tx,
        user,
        |side| format!("SELECT {COLUMNS}, document FROM chat WHERE {side} AND row > ?2 ORDER BY row DESC LIMIT ?3"),
        Row(0),
    )?;
    rows.sort_by_key(|(row, _)| row.sid);
    let surplus = rows.len().saturating_sub(SYNC_MAX);
    rows.drain(..surplus);
    Ok(rows)
}

/// What the user wrote, and what others wrote to the user.
fn both(tx: &Tx<'_>, user: &Owner, sql: impl Fn(&str) -> String, since: Row) -> rusqlite::Result<Found> {
    let limit = i64::try_from(SYNC_MAX + 1).unwrap_or(i64::MAX);
    let read = |row: &rusqlite::Row<'_>| Ok((ChatRow::read(row)?, row.get::<_, Vec<u8>>(17)?));
    let mut rows = tx.all(&sql("writer = ?1"), params![user.as_str(), since, limit], read)?;
    rows.extend(tx.all(
        &sql("peer = ?1 AND hidden = 0 AND writer <> ?1"),
        params![user.as_str(), since, limit],
        read,
    )?);
    Ok(rows)
}
