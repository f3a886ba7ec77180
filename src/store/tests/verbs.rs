//! What each verb does.

use super::*;
use crate::chat::delivery::{AMBIGUOUS, State};
use crate::chat::status::{Status, StatusDocument};

#[tokio::test]
async fn a_message_goes_its_usual_way() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    assert_eq!(rig.accept(new).await, Accepted::Stored);
    assert_eq!(rig.store.figures().queue_rows, 1);
    let taken = rig.take(NOW).await;
    assert_eq!(ids(&taken), ["a1"]);
    assert_eq!((taken.claimed[0].life.attempt, taken.next_due), (1, None));
    assert!(matches!(rig.record(sid, accepted(), NOW + 1).await, Recorded::Moved { told: [Status::Sent], .. }));
    assert_eq!((rig.store.figures().queue_rows, rig.store.figures().queue_bytes), (0, 0));
    assert!(matches!(
        rig.record(sid, Event::RECEIPT, NOW + 2).await,
        Recorded::Moved { told: [Status::Delivered], .. }
    ));
    assert_eq!(rig.record(sid, accepted(), NOW + 3).await, Recorded::NoEffect);
    assert_eq!(rig.statuses().await, ["a1 accepted", "a1 sent", "a1 delivered"]);
    assert_eq!(rig.statuses().await, Vec::<String>::new());
    assert_eq!(rig.store.figures().history_rows, 1);
}

#[tokio::test]
async fn an_event_for_an_unknown_id_is_no_error() {
    let mut rig = Rig::new(Limits::default());
    let sid = rig.sid();
    assert_eq!(rig.record(sid, Event::RECEIPT, NOW).await, Recorded::Unknown);
}

#[tokio::test]
async fn the_same_id_again_repeats_the_last_status_only() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    let again = rig.new_message("a1");
    assert_eq!(rig.accept(again).await, Accepted::Repeated(Status::Accepted));
    assert_eq!(rig.statuses().await, ["a1 accepted"], "an unread status is not queued twice");
    rig.take(NOW).await;
    rig.record(sid, accepted(), NOW + 5).await;
    rig.statuses().await;
    for _ in 0..3 {
        let again = rig.new_message("a1");
        assert_eq!(rig.accept(again).await, Accepted::Repeated(Status::Sent));
    }
    let documents = rig.read(RECEIPTS).await;
    assert_eq!(documents.len(), 1);
    assert_eq!(documents[0]["ts"], NOW + 5, "the time is that of the status, not of the question");
    assert_eq!(documents[0]["redelivered"], true, "it was told before");
    assert_eq!(rig.take(NOW).await.claimed, []);
    let mut other = rig.new_message("a1");
    other.bal = Owner::new("bal2").unwrap();
    assert_eq!(rig.accept(other).await, Accepted::Stored, "another BAL may use the same id");
}

#[tokio::test]
async fn a_status_that_is_being_published_is_told_again_to_who_asks() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    rig.accept(new).await;
    rig.next(RECEIPTS, 0).await;
    for _ in 0..3 {
        // The reader may have it, and its acknowledgement may be on the way: only the second document is unread.
        let again = rig.new_message("a1");
        assert_eq!(rig.accept(again).await, Accepted::Repeated(Status::Accepted));
    }
    let marks: Vec<Value> = rig.read(RECEIPTS).await.iter().map(|d| d["redelivered"].clone()).collect();
    assert_eq!(marks, [Value::Null, Value::Bool(true)]);
}

#[tokio::test]
async fn a_status_that_is_told_again_after_a_crash_is_marked() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    rig.take(NOW).await;
    rig.record(sid, accepted(), NOW).await;
    let told = rig.read(RECEIPTS).await;
    assert!(told.len() == 2 && told.iter().all(|document| document.get("redelivered").is_none()));
    // The PUBACK was lost with the process, so the same id is published once more.
    let mut rig = rig.crash();
    let again = rig.new_message("a1");
    assert_eq!(rig.accept(again).await, Accepted::Repeated(Status::Sent));
    let mut expected = told[1].clone();
    expected["redelivered"] = Value::Bool(true);
    assert_eq!(rig.read(RECEIPTS).await, [expected]);
}

#[tokio::test]
async fn a_status_is_told_again_to_each_question_on_its_topic_and_with_its_correlation_data() {
    const ANSWERS: &str = "bal1/my/answers";
    let mut rig = Rig::new(Limits::default());
    let question = |rig: &mut Rig, reply: &str, correlation: &'static [u8]| NewMessage {
        reply: reply.to_owned(),
        correlation: Some(Bytes::from_static(correlation)),
        ..rig.new_message("a1")
    };
    let first = question(&mut rig, ANSWERS, b"1");
    assert_eq!(rig.accept(first).await, Accepted::Stored);
    // The same question: its answer is still to be published.
    let same = question(&mut rig, ANSWERS, b"1");
    assert_eq!(rig.accept(same).await, Accepted::Repeated(Status::Accepted));
    // Another question would not know its answer by the correlation data of the first.
    let other = question(&mut rig, ANSWERS, b"2");
    rig.accept(other).await;
    let elsewhere = question(&mut rig, RECEIPTS, b"3");
    rig.accept(elsewhere).await;
    let answers = rig.read(ANSWERS).await;
    let seen: Vec<_> = answers.iter().map(|d| (d["corr"].as_str().unwrap(), d.get("redelivered").is_some())).collect();
    assert_eq!(seen, [("MQ==", false), ("Mg==", true)]);
    let receipts = rig.read(RECEIPTS).await;
    assert_eq!((receipts.len(), &receipts[0]["corr"], &receipts[0]["redelivered"]), (1, &"Mw==".into(), &true.into()));
}

