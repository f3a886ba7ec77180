//! Publishes on their way to the disk, and those whose acknowledgement is put off.
//!
//! What BALs publish, and requests, are done in their order, one after the other. What else users publish may take a second
//! commit where it is refused: each goes on by itself, so that nobody waits for what another one did. The broker keeps the
//! order of the acknowledgements of a connection.

use super::delayed::Delayed;
use super::{Remaining, release};
use crate::bridge::context::oldest;
use crate::mqtt::{Ack, AckWord};
use crate::ops::clock::at;
use crate::store::StoreError;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;
use tokio::time::Instant;

/// What came of a publish, and where its publisher is told.
type Done = (Result<Option<AckWord>, StoreError>, Ack);

/// What remains of a publish: in which order, after which delay, what is to be done, and who is told.
pub(super) type Taken = (Order, Duration, (Remaining, Ack));

/// Whether a publish goes on before those that came earlier are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// It waits for them.
    Kept,
    /// It waits for none.
    Free,
}

/// All that is not acknowledged yet.
#[derive(Default)]
pub(super) struct Waiting {
    kept: VecDeque<(Remaining, Ack)>,
    free: FuturesUnordered<BoxFuture<'static, Done>>,
    delayed: Delayed,
}

impl Waiting {
    /// How many are on their way to the disk. Those that wait for their turn take nobody's place.
    pub(super) fn len(&self) -> usize {
        self.kept.len() + self.free.len()
    }

    /// Nothing is on its way to the disk.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What remains to be done for a publish, not to be acknowledged before `delay` is over.
    pub(super) fn push(&mut self, order: Order, delay: Duration, publish: (Remaining, Ack)) {
        match order {
            _ if !delay.is_zero() => self.delayed.push(Instant::now() + delay, (order, publish)),
            Order::Kept => self.kept.push_back(publish),
            Order::Free => {
                let (remaining, ack) = publish;
                self.free.push(Box::pin(async move { (remaining.await, ack) }));
            }
        }
    }

    /// Another one, if anything remains of it.
    pub(super) fn extend(&mut self, taken: Option<Taken>) {
        if let Some((order, delay, publish)) = taken {
            self.push(order, delay, publish);
        }
    }

    /// Does something that may wait for room in the queue of the store, while all of these go on: one of them may have got that
    /// room, and gives it back only when it is polled.
    pub(super) async fn beside<T>(
        &mut self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                (word, ack) = self.next() => release(word?, ack),
            }
        }
    }

    /// Those that wait for their turn wait no longer.
    pub(super) fn end_delays(&mut self) {
        for (order, publish) in self.delayed.take_all() {
            self.push(order, Duration::ZERO, publish);
        }
    }

    /// The next one that is done. Cancel-safe: it is taken out only when it is done.
    pub(super) async fn next(&mut self) -> Done {
        loop {
            tokio::select! {
                done = oldest(&mut self.kept) => return done,
                Some(done) = self.free.next(), if !self.free.is_empty() => return done,
                () = at(self.delayed.deadline()) => {
                    for (order, publish) in self.delayed.take_due(Instant::now()) {
                        self.push(order, Duration::ZERO, publish);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    fn word(word: AckWord) -> (Remaining, Ack) {
        (Box::pin(ready(Ok(Some(word)))), Ack::new().0)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_free_waits_for_none_before_it() {
        let mut waiting = Waiting::default();
        for order in [Order::Kept, Order::Free] {
            waiting.push(order, Duration::ZERO, (Box::pin(pending()), Ack::new().0));
        }
        waiting.push(Order::Kept, Duration::ZERO, word(AckWord::Quota));
        waiting.push(Order::Free, Duration::ZERO, word(AckWord::Done));
        assert_eq!(waiting.next().await.0.unwrap(), Some(AckWord::Done));
        assert_eq!(waiting.len(), 3);
        tokio::select! {
            _ = waiting.next() => panic!("the order is kept"),
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_is_kept_until_it_is_ended() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        waiting.push(Order::Free, Duration::from_secs(9), word(AckWord::Done));
        waiting.push(Order::Kept, Duration::from_secs(99), word(AckWord::Quota));
        assert!(waiting.is_empty(), "they take nobody's place");
        assert_eq!(waiting.next().await.0.unwrap(), Some(AckWord::Done));
        assert_eq!(start.elapsed(), Duration::from_secs(9));
        waiting.end_delays();
        assert_eq!(waiting.next().await.0.unwrap(), Some(AckWord::Quota));
        assert_eq!(start.elapsed(), Duration::from_secs(9));
    }
}
