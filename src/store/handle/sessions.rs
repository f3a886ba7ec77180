//! The verbs for a broker of our own.

use super::{Committed, Store};
use crate::store::documents::{Seen, Unread};
use crate::store::error::StoreError;
use crate::store::sessions::{
    AckOutcome, Acknowledged, BrokerState, CommitEvents, DocumentPage, Enqueue, GivenRow, ImportedSession,
    KeptSubscription, Message, Page, QueueId, RowCount, RowPage, SessionRecord, SweptQueues, Target, Will, WillRef,
};
use crate::store::sqlite::sessions::{documents, import, queue, retained, session, state, sweep};
use crate::store::sqlite::unread;
use std::sync::Arc;

impl Store {
    /// All that a broker has to know before its first client.
    pub async fn broker_state(&self) -> Result<Committed<BrokerState>, StoreError> {
        self.queue.submit(|tx| state::broker_state(tx)).await
    }

    /// A session has a connection and outlives it: makes it, or notes its new connection and the will that came with it.
    /// Like all that is said of sessions whose connections come and go, it does not wait for room before others do.
    pub async fn keep_session(
        &self,
        session: SessionRecord,
        will: Option<Will>,
    ) -> Result<Committed<QueueId>, StoreError> {
        self.queue.submit_reserved(move |tx| session::keep(tx, &session, will.as_ref())).await
    }

    /// The last connection of a session or group ended at `at`; the session is kept for `expiry_s` seconds more. Its
    /// will is to be published at `will_due`, or not at all.
    pub async fn session_left(
        &self,
        queue: QueueId,
        at: u64,
        expiry_s: u32,
        will_due: Option<u64>,
    ) -> Result<Committed<()>, StoreError> {
        self.queue.submit_reserved(move |tx| session::left(tx, queue, at, expiry_s, will_due)).await
    }

