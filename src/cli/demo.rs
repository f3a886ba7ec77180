//! `demo`: the main job on embedded parts, narrated.

pub(super) mod cast;
mod folder;
mod narration;
mod phone;

use super::apps::Apps;
use super::args::{DemoArgs, TransportArg};
use super::sim::DEFAULT_SENDER;
use super::{UsageError, stop_on_signals};
use crate::app::{self, Addresses, AppError, Signals};
use crate::broker::{JwtConfig, REFUSALS};
use crate::config::{BrokerConfig, CcsConfig, Fcm, FcmConfig, Listen, Loaded, Ops, Routes, Settings, TransportSection};
use crate::ops::logs;
use crate::secret::Secret;
use crate::sim::config::CertificateConfig;
use crate::sim::device::DevicePatch;
use crate::sim::v1::{V1Config, V1Handle};
use crate::sim::{self, SimConfig, SimHandle};
use crate::store;
use anyhow::{Context, anyhow};
use cast::{BAL, BOB, CAROL, Player};
use folder::Folder;
use phone::BOBS_PHONE;
use std::net::SocketAddr;
use std::path::Path;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The app on the phones.
const APP: &str = "com.example.chat";
/// Virtual phones that answer every message.
const PHONES: [&str; 3] = ["phone-1", "phone-2", "phone-3"];
/// The file of who may log in, in the folder of this run.
const USERS: &str = "users";
/// And the secret of the tokens by which others may.
const TOKEN_SECRET: &str = "jwt.secret";

/// Runs the demo until a signal.
///
/// # Errors
/// When a port is taken (the text says which flag changes it), or the parts fail.
pub(super) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let exposed = [args.listen, args.ws_listen].into_iter().find(|address| !address.ip().is_loopback());
    if let (true, Some(address)) = (args.anonymous, exposed) {
        return Err(UsageError(format!("{address}: with --anonymous the demo listens on loopback only")).into());
    }
    logs::init_with_story(&args.log, REFUSALS).map_err(|e| UsageError(e.to_string()))?;
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
        // Its app sleeps: it says nothing of what it got.
        let asleep = DevicePatch { receipts: Some(false), ..DevicePatch::default() };
        sim.put_device(BOBS_PHONE, asleep).context("bob's phone")?;
        let ended = bridge(&args, &folder.path, &sim, &stop).await;
        sim_stop.cancel();
        ended
    };
    let (simulated, bridged) = tokio::join!(simulator, bridge);
    simulated.context("simulator (--control-listen chooses another control port)")?;
    bridged
}

async fn bridge(args: &DemoArgs, folder: &Path, sim: &SimHandle, stop: &CancellationToken) -> anyhow::Result<()> {
    let phones = (args.transport == TransportArg::FcmV1).then_some(CAROL);
    let token_secret = (!args.anonymous).then(|| folder.join(TOKEN_SECRET));
    token_secret.as_deref().map_or(Ok(()), cast::make_token_secret)?;
    let cast = if args.anonymous { Vec::new() } else { cast::make(&folder.join(USERS), phones)? };
    let (ready, addresses) = oneshot::channel::<Addresses>();
    let events = sim.events();
    let company = async {
        let Ok(addresses) = addresses.await else { return Ok(()) };
        if let (Some(broker), Some(password)) = (addresses.broker, cast::password(&cast, BOB)) {
            phone::register(broker, password, stop).await?;
        }
        narration::welcome(addresses, &cast, token_secret.as_deref(), sim);
        let (confirmed, ()) = tokio::join!(confirm(addresses, &cast, sim, stop), narration::narrate(sim, events, stop));
        confirmed
    };
    let loaded = loaded(args, folder, sim);
    let (ended, confirmed) = tokio::join!(app::run(loaded, Signals::stop_only(stop.clone()), Some(ready)), company);
    ended.map_err(|error| hint(error, args))?;
    confirmed
}

