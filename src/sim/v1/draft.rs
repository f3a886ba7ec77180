//! Checks a message as FCM does, field by field, before any device hears of it.

use super::reply::Reply;
use super::schema;
use crate::sim::condition::{Condition, is_topic};
use crate::sim::device::{Confirm, Message};
use crate::sim::virtual_devices::{Mode, Target};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Bytes of the keys and values of `data` and `notification` at most.
const PAYLOAD_MAX: usize = 4_096;

/// The same for what goes to topics.
const TOPIC_PAYLOAD_MAX: usize = 2_048;

/// Longest time to live, and the default: four weeks, in milliseconds.
const TTL_MAX_MS: u64 = 2_419_200_000;

const TOPIC_MAX: usize = 900;
const LABEL_MAX: usize = 50;
const FID_LEN: usize = 22;
const APNS_COLLAPSE_MAX: usize = 64;
const WEBPUSH_TOPIC_MAX: usize = 32;

/// Operators between five topics: the documents of v1 speak of five topics, those of CCS of two operators.
const CONDITION_OPERATORS: usize = 4;

/// A message that is in order.
#[derive(Debug, PartialEq)]
pub(super) struct Draft {
    pub(super) target: Target,
    pub(super) mode: Mode,
    /// The field of the target, for refusals about it.
    pub(super) field: &'static str,
    pub(super) collapse: Option<Box<str>>,
    data: Map<String, Value>,
    notification: Option<Box<str>>,
    apns: Option<Box<str>>,
    ttl_ms: u64,
}

impl Draft {
    /// Checks a body.
    pub(super) fn check(body: &[u8]) -> Result<Self, Reply> {
        let mut request = schema::read(body)
            .map_err(|unreadable| Reply::unreadable(unreadable.field.as_deref(), &unreadable.description))?;
        let mode = if request.get("validate_only") == Some(&Value::Bool(true)) { Mode::DryRun } else { Mode::Deliver };
        let mut message = object(request.remove("message")).unwrap_or_default();
        let (field, target) = target(&message)?;
        check_texts(&message)?;
        check_silent(&message, field)?;
        let android = object(message.remove("android")).or_else(|| object(message.remove("android_v2")));
        let mut android = android.unwrap_or_default();
        let ttl_ms = android.get("ttl").map_or(Ok(TTL_MAX_MS), ttl)?;
        let data = object(android.remove("data")).or_else(|| object(message.remove("data"))).unwrap_or_default();
        if let Some(key) = data.keys().find(|key| is_reserved(key)) {
            return Err(Reply::invalid("message.data", &format!("Invalid data payload key: {key}")));
        }
        let notification = notification(object(message.remove("notification")), &mut android);
        let limit = if matches!(target, Target::Token(_)) { PAYLOAD_MAX } else { TOPIC_PAYLOAD_MAX };
        if weigh(&data) + notification.as_ref().map_or(0, weigh) > limit {
            // FCM does not say what is wrong.
            return Err(Reply::of(super::FaultKind::NoDetails, field).unwrap_or_else(Reply::no_recipient));
        }
        Ok(Self {
            target,
            mode,
            field,
            collapse: text(&android, "collapse_key").map(Into::into),
            data,
            notification: notification.map(|fields| Value::Object(fields).to_string().into()),
            apns: message.get("apns").map(|block| block.to_string().into()),
            ttl_ms,
        })
    }

    /// The text of the target, as plans and scripts see it.
    pub(super) fn target_text(&self) -> &str {
        match &self.target {
            Target::Token(text) | Target::Topic(text) => text,
            Target::Condition(_) => "",
        }
    }

    /// The message, taken at `now` and answered at `answered_at`. It goes by its `mid`, which is the same in every copy,
    /// or else by `id`.
    pub(super) fn message(&self, id: &str, now: u64, answered_at: u64) -> Arc<Message> {
        let mid = text(&self.data, "mid");
        let confirm = mid.zip(text(&self.data, "ack"));
        Arc::new(Message {
            id: mid.unwrap_or(id).into(),
            data: Value::Object(self.data.clone()).to_string().into(),
            notification: self.notification.clone(),
            apns: self.apns.clone(),
            collapse: self.collapse.clone(),
            expires_at: now.saturating_add(self.ttl_ms),
            answered_at,
            receipt: false,
            confirm: confirm.map(|(id, topic)| Confirm { id: id.into(), topic: topic.into() }),
        })
    }
}

