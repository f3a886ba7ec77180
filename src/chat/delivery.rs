//! The life of one delivery: what may happen to it, what follows, and what its sender is told.
//!
//! Pure: a [`Life`] and an [`Event`] go in, a [`Step`] comes out. The store keeps the life in a row and writes the step
//! and the status document in one transaction, so the rules below hold for what is on disk as well:
//! the status never goes down, and exactly one of delivered, failed, expired and cancelled is told (or `sent`, when the
//! sender wished no receipt).

use super::id::Token;
use super::refusal::{Arrival, Decision, Refusal, RetryClock, RetryHistory, Scope};
use super::status::Status;
use serde::Serialize;
use std::borrow::Cow;
use std::time::Duration;

/// Where a delivery stands.
///
/// ```text
///              Waiting ── turn ──┐          (another one of the same `order` key is not settled)
///                                ▼
///   accepted for sending ─────► Due ◄──────────────────┐
///                                │ claimed             │ retry, lost, crashed
///                                ▼                     │
///                             InFlight ────────────────┤
///                                │ accepted            │
///                                ▼                     │ refused
///         (no receipt wished)   Sent                   └────────► Failed
///                                │ receipt
///                                ▼
///                             Delivered
///
///   Due, Waiting, InFlight, Sent ── expired ──► Expired        Due, Waiting ── cancelled ──► Cancelled
/// ```
///
/// A receipt proves that the push service has the message, so it also ends `InFlight`, and `Due` after an answer that
/// was lost. The numbers are written to disk and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// To be sent, now or at its due time.
    Due = 0,
    /// Behind another delivery of the same order key.
    Waiting = 1,
    /// Handed to a transport; no answer yet.
    InFlight = 2,
    /// The push service took it.
    Sent = 3,
    /// The device got it.
    Delivered = 4,
    /// It was refused for good.
    Failed = 5,
    /// Its time to live ended.
    Expired = 6,
    /// Its sender took it back.
    Cancelled = 7,
}

impl State {
    /// All states, in the order of their codes.
    pub const ALL: [Self; 8] = [
        Self::Due,
        Self::Waiting,
        Self::InFlight,
        Self::Sent,
        Self::Delivered,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The number on disk.
    pub fn code(self) -> i64 {
        self as i64
    }

    /// The state with this number on disk.
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }
}

/// What happens to a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is handed to a transport.
    Claimed,
    /// Its transport gives it back.
    Back {
        /// What became of it there.
        fate: Fate,
        /// How often it was written to a connection and may have been taken.
        copies: u32,
        /// Writes to a connection after the first, whatever became of the earlier ones.
        replays: u32,
        /// What a further try takes from outside.
        clock: RetryClock,
    },
    /// The device got it, says the push service, or the app itself ([`super::transport::Transport::witness`]).
    Receipt {
        /// When the push service handed it to the device, in Unix milliseconds, if it says so.
        handed_over_ms: Option<u64>,
    },
    /// The delivery of the same order key before it is settled.
    Turn,
    /// Its time to live ended while no transport had it.
    Expired,
    /// Its sender took it back.
    Cancelled,
    /// It was found in flight at the start: nobody knows what became of it.
    Crashed,
}

impl Event {
    /// The device got it, nobody says when.
    pub const RECEIPT: Self = Self::Receipt { handed_over_ms: None };
}

/// What became of a message that a transport was handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The push service took it.
    Accepted {
        /// The device's new token, if the push service named one (canonical id).
        canonical: Option<Token>,
        /// The push service's own name for it, if it gave one.
        provider_id: Option<String>,
        /// What of the message did not travel, or whom it did not reach, for its sender.
        detail: Option<String>,
        /// Whether anybody can say that a device has it. Otherwise this is the last word.
        can_confirm: bool,
    },
    /// The push service did not take it, as far as anybody knows.
    Refused(Refusal),
    /// The bridge itself refuses it: it did not go to the push service, and that was no attempt.
    Unsendable {
        /// The bridge's word.
        code: String,
        /// A text for humans; cut to [`super::status::DETAIL_MAX`] when told.
        detail: String,
    },
    /// Its time to live ended before the push service took it.
    Expired,
    /// It was not tried, and is held for so long. The recipient's later ones wait as well.
    Deferred {
        /// How long.
        wait: Duration,
        /// Why, for operators.
        why: Cow<'static, str>,
    },
    /// The transport ended, or nothing goes for long. Without a copy it certainly did not get out: that was no attempt.
    Lost,
}

impl Fate {
    /// The push service took it, and nothing is to be said of it.
    pub const ACCEPTED: Self = Self::Accepted { canonical: None, provider_id: None, detail: None, can_confirm: true };
}

