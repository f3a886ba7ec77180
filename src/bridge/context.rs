//! What all parts of the bridge share.

use super::attentions::Attentions;
use super::chat::{CallsKept, Remembered};
use super::presence::{BalPresences, PresenceWord};
use super::sending::SendingControl;
use super::settings::{ChatSettings, GroupsSection, Limits};
use crate::chat::bal_event::{EVENTS, events_topic};
use crate::chat::id::{Owner, Sid, SidSource};
use crate::chat::message::{BridgeEvent, BrokerKind};
use crate::chat::route::Routes;
use crate::chat::topic::{BridgeTopic, ClientTopic, Side};
use crate::chat::transport::{Transport, Transports};
use crate::mqtt::{self, Directory, Eviction, Outbound, Outcome, Visibility};
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metrics;
use crate::store::{self, Acks, ChatCall, ChatPolicy, Route, Seeing, Store};
use crate::transport::Capabilities;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::pending;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// How long a broker of others may take to deliver the presences that it keeps.
pub(super) const BIRTHS: Duration = Duration::from_secs(10);
/// The same for what BALs say. Who was away before the start is remembered, so this is about those who have gone since; and it is
/// longer as long as the broker still delivers what it keeps.
pub const BAL_BIRTHS: Duration = Duration::from_secs(3);

/// How the bridge is to work; limits are explained in `config/bridge.toml`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which BAL gets the messages of which app.
    pub routes: Routes,
    /// Which transport a message goes by, by its BAL and category.
    pub transports: Transports,
    /// BALs that acknowledge upstream messages explicitly.
    pub explicit: HashSet<Owner>,
    /// BALs that are told of events.
    pub listeners: Vec<Owner>,
    /// Told in `_bridge/status`.
    pub broker: BrokerKind,
    /// What chat users can expect.
    pub chat: ChatSettings,
    /// What members of groups can expect.
    pub groups: GroupsSection,
    /// Limits of the bridge.
    pub limits: Limits,
    /// Beyond it the intake stops, or the messages of devices are not acknowledged.
    pub room: store::Limits,
    /// Most messages claimed for one transport and not yet answered by the push service.
    pub claims: usize,
    /// How long a chat user whose connection broke still counts as there.
    pub presence_grace: Duration,
    /// For how long everything for BALs is held when a broker of others has come up, at least: [`BAL_BIRTHS`].
    pub births: Duration,
    /// When the process started, Unix milliseconds.
    pub started_ms: u64,
}

impl Settings {
    /// What the operator has set for chat, as the store's verbs take it.
    pub(crate) fn chat_policy(&self) -> ChatPolicy {
        ChatPolicy {
            push_when: self.chat.push_when,
            writers: self.chat.who_may_write,
            transports: self.transports.clone(),
            scheduled_max: self.limits.user_scheduled,
            listeners: self.listeners.iter().map(|bal| self.events_route(bal)).collect(),
            explicit: self.explicit.clone(),
            group_delivery: self.groups.delivery,
        }
    }

    /// Where a BAL is told of events.
    fn events_route(&self, bal: &Owner) -> Route {
        let acks = if self.explicit.contains(bal) { Acks::Explicit } else { Acks::OnPublish };
        Route { topic: events_topic(bal), bal: bal.clone(), acks }
    }

    /// Whether `topic` is the inbox of a BAL that acknowledges explicitly.
    pub(crate) fn is_explicit(&self, topic: &str) -> bool {
        let Side::Inbox { owner, suffix: "messages" | EVENTS } = Side::of(topic) else { return false };
        Owner::new(owner).is_ok_and(|owner| self.explicit.contains(&owner))
    }
}

