//! `init`: a configuration that works, a first BAL, and what to type next.

#[cfg(feature = "sim")]
mod simulator;

use super::UsageError;
use super::args::{InitArgs, InitCommon};
use super::user::new_password;
use crate::app;
use crate::broker::identity::users::UsersFile;
use crate::chat::principal::Role;
use crate::config::{Settings, unreadable};
use crate::ops::print;
use anyhow::Context;
use serde_json::json;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where everything is to be.
struct Places {
    /// As it was asked for: what is shown is to be typed in the same folder.
    config: PathBuf,
    /// Users and queue.
    data: PathBuf,
    users: PathBuf,
}

/// What differs between the ways to the devices.
struct Push {
    /// Sections of the configuration.
    sections: String,
    /// A command that has to run before the bridge, and what for.
    first: Option<String>,
    /// Who gives tokens to apps.
    service: &'static str,
    /// The token of a first push; not a real one where nobody can know it.
    token: &'static str,
    /// The app of a second push, which goes another way.
    other_app: Option<&'static str>,
}

/// Writes the configuration and the users, checks them as `check-config` would, and says what to type next.
///
/// # Errors
/// When there is such a file already, a file cannot be read or written, or the configuration would not work. Then neither
/// is left behind.
pub(super) fn run(what: InitArgs) -> anyhow::Result<()> {
    let common = what.common();
    known_ports(&what)?;
    let places = Places::of(&common.config)?;
    let password = new_password();
    fs::create_dir_all(&places.data).with_context(|| format!("cannot make the folder {}", places.data.display()))?;
    let push = make(&what, common, &places, &password).inspect_err(|_| {
        let _ = (fs::remove_file(&places.users), fs::remove_dir(&places.data));
    })?;
    print::line(next_steps(common, &places, &push, &password))?;
    Ok(())
}

/// What is written and shown has to name the ports, so they cannot be chosen at the start.
fn known_ports(what: &InitArgs) -> Result<(), UsageError> {
    match what.told().iter().find(|(_, address)| address.port() == 0) {
        Some((flag, _)) => Err(UsageError(format!("{flag} wants a port: 0 would be another one at each start"))),
        None => Ok(()),
    }
}

fn make(what: &InitArgs, common: &InitCommon, places: &Places, password: &str) -> anyhow::Result<Push> {
    write_users(places, common, password)?;
    let push = push(what, places)?;
    let text = format!(
        "# Made by `fcm-mqtt-bridge init`. What is not here has its default; config/bridge.toml explains every key.\n\n\
         {}{}",
        push.sections,
        common_sections(common, places)?
    );
    write_config(places, &text)?;
    let checked = check(&places.config).inspect_err(|_| {
        let _ = fs::remove_file(&places.config);
    });
    // The keys are those of a file that is not there any more.
    checked.context("with these options the configuration would not work, and nothing was written")?;
    Ok(push)
}

impl Places {
    /// Nothing may be there yet.
    fn of(config: &Path) -> anyhow::Result<Self> {
        let whole = std::path::absolute(config).context("--config")?;
        let data = whole.with_file_name("data");
        let users = data.join("users");
        if let Some(path) = [&whole, &users].into_iter().find(|path| path.exists()) {
            let taken = path.display();
            let words = "already, and nothing is overwritten; choose another folder with --config FOLDER/bridge.toml";
            return Err(UsageError(format!("there is {taken} {words}")).into());
        }
        Ok(Self { config: config.to_owned(), users, data })
    }
}

#[cfg_attr(not(feature = "sim"), expect(unused_variables, reason = "only the simulator's files lie beside the users"))]
fn push(what: &InitArgs, places: &Places) -> anyhow::Result<Push> {
    match what {
        InitArgs::FcmV1 { credentials, base_url, ca_file, .. } => {
            let mut sections = "[transport]\ndefault = \"fcm-v1\"\n\n[fcm]\n".to_owned();
            line(&mut sections, "credentials_file", Some(&readable(credentials, "--credentials")?))?;
            line(&mut sections, "base_url", base_url.as_ref())?;
            line(&mut sections, "ca_file", option(ca_file.as_deref(), "--ca-file")?.as_ref())?;
            Ok(Push { sections, first: None, service: "Firebase", token: "REGISTRATION-TOKEN", other_app: None })
        }
        InitArgs::Ccs { sender_id, api_key_file, host, port, ca_file, .. } => {
            let mut sections = "[transport]\ndefault = \"ccs\"\n\n[ccs]\n".to_owned();
            line(&mut sections, "host", Some(host))?;
            line(&mut sections, "port", port.as_ref())?;
            line(&mut sections, "sender_id", Some(sender_id))?;
            line(&mut sections, "api_key_file", Some(&readable(api_key_file, "--api-key-file")?))?;
            line(&mut sections, "ca_file", option(ca_file.as_deref(), "--ca-file")?.as_ref())?;
            let service = "the push service";
            Ok(Push { sections, first: None, service, token: "REGISTRATION-TOKEN", other_app: None })
        }
        #[cfg(feature = "sim")]
        InitArgs::Sim { ports, .. } => simulator::push(ports, places),
    }
}

