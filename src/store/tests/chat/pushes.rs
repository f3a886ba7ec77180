//! Which device is pushed for what, what is taken back, and what is cleared.

use super::*;
use crate::chat::push_decision::{Rule, Verdict};

/// Bob has these devices with a token each.
async fn with_devices(names: &[&str]) -> Chat {
    let mut chat = Chat::of_two().await;
    for name in names {
        chat.register("bob", name, &format!("T-{name}")).await;
    }
    chat.forget("bob").await;
    chat
}

impl Chat {
    /// Alice writes to Bob, who looks at these devices. Whether pushes wait.
    async fn write_to(&mut self, attended: &[&str], more: &Value) -> (Sid, bool) {
        let mut written = json!({ "to": "bob", "body": "hi" });
        written.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let (sid, outcome) = self.send(writer("alice"), peer("bob", attended), &written).await;
        let ChatOutcome::Done { waits, .. } = outcome else { panic!("{outcome:?}") };
        (sid, waits)
    }

    async fn decide_again(&mut self, sids: &[Sid], attended: &[&str]) -> Vec<Sid> {
        let (call, attended) = (self.call(), Attended { devices: devices(attended) });
        self.rig.store.chat_decide_again(owner("bob"), sids.to_vec(), attended, call).await.unwrap().await.unwrap()
    }

    async fn confirm(&mut self, dev: &str, attended: bool, sid: Sid) {
        self.receipt(NewReceipt { dev: Some(device(dev)), attended, ..received("bob", &[sid]) }).await;
    }

    /// Bob reads up to here at one device; these have a connection.
    async fn read_at(&mut self, dev: &str, connected: &[&str], sid: Sid) {
        let at = NewReceipt { dev: Some(device(dev)), connected: devices(connected), ..received("bob", &[]) };
        self.receipt(NewReceipt { read: true, of: ReceiptOf::In(owner("alice"), sid), ..at }).await;
    }

    async fn per_device(&mut self) {
        self.policy = Arc::new(policy(PushWhen::PerDevice));
    }

    async fn tokens(&self) -> Vec<String> {
        self.pushes().await.into_iter().map(|pushed| pushed.token).collect()
    }
}

#[tokio::test]
async fn who_has_no_device_is_not_pushed_and_who_looks_at_none_is_pushed_on_each() {
    let mut chat = with_devices(&[]).await;
    assert!(!chat.write_to(&[], &json!({})).await.1);
    assert!(chat.pushes().await.is_empty());
    let mut chat = with_devices(&["phone", "tablet"]).await;
    assert!(!chat.write_to(&[], &json!({})).await.1);
    assert_eq!(chat.tokens().await, ["T-phone", "T-tablet"]);
    let (_, waits) = chat.write_to(&[], &json!({ "push": "never" })).await;
    chat.set("bob", SettingChange::About(owner("alice"), EntryChange::Mute(Some((chat.at + DAY, MuteLevel::None)))))
        .await;
    let muted = chat.write_to(&[], &json!({})).await.1;
    assert!(!waits && !muted && chat.pushes().await.is_empty());
    chat.at += DAY;
    chat.write_to(&[], &json!({ "push": "silent" })).await;
    let pushes = chat.pushes().await;
    assert_eq!(pushes.iter().map(|pushed| pushed.push["priority"].clone()).collect::<Vec<_>>(), ["normal", "normal"]);
}

#[tokio::test]
async fn a_push_waits_for_whoever_looks_and_is_decided_again() {
    let mut chat = with_devices(&["phone"]).await;
    let (sid, waits) = chat.write_to(&["web"], &json!({})).await;
    assert!(waits && chat.pushes().await.is_empty());
    assert_eq!(chat.decide_again(&[sid], &["laptop"]).await, [sid], "somebody looks at another device");
    assert!(chat.decide_again(&[sid], &[]).await.is_empty());
    assert_eq!(chat.tokens().await, ["T-phone"]);
    assert!(chat.decide_again(&[sid], &[]).await.is_empty() && chat.pushes().await.is_empty(), "one push each");
    let (_, waits) = chat.write_to(&["web"], &json!({ "push": "always" })).await;
    assert!(!waits);
    assert_eq!(chat.tokens().await, ["T-phone"]);
}

