//! FCM's health: whether a message may go now, and whether a refusal speaks of its message or of everybody.
//!
//! ```text
//!            a fault of the project, or of FCM          the wait is over: one message goes
//!   ┌──────┐ ─────────────────────────────▶ ┌────────┐ ──────────────────────────────▶ ┌─────────┐
//!   │ Well │                                │ Halted │                                 │ Probing │
//!   └──────┘                                └────────┘ ◀────────────────────────────── └────┬────┘
//!       ▲                                               refused: the wait doubles           │
//!       └───────────────────────────────────────────────────────────────────────────────────┘ answered by FCM itself
//! ```
//!
//! A message that meets a fault of the project goes back untried ([`Scope::Service`]), and so does what comes while FCM
//! says that the project's quota is used up. What keeps that from costing more than it must:
//!
//! * `evidence` tells the faults of single messages, recipients and access tokens from those of everybody. A message that
//!   is at fault itself waits by itself; where our own key is, no token pays for it.
//! * Whether others pass a probe finds out, for which a message that was not refused itself is preferred.

mod evidence;

use super::judge::QUOTA_WAIT;
use super::verdict::{Access, Cause, Replay, Verdict, code};
use crate::chat::refusal::{Arrival, Decision, Refusal, Scope, TokenFate, Until, Wait};
use evidence::Evidence;
use std::time::{Duration, Instant};

/// First wait before one message is tried again.
pub const PROBE_FIRST: Duration = Duration::from_secs(10);
/// Longest wait before one message is tried again, where an operator has to act.
pub const PROBE_MAX: Duration = Duration::from_secs(600);
/// The same, where FCM puts everybody off.
pub const UNAVAILABLE_MAX: Duration = Duration::from_secs(60);
/// A probe that is not answered within this is given up.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a probe waits for a message that was not refused itself.
pub const STRANGER_WAIT: Duration = Duration::from_secs(1);
/// Longest pause of a project that FCM did not ask for in so many words.
pub const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// The word for operators when the project's quota is used up.
pub const QUOTA: &str = "quota_exceeded";

/// The health of FCM and of the project.
#[derive(Debug, Default)]
pub struct Health {
    state: State,
    /// Counts the states, so that an answer to a message of an earlier one is known as such.
    era: u64,
    evidence: Evidence,
    paused_until: Option<Instant>,
    /// Pauses in a row.
    pauses: u32,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Well,
    /// Nothing goes until the end of the wait.
    Halted(Halt),
    /// The answer to this message is waited for until the end of the patience.
    Probing(Halt, i64),
}

#[derive(Debug, Clone, Copy)]
struct Halt {
    cause: Cause,
    until: Instant,
    /// How long it was, or is, halted.
    wait: Duration,
}

/// Whether a message may go.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may. The ticket comes back with what becomes of it.
    Go(Ticket),
    /// Not before this; sooner if something else becomes of a probe, or of the credentials.
    NotBefore(Instant),
    /// Not with this access token, only with a newer one.
    NewToken,
}

/// Says of whom a message was, and under which state it went.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    message: i64,
    recipient: i64,
    generation: u64,
    access: Access,
    era: u64,
    /// How many messages had passed.
    passed: u64,
}

