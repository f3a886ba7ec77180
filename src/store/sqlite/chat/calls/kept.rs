//! What a device is told of a call that began before it came: the offer while it rings, and then what became of it.

use super::{Sid, Tx};
use crate::chat::id::Owner;
use crate::chat::message::mark_redelivered;
use crate::chat::topic::inbox_topic;
use crate::store::KeptSignal;
use crate::store::sqlite::column::{from_sql, sql_ms};
use bytes::Bytes;
use rusqlite::params;

const KEEP: &str = "UPDATE calls SET to_caller = ?2, to_callee = ?3, kept_until = ?4 WHERE row = ?1";
pub(in crate::store::sqlite) const TO_CALLEE: &str = "SELECT to_callee, kept_until FROM calls INDEXED BY calls_callee
    WHERE callee = ?1 AND kept_until > ?2 ORDER BY kept_until DESC LIMIT 100";
pub(in crate::store::sqlite) const TO_CALLER: &str = "SELECT to_caller, kept_until FROM calls INDEXED BY calls_caller
    WHERE caller = ?1 AND kept_until > ?2 ORDER BY kept_until DESC LIMIT 100";

/// A document that begins with the same sid.
const WAITS: &str = "SELECT 1 FROM outbox WHERE topic = ?1 AND substr(payload, 1, 25) = substr(?2, 1, 25)";

/// What each side is told from now on, until `until`: the caller first.
pub(super) fn keep(
    tx: &Tx<'_>,
    offer: Sid,
    (to_caller, to_callee): (Option<&[u8]>, Option<&[u8]>),
    until: u64,
) -> rusqlite::Result<()> {
    tx.execute(KEEP, params![offer.row(), to_caller, to_callee, sql_ms(until)]).map(drop)
}

/// What a device of `user` that comes now has to know, of 100 calls of each direction at most; where it `reads_waiting` documents,
/// without those that no device has had.
pub(in crate::store) fn of_user(
    tx: &Tx<'_>,
    user: &Owner,
    at: u64,
    reads_waiting: bool,
) -> rusqlite::Result<Vec<KeptSignal>> {
    let mut found = Vec::new();
    let topic = inbox_topic(user, "calls");
    for sql in [TO_CALLEE, TO_CALLER] {
        let kept = tx.all(sql, params![user.as_str(), sql_ms(at)], |row| {
            Ok((row.get::<_, Option<Vec<u8>>>(0)?, from_sql(row.get(1)?)))
        })?;
        for (payload, until) in kept.into_iter().rev() {
            let Some(payload) = payload else { continue };
            if reads_waiting && tx.exists(WAITS, params![&*topic, payload])? {
                continue;
            }
            let marked = mark_redelivered(&payload).map(|payload| KeptSignal { payload: Bytes::from(payload), until });
            found.extend(marked);
        }
    }
    Ok(found)
}
