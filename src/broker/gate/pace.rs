//! How fast a client may publish. Pure.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// How long a client may publish at any speed after it was silent for as long.
const BURST: Duration = Duration::from_secs(2);

/// A bucket of permissions to publish: full it holds [`BURST`] worth of them, and it fills at the rate. Kept as the
/// moment at which it will be full again, so that nothing has to be counted while nothing happens.
#[derive(Debug, Default)]
pub(super) struct Pace {
    full: Option<Instant>,
}

impl Pace {
    /// Takes one permission, or says when there will be one.
    pub(super) fn take(&mut self, rate: NonZeroU32, now: Instant) -> Result<(), Instant> {
        let each = Duration::from_secs(1) / rate.get();
        let full = self.full.map_or(now, |full| full.max(now)) + each;
        // Even the slowest rate lets one through at a time.
        let room = BURST.max(each);
        if full > now + room {
            return Err(full - room);
        }
        self.full = Some(full);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many of a client that sends as fast as it may get through in `time`.
    fn passed(rate: u32, time: Duration) -> u32 {
        let rate = NonZeroU32::new(rate).unwrap();
        let start = Instant::now();
        let (mut pace, mut now, mut count) = (Pace::default(), start, 0);
        while now <= start + time {
            match pace.take(rate, now) {
                Ok(()) => count += 1,
                Err(later) => {
                    assert!(later > now, "a wait takes time");
                    now = later;
                }
            }
        }
        count
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        assert_eq!(passed(100, Duration::ZERO), 200);
        assert_eq!(passed(100, Duration::from_secs(10)), 1_200);
        assert_eq!(passed(1, Duration::from_secs(10)), 12);
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_a_burst(rate in 1..2_000u32, millis in 0..5_000u64) {
            let most = 2 * u64::from(rate) + u64::from(rate) * millis / 1_000;
            let passed = u64::from(passed(rate, Duration::from_millis(millis)));
            prop_assert!(passed <= most + 1 && passed + 1 >= most, "{passed} of {most}");
        }
    }
}
