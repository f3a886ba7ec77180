//! From a message to the body of `messages:send`, with a list of what v1 has no place for.

pub use super::data::{ACK_KEY, ID_KEY, is_reserved};

use super::data;
use super::limits::{PAYLOAD_MAX, TOPIC_PAYLOAD_MAX};
use super::loss::{Loss, Losses, Why};
use super::message::Message;
use super::platform;
use super::table::{self, CCS, COMMON};
use super::target::TargetError;
use serde_json::{Map, Value};
use std::fmt;

/// Blocks of v1 that a sender may hand through.
const HANDED_THROUGH: [&str; 5] = ["android", "android_v2", "apns", "webpush", "fcm_options"];

/// A request, ready to be posted.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The JSON to post. It holds the token and what the application says: not for a log.
    pub body: String,
    /// Whether FCM is only asked to check it.
    pub validate_only: bool,
    /// Whether it is for certain within Google's rules for Apple's devices, which it answers breaches of in the words for
    /// a bad token.
    pub is_within_rules: bool,
    /// Whether the app on a device is asked to confirm that it has the message, and by which id. False where nothing was
    /// to be confirmed.
    pub can_confirm: bool,
    /// What v1 has no place for.
    pub losses: Vec<Loss>,
}

/// Without the body.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("bytes", &self.body.len())
            .field("validate_only", &self.validate_only)
            .field("losses", &self.losses)
            .finish()
    }
}

/// What could be made of a part of a message.
pub(super) type Made<T> = Result<T, RequestError>;

/// Why a message cannot be sent at all; its sender is at fault. Never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The target is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A field holds what FCM does not take there.
    #[error("`{path}` is not {wants}")]
    Field {
        /// Where it stands.
        path: String,
        /// What it would have to be.
        wants: String,
    },
    /// `data` has a key that FCM keeps for itself.
    #[error("`{0}` belongs to the push service (from, message_type, notification, google..., gcm...)")]
    ReservedKey(String),
    /// `data` and `notification` are too big.
    #[error("keys and values of `{data}` and `{shown}` are longer than {max} bytes")]
    TooBig {
        /// Where the one stands.
        data: String,
        /// Where the other stands, or the heavier part of it.
        shown: String,
        /// The limit for this kind of target.
        max: usize,
    },
}

impl RequestError {
    /// What `path` holds is not what it would have to be.
    pub(crate) fn field(path: &str, wants: &str) -> Self {
        Self::Field { path: path.to_owned(), wants: wants.to_owned() }
    }

    /// The code for its sender.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Target(_) | Self::Field { .. } => "INVALID_JSON",
            Self::ReservedKey(_) => "RESERVED_KEY",
            Self::TooBig { .. } => "TOO_BIG",
        }
    }
}

/// Writes `message` as a request at `now_unix_s`, which Apple's absolute time of expiry is counted from.
///
/// # Errors
/// When FCM would refuse it for certain.
pub fn translate(message: Message, now_unix_s: u64) -> Result<Request, RequestError> {
    let Message { target, id, receipt, ack, fields, words } = message;
    let mut losses = Losses::of(words);
    let mut ccs = CCS.object(fields, "", &mut losses)?;
    if let Some(seconds) = ccs.get("time_to_live").and_then(Value::as_u64) {
        // Apple's 0 means the same: try once, keep nothing.
        let expires_at = if seconds == 0 { 0 } else { now_unix_s.saturating_add(seconds) };
        ccs.insert("expires_at".to_owned(), Value::from(expires_at));
    }
    let notification = object(&mut ccs, "notification");
    let max = if target.kind().is_device() { PAYLOAD_MAX } else { TOPIC_PAYLOAD_MAX };
    let can_confirm = data::complete(&mut ccs, (id, receipt, ack), (&notification, max), &mut losses)?;
    let validate_only = remark(&ccs, &mut losses);
    let shown = platform::notification(notification, &mut losses)?;
    let mut blocks: Map<_, _> =
        HANDED_THROUGH.into_iter().filter_map(|name| Some((name.to_owned(), ccs.shift_remove(name)?))).collect();
    let theirs = object(&mut blocks, "apns");
    let (android, block) = platform::android(&ccs, &shown, &blocks, &mut losses)?;
    let (apple, is_within_rules) = platform::apple(&ccs, &shown, theirs, &mut losses)?;
    let mut v1 = Map::from_iter([
        (target.kind().field().to_owned(), Value::from(target.reveal())),
        ("data".to_owned(), Value::Object(object(&mut ccs, "data"))),
        ("notification".to_owned(), Value::Object(table::taken(COMMON, &shown, "notification", &shown, &mut losses)?)),
        (android.to_owned(), Value::Object(block)),
        ("webpush".to_owned(), Value::Object(table::taken(table::WEBPUSH, &ccs, "", &shown, &mut losses)?)),
        ("apns".to_owned(), Value::Object(apple)),
    ]);
    v1.retain(|_, block| block.as_object().is_none_or(|block| !block.is_empty()));
    platform::lay_over(&mut v1, blocks);
    // Not by `json!`, which would copy them all.
    let body = format!(r#"{{"validate_only":{validate_only},"message":{}}}"#, Value::Object(v1));
    Ok(Request { body, validate_only, is_within_rules, can_confirm, losses: losses.into_vec() })
}

/// Says what some switches come to. Returns whether FCM is only to check the message.
fn remark(ccs: &Map<String, Value>, losses: &mut Losses) -> bool {
    for (name, why) in [
        ("restricted_package_name", Why::ANDROID_ONLY),
        ("content_available", Why::APPLE_ONLY),
        ("delay_while_idle", Why::IGNORED),
        ("dry_run", Why::VALIDATES_ONLY),
        ("validate_only", Why::VALIDATES_ONLY),
    ] {
        if ccs.get(name).is_some_and(|value| *value != false) {
            losses.note(name, why);
        }
    }
    ["dry_run", "validate_only"].iter().any(|name| ccs.get(*name) == Some(&Value::Bool(true)))
}

fn object(fields: &mut Map<String, Value>, name: &str) -> Map<String, Value> {
    match fields.shift_remove(name) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests;
