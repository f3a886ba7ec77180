//! `demo`: the main job on embedded parts, narrated.

use super::args::DemoArgs;
use super::sim::DEFAULT_SENDER;
use super::{UsageError, stop_on_signals};
use crate::app::{self, Addresses, AppError, Signals};
use crate::broker::identity::users::{UsersFile, role_word};
use crate::config::{Broker, Ccs, Listen, Loaded, Ops, Routes, Settings, Store};
use crate::mqtt::Role;
use crate::ops::logs;
use crate::ops::story;
use crate::secret::Secret;
use crate::sim::config::CertificateConfig;
use crate::sim::device::DevicePatch;
use crate::sim::event::SimEvent;
use crate::sim::{self, SimConfig, SimHandle};
use anyhow::Context;
use rand::distr::{Alphanumeric, SampleString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;

/// The sample BAL and app.
const BAL: &str = "client1";
const APP: &str = "com.example.chat";
/// Who may log in.
const CAST: [(&str, Role); 3] = [(BAL, Role::Bal), ("alice", Role::User), ("bob", Role::User)];
/// Their file, in the folder of this run.
const USERS: &str = "users";
/// Letters and digits of a password.
const PASSWORD_LENGTH: usize = 16;
/// Virtual phones that answer every message.
const PHONES: [&str; 3] = ["phone-1", "phone-2", "phone-3"];

/// Runs the demo until a signal.
///
/// # Errors
/// When a port is taken (the text says which flag changes it), or the parts fail.
pub(super) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let exposed = [args.listen, args.ws_listen].into_iter().find(|address| !address.ip().is_loopback());
    if let (true, Some(address)) = (args.anonymous, exposed) {
        return Err(UsageError(format!("{address}: with --anonymous the demo listens on loopback only")).into());
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
    let cast = if args.anonymous { Vec::new() } else { cast(&folder.join(USERS))? };
    let (ready, addresses) = oneshot::channel();
    let events = sim.events();
    let narration = async {
        if let Ok(addresses) = addresses.await {
            welcome(addresses, &cast, sim);
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
        AppError::Broker(_) => {
            format!(
                "the broker cannot use {} and {}; choose others with --listen 127.0.0.1:2883 --ws-listen 127.0.0.1:0",
                args.listen, args.ws_listen
            )
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
        broker: Broker {
            listen: Listen::At(args.listen),
            listen_ws: Listen::At(args.ws_listen),
            anonymous: args.anonymous,
            users_file: (!args.anonymous).then(|| folder.join(USERS)),
            ..Broker::default()
        },
        store: Store { path: folder.join("bridge.db") },
        routes: Routes { default_bal: Some(BAL.to_owned()), ..Routes::default() },
        ops: Ops { listen: args.ops_listen },
        ..Settings::default()
    };
    Loaded { settings, api_key: Some(Secret::new("any key will do for the simulator")), mqtt_password: None }
}

/// Somebody who takes part, and the password made for this run.
struct Player {
    name: &'static str,
    role: Role,
    password: String,
}

/// Makes the users of this run.
fn cast(users: &Path) -> anyhow::Result<Vec<Player>> {
    let mut file = UsersFile::open(users).context("the users of the demo")?;
    let mut players = Vec::new();
    for (name, role) in CAST {
        let password = Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH);
        file.add(name, role, &password).context("the users of the demo")?;
        players.push(Player { name, role, password });
    }
    file.save().context("the users of the demo")?;
    Ok(players)
}

fn welcome(addresses: Addresses, cast: &[Player], sim: &SimHandle) {
    let Some(broker) = addresses.broker else { return };
    println!("fcm-mqtt-bridge demo: embedded broker on {broker}, CCS simulator with the phones {}.", PHONES.join(", "));
    if let Some(websocket) = addresses.websocket {
        println!("For web pages (mqtt.js): ws://{websocket}/mqtt");
    }
    if !cast.is_empty() {
        println!("\nUsers and passwords, made for this run:");
    }
    for Player { name, role, password } in cast {
        println!("  {name:<8} {password}   ({})", role_word(*role));
    }
    // What every command line has: where to, and as whom.
    let client = |program: &str, user: &str| {
        let player = cast.iter().find(|player| player.name == user);
        let login = player.map(|player| format!(" -u {user} -P {}", player.password)).unwrap_or_default();
        format!("  {program} -h {} -p {}{login}", broker.ip(), broker.port())
    };
    println!("\nIn a second terminal, everything that comes in for the backend application `{BAL}`:");
    println!("{} -q 1 -v -t '{BAL}/others/+'", client("mosquitto_sub", BAL));
    println!("\nIn a third one, a push to a phone (it answers):");
    println!(
        "{} -q 1 -t {BAL}/self/messages -m '{{\"id\":\"a1\",\"token\":\"phone-1\",\"data\":{{\"hello\":\"world\"}}}}'",
        client("mosquitto_pub", BAL)
    );
    if !cast.is_empty() {
        println!("\n`bob` sees when a device of `alice` comes and goes; then let her come, and stop her with Ctrl-C:");
        println!("{} -v -t alice/self/presence", client("mosquitto_sub", "bob"));
        println!("{} -i alice:phone -v -t 'alice/#'", client("mosquitto_sub", "alice"));
    }
    println!("\nAnd what the bridge says of itself:");
    println!("{} -v -t _bridge/status", client("mosquitto_sub", BAL));
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
