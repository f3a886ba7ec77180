//! Devices, and pushes: to the person, and to others for what the person wrote.

use super::Work;
use crate::chat::delivery::{Event, State};
use crate::chat::erasure::Fate;
use crate::chat::id::{Row, Token};
use crate::chat::push::Target;
use crate::store::sqlite::chat::push::{DevicePush, replace_body};
use crate::store::sqlite::chat::{device, json_text, notified};
use crate::store::sqlite::delivery::Delivery;
use crate::store::sqlite::message::SEVERAL;
use crate::store::sqlite::tx::Tx;
use rusqlite::params;

/// Rows that one call looks at.
const LOOKED_AT: i64 = 500;

const LAST: &str = "SELECT row FROM deliveries WHERE row > ?1 ORDER BY row LIMIT 1 OFFSET ?2";
/// Those that may be the person's, or about the person: by their sender, by what the bridge noted of a push that it made itself,
/// or by the hash of a token.
const IN_RANGE: &str = "SELECT row, final_at IS NULL, bal = ?3, chat, body FROM deliveries
    WHERE row > ?1 AND row <= ?2 AND state <> ?5
    AND (bal = ?3 OR chat IS NOT NULL OR recipient IN (SELECT value FROM json_each(?4)))";
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

/// A push that was found.
struct Found {
    row: Row,
    is_open: bool,
    /// The bridge made it itself: no status of it has to be remembered.
    is_of_chat: bool,
    /// What it says from now on; `None`: it goes.
    becomes: Option<Vec<u8>>,
}

impl Found {
    /// `None`: it has nothing to do with the person.
    fn read(row: &rusqlite::Row<'_>, work: &Work) -> rusqlite::Result<Option<Self>> {
        let (is_own, push) = (row.get(2)?, DevicePush::read(row, 3)?);
        let is_of_chat = is_own || push.is_some();
        let body = row.get_ref(4)?.as_blob_or_null()?.unwrap_or_default();
        let is_about = is_own || push.is_some_and(|push| push.names(&work.user));
        let becomes = match work.erased().fate_of_push(body, is_of_chat) {
            Fate::Stays if !is_about => return Ok(None),
            Fate::Becomes(body) if !is_about => Some(body),
            _ => None,
        };
        Ok(Some(Self { row: row.get(0)?, is_open: row.get(1)?, is_of_chat, becomes }))
    }
}

/// All rows once. What waits is taken back, what is settled goes, and what is with a push service goes when that has answered.
pub(super) fn deliveries(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<bool> {
    let after: i64 = work.after.parse().unwrap_or(0);
    let last = tx.one(LAST, params![after, LOOKED_AT - 1], |row| row.get::<_, i64>(0))?;
    let up_to = last.unwrap_or(i64::MAX);
    let recipients: Vec<i64> = work.tokens.iter().filter_map(|token| recipient(token)).collect();
    let values = params![after, up_to, work.user, json_text(&recipients)?, SEVERAL];
    let found: Vec<Option<Found>> = tx.all(IN_RANGE, values, |row| Found::read(row, work))?;
    for token in &work.tokens {
        tx.execute(FORGET_NEW_TOKEN, params![after, up_to, token])?;
    }
    for Found { row, is_open, is_of_chat, becomes } in found.into_iter().flatten() {
        if let Some(body) = becomes
            && replace_body(tx, row, &body)?
        {
            work.kept("pushes to others that name the person", 1);
        } else if is_open && is_still_in_flight(tx, row, work.at)? {
            work.in_flight.push(row.0);
        } else if is_of_chat {
            let removed = tx.execute(DROP, [row])?;
            work.removed("pushes", removed);
        }
    }
    work.after = up_to.to_string();
    Ok(last.is_some())
}

/// The number that a device's pushes have.
fn recipient(token: &str) -> Option<i64> {
    Token::new(token).ok().map(|token| Target::Token(token).recipient().0)
}

/// Takes a push back, unless a push service has it. Then it is not sent again, whatever that answers.
fn is_still_in_flight(tx: &mut Tx<'_>, row: Row, at: u64) -> rusqlite::Result<bool> {
    let Some(mut delivery) = Delivery::by_row(tx, row)? else { return Ok(false) };
    if delivery.apply(tx, &Event::Cancelled, at)?.is_none() && delivery.life.state == State::InFlight {
        notified::withdraw_in_flight(tx, &delivery)?;
        return Ok(true);
    }
    Ok(false)
}

/// Looks again at those that push services had. Those that are answered go with the next look at all.
pub(super) fn look_again(tx: &mut Tx<'_>, work: &mut Work) -> rusqlite::Result<()> {
    for row in std::mem::take(&mut work.in_flight) {
        if is_still_in_flight(tx, Row(row), work.at)? {
            work.in_flight.push(row);
        }
    }
    Ok(())
}
