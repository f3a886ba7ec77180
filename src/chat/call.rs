//! A call between two users: what its signals do, and how it ends. Media go their own way; the bridge sees signals alone.

use super::suffix::calls::SignalKind;
use serde::{Deserialize, Serialize};

/// An answered call without an `end` ends by itself after this time, in milliseconds: both clients are gone by then.
pub const ANSWERED_MS: u64 = 12 * 3_600 * 1_000;
/// A call that has ended is known for this long, in milliseconds: its word means no other call, and what is late is told so.
pub const KEPT_MS: u64 = 24 * 3_600 * 1_000;

/// On which side of a call somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// Who rings.
    Caller,
    /// Who is rung.
    Callee,
}

/// Where a call stands. Its JSON is its form on disk. All times are Unix milliseconds.
///
/// ```text
///    offer              answer of the callee: the first one
///   ───────▶ ┌─────────┐ ─────────────────────────────────▶ ┌──────────┐
///            │ Offered │                                    │ Answered │
///            └─────────┘                                    └──────────┘
///                 │ reject, end of the callee: rejected           │ end of either side,
///                 │ end of the caller: cancelled                  │ or 12 hours: answered
///                 │ its time is over: missed                      ▼
///                 └────────────────────────────────────────▶ ┌───────┐
///                                                            │ Ended │
///                                                            └───────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum CallState {
    /// It rings.
    Offered {
        /// Until then.
        until: u64,
    },
    /// One device of the callee has taken it.
    Answered {
        /// When.
        at: u64,
    },
    /// It is over.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was taken.
    Answered,
    /// Nobody took it in time.
    Missed,
    /// The callee did not want it.
    Rejected,
    /// The caller gave up first.
    Cancelled,
}

impl Outcome {
    /// Its name in documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Missed => "missed",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The end of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// How it ended.
    pub outcome: Outcome,
    /// How long it was answered, in seconds.
    pub seconds: u64,
}

/// What follows from a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// The other side gets it.
    Passed,
    /// The other side gets it, and the other devices of the callee stop ringing.
    Taken,
    /// The other side gets it, and the call is over.
    Ended(Ending),
    /// It came too late to mean anything, and nobody need know: both sides may hang up at once.
    Nothing,
}

/// Why a signal is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Another device was faster.
    Taken,
    /// The call is over.
    Over,
    /// It is for the other side to say.
    NotItsTurn,
}

impl CallState {
    /// One side says something. What comes when the time of the call is over counts as after its end, which [`Self::poll`] tells.
    ///
    /// # Errors
    /// When the signal means nothing in this state and its writer has to know.
    pub fn handle_signal(&mut self, party: Party, kind: SignalKind, now: u64) -> Result<Follows, Fault> {
        use SignalKind::{Answer, End, Ice, Offer, Reject, Ringing};
        if matches!((party, kind), (Party::Caller, Ringing | Answer | Reject)) {
            return Err(Fault::NotItsTurn);
        }
        match (self.at(now), kind) {
            (_, Offer) => Err(Fault::Taken),
            (Self::Offered { .. }, Ringing | Ice) | (Self::Answered { .. }, Ice) => Ok(Follows::Passed),
            (Self::Offered { .. }, Answer) => {
                *self = Self::Answered { at: now };
                Ok(Follows::Taken)
            }
            (Self::Offered { .. }, End | Reject) => {
                let outcome = if party == Party::Caller { Outcome::Cancelled } else { Outcome::Rejected };
                Ok(Follows::Ended(self.end(outcome, 0)))
            }
            (Self::Answered { at }, End) => Ok(Follows::Ended(self.end(Outcome::Answered, now.saturating_sub(at)))),
            (Self::Answered { .. } | Self::Ended { outcome: Outcome::Answered }, Answer | Reject) => Err(Fault::Taken),
            (Self::Ended { .. }, Answer) => Err(Fault::Over),
            (Self::Answered { .. }, Ringing) | (Self::Ended { .. }, Ringing | Ice | End | Reject) => {
                Ok(Follows::Nothing)
            }
        }
    }

    /// Ends the call if its time is over.
    pub fn poll(&mut self, now: u64) -> Option<Ending> {
        match (*self, self.at(now)) {
            (Self::Ended { .. }, _) => None,
            (before, Self::Ended { outcome }) => {
                let ms = if matches!(before, Self::Answered { .. }) { ANSWERED_MS } else { 0 };
                Some(self.end(outcome, ms))
            }
            _ => None,
        }
    }

    /// When it ends by itself; `None` once it is over.
    pub fn deadline(&self) -> Option<u64> {
        match self {
            Self::Offered { until } => Some(*until),
            Self::Answered { at } => Some(at.saturating_add(ANSWERED_MS)),
            Self::Ended { .. } => None,
        }
    }

    /// Whether it rings.
    pub fn rings(&self) -> bool {
        matches!(self, Self::Offered { .. })
    }

    /// What it is at `now`, whether or not somebody has noted that its time is over.
    fn at(self, now: u64) -> Self {
        match self.deadline() {
            Some(deadline) if deadline <= now => {
                let outcome = if self.rings() { Outcome::Missed } else { Outcome::Answered };
                Self::Ended { outcome }
            }
            _ => self,
        }
    }

