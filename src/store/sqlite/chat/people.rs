//! Who users are to each other, and what they have set.

use super::group::tombstones::Tombstones;
use super::{group, json, json_text, owner, tell};
use crate::chat::contact::{Entry, MuteLevel, is_seen_by};
use crate::chat::erasure::is_reserved;
use crate::chat::group::not_member;
use crate::chat::id::Owner;
use crate::chat::message::{ErrorCode, PresenceState, Rejection};
use crate::chat::principal::Role;
use crate::store::sqlite::column::from_sql;
use crate::store::sqlite::erase;
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{
    CONTACTS_PAGE, Contact, ContactPage, EntryChange, Seeing, SeenPresence, SettingChange, UserSettings, VisibleTo,
};
use bytes::Bytes;
use rusqlite::params;
use rusqlite::types::ValueRef;
use serde_json::{Map, Value};

/// About how many others a user may set something. Contacts that come from what is written are bound by the limit of strangers.
const CONTACTS_MAX: i64 = 10_000;

const ENTRY: &str = "SELECT entry FROM contacts WHERE user = ?1 AND other = ?2";
const SET_ENTRY: &str = "INSERT INTO contacts (user, other, entry) VALUES (?1, ?2, ?3)
    ON CONFLICT (user, other) DO UPDATE SET entry = excluded.entry";
const DROP_ENTRY: &str = "DELETE FROM contacts WHERE user = ?1 AND other = ?2";
const SETTINGS: &str = "SELECT settings FROM users WHERE user = ?1";
const ENSURE: &str = "INSERT INTO users (user, settings, unread) VALUES (?1, '{}', 0) ON CONFLICT DO NOTHING";
const SET_SETTINGS: &str = "UPDATE users SET settings = ?2 WHERE user = ?1";
const UNREAD: &str = "SELECT unread FROM users WHERE user = ?1";
const ADD_UNREAD: &str = "UPDATE users SET unread = max(0, unread + ?2) WHERE user = ?1";
const PROFILE: &str = "SELECT profile FROM users WHERE user = ?1";
const SET_PROFILE: &str = "UPDATE users SET profile = ?2 WHERE user = ?1";
const CONTACTS: &str = "SELECT c.other, u.profile, c.entry, back.entry, u.settings, p.online, p.last_seen
    FROM contacts c LEFT JOIN users u ON u.user = c.other
    LEFT JOIN contacts back ON back.user = c.other AND back.other = c.user
    LEFT JOIN presence p ON p.user = c.other
    WHERE c.user = ?1 AND c.other > ?2 AND NOT (c.other >= 'g-' AND c.other < 'g.') ORDER BY c.other LIMIT ?3";
const COUNT: &str = "SELECT count(*) FROM contacts WHERE user = ?1";
const HIDDEN: &str = "SELECT user FROM users WHERE settings LIKE '%\"hide_presence\":true%'";
const OTHERS: &str = "SELECT c.user, c.entry, own.entry FROM contacts c
    LEFT JOIN contacts own ON own.user = c.other AND own.other = c.user WHERE c.other = ?1 ORDER BY c.user";

/// What `user` has set about `other`.
pub(in crate::store) fn entry(tx: &ReadTx<'_>, user: &Owner, other: &Owner) -> rusqlite::Result<Entry> {
    let found = tx.one(ENTRY, params![user.as_str(), other.as_str()], |row| json(row, 0))?;
    Ok(found.unwrap_or_default())
}

/// Changes it; returns whether `other` sees `user` now, if that is something new.
fn set_entry(
    tx: &Tx<'_>,
    user: &Owner,
    other: &Owner,
    change: impl FnOnce(&mut Entry),
) -> rusqlite::Result<Option<Seeing>> {
    let before = entry(tx, user, other)?;
    let mut after = before;
    change(&mut after);
    if after == before {
        return Ok(None);
    }
    if after.is_empty() {
        tx.execute(DROP_ENTRY, params![user.as_str(), other.as_str()])?;
    } else {
        tx.execute(SET_ENTRY, params![user.as_str(), other.as_str(), json_text(&after)?])?;
    }
    let [was, is] = [before, after].map(|entry| is_seen_by(Role::User, entry, false));
    if was == is || is && entry(tx, other, user)?.blocked {
        return Ok(None);
    }
    Ok(Some(Seeing { watcher: other.clone(), of: user.clone(), visible: is }))
}

