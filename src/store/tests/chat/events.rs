//! What BALs are told that ask for events.

use super::*;

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
    let report = NewReport { by, with, sids: vec![sid, chat.rig.sid()], reason };
    let call = chat.call();
    chat.rig.store.chat_report(report, call).await.unwrap().await.unwrap();
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
    chat.erase("bob").await;
    let left = chat.events().await;
    assert_eq!((names(&left), &left[0]["user"]), (vec!["user_erased"], &json!("bob")));
}

#[tokio::test]
async fn where_no_bal_asks_nothing_is_written() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    chat.register("bob", "phone", "T1").await;
    chat.write("alice", "bob", "hi").await;
    assert_eq!(chat.count("SELECT count(*) FROM inbox"), 0);
    assert_eq!(chat.rig.store.figures().spool_rows, 0);
}
