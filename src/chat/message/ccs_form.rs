//! A message in the form of CCS: what an app server sent to the push service itself, published on `{bal}/self/messages` as
//! it is. Only the form is CCS's; what becomes of the message is told in the bridge's statuses.
//!
//! A document has this form if it has a `message_id`. Its fields mean what they mean to CCS: a message without an alert has
//! normal priority, and a receipt is wished for only on request.

use super::content::Content;
use super::downstream::{Downstream, Errand, check_weight, whole_seconds};
use super::fields::Fields;
use super::target::{TOPIC_PREFIX, condition, token, topic};
use super::{ErrorCode, Limits, Rejection};
use crate::chat::id::MessageId;
use crate::chat::push::{Priority, Push, TTL_MAX, Target, is_check_only};
use serde_json::{Map, Value};

/// The field that makes a document one of CCS.
pub(super) const MESSAGE_ID: &str = "message_id";
/// Fields of a BAL's own form. Beside `message_id` nobody can say which of the two is meant.
const OF_THE_OTHER_FORM: [&str; 12] =
    ["id", "token", "topic", "ttl", "collapse", "receipt", "push", "order", "category", "body", "type", "fcm"];
/// What is handed to the push service under the same name.
const HANDED_THROUGH: [&str; 4] = ["content_available", "mutable_content", PACKAGE, DRY_RUN];
const PACKAGE: &str = "restricted_package_name";
const DRY_RUN: &str = "dry_run";
/// A field of the past, without effect at the push service, which may hold anything. It is handed through for the sake of the
/// `detail` of `sent`, where v1 has no place for it.
const IDLE: &str = "delay_while_idle";

/// `message_id`. CCS takes a number as well, as its text. What is no message is refused before: its `message_id` is that of
/// somebody else's, whose sender must not hear that it failed.
pub(super) fn id(fields: &mut Fields) -> Result<Option<MessageId>, Rejection> {
    match fields.get("message_type").map(Value::as_str) {
        None => {}
        Some(Some("ack")) => {
            return Err(Rejection::bad_field("message_type", "is ack: acknowledge on `self/receipts`"));
        }
        Some(_) => return Err(Rejection::bad_field("message_type", "is not for messages to devices")),
    }
    let text = match fields.take(MESSAGE_ID) {
        None => return Ok(None),
        Some(Value::String(text)) => text,
        Some(Value::Number(number)) => number.to_string(),
        Some(_) => return Err(Rejection::new(ErrorCode::BadId, "`message_id` is not a string")),
    };
    let bad = |fault| Rejection::new(ErrorCode::BadId, format!("`message_id` {fault}"));
    MessageId::new(text).map(Some).map_err(bad)
}

/// Reads all but the id.
pub(super) fn read(fields: &mut Fields, limits: &Limits) -> Result<Downstream, Rejection> {
    fields.version()?;
    refuse_what_is_no_message(fields)?;
    let target = target(fields)?;
    // CCS delivers a message without content: it wakes the app.
    let content = Content::given(fields)?;
    check_weight(&content, &target, limits)?;
    let ttl = whole_seconds(fields, "time_to_live")?.unwrap_or(TTL_MAX);
    let priority = match fields.string("priority")?.as_deref() {
        Some("high") => Priority::High,
        Some("normal") => Priority::Normal,
        Some(_) => return Err(Rejection::bad_field("priority", "is not high or normal")),
        None if content.notification.is_some() => Priority::High,
        None => Priority::Normal,
    };
    let receipt = fields.flag("delivery_receipt_requested")?.unwrap_or(false);
    let collapse = fields.string("collapse_key")?.filter(|key| !key.is_empty());
    let idle = fields.take(IDLE) == Some(Value::Bool(true));
    let mut fcm = handed_through(fields)?;
    fcm.extend(idle.then(|| (IDLE.to_owned(), Value::Bool(true))));
    // The one word of CCS for the app: it chooses the way as `category` does.
    let category = fcm.get(PACKAGE).and_then(Value::as_str).map(str::to_owned);
    let push =
        Push { target, data: content.data, notification: content.notification, priority, collapse, receipt, fcm };
    Ok(Downstream { category, ..Downstream::new(Errand::Push(Box::new(push)), ttl) })
}

