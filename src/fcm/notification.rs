//! The one `notification` object of CCS, taken apart: what v1 has for all platforms, for Android, and for Apple.

use super::loss::{Losses, Why};
use super::request::RequestError;
use serde_json::{Map, Value};

/// The parts of a notification.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// `message.notification`.
    pub(super) common: Map<String, Value>,
    /// `android.notification`.
    pub(super) android: Map<String, Value>,
    /// `apns.payload.aps.alert`, with title and body.
    pub(super) alert: Map<String, Value>,
    /// The rest of `apns.payload.aps`.
    pub(super) aps: Map<String, Value>,
}

/// What a field becomes.
struct Row {
    name: &'static str,
    shape: Shape,
    common: Option<&'static str>,
    android: Option<&'static str>,
    apple: Apple,
}

#[derive(Clone, Copy)]
enum Shape {
    /// Text; numbers and booleans become text.
    Text,
    /// A list of texts; CCS takes it as the text of a JSON list.
    Texts,
    /// A whole number, or the text of one.
    Count,
    /// Text on Android; on Apple's devices an object as well (critical alerts).
    Sound,
    /// A field of v1 itself, passed on as it is.
    Any,
}

#[derive(Clone, Copy)]
enum Apple {
    None,
    /// In `aps`.
    Aps(&'static str),
    /// In `aps.alert`.
    Alert(&'static str),
    /// In `aps.alert`, once there is one: FCM itself writes it there as long as nothing else does.
    Shared(&'static str),
}

impl Row {
    const fn new(name: &'static str, shape: Shape, android: &'static str, apple: Apple) -> Self {
        Self { name, shape, common: None, android: Some(android), apple }
    }

    const fn shared(name: &'static str) -> Self {
        Self { name, shape: Shape::Text, common: Some(name), android: None, apple: Apple::Shared(name) }
    }

    const fn apple(name: &'static str, shape: Shape, apple: Apple) -> Self {
        Self { name, shape, common: None, android: None, apple }
    }

    /// A field of v1's `android.notification` that CCS never had.
    const fn android(name: &'static str) -> Self {
        Self::new(name, Shape::Any, name, Apple::None)
    }
}

const ROWS: [Row; 30] = [
    Row::shared("title"),
    Row::shared("body"),
    Row { name: "image", shape: Shape::Text, common: Some("image"), android: None, apple: Apple::None },
    Row::new("icon", Shape::Text, "icon", Apple::None),
    Row::new("color", Shape::Text, "color", Apple::None),
    Row::new("tag", Shape::Text, "tag", Apple::None),
    Row::new("android_channel_id", Shape::Text, "channel_id", Apple::None),
    Row::new("channel_id", Shape::Text, "channel_id", Apple::None),
    Row::new("sound", Shape::Sound, "sound", Apple::Aps("sound")),
    Row::new("click_action", Shape::Text, "click_action", Apple::Aps("category")),
    Row::new("title_loc_key", Shape::Text, "title_loc_key", Apple::Alert("title-loc-key")),
    Row::new("title_loc_args", Shape::Texts, "title_loc_args", Apple::Alert("title-loc-args")),
    Row::new("body_loc_key", Shape::Text, "body_loc_key", Apple::Alert("loc-key")),
    Row::new("body_loc_args", Shape::Texts, "body_loc_args", Apple::Alert("loc-args")),
    Row::apple("subtitle", Shape::Text, Apple::Alert("subtitle")),
    Row::apple("badge", Shape::Count, Apple::Aps("badge")),
    Row::android("ticker"),
    Row::android("sticky"),
    Row::android("event_time"),
    Row::android("local_only"),
    Row::android("notification_priority"),
    Row::android("default_sound"),
    Row::android("default_vibrate_timings"),
    Row::android("default_light_settings"),
    Row::android("vibrate_timings"),
    Row::android("visibility"),
    Row::android("notification_count"),
    Row::android("light_settings"),
    Row::android("proxy"),
    Row::android("bypass_proxy_notification"),
];

impl Parts {
    /// Takes a notification apart, and notes what only one platform understands.
    pub(super) fn of(notification: &Map<String, Value>, losses: &mut Losses) -> Result<Self, RequestError> {
        let mut parts = Self::default();
        let mut shared = Map::new();
        for (name, value) in notification.iter().filter(|(_, value)| !value.is_null()) {
            let Some(row) = ROWS.iter().find(|row| row.name == name) else {
                losses.note_in("notification", name, Why::Unknown);
                continue;
            };
            let value = shaped(row, value)?;
            let why = parts.place(row, value, &mut shared);
            if let Some(why) = why {
                losses.note_in("notification", name, why);
            }
        }
        if !parts.alert.is_empty() {
            // An `alert` of ours replaces the one that FCM would make of the common title and body.
            shared.append(&mut parts.alert);
            parts.alert = shared;
        }
        Ok(parts)
    }

    /// Whether FCM itself makes something of it that an Apple device shows.
    pub(super) fn seen_on_apple(&self) -> bool {
        self.common.contains_key("title") || self.common.contains_key("body")
    }

    /// Puts a value where it belongs; says so if one platform does without it.
    fn place(&mut self, row: &Row, value: Value, shared: &mut Map<String, Value>) -> Option<Why> {
        let put = |map: &mut Map<String, Value>, name: &str| {
            map.insert(name.to_owned(), value.clone());
        };
        match row.apple {
            Apple::None => {}
            Apple::Aps(name) => put(&mut self.aps, name),
            Apple::Alert(name) => put(&mut self.alert, name),
            Apple::Shared(name) => put(shared, name),
        }
        if let Some(name) = row.common {
            put(&mut self.common, name);
            return None;
        }
        match row.android {
            Some(_) if matches!(row.shape, Shape::Sound) && value.is_object() => Some(Why::AppleOnly),
            Some(name) => {
                put(&mut self.android, name);
                matches!(row.apple, Apple::None).then_some(Why::AndroidOnly)
            }
            None => Some(Why::AppleOnly),
        }
    }
}

fn shaped(row: &Row, value: &Value) -> Result<Value, RequestError> {
    let shaped = match (row.shape, value) {
        (Shape::Any, any) => Some(any.clone()),
        (Shape::Sound, Value::Object(_)) => Some(value.clone()),
        (Shape::Text | Shape::Sound, _) => text(value).map(Value::String),
        (Shape::Count, Value::Number(number)) => number.as_u64().map(Value::from),
        (Shape::Count, Value::String(digits)) => digits.parse::<u64>().ok().map(Value::from),
        (Shape::Texts, Value::String(json)) => serde_json::from_str(json).ok().as_ref().and_then(texts),
        (Shape::Texts, list) => texts(list),
        (Shape::Count, _) => None,
    };
    shaped.ok_or(RequestError::Type(row.name))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn texts(value: &Value) -> Option<Value> {
    value.as_array()?.iter().map(|item| text(item).map(Value::String)).collect::<Option<Vec<_>>>().map(Value::Array)
}
