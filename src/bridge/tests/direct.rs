//! Documents that users write into the inboxes of each other, past the bridge, which reads along.

use super::chat::{OneBal, Told, by_topic};
use super::*;
use crate::chat::principal::Role;

fn trusting() -> Settings {
    let chat = settings::ChatSettings { direct: true, ..settings::ChatSettings::default() };
    Settings { broker: BrokerKind::External, chat, ..settings() }
}

/// bob's phone has the token `T`, and alice and bob are contacts of each other.
async fn trusted() -> Harness {
    trusted_with(trusting()).await
}

async fn trusted_with(settings: Settings) -> Harness {
    let mut harness = Harness::open_for(settings);
    harness.mqtt.directory.answer_from(OneBal);
    let (alice, bob) = (by_topic("alice"), by_topic("bob"));
    harness.says(&alice, "requests/phone", &json!({"op": "settings"})).await;
    harness.says(&bob, "messages", &json!({"to": "alice", "body": "hello"})).await;
    harness.says(&alice, "messages", &json!({"to": "bob", "body": "hello"})).await;
    harness.says(&bob, "devices/phone", &json!({"token": "T", "platform": "android"})).await;
    harness.told().await;
    harness
}

impl Harness {
    /// Somebody publishes into the inbox of `peer`, and the broker tells the bridge, too.
    async fn comes_to(&mut self, peer: &str, suffix: &str, payload: &str, change: impl FnOnce(&mut Inbound)) -> Told {
        let topic = format!("{peer}/others/{suffix}");
        self.writes(&by_topic(peer), suffix, payload, |inbound| {
            inbound.topic = topic;
            change(inbound);
        })
        .await;
        self.told().await
    }

    async fn written_by_alice(&mut self, suffix: &str, document: &Value) -> Told {
        let mut document = document.clone();
        document["from"] = json!("alice");
        self.comes_to("bob", suffix, &document.to_string(), |_| ()).await
    }

    async fn replies(&mut self, user: &str, request: &Value) -> Value {
        self.says(&by_topic(user), "requests/phone", request).await;
        self.told().await.one(&format!("{user}/others/replies/phone")).clone()
    }

