//! A person is erased, as an operator or that person asks.

use super::chat::at;
use super::*;
use crate::chat::principal::Role;
use crate::mqtt::{Proven, RoleSource, Visibility};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

/// A broker that knows this password of everybody.
struct Passwords;

impl RoleSource for Passwords {
    fn role_of(&self, _name: &str) -> Option<Role> {
        Some(Role::User)
    }

    fn writes_as(&self, name: &str, _then: Role, _by_token: Option<bool>) -> Option<Role> {
        self.role_of(name)
    }

    fn prove(&self, _name: &str, secret: &str) -> BoxFuture<'static, Proven> {
        ready(if secret == "right" { Proven::Yes } else { Proven::No }).boxed()
    }
}

impl Harness {
    /// The next document on this topic; all others are confirmed.
    async fn outbound_on(&mut self, topic: &str) -> Outbound {
        loop {
            let outbound = self.published().await;
            if outbound.topic == topic {
                return outbound;
            }
            let _ = outbound.outcome.send(Outcome::Confirmed);
        }
    }

    async fn asks_as_eve(&mut self, request: &Value) -> (Value, Outbound) {
        let _word = self.publish_as(at("eve:phone"), "eve/self/requests/phone", request).await;
        let outbound = self.outbound_on("eve/others/replies/phone").await;
        (serde_json::from_slice(&outbound.payload).unwrap(), outbound)
    }

    fn count(&self, sql: &str) -> i64 {
        rusqlite::Connection::open(&self.path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Puts out whom the bridge names, and confirms everything, until this is done.
    async fn while_put_out<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mqtt = &mut self.mqtt;
        let broker = async {
            loop {
                tokio::select! {
                    Some(eviction) = mqtt.evictions.recv() => drop(eviction.done.send(())),
                    Some(outbound) = mqtt.publish.recv() => drop(outbound.outcome.send(Outcome::Confirmed)),
                }
            }
        };
        timeout(async {
            tokio::select! {
                done = work => done,
                () = broker => unreachable!("the bridge runs"),
            }
        })
        .await
    }

    async fn erased_and_freed(&mut self, user: &str) {
        for op in ["user.erase", "user.free"] {
            self.does(op, user).await;
        }
    }

    async fn does(&mut self, op: &str, user: &str) {
        let (call, mut answers) = ControlCall::new(json!({"op": op, "user": user}).to_string().into());
        self.control.send(call).await.unwrap();
        let answer = self.while_put_out(async move { answers.recv().await.unwrap() }).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["ok"], true, "{answer}");
    }
}

