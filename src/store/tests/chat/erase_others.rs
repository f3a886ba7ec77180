//! A person is erased, and what is others' stays, whatever the names and tokens of that person are.

use super::super::sessions::{ask, put, said};
use super::*;
use crate::chat::push::Target;
use crate::chat::suffix::invitations::Invitation;

const OF_OTHERS: [&str; 4] = [
    "SELECT count(*) FROM deliveries WHERE bal NOT IN ('mallory', 'text')",
    "SELECT count(*) FROM outbox WHERE topic NOT LIKE 'mallory/%' AND topic NOT LIKE 'text/%'",
    "SELECT count(*) FROM queue",
    "SELECT count(*) FROM chat",
];

impl Chat {
    /// A push of a BAL to a token that is nobody's.
    async fn push_of_bal(&mut self, id: &str, token: &str) -> Sid {
        let body = json!({ "target": { "token": token }, "data": { "body": "text", "status": "id" }, "priority": "high", "receipt": true });
        let mut new = NewMessage { body: body.to_string().into(), ..self.rig.new_message(id) };
        new.push().recipient = Target::Token(Token::new(token).unwrap()).recipient();
        let sid = new.sid;
        assert_eq!(self.rig.accept(new).await, Accepted::Stored);
        sid
    }

    async fn session_of(&self, user: &str) -> QueueId {
        let (key, client) = (format!("{user}:web"), format!("{user}:web"));
        let record = SessionRecord { key, user: Some(user.to_owned()), client, expiry_s: 3600, login: None };
        ask!(self.rig, keep_session, record, None)
    }

    fn counts(&self) -> [i64; 4] {
        OF_OTHERS.map(|sql| self.count(sql))
    }

    async fn invite_from(&mut self, from: &str, to: &str, document: Value) -> (Sid, ChatOutcome) {
        let mut document = document;
        document["to"] = to.into();
        let invitation = Invitation::parse(document.to_string().as_bytes(), &PayloadLimits::default()).unwrap();
        let sid = self.rig.sids.next(self.at, 0);
        let new = NewInvitation { sid, from: writer(from), to: peer(to, &[]), invitation };
        let call = self.call();
        (sid, ask!(self.rig, chat_invite, new, call))
    }
}

#[tokio::test]
async fn whatever_a_user_calls_devices_and_itself_nothing_of_others_goes() {
    let mut chat = Chat::of(&["alice", "bob", "mallory", "text"]).await;
    chat.register("bob", "phone", "T1").await;
    for (dev, token) in [("a", "data"), ("b", "sid"), ("c", "id"), ("d", "status"), ("e", "bob")] {
        chat.register("mallory", dev, token).await;
    }
    chat.push_of_bal("b1", "T9").await;
    chat.write("alice", "bob", "text").await;
    chat.send(writer("alice"), peer("bob", &[]), &json!({"to": "bob", "body": "mallory", "mine": "text"})).await;
    let bobs = chat.session_of("bob").await;
    let copy = said("bob/others/messages", &json!({"from": "alice", "to": "bob", "body": "mallory"}).to_string());
    let own = said("bob/self/notes", &json!({"from": "mallory", "token": "data"}).to_string());
    ask!(chat.rig, enqueue, put(&copy, &[bobs]));
    ask!(chat.rig, enqueue, put(&own, &[bobs]));
    let before = chat.counts();
    chat.erase("mallory").await;
    chat.erase("text").await;
    assert_eq!(chat.counts(), before);
    assert_eq!(chat.rig.texts_of(bobs).await.len(), 2);
    let pushed: Vec<String> = chat.pushes().await.into_iter().map(|push| push.token).collect();
    assert_eq!(pushed, ["T9", "T1", "T1"], "each as if nobody had been erased");
}