#[tokio::test]
async fn an_attended_device_that_confirms_ends_the_wait_and_a_hidden_one_does_not() {
    let mut chat = with_devices(&["phone"]).await;
    let (first, _) = chat.write_to(&["web"], &json!({})).await;
    let (second, _) = chat.write_to(&["web"], &json!({})).await;
    chat.confirm("tab", false, first).await;
    chat.confirm("web", true, second).await;
    assert!(chat.decide_again(&[first, second], &[]).await.is_empty());
    let pushes = chat.pushes().await;
    assert_eq!(pushes.iter().map(|pushed| pushed.data("sid")).collect::<Vec<_>>(), [first.to_string()]);
}

#[tokio::test]
async fn an_attended_device_that_confirms_takes_back_what_has_not_left() {
    let mut chat = with_devices(&["phone", "tablet"]).await;
    let (first, _) = chat.write_to(&[], &json!({})).await;
    chat.confirm("tab", false, first).await;
    assert_eq!(chat.rig.store.figures().queue_rows, 2, "a hidden tab takes nothing back");
    chat.confirm("web", true, first).await;
    assert_eq!((chat.rig.store.figures().queue_rows, chat.rig.store.figures().queue_bytes), (0, 0));
    chat.read_at("web", &["web"], first).await;
    assert!(chat.pushes().await.is_empty(), "nothing was shown, nothing is cleared");

    // By MQTT, and up to a message.
    let (second, _) = chat.write_to(&[], &json!({})).await;
    let call = chat.call();
    chat.rig.store.chat_attended(owner("bob"), device("web"), second, call).await.unwrap().await.unwrap();
    let (third, _) = chat.write_to(&[], &json!({})).await;
    let (fourth, _) = chat.write_to(&[], &json!({})).await;
    let web = NewReceipt { dev: Some(device("web")), attended: true, ..received("bob", &[]) };
    chat.receipt(NewReceipt { of: ReceiptOf::UpTo(third), ..web }).await;
    let left: Vec<_> = chat.pushes().await.iter().map(|pushed| pushed.data("sid").to_owned()).collect();
    assert_eq!(left, [fourth.to_string(), fourth.to_string()]);
}

#[tokio::test]
async fn what_is_in_flight_when_it_is_taken_back_is_not_sent_again() {
    let mut chat = with_devices(&["phone", "tablet"]).await;
    let (sid, _) = chat.write_to(&[], &json!({})).await;
    let pushes = chat.claim(chat.at).await;
    chat.confirm("web", true, sid).await;
    chat.rig.record(pushes[0].sid, retry(NOW + MINUTE), chat.at).await;
    let chat = chat.crash().await;
    assert!(chat.claim(chat.at + MINUTE).await.is_empty());
    assert_eq!(chat.count("SELECT count(*) FROM pushed"), 1, "of the other one nobody knows whether it arrived");
    assert_eq!(chat.rig.store.figures().queue_rows, 0);
}

#[tokio::test]
async fn what_was_on_its_way_at_a_kill_may_have_arrived_and_is_cleared_all_the_same() {
    // It is taken back before it is sent again.
    let mut chat = with_devices(&["phone"]).await;
    let (sid, _) = chat.write_to(&[], &json!({})).await;
    assert_eq!(chat.claim(chat.at).await.len(), 1);
    let mut chat = chat.crash().await;
    chat.retract("alice", "bob", sid).await;
    assert_eq!(whats(&chat.pushes().await), [("T-phone", "clear")]);

    // An attended device had it, and then it was read.
    let mut chat = with_devices(&["phone"]).await;
    let (sid, _) = chat.write_to(&[], &json!({})).await;
    assert_eq!(chat.claim(chat.at).await.len(), 1);
    let mut chat = chat.crash().await;
    chat.confirm("web", true, sid).await;
    assert!(chat.pushes().await.is_empty(), "it is taken back");
    chat.read_at("web", &["web"], sid).await;
    assert_eq!(whats(&chat.pushes().await), [("T-phone", "clear")]);
    assert_eq!(chat.count("SELECT count(*) FROM pushed"), 0);
}

