//! Figures, health and wake-ups: what the handles see without asking the writer.

use super::downstream::Claimed;
use super::erase::Scrubbed;
use super::error::StoreHealth;
use super::figures::StoreFigures;
use super::sessions::{COMMIT_EVENTS_BYTES, COMMIT_EVENTS_MAX, CommitEvent, CommitEvents};
use crate::chat::erasure::name_key;
use crate::chat::id::Owner;

use crate::chat::transport::Transport;
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How long the disk may take for one transaction before it counts as blocked. A write that hangs ends with no error that could
/// be told.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What the writer shows to the handles.
#[derive(Debug, Default)]
pub(super) struct SharedStatus {
    /// Under a mutex like the topics below; held for a copy only.
    figures: Mutex<StoreFigures>,
    /// A set under a mutex, so that a topic that gets a thousand documents is reported once: a channel would have to be
    /// unbounded or make the writer wait for its receiver. Held for an insert or a take only.
    topics_with_documents: Mutex<BTreeSet<String>>,
    pub(super) documents_came: Notify,
    /// A broker takes `events`; then nobody takes `topics_with_documents`: see [`super::Store::listen`].
    listening: AtomicBool,
    /// A bounded list under a mutex and no channel: when it is full the writer goes on and keeps only names of topics
    /// and queues, whose rows the receiver reads from the store.
    events: Mutex<PendingEvents>,
    pub(super) events_came: Notify,
    /// How many commits added to `events`.
    commits_told: AtomicU64,
    /// Hashes of the names of those who were erased. Under a mutex; held for an operation on the set.
    erased: Mutex<HashSet<[u8; 32]>>,
    /// Nobody was: then no name is hashed.
    has_erased: AtomicBool,
    /// How often a name became free.
    freed_names: AtomicU64,
    /// What became of the last wish for a file without unused parts.
    is_scrubbed: AtomicBool,
    /// Since when the writer waits for the disk. Under a mutex that is held until the health is set, or what has just ended would
    /// be shown as blocked.
    disk_asked: Mutex<Option<Instant>>,
    pub(super) health: watch::Sender<StoreHealth>,
    pub(super) due: watch::Sender<u64>,
    /// Messages accepted as in flight that their transport has not taken; no more than the transports have room for.
    /// Under a mutex like the topics.
    claimed_on_accept: Mutex<Vec<(Transport, Claimed)>>,
    pub(super) on_accept_wakes: watch::Sender<u64>,
}

impl SharedStatus {
    pub(super) fn figures(&self) -> StoreFigures {
        *lock(&self.figures)
    }

    pub(super) fn show(&self, figures: StoreFigures) {
        *lock(&self.figures) = figures;
    }

