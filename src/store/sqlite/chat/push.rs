//! Pushes to the devices of users: whether, and with what.
//!
//! A push is a row of `deliveries` of its own. Nobody is told a status of it; what became of it is noted at the device
//! ([`super::notified`]).

use super::calls::ringing;
use super::notified::{Pushed, Seen, go_now};
use super::{Call, ChatRow, Kind, group, json, json_text, owner, people, unpushed};
use crate::chat::attention::Attended;
use crate::chat::id::{MessageId, Owner, Row, Sid, Token};
use crate::chat::push::{Push, TTL_MAX};
use crate::chat::push_budget::{Next, PushBudget};
use crate::chat::push_decision::{Asked, AskedDevice, PushDecision, Rule, Verdict, decide as decide_for};
use crate::chat::push_document::{Addressee, BYTES_MAX, Content, Item, ItemKind, push as push_of, title};
use crate::chat::status::Source;
use crate::chat::suffix::calls::CallName;
use crate::chat::suffix::devices::PushForm;
use crate::chat::topic::{APP_RECEIPTS, Device};
use crate::chat::transport::Transport;
use crate::store::sqlite::accept;
use crate::store::sqlite::column::{bytes_of, sid, sql_ms};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{ChatCall, Deliveries, NewMessage, NewPush, Undecided};
use bytes::Bytes;
use rusqlite::params;
use rusqlite::types::ValueRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(in crate::store::sqlite) const DEVICES: &str =
    "SELECT dev, token, registration, budget, sync_row FROM devices WHERE user = ?1 ORDER BY dev";
const SET_BUDGET: &str = "UPDATE devices SET budget = ?3, sync_row = ?4 WHERE user = ?1 AND dev = ?2";
pub(super) const MARK: &str = "UPDATE deliveries SET chat = ?2 WHERE row = ?1";
const PUT_OFF: &str = "UPDATE deliveries SET due_at = ?2 WHERE row = ?1";
/// What was never put off must not be older than what was (see `recipient_queue`).
pub(in crate::store::sqlite) const KEEP_PLACES: &str =
    "UPDATE deliveries SET due_at = 0 WHERE row IN (SELECT row FROM deliveries INDEXED BY deliveries_chat
        WHERE recipient = ?1 AND row < ?2 AND chat IS NOT NULL AND final_at IS NULL AND state = 0 AND due_at IS NULL)";
const BODY_LENGTH: &str = "SELECT length(body) FROM deliveries WHERE row = ?1 AND state = 0";
const SET_BODY: &str = "UPDATE deliveries SET body = ?2 WHERE row = ?1";
const DECIDED: &str = "SELECT decided FROM chat WHERE row = ?1 AND waits = 1";
const SET_DECIDED: &str = "UPDATE chat SET waits = ?2, decided = ?3 WHERE row = ?1";
pub(super) const STOP_WAITING: &str = "UPDATE chat SET waits = 0 WHERE row = ?1";
pub(in crate::store::sqlite) const WAITING: &str = "SELECT row FROM chat INDEXED BY chat_waits
    WHERE peer = ?1 AND row <= ?2 AND row >= ?3 AND waits = 1 AND writer = ?4";
pub(in crate::store::sqlite) const UNDECIDED: &str = "SELECT peer, row, tail FROM chat INDEXED BY chat_waits
    WHERE waits = 1 AND received = 0 AND row NOT IN (SELECT row FROM unpushed) ORDER BY peer, row";
/// What waited for room for longer than that was decided lately all the same.
pub(in crate::store::sqlite) const FORGET_UNDECIDED: &str = "UPDATE chat INDEXED BY chat_waits SET waits = 0
    WHERE waits = 1 AND at < ?1 AND json_extract(decided, '$.at') < ?1 AND row NOT IN (SELECT row FROM unpushed)";
/// How long what has no deadline of its own is worth sending, in milliseconds.
pub(super) const TTL_MS: u64 = TTL_MAX as u64 * 1_000;
/// How long a proof is, in milliseconds: as long as it counts.
pub(super) const PROOF_MS: u64 = 600_000;

/// What a delivery says of the push that it is, in its column `chat`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store::sqlite) struct DevicePush {
    pub(super) user: String,
    /// '' where it asks for a proof.
    pub(super) dev: String,
    /// The message that it tells of, and the other side of its conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) about: Option<(i64, String)>,
    /// Its message was edited while it was in flight: it is not sent again as it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) edited: bool,
    /// It was taken back while it was in flight: it is not sent again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) withdrawn: bool,
    /// What it tells of is the offer of a call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) rings: bool,
}

