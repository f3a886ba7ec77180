//! Pushes to the devices of users: whether, with what, and what becomes of them.
//!
//! A push is a row of `deliveries` of its own. Nobody is told a status of it; what it did is noted at the device.

use super::{ChatRow, device, json, json_text, owner, people, tell};
use crate::chat::attention::Attended;
use crate::chat::delivery::{Event, State};
use crate::chat::id::{MessageId, Owner, Row, Sid, Token};
use crate::chat::push::{Push, TTL_MAX};
use crate::chat::push_budget::{Next, PushBudget};
use crate::chat::push_decision::{Asked, AskedDevice, PushDecision, Verdict, decide as decide_for};
use crate::chat::push_document::{Addressee, Content, Item, push as push_of, title};
use crate::chat::status::TokenAction;
use crate::chat::suffix::devices::{DeviceDocument, DeviceEvent, PushForm};
use crate::chat::topic::Device;
use crate::chat::transport::Transport;
use crate::store::sqlite::accept;
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::delivery::Delivery;
use crate::store::sqlite::tx::Tx;
use crate::store::{ChatCall, Deliveries, NewMessage, NewPush};
use bytes::Bytes;
use rusqlite::params;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const DEVICES: &str = "SELECT dev, token, registration, budget, sync_row FROM devices WHERE user = ?1 ORDER BY dev";
const SET_BUDGET: &str = "UPDATE devices SET budget = ?3, sync_row = ?4 WHERE user = ?1 AND dev = ?2";
const PUSHED_AT: &str = "UPDATE devices SET pushed_at = ?3, error = NULL WHERE user = ?1 AND dev = ?2";
const ERROR: &str = "UPDATE devices SET error = ?3 WHERE user = ?1 AND dev = ?2";
const TOKEN: &str = "UPDATE devices SET token = ?3, recipient = ?4 WHERE user = ?1 AND dev = ?2";
const SPOKE: &str = "UPDATE devices SET seen_at = ?3, budget = '{\"single\":0}', sync_row = NULL
    WHERE user = ?1 AND dev = ?2 AND (seen_at < ?3 - ?4 OR budget <> '{\"single\":0}')";
const NOTE: &str = "INSERT INTO pushed (user, peer, row, dev, delivery) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (user, peer, row, dev) DO UPDATE SET delivery = excluded.delivery";
const IS_NOTED: &str = "SELECT 1 FROM pushed WHERE user = ?1 AND peer = ?2 AND row = ?3 AND dev = ?4";
const UNNOTE: &str = "DELETE FROM pushed WHERE user = ?1 AND peer = ?2 AND row = ?3 AND dev = ?4";
const NOTED: &str = "SELECT row, dev, delivery FROM pushed WHERE user = ?1 AND peer = ?2 AND row <= ?3 AND row >= ?4";
const MARK: &str = "UPDATE deliveries SET chat = ?2 WHERE row = ?1";
const PUT_OFF: &str = "UPDATE deliveries SET due_at = ?2 WHERE row = ?1";
const SET_BODY: &str = "UPDATE deliveries SET body = ?2 WHERE row = ?1 AND state = 0";
const OF_DEVICE: &str = "SELECT row FROM deliveries WHERE recipient = ?1 AND state = 0 AND chat IS NOT NULL";
const WAITING: &str = "SELECT 1 FROM chat WHERE row = ?1 AND waits = 1";
const DECIDED: &str = "SELECT decided FROM chat WHERE row = ?1";
const SET_DECIDED: &str = "UPDATE chat SET waits = ?2, decided = ?3 WHERE row = ?1";
/// How old `seen_at` of a device may be, in milliseconds: it is written no more often.
const SEEN_STEP_MS: u64 = 3_600_000;
/// How long what has no deadline of its own is worth sending, in milliseconds.
const TTL_MS: u64 = TTL_MAX as u64 * 1_000;
/// How long a proof is, in milliseconds: as long as it counts.
const PROOF_MS: u64 = 600_000;

/// What a delivery says of the push that it is, in its column `chat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store::sqlite) struct DevicePush {
    user: String,
    dev: String,
    /// The message that it tells of, and the other side of its conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    about: Option<(i64, String)>,
}

