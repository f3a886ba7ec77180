//! The tasks with a real store on disk; the test is the other end of both ports.

mod births;
mod calls;
mod chat;
mod chat_full_queue;
mod chat_limits;
mod chat_requests;
mod chat_schedule;
mod commands;
mod denied;
mod direct;
mod downstream;
mod erase;
mod gatekeeper;
mod notices;
mod principals;
mod recipient_order;
mod several;
mod transports;
mod unknown_topics;
mod unread;
mod upstream;
mod user_presence;

use super::*;
use crate::chat::delivery::Fate;
use crate::chat::id::{Owner, Sid, Token};
use crate::chat::message::BrokerKind;
use crate::chat::principal::Principal;
use crate::chat::recipient_queue::Pipelining;
use crate::chat::refusal::{Decision, Refusal, Scope, Until, Wait};
use crate::chat::route::Routes;
use crate::mqtt::{Ack, AckWord, BrokerLink, Inbound, Outbound, Outcome};
use crate::ops::clock::now_ms;
use crate::store;
use crate::store::sqlite::{self, WriterThread};
use crate::transport::{AckRef, Capabilities, ConnectionId, DeviceMessage, Link, Port, ReceivedUpstream, Report, Send};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::oneshot;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

struct Harness {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    store: Store,
    mqtt: mqtt::Outlet,
    transport: transport::Outlet,
    /// The transports beside the first one.
    others: Vec<transport::Outlet>,
    stops: Stops,
    control: mpsc::Sender<ControlCall>,
    writer: WriterThread,
    metrics: Arc<Metrics>,
    readiness: watch::Receiver<Readiness>,
    running: tokio::task::JoinHandle<Result<(), StoreError>>,
}

pub(super) fn settings() -> Settings {
    let chat = HashMap::from([("com.example.chat".to_owned(), Owner::new("client1").unwrap())]);
    Settings {
        routes: Routes::new(chat, None),
        transports: crate::chat::transport::Transports::default(),
        explicit: std::iter::once(Owner::new("careful").unwrap()).collect(),
        listeners: Vec::new(),
        broker: BrokerKind::Embedded,
        chat: settings::ChatSettings::default(),
        groups: settings::GroupsSection::default(),
        limits: settings::Limits {
            inflight_publishes: 100,
            topic_window: 10,
            retry_max: Duration::from_secs(60),
            ..settings::Limits::default()
        },
        room: store::Limits { queue_rows: 10_000, spool_rows: 10_000, ..store::Limits::default() },
        claims: 64,
        presence_grace: Duration::from_secs(2),
        births: Duration::ZERO,
        started_ms: 1,
    }
}

/// What a context speaks to; nobody reads it.
pub(super) struct Ends {
    pub(super) publish: mpsc::Receiver<Outbound>,
    pub(super) evictions: mpsc::Receiver<mqtt::Eviction>,
    _presences: mpsc::Receiver<presence::PresenceWord>,
}

/// A context without tasks.
pub(super) fn context(store: Store, broker: mqtt::Capabilities) -> (Context, Ends) {
    let settings = settings();
    let ((publish, published), (evictions, evicted)) = (mpsc::channel(1), mpsc::channel(1));
    let (presences, words) = mpsc::channel(16);
    let attentions = Attentions::new(settings.chat.attended);
    let remembered = Remembered::new(&settings.chat, &settings.limits);
    let context = Context {
        settings,
        store,
        metrics: Arc::new(Metrics::new()),
        events: mpsc::channel(1).0,
        presences,
        visibility: mpsc::channel(1).0,
        publish,
        evictions,
        erasing: Default::default(),
        erase_begun: Default::default(),
        queue_full: Default::default(),
        sending: Default::default(),
        bal_presences: BalPresences::default(),
        broker_sessions: watch::channel(0).1,
        calls_kept: CallsKept::new(0),
        attentions,
        remembered,
        scheduled: Notify::new(),
        broker,
        directory: mqtt::Directory::default(),
        capabilities: Default::default(),
        sids: Mutex::new(SidSource::default()),
        written: tokio::sync::Mutex::new(()),
    };
    (context, Ends { publish: published, evictions: evicted, _presences: words })
}

