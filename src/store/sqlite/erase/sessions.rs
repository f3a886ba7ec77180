//! What the embedded broker keeps: sessions of the person, what waits for others, retained messages.

use super::Work;
use super::documents::holds;
use crate::store::QueueId;
use crate::store::sqlite::sessions::{row, session};
use crate::store::sqlite::tx::Tx;
use rusqlite::params;

/// Rows that one call looks at.
const LOOKED_AT: i64 = 500;

const OWN: &str = "SELECT queue FROM queues WHERE user = ?1 LIMIT 1";
const ENDED_OWN: &str = "UPDATE queues SET user = NULL, client = '' WHERE queue = ?1";
const ROWS: &str =
    "SELECT q.queue, q.seq, coalesce(q.document, q.topic, b.topic, ''), coalesce(q.payload, b.payload, x'')
    FROM queue q LEFT JOIN bodies b ON b.seq = q.seq
    WHERE (q.queue, q.seq) > (?1, ?2) ORDER BY q.queue, q.seq LIMIT ?3";
/// Of the tables that are small: `?1` and `?2` are before and behind the topics below the name, `?3` is the name.
const REST: [(&str, &str); 4] = [
    ("subscriptions", "DELETE FROM subscriptions WHERE filter > ?1 AND filter < ?2 AND ?3 <> ''"),
    ("retained messages", "DELETE FROM retained WHERE topic > ?1 AND topic < ?2 OR user = ?3"),
    ("wills", "DELETE FROM wills WHERE topic > ?1 AND topic < ?2 AND ?3 <> ''"),
    ("bodies", "DELETE FROM bodies WHERE topic > ?1 AND topic < ?2 AND ?3 <> ''"),
];

/// The broker has ended them; what it had not come to by then ends here.
pub(super) fn own(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let Some(queue) = tx.one(OWN, [&work.user], |row| row.get::<_, QueueId>(0))? else { return Ok(false) };
    if !session::end(tx, queue)? {
        work.removed("sessions", 1);
    } else {
        tx.execute(ENDED_OWN, [queue])?;
    }
    Ok(true)
}

/// All rows of all queues once.
pub(super) fn queues(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let (queue, seq) = work.after.split_once(' ').unwrap_or(("0", "0"));
    let (queue, seq): (i64, i64) = (queue.parse().unwrap_or(0), seq.parse().unwrap_or(0));
    let (marks, (first, last)) = (work.marks(), work.topics());
    let page = tx.all(ROWS, params![queue, seq, LOOKED_AT], |row| {
        let topic = row.get_ref(2)?.as_str()?;
        let is_found = topic > first.as_str() && topic < last.as_str() || holds(row.get_ref(3)?.as_blob()?, &marks);
        Ok((row.get::<_, QueueId>(0)?, row.get::<_, i64>(1)?, is_found))
    })?;
    for (queue, seq, _) in page.iter().filter(|(.., is_found)| *is_found) {
        row::remove(tx, *queue, *seq)?;
        work.removed("documents in sessions", 1);
    }
    let is_full = page.len() as i64 == LOOKED_AT;
    if let Some((queue, seq, _)) = page.last().filter(|_| is_full) {
        work.after = format!("{} {seq}", queue.0);
    }
    Ok(is_full)
}

pub(super) fn rest(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let (first, last) = work.topics();
    for (what, sql) in REST {
        let removed = tx.execute(sql, params![first, last, work.user])?;
        work.removed(what, removed);
    }
    Ok(false)
}