#[tokio::test]
async fn of_the_answers_to_other_questions_about_an_id_few_are_kept() {
    let mut rig = Rig::in_memory(Limits::default());
    let new = rig.new_message("a1");
    rig.accept(new).await;
    for question in 0..NOTES_PER_TOPIC + 10 {
        let new = rig.new_message("a1");
        rig.accept(NewMessage { correlation: Some(question.to_string().into()), ..new }).await;
    }
    let (told, rest) = (rig.read(RECEIPTS).await, rig.read(RECEIPTS).await);
    assert_eq!(told.len() + rest.len(), 1 + usize::try_from(NOTES_PER_TOPIC).unwrap());
    assert_eq!(told[0].get("corr"), None, "the first telling is no answer to a question");
}

#[tokio::test]
async fn correlation_data_is_echoed_beside_and_inside() {
    let mut rig = Rig::new(Limits::default());
    let mut new = rig.new_message("a1");
    new.correlation = Some(Bytes::from_static(b"\x01\x02"));
    new.reply = "bal1/my/answers".to_owned();
    rig.accept(new).await;
    let waiting = rig.next("bal1/my/answers", 0).await;
    assert_eq!(waiting[0].correlation.as_deref(), Some(&b"\x01\x02"[..]));
    assert_eq!(serde_json::from_slice::<Value>(&waiting[0].payload).unwrap()["corr"], "AQI=");
}

#[tokio::test]
async fn a_full_queue_stores_nothing_but_still_knows_what_it_has() {
    let mut rig = Rig::new(Limits { queue_rows: 2, ..Limits::default() });
    for id in ["a1", "a2"] {
        let new = rig.new_message(id);
        assert_eq!(rig.accept(new).await, Accepted::Stored);
    }
    let third = rig.new_message("a3");
    assert_eq!(rig.accept(third.clone()).await, Accepted::Full);
    let again = rig.new_message("a2");
    assert_eq!(rig.accept(again).await, Accepted::Repeated(Status::Accepted));
    let taken = rig.take(NOW).await;
    rig.record(taken.claimed[0].sid, accepted(), NOW).await;
    assert_eq!(rig.accept(third).await, Accepted::Stored);
}

#[tokio::test]
async fn the_queue_is_limited_in_bytes_too() {
    let mut rig = Rig::new(Limits { queue_bytes: 15, ..Limits::default() });
    let (a, b) = (rig.new_message("a1"), rig.new_message("a2"));
    assert_eq!(rig.accept(a).await, Accepted::Stored);
    assert_eq!(rig.accept(b).await, Accepted::Full);
    let rig = rig.crash();
    assert_eq!(rig.store.figures().queue_bytes, 10, "counted again at the start");
}

#[tokio::test]
async fn messages_of_one_order_key_go_one_after_the_final_word() {
    let mut rig = Rig::new(Limits::default());
    let mut sids = Vec::new();
    for id in ["a1", "a2", "a3"] {
        let mut new = rig.new_message(id);
        new.order = Some("k".to_owned());
        sids.push(new.sid);
        rig.accept(new).await;
    }
    let free = rig.new_message("b1");
    rig.accept(free).await;
    assert_eq!(ids(&rig.take(NOW).await), ["a1", "b1"]);
    rig.record(sids[0], accepted(), NOW).await;
    assert_eq!(rig.take(NOW).await.claimed, [], "sent is not final when a receipt is wished");
    rig.record(sids[0], Event::RECEIPT, NOW).await;
    assert_eq!(ids(&rig.take(NOW).await), ["a2"]);
    let refused = refused(Decision::REMOVE_TOKEN, "DEVICE_UNREGISTERED");
    rig.record(sids[1], refused, NOW).await;
    let rig = rig.crash();
    assert_eq!(ids(&rig.take(NOW).await), ["a3", "b1"], "b1 comes back behind it");
}

#[tokio::test]
async fn a_retry_waits_for_its_time_and_nothing_overtakes_it() {
    let mut rig = Rig::new(Limits::default());
    let mut first = None;
    for id in ["a1", "a2"] {
        let new = rig.new_message(id);
        first.get_or_insert(new.sid);
        rig.accept(new).await;
    }
    let one = rig.take_by(NOW, 1, MANY).await;
    assert_eq!((ids(&one), one.next_due), (vec!["a1".to_owned()], Some(0)));
    rig.record(first.unwrap(), retry(NOW + 1000), NOW).await;
    let mut other = rig.new_message("b1");
    other.push().recipient = Recipient(8);
    rig.accept(other).await;
    let taken = rig.take(NOW).await;
    assert_eq!(ids(&taken), ["b1"], "another recipient is not held up");
    assert_eq!(taken.next_due, Some(NOW + 1000));
    let late = rig.new_message("a3");
    rig.accept(late).await;
    let taken = rig.take(NOW + 1000).await;
    assert_eq!((ids(&taken), taken.claimed[0].life.attempt), (vec!["a1".to_owned()], 2));
    rig.record(first.unwrap(), accepted(), NOW + 1000).await;
    assert_eq!(ids(&rig.take(NOW + 1000).await), ["a2", "a3"]);
}

