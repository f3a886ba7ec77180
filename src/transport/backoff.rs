//! How long to wait before the next attempt. Pure: the random number comes from the caller.

use std::time::Duration;

/// Exponential back-off with full jitter: the wait is drawn between zero and a ceiling that doubles with each attempt,
/// so that many clients that failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempts: u32,
}

impl Backoff {
    /// `first` is the ceiling of the first wait, `cap` the highest one.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, attempts: 0 }
    }

    /// Counts an attempt; returns the wait before the next one. `random` is drawn evenly from 0 to 1.
    pub fn next(&mut self, random: f64) -> Duration {
        let ceiling = self.first.saturating_mul(1u32.checked_shl(self.attempts).unwrap_or(u32::MAX)).min(self.cap);
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Begins again: the last attempt was a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let seconds: Vec<u64> = (0..40).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!(seconds[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(seconds[39], 60);
        backoff.reset();
        assert_eq!(backoff.next(1.0), Duration::from_secs(1));
        assert_eq!(backoff.next(0.25), Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn a_wait_never_leaves_its_bounds(randoms in prop::collection::vec(any::<f64>(), 0..50)) {
            let cap = Duration::from_secs(60);
            let mut backoff = Backoff::new(Duration::from_secs(1), cap);
            for random in randoms.into_iter().filter(|random| !random.is_nan()) {
                prop_assert!(backoff.next(random) <= cap);
            }
        }
    }
}
