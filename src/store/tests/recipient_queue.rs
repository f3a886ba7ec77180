//! Queues of recipients: what waits costs nothing while it waits, holds up nobody else, and goes in its order.

use super::*;

/// More than one call looks at.
const LONG: usize = 2_500;

impl Rig {
    /// So many messages to `recipient`, called by its number and theirs.
    async fn queue(&mut self, length: usize, recipient: i64) {
        let mut pending = Vec::new();
        for n in 0..length {
            let mut new = self.new_message(&format!("{recipient}-{n}"));
            new.push().recipient = Recipient(recipient);
            pending.push(self.store.accept(new).await.unwrap());
        }
        for committed in pending {
            assert_eq!(committed.await.unwrap(), Accepted::Stored);
        }
    }

    /// Takes until nothing more is due; returns what came and how often it had to ask.
    async fn take_all(&self, now: u64, pipelining: Pipelining) -> (Vec<String>, usize) {
        let (mut all, mut asked) = (Vec::new(), 0);
        loop {
            let taken = self.take_by(now, 100, pipelining).await;
            asked += 1;
            all.extend(ids(&taken));
            if taken.next_due.is_none_or(|due| due > now) {
                return (all, asked);
            }
        }
    }

    /// One message, taken.
    async fn take_one(&self, now: u64) -> Sid {
        self.take_by(now, 1, MANY).await.claimed[0].sid
    }
}

#[tokio::test]
async fn a_long_queue_holds_up_nobody_else_and_is_looked_at_once() {
    let mut rig = Rig::new(Limits::default());
    rig.queue(LONG, 7).await;
    rig.queue(1, 8).await;
    let (came, times) = rig.take_all(NOW, Pipelining::OneAtATime).await;
    assert_eq!(came, ["7-0", "8-0"]);
    assert!(times <= 3, "asked {times} times for what a call looks at in three");
    assert_eq!(rig.parked(), LONG as i64 - 1);
    assert_eq!(rig.take_all(NOW + 60_000, Pipelining::OneAtATime).await, (vec![], 1));
}

#[tokio::test]
async fn one_at_a_time_each_answer_brings_the_next() {
    let mut rig = Rig::new(Limits::default());
    rig.queue(50, 7).await;
    let mut flying = rig.take_by(NOW, 100, Pipelining::OneAtATime).await.claimed;
    for n in 1..50 {
        // Asked for in one breath, so that one commit lies between an answer and the next message.
        let recorded = rig.store.record(flying[0].sid, accepted(), NOW).await.unwrap();
        let taken = rig.take_by(NOW, 100, Pipelining::OneAtATime).await;
        assert_eq!(ids(&taken), [format!("7-{n}")]);
        assert!(matches!(recorded.await.unwrap(), Recorded::Moved { .. }));
        flying = taken.claimed;
    }
}

#[tokio::test]
async fn at_most_as_many_are_in_flight_as_the_transport_is_capable_of() {
    let mut rig = Rig::new(Limits::default());
    rig.queue(9, 7).await;
    let three = Pipelining::Pipelined(3);
    let flying = rig.take_by(NOW, 100, three).await;
    assert_eq!(ids(&flying), ["7-0", "7-1", "7-2"]);
    rig.record(flying.claimed[1].sid, accepted(), NOW).await;
    assert_eq!(ids(&rig.take_by(NOW, 100, three).await), ["7-3"]);
    for flight in [0, 2] {
        rig.record(flying.claimed[flight].sid, accepted(), NOW).await;
    }
    assert_eq!(ids(&rig.take_by(NOW, 100, three).await), ["7-4", "7-5"]);
}

#[tokio::test]
async fn a_long_queue_that_may_go_goes_in_order_and_is_handed_out_at_once() {
    let mut rig = Rig::new(Limits::default());
    rig.queue(1, 7).await;
    let first = rig.take_one(NOW).await;
    rig.record(first, retry(NOW + 600_000), NOW).await;
    rig.queue(1, 8).await;
    for n in 0..LONG {
        let new = rig.new_message(&format!("b{n}"));
        drop(rig.store.accept(new).await.unwrap());
    }
    assert_eq!(rig.take_all(NOW, MANY).await.0, ["8-0"]);
    rig.record(first, Event::RECEIPT, NOW).await;
    let (came, times) = rig.take_all(NOW, MANY).await;
    assert_eq!(came, (0..LONG).map(|n| format!("b{n}")).collect::<Vec<_>>());
    assert!(times <= LONG / 100 + 1, "{times}");
}

