//! Everything that is kept of a user, for the user: in pages, in an order of its own.

use super::{device, group, json, load, people, scheduled, sync};
use crate::chat::contact::Entry;
use crate::chat::id::{Owner, Sid};
use crate::store::sqlite::column::from_sql;
use crate::store::sqlite::tx::ReadTx;
use crate::store::{EXPORT_PAGE, ExportPage, ScheduledMessage};
use rusqlite::params;
use serde_json::{Value, json as object};

pub(in crate::store::sqlite) const CONTACTS: &str =
    "SELECT other, entry FROM contacts WHERE user = ?1 AND other > ?2 ORDER BY other LIMIT ?3";
pub(in crate::store::sqlite) const TALKS_FIRST: &str =
    "SELECT second FROM conversations WHERE first = ?1 AND second > ?2 ORDER BY second LIMIT ?3";
pub(in crate::store::sqlite) const TALKS_SECOND: &str =
    "SELECT first FROM conversations WHERE second = ?1 AND first > ?2 ORDER BY first LIMIT ?3";
const PRESENCE: &str = "SELECT online, changed_at, last_seen FROM presence WHERE user = ?1";

/// The parts, in their order; what else comes to be kept of a user has one here.
const PARTS: [&str; 6] = ["user", "contacts", "conversations", "groups", "scheduled", "messages"];

/// The page behind `after`, which is '' or the `next` of the page before; `None`: it is neither.
pub(in crate::store) fn page(tx: &ReadTx<'_>, user: &Owner, after: &str) -> rusqlite::Result<Option<ExportPage>> {
    let (part, key) = after.split_once(' ').unwrap_or((if after.is_empty() { PARTS[0] } else { after }, ""));
    let (items, last) = match part {
        "user" => (of_user(tx, user)?, None),
        "contacts" => contacts(tx, user, key)?,
        "conversations" => conversations(tx, user, key)?,
        "groups" => paged(group::exported(tx, user, key)?),
        "scheduled" => match of_later(tx, user, key)? {
            Some(page) => page,
            None => return Ok(None),
        },
        "messages" => return messages(tx, user, key),
        _ => return Ok(None),
    };
    let next = match last {
        Some(last) => format!("{part} {last}"),
        None => PARTS.iter().skip_while(|one| **one != part).nth(1).copied().unwrap_or_default().to_owned(),
    };
    Ok(Some(ExportPage { items, next: Some(next) }))
}

fn of_user(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<Vec<Value>> {
    let settings = people::settings(tx, user)?;
    let mut items = vec![object!({ "kind": "settings", "user": user.as_str(), "settings": settings })];
    let profile = people::profile(tx, user)?;
    if !profile.is_empty() {
        items.push(object!({ "kind": "profile", "profile": profile }));
    }
    let presence = tx.one(PRESENCE, [user.as_str()], |row| {
        let last_seen = row.get::<_, Option<i64>>(2)?.map(from_sql);
        Ok(object!({ "kind": "presence", "online": row.get::<_, bool>(0)?, "ts": from_sql(row.get(1)?), "last_seen": last_seen }))
    })?;
    items.extend(presence);
    items.extend(device::exported(tx, user)?);
    Ok(items)
}

/// A page, and the last name on it if there may be more.
fn paged(names: Vec<(String, Value)>) -> (Vec<Value>, Option<String>) {
    let last = names.last().filter(|_| names.len() == EXPORT_PAGE).map(|(name, _)| name.clone());
    (names.into_iter().map(|(_, item)| item).collect(), last)
}

fn contacts(tx: &ReadTx<'_>, user: &Owner, after: &str) -> rusqlite::Result<(Vec<Value>, Option<String>)> {
    let found = tx.all(CONTACTS, params![user.as_str(), after, EXPORT_PAGE as i64], |row| {
        let (name, entry): (String, Entry) = (row.get(0)?, json(row, 1)?);
        let item = object!({ "kind": "contact", "user": name, "entry": entry });
        Ok((name, item))
    })?;
    Ok(paged(found))
}

fn conversations(tx: &ReadTx<'_>, user: &Owner, after: &str) -> rusqlite::Result<(Vec<Value>, Option<String>)> {
    let values = params![user.as_str(), after, EXPORT_PAGE as i64];
    let mut names: Vec<String> = tx.all(TALKS_FIRST, values, |row| row.get(0))?;
    names.extend(tx.all(TALKS_SECOND, values, |row| row.get::<_, String>(0))?);
    names.sort_unstable();
    names.dedup();
    names.truncate(EXPORT_PAGE);
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let Ok(other) = Owner::new(name.as_str()) else { continue };
        let (conversation, side) = load(tx, user, &other)?;
        let (own, peer) = (conversation.of(side), conversation.of(side.other()));
        // Of the other side only what the user was told.
        let item = object!({
            "kind": "conversation", "with": name, "count": own.count, "unread": own.unread,
            "received": own.received.map(|sid| sid.to_string()), "read": own.read.map(|sid| sid.to_string()),
            "peer_received": peer.told_delivered.map(|sid| sid.to_string()),
            "peer_read": peer.told_read.map(|sid| sid.to_string()),
        });
        found.push((name, item));
    }
    Ok(paged(found))
}

/// What waits for its time.
fn of_later(tx: &ReadTx<'_>, user: &Owner, after: &str) -> rusqlite::Result<Option<(Vec<Value>, Option<String>)>> {
    let since = Sid::parse(after);
    if since.is_none() && !after.is_empty() {
        return Ok(None);
    }
    let page = scheduled::of_writer(tx, user, since)?;
    let item = |waiting: &ScheduledMessage| {
        let message: Value = serde_json::from_slice(&waiting.document).unwrap_or_default();
        object!({ "kind": "scheduled", "id": waiting.id.as_str(), "not_before": waiting.not_before, "message": message })
    };
    let last = page.items.last().filter(|_| !page.complete).map(|last| last.sid.to_string());
    Ok(Some((page.items.iter().map(item).collect(), last)))
}

fn messages(tx: &ReadTx<'_>, user: &Owner, after: &str) -> rusqlite::Result<Option<ExportPage>> {
    let since = if after.is_empty() { Sid::parse("0000000000000000") } else { Sid::parse(after) };
    let Some(since) = since else { return Ok(None) };
    let page = sync::sync(tx, user, Some(since))?;
    let item = |document: &bytes::Bytes| {
        let document: Value = serde_json::from_slice(document).unwrap_or_default();
        object!({ "kind": "message", "message": document })
    };
    let items = page.items.iter().map(item).collect();
    let next = page.next.filter(|_| !page.complete).map(|last| format!("messages {last}"));
    Ok(Some(ExportPage { items, next }))
}