impl DevicePush {
    /// Whether it goes to this user, or tells of a conversation with it.
    pub(in crate::store::sqlite) fn names(&self, user: &str) -> bool {
        self.user == user || self.about.as_ref().is_some_and(|(_, with)| with == user)
    }

    pub(in crate::store::sqlite) fn read(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<Self>> {
        if row.get_ref(column)? == ValueRef::Null { Ok(None) } else { json(row, column).map(Some) }
    }
}

/// A message whose reader may have to be pushed.
pub(super) struct Asking<'a> {
    pub(super) reader: &'a Owner,
    pub(super) row: &'a ChatRow,
    pub(super) body: &'a str,
    /// What is shown as its title; `None`: who wrote it.
    pub(super) title: Option<&'a str>,
    pub(super) asked: Asked,
    pub(super) attended: &'a Attended,
    /// What was decided before.
    pub(super) before: Option<Decided>,
    /// Of the offer of a call, its word.
    pub(super) call: Option<&'a CallName>,
}

/// What was asked and answered, in the column `decided`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::store::sqlite) struct Decided {
    pub(in crate::store::sqlite) asked: Asked,
    pub(in crate::store::sqlite) attended: Vec<String>,
    pub(in crate::store::sqlite) devices: BTreeMap<String, PushDecision>,
    /// The rows of the pushes that tell them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(in crate::store::sqlite) pushes: BTreeMap<String, i64>,
    /// Attended devices that have confirmed the message, where each one's push waits for itself alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::store::sqlite) confirmed: Vec<String>,
    /// When, in Unix milliseconds.
    pub(in crate::store::sqlite) at: u64,
}

impl Decided {
    /// Whether the push of any device waits for a confirmation that has not come.
    pub(super) fn waits(&self) -> bool {
        self.devices.iter().any(|(dev, decision)| decision.verdict == Verdict::Wait && !self.confirmed.contains(dev))
    }

    /// The same, where this device has confirmed what it was decided about.
    pub(super) fn confirmed_by(mut self, dev: &Device) -> Self {
        if !self.confirmed.iter().any(|known| known == dev.as_str()) {
            self.confirmed.push(dev.as_str().to_owned());
        }
        self
    }

    /// Whether the push of any device waits for room in the queue.
    pub(super) fn waits_for_room(&self) -> bool {
        self.devices.values().any(|decision| decision.rule == Rule::NoRoom)
    }

    /// What stays when it is decided again.
    fn done(&self) -> (BTreeMap<String, PushDecision>, BTreeMap<String, i64>, Vec<String>) {
        let done = self.devices.iter().filter(|(dev, _)| self.is_done(dev));
        let devices = done.map(|(dev, decision)| (dev.clone(), *decision)).collect();
        (devices, self.pushes.clone(), self.confirmed.clone())
    }

    /// Whether it was decided about this device for good: it was pushed, or has the message.
    fn is_done(&self, dev: &str) -> bool {
        let pushed = |decision: &PushDecision| is_push(decision.verdict);
        self.devices.get(dev).is_some_and(pushed) || self.confirmed.iter().any(|confirmed| confirmed == dev)
    }
}

fn is_push(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Push | Verdict::PushSilently)
}

/// What a decision came to.
#[derive(Default)]
pub(super) struct Told {
    pub(super) decided: Option<Decided>,
    /// Some push waits for the confirmation of a device that is attended.
    pub(super) waits: bool,
}

/// A device of a user, as far as pushes go.
pub(super) struct Registered {
    pub(super) dev: Device,
    pub(super) token: Token,
    form: PushForm,
    pub(super) budget: PushBudget,
    sync_row: Option<Row>,
}

