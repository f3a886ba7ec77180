//! Edits and retracts: what becomes of the message, of its push and of what is unread.

use super::*;

impl Chat {
    /// An edit or a retract of alice's, or another's, to somebody who looks at nothing.
    pub(in crate::store::tests) async fn amend(&mut self, from: &str, to: &str, more: &Value) -> (Sid, ChatOutcome) {
        let mut document = json!({ "to": to });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.send(writer(from), peer(to, &[]), &document).await
    }

    pub(in crate::store::tests) async fn retract(&mut self, from: &str, to: &str, sid: Sid) -> Sid {
        let (own, outcome) = self.amend(from, to, &json!({ "type": "retract", "ref": sid.to_string() })).await;
        assert!(matches!(outcome, ChatOutcome::Done { waits: false, .. }), "{outcome:?}");
        own
    }

    async fn edit(&mut self, from: &str, to: &str, sid: Sid, body: &str) -> Sid {
        let edit = json!({ "type": "edit", "ref": sid.to_string(), "body": body });
        let (own, outcome) = self.amend(from, to, &edit).await;
        assert!(matches!(outcome, ChatOutcome::Done { waits: false, .. }), "{outcome:?}");
        own
    }

    /// What a user has of a conversation.
    pub(in crate::store::tests) async fn history(&self, user: &str, with: &str) -> Vec<Value> {
        let query = HistoryQuery { with: owner(with), from: HistoryFrom::Newest, limit: PAGE_MAX };
        let page = self.rig.store.chat_history(owner(user), query).await.unwrap().await.unwrap().unwrap();
        assert!(page.complete);
        page.items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect()
    }

    /// All that a user gets who asks for the newest.
    pub(in crate::store::tests) async fn synced(&self, user: &str) -> Vec<Value> {
        self.page(user, None).await.items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect()
    }

    pub(in crate::store::tests) fn unread(&self, user: &str) -> i64 {
        self.count(&format!("SELECT unread FROM users WHERE user = '{user}'"))
    }

    /// Whether a text stands in any table of the store.
    pub(in crate::store::tests) fn is_kept(&self, text: &str) -> bool {
        let like =
            format!("instr(CAST(document AS TEXT), '{text}') OR instr(CAST(coalesce(own, '') AS TEXT), '{text}')");
        self.count(&format!("SELECT count(*) FROM chat WHERE {like}")) > 0
    }

    fn bytes_are_counted(&self) {
        let kept = self.count("SELECT sum(length(document) + coalesce(length(own), 0)) FROM chat");
        assert_eq!(self.rig.store.figures().chat_bytes as i64, kept);
    }
}

fn bodies(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["body"].as_str().or_else(|| item["why"].as_str()).unwrap_or_default()).collect()
}

#[tokio::test]
async fn an_edit_comes_in_its_order_and_the_message_has_the_newest_text() {
    let mut chat = Chat::of_two().await;
    let sid = chat.write("alice", "bob", "teh first").await;
    let later = chat.write("bob", "alice", "what").await;
    for user in ["alice", "bob"] {
        chat.forget(user).await;
    }
    let edit = json!({ "id": "e1", "type": "edit", "ref": sid.to_string(), "body": "the second" });
    let (own, _) = chat.amend("alice", "bob", &edit).await;
    let at = chat.at;
    let copy = json!({ "id": "e1", "sid": own.to_string(), "ts": at, "from": "alice", "to": "bob", "type": "edit",
        "ref": sid.to_string(), "body": "the second" });
    assert_eq!(chat.told("bob", "messages").await, std::slice::from_ref(&copy), "it has no place of its own");
    let mut mine = copy.clone();
    mine["dev"] = json!("phone");
    assert_eq!(chat.told("alice", "messages").await, [mine]);
    assert_eq!(statuses(&chat.told("alice", "receipts").await), [(&*own.to_string(), "sent")]);
    chat.receipt(received("bob", &[own])).await;
    assert!(chat.told("alice", "receipts").await.is_empty(), "that it was delivered is told of messages");

    let third = chat.edit("alice", "bob", sid, "the third").await;
    for user in ["alice", "bob"] {
        let history = chat.history(user, if user == "alice" { "bob" } else { "alice" }).await;
        let [.., message, last] = &history[..] else { panic!("{history:?}") };
        assert_eq!(
            (&message["body"], &message["n"], &message["edited"]),
            (&json!("the third"), &json!(4), &json!(chat.at))
        );
        assert_eq!((&message["sid"], &last["sid"]), (&json!(sid.to_string()), &json!(later.to_string())));
    }
    let since = chat.page("bob", Some(later)).await;
    let since: Vec<Value> = since.items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect();
    assert_eq!(bodies(&since), ["edited", "the third"], "an edit that is over has no text any more");
    assert_eq!((&since[0]["ref"], &since[1]["sid"]), (&json!(sid.to_string()), &json!(third.to_string())));
    assert!(!chat.is_kept("teh first") && !chat.is_kept("the second") && chat.is_kept("the third"));
    assert!(chat.pushes().await.is_empty());
    chat.bytes_are_counted();
}

