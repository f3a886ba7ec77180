//! What both sides of a conversation get of what is written in it.

use super::*;

#[tokio::test]
async fn the_central_scene() {
    let mut chat = Chat::of_two().await;
    let profile = json!({ "name": "Alice" }).to_string();
    chat.rig.store.chat_profile(owner("alice"), Some(profile)).await.unwrap().await.unwrap();
    chat.register("bob", "phone", "T1").await;
    chat.forget("bob").await;
    let written = json!({ "id": "m1", "to": "bob", "body": "hi" });
    let (sid, outcome) = chat.send(writer("alice"), peer("bob", &[]), &written).await;
    assert_eq!(outcome, ChatOutcome::Done { seen: Vec::new(), stranger: false, waits: false, confirmed: Vec::new() });
    let s1 = sid.to_string();
    let at = chat.at;
    let copy =
        json!({ "id": "m1", "sid": s1, "n": 4, "ts": at, "from": "alice", "to": "bob", "type": "text", "body": "hi" });
    let mut own = copy.clone();
    own["dev"] = json!("phone");
    assert_eq!(chat.told("alice", "messages").await, [own]);
    assert_eq!(chat.told("bob", "messages").await, [copy], "no device of the writer's is named to others");
    let receipt = |status: &str, at: u64| json!({ "id": "m1", "sid": s1, "status": status, "ts": at });
    assert_eq!(chat.told("alice", "receipts").await, [receipt("sent", at)]);
    let pushes = chat.pushes().await;
    assert_eq!(whats(&pushes), [("T1", "message")]);
    assert_eq!(
        pushes[0].push["data"],
        json!({ "type": "message", "account": "bob", "with": "alice", "sid": s1, "title": "Alice", "body": "hi",
            "ts": at.to_string(), "unread": "1" })
    );

    chat.receipt(received("bob", &[sid])).await;
    assert_eq!(chat.told("alice", "receipts").await, [receipt("delivered", chat.at)]);
    let web = NewReceipt { dev: Some(device("web")), connected: devices(&["web"]), ..received("bob", &[]) };
    chat.receipt(NewReceipt { read: true, of: ReceiptOf::In(owner("alice"), sid), ..web }).await;
    assert_eq!(chat.told("bob", "read").await, [json!({ "with": "alice", "sid": s1, "unread": 0 })]);
    let pushes = chat.pushes().await;
    assert_eq!(whats(&pushes), [("T1", "clear")]);
    let clear = json!({ "type": "clear", "account": "bob", "with": "alice", "sid": s1, "unread": "0" });
    assert_eq!(pushes[0].push["data"], clear);
    let mut read = receipt("read", chat.at);
    read["up_to"] = json!(true);
    assert_eq!(chat.told("alice", "receipts").await, [read]);
}

#[tokio::test]
async fn a_repetition_goes_to_its_writer_alone_and_is_marked() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    chat.register("bob", "phone", "T1").await;
    let written = json!({ "id": "m1", "to": "bob", "body": "hi", "dev": "phone" });
    let (sid, _) = chat.send(writer("alice"), peer("bob", &[]), &written).await;
    for user in ["alice", "bob"] {
        chat.forget(user).await;
    }
    assert_eq!(chat.pushes().await.len(), 1);
    chat.at += 2 * DAY;
    let again = json!({ "body": "hi", "to": "bob", "id": "m1", "dev": "laptop" });
    let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &again).await;
    assert_eq!(outcome, ChatOutcome::Repeated);
    let copies = chat.told("alice", "messages").await;
    assert_eq!((copies.len(), &copies[0]["sid"], &copies[0]["n"]), (1, &json!(sid.to_string()), &json!(1)));
    assert_eq!(copies[0]["redelivered"], true);
    assert_eq!((chat.told("bob", "messages").await.len(), chat.told("alice", "receipts").await.len()), (0, 0));

    let (_, other) =
        chat.send(writer("alice"), peer("bob", &[]), &json!({"id": "m1", "to": "bob", "body": "ho"})).await;
    assert_eq!(code(&other), Some(ErrorCode::Duplicate));
    let (_, elsewhere) =
        chat.send(writer("alice"), peer("alice", &[]), &json!({"id": "m1", "to": "alice", "body": "hi"})).await;
    assert_eq!(code(&elsewhere), Some(ErrorCode::Duplicate));
    let (theirs, outcome) =
        chat.send(writer("bob"), peer("alice", &[]), &json!({"id": "m1", "to": "alice", "body": "hi"})).await;
    assert!(matches!(outcome, ChatOutcome::Done { .. }), "ids of two users have nothing to do with each other");
    let sids: Vec<_> = chat.told("alice", "messages").await.iter().map(|copy| copy["sid"].clone()).collect();
    assert_eq!(sids, [json!(theirs.to_string())]);
    assert!(chat.pushes().await.is_empty());
    assert_eq!(chat.rig.store.figures().chat_rows, 2);
}

