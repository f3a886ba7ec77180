//! Why a push was sent or not, for its user and for operators.

use super::push::Decided;
use super::{BY_SID, ChatRow, calls, group};
use crate::chat::id::{Owner, Row, Sid};
use crate::store::sqlite::column::{from_sql, sid, state};
use crate::store::sqlite::tx::Tx;
use crate::store::{ExplainedDevice, ExplainedPush, PushExplanation, UserSummary};
use rusqlite::{Connection, OptionalExtension, params};

const DECIDED: &str = "SELECT decided, received FROM chat WHERE row = ?1";
const OFFER_DECIDED: &str = "SELECT decided, received FROM calls WHERE row = ?1";
const PUSH: &str = "SELECT row, tail, way, state, attempt, code FROM deliveries WHERE row = ?1";
const USERS: &str = "SELECT user, (SELECT count(*) FROM devices d WHERE d.user = users.user), unread FROM users
    ORDER BY user";

/// Why the devices of `user` were pushed for a message to it, or for the offer of a call, or were not.
pub(in crate::store::sqlite) fn of_message(
    conn: &Connection,
    user: &Owner,
    sid: Sid,
) -> rusqlite::Result<Option<PushExplanation>> {
    let (row, tail) = sid.parts();
    let found = conn.prepare_cached(BY_SID)?.query_row(params![row, tail], ChatRow::read).optional()?;
    let (found, decided) = match found {
        Some(found) => (Some(found), DECIDED),
        None => (calls::offer(conn, sid)?, OFFER_DECIDED),
    };
    let Some(found) = found else { return Ok(None) };
    if found.peer.is_group() {
        let is_readers = found.writer != *user && group::is_member_of(conn, &found, user)?;
        return if is_readers { group::explain::of_member(conn, user, &found).map(Some) } else { Ok(None) };
    }
    if found.peer != *user {
        return Ok(None);
    }
    let (text, received) =
        conn.prepare_cached(decided)?.query_row([row], |row| Ok((row.get::<_, Option<String>>(0)?, row.get(1)?)))?;
    let decided = text.and_then(|text| serde_json::from_str::<Decided>(&text).ok());
    let mut explanation = PushExplanation {
        sid: sid.to_string(),
        from: found.writer.as_str().to_owned(),
        ts: found.at,
        decided_at: decided.as_ref().map(|decided| decided.at),
        asked: decided.as_ref().map(|decided| decided.asked),
        attended: Vec::new(),
        waits: found.waits,
        received,
        devices: Vec::new(),
    };
    let Some(decided) = decided else { return Ok(Some(explanation)) };
    for (dev, decision) in decided.devices {
        let push = decided.pushes.get(&dev).map_or(Ok(None), |row| push(conn, Row(*row)))?;
        let confirmed = decided.confirmed.contains(&dev);
        let (verdict, rule) = (decision.verdict, decision.rule);
        explanation.devices.push(ExplainedDevice { dev, verdict, rule, confirmed, push });
    }
    explanation.attended = decided.attended;
    Ok(Some(explanation))
}

/// The same within a transaction.
pub(in crate::store) fn within(tx: &Tx<'_>, user: &Owner, sid: Sid) -> rusqlite::Result<Option<PushExplanation>> {
    of_message(tx.conn, user, sid)
}

fn push(conn: &Connection, row: Row) -> rusqlite::Result<Option<ExplainedPush>> {
    let read = |row: &rusqlite::Row<'_>| {
        Ok(ExplainedPush {
            sid: sid(row, 0, 1)?.to_string(),
            transport: row.get(2)?,
            state: state(row, 3)?,
            attempt: row.get(4)?,
            code: row.get(5)?,
        })
    };
    conn.prepare_cached(PUSH)?.query_row([row], read).optional()
}

/// Every user that was heard of, by name.
pub(in crate::store::sqlite) fn users(conn: &Connection) -> rusqlite::Result<Vec<UserSummary>> {
    let read = |row: &rusqlite::Row<'_>| {
        Ok(UserSummary { user: row.get(0)?, devices: from_sql(row.get(1)?), unread: from_sql(row.get(2)?) })
    };
    conn.prepare_cached(USERS)?.query_map([], read)?.collect()
}
