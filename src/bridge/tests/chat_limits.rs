//! What chat users, BALs and phones write to each other, and how much of it.

use super::chat::at;
use super::principals::logged_in;
use super::*;
use crate::bridge::settings::Limits;
use crate::chat::principal::Role;
use crate::ops::metrics::Metric;
use tokio::sync::oneshot::error::TryRecvError;

fn strict(limits: Limits) -> Settings {
    Settings { limits: Limits { inflight_publishes: 100, ..limits }, ..settings() }
}

impl Harness {
    /// A user says something, and has its acknowledgement.
    async fn user_says(&self, user: &str, suffix: &str, word: Value) {
        let word = self.publish_as(logged_in(user, Role::User), &format!("{user}/self/{suffix}"), &word).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }

    async fn bal_says(&self, suffix: &str, word: Value) {
        let word = self.publish_as(logged_in("shop", Role::Bal), &format!("shop/self/{suffix}"), &word).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }

    /// So many documents, by topic.
    async fn documents(&mut self, count: usize) -> Vec<(String, Value)> {
        let mut documents = Vec::with_capacity(count);
        for _ in 0..count {
            documents.push(self.read().await);
        }
        documents.sort_by(|one, other| one.0.cmp(&other.0));
        documents
    }

    /// The users exist from now on.
    async fn of_users(users: &[&str], settings: Settings) -> Self {
        let harness = Self::open_for(settings);
        for user in users {
            harness.user_says(user, "receipts", json!({ "id": "unknown", "status": "received" })).await;
        }
        harness
    }

    pub(super) async fn by_phone(&self, message_id: &str, data: Value) {
        let ack_ref = AckRef { connection: ConnectionId(1), to: "phone".into(), message_id: message_id.into() };
        let Value::Object(data) = data else { panic!("data is an object") };
        let (from, category) = (Token::new("T1").unwrap(), Some("com.example.chat".to_owned()));
        let message_id = message_id.into();
        let message = DeviceMessage::Upstream(ReceivedUpstream { from, category, message_id, data, ack_ref });
        self.transport.device_messages.send(message).await.expect("the bridge runs");
    }
}

fn codes(documents: &[(String, Value)]) -> Vec<&str> {
    documents.iter().map(|(_, document)| document["code"].as_str().unwrap_or("ok")).collect()
}

fn topics(documents: &[(String, Value)]) -> Vec<&str> {
    documents.iter().map(|(topic, _)| topic.as_str()).collect()
}

#[tokio::test]
async fn requests_beyond_the_limit_of_a_user_are_answered_so_and_another_users_are_not() {
    let limits = Limits { user_requests_per_second: 1, user_test_pushes_per_minute: 1, ..Limits::default() };
    let mut harness = Harness::of_users(&[], strict(limits)).await;
    let settings = |n: u32| json!({ "id": format!("r{n}"), "op": "settings" });
    for n in 0..4 {
        harness.user_says("eve", "requests/phone", settings(n)).await;
    }
    harness.user_says("bob", "requests/phone", settings(9)).await;
    let documents = harness.documents(5).await;
    assert_eq!(topics(&documents)[0], "bob/others/replies/phone");
    let mut codes = codes(&documents);
    codes.dedup();
    assert_eq!(codes, ["ok", "ok", "RATE_LIMITED"][1..], "of each, the one that was allowed comes first");
    let refused = &documents[4].1;
    assert_eq!((&refused["ok"], refused["ref"].is_string()), (&json!(false), true));
    harness.close().await;
}

#[tokio::test]
async fn test_pushes_and_registrations_have_limits_of_their_own() {
    let limits = Limits { user_registrations_per_hour: 2, ..Limits::default() };
    let mut harness = Harness::of_users(&[], strict(limits)).await;
    for n in 0..3 {
        harness.user_says("eve", "requests/phone", json!({ "id": format!("r{n}"), "op": "test_push" })).await;
    }
    assert_eq!(codes(&harness.documents(3).await), ["ok", "RATE_LIMITED", "RATE_LIMITED"]);
    for n in 0..3 {
        let registration = json!({ "token": format!("t{n}"), "platform": "android" });
        harness.user_says("eve", "devices/phone", registration).await;
    }
    let documents = harness.documents(3).await;
    assert_eq!(topics(&documents), ["eve/others/devices", "eve/others/devices", "eve/others/errors"]);
    assert_eq!(documents[2].1["code"], "RATE_LIMITED");
    harness.user_says("eve", "devices/phone", json!(null)).await;
    harness.close().await;
}

