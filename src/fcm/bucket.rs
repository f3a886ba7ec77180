//! A token bucket that keeps to its limit in every window, wherever the window begins.
//!
//! A plain bucket of `limit` tokens that refills within the window lets twice the limit through: all of it at once, and
//! again what refills meanwhile. Here the burst is a part of the limit and the refill is the rest of it. The state is
//! one moment, the one at which the bucket is full again (the generic cell rate algorithm of ATM).

use std::time::{Duration, Instant};

/// A part of a rate lets one through in this time at least: a small rate would be as good as none in its smallest part.
const SLOWEST: Duration = Duration::from_secs(1);

/// How much a bucket lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// How long one takes to refill.
    interval: Duration,
    /// How many at once.
    burst: u32,
}

/// How full a bucket is: nothing is remembered of one that is full.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bucket {
    full_at: Option<Instant>,
}

impl Rate {
    /// At most `limit` in any `window`, of which `burst` may come at once. A burst over half the limit is cut to that:
    /// something has to be left for the refill.
    pub(super) fn new(limit: u32, window: Duration, burst: u32) -> Self {
        let limit = limit.max(2);
        let burst = burst.clamp(1, limit / 2);
        let refill = u128::from(limit - burst);
        // Rounded up: rather one too few than one too many.
        let nanos = window.as_nanos().div_ceil(refill);
        Self { interval: Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)), burst }
    }

    /// A part of the rate: `percent` of it, 1 at least. It is never slower than one in [`SLOWEST`], or than the whole rate
    /// where that is slower.
    pub(super) fn part(self, percent: u32) -> Self {
        let percent = percent.clamp(1, 100);
        let burst = u64::from(self.burst) * u64::from(percent) / 100;
        // Rounded up, as above.
        let interval = self.interval.saturating_mul(100) / percent + Duration::from_nanos(1);
        Self {
            interval: interval.min(self.interval.max(SLOWEST)),
            burst: u32::try_from(burst).unwrap_or(u32::MAX).max(1),
        }
    }
}

impl Bucket {
    /// How long until one more may go; zero is now.
    pub(super) fn wait(&self, rate: Rate, now: Instant) -> Duration {
        // How far ahead of `now` the moment of fullness may be for one more to go.
        let tolerance = rate.interval.saturating_mul(rate.burst.saturating_sub(1));
        self.debt(now).saturating_sub(tolerance)
    }

    /// Lets one go, whether or not it may.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) {
        let from = self.full_at.map_or(now, |full_at| full_at.max(now));
        self.full_at = from.checked_add(rate.interval);
    }

    /// How long until it is full again.
    pub(super) fn debt(&self, now: Instant) -> Duration {
        self.full_at.map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[expect(clippy::disallowed_methods, reason = "any moment will do as the start of the test's own time")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_as_it_refills() {
        let (rate, now) = (Rate::new(240, Duration::from_secs(60), 60), start());
        let mut bucket = Bucket::default();
        for _ in 0..60 {
            assert_eq!(bucket.wait(rate, now), Duration::ZERO);
            bucket.take(rate, now);
        }
        let wait = bucket.wait(rate, now);
        assert_eq!(wait, Duration::from_secs(60) / 180 + Duration::from_nanos(1));
        assert_eq!(bucket.wait(rate, now + wait), Duration::ZERO);
        assert_eq!(bucket.debt(now + Duration::from_secs(21)), Duration::ZERO);
    }

    #[test]
    fn odd_limits_still_let_something_through() {
        for (limit, burst) in [(0, 0), (1, 5), (2, 0), (3, 3)] {
            let rate = Rate::new(limit, Duration::from_secs(1), burst);
            assert!(rate.burst == 1 && rate.interval <= Duration::from_secs(1), "{rate:?}");
        }
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_the_limit(
            limit in 2u32..50,
            burst in 0u32..60,
            pauses in prop::collection::vec(0u64..200, 1..400),
        ) {
            let (window, start) = (Duration::from_millis(1000), start());
            let rate = Rate::new(limit, window, burst);
            let mut bucket = Bucket::default();
            let (mut now, mut went) = (start, Vec::new());
            for pause in pauses {
                now += Duration::from_millis(pause);
                // As fast as it lets one.
                while bucket.wait(rate, now).is_zero() {
                    bucket.take(rate, now);
                    went.push(now);
                }
            }
            for (i, &first) in went.iter().enumerate() {
                let within = went[i..].iter().take_while(|at| **at < first + window).count();
                prop_assert!(within <= limit as usize, "{within} of {limit}");
            }
        }

        #[test]
        fn after_the_wait_one_may_go(taken in 1u32..100, part in 1u32..100) {
            let (rate, now) = (Rate::new(40, Duration::from_secs(1), 10).part(part), start());
            let mut bucket = Bucket::default();
            for _ in 0..taken {
                bucket.take(rate, now);
            }
            let wait = bucket.wait(rate, now);
            prop_assert!(bucket.wait(rate, now + wait).is_zero());
        }
    }
}
