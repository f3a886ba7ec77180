//! Groups: their rosters, what members get, and who is pushed.

use super::*;
use crate::chat::contact::MuteLevel;
use crate::chat::group::{GroupChange, GroupRole, Post, SettingsChange, Shown};
use crate::chat::id::GroupId;
use crate::chat::suffix::invitations::{Answer, Invitation, Kind};
use crate::chat::suffix::requests::{DeletionOf, HistoryFrom};
use crate::store::{
    Archiving, ConversationItem, Deletion, GroupAction, GroupChanged, GroupOutcome, HistoryQuery, Named,
    NewGroupChange, NewGroupMessage, NewInvitation, USER_GROUPS_MAX,
};

pub(in crate::store::tests) fn group() -> GroupId {
    GroupId::new("g-team").unwrap()
}

pub(in crate::store::tests) fn owners(names: &[&str]) -> Vec<Owner> {
    names.iter().map(|name| owner(name)).collect()
}

pub(in crate::store::tests) fn named_settings(name: &str) -> SettingsChange {
    SettingsChange { name: Some(name.to_owned()), ..SettingsChange::default() }
}

/// Names of BALs begin like this.
fn is_bal(name: &str) -> bool {
    name.starts_with("bal")
}

fn who(name: &str) -> Writer {
    if is_bal(name) { bal(name) } else { writer(name) }
}

fn known(name: &str) -> Peer {
    Peer { role: is_bal(name).then_some(Role::Bal), ..peer(name, &[]) }
}

impl Chat {
    /// Users who have Alice as a contact, and are in her group.
    pub(in crate::store::tests) async fn of_group(members: &[&str]) -> Self {
        let mut chat = Self::of(&["alice"]).await;
        for member in members {
            chat.rig.store.chat_user_seen(owner(member)).await.unwrap().await.unwrap();
            chat.write(member, "alice", "hi").await;
        }
        let changed = chat.create(members, named_settings("Team")).await.unwrap();
        assert_eq!((changed.version, changed.invited), (1, Vec::new()));
        for member in members.iter().chain(&["alice"]) {
            chat.forget(member).await;
        }
        chat
    }

    pub(super) async fn create(
        &mut self,
        members: &[&str],
        settings: SettingsChange,
    ) -> Result<GroupChanged, ErrorCode> {
        self.change_group("alice", GroupAction::Create(settings), members).await
    }