#[tokio::test]
async fn nobody_is_not_written_to_and_nothing_is_said_of_other_conversations() {
    let mut chat = Chat::of(&["alice", "bob", "carol"]).await;
    let (_, outcome) = chat.send(writer("alice"), peer("dave", &[]), &json!({ "to": "dave", "body": "hi" })).await;
    assert_eq!(code(&outcome), Some(ErrorCode::NotFound));
    let admin = Peer { role: Some(Role::Admin), ..peer("root", &[]) };
    let (_, outcome) = chat.send(writer("alice"), admin, &json!({ "to": "root", "body": "hi" })).await;
    assert_eq!(code(&outcome), Some(ErrorCode::NotFound));
    // The operator has added him; nobody has logged in as him yet.
    let eve = Peer { role: Some(Role::User), ..peer("eve", &[]) };
    let (_, outcome) = chat.send(writer("alice"), eve, &json!({ "to": "eve", "body": "hi" })).await;
    assert!(matches!(outcome, ChatOutcome::Done { stranger: true, .. }), "{outcome:?}");

    let with_carol = chat.write("alice", "carol", "psst").await;
    let about = |sid: Sid| json!({ "to": "bob", "body": "look", "reply_to": sid.to_string() });
    let unknown = chat.rig.sid();
    for sid in [with_carol, unknown] {
        let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &about(sid)).await;
        assert_eq!(code(&outcome), Some(ErrorCode::NotFound));
    }
    let sid = chat.write("bob", "alice", "hi").await;
    let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &about(sid)).await;
    assert!(matches!(outcome, ChatOutcome::Done { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_block_is_not_betrayed_and_leaves_no_hole_and_brings_nothing_later() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    let seen = chat.block("bob", "alice", true).await;
    let both = |visible| {
        [("alice", "bob"), ("bob", "alice")].map(|(who, of)| Seeing { watcher: owner(who), of: owner(of), visible })
    };
    assert_eq!(seen, both(false));
    chat.forget("bob").await;
    let swallowed = chat.write("alice", "bob", "1").await;
    chat.write("alice", "bob", "2").await;
    let told = chat.told("alice", "receipts").await;
    assert!(told.iter().all(|receipt| receipt["status"] == "sent") && told.len() == 2, "{told:?}");
    let places = |documents: &[Value]| documents.iter().map(|d| d["n"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(places(&chat.told("alice", "messages").await), [4, 5]);
    assert_eq!(chat.receipt(received("bob", &[swallowed])).await, refused_receipt());
    let unblocked = chat.block("bob", "alice", false).await;
    assert_eq!(unblocked, both(true));
    assert!(chat.told("bob", "messages").await.is_empty() && chat.pushes().await.is_empty());

    chat.write("alice", "bob", "3").await;
    chat.write("bob", "alice", "4").await;
    assert_eq!(places(&chat.told("bob", "messages").await), [4, 5]);
    assert_eq!(places(&chat.told("alice", "messages").await), [6, 7]);
    let bodies = |page: SyncPage| -> Vec<String> {
        let body = |item: &Bytes| serde_json::from_slice::<Value>(item).unwrap()["body"].as_str().unwrap().to_owned();
        page.items.iter().map(body).collect()
    };
    let page = chat.rig.store.chat_sync(owner("bob"), None).await.unwrap().await.unwrap();
    assert_eq!(bodies(page), ["are you there", "yes", "fine", "3", "4"]);
}

fn refused_receipt() -> ChatOutcome {
    let detail = "a `sid` is that of no message that went to this user";
    ChatOutcome::Refused(Rejection::new(ErrorCode::NotFound, detail))
}

#[tokio::test]
async fn whoever_takes_contacts_only_refuses_strangers_and_not_those_written_to() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    chat.set("bob", SettingChange::Writers(Writers::Contacts)).await;
    let hi = json!({ "id": "m1", "to": "bob", "body": "hi" });
    let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &hi).await;
    let ChatOutcome::Refused(rejection) = outcome else { panic!("{outcome:?}") };
    assert_eq!((rejection.code(), rejection.ref_id().unwrap().as_str()), (ErrorCode::Forbidden, "m1"));
    chat.block("bob", "alice", true).await;
    let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &hi).await;
    assert_eq!(code(&outcome), Some(ErrorCode::Forbidden), "as if she were not blocked");
    chat.block("bob", "alice", false).await;
    assert_eq!(chat.rig.store.figures().chat_rows, 0);

    let (_, by_bal) = chat.send(bal("shop"), peer("bob", &[]), &json!({ "to": "bob", "body": "sale" })).await;
    assert!(matches!(by_bal, ChatOutcome::Done { stranger: false, .. }), "{by_bal:?}");
    let (_, outcome) = chat.send(writer("bob"), peer("alice", &[]), &json!({ "to": "alice", "body": "hi" })).await;
    let seeing = Seeing { watcher: owner("alice"), of: owner("bob"), visible: true };
    assert_eq!(outcome, ChatOutcome::Done { seen: vec![seeing], stranger: true, waits: false, confirmed: Vec::new() });
    let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &hi).await;
    assert!(matches!(outcome, ChatOutcome::Done { stranger: false, .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_message_to_a_bal_arrives_as_one_of_a_device_does() {
    let mut chat = Chat::of(&["alice"]).await;
    let shop = || Peer { role: Some(Role::Bal), ..peer("shop", &[]) };
    let written = json!({ "id": "m1", "to": "shop", "data": { "n": 1 } });
    let (sid, outcome) = chat.send(writer("alice"), shop(), &written).await;
    assert_eq!(outcome, ChatOutcome::Done { seen: Vec::new(), stranger: false, waits: false, confirmed: Vec::new() });
    let waiting = chat.rig.next("shop/others/messages", 0).await;
    let got: Value = serde_json::from_slice(&waiting[0].payload).unwrap();
    let s1 = sid.to_string();
    assert_eq!(
        got,
        json!({ "id": s1, "sid": s1, "n": 1, "ts": chat.at, "from": "alice", "dev": "phone", "to": "shop", "type": "text",
            "data": { "n": 1 } })
    );
    assert_eq!(waiting[0].reference.origin, Origin::UpstreamToAck(sid));
    assert_eq!(statuses(&chat.told("alice", "receipts").await), [(s1.as_str(), "sent")]);
    assert_eq!(chat.told("alice", "messages").await[0]["id"], "m1");
    let (_, again) = chat.send(writer("alice"), shop(), &written).await;
    assert_eq!((again, chat.rig.store.figures().spool_rows), (ChatOutcome::Repeated, 1));

    chat.rig.store.acked_up_to(&owner("shop"), sid, chat.at).await.unwrap();
    assert_eq!(statuses(&chat.told("alice", "receipts").await), [(s1.as_str(), "delivered")]);
    chat.rig.store.acked_up_to(&owner("shop"), sid, chat.at).await.unwrap();
    assert!(chat.told("alice", "receipts").await.is_empty());

    let (answer, _) =
        chat.send(bal("shop"), peer("alice", &[]), &json!({ "id": "b1", "to": "alice", "body": "ok" })).await;
    assert_eq!(chat.told("alice", "messages").await.iter().filter(|copy| copy["from"] == "shop").count(), 1);
    assert!(chat.told("shop", "messages").await.is_empty(), "its own messages do not come back");
    chat.receipt(received("alice", &[answer])).await;
    chat.read("alice", "shop", answer).await;
    let told = chat.told("shop", "receipts").await;
    let told: Vec<_> = statuses(&told).into_iter().map(|(_, status)| status).collect();
    assert_eq!(told, ["accepted", "sent", "delivered", "read"]);
}

#[tokio::test]
async fn a_note_to_oneself_is_one_copy_and_no_push() {
    let mut chat = Chat::of(&["alice"]).await;
    chat.register("alice", "tablet", "T1").await;
    let sid = chat.write("alice", "alice", "milk").await;
    assert_eq!(chat.told("alice", "messages").await.len(), 1);
    assert!(chat.pushes().await.is_empty());
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'alice'"), 0);
    assert_eq!(chat.receipt(received("alice", &[sid])).await, refused_receipt());
}

#[tokio::test]
async fn writing_in_a_conversation_reads_it() {
    let mut chat = Chat::of_two().await;
    let last = chat.write("bob", "alice", "1").await;
    let last = [last, chat.write("bob", "alice", "2").await][1];
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'alice'"), 2);
    chat.forget("bob").await;
    chat.write("alice", "bob", "3").await;
    let read = json!({ "with": "bob", "sid": last.to_string(), "unread": 0 });
    assert_eq!(chat.told("alice", "read").await, [read]);
    let receipts = chat.told("bob", "receipts").await;
    let last = last.to_string();
    assert_eq!(statuses(&receipts), [(last.as_str(), "delivered"), (last.as_str(), "read")]);
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'alice'"), 0);
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 1);
}

#[tokio::test]
async fn a_crash_loses_nothing_and_doubles_nothing_without_a_mark() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    let written = json!({ "id": "m1", "to": "bob", "body": "hi" });
    let (sid, _) = chat.send(writer("alice"), peer("bob", &[]), &written).await;
    // Handed to the broker and to the push service, and nobody knows what became of it.
    chat.rig.next("bob/others/messages", 0).await;
    assert_eq!(chat.claim(chat.at).await.len(), 1);
    let mut chat = chat.crash().await;
    assert!(chat.rig.recovery.last_sid >= Some(sid) && chat.rig.recovery.crashed == 1);
    let copies = chat.rig.next("bob/others/messages", 0).await;
    assert_eq!(copies.iter().map(|copy| copy.redelivered).collect::<Vec<_>>(), [true]);
    let claimed = chat.rig.take_by(chat.at, 10, MANY).await.claimed;
    assert_eq!(claimed.iter().map(|push| push.life.dup_possible).collect::<Vec<_>>(), [true]);
    let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &written).await;
    assert_eq!(outcome, ChatOutcome::Repeated);
    let copies = chat.told("alice", "messages").await;
    let marks: Vec<_> = copies.iter().map(|copy| copy["redelivered"].as_bool().unwrap_or(false)).collect();
    assert_eq!(marks, [false, true]);
    let mut chat = Chat { rig: chat.rig.reopen().await, ..chat };
    assert_eq!(chat.rig.store.figures().chat_rows, 4);
    assert_eq!(
        chat.receipt(received("bob", &[sid])).await,
        ChatOutcome::Done { seen: vec![], stranger: false, waits: false, confirmed: vec![sid] }
    );
}

#[tokio::test]
async fn who_may_write_to_no_more_strangers_hears_the_same_of_all_of_them() {
    let mut chat = Chat::of_two().await;
    chat.rig.store.chat_user_seen(owner("eve")).await.unwrap().await.unwrap();
    let eve = |strangers| Writer { strangers, ..writer("eve") };
    let to = |name: &str| (peer(name, &[]), json!({ "to": name, "body": "hi" }));
    for blocked in [false, true] {
        let change = SettingChange::About(owner("eve"), EntryChange::Block(blocked));
        let told = chat.rig.store.chat_set(owner("bob"), change, "{}".into(), chat.at);
        told.await.unwrap().await.unwrap().unwrap();
        for name in ["bob", "nobody"] {
            let (peer, document) = to(name);
            let (_, outcome) = chat.send(eve(false), peer, &document).await;
            assert_eq!(code(&outcome), Some(ErrorCode::RateLimited), "{name}, {blocked}");
        }
        let (peer, document) = to("bob");
        let (_, outcome) = chat.send(eve(true), peer, &document).await;
        assert!(
            matches!(outcome, ChatOutcome::Done { stranger: true, .. }),
            "a block changes nothing of it: {outcome:?}"
        );
    }
    let alice = Writer { strangers: false, ..writer("alice") };
    let (peer, document) = to("bob");
    let (_, outcome) = chat.send(alice, peer, &document).await;
    assert!(matches!(outcome, ChatOutcome::Done { stranger: false, .. }), "{outcome:?}");
}
