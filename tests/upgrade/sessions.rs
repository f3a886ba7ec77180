//! The embedded broker's files: sessions, what waits for them, retained messages; and who is there.

use crate::harness::Past;
use crate::peer::Got;
use serde_json::json;

fn notes(got: &[Got]) -> Vec<(&Got, u64)> {
    let note = |got: &'_ Got| got.body["note"].as_u64();
    got.iter().filter_map(|got| Some((got, note(got)?))).collect()
}

/// Where the users of the release said things to themselves. Today they read there no more.
const OUTBOX: &str = "alice/self/notes";
/// What the filter of their sessions matches and users still read.
const READABLE: &str = "alice/self/presence/notes";

/// As if the notes had been written where users still read.
async fn with_readable_notes() -> Past {
    let past = Past::open().await;
    past.rewrite("broker", OUTBOX, READABLE);
    past
}

#[tokio::test]
async fn a_client_that_comes_back_finds_its_session_and_what_waits_in_it() {
    let present = with_readable_notes().await.go_on("").await;
    // The one was away and has never seen them, the other one had not acknowledged them.
    for (client, dup) in [("alice", false), ("alice:phone", true)] {
        let own = format!("alice/self/presence/{}", client.split(':').nth(1).unwrap_or("default"));
        let mut alice = present.peer(client).await;
        assert!(alice.session_present, "{client}");
        let got = alice.until(|got| notes(got).len() == 2).await;
        let seen: Vec<_> = notes(&got).iter().map(|(got, note)| (got.topic.clone(), *note, got.dup)).collect();
        let expected = [1, 2].map(|note| (READABLE.to_owned(), note, dup));
        assert_eq!(seen, expected, "{client}");
        // Its subscription is there as well.
        alice.publish(&own, &json!({"state": "online", "note": 3})).await;
        let got = alice.until(|got| notes(got).last().is_some_and(|(_, note)| *note == 3)).await;
        assert_eq!(notes(&got).len(), 1, "{client}");
    }
    present.close().await;
}

#[tokio::test]
async fn what_waits_where_users_read_no_more_is_not_delivered() {
    let present = Past::open().await.go_on("").await;
    let mut alice = present.peer("alice").await;
    assert!(alice.session_present);
    alice.publish("alice/self/presence/default", &json!({"state": "online", "note": 3})).await;
    let got = alice.until(|got| !notes(got).is_empty()).await;
    assert_eq!(notes(&got).iter().map(|(_, note)| *note).collect::<Vec<_>>(), [3]);
    present.close().await;
}

#[tokio::test]
async fn retained_messages_are_there() {
    let present = Past::open().await.go_on("").await;
    let mut alice = present.peer("alice:new").await;
    assert!(!alice.session_present);
    for (topic, field, value) in
        [("alice/self/profile", "name", json!("Alice")), ("bal1/self/presence", "conn", json!("c1"))]
    {
        alice.subscribe(topic).await;
        let got = alice.next().await;
        assert_eq!((got.topic.as_str(), got.retain, &got.body[field]), (topic, true, &value));
    }
    present.close().await;
}

#[tokio::test]
async fn the_folder_is_read_once_and_put_aside() {
    let present = with_readable_notes().await.go_on("").await;
    // The broker is open when somebody gets in.
    drop(present.peer("alice:new").await);
    let (folder, aside) = (present.past.path("broker"), present.past.path("broker.imported"));
    assert!(!folder.exists() && aside.join("sessions/sessions.log").exists());
    std::fs::rename(&aside, &folder).unwrap();
    let present = present.again().await;
    assert!(folder.exists() && !aside.exists(), "nobody looked at it");
    let mut alice = present.peer("alice").await;
    assert!(alice.session_present);
    let got = alice.until(|got| notes(got).len() == 2).await;
    assert_eq!(notes(&got).iter().map(|(_, note)| *note).collect::<Vec<_>>(), [1, 2], "once");
    present.close().await;
}

#[tokio::test]
async fn who_was_there_at_the_kill_and_does_not_come_back_is_told_to_be_away() {
    let present = Past::open().await.go_on("").await;
    // Users see that of their contacts; a BAL sees all.
    let mut watcher = present.peer("bal1:watcher").await;
    watcher.subscribe("bob/self/presence").await;
    watcher.subscribe("carol/self/presence").await;
    let of = |got: &[Got], user: &str| {
        let topic = format!("{user}/self/presence");
        got.iter().rfind(|got| got.topic == topic).map(|got| got.body.clone()).unwrap_or_default()
    };
    let away = |got: &[Got]| ["bob", "carol"].iter().all(|user| of(got, user)["state"] == "offline");
    let got = watcher.until(away).await;
    assert!(of(&got, "bob")["last_seen"].is_u64() && of(&got, "carol")["last_seen"].is_u64(), "{got:?}");
    // It remembers when she was last seen.
    let _carol = present.peer("carol").await;
    let got = watcher.until(|got| of(got, "carol")["state"] == "online").await;
    assert!(of(&got, "carol")["last_seen"].is_u64(), "{got:?}");
    present.close().await;
}
