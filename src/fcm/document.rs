//! What the body of an answer is, as far as it can be read. FCM writes whole JSON objects; what stands between it and us
//! cuts them short, changes a byte, or writes pages of its own, and each of that says something else about the message.

use super::limits::ANSWER_MAX;
use serde_json::{Map, Value};

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The body of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Document {
    /// Nothing.
    Empty,
    /// A JSON object, alone or as the only one in a list, as Google's streaming interfaces put it.
    Object(Map<String, Value>),
    /// JSON of another kind: a text, a number, a list.
    Other,
    /// The beginning of JSON: it ends too early, is wrong further on, or is longer than [`ANSWER_MAX`].
    Broken,
    /// No JSON: a page, or plain words.
    Words,
}

impl Document {
    /// Reads `body`. A byte that is not UTF-8 costs no more than the letter that it was.
    pub(super) fn read(body: &[u8], content_type: Option<&str>) -> Self {
        let text = String::from_utf8_lossy(&body[..body.len().min(ANSWER_MAX)]);
        let text = text.trim_start_matches(BYTE_ORDER_MARK).trim();
        let begun = text.starts_with(['{', '[']);
        if body.len() > ANSWER_MAX {
            return if begun { Self::Broken } else { Self::Words };
        }
        match serde_json::from_str(text) {
            _ if text.is_empty() => Self::Empty,
            Ok(Value::Object(fields)) => Self::Object(fields),
            Ok(Value::Array(mut list)) => match (list.pop(), list.len()) {
                (Some(Value::Object(fields)), 0) => Self::Object(fields),
                _ => Self::Other,
            },
            Ok(_) => Self::Other,
            Err(error) if begun && (error.is_eof() || is_json(content_type)) => Self::Broken,
            Err(_) => Self::Words,
        }
    }
}

/// Whether the header `content-type` promises JSON.
pub(super) fn is_json(content_type: Option<&str>) -> bool {
    let kind = content_type.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const JSON: Option<&str> = Some("Application/JSON ; charset=UTF-8");

    fn object(value: Value) -> Document {
        let Value::Object(fields) = value else { panic!("{value}") };
        Document::Object(fields)
    }

    #[test]
    fn a_body_is_what_can_be_read_of_it() {
        let long = |start: &str| format!("{start}{}", " ".repeat(ANSWER_MAX)).into_bytes();
        let rows: Vec<(Option<&str>, Vec<u8>, Document)> = vec![
            (None, b"".to_vec(), Document::Empty),
            (JSON, b" \r\n".to_vec(), Document::Empty),
            (None, b"{}".to_vec(), object(json!({}))),
            (Some("text/html"), b"{\"a\":1}\n".to_vec(), object(json!({"a": 1}))),
            (None, b"\xef\xbb\xbf{\"a\":1}".to_vec(), object(json!({"a": 1}))),
            (None, b"{\"a\":\"caf\xe9\"}".to_vec(), object(json!({"a": "caf\u{fffd}"}))),
            (None, b"[{\"a\":1}\n]".to_vec(), object(json!({"a": 1}))),
            (None, b"[{},{}]".to_vec(), Document::Other),
            (JSON, b"[]".to_vec(), Document::Other),
            (JSON, b"[[{}]]".to_vec(), Document::Other),
            (JSON, b"null".to_vec(), Document::Other),
            (JSON, b"\"OK\"".to_vec(), Document::Other),
            (None, b"{\"a\":".to_vec(), Document::Broken),
            (None, b"[{\"a\":1}".to_vec(), Document::Broken),
            (JSON, b"{\"a\" 1}".to_vec(), Document::Broken),
            (None, b"{\"a\" 1}".to_vec(), Document::Words),
            (None, long("{}"), Document::Broken),
            (JSON, b"OK".to_vec(), Document::Words),
            (JSON, b"<html>".to_vec(), Document::Words),
            (Some("text/html"), long("<html>"), Document::Words),
        ];
        for (content_type, body, document) in rows {
            let shown = String::from_utf8_lossy(&body[..body.len().min(20)]).into_owned();
            assert_eq!(Document::read(&body, content_type), document, "{content_type:?} {shown}");
        }
    }

    #[test]
    fn an_object_cut_short_at_any_byte_is_broken() {
        let whole = json!({"name": "caf\u{e9}", "n": [1.5, true, null], "\\u": {"x": "\n"}}).to_string();
        for end in 1..whole.len() {
            assert_eq!(Document::read(&whole.as_bytes()[..end], None), Document::Broken, "{end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(body: Vec<u8>, content_type: Option<String>) {
            let _ = Document::read(&body, content_type.as_deref());
        }
    }
}
