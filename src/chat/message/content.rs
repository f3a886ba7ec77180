//! What a message says: `data` with its short forms `body` and `type`, `notification`, and how much they weigh.

use super::fields::Fields;
use super::{ErrorCode, Rejection};
use serde_json::{Map, Value};

/// Most characters of a key that an error text repeats.
const KEY_SHOWN: usize = 64;

/// What is shown or handed to the app.
pub(super) struct Content {
    pub(super) data: Map<String, Value>,
    pub(super) notification: Option<Map<String, Value>>,
}

impl Content {
    /// Reads it. There must be something to deliver, if only an empty `data`.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, Rejection> {
        let given = fields.object("data")?;
        let body = fields.string("body")?;
        let kind = fields.string("type")?;
        let notification = fields.object("notification")?;
        if given.is_none() && body.is_none() && notification.is_none() {
            let detail = "nothing to deliver: none of `data`, `body`, `notification`";
            return Err(Rejection::new(ErrorCode::MissingField, detail));
        }
        let mut data = strings(given.unwrap_or_default())?;
        if let Some(body) = body.map(Value::String)
            && data.insert("body".to_owned(), body.clone()).is_some_and(|other| other != body)
        {
            return Err(Rejection::bad_field("body", "and `data.body` are both given, and differ"));
        }
        if let Some(kind) = kind {
            // An application may use `type` in its data for something of its own: that stays.
            data.entry("type").or_insert(Value::String(kind));
        }
        Ok(Self { data, notification })
    }

    /// Reads it where there may be nothing, and without the short forms.
    pub(super) fn given(fields: &mut Fields) -> Result<Self, Rejection> {
        let data = strings(fields.object("data")?.unwrap_or_default())?;
        Ok(Self { data, notification: fields.object("notification")? })
    }

    /// The bytes that count against the push service's limit.
    pub(super) fn weight(&self) -> usize {
        weight(&self.data) + self.notification.as_ref().map_or(0, weight)
    }
}

/// The UTF-8 bytes of all keys and values; a value that is not a string counts as its JSON text.
fn weight(map: &Map<String, Value>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.as_str().map_or_else(|| value.to_string().len(), str::len)).sum()
}

fn strings(mut data: Map<String, Value>) -> Result<Map<String, Value>, Rejection> {
    for (key, value) in &mut data {
        // Google refuses these; finding out here saves the round trip.
        if matches!(key.as_str(), "from" | "message_type") || key.starts_with("google") || key.starts_with("gcm") {
            return Err(reserved(key));
        }
        *value = match value {
            Value::String(_) => continue,
            Value::Number(number) => Value::String(number.to_string()),
            Value::Bool(flag) => Value::String(flag.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                let detail = format!("the data key {} is not a string, number or boolean", shown(key));
                return Err(Rejection::new(ErrorCode::BadField, detail));
            }
        };
    }
    Ok(data)
}

pub(super) fn reserved(key: &str) -> Rejection {
    Rejection::new(ErrorCode::ReservedKey, format!("the data key {} belongs to the push service", shown(key)))
}

/// A key, as far as a text for people repeats it.
pub(super) fn shown(key: &str) -> String {
    format!("{:?}", key.chars().take(KEY_SHOWN).collect::<String>())
}
