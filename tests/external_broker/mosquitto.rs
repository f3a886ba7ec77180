//! A mosquitto of a test's own, and another client of it.

use crate::harness::{DEADLINE, soon};
use rumqttc_v5::mqttbytes::v5::{Packet, PubAckReason, Publish};
use rumqttc_v5::{AsyncClient, Event, MqttOptions, PublishOptions, PublishResult, QoS};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command as Sync, Stdio};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Others may take a free port before mosquitto does.
const ATTEMPTS: usize = 5;

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) struct Mosquitto {
    pub(crate) dir: TempDir,
    pub(crate) port: u16,
    child: Child,
    /// Reads its log, so that the pipe never fills.
    reader: JoinSet<()>,
    lines: mpsc::Receiver<String>,
}

impl Mosquitto {
    /// Starts it with an open listener.
    pub(crate) async fn start() -> Self {
        Self::with(|port, _| format!("listener {port} 127.0.0.1\nallow_anonymous true\n")).await
    }

    /// Starts it with a configuration made for a port and a folder.
    pub(crate) async fn with(config: impl Fn(u16, &Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..ATTEMPTS {
            let port = free_port();
            let persistence = format!(
                "persistence true\npersistence_location {}/\nautosave_on_changes true\nautosave_interval 1\n",
                dir.path().display()
            );
            // Root would become another user, who may not write here.
            let text = format!("user root\nlog_type all\n{persistence}{}", config(port, dir.path()));
            std::fs::write(dir.path().join("mosquitto.conf"), text).unwrap();
            if let Some((child, reader, lines)) = launch(dir.path()).await {
                return Self { dir, port, child, reader, lines };
            }
        }
        panic!("mosquitto does not start; it must be installed for this test");
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Waits until it logs a line that has `words`.
    pub(crate) async fn logged(&mut self, words: &str) {
        let find = async { while !self.lines.recv().await.expect("it runs").contains(words) {} };
        timeout(DEADLINE, find).await.unwrap_or_else(|_| panic!("mosquitto never logged `{words}`"));
    }

    /// It neither reads nor answers from now on, but its sockets stay.
    pub(crate) fn freeze(&self) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(Sync::new("kill").args(["-s", "STOP", &pid]).status().unwrap().success());
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again, on its port and with what it had on disk.
    pub(crate) async fn restart(&mut self) {
        (self.child, self.reader, self.lines) = launch(self.dir.path()).await.expect("the port is still free");
    }
}

async fn launch(dir: &Path) -> Option<(Child, JoinSet<()>, mpsc::Receiver<String>)> {
    let mut child = Command::new("mosquitto")
        .arg("-c")
        .arg(dir.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("mosquitto is installed");
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let (tx, mut lines) = mpsc::channel(10_000);
    let mut reader = JoinSet::new();
    reader.spawn(async move {
        while let Ok(Some(line)) = log.next_line().await {
            _ = tx.try_send(line);
        }
    });
    loop {
        if soon(lines.recv()).await?.ends_with("running") {
            return Some((child, reader, lines));
        }
    }
}

/// Somebody else who is connected to the same broker.
pub(crate) struct Peer {
    client: AsyncClient,
    messages: mpsc::Receiver<Publish>,
    _events: JoinSet<()>,
}

impl Peer {
    /// Connects as `id`, with the session it had before.
    pub(crate) async fn connect(broker: &Mosquitto, id: &str) -> Self {
        let mut options = MqttOptions::new(id, ("127.0.0.1", broker.port));
        options.set_clean_start(true).set_session_expiry_interval(Some(3_600));
        let (client, mut events) = AsyncClient::builder(options).capacity(100).build();
        let (tx, messages) = mpsc::channel(1_000);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => tx.send(publish).await.unwrap(),
                    Ok(_) => {}
                    // Only tests that stop the broker see one; their peers are done by then.
                    Err(_) => return,
                }
            }
        });
        Self { client, messages, _events: task }
    }

    pub(crate) async fn subscribe(&self, filter: &str) {
        let notice = self.client.subscribe_tracked(filter, QoS::AtLeastOnce).await.unwrap();
        soon(notice.wait_completion_async()).await.unwrap();
    }

    /// Publishes with QoS 1 and waits for the PUBACK.
    pub(crate) async fn publish(&self, topic: &str, payload: &str) {
        self.publish_with(topic, payload, PublishOptions::at_least_once()).await;
    }

    pub(crate) async fn publish_with(&self, topic: &str, payload: &str, options: PublishOptions) {
        let notice = self.client.publish_tracked(topic, payload, options).await.unwrap();
        match soon(notice.wait_async()).await.unwrap() {
            PublishResult::Qos1(ack) => {
                assert!(matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers));
            }
            result => assert_eq!(result, PublishResult::Qos0Flushed),
        }
    }

    pub(crate) async fn next(&mut self) -> Publish {
        soon(self.messages.recv()).await.expect("the peer is connected")
    }
}