    pub(in crate::store::tests) async fn change(
        &mut self,
        by: &str,
        change: GroupChange,
    ) -> Result<GroupChanged, ErrorCode> {
        let named: Vec<String> = match &change {
            GroupChange::Add(users) => users.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        self.change_group(by, GroupAction::Change(change), &named).await
    }

    pub(in crate::store::tests) async fn change_group(
        &mut self,
        by: &str,
        what: GroupAction,
        named: &[&str],
    ) -> Result<GroupChanged, ErrorCode> {
        self.at += 1;
        let sid = self.rig.sids.next(self.at, 0);
        let named = named
            .iter()
            .map(|name| Named { peer: known(name), sid: self.rig.sids.next(self.at, 0), strangers: true })
            .collect();
        let new = NewGroupChange { sid, by: who(by), group: group(), what, named };
        let call = self.call();
        let changed = self.rig.store.group_change(new, call).await.unwrap().await.unwrap();
        changed.map_err(|rejection| rejection.code())
    }

    pub(in crate::store::tests) async fn post(
        &mut self,
        from: &str,
        more: &Value,
        attended: &[(&str, &[&str])],
    ) -> (Sid, GroupOutcome) {
        self.post_as(from, more, attended, 2 * USER_DEVICES_MAX).await
    }

    /// Alice writes, with so many ids for pushes.
    pub(in crate::store::tests) async fn post_with(&mut self, more: &Value, pushes: usize) -> (Sid, GroupOutcome) {
        self.post_as("alice", more, &[], pushes).await
    }

    async fn post_as(
        &mut self,
        from: &str,
        more: &Value,
        attended: &[(&str, &[&str])],
        pushes: usize,
    ) -> (Sid, GroupOutcome) {
        let mut document = json!({ "to": "g-team", "body": "hi" });
        document.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let sender = crate::chat::message::Sender::User;
        let message = UserMessage::parse(sender, document.to_string().as_bytes(), &PayloadLimits::default()).unwrap();
        self.at += 1;
        let sid = self.rig.sids.next(self.at, 0);
        let attended = attended.iter().map(|(name, devs)| (owner(name), Attended { devices: devices(devs) })).collect();
        let deadline_ms = self.at + 28 * DAY;
        let new = NewGroupMessage { sid, from: who(from), group: group(), message, deadline_ms, attended };
        let push_sids = (0..pushes).map(|_| self.rig.sids.next(self.at, 0)).collect();
        let call = ChatCall { at: self.at, push_sids, policy: self.policy.clone() };
        (sid, self.rig.store.group_message(new, call).await.unwrap().await.unwrap())
    }

    pub(super) async fn says(&mut self, from: &str, body: &str) -> Sid {
        let (sid, outcome) = self.post(from, &json!({ "body": body }), &[]).await;
        assert!(matches!(outcome, GroupOutcome::Done { .. }), "{outcome:?}");
        sid
    }

    pub(super) async fn members_of_group(&self) -> Vec<(String, GroupRole)> {
        let page = self.rig.store.group_page(owner("alice"), group(), String::new()).await.unwrap().await.unwrap();
        let items = page.unwrap().items.into_iter();
        items.map(|(user, role)| (user.to_string(), role)).collect()
    }

    pub(in crate::store::tests) async fn read_group(&mut self, user: &str, sid: Sid) -> ChatOutcome {
        let with = Owner::from(group());
        self.receipt(NewReceipt { read: true, of: ReceiptOf::In(with, sid), ..received(user, &[]) }).await
    }

    pub(in crate::store::tests) async fn items(&self, user: &str, since: Option<Sid>) -> Vec<Value> {
        let page = self.rig.store.chat_sync(owner(user), since).await.unwrap().await.unwrap();
        page.items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect()
    }

    /// What a push would say now.
    async fn unread_in_push(&mut self, user: &str) -> Option<String> {
        let call = self.call();
        self.rig.store.chat_test_push(owner(user), call).await.unwrap().await.unwrap();
        self.pushes().await.last().map(|pushed| pushed.data("unread").to_owned())
    }

    pub(in crate::store::tests) async fn decide_for(
        &mut self,
        user: &str,
        sids: &[Sid],
        attended: &[&str],
    ) -> Vec<Sid> {
        let (call, attended) = (self.call(), Attended { devices: devices(attended) });
        self.rig.store.chat_decide_again(owner(user), sids.to_vec(), attended, call).await.unwrap().await.unwrap()
    }
}

pub(super) fn code_of(outcome: &GroupOutcome) -> Option<ErrorCode> {
    if let GroupOutcome::Refused(rejection) = outcome { Some(rejection.code()) } else { None }
}

pub(super) fn bodies(documents: &[Value]) -> Vec<&str> {
    documents
        .iter()
        .map(|document| document["body"].as_str().or_else(|| document["event"].as_str()).unwrap_or("-"))
        .collect()
}

#[tokio::test]
async fn a_new_group_is_told_to_everybody_in_it_and_the_others_are_asked() {
    let mut chat = Chat::of(&["alice", "bob", "carol"]).await;
    chat.write("bob", "alice", "hi").await;
    for user in ["alice", "bob", "carol"] {
        chat.forget(user).await;
    }
    let changed = chat.create(&["bob", "carol", "alice"], named_settings("Team")).await.unwrap();
    assert_eq!((changed.version, &changed.done), (1, &owners(&["bob"])));
    assert_eq!(changed.invited.iter().map(|(user, ..)| user.as_str()).collect::<Vec<_>>(), ["carol"]);
    for user in ["alice", "bob"] {
        let told = chat.told(user, "messages").await;
        let expected = json!({ "to": "g-team", "type": "notice", "event": "created", "who": ["bob"], "by": "alice",
            "version": 1, "name": "Team", "from": "alice", "group": "g-team", "n": 1 });
        let mut told = told[0].clone();
        let stamp = told.as_object_mut().unwrap();
        assert!(stamp.remove("sid").is_some() && stamp.remove("ts").is_some());
        assert_eq!(told, expected, "{user}");
    }
    assert!(chat.told("carol", "messages").await.is_empty());
    let invitation = &chat.told("carol", "invitations").await[0];
    assert_eq!(
        (&invitation["type"], &invitation["group"], &invitation["group_name"]),
        (&json!("request"), &json!("g-team"), &json!("Team"))
    );

    // Carol accepts.
    let asked = Sid::parse(invitation["sid"].as_str().unwrap()).unwrap();
    chat.at += 1;
    let sid = chat.rig.sids.next(chat.at, 0);
    let kind = Kind::Answer(Answer::Accept, asked);
    let invitation = Invitation { id: None, to: owner("alice"), kind, dev: None };
    let new = NewInvitation { sid, from: writer("carol"), to: peer("alice", &[]), invitation };
    let call = chat.call();
    let outcome = chat.rig.store.chat_invite(new, call).await.unwrap().await.unwrap();
    assert!(matches!(outcome, ChatOutcome::Done { .. }), "{outcome:?}");
    assert_eq!(bodies(&chat.told("bob", "messages").await), ["joined"]);
    use GroupRole::{Member, Owner as Owns};
    let roster = [("alice", Owns), ("bob", Member), ("carol", Member)].map(|(name, role)| (name.to_owned(), role));
    assert_eq!(chat.members_of_group().await, roster);
    assert_eq!(chat.create(&[], SettingsChange::default()).await, Err(ErrorCode::Duplicate));
}

#[tokio::test]
async fn a_message_is_one_row_and_comes_to_every_member_once() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.register("bob", "phone", "T-bob").await;
    chat.register("carol", "phone", "T-carol").await;
    chat.register("alice", "phone", "T-alice").await;
    let rows = chat.rig.store.figures().chat_rows;
    let (sid, outcome) = chat.post("alice", &json!({ "id": "m1" }), &[]).await;
    assert_eq!(outcome, GroupOutcome::Done { waiting: Vec::new() });
    assert_eq!(chat.rig.store.figures().chat_rows, rows + 1);
    let mut copy = json!({ "sid": sid.to_string(), "n": 2, "ts": chat.at - 1, "from": "alice", "group": "g-team",
        "id": "m1", "to": "g-team", "type": "text", "body": "hi" });
    copy["ts"] = chat.told("carol", "messages").await[0]["ts"].clone();
    assert_eq!(chat.told("bob", "messages").await, [copy.clone()]);
    copy["dev"] = json!("phone");
    assert_eq!(chat.told("alice", "messages").await, [copy]);
    assert_eq!(statuses(&chat.told("alice", "receipts").await), [(&*sid.to_string(), "sent")]);
    let pushes = chat.pushes().await;
    let mut whats = whats(&pushes);
    whats.sort_unstable();
    assert_eq!(whats, [("T-bob", "message"), ("T-carol", "message")], "the writer never");
    let push = &pushes[0];
    let data = ["with", "by", "title", "body", "unread"].map(|name| push.data(name));
    assert_eq!(data, ["g-team", "alice", "Team: alice", "hi", "1"]);

