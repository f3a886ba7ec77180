//! Upstream, first half: a device's message is committed (once, however often it comes) and then acknowledged on the
//! connection that brought it.
//!
//! A task of its own for each transport: no answer to a push that waits for its commit holds up a device's message, nor
//! the reverse. The push service sends only so much of all devices without an acknowledgement, so none of them may hold up the
//! others: each message goes on by itself, but for those of one device whose order would suffer ([`DeviceIntake::start`]).
//!
//! What comes to nothing for want of room is held, and tried again when there is some. What is not even held comes again only on
//! another connection: the one that brought it is ended when there is room ([`Port::resends`](crate::transport::Port::resends)).

use super::context::Context;
use crate::chat::id::{Owner, Token};
use crate::chat::message::{BridgeEvent, UpstreamMessage, may_be_of_user, to_user_message};
use crate::chat::principal::{Principal, Proof, Role};
use crate::chat::topic::{BridgeTopic, ClientTopic, Device};
use crate::chat::transport::Transport;
use crate::mqtt::{Ack, AckWord, Inbound};
use crate::ops::clock::{every, now_ms};
use crate::ops::message_log;
use crate::ops::metrics::Metric;
use crate::store::{Note, Received, StoreError, Unrouted, Upstream as NewUpstream};
use crate::transport::{AckRef, ConnectionId, DeviceMessage, ReceivedUpstream, RejectedUpstream};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Messages kept in memory, unacknowledged, while the spool is full. The push service stops sending at 100 unanswered
/// per connection; whatever is beyond this limit is forgotten here and comes again.
pub(super) const HELD_MAX: usize = 1_000;
/// Most messages on their way to the disk at one time, with those that wait for one of their device.
const COMMITS_MAX: usize = 4_096;
/// Of so many connections is it remembered that something was forgotten: no account has more.
const CONNECTIONS_MAX: usize = 1_000;
/// How often a full spool is looked at again.
const ROOM_CHECK: Duration = Duration::from_millis(200);
/// Messages without a route looked at in one go.
pub(super) const UNROUTED_PAGE: usize = 200;

/// The ends of a transport's port that are about what devices send.
pub(super) struct DevicePort {
    pub(super) messages: mpsc::Receiver<DeviceMessage>,
    pub(super) acks: mpsc::Sender<AckRef>,
    pub(super) resends: mpsc::Sender<ConnectionId>,
}

/// A message, and its place in the order of arrival.
struct Arrived {
    number: u64,
    upstream: ReceivedUpstream,
    /// It was held before.
    is_retry: bool,
}

/// What came of something that was on its way to the disk.
enum Done {
    /// A message. `is_first`: those of its device that came later wait for it.
    Message { arrived: Arrived, is_first: bool, received: Received },
    /// The event is stored that tells of a message that cannot be understood.
    Told(AckRef),
}

type Pending = BoxFuture<'static, Result<Done, StoreError>>;
/// What comes of a message that the store was asked to keep.
type Stored = BoxFuture<'static, Result<Received, StoreError>>;

/// Takes in what devices send by one transport.
pub(super) struct DeviceIntake {
    context: Arc<Context>,
    transport: Transport,
    port: DevicePort,
    /// Where messages of chat users go.
    outboxes: mpsc::Sender<Inbound>,
    pending: FuturesUnordered<Pending>,
    /// Behind the first of each device, which is among the pending ones.
    behind: HashMap<Token, VecDeque<Arrived>>,
    behind_count: usize,
    /// Those for which there was no room, by their numbers.
    held: BTreeMap<u64, ReceivedUpstream>,
    /// Those of them that are tried again.
    retried: usize,
    /// Connections that brought messages which are not even held.
    forgotten: BTreeSet<ConnectionId>,
    /// Operators were told that the spool is full, and nothing was taken without delay since.
    is_full: bool,
    /// Messages that have come.
    count: u64,
}