#[tokio::test]
async fn what_is_retracted_keeps_its_place_and_nothing_of_its_text() {
    let mut chat = Chat::of_two().await;
    let sid = chat.write("alice", "bob", "secret one").await;
    chat.edit("alice", "bob", sid, "secret two").await;
    let reaction = json!({ "to": "alice", "type": "reaction", "ref": sid.to_string(), "body": "+1" });
    let (reaction, _) = chat.send(writer("bob"), peer("alice", &[]), &reaction).await;
    chat.forget("bob").await;
    let retract = chat.retract("alice", "bob", sid).await;
    let told = chat.told("bob", "messages").await;
    assert_eq!((&told[0]["type"], &told[0]["ref"], told.len()), (&json!("retract"), &json!(sid.to_string()), 1));
    let history = chat.history("bob", "alice").await;
    let [.., tombstone, last] = &history[..] else { panic!("{history:?}") };
    let ts = &tombstone["ts"];
    assert_eq!(
        tombstone,
        &json!({ "sid": sid.to_string(), "n": 4, "ts": ts, "from": "alice", "to": "bob", "type": "tombstone", "why": "retracted" })
    );
    assert_eq!((&last["sid"], &last["type"]), (&json!(reaction.to_string()), &json!("reaction")));
    let kinds: Vec<_> = chat.synced("bob").await.iter().map(|item| item["type"].clone()).collect();
    assert_eq!(kinds, ["text", "text", "text", "tombstone", "tombstone", "reaction", "retract"]);
    assert!(!chat.is_kept("secret"));
    assert_eq!(chat.synced("bob").await[6]["sid"], retract.to_string());
    chat.retract("bob", "alice", reaction).await;
    assert_eq!(chat.history("alice", "bob").await.last().unwrap()["why"], "retracted", "a reaction can be taken back");
    chat.bytes_are_counted();
}

#[tokio::test]
async fn only_its_writer_changes_a_message_of_the_conversation() {
    let mut chat = Chat::of_two().await;
    chat.rig.store.chat_user_seen(owner("carol")).await.unwrap().await.unwrap();
    chat.write("carol", "alice", "x").await;
    let sid = chat.write("alice", "bob", "mine").await;
    let elsewhere = chat.write("alice", "carol", "elsewhere").await;
    let edit = chat.edit("alice", "bob", sid, "mine, better").await;
    let of =
        |kind: &str, sid: Sid| json!({ "type": kind, "ref": sid.to_string(), "body": (kind == "edit").then_some("x") });
    for (from, to, sid, expected) in [
        ("bob", "alice", sid, ErrorCode::Forbidden),
        ("alice", "bob", elsewhere, ErrorCode::NotFound),
        ("carol", "alice", sid, ErrorCode::NotFound),
        ("alice", "bob", edit, ErrorCode::NotFound),
        ("alice", "bob", Sid::parse("06eqbd3gy0001ab2").unwrap(), ErrorCode::NotFound),
    ] {
        for kind in ["edit", "retract"] {
            let (_, outcome) = chat.amend(from, to, &of(kind, sid)).await;
            assert_eq!(code(&outcome), Some(expected), "{from} {kind}");
        }
    }
    chat.retract("alice", "bob", sid).await;
    assert_eq!(code(&chat.amend("alice", "bob", &of("retract", sid)).await.1), Some(ErrorCode::Duplicate));
    assert_eq!(code(&chat.amend("alice", "bob", &of("edit", sid)).await.1), Some(ErrorCode::NotFound));
    let large = json!({ "id": "m9", "body": "x", "data": "x".repeat(30_000), "more": "x".repeat(30_000) });
    let (sid, _) = chat.amend("alice", "bob", &large).await;
    let larger = json!({ "type": "edit", "ref": sid.to_string(), "body": "y", "other": "x".repeat(10_000) });
    assert_eq!(
        code(&chat.amend("alice", "bob", &larger).await.1),
        Some(ErrorCode::TooBig),
        "no edit makes it grow for ever"
    );
}

