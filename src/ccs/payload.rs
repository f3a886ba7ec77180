//! The JSON inside the stanzas, for both sides: what the server sends is [`Inbound`], what the client sends is
//! [`Outbound`]. Each type parses and builds.

use super::nack::NackCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// Why a payload was refused. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not JSON.
    #[error("not JSON (line {line}, column {column})")]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// JSON, but no object.
    #[error("not a JSON object")]
    NotObject,
    /// A field is absent, or is not of the type it has to be.
    #[error("field {0} is missing or of the wrong type")]
    Field(&'static str),
}

/// What CCS sends.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    /// A message from a device.
    Upstream(Upstream),
    /// CCS took a message.
    Ack(Accepted),
    /// CCS refused a message.
    Nack(Nack),
    /// What became of a message on the device.
    Receipt(Receipt),
    /// A word about the connection.
    Control {
        /// `CONNECTION_DRAINING` is the only one known.
        control_type: String,
    },
    /// A `message_type` that nobody knows: to be ignored, not acknowledged.
    Unknown {
        /// The type.
        message_type: String,
    },
}

/// A message from a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// The device's registration token.
    pub from: String,
    /// The app's package name.
    pub category: Option<String>,
    /// The device's id of the message.
    pub message_id: String,
    /// The application's data; empty if there was none.
    pub data: Map<String, Value>,
    /// All other fields, as they came.
    pub extra: Map<String, Value>,
}

/// CCS's word that it took a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The message.
    pub message_id: String,
    /// To whom it was sent.
    pub from: Option<String>,
    /// The token to use from now on (canonical id).
    pub registration_id: Option<String>,
    /// Of a message to a device group: how many of its devices it went to.
    pub success: Option<u64>,
    /// Of how many it did not.
    pub failure: Option<u64>,
    /// The tokens of these.
    pub failed_registration_ids: Vec<String>,
}

/// CCS's word that it refused a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    /// The message; with `BAD_ACK` it is one from a device.
    pub message_id: String,
    /// To whom it was sent.
    pub from: Option<String>,
    /// The code as it came; in the form of 2013 a whole sentence.
    pub error: String,
    /// The explanation.
    pub error_description: Option<String>,
    /// The token to use from now on (canonical id).
    pub registration_id: Option<String>,
}

impl Nack {
    /// What the code means.
    pub fn code(&self) -> NackCode {
        NackCode::of(&self.error)
    }

    /// CCS's explanation, wherever its age has put it.
    pub fn description(&self) -> &str {
        self.error_description.as_deref().unwrap_or(&self.error)
    }
}

/// What became of a message on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// To whom the acknowledgement goes: CCS itself.
    pub from: String,
    /// The receipt's own id, with its `dr2:`.
    pub message_id: String,
    /// The app's package name.
    pub category: Option<String>,
    /// The message that it is about.
    pub original_message_id: Option<String>,
    /// `MESSAGE_SENT_TO_DEVICE` is the only one ever documented.
    pub status: Option<String>,
    /// The device.
    pub device_registration_id: Option<String>,
    /// When it was handed to the device, in Unix milliseconds.
    pub sent_at_ms: Option<u64>,
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq)]
pub enum Outbound {
    /// A message to a device, a topic or a condition.
    Downstream(Downstream),
    /// An acknowledgement of something received.
    Ack(Ack),
}

/// A message to a device, a topic or a condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Downstream {
    /// A token, a group key or `/topics/...`.
    pub to: Option<String>,
    /// An expression over topics.
    pub condition: Option<String>,
    /// The sender's id of the message.
    pub message_id: String,
    /// All other fields, unchecked.
    pub fields: Map<String, Value>,
}

/// An acknowledgement of a message or a receipt. Byte for byte what was received, or CCS does not know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "message_type", rename = "ack")]
pub struct Ack {
    /// The sender of what is acknowledged.
    pub to: String,
    /// Its id.
    pub message_id: String,
}

impl Inbound {
    /// Reads what CCS sent.
    ///
    /// # Errors
    /// When it is not a JSON object, or lacks a field that its type needs.
    pub fn parse(json: &str) -> Result<Self, PayloadError> {
        let mut fields = Fields::parse_mended(json)?;
        // Before anything else: a control message has no message_id.
        let Some(message_type) = fields.text("message_type") else {
            return fields.upstream().map(Self::Upstream);
        };
        match message_type.as_str() {
            "ack" => Ok(Self::Ack(Accepted {
                message_id: fields.id()?,
                from: fields.text("from"),
                registration_id: fields.text("registration_id"),
                success: fields.count("success"),
                failure: fields.count("failure"),
                failed_registration_ids: fields.texts("failed_registration_ids"),
            })),
            "nack" => Ok(Self::Nack(Nack {
                message_id: fields.id()?,
                from: fields.text("from"),
                error: fields.text("error").unwrap_or_default(),
                error_description: fields.text("error_description"),
                registration_id: fields.text("registration_id"),
            })),
            "receipt" => fields.receipt().map(Self::Receipt),
            "control" => Ok(Self::Control { control_type: fields.text("control_type").unwrap_or_default() }),
            _ => Ok(Self::Unknown { message_type }),
        }
    }

