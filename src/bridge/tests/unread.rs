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
