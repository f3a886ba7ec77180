//! The handle: the verbs, as the rest of the program sees them.

mod calls;
mod chat;
mod erase;
mod group;
mod sessions;

use super::documents::{AckedBy, DocumentRef, Note, OutboxDocument, Seen, UserDocument};
use super::downstream::{Accepted, Claimed, DueBatch, DueQuery, NewMessage, Recorded};
use super::error::{OpenError, StoreError, StoreHealth};
use super::figures::{QueueState, StoreFigures, Swept};
use super::group_room::GroupRooms;
use super::presence::{LastPresence, PresenceChange};
use super::shared_status::{SILENCE_MAX, SharedStatus};
use super::sqlite::reader::Reads;
use super::sqlite::verb_queue::VerbQueue;
use super::sqlite::{Inspector, accept, dispatch, outbox, presence, sweep, unread, upstream};
use super::upstream::{Received, Route, Unrouted, Upstream};
use crate::chat::delivery::Event;
use crate::chat::id::{Owner, Sid};
use crate::chat::status::Status;
use crate::chat::transport::Transport;
use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::{oneshot, watch};

/// A verb that is queued; resolves when its transaction is on disk. Dropping it does not undo the verb.
#[derive(Debug)]
#[must_use = "nothing is safe before this resolves"]
pub struct Committed<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Committed<T> {
    pub(super) fn new(answer: oneshot::Receiver<Result<T, StoreError>>) -> Self {
        Self(answer)
    }
}

impl<T> Future for Committed<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}

/// The store. Cheap to clone.
///
/// Every verb has two steps: the first waits for room in the queue, the second for the disk. Verbs are done in the
/// order in which their first step ended; what [`Self::take_due`], [`Self::record`] and [`Self::drop_unread`] ask has an order
/// of its own, and may be done before or behind others. The first step fails when the store is closed, and for no other
/// reason. What happens to a verb that is sent twice: see the table in [`crate::store`].
///
/// ```no_run
/// # async fn f(store: fcm_mqtt_bridge::store::Store, new: fcm_mqtt_bridge::store::NewMessage) -> anyhow::Result<()> {
/// let committed = store.accept(new).await?; // queued; its place in the order is fixed
/// let outcome = committed.await?;           // on disk
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    queue: VerbQueue,
    /// For what follows from messages that are on the disk: nobody waits for it, and there may be a lot of it at once.
    follow_ups: VerbQueue,
    reads: Reads,
    group_rooms: Arc<GroupRooms>,
    shared: Arc<SharedStatus>,
    path: Arc<Path>,
}

impl Store {
    pub(super) fn new(
        [queue, follow_ups]: [VerbQueue; 2],
        reads: Reads,
        shared: Arc<SharedStatus>,
        path: Arc<Path>,
    ) -> Self {
        Self { queue, follow_ups, reads, group_rooms: Arc::default(), shared, path }
    }

    /// Takes a message of a BAL and queues its status `accepted`. Where its transport has room and nothing older is
    /// due, it is stored as in flight by this verb ([`Self::on_accept_wakes`]).
    pub async fn accept(&self, new: NewMessage) -> Result<Committed<Accepted>, StoreError> {
        self.queue.submit(move |tx| accept::accept(tx, &new)).await
    }

    /// Tells the last status of a message once more that is known by its sender's id; `None`: it is not known, and is not taken.
    pub async fn repeat(&self, new: NewMessage) -> Result<Committed<Option<Status>>, StoreError> {
        self.queue.submit(move |tx| accept::repeat(tx, &new)).await
    }