    let (_, again) = chat.post("alice", &json!({ "id": "m1" }), &[]).await;
    assert_eq!(again, GroupOutcome::Repeated);
    assert_eq!(chat.told("alice", "messages").await[0]["redelivered"], true);
    assert!(chat.told("bob", "messages").await.is_empty() && chat.pushes().await.is_empty());
    let (_, other) = chat.post("alice", &json!({ "id": "m1", "body": "other" }), &[]).await;
    assert_eq!(code_of(&other), Some(ErrorCode::Duplicate));
}

#[tokio::test]
async fn who_is_no_member_writes_nothing_and_is_told_nothing() {
    let mut chat = Chat::of_group(&["bob"]).await;
    chat.rig.store.chat_user_seen(owner("eve")).await.unwrap().await.unwrap();
    let (_, outcome) = chat.post("eve", &json!({}), &[]).await;
    assert_eq!(code_of(&outcome), Some(ErrorCode::NotMember));
    for change in [GroupChange::Add(owners(&["eve"])), GroupChange::Leave, GroupChange::Dissolve] {
        assert_eq!(chat.change("eve", change).await, Err(ErrorCode::NotMember));
    }
    let page = chat.rig.store.group_page(owner("eve"), group(), String::new()).await.unwrap().await.unwrap();
    assert_eq!(page.map(drop).map_err(|rejection| rejection.code()), Err(ErrorCode::NotMember));
    let sid = chat.says("alice", "psst").await;
    assert_eq!(code(&chat.read_group("eve", sid).await), Some(ErrorCode::NotFound));
    assert_eq!(code(&chat.receipt(received("eve", &[sid])).await), Some(ErrorCode::NotFound));
    assert!(chat.items("eve", None).await.is_empty());
    let about = json!({ "reply_to": chat.write("bob", "alice", "aside").await.to_string() });
    let (_, outcome) = chat.post("alice", &about, &[]).await;
    assert_eq!(code_of(&outcome), Some(ErrorCode::NotFound), "of another conversation");
}

