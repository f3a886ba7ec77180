//! BALs in groups.

use super::groups::{bodies, code_of, group, named_settings, owners};
use super::*;
use crate::chat::group::{GroupChange, GroupRole};
use crate::chat::suffix::invitations::{Answer, Invitation, Kind};
use crate::store::{GroupAction, GroupOutcome};

const INBOX: &str = "bal1/others/messages";

impl Chat {
    /// Alice's group with Bob and a BAL, which says itself what it has.
    async fn of_group_with_bal(limits: Limits) -> Self {
        let mut chat = Self::with(&["alice", "bob"], limits).await;
        let explicit = HashSet::from([owner("bal1")]);
        chat.policy = Arc::new(ChatPolicy { explicit, ..(*chat.policy).clone() });
        chat.write("bob", "alice", "hi").await;
        chat.create(&["bob", "bal1"], named_settings("Team")).await.unwrap();
        for user in ["alice", "bob"] {
            chat.forget(user).await;
        }
        chat
    }

    /// What waits for the BAL.
    async fn for_bal(&self) -> Vec<Value> {
        let waiting = self.rig.next(INBOX, 0).await;
        waiting.iter().map(|document| serde_json::from_slice(&document.payload).unwrap()).collect()
    }

    /// The BAL says that it has these.
    async fn takes(&self, sids: &[Sid]) {
        self.rig.store.confirm(&owner("bal1"), sids.to_vec(), self.at).await.unwrap().await.unwrap();
    }

    async fn takes_all(&self) {
        let sids: Vec<Sid> = self.for_bal().await.iter().map(sid_of).collect();
        self.takes(&sids).await;
    }

    async fn chat_sweep(&mut self) {
        while self.sweep(30 * DAY, u64::MAX).await {}
    }

    fn is_tidy(&self) {
        let figures = self.rig.store.figures();
        assert_eq!((figures.spool_rows, figures.spool_bytes), (0, 0));
        assert_eq!(self.count("SELECT count(*) FROM bal_copies"), 0);
    }
}

fn sid_of(document: &Value) -> Sid {
    Sid::parse(document["id"].as_str().unwrap()).unwrap()
}

fn receipts(told: &[Value]) -> Vec<(&str, &str)> {
    told.iter().map(|told| (told["status"].as_str().unwrap(), told["by"].as_str().unwrap_or("-"))).collect()
}

#[tokio::test]
async fn a_bal_is_put_in_at_once_and_gets_what_is_written_in_its_own_form_until_it_says_that_it_has_it() {
    let mut chat = Chat::of_group_with_bal(Limits::default()).await;
    let created = chat.for_bal().await;
    assert_eq!((&created[0]["event"], &created[0]["who"]), (&json!("created"), &json!(["bob", "bal1"])));
    chat.takes_all().await;
    let sid = chat.says("bob", "an order").await;
    let expected = json!({ "id": sid.to_string(), "to": "g-team", "type": "text", "body": "an order", "n": 2,
        "sid": sid.to_string(), "from": "bob", "group": "g-team", "dev": "phone", "ts": chat.at });
    let mut document = chat.for_bal().await.remove(0);
    document["ts"] = chat.at.into();
    assert_eq!(document, expected);
    let mut chat = chat.crash().await;
    let [again] = &chat.rig.next(INBOX, 0).await[..] else { panic!("one waits") };
    assert!(again.redelivered, "it may have been published before the crash");
    chat.rig.publish(std::slice::from_ref(again)).await;
    assert_eq!(chat.for_bal().await.len(), 1, "published is not taken");
    assert_eq!(receipts(&chat.told("bob", "receipts").await), [("sent", "-")]);
    chat.takes(&[sid]).await;
    assert_eq!(receipts(&chat.told("bob", "receipts").await), [("delivered", "bal1")], "a BAL is no stranger");
    chat.takes(&[sid]).await;
    assert!(chat.told("bob", "receipts").await.is_empty(), "once");
    chat.is_tidy();
    // All up to one.
    let (_, last) = (chat.says("bob", "one").await, chat.says("alice", "two").await);
    chat.rig.store.acked_up_to(&owner("bal1"), last, chat.at).await.unwrap();
    chat.is_tidy();
    chat.change("alice", GroupChange::Remove(owners(&["bal1"]))).await.unwrap();
    chat.says("alice", "behind its back").await;
    assert_eq!(bodies(&chat.for_bal().await), ["removed"], "the notice is its last");
}

