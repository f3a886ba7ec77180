use super::*;
use crate::chat::id::{SidSource, Token};
use crate::chat::push::{Priority, Push};
use proptest::prelude::*;
use serde_json::Map;

const NEVER: u64 = u64::MAX;

fn send(number: u64, recipient: i64, deadline_ms: u64) -> Send {
    Send {
        sid: sid(number),
        push: Push {
            target: Target::Token(Token::new(format!("token-{recipient}")).unwrap()),
            data: Map::new(),
            notification: None,
            priority: Priority::High,
            collapse: None,
            receipt: false,
            fcm: Map::new(),
        },
        recipient: crate::chat::id::Recipient::new(recipient),
        accepted_ms: 0,
        deadline_ms,
    }
}

fn sid(number: u64) -> Sid {
    SidSource::default().next(number, 0)
}

/// What goes out now, as (connection, number of the message).
fn orders(ledger: &mut Ledger) -> Vec<(u64, u64)> {
    ledger.dispatch(0).orders.into_iter().map(|(link, order)| (link, order.sid.millis())).collect()
}

#[test]
fn there_is_room_for_the_windows_of_all_connections_and_no_more() {
    let mut ledger = Ledger::new(2, 2);
    for number in 1..=4 {
        assert!(ledger.has_room());
        assert!(ledger.accept(send(number, 1, NEVER)));
    }
    assert!(!ledger.has_room());
    assert!(!ledger.accept(send(4, 1, NEVER)), "a known id was taken again");
    assert_eq!(orders(&mut ledger), []);
    ledger.open(7);
    assert_eq!(orders(&mut ledger), [(7, 1), (7, 2)]);
    assert_eq!(ledger.settle(sid(1)).map(|settled| settled.copies), Some(1));
    assert_eq!(ledger.settle(sid(1)), None);
    assert!(ledger.has_room());
    assert_eq!(orders(&mut ledger), [(7, 3)]);
}

#[test]
fn what_a_lost_connection_left_goes_first_and_in_order() {
    let mut ledger = Ledger::new(4, 1);
    ledger.open(1);
    for number in 1..=3 {
        ledger.accept(send(number, number as i64, NEVER));
    }
    assert_eq!(orders(&mut ledger).len(), 3);
    ledger.settle(sid(2));
    ledger.close(1, &[sid(3)]);
    ledger.accept(send(4, 4, NEVER));
    ledger.open(2);
    let dispatch = ledger.dispatch(0);
    assert_eq!(dispatch.resends, 1);
    let numbers: Vec<u64> = dispatch.orders.iter().map(|(_, order)| order.sid.millis()).collect();
    assert_eq!(numbers, [1, 3, 4]);
    let copies = [1, 3, 4].map(|number| ledger.settle(sid(number)).unwrap().copies);
    assert_eq!(copies, [2, 1, 1], "an order that never left is no copy");
}

#[test]
fn a_recipient_stays_on_his_connection_while_anything_of_his_is_in_flight() {
    let mut ledger = Ledger::new(2, 2);
    ledger.open(1);
    ledger.open(2);
    ledger.accept(send(1, 50, NEVER));
    ledger.accept(send(2, 50, NEVER));
    ledger.accept(send(3, 50, NEVER));
    ledger.accept(send(4, 60, NEVER));
    assert_eq!(orders(&mut ledger), [(1, 1), (1, 2), (2, 4)], "the third waits for its own connection");
    ledger.settle(sid(1));
    assert_eq!(orders(&mut ledger), [(1, 3)]);
}

