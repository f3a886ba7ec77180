//! Groups whose members read on the topics of the group: each has documents of its own there.

use super::groups::{group, named_settings, owners};
use super::*;
use crate::chat::group::{GroupChange, Post, SettingsChange};
use crate::chat::qos::QoS;
use crate::store::tests::sessions::{ALL, ask};
use crate::store::{
    AckedDocument, Acknowledged, GroupState, GroupStatePage, GroupStateQuery, QueueId, QueuedDocument, Target,
};

const MESSAGES: &str = "+/g-team/others/messages";
const MEMBERS: &str = "+/g-team/others/members";
const PROFILE: &str = "+/g-team/others/profile";

impl Chat {
    /// Alice's group, whose members read on its topics from now on.
    async fn of_group_with_topics(members: &[&str]) -> Self {
        let mut chat = Self::of_group(members).await;
        chat.deliver(GroupDelivery::Topic);
        chat
    }

    fn deliver(&mut self, group_delivery: GroupDelivery) {
        self.policy = Arc::new(ChatPolicy { group_delivery, ..(*self.policy).clone() });
    }

    /// Who is in the group, as `user` reads it.
    async fn members_told(&self, user: &str) -> Vec<String> {
        let told = self.told(user, MEMBERS).await;
        let names = |list: &Value| list["items"].as_array().unwrap().iter().map(|item| item["user"].clone()).collect();
        let lists: Vec<Vec<Value>> = told.iter().map(names).collect();
        lists.concat().into_iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    async fn states(&self, user: &str, filter: &str, target: Option<Target>) -> Vec<GroupState> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let (user, filter, behind, target) = (owner(user), filter.to_owned(), after.clone(), target.clone());
            let query = GroupStateQuery { user, filter, after: behind, target };
            match ask!(self.rig, group_state, query) {
                Some(GroupStatePage { group, states }) => {
                    after = group.to_string();
                    all.extend(states);
                }
                None => return all,
            }
        }
    }
}

/// What a document says, whatever the time.
fn timeless(mut document: Value) -> Value {
    for field in ["sid", "ts"] {
        document.as_object_mut().unwrap().remove(field);
    }
    document
}

#[tokio::test]
async fn the_same_comes_over_the_topics_of_a_group_as_over_the_inboxes() {
    let mut told = Vec::new();
    for delivery in [GroupDelivery::Inbox, GroupDelivery::Topic] {
        let mut chat = Chat::of_group(&["bob", "carol"]).await;
        chat.deliver(delivery);
        chat.block("carol", "bob", true).await;
        let (sid, _) = chat.post("bob", &json!({ "id": "m1" }), &[]).await;
        chat.post("bob", &json!({ "id": "m1" }), &[]).await;
        chat.post("bob", &json!({ "type": "edit", "ref": sid.to_string(), "body": "other" }), &[]).await;
        chat.post("alice", &json!({ "type": "retract", "ref": sid.to_string(), "body": null }), &[]).await;
        chat.change("alice", GroupChange::Remove(owners(&["bob"]))).await.unwrap();
        let mut of_all = Vec::new();
        for user in ["alice", "bob", "carol"] {
            let (there, elsewhere) = match delivery {
                GroupDelivery::Inbox => ("messages", MESSAGES),
                GroupDelivery::Topic => (MESSAGES, "messages"),
            };
            let documents: Vec<Value> = chat.told(user, there).await.into_iter().map(timeless).collect();
            assert!(documents.iter().any(|document| document["event"] == "removed"), "{user}: {documents:?}");
            of_all.push(documents);
            assert!(chat.told(user, elsewhere).await.iter().all(|other| other.get("group").is_none()), "{user}");
        }
        // The others' is retracted by the time they read it.
        let is_copy = |document: &&Value| document["from"] == "bob" && document.get("n").is_some();
        let copies = of_all.iter().map(|documents| documents.iter().filter(is_copy).count());
        assert_eq!(copies.collect::<Vec<_>>(), [1, 2, 1], "the writer has a repeat as well");
        assert!(of_all[1].iter().any(|document| document["redelivered"] == true));
        told.push(of_all);
    }
    for (user, (by_inbox, by_topic)) in told[0].iter().zip(&told[1]).enumerate() {
        let without_refs = |documents: &[Value]| {
            let mut documents = documents.to_vec();
            documents.iter_mut().for_each(|document| _ = document.as_object_mut().unwrap().remove("ref"));
            documents
        };
        assert_eq!(without_refs(by_inbox), without_refs(by_topic), "{user}");
    }
}

