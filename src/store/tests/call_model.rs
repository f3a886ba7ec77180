//! Random calls between two users with crashes in between, against a model in memory.
//!
//! What must hold: a call is answered once at most; no offer comes after its end; each call that was offered leaves one message,
//! when it ends; each device that was pushed for it is cleared once, but for the one that ended the ringing; and who rings
//! when is nobody's business but the model's.

use super::chat::{Chat, code, device, peer, registers, registration, writer};
use super::*;
use crate::chat::message::ErrorCode;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

const CALLS: [&str; 3] = ["c0", "c1", "c2"];
const DEVICES: [&str; 3] = ["phone", "tablet", "web"];
/// Those of Bob's devices that have a token.
const PHONES: [&str; 2] = ["phone", "tablet"];
const TTL_S: u64 = 30;

#[derive(Debug, Clone)]
enum Op {
    /// Alice or Bob says something of a call from a device.
    Say {
        by_alice: bool,
        dev: usize,
        call: usize,
        kind: &'static str,
    },
    /// So many seconds pass, and calls whose time is over end.
    Pass(u64),
    /// The push service takes what is due.
    Push,
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![
        4 => Just("offer"),
        1 => Just("ringing"),
        3 => Just("answer"),
        3 => Just("ice"),
        2 => Just("end"),
        1 => Just("reject"),
    ];
    prop_oneof![
        8 => (any::<bool>(), 0..DEVICES.len(), 0..CALLS.len(), kind)
            .prop_map(|(by_alice, dev, call, kind)| Op::Say { by_alice, dev, call, kind }),
        2 => (1..40_u64).prop_map(Op::Pass),
        3 => Just(Op::Push),
        1 => Just(Op::Crash),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Rings,
    Answered,
    Over,
}

/// How long a `clear` is worth sending, in milliseconds.
const CLEAR_MS: u64 = 60_000;

#[derive(Debug)]
struct Known {
    by_alice: bool,
    state: State,
    until: u64,
    outcome: Option<&'static str>,
    answers: usize,
    /// When it stopped ringing.
    stopped_at: Option<u64>,
    /// The devices of the callee that were pushed, and whether a clear is to come.
    pushed: BTreeMap<&'static str, bool>,
}

#[derive(Default)]
struct Model {
    calls: BTreeMap<&'static str, Known>,
}

/// What a signal came to.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// It is passed on.
    On,
    Nothing,
    Refused(ErrorCode),
}

impl Model {
    fn say(&mut self, by_alice: bool, dev: &'static str, name: &'static str, kind: &str, now: u64) -> Came {
        if kind == "offer" {
            if self.calls.contains_key(name) {
                return Came::Refused(ErrorCode::Duplicate);
            }
            let phones = if by_alice { &PHONES[..] } else { &[] };
            let pushed = phones.iter().map(|phone| (*phone, false)).collect();
            let (state, until) = (State::Rings, now + TTL_S * 1_000);
            self.calls
                .insert(name, Known { by_alice, state, until, outcome: None, answers: 0, stopped_at: None, pushed });
            return Came::On;
        }
        let Some(call) = self.calls.get_mut(name) else { return Came::Refused(ErrorCode::NotFound) };
        let is_caller = call.by_alice == by_alice;
        if is_caller && ["ringing", "answer", "reject"].contains(&kind) {
            return Came::Refused(ErrorCode::Forbidden);
        }
        let state = if call.state == State::Rings && now >= call.until { State::Over } else { call.state };
        match (state, kind) {
            (State::Rings, "ringing" | "ice") | (State::Answered, "ice") => Came::On,
            (State::Rings, "answer") => {
                call.answers += 1;
                call.state = State::Answered;
                call.stopped_at = Some(now);
                call.stop(Some(dev));
                Came::On
            }
            (State::Rings, _) => {
                let outcome = if is_caller { "cancelled" } else { "rejected" };
                call.stopped_at = Some(now);
                call.end(outcome, Some(dev).filter(|_| !is_caller));
                Came::On
            }
            (State::Answered, "end") => {
                call.end("answered", None);
                Came::On
            }
            (State::Answered, "answer" | "reject") => Came::Refused(ErrorCode::Duplicate),
            (State::Over, "answer") => {
                let is_taken = call.outcome == Some("answered");
                Came::Refused(if is_taken { ErrorCode::Duplicate } else { ErrorCode::NotFound })
            }
            (State::Over, "reject") if call.outcome == Some("answered") => Came::Refused(ErrorCode::Duplicate),
            _ => Came::Nothing,
        }
    }

