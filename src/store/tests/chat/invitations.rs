//! Invitations and their answers.

use super::groups::owners;
use super::*;
use crate::chat::group::GroupChange;
use crate::chat::suffix::invitations::{Invitation, OPEN_MS};

impl Chat {
    async fn invite_as(&mut self, from: Writer, to: Peer, document: &Value) -> (Sid, ChatOutcome) {
        let mut document = document.clone();
        document["to"] = json!(to.name.as_str());
        let invitation = Invitation::parse(document.to_string().as_bytes(), &PayloadLimits::default()).unwrap();
        self.at += 1;
        let sid = self.rig.sids.next(self.at, 0);
        let call = self.call();
        let new = NewInvitation { sid, from, to, invitation };
        (sid, self.rig.store.chat_invite(new, call).await.unwrap().await.unwrap())
    }

    async fn invite(&mut self, from: &str, to: &str, document: &Value) -> (Sid, ChatOutcome) {
        self.invite_as(writer(from), peer(to, &[]), document).await
    }

    async fn answer(&mut self, from: &str, to: &str, what: &str, sid: Sid) -> ChatOutcome {
        self.invite(from, to, &json!({ "type": what, "ref": sid.to_string() })).await.1
    }
}

fn request() -> Value {
    json!({ "id": "i1", "type": "request", "body": "it is me" })
}

fn done(seen: Vec<Seeing>, stranger: bool) -> ChatOutcome {
    ChatOutcome::Done { seen, stranger, waits: false, confirmed: Vec::new() }
}

fn sees(watcher: &str, of: &str) -> Seeing {
    Seeing { watcher: owner(watcher), of: owner(of), visible: true }
}

#[tokio::test]
async fn an_invitation_is_pushed_and_its_acceptance_makes_contacts_of_both() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    let profile = json!({ "name": "Alice", "image": "https://a/b", "status": "busy" }).to_string();
    chat.rig.store.chat_profile(owner("alice"), Some(profile)).await.unwrap().await.unwrap();
    chat.set("bob", SettingChange::Writers(Writers::Contacts)).await;
    chat.register("bob", "phone", "T1").await;
    chat.register("bob", "tablet", "T2").await;
    let forged = json!({ "id": "i1", "type": "request", "body": "it is me", "name": "Bank", "image": "https://x" });
    let (sid, outcome) = chat.invite("alice", "bob", &forged).await;
    assert_eq!(outcome, done(vec![sees("bob", "alice")], true));
    let (s1, at) = (sid.to_string(), chat.at);
    let copy = json!({ "sid": s1, "ts": at, "from": "alice", "id": "i1", "to": "bob", "type": "request",
        "body": "it is me", "expires": at + OPEN_MS, "name": "Alice", "image": "https://a/b" });
    assert_eq!(chat.told("bob", "invitations").await, std::slice::from_ref(&copy));
    let own = chat.told("alice", "invitations").await;
    assert_eq!((own.len(), &own[0]["dev"], &own[0]["sid"]), (1, &json!("phone"), &json!(s1)));
    let pushes = chat.pushes().await;
    assert_eq!(whats(&pushes), [("T1", "invitation"), ("T2", "invitation")]);
    assert_eq!((pushes[0].data("title"), pushes[0].data("body")), ("Alice (alice)", "it is me"));
    assert_eq!(pushes[0].push["priority"], "high");

    assert_eq!(chat.answer("bob", "alice", "accept", sid).await, done(vec![sees("alice", "bob")], false));
    let accepted = chat.told("alice", "invitations").await;
    assert_eq!(
        (&accepted[0]["type"], &accepted[0]["ref"], &accepted[0]["from"]),
        (&json!("accept"), &json!(s1), &json!("bob"))
    );
    assert_eq!(chat.told("bob", "invitations").await.len(), 1);
    let cleared = chat.pushes().await;
    assert_eq!(whats(&cleared), [("T2", "clear")], "not at the device that answered");
    for what in ["accept", "decline"] {
        assert_eq!(code(&chat.answer("bob", "alice", what, sid).await), Some(ErrorCode::Duplicate));
    }
    assert_eq!(code(&chat.answer("alice", "bob", "cancel", sid).await), Some(ErrorCode::Duplicate));
    let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &json!({ "to": "bob", "body": "hi" })).await;
    assert_eq!(outcome, done(Vec::new(), false));
    assert_eq!(chat.told("bob", "messages").await[0]["n"], 1, "an invitation has no place among the messages");
    let page = chat.page("bob", None).await;
    assert_eq!(page.items.len(), 3);
    assert_eq!(serde_json::from_slice::<Value>(&page.items[0]).unwrap(), copy);
}

