//! Who may ask for what.

use super::transports::{both, v1};
use super::*;
use crate::chat::principal::{Principal, Proof, Role};

pub(super) fn logged_in(name: &str, role: Role) -> Principal {
    Principal { name: name.into(), role, device: Some("phone".into()), background: false, proof: Proof::Login }
}

fn by_topic(name: &str, role: Role) -> Principal {
    Principal { name: name.into(), role, device: None, background: false, proof: Proof::TopicRules }
}

/// One payload for each way to name a device, and for what is handed to the push service as it is.
fn raw() -> [Value; 6] {
    [
        json!({"token": "T"}),
        json!({"topic": "everybody"}),
        json!({"condition": "'a' in topics"}),
        json!({"to": "/topics/everybody"}),
        json!({"to": "dQw4w9WgXcQ:APA91bH"}),
        json!({"to": "bob", "fcm": {"content_available": true}}),
    ]
}

impl Harness {
    /// Publishes on the outbox of its principal, and waits until that is dealt with.
    async fn asked(&self, principal: &Principal, message: &Value) {
        let topic = format!("{}/self/messages", principal.name);
        let word = self.publish_as(principal.clone(), &topic, message).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done), "{message}");
    }

    /// The error and the status that follow on one refusal.
    async fn refused(&mut self, name: &str, id: &str) {
        let mut said = [self.read().await, self.read().await];
        said.sort_by(|(one, _), (other, _)| one.cmp(other));
        let [(errors, error), (receipts, status)] = said;
        assert_eq!((errors, &error["code"]), (format!("{name}/others/errors"), &json!("FORBIDDEN")));
        assert_eq!(error["ref"], *id);
        assert_eq!(receipts, format!("{name}/others/receipts"));
        let status = (&status["id"], &status["status"], &status["code"]);
        assert_eq!(status, (&json!(id), &json!("failed"), &json!("FORBIDDEN")));
    }
}

#[tokio::test]
async fn who_is_no_bal_can_push_to_nobody() {
    let mut harness = Harness::open();
    let strangers = [logged_in("alice", Role::User), logged_in("root", Role::Admin), by_topic("eve", Role::User)];
    for principal in strangers {
        for (n, mut message) in raw().into_iter().enumerate() {
            let id = format!("{}{n}", principal.name);
            message["id"] = json!(id);
            message["notification"] = json!({"title": "You have won"});
            harness.asked(&principal, &message).await;
            harness.refused(&principal.name, &id).await;
        }
    }
    assert_eq!(harness.store.figures().queue_rows, 0);
    assert_eq!(harness.metrics.get(Metric::DownstreamAccepted), 0);
    harness.message("b1", "T", 60).await;
    let first = harness.sent().await;
    assert_eq!(first.push.notification, None, "what goes out first is the BAL's");
    harness.close().await;
}

#[tokio::test]
async fn a_bal_pushes_whatever_proves_that_it_is_one() {
    let mut harness = Harness::open();
    let anonymous = Principal::anonymous("alice/self/messages");
    assert_eq!((&*anonymous.name, anonymous.proof), ("alice", Proof::Anonymous));
    for principal in [logged_in("bal1", Role::Bal), by_topic("bal2", Role::Bal), anonymous] {
        harness.asked(&principal, &json!({"id": "a1", "token": "T", "data": {}, "fcm": {"x": 1}})).await;
        assert_eq!(harness.status().await, ("a1".into(), "accepted".into()));
        assert_eq!(harness.sent().await.push.fcm["x"], 1);
    }
    harness.close().await;
}

#[tokio::test]
async fn a_user_still_confirms_the_push_of_a_bal_and_takes_nothing_out_of_its_inbox() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let careful = HashMap::from([("com.example.chat".to_owned(), Owner::new("careful").unwrap())]);
    let settings = Settings { routes: Routes::new(careful, None), ..both() };
    let mut harness = Harness::open_by(dir, path, settings, &[Transport::Ccs, v1()]);
    harness.chat("a1", "T").await;
    assert_eq!(harness.status().await.1, "accepted");
    let sid = harness.sent_by_fcm().await.sid;
    harness.fcm_says(accepted(sid)).await;
    assert_eq!(harness.status().await.1, "sent");
    // `careful` acknowledges explicitly; until then the message is its.
    harness.upstream("7", "com.example.chat").await;
    harness.ack().await;
    let (topic, upstream) = harness.read().await;
    assert_eq!(topic, "careful/others/messages");
    let alice = logged_in("alice", Role::User);
    for receipt in [
        json!({"ids": [sid.to_string(), upstream["id"]], "status": "received"}),
        json!({"id": upstream["id"], "status": "received", "up_to": true}),
    ] {
        let word = harness.publish_as(alice.clone(), "alice/self/receipts", &receipt).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }
    assert_eq!(harness.status().await, ("a1".into(), "delivered".into()));
    assert_eq!(harness.store.figures().spool_rows, 1, "the BAL has not said that it has it");
    let careful = logged_in("careful", Role::Bal);
    let receipt = json!({"id": upstream["id"], "status": "received"});
    let word = harness.publish_as(careful, "careful/self/receipts", &receipt).await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    assert_eq!(harness.store.figures().spool_rows, 0);
    harness.close().await;
}

impl Harness {
    /// The same as [`Self::asked`], with an MQTT 5 response topic.
    async fn asked_by(&self, principal: Principal, message: &Value, response_topic: &str) {
        let (ack, word) = Ack::new();
        let topic = format!("{}/self/messages", principal.name);
        let mut inbound = Inbound::new(principal, topic, message.to_string().into(), ack);
        inbound.response_topic = Some(response_topic.into());
        self.mqtt.inbound.send(inbound).await.unwrap();
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }
}

#[tokio::test]
async fn a_response_topic_leads_a_users_refusals_to_nobody_else() {
    let mut harness = Harness::open();
    let message = json!({"id": "a1", "token": "T", "data": {}});
    harness.asked_by(logged_in("alice", Role::User), &message, "bal1/others/messages").await;
    harness.refused("alice", "a1").await;
    harness.close().await;
}

#[tokio::test]
async fn a_refused_message_fails_where_its_response_topic_says_if_that_is_one() {
    let mut harness = Harness::open();
    let bal = logged_in("bal1", Role::Bal);
    let nobody = json!({"id": "a1", "to": "alice", "data": {}});
    let unreadable = json!({"id": "a1", "token": "T", "ttl": "long"});
    for (message, wish, reply) in [
        (&nobody, "bal1/answers", "bal1/answers"),
        (&unreadable, "bal1/answers", "bal1/answers"),
        (&unreadable, "bal2/answers", "bal1/others/receipts"),
    ] {
        harness.asked_by(bal.clone(), message, wish).await;
        let mut told = [harness.read().await, harness.read().await];
        told.sort_by_key(|(topic, _)| topic == "bal1/others/errors");
        let [(topic, failed), (_, error)] = told;
        assert_eq!((&*topic, &failed["status"], &failed["code"]), (reply, &json!("failed"), &error["code"]));
    }
    let whole = json!({"id": "a2", "token": "T", "data": {}});
    harness.asked_by(bal, &whole, "bal2/answers").await;
    let [(_, one), (_, other)] = [harness.read().await, harness.read().await];
    for told in [one, other] {
        assert_eq!(told["code"], "FORBIDDEN");
        assert_eq!(told["detail"], "the response topic is not below the sender's own name");
    }
    harness.close().await;
}
