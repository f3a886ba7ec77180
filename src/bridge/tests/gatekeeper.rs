//! Who may write is left to a BAL.

use super::chat::at;
use super::user_presence::Stillness;
use super::*;
use crate::chat::principal::Role;
use crate::chat::suffix::requests::Writers;
use crate::ops::clock::HeldClock;

fn guarded() -> Settings {
    let chat = settings::ChatSettings {
        who_may_write: Writers::Gatekeeper,
        gatekeeper: Some("keeper".to_owned()),
        ..settings::ChatSettings::default()
    };
    Settings { chat, ..settings() }
}

fn gate() -> Principal {
    Principal { role: Role::Bal, ..at("keeper:x") }
}

impl Harness {
    /// Writes a message, whose acknowledgement comes later.
    async fn begins(&self, from: &str, to: &str, body: &str) -> oneshot::Receiver<AckWord> {
        let document = json!({"id": body, "to": to, "body": body});
        self.publish_as(at(&format!("{from}:phone")), &format!("{from}/self/messages"), &document).await
    }

    /// The next question; what else is published is confirmed, and given back.
    async fn questioned(&mut self) -> (Value, Vec<(String, Value)>) {
        let mut before = Vec::new();
        loop {
            let (topic, document) = self.read().await;
            if topic == "keeper/others/requests" {
                return (document, before);
            }
            before.push((topic, document));
        }
    }

    async fn answers(&self, question: &Value, answer: Value) {
        let mut document = json!({"ref": question["id"]});
        document.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
        let word = self.publish_as(gate(), "keeper/self/replies", &document).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }

    async fn exists(&mut self, user: &str) {
        self.says(&at(&format!("{user}:phone")), "chatstate", &json!({"to": user, "state": "active"})).await;
    }
}

#[tokio::test]
async fn a_stranger_is_let_in_or_not_and_the_answer_counts_for_as_long_as_it_says() {
    let mut harness = Harness::open_for(guarded());
    harness.exists("bob").await;
    let word = harness.begins("alice", "bob", "one").await;
    let (question, _) = harness.questioned().await;
    assert_eq!(
        (&question["op"], &question["from"], &question["to"]),
        (&json!("may_write"), &json!("alice"), &json!("bob"))
    );
    harness.answers(&question, json!({"ok": true, "for": 60})).await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    let word = harness.begins("alice", "bob", "two").await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done), "it is not asked again");
    let word = harness.begins("eve", "bob", "three").await;
    let (question, _) = harness.questioned().await;
    assert_eq!(question["from"], "eve");
    harness.answers(&question, json!({"ok": false})).await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    let told = harness.told().await;
    let refused = told.one("eve/others/errors");
    assert_eq!((&refused["code"], &refused["ref"]), (&json!("FORBIDDEN"), &json!("three")));
    // Bob writes to eve, so she is his contact, and is not asked about any more.
    let word = harness.begins("bob", "eve", "who-are-you").await;
    let (question, _) = harness.questioned().await;
    harness.answers(&question, json!({"ok": true})).await;
    timeout(word).await.unwrap();
    let word = harness.begins("eve", "bob", "four").await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    assert_eq!(harness.told().await.on("bob/others/messages").last().unwrap()["body"], "four");
    harness.close().await;
}

#[tokio::test]
async fn a_gatekeeper_that_is_silent_for_two_seconds_lets_nobody_in_and_holds_nobody_else_up() {
    let mut harness = Harness::open_for(guarded());
    for user in ["bob", "carol"] {
        harness.exists(user).await;
    }
    let slow = harness.begins("eve", "bob", "one").await;
    let behind = harness.begins("eve", "bob", "two").await;
    let (_, _) = harness.questioned().await;
    // Others go on, and so does what needs no answer.
    let free = harness.begins("carol", "carol", "note").await;
    assert_eq!(timeout(free).await, Ok(AckWord::Done));
    let mut slow = Box::pin(slow);
    assert!(futures_util::FutureExt::now_or_never(&mut slow).is_none(), "eve waits");
    assert_eq!(timeout(slow).await, Ok(AckWord::Done));
    let (late, before) = harness.questioned().await;
    let refused = before.iter().find(|(topic, _)| topic == "eve/others/errors").expect("it is refused");
    assert_eq!((&refused.1["code"], &refused.1["ref"]), (&json!("FORBIDDEN"), &json!("one")), "in their order");
    harness.answers(&late, json!({"ok": true})).await;
    assert_eq!(timeout(behind).await, Ok(AckWord::Done));
    harness.answers(&late, json!({"ok": true})).await;
    assert_eq!(harness.told().await.one("bob/others/messages")["body"], "two");
    harness.close().await;
}