    /// The JSON as CCS writes it.
    pub fn to_json(&self) -> String {
        let fields = match self {
            Self::Upstream(Upstream { from, category, message_id, data, extra }) => {
                let known = json!({"from": from, "message_id": message_id, "category": category, "data": data});
                return text_of(known, extra.clone());
            }
            Self::Ack(Accepted { message_id, from, registration_id, success, failure, failed_registration_ids }) => {
                let failed = Some(failed_registration_ids).filter(|failed| !failed.is_empty());
                json!({
                    "from": from, "message_id": message_id, "message_type": "ack", "registration_id": registration_id,
                    "success": success, "failure": failure, "failed_registration_ids": failed,
                })
            }
            Self::Nack(Nack { message_id, from, error, error_description, registration_id }) => json!({
                "message_type": "nack", "message_id": message_id, "from": from, "error": error,
                "error_description": error_description, "registration_id": registration_id,
            }),
            Self::Receipt(receipt @ Receipt { from, message_id, category, .. }) => json!({
                "message_type": "receipt", "message_id": message_id, "from": from, "category": category,
                "data": receipt.data(), "time_to_live": 0,
            }),
            Self::Control { control_type } => json!({"message_type": "control", "control_type": control_type}),
            Self::Unknown { message_type } => json!({ "message_type": message_type }),
        };
        text_of(fields, Map::new())
    }
}

/// Whom to acknowledge a device's message to, and by which id, where [`Inbound::parse`] can make nothing else of it. What
/// has the type of an answer is none.
pub(super) fn sender_of(json: &str) -> Option<(String, String)> {
    let json = mend_strings(json);
    // Everything else is passed over unread: however deep, and however large the numbers.
    let Address { from, message_id, message_type } = serde_json::from_str(&json).ok()?;
    let named = [("from", from), ("message_id", message_id), ("message_type", message_type)];
    let mut fields = Fields(named.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    let is_answer = matches!(fields.text("message_type").as_deref(), Some("ack" | "nack" | "control"));
    if is_answer { None } else { Some((fields.text("from")?, fields.id().ok()?)) }
}

/// What an acknowledgement needs.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Address {
    from: Value,
    message_id: Value,
    message_type: Value,
}

impl Receipt {
    fn data(&self) -> Map<String, Value> {
        object(json!({
            "message_status": self.status, "original_message_id": self.original_message_id,
            "device_registration_id": self.device_registration_id,
            "message_sent_timestamp": self.sent_at_ms.map(|ms| ms.to_string()),
        }))
    }
}

impl Outbound {
    /// Reads what a client sent. As CCS does, takes everything that is no acknowledgement for a message to a device:
    /// a misspelt `message_type` makes an empty push.
    ///
    /// # Errors
    /// When it is not a JSON object, or has no `message_id`, or an acknowledgement without `to`.
    pub fn parse(json: &str) -> Result<Self, PayloadError> {
        let mut fields = Fields::parse(json)?;
        let message_id = fields.id()?;
        if fields.0.get("message_type").and_then(Value::as_str) == Some("ack") {
            let to = fields.text("to").ok_or(PayloadError::Field("to"))?;
            return Ok(Self::Ack(Ack { to, message_id }));
        }
        Ok(Self::Downstream(Downstream {
            to: fields.text("to"),
            condition: fields.text("condition"),
            message_id,
            fields: fields.0,
        }))
    }
}

impl Downstream {
    /// The JSON as a client writes it.
    pub fn into_json(self) -> String {
        let Self { to, condition, message_id, fields } = self;
        text_of(json!({"to": to, "condition": condition, "message_id": message_id}), fields)
    }
}

impl Ack {
    /// The JSON as a client writes it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a struct of strings is always JSON")
    }
}

