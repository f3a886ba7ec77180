//! What stays of a person who was erased: a name that is taken, and what others have written to it.

use super::message::json;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// What stands for the name of a person begins like this.
pub const ALIAS: &str = "deleted-";

/// By what a name is known to be taken without being kept: its SHA-256.
pub fn name_key(name: &str) -> [u8; 32] {
    Sha256::digest(name.as_bytes()).into()
}

/// What stands for a name: `seed` is random.
pub fn alias(seed: u64) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let digit = |n: u32| char::from(DIGITS[usize::try_from(seed >> (5 * n) & 31).unwrap_or(0)]);
    let digits: String = (0..8).map(digit).collect();
    format!("{ALIAS}{digits}")
}

/// A document of somebody else, or a notice, with `alias` where it names `name`: it is for that one, mentions it, or tells of it.
/// `None` if it does not.
pub fn renamed(document: &[u8], name: &str, alias: &str) -> Option<Vec<u8>> {
    let mut fields: Map<String, Value> = serde_json::from_slice(document).ok()?;
    let is_notice = fields.get("type").is_some_and(|kind| kind == "notice");
    let (one, several): (&[&str], &[&str]) =
        if is_notice { (&["to", "by"], &["who"]) } else { (&["to"], &["mentions"]) };
    let mut is_changed = false;
    let mut rename = |value: &mut Value| {
        if value.as_str() == Some(name) {
            *value = alias.into();
            is_changed = true;
        }
    };
    for field in one {
        fields.get_mut(*field).into_iter().for_each(&mut rename);
    }
    for field in several {
        fields.get_mut(*field).and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut rename);
    }
    is_changed.then(|| json(&fields))
}

/// The name as it stands in any document: JSON text with its quotes.
pub fn quoted(name: &str) -> String {
    Value::from(name).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::Owner;
    use serde_json::json;

    #[test]
    fn an_alias_can_be_a_name_and_says_nothing_of_another_one() {
        let (one, other) = (alias(1), alias(u64::MAX));
        assert_eq!((one.as_str(), other.as_str()), ("deleted-10000000", "deleted-zzzzzzzz"));
        Owner::new(&one).unwrap();
        assert_ne!(name_key("alice"), name_key("alicf"));
    }

    #[test]
    fn what_others_wrote_keeps_its_text_and_loses_the_name() {
        let document = br#"{"id":"m1","to":"eve","type":"text","body":"hi eve","mentions":["bob","eve"]}"#;
        let left = renamed(document, "eve", "deleted-1").unwrap();
        let left: Value = serde_json::from_slice(&left).unwrap();
        let expected =
            json!({"id": "m1", "to": "deleted-1", "type": "text", "body": "hi eve", "mentions": ["bob", "deleted-1"]});
        assert_eq!(left, expected);
        assert_eq!(renamed(br#"{"to":"bob","body":"eve"}"#, "eve", "x"), None);
        let notice = json!({"to": "g-1", "type": "notice", "event": "added", "who": ["bob", "eve"], "by": "eve"});
        let left: Value = serde_json::from_slice(&renamed(notice.to_string().as_bytes(), "eve", "x").unwrap()).unwrap();
        assert_eq!((&left["who"], &left["by"]), (&json!(["bob", "x"]), &json!("x")));
        let own_field = br#"{"to":"bob","type":"text","who":["eve"],"by":"eve"}"#;
        assert_eq!(renamed(own_field, "eve", "x"), None, "only in a notice these are the bridge's words");
        assert_eq!(renamed(b"\xff", "eve", "x"), None);
    }

    #[test]
    fn a_name_is_looked_for_as_it_is_written() {
        assert_eq!(quoted("eve"), "\"eve\"");
        assert_eq!(quoted("a\"b"), "\"a\\\"b\"");
    }
}