#[tokio::test]
async fn where_each_device_stands_for_itself_its_confirmation_is_its_own() {
    let mut chat = with_devices(&["phone", "tablet", "web"]).await;
    chat.per_device().await;
    let (sid, waits) = chat.write_to(&["web", "tablet"], &json!({})).await;
    assert!(waits);
    assert_eq!(chat.tokens().await, ["T-phone"]);
    chat.confirm("web", true, sid).await;
    assert_eq!(chat.decide_again(&[sid], &["web", "tablet"]).await, [sid], "the tablet has not confirmed");
    assert!(chat.decide_again(&[sid], &[]).await.is_empty());
    assert_eq!(chat.tokens().await, ["T-tablet"]);

    let (sid, _) = chat.write_to(&[], &json!({})).await;
    chat.confirm("tablet", true, sid).await;
    assert_eq!(chat.tokens().await, ["T-phone", "T-web"]);
}

#[tokio::test]
async fn exactly_the_devices_that_were_pushed_are_cleared() {
    let mut chat = with_devices(&["phone", "tablet", "web"]).await;
    chat.per_device().await;
    let (first, _) = chat.write_to(&["web"], &json!({})).await;
    assert_eq!(chat.tokens().await, ["T-phone", "T-tablet"]);
    let (second, _) = chat.write_to(&["web", "tablet"], &json!({})).await;
    assert_eq!(chat.tokens().await, ["T-phone"]);
    chat.read_at("tablet", &["tablet"], first).await;
    let cleared = chat.pushes().await;
    assert_eq!(whats(&cleared), [("T-phone", "clear")], "not the one that reads, and not the one that was not pushed");
    assert_eq!((cleared[0].data("sid"), cleared[0].data("unread")), (first.to_string().as_str(), "1"));
    chat.read_at("phone", &[], second).await;
    assert!(chat.pushes().await.is_empty(), "the phone reads itself");
    assert_eq!(chat.count("SELECT count(*) FROM pushed"), 0);

    let (third, _) = chat.write_to(&[], &json!({})).await;
    assert_eq!(chat.tokens().await.len(), 3);
    chat.read_at("laptop", &["laptop", "tablet"], third).await;
    assert_eq!(whats(&chat.pushes().await), [("T-phone", "clear"), ("T-web", "clear")], "not one that is connected");
}

#[tokio::test]
async fn several_conversations_are_read_with_one_receipt() {
    let mut chat = with_devices(&["phone"]).await;
    let (first, _) = chat.write_to(&[], &json!({})).await;
    chat.rig.store.chat_user_seen(owner("carol")).await.unwrap().await.unwrap();
    let second = chat.write("carol", "bob", "ho").await;
    assert_eq!(chat.pushes().await.len(), 2);
    let web = NewReceipt { dev: Some(device("web")), ..received("bob", &[first, second]) };
    chat.receipt(NewReceipt { read: true, ..web }).await;
    let cleared = chat.pushes().await;
    assert_eq!(
        cleared.iter().map(|c| (c.data("type"), c.data("with"))).collect::<Vec<_>>(),
        [("clear", "alice"), ("clear", "carol")]
    );
}

#[tokio::test]
async fn two_hundred_messages_are_fifty_pushes_and_then_one_that_stands_for_all() {
    let mut chat = with_devices(&["phone"]).await;
    let mut pushes = Vec::new();
    for _ in 0..200 {
        chat.write_to(&[], &json!({})).await;
        pushes.extend(chat.pushes().await);
    }
    assert_eq!(pushes.iter().filter(|pushed| pushed.data("type") == "message").count(), 50);
    let syncs: Vec<_> = pushes.iter().filter(|pushed| pushed.data("type") == "sync").collect();
    assert_eq!((syncs.len(), syncs[0].data("unread"), &syncs[0].push["collapse"]), (1, "51", &json!("chat")));
    let figures = chat.rig.store.figures();
    assert_eq!(figures.queue_rows, 1);
    let mut chat = chat.crash().await;
    assert_eq!((chat.rig.store.figures().queue_rows, chat.rig.store.figures().queue_bytes), (1, figures.queue_bytes));
    assert!(chat.claim(chat.at).await.is_empty());
    chat.at += 3 * MINUTE;
    let late = chat.pushes().await;
    assert_eq!((late.len(), late[0].data("unread")), (1, "200"), "the last one says how many");
    assert_eq!((chat.rig.store.figures().queue_rows, chat.rig.store.figures().queue_bytes), (0, 0));

    // What was told by a push that stood for it is cleared like all, and by the same.
    let last = chat.write_to(&[], &json!({})).await.0;
    chat.read_at("web", &[], last).await;
    assert!(chat.pushes().await.is_empty());
    chat.at += 3 * MINUTE;
    let cleared = chat.pushes().await;
    assert_eq!((whats(&cleared), cleared[0].data("unread")), (vec![("T-phone", "sync")], "0"));
    chat.confirm("phone", false, last).await;
    chat.write_to(&[], &json!({})).await;
    assert_eq!(
        whats(&chat.pushes().await),
        [("T-phone", "message")],
        "a device that says something is pushed one by one"
    );
}

