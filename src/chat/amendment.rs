//! What becomes of a message that is stored: it is edited or retracted by its writer, or a user deletes the own copy.
//!
//! A message stays one item with one place. An edit leaves its head as it was and takes the place of the content that it names;
//! of what is retracted or deleted a tombstone stays, which has the place and none of the content.

use super::message::json;
use serde_json::{Map, Value};

/// The `type` of a tombstone.
pub const TOMBSTONE: &str = "tombstone";
/// Largest document of a message after its edits, in bytes, without its stamp: as large as it could have been written.
pub const EDITED_BYTES_MAX: usize = 65_536;
/// What stays of a message in its tombstone.
const OF_TOMBSTONES: [&str; 3] = ["id", "to", "ref"];
/// What an edit does not change in its message.
const HEAD: [&str; 10] = ["id", "to", "type", "reply_to", "ref", "thread", "push", "ttl", "receipt", "expires"];

/// What its writer does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amendment {
    /// It gets other content.
    Edit,
    /// It is taken back.
    Retract,
}

impl Amendment {
    /// The amendment that is a message of this `type`.
    pub fn parse(kind: &str) -> Option<Self> {
        match kind {
            "edit" => Some(Self::Edit),
            "retract" => Some(Self::Retract),
            _ => None,
        }
    }
}

/// Why there is only a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Its writer has retracted it.
    Retracted,
    /// It was an edit, and a later one has taken its place; or it was edited when its reader had gone from the group.
    Edited,
    /// The user who reads has deleted the own copy.
    Deleted,
    /// The user who reads has blocked its writer, who is in the same group.
    Blocked,
    /// Its time is over.
    Expired,
    /// Its writer was erased.
    Erased,
}

impl Why {
    const fn name(self) -> &'static str {
        match self {
            Self::Retracted => "retracted",
            Self::Edited => "edited",
            Self::Deleted => "deleted",
            Self::Blocked => "blocked",
            Self::Expired => "expired",
            Self::Erased => "erased",
        }
    }
}

/// The tombstone of what was kept as `document`; it is kept in its place, or is shown.
pub fn tombstone(document: &[u8], why: Why) -> Vec<u8> {
    let mut kept = read(document);
    let mut head: Map<String, Value> = OF_TOMBSTONES.iter().filter_map(|name| kept.shift_remove_entry(*name)).collect();
    head.insert("type".to_owned(), TOMBSTONE.into());
    head.insert("why".to_owned(), why.name().into());
    json(&head)
}

/// What is left of what was kept as `document` when its writer was erased: not even the writer's own id. A retract has no
/// content and stays one, for it is about a message that somebody else may have written.
pub fn without_writer(document: &[u8]) -> Vec<u8> {
    let kept = read(document);
    let is_retract = kept.get("type").is_some_and(|kind| kind == "retract");
    let mut left: Map<String, Value> = kept.into_iter().filter(|(name, _)| name == "to" || name == "ref").collect();
    if is_retract {
        left.insert("type".to_owned(), "retract".into());
        return json(&left);
    }
    tombstone(&json(&left), Why::Erased)
}

/// Whether a kept document is a tombstone.
pub fn is_tombstone(document: &[u8]) -> bool {
    read(document).get("type").is_some_and(|kind| kind == TOMBSTONE)
}

/// Whether a kept document was changed by an edit.
pub fn is_edited(document: &[u8]) -> bool {
    read(document).contains_key("edited")
}

/// The message that was kept as `document` after an edit that is kept as `edit`, at `at` Unix milliseconds: what the edit has
/// takes the place of what the message had, and the rest stays.
pub fn edited(document: &[u8], edit: &[u8], at: u64) -> Vec<u8> {
    let mut message = read(document);
    let content = read(edit).into_iter().filter(|(name, _)| !HEAD.contains(&name.as_str()));
    message.extend(content);
    if message.get("mentions").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        message.shift_remove("mentions");
    }
    message.insert("edited".to_owned(), at.into());
    json(&message)
}

/// What was kept is an object.
fn read(document: &[u8]) -> Map<String, Value> {
    serde_json::from_slice(document).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn bytes(document: &Value) -> Vec<u8> {
        document.to_string().into_bytes()
    }

    #[test]
    fn of_an_erased_writer_the_place_is_left_and_what_was_taken_back() {
        let message = json!({"id": "m1", "to": "g-1", "type": "text", "ref": "s1", "body": "hi", "mentions": ["bob"]});
        let left = without_writer(&bytes(&message));
        assert_eq!(value(&left), json!({"to": "g-1", "ref": "s1", "type": "tombstone", "why": "erased"}));
        assert!(is_tombstone(&left));
        let retract = json!({"id": "m2", "to": "g-1", "type": "retract", "ref": "s1"});
        assert_eq!(value(&without_writer(&bytes(&retract))), json!({"to": "g-1", "ref": "s1", "type": "retract"}));
    }

    fn value(document: &[u8]) -> Value {
        serde_json::from_slice(document).unwrap()
    }

    #[test]
    fn an_edit_takes_the_place_of_what_it_names_and_leaves_the_rest() {
        let message = json!({"id": "m1", "to": "bob", "type": "image", "push": "never", "body": "the veiw", "mentions": ["bob"],
            "files": [{"url": "https://a/b"}], "x": 1});
        let edit = json!({"id": "e1", "to": "bob", "type": "edit", "ref": "06eqbd3gy0001ab2", "body": "the view", "mentions": []});
        let after = edited(&bytes(&message), &bytes(&edit), 7);
        assert!(is_edited(&after) && !is_edited(&bytes(&message)));
        assert_eq!(
            value(&after),
            json!({"id": "m1", "to": "bob", "type": "image", "push": "never", "body": "the view",
                "files": [{"url": "https://a/b"}], "x": 1, "edited": 7})
        );
        let again = edited(&after, &bytes(&json!({"type": "edit", "files": []})), 8);
        assert_eq!((value(&again)["edited"].clone(), value(&again)["files"].clone()), (json!(8), json!([])));
    }

    #[test]
    fn a_tombstone_has_no_content() {
        let message =
            json!({"id": "m1", "to": "bob", "type": "text", "body": "secret", "data": 1, "x": "secret", "edited": 5});
        let tomb = tombstone(&bytes(&message), Why::Retracted);
        assert_eq!(value(&tomb), json!({"id": "m1", "to": "bob", "type": "tombstone", "why": "retracted"}));
        assert!(is_tombstone(&tomb) && !is_tombstone(&bytes(&message)));
        let edit = json!({"to": "bob", "type": "edit", "ref": "06eqbd3gy0001ab2", "body": "secret"});
        assert_eq!(value(&tombstone(&bytes(&edit), Why::Edited))["ref"], "06eqbd3gy0001ab2");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(document: Vec<u8>, edit: Vec<u8>) {
            let _ = (edited(&document, &edit, 1), is_edited(&document));
            prop_assert!(is_tombstone(&tombstone(&document, Why::Deleted)));
        }
    }
}
