//! The queue of pushes is full: BALs wait, and chat users write on.

use super::chat::{OneBal, at, by_topic};
use super::*;
use crate::chat::principal::Role;
use std::collections::BTreeMap;

/// So many pushes have room.
const ROOM: u64 = 5;

fn with_little_room() -> Settings {
    Settings { room: store::Limits { queue_rows: ROOM, ..settings().room }, ..settings() }
}

impl Harness {
    /// Pushes of a BAL until there is no room, and one more, which waits for its acknowledgement. The push service takes none.
    async fn fill(&mut self) -> oneshot::Receiver<AckWord> {
        for n in 0..ROOM {
            self.message(&format!("a{n}"), &format!("T{n}"), 3_600).await;
        }
        self.publish("c/self/messages", &json!({"id": "late", "token": "T-late", "data": {}})).await
    }

    /// Reads until so many documents of each of these topics have come: those, topic after topic.
    async fn reads(&mut self, topics: &[(&str, usize)]) -> Vec<Value> {
        let mut found: Vec<Vec<Value>> = topics.iter().map(|_| Vec::new()).collect();
        while topics.iter().zip(&found).any(|((_, count), found)| found.len() < *count) {
            let (of, document) = self.read().await;
            if let Some(at) = topics.iter().position(|(topic, _)| *topic == of) {
                found[at].push(document);
            }
        }
        found.into_iter().flatten().collect()
    }

    /// How bob's phone was decided about for a message: verdict and rule.
    async fn explained(&mut self, sid: &Value) -> (String, String) {
        let asked = json!({"id": "why", "op": "explain", "sid": sid});
        self.says(&at("bob:phone"), "requests/phone", &asked).await;
        let reply = self.reads(&[("bob/others/replies/phone", 1)]).await.remove(0);
        let text = |name: &str| reply["items"][0][name].as_str().unwrap().to_owned();
        (text("verdict"), text("why"))
    }

    /// The push service takes so many; how often each was sent, by `sid` and account, or by token.
    async fn takes(&mut self, count: usize) -> BTreeMap<String, usize> {
        let mut taken = BTreeMap::new();
        for _ in 0..count {
            let send = self.sent().await;
            let data = &send.push.data;
            let name = match data.get("account") {
                Some(account) => format!("{} {}", account.as_str().unwrap(), data["sid"].as_str().unwrap()),
                None => "bal".to_owned(),
            };
            *taken.entry(name).or_default() += 1;
            self.report(accepted(send.sid)).await;
        }
        taken
    }
}

#[tokio::test]
async fn chat_goes_on_while_there_is_no_room_for_pushes_which_come_once_there_is() {
    let mut harness = Harness::open_for(with_little_room());
    let (alice, bob, carol) = (at("alice:phone"), at("bob:phone"), at("carol:phone"));
    harness.says(&alice, "requests/phone", &json!({"op": "settings"})).await;
    for (who, token) in [(&bob, "B"), (&carol, "C")] {
        harness.says(who, "devices/phone", &json!({"token": token, "platform": "android"})).await;
    }
    let mut late = harness.fill().await;
    harness.says(&bob, "messages", &json!({"to": "alice", "body": "are you there"})).await;
    for n in 0..3 {
        harness.says(&alice, "messages", &json!({"to": "bob", "body": format!("{n}")})).await;
    }
    harness.says(&alice, "invitations", &json!({"id": "i1", "to": "carol", "type": "request"})).await;
    let told = harness.reads(&[("bob/others/messages", 4), ("carol/others/invitations", 1)]).await;
    let sids: Vec<_> = told[1..4].iter().map(|copy| copy["sid"].clone()).collect();
    let invited = &told[4];
    assert!(late.try_recv().is_err(), "the BAL waits");
    assert_eq!(harness.store.figures().queue_rows, ROOM);
    assert_eq!(harness.explained(&sids[2]).await, ("wait".to_owned(), "no_room".to_owned()));

    let taken = harness.takes(10).await;
    let named = |account: &str, sid: &Value| format!("{account} {}", sid.as_str().unwrap());
    for sid in &sids {
        assert_eq!(taken[&named("bob", sid)], 1, "{taken:?}");
    }
    assert_eq!((taken[&named("carol", &invited["sid"])], taken["bal"]), (1, 6), "{taken:?}");
    assert_eq!(timeout(late).await, Ok(AckWord::Done));
    assert_eq!(harness.explained(&sids[2]).await, ("push".to_owned(), "unattended".to_owned()));
    assert!(harness.transport.sends.try_recv().is_err(), "nothing is pushed twice");
    harness.close().await;
}

#[tokio::test]
async fn a_push_for_which_there_was_no_room_outlives_a_restart_and_an_hour() {
    let mut harness = Harness::open_for(with_little_room());
    let (alice, bob) = (at("alice:phone"), at("bob:phone"));
    harness.says(&bob, "devices/phone", &json!({"token": "B", "platform": "android"})).await;
    let _late = harness.fill().await;
    harness.says(&alice, "messages", &json!({"to": "bob", "body": "old"})).await;
    let sid = harness.reads(&[("bob/others/messages", 1)]).await.remove(0)["sid"].clone();
    let (dir, path) = harness.close().await;
    let file = rusqlite::Connection::open(&path).unwrap();
    let two_hours = "UPDATE chat SET at = at - 7200000,
        decided = json_set(decided, '$.at', json_extract(decided, '$.at') - 7200000)";
    assert_eq!(file.execute(two_hours, []).unwrap(), 1);
    drop(file);

    let mut harness = Harness::open_with(dir, path, with_little_room());
    let taken = harness.takes(6).await;
    assert_eq!(taken[&format!("bob {}", sid.as_str().unwrap())], 1, "{taken:?}");
    assert_eq!(harness.store.figures().chat_unpushed, 0);
    harness.close().await;
}

