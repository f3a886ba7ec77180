//! Which of the verbs that wait come into one transaction.
//!
//! # Why two queues
//!
//! A message to a group of a thousand members is one verb, and more than a thousand follow from it: the claims of the pushes, the
//! report of the push service on each, and what nobody reads is dropped. In one queue all of these stood before the next
//! message of anybody else. So what follows from what is on the disk already has a queue of its own
//! ([`crate::store::Store`] says which verbs), and a transaction takes from each of the two what changes [`ROWS`] rows. Neither
//! waits for more of the other than that, and neither can be kept waiting for ever. While all that waits fits into one
//! transaction, verbs are done in the order in which they were asked for.
//!
//! Work is counted in rows that change: that is what a verb costs, and the same on every machine. A verb is not divided: the
//! one that goes beyond the share of its queue is the last of its queue in this transaction. How many large ones stand one
//! behind the other is bounded before they come here ([`crate::store::GroupRoom`]).
//!
//! Who asks by the second queue must not rely on the order between the two. The dispatcher does not: it alone claims and
//! reports, both by this queue, so a report goes before the claim that was asked for behind it; a report comes after the
//! commit that handed its message out; and whether a message may be claimed is decided by what is on the disk when the claim is
//! done, whatever was asked meanwhile. Who comes to read a topic finds what is to be dropped there or not.
//!
//! Rejected: a queue for each sender or group. The ids of messages rise in the order in which the store is asked, and what asks
//! for everything since an id relies on it; and what was acknowledged must be gone when the next client reads its topic.

use super::tx::Tx;
use super::verb_queue::{Queued, QueuedVerb, WriterCommand};
use crate::store::StoreError;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Instant, timeout_at};

/// Verbs of one queue in a transaction, at most.
const VERBS: usize = 512;
/// Rows that the verbs of one queue change in a transaction before it takes no more of them.
pub(super) const ROWS: u64 = 512;

/// A verb that the thread has taken from its queue.
struct Taken {
    verb: Box<dyn QueuedVerb>,
    /// Its number among the verbs of both queues.
    asked: u64,
    is_urgent: bool,
}

/// One of the queues, and what was taken from it.
struct Source {
    queue: mpsc::Receiver<Queued>,
    taken: VecDeque<Taken>,
    share: Share,
}

/// What one queue had of a transaction.
#[derive(Clone, Copy, Default)]
struct Share {
    verbs: usize,
    rows: u64,
}

/// A verb of a batch: in which queue, and the how manieth there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(usize, usize);

/// What the thread has taken and not done.
pub(super) struct Batch {
    sources: [Source; 2],
}

impl Source {
    fn new(queue: mpsc::Receiver<Queued>) -> Self {
        Self { queue, taken: VecDeque::new(), share: Share::default() }
    }

    /// The number of the next verb, unless the queue has had its share.
    fn next(&self) -> Option<u64> {
        let Share { verbs, rows } = self.share;
        self.taken.get(verbs).filter(|_| rows < ROWS).map(|next| next.asked)
    }
}

impl Batch {
    pub(super) fn new(queues: [mpsc::Receiver<Queued>; 2]) -> Self {
        Self { sources: queues.map(Source::new) }
    }

    /// Takes what is queued by now, and waits for it if it is nothing. If all of that has time, what comes in `delay`, up to the
    /// first that has none. False: the queues are closed and empty.
    pub(super) fn fill(&mut self, timers: &Runtime, delay: Duration) -> bool {
        self.take_queued();
        while self.is_empty() {
            if !timers.block_on(self.take_next()) {
                return false;
            }
            self.take_queued();
        }
        let until = Instant::now() + delay;
        while self.has_time() && timers.block_on(async { timeout_at(until, self.take_next()).await }) == Ok(true) {
            self.take_queued();
        }
        true
    }

    fn take_queued(&mut self) {
        for source in 0..self.sources.len() {
            while self.sources[source].taken.len() < VERBS {
                match self.sources[source].queue.try_recv() {
                    Ok(queued) => self.take(source, queued),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
        }
    }

    /// Takes the next one that comes. False: none comes any more.
    async fn take_next(&mut self) -> bool {
        let [first, second] = &mut self.sources;
        let (source, queued) = tokio::select! {
            Some(queued) = first.queue.recv() => (0, queued),
            Some(queued) = second.queue.recv() => (1, queued),
            else => return false,
        };
        self.take(source, queued);
        true
    }

    fn take(&mut self, source: usize, Queued { item, asked, .. }: Queued) {
        let (verb, is_urgent) = match item {
            WriterCommand::Urgent(verb) => (verb, true),
            WriterCommand::Deferred(verb) => (verb, false),
            WriterCommand::Close => return self.sources.iter_mut().for_each(|source| source.queue.close()),
        };
        self.sources[source].taken.push_back(Taken { verb, asked, is_urgent });
    }

    fn is_empty(&self) -> bool {
        self.sources.iter().all(|source| source.taken.is_empty())
    }

    fn has_time(&self) -> bool {
        let has_time =
            |source: &Source| source.taken.len() < VERBS && source.taken.iter().all(|taken| !taken.is_urgent);
        self.sources.iter().all(has_time)
    }

    /// Runs the verbs of one transaction; tells which one fails.
    pub(super) fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), (Place, rusqlite::Error)> {
        self.sources.iter_mut().for_each(|source| source.share = Share::default());
        while let Some(source) = self.next() {
            let changed = tx.conn.total_changes();
            let Source { taken, share, .. } = &mut self.sources[source];
            let verb = share.verbs;
            taken[verb].verb.run(tx).map_err(|error| (Place(source, verb), error))?;
            share.verbs += 1;
            share.rows += tx.conn.total_changes() - changed;
        }
        Ok(())
    }

    /// Where the verb is that was asked for first, of the queues that have not had their share.
    fn next(&self) -> Option<usize> {
        let next = |(number, source): (usize, &Source)| source.next().map(|asked| (asked, number));
        self.sources.iter().enumerate().filter_map(next).min().map(|(_, number)| number)
    }

    /// A verb failed by itself.
    pub(super) fn fail(&mut self, Place(source, verb): Place, error: StoreError) {
        self.sources[source].taken[verb].verb.fail(error);
    }

    /// How many verbs the transaction had.
    pub(super) fn verbs(&self) -> usize {
        self.sources.iter().map(|source| source.share.verbs).sum()
    }

    /// What the transaction had is on disk: lets the answers go.
    pub(super) fn release(&mut self) {
        for Source { taken, share, .. } in &mut self.sources {
            taken.drain(..share.verbs).for_each(|taken| taken.verb.release());
            *share = Share::default();
        }
    }
}
