//! What a client asks for that has missed something: pages of all that a user has, in order.

use super::ChatRow;
use super::message::{document_of, stamped_for};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::sqlite::tx::Tx;
use crate::store::{SYNC_BYTES, SYNC_MAX, SyncPage};
use rusqlite::params;

const FLOOR: &str = "SELECT chat_floor FROM marks";
pub(in crate::store::sqlite) const WRITTEN: &str = chat_rows!("WHERE writer = ?1 AND row > ?2 ORDER BY row LIMIT ?3");
pub(in crate::store::sqlite) const NEWEST_WRITTEN: &str =
    chat_rows!("WHERE writer = ?1 AND row > ?2 ORDER BY row DESC LIMIT ?3");
pub(in crate::store::sqlite) const GOT: &str =
    chat_rows!("WHERE peer = ?1 AND hidden = 0 AND writer <> ?1 AND row > ?2 ORDER BY row LIMIT ?3");
pub(in crate::store::sqlite) const NEWEST_GOT: &str =
    chat_rows!("WHERE peer = ?1 AND hidden = 0 AND writer <> ?1 AND row > ?2 ORDER BY row DESC LIMIT ?3");

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
    for row in rows.iter().take(SYNC_MAX) {
        let item = stamped_for(row, &document_of(tx, row)?, user, false);
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
    let mut rows = both(tx, user, (WRITTEN, GOT), since)?;
    rows.truncate(SYNC_MAX + 1);
    Ok(rows)
}

fn newest(tx: &Tx<'_>, user: &Owner) -> rusqlite::Result<Vec<ChatRow>> {
    let mut rows = both(tx, user, (NEWEST_WRITTEN, NEWEST_GOT), Row(0))?;
    let surplus = rows.len().saturating_sub(SYNC_MAX);
    rows.drain(..surplus);
    Ok(rows)
}

/// What the user wrote, and what others wrote to the user.
fn both(tx: &Tx<'_>, user: &Owner, (written, got): (&str, &str), since: Row) -> rusqlite::Result<Vec<ChatRow>> {
    let values = params![user.as_str(), since, SYNC_MAX as i64 + 1];
    let mut rows = tx.all(written, values, ChatRow::read)?;
    rows.extend(tx.all(got, values, ChatRow::read)?);
    rows.sort_by_key(|row| row.sid);
    Ok(rows)
}
