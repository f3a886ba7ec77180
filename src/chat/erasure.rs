//! What stays of a person who was erased: a name that is taken, and what others have written to it.

use super::bal_event::EVENTS;
use super::message::json;
use super::topic::Side;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// What stands for the name of a person begins like this.
pub const ALIAS: &str = "deleted-";

/// Whether it is a name of that kind: it is nobody's, and nobody can have it. Whoever logged in by one would be told what others wrote to
/// the person who was erased.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(ALIAS)
}

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

/// What becomes of a document that waits for somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It does not name the person where the bridge names somebody.
    Stays,
    /// The person wrote it.
    Goes,
    /// It names the person, who has the other name in it.
    Becomes(Vec<u8>),
}

/// Who is erased.
///
/// Anybody may choose any word as a name or as a token. So nothing is looked for as text: only the fields in which the bridge
/// itself says who somebody is are compared, and what others wrote in their own is theirs.
#[derive(Debug, Clone, Copy)]
pub struct Erased<'a> {
    /// The name.
    pub name: &'a str,
    /// What stands for it.
    pub alias: &'a str,
    /// Registration tokens of the devices.
    pub tokens: &'a [String],
}

/// Fields of any document of the bridge that name a user, or several.
const NAMING: [&str; 8] = ["from", "to", "with", "by", "user", "who", "mentions", "members"];

impl Erased<'_> {
    /// What becomes of a document of the bridge on this topic.
    pub fn fate_of(&self, topic: &str, document: &[u8]) -> Fate {
        let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(document) else { return Fate::Stays };
        match Side::of(topic) {
            Side::Inbox { suffix, .. } | Side::Bridge { suffix } => self.fate_below(suffix, fields),
            // An answer that a BAL wants elsewhere.
            Side::Outbox { .. } | Side::Elsewhere => self.renamed_in(fields, &[], &[]),
        }
    }

    fn fate_below(&self, suffix: &str, mut fields: Map<String, Value>) -> Fate {
        let is = |value: &str| fields.get("type").is_some_and(|kind| kind == value);
        let is_from = self.is(fields.get("from"));
        match suffix {
            "messages" if self.has_written(&fields) => Fate::Goes,
            "messages" => {
                let (one, several) = named_in_message(&fields);
                self.renamed_in(fields, one, several)
            }
            // How a call ended the bridge says itself.
            "calls" if is("taken") || fields.contains_key("outcome") => self.renamed_in(fields, &["from", "to"], &[]),
            "calls" | "invitations" | "chatstate" if is_from => Fate::Goes,
            "calls" | "invitations" | "chatstate" | "requests" => self.renamed_in(fields, &["from", "to"], &[]),
            "receipts" | "read" => self.renamed_in(fields, &["with", "by"], &[]),
            // As the request said it.
            "changes" => self.renamed_in(fields, &["with"], &["members"]),
            EVENTS => self.fate_of_event(fields),
            "errors" => {
                let below = fields.get("topic").and_then(Value::as_str).and_then(|topic| topic.strip_prefix(self.name));
                let Some(rest) = below.filter(|rest| rest.starts_with('/')) else { return Fate::Stays };
                let topic = format!("{}{rest}", self.alias);
                fields.insert("topic".to_owned(), topic.into());
                Fate::Becomes(json(&fields))
            }
            // A page of what was asked for has texts in it; it can be asked for again.
            _ if suffix == "replies" || suffix.starts_with("replies/") => {
                if self.is_named_in(&Value::Object(fields)) {
                    Fate::Goes
                } else {
                    Fate::Stays
                }
            }
            _ => Fate::Stays,
        }
    }

    fn fate_of_event(&self, mut fields: Map<String, Value>) -> Fate {
        let is = |name: &str| fields.get("event").is_some_and(|event| event == name);
        if is("user_erased") {
            // Whoever had the name before: they are to be forgotten by it.
            return Fate::Stays;
        }
        // The person's own device, and own words.
        if is("device_registered") && self.is(fields.get("user")) || is("reported") && self.is(fields.get("by")) {
            return Fate::Goes;
        }
        let mut is_changed = false;
        if let Some(copies) = fields.get_mut("messages").and_then(Value::as_array_mut) {
            copies.retain_mut(|copy| {
                let Value::Object(copied) = copy else { return true };
                if self.has_written(copied) {
                    is_changed = true;
                    return false;
                }
                let (one, several) = named_in_message(copied);
                is_changed |= self.rename(copied, one, several);
                true
            });
        }
        is_changed |= self.rename(&mut fields, &["from", "to", "with", "by", "user"], &[]);
        if is_changed { Fate::Becomes(json(&fields)) } else { Fate::Stays }
    }

    /// Whether it is a message of the person, or of one of the devices to a BAL.
    fn has_written(&self, message: &Map<String, Value>) -> bool {
        match message.get("from") {
            Some(from) => self.is(Some(from)) && !is_notice(message),
            None => self.has(message.get("token")),
        }
    }

    /// A token that a push service gave for one of the devices goes as well.
    fn renamed_in(&self, mut fields: Map<String, Value>, one: &[&str], several: &[&str]) -> Fate {
        let has_token = self.has(fields.get("new_token"));
        if has_token {
            fields.remove("new_token");
        }
        if self.rename(&mut fields, one, several) || has_token { Fate::Becomes(json(&fields)) } else { Fate::Stays }
    }

    fn rename(&self, fields: &mut Map<String, Value>, one: &[&str], several: &[&str]) -> bool {
        let mut is_changed = false;
        let mut rename = |value: &mut Value| {
            if self.is(Some(value)) {
                *value = self.alias.into();
                is_changed = true;
            }
        };
        for field in one {
            fields.get_mut(*field).into_iter().for_each(&mut rename);
        }
        for field in several {
            fields.get_mut(*field).and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut rename);
        }
        is_changed
    }

    /// What becomes of a push that waits: of its body, or of its address where it is one of several. `is_of_chat`: the bridge itself
    /// made it.
    pub fn fate_of_push(&self, body: &[u8], is_of_chat: bool) -> Fate {
        let Ok(mut body) = serde_json::from_slice::<Map<String, Value>>(body) else { return Fate::Stays };
        let target = body.get("target").and_then(Value::as_object).unwrap_or(&body);
        if self.has(target.get("token")) {
            return Fate::Goes;
        }
        let Some(data) = body.get_mut("data").and_then(Value::as_object_mut).filter(|_| is_of_chat) else {
            return Fate::Stays;
        };
        if self.is(data.get("account")) {
            return Fate::Goes;
        }
        // What rings, or is shown, is still to stop.
        if data.get("type").is_some_and(|kind| kind == "clear") {
            return if self.rename(data, &["with"], &[]) { Fate::Becomes(json(&body)) } else { Fate::Stays };
        }
        if self.is(data.get("with")) || self.is(data.get("by")) { Fate::Goes } else { Fate::Stays }
    }

    /// Whether somebody is named so anywhere in it.
    fn is_named_in(&self, value: &Value) -> bool {
        match value {
            Value::Object(fields) => fields.iter().any(|(field, value)| {
                let is_named = |value: &Value| self.is(Some(value));
                let named = NAMING.contains(&field.as_str())
                    && (is_named(value) || value.as_array().is_some_and(|names| names.iter().any(is_named)));
                named || self.is_named_in(value)
            }),
            Value::Array(items) => items.iter().any(|item| self.is_named_in(item)),
            _ => false,
        }
    }

    fn is(&self, value: Option<&Value>) -> bool {
        value.and_then(Value::as_str) == Some(self.name)
    }

    fn has(&self, token: Option<&Value>) -> bool {
        token.and_then(Value::as_str).is_some_and(|token| self.tokens.iter().any(|own| own == token))
    }
}