#[tokio::test]
async fn whoever_writes_to_too_many_strangers_hears_no_more_of_who_exists() {
    let limits = Limits { user_strangers_per_hour: 2, user_messages_per_stranger: 2, ..Limits::default() };
    let mut harness = Harness::of_users(&["bob", "carol"], strict(limits)).await;
    harness.user_says("carol", "messages", json!({ "id": "c1", "to": "eve", "body": "hi" })).await;
    let refused = harness.documents(2).await;
    assert_eq!(codes(&refused), ["NOT_FOUND"; 2], "eve has never been here");
    for (n, (to, code)) in [
        ("bob", "ok"),
        ("nobody", "NOT_FOUND"),
        ("nobody", "NOT_FOUND"),
        ("nobody", "RATE_LIMITED"),
        ("carol", "RATE_LIMITED"),
        ("bob", "ok"),
        ("bob", "RATE_LIMITED"),
    ]
    .into_iter()
    .enumerate()
    {
        harness.user_says("eve", "messages", json!({ "id": format!("m{n}"), "to": to, "body": "spam" })).await;
        let told = harness.documents(if code == "ok" { 3 } else { 2 }).await;
        assert_eq!(*codes(&told).last().unwrap(), code, "{n}: {told:?}");
    }
    // Bob answers.
    harness.user_says("bob", "messages", json!({ "id": "b1", "to": "eve", "body": "yes?" })).await;
    harness.documents(4).await;
    for n in 0..5 {
        harness.user_says("eve", "messages", json!({ "id": format!("n{n}"), "to": "bob", "body": "hello" })).await;
        assert_eq!(codes(&harness.documents(3).await), ["ok"; 3]);
    }
    harness.close().await;
}

#[tokio::test]
async fn what_a_user_publishes_too_fast_is_acknowledged_later_and_holds_up_nobody() {
    let limits = Limits { user_publishes_per_second: 1, ..Limits::default() };
    let harness = Harness::of_users(&[], strict(limits)).await;
    let receipt = json!({ "id": "unknown", "status": "received" });
    let mut words = Vec::new();
    for _ in 0..300 {
        words.push(harness.publish_as(logged_in("eve", Role::User), "eve/self/receipts", &receipt).await);
    }
    harness.user_says("bob", "receipts", receipt.clone()).await;
    let mut last = words.pop().unwrap();
    assert!(last.try_recv().is_err(), "its turn comes in five minutes");
    assert_eq!(timeout(words.remove(0)).await, Ok(AckWord::Done));
    let (ack, word) = Ack::new();
    let message = json!({ "to": "bob", "body": "hi" }).to_string().into();
    let eve = logged_in("eve", Role::User);
    let at_most_once = Inbound { at_most_once: true, ..Inbound::new(eve, "eve/self/messages".into(), message, ack) };
    harness.mqtt.inbound.send(at_most_once).await.unwrap();
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    assert_eq!(harness.store.figures().chat_rows, 0, "it was dropped");
    harness.close().await;
    assert_eq!(timeout(last).await, Ok(AckWord::Done), "what was done is acknowledged at the stop");
}