#[tokio::test]
async fn a_bal_that_takes_what_is_published_is_told_on_once() {
    let mut chat = Chat::of_group_with_bal(Limits::default()).await;
    chat.policy = Arc::new(policy(PushWhen::default()));
    chat.takes_all().await;
    chat.says("bob", "an order").await;
    let waiting = chat.rig.next(INBOX, 0).await;
    chat.rig.publish(&waiting).await;
    assert_eq!(receipts(&chat.told("bob", "receipts").await), [("sent", "-"), ("delivered", "bal1")]);
    chat.is_tidy();
}

#[tokio::test]
async fn what_a_bal_writes_comes_to_the_members_and_never_back() {
    let mut chat = Chat::of_group_with_bal(Limits::default()).await;
    chat.register("bob", "phone", "T-bob").await;
    chat.takes_all().await;
    let unread = chat.says("alice", "a question").await;
    chat.told("bal1", "receipts").await;
    let (sid, outcome) = chat.post("bal1", &json!({ "id": "b1", "body": "an answer" }), &[]).await;
    assert_eq!(outcome, GroupOutcome::Done { waiting: Vec::new() });
    assert_eq!(chat.told("bob", "messages").await.last().unwrap()["from"], "bal1");
    assert_eq!(bodies(&chat.for_bal().await), ["a question"]);
    assert_eq!(receipts(&chat.told("bal1", "receipts").await), [("accepted", "-"), ("sent", "-")]);
    let pushes = chat.pushes().await;
    assert_eq!(pushes.iter().map(|pushed| pushed.data("title")).collect::<Vec<_>>(), ["Team: alice", "Team: bal1"]);
    chat.receipt(received("bob", &[sid])).await;
    chat.read_group("bob", sid).await;
    let told = chat.told("bal1", "receipts").await;
    assert_eq!(receipts(&told), [("delivered", "bob"), ("read", "bob")], "though it is no contact");
    assert_eq!(told[0]["id"], "b1");
    // The same once more, and something else by the same id.
    chat.forget("bob").await;
    assert_eq!(chat.post("bal1", &json!({ "id": "b1", "body": "an answer" }), &[]).await.1, GroupOutcome::Repeated);
    assert_eq!(receipts(&chat.told("bal1", "receipts").await), [("sent", "-")]);
    assert_eq!(code_of(&chat.post("bal1", &json!({ "id": "b1" }), &[]).await.1), Some(ErrorCode::Duplicate));
    assert!(chat.told("bob", "messages").await.is_empty() && chat.told("bal1", "messages").await.len() == 1);
    // Writing is no reading: it still has not read the question, and its own is not unread.
    let page = chat.conversations("bal1").await;
    assert_eq!(page.items[0].unread, 1);
    chat.forget("alice").await;
    assert!(matches!(chat.read_group("bal1", unread).await, ChatOutcome::Done { .. }));
    assert_eq!(receipts(&chat.told("alice", "receipts").await), [("delivered", "bal1"), ("read", "bal1")]);
    assert_eq!(chat.conversations("bal1").await.items[0].unread, 0);
    assert_eq!(bodies(&chat.items("bal1", None).await), ["created", "a question", "an answer"]);
}

