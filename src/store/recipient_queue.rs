//! The line of a recipient: what is to go to it by one way and was put off, in the order of acceptance.
//!
//! ```text
//!   never put off ── has to wait ──► the line:   first   │ second   third   fourth ...
//!    (due_at NULL)                               a time  │ parked
//!          │                                       │     ▲
//!          └────── claimed ◄── its time has come ──┘     └── the first has gone: the next one takes its place
//! ```
//!
//! Nobody passes anybody in it, so only the first can have anything to gain from being looked at. The others are parked:
//! their due time never comes, and no look at what is due finds them, however many they are. In return, whoever leaves
//! the line, whichever way, calls the next one ([`move_up`]). The first is parked as well while the bridge has somebody
//! else of the recipient under way; then [`super::Store::unpark`] calls it.
//!
//! So a message is put off once and called once, and what has a time of its own (it was refused, and is tried again then)
//! keeps it.

use super::sql_ms;
use super::tx::Tx;
use rusqlite::{OptionalExtension, params};

/// The due time of what is parked.
pub(super) const PARKED: i64 = i64::MAX;

pub(super) const OLDER: &str = "SELECT 1 FROM deliveries
    WHERE recipient = ?1 AND row < ?2 AND way = ?3 AND state = 0 AND due_at IS NOT NULL LIMIT 1";
pub(super) const FIRST: &str = "SELECT row, due_at FROM deliveries
    WHERE recipient = ?1 AND way = ?2 AND state = 0 AND due_at IS NOT NULL ORDER BY row LIMIT 1";
const DUE: &str = "UPDATE deliveries SET due_at = ?2 WHERE row = ?1";

/// How long a message has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Until this time, in Unix milliseconds.
    Until(u64),
    /// As long as nobody calls it: whoever leaves the line before it, or [`super::Store::unpark`].
    UntilCalled,
}

/// Whether anybody stands in the line before `row`.
pub(super) fn is_behind(tx: &Tx<'_>, recipient: i64, row: i64, transport: &str) -> rusqlite::Result<bool> {
    let older = tx.conn.prepare_cached(OLDER)?.query_row(params![recipient, row, transport], |_| Ok(())).optional()?;
    Ok(older.is_some())
}

/// Puts a message into the line, or back into it.
pub(super) fn put_off(tx: &Tx<'_>, row: i64, hold: Hold, now: u64) -> rusqlite::Result<()> {
    let due_at = match hold {
        Hold::Until(time) => sql_ms(time.max(now + 1)).min(PARKED - 1),
        Hold::UntilCalled => PARKED,
    };
    tx.execute(DUE, params![row, due_at])?;
    Ok(())
}

/// Somebody has left the line, or need not be waited for any more: the first of those who stand in it is looked at again
/// if it is parked. True if so.
pub(super) fn move_up(tx: &Tx<'_>, recipient: i64, transport: &str) -> rusqlite::Result<bool> {
    let mut statement = tx.conn.prepare_cached(FIRST)?;
    let first = statement
        .query_row(params![recipient, transport], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))
        .optional()?;
    let Some((row, PARKED)) = first else { return Ok(false) };
    tx.execute(DUE, params![row, 0])?;
    Ok(true)
}
