//! Which members of a group are pushed, and when.

use super::groups::{group, owners};
use super::pushes::with_room_for;
use super::*;
use crate::chat::contact::MuteLevel;
use crate::chat::push_decision::{Rule, Verdict};
use crate::chat::suffix::requests::DeletionOf;
use crate::store::{Archiving, GroupOutcome};

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
    assert_eq!(explained.devices[0].rule, Rule::Attended, "as it was decided first");
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

impl Chat {
    /// Members with pushes that wait for room, of so many at most.
    async fn without_room(&self, limit: usize) -> Vec<(String, usize)> {
        let waiting = self.rig.store.chat_unpushed(limit).await.unwrap().await.unwrap();
        waiting.into_iter().map(|one| (one.user.to_string(), one.sids.len())).collect()
    }

    async fn rules_of(&self, user: &str, sid: Sid) -> Vec<(String, Verdict, Rule)> {
        let explained = self.rig.store.chat_explain(owner(user), sid).await.unwrap().await.unwrap().unwrap();
        explained.devices.into_iter().map(|device| (device.dev, device.verdict, device.rule)).collect()
    }

    /// Bob's web client, at which he looks, confirms it.
    async fn confirm_on_web(&mut self, user: &str, sid: Sid) {
        self.receipt(NewReceipt { dev: Some(device("web")), attended: true, ..received(user, &[sid]) }).await;
    }
}

/// A group of alice and these, each with a phone.
async fn with_phones(members: &[&str]) -> Chat {
    let mut chat = Chat::of_group(members).await;
    for member in members {
        chat.register(member, "phone", &format!("T-{member}")).await;
    }
    chat
}

#[tokio::test]
async fn a_push_that_waits_for_room_waits_until_nobody_needs_it() {
    let mut chat = with_room_for(with_phones(&["bob", "carol", "dave", "erin", "frank"]).await, 0).await;
    let (sid, _) = chat.post("alice", &json!({}), &[]).await;
    let one = |name: &str| (name.to_owned(), 1);
    assert_eq!(chat.without_room(10).await, ["bob", "carol", "dave", "erin", "frank"].map(one));
    assert_eq!(chat.without_room(2).await, ["bob", "carol"].map(one), "so many at once");
    assert_eq!(chat.rules_of("bob", sid).await, [("phone".to_owned(), Verdict::Wait, Rule::NoRoom)]);
    assert_eq!(chat.decide_for("bob", &[sid], &[]).await, [sid], "there is still no room");
    chat.confirm_on_web("bob", sid).await;
    assert_eq!(chat.without_room(10).await, ["carol", "dave", "erin", "frank"].map(one), "he has it");
    let mute = EntryChange::Mute(Some((chat.at + DAY, MuteLevel::None)));
    chat.set("carol", SettingChange::About(group().into(), mute)).await;
    assert!(chat.decide_for("carol", &[sid], &[]).await.is_empty());
    assert_eq!(chat.without_room(10).await, ["dave", "erin", "frank"].map(one), "she wants none");
    assert_eq!(chat.decide_for("dave", &[sid], &["web"]).await, [sid], "he looks by now, and has his time for it");
    assert_eq!(chat.without_room(10).await, ["erin", "frank"].map(one));
    chat.read_group("erin", sid).await;
    let mut chat = with_room_for(chat, 10).await;
    assert_eq!(chat.without_room(10).await, [one("frank")]);
    assert!(chat.decide_for("frank", &[sid], &[]).await.is_empty());
    assert!(chat.without_room(10).await.is_empty());
    assert_eq!(
        (chat.rig.store.figures().chat_unpushed, whats(&chat.pushes().await)),
        (0, vec![("T-frank", "message")])
    );
}

#[tokio::test]
async fn a_push_for_which_there_is_no_room_when_its_wait_is_over_waits_for_that() {
    let mut chat = with_room_for(with_phones(&["bob"]).await, 0).await;
    let (sid, _) = chat.post("alice", &json!({}), &[("bob", &["web"])]).await;
    assert!(chat.without_room(10).await.is_empty());
    assert_eq!(chat.decide_for("bob", &[sid], &[]).await, [sid]);
    assert_eq!(chat.without_room(10).await, [("bob".to_owned(), 1)]);
    let mut chat = with_room_for(chat, 10).await;
    assert_eq!(chat.rig.store.figures().chat_unpushed, 1);
    assert!(chat.decide_for("bob", &[sid], &[]).await.is_empty());
    assert_eq!(whats(&chat.pushes().await), [("T-bob", "message")]);
}

