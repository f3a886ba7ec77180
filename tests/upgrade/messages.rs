//! The store: what waits is sent, what happened is told, what is known is recognised.

use crate::harness::{Past, Present};
use crate::peer::{Got, Peer};
use fcm_mqtt_bridge::sim::Speech;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Gives the messages of devices that came when nobody had a route for them a BAL.
const ROUTE: &str = r#""com.example.nobody" = "bal1""#;
/// The messages that were still to be sent, by device, in their order.
const TO_SEND: [(&str, &[&str]); 7] = [
    ("phone", &["flying-1", "flying-2"]),
    ("busy", &["retry-1", "retry-2"]),
    ("ordered-1", &["ordered-1"]),
    ("ordered-2", &["ordered-2"]),
    ("v1-busy", &["v1-retry-1"]),
    ("v1-phone", &["v1-flying-1", "v1-flying-2"]),
    ("shopper", &["waiting-1", "waiting-2", "waiting-3"]),
];

/// The last word that is to be expected of a message: nobody confirms what goes over v1.
fn end_of(id: &str) -> &'static str {
    if id.starts_with("v1-") || id.starts_with("waiting-") { "sent" } else { "delivered" }
}

fn told<'a>(got: &'a [Got], id: &str) -> Vec<&'a Value> {
    let about = |got: &&Got| got.body["id"] == id && got.body.get("status").is_some();
    got.iter().filter(about).map(|got| &got.body).collect()
}

/// The words of the statuses of a message, without repeated ones.
fn words(got: &[Got], id: &str) -> Vec<String> {
    let mut words: Vec<String> = told(got, id).iter().map(|body| body["status"].as_str().unwrap().to_owned()).collect();
    words.dedup();
    words
}

/// The BAL is back, and reads until everything that was to be sent has its last word.
async fn all_told(present: &Present) -> (Peer, Vec<Got>) {
    let mut bal = present.peer("bal1").await;
    assert!(bal.session_present, "its session and its subscriptions are there");
    let to_send = TO_SEND.iter().flat_map(|(_, ids)| ids.iter().map(|id| (*id, end_of(id))));
    let ends: Vec<(&str, &str)> = to_send.chain([("asked-1", "delivered")]).collect();
    let ended = |got: &[Got]| {
        let on = |suffix: &str| got.iter().filter(|got| got.topic == format!("bal1/others/{suffix}")).count();
        let all = ends.iter().all(|(id, end)| words(got, id).last().is_some_and(|word| word == end));
        // Topics come side by side.
        all && on("messages") >= 4 && on("errors") >= 2
    };
    let got = bal.until(ended).await;
    (bal, got)
}

#[tokio::test]
async fn what_waits_is_sent_in_order_and_every_status_is_told() {
    let present = Past::open().await.go_on(ROUTE).await;
    let (mut bal, got) = all_told(&present).await;
    for (token, ids) in TO_SEND {
        assert_eq!(present.device(token), ids, "what {token} got");
        for id in ids {
            let expected: &[&str] = &["accepted", "sent", "delivered"];
            let expected = &expected[..if end_of(id) == "sent" { 2 } else { 3 }];
            assert_eq!(words(&got, id), expected, "{id}");
        }
    }
    // What was in flight at the kill may have arrived then.
    for id in ["flying-1", "ordered-1", "v1-flying-1"] {
        assert_eq!(told(&got, id).last().unwrap()["dup_possible"], true, "{id}");
    }
    for id in ["retry-2", "ordered-2", "waiting-1"] {
        assert_eq!(told(&got, id).last().unwrap().get("dup_possible"), None, "{id}");
    }
    let place =
        |id: &str, word: &str| got.iter().position(|got| got.body["id"] == id && got.body["status"] == word).unwrap();
    assert!(place("ordered-1", "delivered") < place("ordered-2", "sent"), "one after the other");
    // What had happened before the kill, and nobody had acknowledged.
    assert_eq!(words(&got, "sent-1"), ["accepted", "sent"]);
    assert_eq!(words(&got, "refused-1"), ["failed"]);
    let answers = told(&got, "asked-1");
    assert_eq!(words(&got, "asked-1"), ["accepted", "sent", "delivered"]);
    assert!(answers.iter().all(|body| body["corr"] == "Yy0x" && body["redelivered"] == true), "{answers:?}");
    let errors: Vec<_> = got.iter().filter(|got| got.topic == "bal1/others/errors").collect();
    let codes: Vec<_> = errors.iter().map(|got| (&got.body["code"], &got.body["redelivered"])).collect();
    assert_eq!(codes, [(&json!("BAD_TARGET"), &json!(true)), (&json!("BAD_JSON"), &json!(true))]);
    // An app has what was sent before the kill.
    let app = present.peer("alice:app").await;
    app.publish("alice/self/receipts", &json!({"id": present.sid("v1-sent-1"), "status": "received"})).await;
    let last = bal.until(|got| !got.is_empty()).await;
    assert_eq!(words(&last, "v1-sent-1"), ["delivered"]);
    present.close().await;
}

