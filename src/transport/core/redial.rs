//! When the next connection may be begun: one back-off for the whole account.
//!
//! ```text
//!             failed, refused, ejected, or the second short life in a row
//!   no back-off ─────────────────────────────────────────────────────────► back-off: one attempt at a time
//!        ▲                                                                     │
//!        └────────── a connection comes up, one is drained, or new credentials ┘
//! ```
//!
//! Without a back-off a burst may be begun at once, and further connections [`SPACING`] apart.
//!
//! A drain is ordinary life: the push service moves its connections every few minutes, and the next one is wanted at
//! once. It is no failure, and the failures before it are over; but a connection that is drained as soon as it is up has a
//! short life like one that is cut then. A connection that answered a message has none, however it ends.

use crate::transport::backoff::Backoff;
use std::time::{Duration, Instant};

/// First ceiling after a failure before the log-in.
const FAILURE_FIRST: Duration = Duration::from_secs(1);
/// First and last wait after refused credentials: trying faster helps nobody and looks like an attack.
const REFUSED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// So much of that wait is added by chance, at most.
const REFUSED_JITTER: f64 = 0.1;
/// A connection that took messages for less than this, and answered none, has a short life. The first is replaced at once; from the second in a
/// row on each counts as a failure, or a server that ends every session would be dialled without a pause.
pub(super) const SHORT_LIFE: Duration = Duration::from_secs(10);
/// How long the push service may count a connection that has ended, where it allows no further one.
const COUNTED_AFTER_END: Duration = Duration::from_secs(30);
/// Wait between two attempts during [`COUNTED_AFTER_END`].
const LIMIT_WAIT: Duration = Duration::from_secs(1);
/// Between two connections that are begun without a back-off, once a burst of them was: with those fewer than FCM's quota of
/// 400 in a minute.
pub(super) const SPACING: Duration = Duration::from_millis(160);
/// So many connections of an elastic pool may be begun without a pause: they are opened one after the other, as what waits
/// needs them. Those of a fixed pool are kept apart, since they may all be missing at once.
pub(super) const ELASTIC_BURST: u32 = 16;

#[derive(Debug)]
pub(super) struct Redial {
    failures: Backoff,
    refusals: Backoff,
    short_lives: u32,
    /// So many may be begun without a pause.
    burst: u32,
    /// When a whole burst may be begun again.
    burst_refilled_at: Option<Instant>,
    /// Nothing is begun before this, because something failed; and then one at a time.
    backoff: Option<Instant>,
    refused: bool,
    /// When a connection ended that took nothing new.
    ended: Option<Instant>,
}

/// Why a connection that was to stay is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Refused,
    /// It never took messages.
    Unconnected,
    /// It never took messages, because one that has just ended is counted still.
    ConnectionLimit,
    /// It took messages for less than [`SHORT_LIFE`] and answered none.
    ShortLife,
    /// It took messages for longer, or answered one.
    Lost,
    /// The peer ended it because of an error of ours.
    Ejected,
}

impl Redial {
    pub(super) fn new(longest: Duration, burst: u32) -> Self {
        Self {
            failures: Backoff::new(FAILURE_FIRST, longest),
            refusals: Backoff::new(REFUSED.0, REFUSED.1),
            short_lives: 0,
            burst,
            burst_refilled_at: None,
            backoff: None,
            refused: false,
            ended: None,
        }
    }

