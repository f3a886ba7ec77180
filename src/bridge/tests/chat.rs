//! What chat users write, from the port of the broker to both sides of the conversation and to the phones.

use super::user_presence::Stillness;
use super::*;
use crate::chat::principal::{Proof, Role};
use crate::mqtt::{ClientChange, Confirmation, RoleSource, Sighting, Visibility};

/// How long an attended device may let a message wait.
const ATTENTION: Duration = Duration::from_secs(15);

/// A chat user at one of the devices, as the embedded broker knows it.
pub(super) fn at(client: &str) -> Principal {
    let (name, device) = client.split_once(':').expect("a user and a device");
    Principal {
        name: name.into(),
        role: Role::User,
        device: Some(device.into()),
        background: false,
        proof: Proof::Login,
    }
}

/// A chat user on a broker of others.
pub(super) fn by_topic(name: &str) -> Principal {
    Principal { name: name.into(), role: Role::User, device: None, background: false, proof: Proof::TopicRules }
}

/// The BAL among the users.
pub(super) struct OneBal;

impl RoleSource for OneBal {
    fn role_of(&self, name: &str) -> Option<Role> {
        (name == "bal1").then_some(Role::Bal)
    }

    fn writes_as(&self, name: &str, _then: Role, _by_token: Option<bool>) -> Option<Role> {
        self.role_of(name).or(Some(Role::User))
    }
}

/// Documents that were published, with their topics.
pub(super) struct Told(Vec<(String, Value)>);

impl Told {
    /// Those of one topic, in their order.
    pub(super) fn on(&self, topic: &str) -> Vec<&Value> {
        self.0.iter().filter(|(of, _)| of == topic).map(|(_, document)| document).collect()
    }

    /// The only one of a topic.
    pub(super) fn one(&self, topic: &str) -> &Value {
        let [one] = self.on(topic)[..] else { panic!("{topic}: {:?}", self.0) };
        one
    }

    pub(super) fn topics(&self) -> Vec<&str> {
        let mut topics: Vec<_> = self.0.iter().map(|(topic, _)| &**topic).collect();
        topics.sort_unstable();
        topics
    }
}

impl Harness {
    /// Publishes any bytes on `{name}/self/{suffix}`, and waits until that is dealt with.
    pub(super) async fn writes(
        &mut self,
        who: &Principal,
        suffix: &str,
        payload: &str,
        change: impl FnOnce(&mut Inbound),
    ) {
        let (ack, word) = Ack::new();
        let topic = format!("{}/self/{suffix}", who.name);
        let mut inbound = Inbound::new(who.clone(), topic.clone(), payload.to_owned().into(), ack);
        change(&mut inbound);
        self.mqtt.inbound.send(inbound).await.unwrap();
        // The bridge publishes a profile itself, and acknowledges it when the broker has it.
        let mut is_published = suffix != "profile";
        while !is_published {
            let outbound = self.published().await;
            let _ = outbound.outcome.send(Outcome::Confirmed);
            is_published = outbound.topic == topic;
            assert!(!is_published || outbound.retain && outbound.payload == payload.as_bytes());
        }
        assert_eq!(timeout(word).await, Ok(AckWord::Done), "{suffix}: {payload}");
    }

    pub(super) async fn says(&mut self, who: &Principal, suffix: &str, document: &Value) {
        self.writes(who, suffix, &document.to_string(), |_| ()).await;
    }

    /// A device comes or goes, and the bridge knows it.
    async fn sees(&mut self, client: &str, connection: u64, change: ClientChange) {
        let name = format!("stranger-{change:?}-{connection}");
        let stranger = format!("{name}:x");
        for (client, change) in [(client, change), (&*stranger, ClientChange::Came)] {
            let (user, device) = client.split_once(':').unwrap();
            let (user, device, client) = (user.into(), device.into(), client.into());
            let sighting = Sighting { user, role: Role::User, client, device, connection, change, resumed: false };
            self.mqtt.sightings.send(sighting).await.unwrap();
        }
        let known = format!("{name}/self/presence");
        loop {
            let outbound = self.published().await;
            let _ = outbound.outcome.send(Outcome::Confirmed);
            if outbound.topic == known {
                return;
            }
        }
    }