#[tokio::test]
async fn what_a_device_acknowledges_on_the_topic_of_a_group_is_received() {
    let mut chat = Chat::of_group_with_topics(&["bob"]).await;
    chat.write("alice", "bob", "so we are contacts").await;
    chat.forget("alice").await;
    let (sid, _) = chat.post("alice", &json!({}), &[]).await;
    let waiting = chat.rig.next(&format!("bob/others/{MESSAGES}"), 0).await;
    chat.rig.publish(&waiting).await;
    let receipts = chat.told("alice", "receipts").await;
    let told: Vec<_> = receipts.iter().map(|r| (&r["sid"], r["status"].as_str().unwrap(), &r["by"])).collect();
    let sid = json!(sid.to_string());
    assert_eq!(told, [(&sid, "sent", &Value::Null), (&sid, "delivered", &json!("bob"))]);
}

#[tokio::test]
async fn each_change_tells_who_is_in_the_group_and_how_it_is_set_and_who_is_out_hears_the_notice_last() {
    let mut chat = Chat::of_group_with_topics(&["bob"]).await;
    chat.rig.store.chat_user_seen(owner("carol")).await.unwrap().await.unwrap();
    chat.write("carol", "alice", "hi").await;
    chat.change("alice", GroupChange::Add(owners(&["carol"]))).await.unwrap();
    for user in ["alice", "bob", "carol"] {
        assert_eq!(chat.members_told(user).await, ["alice", "bob", "carol"], "{user}");
        assert_eq!(chat.told(user, PROFILE).await.len(), usize::from(user == "carol"), "{user}: only who is new");
    }
    let settings = SettingsChange { post: Some(Post::Owners), ..SettingsChange::default() };
    chat.change("alice", GroupChange::Set(settings)).await.unwrap();
    let profile = json!({ "group": "g-team", "version": 3, "name": "Team", "post": "owners", "history": "joining" });
    assert_eq!(chat.told("bob", PROFILE).await, [profile]);
    assert!(chat.members_told("bob").await.is_empty());

    // Of several changes that nobody has read the last one is told, once.
    chat.change("alice", GroupChange::Promote(owners(&["bob"]))).await.unwrap();
    chat.change("alice", GroupChange::Demote(owners(&["bob"]))).await.unwrap();
    let told = chat.told("bob", MEMBERS).await;
    assert_eq!(told.iter().map(|list| &list["version"]).collect::<Vec<_>>(), [&json!(5)]);

    // What waits for somebody who is removed before it is read says nothing any more; the notices do.
    chat.change("alice", GroupChange::Remove(owners(&["carol"]))).await.unwrap();
    chat.post("alice", &json!({ "body": "for two" }), &[]).await;
    assert!(chat.told("carol", MEMBERS).await.is_empty() && chat.told("carol", PROFILE).await.is_empty());
    let told = chat.told("carol", MESSAGES).await;
    assert_eq!(told.last().unwrap()["event"], "removed", "{told:?}");
    assert_eq!(chat.members_told("bob").await, ["alice", "bob"]);
    assert_eq!(chat.told("bob", MESSAGES).await.last().unwrap()["body"], "for two");
}

#[tokio::test]
async fn a_subscriber_is_told_of_the_own_groups_alone_and_of_what_the_filter_matches() {
    let chat = Chat::of_group_with_topics(&["bob"]).await;
    let seen =
        |states: Vec<GroupState>| -> Vec<String> { states.iter().map(|state| state.topic.to_string()).collect() };
    let both = ["members", "profile"].map(|name| format!("bob/others/+/g-team/others/{name}"));
    for (filter, expected) in [
        ("#", &both[..]),
        ("g-team/#", &both),
        ("+/others/+", &both),
        ("g-team/others/members", &both[..1]),
        ("+/others/profile", &both[1..]),
        ("g-team/others/messages", &[]),
        ("g-other/#", &[]),
    ] {
        assert_eq!(seen(chat.states("bob", filter, None).await), expected, "{filter}");
        assert!(chat.states("eve", filter, None).await.is_empty(), "{filter}");
    }
    let states = chat.states("bob", "#", None).await;
    let list: Value = serde_json::from_slice(&states[0].payload).unwrap();
    assert_eq!((&list["members"], &list["complete"]), (&json!(2), &json!(true)));
}