#[tokio::test]
async fn an_erase_is_on_disk_before_its_user_is_told_that_it_will_be_done() {
    let mut harness = Harness::open();
    harness.mqtt.directory.answer_from(Passwords);
    let (reply, told) = harness.asks_as_eve(&json!({"id": "e1", "op": "erase", "password": "wrong"})).await;
    assert_eq!((&reply["code"], harness.count("SELECT count(*) FROM erased")), (&json!("FORBIDDEN"), 0));
    told.outcome.send(Outcome::Confirmed).unwrap();
    let (reply, told) = harness.asks_as_eve(&json!({"id": "e2", "op": "erase", "password": "right"})).await;
    assert_eq!(reply["ok"], true, "{reply}");
    assert_eq!(harness.count("SELECT count(*) FROM erased WHERE running IS NOT NULL"), 1);
    assert!(harness.mqtt.evictions.try_recv().is_err(), "first the user reads it");
    told.outcome.send(Outcome::Confirmed).unwrap();
    let eviction = timeout(harness.mqtt.evictions.recv()).await.unwrap();
    assert_eq!(&*eviction.user, "eve");
    eviction.done.send(()).unwrap();
    let store = harness.store.clone();
    let is_done = async {
        while !store.erases().await.unwrap().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    harness.while_put_out(is_done).await;
    harness.close().await;
}

#[tokio::test]
async fn an_export_needs_a_password_once() {
    let mut harness = Harness::open();
    harness.mqtt.directory.answer_from(Passwords);
    for (request, code) in [
        (json!({"id": "x1", "op": "export"}), json!("MISSING_FIELD")),
        (json!({"id": "x2", "op": "export", "after": "contacts"}), json!("FORBIDDEN")),
        (json!({"id": "x3", "op": "export", "password": "wrong"}), json!("FORBIDDEN")),
        (json!({"id": "x4", "op": "export", "password": "right"}), Value::Null),
        (json!({"id": "x5", "op": "export", "after": "contacts"}), Value::Null),
    ] {
        let (reply, told) = harness.asks_as_eve(&request).await;
        assert_eq!((&reply["ref"], &reply["code"]), (&request["id"], &code), "{request}");
        assert_eq!(reply["items"].is_array(), code.is_null());
        told.outcome.send(Outcome::Confirmed).unwrap();
    }
    harness.close().await;
}

#[tokio::test]
async fn whoever_has_a_name_that_was_freed_is_heard_of_again() {
    let mut harness = Harness::open();
    let settings = &json!({"id": "r1", "op": "settings"});
    harness.asks_as_eve(settings).await.1.outcome.send(Outcome::Confirmed).unwrap();
    assert_eq!(harness.count("SELECT count(*) FROM users WHERE user = 'eve'"), 1);
    harness.erased_and_freed("eve").await;
    assert_eq!(harness.count("SELECT count(*) FROM users WHERE user = 'eve'"), 0);
    harness.asks_as_eve(settings).await.1.outcome.send(Outcome::Confirmed).unwrap();
    assert_eq!(harness.count("SELECT count(*) FROM users WHERE user = 'eve'"), 1);
    harness.close().await;
}

#[tokio::test]
async fn whoever_has_a_name_that_was_freed_is_somebody_else() {
    let mut harness = Harness::open();
    harness.mqtt.directory.answer_from(Passwords);
    for (from, to) in [("alice", "eve"), ("eve", "alice")] {
        let (topic, body) = (format!("{from}/self/messages"), json!({"to": to, "body": "hi"}));
        harness.publish_as(at(&format!("{from}:phone")), &topic, &body).await;
    }
    let proved = &json!({"id": "x1", "op": "export", "password": "right"});
    let (reply, told) = harness.asks_as_eve(proved).await;
    assert_eq!(reply["ok"], true, "{reply}");
    told.outcome.send(Outcome::Confirmed).unwrap();
    let seeing =
        |watcher: &str, of: &str, visible| Visibility { watcher: watcher.into(), of: Some(of.into()), visible };
    assert_eq!(timeout(harness.mqtt.visibility.recv()).await, Some(seeing("eve", "alice", true)));
    assert_eq!(timeout(harness.mqtt.visibility.recv()).await, Some(seeing("alice", "eve", true)));
    harness.erased_and_freed("eve").await;
    assert_eq!(harness.mqtt.visibility.try_recv(), Ok(seeing("alice", "eve", false)));
    let (reply, told) = harness.asks_as_eve(&json!({"id": "x2", "op": "export", "after": "contacts"})).await;
    assert_eq!(reply["code"], "FORBIDDEN", "another one has proved nothing");
    told.outcome.send(Outcome::Confirmed).unwrap();
    harness.close().await;
}

/// That the name is taken is known a moment before it is on disk.
#[tokio::test]
async fn what_is_left_out_because_its_writer_is_erased_is_acknowledged_when_that_is_on_disk() {
    let mut harness = Harness::open();
    let settings = &json!({"id": "r1", "op": "settings"});
    harness.asks_as_eve(settings).await.1.outcome.send(Outcome::Confirmed).unwrap();
    harness.does("user.erase", "eve").await;
    let disk = rusqlite::Connection::open(&harness.path).unwrap();
    disk.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut word = harness.publish_as(at("eve:phone"), "eve/self/requests/phone", settings).await;
    // Of a name that is nobody's nothing has to be on disk.
    let next = harness.publish_as(at("deleted-7k2m9q0x:web"), "deleted-7k2m9q0x/self/messages", settings).await;
    assert_eq!(timeout(next).await, Ok(AckWord::Done));
    assert!(word.try_recv().is_err(), "the disk has not answered");
    disk.execute_batch("ROLLBACK").unwrap();
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    harness.close().await;
}

#[tokio::test]
async fn nobody_speaks_by_a_name_that_stands_for_an_erased_user() {
    let mut harness = Harness::open();
    let word =
        harness.publish_as(at("deleted-7k2m9q0x:web"), "deleted-7k2m9q0x/self/messages", &json!({"to": "eve"})).await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    harness.asks_as_eve(&json!({"id": "r1", "op": "settings"})).await.1.outcome.send(Outcome::Confirmed).unwrap();
    assert_eq!(harness.count("SELECT count(*) FROM users WHERE user LIKE 'deleted-%'"), 0);
    assert_eq!(harness.count("SELECT count(*) FROM outbox WHERE topic LIKE 'deleted-%'"), 0);
    harness.close().await;
}
