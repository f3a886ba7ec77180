//! The bridge's end of the port, and its log.

use fcm_mqtt_bridge::mqtt::{
    BrokerLink, ClientConfig, ClientError, ClientLimits, Inbound, Outbound, Outcome, Port, Version, port, run,
};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// For anything that a machine under load should have done.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How many messages fit into the bridge's queue.
pub(crate) const QUEUE: usize = 16;

/// Never to be seen in a log.
pub(crate) const BODY: &str = "{\"body\":\"the words of a message\"}";

/// Waits for what must happen.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(DEADLINE, what).await.expect("it happens in time")
}

/// A configuration for `url` that retries quickly.
pub(crate) fn config(url: impl Into<String>, version: Version) -> ClientConfig {
    ClientConfig {
        url: url.into(),
        client_id: "bridge".into(),
        version,
        limits: ClientLimits {
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_millis(200),
            refusal_pause: Duration::from_millis(100),
            reader_probe: Duration::from_millis(50),
            ..ClientLimits::default()
        },
        ..ClientConfig::default()
    }
}

/// The client at work, and the bridge's end of its port.
pub(crate) struct Bridge {
    pub(crate) port: Port,
    stop: CancellationToken,
    client: JoinSet<Result<(), ClientError>>,
}

impl Bridge {
    pub(crate) fn start(config: ClientConfig) -> Self {
        let (port, outlet) = port(QUEUE, QUEUE);
        let stop = CancellationToken::new();
        let mut client = JoinSet::new();
        client.spawn(run(config, outlet, stop.clone()));
        Self { port, stop, client }
    }

    /// Starts it and waits for the open door.
    pub(crate) async fn open(config: ClientConfig) -> Self {
        let mut bridge = Self::start(config);
        bridge.broker_link(BrokerLink::Up).await;
        bridge
    }

    pub(crate) async fn broker_link(&mut self, wanted: BrokerLink) {
        soon(self.port.broker_link.wait_for(|broker_link| *broker_link == wanted)).await.unwrap();
    }

    /// Waits until the operator is told this, or nothing.
    pub(crate) async fn trouble(&mut self, wanted: Option<&str>) {
        let is_told = |told: &Option<String>| match (told, wanted) {
            (Some(told), Some(wanted)) => told.contains(wanted),
            (told, wanted) => told.is_none() && wanted.is_none(),
        };
        soon(self.port.trouble.wait_for(is_told)).await.unwrap();
    }

    pub(crate) async fn inbound(&mut self) -> Inbound {
        soon(self.port.inbound.recv()).await.unwrap()
    }

    pub(crate) async fn publish(&self, topic: &str) -> oneshot::Receiver<Outcome> {
        self.send(topic, BODY, |_| {}).await
    }

    pub(crate) async fn send(
        &self,
        topic: &str,
        payload: &str,
        change: impl FnOnce(&mut Outbound),
    ) -> oneshot::Receiver<Outcome> {
        let (mut outbound, rx) = Outbound::new(topic, payload.to_owned());
        change(&mut outbound);
        soon(self.port.publish.send(outbound)).await.unwrap();
        rx
    }

    /// Asks it to stop, without waiting.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        soon(self.client.join_next()).await.unwrap().unwrap().unwrap();
    }

    /// As a crash: no DISCONNECT.
    pub(crate) async fn crash(mut self) {
        self.client.shutdown().await;
    }
}

/// The outcome; a sender that was dropped says "lost".
pub(crate) async fn outcome(rx: oneshot::Receiver<Outcome>) -> Outcome {
    soon(rx).await.unwrap_or(Outcome::Lost)
}

/// Everything that is logged on this thread, traces included.
#[derive(Clone, Default)]
pub(crate) struct Logs(Arc<(Mutex<String>, Notify)>);

impl Logs {
    pub(crate) fn collect() -> (Self, DefaultGuard) {
        let logs = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(logs.clone())
            .finish();
        // A line that another thread comes to first, where nobody listens, would be taken for one that is never heard.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        (logs, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    /// The lines that have all of `words`.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<String> {
        let text = self.text();
        text.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
    }

    /// Waits for a line that has all of `words`.
    pub(crate) async fn line(&self, words: &[&str]) -> String {
        let find = async {
            loop {
                let written = self.0.1.notified();
                if let Some(line) = self.lines(words).into_iter().next() {
                    return line;
                }
                written.await;
            }
        };
        timeout(DEADLINE, find).await.unwrap_or_else(|_| panic!("no line with {words:?} in:\n{}", self.text()))
    }
}

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        self.0.1.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Logs {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
