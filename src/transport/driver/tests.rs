//! The driver between a bridge and connections that the test plays.

use super::super::core::{Admission, Message, Pool, Replay, Verdict};
use super::*;
use crate::chat::id::{Recipient, SidSource, Token};
use crate::chat::push::{Priority, Push, Target};
use crate::transport::port;
use serde_json::Map;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

/// A service that admits everything.
struct Plain;

impl Service for Plain {
    type Memo = ();
    type Request = ();
    type Answer = ();

    fn admit(&mut self, _message: &mut Message<()>, _now: Now) -> Admission<()> {
        Admission::Go(())
    }

    fn judge(&mut self, _message: &mut Message<()>, _answer: (), _now: Now) -> Verdict {
        Verdict::Again
    }
}

fn settings() -> Settings {
    Settings {
        server: "server".to_owned(),
        pool: Pool::Fixed(1),
        window: 3,
        replay: Replay::Marked,
        answer: Some(MINUTE),
        drain: MINUTE,
        redial_max: MINUTE,
        grace: MINUTE,
    }
}

fn send() -> Send {
    let push = Push {
        target: Target::Token(Token::new("token").unwrap()),
        data: Map::new(),
        notification: None,
        priority: Priority::High,
        collapse: None,
        receipt: false,
        fcm: Map::new(),
    };
    let sid = SidSource::default().next(1, 1);
    Send { sid, push, recipient: Recipient(1), accepted_ms: 0, deadline_ms: u64::MAX }
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_peer_does_not_read_is_replaced_and_given_no_message_any_more() {
    let (dialed_tx, mut dialed) = mpsc::channel(1);
    let connect = move |task: Task<(), ()>| {
        let dialed_tx = dialed_tx.clone();
        async move { dialed_tx.send(task).await.unwrap() }
    };
    let (port, outlet) = port(16, 16, 16);
    let (_nudge, nudges) = mpsc::channel(1);
    let mut driver = JoinSet::new();
    driver.spawn(Driver::new(settings(), Plain, nudges, connect).run(outlet, CancellationToken::new()));

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
    port.sends.send(send()).await.unwrap();
    let next = tokio::time::timeout(MINUTE, dialed.recv()).await;
    let mut second = next.expect("another connection is opened").unwrap();
    second.events.send(Event::Up { capacity: 3 }).await;
    assert!(matches!(second.orders.recv().await, Some(Order::Send(..))));
    assert!(first.orders.try_recv().is_err());
}
