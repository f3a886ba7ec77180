//! The `apns` block: what Apple's service is told.

use super::limits::APNS_COLLAPSE_MAX;
use super::loss::{Losses, Why};
use super::message::{Message, Priority};
use super::notification::Parts;
use super::webpush::hashed;
use serde_json::{Map, Value};

/// The block's name.
pub(super) const BLOCK: &str = "apns";

const CONTENT_AVAILABLE: &str = "content-available";

/// The block without its headers; they depend on what else will be in it.
pub(super) fn block(message: &Message, parts: &Parts, losses: &mut Losses) -> Map<String, Value> {
    let mut aps = Map::new();
    if !parts.alert.is_empty() {
        aps.insert("alert".to_owned(), Value::Object(parts.alert.clone()));
    }
    aps.extend(parts.aps.clone());
    let switches = [
        (message.options.content_available, "content_available", CONTENT_AVAILABLE),
        (message.options.mutable_content, "mutable_content", "mutable-content"),
    ];
    for (_, field, name) in switches.into_iter().filter(|(on, ..)| *on) {
        losses.note(field, Why::AppleOnly);
        aps.insert(name.to_owned(), Value::from(1));
    }
    if message.collapse.is_some() {
        losses.note("collapse_key", Why::AppleReplacesShown);
    }
    let mut block = Map::new();
    if !aps.is_empty() {
        let payload = Map::from_iter([("aps".to_owned(), Value::Object(aps))]);
        block.insert("payload".to_owned(), Value::Object(payload));
    }
    block
}

/// The headers for a block that everything else is in already.
pub(super) fn headers(
    message: &Message,
    seen: bool,
    block: Option<&Map<String, Value>>,
    now_unix_s: u64,
) -> Map<String, Value> {
    let mut headers = Map::new();
    let mut set = |name: &str, value: String| {
        headers.insert(name.to_owned(), Value::from(value));
    };
    let priority = message.priority.map(|priority| if priority == Priority::High { "10" } else { "5" });
    if is_background(seen, block) {
        set("apns-push-type", "background".to_owned());
        // Apple refuses any other for a push that shows nothing.
        set("apns-priority", "5".to_owned());
    } else if let Some(priority) = priority {
        set("apns-priority", priority.to_owned());
    }
    if let Some(seconds) = message.ttl_s {
        // Apple's 0 means the same: try once, keep nothing.
        let expiration = if seconds == 0 { 0 } else { now_unix_s.saturating_add(u64::from(seconds)) };
        set("apns-expiration", expiration.to_string());
    }
    if let Some(key) = &message.collapse {
        set("apns-collapse-id", collapse_id(key));
    }
    headers
}

/// Whether the push only wakes the app. A live activity has a push type of its own, which FCM sets.
fn is_background(seen: bool, block: Option<&Map<String, Value>>) -> bool {
    let Some(block) = block else { return false };
    let Some(Value::Object(aps)) = block.get("payload").and_then(|payload| payload.get("aps")) else { return false };
    let shows = ["alert", "badge", "sound"].iter().any(|name| aps.contains_key(*name));
    aps.get(CONTENT_AVAILABLE).and_then(Value::as_u64) == Some(1)
        && !seen
        && !shows
        && !block.contains_key("live_activity_token")
}

/// The key itself if it fits and can stand in a header, else a hash of it.
fn collapse_id(key: &str) -> String {
    let fits = key.len() <= APNS_COLLAPSE_MAX && key.bytes().all(|c| c.is_ascii_graphic());
    if fits { key.to_owned() } else { hashed(key, APNS_COLLAPSE_MAX) }
}
