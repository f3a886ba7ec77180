//! The way out, where it is rough.

use super::*;
use crate::chat::delivery::Fate;
use crate::chat::id::{MessageId, SidSource};
use crate::chat::push::{Push, Target};
use crate::store::{Deliveries, NewMessage, NewPush};
use crate::transport::{ConnectionChange, ConnectionId};
use futures_util::FutureExt;
use tokio::task::{unconstrained, yield_now};
use tokio::time::Instant;

const LATER: Wait = Wait::AtLeast(Duration::from_secs(600));

#[tokio::test]
async fn at_a_stop_publishers_are_neither_answered_nor_cut_off_while_their_documents_are_out() {
    let mut harness = Harness::open();
    harness.message("a1", "T", 600).await;
    let document = harness.published().await;
    harness.stops.intake.cancel();
    let mut words = Vec::new();
    // More than the way to the intake holds.
    for n in 0..40 {
        words.push(harness.publish("c/self/messages", &json!({"id": format!("b{n}"), "token": "T", "data": {}})).await);
    }
    assert!(words.iter_mut().all(|word| word.try_recv() == Err(oneshot::error::TryRecvError::Empty)));
    let _ = document.outcome.send(Outcome::Confirmed);
    harness.close().await;
    assert!(words.iter_mut().all(|word| word.try_recv() == Err(oneshot::error::TryRecvError::Closed)));
}

#[tokio::test]
async fn what_came_back_while_the_push_service_is_away_is_not_counted_as_in_flight() {
    let mut harness = Harness::open();
    harness.message("a1", "T", 600).await;
    let sid = harness.sent().await.sid;
    let in_flight = async |harness: &Harness, count| {
        while harness.metrics.get(Metric::InFlight) != count {
            yield_now().await;
        }
    };
    timeout(in_flight(&harness, 1)).await;
    harness.transport.link.send_replace(Link::UNCONNECTED);
    harness.report(Report::Back { sid, fate: Fate::Lost, copies: 1, replays: 0 }).await;
    timeout(in_flight(&harness, 0)).await;
    harness.close().await;
}

#[tokio::test]
async fn a_retry_that_expires_lets_the_recipients_next_message_go() {
    let mut harness = Harness::open();
    harness.message("a1", "T", 1).await;
    let sid = harness.sent().await.sid;
    harness.refuse(sid, LATER).await;
    harness.message("a2", "T", 600).await;
    assert!(harness.sent().await.sid > sid);
    // Another task may have found it expired, and counts it after the commit.
    timeout(async {
        while harness.metrics.get(Metric::DownstreamExpired) != 1 {
            yield_now().await;
        }
    })
    .await;
    harness.close().await;
}

#[tokio::test]
async fn a_retry_that_arrived_all_the_same_lets_the_recipients_next_message_go() {
    let mut harness = Harness::open();
    harness.message("a1", "T", 600).await;
    let sid = harness.sent().await.sid;
    harness.refuse(sid, LATER).await;
    harness.receipt(&sid.to_string()).await;
    harness.message("a2", "T", 600).await;
    assert!(harness.sent().await.sid > sid);
    harness.close().await;
}

#[tokio::test]
async fn what_was_put_off_behind_a_retry_goes_when_the_retry_is_not_needed_any_more() {
    let mut harness = Harness::open();
    harness.message("a1", "T", 600).await;
    let first = harness.sent().await.sid;
    harness.refuse(first, LATER).await;
    harness.message("a2", "T", 600).await;
    harness.message("b1", "U", 600).await;
    // The store hands out in order: `a2` was looked at, and put off, before `b1` went.
    assert_eq!(harness.sent().await.push.target, device("U"));
    harness.receipt(&first.to_string()).await;
    assert_eq!(harness.sent().await.push.target, device("T"));
    harness.close().await;
}

fn device(token: &str) -> Target {
    Target::Token(Token::new(token).unwrap())
}

#[tokio::test]
async fn a_refusal_that_comes_after_the_receipt_holds_up_nobody() {
    let mut harness = Harness::open();
    harness.message("a1", "T", 600).await;
    let sid = harness.sent().await.sid;
    harness.receipt(&sid.to_string()).await;
    harness.refuse(sid, LATER).await;
    harness.message("a2", "T", 600).await;
    assert!(harness.sent().await.sid > sid);
    harness.close().await;
}

#[tokio::test]
async fn what_is_not_handed_over_yet_waits_behind_a_refused_one() {
    let mut harness = Harness::open_for(settings_of(16));
    for n in 0..40 {
        harness.message(&format!("a{n}"), "T", 600).await;
    }
    let first = harness.sent().await.sid;
    harness.refuse(first, Wait::AtLeast(Duration::from_millis(300))).await;
    let mut order = Vec::new();
    while order.last() != Some(&first) {
        let sid = harness.sent().await.sid;
        harness.report(accepted(sid)).await;
        order.push(sid);
    }
    assert!(order.len() <= 16, "{} messages overtook the refused one", order.len() - 1);
    while order.len() < 40 {
        let sid = harness.sent().await.sid;
        harness.report(accepted(sid)).await;
        order.push(sid);
    }
    order.retain(|sid| *sid != first);
    assert!(order.is_sorted());
    harness.close().await;
}

