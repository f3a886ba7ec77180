//! `demo`: the main job on embedded parts, narrated.

use super::args::DemoArgs;
use super::sim::DEFAULT_SENDER;
use super::{UsageError, stop_on_signals};
use crate::app::{self, Addresses, AppError, Signals};
use crate::config::{Broker, Ccs, Listen, Loaded, Ops, Routes, Settings, Store};
use crate::ops::logs;
use crate::ops::story;
use crate::secret::Secret;
use crate::sim::config::CertificateConfig;
use crate::sim::device::DevicePatch;
use crate::sim::event::SimEvent;
use crate::sim::{self, SimConfig, SimHandle};
use anyhow::Context;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;

/// The sample BAL and app.
const BAL: &str = "client1";
const APP: &str = "com.example.chat";
/// Virtual phones that answer every message.
const PHONES: [&str; 3] = ["phone-1", "phone-2", "phone-3"];

/// Runs the demo until a signal.
///
/// # Errors
/// When a port is taken (the text says which flag changes it), or the parts fail.
pub(super) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    if !args.listen.ip().is_loopback() {
        return Err(UsageError(format!(
            "--listen {}: the demo takes anonymous clients, on loopback only",
            args.listen
        ))
        .into());
    }
    logs::init_with_story(&args.log).map_err(|e| UsageError(e.to_string()))?;
    let folder = Folder::make()?;
    let stop = stop_on_signals()?;
    let (sim_ready, sim) = oneshot::channel();
    let sim_stop = CancellationToken::new();
    let simulator = sim::run(sim_config(&args, &folder.path), sim_ready, sim_stop.clone());
    let bridge = async {
        let sim = sim.await.context("the simulator did not start")?;
        for phone in PHONES {
            let patch = DevicePatch { echo: Some(APP.to_owned()), ..DevicePatch::default() };
            sim.put_device(phone, patch).context("a virtual phone")?;
        }
        let ended = bridge(&args, &folder.path, &sim, &stop).await;
        sim_stop.cancel();
        ended
    };
    let (simulated, bridged) = tokio::join!(simulator, bridge);
    simulated.context("simulator (--control-listen chooses another control port)")?;
    bridged
}

async fn bridge(args: &DemoArgs, folder: &Path, sim: &SimHandle, stop: &CancellationToken) -> anyhow::Result<()> {
    let (ready, addresses) = oneshot::channel();
    let events = sim.events();
    let narration = async {
        if let Ok(addresses) = addresses.await {
            welcome(addresses, sim);
            narrate(events, stop).await;
        }
    };
    let loaded = loaded(args, folder, sim.address());
    let (ended, ()) = tokio::join!(app::run(loaded, Signals::stop_only(stop.clone()), Some(ready)), narration);
    ended.map_err(|error| hint(error, args))
}

/// A taken port is the most likely trouble of a newcomer: say how to go round it.
fn hint(error: AppError, args: &DemoArgs) -> anyhow::Error {
    let text = match &error {
        #[cfg(feature = "broker")]
        AppError::Broker(_) => {
            format!("the broker cannot use {}; choose another with --listen 127.0.0.1:2883", args.listen)
        }
        AppError::Ops(_) => {
            format!("the health port cannot use {}; choose another with --ops-listen 127.0.0.1:0", args.ops_listen)
        }
        _ => return error.into(),
    };
    anyhow::Error::new(error).context(text)
}

fn sim_config(args: &DemoArgs, folder: &Path) -> SimConfig {
    SimConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        control: Some(args.control_listen),
        certificate: CertificateConfig { directory: Some(folder.join("tls")), ..CertificateConfig::default() },
        ..SimConfig::default()
    }
}

fn loaded(args: &DemoArgs, folder: &Path, ccs: SocketAddr) -> Loaded {
    let settings = Settings {
        ccs: Ccs {
            host: ccs.ip().to_string(),
            port: ccs.port(),
            sender_id: DEFAULT_SENDER.to_owned(),
            ca_file: Some(folder.join("tls/ca.pem")),
            ..Ccs::default()
        },
        broker: Broker { listen: Listen::At(args.listen), anonymous: true, ..Broker::default() },
        store: Store { path: folder.join("bridge.db") },
        routes: Routes { default_bal: Some(BAL.to_owned()), ..Routes::default() },
        ops: Ops { listen: args.ops_listen },
        ..Settings::default()
    };
    Loaded { settings, api_key: Secret::new("any key will do for the simulator"), mqtt_password: None }
}

fn welcome(addresses: Addresses, sim: &SimHandle) {
    let Some(broker) = addresses.broker else { return };
    let (host, port) = (broker.ip(), broker.port());
    println!("fcm-mqtt-bridge demo: embedded broker on {broker}, CCS simulator with the phones {}.", PHONES.join(", "));
    println!("\nIn a second terminal, everything that comes in for the backend application `{BAL}`:");
    println!("  mosquitto_sub -h {host} -p {port} -q 1 -v -t '{BAL}/others/+'");
    println!("\nIn a third one, a push to a phone (it answers):");
    println!(
        "  mosquitto_pub -h {host} -p {port} -q 1 -t {BAL}/self/messages \
         -m '{{\"id\":\"a1\",\"token\":\"phone-1\",\"data\":{{\"hello\":\"world\"}}}}'"
    );
    println!("\nAnd what the bridge says of itself:");
    println!("  mosquitto_sub -h {host} -p {port} -v -t '_bridge/#'");
    println!("\nHealth: http://{0}/readyz  numbers: http://{0}/metrics", addresses.ops);
    if let Some(control) = sim.control_address() {
        println!(
            "A phone sends by itself: curl -X POST http://{control}/devices/phone-2/upstream \
             -d '{{\"category\":\"{APP}\",\"data\":{{\"hello\":\"backend\"}}}}'"
        );
    }
    println!("Stop with Ctrl-C. Each step of each message follows.\n");
}

/// The phones' side of the story.
async fn narrate(mut events: broadcast::Receiver<SimEvent>, stop: &CancellationToken) {
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.recv() => event,
        };
        match event {
            Ok(SimEvent::LoggedIn { sender, .. }) => {
                tracing::debug!(target: story::TARGET, %sender, "push service: the bridge has logged in");
            }
            Ok(SimEvent::Delivered { token, message_id, .. }) => {
                tracing::debug!(target: story::TARGET, phone = %token, sid = %message_id, "push service: the phone has the message");
            }
            Ok(SimEvent::Acked { message_id, .. }) => {
                tracing::debug!(target: story::TARGET, id = message_id, "push service: the bridge acknowledged");
            }
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// A folder that is gone afterwards.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("fcm-mqtt-bridge-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("the temporary folder {}", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It is in the system's temporary folder: if it cannot be removed now, the system will.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