/// The apps on the phones, where they have something to confirm.
async fn confirm(
    addresses: Addresses,
    cast: &[Player],
    sim: &SimHandle,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (Some(broker), Some(v1)) = (addresses.broker, sim.v1()) else { return Ok(()) };
    let apps = Apps {
        url: format!("mqtt://{broker}"),
        user: CAROL.to_owned(),
        password: cast::password(cast, CAROL).map(Secret::new),
        ca_file: None,
    };
    apps.run(sim, v1, stop.clone()).await.context("the apps on the phones")
}

/// A taken port is the most likely trouble of a newcomer: say how to go round it, by the options of the demo. It has no keys.
fn hint(error: AppError, args: &DemoArgs) -> anyhow::Error {
    let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    match error {
        AppError::BrokerListen { key, .. } => {
            let (option, address) =
                if key == "broker.listen" { ("--listen", args.listen) } else { ("--ws-listen", args.ws_listen) };
            anyhow!("the broker cannot listen on {address}: {why}; {option} 127.0.0.1:0 takes a free port")
        }
        AppError::Ops(_) => {
            let address = args.ops_listen;
            anyhow!("the health port cannot listen on {address}: {why}; --ops-listen 127.0.0.1:0 takes a free port")
        }
        error => error.into(),
    }
}

fn sim_config(args: &DemoArgs, folder: &Path) -> SimConfig {
    SimConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        control: Some(args.control_listen),
        certificate: CertificateConfig { directory: Some(folder.join("tls")), ..CertificateConfig::default() },
        v1: (args.transport == TransportArg::FcmV1).then(V1Config::default),
        ..SimConfig::default()
    }
}

fn loaded(args: &DemoArgs, folder: &Path, sim: &SimHandle) -> Loaded {
    let ca_file = Some(folder.join("tls/ca.pem"));
    let ccs = sim.address();
    let fcm = |v1: V1Handle| FcmConfig {
        credentials_file: v1.credentials_file().map(Path::to_owned),
        base_url: v1.base_url().to_owned(),
        ca_file: ca_file.clone(),
        ..FcmConfig::default()
    };
    let settings = Settings {
        transport: TransportSection { default: args.transport.as_str().to_owned(), ..TransportSection::default() },
        fcm: Fcm { own: sim.v1().map(fcm).unwrap_or_default(), ..Fcm::default() },
        ccs: CcsConfig {
            host: ccs.ip().to_string(),
            port: ccs.port(),
            sender_id: DEFAULT_SENDER.to_owned(),
            ca_file,
            ..CcsConfig::default()
        },
        broker: BrokerConfig {
            // Pages that are opened as files: with `--anonymous` nobody else's are let in but those of this machine.
            listen: Listen {
                ws: Some(args.ws_listen),
                origins: if args.anonymous { vec!["null".to_owned()] } else { Vec::new() },
                ..Listen::tcp(args.listen)
            },
            anonymous: args.anonymous,
            users_file: (!args.anonymous).then(|| folder.join(USERS)),
            jwt: JwtConfig {
                secret_file: (!args.anonymous).then(|| folder.join(TOKEN_SECRET)),
                ..JwtConfig::default()
            },
            ..BrokerConfig::default()
        },
        store: store::Settings::new(folder.join("bridge.db")),
        routes: Routes { default_bal: Some(BAL.to_owned()), ..Routes::default() },
        ops: Ops { listen: args.ops_listen },
        ..Settings::default()
    };
    Loaded { settings, api_key: Some(Secret::new("any key will do for the simulator")), mqtt_password: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::BrokerError;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DemoArgs,
    }

    #[test]
    fn a_port_that_is_taken_is_told_with_the_option_that_changes_it() {
        let Line { args } = Line::parse_from(["demo"]);
        for (key, address, option) in
            [("broker.listen", args.listen, "--listen "), ("broker.listen_ws", args.ws_listen, "--ws-listen ")]
        {
            let told = hint(AppError::BrokerListen { key, fault: BrokerError::Taken(address) }, &args).to_string();
            assert!(told.contains(&address.to_string()) && told.contains(option), "{told}");
            assert!(told.contains("taken by another process") && !told.contains("broker.listen"), "{told}");
        }
    }
}
