use super::*;
use crate::transport::fcm::tests::house::{message, sids};
use proptest::prelude::*;

#[expect(clippy::disallowed_methods, reason = "any moment will do as the start of the test's own time")]
fn start() -> Instant {
    Instant::now()
}

/// The bridge has heard all there is.
const HEARD: News = News { told: 0, heard: u64::MAX };

#[test]
fn a_crowd_of_one_recipient_waits_on_disk_in_order() {
    let (mut ledger, now) = (Ledger::default(), start());
    let sids = sids(LINE_MAX + 3);
    for sid in &sids[..LINE_MAX] {
        assert_eq!(ledger.accept(message(*sid, 1), now, HEARD), Taken::Waits);
    }
    assert_eq!(ledger.accept(message(sids[0], 1), now, HEARD), Taken::Twice);
    for sid in &sids[LINE_MAX..] {
        assert_eq!(ledger.accept(message(*sid, 1), now, HEARD), Taken::Behind(CROWD_WAIT));
    }
    // There is room again, but not for those behind the first one that went back.
    ledger.settle(sids[0]).unwrap();
    assert!(matches!(ledger.accept(message(sids[LINE_MAX + 1], 1), now, HEARD), Taken::Behind(_)));
    assert_eq!(ledger.accept(message(sids[LINE_MAX], 1), now, HEARD), Taken::Waits);
}

#[test]
fn what_the_bridge_sent_before_it_heard_that_another_went_back_does_not_pass_it() {
    let (mut ledger, now) = (Ledger::default(), start());
    let sids = sids(3);
    ledger.accept(message(sids[0], 1), now, HEARD);
    assert_eq!(ledger.give_back(1, sids[0], now + CROWD_WAIT, 7), [sids[0]]);
    let late = now + 2 * CROWD_WAIT;
    let deaf = News { told: 8, heard: 7 };
    assert_eq!(ledger.accept(message(sids[1], 1), late, deaf), Taken::Behind(BEHIND_MIN));
    ledger.expire(0, late, deaf);
    assert_eq!(ledger.accept(message(sids[1], 1), late, deaf), Taken::Behind(BEHIND_MIN), "that is not forgotten");
    // The bridge has heard of it, and sends others: it has ended.
    let told = News { told: 8, heard: 8 };
    assert_eq!(ledger.accept(message(sids[2], 1), late, told), Taken::Waits);
}

#[test]
fn an_older_message_opens_no_door_for_newer_ones() {
    let (mut ledger, now) = (Ledger::default(), start());
    let sids = sids(3);
    ledger.accept(message(sids[1], 1), now, HEARD);
    ledger.give_back(1, sids[1], now + CROWD_WAIT, 0);
    assert!(matches!(ledger.accept(message(sids[2], 1), now, HEARD), Taken::Behind(_)));
    // Its turn came late, by the word `order`.
    assert_eq!(ledger.accept(message(sids[0], 1), now, HEARD), Taken::Waits);
    assert!(matches!(ledger.accept(message(sids[2], 1), now, HEARD), Taken::Behind(_)));
    assert_eq!(ledger.accept(message(sids[1], 1), now, HEARD), Taken::Waits);
    assert_eq!(ledger.accept(message(sids[2], 1), now, HEARD), Taken::Waits);
}

#[test]
fn a_held_line_goes_on_when_the_hold_is_over() {
    let (mut ledger, now) = (Ledger::default(), start());
    let sids = sids(2);
    ledger.accept(message(sids[0], 1), now, HEARD);
    ledger.accept(message(sids[1], 2), now, HEARD);
    let until = now + Duration::from_millis(300);
    ledger.hold(1, until);
    assert_eq!(ledger.next().unwrap().send.sid, sids[1], "others pass");
    assert_eq!(ledger.release(now), Some(until));
    assert_eq!(ledger.next().unwrap().send.sid, sids[1]);
    assert_eq!(ledger.release(until), None);
    assert_eq!(ledger.next().unwrap().send.sid, sids[0]);
}

