//! What follows from a refusal: one vocabulary for every push service.
//!
//! A service's pure folder makes a [`Refusal`] out of the fact on the wire, and it travels unchanged to
//! [`super::delivery::Life::step`], which is where it becomes a new due time or a final status. Only the clock and the
//! chance come from outside ([`RetryClock`]). Nothing is inferred from the length of a wait.

use std::time::Duration;

/// A message that its push service did not take, as far as anybody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What follows for the message and its token.
    pub decision: Decision,
    /// Whether the device may have got it all the same.
    pub arrival: Arrival,
    /// The word for the application: the service's own where there is one, else the bridge's.
    pub code: String,
    /// A text for humans, without a token; cut to [`super::status::DETAIL_MAX`] when told.
    pub detail: String,
}

/// Whether a message that was not taken, as far as anybody knows, may be on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Certainly not.
    No,
    /// Possibly: the answer was lost, or is known to be wrong at times.
    Maybe,
}

/// What follows from a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is sent again.
    Retry {
        /// Not sooner than this.
        wait: Wait,
        /// For how long it is worth it.
        until: Until,
        /// Who has to wait.
        scope: Scope,
    },
    /// It is given up.
    Fail {
        /// What becomes of the token.
        token: TokenFate,
        /// Who can mend it.
        fault: Fault,
    },
}

/// How long a refused message waits at least; jitter is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// So long, because the service asked for it; from the second refusal on as long as all waits before, if that is longer.
    AtLeast(Duration),
    /// So long the first time, and each time as long again as all waits before; the bridge cuts it to the longest wait
    /// that is configured.
    Backoff(Duration),
}

/// When a message is not tried again any more, although it was only refused for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// At the end of its time to live.
    Deadline,
    /// When all its waits together would be longer than this. A first wait that the service asked for is kept, however
    /// long it is.
    Waited(Duration),
    /// When it was refused so often in words that nobody knows.
    Tries(u32),
}

/// Who has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The message; as always those of its recipient behind it. Many such refusals in a row are the service's fault.
    Message,
    /// Its recipient, for whom there were too many.
    Recipient,
    /// Everybody: the service takes nothing. The message goes back untried.
    Service,
}

/// What becomes of the token of a message that is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFate {
    /// It stays.
    Keep,
    /// It is dead, and to be forgotten.
    Remove,
    /// It is not to be used before the device has registered again, nor to be forgotten: the fault may be ours.
    Quarantine,
}

/// Who can mend what a message was given up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The application that sent it.
    Sender,
    /// Nobody: the device is not there any more.
    Device,
    /// An operator: others like it will fail as well.
    Operator,
}

/// The refusals of a message so far, which limit how long it is tried again. They are on disk with the message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryHistory {
    /// How long it was put off after refusals, all together, in milliseconds; without what was left to chance.
    pub waited_ms: u64,
    /// How often it was refused in words that nobody knows.
    pub unknown: u32,
}

/// What a retry takes from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryClock {
    /// Unix milliseconds.
    pub now_ms: u64,
    /// When the message is not worth sending any more, in Unix milliseconds: then it is looked at once more, to be found
    /// expired.
    pub deadline_ms: u64,
    /// Longest wait that the service did not ask for.
    pub longest: Duration,
    /// Drawn evenly from 0 to 1000: how much of the jitter is added.
    pub permille: u16,
}

impl RetryClock {
    /// When a wait is over, in Unix milliseconds.
    pub fn after(self, wait: Duration) -> u64 {
        self.now_ms.saturating_add(millis(wait)).min(self.deadline_ms)
    }
}

/// So much of a wait that the service asked for is added by chance, at most: nobody comes sooner, nor all at once.
const ASKED_JITTER: f64 = 0.2;
/// The same of a wait that the bridge chose.
const OWN_JITTER: f64 = 0.5;

impl Decision {
    /// The sender's fault: the message is given up, and the token stays.
    pub const FAIL: Self = Self::Fail { token: TokenFate::Keep, fault: Fault::Sender };
    /// The same where an operator has to act.
    pub const FAIL_FOR_OPERATOR: Self = Self::Fail { token: TokenFate::Keep, fault: Fault::Operator };
    /// The token is dead.
    pub const REMOVE_TOKEN: Self = Self::Fail { token: TokenFate::Remove, fault: Fault::Device };
    /// The token is not to be used before the device has registered again, and an operator has to look.
    pub const QUARANTINE_TOKEN: Self = Self::Fail { token: TokenFate::Quarantine, fault: Fault::Operator };
}

impl Refusal {
    /// What follows is `decision`, and the device certainly has not got it.
    pub fn new(decision: Decision, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { decision, arrival: Arrival::No, code: code.into(), detail: detail.into() }
    }

    /// The same, where the device may have got it.
    pub fn maybe_arrived(self) -> Self {
        Self { arrival: Arrival::Maybe, ..self }
    }
}

