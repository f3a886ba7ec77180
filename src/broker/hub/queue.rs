//! A queue that several tasks share: those that put messages into it, and those that send what is in it.

mod state;

use std::mem;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use self::state::{Consumer, State};
use super::on_disk::OnDisk;
use super::visible::VisibleUsers;
use crate::broker::connection::ConnectionHandle;
use crate::broker::refusals::Refusal;
use crate::broker::session::{OutgoingMessage, PageRequest, Pulled, Pushed, Queue};
use crate::chat::access::Rights;
use crate::chat::qos::QoS;
use crate::store::{DocumentRef, QueueId, RowCount, Seen};

/// How often it is reported that messages are refused to the queue.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Not on disk.
const NOWHERE: i64 = 0;

/// How far the clients of a queue may have seen the documents of topics that it reads no more.
#[derive(Debug)]
pub(super) struct SeenDocuments {
    /// The queue, if it outlives connections.
    pub(super) queue: Option<QueueId>,
    pub(super) topics: Vec<Seen>,
}

/// The queue of a session, or of a group that shares a subscription.
#[derive(Debug)]
pub(crate) struct SharedQueue {
    /// Names it within the process.
    number: u64,
    /// Of the session or the group, for people.
    name: Arc<str>,
    /// Its name on disk, if it outlives connections.
    stored: AtomicI64,
    /// What its client may read; `None`: no limit, as for a group, whose members may read all of it. A lock because
    /// each connection of a session brings its own.
    rights: RwLock<Option<(Rights, Option<Arc<VisibleUsers>>)>>,
    /// For the limits.
    on_disk: OnDisk,
    /// Of all queues.
    all_on_disk: Arc<OnDisk>,
    /// A lock because publishers, the store's events and consumers meet here; held for a few operations on memory.
    state: Mutex<State>,
}

