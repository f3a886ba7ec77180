//! A running broker, the bridge's end of its port, and the store with the bridge's documents.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use fcm_mqtt_bridge::broker::identity::users::{Cost, UsersFile};
use fcm_mqtt_bridge::broker::{Bound, Broker, BrokerConfig, BrokerDependencies, BrokerError, BrokerLimits, Listen};
use fcm_mqtt_bridge::chat::id::Sid;
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::mqtt::{self, AckWord, BrokerLink, Inbound, Outbound, Outcome, Port, Visibility};
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::ops::metrics::Metrics;
use fcm_mqtt_bridge::store::sqlite::{self, Settings, WriterThread};
use fcm_mqtt_bridge::store::{Note, Store, UserDocument};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// As little work as Argon2 allows: tests are about who gets in, not how long it takes.
pub(crate) const CHEAP: Cost = Cost { memory_kib: 8, rounds: 1 };

/// A test that waits longer than this has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How often is looked at what tells nobody that it changed.
const LOOK: Duration = Duration::from_millis(2);

pub(crate) struct Harness {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) bound: Bound,
    pub(crate) port: Port,
    pub(crate) metrics: Arc<Metrics>,
    /// The operator's wish to have the files read again.
    pub(crate) reload: watch::Sender<u64>,
    stop: CancellationToken,
    broker: JoinSet<Result<(), BrokerError>>,
    pub(crate) store: Store,
    writer: WriterThread,
    outbox: Outbox,
    _folder: TempDir,
}

pub(crate) fn config() -> BrokerConfig {
    BrokerConfig { listen: Listen::tcp(([127, 0, 0, 1], 0).into()), anonymous: true, ..BrokerConfig::default() }
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Returns when it is so.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looks = async {
        while !is_so() {
            tokio::time::sleep(LOOK).await;
        }
    };
    soon(what, looks).await;
}

impl Harness {
    pub(crate) async fn open() -> Self {
        Self::with(BrokerLimits::default()).await
    }

    pub(crate) async fn with(limits: BrokerLimits) -> Self {
        Self::bind(BrokerConfig { limits, ..config() }).await
    }

    pub(crate) async fn bind(config: BrokerConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = config.data.as_deref().unwrap_or_else(|| folder.path()).join("bridge.db");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Otherwise each acknowledgement that is waited for alone costs this much.
        let settings = Settings { max_commit_delay: Duration::ZERO, ..Settings::new(path.clone()) };
        let (store, writer, _) = sqlite::open(&settings, now_ms()).unwrap();
        let outbox = Outbox::watch(path);
        let broker = Broker::bind(config).await.unwrap();
        let bound = broker.addresses();
        let address = bound.tcp.expect("a TCP listener");
        let (mut port, outlet) = mqtt::port(256, 64);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let metrics = Arc::new(Metrics::new());
        let (reload, reloaded) = watch::channel(0);
        let dependencies = BrokerDependencies {
            metrics: Arc::clone(&metrics),
            reload: reloaded,
            store: store.clone(),
            told: |_, _| (),
        };
        tasks.spawn(broker.run(outlet, dependencies, stop.clone()));
        soon("the door", port.broker_link.wait_for(|broker_link| *broker_link == BrokerLink::Up)).await.unwrap();
        Self { address, bound, port, metrics, reload, stop, broker: tasks, store, writer, outbox, _folder: folder }
    }

    /// The next message for the bridge.
    pub(crate) async fn inbound(&mut self) -> Inbound {
        soon("an inbound message", self.port.inbound.recv()).await.expect("the broker is gone")
    }

    /// The next message for the bridge, taken care of.
    pub(crate) async fn take(&mut self) -> (String, String) {
        let inbound = self.inbound().await;
        inbound.ack.release(AckWord::Done);
        (inbound.topic, String::from_utf8(inbound.payload.to_vec()).unwrap())
    }

