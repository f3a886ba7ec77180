//! Stops everything when nothing can get through until an operator has acted, and finds out when he has.
//!
//! ```text
//!             fault of the credentials             the wait is over
//!   ┌────────┐ ────────────────────▶ ┌────────────┐ ──────────────▶ ┌─────────┐
//!   │ Closed │                       │ Open       │                 │ Probing │
//!   └────────┘                       │ cause,until│ ◀────────────── └────┬────┘
//!        ▲                           └────────────┘  refused: the wait   │
//!        │                                           doubles             │
//!        └───────────────────────────────────────────────────────────────┘ answered by FCM itself
//! ```
//!
//! One fault opens it by itself only when it shows in a share of the answers: `SENDER_ID_MISMATCH`. One such answer
//! speaks of a token; many at once, from different tokens, speak of our own key, and then no token is to pay for it.

use super::verdict::{Cause, Then, TokenAction, Verdict};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// First wait before one message is tried again.
pub const PROBE_FIRST: Duration = Duration::from_secs(10);
/// Longest wait before one message is tried again.
pub const PROBE_MAX: Duration = Duration::from_secs(600);
/// A probe that is not answered within this is given up.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(60);
/// The last answers of so many different recipients are looked at for mismatches.
pub const WITNESSES_MAX: usize = 64;
/// Fewer mismatches than this prove nothing.
pub const MISMATCHES_MIN: usize = 8;

/// The breaker.
#[derive(Debug, Default)]
pub struct Breaker {
    state: State,
    /// Counts the states, so that an answer to a message of an earlier one is known as such.
    era: u64,
    witnesses: Witnesses,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Closed,
    Open(Halt),
    /// Until then the answer to the probe is waited for.
    Probing(Halt),
}

#[derive(Debug, Clone, Copy)]
struct Halt {
    cause: Cause,
    until: Instant,
    /// How long it was, or is, open.
    wait: Duration,
}

/// Whether a message may go.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may. The ticket comes back with its answer.
    Go(Ticket),
    /// Not before this is over, unless the answer to a probe comes sooner.
    Wait {
        /// Why.
        cause: Cause,
        /// How long.
        wait: Duration,
    },
}

/// Says under which state a message went.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// What to do with the message that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// What the verdict says.
    AsJudged,
    /// Keep it, whatever the verdict says, and its token as well: the fault is on our side.
    Hold(Cause),
}

impl Breaker {
    /// Asks to send one message.
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed => Admission::Go(Ticket(self.era)),
            // Of a probe that is not answered nobody knows what became: the next message is one.
            State::Open(halt) | State::Probing(halt) if halt.until <= now => {
                self.enter(State::Probing(Halt { until: now + PROBE_PATIENCE, ..halt }));
                Admission::Go(Ticket(self.era))
            }
            State::Open(Halt { cause, until, .. }) | State::Probing(Halt { cause, until, .. }) => {
                Admission::Wait { cause, wait: until.duration_since(now) }
            }
        }
    }

    /// Takes notice of the last verdict on a message for `recipient` (a number that is always the same for it). Not of
    /// one after which it is sent again at once ([`Then::Refresh`], [`Then::Elsewhere`]): it keeps its ticket.
    pub fn answered(&mut self, ticket: Ticket, verdict: &Verdict, recipient: i64, now: Instant) -> Reaction {
        let current = ticket.0 == self.era;
        let refused = if let Verdict::Refused(refused) = verdict { Some(refused) } else { None };
        let fault = refused.and_then(|refused| if let Then::Hold(cause) = refused.then { Some(cause) } else { None });
        if let Some(cause) = fault {
            if current {
                self.open(cause, now);
            }
            return Reaction::Hold(cause);
        }
        // A dead or malformed token says nothing of our key; only one that is taken, or belongs to another, testifies.
        let mismatch = refused.is_some_and(|refused| refused.token == TokenAction::Quarantine);
        if mismatch || refused.is_none() {
            self.witnesses.note(recipient, mismatch);
        }
        if mismatch {
            return self.mismatched(current, now);
        }
        if let State::Probing(halt) = self.state
            && current
        {
            // What FCM itself refuses came past its front. A dead token is refused under any key, so only a message that
            // was taken clears ours of suspicion.
            let answered = refused.is_none_or(|refused| matches!(refused.then, Then::Never | Then::NeverTellOperator));
            let cleared = refused.is_none() || (answered && halt.cause != Cause::SenderMismatch);
            let open = State::Open(Halt { until: now + halt.wait, ..halt });
            self.enter(if cleared { State::Closed } else { open });
        }
        Reaction::AsJudged
    }

    /// Something was mended that may be the cause: the next message finds out, and the waits begin anew. A probe that is
    /// on its way went too early to count.
    pub fn hurry(&mut self, now: Instant) {
        if let State::Open(halt) | State::Probing(halt) = self.state {
            self.enter(State::Open(Halt { until: now, wait: PROBE_FIRST, ..halt }));
        }
    }

    /// Why nothing goes, if that is so.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        match self.state {
            State::Closed => None,
            State::Open(halt) | State::Probing(halt) => Some(halt.cause),
        }
    }

    /// A mismatch speaks of the token; unless too many do, or did when this message went out as a probe.
    fn mismatched(&mut self, current: bool, now: Instant) -> Reaction {
        let probing = current && matches!(self.state, State::Probing(_));
        match self.cause() {
            Some(Cause::SenderMismatch) if probing => self.open(Cause::SenderMismatch, now),
            Some(Cause::SenderMismatch) => {}
            // It came past the front: whatever was wrong there is mended.
            Some(_) if probing => {
                self.enter(State::Closed);
                return Reaction::AsJudged;
            }
            None if self.witnesses.suspect_us() => self.open(Cause::SenderMismatch, now),
            Some(_) | None => return Reaction::AsJudged,
        }
        Reaction::Hold(Cause::SenderMismatch)
    }

    fn open(&mut self, cause: Cause, now: Instant) {
        let wait = match self.state {
            State::Closed => PROBE_FIRST,
            State::Open(halt) => halt.wait,
            State::Probing(halt) => halt.wait.saturating_mul(2).min(PROBE_MAX),
        };
        self.enter(State::Open(Halt { cause, until: now + wait, wait }));
    }

    fn enter(&mut self, state: State) {
        if matches!(state, State::Closed) {
            // What was seen under the old key says nothing about the new one.
            self.witnesses = Witnesses::default();
        }
        self.state = state;
        self.era += 1;
    }
}

/// The last answer of each of the last recipients: one recipient that is tried again and again is still one.
#[derive(Debug, Default)]
struct Witnesses(VecDeque<(i64, bool)>);

impl Witnesses {
    fn note(&mut self, recipient: i64, mismatch: bool) {
        if let Some(known) = self.0.iter().position(|(one, _)| *one == recipient) {
            self.0.remove(known);
        } else if self.0.len() == WITNESSES_MAX {
            self.0.pop_front();
        }
        self.0.push_back((recipient, mismatch));
    }

    /// Whether at least half of them, and enough, speak against our key.
    fn suspect_us(&self) -> bool {
        let against = self.0.iter().filter(|(_, mismatch)| *mismatch).count();
        against >= MISMATCHES_MIN && against * 2 >= self.0.len()
    }
}

#[cfg(test)]
mod tests;
