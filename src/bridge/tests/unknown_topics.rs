//! Topics below `self/` that the bridge does not have.

use super::*;
use crate::chat::principal::{Proof, Role};

fn who(name: &str, role: Role) -> Principal {
    Principal { name: name.into(), role, device: None, proof: Proof::Login }
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
async fn what_a_user_publishes_is_its_own_unless_it_looks_like_a_slip() {
    let mut harness = Harness::open();
    let hello = json!({"hello": 1});
    for suffix in ["whiteboard", "devices/phone", "read"] {
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
    for suffix in ["profile", "invitations", "devices/w1"] {
        let word = harness.publish_as(who("bal1", Role::Bal), &format!("bal1/self/{suffix}"), &json!({})).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done), "{suffix}");
    }
    let word = harness.publish_as(who("bal1", Role::Bal), "bal1/self/x", &json!({})).await;
    assert_eq!(timeout(word).await, Ok(AckWord::NoSuchTopic));
    assert_eq!(harness.read().await.1["topic"], "bal1/self/x", "and nothing before it");
    harness.close().await;
}
