//! Checks a message of a client as the real server does, field by field, before any device hears of it.

use crate::ccs::payload::Downstream;
use crate::sim::condition::{Condition, ConditionError, is_topic};
use crate::sim::device::Message;
use crate::sim::virtual_devices::{Mode, Push, Target};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Bytes of the keys and values of `data` and `notification` at most.
pub(super) const PAYLOAD_MAX: usize = 4096;

/// The same for what goes to a topic.
pub(super) const TOPIC_PAYLOAD_MAX: usize = 2048;

/// Longest time to live, and the default: four weeks, in seconds.
pub(super) const TTL_MAX: u64 = 2_419_200;

/// A message that is in order.
#[derive(Debug, PartialEq)]
pub(super) struct Draft {
    target: Target,
    id: Arc<str>,
    data: Box<str>,
    notification: Option<Box<str>>,
    collapse: Option<Box<str>>,
    ttl: u64,
    receipt: bool,
    mode: Mode,
}

/// Why a message is refused; the text is what the client reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("InvalidJson: JSON_TYPE_ERROR : Field \"{field}\" must be a JSON {wanted}: {value}")]
    Type { field: &'static str, wanted: &'static str, value: String },
    #[error("InvalidJson: MissingRegistration : Neither \"to\" nor \"condition\" is set")]
    NoTarget,
    #[error("InvalidJson: InvalidParameters : Both \"to\" and \"condition\" are set")]
    TwoTargets,
    #[error("InvalidJson: InvalidParameters : Field \"registration_ids\" is not supported over XMPP")]
    Multicast,
    #[error("InvalidJson: InvalidParameters : Invalid topic in \"to\"")]
    Topic,
    #[error("InvalidJson: InvalidParameters : Invalid \"condition\": {0}")]
    Condition(ConditionError),
    #[error("InvalidJson: InvalidParameters : Field \"priority\" must be \"normal\" or \"high\"")]
    Priority,
    #[error("InvalidJson: INVALID_TTL : Invalid value ({0}) for \"time_to_live\": must be between 0 and {TTL_MAX}")]
    Ttl(String),
    #[error("InvalidJson: InvalidDataKey : \"{0}\" is reserved")]
    DataKey(String),
    #[error("InvalidJson: MessageTooBig : {0} bytes, the limit is {1}")]
    TooBig(usize, usize),
}

impl Draft {
    /// Checks a message.
    pub(super) fn check(downstream: Downstream) -> Result<Self, Invalid> {
        let Downstream { to, condition, message_id, mut fields } = downstream;
        check_types(&fields)?;
        let target = target(to, condition)?;
        let (data, data_bytes) = data(fields.shift_remove("data"))?;
        let notification = fields.shift_remove("notification").filter(|value| !value.is_null());
        let bytes = data_bytes + notification.as_ref().map_or(0, weigh);
        let limit = if matches!(target, Target::Token(_)) { PAYLOAD_MAX } else { TOPIC_PAYLOAD_MAX };
        if bytes > limit {
            return Err(Invalid::TooBig(bytes, limit));
        }
        let is_set = |name| fields.get(name) == Some(&Value::Bool(true));
        Ok(Self {
            id: message_id.into(),
            data,
            notification: notification.map(|value| value.to_string().into()),
            collapse: fields.get("collapse_key").and_then(Value::as_str).map(Into::into),
            ttl: ttl(fields.get("time_to_live"))?,
            // Receipts are about one device.
            receipt: is_set("delivery_receipt_requested") && matches!(target, Target::Token(_)),
            mode: if is_set("dry_run") { Mode::DryRun } else { Mode::Deliver },
            target,
        })
    }

    /// The message, taken at `now` and answered at `answered_at`.
    pub(super) fn into_push(self, now: u64, answered_at: u64) -> Push {
        let message = Message {
            id: self.id,
            data: self.data,
            notification: self.notification,
            collapse: self.collapse,
            expires_at: now + self.ttl * 1_000,
            apns: None,
            answered_at,
            receipt: self.receipt,
            // CCS has receipts of its own.
            confirm: None,
        };
        Push { target: self.target, message: Arc::new(message), mode: self.mode }
    }
}

