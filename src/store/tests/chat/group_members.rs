//! Who comes into a group, who goes, and what that means for each of them.

use super::groups::{bodies, code_of, group, named_settings, owners};
use super::*;
use crate::chat::contact::MuteLevel;
use crate::chat::group::{GroupChange, GroupRole, Post, SettingsChange, Shown};
use crate::chat::id::GroupId;
use crate::chat::suffix::invitations::{Answer, Invitation, Kind};
use crate::store::{
    GroupAction, GroupOutcome, NewGroupChange, NewInvitation, OutboxDocument, USER_FORMER_GROUPS_MAX, USER_GROUPS_MAX,
};

impl Chat {
    /// Accepts an invitation of `by`.
    async fn accept(&mut self, user: &str, by: &str, asked: Sid) -> ChatOutcome {
        self.at += 1;
        let sid = self.rig.sids.next(self.at, 0);
        let invitation = Invitation { id: None, to: owner(by), kind: Kind::Answer(Answer::Accept, asked), dev: None };
        let new = NewInvitation { sid, from: writer(user), to: peer(by, &[]), invitation };
        let call = self.call();
        self.rig.store.chat_invite(new, call).await.unwrap().await.unwrap()
    }

    /// The invitations that a user got since.
    async fn invitations_to(&self, user: &str) -> Vec<Sid> {
        let told = self.told(user, "invitations").await;
        let requests = told.iter().filter(|document| document["type"] == "request");
        requests.map(|document| Sid::parse(document["sid"].as_str().unwrap()).unwrap()).collect()
    }

    /// A user makes a group of its own, with nobody.
    async fn create_own(&mut self, user: &str, name: &str) -> Result<(), ErrorCode> {
        let what = GroupAction::Create(SettingsChange::default());
        self.change_other(user, name, what).await
    }

    async fn change_other(&mut self, user: &str, name: &str, what: GroupAction) -> Result<(), ErrorCode> {
        self.at += 1;
        let (sid, group) = (self.rig.sids.next(self.at, 0), GroupId::new(name).unwrap());
        let room = self.rig.store.group_room(&group, 1).await.unwrap();
        let new = NewGroupChange { sid, by: writer(user), group, what, named: Vec::new() };
        let call = self.call();
        let changed = self.rig.store.group_change(new, call, room).await.unwrap().await.unwrap();
        changed.map(drop).map_err(|rejection| rejection.code())
    }

    /// What the session of a user would be given now.
    async fn in_session(&self, user: &str) -> Vec<Value> {
        let waiting: Vec<OutboxDocument> = self.rig.next(&format!("{user}/others/messages"), 0).await;
        waiting.iter().map(|document| serde_json::from_slice(&document.payload).unwrap()).collect()
    }

    async fn remove(&mut self, user: &str) {
        assert_eq!(self.change("alice", GroupChange::Remove(owners(&[user]))).await.unwrap().done, owners(&[user]));
    }
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

    let asked = Sid::parse(invitation["sid"].as_str().unwrap()).unwrap();
    let outcome = chat.accept("carol", "alice", asked).await;
    assert!(matches!(outcome, ChatOutcome::Done { .. }), "{outcome:?}");
    assert_eq!(bodies(&chat.told("bob", "messages").await), ["joined"]);
    use GroupRole::{Member, Owner as Owns};
    let roster = [("alice", Owns), ("bob", Member), ("carol", Member)].map(|(name, role)| (name.to_owned(), role));
    assert_eq!(chat.members_of_group().await, roster);
    assert_eq!(chat.create(&[], SettingsChange::default()).await, Err(ErrorCode::Duplicate));
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