/// A message whose reader may have to be pushed.
pub(super) struct Asking<'a> {
    pub(super) row: &'a ChatRow,
    pub(super) body: &'a str,
    pub(super) asked: Asked,
    pub(super) attended: &'a Attended,
}

/// What was asked and answered, in the column `decided`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::store::sqlite) struct Decided {
    pub(in crate::store::sqlite) asked: Asked,
    pub(in crate::store::sqlite) attended: Vec<String>,
    pub(in crate::store::sqlite) devices: BTreeMap<String, PushDecision>,
    /// When, in Unix milliseconds.
    pub(in crate::store::sqlite) at: u64,
}

/// What a decision came to.
#[derive(Default)]
pub(super) struct Told {
    pub(super) decided: Option<Decided>,
    /// Some push waits for the confirmation of a device that is attended.
    pub(super) waits: bool,
}

/// A device of a user, as far as pushes go.
struct Registered {
    dev: Device,
    token: Token,
    form: PushForm,
    budget: PushBudget,
    sync_row: Option<Row>,
}

/// Decides for each device of the reader, and queues the pushes that go now.
pub(super) fn decide(tx: &mut Tx<'_>, asking: &Asking<'_>, call: &ChatCall) -> rusqlite::Result<Told> {
    let reader = &asking.row.peer;
    let devices = registered(tx, reader)?;
    if devices.is_empty() {
        return Ok(Told::default());
    }
    let mut sids = call.push_sids.iter().copied();
    let attended = asking.attended.devices.iter().map(|dev| dev.as_str().to_owned()).collect();
    let mut decided = Decided { asked: asking.asked, attended, devices: BTreeMap::new(), at: call.at };
    for mut device in devices {
        let asked = AskedDevice { has_token: true, attended: asking.attended.is(&device.dev) };
        let decision = decide_for(call.policy.push_when, asking.asked, asked);
        let is_pushed = matches!(decision.verdict, Verdict::Push | Verdict::PushSilently);
        let (row, peer) = (asking.row.sid.row(), asking.row.writer.as_str());
        if is_pushed && !tx.exists(IS_NOTED, params![reader.as_str(), peer, row, device.dev.as_str()])? {
            let silent = decision.verdict == Verdict::PushSilently;
            tell_device(tx, asking, &mut device, silent, (call, &mut sids))?;
        }
        decided.devices.insert(device.dev.as_str().to_owned(), decision);
    }
    let waits = decided.devices.values().any(|decision| decision.verdict == Verdict::Wait);
    Ok(Told { decided: Some(decided), waits })
}

/// Decides anew about messages whose pushes waited. Returns those that wait further.
pub(in crate::store) fn decide_again(
    tx: &mut Tx<'_>,
    user: &Owner,
    sids: &[Sid],
    attended: &Attended,
    call: &ChatCall,
) -> rusqlite::Result<Vec<Sid>> {
    let mut waiting = Vec::new();
    let mut free = call.push_sids.as_slice();
    for sid in sids {
        let Some(row) = ChatRow::by_sid(tx, *sid)?.filter(|row| row.peer == *user && !row.received) else { continue };
        if !tx.exists(WAITING, [sid.row()])? {
            continue;
        }
        let Some(before) = tx.one(DECIDED, [sid.row()], |row| json::<Decided>(row, 0))? else { continue };
        let (mine, rest) = free.split_at(free.len().min(crate::store::USER_DEVICES_MAX));
        free = rest;
        if mine.is_empty() {
            waiting.push(*sid);
            continue;
        }
        let document = super::message::document_of(tx, &row)?;
        let document: serde_json::Value = serde_json::from_slice(&document).unwrap_or_default();
        let entry = people::entry(tx, user, &row.writer)?;
        let asked =
            Asked { blocked: entry.blocked, muted: entry.is_muted(call.at), attended: attended.any(), ..before.asked };
        let body = document["body"].as_str().unwrap_or_default();
        let call = ChatCall { push_sids: mine.to_vec(), ..call.clone() };
        let told = decide(tx, &Asking { row: &row, body, asked, attended }, &call)?;
        tx.execute(SET_DECIDED, params![sid.row(), told.waits, told.decided.as_ref().map(json_text).transpose()?])?;
        if told.waits {
            waiting.push(*sid);
        }
    }
    Ok(waiting)
}