#[tokio::test]
async fn two_adds_at_once_are_two_versions_and_who_is_removed_reads_of_it_last() {
    let mut chat = Chat::of_group(&["bob"]).await;
    for user in ["carol", "dave"] {
        chat.rig.store.chat_user_seen(owner(user)).await.unwrap().await.unwrap();
        chat.write(user, "alice", "hi").await;
        let changed = chat.change("alice", GroupChange::Add(owners(&[user]))).await.unwrap();
        assert_eq!(changed.done, owners(&[user]));
    }
    let versions: Vec<_> =
        chat.told("bob", "messages").await.iter().map(|notice| notice["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, [2, 3]);
    let before = chat.says("bob", "before").await;
    for user in ["bob", "carol", "dave"] {
        chat.forget(user).await;
    }
    assert_eq!(chat.change("bob", GroupChange::Remove(owners(&["carol"]))).await, Err(ErrorCode::Forbidden));
    assert_eq!(
        chat.change("alice", GroupChange::Remove(owners(&["carol", "eve"]))).await.unwrap().done,
        owners(&["carol"])
    );
    chat.says("alice", "after").await;
    assert_eq!(bodies(&chat.told("carol", "messages").await), ["removed"]);
    assert_eq!(bodies(&chat.told("dave", "messages").await), ["removed", "after"]);
    // The same for a device that slept.
    let missed = chat.items("carol", Some(before)).await;
    assert_eq!(bodies(&missed), ["removed"]);
    assert_eq!(missed[0]["who"], json!(["carol"]));
    let (_, outcome) = chat.post("carol", &json!({}), &[]).await;
    assert_eq!(code_of(&outcome), Some(ErrorCode::NotMember));
    assert_eq!(chat.change("alice", GroupChange::Remove(owners(&["carol"]))).await, Err(ErrorCode::NotFound));

    // She comes back, and reads what is written from then on.
    chat.change("alice", GroupChange::Add(owners(&["carol"]))).await.unwrap();
    assert_eq!(bodies(&chat.told("carol", "messages").await), ["added"]);
    assert_eq!(bodies(&chat.items("carol", Some(before)).await), ["added"]);
}

#[tokio::test]
async fn a_group_has_an_owner_as_long_as_it_has_members() {
    use GroupRole::{Member, Owner as Owns};
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    assert_eq!(chat.change("alice", GroupChange::Demote(owners(&["alice"]))).await, Err(ErrorCode::Forbidden));
    assert_eq!(chat.change("alice", GroupChange::Promote(owners(&["eve"]))).await, Err(ErrorCode::NotFound));
    assert_eq!(chat.change("alice", GroupChange::Promote(owners(&["carol"]))).await.unwrap().done, owners(&["carol"]));
    chat.change("carol", GroupChange::Demote(owners(&["carol"]))).await.unwrap();
    chat.forget("bob").await;
    chat.change("alice", GroupChange::Leave).await.unwrap();
    let told = chat.told("bob", "messages").await;
    assert_eq!(bodies(&told), ["left", "promoted"]);
    assert_eq!(
        (&told[0]["who"], &told[1]["who"]),
        (&json!(["alice"]), &json!(["bob"])),
        "by name, of those who came first"
    );
    let page = chat.rig.store.group_page(owner("carol"), group(), String::new()).await.unwrap().await.unwrap().unwrap();
    assert_eq!((page.items, page.role), (vec![(owner("bob"), Owns), (owner("carol"), Member)], Member));

    chat.change("bob", GroupChange::Dissolve).await.unwrap();
    let told = chat.told("carol", "messages").await;
    assert_eq!(bodies(&told), ["promoted", "demoted", "left", "promoted", "dissolved"]);
    let (_, outcome) = chat.post("carol", &json!({}), &[]).await;
    assert_eq!(code_of(&outcome), Some(ErrorCode::NotMember));
}

#[tokio::test]
async fn settings_are_the_owners_and_so_is_the_word_where_the_group_says_so() {
    let mut chat = Chat::of_group(&["bob"]).await;
    let everybody = json!({ "mentions": ["*"] });
    let (_, outcome) = chat.post("bob", &everybody, &[]).await;
    assert_eq!(code_of(&outcome), Some(ErrorCode::Forbidden));
    let (_, outcome) = chat.post("alice", &everybody, &[]).await;
    assert!(matches!(outcome, GroupOutcome::Done { .. }));
    let owners_only = SettingsChange { post: Some(Post::Owners), ..named_settings("News") };
    assert_eq!(chat.change("bob", GroupChange::Set(owners_only.clone())).await, Err(ErrorCode::Forbidden));
    chat.forget("bob").await;
    assert_eq!(chat.change("alice", GroupChange::Set(owners_only.clone())).await.unwrap().version, 2);
    assert_eq!(chat.change("alice", GroupChange::Set(owners_only)).await.unwrap().version, 2, "nothing is new");
    let told = chat.told("bob", "messages").await;
    assert_eq!(
        (bodies(&told), &told[0]["name"], &told[0]["post"]),
        (vec!["changed"], &json!("News"), &json!("owners"))
    );
    let (_, outcome) = chat.post("bob", &json!({}), &[]).await;
    assert_eq!(code_of(&outcome), Some(ErrorCode::Forbidden));
}

#[tokio::test]
async fn a_new_member_reads_what_the_group_lets_it() {
    let mut chat = Chat::of_group(&["bob"]).await;
    let old = chat.says("alice", "old").await;
    for user in ["carol", "dave"] {
        chat.rig.store.chat_user_seen(owner(user)).await.unwrap().await.unwrap();
        chat.write(user, "alice", "hi").await;
    }
    chat.change("alice", GroupChange::Add(owners(&["carol"]))).await.unwrap();
    let all = SettingsChange { history: Some(Shown::All), ..SettingsChange::default() };
    chat.change("alice", GroupChange::Set(all)).await.unwrap();
    chat.change("alice", GroupChange::Add(owners(&["dave"]))).await.unwrap();
    let about = json!({ "reply_to": old.to_string() });
    let (_, of_carol) = chat.post("carol", &about, &[]).await;
    let (_, of_dave) = chat.post("dave", &about, &[]).await;
    assert_eq!((code_of(&of_carol), code_of(&of_dave)), (Some(ErrorCode::NotFound), None));
}

#[tokio::test]
async fn unread_is_what_others_wrote_behind_the_position() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.register("bob", "phone", "T-bob").await;
    let first = chat.says("alice", "1").await;
    let (_, reaction) =
        chat.post("carol", &json!({ "type": "reaction", "ref": first.to_string(), "body": "+" }), &[]).await;
    assert!(matches!(reaction, GroupOutcome::Done { .. }));
    chat.says("carol", "2").await;
    let third = chat.says("alice", "3").await;
    chat.pushes().await;
    // One more of before, between two.
    assert_eq!(chat.unread_in_push("bob").await.as_deref(), Some("3"));
    chat.forget("bob").await;
    chat.read_group("bob", first).await;
    assert_eq!(chat.told("bob", "read").await, [json!({ "with": "g-team", "sid": first.to_string(), "unread": 2 })]);
    chat.read_group("bob", first).await;
    assert!(chat.told("bob", "read").await.is_empty(), "a position only goes forward");
    assert_eq!(chat.unread_in_push("bob").await.as_deref(), Some("2"));
    chat.says("bob", "own").await;
    assert_eq!(chat.told("bob", "read").await, [json!({ "with": "g-team", "sid": third.to_string(), "unread": 0 })]);
    assert_eq!(chat.unread_in_push("bob").await.as_deref(), Some("0"));
    let mut chat = chat.crash().await;
    assert_eq!(chat.unread_in_push("bob").await.as_deref(), Some("0"));
}

#[tokio::test]
async fn writers_hear_of_each_member_who_has_them_as_a_contact() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    let first = chat.says("alice", "1").await;
    let second = chat.says("carol", "2").await;
    for user in ["alice", "carol"] {
        chat.forget(user).await;
    }
    chat.receipt(received("bob", &[second])).await;
    let receipt =
        |sid: Sid, status: &str, at: u64| json!({ "sid": sid.to_string(), "status": status, "ts": at, "by": "bob" });
    assert_eq!(chat.told("alice", "receipts").await, [receipt(first, "delivered", chat.at)]);
    assert!(chat.told("carol", "receipts").await.is_empty(), "she is no contact of his");
    chat.receipt(received("bob", &[first])).await;
    assert!(chat.told("alice", "receipts").await.is_empty(), "once");
    chat.read_group("bob", second).await;
    let mut read = receipt(first, "read", chat.at);
    read["up_to"] = json!(true);
    assert_eq!(chat.told("alice", "receipts").await, [read]);
    // A PUBACK is a confirmation as well.
    let third = chat.says("alice", "3").await;
    chat.forget("alice").await;
    let waiting = chat.rig.next("bob/others/messages", 0).await;
    let references = waiting.iter().map(|document| document.reference.clone()).collect();
    chat.rig.store.documents_acked(references, AckedBy::Owner, chat.at).await.unwrap().await.unwrap();
    assert_eq!(chat.told("alice", "receipts").await, [receipt(third, "delivered", chat.at)]);
}