/// The fields of an object that is being read; what is taken is gone.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(json: &str) -> Result<Self, PayloadError> {
        match serde_json::from_str(json) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(PayloadError::NotObject),
            Err(error) => Err(PayloadError::Json { line: error.line(), column: error.column() }),
        }
    }

    /// The same of what a device may have written: a text that was cut within a character, or has a control character, is no
    /// JSON, and yet the rest of it can be read.
    fn parse_mended(json: &str) -> Result<Self, PayloadError> {
        match Self::parse(json) {
            Err(error @ PayloadError::Json { .. }) => match mend_strings(json) {
                Cow::Owned(mended) => Self::parse(&mended),
                Cow::Borrowed(_) => Err(error),
            },
            read => read,
        }
    }

    /// A text. Numbers give their text: some servers send ids as numbers. Other types count as absent.
    fn text(&mut self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::Number(number) => {
                let text = number.to_string();
                self.0.shift_remove(name);
                Some(text)
            }
            Value::String(_) => match self.0.shift_remove(name) {
                Some(Value::String(text)) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// A number, or the text of one.
    fn count(&mut self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The texts of a list.
    fn texts(&mut self, name: &str) -> Vec<String> {
        let list = self.0.get(name).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    }

    fn id(&mut self) -> Result<String, PayloadError> {
        self.text("message_id").ok_or(PayloadError::Field("message_id"))
    }

    /// The `data` object; absent and null are an empty one.
    fn data(&mut self) -> Result<Map<String, Value>, PayloadError> {
        match self.0.shift_remove("data") {
            Some(Value::Object(data)) => Ok(data),
            None | Some(Value::Null) => Ok(Map::new()),
            Some(_) => Err(PayloadError::Field("data")),
        }
    }

    fn upstream(mut self) -> Result<Upstream, PayloadError> {
        // Null is as good as absent.
        if self.0.shift_remove("message_type").is_some_and(|other| !other.is_null()) {
            return Err(PayloadError::Field("message_type"));
        }
        Ok(Upstream {
            from: self.text("from").ok_or(PayloadError::Field("from"))?,
            category: self.text("category"),
            message_id: self.id()?,
            data: self.data()?,
            extra: self.0,
        })
    }

    fn receipt(mut self) -> Result<Receipt, PayloadError> {
        let mut data = Self(self.data().unwrap_or_default());
        Ok(Receipt {
            from: self.text("from").ok_or(PayloadError::Field("from"))?,
            message_id: self.id()?,
            category: self.text("category"),
            original_message_id: data.text("original_message_id"),
            status: data.text("message_status"),
            device_registration_id: data.text("device_registration_id"),
            sent_at_ms: data.text("message_sent_timestamp").and_then(|ms| ms.parse().ok()),
        })
    }
}

/// The same with U+FFFD for each half of a surrogate pair that stands alone, and with its escape for each control character
/// within a string.
fn mend_strings(json: &str) -> Cow<'_, str> {
    let (mut mended, mut copied, mut at, mut in_string) = (String::new(), 0, 0, false);
    let bytes = json.as_bytes();
    while let Some(&byte) = bytes.get(at) {
        let (length, instead) = match byte {
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            b'\\' if in_string => match surrogate(&bytes[at..]) {
                Some(Surrogate::High) if surrogate(&bytes[at + ESCAPE..]) == Some(Surrogate::Low) => (2 * ESCAPE, None),
                Some(_) => (ESCAPE, Some("\\ufffd".to_owned())),
                None => (2, None),
            },
            ..0x20 if in_string => (1, Some(format!("\\u{byte:04x}"))),
            _ => (1, None),
        };
        if let Some(instead) = instead {
            mended.push_str(&json[copied..at]);
            mended.push_str(&instead);
            copied = at + length;
        }
        at += length;
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    mended.push_str(&json[copied..]);
    Cow::Owned(mended)
}

/// Half of a character beyond the first plane, as JSON escapes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Surrogate {
    High,
    Low,
}

/// How long `\u` and four digits are.
const ESCAPE: usize = 6;

/// The half that is escaped at the beginning.
fn surrogate(bytes: &[u8]) -> Option<Surrogate> {
    let [b'\\', b'u', digits @ ..] = bytes.get(..ESCAPE)? else { return None };
    let code = u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    match code {
        0xd800..0xdc00 => Some(Surrogate::High),
        0xdc00..0xe000 => Some(Surrogate::Low),
        _ => None,
    }
}

/// The JSON of an object, and of `more` behind it; what is there already stays.
fn text_of(json: Value, more: Map<String, Value>) -> String {
    let mut fields = object(json);
    for (name, value) in more {
        fields.entry(name).or_insert(value);
    }
    Value::Object(fields).to_string()
}

/// An object without what is null: that is absent.
fn object(json: Value) -> Map<String, Value> {
    let Value::Object(mut fields) = json else { return Map::new() };
    fields.retain(|_, value| !value.is_null());
    fields
}

#[cfg(test)]
mod tests;
