//! The expiry of what clients left behind: in small chunks, so that no verb waits long behind it.

use super::{ENDED, retained, row, session};
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::tx::Tx;
use crate::store::{QueueId, SweptQueues};
use rusqlite::params;

/// Rows of one kind handled per call.
const CHUNK: i64 = 250;

/// What has a packet identifier stays: its reader may have that, and it has to be answered.
pub(in crate::store::sqlite) const EXPIRED: &str = "SELECT queue, seq FROM queue
    WHERE expires_at <= ?1 AND packet_id IS NULL ORDER BY expires_at LIMIT ?2";
/// Documents of the bridge among them. No queue counts these.
pub(in crate::store::sqlite) const EXPIRED_DOCUMENTS: &str = "SELECT queue, seq FROM queue INDEXED BY queue_expiry
    WHERE expires_at <= ?1 AND packet_id IS NULL AND document IS NOT NULL ORDER BY expires_at LIMIT ?2";
const ENDING: &str = "SELECT queue FROM queues WHERE kind = ?1 LIMIT 1";

pub(in crate::store) fn sweep(tx: &mut Tx<'_>, now: u64) -> rusqlite::Result<SweptQueues> {
    let mut swept = SweptQueues::default();
    let expired: Vec<(QueueId, i64)> =
        tx.all(EXPIRED, params![sql_ms(now), CHUNK], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for &(queue, seq) in &expired {
        swept.expired.entry(queue).or_default().add(row::remove(tx, queue, seq)?);
    }
    swept.retained = retained::expire(tx, now, CHUNK)?;
    // One that had more rows at its end than one transaction takes out.
    let ending = tx.one(ENDING, [ENDED], |row| row.get(0))?;
    let ending = ending.map_or(Ok(false), |queue| session::end(tx, queue).map(|_| true))?;
    swept.more = ending || expired.len().max(swept.retained.len()) as i64 == CHUNK;
    Ok(swept)
}

/// Drops documents whose time is over, a chunk of them. Whether there may be more.
pub(in crate::store::sqlite) fn drop_documents(tx: &Tx<'_>, now: u64) -> rusqlite::Result<bool> {
    let expired: Vec<(QueueId, i64)> =
        tx.all(EXPIRED_DOCUMENTS, params![sql_ms(now), CHUNK], |row| Ok((row.get(0)?, row.get(1)?)))?;
    for &(queue, seq) in &expired {
        row::remove(tx, queue, seq)?;
    }
    Ok(expired.len() as i64 == CHUNK)
}
