//! The way in, where it is rough.

use super::*;
use crate::transport::RejectedUpstream;

fn small_spool() -> Settings {
    let room = store::Limits { spool_rows: 2, ..store::Limits::default() };
    Settings { room, ..settings() }
}

fn open(settings: Settings) -> Harness {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    Harness::open_with(dir, path, settings)
}

impl Harness {
    /// Three messages for two places: the third one is not acknowledged.
    async fn fill_spool(&mut self) {
        for id in ["1", "2"] {
            self.upstream(id, "com.example.chat").await;
            assert_eq!(self.ack().await.message_id, id);
        }
        self.upstream("3", "com.example.chat").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(self.transport.acks.try_recv().is_err(), "there is no room for it");
    }
}

#[tokio::test]
async fn documents_that_were_asked_for_before_a_failure_do_not_overtake_it() {
    let mut harness = Harness::open();
    for n in 0..30 {
        harness.upstream(&n.to_string(), "com.example.chat").await;
        harness.ack().await;
    }
    harness.read().await;
    let mut window = Vec::new();
    for _ in 0..10 {
        window.push(harness.published().await);
    }
    // Enough room for the window to ask for more, and at once the failure of all the rest.
    for (n, outbound) in window.into_iter().enumerate() {
        let outcome = [Outcome::Confirmed, Outcome::Lost, Outcome::Unsent][usize::from(n > 3) + usize::from(n > 4)];
        outbound.outcome.send(outcome).unwrap();
    }
    for n in 5..30 {
        assert_eq!(harness.read().await.1["ccs_id"], n.to_string());
    }
    harness.close().await;
}