/// Exactly one target, in order.
fn target(message: &Map<String, Value>) -> Result<(&'static str, Target), Reply> {
    const FIELDS: [(&str, &str); 4] = [
        ("token", "message.token"),
        ("fid", "message.fid"),
        ("topic", "message.topic"),
        ("condition", "message.condition"),
    ];
    let mut named = FIELDS.into_iter().filter_map(|(name, path)| Some((name, path, text(message, name)?)));
    let Some((name, path, value)) = named.next() else {
        return Err(Reply::no_recipient());
    };
    if let Some((other, ..)) = named.next() {
        let words =
            format!("Invalid value at 'message' (oneof), oneof field 'target' is already set. Cannot set '{other}'");
        return Err(Reply::unreadable(Some("message"), &words));
    }
    let target = match name {
        "token" => Target::Token(value.to_owned()),
        "fid" if is_fid(value) => Target::Token(value.to_owned()),
        "topic" if value.len() <= TOPIC_MAX && is_topic(value) => Target::Topic(value.to_owned()),
        "condition" => match Condition::parse_with(value, CONDITION_OPERATORS) {
            Ok(condition) => Target::Condition(condition),
            Err(error) => return Err(Reply::invalid(path, &format!("Invalid condition expression: {error}"))),
        },
        "fid" => return Err(Reply::invalid(path, "Invalid fid")),
        _ => return Err(Reply::invalid(path, "Invalid topic name")),
    };
    Ok((path, target))
}

/// What is only checked and has no meaning for a virtual device.
fn check_texts(message: &Map<String, Value>) -> Result<(), Reply> {
    let at = |path: &[&str]| {
        let (last, way) = path.split_last()?;
        let inner = way.iter().try_fold(message, |fields, name| fields.get(*name)?.as_object())?;
        text(inner, last)
    };
    for options in [
        &["fcm_options"][..],
        &["android", "fcm_options"],
        &["android_v2", "fcm_options"],
        &["apns", "fcm_options"],
        &["webpush", "fcm_options"],
    ] {
        if at(&[options, &["analytics_label"]].concat())
            .is_some_and(|label| label.len() > LABEL_MAX || !is_topic(label))
        {
            let path = format!("message.{}.analytics_label", options.join("."));
            return Err(Reply::invalid(&path, "Invalid analytics label"));
        }
    }
    if at(&["android", "notification", "color"]).is_some_and(|color| !is_color(color)) {
        return Err(Reply::invalid("message.android.notification.color", "Invalid color"));
    }
    let header = |platform, name: &str| {
        let headers = message.get(platform)?.get("headers")?.as_object()?;
        let (_, value) = headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        value.as_str()
    };
    if header("apns", "apns-collapse-id").is_some_and(|id| id.len() > APNS_COLLAPSE_MAX) {
        return Err(Reply::invalid("message.apns.headers", "apns-collapse-id is longer than 64 bytes"));
    }
    let is_base64url = |topic: &str| topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if header("webpush", "topic").is_some_and(|topic| topic.len() > WEBPUSH_TOPIC_MAX || !is_base64url(topic)) {
        return Err(Reply::invalid("message.webpush.headers", "Topic is not 1 to 32 characters of base64url"));
    }
    match message.get("android_v2").and_then(Value::as_object) {
        Some(v2) if v2.contains_key("remote_notification") == v2.contains_key("background_sync") => Err(
            Reply::invalid("message.android_v2", "Exactly one of remote_notification and background_sync is wanted"),
        ),
        _ => Ok(()),
    }
}

