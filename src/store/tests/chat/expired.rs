//! Messages that are deleted at a time.

use super::*;

const SECRET: &str = "the words that must go";

impl Chat {
    /// A message of alice that is deleted after so long.
    async fn write_for(&mut self, to: &str, ms: u64, more: &Value) -> (Sid, ChatOutcome) {
        let mut written = json!({ "to": to, "body": SECRET, "expires": self.at + ms });
        written.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let role = (to == "bal1").then_some(Role::Bal);
        self.send(writer("alice"), Peer { role, ..peer(to, &[]) }, &written).await
    }

    /// What the expiry does when it is `ms` later.
    async fn pass(&mut self, ms: u64) {
        self.at += ms;
        while self.sweep(30 * DAY, u64::MAX).await {}
    }

    /// The tables in which these words stand.
    pub(in crate::store::tests) fn tables_with(&self, words: &str) -> Vec<String> {
        let file = rusqlite::Connection::open(&self.rig.settings.path).unwrap();
        let mut statement = file.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
        let tables: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let is_in = |table: &String| {
            let mut columns = file.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).unwrap();
            let columns: Vec<String> = columns.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
            columns.iter().any(|column| {
                let found = format!("SELECT 1 FROM {table} WHERE instr(CAST({column} AS BLOB), CAST(?1 AS BLOB)) > 0");
                file.prepare(&found).unwrap().exists([words]).unwrap()
            })
        };
        tables.into_iter().filter(is_in).collect()
    }
}

#[tokio::test]
async fn a_message_whose_time_is_over_is_gone_everywhere_and_keeps_its_place() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T").await;
    let (first, _) = chat.write_for("bob", MINUTE, &json!({ "id": "m1" })).await;
    let second = chat.write("alice", "bob", "this stays").await;
    chat.write_for("bob", MINUTE, &json!({ "id": "m3", "data": [SECRET] })).await;
    assert_eq!(chat.tables_with(SECRET), ["chat", "deliveries", "outbox"]);
    let mut chat = chat.crash().await;
    let before = chat.pushes().await;
    assert_eq!(before.len(), 3);
    chat.write_for("bob", MINUTE, &json!({ "id": "m4" })).await;
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 4);
    chat.pass(MINUTE / 2).await;
    assert_eq!(chat.rig.store.figures().chat_expiring, 3, "not before");
    chat.pass(MINUTE).await;
    assert_eq!(chat.tables_with(SECRET), Vec::<String>::new());
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 1);
    assert_eq!(chat.rig.store.figures().chat_expiring, 0);
    let sum = "SELECT sum(length(document)) FROM chat";
    assert_eq!(chat.count(sum), chat.rig.store.figures().chat_bytes as i64);
    // What was pushed is cleared, and what was not is withdrawn.
    let cleared = chat.pushes().await;
    assert_eq!(whats(&cleared), [("T", "clear"), ("T", "clear")]);
    assert_eq!(cleared[1].data("unread"), "2", "what goes with a later chunk is still there");
    let page = chat.rig.store.chat_sync(owner("bob"), None).await.unwrap().await.unwrap();
    let items: Vec<Value> = page.items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect();
    let shown: Vec<_> =
        items[3..].iter().map(|item| (item["n"].as_u64().unwrap(), item["type"].as_str().unwrap())).collect();
    assert_eq!(shown, [(4, "tombstone"), (5, "text"), (6, "tombstone"), (7, "tombstone")], "no hole");
    assert_eq!((&items[3]["sid"], items[3].get("body")), (&json!(first.to_string()), None));
    let copies = chat.told("bob", "messages").await;
    assert_eq!(copies.iter().map(|copy| copy["sid"].clone()).collect::<Vec<_>>(), [json!(second.to_string())]);
}