#[tokio::test]
async fn what_a_blocked_member_writes_is_a_place_without_content() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.register("bob", "phone", "T-bob").await;
    chat.block("bob", "carol", true).await;
    chat.forget("bob").await;
    let before = chat.says("alice", "1").await;
    let hidden = chat.says("carol", "nasty").await;
    chat.says("alice", "2").await;
    let places = |documents: &[Value]| {
        let place = |document: &Value| (document["n"].as_u64().unwrap(), document["type"].as_str().unwrap().to_owned());
        documents.iter().map(place).collect::<Vec<_>>()
    };
    let expected = [(2, "text"), (3, "tombstone"), (4, "text")].map(|(n, what)| (n, what.to_owned()));
    let told = chat.told("bob", "messages").await;
    assert_eq!(places(&told), expected);
    assert_eq!(places(&chat.items("bob", Some(before)).await), expected[1..]);
    assert!(!told[1].to_string().contains("nasty"));
    let pushes = chat.pushes().await;
    assert_eq!(pushes.iter().map(|pushed| pushed.data("body")).collect::<Vec<_>>(), ["1", "2"]);
    let explained = chat.rig.store.chat_explain(owner("bob"), hidden).await.unwrap().await.unwrap().unwrap();
    assert_eq!(explained.devices[0].rule, crate::chat::push_decision::Rule::Blocked);
}

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
async fn a_user_is_in_so_many_groups() {
    let mut chat = Chat::of_group(&["bob"]).await;
    let mut last = Ok(());
    for n in 0..USER_GROUPS_MAX {
        chat.at += 1;
        let (sid, group) = (chat.rig.sids.next(chat.at, 0), GroupId::new(format!("g-{n}")).unwrap());
        let what = GroupAction::Create(SettingsChange::default());
        let new = NewGroupChange { sid, by: writer("bob"), group, what, named: Vec::new() };
        let call = chat.call();
        let changed = chat.rig.store.group_change(new, call).await.unwrap().await.unwrap();
        last = changed.map(drop).map_err(|rejection| rejection.code());
    }
    assert_eq!(last, Err(ErrorCode::RateLimited), "the first one counts");
}