#[tokio::test]
async fn only_the_invited_answers_and_only_who_invited_cancels() {
    let mut chat = Chat::of(&["alice", "bob", "eve"]).await;
    let (sid, _) = chat.invite("alice", "bob", &request()).await;
    for (from, to, what, expected) in [
        ("alice", "bob", "accept", ErrorCode::Forbidden),
        ("alice", "bob", "decline", ErrorCode::Forbidden),
        ("bob", "alice", "cancel", ErrorCode::Forbidden),
        ("eve", "alice", "accept", ErrorCode::NotFound),
        ("bob", "eve", "accept", ErrorCode::NotFound),
    ] {
        assert_eq!(code(&chat.answer(from, to, what, sid).await), Some(expected), "{from} {what}");
    }
    let message = chat.write("alice", "bob", "hi").await;
    let unknown = chat.rig.sid();
    for sid in [message, unknown] {
        assert_eq!(code(&chat.answer("bob", "alice", "accept", sid).await), Some(ErrorCode::NotFound));
    }
    assert_eq!(code(&chat.invite("alice", "alice", &request()).await.1), Some(ErrorCode::BadField));
    assert_eq!(code(&chat.invite("alice", "nobody", &json!({ "type": "request" })).await.1), Some(ErrorCode::NotFound));
    let shop = Peer { role: Some(Role::Bal), ..peer("shop", &[]) };
    let to_bal = chat.invite_as(writer("alice"), shop, &json!({ "type": "request" })).await.1;
    assert_eq!(code(&to_bal), Some(ErrorCode::BadField));

    chat.register("bob", "phone", "T1").await;
    chat.register("bob", "web", "T2").await;
    let (second, _) = chat.invite("alice", "bob", &json!({ "type": "request" })).await;
    assert_eq!(chat.pushes().await.len(), 2);
    let cancel = json!({ "type": "cancel", "ref": second.to_string() });
    assert_eq!(chat.invite_as(writer("alice"), peer("bob", &["web"]), &cancel).await.1, done(Vec::new(), false));
    assert_eq!(whats(&chat.pushes().await), [("T1", "clear")], "whoever looks at a device sees it");
    assert_eq!(chat.answer("bob", "alice", "decline", sid).await, done(Vec::new(), false));
    let contacts = chat.rig.store.chat_contacts(owner("bob"), String::new()).await.unwrap().await.unwrap().items;
    assert!(contacts.is_empty(), "to decline makes no contact");
}

#[tokio::test]
async fn whoever_is_invited_is_a_contact_and_is_told_what_was_read_before() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    let sid = chat.write("bob", "alice", "hi").await;
    chat.read("alice", "bob", sid).await;
    chat.forget("bob").await;
    chat.invite("alice", "bob", &request()).await;
    let word = sid.to_string();
    assert_eq!(statuses(&chat.told("bob", "receipts").await), [(&*word, "delivered"), (&*word, "read")]);
}

#[tokio::test]
async fn an_answer_to_a_foreign_invitation_says_nothing_of_who_exists() {
    let mut chat = Chat::of(&["alice", "bob", "eve"]).await;
    let (sid, _) = chat.invite("alice", "bob", &request()).await;
    for what in ["accept", "decline", "cancel"] {
        let told = async |chat: &mut Chat, to: &str| match chat.answer("eve", to, what, sid).await {
            ChatOutcome::Refused(rejection) => (rejection.code(), rejection.detail().to_owned()),
            outcome => panic!("{outcome:?}"),
        };
        let unknown = told(&mut chat, "nobody").await;
        assert_eq!((unknown.0, told(&mut chat, "alice").await), (ErrorCode::NotFound, unknown.clone()), "{what}");
    }
}