#[tokio::test]
async fn whichever_way_the_first_leaves_the_queue_the_next_takes_its_place() {
    for leaves in [Event::RECEIPT, accepted(), Event::Expired, Event::Cancelled] {
        let mut rig = Rig::new(Limits::default());
        rig.queue(1, 7).await;
        let first = rig.take_one(NOW).await;
        rig.record(first, retry(NOW + 600_000), NOW).await;
        for id in ["a1", "a2"] {
            let new = rig.new_message(id);
            rig.accept(new).await;
        }
        assert_eq!(rig.take(NOW).await.claimed, []);
        rig.record(first, leaves, NOW).await;
        assert_eq!(ids(&rig.take(NOW).await), ["a1", "a2"]);
    }
}

#[tokio::test]
async fn whichever_way_the_first_leaves_its_transport_the_next_takes_its_place() {
    for leaves in [Event::RECEIPT, accepted(), back(Fate::Expired, 1), unsendable()] {
        let mut rig = Rig::new(Limits::default());
        rig.queue(3, 7).await;
        let first = rig.take_by(NOW, 9, Pipelining::OneAtATime).await.claimed[0].sid;
        rig.record(first, leaves, NOW).await;
        assert_eq!(ids(&rig.take_by(NOW, 9, Pipelining::OneAtATime).await), ["7-1"]);
    }
    for back in [back(Fate::Lost, 0), back(Fate::Lost, 1), retry(NOW)] {
        let mut rig = Rig::new(Limits::default());
        rig.queue(3, 7).await;
        let first = rig.take_by(NOW, 9, Pipelining::OneAtATime).await.claimed[0].sid;
        rig.record(first, back, NOW).await;
        assert_eq!(ids(&rig.take_by(NOW, 9, Pipelining::OneAtATime).await), ["7-0"], "and what came back goes first");
    }
}

#[tokio::test]
async fn nothing_goes_beside_a_message_that_is_tried_again() {
    let mut rig = Rig::new(Limits::default());
    rig.queue(4, 7).await;
    let together = rig.take_by(NOW, 2, MANY).await.claimed;
    rig.record(together[0].sid, retry(NOW + 1), NOW).await;
    rig.record(together[1].sid, accepted(), NOW).await;
    assert_eq!(ids(&rig.take(NOW + 1).await), ["7-0"]);
    rig.record(together[0].sid, accepted(), NOW).await;
    assert_eq!(ids(&rig.take(NOW + 1).await), ["7-2", "7-3"]);
}

#[tokio::test]
async fn what_was_not_tried_is_not_tried_again() {
    let mut rig = Rig::new(Limits::default());
    rig.queue(3, 7).await;
    let first = rig.take_one(NOW).await;
    rig.record(first, back(Fate::Lost, 0), NOW).await;
    assert_eq!(ids(&rig.take(NOW).await), ["7-0", "7-1", "7-2"]);
}

#[tokio::test]
async fn after_a_crash_those_behind_a_retry_go_as_soon_as_it_is_over() {
    let mut rig = Rig::new(Limits::default());
    rig.queue(3, 7).await;
    assert_eq!(rig.take(NOW).await.claimed.len(), 3);
    let rig = rig.crash();
    let one = rig.take(NOW).await;
    assert_eq!(ids(&one), ["7-0"]);
    rig.record(one.claimed[0].sid, retry(NOW + 600_000), NOW).await;
    assert_eq!(rig.take(NOW).await.claimed, []);
    // They were handed out before, like the first; but they were not refused, and have no time to wait for.
    rig.record(one.claimed[0].sid, Event::RECEIPT, NOW).await;
    let next = rig.take(NOW).await;
    assert_eq!(ids(&next), ["7-1"]);
    rig.record(next.claimed[0].sid, accepted(), NOW).await;
    assert_eq!(ids(&rig.take(NOW).await), ["7-2"]);
}

