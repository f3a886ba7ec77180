//! Where the ledger and the engine's own books about a session are kept in step.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::session_slot::SessionSlotGuard;
use mqtt5::broker::storage::{ClientSession, QueueHandle, QueuedMessage, StorageBackend};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::confirm::{Forget, Ledger, Rest, mark};
use super::disk::{Disk, Past};
use super::link::Link;
use super::readers::Reader;
use super::sessions::{Lasting, is_for_several};
use super::wills::DelayedWill;
use crate::chat::access::Rights;
use crate::chat::topic::Side;

/// The user property that the engine gives to every message, and every will, of a client.
const PUBLISHER: &str = "x-mqtt-client-id";

/// The engine's router and storage beside our ledger.
pub(super) struct Desk {
    pub(super) router: Arc<MessageRouter>,
    pub(super) disk: Disk,
    pub(super) ledger: Arc<Ledger>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// Puts the sessions of an earlier run on the books, and what the engine has for them.
    /// `rights_of` says what the user may do to whom a session belongs.
    pub(super) async fn restore(&self, past: Past, rights_of: impl Fn(Option<&str>) -> Rights) {
        for client in self.disk.storage.session_client_ids().await.unwrap_or_default() {
            let client: Arc<str> = client.into();
            let Some(session) = self.stored(&client).await else { continue };
            let queue = self.router.queue_handle(&client);
            let left = match past {
                Past::Whole => self.left(&client, &queue).await,
                Past::Torn => Vec::new(),
            };
            self.ledger.restore(&client, rights_of(session.user_id.as_deref()), queue, left);
            drop(self.ledger.subscribe(&client, Reader::all_of(&client, &session), Lasting::of(&session)));
        }
    }

    /// The marks of the bridge's publications that the engine has for a session, in the order in which it will send
    /// them, but for those that say how something is: these may be said as often as one likes.
    async fn left(&self, client: &str, queue: &QueueHandle) -> Vec<u64> {
        let sent = self.disk.storage.get_inflight_messages(client).await.unwrap_or_default();
        let queued = queue.peek_all().await;
        let sent = sent.iter().map(|message| (&message.topic, &message.payload, &message.user_properties));
        let queued = queued.iter().map(|message| (&message.topic, &message.payload, &message.user_properties));
        sent.chain(queued)
            .filter(|(topic, _, properties)| matches!(kind(topic, properties), Kind::Document | Kind::Event))
            .map(|(topic, payload, _)| mark(topic.as_bytes(), payload))
            .collect()
    }

    /// Takes out of what a crash left with the sessions what the bridge will publish again, and what somebody had
    /// acknowledged for sure: without other readers, a publication was either settled or is published again. What is
    /// left is marked when it leaves.
    pub(super) async fn cleanse(&self, unwanted: &HashSet<u64>) {
        for client in self.disk.storage.session_client_ids().await.unwrap_or_default() {
            let client: Arc<str> = client.into();
            let is_wanted = |kind: Kind, format: Option<bool>, topic: &str, payload: &[u8]| {
                kind != Kind::Document || is_for_several(format) && !unwanted.contains(&mark(topic.as_bytes(), payload))
            };
            self.disk
                .drop_sent(&client, |sent| {
                    let kind = kind(&sent.topic, &sent.user_properties);
                    !is_wanted(kind, sent.payload_format_indicator, &sent.topic, &sent.payload)
                })
                .await;
            let keep = |queued: &QueuedMessage| {
                let kind = kind(&queued.topic, &queued.user_properties);
                is_wanted(kind, queued.payload_format_indicator, &queued.topic, &queued.payload)
            };
            self.filter_queue(&client, keep).await;
            let left = self.left(&client, &self.router.queue_handle(&client)).await;
            self.ledger.doubt(&client, left);
        }
    }

    /// A client has connected.
    pub(super) async fn attach(&self, client: &Arc<str>, link: &Arc<Link>) {
        let mut forget = self.ledger.attach(client, link, link.start(), self.router.queue_handle(client));
        if let Some(session) = self.stored(client).await {
            let readers = Reader::all_of(client, &session);
            for (client, marks) in self.ledger.subscribe(client, readers, Lasting::of(&session)) {
                forget.entry(client).or_default().extend(marks);
            }
            let (now, later) = match session.will_publish_delay() {
                Some(0) => (session.will_message, None),
                _ => (None, session.will_message),
            };
            link.set_will(now);
            let later = later.and_then(|will| DelayedWill::left_by(link, will));
            self.ledger.set_delayed_will(client, later);
        }
        self.forget(forget, None).await;
    }

