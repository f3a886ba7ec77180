//! What is not kept any more.

use super::*;

impl Chat {
    pub(in crate::store::tests) async fn sweep(&mut self, for_ms: u64, bytes: u64) -> bool {
        let call = self.call();
        self.rig.store.chat_sweep(Keep { for_ms, bytes }, call).await.unwrap().await.unwrap()
    }

    async fn sweep_all(&mut self, for_ms: u64, bytes: u64) {
        while self.sweep(for_ms, bytes).await {}
        self.rig.sweep_all(self.at).await;
    }
}

#[tokio::test]
async fn what_is_too_old_goes_and_leaves_a_gap_and_no_hole() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    let mut old = Vec::new();
    for _ in 0..300 {
        old.push(chat.write("alice", "bob", "old").await);
    }
    chat.pushes().await;
    chat.at += 30 * DAY;
    let first = chat.write("alice", "bob", "new").await;
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 301);
    assert!(chat.sweep(29 * DAY, u64::MAX).await, "in chunks");
    chat.sweep_all(29 * DAY, u64::MAX).await;
    assert_eq!((chat.count("SELECT count(*) FROM chat"), chat.count("SELECT count(*) FROM pushed")), (1, 1));
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 1, "what is not kept is not unread");
    let page = chat.page("bob", Some(old[7])).await;
    assert_eq!((page.gap, page.complete, page.items.len()), (true, true, 1));
    assert!(!chat.page("bob", Some(first)).await.gap && !chat.page("bob", None).await.gap);
    assert_eq!(serde_json::from_slice::<Value>(&page.items[0]).unwrap()["n"], 304);
    assert_eq!(code(&chat.receipt(received("bob", &[old[7]])).await), Some(ErrorCode::NotFound));
    chat.read("bob", "alice", first).await;
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 0);
    let (_, outcome) =
        chat.send(writer("alice"), peer("bob", &[]), &json!({ "id": "m1", "to": "bob", "body": "x" })).await;
    assert!(matches!(outcome, ChatOutcome::Done { .. }));
}

#[tokio::test]
async fn the_oldest_go_where_there_is_too_much() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    let mut sids = Vec::new();
    for n in 0..100 {
        sids.push(chat.write("alice", "bob", &format!("{n:0100}")).await);
    }
    let before = chat.rig.store.figures();
    assert_eq!(before.chat_rows, 100);
    assert_eq!(before.chat_bytes as i64, chat.count("SELECT sum(length(document)) FROM chat"));
    chat.sweep_all(u64::MAX, before.chat_bytes / 2).await;
    let after = chat.rig.store.figures();
    assert_eq!((after.chat_rows, after.chat_bytes), (50, before.chat_bytes / 2));
    let chat = chat.crash().await;
    assert_eq!((chat.rig.store.figures().chat_rows, chat.rig.store.figures().chat_bytes), (50, before.chat_bytes / 2));
    assert!(chat.page("bob", Some(sids[0])).await.gap && !chat.page("bob", Some(sids[50])).await.gap);
}

#[tokio::test]
async fn ids_stay_above_all_that_were_given_out_when_nothing_is_kept() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    let sid = chat.write("alice", "bob", "hi").await;
    chat.at += DAY;
    chat.sweep_all(0, 0).await;
    let mut chat = chat.crash().await;
    assert_eq!(chat.rig.store.figures().chat_rows, 0);
    assert!(chat.rig.recovery.last_sid >= Some(sid));
    assert!(chat.told("bob", "messages").await.is_empty(), "a copy of it waits for nobody");
    chat.write("bob", "alice", "hi").await;
    assert_eq!(chat.told("bob", "messages").await[0]["n"], 2);
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 0);
}

#[tokio::test]
async fn what_a_session_has_not_fetched_for_as_long_is_dropped() {
    let mut chat = Chat::of_two().await;
    for (payload, days) in [("{}", 2), ("[]", 0)] {
        let (topic, payload) = ("bob/others/changes".to_owned(), Bytes::from(payload));
        let document = UserDocument { topic, copy_of: None, payload, at: chat.at };
        chat.rig.store.queue_user_document(document).await.unwrap().await.unwrap();
        chat.at += days * DAY;
    }
    chat.sweep_all(DAY, u64::MAX).await;
    assert_eq!(chat.told("bob", "changes").await, [json!([])]);
}

#[tokio::test]
async fn a_device_that_says_nothing_is_told_of_and_then_removed() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    chat.register("bob", "tablet", "T2").await;
    chat.forget("bob").await;
    chat.at += 29 * DAY;
    chat.rig.store.chat_device_spoke(owner("bob"), device("tablet"), chat.at).await.unwrap().await.unwrap();
    chat.at += 2 * DAY;
    for _ in 0..2 {
        chat.sweep(u64::MAX, u64::MAX).await;
    }
    let events = |told: Vec<Value>| -> Vec<(String, String)> {
        let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
        told.iter().map(|event| (text(event, "event"), text(event, "dev"))).collect()
    };
    assert_eq!(events(chat.told("bob", "devices").await), [("stale".to_owned(), "phone".to_owned())], "once");
    chat.write("alice", "bob", "hi").await;
    assert_eq!(chat.pushes().await.len(), 2, "it is still tried");
    chat.rig.store.chat_device_spoke(owner("bob"), device("phone"), chat.at).await.unwrap().await.unwrap();
    chat.at += 269 * DAY;
    chat.sweep(u64::MAX, u64::MAX).await;
    chat.at += 2 * DAY;
    chat.sweep(u64::MAX, u64::MAX).await;
    let told = events(chat.told("bob", "devices").await);
    let names: Vec<_> = told.iter().map(|(event, dev)| format!("{event} {dev}")).collect();
    assert_eq!(names, ["stale tablet", "stale phone", "unregistered tablet", "unregistered phone"]);
    assert!(chat.rig.store.chat_devices(owner("bob")).await.unwrap().await.unwrap().is_empty());
}
