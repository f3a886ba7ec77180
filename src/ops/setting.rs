//! What the settings of every part are made of: key, type, default and range of a setting stand in one place, its field.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Declares the settings of a part: `"key" pub field: Type = default, in range;`. Without a key, the field's name is the
/// key; without a range, all that the type can hold may be set. Fields that are no settings are `#[serde(skip)]`.
macro_rules! settings {
    (
        $(#[$about:meta])*
        pub struct $Name:ident {
            $($(#[$attribute:meta])* $($key:literal)? pub $field:ident: $type:ty = $default:expr $(, in $range:expr)?;)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $Name {
            $($(#[$attribute])* $(#[serde(rename = $key)])? pub $field: $type,)*
        }

        impl Default for $Name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }

        impl $crate::ops::setting::Settings for $Name {
            const RANGES: &'static [$crate::ops::setting::Range] =
                &[$($crate::ops::setting::range!($field [$($key)?] [$($range)?])),*];
        }
    };
}

/// The range of one field of [`settings`], by its key.
macro_rules! range {
    ($field:ident [] [$($range:expr)?]) => { $crate::ops::setting::range!($field [stringify!($field)] [$($range)?]) };
    ($field:ident [$key:expr] []) => { ($key, None) };
    ($field:ident [$key:expr] [$range:expr]) => { ($key, Some($range)) };
}

pub(crate) use {range, settings};

/// A key, and from where to where its number goes, in the unit of the key.
pub type Range = (&'static str, Option<RangeInclusive<u64>>);

/// The settings of a part.
pub trait Settings: Serialize {
    /// The range of every key.
    const RANGES: &'static [Range] = &[];

    /// Checks that each number is in its range. `section` is where the keys stand, or empty for the keys alone.
    ///
    /// # Errors
    /// Names the first key that is not.
    fn check_ranges(&self, section: &str) -> Result<(), SettingError> {
        let shown = serde_json::to_value(self).unwrap_or_default();
        for (key, range) in Self::RANGES {
            let (Some(range), Some(number)) = (range, shown[key].as_u64()) else { continue };
            within(&path(section, key), number, range)?;
        }
        Ok(())
    }

    /// The keys that name files, and the files.
    fn files(&self, section: &str) -> Vec<(String, PathBuf)> {
        let shown = serde_json::to_value(self).unwrap_or_default();
        let named = shown.as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_file"));
        named.filter_map(|(key, file)| Some((path(section, key), file.as_str()?.into()))).collect()
    }
}

impl<T: Serialize> Settings for BTreeMap<String, T> {}

/// The key with its section, if there is one.
pub(crate) fn path(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// Checks one number.
///
/// # Errors
/// When it is out of its range.
pub fn within(key: &str, number: u64, range: &RangeInclusive<u64>) -> Result<(), SettingError> {
    if range.contains(&number) { Ok(()) } else { Err(out_of(key, range)) }
}

/// What is wrong with a number that is out of its range.
pub(crate) fn out_of(key: &str, range: &RangeInclusive<u64>) -> SettingError {
    match (range.start(), range.end()) {
        (least, &u64::MAX) => SettingError::bad(key, format!("must be at least {least}")),
        (least, most) => SettingError::bad(key, format!("must be from {least} to {most}")),
    }
}

/// What is wrong with a setting. It is the operator's to mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// A key that has to be set is not.
    #[error("`{key}` is not set: {why}")]
    Missing {
        /// The key, with its section.
        key: String,
        /// What it is needed for.
        why: String,
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

impl SettingError {
    /// A value that cannot work.
    pub fn bad(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Bad { key: key.into(), why: why.into() }
    }

    /// A key that has to be set is not.
    pub fn missing(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Missing { key: key.into(), why: why.into() }
    }
}

/// How a time stands in a key: as a whole number of units of so many seconds.
pub enum Unit<const SECONDS: u64> {}

/// The unit of keys that end in `_seconds`.
pub(crate) type Seconds = Unit<1>;
/// The unit of keys that end in `_minutes`.
pub(crate) type Minutes = Unit<60>;
/// The unit of keys that end in `_hours`.
pub(crate) type Hours = Unit<3_600>;
/// The unit of keys that end in `_days`.
pub(crate) type Days = Unit<86_400>;

impl<const SECONDS: u64> Unit<SECONDS> {
    pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(time.as_secs() / SECONDS)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(|units| Duration::from_secs(units.saturating_mul(SECONDS)))
    }
}

/// An address to listen on, or `off`.
pub mod listen_or_off {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(listen: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&listen.map_or_else(|| "off".to_owned(), |address| address.to_string()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "off" => Ok(None),
            text => {
                address(text).map(Some).map_err(|why| de::Error::custom(format!("is not \"off\", and else it {why}")))
            }
        }
    }
}

/// What an address has to be.
const WANTED: &str = "wants an address with a port, such as \"127.0.0.1:2883\", or a port alone, for this machine only";

/// Reads an IP address with a port, `localhost` with a port, or a port alone, which is one on 127.0.0.1.
///
/// # Errors
/// What would be right. The text itself is not repeated.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let on_loopback = |port: &str| Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?));
    let address = text.parse().ok().or_else(|| on_loopback(text.strip_prefix("localhost:").unwrap_or(text)));
    address.ok_or_else(|| WANTED.to_owned())
}

/// Deserializes such an address.
pub(crate) fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    address(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn a_port_alone_is_one_on_loopback() {
        for (text, read) in [
            ("2883", "127.0.0.1:2883"),
            ("localhost:2883", "127.0.0.1:2883"),
            ("0.0.0.0:1883", "0.0.0.0:1883"),
            ("[::1]:0", "[::1]:0"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), read);
        }
        for wrong in ["", "here", "127.0.0.1", ":2883", "70000", "localhost"] {
            let error = address(wrong).unwrap_err();
            assert!(error.contains("127.0.0.1:2883"), "{wrong}: {error}");
        }
    }
}