impl Harness {
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Self::open_at(dir, path)
    }

    fn open_for(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Self::open_with(dir, path, settings)
    }

    fn open_at(dir: tempfile::TempDir, path: std::path::PathBuf) -> Self {
        Self::open_with(dir, path, settings())
    }

    fn open_with(dir: tempfile::TempDir, path: std::path::PathBuf, settings: Settings) -> Self {
        Self::open_by(dir, path, settings, &[Transport::Ccs])
    }

    fn open_by(dir: tempfile::TempDir, path: std::path::PathBuf, settings: Settings, transports: &[Transport]) -> Self {
        let is_external = settings.broker == BrokerKind::External;
        let on = if is_external { mqtt::Capabilities::EXTERNAL } else { mqtt::Capabilities::EMBEDDED };
        Self::open_all(on, (dir, path), settings, transports)
    }

    /// At a broker of which the bridge knows this.
    fn open_on(capabilities: mqtt::Capabilities, settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        Self::open_all(capabilities, (dir, path), settings, &[Transport::Ccs])
    }

    fn open_all(
        capabilities: mqtt::Capabilities,
        (dir, path): (tempfile::TempDir, std::path::PathBuf),
        settings: Settings,
        transports: &[Transport],
    ) -> Self {
        let wanted = sqlite::Settings {
            transports: transports.to_vec(),
            max_commit_delay: Duration::ZERO,
            limits: settings.room.clone(),
            ..sqlite::Settings::new(&path)
        };
        let (store, writer, recovery) = sqlite::open(&wanted, now_ms()).unwrap();
        let (mut mqtt_port, mqtt) = mqtt::port(16, 16);
        mqtt_port.capabilities = capabilities;
        // The test is a broker that keeps nothing, so documents are published to it.
        mqtt_port.capabilities.takes_documents = false;
        let (transports, mut outlets): (Vec<_>, Vec<_>) = transports
            .iter()
            .map(|transport| {
                let (port, outlet) = transport::port(settings.claims, 16, 16);
                let pipelining = if *transport == Transport::Ccs {
                    Pipelining::Pipelined(settings.claims)
                } else {
                    Pipelining::OneAtATime
                };
                let capabilities = Capabilities { pipelining, ..port.capabilities };
                ((transport.clone(), Port { capabilities, ..port }), outlet)
            })
            .unzip();
        let transport = outlets.remove(0);
        let (readiness_tx, readiness) = watch::channel(Readiness::starting());
        let stops = Stops::default();
        let metrics = Arc::new(Metrics::new());
        let (control, calls) = mpsc::channel(16);
        let parts = Parts {
            control: calls,
            store: store.clone(),
            recovery,
            mqtt: mqtt_port,
            transports,
            metrics: Arc::clone(&metrics),
            readiness: readiness_tx,
        };
        #[expect(clippy::disallowed_methods, reason = "joined in `close`")]
        let running = tokio::spawn(run(settings, parts, stops.clone()));
        for outlet in std::iter::once(&transport).chain(&outlets) {
            outlet.link.send_replace(Link::Up);
        }
        mqtt.broker_link.send_replace(BrokerLink::Up);
        let (others, _dir) = (outlets, dir);
        Self { _dir, path, store, mqtt, transport, others, stops, control, writer, metrics, readiness, running }
    }

    async fn publish(&self, topic: &str, payload: &Value) -> oneshot::Receiver<AckWord> {
        self.publish_as(Principal::anonymous(topic), topic, payload).await
    }

    async fn publish_as(&self, principal: Principal, topic: &str, payload: &Value) -> oneshot::Receiver<AckWord> {
        self.publish_with(principal, topic, payload, false).await
    }

    async fn publish_with(
        &self,
        principal: Principal,
        topic: &str,
        payload: &Value,
        dup: bool,
    ) -> oneshot::Receiver<AckWord> {
        let (ack, word) = Ack::new();
        let inbound = Inbound { dup, ..Inbound::new(principal, topic.into(), payload.to_string().into(), ack) };
        self.mqtt.inbound.send(inbound).await.unwrap();
        word
    }

    /// The next publication that is not about the bridge itself.
    async fn published(&mut self) -> Outbound {
        let next = async {
            loop {
                let outbound = self.mqtt.publish.recv().await.expect("the bridge runs");
                if !outbound.topic.starts_with("_bridge/") {
                    return outbound;
                }
                let _ = outbound.outcome.send(Outcome::Confirmed);
            }
        };
        timeout(next).await
    }

    /// The next document, confirmed.
    async fn read(&mut self) -> (String, Value) {
        let outbound = self.published().await;
        let document = serde_json::from_slice(&outbound.payload).unwrap();
        outbound.outcome.send(Outcome::Confirmed).unwrap();
        (outbound.topic, document)
    }

    async fn status(&mut self) -> (String, String) {
        let (topic, document) = self.read().await;
        assert!(topic.ends_with("/others/receipts"), "{topic}: {document}");
        (document["id"].as_str().unwrap().to_owned(), document["status"].as_str().unwrap().to_owned())
    }

    /// A message of `c` that the store has.
    async fn message(&self, id: &str, token: &str, ttl: u64) {
        let message = json!({"id": id, "token": token, "ttl": ttl, "data": {}});
        assert_eq!(timeout(self.publish("c/self/messages", &message).await).await, Ok(AckWord::Done));
    }

    async fn sent(&mut self) -> Send {
        timeout(self.transport.sends.recv()).await.expect("the bridge runs")
    }

    async fn refuse(&self, sid: Sid, wait: Wait) {
        let decision = Decision::Retry { wait, until: Until::Deadline, scope: Scope::Message };
        let refusal = Refusal::new(decision, "X", "");
        self.report(Report::Back { sid, fate: Fate::Refused(refusal), copies: 1, replays: 0 }).await;
    }

    /// The push service says that the device has it.
    async fn receipt(&self, original: &str) {
        let ack_ref = AckRef { connection: ConnectionId(1), to: "gcm".into(), message_id: format!("dr2:{original}") };
        let (original, status) = (original.to_owned(), "MESSAGE_SENT_TO_DEVICE".to_owned());
        self.report(Report::Receipt { original, status, handed_over_ms: None, copies: 0, ack_ref }).await;
    }

    async fn report(&self, report: Report) {
        self.transport.reports.send(report).await.unwrap();
    }

    async fn upstream(&self, id: &str, category: &str) {
        let ack_ref = AckRef { connection: ConnectionId(1), to: "phone".into(), message_id: id.into() };
        let data = json!({"n": id}).as_object().unwrap().clone();
        let from = Token::new("phone").unwrap();
        let category = Some(category.to_owned());
        let message =
            DeviceMessage::Upstream(ReceivedUpstream { from, category, message_id: id.into(), data, ack_ref });
        self.transport.device_messages.send(message).await.expect("the bridge runs");
    }

    async fn ack(&mut self) -> AckRef {
        timeout(self.transport.acks.recv()).await.expect("the bridge runs")
    }

    /// Stops in order; returns where the store is.
    async fn close(self) -> (tempfile::TempDir, std::path::PathBuf) {
        self.stops.intake.cancel();
        drop((self.transport, self.others, self.store));
        self.stops.publish.cancel();
        let mut publish = self.mqtt.publish;
        let drain = async { while publish.recv().await.is_some() {} };
        let (ended, ()) = tokio::join!(self.running, drain);
        ended.unwrap().unwrap();
        self.writer.close().await.unwrap();
        (self._dir, self.path)
    }
}

