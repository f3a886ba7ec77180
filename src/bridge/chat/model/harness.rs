//! The chat of a bridge without its tasks, on a store in memory and by a clock that the test moves: what a client publishes is
//! taken at once, and what a task would do of itself is done when the test asks for it.

use super::super::pushes::{AT_ONCE, UNDECIDED_MS, confirmed, decide, messages};
use super::super::schedule::AtGatekeeper;
use super::super::{ChatIntake, TakeError};
use crate::bridge::attentions::Attentions;
use crate::bridge::context::Context;
use crate::bridge::refusing::{Refused, Refusing};
use crate::bridge::settings::Limits as UserLimits;
use crate::bridge::{CallsKept, Remembered, Settings};
use crate::chat::attention::Attended;
use crate::chat::delivery::Event;
use crate::chat::id::{GroupId, Owner, Sid, SidSource};
use crate::chat::principal::{Principal, Proof, Role};
use crate::chat::suffix::requests::{HistoryFrom, PAGE_MAX};
use crate::chat::topic::{ClientTopic, Device};
use crate::mqtt::{self, Ack, AckWord, Confirmation, Inbound};
use crate::ops::clock::{HeldClock, now_ms};
use crate::ops::metrics::Metrics;
use crate::store::tests::{MANY, Rig};
use crate::store::{AckedBy, ChatPolicy, Claimed, ConversationPage, HistoryQuery, Keep, Limits, OutboxDocument};
use bytes::Bytes;
use futures_util::FutureExt;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

/// When every case begins, in Unix milliseconds.
pub(super) const START: u64 = 1_700_000_000_000;
/// Messages of one writer that may wait for their time.
pub(super) const SCHEDULED_MAX: u32 = 3;
const SWEEP_PUSHES: usize = 320;

pub(super) struct ChatHarness {
    pub(super) rig: Rig,
    clock: HeldClock,
    context: Arc<Context>,
    policy: Arc<ChatPolicy>,
    intake: ChatIntake,
    refusing: Refusing,
    /// When each device said last that it is there.
    speakers: HashMap<(Owner, Device), Instant>,
    connections: u64,
    outlet: mqtt::Outlet,
    presences: mpsc::Receiver<crate::bridge::presence::PresenceWord>,
}

pub(super) fn owner(name: &str) -> Owner {
    GroupId::new(name).map_or_else(|_| Owner::new(name).unwrap(), Owner::from)
}

pub(super) fn device(name: &str) -> Device {
    Device::new(name).unwrap()
}

fn settings() -> Settings {
    let limits = UserLimits {
        user_messages_per_second: 1_000_000,
        user_strangers_per_hour: 1_000,
        user_messages_per_stranger: 1_000_000,
        user_requests_per_second: 1_000_000,
        user_registrations_per_hour: 1_000_000,
        user_same_member_per_day: 1_000_000,
        user_scheduled: SCHEDULED_MAX,
        ..UserLimits::default()
    };
    Settings { limits, ..crate::bridge::tests::settings() }
}

impl ChatHarness {
    /// With so much room in the queue of pushes.
    pub(super) fn open(queue_rows: u64) -> Self {
        let clock = HeldClock::at(START);
        Self::of(Rig::in_memory(Limits { queue_rows, ..Limits::default() }), clock)
    }

    fn of(rig: Rig, clock: HeldClock) -> Self {
        let (port, outlet) = mqtt::port(16, 4_096);
        let (presences_tx, presences) = mpsc::channel(4_096);
        let settings = settings();
        let attentions = Attentions::new(settings.chat.attended).with(settings.chat.push_when);
        let remembered = Remembered::new(&settings.chat, &settings.limits);
        let context = Arc::new(Context {
            settings,
            store: rig.store.clone(),
            metrics: Arc::new(Metrics::new()),
            events: mpsc::channel(1).0,
            presences: presences_tx,
            visibility: port.visibility,
            evictions: port.evictions,
            erasing: Default::default(),
            publish: port.publish,
            bal_presences: Default::default(),
            broker_sessions: port.sessions,
            queue_full: Default::default(),
            sending: Default::default(),
            calls_kept: CallsKept::new(now_ms()),
            attentions,
            remembered,
            erase_begun: Notify::new(),
            scheduled: Notify::new(),
            broker: mqtt::Capabilities::EMBEDDED,
            directory: port.directory,
            capabilities: Default::default(),
            sids: Mutex::new(SidSource::after(rig.recovery.last_sid)),
            written: tokio::sync::Mutex::new(()),
        });
        let policy = Arc::new(context.settings.chat_policy());
        let refusing = Refusing::new(Arc::clone(&context));
        let intake = ChatIntake::new(Arc::clone(&context), refusing.clone());
        let (speakers, connections) = (HashMap::new(), 0);
        Self { rig, clock, context, policy, intake, refusing, speakers, connections, outlet, presences }
    }