#[tokio::test]
async fn what_is_overdue_expires_on_the_way_and_is_never_sent() {
    let mut rig = Rig::new(Limits::default());
    let mut new = rig.new_message("a1");
    new.push().deadline_ms = NOW + 2000;
    rig.accept(new).await;
    let taken = rig.take(NOW + 2000).await;
    assert_eq!((taken.claimed, taken.next_due), (Vec::new(), None));
    assert_eq!(taken.expired, 1);
    assert_eq!(rig.statuses().await, ["a1 accepted", "a1 expired"]);
    assert_eq!(rig.store.figures().queue_rows, 0);
}

#[tokio::test]
async fn the_sweep_expires_what_waits_and_grants_receipts_their_way_home() {
    let mut rig = Rig::new(Limits::default());
    let mut sids = Vec::new();
    for id in ["due", "sent", "flying"] {
        let mut new = rig.new_message(id);
        new.push().deadline_ms = NOW + 2000;
        sids.push(new.sid);
        if id == "due" {
            rig.accept(new).await;
            rig.take(NOW).await;
            rig.record(sids[0], retry(NOW + 900_000), NOW).await;
        } else {
            new.push().recipient = Recipient(8);
            rig.accept(new).await;
        }
    }
    rig.take(NOW).await;
    rig.record(sids[1], accepted(), NOW).await;
    rig.sweep_all(NOW + 1999).await;
    assert_eq!(rig.statuses().await, ["due accepted", "sent accepted", "flying accepted", "sent sent"]);
    rig.sweep_all(NOW + 2000).await;
    assert_eq!(rig.statuses().await, ["due expired"]);
    rig.sweep_all(NOW + 2000 + RECEIPT_GRACE_MS).await;
    assert_eq!(rig.statuses().await, ["sent expired"], "what is in flight is left to its transport");
    rig.record(sids[2], back(Fate::Lost, 1), NOW + 3000).await;
    rig.take(NOW + 3000).await;
    assert_eq!(rig.statuses().await, ["flying expired"]);
}

/// Put off until long after its time, and it may have arrived.
fn in_doubt(code: &str) -> Event {
    let Event::Back { fate: Fate::Refused(refusal), copies, .. } = retry(NOW) else { unreachable!("it is one") };
    let refusal = Refusal { code: code.to_owned(), ..refusal.maybe_arrived() };
    at(NOW + 900_000, back(Fate::Refused(refusal), copies))
}

#[tokio::test]
async fn what_the_bridge_refuses_itself_is_told_as_its_own_word_whatever_came_before() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new.clone()).await;
    rig.take(NOW).await;
    rig.record(sid, retry(NOW + 1000), NOW).await;
    rig.take(NOW + 1000).await;
    rig.record(sid, unsendable(), NOW + 1000).await;
    let rig = rig.crash();
    // Told again from what is on disk.
    rig.read(RECEIPTS).await;
    rig.accept(new).await;
    let told = rig.read(RECEIPTS).await;
    let expected = serde_json::json!({"id": "a1", "status": "failed", "ts": NOW + 1000, "code": "TOO_BIG",
        "detail": "too big", "attempt": 1, "token_action": "keep", "redelivered": true});
    assert_eq!(told, [expected]);
}

#[tokio::test]
async fn a_message_that_no_answer_settles_fails_by_the_word_of_the_bridge() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    rig.take(NOW).await;
    rig.read(RECEIPTS).await;
    let refusal = Refusal::new(Decision::FAIL, AMBIGUOUS, "no answer in time").maybe_arrived();
    rig.record(sid, at(NOW, back(Fate::Refused(refusal), 1)), NOW).await;
    let expected = serde_json::json!({"id": "a1", "status": "failed", "ts": NOW, "code": AMBIGUOUS,
        "detail": "no answer in time", "attempt": 1, "dup_possible": true, "token_action": "keep"});
    assert_eq!(rig.read(RECEIPTS).await, [expected]);
}