/// A document as the store keeps it, of somebody else or a notice, with `alias` where it names `name`: it is for that one, mentions
/// it, or tells of it. `None` if it does not.
pub fn renamed(document: &[u8], name: &str, alias: &str) -> Option<Vec<u8>> {
    let mut fields: Map<String, Value> = serde_json::from_slice(document).ok()?;
    let (one, several) = named_in_message(&fields);
    let erased = Erased { name, alias, tokens: &[] };
    erased.rename(&mut fields, one, several).then(|| json(&fields))
}

/// The fields of a message in which the bridge names somebody, and those in which it names several. What a notice says is the
/// bridge's own; in other messages such fields are the writer's.
fn named_in_message(message: &Map<String, Value>) -> (&'static [&'static str], &'static [&'static str]) {
    if is_notice(message) { (&["from", "to", "by"], &["mentions", "who"]) } else { (&["from", "to"], &["mentions"]) }
}

fn is_notice(message: &Map<String, Value>) -> bool {
    message.get("type").is_some_and(|kind| kind == "notice")
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
        assert!(is_reserved(&one) && !is_reserved("deleted") && !is_reserved("undeleted-1"));
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

    fn fate(topic: &str, document: &Value) -> Fate {
        let tokens = ["T1".to_owned()];
        let erased = Erased { name: "eve", alias: "deleted-1", tokens: &tokens };
        erased.fate_of(topic, document.to_string().as_bytes())
    }

    #[test]
    fn of_what_waits_for_others_that_alone_goes_which_the_person_wrote() {
        for (suffix, document) in [
            ("messages", json!({"from": "eve", "to": "bob", "body": "x"})),
            ("messages", json!({"id": "1", "token": "T1", "body": "x", "data": {}})),
            ("invitations", json!({"from": "eve", "to": "bob", "type": "request"})),
            ("calls", json!({"from": "eve", "to": "bob", "type": "offer"})),
            ("replies/web", json!({"items": [{"with": "eve", "last": {"body": "x"}}]})),
            ("replies/web", json!({"items": [{"mentions": ["eve"]}]})),
            ("events", json!({"event": "device_registered", "user": "eve", "token_hash": "1"})),
            ("events", json!({"event": "reported", "by": "eve", "with": "bob", "reason": "x", "messages": []})),
        ] {
            assert_eq!(fate(&format!("bob/others/{suffix}"), &document), Fate::Goes, "{document}");
        }
        for (suffix, document) in [
            (
                "messages",
                json!({"from": "alice", "to": "bob", "body": "eve", "by": "eve", "who": ["eve"], "token": "T1"}),
            ),
            ("messages", json!({"id": "1", "token": "eve", "body": "eve", "data": {"from": "eve"}})),
            ("changes", json!({"op": "who_may_write", "who": "eve"})),
            ("replies/web", json!({"ref": "eve", "items": [{"body": "eve", "name": "T1"}]})),
            ("receipts", json!({"id": "eve", "status": "eve", "token": "T1"})),
            ("events", json!({"event": "user_erased", "user": "eve", "alias": "deleted-0"})),
            ("devices", json!({"dev": "eve", "event": "registered"})),
            ("errors", json!({"topic": "evelyn/self/messages", "sample": "eve"})),
            ("messages", json!(["eve"])),
        ] {
            assert_eq!(fate(&format!("bob/others/{suffix}"), &document), Fate::Stays, "{document}");
        }
        assert_eq!(fate("bob/self/notes", &json!({"from": "eve", "token": "T1"})), Fate::Stays);
    }

    #[test]
    fn what_else_waits_for_others_names_the_other_name() {
        for (suffix, document) in [
            ("messages", json!({"from": "alice", "to": "eve", "mentions": ["eve"], "body": "x"})),
            ("messages", json!({"from": "eve", "to": "g-1", "type": "notice", "by": "eve", "who": ["eve", "bob"]})),
            ("calls", json!({"from": "eve", "to": "bob", "type": "end", "outcome": "cancelled"})),
            ("calls", json!({"from": "bob", "to": "eve", "type": "offer"})),
            ("receipts", json!({"by": "eve", "status": "read"})),
            ("read", json!({"with": "eve", "unread": 0})),
            ("changes", json!({"op": "group.add", "members": ["bob", "eve"]})),
            ("events", json!({"event": "message_stored", "from": "eve", "to": "bob"})),
            ("errors", json!({"topic": "eve/others/messages", "code": "NOT_FOUND"})),
        ] {
            let text = document.to_string().replace("\"eve\"", "\"deleted-1\"").replace("\"eve/", "\"deleted-1/");
            let expected: Value = serde_json::from_str(&text).unwrap();
            let Fate::Becomes(left) = fate(&format!("bob/others/{suffix}"), &document) else { panic!("{document}") };
            assert_eq!(serde_json::from_slice::<Value>(&left).unwrap(), expected);
        }
        let report = json!({"event": "reported", "by": "bob", "with": "eve", "messages": [
            {"from": "eve", "to": "bob", "body": "x"}, {"from": "bob", "to": "eve", "body": "eve"}]});
        let Fate::Becomes(left) = fate("bal1/others/events", &report) else { panic!() };
        let expected = json!({"event": "reported", "by": "bob", "with": "deleted-1",
            "messages": [{"from": "bob", "to": "deleted-1", "body": "eve"}]});
        assert_eq!(serde_json::from_slice::<Value>(&left).unwrap(), expected);
        let Fate::Becomes(left) = fate("bal1/self/mine", &json!({"id": "1", "new_token": "T1"})) else { panic!() };
        assert_eq!(left, br#"{"id":"1"}"#);
    }

    #[test]
    fn a_push_is_the_persons_by_its_token_and_about_it_by_the_words_of_the_bridge() {
        let tokens = ["data".to_owned()];
        let erased = Erased { name: "eve", alias: "x", tokens: &tokens };
        let of = |body: Value, is_of_chat| erased.fate_of_push(body.to_string().as_bytes(), is_of_chat);
        assert_eq!(of(json!({"target": {"token": "data"}, "data": {}}), false), Fate::Goes);
        assert_eq!(of(json!({"token": "data"}), false), Fate::Goes, "the address of one of several");
        let of_others = json!({"target": {"token": "T"}, "data": {"token": "data", "by": "eve"}});
        assert_eq!((of(of_others.clone(), false), of(of_others, true)), (Fate::Stays, Fate::Goes));
        assert_eq!(of(json!({"target": {"token": "T"}, "data": {"body": "eve", "title": "eve"}}), true), Fate::Stays);
        let clear = json!({"target": {"token": "T"}, "data": {"type": "clear", "with": "eve"}});
        let Fate::Becomes(left) = of(clear, true) else { panic!("it is still to stop") };
        let left: Value = serde_json::from_slice(&left).unwrap();
        assert_eq!(left, json!({"target": {"token": "T"}, "data": {"type": "clear", "with": "x"}}));
        assert_eq!(erased.fate_of_push(b"no JSON", true), Fate::Stays);
    }

    #[test]
    fn a_name_is_looked_for_as_it_is_written() {
        assert_eq!(quoted("eve"), "\"eve\"");
        assert_eq!(quoted("a\"b"), "\"a\\\"b\"");
    }
}