fn check_types(fields: &Map<String, Value>) -> Result<(), Invalid> {
    const TEXT: [&str; 5] = ["to", "condition", "collapse_key", "priority", "restricted_package_name"];
    const BOOLEAN: [&str; 5] =
        ["content_available", "mutable_content", "delay_while_idle", "delivery_receipt_requested", "dry_run"];
    let check = |names: &'static [&'static str], wanted, fits: fn(&Value) -> bool| {
        let wrong = |field: &&&'static str| fields.get(**field).is_some_and(|value| !value.is_null() && !fits(value));
        names.iter().find(wrong).map_or(Ok(()), |field| {
            let value = fields.get(*field).map(spell).unwrap_or_default();
            Err(Invalid::Type { field, wanted, value })
        })
    };
    check(&TEXT, "java.lang.String", Value::is_string)?;
    check(&BOOLEAN, "java.lang.Boolean", Value::is_boolean)?;
    check(&["time_to_live"], "java.lang.Number", Value::is_number)?;
    check(&["data", "notification"], "object", Value::is_object)?;
    if fields.contains_key("registration_ids") {
        return Err(Invalid::Multicast);
    }
    match fields.get("priority").and_then(Value::as_str) {
        None | Some("normal" | "high") => Ok(()),
        Some(_) => Err(Invalid::Priority),
    }
}

fn target(to: Option<String>, condition: Option<String>) -> Result<Target, Invalid> {
    match (to.filter(|to| !to.is_empty()), condition) {
        (None, None) => Err(Invalid::NoTarget),
        (Some(_), Some(_)) => Err(Invalid::TwoTargets),
        (None, Some(text)) => Condition::parse(&text).map(Target::Condition).map_err(Invalid::Condition),
        (Some(to), None) => match to.strip_prefix("/topics/") {
            Some(topic) if is_topic(topic) => Ok(Target::Topic(topic.to_owned())),
            Some(_) => Err(Invalid::Topic),
            None => Ok(Target::Token(to)),
        },
    }
}