#[test]
fn nothing_overtakes_what_a_draining_connection_still_has() {
    let mut ledger = Ledger::new(3, 1);
    ledger.open(1);
    ledger.accept(send(1, 50, NEVER));
    ledger.accept(send(2, 50, NEVER));
    ledger.accept(send(9, 90, NEVER));
    assert_eq!(orders(&mut ledger).len(), 3);
    assert!(!ledger.has_room());
    ledger.settle(sid(9));
    ledger.drain(1);
    assert!(ledger.has_room());
    ledger.open(2);
    ledger.accept(send(3, 50, NEVER));
    ledger.accept(send(4, 60, NEVER));
    assert_eq!(orders(&mut ledger), [(2, 4)]);
    ledger.settle(sid(4));
    ledger.take_back(sid(2));
    assert_eq!(orders(&mut ledger), []);
    ledger.close(1, &[]);
    assert_eq!(orders(&mut ledger), [(2, 1), (2, 2), (2, 3)]);
    assert_eq!([1, 2, 3].map(|number| ledger.settle(sid(number)).unwrap().copies), [2, 1, 1]);
}

#[test]
fn a_message_was_tried_as_often_as_it_was_written() {
    let mut ledger = Ledger::new(2, 2);
    ledger.open(1);
    ledger.accept(send(1, 1, u64::MAX));
    orders(&mut ledger);
    ledger.take_back_unwritten(sid(1));
    orders(&mut ledger);
    ledger.take_back(sid(1));
    orders(&mut ledger);
    assert!(ledger.close(1, &[]).is_empty());
    ledger.open(2);
    orders(&mut ledger);
    let settled = ledger.settle(sid(1)).unwrap();
    assert_eq!((settled.copies, settled.replays), (2, 2));
}