    /// What had a connection when the process was killed has left at `at`, and its wills are to be published after their
    /// delays.
    pub async fn all_left(&self, at: u64) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| session::all_left(tx, at)).await
    }

    /// Ends a session, with all that is its own. It is over for everybody; if it had many rows, [`Self::sweep_queues`] takes
    /// what is left of them.
    pub async fn end_queue(&self, queue: QueueId) -> Result<Committed<()>, StoreError> {
        self.queue.submit_reserved(move |tx| session::end(tx, queue).map(drop)).await
    }

    /// Ends the group `name` in the same way, if there is one.
    pub async fn end_group(&self, name: String) -> Result<Committed<()>, StoreError> {
        self.queue.submit_reserved(move |tx| session::end_group(tx, &name)).await
    }

    /// The queue of the group `name`, which is made if there is none. From now on a member has a connection.
    pub async fn keep_group(&self, name: String) -> Result<Committed<QueueId>, StoreError> {
        self.queue.submit_reserved(move |tx| session::keep_group(tx, &name)).await
    }

    /// Adds subscriptions to a session, or changes them.
    pub async fn subscribe(
        &self,
        queue: QueueId,
        subscriptions: Vec<KeptSubscription>,
    ) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| session::subscribe(tx, queue, &subscriptions)).await
    }

    /// Takes subscriptions from a session, by their filters.
    pub async fn unsubscribe(&self, queue: QueueId, filters: Vec<String>) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| session::unsubscribe(tx, queue, &filters)).await
    }

    /// Takes a message, with everything that its acknowledgement promises. Yields whether it is new: see
    /// [`Enqueue::incoming`].
    pub async fn enqueue(&self, message: Enqueue) -> Result<Committed<bool>, StoreError> {
        self.queue.submit(move |tx| queue::enqueue(tx, &message)).await
    }

    /// Puts a retained message into a queue, unless another one is retained on its topic by now, or none. Whether it did.
    /// Whoever was to be told of that has it before this, and would get the older one behind it.
    pub async fn enqueue_retained(&self, message: Arc<Message>, target: Target) -> Result<Committed<bool>, StoreError> {
        self.queue.submit(move |tx| queue::enqueue_retained(tx, &message, &target)).await
    }

    /// The same as [`Self::enqueue`] for a will: the end of a connection is not to wait for room.
    pub async fn enqueue_will(&self, will: Enqueue) -> Result<Committed<bool>, StoreError> {
        self.queue.submit_reserved(move |tx| queue::enqueue(tx, &will)).await
    }

    /// The next messages of clients in a queue behind `after`. What has expired goes.
    pub async fn read_rows(
        &self,
        queue: QueueId,
        after: u64,
        page: Page,
        now: u64,
    ) -> Result<Committed<RowPage>, StoreError> {
        self.queue.submit(move |tx| queue::read_rows(tx, queue, after, page, now)).await
    }

    /// The next documents of a topic behind `after`, and among them those that are rows of the queue because another reader
    /// had them first.
    pub async fn read_documents(
        &self,
        topic: Arc<str>,
        queue: Option<QueueId>,
        after: u64,
        page: Page,
    ) -> Result<Committed<DocumentPage>, StoreError> {
        self.queue.submit(move |tx| documents::read(tx, &topic, queue, after, page)).await
    }

    /// Topics with documents that nobody has had, which begin with one of `prefixes`: the next behind `after`, at most
    /// `limit`.
    pub async fn waiting_topics(
        &self,
        mut prefixes: Vec<String>,
        after: String,
        limit: usize,
    ) -> Result<Committed<Vec<String>>, StoreError> {
        prefixes.sort_unstable();
        prefixes.dedup_by(|next, first| next.starts_with(first.as_str()));
        self.queue.submit(move |tx| documents::waiting_topics(tx, &prefixes, &after, limit)).await
    }

    /// Topics of documents that are rows of the queue: the next behind `after`, at most `limit`.
    pub async fn own_topics(
        &self,
        queue: QueueId,
        after: String,
        limit: usize,
    ) -> Result<Committed<Vec<String>>, StoreError> {
        self.queue.submit(move |tx| documents::own_topics(tx, queue, &after, limit)).await
    }

    /// Topics with documents that are dropped where nobody reads them: the next behind `after`, at most `limit`.
    pub async fn topics_to_drop(&self, after: String, limit: usize) -> Result<Committed<Vec<Unread>>, StoreError> {
        self.queue.submit(move |tx| unread::topics(tx, &after, limit)).await
    }

    /// Nobody reads these topics: their documents that are dropped then go, a little of it. Yields whether there may be more.
    /// Who reads the topic by now and has a document of these keeps it, and acknowledges it in vain. Deferred like
    /// [`Self::documents_acked`].
    pub async fn drop_unread(&self, unread: Vec<Unread>) -> Result<Committed<bool>, StoreError> {
        self.follow_ups.submit_deferred(move |tx| unread::drop_unread(tx, &unread)).await
    }

    /// The client of a queue acknowledged these rows and documents. Deferred like [`Self::documents_acked`], unless it is
    /// awaited.
    pub async fn acknowledged(&self, what: Acknowledged) -> Result<Committed<AckOutcome>, StoreError> {
        if what.is_awaited {
            return self.queue.submit(move |tx| documents::acknowledged(tx, &what)).await;
        }
        self.queue.submit_deferred(move |tx| documents::acknowledged(tx, &what)).await
    }

    /// Of each of these topics the documents up to `seq` are sent with `redelivered` the next time: those of the outbox, and
    /// those that are rows of `queue`, whose client had them. Unless the topic is `still_read`, what lies behind counts as
    /// not sent.
    pub async fn documents_seen(
        &self,
        queue: Option<QueueId>,
        seen: Vec<Seen>,
        still_read: bool,
    ) -> Result<Committed<()>, StoreError> {
        self.queue.submit_reserved(move |tx| documents::seen(tx, queue, &seen, still_read)).await
    }

    /// QoS 2: rows of a group become rows of the queue of one member. Yields what they count for, and the last number that
    /// one of them has there.
    pub async fn give(&self, group: QueueId, rows: Vec<GivenRow>) -> Result<Committed<(RowCount, u64)>, StoreError> {
        self.queue.submit(move |tx| queue::give(tx, group, &rows)).await
    }

    /// QoS 2: gives rows of a queue their packet identifiers, before they are sent.
    pub async fn assign(&self, queue: QueueId, ids: Vec<(u64, u16)>) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| queue::assign(tx, queue, &ids)).await
    }

    /// QoS 2: PUBREC has come for these rows. Their bodies go; they stay, and count as before, until they are acknowledged.
    pub async fn released(&self, queue: QueueId, rows: Vec<u64>) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| queue::released(tx, queue, &rows)).await
    }

    /// QoS 2: PUBREL has come for these packet identifiers of the session.
    pub async fn forget_incoming(&self, queue: QueueId, ids: Vec<u16>) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| queue::forget_incoming(tx, queue, &ids)).await
    }

    /// The retained messages of these topics, as far as there are any, also those that have expired and not been swept.
    pub async fn read_retained(&self, topics: Vec<String>) -> Result<Committed<Vec<Message>>, StoreError> {
        self.queue.submit(move |tx| retained::read(tx, &topics)).await
    }

    /// The will of a session is not published, or was.
    pub async fn drop_will(&self, will: WillRef) -> Result<Committed<()>, StoreError> {
        self.queue.submit_reserved(move |tx| retained::drop_will(tx, will)).await
    }

    /// Drops what has expired in queues and of retained messages, a little of it.
    pub async fn sweep_queues(&self, now: u64) -> Result<Committed<SweptQueues>, StoreError> {
        self.queue.submit(move |tx| sweep::sweep(tx, now)).await
    }

    /// Whether [`Self::imported`] was committed.
    pub async fn is_imported(&self) -> Result<Committed<bool>, StoreError> {
        self.queue.submit(|tx| import::is_done(tx)).await
    }

    /// Takes a session from elsewhere, unless there is one with its key. Yields the packet identifiers of its QoS 2 messages
    /// that [`Self::hand_on`] is still to give to their readers.
    pub async fn import_session(&self, session: ImportedSession) -> Result<Committed<Vec<u16>>, StoreError> {
        self.queue.submit(move |tx| import::session(tx, &session)).await
    }

    /// Takes retained messages from elsewhere, with the users who published them, where there are none on their topics.
    pub async fn import_retained(&self, messages: Vec<(Message, Option<String>)>) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| import::retained(tx, &messages)).await
    }

    /// Gives a QoS 2 message to its readers that an imported session published under this packet identifier.
    pub async fn hand_on(&self, from: (QueueId, u16), message: Enqueue) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| import::hand_on(tx, from, &message)).await
    }

    /// The import is complete.
    pub async fn imported(&self) -> Result<Committed<()>, StoreError> {
        self.queue.submit(|tx| import::done(tx)).await
    }

    /// From now on [`Self::commit_events`] tells what each commit brings, and [`Self::topics_with_documents`] nothing. Verbs queued
    /// before this tell nothing, those queued afterwards do.
    pub fn listen(&self) {
        self.shared.listen();
    }

    /// Waits until commits brought something; returns all of it. For one caller. Cancel-safe: what is not returned is not taken.
    pub async fn commit_events(&self) -> CommitEvents {
        loop {
            let events = self.shared.take_events();
            if events != CommitEvents::default() {
                return events;
            }
            self.shared.events_came.notified().await;
        }
    }

    /// How many commits have told something to [`Self::commit_events`]. A commit is counted before its verbs, and those
    /// queued later, are answered.
    pub fn commits_told(&self) -> u64 {
        self.shared.commits_told()
    }
}