#[tokio::test]
async fn of_a_user_who_owes_too_much_time_nothing_more_is_done() {
    let limits = Limits { user_publishes_per_second: 1, ..Limits::default() };
    let harness = Harness::of_users(&[], strict(limits)).await;
    let receipt = json!({ "id": "unknown", "status": "received" });
    // One is acknowledged at once, and a thousand wait.
    for _ in 0..1_001 {
        drop(harness.publish_as(logged_in("eve", Role::User), "eve/self/receipts", &receipt).await);
    }
    for turn in 0.. {
        // What came before is dealt with when one of somebody else is.
        harness.user_says(&format!("bob{turn}"), "receipts", receipt.clone()).await;
        let done = harness.metrics.get(Metric::DownstreamRejected);
        let mut word = harness.publish_as(logged_in("eve", Role::User), "eve/self/receipts", &json!([])).await;
        harness.user_says(&format!("carol{turn}"), "receipts", json!([])).await;
        // A second may have passed, and one of the thousand with it.
        if word.try_recv() == Err(TryRecvError::Closed) {
            assert_eq!(
                harness.metrics.get(Metric::DownstreamRejected),
                done + 1,
                "carol's, and nothing of eve's was done"
            );
            break;
        }
    }
    harness.close().await;
}

#[tokio::test]
async fn a_phone_writes_by_its_push_service_as_the_user_who_registered_it() {
    let mut harness = Harness::of_users(&["alice", "bob"], settings()).await;
    let before = json!({ "to": "alice", "body": "nobody's token" });
    harness.by_phone("0", before.clone()).await;
    assert_eq!(harness.ack().await.message_id, "0");
    let (topic, document) = harness.read().await;
    assert_eq!((topic.as_str(), &document["data"]), ("client1/others/messages", &before));
    harness.user_says("bob", "devices/phone", json!({ "token": "T1", "platform": "android" })).await;
    harness.documents(1).await;
    let data = json!({ "to": "alice", "body": "7", "data": "{\"n\":[1]}", "ttl": "60", "from": "carol" });
    for id in ["1", "1"] {
        harness.by_phone(id, data.clone()).await;
        assert_eq!(harness.ack().await.message_id, "1");
    }
    let documents = harness.documents(4).await;
    let [alice, own, again, sent] = documents.as_slice() else { panic!("{documents:?}") };
    assert_eq!(alice.0, "alice/others/messages");
    assert_eq!(
        (&alice.1["from"], &alice.1["body"], &alice.1["data"]),
        (&json!("bob"), &json!("7"), &json!({"n": [1]}))
    );
    assert!(alice.1["dev"].is_null() && !format!("{documents:?}").contains("T1"));
    assert_eq!((own.0.as_str(), &own.1["dev"]), ("bob/others/messages", &json!("phone")));
    assert_eq!((&again.1["sid"], &again.1["redelivered"]), (&own.1["sid"], &json!(true)), "{again:?}");
    assert_eq!((sent.0.as_str(), &sent.1["status"]), ("bob/others/receipts", &json!("sent")));
    harness.by_phone("2", json!({ "to": "nobody", "id": "u2", "body": "hi" })).await;
    assert_eq!(harness.ack().await.message_id, "2", "what is refused is dealt with");
    let refused = harness.documents(2).await;
    assert_eq!(topics(&refused), ["bob/others/errors", "bob/others/receipts"]);
    assert_eq!(codes(&refused), ["NOT_FOUND"; 2]);
    harness.close().await;
}

#[tokio::test]
async fn what_a_phone_writes_by_its_push_service_is_acknowledged_when_it_is_on_disk_however_much_its_user_writes() {
    let limits = Limits { user_publishes_per_second: 3, ..Limits::default() };
    let mut harness = Harness::of_users(&["bob"], strict(limits)).await;
    harness.user_says("bob", "devices/phone", json!({ "token": "T1", "platform": "android" })).await;
    // The last of these are acknowledged after most of a minute.
    let late = |n: u32| json!({ "id": format!("q{n}"), "op": "settings" });
    let mut words = Vec::new();
    for n in 0..150 {
        let topic = "bob/self/requests/phone";
        words.push(harness.publish_as(logged_in("bob", Role::User), topic, &late(n)).await);
    }
    for n in 0..20 {
        harness.by_phone(&format!("m{n}"), json!({ "to": "bob", "body": "note" })).await;
        assert_eq!(harness.ack().await.message_id, format!("m{n}"));
    }
    assert_eq!(words.last_mut().unwrap().try_recv(), Err(TryRecvError::Empty));
}