impl RetryHistory {
    /// Notes one more refusal. Returns when the message is due again, in Unix milliseconds, and the history by then;
    /// `None` when it is not worth another try.
    #[must_use]
    pub fn next_try(self, wait: Wait, until: Until, clock: RetryClock) -> Option<(u64, Self)> {
        let unknown = self.unknown.saturating_add(u32::from(matches!(until, Until::Tries(_))));
        let (asked, own) = match wait {
            Wait::AtLeast(asked) => (asked, self.waited()),
            Wait::Backoff(first) => (Duration::ZERO, first.saturating_add(self.waited())),
        };
        let own = own.min(clock.longest);
        let (pause, jitter) = if asked >= own { (asked, ASKED_JITTER) } else { (own, OWN_JITTER) };
        let kept = matches!(wait, Wait::AtLeast(_)) && self.waited_ms == 0;
        let spent = match until {
            Until::Deadline => false,
            Until::Waited(limit) => !kept && self.waited().saturating_add(pause) > limit,
            Until::Tries(tries) => unknown >= tries,
        };
        if spent {
            return None;
        }
        let waited_ms = self.waited_ms.saturating_add(millis(pause));
        let chance = f64::from(clock.permille.min(1000)) / 1000.0;
        let due_ms = clock.after(pause.saturating_add(pause.mul_f64(jitter * chance)));
        Some((due_ms, Self { waited_ms, unknown }))
    }

    /// How long it was put off after refusals.
    fn waited(self) -> Duration {
        Duration::from_millis(self.waited_ms)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: RetryClock =
        RetryClock { now_ms: 1_000_000, deadline_ms: u64::MAX, longest: Duration::from_secs(3_600), permille: 0 };
    const HOUR: Duration = Duration::from_secs(3_600);

    fn waits(wait: Wait, until: Until, clock: RetryClock) -> Vec<u64> {
        let mut history = RetryHistory::default();
        let next = || {
            let (due_ms, next) = history.next_try(wait, until, clock)?;
            history = next;
            Some((due_ms - clock.now_ms) / 1_000)
        };
        std::iter::from_fn(next).take(12).collect()
    }

    #[test]
    fn a_backoff_doubles_up_to_the_longest_wait() {
        let clock = RetryClock { longest: Duration::from_secs(60), ..CLOCK };
        let seconds = waits(Wait::Backoff(Duration::from_secs(1)), Until::Deadline, clock);
        assert_eq!(seconds[..9], [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_message_is_given_up_when_its_waits_are_more_than_it_is_worth() {
        let first = Wait::Backoff(Duration::from_secs(10));
        assert_eq!(waits(first, Until::Waited(HOUR), CLOCK), [10, 20, 40, 80, 160, 320, 640, 1280]);
        assert_eq!(waits(Wait::AtLeast(Duration::from_secs(1_500)), Until::Waited(HOUR), CLOCK), [1_500, 1_500]);
        // The first that the service asks for is kept.
        assert_eq!(waits(Wait::AtLeast(2 * HOUR), Until::Waited(HOUR), CLOCK), [7_200]);
        assert_eq!(waits(first, Until::Tries(3), CLOCK), [10, 20]);
    }

    #[test]
    fn a_service_that_asks_for_little_is_not_asked_again_all_the_time() {
        let second = Wait::AtLeast(Duration::from_secs(1));
        let seconds = waits(second, Until::Waited(HOUR), CLOCK);
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024]);
        let clock = RetryClock { longest: Duration::from_secs(60), ..CLOCK };
        assert_eq!(waits(second, Until::Deadline, clock)[5..], [16, 32, 60, 60, 60, 60, 60]);
        assert_eq!(waits(Wait::AtLeast(Duration::from_secs(90)), Until::Deadline, clock)[..3], [90, 90, 90]);
    }

    #[test]
    fn a_message_is_worth_as_much_time_with_short_waits_as_with_long_ones() {
        let (first, mut history) = (Wait::Backoff(Duration::from_secs(10)), RetryHistory::default());
        let clock = RetryClock { longest: Duration::from_secs(60), ..CLOCK };
        while let Some((_, next)) = history.next_try(first, Until::Waited(HOUR), clock) {
            history = next;
        }
        assert_eq!(history.waited().as_secs(), 10 + 20 + 40 + 58 * 60);
    }

    #[test]
    fn jitter_only_ever_adds_and_the_deadline_cuts() {
        let due = |wait, permille, deadline_ms| {
            let clock = RetryClock { permille, deadline_ms, ..CLOCK };
            RetryHistory::default().next_try(wait, Until::Deadline, clock).unwrap().0 - clock.now_ms
        };
        let minute = Duration::from_secs(60);
        assert_eq!(due(Wait::AtLeast(minute), 0, u64::MAX), 60_000);
        assert_eq!(due(Wait::AtLeast(minute), 1_000, u64::MAX), 72_000);
        assert_eq!(due(Wait::Backoff(minute), 1_000, u64::MAX), 90_000);
        assert_eq!(due(Wait::AtLeast(minute), 500, 1_030_000), 30_000);
    }
}
