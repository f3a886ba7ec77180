//! A message of a device to a BAL: `{bal}/others/messages`.

use crate::chat::id::{Sid, Token};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Fields of a message to a user that are no texts, or need not be.
const NOT_TEXTS: [&str; 6] = ["data", "files", "mentions", "ttl", "receipt", "v"];
/// Bytes of SHA-256 in an id that is made here.
const ID_BYTES: usize = 16;

/// A message of a device, as it is told to its BAL.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamMessage {
    /// The bridge's id of it.
    pub id: Sid,
    /// The device.
    pub token: Token,
    /// The app's package name, if the push service named it.
    pub category: Option<String>,
    /// The device's own id of it, unique only for that device.
    pub ccs_id: String,
    /// The application's data, as it came.
    pub data: Map<String, Value>,
    /// When the bridge got it, in Unix milliseconds.
    pub ts: u64,
}

impl UpstreamMessage {
    /// The document to publish.
    pub fn to_payload(&self) -> Vec<u8> {
        let data: Map<String, Value> = self.data.iter().map(|(key, value)| (key.clone(), text_of(value))).collect();
        super::json(&Document {
            id: self.id.to_string(),
            token: self.token.reveal(),
            category: self.category.as_deref(),
            ccs_id: &self.ccs_id,
            kind: data.get("type").and_then(Value::as_str).unwrap_or("message"),
            body: data.get("body").and_then(Value::as_str),
            data: &data,
            ts: self.ts,
        })
    }
}

/// The same document, marked as published before: it may arrive twice. `None` if `payload` is no JSON object, hence no
/// document of ours.
pub fn mark_redelivered(payload: &[u8]) -> Option<Vec<u8>> {
    let mut document: Map<String, Value> = serde_json::from_slice(payload).ok()?;
    document.insert("redelivered".to_owned(), Value::Bool(true));
    Some(super::json(&document))
}

/// Whether `data` of a device stands for a message to a user or BAL, if the device is a user's.
pub fn may_be_of_user(data: &Map<String, Value>) -> bool {
    data.contains_key("to")
}

/// The message to a user or BAL that `data` of a device stands for, if it has a `to`. Its values are texts: where a field of
/// such a message is none, it is what the text says in JSON. Without an `id` it has one by which a repeat of the push service is
/// recognised.
pub fn to_user_message(data: &Map<String, Value>, token: &Token, ccs_id: &str) -> Option<Vec<u8>> {
    if !may_be_of_user(data) {
        return None;
    }
    let mut document: Map<String, Value> = data.iter().map(|(key, value)| (key.clone(), field(key, value))).collect();
    if !document.contains_key("id") {
        let length = (token.reveal().len() as u64).to_be_bytes();
        let digest = Sha256::new().chain_update(length).chain_update(token.reveal()).chain_update(ccs_id).finalize();
        let id: String = digest.iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect();
        document.insert("id".to_owned(), id.into());
    }
    Some(super::json(&document))
}

