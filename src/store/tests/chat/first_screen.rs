//! The conversations of a user, and one of them page by page.

use super::*;
use crate::chat::suffix::invitations::Invitation;

impl Chat {
    pub(in crate::store::tests) async fn conversations(&self, user: &str) -> ConversationPage {
        self.conversations_before(user, None, PAGE_MAX).await
    }

    async fn conversations_before(&self, user: &str, before: Option<Sid>, limit: usize) -> ConversationPage {
        self.rig.store.chat_conversations(owner(user), before, limit, self.at).await.unwrap().await.unwrap()
    }

    async fn part(&self, user: &str, with: &str, from: HistoryFrom, limit: usize) -> (Vec<String>, bool) {
        let query = HistoryQuery { with: owner(with), from, limit };
        let page = self.rig.store.chat_history(owner(user), query).await.unwrap().await.unwrap().unwrap();
        let body = |item: &Bytes| serde_json::from_slice::<Value>(item).unwrap()["body"].as_str().unwrap().to_owned();
        (page.items.iter().map(body).collect(), page.complete)
    }

    async fn invites(&mut self, from: &str, to: &str, more: &Value) -> Sid {
        let mut document = json!({ "to": to, "type": "request" });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let invitation = Invitation::parse(document.to_string().as_bytes(), &PayloadLimits::default()).unwrap();
        self.at += 1;
        let sid = self.rig.sids.next(self.at, 0);
        let (call, to) = (self.call(), peer(to, &[]));
        let new = NewInvitation { sid, from: writer(from), to, invitation };
        let outcome = self.rig.store.chat_invite(new, call).await.unwrap().await.unwrap();
        assert!(matches!(outcome, ChatOutcome::Done { .. }), "{outcome:?}");
        sid
    }
}

fn names(page: &ConversationPage) -> Vec<&str> {
    page.items.iter().map(|item| item.with.as_str()).collect()
}

fn value(document: &Option<Bytes>) -> Value {
    document.as_ref().map_or(Value::Null, |document| serde_json::from_slice(document).unwrap())
}

#[tokio::test]
async fn each_invitation_that_is_open_between_two_is_on_the_first_screen() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    let mut expected = Vec::new();
    for (from, to) in [("alice", "bob"), ("alice", "bob"), ("bob", "alice"), ("alice", "bob")] {
        expected.insert(0, chat.invites(from, to, &json!({})).await);
    }
    let open = |page: &ConversationPage| -> Vec<Sid> {
        let sid = |document| Sid::parse(value(&Some(document))["sid"].as_str().unwrap()).unwrap();
        page.items[0].invitations.iter().cloned().map(sid).collect()
    };
    for user in ["alice", "bob"] {
        let page = chat.conversations(user).await;
        assert_eq!((open(&page), page.items[0].more_invitations), (expected.clone(), false), "{user}");
    }
    // Which of them is deleted by one is there for the other.
    chat.delete("bob", DeletionOf::Each(vec![expected[1]])).await.unwrap();
    assert_eq!(open(&chat.conversations("bob").await), [expected[0], expected[2], expected[3]]);
    assert_eq!(open(&chat.conversations("alice").await), expected);
    for _ in 0..OPEN_MAX {
        chat.invites("alice", "bob", &json!({ "body": "again" })).await;
    }
    let page = chat.conversations("bob").await;
    assert_eq!((open(&page).len(), page.items[0].more_invitations), (OPEN_MAX, true));
    chat.at += 8 * DAY;
    assert!(open(&chat.conversations("bob").await).is_empty(), "their time is over");
}

