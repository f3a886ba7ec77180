//! Calls: who hears which signal, which phones ring and stop, and what is kept.

use super::*;
use crate::chat::call::{ANSWERED_MS, KEPT_MS};
use crate::chat::push_decision::{Matter, Rule};
use crate::chat::suffix::calls::Signal;
use crate::store::tests::sessions::{ALL, ask, to as target, took};

impl Chat {
    /// A signal of the call `c1`, unless the document says otherwise.
    pub(in crate::store::tests) async fn signals(
        &mut self,
        from: Writer,
        to: Peer,
        document: &Value,
    ) -> (Sid, ChatOutcome) {
        let mut whole = json!({ "call": "c1", "to": to.name.as_str() });
        whole.as_object_mut().unwrap().extend(document.as_object().cloned().unwrap());
        let signal = Signal::parse(whole.to_string().as_bytes(), &PayloadLimits::default()).unwrap();
        self.at += 1;
        let (sid, message) = (self.rig.sids.next(self.at, 0), self.rig.sids.next(self.at, 0));
        let call = self.call();
        let until = call.at + u64::from(signal.ttl) * 1_000;
        let new = NewSignal { sid, message, from, to, signal, until };
        (sid, self.rig.store.call_signal(new, call).await.unwrap().await.unwrap())
    }

    /// Alice rings Bob, who looks at these devices; it must be taken.
    async fn ring(&mut self, attended: &[&str]) -> Sid {
        let (sid, outcome) = self.signals(writer("alice"), peer("bob", attended), &json!({ "type": "offer" })).await;
        assert!(matches!(outcome, ChatOutcome::Done { .. }), "{outcome:?}");
        sid
    }

    async fn bob_says(&mut self, dev: &str, kind: &str) -> ChatOutcome {
        let bob = Writer { dev: Some(device(dev)), ..writer("bob") };
        self.signals(bob, peer("alice", &[]), &json!({ "type": kind })).await.1
    }

    async fn alice_says(&mut self, kind: &str) -> ChatOutcome {
        self.signals(writer("alice"), peer("bob", &[]), &json!({ "type": kind })).await.1
    }

    /// Ends the calls that are due at `at`, while Bob looks at these devices; when to look again.
    pub(in crate::store::tests) async fn end_due(&mut self, at: u64, attended: &[&str]) -> (Vec<Sid>, Option<u64>) {
        self.at = self.at.max(at);
        let DueCalls { due, next } = ask!(self.rig, calls_due, self.at);
        let mut messages = Vec::new();
        for DueCall { offer, callee } in due {
            let (sid, message) = (self.rig.sids.next(self.at, 0), self.rig.sids.next(self.at, 0));
            let callee = peer(callee.as_str(), attended);
            let mut call = self.call();
            call.at -= 1;
            self.at -= 1;
            ask!(self.rig, call_over, OverdueCall { offer, sid, message, callee }, call);
            messages.push(message);
        }
        (messages, next)
    }

    async fn of_calls(&self, user: &str) -> Vec<(String, String)> {
        let word = |document: &Value, name: &str| document[name].as_str().unwrap_or_default().to_owned();
        self.told(user, "calls").await.iter().map(|d| (word(d, "type"), word(d, "dev"))).collect()
    }

    async fn late(&self, user: &str, at: u64) -> Vec<Value> {
        let kept = ask!(self.rig, calls_of, owner(user), at, true);
        kept.iter().map(|kept| serde_json::from_slice(&kept.payload).unwrap()).collect()
    }
}

fn pairs(told: &[(String, String)]) -> Vec<(&str, &str)> {
    told.iter().map(|(kind, dev)| (kind.as_str(), dev.as_str())).collect()
}

async fn with_phones() -> Chat {
    let mut chat = Chat::of_two().await;
    chat.register("bob", "phone", "T1").await;
    chat.register("bob", "tablet", "T2").await;
    chat.forget("bob").await;
    chat
}