    /// Puts a document of the bridge into the store, where its readers get it. It is `Confirmed` when it does not wait there
    /// any more.
    pub(crate) async fn publish(&self, topic: &str, payload: &str) -> oneshot::Receiver<Outcome> {
        let at = self.outbox.next_time();
        let note = Note { topic: topic.to_owned(), payload: payload.to_owned().into(), correlation: None, at };
        soon("a commit", self.store.queue_note(note).await.unwrap()).await.unwrap();
        self.outbox.when_gone(at)
    }

    /// Puts a note for a chat user into the store. Returns when it is on disk, or gone from there.
    pub(crate) async fn tell(&self, topic: &str, payload: &str) {
        self.tell_copy(topic, payload, None).await;
    }

    /// The same with a copy of a message.
    pub(crate) async fn tell_copy(&self, topic: &str, payload: &str, copy_of: Option<Sid>) {
        let (topic, payload) = (topic.to_owned(), payload.to_owned().into());
        let document = UserDocument { topic, copy_of, payload, at: self.outbox.next_time() };
        soon("a commit", self.store.queue_user_document(document).await.unwrap()).await.unwrap();
    }

    /// Returns when so many documents wait on a topic.
    pub(crate) async fn waits_for(&self, topic: &str, documents: usize) {
        until("the last acknowledgement on disk", || self.waits(topic) == documents).await;
    }

    /// How many documents wait on a topic, handed out to readers or not.
    pub(crate) fn waits(&self, topic: &str) -> usize {
        self.outbox.waits(topic)
    }

    /// Returns when no document waits on a topic: an acknowledgement may wait for the next transaction.
    pub(crate) async fn settles(&self, topic: &str) {
        self.waits_for(topic, 0).await;
    }

    /// How many messages and documents are on disk for a session.
    pub(crate) fn kept(&self, client: &str) -> usize {
        self.outbox.kept(client)
    }

    /// Returns when nothing is on disk for a session: an acknowledgement may wait for the next transaction.
    pub(crate) async fn keeps_nothing(&self, client: &str) {
        until("the last acknowledgement on disk", || self.kept(client) == 0).await;
    }

    /// Returns when it is on disk that a session has no connection. From then on nothing but time has to pass for it.
    pub(crate) async fn is_away(&self, client: &str) {
        until("the end of a connection", || self.outbox.is_away(client)).await;
    }

    /// Publishes as the bridge what is no document.
    pub(crate) async fn send(&self, message: Outbound) {
        soon("room for a publication", self.port.publish.send(message)).await.expect("the broker is gone");
    }

    /// Says as the bridge whether a chat user sees another one.
    pub(crate) async fn see<'a>(&self, watcher: &str, of: impl Into<Option<&'a str>>, visible: bool) {
        let visibility = Visibility { watcher: watcher.into(), of: of.into().map(Into::into), visible };
        soon("room for a word", self.port.visibility.send(visibility)).await.expect("the broker is gone");
    }

    /// Returns when the broker has given all documents and publications before to those who read them.
    pub(crate) async fn barrier(&self) {
        // What a commit brought is given out in the order of the commits.
        self.publish("nobody/others/messages", "").await;
        let (message, answer) = outbound("nobody/others/messages", "");
        self.send(message).await;
        assert!(matches!(outcome(answer).await, Outcome::NoReader | Outcome::Confirmed));
    }

    pub(crate) async fn close(mut self) {
        self.stop.cancel();
        let ended = soon("the end of the broker", self.broker.join_next()).await;
        ended.unwrap().unwrap().unwrap();
        soon("the end of the store", self.writer.close()).await.unwrap();
        assert_eq!(*self.port.broker_link.borrow(), BrokerLink::Down);
    }

    /// As [`Self::close`], with the port left to look at.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        soon("the end of the broker", self.broker.join_next()).await.unwrap().unwrap().unwrap();
    }
}

/// Documents that are watched at one time.
const DOCUMENTS: usize = 65_536;

/// The documents that wait in the file of a store.
struct Outbox {
    path: PathBuf,
    /// The time of the last document: no two have the same, by which they are told apart.
    last: AtomicU64,
    wanted: mpsc::SyncSender<(u64, oneshot::Sender<Outcome>)>,
}