/// The shared part.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) metrics: Arc<Metrics>,
    /// What an operator wants to hear of; full means that the newest is left out.
    pub(crate) events: mpsc::Sender<BridgeEvent>,
    /// What the task of presence is to know.
    pub(crate) presences: mpsc::Sender<PresenceWord>,
    /// Who sees whom, for the broker.
    pub(crate) visibility: mpsc::Sender<Visibility>,
    /// Whom the broker is to put out.
    pub(crate) evictions: mpsc::Sender<Eviction>,
    /// One person is erased at a time.
    pub(crate) erasing: tokio::sync::Mutex<()>,
    /// Somebody is to be erased, and nobody waits for it.
    pub(crate) erase_begun: Notify,
    /// What the broker is to publish.
    pub(crate) publish: mpsc::Sender<Outbound>,
    pub(crate) bal_presences: BalPresences,
    /// Grows when the broker has lost the session of the bridge.
    pub(crate) broker_sessions: watch::Receiver<u64>,
    /// The queue of pushes is full, and has had no room to spare since. Set by the intake.
    pub(crate) queue_full: AtomicBool,
    /// What an operator has said of sending.
    pub(crate) sending: SendingControl,
    /// Whether there may be calls of which a device that comes has to know.
    pub(crate) calls_kept: CallsKept,
    /// What is remembered by the names of chat users.
    pub(crate) remembered: Remembered,
    /// At which devices of the chat users somebody is looking.
    pub(crate) attentions: Attentions,
    /// A message was put off until a time, which may be before that of all others.
    pub(crate) scheduled: Notify,
    pub(crate) broker: mqtt::Capabilities,
    /// Whom the broker knows.
    pub(crate) directory: Directory,
    pub(crate) capabilities: BTreeMap<Transport, Capabilities>,
    /// Locked for an addition only: ids must grow across all tasks, so there is one source.
    pub(crate) sids: Mutex<SidSource>,
    /// Held from the moment when something that chat users read gets its id until the store has been asked to keep it: so what
    /// is stored later has the greater id, and a client that asks for everything since an id misses nothing.
    pub(crate) written: tokio::sync::Mutex<()>,
}

/// An id for something that chat users read, and the right to ask the store to keep it.
#[derive(Debug)]
pub(crate) struct WrittenId<'a> {
    sid: Sid,
    at: u64,
    _in_order: tokio::sync::MutexGuard<'a, ()>,
}

impl WrittenId<'_> {
    /// The id, and when it was made, in Unix milliseconds.
    pub(crate) fn id(&self) -> (Sid, u64) {
        (self.sid, self.at)
    }
}

impl Context {
    /// Whether anybody says of a message that goes by `transport` that its device has it.
    pub(crate) fn tells_delivery(&self, transport: &Transport) -> bool {
        self.capabilities.get(transport).is_none_or(|capabilities| capabilities.delivery)
    }

    /// Whether another message for the push service may be taken. Those on their way to the disk are not counted yet, so
    /// the limit may be passed by `inflight_publishes`.
    pub(crate) fn queue_has_room(&self) -> bool {
        let (figures, room) = (self.store.figures(), &self.settings.room);
        figures.queue_rows < room.queue_rows && figures.queue_bytes < room.queue_bytes
    }

    /// Whether a stopped intake may go on: with some room to spare, or it would stop again at the next message.
    pub(crate) fn queue_has_slack(&self) -> bool {
        let (figures, room) = (self.store.figures(), &self.settings.room);
        figures.queue_rows < with_slack(room.queue_rows) && figures.queue_bytes < with_slack(room.queue_bytes)
    }

    /// Whether another message of a device may be taken. Those on their way to the disk are not counted yet.
    pub(crate) fn spool_has_room(&self) -> bool {
        let (figures, room) = (self.store.figures(), &self.settings.room);
        figures.spool_rows < room.spool_rows && figures.spool_bytes < room.spool_bytes
    }

    /// The same with room to spare.
    pub(crate) fn spool_has_slack(&self) -> bool {
        let (figures, room) = (self.store.figures(), &self.settings.room);
        figures.spool_rows < with_slack(room.spool_rows) && figures.spool_bytes < with_slack(room.spool_bytes)
    }

