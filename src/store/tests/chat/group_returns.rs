//! Who goes from a group and comes back has what was written each time that it was in it.

use super::groups::{bodies, code_of, group, owners};
use super::*;
use crate::chat::group::{GroupChange, SettingsChange, Shown};
use crate::store::MEMBERSHIPS_MAX;
use crate::store::tests::sessions::ask;

/// The spans of Carol, as they are kept.
const SPANS: &str = "SELECT coalesce(json_array_length(spans), 0) FROM members WHERE user = 'carol' AND gid = 'g-team'";

impl Chat {
    /// Alice, Bob and Carol, to whom nothing was written yet.
    async fn of_three() -> Self {
        let chat = Self::of_group(&["bob", "carol"]).await;
        chat.rig.store.chat_user_seen(owner("carol")).await.unwrap().await.unwrap();
        chat
    }

    async fn carol_goes(&mut self) {
        self.change("alice", GroupChange::Remove(owners(&["carol"]))).await.unwrap();
    }

    async fn carol_comes(&mut self) {
        let changed = self.change("alice", GroupChange::Add(owners(&["carol"]))).await.unwrap();
        assert_eq!(changed.done, owners(&["carol"]));
    }

    /// What Carol has of the group when she asks for it: the history, sync from the beginning, the newest of it, and the export.
    async fn carols(&self) -> Vec<Vec<Value>> {
        let of_group = |items: Vec<Value>| items.into_iter().filter(|item| item["group"] == "g-team").collect();
        let beginning = Sid::parse("0000000000000000");
        let mut export = Vec::new();
        let mut after = String::new();
        loop {
            let page = ask!(self.rig, chat_export, owner("carol"), after).unwrap();
            export.extend(page.items.into_iter().map(|item| item["message"].clone()));
            let Some(next) = page.next else { break };
            after = next;
        }
        vec![
            self.group_history("carol", HistoryFrom::Newest, 100).await.0,
            of_group(self.items("carol", beginning).await),
            of_group(self.items("carol", None).await),
            of_group(export),
        ]
    }

    async fn assert_carols(&self, expected: &[&str]) {
        for (way, items) in self.carols().await.iter().enumerate() {
            assert_eq!(bodies(items), expected, "{way}");
        }
    }

    /// What Alice is told of how far Carol is.
    async fn ticks_of_carol(&self) -> (Option<Sid>, Option<Sid>) {
        let page = ask!(self.rig, group_page, owner("alice"), group(), String::new()).unwrap();
        let carol = page.items.into_iter().find(|member| member.user.as_str() == "carol").unwrap();
        (carol.received, carol.read)
    }

    async fn edit_of_group(&mut self, from: &str, sid: Sid, body: &str) {
        let (_, outcome) = self.post(from, &json!({ "type": "edit", "ref": sid.to_string(), "body": body }), &[]).await;
        assert_eq!(code_of(&outcome), None);
    }
}

#[tokio::test]
async fn who_comes_back_has_what_was_written_before_and_nothing_of_what_was_written_meanwhile() {
    let mut chat = Chat::of_three().await;
    chat.says("alice", "first").await;
    chat.says("carol", "hers").await;
    chat.carol_goes().await;
    chat.assert_carols(&["created", "first", "hers", "removed"]).await;
    chat.says("bob", "meanwhile").await;
    chat.carol_comes().await;
    chat.assert_carols(&["created", "first", "hers", "removed", "added"]).await;
    chat.says("bob", "second").await;
    let all = ["created", "first", "hers", "removed", "added", "second"];
    chat.assert_carols(&all).await;
    let (items, _) = chat.group_history("carol", HistoryFrom::Newest, 100).await;
    let places: Vec<_> = items.iter().map(|item| item["n"].as_u64().unwrap()).collect();
    assert_eq!(places, [1, 2, 3, 4, 6, 7], "one count for all, of which 5 is not hers");
    let shown = chat.group_shown("carol").await;
    assert_eq!((shown.unread, shown.count, shown.is_former), (1, 7, false), "of before nothing is unread");

    // And the same out again, and back once more.
    chat.carol_goes().await;
    chat.says("bob", "meanwhile again").await;
    chat.assert_carols(&[&all[..], &["removed"]].concat()).await;
    assert!(chat.group_shown("carol").await.is_former);
    chat.carol_comes().await;
    let chat = chat.crash().await;
    chat.assert_carols(&[&all[..], &["removed", "added"]].concat()).await;
}

