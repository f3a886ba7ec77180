//! The `apns` block: what Apple's service is told.

use super::limits::APNS_COLLAPSE_MAX;
use super::loss::{Losses, Why};
use super::merge;
use super::message::{Message, Priority};
use super::notification::Parts;
use super::webpush::hashed;
use serde_json::{Map, Value};

/// The block's name.
pub(super) const BLOCK: &str = "apns";

const CONTENT_AVAILABLE: &str = "content-available";
const PRIORITY: &str = "apns-priority";

/// The block for `message`, with the sender's own laid over it.
///
/// A message that shows nothing goes to Apple's devices as a background push, which is priority 5 and
/// `content-available`, or without headers and payload: Google refuses any other with the words for a bad token. It is
/// one if its sender asks for something of Apple's; else FCM decides how it travels.
pub(super) fn block(
    message: &Message,
    parts: &Parts,
    theirs: Option<Value>,
    now_unix_s: u64,
    losses: &mut Losses,
) -> Map<String, Value> {
    let theirs = theirs.and_then(|block| if let Value::Object(block) = block { Some(block) } else { None });
    let theirs = theirs.unwrap_or_default();
    let asked =
        message.options.content_available || ["headers", "payload"].iter().any(|name| theirs.contains_key(*name));
    let mut block = ours(message, parts, now_unix_s);
    merge::deep(&mut block, theirs.clone());
    let shows = parts.seen_on_apple() || shows(&block);
    note(message, shows, asked, losses);
    if shows {
        return block;
    }
    if !asked {
        return theirs;
    }
    let aps = object_in(object_in(&mut block, "payload"), "aps");
    aps.insert(CONTENT_AVAILABLE.to_owned(), Value::from(1));
    let headers = object_in(&mut block, "headers");
    headers.entry("apns-push-type").or_insert_with(|| Value::from("background"));
    headers.insert(PRIORITY.to_owned(), Value::from("5"));
    let wished = theirs.get("headers").and_then(|headers| headers.get(PRIORITY));
    if wished.is_some_and(|wished| wished != "5") {
        losses.note("apns.headers.apns-priority", Why::SilentPriority);
    }
    block
}

/// What the message itself says.
fn ours(message: &Message, parts: &Parts, now_unix_s: u64) -> Map<String, Value> {
    let mut aps = Map::new();
    if !parts.alert.is_empty() {
        aps.insert("alert".to_owned(), Value::Object(parts.alert.clone()));
    }
    aps.extend(parts.aps.clone());
    let switches =
        [(message.options.content_available, CONTENT_AVAILABLE), (message.options.mutable_content, "mutable-content")];
    aps.extend(switches.into_iter().filter(|(on, _)| *on).map(|(_, name)| (name.to_owned(), Value::from(1))));
    let mut block = Map::new();
    let headers = headers(message, now_unix_s);
    if !headers.is_empty() {
        block.insert("headers".to_owned(), Value::Object(headers));
    }
    if !aps.is_empty() {
        let payload = Map::from_iter([("aps".to_owned(), Value::Object(aps))]);
        block.insert("payload".to_owned(), Value::Object(payload));
    }
    block
}

/// What the message's fields mean on Apple's devices.
fn note(message: &Message, shows: bool, asked: bool, losses: &mut Losses) {
    let collapses = if shows || asked { Why::AppleReplacesShown } else { Why::NotToApple };
    for (given, field, why) in [
        (message.options.content_available, "content_available", Why::AppleOnly),
        (message.options.mutable_content, "mutable_content", if shows { Why::AppleOnly } else { Why::NothingShown }),
        (message.collapse.is_some(), "collapse_key", collapses),
    ] {
        if given {
            losses.note(field, why);
        }
    }
}

fn headers(message: &Message, now_unix_s: u64) -> Map<String, Value> {
    let mut headers = Map::new();
    let mut set = |name: &str, value: String| {
        headers.insert(name.to_owned(), Value::from(value));
    };
    if let Some(priority) = message.priority {
        set(PRIORITY, if priority == Priority::High { "10" } else { "5" }.to_owned());
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

/// Whether Apple's part of a message shows, plays or counts something. A live activity does, by a push type of its own,
/// which FCM sets.
fn shows(block: &Map<String, Value>) -> bool {
    let aps = block.get("payload").and_then(|payload| payload.get("aps"));
    ["alert", "badge", "sound"].iter().any(|name| aps.is_some_and(|aps| aps.get(*name).is_some()))
        || block.contains_key("live_activity_token")
}

fn object_in<'a>(fields: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = fields.entry(name).or_insert_with(|| Value::Object(Map::new()));
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was made an object")
}

/// The key itself if it fits and can stand in a header, else a hash of it.
fn collapse_id(key: &str) -> String {
    let fits = key.len() <= APNS_COLLAPSE_MAX && key.bytes().all(|c| c.is_ascii_graphic());
    if fits { key.to_owned() } else { hashed(key, APNS_COLLAPSE_MAX) }
}