#[tokio::test]
async fn a_call_rings_everywhere_is_answered_once_and_stops_on_all_other_devices() {
    let mut chat = with_phones().await;
    let offer = json!({ "id": "o1", "type": "offer", "data": { "sdp": "v=0" }, "ttl": 45, "from": "eve", "mine": 1 });
    let (sid, outcome) = chat.signals(writer("alice"), peer("bob", &[]), &offer).await;
    assert!(matches!(outcome, ChatOutcome::Done { waits: false, stranger: false, .. }));
    let (ts, s1) = (chat.at, sid.to_string());
    let copy = json!({ "sid": s1, "ts": ts, "from": "alice", "dev": "phone", "id": "o1", "call": "c1", "to": "bob",
        "type": "offer", "ttl": 45, "data": { "sdp": "v=0" }, "mine": 1 });
    for user in ["alice", "bob"] {
        assert_eq!(chat.told(user, "calls").await, std::slice::from_ref(&copy), "{user}");
    }
    let pushes = chat.pushes().await;
    assert_eq!(whats(&pushes), [("T1", "call"), ("T2", "call")]);
    let keys = json!({ "account": "bob", "type": "call", "call": "c1", "with": "alice", "sid": s1, "title": "alice",
        "ts": ts.to_string(), "unread": "0" });
    assert_eq!((&pushes[0].push["data"], &pushes[0].push["priority"]), (&keys, &json!("high")));

    assert!(matches!(chat.bob_says("phone", "ringing").await, ChatOutcome::Done { .. }));
    assert!(matches!(chat.bob_says("phone", "answer").await, ChatOutcome::Done { .. }));
    assert_eq!(pairs(&chat.of_calls("alice").await), [("ringing", "phone"), ("answer", "phone")]);
    assert_eq!(
        pairs(&chat.of_calls("bob").await),
        [("ringing", "phone"), ("answer", "phone"), ("taken", "phone")],
        "carbons, and the word to stop"
    );
    let cleared = chat.pushes().await;
    assert_eq!(whats(&cleared), [("T2", "clear")], "not at the device that answered");
    assert_eq!((cleared[0].data("call"), cleared[0].data("sid"), cleared[0].data("with")), ("c1", &*s1, "alice"));
    assert_eq!(cleared[0].push["priority"], "high");
    assert_eq!(code(&chat.bob_says("tablet", "answer").await), Some(ErrorCode::Duplicate));
    assert_eq!(code(&chat.bob_says("tablet", "reject").await), Some(ErrorCode::Duplicate));
    for user in ["alice", "bob"] {
        assert!(chat.told(user, "calls").await.is_empty() && chat.told(user, "messages").await.is_empty());
    }

    chat.at += 61_000;
    assert!(matches!(chat.alice_says("end").await, ChatOutcome::Done { .. }));
    assert!(chat.pushes().await.is_empty(), "each was cleared once");
    for (user, n) in [("alice", 4), ("bob", 4)] {
        assert_eq!(pairs(&chat.of_calls(user).await), [("end", "phone")]);
        let [kept] = &chat.told(user, "messages").await[..] else { panic!("one message") };
        let expected = json!({ "sid": kept["sid"], "n": n, "ts": chat.at, "from": "alice", "to": "bob", "type": "call",
            "call": "c1", "outcome": "answered", "seconds": 61 });
        assert_eq!(*kept, expected);
        let page = chat.page(user, None).await;
        assert_eq!(serde_json::from_slice::<Value>(page.items.last().unwrap()).unwrap(), expected, "and it is in sync");
        assert!(chat.told(user, "receipts").await.is_empty());
    }
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 0, "as before");
}

#[tokio::test]
async fn what_ends_a_call_before_its_answer_is_told_kept_and_clears_the_phones() {
    for (by, kind, outcome, cleared) in [
        ("alice", "end", "cancelled", vec![("T1", "clear"), ("T2", "clear")]),
        ("bob", "reject", "rejected", vec![("T2", "clear")]),
        ("bob", "end", "rejected", vec![("T2", "clear")]),
    ] {
        let mut chat = with_phones().await;
        chat.ring(&[]).await;
        assert_eq!(chat.pushes().await.len(), 2);
        let said = if by == "alice" { chat.alice_says(kind).await } else { chat.bob_says("phone", kind).await };
        assert!(matches!(said, ChatOutcome::Done { waits: false, .. }));
        assert_eq!(whats(&chat.pushes().await), cleared, "{by} {kind}");
        for user in ["alice", "bob"] {
            let told = chat.told(user, "calls").await;
            let last = told.last().unwrap();
            assert_eq!((&last["type"], &last["from"]), (&json!(kind), &json!(by)), "{user}: {told:?}");
            assert_eq!(told.len(), if user == "alice" { 2 } else { 1 }, "nobody gets an offer that is over");
            let kept = chat.told(user, "messages").await;
            assert_eq!((kept.len(), &kept[0]["outcome"], &kept[0]["seconds"]), (1, &json!(outcome), &json!(0)));
        }
        assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 0);
        assert_eq!(code(&chat.bob_says("tablet", "answer").await), Some(ErrorCode::NotFound));
        for (who, late) in [("alice", "end"), ("bob", "end"), ("bob", "ice"), ("bob", "ringing"), ("bob", "reject")] {
            let said = if who == "alice" { chat.alice_says(late).await } else { chat.bob_says("phone", late).await };
            assert!(matches!(said, ChatOutcome::Done { .. }), "both may hang up at once");
        }
        assert!(chat.told("alice", "calls").await.is_empty() && chat.told("bob", "messages").await.is_empty());
    }
}

