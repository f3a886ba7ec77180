//! The `webpush` block: headers of RFC 8030.

use super::limits::WEBPUSH_TOPIC_MAX;
use super::message::{Message, Priority};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// The block's name.
pub(super) const BLOCK: &str = "webpush";

/// The block for `message`.
pub(super) fn block(message: &Message) -> Map<String, Value> {
    let mut headers = Map::new();
    let mut set = |name: &str, value: String| {
        headers.insert(name.to_owned(), Value::from(value));
    };
    if let Some(seconds) = message.ttl_s {
        set("TTL", seconds.to_string());
    }
    if let Some(priority) = message.priority {
        let word = if priority == Priority::High { "high" } else { "normal" };
        set("Urgency", word.to_owned());
    }
    if let Some(key) = &message.collapse {
        set("Topic", topic(key));
    }
    let mut block = Map::new();
    if !headers.is_empty() {
        block.insert("headers".to_owned(), Value::Object(headers));
    }
    block
}

/// Base64url characters out of a hash of `key`, at most `max`.
pub(super) fn hashed(key: &str, max: usize) -> String {
    let mut text = URL_SAFE_NO_PAD.encode(Sha256::digest(key.as_bytes()));
    text.truncate(max);
    text
}

/// The key itself if it is a legal topic of web push, else a hash of it.
fn topic(key: &str) -> String {
    let legal = (1..=WEBPUSH_TOPIC_MAX).contains(&key.len())
        && key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'));
    if legal { key.to_owned() } else { hashed(key, WEBPUSH_TOPIC_MAX) }
}
