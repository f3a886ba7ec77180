//! When the next connection is opened in place of one that ended. Pure.

use crate::transport::backoff::Backoff;
use std::time::{Duration, Instant};

/// Back-off after a failure before the login: first and last ceiling.
const FAILURE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Back-off after refused credentials: trying faster helps nobody and looks like an attack.
const REFUSED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// A connection that served for less than this did not live. Once is an accident; from the second in a row on it takes
/// the back-off of a failure, or a server that ends every session would be called without a pause.
const SHORT_LIFE: Duration = Duration::from_secs(10);
/// Between two connections that are opened at once: FCM's quota of 400 in a minute.
const SPACING: Duration = Duration::from_millis(150);

/// What became of a connection, as far as the next one is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The credentials were refused.
    Refused,
    /// It ended before the credentials were accepted.
    Failed,
    /// It was authenticated and took messages for so long.
    Served(Duration),
}

/// One of the connections that are to be kept; its history decides when it is opened again.
#[derive(Debug)]
pub(super) struct Slot {
    failures: Backoff,
    refusals: Backoff,
    short_lives: u32,
}

impl Slot {
    /// A slot without a history.
    pub(super) fn new() -> Self {
        Self {
            failures: Backoff::new(FAILURE.0, FAILURE.1),
            refusals: Backoff::new(REFUSED.0, REFUSED.1),
            short_lives: 0,
        }
    }

    /// How long to wait before the next connection. `random` is drawn evenly from 0 to 1.
    pub(super) fn delay(&mut self, outcome: Outcome, random: f64) -> Duration {
        let served = match outcome {
            Outcome::Refused => return self.refusals.next(random),
            Outcome::Failed => return self.failures.next(random),
            Outcome::Served(served) => served,
        };
        self.refusals.reset();
        self.short_lives = if served < SHORT_LIFE { self.short_lives + 1 } else { 0 };
        if self.short_lives > 1 {
            return self.failures.next(random);
        }
        self.failures.reset();
        Duration::ZERO
    }
}

/// Keeps the connections that are opened at once apart. Those that wait are kept apart by their jitter.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    last: Option<Instant>,
}

impl Pacer {
    /// When a connection that is wanted after `delay` may be opened.
    pub(super) fn start(&mut self, now: Instant, delay: Duration) -> Instant {
        if !delay.is_zero() {
            return now + delay;
        }
        let start = self.last.map_or(now, |last| now.max(last + SPACING));
        self.last = Some(start);
        start
    }

    /// How long the connection of that number, from 0, waits when all of them are opened at once.
    pub(super) fn apart(number: usize) -> Duration {
        SPACING.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authenticated_connection_is_replaced_at_once_unless_they_keep_dying() {
        let mut slot = Slot::new();
        let mut seconds = |served| slot.delay(Outcome::Served(Duration::from_secs(served)), 1.0).as_secs();
        assert_eq!([60, 1, 1, 0, 10, 1].map(&mut seconds), [0, 0, 1, 2, 0, 0]);
    }

    #[test]
    fn before_the_login_the_delay_doubles_and_refusals_are_slow() {
        let mut slot = Slot::new();
        let mut seconds = |outcome| slot.delay(outcome, 1.0).as_secs();
        assert_eq!([Outcome::Failed; 8].map(&mut seconds), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!([Outcome::Refused; 7].map(&mut seconds), [30, 60, 120, 240, 480, 600, 600]);
        assert_eq!(seconds(Outcome::Served(Duration::from_secs(60))), 0);
        assert_eq!(seconds(Outcome::Refused), 30);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    fn what_is_opened_at_once_is_kept_apart() {
        let now = Instant::now();
        let mut pacer = Pacer::default();
        let at_once = [(); 3].map(|()| pacer.start(now, Duration::ZERO) - now);
        assert_eq!(at_once, [Duration::ZERO, SPACING, SPACING * 2]);
        let later = now + Duration::from_secs(60);
        assert_eq!(pacer.start(later, Duration::from_secs(30)), later + Duration::from_secs(30));
        assert_eq!(pacer.start(later, Duration::ZERO), later);
    }
}