    // She comes back, and nothing of meanwhile is hers.
    chat.change("alice", GroupChange::Add(owners(&["carol"]))).await.unwrap();
    assert_eq!(bodies(&chat.told("carol", "messages").await), ["added"]);
    assert_eq!(bodies(&chat.items("carol", Some(before)).await), ["removed", "added"]);
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
    let roles: Vec<_> = page.items.iter().map(|member| (member.user.as_str(), member.role)).collect();
    assert_eq!((roles, page.role), (vec![("bob", Owns), ("carol", Member)], Member));

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
async fn a_user_is_in_so_many_groups() {
    let mut chat = Chat::of_group(&["bob"]).await;
    let mut last = Ok(());
    for n in 0..USER_GROUPS_MAX {
        last = chat.create_own("bob", &format!("g-{n}")).await;
    }
    assert_eq!(last, Err(ErrorCode::RateLimited), "the first one counts");

    // Who has no room is asked, and hears why when there is none.
    chat.change("alice", GroupChange::Remove(owners(&["bob"]))).await.unwrap();
    chat.create_own("bob", "g-last").await.unwrap();
    chat.rig.store.chat_user_seen(owner("carol")).await.unwrap().await.unwrap();
    chat.write("carol", "alice", "hi").await;
    chat.forget("bob").await;
    let changed = chat.change("alice", GroupChange::Add(owners(&["bob", "carol"]))).await.unwrap();
    assert_eq!((changed.done, changed.invited.len()), (owners(&["carol"]), 1));
    let asked = chat.invitations_to("bob").await[0];
    assert_eq!(code(&chat.accept("bob", "alice", asked).await), Some(ErrorCode::RateLimited));
    chat.change_other("bob", "g-last", GroupAction::Change(GroupChange::Leave)).await.unwrap();
    assert_eq!(code(&chat.accept("bob", "alice", asked).await), None);
}

#[tokio::test]
async fn who_was_removed_comes_back_by_no_older_invitation() {
    let mut chat = Chat::of_group(&["bob"]).await;
    for user in ["carol", "dave"] {
        chat.rig.store.chat_user_seen(owner(user)).await.unwrap().await.unwrap();
    }
    for _ in 0..2 {
        chat.change("alice", GroupChange::Add(owners(&["carol"]))).await.unwrap();
    }
    let asked = chat.invitations_to("carol").await;
    assert_eq!(code(&chat.accept("carol", "alice", asked[0]).await), None);
    chat.remove("carol").await;
    assert_eq!(code(&chat.accept("carol", "alice", asked[1]).await), Some(ErrorCode::NotFound));
    chat.change("alice", GroupChange::Add(owners(&["carol"]))).await.unwrap();
    let again = chat.invitations_to("carol").await[0];
    assert_eq!(code(&chat.accept("carol", "alice", again).await), None, "asked anew, she may");

    // Whoever is no owner any more has nobody to let in.
    chat.change("alice", GroupChange::Promote(owners(&["bob"]))).await.unwrap();
    chat.change("bob", GroupChange::Add(owners(&["dave"]))).await.unwrap();
    let asked = chat.invitations_to("dave").await[0];
    chat.change("alice", GroupChange::Demote(owners(&["bob"]))).await.unwrap();
    assert_eq!(code(&chat.accept("dave", "bob", asked).await), Some(ErrorCode::NotFound));
    chat.remove("bob").await;
    assert_eq!(code(&chat.accept("dave", "bob", asked).await), Some(ErrorCode::NotFound));
    let names: Vec<String> = chat.members_of_group().await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["alice", "carol"]);
}

#[tokio::test]
async fn who_was_removed_hears_nothing_more_of_the_group() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.write("bob", "carol", "so she is a contact of his").await;
    let edited = chat.says("bob", "old words").await;
    let retracted = chat.says("bob", "rude words").await;
    let own = chat.says("carol", "hers").await;
    chat.told("carol", "receipts").await;
    chat.remove("carol").await;
    let removed = chat.in_session("carol").await.last().unwrap().clone();
    assert_eq!(removed["event"], "removed");
    chat.read_group("bob", own).await;
    assert!(chat.told("carol", "receipts").await.is_empty(), "who read it is not hers to know");
    chat.post("bob", &json!({ "type": "edit", "ref": edited.to_string(), "body": "new words" }), &[]).await;
    chat.post("bob", &json!({ "type": "retract", "ref": retracted.to_string(), "body": null }), &[]).await;
    chat.change("alice", GroupChange::Set(named_settings("Conspiracy"))).await.unwrap();

    let (history, _) = chat.group_history("carol", HistoryFrom::Newest, 9).await;
    let (mut export, mut after) = (Vec::new(), String::new());
    loop {
        let page = chat.rig.store.chat_export(owner("carol"), after).await.unwrap().await.unwrap().unwrap();
        export.extend(page.items);
        let Some(next) = page.next else { break };
        after = next;
    }
    for (what, items) in [
        ("history", history),
        ("sync", chat.items("carol", None).await),
        ("export", export.iter().map(|item| item["message"].clone()).collect()),
        ("session", chat.in_session("carol").await),
    ] {
        let of = |sid: Sid| items.iter().find(|item| item["sid"] == sid.to_string()).unwrap();
        assert_eq!((&of(edited)["type"], &of(edited)["why"]), (&json!("tombstone"), &json!("edited")), "{what}");
        assert_eq!(of(retracted)["type"], "tombstone", "{what}");
        let all = json!(items).to_string();
        assert!(!all.contains("new words") && !all.contains("rude") && !all.contains("Conspiracy"), "{what}: {all}");
    }
    let (of_bob, _) = chat.group_history("bob", HistoryFrom::Newest, 9).await;
    assert!(json!(of_bob).to_string().contains("new words"));

    // She sees the group as she left it, also when nothing of it is kept any more.
    chat.says("alice", "after").await;
    for _ in 0..2 {
        let item = chat.group_shown("carol").await;
        let profile: Value = serde_json::from_str(item.profile.as_deref().unwrap()).unwrap();
        assert_eq!((&profile["name"], item.count, item.unread), (&json!("Team"), 5, 0));
        assert!(item.is_former);
        let page = chat.rig.store.chat_export(owner("carol"), "groups".to_owned()).await.unwrap().await.unwrap();
        let group = page.unwrap().items.remove(0);
        assert_eq!((&group["settings"]["name"], &group["version"]), (&json!("Team"), &json!(2)));
        // The notice goes, and the place of it stays.
        let file = rusqlite::Connection::open(&chat.rig.settings.path).unwrap();
        file.execute("DELETE FROM chat WHERE kind = 5", []).unwrap();
    }
}

