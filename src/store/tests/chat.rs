//! Chat between users: a store with some, and what they do.

mod amend;
mod calls;
mod deletion;
mod devices;
mod erase;
mod erase_others;
mod events;
mod expired;
mod explain;
mod export;
mod first_screen;
mod group_bals;
mod group_members;
mod group_pushes;
mod group_returns;
mod group_topics;
pub(super) mod groups;
mod invitations;
mod keep;
mod messages;
mod pushes;
mod receipts;
mod scheduled;
mod sync;

use super::*;
use crate::chat::attention::Attended;
use crate::chat::contact::MuteLevel;
use crate::chat::group::GroupDelivery;
use crate::chat::message::{ErrorCode, Limits as PayloadLimits, Rejection};
use crate::chat::principal::Role;
use crate::chat::push_decision::PushWhen;
use crate::chat::route::Routes;
use crate::chat::suffix::devices::VerifyTokens;
use crate::chat::suffix::devices::{DeviceWord, Registration};
use crate::chat::suffix::messages::UserMessage;
use crate::chat::suffix::requests::{DeletionOf, HistoryFrom, PAGE_MAX, Writers};
use crate::chat::topic::Device;
use crate::chat::transport::Transports;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub(super) const MINUTE: u64 = 60_000;
pub(super) const DAY: u64 = 24 * 60 * MINUTE;

pub(super) fn owner(name: &str) -> Owner {
    Owner::new(name).unwrap()
}

pub(super) fn device(name: &str) -> Device {
    Device::new(name).unwrap()
}

pub(super) fn devices(names: &[&str]) -> Vec<Device> {
    names.iter().map(|name| device(name)).collect()
}

pub(super) fn policy(push_when: PushWhen) -> ChatPolicy {
    let transports = Transports::new(Transport::Ccs, HashMap::new(), &Routes::default());
    ChatPolicy {
        push_when,
        writers: Writers::Anyone,
        transports,
        scheduled_max: 3,
        listeners: Vec::new(),
        explicit: HashSet::new(),
        group_delivery: GroupDelivery::Inbox,
    }
}

/// A user's phone, on which nobody looks at anything.
pub(super) fn writer(name: &str) -> Writer {
    let (dev, by_token, connected, strangers, let_in) = (Some(device("phone")), None, Vec::new(), true, false);
    Writer { name: owner(name), role: Role::User, dev, by_token, connected, strangers, let_in, direct: false }
}

fn bal(name: &str) -> Writer {
    Writer {
        name: owner(name),
        role: Role::Bal,
        dev: None,
        by_token: None,
        connected: Vec::new(),
        strangers: true,
        let_in: false,
        direct: false,
    }
}

/// A user, as far as the store knows it, with these attended devices.
pub(super) fn peer(name: &str, attended: &[&str]) -> Peer {
    Peer { name: owner(name), role: None, attended: Attended { devices: devices(attended) } }
}

pub(super) fn registration(token: &str, more: &Value) -> Registration {
    let mut document = json!({ "token": token, "platform": "android" });
    document.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let word = DeviceWord::parse(document.to_string().as_bytes(), &PayloadLimits::default()).unwrap();
    let DeviceWord::Register(registration) = word else { panic!("{document} unregisters") };
    registration
}

/// A push that was handed to its service.
#[derive(Debug, Clone)]
pub(super) struct Pushed {
    pub(super) sid: Sid,
    pub(super) token: String,
    pub(super) push: Value,
}

impl Pushed {
    pub(super) fn data(&self, name: &str) -> &str {
        self.push["data"][name].as_str().unwrap_or_default()
    }

    fn what(&self) -> (&str, &str) {
        (&self.token, self.data("type"))
    }
}

fn whats(pushes: &[Pushed]) -> Vec<(&str, &str)> {
    pushes.iter().map(Pushed::what).collect()
}

/// A store and its users.
pub(super) struct Chat {
    pub(super) rig: Rig,
    pub(super) at: u64,
    pub(super) policy: Arc<ChatPolicy>,
}

impl Chat {
    /// With these users, of whom nobody has written to anybody.
    pub(super) async fn of(users: &[&str]) -> Self {
        Self::with(users, Limits::default()).await
    }

    /// The same, in a store with these limits.
    pub(super) async fn with(users: &[&str], limits: Limits) -> Self {
        let policy = Arc::new(policy(PushWhen::default()));
        let chat = Self { rig: Rig::in_memory(limits), at: NOW, policy };
        for user in users {
            chat.rig.store.chat_user_seen(owner(user)).await.unwrap().await.unwrap();
        }
        chat
    }

    /// Alice and Bob, who have written to each other and read it.
    pub(super) async fn of_two() -> Self {
        let mut chat = Self::of(&["alice", "bob"]).await;
        chat.write("bob", "alice", "are you there").await;
        chat.write("alice", "bob", "yes").await;
        let last = chat.write("bob", "alice", "fine").await;
        chat.read("alice", "bob", last).await;
        for user in ["alice", "bob"] {
            chat.forget(user).await;
        }
        chat
    }

    pub(super) fn call(&mut self) -> ChatCall {
        self.at += 1;
        let push_sids = (0..2 * USER_DEVICES_MAX).map(|_| self.rig.sids.next(self.at, 0)).collect();
        ChatCall { at: self.at, push_sids, policy: self.policy.clone() }
    }

    pub(super) async fn send(&mut self, from: Writer, to: Peer, document: &Value) -> (Sid, ChatOutcome) {
        let (sid, sent) = self.ask_to_send(from, to, document).await;
        (sid, sent.await.unwrap())
    }

