//! A message of a BAL to devices: `{bal}/self/messages`.

use super::ccs_form::{self, MESSAGE_ID};
use super::content::{Content, reserved, shown};
use super::fields::Fields;
use super::target::read_target;
use super::{COLLAPSE_MAX, ErrorCode, Limits, Rejection, Sender};
use crate::chat::id::MessageId;
use crate::chat::push::{CHECK_ONLY, Priority, Push, TTL_MAX, Target, asks_to_check_only, is_check_only, plain};
use crate::chat::transport::Transport;
use serde_json::{Map, Value};

/// Longest `order`, in characters.
pub const ORDER_MAX: usize = 64;
/// Longest `category`, in characters: what an app store takes as a package name.
const CATEGORY_MAX: usize = 255;
/// How long a message with a `ttl` of 0 may take to the push service: "now or never" still needs a moment.
///
/// It is less than a second, the shortest `ttl` that is not 0, so that the two are told apart by how long a message lives.
pub const NOW_OR_NEVER_MS: u64 = 999;

/// Most unknown fields that are told by name.
const IGNORED_SHOWN: usize = 5;

/// Fields of the push service that have a checked field of ours, or that would change who is meant. `fcm` is merged
/// last, so any of them in there would pass by the checks.
const NOT_IN_FCM: [&str; 13] = [
    "to",
    "token",
    "topic",
    "condition",
    "registration_ids",
    "message_id",
    "message_type",
    "data",
    "notification",
    "priority",
    "time_to_live",
    "collapse_key",
    "delivery_receipt_requested",
];

/// A message that was taken: checked, with all defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Downstream {
    /// The sender's id. Without one the bridge makes its own, which does not protect against a repeated publish.
    pub id: Option<MessageId>,
    /// What to do.
    pub errand: Errand,
    /// How long it is worth delivering, in seconds.
    pub ttl: u32,
    /// Messages of one sender with the same word go strictly one after the other.
    pub order: Option<String>,
    /// The app it is for (package name), which may decide by which way it goes.
    pub category: Option<String>,
    /// The names of the fields that nobody knows, and that are ignored.
    pub ignored: Vec<String>,
}

/// What a sender asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Errand {
    /// A push.
    Push(Box<Push>),
    /// A message to a user or BAL. Nothing else of it was read: it is a
    /// [`UserMessage`](crate::chat::suffix::messages::UserMessage).
    Name,
}

impl Downstream {
    /// Reads and checks a payload, and refuses what `sender` may not ask for.
    ///
    /// # Errors
    /// With the code of topics.md, and with the message's id if that could be read. [`ErrorCode::Forbidden`] goes before
    /// every other fault of a field but the id's.
    pub fn parse(sender: Sender, payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        let allowed = sender.check(&fields);
        let of_ccs = fields.has(MESSAGE_ID);
        let id = if of_ccs { ccs_form::id(&mut fields)? } else { fields.id()? };
        let read = if of_ccs { ccs_form::read } else { read };
        match allowed.and_then(|()| read(&mut fields, limits)) {
            Ok(read) => {
                let ignored = fields.names().filter(|name| fields.has(name)).map(str::to_owned).collect();
                Ok(Self { id, ignored, ..read })
            }
            Err(rejection) => Err(rejection.about(id)),
        }
    }

    /// A message with nothing but what must be there.
    pub(super) fn new(errand: Errand, ttl: u32) -> Self {
        Self { id: None, errand, ttl, order: None, category: None, ignored: Vec::new() }
    }

