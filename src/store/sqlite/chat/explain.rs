//! Why a push was sent or not, for its user and for operators.

use super::push::Decided;
use super::{BY_SID, ChatRow, Kind, calls, group};
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::push_decision::{Asked, AskedDevice, Matter, PushWhen, Rule, Wish, decide};
use crate::store::sqlite::column::{from_sql, sid, state};
use crate::store::sqlite::tx::ReadTx;
use crate::store::{ExplainedDevice, ExplainedPush, PushExplanation, UserSummary};
use rusqlite::{Connection, OptionalExtension, params};

const DECIDED: &str = "SELECT decided, received FROM chat WHERE row = ?1";
const DOCUMENT: &str = "SELECT document FROM chat WHERE row = ?1";
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
        rule: None,
    };
    let Some(decided) = decided else {
        let wish = if found.kind == Kind::Offer { None } else { wish_of(conn, row)? };
        explanation.rule = Some(rule_without_tokens(&found, wish.unwrap_or_default()));
        return Ok(Some(explanation));
    };
    for (dev, decision) in decided.devices {
        let push = decided.pushes.get(&dev).map_or(Ok(None), |row| push(conn, Row(*row)))?;
        let confirmed = decided.confirmed.contains(&dev);
        let (verdict, rule) = (decision.verdict, decision.rule);
        explanation.devices.push(ExplainedDevice { dev, verdict, rule, confirmed, push });
    }
    explanation.attended = decided.attended;
    Ok(Some(explanation))
}

/// What the writer of a message wished.
fn wish_of(conn: &Connection, row: Row) -> rusqlite::Result<Option<Wish>> {
    let read = |row: &rusqlite::Row<'_>| row.get::<_, Vec<u8>>(0);
    let document = conn.prepare_cached(DOCUMENT)?.query_row([row], read).optional()?;
    let document = document.and_then(|document| serde_json::from_slice::<serde_json::Value>(&document).ok());
    Ok(document.and_then(|document| Wish::parse(document.get("push")?.as_str()?)))
}

/// The first rule that fits a device without a token. Whether the conversation was muted is not known any more.
fn rule_without_tokens(row: &ChatRow, wish: Wish) -> Rule {
    let matter = match row.kind {
        Kind::Message | Kind::Notice => Matter::Message,
        Kind::Call if row.deadline > row.at => Matter::Message,
        Kind::Reaction => Matter::Reaction,
        Kind::Invitation => Matter::Invitation,
        Kind::Offer => Matter::Call,
        // It is never pushed.
        Kind::Answer | Kind::Amendment | Kind::Call => return if row.hidden { Rule::Blocked } else { Rule::Never },
    };
    let asked = Asked { own: row.writer == row.peer, blocked: row.hidden, ..Asked::of(matter, wish) };
    let bare = AskedDevice { has_token: false, attended: false, was_told: false, is_quiet: false, has_room: true };
    decide(PushWhen::Always, asked, bare).rule
}

/// The same within a transaction.
pub(in crate::store) fn within(tx: &ReadTx<'_>, user: &Owner, sid: Sid) -> rusqlite::Result<Option<PushExplanation>> {
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