    /// Nothing goes to a phone.
    fn pushes_nothing(&mut self) {
        assert!(self.transport.sends.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_message_past_the_bridge_is_stored_and_pushed_and_comes_to_its_reader_no_second_time() {
    let mut harness = trusted().await;
    let told = harness.written_by_alice("messages", &json!({"id": "m1", "dev": "phone", "body": "hi", "n": 9})).await;
    assert_eq!(told.topics(), ["alice/others/messages", "alice/others/receipts"]);
    let (copy, sent) = (told.one("alice/others/messages"), told.one("alice/others/receipts"));
    assert_eq!(
        (&copy["from"], &copy["to"], &copy["n"], &copy["dev"]),
        (&json!("alice"), &json!("bob"), &json!(3), &json!("phone"))
    );
    assert_eq!((&sent["id"], &sent["sid"], &sent["status"]), (&json!("m1"), &copy["sid"], &json!("sent")));
    let data = harness.sent().await.push.data;
    assert_eq!((&data["with"], &data["body"], &data["sid"]), (&json!("alice"), &json!("hi"), &copy["sid"]));
    let first_screen = harness.replies("bob", &json!({"id": "r1", "op": "conversations"})).await;
    let [conversation] = &first_screen["items"].as_array().unwrap()[..] else { panic!("{first_screen}") };
    assert_eq!((&conversation["unread"], &conversation["last"]["sid"]), (&json!(2), &copy["sid"]), "{conversation}");

    let again = harness.written_by_alice("messages", &json!({"id": "m1", "body": "hi"})).await;
    assert_eq!(again.topics(), ["alice/others/messages"]);
    assert_eq!(again.one("alice/others/messages")["redelivered"], true);
    let other = harness.written_by_alice("messages", &json!({"id": "m1", "body": "ho"})).await;
    assert_eq!(other.one("alice/others/errors")["code"], "DUPLICATE");
    harness.pushes_nothing();
    harness.close().await;
}

#[tokio::test]
async fn what_has_no_sid_for_its_reader_is_confirmed_and_read_by_its_id() {
    let mut harness = trusted().await;
    let bob = by_topic("bob");
    for id in ["m1", "m2", "m3"] {
        harness.written_by_alice("messages", &json!({"id": id, "body": id})).await;
        harness.sent().await;
    }
    let statuses = |told: &Told| {
        let of = |one: &&Value| format!("{} {}", one["id"].as_str().unwrap(), one["status"].as_str().unwrap());
        told.on("alice/others/receipts").iter().map(of).collect::<Vec<_>>()
    };
    harness.says(&bob, "receipts", &json!({"ids": ["m1", "m2"], "with": "alice", "status": "received"})).await;
    assert_eq!(statuses(&harness.told().await), ["m1 delivered", "m2 delivered"]);
    harness.says(&bob, "read", &json!({"with": "alice", "id": "m2"})).await;
    let told = harness.told().await;
    assert_eq!(statuses(&told), ["m2 read"]);
    assert_eq!(told.one("bob/others/read")["unread"], 1);
    harness.says(&bob, "receipts", &json!({"id": "m3", "with": "alice", "status": "read", "up_to": true})).await;
    let told = harness.told().await;
    assert_eq!(statuses(&told), ["m3 delivered", "m3 read"]);
    assert_eq!(told.one("bob/others/read")["unread"], 0);
    for (suffix, document) in [
        ("receipts", json!({"ids": ["m3", "m4"], "with": "alice", "status": "received"})),
        ("read", json!({"with": "alice", "id": "m4"})),
        ("read", json!({"with": "eve", "id": "m1"})),
    ] {
        harness.says(&bob, suffix, &document).await;
        let told = harness.told().await;
        assert_eq!(told.topics(), ["bob/others/errors"], "{document}");
        assert_eq!(told.one("bob/others/errors")["code"], "NOT_FOUND", "{document}");
    }
    harness.close().await;
}

#[tokio::test]
async fn what_nobody_can_have_written_is_left_alone() {
    let mut harness = trusted().await;
    let ignored = |harness: &Harness| harness.metrics.get(Metric::DirectIgnored);
    for (payload, counts) in [
        (r#"{"from":"alice","sid":"06eqbd3gy0001ab2","n":1,"ts":1,"to":"bob","type":"text","body":"own copy"}"#, 0),
        ("", 0),
        (r#"{"id":"m1","body":"hi"}"#, 1),
        (r#"{"id":"m1","from":"bal1","body":"hi"}"#, 1),
        (r#"{"id":"m1","from":"g-1","body":"hi"}"#, 1),
        ("hi", 1),
        (r#"["alice"]"#, 1),
    ] {
        let before = ignored(&harness);
        let told = harness.comes_to("bob", "messages", payload, |_| ()).await;
        assert!(told.topics().is_empty(), "{payload}: {:?}", told.topics());
        assert_eq!(ignored(&harness) - before, counts, "{payload}");
    }
    // What the bridge published for a BAL comes back with MQTT 3.1.1, and has no `sid`.
    let from_a_device = r#"{"id":"06eqbd3gy0001ab2","from":"alice","data":{}}"#;
    let told = harness.comes_to("bal1", "messages", from_a_device, |inbound| inbound.principal.role = Role::Bal).await;
    assert!(told.topics().is_empty());
    // Who never wrote below the own `self/` is nobody, and does not come to exist by a name in a document.
    for id in ["m1", "m2"] {
        let document = json!({"id": id, "from": "ghost", "body": "boo"}).to_string();
        let told = harness.comes_to("bob", "messages", &document, |_| ()).await;
        assert_eq!(told.topics(), ["ghost/others/errors", "ghost/others/receipts"]);
        assert_eq!(told.one("ghost/others/errors")["code"], "NOT_FOUND");
    }
    harness.says(&by_topic("alice"), "messages", &json!({"to": "ghost", "body": "hi"})).await;
    assert_eq!(harness.told().await.one("alice/others/errors")["code"], "NOT_FOUND");
    harness.pushes_nothing();
    harness.close().await;
}

#[tokio::test]
async fn a_kept_copy_in_an_inbox_is_an_old_document_and_is_cleared() {
    let mut harness = trusted().await;
    let document = r#"{"id":"m1","from":"alice","body":"old"}"#;
    let told = harness.comes_to("bob", "messages", document, |inbound| inbound.retain = true).await;
    assert_eq!(told.topics(), ["bob/others/messages"]);
    assert_eq!(*told.one("bob/others/messages"), Value::Null, "an empty publish, which clears it");
    harness.pushes_nothing();
    harness.close().await;
}

#[tokio::test]
async fn what_only_another_message_cannot_mend_goes_by_the_outbox() {
    let mut harness = trusted().await;
    let told = harness.written_by_alice("messages", &json!({"id": "m1", "body": "hi"})).await;
    harness.sent().await;
    let sid = told.one("alice/others/messages")["sid"].clone();
    let later = now_ms() + 60_000;
    for (suffix, document, code) in [
        ("messages", json!({"id": "e1", "type": "edit", "ref": sid, "body": "forged"}), "FORBIDDEN"),
        ("messages", json!({"id": "e2", "type": "retract", "ref": sid}), "FORBIDDEN"),
        ("messages", json!({"id": "e3", "body": "hi", "not_before": later}), "BAD_FIELD"),
        ("invitations", json!({"id": "e4", "type": "accept", "ref": sid}), "FORBIDDEN"),
    ] {
        let told = harness.written_by_alice(suffix, &document).await;
        assert_eq!(told.topics(), ["alice/others/errors", "alice/others/receipts"], "{document}");
        let error = told.one("alice/others/errors");
        assert_eq!((&error["code"], &error["ref"]), (&json!(code), &document["id"]), "{document}");
    }
    let history = harness.replies("bob", &json!({"id": "r1", "op": "history", "with": "alice"})).await;
    assert_eq!(history["items"].as_array().unwrap().last().unwrap()["body"], "hi");
    harness.pushes_nothing();
    harness.close().await;
}

#[tokio::test]
async fn what_the_reader_has_blocked_it_gets_from_the_broker_and_the_bridge_neither_keeps_nor_pushes_it() {
    let mut harness = trusted().await;
    let asked = harness.replies("bob", &json!({"id": "r1", "op": "block", "with": "alice"})).await;
    assert_eq!(asked["ok"], true);
    let told = harness.written_by_alice("messages", &json!({"id": "m1", "body": "hi"})).await;
    assert_eq!(told.one("alice/others/receipts")["status"], "sent");
    let history = harness.replies("bob", &json!({"id": "r2", "op": "history", "with": "alice"})).await;
    assert!(history["items"].as_array().unwrap().iter().all(|item| item["body"] != "hi"), "{history}");
    harness.pushes_nothing();
    harness.close().await;
}

#[tokio::test]
async fn invitations_and_calls_past_the_bridge_ring_and_reach_their_readers_once() {
    let mut harness = trusted().await;
    harness.says(&by_topic("carol"), "devices/phone", &json!({"token": "C", "platform": "android"})).await;
    harness.told().await;
    let invitation = json!({"id": "i1", "from": "alice", "type": "request", "body": "hi"}).to_string();
    let told = harness.comes_to("carol", "invitations", &invitation, |_| ()).await;
    assert_eq!(told.topics(), ["alice/others/invitations", "alice/others/receipts"]);
    let send = harness.sent().await;
    assert_eq!(send.push.data["type"], "invitation");
    harness.report(accepted(send.sid)).await;

    let told =
        harness.written_by_alice("calls", &json!({"id": "o1", "call": "c1", "type": "offer", "dev": "phone"})).await;
    assert_eq!(told.topics(), ["alice/others/calls"]);
    let send = harness.sent().await;
    assert_eq!((&send.push.data["type"], &send.push.data["call"]), (&json!("call"), &json!("c1")));
    harness.report(accepted(send.sid)).await;
    let answer = json!({"id": "a1", "from": "bob", "call": "c1", "type": "answer", "dev": "web"}).to_string();
    let told = harness.comes_to("alice", "calls", &answer, |_| ()).await;
    assert_eq!(told.topics(), ["bob/others/calls", "bob/others/calls"]);
    let kinds: Vec<_> = told.on("bob/others/calls").into_iter().map(|signal| &signal["type"]).collect();
    assert_eq!(kinds, ["answer", "taken"], "the other devices stop ringing");
    assert_eq!(harness.sent().await.push.data["type"], "clear");
    harness.close().await;
}

#[tokio::test]
async fn who_is_writing_comes_to_the_reader_by_the_broker_alone_and_is_a_sign_of_a_person() {
    let mut harness = trusted().await;
    let bob = by_topic("bob");
    harness.writes(&bob, "presence/web", r#"{"state":"online","conn":"1"}"#, |inbound| inbound.retain = true).await;
    harness.told().await;
    let state = json!({"from": "bob", "state": "composing", "dev": "web"}).to_string();
    let told = harness.comes_to("alice", "chatstate", &state, |inbound| inbound.at_most_once = true).await;
    assert!(told.topics().is_empty(), "{:?}", told.topics());
    harness.written_by_alice("messages", &json!({"id": "m1", "body": "hi"})).await;
    harness.pushes_nothing();
    harness.says(&bob, "receipts", &json!({"id": "m1", "with": "alice", "status": "received", "dev": "web"})).await;
    assert_eq!(harness.told().await.one("alice/others/receipts")["status"], "delivered");
    harness.pushes_nothing();
    harness.close().await;
}

#[tokio::test]
async fn without_the_setting_what_lies_in_an_inbox_is_nothing_to_the_bridge() {
    let mut harness = trusted_with(Settings { broker: BrokerKind::External, ..settings() }).await;
    for retain in [false, true] {
        let document = json!({"id": "m1", "from": "alice", "body": "hi"}).to_string();
        let told = harness.comes_to("bob", "messages", &document, |inbound| inbound.retain = retain).await;
        assert!(told.topics().is_empty());
    }
    harness.pushes_nothing();
    harness.close().await;
}
