//! rumqttd as the broker's engine: what it carries, what it forgets, and what happens when it ends. The other clients
//! are mosquitto's, which must be installed.

#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong, its helpers too")]

use fcm_mqtt_bridge::app::{self, Addresses, AppError, Signals};
use fcm_mqtt_bridge::broker::BrokerLimits;
use fcm_mqtt_bridge::config::{BrokerConfig, CcsConfig, Engine as EngineKind, Listen, Loaded, Ops, Routes, Settings};
use fcm_mqtt_bridge::mqtt::{self, AckWord, BrokerLink, ClientConfig, ClientLimits, Outbound, Outcome, Port};
use fcm_mqtt_bridge::rumqttd::{Engine, RumqttdError};
use fcm_mqtt_bridge::secret::Secret;
use fcm_mqtt_bridge::sim::config::CertificateConfig;
use fcm_mqtt_bridge::sim::device::DevicePatch;
use fcm_mqtt_bridge::sim::{self, SimConfig};
use fcm_mqtt_bridge::store;
use serde_json::Value;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// For anything that a machine under load should have done.
const PATIENCE: Duration = Duration::from_secs(30);
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// What mosquitto's clients call the MQTT versions.
const BOTH: [&str; 2] = ["5", "311"];
/// A payload far above the 10 and 20 kB that clients and rumqttd take by default.
const LARGE: usize = 100_000;

#[tokio::test]
async fn messages_go_in_and_out_in_either_version() {
    let mut harness = Harness::open().await;
    for version in BOTH {
        harness.peers.version = version;
        harness.subscribe("bal", "bal/others/#").await;
        // It leaves with properties, which rumqttd by itself would not bring to 3.1.1.
        let large = "x".repeat(LARGE);
        assert_eq!(harness.publish("bal/others/messages", &large).await, Outcome::Confirmed);
        assert_eq!(harness.take("bal", "bal/others/#", 1).await, [large.as_str()]);

        harness.say("bal/self/messages", &large).await;
        let inbound = soon(harness.port.inbound.recv()).await.unwrap();
        assert_eq!((inbound.topic.as_str(), inbound.payload.len()), ("bal/self/messages", LARGE));
        inbound.ack.release(AckWord::Done);
    }
    harness.stop().await.unwrap();
}

#[tokio::test]
async fn what_the_bridge_leaves_unacknowledged_comes_again_on_its_next_connection() {
    let client = ClientLimits { redelivery: Duration::from_millis(50), ..ClientLimits::default() };
    let mut harness = Harness::with(ANYWHERE, &BrokerLimits::default(), client).await;
    harness.say("bal/self/messages", "once more").await;
    drop(soon(harness.port.inbound.recv()).await.unwrap().ack);
    let again = soon(harness.port.inbound.recv()).await.unwrap();
    assert_eq!(again.payload, "once more");
    again.ack.release(AckWord::Done);
    harness.stop().await.unwrap();
}

#[tokio::test]
async fn who_is_away_gets_what_its_session_kept_in_order() {
    let mut harness = Harness::open().await;
    for version in BOTH {
        harness.peers.version = version;
        harness.subscribe(version, "bal/others/#").await;
        for body in ["1", "2", "3"] {
            assert_eq!(harness.publish("bal/others/messages", body).await, Outcome::Confirmed);
        }
        assert_eq!(harness.take(version, "bal/others/#", 3).await, ["1", "2", "3"]);
    }
    harness.stop().await.unwrap();
}

#[tokio::test]
async fn what_nobody_has_subscribed_to_is_confirmed_and_gone() {
    let harness = Harness::open().await;
    assert_eq!(harness.publish("bal/others/messages", "too early").await, Outcome::Confirmed);
    harness.subscribe("bal", "bal/others/#").await;
    harness.publish("bal/others/messages", "in time").await;
    assert_eq!(harness.take("bal", "bal/others/#", 1).await, ["in time"]);
    harness.stop().await.unwrap();
}

