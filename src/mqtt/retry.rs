//! When to connect again, and what to say about it. Pure: time and chance come from outside.

use super::link::Failure;
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

/// The way back to the broker.
///
/// Pauses double from attempt to attempt, with jitter, so that a restarted broker does not meet all its clients at
/// once. They start anew only after a connection that held: one that breaks as soon as it stands must not be rebuilt
/// in a hot loop.
#[derive(Debug)]
pub(super) struct Retry {
    min: Duration,
    max: Duration,
    attempts: u32,
    /// Connections in a row that stood, and soon ended without a reason.
    short: u32,
    said: Option<Discriminant<Failure>>,
}

/// After so many short connections without a reason the client id is suspected.
const SHORT_MAX: u32 = 5;

/// How loud a failure is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tell {
    /// An operator must act.
    Error,
    /// It will mend by itself.
    Warn,
    /// It belongs to normal work.
    Info,
    /// It has been told.
    Again,
}

impl Retry {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, attempts: 0, short: 0, said: None }
    }

    /// A connection failed after it was open for `open`, if it ever was. `jitter` is a random number in 0..1.
    pub(super) fn failed(&mut self, failure: &Failure, open: Option<Duration>, jitter: f64) -> (Duration, Tell) {
        if open.is_some() {
            self.said = None;
        }
        if open.is_some_and(|open| open >= self.max) {
            self.attempts = 0;
        }
        // Two clients with one id take the session from each other; between two turns lies a pause of up to `max`.
        let is_short = matches!(failure, Failure::Network(_)) && open.is_some_and(|open| open < 2 * self.max);
        self.short = if is_short { self.short + 1 } else { 0 };
        let tell = if self.said == Some(discriminant(failure)) { Tell::Again } else { loudness(failure) };
        self.said = Some(discriminant(failure));
        (self.pause(failure).mul_f64(0.5 + jitter / 2.0), tell)
    }

    /// What else may be wrong, beside the last failure.
    pub(super) fn hint(&self) -> Option<String> {
        (self.short >= SHORT_MAX).then(|| {
            format!(
                "{} connections in a row were cut soon after they stood: perhaps another client, or another bridge, uses the \
                 same client id (`mqtt.client_id`)",
                self.short
            )
        })
    }

    fn pause(&mut self, failure: &Failure) -> Duration {
        match failure {
            Failure::Redelivery => self.min,
            // Nothing gets better by asking more often.
            Failure::Refused(_) | Failure::TakenOver | Failure::Tls(_) | Failure::TooLarge { .. } => self.max,
            Failure::Network(_) | Failure::Closed(_) | Failure::Protocol(_) | Failure::Silent(_) => {
                let doubled = self.min.saturating_mul(2_u32.saturating_pow(self.attempts));
                self.attempts = self.attempts.saturating_add(1);
                doubled.min(self.max)
            }
        }
    }
}

fn loudness(failure: &Failure) -> Tell {
    match failure {
        Failure::Refused(_)
        | Failure::TakenOver
        | Failure::Tls(_)
        | Failure::TooLarge { .. }
        | Failure::Protocol(_) => Tell::Error,
        Failure::Network(_) | Failure::Closed(_) | Failure::Silent(_) => Tell::Warn,
        Failure::Redelivery => Tell::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(200);
    const MAX: Duration = Duration::from_secs(30);
    /// With this jitter a pause is what the rules say, not less.
    const WHOLE: f64 = 1.0;

    fn down() -> Failure {
        Failure::Network("connection refused".into())
    }

    #[test]
    fn the_first_retry_is_quick_and_the_pauses_double_up_to_the_limit() {
        let mut retry = Retry::new(MIN, MAX);
        let pauses: Vec<u128> = (0..10).map(|_| retry.failed(&down(), None, WHOLE).0.as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
        for _ in 0..100 {
            assert_eq!(retry.failed(&down(), None, WHOLE).0, MAX);
        }
    }

    #[test]
    fn jitter_takes_up_to_half() {
        assert_eq!(Retry::new(MIN, MAX).failed(&down(), None, 0.0).0, MIN / 2);
    }

    #[test]
    fn a_connection_that_held_starts_the_pauses_anew_and_one_that_did_not_goes_on() {
        let mut retry = Retry::new(MIN, MAX);
        retry.failed(&down(), None, WHOLE);
        assert_eq!(retry.failed(&down(), Some(MIN), WHOLE).0, MIN * 2);
        assert_eq!(retry.failed(&down(), Some(MAX), WHOLE).0, MIN);
    }

    #[test]
    fn a_reason_is_told_once_until_it_changes_or_the_broker_was_up() {
        let mut retry = Retry::new(MIN, MAX);
        let mut tell = |failure: Failure, open| retry.failed(&failure, open, WHOLE).1;
        assert_eq!(tell(down(), None), Tell::Warn);
        assert_eq!(tell(down(), None), Tell::Again);
        assert_eq!(tell(Failure::Refused("BadUserNamePassword".into()), None), Tell::Error);
        assert_eq!(tell(Failure::Refused("BadUserNamePassword".into()), None), Tell::Again);
        assert_eq!(tell(down(), None), Tell::Warn);
        assert_eq!(tell(down(), Some(MIN)), Tell::Warn);
    }

    #[test]
    fn what_only_an_operator_can_mend_is_retried_slowly() {
        for failure in [
            Failure::Refused("NotAuthorized".into()),
            Failure::TakenOver,
            Failure::Tls("UnknownIssuer".into()),
            Failure::TooLarge { bytes: 1 },
        ] {
            assert_eq!(Retry::new(MIN, MAX).failed(&failure, None, WHOLE), (MAX, Tell::Error));
        }
    }

    #[test]
    fn a_client_id_that_two_share_is_suspected_after_some_short_connections() {
        let mut retry = Retry::new(MIN, MAX);
        let mut hint = |failure: Failure, open| {
            retry.failed(&failure, open, WHOLE);
            retry.hint()
        };
        assert!((0..5).all(|_| hint(down(), None).is_none()), "there was no connection");
        assert!((0..4).all(|_| hint(down(), Some(MIN)).is_none()));
        assert!(hint(down(), Some(MAX)).is_some_and(|hint| hint.contains("`mqtt.client_id`")));
        assert_eq!(hint(down(), Some(MAX * 2)), None, "it held");
        assert!((0..5).all(|_| hint(Failure::TakenOver, Some(MIN)).is_none()), "the broker has said it");
    }

    #[test]
    fn redelivery_is_no_failure() {
        let mut retry = Retry::new(MIN, MAX);
        for _ in 0..3 {
            assert_eq!(retry.failed(&Failure::Redelivery, Some(MIN), WHOLE), (MIN, Tell::Info));
        }
    }
}
