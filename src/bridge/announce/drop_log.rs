//! What the log says of documents that were dropped because too many of them waited. Pure: `now` comes from outside.

use crate::store::NOTES_PER_TOPIC;
use std::time::Duration;
use tokio::time::Instant;

/// They are told of once in this time at most.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What was told.
#[derive(Debug, Default)]
pub(super) struct DropLog {
    documents: u64,
    at: Option<Instant>,
}

impl DropLog {
    /// So many were dropped since the start: says how many are new, unless it has said something just now.
    pub(super) fn tell(&mut self, dropped: u64, now: Instant) {
        if let Some(documents) = self.news(dropped, now) {
            tracing::warn!(
                documents,
                kept_per_topic = NOTES_PER_TOPIC,
                "errors, statuses of what was refused, or events are dropped: nobody reads them, and too many wait"
            );
        }
    }

    fn news(&mut self, dropped: u64, now: Instant) -> Option<u64> {
        let is_early = self.at.is_some_and(|at| now.duration_since(at) < TOLD_EVERY);
        let documents = dropped.saturating_sub(self.documents);
        if is_early || documents == 0 {
            return None;
        }
        *self = Self { documents: dropped, at: Some(now) };
        Some(documents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_told_at_once_and_then_once_a_minute() {
        let (mut log, start) = (DropLog::default(), Instant::now());
        assert_eq!(log.news(0, start), None);
        assert_eq!(log.news(3, start), Some(3));
        assert_eq!(log.news(5, start + TOLD_EVERY / 2), None);
        assert_eq!(log.news(9, start + TOLD_EVERY), Some(6));
        assert_eq!(log.news(9, start + 3 * TOLD_EVERY), None);
    }
}
