use super::evidence::{MISMATCHES_MIN, PUT_OFF_MIN, SUSPECTS_MAX, WITNESSES_MAX};
use super::*;
use crate::fcm::judge::{FAULT_WAIT, QUOTA_WAIT, RETRY_FOR};
use crate::fcm::verdict::code;
use proptest::prelude::*;

#[expect(clippy::disallowed_methods, reason = "any moment will do as the start of the test's own time")]
fn start() -> Instant {
    Instant::now()
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn sent() -> Verdict {
    Verdict::Sent { name: None }
}

fn retry(wait: Wait, scope: Scope) -> Refusal {
    let decision = Decision::Retry { wait, until: Until::Waited(RETRY_FOR), scope };
    Refusal::new(decision, code::INTERNAL_SERVER_ERROR, "why")
}

/// What becomes of a message that is at fault itself.
fn own() -> Refusal {
    retry(Wait::Backoff(FAULT_WAIT), Scope::Message)
}

fn fault(cause: Cause) -> Verdict {
    Verdict::Fault(cause, own())
}

fn unauthorized() -> Verdict {
    Verdict::Replay(Replay::NewToken, own())
}

fn mismatch() -> Verdict {
    Verdict::Refused(Refusal::new(Decision::QUARANTINE_TOKEN, code::SENDER_ID_MISMATCH, "why"))
}

fn dead_token() -> Verdict {
    Verdict::Refused(Refusal::new(Decision::REMOVE_TOKEN, code::DEVICE_UNREGISTERED, "gone"))
}

/// No answer came.
fn silence() -> Verdict {
    Verdict::Refused(Refusal { code: code::AMBIGUOUS.to_owned(), ..own().maybe_arrived() })
}

fn quota(wait: Wait) -> Verdict {
    Verdict::Refused(retry(wait, Scope::Service))
}

/// It goes back because of this.
fn untried(cause: Cause) -> Verdict {
    Verdict::Refused(Refusal { decision: UNTRIED, code: cause.as_str().to_owned(), ..own() })
}

fn goes(health: &mut Health, message: i64, token: u64, now: Instant) -> Ticket {
    match health.admit((message, message), token, now) {
        Admission::Go(ticket) => ticket,
        other => panic!("{message}: {other:?}"),
    }
}

fn waits(health: &mut Health, message: i64, now: Instant) -> u64 {
    match health.admit((message, message), 1, now) {
        Admission::NotBefore(then) => (then - now).as_secs(),
        other => panic!("{message}: {other:?}"),
    }
}

/// Sends one message to a recipient of its own, and answers it at once.
fn exchange(health: &mut Health, verdict: Verdict, message: i64, now: Instant) -> Verdict {
    let ticket = goes(health, message, 1, now);
    health.outcome(&ticket, verdict, now)
}

#[test]
fn a_fault_of_the_project_stops_everything_until_a_probe_goes_through() {
    let (mut health, mut now) = (Health::default(), start());
    assert_eq!(exchange(&mut health, fault(Cause::ApiDisabled), 1, now), untried(Cause::ApiDisabled));
    assert_eq!(health.standing(now), Standing::Down("api_disabled"));
    let mut waited = Vec::new();
    for message in 2..11 {
        let wait = waits(&mut health, message, now);
        waited.push(wait);
        assert_eq!(health.wake(now), Some(now + seconds(wait)));
        now += seconds(wait);
        assert_eq!(health.standing(now), Standing::Probing("api_disabled"));
        let probe = goes(&mut health, message, 1, now);
        assert_eq!(health.standing(now), Standing::Down("api_disabled"), "only one probe at a time");
        assert_eq!(waits(&mut health, 100, now), PROBE_PATIENCE.as_secs());
        assert_eq!(health.outcome(&probe, fault(Cause::ApiDisabled), now), untried(Cause::ApiDisabled));
    }
    assert_eq!(waited, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    now += PROBE_MAX;
    assert_eq!(exchange(&mut health, sent(), 20, now), Verdict::Sent { name: None });
    assert_eq!((health.standing(now), health.wake(now)), (Standing::Well, None));
    // The next time it begins with the short wait again.
    exchange(&mut health, fault(Cause::ApiDisabled), 21, now);
    assert_eq!(waits(&mut health, 22, now), 10);
}

#[test]
fn late_answers_neither_end_a_halt_nor_make_the_wait_longer() {
    let (mut health, start) = (Health::default(), start());
    let denied = || fault(Cause::PermissionDenied);
    let mut late: Vec<Ticket> = (0..5).map(|message| goes(&mut health, message, 1, start)).collect();
    health.outcome(&late.remove(0), denied(), start);
    let now = start + seconds(4);
    assert_eq!(health.outcome(&late.remove(0), denied(), now), untried(Cause::PermissionDenied));
    assert!(matches!(health.outcome(&late.remove(0), silence(), now), Verdict::Refused(_)));
    assert_eq!((health.cause(), waits(&mut health, 9, now)), (Some(Cause::PermissionDenied), 6));
    let now = start + PROBE_FIRST;
    let probe = goes(&mut health, 9, 1, now);
    health.outcome(&late.remove(0), denied(), now);
    assert_eq!(waits(&mut health, 10, now), PROBE_PATIENCE.as_secs(), "the probe is still on its way");
    health.outcome(&probe, sent(), now);
    assert_eq!(health.cause(), None);
    assert_eq!(health.outcome(&late.remove(0), denied(), now), Verdict::Refused(own()), "others passed since");
    assert_eq!(health.cause(), None, "what was sent before it was mended does not halt it again");
}

#[test]
fn a_probe_without_an_answer_is_followed_by_another() {
    let (mut health, now) = (Health::default(), start());
    exchange(&mut health, fault(Cause::UnknownProject), 1, now);
    let now = now + PROBE_FIRST;
    let lost = goes(&mut health, 2, 1, now);
    let word = Cause::UnknownProject.as_str();
    assert_eq!(health.standing(now), Standing::Down(word));
    // Whoever hands out messages hears of it: without that nobody would come.
    assert_eq!(health.wake(now), Some(now + PROBE_PATIENCE));
    let now = now + PROBE_PATIENCE;
    assert_eq!(health.standing(now), Standing::Probing(word));
    let second = goes(&mut health, 3, 1, now);
    health.outcome(&lost, sent(), now);
    assert_eq!(health.cause(), Some(Cause::UnknownProject), "the lost one came too late");
    health.outcome(&second, silence(), now);
    assert_eq!(waits(&mut health, 4, now), 10, "silence says nothing: the same wait again");
    // FCM itself refusing a token is proof that the front door is open.
    exchange(&mut health, dead_token(), 4, now + PROBE_FIRST);
    assert_eq!(health.cause(), None);
}

#[test]
fn a_probe_that_was_not_processed_goes_again_at_once() {
    let (mut health, now) = (Health::default(), start());
    exchange(&mut health, fault(Cause::PermissionDenied), 1, now);
    let now = now + PROBE_FIRST;
    let probe = goes(&mut health, 2, 1, now);
    let again = Verdict::Replay(Replay::Elsewhere, own());
    assert_eq!(health.outcome(&probe, again, now), Verdict::Replay(Replay::Elsewhere, own()));
    assert_eq!(waits(&mut health, 3, now), PROBE_PATIENCE.as_secs());
    assert_eq!(exchange(&mut health, sent(), 2, now), Verdict::Sent { name: None });
    assert_eq!(health.cause(), None);
}

#[test]
fn after_something_was_mended_the_next_message_finds_out_at_once_and_an_earlier_probe_does_not_count() {
    let (mut health, now) = (Health::default(), start());
    health.credentials_changed(now);
    assert_eq!(health.cause(), None);
    exchange(&mut health, fault(Cause::PermissionDenied), 1, now);
    assert_eq!(waits(&mut health, 2, now), PROBE_FIRST.as_secs());
    health.credentials_changed(now);
    let early = goes(&mut health, 2, 1, now);
    health.credentials_changed(now);
    let probe = goes(&mut health, 3, 1, now);
    health.outcome(&early, fault(Cause::PermissionDenied), now);
    health.outcome(&probe, sent(), now);
    assert_eq!(health.cause(), None);
    // What was mended was not the cause.
    exchange(&mut health, fault(Cause::PermissionDenied), 4, now);
    health.credentials_changed(now);
    exchange(&mut health, fault(Cause::PermissionDenied), 5, now);
    assert_eq!(waits(&mut health, 6, now), 2 * PROBE_FIRST.as_secs());
}

#[test]
fn a_probe_is_rather_a_message_that_was_not_refused_itself() {
    let (mut health, now) = (Health::default(), start());
    exchange(&mut health, fault(Cause::UnknownProject), 1, now);
    let now = now + PROBE_FIRST;
    assert_eq!(health.admit((1, 1), 1, now), Admission::NotBefore(now + STRANGER_WAIT));
    assert_eq!(exchange(&mut health, sent(), 2, now), Verdict::Sent { name: None });
    // It is refused again, though others are not: it waits by itself, and so it does from then on.
    for _ in 0..3 {
        assert_eq!(exchange(&mut health, fault(Cause::UnknownProject), 1, now), Verdict::Refused(own()));
        assert_eq!(health.standing(now), Standing::Well);
    }
    // Where nobody else is there, it has to do.
    let (mut health, now) = (Health::default(), start());
    exchange(&mut health, fault(Cause::UnknownProject), 1, now);
    let now = now + PROBE_FIRST + STRANGER_WAIT;
    assert_eq!(exchange(&mut health, fault(Cause::UnknownProject), 1, now), untried(Cause::UnknownProject));
    assert_eq!(waits(&mut health, 2, now), 20);
}

#[test]
fn among_answers_that_show_the_project_in_order_a_few_faults_stop_nobody() {
    let (mut health, now) = (Health::default(), start());
    let tickets: Vec<Ticket> = (1..=4).map(|message| goes(&mut health, message, 1, now)).collect();
    exchange(&mut health, sent(), 5, now);
    let rulings = tickets.iter().map(|ticket| health.outcome(ticket, fault(Cause::ApiDisabled), now));
    let few = Verdict::Refused(own());
    assert_eq!(
        rulings.collect::<Vec<_>>(),
        [few.clone(), few, untried(Cause::ApiDisabled), untried(Cause::ApiDisabled)]
    );
}

#[test]
fn what_may_have_arrived_is_marked_when_it_goes_back_and_fails_where_it_must_not_go_twice() {
    let (mut health, now) = (Health::default(), start());
    let tickets = [goes(&mut health, 1, 1, now), goes(&mut health, 2, 1, now)];
    let page = |refusal: Refusal| Verdict::Fault(Cause::NotFcm, refusal.maybe_arrived());
    let Verdict::Refused(refusal) = health.outcome(&tickets[0], page(own()), now) else { panic!() };
    assert_eq!((refusal.decision, refusal.arrival), (UNTRIED, Arrival::Maybe));
    let failed = Refusal::new(Decision::FAIL, code::AMBIGUOUS, "why");
    let ruling = health.outcome(&tickets[1], page(failed.clone()), now);
    assert_eq!(ruling, Verdict::Refused(failed.maybe_arrived()));
    assert_eq!(health.cause(), Some(Cause::NotFcm));
}

#[test]
fn a_token_that_is_refused_is_replaced_and_no_message_goes_with_it_again() {
    let (mut health, now) = (Health::default(), start());
    exchange(&mut health, sent(), 1, now);
    let tickets: Vec<Ticket> = (2..=5).map(|message| goes(&mut health, message, 1, now)).collect();
    let again = Verdict::Replay(Replay::NewToken, own());
    assert_eq!(health.outcome(&tickets[0], unauthorized(), now), again);
    assert_eq!((health.refused_token(), health.spent_token()), (1, 0));
    assert_eq!(health.admit((2, 2), 1, now), Admission::NewToken, "not this message");
    goes(&mut health, 6, 1, now);
    health.outcome(&tickets[1], unauthorized(), now);
    health.outcome(&tickets[2], unauthorized(), now);
    assert_eq!(health.spent_token(), 1);
    assert_eq!(health.admit((6, 6), 1, now), Admission::NewToken, "nobody");
    assert_eq!(health.outcome(&tickets[3], unauthorized(), now), again);
    for message in 2..=5 {
        let ticket = goes(&mut health, message, 2, now);
        assert_eq!(ticket.access(), Access::Refreshed);
        assert_eq!(health.outcome(&ticket, sent(), now), Verdict::Sent { name: None });
    }
    assert_eq!((health.cause(), goes(&mut health, 7, 2, now).access()), (None, Access::Cached));
}

#[test]
fn a_401_that_persists_with_one_message_stops_nobody_and_costs_one_token() {
    let (mut health, now) = (Health::default(), start());
    exchange(&mut health, sent(), 1, now);
    assert!(!health.doubts_token(1));
    assert_eq!(exchange(&mut health, unauthorized(), 2, now), Verdict::Replay(Replay::NewToken, own()));
    assert!(health.doubts_token(1) && !health.doubts_token(2));
    // The old token lives, and others go on with it while the new one is fetched.
    for message in 3..10 {
        assert_eq!(exchange(&mut health, sent(), message, now), Verdict::Sent { name: None });
    }
    assert!(!health.doubts_token(1));
    let ticket = goes(&mut health, 2, 2, now);
    let ruling = health.outcome(&ticket, fault(Cause::Unauthenticated), now);
    assert_eq!((ruling, health.cause(), health.refused_token()), (Verdict::Refused(own()), None, 1));
    // At each further try, also while nobody else sends anything.
    for _ in 0..9 {
        let ticket = goes(&mut health, 2, 2, now);
        assert_eq!(health.outcome(&ticket, unauthorized(), now), Verdict::Refused(own()));
    }
    assert_eq!((health.standing(now), health.refused_token(), health.spent_token()), (Standing::Well, 1, 0));
}

#[test]
fn the_probe_after_a_401_takes_a_token_that_was_not_refused() {
    let (mut health, mut now) = (Health::default(), start());
    exchange(&mut health, unauthorized(), 1, now);
    let mut token = 2;
    let ticket = goes(&mut health, 1, token, now);
    assert_eq!(health.outcome(&ticket, fault(Cause::Unauthenticated), now), untried(Cause::Unauthenticated));
    for (message, wait) in [(2, 10), (3, 20), (4, 40)] {
        now += seconds(wait);
        assert_eq!(health.admit((message, message), token, now), Admission::NewToken);
        assert_eq!(health.refused_token(), token);
        token += 1;
        let probe = goes(&mut health, message, token, now);
        // A second 401, without a request in between.
        assert_eq!(probe.access(), Access::Refreshed);
        assert_eq!(health.outcome(&probe, fault(Cause::Unauthenticated), now), untried(Cause::Unauthenticated));
    }
    now += seconds(80);
    let probe = goes(&mut health, 5, token + 1, now);
    health.outcome(&probe, sent(), now);
    assert_eq!(health.standing(now), Standing::Well);
}

#[test]
fn a_used_up_quota_of_the_project_pauses_everybody() {
    let (mut health, mut now) = (Health::default(), start());
    let late = goes(&mut health, 1, 1, now);
    let as_asked = quota(Wait::AtLeast(seconds(90)));
    let Verdict::Refused(refusal) = as_asked.clone() else { unreachable!() };
    assert_eq!(exchange(&mut health, as_asked, 2, now), Verdict::Refused(refusal));
    assert_eq!((health.standing(now), waits(&mut health, 3, now)), (Standing::Down(QUOTA), 90));
    // What was on its way says nothing new.
    health.outcome(&late, quota(Wait::Backoff(QUOTA_WAIT)), now);
    assert_eq!(waits(&mut health, 3, now), 90);
    now += seconds(90);
    exchange(&mut health, sent(), 3, now);
    for pause in [60, 120, 240, 480, 960, 1_920, 3_600, 3_600] {
        exchange(&mut health, quota(Wait::Backoff(QUOTA_WAIT)), 4, now);
        assert_eq!((waits(&mut health, 5, now), health.wake(now)), (pause, Some(now + seconds(pause))));
        now += seconds(pause);
    }
    exchange(&mut health, sent(), 5, now);
    exchange(&mut health, quota(Wait::Backoff(QUOTA_WAIT)), 6, now);
    assert_eq!(waits(&mut health, 7, now), 60);
}

#[test]
fn a_project_that_is_to_pause_for_a_second_only_pauses_for_longer_each_time() {
    let (mut health, mut now) = (Health::default(), start());
    let busy = || quota(Wait::AtLeast(seconds(1)));
    for pause in [1, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600] {
        exchange(&mut health, busy(), 1, now);
        assert_eq!(waits(&mut health, 2, now), pause);
        now += seconds(pause);
    }
    exchange(&mut health, sent(), 2, now);
    exchange(&mut health, busy(), 3, now);
    assert_eq!(waits(&mut health, 4, now), 1);
}

#[test]
fn when_everybody_is_put_off_one_message_at_a_time_finds_out() {
    let (mut health, mut now) = (Health::default(), start());
    let busy = |wait| Verdict::Refused(retry(wait, Scope::Message));
    let fault = Wait::Backoff(FAULT_WAIT);
    let many = i64::try_from(PUT_OFF_MIN).unwrap();
    // One recipient again and again is one.
    for _ in 0..100 {
        exchange(&mut health, busy(fault), 1, now);
    }
    for message in 2..many {
        exchange(&mut health, busy(fault), message, now);
    }
    let late = goes(&mut health, 50, 1, now);
    assert_eq!(health.standing(now), Standing::Well);
    assert_eq!(exchange(&mut health, busy(fault), many, now), Verdict::Refused(own()));
    assert_eq!(health.standing(now), Standing::Down("service_unavailable"));
    for wait in [10, 20, 40, 60, 60] {
        assert_eq!(waits(&mut health, 100, now), wait);
        now += seconds(wait);
        exchange(&mut health, busy(fault), 100, now);
    }
    // FCM may ask for more.
    health.outcome(&late, busy(Wait::AtLeast(seconds(300))), now);
    assert_eq!(waits(&mut health, 100, now), 300);
    exchange(&mut health, dead_token(), 100, now + seconds(300));
    assert_eq!(health.standing(now), Standing::Well);
    // A connection that breaks under many of them puts nobody off.
    for message in 0..200 {
        exchange(&mut health, silence(), message, now);
    }
    assert_eq!(health.standing(now), Standing::Well);
    // One that passes in between is enough.
    for message in 0..200 {
        exchange(&mut health, if message % many == 0 { sent() } else { busy(fault) }, message, now);
    }
    assert_eq!(health.standing(now), Standing::Well);
}

#[test]
fn a_few_mismatches_are_the_tokens_fault() {
    let (mut health, now) = (Health::default(), start());
    let Verdict::Refused(quarantine) = mismatch() else { unreachable!() };
    for recipient in 0..1000 {
        let verdict = if recipient % 10 == 0 { mismatch() } else { sent() };
        let ruling = exchange(&mut health, verdict, recipient, now);
        assert!(matches!(&ruling, Verdict::Sent { .. }) || ruling == Verdict::Refused(quarantine.clone()));
    }
    // One recipient again and again is one witness.
    for _ in 0..1000 {
        assert_eq!(exchange(&mut health, mismatch(), 7, now), Verdict::Refused(quarantine.clone()));
    }
}

#[test]
fn many_mismatches_at_once_are_our_own_keys_fault() {
    let (mut health, now) = (Health::default(), start());
    for recipient in 0..40 {
        exchange(&mut health, sent(), recipient, now);
    }
    let in_flight = goes(&mut health, 50, 1, now);
    let is_back = |ruling: &Verdict| matches!(ruling, Verdict::Refused(refusal) if refusal.decision == UNTRIED);
    let settled = (100..).take_while(|recipient| !is_back(&exchange(&mut health, mismatch(), *recipient, now))).count();
    assert_eq!(health.cause(), Some(Cause::SenderMismatch));
    assert!(settled < WITNESSES_MAX / 2, "{settled} tokens paid for it");
    assert!(is_back(&health.outcome(&in_flight, mismatch(), now)));
    // A probe for a dead token says nothing of the key; one that is taken does.
    let now = now + PROBE_FIRST;
    exchange(&mut health, dead_token(), 1, now);
    assert_eq!(health.cause(), Some(Cause::SenderMismatch));
    let now = now + PROBE_FIRST;
    assert!(is_back(&exchange(&mut health, mismatch(), 2, now)));
    assert_eq!(waits(&mut health, 3, now), 20);
    let now = now + seconds(20);
    exchange(&mut health, sent(), 3, now);
    assert_eq!(health.cause(), None);
    assert!(!is_back(&exchange(&mut health, mismatch(), 4, now)), "the past is forgotten");
}

#[test]
fn the_wrong_key_from_the_start_costs_few_messages() {
    let (mut health, now) = (Health::default(), start());
    let Verdict::Refused(quarantine) = mismatch() else { unreachable!() };
    let pays =
        |recipient: &i64| exchange(&mut health, mismatch(), *recipient, now) == Verdict::Refused(quarantine.clone());
    assert_eq!((0..).take_while(pays).count(), MISMATCHES_MIN - 1);
}

#[derive(Debug, Clone)]
enum Op {
    Admit(i64),
    Answer(prop::sample::Index, usize),
    Pass(u64),
    Refresh,
    Credentials,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0i64..100).prop_map(Op::Admit),
        4 => (any::<prop::sample::Index>(), 0usize..9).prop_map(|(which, what)| Op::Answer(which, what)),
        2 => (0u64..700).prop_map(Op::Pass),
        1 => Just(Op::Refresh),
        1 => Just(Op::Credentials),
    ]
}

