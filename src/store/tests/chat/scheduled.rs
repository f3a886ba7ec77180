//! Messages that are to be sent at a time.

use super::*;
use crate::chat::group::{GroupChange, Post, SettingsChange};
use crate::store::{GroupOutcome, NewGroupMessage};

impl Chat {
    /// Alice writes to bob, to be sent so much later.
    async fn schedule(&mut self, id: &str, later: u64, more: &Value) -> ChatOutcome {
        let not_before = self.at + later;
        self.schedule_at(id, not_before, more).await
    }

    async fn schedule_at(&mut self, id: &str, not_before: u64, more: &Value) -> ChatOutcome {
        let mut written = json!({ "id": id, "to": "bob", "body": format!("body {id}"), "not_before": not_before });
        written.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        self.send(writer("alice"), peer("bob", &[]), &written).await.1
    }

    /// Sends what is due, as the bridge does.
    pub(in crate::store::tests) async fn send_due(&mut self) -> Vec<(Sid, ChatOutcome)> {
        self.at += 1;
        let due = self.rig.store.chat_scheduled_due(self.at, 100, HashSet::new()).await.unwrap().await.unwrap();
        let mut outcomes = Vec::new();
        for waiting in due {
            outcomes.push(self.send_one(waiting).await);
        }
        outcomes
    }

    async fn send_one(&mut self, waiting: ScheduledMessage) -> (Sid, ChatOutcome) {
        let limits = PayloadLimits::default();
        let sender = crate::chat::message::Sender::User;
        let message = UserMessage::parse(sender, &waiting.document, &limits).unwrap();
        let (from, to) = (writer(waiting.writer.as_str()), peer(message.to.as_str(), &[]));
        let sid = self.rig.sids.next(self.at, 0);
        let new = NewChatMessage { sid, from, to, message, deadline_ms: self.at + waiting.ttl_ms, route: None };
        let call = self.call();
        (sid, self.rig.store.chat_send_scheduled(waiting.sid, new, call).await.unwrap().await.unwrap())
    }

    async fn cancel(&self, id: &str) -> bool {
        self.cancel_of("alice", id).await
    }

    pub(in crate::store::tests) async fn cancel_of(&self, user: &str, id: &str) -> bool {
        let id = MessageId::new(id).unwrap();
        self.rig.store.chat_cancel(owner(user), Role::User, id, self.at).await.unwrap().await.unwrap()
    }

    fn waiting(&self) -> i64 {
        let waiting = self.count("SELECT count(*) FROM scheduled");
        assert_eq!(self.rig.store.figures().chat_scheduled, waiting as u64);
        waiting
    }

    async fn next(&self) -> Option<u64> {
        self.rig.store.chat_scheduled_next().await.unwrap().await.unwrap()
    }
}

#[tokio::test]
async fn a_message_is_sent_when_its_time_comes_once_and_not_before_across_a_crash() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T").await;
    let not_before = chat.at + DAY;
    assert_eq!(chat.schedule_at("m1", not_before, &json!({})).await, ChatOutcome::Scheduled);
    let told = chat.told("alice", "receipts").await;
    assert_eq!(told, [json!({ "id": "m1", "status": "scheduled", "not_before": not_before, "ts": told[0]["ts"] })]);
    assert!(chat.told("alice", "messages").await.is_empty() && chat.told("bob", "messages").await.is_empty());
    assert!(chat.send_due().await.is_empty(), "not before");
    assert_eq!(chat.next().await, Some(not_before));
    let mut chat = chat.crash().await;
    chat.at = not_before;
    let [(_, ChatOutcome::Done { .. })] = chat.send_due().await[..] else { panic!() };
    let (own, theirs) = (chat.told("alice", "messages").await, chat.told("bob", "messages").await);
    assert_eq!((&own[0]["id"], &own[0]["dev"], own[0].get("not_before")), (&json!("m1"), &json!("phone"), None));
    assert!(own[0]["ts"].as_u64().unwrap() >= not_before);
    assert_eq!((theirs.len(), &theirs[0]["n"], &theirs[0]["sid"]), (1, &json!(4), &own[0]["sid"]));
    assert_eq!(chat.told("alice", "receipts").await[0]["status"], "sent");
    assert_eq!(chat.pushes().await.len(), 1);
    let mut chat = chat.crash().await;
    assert!(chat.send_due().await.is_empty() && chat.waiting() == 0 && chat.next().await.is_none());
}