#[tokio::test]
async fn a_call_that_nobody_takes_is_missed_kept_as_unread_and_pushed_also_after_a_crash() {
    let mut chat = with_phones().await;
    let sid = chat.ring(&[]).await;
    let rings = chat.at;
    assert_eq!(chat.pushes().await.len(), 2);
    let mut chat = chat.crash().await;
    for user in ["alice", "bob"] {
        chat.forget(user).await;
    }
    assert_eq!(chat.end_due(rings + 59_998, &[]).await, (vec![], Some(rings + 60_000)));
    let (messages, next) = chat.end_due(rings + 60_000, &[]).await;
    assert_eq!((messages.len(), next), (1, None));
    for user in ["alice", "bob"] {
        let [end] = &chat.told(user, "calls").await[..] else { panic!("one document") };
        assert_eq!((&end["type"], &end["outcome"], &end["from"]), (&json!("end"), &json!("missed"), &json!("alice")));
        let [kept] = &chat.told(user, "messages").await[..] else { panic!("one message") };
        assert_eq!((&kept["outcome"], &kept["sid"]), (&json!("missed"), &json!(messages[0].to_string())));
    }
    let pushes = chat.pushes().await;
    let mut what = whats(&pushes);
    what.sort_unstable();
    assert_eq!(what, [("T1", "clear"), ("T1", "message"), ("T2", "clear"), ("T2", "message")]);
    let missed = pushes.iter().find(|pushed| pushed.data("type") == "message").unwrap();
    assert_eq!(
        (missed.data("body"), missed.data("unread"), missed.data("sid")),
        ("Missed call", "1", &*messages[0].to_string())
    );
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 1);
    chat.read("bob", "alice", messages[0]).await;
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 0);
    assert!(chat.told("alice", "receipts").await.iter().all(|receipt| receipt["sid"] != messages[0].to_string()));
    assert_eq!(chat.explain_of("bob", sid).await.unwrap().asked.unwrap().matter, Matter::Call);
    // It is known for a day, and then not at all.
    let ended = chat.at;
    assert_eq!(
        code(&chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "offer" })).await.1),
        Some(ErrorCode::Duplicate)
    );
    assert_eq!(chat.end_due(ended + KEPT_MS, &[]).await, (vec![], None));
    assert_eq!(chat.count("SELECT count(*) FROM calls") + chat.count("SELECT count(*) FROM ringing"), 0);
    chat.ring(&[]).await;
}

#[tokio::test]
async fn a_missed_call_that_is_dropped_is_not_unread() {
    let mut chat = Chat::of_two().await;
    chat.ring(&[]).await;
    chat.end_due(chat.at + 60_000, &[]).await;
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 1);
    let (keep, mut call) = (Keep { for_ms: DAY, bytes: u64::MAX }, chat.call());
    call.at += 2 * DAY;
    ask!(chat.rig, chat_sweep, keep, call);
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 0);
}

#[tokio::test]
async fn an_answered_call_without_an_end_is_over_after_twelve_hours() {
    let mut chat = Chat::of_two().await;
    chat.ring(&[]).await;
    chat.bob_says("phone", "answer").await;
    let answered = chat.at;
    let mut chat = chat.crash().await;
    assert_eq!(chat.end_due(answered + DAY / 2 - 1, &[]).await, (vec![], Some(answered + ANSWERED_MS)));
    assert_eq!(chat.end_due(answered + ANSWERED_MS, &[]).await.0.len(), 1);
    let kept = chat.told("bob", "messages").await;
    assert_eq!((&kept[0]["outcome"], &kept[0]["seconds"]), (&json!("answered"), &json!(43_200)));
}

#[tokio::test]
async fn whoever_is_not_in_a_call_says_nothing_to_it_and_two_may_ring_each_other() {
    let mut chat = Chat::of(&["alice", "bob", "eve"]).await;
    chat.ring(&[]).await;
    for kind in ["ringing", "answer", "ice", "end", "reject"] {
        for (from, to) in [("eve", "bob"), ("eve", "alice"), ("alice", "eve")] {
            let said = chat.signals(writer(from), peer(to, &[]), &json!({ "type": kind })).await.1;
            assert_eq!(code(&said), Some(ErrorCode::NotFound), "{from} {to} {kind}");
        }
        let other = chat.signals(writer("bob"), peer("alice", &[]), &json!({ "type": kind, "call": "c2" })).await.1;
        assert_eq!(code(&other), Some(ErrorCode::NotFound));
    }
    for kind in ["ringing", "answer", "reject"] {
        assert_eq!(code(&chat.alice_says(kind).await), Some(ErrorCode::Forbidden));
    }
    let offers = |call: &str| json!({ "type": "offer", "call": call });
    let same = chat.signals(writer("bob"), peer("alice", &[]), &offers("c1")).await.1;
    assert_eq!(code(&same), Some(ErrorCode::Duplicate), "one word, one call of these two");
    let other = chat.signals(writer("bob"), peer("alice", &[]), &offers("c2")).await.1;
    assert!(matches!(other, ChatOutcome::Done { .. }));
    let shop = Peer { role: Some(Role::Bal), ..peer("shop", &[]) };
    for (to, expected) in [
        (peer("alice", &[]), ErrorCode::BadField),
        (shop, ErrorCode::BadField),
        (peer("nobody", &[]), ErrorCode::NotFound),
    ] {
        assert_eq!(code(&chat.signals(writer("alice"), to, &offers("c3")).await.1), Some(expected));
    }
}

