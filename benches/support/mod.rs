//! What the benchmarks have in common.

use fcm_mqtt_bridge::sim::device::DevicePatch;
use fcm_mqtt_bridge::sim::handle::SimHandle;
use fcm_mqtt_bridge::sim::{self, SimConfig};
use rumqttc_v5::mqttbytes::v5::Packet;
use rumqttc_v5::{AsyncClient, Event, EventLoop, MqttOptions, QoS};
use serde_json::Value;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A usual push: about 200 bytes of data.
pub(crate) const TEXT: &str = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut \
                               labore et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation.";
/// The BAL, and its first topic level.
pub(crate) const BAL: &str = "client1";
/// Longest wait for one measurement.
const PATIENCE: Duration = Duration::from_secs(300);
/// Publishes of the BAL that are not acknowledged.
const INFLIGHT: u16 = 500;

/// What the command line says: a number of messages, `dir=` for the folder of the store, and a word (also as `only=`) for
/// a part.
pub(crate) struct Arguments {
    /// How many messages, if it says so.
    pub(crate) messages: Option<usize>,
    pub(crate) folder: PathBuf,
    /// Measure only what has this in its name.
    only: Option<String>,
}

impl Arguments {
    /// Reads them; `name` is that of the benchmark.
    pub(crate) fn read(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut read = Self { messages: None, folder, only: None };
        // Cargo hands over `--bench`; a program to be measured is for the benchmark itself; everything else is ours.
        let is_ours = |argument: &String| argument != "--bench" && !argument.starts_with("bridge=");
        for argument in std::env::args().skip(1).filter(is_ours) {
            if let Some(path) = argument.strip_prefix("dir=") {
                read.folder = PathBuf::from(path).join(name);
            } else if let Ok(number) = argument.parse() {
                read.messages = Some(number);
            } else {
                // A hyphen stands for a blank, so that no shell needs quotes.
                read.only = Some(argument.strip_prefix("only=").unwrap_or(&argument).replace('-', " "));
            }
        }
        read
    }

    /// Whether the part with this name is to be measured.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|word| name.contains(word))
    }
}

/// Runs the benchmark with an empty folder, which goes again at the end.
pub(crate) fn block_on(folder: &Path, benchmark: impl Future<Output = ()>) {
    let _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder).expect("the folder can be made");
    tokio::runtime::Runtime::new().expect("a runtime").block_on(benchmark);
    let _ = std::fs::remove_dir_all(folder);
}

/// How long the disk below `folder` takes for one `fdatasync` of a page that was appended: the median.
pub(crate) fn fdatasync(folder: &Path) -> Duration {
    const TIMES: usize = 101;
    let path = folder.join("fdatasync");
    let mut file = std::fs::File::create(&path).expect("the folder takes files");
    let mut took: Vec<Duration> = std::iter::repeat_with(|| {
        file.write_all(&[0; 4_096]).expect("the disk has room");
        let start = Instant::now();
        file.sync_data().expect("the disk works");
        start.elapsed()
    })
    .take(TIMES)
    .collect();
    let _ = std::fs::remove_file(path);
    took.sort_unstable();
    took[TIMES / 2]
}

/// Measures with a simulator that has so many devices.
pub(crate) async fn with_sim<T>(config: SimConfig, devices: usize, measure: impl AsyncFnOnce(&SimHandle) -> T) -> T {
    let stop = CancellationToken::new();
    let (ready, handle) = oneshot::channel();
    let simulator = sim::run(config, ready, stop.clone());
    let body = async {
        let handle = handle.await.expect("the simulator starts");
        for n in 0..devices {
            handle.put_device(&token(n), DevicePatch::default()).expect("a device");
        }
        let measured = tokio::time::timeout(PATIENCE, measure(&handle)).await.expect("it ends in time");
        stop.cancel();
        measured
    };
    let (ended, measured) = tokio::join!(simulator, body);
    ended.expect("the simulator runs");
    measured
}

/// The token of the device with this number.
pub(crate) fn token(n: usize) -> String {
    format!("device-{n}:APA91bEXAMPLE-registration-token-of-a-usual-length-{n}")
}

/// A client that connects when its events are first asked for.
pub(crate) fn connection(id: &str, broker: SocketAddr) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(id, ("127.0.0.1", broker.port()));
    options.set_outgoing_inflight_upper_limit(INFLIGHT);
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    AsyncClient::builder(options).capacity(INFLIGHT.into()).build()
}

/// A BAL that is subscribed to one topic.
pub(crate) async fn bal(broker: SocketAddr, topic: &str) -> (AsyncClient, EventLoop) {
    let (client, mut events) = connection(BAL, broker);
    client.subscribe(topic, QoS::AtLeastOnce).await.expect("the event loop is there");
    loop {
        if let Event::Incoming(Packet::SubAck(_)) = events.poll().await.expect("the broker answers") {
            return (client, events);
        }
    }
}

/// The document that the next event brings, if it brings one.
pub(crate) async fn document(events: &mut EventLoop) -> Option<Value> {
    match events.poll().await.expect("the broker stays") {
        Event::Incoming(Packet::Publish(publish)) => serde_json::from_slice(&publish.payload).ok(),
        _ => None,
    }
}

pub(crate) fn per_second(messages: usize, start: Instant) -> f64 {
    messages as f64 / start.elapsed().as_secs_f64()
}
