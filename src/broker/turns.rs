//! A connection may take a session over only when the last take-over of it is complete.
//!
//! # Why
//!
//! When a connection takes a session over, the engine has the old one put back what it had in hand, and the new one wait
//! for that. But if the new one goes at once and a third comes, the third finds nobody to wait for. It reads the same
//! messages from the storage while the first one still puts them back, and they are delivered twice, even at QoS 2. So
//! the third waits here until the first has ended: of one client there are at most the one that has the session, and
//! the one that takes it over.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::debug;

/// How long a connection waits for its turn. One that is stuck in a full socket must not keep its client out: then
/// twice is better than never.
const PATIENCE: Duration = Duration::from_secs(5);

/// The connections of all clients, in the order in which they were let in.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Locked for a moment only, by every connection as it comes and goes.
    clients: Mutex<HashMap<Arc<str>, Client>>,
}

#[derive(Debug, Default)]
struct Client {
    /// The last connection that was let in and did not fail before it had the session.
    last: u64,
    /// Those that have not ended.
    open: BTreeSet<u64>,
    /// Tells those that wait when one has ended.
    ended: Arc<Notify>,
}

/// The turn of one connection, until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    client: Arc<str>,
    number: u64,
    session: Session,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    Wanted,
    Claimed,
}

impl Turns {
    /// Waits until all connections before the last one have ended, within limits.
    pub(super) async fn take(self: &Arc<Self>, client: &str) -> Turn {
        let client: Arc<str> = client.into();
        let free = async {
            loop {
                let ended = {
                    let mut clients = self.lock();
                    let entry = clients.entry(client.clone()).or_default();
                    if entry.is_settled() {
                        break entry.admit();
                    }
                    Arc::clone(&entry.ended).notified_owned()
                };
                ended.await;
            }
        };
        let number = match timeout(PATIENCE, free).await {
            Ok(number) => number,
            Err(_late) => {
                debug!(client = &*client, "took a session although earlier connections have not ended");
                self.lock().entry(client.clone()).or_default().admit()
            }
        };
        Turn { turns: Arc::clone(self), client, number, session: Session::Wanted }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    fn is_settled(&self) -> bool {
        self.open.first().is_none_or(|first| *first == self.last)
    }

    fn admit(&mut self) -> u64 {
        self.last += 1;
        self.open.insert(self.last);
        self.last
    }
}

impl Turn {
    /// The connection has the session, and whoever had it before is about to end.
    pub(super) fn claim(&mut self) {
        self.session = Session::Claimed;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut clients = self.turns.lock();
        let Some(entry) = clients.get_mut(&self.client) else {
            return;
        };
        entry.open.remove(&self.number);
        if self.session == Session::Wanted && entry.last == self.number {
            entry.last = entry.open.last().copied().unwrap_or_default();
        }
        entry.ended.notify_waiters();
        if entry.open.is_empty() {
            clients.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::Instant;

    use super::*;

    async fn claimed(turns: &Arc<Turns>) -> Turn {
        let mut turn = turns.take("a").await;
        turn.claim();
        turn
    }

    #[tokio::test(start_paused = true)]
    async fn the_third_waits_for_the_first_even_if_the_second_has_gone() {
        let turns = Arc::new(Turns::default());
        for second_goes in [false, true] {
            let first = claimed(&turns).await;
            let mut second = Some(claimed(&turns).await);
            let _other = turns.take("b").await;
            if second_goes {
                second = None;
            }
            let mut third = Box::pin(claimed(&turns));
            assert!((&mut third).now_or_never().is_none());
            drop(first);
            assert!(third.now_or_never().is_some());
            drop(second);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_one_that_was_never_taken_over() {
        let turns = Arc::new(Turns::default());
        let _first = claimed(&turns).await;
        drop(turns.take("a").await);
        assert!(claimed(&turns).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let turns = Arc::new(Turns::default());
        let _two = (claimed(&turns).await, claimed(&turns).await);
        let start = Instant::now();
        drop(claimed(&turns).await);
        assert_eq!(start.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_left_of_those_who_went() {
        let turns = Arc::new(Turns::default());
        let held = [claimed(&turns).await, claimed(&turns).await, turns.take("b").await];
        assert!(turns.take("a").now_or_never().is_none());
        drop(held);
        assert!(turns.lock().is_empty());
    }
}