    fn pass(&mut self, now: u64) {
        for call in self.calls.values_mut().filter(|call| call.state == State::Rings && call.until <= now) {
            call.stopped_at = Some(now);
            call.end("missed", None);
        }
    }
}

impl Known {
    fn end(&mut self, outcome: &'static str, by: Option<&'static str>) {
        if self.state == State::Rings {
            self.stop(by);
        }
        (self.state, self.outcome) = (State::Over, Some(outcome));
    }

    /// What was not pushed yet is taken back.
    fn stop(&mut self, by: Option<&'static str>) {
        self.pushed.retain(|_, sent| *sent);
        if let Some(by) = by {
            self.pushed.remove(by);
        }
    }
}

struct Run {
    chat: Chat,
    model: Model,
    /// By call: calls, clears and missed messages that came to each phone.
    rung: BTreeMap<(String, String), usize>,
    cleared: BTreeMap<(String, String), usize>,
}

impl Run {
    async fn new() -> Self {
        let mut chat = Chat::of_two().await;
        for phone in PHONES {
            let registered = registers("bob", phone, Some(registration(phone, &json!({}))));
            chat.change_device(registered).await;
        }
        for user in ["alice", "bob"] {
            chat.forget(user).await;
        }
        Self { chat, model: Model::default(), rung: BTreeMap::new(), cleared: BTreeMap::new() }
    }

    async fn apply(mut self, op: Op) -> Self {
        match op {
            Op::Say { by_alice, dev, call, kind } => self.say(by_alice, DEVICES[dev], CALLS[call], kind).await,
            Op::Pass(seconds) => {
                let now = self.chat.at + seconds * 1_000;
                let before = self.over();
                self.model.pass(now);
                let (messages, _) = self.chat.end_due(now, &[]).await;
                assert_eq!(messages.len(), self.over() - before);
            }
            Op::Push => self.push().await,
            Op::Crash => self.chat = self.chat.crash().await,
        }
        self.check().await;
        self
    }

    fn over(&self) -> usize {
        self.model.calls.values().filter(|call| call.state == State::Over).count()
    }

    async fn say(&mut self, by_alice: bool, dev: &'static str, call: &'static str, kind: &'static str) {
        let (from, to) = if by_alice { ("alice", "bob") } else { ("bob", "alice") };
        let from = Writer { dev: Some(device(dev)), ..writer(from) };
        let mut document = json!({ "type": kind, "call": call });
        if kind == "offer" {
            document["ttl"] = json!(TTL_S);
        }
        // Both helpers that follow take a millisecond each.
        let expected = self.model.say(by_alice, dev, call, kind, self.chat.at + 2);
        for user in ["alice", "bob"] {
            self.chat.told(user, "calls").await;
        }
        let (_, outcome) = self.chat.signals(from, peer(to, &[]), &document).await;
        let told = self.chat.told(to, "calls").await;
        let passed = told.iter().any(|document| document["type"] == kind && document["dev"] == dev);
        let came = match (code(&outcome), passed) {
            (Some(code), _) => Came::Refused(code),
            (None, true) => Came::On,
            (None, false) => Came::Nothing,
        };
        assert_eq!(came, expected, "{document}");
        let own = self.chat.told(writer_of(by_alice), "calls").await;
        assert_eq!(own.iter().filter(|document| document["type"] == kind).count(), usize::from(came == Came::On));
        assert_eq!(own.iter().any(|document| document["type"] == "taken"), came == Came::On && kind == "answer");
    }

