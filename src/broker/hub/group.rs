//! Groups that share a subscription: each message goes to one member (MQTT 5, 4.8.2).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::Hub;
use super::admit::{DISK, FOREVER};
use super::queue::SharedQueue;
use super::session::Session;
use crate::broker::connection::ConnectionHandle;
use crate::broker::refusals::Refusal;
use crate::broker::session::{OutgoingMessage, Queue};
use crate::broker::wire::Options;
use crate::chat::qos::QoS;
use crate::ops::clock::now_ms;
use crate::store::{GivenRow, StoreError};

/// Those who subscribed to one filter under one name.
#[derive(Debug)]
pub(crate) struct Group {
    /// `{name}/{filter}`.
    pub(super) name: Arc<str>,
    /// What waits for any of them.
    pub(crate) queue: Arc<SharedQueue>,
    /// By the numbers of their sessions.
    members: Mutex<HashMap<u64, Options>>,
    /// The store was asked to keep the queue, and may have it.
    kept: AtomicBool,
}

impl Group {
    pub(super) fn new(name: Arc<str>, queue: Arc<SharedQueue>) -> Arc<Self> {
        Arc::new(Self { name, queue, members: Mutex::default(), kept: AtomicBool::default() })
    }

    pub(super) fn filter(&self) -> &str {
        Self::filter_in(&self.name)
    }

    /// The filter in the name of a group.
    pub(super) fn filter_in(name: &str) -> &str {
        name.split_once('/').map_or("", |(_, filter)| filter)
    }

    pub(super) fn join(&self, session: u64, options: Options) {
        self.lock().insert(session, options);
    }

    pub(super) fn leave(&self, session: u64) {
        self.lock().remove(&session);
    }

    /// The store may have the queue from now on.
    pub(super) fn set_kept(&self) {
        self.kept.store(true, Relaxed);
    }

    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Relaxed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// What the group asks of a message; a member lowers it to what it asked for itself.
    pub(super) fn options(&self) -> Options {
        let qos = self.lock().values().map(|options| options.qos).max().unwrap_or(QoS::AtMostOnce);
        Options { qos, no_local: false, retain_as_published: true, retain_handling: 0, id: None }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Options>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// A connection begins to send what a group has. With the first one the store may count on it that rows are sent; it
    /// hears of connections in the order in which they are. A connection of which the store cannot hear ends.
    pub(super) async fn attach_member(&self, queue: &SharedQueue, handle: &Arc<ConnectionHandle>) {
        let _alone = self.groups.lock().await;
        if queue.stored().is_some()
            && !queue.is_connected()
            && timeout(DISK, self.store.keep_group(queue.name().to_string())).await.is_err()
        {
            return handle.end(Refusal::NotStored);
        }
        queue.attach(handle);
    }

    /// The connection of a member has ended.
    pub(super) async fn detach_member(
        &self,
        queue: &SharedQueue,
        handle: &Arc<ConnectionHandle>,
        back: Vec<OutgoingMessage>,
    ) {
        let _alone = self.groups.lock().await;
        self.detach_alone(queue, handle, back).await;
    }

    /// The same with `groups` locked: the store knows what the last member may have been sent before the next one
    /// reads.
    pub(super) async fn detach_alone(
        &self,
        queue: &SharedQueue,
        handle: &Arc<ConnectionHandle>,
        back: Vec<OutgoingMessage>,
    ) {
        let Some(seen) = queue.detach(handle, back) else { return };
        self.documents_seen(seen).await;
        if let Some(id) = queue.stored() {
            let _ = timeout(DISK, self.store.session_left(id, now_ms(), FOREVER, None)).await;
        }
    }

    /// Makes rows of a group rows of a lasting session. Yields the number of the last of them.
    pub(crate) fn give(
        self: &Arc<Self>,
        group: Arc<SharedQueue>,
        session: &Arc<Session>,
        rows: Vec<GivenRow>,
    ) -> BoxFuture<'static, Result<u64, StoreError>> {
        let (hub, session) = (Arc::clone(self), Arc::clone(session));
        Box::pin(async move {
            let Some(id) = group.stored() else { return Ok(0) };
            let (given, last) = hub.store.give(id, rows).await?.await?;
            group.left_the_disk(given);
            session.queue.waits_on_disk(given.rows, given.bytes);
            // The queue is notified of them as well, perhaps later: until they are read nothing of a group is to pass them.
            session.queue.notify(Queue::behind_on_rows);
            Ok(last)
        })
    }
}
