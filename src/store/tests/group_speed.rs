//! What a message to a group costs on this machine. Prints, asserts nothing:
//! `cargo test --release --lib store::tests::group_speed -- --ignored --nocapture`

use super::chat::groups::owners;
use super::chat::{Chat, owner};
use super::speed::writer_seconds;
use crate::chat::group::GroupChange;
use crate::store::GroupOutcome;
use serde_json::json;

const MESSAGES: u32 = 20;
/// Messages of a group whose time is over.
const TOMBSTONES: i64 = 30_000;

/// By members, of whom all have a phone, or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn writer_time_of_a_message_by_members() {
    for members in [10_usize, 100, 1_000] {
        for phones in [false, true] {
            let mut chat = of_many(members, phones).await;
            let each = writer_ms(&mut chat, members).await;
            let of = if phones { "pushed" } else { "without a phone" };
            println!("{members} members, {of}: {each:.2} ms of writer time a message");
        }
    }
}

/// Where everybody is pushed, and has read nothing of what has expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn writer_time_of_a_message_behind_tombstones() {
    let members = 1_000;
    let mut chat = of_many(members, true).await;
    let file = rusqlite::Connection::open(&chat.rig.settings.path).unwrap();
    let insert = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        INSERT INTO chat (row, tail, kind, writer, by_bal, peer, at, n_writer, n_reader, theirs_writer, theirs_reader,
            received, hidden, waits, deadline, document, gone)
        SELECT (SELECT max(row) FROM chat) + i, 1, 0, 'alice', 0, 'g-team', 5, i, i, i, i, 1, 0, 0, 9, x'7b7d', 1 FROM n";
    assert_eq!(file.execute(insert, [TOMBSTONES]).unwrap() as i64, TOMBSTONES);
    file.execute("UPDATE chat_groups SET count = count + ?1, counted = counted + ?1", [TOMBSTONES]).unwrap();
    drop(file);
    let each = writer_ms(&mut chat, members).await;
    println!("{members} members, pushed, {TOMBSTONES} tombstones: {each:.2} ms of writer time a message");
}

async fn of_many(members: usize, phones: bool) -> Chat {
    let mut chat = Chat::of_group(&[]).await;
    let names: Vec<String> = (1..members).map(|n| format!("user{n}")).collect();
    for names in names.chunks(100) {
        for name in names {
            chat.rig.store.chat_user_seen(owner(name)).await.unwrap().await.unwrap();
            chat.write(name, "alice", "hi").await;
            if phones {
                chat.register(name, "phone", &format!("T-{name}")).await;
            }
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        chat.change("alice", GroupChange::Add(owners(&names))).await.unwrap();
    }
    chat
}

/// Processor time of the writer for one message, in milliseconds.
async fn writer_ms(chat: &mut Chat, members: usize) -> f64 {
    let cpu = writer_seconds();
    for _ in 0..MESSAGES {
        let (_, outcome) = chat.post_with(&json!({}), 2 * members).await;
        assert_eq!(outcome, GroupOutcome::Done { waiting: Vec::new() });
    }
    (writer_seconds() - cpu) * 1e3 / f64::from(MESSAGES)
}
