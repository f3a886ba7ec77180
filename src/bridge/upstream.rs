//! Upstream, first half: a device's message is committed (once, however often it comes) and then acknowledged on the
//! connection that brought it.

use super::hall::Hall;
use crate::chat::message::{BridgeEvent, UpstreamMessage};
use crate::ops::metrics::Metric;
use crate::ops::story;
use crate::store::{Committed, Received, StoreError, Upstream as NewUpstream};
use crate::transport::{Tag, Upstream};
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
    tag: Tag,
}

/// What [`UpstreamDesk::wait`] found.
pub(super) enum Ready {
    /// The oldest pending message is on disk.
    Committed(Received),
    /// Time to see whether the spool has room again.
    Look,
}

/// Takes upstream messages in.
pub(super) struct UpstreamDesk {
    hall: Arc<Hall>,
    acks: mpsc::Sender<Tag>,
    pending: VecDeque<Pending>,
    held: VecDeque<Upstream>,
    /// Goes on across calls of [`Self::wait`], which a busy bridge begins anew all the time.
    look: Interval,
}

impl UpstreamDesk {
    pub(super) fn new(hall: Arc<Hall>, acks: mpsc::Sender<Tag>) -> Self {
        let mut look = tokio::time::interval(ROOM_CHECK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { hall, acks, pending: VecDeque::new(), held: VecDeque::new(), look }
    }

    /// Whether nothing is on its way to the disk and nothing waits for room.
    pub(super) fn idle(&self) -> bool {
        self.pending.is_empty() && self.held.is_empty()
    }

    /// Takes a message. It is acknowledged by a later [`Self::finish`], after its commit.
    pub(super) async fn take(&mut self, upstream: Upstream) -> Result<(), StoreError> {
        if self.held.is_empty() && self.hall.spool_has_room() {
            return self.store(upstream).await;
        }
        if self.held.is_empty() {
            let rows = self.hall.metrics.get(Metric::SpoolRows);
            tracing::error!(rows, "the spool is full: messages of devices are not acknowledged until a BAL takes some");
            self.hall.tell(BridgeEvent::SpoolFull { rows });
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
        let Some(Pending { tag, .. }) = self.pending.pop_front() else { return Ok(()) };
        match received {
            Received::Stored => self.hall.metrics.count(Metric::UpstreamReceived),
            // Nothing was stored, so nothing is acknowledged; it comes again.
            Received::Full => return Ok(()),
            Received::Duplicate => {
                self.hall.metrics.count(Metric::UpstreamDuplicates);
                tracing::debug!(target: story::TARGET, ccs_id = tag.message_id, "known message of a device: acknowledged again, not published again");
            }
        }
        // The connection may be gone; the message comes again then, and is recognised.
        let _ = self.acks.send(tag).await;
        Ok(())
    }

    async fn release_held(&mut self) -> Result<(), StoreError> {
        while self.hall.spool_has_room() {
            let Some(upstream) = self.held.pop_front() else { return Ok(()) };
            self.store(upstream).await?;
        }
        Ok(())
    }

    async fn store(&mut self, upstream: Upstream) -> Result<(), StoreError> {
        let (sid, now) = self.hall.next_sid();
        let route = self.hall.route(upstream.category.as_deref());
        let Upstream { from, category, message_id, data, tag } = upstream;
        tracing::debug!(target: story::TARGET, %sid, from = %from, category, "message of a device: to disk, then acknowledged");
        if route.is_none() {
            self.hall.metrics.count(Metric::UpstreamUnrouted);
            self.hall.tell(BridgeEvent::NoRoute { id: sid, category: category.clone() });
        }
        let message = UpstreamMessage { id: sid, token: from, category, ccs_id: message_id, data, ts: now };
        let payload = message.to_payload().into();
        let UpstreamMessage { token, ccs_id, category, .. } = message;
        let new = NewUpstream { sid, route, token, ccs_id, category, payload, at: now };
        let committed = self.hall.store.receive(new).await?;
        self.pending.push_back(Pending { committed, tag });
        Ok(())
    }
}
