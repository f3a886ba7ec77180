//! Calls: a row of `calls` from the offer on until the call is forgotten, and the message about it among all others.
//!
//! Signals are documents that expire; none of them is kept but for what a device is told that comes late ([`kept`]). The
//! pushes of an offer are remembered in `ringing`, beside those of messages: reading a conversation ends no call.

/// A query of [`CallRow`]s: its columns, and what follows them.
macro_rules! call_rows {
    ($rest:literal) => {
        concat!(
            "SELECT row, tail, caller, by_bal, callee, call, dev, at, state, hidden, waits, until FROM calls ",
            $rest
        )
    };
}

pub(in crate::store) mod ending;
pub(in crate::store) mod kept;
pub(in crate::store) mod ringing;
pub(in crate::store) mod signal;

use super::{ChatRow, Kind, json, json_text, owner};
use crate::chat::call::{CallState, KEPT_MS, Party};
use crate::chat::id::{Owner, Sid};
use crate::chat::suffix::calls::{CallName, Parties};
use crate::chat::topic::inbox_topic;
use crate::store::Origin;
use crate::store::sqlite::column::{from_sql, sid, sql_ms};
use crate::store::sqlite::erase;
use crate::store::sqlite::outbox::{self, Document};
use crate::store::sqlite::tx::{ReadTx, Tx};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, params};

pub(in crate::store::sqlite) const BY_NAME: &str = call_rows!("WHERE call = ?1 AND caller = ?2 AND callee = ?3");
pub(in crate::store::sqlite) const BY_SID: &str = call_rows!("WHERE row = ?1 AND tail = ?2");
const RINGS: &str = "SELECT state FROM calls WHERE row = ?1 AND tail = ?2";
const SAVE: &str = "UPDATE calls SET state = ?2, look_at = ?3 WHERE row = ?1";

/// A row of `calls`, without what is kept for late devices.
#[derive(Debug, Clone)]
pub(super) struct CallRow {
    /// Of the offer.
    sid: Sid,
    caller: Owner,
    by_bal: bool,
    callee: Owner,
    name: CallName,
    /// The caller's.
    dev: Option<String>,
    at: u64,
    state: CallState,
    /// The callee has blocked the caller: it hears nothing of the call.
    hidden: bool,
    waits: bool,
    /// The end of the time that the offer rings, in Unix milliseconds.
    until: u64,
}

impl CallRow {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let name = CallName::new(row.get(5)?);
        let bad = |_| rusqlite::Error::InvalidColumnType(5, "call".to_owned(), Type::Text);
        Ok(Self {
            sid: sid(row, 0, 1)?,
            caller: owner(row, 2)?,
            by_bal: row.get(3)?,
            callee: owner(row, 4)?,
            name: name.map_err(bad)?,
            dev: row.get(6)?,
            at: from_sql(row.get(7)?),
            state: json(row, 8)?,
            hidden: row.get(9)?,
            waits: row.get(10)?,
            until: from_sql(row.get(11)?),
        })
    }

    fn by_sid(tx: &ReadTx<'_>, sid: Sid) -> rusqlite::Result<Option<Self>> {
        let (row, tail) = sid.parts();
        tx.one(BY_SID, params![row, tail], Self::read)
    }

    /// The call that `one` and `other` call so, whoever of them rang.
    fn by_name(tx: &ReadTx<'_>, name: &CallName, one: &Owner, other: &Owner) -> rusqlite::Result<Option<Self>> {
        let of = |caller: &Owner, callee: &Owner| {
            tx.one(BY_NAME, params![name.as_str(), caller.as_str(), callee.as_str()], Self::read)
        };
        match of(one, other)? {
            Some(found) => Ok(Some(found)),
            None => of(other, one),
        }
    }

    /// On which side a user of the call is.
    fn party(&self, user: &Owner) -> Party {
        if self.caller == *user { Party::Caller } else { Party::Callee }
    }

    fn parties(&self) -> Parties<'_> {
        Parties { call: &self.name, caller: &self.caller, callee: &self.callee }
    }

    /// When it is looked at: to end it, or to forget it.
    fn look_at(&self, now: u64) -> u64 {
        self.state.deadline().unwrap_or_else(|| now.saturating_add(KEPT_MS))
    }

    fn save(&self, tx: &Tx<'_>, now: u64) -> rusqlite::Result<()> {
        let values = params![self.sid.row(), json_text(&self.state)?, sql_ms(self.look_at(now))];
        tx.execute(SAVE, values).map(drop)
    }

    /// The offer, as a push decision is asked about it.
    fn offer(&self) -> ChatRow {
        ChatRow {
            sid: self.sid,
            kind: Kind::Offer,
            writer: self.caller.clone(),
            by_bal: self.by_bal,
            id: None,
            peer: self.callee.clone(),
            dev: self.dev.clone(),
            at: self.at,
            n_writer: None,
            n_reader: None,
            theirs_writer: 0,
            theirs_reader: 0,
            hidden: self.hidden,
            receipt: false,
            waits: self.waits,
            deadline: self.until,
            amends: None,
            gone: false,
        }
    }
}

/// Whether this is the offer of a call that rings.
pub(in crate::store::sqlite) fn rings(tx: &ReadTx<'_>, offer: Sid) -> rusqlite::Result<bool> {
    let (row, tail) = offer.parts();
    let state = tx.one(RINGS, params![row, tail], |row| json::<CallState>(row, 0))?;
    Ok(state.is_some_and(|state| state.rings()))
}

/// The offer with this sid, as a push decision was asked about it.
pub(super) fn offer(conn: &Connection, offer: Sid) -> rusqlite::Result<Option<ChatRow>> {
    let (row, tail) = offer.parts();
    let found = conn.prepare_cached(BY_SID)?.query_row(params![row, tail], CallRow::read).optional()?;
    Ok(found.map(|call| call.offer()))
}

/// Tells a user something of a call that nobody needs to know after `until`.
fn tell(
    tx: &mut Tx<'_>,
    user: &Owner,
    (origin, payload): (Origin, &[u8]),
    at: u64,
    until: u64,
) -> rusqlite::Result<()> {
    if erase::is_taken(tx, user.as_str())? {
        return Ok(());
    }
    let topic = &*inbox_topic(user, "calls");
    outbox::queue_until(tx, &Document { topic, origin, at, correlation: None, payload }, Some(until)).map(drop)
}
