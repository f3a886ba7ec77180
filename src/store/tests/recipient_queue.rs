//! Long lines: what waits costs nothing while it waits, holds up nobody else, and goes in its order.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// More than one call looks at.
const LONG: usize = 2_500;

impl Rig {
    async fn recipient_queue(&mut self, length: usize, recipient: i64) {
        let mut pending = Vec::new();
        for n in 0..length {
            let mut new = self.new_delivery(&format!("{recipient}-{n}"));
            new.recipient = recipient;
            pending.push(self.store.accept(new).await.unwrap());
        }
        for committed in pending {
            assert_eq!(committed.await.unwrap(), Accepted::Stored);
        }
    }

    /// Takes until nothing more is due; returns what came and how often it had to ask.
    async fn take_all(&self, now: u64, gate: &Gate) -> (Vec<String>, usize) {
        let (mut all, mut asked) = (Vec::new(), 0);
        loop {
            let taken = self.take_by(now, 100, gate.clone()).await;
            asked += 1;
            all.extend(ids(&taken));
            if taken.next_due.is_none_or(|due| due > now) {
                return (all, asked);
            }
        }
    }
}

/// Holds everything of `recipient`, and counts how often it is asked.
fn closed_for(recipient: i64, hold: Hold) -> (Gate, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let gate = Gate::new(move || {
        let count = count.clone();
        move |whose, _| {
            count.fetch_add(1, Relaxed);
            (whose == recipient).then_some(hold)
        }
    });
    (gate, asked)
}

#[tokio::test]
async fn a_long_line_holds_up_nobody_else_and_is_looked_at_once() {
    let mut rig = Rig::new(Limits::default());
    rig.recipient_queue(LONG, 7).await;
    rig.recipient_queue(1, 8).await;
    let (gate, asked) = closed_for(7, Hold::UntilCalled);
    let (came, times) = rig.take_all(NOW, &gate).await;
    assert_eq!(came, ["8-0"]);
    assert!(times <= 3, "asked {times} times for what a call looks at in three");
    assert_eq!(asked.swap(0, Relaxed), 2, "only for the first of each line");
    let later = NOW + 60_000;
    assert_eq!((rig.take_all(later, &gate).await, asked.load(Relaxed)), ((vec![], 1), 0));
}

#[tokio::test]
async fn a_long_line_that_may_go_goes_in_order_and_is_handed_out_at_once() {
    let mut rig = Rig::new(Limits::default());
    rig.recipient_queue(LONG, 7).await;
    let (gate, _) = closed_for(7, Hold::UntilCalled);
    rig.take_all(NOW, &gate).await;
    rig.unpark(7).await;
    let (came, times) = rig.take_all(NOW, &anybody()).await;
    assert_eq!(came, (0..LONG).map(|n| format!("7-{n}")).collect::<Vec<_>>());
    assert!(times <= LONG / 100 + 1, "{times}");
}

#[tokio::test]
async fn of_a_line_that_waits_for_a_place_only_the_first_is_looked_at() {
    let mut rig = Rig::new(Limits::default());
    rig.recipient_queue(LONG, 7).await;
    let (gate, _) = closed_for(7, Hold::Until(NOW + 100));
    rig.take_all(NOW, &gate).await;
    let (gate, asked) = closed_for(7, Hold::Until(NOW + 200));
    assert_eq!((rig.take_all(NOW + 100, &gate).await, asked.load(Relaxed)), ((vec![], 1), 1));
    assert_eq!(rig.take_by(NOW + 200, 3, anybody()).await.claimed.len(), 3);
}

#[tokio::test]
async fn whichever_way_the_first_leaves_the_line_the_next_takes_its_place() {
    for leaves in [Event::Receipt, accepted(), Event::Expired { copies: 0, held: None }, Event::Cancelled] {
        let mut rig = Rig::new(Limits::default());
        rig.recipient_queue(1, 7).await;
        let first = rig.take(NOW).await.claimed[0].sid;
        rig.record(first, retry(NOW + 600_000), NOW).await;
        for id in ["a1", "a2"] {
            let new = rig.new_delivery(id);
            rig.accept(new).await;
        }
        assert_eq!(rig.take(NOW).await.claimed, []);
        rig.record(first, leaves, NOW).await;
        assert_eq!(ids(&rig.take(NOW).await), ["a1", "a2"]);
    }
}

#[tokio::test]
async fn after_a_crash_those_behind_a_retry_go_as_soon_as_it_is_over() {
    let mut rig = Rig::new(Limits::default());
    rig.recipient_queue(3, 7).await;
    assert_eq!(rig.take(NOW).await.claimed.len(), 3);
    let rig = rig.crash();
    assert_eq!(rig.recovery.retrying.len(), 3);
    let one = rig.take_by(NOW, 1, anybody()).await;
    let (behind, _) = closed_for(7, Hold::UntilCalled);
    rig.record(one.claimed[0].sid, retry(NOW + 600_000), NOW).await;
    assert_eq!(rig.take_by(NOW, 100, behind).await.claimed, []);
    // They were handed out before, like the first; but they were not refused, and have no time to wait for.
    rig.record(one.claimed[0].sid, Event::Receipt, NOW).await;
    assert_eq!(ids(&rig.take(NOW).await), ["7-1", "7-2"]);
}

#[tokio::test]
async fn a_crash_between_the_end_of_a_retry_and_the_call_for_the_next_leaves_nobody_behind() {
    let mut rig = Rig::new(Limits::default());
    rig.recipient_queue(3, 7).await;
    let (gate, _) = closed_for(7, Hold::UntilCalled);
    assert_eq!(rig.take_by(NOW, 100, gate).await.claimed, []);
    let rig = rig.crash();
    assert_eq!(ids(&rig.take(NOW).await), ["7-0", "7-1", "7-2"]);
}

#[tokio::test]
async fn a_parked_message_is_shown_without_a_time() {
    let mut rig = Rig::new(Limits::default());
    rig.recipient_queue(1, 7).await;
    let (gate, _) = closed_for(7, Hold::UntilCalled);
    assert_eq!(rig.take_by(NOW, 100, gate).await.next_due, None);
    let traces = rig.inspector().trace("7-0").unwrap();
    let [Trace::Delivery(life)] = &traces[..] else { panic!("{traces:?}") };
    assert_eq!(life.due_at, None);
}

#[test]
fn the_log_line_of_a_start_stays_short() {
    let mut sids = SidSource::default();
    let retrying = |n| Retrying { recipient: n, transport: Transport::Ccs, sid: sids.next(NOW, 0) };
    let recovery = Recovery { retrying: (0..4096).map(retrying).collect(), ..Recovery::default() };
    let recipient_queue = format!("{recovery:?}");
    assert!(recipient_queue.contains("retrying: 4096") && recipient_queue.len() < 300, "{recipient_queue}");
}