#[tokio::test]
async fn a_session_that_is_kept_has_how_the_group_is_as_a_row_once_and_not_after_its_user_is_out() {
    let mut chat = Chat::of_group_with_topics(&["bob"]).await;
    let queue = chat.rig.session("phone").await;
    let target = Target { queue, qos: QoS::AtLeastOnce, retain: true, ids: vec![7] };
    let topic: Arc<str> = format!("bob/others/{MEMBERS}").into();
    for _ in 0..3 {
        chat.states("bob", "g-team/others/members", Some(target.clone())).await;
    }
    let read = |rig: &Rig, queue: QueueId| {
        let (store, topic) = (rig.store.clone(), Arc::clone(&topic));
        async move { store.read_documents(topic, Some(queue), 0, ALL).await.unwrap().await.unwrap().documents }
    };
    let there = read(&chat.rig, queue).await;
    let [found] = &there[..] else { panic!("{there:?}") };
    assert_eq!(found.own, Some(target.clone()));
    let (rows, documents) = (Vec::new(), vec![took_one(found.waiting.reference.clone())]);
    let (by, at, is_awaited) = (AckedBy::Owner, chat.at, true);
    ask!(chat.rig, acknowledged, Acknowledged { queue: Some(queue), rows, documents, by, at, is_awaited });
    assert!(read(&chat.rig, queue).await.is_empty());

    // What a session has is not sent any more where something newer waits.
    chat.states("bob", "g-team/others/members", Some(target.clone())).await;
    chat.change("alice", GroupChange::Promote(owners(&["bob"]))).await.unwrap();
    let versions = |found: &[QueuedDocument]| -> Vec<Value> {
        let document = |found: &QueuedDocument| serde_json::from_slice::<Value>(&found.waiting.payload).unwrap();
        found.iter().map(|found| document(found)["version"].clone()).collect()
    };
    assert_eq!(versions(&read(&chat.rig, queue).await), [2]);
    chat.told("bob", MEMBERS).await;

    chat.states("bob", "g-team/others/members", Some(target)).await;
    chat.change("alice", GroupChange::Remove(owners(&["bob"]))).await.unwrap();
    let chat = Chat { rig: chat.rig.crash(), ..chat };
    assert!(read(&chat.rig, queue).await.is_empty());
}

fn took_one(reference: DocumentRef) -> AckedDocument {
    AckedDocument { reference, others: Vec::new() }
}

#[tokio::test]
async fn what_waits_on_topics_of_groups_comes_into_the_inboxes_where_there_are_none_any_more() {
    let mut chat = Chat::of_group_with_topics(&["bob", "carol"]).await;
    chat.change("alice", GroupChange::Set(named_settings("Other"))).await.unwrap();
    for body in ["1", "2"] {
        chat.post("alice", &json!({ "body": body }), &[]).await;
    }
    chat.deliver(GroupDelivery::Inbox);
    for _ in 0..2 {
        chat.rig.store.group_documents_into_inboxes().await.unwrap();
    }
    chat.post("alice", &json!({ "body": "3" }), &[]).await;
    for user in ["bob", "carol"] {
        let told = chat.told(user, "messages").await;
        let of_group: Vec<_> = told.iter().filter(|document| document["group"] == group().as_str()).collect();
        let said: Vec<_> = of_group.iter().filter_map(|document| document["body"].as_str()).collect();
        assert_eq!(said, ["1", "2", "3"], "{user}");
        for topic in [MESSAGES, MEMBERS, PROFILE] {
            assert!(chat.told(user, topic).await.is_empty(), "{user} {topic}");
        }
    }
}