#[tokio::test]
async fn one_request_is_the_first_screen() {
    let mut chat = Chat::of(&["alice", "bob", "carol", "dave", "eve"]).await;
    for (user, name) in [("alice", "Alice"), ("carol", "Carol"), ("eve", "Eve")] {
        let profile = json!({ "name": name, "image": "https://x/y" }).to_string();
        chat.rig.store.chat_profile(owner(user), Some(profile)).await.unwrap().await.unwrap();
    }
    chat.write("bob", "carol", "to carol").await;
    let own = chat.write("bob", "alice", "mine").await;
    chat.receipt(received("alice", &[own])).await;
    let first = chat.write("alice", "bob", "one").await;
    let named = json!({ "to": "bob", "body": "@bob, @dave", "mentions": ["bob", "dave", "bob", "alice"] });
    chat.send(writer("alice"), peer("bob", &[]), &named).await;
    let reaction =
        json!({ "to": "bob", "type": "reaction", "ref": own.to_string(), "body": "+1", "mentions": ["bob"] });
    chat.send(writer("alice"), peer("bob", &[]), &reaction).await;
    chat.write("bob", "bob", "a note").await;
    chat.write("dave", "bob", "hello").await;
    let invitation = chat.invites("eve", "bob", &json!({ "body": "we met" })).await;

    let page = chat.conversations("bob").await;
    assert_eq!(names(&page), ["eve", "dave", "bob", "alice", "carol"]);
    assert_eq!((page.unread, page.mentions, page.complete), (3, 1, true));
    let [eve, dave, note, alice, carol] = &page.items[..] else { panic!("{page:?}") };
    assert_eq!((eve.count, value(&eve.invitations.first().cloned())["body"].clone()), (0, json!("we met")));
    assert_eq!(value(&eve.last)["sid"], invitation.to_string());
    assert!(eve.sees_profile, "who invites shows who it is");
    assert_eq!((dave.unread, dave.mentions, dave.peer_read), (1, 0, None));
    assert_eq!((note.unread, note.count, note.peer_read, note.peer_received), (0, 1, None, None));
    assert_eq!((alice.unread, alice.mentions, alice.count), (2, 1, 4));
    assert_eq!(value(&alice.last)["type"], "reaction");
    assert_eq!((alice.peer_received, alice.peer_read, alice.read), (Some(own), Some(own), Some(own)));
    assert!(alice.sees_profile && alice.profile.as_ref().is_some_and(|profile| profile.contains("Alice")));
    assert!(!carol.sees_profile, "she has not bob as a contact");

    chat.read("bob", "alice", first).await;
    let page = chat.conversations("bob").await;
    assert_eq!((page.unread, page.mentions, page.items[3].mentions), (2, 1, 1));
    chat.write("bob", "alice", "seen").await;
    let page = chat.conversations("bob").await;
    assert_eq!((names(&page)[0], page.unread, page.mentions, page.items[0].mentions), ("alice", 1, 0, 0));
    chat.at += 8 * DAY;
    assert_eq!(chat.conversations("bob").await.items[1].invitations, Vec::<Bytes>::new(), "its time is over");
    assert!(chat.conversations("nobody").await.items.is_empty());
    let chat = chat.crash().await;
    assert_eq!(names(&chat.conversations("bob").await), ["alice", "eve", "dave", "bob", "carol"]);
}

#[tokio::test]
async fn a_position_says_no_more_than_the_receipts_that_were_told() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    let sid = chat.write("alice", "bob", "to a stranger").await;
    chat.read("bob", "alice", sid).await;
    let ticks = async |chat: &Chat| {
        let page = chat.conversations("alice").await;
        (page.items[0].peer_received, page.items[0].peer_read)
    };
    assert_eq!(ticks(&chat).await, (None, None), "he has not made her a contact");
    chat.set("bob", SettingChange::HideRead(true)).await;
    chat.write("bob", "alice", "hi").await;
    assert_eq!(ticks(&chat).await, (Some(sid), None));
    let silent = json!({ "to": "bob", "body": "x", "receipt": false });
    let (silent, _) = chat.send(writer("alice"), peer("bob", &[]), &silent).await;
    chat.receipt(received("bob", &[silent])).await;
    assert_eq!(ticks(&chat).await, (Some(sid), None), "nothing was asked for");
    chat.block("bob", "alice", true).await;
    chat.write("alice", "bob", "swallowed").await;
    assert_eq!(ticks(&chat).await, (Some(sid), None));
    let bobs = chat.conversations("bob").await;
    assert_eq!((bobs.items[0].place, bobs.items[0].count), (silent, 3), "what he does not get moves nothing");
}

#[tokio::test]
async fn conversations_come_page_by_page() {
    let mut chat = Chat::of(&["bob"]).await;
    let mut expected = Vec::new();
    for n in 0..25 {
        let name = format!("u{n:02}");
        chat.rig.store.chat_user_seen(owner(&name)).await.unwrap().await.unwrap();
        chat.write(&name, "bob", "hi").await;
        expected.insert(0, name);
    }
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = chat.conversations_before("bob", before, 10).await;
        found.extend(names(&page).into_iter().map(str::to_owned));
        assert_eq!(page.unread, 25);
        before = page.items.last().map(|item| item.place);
        if page.complete {
            break;
        }
        assert_eq!(page.items.len(), 10);
    }
    assert_eq!(found, expected);
    chat.at += DAY;
    while chat.sweep(0, 0).await {}
    let page = chat.conversations("bob").await;
    assert_eq!((page.items.len(), page.unread), (25, 0), "the order stays when nothing is kept");
    assert!(page.items.iter().all(|item| item.last.is_none() && item.count == 1));
}

