//! Whom a message is for: exactly one of a registration token, an installation, a topic, a condition.

use super::limits::TOPIC_NAME_MAX;
use crate::secret::Secret;
use serde_json::{Map, Value};

/// Longest token that is taken, in characters.
const DEVICE_MAX: usize = 4096;
/// Longest condition that is taken, in characters: five topics and what stands around them.
const CONDITION_MAX: usize = 5 * (TOPIC_NAME_MAX + 32);
/// Characters of an installation id.
const FID_LEN: usize = 22;
const TOPIC_PREFIX: &str = "/topics/";

/// Whom a message is for. `Debug` shows the kind only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    kind: Kind,
    text: Secret,
}

/// The kinds of targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A registration token, or the key of a device group.
    Token,
    /// A Firebase installation id.
    Fid,
    /// All subscribers of a topic.
    Topic,
    /// All devices that an expression over topics matches.
    Condition,
}

/// Why a target was refused. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// None was named.
    #[error("no target is named")]
    Missing,
    /// More than one was named.
    #[error("more than one target is named")]
    Several,
    /// A token or condition is empty or too long.
    #[error("the target is empty or too long (a token has at most {DEVICE_MAX} characters)")]
    Length,
    /// A topic has a name that FCM does not take.
    #[error("the topic's name is not 1 to {TOPIC_NAME_MAX} of A-Z a-z 0-9 - _ . ~ %")]
    Topic,
    /// `fid` is another device than the target, or has not the form of an installation id.
    #[error("`fid` is not the target once more, or no installation id")]
    Fid,
}

impl Kind {
    /// The field of the v1 message.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Fid => "fid",
            Self::Topic => "topic",
            Self::Condition => "condition",
        }
    }

    /// Whether it is one device (or a group of them under one key).
    pub const fn is_device(self) -> bool {
        matches!(self, Self::Token | Self::Fid)
    }
}

impl Target {
    /// The same target, as an installation id if its sender says that it is one: with the same text once more as `fid`
    /// among the fields that are handed through, where it is taken out. Null counts as not given.
    ///
    /// The form alone does not make it one. FCM looks for a `fid` among installations and for a `token` among tokens,
    /// and what it does not find costs the device its place.
    ///
    /// # Errors
    /// When the field is something else.
    pub fn as_called_by(self, fields: &mut Map<String, Value>) -> Result<Self, TargetError> {
        match fields.shift_remove("fid") {
            None | Some(Value::Null) => Ok(self),
            Some(fid) if self.kind == Kind::Token && fid == self.reveal() => Self::named("fid", self.reveal()),
            Some(_) => Err(TargetError::Fid),
        }
    }