/// A message that shows nothing has priority 5 and `content-available` on its way to Apple's devices, or no headers and
/// no payload for them. FCM speaks of the token when it has not.
fn check_silent(message: &Map<String, Value>, field: &str) -> Result<(), Reply> {
    let Some(apns) = message.get("apns").and_then(Value::as_object) else { return Ok(()) };
    let aps = apns.get("payload").and_then(|payload| payload.get("aps"));
    let in_aps = |name| aps.and_then(|aps| aps.get(name));
    let told = apns.contains_key("headers") || apns.contains_key("payload");
    let notification = message.get("notification").and_then(Value::as_object);
    let shown = notification.is_some_and(|fields| fields.values().any(has_content))
        || apns.get("live_activity_token").is_some_and(has_content)
        || ["alert", "badge", "sound"].into_iter().any(|name| in_aps(name).is_some_and(has_content));
    let headers = apns.get("headers").and_then(Value::as_object).into_iter().flatten();
    let mut priorities = headers.filter(|(name, _)| name.eq_ignore_ascii_case("apns-priority"));
    let woken = in_aps("content-available").and_then(Value::as_f64) == Some(1.0);
    if !told || shown || (woken && priorities.all(|(_, value)| value == "5")) {
        return Ok(());
    }
    Err(Reply::of(super::FaultKind::InvalidRegistration, field).unwrap_or_else(Reply::no_recipient))
}

/// Whether there is anything in it to show or to play. A number is a badge, and 0 takes it away.
fn has_content(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) | Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => list.iter().any(has_content),
        Value::Object(fields) => fields.values().any(has_content),
    }
}

/// Android's own notification replaces the common one field by field.
fn notification(common: Option<Map<String, Value>>, android: &mut Map<String, Value>) -> Option<Map<String, Value>> {
    let v2 = object(android.remove("remote_notification")).and_then(|mut remote| object(remote.remove("notification")));
    match (common, object(android.remove("notification")).or(v2)) {
        (Some(mut common), Some(own)) => {
            common.extend(own);
            Some(common)
        }
        (common, own) => common.or(own),
    }
}

/// A time to live in milliseconds. Its form was checked before.
fn ttl(value: &Value) -> Result<u64, Reply> {
    let out_of_range = || Reply::invalid("message.android.ttl", "TTL must be between 0 and 2419200 seconds, inclusive");
    let text = value.as_str().unwrap_or_default().trim_end_matches('s');
    let seconds: f64 = text.parse().map_err(|_| out_of_range())?;
    let ms = std::time::Duration::try_from_secs_f64(seconds).map_err(|_| out_of_range())?.as_millis();
    u64::try_from(ms).ok().filter(|&ms| ms <= TTL_MAX_MS).ok_or_else(out_of_range)
}

fn is_reserved(key: &str) -> bool {
    matches!(key, "from" | "message_type" | "notification") || key.starts_with("google.") || key.starts_with("gcm.")
}

fn is_fid(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    text.len() == FID_LEN && matches!(text.as_bytes()[0], b'c'..=b'f') && text.bytes().all(word)
}