    /// Everything that is published of what was dealt with so far.
    pub(super) async fn told(&mut self) -> Told {
        let mut told = Vec::new();
        // What a document of one topic brings about may be behind the first stranger's.
        for stranger in ["stranger1", "stranger2"] {
            let errors = format!("{stranger}/others/errors");
            let who = Principal { role: Role::Bal, ..at(&format!("{stranger}:x")) };
            assert_eq!(
                timeout(self.publish_as(who, &format!("{stranger}/self/x"), &json!({})).await).await,
                Ok(AckWord::NoSuchTopic)
            );
            loop {
                let Outbound { topic, payload, outcome, .. } = self.published().await;
                // Of a chat state nobody asks what became of it.
                let _ = outcome.send(Outcome::Confirmed);
                if topic == errors {
                    break;
                }
                let document = if payload.is_empty() { Value::Null } else { serde_json::from_slice(&payload).unwrap() };
                told.push((topic, document));
            }
        }
        Told(told)
    }
}

/// alice and bob are contacts of each other, and bob's phone has the token `T`.
pub(super) async fn friends(mut harness: Harness) -> Harness {
    let (alice, bob) = (at("alice:phone"), at("bob:phone"));
    harness.says(&alice, "profile", &json!({"name": "Alice"})).await;
    harness.says(&bob, "profile", &json!({"name": "Bob"})).await;
    harness.says(&bob, "messages", &json!({"to": "alice", "body": "hello"})).await;
    harness.says(&alice, "messages", &json!({"to": "bob", "body": "hello"})).await;
    harness.says(&bob, "devices/phone", &json!({"token": "T", "platform": "android"})).await;
    harness.told().await;
    harness
}

impl Harness {
    /// alice writes to bob; the bridge's id of it.
    pub(super) async fn alice_writes(&mut self, body: &str) -> String {
        self.says(&at("alice:phone"), "messages", &json!({"to": "bob", "body": body})).await;
        let told = self.told().await;
        told.one("bob/others/messages")["sid"].as_str().unwrap().to_owned()
    }

    /// A push to a user: the sid of the message in it.
    async fn pushed(&mut self) -> String {
        let send = self.sent().await;
        assert_eq!((&send.push.data["type"], &send.push.data["account"]), (&json!("message"), &json!("bob")));
        self.report(accepted(send.sid)).await;
        send.push.data["sid"].as_str().unwrap().to_owned()
    }