async fn timeout<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it must happen in time")
}

fn accepted(sid: Sid) -> Report {
    Report::Back { sid, fate: Fate::ACCEPTED, copies: 1, replays: 0 }
}

#[tokio::test]
async fn a_message_goes_out_and_its_statuses_come_back() {
    let mut harness = Harness::open();
    let word = harness.publish("client1/self/messages", &json!({"id": "a1", "token": "T", "data": {"k": 1}})).await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    assert_eq!(harness.status().await, ("a1".into(), "accepted".into()));
    let send = harness.sent().await;
    assert_eq!(send.push.data["k"], "1");
    harness.report(accepted(send.sid)).await;
    assert_eq!(harness.status().await, ("a1".into(), "sent".into()));
    let ack_ref = AckRef { connection: ConnectionId(1), to: "gcm".into(), message_id: format!("dr2:{}", send.sid) };
    harness.receipt(&send.sid.to_string()).await;
    assert_eq!(harness.ack().await, ack_ref);
    assert_eq!(harness.status().await, ("a1".into(), "delivered".into()));
    harness.close().await;
}

#[tokio::test]
async fn the_same_id_again_is_answered_and_not_sent_twice() {
    let mut harness = Harness::open();
    for mark in [Value::Null, json!(true)] {
        let word = harness.publish("client1/self/messages", &json!({"id": "a1", "token": "T", "data": {}})).await;
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
        let (_, status) = harness.read().await;
        assert_eq!(
            (&status["id"], &status["status"], &status["redelivered"]),
            (&"a1".into(), &"accepted".into(), &mark)
        );
    }
    let word = harness.publish("client1/self/messages", &json!({"id": "a2", "token": "T", "data": {}})).await;
    timeout(word).await.unwrap();
    let (first, second) = (harness.sent().await, harness.sent().await);
    assert!(first.sid < second.sid);
    assert!(harness.transport.sends.try_recv().is_err(), "a third message went out");
    harness.close().await;
}