fn is_color(text: &str) -> bool {
    text.strip_prefix('#').is_some_and(|hex| hex.len() == 6 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn weigh(fields: &Map<String, Value>) -> usize {
    fields.iter().map(|(key, value)| key.len() + value.as_str().map_or_else(|| value.to_string().len(), str::len)).sum()
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str)
}

fn object(value: Option<Value>) -> Option<Map<String, Value>> {
    match value {
        Some(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fcm::fault::{Fault, FcmCode};
    use proptest::prelude::*;
    use serde_json::json;

    fn check(message: Value) -> Result<Draft, Reply> {
        Draft::check(json!({"message": message}).to_string().as_bytes())
    }

    /// The field and FCM's word of a refusal, read with the client's codec.
    fn refused(message: Value) -> (String, Option<FcmCode>) {
        let reply = check(message).unwrap_err();
        assert_eq!(reply.status, 400);
        let fault = Fault::of(&serde_json::from_str(&reply.body).unwrap()).unwrap();
        assert!(reply.body.contains("\"status\": \"INVALID_ARGUMENT\""), "{}", reply.body);
        (fault.violations.first().map(|one| one.field.clone()).unwrap_or_default(), fault.code)
    }

    const WORD: Option<FcmCode> = Some(FcmCode::InvalidArgument);

    #[test]
    fn exactly_one_target_is_wanted() {
        assert_eq!(check(json!({})).unwrap_err(), Reply::no_recipient());
        assert_eq!(refused(json!({"token": "t", "topic": "x"})), ("message".into(), None));
        assert_eq!(refused(json!({"fid": "short"})), ("message.fid".into(), WORD));
        assert_eq!(refused(json!({"topic": "/topics/x"})), ("message.topic".into(), WORD));
        assert_eq!(refused(json!({"topic": "x".repeat(901)})), ("message.topic".into(), WORD));
        assert_eq!(refused(json!({"condition": "'a' in"})), ("message.condition".into(), WORD));
        let target = |message| check(message).unwrap().target;
        assert_eq!(target(json!({"topic": "x"})), Target::Topic("x".into()));
        let fid = "cAbCdEfGhIjKlMnOpQrStU";
        assert_eq!(target(json!({"fid": fid})), Target::Token(fid.into()));
        let five = ["'a' in topics"; 5].join(" || ");
        assert!(check(json!({"condition": five})).is_ok());
        assert!(check(json!({"condition": format!("{five} || 'b' in topics")})).is_err());
    }

    #[test]
    fn values_are_checked_by_field() {
        for (message, field) in [
            (json!({"data": {"from": "x"}}), "message.data"),
            (json!({"data": {"gcm.x": "x"}}), "message.data"),
            (json!({"android": {"data": {"google.x": "x"}}}), "message.data"),
            (json!({"android": {"ttl": "2419201s"}}), "message.android.ttl"),
            (json!({"android": {"ttl": "-1s"}}), "message.android.ttl"),
            (json!({"fcm_options": {"analytics_label": "a b"}}), "message.fcm_options.analytics_label"),
            (
                json!({"apns": {"fcmOptions": {"analyticsLabel": "x".repeat(51)}}}),
                "message.apns.fcm_options.analytics_label",
            ),
            (json!({"android": {"notification": {"color": "red"}}}), "message.android.notification.color"),
            (json!({"apns": {"headers": {"apns-collapse-id": "x".repeat(65)}}}), "message.apns.headers"),
            (json!({"webpush": {"headers": {"Topic": "a b"}}}), "message.webpush.headers"),
            (json!({"android_v2": {}}), "message.android_v2"),
        ] {
            let mut message = message;
            message["token"] = json!("t");
            assert_eq!(refused(message.clone()), (field.into(), WORD), "{message}");
        }
        assert!(check(json!({"token": "t", "data": {"google": "x", "collapse_key": "x"}})).is_ok());
        assert!(check(json!({"token": "t", "android_v2": {"background_sync": {}}})).is_ok());
    }

    #[test]
    fn a_message_to_apple_that_shows_nothing_is_refused_in_the_words_for_a_bad_token_unless_it_is_a_background_push() {
        let words = "The registration token is not a valid FCM registration token";
        for (apns, notification, taken) in [
            (json!({"headers": {"apns-priority": "10", "apns-expiration": "0"}}), None, false),
            (json!({"headers": {"apns-expiration": "0"}}), None, false),
            (json!({"payload": {"k": "v"}}), None, false),
            (json!({"payload": {"aps": {"content-available": 0}}}), None, false),
            (json!({"headers": {"APNS-Priority": "10"}, "payload": {"aps": {"content-available": 1}}}), None, false),
            (json!({"headers": {"apns-priority": "5"}, "payload": {"aps": {"mutable-content": 1}}}), None, false),
            (json!({"headers": {"apns-priority": "10"}}), Some(json!({})), false),
            (json!({"headers": {"apns-priority": "10"}}), Some(json!({"body": ""})), false),
            (json!({"headers": {"apns-priority": "10"}, "payload": {"aps": {"alert": ""}}}), None, false),
            (json!({"headers": {"apns-priority": "10"}, "payload": {"aps": {"alert": {}}}}), None, false),
            (json!({"headers": {"apns-priority": "10"}, "payload": {"aps": {"alert": {"title": ""}}}}), None, false),
            (json!({"headers": {"apns-priority": "10"}, "payload": {"aps": {"alert": false}}}), None, false),
            (json!({"headers": {"apns-priority": "10"}, "payload": {"aps": {"alert": null}}}), None, false),
            (json!({"headers": {"apns-priority": "10"}, "payload": {"aps": {"sound": ""}}}), None, false),
            (json!({"headers": {"apns-priority": "10"}, "live_activity_token": ""}), None, false),
            (json!({"headers": {"apns-priority": "5"}, "payload": {"aps": {"content-available": 1}}}), None, true),
            (json!({"payload": {"aps": {"content-available": 1}}}), None, true),
            (json!({"headers": {"apns-priority": "10"}, "payload": {"aps": {"badge": 0}}}), None, true),
            (json!({"headers": {"apns-priority": "10"}}), Some(json!({"title": "t"})), true),
            (json!({"headers": {"apns-priority": "10"}, "live_activity_token": "l"}), None, true),
            (json!({"fcm_options": {"image": "u"}}), None, true),
            (json!({}), None, true),
        ] {
            let mut message = json!({"token": "t", "data": {"k": "v"}, "apns": apns, "notification": notification});
            message.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            match check(message.clone()) {
                Ok(_) => assert!(taken, "{message}"),
                Err(reply) => {
                    let fault = Fault::of(&serde_json::from_str(&reply.body).unwrap()).unwrap();
                    assert_eq!((reply.status, &*fault.message, taken), (400, words, false), "{message}");
                    assert_eq!((fault.violations.len(), fault.code), (0, WORD), "{message}");
                }
            }
        }
    }

    #[test]
    fn too_much_is_refused_without_a_word() {
        let with = |target: &str, bytes: usize| check(json!({(target): "t", "data": {"key": "x".repeat(bytes - 3)}}));
        assert!(with("token", PAYLOAD_MAX).is_ok());
        let reply = with("token", PAYLOAD_MAX + 1).unwrap_err();
        assert!(!reply.body.contains("details"), "{}", reply.body);
        assert!(with("topic", TOPIC_PAYLOAD_MAX).is_ok());
        assert!(with("topic", TOPIC_PAYLOAD_MAX + 1).is_err());
        let both = json!({"token": "t", "data": {"k": "x".repeat(4_000)}, "notification": {"title": "y".repeat(100)}});
        assert!(check(both).is_err());
    }

    #[test]
    fn what_is_androids_counts_and_the_message_goes_by_its_mid() {
        let draft = check(json!({
            "token": "t",
            "data": {"common": "1"},
            "notification": {"title": "common", "body": "b"},
            "android": {
                "collapse_key": "k", "ttl": "1.5s",
                "data": {"mid": "m-1", "ack": "app/others/receipts"},
                "notification": {"title": "own"},
            },
        }))
        .unwrap();
        let message = draft.message("generated", 1_000, 1_000);
        assert_eq!((&*message.id, message.expires_at, message.collapse.as_deref()), ("m-1", 2_500, Some("k")));
        assert_eq!(&*message.data, r#"{"mid":"m-1","ack":"app/others/receipts"}"#);
        assert_eq!(message.notification.as_deref(), Some(r#"{"title":"own","body":"b"}"#));
        let confirm = message.confirm.as_ref().unwrap();
        assert_eq!((&*confirm.id, &*confirm.topic), ("m-1", "app/others/receipts"));
        let plain = check(json!({"token": "t", "data": {"ack": "x"}})).unwrap().message("generated", 0, 0);
        assert_eq!((&*plain.id, &plain.confirm, plain.expires_at), ("generated", &None, TTL_MAX_MS));
    }

    proptest! {
        #[test]
        fn any_message_is_taken_or_refused(
            name in "[a-z_]{1,12}", text in ".{0,30}", key in ".{0,12}", ttl in "-?[0-9]{0,20}\\.?[0-9]{0,9}s?"
        ) {
            for message in [json!({(name): text}), json!({"fid": text, "data": {(key): ""}}), json!({"token": "t", "android": {"ttl": ttl}})] {
                let _ = check(message);
            }
        }
    }
}
