//! What BALs are told that ask for events.

use super::*;
use crate::chat::group::{GroupChange, SettingsChange};
use crate::store::GroupAction;

impl Chat {
    /// With a BAL that is told, and says itself what it has.
    fn with_listener(mut self) -> Self {
        let listener = Route { bal: owner("bal1"), topic: "bal1/others/events".to_owned(), acks: Acks::Explicit };
        self.policy = Arc::new(ChatPolicy { listeners: vec![listener], ..(*self.policy).clone() });
        self
    }

    async fn events(&self) -> Vec<Value> {
        let waiting = self.rig.next("bal1/others/events", 0).await;
        waiting.iter().map(|document| serde_json::from_slice(&document.payload).unwrap()).collect()
    }
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_bal_that_asks_is_told_and_what_it_has_not_confirmed_waits_over_a_crash() {
    let mut chat = Chat::of(&["alice", "bob"]).await.with_listener();
    chat.register("bob", "phone", "T1").await;
    let sid = chat.write("alice", "bob", "hi").await;
    let (by, with, reason) = (owner("bob"), owner("alice"), Some("spam".to_owned()));
    let (topic, payload) = ("_bridge/events".to_owned(), Bytes::from_static(b"{}"));
    let event = Note { topic, payload, correlation: None, at: chat.at };
    let report = NewReport { by, with, sids: vec![sid, chat.rig.sid()], reason, event };
    let call = chat.call();
    chat.rig.store.chat_report(report, call).await.unwrap().await.unwrap();
    assert_eq!(chat.rig.next("_bridge/events", 0).await.len(), 1, "with the other");
    let events = chat.events().await;
    assert_eq!(names(&events), ["device_registered", "message_stored", "reported"]);
    assert!(!events[0].to_string().contains("T1"), "no token");
    let (from, to) = (&events[1]["from"], &events[1]["to"]);
    assert_eq!((&events[1]["sid"], from, to), (&json!(sid.to_string()), &json!("alice"), &json!("bob")));
    assert!(!events[1].to_string().contains("hi"), "no text");
    let [copy] = &events[2]["messages"].as_array().unwrap()[..] else { panic!("{}", events[2]) };
    assert_eq!((&copy["body"], &copy["sid"]), (&json!("hi"), &events[1]["sid"]));
    let first = Sid::parse(events[0]["id"].as_str().unwrap()).unwrap();
    chat.rig.store.confirm(&owner("bal1"), vec![first], chat.at).await.unwrap().await.unwrap();
    let mut chat = chat.crash().await;
    assert_eq!(names(&chat.events().await), ["message_stored", "reported"]);
    let alias = chat.erase("bob").await.alias;
    let left = chat.events().await;
    assert_eq!(names(&left), ["message_stored", "user_erased"], "the report was his own");
    assert_eq!((&left[0]["to"], &left[1]["user"]), (&json!(alias), &json!("bob")));
}

#[tokio::test]
async fn a_bal_is_told_who_comes_into_a_group_and_who_goes_and_what_is_written_there() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await.with_listener();
    let sid = chat.post("bob", &json!({"body": "hi"}), &[]).await.0;
    chat.change("alice", GroupChange::Remove(vec![owner("carol")])).await.unwrap();
    chat.change("alice", GroupChange::Add(vec![owner("carol")])).await.unwrap();
    chat.change("alice", GroupChange::Promote(vec![owner("carol")])).await.unwrap();
    chat.change("bob", GroupChange::Leave).await.unwrap();
    chat.change("alice", GroupChange::Dissolve).await.unwrap();
    let events = chat.events().await;
    assert_eq!((&events[0]["sid"], &events[0]["to"]), (&json!(sid.to_string()), &json!("g-team")));
    let told: Vec<_> =
        events.iter().map(|event| json!([event["event"], event["group"], event["user"], event["by"]])).collect();
    let expected = json!([
        ["message_stored", null, null, null],
        ["member_left", "g-team", "carol", "alice"],
        ["member_joined", "g-team", "carol", "alice"],
        ["member_left", "g-team", "bob", "bob"],
        ["member_left", "g-team", "alice", "alice"],
        ["member_left", "g-team", "carol", "alice"],
    ]);
    assert_eq!(json!(told), expected);
}

#[tokio::test]
async fn the_maker_of_a_group_is_told_of_as_well_and_of_an_erased_member_the_alias() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    chat.write("bob", "alice", "hi").await;
    let mut chat = chat.with_listener();
    let made = GroupAction::Create(SettingsChange::default());
    chat.change_group("alice", made, &["bob"]).await.unwrap();
    let told: Vec<_> = chat.events().await.iter().map(|event| json!([event["event"], event["user"]])).collect();
    assert_eq!(json!(told), json!([["member_joined", "alice"], ["member_joined", "bob"]]));
    let alias = chat.erase("bob").await.alias;
    let left = chat.events().await;
    let left: Vec<_> = left.iter().map(|event| json!([event["event"], event["user"], event["alias"]])).collect();
    let expected = json!([
        ["member_joined", "alice", null],
        ["member_joined", alias, null],
        ["member_left", alias, null],
        ["user_erased", "bob", alias],
    ]);
    assert_eq!(json!(left), expected);
}

#[tokio::test]
async fn where_no_bal_asks_nothing_is_written() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    chat.register("bob", "phone", "T1").await;
    chat.write("alice", "bob", "hi").await;
    assert_eq!(chat.count("SELECT count(*) FROM inbox"), 0);
    assert_eq!(chat.rig.store.figures().spool_rows, 0);
}
