//! What was unusual in the life of a delivery, as `trace` tells it: a JSON array in the delivery's row.

use super::column::sql_ms;
use super::tx::{ReadTx, Tx};
use crate::chat::delivery::{Due, Event, Fate, Life};
use crate::chat::id::Row;
use crate::chat::refusal::Refusal;
use crate::chat::status::cut_detail;
use rusqlite::params;
use serde_json::{Value, json};

/// Entries in the log of one delivery; the first ones are kept, `attempt` counts the rest.
const LOG_MAX: i64 = 32;

/// `from`: when the attempt that this entry ends was handed to a transport.
const ADD: &str = "UPDATE deliveries SET log =
    json_insert(coalesce(log, '[]'), '$[#]', json_set(json(?2), '$.from', claimed_at))
    WHERE row = ?1 AND coalesce(json_array_length(log), 0) < ?3";
/// The last entry said the same: it counts how often, and knows the last time.
const AGAIN: &str = "UPDATE deliveries SET log = json_set(log, '$[#-1].times',
    coalesce(json_extract(log, '$[#-1].times'), 1) + 1, '$[#-1].until', ?2, '$[#-1].from', claimed_at, '$[#-1].due', ?3)
    WHERE row = ?1";
const LAST_ENTRY: &str = "SELECT json_extract(log, '$[#-1]') FROM deliveries WHERE row = ?1";

/// The last entry; null if there is none.
pub(super) fn last(tx: &ReadTx<'_>, row: Row) -> rusqlite::Result<Value> {
    let last: Option<String> = tx.one(LAST_ENTRY, [row], |row| row.get(0))?.flatten();
    Ok(last.and_then(|last| serde_json::from_str(&last).ok()).unwrap_or(Value::Null))
}

/// Adds an entry. What came to no attempt may come many times over, and is one entry.
pub(super) fn add(tx: &Tx<'_>, row: Row, entry: &Value) -> rusqlite::Result<()> {
    if entry["attempt"].is_null() {
        let last = last(tx, row)?;
        if last["attempt"].is_null() && ["event", "code", "why"].iter().all(|key| last[key] == entry[key]) {
            let ms = |key: &str| entry[key].as_u64().map(sql_ms);
            return tx.execute(AGAIN, params![row, ms("at"), ms("due")]).map(drop);
        }
    }
    tx.execute(ADD, params![row, entry.to_string(), LOG_MAX]).map(drop)
}

/// What the log keeps: only what is unusual. What was an attempt has its number.
pub(super) fn entry(event: &Event, life: Life, due: Option<Due>, at: u64) -> Option<Value> {
    let attempt = life.attempt;
    let Event::Back { fate, copies, .. } = event else {
        return matches!(event, Event::Crashed).then(|| json!({"at": at, "event": "crash", "attempt": attempt}));
    };
    Some(match fate {
        Fate::Refused(Refusal { code, detail, .. }) => {
            let detail = cut_detail(detail);
            match due? {
                Due::At(due) => {
                    json!({"at": at, "event": "retry", "attempt": attempt, "code": code, "detail": detail, "due": due})
                }
                Due::InTurn | Due::First => json!({"at": at, "event": "retry", "code": code, "detail": detail}),
            }
        }
        Fate::Deferred { why, .. } => {
            let due = if let Some(Due::At(due)) = due { Some(due) } else { None };
            json!({"at": at, "event": "held", "why": why, "due": due})
        }
        Fate::Lost if *copies == 0 => json!({"at": at, "event": "lost", "copies": 0}),
        Fate::Lost => json!({"at": at, "event": "lost", "attempt": attempt, "copies": copies}),
        Fate::Accepted { canonical: Some(token), .. } => {
            json!({"at": at, "event": "canonical_id", "attempt": attempt, "token": token.to_string()})
        }
        Fate::Accepted { .. } if *copies > 1 => {
            json!({"at": at, "event": "copies", "attempt": attempt, "copies": copies})
        }
        _ => return None,
    })
}