    /// The same, and nobody has waited for it.
    async fn ask_to_send(&mut self, from: Writer, to: Peer, document: &Value) -> (Sid, Committed<ChatOutcome>) {
        let message = UserMessage::parse(
            crate::chat::message::Sender::User,
            document.to_string().as_bytes(),
            &PayloadLimits::default(),
        )
        .unwrap();
        self.at += 1;
        let sid = self.rig.sids.next(self.at, 0);
        let deadline_ms = self.at + 28 * DAY;
        let route = (to.role == Some(Role::Bal)).then(|| Route {
            bal: to.name.clone(),
            topic: format!("{}/others/messages", to.name),
            acks: Acks::Explicit,
        });
        let new = NewChatMessage { sid, from, to, message, deadline_ms, route };
        let call = self.call();
        (sid, self.rig.store.chat_message(new, call).await.unwrap())
    }

    /// A message that must be taken, to somebody who looks at nothing.
    pub(super) async fn write(&mut self, from: &str, to: &str, body: &str) -> Sid {
        let (sid, outcome) = self.send(writer(from), peer(to, &[]), &json!({ "to": to, "body": body })).await;
        assert!(matches!(outcome, ChatOutcome::Done { .. }), "{outcome:?}");
        sid
    }

    pub(super) async fn receipt(&mut self, receipt: NewReceipt) -> ChatOutcome {
        let call = self.call();
        self.rig.store.chat_receipt(receipt, call).await.unwrap().await.unwrap()
    }

    pub(super) async fn read(&mut self, user: &str, with: &str, sid: Sid) -> ChatOutcome {
        self.receipt(NewReceipt { read: true, of: ReceiptOf::In(owner(with), sid), ..received(user, &[]) }).await
    }

    /// What a user is told on `others/{suffix}`, which is gone then.
    pub(super) async fn told(&self, user: &str, suffix: &str) -> Vec<Value> {
        let waiting = self.rig.next(&format!("{user}/others/{suffix}"), 0).await;
        let references = waiting.iter().map(|document| document.reference.clone()).collect();
        self.rig.store.documents_acked(references, AckedBy::Broker, self.at).await.unwrap().await.unwrap();
        waiting.iter().map(|document| serde_json::from_slice(&document.payload).unwrap()).collect()
    }

    /// Everything that a user was told so far.
    pub(super) async fn forget(&self, user: &str) {
        for suffix in ["messages", "receipts", "read", "changes", "devices", "invitations", "calls"] {
            self.told(user, suffix).await;
        }
    }

    pub(super) async fn set(&mut self, user: &str, change: SettingChange) -> Vec<Seeing> {
        self.at += 1;
        let told = Bytes::from("{}");
        self.rig.store.chat_set(owner(user), change, told, self.at).await.unwrap().await.unwrap().unwrap()
    }

    pub(super) async fn block(&mut self, user: &str, other: &str, on: bool) -> Vec<Seeing> {
        self.set(user, SettingChange::About(owner(other), EntryChange::Block(on))).await
    }

    pub(super) async fn change_device(&mut self, change: DeviceChange) -> ChatOutcome {
        let call = self.call();
        self.rig.store.chat_device(change, call).await.unwrap().await.unwrap()
    }

    pub(super) async fn register(&mut self, user: &str, dev: &str, token: &str) -> ChatOutcome {
        self.change_device(registers(user, dev, Some(registration(token, &json!({}))))).await
    }

    /// What is due at `at` goes to its service.
    pub(super) async fn claim(&self, at: u64) -> Vec<Pushed> {
        let batch = self.rig.take_by(at, 1_000, MANY).await;
        let read = |claimed: Claimed| {
            let push: Value = serde_json::from_slice(&claimed.body).unwrap();
            Pushed { sid: claimed.sid, token: push["target"]["token"].as_str().unwrap().to_owned(), push }
        };
        batch.claimed.into_iter().map(read).collect()
    }

    /// The same, and the service takes it.
    pub(super) async fn pushes(&self) -> Vec<Pushed> {
        let pushes = self.claim(self.at).await;
        for pushed in &pushes {
            self.rig.record(pushed.sid, accepted(), self.at).await;
        }
        pushes
    }

    pub(super) async fn crash(self) -> Self {
        Self { rig: self.rig.crash(), ..self }
    }

    pub(super) fn count(&self, sql: &str) -> i64 {
        let file = rusqlite::Connection::open(&self.rig.settings.path).unwrap();
        file.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// A confirmation by a phone that nobody looks at.
pub(super) fn received(user: &str, sids: &[Sid]) -> NewReceipt {
    NewReceipt {
        user: owner(user),
        dev: Some(device("phone")),
        attended: false,
        connected: Vec::new(),
        of: ReceiptOf::Each(sids.to_vec()),
        waited: Vec::new(),
        read: false,
    }
}

pub(super) fn registers(user: &str, dev: &str, registration: Option<Registration>) -> DeviceChange {
    DeviceChange {
        user: owner(user),
        dev: device(dev),
        registration,
        proof: "word".to_owned(),
        verify: VerifyTokens::Moved,
    }
}

pub(super) fn code(outcome: &ChatOutcome) -> Option<ErrorCode> {
    if let ChatOutcome::Refused(rejection) = outcome { Some(rejection.code()) } else { None }
}

fn statuses(documents: &[Value]) -> Vec<(&str, &str)> {
    documents.iter().map(|d| (d["sid"].as_str().unwrap(), d["status"].as_str().unwrap())).collect()
}
