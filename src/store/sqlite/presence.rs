//! What was last said about each chat user, so that it can be put right after a restart, and which BALs are away.

use super::chat::people;
use super::column::{from_sql, sql_ms};
use super::erase;
use super::tx::{ReadTx, Tx};
use crate::chat::id::Owner;
use crate::chat::message::PresenceState;
use crate::store::{LastPresence, PRESENCE_KEPT_MS, PRESENCE_UNSURE_MS, PresenceChange};
use rusqlite::types::Type;
use rusqlite::{Row, params};

const CHANGED: &str = "INSERT INTO presence (user, online, changed_at, last_seen) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (user) DO UPDATE SET online = excluded.online, changed_at = excluded.changed_at,
    last_seen = max(ifnull(last_seen, excluded.last_seen), ifnull(excluded.last_seen, last_seen))
    RETURNING last_seen";
const STILL_ALIVE: &str = "UPDATE marks SET alive_at = max(alive_at, ?1)";
const FORGET: &str = "DELETE FROM presence WHERE online = 0 AND changed_at < ?1";
/// Who was online was last seen when that was published, or at `alive_at`: the best that is known after a crash, too
/// early by one heartbeat at most.
const LAST: &str = "SELECT user, online, CASE online WHEN 1 THEN max(changed_at, alive_at) ELSE last_seen END
    FROM presence, marks WHERE online = 1 OR changed_at > alive_at - ?1";

const AWAY: &str = "INSERT INTO away (bal) VALUES (?1) ON CONFLICT DO NOTHING";
const BACK: &str = "DELETE FROM away WHERE bal = ?1";
const ALL_AWAY: &str = "SELECT bal FROM away";

pub(in crate::store) fn bal_changed(tx: &mut Tx<'_>, bal: &Owner, is_away: bool) -> rusqlite::Result<()> {
    tx.execute(if is_away { AWAY } else { BACK }, [bal.as_str()]).map(drop)
}

pub(in crate::store) fn bals_gone(tx: &mut Tx<'_>, bals: &[Owner]) -> rusqlite::Result<()> {
    bals.iter().try_for_each(|bal| bal_changed(tx, bal, true))
}

pub(in crate::store) fn bals_away(tx: &ReadTx<'_>) -> rusqlite::Result<Vec<Owner>> {
    tx.all(ALL_AWAY, [], owner)
}

pub(in crate::store) fn changed(tx: &mut Tx<'_>, change: &PresenceChange) -> rusqlite::Result<Option<u64>> {
    if erase::is_taken(tx, change.user.as_str())? {
        return Ok(None);
    }
    // Who was there once is somebody to whom messages can be written.
    people::ensure(tx, &change.user)?;
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

fn owner(row: &Row<'_>) -> rusqlite::Result<Owner> {
    Owner::new(row.get::<_, String>(0)?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(error)))
}

fn read(row: &Row<'_>) -> rusqlite::Result<LastPresence> {
    let user = owner(row)?;
    let state = if row.get(1)? { PresenceState::Online } else { PresenceState::Offline };
    Ok(LastPresence { user, state, last_seen: row.get::<_, Option<i64>>(2)?.map(from_sql) })
}