#[tokio::test]
async fn what_is_read_while_there_is_no_room_is_not_pushed_later() {
    let mut harness = Harness::open_for(with_little_room());
    let (alice, bob) = (at("alice:phone"), at("bob:phone"));
    harness.says(&bob, "devices/phone", &json!({"token": "B", "platform": "android"})).await;
    let _late = harness.fill().await;
    for body in ["read", "unread"] {
        harness.says(&alice, "messages", &json!({"to": "bob", "body": body})).await;
    }
    let told = harness.reads(&[("bob/others/messages", 2)]).await;
    harness.says(&at("bob:web"), "read", &json!({"with": "alice", "sid": told[0]["sid"]})).await;
    let taken = harness.takes(7).await;
    assert_eq!(taken.get(&format!("bob {}", told[0]["sid"].as_str().unwrap())), None, "{taken:?}");
    assert_eq!(taken.len(), 2, "{taken:?}");
    harness.close().await;
}

fn external_with_little_room() -> Settings {
    Settings { broker: BrokerKind::External, ..with_little_room() }
}

/// The broker has more for the bridge than it sends without acknowledgements, and wants those in order.
#[tokio::test]
async fn at_a_broker_of_others_pushes_without_room_are_refused_so_that_chat_and_all_else_go_on() {
    let mut harness = Harness::open_for(external_with_little_room());
    let (alice, bob) = (by_topic("alice"), by_topic("bob"));
    harness.says(&alice, "requests/phone", &json!({"op": "settings"})).await;
    harness.says(&bob, "messages", &json!({"to": "alice", "body": "a contact may write more than a stranger"})).await;
    assert_eq!(timeout(harness.fill().await).await, Ok(AckWord::Done), "it is answered");
    let refused = harness.reads(&[("c/others/receipts", 6), ("c/others/errors", 1)]).await;
    let (failed, error) = (&refused[5], &refused[6]);
    assert_eq!(
        (&failed["id"], &failed["status"], &failed["code"]),
        (&json!("late"), &json!("failed"), &json!("QUEUE_FULL"))
    );
    assert_eq!((&error["ref"], &error["code"]), (&json!("late"), &json!("QUEUE_FULL")));
    // More than the queue between the broker and the bridge has room for.
    for n in 0..50 {
        let more = json!({"id": format!("more{n}"), "token": "T", "data": {}});
        assert_eq!(timeout(harness.publish("c/self/messages", &more).await).await, Ok(AckWord::Done));
        harness.says(&alice, "messages", &json!({"to": "bob", "body": n.to_string()})).await;
    }
    harness.reads(&[("bob/others/messages", 50), ("c/others/receipts", 50)]).await;
    assert_eq!(harness.store.figures().queue_rows, ROOM);
    // What is known stays known, and what needs no room is taken.
    let known = json!({"id": "a0", "token": "T0", "data": {}, "ttl": 3_600});
    assert_eq!(timeout(harness.publish("c/self/messages", &known).await).await, Ok(AckWord::Done));
    let again = harness.reads(&[("c/others/receipts", 1)]).await.remove(0);
    assert_eq!(
        (&again["id"], &again["status"], &again["redelivered"]),
        (&json!("a0"), &json!("accepted"), &json!(true))
    );
    harness.mqtt.directory.answer_from(OneBal);
    let bal = Principal { role: Role::Bal, ..by_topic("bal1") };
    harness.says(&bal, "messages", &json!({"id": "b1", "to": "bob", "body": "On its way"})).await;
    assert_eq!(harness.reads(&[("bob/others/messages", 1)]).await[0]["from"], "bal1");

    harness.takes(5).await;
    let late = json!({"id": "late", "token": "T-late", "data": {}});
    let mut statuses = Vec::new();
    while statuses.last() != Some(&json!("accepted")) {
        assert_eq!(timeout(harness.publish("c/self/messages", &late).await).await, Ok(AckWord::Done));
        // Room is looked for ten times a second.
        let told = harness.told().await;
        let of_late = told.on("c/others/receipts").into_iter().filter(|status| status["id"] == "late");
        statuses.extend(of_late.map(|status| status["status"].clone()));
    }
    harness.close().await;
}

#[tokio::test]
async fn at_a_broker_of_others_without_chat_pushes_wait_for_room() {
    let mut harness = Harness::open_for(external_with_little_room());
    let mut late = harness.fill().await;
    let presence = harness.publish("c/self/presence", &json!({"state": "online"})).await;
    harness.reads(&[("c/others/receipts", 5)]).await;
    assert!(late.try_recv().is_err(), "nobody else waits");
    harness.takes(6).await;
    assert_eq!((timeout(late).await, timeout(presence).await), (Ok(AckWord::Done), Ok(AckWord::Done)));
    harness.close().await;
}
