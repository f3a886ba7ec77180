//! What one message costs at a steady pace: how long it takes from its publish to the push service, how many transactions
//! and how much processor time, with its three statuses read by its sender. Beside it a bare program in the same run: one
//! round trip over loopback with one `fdatasync` in it, at the same pace.
//!
//! At last both ways at full speed, without the bare program: what the bridge's own process needs there.
//!
//! The bridge is a process of its own: `cargo bench --bench pace -- bridge=target/release/fcm-mqtt-bridge`; `-- dir=/some/disk`
//! puts its store elsewhere, `-- pace-50` takes one pace. Several `bridge=` are measured one after the other, with the bare program before each.

mod support;

use anyhow::{Context, Result, ensure};
use fcm_mqtt_bridge::sim::SimConfig;
use fcm_mqtt_bridge::sim::config::CertificateConfig;
use fcm_mqtt_bridge::sim::event::SimEvent;
use fcm_mqtt_bridge::sim::handle::{SimHandle, Speech};
use rumqttc_v5::{AsyncClient, EventLoop, PublishOptions, QoS};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Arguments, TEXT, bal, document, per_second, token};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// Messages per second, and for how many seconds.
const PACES: [(u32, u32); 2] = [(50, 20), (500, 10)];
/// Messages at full speed, each way.
const MESSAGES: u32 = 40_000;
/// The sender id of the CCS session.
const SENDER: &str = "1234567890";
const DEVICES: usize = 1_000;
/// What is not measured: connections and caches become as they stay.
const WARM_UP: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(20);

fn main() {
    let bridges: Vec<_> =
        std::env::args().filter_map(|argument| Some(argument.strip_prefix("bridge=")?.into())).collect();
    let arguments = Arguments::read("pace");
    support::block_on(&arguments.folder, async {
        measure(&bridges, &arguments).await.expect("all of it can be measured");
    });
}

async fn measure(bridges: &[PathBuf], arguments: &Arguments) -> Result<()> {
    let folder = &arguments.folder;
    ensure!(!bridges.is_empty(), "bridge=PATH says which program to measure");
    println!("store in {}, fdatasync {:.2?}", folder.display(), support::fdatasync(folder));
    println!("\n{:<44}{:>9}{:>9}{:>9}{:>14}{:>14}", "", "pace /s", "p50 ms", "p99 ms", "transactions", "processor ms");
    for (pace, seconds) in PACES.into_iter().filter(|(pace, _)| arguments.wants(&format!("pace {pace}"))) {
        for bridge in bridges {
            let bare = bare(folder, pace, seconds)?;
            println!("{:<44}{pace:>9}{:>9.2}{:>9.2}{:>14.2}", "bare: fdatasync and round trip", bare.0, bare.1, 1.0);
            let row = support::with_sim(sim_config(folder), DEVICES, async |sim| {
                one(sim, folder, bridge, pace, seconds).await
            })
            .await?;
            println!(
                "{:<44}{pace:>9}{:>9.2}{:>9.2}{:>14.2}{:>14.3}   p50 {:.2} of the bare program's, {:.0} /s",
                bridge.display(),
                row.p50,
                row.p99,
                row.transactions,
                row.processor_ms,
                row.p50 / bare.0,
                row.rate
            );
        }
    }
    for (way, is_down) in
        [("down", true), ("up", false)].into_iter().filter(|(way, _)| arguments.wants(&format!("full {way}")))
    {
        for bridge in bridges {
            let row =
                support::with_sim(sim_config(folder), DEVICES, async |sim| full(sim, folder, bridge, is_down).await)
                    .await?;
            println!(
                "{:<44}{way:>9}{:>9}{:>9}{:>14.4}{:>14.4}   {:.0} /s",
                bridge.display(),
                "",
                "",
                row.transactions,
                row.processor_ms,
                row.rate
            );
        }
    }
    Ok(())
}

/// Of each message.
struct Row {
    p50: f64,
    p99: f64,
    transactions: f64,
    processor_ms: f64,
    /// The pace that was reached.
    rate: f64,
}

async fn one(sim: &SimHandle, folder: &Path, bridge: &Path, pace: u32, seconds: u32) -> Result<Row> {
    let process = Process::start(sim, folder, bridge)?;
    let mut arrivals = sim.events();
    process.wait_until_ready().await?;
    let (client, mut events) = bal(process.broker, "client1/others/receipts").await;
    round(&client, &mut events, 0..WARM_UP, pace).await;
    while arrivals.try_recv().is_ok() {}
    let (processor, transactions) = (process.processor()?, process.transactions()?);
    let (count, start) = (pace * seconds, Instant::now());
    let arrived = async {
        let mut at = Vec::new();
        while at.len() < count as usize {
            if let SimEvent::Accepted { .. } = arrivals.recv().await? {
                at.push(Instant::now());
            }
        }
        anyhow::Ok(at)
    };
    let (sent, arrived) = tokio::join!(round(&client, &mut events, WARM_UP..WARM_UP + count, pace), arrived);
    let rate = per_second(count as usize, start);
    let waits = sent.iter().zip(arrived?).map(|(sent, arrived)| arrived - *sent).collect();
    let (p50, p99) = percentiles(waits);
    let each = |total: f64| total / f64::from(count);
    Ok(Row {
        rate,
        p50,
        p99,
        transactions: each(process.transactions()? - transactions),
        processor_ms: each((process.processor()? - processor).as_secs_f64() * 1_000.0),
    })
}