#[tokio::test]
async fn a_repetition_is_told_again_and_another_message_of_the_same_id_is_refused() {
    let mut chat = Chat::of_two().await;
    let at = chat.at + DAY;
    chat.schedule_at("m1", at, &json!({})).await;
    chat.told("alice", "receipts").await;
    assert_eq!(chat.schedule_at("m1", at, &json!({})).await, ChatOutcome::Repeated);
    let again = chat.told("alice", "receipts").await;
    assert_eq!((&again[0]["status"], &again[0]["redelivered"]), (&json!("scheduled"), &json!(true)));
    for other in
        [chat.schedule_at("m1", at + 1, &json!({})).await, chat.schedule_at("m1", at, &json!({ "x": 1 })).await]
    {
        assert_eq!(code(&other), Some(ErrorCode::Duplicate));
    }
    let (_, now) =
        chat.send(writer("alice"), peer("bob", &[]), &json!({ "id": "m1", "to": "bob", "body": "body m1" })).await;
    assert_eq!(code(&now), Some(ErrorCode::Duplicate));
    // Once it was sent, the publish that was repeated for too long is known as that message.
    chat.at = at;
    chat.send_due().await;
    chat.forget("alice").await;
    assert_eq!(chat.schedule_at("m1", at, &json!({})).await, ChatOutcome::Repeated);
    assert_eq!(chat.told("alice", "messages").await[0]["redelivered"], true);
    assert_eq!(chat.waiting(), 0);
}

#[tokio::test]
async fn what_is_taken_back_is_never_sent_and_what_waits_is_shown() {
    let mut chat = Chat::of_two().await;
    chat.schedule("m1", DAY, &json!({})).await;
    chat.schedule("m2", 2 * DAY, &json!({ "push": "never" })).await;
    assert_eq!(code(&chat.schedule("m3", DAY, &json!({ "to": "bob" })).await), None);
    assert_eq!(code(&chat.schedule("m4", DAY, &json!({})).await), Some(ErrorCode::RateLimited));
    chat.forget("alice").await;
    assert!(chat.cancel("m1").await && !chat.cancel("m1").await && !chat.cancel("m9").await);
    let told = chat.told("alice", "receipts").await;
    assert_eq!(told, [json!({ "id": "m1", "status": "cancelled", "ts": chat.at })]);
    let page = chat.rig.store.chat_scheduled(owner("alice"), None).await.unwrap().await.unwrap();
    let ids: Vec<_> = page.items.iter().map(|item| item.id.as_str()).collect();
    assert_eq!((ids, page.complete), (vec!["m2", "m3"], true));
    let document: Value = serde_json::from_slice(&page.items[0].document).unwrap();
    assert_eq!((&document["body"], &document["push"]), (&json!("body m2"), &json!("never")));
    let behind = chat.rig.store.chat_scheduled(owner("alice"), Some(page.items[0].sid)).await.unwrap().await.unwrap();
    assert_eq!(behind.items.len(), 1);
    // Taken back between the look and the send.
    chat.at += 3 * DAY;
    let due = chat.rig.store.chat_scheduled_due(chat.at, 100, HashSet::new()).await.unwrap().await.unwrap();
    assert_eq!(due.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), ["m3", "m2"], "by their time");
    chat.cancel("m2").await;
    let outcomes = [chat.send_one(due[0].clone()).await, chat.send_one(due[1].clone()).await];
    assert!(matches!(outcomes, [(_, ChatOutcome::Done { .. }), (_, ChatOutcome::Repeated)]), "{outcomes:?}");
    assert_eq!(chat.told("bob", "messages").await.len(), 1);
}

