//! The fields of a request and their types, and how the front reads them: names in snake or camel case, of two the later
//! one, null as if it were not there. What comes out is in snake case and of the right types.

use serde_json::{Map, Value};

/// What a field holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Texts,
    Bool,
    Int,
    Float,
    Duration,
    Durations,
    /// Text to text.
    TextMap,
    /// Any JSON object.
    Struct,
    Enum(&'static str, &'static [&'static str]),
    Message(&'static [Field]),
}

type Field = (&'static str, Kind);

use Kind::{Bool, Duration, Durations, Enum, Float, Int, Message, Struct, Text, TextMap, Texts};

const REQUEST: &[Field] = &[("validate_only", Bool), ("message", Message(MESSAGE))];

const MESSAGE: &[Field] = &[
    ("name", Text),
    ("fid", Text),
    ("token", Text),
    ("topic", Text),
    ("condition", Text),
    ("data", TextMap),
    ("notification", Message(&[("title", Text), ("body", Text), ("image", Text)])),
    ("fcm_options", Message(LABEL)),
    ("android", Message(ANDROID)),
    ("android_v2", Message(ANDROID_V2)),
    ("apns", Message(APNS)),
    ("webpush", Message(WEBPUSH)),
];

const LABEL: &[Field] = &[("analytics_label", Text)];

const ANDROID: &[Field] = &[
    ("collapse_key", Text),
    ("priority", Enum("google.firebase.fcm.v1.AndroidMessagePriority", &["NORMAL", "HIGH"])),
    ("ttl", Duration),
    ("restricted_package_name", Text),
    ("data", TextMap),
    ("notification", Message(ANDROID_NOTIFICATION)),
    ("fcm_options", Message(LABEL)),
    ("direct_boot_ok", Bool),
    ("bandwidth_constrained_ok", Bool),
    ("restricted_satellite_ok", Bool),
];

const ANDROID_NOTIFICATION: &[Field] = &[
    ("title", Text),
    ("body", Text),
    ("icon", Text),
    ("color", Text),
    ("sound", Text),
    ("tag", Text),
    ("click_action", Text),
    ("body_loc_key", Text),
    ("body_loc_args", Texts),
    ("title_loc_key", Text),
    ("title_loc_args", Texts),
    ("channel_id", Text),
    ("ticker", Text),
    ("sticky", Bool),
    ("event_time", Text),
    ("local_only", Bool),
    (
        "notification_priority",
        Enum(
            "google.firebase.fcm.v1.AndroidNotification.NotificationPriority",
            &[
                "PRIORITY_UNSPECIFIED",
                "PRIORITY_MIN",
                "PRIORITY_LOW",
                "PRIORITY_DEFAULT",
                "PRIORITY_HIGH",
                "PRIORITY_MAX",
            ],
        ),
    ),
    ("default_sound", Bool),
    ("default_vibrate_timings", Bool),
    ("default_light_settings", Bool),
    ("vibrate_timings", Durations),
    (
        "visibility",
        Enum(
            "google.firebase.fcm.v1.AndroidNotification.Visibility",
            &["VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"],
        ),
    ),
    ("notification_count", Int),
    ("light_settings", Message(LIGHT)),
    ("image", Text),
    (
        "proxy",
        Enum(
            "google.firebase.fcm.v1.AndroidNotification.Proxy",
            &["PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"],
        ),
    ),
    ("id", Int),
];

const LIGHT: &[Field] = &[
    ("color", Message(&[("red", Float), ("green", Float), ("blue", Float), ("alpha", Float)])),
    ("light_on_duration", Duration),
    ("light_off_duration", Duration),
];

const ANDROID_V2: &[Field] = &[
    ("collapse_key", Text),
    ("ttl", Duration),
    ("restricted_package_name", Text),
    ("data", TextMap),
    ("fcm_options", Message(LABEL)),
    ("direct_boot_ok", Bool),
    ("bandwidth_constrained_ok", Bool),
    ("restricted_satellite_ok", Bool),
    (
        "remote_notification",
        Message(&[
            ("mutable_content", Bool),
            ("use_as_v1_data_message", Bool),
            ("notification", Message(ANDROID_NOTIFICATION)),
        ]),
    ),
    ("background_sync", Message(&[])),
];

const APNS: &[Field] = &[
    ("headers", TextMap),
    ("payload", Struct),
    ("fcm_options", Message(&[("analytics_label", Text), ("image", Text)])),
    ("live_activity_token", Text),
];

const WEBPUSH: &[Field] = &[
    ("headers", TextMap),
    ("data", TextMap),
    ("notification", Struct),
    ("fcm_options", Message(&[("link", Text), ("analytics_label", Text)])),
];

/// Why a request cannot be read: the field and the front's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) field: Option<String>,
    pub(super) description: String,
}

/// Reads a body.
pub(super) fn read(body: &[u8]) -> Result<Map<String, Value>, Unreadable> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => message(fields, REQUEST, ""),
        Ok(_) => Err(Unreadable {
            field: None,
            description: "Invalid JSON payload received. Unknown name \"\": Root element must be a message.".to_owned(),
        }),
        Err(_) => {
            Err(Unreadable { field: None, description: "Invalid JSON payload received. Unexpected token.".to_owned() })
        }
    }
}