/// Publishes a signal of a call.
async fn ring(harness: &Harness, from: &str, document: &Value) -> oneshot::Receiver<AckWord> {
    harness.publish_as(at(&format!("{from}:phone")), &format!("{from}/self/calls"), document).await
}

#[tokio::test]
async fn a_strangers_call_is_asked_about_as_a_message_is_and_what_follows_it_waits() {
    let mut harness = Harness::open_for(guarded());
    harness.exists("bob").await;
    let signal = |id: &str, call: &str, kind: &str| json!({"id": id, "call": call, "to": "bob", "type": kind});
    let offer = ring(&harness, "eve", &signal("o1", "c1", "offer")).await;
    let ice = ring(&harness, "eve", &signal("i1", "c1", "ice")).await;
    let (question, before) = harness.questioned().await;
    assert_eq!((&question["from"], &question["to"], before.len()), (&json!("eve"), &json!("bob"), 0));
    harness.answers(&question, json!({"ok": true, "for": 60})).await;
    for word in [offer, ice] {
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }
    let told = harness.told().await;
    let types: Vec<_> = told.on("bob/others/calls").into_iter().map(|document| document["type"].clone()).collect();
    assert_eq!(types, ["offer", "ice"], "{:?}", told.topics());
    // The answer counts for another call, and for a message.
    let again = ring(&harness, "eve", &signal("o2", "c2", "offer")).await;
    assert_eq!(timeout(again).await, Ok(AckWord::Done));
    let message = harness.begins("eve", "bob", "one").await;
    assert_eq!(timeout(message).await, Ok(AckWord::Done));
    let told = harness.told().await;
    assert_eq!(told.one("bob/others/calls")["call"], "c2");
    assert_eq!(told.one("bob/others/messages")["body"], "one");
    // Of whom it does not let in, nothing is heard.
    let refused = ring(&harness, "mallory", &signal("o1", "c1", "offer")).await;
    let (question, _) = harness.questioned().await;
    harness.answers(&question, json!({"ok": false})).await;
    assert_eq!(timeout(refused).await, Ok(AckWord::Done));
    let told = harness.told().await;
    assert_eq!(told.one("mallory/others/errors")["code"], "FORBIDDEN");
    assert!(told.on("bob/others/calls").is_empty());
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_call_goes_on_while_the_gatekeeper_is_asked() {
    let (still, clock) = (Stillness::hold(), HeldClock::at(now_ms()));
    let mut harness = Harness::open_for(guarded());
    harness.exists("bob").await;
    let offer = json!({"id": "o1", "call": "c1", "to": "bob", "type": "offer", "ttl": 1});
    let word = harness.publish_as(at("eve:phone"), "eve/self/calls", &offer).await;
    let (question, _) = harness.questioned().await;
    let passed = Duration::from_millis(1_500);
    clock.pass(passed);
    tokio::time::advance(passed).await;
    harness.answers(&question, json!({"ok": true})).await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    // Which of two topics is published first, nobody says.
    let mut told: Vec<(String, Value)> = Vec::new();
    while !["bob/others/calls", "bob/others/messages"].iter().all(|topic| told.iter().any(|(of, _)| of == topic)) {
        told.push(harness.read().await);
    }
    let on = |topic: &str| told.iter().filter(|(of, _)| of == topic).map(|(_, document)| document).collect::<Vec<_>>();
    let heard: Vec<_> = on("bob/others/calls").iter().map(|document| document["type"].clone()).collect();
    assert_eq!(heard, ["end"], "it does not ring any more");
    assert_eq!(on("bob/others/messages")[0]["outcome"], "missed");
    drop(still);
    harness.close().await;
}

/// Of one user's messages each waits for the one before it. They are more than the intake works on at one time.
#[tokio::test]
async fn what_waits_behind_a_question_takes_the_place_of_nobody_else() {
    let mut settings = guarded();
    settings.limits.inflight_publishes = 4;
    let mut harness = Harness::open_for(settings);
    harness.exists("bob").await;
    let mut words = Vec::new();
    for n in 0..20 {
        words.push(harness.begins("mallory", "bob", &format!("m{n}")).await);
    }
    let (question, _) = harness.questioned().await;
    harness.exists("carol").await;
    let push = json!({"id": "p1", "token": "T", "data": {"a": "b"}});
    let word = harness.publish_as(gate(), "keeper/self/messages", &push).await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    harness.answers(&question, json!({"ok": false, "for": 60})).await;
    for word in words {
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }
}

/// A broker of others sends only so much without an acknowledgement, and the answer may be behind that.
#[tokio::test]
async fn over_a_broker_of_others_what_is_asked_about_waits_on_disk_in_its_order() {
    let mut harness = Harness::open_for(Settings { broker: BrokerKind::External, ..guarded() });
    for user in ["bob", "carol"] {
        harness.exists(user).await;
    }
    for body in ["one", "two", "three", "two"] {
        let word = harness.begins("eve", "bob", body).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done), "{body}");
    }
    let (first, before) = harness.questioned().await;
    assert!(before.is_empty(), "{before:?}");
    harness.answers(&first, json!({"ok": true, "for": 60})).await;
    let mut told = Vec::new();
    while told.iter().filter(|(topic, _)| topic == "bob/others/messages").count() < 3 {
        told.push(harness.read().await);
    }
    let bodies: Vec<_> =
        told.iter().filter(|(topic, _)| topic == "bob/others/messages").map(|(_, of)| &of["body"]).collect();
    assert_eq!(bodies, ["one", "two", "three"]);
    assert!(!told.iter().any(|(_, document)| document["status"] == "scheduled"), "{told:?}");
    // What the gatekeeper has answered already waits for nobody.
    let word = harness.begins("eve", "bob", "four").await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    assert_eq!(harness.told().await.one("bob/others/messages")["body"], "four");
    let word = harness.begins("eve", "carol", "five").await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    let (other, _) = harness.questioned().await;
    harness.answers(&other, json!({"ok": false})).await;
    let failed = loop {
        let (topic, document) = harness.read().await;
        if topic == "eve/others/receipts" {
            break document;
        }
    };
    assert_eq!(
        (&failed["id"], &failed["status"], &failed["code"]),
        (&json!("five"), &json!("failed"), &json!("FORBIDDEN"))
    );
    harness.close().await;
}