#[tokio::test]
async fn a_repetition_of_an_edit_or_of_what_was_edited_is_known() {
    let mut chat = Chat::of_two().await;
    let message = json!({ "id": "m1", "to": "bob", "body": "one" });
    let (sid, _) = chat.send(writer("alice"), peer("bob", &[]), &message).await;
    let edit = |body: &str| json!({ "id": "e1", "to": "bob", "type": "edit", "ref": sid.to_string(), "body": body });
    chat.send(writer("alice"), peer("bob", &[]), &edit("two")).await;
    for user in ["alice", "bob"] {
        chat.forget(user).await;
    }
    for again in [edit("two"), message.clone()] {
        let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &again).await;
        assert_eq!(outcome, ChatOutcome::Repeated);
        let told = chat.told("alice", "messages").await;
        assert_eq!((&told[0]["body"], &told[0]["redelivered"], told.len()), (&json!("two"), &json!(true), 1));
    }
    let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &edit("three")).await;
    assert_eq!(code(&outcome), Some(ErrorCode::Duplicate));
    chat.retract("alice", "bob", sid).await;
    chat.forget("alice").await;
    let (_, outcome) = chat.send(writer("alice"), peer("bob", &[]), &message).await;
    assert_eq!(
        (outcome, chat.told("alice", "messages").await[0]["type"].clone()),
        (ChatOutcome::Repeated, json!("tombstone"))
    );
    assert!(chat.told("bob", "messages").await.iter().all(|copy| copy["type"] == "retract"));
}

#[tokio::test]
async fn a_retracted_message_is_not_unread_wherever_the_position_is() {
    let mut chat = Chat::of_two().await;
    let mut sids = Vec::new();
    for n in 0..6 {
        sids.push(chat.write("alice", "bob", &format!("{n}")).await);
    }
    chat.retract("alice", "bob", sids[3]).await;
    assert_eq!(chat.unread("bob"), 5);
    chat.read("bob", "alice", sids[1]).await;
    assert_eq!((chat.unread("bob"), chat.told("bob", "read").await[0]["unread"].clone()), (3, json!(3)));
    chat.retract("alice", "bob", sids[0]).await;
    assert_eq!(chat.unread("bob"), 3, "it was read");
    chat.read("bob", "alice", sids[3]).await;
    assert_eq!(chat.unread("bob"), 2, "a tombstone is a place to have read up to");
    chat.retract("alice", "bob", sids[5]).await;
    chat.retract("alice", "bob", sids[4]).await;
    assert_eq!(chat.unread("bob"), 0);
    chat.at += DAY;
    chat.sweep(0, 0).await;
    assert_eq!(chat.unread("bob"), 0);
}

#[tokio::test]
async fn a_push_that_waits_is_taken_back_or_gets_the_new_text_and_one_that_went_is_cleared() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    chat.register("bob", "tablet", "T2").await;
    let first = chat.write("alice", "bob", "not to be pushed").await;
    chat.retract("alice", "bob", first).await;
    assert!(chat.pushes().await.is_empty(), "it waited");
    let second = chat.write("alice", "bob", "old text").await;
    chat.edit("alice", "bob", second, "new text").await;
    let pushes = chat.claim(chat.at).await;
    assert_eq!(pushes.iter().map(|pushed| pushed.data("body")).collect::<Vec<_>>(), ["new text", "new text"]);
    chat.edit("alice", "bob", second, "newest text").await;
    chat.rig.record(pushes[0].sid, accepted(), chat.at).await;
    chat.rig.record(pushes[1].sid, retry(chat.at), chat.at).await;
    let again = chat.pushes().await;
    assert_eq!(again.iter().map(|pushed| pushed.data("body")).collect::<Vec<_>>(), ["newest text"], "it was in flight");
    chat.retract("alice", "bob", second).await;
    let clears = chat.pushes().await;
    assert_eq!(whats(&clears), [("T1", "clear"), ("T2", "clear")]);
    let of = |name| clears[0].data(name).to_owned();
    assert_eq!((of("sid"), of("only"), of("unread")), (second.to_string(), "1".to_owned(), "0".to_owned()));
    assert_eq!(chat.count("SELECT count(*) FROM pushed"), 0);

    // What waits for somebody who looks is decided with the new text, or not at all.
    let (third, _) = chat.send(writer("alice"), peer("bob", &["web"]), &json!({ "to": "bob", "body": "draft" })).await;
    let (fourth, _) = chat.send(writer("alice"), peer("bob", &["web"]), &json!({ "to": "bob", "body": "no" })).await;
    chat.edit("alice", "bob", third, "final").await;
    chat.retract("alice", "bob", fourth).await;
    let (call, nobody) = (chat.call(), Attended { devices: Vec::new() });
    let left = chat.rig.store.chat_decide_again(owner("bob"), vec![third, fourth], nobody, call);
    assert!(left.await.unwrap().await.unwrap().is_empty());
    assert_eq!(
        chat.pushes().await.iter().map(|pushed| pushed.data("body").to_owned()).collect::<Vec<_>>(),
        ["final"; 2]
    );
}