    /// The next id, and the time it was made.
    pub(crate) fn next_sid(&self) -> (Sid, u64) {
        let now = now_ms();
        let mut sids = self.sids.lock().unwrap_or_else(PoisonError::into_inner);
        (sids.next(now, rand::random()), now)
    }

    /// The next id of something that chat users read. To be kept until the store was asked.
    pub(crate) async fn next_written(&self) -> WrittenId<'_> {
        let _in_order = self.written.lock().await;
        let (sid, at) = self.next_sid();
        WrittenId { sid, at, _in_order }
    }

    /// A call of a chat verb at `at`, with ids for so many pushes.
    pub(crate) fn chat_call(&self, at: u64, pushes: usize, policy: &Arc<ChatPolicy>) -> ChatCall {
        let mut sids = self.sids.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = policy.listeners.len();
        let push_sids = (0..pushes + listeners).map(|_| sids.next(at, rand::random())).collect();
        ChatCall { at, push_sids, policy: Arc::clone(policy) }
    }

    /// Where messages of users to a BAL go.
    pub(crate) fn route_to(&self, bal: &Owner) -> Route {
        let acks = if self.settings.explicit.contains(bal) { Acks::Explicit } else { Acks::OnPublish };
        Route { topic: BridgeTopic::Messages(bal.clone()).to_string(), bal: bal.clone(), acks }
    }

    /// Where messages of an app go, if they go anywhere.
    pub(crate) fn route(&self, category: Option<&str>) -> Option<Route> {
        Some(self.route_to(self.settings.routes.route(category)?))
    }

    /// Tells the broker who sees whose presence and profile from now on; it gives whoever has come to see them what is
    /// retained. What is asked for first is told first.
    pub(crate) async fn show(&self, seen: Vec<Seeing>) {
        for seen in seen.chunks(self.visibility.max_capacity()) {
            // All at once, so that nothing that was decided later comes between them. If the broker or a part of the bridge
            // has gone, so has everybody who would see it.
            let Ok(permits) = self.visibility.reserve_many(seen.len()).await else { return };
            for (permit, Seeing { watcher, of, visible }) in permits.zip(seen) {
                let (watcher, of) = (watcher.as_str().into(), Some(of.as_str().into()));
                permit.send(Visibility { watcher, of, visible: *visible });
            }
        }
    }

    /// Publishes a retained document; whether the broker has it.
    pub(crate) async fn publish_retained(&self, topic: &ClientTopic, payload: Vec<u8>) -> bool {
        let (outbound, outcome) = Outbound::new(topic, payload);
        // If the broker is gone, the outcome is as well.
        let _ = self.publish.send(Outbound { retain: true, ..outbound }).await;
        matches!(outcome.await, Ok(Outcome::Confirmed))
    }

    /// Whether a user is seen by nobody from now on, and sees nobody.
    pub(crate) async fn hide(&self, user: &Owner, on: bool) {
        let word = Visibility { watcher: user.as_str().into(), of: None, visible: !on };
        let _ = self.visibility.send(word).await;
        let _ = self.presences.send(PresenceWord::Hide(user.clone(), on)).await;
    }

    /// Publishes an event for an operator. It is lost when the channel is full; the log has it as well.
    pub(crate) fn emit_event(&self, event: BridgeEvent) {
        let _ = self.events.try_send(event);
    }
}

/// A limit with room to spare.
fn with_slack(limit: u64) -> u64 {
    limit - limit / 10
}

/// Waits for the oldest of a queue and takes it out; while the queue is empty, for ever. Cancel-safe: it is taken out only
/// when it is done.
pub(super) async fn oldest<F: Future + Unpin, T>(queue: &mut VecDeque<(F, T)>) -> (F::Output, T) {
    let Some((first, _)) = queue.front_mut() else { return pending().await };
    let output = first.await;
    let (_, of) = queue.pop_front().expect("the one that was waited for is still there");
    (output, of)
}