    /// As after `kill -9`, or after a stop in order. Nobody is connected then.
    pub(super) async fn restart(self, crashed: bool) -> Self {
        let rig = if crashed { self.rig.crash() } else { self.rig.reopen().await };
        Self::of(rig, self.clock)
    }

    /// Time passes, for everybody alike.
    pub(super) async fn pass(&self, by: Duration) {
        self.clock.pass(by);
        tokio::time::advance(by).await;
    }

    /// A user is known, who has not written anything.
    pub(super) async fn joins(&mut self, user: &str) {
        self.intake.heard_of(&owner(user)).await.unwrap();
    }

    /// A device of a user publishes, without a document nothing; why that was refused.
    pub(super) async fn says(
        &mut self,
        (user, dev): (&str, Option<&str>),
        suffix: &str,
        document: &Value,
    ) -> Option<String> {
        let device = dev.map(Into::into);
        let principal =
            Principal { name: user.into(), role: Role::User, device, background: false, proof: Proof::Login };
        let topic = format!("{user}/self/{suffix}");
        let payload = if document.is_null() { Bytes::new() } else { document.to_string().into() };
        let inbound = Inbound::new(principal, topic.clone(), payload, Ack::new().0);
        self.intake.heard_of(&owner(user)).await.unwrap();
        let taken = match ClientTopic::parse(&topic).unwrap().unwrap() {
            ClientTopic::Messages(owner) => self.intake.message(&owner, &inbound).await,
            ClientTopic::Receipts(owner) => self.intake.receipt(&owner, &inbound).await,
            ClientTopic::Chat(owner, chat) => self.intake.take(&owner, &chat, &inbound).await,
            topic => panic!("{topic:?}"),
        };
        let remaining = match taken {
            Ok(remaining) => remaining,
            Err(TakeError::Input(rejection)) => {
                self.refusing.refuse(&owner(user), &rejection, &Refused::of(&inbound)).await.unwrap()
            }
            Err(TakeError::Store(error)) => panic!("{error}"),
        };
        assert_eq!(remaining.await.unwrap(), Some(AckWord::Done));
        self.drain();
        let errors = self.told(user, "errors").await;
        errors.last().map(|error| error["code"].as_str().unwrap().to_owned())
    }

    /// A user asks something from the tablet, and this is the answer.
    pub(super) async fn asks(&mut self, user: &str, request: &Value) -> Value {
        let mut request = request.clone();
        request["id"] = json!("r");
        assert_eq!(self.says((user, Some("tablet")), "requests/tablet", &request).await, None);
        self.told(user, "changes").await;
        self.told(user, "replies/tablet").await.pop().unwrap()
    }

    /// What the bridge passes on to the broker, and to the task of presence.
    fn drain(&mut self) {
        while self.outlet.publish.try_recv().is_ok() {}
        while self.outlet.visibility.try_recv().is_ok() {}
        while self.presences.try_recv().is_ok() {}
    }

    pub(super) async fn comes(&mut self, user: &str, dev: &str) -> u64 {
        self.connections += 1;
        let (user, dev) = (owner(user), device(dev));
        self.context.attentions.came(&user, &dev, self.connections, now_ms());
        self.context.store.chat_device_spoke(user, dev, now_ms()).await.unwrap().await.unwrap();
        self.connections
    }

    pub(super) fn goes(&self, user: &str, dev: &str, connection: u64) {
        self.context.attentions.gone(&owner(user), &device(dev), connection, now_ms());
    }

    pub(super) fn is_active(&self, user: &str, dev: &str, active: bool) {
        self.context.attentions.active(&owner(user), &device(dev), active, now_ms());
    }

    pub(super) fn attended(&self, user: &str) -> Attended {
        self.context.attentions.attended(&owner(user), now_ms())
    }

    /// A device acknowledges the copy of a message of somebody else.
    pub(super) async fn acknowledges(&mut self, user: &str, dev: &str, sid: Sid) {
        let confirmation = Confirmation { user: user.into(), device: dev.into(), sid };
        confirmed(&self.context, &self.policy, confirmation, &mut self.speakers).await.unwrap();
    }

