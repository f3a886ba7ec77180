//! Messages that are sent at a time, by one clock.

use super::chat::at;
use super::*;
use crate::chat::principal::{Proof, Role};
use crate::mqtt::RoleSource;

const HOUR_MS: u64 = 3_600_000;

/// alice and bob, of whom the bridge has heard.
async fn two(mut harness: Harness) -> Harness {
    for who in ["alice:phone", "bob:phone"] {
        harness.says(&at(who), "requests/phone", &json!({"op": "settings"})).await;
    }
    harness.told().await;
    harness
}

impl Harness {
    async fn schedules(&mut self, id: &str, not_before: u64) {
        let message = json!({"id": id, "to": "bob", "body": id, "not_before": not_before});
        self.says(&at("alice:phone"), "messages", &message).await;
    }

    /// The next document on a topic, and how long it took by the clock of the test.
    async fn next_on(&mut self, topic: &str) -> (Value, Duration) {
        let began = tokio::time::Instant::now();
        // Longer than the patience of the harness: hours pass at once.
        loop {
            let outbound = self.mqtt.publish.recv().await.expect("the bridge runs");
            let _ = outbound.outcome.send(Outcome::Confirmed);
            if outbound.topic == topic {
                return (serde_json::from_slice(&outbound.payload).unwrap(), began.elapsed());
            }
        }
    }
}

#[tokio::test]
async fn a_message_is_sent_within_a_second_of_its_time_and_not_before() {
    let mut harness = two(Harness::open()).await;
    let (soon, later) = (now_ms() + 700, now_ms() + HOUR_MS);
    harness.schedules("later", later).await;
    harness.schedules("soon", soon).await;
    let told = harness.told().await;
    let receipts = told.on("alice/others/receipts");
    let statuses: Vec<_> = receipts.iter().map(|receipt| (&receipt["id"], &receipt["status"])).collect();
    assert_eq!(statuses, [(&json!("later"), &json!("scheduled")), (&json!("soon"), &json!("scheduled"))]);
    assert!(told.on("bob/others/messages").is_empty());
    let (copy, _) = timeout(harness.next_on("bob/others/messages")).await;
    let now = now_ms();
    assert_eq!(copy["body"], "soon");
    assert!(now >= soon && copy["ts"].as_u64().unwrap() >= soon, "not before");
    assert!(now < soon + 1_000, "{} ms late", now - soon);

    harness.says(&at("alice:phone"), "requests/phone", &json!({"id": "r1", "op": "schedule"})).await;
    let reply = harness.told().await.one("alice/others/replies/phone").clone();
    let items = &reply["items"];
    assert_eq!(
        (items.as_array().unwrap().len(), &items[0]["id"], &items[0]["not_before"]),
        (1, &json!("later"), &json!(later))
    );
    assert_eq!((&items[0]["message"]["body"], &reply["complete"]), (&json!("later"), &json!(true)));
    for (id, ok) in [("later", true), ("later", false)] {
        let cancel = json!({"id": "r2", "op": "cancel", "message": id});
        harness.says(&at("alice:phone"), "requests/phone", &cancel).await;
        let told = harness.told().await;
        assert_eq!(told.one("alice/others/replies/phone")["ok"], ok);
        assert_eq!(told.on("alice/others/receipts").len(), usize::from(ok), "all her devices are told");
    }
    harness.close().await;
}

#[tokio::test]
async fn a_time_in_seconds_is_refused_and_the_message_is_not_sent_at_once() {
    let mut harness = two(Harness::open()).await;
    for name in ["not_before", "expires"] {
        let message = json!({"id": name, "to": "bob", "body": "hi", name: (now_ms() + HOUR_MS) / 1_000});
        harness.says(&at("alice:phone"), "messages", &message).await;
        let told = harness.told().await;
        let receipt = told.one("alice/others/receipts");
        assert_eq!((&receipt["status"], &receipt["code"]), (&json!("failed"), &json!("BAD_FIELD")));
        assert!(receipt["detail"].as_str().unwrap().contains("milliseconds"), "{receipt}");
        assert!(told.on("bob/others/messages").is_empty());
    }
    harness.close().await;
}

