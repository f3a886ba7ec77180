//! Documents of chat users that are dropped where nobody reads them ([`Origin::is_dropped_unread`]).

use super::chat::expired;
use super::column::{from_sql, sql_ms};
use super::erase;
use super::outbox::{self, Document};
use super::tx::{ReadTx, Tx};
use crate::chat::id::Row;
use crate::store::{Origin, Unread, UserDocument};
use rusqlite::params;

/// The kinds are those of [`Origin::is_dropped_unread`].
pub(super) const NEXT_TOPIC: &str =
    "SELECT topic FROM outbox INDEXED BY outbox_unread WHERE kind IN (5, 6) AND topic > ?1 ORDER BY topic LIMIT 1";
pub(super) const LAST: &str =
    "SELECT max(seq) FROM outbox INDEXED BY outbox_unread WHERE kind IN (5, 6) AND topic = ?1";
pub(super) const OLDEST: &str = "SELECT seq, about FROM outbox INDEXED BY outbox_unread
    WHERE kind IN (5, 6) AND topic = ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
/// Documents of one topic that one call drops.
const CHUNK: i64 = 500;

/// Puts a document for a chat user at the end of its topic.
pub(in crate::store) fn queue(tx: &mut Tx<'_>, document: &UserDocument) -> rusqlite::Result<()> {
    let UserDocument { topic, copy_of, payload, at } = document;
    if erase::is_of_taken(tx, topic)? {
        return Ok(());
    }
    let origin = copy_of.map_or(Origin::UserNote, Origin::ChatCopy);
    outbox::queue(tx, &Document { topic, origin, at: *at, correlation: None, payload }).map(drop)
}

/// The next topics with such documents behind `after`, each with its last one.
pub(in crate::store) fn topics(tx: &ReadTx<'_>, after: &str, limit: usize) -> rusqlite::Result<Vec<Unread>> {
    let mut found: Vec<Unread> = Vec::new();
    while found.len() < limit {
        let after = found.last().map_or(after, |last| &*last.topic);
        let Some(topic) = tx.one(NEXT_TOPIC, [after], |row| row.get::<_, String>(0))? else { break };
        let last = tx.one(LAST, [&topic], |row| row.get::<_, Option<i64>>(0))?.flatten();
        found.push(Unread { topic: topic.into(), up_to: last.map_or(0, from_sql) });
    }
    Ok(found)
}

/// Drops such documents. Returns whether there may be more of them.
pub(in crate::store) fn drop_unread(tx: &Tx<'_>, unread: &[Unread]) -> rusqlite::Result<bool> {
    let mut more = false;
    for Unread { topic, up_to } in unread {
        let values = params![&**topic, sql_ms(*up_to), CHUNK];
        let oldest: Vec<(i64, Row)> = tx.all(OLDEST, values, |row| Ok((row.get(0)?, row.get(1)?)))?;
        for (seq, about) in &oldest {
            outbox::withdraw(tx, topic, *seq)?;
            // What is no copy of a message is about none.
            expired::forget_document(tx, *about, *seq)?;
        }
        more |= oldest.len() as i64 == CHUNK;
    }
    Ok(more)
}
