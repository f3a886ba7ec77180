//! The `android` block, or in its place `android_v2` when the sender hands one through: v1 takes one of them.

use super::loss::{Losses, Why};
use super::message::{Message, Priority};
use super::notification::Parts;
use serde_json::{Map, Value, json};

/// The block's name.
pub(super) const V1: &str = "android";
/// The newer block's name (2026, preview): instead of a priority it has kinds of messages.
pub(super) const V2: &str = "android_v2";

const REMOTE: &str = "remote_notification";
const BACKGROUND: &str = "background_sync";

/// The block for `message`: its name, and what is in it.
pub(super) fn block(message: &Message, parts: &Parts, losses: &mut Losses) -> (&'static str, Map<String, Value>) {
    let mut block = Map::new();
    let mut set = |name: &str, value: Value| {
        block.insert(name.to_owned(), value);
    };
    if let Some(key) = &message.collapse {
        set("collapse_key", Value::from(key.as_str()));
    }
    if let Some(seconds) = message.ttl_s {
        set("ttl", Value::from(format!("{seconds}s")));
    }
    if let Some(name) = &message.options.restricted_package_name {
        losses.note("restricted_package_name", Why::AndroidOnly);
        set("restricted_package_name", Value::from(name.as_str()));
    }
    match message.extra.get(V2) {
        Some(Value::Object(theirs)) => {
            kind_of_message(&mut block, theirs, message, parts, losses);
            (V2, block)
        }
        _ => {
            if let Some(priority) = message.priority {
                let word = if priority == Priority::High { "HIGH" } else { "NORMAL" };
                block.insert("priority".to_owned(), Value::from(word));
            }
            if !parts.android.is_empty() {
                block.insert("notification".to_owned(), Value::Object(parts.android.clone()));
            }
            (V1, block)
        }
    }
}

/// What `android_v2` has instead of a priority. The sender's own choice stays; without one, what shows something or is
/// urgent bypasses the battery saver, and the rest syncs in the background.
fn kind_of_message(
    block: &mut Map<String, Value>,
    theirs: &Map<String, Value>,
    message: &Message,
    parts: &Parts,
    losses: &mut Losses,
) {
    if message.priority.is_some() {
        losses.note("priority", Why::ImpliedByKind);
    }
    let quiet = message.notification.is_none() && message.priority != Some(Priority::High);
    if theirs.contains_key(BACKGROUND) || (quiet && !theirs.contains_key(REMOTE)) {
        if message.notification.is_some() {
            losses.note("notification", Why::ShowsNothing);
        }
        block.insert(BACKGROUND.to_owned(), json!({}));
        return;
    }
    let mut remote = Map::new();
    if message.options.mutable_content {
        remote.insert("mutable_content".to_owned(), Value::Bool(true));
    }
    if !parts.android.is_empty() {
        remote.insert("notification".to_owned(), Value::Object(parts.android.clone()));
    }
    block.insert(REMOTE.to_owned(), Value::Object(remote));
}