fn field(key: &str, value: &Value) -> Value {
    let json = |text: &str| serde_json::from_str(text).ok();
    match value {
        Value::String(text) if NOT_TEXTS.contains(&key) => json(text).unwrap_or_else(|| value.clone()),
        _ => value.clone(),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    id: String,
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    category: Option<&'a str>,
    ccs_id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    data: &'a Map<String, Value>,
    ts: u64,
}

/// The push service promises strings; anything else is handed on as its JSON text rather than lost.
fn text_of(value: &Value) -> Value {
    match value {
        Value::String(_) => value.clone(),
        _ => Value::String(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use proptest::prelude::*;
    use serde_json::json;

    fn message(data: Value) -> UpstreamMessage {
        let Value::Object(data) = data else { panic!("data is an object") };
        UpstreamMessage {
            id: SidSource::default().next(1_700_000_000_000, 7),
            token: Token::new("T").unwrap(),
            category: Some("com.example.app".to_owned()),
            ccs_id: "42".to_owned(),
            data,
            ts: 1_700_000_000_001,
        }
    }

    fn document(message: &UpstreamMessage) -> Value {
        serde_json::from_slice(&message.to_payload()).unwrap()
    }

    #[test]
    fn the_document_says_who_what_and_when() {
        let message = message(json!({"body": "hello", "k": "v"}));
        let expected = json!({
            "id": message.id.to_string(), "token": "T", "category": "com.example.app", "ccs_id": "42",
            "type": "message", "body": "hello", "data": {"body": "hello", "k": "v"}, "ts": 1_700_000_000_001_u64,
        });
        assert_eq!(document(&message), expected);
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let document = document(&UpstreamMessage { category: None, ..message(json!({})) });
        let names: Vec<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["id", "token", "ccs_id", "type", "data", "ts"]);
        assert_eq!(document["type"], "message");
    }

    #[test]
    fn the_devices_own_type_wins_and_odd_values_become_text() {
        let document = document(&message(json!({"type": "image", "n": 1, "o": {"a": [null]}, "b": true})));
        assert_eq!(document["type"], "image");
        assert_eq!(document["data"], json!({"type": "image", "n": "1", "o": "{\"a\":[null]}", "b": "true"}));
    }

    #[test]
    fn quotes_emoji_tags_and_newlines_arrive_unchanged() {
        let odd = "\"\\ </gcm> & \n\u{0} 😀";
        assert_eq!(document(&message(json!({"body": odd})))["body"], odd);
    }

    #[test]
    fn only_a_repeated_document_says_that_it_is_one() {
        let payload = message(json!({"k": "v"})).to_payload();
        let again = mark_redelivered(&payload).unwrap();
        let mut expected: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(expected.get("redelivered"), None);
        expected["redelivered"] = json!(true);
        assert_eq!(serde_json::from_slice::<Value>(&again).unwrap(), expected);
        assert_eq!(mark_redelivered(&again).unwrap(), again);
        assert_eq!(mark_redelivered(b"[]"), None);
    }

    #[test]
    fn data_with_to_is_a_message_to_a_user_and_its_texts_are_read() {
        let (token, other) = (Token::new("T").unwrap(), Token::new("U").unwrap());
        let read = |data: Value, token: &Token, ccs_id: &str| {
            let Value::Object(data) = data else { panic!("data is an object") };
            to_user_message(&data, token, ccs_id).map(|text| serde_json::from_slice::<Value>(&text).unwrap())
        };
        assert_eq!(read(json!({"body": "hello"}), &token, "1"), None);
        let data = json!({
            "to": "alice", "id": "u1", "body": "7", "ttl": "60", "receipt": "false", "data": "{\"n\":1}",
            "mentions": "[\"alice\"]", "x": "5",
        });
        let document = json!({
            "to": "alice", "id": "u1", "body": "7", "ttl": 60, "receipt": false, "data": {"n": 1},
            "mentions": ["alice"], "x": "5",
        });
        assert_eq!(read(data, &token, "1"), Some(document));
        let plain = |token, ccs_id| read(json!({"to": "alice", "data": "no JSON"}), token, ccs_id).unwrap();
        assert_eq!(plain(&token, "1")["data"], "no JSON");
        assert_eq!(plain(&token, "1"), plain(&token, "1"), "a repeat is the same message");
        let ids = [plain(&token, "1"), plain(&token, "2"), plain(&other, "1")].map(|message| message["id"].clone());
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && !ids[0].as_str().unwrap().contains('T'));
    }

    proptest! {
        #[test]
        fn every_value_is_told_as_a_string(pairs in prop::collection::hash_map(any::<String>(), any::<String>(), 0..6)) {
            let data: Map<String, Value> = pairs.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
            let document = document(&message(Value::Object(data.clone())));
            prop_assert_eq!(&document["data"], &Value::Object(data));
        }
    }
}
