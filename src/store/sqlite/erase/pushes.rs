//! Devices, and pushes: to the person, and to others for what the person wrote.

use super::Work;
use crate::chat::delivery::{Event, State};
use crate::chat::erasure::quoted;
use crate::chat::id::Row;
use crate::store::sqlite::chat::{device, notified};
use crate::store::sqlite::delivery::Delivery;
use crate::store::sqlite::message::SEVERAL;
use crate::store::sqlite::tx::Tx;
use rusqlite::params;

/// Rows that one call looks at.
const LOOKED_AT: i64 = 500;

const LAST: &str = "SELECT row FROM deliveries WHERE row > ?1 ORDER BY row LIMIT 1 OFFSET ?2";
const IN_RANGE: &str = "SELECT row, final_at IS NULL, bal = ?3 OR chat IS NOT NULL FROM deliveries
    WHERE row > ?1 AND row <= ?2 AND state <> ?5
    AND (bal = ?3 OR instr(chat, ?4) OR instr(body, CAST(?4 AS BLOB)))";
const OF_TOKEN: &str = "SELECT row, final_at IS NULL, 0 FROM deliveries
    WHERE row > ?1 AND row <= ?2 AND instr(body, CAST(?3 AS BLOB))";
const FORGET_NEW_TOKEN: &str = "UPDATE deliveries SET new_token = NULL WHERE row > ?1 AND row <= ?2 AND new_token = ?3";
const DROP: &str = "DELETE FROM deliveries WHERE row = ?1";

/// The tokens of all devices are remembered until the erase is done: more than the registrations may hold them.
pub(super) fn forget_devices(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    for (dev, token) in device::tokens_of(tx, &work.user)? {
        if !work.tokens.contains(&token) {
            work.tokens.push(token);
        }
        device::erase(tx, &work.user, &dev, work.at)?;
        work.removed("devices", 1);
    }
    Ok(false)
}

/// All rows once. What waits is taken back, what is settled goes, and what is with a push service goes when that has answered.
pub(super) fn deliveries(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let after: i64 = work.after.parse().unwrap_or(0);
    let last = tx.one(LAST, params![after, LOOKED_AT - 1], |row| row.get::<_, i64>(0))?;
    let up_to = last.unwrap_or(i64::MAX);
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Row>(0)?, row.get(1)?, row.get(2)?));
    let mut found: Vec<(Row, bool, bool)> =
        tx.all(IN_RANGE, params![after, up_to, work.user, quoted(&work.user), SEVERAL], read)?;
    for token in &work.tokens {
        found.extend(tx.all(OF_TOKEN, params![after, up_to, quoted(token)], read)?);
        tx.execute(FORGET_NEW_TOKEN, params![after, up_to, token])?;
    }
    for (row, is_open, is_own) in found {
        erase(tx, work, row, (is_open, is_own))?;
    }
    work.after = up_to.to_string();
    Ok(last.is_some())
}

/// `is_own`: it is no message of a BAL, whose status has to be remembered.
fn erase(tx: &mut Tx<'_>, work: &mut Work, row: Row, (is_open, is_own): (bool, bool)) -> rusqlite::Result<()> {
    if is_open
        && let Some(mut delivery) = Delivery::by_row(tx, row)?
        && delivery.apply(tx, &Event::Cancelled, work.at)?.is_none()
        && delivery.life.state == State::InFlight
    {
        notified::withdraw_in_flight(tx, &delivery)?;
        work.in_flight += 1;
        return Ok(());
    }
    if is_own {
        let removed = tx.execute(DROP, [row])?;
        work.removed("pushes", removed);
    }
    Ok(())
}