fn refuse_what_is_no_message(fields: &Fields) -> Result<(), Rejection> {
    if let Some(name) = OF_THE_OTHER_FORM.into_iter().find(|name| fields.has(name)) {
        return Err(Rejection::bad_field(name, "and `message_id` are both given: it is a field of the other form"));
    }
    if fields.has("registration_ids") {
        return Err(Rejection::bad_field("registration_ids", "is not for CCS: send one message to each token"));
    }
    // What holds a push back is never ignored.
    match fields.names().find(|name| is_check_only(name) && *name != DRY_RUN) {
        Some(name) => Err(Rejection::bad_field(name, "is no field of CCS: it is spelt `dry_run`")),
        None => Ok(()),
    }
}

/// `to`, which is a token or a topic with its prefix, or `condition`.
fn target(fields: &mut Fields) -> Result<Target, Rejection> {
    match (fields.string("to")?, fields.string("condition")?) {
        (Some(to), None) if to.starts_with(TOPIC_PREFIX) => topic("to", &to).map(Target::Topic),
        (Some(to), None) => token("to", to).map(Target::Token),
        (None, Some(text)) => condition(text).map(Target::Condition),
        (to, _) => {
            let how_many = if to.is_some() { "both" } else { "none" };
            let detail = format!("{how_many} of `to` and `condition`; exactly one is needed");
            Err(Rejection::new(ErrorCode::BadTarget, detail))
        }
    }
}