/// A push service sends only so much of all devices without an acknowledgement.
#[tokio::test]
async fn what_a_phone_writes_by_its_push_service_waits_for_the_answer_on_disk_and_holds_up_no_other_phone() {
    let mut harness = Harness::open_for(guarded());
    harness.exists("bob").await;
    harness.says(&at("eve:phone"), "devices/phone", &json!({"token": "T1", "platform": "android"})).await;
    for body in ["one", "two", "three"] {
        harness.by_phone(body, json!({"id": body, "to": "bob", "body": body})).await;
    }
    harness.upstream("x", "com.example.chat").await;
    let mut acknowledged = Vec::new();
    for _ in 0..4 {
        acknowledged.push(harness.ack().await.message_id);
    }
    let of_phone: Vec<_> = acknowledged.iter().map(String::as_str).filter(|id| *id != "x").collect();
    assert_eq!((of_phone, acknowledged.len()), (vec!["one", "two", "three"], 4));
    // All the while the question was open.
    let (question, mut told) = harness.questioned().await;
    assert_eq!(question["from"], "eve");
    harness.answers(&question, json!({"ok": true, "for": 60})).await;
    let to_bob = |told: &[(String, Value)]| -> Vec<Value> {
        told.iter()
            .filter(|(of, _)| of == "bob/others/messages")
            .map(|(_, document)| document["body"].clone())
            .collect()
    };
    while to_bob(&told).len() < 3 {
        told.push(harness.read().await);
    }
    assert_eq!(to_bob(&told), ["one", "two", "three"]);
    harness.close().await;
}