    /// The subscriptions of a client have changed.
    pub(super) async fn subscribe(&self, client: &Arc<str>) {
        if let Some(session) = self.stored(client).await {
            let readers = Reader::all_of(client, &session);
            let forget = self.ledger.subscribe(client, readers, Lasting::of(&session));
            self.forget(forget, None).await;
        }
    }

    /// Writes what has to be in the engine's files before publications can be settled, until `stop`.
    pub(super) async fn keep_written(&self, stop: &CancellationToken) {
        while let Some(safe) = stop.run_until_cancelled(self.ledger.unwritten()).await {
            self.disk.flush().await;
            self.ledger.written(&safe);
        }
    }

    /// No connection is left: settles everything, and leaves on disk what the next run goes on with.
    pub(super) async fn close(&self) {
        let (answers, forget) = self.ledger.close();
        self.forget(forget, None).await;
        self.disk.close().await;
        for (sender, outcome) in answers {
            let _ = sender.send(outcome);
        }
    }

    /// A connection has ended, and the engine has put away what it keeps of the session.
    pub(super) async fn detach(&self, client: &str, link: &Arc<Link>) {
        // Under the engine's lock of the session no new connection can claim it, and so none can send a copy that we
        // are about to give up.
        let slot = self.router.lock_session(client).await;
        if self.router.is_connected(client).await {
            debug!(client, "session was taken over before its connection had ended");
            if let Some(link) = self.ledger.link_of(client) {
                link.nudge();
            }
            return;
        }
        let rest = self.rest(client).await;
        let forget = self.ledger.detach(client, link, rest);
        self.forget(forget, Some(slot)).await;
    }

    /// Ends the sessions that have expired and those whose connection vanished without an event. `suspects` are those
    /// whose connection had vanished at the last sweep although the engine believed in it.
    pub(super) async fn sweep(&self, suspects: &mut HashSet<Arc<str>>) {
        if let Err(error) = self.disk.storage.cleanup_expired().await {
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

    /// The will that `client` left to be published later.
    pub(super) fn take_delayed_will(&self, client: &str) -> Option<DelayedWill> {
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
        // What is left of a connection that vanished is there and not in the queue.
        self.disk.drop_sent(client, |sent| takes_one(&mut unwanted, &sent.topic, &sent.payload)).await;
        self.filter_queue(client, |message| !takes_one(&mut unwanted, &message.topic, &message.payload)).await;
    }

    async fn filter_queue(&self, client: &str, keep: impl FnMut(&QueuedMessage) -> bool) {
        let queue = self.router.queue_handle(client);
        if queue.is_empty() {
            return;
        }
        let mut queued = queue.take(usize::MAX).await;
        queued.retain(keep);
        queue.requeue_front(queued);
        queue.finish_drain();
    }

    async fn rest(&self, client: &str) -> Rest {
        if self.stored(client).await.is_some() { Rest::Away } else { Rest::Ended }
    }

    async fn stored(&self, client: &str) -> Option<ClientSession> {
        self.disk.storage.get_session(client).await.unwrap_or_else(|error| {
            warn!(%error, client, "engine could not read a session");
            None
        })
    }
}

/// What the engine has for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Out of the bridge's store: it is published until it is confirmed.
    Document,
    /// Of the bridge, and nowhere but here.
    Event,
    /// Of the bridge: how something is.
    State,
    /// What a client published.
    OfClient,
}

/// Tells them apart. The bridge's own have no property of a publisher, and a document may be on any topic that a client
/// wished for its answers.
fn kind(topic: &str, properties: &[(String, String)]) -> Kind {
    if properties.iter().any(|(name, _)| name == PUBLISHER) {
        return Kind::OfClient;
    }
    match Side::of(topic) {
        Side::Bridge { suffix: "events" } => Kind::Event,
        Side::Bridge { .. } | Side::Outbox { .. } => Kind::State,
        Side::Inbox { .. } | Side::Elsewhere => Kind::Document,
    }
}

fn takes_one(unwanted: &mut HashMap<u64, usize>, topic: &str, payload: &[u8]) -> bool {
    match unwanted.get_mut(&mark(topic.as_bytes(), payload)) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
