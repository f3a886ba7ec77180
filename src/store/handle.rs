//! The handle: the verbs, as the rest of the program sees them.

mod sessions;

use super::board::Board;
use super::documents::{DocumentRef, Note, Seen, TakenBy, Waiting};
use super::downstream::{Accepted, Claimed, DueQuery, NewMessage, Recorded, Taken};
use super::error::{OpenError, StoreError, StoreHealth};
use super::figures::{QueueState, StoreFigures, Swept};
use super::presence::{LastPresence, PresenceChange};
use super::sqlite::writer::Queue;
use super::sqlite::{Inspector, accept, dispatch, inbox, outbox, presence, sweep};
use super::upstream::{Received, Route, Unrouted, Upstream};
use crate::chat::delivery::Event;
use crate::chat::id::{Owner, Sid};
use crate::chat::transport::Transport;
use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
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
/// order in which their first step ended. The first step fails when the store is closed, and with nothing else. What it
/// means to ask again stands in the [room's own words](crate::store).
///
/// ```no_run
/// # async fn f(store: fcm_mqtt_bridge::store::Store, new: fcm_mqtt_bridge::store::NewMessage) -> anyhow::Result<()> {
/// let committed = store.accept(new).await?; // queued; its place in the order is fixed
/// let outcome = committed.await?;           // on disk
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    queue: Queue,
    board: Arc<Board>,
    path: Arc<Path>,
}

impl Store {
    pub(super) fn new(queue: Queue, board: Arc<Board>, path: Arc<Path>) -> Self {
        Self { queue, board, path }
    }

    /// Takes a message of a BAL and queues its status `accepted`. Where its transport has room and nothing older is due, it is
    /// in flight at once ([`Self::gone_at_once`]).
    pub async fn accept(&self, new: NewMessage) -> Result<Committed<Accepted>, StoreError> {
        self.queue.submit(move |tx| accept::accept(tx, &new)).await
    }