#[tokio::test]
async fn an_invitation_ends_with_its_time() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    chat.register("bob", "phone", "T1").await;
    let over = json!({ "type": "request", "expires": NOW });
    assert_eq!(code(&chat.invite("alice", "bob", &over).await.1), Some(ErrorCode::BadField));
    let long = json!({ "type": "request", "expires": NOW + 30 * DAY });
    let (sid, _) = chat.invite("alice", "bob", &long).await;
    let end = chat.at + OPEN_MS;
    assert_eq!(chat.told("bob", "invitations").await[0]["expires"], end, "seven days at most");
    let short = json!({ "type": "request", "expires": end - 1_000 });
    let (second, _) = chat.invite("alice", "bob", &short).await;
    assert_eq!(chat.pushes().await.len(), 2);
    chat.at = end - 1_000;
    assert_eq!(code(&chat.answer("bob", "alice", "accept", second).await), Some(ErrorCode::NotFound));
    assert!(!chat.sweep(u64::MAX, u64::MAX).await);
    assert_eq!(whats(&chat.pushes().await), [("T1", "clear")]);
    assert_eq!(code(&chat.answer("bob", "alice", "accept", second).await), Some(ErrorCode::NotFound));
    assert!(matches!(chat.answer("bob", "alice", "accept", sid).await, ChatOutcome::Done { .. }));
}

#[tokio::test]
async fn a_repetition_is_known_though_the_profile_has_changed() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    chat.invite("alice", "bob", &request()).await;
    for user in ["alice", "bob"] {
        chat.forget(user).await;
    }
    let profile = json!({ "name": "Alice" }).to_string();
    chat.rig.store.chat_profile(owner("alice"), Some(profile)).await.unwrap().await.unwrap();
    chat.at += DAY;
    assert_eq!(chat.invite("alice", "bob", &request()).await.1, ChatOutcome::Repeated);
    let again = chat.told("alice", "invitations").await;
    assert_eq!((again.len(), &again[0]["redelivered"]), (1, &json!(true)));
    assert!(chat.told("bob", "invitations").await.is_empty());
    let other = json!({ "id": "i1", "type": "request", "body": "it is her" });
    assert_eq!(code(&chat.invite("alice", "bob", &other).await.1), Some(ErrorCode::Duplicate));
    let (_, outcome) =
        chat.send(writer("alice"), peer("bob", &[]), &json!({ "id": "i1", "to": "bob", "body": "hi" })).await;
    assert_eq!(code(&outcome), Some(ErrorCode::Duplicate), "a message and an invitation share the writer's ids");
}

#[tokio::test]
async fn a_blocked_user_invites_nobody_and_does_not_learn_it() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    chat.register("bob", "phone", "T1").await;
    chat.block("bob", "alice", true).await;
    let (sid, outcome) = chat.invite("alice", "bob", &request()).await;
    assert_eq!(outcome, done(vec![], true), "he sees nothing of whom he blocks");
    assert_eq!(chat.told("alice", "invitations").await.len(), 1);
    assert_eq!(chat.told("alice", "receipts").await[0]["status"], "sent");
    chat.block("bob", "alice", false).await;
    assert_eq!(code(&chat.answer("bob", "alice", "accept", sid).await), Some(ErrorCode::NotFound));
    assert!(matches!(chat.answer("alice", "bob", "cancel", sid).await, ChatOutcome::Done { .. }));
    assert!(chat.told("bob", "invitations").await.is_empty() && chat.pushes().await.is_empty());
    assert!(chat.page("bob", None).await.items.is_empty());
}

impl Chat {
    /// With whom there are open invitations on the first screen of a user.
    async fn open(&self, user: &str) -> Vec<String> {
        let items = self.conversations(user).await.items;
        items.iter().filter(|item| !item.invitations.is_empty()).map(|item| item.with.to_string()).collect()
    }
}

