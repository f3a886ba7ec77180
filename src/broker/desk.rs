//! Where the ledger and the engine's own books about a session are kept in step.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mqtt5::WillMessage;
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::session_slot::SessionSlotGuard;
use mqtt5::broker::storage::{ClientSession, DynamicStorage, QueuedMessage, StorageBackend};
use tracing::{debug, warn};

use super::confirm::{Forget, Ledger, Rest, mark};
use super::link::Link;
use super::sessions::Reader;

/// The engine's router and storage beside our ledger.
pub(super) struct Desk {
    pub(super) router: Arc<MessageRouter>,
    pub(super) storage: Arc<DynamicStorage>,
    pub(super) ledger: Arc<Ledger>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// A client has connected.
    pub(super) async fn attach(&self, client: &Arc<str>, link: &Arc<Link>) {
        let forget = self.ledger.attach(client, link, link.start(), self.router.queue_handle(client));
        let stored = self.stored(client).await;
        let readers = stored.as_ref().map(|session| Reader::all_of(client, session)).unwrap_or_default();
        self.ledger.subscribe(client, readers);
        if let Some(session) = stored {
            let (now, later) = match session.will_publish_delay() {
                Some(0) => (session.will_message, None),
                _ => (None, session.will_message),
            };
            link.set_will(now);
            self.ledger.set_delayed_will(client, later);
        }
        self.forget(forget, None).await;
    }

    /// The subscriptions of a client have changed.
    pub(super) async fn subscribe(&self, client: &Arc<str>) {
        if let Some(session) = self.stored(client).await {
            self.ledger.subscribe(client, Reader::all_of(client, &session));
        }
    }

    /// A connection has ended, and the engine has put away what it keeps of the session.
    pub(super) async fn detach(&self, client: &str, link: &Arc<Link>) {
        // Under the engine's lock of the session no new connection can claim it, and so none can send a copy that we
        // are about to give up.
        let slot = self.router.lock_session(client).await;
        if self.router.is_connected(client).await {
            debug!(client, "session was taken over before its connection had ended");
            return;
        }
        let rest = self.rest(client).await;
        let forget = self.ledger.detach(client, link, rest);
        self.forget(forget, Some(slot)).await;
    }

    /// Ends the sessions that have expired and those whose connection vanished without an event. `suspects` are those
    /// whose connection had vanished at the last sweep although the engine believed in it.
    pub(super) async fn sweep(&self, suspects: &mut HashSet<Arc<str>>) {
        if let Err(error) = self.storage.cleanup_expired().await {
            warn!(%error, "engine could not clean its storage");
        }
        self.router.sweep_sessions().await;
        let suspected = std::mem::take(suspects);
        for client in self.ledger.unattended() {
            let slot = self.router.lock_session(&client).await;
            if self.router.is_connected(&client).await {
                if !suspected.contains(&client) {
                    // Most likely a new connection that is just being set up.
                    suspects.insert(client);
                    continue;
                }
                warn!(client = &*client, "connection vanished without an end");
                self.router.disconnect_client(&client).await;
            }
            let rest = self.rest(&client).await;
            let forget = self.ledger.abandon(&client, rest);
            self.forget(forget, Some(slot)).await;
        }
    }

    pub(super) fn take_delayed_will(&self, client: &str) -> Option<WillMessage> {
        self.ledger.take_delayed_will(client)
    }

    /// Takes copies out of the engine's queues. `slot` is the lock that the caller already has.
    async fn forget(&self, mut forget: Forget, slot: Option<SessionSlotGuard>) {
        if let Some(slot) = slot {
            if let Some(marks) = forget.remove(slot.client_id()) {
                self.take_out(slot.client_id(), marks).await;
            }
            drop(slot);
        }
        for (client, marks) in forget {
            let _slot = self.router.lock_session(&client).await;
            // Too late if it came back meanwhile: it gets the copy, and the one published again.
            if !self.router.is_connected(&client).await {
                self.take_out(&client, marks).await;
            }
        }
    }

    async fn take_out(&self, client: &str, marks: Vec<u64>) {
        let mut unwanted: HashMap<u64, usize> = HashMap::new();
        for mark in marks {
            *unwanted.entry(mark).or_default() += 1;
        }
        let queue = self.router.queue_handle(client);
        let mut queued = queue.take(usize::MAX).await;
        queued.retain(|message| !takes_one(&mut unwanted, message));
        queue.requeue_front(queued);
        queue.finish_drain();
    }

    async fn rest(&self, client: &str) -> Rest {
        if self.stored(client).await.is_some() { Rest::Away } else { Rest::Ended }
    }

    async fn stored(&self, client: &str) -> Option<ClientSession> {
        self.storage.get_session(client).await.unwrap_or_else(|error| {
            warn!(%error, client, "engine could not read a session");
            None
        })
    }
}

fn takes_one(unwanted: &mut HashMap<u64, usize>, message: &QueuedMessage) -> bool {
    match unwanted.get_mut(&mark(message.topic.as_bytes(), &message.payload)) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