/// Decides for each device of the reader, and queues the pushes that go now. A push for which there is no id waits.
pub(super) fn decide(tx: &mut Tx<'_>, asking: &Asking<'_>, call: &mut Call<'_>) -> rusqlite::Result<Told> {
    let devices = registered(tx, asking.reader)?;
    let is_of_two = !asking.row.peer.is_group();
    if devices.is_empty() {
        if is_of_two {
            unpushed::note(tx, asking.row.sid.row(), false)?;
        }
        return Ok(Told::default());
    }
    let attended = asking.attended.devices.iter().map(|dev| dev.as_str().to_owned()).collect();
    let (asked, at) = (asking.asked, call.at);
    let (devices_done, pushes, confirmed) = asking.before.as_ref().map(Decided::done).unwrap_or_default();
    let mut decided = Decided { asked, attended, devices: devices_done, pushes, confirmed, at };
    for mut device in devices {
        if decided.is_done(device.dev.as_str()) {
            continue;
        }
        let has_room = !tx.queue_is_full(1, BYTES_MAX as u64);
        let asked = AskedDevice {
            has_token: true,
            attended: asking.attended.is(&device.dev),
            // What rings is over before anybody comes back: it is no news of the absence.
            was_told: asking.call.is_none() && device.form.first && device.budget.was_told(),
            is_quiet: device.form.quiet.as_ref().is_some_and(|quiet| quiet.covers(call.at)),
            has_room,
        };
        let mut decision = decide_for(call.policy.push_when, asking.asked, asked);
        let silent = decision.verdict == Verdict::PushSilently;
        let name = device.dev.as_str().to_owned();
        if is_push(decision.verdict) {
            match tell_device(tx, asking, &mut device, silent, call)? {
                Some(push) => drop(decided.pushes.insert(name.clone(), push.0)),
                None => decision.verdict = Verdict::Wait,
            }
        }
        decided.devices.insert(name, decision);
    }
    if is_of_two {
        unpushed::note(tx, asking.row.sid.row(), decided.waits_for_room())?;
    }
    let waits = decided.waits();
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
    let call = &mut Call::of(call);
    let mut waiting = Vec::new();
    for sid in sids {
        let row = ChatRow::by_sid(tx, *sid)?;
        if let Some(row) = row.as_ref().filter(|row| row.peer.is_group()) {
            if group::push::decide_again(tx, user, row, attended, call)? {
                waiting.push(*sid);
            }
            continue;
        }
        if row.is_none()
            && let Some(waits) = ringing::decide_again(tx, user, *sid, attended, call)?
        {
            waiting.extend(waits.then_some(*sid));
            continue;
        }
        let row = row.filter(|row| row.peer == *user);
        let before = tx.one(DECIDED, [sid.row()], |row| json::<Decided>(row, 0))?;
        let (Some(row), Some(before)) = (row, before) else {
            // It was read meanwhile, or is not kept any more.
            unpushed::note(tx, sid.row(), false)?;
            continue;
        };
        let document = super::message::document_of(tx, &row, user)?;
        let document: serde_json::Value = serde_json::from_slice(&document).unwrap_or_default();
        let entry = people::entry(tx, user, &row.writer)?;
        let asked = before.asked.by(entry, entry, attended, call.at);
        let body = document["body"].as_str().unwrap_or_default();
        let (reader, before) = (user, Some(before));
        let asking = Asking { reader, row: &row, body, title: None, asked, attended, before, call: None };
        let told = decide(tx, &asking, call)?;
        set_decided(tx, sid.row(), told.waits, told.decided.as_ref())?;
        if told.waits {
            waiting.push(*sid);
        }
    }
    Ok(waiting)
}

/// Without a decision the one before stays.
fn set_decided(tx: &Tx<'_>, row: Row, waits: bool, decided: Option<&Decided>) -> rusqlite::Result<()> {
    match decided {
        Some(decided) => tx.execute(SET_DECIDED, params![row, waits, json_text(decided)?]).map(drop),
        None => tx.execute(STOP_WAITING, [row]).map(drop),
    }
}

/// An attended device has messages: no push waits for it any more; without a device none waits for any.
pub(super) fn stop_waiting(tx: &Tx<'_>, seen: &Seen<'_>, dev: Option<&Device>) -> rusqlite::Result<()> {
    let values = params![seen.user.as_str(), seen.sid.row(), seen.first(), seen.peer.as_str()];
    for row in tx.all(WAITING, values, |row| row.get::<_, Row>(0))? {
        let Some(dev) = dev else {
            tx.execute(STOP_WAITING, [row])?;
            continue;
        };
        let Some(decided) = tx.one(DECIDED, [row], |row| json::<Decided>(row, 0))? else { continue };
        if !decided.confirmed.iter().any(|known| known == dev.as_str()) {
            let decided = decided.confirmed_by(dev);
            set_decided(tx, row, decided.waits(), Some(&decided))?;
        }
    }
    Ok(())
}

