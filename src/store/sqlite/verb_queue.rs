//! The queue of verbs, on its way to the writer thread.

use super::erase;
use super::reader::Reads;
use super::tx::{ReadTx, Tx};
use crate::chat::id::Owner;
use crate::store::{Committed, StoreError};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Verbs that must not wait may be so many more than the others ([`VerbQueue::submit_reserved`]): some for each connection that
/// comes or goes. Most are short; one with a will has up to 64 kB more for it, so all of them have 1 GB at the worst.
const RESERVE: usize = 16_384;

/// A verb in the queue. It may run several times before its answer is released.
pub(super) trait QueuedVerb: Send {
    /// Runs it, unless it failed by itself before; keeps the answer.
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
    /// It failed by itself; that is its answer.
    fn fail(&mut self, error: StoreError);
    /// Lets the answer go, after the commit.
    fn release(self: Box<Self>);
}

pub(super) struct VerbCall<F, T> {
    verb: F,
    answer: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> VerbCall<F, T> {
    pub(super) fn new(verb: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        (Self { verb, answer: None, reply }, answer)
    }
}

impl<F, T> QueuedVerb for VerbCall<F, T>
where
    F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        if !matches!(self.answer, Some(Err(_))) {
            self.answer = Some(Ok((self.verb)(tx)?));
        }
        Ok(())
    }

    fn fail(&mut self, error: StoreError) {
        self.answer = Some(Err(error));
    }

    fn release(self: Box<Self>) {
        if let Some(answer) = self.answer {
            // Whoever asked may be gone; what was done is done.
            let _ = self.reply.send(answer);
        }
    }
}

/// What goes through the queue.
pub(super) enum WriterCommand {
    Urgent(Box<dyn QueuedVerb>),
    /// It may wait for others ([`VerbQueue::submit_deferred`]).
    Deferred(Box<dyn QueuedVerb>),
    /// Finish what is queued, then end.
    Close,
}

/// What waits for the thread, and the room that it takes meanwhile.
pub(super) struct Queued {
    pub(super) item: WriterCommand,
    /// Its number among the verbs of all queues.
    pub(super) asked: u64,
    _room: Option<OwnedSemaphorePermit>,
}

/// The way to the thread.
#[derive(Debug, Clone)]
pub(in crate::store) struct VerbQueue {
    verbs: mpsc::Sender<Queued>,
    order: Arc<SendOrder>,
    room: Arc<Semaphore>,
    /// How many verbs were asked for, by this queue and others.
    asked: Arc<AtomicU64>,
}

/// Verbs reach the thread in the order in which they were asked for, also where they waited for a place.
#[derive(Debug, Default)]
struct SendOrder {
    /// How many wait for a place. A lock that is held for an attempt to send and never across an await: a future that nobody
    /// polls must not be in the way of others while there are places.
    waiting: std::sync::Mutex<usize>,
    /// Whoever waits for a place holds it.
    permit: Mutex<()>,
}

/// One that waits for a place, until it has one or is dropped.
struct WaitsForPlace<'a>(&'a SendOrder);

impl SendOrder {
    fn waiting(&self) -> std::sync::MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WaitsForPlace<'_> {
    fn drop(&mut self) {
        *self.0.waiting() -= 1;
    }
}

impl VerbQueue {
    /// One with room for so many verbs and the [`RESERVE`], and its end at the thread.
    pub(super) fn new(room: usize) -> (Self, mpsc::Receiver<Queued>) {
        Self::counting(room, Arc::default())
    }

    /// Another queue to the same thread, with an order of its own.
    pub(super) fn another(&self, room: usize) -> (Self, mpsc::Receiver<Queued>) {
        Self::counting(room, Arc::clone(&self.asked))
    }

    fn counting(room: usize, asked: Arc<AtomicU64>) -> (Self, mpsc::Receiver<Queued>) {
        let (verbs, queued) = mpsc::channel(room + RESERVE);
        (Self { verbs, order: Arc::default(), room: Arc::new(Semaphore::new(room)), asked }, queued)
    }

