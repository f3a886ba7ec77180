//! What was last said about each chat user, so that it can be put right after a restart.

use super::tx::Tx;
use super::{from_sql, sql_ms};
use crate::chat::id::Owner;
use crate::chat::message::PresenceState;
use rusqlite::types::Type;
use rusqlite::{Row, params};

/// How long who is away is remembered, in milliseconds: a year. The broker's retained document outlives it.
pub const PRESENCE_KEPT_MS: u64 = 365 * 24 * 3_600_000;
/// What was said so shortly before the last sign of life may not have reached the broker's disk, in milliseconds.
pub const PRESENCE_UNSURE_MS: u64 = 60_000;

const CHANGED: &str = "INSERT INTO presence (user, online, changed_at, last_seen) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (user) DO UPDATE SET online = excluded.online, changed_at = excluded.changed_at,
    last_seen = max(ifnull(last_seen, excluded.last_seen), ifnull(excluded.last_seen, last_seen))
    RETURNING last_seen";
const STILL_ALIVE: &str = "UPDATE marks SET alive_at = max(alive_at, ?1)";
const FORGET: &str = "DELETE FROM presence WHERE online = 0 AND changed_at < ?1";
/// Who was online was seen when that was said, and at the last sign of life: the best that is known after a crash. It is
/// too early by the time between two signs of life, at most.
const LAST: &str = "SELECT user, online, CASE online WHEN 1 THEN max(changed_at, alive_at) ELSE last_seen END
    FROM presence, marks WHERE online = 1 OR changed_at > alive_at - ?1";

/// What is about to be said about a chat user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    /// Who.
    pub user: Owner,
    /// There or not.
    pub state: PresenceState,
    /// When the last device went, in Unix milliseconds, if one went since the bridge knows of the user.
    pub last_seen: Option<u64>,
    /// When it is said, in Unix milliseconds.
    pub at: u64,
}

/// What was last said about a chat user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastPresence {
    /// Who.
    pub user: Owner,
    /// There or not.
    pub state: PresenceState,
    /// The last time, in Unix milliseconds, at which the user is known to have been there.
    pub last_seen: Option<u64>,
}

pub(in crate::store) fn changed(tx: &mut Tx<'_>, change: &PresenceChange) -> rusqlite::Result<Option<u64>> {
    let online = change.state == PresenceState::Online;
    let given = params![change.user.as_str(), online, sql_ms(change.at), change.last_seen.map(sql_ms)];
    let last_seen: Option<i64> = tx.conn.prepare_cached(CHANGED)?.query_row(given, |row| row.get(0))?;
    Ok(last_seen.map(from_sql))
}

pub(in crate::store) fn still_alive(tx: &mut Tx<'_>, at: u64) -> rusqlite::Result<()> {
    tx.execute(STILL_ALIVE, [sql_ms(at)]).map(drop)
}

pub(in crate::store) fn last(tx: &mut Tx<'_>, now: u64) -> rusqlite::Result<Vec<LastPresence>> {
    tx.execute(FORGET, [sql_ms(now.saturating_sub(PRESENCE_KEPT_MS))])?;
    tx.all(LAST, [sql_ms(PRESENCE_UNSURE_MS)], read)
}

fn read(row: &Row<'_>) -> rusqlite::Result<LastPresence> {
    let user = Owner::new(row.get::<_, String>(0)?)
        .map_err(|fault| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(fault)))?;
    let state = if row.get(1)? { PresenceState::Online } else { PresenceState::Offline };
    Ok(LastPresence { user, state, last_seen: row.get::<_, Option<i64>>(2)?.map(from_sql) })
}
