//! Keeps a recipient's messages in order while some of them are tried again. Pure.

use std::collections::{BTreeSet, HashMap};

/// Which recipients wait for a retry, and for which of their messages.
///
/// While a recipient has messages that were refused and will be tried again, only the oldest of them may go out, and what
/// is older still; all others wait behind it. Memory: one entry per message in retry, hence at most `limits.queue_rows`.
#[derive(Debug, Default)]
pub(crate) struct OrderBook {
    retrying: HashMap<i64, BTreeSet<i64>>,
}

impl OrderBook {
    /// Message `row` will be tried again.
    pub(crate) fn retry(&mut self, recipient: i64, row: i64) {
        self.retrying.entry(recipient).or_default().insert(row);
    }

    /// Message `row` needs no further try. True when others waited for it that need not wait any more.
    pub(crate) fn settled(&mut self, recipient: i64, row: i64) -> bool {
        let Some(rows) = self.retrying.get_mut(&recipient) else { return false };
        let waited_for = rows.first() == Some(&row);
        rows.remove(&row);
        if rows.is_empty() {
            self.retrying.remove(&recipient);
        }
        waited_for
    }

    /// Whether message `row` has to wait. An older message than the one in retry can only be one that was waiting for
    /// another reason: it goes first.
    pub(crate) fn blocks(&self, recipient: i64, row: i64) -> bool {
        self.retrying.get(&recipient).and_then(BTreeSet::first).is_some_and(|first| row > *first)
    }

    /// Messages in retry.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.retrying.values().map(BTreeSet::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_of_the_recipient_wait_for_the_oldest_retry() {
        let mut book = OrderBook::default();
        book.retry(7, 12);
        book.retry(7, 10);
        assert!(!book.blocks(7, 10), "the oldest may go");
        assert!(!book.blocks(7, 9), "and what is older still");
        assert!(book.blocks(7, 12), "a later retry waits for the older one");
        assert!(book.blocks(7, 99));
        assert!(!book.blocks(8, 99), "other recipients are not concerned");
    }

    #[test]
    fn only_the_end_of_the_oldest_retry_lets_others_go() {
        let mut book = OrderBook::default();
        (10..=12).for_each(|row| book.retry(7, row));
        assert!(!book.settled(7, 11), "the oldest is still in the way");
        assert!(book.settled(7, 10));
        assert!(!book.blocks(7, 12));
        assert!(!book.settled(7, 10), "it was settled before");
        assert!(book.settled(7, 12));
        assert_eq!(book.len(), 0);
    }
}