fn registered(tx: &Tx<'_>, user: &Owner) -> rusqlite::Result<Vec<Registered>> {
    tx.all(DEVICES, [user.as_str()], |row| {
        let bad = |column| rusqlite::Error::IntegralValueOutOfRange(column, 0);
        Ok(Registered {
            dev: Device::new(row.get::<_, String>(0)?).map_err(|_| bad(0))?,
            token: Token::new(row.get::<_, String>(1)?).map_err(|_| bad(1))?,
            form: json(row, 2)?,
            budget: json(row, 3)?,
            sync_row: row.get(4)?,
        })
    })
}

/// Queues the push of a message for one device, or what stands for it.
fn tell_device(
    tx: &mut Tx<'_>,
    asking: &Asking<'_>,
    device: &mut Registered,
    silent: bool,
    (call, sids): (&ChatCall, &mut impl Iterator<Item = Sid>),
) -> rusqlite::Result<()> {
    let Asking { row, body, .. } = asking;
    let (reader, writer) = (&row.peer, &row.writer);
    let name = people::profile_name(tx, writer)?;
    let title = title(writer, name.as_deref(), people::entry(tx, reader, writer)?.is_contact() || row.by_bal);
    let invitation = row.kind == super::Kind::Invitation;
    let item = Item { invitation, with: writer, sid: row.sid, title: &title, body, ts: row.at, silent };
    let news = News { user: reader, content: Content::Item(item), deadline: row.deadline, about: Some(row) };
    queue(tx, &news, device, call, sids)
}

/// Something that a device is to be told.
struct News<'a> {
    user: &'a Owner,
    content: Content<'a>,
    /// Unix milliseconds.
    deadline: u64,
    about: Option<&'a ChatRow>,
}

fn queue(
    tx: &mut Tx<'_>,
    news: &News<'_>,
    device: &mut Registered,
    call: &ChatCall,
    sids: &mut impl Iterator<Item = Sid>,
) -> rusqlite::Result<()> {
    let (content, about, due) = match device.budget.handle_news(call.at) {
        Next::Single => (news.content, news.about, None),
        Next::Sync => (Content::Sync, None, None),
        Next::At(at) => (Content::Sync, None, Some(at)),
    };
    let to = Addressee {
        account: news.user,
        token: &device.token,
        platform: device.form.platform,
        format: device.form.format,
        lang: device.form.lang.as_deref(),
        unread: people::unread(tx, news.user)?,
    };
    let push = Push { receipt: false, ..push_of(&to, &content) };
    if let Some(row) = device.sync_row.filter(|_| due.is_some())
        && tx.execute(SET_BODY, params![row, push.to_body()])? > 0
    {
        return Ok(());
    }
    let Some(sid) = sids.next() else { return Ok(()) };
    let transport = call.policy.transports.pick(news.user, device.form.app.as_deref()).clone();
    let deadline = if due.is_some() { call.at + TTL_MS } else { news.deadline };
    accept::queue_push(tx, &new_push(news.user, sid, &push, (transport, deadline), call.at), due.is_none())?;
    let mark = DevicePush {
        user: news.user.as_str().to_owned(),
        dev: device.dev.as_str().to_owned(),
        about: about.map(|row| (row.sid.row().0, row.writer.as_str().to_owned())),
    };
    tx.execute(MARK, params![sid.row(), json_text(&mark)?])?;
    if let Some(due) = due {
        tx.execute(PUT_OFF, params![sid.row(), sql_ms(due)])?;
        device.sync_row = Some(sid.row());
    }
    if let Some(row) = about {
        let values = params![mark.user, row.writer.as_str(), row.sid.row(), mark.dev, sid.row()];
        tx.execute(NOTE, values)?;
    }
    let values = params![mark.user, mark.dev, json_text(&device.budget)?, device.sync_row];
    tx.execute(SET_BUDGET, values).map(drop)
}