#[tokio::test]
async fn two_candidates_are_two_and_a_repetition_is_none() {
    let mut chat = Chat::of_two().await;
    chat.ring(&[]).await;
    for user in ["alice", "bob"] {
        chat.forget(user).await;
    }
    let ice = |id: Option<&str>, line: &str| {
        let mut document = json!({ "type": "ice", "data": { "candidate": line } });
        if let Some(id) = id {
            document["id"] = json!(id);
        }
        document
    };
    for document in [ice(None, "one"), ice(None, "one"), ice(Some("i1"), "one"), ice(Some("i2"), "one")] {
        chat.signals(writer("alice"), peer("bob", &[]), &document).await;
    }
    assert_eq!(chat.told("bob", "calls").await.len(), 4, "each candidate is its own");
    let first = chat.told("alice", "calls").await[2]["sid"].clone();
    let tab = Writer { dev: Some(device("tab")), ..writer("alice") };
    assert_eq!(chat.signals(tab, peer("bob", &[]), &ice(Some("i1"), "one")).await.1, ChatOutcome::Repeated);
    let [again] = &chat.told("alice", "calls").await[..] else { panic!("one copy") };
    assert_eq!((&again["sid"], &again["redelivered"]), (&first, &json!(true)));
    assert_eq!(
        code(&chat.signals(writer("alice"), peer("bob", &[]), &ice(Some("i1"), "two")).await.1),
        Some(ErrorCode::Duplicate)
    );
    assert!(chat.told("bob", "calls").await.is_empty());
}

#[tokio::test]
async fn a_blocked_caller_is_not_taken_and_does_not_learn_why() {
    let mut chat = with_phones().await;
    chat.block("bob", "alice", true).await;
    let sid = chat.ring(&[]).await;
    assert_eq!(chat.explain_of("bob", sid).await.unwrap().devices[0].rule, Rule::Blocked);
    chat.block("bob", "alice", false).await;
    assert_eq!(code(&chat.bob_says("phone", "answer").await), Some(ErrorCode::NotFound));
    assert!(matches!(
        chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "ice" })).await.1,
        ChatOutcome::Done { .. }
    ));
    chat.end_due(chat.at + 60_000, &[]).await;
    assert_eq!(pairs(&chat.of_calls("alice").await), [("offer", "phone"), ("ice", "phone"), ("end", "")]);
    assert_eq!(chat.told("alice", "messages").await[0]["outcome"], "missed");
    assert!(chat.told("bob", "calls").await.is_empty() && chat.told("bob", "messages").await.is_empty());
    assert!(chat.pushes().await.is_empty() && chat.late("bob", chat.at).await.is_empty());
    assert_eq!(chat.page("bob", None).await.items.len(), 3);
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 0);
}

#[tokio::test]
async fn a_block_during_a_call_lets_nothing_of_it_through_but_its_end() {
    let mut chat = with_phones().await;
    chat.ring(&[]).await;
    assert!(matches!(chat.bob_says("phone", "answer").await, ChatOutcome::Done { .. }));
    chat.block("bob", "alice", true).await;
    chat.forget("alice").await;
    chat.forget("bob").await;
    let ice = json!({ "type": "ice", "data": { "candidate": "x" } });
    assert!(matches!(chat.signals(writer("alice"), peer("bob", &[]), &ice).await.1, ChatOutcome::Done { .. }));
    assert_eq!(pairs(&chat.of_calls("alice").await), [("ice", "phone")], "a block is not betrayed");
    assert!(chat.of_calls("bob").await.is_empty());
    let end = json!({ "type": "end", "data": "a last word" });
    chat.signals(writer("alice"), peer("bob", &[]), &end).await;
    let told = chat.told("bob", "calls").await;
    assert_eq!(told.iter().map(|d| (&d["type"], d.get("data"))).collect::<Vec<_>>(), [(&json!("end"), None)]);
}

#[tokio::test]
async fn what_is_remembered_of_a_call_and_how_many_ring_is_limited() {
    let mut chat = with_phones().await;
    chat.ring(&[]).await;
    let refused = |outcome: &ChatOutcome| match outcome {
        ChatOutcome::Refused(rejection) => Some(rejection.code()),
        _ => None,
    };
    for n in 0..1_000 {
        let ice = json!({ "type": "ice", "id": format!("i{n}") });
        let outcome = chat.signals(writer("alice"), peer("bob", &[]), &ice).await.1;
        assert_eq!(refused(&outcome), None, "{n}");
    }
    let ice = json!({ "type": "ice", "id": "one-more" });
    let outcome = chat.signals(writer("alice"), peer("bob", &[]), &ice).await.1;
    assert_eq!(refused(&outcome), Some(ErrorCode::RateLimited));
    assert_eq!(refused(&chat.alice_says("end").await), None, "it can be ended all the same");
    for n in 2..=20 {
        let offer = json!({ "type": "offer", "call": format!("c{n}") });
        assert_eq!(refused(&chat.signals(writer("alice"), peer("bob", &[]), &offer).await.1), None, "{n}");
    }
    let offer = json!({ "type": "offer", "call": "c21" });
    let outcome = chat.signals(writer("alice"), peer("bob", &[]), &offer).await.1;
    assert_eq!(refused(&outcome), Some(ErrorCode::RateLimited));
    // What was said of calls that ended long ago goes in pieces.
    let mut looks = 0;
    chat.end_due(chat.at + MINUTE, &[]).await;
    while chat.count("SELECT count(*) FROM calls") > 0 {
        chat.end_due(chat.at + KEPT_MS, &[]).await;
        looks += 1;
    }
    assert!((1..10).contains(&looks), "{looks}");
    assert_eq!(chat.count("SELECT count(*) FROM signals"), 0);
}