#[tokio::test]
async fn what_is_not_kept_is_not_unread() {
    let mut chat = Chat::of_group(&["bob"]).await;
    chat.register("bob", "phone", "T-bob").await;
    chat.says("alice", "old").await;
    chat.pushes().await;
    chat.at += 10 * DAY;
    let keep = Keep { for_ms: DAY, bytes: u64::MAX };
    let call = chat.call();
    chat.rig.store.chat_sweep(keep, call).await.unwrap().await.unwrap();
    chat.says("alice", "new").await;
    let pushes = chat.pushes().await;
    assert_eq!(pushes.iter().map(|pushed| pushed.data("unread")).collect::<Vec<_>>(), ["1"]);
    let page = chat.items("bob", None).await;
    assert_eq!((bodies(&page), &page[0]["n"]), (vec!["new"], &json!(3)));
}

impl Chat {
    async fn first_screen_of(&self, user: &str) -> (Vec<ConversationItem>, u64, u64) {
        let page = self.rig.store.chat_conversations(owner(user), None, 50, self.at).await.unwrap().await.unwrap();
        (page.items, page.unread, page.mentions)
    }

    /// The group on the first screen of a user.
    async fn group_shown(&self, user: &str) -> ConversationItem {
        let (items, ..) = self.first_screen_of(user).await;
        items.into_iter().find(|item| item.with == Owner::from(group())).unwrap()
    }