    /// Pushes that waited for devices whose time is over.
    pub(super) async fn decide_rung(&self) -> Vec<(Owner, Vec<Sid>)> {
        let rung = self.context.attentions.rung().now_or_never().unwrap_or_default();
        self.decide(&rung).await;
        rung
    }

    /// What waited at the last stop.
    pub(super) async fn decide_undecided(&self) -> Vec<(Owner, Vec<Sid>)> {
        let since = now_ms() - UNDECIDED_MS;
        let undecided = messages(self.rig.store.chat_undecided(since).await.unwrap().await.unwrap());
        self.decide(&undecided).await;
        undecided
    }

    /// Pushes that wait for room.
    pub(super) async fn decide_unpushed(&self) -> Vec<(Owner, Vec<Sid>)> {
        if self.rig.store.figures().chat_unpushed == 0 {
            return Vec::new();
        }
        let unpushed = messages(self.rig.store.chat_unpushed(1_000).await.unwrap().await.unwrap());
        self.decide(&unpushed).await;
        unpushed
    }

    async fn decide(&self, due: &[(Owner, Vec<Sid>)]) {
        for (user, sids) in due {
            assert!(sids.len() <= AT_ONCE);
            decide(&self.context, &self.policy, user, sids).await.unwrap();
        }
    }

    /// What is to be sent by now.
    pub(super) async fn send_scheduled(&mut self) {
        self.intake.schedule().send_due(now_ms(), &mut AtGatekeeper::default()).await.unwrap();
        self.drain();
    }

    /// What is to be deleted by now.
    pub(super) async fn expire(&self) {
        let keep = Keep { for_ms: u64::MAX, bytes: u64::MAX };
        let call = || self.context.chat_call(now_ms(), SWEEP_PUSHES, &self.policy);
        while self.rig.store.chat_sweep(keep, call()).await.unwrap().await.unwrap() {}
    }

    /// Documents of a topic of a user, which are gone then.
    pub(super) async fn told(&self, user: &str, suffix: &str) -> Vec<Value> {
        let waiting = self.waiting(user, suffix).await;
        self.settle(&waiting, AckedBy::Broker).await;
        waiting.iter().map(|document| serde_json::from_slice(&document.payload).unwrap()).collect()
    }

    pub(super) async fn waiting(&self, user: &str, suffix: &str) -> Vec<OutboxDocument> {
        self.rig.next(&format!("{user}/others/{suffix}"), 0).await
    }

    pub(super) async fn settle(&self, documents: &[OutboxDocument], by: AckedBy) {
        if !documents.is_empty() {
            let references = documents.iter().map(|document| document.reference.clone()).collect();
            self.rig.store.documents_acked(references, by, now_ms()).await.unwrap().await.unwrap();
        }
    }

    /// Pushes that go to their service now: the id of the delivery, and what it is.
    pub(super) async fn claim(&self) -> Vec<(Sid, Value)> {
        let batch = self.rig.take_by(now_ms(), 1_000, MANY).await;
        let read = |claimed: Claimed| (claimed.sid, serde_json::from_slice(&claimed.body).unwrap());
        batch.claimed.into_iter().map(read).collect()
    }

    pub(super) async fn record(&self, sid: Sid, event: Event) {
        self.rig.record(sid, event, now_ms()).await;
    }

    pub(super) async fn conversations(&self, user: &str) -> ConversationPage {
        self.rig.store.chat_conversations(owner(user), None, PAGE_MAX, now_ms()).await.unwrap().await.unwrap()
    }

    pub(super) async fn history(&self, user: &str, with: &str) -> Vec<Value> {
        let query = HistoryQuery { with: owner(with), from: HistoryFrom::Newest, limit: PAGE_MAX };
        let page = self.rig.store.chat_history(owner(user), query).await.unwrap().await.unwrap().unwrap();
        assert!(page.complete);
        values(&page.items)
    }

    /// What a device that forgot everything gets.
    pub(super) async fn synced(&self, user: &str) -> Vec<Value> {
        let (mut items, mut since) = (Vec::new(), Some(Sid::from_parts(crate::chat::id::Row(1), 0).unwrap()));
        loop {
            let page = self.rig.store.chat_sync(owner(user), since).await.unwrap().await.unwrap();
            items.extend(values(&page.items));
            if page.complete {
                return items;
            }
            since = page.next;
        }
    }
}

fn values(items: &[Bytes]) -> Vec<Value> {
    items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect()
}