#[test]
fn what_is_too_late_is_neither_sent_nor_kept() {
    let mut ledger = Ledger::new(2, 1);
    ledger.accept(send(1, 1, 1_000));
    ledger.accept(send(2, 1, 2_000));
    assert_eq!(ledger.expire(1_000), []);
    let numbers = |settled: Vec<Settled>| settled.into_iter().map(|s| (s.sid.millis(), s.copies)).collect::<Vec<_>>();
    assert_eq!(numbers(ledger.expire(1_001)), [(1, 0)]);
    ledger.open(1);
    assert_eq!(ledger.dispatch(1_500).orders.len(), 1);
    assert_eq!(ledger.expire(9_999), [], "what is in flight is for the push service to judge");
    ledger.close(1, &[]);
    ledger.open(2);
    let dispatch = ledger.dispatch(2_001);
    assert_eq!((dispatch.orders.len(), numbers(dispatch.expired)), (0, vec![(2, 1)]));
    assert_eq!(ledger.pending(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Accept { recipient: i64 },
    Settle(prop::sample::Index),
    TakeBack(prop::sample::Index),
    Open,
    Drain(prop::sample::Index),
    Close(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => (0i64..4).prop_map(|recipient| Step::Accept { recipient }),
        6 => index().prop_map(Step::Settle),
        1 => index().prop_map(Step::TakeBack),
        2 => Just(Step::Open),
        1 => index().prop_map(Step::Drain),
        1 => index().prop_map(Step::Close),
    ]
}

/// What a bystander knows: who is in flight where, in the order of the messages' numbers.
#[derive(Default)]
struct Bystander {
    recipients: HashMap<u64, i64>,
    waiting: Vec<u64>,
    in_flight: BTreeMap<u64, u64>,
    links: BTreeMap<u64, LoadPhase>,
}

impl Bystander {
    fn order(&mut self, link: u64, number: u64, window: usize) {
        assert_eq!(self.links.get(&link), Some(&LoadPhase::Open), "{number} given to a connection that takes nothing");
        let recipient = self.recipients[&number];
        let same = |other: &u64| self.recipients[other] == recipient;
        assert!(self.waiting.iter().all(|other| *other >= number || !same(other)), "{number} overtook in the backlog");
        assert!(
            self.in_flight.iter().all(|(other, at)| !same(other) || *at == link),
            "{number} on a second connection"
        );
        self.waiting.retain(|other| *other != number);
        assert_eq!(self.in_flight.insert(number, link), None, "{number} sent twice");
        assert!(self.in_flight.values().filter(|at| **at == link).count() <= window);
    }
}

proptest! {
    #[test]
    fn no_order_is_broken_and_nothing_is_forgotten(steps in prop::collection::vec(step(), 0..120)) {
        const WINDOW: usize = 3;
        let mut ledger = Ledger::new(WINDOW, 3);
        let mut seen = Bystander::default();
        let (mut accepted, mut settled) = (0u64, 0usize);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Accept { recipient } if ledger.has_room() => {
                    accepted += 1;
                    seen.recipients.insert(accepted, recipient);
                    seen.waiting.push(accepted);
                    prop_assert!(ledger.accept(send(accepted, recipient, NEVER)));
                }
                Step::Settle(index) if !seen.in_flight.is_empty() => {
                    let number = *index.get(&seen.in_flight.keys().copied().collect::<Vec<_>>());
                    seen.in_flight.remove(&number);
                    prop_assert!(ledger.settle(sid(number)).is_some());
                    settled += 1;
                }
                Step::TakeBack(index) if !seen.in_flight.is_empty() => {
                    let number = *index.get(&seen.in_flight.keys().copied().collect::<Vec<_>>());
                    let link = seen.in_flight[&number];
                    // A connection refuses only when it is draining.
                    ledger.drain(link);
                    seen.links.insert(link, LoadPhase::Draining);
                    seen.in_flight.remove(&number);
                    seen.waiting.push(number);
                    ledger.take_back(sid(number));
                }
                Step::Open if seen.links.len() < 4 => {
                    seen.links.insert(number as u64, LoadPhase::Open);
                    ledger.open(number as u64);
                }
                Step::Drain(index) if !seen.links.is_empty() => {
                    let link = *index.get(&seen.links.keys().copied().collect::<Vec<_>>());
                    seen.links.insert(link, LoadPhase::Draining);
                    ledger.drain(link);
                }
                Step::Close(index) if !seen.links.is_empty() => {
                    let link = *index.get(&seen.links.keys().copied().collect::<Vec<_>>());
                    seen.links.remove(&link);
                    let back: Vec<u64> = seen.in_flight.iter().filter(|(_, at)| **at == link).map(|(n, _)| *n).collect();
                    seen.in_flight.retain(|_, at| *at != link);
                    seen.waiting.extend(back);
                    ledger.close(link, &[]);
                }
                _ => {}
            }
            for (link, number) in orders(&mut ledger) {
                seen.order(link, number, WINDOW);
            }
            prop_assert_eq!(ledger.pending(), seen.waiting.len() + seen.in_flight.len());
        }
        let left: Vec<u64> = ledger.into_unsettled().into_iter().map(|settled| settled.sid.millis()).collect();
        prop_assert!(left.is_sorted());
        prop_assert_eq!(left.len() + settled, usize::try_from(accepted).unwrap());
    }
}

#[test]
fn a_message_that_the_device_has_is_not_sent_again() {
    let mut ledger = Ledger::new(2, 1);
    ledger.open(7);
    ledger.accept(send(1, 1, NEVER));
    assert_eq!(ledger.received(sid(1)), None, "never sent");
    assert_eq!(orders(&mut ledger), [(7, 1)]);
    ledger.accept(send(2, 2, NEVER));
    assert_eq!(orders(&mut ledger), [(7, 2)]);
    assert_eq!((ledger.received(sid(1)), ledger.copies(sid(1))), (None, 1), "its answer is still to come");
    let settled: Vec<Sid> = ledger.close(7, &[]).into_iter().map(|settled| settled.sid).collect();
    assert_eq!(settled, [sid(1)], "the answer never came, and the device has it");
    assert_eq!(ledger.received(sid(2)).map(|settled| settled.copies), Some(1), "it waited to be sent again");
    ledger.open(8);
    assert_eq!((orders(&mut ledger), ledger.pending()), (vec![], 0));
}