impl SharedQueue {
    /// A queue without consumers. `name` is that of its session or group.
    pub(super) fn new(number: u64, name: &Arc<str>, queue: Queue, all_on_disk: &Arc<OnDisk>) -> Arc<Self> {
        Arc::new(Self {
            number,
            name: Arc::clone(name),
            stored: AtomicI64::new(NOWHERE),
            rights: RwLock::new(None),
            on_disk: OnDisk::default(),
            all_on_disk: Arc::clone(all_on_disk),
            state: Mutex::new(State {
                queue,
                consumers: Vec::new(),
                next: 0,
                share: (0, 0),
                held: Vec::new(),
                refused: 0,
                told: None,
                later: None,
                last_begun: 0,
            }),
        })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its name on disk, if it outlives connections.
    pub(crate) fn stored(&self) -> Option<QueueId> {
        Some(self.stored.load(Relaxed)).filter(|id| *id != NOWHERE).map(QueueId)
    }

    pub(super) fn store_as(&self, id: Option<QueueId>) {
        self.stored.store(id.map_or(NOWHERE, |id| id.0), Relaxed);
    }

    /// `visible`: whom its client sees, unless that is everybody.
    pub(super) fn set_rights(&self, rights: Rights, visible: Option<Arc<VisibleUsers>>) {
        *self.rights.write().unwrap_or_else(PoisonError::into_inner) = Some((rights, visible));
    }

    /// Whether what is published on `topic` may be delivered.
    pub(crate) fn may_read(&self, topic: &str) -> bool {
        let rights = self.rights.read().unwrap_or_else(PoisonError::into_inner);
        rights.as_ref().is_none_or(|(rights, visible)| {
            rights.may_read(topic) && visible.as_ref().is_none_or(|visible| visible.shows(topic))
        })
    }

    /// As [`Rights::readable_filters`].
    pub(super) fn readable_filters(&self, filter: &str) -> Vec<String> {
        let rights = self.rights.read().unwrap_or_else(PoisonError::into_inner);
        rights.as_ref().map_or_else(|| vec![filter.to_owned()], |(rights, _)| rights.readable_filters(filter))
    }

    /// Messages of clients that wait on disk, and their bytes.
    pub(super) fn on_disk(&self) -> (u64, u64) {
        self.on_disk.get()
    }

    pub(super) fn waits_on_disk(&self, rows: u64, bytes: u64) {
        self.on_disk.add(rows, bytes);
        self.all_on_disk.add(rows, bytes);
    }

    /// Counts a message that is refused because the queue is full. Yields how many were since that was reported, if it
    /// is to be reported now.
    pub(super) fn refused(&self) -> Option<u64> {
        let mut state = self.lock();
        state.refused += 1;
        let now = Instant::now();
        state.told.is_none_or(|told| now - told >= TOLD_EVERY).then(|| {
            state.told = Some(now);
            mem::take(&mut state.refused)
        })
    }

    pub(super) fn left_the_disk(&self, gone: RowCount) {
        self.all_on_disk.subtract(self.on_disk.subtract(gone));
    }

    /// A connection begins to send what is in the queue.
    pub(super) fn attach(&self, handle: &Arc<ConnectionHandle>) {
        let mut state = self.lock();
        if !state.consumers.iter().any(|consumer| Arc::ptr_eq(&consumer.handle, handle)) {
            state.consumers.push(Consumer { handle: Arc::clone(handle), full: false });
            state.queue.open();
            // The new one may take bigger packets than those that are there.
            if state.consumers.len() > 1 {
                state.queue.offer_again();
            }
        }
        drop(state);
        handle.wake();
    }

    /// It has ended. What it gives back is for the next one; without one, what is on disk is read again later. Yields
    /// what nobody has now.
    pub(super) fn detach(&self, handle: &Arc<ConnectionHandle>, back: Vec<OutgoingMessage>) -> Option<SeenDocuments> {
        let mut state = self.lock();
        state.consumers.retain(|consumer| !Arc::ptr_eq(&consumer.handle, handle));
        state.queue.give_back(back);
        if state.consumers.is_empty() {
            state.release_held();
            state.later = None;
            return Some(SeenDocuments { queue: self.stored(), topics: state.queue.away() });
        }
        state.wake_next();
        None
    }

    /// As [`Queue::unwatch`].
    pub(super) fn unwatch(&self, still_read: impl Fn(&str) -> bool) -> SeenDocuments {
        SeenDocuments { queue: self.stored(), topics: self.read(|queue| queue.unwatch(still_read)) }
    }

    /// Whether anybody sends what is in it.
    pub(crate) fn is_connected(&self) -> bool {
        !self.lock().consumers.is_empty()
    }

    /// A message that is not on disk. Refused while there is no consumer. `after` is the number of the last row of
    /// which any queue was notified, if it is known.
    pub(super) fn push(&self, item: OutgoingMessage, after: Option<u64>) -> Pushed {
        let mut state = self.lock();
        if state.consumers.is_empty() {
            return Pushed::Full;
        }
        let most = state.queue.limits();
        if let Some(later) = &mut state.later {
            let bytes: usize = later.items.iter().map(|(item, _)| item.size()).sum();
            // Half the room: the rest is for what is retained.
            let fits = later.items.len() < most.messages / 2 && bytes + item.size() <= most.bytes / 2;
            if fits {
                later.items.push((item, after));
            }
            return if fits { Pushed::Taken } else { Pushed::Full };
        }
        let pushed = state.queue.push(item, after);
        if pushed == Pushed::Taken {
            state.wake_next();
        }
        pushed
    }

    /// From now on [`Self::push`] waits behind what [`Self::push_retained`] puts in, until each that began this has called
    /// [`Self::end_retained`] with its number.
    pub(super) fn begin_retained(&self) -> u64 {
        let mut state = self.lock();
        state.last_begun += 1;
        let number = state.last_begun;
        state.later.get_or_insert_default().waits_for.push(number);
        number
    }

    /// A retained message for a new subscription.
    pub(super) fn push_retained(&self, item: OutgoingMessage, after: Option<u64>) {
        let mut state = self.lock();
        state.queue.push(item, after);
        state.wake_next();
    }

    /// Puts in what was published meanwhile, unless another one has still to end. Nothing, if the connection that began it is
    /// gone.
    pub(super) fn end_retained(&self, number: u64) {
        let mut state = self.lock();
        let Some(later) = state.later.take_if(|later| {
            let is_waited_for = later.waits_for.contains(&number);
            later.waits_for.retain(|other| *other != number);
            is_waited_for && later.waits_for.is_empty()
        }) else {
            return;
        };
        for (item, after) in later.items {
            let promised = item.qos > QoS::AtMostOnce;
            if state.queue.push(item, after) == Pushed::Full && promised {
                state.consumers.iter().for_each(|consumer| consumer.handle.end(Refusal::SlowConsumer));
            }
        }
        state.wake_next();
    }

    /// Tells the queue what a commit brought, if it has a consumer.
    pub(super) fn notify(&self, news: impl FnOnce(&mut Queue)) {
        let mut state = self.lock();
        if !state.consumers.is_empty() {
            news(&mut state.queue);
            state.wake_next();
        }
    }

    /// The next message that may be sent; without room in the window only one at QoS 0.
    pub(crate) fn pull(&self, handle: &ConnectionHandle, window_has_room: bool, now_ms: u64) -> Option<Pulled> {
        let mut state = self.lock();
        if window_has_room {
            state.set_full(handle, false);
        }
        if !state.may_pull(handle) {
            return None;
        }
        let pulled = state.queue.pull(window_has_room, now_ms);
        if pulled.is_some() {
            state.count_pull(handle);
            if !state.held.is_empty() && !state.queue.is_above_half() {
                state.release_held();
            }
        }
        pulled
    }

    /// The quality of service of what comes next.
    pub(crate) fn next_qos(&self) -> Option<QoS> {
        self.lock().queue.next_qos()
    }

    /// As [`Queue::has_passed`].
    pub(crate) fn has_passed(&self, row: u64) -> bool {
        self.lock().queue.has_passed(row)
    }

    /// This consumer takes no more for now: another one may.
    pub(crate) fn pass_on(&self, handle: &ConnectionHandle) {
        let mut state = self.lock();
        state.set_full(handle, true);
        if state.consumers.len() > 1 && (state.queue.has_loaded() || state.queue.has_to_read()) {
            state.wake_next();
        }
    }

    /// What is to be read from the disk now.
    pub(crate) fn next_read(&self) -> Option<PageRequest> {
        self.lock().queue.next_read()
    }

    /// Lets `answer` give the queue what [`Self::next_read`] asked for.
    pub(super) fn read<T>(&self, answer: impl FnOnce(&mut Queue) -> T) -> T {
        let mut state = self.lock();
        let answered = answer(&mut state.queue);
        state.release_held();
        state.wake_next();
        answered
    }

    /// A document that was pulled is acknowledged.
    pub(super) fn acknowledged(&self, document: &DocumentRef) {
        self.lock().queue.acknowledged(document);
    }

    /// A document that was pulled was sent at QoS 0, and stays in the outbox for others.
    pub(super) fn left_for_others(&self, document: &DocumentRef) {
        self.lock().queue.left_for_others(document);
    }

    /// The document is too big for the client that pulled it: it stays in the outbox.
    pub(crate) fn set_aside(&self, document: &DocumentRef) {
        self.lock().queue.set_aside(document);
    }

    /// Whether a connection is still to read this document from the disk. If so, `waker` is woken when that may have
    /// changed.
    pub(super) fn is_to_read(&self, document: &DocumentRef, waker: &Waker) -> bool {
        let mut state = self.lock();
        let is_read = state.consumers.iter().any(|consumer| consumer.handle.ending().is_none());
        let is_to_read = is_read && state.queue.is_to_read(document);
        if is_to_read {
            state.hold(waker);
        }
        is_to_read
    }

    /// As [`Queue::last_read`]. Wakes a consumer that is to read.
    pub(super) fn last_read(&self) -> Option<u64> {
        let mut state = self.lock();
        state.wake_next();
        state.queue.last_read()
    }

    /// Whether the messages from disk take more than half their room: nothing more is read until some are sent.
    pub(super) fn disk_half_full(&self) -> bool {
        self.lock().queue.disk_half_full()
    }

    pub(super) fn is_above_half(&self) -> bool {
        self.lock().queue.is_above_half()
    }

    /// Whether the queue is at most half full, or has no consumer. If not, `waker` is woken when that may have changed.
    pub(super) fn has_room(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        if state.consumers.is_empty() || !state.queue.is_above_half() {
            return true;
        }
        state.hold(waker);
        false
    }

    /// The connections that send what is in it.
    pub(super) fn consumers(&self) -> Vec<Arc<ConnectionHandle>> {
        self.lock().consumers.iter().map(|consumer| Arc::clone(&consumer.handle)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SharedQueue {
    /// Subtracts the rows of a queue that has ended from those of all queues.
    fn drop(&mut self) {
        let (rows, bytes) = self.on_disk();
        self.left_the_disk(RowCount { rows, bytes });
    }
}
