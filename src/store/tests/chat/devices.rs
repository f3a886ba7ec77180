//! Tokens: registered, replaced, proved, moved, refused.

use super::*;
use serde_json::Value;

/// What a user is told of devices: event, device, code.
async fn events(chat: &Chat, user: &str) -> Vec<String> {
    let told = chat.told(user, "devices").await;
    let text = |event: &Value, name: &str| event[name].as_str().unwrap_or("-").to_owned();
    told.iter().map(|e| format!("{} {} {}", text(e, "event"), text(e, "dev"), text(e, "code"))).collect()
}

impl Chat {
    pub(super) async fn unregister(&mut self, user: &str, dev: &str) {
        self.change_device(registers(user, dev, None)).await;
    }

    async fn register_with_proof(&mut self, user: &str, dev: &str, token: &str, proof: &str) {
        self.change_device(registers(user, dev, Some(registration(token, &json!({ "proof": proof }))))).await;
    }

    async fn owner_of(&self, token: &str) -> Option<String> {
        let found = self.rig.store.chat_owner_of(Token::new(token).unwrap()).await.unwrap().await.unwrap();
        found.map(|(user, dev)| format!("{user}:{}", dev.as_str()))
    }

    async fn known(&self, user: &str) -> Vec<KnownDevice> {
        self.rig.store.chat_devices(owner(user)).await.unwrap().await.unwrap()
    }
}

#[tokio::test]
async fn a_registration_is_told_by_its_hash_and_taken_back() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "secret-1").await;
    let told = chat.told("bob", "devices").await;
    assert_eq!((told[0]["event"].as_str(), told[0]["ts"].as_u64()), (Some("registered"), Some(chat.at)));
    assert!(!told[0].to_string().contains("secret") && told[0]["token_hash"].is_string());
    chat.register("bob", "phone", "secret-1").await;
    chat.write("alice", "bob", "1").await;
    chat.register("bob", "phone", "secret-2").await;
    chat.write("alice", "bob", "2").await;
    assert_eq!(events(&chat, "bob").await, ["registered phone -", "replaced phone -"]);
    assert_eq!(whats(&chat.pushes().await), [("secret-2", "message"); 2], "the one before is not used again");
    chat.write("alice", "bob", "3").await;
    chat.unregister("bob", "phone").await;
    chat.unregister("bob", "phone").await;
    assert_eq!(events(&chat, "bob").await, ["unregistered phone -"]);
    assert!(chat.pushes().await.is_empty() && chat.known("bob").await.is_empty());
    assert_eq!((chat.rig.store.figures().queue_rows, chat.count("SELECT count(*) FROM pushed")), (0, 0));
}

#[tokio::test]
async fn the_same_token_under_another_name_of_the_user_is_one_device() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "old", "T1").await;
    chat.register("bob", "new", "T1").await;
    assert_eq!(events(&chat, "bob").await, ["registered old -", "unregistered old -", "registered new -"]);
    chat.write("alice", "bob", "hi").await;
    assert_eq!(whats(&chat.pushes().await), [("T1", "message")]);
    assert_eq!(chat.owner_of("T1").await.as_deref(), Some("bob:new"));
    assert_eq!(chat.owner_of("T2").await, None);
}

#[tokio::test]
async fn an_eleventh_device_is_refused() {
    let mut chat = Chat::of(&["bob"]).await;
    for device in 0..USER_DEVICES_MAX {
        chat.register("bob", &format!("d{device}"), &format!("T{device}")).await;
    }
    assert_eq!(code(&chat.register("bob", "d10", "T10").await), Some(ErrorCode::RateLimited));
    assert_eq!(code(&chat.register("bob", "d10", "T0").await), None, "in the place of another one");
    assert_eq!(code(&chat.register("bob", "d5", "T5b").await), None);
    assert_eq!(chat.known("bob").await.len(), USER_DEVICES_MAX);
}