/// Gives routes to messages that came when there was none for their app; returns how many got one. One page has its routes
/// before the next is looked at, so they keep their order, and after a crash the rest still waits. For the start: what comes
/// in has to line up behind them.
pub(super) async fn give_routes(context: &Context) -> Result<u64, StoreError> {
    let (mut routed, mut after) = (0, 0);
    loop {
        let unrouted = context.store.unrouted(after, UNROUTED_PAGE).await?.await?;
        let Some(last) = unrouted.last() else { return Ok(routed) };
        after = last.seq;
        let route = |message: Unrouted| Some((message.sid, context.route(message.category.as_deref())?));
        let routes = unrouted.into_iter().filter_map(route).collect();
        routed += context.store.give_routes(routes).await?.await?;
    }
}

impl DeviceIntake {
    pub(super) fn new(
        context: Arc<Context>,
        transport: Transport,
        port: DevicePort,
        outboxes: mpsc::Sender<Inbound>,
    ) -> Self {
        Self {
            context,
            transport,
            port,
            outboxes,
            pending: FuturesUnordered::new(),
            behind: HashMap::new(),
            behind_count: 0,
            held: BTreeMap::new(),
            retried: 0,
            forgotten: BTreeSet::new(),
            is_full: false,
            count: 0,
        }
    }