    /// What of the document nobody knows, as the `detail` of `accepted`.
    pub fn notice(&self) -> Option<String> {
        let shown: Vec<_> = self.ignored.iter().take(IGNORED_SHOWN).map(|name| shown(name)).collect();
        let more = match self.ignored.len().saturating_sub(IGNORED_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        (!shown.is_empty()).then(|| format!("unknown and ignored: {}{more}", shown.join(", ")))
    }

    /// Checks what depends on the way, which is known by the sender and the app.
    ///
    /// # Errors
    /// With the code of topics.md, and with the message's id if it has one.
    pub fn check_for(&self, transport: &Transport) -> Result<(), Rejection> {
        let Errand::Push(push) = &self.errand else { return Ok(()) };
        match transport.reserved_key().filter(|key| push.data.contains_key(*key)) {
            Some(key) => Err(reserved(key).about(self.id.clone())),
            None => Ok(()),
        }
    }

    /// When it is not worth sending any more, in Unix milliseconds: after `ttl` or the MQTT 5 message expiry,
    /// whichever ends first.
    pub fn deadline_ms(&self, accepted_ms: u64, mqtt_expiry: Option<u32>) -> u64 {
        let seconds = mqtt_expiry.map_or(self.ttl, |expiry| expiry.min(self.ttl));
        accepted_ms.saturating_add((u64::from(seconds) * 1000).max(NOW_OR_NEVER_MS))
    }
}

fn read(fields: &mut Fields, limits: &Limits) -> Result<Downstream, Rejection> {
    fields.version()?;
    if let Some(name) = fields.names().find(|name| is_check_only(name)) {
        return Err(Rejection::bad_field(name, "belongs into `fcm`"));
    }
    if fields.has("to") {
        return Ok(Downstream::new(Errand::Name, TTL_MAX));
    }
    let target = read_target(fields)?;
    let content = Content::read(fields)?;
    let options = Options::read(fields)?;
    let ttl = whole_seconds(fields, "ttl")?.unwrap_or(TTL_MAX);
    let order = fields.word("order", ORDER_MAX)?;
    let category = fields.word("category", CATEGORY_MAX)?;
    check_weight(&content, &target, limits)?;
    let errand = Errand::Push(Box::new(options.push(target, content)?));
    Ok(Downstream { order, category, ..Downstream::new(errand, ttl) })
}

/// Whether the content is small enough for its target.
pub(super) fn check_weight(content: &Content, target: &Target, limits: &Limits) -> Result<(), Rejection> {
    let max = match target {
        Target::Topic(_) | Target::Condition(_) => limits.topic_push_bytes,
        Target::Token(_) => limits.push_bytes,
    };
    if content.weight() <= max {
        return Ok(());
    }
    let detail = format!("keys and values of `data` and `notification` are longer than {max} bytes");
    Err(Rejection::new(ErrorCode::TooBig, detail))
}

/// How a message is to be delivered.
struct Options {
    policy: Policy,
    priority: Option<Priority>,
    collapse: Option<String>,
    receipt: Option<bool>,
    fcm: Map<String, Value>,
}

/// The field `push`.
enum Policy {
    /// `auto` and `always`: the same thing where there is no other way than a push.
    Push,
    Never,
    Silent,
}

impl Options {
    fn read(fields: &mut Fields) -> Result<Self, Rejection> {
        let policy = match fields.string("push")?.as_deref() {
            None | Some("auto" | "always") => Policy::Push,
            Some("never") => Policy::Never,
            Some("silent") => Policy::Silent,
            Some(_) => return Err(Rejection::bad_field("push", "is not auto, always, never or silent")),
        };
        let priority = match fields.string("priority")?.as_deref() {
            None => None,
            Some("high") => Some(Priority::High),
            Some("normal") => Some(Priority::Normal),
            Some(_) => return Err(Rejection::bad_field("priority", "is not high or normal")),
        };
        let fcm = fields.object("fcm")?.unwrap_or_default();
        check_handed_through(&fcm)?;
        Ok(Self {
            policy,
            priority,
            collapse: fields.word("collapse", COLLAPSE_MAX)?,
            receipt: fields.flag("receipt")?,
            fcm,
        })
    }

    fn push(self, target: Target, content: Content) -> Result<Push, Rejection> {
        let priority = match (self.policy, self.priority) {
            (Policy::Never, _) => {
                return Err(Rejection::bad_field("push", "is never, and there is no other way to a device"));
            }
            (Policy::Silent, Some(Priority::High)) => {
                return Err(Rejection::bad_field("push", "is silent, which goes with normal priority only"));
            }
            (Policy::Silent, _) if content.notification.is_some() => {
                return Err(Rejection::bad_field("push", "is silent, which goes without `notification`"));
            }
            (Policy::Silent, _) => Priority::Normal,
            (Policy::Push, priority) => priority.unwrap_or(Priority::High),
        };
        // Nobody answers for a crowd, and nothing arrives of a message that is only to be checked.
        let answerable = matches!(target, Target::Token(_)) && asks_to_check_only(&self.fcm).is_none();
        let receipt = self.receipt.unwrap_or(answerable);
        Ok(Push {
            target,
            data: content.data,
            notification: content.notification,
            priority,
            collapse: self.collapse,
            receipt,
            fcm: self.fcm,
        })
    }
}

/// What may not stand in `fcm`: what has a field of its own, in whatever spelling, and what holds a message back in a form
/// that nobody understands.
fn check_handed_through(fcm: &Map<String, Value>) -> Result<(), Rejection> {
    if let Some(name) = fcm.keys().find(|name| NOT_IN_FCM.iter().any(|own| plain(own) == plain(name))) {
        return Err(Rejection::bad_field("fcm", format_args!("must not have `{name}`")));
    }
    if let Some(name) = fcm.keys().find(|name| is_check_only(name) && !CHECK_ONLY.contains(&name.as_str())) {
        return Err(Rejection::bad_field(
            "fcm",
            format_args!("must not have `{name}`: it is spelt {}", CHECK_ONLY.join(", ")),
        ));
    }
    let unclear = |name: &&str| fcm.get(*name).is_some_and(|value| !value.is_boolean() && !value.is_null());
    match CHECK_ONLY.into_iter().find(unclear) {
        Some(name) => Err(Rejection::bad_field("fcm", format_args!("has a `{name}` that is not true or false"))),
        None => Ok(()),
    }
}

/// A time to live: a number of seconds, or the text of one.
pub(super) fn whole_seconds(fields: &mut Fields, name: &str) -> Result<Option<u32>, Rejection> {
    let Some(value) = fields.take(name) else { return Ok(None) };
    let seconds = match &value {
        Value::Number(number) => number.as_u64().and_then(|seconds| u32::try_from(seconds).ok()),
        Value::String(text) if text.bytes().all(|c| c.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    seconds
        .filter(|&seconds| seconds <= TTL_MAX)
        .ok_or_else(|| Rejection::bad_field(name, format_args!("is not a whole number of seconds, 0 to {TTL_MAX}")))
        .map(Some)
}

#[cfg(test)]
mod tests;
