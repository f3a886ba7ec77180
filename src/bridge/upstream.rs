//! Upstream, first half: a device's message is committed (once, however often it comes) and then acknowledged on the
//! connection that brought it.

use super::context::Context;
use crate::chat::message::{BridgeEvent, UpstreamMessage};
use crate::ops::message_log;
use crate::ops::metrics::Metric;
use crate::store::{Committed, Received, StoreError, Upstream as NewUpstream};
use crate::transport::{AckRef, DeviceMessage, Upstream};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

/// Messages kept in memory, unacknowledged, while the spool is full. The push service stops sending at 100 unanswered
/// per connection; whatever is beyond this limit is forgotten here and comes again.
const HELD_MAX: usize = 1_000;
/// How often a full spool is looked at again.
const ROOM_CHECK: Duration = Duration::from_millis(200);

/// A message on its way to the disk.
struct Pending {
    committed: Committed<Received>,
    ack_ref: AckRef,
}

/// What [`DeviceIntake::wait`] found.
pub(super) enum Ready {
    /// The oldest pending message is on disk.
    Committed(Received),
    /// Time to see whether the spool has room again.
    Look,
}

/// Takes upstream messages in.
pub(super) struct DeviceIntake {
    context: Arc<Context>,
    acks: mpsc::Sender<AckRef>,
    pending: VecDeque<Pending>,
    held: VecDeque<Upstream>,
    /// Goes on across calls of [`Self::wait`], which a busy bridge begins anew all the time.
    look: Interval,
}

impl DeviceIntake {
    pub(super) fn new(context: Arc<Context>, acks: mpsc::Sender<AckRef>) -> Self {
        let mut look = tokio::time::interval(ROOM_CHECK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { context, acks, pending: VecDeque::new(), held: VecDeque::new(), look }
    }

    /// Whether nothing is on its way to the disk and nothing waits for room.
    pub(super) fn idle(&self) -> bool {
        self.pending.is_empty() && self.held.is_empty()
    }

    /// Takes a message. It is acknowledged by a later [`Self::finish`], after its commit.
    pub(super) async fn take(&mut self, message: DeviceMessage) -> Result<(), StoreError> {
        let upstream = match message {
            DeviceMessage::Upstream(upstream) => upstream,
            DeviceMessage::Rejected(rejected) => {
                tracing::warn!(code = rejected.code, "message of a device that cannot be understood");
                return Ok(());
            }
        };
        if self.held.is_empty() && self.context.spool_has_room() {
            return self.store(upstream).await;
        }
        if self.held.is_empty() {
            let rows = self.context.metrics.get(Metric::SpoolRows);
            tracing::error!(rows, "the spool is full: messages of devices are not acknowledged until a BAL takes some");
            self.context.tell(BridgeEvent::SpoolFull { rows });
        }
        if self.held.len() < HELD_MAX {
            self.held.push_back(upstream);
        }
        Ok(())
    }

    /// The connections are gone: what was not acknowledged comes again.
    pub(super) fn give_up(&mut self) {
        self.held.clear();
    }

    /// Waits until something can be done. Cancel-safe; what is to be done is for [`Self::finish`].
    pub(super) async fn wait(&mut self) -> Result<Ready, StoreError> {
        match self.pending.front_mut() {
            Some(front) => (&mut front.committed).await.map(Ready::Committed),
            None => {
                self.look.tick().await;
                Ok(Ready::Look)
            }
        }
    }

    /// Acknowledges what is committed, or stores what was held if there is room now.
    pub(super) async fn finish(&mut self, ready: Ready) -> Result<(), StoreError> {
        let Ready::Committed(received) = ready else { return self.release_held().await };
        let Some(Pending { ack_ref, .. }) = self.pending.pop_front() else { return Ok(()) };
        match received {
            Received::Stored => self.context.metrics.count(Metric::UpstreamReceived),
            // Nothing was stored, so nothing is acknowledged; it comes again.
            Received::Full => return Ok(()),
            Received::Duplicate => {
                self.context.metrics.count(Metric::UpstreamDuplicates);
                tracing::debug!(target: message_log::TARGET, ccs_id = ack_ref.message_id, "known message of a device: acknowledged again, not published again");
            }
        }
        // The connection may be gone; the message comes again then, and is recognised.
        let _ = self.acks.send(ack_ref).await;
        Ok(())
    }

    async fn release_held(&mut self) -> Result<(), StoreError> {
        while self.context.spool_has_room() {
            let Some(upstream) = self.held.pop_front() else { return Ok(()) };
            self.store(upstream).await?;
        }
        Ok(())
    }

    async fn store(&mut self, upstream: Upstream) -> Result<(), StoreError> {
        let (sid, now) = self.context.next_sid();
        let route = self.context.route(upstream.category.as_deref());
        let Upstream { from, category, message_id, data, ack_ref } = upstream;
        tracing::debug!(target: message_log::TARGET, %sid, from = %from, category, "message of a device: to disk, then acknowledged");
        if route.is_none() {
            self.context.metrics.count(Metric::UpstreamUnrouted);
            self.context.tell(BridgeEvent::NoRoute { id: sid, category: category.clone() });
        }
        let message = UpstreamMessage { id: sid, token: from, category, ccs_id: message_id, data, ts: now };
        let payload = message.to_payload().into();
        let UpstreamMessage { token, ccs_id, category, .. } = message;
        let new = NewUpstream { sid, route, token, ccs_id, category, payload, at: now };
        let committed = self.context.store.receive(new).await?;
        self.pending.push_back(Pending { committed, ack_ref });
        Ok(())
    }
}