    /// Queues a document that belongs to no delivery. At most [`super::NOTES_PER_TOPIC`] wait per topic.
    pub async fn queue_note(&self, note: Note) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| outbox::queue_note(tx, &note)).await
    }

    /// Queues a document for a chat user. Of these no number is kept: who reads them has a connection, or one of a few
    /// sessions.
    pub async fn queue_user_document(&self, document: UserDocument) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| unread::queue(tx, &document)).await
    }

    /// Hands out what is due, as far as the order of each recipient's messages allows
    /// ([`crate::chat::recipient_queue`]); what is overdue expires.
    pub async fn take_due(&self, query: DueQuery) -> Result<Committed<DueBatch>, StoreError> {
        self.follow_ups.submit(move |tx| dispatch::take_due(tx, &query)).await
    }

    /// What was refused and waits for a time to be tried again by this transport is due now. Returns how many that were.
    ///
    /// # Errors
    /// When the store is closed, or fails on the way; what was done so far is.
    pub async fn flush(&self, transport: &Transport) -> Result<u64, StoreError> {
        let mut flushed = 0;
        loop {
            let transport = transport.clone();
            let chunk = self.queue.submit(move |tx| dispatch::flush(tx, &transport)).await?.await?;
            if chunk == 0 {
                return Ok(flushed);
            }
            flushed += chunk;
        }
    }

    /// Records what became of a delivery, queues what its sender is told, and makes the next messages of its order key
    /// and of its recipient due. `at` is Unix milliseconds.
    pub async fn record(&self, sid: Sid, event: Event, at: u64) -> Result<Committed<Recorded>, StoreError> {
        self.follow_ups.submit(move |tx| dispatch::record(tx, sid, &event, at)).await
    }

    /// An acknowledgement on a topic of `name`: by an app for a push, where no push service reports the receipt; by a
    /// client for documents in the inbox of `name`, by the id of the delivery or of its message; or by a BAL for
    /// upstream messages. Returns what became of the deliveries, each by its own id.
    pub async fn confirm(
        &self,
        name: &Owner,
        sids: Vec<Sid>,
        at: u64,
    ) -> Result<Committed<Vec<(Sid, Recorded)>>, StoreError> {
        let name = name.clone();
        self.queue
            .submit(move |tx| {
                upstream::acked(tx, name.as_str(), &sids, at)?;
                dispatch::confirm(tx, &name, &sids, at)
            })
            .await
    }

    /// Takes a message from a device, unless it is known.
    pub async fn receive(&self, message: Upstream) -> Result<Committed<Received>, StoreError> {
        self.queue.submit(move |tx| upstream::receive(tx, &message)).await
    }

    /// Messages of devices that wait for a route, oldest first: the next behind `after_seq`, at most `limit`. Changes
    /// nothing.
    pub async fn unrouted(&self, after_seq: u64, limit: usize) -> Result<Committed<Vec<Unrouted>>, StoreError> {
        self.queue.submit(move |tx| upstream::unrouted(tx, after_seq, limit)).await
    }

    /// Gives routes to messages that wait for one; from then on they wait at the end of their topics, in this order. Returns how
    /// many got one: a message that has a route by now keeps it.
    pub async fn give_routes(&self, routes: Vec<(Sid, Route)>) -> Result<Committed<u64>, StoreError> {
        self.queue.submit(move |tx| upstream::give_routes(tx, &routes)).await
    }

    /// A BAL acknowledges this upstream message, and all before it that were published.
    ///
    /// # Errors
    /// When the store is closed, or fails on the way; what was dropped so far is.
    pub async fn acked_up_to(&self, bal: &Owner, last: Sid, at: u64) -> Result<(), StoreError> {
        let mut more = true;
        while more {
            let bal = bal.clone();
            more = self.queue.submit(move |tx| upstream::acked_up_to(tx, bal.as_str(), last, at)).await?.await?;
        }
        Ok(())
    }

    /// The next documents of a topic behind `after_seq`, at most `limit`. What waits for its BAL's acknowledgement is
    /// among them: start at 0 after a reconnect, else behind the last one that was published.
    pub async fn next_to_publish(
        &self,
        topic: Arc<str>,
        after_seq: u64,
        limit: usize,
    ) -> Result<Committed<Vec<OutboxDocument>>, StoreError> {
        self.queue.submit(move |tx| outbox::next(tx, &topic, after_seq, limit)).await
    }

    /// All topics with documents that wait.
    pub async fn topics_to_publish(&self) -> Result<Committed<Vec<String>>, StoreError> {
        self.queue.submit(|tx| outbox::topics(tx)).await
    }

    /// These documents are acknowledged. References of one topic side by side cost least. Returns what became of the
    /// deliveries among them. Deferred: it goes with the next transaction of other verbs, or after
    /// [`super::sqlite::Settings::max_commit_delay`]; what a crash makes it forget is published again, marked.
    pub async fn documents_acked(
        &self,
        references: Vec<DocumentRef>,
        by: AckedBy,
        at: u64,
    ) -> Result<Committed<Vec<(Sid, Recorded)>>, StoreError> {
        self.queue.submit_deferred(move |tx| outbox::documents_acked(tx, &references, by, at)).await
    }

    /// Of each of these topics the documents up to `seq` are published with `redelivered` the next time; what lies
    /// behind counts as not handed out. For a publisher that stops, or has no subscriber.
    pub async fn handed_out_up_to(&self, topics: Vec<Seen>) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| outbox::handed_out_up_to(tx, &topics)).await
    }

    /// Notes what is about to be said about a chat user. Returns when the user last went, as far as is known.
    pub async fn presence_changed(&self, change: PresenceChange) -> Result<Committed<Option<u64>>, StoreError> {
        self.queue.submit(move |tx| presence::changed(tx, &change)).await
    }

    /// Notes that the bridge runs at `at`: after a crash, users who are online were last seen no earlier than that.
    pub async fn still_alive(&self, at: u64) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| presence::still_alive(tx, at)).await
    }

    /// What was last said about chat users, as far as it may be wrong after a restart; forgets who has been away too
    /// long. For the start, before anything changes.
    pub async fn last_presences(&self, now: u64) -> Result<Committed<Vec<LastPresence>>, StoreError> {
        self.queue.submit(move |tx| presence::last(tx, now)).await
    }

    /// Notes whether a BAL has said that it is away.
    pub async fn bal_changed(&self, bal: Owner, is_away: bool) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| presence::bal_changed(tx, &bal, is_away)).await
    }

    /// Notes that these BALs count as away, and have to say that they are back.
    pub async fn bals_gone(&self, bals: Vec<Owner>) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| presence::bals_gone(tx, &bals)).await
    }

    /// The BALs that are away, and have said nothing else since.
    pub async fn bals_away(&self) -> Result<Committed<Vec<Owner>>, StoreError> {
        self.queue.submit(|tx| presence::bals_away(tx)).await
    }

    /// Expires what is overdue and forgets what is settled long enough, a little of it.
    pub async fn sweep(&self, now: u64) -> Result<Committed<Swept>, StoreError> {
        self.queue.submit(move |tx| sweep::sweep(tx, now)).await
    }

    /// Waits until documents were queued; returns their topics. For one caller: two would share the topics.
    /// Cancel-safe: what is not returned is not taken.
    pub async fn topics_with_documents(&self) -> BTreeSet<String> {
        loop {
            let topics = self.shared.take_topics_with_documents();
            if !topics.is_empty() {
                return topics;
            }
            self.shared.documents_came.notified().await;
        }
    }

    /// Changes whenever a message became due.
    pub fn due(&self) -> watch::Receiver<u64> {
        self.shared.due.subscribe()
    }

    /// Changes whenever a message was accepted as in flight and is to be sent now.
    pub fn on_accept_wakes(&self) -> watch::Receiver<u64> {
        self.shared.on_accept_wakes.subscribe()
    }

    /// Takes the messages of this transport that were accepted as in flight, in order. Send these after the deliveries
    /// of every `take_due` whose [`DueBatch::claimed_on_accept`] is smaller; they are already in flight.
    pub fn take_claimed_on_accept(&self, transport: &Transport) -> Vec<Claimed> {
        self.shared.take_claimed_on_accept(transport)
    }

    /// Whether the disk takes what it is given.
    pub fn health(&self) -> watch::Receiver<StoreHealth> {
        self.shared.health.subscribe()
    }

    /// Looks whether the disk still answers: one that hangs fails no verb. To be asked from time to time, with the machine's
    /// monotonic clock.
    pub fn check_disk(&self, now: Instant) {
        if self.shared.check_disk(now) {
            tracing::error!(
                seconds = SILENCE_MAX.as_secs(),
                "the disk does not answer the store; everything waits until it does"
            );
        }
    }

    /// What waits for each push service at `now`. Reads beside the verbs, on a connection of its own: neither waits for the
    /// other.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn queue_states(&self, now: u64) -> Result<Vec<QueueState>, StoreError> {
        let path = Arc::clone(&self.path);
        let look = move || {
            let refused = |error: OpenError| StoreError::Blocked { reason: error.to_string() };
            Inspector::open(&path).map_err(refused)?.queue_states(now)
        };
        tokio::task::spawn_blocking(look).await.unwrap_or(Err(StoreError::Closed))
    }

    /// Figures for metrics, as of the last commit.
    pub fn figures(&self) -> StoreFigures {
        self.shared.figures()
    }
}