/// One way at full speed.
async fn full(sim: &SimHandle, folder: &Path, bridge: &Path, is_down: bool) -> Result<Row> {
    let process = Process::start(sim, folder, bridge)?;
    process.wait_until_ready().await?;
    let topic = if is_down { "client1/others/receipts" } else { "client1/others/messages" };
    let (client, mut events) = bal(process.broker, topic).await;
    let (processor, transactions) = (process.processor()?, process.transactions()?);
    let start = Instant::now();
    if is_down {
        round(&client, &mut events, 0..MESSAGES, MESSAGES * 100).await;
    } else {
        for n in 0..DEVICES {
            let (data, count) = (json!({ "text": TEXT }), MESSAGES as usize / DEVICES);
            let speech = Speech { category: Some("com.example.chat".to_owned()), data, count, message_id: None };
            sim.upstream(&token(n), &speech)?;
        }
        let mut got = 0;
        while got < MESSAGES {
            got += u32::from(document(&mut events).await.is_some());
        }
    }
    let rate = per_second(MESSAGES as usize, start);
    let each = |total: f64| total / f64::from(MESSAGES);
    Ok(Row {
        rate,
        p50: 0.0,
        p99: 0.0,
        transactions: each(process.transactions()? - transactions),
        processor_ms: each((process.processor()? - processor).as_secs_f64() * 1_000.0),
    })
}

fn sim_config(folder: &Path) -> SimConfig {
    SimConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        control: None,
        certificate: CertificateConfig { directory: Some(folder.join("tls")), ..CertificateConfig::default() },
        ..SimConfig::default()
    }
}

/// Publishes at the pace, and reads until each is delivered. Returns when each was published.
async fn round(
    client: &AsyncClient,
    events: &mut EventLoop,
    messages: std::ops::Range<u32>,
    pace: u32,
) -> Vec<Instant> {
    let publishes = async {
        let mut ticks = interval(Duration::from_secs(1) / pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut at = Vec::new();
        for n in messages.clone() {
            ticks.tick().await;
            let to = token(n as usize % DEVICES);
            let body = json!({ "id": format!("m{n}"), "token": to, "data": { "text": TEXT } }).to_string();
            at.push(Instant::now());
            let options = PublishOptions::new(QoS::AtLeastOnce);
            client.publish("client1/self/messages", body, options).await.expect("the event loop is there");
        }
        at
    };
    let statuses = async {
        let mut delivered = 0;
        while delivered < messages.len() {
            let status = document(events).await;
            delivered += usize::from(status.is_some_and(|status| status["status"] == "delivered"));
        }
    };
    tokio::join!(publishes, statuses).0
}

/// In milliseconds: the median and the 99th percentile.
fn percentiles(mut waits: Vec<Duration>) -> (f64, f64) {
    waits.sort_unstable();
    let part = |percent: usize| waits[waits.len() * percent / 100].as_secs_f64() * 1_000.0;
    (part(50), part(99))
}

/// A client and a server that puts what it gets on the disk before it answers.
fn bare(folder: &Path, pace: u32, seconds: u32) -> Result<(f64, f64)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let mut file = fs::File::create(folder.join("bare"))?;
    let server = std::thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut message = [0; 256];
        while stream.read_exact(&mut message).is_ok() {
            file.write_all(&message)?;
            file.sync_data()?;
            stream.write_all(&[1])?;
        }
        Ok(())
    });
    let mut client = TcpStream::connect(address)?;
    client.set_nodelay(true)?;
    let (mut waits, start) = (Vec::new(), Instant::now());
    for n in 0..pace * seconds {
        let due = Duration::from_secs(1) / pace * n;
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        let sent = Instant::now();
        client.write_all(&[0; 256])?;
        client.read_exact(&mut [0])?;
        waits.push(sent.elapsed());
    }
    drop(client);
    server.join().expect("the server ends")?;
    Ok(percentiles(waits))
}

/// The bridge, until it is dropped.
struct Process {
    child: Child,
    broker: SocketAddr,
    ops: SocketAddr,
}

impl Process {
    fn start(sim: &SimHandle, folder: &Path, bridge: &Path) -> Result<Self> {
        let folder = folder.join("bridge");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let free = || TcpListener::bind(("127.0.0.1", 0))?.local_addr();
        let (broker, ops) = (free()?, free()?);
        let config = folder.join("bridge.toml");
        let text = format!(
            "[ccs]\nhost = \"{}\"\nport = {}\nsender_id = \"{}\"\napi_key = \"key\"\nca_file = {:?}\n\
             [broker]\nlisten = \"{broker}\"\nanonymous = true\n[store]\npath = {:?}\n\
             [ops]\nlisten = \"{ops}\"\n[log]\nlevel = \"error\"\n[routes]\ndefault_bal = \"client1\"\n",
            sim.address().ip(),
            sim.address().port(),
            SENDER,
            folder.with_file_name("tls").join("ca.pem"),
            folder.join("bridge.db"),
        );
        fs::write(&config, text)?;
        let mut command = Command::new(bridge);
        command.args(["run", "--config"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("{} cannot be run", bridge.display()))?;
        Ok(Self { child, broker, ops })
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let start = Instant::now();
        while !self.get("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            ensure!(start.elapsed() < PATIENCE, "the bridge does not become ready");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.ops)?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn transactions(&self) -> Result<f64> {
        let metrics = self.get("/metrics")?;
        // The second one is that of earlier releases.
        let names = ["bridge_store_commit_seconds_count ", "bridge_store_commits "];
        let count = metrics.lines().find_map(|line| names.iter().find_map(|name| line.strip_prefix(name)));
        Ok(count.context("the metric is there")?.trim().parse()?)
    }

    /// What it has used of the processor, all threads together.
    fn processor(&self) -> Result<Duration> {
        let schedstat = |path: PathBuf| fs::read_to_string(path.join("schedstat"));
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = schedstat(thread?.path())?;
            nanoseconds += text.split_whitespace().next().context("a number")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
