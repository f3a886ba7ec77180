use super::*;
use crate::fcm::verdict::Refused;
use crate::fcm::verdict::{Arrival, code};
use proptest::prelude::*;

#[expect(clippy::disallowed_methods, reason = "any moment will do as the start of the test's own time")]
fn start() -> Instant {
    Instant::now()
}

fn refused(then: Then, token: TokenAction) -> Verdict {
    Verdict::Refused(Refused { then, token, arrival: Arrival::No, code: code::INVALID_JSON, detail: String::new() })
}

fn sent() -> Verdict {
    Verdict::Sent { name: None }
}

fn fault(cause: Cause) -> Verdict {
    refused(Then::Hold(cause), TokenAction::Keep)
}

fn mismatch() -> Verdict {
    refused(Then::NeverTellOperator, TokenAction::Quarantine)
}

fn dead_token() -> Verdict {
    refused(Then::Never, TokenAction::Remove)
}

fn silence() -> Verdict {
    refused(Then::Undecided, TokenAction::Keep)
}

fn go(breaker: &mut Breaker, now: Instant) -> Ticket {
    match breaker.admit(now) {
        Admission::Go(ticket) => ticket,
        Admission::Wait { cause, wait } => panic!("waits {wait:?} for {cause:?}"),
    }
}

fn waits(breaker: &mut Breaker, now: Instant) -> u64 {
    match breaker.admit(now) {
        Admission::Go(_) => panic!("goes"),
        Admission::Wait { wait, .. } => wait.as_secs(),
    }
}

/// Sends one message and answers it at once.
fn exchange(breaker: &mut Breaker, verdict: &Verdict, recipient: i64, now: Instant) -> Reaction {
    let ticket = go(breaker, now);
    breaker.answered(ticket, verdict, recipient, now)
}

#[test]
fn after_something_was_mended_the_next_message_finds_out_at_once_and_an_earlier_probe_does_not_count() {
    let (mut breaker, now) = (Breaker::default(), start());
    breaker.hurry(now);
    assert_eq!(breaker.cause(), None);
    exchange(&mut breaker, &fault(Cause::PermissionDenied), 1, now);
    assert_eq!(waits(&mut breaker, now), PROBE_FIRST.as_secs());
    breaker.hurry(now);
    let early = go(&mut breaker, now);
    breaker.hurry(now);
    let probe = go(&mut breaker, now);
    breaker.answered(early, &fault(Cause::PermissionDenied), 1, now);
    breaker.answered(probe, &sent(), 2, now);
    assert_eq!(breaker.cause(), None);
    // What was mended was not the cause.
    exchange(&mut breaker, &fault(Cause::PermissionDenied), 1, now);
    breaker.hurry(now);
    exchange(&mut breaker, &fault(Cause::PermissionDenied), 1, now);
    assert_eq!(waits(&mut breaker, now), 2 * PROBE_FIRST.as_secs());
}

