//! Devices of users: the tokens by which they are pushed.

use super::push::DevicePush;
use super::{Call, calls, events, json_text, notified, owner, people, push, tell};
use crate::chat::bal_event::BalEvent;
use crate::chat::id::{Owner, Recipient, Token, short_hash};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::push::Target;
use crate::chat::push_document::{Addressee, BYTES_MAX, Content};
use crate::chat::suffix::devices::{DeviceDocument, DeviceEvent, Registration, VerifyTokens};
use crate::chat::topic::Device;
use crate::store::sqlite::column::{from_sql, sql_ms};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{ChatCall, ChatOutcome, DeviceChange, KnownDevice, USER_DEVICES_MAX};
use rusqlite::params;

/// How long a proof counts, in milliseconds.
const PROOF_MS: u64 = 600_000;
/// From one proof pushed to a token to the next, in milliseconds.
const PROOF_PAUSE_MS: u64 = 60_000;
/// Proofs pushed to one token in [`DAY_MS`], at most.
const PROOFS_A_DAY: i64 = 5;
const DAY_MS: u64 = 86_400_000;

const OF_DEVICE: &str = "SELECT token, recipient FROM devices WHERE user = ?1 AND dev = ?2";
pub(in crate::store::sqlite) const OF_TOKEN: &str = "SELECT user, dev, token FROM devices WHERE recipient = ?1";
const COUNT: &str = "SELECT count(*) FROM devices WHERE user = ?1";
const INSERT: &str = "INSERT INTO devices (user, dev, recipient, token, registration, registered_at, seen_at, budget)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, '{\"single\":0}')
    ON CONFLICT (user, dev) DO UPDATE SET recipient = excluded.recipient, token = excluded.token,
        registration = excluded.registration, registered_at = excluded.registered_at, seen_at = excluded.seen_at,
        budget = excluded.budget, sync_row = NULL, error = NULL, stale = 0";
const HAS: &str = "SELECT 1 FROM devices WHERE user = ?1 AND dev = ?2 AND recipient = ?3";
const STALE: &str = "UPDATE devices SET stale = 1 WHERE user = ?1 AND dev = ?2";
const DELETE: &str = "DELETE FROM devices WHERE user = ?1 AND dev = ?2";
const FORGET_PUSHED: &str = "DELETE FROM pushed WHERE user = ?1 AND dev = ?2";
const PROVES: &str = "UPDATE proofs SET proof = NULL
    WHERE recipient = ?1 AND made_at > ?2 AND user = ?3 AND dev = ?4 AND proof = ?5";
const PROOFS: &str = "SELECT count(*), max(made_at) FROM proofs WHERE recipient = ?1 AND made_at > ?2";
const KEEP_PROOF: &str = "INSERT INTO proofs (recipient, made_at, user, dev, proof) VALUES (?1, ?2, ?3, ?4, ?5)";
pub(in crate::store::sqlite) const DROP_PROOFS: &str = "DELETE FROM proofs WHERE made_at <= ?1";
const CANONICAL: &str = "UPDATE devices SET token = ?3, recipient = ?4 WHERE user = ?1 AND dev = ?2 AND recipient = ?5";
const EXPORTED: &str =
    "SELECT dev, token, registration, registered_at, pushed_at FROM devices WHERE user = ?1 ORDER BY dev";
const KNOWN: &str = "SELECT dev, token, registered_at, pushed_at, error FROM devices WHERE user = ?1 ORDER BY dev";

/// A device that has this token.
struct Holder {
    user: Owner,
    dev: String,
}