#[tokio::test]
async fn a_crash_leaves_nobody_behind_and_another_pace_holds_from_then_on() {
    let mut rig = Rig::new(Limits::default());
    rig.queue(4, 7).await;
    assert_eq!(ids(&rig.take_by(NOW, 100, Pipelining::OneAtATime).await), ["7-0"]);
    let rig = rig.crash();
    let first = rig.take(NOW).await;
    assert_eq!(ids(&first), ["7-0"]);
    rig.record(first.claimed[0].sid, accepted(), NOW).await;
    assert_eq!(ids(&rig.take(NOW).await), ["7-1", "7-2", "7-3"]);
}

#[tokio::test]
async fn a_start_leaves_the_time_of_what_was_put_off() {
    let mut rig = Rig::new(Limits::default());
    rig.queue(2, 7).await;
    let first = rig.take_one(NOW).await;
    rig.record(first, back(Fate::Deferred { wait: Duration::from_secs(5), why: "quota".into() }, 0), NOW).await;
    assert_eq!(rig.take(NOW).await.claimed, []);
    let rig = rig.crash();
    let taken = rig.take(NOW + 4_999).await;
    assert_eq!((taken.claimed, taken.next_due), (vec![], Some(NOW + 5_000)));
    assert_eq!(ids(&rig.take(NOW + 5_000).await), ["7-0", "7-1"]);
}

#[tokio::test]
async fn a_message_whose_turn_comes_late_takes_its_place_before_younger_ones() {
    for again in [back(Fate::Lost, 0), retry(NOW)] {
        let mut rig = Rig::new(Limits::default());
        let (mut first, mut second, third) = (rig.new_message("a1"), rig.new_message("a2"), rig.new_message("a3"));
        first.push().recipient = Recipient(8);
        first.push().receipt = false;
        (first.order, second.order) = (Some("k".to_owned()), Some("k".to_owned()));
        let sids = [first.sid, third.sid];
        for new in [first, second, third] {
            rig.accept(new).await;
        }
        assert_eq!(ids(&rig.take(NOW).await), ["a1", "a3"]);
        rig.record(sids[0], accepted(), NOW).await;
        rig.record(sids[1], again, NOW).await;
        assert_eq!(ids(&rig.take(NOW).await), ["a2", "a3"]);
    }
}

#[tokio::test]
async fn a_message_whose_turn_comes_while_others_are_in_flight_passes_no_older_one_that_never_waited() {
    let mut rig = Rig::new(Limits::default());
    let (mut before, flying) = (rig.new_message("a1"), rig.new_message("a2"));
    (before.push().recipient, before.push().receipt) = (Recipient(8), false);
    before.order = Some("k".to_owned());
    let sid = before.sid;
    rig.accept(before).await;
    rig.accept(flying).await;
    assert_eq!(ids(&rig.take(NOW).await), ["a1", "a2"]);
    let (older, mut behind) = (rig.new_message("a3"), rig.new_message("a4"));
    behind.order = Some("k".to_owned());
    rig.accept(older).await;
    rig.accept(behind).await;
    rig.record(sid, accepted(), NOW).await;
    assert_eq!(ids(&rig.take(NOW).await), ["a3", "a4"]);
}

#[tokio::test]
async fn what_loses_its_transport_takes_its_place_among_those_of_the_other() {
    let mut rig = Rig::new(Limits::default());
    let gone = Transport::parse("fcm-v1:gone").unwrap();
    let mut new = rig.new_message("a1");
    new.push().transport = gone;
    rig.accept(new).await;
    let new = rig.new_message("a2");
    let sid = new.sid;
    rig.accept(new).await;
    rig.take(NOW).await;
    rig.record(sid, retry(NOW), NOW).await;
    let rig = rig.reopen().await;
    assert_eq!(ids(&rig.take(NOW).await), ["a1", "a2"]);
}

#[tokio::test]
async fn a_parked_message_is_shown_without_a_time() {
    let mut rig = Rig::new(Limits::default());
    rig.queue(2, 7).await;
    assert_eq!(rig.take_by(NOW, 100, Pipelining::OneAtATime).await.next_due, None);
    let traces = rig.inspector().trace("7-1").unwrap();
    let [Trace::Delivery(life)] = &traces[..] else { panic!("{traces:?}") };
    assert_eq!(life.due_at, None);
}