#[tokio::test]
async fn what_others_wrote_that_waits_has_the_other_name_and_its_own_text() {
    let mut chat = Chat::of(&["alice", "bob", "anna"]).await;
    let document = json!({"to": "bob", "body": "anna", "mentions": ["anna"], "mine": "anna"});
    chat.send(writer("alice"), peer("bob", &[]), &document).await;
    chat.write("alice", "anna", "hello").await;
    chat.write("anna", "bob", "secret").await;
    let bobs = chat.session_of("bob").await;
    let also = chat.session_of("alice").await;
    let copy = json!({"from": "alice", "to": "anna", "type": "text", "body": "anna"});
    ask!(chat.rig, enqueue, put(&said("bob/others/messages", &copy.to_string()), &[bobs, also]));
    ask!(chat.rig, enqueue, put(&said("bob/others/read", r#"{"with":"anna","unread":0}"#), &[bobs]));
    let page = json!({"ref": "r1", "items": [{"from": "anna", "body": "secret"}]});
    ask!(chat.rig, enqueue, put(&said("bob/others/replies/web", &page.to_string()), &[bobs]));
    let alias = chat.erase("anna").await.alias;
    let told = chat.told("bob", "messages").await;
    let [message] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (&message["body"], &message["mentions"], &message["mine"]),
        (&json!("anna"), &json!([alias]), &json!("anna"))
    );
    let own = chat.told("alice", "messages").await;
    let read: Vec<_> = own.iter().map(|copy| (copy["to"].as_str().unwrap(), copy["body"].as_str().unwrap())).collect();
    assert_eq!(read, [("bob", "anna"), (&*alias, "hello")]);
    let rows: Vec<Value> =
        chat.rig.texts_of(bobs).await.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let expected =
        [json!({"from": "alice", "to": alias, "type": "text", "body": "anna"}), json!({"with": alias, "unread": 0})];
    assert_eq!(rows, expected);
    let other: Value = serde_json::from_str(&chat.rig.texts_of(also).await[0]).unwrap();
    assert_eq!(other, expected[0], "of a body that two queues have as well");
}

#[tokio::test]
async fn pushes_of_others_that_are_in_flight_hold_up_no_erase() {
    let mut chat = Chat::of(&["alice", "bob", "mallory"]).await;
    chat.register("bob", "phone", "T1").await;
    chat.register("mallory", "phone", "data").await;
    chat.push_of_bal("b1", "T9").await;
    chat.write("alice", "bob", "hello").await;
    assert_eq!(chat.claim(chat.at).await.len(), 2, "both are with the push service");
    // It asserts that the erase comes to its end.
    chat.erase("mallory").await;
}

#[tokio::test]
async fn a_kill_after_the_last_part_of_an_erase_loses_not_the_rebuild() {
    let mut chat = Chat::of(&["alice", "xylophone-user"]).await;
    chat.write("xylophone-user", "alice", "zebra text").await;
    chat.erase("xylophone-user").await;
    let chat = chat.crash().await;
    assert_eq!(chat.found(&["xylophone-user", "zebra text"]), []);
}

#[tokio::test]
async fn what_an_erased_user_had_under_way_is_not_written() {
    let mut chat = Chat::of(&["alice", "eve"]).await;
    let (invited, _) = chat.invite_from("eve", "alice", json!({"id": "i1", "type": "request"})).await;
    chat.erase("eve").await;
    let before = chat.counts();
    let refused = chat.send(writer("eve"), peer("alice", &[]), &json!({"to": "alice", "body": "late"})).await.1;
    assert_eq!(code(&refused), Some(ErrorCode::Forbidden));
    let refused = chat.invite_from("eve", "alice", json!({"id": "i2", "type": "request"})).await.1;
    assert_eq!(code(&refused), Some(ErrorCode::Forbidden));
    let refused = chat.invite_from("alice", "eve", json!({"type": "accept", "ref": invited.to_string()})).await.1;
    assert_eq!(code(&refused), Some(ErrorCode::NotFound));
    let refused = chat.signals(writer("eve"), peer("alice", &[]), &json!({"type": "offer"})).await.1;
    assert_eq!(code(&refused), Some(ErrorCode::Forbidden));
    assert_eq!(code(&chat.register("eve", "phone", "T1").await), Some(ErrorCode::Forbidden));
    chat.read("eve", "alice", invited).await;
    for change in
        [SettingChange::Writers(Writers::Contacts), SettingChange::About(owner("alice"), EntryChange::Block(true))]
    {
        let refused = ask!(chat.rig, chat_set, owner("eve"), change, Bytes::from("{}"), NOW);
        assert_eq!(refused.unwrap_err().code(), ErrorCode::Forbidden);
    }
    let note = |topic: &str| Note { topic: topic.to_owned(), payload: Bytes::from("{}"), correlation: None, at: NOW };
    ask!(chat.rig, queue_note, note("eve/others/errors"));
    let document =
        UserDocument { topic: "eve/others/replies/web".to_owned(), copy_of: None, payload: Bytes::from("{}"), at: NOW };
    ask!(chat.rig, queue_user_document, document);
    assert_eq!(chat.counts(), before);
    let named = [
        "SELECT count(*) FROM users WHERE user = 'eve'",
        "SELECT count(*) FROM devices",
        "SELECT count(*) FROM contacts WHERE user = 'eve' OR other = 'eve'",
        "SELECT count(*) FROM outbox WHERE topic LIKE 'eve/%'",
        "SELECT count(*) FROM calls",
    ];
    assert_eq!(named.map(|sql| chat.count(sql)), [0; 5]);
}

#[tokio::test]
async fn what_is_to_be_sent_to_an_erased_user_fails_at_its_time_and_is_told() {
    let mut chat = Chat::of(&["alice", "eve"]).await;
    let not_before = chat.at + DAY;
    for (from, to, id) in [("alice", "eve", "m1"), ("eve", "alice", "m2")] {
        let later = json!({"id": id, "to": to, "body": "later", "not_before": not_before});
        assert_eq!(chat.send(writer(from), peer(to, &[]), &later).await.1, ChatOutcome::Scheduled);
    }
    let erasure = chat.erase("eve").await;
    assert_eq!(erasure.kept["messages of others to be sent later that name the person"], 1);
    assert_eq!(chat.rig.store.figures().chat_scheduled, 1, "hers is gone");
    chat.forget("alice").await;
    chat.at = not_before;
    chat.send_due().await;
    let told = chat.told("alice", "receipts").await;
    let [failed] = &told[..] else { panic!("{told:?}") };
    assert_eq!(
        (&failed["id"], &failed["status"], &failed["code"]),
        (&json!("m1"), &json!("failed"), &json!("NOT_FOUND"))
    );
    assert_eq!(chat.rig.store.figures().chat_scheduled, 0);
    assert_eq!(chat.count("SELECT count(*) FROM scheduled"), 0);
}

#[tokio::test]
async fn a_call_with_an_erased_user_ends_for_the_other_side() {
    for (caller, callee, outcome) in [("eve", "bob", "cancelled"), ("bob", "eve", "rejected")] {
        let mut chat = Chat::of(&["bob", "eve"]).await;
        chat.register("bob", "phone", "T1").await;
        chat.signals(writer(caller), peer(callee, &[]), &json!({"type": "offer"})).await;
        chat.pushes().await;
        chat.forget("bob").await;
        let alias = chat.erase("eve").await.alias;
        let told = chat.told("bob", "calls").await;
        let [end] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&end["type"], &end["call"], &end["outcome"]), (&json!("end"), &json!("c1"), &json!(outcome)));
        let (from, to) = if caller == "eve" { (&*alias, "bob") } else { ("bob", &*alias) };
        assert_eq!((&end["from"], &end["to"]), (&json!(from), &json!(to)));
        let cleared = chat.pushes().await;
        let cleared = whats(&cleared);
        assert_eq!(cleared, if caller == "eve" { vec![("T1", "clear")] } else { vec![] }, "it rings no longer");
        assert_eq!(chat.count("SELECT count(*) FROM calls"), 0);
    }
}
