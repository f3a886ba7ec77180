//! Everything that is kept of a user.

use super::*;
use crate::chat::group::GroupChange;

impl Chat {
    /// All items, and how many pages they were.
    async fn export(&self, user: &str) -> (Vec<Value>, usize) {
        let (mut items, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = self.rig.store.chat_export(owner(user), after).await.unwrap().await.unwrap().unwrap();
            let bytes: usize = page.items.iter().map(|item| item.to_string().len()).sum();
            assert!(bytes < 60_000, "a page of {bytes} bytes");
            items.extend(page.items);
            pages += 1;
            let Some(next) = page.next else { return (items, pages) };
            after = next;
        }
    }
}

#[tokio::test]
async fn an_export_has_the_groups_with_what_was_written_and_changed_in_them() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    let sid = chat.post("bob", &json!({"body": "first"}), &[]).await.0;
    chat.post("bob", &json!({"type": "edit", "ref": sid.to_string(), "body": "second"}), &[]).await;
    let taken = chat.post("alice", &json!({"body": "taken back"}), &[]).await.0;
    chat.post("alice", &json!({"type": "retract", "ref": taken.to_string(), "body": null}), &[]).await;
    chat.post("alice", &json!({"body": "hi"}), &[]).await;
    let group = |items: &[Value]| items.iter().find(|item| item["kind"] == "group").cloned().unwrap();
    let (items, _) = chat.export("bob").await;
    let expected = json!({
        "kind": "group", "group": "g-team", "settings": {"name": "Team", "post": "all", "history": "joining"},
        "version": 1, "member": true, "role": "member", "unread": 1, "read": sid.to_string(),
    });
    assert_eq!(group(&items), expected);
    let of_group = items.iter().map(|item| &item["message"]).filter(|message| message["group"] == "g-team");
    let said: Vec<_> = of_group.map(|message| json!([message["type"], message["body"]])).collect();
    let expected = json!([
        ["notice", null],
        ["text", "second"],
        ["edit", "second"],
        ["tombstone", null],
        ["retract", null],
        ["text", "hi"],
    ]);
    assert_eq!(json!(said), expected);
    chat.change("alice", GroupChange::Remove(vec![owner("bob")])).await.unwrap();
    let left = group(&chat.export("bob").await.0);
    assert_eq!((&left["member"], &left["unread"]), (&json!(false), &json!(0)));
}

#[tokio::test]
async fn a_user_gets_all_that_is_kept_and_no_token() {
    let mut chat = Chat::of(&["alice", "bob", "carol"]).await;
    chat.register("bob", "phone", "T1-SECRET").await;
    chat.rig.store.chat_profile(owner("bob"), Some(r#"{"name":"Bob"}"#.to_owned())).await.unwrap().await.unwrap();
    chat.block("bob", "carol", true).await;
    chat.write("carol", "bob", "swallowed").await;
    let first = chat.write("alice", "bob", "hi").await;
    chat.read("bob", "alice", first).await;
    for n in 0..150 {
        chat.write("bob", "alice", &format!("{n} {}", "x".repeat(1_000))).await;
    }
    let (items, pages) = chat.export("bob").await;
    let of = |kind: &str| items.iter().filter(|item| item["kind"] == kind).collect::<Vec<_>>();
    assert_eq!(of("message").len(), 151, "what was swallowed is not his");
    assert_eq!(of("message")[0]["message"]["body"], "hi");
    assert!(pages > 5, "{pages}");
    let [device] = of("device")[..] else { panic!("{items:?}") };
    assert_eq!(device["token_hash"], json!(crate::chat::id::short_hash("T1-SECRET")));
    assert_eq!(of("profile")[0]["profile"]["name"], "Bob");
    let contacts: Vec<_> = of("contact").iter().map(|item| item["user"].as_str().unwrap()).collect();
    assert_eq!(contacts, ["alice", "carol"]);
    let talk = of("conversation").into_iter().find(|item| item["with"] == "alice").unwrap();
    assert_eq!((&talk["count"], &talk["unread"]), (&json!(151), &json!(0)));
    assert!(!serde_json::to_string(&items).unwrap().contains("T1-SECRET"));
    let nonsense = chat.rig.store.chat_export(owner("bob"), "shoes".to_owned()).await.unwrap().await.unwrap();
    assert_eq!(nonsense, None);
}

#[tokio::test]
async fn an_export_has_what_waits_for_its_time() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    for (id, later) in [("m1", DAY), ("m2", 2 * DAY)] {
        let not_before = chat.at + later;
        let written = json!({"id": id, "to": "alice", "body": "later", "not_before": not_before});
        assert_eq!(chat.send(writer("bob"), peer("alice", &[]), &written).await.1, ChatOutcome::Scheduled);
    }
    let (items, _) = chat.export("bob").await;
    let waiting: Vec<_> = items.iter().filter(|item| item["kind"] == "scheduled").collect();
    let said: Vec<_> =
        waiting.iter().map(|item| (&item["id"], &item["message"]["to"], &item["message"]["body"])).collect();
    let (to, body) = (json!("alice"), json!("later"));
    assert_eq!(said, [(&json!("m1"), &to, &body), (&json!("m2"), &to, &body)]);
    assert!(waiting.iter().all(|item| item["not_before"].is_u64()));
    assert!(chat.export("alice").await.0.iter().all(|item| item["kind"] != "scheduled"), "it is its writer's");
    let unknown = chat.rig.store.chat_export(owner("bob"), "scheduled m1".to_owned()).await.unwrap().await.unwrap();
    assert!(unknown.is_none());
}