#[tokio::test]
async fn the_token_of_another_user_moves_with_proof_only() {
    let mut chat = Chat::of_two().await;
    chat.register("alice", "phone", "T1").await;
    chat.forget("alice").await;
    chat.register("bob", "phone", "T1").await;
    assert_eq!(events(&chat, "bob").await, ["verify_sent phone -"]);
    let pushes = chat.pushes().await;
    assert_eq!(pushes[0].push["data"], json!({ "type": "verify", "account": "bob", "proof": "word" }));
    assert_eq!((pushes[0].token.as_str(), &pushes[0].push["priority"]), ("T1", &json!("high")));
    chat.register_with_proof("bob", "phone", "T1", "guess").await;
    chat.register_with_proof("bob", "tablet", "T1", "word").await;
    assert_eq!(chat.owner_of("T1").await.as_deref(), Some("alice:phone"), "both keep what they had");
    chat.write("bob", "alice", "hi").await;
    chat.forget("bob").await;
    chat.register_with_proof("bob", "phone", "T1", "word").await;
    assert_eq!(events(&chat, "bob").await, ["moved phone -"]);
    assert_eq!(events(&chat, "alice").await, ["moved phone -"]);
    assert!(chat.pushes().await.is_empty(), "what was to be pushed to Alice is not pushed to Bob");
    assert_eq!(chat.owner_of("T1").await.as_deref(), Some("bob:phone"));
    assert!(chat.known("alice").await.is_empty());
    // The word counts once.
    chat.at += MINUTE;
    chat.register("alice", "phone", "T1").await;
    chat.register_with_proof("bob", "phone", "T2", "word").await;
    assert_eq!(events(&chat, "alice").await, ["verify_sent phone -"]);
}

#[tokio::test]
async fn a_proof_counts_ten_minutes_and_is_asked_for_seldom() {
    let mut chat = Chat::of_two().await;
    chat.register("alice", "phone", "T1").await;
    chat.register("bob", "phone", "T1").await;
    chat.pushes().await;
    chat.register("bob", "phone", "T1").await;
    chat.register("bob", "tablet", "T1").await;
    chat.register("eve", "phone", "T1").await;
    assert_eq!(
        events(&chat, "bob").await,
        ["verify_sent phone -", "verify_sent phone RATE_LIMITED", "verify_sent tablet RATE_LIMITED"]
    );
    assert_eq!(events(&chat, "eve").await, ["verify_sent phone RATE_LIMITED"], "the limit is the token's");
    assert!(chat.pushes().await.is_empty());
    chat.at += 10 * MINUTE;
    chat.register_with_proof("bob", "phone", "T1", "word").await;
    assert_eq!(chat.owner_of("T1").await.as_deref(), Some("alice:phone"), "too late");
    for _ in 0..6 {
        chat.at += MINUTE;
        chat.register("bob", "phone", "T1").await;
    }
    let asked = events(&chat, "bob").await;
    assert_eq!(asked.iter().filter(|event| event.ends_with('-')).count(), 4, "five a day: {asked:?}");
    assert_eq!(chat.pushes().await.len(), 4);
    chat.at += DAY;
    chat.register("bob", "phone", "T1").await;
    assert_eq!(events(&chat, "bob").await, ["verify_sent phone -"]);
    assert_eq!(chat.count("SELECT count(*) FROM proofs"), 1, "old ones are not kept");
}

#[tokio::test]
async fn the_operator_says_when_a_token_is_to_be_proved() {
    let mut chat = Chat::of_two().await;
    chat.register("alice", "phone", "T1").await;
    let change = registers("bob", "phone", Some(registration("T1", &json!({}))));
    chat.change_device(DeviceChange { verify: VerifyTokens::Never, ..change }).await;
    assert_eq!(chat.owner_of("T1").await.as_deref(), Some("bob:phone"));
    let change = |proof: &Value| DeviceChange {
        verify: VerifyTokens::Always,
        ..registers("bob", "tablet", Some(registration("T2", proof)))
    };
    chat.change_device(change(&json!({}))).await;
    assert_eq!(chat.owner_of("T2").await, None);
    chat.change_device(change(&json!({ "proof": "word" }))).await;
    chat.change_device(change(&json!({}))).await;
    assert_eq!(chat.owner_of("T2").await.as_deref(), Some("bob:tablet"), "and not again while it is the same");
    let told = events(&chat, "bob").await;
    assert_eq!(told, ["moved phone -", "verify_sent tablet -", "registered tablet -", "registered tablet -"]);
}

fn gone() -> Event {
    refused(Decision::REMOVE_TOKEN, "DEVICE_UNREGISTERED")
}