#[test]
fn expired_messages_leave_and_idle_recipients_are_forgotten() {
    let (mut ledger, now) = (Ledger::default(), start());
    let sids = sids(3);
    for (sid, deadline_ms) in sids.iter().zip([10, 5, 99]) {
        ledger.accept(Send { deadline_ms, ..message(*sid, 1) }, now, HEARD);
    }
    ledger.fly(sids[0]);
    let expired: Vec<Sid> = ledger.expire(50, now, HEARD).into_iter().map(|pending| pending.send.sid).collect();
    assert_eq!(expired, [sids[1]], "what is on a connection has to be answered");
    ledger.settle(sids[0]);
    ledger.settle(sids[2]);
    ledger.expire(50, now, HEARD);
    assert!(ledger.lines.is_empty() && ledger.ready.is_empty() && ledger.pending.is_empty());
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Accept(i64),
    Fly,
    Settle(usize),
    Back(usize),
    GiveBack(i64),
    Hold(i64),
    Pass,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0i64..3).prop_map(Op::Accept),
        4 => Just(Op::Fly),
        3 => (0usize..3).prop_map(Op::Settle),
        1 => (0usize..3).prop_map(Op::Back),
        1 => (0i64..3).prop_map(Op::GiveBack),
        1 => (0i64..3).prop_map(Op::Hold),
        2 => Just(Op::Pass),
    ]
}

proptest! {
    #[test]
    fn one_of_a_recipient_flies_at_a_time_and_in_order(ops in prop::collection::vec(op(), 1..120)) {
        let (mut ledger, mut now) = (Ledger::default(), start());
        let mut fresh = sids(ops.len()).into_iter();
        let mut flying: Vec<(Sid, i64)> = Vec::new();
        let mut done: HashMap<i64, Sid> = HashMap::new();
        for op in ops {
            match op {
                Op::Accept(recipient) => {
                    ledger.accept(message(fresh.next().unwrap(), recipient), now, HEARD);
                }
                Op::Fly => {
                    let Some(next) = ledger.next().map(|next| (next.send.sid, next.send.recipient.number())) else { continue };
                    prop_assert!(flying.iter().all(|(_, recipient)| *recipient != next.1), "two of one recipient");
                    prop_assert!(done.get(&next.1) < Some(&next.0), "one that is older came later");
                    ledger.fly(next.0);
                    flying.push(next);
                }
                Op::Settle(which) if which < flying.len() => {
                    let (sid, recipient) = flying.remove(which);
                    prop_assert!(ledger.settle(sid).is_some_and(|pending| pending.copies >= 1));
                    done.insert(recipient, sid);
                }
                Op::Back(which) if which < flying.len() => {
                    let (sid, _) = flying.remove(which);
                    ledger.back(sid);
                }
                Op::GiveBack(recipient) => {
                    let back = ledger.give_back(recipient, fresh.clone().next().unwrap(), now + CROWD_WAIT, 0);
                    prop_assert!(back.is_sorted());
                    // Their time to live ends there, so that they never come again.
                }
                Op::Hold(recipient) => ledger.hold(recipient, now + CROWD_WAIT / 2),
                Op::Pass => {
                    now += CROWD_WAIT;
                    ledger.release(now);
                }
                Op::Settle(_) | Op::Back(_) => {}
            }
        }
        let waiting: usize = ledger.lines.values().map(|line| line.waiting.len()).sum();
        prop_assert_eq!(ledger.len(), waiting + flying.len());
        // Nobody is forgotten: with all holds over, every free line offers its first.
        ledger.release(now + CROWD_WAIT);
        let free = ledger.lines.values().filter(|line| line.state == LineState::Free && !line.waiting.is_empty());
        prop_assert_eq!(free.count(), ledger.ready.len());
    }
}