#[tokio::test]
async fn beyond_its_bytes_the_oldest_go_first() {
    const SENT: usize = 100;
    let harness = Harness::with(
        ANYWHERE,
        &BrokerLimits { queued_bytes: 20_000, ..BrokerLimits::default() },
        ClientLimits::default(),
    )
    .await;
    harness.subscribe("bal", "bal/others/#").await;
    for n in 0..SENT {
        let body = format!("{n:>500}");
        assert_eq!(harness.publish("bal/others/messages", &body).await, Outcome::Confirmed);
    }
    // The last one ends the wait; how many are before it is rumqttd's affair.
    let mut kept = vec![];
    while kept.last() != Some(&(SENT - 1)) {
        let next = harness.take("bal", "bal/others/#", 1).await;
        kept.push(next[0].trim().parse().unwrap());
    }
    // Each leaves behind what was on its way to it, and may get the last one again.
    kept.dedup();
    assert!(kept.len() < 50, "{} of {SENT} messages of 500 bytes are kept in 20,000 bytes", kept.len());
    assert!(kept.len() > 30 && kept.is_sorted(), "{kept:?}");
    harness.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_frees_the_port_and_the_next_start_knows_nothing() {
    let harness = Harness::open().await;
    let address = harness.address;
    harness.subscribe("bal", "bal/others/#").await;
    harness.publish("bal/others/messages", "before").await;
    harness.stop().await.unwrap();

    let harness = Harness::with(address, &BrokerLimits::default(), ClientLimits::default()).await;
    harness.subscribe("bal", "bal/others/#").await;
    harness.publish("bal/others/messages", "after").await;
    assert_eq!(harness.take("bal", "bal/others/#", 1).await, ["after"]);
    harness.stop().await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_refused_with_its_name() {
    let taken = TcpListener::bind(ANYWHERE).unwrap();
    let address = taken.local_addr().unwrap();
    let refused = Engine::start(address, &BrokerLimits::default()).await.err().unwrap();
    assert!(matches!(&refused, RumqttdError::Listen { listen, .. } if *listen == address), "{refused}");
    assert!(refused.to_string().contains("[broker] listen"), "{refused}");
}

#[tokio::test]
async fn its_limits_are_told_once_and_its_end_is_an_error() {
    let (logs, _guard) = Logs::collect();
    let mut harness = Harness::open().await;
    let warnings = logs.lines("WARN");
    assert!(matches!(&warnings[..], [line] if line.contains("no access rules")), "{warnings:?}");
    assert!(logs.lines("ERROR").is_empty());

    let ended = end_it(&harness.peers, &mut harness.run).await.unwrap_err();
    assert_eq!(ended.to_string(), "rumqttd ended: its router failed");
    assert_eq!(*harness.port.broker_link.borrow(), BrokerLink::Down);
    let errors = logs.lines("ERROR");
    assert!(matches!(&errors[..], [line] if line.contains("rumqttd ended: its router failed")), "{errors:?}");
}

#[tokio::test]
async fn clients_that_it_cannot_stand_are_turned_away_and_do_no_harm() {
    let harness = Harness::open().await;
    for version in BOTH {
        let peers = Peers { version, ..harness.peers };
        for id in ["a/b", "a/b", "a+", "a#", "$a", "$a"] {
            let refused = peers.try_run("mosquitto_pub", &["-i", id, "-t", "t", "-m", "m"]).await;
            assert!(!refused.status.success(), "{id}");
        }
        peers.run("mosquitto_sub", &["-q", "1", "-t", "$share/group/t", "-E"]).await;
    }
    let persistent = b"\x10\x0d\0\x04MQTT\x04\0\0\x3c\0\x01p\x82\x0f\0\x01\0\x0a$share/g/t\x01";
    let mut member = TcpStream::connect(harness.address).await.unwrap();
    member.write_all(persistent).await.unwrap();
    let mut answer = Vec::new();
    soon(member.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"\x20\x02\0\0", "a CONNACK and no SUBACK");
    harness.say("t", "all is well").await;
    harness.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_without_a_will_may_leave_at_any_time() {
    let mut harness = Harness::open().await;
    for _ in 0..200 {
        soon(hasty(harness.address)).await.unwrap();
    }
    // What was sent just before the goodbye counts.
    for version in BOTH {
        harness.peers.version = version;
        harness.run("mosquitto_pub", &["-q", "0", "-t", "bal/self/messages", "-m", "last words"]).await;
        assert_eq!(soon(harness.port.inbound.recv()).await.unwrap().payload, "last words");
    }
    harness.stop().await.unwrap();
}

#[tokio::test]
async fn who_comes_when_it_is_full_may_come_again_later() {
    // The bridge is one of them.
    let harness =
        Harness::with(ANYWHERE, &BrokerLimits { connections: 2, ..BrokerLimits::default() }, ClientLimits::default())
            .await;
    let (first, again) = (connected(harness.address, b'1').await, connected(harness.address, b'1').await);
    assert!(first.is_some() && again.is_none(), "there is room for one");
    for _ in 0..3 {
        assert!(connected(harness.address, b'2').await.is_none());
    }
    drop(first);
    soon(async { while connected(harness.address, b'2').await.is_none() {} }).await;
    harness.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_topic_aliases_is_told_the_right_topics() {
    let harness = Harness::open().await;
    let filter = ["-i", "bal", "-c", "-q", "1", "-t", "bal/others/#", "-D", "connect", "topic-alias-maximum", "9"];
    harness.run("mosquitto_sub", &[&filter[..], &["-E"]].concat()).await;
    // rumqttd sends up to 100 at a time; its aliases are for what comes after the first time.
    let mut sent = String::new();
    for n in 0..110 {
        let topic = ["bal/others/messages", "bal/others/receipts"][n % 2];
        harness.publish(topic, "{}").await;
        sent += &format!("{topic}\n");
    }
    let topics = harness.run("mosquitto_sub", &[&filter[..], &["-C", "110", "-F", "%t"]].concat()).await;
    assert!(topics == sent, "{topics}");
    harness.stop().await.unwrap();
}

/// From a BAL to the push service and back, and then the end.
#[tokio::test]
async fn the_bridge_works_with_it_and_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let sim_config = SimConfig {
        listen: ANYWHERE,
        control: None,
        certificate: CertificateConfig { directory: Some(folder.path().join("tls")), ..CertificateConfig::default() },
        ..SimConfig::default()
    };
    let (sim_stop, (sim_ready, sim)) = (CancellationToken::new(), oneshot::channel());
    let (mut simulator, mut bridge) = (JoinSet::new(), JoinSet::new());
    simulator.spawn(sim::run(sim_config, sim_ready, sim_stop.clone()));
    let sim = soon(sim).await.unwrap();
    sim.put_device("phone-1", DevicePatch::default()).unwrap();

    let (ready, addresses) = oneshot::channel();
    let signals = Signals::stop_only(CancellationToken::new());
    bridge.spawn(app::run(loaded(folder.path(), sim.address()), signals, Some(ready)));
    let Addresses { broker: Some(address), .. } = soon(addresses).await.unwrap() else { panic!("no broker") };
    let bal = Peers { address, version: "5" };
    // It is retained as soon as the bridge has subscribed.
    let status: Value = serde_json::from_str(&bal.take("watcher", "_bridge/status", 1).await[0]).unwrap();
    assert_eq!(status["broker"], "external");

    bal.subscribe("client1", "client1/others/receipts").await;
    bal.say("client1/self/messages", r#"{"id":"a1","token":"phone-1","data":{"hello":"harness"}}"#).await;
    let statuses: Vec<Value> = {
        let documents = bal.take("client1", "client1/others/receipts", 3).await;
        documents.iter().map(|document| serde_json::from_str(document).unwrap()).collect()
    };
    assert!(statuses.iter().all(|status| status["id"] == "a1"), "{statuses:?}");
    let words: Vec<_> = statuses.iter().filter_map(|status| status["status"].as_str()).collect();
    assert_eq!(words, ["accepted", "sent", "delivered"]);

    let ended = end_it(&bal, &mut bridge).await.unwrap_err();
    assert!(matches!(ended, AppError::Rumqttd(RumqttdError::Router)), "{ended}");
    assert!(!ended.is_configuration());
    sim_stop.cancel();
    soon(simulator.join_next()).await.unwrap().unwrap().unwrap();
}

fn loaded(folder: &Path, ccs: SocketAddr) -> Loaded {
    let settings = Settings {
        ccs: CcsConfig {
            host: ccs.ip().to_string(),
            port: ccs.port(),
            sender_id: "1234567890".to_owned(),
            ca_file: Some(folder.join("tls/ca.pem")),
            ..CcsConfig::default()
        },
        broker: BrokerConfig {
            engine: EngineKind::Rumqttd,
            listen: Listen::tcp(ANYWHERE),
            anonymous: true,
            ..BrokerConfig::default()
        },
        store: store::Settings::new(folder.join("bridge.db")),
        routes: Routes { default_bal: Some("client1".to_owned()), ..Routes::default() },
        ops: Ops { listen: ANYWHERE },
        ..Settings::default()
    };
    Loaded { settings, api_key: Some(Secret::new("key")), mqtt_password: None }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it happens in time")
}

/// rumqttd with the bridge's client on it, and the bridge's end of the port.
struct Harness {
    address: SocketAddr,
    port: Port,
    peers: Peers,
    stop: CancellationToken,
    run: JoinSet<Result<(), RumqttdError>>,
}

impl std::ops::Deref for Harness {
    type Target = Peers;

    fn deref(&self) -> &Peers {
        &self.peers
    }
}

impl Harness {
    async fn open() -> Self {
        Self::with(ANYWHERE, &BrokerLimits::default(), ClientLimits::default()).await
    }

    async fn with(listen: SocketAddr, limits: &BrokerLimits, client: ClientLimits) -> Self {
        let engine = Engine::start(listen, limits).await.unwrap();
        let address = engine.address();
        let config = ClientConfig {
            url: format!("mqtt://{address}"),
            client_id: "bridge".into(),
            limits: client,
            ..ClientConfig::default()
        };
        let (mut port, outlet) = mqtt::port(16, 16);
        let stop = CancellationToken::new();
        let mut run = JoinSet::new();
        run.spawn(engine.run(config, outlet, stop.clone()));
        soon(port.broker_link.wait_for(|broker_link| *broker_link == BrokerLink::Up)).await.unwrap();
        Self { address, port, peers: Peers { address, version: "5" }, stop, run }
    }

    async fn publish(&self, topic: &str, body: &str) -> Outcome {
        let (outbound, told) = Outbound::new(topic, body.to_owned());
        soon(self.port.publish.send(outbound)).await.unwrap();
        soon(told).await.unwrap()
    }

    async fn stop(mut self) -> Result<(), RumqttdError> {
        self.stop.cancel();
        soon(self.run.join_next()).await.unwrap().unwrap()
    }
}

/// mosquitto's clients.
struct Peers {
    address: SocketAddr,
    version: &'static str,
}

impl Peers {
    /// Makes a persistent session of `id` that reads `filter`, and leaves.
    async fn subscribe(&self, id: &str, filter: &str) {
        self.run("mosquitto_sub", &["-i", id, "-c", "-q", "1", "-t", filter, "-E"]).await;
    }

    /// Comes back as `id`, and leaves with `count` messages.
    async fn take(&self, id: &str, filter: &str, count: usize) -> Vec<String> {
        let count = count.to_string();
        let text = self.run("mosquitto_sub", &["-i", id, "-c", "-q", "1", "-t", filter, "-C", &count]).await;
        text.lines().map(str::to_owned).collect()
    }

    /// Publishes with QoS 1.
    async fn say(&self, topic: &str, body: &str) {
        self.run("mosquitto_pub", &["-q", "1", "-t", topic, "-m", body]).await;
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.try_run(program, arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn try_run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &self.address.port().to_string(), "-V", self.version]).args(arguments);
        soon(command.kill_on_drop(true).output()).await.expect("mosquitto's clients are installed")
    }
}

/// A connection of the client `id`, if it is let in.
async fn connected(address: SocketAddr, id: u8) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01").await.unwrap();
    stream.write_all(&[id]).await.unwrap();
    let mut connack = [0; 4];
    soon(stream.read_exact(&mut connack)).await.ok().map(|_| stream)
}

/// Does what an ordinary client may do, until it hits: about one goodbye in twenty comes while rumqttd waits for room.
async fn end_it<T: 'static>(peers: &Peers, engine: &mut JoinSet<T>) -> T {
    let address = peers.address;
    let mut writer = JoinSet::new();
    writer.spawn(async move {
        loop {
            _ = hasty(address).await;
        }
    });
    soon(async {
        loop {
            tokio::select! {
                ended = engine.join_next() => return ended.unwrap().unwrap(),
                _ = reader(address) => {}
            }
        }
    })
    .await
}

const WITH_WILL: &[u8] = b"\x10\x13\0\x04MQTT\x04\x06\0\x3c\0\x01r\0\x01w\0\x01m";
const WITHOUT_WILL: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01h";
const SUBSCRIBE: &[u8] = b"\x82\x06\0\x01\0\x01t\0";
const DISCONNECT: &[u8] = b"\xe0\0";

/// Connects, subscribes to a topic, publishes a lot on it, and leaves while all of that is on its way back.
async fn hasty(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(WITHOUT_WILL).await?;
    stream.write_all(SUBSCRIBE).await?;
    stream.write_all(&b"\x30\x04\0\x01tm".repeat(2_000)).await?;
    stream.write_all(DISCONNECT).await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// Connects with a will, subscribes to the same topic, and leaves when some of it has come.
async fn reader(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(WITH_WILL).await?;
    stream.write_all(SUBSCRIBE).await?;
    stream.read_exact(&mut [0; 400]).await?;
    stream.write_all(DISCONNECT).await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// Everything that is logged on this thread; rumqttd's are others.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<String>>);

impl Logs {
    fn collect() -> (Self, tracing::subscriber::DefaultGuard) {
        let logs = Self::default();
        let writer = logs.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        // A line that another thread comes to first, where nobody listens, would be taken for one that is never heard.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        (logs, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self, level: &str) -> Vec<String> {
        let text = self.0.lock().unwrap();
        text.lines().filter(|line| line.split_whitespace().nth(1) == Some(level)).map(str::to_owned).collect()
    }
}

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
