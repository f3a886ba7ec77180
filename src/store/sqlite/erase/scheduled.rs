//! Messages that are to be sent later: of the person, and of others to the person.

use super::Work;
use crate::chat::erasure::renamed;
use crate::chat::id::Row;
use crate::store::sqlite::chat::scheduled;
use crate::store::sqlite::tx::Tx;
use rusqlite::params;

/// Rows that one call removes.
const CHUNK: i64 = 250;
/// Rows that one call looks at.
const LOOKED_AT: i64 = 500;

const ALL: &str = "SELECT row, document FROM scheduled WHERE row > ?1 ORDER BY row LIMIT ?2";
const SET: &str = "UPDATE scheduled SET document = ?2 WHERE row = ?1";

pub(super) fn own(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let removed = scheduled::remove_all(tx, &work.user, CHUNK)?;
    work.removed("messages to be sent later", removed);
    Ok(removed > 0)
}

/// They are their writers'. Under the other name they reach nobody when their time comes, and their writers are told that.
pub(super) fn of_others(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let after: i64 = work.after.parse().unwrap_or(0);
    let (page, is_full) = super::page(tx, ALL, params![after, LOOKED_AT], |row| {
        let document = row.get_ref(1)?.as_blob()?;
        let left = renamed(document, &work.user, &work.erasure.alias);
        Ok(((row.get::<_, Row>(0)?, left), document.len()))
    })?;
    for (row, left) in &page {
        if let Some(left) = left {
            tx.execute(SET, params![row, left])?;
            work.kept("messages of others to be sent later that name the person", 1);
        }
    }
    if let Some((last, _)) = page.last() {
        work.after = last.0.to_string();
    }
    Ok(is_full)
}
