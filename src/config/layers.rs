//! Reading the layers: the defaults, the file, the environment. What is wrong is told by the key's name, never by the
//! value: any value may be a secret, at the wrong place too.

use super::check::{ConfigError, bad};
use super::fields::Kind;
use super::sections::{Sections, kind_at};
use super::{Settings, environment, files};
use crate::ops::setting::SettingError;
use config::{File, FileFormat, Map, Source, Value, ValueKind};
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

/// Similarity from 0 to 1 below which a suggestion would only confuse.
const SIMILAR: f64 = 0.5;
/// Similarity to `default_bal` from which a word in `[routes]` is meant to be it. Package names have dots.
const MEANT: f64 = 0.6;
/// The key of `[routes]` that is no app.
const DEFAULT_BAL: &str = "default_bal";

/// The layers, each key in its form, but not compared with each other; and the first number that is out of its range.
pub(super) fn read(
    file: Option<&Path>,
    environment: &HashMap<String, OsString>,
) -> Result<(Settings, Option<SettingError>), ConfigError> {
    let mut values = match file {
        Some(path) => toml(&text(path)?).map_err(|why| ConfigError::Form(format!("{} {why}", path.display())))?,
        None => Map::new(),
    };
    known_keys(&values, &mut Vec::new())?;
    environment::refuse_misspelt(environment.keys())?;
    let layer = environment::layer(environment)?;
    known_keys(&layer, &mut Vec::new())?;
    overlay(&mut values, layer);
    let mut sections = Sections::new(values);
    let settings = Settings::compose(&mut sections)?;
    files::no_contents(&settings)?;
    Ok((settings, sections.out_of_range))
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

/// Puts what `over` sets above what `table` sets.
pub(super) fn overlay(table: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (table.get_mut(&key).map(|under| &mut under.kind), value.kind) {
            (Some(ValueKind::Table(under)), ValueKind::Table(over)) => overlay(under, over),
            (_, kind) => drop(table.insert(key, kind.into())),
        }
    }
}

/// Refuses keys that do not exist, with the nearest right name.
fn known_keys<'a>(table: &'a Map<String, Value>, path: &mut Vec<&'a str>) -> Result<(), ConfigError> {
    let kind = kind_at(path);
    for (key, value) in table {
        match &kind {
            Kind::Section(fields) if !fields.contains(&key.as_str()) => return Err(unknown(key, fields, path)),
            Kind::Names if *path == ["routes"] => known_route(key, value)?,
            _ => {}
        }
        path.push(key);
        whole(path, &value.kind)?;
        path.pop();
        if let ValueKind::Table(inner) = &value.kind {
            path.push(key);
            known_keys(inner, path)?;
            path.pop();
        }
    }
    Ok(())
}

/// Refuses what the library would round, or take for a number or a switch, without a word. From the environment all are texts.
fn whole(path: &[&str], value: &ValueKind) -> Result<(), ConfigError> {
    let kind = kind_at(path);
    let fits = match (&kind, value) {
        (Kind::Number, ValueKind::Float(_) | ValueKind::Boolean(_)) => false,
        (Kind::Number, ValueKind::String(text)) => text.parse::<i128>().is_ok(),
        (Kind::Switch, value) => matches!(value, ValueKind::Boolean(_) | ValueKind::String(_)),
        _ => true,
    };
    if fits { Ok(()) } else { Err(bad(&path.join("."), format!("wants {kind}"))) }
}

/// An app and its BAL.
fn known_route(key: &str, value: &Value) -> Result<(), ConfigError> {
    let meant = strsim::normalized_damerau_levenshtein(&key.to_lowercase(), DEFAULT_BAL) >= MEANT;
    if key != DEFAULT_BAL && meant && !key.contains('.') {
        return Err(unknown(key, &[DEFAULT_BAL], &["routes"]));
    }
    match value.kind {
        ValueKind::String(_) => Ok(()),
        _ => Err(bad(&format!("routes.\"{key}\""), "wants the name of a BAL, as text")),
    }
}

fn unknown(key: &str, known: &[&str], path: &[&str]) -> ConfigError {
    let full = |key: &str| path.iter().chain([&key]).copied().collect::<Vec<_>>().join(".");
    let nearest = nearest(key, known.iter().map(|name| (*name, ())), SIMILAR).map(|(name, ())| full(name));
    ConfigError::UnknownKey { key: full(key), nearest }
}

/// The word that is most like `wanted`, if it is like it at least, and what belongs to it.
pub(super) fn nearest<W: AsRef<str>, T>(
    wanted: &str,
    known: impl Iterator<Item = (W, T)>,
    least: f64,
) -> Option<(W, T)> {
    let similarity = |word: &W| strsim::normalized_damerau_levenshtein(wanted, word.as_ref());
    let like = known.map(|(word, of)| (similarity(&word), (word, of))).filter(|(similarity, _)| *similarity >= least);
    like.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, found)| found)
}

/// What the library found wrong in `section`, without the value, which it would quote.
pub(super) fn fault(section: &str, error: &config::ConfigError) -> ConfigError {
    let (key, own) = match error {
        config::ConfigError::Type { key, .. } => (key, None),
        config::ConfigError::At { key, error, .. } => match &**error {
            config::ConfigError::Message(own) => (key, Some(own)),
            _ => (key, None),
        },
        _ => (&None, None),
    };
    let key = key.as_ref().map_or_else(|| section.to_owned(), |key| format!("{section}.{key}"));
    let path: Vec<&str> = key.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect();
    match (kind_at(&path), own) {
        // Only types of ours refuse a text, and they do not repeat it.
        (Kind::Text, Some(own)) => bad(&key, own.clone()),
        (kind, _) => bad(&key, format!("wants {kind}")),
    }
}
