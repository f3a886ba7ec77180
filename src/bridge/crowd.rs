//! Keeps many messages to one recipient from being claimed before their turn, where a transport sends them one at a
//! time: they would only come back, and each way costs a write. Pure.

use crate::transport::LINE_MAX;
use std::collections::HashMap;

/// How much later each message of a crowd is looked at than the one before, in milliseconds. A device takes a few in a
/// second (fcm-v1.md 3.5), a topic as many as there are round trips.
const PACE_MS: u64 = 100;

/// How many messages of each recipient the transport has, or is about to get.
#[derive(Debug)]
pub(super) struct Crowd(HashMap<i64, usize>);

impl Crowd {
    /// The transport has messages of these recipients.
    pub(super) fn of(flying: impl Iterator<Item = i64>) -> Self {
        let mut counts = HashMap::new();
        for recipient in flying {
            *counts.entry(recipient).or_insert(0) += 1;
        }
        Self(counts)
    }

    /// Counts a message; how long it has to wait if there is no place for it yet, in milliseconds.
    pub(super) fn come(&mut self, recipient: i64) -> Option<u64> {
        let count = self.0.entry(recipient).or_insert(0);
        *count += 1;
        let behind = count.checked_sub(LINE_MAX).filter(|behind| *behind > 0)?;
        Some(u64::try_from(behind).map_or(u64::MAX, |behind| behind.saturating_mul(PACE_MS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_beyond_the_line_wait_each_longer_than_the_one_before() {
        let mut crowd = Crowd::of(std::iter::repeat_n(7, LINE_MAX - 1).chain([8]));
        let waits: Vec<_> = (0..3).map(|_| crowd.come(7)).collect();
        assert_eq!(waits, [None, Some(PACE_MS), Some(2 * PACE_MS)]);
        assert_eq!(crowd.come(8), None, "others are not concerned");
    }
}
