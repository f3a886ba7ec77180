//! Reading the layers and checking them.

use super::{
    Bal, Broker, BrokerKind, Ccs, Engine, Fcm, FcmProject, Limits, Loaded, Log, Mqtt, Ops, Routes, Settings, Store,
    Transport, fields, front_door, rumqttd, transports,
};
use crate::chat::id::{NameError, Owner};
use crate::secret::Secret;
use config::{Config, Environment, File, FileFormat, Map, Source, Value, ValueKind};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// Prefix of the environment variables that set a key: `BRIDGE__CCS__API_KEY`.
const ENV_PREFIX: &str = "BRIDGE";
const ENV_SEPARATOR: &str = "__";

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read, or a value has the wrong form.
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
    /// A file named by a key could not be read.
    #[error("`{key}` names {}: {source}", .path.display())]
    Unreadable {
        /// The key, with its section.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

pub(super) fn load(file: Option<&Path>, mut environment: HashMap<String, String>) -> Result<Loaded, ConfigError> {
    let credentials = environment.remove(transports::GOOGLE_CREDENTIALS).filter(|path| !path.is_empty());
    let mut settings = read(file, environment)?;
    if let Some(path) = credentials {
        transports::adopt(&mut settings, Path::new(&path))?;
    }
    finish(settings)
}

/// The layers, each key in its form, but not compared with each other.
pub(super) fn read(file: Option<&Path>, environment: HashMap<String, String>) -> Result<Settings, ConfigError> {
    let form = |e: config::ConfigError| ConfigError::Form(e.to_string());
    let mut builder = Config::builder();
    if let Some(path) = file {
        if !path.is_file() {
            return Err(ConfigError::Form(format!("there is no file {}", path.display())));
        }
        let source = File::from(path).format(FileFormat::Toml);
        known_keys(&source.collect().map_err(form)?)?;
        builder = builder.add_source(source);
    }
    let variables: Map<String, String> =
        environment.into_iter().filter(|(name, _)| name.starts_with("BRIDGE__")).collect();
    let source = Environment::with_prefix(ENV_PREFIX)
        .prefix_separator(ENV_SEPARATOR)
        .separator(ENV_SEPARATOR)
        .source(Some(variables));
    known_keys(&nested(source.collect().map_err(form)?))?;
    builder.add_source(source).build().map_err(form)?.try_deserialize().map_err(form)
}

/// The environment names keys as `section.key`; the file nests them.
fn nested(flat: Map<String, Value>) -> Map<String, Value> {
    let mut sections: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut top = Map::new();
    for (key, value) in flat {
        match key.split_once('.') {
            Some((section, rest)) => {
                sections.entry(section.to_owned()).or_default().insert(rest.to_owned(), value);
            }
            None => {
                top.insert(key, value);
            }
        }
    }
    top.extend(sections.into_iter().map(|(section, table)| (section, Value::from(table))));
    top
}

fn known_keys(tree: &Map<String, Value>) -> Result<(), ConfigError> {
    let sections = fields::of::<Settings>();
    for (section, value) in tree {
        if !sections.contains(&section.as_str()) {
            return Err(unknown(section, sections, ""));
        }
        let ValueKind::Table(table) = &value.kind else { continue };
        match section.as_str() {
            "transport" => table_keys(section, table, fields::of::<Transport>())?,
            "ccs" => table_keys(section, table, fields::of::<Ccs>())?,
            "fcm" => {
                table_keys(section, table, fields::of::<Fcm>())?;
                for (project, table) in tables(table.get("projects")) {
                    table_keys(&format!("fcm.projects.{project}"), table, fields::of::<FcmProject>())?;
                }
            }
            "mqtt" => table_keys(section, table, fields::of::<Mqtt>())?,
            "broker" => table_keys(section, table, fields::of::<Broker>())?,
            "store" => table_keys(section, table, fields::of::<Store>())?,
            "ops" => table_keys(section, table, fields::of::<Ops>())?,
            "log" => table_keys(section, table, fields::of::<Log>())?,
            "limits" => table_keys(section, table, fields::of::<Limits>())?,
            "bals" => {
                for (bal, value) in table {
                    if let ValueKind::Table(table) = &value.kind {
                        table_keys(&format!("bals.{bal}"), table, fields::of::<Bal>())?;
                    }
                }
            }
            // The keys of `routes` are package names.
            _ => {}
        }
    }
    Ok(())
}

/// The tables in a table.
fn tables(value: Option<&Value>) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
    let within = value.and_then(|value| if let ValueKind::Table(table) = &value.kind { Some(table) } else { None });
    within.into_iter().flatten().filter_map(|(name, value)| match &value.kind {
        ValueKind::Table(table) => Some((name, table)),
        _ => None,
    })
}

fn table_keys(section: &str, table: &Map<String, Value>, known: &[&str]) -> Result<(), ConfigError> {
    let stranger = table.keys().find(|key| !known.contains(&key.as_str()));
    stranger.map_or(Ok(()), |key| Err(unknown(key, known, &format!("{section}."))))
}

fn unknown(key: &str, known: &[&str], prefix: &str) -> ConfigError {
    /// Similarity from 0 to 1 below which a suggestion would only confuse.
    const SIMILAR: f64 = 0.5;
    let nearest = known
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(key, name), *name))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("{prefix}{name}"));
    ConfigError::UnknownKey { key: format!("{prefix}{key}"), nearest }
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
    file_key: &'static str,
    value: Option<&Secret>,
    file: Option<&PathBuf>,
) -> Result<Option<Secret>, ConfigError> {
    let text = match (value, file) {
        (Some(_), Some(_)) => return Err(bad(key, format!("set either this or `{file_key}`, not both"))),
        (Some(value), None) => value.reveal().to_owned(),
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            key: file_key,
            path: path.clone(),
            source,
        })?,
        (None, None) => return Ok(None),
    };
    // Editors and `echo` leave a line end behind the secret.
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(bad(if file.is_some() { file_key } else { key }, "is empty".into()));
    }
    Ok(Some(Secret::new(text)))
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
    within("ccs.window", ccs.window, 1, 10_000)?;
    // More than 1,000 connections of one sender are refused by Google's server.
    within("ccs.connections", ccs.connections, 1, 1_000)
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
            front_door::check(&settings.broker)?;
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
    front_door::check_limits(limits)?;
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
    if (least..=most).contains(&value) {
        Ok(())
    } else {
        Err(bad(key, format!("{value} is not within {least} to {most}")))
    }
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
    Owner::new(name).map_err(|e: NameError| bad(key, format!("`{name}` cannot be the name of a BAL: it {e}")))
}

pub(super) fn bad(key: &str, why: String) -> ConfigError {
    ConfigError::Bad { key: key.to_owned(), why }
}

pub(super) fn shown(settings: &Settings) -> String {
    serde_json::to_string_pretty(settings).unwrap_or_else(|e| format!("(cannot be shown: {e})"))
}

#[cfg(test)]
mod tests;