#[tokio::test]
async fn strangers_ring_only_whoever_lets_them_and_an_answer_makes_contacts() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    chat.set("bob", SettingChange::Writers(Writers::Contacts)).await;
    let offer = json!({ "type": "offer" });
    assert_eq!(code(&chat.signals(writer("alice"), peer("bob", &[]), &offer).await.1), Some(ErrorCode::Forbidden));
    let many = Writer { strangers: false, ..writer("alice") };
    chat.set("bob", SettingChange::Writers(Writers::Anyone)).await;
    assert_eq!(code(&chat.signals(many, peer("bob", &[]), &offer).await.1), Some(ErrorCode::RateLimited));
    let sees = |watcher: &str, of: &str| vec![Seeing { watcher: owner(watcher), of: owner(of), visible: true }];
    let outcome = chat.signals(writer("alice"), peer("bob", &[]), &offer).await.1;
    let done = |seen, stranger| ChatOutcome::Done { seen, stranger, waits: false, confirmed: Vec::new() };
    assert_eq!(outcome, done(sees("bob", "alice"), true));
    assert_eq!(chat.bob_says("phone", "answer").await, done(sees("alice", "bob"), false));
}

#[tokio::test]
async fn a_bal_rings_a_user_and_hears_what_comes_of_it() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    let (_, outcome) = chat.signals(bal("shop"), peer("bob", &[]), &json!({ "id": "o1", "type": "offer" })).await;
    assert!(matches!(outcome, ChatOutcome::Done { .. }));
    assert_eq!(statuses(&chat.told("shop", "receipts").await)[0].1, "accepted");
    assert!(chat.told("shop", "calls").await.is_empty(), "its own does not come back");
    let shop = Peer { role: Some(Role::Bal), ..peer("shop", &[]) };
    chat.signals(writer("bob"), shop, &json!({ "type": "reject" })).await;
    assert_eq!(pairs(&chat.of_calls("shop").await), [("reject", "phone")]);
    assert_eq!(chat.told("bob", "messages").await[0]["outcome"], "rejected");
    assert!(chat.told("shop", "messages").await.is_empty());
}

#[tokio::test]
async fn attended_devices_ring_by_mqtt_and_the_phones_wait_for_them_no_longer_than_the_call() {
    let mut chat = with_phones().await;
    let sid = chat.ring(&["web"]).await;
    assert!(chat.pushes().await.is_empty());
    assert!(chat.explain_of("bob", sid).await.unwrap().waits);
    assert_eq!(chat.undecided().await, [sid], "also after a restart");
    let again = async |chat: &mut Chat, attended: &[&str]| {
        let (call, attended) = (chat.call(), Attended { devices: devices(attended) });
        ask!(chat.rig, chat_decide_again, owner("bob"), vec![sid], attended, call)
    };
    assert_eq!(again(&mut chat, &["web"]).await, [sid]);
    assert!(again(&mut chat, &[]).await.is_empty());
    assert_eq!(whats(&chat.pushes().await), [("T1", "call"), ("T2", "call")]);
    chat.alice_says("end").await;

    let (sid, _) =
        chat.signals(writer("alice"), peer("bob", &["web"]), &json!({ "type": "offer", "call": "c2", "ttl": 5 })).await;
    chat.pushes().await;
    chat.at += 5_000;
    let call = chat.call();
    assert!(ask!(chat.rig, chat_decide_again, owner("bob"), vec![sid], Attended::default(), call).is_empty());
    assert!(chat.pushes().await.is_empty(), "its time is over");
}

#[tokio::test]
async fn what_an_attended_device_confirms_is_not_pushed() {
    let mut chat = with_phones().await;
    let sid = chat.ring(&["web"]).await;
    let call = chat.call();
    ask!(chat.rig, chat_attended, owner("bob"), device("web"), sid, call);
    assert!(!chat.explain_of("bob", sid).await.unwrap().waits && chat.undecided().await.is_empty());
    // On a broker of others the device says so; what it says of nothing that is its own is refused.
    chat.alice_says("end").await;
    let (sid, _) = chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "offer", "call": "c2" })).await;
    let web = NewReceipt { dev: Some(device("web")), attended: true, ..received("bob", &[sid]) };
    assert!(matches!(chat.receipt(web.clone()).await, ChatOutcome::Done { .. }));
    assert!(chat.pushes().await.is_empty(), "they had not left");
    assert!(chat.explain_of("bob", sid).await.unwrap().received);
    assert_eq!(ask!(chat.rig, chat_messages_to, owner("bob"), vec![sid]), [sid]);
    assert_eq!(code(&chat.receipt(NewReceipt { user: owner("alice"), ..web }).await), Some(ErrorCode::NotFound));
}

