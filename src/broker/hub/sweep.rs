//! What happens from time to time: clients that are silent or do not read are ended, what has expired is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::Hub;
use crate::broker::connection::Link;
use crate::ops::clock::now_ms;

/// How often connections are looked at; a client may be silent so much longer than it said.
const LOOK: Duration = Duration::from_secs(1);
/// How often sessions and messages are, in looks.
const EXPIRY: u32 = 30;

impl Hub {
    /// Looks at everything in turn, for ever. `clients` is told how many are connected.
    pub(super) async fn sweep(self: Arc<Self>, clients: watch::Sender<Option<usize>>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u32;
        loop {
            looks.tick().await;
            clients.send_replace(Some(self.look_at_connections()));
            count = count.wrapping_add(1);
            if count.is_multiple_of(EXPIRY) {
                self.end_expired(now_ms()).await;
                self.drop_expired().await;
            }
        }
    }

    /// Ends connections that are overdue; says how many there are.
    fn look_at_connections(&self) -> usize {
        let (clock, now) = (Link::clock(), now_ms());
        let links = self.connected();
        for link in &links {
            if let Some(refusal) = link.overdue(clock, now) {
                link.end(refusal);
            }
        }
        links.len()
    }

    async fn drop_expired(&self) {
        for topic in self.lock_retained().expired(now_ms(), usize::MAX) {
            self.lock_retained().clear(&topic);
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
