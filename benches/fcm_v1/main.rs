//! How many messages per second the bridge carries by FCM HTTP v1, each on disk before it is acknowledged, beside the
//! transport alone and a bare HTTP/2 client with as many connections and streams on the same simulator: once with a
//! simulator that answers at once, and once with one that takes as long as the real service. Everything is in this one
//! process: simulator, bridge with the embedded broker, and the BAL as an MQTT client over TCP.
//!
//! `cargo bench --bench fcm_v1` runs it; `-- 50000` with another number of messages, `-- dir=/some/disk` with the store
//! elsewhere, `-- alone` only the rows with that word.
//!
//! CPU is the processor time of the whole process for each message. The time from the queue to the request is that from
//! the message's id, which the bridge makes when it takes the message, before its commit, to the simulator's record of
//! its arrival. At full speed that is mostly the time that the message waits in the queue on disk; at a steady pace it is
//! what the bridge needs. The ratio is to the first row.

mod bare;
mod harness;
#[path = "../support/mod.rs"]
mod support;
mod whole;

use bytes::Bytes;
use fcm_mqtt_bridge::chat::delivery::Fate;
use fcm_mqtt_bridge::chat::id::{SidSource, Token};
use fcm_mqtt_bridge::chat::push::{Priority, Push, Target};
use fcm_mqtt_bridge::fcm::request::translate;
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::sim::SimConfig;
use fcm_mqtt_bridge::sim::config::CertificateConfig;
use fcm_mqtt_bridge::sim::handle::SimHandle;
use fcm_mqtt_bridge::sim::v1::config::Quotas as SimQuotas;
use fcm_mqtt_bridge::sim::v1::{V1Config, V1Faults, V1Handle};
use fcm_mqtt_bridge::transport::fcm_v1::{self, FcmConfig, Quotas, encode};
use fcm_mqtt_bridge::transport::{self, Link, Report, Send};
use http::Uri;
use serde_json::Map;
use std::path::Path;
use std::time::Duration;
use support::{Arguments, TEXT, per_second, token};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use whole::Load;

/// More than are open at a time: a device's messages go one after the other.
const DEVICES: usize = 10_000;
const MESSAGES: usize = 30_000;
/// How long the simulator takes for an answer, in milliseconds.
const LATENCIES_MS: [u64; 2] = [0, 100];
/// No quota: what is measured must not be one.
const ENDLESS: u32 = u32::MAX;
const A_DAY_S: u32 = 86_400;

fn main() {
    let arguments = Arguments::read("fcm_v1");
    support::block_on(&arguments.folder, measure(&arguments));
}

async fn measure(arguments: &Arguments) {
    let (folder, messages) = (&arguments.folder, arguments.messages.unwrap_or(MESSAGES));
    let FcmConfig { connections, streams, .. } = FcmConfig::default();
    println!(
        "{messages} messages, {DEVICES} devices, up to {connections} connections of {streams} streams; store in {}, \
         fdatasync {:.2?}",
        folder.display(),
        support::fdatasync(folder)
    );
    for latency_ms in LATENCIES_MS {
        let answers = format!("answers after {latency_ms} ms");
        println!(
            "\n{answers:<24}{:>14}{:>8}{:>9}{:>13}{:>12}{:>9}",
            "messages", "ratio", "CPU", "connections", "queue p50", "p99"
        );
        let mut bare = None;
        for (name, run) in [
            ("bare HTTP/2 client", Run::Bare(messages)),
            ("transport alone", Run::Alone(messages)),
            ("bridge, durable", Run::Bridge(Load::Full(messages))),
            ("  its apps confirming", Run::Bridge(Load::Confirmed(messages))),
            ("  at a steady pace", Run::Bridge(Load::Paced)),
        ] {
            if arguments.wants(name) {
                let row = with_sim(folder, latency_ms, run).await;
                println!("{name:<24}{}", row.line(*bare.get_or_insert(row.rate)));
            }
        }
    }
}

/// What is measured.
enum Run {
    Bare(usize),
    Alone(usize),
    Bridge(Load),
}

/// Runs while something is measured.
struct Meter {
    start: Instant,
    cpu: Option<Duration>,
}

impl Meter {
    fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu() }
    }

    fn stop(self, sim: &SimHandle, messages: usize) -> Row {
        let rate = per_second(messages, self.start);
        let cpu = cpu().zip(self.cpu).map(|(end, start)| end.saturating_sub(start) / messages as u32);
        Row { rate, cpu, connections: side(sim).stats().connections, waits_ms: None }
    }
}

/// The processor time that this process has used, of all its threads; only Linux says.
fn cpu() -> Option<Duration> {
    /// The unit of the kernel's counts for user space.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold blanks; behind it are the state and ten more fields before these two.
    let (_, fields) = stat.rsplit_once(')')?;
    let used: u32 = fields.split_whitespace().skip(11).take(2).map_while(|field| field.parse::<u32>().ok()).sum();
    Some(TICK * used)
}

