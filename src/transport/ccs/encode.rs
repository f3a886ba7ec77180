//! A push in the words of CCS.

use crate::ccs::payload::Downstream;
use crate::chat::push::{Priority, Target, asks_to_check_only, is_check_only};
use crate::transport::Send;
use serde_json::{Map, Value};

/// Fields that decide where a message goes and what it is; nothing handed through may touch them.
const PROTECTED: [&str; 4] = ["to", "condition", "message_id", "message_type"];

/// `send` as CCS wants it, with the time to live that is left at `now_ms`.
pub(super) fn downstream(send: &Send, now_ms: u64) -> Downstream {
    let (to, condition) = match &send.push.target {
        Target::Token(token) => (Some(token.reveal().to_owned()), None),
        Target::Topic(name) => (Some(format!("/topics/{name}")), None),
        Target::Condition(expression) => (None, Some(expression.clone())),
    };
    Downstream { to, condition, message_id: send.sid.to_string(), fields: fields(send, now_ms) }
}

fn fields(send: &Send, now_ms: u64) -> Map<String, Value> {
    let push = &send.push;
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    let priority = match push.priority {
        Priority::High => "high",
        Priority::Normal => "normal",
    };
    set("priority", Value::from(priority));
    // A number: CCS refuses the text that its own documents show.
    set("time_to_live", Value::from(send.ttl_left(now_ms)));
    if let Some(key) = &push.collapse {
        set("collapse_key", Value::from(key.as_str()));
    }
    if push.receipt {
        set("delivery_receipt_requested", Value::from(true));
    }
    if let Some(notification) = &push.notification {
        set("notification", Value::Object(notification.clone()));
    }
    if !push.data.is_empty() {
        set("data", Value::Object(push.data.clone()));
    }
    let handed_through = |name: &str| !PROTECTED.contains(&name) && !is_check_only(name);
    for (name, value) in push.fcm.iter().filter(|(name, _)| handed_through(name)) {
        set(name, value.clone());
    }
    if asks_to_check_only(&push.fcm).is_some() {
        // Its only word for it.
        set("dry_run", Value::Bool(true));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::{SidSource, Token};
    use crate::chat::message::NOW_OR_NEVER_MS;
    use crate::chat::push::{CHECK_ONLY, Push};
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    fn send(target: Target) -> Send {
        Send {
            sid: SidSource::default().next(1, 1),
            push: Push {
                target,
                data: map(json!({"k": "</gcm>"})),
                notification: Some(map(json!({"title": "t"}))),
                priority: Priority::High,
                collapse: Some("chat".to_owned()),
                receipt: true,
                fcm: map(json!({"dry_run": true, "priority": "normal", "to": "thief", "message_type": "ack",
                    "message_id": "x", "condition": "c"})),
            },
            recipient: crate::chat::id::Recipient(1),
            accepted_ms: 0,
            deadline_ms: 10_001,
        }
    }

    #[test]
    fn every_field_has_ccs_name_and_the_target_is_safe() {
        let send = send(Target::Token(Token::new("T").unwrap()));
        let json: Value = serde_json::from_str(&downstream(&send, 5_000).into_json()).unwrap();
        assert_eq!(
            json,
            json!({
                "to": "T", "message_id": send.sid.to_string(), "priority": "normal", "time_to_live": 6,
                "collapse_key": "chat", "delivery_receipt_requested": true, "notification": {"title": "t"},
                "data": {"k": "</gcm>"}, "dry_run": true,
            })
        );
    }

    #[test]
    fn topics_and_conditions_are_targets_as_well() {
        let topic = downstream(&send(Target::Topic("news".to_owned())), 0);
        assert_eq!((topic.to.as_deref(), topic.condition), (Some("/topics/news"), None));
        let condition = downstream(&send(Target::Condition("'a' in topics".to_owned())), 0);
        assert_eq!((condition.to, condition.condition.as_deref()), (None, Some("'a' in topics")));
    }

    #[test]
    fn what_is_not_asked_for_is_not_sent() {
        let mut send = send(Target::Topic("news".to_owned()));
        send.push.receipt = false;
        send.push.data = Map::new();
        send.push.notification = None;
        send.push.collapse = None;
        send.push.fcm = Map::new();
        // Now or never, and a moment has passed.
        send.deadline_ms = NOW_OR_NEVER_MS;
        let fields = downstream(&send, 10).fields;
        assert_eq!(Value::Object(fields), json!({"priority": "high", "time_to_live": 0}));
    }

    #[test]
    fn what_only_checks_says_so_in_the_word_of_ccs() {
        for name in CHECK_ONLY.into_iter().chain(["DryRun", "dry-run"]) {
            let mut send = send(Target::Topic("news".to_owned()));
            send.push.fcm = map(json!({ name: true }));
            let fields = downstream(&send, 0).fields;
            assert_eq!(fields.get("dry_run"), Some(&json!(true)), "{name}");
            assert!(name == "dry_run" || !fields.contains_key(name), "{name}");
            send.push.fcm = map(json!({ name: "stored by an earlier release" }));
            assert_eq!(downstream(&send, 0).fields.get("dry_run"), Some(&json!(true)), "{name}");
            send.push.fcm = map(json!({ name: false }));
            assert_eq!(downstream(&send, 0).fields.get("dry_run"), None, "{name}");
        }
    }
}