#[tokio::test]
async fn what_an_edit_says_goes_with_its_message() {
    let mut chat = Chat::of_two().await;
    for to in ["bob", "bal1"] {
        let (sid, _) = chat.write_for(to, MINUTE, &json!({ "body": "harmless" })).await;
        for text in [SECRET, "harmless again"] {
            let edit = json!({ "to": to, "type": "edit", "ref": sid.to_string(), "body": text });
            let role = (to == "bal1").then_some(Role::Bal);
            let outcome = chat.send(writer("alice"), Peer { role, ..peer(to, &[]) }, &edit).await.1;
            assert!(matches!(outcome, ChatOutcome::Done { .. }), "{outcome:?}");
        }
    }
    assert_eq!(chat.tables_with(SECRET), ["outbox"], "copies of the edit wait");
    chat.pass(2 * MINUTE).await;
    assert_eq!(chat.tables_with(SECRET), Vec::<String>::new());
    assert_eq!(chat.rig.store.figures().chat_expiring, 0);
}

#[tokio::test]
async fn the_file_does_not_have_what_was_deleted_at_its_time() {
    let mut chat = Chat::of_two().await;
    let text = SECRET.repeat(400);
    chat.write_for("bob", MINUTE, &json!({ "body": text })).await;
    let in_file = |chat: &Chat| {
        let file = rusqlite::Connection::open(&chat.rig.settings.path).unwrap();
        file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        let bytes = std::fs::read(&chat.rig.settings.path).unwrap();
        bytes.windows(SECRET.len()).filter(|window| *window == SECRET.as_bytes()).count()
    };
    assert!(in_file(&chat) > 0);
    chat.pass(2 * MINUTE).await;
    assert_eq!(in_file(&chat), 0);
}

#[tokio::test]
async fn what_was_deleted_is_never_unread_again_wherever_one_reads_up_to() {
    let mut chat = Chat::of_two().await;
    let unread = |chat: &Chat| chat.count("SELECT unread FROM users WHERE user = 'bob'");
    let first = chat.write("alice", "bob", "1").await;
    let (second, _) = chat.write_for("bob", MINUTE, &json!({})).await;
    let third = chat.write("alice", "bob", "3").await;
    let (fourth, _) = chat.write_for("bob", 2 * MINUTE, &json!({})).await;
    assert_eq!(unread(&chat), 4);
    chat.pass(MINUTE + 1).await;
    assert_eq!(unread(&chat), 3);
    chat.read("bob", "alice", first).await;
    assert_eq!(unread(&chat), 2, "the third and the fourth");
    chat.pass(MINUTE).await;
    assert_eq!(unread(&chat), 1);
    chat.read("bob", "alice", second).await;
    assert_eq!(unread(&chat), 1);
    // What is not kept any more was not unread for a long time.
    chat.at += 40 * DAY;
    while chat.sweep(30 * DAY, u64::MAX).await {}
    assert_eq!((unread(&chat), chat.count("SELECT count(*) FROM chat")), (0, 0));
    let last = chat.write("alice", "bob", "5").await;
    assert_eq!(unread(&chat), 1);
    chat.read("bob", "alice", last).await;
    assert_eq!(unread(&chat), 0);
    assert!(third < fourth);
}

#[tokio::test]
async fn a_time_that_is_over_or_too_far_ahead_is_refused_and_an_id_is_not_free_again() {
    let mut chat = Chat::of_two().await;
    assert_eq!(code(&chat.write_for("bob", 0, &json!({})).await.1), Some(ErrorCode::BadField));
    assert_eq!(code(&chat.write_for("bob", 367 * DAY, &json!({})).await.1), Some(ErrorCode::BadField));
    let at = chat.at + MINUTE;
    let written = json!({ "id": "m1", "to": "bob", "body": SECRET, "expires": at });
    chat.send(writer("alice"), peer("bob", &[]), &written).await;
    assert_eq!(chat.send(writer("alice"), peer("bob", &[]), &written).await.1, ChatOutcome::Repeated);
    chat.pass(2 * MINUTE).await;
    assert_eq!(chat.tables_with(SECRET), Vec::<String>::new(), "nor in the copy that was told again");
    // Its writer did not hear that it was taken.
    assert_eq!(chat.send(writer("alice"), peer("bob", &[]), &written).await.1, ChatOutcome::Repeated);
    let other = json!({ "id": "m1", "to": "bob", "body": "other" });
    let again = chat.send(writer("alice"), peer("bob", &[]), &other).await.1;
    assert_eq!(again, ChatOutcome::Repeated, "nobody knows what it said");
}

