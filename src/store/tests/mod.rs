//! The store from outside: its verbs and its promises.

mod call_model;
mod chat;
mod claim_on_accept;
mod group_speed;
mod model;
mod presence;
mod recipient_queue;
mod session_model;
mod session_speed;
pub(super) mod sessions;
pub(super) mod several;
mod speed;
mod unread;
mod verbs;

use super::sqlite::{self, Settings, WriterThread};
use super::*;
use crate::chat::delivery::{Event, Fate};
use crate::chat::id::{MessageId, Owner, Recipient, Sid, SidSource, Token};
use crate::chat::recipient_queue::Pipelining;
use crate::chat::refusal::{Decision, Refusal, RetryClock, Scope, Until, Wait};
use crate::chat::transport::Transport;
use bytes::Bytes;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const NOW: u64 = 1_700_000_000_000;
pub(super) const RECEIPTS: &str = "bal1/others/receipts";
const MESSAGES: &str = "bal1/others/messages";

impl NewMessage {
    /// Its only delivery.
    pub(super) fn push(&mut self) -> &mut NewPush {
        let Deliveries::Only(push) = &mut self.deliveries else { panic!("several deliveries") };
        push
    }
}

/// A store in a directory of its own.
pub(crate) struct Rig {
    pub(super) dir: tempfile::TempDir,
    pub(super) settings: Settings,
    pub(crate) store: Store,
    pub(super) writer_thread: WriterThread,
    pub(crate) recovery: Recovery,
    pub(super) sids: SidSource,
}

impl Rig {
    pub(super) fn new(limits: Limits) -> Self {
        Self::within(&std::env::temp_dir(), limits)
    }

    /// In memory, where the system has a folder for that. A crash is a copy of the files here: of what a disk does it shows
    /// nothing, and long runs would mostly wait for one.
    pub(crate) fn in_memory(limits: Limits) -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::within(memory, limits) } else { Self::new(limits) }
    }

    fn within(folder: &Path, limits: Limits) -> Self {
        let dir = tempfile::tempdir_in(folder).unwrap();
        let mut settings = Settings::new(dir.path().join("store.db"));
        // Otherwise each confirmation that is waited for alone costs this much.
        settings.max_commit_delay = Duration::ZERO;
        settings.limits = limits;
        settings.transports = vec![Transport::Ccs, Transport::FcmV1(None)];
        Self::open(dir, settings, SidSource::default())
    }

    pub(super) fn open(dir: tempfile::TempDir, settings: Settings, sids: SidSource) -> Self {
        let (store, writer_thread, recovery) = sqlite::open(&settings, NOW).unwrap();
        Self { dir, settings, store, writer_thread, recovery, sids }
    }

    /// As after `kill -9`: the files as they are now, without any closing.
    pub(crate) fn crash(self) -> Self {
        let dir = tempfile::tempdir_in(self.dir.path().parent().unwrap()).unwrap();
        copy_files(self.dir.path(), dir.path());
        let mut settings = self.settings;
        settings.path = dir.path().join("store.db");
        Self::open(dir, settings, self.sids)
    }

    pub(crate) async fn reopen(self) -> Self {
        self.writer_thread.close().await.unwrap();
        drop(self.store);
        Self::open(self.dir, self.settings, self.sids)
    }

    pub(super) fn sid(&mut self) -> Sid {
        self.sids.next(NOW, 0)
    }

    pub(super) fn new_message(&mut self, id: &str) -> NewMessage {
        let (recipient, transport, deadline_ms) = (Recipient(7), Transport::Ccs, NOW + 3_600_000);
        NewMessage {
            sid: self.sid(),
            bal: Owner::new("bal1").unwrap(),
            id: MessageId::new(id).unwrap(),
            order: None,
            body: Bytes::from(format!("body of {id}")),
            accepted_at: NOW,
            reply: RECEIPTS.to_owned(),
            correlation: None,
            notice: None,
            deliveries: Deliveries::Only(NewPush { recipient, transport, deadline_ms, receipt: true }),
        }
    }

    pub(super) async fn accept(&self, new: NewMessage) -> Accepted {
        self.store.accept(new).await.unwrap().await.unwrap()
    }

    async fn take(&self, now: u64) -> DueBatch {
        self.take_by(now, 100, MANY).await
    }

    pub(crate) async fn take_by(&self, now: u64, limit: usize, pipelining: Pipelining) -> DueBatch {
        let query = DueQuery { transport: Transport::Ccs, now, limit, taken_on_accept: 0, pipelining };
        let taken = self.store.take_due(query.clone()).await.unwrap();
        // What comes next is to wait until it is asked for.
        self.store.take_due(DueQuery { limit: 0, ..query }).await.unwrap().await.unwrap();
        taken.await.unwrap()
    }

    pub(crate) async fn record(&self, sid: Sid, event: Event, at: u64) -> Recorded {
        self.store.record(sid, event, at).await.unwrap().await.unwrap()
    }

    fn upstream(&mut self, ccs_id: &str, acks: Option<Acks>) -> Upstream {
        Upstream {
            sid: self.sid(),
            route: acks.map(|acks| route(MESSAGES, acks)),
            token: Token::new("device-1").unwrap(),
            message_id: ccs_id.to_owned(),
            category: Some("com.example".to_owned()),
            payload: Bytes::from(format!("{{\"ccs_id\":\"{ccs_id}\"}}")),
            at: NOW,
        }
    }

    async fn receive(&self, message: Upstream) -> Received {
        self.store.receive(message).await.unwrap().await.unwrap()
    }

    async fn unrouted(&self) -> Vec<Unrouted> {
        self.store.unrouted(0, 1000).await.unwrap().await.unwrap()
    }

    /// Gives the routes that `pick` knows, as the bridge does at its start, but in pages of `page`.
    async fn give_routes(&self, page: usize, pick: impl Fn(Option<&str>) -> Option<Route>) -> u64 {
        let (mut routed, mut after) = (0, 0);
        loop {
            let unrouted = self.store.unrouted(after, page).await.unwrap().await.unwrap();
            let Some(last) = unrouted.last() else { return routed };
            after = last.seq;
            let route = |message: &Unrouted| Some((message.sid, pick(message.category.as_deref())?));
            let routes = unrouted.iter().filter_map(route).collect();
            routed += self.store.give_routes(routes).await.unwrap().await.unwrap();
        }
    }

    pub(crate) async fn next(&self, topic: &str, after: u64) -> Vec<OutboxDocument> {
        self.store.next_to_publish(topic.into(), after, 1000).await.unwrap().await.unwrap()
    }

    pub(super) async fn publish(&self, waiting: &[OutboxDocument]) {
        let references = waiting.iter().map(|w| w.reference.clone()).collect();
        self.store.documents_acked(references, AckedBy::Owner, NOW).await.unwrap().await.unwrap();
    }

    /// Reads and confirms everything on a topic, as its reader would see it.
    async fn read(&self, topic: &str) -> Vec<Value> {
        let waiting = self.next(topic, 0).await;
        self.publish(&waiting).await;
        waiting.iter().map(|w| serde_json::from_slice(&w.payload).unwrap()).collect()
    }

    pub(super) async fn statuses(&self) -> Vec<String> {
        let documents = self.read(RECEIPTS).await;
        documents.iter().map(|d| format!("{} {}", d["id"].as_str().unwrap(), d["status"].as_str().unwrap())).collect()
    }

    pub(super) async fn sweep_all(&self, now: u64) {
        while self.store.sweep(now).await.unwrap().await.unwrap().more {}
    }

    fn inspector(&self) -> Inspector {
        Inspector::open(&self.settings.path).unwrap()
    }

    /// How many messages no look at what is due finds.
    fn parked(&self) -> i64 {
        let file = rusqlite::Connection::open(&self.settings.path).unwrap();
        let parked = "SELECT count(*) FROM deliveries WHERE state = 0 AND due_at = ?1";
        file.query_row(parked, [i64::MAX], |row| row.get(0)).unwrap()
    }
}

