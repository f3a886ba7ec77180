//! Several transports at once.

use super::*;
use crate::chat::delivery::Fate;
use crate::chat::id::SidSource;
use crate::chat::transport::Transports;
use crate::transport::Outlet;

pub(super) fn v1() -> Transport {
    Transport::parse("fcm-v1").unwrap()
}

/// CCS, and v1 for the app `com.example.chat`.
pub(super) fn both() -> Settings {
    let settings = settings();
    let chat = HashMap::from([("com.example.chat".to_owned(), v1())]);
    Settings { transports: Transports::new(Transport::Ccs, chat, &Routes::default()), ..settings }
}

fn harness() -> Harness {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    Harness::open_by(dir, path, both(), &[Transport::Ccs, v1()])
}

impl Harness {
    /// A message of `c` to a device with the chat app.
    pub(super) async fn chat(&self, id: &str, token: &str) {
        let message = json!({"id": id, "token": token, "category": "com.example.chat", "data": {}});
        assert_eq!(timeout(self.publish("c/self/messages", &message).await).await, Ok(AckWord::Done));
    }

    pub(super) fn fcm(&mut self) -> &mut Outlet {
        &mut self.others[0]
    }

    pub(super) async fn sent_by_fcm(&mut self) -> Send {
        timeout(self.fcm().sends.recv()).await.expect("the bridge runs")
    }

    pub(super) async fn fcm_says(&mut self, report: Report) {
        self.fcm().reports.send(report).await.unwrap();
    }

    /// FCM is busy, and may have taken the message all the same.
    pub(super) async fn fcm_is_busy(&mut self, sid: Sid, wait: Duration) {
        let decision = Decision::Retry { wait: Wait::AtLeast(wait), until: Until::Deadline, scope: Scope::Recipient };
        let refusal = Refusal::new(decision, "SERVICE_UNAVAILABLE", "").maybe_arrived();
        self.fcm_says(Report::Back { sid, fate: Fate::Refused(refusal), copies: 1, replays: 0 }).await;
    }
}

#[tokio::test]
async fn what_went_over_v1_is_delivered_on_the_word_of_the_app() {
    let mut harness = harness();
    harness.chat("a1", "T").await;
    assert_eq!(harness.status().await.1, "accepted");
    let sid = harness.sent_by_fcm().await.sid;
    let provider_id = Some("projects/p/messages/7".to_owned());
    harness
        .fcm_says(Report::Back {
            sid,
            fate: Fate::Accepted { canonical: None, provider_id, detail: None, can_confirm: true },
            copies: 1,
            replays: 0,
        })
        .await;
    let (_, sent) = harness.read().await;
    assert_eq!((&sent["transport"], &sent["source"]), (&json!("fcm-v1"), &json!("provider")));
    assert_eq!(sent["provider_id"], "projects/p/messages/7");
    let receipt = json!({"id": sid.to_string(), "status": "received"});
    for _ in 0..2 {
        // An app may say so twice; the second time it means nothing.
        assert_eq!(timeout(harness.publish("alice/self/receipts", &receipt).await).await, Ok(AckWord::Done));
    }
    let (topic, delivered) = harness.read().await;
    assert_eq!((topic.as_str(), &delivered["status"]), ("c/others/receipts", &json!("delivered")));
    assert_eq!((&delivered["transport"], &delivered["source"]), (&json!("fcm-v1"), &json!("app")));
    harness.chat("a1", "T").await;
    let (_, again) = harness.read().await;
    assert_eq!((&again["status"], &again["provider_id"]), (&json!("delivered"), &json!("projects/p/messages/7")));
    harness.close().await;
}

#[tokio::test]
async fn a_key_of_data_that_only_v1_reserves_is_refused_before_it_is_queued() {
    let mut harness = harness();
    let data = json!({"notification": "x"});
    let chat = json!({"id": "a1", "token": "T", "category": "com.example.chat", "data": data});
    assert_eq!(timeout(harness.publish("c/self/messages", &chat).await).await, Ok(AckWord::Done));
    // Two topics have no order between them.
    let mut said = [harness.read().await, harness.read().await];
    said.sort_by(|(one, _), (other, _)| one.cmp(other));
    let [(topic, error), (_, failed)] = said;
    assert_eq!((topic.as_str(), &error["code"]), ("c/others/errors", &json!("RESERVED_KEY")));
    let said = (&failed["id"], &failed["status"], &failed["code"]);
    assert_eq!(said, (&json!("a1"), &json!("failed"), &json!("RESERVED_KEY")));
    assert_eq!(harness.store.figures().queue_rows, 0);
    let other = json!({"id": "a2", "token": "T", "data": data});
    assert_eq!(timeout(harness.publish("c/self/messages", &other).await).await, Ok(AckWord::Done));
    assert_eq!(harness.status().await.1, "accepted");
    assert_eq!(harness.sent().await.push.data["notification"], "x");
    harness.close().await;
}