#[tokio::test]
async fn what_the_phones_of_a_removed_member_show_goes_and_so_does_what_names_it() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    chat.register("carol", "phone", "T-carol").await;
    chat.post("alice", &json!({ "mentions": ["carol"] }), &[]).await;
    assert_eq!(whats(&chat.pushes().await), [("T-carol", "message")]);
    let second = chat.says("alice", "not sent yet").await;
    assert_eq!(chat.first_screen_of("carol").await.2, 1);
    chat.remove("carol").await;
    let pushes = chat.pushes().await;
    assert_eq!(
        (whats(&pushes), pushes[0].data("with"), pushes[0].data("unread")),
        (vec![("T-carol", "clear")], "g-team", "0")
    );
    assert_eq!((chat.first_screen_of("carol").await.1, chat.first_screen_of("carol").await.2), (0, 0));
    assert_eq!(chat.count("SELECT count(*) FROM pushed") + chat.count("SELECT count(*) FROM mentions"), 0);
    chat.told("carol", "read").await;
    assert_eq!(code(&chat.read_group("carol", second).await), None);
    let read = json!({ "with": "g-team", "sid": second.to_string(), "unread": 0 });
    assert_eq!(chat.told("carol", "read").await, [read], "what was hers to read");
    chat.forget("alice").await;
    chat.told("alice", "receipts").await;
    // Whoever goes by itself holds the device in its hands.
    chat.register("bob", "phone", "T-bob").await;
    chat.register("bob", "tablet", "T-tablet").await;
    chat.says("alice", "to bob").await;
    assert_eq!(chat.pushes().await.len(), 2);
    chat.change("bob", GroupChange::Leave).await.unwrap();
    assert_eq!(whats(&chat.pushes().await), [("T-tablet", "clear")]);
}

#[tokio::test]
async fn a_membership_that_has_ended_is_kept_no_longer_than_what_was_written_then() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    let mute = EntryChange::Mute(Some((chat.at + 100 * DAY, MuteLevel::None)));
    chat.set("carol", SettingChange::About(group().into(), mute)).await;
    chat.remove("carol").await;
    chat.create_own("bob", "g-other").await.unwrap();
    chat.change_other("bob", "g-other", GroupAction::Change(GroupChange::Dissolve)).await.unwrap();
    while chat.sweep(DAY, u64::MAX).await {}
    assert_eq!(chat.count("SELECT count(*) FROM members WHERE gone IS NOT NULL"), 2);
    chat.at += 10 * DAY;
    while chat.sweep(DAY, u64::MAX).await {}
    assert_eq!(chat.count("SELECT count(*) FROM members WHERE gone IS NOT NULL"), 0);
    assert_eq!(chat.count("SELECT count(*) FROM contacts WHERE other LIKE 'g-%'"), 0);
    assert_eq!((chat.count("SELECT count(*) FROM chat_groups"), chat.members_of_group().await.len()), (1, 2));
    chat.says("bob", "it goes on").await;

    // Of all that one person leaves, the newest are kept.
    for n in 0..=USER_FORMER_GROUPS_MAX {
        chat.create_own("bob", &format!("g-{n}")).await.unwrap();
        chat.change_other("bob", &format!("g-{n}"), GroupAction::Change(GroupChange::Leave)).await.unwrap();
    }
    let kept = chat.count("SELECT count(*) FROM members WHERE user = 'bob' AND gone IS NOT NULL");
    assert_eq!(kept, USER_FORMER_GROUPS_MAX as i64);
    assert_eq!(chat.count("SELECT count(*) FROM members WHERE gid = 'g-0'"), 0, "the oldest went");
}
