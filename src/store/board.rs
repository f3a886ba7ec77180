//! Figures, health and wake-ups: what the handles see without asking the writer.

use super::downstream::Claimed;
use super::error::StoreHealth;
use super::figures::StoreFigures;
use super::sessions::{FRESH_BYTES, FRESH_MAX, Fresh, FreshBatch};
use crate::chat::transport::Transport;
use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// What the writer shows to the handles.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// Under a mutex like the topics below; held for a copy only.
    figures: Mutex<StoreFigures>,
    /// A set under a mutex, so that a topic that gets a thousand documents is reported once: a channel would have to be
    /// unbounded or make the writer wait for its receiver. Held for an insert or a take only.
    fresh_topics: Mutex<BTreeSet<String>>,
    pub(super) fresh: Notify,
    /// A broker takes `news`; then nobody takes `fresh_topics`: see [`super::Store::listen`].
    listening: AtomicBool,
    /// A bounded list under a mutex and no channel: when it is full the writer goes on and keeps only names of topics
    /// and queues, whose rows the receiver reads from the store.
    news: Mutex<News>,
    pub(super) news_came: Notify,
    pub(super) health: watch::Sender<StoreHealth>,
    pub(super) due: watch::Sender<u64>,
    /// Messages accepted as in flight that their transport has not taken; no more than the transports have room for.
    /// Under a mutex like the topics.
    gone: Mutex<Vec<(Transport, Claimed)>>,
    pub(super) gone_at_once: watch::Sender<u64>,
}

impl Board {
    pub(super) fn figures(&self) -> StoreFigures {
        *lock(&self.figures)
    }

    pub(super) fn show(&self, figures: StoreFigures) {
        *lock(&self.figures) = figures;
    }

    pub(super) fn take_fresh_topics(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.fresh_topics))
    }

    /// From now on each commit tells what it brought.
    pub(super) fn listen(&self) {
        self.listening.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_heard(&self) -> bool {
        self.listening.load(Ordering::SeqCst)
    }

    pub(super) fn take_news(&self) -> FreshBatch {
        std::mem::take(&mut *lock(&self.news)).batch
    }

    /// What a commit brought, in its order.
    pub(super) fn announce_news(&self, fresh: Vec<Fresh>) {
        if !fresh.is_empty() {
            let mut news = lock(&self.news);
            fresh.into_iter().for_each(|fresh| news.add(fresh));
            drop(news);
            self.news_came.notify_one();
        }
    }

    /// What a commit brought: documents on these topics, and whether a message became due.
    pub(super) fn announce(&self, topics: HashSet<String>, due: bool) {
        if !topics.is_empty() && !self.is_heard() {
            lock(&self.fresh_topics).extend(topics);
            self.fresh.notify_one();
        }
        if due {
            self.due.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// What was accepted as in flight already.
    pub(super) fn announce_gone(&self, mut gone: Vec<(Transport, Claimed)>) {
        if !gone.is_empty() {
            lock(&self.gone).append(&mut gone);
            self.gone_at_once.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    pub(super) fn take_gone(&self, transport: &Transport) -> Vec<Claimed> {
        let mut gone = lock(&self.gone);
        gone.extract_if(.., |(by, _)| by == transport).map(|(_, claimed)| claimed).collect()
    }

    /// Shows how the disk is. True if it changed between ok and blocked; another reason of the same block is no change.
    pub(super) fn turned(&self, now: StoreHealth) -> bool {
        self.health.send_if_modified(|health| {
            let news = (*health == StoreHealth::Ok) != (now == StoreHealth::Ok);
            *health = now;
            news
        })
    }
}

/// What was not taken yet, and its bytes.
#[derive(Debug, Default)]
struct News {
    batch: FreshBatch,
    bytes: usize,
}

impl News {
    /// Once there are names, only names are added: the receiver reads the rows from the store, in their order.
    fn add(&mut self, fresh: Fresh) {
        let batch = &mut self.batch;
        let bytes = match (&fresh, batch.items.last()) {
            // The same message for another queue.
            (Fresh::Row { message, .. }, Some(Fresh::Row { message: last, .. })) if Arc::ptr_eq(message, last) => 0,
            (Fresh::Row { message, .. }, _) => message.topic.len() + message.payload.len() + message.properties.len(),
            (Fresh::Document { reference, payload, correlation }, _) => {
                reference.topic.len() + payload.len() + correlation.as_ref().map_or(0, bytes::Bytes::len)
            }
        };
        let room = batch.items.len() < FRESH_MAX && (self.bytes + bytes <= FRESH_BYTES || batch.items.is_empty());
        if room && batch.topics.is_empty() && batch.queues.is_empty() {
            self.bytes += bytes;
            batch.items.push(fresh);
            return;
        }
        match fresh {
            Fresh::Row { target, .. } => _ = batch.queues.insert(target.queue),
            // Clients choose topics, but only as many as have documents on the disk.
            Fresh::Document { reference, .. } => _ = batch.topics.insert(reference.topic.to_string()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