    /// Works until the transport has ended and all its messages are on disk. What is held for want of room by then was not
    /// acknowledged, and comes again.
    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        let mut look = every(ROOM_CHECK);
        let mut ended = false;
        while !(ended && self.pending.is_empty()) {
            let has_place = self.has_place();
            let waits_for_room = !(self.held.is_empty() && self.forgotten.is_empty());
            tokio::select! {
                Some(done) = self.pending.next(), if !self.pending.is_empty() => self.done(done?).await,
                message = self.port.messages.recv(), if !ended && has_place => match message {
                    Some(DeviceMessage::Upstream(upstream)) => self.take(upstream).await?,
                    Some(DeviceMessage::Rejected(rejected)) => self.reject(rejected).await?,
                    None => ended = true,
                },
                _ = look.tick(), if !ended && waits_for_room => self.look_for_room().await?,
            }
        }
        Ok(())
    }

    fn has_place(&self) -> bool {
        self.pending.len() + self.behind_count < COMMITS_MAX
    }

    async fn take(&mut self, upstream: ReceivedUpstream) -> Result<(), StoreError> {
        self.count += 1;
        let arrived = Arrived { number: self.count, upstream, is_retry: false };
        if self.held.is_empty() && self.context.spool_has_room() {
            self.is_full = false;
            return self.start(arrived).await;
        }
        self.hold(arrived);
        Ok(())
    }

    /// This event is stored before the message is acknowledged: after the acknowledgement the push service does not send it
    /// again. All other events are lost when the channel is full.
    async fn reject(&mut self, rejected: RejectedUpstream) -> Result<(), StoreError> {
        let RejectedUpstream { code, sample, ack_ref } = rejected;
        let (transport, connection) = (self.transport.to_string(), ack_ref.connection.0);
        tracing::warn!(transport, connection, code, "a device's message cannot be understood: told and acknowledged");
        self.context.metrics.upstream_rejected(&transport, code);
        let at = now_ms();
        let event = BridgeEvent::UpstreamRejected { transport, code, sample, connection };
        let topic = BridgeTopic::Events.to_string();
        let note = Note { topic, payload: event.to_payload(at).into(), correlation: None, at };
        let context = Arc::clone(&self.context);
        let committed = self.beside(context.store.queue_note(note)).await?;
        self.pending.push(Box::pin(async move { committed.await.map(|()| Done::Told(ack_ref)) }));
        Ok(())
    }

    /// Begins with a message. It waits for those of its device before it where their order may suffer: a message of a user is
    /// stored in several steps, and when the spool is nearly full, one may find no room and the next one some.
    async fn start(&mut self, arrived: Arrived) -> Result<(), StoreError> {
        let token = &arrived.upstream.from;
        if let Some(behind) = self.behind.get_mut(token) {
            behind.push_back(arrived);
            self.behind_count += 1;
        } else if may_be_of_user(&arrived.upstream.data) || !self.context.spool_has_slack() {
            self.behind.insert(token.clone(), VecDeque::new());
            self.begin(arrived);
        } else {
            let context = Arc::clone(&self.context);
            let stored = self.beside(to_bal(&context, &arrived.upstream)).await?;
            self.pending.push(Box::pin(async move {
                let received = stored.await?;
                Ok(Done::Message { arrived, is_first: false, received })
            }));
        }
        Ok(())
    }

    fn begin(&self, arrived: Arrived) {
        let (context, outboxes) = (Arc::clone(&self.context), self.outboxes.clone());
        self.pending.push(Box::pin(async move {
            let received = store(&context, &outboxes, &arrived.upstream).await?;
            Ok(Done::Message { arrived, is_first: true, received })
        }));
    }

    /// Does something that may wait for room in the queue of the store, while all that is pending goes on: some of it may have
    /// got that room, and gives it back only when it is polled.
    async fn beside<T>(&mut self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(done) = self.pending.next(), if !self.pending.is_empty() => self.done(done?).await,
            }
        }
    }

    /// Acknowledges what is on disk, and lets the next one of its device go on. Where nothing was stored, nothing is
    /// acknowledged, and those behind it wait with it.
    async fn done(&mut self, done: Done) {
        let (arrived, is_first, received) = match done {
            Done::Message { arrived, is_first, received } => (arrived, is_first, received),
            Done::Told(ack_ref) => return self.acknowledge(ack_ref).await,
        };
        self.retried -= usize::from(arrived.is_retry);
        let token = arrived.upstream.from.clone();
        match received {
            Received::Full => {
                self.hold(arrived);
                let behind = if is_first { self.behind.remove(&token) } else { None }.unwrap_or_default();
                self.behind_count -= behind.len();
                for next in behind {
                    self.retried -= usize::from(next.is_retry);
                    self.hold(next);
                }
                return;
            }
            Received::Stored => self.context.metrics.count(Metric::UpstreamReceived),
            Received::Duplicate => {
                self.context.metrics.count(Metric::UpstreamDuplicates);
                let message_id = &arrived.upstream.message_id;
                tracing::debug!(target: message_log::TARGET, message_id, "known message of a device: acknowledged again, not published again");
            }
        }
        if is_first {
            match self.behind.get_mut(&token).and_then(VecDeque::pop_front) {
                Some(next) => {
                    self.behind_count -= 1;
                    self.begin(next);
                }
                None => drop(self.behind.remove(&token)),
            }
        }
        self.acknowledge(arrived.upstream.ack_ref).await;
    }

    /// The connection may be gone; the message comes again then, and is recognised.
    async fn acknowledge(&mut self, ack_ref: AckRef) {
        let _ = self.port.acks.send(ack_ref).await;
    }

    /// Keeps a message until there is room. One that came again is acknowledged on the connection that brought it last.
    fn hold(&mut self, Arrived { number, mut upstream, .. }: Arrived) {
        if !self.is_full && !self.context.spool_has_room() {
            self.is_full = true;
            let rows = self.context.metrics.get(Metric::SpoolRows);
            tracing::error!(rows, "the spool is full: messages of devices are not acknowledged until a BAL takes some");
            self.context.emit_event(BridgeEvent::SpoolFull { rows });
        }
        let same = |one: &ReceivedUpstream| one.message_id == upstream.message_id && one.from == upstream.from;
        let known = self.held.iter().find(|(_, one)| same(one)).map(|(known, _)| *known);
        let place = known.map_or(number, |known| known.min(number));
        if let Some(known) = known
            && let Some(other) = self.held.remove(&known)
            && known > number
        {
            upstream.ack_ref = other.ack_ref;
        }
        self.held.insert(place, upstream);
        if self.held.len() > HELD_MAX
            && let Some((_, newest)) = self.held.pop_last()
        {
            self.forgotten.insert(newest.ack_ref.connection);
            if self.forgotten.len() > CONNECTIONS_MAX {
                self.forgotten.pop_first();
            }
        }
    }

    /// Begins with what is held, as far as there is room. What finds none meanwhile waits for the next look.
    async fn look_for_room(&mut self) -> Result<(), StoreError> {
        // All that was held has found room.
        if self.held.is_empty() && self.retried == 0 && self.context.spool_has_slack() {
            self.ask_for_forgotten();
        }
        let numbers: Vec<u64> = self.held.keys().copied().collect();
        for number in numbers {
            if !(self.context.spool_has_room() && self.has_place()) {
                return Ok(());
            }
            let Some(upstream) = self.held.remove(&number) else { continue };
            if self.held.range(..number).any(|(_, earlier)| earlier.from == upstream.from) {
                self.held.insert(number, upstream);
                continue;
            }
            self.retried += 1;
            self.start(Arrived { number, upstream, is_retry: true }).await?;
        }
        Ok(())
    }

    fn ask_for_forgotten(&mut self) {
        while let Some(connection) = self.forgotten.pop_first() {
            // Without a transport nothing comes again before the next start.
            if let Err(TrySendError::Full(connection)) = self.port.resends.try_send(connection) {
                self.forgotten.insert(connection);
                return;
            }
        }
    }
}

