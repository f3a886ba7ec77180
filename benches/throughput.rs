//! How many messages per second the bridge carries, each on disk before it is acknowledged, beside what a bare
//! pipelined CCS client reaches on the same simulator in the same run. Everything is in this one process: simulator,
//! bridge with the embedded broker, and the BAL as an MQTT client over TCP.
//!
//! `cargo bench --bench throughput` runs it; `-- 50000` with another number of messages, `-- dir=/some/disk` with the store
//! elsewhere, `-- upstream` only the row with that word.

mod support;

#[path = "support/program.rs"]
mod program;

use fcm_mqtt_bridge::chat::delivery::Fate;
use fcm_mqtt_bridge::chat::id::{SidSource, Token};
use fcm_mqtt_bridge::chat::push::{Priority, Push, Target};
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::secret::Secret;
use fcm_mqtt_bridge::sim::SimConfig;
use fcm_mqtt_bridge::sim::config::{CertificateConfig, VirtualDevicesConfig};
use fcm_mqtt_bridge::sim::handle::{SimHandle, Speech};
use fcm_mqtt_bridge::transport::{self, DeviceMessage, Report, ccs};
use rumqttc_v5::{PublishOptions, QoS};
use serde_json::{Map, json};
use std::net::SocketAddr;
use std::path::Path;
use support::{Arguments, TEXT, bal, document, per_second};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const DEVICES: usize = 1_000;
const MESSAGES: usize = 20_000;

fn main() {
    let arguments = Arguments::read("throughput");
    support::block_on(&arguments.folder, measure(&arguments));
}

async fn measure(arguments: &Arguments) {
    let (folder, messages) = (&arguments.folder, arguments.messages.unwrap_or(MESSAGES));
    println!(
        "{messages} messages each way, {DEVICES} devices, window 100, one connection; store in {}, fdatasync {:.2?}",
        folder.display(),
        support::fdatasync(folder)
    );
    println!("\n{:<12}{:>21}{:>21}{:>8}", "", "bridge, durable", "bare CCS client", "ratio");
    for (name, way) in [("downstream", Way::Down), ("upstream", Way::Up)] {
        if arguments.wants(name) {
            let bare = with_sim(folder, async |sim| bare(sim, folder, messages, way).await).await;
            let bridge = with_sim(folder, async |sim| bridge(sim, folder, messages, way).await).await;
            println!("{name:<12}{bridge:>18.0} /s{bare:>18.0} /s{:>8.2}", bridge / bare);
        }
    }
}

#[derive(Clone, Copy)]
enum Way {
    Down,
    Up,
}

async fn with_sim(folder: &Path, run: impl AsyncFnOnce(&SimHandle) -> f64) -> f64 {
    let config = SimConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        control: None,
        certificate: CertificateConfig { directory: Some(folder.join("tls")), ..CertificateConfig::default() },
        devices: VirtualDevicesConfig { records_per_device: 1, ..VirtualDevicesConfig::default() },
        ..SimConfig::default()
    };
    support::with_sim(config, DEVICES, run).await
}

fn token(n: usize) -> String {
    support::token(n % DEVICES)
}

/// The transport alone: no broker, no store.
async fn bare(sim: &SimHandle, folder: &Path, messages: usize, way: Way) -> f64 {
    let config = ccs::CcsConfig {
        host: sim.address().ip().to_string(),
        port: sim.address().port(),
        ca_file: Some(folder.join("tls/ca.pem")),
        ..ccs::CcsConfig::new(program::SENDER, Secret::new("key"))
    };
    let (mut port, outlet) = transport::port(256, 1_024, 1_024);
    let stop = CancellationToken::new();
    let client = ccs::run(config, outlet, stop.clone());
    let work = async {
        port.link.wait_for(|link| *link == transport::Link::Up).await.expect("the client runs");
        let start = Instant::now();
        match way {
            Way::Down => bare_downstream(&mut port, messages).await,
            Way::Up => {
                speak(sim, messages);
                let mut got = 0;
                while got < messages {
                    match port.device_messages.recv().await.expect("the client runs") {
                        DeviceMessage::Upstream(upstream) => {
                            got += 1;
                            port.acks.send(upstream.ack_ref).await.expect("the client runs");
                        }
                        other => panic!("unexpected: {other:?}"),
                    }
                }
            }
        }
        let rate = per_second(messages, start);
        stop.cancel();
        drop(port);
        rate
    };
    let (ended, rate) = tokio::join!(client, work);
    ended.expect("the client ends well");
    rate
}

