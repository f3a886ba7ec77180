//! Reads the downstream JSON of CCS: `{"to": .., "message_id": .., "data": ..}`.

use super::message::{Message, Options, Priority, Receipt};
use super::request::RequestError;
use super::target::Target;
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

/// Reads a document. Fields that CCS does not know are handed through as fields of v1. `ack` is where the app
/// confirms, if the document asks for a receipt.
///
/// # Errors
/// When it is not an object, or a field has the wrong type, or it names no target or several.
pub fn read(json: &[u8], ack: Option<&str>) -> Result<Message, LegacyError> {
    let mut fields: Map<String, Value> =
        serde_json::from_slice(json).map_err(|error| LegacyError::Json(error.to_string()))?;
    fields.retain(|_, value| !value.is_null());
    if fields.contains_key("registration_ids") {
        return Err(LegacyError::Multicast);
    }
    let (to, condition) = (text(&mut fields, "to")?, text(&mut fields, "condition")?);
    let wanted = matches!(fields.shift_remove("delivery_receipt_requested"), Some(Value::Bool(true)));
    let target = Target::of_ccs(to.as_deref(), condition.as_deref())
        .and_then(|target| target.as_called_by(&mut fields))
        .map_err(RequestError::from)?;
    Ok(Message {
        target,
        id: text(&mut fields, "message_id")?,
        receipt: match (wanted, ack) {
            (false, _) => Receipt::Unwanted,
            (true, None) => Receipt::Wanted,
            (true, Some(address)) => Receipt::At(address.to_owned()),
        },
        data: object(&mut fields, "data")?.unwrap_or_default(),
        notification: object(&mut fields, "notification")?,
        collapse: text(&mut fields, "collapse_key")?,
        priority: priority(&mut fields)?,
        ttl_s: time_to_live(&mut fields)?,
        options: Options::take(&mut fields)?,
        extra: fields,
    })
}

/// A text. Numbers give theirs: ids were numbers with some senders.
fn text(fields: &mut Map<String, Value>, name: &'static str) -> Result<Option<String>, RequestError> {
    match fields.shift_remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(_) => Err(RequestError::Type(name)),
    }
}

fn object(fields: &mut Map<String, Value>, name: &'static str) -> Result<Option<Map<String, Value>>, RequestError> {
    match fields.shift_remove(name) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(RequestError::Type(name)),
    }
}

/// `high` and `normal`, or Apple's numbers for them.
fn priority(fields: &mut Map<String, Value>) -> Result<Option<Priority>, RequestError> {
    match text(fields, "priority")?.as_deref() {
        None => Ok(None),
        Some("high" | "10") => Ok(Some(Priority::High)),
        Some("normal" | "5") => Ok(Some(Priority::Normal)),
        Some(_) => Err(RequestError::Type("priority")),
    }
}

/// Seconds, as a number or as text: the documents of CCS show both.
fn time_to_live(fields: &mut Map<String, Value>) -> Result<Option<u32>, RequestError> {
    let Some(seconds) = text(fields, "time_to_live")? else { return Ok(None) };
    let whole = seconds.bytes().all(|c| c.is_ascii_digit());
    seconds.parse().ok().filter(|_| whole).map(Some).ok_or(RequestError::Ttl)
}