/// How it stands, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Messages go.
    Well,
    /// None goes, for a reason with this word.
    Down(&'static str),
    /// One is wanted, to find out whether others may go.
    Probing(&'static str),
}

impl Ticket {
    /// How fresh the access token was.
    pub const fn access(&self) -> Access {
        self.access
    }
}

impl Health {
    /// Asks to send a message with the access token of this generation. Both numbers are always the same for a message and
    /// its recipient; those of later messages are higher. Where nothing is known against it, it changes nothing.
    pub fn admit(&mut self, (message, recipient): (i64, i64), generation: u64, now: Instant) -> Admission {
        if let Some(until) = self.paused_until.filter(|until| *until > now) {
            return Admission::NotBefore(until);
        }
        let Evidence { suspects, tokens, .. } = &self.evidence;
        let suspect = suspects.get(&message);
        let refused = suspect.map_or(0, |suspect| suspect.token);
        let access = tokens.access(generation, refused);
        if generation <= tokens.spent.max(refused) {
            return Admission::NewToken;
        }
        match self.state {
            State::Well => {}
            // It was not processed, and goes again at once.
            State::Probing(halt, probe) if probe == message && halt.until > now => {}
            State::Halted(Halt { until, .. }) | State::Probing(Halt { until, .. }, _) if until > now => {
                return Admission::NotBefore(until);
            }
            State::Halted(Halt { until, .. }) if suspect.is_some() && until + STRANGER_WAIT > now => {
                return Admission::NotBefore(until + STRANGER_WAIT);
            }
            // Of a probe that is not answered nobody knows what became: the next message is one.
            State::Halted(halt) | State::Probing(halt, _) => {
                self.enter(State::Probing(Halt { until: now + PROBE_PATIENCE, ..halt }, message));
            }
        }
        let (era, passed) = (self.era, self.evidence.passed);
        Admission::Go(Ticket { message, recipient, generation, access, era, passed })
    }

    /// Takes notice of what became of a message. Returns what follows for the message itself, which is no
    /// [`Verdict::Fault`]; with [`Scope::Service`] it goes back untried.
    pub fn outcome(&mut self, ticket: &Ticket, verdict: Verdict, now: Instant) -> Verdict {
        if verdict.shows_all_well() {
            self.evidence.pass(ticket.message, ticket.generation);
        }
        match verdict {
            Verdict::Sent { .. } => {
                self.pauses = 0;
                self.evidence.witness(ticket.recipient, false);
                if self.is_probe(ticket) {
                    self.enter(State::Well);
                }
                verdict
            }
            Verdict::Replay(Replay::NewToken, refusal) => {
                if self.evidence.token_refused(ticket.message, ticket.passed, ticket.generation) {
                    self.probe_in_vain(ticket, now);
                    return Verdict::Refused(refusal);
                }
                Verdict::Replay(Replay::NewToken, refusal)
            }
            Verdict::Replay(Replay::Elsewhere, _) => verdict,
            Verdict::Fault(cause, refusal) => Verdict::Refused(self.fault(ticket, cause, refusal, now)),
            Verdict::Refused(refusal) => Verdict::Refused(self.refused(ticket, refusal, now)),
        }
    }

    /// Something was mended that may be the cause: the next message finds out, and the waits begin anew. A probe that is on
    /// its way went too early to count.
    pub fn credentials_changed(&mut self, now: Instant) {
        if let Some(halt) = self.halted() {
            self.enter(State::Halted(Halt { until: now, wait: PROBE_FIRST, ..halt }));
        }
    }

    /// Why nothing goes, if that is so, but for the quota.
    pub fn cause(&self) -> Option<Cause> {
        self.halted().map(|halt| halt.cause)
    }

    /// How it stands.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.halted() {
            _ if self.paused_until.is_some_and(|until| until > now) => Standing::Down(QUOTA),
            None => Standing::Well,
            // Also where nothing came of a probe: the next message is one.
            Some(halt) if halt.until <= now => Standing::Probing(halt.cause.as_str()),
            Some(halt) => Standing::Down(halt.cause.as_str()),
        }
    }

    /// When [`Health::standing`] changes by itself, if it does.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        let until = self.halted().map(|halt| halt.until);
        [self.paused_until, until].into_iter().flatten().filter(|until| *until > now).min()
    }

    /// The newest access token that was refused, by its generation: another one is needed. 0 is none.
    pub const fn refused_token(&self) -> u64 {
        self.evidence.tokens.refused
    }

    /// This access token and those before it are not used any more.
    pub const fn spent_token(&self) -> u64 {
        self.evidence.tokens.spent
    }

    /// Whether the last word on the access token of this generation was a refusal: where no other is to be had, nobody
    /// knows whether anything goes.
    pub const fn doubts_token(&self, generation: u64) -> bool {
        self.evidence.tokens.refused >= generation && self.evidence.tokens.refusals > 0
    }

    fn halted(&self) -> Option<Halt> {
        match self.state {
            State::Well => None,
            State::Halted(halt) | State::Probing(halt, _) => Some(halt),
        }
    }

    fn refused(&mut self, ticket: &Ticket, refusal: Refusal, now: Instant) -> Refusal {
        match refusal.decision {
            Decision::Fail { token: TokenFate::Quarantine, .. } => return self.mismatched(ticket, refusal, now),
            Decision::Fail { .. } if refusal.arrival == Arrival::No => {
                // What FCM itself refuses came past its front. A dead token is refused under any key, so only a message that
                // was taken clears ours of suspicion.
                if self.is_probe(ticket) && self.cause() != Some(Cause::SenderMismatch) {
                    self.enter(State::Well);
                    return refusal;
                }
            }
            Decision::Retry { wait, scope: Scope::Service, .. } => self.pause(wait, now),
            // A connection that breaks leaves many without an answer, which says nothing of FCM.
            Decision::Retry { wait, .. } if refusal.code != code::AMBIGUOUS => {
                let are_many = self.evidence.put_off(ticket.recipient);
                if self.cause().map_or(are_many, |cause| cause == Cause::Unavailable) {
                    self.halt(ticket, Cause::Unavailable, now);
                    if let (State::Halted(halt), Wait::AtLeast(wait)) = (&mut self.state, wait) {
                        halt.until = halt.until.max(now + wait);
                    }
                    return refusal;
                }
            }
            Decision::Retry { .. } | Decision::Fail { .. } => {}
        }
        self.probe_in_vain(ticket, now);
        refusal
    }

    /// A mismatch speaks of the token; unless too many do, or did when this message went out as a probe.
    fn mismatched(&mut self, ticket: &Ticket, refusal: Refusal, now: Instant) -> Refusal {
        self.evidence.witness(ticket.recipient, true);
        match self.cause() {
            Some(Cause::SenderMismatch) => self.halt(ticket, Cause::SenderMismatch, now),
            // It came past the front: whatever was wrong there is mended.
            Some(_) if self.is_probe(ticket) => {
                self.enter(State::Well);
                return refusal;
            }
            None if self.evidence.is_against_our_key() => self.halt(ticket, Cause::SenderMismatch, now),
            Some(_) | None => return refusal,
        }
        back(Cause::SenderMismatch, Refusal { decision: UNTRIED, ..refusal })
    }

    fn fault(&mut self, ticket: &Ticket, cause: Cause, refusal: Refusal, now: Instant) -> Refusal {
        if self.evidence.fault(ticket.message, ticket.passed) {
            self.probe_in_vain(ticket, now);
            return refusal;
        }
        if cause == Cause::Unauthenticated {
            self.evidence.tokens.spend(ticket.generation);
        }
        self.halt(ticket, cause, now);
        back(cause, refusal)
    }

    /// FCM said that the project's quota is used up. It gets the time that it asks for; from the second pause in a row on as long
    /// as without that, if that is longer.
    fn pause(&mut self, wait: Wait, now: Instant) {
        // What was on its way when the pause began says nothing new, but for the time that FCM asks for.
        let is_new = self.paused_until.is_none_or(|until| until <= now);
        let doubled = |first: Duration, times: u32| first.saturating_mul(1 << times.min(16)).min(PAUSE_MAX);
        let wait = match wait {
            Wait::AtLeast(asked) if is_new && self.pauses > 0 => asked.max(doubled(QUOTA_WAIT, self.pauses - 1)),
            Wait::AtLeast(asked) => asked,
            Wait::Backoff(_) if !is_new => return,
            Wait::Backoff(first) => doubled(first, self.pauses),
        };
        self.pauses += u32::from(is_new);
        self.paused_until = self.paused_until.max(now.checked_add(wait));
    }

    /// What this message met stops everybody; if it went under an earlier state, it says nothing new.
    fn halt(&mut self, ticket: &Ticket, cause: Cause, now: Instant) {
        if ticket.era != self.era {
            return;
        }
        let longest = if cause == Cause::Unavailable { UNAVAILABLE_MAX } else { PROBE_MAX };
        let wait = match self.state {
            State::Well => PROBE_FIRST,
            State::Probing(halt, _) => halt.wait.saturating_mul(2).min(longest),
            State::Halted(halt) => halt.wait,
        };
        self.enter(State::Halted(Halt { cause, until: now + wait, wait }));
    }

    /// A probe that found nothing out is followed by another, after the same wait.
    fn probe_in_vain(&mut self, ticket: &Ticket, now: Instant) {
        if let (true, State::Probing(halt, _)) = (self.is_probe(ticket), self.state) {
            self.enter(State::Halted(Halt { until: now + halt.wait, ..halt }));
        }
    }

    fn is_probe(&self, ticket: &Ticket) -> bool {
        ticket.era == self.era && matches!(self.state, State::Probing(..))
    }

    fn enter(&mut self, state: State) {
        if matches!(state, State::Well) {
            self.evidence.forget_recipients();
        }
        self.state = state;
        self.era += 1;
    }
}

/// It goes back, and goes again as soon as anything does.
const UNTRIED: Decision =
    Decision::Retry { wait: Wait::AtLeast(Duration::ZERO), until: Until::Deadline, scope: Scope::Service };

/// A message that meets a fault of everybody. One that may have arrived, and is not to be sent twice, fails all the same.
fn back(cause: Cause, refusal: Refusal) -> Refusal {
    match refusal.decision {
        Decision::Fail { .. } => refusal,
        Decision::Retry { .. } => Refusal { decision: UNTRIED, code: cause.as_str().to_owned(), ..refusal },
    }
}

#[cfg(test)]
mod tests;