#[tokio::test]
async fn what_is_swallowed_changes_the_message_for_its_writer_alone() {
    let mut chat = Chat::of_two().await;
    let sid = chat.write("alice", "bob", "as bob has it").await;
    let other = chat.write("alice", "bob", "also").await;
    let unheard = chat.edit("alice", "bob", sid, "heard").await;
    chat.block("bob", "alice", true).await;
    chat.forget("bob").await;
    let swallowed = chat.edit("alice", "bob", sid, "as alice has it").await;
    chat.retract("alice", "bob", other).await;
    assert!(chat.told("bob", "messages").await.is_empty());
    assert_eq!(chat.unread("bob"), 2);
    let last = |items: Vec<Value>| items[items.len() - 2..].to_vec();
    assert_eq!(bodies(&last(chat.history("bob", "alice").await)), ["heard", "also"]);
    assert_eq!(bodies(&last(chat.history("alice", "bob").await)), ["as alice has it", "retracted"]);
    let has = |items: &[Value], sid: Sid| items.iter().any(|item| item["sid"] == sid.to_string());
    assert!(!has(&chat.synced("bob").await, swallowed) && has(&chat.synced("bob").await, unheard));
    chat.bytes_are_counted();
    chat.block("bob", "alice", false).await;
    chat.edit("alice", "bob", sid, "for both").await;
    for (user, with) in [("alice", "bob"), ("bob", "alice")] {
        assert_eq!(last(chat.history(user, with).await)[0]["body"], "for both");
    }
    assert!(!chat.is_kept("heard") && !chat.is_kept("as alice has it"));
    chat.bytes_are_counted();
}

#[tokio::test]
async fn what_a_block_swallowed_does_not_come_with_a_later_change() {
    let mut chat = Chat::of_two().await;
    let sid = chat.write("alice", "bob", "first").await;
    let other = chat.write("alice", "bob", "other").await;
    chat.block("bob", "alice", true).await;
    chat.edit("alice", "bob", sid, "swallowed").await;
    chat.retract("alice", "bob", other).await;
    chat.block("bob", "alice", false).await;
    let data = json!({ "type": "edit", "ref": sid.to_string(), "data": { "x": 1 } });
    assert!(matches!(chat.amend("alice", "bob", &data).await.1, ChatOutcome::Done { .. }));
    let of = async |chat: &Chat, user: &str, with: &str| {
        let items = chat.history(user, with).await;
        items.into_iter().find(|item| item["sid"] == sid.to_string()).unwrap()
    };
    let (bobs, own) = (of(&chat, "bob", "alice").await, of(&chat, "alice", "bob").await);
    assert_eq!((&bobs["body"], &bobs["data"]), (&json!("first"), &json!({ "x": 1 })));
    assert_eq!((&own["body"], &own["data"]), (&json!("swallowed"), &json!({ "x": 1 })));
    chat.bytes_are_counted();
    // Of what was taken back for its writer alone no answer says so.
    let again = json!({ "type": "retract", "ref": other.to_string() });
    assert_eq!(code(&chat.amend("alice", "bob", &again).await.1), Some(ErrorCode::Duplicate));
    assert_eq!((chat.unread("bob"), chat.is_kept("other")), (2, true));
}

#[tokio::test]
async fn how_long_a_message_may_be_does_not_tell_of_a_block() {
    let mut chat = Chat::of_two().await;
    let sid = chat.write("alice", "bob", &"€".repeat(16_000)).await;
    chat.block("bob", "alice", true).await;
    chat.edit("alice", "bob", sid, "short").await;
    chat.block("bob", "alice", false).await;
    let data = json!({ "type": "edit", "ref": sid.to_string(), "data": "x".repeat(30_000) });
    assert!(matches!(chat.amend("alice", "bob", &data).await.1, ChatOutcome::Done { .. }));
    let (own, bobs) = (chat.history("alice", "bob").await, chat.history("bob", "alice").await);
    let (own, bobs) = (own.last().unwrap(), bobs.last().unwrap());
    assert!(own["body"] == "short" && own["data"].is_string());
    assert!(bobs["body"] != "short" && bobs["data"].is_null(), "the whole would be too long");
    chat.bytes_are_counted();
}