/// The code of a delivery whose time to live ended.
pub const EXPIRED: &str = "EXPIRED";
/// The code of a delivery of which nobody knows what became.
pub const AMBIGUOUS: &str = "AMBIGUOUS";

/// When a delivery that has become [`State::Due`] again is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// In the order of acceptance, among what was never put off.
    InTurn,
    /// Before all others: it was on its way once.
    First,
    /// Not before this time, in Unix milliseconds.
    At(u64),
}

/// The facts that decide what an event means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Where it stands.
    pub state: State,
    /// How often it was handed to a transport.
    pub attempt: u32,
    /// Whether the device may get it twice.
    pub dup_possible: bool,
    /// Whether the sender wishes to hear of the delivery to the device.
    pub receipt: bool,
    /// What was tried so far.
    pub retry_history: RetryHistory,
}

/// What follows from an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The life from now on.
    pub life: Life,
    /// What to tell the sender, in this order.
    pub tell: &'static [Status],
    /// When to send it; `Some` exactly when it is [`State::Due`] from now on.
    pub due: Option<Due>,
}

impl Life {
    /// A new delivery; `state` is [`State::Due`] or [`State::Waiting`].
    pub fn new(state: State, receipt: bool) -> Self {
        Self { state, attempt: 0, dup_possible: false, receipt, retry_history: RetryHistory::default() }
    }

    /// Whether the final word is spoken. `sent` is final when no receipt was wished.
    pub fn settled(self) -> bool {
        match self.state {
            State::Due | State::Waiting | State::InFlight => false,
            State::Sent => !self.receipt,
            State::Delivered | State::Failed | State::Expired | State::Cancelled => true,
        }
    }

    /// Whether the message may still have to be sent.
    pub fn unsent(self) -> bool {
        matches!(self.state, State::Due | State::Waiting | State::InFlight)
    }

    /// The highest status that was told.
    pub fn status(self) -> Status {
        match self.state {
            State::Due | State::Waiting | State::InFlight => Status::Accepted,
            State::Sent => Status::Sent,
            State::Delivered => Status::Delivered,
            State::Failed => Status::Failed,
            State::Expired => Status::Expired,
            State::Cancelled => Status::Cancelled,
        }
    }