#[tokio::test]
async fn what_was_due_while_the_bridge_was_away_is_sent_at_its_start_once() {
    let mut harness = two(Harness::open()).await;
    for id in ["a", "b"] {
        harness.schedules(id, now_ms() + HOUR_MS).await;
    }
    let (dir, path) = harness.close().await;
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute("UPDATE scheduled SET not_before = not_before - 7200000", []).unwrap();
    drop(file);
    let mut harness = Harness::open_at(dir, path);
    let copies = [harness.next_on("bob/others/messages").await, harness.next_on("bob/others/messages").await];
    assert_eq!(copies.map(|(copy, _)| copy["body"].clone()), [json!("a"), json!("b")]);
    assert!(harness.told().await.on("bob/others/messages").is_empty());
    harness.close().await;
}

/// Of two writers one was removed since, and the other was a BAL.
struct Changed;

impl RoleSource for Changed {
    fn role_of(&self, _name: &str) -> Option<Role> {
        None
    }

    fn writes_as(&self, name: &str, _then: Role, by_token: Option<bool>) -> Option<Role> {
        assert_eq!(by_token, Some(name == "shop"), "as it had logged in");
        (name != "alice").then_some(Role::User)
    }
}

#[tokio::test]
async fn whoever_was_removed_speaks_no_more_and_who_was_a_bal_is_a_user() {
    let mut harness = two(Harness::open()).await;
    harness.schedules("a", now_ms() + HOUR_MS).await;
    let of_bal = json!({"id": "b", "to": "bob", "body": "b", "not_before": now_ms() + HOUR_MS});
    let shop = Principal { role: Role::Bal, proof: Proof::SignedToken, ..at("shop:x") };
    harness.says(&shop, "messages", &of_bal).await;
    let (dir, path) = harness.close().await;
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute("UPDATE scheduled SET not_before = not_before - 7200000", []).unwrap();
    drop(file);
    let mut settings = settings();
    settings.chat.who_may_write = crate::chat::suffix::requests::Writers::Contacts;
    let mut harness = Harness::open_with(dir, path, settings);
    harness.mqtt.directory.answer_from(Changed);
    let mut failed = Vec::new();
    while failed.len() < 2 {
        let (topic, document) = harness.read().await;
        assert_ne!(topic, "bob/others/messages");
        if document["status"] == "failed" {
            failed.push((topic, document["id"].clone(), document["code"].clone()));
        }
    }
    failed.sort_by(|one, other| one.0.cmp(&other.0));
    let of = |topic: &str, id: &str| (topic.to_owned(), json!(id), json!("FORBIDDEN"));
    assert_eq!(failed, [of("alice/others/receipts", "a"), of("shop/others/receipts", "b")]);
    assert!(harness.told().await.on("bob/others/messages").is_empty());
    harness.close().await;
}

#[tokio::test]
async fn a_message_to_a_group_waits_for_its_time() {
    let mut harness = two(Harness::open()).await;
    let alice = at("alice:phone");
    harness.says(&at("bob:phone"), "messages", &json!({"to": "alice", "body": "hi"})).await;
    let request = json!({"id": "r1", "op": "group.create", "group": "g-team", "members": ["bob"]});
    harness.says(&alice, "requests/phone", &request).await;
    let later = now_ms() + HOUR_MS;
    for id in ["a", "b"] {
        let message = json!({"id": id, "to": "g-team", "body": id, "not_before": later});
        harness.says(&alice, "messages", &message).await;
    }
    harness.says(&alice, "requests/phone", &json!({"id": "r2", "op": "cancel", "message": "b"})).await;
    harness.says(&alice, "requests/phone", &json!({"id": "r3", "op": "schedule"})).await;
    let told = harness.told().await;
    let replies = told.on("alice/others/replies/phone");
    assert_eq!((&replies[2]["items"].as_array().unwrap().len(), &replies[2]["items"][0]["id"]), (&1, &json!("a")));
    let (dir, path) = harness.close().await;
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute("UPDATE scheduled SET not_before = not_before - 7200000", []).unwrap();
    drop(file);
    let mut harness = Harness::open_at(dir, path);
    let mut copy = json!({});
    while copy["body"] != "a" {
        copy = harness.next_on("bob/others/messages").await.0;
    }
    assert_eq!((&copy["from"], &copy["group"], copy.get("not_before")), (&json!("alice"), &json!("g-team"), None));
    harness.close().await;
}
