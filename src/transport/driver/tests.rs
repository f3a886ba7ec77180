//! The driver between a bridge and connections that the test plays.

use super::super::core::{Admission, Message, OnConnectionEnd, Pool, Verdict};
use super::*;
use crate::chat::id::{Recipient, SidSource, Token};
use crate::chat::push::{Priority, Push, Target};
use crate::transport::{Send, port};
use serde_json::Map;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// A service that admits everything, and takes it.
struct Plain;

impl Service for Plain {
    type Memo = ();
    type Request = ();
    type Answer = ();

    fn admit(&mut self, _message: &mut Message<()>, _now: Now) -> Admission<()> {
        Admission::Go(())
    }

    fn decide(&mut self, _message: &mut Message<()>, _answer: (), _now: Now) -> Verdict {
        Verdict::Back(Fate::ACCEPTED)
    }
}

fn settings() -> ServiceSettings {
    ServiceSettings {
        server: "server".to_owned(),
        pool: Pool::Fixed(1),
        window: 3,
        on_connection_end: OnConnectionEnd::Rewrite,
        answer_timeout: Some(MINUTE),
        drain_limit: MINUTE,
        redial_max: MINUTE,
        stop_timeout: MINUTE,
    }
}

fn send(number: i64) -> Send {
    let push = Push {
        target: Target::Token(Token::new("token").unwrap()),
        data: Map::new(),
        notification: None,
        priority: Priority::High,
        collapse: None,
        receipt: false,
        fcm: Map::new(),
    };
    let sid = SidSource::default().next(number.unsigned_abs(), 1);
    Send { sid, push, recipient: Recipient(number), accepted_ms: 0, deadline_ms: u64::MAX }
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_peer_does_not_read_is_replaced_and_given_no_message_any_more() {
    let (dialed_tx, mut dialed) = mpsc::channel(1);
    let connect = move |task: Task<(), ()>| {
        let dialed_tx = dialed_tx.clone();
        async move { dialed_tx.send(task).await.unwrap() }
    };
    let (port, outlet) = port(16, 16, 16);
    let (_wake, wakes) = mpsc::channel(1);
    let mut driver = JoinSet::new();
    driver.spawn(Driver::new(settings(), Plain, wakes, connect).run(outlet, CancellationToken::new()));

    let mut first = dialed.recv().await.unwrap();
    first.events.send(Event::Up { capacity: 3 }).await;
    let ack_ref = AckRef { connection: first.id, to: "device".to_owned(), message_id: "m".to_owned() };
    for _ in 0..=settings().window + ACKS {
        port.acks.send(ack_ref.clone()).await.unwrap();
    }
    first.retire.changed().await.unwrap();
    assert_eq!(*first.retire.borrow(), Some(Manner::Now));
    // It has not ended yet, and there is room for orders again.
    while first.orders.try_recv().is_ok() {}
    port.sends.send(send(1)).await.unwrap();
    let next = tokio::time::timeout(MINUTE, dialed.recv()).await;
    let mut second = next.expect("another connection is opened").unwrap();
    second.events.send(Event::Up { capacity: 3 }).await;
    assert!(matches!(second.orders.recv().await, Some(Order::Send(..))));
    assert!(first.orders.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_waits_for_the_driver_is_not_missing() {
    // Which of several things that are there it takes first is chance.
    for _ in 0..20 {
        let (dialed_tx, mut dialed) = mpsc::channel(2);
        let connect = move |task: Task<(), ()>| {
            let dialed_tx = dialed_tx.clone();
            async move { dialed_tx.send(task).await.unwrap() }
        };
        let (mut port, outlet) = port(16, 16, 1);
        let (_wake, wakes) = mpsc::channel(1);
        let mut driver = JoinSet::new();
        driver.spawn(Driver::new(settings(), Plain, wakes, connect).run(outlet, CancellationToken::new()));

        let mut connection = dialed.recv().await.unwrap();
        connection.events.send(Event::Up { capacity: 3 }).await;
        let mut sids = Vec::new();
        for number in 1..=2 {
            port.sends.send(send(number)).await.unwrap();
            let Some(Order::Send(sid, ())) = connection.orders.recv().await else { panic!("an order") };
            sids.push(sid);
        }
        // The bridge has not taken the news of the connection yet, so the first answer waits, and what is behind it.
        tokio::time::sleep(MINUTE - Duration::from_millis(600)).await;
        connection.events.send(Event::Answered(sids[0], ())).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        connection.events.send(Event::Answered(sids[1], ())).await;
        tokio::time::sleep(Duration::from_millis(800)).await;
        assert!(matches!(port.reports.recv().await, Some(Report::Connection { .. })));
        for sid in sids {
            let report = port.reports.recv().await;
            assert!(
                matches!(report, Some(Report::Back { sid: which, fate: Fate::Accepted { .. }, .. }) if which == sid),
                "{report:?}"
            );
        }
        tokio::time::sleep(MINUTE).await;
        assert!(dialed.try_recv().is_err(), "nothing is wrong with the connection");
    }
}