    /// Queues a document that belongs to no delivery. At most [`super::NOTES_PER_TOPIC`] wait per topic.
    pub async fn tell(&self, note: Note) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| outbox::tell(tx, &note)).await
    }

    /// Hands out what is due, as far as the order of each recipient's messages allows
    /// ([`crate::chat::recipient_queue`]); what is overdue expires.
    pub async fn take_due(&self, query: DueQuery) -> Result<Committed<Taken>, StoreError> {
        self.queue.submit(move |tx| dispatch::take_due(tx, &query)).await
    }

    /// Writes down what became of a delivery, queues what its sender is told, and lets go what waited
    /// for it: the next of its order key, and of its recipient. `at` is Unix milliseconds.
    pub async fn record(&self, sid: Sid, event: Event, at: u64) -> Result<Committed<Recorded>, StoreError> {
        self.queue.submit(move |tx| dispatch::record(tx, sid, &event, at)).await
    }

    /// Somebody says below the topics of `name` that he has these messages: an app that it has a push, which counts where
    /// nobody else can say so; the reader of the inbox of `name` what lay there, by the id of the delivery or of its message;
    /// or a BAL that it has a message of a device. Returns what became of the deliveries, each by its own id.
    pub async fn confirm(
        &self,
        name: &Owner,
        sids: Vec<Sid>,
        at: u64,
    ) -> Result<Committed<Vec<(Sid, Recorded)>>, StoreError> {
        let name = name.clone();
        self.queue
            .submit(move |tx| {
                inbox::acked(tx, name.as_str(), &sids, at)?;
                dispatch::confirm(tx, &name, &sids, at)
            })
            .await
    }

    /// Takes a message from a device, unless it is known.
    pub async fn receive(&self, message: Upstream) -> Result<Committed<Received>, StoreError> {
        self.queue.submit(move |tx| inbox::receive(tx, &message)).await
    }

    /// Messages of devices that wait for a route, oldest first: the next behind `after_seq`, at most `limit`. Changes
    /// nothing.
    pub async fn unrouted(&self, after_seq: u64, limit: usize) -> Result<Committed<Vec<Unrouted>>, StoreError> {
        self.queue.submit(move |tx| inbox::unrouted(tx, after_seq, limit)).await
    }

    /// Gives routes to messages that wait for one; from then on they wait at the end of their topics, in this order. Returns how
    /// many got one: a message that has a route by now keeps it.
    pub async fn give_routes(&self, routes: Vec<(Sid, Route)>) -> Result<Committed<u64>, StoreError> {
        self.queue.submit(move |tx| inbox::give_routes(tx, &routes)).await
    }

    /// A BAL says that it has this upstream message, and all before it that were published.
    ///
    /// # Errors
    /// When the store is closed, or fails on the way; what was dropped so far is.
    pub async fn acked_up_to(&self, bal: &Owner, last: Sid, at: u64) -> Result<(), StoreError> {
        let mut more = true;
        while more {
            let bal = bal.clone();
            more = self.queue.submit(move |tx| inbox::acked_up_to(tx, bal.as_str(), last, at)).await?.await?;
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
    ) -> Result<Committed<Vec<Waiting>>, StoreError> {
        self.queue.submit(move |tx| outbox::next(tx, &topic, after_seq, limit)).await
    }

    /// All topics with documents that wait.
    pub async fn topics_to_publish(&self) -> Result<Committed<Vec<String>>, StoreError> {
        self.queue.submit(|tx| outbox::topics(tx)).await
    }

    /// The broker, or the reader, has these documents. References of one topic side by side cost least. Returns what became of
    /// the deliveries among them. Goes with the next transaction of others, or after
    /// [`super::sqlite::Settings::patience`]: what a crash makes it forget is published again, marked.
    pub async fn published(
        &self,
        references: Vec<DocumentRef>,
        by: TakenBy,
        at: u64,
    ) -> Result<Committed<Vec<(Sid, Recorded)>>, StoreError> {
        self.queue.submit_patiently(move |tx| outbox::published(tx, &references, by, at)).await
    }

    /// A publisher that stops, or whose topic has no reader, says how far it came: of each of these topics the documents up
    /// to the one named may have been seen and are marked the next time; what lies behind them was not.
    pub async fn parted(&self, topics: Vec<Seen>) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| outbox::parted(tx, &topics)).await
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

    /// Expires what is overdue and forgets what is settled long enough, a little of it.
    pub async fn sweep(&self, now: u64) -> Result<Committed<Swept>, StoreError> {
        self.queue.submit(move |tx| sweep::sweep(tx, now)).await
    }

    /// Waits until documents were queued; returns their topics. For one caller: two would share the topics.
    /// Cancel-safe: what is not returned is not taken.
    pub async fn fresh_topics(&self) -> BTreeSet<String> {
        loop {
            let topics = self.board.take_fresh_topics();
            if !topics.is_empty() {
                return topics;
            }
            self.board.fresh.notified().await;
        }
    }

    /// Changes whenever a message became due.
    pub fn due(&self) -> watch::Receiver<u64> {
        self.board.due.subscribe()
    }

    /// Changes whenever a message went at once: it was accepted as in flight already, and is to be sent now.
    pub fn gone_at_once(&self) -> watch::Receiver<u64> {
        self.board.gone_at_once.subscribe()
    }

    /// What went at once by this transport since it was last asked, in order. It goes behind what [`Self::take_due`] handed
    /// out before it ([`Taken::at_once`] tells), and in flight like that.
    pub fn take_gone_at_once(&self, transport: &Transport) -> Vec<Claimed> {
        self.board.take_gone(transport)
    }

    /// Whether the disk takes what it is given.
    pub fn health(&self) -> watch::Receiver<StoreHealth> {
        self.board.health.subscribe()
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

    /// Figures for metrics.
    pub fn figures(&self) -> StoreFigures {
        self.board.figures()
    }
}
