//! Where a push goes: exactly one of `token`, `topic`, `condition`. A message with `to` is one to a user or BAL.

use super::condition::condition_fault;
use super::fields::Fields;
use super::{ErrorCode, Rejection};
use crate::chat::id::{self, ID_MAX, NameError, Recipient, Token};
use crate::chat::push::Target;
use sha2::{Digest, Sha256};

/// Longest name of an FCM topic, in characters.
pub const TOPIC_NAME_MAX: usize = 900;
/// Most topics in one condition.
pub const CONDITION_TOPICS_MAX: usize = 5;
/// Longest condition, in characters: its topics and what stands around them.
pub const CONDITION_MAX: usize = CONDITION_TOPICS_MAX * (TOPIC_NAME_MAX + 32);

pub(super) const TOPIC_PREFIX: &str = "/topics/";
const GROUP_PREFIX: &str = "g-";
const FORMS: [&str; 3] = ["token", "topic", "condition"];

/// Whether `to` is what CCS has there, a token or a topic with its prefix, and can be no name.
pub(super) fn names_a_device(to: &str) -> bool {
    to.starts_with(TOPIC_PREFIX) || to.contains(':') || to.chars().count() > GROUP_PREFIX.len() + ID_MAX
}

/// Reads the one target.
pub(super) fn read_target(fields: &mut Fields) -> Result<Target, Rejection> {
    let mut given = FORMS.into_iter().filter_map(|form| fields.take(form).map(|value| (form, value)));
    let (form, value) = match (given.next(), given.next()) {
        (Some(one), None) => one,
        (Some(_), Some(_)) => return Err(bad_target("several of")),
        (None, _) => return Err(bad_target("none of")),
    };
    let serde_json::Value::String(text) = value else { return Err(Rejection::bad_field(form, "is not a string")) };
    match form {
        "token" => token(form, text).map(Target::Token),
        "topic" => topic(form, &text).map(Target::Topic),
        _ => condition(text).map(Target::Condition),
    }
}

impl Target {
    /// A number that is the same for the same recipient, always: it is kept in the store, and order is kept per
    /// recipient. 64 bits of SHA-256 over the kind and the text; it must never change.
    pub fn recipient(&self) -> Recipient {
        match self {
            Self::Token(token) => recipient("token", token.reveal()),
            Self::Topic(name) => recipient("topic", name),
            Self::Condition(text) => recipient("condition", text),
        }
    }
}

/// Checks the name of an FCM topic.
pub(super) fn check_topic_name(name: &str) -> Result<(), NameError> {
    id::check(name, TOPIC_NAME_MAX, |c| c.is_ascii_alphanumeric() || "-_.~%".contains(c))
}

fn bad_target(how_many: &str) -> Rejection {
    Rejection::new(
        ErrorCode::BadTarget,
        format!("{how_many} `to`, `token`, `topic`, `condition`; exactly one is needed"),
    )
}

pub(super) fn token(field: &str, text: String) -> Result<Token, Rejection> {
    // CCS has one field for tokens and topics; a topic in the clothes of a token would pass by the topic's limits.
    if text.starts_with(TOPIC_PREFIX) {
        return Err(Rejection::bad_field(field, "names a topic; use `topic`"));
    }
    Token::new(text).map_err(|fault| Rejection::bad_field(field, fault))
}

/// The wire's prefix is taken off: `/` is not in the alphabet of names, so nothing else can be meant.
pub(super) fn topic(field: &str, text: &str) -> Result<String, Rejection> {
    let name = text.strip_prefix(TOPIC_PREFIX).unwrap_or(text);
    check_topic_name(name).map_err(|fault| Rejection::bad_field(field, fault))?;
    Ok(name.to_owned())
}

pub(super) fn condition(text: String) -> Result<String, Rejection> {
    if text.chars().count() > CONDITION_MAX {
        return Err(Rejection::bad_field("condition", NameError::TooLong(CONDITION_MAX)));
    }
    condition_fault(&text).map_or_else(|| Ok(text), |fault| Err(Rejection::bad_field("condition", fault)))
}

fn recipient(kind: &str, text: &str) -> Recipient {
    let digest = Sha256::new().chain_update(kind).chain_update([0]).chain_update(text).finalize();
    Recipient(digest.iter().take(8).fold(0i64, |number, &byte| (number << 8) | i64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_are_told_apart_by_kind_and_never_change() {
        let token = Target::Token(Token::new("news").unwrap()).recipient();
        let topic = Target::Topic("news".to_owned()).recipient();
        let condition = Target::Condition("news".to_owned()).recipient();
        // The first 8 bytes of `printf 'token\0news' | sha256sum`, and so on.
        assert_eq!(token.0, -338_835_443_892_079_747);
        assert_eq!(topic.0, 6_529_645_349_848_541_127);
        assert_eq!(condition.0, -556_084_682_996_939_983);
    }
}