#[tokio::test]
async fn reading_the_conversation_leaves_the_phone_ringing() {
    let mut chat = with_phones().await;
    let written = chat.write("alice", "bob", "pick up").await;
    chat.ring(&[]).await;
    let later = chat.write("alice", "bob", "please").await;
    assert_eq!(chat.pushes().await.len(), 6);
    assert!(written < later);
    chat.read("bob", "alice", later).await;
    assert!(chat.pushes().await.iter().all(|push| push.data("call").is_empty()));
    chat.alice_says("end").await;
    let cleared = chat.pushes().await;
    assert_eq!(cleared.iter().filter(|push| push.data("call") == "c1").count(), 2);
}

#[tokio::test]
async fn a_push_that_has_not_left_is_taken_back_and_one_on_its_way_is_cleared() {
    let mut chat = with_phones().await;
    chat.ring(&[]).await;
    chat.alice_says("end").await;
    assert!(chat.pushes().await.is_empty());
    assert_eq!((chat.rig.store.figures().queue_rows, chat.rig.store.figures().queue_bytes), (0, 0));
    chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "offer", "call": "c2" })).await;
    let flying = chat.claim(chat.at).await;
    chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "end", "call": "c2" })).await;
    for push in &flying {
        chat.rig.record(push.sid, accepted(), chat.at).await;
    }
    assert_eq!(whats(&chat.pushes().await), [("T1", "clear"), ("T2", "clear")]);

    // Of what was on its way when the bridge was killed nobody knows whether it rings.
    chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "offer", "call": "c3" })).await;
    assert_eq!(chat.claim(chat.at).await.len(), 2);
    let mut chat = chat.crash().await;
    chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "end", "call": "c3" })).await;
    assert_eq!(whats(&chat.pushes().await), [("T1", "clear"), ("T2", "clear")]);
}

#[tokio::test]
async fn a_flood_of_messages_holds_no_call_back() {
    let mut chat = with_phones().await;
    for n in 0..60 {
        chat.write("alice", "bob", "hi").await;
        if n > 48 {
            chat.pushes().await;
        }
    }
    assert!(chat.pushes().await.is_empty(), "a sync waits for its time");
    chat.ring(&[]).await;
    let mut pushes =
        whats(&chat.pushes().await).into_iter().map(|(to, what)| format!("{to} {what}")).collect::<Vec<_>>();
    pushes.sort_unstable();
    assert_eq!(pushes, ["T1 call", "T1 sync", "T2 call", "T2 sync"], "the sync goes before the call");
    chat.alice_says("end").await;
    assert_eq!(whats(&chat.pushes().await), [("T1", "clear"), ("T2", "clear")]);
}

#[tokio::test]
async fn a_device_that_comes_late_gets_what_is_true_then() {
    let mut chat = Chat::of_two().await;
    chat.ring(&[]).await;
    let rang = chat.at;
    assert!(chat.late("bob", rang).await.is_empty(), "it reads the offer itself, which no device has had");
    chat.forget("bob").await;
    let [offer] = &chat.late("bob", rang + 30_000).await[..] else { panic!("the offer") };
    assert_eq!((&offer["type"], &offer["redelivered"]), (&json!("offer"), &json!(true)));
    assert!(chat.late("alice", rang).await.is_empty() && chat.late("bob", rang + 60_000).await.is_empty());
    chat.bob_says("web", "answer").await;
    for user in ["alice", "bob"] {
        chat.forget(user).await;
    }
    let [taken] = &chat.late("bob", chat.at).await[..] else { panic!("taken") };
    assert_eq!((&taken["type"], &taken["dev"]), (&json!("taken"), &json!("web")));
    assert_eq!(chat.late("alice", chat.at).await[0]["type"], "answer");
    chat.alice_says("end").await;
    for user in ["alice", "bob"] {
        assert!(chat.late(user, chat.at).await.is_empty());
        chat.forget(user).await;
        let late = chat.late(user, chat.at).await;
        assert_eq!((late.len(), &late[0]["type"], &late[0]["outcome"]), (1, &json!("end"), &json!("answered")));
        assert!(chat.late(user, chat.at + 60_000).await.is_empty());
    }
}

