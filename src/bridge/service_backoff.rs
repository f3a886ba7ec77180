//! Stops the flow for a while when the push service refuses everything, instead of trying each message once. Pure.

use crate::chat::id::Recipient;
use std::collections::HashSet;
use std::time::Duration;

const REFUSALS_BEFORE_PAUSE: u32 = 20;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Counts "try again later" answers in a row.
#[derive(Debug, Default)]
pub(crate) struct ServiceBackoff {
    in_a_row: u32,
    /// Recipients among them that were counted; at most [`REFUSALS_BEFORE_PAUSE`].
    recipients: HashSet<Recipient>,
    pause: Option<Duration>,
}

impl ServiceBackoff {
    /// The push service took a message, or refused it for good: it works.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// A retryable refusal. `recipient`: given for `Scope::Recipient`, which counts once per recipient; `None` for
    /// `Scope::Message`. The 20th in a row returns a pause, twice as long as the one before it.
    pub(crate) fn refused(&mut self, recipient: Option<Recipient>) -> Option<Duration> {
        let counts = recipient.is_none_or(|recipient| self.recipients.insert(recipient));
        self.in_a_row += u32::from(counts);
        if self.in_a_row < REFUSALS_BEFORE_PAUSE {
            return None;
        }
        self.in_a_row = 0;
        self.recipients.clear();
        let pause = self.pause.map_or(PAUSE_FIRST, |last| (last * 2).min(PAUSE_MAX));
        self.pause = Some(pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sending_pauses_after_twenty_in_a_row_and_longer_each_time() {
        let mut service_backoff = ServiceBackoff::default();
        let mut pauses: Vec<u64> =
            (0..200).filter_map(|_| service_backoff.refused(None)).map(|p| p.as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        service_backoff.reset();
        pauses = (0..20).filter_map(|_| service_backoff.refused(None)).map(|p| p.as_secs()).collect();
        assert_eq!(pauses, [1]);
    }

    fn one(recipient: i64) -> Option<Recipient> {
        Some(Recipient(recipient))
    }

    #[test]
    fn one_recipient_is_not_the_push_service_but_twenty_are() {
        let mut service_backoff = ServiceBackoff::default();
        assert!((0..100).all(|_| service_backoff.refused(one(1)).is_none()));
        assert!((2..20).all(|recipient| service_backoff.refused(one(recipient)).is_none()));
        assert_eq!(service_backoff.refused(one(20)), Some(PAUSE_FIRST));
    }

    #[test]
    fn one_success_in_between_is_enough() {
        let mut service_backoff = ServiceBackoff::default();
        for _ in 0..100 {
            assert!((0..19).all(|_| service_backoff.refused(None).is_none()));
            service_backoff.reset();
        }
    }
}