#[tokio::test]
async fn what_many_apps_say_at_a_time_is_written_together() {
    const APPS: usize = 160;
    let harness = harness();
    let mut source = SidSource::default();
    let before = harness.store.figures().commits;
    let mut words = Vec::new();
    for _ in 0..APPS {
        let receipt = json!({"id": source.next(now_ms(), 1).to_string(), "status": "received"});
        words.push(harness.publish("alice/self/receipts", &receipt).await);
    }
    for word in words {
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }
    let commits = harness.store.figures().commits - before;
    assert!(commits < APPS as u64, "{commits} commits for {APPS} confirmations");
    harness.close().await;
}

#[tokio::test]
async fn an_app_has_no_say_where_the_push_service_speaks_for_the_device() {
    let mut harness = harness();
    harness.message("a1", "T", 600).await;
    let sid = harness.sent().await.sid;
    harness.report(accepted(sid)).await;
    let receipt = json!({"id": sid.to_string(), "status": "received"});
    assert_eq!(timeout(harness.publish("alice/self/receipts", &receipt).await).await, Ok(AckWord::Done));
    harness.receipt(&sid.to_string()).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(harness.read().await.1);
    }
    assert_eq!((&told[2]["status"], &told[2]["source"]), (&json!("delivered"), &json!("device")));
    harness.close().await;
}