#[tokio::test]
async fn each_device_of_a_member_has_its_own_rule() {
    let mut chat = with_phones(&["bob"]).await;
    chat.policy = Arc::new(policy(PushWhen::PerDevice));
    chat.register("bob", "web", "T-web").await;
    let first = registers("bob", "watch", Some(registration("T-watch", &json!({ "first": true }))));
    chat.change_device(first).await;
    chat.post("alice", &json!({}), &[]).await;
    chat.pushes().await;
    let mut chat = with_room_for(chat, 0).await;
    let (sid, outcome) = chat.post("alice", &json!({}), &[("bob", &["web"])]).await;
    assert_eq!(outcome, GroupOutcome::Done { waiting: owners(&["bob"]) });
    let rules = [
        ("phone", Verdict::Wait, Rule::NoRoom),
        ("watch", Verdict::None, Rule::First),
        ("web", Verdict::Wait, Rule::Attended),
    ];
    assert_eq!(chat.rules_of("bob", sid).await, rules.map(|(dev, verdict, rule)| (dev.to_owned(), verdict, rule)));
    let mut chat = with_room_for(chat, 10).await;
    assert_eq!(chat.without_room(10).await, [("bob".to_owned(), 1)]);
    assert_eq!(chat.decide_for("bob", &[sid], &["web"]).await, [sid], "the web client still waits for itself");
    assert_eq!(whats(&chat.pushes().await), [("T-bob", "message")]);
    assert!(chat.without_room(10).await.is_empty());
}

#[tokio::test]
async fn nobody_is_pushed_later_for_what_is_gone_or_put_away() {
    let mut chat = with_phones(&["bob", "carol", "dave"]).await;
    let looking: [(&str, &[&str]); 3] = [("bob", &["web"]), ("carol", &["web"]), ("dave", &["web"])];
    let (first, _) = chat.post("alice", &json!({}), &looking).await;
    let (second, _) = chat.post("alice", &json!({}), &looking).await;
    chat.post("alice", &json!({ "type": "retract", "ref": second.to_string(), "body": null }), &[]).await;
    chat.delete_of_group("bob", DeletionOf::Each(vec![first])).await;
    let (with, told) = (Owner::from(group()), Bytes::from("{}"));
    let archiving = Archiving { user: owner("carol"), dev: None, connected: Vec::new(), with, on: true, told };
    let call = chat.call();
    chat.rig.store.chat_archive(archiving, call).await.unwrap().await.unwrap().unwrap();
    let undecided = chat.rig.store.chat_undecided(0).await.unwrap().await.unwrap();
    assert!(undecided.iter().all(|one| one.sids == [first]), "what is retracted waits no more: {undecided:?}");
    for member in ["bob", "carol", "dave"] {
        assert!(chat.decide_for(member, &[first, second], &[]).await.is_empty());
    }
    assert_eq!(whats(&chat.pushes().await), [("T-dave", "message")], "the first one, which he has");
}

#[tokio::test]
async fn what_a_device_has_confirmed_is_remembered_as_long_as_it_is_unread() {
    let mut chat = with_phones(&["bob"]).await;
    chat.policy = Arc::new(policy(PushWhen::PerDevice));
    chat.register("bob", "web", "T-web").await;
    let mut sids = Vec::new();
    for _ in 0..2 {
        sids.push(chat.post("alice", &json!({}), &[("bob", &["web"])]).await.0);
        chat.confirm_on_web("bob", sids[sids.len() - 1]).await;
    }
    chat.post("alice", &json!({ "type": "retract", "ref": sids[1].to_string(), "body": null }), &[]).await;
    chat.pushes().await;
    chat.decide_for("bob", &sids, &[]).await;
    assert!(chat.pushes().await.is_empty(), "the retract says nothing of the message before");
    assert_eq!(chat.count("SELECT count(*) FROM group_confirmed"), 1);
    chat.at += 10 * DAY;
    while chat.sweep(DAY, u64::MAX).await {}
    assert_eq!(chat.count("SELECT count(*) FROM group_confirmed"), 0, "nobody has read it");
}
