//! The JSON inside the stanzas, for both sides: what the server sends is [`Inbound`], what the client sends is
//! [`Outbound`]. Each type parses and builds.

mod fields;

use super::nack::NackCode;
use super::xml::FramingError;
use fields::Fields;
pub(super) use fields::sender_of;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The status of a receipt; the only one ever documented.
pub const SENT_TO_DEVICE: &str = "MESSAGE_SENT_TO_DEVICE";

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
    /// The stanza around it is not well-formed, so something in it may be lost.
    #[error("its stanza is {0}")]
    Stanza(FramingError),
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
    /// The message; with `BAD_ACK` it is one from a device. A nack that is about the connection may name none.
    pub message_id: Option<String>,
    /// To whom it was sent.
    pub from: Option<String>,
    /// The code as it came, empty if none did; in the form of 2013 a whole sentence.
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
    /// To whom the acknowledgement goes: CCS itself. Empty if it names nobody.
    pub from: String,
    /// The receipt's own id, with its `dr2:`.
    pub message_id: String,
    /// The app's package name.
    pub category: Option<String>,
    /// The message that it is about.
    pub original_message_id: Option<String>,
    /// [`SENT_TO_DEVICE`] is the only one ever documented.
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
                message_id: fields.text("message_id"),
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