    pub(super) fn take_topics_with_documents(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.topics_with_documents))
    }

    /// From now on each commit tells what it brought.
    pub(super) fn listen(&self) {
        self.listening.store(true, Ordering::SeqCst);
    }

    pub(super) fn has_listener(&self) -> bool {
        self.listening.load(Ordering::SeqCst)
    }

    pub(super) fn take_events(&self) -> CommitEvents {
        std::mem::take(&mut *lock(&self.events)).batch
    }

    /// What a commit brought, in its order.
    pub(super) fn notify_events(&self, events: Vec<CommitEvent>) {
        if !events.is_empty() {
            let mut pending = lock(&self.events);
            events.into_iter().for_each(|event| pending.add(event));
            pending.batch.commits = self.commits_told.fetch_add(1, Ordering::SeqCst) + 1;
            drop(pending);
            self.events_came.notify_one();
        }
    }

    pub(super) fn commits_told(&self) -> u64 {
        self.commits_told.load(Ordering::SeqCst)
    }

    /// What a commit brought: documents on these topics, and whether a message became due.
    pub(super) fn notify(&self, topics: HashSet<String>, due: bool) {
        if !topics.is_empty() && !self.has_listener() {
            lock(&self.topics_with_documents).extend(topics);
            self.documents_came.notify_one();
        }
        if due {
            self.due.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// What was accepted as in flight already.
    pub(super) fn notify_claimed_on_accept(&self, mut claimed_on_accept: Vec<(Transport, Claimed)>) {
        if !claimed_on_accept.is_empty() {
            lock(&self.claimed_on_accept).append(&mut claimed_on_accept);
            self.on_accept_wakes.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    pub(super) fn take_claimed_on_accept(&self, transport: &Transport) -> Vec<Claimed> {
        let mut claimed_on_accept = lock(&self.claimed_on_accept);
        claimed_on_accept.extract_if(.., |(by, _)| by == transport).map(|(_, claimed)| claimed).collect()
    }

    /// Those who were erased before the start.
    pub(super) fn all_erased(&self, names: Vec<[u8; 32]>) {
        self.has_erased.store(!names.is_empty(), Ordering::SeqCst);
        *lock(&self.erased) = names.into_iter().collect();
    }

    pub(super) fn erased(&self, user: &Owner, on: bool) {
        let (mut erased, key) = (lock(&self.erased), name_key(user.as_str()));
        if on {
            erased.insert(key)
        } else {
            erased.remove(&key)
        };
        self.has_erased.store(!erased.is_empty(), Ordering::SeqCst);
        if !on {
            self.freed_names.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(super) fn freed_names(&self) -> u64 {
        self.freed_names.load(Ordering::SeqCst)
    }

    pub(super) fn is_erased(&self, name: &str) -> bool {
        self.has_erased.load(Ordering::SeqCst) && lock(&self.erased).contains(&name_key(name))
    }

    pub(super) fn set_scrubbed(&self, scrubbed: Scrubbed) {
        self.is_scrubbed.store(scrubbed == Scrubbed::Now, Ordering::SeqCst);
    }

    pub(super) fn scrubbed(&self) -> Scrubbed {
        if self.is_scrubbed.load(Ordering::SeqCst) { Scrubbed::Now } else { Scrubbed::AtStart }
    }

    /// The writer waits for the disk from now on.
    pub(super) fn disk_asked(&self, now: Instant) {
        *lock(&self.disk_asked) = Some(now);
    }

    /// The disk has answered, whatever it says.
    pub(super) fn disk_answered(&self) {
        *lock(&self.disk_asked) = None;
    }

    /// Shows the store as blocked if the disk has not answered for [`SILENCE_MAX`]. True if it was not blocked before.
    pub(super) fn check_disk(&self, now: Instant) -> bool {
        let asked = lock(&self.disk_asked);
        let Some(silence) = asked.map(|asked| now.saturating_duration_since(asked)) else { return false };
        if silence < SILENCE_MAX {
            return false;
        }
        let reason = format!("the disk has not answered for {} s", silence.as_secs());
        self.set_health(StoreHealth::Blocked { reason })
    }

    /// Shows how the disk is. True if it changed between ok and blocked; another reason of the same block is no change.
    pub(super) fn set_health(&self, now: StoreHealth) -> bool {
        self.health.send_if_modified(|health| {
            let changed = (*health == StoreHealth::Ok) != (now == StoreHealth::Ok);
            *health = now;
            changed
        })
    }
}

/// What was not taken yet, and its bytes.
#[derive(Debug, Default)]
struct PendingEvents {
    batch: CommitEvents,
    bytes: usize,
}

impl PendingEvents {
    /// Once there are names, only names are added: the receiver reads the rows from the store, in their order.
    fn add(&mut self, event: CommitEvent) {
        let batch = &mut self.batch;
        if let CommitEvent::Gone { queue, gone } = event {
            // As many as there are queues.
            let all = batch.gone.entry(queue).or_default();
            all.rows += gone.rows;
            all.bytes += gone.bytes;
            return;
        }
        let bytes = match (&event, batch.items.last()) {
            // The same message for another queue.
            (CommitEvent::Row { message, .. }, Some(CommitEvent::Row { message: last, .. }))
                if Arc::ptr_eq(message, last) =>
            {
                0
            }
            (CommitEvent::Row { message, .. }, _) => {
                message.topic.len() + message.payload.len() + message.properties.len()
            }
            (CommitEvent::Document { reference, payload, correlation, .. }, _) => {
                reference.topic.len() + payload.len() + correlation.as_ref().map_or(0, bytes::Bytes::len)
            }
            (CommitEvent::Gone { .. }, _) => 0,
        };
        let room = batch.items.len() < COMMIT_EVENTS_MAX
            && (self.bytes + bytes <= COMMIT_EVENTS_BYTES || batch.items.is_empty());
        if room && batch.topics.is_empty() && batch.queues.is_empty() {
            self.bytes += bytes;
            batch.items.push(event);
            return;
        }
        match event {
            CommitEvent::Row { target, .. } => _ = batch.queues.insert(target.queue),
            // Clients choose topics, but only as many as have documents on the disk.
            CommitEvent::Document { reference, .. } => _ = batch.topics.insert(reference.topic.to_string()),
            CommitEvent::Gone { .. } => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
