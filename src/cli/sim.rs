//! `sim`: the simulator alone.

use super::apps::Apps;
use super::args::SimArgs;
use super::{UsageError, stop_on_signals};
use crate::ops::logs::{self, Format};
use crate::ops::print;
use crate::secret::Secret;
use crate::sim::config::{Account, CertificateConfig, Credentials, WireConfig};
use crate::sim::v1::V1Config;
use crate::sim::v1::config::ConnectionLimits;
use crate::sim::{self, SimConfig, SimHandle};
use anyhow::Context;
use std::net::SocketAddr;
use std::path::Path;
use tokio::sync::oneshot;

/// Runs the simulator until a signal. Its addresses are printed to standard output, one to a line, for scripts:
/// `ccs ADDRESS`, `control ADDRESS`, `ca FILE`, and with `--fcm-listen` also `fcm URL`, `fcm-token URL`,
/// `fcm-credentials FILE`.
///
/// # Errors
/// When a port is taken, or a file cannot be read or written.
pub(super) async fn run(args: SimArgs) -> anyhow::Result<()> {
    logs::init(&args.log, Format::Text).map_err(|e| UsageError(e.to_string()))?;
    let ca = args.tls_dir.join("ca.pem");
    let config = SimConfig {
        listen: args.listen,
        control: Some(args.control_listen),
        certificate: CertificateConfig {
            directory: Some(args.tls_dir.clone()),
            ca_file: None,
            names: args.names.clone(),
        },
        credentials: credentials(&args)?,
        wire: WireConfig { window: args.window, ..WireConfig::default() },
        v1: v1(&args),
        seed: args.seed,
        ..SimConfig::default()
    };
    let apps = apps(&args)?;
    let (ready, handle) = oneshot::channel::<SimHandle>();
    let stop = stop_on_signals()?;
    let beside = async {
        if let Ok(handle) = handle.await {
            // Who waits for an address would wait for good.
            print_addresses(&handle, &ca).inspect_err(|_| stop.cancel())?;
            if let (Some(apps), Some(v1)) = (apps, handle.v1()) {
                let ended = apps.run(&handle, v1, stop.clone()).await;
                return ended.context("the apps on the virtual phones (--app-mqtt)");
            }
        }
        Ok(())
    };
    let (ended, confirmed) = tokio::join!(sim::run(config, ready, stop.clone()), beside);
    ended?;
    confirmed
}

fn print_addresses(handle: &SimHandle, ca: &Path) -> anyhow::Result<()> {
    let mut lines = vec![format!("ccs {}", handle.address())];
    lines.extend(handle.control_address().map(|control| format!("control {control}")));
    lines.push(format!("ca {}", ca.display()));
    if let Some(v1) = handle.v1() {
        lines.extend([format!("fcm {}", v1.base_url()), format!("fcm-token {}", v1.token_url())]);
        lines.extend(v1.credentials_file().map(|file| format!("fcm-credentials {}", file.display())));
    }
    print::line(lines.join("\n")).context("standard output")
}

/// The apps that confirm over MQTT, if they are asked for. Checked before anything is opened.
fn apps(args: &SimArgs) -> anyhow::Result<Option<Apps>> {
    let (Some(url), Some(user)) = (args.app_mqtt.clone(), args.app_user.clone()) else { return Ok(None) };
    let password = match &args.app_password_file {
        None => None,
        Some(file) => Some(Secret::new(first_line(file).context("--app-password-file")?)),
    };
    let apps = Apps { url, user, password, ca_file: args.app_ca_file.clone() };
    apps.check().map_err(|error| UsageError(format!("--app-mqtt: {error}")))?;
    Ok(Some(apps))
}

fn first_line(file: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).context("the file cannot be read")?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn v1(args: &SimArgs) -> Option<V1Config> {
    let listen = args.fcm_listen?;
    let connection = ConnectionLimits { time_divisor: args.fcm_time_divisor, ..ConnectionLimits::default() };
    Some(V1Config {
        listen,
        authority: args.fcm_token_listen.unwrap_or_else(|| SocketAddr::new(listen.ip(), 0)),
        project: args.project.clone(),
        token_life_s: args.fcm_token_life,
        connection,
        ..V1Config::default()
    })
}

fn credentials(args: &SimArgs) -> anyhow::Result<Credentials> {
    let Some(file) = &args.api_key_file else {
        return match &args.sender_id {
            None => Ok(Credentials::Any),
            Some(_) => Err(UsageError("--sender-id needs --api-key-file".to_owned()).into()),
        };
    };
    let text = std::fs::read_to_string(file).context("--api-key-file: the file cannot be read")?;
    let key = text.trim_end_matches(['\r', '\n']).to_owned();
    let sender_id = args.sender_id.clone().unwrap_or_else(|| DEFAULT_SENDER.to_owned());
    Ok(Credentials::Only(vec![Account { sender_id, key }]))
}

/// The sender id of the sample configuration.
pub(super) const DEFAULT_SENDER: &str = "1234567890";