fn message(fields: Map<String, Value>, known: &'static [Field], path: &str) -> Result<Map<String, Value>, Unreadable> {
    let mut read = Map::with_capacity(fields.len());
    for (key, value) in fields {
        let Some((name, kind)) = known.iter().find(|(name, _)| *name == key || is_camel_of(&key, name)) else {
            return Err(unknown(&key, path));
        };
        if value.is_null() {
            continue;
        }
        let inner = if path.is_empty() { (*name).to_owned() } else { format!("{path}.{name}") };
        read.insert((*name).to_owned(), field(value, *kind, &inner)?);
    }
    Ok(read)
}

fn field(value: Value, kind: Kind, path: &str) -> Result<Value, Unreadable> {
    let fits = match (&kind, &value) {
        (Message(known), Value::Object(_)) => {
            let Value::Object(fields) = value else { return Ok(value) };
            return message(fields, known, path).map(Value::Object);
        }
        (TextMap, Value::Object(fields)) => {
            let odd = fields.iter().enumerate().find(|(_, (_, value))| !value.is_string());
            return match odd {
                Some((at, (_, odd))) => Err(wrong(&format!("{path}[{at}].value"), "TYPE_STRING", odd)),
                None => Ok(value),
            };
        }
        (Texts, Value::Array(texts)) => texts.iter().all(Value::is_string),
        (Durations, Value::Array(texts)) => texts.iter().all(|text| text.as_str().is_some_and(is_duration)),
        (Text, Value::String(_)) | (Bool, Value::Bool(_)) | (Float, Value::Number(_)) | (Struct, Value::Object(_)) => {
            true
        }
        (Int, Value::Number(number)) => number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        (Duration, Value::String(text)) => is_duration(text),
        (Enum(_, words), Value::String(word)) => words.iter().any(|known| known.eq_ignore_ascii_case(word)),
        _ => false,
    };
    if fits { Ok(value) } else { Err(wrong(path, type_name(kind), &value)) }
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Text | Texts => "TYPE_STRING",
        Bool => "TYPE_BOOL",
        Int => "TYPE_INT32",
        Float => "TYPE_FLOAT",
        Duration | Durations => "type.googleapis.com/google.protobuf.Duration",
        TextMap => "Map",
        Struct => "type.googleapis.com/google.protobuf.Struct",
        Enum(name, _) => name,
        Message(_) => "Message",
    }
}

fn unknown(key: &str, path: &str) -> Unreadable {
    let key = cut(key);
    let description = if path.is_empty() {
        format!("Invalid JSON payload received. Unknown name \"{key}\": Cannot find field.")
    } else {
        format!("Invalid JSON payload received. Unknown name \"{key}\" at '{path}': Cannot find field.")
    };
    Unreadable { field: (!path.is_empty()).then(|| path.to_owned()), description }
}

fn wrong(path: &str, wanted: &str, value: &Value) -> Unreadable {
    let description = format!("Invalid value at '{path}' ({wanted}), {}", cut(&value.to_string()));
    Unreadable { field: Some(path.to_owned()), description }
}

/// What the client wrote, shortened: anybody may have written it.
fn cut(text: &str) -> String {
    const SHOWN: usize = 100;
    text.chars().take(SHOWN).collect()
}

/// `3.5s`: seconds with up to nine decimals.
fn is_duration(text: &str) -> bool {
    let digits =
        |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(number) = text.strip_suffix('s') else { return false };
    let number = number.strip_prefix('-').unwrap_or(number);
    match number.split_once('.') {
        Some((whole, part)) => digits(whole, 12) && digits(part, 9),
        None => digits(number, 12),
    }
}

