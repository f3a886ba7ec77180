//! The handle: the verbs, as seen by the rest of the house.

use super::documents::{DocumentRef, Note, Seen, Waiting};
use super::downstream::{Accepted, DueQuery, NewDelivery, Recorded, Taken};
use super::figures::{Limits, Recovery, StoreFigures, Swept};
use super::presence::{LastPresence, PresenceChange};
use super::sqlite::file::{self, OpenError};
use super::sqlite::tx::Tx;
use super::sqlite::writer::{Board, Item, Job, StoreHealth, Writer};
use super::sqlite::{accept, dispatch, inbox, outbox, presence, recover, sweep};
use super::upstream::{Received, Route, Upstream};
use crate::chat::delivery::Event;
use crate::chat::id::{Owner, Sid};
use crate::chat::transport::Transport;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Where the store is and how much it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file. Beside it SQLite keeps `-wal` and `-shm`, and the store a `.lock`.
    pub path: PathBuf,
    /// How much it holds.
    pub limits: Limits,
    /// The transports that there are. What was to go by another one, of an earlier configuration, goes by the first of them.
    pub transports: Vec<Transport>,
    /// Verbs that may wait for the writer thread; beyond it, who asks waits.
    pub queue: usize,
    /// How long to wait before trying again when the disk refuses.
    pub retry_pause: Duration,
}

impl Settings {
    /// A store at `path` with the default limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            limits: Limits::default(),
            transports: vec![Transport::default()],
            queue: 2048,
            retry_pause: Duration::from_secs(1),
        }
    }
}

/// Why a verb was not answered.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store is closed, or was stopped before the verb was on disk.
    #[error("the store is closed")]
    Closed,
    /// The verb failed by itself; the file is as if it had never been asked.
    #[error("the store could not do it")]
    Sqlite(#[source] rusqlite::Error),
}

/// Why the store did not end well. Everything that was answered is on disk all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// The disk refused to the end; what was queued is not done.
    #[error("the disk refuses the store: {reason}")]
    Blocked {
        /// SQLite's words.
        reason: String,
    },
    /// The writer thread ended early.
    #[error("the writer thread of the store failed")]
    Failed,
}

/// A verb that is queued; resolves when its transaction is on disk. Dropping it does not undo the verb.
#[derive(Debug)]
#[must_use = "nothing is safe before this resolves"]
pub struct Committed<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Future for Committed<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}

/// The store. Cheap to clone.
///
/// Every verb has two steps: the first waits for room in the queue, the second for the disk. Verbs are done in the
/// order in which their first step ended. The first step fails when the store is closed, and with nothing else.
///
/// ```no_run
/// # async fn f(store: fcm_mqtt_bridge::store::Store, new: fcm_mqtt_bridge::store::NewDelivery) -> anyhow::Result<()> {
/// let committed = store.accept(new).await?; // queued; its place in the order is fixed
/// let outcome = committed.await?;           // on disk
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    queue: mpsc::Sender<Item>,
    board: Arc<Board>,
}

/// Owns the writer thread. Whoever opened the store closes it, after everybody who writes has stopped.
#[derive(Debug)]
pub struct WriterThread {
    queue: mpsc::Sender<Item>,
    stop: SyncSender<()>,
    /// Dropped unsent if the thread panics.
    ended: oneshot::Receiver<Result<(), CloseError>>,
}

impl WriterThread {
    /// Finishes what is queued, folds the write-ahead log in, ends the thread. Verbs asked from now on are answered
    /// [`StoreError::Closed`].
    ///
    /// # Errors
    /// When the disk refused to the end, or the thread failed.
    pub async fn close(self) -> Result<(), CloseError> {
        // Only looked at while blocked; the order of the two matters, for then the queue may be full for ever.
        let _ = self.stop.try_send(());
        let _ = self.queue.send(Item::Close).await;
        self.ended.await.unwrap_or(Err(CloseError::Failed))
    }
}

impl Store {
    /// Opens the store, makes it if it is missing, and puts in order what the last stop left behind. `now_ms` is Unix
    /// milliseconds. Reads the whole memory of settled messages, so it may take a second or two: not for an async task.
    ///
    /// # Errors
    /// When the file is in use, foreign, newer than this program, damaged, or cannot be opened.
    pub fn open(settings: &Settings, now_ms: u64) -> Result<(Self, WriterThread, Recovery), OpenError> {
        Self::open_with(
            settings,
            now_ms,
            #[cfg(test)]
            Box::new(|_| ()),
        )
    }

    pub(super) fn open_with(
        settings: &Settings,
        now_ms: u64,
        #[cfg(test)] hook: super::sqlite::writer::Hook,
    ) -> Result<(Self, WriterThread, Recovery), OpenError> {
        let (mut conn, lock) = file::open(&settings.path)?;
        let (memory, recovery) =
            recover::recover(&mut conn, settings, now_ms).map_err(|error| OpenError::sorted(&settings.path, error))?;
        let board = Arc::new(Board::default());
        board.show(memory.figures);
        let (queue, queued) = mpsc::channel(settings.queue);
        let (stop, stopped) = std::sync::mpsc::sync_channel(1);
        let writer = Writer {
            conn,
            lock,
            limits: settings.limits.clone(),
            memory,
            queue: queued,
            stop: stopped,
            retry_pause: settings.retry_pause,
            board: board.clone(),
            #[cfg(test)]
            hook,
        };
        let (end, ended) = oneshot::channel();
        // It tells its end by the channel, when it has closed the file and let go of the lock.
        std::thread::Builder::new().name("store".to_owned()).spawn(move || end.send(writer.run()))?;
        Ok((Self { queue: queue.clone(), board }, WriterThread { queue, stop, ended }, recovery))
    }