/// The data with its values made texts, as devices get it, and its size.
fn data(value: Option<Value>) -> Result<(Box<str>, usize), Invalid> {
    let Some(Value::Object(mut data)) = value else {
        return Ok(("{}".into(), 0));
    };
    let mut bytes = 0;
    for (key, value) in &mut data {
        if matches!(key.as_str(), "from" | "message_type") || key.starts_with("google") || key.starts_with("gcm") {
            return Err(Invalid::DataKey(key.clone()));
        }
        if !value.is_string() {
            *value = Value::String(value.to_string());
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    Ok((Value::Object(data).to_string().into(), bytes))
}

fn weigh(notification: &Value) -> usize {
    let fields = notification.as_object().into_iter().flatten();
    fields.map(|(key, value)| key.len() + value.as_str().map_or_else(|| value.to_string().len(), str::len)).sum()
}

fn ttl(value: Option<&Value>) -> Result<u64, Invalid> {
    match value {
        None | Some(Value::Null) => Ok(TTL_MAX),
        Some(value) => value.as_u64().filter(|&ttl| ttl <= TTL_MAX).ok_or_else(|| Invalid::Ttl(value.to_string())),
    }
}

/// A value as the real server repeats it: texts without quotes. Cut, because anybody may have written it.
fn spell(value: &Value) -> String {
    const VALUE_MAX: usize = 100;
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.chars().take(VALUE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ccs::payload::Outbound;
    use serde_json::json;

    fn check(mut message: Value) -> Result<Draft, Invalid> {
        message["message_id"] = json!("m");
        match Outbound::parse(&message.to_string()) {
            Ok(Outbound::Downstream(downstream)) => Draft::check(downstream),
            other => panic!("{other:?}"),
        }
    }

    fn refused(message: Value) -> String {
        check(message).unwrap_err().to_string()
    }

    #[test]
    fn types_are_checked_with_the_words_of_the_real_server() {
        assert_eq!(
            refused(json!({"to": "t", "time_to_live": "abc"})),
            "InvalidJson: JSON_TYPE_ERROR : Field \"time_to_live\" must be a JSON java.lang.Number: abc"
        );
        for (field, value) in [
            ("to", json!({})),
            ("condition", json!([])),
            ("collapse_key", json!(1)),
            ("dry_run", json!("true")),
            ("delivery_receipt_requested", json!(1)),
            ("data", json!("x")),
            ("notification", json!([1])),
        ] {
            let text = refused(json!({"to": "t", (field): value}));
            assert!(text.contains("JSON_TYPE_ERROR") && text.contains(field), "{text}");
        }
    }

    #[test]
    fn exactly_one_target_is_wanted() {
        assert_eq!(check(json!({})), Err(Invalid::NoTarget));
        assert_eq!(check(json!({"to": ""})), Err(Invalid::NoTarget));
        assert_eq!(check(json!({"to": "t", "condition": "'a' in topics"})), Err(Invalid::TwoTargets));
        assert_eq!(check(json!({"to": "/topics/a b"})), Err(Invalid::Topic));
        assert_eq!(check(json!({"registration_ids": ["t"]})), Err(Invalid::Multicast));
        assert!(matches!(check(json!({"condition": "'a' in"})), Err(Invalid::Condition(_))));
        assert_eq!(check(json!({"to": "/topics/a"})).unwrap().target, Target::Topic("a".into()));
        assert!(check(json!({"condition": "'a' in topics"})).is_ok());
    }

    #[test]
    fn the_time_to_live_has_its_range() {
        assert_eq!(check(json!({"to": "t"})).unwrap().ttl, TTL_MAX);
        assert_eq!(check(json!({"to": "t", "time_to_live": 0})).unwrap().ttl, 0);
        for ttl in [json!(-1), json!(TTL_MAX + 1), json!(1.5)] {
            assert_eq!(check(json!({"to": "t", "time_to_live": ttl})), Err(Invalid::Ttl(ttl.to_string())));
        }
    }

    #[test]
    fn reserved_data_keys_are_refused() {
        for key in ["from", "message_type", "google", "google.x", "gcm", "gcm_y"] {
            assert_eq!(check(json!({"to": "t", "data": {(key): "v"}})), Err(Invalid::DataKey(key.into())));
        }
        assert!(check(json!({"to": "t", "data": {"collapse_key": "v", "from2": "v"}})).is_ok());
    }

    #[test]
    fn the_payload_counts_keys_and_values_and_topics_take_half() {
        let with = |to: &str, bytes: usize| check(json!({"to": to, "data": {"key": "x".repeat(bytes - 3)}}));
        assert!(with("t", PAYLOAD_MAX).is_ok());
        assert_eq!(with("t", PAYLOAD_MAX + 1), Err(Invalid::TooBig(4097, 4096)));
        assert!(with("/topics/a", TOPIC_PAYLOAD_MAX).is_ok());
        assert_eq!(with("/topics/a", TOPIC_PAYLOAD_MAX + 1), Err(Invalid::TooBig(2049, 2048)));
        let both = json!({"to": "t", "data": {"k": "x".repeat(4000)}, "notification": {"title": "y".repeat(100)}});
        assert_eq!(check(both), Err(Invalid::TooBig(4106, 4096)));
    }

    #[test]
    fn data_values_become_texts() {
        let draft = check(json!({"to": "t", "data": {"n": 5, "b": true, "o": {"x": 1}, "s": "5"}})).unwrap();
        assert_eq!(&*draft.data, r#"{"n":"5","b":"true","o":"{\"x\":1}","s":"5"}"#);
    }
}
