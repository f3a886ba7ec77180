//! What happens from time to time: clients that are silent or do not read are ended, what has expired is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::Hub;
use crate::broker::connection::ConnectionHandle;
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metric;

/// How often connections are checked; a client is cut off up to this much later than it is due.
const CHECK_PERIOD: Duration = Duration::from_secs(1);
/// How many connections are checked before the task yields.
const STEP: usize = 1_000;
/// How often sessions and messages are checked for expiry.
const EXPIRY: Duration = Duration::from_secs(30);

impl Hub {
    /// Looks at the connections, for ever. `clients` is told how many there are.
    pub(super) async fn watch_connections(&self, clients: watch::Sender<Option<usize>>) {
        let mut looks = every(CHECK_PERIOD);
        loop {
            looks.tick().await;
            self.end_overdue().await;
            clients.send_replace(Some(self.registry.connected()));
            self.measure();
        }
    }

    /// Ends and drops what has expired, for ever. Waits for the disk, as [`Self::watch_connections`] does not.
    pub(super) async fn sweep(self: &Arc<Self>) {
        let mut sweeps = every(EXPIRY);
        loop {
            sweeps.tick().await;
            self.end_expired(now_ms()).await;
            self.end_empty_groups().await;
            self.drop_expired().await;
            self.visibilities.tidy();
            self.user_rates.tidy(Instant::now());
            // If the store is closed, what is left is dropped after the next start.
            let _ = self.drop_all_unread().await;
        }
    }

    async fn end_overdue(&self) {
        let (clock, now) = (ConnectionHandle::clock(), now_ms());
        let mut looked = 0_usize;
        for handle in self.connected() {
            if let Some(refusal) = handle.overdue(clock, now) {
                handle.end(refusal);
            }
            looked += 1;
            if looked.is_multiple_of(STEP) {
                yield_now().await;
            }
        }
    }

    fn measure(&self) {
        let (rows, bytes) = self.registry.on_disk().get();
        let retained = self.lock_retained().total();
        self.metrics.set(Metric::BrokerSessions, self.registry.count(None).0 as u64);
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

fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
