//! Documents for chat users on their way to a broker of others.

use super::*;
use crate::store::{Note, UserDocument};

const INBOX: &str = "alice/others/messages";

async fn tell(harness: &Harness, text: &str) {
    let document = UserDocument { topic: INBOX.to_owned(), copy_of: None, payload: text.to_owned().into(), at: 1 };
    harness.store.queue_user_document(document).await.unwrap().await.unwrap();
}

fn external() -> Harness {
    Harness::open_for(Settings { broker: BrokerKind::External, ..settings() })
}

#[tokio::test]
async fn what_nobody_reads_is_done_with_and_nothing_behind_it_waits() {
    let mut harness = external();
    tell(&harness, "1").await;
    let first = harness.published().await;
    assert!(first.dropped_unread && first.payload == "1");
    first.outcome.send(Outcome::NoReader).unwrap();
    for n in ["2", "3"] {
        tell(&harness, n).await;
        let next = harness.published().await;
        assert_eq!((&*next.payload, next.resume), (n.as_bytes(), false), "it was no failure");
        next.outcome.send(Outcome::NoReader).unwrap();
    }
    let (dir, path) = harness.close().await;
    let harness = Harness::open_with(dir, path, Settings { broker: BrokerKind::External, ..settings() });
    let left = harness.store.topics_to_publish().await.unwrap().await.unwrap();
    assert!(!left.iter().any(|topic| topic == INBOX), "{left:?}");
    harness.close().await;
}

#[tokio::test]
async fn an_owner_who_says_to_be_away_is_published_these_and_nothing_else() {
    let mut harness = external();
    let say = json!({"state": "offline"});
    assert_eq!(timeout(harness.publish("alice/self/presence", &say).await).await, Ok(AckWord::Done));
    tell(&harness, "told").await;
    let told = harness.published().await;
    assert_eq!(told.payload, "told");
    told.outcome.send(Outcome::Confirmed).unwrap();
    let note = Note { topic: INBOX.to_owned(), payload: "{\"n\":1}".into(), correlation: None, at: 1 };
    harness.store.queue_note(note).await.unwrap().await.unwrap();
    // Something that is published shows that nothing came before it.
    tell_bob(&harness).await;
    let next = harness.published().await;
    assert_eq!(next.topic, "bob/others/messages");
    next.outcome.send(Outcome::Confirmed).unwrap();
    let say = json!({"state": "online"});
    assert_eq!(timeout(harness.publish("alice/self/presence", &say).await).await, Ok(AckWord::Done));
    assert_eq!(harness.read().await, (INBOX.to_owned(), json!({"n": 1})), "it was held, and is no copy");
    harness.close().await;
}

async fn tell_bob(harness: &Harness) {
    let (topic, payload) = ("bob/others/messages".to_owned(), "x".into());
    let document = UserDocument { topic, copy_of: None, payload, at: 1 };
    harness.store.queue_user_document(document).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn what_is_too_big_for_the_broker_holds_nobody_and_is_tried_with_the_next_connection() {
    let mut harness = external();
    let note = |n: u32| {
        let payload = format!("{{\"n\":{n}}}").into();
        Note { topic: "c/others/messages".to_owned(), payload, correlation: None, at: 1 }
    };
    for n in 1..=2 {
        harness.store.queue_note(note(n)).await.unwrap().await.unwrap();
    }
    let big = harness.published().await;
    assert_eq!(big.payload, "{\"n\":1}");
    big.outcome.send(Outcome::SetAside).unwrap();
    assert_eq!(harness.read().await.1, json!({"n": 2}));
    harness.store.queue_note(note(3)).await.unwrap().await.unwrap();
    assert_eq!(harness.read().await.1, json!({"n": 3}));
    harness.mqtt.broker_link.send_replace(BrokerLink::Down);
    timeout(harness.readiness.wait_for(|now| now.mqtt == "closed")).await.unwrap();
    harness.mqtt.broker_link.send_replace(BrokerLink::Up);
    assert_eq!(harness.read().await.1, json!({"n": 1}), "it is on disk still, and no copy");
    harness.close().await;
}