#[tokio::test]
async fn a_block_shows_by_no_question() {
    let mut harness = Harness::open_for(guarded());
    for user in ["alice", "bob"] {
        harness.exists(user).await;
    }
    let word = harness.begins("bob", "alice", "hello").await;
    let (question, _) = harness.questioned().await;
    harness.answers(&question, json!({"ok": true})).await;
    timeout(word).await.unwrap();
    let block = json!({"id": "r1", "op": "block", "with": "alice"});
    harness.says(&at("bob:phone"), "requests/phone", &block).await;
    harness.told().await;
    let word = harness.begins("alice", "bob", "still-a-contact").await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    let told = harness.told().await;
    assert!(told.on("keeper/others/requests").is_empty() && told.on("bob/others/messages").is_empty());
    assert_eq!(told.one("alice/others/receipts")["status"], "sent");
    harness.close().await;
}

#[tokio::test]
async fn without_a_gatekeeper_nobody_can_leave_it_to_one() {
    let mut harness = Harness::open();
    let request = json!({"id": "r1", "op": "who_may_write", "who": "gatekeeper"});
    harness.says(&at("bob:phone"), "requests/phone", &request).await;
    let told = harness.told().await;
    assert_eq!(told.one("bob/others/replies/phone")["code"], "BAD_FIELD");
    harness.close().await;
}

#[tokio::test]
async fn it_is_asked_about_a_message_that_is_sent_later_when_it_is_sent() {
    let mut harness = Harness::open_for(guarded());
    harness.exists("bob").await;
    for (user, id) in [("eve", "in"), ("eve", "out"), ("mallory", "other")] {
        let later = json!({"id": id, "to": "bob", "body": id, "not_before": now_ms() + 3_600_000});
        harness.says(&at(&format!("{user}:phone")), "messages", &later).await;
    }
    let told = harness.told().await;
    assert!(told.on("keeper/others/requests").is_empty(), "not yet");
    assert_eq!(told.on("eve/others/receipts").len(), 2, "both wait");
    let (dir, path) = harness.close().await;
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute("UPDATE scheduled SET not_before = not_before - 7200000", []).unwrap();
    drop(file);
    let mut harness = Harness::open_with(dir, path, guarded());
    let (first, _) = harness.questioned().await;
    let (second, before) = harness.questioned().await;
    let of = [&first, &second].map(|question| question["from"].as_str().unwrap());
    assert_eq!((of, before.len()), (["eve", "mallory"], 0), "each of them is asked about one");
    // What does not have to be asked about goes on.
    harness.says(&at("bob:phone"), "messages", &json!({"id": "note", "to": "bob", "body": "note"})).await;
    harness.answers(&first, json!({"ok": true})).await;
    let (third, mut told) = harness.questioned().await;
    harness.answers(&third, json!({"ok": false})).await;
    harness.answers(&second, json!({"ok": false})).await;
    while told.iter().filter(|(_, document)| document["status"] == "failed").count() < 2 {
        told.push(harness.read().await);
    }
    let on = |topic: &str| told.iter().filter(|(of, _)| of == topic).map(|(_, document)| document).collect::<Vec<_>>();
    let bodies: Vec<_> = on("bob/others/messages").iter().map(|document| document["body"].clone()).collect();
    assert!(bodies.contains(&json!("in")) && !bodies.contains(&json!("out")) && !bodies.contains(&json!("other")));
    let failed = *on("eve/others/receipts").last().unwrap();
    assert_eq!((&failed["id"], &failed["code"]), (&json!("out"), &json!("FORBIDDEN")));
    harness.close().await;
}