#[tokio::test]
async fn a_history_goes_from_page_to_page_over_the_times_between() {
    let mut chat = Chat::of_three().await;
    let first = chat.says("alice", "1").await;
    for n in 2..=4 {
        chat.carol_goes().await;
        chat.says("alice", "meanwhile").await;
        chat.carol_comes().await;
        chat.says("alice", &n.to_string()).await;
    }
    let all = ["created", "1", "removed", "added", "2", "removed", "added", "3", "removed", "added", "4"];
    for limit in [1, 2, 3, 11] {
        let (mut back, mut from) = (Vec::new(), HistoryFrom::Newest);
        loop {
            let (mut page, complete) = chat.group_history("carol", from, limit).await;
            from = HistoryFrom::Before(Sid::parse(page[0]["sid"].as_str().unwrap()).unwrap());
            page.extend(back);
            back = page;
            if complete {
                break;
            }
        }
        assert_eq!(bodies(&back), all, "{limit}");
        let (mut on, mut from) = (Vec::new(), HistoryFrom::After(first));
        loop {
            let (page, complete) = chat.group_history("carol", from, limit).await;
            on.extend(page);
            from = HistoryFrom::After(Sid::parse(on.last().unwrap()["sid"].as_str().unwrap()).unwrap());
            if complete {
                break;
            }
        }
        assert_eq!(bodies(&on), all[2..], "{limit}");
    }
    let since = chat.items("carol", Some(first)).await;
    assert_eq!(bodies(&since), all[2..]);
}

#[tokio::test]
async fn who_comes_back_confirms_answers_explains_and_deletes_what_was_written_before() {
    let mut chat = Chat::of_three().await;
    let before = chat.says("alice", "before").await;
    chat.carol_goes().await;
    let meanwhile = chat.says("alice", "meanwhile").await;
    chat.carol_comes().await;
    chat.forget("carol").await;
    chat.forget("alice").await;
    for (sid, expected) in [(before, None), (meanwhile, Some(ErrorCode::NotFound))] {
        assert_eq!(code(&chat.receipt(received("carol", &[sid])).await), expected);
        assert_eq!(code(&chat.read_group("carol", sid).await), expected);
        for about in [json!({ "reply_to": sid.to_string() }), json!({ "type": "reaction", "ref": sid.to_string() })] {
            let (_, outcome) = chat.post("carol", &about, &[]).await;
            assert_eq!(code_of(&outcome), expected, "{about}");
        }
        let explained = ask!(chat.rig, chat_explain, owner("carol"), sid);
        assert_eq!(chat.rig.inspector().explain_push(&owner("carol"), sid).unwrap(), explained, "beside the bridge");
        assert_eq!(explained.is_some(), expected.is_none());
        let of = DeletionOf::Each(vec![sid]);
        let deleted = chat.delete("carol", of).await.map(drop).map_err(|rejection| rejection.code());
        assert_eq!(deleted.err(), expected);
    }
    assert!(chat.told("carol", "read").await.iter().all(|read| read["sid"] != before.to_string()), "it was read");
    assert!(statuses(&chat.told("alice", "receipts").await).iter().all(|(sid, _)| *sid != before.to_string()));
    for items in chat.carols().await {
        let item = items.iter().find(|item| item["sid"] == before.to_string()).unwrap();
        assert_eq!((&item["type"], &item["why"], &item["n"]), (&json!("tombstone"), &json!("deleted"), &json!(2)));
    }
    chat.delete_of_group("carol", DeletionOf::All(group().into())).await;
    chat.assert_carols(&[]).await;
}

#[tokio::test]
async fn words_of_while_somebody_was_out_are_not_for_who_comes_back_and_later_ones_are() {
    let mut chat = Chat::of_three().await;
    let (edited, retracted) = (chat.says("alice", "old words").await, chat.says("alice", "rude words").await);
    let own = chat.says("carol", "own words").await;
    chat.edit_of_group("carol", own, "own words, edited").await;
    chat.carol_goes().await;
    chat.edit_of_group("alice", edited, "words of meanwhile").await;
    chat.carol_comes().await;
    chat.forget("carol").await;
    let text = async |chat: &Chat, sid: Sid| {
        let of_sid = |items: &Vec<Value>| items.iter().find(|item| item["sid"] == sid.to_string()).unwrap().clone();
        let found: Vec<_> = chat.carols().await.iter().map(of_sid).collect();
        assert!(found.iter().all(|item| *item == found[0]), "{found:?}");
        found[0]["why"].as_str().or_else(|| found[0]["body"].as_str()).unwrap().to_owned()
    };
    assert_eq!(text(&chat, edited).await, "edited");
    assert_eq!(text(&chat, own).await, "own words, edited");
    chat.edit_of_group("alice", edited, "new words").await;
    chat.post("alice", &json!({ "type": "retract", "ref": retracted.to_string(), "body": null }), &[]).await;
    let told = chat.told("carol", "messages").await;
    let told: Vec<_> = told.iter().map(|one| (&one["type"], &one["ref"])).collect();
    let refs = [json!(edited.to_string()), json!(retracted.to_string())];
    assert_eq!(told, [(&json!("edit"), &refs[0]), (&json!("retract"), &refs[1])], "she has both messages");
    assert_eq!(text(&chat, edited).await, "new words");
    assert_eq!(text(&chat, retracted).await, "retracted");
    chat.edit_of_group("carol", own, "own words, edited again").await;
    assert_eq!(text(&chat, own).await, "own words, edited again");
}