/// `user` wrote to `other`, accepted or invited it: `other` is a contact.
pub(in crate::store::sqlite) fn make_contact(
    tx: &Tx<'_>,
    user: &Owner,
    other: &Owner,
) -> rusqlite::Result<Option<Seeing>> {
    set_entry(tx, user, other, |entry| entry.contact = true)
}

/// A user was heard of: it exists from now on.
///
/// Whoever was erased does not, nor does the name that stands for such a one.
pub(in crate::store) fn ensure(tx: &Tx<'_>, user: &Owner) -> rusqlite::Result<()> {
    if !is_reserved(user.as_str()) && !tx.exists(SETTINGS, [user.as_str()])? && !erase::is_taken(tx, user.as_str())? {
        tx.execute(ENSURE, [user.as_str()])?;
    }
    Ok(())
}

/// What a user has set; `None`: no such user was ever heard of.
pub(in crate::store) fn settings(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<Option<UserSettings>> {
    tx.one(SETTINGS, [user.as_str()], |row| json(row, 0))
}

/// Unread messages of the user over all conversations.
pub(in crate::store::sqlite) fn unread(
    tx: &ReadTx<'_>,
    user: &Owner,
    tombstones: &mut Tombstones,
) -> rusqlite::Result<u64> {
    let of_two = tx.one(UNREAD, [user.as_str()], |row| row.get::<_, i64>(0))?.map_or(0, from_sql);
    Ok(of_two + group::unread(tx, user, tombstones)?)
}

pub(super) fn add_unread(tx: &Tx<'_>, user: &Owner, more: i64) -> rusqlite::Result<()> {
    if more != 0 {
        tx.execute(ADD_UNREAD, params![user.as_str(), more])?;
    }
    Ok(())
}

/// The profile of a user; empty where there is none.
pub(super) fn profile(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<Map<String, Value>> {
    let text = tx.one(PROFILE, [user.as_str()], |row| row.get::<_, Option<String>>(0))?.flatten();
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// The name in it.
pub(super) fn profile_name(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<Option<String>> {
    Ok(profile(tx, user)?.get("name").and_then(Value::as_str).map(str::to_owned))
}

/// The user's profile, which is JSON, or none any more.
pub(in crate::store) fn set_profile(tx: &Tx<'_>, user: &Owner, profile: Option<&str>) -> rusqlite::Result<()> {
    ensure(tx, user)?;
    tx.execute(SET_PROFILE, params![user.as_str(), profile]).map(drop)
}

/// Changes what a user has set, and tells the user's devices with `told`.
pub(in crate::store) fn change(
    tx: &mut Tx<'_>,
    user: &Owner,
    change: &SettingChange,
    told: &Bytes,
    at: u64,
) -> rusqlite::Result<Result<Vec<Seeing>, Rejection>> {
    ensure(tx, user)?;
    if let SettingChange::About(other, set) = change {
        if other.is_group() && matches!(set, EntryChange::Mute(Some(_))) && !group::was_member(tx, other, user)? {
            return Ok(Err(not_member()));
        }
        let adds = matches!(set, EntryChange::Mute(Some(_)) | EntryChange::Block(true));
        if adds && entry(tx, user, other)?.is_empty() && has_too_many(tx, user)? {
            let detail = format!("the user has set something about {CONTACTS_MAX} others");
            return Ok(Err(Rejection::new(ErrorCode::RateLimited, detail)));
        }
    }
    let seen = match change {
        SettingChange::About(other, change) => change_entry(tx, user, other, *change, at)?,
        SettingChange::Writers(writers) => set(tx, user, |settings| settings.writers = Some(*writers))?,
        SettingChange::HideRead(on) => set(tx, user, |settings| settings.hide_read = *on)?,
        SettingChange::HidePresence(on) => set(tx, user, |settings| settings.hide_presence = *on)?,
    };
    tell(tx, user, "changes", told, at)?;
    Ok(Ok(seen))
}

fn change_entry(
    tx: &Tx<'_>,
    user: &Owner,
    other: &Owner,
    change: EntryChange,
    at: u64,
) -> rusqlite::Result<Vec<Seeing>> {
    let was_blocked = entry(tx, user, other)?.blocked;
    let seen = set_entry(tx, user, other, |entry| match change {
        EntryChange::Mute(mute) => {
            let mute = mute.filter(|(until, level)| *until > at && *level != MuteLevel::All);
            entry.muted_until = mute.map(|(until, _)| until);
            entry.but_mentions = mute.is_some_and(|(_, level)| level == MuteLevel::Mentions);
        }
        EntryChange::Block(on) => entry.blocked = on,
        EntryChange::RemoveContact => entry.contact = false,
    })?;
    let mut seen: Vec<Seeing> = seen.into_iter().collect();
    // Whoever blocks somebody sees no more of them either.
    if let EntryChange::Block(on) = change
        && on != was_blocked
        && is_seen_by(Role::User, entry(tx, other, user)?, false)
    {
        seen.push(Seeing { watcher: user.clone(), of: other.clone(), visible: !on });
    }
    Ok(seen)
}

fn set(tx: &Tx<'_>, user: &Owner, change: impl FnOnce(&mut UserSettings)) -> rusqlite::Result<Vec<Seeing>> {
    let mut all = settings(tx, user)?.unwrap_or_default();
    change(&mut all);
    tx.execute(SET_SETTINGS, params![user.as_str(), json_text(&all)?])?;
    Ok(Vec::new())
}

/// Those behind `after` about whom the user has set something, by name: at most [`CONTACTS_PAGE`]. Of who has not the user as a
/// contact nothing is shown.
pub(in crate::store) fn contacts(tx: &ReadTx<'_>, user: &Owner, after: &str) -> rusqlite::Result<ContactPage> {
    let hides = settings(tx, user)?.unwrap_or_default().hide_presence;
    let values = params![user.as_str(), after, CONTACTS_PAGE as i64 + 1];
    let mut items = tx.all(CONTACTS, values, |row| {
        let back: Entry = if row.get_ref(3)? == ValueRef::Null { Entry::default() } else { json(row, 3)? };
        let entry: Entry = json(row, 2)?;
        let sees = is_seen_by(Role::User, back, false);
        let presence = if hides || !sees || entry.blocked { None } else { seen_presence(row)? };
        let profile = row.get::<_, Option<String>>(1)?.filter(|_| sees);
        Ok(Contact { user: owner(row, 0)?, profile, entry, presence })
    })?;
    let complete = items.len() <= CONTACTS_PAGE;
    items.truncate(CONTACTS_PAGE);
    Ok(ContactPage { items, complete })
}

/// Whether the user has set something about as many others as it may.
pub(super) fn has_too_many(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<bool> {
    Ok(tx.one(COUNT, [user.as_str()], |row| row.get::<_, i64>(0))?.unwrap_or(0) >= CONTACTS_MAX)
}

/// The presence of a contact, if anything is known of it.
fn seen_presence(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<SeenPresence>> {
    let Some(online) = row.get::<_, Option<bool>>(5)? else { return Ok(None) };
    let settings: UserSettings = if row.get_ref(4)? == ValueRef::Null { Default::default() } else { json(row, 4)? };
    let hides = settings.hide_presence;
    let state = if online && !hides { PresenceState::Online } else { PresenceState::Offline };
    let last_seen = row.get::<_, Option<i64>>(6)?.map(from_sql).filter(|_| !online && !hides);
    Ok(Some(SeenPresence { state, last_seen }))
}

/// Users who want to be seen by nobody.
pub(in crate::store) fn hidden(tx: &ReadTx<'_>) -> rusqlite::Result<Vec<Owner>> {
    tx.all(HIDDEN, [], |row| owner(row, 0))
}

/// The JSON of the profile of a user, if there is one.
pub(in crate::store) fn profile_text(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<Option<String>> {
    Ok(tx.one(PROFILE, [user.as_str()], |row| row.get::<_, Option<String>>(0))?.flatten())
}

/// Whose presence and profile `user` sees: those whose contact the user is, and whom the user has not blocked.
pub(in crate::store) fn visible_to(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<VisibleTo> {
    let found = tx.all(OTHERS, [user.as_str()], |row| {
        let own: Entry = if row.get_ref(2)? == ValueRef::Null { Entry::default() } else { json(row, 2)? };
        Ok((owner(row, 0)?, is_seen_by(Role::User, json(row, 1)?, false) && !own.blocked))
    })?;
    let users = found.into_iter().filter_map(|(other, is_seen)| is_seen.then_some(other)).collect();
    let hides = settings(tx, user)?.unwrap_or_default().hide_presence;
    Ok(VisibleTo { users, presence: !hides })
}