    /// By which rule bob's phone was pushed for a message, or was not.
    pub(super) async fn rule(&mut self, sid: &str) -> String {
        self.says(&at("bob:phone"), "requests/phone", &json!({"id": "why", "op": "explain", "sid": sid})).await;
        let told = self.told().await;
        let devices = &told.one("bob/others/replies/phone")["items"];
        let phone = devices.as_array().unwrap().iter().find(|device| device["dev"] == "phone").unwrap();
        phone["why"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_message_comes_to_both_sides_and_to_the_phone_that_nobody_looks_at() {
    let mut harness = friends(Harness::open()).await;
    harness.says(&at("alice:phone"), "messages", &json!({"id": "m1", "to": "bob", "body": "hi", "n": 9})).await;
    let told = harness.told().await;
    assert_eq!(told.topics(), ["alice/others/messages", "alice/others/receipts", "bob/others/messages"]);
    let (own, theirs) = (told.one("alice/others/messages"), told.one("bob/others/messages"));
    let sid = own["sid"].as_str().unwrap();
    let ts = own["ts"].as_u64().unwrap();
    let copy = json!({
        "sid": sid, "n": 3, "ts": ts, "from": "alice", "dev": "phone", "id": "m1", "to": "bob", "type": "text", "body": "hi"
    });
    assert_eq!(*own, copy);
    assert_eq!((theirs.get("dev"), &theirs["sid"], &theirs["body"]), (None, &json!(sid), &json!("hi")));
    let receipt = told.one("alice/others/receipts");
    assert_eq!((&receipt["id"], &receipt["sid"], &receipt["status"]), (&json!("m1"), &json!(sid), &json!("sent")));
    let send = harness.sent().await;
    let data = &send.push.data;
    assert_eq!((&data["type"], &data["account"], &data["with"]), (&json!("message"), &json!("bob"), &json!("alice")));
    assert_eq!((&data["title"], &data["body"], &data["sid"]), (&json!("Alice"), &json!("hi"), &json!(sid)));
    harness.close().await;
}

#[tokio::test]
async fn a_publish_into_the_inbox_of_another_one_is_a_message_to_that_one() {
    let mut harness = friends(Harness::open()).await;
    let routed = |inbound: &mut Inbound| inbound.routed_to = Some("bob".into());
    for payload in [r#"{"id":"m1","body":"hi"}"#, r#"{"id":"m2","to":"bob","body":"hi"}"#] {
        harness.writes(&at("alice:phone"), "messages", payload, routed).await;
        let told = harness.told().await;
        let copy = told.one("bob/others/messages");
        assert_eq!((&copy["from"], &copy["to"], &copy["body"]), (&json!("alice"), &json!("bob"), &json!("hi")));
    }
    // Two recipients contradict each other: neither gets it.
    harness.writes(&at("alice:phone"), "messages", r#"{"id":"m3","to":"eve","body":"hi"}"#, routed).await;
    let told = harness.told().await;
    assert_eq!(told.topics(), ["alice/others/errors", "alice/others/receipts"]);
    assert_eq!(told.one("alice/others/errors")["code"], "BAD_FIELD");
    harness.close().await;
}

#[tokio::test]
async fn what_is_refused_is_told_to_its_writer_alone() {
    let mut harness = friends(Harness::open()).await;
    let alice = at("alice:phone");
    harness.says(&at("bob:phone"), "requests/phone", &json!({"op": "who_may_write", "who": "contacts"})).await;
    harness.says(&alice, "messages", &json!({"id": "m1", "to": "bob", "body": "hi"})).await;
    harness.told().await;
    for (who, suffix, document, code) in [
        (&alice, "messages", json!({"id": "m2", "to": "nobody", "body": "hi"}), "NOT_FOUND"),
        (&alice, "messages", json!({"id": "m1", "to": "bob", "body": "ho"}), "DUPLICATE"),
        (&alice, "messages", json!({"id": "m3", "to": "bob", "type": "notice", "body": "hi"}), "BAD_FIELD"),
        (&alice, "messages", json!({"id": "m4", "token": "T", "body": "hi"}), "FORBIDDEN"),
        (&at("eve:x"), "messages", json!({"id": "m5", "to": "bob", "body": "hi"}), "FORBIDDEN"),
        (&alice, "invitations", json!({"id": "i1", "to": "nobody", "type": "request"}), "NOT_FOUND"),
    ] {
        harness.says(who, suffix, &document).await;
        let told = harness.told().await;
        let (errors, receipts) = (format!("{}/others/errors", who.name), format!("{}/others/receipts", who.name));
        assert_eq!(told.topics(), [&*errors, &*receipts], "{document}");
        let (error, receipt) = (told.one(&errors), told.one(&receipts));
        assert_eq!((&error["code"], &error["ref"]), (&json!(code), &document["id"]), "{document}");
        assert_eq!((&receipt["status"], &receipt["code"]), (&json!("failed"), &json!(code)), "{document}");
        assert_eq!((&receipt["id"], receipt.get("sid")), (&document["id"], None), "{document}");
    }
    // Nothing that could be confirmed: there is no receipt of a receipt.
    for suffix in ["receipts", "read"] {
        let document = json!({"with": "bob", "sid": "06eqbd3gy0001ab2", "status": "read"});
        harness.says(&alice, suffix, &document).await;
        let told = harness.told().await;
        assert_eq!(told.topics(), ["alice/others/errors"], "{suffix}");
        assert_eq!(told.one("alice/others/errors")["code"], "NOT_FOUND", "{suffix}");
    }
    harness.close().await;
}

#[tokio::test]
async fn a_bal_writes_to_users_and_has_no_devices() {
    let mut harness = friends(Harness::open()).await;
    harness.mqtt.directory.answer_from(OneBal);
    let bal = Principal { role: Role::Bal, device: None, ..at("bal1:x") };
    harness.says(&bal, "messages", &json!({"id": "b1", "to": "bob", "body": "On its way"})).await;
    let told = harness.told().await;
    assert_eq!(told.topics(), ["bal1/others/receipts", "bal1/others/receipts", "bob/others/messages"]);
    let statuses: Vec<_> = told.on("bal1/others/receipts").into_iter().map(|status| &status["status"]).collect();
    assert_eq!(statuses, ["accepted", "sent"]);
    harness.says(&at("bob:phone"), "messages", &json!({"id": "q1", "to": "bal1", "data": {"order": [1]}})).await;
    let told = harness.told().await;
    let asked = told.one("bal1/others/messages");
    assert_eq!(
        (&asked["from"], &asked["dev"], &asked["data"]),
        (&json!("bob"), &json!("phone"), &json!({"order": [1]}))
    );
    assert_eq!((&asked["id"], asked.get("token")), (&told.one("bob/others/messages")["sid"], None));
    harness.says(&bal, "devices/x", &json!({"token": "U", "platform": "web"})).await;
    let told = harness.told().await;
    // What became of bob's message may be told this late.
    let to_the_bal: Vec<_> = told.topics().into_iter().filter(|topic| topic.starts_with("bal1/")).collect();
    assert_eq!(to_the_bal, ["bal1/others/errors"]);
    assert_eq!(told.one("bal1/others/errors")["code"], "FORBIDDEN");
    harness.close().await;
}

#[tokio::test]
async fn where_the_retain_flag_is_seen_only_the_profile_may_have_it() {
    let mut harness = friends(Harness::open()).await;
    let retained = |inbound: &mut Inbound| inbound.retained = true;
    let alice = at("alice:phone");
    for (suffix, payload) in [
        ("messages", r#"{"id":"m1","to":"bob","body":"hi"}"#),
        ("read", r#"{"with":"bob","sid":"06eqbd3gy0001ab2"}"#),
        ("devices/phone", r#"{"token":"U","platform":"ios"}"#),
        ("requests/phone", r#"{"op":"hide_read","on":true}"#),
        ("whiteboard", "{}"),
    ] {
        harness.writes(&alice, suffix, payload, retained).await;
        let told = harness.told().await;
        assert_eq!(told.one("alice/others/errors")["code"], "BAD_FIELD", "{suffix}");
        let rest: Vec<_> = told.topics().into_iter().filter(|topic| *topic != "alice/others/errors").collect();
        let failed: &[&str] = if suffix == "messages" { &["alice/others/receipts"] } else { &[] };
        assert_eq!(rest, failed, "{suffix}");
    }
    harness.writes(&alice, "profile", r#"{"name":"Ally"}"#, retained).await;
    assert!(harness.told().await.topics().is_empty());
    harness.alice_writes("hi").await;
    assert_eq!(harness.sent().await.push.data["title"], "Ally");
    harness.close().await;
}

#[tokio::test]
async fn a_kept_copy_moves_nothing_and_is_cleared_which_no_user_said() {
    // The bridge is told of its own publishes in 3.1.1.
    let heard = mqtt::Capabilities::external(mqtt::Version::V311);
    let mut harness = Harness::open_on(heard, Settings { broker: BrokerKind::External, ..settings() });
    let bob = by_topic("bob");
    let (topic, events) = ("bob/self/devices/phone", "bob/others/devices");
    let registration = r#"{"token":"T","platform":"android"}"#;
    harness.writes(&bob, "devices/phone", registration, |_| ()).await;
    assert_eq!(harness.told().await.one(events)["event"], "registered");
    let kept = |inbound: &mut Inbound| inbound.retain = true;
    // As after a restart of the bridge: another phone's registration, and an old message.
    for (suffix, payload) in [
        ("devices/phone", r#"{"token":"OLD","platform":"android"}"#),
        ("messages", r#"{"id":"m1","to":"bob","body":"hi"}"#),
    ] {
        harness.writes(&bob, suffix, payload, kept).await;
        // It may come twice, as the bridge connects again.
        harness.writes(&bob, suffix, payload, kept).await;
        for _ in 0..2 {
            let cleared = harness.published().await;
            assert_eq!((&*cleared.topic, cleared.payload.len()), (&*format!("bob/self/{suffix}"), 0));
            assert_eq!((cleared.retain, cleared.qos), (true, 0));
        }
        for _ in 0..2 {
            harness.writes(&bob, suffix, "", |inbound| inbound.at_most_once = true).await;
            assert!(harness.told().await.topics().is_empty(), "{suffix}");
        }
    }
    harness.writes(&bob, "devices/phone", "", |_| ()).await;
    assert_eq!(harness.told().await.one(events)["event"], "unregistered", "{topic}: this was the user");
    harness.close().await;
}

/// With MQTT 5 no clearing comes back; with 3.1.1 it comes back with its own QoS, if at all.
#[tokio::test]
async fn a_user_who_unregisters_right_after_a_kept_copy_was_cleared_is_heard() {
    for version in [mqtt::Version::V5, mqtt::Version::V311] {
        let on = mqtt::Capabilities::external(version);
        let mut harness = Harness::open_on(on, Settings { broker: BrokerKind::External, ..settings() });
        let (bob, registration) = (by_topic("bob"), r#"{"token":"T","platform":"android"}"#);
        harness.writes(&bob, "devices/phone", registration, |_| ()).await;
        harness.told().await;
        harness.writes(&bob, "devices/phone", registration, |inbound| inbound.retain = true).await;
        assert_eq!(harness.published().await.topic, "bob/self/devices/phone");
        harness.writes(&bob, "devices/phone", "", |_| ()).await;
        let told = harness.told().await;
        assert_eq!(told.one("bob/others/devices")["event"], "unregistered", "{version:?}");
        if version == mqtt::Version::V5 {
            harness.writes(&bob, "devices/phone", registration, |_| ()).await;
            harness.writes(&bob, "devices/phone", registration, |inbound| inbound.retain = true).await;
            harness.writes(&bob, "devices/phone", "", |inbound| inbound.at_most_once = true).await;
            let events = harness.told().await;
            let events: Vec<_> = events.on("bob/others/devices").into_iter().map(|event| &event["event"]).collect();
            assert_eq!(events, ["registered", "unregistered"], "at QoS 0 as well");
        }
        harness.close().await;
    }
}

#[tokio::test]
async fn what_an_external_broker_keeps_of_a_bal_is_left_alone() {
    let mut harness = Harness::open_for(Settings { broker: BrokerKind::External, ..settings() });
    let bal = Principal { role: Role::Bal, ..by_topic("bal1") };
    harness.writes(&bal, "messages", r#"{"token":"T","data":{}}"#, |inbound| inbound.retain = true).await;
    assert!(harness.told().await.topics().is_empty());
    harness.close().await;
}

#[tokio::test]
async fn who_became_a_contact_sees_the_profile_and_whoever_is_blocked_no_longer() {
    let mut harness = Harness::open();
    let (alice, bob) = (at("alice:phone"), at("bob:phone"));
    harness.says(&alice, "profile", &json!({"name": "Alice"})).await;
    harness.says(&bob, "profile", &json!({"name": "Bob"})).await;
    harness.says(&alice, "invitations", &json!({"id": "i1", "to": "bob", "type": "request"})).await;
    let told = harness.told().await;
    let sees = |watcher: &str, of: &str, visible| Visibility { watcher: watcher.into(), of: Some(of.into()), visible };
    assert_eq!(timeout(harness.mqtt.visibility.recv()).await, Some(sees("bob", "alice", true)));
    assert!(told.on("alice/self/profile").is_empty(), "the broker shows bob what it keeps");
    let invitation = told.one("bob/others/invitations");
    assert_eq!((&invitation["name"], &invitation["type"]), (&json!("Alice"), &json!("request")));
    harness.says(&bob, "invitations", &json!({"to": "alice", "type": "accept", "ref": invitation["sid"]})).await;
    let told = harness.told().await;
    assert_eq!(timeout(harness.mqtt.visibility.recv()).await, Some(sees("alice", "bob", true)));
    assert!(told.on("bob/self/profile").is_empty());
    harness.says(&bob, "requests/phone", &json!({"op": "block", "with": "alice"})).await;
    assert_eq!(timeout(harness.mqtt.visibility.recv()).await, Some(sees("alice", "bob", false)));
    harness.close().await;
}

#[tokio::test]
async fn only_what_a_person_does_makes_a_device_attended() {
    let mut harness = friends(Harness::open()).await;
    harness.sees("bob:web", 1, ClientChange::Came).await;
    let web = at("bob:web");
    let handler = Principal { background: true, ..web.clone() };
    let (mut sid, mut n) = (harness.alice_writes("hi").await, 0);
    assert_eq!(harness.pushed().await, sid, "a connection is no sign");
    for (who, suffix, document) in [
        (&web, "receipts", json!({"sid": sid, "status": "received"})),
        (&web, "profile", json!({"name": "Bob"})),
        (&web, "requests/web", json!({"op": "settings"})),
        (&web, "presence/web", json!({"state": "online"})),
        (&handler, "receipts", json!({"sid": sid, "status": "read"})),
        (&handler, "messages", json!({"to": "alice", "body": "Later"})),
    ] {
        harness.says(who, suffix, &document).await;
        harness.told().await;
        sid = harness.alice_writes(&format!("{n}")).await;
        assert_eq!(harness.rule(&sid).await, "unattended", "{suffix}: {document}");
        n += 1;
    }
    for (suffix, document) in [
        ("messages", json!({"to": "alice", "body": "Here I am"})),
        ("read", json!({"with": "alice", "sid": sid})),
        ("receipts", json!({"sid": sid, "status": "read"})),
        ("chatstate", json!({"to": "alice", "state": "composing"})),
        ("invitations", json!({"to": "alice", "type": "request"})),
        ("presence/NAME", json!({"state": "online", "active": true})),
    ] {
        // Each sign comes from a device that gave none before.
        n += 1;
        let client = format!("bob:web{n}");
        harness.sees(&client, n, ClientChange::Came).await;
        let suffix = suffix.replace("NAME", &format!("web{n}"));
        harness.says(&at(&client), &suffix, &document).await;
        harness.told().await;
        let sid = harness.alice_writes(&format!("{n}")).await;
        assert_eq!(harness.rule(&sid).await, "attended", "{suffix}: {document}");
        harness.sees(&client, n, ClientChange::Left).await;
    }
    harness.close().await;
}

#[tokio::test]
async fn a_push_handler_confirms_and_leaves_the_device_as_it_was() {
    let mut harness = friends(Harness::open()).await;
    let handler = Principal { background: true, ..at("bob:phone") };
    let sid = harness.alice_writes("hi").await;
    assert_eq!(harness.pushed().await, sid);
    harness.says(&handler, "receipts", &json!({"sid": sid, "status": "received"})).await;
    let told = harness.told().await;
    assert_eq!(told.topics(), ["alice/others/receipts"], "bob is not there because of that");
    let receipt = told.one("alice/others/receipts");
    assert_eq!((&receipt["sid"], &receipt["status"]), (&json!(sid), &json!("delivered")));
    let sid = harness.alice_writes("Are you there?").await;
    assert_eq!(harness.pushed().await, sid);
    harness.close().await;
}

#[tokio::test]
async fn a_push_is_confirmed_by_the_id_that_is_in_it() {
    let mut harness = friends(Harness::open()).await;
    let sid = harness.alice_writes("hi").await;
    let handler = Principal { background: true, ..at("bob:phone") };
    harness.says(&handler, "receipts", &json!({"ids": [sid, "foreign"], "status": "received"})).await;
    assert_eq!(harness.told().await.one("alice/others/receipts")["status"], "delivered");
    // One that belongs to nobody says nothing.
    harness.says(&at("eve:x"), "receipts", &json!({"ids": [sid], "status": "received"})).await;
    assert!(harness.told().await.topics().is_empty());
    harness.close().await;
}

#[tokio::test]
async fn a_chat_state_reaches_a_contact_who_looks_and_nobody_else() {
    let mut harness = friends(Harness::open()).await;
    let state = |state: &str| json!({"to": "bob", "state": state});
    let inbox = "bob/others/chatstate";
    harness.sees("bob:web", 1, ClientChange::Came).await;
    harness.says(&at("alice:phone"), "chatstate", &state("composing")).await;
    assert!(harness.told().await.topics().is_empty(), "nobody looks");
    harness.says(&at("bob:web"), "presence/web", &json!({"state": "online", "active": true})).await;
    harness.says(&at("eve:x"), "chatstate", &state("composing")).await;
    assert!(harness.told().await.on(inbox).is_empty(), "eve is no contact");
    harness.says(&at("alice:phone"), "chatstate", &state("paused")).await;
    let outbound = harness.published().await;
    assert_eq!((&*outbound.topic, outbound.qos, outbound.retain), (inbox, 0, false));
    assert_eq!(outbound.devices, Some(vec!["web".into()]));
    let of_use = outbound.expires_at.unwrap().saturating_sub(now_ms());
    assert!((1..=10_000).contains(&of_use), "{of_use}");
    assert_eq!(
        serde_json::from_slice::<Value>(&outbound.payload).unwrap(),
        json!({"from": "alice", "state": "paused"})
    );
    harness.says(&at("alice:phone"), "chatstate", &state("paused")).await;
    assert!(harness.told().await.on(inbox).is_empty(), "it was just said");
    harness.close().await;
}

/// bob looks at the web page, and his phone is elsewhere.
async fn looking() -> (Harness, Stillness) {
    let still = Stillness::hold();
    let mut harness = friends(Harness::open()).await;
    harness.sees("bob:web", 1, ClientChange::Came).await;
    harness.says(&at("bob:web"), "presence/web", &json!({"state": "online", "active": true})).await;
    harness.told().await;
    (harness, still)
}

#[tokio::test(start_paused = true)]
async fn what_an_attended_device_does_not_confirm_is_pushed_when_its_time_is_over() {
    let (mut harness, still) = looking().await;
    let confirmed = harness.alice_writes("1").await;
    let waiting = harness.alice_writes("2").await;
    let sid = Sid::parse(&confirmed).unwrap();
    let confirmation = Confirmation { user: "bob".into(), device: "web".into(), sid };
    harness.mqtt.confirmations.send(confirmation).await.unwrap();
    harness.says(&at("alice:phone"), "invitations", &json!({"to": "bob", "type": "request"})).await;
    harness.told().await;
    // The wall clock goes on beside the paused one, so a slow machine must have time left.
    tokio::time::advance(ATTENTION / 5).await;
    harness.told().await;
    assert!(harness.transport.sends.try_recv().is_err(), "there is time left");
    tokio::time::advance(ATTENTION).await;
    assert_eq!(harness.pushed().await, waiting);
    let send = harness.sent().await;
    assert_eq!(send.push.data["type"], "invitation", "that waits as well");
    harness.told().await;
    tokio::time::advance(ATTENTION).await;
    harness.told().await;
    assert!(harness.transport.sends.try_recv().is_err(), "what was confirmed is not pushed");
    drop(still);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_for_an_attended_device_is_pushed_when_that_goes() {
    let (mut harness, still) = looking().await;
    let sid = harness.alice_writes("1").await;
    harness.sees("bob:web", 1, ClientChange::Left).await;
    assert_eq!(harness.pushed().await, sid);
    drop(still);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_at_a_crash_is_decided_once_more() {
    let (mut harness, still) = looking().await;
    let sid = harness.alice_writes("1").await;
    let dir = tempfile::tempdir().unwrap();
    for name in ["store.db", "store.db-wal"] {
        std::fs::copy(harness.path.with_file_name(name), dir.path().join(name)).unwrap();
    }
    harness.running.abort();
    let path = dir.path().join("store.db");
    let mut harness = Harness::open_at(dir, path);
    harness.told().await;
    assert!(harness.transport.sends.try_recv().is_err(), "bob can come back");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(harness.pushed().await, sid);
    drop(still);
    harness.close().await;
}
