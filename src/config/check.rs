//! What only the whole configuration can tell: which parts are used, and whether they fit together.

use super::{Engine, Loaded, Settings, files, layers, transports};
use crate::bridge::settings::owner;
use crate::broker::BrokerLimits;
use crate::chat::bal_event::LISTENERS_MAX;
use crate::chat::group::GroupDelivery;
use crate::ops::files::{read_secret, without_line_end};
use crate::ops::setting::{SettingError, within};
use crate::secret::Secret;
use serde_json::Value;
use std::collections::HashMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use url::Url;

/// With one of these in its client id, a client that tries to connect twice ends rumqttd's log-in for all.
const NOT_IN_CLIENT_IDS: [char; 4] = ['+', '$', '#', '/'];

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read, or is not TOML. Never holds a value.
    #[error("{0}")]
    Form(String),
    /// A key that does not exist.
    #[error("unknown key `{key}`{}", .nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key, with its section.
        key: String,
        /// The most similar key that does exist.
        nearest: Option<String>,
    },
    /// A setting that cannot work.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

pub(super) fn load(file: Option<&Path>, environment: &HashMap<String, OsString>) -> Result<Loaded, ConfigError> {
    let (mut settings, out_of_range) = layers::read(file, environment)?;
    if let Some(path) = environment.get(transports::GOOGLE_CREDENTIALS).filter(|path| !path.is_empty()) {
        if let Some(what) = files::mistaken(&path.to_string_lossy()) {
            return Err(bad(transports::GOOGLE_CREDENTIALS, format!("wants a path; this looks like {what}")));
        }
        let Some(path) = path.to_str() else {
            return Err(bad(transports::GOOGLE_CREDENTIALS, "the path is not UTF-8"));
        };
        transports::adopt(&mut settings, Path::new(path))?;
    }
    let api_key = if transports::runs_ccs(&settings)? { Some(api_key(&settings)?) } else { None };
    transports::check(&settings)?;
    let client = &settings.mqtt.client;
    let mqtt_password = secret("mqtt.password", client.password.as_ref(), client.password_file.as_ref())?;
    check_mqtt(&settings)?;
    check_groups(&settings)?;
    check_apart(&settings)?;
    if let Some(error) = out_of_range {
        // A number below its range may have a least that depends on another one: that is the one to tell.
        return Err(check_packets(&settings).err().unwrap_or(error).into());
    }
    check_packets(&settings)?;
    settings.routes.owners()?;
    settings.bals.keys().try_for_each(|bal| owner(&format!("bals.{bal}"), bal).map(drop))?;
    settings.chat.gatekeeper()?;
    if settings.chat.direct && settings.engine().is_some() {
        let why = "is for a broker of others (`mqtt.broker = \"external\"`): the embedded broker takes what users write into \
                   the inboxes of each other as it is, and knows who wrote";
        return Err(bad("chat.direct", why));
    }
    let listeners = settings.bals.iter().filter(|(_, bal)| bal.events);
    if let Some((bal, _)) = listeners.into_iter().nth(LISTENERS_MAX) {
        return Err(bad(&format!("bals.{bal}.events"), format!("at most {LISTENERS_MAX} BALs are told of events")));
    }
    Ok(Loaded { settings, api_key, mqtt_password })
}

fn api_key(settings: &Settings) -> Result<Secret, ConfigError> {
    let ccs = &settings.ccs;
    ccs.check_settings("ccs")?;
    secret("ccs.api_key", ccs.api_key.as_ref(), ccs.api_key_file.as_ref())?.ok_or_else(|| {
        SettingError::missing("ccs.api_key_file", "the CCS server asks for it (or set `ccs.api_key`)").into()
    })
}

/// The secret that stands at `key`, or in the file that `key` with `_file` behind it names.
fn secret(key: &str, value: Option<&Secret>, file: Option<&PathBuf>) -> Result<Option<Secret>, ConfigError> {
    let file_key = &format!("{key}_file");
    match (value, file) {
        (Some(_), Some(_)) => Err(bad(key, format!("set either this or `{file_key}`, not both"))),
        (Some(value), None) => match without_line_end(value.reveal()) {
            text if text.trim().is_empty() => Err(bad(key, "is empty")),
            text => Ok(Some(Secret::new(text))),
        },
        (None, Some(path)) => match read_secret(path) {
            Ok(text) if text.trim().is_empty() => Err(bad(file_key, "names a file with nothing but blanks in it")),
            Ok(text) => Ok(Some(Secret::new(text))),
            Err(error) => Err(files::unreadable(file_key, path, &error)),
        },
        (None, None) => Ok(None),
    }
}

