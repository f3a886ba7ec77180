//! How fast a client is read.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

/// How long a client may send at any speed after it was silent for as long.
const BURST: Duration = Duration::from_secs(2);

/// The rates that one connection keeps to. Who sends faster is read more slowly; nothing is lost.
#[derive(Debug, Default)]
pub(super) struct Rates {
    messages: TokenBucket,
    packets: TokenBucket,
    bytes: TokenBucket,
}

impl Rates {
    /// Per second: PUBLISHes, packets, and bytes of packets.
    pub(super) fn new(
        messages: Option<NonZeroU32>,
        packets: Option<NonZeroU32>,
        bytes: Option<NonZeroU32>,
    ) -> Option<Self> {
        let limited = messages.or(packets).or(bytes).is_some();
        let bucket = |rate| TokenBucket { rate, full: None };
        limited.then(|| Self { messages: bucket(messages), packets: bucket(packets), bytes: bucket(bytes) })
    }

    /// Lets one packet pass.
    ///
    /// # Errors
    ///
    /// If it may not pass yet: the time at which it may.
    pub(super) fn pass(&mut self, is_message: bool, size: usize, now: Instant) -> Result<(), Instant> {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let costs = [(&mut self.messages, u32::from(is_message)), (&mut self.packets, 1), (&mut self.bytes, size)];
        let wait = costs.iter().filter_map(|(bucket, cost)| bucket.full_with(*cost, now).err()).max();
        if let Some(until) = wait {
            return Err(until);
        }
        for (bucket, cost) in costs {
            bucket.full = bucket.full_with(cost, now).ok().flatten();
        }
        Ok(())
    }
}

/// A bucket of permissions: full it holds [`BURST`] worth of them, and it fills at the rate. Kept as the moment at which it
/// will be full again, so that nothing has to be counted while nothing happens.
#[derive(Debug, Default)]
struct TokenBucket {
    rate: Option<NonZeroU32>,
    full: Option<Instant>,
}

impl TokenBucket {
    /// When the bucket will be full if so many are taken now, or when they may be taken.
    fn full_with(&self, cost: u32, now: Instant) -> Result<Option<Instant>, Instant> {
        let Some(rate) = self.rate.filter(|_| cost > 0) else {
            return Ok(self.full);
        };
        let cost = Duration::from_nanos(u64::from(cost) * 1_000_000_000 / u64::from(rate.get()));
        let full = self.full.map_or(now, |full| full.max(now)) + cost;
        // What is more than a whole bucket passes when it is full.
        let room = BURST.max(cost);
        if full > now + room { Err(full - room) } else { Ok(Some(full)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many packets of a client that sends as fast as it may get through in `time`.
    fn passed(mut rates: Rates, size: usize, time: Duration) -> u32 {
        let start = Instant::now();
        let (mut now, mut count) = (start, 0);
        while now <= start + time {
            match rates.pass(true, size, now) {
                Ok(()) => count += 1,
                Err(later) => {
                    assert!(later > now, "a wait takes time");
                    now = later;
                }
            }
        }
        count
    }

    fn messages(rate: u32) -> Rates {
        Rates::new(NonZeroU32::new(rate), None, None).unwrap()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        assert_eq!(passed(messages(100), 1, Duration::ZERO), 200);
        assert_eq!(passed(messages(100), 1, Duration::from_secs(10)), 1_200);
        assert_eq!(passed(messages(1), 1, Duration::from_secs(10)), 12);
    }

    #[test]
    fn the_lowest_rate_goes_and_a_packet_of_more_than_a_burst_passes() {
        let rates = || Rates::new(NonZeroU32::new(100), NonZeroU32::new(10), NonZeroU32::new(1_000)).unwrap();
        assert_eq!(passed(rates(), 1, Duration::from_secs(10)), 120);
        assert_eq!(passed(rates(), 500, Duration::from_secs(10)), 4 + 20);
        assert_eq!(passed(rates(), 10_000, Duration::from_secs(10)), 2);
        assert!(Rates::new(None, None, None).is_none());
    }

    #[test]
    fn what_is_no_message_is_not_counted_as_one() {
        let mut rates = messages(1);
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(rates.pass(false, 10, now), Ok(()));
        }
        assert_eq!(rates.pass(true, 10, now), Ok(()));
    }

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_a_burst(rate in 1..2_000u32, millis in 0..5_000u64) {
            let most = 2 * u64::from(rate) + u64::from(rate) * millis / 1_000;
            let passed = u64::from(passed(messages(rate), 1, Duration::from_millis(millis)));
            prop_assert!(passed <= most + 1 && passed + 1 >= most, "{passed} of {most}");
        }
    }
}