    /// Takes a message of a BAL and queues its status `accepted`.
    pub async fn accept(&self, new: NewDelivery) -> Result<Committed<Accepted>, StoreError> {
        self.submit(move |tx| accept::accept(tx, &new)).await
    }

    /// Queues a document that belongs to no delivery. At most [`super::NOTES_PER_TOPIC`] wait per topic.
    pub async fn tell(&self, note: Note) -> Result<Committed<()>, StoreError> {
        self.submit(move |tx| outbox::tell(tx, &note)).await
    }

    /// Hands out what is due, as far as the order of each recipient's messages allows
    /// ([`crate::chat::recipient_queue`]); what is overdue expires.
    pub async fn take_due(&self, query: DueQuery) -> Result<Committed<Taken>, StoreError> {
        self.submit(move |tx| dispatch::take_due(tx, &query)).await
    }

    /// Writes down what became of a delivery, queues what its sender is told, and lets go what waited
    /// for it: the next of its order key, and of its recipient.
    /// `at` is Unix milliseconds.
    pub async fn record(&self, sid: Sid, event: Event, at: u64) -> Result<Committed<Recorded>, StoreError> {
        self.submit(move |tx| dispatch::record(tx, sid, &event, at)).await
    }

    /// Somebody says below the topics of `name` that he has these messages: an app that it has a push, which counts where
    /// nobody else can say so, or a BAL that it has a message of a device. Returns what became of the pushes.
    pub async fn confirm(
        &self,
        name: &Owner,
        sids: Vec<Sid>,
        at: u64,
    ) -> Result<Committed<Vec<(Sid, Recorded)>>, StoreError> {
        let name = name.clone();
        self.submit(move |tx| {
            inbox::acked(tx, name.as_str(), &sids, at)?;
            dispatch::confirm(tx, &sids, at)
        })
        .await
    }

    /// Takes a message from a device, unless it is known.
    pub async fn receive(&self, message: Upstream) -> Result<Committed<Received>, StoreError> {
        self.submit(move |tx| inbox::receive(tx, &message)).await
    }

    /// Gives a route to messages that came when there was none for their category. Returns how many got one.
    ///
    /// # Errors
    /// When the store is closed, or fails on the way; what was routed so far is.
    pub async fn route_held<F>(&self, pick: F) -> Result<u64, StoreError>
    where
        F: Fn(Option<&str>) -> Option<Route> + Send + Sync + 'static,
    {
        let pick = Arc::new(pick);
        let mut routed = 0;
        let mut after = Some(0);
        while let Some(from) = after {
            let pick = Arc::clone(&pick);
            let (chunk, next) = self.submit(move |tx| inbox::route_held(tx, from, &*pick)).await?.await?;
            routed += chunk;
            after = next;
        }
        Ok(routed)
    }

    /// A BAL says that it has this upstream message, and all before it that were published.
    ///
    /// # Errors
    /// When the store is closed, or fails on the way; what was dropped so far is.
    pub async fn acked_up_to(&self, bal: &Owner, last: Sid, at: u64) -> Result<(), StoreError> {
        let mut more = true;
        while more {
            let bal = bal.clone();
            more = self.submit(move |tx| inbox::acked_up_to(tx, bal.as_str(), last, at)).await?.await?;
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
        self.submit(move |tx| outbox::next(tx, &topic, after_seq, limit)).await
    }

    /// All topics with documents that wait.
    pub async fn topics_to_publish(&self) -> Result<Committed<Vec<String>>, StoreError> {
        self.submit(|tx| outbox::topics(tx)).await
    }

    /// The broker, or the reader, has these documents. References of one topic side by side cost least.
    pub async fn published(&self, references: Vec<DocumentRef>, at: u64) -> Result<Committed<()>, StoreError> {
        self.submit(move |tx| outbox::published(tx, &references, at)).await
    }

    /// The last verb of a publisher that stops in order: of each of these topics the documents up to the one named may
    /// have been seen and are marked the next time; what lies behind them was not.
    pub async fn parted(&self, topics: Vec<Seen>) -> Result<Committed<()>, StoreError> {
        self.submit(move |tx| outbox::parted(tx, &topics)).await
    }

    /// Notes what is about to be said about a chat user. Returns when the user last went, as far as is known.
    pub async fn presence_changed(&self, change: PresenceChange) -> Result<Committed<Option<u64>>, StoreError> {
        self.submit(move |tx| presence::changed(tx, &change)).await
    }

    /// Notes that the bridge runs at `at`: after a crash, users who are online were last seen no earlier than that.
    pub async fn still_alive(&self, at: u64) -> Result<Committed<()>, StoreError> {
        self.submit(move |tx| presence::still_alive(tx, at)).await
    }

    /// What was last said about chat users, as far as it may be wrong after a restart; forgets who has been away too
    /// long. For the start, before anything changes.
    pub async fn last_presences(&self, now: u64) -> Result<Committed<Vec<LastPresence>>, StoreError> {
        self.submit(move |tx| presence::last(tx, now)).await
    }

    /// Expires what is overdue and forgets what is settled long enough, a little of it.
    pub async fn sweep(&self, now: u64) -> Result<Committed<Swept>, StoreError> {
        self.submit(move |tx| sweep::sweep(tx, now)).await
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

    /// Whether the disk takes what it is given.
    pub fn health(&self) -> watch::Receiver<StoreHealth> {
        self.board.health.subscribe()
    }

    /// Figures for metrics.
    pub fn figures(&self) -> StoreFigures {
        self.board.figures()
    }

    async fn submit<T, F>(&self, verb: F) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (job, answer) = Job::new(verb);
        self.queue.send(Item::Work(Box::new(job))).await.map_err(|_| StoreError::Closed)?;
        Ok(Committed(answer))
    }
}
