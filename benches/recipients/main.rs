//! What the order of each recipient's messages costs: everything for one recipient, where each message may have to wait
//! for the one before, and many recipients of whom some wait for a retry. Simulator, bridge with the embedded broker and
//! BAL are in this one process. The bridge is driven from outside alone: settings, MQTT, the simulator.
//!
//! `cargo bench --bench recipients` runs it; `-- one-token` (`one-topic`, `random-order`) only the row with that in its
//! name, `-- 5000` with another number of messages, `-- dir=/some/disk` with the store elsewhere. It fails when a message
//! is lost.
//!
//! The clock runs from the first publish until the last message has its last status: `delivered` by the device, for a topic
//! `sent`. The bare client sends the same messages by one connection, over CCS as many as the window takes, over v1 one at
//! a time; nothing is refused to it. After a refusal the bridge waits 1 to 1.5 s, by its contract, so that the end of the last
//! row is waiting: it goes several times round its recipients in order to be mostly work.

#[path = "../fcm_v1/bare.rs"]
mod bare;
mod bare_ccs;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod support;

use bytes::Bytes;
use fcm_mqtt_bridge::config::{Fcm, FcmConfig, Settings, TransportSection};
use fcm_mqtt_bridge::sim::SimConfig;
use fcm_mqtt_bridge::sim::config::{CertificateConfig, VirtualDevicesConfig};
use fcm_mqtt_bridge::sim::device::{DevicePatch, Refuse};
use fcm_mqtt_bridge::sim::handle::SimHandle;
use fcm_mqtt_bridge::sim::v1::{V1Config, V1Faults};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rumqttc_v5::{AsyncClient, EventLoop, PublishOptions, QoS};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use support::{Arguments, TEXT, bal, document, per_second, token};
use tokio::time::{Instant, timeout_at};

const RECIPIENTS: usize = 10_000;
/// One message in so many is refused once.
const REFUSED: usize = 10;
const REFUSAL: &str = "SERVICE_UNAVAILABLE";
/// How long the v1 side takes for an answer, in milliseconds.
const LATENCY_MS: u64 = 20;
const TOPIC: &str = "news";
const SEED: u64 = 11;
/// When no message has come to its end for so long, those that are left are lost.
const SILENCE: Duration = Duration::from_secs(30);

fn main() {
    let arguments = Arguments::read("recipients");
    support::block_on(&arguments.folder, measure(&arguments));
}

async fn measure(arguments: &Arguments) {
    let folder = &arguments.folder;
    println!("store in {}, fdatasync {:.2?}", folder.display(), support::fdatasync(folder));
    println!("\n{:<60}{:>10}{:>11}{:>12}{:>14}{:>8}", "", "messages", "seconds", "bridge", "bare client", "ratio");
    for (name, messages, traffic) in [
        ("one token over CCS", 10_000, Traffic::OneToken),
        ("one topic over v1, answers after 20 ms", 1_000, Traffic::OneTopic),
        ("10,000 recipients, random order, every tenth refused once", 5 * RECIPIENTS, Traffic::ManyTokens),
    ] {
        if arguments.wants(name) {
            let pushes = traffic.pushes(arguments.messages.unwrap_or(messages));
            let bare = traffic.with_sim(folder, async |sim| bare(sim, folder, &pushes, traffic).await).await;
            let bridge = traffic.with_sim(folder, async |sim| bridge(sim, folder, &pushes, traffic).await).await;
            let (messages, ratio) = (pushes.len(), bridge / bare);
            let seconds = messages as f64 / bridge;
            println!("{name:<60}{messages:>10}{seconds:>9.2} s{bridge:>9.0} /s{bare:>11.0} /s{ratio:>8.2}");
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    OneToken,
    OneTopic,
    ManyTokens,
}

/// A message.
struct Push {
    target: Target,
    /// Whether the push service refuses the next message to this device.
    refused: bool,
}

enum Target {
    Token(String),
    Topic,
}

impl Traffic {
    fn pushes(self, messages: usize) -> Vec<Push> {
        let to = |target| Push { target, refused: false };
        match self {
            Self::OneToken => (0..messages).map(|_| to(Target::Token(token(0)))).collect(),
            Self::OneTopic => (0..messages).map(|_| to(Target::Topic)).collect(),
            Self::ManyTokens => rounds(messages),
        }
    }

    async fn with_sim(self, folder: &Path, run: impl AsyncFnOnce(&SimHandle) -> f64) -> f64 {
        let faults = V1Faults { latency_ms: LATENCY_MS, ..V1Faults::default() };
        let config = SimConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            control: None,
            certificate: CertificateConfig { directory: Some(folder.join("tls")), ..CertificateConfig::default() },
            devices: VirtualDevicesConfig { records_per_device: 1, ..VirtualDevicesConfig::default() },
            v1: (self == Self::OneTopic).then(|| V1Config { faults, ..V1Config::default() }),
            ..SimConfig::default()
        };
        support::with_sim(config, RECIPIENTS, run).await
    }

    /// The last status of a message.
    fn last(self) -> &'static str {
        if self == Self::OneTopic { "sent" } else { "delivered" }
    }

    fn settings(self, sim: &SimHandle, folder: &Path) -> Settings {
        let Some(v1) = sim.v1() else { return program::over_ccs(sim, folder) };
        let own = FcmConfig {
            credentials_file: v1.credentials_file().map(Path::to_owned),
            base_url: v1.base_url().to_owned(),
            ca_file: Some(folder.join("tls/ca.pem")),
            // No quota: what is measured must not be one.
            quotas: u32::MAX.into(),
            ..FcmConfig::default()
        };
        let transport = TransportSection { default: "fcm-v1".to_owned(), ..TransportSection::default() };
        Settings { transport, fcm: Fcm { own, ..Fcm::default() }, ..Settings::default() }
    }
}