#[tokio::test]
async fn messages_of_devices_reach_their_bals_in_order() {
    let present = Past::open().await.go_on(ROUTE).await;
    let (_bal, got) = all_told(&present).await;
    let upstream: Vec<_> = got.iter().filter(|got| got.topic == "bal1/others/messages").collect();
    let mut by_device: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Got { body, .. } in &upstream {
        let (token, ccs_id) = (body["token"].as_str().unwrap(), body["ccs_id"].as_str().unwrap());
        by_device.entry(token).or_default().push(ccs_id);
        // The release had handed out those for which it had a route.
        assert_eq!(body.get("redelivered").is_some(), token == "phone");
    }
    assert_eq!(by_device, BTreeMap::from([("phone", vec!["up-1", "up-2"]), ("phone-n", vec!["up-1", "up-2"])]));

    // Who says itself that it has a message is asked again.
    let mut careful = present.peer("careful").await;
    assert!(careful.session_present);
    let got = careful.until(|got| got.len() == 2).await;
    for (Got { body, .. }, ccs_id) in got.iter().zip(["up-1", "up-2"]) {
        assert_eq!((&body["ccs_id"], &body["redelivered"]), (&json!(ccs_id), &json!(true)));
    }
    let receipt = json!({"id": got[1].body["id"], "status": "received", "up_to": true});
    careful.publish("careful/self/receipts", &receipt).await;
    present.until_the_spool_is_empty().await;
    present.close().await;
}

#[tokio::test]
async fn what_was_known_is_recognised() {
    let present = Past::open().await.go_on("").await;
    let mut bal = present.peer("bal1").await;
    let known = [("done-1", "phone", "delivered"), ("failed-1", "gone", "failed"), ("expired-1", "busy", "expired")];
    for (id, token, _) in known.iter().chain(&[("sent-1", "away", "sent")]) {
        bal.publish("bal1/self/messages", &json!({"id": id, "token": token, "data": {"mine": id}})).await;
    }
    // A message of a device that its BAL had acknowledged, and a new one behind it.
    for message_id in ["up-read", "up-new"] {
        let message_id = Some(message_id.to_owned());
        let speech = Speech { category: None, data: json!({}), count: 1, message_id };
        present.past.sim.upstream("phone", &speech).unwrap();
    }
    let is_new = |got: &[Got]| got.iter().any(|got| got.body["ccs_id"] == "up-new");
    let mut got = bal.until(is_new).await;
    assert!(!got.iter().any(|got| got.body["ccs_id"] == "up-read"), "it came again");
    let all = |got: &[Got]| got.iter().any(|got| got.body["id"] == "fence");
    bal.publish("bal1/self/messages", &json!({"id": "fence", "token": "phone", "data": {"mine": "fence"}})).await;
    got.extend(bal.until(all).await);
    for (id, token, word) in known {
        let told = told(&got, id);
        assert_eq!((told.len(), &told[0]["status"], &told[0]["redelivered"]), (1, &json!(word), &json!(true)), "{id}");
        assert!(!present.device(token).contains(&id.to_owned()), "{id} was sent again");
    }
    assert_eq!(told(&got, "failed-1")[0]["code"], "DEVICE_UNREGISTERED");
    assert_eq!(words(&got, "sent-1").last().unwrap(), "sent");
    assert_eq!(present.device("away"), [""; 0], "it was sent again");
    present.close().await;
}

/// All that the release knew of its messages, and the number of its schema.
fn written(store: &Path) -> (Vec<String>, i32) {
    let conn = Connection::open(store).unwrap();
    let sql =
        "SELECT quote(row) || quote(id) || quote(state) || quote(due_at) || quote(log) || quote(body) FROM deliveries
        UNION ALL SELECT quote(row) || quote(bal) || quote(topic) || quote(published_at) || quote(final_at) FROM inbox
        UNION ALL SELECT quote(topic) || quote(seq) || quote(redelivered) || quote(payload) FROM outbox
        UNION ALL SELECT quote(topic) || quote(seq) FROM claims";
    let rows = conn.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    (rows, conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap())
}

#[tokio::test]
async fn the_store_as_the_release_left_it_lies_beside_and_today_s_can_shrink() {
    let past = Past::open().await;
    let (store, copy) = (past.path("bridge.db"), past.path("bridge.db.schema-4"));
    let left = written(&store);
    assert_eq!((left.0.len(), left.1), (18 + 7 + 28 + 5, 4));
    let present = past.go_on(ROUTE).await;
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600, "there are tokens in it");
    assert_eq!(written(&copy), left);
    all_told(&present).await;
    assert_eq!(written(&copy), left, "nothing more is written there");
    let conn = Connection::open(&store).unwrap();
    let number = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).unwrap();
    assert!(number("user_version") > 4);
    assert_eq!(number("auto_vacuum"), 2);
    drop(conn);
    present.close().await;
}
