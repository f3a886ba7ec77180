//! Who comes into a group, who goes, and what that means for each of them.

use super::groups::{bodies, code_of, group, named_settings, owners};
use super::*;
use crate::chat::group::{GroupChange, GroupRole, Post, SettingsChange, Shown};
use crate::chat::id::GroupId;
use crate::chat::suffix::invitations::{Answer, Invitation, Kind};
use crate::store::{GroupAction, GroupOutcome, NewGroupChange, NewInvitation, USER_GROUPS_MAX};

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