/// An owner who is one no more has nobody to let in; nor has one of a group that is no more.
#[tokio::test]
async fn an_invitation_into_a_group_ends_with_its_inviter_and_with_the_group() {
    for end in [
        GroupChange::Leave,
        GroupChange::Remove(owners(&["bob"])),
        GroupChange::Demote(owners(&["bob"])),
        GroupChange::Dissolve,
    ] {
        let mut chat = Chat::of_group(&["bob"]).await;
        for user in ["dave", "erin"] {
            chat.rig.store.chat_user_seen(owner(user)).await.unwrap().await.unwrap();
        }
        chat.register("dave", "phone", "T1").await;
        chat.change("alice", GroupChange::Promote(owners(&["bob"]))).await.unwrap();
        let asked = chat.change("bob", GroupChange::Add(owners(&["dave"]))).await.unwrap().invited[0].1;
        chat.change("alice", GroupChange::Add(owners(&["erin"]))).await.unwrap();
        let (between, _) = chat.invite("bob", "erin", &json!({ "type": "request" })).await;
        chat.told("dave", "invitations").await;
        assert_eq!(whats(&chat.pushes().await), [("T1", "invitation")]);
        assert_eq!(
            (chat.open("dave").await, chat.open("erin").await),
            (vec!["bob".into()], vec!["bob".into(), "alice".into()])
        );
        let by = if end == GroupChange::Leave { "bob" } else { "alice" };
        chat.change(by, end.clone()).await.unwrap();
        assert_eq!(chat.open("dave").await, Vec::<String>::new(), "{end:?}");
        let others = if end == GroupChange::Dissolve { vec!["bob"] } else { vec!["bob", "alice"] };
        assert_eq!(chat.open("erin").await, others, "{end:?}: those between two, and of other owners, go on");
        assert_eq!(code(&chat.answer("dave", "bob", "accept", asked).await), Some(ErrorCode::NotFound));
        let ended = chat
            .page("dave", None)
            .await
            .items
            .iter()
            .map(|item| serde_json::from_slice(item).unwrap())
            .collect::<Vec<Value>>();
        assert!(ended[0]["expires"].as_u64().unwrap() <= chat.at, "{end:?}: {ended:?}");
        assert!(!chat.sweep(u64::MAX, u64::MAX).await);
        assert_eq!(whats(&chat.pushes().await), [("T1", "clear")], "{end:?}");
        assert!(matches!(chat.answer("erin", "bob", "accept", between).await, ChatOutcome::Done { .. }));
    }
}

#[tokio::test]
async fn an_invitation_into_a_group_ends_when_the_invited_is_in_it() {
    let mut chat = Chat::of_group(&["bob"]).await;
    for user in ["dave", "erin"] {
        chat.rig.store.chat_user_seen(owner(user)).await.unwrap().await.unwrap();
    }
    let add = |user: &str| GroupChange::Add(owners(&[user]));
    for user in ["dave", "erin", "erin"] {
        chat.change("alice", add(user)).await.unwrap();
    }
    assert_eq!(
        (chat.open("dave").await, chat.open("erin").await),
        (vec!["alice".to_owned()], vec!["alice".to_owned()])
    );
    chat.write("dave", "alice", "so you are a contact of mine").await;
    assert_eq!(chat.change("alice", add("dave")).await.unwrap().done, owners(&["dave"]));
    let newest = chat.conversations("erin").await.items[0].invitations[0].clone();
    let newest: Value = serde_json::from_slice(&newest).unwrap();
    let sid = Sid::parse(newest["sid"].as_str().unwrap()).unwrap();
    assert!(matches!(chat.answer("erin", "alice", "accept", sid).await, ChatOutcome::Done { .. }));
    for user in ["dave", "erin"] {
        assert_eq!(chat.open(user).await, Vec::<String>::new(), "{user}");
    }
}

#[tokio::test]
async fn an_invitation_ends_when_either_side_is_erased() {
    for gone in ["alice", "bob"] {
        let mut chat = Chat::of(&["alice", "bob"]).await;
        let stays = if gone == "alice" { "bob" } else { "alice" };
        chat.invite("alice", "bob", &request()).await;
        assert_eq!(chat.open(stays).await, [gone]);
        chat.erase(gone).await;
        assert_eq!(chat.open(stays).await, Vec::<String>::new(), "{gone}");
    }
}