#[tokio::test]
async fn what_waits_for_a_bal_or_is_hidden_goes_as_well() {
    let mut chat = Chat::of_two().await;
    let (_, outcome) = chat.write_for("bal1", MINUTE, &json!({})).await;
    assert!(matches!(outcome, ChatOutcome::Done { .. }));
    assert_eq!(chat.rig.store.figures().spool_rows, 1);
    chat.block("bob", "alice", true).await;
    chat.write_for("bob", MINUTE, &json!({})).await;
    chat.write_for("alice", MINUTE, &json!({})).await;
    chat.pass(2 * MINUTE).await;
    assert_eq!(chat.tables_with(SECRET), Vec::<String>::new());
    assert_eq!((chat.rig.store.figures().spool_rows, chat.rig.store.figures().spool_bytes), (0, 0));
    assert!(chat.rig.next("bal1/others/messages", 0).await.is_empty());
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 0);
}

#[tokio::test]
async fn of_a_copy_that_was_taken_nothing_is_remembered() {
    let mut chat = Chat::of_two().await;
    chat.write_for("bob", DAY, &json!({})).await;
    let noted = |chat: &Chat| chat.count("SELECT count(*) FROM expiring_documents");
    assert_eq!(noted(&chat), 2, "one for each side");
    chat.told("bob", "messages").await;
    assert_eq!(noted(&chat), 1);
    chat.told("alice", "messages").await;
    assert_eq!((noted(&chat), chat.rig.store.figures().chat_expiring), (0, 1));
    // Nor of one that nobody reads.
    chat.write_for("bob", DAY, &json!({})).await;
    let store = chat.rig.store.clone();
    let unread = store.topics_to_drop(String::new(), 10).await.unwrap().await.unwrap();
    assert_eq!(noted(&chat), 2);
    store.drop_unread(unread).await.unwrap().await.unwrap();
    assert_eq!(noted(&chat), 0);
}

#[tokio::test]
async fn what_waits_for_a_session_goes_with_its_time() {
    let mut chat = Chat::of_two().await;
    let (one, two) = (chat.rig.session("one").await, chat.rig.session("two").await);
    chat.write_for("bob", MINUTE, &json!({})).await;
    let topic: Arc<str> = "bob/others/messages".into();
    let page = Page { rows: 100, bytes: 1_000_000 };
    let store = chat.rig.store.clone();
    let read = |queue| {
        let (store, topic) = (store.clone(), topic.clone());
        async move { store.read_documents(topic, Some(queue), 0, page).await.unwrap().await.unwrap().documents }
    };
    let document = read(one).await.remove(0).waiting.reference;
    let target = Target { queue: two, qos: crate::chat::qos::QoS::AtLeastOnce, retain: false, ids: Vec::new() };
    let documents = vec![AckedDocument { reference: document, others: vec![target] }];
    let (queue, rows, by) = (Some(one), Vec::new(), AckedBy::Owner);
    let acknowledged = Acknowledged { queue, rows, documents, by, at: chat.at, is_awaited: true };
    store.acknowledged(acknowledged).await.unwrap().await.unwrap();
    assert_eq!(read(two).await.len(), 1);
    assert!(chat.tables_with(SECRET).contains(&"queue".to_owned()));
    chat.pass(2 * MINUTE).await;
    assert_eq!(chat.tables_with(SECRET), Vec::<String>::new());
    assert!(read(two).await.is_empty());
}