pub(super) fn registered(tx: &ReadTx<'_>, user: &Owner) -> rusqlite::Result<Vec<Registered>> {
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

/// Queues the push of a message for one device, or what stands for it; returns its row, `None` if there is no id for it.
fn tell_device(
    tx: &mut Tx<'_>,
    asking: &Asking<'_>,
    device: &mut Registered,
    silent: bool,
    verb: &mut Call<'_>,
) -> rusqlite::Result<Option<Row>> {
    let Asking { reader, row, body, call, .. } = *asking;
    let writer = &row.writer;
    let title = match asking.title {
        Some(title) => title.to_owned(),
        None => {
            let name = people::profile_name(tx, writer)?;
            title(writer, name.as_deref(), people::entry(tx, reader, writer)?.is_contact() || row.by_bal)
        }
    };
    let kind = match (row.kind, call) {
        (_, Some(call)) => ItemKind::Call(call),
        (Kind::Invitation, _) => ItemKind::Invitation,
        (Kind::Call, _) => ItemKind::MissedCall,
        _ => ItemKind::Message,
    };
    let (with, by) = (row.other(reader), Some(writer).filter(|_| row.peer.is_group()));
    let item = Item { kind, with, by, sid: row.sid, title: &title, body, ts: row.at, silent };
    let news = News { user: reader, content: Content::Item(item), deadline: row.deadline, about: Some(row) };
    queue(tx, &news, device, verb)
}

/// Something that a device is to be told.
pub(super) struct News<'a> {
    pub(super) user: &'a Owner,
    pub(super) content: Content<'a>,
    /// Unix milliseconds.
    pub(super) deadline: u64,
    pub(super) about: Option<&'a ChatRow>,
}

impl News<'_> {
    /// Whether it is a call.
    fn rings(&self) -> bool {
        self.about.is_some_and(|row| row.kind == Kind::Offer)
    }
}

/// Queues a push, or a `sync` that stands for it; returns its row, `None` if there is no id for it.
pub(super) fn queue(
    tx: &mut Tx<'_>,
    news: &News<'_>,
    device: &mut Registered,
    call: &mut Call<'_>,
) -> rusqlite::Result<Option<Row>> {
    // A call is over before a `sync` would come, and what is pushed of it does not stay with the push service.
    let is_of_call = matches!(&news.content, Content::ClearCall { .. }) || news.rings();
    let next = if is_of_call { Next::Single } else { device.budget.handle_news(call.at) };
    if let Some(sync) = device.sync_row.filter(|_| is_of_call) {
        // What goes to a device goes in order: a call must not wait for the time of a `sync` before it.
        go_now(tx, sync)?;
    }
    let content = if next == Next::Single { news.content } else { Content::Sync };
    let to = Addressee {
        account: news.user,
        token: &device.token,
        platform: device.form.platform,
        format: device.form.format,
        lang: device.form.lang.as_deref(),
        unread: people::unread(tx, news.user, &mut call.tombstones)?,
        badge: device.form.badge,
    };
    let transport = call.policy.transports.pick(news.user, device.form.app.as_deref()).clone();
    let push = for_transport(push_of(&to, &content), &content, &transport);
    if next != Next::Single
        && let Some(row) = device.sync_row
        && replace_body(tx, row, &push.to_body())?
    {
        note(tx, news, &device.dev, None)?;
        return Ok(Some(row));
    }
    let Some(sid) = call.push_sids.next().copied() else { return Ok(None) };
    let due = if let Next::At(at) = next { Some(at) } else { None };
    let deadline = if next == Next::Single { news.deadline } else { call.at + TTL_MS };
    let mut new = new_push(news.user, sid, &push, (transport, deadline), call.at);
    let of_group = news.about.filter(|row| next == Next::Single && row.peer.is_group());
    let id = of_group.and_then(|row| MessageId::new(push_id(row.sid, device.dev.as_str())).ok());
    new.id = id.unwrap_or(new.id);
    accept::queue_push(tx, &new, due.is_none())?;
    let (user, dev) = (news.user.as_str().to_owned(), device.dev.as_str().to_owned());
    let about = news.about.filter(|_| next == Next::Single);
    let about = about.map(|row| (row.sid.row().0, row.other(news.user).as_str().to_owned()));
    let mark = DevicePush { user, dev, about, edited: false, withdrawn: false, rings: news.rings() };
    tx.execute(MARK, params![sid.row(), json_text(&mark)?])?;
    if let Some(due) = due {
        tx.execute(PUT_OFF, params![sid.row(), sql_ms(due)])?;
        tx.execute(KEEP_PLACES, params![push.target.recipient(), sid.row()])?;
    }
    if next != Next::Single {
        device.sync_row = Some(sid.row());
    }
    if device.form.first && matches!(news.content, Content::Item(_)) && !news.rings() {
        device.budget.handle_told(sid.row());
    }
    note(tx, news, &device.dev, (next == Next::Single).then_some(sid.row()))?;
    let values = params![news.user.as_str(), device.dev.as_str(), json_text(&device.budget)?, device.sync_row];
    tx.execute(SET_BUDGET, values)?;
    Ok(Some(sid.row()))
}