fn check_mqtt(settings: &Settings) -> Result<(), ConfigError> {
    let client_id = &settings.mqtt.client.client_id;
    match settings.engine() {
        Some(Engine::Rumqttd) => {
            settings.broker.check_rumqttd()?;
            if client_id.is_empty() || client_id.contains(NOT_IN_CLIENT_IDS) {
                let why = "the bridge connects to rumqttd under it: neither empty nor with + $ # /";
                return Err(bad("mqtt.client_id", why));
            }
        }
        Some(Engine::Embedded) if cfg!(not(feature = "broker")) => {
            return Err(bad("mqtt.broker", "this build has no embedded broker; use \"external\""));
        }
        Some(Engine::Embedded) => settings.broker.check()?,
        None if client_id.is_empty() => {
            return Err(bad("mqtt.client_id", "is empty; the broker keeps the bridge's session under it"));
        }
        None => {}
    }
    Ok(())
}

/// The topics of groups need a broker that asks with each delivery who is a member, and knows who reads.
fn check_groups(settings: &Settings) -> Result<(), ConfigError> {
    let why = match settings.engine() {
        _ if settings.groups.delivery == GroupDelivery::Inbox => return Ok(()),
        Some(Engine::Embedded) if !settings.broker.anonymous => return Ok(()),
        Some(Engine::Embedded) => {
            "\"topic\" is for members who log in, and `broker.anonymous` lets clients in who do not; use \"inbox\""
        }
        Some(Engine::Rumqttd) | None => {
            "\"topic\" needs the embedded broker, which asks with each delivery who is in the group; on a broker of others \
             everybody who may subscribe would read all groups; use \"inbox\""
        }
    };
    Err(bad("groups.delivery", why))
}

/// Refuses two listeners for one port: the later one would find it taken, by ourselves.
fn check_apart(settings: &Settings) -> Result<(), ConfigError> {
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    let addresses = settings.broker.listen.addresses().filter(|_| settings.engine().is_some());
    for (key, address) in addresses.chain([("ops.listen", settings.ops.listen)]) {
        if let Some((other, _)) = taken.iter().find(|(_, other)| collide(*other, address)) {
            let why = format!("{address} is taken already, by `{other}`; every listener needs a port of its own");
            return Err(bad(key, why));
        }
        taken.push((key, address));
    }
    Ok(())
}

/// Whether no two sockets can listen there at once. Port 0 stands for some free one.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let is_all = |address: SocketAddr| address.ip().is_unspecified();
    let same_ip = one.ip() == other.ip() || (one.is_ipv4() == other.is_ipv4() && (is_all(one) || is_all(other)));
    one.port() != 0 && one.port() == other.port() && same_ip
}

/// A payload over its limit is answered with `TOO_BIG`, not with a closed connection: packets may be larger. And one that
/// is taken has to find room in a queue.
fn check_packets(settings: &Settings) -> Result<(), SettingError> {
    let (bridge, broker) = (&settings.limits.bridge, &settings.limits.broker);
    let packet = broker.packet_bytes as u64;
    let least = bridge.payload_bytes as u64 * 2;
    within("limits.broker_packet_bytes", packet, &(least..=BrokerLimits::PACKET_MAX))?;
    within("limits.broker_queued_bytes", broker.queued_bytes as u64, &(packet..=u64::MAX))
}

pub(super) fn bad(key: &str, why: impl Into<String>) -> ConfigError {
    SettingError::bad(key, why).into()
}

impl Settings {
    /// The settings as JSON, with secrets hidden.
    pub fn shown(&self) -> String {
        let shown = serde_json::to_value(self).map(without_credentials);
        shown.map_or_else(|e| format!("(cannot be shown: {e})"), |value| format!("{value:#}"))
    }
}

/// User names, passwords and queries of URLs are no one's business, at whichever key.
fn without_credentials(value: Value) -> Value {
    match value {
        Value::Object(table) => table.into_iter().map(|(key, value)| (key, without_credentials(value))).collect(),
        Value::Array(list) => list.into_iter().map(without_credentials).collect(),
        Value::String(text) => match Url::parse(&text) {
            Ok(mut url) if url.password().is_some() || !url.username().is_empty() || url.query().is_some() => {
                url.set_query(None);
                let bare = url.set_password(None).and_then(|()| url.set_username(""));
                bare.map_or_else(|()| "(secret)".to_owned(), |()| url.to_string()).into()
            }
            _ => Value::String(text),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests;
