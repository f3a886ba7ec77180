//! A running broker, and the bridge's end of its port.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fcm_mqtt_bridge::broker::identity::users::{Cost, UsersFile};
use fcm_mqtt_bridge::broker::{Bound, Broker, BrokerConfig, BrokerError, BrokerLimits, Listen, Surroundings};
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::mqtt::{self, AckWord, BrokerLink, Inbound, Outbound, Outcome, Port};
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::ops::metrics::Metrics;
use fcm_mqtt_bridge::store::Store;
use fcm_mqtt_bridge::store::sqlite::{self, Settings, WriterThread};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// As little work as Argon2 allows: tests are about who gets in, not how long it takes.
pub(crate) const CHEAP: Cost = Cost { memory_kib: 8, rounds: 1 };

/// A test that waits longer than this has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
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
    _folder: TempDir,
}

pub(crate) fn config() -> BrokerConfig {
    BrokerConfig {
        listen: Listen::tcp(([127, 0, 0, 1], 0).into()),
        anonymous: true,
        core: std::env::var_os("BROKER_CORE").is_some(),
        ..BrokerConfig::default()
    }
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

impl World {
    pub(crate) async fn open() -> Self {
        Self::with(BrokerLimits::default()).await
    }

    pub(crate) async fn with(limits: BrokerLimits) -> Self {
        Self::bind(BrokerConfig { limits, ..config() }).await
    }

    pub(crate) async fn bind(config: BrokerConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = config.data.as_deref().unwrap_or(folder.path()).join("bridge.db");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let (store, writer, _) = sqlite::open(&Settings::new(path), now_ms()).unwrap();
        let broker = Broker::bind(config).await.unwrap();
        let bound = broker.addresses();
        let address = bound.tcp.expect("a TCP listener");
        let (mut port, outlet) = mqtt::port(256, 64);
        drop(std::mem::replace(&mut port.former, tokio::sync::mpsc::channel(1).0));
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let metrics = Arc::new(Metrics::new());
        let (reload, reloaded) = watch::channel(0);
        let surroundings = Surroundings {
            metrics: Arc::clone(&metrics),
            mark_copy: None,
            reload: reloaded,
            store: Some(store.clone()),
            told: |_, _| (),
        };
        tasks.spawn(broker.run(outlet, surroundings, stop.clone()));
        soon("the door", port.broker_link.wait_for(|broker_link| *broker_link == BrokerLink::Up)).await.unwrap();
        Self { address, bound, port, metrics, reload, stop, broker: tasks, store, writer, _folder: folder }
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

    /// Publishes as the bridge, at QoS 1.
    pub(crate) async fn publish(&self, topic: &str, payload: &str) -> oneshot::Receiver<Outcome> {
        let (message, outcome) = outbound(topic, payload);
        self.send(message).await;
        outcome
    }

    pub(crate) async fn send(&self, message: Outbound) {
        soon("room for a publication", self.port.publish.send(message)).await.expect("the broker is gone");
    }

    /// Publishes until somebody reads the topic.
    pub(crate) async fn publish_to_reader(&mut self, topic: &str, payload: &str) -> oneshot::Receiver<Outcome> {
        loop {
            self.port.readers.borrow_and_update();
            let mut answer = self.publish(topic, payload).await;
            self.barrier().await;
            match answer.try_recv() {
                Err(_on_its_way) => return answer,
                Ok(Outcome::NoReader) => soon("a reader", self.port.readers.changed()).await.unwrap(),
                Ok(failure @ (Outcome::Lost | Outcome::Unsent | Outcome::Kept)) => panic!("{failure:?} at once"),
                Ok(Outcome::Confirmed) => {
                    let (tx, rx) = oneshot::channel();
                    tx.send(Outcome::Confirmed).unwrap();
                    return rx;
                }
            }
        }
    }

    /// Returns when the broker has dealt with all publications before.
    pub(crate) async fn barrier(&self) {
        let answer = self.publish("nobody/others/messages", "").await;
        assert_eq!(outcome(answer).await, Outcome::NoReader);
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

    /// A broker that knows these users and nobody else.
    pub(crate) fn config(&self) -> BrokerConfig {
        BrokerConfig { anonymous: false, users_file: Some(self.path()), ..config() }
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
