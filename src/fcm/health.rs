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
//! says that the project's quota is used up. Three things keep that from costing more than it must:
//!
//! * A fault that shows with one message while others pass is the message's, which waits by itself; from then on its
//!   faults say nothing of the project. Whether others pass a probe finds out, for which a message that was not refused
//!   itself is preferred.
//! * One `SENDER_ID_MISMATCH` speaks of a token; many at once, from different recipients, speak of our own key, and then
//!   no token is to pay for it. One recipient who is put off speaks of himself; many in a row, while nobody passes, speak
//!   of FCM.
//! * An access token that is refused once is used on while another is fetched: the message may be at fault. It is spent
//!   when it was refused several times in a row, or when its successor is refused as well.

use super::verdict::{Access, Cause, Replay, Verdict, code};
use crate::chat::refusal::{Arrival, Decision, Refusal, Scope, TokenFate, Until, Wait};
use std::collections::{BTreeMap, HashSet, VecDeque};
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
/// The last answers of so many different recipients are looked at for mismatches.
pub const WITNESSES_MAX: usize = 64;
/// Fewer mismatches than this prove nothing.
pub const MISMATCHES_MIN: usize = 8;
/// So many recipients in a row that are put off are FCM's fault.
pub const PUT_OFF_MIN: usize = 20;
/// Faults of the project in a row that are not those of single messages, whatever passed before.
pub const FAULTS_MIN: u32 = 3;
/// So many refusals of an access token in a row are the token's fault.
pub const TOKEN_REFUSALS_MIN: u32 = 3;
/// Most messages that were refused for a fault of the project and are remembered; beyond it the oldest are forgotten, and
/// may be a probe like any other.
pub const SUSPECTS_MAX: usize = 1024;
/// The word for operators when the project's quota is used up.
pub const QUOTA: &str = "quota_exceeded";

/// The health of FCM and of the project.
#[derive(Debug, Default)]
pub struct Health {
    state: State,
    /// Counts the states, so that an answer to a message of an earlier one is known as such.
    era: u64,
    /// Answers so far that only a project gets that is in order.
    passed: u64,
    /// Faults of the project since the last of them.
    faults: u32,
    /// Recipients that were put off since the last of them; at most [`PUT_OFF_MIN`].
    put_off: HashSet<i64>,
    witnesses: Witnesses,
    suspects: BTreeMap<i64, Suspect>,
    tokens: Tokens,
    paused_until: Option<Instant>,
    /// Pauses in a row that FCM set no time for.
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

/// A message that was refused for a fault of the project.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    /// [`Health::passed`] when it was refused.
    passed: u64,
    /// The access token that was refused with it, by its generation; 0 is none.
    token: u64,
    /// Others passed: the fault is its own.
    alone: bool,
}

/// What is known of access tokens, by their generations: each is higher than those before it, and 0 is none.
#[derive(Debug, Default)]
struct Tokens {
    /// The newest with which a message passed.
    proven: u64,
    /// The newest that was refused.
    refused: u64,
    /// How often in a row it was.
    refusals: u32,
    /// This one and those before it are not used any more.
    spent: u64,
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
    passed: u64,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// FCM took it.
    Sent {
        /// Its name for it.
        name: Option<String>,
    },
    /// It goes again at once. The refusal counts where it may not.
    Replay(Replay, Refusal),
    /// It was refused; with [`Scope::Service`] it goes back untried.
    Refused(Refusal),
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
        let suspect = self.suspects.get(&message).copied();
        let refused = suspect.map_or(0, |suspect| suspect.token);
        if generation <= self.tokens.spent.max(refused) {
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
        let is_fresh = refused > 0 || (generation > self.tokens.refused && self.tokens.refused > self.tokens.proven);
        let access = if is_fresh { Access::Refreshed } else { Access::Cached };
        Admission::Go(Ticket { message, recipient, generation, access, era: self.era, passed: self.passed })
    }

    /// Takes notice of what became of a message.
    pub fn outcome(&mut self, ticket: &Ticket, verdict: Verdict, now: Instant) -> Ruling {
        if verdict.shows_all_well() {
            self.passed += 1;
            self.faults = 0;
            self.put_off.clear();
            self.suspects.remove(&ticket.message);
            self.tokens.pass(ticket.generation);
        }
        match verdict {
            Verdict::Sent { name } => {
                self.pauses = 0;
                self.witnesses.note(ticket.recipient, false);
                if self.is_probe(ticket) {
                    self.enter(State::Well);
                }
                Ruling::Sent { name }
            }
            Verdict::Replay(Replay::NewToken, refusal) => self.token_refused(ticket, refusal, now),
            Verdict::Replay(how, refusal) => Ruling::Replay(how, refusal),
            Verdict::Fault(cause, refusal) => self.fault(ticket, cause, refusal, now),
            Verdict::Refused(refusal) => Ruling::Refused(self.refused(ticket, refusal, now)),
        }
    }

    /// Something was mended that may be the cause: the next message finds out, and the waits begin anew. A probe that is on
    /// its way went too early to count.
    pub fn credentials_changed(&mut self, now: Instant) {
        if let State::Halted(halt) | State::Probing(halt, _) = self.state {
            self.enter(State::Halted(Halt { until: now, wait: PROBE_FIRST, ..halt }));
        }
    }

    /// Why nothing goes, if that is so, but for the quota.
    pub fn cause(&self) -> Option<Cause> {
        match self.state {
            State::Well => None,
            State::Halted(halt) | State::Probing(halt, _) => Some(halt.cause),
        }
    }