#[tokio::test]
async fn a_repetition_of_what_was_taken_back_is_not_sent_and_its_id_is_free_after_a_week() {
    let mut chat = Chat::of_two().await;
    let at = chat.at + DAY;
    chat.schedule_at("m1", at, &json!({})).await;
    assert!(chat.cancel("m1").await);
    assert!(chat.tables_with("body m1").is_empty());
    chat.forget("alice").await;
    // The device that wrote it did not hear that it was taken, and another one has cancelled it.
    let mut chat = chat.crash().await;
    assert_eq!(chat.schedule_at("m1", at, &json!({})).await, ChatOutcome::Repeated);
    let told = chat.told("alice", "receipts").await;
    assert_eq!((&told[0]["status"], &told[0]["redelivered"], told.len()), (&json!("cancelled"), &json!(true), 1));
    assert!(!chat.cancel("m1").await);
    let page = chat.rig.store.chat_scheduled(owner("alice"), None).await.unwrap().await.unwrap();
    assert!(page.items.is_empty());
    // Another time is another message.
    assert_eq!(chat.schedule_at("m1", at + 1, &json!({})).await, ChatOutcome::Scheduled);
    assert!(chat.cancel("m1").await);
    chat.at = at + 2;
    assert_eq!(chat.schedule_at("m1", at + 1, &json!({})).await, ChatOutcome::Repeated, "also when its time is over");
    assert!(chat.send_due().await.is_empty());
    for n in 0..103 {
        chat.schedule(&format!("n{n}"), DAY, &json!({})).await;
        assert!(chat.cancel(&format!("n{n}")).await);
    }
    assert_eq!(chat.waiting(), 100, "the newest of a writer");
    chat.at += 8 * DAY;
    assert!(chat.send_due().await.is_empty());
    assert_eq!((chat.waiting(), chat.next().await), (0, None));
}

#[tokio::test]
async fn the_rules_are_asked_when_the_time_comes_and_reading_is_not_meant_by_it() {
    let mut chat = Chat::of_two().await;
    chat.schedule("m1", DAY, &json!({})).await;
    let unknown = json!({ "reply_to": chat.rig.sid().to_string() });
    chat.schedule("m2", DAY, &unknown).await;
    let short = json!({ "expires": chat.at + DAY + 2 * MINUTE });
    chat.schedule("m3", DAY, &short).await;
    chat.forget("alice").await;
    chat.set("bob", SettingChange::Writers(Writers::Contacts)).await;
    chat.set("bob", SettingChange::About(owner("alice"), EntryChange::RemoveContact)).await;
    chat.at += DAY + MINUTE;
    let outcomes = chat.send_due().await;
    let codes: Vec<_> = outcomes.iter().map(|(_, outcome)| code(outcome)).collect();
    assert_eq!(codes, [Some(ErrorCode::Forbidden), Some(ErrorCode::NotFound), Some(ErrorCode::Forbidden)]);
    let told = chat.told("alice", "receipts").await;
    assert_eq!((told.len(), &told[0]["status"], &told[0]["code"]), (3, &json!("failed"), &json!("FORBIDDEN")));
    assert_eq!(chat.waiting(), 0);

    let mut chat = Chat::of_two().await;
    chat.schedule("m1", DAY, &json!({})).await;
    let unknown = json!({ "reply_to": chat.rig.sid().to_string() });
    chat.schedule("m2", DAY, &unknown).await;
    let short = json!({ "expires": chat.at + DAY + 2 * MINUTE });
    chat.schedule("m3", DAY, &short).await;
    let unread = chat.write("bob", "alice", "while she is away").await;
    chat.at += DAY + 3 * MINUTE;
    let codes: Vec<_> = chat.send_due().await.iter().map(|(_, outcome)| code(outcome)).collect();
    assert_eq!(codes, [None, Some(ErrorCode::NotFound), Some(ErrorCode::BadField)], "its time is over by now");
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'alice'"), 1, "nobody was there to read");
    chat.read("alice", "bob", unread).await;
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'alice'"), 0);
}

#[tokio::test]
async fn a_time_that_is_over_is_now_and_one_too_far_ahead_is_refused() {
    let mut chat = Chat::of_two().await;
    let over = chat.at - 1;
    assert!(matches!(chat.schedule_at("m1", over, &json!({})).await, ChatOutcome::Done { .. }));
    assert_eq!(code(&chat.schedule("m2", 367 * DAY, &json!({})).await), Some(ErrorCode::BadField));
    let (_, unnamed) = chat
        .send(writer("alice"), peer("bob", &[]), &json!({ "to": "bob", "body": "hi", "not_before": chat.at + DAY }))
        .await;
    assert_eq!(unnamed, ChatOutcome::Scheduled);
    let told = chat.told("alice", "receipts").await;
    let id = told.last().unwrap()["id"].as_str().unwrap();
    assert!(chat.cancel(id).await, "the bridge gave it an id");
}

impl Chat {
    /// Somebody writes to the group, to be sent so much later.
    async fn schedule_in_group(&mut self, from: &str, id: &str, later: u64) -> GroupOutcome {
        let not_before = self.at + later;
        self.post(from, &json!({ "id": id, "body": id, "not_before": not_before }), &[]).await.1
    }

