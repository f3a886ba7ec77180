//! The bridge's documents on their way to readers, and what readers acknowledge.
//!
//! A document stays in the store's outbox until the first reader has it at QoS 1. That settles it; where other lasting
//! sessions read its topic, the same transaction puts it into their queues. Other readers who are still to read it from the
//! disk are waited for. Readers who have all that came before get what a commit brought at once; the others read from the
//! disk.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use tokio::time::timeout;

use super::Hub;
use super::port::confirmations;
use super::publish::{SLOW_QUEUE_WAIT, end_slow};
use super::queue::{SeenDocuments, SharedQueue};
use super::routes::MatchedQueue;
use super::session::Session;
use super::unread::UnreadTopics;
use crate::broker::refusals::Refusal;
use crate::broker::session::{
    InFlight, OutgoingMessage, PageRequest, Queue, QueueRef, ReadWhat, Source, document_message,
};
use crate::chat::qos::QoS;
use crate::chat::topic::Side;
use crate::mqtt::{Notice, SetAside};
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metric;
use crate::store::{
    AckOutcome, AckedBy, AckedDocument, Acknowledged, CommitEvent, CommitEvents, DocumentPage, DocumentRef,
    OutboxDocument, Page, QueueRow, QueuedDocument, RowPage, Seen, StoreError, StoreHealth, Target,
};

/// Ready when the store has been asked; yields what is ready when it has done so.
pub(crate) type Settling = BoxFuture<'static, Result<BoxFuture<'static, Result<(), StoreError>>, StoreError>>;

/// The number of the last row of which a queue was notified is not known.
pub(super) const UNKNOWN: u64 = 0;

impl Hub {
    /// Puts what commits brought into the queues of its subscribers, for ever.
    pub(in crate::broker) async fn distribute_events(&self) {
        loop {
            let CommitEvents { items, topics, queues, gone, commits } = self.store.commit_events().await;
            let mut unread = UnreadTopics::default();
            for event in items {
                self.distribute_event(event, &mut unread);
            }
            self.drop_unread(unread);
            if !queues.is_empty() {
                self.last_notified.store(UNKNOWN, Relaxed);
            }
            for topic in topics {
                let topic: Arc<str> = topic.into();
                for route in self.routes.of(&topic, None) {
                    route.queue.notify(|queue| queue.behind_on(&topic));
                }
            }
            for queue in queues.into_iter().filter_map(|id| self.registry.stored(id)) {
                queue.notify(Queue::behind_on_rows);
            }
            for (id, gone) in gone {
                if let Some(queue) = self.registry.stored(id) {
                    queue.left_the_disk(gone);
                }
            }
            self.distributed.send_replace(commits);
        }
    }

    /// Waits until the queues were told of each commit that may have brought what a client has now: a client that reads
    /// from the disk may acknowledge a document before the queues of others hear of it.
    async fn let_distribute(&self) {
        let told = self.store.commits_told();
        if !self.has_distributed(told) {
            // It ends only with the hub.
            let _ = self.distributed.subscribe().wait_for(|distributed| *distributed >= told).await;
        }
    }

    /// Whether the queues were told of so many commits.
    pub(crate) fn has_distributed(&self, commits: u64) -> bool {
        *self.distributed.borrow() >= commits
    }

    /// The number of the last row of which any queue was notified.
    pub(super) fn last_notified(&self) -> Option<u64> {
        Some(self.last_notified.load(Relaxed)).filter(|seq| *seq != UNKNOWN)
    }

