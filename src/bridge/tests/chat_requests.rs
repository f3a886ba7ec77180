//! What devices of chat users ask the bridge, and what they are answered.

use super::chat::{Told, at};
use super::*;

impl Harness {
    /// The answer to what bob's phone asks, and everything else that is told of it.
    async fn asks(&mut self, request: Value) -> (Value, Told) {
        self.says(&at("bob:phone"), "requests/phone", &request).await;
        let told = self.told().await;
        let reply = told.one("bob/others/replies/phone").clone();
        assert_eq!(reply["ref"], request["id"], "{request}");
        (reply, told)
    }
}

#[tokio::test]
async fn a_request_is_answered_to_the_device_that_asks() {
    let mut harness = Harness::open();
    let (reply, _) = harness.asks(json!({"id": "r1", "op": "settings"})).await;
    let settings =
        json!({"ref": "r1", "ok": true, "who_may_write": "anyone", "hide_presence": false, "hide_read": false});
    assert_eq!(reply, settings);
    harness.says(&at("bob:phone"), "messages", &json!({"to": "bob", "body": "A note"})).await;
    let note = harness.told().await.one("bob/others/messages").clone();
    let (reply, _) = harness.asks(json!({"id": "r2", "op": "sync"})).await;
    assert_eq!((&reply["items"][0]["sid"], &reply["complete"]), (&note["sid"], &json!(true)));
    harness.close().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_answered_with_the_reason() {
    let mut harness = Harness::open();
    for (request, code) in [
        (json!({"id": "r1", "op": "dance"}), "BAD_FIELD"),
        (json!({"id": "r2"}), "MISSING_FIELD"),
        (json!({"id": "r3", "op": "history", "with": "alice", "limit": 0}), "BAD_FIELD"),
        (json!({"id": "r4", "op": "explain", "sid": "06eqbd3gy0001ab2"}), "NOT_FOUND"),
    ] {
        let (reply, told) = harness.asks(request.clone()).await;
        assert_eq!((&reply["ok"], &reply["code"]), (&json!(false), &json!(code)), "{request}");
        assert!(reply["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{request}");
        assert!(told.on("bob/others/errors").is_empty() && told.on("bob/others/changes").is_empty(), "{request}");
    }
    // No answer could name it.
    harness.says(&at("bob:phone"), "requests/phone", &json!({"op": "dance"})).await;
    let told = harness.told().await;
    assert_eq!(told.one("bob/others/errors")["code"], "BAD_FIELD");
    assert!(told.on("bob/others/replies/phone").is_empty());
    harness.close().await;
}

#[tokio::test]
async fn a_device_asks_for_itself_alone() {
    let mut harness = Harness::open();
    harness.says(&at("bob:phone"), "requests/web", &json!({"id": "r1", "op": "hide_read", "on": true})).await;
    let told = harness.told().await;
    assert_eq!(told.one("bob/others/errors")["code"], "FORBIDDEN");
    assert!(told.on("bob/others/replies/web").is_empty() && told.on("bob/others/replies/phone").is_empty());
    let (reply, _) = harness.asks(json!({"id": "r2", "op": "settings"})).await;
    assert_eq!(reply["hide_read"], false);
    harness.close().await;
}

#[tokio::test]
async fn what_was_set_is_told_to_the_other_devices_as_it_was_asked_for() {
    let mut harness = Harness::open();
    harness.says(&at("alice:phone"), "profile", &json!({"name": "Alice"})).await;
    let before = now_ms();
    let mute = json!({"id": "r1", "op": "mute", "with": "alice", "level": "none", "for": 3600});
    for request in [
        mute.clone(),
        json!({"id": "r2", "op": "block", "with": "alice"}),
        json!({"id": "r3", "op": "who_may_write", "who": "contacts"}),
        json!({"id": "r4", "op": "hide_read", "on": true}),
        json!({"id": "r5", "op": "hide_presence", "on": true}),
    ] {
        let (reply, told) = harness.asks(request.clone()).await;
        assert_eq!(reply["ok"], true, "{request}");
        let mut expected = request.clone();
        if request == mute {
            let until = reply["until"].as_u64().unwrap();
            assert!((before + 3_600_000..=now_ms() + 3_600_000).contains(&until));
            expected["until"] = until.into();
        }
        assert_eq!(*told.one("bob/others/changes"), expected);
    }
    let (settings, _) = harness.asks(json!({"id": "r6", "op": "settings"})).await;
    assert_eq!(
        (&settings["who_may_write"], &settings["hide_read"], &settings["hide_presence"]),
        (&json!("contacts"), &json!(true), &json!(true))
    );
    let (contacts, told) = harness.asks(json!({"id": "r7", "op": "contacts"})).await;
    let alice = &contacts["items"][0];
    assert_eq!(
        (&alice["user"], &alice["name"], &alice["blocked"], &alice["mute"]),
        (&json!("alice"), &Value::Null, &json!(true), &json!("none")),
        "she has not bob as a contact, and does not show her profile to him"
    );
    assert!(told.on("bob/others/changes").is_empty(), "nothing was changed");
    for op in ["unblock", "remove_contact"] {
        let (reply, _) = harness.asks(json!({"id": op, "op": op, "with": "alice"})).await;
        assert_eq!(reply["ok"], true, "{op}");
    }
    let (contacts, _) = harness.asks(json!({"id": "r8", "op": "contacts"})).await;
    assert_eq!(contacts["items"][0]["blocked"], json!(false));
    harness.close().await;
}

#[tokio::test]
async fn the_first_screen_is_one_request_and_a_conversation_a_second_one() {
    let mut harness = Harness::open();
    harness.asks(json!({"id": "r0", "op": "settings"})).await;
    let image = "https://files.example/alice.png";
    harness.says(&at("alice:phone"), "profile", &json!({"name": "Alice", "image": image, "status": "at sea"})).await;
    harness.says(&at("carol:phone"), "profile", &json!({"name": "Carol"})).await;
    let hidden = json!({"to": "bob", "type": "request", "body": "We met on the ferry"});
    harness.says(&at("carol:phone"), "invitations", &hidden).await;
    let long =
        json!({"id": "m1", "to": "bob", "body": "é".repeat(201), "data": {"k": 1}, "mine": 2, "mentions": ["bob"]});
    harness.says(&at("alice:phone"), "messages", &long).await;
    let told = harness.told().await;
    let (message, invitation) = (told.one("bob/others/messages"), told.one("bob/others/invitations"));
    let (reply, _) = harness.asks(json!({"id": "r1", "op": "conversations", "limit": 50})).await;
    let sid = &message["sid"];
    let last = json!({"sid": sid, "n": 1, "ts": message["ts"], "from": "alice", "id": "m1", "to": "bob", "type": "text",
        "body": "é".repeat(200), "cut": true});
    let mut shown = invitation.clone();
    for name in ["name", "image"] {
        shown.as_object_mut().unwrap().remove(name);
    }
    assert_eq!(
        reply,
        json!({"ref": "r1", "ok": true, "items": [
            {"with": "alice", "name": "Alice", "image": image, "last": last, "n": 1, "unread": 1, "mentions": 1, "mute": "all",
                "archived": false},
            {"with": "carol", "name": "Carol", "last": shown, "n": 0, "unread": 0, "mentions": 0, "mute": "all",
                "archived": false, "invitation": invitation},
        ], "unread": 1, "mentions": 1, "complete": true, "next": invitation["sid"]})
    );
    let (history, _) = harness.asks(json!({"id": "r2", "op": "history", "with": "alice", "limit": 1})).await;
    assert_eq!(history, json!({"ref": "r2", "ok": true, "items": [message], "complete": true}));
    let (none, _) = harness.asks(json!({"id": "r3", "op": "history", "with": "alice", "before": sid})).await;
    assert_eq!(none, json!({"ref": "r3", "ok": true, "items": [], "complete": true}));

    for (request, reply) in [
        (json!({"id": "r4", "op": "mute", "with": "alice", "level": "mentions"}), json!({"until": null})),
        (json!({"id": "r5", "op": "archive", "with": "alice"}), json!({})),
    ] {
        let (told_reply, told) = harness.asks(request.clone()).await;
        let mut expected = json!({"ref": request["id"], "ok": true});
        expected.as_object_mut().unwrap().extend(reply.as_object().unwrap().clone());
        assert_eq!((&told_reply, told.one("bob/others/changes")), (&expected, &request));
    }
    let (page, _) = harness.asks(json!({"id": "r6", "op": "conversations"})).await;
    let first = &page["items"][0];
    assert_eq!((&first["mute"], &first["archived"], first.get("until")), (&json!("mentions"), &json!(true), None));
    let delete = json!({"id": "r7", "op": "delete", "with": "alice"});
    let (deleted, told) = harness.asks(delete.clone()).await;
    assert_eq!(deleted, json!({"ref": "r7", "ok": true, "up_to": sid}));
    let mut change = delete;
    change["up_to"] = sid.clone();
    assert_eq!(*told.one("bob/others/changes"), change);
    let (page, _) = harness.asks(json!({"id": "r8", "op": "conversations"})).await;
    assert_eq!((page["items"].as_array().unwrap().len(), &page["unread"]), (1, &json!(0)));
    harness.close().await;
}

#[tokio::test]
async fn several_invitations_of_one_person_are_listed_as_far_as_they_fit() {
    let mut harness = Harness::open();
    harness.asks(json!({"id": "r0", "op": "settings"})).await;
    harness.says(&at("alice:phone"), "profile", &json!({"name": "Alice", "image": "https://x/y"})).await;
    harness.says(&at("bob:phone"), "messages", &json!({"to": "alice", "body": "hi"})).await;
    for body in ["first", "second"] {
        harness.says(&at("alice:phone"), "invitations", &json!({"to": "bob", "type": "request", "body": body})).await;
    }
    harness.told().await;
    let (page, _) = harness.asks(json!({"id": "r1", "op": "conversations"})).await;
    let item = &page["items"][0];
    assert_eq!((&item["invitation"]["body"], &item["invitation"]["image"]), (&json!("second"), &json!("https://x/y")));
    let bodies = |item: &Value| -> Vec<String> {
        item["invitations"].as_array().unwrap().iter().map(|one| one["body"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((bodies(item), item.get("more_invitations")), (vec!["second".to_owned(), "first".to_owned()], None));
    assert_eq!(item["invitations"][0].get("image"), None);
    for _ in 0..30 {
        let long = json!({"to": "bob", "type": "request", "body": "\u{1}".repeat(500)});
        harness.says(&at("alice:phone"), "invitations", &long).await;
    }
    harness.told().await;
    let (page, _) = harness.asks(json!({"id": "r2", "op": "conversations"})).await;
    let item = &page["items"][0];
    let shown = bodies(item).len();
    assert!(page.to_string().len() <= 65_536 && shown > 10, "{shown} of {} bytes", page.to_string().len());
    assert_eq!((&item["more_invitations"], &item["invitations"][0]["cut"]), (&json!(true), &json!(true)));
    harness.close().await;
}

#[tokio::test]
async fn the_list_says_which_roster_a_group_has_and_the_roster_how_far_each_member_is() {
    let mut harness = Harness::open();
    harness.asks(json!({"id": "r0", "op": "settings"})).await;
    harness.says(&at("alice:phone"), "messages", &json!({"to": "bob", "body": "hi"})).await;
    let create = json!({"id": "r1", "op": "group.create", "group": "g-team", "name": "Team", "members": ["alice"]});
    let (made, _) = harness.asks(create).await;
    assert_eq!(made["members"], json!(["alice"]));
    harness.says(&at("bob:phone"), "messages", &json!({"to": "g-team", "body": "hi"})).await;
    let sid = harness.told().await.on("bob/others/messages").last().unwrap()["sid"].clone();
    harness.says(&at("alice:phone"), "read", &json!({"with": "g-team", "sid": sid})).await;
    harness.told().await;
    let (page, _) = harness.asks(json!({"id": "r2", "op": "conversations"})).await;
    let item = &page["items"][0];
    let said: Vec<_> = ["with", "version", "members", "role", "post", "member"].map(|name| &item[name]).to_vec();
    assert_eq!(json!(said), json!(["g-team", 1, 2, "owner", "all", null]));
    assert_eq!(page["items"][1].get("version"), None);
    let (roster, _) = harness.asks(json!({"id": "r3", "op": "group.get", "group": "g-team"})).await;
    let expected =
        json!([{"user": "alice", "role": "member", "received": sid, "read": sid}, {"user": "bob", "role": "owner"}]);
    assert_eq!((&roster["items"], &roster["version"]), (&expected, &json!(1)));
    harness.close().await;
}

#[tokio::test]
async fn a_list_of_conversations_keeps_below_its_size_and_goes_on_where_it_ended() {
    let mut harness = Harness::open();
    harness.asks(json!({"id": "r0", "op": "settings"})).await;
    for n in 0..100 {
        let name = format!("u{n:02}:phone");
        let invitation = json!({"to": "bob", "type": "request", "body": "\u{1}".repeat(500)});
        harness.says(&at(&name), "invitations", &invitation).await;
    }
    harness.told().await;
    let (mut found, mut before) = (0, None);
    loop {
        let (page, _) = harness.asks(json!({"id": "r1", "op": "conversations", "before": before})).await;
        assert!(page.to_string().len() <= 65_536);
        found += page["items"].as_array().unwrap().len();
        before = Some(page["next"].clone());
        if page["complete"] == true {
            break;
        }
        assert!(!page["items"].as_array().unwrap().is_empty());
    }
    assert_eq!(found, 100);
    harness.close().await;
}

#[tokio::test]
async fn devices_are_shown_without_their_tokens_and_pushed_on_request() {
    let mut harness = Harness::open();
    harness.says(&at("bob:phone"), "devices/phone", &json!({"token": "SECRET", "platform": "android"})).await;
    let (devices, _) = harness.asks(json!({"id": "r1", "op": "devices"})).await;
    let phone = &devices["items"][0];
    assert_eq!((&phone["dev"], &phone["last_push"]), (&json!("phone"), &Value::Null));
    assert!(phone["token_hash"].as_str().is_some_and(|hash| hash.len() == 8), "{phone}");
    assert!(!devices.to_string().contains("SECRET"));
    let (tested, _) = harness.asks(json!({"id": "r2", "op": "test_push"})).await;
    assert_eq!(tested["items"][0]["dev"], "phone");
    assert!(tested["skipped"].as_array().unwrap().contains(&json!("attended")), "{tested}");
    assert_eq!(harness.sent().await.push.data["account"], "bob");
    harness.close().await;
}

#[tokio::test]
async fn a_report_is_told_to_the_operator() {
    let mut harness = Harness::open();
    let report = json!({"id": "r1", "op": "report", "with": "eve", "sids": ["06eqbd3gy0001ab2"], "reason": "spam"});
    harness.says(&at("bob:phone"), "requests/phone", &report).await;
    let event = timeout(async {
        loop {
            let outbound = harness.mqtt.publish.recv().await.expect("the bridge runs");
            let _ = outbound.outcome.send(Outcome::Confirmed);
            let document: Value = serde_json::from_slice(&outbound.payload).unwrap();
            if outbound.topic == "_bridge/events" && document["event"] == "reported" {
                return document;
            }
        }
    });
    let event = event.await;
    assert_eq!((&event["by"], &event["with"], &event["reason"]), (&json!("bob"), &json!("eve"), &json!("spam")));
    assert_eq!(event["sids"], json!(["06eqbd3gy0001ab2"]));
    harness.close().await;
}

/// However long one item is, the page that has it is one packet, and the next page goes on behind it.
#[tokio::test]
async fn the_longest_messages_are_one_to_a_page_and_none_is_left_out() {
    /// What a page has beside an item of the longest kind: the stamp, and the fields of the answer.
    const BESIDE: usize = 1_024;
    let mut harness = Harness::open();
    let payload = |n: usize| {
        let (id, body) = (format!("{n}").repeat(64), "\u{1f600}".repeat(16_000));
        let message = |x: &str| json!({"id": id, "to": "bob", "body": body, "data": "", "x": x}).to_string();
        message(&"x".repeat(65_536 - message("").len()))
    };
    for n in 0..3 {
        assert_eq!(payload(n).len(), 65_536);
        harness.writes(&at("bob:phone"), "messages", &payload(n), |_| {}).await;
    }
    let sids: Vec<Value> =
        harness.told().await.on("bob/others/messages").iter().map(|copy| copy["sid"].clone()).collect();
    assert_eq!(sids.len(), 3);
    for (request, next) in [("sync", "since"), ("history", "after"), ("history", "before")] {
        let (mut found, mut edge) = (Vec::new(), if next == "since" { json!("06eqbd3gy0001ab2") } else { Value::Null });
        loop {
            assert!(found.len() < 4, "{request} goes on for ever");
            let mut asked = json!({"id": "r1", "op": request, "with": "bob"});
            asked[next] = if edge.is_null() && next == "after" { json!("06eqbd3gy0001ab2") } else { edge };
            let (page, _) = harness.asks(asked).await;
            assert!(page.to_string().len() <= 65_536 + BESIDE, "{}", page.to_string().len());
            let items = page["items"].as_array().unwrap();
            found.extend(items.iter().map(|item| item["sid"].clone()));
            edge = items.last().map_or(Value::Null, |item| item["sid"].clone());
            if page["complete"] == true {
                break;
            }
            assert_eq!(items.len(), 1, "{request} {next}");
        }
        if next == "before" {
            found.reverse();
        }
        assert_eq!(found, sids, "{request} {next}");
    }
    let (page, _) = harness.asks(json!({"id": "r1", "op": "conversations"})).await;
    assert!(page.to_string().len() < 4_096, "only what a list shows");
    harness.close().await;
}
