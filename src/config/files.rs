//! The files that keys name: they can be read, and they are not given in place of their names.

use super::check::{ConfigError, bad};
use super::{Engine, Settings, transports};
use crate::ops::setting::Settings as _;
use serde_json::Value;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Longest path that a system takes, in bytes.
const PATH_MAX: usize = 4_096;

/// What a text is that cannot be a path, if it is none.
pub(crate) fn mistaken(text: &str) -> Option<&'static str> {
    let text = text.trim();
    if text.contains("-----BEGIN") {
        Some("a key or a certificate (PEM)")
    } else if ["{", "[{", "[\""].iter().any(|start| text.starts_with(start)) {
        Some("JSON")
    } else if text.contains(char::is_control) {
        Some("more than one line")
    } else if text.len() > PATH_MAX {
        Some("something longer")
    } else {
        None
    }
}

/// Refuses what belongs into a file where its name should stand. Secrets themselves are hidden by then.
pub(super) fn no_contents(settings: &Settings) -> Result<(), ConfigError> {
    fn walk(key: &str, value: &Value) -> Result<(), ConfigError> {
        match value {
            Value::Object(table) => table.iter().try_for_each(|(name, value)| {
                walk(&if key.is_empty() { name.clone() } else { format!("{key}.{name}") }, value)
            }),
            Value::Array(list) => list.iter().try_for_each(|value| walk(key, value)),
            Value::String(text) => match mistaken(text) {
                Some(what) if is_path(key) => Err(bad(key, format!("wants a path; this looks like {what}"))),
                Some(what) => Err(bad(key, format!("does not take {what}"))),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
    walk("", &serde_json::to_value(settings).unwrap_or_default())
}

fn is_path(key: &str) -> bool {
    key.ends_with("_file") || ["store.path", "broker.data"].contains(&key)
}

impl Settings {
    /// Checks that each file that `run` reads can be read; what is in it is for the parts to see.
    ///
    /// # Errors
    /// Names the key, and why its file cannot be read.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        let mut named: Vec<(String, PathBuf)> = Vec::new();
        if transports::runs_ccs(self)? {
            named.extend(self.ccs.files("ccs"));
        }
        for (transport, fcm) in self.fcm.configured() {
            named.extend(fcm.files(&transports::section(&transport)));
        }
        match self.engine() {
            None => named.extend(self.mqtt.client.files("mqtt")),
            Some(Engine::Rumqttd) => {}
            Some(Engine::Embedded) => named.extend(self.broker.files_in_use()),
        }
        let missing = named.iter().find_map(|(key, path)| Some((key, path, readable(path).err()?)));
        missing.map_or(Ok(()), |(key, path, error)| Err(unreadable(key, path, &error)))
    }
}

fn readable(path: &Path) -> io::Result<()> {
    if File::open(path)?.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(()) }
}

/// Ends of names that files of keys, certificates and accounts have, and no secret.
const ENDS: [&str; 7] = [".pem", ".json", ".key", ".crt", ".cer", ".txt", ".jwks"];

/// The path, if it is one beyond doubt: a secret may stand there by mistake, and is not repeated.
fn undoubted(path: &Path) -> Option<std::path::Display<'_>> {
    let text = path.to_str()?;
    let is_in_a_folder = |folder: &Path| ![Path::new(""), Path::new("/")].contains(&folder) && folder.is_dir();
    let is_one = path.ancestors().skip(1).any(is_in_a_folder) || ENDS.iter().any(|end| text.ends_with(end));
    (is_one && !text.contains("://")).then(|| path.display())
}

/// Names the key, and the path where that is one beyond doubt.
pub(crate) fn unreadable(key: &str, path: &Path, error: &io::Error) -> ConfigError {
    let named = undoubted(path).map(|path| format!(", {path}")).unwrap_or_default();
    let hint = match std::env::current_dir() {
        Ok(folder) if path.is_relative() => format!("; a relative path begins at {}", folder.display()),
        _ => String::new(),
    };
    let origin = if key.ends_with("credentials_file") && !key.starts_with("--") {
        " (or GOOGLE_APPLICATION_CREDENTIALS)"
    } else {
        ""
    };
    bad(key, format!("{origin} names a file that cannot be read{named}: {error}{hint}").trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_unless_it_may_be_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("absent");
        for path in [missing.to_str().unwrap(), "nowhere.json", "/nowhere/at/all/ca.pem"] {
            let told = unreadable("fcm.ca_file", Path::new(path), &io::ErrorKind::NotFound.into()).to_string();
            assert!(told.contains(&format!("cannot be read, {path}: ")), "{told}");
        }
        for secret in ["AIzaSyKey", "AAAA7:APA91b_x", "/base64/of+something==", "mqtt://bridge:hush@127.0.0.1/x.key"] {
            let told = unreadable("ccs.api_key_file", Path::new(secret), &io::ErrorKind::NotFound.into()).to_string();
            assert!(!told.contains(secret), "{told}");
        }
    }

    #[test]
    fn what_is_no_path_is_told_from_one() {
        for text in ["{\"private_key\": \"x\"}", " [{}]", "-----BEGIN PRIVATE KEY-----\nx", "a\nb"] {
            assert!(mistaken(text).is_some(), "{text}");
        }
        assert!(mistaken(&"x".repeat(5_000)).is_some());
        for text in ["config/ccs.key", "/run/secrets/key", "[::1]:1883", "C:\\keys", "a b.json"] {
            assert_eq!(mistaken(text), None, "{text}");
        }
    }
}
