//! A push in the words of FCM.

use crate::chat::push::{CHECK_ONLY, Priority, Push, Target, asks_to_check_only, is_check_only};
use crate::chat::topic::APP_RECEIPTS;
use crate::fcm::message::Message;
use crate::fcm::request::{ACK_KEY, ID_KEY, RequestError};
use crate::fcm::target;
use serde_json::{Map, Value};

/// What CCS and topics.md call the same field.
const WORDS: [(&str, &str); 2] = [("collapse_key", "collapse"), ("time_to_live", "ttl")];

/// `push` as FCM's pure half takes it. `ttl_s` is what is left of its time to live, `id` the bridge's id of it, and
/// `ack` is where the app confirms that it has the message.
///
/// # Errors
/// When the push is one that FCM would refuse.
pub fn message(push: &Push, id: String, ttl_s: u32, ack: Option<&str>) -> Result<Message, RequestError> {
    let mut fields = push.fcm.clone();
    let target = match &push.target {
        Target::Token(token) => target::Target::named("token", token.reveal())?,
        Target::Topic(name) => target::Target::named("topic", name)?,
        Target::Condition(expression) => target::Target::named("condition", expression)?,
    };
    let target = target.as_called_by(&mut fields)?;
    // One word of them, for of two that contradict each other the later one would count.
    let word = asks_to_check_only(&push.fcm);
    fields.retain(|name, _| !is_check_only(name));
    let known = |word: &str| if CHECK_ONLY.contains(&word) { word.to_owned() } else { CHECK_ONLY[0].to_owned() };
    fields.extend(word.map(|word| (known(word), Value::Bool(true))));
    let priority = if push.priority == Priority::High { "high" } else { "normal" };
    fields.extend(Map::from_iter([
        ("data".to_owned(), Value::Object(push.data.clone())),
        ("notification".to_owned(), push.notification.clone().map_or(Value::Null, Value::Object)),
        ("collapse_key".to_owned(), push.collapse.as_deref().map_or(Value::Null, Value::from)),
        ("priority".to_owned(), Value::from(priority)),
        ("time_to_live".to_owned(), Value::from(ttl_s)),
    ]));
    let ack = ack.map(str::to_owned);
    // A push of the bridge's own for an item of a chat says itself which item is to be confirmed, and where.
    let says_itself =
        !push.receipt && push.data.contains_key(ID_KEY) && push.data.get(ACK_KEY) == Some(&APP_RECEIPTS.into());
    let id = Some(id).filter(|_| !says_itself);
    Ok(Message { target, id, receipt: push.receipt, ack, fields, words: &WORDS })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::Token;
    use crate::fcm::request::translate;
    use crate::fcm::target::Kind;
    use serde_json::{Map, Value, json};

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    fn push(target: Target) -> Push {
        Push {
            target,
            data: map(json!({"k": "v"})),
            notification: None,
            priority: Priority::Normal,
            collapse: Some("chat".to_owned()),
            receipt: true,
            fcm: map(json!({"dry_run": true, "restricted_package_name": "com.example",
                "android": {"directBootOk": true}})),
        }
    }

    #[test]
    fn every_field_of_a_push_arrives() {
        let push = push(Target::Token(Token::new("APA91b:x").unwrap()));
        let message = message(&push, "06eqbd3gy0001ab2".to_owned(), 60, Some("bal1/self/receipts")).unwrap();
        let request = translate(message, 1_000).unwrap();
        assert!(request.validate_only);
        assert_eq!(
            serde_json::from_str::<Value>(&request.body).unwrap(),
            json!({"validate_only": true, "message": {
                "token": "APA91b:x",
                "data": {"k": "v", "mid": "06eqbd3gy0001ab2", "ack": "bal1/self/receipts"},
                "android": {"collapse_key": "chat", "ttl": "60s", "restricted_package_name": "com.example",
                    "priority": "NORMAL", "direct_boot_ok": true},
                "webpush": {"headers": {"TTL": "60", "Urgency": "normal", "Topic": "chat"}},
            }})
        );
    }

    #[test]
    fn a_push_that_says_itself_what_is_to_be_confirmed_loses_nothing() {
        let mut push = push(Target::Topic("news".to_owned()));
        (push.receipt, push.collapse, push.fcm) = (false, None, Map::new());
        push.data = map(json!({"mid": "06eqbd3gy0001ab2", "ack": APP_RECEIPTS}));
        let losses = |push: &Push| {
            let message = message(push, "06eqbd3gy0001ab3".to_owned(), 60, Some(APP_RECEIPTS)).unwrap();
            translate(message, 1_000).unwrap().losses.iter().map(|loss| loss.field.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(losses(&push), [""; 0]);
        push.data.shift_remove("ack");
        assert_eq!(losses(&push), ["data.mid"], "a key of the application's own");
    }

    #[test]
    fn a_push_that_one_word_holds_back_is_only_checked_whatever_the_others_say() {
        for fcm in [
            json!({"dry_run": true, "dryRun": false}),
            json!({"dryRun": false, "dry_run": true}),
            json!({"validate_only": true, "validateOnly": false}),
            json!({"validateOnly": false, "dry_run": null, "dryRun": true}),
            // Stored by an earlier release.
            json!({"dry_run": "yes"}),
            json!({"DryRun": true, "dry_run": false}),
        ] {
            let mut push = push(Target::Topic("news".to_owned()));
            push.fcm = map(fcm.clone());
            let request = translate(message(&push, "x".to_owned(), 0, None).unwrap(), 0).unwrap();
            assert!(request.validate_only && request.body.contains("\"validate_only\":true"), "{fcm}");
        }
        let mut push = push(Target::Topic("news".to_owned()));
        push.fcm = map(json!({"dry_run": false, "dryRun": null}));
        assert!(!translate(message(&push, "x".to_owned(), 0, None).unwrap(), 0).unwrap().validate_only);
    }

    #[test]
    fn topics_and_conditions_are_targets_as_well() {
        for (target, field, text) in [
            (Target::Topic("news".to_owned()), "topic", "news"),
            (Target::Condition("'a' in topics".to_owned()), "condition", "'a' in topics"),
        ] {
            let request = translate(message(&push(target), "x".to_owned(), 0, None).unwrap(), 0).unwrap();
            let body: Value = serde_json::from_str(&request.body).unwrap();
            assert_eq!(body["message"][field], text);
        }
    }

    #[test]
    fn a_token_is_an_installation_id_only_if_its_sender_says_so() {
        let fid = "cAbCdEfGhIjKlMnOpQrStU";
        let target = |fcm: Value| {
            let mut push = push(Target::Token(Token::new(fid).unwrap()));
            push.fcm = map(fcm);
            message(&push, "x".to_owned(), 0, None).map(|message| message.target.kind())
        };
        assert_eq!(target(json!({})), Ok(Kind::Token));
        assert_eq!(target(json!({"fid": fid})), Ok(Kind::Fid));
        assert_eq!(target(json!({"fid": "another"})), Err(RequestError::Target(target::TargetError::Fid)));
    }

    #[test]
    fn a_switch_of_the_wrong_type_is_the_senders_fault() {
        let mut push = push(Target::Topic("news".to_owned()));
        push.fcm = map(json!({"content_available": "yes"}));
        let refused = translate(message(&push, "x".to_owned(), 0, None).unwrap(), 0).unwrap_err();
        assert_eq!(refused.to_string(), "`content_available` is not true or false");
    }

    #[test]
    fn what_is_dropped_is_told_in_the_words_of_topics_md() {
        let mut push = push(Target::Token(Token::new("T").unwrap()));
        push.priority = Priority::High;
        push.fcm = map(json!({"android_v2": {"background_sync": {}}}));
        let losses = |push: &Push| translate(message(push, "x".to_owned(), 0, None).unwrap(), 0).unwrap().losses;
        let names = losses(&push).iter().map(|loss| loss.field.to_string()).collect::<Vec<_>>();
        assert_eq!(names, ["data.ack", "data.mid", "collapse"], "nobody wrote a priority");
    }
}
