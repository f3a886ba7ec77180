//! How fast a client is read.
//!
//! Each connection has its own rates, and all connections of one user those of what they publish: whoever comes again, or by
//! many connections, publishes no more than by one. A packet that may not pass yet is counted at once and waits for its time,
//! so that the connections of a user have their turns in the order in which they asked.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a client may send at any speed after it was silent for as long.
const BURST: Duration = Duration::from_secs(2);
/// So long a packet waits at most. What connections that are gone have counted is forgotten after as long.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The rates of what each chat user publishes. Locks because connections come in their own tasks; held for a map operation, and
/// for a few comparisons.
#[derive(Debug, Default)]
pub(crate) struct UserRates(Mutex<HashMap<Arc<str>, Arc<Mutex<Rates>>>>);

impl UserRates {
    /// Those of a user, which are made if there are none.
    pub(super) fn of(&self, user: &Arc<str>, new: impl FnOnce() -> Option<Rates>) -> Option<Arc<Mutex<Rates>>> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = users.get(user) {
            return Some(Arc::clone(there));
        }
        let new = Arc::new(Mutex::new(new()?));
        users.insert(Arc::clone(user), Arc::clone(&new));
        Some(new)
    }

    /// Forgets the users without a connection who may publish at any speed again: each no later than [`WAIT_MAX`] and a burst
    /// after the last packet.
    pub(crate) fn tidy(&self, now: Instant) {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, rates| {
            Arc::strong_count(rates) > 1 || !rates.lock().unwrap_or_else(PoisonError::into_inner).is_full(now)
        });
    }
}

/// The rates of a connection of a chat user.
#[derive(Debug)]
pub(super) struct ConnectionRates {
    own: Rates,
    /// Those of what its user publishes, by whatever connection.
    of_user: Option<Arc<Mutex<Rates>>>,
}

impl ConnectionRates {
    pub(super) fn new(own: Option<Rates>, of_user: Option<Arc<Mutex<Rates>>>) -> Option<Box<Self>> {
        // What limits the user limits the connection as well.
        own.map(|own| Box::new(Self { own, of_user }))
    }

    /// As [`Rates::pass_at`].
    pub(super) fn pass_at(&mut self, is_message: bool, size: usize, now: Instant) -> Instant {
        let own = self.own.pass_at(is_message, size, now);
        match self.of_user.as_ref().filter(|_| is_message) {
            Some(of_user) => {
                own.max(of_user.lock().unwrap_or_else(PoisonError::into_inner).pass_at(is_message, size, now))
            }
            None => own,
        }
    }
}

/// The rates that one connection keeps to, or all of a user. Who sends faster is read more slowly; nothing is lost.
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

    /// Counts one packet, which passes at the time that is returned: it may be over.
    pub(super) fn pass_at(&mut self, is_message: bool, size: usize, now: Instant) -> Instant {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let costs = [(&mut self.messages, u32::from(is_message)), (&mut self.packets, 1), (&mut self.bytes, size)];
        costs.into_iter().fold(now, |latest, (bucket, cost)| latest.max(bucket.take(cost, now)))
    }

    /// Whether nothing has to be remembered.
    fn is_full(&self, now: Instant) -> bool {
        [&self.messages, &self.packets, &self.bytes].iter().all(|bucket| bucket.full.is_none_or(|full| full <= now))
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
    /// Takes so many, if need be some that are still to come. Yields when they have come.
    fn take(&mut self, cost: u32, now: Instant) -> Instant {
        let Some(rate) = self.rate.filter(|_| cost > 0) else { return now };
        let cost = Duration::from_nanos(u64::from(cost) * 1_000_000_000 / u64::from(rate.get()));
        // What is more than a whole bucket passes when it is full.
        let room = BURST.max(cost);
        let full = (self.full.map_or(now, |full| full.max(now)) + cost).min(now + room + WAIT_MAX);
        self.full = Some(full);
        now.max(full - room)
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
            now = rates.pass_at(true, size, now);
            count += u32::from(now <= start + time);
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
            assert_eq!(rates.pass_at(false, 10, now), now);
        }
        assert_eq!(rates.pass_at(true, 10, now), now);
    }

    #[test]
    fn connections_of_one_user_share_a_burst_and_those_of_others_do_not() {
        let (users, now) = (UserRates::default(), Instant::now());
        let of = |user: &str| users.of(&user.into(), || Some(messages(1))).unwrap();
        let pass = |user: &str| of(user).lock().unwrap().pass_at(true, 1, now) - now;
        assert_eq!([pass("eve"), pass("eve"), pass("alice")], [Duration::ZERO; 3]);
        assert_eq!([pass("eve"), pass("eve")], [1, 2].map(Duration::from_secs), "each in its turn");
        users.tidy(now + Duration::from_secs(3));
        assert_eq!(users.0.lock().unwrap().len(), 1, "without a connection it is still remembered");
        let kept = of("alice");
        users.tidy(now + Duration::from_secs(4));
        assert_eq!(users.0.lock().unwrap().len(), 1, "a user with a connection is");
        drop(kept);
        users.tidy(now + Duration::from_secs(4));
        assert!(users.0.lock().unwrap().is_empty());
    }

    #[test]
    fn nobody_waits_longer_than_a_minute() {
        let (mut rates, now) = (messages(1), Instant::now());
        for _ in 0..1_000 {
            assert!(rates.pass_at(true, 1, now) <= now + WAIT_MAX);
        }
        assert!(rates.is_full(now + WAIT_MAX + BURST));
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
