//! What the embedded broker keeps: sessions of the person, what waits for others, retained messages.

use super::{Work, page};
use crate::chat::erasure::Fate;
use crate::chat::topic::Side;
use crate::store::QueueId;
use crate::store::sqlite::sessions::{row, session};
use crate::store::sqlite::tx::Tx;
use rusqlite::params;

/// Rows that one call looks at.
const LOOKED_AT: i64 = 500;

const OWN: &str = "SELECT queue FROM queues WHERE user = ?1 LIMIT 1";
/// Groups that share a subscription below the name; the key is '{group}/{filter}'.
const SHARED: &str = "SELECT queue FROM queues
    WHERE kind = 1 AND substr(substr(key, instr(key, '/') + 1) || '/', 1, length(?1) + 1) = ?1 || '/' LIMIT 1";
const ENDED_OWN: &str = "UPDATE queues SET user = NULL, client = '' WHERE queue = ?1";
const ROWS: &str =
    "SELECT q.queue, q.seq, coalesce(q.document, q.topic, b.topic, ''), coalesce(q.payload, b.payload, x''),
        q.document IS NOT NULL, q.payload IS NULL
    FROM queue q LEFT JOIN bodies b ON b.seq = q.seq
    WHERE (q.queue, q.seq) > (?1, ?2) ORDER BY q.queue, q.seq LIMIT ?3";
/// What counts for the limits stays as it was counted.
const REPLACE: &str = "UPDATE queue SET payload = ?3 WHERE queue = ?1 AND seq = ?2";
const REPLACE_BODY: &str = "UPDATE bodies SET payload = ?2 WHERE seq = ?1";
/// Of the tables that are small: `?1` and `?2` are before and behind the topics below the name, `?3` is the name.
const REST: [(&str, &str); 4] = [
    // Behind `$share/` and the group, if it is shared.
    (
        "subscriptions",
        "DELETE FROM subscriptions WHERE ?1 < ?2 AND ?3 || '/' = substr(CASE WHEN filter GLOB '$share/*'
            THEN substr(filter, 8 + instr(substr(filter, 8), '/')) ELSE filter END || '/', 1, length(?3) + 1)",
    ),
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

/// The same of groups that share a subscription.
pub(super) fn shared(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let Some(queue) = tx.one(SHARED, [&work.user], |row| row.get::<_, QueueId>(0))? else { return Ok(false) };
    // It has its number for a key from then on; rows that are left go as those of every queue that has ended.
    session::end(tx, queue)?;
    work.removed("shared subscriptions", 1);
    Ok(true)
}

/// A row of a queue.
struct Waiting {
    queue: QueueId,
    seq: i64,
    /// Its body is shared with other queues.
    is_shared: bool,
    fate: Fate,
}

/// All rows of all queues once. What a client wrote on a topic of its own is its own.
pub(super) fn queues(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let (queue, seq) = work.after.split_once(' ').unwrap_or(("0", "0"));
    let (queue, seq): (i64, i64) = (queue.parse().unwrap_or(0), seq.parse().unwrap_or(0));
    let (erased, (first, last)) = (work.erased(), work.topics());
    let (page, is_full) = page(tx, ROWS, params![queue, seq, LOOKED_AT], |row| {
        let (topic, payload) = (row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_blob()?);
        let is_of_bridge = row.get(4)? || matches!(Side::of(topic), Side::Inbox { .. } | Side::Bridge { .. });
        let fate = match topic {
            topic if topic > first.as_str() && topic < last.as_str() => Fate::Goes,
            topic if is_of_bridge => erased.fate_of(topic, payload),
            _ => Fate::Stays,
        };
        Ok((Waiting { queue: row.get(0)?, seq: row.get(1)?, is_shared: row.get(5)?, fate }, payload.len()))
    })?;
    for Waiting { queue, seq, is_shared, fate } in &page {
        match fate {
            Fate::Stays => continue,
            Fate::Goes => {
                if let Some(gone) = row::remove(tx, *queue, *seq)? {
                    tx.rows_gone(*queue, gone);
                }
                work.removed("documents in sessions", 1);
                continue;
            }
            Fate::Becomes(payload) if *is_shared => tx.execute(REPLACE_BODY, params![seq, payload])?,
            Fate::Becomes(payload) => tx.execute(REPLACE, params![queue, seq, payload])?,
        };
        work.kept("documents of others in sessions that name the person", 1);
    }
    if let Some(last) = page.last().filter(|_| is_full) {
        work.after = format!("{} {}", last.queue.0, last.seq);
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
