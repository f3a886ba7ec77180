//! Stops the flow for a while when the push service refuses everything, instead of trying each message once. Pure.

use crate::chat::id::Recipient;
use std::collections::HashSet;
use std::time::Duration;

/// Refusals in a row after which sending pauses.
const AFTER: u32 = 20;
/// The first pause.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts "try again later" answers in a row.
#[derive(Debug, Default)]
pub(crate) struct ServiceBackoff {
    in_a_row: u32,
    /// Recipients among them that were counted; at most [`AFTER`].
    recipients: HashSet<Recipient>,
    pause: Option<Duration>,
}

impl ServiceBackoff {
    /// The push service took or finally refused a message: it works.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// It said "later", of everybody or perhaps only of `recipient`: many of those one after another are the push service
    /// all the same. Returns how long to send nothing at all, if that is called for; the pause doubles each time.
    pub(crate) fn refused(&mut self, recipient: Option<Recipient>) -> Option<Duration> {
        let counts = recipient.is_none_or(|recipient| self.recipients.insert(recipient));
        self.in_a_row += u32::from(counts);
        if self.in_a_row < AFTER {
            return None;
        }
        self.in_a_row = 0;
        self.recipients.clear();
        let pause = self.pause.map_or(FIRST, |last| (last * 2).min(LONGEST));
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
        assert_eq!(service_backoff.refused(one(20)), Some(FIRST));
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
