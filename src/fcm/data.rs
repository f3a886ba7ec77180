//! `data`: text to text, no reserved keys, and how much it weighs.

use super::limits::{PAYLOAD_MAX, TOPIC_PAYLOAD_MAX};
use super::loss::{Losses, Why};
use super::message::Receipt;
use super::request::RequestError;
use super::target::Kind;
use serde_json::{Map, Value};

/// The key of `data` that holds the message's id, the same in every copy: by it the app knows a duplicate.
pub const ID_KEY: &str = "mid";
/// The key of `data` that says where the app confirms that it has the message: it publishes (or posts)
/// `{"id": "<mid>", "status": "received"}` there, the document of `self/receipts` in topics.md.
pub const ACK_KEY: &str = "ack";

/// What travels in `data`, and how many bytes are left for more.
pub(super) struct Load {
    pub(super) data: Map<String, Value>,
    room: usize,
}

impl Load {
    /// Checks and weighs what an application sends.
    pub(super) fn of(
        kind: Kind,
        data: Map<String, Value>,
        notification: Option<&Map<String, Value>>,
        losses: &mut Losses,
    ) -> Result<Self, RequestError> {
        let max = if kind.is_device() { PAYLOAD_MAX } else { TOPIC_PAYLOAD_MAX };
        let data = texts(data, losses)?;
        let weight = weight(&data) + notification.map_or(0, weight);
        let room = max.checked_sub(weight).ok_or(RequestError::TooBig { max })?;
        Ok(Self { data, room })
    }

    /// Adds the message's id, and where to confirm it. The application's own keys stay, and its message is not given up
    /// for a few bytes of ours.
    pub(super) fn add_id(&mut self, id: Option<String>, receipt: Receipt, losses: &mut Losses) {
        let wanted = receipt != Receipt::Unwanted;
        let mut ours = Vec::new();
        if let Some(id) = id {
            losses.note("message_id", Why::IdInData);
            ours.push((ID_KEY, id));
            if let Receipt::At(address) = receipt {
                ours.push((ACK_KEY, address));
            }
        }
        let weight: usize = ours.iter().map(|(key, value)| key.len() + value.len()).sum();
        let obstacle = match () {
            () if ours.iter().any(|(key, _)| self.data.contains_key(*key)) => Some(Why::KeyTaken),
            () if weight > self.room => Some(Why::NoRoom),
            () => None,
        };
        if wanted {
            let confirmable = ours.iter().any(|(key, _)| *key == ACK_KEY);
            let why = if confirmable { Why::AppConfirms } else { Why::NoReceipts };
            losses.note("delivery_receipt_requested", obstacle.unwrap_or(why));
        }
        match obstacle {
            None => self.data.extend(ours.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value)))),
            Some(why) => losses.note_in("data", ID_KEY, why),
        }
    }
}

/// Whether FCM keeps a key of `data` for itself. Its documents of different years differ in what follows `google` and
/// `gcm`; this is the widest reading, and that of topics.md.
#[must_use]
pub fn is_reserved(key: &str) -> bool {
    matches!(key, "from" | "message_type" | "notification") || key.starts_with("google") || key.starts_with("gcm")
}

/// The UTF-8 bytes of all keys and values; a value that is not text counts as its JSON text.
#[must_use]
pub(super) fn weight(map: &Map<String, Value>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.as_str().map_or_else(|| value.to_string().len(), str::len)).sum()
}

fn texts(data: Map<String, Value>, losses: &mut Losses) -> Result<Map<String, Value>, RequestError> {
    let mut texts = Map::with_capacity(data.len());
    for (key, value) in data {
        if is_reserved(&key) {
            return Err(RequestError::ReservedKey);
        }
        let text = match value {
            Value::String(text) => text,
            Value::Null => {
                losses.note_in("data", &key, Why::Null);
                continue;
            }
            // A number's or a boolean's text is its JSON; that of lists and objects is compact.
            other => other.to_string(),
        };
        texts.insert(key, Value::String(text));
    }
    Ok(texts)
}