/// Whether `key` is `name` in camel case.
fn is_camel_of(key: &str, name: &str) -> bool {
    let mut camel = String::with_capacity(name.len());
    for (at, word) in name.split('_').enumerate() {
        let (first, rest) = word.split_at(usize::from(at > 0 && !word.is_empty()));
        camel.push_str(&first.to_ascii_uppercase());
        camel.push_str(rest);
    }
    key == camel
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn refused(body: &Value) -> (String, String) {
        let unreadable = read(body.to_string().as_bytes()).unwrap_err();
        (unreadable.field.unwrap_or_default(), unreadable.description)
    }

    #[test]
    fn both_spellings_are_read_and_the_later_counts() {
        let body =
            br#"{"validateOnly":true,"message":{"androidV2":{"collapseKey":"a","collapse_key":"b","ttl":null}}}"#;
        assert_eq!(
            Value::Object(read(body).unwrap()),
            json!({"validate_only": true, "message": {"android_v2": {"collapse_key": "b"}}})
        );
        assert_eq!(read(br#"{"message":{"token":"a","token":"b"}}"#).unwrap()["message"]["token"], json!("b"));
    }

    #[test]
    fn unknown_fields_and_wrong_types_are_named() {
        let unknown =
            "Invalid JSON payload received. Unknown name \"registration_ids\" at 'message': Cannot find field.";
        assert_eq!(
            refused(&json!({"message": {"registration_ids": ["t"]}})),
            ("message".to_owned(), unknown.to_owned())
        );
        for (message, field, word) in [
            (json!({"data": {"a": "1", "b": 12}}), "message.data[1].value", "(TYPE_STRING), 12"),
            (json!({"token": 5}), "message.token", "(TYPE_STRING), 5"),
            (json!({"android": {"ttl": "5"}}), "message.android.ttl", "google.protobuf.Duration), \"5\""),
            (json!({"android": {"ttl": 5}}), "message.android.ttl", "Duration"),
            (json!({"android": {"priority": "urgent"}}), "message.android.priority", "AndroidMessagePriority"),
            (json!({"android": {"notification": {"sticky": "x"}}}), "message.android.notification.sticky", "TYPE_BOOL"),
            (json!({"apns": {"payload": []}}), "message.apns.payload", "Struct"),
            (json!({"notification": "x"}), "message.notification", "Message"),
            (
                json!({"android": {"notification": {"titleLocArgs": [1]}}}),
                "message.android.notification.title_loc_args",
                "TYPE_STRING",
            ),
        ] {
            let (at, description) = refused(&json!({"message": message}));
            assert_eq!(at, field);
            assert!(description.contains(word), "{description}");
        }
        assert_eq!(refused(&json!([])).0, "");
        assert!(read(b"{").unwrap_err().description.contains("Unexpected token"));
    }

    #[test]
    fn everything_that_is_documented_is_read() {
        let message = json!({
            "token": "t",
            "data": {"k": "v"},
            "notification": {"title": "t", "body": "b", "image": "i"},
            "fcmOptions": {"analyticsLabel": "l"},
            "android": {
                "collapseKey": "k", "priority": "high", "ttl": "3.5s", "restrictedPackageName": "p", "directBootOk": true,
                "notification": {
                    "color": "#aabbcc", "bodyLocArgs": ["a"], "notificationPriority": "PRIORITY_MAX",
                    "vibrateTimings": ["0.1s"], "visibility": "PUBLIC", "notificationCount": 3, "proxy": "DENY",
                    "lightSettings": {"color": {"red": 0.5}, "lightOnDuration": "1s", "lightOffDuration": "1s"},
                },
            },
            "apns": {"headers": {"apns-priority": "5"}, "payload": {"aps": {"x": [1]}}, "liveActivityToken": "l"},
            "webpush": {"headers": {"TTL": "1"}, "data": {"a": "b"}, "notification": {"any": {"thing": 1}}},
        });
        assert!(read(json!({"message": message}).to_string().as_bytes()).is_ok());
    }

    #[test]
    fn durations_have_their_form() {
        for text in ["0s", "3.5s", "2419200s", "-1s", "1.123456789s"] {
            assert!(is_duration(text), "{text}");
        }
        for text in ["", "s", "1", ".5s", "1.s", "1.1234567890s", "1e3s", "+1s", "1 s", "--1s"] {
            assert!(!is_duration(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes: Vec<u8>, text in "[{}\\[\\]\":,a-z0-9]{0,60}") {
            let _ = read(&bytes);
            let _ = read(text.as_bytes());
        }

        #[test]
        fn a_body_cut_short_is_refused(cut in 0usize..44) {
            let body = br#"{"message":{"token":"t","data":{"a":"\u00e9"}}}"#;
            prop_assert!(read(&body[..cut]).is_err());
        }
    }
}