fn verdicts() -> [Verdict; 9] {
    [
        sent(),
        mismatch(),
        dead_token(),
        silence(),
        fault(Cause::ApiDisabled),
        unauthorized(),
        fault(Cause::Unauthenticated),
        quota(Wait::Backoff(QUOTA_WAIT)),
        Verdict::Replay(Replay::Elsewhere, own()),
    ]
}

proptest! {
    /// Whatever happens: while it is not well at most one message goes per wait, no wait is longer than the longest, no
    /// message goes with a token that was refused to it, and a probe that passes ends every halt.
    #[test]
    fn it_neither_floods_nor_stays_shut(ops in prop::collection::vec(op(), 1..200)) {
        let (mut health, mut now, mut token) = (Health::default(), start(), 1);
        let mut tickets = Vec::new();
        for op in ops {
            match op {
                Op::Admit(message) => {
                    let (before, refused) = (health.cause(), health.spent_token());
                    match health.admit((message, message), token, now) {
                        Admission::Go(ticket) => {
                            prop_assert!(token > refused);
                            let second = health.admit((message + 1, message), token, now);
                            prop_assert!(before.is_none() || !matches!(second, Admission::Go(_)), "two probes");
                            tickets.push(ticket);
                        }
                        Admission::NotBefore(then) => {
                            prop_assert!(then > now && then <= now + PAUSE_MAX.max(PROBE_MAX + STRANGER_WAIT));
                            let standing = health.standing(now);
                            prop_assert!(standing != Standing::Well, "{message} waits for nothing");
                        }
                        Admission::NewToken => prop_assert!(token <= health.refused_token()),
                    }
                }
                Op::Answer(which, what) if !tickets.is_empty() => {
                    let ticket = tickets.remove(which.index(tickets.len()));
                    let verdict = verdicts()[what].clone();
                    match (health.outcome(&ticket, verdict.clone(), now), verdict) {
                        (Verdict::Sent { .. }, Verdict::Sent { .. }) => {}
                        (Verdict::Replay(how, _), Verdict::Replay(asked, _)) => prop_assert_eq!(how, asked),
                        (Verdict::Refused(refusal), Verdict::Fault(cause, own)) => {
                            prop_assert!(refusal == own || refusal.code == cause.as_str());
                        }
                        (Verdict::Refused(refusal), Verdict::Replay(_, own)) => prop_assert_eq!(refusal, own),
                        (Verdict::Refused(refusal), Verdict::Refused(judged)) => {
                            prop_assert!(refusal == judged || refusal.code == Cause::SenderMismatch.as_str());
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                Op::Answer(..) => {}
                Op::Pass(seconds) => now += Duration::from_secs(seconds),
                Op::Refresh => token += 1,
                Op::Credentials => health.credentials_changed(now),
            }
            prop_assert!(health.evidence.suspects.len() <= SUSPECTS_MAX && health.evidence.put_off.len() <= PUT_OFF_MIN);
        }
        token += 1;
        let probe = loop {
            match health.admit((1_000, 1_000), token, now) {
                Admission::Go(ticket) => break ticket,
                Admission::NotBefore(then) => now = then,
                Admission::NewToken => prop_assert!(false, "a new token is not new"),
            }
        };
        health.outcome(&probe, sent(), now);
        prop_assert_eq!(health.standing(now), Standing::Well);
    }
}

#[test]
fn no_more_suspects_are_remembered_than_there_is_room_for() {
    let (mut health, now) = (Health::default(), start());
    let count = i64::try_from(SUSPECTS_MAX).unwrap() + 10;
    let tickets: Vec<Ticket> = (0..count).map(|message| goes(&mut health, message, 1, now)).collect();
    for ticket in &tickets {
        health.outcome(ticket, fault(Cause::ApiDisabled), now);
    }
    assert_eq!(health.evidence.suspects.len(), SUSPECTS_MAX);
}
