//! Which devices were pushed for which messages: pushes that are taken back, notifications that are cleared, and what the push
//! services say.

use super::calls::ringing;
use super::message::document_of;
use super::position::BY_ROW;
use super::push::{DevicePush, MARK, News, TTL_MS, queue, registered, replace_body, stop_waiting};
use super::{Call, ChatRow, device, group, json_text, tell};
use crate::chat::delivery::{Event, State};
use crate::chat::id::{Owner, Recipient, Row, Sid, Token};
use crate::chat::push::{Push, Target};
use crate::chat::push_decision::PushWhen;
use crate::chat::push_document::{Content, with_text};
use crate::chat::status::TokenAction;
use crate::chat::suffix::devices::{DeviceDocument, DeviceEvent};
use crate::chat::topic::Device;
use crate::store::ChatCall;
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::delivery::Delivery;
use crate::store::sqlite::tx::{ReadTx, Tx};
use rusqlite::params;
use serde_json::Value;
use std::collections::BTreeSet;

/// The push of an absence was not sent: the next message has one.
const NOT_TOLD: &str = "UPDATE devices SET budget = json_remove(budget, '$.told')
    WHERE user = ?1 AND dev = ?2 AND json_extract(budget, '$.told') = ?3";
const PUSHED_AT: &str = "UPDATE devices SET pushed_at = ?3, error = NULL WHERE user = ?1 AND dev = ?2";
const ERROR: &str = "UPDATE devices SET error = ?3 WHERE user = ?1 AND dev = ?2 AND recipient = ?4";
const SPOKE: &str = "UPDATE devices SET seen_at = ?3, stale = 0, budget = '{\"single\":0}', sync_row = NULL
    WHERE user = ?1 AND dev = ?2 AND (seen_at < ?3 - ?4 OR budget <> '{\"single\":0}')";
const SYNC_ROW: &str = "SELECT sync_row FROM devices WHERE user = ?1 AND dev = ?2 AND sync_row IS NOT NULL";
/// Not what a push service put off.
const GO_NOW: &str = "UPDATE deliveries SET due_at = 0 WHERE row = ?1 AND state = 0 AND due_at > 0 AND attempt = 0";
const NOTE: &str = "INSERT INTO pushed (user, peer, row, dev, delivery) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (user, peer, row, dev) DO UPDATE SET delivery = excluded.delivery";
/// Of what may be taken back no more, the oldest and the newest [`SHOWN_MAX`] stay: a user who never reads, or a phone that is
/// away for long, must not make each read longer.
const THIN_OUT: &str = "DELETE FROM pushed WHERE user = ?1 AND peer = ?2 AND dev = ?3 AND delivery IS NULL
    AND row > (SELECT min(row) FROM pushed WHERE user = ?1 AND peer = ?2 AND dev = ?3 AND delivery IS NULL)
    AND row < (SELECT row FROM pushed WHERE user = ?1 AND peer = ?2 AND dev = ?3 AND delivery IS NULL
        ORDER BY row DESC LIMIT 1 OFFSET ?4)";
const SHOWN_MAX: u32 = 50;
const SENT: &str =
    "UPDATE pushed SET delivery = NULL WHERE user = ?1 AND peer = ?2 AND dev = ?3 AND row = ?4 AND delivery = ?5";
const UNNOTE: &str = "DELETE FROM pushed WHERE user = ?1 AND peer = ?2 AND row = ?3 AND dev = ?4 AND delivery = ?5";
const UNNOTE_DEVICE: &str = "DELETE FROM pushed WHERE user = ?1 AND peer = ?2 AND row <= ?3 AND row >= ?4 AND dev = ?5";
pub(in crate::store::sqlite) const NOTED: &str =
    "SELECT dev, delivery FROM pushed WHERE user = ?1 AND peer = ?2 AND row <= ?3 AND row >= ?4";
pub(in crate::store::sqlite) const OF_DEVICE: &str = "SELECT row FROM deliveries INDEXED BY deliveries_chat
    WHERE recipient = ?1 AND chat IS NOT NULL AND final_at IS NULL";
