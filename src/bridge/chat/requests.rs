//! What a device asks the bridge, and its answer, which goes to that device alone.

use super::limits::Limits;
use super::{Remaining, TakeError, first_screen, groups};
use crate::bridge::context::Context;
use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::{BridgeEvent, ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::push_decision::{AskedDevice, PushWhen, Rule, decide};
use crate::chat::suffix::requests::{Op, Request};
use crate::chat::topic::{BridgeTopic, Device, inbox_topic};
use crate::mqtt::AckWord;
use crate::ops::clock::now_ms;
use crate::store::{
    ChatCall, ChatPolicy, Committed, Contact, ContactPage, EntryChange, ExportPage, HistoryQuery, KnownDevice,
    NewReport, Note, PushExplanation, ScheduledMessage, ScheduledPage, SettingChange, StoreError, SyncPage,
    TEST_PUSH_SKIPS, UserDocument, UserSettings,
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A request, and who asked.
pub(super) struct Asked {
    pub(super) user: Owner,
    pub(super) role: Role,
    pub(super) dev: Device,
    pub(super) request: Request,
    /// As it came: the user's other devices get it when it was done.
    pub(super) payload: Bytes,
    pub(super) limits: Limits,
    pub(super) policy: Arc<ChatPolicy>,
}

/// Who asks, and with what.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) user: &'a Owner,
    pub(super) dev: &'a Device,
    pub(super) payload: &'a Bytes,
}

/// Does what is asked for. The remaining answers when it is on disk.
pub(super) async fn answer(context: &Arc<Context>, asked: Asked, call: ChatCall) -> Result<Remaining, TakeError> {
    let context = Arc::clone(context);
    Ok(Box::pin(async move { carry_out(&context, asked, call).await }))
}

pub(super) async fn carry_out(context: &Context, asked: Asked, call: ChatCall) -> Result<Option<AckWord>, StoreError> {
    let at = call.at;
    let (user, dev, id) = (asked.user.clone(), asked.dev.clone(), asked.request.id.clone());
    let reply = execute(context, asked, call).await?;
    tell(context, &user, &dev, document(id.as_ref(), reply), at).await?.await?;
    Ok(Some(AckWord::Done))
}

/// Answers what cannot be read, if it says how it is called; else its writer is told as of any other input.
pub(super) async fn refuse(
    context: &Arc<Context>,
    user: &Owner,
    dev: &Device,
    rejection: Rejection,
) -> Result<Remaining, TakeError> {
    let Some(id) = rejection.ref_id().cloned() else { return Err(rejection.into()) };
    let told = tell(context, user, dev, document(Some(&id), Err(rejection)), now_ms()).await?;
    Ok(Box::pin(async move { told.await.map(|()| Some(AckWord::Done)) }))
}

pub(super) async fn tell(
    context: &Context,
    user: &Owner,
    dev: &Device,
    document: Vec<u8>,
    at: u64,
) -> Result<Committed<()>, StoreError> {
    let topic = inbox_topic(user, &format!("replies/{}", dev.as_str()));
    let document = UserDocument { topic, copy_of: None, payload: document.into(), at };
    context.store.queue_user_document(document).await
}

/// What the answer says beside `ref` and `ok`; or why not.
pub(super) type Reply = Result<Map<String, Value>, Rejection>;

pub(super) fn document(id: Option<&MessageId>, reply: Reply) -> Vec<u8> {
    let mut document = Map::new();
    if let Some(id) = id {
        document.insert("ref".to_owned(), id.as_str().into());
    }
    match reply {
        Ok(fields) => {
            document.insert("ok".to_owned(), true.into());
            document.extend(fields);
        }
        Err(rejection) => {
            document.insert("ok".to_owned(), false.into());
            document.insert("code".to_owned(), rejection.code().to_string().into());
            document.insert("detail".to_owned(), rejection.detail().into());
        }
    }
    Value::Object(document).to_string().into_bytes()
}

async fn execute(context: &Context, asked: Asked, call: ChatCall) -> Result<Reply, StoreError> {
    let store = &context.store;
    let (user, payload) = (&asked.user, &asked.payload);
    let asker = Asker { user, dev: &asked.dev, payload };
    let change = match asked.request.op.clone() {
        Op::Contacts { after } => {
            return Ok(Ok(contacts(store.chat_contacts(user.clone(), after).await?.await?, call.at)));
        }
        Op::Settings => {
            let settings = store.chat_settings(user.clone()).await?.await?.unwrap_or_default();
            return Ok(Ok(settings_of(context, &settings)));
        }
        Op::Devices => return Ok(Ok(devices(store.chat_devices(user.clone()).await?.await?))),
        Op::Conversations { limit, before } => {
            return first_screen::conversations(context, user, (limit, before), call.at).await;
        }
        Op::History { with, from, limit } => {
            return first_screen::history(context, user, HistoryQuery { with, from, limit }).await;
        }
        Op::Archive { with, on } => return first_screen::archive(context, asker, (with, on), call).await,
        Op::Delete(of) => return first_screen::delete(context, asker, of, call).await,
        Op::Schedule { after } => {
            return Ok(Ok(scheduled(store.chat_scheduled(user.clone(), after).await?.await?)));
        }
        Op::Cancel(id) => {
            let is_taken_back = store.chat_cancel(user.clone(), asked.role, id, call.at).await?.await?;
            let unknown = || Rejection::new(ErrorCode::NotFound, "no message of this id waits for its time");
            return Ok(is_taken_back.then(Map::new).ok_or_else(unknown));
        }
        Op::Sync { since } => return Ok(Ok(page(store.chat_sync(user.clone(), since).await?.await?))),
        Op::Explain(sid) => return explain(context, user, sid).await,
        Op::TestPush => {
            let tested = store.chat_test_push(user.clone(), call).await?.await?;
            return Ok(Ok(fields(json!({ "items": tested, "skipped": TEST_PUSH_SKIPS }))));
        }
        Op::Export { after, .. } => {
            let Some(page) = store.chat_export(user.clone(), after).await?.await? else {
                return Ok(Err(Rejection::bad_field("after", "is not the `next` of a page")));
            };
            return Ok(Ok(exported(page)));
        }
        Op::Erase(_) => return Ok(Err(Rejection::new(ErrorCode::Forbidden, "only a chat user can be erased"))),
        Op::Report { with, sids, reason } => {
            let (names, by, whom) = (sids.iter().map(Sid::to_string).collect(), user.to_string(), with.to_string());
            let event = BridgeEvent::Reported { by, with: whom, sids: names, reason: reason.clone() };
            let (topic, payload) = (BridgeTopic::Events.to_string(), event.to_payload(call.at).into());
            let event = Note { topic, payload, correlation: None, at: call.at };
            let report = NewReport { by: user.clone(), with, sids, reason, event };
            store.chat_report(report, call).await?.await?;
            return Ok(Ok(Map::new()));
        }
        Op::Mute { with, level, seconds } => {
            let until = seconds.map_or(u64::MAX, |seconds| call.at.saturating_add(seconds.saturating_mul(1_000)));
            let change = SettingChange::About(with, EntryChange::Mute(Some((until, level))));
            let shown = seconds.map(|_| until);
            if let Err(rejection) = set(context, user, change, &with_until(payload, shown), call.at).await? {
                return Ok(Err(rejection));
            }
            return Ok(Ok(fields(json!({ "until": shown }))));
        }
        Op::Group(op) => return groups::execute(context, &asked, op).await,
        Op::Unmute(with) => SettingChange::About(with, EntryChange::Mute(None)),
        Op::Block(with) => SettingChange::About(with, EntryChange::Block(true)),
        Op::Unblock(with) => SettingChange::About(with, EntryChange::Block(false)),
        Op::RemoveContact(with) => SettingChange::About(with, EntryChange::RemoveContact),
        Op::WhoMayWrite(writers) => SettingChange::Writers(writers),
        Op::HideRead(on) => SettingChange::HideRead(on),
        Op::HidePresence(on) => SettingChange::HidePresence(on),
    };
    Ok(set(context, user, change, payload, call.at).await?.map(|()| Map::new()))
}

/// A mute as the other devices are told of it: its end is by this clock, not by theirs.
fn with_until(request: &Bytes, until: Option<u64>) -> Bytes {
    let (Some(until), Ok(mut told)) = (until, serde_json::from_slice::<Map<String, Value>>(request)) else {
        return request.clone();
    };
    told.insert("until".to_owned(), until.into());
    Value::Object(told).to_string().into()
}

async fn set(
    context: &Context,
    user: &Owner,
    change: SettingChange,
    payload: &Bytes,
    at: u64,
) -> Result<Result<(), Rejection>, StoreError> {
    let hides = if let SettingChange::HidePresence(on) = change { Some(on) } else { None };
    let seen = match context.store.chat_set(user.clone(), change, payload.clone(), at).await?.await? {
        Ok(seen) => seen,
        Err(rejection) => return Ok(Err(rejection)),
    };
    context.show(seen).await;
    if let Some(on) = hides {
        context.hide(user, on).await;
    }
    Ok(Ok(()))
}

async fn explain(context: &Context, user: &Owner, sid: Sid) -> Result<Reply, StoreError> {
    let connected = context.attentions.connected(user);
    let found = context.store.chat_explain(user.clone(), sid).await?.await?;
    let unknown = || Rejection::new(ErrorCode::NotFound, "`sid` names no message to this user");
    let when = context.settings.chat.push_when;
    Ok(found.map(|explained| explanation(&explained, &connected, when)).ok_or_else(unknown))
}

/// An item for each device with a token, and for those that are connected without one.
fn explanation(explained: &PushExplanation, connected: &[Device], when: PushWhen) -> Map<String, Value> {
    let PushExplanation { sid, from, ts, decided_at, asked, attended, waits, received, devices, rule } = explained;
    let mut items: Vec<Value> = devices
        .iter()
        .map(|device| {
            let mut item = json!(device);
            item["rule"] = device.rule.number().into();
            item["why"] = json!(device.rule);
            item
        })
        .collect();
    let is_known = |dev: &Device| devices.iter().any(|known| known.dev == dev.as_str());
    for dev in connected.iter().filter(|dev| !is_known(dev)) {
        let attended = attended.iter().any(|one| one == dev.as_str());
        let bare = AskedDevice { has_token: false, attended, was_told: false, is_quiet: false, has_room: true };
        let rule = asked.map_or(rule.unwrap_or(Rule::NoToken), |asked| decide(when, asked, bare).rule);
        items.push(json!({ "dev": dev.as_str(), "rule": rule.number(), "why": rule }));
    }
    fields(json!({
        "sid": sid, "from": from, "ts": ts, "decided_at": decided_at, "asked": asked, "attended": attended,
        "waits": waits, "received": received, "items": items,
    }))
}

fn contacts(page: ContactPage, at: u64) -> Map<String, Value> {
    let next = page.items.last().map(|last| last.user.to_string());
    let item = |Contact { user, profile, entry, presence }: Contact| {
        let name = profile.and_then(|text| serde_json::from_str::<Value>(&text).ok()?.get("name").cloned());
        let mut item = json!({
            "user": user.as_str(),
            "blocked": entry.blocked,
            "mute": entry.mute_level(at),
        });
        if let Some(name) = name {
            item["name"] = name;
        }
        if let Some(until) = entry.muted_until.filter(|until| entry.is_muted(at) && *until != u64::MAX) {
            item["until"] = until.into();
        }
        if let Some(presence) = presence {
            item["presence"] = json!(presence.state);
            if let Some(last_seen) = presence.last_seen {
                item["last_seen"] = last_seen.into();
            }
        }
        item
    };
    let items: Vec<Value> = page.items.into_iter().map(item).collect();
    let mut found = fields(json!({ "items": items, "complete": page.complete }));
    if let Some(next) = next {
        found.insert("next".to_owned(), next.into());
    }
    found
}

fn settings_of(context: &Context, settings: &UserSettings) -> Map<String, Value> {
    let writers = settings.writers.unwrap_or(context.settings.chat.who_may_write);
    fields(json!({
        "who_may_write": writers,
        "hide_presence": settings.hide_presence,
        "hide_read": settings.hide_read,
    }))
}

fn devices(devices: Vec<KnownDevice>) -> Map<String, Value> {
    let item = |device: KnownDevice| {
        let error = device.error.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        json!({
            "dev": device.dev.as_str(),
            "token_hash": device.token_hash,
            "registered_at": device.registered_at,
            "last_push": device.pushed_at,
            "last_error": error,
        })
    };
    fields(json!({ "items": devices.into_iter().map(item).collect::<Vec<_>>() }))
}

fn scheduled(page: ScheduledPage) -> Map<String, Value> {
    let next = page.items.last().map(|last| last.sid.to_string());
    let item = |waiting: &ScheduledMessage| {
        let message: Value = serde_json::from_slice(&waiting.document).unwrap_or_default();
        json!({ "id": waiting.id.as_str(), "not_before": waiting.not_before, "message": message })
    };
    let items: Vec<Value> = page.items.iter().map(item).collect();
    let mut found = fields(json!({ "items": items, "complete": page.complete }));
    if let Some(next) = next {
        found.insert("next".to_owned(), next.into());
    }
    found
}

/// A page of an export, as the answer says it.
pub(in crate::bridge) fn exported(page: ExportPage) -> Map<String, Value> {
    let ExportPage { items, next } = page;
    let mut found = fields(json!({ "items": items, "complete": next.is_none() }));
    if let Some(next) = next {
        found.insert("next".to_owned(), next.into());
    }
    found
}

fn page(page: SyncPage) -> Map<String, Value> {
    let SyncPage { items, next, complete, gap } = page;
    let items: Vec<Value> = items.iter().filter_map(|item| serde_json::from_slice(item).ok()).collect();
    let mut found = fields(json!({ "items": items, "complete": complete }));
    if let Some(next) = next {
        found.insert("next".to_owned(), next.to_string().into());
    }
    if gap {
        found.insert("gap".to_owned(), true.into());
    }
    found
}

pub(super) fn fields(value: Value) -> Map<String, Value> {
    if let Value::Object(fields) = value { fields } else { Map::new() }
}
