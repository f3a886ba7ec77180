//! What a message to a group costs on this machine. Prints, asserts nothing:
//! `cargo test --release --lib store::tests::group_speed -- --ignored --nocapture`

use super::chat::groups::owners;
use super::chat::{Chat, owner};
use super::speed::writer_seconds;
use crate::chat::group::GroupChange;
use crate::store::GroupOutcome;
use serde_json::json;

const MESSAGES: u32 = 20;

/// By members, of whom all have a phone, or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn writer_time_of_a_message_by_members() {
    for members in [10_usize, 100, 1_000] {
        for phones in [false, true] {
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
            let cpu = writer_seconds();
            for _ in 0..MESSAGES {
                let (_, outcome) = chat.post_with(&json!({}), 2 * members).await;
                assert_eq!(outcome, GroupOutcome::Done { waiting: Vec::new() });
            }
            let each = (writer_seconds() - cpu) * 1e3 / f64::from(MESSAGES);
            let of = if phones { "pushed" } else { "without a phone" };
            println!("{members} members, {of}: {each:.2} ms of writer time a message");
        }
    }
}