/// What came out of one measurement.
struct Row {
    rate: f64,
    /// Of the whole process, for each message.
    cpu: Option<Duration>,
    connections: u64,
    waits_ms: Option<(u64, u64)>,
}

impl Row {
    fn line(&self, bare: f64) -> String {
        let cpu = self.cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{} \u{b5}s", cpu.as_micros()));
        let waits = self.waits_ms.map_or_else(String::new, |(p50, p99)| format!("{p50:>9} ms{p99:>6} ms"));
        format!("{:>11.0} /s{:>8.2}{cpu:>9}{:>13}{waits}", self.rate, self.rate / bare, self.connections)
    }
}

async fn with_sim(folder: &Path, latency_ms: u64, run: Run) -> Row {
    let endless = u64::from(ENDLESS);
    let quotas = SimQuotas {
        project_per_minute: endless,
        device_per_minute: endless,
        device_per_hour: endless,
        ..SimQuotas::default()
    };
    let v1 = V1Config { quotas, faults: V1Faults { latency_ms, ..V1Faults::default() }, ..V1Config::default() };
    let config = SimConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        control: None,
        certificate: CertificateConfig { directory: Some(folder.join("tls")), ..CertificateConfig::default() },
        v1: Some(v1),
        ..SimConfig::default()
    };
    let measure = async |sim: &SimHandle| match run {
        Run::Bare(messages) => bare(sim, folder, messages).await,
        Run::Alone(messages) => alone(sim, folder, messages).await,
        Run::Bridge(load) => whole::run(sim, folder, load).await,
    };
    support::with_sim(config, DEVICES, measure).await
}

fn side(sim: &SimHandle) -> V1Handle {
    sim.v1().expect("the simulator has the v1 side")
}

fn transport(sim: &SimHandle, folder: &Path) -> FcmConfig {
    let v1 = side(sim);
    let endless = Quotas { project_per_minute: ENDLESS, device_per_minute: ENDLESS, device_per_hour: ENDLESS };
    FcmConfig {
        base_url: v1.base_url().to_owned(),
        ca_file: Some(folder.join("tls/ca.pem")),
        quotas: endless,
        credentials_file: v1.credentials_file().map(Path::to_owned),
        ..FcmConfig::default()
    }
}

fn send(sids: &mut SidSource, n: usize) -> Send {
    let push = Push {
        target: Target::Token(Token::new(token(n % DEVICES)).expect("a token")),
        data: Map::from_iter([("text".to_owned(), TEXT.into())]),
        notification: None,
        priority: Priority::High,
        collapse: None,
        receipt: false,
        fcm: Map::new(),
    };
    let (sid, recipient) = (sids.next(now_ms(), 1), push.target.recipient());
    let accepted_ms = now_ms();
    Send { sid, push, recipient, accepted_ms, deadline_ms: accepted_ms + 1_000 * u64::from(A_DAY_S) }
}

async fn bare(sim: &SimHandle, folder: &Path, messages: usize) -> Row {
    let config = transport(sim, folder);
    let v1 = side(sim);
    let mut sids = SidSource::default();
    let bodies = (0..messages).map(|n| {
        let Send { sid, push, .. } = send(&mut sids, n);
        let message = encode::message(&push, sid.to_string(), A_DAY_S, None).expect("a good message");
        Bytes::from(translate(message, now_ms() / 1_000).expect("a good message").body)
    });
    let uri: Uri = format!("{}/v1/projects/{}/messages:send", v1.base_url(), v1.project()).parse().expect("a URI");
    let (connections, streams) = (config.connections, config.streams);
    let errand = bare::Errand {
        uri,
        authorization: bare::bearer(v1.token_url()).await,
        connections,
        streams,
        bodies: bodies.collect(),
    };
    let client = bare::Client::connect(errand, &folder.join("tls/ca.pem")).await;
    let meter = Meter::start();
    client.run().await;
    meter.stop(sim, messages)
}

/// The transport with its port: no broker, no store.
async fn alone(sim: &SimHandle, folder: &Path, messages: usize) -> Row {
    let mut sids = SidSource::default();
    let sends: Vec<Send> = (0..messages).map(|n| send(&mut sids, n)).collect();
    let (mut port, outlet) = transport::port(64, 1, 1_024);
    let stop = CancellationToken::new();
    let running = fcm_v1::run(transport(sim, folder), outlet, stop.clone());
    let work = async {
        port.link.wait_for(|link| *link == Link::Up).await.expect("the transport runs");
        let meter = Meter::start();
        let outgoing = port.sends.clone();
        let sends = async {
            for send in sends {
                outgoing.send(send).await.expect("the transport runs");
            }
        };
        let answers = async {
            let mut accepted = 0;
            while accepted < messages {
                match port.reports.recv().await.expect("the transport runs") {
                    Report::Back { fate: Fate::Accepted { .. }, .. } => accepted += 1,
                    Report::Connection { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::join!(sends, answers);
        let row = meter.stop(sim, messages);
        stop.cancel();
        row
    };
    let (ended, row) = tokio::join!(running, work);
    ended.expect("the transport ends well");
    row
}