#[tokio::test]
async fn what_expired_says_why_and_by_which_way_it_went() {
    let mut rig = Rig::new(Limits::default());
    for (id, recipient, order) in [
        ("refused", 2, None),
        ("first", 3, Some("o")),
        ("behind", 4, Some("o")),
        ("sent", 5, None),
        ("cut", 6, None),
        ("doubtful", 7, None),
        ("unanswered", 8, None),
        ("held", 9, None),
        ("queued", 1, None),
    ] {
        let mut new = rig.new_message(id);
        (new.push().deadline_ms, new.push().recipient) = (NOW + 2000, Recipient(recipient));
        new.order = order.map(str::to_owned);
        let sid = new.sid;
        rig.accept(new).await;
        if !matches!(id, "queued" | "behind") {
            rig.take(NOW).await;
        }
        match id {
            "refused" => drop(rig.record(sid, retry(NOW + 900_000), NOW).await),
            "sent" => drop(rig.record(sid, accepted(), NOW).await),
            "doubtful" => drop(rig.record(sid, in_doubt("SERVICE_UNAVAILABLE"), NOW).await),
            "unanswered" => drop(rig.record(sid, in_doubt(AMBIGUOUS), NOW).await),
            "held" => {
                let (wait, until) = (Wait::Backoff(Duration::from_secs(10)), Until::Deadline);
                let decision = Decision::Retry { wait, until, scope: Scope::Service };
                rig.record(sid, refused(decision, "permission_denied"), NOW).await;
            }
            "cut" => drop(rig.record(sid, back(Fate::Expired, 1), NOW + 1).await),
            _ => {}
        }
    }
    rig.sweep_all(NOW + 2000 + RECEIPT_GRACE_MS).await;
    rig.sweep_all(NOW + 2000 + RECEIPT_GRACE_MS).await;
    let told: Vec<_> =
        rig.read(RECEIPTS).await.into_iter().filter(|document| document["status"] == "expired").collect();
    let detail = |id: &str| {
        let document = told.iter().find(|document| document["id"] == id).unwrap_or_else(|| panic!("{id}: {told:?}"));
        assert_eq!((&document["code"], &document["transport"]), (&"EXPIRED".into(), &"ccs".into()), "{id}");
        document["detail"].as_str().unwrap().to_owned()
    };
    assert!(detail("queued").ends_with("before it could be sent"));
    assert!(detail("refused").ends_with("took it (last refused with SERVICE_UNAVAILABLE)"), "{}", detail("refused"));
    let doubt = "took it; it may have arrived all the same (";
    for (id, last) in [
        ("doubtful", "last refused with SERVICE_UNAVAILABLE)"),
        ("unanswered", "no answer to the last try, or none that settles it)"),
    ] {
        assert!(detail(id).ends_with(&format!("{doubt}{last}")), "{}", detail(id));
    }
    assert!(detail("held").ends_with("be sent (last refused with permission_denied)"), "{}", detail("held"));
    assert!(detail("behind").contains("`order`"));
    assert!(detail("sent").starts_with("no word of its delivery"));
    assert!(detail("cut").ends_with("before the push service answered"));
}

#[tokio::test]
async fn what_was_sent_again_at_once_counts_as_tried() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    rig.take(NOW).await;
    rig.record(sid, after(2, retry(NOW + 1)), NOW).await;
    assert_eq!(ids(&rig.take(NOW + 1).await), ["a1"], "its body is still there");
    rig.record(sid, accepted(), NOW + 2).await;
    let told = rig.read(RECEIPTS).await;
    assert_eq!(told.last().map(|document| &document["attempt"]), Some(&4.into()));
}

#[tokio::test]
async fn a_canonical_id_is_told_with_the_status() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    rig.take(NOW).await;
    let canonical = Some(Token::new("the-new-token").unwrap());
    rig.record(sid, back(Fate::Accepted { canonical, provider_id: None, detail: None, can_confirm: true }, 2), NOW)
        .await;
    let sent = rig.read(RECEIPTS).await.pop().unwrap();
    assert_eq!(sent["token_action"], "replace");
    assert_eq!(sent["new_token"], "the-new-token");
    assert_eq!(sent["dup_possible"], true);
    let trace = serde_json::to_string(&rig.inspector().trace("a1").unwrap()).unwrap();
    assert!(trace.contains("canonical_id") && !trace.contains("the-new-token"), "{trace}");
}

#[tokio::test]
async fn rejected_ids_are_not_remembered() {
    let mut rig = Rig::new(Limits::default());
    for again in [false, true] {
        let payload =
            StatusDocument::refused("a1", NOW, "TOO_BIG", "data has 4097 bytes").redelivered(again).to_bytes();
        let note = Note { topic: RECEIPTS.to_owned(), payload: payload.into(), correlation: None, at: NOW };
        rig.store.queue_note(note).await.unwrap().await.unwrap();
    }
    let corrected = rig.new_message("a1");
    assert_eq!(rig.accept(corrected).await, Accepted::Stored);
    let told = rig.read(RECEIPTS).await;
    let told: Vec<_> = told.iter().map(|d| (d["status"].as_str().unwrap(), d.get("redelivered").is_some())).collect();
    assert_eq!(told, [("failed", false), ("failed", true), ("accepted", false)]);
}

#[tokio::test]
async fn unread_notes_are_capped_per_topic() {
    let rig = Rig::new(Limits::default());
    let cap = usize::try_from(NOTES_PER_TOPIC).unwrap();
    for n in 0..cap + 5 {
        let note = Note {
            topic: "bal1/others/errors".to_owned(),
            payload: Bytes::from(n.to_string()),
            correlation: None,
            at: NOW,
        };
        drop(rig.store.queue_note(note).await.unwrap());
    }
    let errors = rig.read("bal1/others/errors").await;
    assert_eq!((errors.len(), &errors[0]), (cap, &Value::from(5)));
    assert_eq!(rig.store.figures().notes_dropped, 5);
}

