//! Publishes of users who publish faster than they may: done, and to be acknowledged when their turn comes.

use super::Remaining;
use super::waiting::Order;
use crate::mqtt::Ack;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Most publishes that wait for their turn. An acknowledgement beyond it is dropped: its publisher is cut off, and sends again
/// what is recognised then. One connection of the embedded broker has 256 unacknowledged publishes at most.
const DELAYED_MAX: usize = 10_000;

type Publish = (Order, (Remaining, Ack));

/// Publishes by their turn; those of one moment in the order in which they came.
#[derive(Default)]
pub(super) struct Delayed {
    due: BTreeMap<(Instant, u64), Publish>,
    count: u64,
}

impl Delayed {
    pub(super) fn push(&mut self, turn: Instant, publish: Publish) {
        if self.due.len() < DELAYED_MAX {
            self.due.insert((turn, self.count), publish);
            self.count += 1;
        }
    }

    /// When the next turn comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.keys().next().map(|(turn, _)| *turn)
    }

    /// Those whose turn has come.
    pub(super) fn take_due(&mut self, now: Instant) -> impl Iterator<Item = Publish> + use<> {
        let later = self.due.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.due, later).into_values()
    }

    /// All of them.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Publish> + use<> {
        std::mem::take(&mut self.due).into_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::AckWord;
    use std::time::Duration;

    fn delayed(turns: &[(Instant, AckWord)]) -> Delayed {
        let mut delayed = Delayed::default();
        for &(turn, word) in turns {
            delayed.push(turn, (Order::Free, (Box::pin(async move { Ok(Some(word)) }), Ack::new().0)));
        }
        delayed
    }

    async fn words(taken: impl Iterator<Item = Publish>) -> Vec<AckWord> {
        let mut words = Vec::new();
        for (_, (remaining, _)) in taken {
            words.extend(remaining.await.unwrap());
        }
        words
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_their_order_and_none_before_its_time() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut delayed =
            delayed(&[(now + second, AckWord::Done), (now + second, AckWord::Quota), (now, AckWord::NoSuchTopic)]);
        assert_eq!(delayed.deadline(), Some(now));
        assert_eq!(words(delayed.take_due(now)).await, [AckWord::NoSuchTopic]);
        assert_eq!(delayed.take_due(now + second / 2).count(), 0);
        assert_eq!(delayed.deadline(), Some(now + second));
        assert_eq!(words(delayed.take_due(now + second)).await, [AckWord::Done, AckWord::Quota]);
        assert_eq!(delayed.deadline(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let turns = vec![(Instant::now(), AckWord::Done); DELAYED_MAX + 1];
        assert_eq!(delayed(&turns).take_all().count(), DELAYED_MAX);
    }
}