    fn distribute_event(&self, event: CommitEvent, unread: &mut UnreadTopics) {
        match event {
            CommitEvent::Row { seq, message, target } => {
                self.last_notified.store(seq, Relaxed);
                let Some(queue) = self.registry.stored(target.queue) else { return };
                if target.qos == QoS::AtMostOnce {
                    // QoS 0 is not stored, it only keeps its place in the order of the commits.
                    queue.push(OutgoingMessage::memory(message, target), self.last_notified());
                } else {
                    queue.notify(|queue| _ = queue.notify_row(seq, OutgoingMessage::row(seq, message, target)));
                }
            }
            CommitEvent::Document { reference, payload, correlation, expires_at } => {
                let routes = self.routes_of(&reference.topic, None);
                if routes.is_empty() {
                    return unread.add(&reference);
                }
                let message = document_message(&reference.topic, payload, correlation.as_ref(), (false, expires_at));
                for MatchedQueue { queue, qos, ids, .. } in routes {
                    let item = OutgoingMessage::document(Arc::clone(&message), reference.clone(), qos, ids, false);
                    queue.notify(|queue| _ = queue.notify_document(&reference, item));
                }
            }
            // All of a batch come together.
            CommitEvent::Gone { .. } => {}
        }
    }

    /// Reads from the store what a queue of the session lacks. If the future is dropped, the next consumer reads it.
    /// Yields the rows that have a packet identifier from before a restart: the window has to know them before it
    /// sends.
    pub(crate) fn fill(
        self: &Arc<Self>,
        session: &Arc<Session>,
        queue: Arc<SharedQueue>,
        read: PageRequest,
    ) -> BoxFuture<'static, Result<Vec<QueueRow>, StoreError>> {
        let (hub, session) = (Arc::clone(self), Arc::clone(session));
        let pending = PendingRead { queue, read };
        Box::pin(async move {
            let PendingRead { queue, read } = &pending;
            let mut numbered = Vec::new();
            match &read.what {
                ReadWhat::Rows(after) => {
                    let rows = hub.next_rows(queue, *after, read.page).await?;
                    numbered.extend(rows.iter().filter(|row| row.packet_id.is_some()).cloned());
                    queue.read(|queue| queue.rows_came(read, rows));
                }
                ReadWhat::Documents(topic, after) => {
                    let documents = hub.next_documents(queue, topic, *after, read.page).await?;
                    queue.read(|queue| queue.documents_came(read, documents));
                }
                ReadWhat::Topics => {
                    hub.watch(&session, queue).await?;
                    queue.read(|queue| queue.topics_came(read, &[]));
                }
            }
            Ok(numbered)
        })
    }

    /// The next rows of a queue; none only if there are none.
    async fn next_rows(&self, queue: &SharedQueue, after: u64, page: Page) -> Result<Vec<QueueRow>, StoreError> {
        loop {
            let Some(id) = queue.stored() else { return Ok(Vec::new()) };
            let RowPage { rows, expired, more } = self.store.read_rows(id, after, page, now_ms()).await?.await?;
            queue.left_the_disk(expired);
            if !(rows.is_empty() && more) {
                return Ok(rows);
            }
        }
    }

    /// The next documents of a topic for a queue; none only if there are none.
    async fn next_documents(
        &self,
        queue: &SharedQueue,
        topic: &Arc<str>,
        mut after: u64,
        page: Page,
    ) -> Result<Vec<OutgoingMessage>, StoreError> {
        loop {
            let pending = self.store.read_documents(Arc::clone(topic), queue.stored(), after, page).await?;
            let DocumentPage { documents, more } = pending.await?;
            let route = self.routes.to(topic, queue);
            after = documents.last().map_or(after, |last| last.waiting.reference.seq);
            let items: Vec<OutgoingMessage> =
                documents.into_iter().filter_map(|found| document(found, route.as_ref())).collect();
            if !(items.is_empty() && more) {
                return Ok(items);
            }
        }
    }

    /// The client has acknowledged these: rows are deleted, documents settled.
    pub(crate) fn acknowledged(
        self: &Arc<Self>,
        session: &Arc<Session>,
        flights: Vec<InFlight>,
        is_awaited: bool,
    ) -> Option<Settling> {
        let mut taken: Vec<(Arc<SharedQueue>, Acknowledged)> = Vec::new();
        let mut documents = 0;
        for flight in flights {
            let queue = self.queue_of(session, flight.queue_ref);
            let (id, by) = (queue.stored(), acked_by(session, &flight));
            if !taken.last().is_some_and(|(of, taken)| of.number() == queue.number() && taken.by == by) {
                let (rows, documents) = (Vec::new(), Vec::new());
                taken.push((
                    Arc::clone(&queue),
                    Acknowledged { queue: id, rows, documents, by, at: now_ms(), is_awaited },
                ));
            }
            let Some((_, into)) = taken.last_mut() else { continue };
            match flight.source {
                Source::Memory => {}
                Source::Row(seq) => into.rows.push(seq),
                Source::Document(reference) => {
                    if flight.qos == QoS::AtMostOnce && self.has_better_subscriber(&reference, &queue) {
                        queue.left_for_others(&reference);
                        continue;
                    }
                    documents += 1;
                    into.documents.push(AckedDocument { reference, others: Vec::new() });
                }
            }
        }
        taken.retain(|(_, taken)| !(taken.rows.is_empty() && taken.documents.is_empty()));
        self.metrics.add(Metric::Published, documents);
        (!taken.is_empty()).then(|| self.settle(session, taken))
    }

    fn settle(self: &Arc<Self>, session: &Session, mut taken: Vec<(Arc<SharedQueue>, Acknowledged)>) -> Settling {
        let hub = Arc::clone(self);
        let confirmations = confirmations(session, taken.iter().map(|(_, taken)| taken));
        Box::pin(async move {
            hub.let_distribute().await;
            loop {
                let mut behind = Vec::new();
                for (queue, taken) in &mut taken {
                    for AckedDocument { reference, others } in &mut taken.documents {
                        *others = hub.others(reference, queue, &mut behind);
                    }
                }
                if behind.is_empty() {
                    break;
                }
                join_all(behind.iter().map(|(queue, document)| hub.let_read(queue, document))).await;
            }
            let mut committed = Vec::with_capacity(taken.len());
            for (queue, taken) in taken {
                let documents: Vec<_> = taken.documents.iter().map(|document| document.reference.clone()).collect();
                let pending = hub.store.acknowledged(taken).await?;
                // Not before: until then a queue that reads on finds these documents on the disk, and the end of a connection
                // has them marked, as it may come to the disk without this.
                documents.iter().for_each(|document| queue.acknowledged(document));
                committed.push((queue, pending));
            }
            let settled = async move {
                for (queue, committed) in committed {
                    let AckOutcome { rows, moved } = committed.await?;
                    queue.left_the_disk(rows);
                    moved.iter().for_each(|(_, recorded)| (hub.told)(&hub.metrics, recorded));
                }
                hub.tell_confirmations(confirmations).await;
                Ok(())
            };
            Ok(settled.boxed())
        })
    }

    /// The queue that something came from. The session may have left the group; documents of a group that has ended are
    /// settled all the same.
    fn queue_of(&self, session: &Session, queue_ref: QueueRef) -> Arc<SharedQueue> {
        match queue_ref {
            QueueRef::Own => Arc::clone(&session.queue),
            QueueRef::Group(number) => {
                self.registry.group_queue(number).unwrap_or_else(|| self.new_queue(&session.key))
            }
        }
    }

    /// Whether another queue, connected or not, has the topic of a document at QoS 1 or more: then a subscriber at QoS
    /// 0 does not settle it.
    fn has_better_subscriber(&self, document: &DocumentRef, acked_by: &SharedQueue) -> bool {
        let is_better = |route: &MatchedQueue| route.qos > QoS::AtMostOnce && route.queue.number() != acked_by.number();
        self.routes.of(&document.topic, None).iter().any(is_better)
    }

    /// The lasting queues that want a document which is being settled for another one. `behind` gets the queues in
    /// memory that have not read it.
    fn others(
        &self,
        document: &DocumentRef,
        acked_by: &SharedQueue,
        behind: &mut Vec<(Arc<SharedQueue>, DocumentRef)>,
    ) -> Vec<Target> {
        let mut others = Vec::new();
        for MatchedQueue { queue, qos, ids, .. } in self.routes.of(&document.topic, None) {
            if queue.number() == acked_by.number() || qos == QoS::AtMostOnce {
                continue;
            }
            match queue.stored() {
                Some(id) => others.push(Target { queue: id, qos: qos.min(QoS::AtLeastOnce), retain: false, ids }),
                None if queue.is_to_read(document, Waker::noop()) => behind.push((queue, document.clone())),
                None => {}
            }
        }
        others
    }

    /// Waits until a queue in memory has read a document, which then may leave the outbox. A client that does not take what
    /// its queue has read is disconnected; so is one whose queue reads nothing although the store answers.
    async fn let_read(&self, queue: &SharedQueue, document: &DocumentRef) {
        let is_read = |cx: &mut Context<'_>| match queue.is_to_read(document, cx.waker()) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        };
        let mut before = None;
        while timeout(SLOW_QUEUE_WAIT, poll_fn(is_read)).await.is_err() {
            let last_read = queue.last_read().filter(|_| *self.store.health().borrow() == StoreHealth::Ok);
            if queue.disk_half_full() || last_read.is_some() && last_read == before {
                return end_slow(queue);
            }
            before = last_read;
        }
    }

    /// A document is bigger than the packets that a client takes: it stays in the outbox until a client takes it.
    pub(crate) fn too_big(&self, session: &Session, document: SetAside) {
        let SetAside { topic, bytes, most, .. } = &document;
        self.report_of(session, Refusal::DocumentSize, &format!("{bytes} bytes on {topic}, at most {most} are taken"));
        self.notify(Notice::SetAside(document));
    }

    /// Of each of these topics, documents up to one may have been sent to a client that is gone: the next one gets them
    /// as copies.
    pub(super) async fn documents_seen(&self, SeenDocuments { queue, topics }: SeenDocuments) {
        let is_read = |seen: &Seen| self.routes.of(&seen.topic, None).iter().any(|route| route.queue.is_connected());
        let (read, unread): (Vec<_>, Vec<_>) = topics.into_iter().partition(is_read);
        for (seen, still_read) in [(read, true), (unread, false)] {
            if !seen.is_empty() {
                let store = self.store.clone();
                // The next subscriber reads after this verb.
                self.go_on(async move { drop(store.documents_seen(queue, seen, still_read).await) }).await;
            }
        }
    }
}

