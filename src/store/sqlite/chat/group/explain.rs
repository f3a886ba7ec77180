//! Why members of a group were pushed or not.

use super::push::{CONFIRMED, decided_of};
use crate::chat::id::{Owner, Sid};
use crate::chat::push_decision::{Asked, Rule, Verdict};
use crate::store::sqlite::chat::push::push_id;
use crate::store::sqlite::chat::{ChatRow, unpushed};
use crate::store::sqlite::column::state;
use crate::store::{ExplainedDevice, ExplainedPush, PushExplanation};
use rusqlite::{Connection, OptionalExtension, params};

/// Why the devices of a member, as they are now, were pushed for a message to the group, or were not.
pub(in crate::store::sqlite::chat) fn of_member(
    conn: &Connection,
    user: &Owner,
    row: &ChatRow,
) -> rusqlite::Result<PushExplanation> {
    const DEVICES: &str = "SELECT dev FROM devices WHERE user = ?1 ORDER BY dev";
    let decided = decided_of(conn, row.sid.row())?;
    let of_room = unpushed::waits_for(conn, row, user)?;
    let of_clock = row.waits && decided.as_ref().is_some_and(|decided| decided.waits(user));
    let confirmed = conn
        .prepare_cached(CONFIRMED)?
        .query_map(params![user.as_str(), row.peer.as_str(), row.sid.row()], |row| row.get(0))?
        .collect::<Result<Vec<String>, _>>()?;
    let mut devices = Vec::new();
    let names = conn
        .prepare_cached(DEVICES)?
        .query_map([user.as_str()], |row| row.get::<_, String>(0))?
        .collect::<Result<Vec<_>, _>>()?;
    for dev in names {
        let push = pushed(conn, user, row.sid, &dev)?;
        let rule = decided.as_ref().map_or(Rule::Unattended, |decided| decided.rule_of(user, &dev));
        let confirmed = confirmed.contains(&dev);
        let waits = match rule {
            Rule::NoRoom => of_room,
            Rule::Attended => of_clock && !confirmed,
            // Where there was no id for it.
            Rule::Unattended | Rule::Always | Rule::Quiet => of_clock,
            _ => false,
        };
        let verdict = match (&push, waits) {
            (Some(_), _) => Verdict::Push,
            (None, true) => Verdict::Wait,
            (None, false) => Verdict::None,
        };
        devices.push(ExplainedDevice { dev, verdict, rule, confirmed, push });
    }
    let is_by = |rule| devices.iter().any(|device| device.rule == rule);
    Ok(PushExplanation {
        sid: row.sid.to_string(),
        from: row.writer.as_str().to_owned(),
        ts: row.at,
        decided_at: decided.as_ref().map(|decided| decided.at),
        asked: decided.map(|decided| Asked {
            matter: decided.matter,
            wish: decided.wish,
            own: false,
            blocked: is_by(Rule::Blocked),
            muted: is_by(Rule::Muted),
            mentions_only: false,
            mentioned: false,
            attended: is_by(Rule::Attended),
        }),
        attended: Vec::new(),
        waits: devices.iter().any(|device| device.verdict == Verdict::Wait),
        received: false,
        devices,
        rule: None,
    })
}

/// What became of the push of a message to a device.
fn pushed(conn: &Connection, user: &Owner, sid: Sid, dev: &str) -> rusqlite::Result<Option<ExplainedPush>> {
    const PUSH: &str = "SELECT row, tail, way, state, attempt, code FROM deliveries WHERE id = ?1 AND bal = ?2";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(ExplainedPush {
            sid: crate::store::sqlite::column::sid(row, 0, 1)?.to_string(),
            transport: row.get(2)?,
            state: state(row, 3)?,
            attempt: row.get(4)?,
            code: row.get(5)?,
        })
    };
    conn.prepare_cached(PUSH)?.query_row(params![push_id(sid, dev), user.as_str()], read).optional()
}
