//! Whose presence and profile chat users see: of those whose contact they are.

use std::path::Path;

use fcm_mqtt_bridge::broker::BrokerConfig;
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::mqtt::{AckWord, Outcome};

use super::harness::{Harness, Users, outbound, outcome, password};
use super::peer::{Connect, PUBACK, Peer, Seen};

fn users() -> Users {
    Users::new(&[
        ("alice", Role::User),
        ("bob", Role::User),
        ("eve", Role::User),
        ("bal1", Role::Bal),
        ("root", Role::Admin),
    ])
}

async fn come(harness: &Harness, client: &str, expiry: u32) -> Peer {
    let user = client.split(':').next().unwrap();
    let (user, secret) = (Some(user), password(user));
    let connect = Connect { client, clean: expiry == 0, expiry, user, password: Some(&secret), ..Connect::default() };
    Peer::connect(harness, connect).await.0
}

/// The bridge publishes how a user is, or takes a profile.
async fn show(harness: &Harness, topic: &str, payload: &str) {
    let (mut message, answer) = outbound(topic, payload);
    message.retain = true;
    harness.send(message).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
}

/// The next message: its topic and payload.
async fn read(peer: &mut Peer) -> (String, String) {
    match peer.next().await {
        Seen::Publish { topic, payload, id: Some(id), .. } => {
            peer.ack(PUBACK, id).await;
            (topic, payload)
        }
        other => panic!("{other:?}"),
    }
}

fn said(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}

#[tokio::test]
async fn a_user_sees_a_contact_from_when_the_bridge_says_so_until_it_takes_that_back() {
    let harness = Harness::bind(users().config()).await;
    let mut eve = come(&harness, "eve", 0).await;
    let mut bob = come(&harness, "bob", 0).await;
    for peer in [&mut eve, &mut bob] {
        peer.subscribe("+/self/presence", 1).await;
        peer.subscribe("+/self/profile", 1).await;
    }
    show(&harness, "alice/self/presence", "1").await;
    bob.quiet().await;
    harness.see("bob", "alice", true).await;
    show(&harness, "alice/self/presence", "2").await;
    assert_eq!(read(&mut bob).await, said("alice/self/presence", "1"), "what is retained, before what follows");
    assert_eq!(read(&mut bob).await, said("alice/self/presence", "2"));
    show(&harness, "alice/self/profile", "Alice").await;
    assert_eq!(read(&mut bob).await, said("alice/self/profile", "Alice"));
    harness.see("bob", "alice", false).await;
    show(&harness, "alice/self/presence", "3").await;
    bob.quiet().await;
    show(&harness, "bob/self/presence", "mine").await;
    assert_eq!(read(&mut bob).await, said("bob/self/presence", "mine"), "everybody sees their own");
    eve.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn what_is_retained_comes_to_those_who_may_see_it_and_bals_and_admins_see_and_are_seen() {
    let mut harness = Harness::bind(users().config()).await;
    show(&harness, "alice/self/presence", "alice").await;
    let mut bal = come(&harness, "bal1", 0).await;
    bal.publish_with(0b0011, "bal1/self/presence", 7, &[], "bal1").await;
    harness.inbound().await.ack.release(AckWord::Done);
    assert_eq!(bal.next().await, Seen::Ack(PUBACK, 7, 0));
    for client in ["bal1", "root"] {
        let mut reader = come(&harness, client, 0).await;
        reader.subscribe("+/self/presence", 1).await;
        let mut seen = [read(&mut reader).await.1, read(&mut reader).await.1];
        seen.sort();
        assert_eq!(seen, ["alice", "bal1"], "{client}");
    }
    let mut eve = come(&harness, "eve", 0).await;
    eve.subscribe("#", 1).await;
    assert_eq!(read(&mut eve).await.1, "bal1");
    eve.quiet().await;
    let mut bob = come(&harness, "bob", 0).await;
    harness.see("bob", "alice", true).await;
    harness.barrier().await;
    bob.subscribe("+/self/presence", 1).await;
    let mut seen = [read(&mut bob).await.1, read(&mut bob).await.1];
    seen.sort();
    assert_eq!(seen, ["alice", "bal1"]);
    harness.close().await;
}

#[tokio::test]
async fn who_is_a_contact_is_read_from_the_store_also_for_a_session_that_is_away_after_a_restart() {
    let (users, folder) = (users(), tempfile::tempdir().unwrap());
    let start =
        async |folder: &Path| Harness::bind(BrokerConfig { data: Some(folder.to_owned()), ..users.config() }).await;
    let harness = start(folder.path()).await;
    let mut bob = come(&harness, "bob:phone", 3_600).await;
    bob.subscribe("+/self/presence", 1).await;
    bob.disconnect().await;
    harness.is_away("bob:phone").await;
    harness.close().await;
    let store = rusqlite::Connection::open(folder.path().join("bridge.db")).unwrap();
    store
        .execute_batch(
            "INSERT INTO users (user, settings, unread) VALUES ('alice', '{}', 0);
            INSERT INTO contacts (user, other, entry) VALUES ('alice', 'bob', '{\"contact\":true}')",
        )
        .unwrap();
    drop(store);
    let harness = start(folder.path()).await;
    for (topic, payload) in [("alice/self/presence", "1"), ("eve/self/presence", "2"), ("alice/self/presence", "3")] {
        show(&harness, topic, payload).await;
    }
    let mut bob = come(&harness, "bob:phone", 3_600).await;
    for n in ["1", "3"] {
        assert_eq!(read(&mut bob).await, said("alice/self/presence", n));
    }
    bob.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn what_is_retained_of_a_new_contact_comes_as_it_is_and_to_nobody_else() {
    let harness = Harness::bind(users().config()).await;
    let mut bob = come(&harness, "bob:web", 0).await;
    let mut away = come(&harness, "bob:phone", 3_600).await;
    let mut eve = come(&harness, "eve", 0).await;
    let mut bal = come(&harness, "bal1", 0).await;
    harness.see("eve", "alice", true).await;
    for peer in [&mut bob, &mut away, &mut eve] {
        peer.subscribe("+/self/presence", 1).await;
        peer.subscribe("alice/self/profile", 1).await;
    }
    bal.subscribe("+/self/presence", 1).await;
    away.disconnect().await;
    harness.is_away("bob:phone").await;
    show(&harness, "alice/self/presence", "1").await;
    show(&harness, "alice/self/profile", "Alice").await;
    for peer in [&mut eve, &mut bal] {
        assert_eq!(read(peer).await, said("alice/self/presence", "1"));
    }
    assert_eq!(read(&mut eve).await, said("alice/self/profile", "Alice"));
    harness.see("bob", "alice", true).await;
    harness.barrier().await;
    let mut phone = come(&harness, "bob:phone", 3_600).await;
    for peer in [&mut bob, &mut phone] {
        assert_eq!(read(peer).await, said("alice/self/presence", "1"));
        assert_eq!(read(peer).await, said("alice/self/profile", "Alice"));
        peer.quiet().await;
    }
    for peer in [&mut eve, &mut bal] {
        peer.quiet().await;
    }
    // Who has hidden and shows again sees those that were seen before, and nobody is told of that.
    harness.see("bob", None::<&str>, false).await;
    show(&harness, "alice/self/presence", "2").await;
    harness.see("bob", None::<&str>, true).await;
    harness.barrier().await;
    for peer in [&mut bob, &mut phone, &mut eve, &mut bal] {
        assert_eq!(read(peer).await, said("alice/self/presence", "2"));
        peer.quiet().await;
    }
    harness.close().await;
}
