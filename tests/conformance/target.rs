//! Rows of the conformance table, and where they run.

use std::any::Any;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use fcm_mqtt_bridge::mqtt::AckWord;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::harness::Harness;
use crate::wire::{Connect, Props, V5, V311};

pub(crate) const BOTH: &[u8] = &[V311, V5];
pub(crate) const ONLY_V5: &[u8] = &[V5];
pub(crate) const ONLY_V311: &[u8] = &[V311];

/// Rows that run at a time. Most of a row is waiting.
const AT_A_TIME: usize = 24;

type Script = dyn Fn(Target) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// One statement of the specification, and what shows that it holds.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    versions: &'static [u8],
    script: Arc<Script>,
}

pub(crate) fn row<F>(
    name: impl Into<String>,
    versions: &'static [u8],
    script: impl Fn(Target) -> F + Send + Sync + 'static,
) -> Row
where
    F: Future<Output = ()> + Send + 'static,
{
    let script = Arc::new(move |target| -> Pin<Box<dyn Future<Output = ()> + Send>> { Box::pin(script(target)) });
    Row { name: name.into(), versions, script }
}

/// A broker to talk to, in one version, with names that nobody else uses.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) version: u8,
    tag: String,
}

impl Target {
    pub(crate) fn new(address: SocketAddr, version: u8, tag: String) -> Self {
        Self { address, version, tag }
    }

    /// A topic or client id of this target's own.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.tag)
    }

    /// A filter of a shared subscription on a topic of this target's own.
    pub(crate) fn share(&self, group: &str, topic: &str) -> String {
        format!("$share/{}{group}/{}", self.tag, self.name(topic))
    }

    pub(crate) fn is_v5(&self) -> bool {
        self.version == V5
    }

    pub(crate) async fn dial(&self) -> Client {
        Client::dial(self.address, self.version).await
    }

    /// Connects without a session.
    pub(crate) async fn client(&self, id: &str) -> Client {
        self.connect(&self.clean(id)).await.0
    }

    /// Connects with the session of before, or a new one that lasts.
    pub(crate) async fn lasting_client(&self, id: &str) -> (Client, bool) {
        let (client, resumed, _) = self.connect(&self.lasting(id)).await;
        (client, resumed)
    }

    pub(crate) async fn connect(&self, connect: &Connect) -> (Client, bool, Props) {
        Client::connect(self.address, self.version, connect).await
    }

    pub(crate) fn clean(&self, id: &str) -> Connect {
        Connect::clean(&self.name(id))
    }

    pub(crate) fn lasting(&self, id: &str) -> Connect {
        Connect::lasting(&self.name(id))
    }

    /// A client of the other version.
    pub(crate) async fn other_version(&self, id: &str) -> Client {
        let version = if self.is_v5() { V311 } else { V5 };
        Client::connect(self.address, version, &self.clean(id)).await.0
    }
}

/// Runs every row in each of its versions, each against a broker of its own. Yields the failures.
pub(crate) async fn run_embedded(rows: Vec<Row>) -> Vec<String> {
    run(rows, |row, version, tag| async move {
        let mut harness = Harness::open().await;
        let target = Target::new(harness.address, version, tag);
        let mut script = JoinSet::new();
        script.spawn((row.script)(target));
        let ended = loop {
            tokio::select! {
                ended = script.join_next() => break ended,
                Some(inbound) = harness.port.inbound.recv() => inbound.ack.release(AckWord::Done),
            }
        };
        let failure = ended.and_then(Result::err).map(|error| reason(error.into_panic()));
        // A broker that lost its mind would not close.
        harness.close().await;
        failure
    })
    .await
}

/// Runs every row against the broker at `address`.
pub(crate) async fn run_at(address: SocketAddr, rows: Vec<Row>) -> Vec<String> {
    run(rows, move |row, version, tag| async move {
        let mut script = JoinSet::new();
        script.spawn((row.script)(Target::new(address, version, tag)));
        script.join_next().await.and_then(Result::err).map(|error| reason(error.into_panic()))
    })
    .await
}

async fn run<F>(rows: Vec<Row>, play: impl Fn(Row, u8, String) -> F) -> Vec<String>
where
    F: Future<Output = Option<String>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let mut tasks = JoinSet::new();
    let played = rows.iter().flat_map(|row| row.versions.iter().map(move |version| (row, *version)));
    for (number, (row, version)) in played.enumerate() {
        let title = format!("{} [{}]", row.name, if version == V5 { "MQTT 5" } else { "MQTT 3.1.1" });
        let (places, play) = (Arc::clone(&places), play(row.clone(), version, format!("r{number}")));
        tasks.spawn(async move {
            let _place = places.acquire().await.unwrap();
            (number, play.await.map(|failure| format!("{title}\n    {failure}")))
        });
    }
    let mut ended: Vec<_> = tasks.join_all().await;
    ended.sort_by_key(|(number, _)| *number);
    ended.into_iter().filter_map(|(_, failure)| failure).collect()
}

fn reason(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