/// At most so many are with the transport.
fn settings_of(claims: usize) -> Settings {
    Settings { claims, ..settings() }
}

#[tokio::test]
async fn what_the_transport_never_got_is_not_marked_as_a_possible_duplicate() {
    let mut harness = Harness::open_for(settings_of(64));
    harness.transport.link.send_replace(Link::UNCONNECTED);
    for n in 0..40 {
        harness.message(&format!("a{n}"), "T", 600).await;
    }
    // The transport ends while the dispatcher waits for what it has claimed.
    let other = rusqlite::Connection::open(&harness.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    harness.transport.link.send_replace(Link::Up);
    tokio::time::sleep(Duration::from_millis(100)).await;
    harness.transport.sends.close();
    other.execute_batch("ROLLBACK").unwrap();
    let (dir, path) = harness.close().await;
    let mut harness = Harness::open_at(dir, path);
    for _ in 0..40 {
        let sid = harness.sent().await.sid;
        harness.report(accepted(sid)).await;
    }
    let marks = loop {
        let (_, status) = harness.read().await;
        if status["id"] == "a25" && status["status"] == "sent" {
            break (status["dup_possible"].clone(), status["attempt"].clone());
        }
    };
    assert_eq!(marks, (Value::Null, json!(1)));
    harness.close().await;
}

/// More than the dispatcher needs to do what it has to do.
async fn let_it_work() {
    for _ in 0..100 {
        yield_now().await;
    }
}

fn new_message(sid: Sid, push: &Push) -> NewMessage {
    NewMessage {
        sid,
        bal: Owner::new("c").unwrap(),
        id: MessageId::from(sid),
        order: None,
        body: push.to_body().into(),
        accepted_at: now_ms(),
        reply: "c/others/receipts".into(),
        correlation: None,
        notice: None,
        deliveries: Deliveries::Only(NewPush {
            recipient: push.target.recipient(),
            transport: Transport::Ccs,
            deadline_ms: now_ms() + 600_000,
            receipt: false,
        }),
    }
}

impl Harness {
    /// Returns when new messages are claimed on acceptance; yields the last one.
    async fn goes_at_once(&mut self) -> Send {
        let gone = self.store.on_accept_wakes();
        loop {
            self.message(&format!("w{}", self.store.figures().verbs), "T", 600).await;
            let sent = self.sent().await;
            self.report(accepted(sent.sid)).await;
            while self.status().await.1 != "sent" {}
            if gone.has_changed().unwrap() {
                return sent;
            }
        }
    }
}

#[tokio::test]
async fn nothing_passes_a_message_that_went_back_while_its_transport_was_away_for_a_moment() {
    let mut harness = Harness::open();
    let push = harness.goes_at_once().await.push;
    let mut sids = SidSource::default();
    let [first, second] = [(), ()].map(|()| sids.next(now_ms(), 1));
    // Nobody else works until the next `await`: the dispatcher finds its transport away, and one message.
    harness.transport.link.send_replace(Link::UNCONNECTED);
    let mut accepted = harness.store.accept(new_message(first, &push)).now_or_never().unwrap().unwrap();
    while unconstrained(&mut accepted).now_or_never().is_none() {
        std::thread::yield_now();
    }
    // The other one is accepted before the store hears that the first has gone back.
    let disk = rusqlite::Connection::open(&harness.path).unwrap();
    disk.execute_batch("BEGIN IMMEDIATE").unwrap();
    let _accepted = harness.store.accept(new_message(second, &push)).now_or_never().unwrap().unwrap();
    let_it_work().await;
    harness.transport.link.send_replace(Link::Up);
    disk.execute_batch("ROLLBACK").unwrap();
    assert_eq!([harness.sent().await.sid, harness.sent().await.sid], [first, second]);
    harness.close().await;
}

#[tokio::test]
async fn what_is_accepted_when_the_transport_has_ended_is_not_left_in_flight() {
    let mut harness = Harness::open();
    harness.goes_at_once().await;
    let_it_work().await;
    drop(std::mem::replace(&mut harness.transport, transport::port(1, 1, 1).1));
    let_it_work().await;
    harness.message("last", "T", 600).await;
    let (dir, path) = harness.close().await;
    let mut harness = Harness::open_at(dir, path);
    let sid = harness.sent().await.sid;
    harness.report(accepted(sid)).await;
    let sent = loop {
        let (_, status) = harness.read().await;
        if status["id"] == "last" && status["status"] == "sent" {
            break status;
        }
    };
    assert_eq!(sent["dup_possible"], Value::Null, "no transport ever had it");
    harness.close().await;
}

#[tokio::test]
async fn a_connection_that_breaks_with_many_open_pauses_nobody() {
    let mut harness = Harness::open();
    for n in 0..31 {
        harness.message(&format!("a{n}"), &format!("T{n}"), 600).await;
    }
    for _ in 0..30 {
        let sid = harness.sent().await.sid;
        let decision = Decision::Retry {
            wait: Wait::Backoff(Duration::from_secs(600)),
            until: Until::Deadline,
            scope: Scope::Message,
        };
        let refusal = Refusal::new(decision, "AMBIGUOUS", "").maybe_arrived();
        harness.report(Report::Back { sid, fate: Fate::Refused(refusal), copies: 1, replays: 0 }).await;
    }
    harness.sent().await;
    let start = Instant::now();
    harness.message("b", "U", 600).await;
    harness.sent().await;
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    harness.close().await;
}

#[tokio::test]
async fn one_burst_of_refusals_is_one_pause() {
    let mut harness = Harness::open();
    for n in 0..60 {
        harness.message(&format!("a{n}"), &format!("T{n}"), 600).await;
    }
    for _ in 0..60 {
        let sid = harness.sent().await.sid;
        harness.refuse(sid, Wait::Backoff(Duration::from_secs(1))).await;
    }
    let start = Instant::now();
    harness.sent().await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    harness.close().await;
}

#[tokio::test]
async fn a_disk_that_refuses_is_told_while_it_refuses() {
    let mut harness = Harness::open();
    timeout(harness.readiness.wait_for(|now| now.ready)).await.unwrap();
    let other = rusqlite::Connection::open(&harness.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut word = harness.publish("c/self/messages", &json!({"id": "a1", "token": "T", "data": {}})).await;
    let sick = timeout(harness.readiness.wait_for(|now| now.store != "ok")).await.unwrap().clone();
    assert!(!sick.ready);
    let status = async {
        loop {
            let outbound = harness.mqtt.publish.recv().await.unwrap();
            let document: Value = serde_json::from_slice(&outbound.payload).unwrap();
            if outbound.topic == "_bridge/status" && document["state"] == "degraded" {
                break;
            }
        }
    };
    timeout(status).await;
    assert!(word.try_recv().is_err(), "nothing is acknowledged before the disk has it");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    timeout(harness.readiness.wait_for(|now| now.ready)).await.unwrap();
    harness.close().await;
}

#[tokio::test]
async fn operators_hear_of_the_connections() {
    let mut harness = Harness::open();
    let said = [
        (ConnectionChange::Up, json!({"event": "connected", "transport": "ccs", "connection": 1})),
        (ConnectionChange::Draining, json!({"event": "draining", "transport": "ccs", "connection": 1})),
        (
            ConnectionChange::Lost { detail: "cut".into() },
            json!({"event": "reconnect", "transport": "ccs", "connection": 1, "detail": "cut"}),
        ),
        (
            ConnectionChange::AuthFailed { detail: "no".into() },
            json!({"event": "auth_failed", "transport": "ccs", "detail": "no"}),
        ),
    ];
    for (change, mut expected) in said {
        harness.report(Report::Connection { connection: ConnectionId(1), change }).await;
        let event = async {
            loop {
                let outbound = harness.mqtt.publish.recv().await.unwrap();
                if outbound.topic == "_bridge/events" {
                    break serde_json::from_slice::<Value>(&outbound.payload).unwrap();
                }
            }
        };
        let event = timeout(event).await;
        expected["ts"] = event["ts"].clone();
        assert_eq!(event, expected);
    }
    harness.close().await;
}

/// A message of which nobody waits for the word: the connection on which it came has ended.
fn left_over(at_most_once: bool) -> Inbound {
    let payload = json!({"token": "T", "data": {"n": 1}}).to_string();
    let inbound = Inbound::new(Principal::anonymous("c"), "c/self/messages".into(), payload.into(), Ack::new().0);
    Inbound { at_most_once, ..inbound }
}

#[tokio::test]
async fn what_a_broker_of_others_sends_once_more_is_not_taken_from_the_connection_that_ended_as_well() {
    for (broker, taken) in [(BrokerKind::External, 2), (BrokerKind::Embedded, 3)] {
        let harness = Harness::open_for(Settings { broker, ..settings() });
        for at_most_once in [false, true] {
            harness.mqtt.inbound.send(left_over(at_most_once)).await.unwrap();
        }
        harness.message("a1", "T", 60).await;
        // What was published with QoS 0 does not come again, and what a client of the embedded broker published may not.
        assert_eq!(harness.metrics.get(Metric::DownstreamAccepted), taken, "{broker:?}");
        harness.close().await;
    }
}
