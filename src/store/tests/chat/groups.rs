//! Groups: what members get, and what each of them has of it.

use super::*;
use crate::chat::contact::MuteLevel;
use crate::chat::group::{GroupChange, GroupRole, Post, RECEIPTS_MAX, SettingsChange, Shown};
use crate::chat::id::GroupId;
use crate::chat::suffix::requests::{DeletionOf, HistoryFrom};
use crate::store::tests::sessions::ask;
use crate::store::{
    Archiving, ConversationItem, Deletion, GroupAction, GroupChanged, GroupOutcome, GroupSummary, HistoryQuery, Named,
    NewGroupChange, NewGroupMessage, Page,
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

    pub(in crate::store::tests) async fn create(
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
        let room = self.rig.store.group_room(&group(), 1).await.unwrap();
        let changed = self.rig.store.group_change(new, call, room).await.unwrap().await.unwrap();
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
        let room = self.rig.store.group_room(&new.group, 1).await.unwrap();
        (sid, self.rig.store.group_message(new, call, room).await.unwrap().await.unwrap())
    }

    pub(in crate::store::tests) async fn says(&mut self, from: &str, body: &str) -> Sid {
        let (sid, outcome) = self.post(from, &json!({ "body": body }), &[]).await;
        assert!(matches!(outcome, GroupOutcome::Done { .. }), "{outcome:?}");
        sid
    }

    pub(in crate::store::tests) async fn members_of_group(&self) -> Vec<(String, GroupRole)> {
        let page = self.rig.store.group_page(owner("alice"), group(), String::new()).await.unwrap().await.unwrap();
        let items = page.unwrap().items.into_iter();
        items.map(|member| (member.user.to_string(), member.role)).collect()
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
    pub(in crate::store::tests) async fn unread_in_push(&mut self, user: &str) -> Option<String> {
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

/// The documents of members have no payload before they are read: what is read at one time is limited all the same.
#[tokio::test]
async fn a_page_of_copies_has_no_more_bytes_than_it_may() {
    let mut chat = Chat::of_group(&["bob"]).await;
    chat.forget("bob").await;
    let text = "x".repeat(10_000);
    for _ in 0..20 {
        chat.says("alice", &text).await;
    }
    let page = Page { rows: 1_000, bytes: 50_000 };
    let (mut after, mut read) = (0, 0);
    loop {
        let found = ask!(chat.rig, read_documents, "bob/others/messages".into(), None, after, page);
        assert!(found.documents.len() <= 5, "{}", found.documents.len());
        read += found.documents.len();
        after = found.documents.last().unwrap().waiting.reference.seq;
        if !found.more {
            break;
        }
    }
    assert_eq!(read, 20);
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
    let mute = EntryChange::Mute(Some((chat.at + DAY, MuteLevel::None)));
    let set =
        chat.rig.store.chat_set(owner("eve"), SettingChange::About(group().into(), mute), Bytes::from("{}"), chat.at);
    let muted = set.await.unwrap().await.unwrap().map(drop).map_err(|rejection| rejection.code());
    assert_eq!(muted, Err(ErrorCode::NotMember));
    let about = json!({ "reply_to": chat.write("bob", "alice", "aside").await.to_string() });
    let (_, outcome) = chat.post("alice", &about, &[]).await;
    assert_eq!(code_of(&outcome), Some(ErrorCode::NotFound), "of another conversation");
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

impl Chat {
    /// Of each other member what `user` is told of it: what of the own messages it has, and what it has read.
    async fn ticks(&self, user: &str) -> Vec<(String, Option<Sid>, Option<Sid>)> {
        let page = self.rig.store.group_page(owner(user), group(), String::new()).await.unwrap().await.unwrap();
        let others = page.unwrap().items.into_iter().filter(|member| member.user.as_str() != user);
        others.map(|member| (member.user.to_string(), member.received, member.read)).collect()
    }
}

#[tokio::test]
async fn whoever_was_away_is_told_with_the_roster_how_far_each_member_is() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    let of = |user: &str, received, read| (user.to_owned(), received, read);
    assert_eq!(chat.ticks("alice").await, [of("bob", None, None), of("carol", None, None)]);
    let first = Some(chat.says("alice", "1").await);
    let second = chat.says("carol", "2").await;
    assert_eq!(chat.ticks("alice").await, [of("bob", None, None), of("carol", first, first)], "who writes has read");
    let third = chat.says("alice", "3").await;
    let (silent, _) = chat.post("alice", &json!({ "body": "4", "receipt": false }), &[]).await;
    chat.receipt(received("bob", &[second])).await;
    assert_eq!(chat.ticks("alice").await[0], of("bob", first, None));
    chat.receipt(received("bob", &[silent])).await;
    assert_eq!(chat.ticks("alice").await[0], of("bob", Some(third), None), "of the last one nothing is told");
    assert_eq!(chat.ticks("carol").await[1], of("bob", None, None), "she is no contact of his");
    chat.read_group("bob", second).await;
    assert_eq!(chat.ticks("alice").await[0], of("bob", Some(third), first));
    let mut chat = chat.crash().await;
    assert_eq!(chat.ticks("alice").await[0], of("bob", Some(third), first));
    chat.set("bob", SettingChange::HideRead(true)).await;
    assert_eq!(chat.ticks("alice").await[0], of("bob", Some(third), None));
}

#[tokio::test]
async fn in_a_large_group_nobody_is_told_how_far_the_others_are() {
    let names: Vec<String> = (0..RECEIPTS_MAX).map(|n| format!("u{n:02}")).collect();
    let mut chat = Chat::of_group(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let sid = chat.says("alice", "1").await;
    chat.receipt(received("u00", &[sid])).await;
    assert!(chat.ticks("alice").await.iter().all(|(_, received, read)| received.or(*read).is_none()));
    chat.change("alice", GroupChange::Remove(owners(&["u31"]))).await.unwrap();
    assert_eq!(chat.ticks("alice").await[0], ("u00".to_owned(), Some(sid), None), "it is small again");
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
    assert_eq!(chat.group_shown("bob").await.unread, 2, "there is nothing to read in a place");

    // What the block swallowed comes back neither with its end, nor to be answered.
    chat.block("bob", "carol", false).await;
    assert_eq!(places(&chat.items("bob", Some(before)).await), expected[1..]);
    assert_eq!(places(&chat.group_history("bob", HistoryFrom::After(before), 10).await.0), expected[1..]);
    assert_eq!(chat.group_shown("bob").await.unread, 2);
    let answer = chat.post("bob", &json!({ "body": "what?", "reply_to": hidden.to_string() }), &[]).await;
    assert_eq!(code_of(&answer.1), Some(ErrorCode::NotFound));
    chat.says("carol", "sorry").await;
    assert_eq!(chat.items("bob", Some(hidden)).await.last().unwrap()["body"], "sorry");
}

#[tokio::test]
async fn what_came_before_a_block_stays_until_its_writer_changes_it() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.register("bob", "phone", "T-bob").await;
    let first = chat.says("carol", "1").await;
    let second = chat.says("carol", "2").await;
    chat.block("bob", "carol", true).await;
    let bodies = async |chat: &Chat| {
        let items = chat.group_history("bob", HistoryFrom::Newest, 10).await.0;
        items.iter().filter(|item| item["type"] != "notice").map(|item| item["body"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(bodies(&chat).await, ["1", "2"]);
    assert_eq!(chat.group_shown("bob").await.unread, 2);
    chat.pushes().await;
    chat.forget("bob").await;
    chat.post("carol", &json!({ "type": "edit", "ref": second.to_string(), "body": "nasty" }), &[]).await;
    assert_eq!(bodies(&chat).await, [json!("1"), Value::Null]);
    assert_eq!(chat.group_shown("bob").await.unread, 1);
    assert!(chat.told("bob", "messages").await.is_empty());
    let cleared = chat.pushes().await;
    assert_eq!(whats(&cleared), [("T-bob", "clear")]);
    assert_eq!(cleared[0].data("sid"), second.to_string());
    chat.block("bob", "carol", false).await;
    chat.post("carol", &json!({ "type": "edit", "ref": second.to_string(), "body": "nastier" }), &[]).await;
    chat.post("carol", &json!({ "type": "edit", "ref": first.to_string(), "body": "one" }), &[]).await;
    assert_eq!(bodies(&chat).await, [json!("one"), Value::Null]);
    assert_eq!(chat.told("bob", "messages").await.len(), 1);
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
    pub(in crate::store::tests) async fn first_screen_of(&self, user: &str) -> (Vec<ConversationItem>, u64, u64) {
        let page = self.rig.store.chat_conversations(owner(user), None, 50, self.at).await.unwrap().await.unwrap();
        (page.items, page.unread, page.mentions)
    }

    /// The group on the first screen of a user.
    pub(in crate::store::tests) async fn group_shown(&self, user: &str) -> ConversationItem {
        let (items, ..) = self.first_screen_of(user).await;
        items.into_iter().find(|item| item.with == Owner::from(group())).unwrap()
    }

    pub(in crate::store::tests) async fn group_history(
        &self,
        user: &str,
        from: HistoryFrom,
        limit: usize,
    ) -> (Vec<Value>, bool) {
        let query = HistoryQuery { with: group().into(), from, limit };
        let page = self.rig.store.chat_history(owner(user), query).await.unwrap().await.unwrap();
        let page = page.unwrap();
        (page.items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect(), page.complete)
    }

    pub(in crate::store::tests) async fn delete_of_group(&mut self, user: &str, of: DeletionOf) {
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
    let summary = GroupSummary { version: 1, members: 3, role: GroupRole::Member, post: Post::All };
    assert_eq!((item.group, items[0].group), (Some(summary), None));
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
    let of_alice = GroupSummary { version: 2, members: 2, role: GroupRole::Owner, ..summary };
    assert_eq!((item.group, chat.group_shown("alice").await.group), (None, Some(of_alice)));
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
    let query = HistoryQuery { with: group().into(), from: HistoryFrom::Newest, limit: 3 };
    let page = chat.rig.store.chat_history(owner("eve"), query).await.unwrap().await.unwrap();
    assert_eq!(page.map(drop).map_err(|rejection| rejection.code()), Err(ErrorCode::NotMember));
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
async fn who_reads_up_to_an_edit_has_read_what_came_before_it() {
    let mut chat = Chat::of_group(&["bob"]).await;
    let first = chat.says("alice", "1").await;
    chat.says("alice", "2").await;
    chat.says("alice", "3").await;
    let (edit, _) = chat.post("alice", &json!({ "type": "edit", "ref": first.to_string(), "body": "one" }), &[]).await;
    chat.says("alice", "4").await;
    let since = chat.items("bob", Some(edit)).await;
    assert_eq!(bodies(&since), ["4"]);
    chat.read_group("bob", edit).await;
    let told = chat.told("bob", "read").await;
    assert_eq!(told, [json!({ "with": "g-team", "sid": edit.to_string(), "unread": 1 })]);
    assert_eq!(chat.group_shown("bob").await.unread, 1);
}

#[tokio::test]
async fn an_edit_comes_by_sync_though_nothing_was_written_since() {
    let mut chat = Chat::of_group(&["bob"]).await;
    let sid = chat.says("alice", "teh").await;
    chat.post("alice", &json!({ "type": "edit", "ref": sid.to_string(), "body": "the" }), &[]).await;
    assert_eq!(bodies(&chat.items("bob", Some(sid)).await), ["the"]);
}

#[tokio::test]
async fn what_is_edited_later_of_the_time_before_is_for_no_new_member_unless_it_reads_that_too() {
    for (shown, expected) in [(Shown::Joining, &["later"][..]), (Shown::All, &["secret", "later"])] {
        let mut chat = Chat::of_group(&["bob"]).await;
        let settings = SettingsChange { history: Some(shown), ..SettingsChange::default() };
        chat.change("alice", GroupChange::Set(settings)).await.unwrap();
        let sid = chat.says("alice", "before").await;
        let own = chat.says("bob", "of bob").await;
        chat.rig.store.chat_user_seen(owner("dave")).await.unwrap().await.unwrap();
        chat.write("dave", "alice", "hi").await;
        chat.change("alice", GroupChange::Add(owners(&["dave"]))).await.unwrap();
        let notice = chat.items("dave", None).await.last().unwrap()["sid"].as_str().and_then(Sid::parse);
        chat.post("alice", &json!({ "type": "edit", "ref": sid.to_string(), "body": "secret" }), &[]).await;
        chat.says("alice", "later").await;
        assert_eq!(bodies(&chat.items("dave", notice).await), expected, "{shown:?}");
        let all = chat.items("dave", None).await;
        assert_eq!(all.iter().any(|item| item["body"] == "secret"), shown == Shown::All);
        // Who wrote it has it, wherever else he was meanwhile.
        chat.change("alice", GroupChange::Remove(owners(&["bob"]))).await.unwrap();
        chat.change("alice", GroupChange::Add(owners(&["bob"]))).await.unwrap();
        chat.post("bob", &json!({ "type": "edit", "ref": own.to_string(), "body": "own words" }), &[]).await;
        assert_eq!(bodies(&chat.items("bob", Some(own)).await).last(), Some(&"own words"));
    }
}

#[tokio::test]
async fn what_an_owner_says_beside_a_retract_comes_to_nobody_who_has_blocked_it() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.block("carol", "alice", true).await;
    let sid = chat.says("bob", "rude").await;
    for user in ["bob", "carol"] {
        chat.forget(user).await;
    }
    let retract = json!({ "type": "retract", "ref": sid.to_string(), "body": null, "reason": "words for all" });
    let (of, outcome) = chat.post("alice", &retract, &[]).await;
    assert_eq!(outcome, GroupOutcome::Done { waiting: Vec::new() });
    chat.block("carol", "alice", false).await;
    for (user, reason) in [("bob", json!("words for all")), ("carol", Value::Null)] {
        for (what, items) in [("live", chat.told(user, "messages").await), ("sync", chat.items(user, Some(sid)).await)]
        {
            let retract = items.iter().find(|item| item["sid"] == of.to_string());
            let retract = retract.unwrap_or_else(|| panic!("{user} {what}: {items:?}"));
            assert_eq!((&retract["type"], &retract["ref"]), (&json!("retract"), &json!(sid.to_string())), "{what}");
            assert_eq!(retract.get("reason").cloned().unwrap_or_default(), reason, "{user} {what}");
        }
    }
}

#[tokio::test]
async fn a_group_that_was_muted_once_comes_out_with_what_is_new() {
    let mut chat = Chat::of_group(&["bob"]).await;
    let mute = EntryChange::Mute(Some((chat.at + MINUTE, MuteLevel::None)));
    chat.set("bob", SettingChange::About(group().into(), mute)).await;
    let (with, told) = (Owner::from(group()), Bytes::from("{}"));
    let archiving = Archiving { user: owner("bob"), dev: None, connected: Vec::new(), with, on: true, told };
    let call = chat.call();
    chat.rig.store.chat_archive(archiving, call).await.unwrap().await.unwrap().unwrap();
    chat.says("alice", "while it is muted").await;
    assert!(chat.group_shown("bob").await.archived);
    chat.at += MINUTE;
    chat.says("alice", "later").await;
    assert!(!chat.group_shown("bob").await.archived);
}

#[tokio::test]
async fn a_notice_or_an_edit_confirms_nothing_that_came_before_it() {
    let mut chat = Chat::of_group(&["bob"]).await;
    let sid = chat.says("alice", "1").await;
    let (edit, _) = chat.post("alice", &json!({ "type": "edit", "ref": sid.to_string(), "body": "one" }), &[]).await;
    chat.change("alice", GroupChange::Set(named_settings("New"))).await.unwrap();
    chat.forget("alice").await;
    let notice = chat.items("bob", Some(edit)).await.last().unwrap()["sid"].as_str().and_then(Sid::parse).unwrap();
    chat.receipt(received("bob", &[edit, notice])).await;
    assert!(chat.told("alice", "receipts").await.is_empty());
    chat.receipt(NewReceipt { of: ReceiptOf::UpTo(notice), ..received("bob", &[]) }).await;
    assert_eq!(statuses(&chat.told("alice", "receipts").await), [(&*sid.to_string(), "delivered")], "that says so");
}