/// The database and its write-ahead log; the shared-memory file is rebuilt by whoever opens them.
fn copy_files(from: &Path, to: &Path) {
    for name in ["store.db", "store.db-wal"] {
        let source: PathBuf = from.join(name);
        if source.exists() {
            std::fs::copy(source, to.join(name)).unwrap();
        }
    }
}

fn route(topic: &str, acks: Acks) -> Route {
    Route { bal: Owner::new("bal1").unwrap(), topic: topic.to_owned(), acks }
}

/// As many of a recipient as there are.
pub(crate) const MANY: Pipelining = Pipelining::Pipelined(usize::MAX);

/// What a transport gives back at [`NOW`].
fn back(fate: Fate, copies: u32) -> Event {
    let clock = RetryClock { now_ms: NOW, deadline_ms: u64::MAX, longest: Duration::MAX, permille: 0 };
    Event::Back { fate, copies, replays: 0, clock }
}

/// The same at another time.
fn at(now_ms: u64, event: Event) -> Event {
    let Event::Back { fate, copies, replays, clock } = event else { unreachable!() };
    Event::Back { fate, copies, replays, clock: RetryClock { now_ms, ..clock } }
}

/// The same after it was sent again at once, so often.
fn after(replays: u32, event: Event) -> Event {
    let Event::Back { fate, copies, clock, .. } = event else { unreachable!() };
    Event::Back { fate, copies, replays, clock }
}

pub(crate) fn accepted() -> Event {
    back(Fate::ACCEPTED, 1)
}

fn unsendable() -> Event {
    back(Fate::Unsendable { code: "TOO_BIG".to_owned(), detail: "too big".to_owned() }, 0)
}

pub(crate) fn refused(decision: Decision, code: &str) -> Event {
    back(Fate::Refused(Refusal::new(decision, code, "gone")), 1)
}

/// Refused until `due_ms`.
pub(crate) fn retry(due_ms: u64) -> Event {
    let decision =
        Decision::Retry { wait: Wait::AtLeast(Duration::ZERO), until: Until::Deadline, scope: Scope::Message };
    at(due_ms, refused(decision, "SERVICE_UNAVAILABLE"))
}

fn ids(taken: &DueBatch) -> Vec<String> {
    taken.claimed.iter().map(|c| String::from_utf8_lossy(&c.body).replace("body of ", "")).collect()
}