#[tokio::test]
async fn no_signal_waits_beyond_its_time_and_no_dead_offer_is_read_out_of_a_session() {
    let mut chat = Chat::of_two().await;
    let (phone, web) = (chat.rig.session("phone").await, chat.rig.session("web").await);
    chat.ring(&[]).await;
    let topic = "bob/others/calls";
    let of = |page: DocumentPage| -> Vec<(bool, Value)> {
        let read = |found: QueuedDocument| {
            let expires = found.waiting.expires_at.is_some();
            (expires, serde_json::from_slice::<Value>(&found.waiting.payload).unwrap()["type"].clone())
        };
        page.documents.into_iter().map(read).collect()
    };
    let page = ask!(chat.rig, read_documents, topic.into(), Some(phone), 0, ALL);
    let reference = page.documents[0].waiting.reference.clone();
    assert_eq!(of(page), [(true, json!("offer"))]);
    // The phone has it; it waits in the other session.
    let acked = took(Some(phone), &[], vec![AckedDocument { reference, others: vec![target(web)] }]);
    ask!(chat.rig, acknowledged, acked);
    let page = ask!(chat.rig, read_documents, topic.into(), Some(web), 0, ALL);
    assert_eq!(of(page), [(true, json!("offer"))]);
    chat.bob_says("phone", "answer").await;
    let page = ask!(chat.rig, read_documents, topic.into(), Some(web), 0, ALL);
    assert_eq!(of(page), [(true, json!("answer")), (true, json!("taken"))], "and no offer");
    assert_eq!(chat.rig.count("queue"), 0);

    let later = chat.at + 60_000;
    chat.rig.sweep_all(later - 1_000).await;
    assert_eq!(chat.count("SELECT count(*) FROM outbox WHERE topic = 'bob/others/calls'"), 2);
    chat.rig.sweep_all(later).await;
    assert_eq!(chat.count("SELECT count(*) FROM outbox WHERE topic LIKE '%/others/calls'"), 0);

    // A row of a session expires as messages of clients do.
    chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "offer", "call": "c2" })).await;
    let page = ask!(chat.rig, read_documents, topic.into(), Some(phone), 0, ALL);
    let reference = page.documents[0].waiting.reference.clone();
    let acked = took(Some(phone), &[], vec![AckedDocument { reference, others: vec![target(web)] }]);
    ask!(chat.rig, acknowledged, acked);
    assert_eq!(chat.rig.count("queue"), 1);
    ask!(chat.rig, sweep_queues, chat.at + 60_000);
    assert_eq!(chat.rig.count("queue"), 0);
}

impl Chat {
    async fn explain_of(&self, user: &str, sid: Sid) -> Option<PushExplanation> {
        let explained = ask!(self.rig, chat_explain, owner(user), sid);
        assert_eq!(self.rig.inspector().explain_push(&owner(user), sid).unwrap(), explained, "beside the bridge");
        explained
    }

    async fn undecided(&self) -> Vec<Sid> {
        let undecided = ask!(self.rig, chat_undecided, 0);
        undecided.into_iter().flat_map(|of| of.sids).collect()
    }
}

const MISSED: &str = "SELECT unread FROM users WHERE user = 'bob'";

/// The newest item in a list of conversations, and what is unread there.
async fn first_item(chat: &Chat, user: &str) -> (Value, u64) {
    let page = chat.conversations(user).await;
    let last = page.items[0].last.as_ref().map(|last| serde_json::from_slice(last).unwrap());
    assert_eq!(page.unread, page.items[0].unread);
    (last.unwrap_or_default(), page.unread)
}

async fn history(chat: &Chat, user: &str, with: &str) -> Vec<Value> {
    let query = HistoryQuery { with: owner(with), from: HistoryFrom::Newest, limit: PAGE_MAX };
    let page = ask!(chat.rig, chat_history, owner(user), query).unwrap();
    page.items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect()
}

#[tokio::test]
async fn how_a_call_ended_is_an_item_of_the_list_of_history_and_of_sync() {
    let mut chat = Chat::of_two().await;
    chat.ring(&[]).await;
    let (missed, _) = chat.end_due(chat.at + 60_000, &[]).await;
    for (user, with, n, unread) in [("alice", "bob", 4, 0), ("bob", "alice", 4, 1)] {
        let (last, count) = first_item(&chat, user).await;
        assert_eq!((&last["type"], &last["outcome"], &last["call"]), (&json!("call"), &json!("missed"), &json!("c1")));
        assert_eq!((&last["sid"], &last["n"], count), (&json!(missed[0].to_string()), &json!(n), unread), "{user}");
        assert_eq!(history(&chat, user, with).await.last(), Some(&last));
        let page = ask!(chat.rig, chat_sync, owner(user), None);
        assert_eq!(serde_json::from_slice::<Value>(page.items.last().unwrap()).unwrap(), last);
    }
    chat.ring_again("c2").await;
    chat.signals(writer("alice"), peer("bob", &[]), &json!({ "type": "end", "call": "c2" })).await;
    let (last, count) = first_item(&chat, "bob").await;
    assert_eq!((&last["outcome"], count), (&json!("cancelled"), 1), "which is not unread");
    chat.read("bob", "alice", missed[0]).await;
    assert_eq!(first_item(&chat, "bob").await.1, 0);
}

#[tokio::test]
async fn a_missed_call_that_its_user_deletes_is_not_unread_wherever_one_reads_up_to() {
    let mut chat = Chat::of_two().await;
    let before = chat.write("alice", "bob", "before").await;
    let mut missed = Vec::new();
    for word in ["c1", "c2", "c3"] {
        chat.ring_again(word).await;
        missed.extend(chat.end_due(chat.at + 60_000, &[]).await.0);
    }
    assert_eq!(chat.count(MISSED), 4);
    chat.deletes("bob", &[missed[0], missed[1]]).await;
    assert_eq!(chat.count(MISSED), 2);
    // Of one of them nothing is left on any side.
    chat.deletes("alice", &[missed[0]]).await;
    assert_eq!(chat.count("SELECT count(*) FROM chat WHERE gone = 1"), 1);
    chat.read("bob", "alice", before).await;
    assert_eq!((chat.count(MISSED), first_item(&chat, "bob").await.1), (1, 1), "the third one");
    let kinds: Vec<Value> =
        history(&chat, "bob", "alice").await.iter_mut().map(|item| item["type"].take()).skip(4).collect();
    assert_eq!(kinds, ["tombstone", "tombstone", "call"]);
    chat.deletes("bob", &[missed[2]]).await;
    let (last, unread) = first_item(&chat, "bob").await;
    assert_eq!((&last["body"], unread), (&json!("before"), 0));
    assert_eq!(first_item(&chat, "alice").await.0["type"], "call");
}

