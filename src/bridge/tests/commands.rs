//! What operators ask of the bridge, by the control socket and over MQTT.

use super::chat::at;
use super::*;
use crate::chat::principal::{Proof, Role};
use crate::ops::control::ControlCall;

fn admin() -> Principal {
    Principal { role: Role::Admin, ..at("root:x") }
}

impl Harness {
    /// Gives a command on the control socket.
    pub(super) async fn commands(&self, request: &Value) -> mpsc::Receiver<bytes::Bytes> {
        let (call, answers) = ControlCall::new(request.to_string().into());
        self.control.send(call).await.unwrap();
        answers
    }

    /// Whether the metrics have this.
    fn shows(&self, text: &str) -> bool {
        String::from_utf8(self.metrics.render()).unwrap().contains(text)
    }

    /// The last document of the answer to a command.
    pub(super) async fn command(&self, request: &Value) -> Value {
        let mut answers = self.commands(request).await;
        loop {
            let answer = timeout(answers.recv()).await.expect("an answer ends with a document that has no `more`");
            let answer: Value = serde_json::from_slice(&answer).unwrap();
            if answer["more"] != true {
                return answer;
            }
        }
    }

    /// The next document on `_bridge/replies`.
    async fn replied(&mut self) -> Value {
        let next = async {
            loop {
                let outbound = self.mqtt.publish.recv().await.expect("the bridge runs");
                let _ = outbound.outcome.send(Outcome::Confirmed);
                if outbound.topic == "_bridge/replies" {
                    assert!(!outbound.retain && outbound.dropped_unread);
                    return serde_json::from_slice(&outbound.payload).unwrap();
                }
            }
        };
        timeout(next).await
    }
}

#[tokio::test]
async fn a_paused_transport_gets_nothing_until_it_is_resumed() {
    let mut harness = Harness::open();
    assert_eq!(harness.command(&json!({"op": "pause"})).await, json!({"ok": true, "transports": ["ccs"]}));
    harness.message("a1", "T", 60).await;
    assert_eq!(harness.command(&json!({"op": "drain"})).await["drained"], true);
    assert!(harness.transport.sends.try_recv().is_err(), "it was sent in a pause");
    let readiness = |harness: &Harness| harness.readiness.borrow().why.get("ccs").cloned().unwrap_or_default();
    timeout(async {
        while !readiness(&harness).contains("paused by an operator") {
            harness.readiness.changed().await.unwrap();
        }
    })
    .await;
    assert!(harness.shows("bridge_transport_paused{transport=\"ccs\"} 1"));
    harness.command(&json!({"op": "resume", "transport": "ccs"})).await;
    timeout(harness.readiness.wait_for(|now| !now.why.contains_key("ccs"))).await.unwrap();
    assert!(harness.shows("bridge_transport_paused{transport=\"ccs\"} 0"));
    let send = harness.sent().await;
    harness.report(accepted(send.sid)).await;
    harness.close().await;
}

#[tokio::test]
async fn a_drain_answers_when_what_was_on_its_way_is_answered() {
    let mut harness = Harness::open();
    harness.message("a1", "T", 60).await;
    let send = harness.sent().await;
    let mut answers = harness.commands(&json!({"id": "d1", "op": "drain"})).await;
    harness.message("a2", "T", 60).await;
    assert!(answers.try_recv().is_err(), "something is on its way");
    harness.report(accepted(send.sid)).await;
    let answer: Value = serde_json::from_slice(&timeout(answers.recv()).await.unwrap()).unwrap();
    let expected = json!({"ref": "d1", "ok": true, "transports": ["ccs"], "drained": true, "in_flight": 0});
    assert_eq!(answer, expected);
    assert!(harness.transport.sends.try_recv().is_err(), "the second waits on disk");
    harness.command(&json!({"op": "resume"})).await;
    let send = harness.sent().await;
    harness.report(accepted(send.sid)).await;
    harness.close().await;
}

#[tokio::test]
async fn a_drain_says_what_is_still_on_its_way_when_it_has_waited_long_enough() {
    let mut harness = Harness::open();
    harness.message("a1", "T", 600).await;
    let _send = harness.sent().await;
    tokio::time::pause();
    let answer = harness.command(&json!({"op": "drain"})).await;
    assert_eq!((&answer["drained"], &answer["in_flight"]), (&json!(false), &json!(1)));
    harness.close().await;
}