#[tokio::test]
async fn a_token_that_is_gone_goes_unless_it_was_registered_again_since() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    chat.write("alice", "bob", "hi").await;
    let pushes = chat.claim(chat.at).await;
    chat.at += 1;
    chat.register("bob", "phone", "T1").await;
    chat.forget("bob").await;
    chat.rig.record(pushes[0].sid, gone(), chat.at).await;
    assert_eq!(chat.known("bob").await.len(), 1);
    chat.at += 1;
    chat.write("alice", "bob", "hi").await;
    let pushes = chat.claim(chat.at).await;
    chat.rig.record(pushes[0].sid, gone(), chat.at).await;
    assert!(chat.known("bob").await.is_empty());
    assert_eq!(events(&chat, "bob").await, ["unregistered phone DEVICE_UNREGISTERED"]);
    assert_eq!(chat.count("SELECT count(*) FROM pushed"), 0);
}

#[tokio::test]
async fn another_refusal_keeps_the_token_and_is_told() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    chat.forget("bob").await;
    chat.write("alice", "bob", "hi").await;
    let pushes = chat.claim(chat.at).await;
    chat.rig.record(pushes[0].sid, refused(Decision::FAIL, "SENDER_ID_MISMATCH"), chat.at).await;
    assert_eq!(events(&chat, "bob").await, ["stale phone SENDER_ID_MISMATCH"]);
    let known = chat.known("bob").await;
    assert!(known[0].error.as_deref().unwrap().contains("SENDER_ID_MISMATCH") && known[0].pushed_at.is_none());
    chat.write("alice", "bob", "hi").await;
    assert_eq!(chat.pushes().await.len(), 1);
    let known = chat.known("bob").await;
    assert_eq!((known[0].error.as_deref(), known[0].pushed_at), (None, Some(chat.at)));
    chat.write("alice", "bob", "hi").await;
    let pushes = chat.claim(chat.at).await;
    chat.rig.record(pushes[0].sid, retry(chat.at + MINUTE), chat.at).await;
    assert!(events(&chat, "bob").await.is_empty() && chat.known("bob").await[0].error.is_none());
}

fn canonical(token: &str) -> Event {
    let canonical = Some(Token::new(token).unwrap());
    back(Fate::Accepted { canonical, can_confirm: true, provider_id: None, detail: None }, 1)
}

#[tokio::test]
async fn an_answer_that_repeats_the_token_tells_nobody_and_leaves_alone_what_waits() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    chat.forget("bob").await;
    chat.write("alice", "bob", "1").await;
    chat.write("alice", "bob", "2").await;
    let pushes = chat.claim(chat.at).await;
    chat.rig.record(pushes[1].sid, retry(chat.at + MINUTE), chat.at).await;
    chat.rig.record(pushes[0].sid, canonical("T1"), chat.at).await;
    assert!(events(&chat, "bob").await.is_empty());
    assert!(chat.claim(chat.at + MINUTE - 1).await.is_empty(), "it waits as long as it was to");
    assert_eq!(chat.claim(chat.at + MINUTE).await.len(), 1);
}

#[tokio::test]
async fn the_canonical_token_takes_the_place_of_the_one_that_was_pushed() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    chat.forget("bob").await;
    chat.write("alice", "bob", "1").await;
    let pushes = chat.claim(chat.at).await;
    chat.rig.record(pushes[0].sid, canonical("T2"), chat.at).await;
    assert_eq!(events(&chat, "bob").await, ["replaced phone -"]);
    chat.write("alice", "bob", "2").await;
    let pushes = chat.claim(chat.at).await;
    assert_eq!(pushes[0].token, "T2");
    // What is said of a token that the device has no more means nothing.
    chat.register("bob", "phone", "T3").await;
    chat.rig.record(pushes[0].sid, canonical("T4"), chat.at).await;
    assert_eq!(chat.owner_of("T3").await.as_deref(), Some("bob:phone"));
    // The app has registered it itself under another name.
    chat.write("alice", "bob", "3").await;
    let pushes = chat.claim(chat.at).await;
    chat.register("bob", "new", "T5").await;
    chat.rig.record(pushes[0].sid, canonical("T5"), chat.at).await;
    let names: Vec<_> = chat.known("bob").await.into_iter().map(|known| known.dev).collect();
    assert_eq!(names, devices(&["new"]));
}