    async fn group_history(&self, user: &str, from: HistoryFrom, limit: usize) -> (Vec<Value>, bool) {
        let query = HistoryQuery { with: group().into(), from, limit };
        let page = self.rig.store.chat_history(owner(user), query).await.unwrap().await.unwrap();
        (page.items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect(), page.complete)
    }

    async fn delete_of_group(&mut self, user: &str, of: DeletionOf) {
        let (user, told) = (owner(user), Bytes::from("{}"));
        let deletion = Deletion { user, dev: Some(device("web")), connected: devices(&["web"]), of, told };
        let call = self.call();
        self.rig.store.chat_delete(deletion, call).await.unwrap().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_first_screen_shows_groups_among_the_other_conversations() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.says("alice", "1").await;
    let named = json!({ "body": "2", "mentions": ["bob"] });
    let (second, _) = chat.post("alice", &named, &[]).await;
    chat.write("alice", "bob", "aside").await;
    let (items, unread, mentions) = chat.first_screen_of("bob").await;
    assert_eq!(items.iter().map(|item| item.with.as_str()).collect::<Vec<_>>(), ["alice", "g-team"]);
    assert_eq!((unread, mentions), (3, 1));
    let item = &items[1];
    let profile: Value = serde_json::from_str(item.profile.as_deref().unwrap()).unwrap();
    let last: Value = serde_json::from_slice(item.last.as_deref().unwrap()).unwrap();
    assert_eq!((&profile["name"], &last["body"], &last["n"]), (&json!("Team"), &json!("2"), &json!(3)));
    assert_eq!((item.count, item.unread, item.mentions, item.archived), (3, 2, 1, false));
    chat.read_group("bob", second).await;
    let item = chat.group_shown("bob").await;
    assert_eq!((item.unread, item.mentions, item.read), (0, 0, Some(second)));
    assert_eq!(chat.group_shown("carol").await.unread, 2, "the others have not read it");

    // Put away until something new comes.
    let told = Bytes::from("{}");
    let with = Owner::from(group());
    let archiving = Archiving { user: owner("bob"), dev: None, connected: Vec::new(), with, on: true, told };
    let call = chat.call();
    chat.rig.store.chat_archive(archiving, call).await.unwrap().await.unwrap().unwrap();
    assert!(chat.group_shown("bob").await.archived && !chat.group_shown("carol").await.archived);
    chat.says("carol", "3").await;
    assert!(!chat.group_shown("bob").await.archived);

    // Who is out of it has what was there, and nothing unread.
    chat.change("alice", GroupChange::Remove(owners(&["carol"]))).await.unwrap();
    chat.says("alice", "after").await;
    let item = chat.group_shown("carol").await;
    let last: Value = serde_json::from_slice(item.last.as_deref().unwrap()).unwrap();
    assert_eq!((&last["event"], item.count, item.unread), (&json!("removed"), 5, 0));
}

#[tokio::test]
async fn the_history_of_a_group_is_what_a_member_may_read_page_by_page() {
    let mut chat = Chat::of_group(&["bob"]).await;
    let mut sids = Vec::new();
    for n in 0..5 {
        sids.push(chat.says("alice", &n.to_string()).await);
    }
    let (newest, complete) = chat.group_history("bob", HistoryFrom::Newest, 3).await;
    assert_eq!((bodies(&newest), complete), (vec!["2", "3", "4"], false));
    let (before, complete) = chat.group_history("bob", HistoryFrom::Before(sids[2]), 3).await;
    assert_eq!((bodies(&before), complete), (vec!["created", "0", "1"], true));
    let (after, complete) = chat.group_history("bob", HistoryFrom::After(sids[3]), 3).await;
    assert_eq!((bodies(&after), complete), (vec!["4"], true));
    chat.rig.store.chat_user_seen(owner("eve")).await.unwrap().await.unwrap();
    assert_eq!(chat.group_history("eve", HistoryFrom::Newest, 3).await, (Vec::new(), true));
    chat.write("eve", "alice", "hi").await;
    chat.change("alice", GroupChange::Add(owners(&["eve"]))).await.unwrap();
    chat.says("bob", "5").await;
    let (hers, complete) = chat.group_history("eve", HistoryFrom::Newest, 9).await;
    assert_eq!((bodies(&hers), complete), (vec!["added", "5"], true), "since she came");
    chat.change("alice", GroupChange::Remove(owners(&["bob"]))).await.unwrap();
    chat.says("alice", "without bob").await;
    let (his, _) = chat.group_history("bob", HistoryFrom::Newest, 2).await;
    assert_eq!(bodies(&his), ["5", "removed"]);
}

#[tokio::test]
async fn a_message_in_a_group_is_edited_by_its_writer_and_retracted_by_an_owner_too() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.register("carol", "phone", "T-carol").await;
    let (first, _) = chat.post("bob", &json!({ "body": "teh", "mentions": ["carol"] }), &[]).await;
    let second = chat.says("bob", "rude").await;
    for user in ["alice", "bob", "carol"] {
        chat.forget(user).await;
    }
    let of = |kind: &str, sid: Sid| json!({ "type": kind, "ref": sid.to_string(), "body": null });
    let mut edit = of("edit", first);
    edit["body"] = json!("the");
    let (_, by_other) = chat.post("carol", &edit, &[]).await;
    assert_eq!(code_of(&by_other), Some(ErrorCode::Forbidden));
    let (_, by_owner) = chat.post("alice", &edit, &[]).await;
    assert_eq!(code_of(&by_owner), Some(ErrorCode::Forbidden), "an owner edits no words of others");
    let (edited, _) = chat.post("bob", &edit, &[]).await;
    let told = chat.told("carol", "messages").await;
    assert_eq!(
        (&told[0]["type"], &told[0]["ref"], &told[0]["body"]),
        (&json!("edit"), &json!(first.to_string()), &json!("the"))
    );
    assert_eq!((&told[0]["sid"], told[0].get("n"), told.len()), (&json!(edited.to_string()), None, 1));
    let pushes = chat.pushes().await;
    assert_eq!(
        pushes.iter().map(|pushed| pushed.data("body")).collect::<Vec<_>>(),
        ["the", "rude"],
        "what had not left"
    );
    assert_eq!(chat.group_shown("carol").await.unread, 2);

