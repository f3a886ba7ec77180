//! Reads a message that somebody wrote for FCM itself: the downstream JSON of CCS (`{"to": .., "message_id": .., "data": ..}`),
//! or a request of v1 (`{"message": {"token": .., "data": ..}}`).

use super::message::{Message, Receipt};
use super::request::RequestError;
use super::target::{Kind, Target, TargetError};
use serde_json::{Map, Value};

/// Why a document could not be read. Never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LegacyError {
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
pub fn read(json: &[u8], ack: Option<&str>) -> Result<Message, LegacyError> {
    let mut fields: Map<String, Value> =
        serde_json::from_slice(json).map_err(|error| LegacyError::Json(error.to_string()))?;
    fields.retain(|_, value| !value.is_null());
    if fields.contains_key("registration_ids") {
        return Err(LegacyError::Multicast);
    }
    let target = match fields.shift_remove("message") {
        Some(Value::Object(message)) => {
            fields.extend(message);
            let named =
                Kind::ALL.into_iter().filter_map(|kind| Some((kind, text(&mut fields, kind.field()).transpose()?)));
            let named = named.map(|(kind, text)| Ok((kind, text?))).collect::<Result<Vec<_>, RequestError>>()?;
            match &named[..] {
                [(kind, text)] => Target::named(*kind, text),
                [] => Err(TargetError::Missing),
                _ => Err(TargetError::Several),
            }
        }
        Some(_) => return Err(RequestError::field("message", "an object").into()),
        None => Target::of_ccs(text(&mut fields, "to")?.as_deref(), text(&mut fields, "condition")?.as_deref())
            .and_then(|target| target.as_called_by(&mut fields)),
    };
    let wanted = fields.shift_remove("delivery_receipt_requested") == Some(Value::Bool(true));
    Ok(Message {
        target: target.map_err(RequestError::from)?,
        id: text(&mut fields, "message_id")?,
        receipt: Receipt::of(wanted, ack),
        fields,
        words: &[],
    })
}

/// A text. Numbers give theirs: ids were numbers with some senders.
fn text(fields: &mut Map<String, Value>, name: &'static str) -> Result<Option<String>, RequestError> {
    match fields.shift_remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(RequestError::field(name, "text")),
    }
}
