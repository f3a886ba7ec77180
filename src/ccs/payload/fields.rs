//! The fields of a payload while it is being read, and what is mended of its text before.

use super::{PayloadError, Receipt, Upstream};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The fields that an acknowledgement repeats byte for byte.
const ECHOED: [&str; 2] = ["from", "message_id"];

/// Whom to acknowledge a device's message to, and by which id, where [`super::Inbound::parse`] can make nothing else of it.
/// What has the type of an answer is none. Of a receipt the first is empty if it names nobody.
pub(in crate::ccs) fn sender_of(json: &str) -> Option<(String, String)> {
    let json = mend_strings(json);
    // Everything else is passed over unread: however deep, and however large the numbers.
    let raw: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(&json).ok()?;
    let text = |name| raw.get(name).and_then(|value| raw_text(value));
    let from = match text("message_type").as_deref() {
        Some("ack" | "nack" | "control") => None,
        Some("receipt") => Some(text("from").unwrap_or_default()),
        _ => text("from"),
    };
    Some((from?, text("message_id")?))
}

/// A text, or a number as it is written.
fn raw_text(value: &RawValue) -> Option<String> {
    match value.get().as_bytes().first()? {
        b'"' => serde_json::from_str(value.get()).ok(),
        b'-' | b'0'..=b'9' => Some(value.get().to_owned()),
        _ => None,
    }
}

/// The fields of an object that is being read; what is taken is gone.
pub(super) struct Fields(pub(super) Map<String, Value>);

impl Fields {
    pub(super) fn parse(json: &str) -> Result<Self, PayloadError> {
        match serde_json::from_str(json) {
            Ok(Value::Object(mut fields)) => {
                keep_numbers(&mut fields, json);
                Ok(Self(fields))
            }
            Ok(_) => Err(PayloadError::NotObject),
            Err(error) => Err(PayloadError::Json { line: error.line(), column: error.column() }),
        }
    }

    /// The same of what a device may have written: a text that was cut within a character, or has a control character, is no
    /// JSON, and yet the rest of it can be read.
    pub(super) fn parse_mended(json: &str) -> Result<Self, PayloadError> {
        match Self::parse(json) {
            Err(error @ PayloadError::Json { .. }) => match mend_strings(json) {
                Cow::Owned(mended) => Self::parse(&mended),
                Cow::Borrowed(_) => Err(error),
            },
            read => read,
        }
    }

    /// A text. Numbers give their text: some servers send ids as numbers. Other types count as absent.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
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
    pub(super) fn count(&mut self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// The texts of a list.
    pub(super) fn texts(&mut self, name: &str) -> Vec<String> {
        let list = self.0.get(name).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    }

    pub(super) fn id(&mut self) -> Result<String, PayloadError> {
        self.text("message_id").ok_or(PayloadError::Field("message_id"))
    }

    /// The `data` object; absent and null are an empty one.
    pub(super) fn data(&mut self) -> Result<Map<String, Value>, PayloadError> {
        match self.0.shift_remove("data") {
            Some(Value::Object(data)) => Ok(data),
            None | Some(Value::Null) => Ok(Map::new()),
            Some(_) => Err(PayloadError::Field("data")),
        }
    }

    pub(super) fn upstream(mut self) -> Result<Upstream, PayloadError> {
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

    pub(super) fn receipt(mut self) -> Result<Receipt, PayloadError> {
        let mut data = Self(self.data().unwrap_or_default());
        Ok(Receipt {
            from: self.text("from").unwrap_or_default(),
            message_id: self.id()?,
            category: self.text("category"),
            original_message_id: data.text("original_message_id"),
            status: data.text("message_status"),
            device_registration_id: data.text("device_registration_id"),
            sent_at_ms: data.text("message_sent_timestamp").and_then(|ms| ms.parse().ok()),
        })
    }
}

/// Puts numbers that an acknowledgement repeats as they are written: beyond 64 bits nothing else is exact.
fn keep_numbers(fields: &mut Map<String, Value>, json: &str) {
    if !ECHOED.iter().any(|name| fields.get(*name).is_some_and(Value::is_number)) {
        return;
    }
    let Ok(raw) = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(json) else { return };
    for name in ECHOED {
        if let (Some(value @ Value::Number(_)), Some(raw)) = (fields.get_mut(name), raw.get(name)) {
            *value = Value::String(raw.get().to_owned());
        }
    }
}

/// The same with U+FFFD for each half of a surrogate pair that stands alone, and with its escape for each control character
/// within a string.
pub(super) fn mend_strings(json: &str) -> Cow<'_, str> {
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