#[tokio::test]
async fn a_bal_and_a_user_write_to_each_other_and_a_bal_never_hears_itself() {
    let mut harness = Harness::of_users(&["bob"], settings()).await;
    for field in ["token", "topic", "condition", "collapse"] {
        harness.bal_says("messages", json!({ "id": field, "to": "bob", "body": "hi", field: "x" })).await;
        assert_eq!(codes(&harness.documents(2).await), ["BAD_FIELD"; 2], "{field}");
    }
    harness.bal_says("messages", json!({ "id": "m1", "to": "bob", "data": { "any": [1, null] } })).await;
    let told = harness.documents(3).await;
    assert_eq!(topics(&told), ["bob/others/messages", "shop/others/receipts", "shop/others/receipts"]);
    let sid = told[0].1["sid"].clone();
    harness.user_says("bob", "receipts", json!({ "sid": sid, "status": "received" })).await;
    assert_eq!(harness.status().await, ("m1".into(), "delivered".into()));
    harness.user_says("bob", "read", json!({ "with": "shop", "sid": sid })).await;
    let told = harness.documents(2).await;
    assert_eq!((topics(&told)[1], &told[1].1["status"]), ("shop/others/receipts", &json!("read")));
    harness.bal_says("messages", json!({ "id": "m2", "to": "shop", "body": "to myself" })).await;
    let told = harness.documents(2).await;
    assert_eq!(topics(&told), ["shop/others/receipts"; 2], "accepted and sent, and no copy");
    harness.bal_says("devices/one", json!({ "token": "T", "platform": "ios" })).await;
    assert_eq!(codes(&harness.documents(1).await), ["FORBIDDEN"]);
    harness.close().await;
}

#[tokio::test]
async fn contacts_that_are_put_into_a_group_take_no_place_of_a_stranger() {
    let mut harness = Harness::open();
    let alice = at("alice:phone");
    for user in ["alice:phone", "dave:phone"] {
        harness.says(&at(user), "chatstate", &json!({"to": "alice", "state": "active"})).await;
    }
    // More than there may be strangers in an hour.
    let mut members: Vec<String> = (0..25).map(|n| format!("member{n:02}")).collect();
    for member in &members {
        harness.says(&at(&format!("{member}:phone")), "messages", &json!({"to": "alice", "body": "hi"})).await;
    }
    let expected = members.clone();
    members.push("dave".to_owned());
    harness.told().await;
    let request = json!({"id": "r1", "op": "group.create", "members": members});
    harness.says(&alice, "requests/phone", &request).await;
    let told = harness.told().await;
    let reply = told.one("alice/others/replies/phone");
    assert_eq!(
        (&reply["ok"], &reply["members"], &reply["invited"]),
        (&json!(true), &json!(expected), &json!(["dave"]))
    );
    harness.close().await;
}

/// Names that do not exist included: who makes groups learns no more of who exists than who writes messages.
#[tokio::test]
async fn names_tried_in_requests_for_groups_count_as_strangers_and_notices_as_messages_to_members() {
    // One in a second: a slow machine has that long for the two that follow each other.
    let limits = Limits { user_strangers_per_hour: 2, user_group_pushes_per_second: 1, ..Limits::default() };
    let mut harness = Harness::open_for(strict(limits));
    let alice = at("alice:phone");
    for member in ["bob", "carol"] {
        harness.says(&at(&format!("{member}:phone")), "chatstate", &json!({"to": member, "state": "active"})).await;
    }
    let mut asked = 0;
    let mut asks = async |harness: &mut Harness, request: Value| {
        asked += 1;
        let mut whole = json!({"id": format!("r{asked}")});
        whole.as_object_mut().unwrap().extend(request.as_object().unwrap().clone());
        harness.says(&alice, "requests/phone", &whole).await;
        let reply = harness.told().await.one("alice/others/replies/phone").clone();
        reply["code"].as_str().unwrap_or("ok").to_owned()
    };
    for members in [json!(["guess1", "bob", "carol"]), json!(["bob", "carol", "guess1"])] {
        let request = json!({"op": "group.create", "members": members});
        assert_eq!(asks(&mut harness, request).await, "RATE_LIMITED", "whoever exists, and it counts nothing");
    }
    for (name, code) in
        [("guess1", "NOT_FOUND"), ("guess2", "NOT_FOUND"), ("guess3", "RATE_LIMITED"), ("bob", "RATE_LIMITED")]
    {
        let request = json!({"op": "group.create", "members": [name]});
        assert_eq!(asks(&mut harness, request).await, code, "{name}");
    }
    assert_eq!(asks(&mut harness, json!({"op": "group.create", "group": "g-own"})).await, "ok");
    for (n, code) in ["ok", "RATE_LIMITED"].into_iter().enumerate() {
        let request = json!({"op": "group.rename", "group": "g-own", "name": format!("name {n}")});
        assert_eq!(asks(&mut harness, request).await, code, "{n}");
    }
    harness.close().await;
}