#[tokio::test]
async fn a_bal_makes_a_group_of_users_who_never_wrote_to_it_and_owns_it() {
    let mut chat = Chat::of(&["alice", "bob", "carol"]).await;
    chat.block("carol", "bal1", true).await;
    let made = GroupAction::Create(named_settings("Support"));
    let changed = chat.change_group("bal1", made, &["alice", "bob", "carol", "bal2"]).await.unwrap();
    assert_eq!(changed.done, owners(&["alice", "bob", "bal2"]), "who has blocked it is not put in");
    assert_eq!(changed.invited.len(), 1, "and it hears nothing of that");
    assert!(chat.told("carol", "invitations").await.is_empty() && chat.told("carol", "messages").await.is_empty());
    assert_eq!(chat.count("SELECT count(*) FROM users WHERE user LIKE 'bal%'"), 0, "a BAL is no user");
    chat.change("bal1", GroupChange::Remove(owners(&["bob"]))).await.unwrap();
    chat.says("bal1", "welcome").await;
    assert_eq!(bodies(&chat.told("alice", "messages").await), ["created", "removed", "welcome"]);
    assert_eq!(bodies(&chat.told("bal2", "messages").await), ["created", "removed", "welcome"]);
    assert_eq!(bodies(&chat.told("bal1", "messages").await), ["created", "removed"], "its notices alone");
    chat.change("bal1", GroupChange::Leave).await.unwrap();
    assert_eq!(bodies(&chat.told("bal1", "messages").await), ["left"]);
    use GroupRole::{Member, Owner as Owns};
    let members = [("alice", Owns), ("bal2", Member)].map(|(name, role)| (name.to_owned(), role));
    assert_eq!(chat.members_of_group().await, members);
    assert_eq!(code_of(&chat.post("bal1", &json!({}), &[]).await.1), Some(ErrorCode::NotMember));
    assert_eq!(chat.change("bal1", GroupChange::Dissolve).await, Err(ErrorCode::NotMember));
    // It may come back by an invitation as well.
    chat.at += 1;
    let sid = chat.rig.sids.next(chat.at, 0);
    let kind = Kind::Request { body: None, expires: None, group: Some(group()) };
    let invitation = Invitation { id: None, to: owner("bal1"), kind, dev: None };
    let to = Peer { role: Some(Role::Bal), ..peer("bal1", &[]) };
    assert!(matches!(chat.writes_invitation(writer("alice"), to, sid, invitation).await, ChatOutcome::Done { .. }));
    assert_eq!(chat.told("bal1", "invitations").await[0]["group"], "g-team");
    let invitation = Invitation { id: None, to: owner("alice"), kind: Kind::Answer(Answer::Accept, sid), dev: None };
    let answer = chat.rig.sids.next(chat.at, 0);
    let outcome = chat.writes_invitation(bal("bal1"), peer("alice", &[]), answer, invitation).await;
    assert!(matches!(outcome, ChatOutcome::Done { .. }), "{outcome:?}");
    assert_eq!(bodies(&chat.told("bal1", "messages").await), ["joined"]);
}

impl Chat {
    pub(super) async fn writes_invitation(
        &mut self,
        from: Writer,
        to: Peer,
        sid: Sid,
        invitation: Invitation,
    ) -> ChatOutcome {
        let call = self.call();
        self.rig.store.chat_invite(NewInvitation { sid, from, to, invitation }, call).await.unwrap().await.unwrap()
    }
}

#[tokio::test]
async fn block_holds_for_a_bal_in_a_group() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    chat.write("bob", "alice", "hi").await;
    chat.block("bal1", "alice", true).await;
    let changed = chat.create(&["bob", "bal1"], named_settings("Team")).await.unwrap();
    assert_eq!((changed.done, changed.invited), (owners(&["bob"]), Vec::new()));
    chat.block("bal1", "alice", false).await;
    chat.change("alice", GroupChange::Add(owners(&["bal1"]))).await.unwrap();
    chat.block("bal1", "bob", true).await;
    chat.told("bal1", "messages").await;
    chat.forget("bob").await;
    let sid = chat.says("bob", "psst").await;
    let [place] = &chat.told("bal1", "messages").await[..] else { panic!("its place") };
    assert_eq!((&place["type"], &place["id"], &place["n"]), (&json!("tombstone"), &json!(sid.to_string()), &json!(3)));
    assert!(place.get("body").is_none() && place.get("dev").is_none());
    assert_eq!(receipts(&chat.told("bob", "receipts").await), [("sent", "-")]);
}