const BODY: &str = "SELECT body FROM deliveries WHERE row = ?1 AND state = 0";
const READDRESS: &str = "UPDATE deliveries SET recipient = ?2, due_at = 0 WHERE row = ?1 AND state = 0";
/// How old `seen_at` of a device may be, in milliseconds: it is written no more often.
const SEEN_STEP_MS: u64 = 3_600_000;

/// What a user has seen of a conversation.
pub(in crate::store::sqlite) struct Seen<'a> {
    pub(in crate::store::sqlite) user: &'a Owner,
    pub(in crate::store::sqlite) peer: &'a Owner,
    pub(in crate::store::sqlite) sid: Sid,
    /// Everything up to it as well.
    pub(in crate::store::sqlite) up_to: bool,
}

impl Seen<'_> {
    /// The first row that was seen.
    pub(super) fn first(&self) -> Row {
        if self.up_to { Row(0) } else { self.sid.row() }
    }

    fn noted(&self, tx: &ReadTx<'_>) -> rusqlite::Result<Vec<(String, Option<Row>)>> {
        let values = params![self.user.as_str(), self.peer.as_str(), self.sid.row(), self.first()];
        tx.all(NOTED, values, |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// The device shows nothing of it any more.
    fn forget(&self, tx: &Tx<'_>, dev: &str) -> rusqlite::Result<()> {
        let values = params![self.user.as_str(), self.peer.as_str(), self.sid.row(), self.first(), dev];
        tx.execute(UNNOTE_DEVICE, values).map(drop)
    }
}

/// A device of a user that was pushed for messages of `peer`.
pub(super) struct Pushed<'a> {
    pub(super) user: &'a str,
    pub(super) peer: &'a str,
    pub(super) dev: &'a str,
}

impl Pushed<'_> {
    /// For this message, by a push that may be taken back, or by one that may not.
    pub(super) fn note(&self, tx: &Tx<'_>, message: Row, delivery: Option<Row>) -> rusqlite::Result<()> {
        let Self { user, peer, dev } = self;
        tx.execute(NOTE, params![user, peer, message, dev, delivery])?;
        if delivery.is_none() {
            tx.execute(THIN_OUT, params![user, peer, dev, SHOWN_MAX])?;
        }
        Ok(())
    }

    /// The push went.
    fn sent(&self, tx: &Tx<'_>, message: Row, delivery: Row) -> rusqlite::Result<()> {
        let Self { user, peer, dev } = self;
        if tx.execute(SENT, params![user, peer, dev, message, delivery])? > 0 {
            tx.execute(THIN_OUT, params![user, peer, dev, SHOWN_MAX])?;
        }
        Ok(())
    }
}

/// An attended device has the message.
pub(in crate::store) fn attended(
    tx: &mut Tx<'_>,
    user: &Owner,
    dev: &Device,
    sid: Sid,
    call: &ChatCall,
) -> rusqlite::Result<()> {
    match ChatRow::by_sid(tx, sid)? {
        Some(row) if row.went_to(tx, user)? => {
            withdraw(tx, &Seen { user, peer: row.other(user), sid, up_to: false }, dev, &Call::of(call))?;
        }
        Some(_) => return Ok(()),
        None => ringing::attended(tx, user, dev, sid, &Call::of(call))?,
    }
    device_spoke(tx, user, dev, call.at)
}

/// The device confirmed something, or connected: single pushes again. A `sync` that waits for its time goes now: it may stand
/// for messages of which the device knows nothing, and those that come later do not wait behind it.
pub(in crate::store) fn device_spoke(tx: &mut Tx<'_>, user: &Owner, dev: &Device, at: u64) -> rusqlite::Result<()> {
    let sync = tx.one(SYNC_ROW, params![user.as_str(), dev.as_str()], |row| row.get::<_, Row>(0))?;
    if let Some(row) = sync {
        go_now(tx, row)?;
    }
    tx.execute(SPOKE, params![user.as_str(), dev.as_str(), sql_ms(at), sql_ms(SEEN_STEP_MS)]).map(drop)
}