    let (_, outcome) = chat.post("carol", &of("retract", second), &[]).await;
    assert_eq!(code_of(&outcome), Some(ErrorCode::Forbidden));
    let (_, outcome) = chat.post("alice", &of("retract", second), &[]).await;
    assert_eq!(outcome, GroupOutcome::Done { waiting: Vec::new() });
    let (_, again) = chat.post("bob", &of("retract", second), &[]).await;
    assert_eq!(code_of(&again), Some(ErrorCode::Duplicate));
    assert_eq!(whats(&chat.pushes().await), [("T-carol", "clear")]);
    let (items, _) = chat.group_history("carol", HistoryFrom::Newest, 9).await;
    assert_eq!(bodies(&items), ["created", "the", "-"]);
    assert_eq!(
        (&items[2]["type"], &items[2]["n"], &items[1]["edited"].is_u64()),
        (&json!("tombstone"), &json!(3), &true)
    );
    assert!(!items[2].to_string().contains("rude"));
    let item = chat.group_shown("carol").await;
    assert_eq!((item.unread, item.mentions), (1, 1));
    chat.read_group("carol", first).await;
    assert_eq!(chat.group_shown("carol").await.unread, 0);
}

#[tokio::test]
async fn what_a_member_deletes_is_gone_for_that_member_alone() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    let first = chat.says("alice", "1").await;
    let second = chat.says("alice", "2").await;
    chat.says("alice", "3").await;
    chat.delete_of_group("bob", DeletionOf::Each(vec![second])).await;
    assert_eq!(chat.group_shown("bob").await.unread, 2);
    let (his, _) = chat.group_history("bob", HistoryFrom::Newest, 9).await;
    assert_eq!(bodies(&his), ["created", "1", "-", "3"]);
    chat.read_group("bob", first).await;
    assert_eq!(chat.told("bob", "read").await.last().unwrap()["unread"], 1);
    chat.delete_of_group("bob", DeletionOf::All(group().into())).await;
    let (his, _) = chat.group_history("bob", HistoryFrom::Newest, 9).await;
    let (hers, _) = chat.group_history("carol", HistoryFrom::Newest, 9).await;
    assert_eq!((bodies(&his), bodies(&hers)), (Vec::new(), vec!["created", "1", "2", "3"]));
    assert!(chat.first_screen_of("bob").await.0.iter().all(|item| item.with.as_str() != "g-team"));
    chat.says("alice", "4").await;
    assert_eq!((chat.group_shown("bob").await.unread, bodies(&chat.items("bob", Some(second)).await)), (1, vec!["4"]));
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