    /// Why it expires now, for its sender; `copies` as in [`Event::Back`].
    pub const fn expiry(self, copies: u32) -> &'static str {
        match self.state {
            State::Sent => "no word of its delivery came before the time to live, and ten minutes more, ended",
            State::Waiting => "the time to live ended while it waited for the message before it (`order`)",
            _ if copies > 0 => "the time to live ended before the push service answered",
            _ if self.dup_possible => {
                "the time to live ended before the push service took it; it may have arrived all the same"
            }
            _ if self.attempt > 0 => "the time to live ended before the push service took it",
            _ => "the time to live ended before it could be sent",
        }
    }

    /// What follows from `event`; `None` when it means nothing any more (or not yet) and is swallowed.
    #[must_use]
    pub fn step(self, event: &Event) -> Option<Step> {
        match (event, self.state) {
            (Event::Claimed, State::Due) => {
                let life = Self { attempt: self.attempt.saturating_add(1), ..self };
                Some(life.moved(State::InFlight, &[]))
            }
            (Event::Back { fate, copies, replays, clock }, State::InFlight) => {
                let life = Self { attempt: self.attempt.saturating_add(*replays), ..self };
                Some(life.back(fate, *copies, *clock))
            }
            (Event::Back { fate: Fate::Expired, copies, replays, .. }, _) if !self.settled() => {
                Some(Self { attempt: self.attempt.saturating_add(*replays), ..self }.expired(*copies))
            }
            (Event::Back { fate: Fate::Accepted { can_confirm, .. }, .. }, State::Due) if self.attempt > 0 => {
                Some(self.confirmable(*can_confirm).moved(State::Sent, &[Status::Sent]))
            }
            (Event::Receipt { .. }, State::InFlight) => Some(self.received()),
            (Event::Receipt { .. }, State::Due) if self.attempt > 0 => Some(self.received()),
            (Event::Receipt { .. }, State::Sent) if self.receipt => {
                Some(self.moved(State::Delivered, &[Status::Delivered]))
            }
            (Event::Crashed, State::InFlight) => Some(self.doubted(true).due(Due::First)),
            (Event::Turn, State::Waiting) => Some(self.due(Due::InTurn)),
            (Event::Expired, _) if !self.settled() => Some(self.expired(0)),
            (Event::Cancelled, State::Due | State::Waiting) => Some(self.moved(State::Cancelled, &[Status::Cancelled])),
            _ => None,
        }
    }

    fn back(self, fate: &Fate, copies: u32, clock: RetryClock) -> Step {
        match fate {
            Fate::Accepted { can_confirm, .. } => {
                self.confirmable(*can_confirm).doubted(copies > 1).moved(State::Sent, &[Status::Sent])
            }
            Fate::Refused(refusal) => self.refused(refusal, copies, clock),
            Fate::Unsendable { .. } => self.untried().moved(State::Failed, &[Status::Failed]),
            Fate::Expired => self.expired(copies),
            Fate::Deferred { wait, .. } => self.untried().due(Due::At(clock.after(*wait))),
            Fate::Lost if copies == 0 => self.untried().due(Due::First),
            Fate::Lost => self.doubted(true).due(Due::First),
        }
    }

    fn expired(self, copies: u32) -> Step {
        self.doubted(copies > 0).moved(State::Expired, &[Status::Expired])
    }

    /// A message that goes back because the service takes nothing was not tried.
    fn refused(self, refusal: &Refusal, copies: u32, clock: RetryClock) -> Step {
        let life = self.doubted(copies > 1 || refusal.arrival == Arrival::Maybe);
        let again = match refusal.decision {
            Decision::Retry { scope: Scope::Service, .. } => return life.untried().due(Due::First),
            Decision::Retry { wait, until, .. } => life.retry_history.next_try(wait, until, clock),
            Decision::Fail { .. } => None,
        };
        match again {
            Some((due_ms, retry_history)) => Self { retry_history, ..life }.due(Due::At(due_ms)),
            None => life.moved(State::Failed, &[Status::Failed]),
        }
    }

    /// The receipt overtook the acknowledgement; both facts are told, in their order.
    fn received(self) -> Step {
        if self.receipt {
            self.moved(State::Delivered, &[Status::Sent, Status::Delivered])
        } else {
            self.moved(State::Sent, &[Status::Sent])
        }
    }

    /// Where nobody can say that the device has it, nobody is to wait for that.
    fn confirmable(self, can_confirm: bool) -> Self {
        Self { receipt: self.receipt && can_confirm, ..self }
    }

    /// That was no attempt.
    fn untried(self) -> Self {
        Self { attempt: self.attempt.saturating_sub(1), ..self }
    }

    fn doubted(self, doubt: bool) -> Self {
        Self { dup_possible: self.dup_possible || doubt, ..self }
    }

    fn due(self, due: Due) -> Step {
        Step { due: Some(due), ..self.moved(State::Due, &[]) }
    }

    fn moved(self, state: State, tell: &'static [Status]) -> Step {
        Step { life: Self { state, ..self }, tell, due: None }
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusal::{Until, Wait};
    use super::*;
    use proptest::prelude::*;

    fn back(fate: Fate, copies: u32, replays: u32) -> Event {
        let clock = RetryClock { now_ms: 1_000, deadline_ms: 100_000, longest: Duration::from_secs(60), permille: 0 };
        Event::Back { fate, copies, replays, clock }
    }

    fn accepted(copies: u32) -> Event {
        back(Fate::ACCEPTED, copies, 0)
    }

    fn lost(copies: u32) -> Event {
        back(Fate::Lost, copies, 0)
    }

    fn refusal(refusal: Refusal) -> Event {
        back(Fate::Refused(refusal), 1, 0)
    }

    fn refused() -> Event {
        refusal(Refusal::new(Decision::REMOVE_TOKEN, "DEVICE_UNREGISTERED", "gone"))
    }

    fn busy(scope: Scope) -> Refusal {
        let wait = Wait::Backoff(Duration::from_secs(4));
        Refusal::new(Decision::Retry { wait, until: Until::Deadline, scope }, "SERVICE_UNAVAILABLE", "")
    }

    fn unsendable() -> Event {
        back(Fate::Unsendable { code: "RESERVED_KEY".into(), detail: "no".into() }, 0, 0)
    }

    fn retry() -> Event {
        refusal(busy(Scope::Message))
    }

    /// Runs the events over a new life; returns where it ends and all that was told.
    fn run(receipt: bool, events: &[Event]) -> (Life, Vec<Status>) {
        let mut life = Life::new(State::Due, receipt);
        let mut told = Vec::new();
        for step in events {
            if let Some(step) = life.step(step) {
                life = step.life;
                told.extend_from_slice(step.tell);
            }
        }
        (life, told)
    }

    #[test]
    fn what_expires_after_a_copy_left_is_marked() {
        for (copies, marked) in [(0, false), (1, true)] {
            let (life, told) = run(true, &[Event::Claimed, back(Fate::Expired, copies, 0)]);
            assert_eq!((life.state, life.dup_possible, told), (State::Expired, marked, vec![Status::Expired]));
        }
    }

    #[test]
    fn what_the_bridge_refuses_itself_was_no_attempt() {
        let (life, told) = run(true, &[Event::Claimed, unsendable()]);
        assert_eq!((life.state, life.attempt, told), (State::Failed, 0, vec![Status::Failed]));
        let (life, _) = run(true, &[Event::Claimed, retry(), Event::Claimed, unsendable()]);
        assert_eq!((life.state, life.attempt), (State::Failed, 1), "it was tried before");
    }

    #[test]
    fn an_answer_that_left_a_doubt_is_not_called_none_when_the_time_is_over() {
        let doubtful = refusal(busy(Scope::Message).maybe_arrived());
        let (life, _) = run(true, &[Event::Claimed, doubtful]);
        let end = "before the push service took it; it may have arrived all the same";
        assert!(life.expiry(0).ends_with(end), "{}", life.expiry(0));
        assert!(life.expiry(1).ends_with("before the push service answered"));
    }

    #[test]
    fn the_usual_way_is_sent_then_delivered() {
        let (life, told) = run(true, &[Event::Claimed, accepted(1), Event::RECEIPT]);
        assert_eq!(told, [Status::Sent, Status::Delivered]);
        assert!(life.settled() && !life.dup_possible);
        assert_eq!(life.attempt, 1);
    }

    #[test]
    fn without_a_receipt_wish_sent_is_the_end() {
        let (life, told) = run(false, &[Event::Claimed, accepted(1), Event::RECEIPT, Event::Expired]);
        assert_eq!(told, [Status::Sent]);
        assert!(life.settled());
    }

    #[test]
    fn a_receipt_before_the_ack_tells_both_and_the_ack_is_swallowed() {
        let (life, told) = run(true, &[Event::Claimed, Event::RECEIPT, accepted(1)]);
        assert_eq!(told, [Status::Sent, Status::Delivered]);
        assert_eq!(life.state, State::Delivered);
    }

    #[test]
    fn a_receipt_after_a_lost_answer_ends_the_retrying() {
        let (life, told) = run(true, &[Event::Claimed, lost(1), Event::RECEIPT]);
        assert_eq!(told, [Status::Sent, Status::Delivered]);
        assert!(life.dup_possible);
    }

    #[test]
    fn a_receipt_for_something_never_sent_means_nothing() {
        let (life, told) = run(true, &[Event::RECEIPT, accepted(1)]);
        assert_eq!((life.state, told), (State::Due, vec![]));
    }

    #[test]
    fn retries_count_and_tell_nothing() {
        let events = [Event::Claimed, retry(), Event::Claimed, retry(), Event::Claimed, accepted(1)];
        let (life, told) = run(true, &events);
        assert_eq!((life.attempt, told), (3, vec![Status::Sent]));
        assert!(!life.dup_possible);
    }

    #[test]
    fn doubt_comes_from_what_may_have_got_out() {
        assert!(!run(true, &[Event::Claimed, lost(0)]).0.dup_possible);
        assert!(run(true, &[Event::Claimed, lost(1)]).0.dup_possible);
        assert!(run(true, &[Event::Claimed, Event::Crashed]).0.dup_possible);
        assert!(run(true, &[Event::Claimed, accepted(2)]).0.dup_possible);
    }

    #[test]
    fn what_was_sent_again_at_once_was_tried_more_than_once() {
        let (life, told) = run(true, &[Event::Claimed, back(Fate::ACCEPTED, 1, 2)]);
        assert_eq!((life.attempt, life.dup_possible, told), (3, false, vec![Status::Sent]));
        assert_eq!(run(true, &[Event::Claimed, back(Fate::Expired, 1, 2)]).0.attempt, 3);
        assert_eq!(run(true, &[back(Fate::ACCEPTED, 1, 1)]).0.attempt, 0);
    }

    #[test]
    fn why_a_message_expires_depends_on_how_far_it_came() {
        let after = |events: &[Event], copies| run(true, events).0.expiry(copies);
        assert!(after(&[], 0).contains("could be sent"));
        assert!(Life::new(State::Waiting, true).expiry(0).contains("`order`"));
        assert!(after(&[Event::Claimed, retry()], 0).contains("took it"));
        assert!(after(&[Event::Claimed], 1).contains("answered"));
        assert!(after(&[Event::Claimed, lost(1)], 0).ends_with("arrived all the same"));
        assert!(after(&[Event::Claimed, accepted(1)], 0).contains("no word of its delivery"));
    }

    #[test]
    fn where_nobody_can_confirm_it_sent_is_the_last_word() {
        let unconfirmable = Fate::Accepted { canonical: None, provider_id: None, detail: None, can_confirm: false };
        let (life, told) = run(true, &[Event::Claimed, back(unconfirmable, 1, 0), Event::RECEIPT, Event::Expired]);
        assert_eq!((life.state, life.settled(), told), (State::Sent, true, vec![Status::Sent]));
    }

    #[test]
    fn a_deferred_message_was_not_tried() {
        let deferred = |seconds| back(Fate::Deferred { wait: Duration::from_secs(seconds), why: "quota".into() }, 0, 0);
        let (life, told) = run(true, &[Event::Claimed, deferred(4)]);
        assert_eq!((life.state, life.attempt, life.dup_possible, told), (State::Due, 0, false, vec![]));
        let claimed = Life { state: State::InFlight, attempt: 1, ..life };
        let due = |seconds| claimed.step(&deferred(seconds)).and_then(|step| step.due);
        assert_eq!(due(4), Some(Due::At(5_000)));
        assert_eq!(due(100), Some(Due::At(100_000)), "at its deadline it is looked at once more");
    }

    #[test]
    fn a_refusal_that_may_be_wrong_leaves_a_doubt() {
        let retry = refusal(busy(Scope::Message).maybe_arrived());
        let (life, told) = run(true, &[Event::Claimed, retry, Event::Claimed, accepted(1)]);
        assert!(life.dup_possible && told == [Status::Sent]);
        let lost = refusal(Refusal::new(Decision::FAIL, AMBIGUOUS, "").maybe_arrived());
        assert!(run(true, &[Event::Claimed, lost]).0.dup_possible);
    }

    #[test]
    fn a_refusal_of_the_whole_service_was_no_attempt_and_a_spent_one_is_the_end() {
        let (life, told) = run(true, &[Event::Claimed, refusal(busy(Scope::Service))]);
        assert_eq!(
            (life.state, life.attempt, life.retry_history, told),
            (State::Due, 0, RetryHistory::default(), vec![])
        );
        let unknown = || {
            refusal(Refusal {
                decision: Decision::Retry {
                    wait: Wait::Backoff(Duration::from_secs(1)),
                    until: Until::Tries(2),
                    scope: Scope::Message,
                },
                ..busy(Scope::Message)
            })
        };
        let (life, told) = run(true, &[Event::Claimed, unknown(), Event::Claimed, unknown()]);
        assert_eq!((life.state, life.attempt, told), (State::Failed, 2, vec![Status::Failed]));
    }

    #[test]
    fn codes_on_disk_are_read_back() {
        for state in State::ALL {
            assert_eq!(State::from_code(state.code()), Some(state));
        }
        assert_eq!(State::from_code(8), None);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Claimed),
            (1u32..3, 0u32..3).prop_map(|(copies, replays)| back(Fate::ACCEPTED, copies, replays)),
            Just(Event::RECEIPT),
            Just(retry()),
            Just(refusal(busy(Scope::Service))),
            Just(refused()),
            (0u32..2).prop_map(lost),
            Just(back(Fate::Deferred { wait: Duration::from_secs(7), why: "quota".into() }, 0, 0)),
            Just(back(Fate::Accepted { canonical: None, provider_id: None, detail: None, can_confirm: false }, 1, 0)),
            (0u32..2, 0u32..2).prop_map(|(copies, replays)| back(Fate::Expired, copies, replays)),
            Just(Event::Turn),
            Just(Event::Expired),
            Just(unsendable()),
            Just(Event::Cancelled),
            Just(Event::Crashed),
        ]
    }

    proptest! {
        #[test]
        fn statuses_rise_and_the_final_word_is_spoken_once(
            receipt: bool,
            events in prop::collection::vec(any_event(), 0..40),
        ) {
            let mut life = Life::new(State::Waiting, receipt);
            let mut told = vec![Status::Accepted];
            for event in &events {
                let Some(step) = life.step(event) else { continue };
                prop_assert!(!life.settled(), "{life:?} went on by {event:?}");
                prop_assert_eq!(step.due.is_some(), step.life.state == State::Due);
                prop_assert!(step.life.dup_possible || !life.dup_possible);
                life = step.life;
                told.extend_from_slice(step.tell);
                prop_assert_eq!(life.status(), *told.last().unwrap());
            }
            prop_assert!(told.windows(2).all(|pair| pair[0].rank() < pair[1].rank()), "{told:?}");
        }
    }
}
