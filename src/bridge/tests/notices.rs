//! What trouble readers have: documents that they could not take, queues that are full.

use super::*;
use crate::mqtt::{Notice, SetAside};

fn document(topic: &str, payload: &Value) -> Notice {
    Notice::SetAside(SetAside { topic: topic.into(), payload: payload.to_string().into(), bytes: 900, most: 100 })
}

/// The next event.
async fn event(harness: &mut Harness) -> Value {
    let next = async {
        loop {
            let outbound = harness.mqtt.publish.recv().await.expect("the bridge runs");
            if outbound.topic == "_bridge/events" {
                return serde_json::from_slice(&outbound.payload).unwrap();
            }
            let _ = outbound.outcome.send(Outcome::Confirmed);
        }
    };
    timeout(next).await
}

#[tokio::test]
async fn its_owner_gets_an_error_document_that_names_it() {
    let mut harness = Harness::open();
    let set_aside = document("client1/answers", &json!({"id": "a1", "status": "sent", "detail": "long"}));
    harness.mqtt.notices.send(set_aside).await.unwrap();
    let (topic, told) = harness.read().await;
    assert_eq!((topic.as_str(), &told["code"]), ("client1/others/errors", &json!("SET_ASIDE")));
    assert_eq!((&told["ref"], &told["topic"]), (&json!("a1"), &json!("client1/answers")));
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("100 bytes") && detail.contains("900"), "{detail}");
    harness.close().await;
}

#[tokio::test]
async fn an_operator_hears_of_it() {
    let mut harness = Harness::open();
    harness.mqtt.notices.send(document("client1/others/messages", &json!({"n": 1}))).await.unwrap();
    let mut told = event(&mut harness).await;
    told.as_object_mut().unwrap().remove("ts").unwrap();
    let expected =
        json!({"event": "document_set_aside", "topic": "client1/others/messages", "bytes": 900, "most": 100});
    assert_eq!(told, expected, "no id, because the document has none");
    harness.close().await;
}

#[tokio::test]
async fn of_an_error_document_nothing_is_said() {
    let mut harness = Harness::open();
    let error = document("client1/others/errors", &json!({"code": "BAD_JSON", "ref": "a1"}));
    harness.mqtt.notices.send(error).await.unwrap();
    harness.mqtt.notices.send(document("client1/others/messages", &json!({"id": "a2"}))).await.unwrap();
    assert_eq!(harness.read().await.1["ref"], "a2");
    harness.close().await;
}

#[tokio::test]
async fn an_operator_hears_of_a_full_queue() {
    let mut harness = Harness::open();
    harness.mqtt.notices.send(Notice::QueueFull { session: "alice::phone".into(), refused: 3 }).await.unwrap();
    let mut told = event(&mut harness).await;
    told.as_object_mut().unwrap().remove("ts").unwrap();
    assert_eq!(told, json!({"event": "queue_full", "session": "alice::phone", "refused": 3}));
    harness.close().await;
}

#[tokio::test]
async fn what_is_wrong_with_an_external_broker_is_told_in_words() {
    let mut harness = Harness::open_for(Settings { broker: BrokerKind::External, ..settings() });
    let why = "broker.example:1883 (mqtt.url): refused by the broker: NotAuthorized".to_owned();
    harness.mqtt.broker_link.send_replace(BrokerLink::Down);
    harness.mqtt.trouble.send_replace(Some(why.clone()));
    timeout(harness.readiness.wait_for(|now| now.why.get("mqtt") == Some(&why) && now.mqtt == "closed")).await.unwrap();
    harness.mqtt.trouble.send_replace(None);
    harness.mqtt.broker_link.send_replace(BrokerLink::Up);
    timeout(harness.readiness.wait_for(|now| now.ready && now.why.is_empty())).await.unwrap();
    harness.close().await;
}

#[tokio::test]
async fn an_operator_hears_of_a_session_that_the_broker_has_not_kept() {
    let mut harness = Harness::open_for(Settings { broker: BrokerKind::External, ..settings() });
    for (notice, expected) in [
        (Notice::SessionLost, json!({"event": "session_lost"})),
        (
            Notice::SessionShort { seconds: 3_600, asked: 604_800 },
            json!({"event": "session_short", "seconds": 3_600, "asked": 604_800}),
        ),
    ] {
        harness.mqtt.notices.send(notice).await.unwrap();
        let mut told = event(&mut harness).await;
        told.as_object_mut().unwrap().remove("ts").unwrap();
        assert_eq!(told, expected);
    }
    harness.close().await;
}

#[tokio::test]
async fn the_status_is_said_once_more_over_a_will_that_came_late() {
    let mut harness = Harness::open_for(Settings { broker: BrokerKind::External, ..settings() });
    timeout(harness.readiness.wait_for(|now| now.ready)).await.unwrap();
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let (end, mut late) = (start + Duration::from_secs(30), 0);
    while let Ok(Some(outbound)) = tokio::time::timeout_at(end, harness.mqtt.publish.recv()).await {
        late += u32::from(outbound.topic == "_bridge/status" && start.elapsed() > Duration::from_secs(1));
        let _ = outbound.outcome.send(Outcome::Confirmed);
    }
    assert_eq!(late, 1);
    tokio::time::resume();
    harness.close().await;
}