    /// Sends what is due in the group, as the bridge does.
    async fn send_due_in_group(&mut self) -> Vec<GroupOutcome> {
        self.at += 1;
        let due = self.rig.store.chat_scheduled_due(self.at, 100, HashSet::new()).await.unwrap().await.unwrap();
        let mut outcomes = Vec::new();
        for waiting in due {
            let sender = crate::chat::message::Sender::User;
            let message = UserMessage::parse(sender, &waiting.document, &PayloadLimits::default()).unwrap();
            let (group, sid) = (message.to.group().unwrap(), self.rig.sids.next(self.at, 0));
            let (from, deadline_ms) = (writer(waiting.writer.as_str()), self.at + waiting.ttl_ms);
            let new = NewGroupMessage { sid, from, group, message, deadline_ms, attended: Vec::new() };
            let call = self.call();
            let room = self.rig.store.group_room(&new.group, 1).await.unwrap();
            let sent = self.rig.store.group_send_scheduled(waiting.sid, new, call, room).await.unwrap();
            outcomes.push(sent.await.unwrap());
        }
        outcomes
    }
}

#[tokio::test]
async fn a_message_to_a_group_is_sent_when_its_time_comes_and_reads_nothing() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.register("carol", "phone", "T").await;
    assert_eq!(chat.schedule_in_group("bob", "m1", DAY).await, GroupOutcome::Scheduled);
    assert_eq!(chat.schedule_in_group("bob", "m1", DAY - 1).await, GroupOutcome::Repeated, "the same time");
    assert_eq!(chat.schedule_in_group("bob", "m2", DAY).await, GroupOutcome::Scheduled);
    assert!(chat.cancel_of("bob", "m2").await);
    let told = chat.told("bob", "receipts").await;
    let words: Vec<_> =
        told.iter().map(|told| (told["id"].as_str().unwrap(), told["status"].as_str().unwrap())).collect();
    let scheduled = ("m1", "scheduled");
    assert_eq!(words, [scheduled, scheduled, ("m2", "scheduled"), ("m2", "cancelled")]);
    assert!(chat.told("alice", "messages").await.is_empty() && chat.send_due_in_group().await.is_empty());
    let mut chat = chat.crash().await;
    chat.says("alice", "a question").await;
    chat.pushes().await;
    chat.forget("bob").await;
    chat.at += DAY;
    assert_eq!(chat.send_due_in_group().await, [GroupOutcome::Done { waiting: Vec::new() }]);
    assert!(chat.send_due_in_group().await.is_empty(), "once");
    let copies = chat.told("alice", "messages").await;
    let copy = copies.last().unwrap();
    assert_eq!(
        (&copy["id"], &copy["from"], &copy["n"], copy.get("not_before")),
        (&json!("m1"), &json!("bob"), &json!(3), None)
    );
    assert_eq!(chat.told("bob", "messages").await[0]["sid"], copy["sid"]);
    assert_eq!(chat.told("bob", "receipts").await[0]["status"], "sent");
    assert_eq!(chat.pushes().await.iter().map(|pushed| pushed.data("body")).collect::<Vec<_>>(), ["m1"]);
    let unread = chat.conversations("bob").await.items.iter().find(|item| item.with.is_group()).unwrap().unread;
    assert_eq!(unread, 1, "the question, and not what he wrote himself");
}

#[tokio::test]
async fn who_is_no_member_any_more_when_its_time_comes_hears_why_it_failed() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    assert_eq!(chat.schedule_in_group("bob", "m1", DAY).await, GroupOutcome::Scheduled);
    assert_eq!(chat.schedule_in_group("carol", "m2", DAY).await, GroupOutcome::Scheduled);
    chat.change("alice", GroupChange::Remove(vec![owner("bob")])).await.unwrap();
    let post = SettingsChange { post: Some(Post::Owners), ..SettingsChange::default() };
    chat.change("alice", GroupChange::Set(post)).await.unwrap();
    for user in ["alice", "bob", "carol"] {
        chat.forget(user).await;
    }
    chat.at += DAY;
    assert_eq!(chat.send_due_in_group().await.len(), 2);
    for (user, id, code) in [("bob", "m1", "NOT_MEMBER"), ("carol", "m2", "FORBIDDEN")] {
        let told = &chat.told(user, "receipts").await[0];
        assert_eq!((&told["id"], &told["status"], &told["code"]), (&json!(id), &json!("failed"), &json!(code)));
    }
    assert!(chat.told("alice", "messages").await.is_empty());
    assert_eq!(chat.waiting(), 0);
}
