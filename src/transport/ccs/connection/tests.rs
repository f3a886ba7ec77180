//! One connection between a driver and a peer that the test plays.

use super::*;
use crate::ccs::payload::Receipt;
use crate::ccs::settings::{Limits, Timing};
use crate::ccs::write;
use crate::secret::Secret;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Takes everything until a message has been written, and then fails.
struct FailsAfterMessage(bool);

impl AsyncWrite for FailsAfterMessage {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.0 = bytes.windows(5).any(|window| window == b"<gcm ");
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Driven {
    task: Task,
    session_io: SessionIo,
    reader: DuplexStream,
    peer: DuplexStream,
    orders: mpsc::Sender<Order<String>>,
    events: mpsc::Receiver<(ConnectionId, core::Event<Answer>)>,
    _retire: watch::Sender<Option<Manner>>,
}

/// A connection of which all that the peer says in the log-in is in the socket already.
async fn driven() -> Driven {
    let id = ConnectionId(1);
    let (orders, orders_rx) = mpsc::channel(8);
    let (retire, retire_rx) = watch::channel(None);
    let (events_tx, events) = mpsc::channel(64);
    let config = SessionConfig {
        xmpp_domain: "gcm".to_owned(),
        user: "1@gcm".to_owned(),
        key: Secret::new("key"),
        resource: "test".to_owned(),
        window: 3,
        limits: Limits::default(),
        timing: Timing::default(),
    };
    let (reader, mut peer) = tokio::io::duplex(64 * 1024);
    let mut login = String::new();
    write::server_header(&mut login, "gcm", "1");
    write::mechanisms(&mut login, &["PLAIN"]);
    write::success(&mut login);
    write::server_header(&mut login, "gcm", "2");
    write::bind_features(&mut login);
    write::bind_result(&mut login, Some("bind-1"), "1@gcm/x");
    peer.write_all(login.as_bytes()).await.unwrap();
    let task = Task::new(id, orders_rx, retire_rx, events_tx);
    Driven { task, session_io: SessionIo::new(id, config), reader, peer, orders, events, _retire: retire }
}

fn ack(sid: Sid) -> String {
    let mut text = String::new();
    let json = format!(r#"{{"message_type":"ack","message_id":"{sid}"}}"#);
    write::server_message(&mut text, &[], write::Spelling::Gcm, &json);
    text
}

fn sid(number: u64) -> Sid {
    crate::chat::id::SidSource::default().next(number, 0)
}

/// What a connection says of two messages, of which the second cannot be written, and how long it lives after that.
async fn after_a_failed_write(peer_closes: bool) -> (Vec<Sid>, Duration) {
    let Driven { mut task, mut session_io, reader, mut peer, orders, mut events, _retire } = driven().await;
    let order = |number| Order::Send(sid(number), format!(r#"{{"to":"T","message_id":"{}"}}"#, sid(number)));
    let mut writer = FailsAfterMessage(false);
    let mut answered = Vec::new();
    let script = async {
        while !matches!(events.recv().await, Some((_, core::Event::Up { .. }))) {}
        orders.send(order(1)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        orders.send(order(2)).await.unwrap();
        while !matches!(events.recv().await, Some((_, core::Event::Capacity(0)))) {}
        let failed = Instant::now();
        // It was under way when the write failed.
        peer.write_all(ack(sid(1)).as_bytes()).await.unwrap();
        if peer_closes {
            drop(peer);
            return (failed, None, events);
        }
        (failed, Some(peer), events)
    };
    let run = run_session(&mut task, &mut session_io, reader, &mut writer);
    let ((failed, _peer, mut events), reason) = tokio::join!(script, run);
    assert_eq!(reason, Reason::Broken);
    let lived = failed.elapsed();
    let left = std::mem::take(&mut session_io.events_out);
    drop((task, session_io));
    let mut told: Vec<_> = left.into_iter().collect();
    while let Ok((_, event)) = events.try_recv() {
        told.push(event);
    }
    for event in told {
        if let core::Event::Answered(sid, Answer::Taken { .. }) = event {
            answered.push(sid);
        }
    }
    (answered, lived)
}

#[tokio::test(start_paused = true)]
async fn answers_that_were_under_way_when_a_write_failed_are_read_before_the_connection_ends() {
    assert_eq!(after_a_failed_write(true).await, (vec![sid(1)], Duration::ZERO));
    assert_eq!(after_a_failed_write(false).await, (vec![sid(1)], READ_AFTER_WRITE_FAILED));
}

#[test]
fn a_receipt_that_does_not_say_what_became_of_the_message_says_that_the_device_has_it() {
    let told = |status: Option<&str>| {
        let receipt = Receipt {
            from: "gcm".to_owned(),
            message_id: "dr2:x".to_owned(),
            category: None,
            original_message_id: None,
            status: status.map(str::to_owned),
            device_registration_id: None,
            sent_at_ms: None,
        };
        match event_of(ConnectionId(1), Event::Receipt(receipt), 1) {
            Some(core::Event::Receipt(core::Receipt { status, .. })) => status,
            other => panic!("{other:?}"),
        }
    };
    for status in [None, Some(""), Some(" "), Some(payload::SENT_TO_DEVICE)] {
        assert_eq!(told(status), payload::SENT_TO_DEVICE);
    }
    assert_eq!(told(Some("NEWS")), "NEWS");
}