/// Registers the token of a device, or takes it back.
pub(in crate::store) fn change(
    tx: &mut Tx<'_>,
    change: &DeviceChange,
    call: &ChatCall,
) -> rusqlite::Result<ChatOutcome> {
    let call = &mut Call::of(call);
    let DeviceChange { user, dev, .. } = change;
    let done = ChatOutcome::Done { seen: Vec::new(), stranger: false, waits: false, confirmed: Vec::new() };
    people::ensure(tx, user)?;
    let Some(registration) = &change.registration else {
        if let Some(gone) = remove(tx, user, dev.as_str(), call.at)? {
            event(tx, user, (DeviceEvent::Unregistered, dev.as_str(), &gone), None, call.at)?;
        }
        return Ok(done);
    };
    let token = &registration.token;
    let before = tx.one(OF_DEVICE, params![user.as_str(), dev.as_str()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Recipient>(1)?))
    })?;
    let is_known = before.as_ref().is_some_and(|(before, _)| before == token.reveal());
    let holders = holders(tx, token)?;
    let other = holders.iter().find(|holder| holder.user != *user);
    let takes_a_place = before.is_none() && !holders.iter().any(|holder| holder.user == *user);
    if takes_a_place && is_full(tx, user)? {
        let detail = format!("the user has {USER_DEVICES_MAX} devices");
        return Ok(ChatOutcome::Refused(Rejection::new(ErrorCode::RateLimited, detail)));
    }
    let is_to_prove = match change.verify {
        VerifyTokens::Never => false,
        VerifyTokens::Moved => other.is_some(),
        VerifyTokens::Always => !is_known,
    };
    if is_to_prove && !is_proved(tx, change, registration, call.at)? {
        return ask_for_proof(tx, change, registration, call).map(|()| done);
    }
    let hash = short_hash(token.reveal());
    let is_moved = other.is_some();
    for holder in holders {
        if holder.user != *user {
            remove(tx, &holder.user, &holder.dev, call.at)?;
            event(tx, &holder.user, (DeviceEvent::Moved, &holder.dev, &hash), None, call.at)?;
        } else if holder.dev != dev.as_str() {
            let recipient = Target::Token(token.clone()).recipient();
            notified::rename(tx, user, (&holder.dev, dev.as_str()), recipient)?;
            remove(tx, user, &holder.dev, call.at)?;
            event(tx, user, (DeviceEvent::Unregistered, &holder.dev, &hash), None, call.at)?;
        }
    }
    match &before {
        Some((_, recipient)) if !is_known => notified::readdress_all(tx, user, dev.as_str(), *recipient, token)?,
        _ => notified::device_spoke(tx, user, dev, call.at)?,
    }
    keep(tx, change, registration, call.at)?;
    let what = match (is_moved, before.is_some() && !is_known) {
        (true, _) => DeviceEvent::Moved,
        (false, true) => DeviceEvent::Replaced,
        (false, false) => DeviceEvent::Registered,
    };
    event(tx, user, (what, dev.as_str(), &hash), None, call.at)?;
    if !is_known {
        let registered = BalEvent::DeviceRegistered { user: user.as_str(), dev: dev.as_str(), token_hash: &hash };
        events::tell(tx, &registered, call)?;
    }
    Ok(done)
}

