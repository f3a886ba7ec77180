//! What happens from time to time: clients that are silent or do not read are ended, what has expired is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::Hub;
use crate::broker::connection::Link;
use crate::broker::routing::retained::Usage;
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metric;

/// How often connections are looked at; a client may be silent so much longer than it said.
const LOOK: Duration = Duration::from_secs(1);
/// How often sessions and messages are, in looks.
const EXPIRY: u32 = 30;

/// What the broker has at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Sessions, connected or not.
    pub(crate) sessions: usize,
    /// Those with a connection.
    pub(crate) connected: usize,
    /// Messages of clients that wait on disk, and their bytes: payloads and properties.
    pub(crate) queued: (u64, u64),
    /// Retained messages.
    pub(crate) retained: Usage,
}

impl Hub {
    /// Looks at everything in turn, for ever. `clients` is told how many are connected.
    pub(super) async fn sweep(self: Arc<Self>, clients: watch::Sender<Option<usize>>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u32;
        loop {
            looks.tick().await;
            let snapshot = self.look();
            clients.send_replace(Some(snapshot.connected));
            self.measure(snapshot);
            count = count.wrapping_add(1);
            if count.is_multiple_of(EXPIRY) {
                self.end_expired(now_ms()).await;
                self.end_empty_groups().await;
                self.drop_expired().await;
            }
        }
    }

    /// Ends connections that are overdue, and counts what there is.
    fn look(&self) -> Snapshot {
        let (clock, now) = (Link::clock(), now_ms());
        let sessions = self.registry.sessions();
        let mut connected = 0;
        for link in sessions.iter().filter_map(|session| session.link()) {
            connected += 1;
            if let Some(refusal) = link.overdue(clock, now) {
                link.end(refusal);
            }
        }
        let queued = self.registry.on_disk();
        Snapshot { sessions: sessions.len(), connected, queued, retained: self.lock_retained().total() }
    }

    fn measure(&self, Snapshot { sessions, queued: (rows, bytes), retained, .. }: Snapshot) {
        self.metrics.set(Metric::BrokerSessions, sessions as u64);
        self.metrics.set(Metric::BrokerQueuedRows, rows);
        self.metrics.set(Metric::BrokerQueuedBytes, bytes);
        self.metrics.set(Metric::BrokerRetained, retained.messages);
        self.metrics.set(Metric::BrokerRetainedBytes, retained.bytes);
    }

    /// Drops retained messages and rows whose time is over.
    pub(in crate::broker) async fn drop_expired(&self) {
        {
            let mut retained = self.lock_retained();
            for topic in retained.expired(now_ms(), usize::MAX) {
                retained.clear(&topic);
            }
        }
        // If the store is closed, it is swept after the next start.
        while let Ok(committed) = self.store.sweep_queues(now_ms()).await
            && let Ok(swept) = committed.await
        {
            for (id, dropped) in swept.expired {
                if let Some(queue) = self.registry.stored(id) {
                    queue.left_the_disk(dropped);
                }
            }
            if !swept.more {
                return;
            }
        }
    }
}