#[tokio::test]
async fn what_nobody_reads_is_told_once_however_often_its_id_comes_again() {
    let mut harness = Harness::open();
    let message = json!({"id": "a1", "token": "T", "data": {}});
    assert_eq!(timeout(harness.publish("client1/self/messages", &message).await).await, Ok(AckWord::Done));
    let unread = harness.published().await;
    unread.outcome.send(Outcome::NoReader).unwrap();
    // The publisher has heard of it when the store is told that nothing was handed out.
    let claims = || {
        let other = rusqlite::Connection::open(&harness.path).unwrap();
        other.query_row("SELECT count(*) FROM claims", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    timeout(async {
        while claims() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..3 {
        assert_eq!(timeout(harness.publish("client1/self/messages", &message).await).await, Ok(AckWord::Done));
    }
    harness.mqtt.readers.send_modify(|changes| *changes += 1);
    let (_, status) = harness.read().await;
    assert_eq!((&status["status"], &status["redelivered"]), (&json!("accepted"), &Value::Null));
    let other = json!({"id": "a2", "token": "T", "data": {}});
    assert_eq!(timeout(harness.publish("client1/self/messages", &other).await).await, Ok(AckWord::Done));
    assert_eq!(harness.read().await.1["id"], "a2", "nothing came between");
    harness.close().await;
}

#[tokio::test]
async fn bad_input_is_answered_twice_if_its_id_could_be_read() {
    let mut harness = Harness::open();
    let word =
        harness.publish("client1/self/messages", &json!({"id": "a1", "token": "T", "topic": "x", "data": {}})).await;
    assert_eq!(timeout(word).await, Ok(AckWord::Done));
    let mut told = [harness.read().await, harness.read().await];
    told.sort_by(|a, b| a.0.cmp(&b.0));
    let [(errors, error), (receipts, status)] = told;
    assert_eq!((errors.as_str(), &error["code"]), ("client1/others/errors", &json!("BAD_TARGET")));
    assert_eq!((receipts.as_str(), &status["status"]), ("client1/others/receipts", &json!("failed")));
    harness.close().await;
}

#[tokio::test]
async fn bad_input_that_says_that_it_comes_again_is_answered_with_a_mark() {
    let mut harness = Harness::open();
    let bad = json!({"id": "a1", "token": "T", "topic": "x", "data": {}});
    for (dup, mark) in [(false, Value::Null), (true, json!(true)), (false, Value::Null)] {
        assert_eq!(
            timeout(harness.publish_with(Principal::anonymous("client1"), "client1/self/messages", &bad, dup).await)
                .await,
            Ok(AckWord::Done)
        );
        for _ in 0..2 {
            let (topic, document) = harness.read().await;
            assert_eq!(document["redelivered"], mark, "{topic}");
        }
    }
    harness.close().await;
}

#[tokio::test]
async fn a_refused_message_is_tried_again_before_the_recipients_next_one() {
    let mut harness = Harness::open();
    for id in ["a1", "a2"] {
        timeout(harness.publish("c/self/messages", &json!({"id": id, "token": "T", "data": {}})).await).await.unwrap();
    }
    let (first, second) = (harness.sent().await, harness.sent().await);
    for sid in [first.sid, second.sid] {
        harness.refuse(sid, Wait::AtLeast(Duration::from_millis(20))).await;
    }
    let again = harness.sent().await;
    assert_eq!(again.sid, first.sid);
    harness.report(accepted(again.sid)).await;
    assert_eq!(harness.sent().await.sid, second.sid);
    harness.close().await;
}

#[tokio::test]
async fn upstream_is_acknowledged_after_the_commit_and_published_once() {
    let mut harness = Harness::open();
    harness.upstream("7", "com.example.chat").await;
    assert_eq!(harness.ack().await.message_id, "7");
    let (topic, message) = harness.read().await;
    assert_eq!(topic, "client1/others/messages");
    assert_eq!((&message["ccs_id"], &message["data"]["n"]), (&json!("7"), &json!("7")));
    harness.upstream("7", "com.example.chat").await;
    assert_eq!(harness.ack().await.message_id, "7", "the repeat is acknowledged as well");
    harness.upstream("8", "com.example.chat").await;
    assert_eq!(harness.read().await.1["ccs_id"], "8");
    harness.close().await;
}

#[tokio::test]
async fn upstream_for_nobody_waits_for_a_reader_in_order() {
    let mut harness = Harness::open();
    for n in 0..30 {
        harness.upstream(&n.to_string(), "com.example.chat").await;
        harness.ack().await;
    }
    let probe = harness.published().await;
    assert!(probe.resume);
    probe.outcome.send(Outcome::NoReader).unwrap();
    // The probe's answer and the news of a reader may come in any order.
    harness.mqtt.readers.send_modify(|n| *n += 1);
    let mut got = Vec::new();
    while got.len() < 30 {
        got.push(harness.read().await.1["ccs_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(got, (0..30).map(|n: u32| n.to_string()).collect::<Vec<_>>());
    harness.close().await;
}

#[tokio::test]
async fn a_lost_confirmation_is_published_again_and_marked() {
    let mut harness = Harness::open();
    harness.upstream("1", "com.example.chat").await;
    harness.ack().await;
    harness.published().await.outcome.send(Outcome::Lost).unwrap();
    let (_, again) = harness.read().await;
    assert_eq!((&again["ccs_id"], &again["redelivered"]), (&json!("1"), &json!(true)));
    harness.close().await;
}

#[tokio::test]
async fn what_was_in_flight_at_the_end_is_sent_again_and_marked() {
    let mut harness = Harness::open();
    timeout(harness.publish("c/self/messages", &json!({"id": "a1", "token": "T", "data": {}})).await).await.unwrap();
    assert_eq!(harness.status().await.1, "accepted");
    let sid = harness.sent().await.sid;
    let (dir, path) = harness.close().await;
    let mut harness = Harness::open_at(dir, path);
    assert_eq!(harness.sent().await.sid, sid);
    harness.report(accepted(sid)).await;
    let (_, status) = harness.read().await;
    assert_eq!((&status["status"], &status["dup_possible"]), (&json!("sent"), &json!(true)));
    harness.close().await;
}

#[tokio::test]
async fn explicit_acknowledgement_keeps_a_message_until_it_is_given() {
    let mut harness = Harness::open();
    // No route names `careful`, so this one is only kept; its own test is the end-to-end one.
    harness.upstream("1", "com.example.unknown").await;
    assert_eq!(harness.ack().await.message_id, "1");
    harness.upstream("2", "com.example.chat").await;
    harness.ack().await;
    assert_eq!(harness.read().await.1["ccs_id"], "2", "what has no route holds up nobody");
    harness.close().await;
}
