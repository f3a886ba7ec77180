//! Calls, from the port of the broker to both sides and to the phones, and the clock that ends them.

use super::chat::{at, by_topic, friends};
use super::user_presence::Stillness;
use super::*;
use crate::chat::principal::Role;
use crate::mqtt::{ClientChange, Confirmation, Sighting};

const CALLS: &str = "bob/others/calls";

impl Harness {
    async fn alice_rings(&mut self, more: &Value) -> String {
        let mut offer = json!({"call": "c1", "to": "bob", "type": "offer"});
        offer.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        self.says(&at("alice:phone"), "calls", &offer).await;
        let told = self.told().await;
        assert_eq!(told.one("alice/others/calls")["dev"], "phone");
        told.one(CALLS)["sid"].as_str().unwrap().to_owned()
    }

    async fn bob_says(&mut self, dev: &str, kind: &str) {
        let document = json!({"call": "c1", "to": "alice", "type": kind});
        self.says(&at(&format!("bob:{dev}")), "calls", &document).await;
    }

    /// What is pushed next: its type and the call in it.
    async fn rings(&mut self) -> (String, String) {
        let send = self.sent().await;
        self.report(accepted(send.sid)).await;
        let data = &send.push.data;
        let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("type"), text("call"))
    }

    /// A device of bob comes, with a session that was kept or a new one.
    async fn comes(&self, device: &str, connection: u64, resumed: bool) {
        let (user, device, client) = ("bob".into(), device.into(), format!("bob:{device}").into());
        let change = ClientChange::Came;
        let sighting = Sighting { user, role: Role::User, client, device, connection, change, resumed };
        self.mqtt.sightings.send(sighting).await.unwrap();
    }

    /// The next document of a call to bob.
    async fn next_of_calls(&mut self) -> Outbound {
        loop {
            let outbound = self.published().await;
            if outbound.topic == CALLS {
                return outbound;
            }
            let _ = outbound.outcome.send(Outcome::Confirmed);
        }
    }
}

fn read(outbound: &Outbound) -> Value {
    serde_json::from_slice(&outbound.payload).unwrap()
}