    /// Asks for what `verb` does. It may be done several times, until one of them is on disk.
    pub(in crate::store) async fn submit<T, F>(&self, verb: F) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let room = self.wait_for_room().await?;
        self.send(verb, WriterCommand::Urgent, Some(room)).await
    }

    /// The same for a verb that writes for a user. Where that one was erased nothing is done, and it comes to `otherwise`: what was on its
    /// way must not come back behind the erase.
    pub(in crate::store) async fn submit_for<T, F>(
        &self,
        user: Owner,
        otherwise: impl Fn() -> T + Send + 'static,
        mut verb: F,
    ) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let unless_erased = move |tx: &mut Tx<'_>| {
            if erase::is_taken(tx, user.as_str())? { Ok(otherwise()) } else { verb(tx) }
        };
        self.submit(unless_erased).await
    }

    /// The same for what must not wait behind others: it has a reserve of its own, and waits when that is used up too. It
    /// overtakes what waits for room in [`Self::submit`]; what must follow another verb is submitted when that has been.
    pub(in crate::store) async fn submit_reserved<T, F>(&self, verb: F) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.send(verb, WriterCommand::Urgent, None).await
    }

    /// The same as [`Self::submit`], but what `verb` does may be forgotten in a crash without harm: it goes with the next transaction of others,
    /// or after [`super::open::Settings::max_commit_delay`] in one of its own.
    pub(in crate::store) async fn submit_deferred<T, F>(&self, verb: F) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let room = self.wait_for_room().await?;
        self.send(verb, WriterCommand::Deferred, Some(room)).await
    }

    /// The same of what changes nothing, which the thread of [`Reads`] does when everything is on disk that was asked for before.
    pub(in crate::store) async fn submit_read<T, F>(&self, reads: &Reads, read: F) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&ReadTx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (verb, answer) = reads.call(read).await?;
        let room = self.wait_for_room().await?;
        self.enqueue(WriterCommand::Urgent(verb), Some(room)).await?;
        Ok(answer)
    }

    async fn wait_for_room(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        Arc::clone(&self.room).acquire_owned().await.map_err(|_closed| StoreError::Closed)
    }

    async fn send<T, F>(
        &self,
        verb: F,
        how: fn(Box<dyn QueuedVerb>) -> WriterCommand,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Committed<T>, StoreError>
    where
        F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (call, answer) = VerbCall::new(verb);
        self.enqueue(how(Box::new(call)), room).await?;
        Ok(Committed::new(answer))
    }

    async fn enqueue(&self, item: WriterCommand, room: Option<OwnedSemaphorePermit>) -> Result<(), StoreError> {
        if let Some(queued) = self.try_send(self.queued(item, room))? {
            let _waits = WaitsForPlace(&self.order);
            let _permit = self.order.permit.lock().await;
            self.verbs.send(queued).await.map_err(|_| StoreError::Closed)?;
        }
        Ok(())
    }

    /// Sends if there is a place and nobody waits for one; else it is given back, and counted as one that waits.
    fn try_send(&self, queued: Queued) -> Result<Option<Queued>, StoreError> {
        let mut waiting = self.order.waiting();
        if *waiting == 0 {
            match self.verbs.try_send(queued) {
                Ok(()) => return Ok(None),
                Err(TrySendError::Closed(_)) => return Err(StoreError::Closed),
                Err(TrySendError::Full(queued)) => {
                    *waiting += 1;
                    return Ok(Some(queued));
                }
            }
        }
        *waiting += 1;
        Ok(Some(queued))
    }

    /// Lets the thread end when everything before this is done.
    pub(super) async fn close(&self) {
        let _ = self.verbs.send(self.queued(WriterCommand::Close, None)).await;
    }

    fn queued(&self, item: WriterCommand, room: Option<OwnedSemaphorePermit>) -> Queued {
        Queued { item, asked: self.asked.fetch_add(1, Relaxed), _room: room }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::task::unconstrained;

    #[tokio::test]
    async fn verbs_that_wait_for_a_place_come_in_the_order_in_which_they_were_asked_for() {
        let (queue, mut at_thread) = VerbQueue::new(1);
        while let Some(asked) = unconstrained(queue.submit_reserved(|_| Ok(()))).now_or_never() {
            drop(asked.unwrap());
        }
        let mut first = Box::pin(queue.submit_reserved(|_| Ok(())));
        let mut second = Box::pin(queue.submit_reserved(|_| Ok(())));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none(), "they wait");
        for _ in 0..2 {
            at_thread.recv().await.unwrap();
        }
        assert!((&mut second).now_or_never().is_none(), "it was asked for later");
        assert!((&mut first).now_or_never().is_some() && (&mut second).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_future_that_nobody_polls_is_in_nobodys_way_while_there_are_places() {
        let (queue, mut at_thread) = VerbQueue::new(1);
        let permit = queue.order.permit.lock().await;
        // It is begun, and not polled again.
        let mut left_alone = Box::pin(queue.submit_reserved(|_| Ok(())));
        assert!((&mut left_alone).now_or_never().is_some(), "there is a place, whoever has the permit");
        assert!(queue.submit_reserved(|_| Ok(())).now_or_never().is_some());
        drop(permit);
        assert!(at_thread.recv().await.is_some() && at_thread.recv().await.is_some());
    }
}