/// A change looks at the one before it, however many there were.
#[tokio::test]
async fn of_a_message_that_is_edited_often_one_row_has_a_text() {
    let mut chat = Chat::of_two().await;
    let sid = chat.write("alice", "bob", "text 0").await;
    for n in 1..=20 {
        if n == 10 {
            chat.block("bob", "alice", true).await;
        }
        if n == 15 {
            chat.block("bob", "alice", false).await;
        }
        chat.edit("alice", "bob", sid, &format!("text {n}")).await;
        let rows = chat.count("SELECT count(*) FROM chat WHERE amends IS NOT NULL AND gone = 0");
        assert!(rows <= 2, "{rows} rows after edit {n}");
        chat.bytes_are_counted();
    }
    assert_eq!(bodies(&chat.history("bob", "alice").await).last(), Some(&"text 20"));
    chat.retract("alice", "bob", sid).await;
    assert!(!chat.is_kept("text "));
}

/// The limit of strangers counts neither retracts nor cancels, so what they are told must not depend on who exists.
#[tokio::test]
async fn what_is_said_of_a_foreign_ref_says_nothing_of_who_exists() {
    let mut chat = Chat::of(&["alice", "bob", "carol", "shy"]).await;
    chat.set("shy", SettingChange::Writers(Writers::Contacts)).await;
    let foreign = chat.write("alice", "bob", "hi").await;
    for document in [
        json!({ "type": "retract", "ref": foreign.to_string() }),
        json!({ "type": "edit", "ref": foreign.to_string(), "body": "x" }),
        json!({ "type": "reaction", "ref": foreign.to_string(), "body": "+1" }),
        json!({ "reply_to": foreign.to_string(), "body": "x" }),
    ] {
        let told = async |chat: &mut Chat, to: &str| match chat.amend("carol", to, &document).await.1 {
            ChatOutcome::Refused(rejection) => (rejection.code(), rejection.detail().to_owned()),
            outcome => panic!("{outcome:?}"),
        };
        let unknown = told(&mut chat, "nobody").await;
        assert_eq!(unknown.0, ErrorCode::NotFound);
        for to in ["alice", "bob", "shy", "carol"] {
            assert_eq!(told(&mut chat, to).await, unknown, "{to}: {document}");
        }
    }
}

#[tokio::test]
async fn a_retract_is_taken_where_messages_of_strangers_are_not() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    let sid = chat.write("alice", "bob", "hi").await;
    chat.set("bob", SettingChange::Writers(Writers::Contacts)).await;
    let edit = json!({ "type": "edit", "ref": sid.to_string(), "body": "rude" });
    assert_eq!(code(&chat.amend("alice", "bob", &edit).await.1), Some(ErrorCode::Forbidden));
    chat.retract("alice", "bob", sid).await;
    assert_eq!(bodies(&chat.history("bob", "alice").await), ["retracted"]);
}

#[tokio::test]
async fn a_bal_hears_of_edits_and_makes_its_own() {
    let mut chat = Chat::of(&["alice"]).await;
    let to_bal = Peer { role: Some(Role::Bal), ..peer("bal1", &[]) };
    let (sid, _) = chat.send(writer("alice"), to_bal.clone(), &json!({ "to": "bal1", "body": "hi" })).await;
    chat.told("bal1", "messages").await;
    let edit = json!({ "to": "bal1", "type": "edit", "ref": sid.to_string(), "body": "ho" });
    let (edit, _) = chat.send(writer("alice"), to_bal, &edit).await;
    // The message waits there as well, until the BAL itself confirms it.
    let told = chat.told("bal1", "messages").await;
    let last = told.last().unwrap();
    assert_eq!(
        (&last["id"], &last["type"], &last["ref"], &last["body"]),
        (&json!(edit.to_string()), &json!("edit"), &json!(sid.to_string()), &json!("ho"))
    );
    let (sid, _) =
        chat.send(bal("bal1"), peer("alice", &[]), &json!({ "id": "b1", "to": "alice", "body": "one" })).await;
    let retract = json!({ "id": "b2", "to": "alice", "type": "retract", "ref": sid.to_string() });
    chat.told("bal1", "receipts").await;
    chat.send(bal("bal1"), peer("alice", &[]), &retract).await;
    let words: Vec<_> = chat.told("bal1", "receipts").await.iter().map(|told| told["status"].clone()).collect();
    assert_eq!((words, chat.unread("alice")), (vec![json!("accepted"), json!("sent")], 0));
    assert_eq!(chat.told("bal1", "messages").await.len(), 2, "its own does not come back to it");
}