/// A change of a large group takes as long as a message to it: it waits for its turn, and nobody waits for it.
#[tokio::test]
async fn a_change_of_a_group_waits_for_room_and_holds_up_nobody() {
    let mut harness = Harness::open();
    let request = json!({"id": "r1", "op": "group.create", "group": "g-own"});
    harness.user_says("alice", "requests/phone", request).await;
    harness.told().await;
    let other = crate::chat::id::GroupId::new("g-other").unwrap();
    let room = harness.store.group_room(&other, crate::chat::group::MEMBERS_MAX).await.unwrap();
    let rename = json!({"id": "r2", "op": "group.rename", "group": "g-own", "name": "New"});
    let mut word = harness.publish_as(at("alice:phone"), "alice/self/requests/phone", &rename).await;
    harness.says(&at("bob:phone"), "messages", &json!({"to": "bob", "body": "a note"})).await;
    let told = harness.told().await;
    assert_eq!((told.one("bob/others/messages")["body"].as_str(), word.try_recv().ok()), (Some("a note"), None));
    assert!(told.on("alice/others/replies/phone").is_empty(), "it waits");
    drop(room);
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    assert_eq!(harness.told().await.one("alice/others/replies/phone")["ok"], true);
}

#[tokio::test]
async fn reports_have_a_limit_of_their_own() {
    let limits = Limits { user_reports_per_hour: 2, ..Limits::default() };
    let mut harness = Harness::of_users(&[], strict(limits)).await;
    for n in 0..3 {
        let report = json!({"id": format!("r{n}"), "op": "report", "with": "bob", "sids": [], "reason": "spam"});
        harness.user_says("eve", "requests/phone", report).await;
    }
    assert_eq!(codes(&harness.documents(3).await), ["ok", "ok", "RATE_LIMITED"]);
    harness.close().await;
}

/// Whoever is a contact is put into a group without being asked, and may be in so many groups.
#[tokio::test]
async fn how_often_one_puts_the_same_other_into_groups_has_a_limit() {
    let limits = Limits { user_same_member_per_day: 2, ..Limits::default() };
    let mut harness = Harness::open_for(strict(limits));
    for member in ["bob", "carol"] {
        harness.says(&at(&format!("{member}:phone")), "messages", &json!({"to": member, "body": "x"})).await;
    }
    let alice = at("alice:phone");
    harness.says(&alice, "chatstate", &json!({"to": "alice", "state": "active"})).await;
    for member in ["bob", "carol"] {
        harness.says(&at(&format!("{member}:phone")), "messages", &json!({"to": "alice", "body": "hi"})).await;
    }
    harness.told().await;
    for (n, (member, code)) in
        [("bob", "ok"), ("bob", "ok"), ("bob", "RATE_LIMITED"), ("carol", "ok")].into_iter().enumerate()
    {
        let group = format!("g-{n}");
        let create = json!({"id": format!("c{n}"), "op": "group.create", "group": group, "members": [member]});
        harness.says(&alice, "requests/phone", &create).await;
        let reply = harness.told().await.one("alice/others/replies/phone").clone();
        assert_eq!(reply["code"].as_str().unwrap_or("ok"), code, "{n}: {reply}");
        harness.says(&alice, "requests/phone", &json!({"id": "l", "op": "group.leave", "group": group})).await;
        harness.told().await;
    }
    harness.close().await;
}
