//! The JSON inside the stanzas, for both sides: what the server sends is [`Inbound`], what the client sends is
//! [`Outbound`]. Each type parses and builds.

use super::nack::NackCode;
use serde_json::{Map, Value};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The message.
    pub message_id: String,
    /// To whom it was sent.
    pub from: Option<String>,
    /// The token to use from now on (canonical id).
    pub registration_id: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
        let mut fields = Fields::parse(json)?;
        // Before anything else: a control message has no message_id.
        let Some(message_type) = fields.text("message_type") else {
            return fields.upstream().map(Self::Upstream);
        };
        match message_type.as_str() {
            "ack" => Ok(Self::Ack(Accepted {
                message_id: fields.id()?,
                from: fields.text("from"),
                registration_id: fields.text("registration_id"),
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
        let mut json = Builder::default();
        match self {
            Self::Upstream(upstream) => {
                json.text("from", &upstream.from).text("message_id", &upstream.message_id);
                json.optional("category", upstream.category.as_deref());
                json.value("data", Value::Object(upstream.data.clone())).merge(&upstream.extra);
            }
            Self::Ack(ack) => {
                json.optional("from", ack.from.as_deref()).text("message_id", &ack.message_id);
                json.text("message_type", "ack").optional("registration_id", ack.registration_id.as_deref());
            }
            Self::Nack(nack) => {
                json.text("message_type", "nack").text("message_id", &nack.message_id);
                json.optional("from", nack.from.as_deref()).text("error", &nack.error);
                json.optional("error_description", nack.error_description.as_deref());
                json.optional("registration_id", nack.registration_id.as_deref());
            }
            Self::Receipt(receipt) => {
                json.text("message_type", "receipt").text("message_id", &receipt.message_id);
                json.text("from", &receipt.from).optional("category", receipt.category.as_deref());
                json.value("data", Value::Object(receipt.data())).value("time_to_live", Value::from(0));
            }
            Self::Control { control_type } => {
                json.text("message_type", "control").text("control_type", control_type);
            }
            Self::Unknown { message_type } => {
                json.text("message_type", message_type);
            }
        }
        json.finish()
    }
}

/// Whom to acknowledge a device's message to, and by which id, where [`Inbound::parse`] can make nothing else of it. What
/// has the type of an answer is none.
pub(super) fn sender_of(json: &str) -> Option<(String, String)> {
    let mut fields = Fields::parse(json).ok()?;
    let is_answer = matches!(fields.text("message_type").as_deref(), Some("ack" | "nack" | "control"));
    if is_answer { None } else { Some((fields.text("from")?, fields.id().ok()?)) }
}

impl Receipt {
    fn data(&self) -> Map<String, Value> {
        let mut data = Builder::default();
        data.optional("message_status", self.status.as_deref());
        data.optional("original_message_id", self.original_message_id.as_deref());
        data.optional("device_registration_id", self.device_registration_id.as_deref());
        data.optional("message_sent_timestamp", self.sent_at_ms.map(|ms| ms.to_string()).as_deref());
        data.0
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
    pub fn to_json(&self) -> String {
        let mut json = Builder::default();
        json.optional("to", self.to.as_deref()).optional("condition", self.condition.as_deref());
        json.text("message_id", &self.message_id).merge(&self.fields);
        json.finish()
    }
}

impl Ack {
    /// The JSON as a client writes it.
    pub fn to_json(&self) -> String {
        let mut json = Builder::default();
        json.text("to", &self.to).text("message_id", &self.message_id).text("message_type", "ack");
        json.finish()
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
        if self.0.contains_key("message_type") {
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

/// An object that is being written, in the order of the calls.
#[derive(Default)]
struct Builder(Map<String, Value>);

impl Builder {
    fn value(&mut self, name: &str, value: Value) -> &mut Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.value(name, Value::from(value))
    }

    fn optional(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// Adds fields; what is there already stays.
    fn merge(&mut self, fields: &Map<String, Value>) -> &mut Self {
        for (name, value) in fields {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), value.clone());
            }
        }
        self
    }

    fn finish(self) -> String {
        Value::Object(self.0).to_string()
    }
}

#[cfg(test)]
mod tests;