/// Whether the user has as many devices as are allowed.
fn is_full(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<bool> {
    let count = tx.one(COUNT, [user.as_str()], |row| row.get::<_, i64>(0))?.unwrap_or(0);
    Ok(count >= USER_DEVICES_MAX as i64)
}

fn keep(tx: &Tx<'_>, change: &DeviceChange, registration: &Registration, at: u64) -> rusqlite::Result<()> {
    let (user, dev, token) = (change.user.as_str(), change.dev.as_str(), &registration.token);
    let recipient = Target::Token(token.clone()).recipient();
    let values = params![user, dev, recipient, token.reveal(), json_text(&registration.form)?, sql_ms(at)];
    tx.execute(INSERT, values).map(drop)
}

fn holders(tx: &ReadTx<'_>, token: &Token) -> rusqlite::Result<Vec<Holder>> {
    let recipient = Target::Token(token.clone()).recipient();
    let found = tx.all(OF_TOKEN, [recipient], |row| {
        let holder = Holder { user: owner(row, 0)?, dev: row.get(1)? };
        Ok((row.get_ref(2)?.as_str()? == token.reveal()).then_some(holder))
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// To whom a token is registered: in whose name its device speaks.
pub(in crate::store) fn owner_of(tx: &ReadTx<'_>, token: &Token) -> rusqlite::Result<Option<(Owner, Device)>> {
    let holder = holders(tx, token)?.into_iter().next();
    Ok(holder.and_then(|holder| Some((holder.user, Device::new(holder.dev).ok()?))))
}

/// Whether `name` may say that a push to this recipient has arrived: a token that is registered is its user's.
pub(in crate::store::sqlite) fn may_confirm(
    tx: &ReadTx<'_>,
    recipient: Recipient,
    name: &Owner,
) -> rusqlite::Result<bool> {
    let users = tx.all(OF_TOKEN, [recipient], |row| row.get::<_, String>(0))?;
    Ok(users.is_empty() || users.iter().any(|user| user == name.as_str()))
}

/// Whether the registration repeats the word that was pushed to its token. A word counts once.
fn is_proved(tx: &Tx<'_>, change: &DeviceChange, registration: &Registration, at: u64) -> rusqlite::Result<bool> {
    let Some(proof) = &registration.proof else { return Ok(false) };
    let recipient = Target::Token(registration.token.clone()).recipient();
    let since = sql_ms(at.saturating_sub(PROOF_MS));
    Ok(tx.execute(PROVES, params![recipient, since, change.user.as_str(), change.dev.as_str(), proof])? > 0)
}

/// Pushes a word to the token: whoever has it repeats the registration with that word.
fn ask_for_proof(
    tx: &mut Tx<'_>,
    change: &DeviceChange,
    registration: &Registration,
    call: &mut Call<'_>,
) -> rusqlite::Result<()> {
    let (user, dev, token) = (&change.user, change.dev.as_str(), &registration.token);
    let recipient = Target::Token(token.clone()).recipient();
    let yesterday = sql_ms(call.at.saturating_sub(DAY_MS));
    tx.execute(DROP_PROOFS, [yesterday])?;
    let (pushed, last) = tx
        .one(PROOFS, params![recipient, yesterday], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?.map_or(0, from_sql)))
        })?
        .unwrap_or_default();
    let to = Addressee {
        account: user,
        token,
        platform: registration.form.platform,
        format: registration.form.format,
        lang: None,
        unread: 0,
        badge: registration.form.badge,
    };
    let is_soon = pushed > 0 && call.at < last.saturating_add(PROOF_PAUSE_MS);
    let (app, content) = (registration.form.app.as_deref(), Content::Verify { proof: &change.proof });
    let has_room = !tx.queue_is_full(1, BYTES_MAX as u64);
    let is_asked = pushed < PROOFS_A_DAY && !is_soon && has_room && push::queue_proof(tx, &to, &content, app, call)?;
    if is_asked {
        tx.execute(KEEP_PROOF, params![recipient, sql_ms(call.at), user.as_str(), dev, change.proof])?;
    }
    let code = (!is_asked).then(|| ErrorCode::RateLimited.to_string());
    let hash = short_hash(token.reveal());
    event(tx, user, (DeviceEvent::VerifySent, dev, &hash), code.as_deref(), call.at)
}

/// Takes a registration out; returns the hash of its token if there was one.
fn remove(tx: &mut Tx<'_>, user: &Owner, dev: &str, at: u64) -> rusqlite::Result<Option<String>> {
    let known = tx.one(OF_DEVICE, params![user.as_str(), dev], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Recipient>(1)?))
    })?;
    let Some((token, recipient)) = known else { return Ok(None) };
    tx.execute(DELETE, params![user.as_str(), dev])?;
    tx.execute(FORGET_PUSHED, params![user.as_str(), dev])?;
    calls::ringing::forget_device(tx, user, dev)?;
    notified::withdraw_all(tx, user, dev, recipient, at)?;
    Ok(Some(short_hash(&token)))
}

