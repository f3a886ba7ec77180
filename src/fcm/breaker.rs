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
    /// Nothing while it is closed.
    halt: Option<Halt>,
    /// Counts the states, so that an answer to a message of an earlier one is known as such.
    era: u64,
    witnesses: Witnesses,
}

#[derive(Debug, Clone, Copy)]
struct Halt {
    cause: Cause,
    /// Whether a probe is on its way: then its answer is waited for until the moment below.
    probing: bool,
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
        match self.halt {
            Some(Halt { cause, until, .. }) if until > now => {
                return Admission::Wait { cause, wait: until.duration_since(now) };
            }
            // Of a probe that is not answered nobody knows what became: the next message is one.
            Some(halt) => self.enter(Some(Halt { probing: true, until: now + PROBE_PATIENCE, ..halt })),
            None => {}
        }
        Admission::Go(Ticket(self.era))
    }

    /// Takes notice of the last verdict on a message for `recipient` (a number that is always the same for it). Not of
    /// one after which it is sent again at once ([`Then::Refresh`], [`Then::Elsewhere`]): it keeps its ticket.
    pub fn answered(&mut self, ticket: Ticket, verdict: &Verdict, recipient: i64, now: Instant) -> Reaction {
        let current = ticket.0 == self.era;
        let refused = if let Verdict::Refused(refused) = verdict { Some(refused) } else { None };
        if let Some(Then::Hold(cause)) = refused.map(|refused| refused.then) {
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
        if let Some(halt) = self.halt.filter(|halt| halt.probing && current) {
            // What FCM itself refuses came past its front. A dead token is refused under any key, so only a message that
            // was taken clears ours of suspicion.
            let answered = refused.is_none_or(|refused| matches!(refused.then, Then::Never | Then::NeverTellOperator));
            let cleared = refused.is_none() || (answered && halt.cause != Cause::SenderMismatch);
            self.enter((!cleared).then(|| Halt { probing: false, until: now + halt.wait, ..halt }));
        }
        Reaction::AsJudged
    }

    /// Something was mended that may be the cause: the next message finds out, and the waits begin anew. A probe that is
    /// on its way went too early to count.
    pub fn hurry(&mut self, now: Instant) {
        if let Some(Halt { cause, .. }) = self.halt {
            self.enter(Some(Halt { cause, probing: false, until: now, wait: PROBE_FIRST }));
        }
    }

    /// Why nothing goes, if that is so.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.halt.map(|halt| halt.cause)
    }

    /// A mismatch speaks of the token; unless too many do, or did when this message went out as a probe.
    fn mismatched(&mut self, current: bool, now: Instant) -> Reaction {
        let probing = current && self.halt.is_some_and(|halt| halt.probing);
        match self.cause() {
            Some(Cause::SenderMismatch) if probing => self.open(Cause::SenderMismatch, now),
            Some(Cause::SenderMismatch) => {}
            // It came past the front: whatever was wrong there is mended.
            Some(_) if probing => {
                self.enter(None);
                return Reaction::AsJudged;
            }
            None if self.witnesses.suspect_us() => self.open(Cause::SenderMismatch, now),
            Some(_) | None => return Reaction::AsJudged,
        }
        Reaction::Hold(Cause::SenderMismatch)
    }

    fn open(&mut self, cause: Cause, now: Instant) {
        let wait = match self.halt {
            None => PROBE_FIRST,
            Some(Halt { probing: true, wait, .. }) => wait.saturating_mul(2).min(PROBE_MAX),
            Some(halt) => halt.wait,
        };
        self.enter(Some(Halt { cause, probing: false, until: now + wait, wait }));
    }

    fn enter(&mut self, halt: Option<Halt>) {
        if halt.is_none() {
            // What was seen under the old key says nothing about the new one.
            self.witnesses = Witnesses::default();
        }
        self.halt = halt;
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