#[tokio::test]
async fn nothing_waits_behind_a_push_that_was_put_off_once_the_device_says_something() {
    let mut chat = with_devices(&["phone"]).await;
    for _ in 0..60 {
        chat.write_to(&[], &json!({})).await;
        chat.pushes().await;
    }
    assert_eq!(chat.rig.store.figures().queue_rows, 1);
    chat.rig.store.chat_device_spoke(owner("bob"), device("phone"), chat.at).await.unwrap().await.unwrap();
    chat.write_to(&[], &json!({})).await;
    assert_eq!(whats(&chat.pushes().await), [("T-phone", "sync"), ("T-phone", "message")]);
}

#[tokio::test]
async fn without_ids_a_push_waits_and_is_not_left_out() {
    let mut chat = with_devices(&["phone", "tablet"]).await;
    let (sid, message) = (chat.rig.sid(), json!({ "to": "bob", "body": "hi" }).to_string());
    let message =
        UserMessage::parse(crate::chat::message::Sender::User, message.as_bytes(), &PayloadLimits::default()).unwrap();
    let new = NewChatMessage {
        sid,
        from: writer("alice"),
        to: peer("bob", &[]),
        message,
        deadline_ms: NOW + DAY,
        route: None,
    };
    let call = chat.call();
    let call = ChatCall { push_sids: call.push_sids[..1].to_vec(), ..call };
    let outcome = chat.rig.store.chat_message(new, call).await.unwrap().await.unwrap();
    assert_eq!(outcome, ChatOutcome::Done { seen: Vec::new(), stranger: false, waits: true, confirmed: Vec::new() });
    assert_eq!(chat.tokens().await, ["T-phone"]);
    assert!(chat.decide_again(&[sid], &[]).await.is_empty());
    assert_eq!(chat.tokens().await, ["T-tablet"]);
}

#[tokio::test]
async fn what_waited_at_a_stop_is_decided_again_unless_it_is_too_old() {
    let mut chat = with_devices(&["phone"]).await;
    let (old, _) = chat.write_to(&["web"], &json!({})).await;
    chat.at += 60 * MINUTE;
    let (confirmed, _) = chat.write_to(&["web"], &json!({})).await;
    let (first, _) = chat.write_to(&["web"], &json!({})).await;
    let (second, _) = chat.write_to(&["web"], &json!({})).await;
    chat.confirm("web", true, confirmed).await;
    let mut chat = chat.crash().await;
    let since = chat.at - 60 * MINUTE + 10;
    let found = chat.rig.store.chat_undecided(since).await.unwrap().await.unwrap();
    assert_eq!(found, [Undecided { user: owner("bob"), sids: vec![first, second] }]);
    chat.decide_again(&[first, second], &[]).await;
    assert_eq!(chat.tokens().await, ["T-phone", "T-phone"]);
    assert!(chat.rig.store.chat_undecided(since).await.unwrap().await.unwrap().is_empty());
    assert!(chat.decide_again(&[old], &[]).await.is_empty() && chat.pushes().await.is_empty());
}

/// A store with room for `rows` pushes.
pub(super) async fn with_room_for(chat: Chat, rows: u64) -> Chat {
    let Rig { dir, store, writer_thread, settings, sids, .. } = chat.rig;
    drop(store);
    writer_thread.close().await.unwrap();
    let settings = Settings { limits: Limits { queue_rows: rows, ..Limits::default() }, ..settings };
    Chat { rig: Rig::open(dir, settings, sids), ..chat }
}