#[tokio::test]
async fn a_confirmation_ends_the_wait_for_a_retry_and_lets_the_next_go() {
    let mut harness = harness();
    for id in ["a1", "a2", "a3"] {
        harness.chat(id, "T").await;
    }
    let first = harness.sent_by_fcm().await.sid;
    harness.fcm_is_busy(first, Duration::from_secs(600)).await;
    timeout(async {
        while harness.metrics.get(Metric::DownstreamRetries) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // It was on the device all the same.
    let receipt = json!({"id": first.to_string(), "status": "received"});
    assert_eq!(timeout(harness.publish("alice/self/receipts", &receipt).await).await, Ok(AckWord::Done));
    let second = harness.sent_by_fcm().await.sid;
    harness
        .fcm_says(Report::Back {
            sid: second,
            fate: Fate::Deferred { wait: Duration::from_millis(10), why: "quota".into() },
            copies: 0,
            replays: 0,
        })
        .await;
    assert_eq!(harness.sent_by_fcm().await.sid, second, "nothing passes what went back");
    harness.fcm_says(accepted(second)).await;
    let third = harness.sent_by_fcm().await.sid;
    assert!(first < second && second < third);
    harness.close().await;
}

#[tokio::test]
async fn a_way_that_is_down_says_why_and_holds_up_no_other() {
    let mut harness = harness();
    harness.fcm().link.send_replace(Link::Down("permission_denied"));
    harness.transport.link.send_replace(Link::Up);
    let down = |now: &Readiness| now.transports.get("fcm-v1") == Some(&"permission_denied");
    let now = timeout(harness.readiness.wait_for(down)).await.unwrap().clone();
    assert!(!now.ready && now.transports["ccs"] == "up", "{now:?}");
    for n in 0..200 {
        harness.chat(&format!("v{n}"), "T").await;
    }
    harness.message("c1", "T", 600).await;
    let sid = harness.sent().await.sid;
    harness.report(accepted(sid)).await;
    assert!(harness.fcm().sends.try_recv().is_err(), "something went where nothing goes");
    let degraded = async {
        loop {
            let outbound = harness.mqtt.publish.recv().await.unwrap();
            let document: Value = serde_json::from_slice(&outbound.payload).unwrap();
            if outbound.topic == "_bridge/status" && document["transports"]["fcm-v1"] == "permission_denied" {
                return document;
            }
        }
    };
    let document = timeout(degraded).await;
    assert_eq!((&document["state"], &document["ccs"]), (&json!("degraded"), &json!("up")));
    harness.fcm().link.send_replace(Link::Up);
    harness.sent_by_fcm().await;
    timeout(harness.readiness.wait_for(|now| now.ready)).await.unwrap();
    harness.close().await;
}

#[tokio::test]
async fn while_a_transport_probes_one_message_goes_at_a_time() {
    let mut harness = harness();
    harness.fcm().link.send_replace(Link::Probing("quota"));
    for token in ["T", "U", "V"] {
        harness.chat(token, token).await;
    }
    for _ in 0..3 {
        // The dispatcher looks at what is due several times meanwhile.
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(harness.fcm().sends.len(), 1, "only when the transport has taken one comes the next");
        harness.sent_by_fcm().await;
    }
    harness.close().await;
}

#[tokio::test]
async fn a_doubtful_token_is_neither_used_nor_forgotten() {
    let mut harness = harness();
    harness.chat("a1", "T").await;
    assert_eq!(harness.status().await.1, "accepted");
    let sid = harness.sent_by_fcm().await.sid;
    let refusal = Refusal::new(Decision::QUARANTINE_TOKEN, "SENDER_ID_MISMATCH", "no");
    harness.fcm_says(Report::Back { sid, fate: Fate::Refused(refusal), copies: 1, replays: 0 }).await;
    let (_, failed) = harness.read().await;
    assert_eq!((&failed["status"], &failed["token_action"]), (&json!("failed"), &json!("quarantine")));
    harness.close().await;
}

#[tokio::test]
async fn what_the_bridge_refuses_itself_is_no_word_and_no_attempt_of_the_push_service() {
    let mut harness = harness();
    harness.chat("a1", "T").await;
    assert_eq!(harness.status().await.1, "accepted");
    let sid = harness.sent_by_fcm().await.sid;
    let (code, detail) = ("RESERVED_KEY".to_owned(), "no".to_owned());
    harness.fcm_says(Report::Back { sid, fate: Fate::Unsendable { code, detail }, copies: 0, replays: 0 }).await;
    let (_, mut failed) = harness.read().await;
    failed.as_object_mut().unwrap().remove("ts");
    let expected =
        json!({"id": "a1", "status": "failed", "code": "RESERVED_KEY", "detail": "no", "token_action": "keep"});
    assert_eq!(failed, expected);
    assert_eq!(harness.metrics.refusals(), std::collections::BTreeMap::new());
    // What the push service refuses is still its word.
    harness.chat("a2", "T").await;
    assert_eq!(harness.status().await.1, "accepted");
    let sid = harness.sent_by_fcm().await.sid;
    let refusal = Refusal::new(Decision::FAIL, "INVALID_JSON", "no");
    harness.fcm_says(Report::Back { sid, fate: Fate::Refused(refusal), copies: 1, replays: 0 }).await;
    let (_, failed) = harness.read().await;
    assert_eq!((&failed["source"], &failed["attempt"]), (&json!("provider"), &json!(1)));
    assert_eq!(harness.metrics.refusals().into_values().sum::<u64>(), 1);
    harness.close().await;
}

#[tokio::test]
async fn a_copy_of_a_later_attempt_is_one_more() {
    let mut harness = harness();
    harness.chat("a1", "T").await;
    assert_eq!(harness.status().await.1, "accepted");
    let sid = harness.sent_by_fcm().await.sid;
    harness.fcm_is_busy(sid, Duration::from_millis(1)).await;
    assert_eq!(harness.sent_by_fcm().await.sid, sid);
    // It was not written this time, which is no copy.
    harness.fcm_says(Report::Back { sid, fate: Fate::Lost, copies: 0, replays: 0 }).await;
    assert_eq!(harness.sent_by_fcm().await.sid, sid);
    assert_eq!(harness.metrics.get(Metric::DownstreamResent), 0);
    harness.fcm_says(accepted(sid)).await;
    assert_eq!(harness.read().await.1["dup_possible"], true);
    assert_eq!(harness.metrics.get(Metric::DownstreamResent), 1);
    harness.close().await;
}

#[tokio::test]
async fn what_goes_back_untried_is_no_attempt() {
    const SOON: Duration = Duration::from_millis(1);
    let mut harness = harness();
    harness.chat("a1", "T").await;
    assert_eq!(harness.status().await.1, "accepted");
    let service = Decision::Retry { wait: Wait::AtLeast(SOON), until: Until::Deadline, scope: Scope::Service };
    let refusal = Refusal::new(service, "QUOTA_EXCEEDED", "");
    let went_back: [fn(Sid, Refusal) -> Report; 3] = [
        |sid, _| Report::Back { sid, fate: Fate::Deferred { wait: SOON, why: "quota".into() }, copies: 0, replays: 0 },
        |sid, _| Report::Back { sid, fate: Fate::Lost, copies: 0, replays: 0 },
        |sid, refusal| Report::Back { sid, fate: Fate::Refused(refusal), copies: 1, replays: 0 },
    ];
    for report in went_back {
        let sid = harness.sent_by_fcm().await.sid;
        harness.fcm_says(report(sid, refusal.clone())).await;
    }
    let sid = harness.sent_by_fcm().await.sid;
    assert_eq!(harness.metrics.get(Metric::DownstreamAttempts), 0);
    let (canonical, provider_id, detail) = (None, None, None);
    harness
        .fcm_says(Report::Back {
            sid,
            fate: Fate::Accepted { canonical, provider_id, detail, can_confirm: true },
            copies: 2,
            replays: 1,
        })
        .await;
    let (_, sent) = harness.read().await;
    assert_eq!((&sent["status"], &sent["attempt"]), (&json!("sent"), &json!(2)));
    assert_eq!(harness.metrics.get(Metric::DownstreamAttempts), 2, "what was sent again at once counts each time");
    harness.chat("a2", "T").await;
    assert_eq!(harness.status().await.1, "accepted");
    let sid = harness.sent_by_fcm().await.sid;
    harness
        .fcm_says(Report::Back {
            sid,
            fate: Fate::Unsendable { code: "RESERVED_KEY".to_owned(), detail: "no".to_owned() },
            copies: 0,
            replays: 0,
        })
        .await;
    assert_eq!(harness.status().await.1, "failed");
    assert_eq!(harness.metrics.get(Metric::DownstreamAttempts), 2);
    harness.close().await;
}

#[tokio::test]
async fn a_device_that_is_faster_than_the_answer_is_told_of_without_what_only_the_answer_brings() {
    let mut harness = harness();
    for (id, receipt) in [("a1", true), ("a2", false)] {
        let message = json!({
            "id": id, "token": "T", "category": "com.example.chat", "receipt": receipt, "data": {},
        });
        assert_eq!(timeout(harness.publish("c/self/messages", &message).await).await, Ok(AckWord::Done));
        assert_eq!(harness.status().await.1, "accepted");
        let sid = harness.sent_by_fcm().await.sid;
        let confirmation = json!({"id": sid.to_string(), "status": "received"});
        assert_eq!(timeout(harness.publish("alice/self/receipts", &confirmation).await).await, Ok(AckWord::Done));
        for word in ["sent", "delivered"].into_iter().take(1 + usize::from(receipt)) {
            let (_, told) = harness.read().await;
            assert_eq!(
                (&told["status"], &told["provider_id"], &told["detail"]),
                (&json!(word), &Value::Null, &Value::Null)
            );
        }
        let (name, lost) = ("projects/p/messages/7", "`x` did not travel");
        let (provider_id, detail) = (Some(name.to_owned()), Some(lost.to_owned()));
        harness
            .fcm_says(Report::Back {
                sid,
                fate: Fate::Accepted { canonical: None, provider_id, detail, can_confirm: true },
                copies: 1,
                replays: 0,
            })
            .await;
        timeout(async {
            while harness.metrics.get(Metric::InFlight) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(timeout(harness.publish("c/self/messages", &message).await).await, Ok(AckWord::Done));
        let (_, again) = harness.read().await;
        assert_eq!((&again["provider_id"], &again["redelivered"]), (&json!(name), &json!(true)), "who asks is told");
        assert_eq!(again["detail"], if receipt { Value::Null } else { json!(lost) });
    }
    harness.message("b1", "T", 600).await;
    assert_eq!(harness.status().await.1, "accepted");
    let sid = harness.sent().await.sid;
    harness.receipt(&sid.to_string()).await;
    let (_, sent) = harness.read().await;
    assert_eq!((&sent["status"], &sent["new_token"]), (&json!("sent"), &Value::Null));
    harness.close().await;
}