/// A `sync` that waits for its time goes now.
pub(super) fn go_now(tx: &mut Tx<'_>, sync: Row) -> rusqlite::Result<()> {
    if tx.execute(GO_NOW, [sync])? > 0 {
        tx.now_due();
    }
    Ok(())
}

/// Takes back the pushes that nobody needs any more, because the attended device `dev` has the message: those that still wait
/// to be sent, or to be decided.
pub(super) fn withdraw(tx: &mut Tx<'_>, seen: &Seen<'_>, dev: &Device, call: &Call<'_>) -> rusqlite::Result<()> {
    let own_only = call.policy.push_when == PushWhen::PerDevice;
    for (pushed, delivery) in seen.noted(tx)? {
        if let Some(delivery) = delivery.filter(|_| !own_only || dev.as_str() == pushed) {
            cancel(tx, delivery, call.at)?;
        }
    }
    if seen.peer.is_group() {
        return group::push::confirmed(tx, seen, dev, call);
    }
    stop_waiting(tx, seen, own_only.then_some(dev))
}

/// Takes the push of a message back unless it was sent; one that stands for several messages stays.
pub(super) fn cancel(tx: &mut Tx<'_>, delivery: Row, at: u64) -> rusqlite::Result<bool> {
    match Delivery::by_row(tx, delivery)?.filter(|delivery| delivery.chat().is_some_and(|push| push.about.is_some())) {
        Some(delivery) => take_back(tx, delivery, at),
        None => Ok(false),
    }
}

/// Takes a push back; one that is in flight goes on, but is not sent again. Whether it is sure that no device has it: of one that
/// was on its way when the bridge was killed or the connection ended, nobody knows.
fn take_back(tx: &mut Tx<'_>, mut delivery: Delivery, at: u64) -> rusqlite::Result<bool> {
    let may_have_arrived = delivery.life.dup_possible;
    if delivery.apply(tx, &Event::Cancelled, at)?.is_some() {
        return Ok(!may_have_arrived);
    }
    if delivery.life.state == State::InFlight {
        withdraw_in_flight(tx, &delivery)?;
    }
    Ok(false)
}

/// A push that is in flight is not sent again, whatever its service answers.
pub(in crate::store::sqlite) fn withdraw_in_flight(tx: &Tx<'_>, delivery: &Delivery) -> rusqlite::Result<()> {
    let Some(push) = delivery.chat() else { return Ok(()) };
    let mark = json_text(&DevicePush { withdrawn: true, ..push.clone() })?;
    tx.execute(MARK, params![delivery.request.sid.row(), mark]).map(drop)
}

/// The notifications of what was read go away: pushes that wait are taken back, and devices that were pushed get a `clear`,
/// but for the one that read and those that have a connection.
pub(in crate::store::sqlite) fn clear(
    tx: &mut Tx<'_>,
    seen: &Seen<'_>,
    by: Option<&Device>,
    connected: &[Device],
    call: &mut Call<'_>,
) -> rusqlite::Result<()> {
    if seen.peer.is_group() {
        group::push::stop_waiting(tx, seen)?;
    } else {
        stop_waiting(tx, seen, None)?;
    }
    let mut shown = BTreeSet::new();
    for (dev, delivery) in seen.noted(tx)? {
        let is_taken_back = match delivery {
            Some(delivery) => cancel(tx, delivery, call.at)?,
            None => false,
        };
        if !is_taken_back {
            shown.insert(dev);
        }
    }
    let sees_itself = |dev: &Device| by == Some(dev) || connected.contains(dev);
    let devices = if shown.is_empty() { Vec::new() } else { registered(tx, seen.user)? };
    for mut device in devices {
        if !shown.contains(device.dev.as_str()) || sees_itself(&device.dev) {
            continue;
        }
        let content = Content::Clear { with: seen.peer, sid: seen.sid, only: !seen.up_to };
        let news = News { user: seen.user, content, deadline: call.at + TTL_MS, about: None };
        device.budget.handle_cleared();
        if queue(tx, &news, &mut device, call)?.is_none() {
            // It is cleared by the next read.
            shown.remove(device.dev.as_str());
        }
    }
    shown.iter().try_for_each(|dev| seen.forget(tx, dev))
}

