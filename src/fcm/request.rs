//! From a message to the body of `messages:send`, with a list of what v1 has no place for.

pub use super::data::{ACK_KEY, ID_KEY, is_reserved};

use super::data::Load;
use super::limits::TTL_MAX;
use super::loss::{Loss, Losses, Why};
use super::message::Message;
use super::notification::Parts;
use super::target::TargetError;
use super::{android, apns, merge, spelling, webpush};
use serde_json::{Map, Value};
use std::fmt;

/// Blocks that a sender may hand through. Others would only get the whole message refused.
const HANDED_THROUGH: [&str; 5] = [android::V1, android::V2, apns::BLOCK, webpush::BLOCK, "fcm_options"];

/// A request, ready to be posted.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The JSON to post. It holds the token and what the application says: not for a log.
    pub body: String,
    /// Whether FCM is only asked to check it.
    pub validate_only: bool,
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

/// Why a message cannot be sent at all; its sender is at fault. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The target is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A field has the wrong type.
    #[error("field `{0}` is of the wrong type")]
    Type(&'static str),
    /// `data` has a key that FCM keeps for itself.
    #[error("a key of `data` belongs to the push service (from, message_type, notification, google..., gcm...)")]
    ReservedKey,
    /// `data` and `notification` are too big.
    #[error("keys and values of `data` and `notification` are longer than {max} bytes")]
    TooBig {
        /// The limit for this kind of target.
        max: usize,
    },
    /// The time to live is out of range.
    #[error("the time to live is over {TTL_MAX} seconds")]
    Ttl,
}

impl RequestError {
    /// The code that CCS would have answered with.
    #[must_use]
    pub const fn code(self) -> &'static str {
        "INVALID_JSON"
    }
}

/// Writes `message` as a request at `now_unix_s`, which Apple's absolute time of expiry is counted from.
///
/// # Errors
/// When FCM would refuse it for certain.
pub fn translate(mut message: Message, now_unix_s: u64) -> Result<Request, RequestError> {
    if message.ttl_s.is_some_and(|seconds| seconds > TTL_MAX) {
        return Err(RequestError::Ttl);
    }
    let mut losses = Losses::default();
    message.extra = handed_through(std::mem::take(&mut message.extra), &mut losses)?;
    let data = std::mem::take(&mut message.data);
    let mut load = Load::of(message.target.kind(), data, message.notification.as_ref(), &mut losses)?;
    load.add_id(message.id.take(), message.receipt.clone(), &mut losses);
    let parts = match &message.notification {
        Some(notification) => Parts::of(notification, &mut losses)?,
        None => Parts::default(),
    };
    if message.options.delay_while_idle {
        losses.note("delay_while_idle", Why::Ignored);
    }
    if message.options.dry_run {
        losses.note("dry_run", Why::ValidatesOnly);
    }
    let validate_only = message.options.dry_run;
    let fields = fields(message, load.data, &parts, now_unix_s, &mut losses);
    // Not by `json!`, which would copy them all.
    let body = Map::from_iter([
        ("validate_only".to_owned(), Value::Bool(validate_only)),
        ("message".to_owned(), Value::Object(fields)),
    ]);
    let body = Value::Object(body).to_string();
    Ok(Request { body, validate_only, losses: losses.into_vec() })
}

/// The fields of the v1 message.
fn fields(
    mut message: Message,
    data: Map<String, Value>,
    parts: &Parts,
    now_unix_s: u64,
    losses: &mut Losses,
) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert(message.target.kind().field().to_owned(), Value::from(message.target.reveal()));
    let mut set = |name: &str, block: Map<String, Value>| {
        if !block.is_empty() {
            fields.insert(name.to_owned(), Value::Object(block));
        }
    };
    set("data", data);
    set("notification", parts.common.clone());
    let (name, block) = android::block(&message, parts, losses);
    set(name, block);
    set(webpush::BLOCK, webpush::block(&message));
    let mut extra = std::mem::take(&mut message.extra);
    let theirs = extra.shift_remove(apns::BLOCK);
    set(apns::BLOCK, apns::block(&message, parts, theirs, now_unix_s, losses));
    merge::deep(&mut fields, extra);
    fields
}

/// What the sender hands through, in one spelling, without what is not for v1.
fn handed_through(extra: Map<String, Value>, losses: &mut Losses) -> Result<Map<String, Value>, RequestError> {
    let mut taken = Map::new();
    for (name, value) in spelling::snake(extra) {
        let Some(known) = HANDED_THROUGH.into_iter().find(|known| *known == name) else {
            losses.note_in("", &name, Why::Unknown);
            continue;
        };
        if !well_formed(&value) {
            return Err(RequestError::Type(known));
        }
        taken.insert(name, value);
    }
    Ok(taken)
}

/// A block is an object, and so are the parts of it that ours are merged with.
fn well_formed(block: &Value) -> bool {
    let objects = ["headers", "payload", "notification", "remote_notification", "background_sync"];
    block.as_object().is_some_and(|block| {
        objects.iter().filter_map(|name| block.get(*name)).all(Value::is_object)
            && block.get("payload").and_then(|payload| payload.get("aps")).is_none_or(Value::is_object)
    })
}

#[cfg(test)]
mod tests;