fn word(kind: &str, call: &str) -> (String, String) {
    (kind.to_owned(), call.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_takes_is_over_when_its_time_is_and_is_pushed_as_missed() {
    let still = Stillness::hold();
    let mut harness = friends(Harness::open()).await;
    harness.alice_rings(&json!({"ttl": 20})).await;
    assert_eq!(harness.rings().await, word("call", "c1"));
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(harness.told().await.on(CALLS).is_empty(), "it rings");
    tokio::time::advance(Duration::from_secs(10)).await;
    let end = read(&harness.next_of_calls().await);
    assert_eq!((&end["type"], &end["outcome"]), (&json!("end"), &json!("missed")));
    assert_eq!(harness.rings().await, word("clear", "c1"));
    assert_eq!(harness.rings().await, word("message", ""));
    drop(still);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_rang_at_a_crash_is_over_in_time() {
    let still = Stillness::hold();
    let mut harness = friends(Harness::open()).await;
    harness.alice_rings(&json!({"ttl": 20})).await;
    assert_eq!(harness.rings().await, word("call", "c1"));
    let dir = tempfile::tempdir().unwrap();
    for name in ["store.db", "store.db-wal"] {
        std::fs::copy(harness.path.with_file_name(name), dir.path().join(name)).unwrap();
    }
    harness.running.abort();
    let path = dir.path().join("store.db");
    let mut harness = Harness::open_at(dir, path);
    harness.told().await;
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(read(&harness.next_of_calls().await)["outcome"], "missed");
    drop(still);
    harness.close().await;
}

#[tokio::test]
async fn a_call_is_answered_on_one_device_and_the_phone_stops_ringing() {
    let mut harness = friends(Harness::open()).await;
    let sid = harness.alice_rings(&json!({"data": {"sdp": "v=0"}})).await;
    let send = harness.sent().await;
    assert_eq!((&send.push.data["type"], &send.push.data["sid"]), (&json!("call"), &json!(sid)));
    assert!(!serde_json::to_string(&send.push).unwrap().contains("v=0"), "no word of the offer");
    harness.report(accepted(send.sid)).await;
    harness.bob_says("web", "answer").await;
    let told = harness.told().await;
    assert_eq!(told.one("alice/others/calls")["type"], "answer");
    let types: Vec<_> = told.on(CALLS).into_iter().map(|document| &document["type"]).collect();
    assert_eq!(types, ["answer", "taken"]);
    assert_eq!(harness.rings().await, word("clear", "c1"));
    harness.bob_says("tablet", "answer").await;
    assert_eq!(harness.told().await.one("bob/others/errors")["code"], "DUPLICATE");
    // By the spelling of the inbox.
    let routed = |inbound: &mut Inbound| inbound.routed_to = Some("alice".into());
    harness.writes(&at("bob:web"), "calls", r#"{"call":"c1","type":"end"}"#, routed).await;
    let told = harness.told().await;
    assert_eq!(told.one("alice/others/calls")["type"], "end");
    for user in ["alice", "bob"] {
        assert_eq!(told.one(&format!("{user}/others/messages"))["outcome"], "answered");
    }
    harness.close().await;
}

#[tokio::test]
async fn a_device_that_comes_late_is_told_alone_and_one_with_a_kept_session_is_not() {
    let mut harness = friends(Harness::open()).await;
    harness.alice_rings(&json!({})).await;
    harness.comes("kept", 1, true).await;
    harness.comes("web", 2, false).await;
    let late = harness.next_of_calls().await;
    assert_eq!((late.devices.clone(), late.qos, late.dropped_unread), (Some(vec!["web".into()]), 1, true));
    assert!(late.expires_at.is_some_and(|at| at > now_ms() && at <= now_ms() + 60_000));
    let offer = read(&late);
    assert_eq!((&offer["type"], &offer["redelivered"]), (&json!("offer"), &json!(true)));
    harness.bob_says("web", "reject").await;
    harness.told().await;
    harness.comes("tablet", 3, false).await;
    assert_eq!(read(&harness.next_of_calls().await)["type"], "end");
    harness.close().await;
}

#[tokio::test]
async fn what_a_client_says_by_itself_makes_no_device_attended() {
    let mut harness = friends(Harness::open()).await;
    for (n, (kind, attended)) in
        [("ringing", false), ("ice", false), ("answer", true), ("reject", true)].into_iter().enumerate()
    {
        let (dev, call) = (format!("web{n}"), format!("c{n}"));
        harness.comes(&dev, n as u64, true).await;
        harness.told().await;
        harness.alice_rings(&json!({"call": call, "ttl": 60})).await;
        let document = json!({"call": call, "to": "alice", "type": kind});
        harness.says(&at(&format!("bob:{dev}")), "calls", &document).await;
        harness.told().await;
        let sid = harness.alice_writes("hi").await;
        let rule = harness.rule(&sid).await;
        assert_eq!(rule == "attended", attended, "{kind}");
    }
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_attended_device_that_rings_spares_the_phone_and_a_dead_one_does_not() {
    let still = Stillness::hold();
    let mut harness = friends(Harness::open()).await;
    harness.comes("web", 1, true).await;
    harness.says(&at("bob:web"), "presence/web", &json!({"state": "online", "active": true})).await;
    harness.told().await;
    let first = harness.alice_rings(&json!({})).await;
    let confirmation = Confirmation { user: "bob".into(), device: "web".into(), sid: Sid::parse(&first).unwrap() };
    harness.mqtt.confirmations.send(confirmation).await.unwrap();
    harness.told().await;
    let second = harness.alice_rings(&json!({"call": "c2"})).await;
    assert_eq!(harness.rule(&second).await, "attended");
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(harness.rings().await, word("call", "c2"), "the other one was confirmed");
    drop(still);
    harness.close().await;
}

#[tokio::test]
async fn a_broker_of_others_is_told_when_a_signal_expires_and_gives_it_again_to_whoever_comes() {
    let mut harness = Harness::open_for(Settings { broker: BrokerKind::External, ..settings() });
    let (alice, bob) = (by_topic("alice"), by_topic("bob"));
    for who in [&alice, &bob] {
        harness.says(who, "requests/x", &json!({"op": "settings"})).await;
    }
    harness.told().await;
    let offer = json!({"call": "c1", "to": "bob", "type": "offer", "ttl": 30, "dev": "phone"});
    harness.says(&alice, "calls", &offer).await;
    let outbound = harness.next_of_calls().await;
    let left = outbound.expires_at.unwrap().saturating_sub(now_ms());
    assert!((1..=30_000).contains(&left) && read(&outbound)["dev"] == "phone");
    let _ = outbound.outcome.send(Outcome::Confirmed);
    harness.says(&bob, "presence/web", &json!({"state": "online", "conn": "1"})).await;
    let again = harness.next_of_calls().await;
    assert_eq!((&again.devices, &read(&again)["redelivered"]), (&None, &json!(true)));
    harness.close().await;
}

#[tokio::test]
async fn strangers_calls_count_as_their_messages_and_what_is_refused_is_told_by_an_error_alone() {
    let mut harness = friends(Harness::open()).await;
    harness.says(&at("bob:phone"), "messages", &json!({"to": "eve", "body": "hi"})).await;
    harness.told().await;
    for n in 0..6 {
        let offer = json!({"id": format!("o{n}"), "call": format!("c{n}"), "to": "alice", "type": "offer"});
        harness.says(&at("eve:x"), "calls", &offer).await;
    }
    let told = harness.told().await;
    assert_eq!(told.on("alice/others/calls").len(), 5);
    let error = told.one("eve/others/errors");
    assert_eq!((&error["code"], &error["ref"]), (&json!("RATE_LIMITED"), &json!("o5")));
    assert!(told.on("eve/others/receipts").is_empty());
    harness.close().await;
}