/// Stores a message of a device: of a user what it would publish in its outbox, else for the BAL of its app.
async fn store(
    context: &Arc<Context>,
    outboxes: &mpsc::Sender<Inbound>,
    upstream: &ReceivedUpstream,
) -> Result<Received, StoreError> {
    if let Some(message) = to_user_message(&upstream.data, &upstream.from, &upstream.message_id) {
        let owner = context.store.chat_owner_of(upstream.from.clone()).await?.await?;
        if let Some((user, device)) = owner {
            return Ok(of_user(outboxes, &user, &device, message).await);
        }
    }
    to_bal(context, upstream).await?.await
}

/// A message of a device to the BAL of its app: asks the store, and yields what comes of it.
async fn to_bal(context: &Arc<Context>, upstream: &ReceivedUpstream) -> Result<Stored, StoreError> {
    let (sid, now) = context.next_sid();
    let ReceivedUpstream { from, category, message_id, data, .. } = upstream.clone();
    let route = context.route(category.as_deref());
    let unrouted = route.is_none().then(|| (Arc::clone(context), category.clone()));
    tracing::debug!(target: message_log::TARGET, %sid, from = %from, category, "message of a device: to disk, then acknowledged");
    let message = UpstreamMessage { id: sid, token: from, category, ccs_id: message_id, data, ts: now };
    let payload = message.to_payload().into();
    let UpstreamMessage { token, ccs_id: message_id, category, .. } = message;
    let new = NewUpstream { sid, route, token, message_id, category, payload, at: now };
    let committed = context.store.receive(new).await?;
    Ok(Box::pin(async move {
        let received = committed.await?;
        if let (Received::Stored, Some((context, category))) = (received, unrouted) {
            context.metrics.count(Metric::UpstreamUnrouted);
            context.emit_event(BridgeEvent::NoRoute { id: sid, category });
        }
        Ok(received)
    }))
}

/// A message of a device whose token is a user's: what that user would publish in the outbox.
async fn of_user(outboxes: &mpsc::Sender<Inbound>, user: &Owner, device: &Device, message: Vec<u8>) -> Received {
    tracing::debug!(target: message_log::TARGET, %user, "message of a user by a device: to disk, then acknowledged");
    let (ack, word) = Ack::new();
    let (name, device) = (user.as_str().into(), Some(device.as_str().into()));
    let principal = Principal { name, role: Role::User, device, background: false, proof: Proof::Token };
    let topic = ClientTopic::Messages(user.clone()).to_string();
    let inbound = Inbound::new(principal, topic, message.into(), ack);
    let _ = outboxes.send(inbound).await;
    match word.await {
        Ok(AckWord::Done | AckWord::NoSuchTopic) => Received::Stored,
        // It comes again when there is room, or after the start.
        Ok(AckWord::Quota) | Err(_) => Received::Full,
    }
}
