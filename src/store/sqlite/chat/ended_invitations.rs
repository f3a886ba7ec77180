//! Invitations into groups that end before their time: whoever invited may let nobody in any more, or the invited is in.
//!
//! Such an invitation is over from then on, as if its time were, and says so. Nobody is told, as of any that is over; the sweep
//! ([`super::keep`]) clears what phones show of it.

use crate::chat::id::{Owner, Row};
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::tx::Tx;
use rusqlite::params;

/// Open invitations of one user, or to one, that are looked at: the newest of the former. Others end with their time, and are refused
/// all the same where somebody accepts them.
const LOOKED_AT: i64 = 1_000;

pub(in crate::store::sqlite) const END_BY: &str = "UPDATE chat SET waits = 0, deadline = ?3,
    document = CAST(json_set(CAST(document AS TEXT), '$.expires', ?3) AS BLOB)
    WHERE row IN (SELECT row FROM chat INDEXED BY chat_inviting WHERE writer = ?1 AND kind = 2 AND answer IS NULL
        ORDER BY row DESC LIMIT ?4)
    AND deadline > ?3 AND json_extract(CAST(document AS TEXT), '$.group') = ?2";
pub(in crate::store::sqlite) const END_TO: &str = "UPDATE chat SET waits = 0, deadline = ?3,
    document = CAST(json_set(CAST(document AS TEXT), '$.expires', ?3) AS BLOB)
    WHERE row IN (SELECT row FROM chat INDEXED BY chat_invited WHERE peer = ?1 AND kind = 2 AND answer IS NULL LIMIT ?4)
    AND deadline > ?3 AND row <> ?5 AND json_extract(CAST(document AS TEXT), '$.group') = ?2";

/// `inviter` owns the group no more, be it that there is none any more.
pub(super) fn by(tx: &Tx<'_>, inviter: &Owner, group: &Owner, at: u64) -> rusqlite::Result<()> {
    tx.execute(END_BY, params![inviter.as_str(), group.as_str(), sql_ms(at), LOOKED_AT]).map(drop)
}

/// `user` is in the group, by the invitation `accepted` or by none.
pub(super) fn to(tx: &Tx<'_>, user: &Owner, group: &Owner, accepted: Option<Row>, at: u64) -> rusqlite::Result<()> {
    let accepted = accepted.unwrap_or(Row(0));
    tx.execute(END_TO, params![user.as_str(), group.as_str(), sql_ms(at), LOOKED_AT, accepted]).map(drop)
}
