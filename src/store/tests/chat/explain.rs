//! Why a push was sent or not.

use super::*;
use crate::chat::delivery::State;
use crate::chat::push_decision::{Rule, Verdict};

impl Chat {
    async fn explain(&self, sid: Sid) -> PushExplanation {
        let explained = self.rig.store.chat_explain(owner("bob"), sid).await.unwrap().await.unwrap();
        assert_eq!(self.rig.inspector().explain_push(&owner("bob"), sid).unwrap(), explained, "beside the bridge");
        explained.unwrap()
    }
}

#[tokio::test]
async fn it_says_what_was_asked_which_rule_decided_and_what_came_of_it() {
    let mut chat = Chat::of_two().await;
    let none = chat.write("alice", "bob", "hi").await;
    let explained = chat.explain(none).await;
    assert!(explained.devices.is_empty() && explained.decided_at.is_none());
    chat.register("bob", "phone", "T1").await;
    chat.register("bob", "tablet", "T2").await;
    let (sid, _) = chat.send(writer("alice"), peer("bob", &["web"]), &json!({ "to": "bob", "body": "hi" })).await;
    let explained = chat.explain(sid).await;
    assert!(explained.waits && explained.asked.unwrap().attended && explained.attended == ["web"]);
    let rules: Vec<_> = explained.devices.iter().map(|device| (device.verdict, device.rule)).collect();
    assert_eq!(rules, [(Verdict::Wait, Rule::Attended); 2]);
    let call = chat.call();
    let again = chat.rig.store.chat_decide_again(owner("bob"), vec![sid], Attended::default(), call);
    again.await.unwrap().await.unwrap();
    let pushes = chat.claim(chat.at).await;
    chat.rig.record(pushes[0].sid, accepted(), chat.at).await;
    chat.rig.record(pushes[1].sid, refused(Decision::REMOVE_TOKEN, "DEVICE_UNREGISTERED"), chat.at).await;
    let explained = chat.explain(sid).await;
    assert!(!explained.waits && !explained.asked.unwrap().attended);
    let came: Vec<_> = explained
        .devices
        .iter()
        .map(|device| {
            let push = device.push.clone().unwrap();
            (device.dev.as_str(), device.rule, push.state, push.attempt, push.code)
        })
        .collect();
    assert_eq!(
        came,
        [
            ("phone", Rule::Unattended, State::Sent, 1, None),
            ("tablet", Rule::Unattended, State::Failed, 1, Some("DEVICE_UNREGISTERED".to_owned()))
        ]
    );
    chat.read("bob", "alice", sid).await;
    assert!(!explained.received);
    let received = PushExplanation { received: true, ..explained.clone() };
    assert_eq!(chat.explain(sid).await, received, "what was read is explained as before");
    let text = serde_json::to_string(&explained).unwrap();
    assert!(text.contains(r#""rule":"unattended""#) && text.contains(r#""state":"failed""#), "{text}");
    assert_eq!(chat.rig.store.chat_explain(owner("alice"), sid).await.unwrap().await.unwrap(), None, "not its reader");
}

#[tokio::test]
async fn the_rule_is_named_for_what_is_not_pushed() {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    let rule = |explained: PushExplanation| explained.devices[0].rule;
    let (never, _) =
        chat.send(writer("alice"), peer("bob", &[]), &json!({ "to": "bob", "body": "x", "push": "never" })).await;
    assert_eq!(rule(chat.explain(never).await), Rule::Never);
    chat.set("bob", SettingChange::About(owner("alice"), EntryChange::Mute(Some((u64::MAX, MuteLevel::None))))).await;
    let muted = chat.write("alice", "bob", "x").await;
    assert_eq!(rule(chat.explain(muted).await), Rule::Muted);
    chat.block("bob", "alice", true).await;
    let blocked = chat.write("alice", "bob", "x").await;
    assert_eq!(rule(chat.explain(blocked).await), Rule::Blocked);
}

/// The first rule that fits is named, also where no device has a token, which is the second.
#[tokio::test]
async fn the_rule_is_named_where_no_device_has_a_token() {
    let mut chat = Chat::of_two().await;
    let said = async |chat: &mut Chat, more: &Value| {
        let mut document = json!({ "to": "bob", "body": "x" });
        document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        chat.send(writer("alice"), peer("bob", &[]), &document).await.0
    };
    let first = said(&mut chat, &json!({})).await;
    let edit = json!({ "type": "edit", "ref": first.to_string() });
    let reaction = json!({ "type": "reaction", "ref": first.to_string() });
    for (more, expected) in [
        (json!({}), Rule::NoToken),
        (json!({ "push": "never" }), Rule::Never),
        (reaction, Rule::Reaction),
        (edit, Rule::Never),
    ] {
        let sid = said(&mut chat, &more).await;
        assert_eq!(chat.explain(sid).await.rule, Some(expected), "{more}");
    }
    chat.block("bob", "alice", true).await;
    let swallowed = said(&mut chat, &json!({})).await;
    assert_eq!(chat.explain(swallowed).await.rule, Some(Rule::Blocked));
    let (offer, _) = chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "offer" })).await;
    assert_eq!(chat.explain(offer).await.rule, Some(Rule::Blocked));
}

#[tokio::test]
async fn a_test_push_goes_to_every_own_device_and_says_what_it_skipped() {
    let mut chat = Chat::of(&["bob"]).await;
    let call = chat.call();
    assert!(chat.rig.store.chat_test_push(owner("bob"), call).await.unwrap().await.unwrap().is_empty());
    chat.register("bob", "phone", "T1").await;
    chat.register("bob", "tablet", "T2").await;
    let call = chat.call();
    let tested = chat.rig.store.chat_test_push(owner("bob"), call).await.unwrap().await.unwrap();
    let names: Vec<_> = tested.iter().map(|test| (test.dev.as_str(), test.skipped)).collect();
    assert_eq!(names, [("phone", TEST_PUSH_SKIPS), ("tablet", TEST_PUSH_SKIPS)]);
    let pushes = chat.pushes().await;
    assert_eq!(whats(&pushes), [("T1", "message"), ("T2", "message")]);
    assert_eq!((pushes[0].data("account"), pushes[0].data("body")), ("bob", "Test"));
    let users = chat.rig.inspector().users().unwrap();
    assert_eq!(users, [UserSummary { user: "bob".to_owned(), devices: 2, unread: 0 }]);
}
