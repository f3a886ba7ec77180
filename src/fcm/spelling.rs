//! One spelling for what senders hand through. Proto JSON takes `collapseKey` and `collapse_key` for the same field,
//! so both must not stand side by side; of two, the later one counts, as with any repeated key.

use serde_json::{Map, Value};

/// Headers with capital letters; the others of web push keep the spelling they have, Apple's are lower-case.
const WEBPUSH_HEADERS: [&str; 3] = ["TTL", "Urgency", "Topic"];

/// What the keys of an object are.
#[derive(Clone, Copy)]
enum Keys {
    /// Names of fields.
    Fields,
    /// Fields of `webpush`, whose `notification` is the browser's and not Google's.
    Webpush,
    /// Header names, which differ in more than case or are the same.
    AppleHeaders,
    WebHeaders,
    /// The application's own.
    Free,
}

/// The fields of a message, in snake case at every level that Google names. Null counts as not given.
pub(super) fn snake(fields: Map<String, Value>) -> Map<String, Value> {
    renamed(fields, Keys::Fields)
}

fn renamed(fields: Map<String, Value>, keys: Keys) -> Map<String, Value> {
    let mut out = Map::with_capacity(fields.len());
    for (key, value) in fields {
        if value.is_null() && !matches!(keys, Keys::Free) {
            continue;
        }
        let name = match keys {
            Keys::Free => key,
            Keys::Fields | Keys::Webpush => snake_word(&key),
            Keys::AppleHeaders => key.to_ascii_lowercase(),
            Keys::WebHeaders => match WEBPUSH_HEADERS.iter().find(|known| known.eq_ignore_ascii_case(&key)) {
                Some(known) => (*known).to_owned(),
                None => key,
            },
        };
        let inner = below(keys, &name);
        out.insert(name, renamed_value(value, inner));
    }
    out
}

fn renamed_value(value: Value, keys: Keys) -> Value {
    match value {
        Value::Object(fields) => Value::Object(renamed(fields, keys)),
        other => other,
    }
}

/// What the keys of the object under `name` are.
fn below(keys: Keys, name: &str) -> Keys {
    match (keys, name) {
        (Keys::Free, _) | (_, "data" | "payload") | (Keys::Webpush, "notification") => Keys::Free,
        (Keys::Webpush, "headers") => Keys::WebHeaders,
        (_, "headers") => Keys::AppleHeaders,
        (_, "webpush") => Keys::Webpush,
        _ => Keys::Fields,
    }
}

fn snake_word(camel: &str) -> String {
    let mut snake = String::with_capacity(camel.len() + 4);
    for (i, c) in camel.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn spelt(value: Value) -> Value {
        Value::Object(snake(serde_json::from_value(value).unwrap()))
    }

    #[test]
    fn googles_names_are_snake_case_and_the_applications_stay() {
        assert_eq!(
            spelt(json!({
                "androidV2": {"remoteNotification": {"useAsV1DataMessage": true, "notification": {"channelId": "c"}}},
                "android": {"collapseKey": "k", "data": {"myKey": "v"}, "fcmOptions": {"analyticsLabel": "l"}},
                "apns": {"headers": {"Apns-Priority": "5"}, "payload": {"aps": {}, "myKey": {"innerKey": null}}},
                "webpush": {"headers": {"ttl": "1", "URGENCY": "low", "X-Mine": "x"},
                    "notification": {"requireInteraction": true}, "fcmOptions": {"link": "https://x"}},
                "fcmOptions": null,
            })),
            json!({
                "android_v2": {"remote_notification": {"use_as_v1_data_message": true, "notification": {"channel_id": "c"}}},
                "android": {"collapse_key": "k", "data": {"myKey": "v"}, "fcm_options": {"analytics_label": "l"}},
                "apns": {"headers": {"apns-priority": "5"}, "payload": {"aps": {}, "myKey": {"innerKey": null}}},
                "webpush": {"headers": {"TTL": "1", "Urgency": "low", "X-Mine": "x"},
                    "notification": {"requireInteraction": true}, "fcm_options": {"link": "https://x"}},
            })
        );
    }

    #[test]
    fn of_two_spellings_the_later_counts() {
        let both = json!({"android": {"collapseKey": "a", "collapse_key": "b"}});
        assert_eq!(spelt(both), json!({"android": {"collapse_key": "b"}}));
        let both = json!({"android": {"collapse_key": "b", "collapseKey": "a"}});
        assert_eq!(spelt(both), json!({"android": {"collapse_key": "a"}}));
    }

    proptest! {
        #[test]
        fn one_spelling_is_the_last(word in "[a-z][A-Za-z0-9_]{0,20}") {
            let once = snake_word(&word);
            prop_assert_eq!(snake_word(&once), once.clone());
            prop_assert!(once.bytes().all(|c| !c.is_ascii_uppercase()));
        }
    }
}