#[tokio::test]
async fn a_push_for_which_there_is_no_room_waits_however_long_and_is_sent_once() {
    let mut chat = with_room_for(with_devices(&["phone", "tablet"]).await, 1).await;
    let (first, waits) = chat.write_to(&[], &json!({})).await;
    let (second, _) = chat.write_to(&[], &json!({ "push": "silent" })).await;
    let (_, never) = chat.write_to(&[], &json!({ "push": "never" })).await;
    assert!(waits && !never);
    assert_eq!((chat.rig.store.figures().queue_rows, chat.rig.store.figures().chat_unpushed), (1, 2));
    assert_eq!(chat.told("bob", "messages").await.len(), 3, "they came at once");
    let explained = chat.rig.store.chat_explain(owner("bob"), first).await.unwrap().await.unwrap().unwrap();
    let rules: Vec<_> = explained.devices.iter().map(|device| (device.verdict, device.rule)).collect();
    assert_eq!(rules, [(Verdict::Push, Rule::Unattended), (Verdict::Wait, Rule::NoRoom)]);

    // A restart forgets what waited for somebody for too long, and not this.
    let mut chat = chat.crash().await;
    chat.at += 2 * 60 * MINUTE;
    let (at, later) = (chat.at, chat.at + 1);
    assert!(chat.rig.store.chat_undecided(at).await.unwrap().await.unwrap().is_empty());
    let waiting = [Undecided { user: owner("bob"), sids: vec![first, second] }];
    assert_eq!(chat.rig.store.chat_unpushed(10).await.unwrap().await.unwrap(), waiting);
    assert_eq!(chat.rig.store.chat_unpushed(1).await.unwrap().await.unwrap()[0].sids, [first]);
    assert_eq!(chat.decide_again(&[first, second], &[]).await, [first, second], "there is still no room");
    let mut chat = with_room_for(chat, 10).await;
    assert_eq!(chat.rig.store.figures().chat_unpushed, 2);
    assert_eq!(chat.decide_again(&[second], &["web"]).await, [second], "somebody looks by now");
    assert_eq!(chat.rig.store.figures().chat_unpushed, 1);
    let since = later;
    let undecided = chat.rig.store.chat_undecided(since).await.unwrap().await.unwrap();
    assert_eq!(undecided, [Undecided { user: owner("bob"), sids: vec![second] }], "a restart loses it no more");
    assert!(chat.decide_again(&[first, second], &[]).await.is_empty());
    assert_eq!(chat.tokens().await, ["T-phone", "T-tablet", "T-phone", "T-tablet"]);
    assert_eq!(chat.rig.store.figures().chat_unpushed, 0);
}

#[tokio::test]
async fn what_was_read_while_its_push_waited_for_room_is_forgotten() {
    let mut chat = with_room_for(with_devices(&["phone"]).await, 0).await;
    let (first, _) = chat.write_to(&[], &json!({})).await;
    chat.write_to(&[], &json!({})).await;
    chat.read_at("web", &[], first).await;
    chat.sweep(0, u64::MAX).await;
    let chat = with_room_for(chat, 10).await;
    assert!(chat.rig.store.chat_unpushed(10).await.unwrap().await.unwrap().is_empty(), "neither is kept");
    assert_eq!(chat.rig.store.figures().chat_unpushed, 0);
    assert!(chat.pushes().await.is_empty());
}

#[tokio::test]
async fn each_conversation_that_was_read_is_cleared_however_many_messages_are_named() {
    let mut chat = with_devices(&["phone"]).await;
    let mut sids = Vec::new();
    for n in 0..12 {
        sids.push(chat.write("alice", "bob", &format!("{n}")).await);
    }
    assert_eq!(chat.pushes().await.len(), 12);
    for suffix in ["messages", "receipts"] {
        chat.told("alice", suffix).await;
    }
    let at = NewReceipt { dev: Some(device("web")), read: true, ..received("bob", &sids) };
    chat.receipt(at).await;
    assert_eq!(whats(&chat.pushes().await), [("T-phone", "clear")]);
    assert_eq!(chat.told("bob", "read").await.len(), 1);
    let told = chat.told("alice", "receipts").await;
    let told: Vec<_> = told.iter().map(|told| (&told["status"], &told["up_to"])).collect();
    assert_eq!(told, [(&json!("delivered"), &json!(true)), (&json!("read"), &json!(true))]);
}