#[tokio::test]
async fn edits_and_retracts_come_to_a_bal_and_are_made_by_one() {
    let mut chat = Chat::of_group_with_bal(Limits::default()).await;
    let sid = chat.says("bob", "to buy").await;
    let edit = json!({ "type": "edit", "ref": sid.to_string(), "body": "to sell" });
    chat.post("bob", &edit, &[]).await;
    let own = chat.says("bal1", "sold").await;
    chat.told("bal1", "receipts").await;
    let (_, outcome) = chat.post("bal1", &json!({ "type": "edit", "ref": sid.to_string(), "body": "mine" }), &[]).await;
    assert_eq!(code_of(&outcome), Some(ErrorCode::Forbidden));
    chat.forget("alice").await;
    let (_, outcome) =
        chat.post("bal1", &json!({ "type": "retract", "ref": own.to_string(), "body": null }), &[]).await;
    assert!(matches!(outcome, GroupOutcome::Done { .. }), "{outcome:?}");
    assert_eq!(chat.told("alice", "messages").await[0]["ref"], own.to_string());
    assert_eq!(receipts(&chat.told("bal1", "receipts").await), [("accepted", "-"), ("sent", "-")]);
    let got = chat.for_bal().await;
    assert_eq!(bodies(&got), ["created", "to buy", "to sell"]);
    assert_eq!((&got[2]["type"], &got[2]["ref"], &got[2]["group"]), (&json!("edit"), &got[1]["id"], &json!("g-team")));
}

#[tokio::test]
async fn a_group_does_not_wait_for_a_bal_without_room_and_the_bal_gets_everything_in_order_later() {
    let limits = Limits { spool_rows: 2, ..Limits::default() };
    let mut chat = Chat::of_group_with_bal(limits).await;
    let first = chat.says("bob", "one").await;
    for body in ["two", "three"] {
        chat.says("bob", body).await;
    }
    assert_eq!(bodies(&chat.for_bal().await), ["created", "one"]);
    assert_eq!(bodies(&chat.told("alice", "messages").await), ["one", "two", "three"]);
    chat.chat_sweep().await;
    assert_eq!(chat.for_bal().await.len(), 2, "there is no room yet");
    let mut chat = chat.crash().await;
    chat.takes(&[first]).await;
    // There is room for one, and another one waits.
    chat.says("bob", "four").await;
    assert_eq!(bodies(&chat.for_bal().await), ["created"]);
    chat.chat_sweep().await;
    assert_eq!(bodies(&chat.for_bal().await), ["created", "two"]);
    chat.takes_all().await;
    chat.chat_sweep().await;
    assert_eq!(bodies(&chat.for_bal().await), ["three", "four"]);
    chat.takes_all().await;
    chat.is_tidy();
}

#[tokio::test]
async fn what_expires_or_is_erased_waits_for_no_bal() {
    let mut chat = Chat::of_group_with_bal(Limits { spool_rows: 3, ..Limits::default() }).await;
    let expires = json!({ "body": "for now", "expires": chat.at + MINUTE });
    for _ in 0..3 {
        chat.post("alice", &expires, &[]).await;
    }
    chat.at += MINUTE;
    chat.chat_sweep().await;
    assert_eq!(bodies(&chat.for_bal().await), ["created"]);
    assert_eq!((chat.count("SELECT count(*) FROM bal_copies"), chat.rig.store.figures().spool_rows), (1, 1));
    chat.says("bob", "a secret").await;
    chat.says("alice", "no secret").await;
    chat.says("bob", "one more").await;
    chat.erase("bob").await;
    chat.chat_sweep().await;
    let left = chat.for_bal().await;
    let texts = ["tombstone", "text", "notice"];
    assert!(left.iter().all(|document| texts.contains(&document["type"].as_str().unwrap())), "{left:?}");
    assert!(!json!(left).to_string().contains("bob") && json!(left).to_string().contains("no secret"));
    chat.takes_all().await;
    chat.chat_sweep().await;
    chat.takes_all().await;
    chat.is_tidy();
}
