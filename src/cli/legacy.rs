//! Reads a message that somebody wrote for FCM itself: the downstream JSON of CCS (`{"to": .., "message_id": .., "data": ..}`),
//! or a request of v1 (`{"message": {"token": .., "data": ..}}`).

use crate::fcm::message::Message;
use crate::fcm::request::RequestError;
use crate::fcm::target::{Target, TargetError};
use serde_json::{Map, Value};

/// Why a document could not be read. Never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LegacyError {
    /// Not JSON, or no object.
    #[error("not a JSON object: {0}")]
    Json(String),
    /// A field is wrong.
    #[error(transparent)]
    Message(#[from] RequestError),
    /// A list of receivers; neither CCS nor v1 has that.
    #[error("`registration_ids` is a field of the legacy HTTP protocol; send one message to each token")]
    Multicast,
}

/// Reads a document. `ack` is where the app confirms, if the document asks for a receipt.
///
/// # Errors
/// When it is not an object, or one of the fields that say what it is has the wrong type, or it names no target or
/// several.
pub(crate) fn read(json: &[u8], ack: Option<&str>) -> Result<Message, LegacyError> {
    let mut fields: Map<String, Value> =
        serde_json::from_slice(json).map_err(|error| LegacyError::Json(error.to_string()))?;
    fields.retain(|_, value| !value.is_null());
    if fields.contains_key("registration_ids") {
        return Err(LegacyError::Multicast);
    }
    let names = match fields.shift_remove("message") {
        None => &["to", "condition"][..],
        Some(Value::Object(message)) => {
            fields.extend(message);
            &["token", "fid", "topic", "condition"]
        }
        Some(_) => return Err(RequestError::field("message", "an object").into()),
    };
    let mut named = Vec::new();
    for name in names {
        named.extend(text(&mut fields, name)?.map(|text| Target::named(name, &text)));
    }
    let target = match (named.pop(), named.len()) {
        (None, _) => Err(TargetError::Missing),
        (Some(target), 0) => target.and_then(|target| target.as_called_by(&mut fields)),
        (Some(_), _) => Err(TargetError::Several),
    };
    let receipt = fields.shift_remove("delivery_receipt_requested") == Some(Value::Bool(true));
    Ok(Message {
        target: target.map_err(RequestError::from)?,
        id: text(&mut fields, "message_id")?,
        receipt,
        ack: ack.map(str::to_owned),
        fields,
        words: &[],
    })
}

/// A text. Numbers give theirs: ids were numbers with some senders.
fn text(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, RequestError> {
    match fields.shift_remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(RequestError::field(name, "text")),
    }
}
