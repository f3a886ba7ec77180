//! Calls of the person: for the other side they end as if the person had hung up.

use super::Work;
use crate::chat::id::Owner;
use crate::store::sqlite::chat::{Call, calls};
use crate::store::sqlite::tx::Tx;

/// Ends one of them.
pub(super) fn end(tx: &mut Tx<'_>, work: &mut Work, call: &mut Call<'_>) -> rusqlite::Result<bool> {
    let Ok(user) = Owner::new(work.user.as_str()) else { return Ok(false) };
    if !calls::ending::hang_up(tx, &user, call)? {
        return Ok(false);
    }
    work.removed("calls that went on", 1);
    Ok(true)
}
