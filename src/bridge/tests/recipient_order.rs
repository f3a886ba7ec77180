//! Many messages to one recipient, and one of them in the way of the others.

use super::transports::{both, v1};
use super::*;
use crate::chat::delivery::{Event, Fate};
use crate::chat::id::{MessageId, SidSource};
use crate::chat::push::Target;
use crate::chat::recipient_queue::Pipelining;
use crate::chat::refusal::RetryClock;
use crate::store::{Deliveries, DueQuery, NewMessage, NewPush};
use tokio::task::JoinHandle;

/// More than the store looks at in one call.
const LONG: usize = 3_000;
/// Much less than it takes to find by and by, one look after the other, what is behind a long queue.
const SOON: Duration = Duration::from_secs(5);

fn to(token: &str) -> Target {
    Target::Token(Token::new(token).unwrap())
}

impl Harness {
    /// Nobody reads the statuses here; they are confirmed.
    fn drain(&mut self) -> JoinHandle<()> {
        let mut publish = std::mem::replace(&mut self.mqtt.publish, mpsc::channel(1).1);
        #[expect(clippy::disallowed_methods, reason = "ends with the test")]
        tokio::spawn(async move {
            while let Some(outbound) = publish.recv().await {
                let _ = outbound.outcome.send(Outcome::Confirmed);
            }
        })
    }

    async fn queue(&self, length: usize, category: Option<&str>) {
        let mut words = Vec::new();
        for n in 0..length {
            let message = json!({"id": format!("b{n}"), "token": "T", "category": category, "ttl": 600, "data": {}});
            words.push(self.publish("c/self/messages", &message).await);
        }
        for word in words {
            assert_eq!(timeout(word).await, Ok(AckWord::Done));
        }
    }
}

#[tokio::test]
async fn a_long_line_behind_a_retry_starves_nobody_else() {
    let mut harness = Harness::open();
    harness.message("a0", "T", 600).await;
    let first = harness.sent().await.sid;
    harness.refuse(first, Wait::AtLeast(Duration::from_millis(1))).await;
    let again = harness.sent().await;
    assert_eq!(again.sid, first);
    let drain = harness.drain();
    harness.queue(LONG, None).await;
    // `a0` is with the transport meanwhile, as it is for up to 20 s when the push service does not answer.
    harness.message("x", "X", 600).await;
    let sent = tokio::time::timeout(SOON, harness.sent()).await.expect("another recipient is held up");
    assert_eq!(sent.push.target, to("X"));
    harness.report(accepted(first)).await;
    let mut last = first;
    for _ in 0..LONG {
        let sid = harness.sent().await.sid;
        assert!(sid > last, "the queue goes in its order");
        last = sid;
        harness.report(accepted(sid)).await;
    }
    drain.abort();
}

#[tokio::test]
async fn a_long_recipient_queue_delays_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let settings = Settings { claims: 256, ..both() };
    let mut harness = Harness::open_by(dir, path, settings, &[Transport::Ccs, v1()]);
    let drain = harness.drain();
    harness.queue(LONG, Some("com.example.chat")).await;
    for n in 0..3 {
        harness.chat(&format!("x{n}"), &format!("X{n}")).await;
        let to_others = async { while harness.sent_by_fcm().await.push.target == to("T") {} };
        tokio::time::timeout(SOON, to_others).await.expect("other recipients wait for it");
    }
    drain.abort();
}

#[tokio::test]
async fn after_a_crash_a_confirmation_lets_the_next_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let mut harness = Harness::open_by(dir, path, both(), &[Transport::Ccs, v1()]);
    harness.chat("a1", "T").await;
    harness.chat("a2", "T").await;
    let first = harness.sent_by_fcm().await.sid;
    let (dir, path) = harness.close().await;
    let mut harness = Harness::open_by(dir, path, both(), &[Transport::Ccs, v1()]);
    let again = harness.sent_by_fcm().await;
    assert_eq!(again.sid, first);
    harness.fcm_is_busy(first, Duration::from_secs(600)).await;
    // What comes after the refusal is on disk: `a2` was looked at and parked before `b1` went.
    harness.chat("b1", "X").await;
    assert_eq!(harness.sent_by_fcm().await.push.target, to("X"));
    let receipt = json!({"id": first.to_string(), "status": "received"});
    assert_eq!(timeout(harness.publish("alice/self/receipts", &receipt).await).await, Ok(AckWord::Done));
    let next = tokio::time::timeout(SOON, harness.sent_by_fcm()).await.expect("it waits for what is settled");
    assert!(next.sid > first && next.push.target == to("T"));
    harness.close().await;
}

#[tokio::test]
async fn a_retry_that_cannot_be_read_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    refused_once(&path, "T").await;
    let mut harness = Harness::open_at(dir, path);
    while harness.status().await.1 != "failed" {}
    harness.message("a1", "T", 600).await;
    let sent = tokio::time::timeout(SOON, harness.sent()).await.expect("it waits for a message that failed");
    assert_eq!(sent.push.target, to("T"));
    harness.close().await;
}

/// Leaves a message in the store that is tried again, and whose body is of a later release.
async fn refused_once(path: &std::path::Path, token: &str) {
    let (store, writer, _) = sqlite::open(&sqlite::Settings::new(path), now_ms()).unwrap();
    let sid = SidSource::default().next(now_ms(), 1);
    let (recipient, transport, deadline_ms) = (to(token).recipient(), Transport::Ccs, now_ms() + 600_000);
    let new = NewMessage {
        sid,
        bal: Owner::new("c").unwrap(),
        id: MessageId::new("old").unwrap(),
        order: None,
        body: bytes::Bytes::from_static(b"of a later release"),
        accepted_at: now_ms(),
        reply: "c/others/receipts".into(),
        correlation: None,
        notice: None,
        deliveries: Deliveries::Only(NewPush { recipient, transport, deadline_ms, receipt: true }),
    };
    store.accept(new).await.unwrap().await.unwrap();
    let query = DueQuery {
        transport: Transport::Ccs,
        now: now_ms(),
        limit: 10,
        taken_on_accept: 0,
        pipelining: Pipelining::OneAtATime,
    };
    assert_eq!(store.take_due(query).await.unwrap().await.unwrap().claimed.len(), 1);
    let decision =
        Decision::Retry { wait: Wait::AtLeast(Duration::ZERO), until: Until::Deadline, scope: Scope::Message };
    let clock = RetryClock { now_ms: now_ms(), deadline_ms: u64::MAX, longest: Duration::MAX, permille: 0 };
    let again = Event::Back { fate: Fate::Refused(Refusal::new(decision, "X", "")), copies: 1, replays: 0, clock };
    store.record(sid, again, now_ms()).await.unwrap().await.unwrap();
    writer.close().await.unwrap();
}