#[tokio::test]
async fn the_roster_says_how_far_somebody_was_who_went_and_came_back() {
    let mut chat = Chat::of_three().await;
    let first = chat.says("alice", "1").await;
    let second = chat.says("alice", "2").await;
    let third = chat.says("alice", "3").await;
    chat.read_group("carol", first).await;
    chat.receipt(received("carol", &[second])).await;
    assert_eq!(chat.ticks_of_carol().await, (Some(second), Some(first)));
    chat.carol_goes().await;
    // Nobody is told of this.
    chat.read_group("carol", third).await;
    chat.carol_comes().await;
    assert_eq!(chat.ticks_of_carol().await, (Some(second), Some(first)));
    let fourth = chat.says("alice", "4").await;
    chat.receipt(received("carol", &[fourth])).await;
    assert_eq!(chat.ticks_of_carol().await, (Some(fourth), Some(first)));
}

#[tokio::test]
async fn who_comes_back_to_a_group_that_shows_everything_has_nothing_twice() {
    let mut chat = Chat::of_three().await;
    chat.says("alice", "1").await;
    chat.carol_goes().await;
    chat.says("alice", "2").await;
    let all = SettingsChange { history: Some(Shown::All), ..SettingsChange::default() };
    chat.change("alice", GroupChange::Set(all)).await.unwrap();
    chat.carol_comes().await;
    chat.says("alice", "3").await;
    let shown = ["created", "1", "removed", "2", "changed", "added", "3"];
    assert_eq!(bodies(&chat.carols().await[0]), shown);
    assert_eq!(bodies(&chat.carols().await[1]), ["created", "1", "removed", "added", "3"], "of its time alone");

    // What it showed then stays hers when it shows less.
    let joining = SettingsChange { history: Some(Shown::Joining), ..SettingsChange::default() };
    chat.carol_goes().await;
    chat.change("alice", GroupChange::Set(joining)).await.unwrap();
    chat.says("alice", "4").await;
    chat.carol_comes().await;
    assert_eq!(bodies(&chat.carols().await[0]), [&shown[..], &["removed", "added"]].concat());
}

#[tokio::test]
async fn the_newest_item_of_who_deletes_all_that_came_since_is_one_of_before() {
    let mut chat = Chat::of_three().await;
    chat.says("alice", "before").await;
    chat.carol_goes().await;
    chat.says("alice", "meanwhile").await;
    chat.carol_comes().await;
    let (items, _) = chat.group_history("carol", HistoryFrom::Newest, 2).await;
    let sids = items.iter().map(|item| Sid::parse(item["sid"].as_str().unwrap()).unwrap()).collect();
    assert_eq!(bodies(&items), ["removed", "added"]);
    chat.delete_of_group("carol", DeletionOf::Each(sids)).await;
    let last: Value = serde_json::from_slice(&chat.group_shown("carol").await.last.unwrap()).unwrap();
    assert_eq!(last["body"], "before");
}

#[tokio::test]
async fn of_many_times_the_newest_are_kept() {
    let mut chat = Chat::of_three().await;
    chat.says("alice", "0").await;
    for n in 1..=MEMBERSHIPS_MAX {
        chat.carol_goes().await;
        chat.carol_comes().await;
        chat.says("alice", &n.to_string()).await;
    }
    let (first, _) = chat.group_history("carol", HistoryFrom::After(Sid::parse("0000000000000000").unwrap()), 2).await;
    assert_eq!((bodies(&first), chat.count(SPANS)), (vec!["created", "0"], MEMBERSHIPS_MAX as i64));
    chat.carol_goes().await;
    let (first, _) = chat.group_history("carol", HistoryFrom::After(Sid::parse("0000000000000000").unwrap()), 2).await;
    assert_eq!((bodies(&first), chat.count(SPANS)), (vec!["added", "1"], MEMBERSHIPS_MAX as i64));
}

#[tokio::test]
async fn a_time_is_forgotten_with_what_was_written_then_and_with_its_user() {
    let mut chat = Chat::of_three().await;
    chat.says("alice", "before").await;
    chat.carol_goes().await;
    chat.carol_comes().await;
    chat.at += 10 * DAY;
    chat.carol_goes().await;
    chat.carol_comes().await;
    chat.says("alice", "second").await;
    while chat.sweep(20 * DAY, u64::MAX).await {}
    assert_eq!(chat.count(SPANS), 2);
    while chat.sweep(5 * DAY, u64::MAX).await {}
    assert_eq!(chat.count(SPANS), 1, "of the first nothing is kept");
    chat.assert_carols(&["removed", "added", "second"]).await;
    chat.at += 10 * DAY;
    while chat.sweep(5 * DAY, u64::MAX).await {}
    assert_eq!(chat.count(SPANS), 0);
    assert_eq!(chat.count("SELECT count(*) FROM members WHERE spans IS NOT NULL"), 0);
    let names: Vec<String> = chat.members_of_group().await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["alice", "bob", "carol"]);

    chat.carol_goes().await;
    assert_eq!(chat.count(SPANS), 1);
    chat.erase("carol").await;
    assert_eq!(chat.count("SELECT count(*) FROM members WHERE spans IS NOT NULL"), 0);
}
