//! Topics below `self/` that the bridge does not have.

use super::*;
use crate::chat::principal::{Proof, Role};

fn who(name: &str, role: Role) -> Principal {
    Principal { name: name.into(), role, device: None, background: false, proof: Proof::Login }
}

#[tokio::test]
async fn a_misspelt_topic_of_a_bal_is_an_error_that_names_the_right_one() {
    let mut harness = Harness::open();
    let message = json!({"id": "a1", "token": "T", "data": {}});
    for (suffix, hint) in [
        ("message", "did you mean `self/messages`?"),
        ("Receipts", "did you mean `self/receipts`?"),
        ("messages/phone", "did you mean `self/messages`?"),
        ("push", "below `self/` there are `messages`, `receipts`, `presence`"),
        ("presence/a/b", "the device in the topic has a character that is not allowed: '/'"),
    ] {
        let topic = format!("bal1/self/{suffix}");
        let word = harness.publish_as(who("bal1", Role::Bal), &topic, &message).await;
        assert_eq!(timeout(word).await, Ok(AckWord::NoSuchTopic), "{suffix}");
        let (errors, error) = harness.read().await;
        assert_eq!((&*errors, &error["code"]), ("bal1/others/errors", &json!("UNKNOWN_TOPIC")));
        assert_eq!(error["topic"], json!(topic));
        assert!(error["detail"].as_str().unwrap().contains(hint), "{error}");
    }
    assert_eq!(harness.metrics.get(Metric::UnknownTopics), 5);
    harness.close().await;
}

#[tokio::test]
async fn fields_that_nobody_knows_are_named_when_a_message_is_accepted_and_when_that_is_told_again() {
    let mut harness = Harness::open();
    let message = json!({"id": "a1", "token": "T", "data": {}, "time_to_live": 60, "colour": "red"});
    for mark in [Value::Null, json!(true)] {
        assert_eq!(timeout(harness.publish("bal1/self/messages", &message).await).await, Ok(AckWord::Done));
        let (_, status) = harness.read().await;
        assert_eq!((&status["status"], &status["redelivered"]), (&json!("accepted"), &mark));
        assert_eq!(status["detail"], "unknown and ignored: \"time_to_live\", \"colour\"");
    }
    harness.close().await;
}

#[tokio::test]
async fn a_document_in_the_form_of_ccs_is_a_message_under_its_message_id() {
    let mut harness = Harness::open();
    let message = json!({"to": "T", "message_id": "m-1", "data": {"k": 1}, "delivery_receipt_requested": true});
    assert_eq!(timeout(harness.publish("bal1/self/messages", &message).await).await, Ok(AckWord::Done));
    assert_eq!(harness.status().await, ("m-1".into(), "accepted".into()));
    let send = harness.sent().await;
    assert_eq!((&send.push.data["k"], send.push.receipt), (&json!("1"), true));
    harness.report(accepted(send.sid)).await;
    assert_eq!(harness.status().await, ("m-1".into(), "sent".into()));
    harness.receipt(&send.sid.to_string()).await;
    assert_eq!(harness.status().await, ("m-1".into(), "delivered".into()));
    harness.close().await;
}

#[tokio::test]
async fn what_a_user_publishes_is_its_own_unless_it_looks_like_a_slip() {
    let mut harness = Harness::open();
    let hello = json!({"hello": 1});
    for suffix in ["whiteboard", "notes/today"] {
        let word = harness.publish_as(who("alice", Role::User), &format!("alice/self/{suffix}"), &hello).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done), "{suffix}");
    }
    let word = harness.publish_as(who("alice", Role::User), "alice/self/mesages", &hello).await;
    assert_eq!(timeout(word).await, Ok(AckWord::NoSuchTopic));
    assert_eq!(harness.read().await.1["topic"], "alice/self/mesages", "and nothing before it");
    harness.close().await;
}

#[tokio::test]
async fn what_is_kept_for_a_later_release_is_no_error_to_anybody() {
    let mut harness = Harness::open();
    for suffix in ["replies", "history", "groups/g-1"] {
        let word = harness.publish_as(who("bal1", Role::Bal), &format!("bal1/self/{suffix}"), &json!({})).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done), "{suffix}");
    }
    let word = harness.publish_as(who("bal1", Role::Bal), "bal1/self/x", &json!({})).await;
    assert_eq!(timeout(word).await, Ok(AckWord::NoSuchTopic));
    assert_eq!(harness.read().await.1["topic"], "bal1/self/x", "and nothing before it");
    harness.close().await;
}