fn common_sections(common: &InitCommon, places: &Places) -> anyhow::Result<String> {
    let mut sections = "\n[broker]\n".to_owned();
    line(&mut sections, "listen", Some(&common.listen))?;
    match &common.listen_ws {
        Some(address) => line(&mut sections, "listen_ws", Some(address))?,
        None => sections.push_str("# For web pages, MQTT over WebSocket:\n# listen_ws = \"127.0.0.1:8083\"\n"),
    }
    sections.push_str(
        "# Who may connect; `fcm-mqtt-bridge user add NAME --role bal|user|admin --config FILE` adds more.\n",
    );
    line(&mut sections, "users_file", Some(&text(&places.users, "--config")?))?;
    sections.push_str("\n[store]\n");
    line(&mut sections, "path", Some(&text(&places.data.join("bridge.db"), "--config")?))?;
    sections.push_str("\n[ops]\n");
    line(&mut sections, "listen", Some(&common.ops_listen))?;
    sections.push_str(
        "\n# Chat users: who may write to whom (`who_may_write`), which devices hold pushes back (`push_when`), for how long \
         messages are kept (`keep_days`).\n[chat]\n",
    );
    sections.push_str("\n# Who gets what devices send.\n[routes]\n");
    line(&mut sections, "default_bal", Some(&common.bal))?;
    Ok(sections)
}

/// `key = value`, where there is one. What JSON writes of texts and numbers, TOML reads.
fn line<T: serde::Serialize>(text: &mut String, key: &str, value: Option<&T>) -> anyhow::Result<()> {
    if let Some(value) = value {
        text.push_str(&format!("{key} = {}\n", serde_json::to_string(value)?));
    }
    Ok(())
}

/// Absolute, so that the configuration works from every folder. The path is not repeated where it is wrong: it may be the
/// key itself.
fn absolute(path: &Path, flag: &str) -> anyhow::Result<String> {
    text(&std::path::absolute(path).map_err(|error| UsageError(format!("{flag}: {error}")))?, flag)
}

fn option(path: Option<&Path>, flag: &str) -> anyhow::Result<Option<String>> {
    path.map(|path| readable(path, flag)).transpose()
}

/// The same of a file that can be read. Told by its flag here: the check of the configuration names its keys, and of that
/// nothing is left by then.
fn readable(path: &Path, flag: &str) -> anyhow::Result<String> {
    if let Err(error) = fs::File::open(path) {
        return Err(unreadable(flag, path, &error).into());
    }
    absolute(path, flag)
}

fn text(path: &Path, flag: &str) -> anyhow::Result<String> {
    Ok(path.to_str().ok_or_else(|| UsageError(format!("{flag}: the path is not UTF-8")))?.to_owned())
}

fn write_users(places: &Places, common: &InitCommon, password: &str) -> anyhow::Result<()> {
    let mut users = UsersFile::open(&places.users)?;
    users.add(&common.bal, Role::Bal, password).map_err(|error| UsageError(format!("--bal: {error}")))?;
    Ok(users.save()?)
}

fn write_config(places: &Places, text: &str) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", places.config.display());
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&places.config) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(UsageError(failed()).into()),
        opened => opened.with_context(failed)?,
    };
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(failed)
}

fn check(config: &Path) -> anyhow::Result<()> {
    let loaded = Settings::load(Some(config))?;
    Ok(app::check(&loaded)?)
}

fn next_steps(common: &InitCommon, places: &Places, push: &Push, password: &str) -> String {
    let InitCommon { bal, listen, listen_ws, .. } = common;
    let config = quoted(&places.config);
    let at = reachable(*listen);
    let client = |program: &str| format!("{program} -h {} -p {} -u {bal} -P {password} -q 1", at.ip(), at.port());
    let publish = |id: &str, app: Option<&str>| {
        let mut message = json!({"id": id, "token": push.token});
        if let Some(app) = app {
            message["category"] = app.into();
        }
        message["data"] = json!({"hello": "world"});
        format!("  {} -t {bal}/self/messages -m '{message}'", client("mosquitto_pub"))
    };
    let mut lines = vec![
        format!("Written: {config} and {}.", places.users.display()),
        format!("The backend application (BAL) `{bal}` has the password {password} (shown this once)."),
    ];
    lines.extend(listen_ws.map(|ws| format!("Web pages connect to ws://{}/mqtt (mqtt.js).", reachable(ws))));
    lines.push(
        "\nIn the first terminal".to_owned() + if push.first.is_some() { ", the simulator:" } else { ", the bridge:" },
    );
    if let Some(first) = &push.first {
        lines.extend([format!("  {first}"), "\nIn a second one, the bridge:".to_owned()]);
    }
    lines.extend([
        format!("  fcm-mqtt-bridge run --config {config}"),
        format!("\nIn another one, everything that comes in for `{bal}` (mosquitto-clients):"),
        format!("  {} -v -t '{bal}/others/+'", client("mosquitto_sub")),
        match push.other_app {
            None => format!("\nAnd a push; {} is what the app on the device got from {}:", push.token, push.service),
            Some(_) => "\nAnd a push to a phone, by FCM HTTP v1:".to_owned(),
        },
        publish("a1", None),
    ]);
    if let Some(app) = push.other_app {
        lines.extend(["\nThe same by CCS:".to_owned(), publish("a2", Some(app))]);
    }
    lines.extend([
        "\nWhat became of it:".to_owned(),
        format!("  fcm-mqtt-bridge trace a1 --config {config}"),
        "\nA chat user, who writes to others on alice/self/messages (topics.md, \"Chat\"):".to_owned(),
        format!("  fcm-mqtt-bridge user add alice --role user --config {config}"),
    ]);
    lines.join("\n")
}

/// An address as a client on this machine uses it.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, address.port())),
        _ => address,
    }
}

/// As a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