async fn bare_downstream(port: &mut transport::Port, messages: usize) {
    let outgoing = port.sends.clone();
    let sends = async {
        let mut sids = SidSource::default();
        for n in 0..messages {
            let push = Push {
                target: Target::Token(Token::new(token(n)).expect("a token")),
                data: Map::from_iter([("text".to_owned(), TEXT.into())]),
                notification: None,
                priority: Priority::High,
                collapse: None,
                receipt: true,
                fcm: Map::new(),
            };
            let (sid, recipient) = (sids.next(now_ms(), 1), push.target.recipient());
            let accepted_ms = now_ms();
            let send = transport::Send { sid, push, recipient, accepted_ms, deadline_ms: accepted_ms + 1_000_000 };
            outgoing.send(send).await.expect("the client runs");
        }
    };
    let answers = async {
        let (mut accepted, mut receipts) = (0, 0);
        while accepted < messages || receipts < messages {
            match port.reports.recv().await.expect("the client runs") {
                Report::Back { fate: Fate::Accepted { .. }, .. } => accepted += 1,
                Report::Receipt { ack_ref: tag, .. } => {
                    receipts += 1;
                    port.acks.send(tag).await.expect("the client runs");
                }
                Report::Connection { .. } => {}
                other => panic!("unexpected: {other:?}"),
            }
        }
    };
    tokio::join!(sends, answers);
}

/// All devices send their share at once.
fn speak(sim: &SimHandle, messages: usize) {
    for n in 0..DEVICES {
        let count = messages / DEVICES + usize::from(n < messages % DEVICES);
        let data = json!({ "text": TEXT });
        let speech = Speech { category: Some("com.example.chat".to_owned()), data, count, message_id: None };
        sim.upstream(&token(n), &speech).expect("a device speaks");
    }
}

/// The whole way: a BAL over TCP, the broker, the store on disk, the transport.
async fn bridge(sim: &SimHandle, folder: &Path, messages: usize, way: Way) -> f64 {
    let work = async |broker: SocketAddr| match way {
        Way::Down => bridge_downstream(broker, messages).await,
        Way::Up => bridge_upstream(broker, sim, messages).await,
    };
    program::run(program::over_ccs(sim, folder), folder, work).await
}

async fn bridge_downstream(broker: SocketAddr, messages: usize) -> f64 {
    let (client, mut events) = bal(broker, "client1/others/receipts").await;
    let start = Instant::now();
    let publishes = async {
        for n in 0..messages {
            let body = json!({ "id": format!("m{n}"), "token": token(n), "data": { "text": TEXT } }).to_string();
            let options = PublishOptions::new(QoS::AtLeastOnce);
            client.publish("client1/self/messages", body, options).await.expect("the event loop is there");
        }
    };
    let statuses = async {
        let mut delivered = 0;
        while delivered < messages {
            let status = document(&mut events).await;
            delivered += usize::from(status.is_some_and(|status| status["status"] == "delivered"));
        }
    };
    tokio::join!(publishes, statuses);
    per_second(messages, start)
}

async fn bridge_upstream(broker: SocketAddr, sim: &SimHandle, messages: usize) -> f64 {
    let (_client, mut events) = bal(broker, "client1/others/messages").await;
    let start = Instant::now();
    speak(sim, messages);
    let mut got = 0;
    while got < messages {
        got += usize::from(document(&mut events).await.is_some());
    }
    per_second(messages, start)
}