/// The devices of a user that have a token, with it.
pub(in crate::store::sqlite) fn tokens_of(tx: &ReadTx<'_>, user: &str) -> rusqlite::Result<Vec<(String, String)>> {
    tx.all(KNOWN, [user], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// The devices of a user, for that one: all but their tokens.
pub(super) fn exported(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<Vec<serde_json::Value>> {
    tx.all(EXPORTED, [user.as_str()], |row| {
        let token: String = row.get(1)?;
        Ok(serde_json::json!({
            "kind": "device",
            "dev": row.get::<_, String>(0)?,
            "token_hash": short_hash(&token),
            "registration": super::json::<serde_json::Value>(row, 2)?,
            "registered_at": from_sql(row.get(3)?),
            "last_push": row.get::<_, Option<i64>>(4)?.map(from_sql),
        }))
    })
}

/// Takes a registration out, and tells nobody: its user is erased.
pub(in crate::store::sqlite) fn erase(tx: &mut Tx<'_>, user: &str, dev: &str, at: u64) -> rusqlite::Result<()> {
    let Ok(user) = Owner::new(user) else { return Ok(()) };
    remove(tx, &user, dev, at).map(drop)
}

/// The push service says that a token is gone: (whose, when the push was made, why).
pub(super) fn remove_refused(
    tx: &mut Tx<'_>,
    user: &Owner,
    dev: &str,
    (recipient, made_at, code): (Recipient, u64, &str),
    at: u64,
) -> rusqlite::Result<()> {
    const IS_OLDER: &str =
        "SELECT 1 FROM devices WHERE user = ?1 AND dev = ?2 AND recipient = ?3 AND registered_at <= ?4";
    if tx.exists(IS_OLDER, params![user.as_str(), dev, recipient, sql_ms(made_at)])?
        && let Some(hash) = remove(tx, user, dev, at)?
    {
        event(tx, user, (DeviceEvent::Unregistered, dev, &hash), Some(code), at)?;
    }
    Ok(())
}

/// The push service has another token for the device: (whose the one before was, the new one).
pub(super) fn canonical(
    tx: &mut Tx<'_>,
    push: &DevicePush,
    (before, token): (Recipient, &str),
    at: u64,
) -> rusqlite::Result<()> {
    let (Ok(user), Ok(token)) = (Owner::new(push.user.as_str()), Token::new(token)) else { return Ok(()) };
    let dev = push.dev.as_str();
    let recipient = Target::Token(token.clone()).recipient();
    if recipient == before {
        return Ok(());
    }
    let is_own = |holder: &Holder| holder.user == user && holder.dev == dev;
    if holders(tx, &token)?.iter().any(|holder| !is_own(holder)) {
        // Its device has registered it under another name by now.
        if tx.exists(HAS, params![user.as_str(), dev, before])?
            && let Some(hash) = remove(tx, &user, dev, at)?
        {
            event(tx, &user, (DeviceEvent::Unregistered, dev, &hash), None, at)?;
        }
        return Ok(());
    }
    if tx.execute(CANONICAL, params![user.as_str(), dev, token.reveal(), recipient, before])? > 0 {
        notified::readdress_all(tx, &user, dev, before, &token)?;
        event(tx, &user, (DeviceEvent::Replaced, dev, &short_hash(token.reveal())), None, at)?;
    }
    Ok(())
}

/// The token of a device, and the recipient that it stands for.
pub(super) fn token_of(tx: &ReadTx<'_>, user: &Owner, dev: &str) -> rusqlite::Result<Option<(Token, Recipient)>> {
    let found = tx.one(OF_DEVICE, params![user.as_str(), dev], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, Recipient>(1)?))
    })?;
    Ok(found.and_then(|(token, recipient)| Some((Token::new(token).ok()?, recipient))))
}

/// The device was silent for too long: it is not pushed any more.
pub(super) fn remove_silent(tx: &mut Tx<'_>, user: &Owner, dev: &str, at: u64) -> rusqlite::Result<()> {
    match remove(tx, user, dev, at)? {
        Some(hash) => event(tx, user, (DeviceEvent::Unregistered, dev, &hash), None, at),
        None => Ok(()),
    }
}

/// The device is silent for long. Its user is told once.
pub(super) fn tell_stale(tx: &mut Tx<'_>, user: &Owner, dev: &str, at: u64) -> rusqlite::Result<()> {
    tx.execute(STALE, params![user.as_str(), dev])?;
    match token_hash(tx, user, dev)? {
        Some(hash) => event(tx, user, (DeviceEvent::Stale, dev, &hash), None, at),
        None => Ok(()),
    }
}

/// A short hash of the token of a device.
pub(super) fn token_hash(tx: &ReadTx<'_>, user: &Owner, dev: &str) -> rusqlite::Result<Option<String>> {
    let token = tx.one(OF_DEVICE, params![user.as_str(), dev], |row| row.get::<_, String>(0))?;
    Ok(token.map(|token| short_hash(&token)))
}

fn event(
    tx: &mut Tx<'_>,
    user: &Owner,
    (event, dev, token_hash): (DeviceEvent, &str, &str),
    code: Option<&str>,
    at: u64,
) -> rusqlite::Result<()> {
    let document = DeviceDocument { event, dev, token_hash, code, ts: at };
    tell(tx, user, "devices", &document.to_payload(), at)
}

/// The devices of a user that have registered a token, by name.
pub(in crate::store) fn known(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<Vec<KnownDevice>> {
    let found = tx.all(KNOWN, [user.as_str()], |row| {
        let dev = Device::new(row.get::<_, String>(0)?).ok();
        let (token, error): (String, Option<String>) = (row.get(1)?, row.get(4)?);
        let (registered_at, pushed_at) = (from_sql(row.get(2)?), row.get::<_, Option<i64>>(3)?.map(from_sql));
        let known = |dev| KnownDevice { dev, token_hash: short_hash(&token), registered_at, pushed_at, error };
        Ok(dev.map(known))
    })?;
    Ok(found.into_iter().flatten().collect())
}
