//! Reading the layers and checking them.

use super::{BrokerKind, Ccs, Engine, Limits, Loaded, Routes, Settings, files, layers, listeners, rumqttd, transports};
use crate::chat::id::{NameError, Owner};
use crate::ops::files::{read_secret, without_line_end};
use crate::secret::Secret;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use url::Url;

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
    /// A key that has to be set is not.
    #[error("`{key}` is not set: {why}")]
    Missing {
        /// The key, with its section.
        key: &'static str,
        /// What it is needed for.
        why: &'static str,
    },
    /// A value that cannot work.
    #[error("`{key}`: {why}")]
    Bad {
        /// The key, with its section.
        key: String,
        /// What is wrong with the value. Never holds a secret.
        why: String,
    },
}

pub(super) fn load(file: Option<&Path>, environment: &HashMap<String, OsString>) -> Result<Loaded, ConfigError> {
    let mut settings = layers::read(file, environment)?;
    if let Some(path) = environment.get(transports::GOOGLE_CREDENTIALS).filter(|path| !path.is_empty()) {
        if let Some(what) = files::mistaken(&path.to_string_lossy()) {
            return Err(bad(transports::GOOGLE_CREDENTIALS, format!("wants a path; this looks like {what}")));
        }
        transports::adopt(&mut settings, Path::new(path))?;
    }
    finish(settings)
}

fn finish(settings: Settings) -> Result<Loaded, ConfigError> {
    let api_key = if transports::runs_ccs(&settings.ccs, &settings.transport)? {
        check_ccs(&settings.ccs)?;
        Some(api_key(&settings.ccs)?)
    } else {
        None
    };
    transports::check(&settings)?;
    let mqtt_password = secret(
        "mqtt.password",
        "mqtt.password_file",
        settings.mqtt.password.as_ref(),
        settings.mqtt.password_file.as_ref(),
    )?;
    check_mqtt(&settings)?;
    listeners::check_apart(&settings)?;
    check_limits(&settings.limits)?;
    owners(&settings.routes)?;
    for bal in settings.bals.keys() {
        owner(&format!("bals.{bal}"), bal)?;
    }
    Ok(Loaded { settings, api_key, mqtt_password })
}

fn api_key(ccs: &Ccs) -> Result<Secret, ConfigError> {
    secret("ccs.api_key", "ccs.api_key_file", ccs.api_key.as_ref(), ccs.api_key_file.as_ref())?.ok_or(
        ConfigError::Missing { key: "ccs.api_key_file", why: "the CCS server asks for it (or set `ccs.api_key`)" },
    )
}

fn secret(
    key: &str,
    file_key: &str,
    value: Option<&Secret>,
    file: Option<&PathBuf>,
) -> Result<Option<Secret>, ConfigError> {
    match (value, file) {
        (Some(_), Some(_)) => Err(bad(key, format!("set either this or `{file_key}`, not both"))),
        (Some(value), None) => match without_line_end(value.reveal()) {
            text if text.trim().is_empty() => Err(bad(key, "is empty".into())),
            text => Ok(Some(Secret::new(text))),
        },
        (None, Some(path)) => match read_secret(path) {
            Ok(text) if text.trim().is_empty() => {
                Err(bad(file_key, "names a file with nothing but blanks in it".into()))
            }
            Ok(text) => Ok(Some(Secret::new(text))),
            Err(error) => Err(files::unreadable(file_key, path, &error)),
        },
        (None, None) => Ok(None),
    }
}

fn check_ccs(ccs: &Ccs) -> Result<(), ConfigError> {
    if ccs.sender_id.is_empty() {
        return Err(ConfigError::Missing { key: "ccs.sender_id", why: "it is the user name at the CCS server" });
    }
    if ccs.sender_id.contains(['@', '/', '\0']) || ccs.sender_id.chars().any(char::is_whitespace) {
        return Err(bad("ccs.sender_id", "is the number alone, without `@` and what follows it".into()));
    }
    if ccs.host.is_empty() || ccs.domain.is_empty() {
        return Err(bad(if ccs.host.is_empty() { "ccs.host" } else { "ccs.domain" }, "is empty".into()));
    }
    Ok(())
}

fn check_mqtt(settings: &Settings) -> Result<(), ConfigError> {
    match settings.mqtt.broker {
        BrokerKind::Embedded => {
            if settings.broker.engine == Engine::Rumqttd {
                return rumqttd::check(settings);
            }
            if cfg!(not(feature = "broker")) {
                return Err(bad("mqtt.broker", "this build has no embedded broker; use \"external\"".into()));
            }
            listeners::check(&settings.broker)?;
        }
        BrokerKind::External => {
            if settings.mqtt.client_id.is_empty() {
                return Err(bad("mqtt.client_id", "is empty; the broker keeps the bridge's session under it".into()));
            }
        }
    }
    Ok(())
}

fn check_limits(limits: &Limits) -> Result<(), ConfigError> {
    // topics.md promises payloads of up to 65,536 bytes; the broker takes at most 1 MiB.
    within("limits.payload_bytes", limits.payload_bytes, 1_024, 1_048_576)?;
    within("limits.inflight_publishes", limits.inflight_publishes, 1, 60_000)?;
    within("limits.topic_window", limits.topic_window, 1, 10_000)?;
    listeners::check_limits(limits)?;
    for (key, value) in [
        ("limits.queue_rows", limits.queue_rows),
        ("limits.queue_bytes", limits.queue_bytes),
        ("limits.spool_rows", limits.spool_rows),
        ("limits.spool_bytes", limits.spool_bytes),
        ("limits.history_hours", limits.history_hours),
        ("limits.history_rows", limits.history_rows),
        ("limits.retry_max_seconds", limits.retry_max_seconds),
        ("limits.stop_seconds", limits.stop_seconds),
    ] {
        if value == 0 {
            return Err(bad(key, "must be at least 1".into()));
        }
    }
    Ok(())
}

pub(super) fn within(key: &str, value: usize, least: usize, most: usize) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(bad(key, format!("must be from {least} to {most}"))) }
}

pub(super) fn owners(routes: &Routes) -> Result<(BTreeMap<String, Owner>, Option<Owner>), ConfigError> {
    let categories = routes
        .categories
        .iter()
        .map(|(category, bal)| Ok((category.clone(), owner(&format!("routes.\"{category}\""), bal)?)))
        .collect::<Result<_, ConfigError>>()?;
    let default = routes.default_bal.as_ref().map(|bal| owner("routes.default_bal", bal)).transpose()?;
    Ok((categories, default))
}

fn owner(key: &str, name: &str) -> Result<Owner, ConfigError> {
    Owner::new(name).map_err(|e: NameError| bad(key, format!("this cannot be the name of a BAL: it {e}")))
}

pub(super) fn bad(key: &str, why: String) -> ConfigError {
    ConfigError::Bad { key: key.to_owned(), why }
}

pub(super) fn shown(settings: &Settings) -> String {
    let shown = serde_json::to_value(settings).map(without_credentials);
    shown.map_or_else(|e| format!("(cannot be shown: {e})"), |value| format!("{value:#}"))
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