/// A document as its reader gets it: as it was when it became a row of the queue, or as the subscription has it now. None if
/// there is no such subscription any more.
fn document(found: QueuedDocument, route: Option<&MatchedQueue>) -> Option<OutgoingMessage> {
    let QueuedDocument { waiting: OutboxDocument { reference, payload, correlation, redelivered, expires_at }, own } =
        found;
    let (qos, ids, retain) = match own {
        Some(target) => (target.qos, target.ids, target.retain),
        None => route.map(|route| (route.qos, route.ids.clone(), false))?,
    };
    let message = document_message(&reference.topic, payload, correlation.as_ref(), (redelivered, expires_at));
    Some(OutgoingMessage { retain, ..OutgoingMessage::document(message, reference, qos, ids, redelivered) })
}

/// By whom the document is acknowledged: the owner of the inbox that it lies in, or another client.
fn acked_by(session: &Session, flight: &InFlight) -> AckedBy {
    let Source::Document(DocumentRef { topic, .. }) = &flight.source else { return AckedBy::Broker };
    match (Side::of(topic), session.user.as_deref()) {
        (Side::Inbox { owner, .. }, Some(user)) if owner == user && flight.qos > QoS::AtMostOnce => AckedBy::Owner,
        _ => AckedBy::Broker,
    }
}

/// A read that the store has not answered.
struct PendingRead {
    queue: Arc<SharedQueue>,
    read: PageRequest,
}

impl Drop for PendingRead {
    fn drop(&mut self) {
        // `read_failed` ignores a read that was answered.
        self.queue.read(|queue| queue.read_failed(&self.read));
    }
}