/// The id of the push of a message to a group for one device of a member: so it is found again.
pub(super) fn push_id(sid: Sid, dev: &str) -> String {
    format!("{sid}.{dev}")
}

/// Remembers that the device was pushed for a message, be it by a `sync`.
fn note(tx: &Tx<'_>, news: &News<'_>, dev: &Device, delivery: Option<Row>) -> rusqlite::Result<()> {
    let Some(row) = news.about else { return Ok(()) };
    if let Some(delivery) = delivery.filter(|_| news.rings()) {
        return ringing::note(tx, row.sid.row(), dev.as_str(), delivery);
    }
    let pushed = Pushed { user: news.user.as_str(), peer: row.other(news.user).as_str(), dev: dev.as_str() };
    pushed.note(tx, row.sid.row(), delivery)
}

/// Gives a push that waits another body; false if it does not wait any more.
pub(in crate::store::sqlite) fn replace_body(tx: &mut Tx<'_>, row: Row, body: &[u8]) -> rusqlite::Result<bool> {
    let Some(before) = tx.one(BODY_LENGTH, [row], |row| row.get(0).map(bytes_of))? else { return Ok(false) };
    tx.execute(SET_BODY, params![row, body])?;
    let bytes = &mut tx.memory_draft.figures.queue_bytes;
    *bytes = bytes.saturating_sub(before) + body.len() as u64;
    Ok(true)
}

/// No status is told of a push. Where the app itself has to say that it has a message, the push says which and where.
fn for_transport(push: Push, content: &Content<'_>, transport: &Transport) -> Push {
    let mut push = Push { receipt: false, ..push };
    if let Content::Item(item) = content
        && transport.witness() == Source::App
    {
        push.data.insert("mid".to_owned(), item.sid.to_string().into());
        push.data.insert("ack".to_owned(), APP_RECEIPTS.into());
    }
    push
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

/// Pushes a proof to a token that is not the user's yet; nothing else is counted for it. False if there is no id for it.
pub(super) fn queue_proof(
    tx: &mut Tx<'_>,
    to: &Addressee<'_>,
    content: &Content<'_>,
    app: Option<&str>,
    call: &mut Call<'_>,
) -> rusqlite::Result<bool> {
    let Some(sid) = call.push_sids.next().copied() else { return Ok(false) };
    let push = Push { receipt: false, ..push_of(to, content) };
    let transport = call.policy.transports.pick(to.account, app).clone();
    let new = new_push(to.account, sid, &push, (transport, call.at + PROOF_MS), call.at);
    accept::queue_push(tx, &new, true)?;
    let user = to.account.as_str().to_owned();
    let mark = DevicePush { user, dev: String::new(), about: None, edited: false, withdrawn: false, rings: false };
    tx.execute(MARK, params![sid.row(), json_text(&mark)?])?;
    Ok(true)
}

/// Users with messages whose pushes waited for an attended device and that no device has confirmed, made at `since` or later.
/// Those of older ones wait no longer.
pub(in crate::store) fn undecided(tx: &Tx<'_>, since: u64) -> rusqlite::Result<Vec<Undecided>> {
    tx.execute(FORGET_UNDECIDED, [sql_ms(since)])?;
    let mut waiting = tx.all(UNDECIDED, [], |row| Ok((owner(row, 0)?, sid(row, 1, 2)?)))?;
    waiting.extend(group::push::undecided(tx)?);
    waiting.extend(ringing::undecided(tx)?);
    waiting.sort();
    Ok(by_user(waiting))
}

/// Those of each user that stand side by side.
pub(super) fn by_user(messages: Vec<(Owner, Sid)>) -> Vec<Undecided> {
    let mut found: Vec<Undecided> = Vec::new();
    for (user, sid) in messages {
        match found.last_mut().filter(|last| last.user == user) {
            Some(last) => last.sids.push(sid),
            None => found.push(Undecided { user, sids: vec![sid] }),
        }
    }
    found
}