#[tokio::test]
async fn an_offer_rings_through_one_push_an_absence_silently_by_night_and_not_through_a_mute() {
    let mut chat = Chat::of_two().await;
    let with = |more: &Value| registers("bob", "phone", Some(registration("T", more)));
    chat.change_device(with(&json!({ "first": true }))).await;
    chat.ring_again("c1").await;
    chat.alice_says("end").await;
    chat.write("alice", "bob", "one").await;
    chat.write("alice", "bob", "two").await;
    chat.ring_again("c2").await;
    let pushes = chat.pushes().await;
    // The call that ended before its push left is taken back, and was not the push of the absence.
    assert_eq!(whats(&pushes), [("T", "message"), ("T", "call")]);
    assert_eq!(pushes[1].push["priority"], "high");

    let day = json!({ "quiet": { "from": "00:00", "to": "23:59", "tz": "UTC" } });
    chat.change_device(with(&day)).await;
    let quiet = chat.ring_again("c3").await;
    let silent = chat.pushes().await;
    assert_eq!((whats(&silent), silent[0].push["priority"].as_str()), (vec![("T", "call")], Some("normal")));
    assert_eq!(chat.rule_of(quiet).await, Rule::Quiet);

    for level in [MuteLevel::Mentions, MuteLevel::None] {
        let mute = EntryChange::Mute(Some((u64::MAX, level)));
        chat.set("bob", SettingChange::About(owner("alice"), mute)).await;
        let muted = chat.ring_again(&format!("{level:?}")).await;
        assert_eq!(chat.rule_of(muted).await, Rule::Muted);
    }
    chat.end_due(chat.at + 60_000, &[]).await;
    assert!(chat.pushes().await.iter().all(|push| push.data("type") == "clear"), "nor is it told that it was missed");
}

#[tokio::test]
async fn an_offer_without_room_waits_for_it_no_longer_than_it_rings() {
    let limits = Limits { queue_rows: 1, ..Limits::default() };
    let mut chat = Chat::with(&["alice", "bob", "carol"], limits).await;
    chat.register("bob", "phone", "T").await;
    chat.register("carol", "phone", "C").await;
    chat.write("bob", "alice", "are you there").await;
    chat.write("alice", "carol", "it is full").await;
    let offer = chat.ring_again("c1").await;
    assert_eq!(chat.rule_of(offer).await, Rule::NoRoom);
    assert_eq!(chat.rig.store.figures().chat_unpushed, 1);
    let mut chat = chat.crash().await;
    assert_eq!(chat.undecided().await, [], "it waits for room");
    for push in chat.pushes().await {
        chat.rig.record(push.sid, accepted(), chat.at).await;
    }
    assert_eq!(chat.decides_without_room().await, [offer]);
    assert_eq!(chat.rig.store.figures().chat_unpushed, 0);
    assert_eq!(whats(&chat.pushes().await), [("T", "call")]);

    chat.alice_says("end").await;
    for push in chat.pushes().await {
        chat.rig.record(push.sid, accepted(), chat.at).await;
    }
    chat.write("alice", "carol", "full again").await;
    let late = chat.ring_again("c2").await;
    chat.at += 60_000;
    for push in chat.pushes().await {
        chat.rig.record(push.sid, accepted(), chat.at).await;
    }
    assert_eq!(chat.decides_without_room().await, [late]);
    assert_eq!(chat.rig.store.figures().chat_unpushed, 0);
    assert!(chat.pushes().await.is_empty(), "its time is over");
}

impl Chat {
    /// Alice rings Bob by this word.
    async fn ring_again(&mut self, word: &str) -> Sid {
        let offer = json!({ "type": "offer", "call": word });
        self.signals(writer("alice"), peer("bob", &[]), &offer).await.0
    }

    async fn deletes(&mut self, user: &str, sids: &[Sid]) {
        self.delete(user, DeletionOf::Each(sids.to_vec())).await.unwrap();
    }

    async fn rule_of(&self, offer: Sid) -> Rule {
        self.explain_of("bob", offer).await.unwrap().devices[0].rule
    }

    /// Decides once more about what waits for room; which that was.
    async fn decides_without_room(&mut self) -> Vec<Sid> {
        let waiting = ask!(self.rig, chat_unpushed, 100);
        let mut decided = Vec::new();
        for Undecided { user, sids } in waiting {
            let (nobody, call) = (Attended::default(), self.call());
            ask!(self.rig, chat_decide_again, user, sids.clone(), nobody, call);
            decided.extend(sids);
        }
        decided
    }
}
