//! Documents for chat users: dropped where nobody reads them, and kept for every session that does.

use fcm_mqtt_bridge::chat::principal::Role;

use super::harness::{Harness, Users, password};
use super::peer::{Connect, PUBACK, Peer};

const INBOX: &str = "alice/others/messages";

fn users() -> Users {
    Users::new(&[("alice", Role::User), ("bal1", Role::Bal)])
}

async fn come(harness: &Harness, client: &str, expiry: u32) -> Peer {
    let user = client.split(':').next().unwrap();
    let (user, secret) = (Some(user), password(user));
    let connect = Connect { client, clean: expiry == 0, expiry, user, password: Some(&secret), ..Connect::default() };
    Peer::connect(harness, connect).await.0
}

#[tokio::test]
async fn what_comes_for_a_user_who_is_not_there_is_dropped_and_what_comes_for_a_bal_waits() {
    let harness = Harness::bind(users().config()).await;
    harness.tell(INBOX, "nobody reads this").await;
    harness.settles(INBOX).await;
    harness.publish("bal1/others/messages", "{}").await;
    harness.publish(INBOX, "kept for alice").await;
    harness.tell(INBOX, "nobody reads this either").await;
    harness.waits_for(INBOX, 1).await;
    assert_eq!(harness.waits("bal1/others/messages"), 1);
    let mut alice = come(&harness, "alice:phone", 0).await;
    alice.subscribe(INBOX, 1).await;
    let (payload, id, _) = alice.message().await;
    assert_eq!(payload, "kept for alice");
    alice.ack(PUBACK, id).await;
    harness.tell(INBOX, "she reads this").await;
    let (payload, id, dup) = alice.message().await;
    assert_eq!((payload.as_str(), dup), ("she reads this", false));
    alice.ack(PUBACK, id).await;
    harness.settles(INBOX).await;
    harness.close().await;
}

#[tokio::test]
async fn a_kept_session_that_is_away_gets_every_document_once_and_others_who_were_not_there_get_none() {
    let harness = Harness::bind(users().config()).await;
    let mut laptop = come(&harness, "alice:laptop", 3_600).await;
    laptop.subscribe(INBOX, 1).await;
    laptop.disconnect().await;
    harness.is_away("alice:laptop").await;
    for n in 0..3 {
        harness.tell(INBOX, &n.to_string()).await;
    }
    harness.barrier().await;
    assert_eq!(harness.waits(INBOX), 3);
    let mut laptop = come(&harness, "alice:laptop", 3_600).await;
    for n in 0..3 {
        let (payload, id, dup) = laptop.message().await;
        assert_eq!((payload, dup), (n.to_string(), false));
        laptop.ack(PUBACK, id).await;
    }
    harness.settles(INBOX).await;
    laptop.quiet().await;
    // The session ends, and with it the last reader.
    drop(come(&harness, "alice:laptop", 0).await);
    harness.tell(INBOX, "nobody reads this").await;
    harness.settles(INBOX).await;
    harness.close().await;
}