#[tokio::test]
async fn an_upstream_message_is_taken_once() {
    let mut rig = Rig::new(Limits::default());
    let (first, repeat, other) = (
        rig.upstream("m1", Some(Acks::OnPublish)),
        rig.upstream("m1", Some(Acks::OnPublish)),
        rig.upstream("m2", Some(Acks::OnPublish)),
    );
    assert_eq!(rig.receive(first).await, Received::Stored);
    assert_eq!(rig.receive(repeat.clone()).await, Received::Duplicate);
    assert_eq!(rig.receive(other).await, Received::Stored);
    assert_eq!(rig.store.figures().spool_rows, 2);
    assert_eq!(rig.read(MESSAGES).await.len(), 2);
    let figures = rig.store.figures();
    assert_eq!((figures.spool_rows, figures.spool_bytes), (0, 0));
    let mut rig = rig.crash();
    assert_eq!(rig.receive(repeat).await, Received::Duplicate, "remembered over a crash and after publication");
    rig.sweep_all(NOW + 25 * 3_600_000).await;
    let late = rig.upstream("m1", Some(Acks::OnPublish));
    assert_eq!(rig.receive(late).await, Received::Stored, "the memory has an end");
}

#[tokio::test]
async fn a_full_spool_takes_nothing_but_knows_repeats() {
    let mut rig = Rig::new(Limits { spool_rows: 1, ..Limits::default() });
    let (first, repeat, other) = (rig.upstream("m1", None), rig.upstream("m1", None), rig.upstream("m2", None));
    assert_eq!(rig.receive(first).await, Received::Stored);
    assert_eq!(rig.receive(other).await, Received::Full);
    assert_eq!(rig.receive(repeat).await, Received::Duplicate);
}

#[tokio::test]
async fn messages_without_a_route_wait_for_one() {
    let mut rig = Rig::new(Limits::default());
    for n in 0..450 {
        let mut message = rig.upstream(&format!("m{n}"), None);
        if n == 3 {
            message.category = None;
        }
        drop(rig.store.receive(message).await.unwrap());
    }
    assert_eq!(rig.store.topics_to_publish().await.unwrap().await.unwrap(), Vec::<String>::new());
    let rig = rig.crash();
    let pick = |category: Option<&str>| category.map(|_| route(MESSAGES, Acks::OnPublish));
    assert_eq!(rig.give_routes(200, pick).await, 449);
    assert_eq!(rig.give_routes(200, pick).await, 0);
    assert!(rig.store.topics_with_documents().await.contains(MESSAGES));
    let published = rig.read(MESSAGES).await;
    assert_eq!(published.len(), 449);
    assert_eq!((&published[0]["ccs_id"], &published[3]["ccs_id"]), (&"m0".into(), &"m4".into()), "in order");
    assert_eq!(rig.store.figures().spool_rows, 1);
}

#[tokio::test]
async fn a_message_that_two_processes_route_keeps_the_first_route_and_its_place() {
    let mut rig = Rig::new(Limits::default());
    for id in ["m1", "m2", "m3"] {
        let message = rig.upstream(id, None);
        rig.receive(message).await;
    }
    let routes = |messages: &[Unrouted], topic| {
        messages.iter().map(|message| (message.sid, route(topic, Acks::OnPublish))).collect()
    };
    let give = async |routes| rig.store.give_routes(routes).await.unwrap().await.unwrap();
    // Both look before either of them routes.
    let (one, other) = (rig.unrouted().await, rig.unrouted().await);
    assert_eq!(give(routes(&one[..2], MESSAGES)).await, 2);
    assert_eq!(give(routes(&other, "bal1/others/elsewhere")).await, 1);
    assert_eq!(give(routes(&one[2..], MESSAGES)).await, 0);
    let told = |documents: Vec<Value>| documents.iter().map(|d| d["ccs_id"].clone()).collect::<Vec<_>>();
    assert_eq!(told(rig.read(MESSAGES).await), ["m1", "m2"]);
    assert_eq!(told(rig.read("bal1/others/elsewhere").await), ["m3"]);
    assert_eq!(give(routes(&one, MESSAGES)).await, 0, "nor when it is done");
    assert_eq!(rig.store.figures().spool_rows, 0);
}

