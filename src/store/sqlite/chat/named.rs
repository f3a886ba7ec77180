//! Which messages somebody means: by their sids, or by the ids that their writer gave them.

use super::ChatRow;
use super::calls::{ringing, signal};
use super::message::by_id;
use crate::chat::id::{MessageId, Owner, Sid};
use crate::store::sqlite::tx::ReadTx;

/// The sids among `sids` that are messages to this user, or offers of calls, in their order.
pub(in crate::store) fn messages_to(tx: &ReadTx<'_>, user: &Owner, sids: &[Sid]) -> rusqlite::Result<Vec<Sid>> {
    let mut found = Vec::with_capacity(sids.len());
    for sid in sids {
        let is_own = match ChatRow::by_sid(tx, *sid)? {
            Some(row) => row.went_to(tx, user)?,
            None => ringing::is_to(tx, user, *sid)?,
        };
        found.extend(is_own.then_some(*sid));
    }
    Ok(found)
}

/// The sids of what `writer` wrote to this user under these ids: messages, invitations, and offers of calls, in their order.
pub(in crate::store) fn written_to(
    tx: &ReadTx<'_>,
    user: &Owner,
    writer: &Owner,
    ids: &[MessageId],
) -> rusqlite::Result<Vec<Sid>> {
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let sid = match by_id(tx, writer, id.as_str())? {
            Some(row) => row.went_to(tx, user)?.then_some(row.sid),
            None => signal::offered_to(tx, user, writer, id)?,
        };
        found.extend(sid);
    }
    Ok(found)
}