fn handed_through(fields: &mut Fields) -> Result<Map<String, Value>, Rejection> {
    let mut handed = Map::new();
    for name in HANDED_THROUGH {
        let value = match name {
            PACKAGE => fields.string(name)?.map(Value::String),
            _ => fields.flag(name)?.map(Value::Bool),
        };
        handed.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(handed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::Token;
    use crate::chat::message::Sender;
    use serde_json::json;

    fn parse(document: &Value) -> Result<Downstream, Rejection> {
        Downstream::parse(Sender::Bal, document.to_string().as_bytes(), &Limits::default())
    }

    fn taken(document: &Value) -> (Downstream, Push) {
        let message = parse(document).unwrap_or_else(|rejection| panic!("{document}: {rejection}"));
        match &message.errand {
            Errand::Push(push) => (message.clone(), (**push).clone()),
            Errand::Name => panic!("for a name"),
        }
    }

    fn refused(document: &Value) -> (ErrorCode, String) {
        let rejection = parse(document).expect_err("it is wrong");
        (rejection.code(), rejection.detail().to_owned())
    }

    #[test]
    fn every_field_of_ccs_arrives() {
        let (message, push) = taken(&json!({
            "to": "APA91b:T", "message_id": "m-1723", "collapse_key": "score", "priority": "high", "time_to_live": "600",
            "delay_while_idle": true, "delivery_receipt_requested": true, "dry_run": true, "content_available": true,
            "mutable_content": false, "restricted_package_name": "com.example.app", "data": {"hello": "world", "n": 1},
            "notification": {"title": "t"},
        }));
        assert_eq!(message.id, MessageId::new("m-1723").ok());
        assert_eq!((message.ttl, message.category.as_deref()), (600, Some("com.example.app")));
        assert_eq!(message.ignored, Vec::<String>::new());
        assert_eq!(push.target, Target::Token(Token::new("APA91b:T").unwrap()));
        assert_eq!((push.priority, push.collapse.as_deref(), push.receipt), (Priority::High, Some("score"), true));
        assert_eq!(Value::Object(push.data), json!({"hello": "world", "n": "1"}));
        assert_eq!(push.notification.map(Value::Object), Some(json!({"title": "t"})));
        let handed = json!({"content_available": true, "mutable_content": false,
            "restricted_package_name": "com.example.app", "dry_run": true, "delay_while_idle": true});
        assert_eq!(Value::Object(push.fcm), handed);
    }

    #[test]
    fn a_field_of_the_past_is_in_nobodys_way() {
        for value in [json!(false), json!("yes"), json!(5)] {
            let (message, push) = taken(&json!({"to": "T", "message_id": "1", "delay_while_idle": value}));
            assert!(push.fcm.is_empty() && message.ignored.is_empty(), "{:?}", push.fcm);
        }
    }

    #[test]
    fn what_is_not_given_is_what_ccs_takes_it_for() {
        let (message, push) = taken(&json!({"to": "T", "message_id": 7}));
        assert_eq!((message.id, message.ttl), (MessageId::new("7").ok(), TTL_MAX));
        assert_eq!((push.priority, push.receipt, push.data.len()), (Priority::Normal, false, 0));
        let (_, push) = taken(&json!({"to": "T", "message_id": "7", "notification": {}, "collapse_key": ""}));
        assert_eq!((push.priority, push.collapse), (Priority::High, None));
    }

    #[test]
    fn topics_and_conditions_are_targets_too() {
        let target = |document| taken(&document).1.target;
        assert_eq!(target(json!({"message_id": "1", "to": "/topics/news"})), Target::Topic("news".into()));
        let condition = "'a' in topics";
        let expected = Target::Condition(condition.into());
        assert_eq!(target(json!({"message_id": "1", "condition": condition})), expected);
        for (fields, code) in [
            (json!({}), ErrorCode::BadTarget),
            (json!({"to": "T", "condition": "'a' in topics"}), ErrorCode::BadTarget),
            (json!({"to": "/topics/a b"}), ErrorCode::BadField),
            (json!({"to": 5}), ErrorCode::BadField),
        ] {
            let mut document = fields.clone();
            document["message_id"] = json!("1");
            assert_eq!(refused(&document).0, code, "{document}");
        }
    }

    #[test]
    fn fields_of_the_other_form_beside_it_are_refused_by_name() {
        for name in OF_THE_OTHER_FORM {
            let mut document = json!({"to": "T", "message_id": "1", "data": {}});
            document[name] = json!("x");
            let (code, detail) = refused(&document);
            assert_eq!(code, ErrorCode::BadField);
            assert!(detail.contains(&format!("`{name}`")) && detail.contains("`message_id`"), "{detail}");
        }
    }

    #[test]
    fn an_acknowledgement_is_told_where_it_belongs() {
        let ack = json!({"to": "T", "message_id": "1", "message_type": "ack"});
        let (code, detail) = refused(&ack);
        assert_eq!(code, ErrorCode::BadField);
        assert!(detail.contains("self/receipts"), "{detail}");
        let rejection = parse(&ack).unwrap_err();
        assert_eq!(
            rejection.ref_id(),
            None,
            "the id is that of a device's message: nothing of the sender's has failed"
        );
        assert_eq!(refused(&json!({"to": "T", "message_id": "1", "message_type": 5})).0, ErrorCode::BadField);
    }

    #[test]
    fn what_would_hold_the_push_back_is_never_ignored() {
        for name in ["dryRun", "validate_only", "dry-run"] {
            let mut document = json!({"to": "T", "message_id": "1"});
            document[name] = json!(true);
            assert_eq!(refused(&document).0, ErrorCode::BadField, "{name}");
        }
    }

    #[test]
    fn wrong_values_are_told_in_the_words_of_ccs() {
        for (field, value) in [
            ("time_to_live", json!("abc")),
            ("time_to_live", json!(TTL_MAX + 1)),
            ("priority", json!("urgent")),
            ("delivery_receipt_requested", json!("yes")),
            ("collapse_key", json!(1)),
            ("registration_ids", json!(["a", "b"])),
            ("dry_run", json!(1)),
        ] {
            let mut document = json!({"to": "T", "message_id": "1"});
            document[field] = value;
            let (code, detail) = refused(&document);
            assert_eq!(code, ErrorCode::BadField);
            assert!(detail.starts_with(&format!("`{field}`")), "{detail}");
        }
        let (code, detail) = refused(&json!({"to": "T", "message_id": "a b"}));
        assert!(code == ErrorCode::BadId && detail.starts_with("`message_id`"), "{detail}");
        let large = json!({"to": "/topics/t", "message_id": "1", "data": {"k": "x".repeat(2048)}});
        assert_eq!(refused(&large).0, ErrorCode::TooBig);
    }

    #[test]
    fn only_a_bal_speaks_it() {
        let document = json!({"to": "bob", "message_id": "1"}).to_string();
        let refused = Downstream::parse(Sender::User, document.as_bytes(), &Limits::default()).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Forbidden);
        assert_eq!(refused.ref_id().map(MessageId::as_str), Some("1"));
    }

    #[test]
    fn fields_that_nobody_knows_are_named() {
        let mut document = json!({"to": "T", "message_id": "1"});
        assert_eq!(taken(&document).0.notice(), None);
        document["android"] = json!({});
        document["nothing"] = Value::Null;
        assert_eq!(taken(&document).0.notice().as_deref(), Some("unknown and ignored: \"android\""));
        for n in 0..6 {
            document[format!("x{n}")] = json!(n);
        }
        let notice = taken(&document).0.notice().unwrap();
        assert!(notice.ends_with("\"x3\" and 2 more"), "{notice}");
    }
}
