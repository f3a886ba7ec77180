//! Keeps a recipient's messages in order while some of them are tried again. Pure.

use std::collections::{BTreeMap, HashMap};

/// How long a message waits before it is looked at again, for each one in front of it that is due but not settled, in
/// milliseconds. It only spaces out the looks, each of which costs a write; nothing is sent meanwhile.
const LOOK_AGAIN_MS: u64 = 250;

/// Which recipients wait for a retry, and for which of their messages.
///
/// While a recipient has messages that were refused and will be tried again, only the oldest of them may go out; all
/// others wait behind it. Memory: one entry per message in retry, hence at most `limits.queue_rows`.
#[derive(Debug, Default)]
pub(crate) struct OrderBook {
    retrying: HashMap<i64, BTreeMap<i64, u64>>,
}

impl OrderBook {
    /// Message `row` will be tried again at `due_ms`.
    pub(crate) fn retry(&mut self, recipient: i64, row: i64, due_ms: u64) {
        self.retrying.entry(recipient).or_default().insert(row, due_ms);
    }

    /// Message `row` needs no further try. True when others waited for it.
    pub(crate) fn settled(&mut self, recipient: i64, row: i64) -> bool {
        let Some(rows) = self.retrying.get_mut(&recipient) else { return false };
        let waited_for = rows.remove(&row).is_some();
        if rows.is_empty() {
            self.retrying.remove(&recipient);
        }
        waited_for
    }

    /// Until when message `row` has to wait, or `None` if it may go now.
    pub(crate) fn blocked(&self, recipient: i64, row: i64, now_ms: u64) -> Option<u64> {
        let retrying = self.retrying.get(&recipient)?;
        let (&first, &due) = retrying.first_key_value()?;
        // An older message than the one in retry can only be one that was waiting for another reason: it goes first.
        (row > first).then(|| {
            let older = retrying.range(..row).count() as u64;
            due.max(now_ms.saturating_add(older.saturating_mul(LOOK_AGAIN_MS)))
        })
    }

    /// Messages in retry.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.retrying.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_of_the_recipient_wait_for_the_oldest_retry() {
        let mut book = OrderBook::default();
        book.retry(7, 10, 5_000);
        book.retry(7, 12, 3_000);
        assert_eq!(book.blocked(7, 10, 1_000), None, "the oldest may go");
        assert_eq!(book.blocked(7, 12, 1_000), Some(5_000), "a later retry waits for the older one");
        assert_eq!(book.blocked(7, 99, 1_000), Some(5_000));
        assert_eq!(book.blocked(8, 99, 1_000), None, "other recipients are not concerned");
    }

    #[test]
    fn a_due_but_unsettled_retry_still_blocks() {
        let mut book = OrderBook::default();
        book.retry(7, 10, 5_000);
        assert_eq!(book.blocked(7, 11, 6_000), Some(6_000 + LOOK_AGAIN_MS));
        assert!(book.settled(7, 10));
        assert!(!book.settled(7, 10), "it was settled before");
        assert_eq!(book.blocked(7, 11, 6_000), None);
        assert_eq!(book.len(), 0);
    }

    #[test]
    fn a_message_behind_many_is_looked_at_less_often() {
        let mut book = OrderBook::default();
        (1..=20).for_each(|row| book.retry(7, row, 5_000));
        assert_eq!(book.blocked(7, 2, 6_000), Some(6_000 + LOOK_AGAIN_MS));
        assert_eq!(book.blocked(7, 99, 6_000), Some(6_000 + 20 * LOOK_AGAIN_MS));
    }
}