    /// When the next connection may be begun, if not now.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        let spaced = self.burst_refilled_at.and_then(|at| at.checked_sub(SPACING * (self.burst - 1)));
        spaced.max(self.backoff).filter(|until| *until > now)
    }

    /// Whether attempts go one at a time.
    pub(super) fn is_failing(&self) -> bool {
        self.backoff.is_some()
    }

    /// When the next connection may be begun after a failure; it may be over.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.backoff
    }

    /// Whether the last word on the credentials was a refusal.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }

    pub(super) fn begun(&mut self, now: Instant) {
        self.burst_refilled_at = Some(self.burst_refilled_at.map_or(now, |at| at.max(now)) + SPACING);
    }

    pub(super) fn up(&mut self) {
        self.backoff = None;
        self.refused = false;
        self.refusals.reset();
    }

    /// A connection takes no more messages, for a reason that is nobody's fault.
    pub(super) fn drained(&mut self) {
        self.backoff = None;
        self.reset_failures();
    }

    /// A connection took messages as long as it was to: what failed before it is over.
    pub(super) fn reset_failures(&mut self) {
        self.failures.reset();
        self.short_lives = 0;
    }

    /// A connection ended that took nothing new.
    pub(super) fn ended(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// Whether the push service may still count a connection that ended.
    pub(super) fn may_count_ended(&self, now: Instant) -> bool {
        self.ended.is_some_and(|ended| now < ended + COUNTED_AFTER_END)
    }

    /// Other credentials are there: what failed with those of before says nothing.
    pub(super) fn renewed(&mut self) {
        self.backoff = None;
        self.failures.reset();
        self.refusals.reset();
    }

    /// A connection ended that was to stay. `random` is drawn evenly from 0 to 1.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant, random: f64) {
        self.refused |= failure == Failure::Refused;
        // Those that ended together say the same thing once.
        if self.backoff.is_some_and(|until| until > now) {
            return;
        }
        let wait = match failure {
            Failure::Refused => self.refusals.next(1.0).mul_f64(1.0 + REFUSED_JITTER * random),
            Failure::Unconnected | Failure::Ejected => self.failures.next(random),
            Failure::ConnectionLimit => LIMIT_WAIT,
            Failure::Lost => return self.reset_failures(),
            Failure::ShortLife => {
                self.short_lives += 1;
                if self.short_lives <= 1 {
                    self.failures.reset();
                    return;
                }
                self.failures.next(random)
            }
        };
        self.backoff = Some(now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);

    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    fn start() -> (Redial, Instant) {
        (Redial::new(LONGEST, 1), Instant::now())
    }

    /// The waits, in seconds, when each attempt ends so as soon as it may be made.
    fn waits(failures: impl IntoIterator<Item = Failure>) -> Vec<u64> {
        let (mut redial, mut now) = start();
        let wait = |failure| {
            redial.failed(failure, now, 1.0);
            let wait = redial.wait(now).map_or(Duration::ZERO, |until| until - now);
            now += wait;
            wait.as_secs()
        };
        failures.into_iter().map(wait).collect()
    }

    #[test]
    fn before_the_login_the_ceiling_doubles_and_refusals_are_slow() {
        assert_eq!(waits([Failure::Unconnected; 8]), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits([Failure::Refused; 7]), [33, 66, 132, 264, 528, 660, 660]);
    }

    #[test]
    fn a_connection_that_served_is_replaced_at_once_unless_they_keep_dying() {
        use Failure::{Lost, ShortLife};
        assert_eq!(waits([Lost, ShortLife, ShortLife, ShortLife, Lost, ShortLife]), [0, 0, 1, 2, 0, 0]);
    }

    #[test]
    fn what_ends_together_counts_once_and_attempts_go_one_at_a_time_until_one_succeeds() {
        let (mut redial, now) = start();
        for _ in 0..30 {
            redial.failed(Failure::Refused, now, 0.0);
        }
        assert!(redial.is_failing() && redial.is_refused());
        assert_eq!(redial.wait(now), Some(now + Duration::from_secs(30)));
        redial.up();
        assert!(!redial.is_failing() && !redial.is_refused());
        assert_eq!(redial.wait(now), None);
    }

    #[test]
    fn a_drain_is_no_failure_however_often_it_comes() {
        let (mut redial, mut now) = start();
        redial.failed(Failure::Unconnected, now, 1.0);
        for seconds in [4, 8, 4, 2, 5] {
            now += Duration::from_secs(seconds);
            redial.up();
            redial.drained();
            assert_eq!(redial.wait(now), None);
            redial.begun(now);
        }
        assert_eq!(redial.wait(now), Some(now + SPACING), "what is begun at once is kept apart");
        redial.drained();
        assert_eq!(redial.wait(now), Some(now + SPACING));
        now += Duration::from_secs(1);
        redial.failed(Failure::Unconnected, now, 1.0);
        assert_eq!(redial.wait(now), Some(now + FAILURE_FIRST), "the failures before it are over");
    }

    #[test]
    fn an_elastic_pool_is_filled_without_a_pause_and_what_is_begun_after_that_is_kept_apart() {
        let (_, start) = start();
        let mut redial = Redial::new(LONGEST, ELASTIC_BURST);
        let (mut now, mut begun) = (start, Vec::new());
        while now < start + Duration::from_secs(60) {
            match redial.wait(now) {
                Some(until) => now = until,
                None => {
                    redial.begun(now);
                    redial.drained();
                    begun.push(now - start);
                }
            }
        }
        assert_eq!(begun[15..18], [Duration::ZERO, SPACING, SPACING * 2]);
        assert!((380..400).contains(&begun.len()), "{}", begun.len());
    }

    #[test]
    fn other_credentials_are_tried_at_once() {
        let (mut redial, now) = start();
        redial.failed(Failure::Refused, now, 1.0);
        redial.renewed();
        assert_eq!(redial.wait(now), None);
        assert!(redial.is_refused(), "nobody knows yet whether they are good");
    }
}