fn new_push(user: &Owner, sid: Sid, push: &Push, (transport, deadline_ms): (Transport, u64), at: u64) -> NewMessage {
    let recipient = push.target.recipient();
    NewMessage {
        sid,
        bal: user.clone(),
        id: MessageId::from(sid),
        order: None,
        body: Bytes::from(push.to_body()),
        accepted_at: at,
        reply: String::new(),
        correlation: None,
        notice: None,
        deliveries: Deliveries::Only(NewPush { recipient, transport, deadline_ms, receipt: false }),
    }
}

/// Pushes a proof to a token that is not the user's yet; nothing else is counted for it.
pub(super) fn queue_proof(
    tx: &mut Tx<'_>,
    to: &Addressee<'_>,
    content: &Content<'_>,
    app: Option<&str>,
    call: &ChatCall,
) -> rusqlite::Result<()> {
    let Some(sid) = call.push_sids.first().copied() else { return Ok(()) };
    let push = Push { receipt: false, ..push_of(to, content) };
    let transport = call.policy.transports.pick(to.account, app).clone();
    let new = new_push(to.account, sid, &push, (transport, call.at + PROOF_MS), call.at);
    accept::queue_push(tx, &new, true)?;
    let mark = DevicePush { user: to.account.as_str().to_owned(), dev: String::new(), about: None };
    tx.execute(MARK, params![sid.row(), json_text(&mark)?]).map(drop)
}

/// An attended device has the message.
pub(in crate::store) fn attended(
    tx: &mut Tx<'_>,
    user: &Owner,
    dev: &Device,
    sid: Sid,
    call: &ChatCall,
) -> rusqlite::Result<()> {
    let Some(row) = ChatRow::by_sid(tx, sid)?.filter(|row| row.peer == *user) else { return Ok(()) };
    withdraw(tx, &Seen { user, peer: &row.writer, sid, up_to: false }, Some(dev), call)?;
    device_spoke(tx, user, dev, call.at)
}

/// The device confirmed something, or connected: single pushes again.
pub(in crate::store) fn device_spoke(tx: &Tx<'_>, user: &Owner, dev: &Device, at: u64) -> rusqlite::Result<()> {
    tx.execute(SPOKE, params![user.as_str(), dev.as_str(), sql_ms(at), sql_ms(SEEN_STEP_MS)]).map(drop)
}

/// What a user has seen of a conversation.
pub(super) struct Seen<'a> {
    pub(super) user: &'a Owner,
    pub(super) peer: &'a Owner,
    pub(super) sid: Sid,
    /// Everything up to it as well.
    pub(super) up_to: bool,
}

impl Seen<'_> {
    fn noted(&self, tx: &Tx<'_>) -> rusqlite::Result<Vec<(Row, String, Row)>> {
        let first = if self.up_to { Row(0) } else { self.sid.row() };
        let values = params![self.user.as_str(), self.peer.as_str(), self.sid.row(), first];
        tx.all(NOTED, values, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
    }
}

/// Takes back the pushes that nobody needs any more, because an attended device has the message: those that still wait to be
/// sent.
pub(super) fn withdraw(
    tx: &mut Tx<'_>,
    seen: &Seen<'_>,
    dev: Option<&Device>,
    call: &ChatCall,
) -> rusqlite::Result<()> {
    let per_device = call.policy.push_when == crate::chat::push_decision::PushWhen::PerDevice;
    for (_, pushed, delivery) in seen.noted(tx)? {
        if !per_device || dev.is_some_and(|dev| dev.as_str() == pushed) {
            cancel(tx, delivery, call.at)?;
        }
    }
    Ok(())
}

/// Takes a push back unless it is on its way or over.
fn cancel(tx: &mut Tx<'_>, delivery: Row, at: u64) -> rusqlite::Result<bool> {
    match Delivery::by_row(tx, delivery)? {
        Some(mut delivery) => Ok(delivery.apply(tx, &Event::Cancelled, at)?.is_some()),
        None => Ok(false),
    }
}