/// The message was edited: pushes that wait get its text. One that is in flight gets it if it has to be sent again.
pub(super) fn retext(tx: &mut Tx<'_>, seen: &Seen<'_>, text: &str) -> rusqlite::Result<()> {
    for (_, delivery) in seen.noted(tx)? {
        let Some(delivery) = delivery.map_or(Ok(None), |row| Delivery::by_row(tx, row))? else { continue };
        let row = delivery.request.sid.row();
        match (delivery.life.state, delivery.chat()) {
            (State::Due, Some(push)) if push.about.is_some() => set_text(tx, row, text)?,
            (State::InFlight, Some(push)) => {
                tx.execute(MARK, params![row, json_text(&DevicePush { edited: true, ..push.clone() })?])?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn set_text(tx: &mut Tx<'_>, row: Row, text: &str) -> rusqlite::Result<()> {
    let Some(body) = tx.one(BODY, [row], |row| row.get::<_, Vec<u8>>(0))? else { return Ok(()) };
    let Ok(push) = Push::from_body(&body) else { return Ok(()) };
    replace_body(tx, row, &with_text(push, text).to_body()).map(drop)
}

/// A push whose message was edited while it was in flight waits again.
fn catch_up(tx: &mut Tx<'_>, push: &DevicePush, row: Row) -> rusqlite::Result<()> {
    let Some((message, _)) = push.about.as_ref().filter(|_| push.edited) else { return Ok(()) };
    let Some(message) = tx.one(BY_ROW, [message], ChatRow::read)? else { return Ok(()) };
    let document: Value = serde_json::from_slice(&document_of(tx, &message, &message.peer)?).unwrap_or_default();
    set_text(tx, row, document["body"].as_str().unwrap_or_default())
}

/// A push of these has moved.
pub(in crate::store::sqlite) fn moved(
    tx: &mut Tx<'_>,
    push: &DevicePush,
    delivery: &Delivery,
    at: u64,
) -> rusqlite::Result<()> {
    let (user, dev, row) = (push.user.as_str(), push.dev.as_str(), delivery.request.sid.row());
    match delivery.life.state {
        State::Sent => {
            tx.execute(PUSHED_AT, params![user, dev, sql_ms(at)])?;
            match &push.about {
                Some((offer, _)) if push.rings => ringing::sent(tx, Row(*offer), dev, row)?,
                Some((message, peer)) => Pushed { user, peer, dev }.sent(tx, Row(*message), row)?,
                None => {}
            }
            if let Some(token) = delivery.new_token() {
                device::canonical(tx, push, (delivery.recipient(), token), at)?;
            }
        }
        State::Failed | State::Expired | State::Cancelled => {
            // What may have arrived all the same is cleared like what was sent.
            let may_have_arrived = delivery.life.dup_possible;
            match &push.about {
                Some((offer, _)) if push.rings && may_have_arrived => ringing::sent(tx, Row(*offer), dev, row)?,
                Some((offer, _)) if push.rings => ringing::unnote(tx, Row(*offer), dev, row)?,
                Some((message, peer)) => {
                    if may_have_arrived {
                        Pushed { user, peer, dev }.sent(tx, Row(*message), row)?;
                    } else {
                        tx.execute(UNNOTE, params![user, peer, message, dev, row])?;
                    }
                    tx.execute(NOT_TOLD, params![user, dev, row])?;
                }
                None => {}
            }
            if delivery.life.state == State::Failed {
                failed(tx, push, delivery, at)?;
            }
        }
        State::Due if push.withdrawn => {
            if let Some(mut again) = Delivery::by_row(tx, row)? {
                again.apply(tx, &Event::Cancelled, at)?;
            }
        }
        // The device may have another token by now, or none.
        State::Due => {
            catch_up(tx, push, row)?;
            let Ok(user) = Owner::new(user) else { return Ok(()) };
            match device::token_of(tx, &user, dev)? {
                Some((token, recipient)) if recipient != delivery.recipient() => readdress(tx, row, &token)?,
                Some(_) => {}
                // What asks for a proof belongs to no device yet.
                None if dev.is_empty() => {}
                None => {
                    if let Some(mut again) = Delivery::by_row(tx, row)? {
                        again.apply(tx, &Event::Cancelled, at)?;
                    }
                }
            }
        }
        State::Waiting | State::InFlight | State::Delivered => {}
    }
    Ok(())
}

/// A token that is gone goes, unless it was registered again after the push was made. Any other refusal is noted.
fn failed(tx: &mut Tx<'_>, push: &DevicePush, delivery: &Delivery, at: u64) -> rusqlite::Result<()> {
    let code = delivery.code.as_deref().unwrap_or_default();
    let Ok(user) = Owner::new(push.user.as_str()) else { return Ok(()) };
    if delivery.token_action() == Some(TokenAction::Remove) {
        let made_at = delivery.request.accepted_at;
        return device::remove_refused(tx, &user, &push.dev, (delivery.recipient(), made_at, code), at);
    }
    let error = serde_json::json!({ "code": code, "ts": at }).to_string();
    if tx.execute(ERROR, params![push.user, push.dev, error, delivery.recipient()])? == 0 {
        return Ok(());
    }
    let Some(token_hash) = device::token_hash(tx, &user, &push.dev)? else { return Ok(()) };
    let document =
        DeviceDocument { event: DeviceEvent::Stale, dev: &push.dev, token_hash: &token_hash, code: Some(code), ts: at };
    tell(tx, &user, "devices", &document.to_payload(), at)
}

/// The device has another token: what waits to be pushed to it goes there. What is in flight goes on.
pub(super) fn readdress_all(
    tx: &mut Tx<'_>,
    user: &Owner,
    dev: &str,
    before: Recipient,
    token: &Token,
) -> rusqlite::Result<()> {
    for (row, delivery) in of_device(tx, user, dev, before)? {
        if delivery.life.state == State::Due {
            readdress(tx, row, token)?;
        }
    }
    Ok(())
}

/// Gives a push that waits another token. It goes at once: what it waited for is in the queue of the other one.
fn readdress(tx: &mut Tx<'_>, row: Row, token: &Token) -> rusqlite::Result<()> {
    let Some(body) = tx.one(BODY, [row], |row| row.get::<_, Vec<u8>>(0))? else { return Ok(()) };
    let Ok(push) = Push::from_body(&body) else { return Ok(()) };
    let push = Push { target: Target::Token(token.clone()), ..push };
    replace_body(tx, row, &push.to_body())?;
    tx.execute(READDRESS, params![row, push.target.recipient()])?;
    tx.now_due();
    Ok(())
}

/// The device goes by another name from now on, and what waits to be pushed to it goes on.
pub(super) fn rename(
    tx: &mut Tx<'_>,
    user: &Owner,
    (before, after): (&str, &str),
    recipient: Recipient,
) -> rusqlite::Result<()> {
    for (row, delivery) in of_device(tx, user, before, recipient)? {
        if let Some(push) = delivery.chat() {
            tx.execute(MARK, params![row, json_text(&DevicePush { dev: after.to_owned(), ..push.clone() })?])?;
        }
    }
    Ok(())
}

/// The pushes to a device, by this token, that are not over.
fn of_device(tx: &ReadTx<'_>, user: &Owner, dev: &str, recipient: Recipient) -> rusqlite::Result<Vec<(Row, Delivery)>> {
    let is_its = |push: &DevicePush| push.user == user.as_str() && push.dev == dev;
    let mut found = Vec::new();
    for row in tx.all(OF_DEVICE, [recipient], |row| row.get::<_, Row>(0))? {
        let delivery = Delivery::by_row(tx, row)?;
        found.extend(delivery.filter(|it| it.chat().is_some_and(is_its)).map(|delivery| (row, delivery)));
    }
    Ok(found)
}

/// Takes back what waits to be pushed to a device of a user by a token that it does not have any more.
pub(super) fn withdraw_all(
    tx: &mut Tx<'_>,
    user: &Owner,
    dev: &str,
    recipient: Recipient,
    at: u64,
) -> rusqlite::Result<()> {
    for (_, delivery) in of_device(tx, user, dev, recipient)? {
        take_back(tx, delivery, at)?;
    }
    Ok(())
}