    /// Everything that is due goes to the phones.
    async fn push(&mut self) {
        for push in self.chat.pushes().await {
            let key = (push.data("call").to_owned(), push.token.clone());
            match push.data("type") {
                "call" => {
                    *self.rung.entry(key.clone()).or_default() += 1;
                    let call = self.model.calls.get_mut(&*key.0).unwrap();
                    assert_eq!(call.state, State::Rings, "an offer is pushed while it rings");
                    *call.pushed.get_mut(&*key.1).unwrap() = true;
                }
                "clear" if !key.0.is_empty() => *self.cleared.entry(key).or_default() += 1,
                kind => assert!(kind == "message" || kind == "clear", "{kind}"),
            }
        }
        let now = self.chat.at;
        for (name, call) in &mut self.model.calls {
            for phone in PHONES {
                let key = ((*name).to_owned(), phone.to_owned());
                let (rung, cleared) = (self.rung.get(&key).copied(), self.cleared.get(&key).copied());
                assert!(rung.is_none_or(|rung| rung == 1), "a phone is pushed once");
                if cleared.is_none() && call.stopped_at.is_some_and(|at| at + CLEAR_MS <= now + 2) {
                    // It waited too long: the phone has stopped by itself.
                    call.pushed.remove(phone);
                }
                let is_stopped = call.state != State::Rings && call.pushed.contains_key(phone);
                assert_eq!(cleared, is_stopped.then_some(1), "{name} {phone}: {call:?}");
            }
        }
    }

    async fn check(&mut self) {
        for call in self.model.calls.values() {
            assert!(call.answers <= 1);
        }
        let read = |item: &Bytes| serde_json::from_slice::<Value>(item).unwrap();
        for user in ["alice", "bob"] {
            let page = self.chat.rig.store.chat_sync(Owner::new(user).unwrap(), None).await.unwrap();
            let items: Vec<Value> = page.await.unwrap().items.iter().map(read).collect();
            let kept: BTreeMap<_, _> = items
                .iter()
                .filter(|item| item["type"] == "call")
                .map(|item| (item["call"].as_str().unwrap(), item["outcome"].as_str().unwrap()))
                .collect();
            assert_eq!(items.iter().filter(|item| item["type"] == "call").count(), kept.len(), "one message each");
            let over = self.model.calls.iter().filter_map(|(name, call)| Some((*name, call.outcome?)));
            assert_eq!(kept, over.collect());
        }
        // What a device that comes now is told of the calls of others to it.
        for (callee, by_alice) in [("bob", true), ("alice", false)] {
            let owner = Owner::new(callee).unwrap();
            let late = self.chat.rig.store.calls_of(owner, self.chat.at, false).await.unwrap().await.unwrap();
            for kept in late {
                let document = read(&kept.payload);
                let call = &self.model.calls[document["call"].as_str().unwrap()];
                if document["type"] == "offer" {
                    assert!(call.by_alice == by_alice && call.state == State::Rings && self.chat.at < call.until);
                }
            }
        }
        let missed = self.model.calls.values().filter(|call| call.outcome == Some("missed"));
        let unread = missed.filter(|call| call.by_alice).count() as i64;
        assert_eq!(self.chat.count("SELECT unread FROM users WHERE user = 'bob'"), unread);
    }
}

fn writer_of(by_alice: bool) -> &'static str {
    if by_alice { "alice" } else { "bob" }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn calls_agree_with_a_model_whatever_is_said_and_whenever_it_stops(ops in prop::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::new().await;
            for op in ops {
                run = run.apply(op).await;
            }
            run.push().await;
        });
    }
}