#[tokio::test]
async fn a_history_goes_both_ways_from_any_place() {
    let mut chat = Chat::of(&["alice", "bob", "carol"]).await;
    let mut sids = Vec::new();
    for n in 0..12 {
        let (from, to) = if n % 3 == 0 { ("bob", "alice") } else { ("alice", "bob") };
        sids.push(chat.write(from, to, &n.to_string()).await);
        chat.write("alice", "carol", "elsewhere").await;
        chat.write("bob", "bob", "note").await;
    }
    let numbers = |range: std::ops::Range<usize>| range.map(|n| n.to_string()).collect::<Vec<_>>();
    for user in ["alice", "bob"] {
        let with = if user == "alice" { "bob" } else { "alice" };
        let part = |from, limit| chat.part(user, with, from, limit);
        assert_eq!(part(HistoryFrom::Newest, 5).await, (numbers(7..12), false));
        assert_eq!(part(HistoryFrom::Before(sids[7]), 5).await, (numbers(2..7), false));
        assert_eq!(part(HistoryFrom::Before(sids[2]), 5).await, (numbers(0..2), true));
        assert_eq!(part(HistoryFrom::Before(sids[2]), 2).await, (numbers(0..2), true), "as many as there are");
        assert_eq!(part(HistoryFrom::After(sids[2]), 4).await, (numbers(3..7), false));
        assert_eq!(part(HistoryFrom::After(sids[9]), 4).await, (numbers(10..12), true));
        assert_eq!(part(HistoryFrom::After(sids[11]), 4).await, (Vec::new(), true));
        assert_eq!(part(HistoryFrom::Before(sids[0]), 4).await, (Vec::new(), true));
    }
    assert_eq!(chat.part("bob", "bob", HistoryFrom::Newest, 100).await.0.len(), 12);
    assert_eq!(chat.part("eve", "bob", HistoryFrom::Newest, 100).await, (Vec::new(), true));
    let first = sids[5];
    chat.at += DAY;
    let later = chat.write("alice", "bob", "later").await;
    while chat.sweep(DAY / 2, u64::MAX).await {}
    assert_eq!(chat.part("bob", "alice", HistoryFrom::After(first), 4).await, (vec!["later".to_owned()], true));
    assert_eq!(chat.part("bob", "alice", HistoryFrom::Before(later), 4).await, (Vec::new(), true));
}

#[tokio::test]
async fn a_page_has_what_was_asked_for_before_it() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    for n in 1..=50 {
        let document = json!({ "to": "bob", "body": n.to_string() });
        let (_, sent) = chat.ask_to_send(writer("alice"), peer("bob", &[]), &document).await;
        let (texts, _) = chat.part("bob", "alice", HistoryFrom::Newest, 100).await;
        assert_eq!(texts.len(), n);
        sent.await.unwrap();
    }
}

#[tokio::test]
async fn a_page_of_history_keeps_below_its_size_and_the_newest_come_first() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    for n in 0..7 {
        chat.write("alice", "bob", &format!("{n}{}", "x".repeat(15_000))).await;
    }
    let (bodies, complete) = chat.part("bob", "alice", HistoryFrom::Newest, 100).await;
    let firsts: Vec<_> = bodies.iter().map(|body| &body[..1]).collect();
    assert_eq!((firsts, complete), (vec!["4", "5", "6"], false));
    let huge = json!({ "to": "bob", "body": "é".repeat(16_384), "data": "x".repeat(30_000) });
    let (huge, _) = chat.send(writer("alice"), peer("bob", &[]), &huge).await;
    let query = HistoryQuery { with: owner("alice"), from: HistoryFrom::Newest, limit: 100 };
    let page = chat.rig.store.chat_history(owner("bob"), query).await.unwrap().await.unwrap().unwrap();
    assert_eq!((page.items.len(), page.complete), (1, false));
    assert!(String::from_utf8_lossy(&page.items[0]).contains(&huge.to_string()));
}