#[tokio::test]
async fn a_flush_tries_at_once_what_was_refused() {
    let mut harness = Harness::open();
    harness.message("a1", "T", 600).await;
    let send = harness.sent().await;
    harness.refuse(send.sid, Wait::AtLeast(Duration::from_secs(50))).await;
    timeout(async {
        while harness.command(&json!({"op": "flush"})).await["flushed"] != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let again = harness.sent().await;
    assert_eq!(again.sid, send.sid);
    harness.report(accepted(again.sid)).await;
    harness.close().await;
}

#[tokio::test]
async fn a_device_is_listed_and_forgotten() {
    let mut harness = Harness::open();
    let registration = json!({"token": "T1", "platform": "android"});
    harness.says(&at("bob:phone"), "devices/phone", &registration).await;
    let listed = harness.command(&json!({"op": "device.list", "user": "bob"})).await;
    let [device] = &listed["items"].as_array().unwrap()[..] else { panic!("{listed}") };
    assert_eq!((&device["dev"], &device["token_hash"]), (&json!("phone"), &json!(crate::chat::id::short_hash("T1"))));
    let forget = json!({"op": "device.forget", "user": "bob", "dev": "phone"});
    assert_eq!(harness.command(&forget).await, json!({"ok": true}));
    assert_eq!(harness.command(&forget).await["code"], "NOT_FOUND");
    assert_eq!(harness.command(&json!({"op": "device.list", "user": "bob"})).await["items"], json!([]));
    let told = harness.told().await;
    let events: Vec<&Value> = told.on("bob/others/devices").into_iter().map(|told| &told["event"]).collect();
    assert_eq!(events, ["registered", "unregistered"]);
    harness.close().await;
}

#[tokio::test]
async fn a_message_is_sent_and_followed_until_a_device_has_it() {
    let mut harness = Harness::open();
    harness.says(&at("bob:phone"), "devices/phone", &json!({"token": "T1", "platform": "android"})).await;
    let request = json!({"op": "send", "from": "client1", "to": "bob", "text": "is this on?"});
    let mut answers = harness.commands(&request).await;
    let first: Value = serde_json::from_slice(&timeout(answers.recv()).await.unwrap()).unwrap();
    assert_eq!((&first["more"], &first["delivered"]), (&json!(true), &json!(false)), "{first}");
    assert_eq!(first["devices"][0]["why"], "unattended", "{first}");
    let send = harness.sent().await;
    assert_eq!((&send.push.data["body"], &send.push.data["with"]), (&json!("is this on?"), &json!("client1")));
    harness.report(accepted(send.sid)).await;
    let confirmation = json!({"sid": first["sid"], "status": "received"});
    harness.says(&at("bob:phone"), "receipts", &confirmation).await;
    let last = timeout(async {
        loop {
            let answer: Value = serde_json::from_slice(&answers.recv().await.expect("a last one")).unwrap();
            if answer["more"] != true {
                return answer;
            }
        }
    })
    .await;
    assert_eq!((&last["delivered"], &last["sid"]), (&json!(true), &first["sid"]));
    assert!(answers.recv().await.is_none());
    harness.close().await;
}

#[tokio::test]
async fn a_message_to_nobody_or_in_nobodys_name_is_refused() {
    let harness = Harness::open();
    let nobody = json!({"op": "send", "from": "client1", "to": "nobody", "text": "x"});
    assert_eq!(harness.command(&nobody).await["code"], "NOT_FOUND");
    assert_eq!(harness.command(&json!({"op": "send", "to": "bob", "text": "x"})).await["code"], "MISSING_FIELD");
    assert_eq!(harness.command(&json!({"op": "pause", "transport": "fcm-v1"})).await["code"], "NOT_FOUND");
    assert_eq!(harness.command(&json!({"id": "c1", "op": "fly"})).await["ref"], "c1");
    harness.close().await;
}

#[tokio::test]
async fn an_admin_commands_over_mqtt_and_nobody_else_does() {
    let mut harness = Harness::open();
    let user = at("eve:x");
    let bal = Principal { role: Role::Bal, ..at("bal1:x") };
    let by_rules = Principal { proof: Proof::TopicRules, ..admin() };
    for who in [user, bal, by_rules] {
        let word = harness.publish_as(who, "_bridge/commands", &json!({"id": "x", "op": "pause"})).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }
    let word = harness.publish_as(admin(), "_bridge/commands", &json!({"id": "c1", "op": "resume"})).await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    assert_eq!(harness.replied().await, json!({"ref": "c1", "ok": true, "transports": ["ccs"]}));
    let word = harness.publish_as(admin(), "_bridge/commands", &json!({"id": "c2", "op": "fly"})).await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    let refused = harness.replied().await;
    assert_eq!((&refused["ref"], &refused["code"]), (&json!("c2"), &json!("BAD_FIELD")));
    harness.message("a1", "T", 60).await;
    let send = harness.sent().await;
    harness.report(accepted(send.sid)).await;
    harness.close().await;
}

impl Harness {
    /// The store commits nothing as long as this is there.
    fn block_disk(&self) -> rusqlite::Connection {
        let other = rusqlite::Connection::open(&self.path).unwrap();
        other.busy_timeout(Duration::from_secs(10)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        other
    }
}

#[tokio::test]
async fn while_the_disk_takes_nothing_what_needs_it_is_refused_at_once() {
    let mut harness = Harness::open();
    assert_eq!(harness.command(&json!({"op": "flush"})).await["ok"], true, "the bridge has started");
    let disk = harness.block_disk();
    // It is asked before anybody knows, and is left when it is known.
    let under_way = harness.command(&json!({"id": "c0", "op": "device.list", "user": "bob"})).await;
    assert_eq!((&under_way["ref"], &under_way["code"]), (&json!("c0"), &json!("STORE_BLOCKED")), "{under_way}");
    for request in [
        json!({"op": "flush"}),
        json!({"op": "device.list", "user": "bob"}),
        json!({"op": "device.forget", "user": "bob", "dev": "phone"}),
        json!({"op": "user.erase", "user": "bob"}),
        json!({"op": "user.export", "user": "bob"}),
        json!({"op": "user.free", "user": "bob"}),
        json!({"op": "send", "to": "bob", "from": "client1", "text": "hello"}),
    ] {
        let answer = harness.command(&request).await;
        assert_eq!((&answer["ok"], &answer["code"]), (&json!(false), &json!("STORE_BLOCKED")), "{request}");
        let detail = answer["detail"].as_str().unwrap();
        assert!(detail.strip_prefix("the store is blocked: ").is_some_and(|reason| !reason.is_empty()), "{detail}");
    }
    assert_eq!(harness.command(&json!({"op": "pause"})).await["ok"], true, "it needs no disk");
    timeout(harness.readiness.wait_for(|now| now.intake == "stopped: the store is blocked")).await.unwrap();
    drop(disk);
    let mut health = harness.store.health();
    timeout(health.wait_for(|health| *health == store::StoreHealth::Ok)).await.unwrap();
    assert_eq!(harness.command(&json!({"op": "flush"})).await["ok"], true);
    harness.close().await;
}