/// A `clear` for which there is no id is made by the next read.
#[tokio::test]
async fn a_notification_that_could_not_be_cleared_is_cleared_later() {
    let mut chat = with_devices(&["phone"]).await;
    let (first, _) = chat.write_to(&[], &json!({})).await;
    let (second, _) = chat.write_to(&[], &json!({})).await;
    assert_eq!(chat.pushes().await.len(), 2);
    let at = |sid| NewReceipt {
        dev: Some(device("web")),
        read: true,
        of: ReceiptOf::In(owner("alice"), sid),
        ..received("bob", &[])
    };
    let call = ChatCall { push_sids: Vec::new(), ..chat.call() };
    chat.rig.store.chat_receipt(at(first), call).await.unwrap().await.unwrap();
    assert!(chat.pushes().await.is_empty());
    chat.receipt(at(second)).await;
    assert_eq!(whats(&chat.pushes().await), [("T-phone", "clear")]);
}

#[tokio::test]
async fn what_a_phone_may_show_is_bounded_however_long_nobody_reads() {
    let mut chat = with_devices(&["phone"]).await;
    let mut first = None;
    for _ in 0..150 {
        let (sid, _) = chat.write_to(&[], &json!({})).await;
        first = first.or(Some(sid));
        chat.pushes().await;
        // The app confirms each push, so that each is one of its own.
        chat.confirm("phone", false, sid).await;
    }
    let noted = chat.count("SELECT count(*) FROM pushed");
    assert!((50..60).contains(&noted), "{noted}");
    chat.read_at("web", &[], first.unwrap()).await;
    assert_eq!(whats(&chat.pushes().await), [("T-phone", "clear")], "the oldest is known");
}

#[tokio::test]
async fn what_waits_for_a_phone_goes_to_its_new_token_and_name() {
    let mut chat = with_devices(&["phone"]).await;
    chat.write_to(&[], &json!({})).await;
    chat.write_to(&[], &json!({})).await;
    let flying = chat.rig.take_by(chat.at, 1, MANY).await.claimed[0].sid;
    chat.register("bob", "phone", "T-new").await;
    // What was on its way to the token before comes back, and follows.
    let at = chat.at;
    chat.rig.record(flying, retry(at), at).await;
    chat.register("bob", "reinstalled", "T-new").await;
    // One that was refused goes by itself.
    for _ in 0..2 {
        assert_eq!(whats(&chat.pushes().await), [("T-new", "message")]);
    }
    assert_eq!(chat.count("SELECT count(*) FROM pushed"), 0, "the app was installed anew, and shows nothing");
}

#[tokio::test]
async fn what_was_on_its_way_to_a_token_before_goes_nowhere_once_the_device_has_none() {
    let mut chat = with_devices(&["phone"]).await;
    chat.write_to(&[], &json!({})).await;
    let flying = chat.rig.take_by(chat.at, 1, MANY).await.claimed[0].sid;
    chat.register("bob", "phone", "T-new").await;
    chat.unregister("bob", "phone").await;
    let at = chat.at;
    chat.rig.record(flying, retry(at), at).await;
    assert!(chat.pushes().await.is_empty());
}

#[tokio::test]
async fn a_token_that_the_push_service_replaces_takes_along_what_waits_and_leaves_with_it() {
    let mut chat = with_devices(&["phone"]).await;
    for _ in 0..3 {
        chat.write_to(&[], &json!({})).await;
    }
    let first = chat.rig.take_by(chat.at, 1, MANY).await.claimed[0].sid;
    let canonical = Some(Token::new("T-canonical").unwrap());
    let fate = Fate::Accepted { canonical, provider_id: None, detail: None, can_confirm: true };
    chat.rig.record(first, back(fate, 1), chat.at).await;
    chat.unregister("bob", "phone").await;
    assert!(chat.pushes().await.is_empty(), "who has logged out is not pushed");
}

#[tokio::test]
async fn an_answer_clears_a_reaction_that_was_pushed() {
    let mut chat = with_devices(&["phone"]).await;
    let about = chat.write("bob", "alice", "look").await;
    let reaction = json!({ "type": "reaction", "ref": about.to_string(), "push": "always" });
    chat.write_to(&[], &reaction).await;
    assert_eq!(whats(&chat.pushes().await), [("T-phone", "message")]);
    let at_web = Writer { dev: Some(device("web")), ..writer("bob") };
    chat.send(at_web, peer("alice", &[]), &json!({ "to": "alice", "body": "thank you" })).await;
    assert_eq!(whats(&chat.pushes().await), [("T-phone", "clear")]);
}

impl Chat {
    async fn register_with(&mut self, dev: &str, more: &Value) {
        self.change_device(registers("bob", dev, Some(registration(&format!("T-{dev}"), more)))).await;
    }

