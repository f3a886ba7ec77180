//! How fast a client may publish.

use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How long a client may publish at any speed after it was silent for as long.
const BURST: Duration = Duration::from_secs(2);

/// Lets publications pass at a rate.
#[derive(Debug, Default)]
pub(super) struct Brake {
    pace: Pace,
    timer: Option<Pin<Box<Sleep>>>,
}

/// How a publication passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// At once.
    Freely,
    /// After a wait.
    Slowed,
}

impl Brake {
    /// Ready when another publication may pass; to be asked again until then.
    pub(super) fn poll_pass(&mut self, rate: NonZeroU32, cx: &mut Context<'_>) -> Poll<Passed> {
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
        }
        let passed = if self.timer.take().is_some() { Passed::Slowed } else { Passed::Freely };
        match self.pace.take(rate, Instant::now()) {
            Ok(()) => Poll::Ready(passed),
            Err(until) => {
                let timer = self.timer.insert(Box::pin(sleep_until(until)));
                // Asked at once, so that it knows whom to wake.
                match timer.as_mut().poll(cx) {
                    Poll::Ready(()) => self.poll_pass(rate, cx),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

/// A bucket of permissions to publish: full it holds [`BURST`] worth of them, and it fills at the rate. Kept as the
/// moment at which it will be full again, so that nothing has to be counted while nothing happens.
#[derive(Debug, Default)]
struct Pace {
    full: Option<Instant>,
}

impl Pace {
    /// Takes one permission, or says when there will be one.
    fn take(&mut self, rate: NonZeroU32, now: Instant) -> Result<(), Instant> {
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