#[test]
fn a_fault_of_the_credentials_stops_everything_until_a_probe_goes_through() {
    let (mut breaker, mut now) = (Breaker::default(), start());
    let reaction = exchange(&mut breaker, &fault(Cause::Unauthenticated), 1, now);
    assert_eq!((reaction, breaker.cause()), (Reaction::Hold(Cause::Unauthenticated), Some(Cause::Unauthenticated)));
    let mut waited = Vec::new();
    for _ in 0..9 {
        let wait = waits(&mut breaker, now);
        waited.push(wait);
        now += Duration::from_secs(wait);
        let probe = go(&mut breaker, now);
        assert_eq!(waits(&mut breaker, now), PROBE_PATIENCE.as_secs(), "only one probe at a time");
        breaker.answered(probe, &fault(Cause::Unauthenticated), 1, now);
    }
    assert_eq!(waited, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    now += PROBE_MAX;
    assert_eq!(exchange(&mut breaker, &sent(), 1, now), Reaction::AsJudged);
    assert_eq!(breaker.cause(), None);
    // The next time it begins with the short wait again.
    exchange(&mut breaker, &fault(Cause::ApiDisabled), 1, now);
    assert_eq!(waits(&mut breaker, now), 10);
}

#[test]
fn late_answers_neither_close_it_nor_make_the_wait_longer() {
    let (mut breaker, start) = (Breaker::default(), start());
    let denied = fault(Cause::PermissionDenied);
    let mut late: Vec<Ticket> = (0..5).map(|_| go(&mut breaker, start)).collect();
    breaker.answered(late.remove(0), &denied, 1, start);
    let now = start + Duration::from_secs(4);
    assert_eq!(breaker.answered(late.remove(0), &denied, 2, now), Reaction::Hold(Cause::PermissionDenied));
    assert_eq!(breaker.answered(late.remove(0), &sent(), 3, now), Reaction::AsJudged);
    assert_eq!((breaker.cause(), waits(&mut breaker, now)), (Some(Cause::PermissionDenied), 6));
    let now = start + PROBE_FIRST;
    let probe = go(&mut breaker, now);
    breaker.answered(late.remove(0), &denied, 4, now);
    assert_eq!(waits(&mut breaker, now), PROBE_PATIENCE.as_secs(), "the probe is still on its way");
    breaker.answered(probe, &sent(), 5, now);
    assert_eq!(breaker.answered(late.remove(0), &denied, 6, now), Reaction::Hold(Cause::PermissionDenied));
    assert_eq!(breaker.cause(), None, "what was sent before it was mended does not open it again");
}

#[test]
fn a_probe_without_an_answer_is_followed_by_another() {
    let (mut breaker, now) = (Breaker::default(), start());
    exchange(&mut breaker, &fault(Cause::UnknownProject), 1, now);
    let now = now + PROBE_FIRST;
    let lost = go(&mut breaker, now);
    let now = now + PROBE_PATIENCE;
    let second = go(&mut breaker, now);
    breaker.answered(lost, &sent(), 1, now);
    assert_eq!(breaker.cause(), Some(Cause::UnknownProject), "the lost one came too late");
    breaker.answered(second, &silence(), 1, now);
    assert_eq!(waits(&mut breaker, now), 10, "silence says nothing: the same wait again");
    // FCM itself refusing a token is proof that the front door is open.
    exchange(&mut breaker, &dead_token(), 1, now + PROBE_FIRST);
    assert_eq!(breaker.cause(), None);
}

#[test]
fn a_few_mismatches_are_the_tokens_fault() {
    let (mut breaker, now) = (Breaker::default(), start());
    for recipient in 0..1000 {
        let verdict = if recipient % 10 == 0 { mismatch() } else { sent() };
        assert_eq!(exchange(&mut breaker, &verdict, recipient, now), Reaction::AsJudged);
    }
    // One recipient again and again is one witness.
    for _ in 0..1000 {
        assert_eq!(exchange(&mut breaker, &mismatch(), 7, now), Reaction::AsJudged);
    }
}

#[test]
fn many_mismatches_at_once_are_our_own_keys_fault() {
    let (mut breaker, now) = (Breaker::default(), start());
    for recipient in 0..40 {
        exchange(&mut breaker, &sent(), recipient, now);
    }
    let in_flight = go(&mut breaker, now);
    let mut settled = 0;
    for recipient in 100.. {
        match exchange(&mut breaker, &mismatch(), recipient, now) {
            Reaction::AsJudged => settled += 1,
            Reaction::Hold(cause) => {
                assert_eq!(cause, Cause::SenderMismatch);
                break;
            }
        }
    }
    assert!(settled < WITNESSES_MAX / 2, "{settled} tokens paid for it");
    assert_eq!(breaker.answered(in_flight, &mismatch(), 50, now), Reaction::Hold(Cause::SenderMismatch));
    // A probe for a dead token says nothing of the key; one that is taken does.
    let now = now + PROBE_FIRST;
    assert_eq!(exchange(&mut breaker, &dead_token(), 1, now), Reaction::AsJudged);
    assert_eq!(breaker.cause(), Some(Cause::SenderMismatch));
    let now = now + PROBE_FIRST;
    assert_eq!(exchange(&mut breaker, &mismatch(), 2, now), Reaction::Hold(Cause::SenderMismatch));
    assert_eq!(waits(&mut breaker, now), 20);
    let now = now + Duration::from_secs(20);
    exchange(&mut breaker, &sent(), 3, now);
    assert_eq!(breaker.cause(), None);
    assert_eq!(exchange(&mut breaker, &mismatch(), 4, now), Reaction::AsJudged, "the past is forgotten");
}

#[test]
fn the_wrong_key_from_the_start_costs_few_messages() {
    let (mut breaker, now) = (Breaker::default(), start());
    let settled = (0..).take_while(|r| exchange(&mut breaker, &mismatch(), *r, now) == Reaction::AsJudged).count();
    assert_eq!(settled, MISMATCHES_MIN - 1);
}

#[derive(Debug, Clone)]
enum Step {
    Admit,
    Answer(prop::sample::Index, u8, i64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Admit),
        (any::<prop::sample::Index>(), 0u8..5, 0i64..100).prop_map(|(i, v, r)| Step::Answer(i, v, r)),
        (0u64..700).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happens: while it is not closed at most one message goes per wait, it never waits longer than its
    /// longest wait, and a success of a probe always closes it.
    #[test]
    fn it_neither_floods_nor_stays_shut(steps in prop::collection::vec(step(), 1..200)) {
        let (mut breaker, mut now) = (Breaker::default(), start());
        let mut tickets = Vec::new();
        for step in steps {
            match step {
                Step::Admit => {
                    let open = breaker.cause().is_some();
                    match breaker.admit(now) {
                        Admission::Go(ticket) => {
                            tickets.push(ticket);
                            if open {
                                let second = breaker.admit(now);
                                prop_assert!(matches!(second, Admission::Wait { .. }), "two probes");
                            }
                        }
                        Admission::Wait { wait, .. } => {
                            prop_assert!(open && wait <= PROBE_MAX && !wait.is_zero());
                        }
                    }
                }
                Step::Answer(index, what, recipient) if !tickets.is_empty() => {
                    let ticket = tickets.remove(index.index(tickets.len()));
                    let verdict = [sent(), mismatch(), dead_token(), silence(), fault(Cause::ApiDisabled)][usize::from(what)].clone();
                    let reaction = breaker.answered(ticket, &verdict, recipient, now);
                    prop_assert!(what != 4 || reaction == Reaction::Hold(Cause::ApiDisabled));
                    prop_assert!(what == 1 || what == 4 || reaction == Reaction::AsJudged);
                }
                Step::Answer(..) => {}
                Step::Pass(seconds) => now += Duration::from_secs(seconds),
            }
        }
        let probe = loop {
            match breaker.admit(now) {
                Admission::Go(ticket) => break ticket,
                Admission::Wait { wait, .. } => now += wait,
            }
        };
        breaker.answered(probe, &sent(), 1, now);
        prop_assert_eq!(breaker.cause(), None);
    }
}