    fn end(&mut self, outcome: Outcome, ms: u64) -> Ending {
        *self = Self::Ended { outcome };
        Ending { outcome, seconds: ms / 1_000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Party::{Callee, Caller};
    use SignalKind::{Answer, End, Ice, Offer, Reject, Ringing};
    use proptest::prelude::*;

    const RINGS: CallState = CallState::Offered { until: 60_000 };
    const TALKS: CallState = CallState::Answered { at: 1_000 };

    fn over(outcome: Outcome) -> CallState {
        CallState::Ended { outcome }
    }

    fn ended(outcome: Outcome, seconds: u64) -> Result<Follows, Fault> {
        Ok(Follows::Ended(Ending { outcome, seconds }))
    }

    #[test]
    fn what_each_side_may_say_and_what_follows() {
        let at = 31_500;
        for (state, party, kind, follows, after) in [
            (RINGS, Callee, Ringing, Ok(Follows::Passed), RINGS),
            (RINGS, Caller, Ice, Ok(Follows::Passed), RINGS),
            (RINGS, Callee, Ice, Ok(Follows::Passed), RINGS),
            (RINGS, Callee, Answer, Ok(Follows::Taken), CallState::Answered { at }),
            (RINGS, Callee, Reject, ended(Outcome::Rejected, 0), over(Outcome::Rejected)),
            (RINGS, Callee, End, ended(Outcome::Rejected, 0), over(Outcome::Rejected)),
            (RINGS, Caller, End, ended(Outcome::Cancelled, 0), over(Outcome::Cancelled)),
            (RINGS, Caller, Answer, Err(Fault::NotItsTurn), RINGS),
            (RINGS, Caller, Ringing, Err(Fault::NotItsTurn), RINGS),
            (RINGS, Caller, Reject, Err(Fault::NotItsTurn), RINGS),
            (RINGS, Caller, Offer, Err(Fault::Taken), RINGS),
            (TALKS, Callee, Answer, Err(Fault::Taken), TALKS),
            (TALKS, Callee, Reject, Err(Fault::Taken), TALKS),
            (TALKS, Callee, Ringing, Ok(Follows::Nothing), TALKS),
            (TALKS, Callee, Ice, Ok(Follows::Passed), TALKS),
            (TALKS, Caller, End, ended(Outcome::Answered, 30), over(Outcome::Answered)),
            (TALKS, Callee, End, ended(Outcome::Answered, 30), over(Outcome::Answered)),
            (over(Outcome::Missed), Callee, Answer, Err(Fault::Over), over(Outcome::Missed)),
            (over(Outcome::Answered), Callee, Answer, Err(Fault::Taken), over(Outcome::Answered)),
            (over(Outcome::Answered), Caller, End, Ok(Follows::Nothing), over(Outcome::Answered)),
            (over(Outcome::Rejected), Callee, Reject, Ok(Follows::Nothing), over(Outcome::Rejected)),
            (over(Outcome::Missed), Callee, Ice, Ok(Follows::Nothing), over(Outcome::Missed)),
            (over(Outcome::Missed), Callee, Offer, Err(Fault::Taken), over(Outcome::Missed)),
        ] {
            let mut call = state;
            assert_eq!(call.handle_signal(party, kind, at), follows, "{state:?} {party:?} {kind:?}");
            assert_eq!(call, after, "{state:?} {party:?} {kind:?}");
        }
    }

    #[test]
    fn its_time_ends_it_whether_or_not_somebody_looked() {
        let mut call = RINGS;
        assert_eq!((call.poll(59_999), call.deadline()), (None, Some(60_000)));
        assert_eq!(call.handle_signal(Callee, Answer, 60_000), Err(Fault::Over));
        assert_eq!(call.handle_signal(Caller, End, 60_000), Ok(Follows::Nothing));
        assert_eq!(call.poll(60_000), Some(Ending { outcome: Outcome::Missed, seconds: 0 }));
        assert_eq!((call.poll(60_000), call.deadline()), (None, None));
        let mut call = TALKS;
        assert_eq!(call.poll(ANSWERED_MS), None);
        assert_eq!(call.poll(1_000 + ANSWERED_MS), Some(Ending { outcome: Outcome::Answered, seconds: 43_200 }));
    }

    #[test]
    fn it_is_on_disk_what_it_was_in_memory() {
        for call in [RINGS, TALKS, over(Outcome::Cancelled)] {
            let text = serde_json::to_string(&call).unwrap();
            assert_eq!(serde_json::from_str::<CallState>(&text).unwrap(), call, "{text}");
            if let CallState::Ended { outcome } = call {
                assert!(text.contains(outcome.name()));
            }
        }
    }

    proptest! {
        /// Whatever both sides say and whenever: it is taken once at most, it ends once, and nothing passes after that.
        #[test]
        fn a_call_is_taken_once_and_ends_once(steps in prop::collection::vec((any::<bool>(), 0..7_usize, 0..20_000_u64), 1..40)) {
            let (mut call, mut now) = (RINGS, 0);
            let (mut taken, mut endings) = (0, Vec::new());
            for (by_caller, what, passed) in steps {
                now += passed;
                let party = if by_caller { Caller } else { Callee };
                let before = call;
                let Some(kind) = [Offer, Ringing, Answer, Ice, End, Reject].get(what) else {
                    endings.extend(call.poll(now));
                    continue;
                };
                match call.handle_signal(party, *kind, now) {
                    Ok(Follows::Passed) => prop_assert!(endings.is_empty() && call == before),
                    Ok(Follows::Taken) => {
                        prop_assert!(endings.is_empty() && party == Callee);
                        taken += 1;
                    }
                    Ok(Follows::Ended(ending)) => endings.push(ending),
                    Ok(Follows::Nothing) | Err(_) => prop_assert_eq!(call, before),
                }
            }
            now += ANSWERED_MS;
            endings.extend(call.poll(now));
            let [Ending { outcome, .. }] = endings[..] else { panic!("{endings:?}") };
            prop_assert!(taken <= 1);
            prop_assert_eq!(taken == 1, outcome == Outcome::Answered);
        }
    }
}
