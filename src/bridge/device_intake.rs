//! Upstream, first half: a device's message is committed (once, however often it comes) and then acknowledged on the
//! connection that brought it.
//!
//! A task of its own for each transport: no answer to a push that waits for its commit holds up a device's message, nor
//! the reverse.

use super::context::{Context, oldest};
use crate::chat::id::Owner;
use crate::chat::message::{BridgeEvent, UpstreamMessage, to_user_message};
use crate::chat::principal::{Principal, Proof, Role};
use crate::chat::topic::{BridgeTopic, ClientTopic, Device};
use crate::chat::transport::Transport;
use crate::mqtt::{Ack, AckWord, Inbound};
use crate::ops::clock::{every, now_ms};
use crate::ops::message_log;
use crate::ops::metrics::Metric;
use crate::store::{Committed, Note, Received, StoreError, Unrouted, Upstream as NewUpstream};
use crate::transport::{AckRef, DeviceMessage, ReceivedUpstream, RejectedUpstream};
use futures_util::TryFutureExt;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages kept in memory, unacknowledged, while the spool is full. The push service stops sending at 100 unanswered
/// per connection; whatever is beyond this limit is forgotten here and comes again.
const HELD_MAX: usize = 1_000;
/// Most messages that wait for their commit at one time.
const COMMITS_MAX: usize = 4_096;
/// How often a full spool is looked at again.
const ROOM_CHECK: Duration = Duration::from_millis(200);
/// Messages without a route looked at in one go.
pub(super) const UNROUTED_PAGE: usize = 200;

/// What is on its way to the disk: a message, or the event that tells of one that cannot be understood (`None`).
type Pending = BoxFuture<'static, Result<Option<Received>, StoreError>>;

/// Takes in what devices send by one transport.
pub(super) struct DeviceIntake {
    context: Arc<Context>,
    transport: Transport,
    messages: mpsc::Receiver<DeviceMessage>,
    acks: mpsc::Sender<AckRef>,
    /// Where messages of chat users go.
    outboxes: mpsc::Sender<Inbound>,
    /// In the order in which they were asked for.
    pending: VecDeque<(Pending, AckRef)>,
    held: VecDeque<ReceivedUpstream>,
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
        messages: mpsc::Receiver<DeviceMessage>,
        acks: mpsc::Sender<AckRef>,
        outboxes: mpsc::Sender<Inbound>,
    ) -> Self {
        Self { context, transport, messages, acks, outboxes, pending: VecDeque::new(), held: VecDeque::new() }
    }

    /// Works until the transport has ended and all its messages are on disk. What is held for want of room by then was not
    /// acknowledged, and comes again.
    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        let mut look = every(ROOM_CHECK);
        let mut ended = false;
        while !(ended && self.pending.is_empty()) {
            let room = self.pending.len() < COMMITS_MAX;
            tokio::select! {
                (received, ack_ref) = oldest(&mut self.pending) => self.committed(received?, ack_ref).await,
                message = self.messages.recv(), if !ended && room => match message {
                    Some(DeviceMessage::Upstream(upstream)) => self.take(upstream).await?,
                    Some(DeviceMessage::Rejected(rejected)) => self.reject(rejected).await?,
                    None => ended = true,
                },
                _ = look.tick(), if !ended && !self.held.is_empty() => self.release_held().await?,
            }
        }
        Ok(())
    }

    async fn take(&mut self, upstream: ReceivedUpstream) -> Result<(), StoreError> {
        if self.held.is_empty() && self.context.spool_has_room() {
            return self.store(upstream).await;
        }
        if self.held.is_empty() {
            let rows = self.context.metrics.get(Metric::SpoolRows);
            tracing::error!(rows, "the spool is full: messages of devices are not acknowledged until a BAL takes some");
            self.context.emit_event(BridgeEvent::SpoolFull { rows });
        }
        // One that came again is acknowledged on the connection that brought it last.
        let same = |one: &&mut ReceivedUpstream| one.message_id == upstream.message_id && one.from == upstream.from;
        if let Some(known) = self.held.iter_mut().find(same) {
            known.ack_ref = upstream.ack_ref;
        } else if self.held.len() < HELD_MAX {
            self.held.push_back(upstream);
        }
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
        let committed = self.context.store.queue_note(note).await?;
        self.pending.push_back((Box::pin(committed.map_ok(|()| None)), ack_ref));
        Ok(())
    }

    /// Acknowledges what is on disk.
    async fn committed(&mut self, received: Option<Received>, ack_ref: AckRef) {
        match received {
            Some(Received::Stored) => self.context.metrics.count(Metric::UpstreamReceived),
            // Nothing was stored, so nothing is acknowledged; it comes again.
            Some(Received::Full) => return,
            Some(Received::Duplicate) => {
                self.context.metrics.count(Metric::UpstreamDuplicates);
                let message_id = &ack_ref.message_id;
                tracing::debug!(target: message_log::TARGET, message_id, "known message of a device: acknowledged again, not published again");
            }
            None => {}
        }
        // The connection may be gone; the message comes again then, and is recognised.
        let _ = self.acks.send(ack_ref).await;
    }

    async fn release_held(&mut self) -> Result<(), StoreError> {
        while self.context.spool_has_room() {
            let Some(upstream) = self.held.pop_front() else { return Ok(()) };
            self.store(upstream).await?;
        }
        Ok(())
    }

    async fn store(&mut self, upstream: ReceivedUpstream) -> Result<(), StoreError> {
        let ack_ref = upstream.ack_ref.clone();
        let pending: Pending = match to_user_message(&upstream.data, &upstream.from, &upstream.message_id) {
            Some(message) => {
                let owner = self.context.store.chat_owner_of(upstream.from.clone()).await?;
                let (context, outboxes) = (Arc::clone(&self.context), self.outboxes.clone());
                Box::pin(async move {
                    match owner.await? {
                        Some((user, device)) => Ok(Some(of_user(&outboxes, &user, &device, message).await)),
                        None => to_bal(&context, upstream).await?.await.map(Some),
                    }
                })
            }
            None => Box::pin(to_bal(&self.context, upstream).await?.map_ok(Some)),
        };
        self.pending.push_back((pending, ack_ref));
        Ok(())
    }
}

/// A message of a device to the BAL of its app.
async fn to_bal(context: &Context, upstream: ReceivedUpstream) -> Result<Committed<Received>, StoreError> {
    let (sid, now) = context.next_sid();
    let route = context.route(upstream.category.as_deref());
    let ReceivedUpstream { from, category, message_id, data, .. } = upstream;
    tracing::debug!(target: message_log::TARGET, %sid, from = %from, category, "message of a device: to disk, then acknowledged");
    if route.is_none() {
        context.metrics.count(Metric::UpstreamUnrouted);
        context.emit_event(BridgeEvent::NoRoute { id: sid, category: category.clone() });
    }
    let message = UpstreamMessage { id: sid, token: from, category, ccs_id: message_id, data, ts: now };
    let payload = message.to_payload().into();
    let UpstreamMessage { token, ccs_id: message_id, category, .. } = message;
    let new = NewUpstream { sid, route, token, message_id, category, payload, at: now };
    context.store.receive(new).await
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