#[tokio::test]
async fn what_waits_for_room_in_the_spool_is_stored_however_busy_the_bridge_is() {
    let mut harness = open(small_spool());
    harness.fill_spool().await;
    for id in ["1", "2"] {
        assert_eq!(harness.read().await.1["ccs_id"], id);
    }
    for n in 0..200 {
        harness.receipt(&format!("unknown{n}")).await;
        if harness.ack().await.message_id == "3" {
            harness.close().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    panic!("it is still not on disk");
}

impl Harness {
    async fn rejected(&self, id: &str) {
        let ack_ref = AckRef { connection: ConnectionId(3), to: "no token".into(), message_id: id.into() };
        let (code, sample) = ("bad_from", r#"{"from":""#.to_owned());
        let rejected = RejectedUpstream { code, sample, ack_ref };
        self.transport.device_messages.send(DeviceMessage::Rejected(rejected)).await.unwrap();
    }

    async fn event(&mut self) -> Value {
        loop {
            let outbound = timeout(self.mqtt.publish.recv()).await.unwrap();
            let _ = outbound.outcome.send(Outcome::Confirmed);
            if outbound.topic == "_bridge/events" {
                return serde_json::from_slice(&outbound.payload).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_told_on_disk_and_then_acknowledged() {
    let mut harness = Harness::open();
    let other = rusqlite::Connection::open(&harness.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    harness.rejected("1").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(harness.transport.acks.try_recv().is_err(), "it is not on disk yet");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(harness.ack().await.message_id, "1");
    // Nobody has read it yet; it is still there after a stop.
    let (dir, path) = harness.close().await;
    let mut harness = Harness::open_at(dir, path);
    let mut event = harness.event().await;
    event.as_object_mut().unwrap().remove("ts");
    event.as_object_mut().unwrap().remove("redelivered");
    let expected = json!({
        "event": "upstream_rejected", "transport": "ccs", "code": "bad_from", "sample": "{\"from\":\"", "connection": 3,
    });
    assert_eq!(event, expected);
    harness.close().await;
}

#[tokio::test]
async fn a_hundred_messages_that_cannot_be_understood_do_not_end_the_way_in() {
    let mut harness = Harness::open();
    for n in 0..100 {
        harness.rejected(&n.to_string()).await;
        assert_eq!(harness.ack().await.message_id, n.to_string());
    }
    harness.upstream("100", "com.example.chat").await;
    assert_eq!(harness.ack().await.message_id, "100");
    let text = String::from_utf8(harness.metrics.render()).unwrap();
    let line = r#"bridge_upstream_rejected_total{code="bad_from",transport="ccs"} 100"#;
    assert!(text.contains(line), "{text}");
    harness.close().await;
}

#[tokio::test]
async fn what_a_full_spool_holds_is_acknowledged_on_the_connection_that_brought_it_last() {
    let mut harness = open(small_spool());
    harness.fill_spool().await;
    for connection in [3, 4, 5] {
        let ack_ref = AckRef { connection: ConnectionId(connection), to: "phone".into(), message_id: "3".into() };
        let (from, category) = (Token::new("phone").unwrap(), Some("com.example.chat".to_owned()));
        let upstream =
            ReceivedUpstream { from, category, message_id: "3".into(), data: serde_json::Map::new(), ack_ref };
        harness.transport.device_messages.send(DeviceMessage::Upstream(upstream)).await.unwrap();
    }
    harness.read().await;
    let ack_ref = harness.ack().await;
    assert_eq!((ack_ref.message_id.as_str(), ack_ref.connection), ("3", ConnectionId(5)));
    harness.close().await;
}

#[tokio::test]
async fn a_full_spool_is_seen_from_outside_until_a_bal_takes_some() {
    let mut harness = open(small_spool());
    harness.fill_spool().await;
    timeout(harness.readiness.wait_for(|now| now.intake.starts_with("stopped: limits.spool_rows"))).await.unwrap();
    assert!(harness.readiness.borrow().ready, "for BALs, which take what there is");
    assert_eq!(harness.metrics.get(Metric::IntakeStopped), 1);
    for _ in 0..2 {
        harness.read().await;
    }
    timeout(harness.readiness.wait_for(|now| now.intake == "taking")).await.unwrap();
    assert_eq!(harness.metrics.get(Metric::IntakeStopped), 0);
    harness.close().await;
}

#[tokio::test]
async fn a_message_for_which_the_spool_was_too_small_after_all_is_stored_when_there_is_room() {
    // One is less than that, and two are more.
    let room = store::Limits { spool_bytes: 200, ..store::Limits::default() };
    let mut harness = open(Settings { room, ..settings() });
    harness.upstream("1", "com.example.chat").await;
    assert_eq!(harness.ack().await.message_id, "1");
    harness.upstream("2", "com.example.chat").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(harness.transport.acks.try_recv().is_err(), "there is no room for it");
    assert_eq!(harness.read().await.1["ccs_id"], "1");
    assert_eq!(harness.ack().await.message_id, "2");
    assert_eq!(harness.read().await.1["ccs_id"], "2");
    harness.close().await;
}

#[tokio::test]
async fn what_is_not_even_held_is_asked_for_once_more_when_there_is_room() {
    const ROWS: usize = 300;
    let room = store::Limits { spool_rows: ROWS as u64, ..store::Limits::default() };
    let mut harness = open(Settings { room, ..settings() });
    for n in 0..ROWS {
        harness.upstream(&n.to_string(), "com.example.chat").await;
        harness.ack().await;
    }
    for n in 0..=device_intake::HELD_MAX {
        harness.upstream(&format!("held{n}"), "com.example.chat").await;
    }
    assert!(harness.transport.resends.try_recv().is_err(), "there is no room yet");
    let mut acknowledged = Vec::new();
    let (transport, publish) = (&mut harness.transport, &mut harness.mqtt.publish);
    let connection = timeout(async {
        loop {
            tokio::select! {
                Some(connection) = transport.resends.recv() => break connection,
                Some(ack_ref) = transport.acks.recv() => acknowledged.push(ack_ref.message_id),
                Some(outbound) = publish.recv() => drop(outbound.outcome.send(Outcome::Confirmed)),
            }
        }
    })
    .await;
    assert_eq!(connection, ConnectionId(1));
    while let Ok(ack_ref) = harness.transport.acks.try_recv() {
        acknowledged.push(ack_ref.message_id);
    }
    assert!(!acknowledged.contains(&format!("held{}", device_intake::HELD_MAX)));
    assert!(acknowledged.len() > device_intake::HELD_MAX / 2, "{}", acknowledged.len());
    harness.upstream("again", "com.example.chat").await;
    harness.close().await;
}

/// What users write goes to the intake, which takes nothing here.
#[tokio::test]
async fn a_phone_whose_message_waits_holds_up_no_other_phone_and_its_own_next_one_waits_behind_it() {
    let mut harness = Harness::open();
    harness.says(&chat::at("bob:phone"), "devices/phone", &json!({"token": "T1", "platform": "android"})).await;
    let (dir, path) = harness.close().await;
    let mut busy = settings();
    busy.limits.inflight_publishes = 0;
    let mut harness = Harness::open_with(dir, path, busy);
    harness.by_phone("1", json!({"to": "bob", "body": "note"})).await;
    harness.by_phone("2", json!({"n": "2"})).await;
    for id in ["3", "4"] {
        harness.upstream(id, "com.example.chat").await;
        assert_eq!(harness.ack().await.message_id, id);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(harness.transport.acks.try_recv().is_err(), "of that phone nothing is stored");
    timeout(harness.close()).await;
}

#[tokio::test]
async fn a_full_spool_does_not_hold_up_the_stop() {
    let mut harness = open(small_spool());
    harness.fill_spool().await;
    timeout(harness.close()).await;
}

#[tokio::test]
async fn messages_without_a_route_get_the_one_that_is_configured_at_the_next_start() {
    let mut harness = Harness::open();
    for id in ["1", "2"] {
        harness.upstream(id, "com.example.new").await;
        harness.ack().await;
    }
    let (dir, path) = harness.close().await;
    let routes = Routes::new(HashMap::new(), Some(Owner::new("client2").unwrap()));
    let mut harness = Harness::open_with(dir, path, Settings { routes, ..settings() });
    harness.upstream("3", "com.example.new").await;
    for id in ["1", "2", "3"] {
        let (topic, message) = harness.read().await;
        assert_eq!((topic.as_str(), &message["ccs_id"]), ("client2/others/messages", &json!(id)));
    }
    harness.close().await;
}

#[tokio::test]
async fn more_messages_without_a_route_than_are_looked_at_in_one_go_do_not_hide_those_that_get_one() {
    let mut harness = Harness::open();
    let unrouted = device_intake::UNROUTED_PAGE + 1;
    for n in 0..unrouted + 2 {
        let category = if n < unrouted { "com.example.unknown" } else { "com.example.new" };
        harness.upstream(&n.to_string(), category).await;
        harness.ack().await;
    }
    let (dir, path) = harness.close().await;
    let new = HashMap::from([("com.example.new".to_owned(), Owner::new("client2").unwrap())]);
    let mut harness = Harness::open_with(dir, path, Settings { routes: Routes::new(new, None), ..settings() });
    for n in unrouted..unrouted + 2 {
        let (topic, message) = harness.read().await;
        assert_eq!((topic.as_str(), &message["ccs_id"]), ("client2/others/messages", &json!(n.to_string())));
    }
    let store = harness.store.clone();
    harness.close().await;
    assert_eq!(store.figures().spool_rows, unrouted as u64, "the others still wait for a route");
}

#[tokio::test]
async fn topics_that_nobody_reads_do_not_keep_others_from_being_published() {
    let mut harness = Harness::open();
    let unread = 3 * publisher::WINDOWS_MAX;
    for n in 0..unread {
        let message = json!({"id": "a1", "token": "T", "data": {}});
        timeout(harness.publish(&format!("c{n}/self/messages"), &message).await).await.unwrap();
        harness.published().await.outcome.send(Outcome::NoReader).unwrap();
    }
    harness.upstream("1", "com.example.chat").await;
    assert_eq!(harness.read().await.0, "client1/others/messages");
    // Now everybody reads; and no topic is left out.
    harness.mqtt.readers.send_modify(|n| *n += 1);
    let mut topics = std::collections::BTreeSet::new();
    while topics.len() < unread {
        topics.insert(harness.read().await.0);
    }
    harness.close().await;
}
