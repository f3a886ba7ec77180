//! What is pushed: the part of a BAL's message that goes to a device, in words that no transport owns.

use super::id::Token;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// Longest time to live: four weeks, in seconds (CCS and FCM agree on it).
pub const TTL_MAX: u32 = 2_419_200;

/// Where a push goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// One device.
    Token(#[serde(serialize_with = "reveal", deserialize_with = "token")] Token),
    /// All devices subscribed to an FCM topic; the name has no `/topics/` in front.
    Topic(String),
    /// All devices that an expression over topics matches.
    Condition(String),
}

/// How urgent a push is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Wakes the device.
    High,
    /// May wait until the device is awake.
    Normal,
}

/// One push, checked: what a transport translates to its own wire format. Its JSON is its form on disk, with the token in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Push {
    /// Who gets it.
    pub target: Target,
    /// The application's data; every value is a string by now.
    pub data: Map<String, Value>,
    /// What the device shows by itself, field by field as in topics.md.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notification: Option<Map<String, Value>>,
    /// How urgent it is.
    pub priority: Priority,
    /// Messages with the same key replace each other while the device is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapse: Option<String>,
    /// Whether the sender asked to hear of the delivery.
    pub receipt: bool,
    /// Fields handed through to the push service (`content_available`, `mutable_content`, `restricted_package_name`,
    /// `dry_run`, ...), merged last.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fcm: Map<String, Value>,
}

fn reveal<S: Serializer>(token: &Token, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.reveal())
}

fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Token, D::Error> {
    Token::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The words of `fcm` by which the push service is to check a message and not to deliver it: those of CCS and of v1, in
/// either spelling.
pub const CHECK_ONLY: [&str; 4] = ["dry_run", "dryRun", "validate_only", "validateOnly"];

/// Whether a field is one of [`CHECK_ONLY`] in some spelling, be it one that is not taken (any more).
pub fn is_check_only(name: &str) -> bool {
    matches!(&*plain(name), "dryrun" | "validateonly")
}

/// The field of `fcm` that asks to check a message and not to deliver it, if one does: of several words the strictest
/// counts. What is not plainly no is yes, in whatever spelling: an earlier release took any, and a push that somebody
/// wanted held back must not leave.
pub fn asks_to_check_only(fcm: &Map<String, Value>) -> Option<&str> {
    let asks = |(name, value): &(&String, &Value)| is_check_only(name) && !value.is_null() && **value != false;
    fcm.iter().find(asks).map(|(name, _)| name.as_str())
}

/// A name without what its spellings differ in: `time_to_live`, `timeToLive` and `time-to-live` are one.
pub fn plain(name: &str) -> String {
    name.replace(['_', '-'], "").to_ascii_lowercase()
}
