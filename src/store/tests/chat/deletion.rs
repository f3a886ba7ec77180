//! Own copies that are deleted, and conversations that are put away.

use super::*;
use crate::chat::group::GroupChange;
use crate::chat::suffix::invitations::{Answer, Invitation, Kind};

impl Chat {
    pub(in crate::store::tests) async fn delete(
        &mut self,
        user: &str,
        of: DeletionOf,
    ) -> Result<Option<Sid>, Rejection> {
        let told = Bytes::from(r#"{"id":"d1","op":"delete"}"#);
        let deletion = Deletion { user: owner(user), dev: Some(device("web")), connected: devices(&["web"]), of, told };
        let call = self.call();
        self.rig.store.chat_delete(deletion, call).await.unwrap().await.unwrap()
    }

    async fn delete_all(&mut self, user: &str, with: &str) -> Option<Sid> {
        self.delete(user, DeletionOf::All(owner(with))).await.unwrap()
    }

    async fn delete_each(&mut self, user: &str, sids: &[Sid]) -> Result<Option<Sid>, Rejection> {
        self.delete(user, DeletionOf::Each(sids.to_vec())).await
    }

    pub(in crate::store::tests) async fn archive(&mut self, user: &str, with: &str, on: bool) -> Result<(), Rejection> {
        let told = Bytes::from(r#"{"op":"archive"}"#);
        let (user, with, call) = (owner(user), owner(with), self.call());
        let archiving = Archiving { user, dev: Some(device("web")), connected: devices(&["web"]), with, on, told };
        self.rig.store.chat_archive(archiving, call).await.unwrap().await.unwrap()
    }
}

fn sids(items: &[Value]) -> Vec<String> {
    items.iter().map(|item| item["sid"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_single_item_leaves_a_tombstone_on_one_side_and_is_whole_on_the_other() {
    let mut chat = Chat::of_two().await;
    let mut written = Vec::new();
    for n in 0..4 {
        written.push(chat.write("alice", "bob", &format!("body {n}")).await);
    }
    chat.register("bob", "phone", "T1").await;
    let last = chat.write("alice", "bob", "body 4").await;
    chat.pushes().await;
    chat.forget("bob").await;
    assert_eq!(chat.delete_each("bob", &[written[1], last]).await, Ok(None));
    assert_eq!(chat.told("bob", "changes").await, [json!({ "id": "d1", "op": "delete" })]);
    assert_eq!(whats(&chat.pushes().await), [("T1", "clear")], "the phone showed one of them");
    assert_eq!(chat.unread("bob"), 3);
    let shown: Vec<_> = chat.history("bob", "alice").await.split_off(3);
    let kinds: Vec<_> = shown.iter().map(|item| item["why"].as_str().unwrap_or("whole")).collect();
    assert_eq!(kinds, ["whole", "deleted", "whole", "whole", "deleted"]);
    assert_eq!(shown.iter().map(|item| item["n"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 5, 6, 7, 8], "no hole");
    assert!(shown[1].get("body").is_none() && shown[1]["from"] == "alice");
    assert_eq!(chat.synced("bob").await.split_off(3), shown);
    assert!(chat.history("alice", "bob").await.iter().all(|item| item.get("why").is_none()));
    let conversations = chat.conversations("bob").await;
    assert_eq!(conversations.items[0].place, written[3], "the newest that is left");
    chat.read("bob", "alice", written[0]).await;
    assert_eq!(chat.unread("bob"), 2, "the deleted ones behind it are not counted");
    chat.read("bob", "alice", last).await;
    assert_eq!(chat.unread("bob"), 0);

    // An edit of what is deleted here brings nothing of it back.
    chat.forget("bob").await;
    let edit = json!({ "type": "edit", "ref": written[1].to_string(), "body": "again" });
    chat.amend("alice", "bob", &edit).await;
    assert!(chat.told("bob", "messages").await.is_empty());
    assert_eq!(chat.synced("bob").await.len(), 8);
    let nothing = chat.delete_each("bob", &[written[0], Sid::parse("06eqbd3gy0001ab2").unwrap()]).await;
    assert_eq!(nothing.unwrap_err().code(), ErrorCode::NotFound);
    assert_eq!(chat.history("bob", "alice").await[3]["body"], "body 0", "all or none of them");
}

#[tokio::test]
async fn all_of_a_conversation_is_gone_up_to_then_and_nothing_is_told_to_the_other_side() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    for n in 0..3 {
        chat.write("alice", "bob", &format!("body {n}")).await;
    }
    let last = chat.write("alice", "bob", "last").await;
    chat.pushes().await;
    for user in ["alice", "bob"] {
        chat.forget(user).await;
    }
    assert_eq!(chat.delete_all("bob", "alice").await, Some(last));
    let told = json!({ "id": "d1", "op": "delete", "up_to": last.to_string() });
    assert_eq!(chat.told("bob", "changes").await, [told]);
    assert_eq!((chat.unread("bob"), whats(&chat.pushes().await)), (0, vec![("T1", "clear")]));
    assert!(chat.history("bob", "alice").await.is_empty() && chat.synced("bob").await.is_empty());
    assert!(chat.conversations("bob").await.items.is_empty());
    assert!(chat.told("alice", "receipts").await.is_empty(), "deleting is no reading");
    assert_eq!((chat.history("alice", "bob").await.len(), chat.conversations("alice").await.items.len()), (7, 1));

    let next = chat.write("alice", "bob", "next").await;
    let history = chat.history("bob", "alice").await;
    assert_eq!((sids(&history), history[0]["n"].as_u64()), (vec![next.to_string()], Some(8)));
    assert_eq!((chat.unread("bob"), sids(&chat.synced("bob").await)), (1, vec![next.to_string()]));
    let further = chat.write("alice", "bob", "further").await;
    chat.read("bob", "alice", next).await;
    assert_eq!(chat.unread("bob"), 1);
    chat.retract("alice", "bob", last).await;
    assert_eq!(chat.unread("bob"), 1, "that was deleted with all");
    assert_eq!(chat.delete_all("bob", "carol").await, None);
    assert!(chat.delete_all("bob", "alice").await > Some(further), "what changed a message counts");
}

#[tokio::test]
async fn what_both_sides_have_deleted_is_buried() {
    let mut chat = Chat::of_two().await;
    let mut written = Vec::new();
    for n in 0..300 {
        written.push(chat.write("alice", "bob", &format!("text {n}")).await);
    }
    chat.block("bob", "alice", true).await;
    let unheard = chat.write("alice", "bob", "swallowed text").await;
    let note = chat.write("alice", "alice", "text to oneself").await;
    chat.delete_each("alice", &[unheard, note, written[5]]).await.unwrap();
    assert!(!chat.is_kept("swallowed") && !chat.is_kept("oneself") && chat.is_kept("text 5\""));
    chat.delete_all("bob", "alice").await;
    assert!(!chat.is_kept("text 5\"") && chat.is_kept("text 6\""));
    chat.delete_all("alice", "bob").await;
    assert!(chat.is_kept("text 299"), "a chunk at a time");
    while chat.sweep(u64::MAX, u64::MAX).await {}
    assert!(!chat.is_kept("text") && !chat.is_kept("fine"));
    assert_eq!(chat.count("SELECT count(*) FROM purges"), 0);
    let kept = chat.count("SELECT sum(length(document)) FROM chat");
    assert_eq!(chat.rig.store.figures().chat_bytes as i64, kept);
    chat.at += DAY;
    while chat.sweep(0, 0).await {}
    assert_eq!((chat.count("SELECT count(*) FROM deleted"), chat.count("SELECT count(*) FROM chat")), (0, 0));
    assert_eq!((chat.unread("bob"), chat.unread("alice")), (0, 0));
}

#[tokio::test]
async fn what_one_side_has_deleted_goes_with_the_others_deletion_of_all_in_any_order() {
    let mut chat = Chat::of_two().await;
    let first = chat.write("alice", "bob", "first text").await;
    let second = chat.write("alice", "bob", "second text").await;
    chat.delete_all("bob", "alice").await;
    assert!(chat.is_kept("first") && chat.is_kept("second"));
    chat.delete_each("alice", &[first]).await.unwrap();
    assert!(!chat.is_kept("first") && chat.is_kept("second"));
    chat.delete_each("alice", &[second]).await.unwrap();
    assert!(!chat.is_kept("second"));
}

#[tokio::test]
async fn a_conversation_is_put_away_until_a_new_message_comes_unless_it_is_muted() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    chat.write("alice", "bob", "hi").await;
    chat.pushes().await;
    let is_archived = async |chat: &Chat| chat.conversations("bob").await.items[0].archived;
    chat.archive("bob", "alice", true).await.unwrap();
    assert_eq!(chat.told("bob", "changes").await, [json!({ "op": "archive" })]);
    assert_eq!(whats(&chat.pushes().await), [("T1", "clear")]);
    assert!(is_archived(&chat).await && !chat.conversations("alice").await.items[0].archived);
    assert_eq!(chat.unread("bob"), 1);
    chat.write("alice", "bob", "ho").await;
    assert!(!is_archived(&chat).await);
    chat.set("bob", SettingChange::About(owner("alice"), EntryChange::Mute(Some((u64::MAX, MuteLevel::None))))).await;
    chat.archive("bob", "alice", true).await.unwrap();
    chat.write("alice", "bob", "hm").await;
    assert!(is_archived(&chat).await);
    chat.archive("bob", "alice", false).await.unwrap();
    assert!(!is_archived(&chat).await);
    assert_eq!(chat.archive("bob", "carol", true).await.unwrap_err().code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn what_is_no_message_to_its_user_takes_no_conversation_out() {
    let mut chat = Chat::of_two().await;
    let sid = chat.write("bob", "alice", "hi").await;
    chat.archive("bob", "alice", true).await.unwrap();
    let is_archived = async |chat: &Chat| chat.conversations("bob").await.items[0].archived;
    let reaction = json!({ "to": "bob", "type": "reaction", "ref": sid.to_string(), "body": "+1" });
    assert!(matches!(chat.send(writer("alice"), peer("bob", &[]), &reaction).await.1, ChatOutcome::Done { .. }));
    assert!(is_archived(&chat).await, "a reaction");
    chat.block("bob", "alice", true).await;
    chat.write("alice", "bob", "are you there").await;
    assert!(is_archived(&chat).await, "what was swallowed");
    chat.block("bob", "alice", false).await;
    chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "offer" })).await;
    assert!(is_archived(&chat).await);
    chat.end_due(chat.at + MINUTE, &[]).await;
    let shown = (is_archived(&chat).await, chat.unread("bob"));
    assert_eq!(shown, (false, 1), "a call that was missed counts like a message");
}

/// Without its text nobody knows whether it was into a group.
#[tokio::test]
async fn an_invitation_that_both_have_deleted_is_not_answered() {
    let mut chat = Chat::of_group(&["bob"]).await;
    chat.rig.store.chat_user_seen(owner("dora")).await.unwrap().await.unwrap();
    let added = chat.change("alice", GroupChange::Add(vec![owner("dora")])).await.unwrap();
    let (_, sid, _) = added.invited[0];
    for user in ["alice", "dora"] {
        chat.delete_each(user, &[sid]).await.unwrap();
    }
    let accept = Invitation { id: None, to: owner("alice"), kind: Kind::Answer(Answer::Accept, sid), dev: None };
    let own = chat.rig.sid();
    let outcome = chat.writes_invitation(writer("dora"), peer("alice", &[]), own, accept).await;
    assert_eq!(code(&outcome), Some(ErrorCode::NotFound));
}

/// The list has it still, by its place.
#[tokio::test]
async fn a_conversation_of_which_nothing_is_kept_can_be_deleted() {
    let mut chat = Chat::of_two().await;
    let last = chat.write("alice", "bob", "hi").await;
    chat.at += 31 * DAY;
    while chat.sweep(30 * DAY, u64::MAX).await {}
    assert_eq!(chat.conversations("bob").await.items.len(), 1);
    let up_to = chat.delete_all("bob", "alice").await.unwrap();
    assert!(up_to >= last && up_to.row() == last.row());
    assert_eq!((chat.conversations("bob").await.items.len(), chat.conversations("alice").await.items.len()), (0, 1));
    assert_eq!(chat.told("bob", "changes").await[0]["up_to"], up_to.to_string());
    chat.write("alice", "bob", "new").await;
    assert_eq!(chat.conversations("bob").await.items[0].unread, 1);
}