#[tokio::test]
async fn after_a_crash_on_the_way_to_the_routes_the_rest_still_waits_for_one() {
    let mut rig = Rig::new(Limits::default());
    for id in ["m1", "m2", "m3"] {
        let message = rig.upstream(id, None);
        rig.receive(message).await;
    }
    let unrouted = rig.unrouted().await;
    let first = vec![(unrouted[0].sid, route(MESSAGES, Acks::OnPublish))];
    assert_eq!(rig.store.give_routes(first).await.unwrap().await.unwrap(), 1);
    let rig = rig.crash();
    assert_eq!(rig.unrouted().await, unrouted[1..]);
    assert_eq!(rig.give_routes(1, |_| Some(route(MESSAGES, Acks::OnPublish))).await, 2);
    let published = rig.read(MESSAGES).await;
    let ids: Vec<_> = published.iter().map(|d| d["ccs_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["m1", "m2", "m3"]);
}

#[tokio::test]
async fn explicit_acks_keep_a_message_until_its_bal_has_it() {
    let mut rig = Rig::new(Limits::default());
    let mut sids = Vec::new();
    for n in 0..4 {
        let message = rig.upstream(&format!("m{n}"), Some(Acks::Explicit));
        sids.push(message.sid);
        rig.receive(message).await;
    }
    let first = rig.next(MESSAGES, 0).await;
    assert!(first.iter().all(|w| !w.redelivered));
    rig.publish(&first).await;
    assert_eq!(rig.next(MESSAGES, first[3].reference.seq).await, [], "not again on the same connection");
    let again = rig.next(MESSAGES, 0).await;
    assert!(again.len() == 4 && again.iter().all(|w| w.redelivered));

    let (bal, other) = (Owner::new("bal1").unwrap(), Owner::new("bal2").unwrap());
    let confirm = async |name| rig.store.confirm(name, vec![sids[0]], NOW).await.unwrap().await.unwrap();
    let kept = || rig.store.figures().spool_rows;
    confirm(&other).await;
    rig.store.acked_up_to(&other, sids[2], NOW).await.unwrap();
    assert_eq!(kept(), 4, "another BAL's word means nothing");
    confirm(&bal).await;
    assert_eq!(kept(), 3);
    confirm(&bal).await;
    assert_eq!(kept(), 3);
    rig.store.acked_up_to(&bal, sids[2], NOW).await.unwrap();
    assert_eq!(kept(), 1);
    let rig = rig.crash();
    assert_eq!(rig.next(MESSAGES, 0).await.len(), 1);
    assert_eq!(rig.store.figures().spool_rows, 1);
}

#[tokio::test]
async fn a_crash_marks_exactly_what_was_read_for_publishing() {
    let mut rig = Rig::new(Limits::default());
    for id in ["a1", "a2", "a3"] {
        let new = rig.new_message(id);
        rig.accept(new).await;
    }
    let waiting = rig.store.next_to_publish(RECEIPTS.into(), 0, 2).await.unwrap().await.unwrap();
    rig.publish(&waiting[..1]).await;
    let rig = rig.crash();
    assert_eq!(rig.recovery.redelivered, 1);
    let marks: Vec<bool> = rig.next(RECEIPTS, 0).await.iter().map(|w| w.redelivered).collect();
    assert_eq!(marks, [true, false]);
}

#[tokio::test]
async fn an_orderly_stop_marks_only_what_may_have_been_seen() {
    let mut rig = Rig::new(Limits::default());
    for id in ["a1", "a2", "a3"] {
        let new = rig.new_message(id);
        rig.accept(new).await;
    }
    let waiting = rig.next(RECEIPTS, 0).await;
    let seen = Seen { topic: RECEIPTS.into(), seq: waiting[1].reference.seq };
    rig.publish(&waiting[..1]).await;
    rig.store.handed_out_up_to(vec![seen]).await.unwrap().await.unwrap();
    let rig = rig.reopen().await;
    let marks: Vec<bool> = rig.next(RECEIPTS, 0).await.iter().map(|w| w.redelivered).collect();
    assert_eq!(marks, [true, false]);
}

#[tokio::test]
async fn document_numbers_never_repeat() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    rig.accept(new).await;
    let before = rig.next(RECEIPTS, 0).await[0].reference.seq;
    rig.statuses().await;
    let mut rig = rig.reopen().await;
    let new = rig.new_message("a2");
    rig.accept(new).await;
    assert!(rig.next(RECEIPTS, 0).await[0].reference.seq > before);
}

#[tokio::test]
async fn what_was_in_flight_at_a_crash_is_due_again_and_marked() {
    let mut rig = Rig::new(Limits::default());
    let mut sids = Vec::new();
    for id in ["a1", "a2"] {
        let new = rig.new_message(id);
        sids.push(new.sid);
        rig.accept(new).await;
    }
    rig.take(NOW).await;
    rig.record(sids[1], retry(NOW + 1000), NOW).await;
    let rig = rig.crash();
    assert_eq!(rig.recovery.crashed, 1);
    assert_eq!(rig.recovery.last_sid, Some(sids[1]));
    let taken = rig.take(NOW).await;
    assert_eq!(ids(&taken), ["a1"]);
    rig.record(sids[0], accepted(), NOW).await;
    let sent = rig.read(RECEIPTS).await.pop().unwrap();
    assert_eq!((&sent["attempt"], &sent["dup_possible"]), (&2.into(), &true.into()));
}

#[tokio::test]
async fn history_is_limited_by_age_and_by_number_and_spares_the_unsettled() {
    let mut rig = Rig::new(Limits { history_rows: 10, ..Limits::default() });
    let mut settle = Vec::new();
    for n in 0..15 {
        let mut new = rig.new_message(&format!("a{n}"));
        new.push().receipt = n != 0;
        settle.push(new.sid);
        rig.accept(new).await;
    }
    rig.take(NOW).await;
    for sid in &settle[1..] {
        rig.record(*sid, accepted(), NOW).await;
        rig.record(*sid, Event::RECEIPT, NOW).await;
    }
    let rig = rig.crash();
    rig.sweep_all(NOW + 1).await;
    assert_eq!(rig.store.figures().history_rows, 10);
    assert!(rig.inspector().trace("a1").unwrap().is_empty(), "the oldest settled one is forgotten");
    assert_eq!(rig.inspector().trace("a0").unwrap().len(), 1, "an older unsettled one is not");
    let statuses = rig.statuses().await;
    assert!(statuses.contains(&"a0 accepted".to_owned()) && !statuses.contains(&"a1 delivered".to_owned()));
    assert_eq!(statuses.len(), 1 + 10 * 3, "the unread statuses of what is forgotten are gone, too");
    rig.sweep_all(NOW + 24 * 3_600_000 + 1).await;
    assert_eq!(rig.store.figures().history_rows, 1, "only a0, which expired just now");
}

#[tokio::test]
async fn operators_read_while_the_bridge_runs() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    let message = rig.upstream("m1", Some(Acks::OnPublish));
    let up_sid = message.sid.to_string();
    rig.receive(message).await;
    rig.take(NOW).await;
    rig.record(sid, retry(NOW + 1000), NOW + 1).await;
    let inspector = rig.inspector();
    let by_id = inspector.trace("a1").unwrap();
    assert_eq!(by_id, inspector.trace(&sid.to_string()).unwrap());
    assert_eq!(by_id, inspector.list(10).unwrap());
    let [Trace::Delivery(life)] = &by_id[..] else { panic!("{by_id:?}") };
    assert_eq!((life.state, life.attempt, life.due_at), (State::Due, 1, Some(NOW + 1000)));
    assert_eq!(life.statuses_unread, 1);
    assert_eq!(life.log[0]["code"], "SERVICE_UNAVAILABLE");
    assert!(matches!(&inspector.trace(&up_sid).unwrap()[..], [Trace::Upstream(up)] if up.kept));
    let counts = inspector.counts().unwrap();
    assert_eq!((counts.deliveries["due"], counts.spool), (1, 1));
    rig.writer_thread.close().await.unwrap();
    assert_eq!(inspector.trace("a1").unwrap(), by_id);
    assert_eq!(Inspector::open(&rig.settings.path).unwrap().trace("a1").unwrap(), by_id, "also when it does not run");
}

