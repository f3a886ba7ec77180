//! Which refused publications are named in the log. Pure: `now` comes from outside.
//!
//! Each topic is named once, until something of it passes. However many topics are refused, so many lines are written in a
//! minute; the rest is counted, and told in one line when the minute is over.

use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long refusals are counted before they are told in one line.
const MINUTE: Duration = Duration::from_secs(60);
/// Topics that are named in a minute.
const NAMED_PER_MINUTE: usize = 10;
/// Topics that are known to be named; beyond it none is named, and refusals are only counted.
const KNOWN_MAX: usize = 1_000;

/// What was said of refusals.
#[derive(Debug, Default)]
pub(super) struct RefusalLog {
    known: HashSet<String>,
    /// Topics named since the minute began.
    named: usize,
    /// Refusals since then of topics that were never named.
    unnamed: u64,
    /// When the minute is over; none: nothing was refused that is not known.
    until: Option<Instant>,
}

impl RefusalLog {
    /// A publication on `topic` was refused: whether to say so now.
    pub(super) fn refused(&mut self, topic: &str, now: Instant) -> bool {
        if self.known.contains(topic) {
            return false;
        }
        self.until.get_or_insert(now + MINUTE);
        let is_named = self.named < NAMED_PER_MINUTE && self.known.len() < KNOWN_MAX;
        if is_named {
            self.named += 1;
            self.known.insert(topic.to_owned());
        } else {
            self.unnamed += 1;
        }
        is_named
    }

    /// A publication on `topic` passed: its next refusal is news again.
    pub(super) fn passed(&mut self, topic: &str) {
        if !self.known.is_empty() {
            self.known.remove(topic);
        }
    }

    /// Nothing is refused any more.
    pub(super) fn over(&mut self) {
        self.known.clear();
    }

    /// When [`RefusalLog::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// How many refusals of the minute that is over are to be told in one line, if it is over and there were any.
    pub(super) fn tick(&mut self, now: Instant) -> Option<u64> {
        self.until.take_if(|until| *until <= now)?;
        self.named = 0;
        Some(std::mem::take(&mut self.unnamed)).filter(|unnamed| *unnamed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_topic_is_named_once_until_it_passes() {
        let (mut log, now) = (RefusalLog::default(), Instant::now());
        assert!(log.refused("a", now));
        assert!(!log.refused("a", now));
        log.passed("a");
        assert!(log.refused("a", now));
        log.over();
        assert!(log.refused("a", now), "nothing was refused meanwhile");
    }

    #[test]
    fn however_many_topics_are_refused_few_lines_are_written_in_a_minute() {
        let (mut log, start) = (RefusalLog::default(), Instant::now());
        for minute in 0..200_u32 {
            let now = start + MINUTE * minute;
            assert_eq!(log.tick(now).is_some(), minute > 0);
            let named = (0..2_500).filter(|n| log.refused(&format!("shop/replies/{n}"), now)).count();
            assert!(named <= NAMED_PER_MINUTE, "{named} in minute {minute}");
            assert!(log.known.len() <= KNOWN_MAX);
        }
        assert_eq!(log.tick(start + MINUTE * 200), Some(2_500 - 1_000), "so many are never named");
        assert_eq!(log.deadline(), None);
    }
}