    /// How it stands.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.state {
            _ if self.paused_until.is_some_and(|until| until > now) => Standing::Down(QUOTA),
            State::Well => Standing::Well,
            // Also where nothing came of a probe: the next message is one.
            State::Halted(halt) | State::Probing(halt, _) if halt.until <= now => {
                Standing::Probing(halt.cause.as_str())
            }
            State::Halted(halt) | State::Probing(halt, _) => Standing::Down(halt.cause.as_str()),
        }
    }

    /// When [`Health::standing`] changes by itself, if it does.
    pub fn wake(&self, now: Instant) -> Option<Instant> {
        let halted = match self.state {
            State::Well => None,
            State::Halted(halt) | State::Probing(halt, _) => Some(halt.until),
        };
        [self.paused_until, halted].into_iter().flatten().filter(|until| *until > now).min()
    }

    /// The newest access token that was refused, by its generation: another one is needed. 0 is none.
    pub const fn refused_token(&self) -> u64 {
        self.tokens.refused
    }

    /// This access token and those before it are not used any more.
    pub const fn spent_token(&self) -> u64 {
        self.tokens.spent
    }

    /// Whether the last word on the access token of this generation was a refusal: where no other is to be had, nobody
    /// knows whether anything goes.
    pub const fn doubts_token(&self, generation: u64) -> bool {
        self.tokens.refused >= generation && self.tokens.refusals > 0
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
                if self.put_off.len() < PUT_OFF_MIN {
                    self.put_off.insert(ticket.recipient);
                }
                let is_of_fcm = self.cause().map_or(self.put_off.len() >= PUT_OFF_MIN, |it| it == Cause::Unavailable);
                if is_of_fcm {
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
        self.witnesses.note(ticket.recipient, true);
        match self.cause() {
            Some(Cause::SenderMismatch) => self.halt(ticket, Cause::SenderMismatch, now),
            // It came past the front: whatever was wrong there is mended.
            Some(_) if self.is_probe(ticket) => {
                self.enter(State::Well);
                return refusal;
            }
            None if self.witnesses.suspect_us() => self.halt(ticket, Cause::SenderMismatch, now),
            Some(_) | None => return refusal,
        }
        back(Cause::SenderMismatch, Refusal { decision: UNTRIED, ..refusal })
    }

    fn fault(&mut self, ticket: &Ticket, cause: Cause, refusal: Refusal, now: Instant) -> Ruling {
        self.faults = self.faults.saturating_add(1);
        if self.is_alone(ticket) {
            return self.by_itself(ticket, refusal, now);
        }
        self.suspect(ticket, Suspect { passed: self.passed, token: 0, alone: false });
        if cause == Cause::Unauthenticated {
            self.tokens.refuse(ticket.generation);
            self.tokens.spent = self.tokens.spent.max(ticket.generation);
        }
        self.halt(ticket, cause, now);
        Ruling::Refused(back(cause, refusal))
    }

    fn token_refused(&mut self, ticket: &Ticket, refusal: Refusal, now: Instant) -> Ruling {
        if self.suspects.contains_key(&ticket.message) && self.is_alone(ticket) {
            return self.by_itself(ticket, refusal, now);
        }
        self.tokens.refuse(ticket.generation);
        self.suspect(ticket, Suspect { passed: self.passed, token: ticket.generation, alone: false });
        Ruling::Replay(Replay::NewToken, refusal)
    }

    /// Whether a fault that a message meets is its own: others passed since it was refused before, or while it was on its
    /// way.
    fn is_alone(&self, ticket: &Ticket) -> bool {
        let (alone, passed) = match self.suspects.get(&ticket.message) {
            Some(suspect) => (suspect.alone, suspect.passed),
            None => (false, ticket.passed),
        };
        alone || (self.passed > passed && self.faults < FAULTS_MIN)
    }

    fn by_itself(&mut self, ticket: &Ticket, refusal: Refusal, now: Instant) -> Ruling {
        self.suspect(ticket, Suspect { passed: self.passed, token: 0, alone: true });
        self.probe_in_vain(ticket, now);
        Ruling::Refused(refusal)
    }

    fn suspect(&mut self, ticket: &Ticket, suspect: Suspect) {
        self.suspects.insert(ticket.message, suspect);
        if self.suspects.len() > SUSPECTS_MAX {
            self.suspects.pop_first();
        }
    }

    /// FCM said that the project's quota is used up.
    fn pause(&mut self, wait: Wait, now: Instant) {
        let wait = match wait {
            Wait::AtLeast(wait) => wait,
            // What was on its way when the pause began says nothing new.
            Wait::Backoff(_) if self.paused_until.is_some_and(|until| until > now) => return,
            Wait::Backoff(first) => {
                self.pauses += 1;
                first.saturating_mul(1 << (self.pauses - 1).min(16)).min(PAUSE_MAX)
            }
        };
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
            // What was seen under the old key says nothing about the new one.
            self.witnesses = Witnesses::default();
            self.put_off.clear();
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

impl Tokens {
    fn pass(&mut self, generation: u64) {
        self.proven = self.proven.max(generation);
        if generation == self.refused {
            self.refusals = 0;
        }
    }

    fn refuse(&mut self, generation: u64) {
        if generation > self.refused {
            (self.refused, self.refusals) = (generation, 0);
        }
        self.refusals += u32::from(generation == self.refused);
        if self.refusals >= TOKEN_REFUSALS_MIN {
            self.spent = self.spent.max(self.refused);
        }
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