    /// What a field of v1, or `to` of CCS, means. A topic may have `/topics/` in front.
    ///
    /// # Errors
    /// When FCM cannot take it.
    pub fn named(field: &str, text: &str) -> Result<Self, TargetError> {
        let topic = text.strip_prefix(TOPIC_PREFIX);
        match (field, topic) {
            ("topic", _) | ("to", Some(_)) => match topic.unwrap_or(text) {
                name if is_topic_name(name) => Self::of(Kind::Topic, name),
                _ => Err(TargetError::Topic),
            },
            ("fid", _) if !is_fid(text) => Err(TargetError::Fid),
            ("fid", _) => Self::of(Kind::Fid, text),
            ("condition", _) => Self::of(Kind::Condition, text),
            _ => Self::of(Kind::Token, text),
        }
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The text itself, for the wire only.
    pub fn reveal(&self) -> &str {
        self.text.reveal()
    }

    fn of(kind: Kind, text: &str) -> Result<Self, TargetError> {
        let max = if kind == Kind::Condition { CONDITION_MAX } else { DEVICE_MAX };
        if text.is_empty() || text.chars().count() > max {
            return Err(TargetError::Length);
        }
        Ok(Self { kind, text: Secret::new(text) })
    }
}

/// Whether `text` has the form of an installation id: `^[cdef][\w-]{21}$`.
pub fn is_fid(text: &str) -> bool {
    text.len() == FID_LEN && text.starts_with(['c', 'd', 'e', 'f']) && text.bytes().all(|c| is_base64url(&c))
}

/// Whether it is a character of base64url.
pub(super) fn is_base64url(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// Whether `name` is one of a topic: `^[a-zA-Z0-9-_.~%]{1,900}$`.
pub fn is_topic_name(name: &str) -> bool {
    (1..=TOPIC_NAME_MAX).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.~%".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::legacy::LegacyError;
    use crate::fcm::request::RequestError;

    #[test]
    fn an_installation_id_is_one_in_form_and_by_the_word_of_the_sender() {
        const FIDS: [&str; 2] = ["cAbCdEfGhIjKlMnOpQrStU", "f234567890-_34567890ab"];
        const TOKENS: [&str; 5] = [
            "aAbCdEfGhIjKlMnOpQrStU",
            "cAbCdEfGhIjKlMnOpQrSt",
            "cAbCdEfGhIjKlMnOpQrStUv",
            "cAbCdEfGhIjKlMnOpQrSt.",
            "\u{e9}",
        ];
        let called = |target: &str, fid: Value| {
            let mut fields = Map::from_iter([("fid".to_owned(), fid), ("android".to_owned(), Value::Null)]);
            let target = Target::named("token", target).unwrap().as_called_by(&mut fields);
            assert_eq!(fields.keys().collect::<Vec<_>>(), ["android"]);
            target.map(|target| target.kind())
        };
        for text in FIDS.into_iter().chain(TOKENS) {
            assert_eq!(
                Target::named("token", text).unwrap().as_called_by(&mut Map::new()).unwrap().kind(),
                Kind::Token,
                "{text}"
            );
            assert_eq!(called(text, Value::Null), Ok(Kind::Token), "{text}");
            assert_eq!(called(text, Value::Bool(true)), Err(TargetError::Fid), "{text}");
            assert_eq!(called(text, Value::from("dAbCdEfGhIjKlMnOpQrStU")), Err(TargetError::Fid), "{text}");
            let same = if FIDS.contains(&text) { Ok(Kind::Fid) } else { Err(TargetError::Fid) };
            assert_eq!(called(text, Value::from(text)), same, "{text}");
        }
        let mut fields = Map::from_iter([("fid".to_owned(), Value::from(FIDS[0]))]);
        assert_eq!(Target::named("topic", FIDS[0]).unwrap().as_called_by(&mut fields), Err(TargetError::Fid));
    }

    #[test]
    fn ccs_names_tokens_and_topics_by_one_field() {
        let of = |to: Option<&str>, condition: Option<&str>| {
            let document = serde_json::json!({"to": to, "condition": condition}).to_string();
            match crate::cli::legacy::read(document.as_bytes(), None) {
                Ok(message) => Ok((message.target.kind(), message.target.reveal().to_owned())),
                Err(LegacyError::Message(RequestError::Target(error))) => Err(error),
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(of(Some("APA91b:x"), None), Ok((Kind::Token, "APA91b:x".to_owned())));
        assert_eq!(of(Some("/topics/news"), None), Ok((Kind::Topic, "news".to_owned())));
        assert_eq!(of(None, Some("'a' in topics")), Ok((Kind::Condition, "'a' in topics".to_owned())));
        assert_eq!(of(None, None), Err(TargetError::Missing));
        assert_eq!(of(Some("T"), Some("'a' in topics")), Err(TargetError::Several));
        assert_eq!(of(Some(""), None), Err(TargetError::Length));
        assert_eq!(of(Some(&"x".repeat(4097)), None), Err(TargetError::Length));
        for name in ["/topics/", "/topics/a b", "/topics//topics/a", &format!("/topics/{}", "x".repeat(901))] {
            assert_eq!(of(Some(name), None), Err(TargetError::Topic), "{name}");
        }
    }

    #[test]
    fn a_target_is_not_shown() {
        let shown = format!("{:?}", Target::named("token", "APA91b-secret").unwrap());
        assert!(!shown.contains("APA91b"), "{shown}");
    }
}
