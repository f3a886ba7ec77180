//! Groups in which the person is.

use super::Work;
use crate::chat::id::Owner;
use crate::store::sqlite::chat::group::membership;
use crate::store::sqlite::chat::{Call, owner};
use crate::store::sqlite::tx::Tx;

/// What the person left before is told no more.
pub(in crate::store::sqlite) const IN: &str =
    "SELECT gid FROM members WHERE user = ?1 AND gone IS NULL AND gid > ?2 ORDER BY gid LIMIT 1";

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