impl Outbox {
    /// Looks at the file in a thread of its own, so that paused time does not matter.
    fn watch(path: PathBuf) -> Self {
        let (wanted, asked) = mpsc::sync_channel::<(u64, oneshot::Sender<Outcome>)>(DOCUMENTS);
        let reader = open(&path);
        thread::spawn(move || {
            let mut waiting = Vec::new();
            while let Ok(first) = asked.recv() {
                waiting.push(first);
                while !waiting.is_empty() {
                    waiting.extend(asked.try_iter());
                    let there = times(&reader);
                    for (at, tell) in std::mem::take(&mut waiting) {
                        if tell.is_closed() {
                            continue;
                        }
                        match there.binary_search(&at) {
                            Ok(_) => waiting.push((at, tell)),
                            Err(_) => _ = tell.send(Outcome::Confirmed),
                        }
                    }
                    thread::sleep(LOOK);
                }
            }
        });
        Self { path, last: AtomicU64::new(now_ms()), wanted }
    }

    fn next_time(&self) -> u64 {
        self.last.fetch_add(1, Relaxed) + 1
    }

    fn when_gone(&self, at: u64) -> oneshot::Receiver<Outcome> {
        let (tell, told) = oneshot::channel();
        self.wanted.send((at, tell)).unwrap();
        told
    }

    fn waits(&self, topic: &str) -> usize {
        let sql = "SELECT count(*) FROM outbox WHERE topic = ?1";
        let count: i64 = open(&self.path).query_row(sql, [topic], |row| row.get(0)).unwrap();
        count.try_into().unwrap()
    }

    fn kept(&self, client: &str) -> usize {
        let sql = "SELECT count(*) FROM queue JOIN queues USING (queue) WHERE client = ?1";
        let count: i64 = open(&self.path).query_row(sql, [client], |row| row.get(0)).unwrap();
        count.try_into().unwrap()
    }

    fn is_away(&self, client: &str) -> bool {
        let sql = "SELECT count(*) FROM queues WHERE client = ?1 AND left_at IS NOT NULL";
        open(&self.path).query_row(sql, [client], |row| row.get::<_, i64>(0)).unwrap() > 0
    }
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection
}

/// The times of all documents in an outbox, in order.
fn times(reader: &Connection) -> Vec<u64> {
    let mut sql = reader.prepare_cached("SELECT queued_at FROM outbox ORDER BY queued_at").unwrap();
    let times = sql.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    times.map(|at| at.unwrap().try_into().unwrap()).collect()
}

/// A users file. The password of each user is the name, backwards.
pub(crate) struct Users {
    folder: TempDir,
}

impl Users {
    pub(crate) fn new(users: &[(&str, Role)]) -> Self {
        let new = Self { folder: tempfile::tempdir().unwrap() };
        new.edit(|file| {
            for (name, role) in users {
                file.add_with(name, *role, &password(name), CHEAP).unwrap();
            }
        });
        new
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("users")
    }

    pub(crate) fn edit(&self, edit: impl FnOnce(&mut UsersFile)) {
        let mut file = UsersFile::open(&self.path()).unwrap();
        edit(&mut file);
        file.save().unwrap();
    }

    /// A broker that knows these users and nobody else. Their devices are sent what they subscribe to.
    pub(crate) fn config(&self) -> BrokerConfig {
        BrokerConfig { anonymous: false, users_file: Some(self.path()), autosubscribe: false, ..config() }
    }
}

pub(crate) fn password(user: &str) -> String {
    user.chars().rev().collect()
}

pub(crate) fn outbound(topic: &str, payload: &str) -> (Outbound, oneshot::Receiver<Outcome>) {
    Outbound::new(topic, payload.to_owned())
}

pub(crate) async fn outcome(answer: oneshot::Receiver<Outcome>) -> Outcome {
    soon("an outcome", answer).await.unwrap_or(Outcome::Lost)
}
