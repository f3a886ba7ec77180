//! Groups in which the person is, or wrote.

use super::Work;
use crate::chat::id::{Owner, Row, Sid};
use crate::store::USER_DEVICES_MAX;
use crate::store::sqlite::chat::group::membership;
use crate::store::sqlite::chat::notified::{self, Seen};
use crate::store::sqlite::chat::{Call, owner};
use crate::store::sqlite::column::sid;
use crate::store::sqlite::tx::Tx;
use rusqlite::params;

/// What the person left before is told no more.
pub(in crate::store::sqlite) const IN: &str =
    "SELECT gid FROM members WHERE user = ?1 AND gone IS NULL AND gid > ?2 ORDER BY gid LIMIT 1";

/// What the person wrote there has the other name by now.
pub(in crate::store::sqlite) const WROTE_IN: &str =
    "SELECT min(peer) FROM chat WHERE writer = ?1 AND peer > ?2 AND peer > 'g-' AND peer < 'g.'";
/// Whoever was ever in it may be shown something.
pub(in crate::store::sqlite) const READERS: &str =
    "SELECT user FROM members WHERE gid = ?1 AND user >= ?2 ORDER BY user LIMIT ?3";
pub(in crate::store::sqlite) const SHOWN: &str = "SELECT DISTINCT c.row, c.tail FROM pushed p
    CROSS JOIN chat c ON c.row = p.row WHERE p.user = ?1 AND p.peer = ?2 AND p.row > ?3 AND c.writer = ?4 ORDER BY c.row";

/// Members that one call looks at.
const LOOKED_AT: i64 = 50;

/// Leaves one of them.
pub(super) fn leave(tx: &mut Tx<'_>, work: &mut Work, call: &mut Call<'_>) -> rusqlite::Result<bool> {
    let Some(group) = tx.one(IN, [&work.user, &work.after], |row| owner(row, 0))? else { return Ok(false) };
    let (Ok(user), Ok(alias)) = (Owner::new(work.user.as_str()), Owner::new(work.erasure.alias.as_str())) else {
        return Ok(false);
    };
    membership::leave_erased(tx, &group, (&user, &alias), call)?;
    work.after = group.as_str().to_owned();
    Ok(true)
}

/// Where the clearing goes on: behind this row of this reader in this group.
fn place(after: &str) -> (String, String, Row) {
    let mut parts = after.split(' ');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (group, user, row) = (next(), next(), next());
    (group, user, Row(row.parse().unwrap_or(0)))
}

/// What phones of members show of the person goes, as far as there are ids for it.
pub(super) fn clear(tx: &mut Tx<'_>, work: &mut Work, call: &mut Call<'_>) -> rusqlite::Result<bool> {
    let (mut group, mut from, mut behind) = place(&work.after);
    let alias = work.erasure.alias.clone();
    if group.is_empty() {
        let next = tx.one(WROTE_IN, [alias.as_str(), ""], |row| row.get::<_, Option<String>>(0))?.flatten();
        let Some(first) = next else { return Ok(false) };
        group = first;
    }
    let Ok(name) = Owner::of_any(group.as_str()) else { return Ok(false) };
    let readers = tx.all(READERS, params![group, from, LOOKED_AT], |row| owner(row, 0))?;
    for user in &readers {
        if user.as_str() != from {
            behind = Row(0);
        }
        let values = params![user.as_str(), group, behind, alias];
        let shown: Vec<Sid> = tx.all(SHOWN, values, |row| sid(row, 0, 1))?;
        for sid in shown {
            if call.push_sids.len() < USER_DEVICES_MAX {
                work.after = format!("{group} {user} {}", behind.0);
                return Ok(true);
            }
            notified::clear(tx, &Seen { user, peer: &name, sid, up_to: false }, None, &[], call)?;
            behind = sid.row();
        }
        from = user.as_str().to_owned();
    }
    if readers.len() as i64 == LOOKED_AT {
        work.after = format!("{group} {from} {}", i64::MAX);
        return Ok(true);
    }
    let next = tx.one(WROTE_IN, [alias.as_str(), &group], |row| row.get::<_, Option<String>>(0))?.flatten();
    work.after = next.map(|next| format!("{next}  0")).unwrap_or_default();
    Ok(!work.after.is_empty())
}