    /// By which rule the only device of bob was pushed for a message, or was not.
    async fn rule(&self, sid: Sid) -> (Verdict, Rule) {
        let explained = self.rig.store.chat_explain(owner("bob"), sid).await.unwrap().await.unwrap().unwrap();
        (explained.devices[0].verdict, explained.devices[0].rule)
    }
}

#[tokio::test]
async fn a_device_that_wants_one_push_for_an_absence_gets_no_second_one_until_it_speaks() {
    let mut chat = with_devices(&[]).await;
    chat.register_with("phone", &json!({ "first": true })).await;
    let (first, _) = chat.write_to(&[], &json!({})).await;
    let (second, _) = chat.write_to(&[], &json!({ "push": "always" })).await;
    assert_eq!(chat.tokens().await, ["T-phone"]);
    let mut chat = chat.crash().await;
    let (third, _) = chat.write_to(&[], &json!({})).await;
    assert!(chat.pushes().await.is_empty());
    assert_eq!(chat.rule(first).await, (Verdict::Push, Rule::Unattended));
    for sid in [second, third] {
        assert_eq!(chat.rule(sid).await, (Verdict::None, Rule::First));
    }
    assert_eq!(chat.count("SELECT count(*) FROM pushed"), 1, "what was not pushed is remembered so");
    chat.rig.store.chat_device_spoke(owner("bob"), device("phone"), chat.at).await.unwrap().await.unwrap();
    chat.write_to(&[], &json!({})).await;
    let pushes = chat.pushes().await;
    assert_eq!((pushes.len(), pushes[0].data("unread")), (1, "4"), "it says how many");
    chat.confirm("phone", false, third).await;
    let (fifth, _) = chat.write_to(&[], &json!({})).await;
    assert_eq!(chat.tokens().await, ["T-phone"]);

    // Read at another device, which clears what it shows: whoever read it was not absent.
    chat.read_at("web", &[], fifth).await;
    chat.write_to(&[], &json!({})).await;
    chat.write_to(&[], &json!({})).await;
    assert_eq!(whats(&chat.pushes().await), [("T-phone", "clear"), ("T-phone", "message")]);
}

#[tokio::test]
async fn a_push_that_did_not_go_is_not_the_one_of_an_absence() {
    let mut chat = with_devices(&[]).await;
    chat.register_with("phone", &json!({ "first": true })).await;
    chat.write_to(&[], &json!({})).await;
    let push = chat.claim(chat.at).await;
    chat.rig.record(push[0].sid, refused(Decision::FAIL, "INVALID"), chat.at).await;
    let (sid, _) = chat.write_to(&[], &json!({})).await;
    chat.confirm("web", true, sid).await;
    let (sid, _) = chat.write_to(&[], &json!({})).await;
    chat.write_to(&[], &json!({})).await;
    let pushes: Vec<_> = chat.pushes().await.iter().map(|push| push.data("sid").to_owned()).collect();
    assert_eq!(pushes, [sid.to_string()], "the first failed, the second was taken back");
}

#[tokio::test]
async fn by_night_a_push_shows_nothing() {
    let mut chat = with_devices(&[]).await;
    let at = |minutes: u64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
    let minute = chat.at / MINUTE % (24 * 60);
    let quiet = json!({ "from": at(minute + 23 * 60), "to": at(minute + 60), "tz": "UTC" });
    chat.register_with("phone", &json!({ "quiet": quiet, "platform": "ios", "badge": "server" })).await;
    let (sid, _) = chat.write_to(&[], &json!({ "push": "always" })).await;
    assert_eq!(chat.rule(sid).await, (Verdict::PushSilently, Rule::Quiet));
    let push = &chat.pushes().await[0].push;
    assert_eq!((&push["priority"], &push["notification"]), (&json!("normal"), &json!({ "badge": "1" })));
    chat.at += 2 * 60 * MINUTE;
    let (sid, _) = chat.write_to(&[], &json!({})).await;
    assert_eq!(chat.rule(sid).await, (Verdict::Push, Rule::Unattended));
    let push = &chat.pushes().await[0].push;
    assert_eq!(push["notification"], json!({ "title": "alice", "body": "hi", "badge": "2" }));
    chat.read_at("web", &[], sid).await;
    let clear = &chat.pushes().await[0].push;
    assert_eq!(clear["notification"], json!({ "badge": "0" }));
}
