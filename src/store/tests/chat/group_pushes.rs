//! Which members of a group are pushed, and when.

use super::groups::{group, owners};
use super::*;
use crate::chat::contact::MuteLevel;
use crate::store::GroupOutcome;

#[tokio::test]
async fn members_who_look_are_waited_for_and_each_device_is_pushed_once() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.register("bob", "phone", "T-bob").await;
    chat.register("carol", "phone", "T-carol").await;
    let (sid, outcome) = chat.post("alice", &json!({}), &[("bob", &["web"])]).await;
    assert_eq!(outcome, GroupOutcome::Done { waiting: owners(&["bob"]) });
    assert_eq!(whats(&chat.pushes().await), [("T-carol", "message")]);
    let mut chat = chat.crash().await;
    let undecided = chat.rig.store.chat_undecided(chat.at - MINUTE).await.unwrap().await.unwrap();
    assert_eq!(undecided.iter().map(|one| (one.user.as_str(), &*one.sids)).collect::<Vec<_>>(), [("bob", &[sid][..])]);
    assert_eq!(chat.decide_for("bob", &[sid], &["web"]).await, [sid]);
    assert!(chat.decide_for("bob", &[sid], &[]).await.is_empty());
    assert_eq!(whats(&chat.pushes().await), [("T-bob", "message")]);
    for _ in 0..2 {
        assert!(chat.decide_for("bob", &[sid], &[]).await.is_empty());
        assert!(chat.pushes().await.is_empty(), "one push each");
    }
    assert!(chat.decide_for("alice", &[sid], &[]).await.is_empty());
    let explained = chat.rig.store.chat_explain(owner("bob"), sid).await.unwrap().await.unwrap().unwrap();
    assert!(explained.devices[0].push.is_some() && !explained.waits);
    assert_eq!(explained.devices[0].rule, crate::chat::push_decision::Rule::Attended, "as it was decided first");
    assert!(chat.rig.store.chat_explain(owner("alice"), sid).await.unwrap().await.unwrap().is_none());

    // The notification goes where the group is read elsewhere.
    chat.read_group("carol", sid).await;
    assert!(chat.pushes().await.is_empty(), "the phone itself read it");
    let web = NewReceipt { dev: Some(device("web")), ..received("bob", &[]) };
    chat.receipt(NewReceipt { read: true, of: ReceiptOf::In(group().into(), sid), ..web }).await;
    let clears = chat.pushes().await;
    assert_eq!((whats(&clears), clears[0].data("with")), (vec![("T-bob", "clear")], "g-team"));
}

#[tokio::test]
async fn a_confirmation_of_an_attended_device_ends_the_wait_of_its_user_alone() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.register("bob", "phone", "T-bob").await;
    chat.register("carol", "phone", "T-carol").await;
    let (sid, _) = chat.post("alice", &json!({}), &[]).await;
    let web = NewReceipt { dev: Some(device("web")), attended: true, ..received("bob", &[sid]) };
    chat.receipt(web).await;
    assert_eq!(whats(&chat.pushes().await), [("T-carol", "message")], "what had not left is taken back");
    let (sid, _) = chat.post("alice", &json!({}), &[("bob", &["web"])]).await;
    chat.pushes().await;
    chat.receipt(NewReceipt { dev: Some(device("tab")), ..received("bob", &[sid]) }).await;
    chat.decide_for("bob", &[sid], &[]).await;
    assert_eq!(whats(&chat.pushes().await), [("T-bob", "message")], "a hidden tab says nothing of the phone");

    let mut chat = chat;
    chat.policy = Arc::new(policy(PushWhen::PerDevice));
    chat.register("bob", "web", "T-web").await;
    let (sid, outcome) = chat.post("alice", &json!({}), &[("bob", &["web"])]).await;
    assert_eq!(outcome, GroupOutcome::Done { waiting: owners(&["bob"]) });
    assert_eq!(chat.pushes().await.iter().filter(|pushed| pushed.token == "T-bob").count(), 1);
    chat.receipt(NewReceipt { dev: Some(device("web")), attended: true, ..received("bob", &[sid]) }).await;
    assert!(chat.decide_for("bob", &[sid], &[]).await.is_empty());
    assert!(chat.pushes().await.is_empty(), "the one that waited for itself has it");
}

#[tokio::test]
async fn a_muted_group_is_not_pushed_and_still_counts() {
    let mut chat = Chat::of_group(&["bob"]).await;
    chat.register("bob", "phone", "T-bob").await;
    let mute = EntryChange::Mute(Some((chat.at + DAY, MuteLevel::None)));
    chat.set("bob", SettingChange::About(group().into(), mute)).await;
    chat.says("alice", "quiet").await;
    assert!(chat.pushes().await.is_empty());
    let contacts = chat.rig.store.chat_contacts(owner("bob"), String::new()).await.unwrap().await.unwrap();
    assert_eq!(
        contacts.items.iter().map(|one| one.user.as_str()).collect::<Vec<_>>(),
        ["alice"],
        "a group is no contact"
    );
}

#[tokio::test]
async fn without_ids_pushes_wait_and_are_made_later() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.register("bob", "phone", "T-bob").await;
    chat.register("carol", "phone", "T-carol").await;
    let (sid, outcome) = chat.post_with(&json!({}), 1).await;
    assert_eq!(outcome, GroupOutcome::Done { waiting: owners(&["carol"]) });
    assert_eq!(whats(&chat.pushes().await), [("T-bob", "message")]);
    assert!(chat.decide_for("carol", &[sid], &[]).await.is_empty());
    assert_eq!(whats(&chat.pushes().await), [("T-carol", "message")]);
}

#[tokio::test]
async fn with_the_level_mentions_a_member_is_pushed_for_what_names_it() {
    let mut chat = Chat::of_group(&["bob"]).await;
    chat.register("bob", "phone", "T-bob").await;
    let mute = EntryChange::Mute(Some((chat.at + DAY, MuteLevel::Mentions)));
    chat.set("bob", SettingChange::About(group().into(), mute)).await;
    chat.says("alice", "to all").await;
    chat.post("alice", &json!({ "body": "to bob", "mentions": ["bob"] }), &[]).await;
    chat.post("alice", &json!({ "body": "to everybody", "mentions": ["*"] }), &[]).await;
    let pushes = chat.pushes().await;
    assert_eq!(pushes.iter().map(|pushed| pushed.data("body")).collect::<Vec<_>>(), ["to bob", "to everybody"]);
    let item = chat.group_shown("bob").await;
    assert_eq!((item.unread, item.mentions), (3, 2));
}