#[tokio::test]
async fn who_mutes_all_but_mentions_is_pushed_for_those_alone() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    let mute = |until| SettingChange::About(owner("alice"), EntryChange::Mute(Some((until, MuteLevel::Mentions))));
    chat.set("bob", mute(chat.at + DAY)).await;
    chat.write("alice", "bob", "for nobody").await;
    assert!(chat.pushes().await.is_empty());
    let named = |names: &[&str]| json!({ "to": "bob", "body": "@", "mentions": names });
    chat.send(writer("alice"), peer("bob", &[]), &named(&["carol"])).await;
    assert!(chat.pushes().await.is_empty());
    let (sid, _) = chat.send(writer("alice"), peer("bob", &[]), &named(&["carol", "bob"])).await;
    assert_eq!(whats(&chat.pushes().await), [("T1", "message")]);
    let page = chat.conversations("bob").await;
    assert_eq!((page.unread, page.mentions, page.items[0].mentions), (3, 1, 1));
    let edit = |names: &[&str]| json!({ "to": "bob", "type": "edit", "ref": sid.to_string(), "mentions": names });
    chat.send(writer("alice"), peer("bob", &[]), &edit(&[])).await;
    assert_eq!(chat.conversations("bob").await.mentions, 0, "an edit takes it away");
    chat.send(writer("alice"), peer("bob", &[]), &edit(&["bob"])).await;
    assert_eq!(chat.conversations("bob").await.mentions, 1);
    chat.retract("alice", "bob", sid).await;
    assert_eq!((chat.conversations("bob").await.mentions, chat.conversations("bob").await.unread), (0, 2));
    chat.pushes().await;
    chat.invites("alice", "bob", &json!({})).await;
    assert!(chat.pushes().await.is_empty(), "an invitation names nobody");
    chat.at += DAY;
    chat.write("alice", "bob", "for all").await;
    assert_eq!(whats(&chat.pushes().await), [("T1", "message")], "a mute ends by itself");
}

/// How long a page takes in a store with a million messages. Prints:
/// `cargo test --release --lib first_screen::how_long -- --ignored --nocapture`. The store is made below `TMPDIR`.
#[tokio::test]
#[ignore = "a measurement"]
async fn how_long_a_page_takes_in_a_store_of_a_million_messages() {
    let chat = Chat::of(&["bob"]).await;
    let file = rusqlite::Connection::open(&chat.rig.settings.path).unwrap();
    file.execute_batch(
        "CREATE TEMP TABLE numbers AS
            WITH RECURSIVE n (i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i < 999999) SELECT i FROM n;
        BEGIN;
        INSERT INTO users SELECT 'u' || i, '{}', '{\"name\":\"User\"}', 0 FROM numbers WHERE i < 1000;
        INSERT INTO contacts SELECT 'u' || i, 'bob', '{\"contact\":true}' FROM numbers WHERE i < 1000;
        INSERT INTO chat (row, tail, kind, writer, by_bal, id, peer, dev, at, n_writer, n_reader, theirs_writer, theirs_reader,
            received, hidden, waits, deadline, document)
            SELECT i + 1, 0, 0, iif(i / 1000 % 2, 'bob', 'u' || (i % 1000)), 0, 'm' || i, iif(i / 1000 % 2, 'u' || (i % 1000), 'bob'),
            'phone', 5, i / 1000 + 1, i / 1000 + 1, 0, i / 2000, 0, 0, 0, 9,
            CAST('{\"id\":\"m\",\"to\":\"x\",\"type\":\"text\",\"body\":\"' || printf('%.*c', 200, 'x') || '\"}' AS BLOB) FROM numbers;
        INSERT INTO conversations SELECT 'bob', 'u' || i,
            '{\"first\":{\"count\":1000,\"unread\":7,\"theirs\":500},\"second\":{\"count\":1000,\"unread\":0,\"theirs\":500}}',
            999001 + i, 999001 + i FROM numbers WHERE i < 1000;
        COMMIT;",
    )
    .unwrap();
    let figures = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        format!("median {:.2} ms, longest {:.2} ms", times[times.len() / 2], times[times.len() - 1])
    };
    for limit in [20, PAGE_MAX] {
        let (mut first, mut later) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let start = tokio::time::Instant::now();
            let page = chat.conversations_before("bob", None, limit).await;
            first.push(start.elapsed().as_secs_f64() * 1e3);
            assert_eq!((page.items.len(), page.complete), (limit, false));
            let start = tokio::time::Instant::now();
            chat.conversations_before("bob", Sid::from_parts(crate::chat::id::Row(999_300), 0), limit).await;
            later.push(start.elapsed().as_secs_f64() * 1e3);
        }
        println!("{limit} of 1,000 conversations: {}; of the middle: {}", figures(first), figures(later));
    }
    for from in [HistoryFrom::Newest, HistoryFrom::Before(Sid::from_parts(crate::chat::id::Row(500_000), 0).unwrap())] {
        let mut times = Vec::new();
        for n in 0..100 {
            let start = tokio::time::Instant::now();
            let (items, _) = chat.part("bob", &format!("u{}", n * 7), from, 50).await;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            assert_eq!(items.len(), 50);
        }
        println!("50 items of a history, {from:?}: {}", figures(times));
    }
}
