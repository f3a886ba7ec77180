//! The layer of the environment: `BRIDGE__SECTION__KEY`. `config/bridge.toml` explains the form to operators.

use super::check::{ConfigError, bad};
use super::fields::Kind;
use super::layers;
use super::sections::kind_at;
use config::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;

const PREFIX: &str = "BRIDGE__";
const SEPARATOR: &str = "__";
/// What all variables that look like ours begin with.
const FAMILY: &str = "BRIDGE_";
/// Arguments of commands that the environment can give as well.
const ARGUMENTS: [&str; 1] = ["BRIDGE_CONFIG"];
/// Similarity from 0 to 1 from which a variable is one of ours, misspelt.
const MISSPELT: f64 = 0.9;

/// The variables of this process, those whose names are text.
pub(super) fn variables() -> HashMap<String, OsString> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
}

/// What the variables set, as the file would have it.
pub(super) fn layer(variables: &HashMap<String, OsString>) -> Result<Map<String, Value>, ConfigError> {
    let mut layer = Map::new();
    // A whole table comes before what it holds, so that the latter is over it.
    for (name, value) in variables.iter().collect::<BTreeMap<_, _>>() {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let text = value.to_str().ok_or_else(|| bad(name, "is not UTF-8"))?;
        let path = path_of(rest);
        let kind = kind_at(&path.iter().map(String::as_str).collect::<Vec<_>>());
        let value = value_of(&kind, text).map_err(|why| bad(name, why))?;
        let inside = |value: Value, key: String| Value::from(Map::from([(key, value)]));
        let whole = path.into_iter().rev().fold(value, inside);
        layers::overlay(&mut layer, whole.into_table().unwrap_or_default());
    }
    Ok(layer)
}

/// The keys that a name stands for. Ours have small letters; names of the operator's own are taken as they are, but if
/// they are all in capitals, as names of variables often have to be.
fn path_of(rest: &str) -> Vec<String> {
    let mut path: Vec<String> = Vec::new();
    let mut rest = Some(rest);
    while let Some(text) = rest {
        let at: Vec<&str> = path.iter().map(String::as_str).collect();
        let (key, more) = match kind_at(&at) {
            // What follows an app is nothing of ours, so its name may have the separator in it.
            Kind::Names if kind_at(&[&at[..], &["_"]].concat()) == Kind::Text => (own_name(text), None),
            Kind::Names => text
                .rsplit_once(SEPARATOR)
                .map_or_else(|| (own_name(text), None), |(name, key)| (own_name(name), Some(key))),
            _ => text
                .split_once(SEPARATOR)
                .map_or_else(|| (text.to_lowercase(), None), |(key, more)| (key.to_lowercase(), Some(more))),
        };
        path.push(key);
        rest = more;
    }
    path
}

fn own_name(name: &str) -> String {
    if name.chars().any(char::is_lowercase) { name.to_owned() } else { name.to_lowercase() }
}

/// Lists and tables are TOML; a list may also be texts with commas between.
fn value_of(kind: &Kind, text: &str) -> Result<Value, String> {
    let start = text.trim_start().chars().next();
    match kind {
        Kind::List if start != Some('[') => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Ok(parts.collect::<Vec<_>>().into())
        }
        Kind::Section(_) | Kind::Names if start != Some('{') => Err(wanted(kind)),
        Kind::List | Kind::Section(_) | Kind::Names => {
            let mut table = layers::toml(&format!("value = {text}")).unwrap_or_default();
            table.remove("value").filter(|_| table.is_empty()).ok_or_else(|| {
                let is_json = serde_json::from_str::<serde_json::Value>(text).is_ok();
                wanted(kind)
                    + if is_json { "; this is JSON: in TOML `=` stands between key and value, not `:`" } else { "" }
            })
        }
        _ => Ok(text.into()),
    }
}

fn wanted(kind: &Kind) -> String {
    let example = if *kind == Kind::List { "[\"a\", \"b\"]" } else { "{ \"com.example.chat\" = \"client1\" }" };
    format!("wants {kind}, in TOML and on one line, such as '{example}'")
}

/// Refuses variables that are meant for a key and would be passed over, such as `BRIDGE_CCS_HOST`.
pub(super) fn refuse_misspelt<'a>(names: impl Iterator<Item = &'a String>) -> Result<(), ConfigError> {
    let known = keys();
    for name in names.filter(|name| !ARGUMENTS.contains(&name.as_str())) {
        let (bare, is_ours) = (single(name), name.starts_with(PREFIX));
        // Of those in our form, unknown keys are refused by their sections; here are those with too few underscores.
        let least = if is_ours { 1.0 } else { MISSPELT };
        // Most of an environment is nothing of ours; a look at the first letters spares the comparison.
        if !bare.starts_with('B') || is_ours && known.contains(&name.to_uppercase()) {
            continue;
        }
        if let Some((_, key)) = layers::nearest(&bare, known.iter().map(|key| (single(key), key)), least) {
            return Err(bad(name, format!("is no variable of the bridge; did you mean `{key}`?")));
        }
    }
    Ok(())
}

/// Variables that begin like a section of ours and are not read: to be warned of.
pub(super) fn unread<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let Kind::Section(sections) = kind_at(&[]) else { return Vec::new() };
    let sections: Vec<String> = sections.iter().map(|section| format!("{FAMILY}{section}_").to_uppercase()).collect();
    let is_unread = |name: &&String| {
        let bare = name.to_uppercase();
        !name.starts_with(PREFIX) && sections.iter().any(|section| single(&bare).starts_with(section))
    };
    let mut unread: Vec<String> = names.filter(is_unread).cloned().collect();
    unread.sort();
    unread
}

/// In capitals, and one underscore where there are several.
fn single(name: &str) -> String {
    let mut single = name.to_uppercase();
    while single.contains(SEPARATOR) {
        single = single.replace(SEPARATOR, "_");
    }
    single
}

/// The variable of each key that has a name of its own.
fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    let mut paths: Vec<Vec<&'static str>> = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        match kind_at(&path) {
            Kind::Section(fields) => paths.extend(fields.iter().map(|field| [&path[..], &[*field]].concat())),
            _ => keys.push(format!("{PREFIX}{}", path.join(SEPARATOR)).to_uppercase()),
        }
    }
    keys.push(format!("{PREFIX}ROUTES__DEFAULT_BAL"));
    keys
}
