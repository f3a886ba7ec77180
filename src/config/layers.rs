//! Reading the layers: the defaults, the file, the environment. What is wrong is told by the key's name, never by the
//! value: any value may be a secret, at the wrong place too.

use super::check::{ConfigError, bad};
use super::fields::{Kind, kind_of};
use super::{Settings, environment, files};
use config::{Config, File, FileFormat, Map, Source, Value, ValueKind};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

/// Similarity from 0 to 1 below which a suggestion would only confuse.
const SIMILAR: f64 = 0.5;
/// Similarity to `default_bal` from which a word in `[routes]` is meant to be it. Package names have dots.
const MEANT: f64 = 0.6;
/// The key of `[routes]` that is no app.
const DEFAULT_BAL: &str = "default_bal";

/// The layers, each key in its form, but not compared with each other.
pub(super) fn read(file: Option<&Path>, environment: &HashMap<String, OsString>) -> Result<Settings, ConfigError> {
    let mut builder = Config::builder();
    if let Some(path) = file {
        let table = Table(toml(&text(path)?).map_err(|why| ConfigError::Form(format!("{} {why}", path.display())))?);
        known_keys(&table.0, &mut Vec::new())?;
        builder = builder.add_source(table);
    }
    environment::refuse_misspelt(environment.keys())?;
    let table = Table(environment::layer(environment)?);
    known_keys(&table.0, &mut Vec::new())?;
    let layers = builder.add_source(table).build().map_err(|error| fault(&error))?;
    let settings: Settings = layers.try_deserialize().map_err(|error| fault(&error))?;
    files::no_contents(&settings)?;
    Ok(settings)
}

fn text(path: &Path) -> Result<String, ConfigError> {
    if let Some(what) = files::mistaken(&path.to_string_lossy()) {
        return Err(ConfigError::Form(format!("--config (or BRIDGE_CONFIG) wants a path; this looks like {what}")));
    }
    if !path.is_file() {
        return Err(ConfigError::Form(format!("there is no file {}", path.display())));
    }
    std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Form(format!("{} cannot be read: {error}", path.display())))
}

/// Reads TOML; the error says where and what, without the line.
pub(super) fn toml(text: &str) -> Result<Map<String, Value>, String> {
    File::from_str(text, FileFormat::Toml).collect().map_err(|error| {
        let config::ConfigError::FileParse { cause, .. } = error else { return "is not TOML".to_owned() };
        // First a line with the place, then the line itself with marks, and last what is wrong with it.
        let told = cause.to_string();
        let place = told.lines().next().and_then(|line| line.strip_prefix("TOML parse error "));
        let what = told.lines().rfind(|line| !line.trim().is_empty());
        match place.zip(what) {
            Some((place, what)) => format!("is not TOML {place}: {what} (the line may hold a secret and is not shown)"),
            None => "is not TOML".to_owned(),
        }
    })
}

/// A layer that was read already.
#[derive(Debug, Clone)]
struct Table(Map<String, Value>);

impl Source for Table {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// Refuses keys that do not exist, with the nearest right name.
fn known_keys<'a>(table: &'a Map<String, Value>, path: &mut Vec<&'a str>) -> Result<(), ConfigError> {
    let kind = kind_of::<Settings>(path);
    for (key, value) in table {
        match kind {
            Kind::Section(fields) if !fields.contains(&key.as_str()) => return Err(unknown(key, fields, path)),
            Kind::Names if *path == ["routes"] => known_route(key, value)?,
            _ => {}
        }
        if let ValueKind::Table(inner) = &value.kind {
            path.push(key);
            known_keys(inner, path)?;
            path.pop();
        }
    }
    Ok(())
}

/// An app and its BAL.
fn known_route(key: &str, value: &Value) -> Result<(), ConfigError> {
    let meant = strsim::normalized_damerau_levenshtein(&key.to_lowercase(), DEFAULT_BAL) >= MEANT;
    if key != DEFAULT_BAL && meant && !key.contains('.') {
        return Err(unknown(key, &[DEFAULT_BAL], &["routes"]));
    }
    match value.kind {
        ValueKind::String(_) => Ok(()),
        _ => Err(bad(&format!("routes.\"{key}\""), "wants the name of a BAL, as text".into())),
    }
}

fn unknown(key: &str, known: &[&str], path: &[&str]) -> ConfigError {
    let full = |key: &str| path.iter().chain([&key]).copied().collect::<Vec<_>>().join(".");
    let nearest = known
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(key, name), *name))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| full(name));
    ConfigError::UnknownKey { key: full(key), nearest }
}

/// What the library found wrong, without the value, which it would quote.
fn fault(error: &config::ConfigError) -> ConfigError {
    let (key, own) = match error {
        config::ConfigError::Type { key: Some(key), .. } => (key, None),
        config::ConfigError::At { key: Some(key), error, .. } => match &**error {
            config::ConfigError::Message(own) => (key, Some(own)),
            _ => (key, None),
        },
        _ => return ConfigError::Form("a value has the wrong form".into()),
    };
    let path: Vec<&str> = key.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect();
    match (kind_of::<Settings>(&path), own) {
        // Only types of ours refuse a text, and they do not repeat it.
        (Kind::Text, Some(own)) => bad(key, own.clone()),
        (kind, _) => bad(key, format!("wants {kind}")),
    }
}