/// The notifications of what was read go away: pushes that wait are taken back, and devices that were pushed get a `clear`,
/// but for the one that read and those that have a connection.
pub(super) fn clear(
    tx: &mut Tx<'_>,
    seen: &Seen<'_>,
    by: Option<&Device>,
    connected: &[Device],
    call: &ChatCall,
) -> rusqlite::Result<()> {
    let mut shown = BTreeSet::new();
    for (row, dev, delivery) in seen.noted(tx)? {
        if !cancel(tx, delivery, call.at)? {
            tx.execute(UNNOTE, params![seen.user.as_str(), seen.peer.as_str(), row, dev])?;
            shown.insert(dev);
        }
    }
    let sees_itself = |dev: &Device| by == Some(dev) || connected.contains(dev);
    let devices = if shown.is_empty() { Vec::new() } else { registered(tx, seen.user)? };
    let mut sids = call.push_sids.iter().rev().copied();
    for mut device in devices {
        if !shown.contains(device.dev.as_str()) || sees_itself(&device.dev) {
            continue;
        }
        let content = Content::Clear { with: seen.peer, sid: seen.sid };
        let deadline = call.at + TTL_MS;
        queue(tx, &News { user: seen.user, content, deadline, about: None }, &mut device, call, &mut sids)?;
    }
    Ok(())
}

/// A push of these has moved.
pub(in crate::store::sqlite) fn moved(
    tx: &mut Tx<'_>,
    push: &DevicePush,
    delivery: &Delivery,
    at: u64,
) -> rusqlite::Result<()> {
    let (user, dev) = (push.user.as_str(), push.dev.as_str());
    match delivery.life.state {
        State::Sent => {
            tx.execute(PUSHED_AT, params![user, dev, sql_ms(at)])?;
            if let Some(token) = delivery.new_token() {
                replace_token(tx, user, dev, token)?;
            }
        }
        State::Failed | State::Expired | State::Cancelled => {
            if let Some((row, peer)) = &push.about {
                tx.execute(UNNOTE, params![user, peer, row, dev])?;
            }
            if delivery.life.state == State::Failed {
                failed(tx, push, delivery, at)?;
            }
        }
        State::Due | State::Waiting | State::InFlight | State::Delivered => {}
    }
    Ok(())
}

fn replace_token(tx: &Tx<'_>, user: &str, dev: &str, token: &str) -> rusqlite::Result<()> {
    let Ok(token) = Token::new(token) else { return Ok(()) };
    let recipient = crate::chat::push::Target::Token(token.clone()).recipient();
    tx.execute(TOKEN, params![user, dev, token.reveal(), recipient]).map(drop)
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
    tx.execute(ERROR, params![push.user, push.dev, error])?;
    let Some(token_hash) = device::token_hash(tx, &user, &push.dev)? else { return Ok(()) };
    let document =
        DeviceDocument { event: DeviceEvent::Stale, dev: &push.dev, token_hash: &token_hash, code: Some(code), ts: at };
    tell(tx, &user, "devices", &document.to_payload(), at)
}

/// Takes back what waits to be pushed to a recipient that has no device any more.
pub(super) fn withdraw_all(tx: &mut Tx<'_>, recipient: crate::chat::id::Recipient, at: u64) -> rusqlite::Result<()> {
    for row in tx.all(OF_DEVICE, [recipient], |row| row.get::<_, Row>(0))? {
        cancel(tx, row, at)?;
    }
    Ok(())
}

/// Users with messages whose pushes waited for an attended device, made at `since` or later.
pub(in crate::store) fn undecided(tx: &Tx<'_>, since: u64) -> rusqlite::Result<Vec<crate::store::Undecided>> {
    const SQL: &str = "SELECT peer, row, tail FROM chat INDEXED BY chat_waits WHERE waits = 1 AND at >= ?1
        ORDER BY peer, row";
    let mut found: Vec<crate::store::Undecided> = Vec::new();
    let rows =
        tx.all(SQL, [sql_ms(since)], |row| Ok((owner(row, 0)?, crate::store::sqlite::column::sid(row, 1, 2)?)))?;
    for (user, sid) in rows {
        match found.last_mut().filter(|last| last.user == user) {
            Some(last) => last.sids.push(sid),
            None => found.push(crate::store::Undecided { user, sids: vec![sid] }),
        }
    }
    Ok(found)
}