#[tokio::test]
async fn closing_finishes_what_is_queued_and_leaves_one_file() {
    let mut rig = Rig::new(Limits::default());
    let mut pending = Vec::new();
    for n in 0..500 {
        let new = rig.new_message(&format!("a{n}"));
        pending.push(rig.store.accept(new).await.unwrap());
    }
    rig.writer_thread.close().await.unwrap();
    for committed in pending {
        assert_eq!(committed.await.unwrap(), Accepted::Stored);
    }
    let wal = rig.dir.path().join("store.db-wal");
    assert!(!wal.exists() || wal.metadata().unwrap().len() == 0);
    assert!(matches!(rig.store.topics_to_publish().await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn due_changes_and_fresh_topics_wake_the_pumps() {
    let mut rig = Rig::new(Limits::default());
    let mut due = rig.store.due();
    due.mark_unchanged();
    let new = rig.new_message("a1");
    rig.accept(new).await;
    assert!(due.has_changed().unwrap());
    assert_eq!(rig.store.topics_with_documents().await.into_iter().collect::<Vec<_>>(), [RECEIPTS]);
    let wait = tokio::time::timeout(Duration::ZERO, rig.store.topics_with_documents());
    assert!(wait.await.is_err(), "each topic is named once per change");
}

#[tokio::test]
async fn a_message_takes_its_place_when_its_turn_comes() {
    let mut rig = Rig::new(Limits::default());
    let mut first = rig.new_message("a1");
    let mut second = rig.new_message("a2");
    let third = rig.new_message("a3");
    let sid = first.sid;
    first.order = Some("k".to_owned());
    first.push().receipt = false;
    second.order = Some("k".to_owned());
    for new in [first, second, third] {
        rig.accept(new).await;
    }
    assert_eq!(ids(&rig.take(NOW).await), ["a1", "a3"], "a3 does not wait for another's order key");
    let fourth = rig.new_message("a4");
    rig.accept(fourth).await;
    rig.record(sid, accepted(), NOW).await;
    assert_eq!(ids(&rig.take(NOW).await), ["a2", "a4"]);
}

#[tokio::test]
async fn each_way_is_handed_out_by_itself() {
    let mut rig = Rig::new(Limits::default());
    let v1 = Transport::parse("fcm-v1").unwrap();
    for (id, transport) in [("a1", Transport::Ccs), ("b1", v1.clone()), ("a2", Transport::Ccs)] {
        let mut new = rig.new_message(id);
        new.push().transport = transport;
        rig.accept(new).await;
    }
    let due = |transport: &Transport| DueQuery {
        transport: transport.clone(),
        now: NOW,
        limit: 9,
        taken_on_accept: 0,
        pipelining: MANY,
    };
    let taken = rig.store.take_due(due(&v1)).await.unwrap().await.unwrap();
    assert_eq!((ids(&taken), taken.next_due), (vec!["b1".to_owned()], None));
    assert_eq!(ids(&rig.take(NOW).await), ["a1", "a2"]);
}

#[tokio::test]
async fn only_what_waits_for_the_word_of_an_app_is_confirmed_by_one() {
    let mut rig = Rig::new(Limits::default());
    let v1 = Transport::parse("fcm-v1:shop").unwrap();
    let (mut over_ccs, mut over_v1) = (rig.new_message("a1"), rig.new_message("b1"));
    (over_ccs.push().transport, over_v1.push().transport) = (Transport::Ccs, v1.clone());
    let (ccs, fcm) = (over_ccs.sid, over_v1.sid);
    rig.accept(over_ccs).await;
    rig.accept(over_v1).await;
    let owner = Owner::new("alice").unwrap();
    let confirm = async |at| rig.store.confirm(&owner, vec![ccs, fcm], at).await.unwrap().await.unwrap();
    assert_eq!(confirm(NOW).await, [(fcm, Recorded::NoEffect)], "it was never sent");
    let query = DueQuery { transport: v1.clone(), now: NOW, limit: 9, taken_on_accept: 0, pipelining: MANY };
    rig.store.take_due(query).await.unwrap().await.unwrap();
    let provider_id = Some("projects/p/messages/1".to_owned());
    let detail = Some("`delay_while_idle`: ignored".to_owned());
    rig.record(fcm, back(Fate::Accepted { canonical: None, provider_id, detail, can_confirm: true }, 1), NOW).await;
    let [(_, Recorded::Moved { told, .. })] = &confirm(NOW + 1).await[..] else { panic!() };
    assert_eq!(*told, [Status::Delivered]);
    let mut told = rig.read(RECEIPTS).await;
    let (delivered, sent) = (told.pop().unwrap(), told.pop().unwrap());
    assert_eq!((&sent["status"], &sent["detail"]), (&"sent".into(), &"`delay_while_idle`: ignored".into()));
    assert_eq!(delivered.get("detail"), None);
    assert_eq!((&delivered["source"], &delivered["transport"]), (&"app".into(), &"fcm-v1".into()));
    assert_eq!(delivered["provider_id"], "projects/p/messages/1");
}

#[tokio::test]
async fn what_has_lost_its_way_goes_by_the_first_of_the_new_ones() {
    let mut rig = Rig::new(Limits::default());
    let mut new = rig.new_message("a1");
    new.push().transport = Transport::parse("fcm-v1:gone").unwrap();
    rig.accept(new).await;
    let rig = rig.reopen().await;
    assert_eq!(rig.recovery.rerouted, 1);
    assert_eq!(ids(&rig.take(NOW).await), ["a1"]);
}

#[tokio::test]
async fn what_an_answer_brings_after_the_word_of_the_app_is_kept_for_who_asks_later() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    rig.take(NOW).await;
    rig.record(sid, Event::RECEIPT, NOW + 1).await;
    assert_eq!(rig.statuses().await, ["a1 accepted", "a1 sent", "a1 delivered"]);
    let (provider_id, detail) = (Some("projects/p/messages/1".to_owned()), Some("`x`: unknown".to_owned()));
    let late = after(1, back(Fate::Accepted { canonical: None, provider_id, detail, can_confirm: true }, 1));
    assert_eq!(rig.record(sid, late, NOW + 2).await, Recorded::NoEffect);
    let again = rig.new_message("a1");
    assert_eq!(rig.accept(again).await, Accepted::Repeated(Status::Delivered));
    let told = rig.read(RECEIPTS).await;
    assert_eq!((&told[0]["provider_id"], &told[0]["attempt"]), (&"projects/p/messages/1".into(), &2.into()));
    assert_eq!(told.len(), 1);
}

#[tokio::test]
async fn what_nobody_can_confirm_is_settled_when_it_is_sent_and_stays_so() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    rig.take(NOW).await;
    let fate = Fate::Accepted { canonical: None, provider_id: None, detail: None, can_confirm: false };
    rig.record(sid, back(fate, 1), NOW + 1).await;
    assert_eq!(rig.statuses().await, ["a1 accepted", "a1 sent"]);
    let rig = rig.reopen().await;
    assert_eq!(rig.record(sid, Event::RECEIPT, NOW + 2).await, Recorded::NoEffect);
    rig.store.sweep(NOW + 3_000_000_000).await.unwrap().await.unwrap();
    assert_eq!(rig.statuses().await, [] as [&str; 0]);
}

#[tokio::test]
async fn the_log_has_every_attempt_and_what_held_a_message_once_with_how_often() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    for at in [0, 10, 20] {
        rig.take(NOW + at).await;
        let held = Fate::Deferred { wait: Duration::from_millis(5), why: "240/min of this device".into() };
        rig.record(sid, back(held, 0), NOW + at + 1).await;
    }
    rig.take(NOW + 100_000).await;
    let wait = Wait::AtLeast(Duration::from_millis(7));
    let decision = Decision::Retry { wait, until: Until::Deadline, scope: Scope::Message };
    rig.record(sid, back(Fate::Refused(Refusal::new(decision, "X", "busy")), 1), NOW + 100_002).await;
    let Trace::Delivery(life) = rig.inspector().trace("a1").unwrap().remove(0) else { panic!() };
    let log = life.log.as_array().unwrap();
    assert_eq!(log.len(), 2, "{log:?}");
    assert_eq!((&log[0]["event"], &log[0]["why"]), (&"held".into(), &"240/min of this device".into()));
    assert_eq!((&log[0]["times"], &log[0]["at"], &log[0]["until"]), (&3.into(), &(NOW + 1).into(), &(NOW + 21).into()));
    assert_eq!((&log[1]["from"], &log[1]["attempt"]), (&(NOW + 100_000).into(), &1.into()));
    assert_eq!((&log[1]["code"], &log[1]["detail"]), (&"X".into(), &"busy".into()));
}

#[tokio::test]
async fn delivered_says_when_the_push_service_handed_the_message_over() {
    let mut rig = Rig::new(Limits::default());
    let new = rig.new_message("a1");
    let sid = new.sid;
    rig.accept(new).await;
    rig.take(NOW).await;
    rig.record(sid, Event::Receipt { handed_over_ms: Some(NOW - 5) }, NOW + 1).await;
    let told = rig.read(RECEIPTS).await;
    let times: Vec<_> = told.iter().map(|status| status.get("device_ts").cloned()).collect();
    assert_eq!(times, [None, None, Some((NOW - 5).into())]);
}