/// Round after round all recipients, each round in an order of its own. Another tenth of them refuses in each round, so
/// that ten rounds refuse no device's messages twice.
fn rounds(messages: usize) -> Vec<Push> {
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(SEED);
    let mut recipients: Vec<usize> = (0..RECIPIENTS).collect();
    let rounds = (0..messages.div_ceil(RECIPIENTS)).flat_map(|round| {
        recipients.shuffle(&mut dice);
        let push = |n: &usize| Push { target: Target::Token(token(*n)), refused: n % REFUSED == round % REFUSED };
        recipients.iter().map(push).collect::<Vec<_>>()
    });
    rounds.take(messages).collect()
}

async fn bare(sim: &SimHandle, folder: &Path, pushes: &[Push], traffic: Traffic) -> f64 {
    let ca_file = folder.join("tls/ca.pem");
    if traffic == Traffic::OneTopic {
        let v1 = sim.v1().expect("the simulator has the v1 side");
        let uri = format!("{}/v1/projects/{}/messages:send", v1.base_url(), v1.project()).parse().expect("a URI");
        let body = json!({ "message": { "topic": TOPIC, "data": { "text": TEXT } } }).to_string();
        let bodies = vec![Bytes::from(body); pushes.len()];
        let authorization = bare::bearer(v1.token_url()).await;
        let errand = bare::Errand { uri, authorization, connections: 1, streams: 1, bodies };
        let client = bare::Client::connect(errand, &ca_file).await;
        return rate(pushes.len(), client.run()).await;
    }
    let stanza = |(n, push): (usize, &Push)| {
        let Target::Token(token) = &push.target else { panic!("over CCS all have a token") };
        let data = json!({ "text": TEXT });
        let id = format!("m{n}");
        bare_ccs::stanza(
            &json!({ "to": token, "message_id": id, "data": data, "priority": "high", "delivery_receipt_requested": true }),
        )
    };
    let stanzas = pushes.iter().enumerate().map(stanza).collect();
    let client = bare_ccs::Client::connect(sim.address(), &ca_file).await;
    rate(pushes.len(), client.run(stanzas)).await
}

/// Messages per second, if `work` does so many.
async fn rate(messages: usize, work: impl Future) -> f64 {
    let start = Instant::now();
    work.await;
    per_second(messages, start)
}

/// The whole way: a BAL over TCP, the broker, the store on disk, the transport; and the statuses back.
async fn bridge(sim: &SimHandle, folder: &Path, pushes: &[Push], traffic: Traffic) -> f64 {
    let work = async |broker: SocketAddr| {
        let (client, mut events) = bal(broker, "client1/others/receipts").await;
        let publishes = publish(&client, sim, pushes);
        let statuses = settle(&mut events, pushes.len(), traffic.last());
        rate(pushes.len(), async { tokio::join!(publishes, statuses) }).await
    };
    let rate = program::run(traffic.settings(sim, folder), folder, work).await;
    let refused = pushes.iter().filter(|push| push.refused).count() as u64;
    let stats = sim.stats();
    assert_eq!(stats.nacks.get(REFUSAL).copied().unwrap_or_default(), refused, "messages refused once");
    rate
}

async fn publish(client: &AsyncClient, sim: &SimHandle, pushes: &[Push]) {
    for (n, push) in pushes.iter().enumerate() {
        let (kind, name) = match &push.target {
            Target::Token(token) => ("token", token.as_str()),
            Target::Topic => ("topic", TOPIC),
        };
        if push.refused {
            let refuse = Some(Refuse { code: REFUSAL.to_owned(), times: 1 });
            sim.put_device(name, DevicePatch { refuse, ..DevicePatch::default() }).expect("a device");
        }
        let body = json!({ "id": format!("m{n}"), kind: name, "data": { "text": TEXT } }).to_string();
        let options = PublishOptions::new(QoS::AtLeastOnce);
        client.publish("client1/self/messages", body, options).await.expect("the event loop is there");
    }
}

/// Until each message has its `last` status.
async fn settle(events: &mut EventLoop, messages: usize, last: &str) {
    let mut settled = vec![false; messages];
    let mut left = messages;
    let mut until = Instant::now() + SILENCE;
    while left > 0 {
        let Ok(status) = timeout_at(until, document(events)).await else { panic!("{left} messages are lost") };
        let Some(status) = status else { continue };
        if status["status"] == last {
            let place = number(&status).and_then(|n| settled.get_mut(n)).expect("an id of ours");
            left -= usize::from(!std::mem::replace(place, true));
            until = Instant::now() + SILENCE;
        } else {
            assert!(status["status"] == "accepted" || status["status"] == "sent", "unexpected: {status}");
        }
    }
}

/// The number in an id.
fn number(status: &Value) -> Option<usize> {
    status["id"].as_str()?.strip_prefix('m')?.parse().ok()
}
