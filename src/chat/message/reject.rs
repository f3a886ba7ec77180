//! Why an input was not taken.

use crate::chat::id::MessageId;
use crate::chat::status::cut_detail;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The bridge's own error codes (topics.md, "Error codes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// The payload is not JSON in UTF-8.
    BadJson,
    /// The payload is JSON, but not an object.
    NotObject,
    /// A field that must be there is not.
    MissingField,
    /// A field has the wrong type or a value out of range, or contradicts another one.
    BadField,
    /// The id is not a legal one.
    BadId,
    /// No target, or several.
    BadTarget,
    /// A key of `data` belongs to the push service.
    ReservedKey,
    /// The payload, or what would be pushed, is over its limit.
    TooBig,
    /// No BAL is configured for a device's message.
    NoRoute,
    /// No device is known under the name in `to`.
    NoToken,
    /// The sender is not a member of the group.
    NotMember,
    /// The sender may not do that.
    Forbidden,
    /// The same thing is open already.
    Duplicate,
    /// Too much of it in too short a time.
    RateLimited,
    /// The bridge has no room for the message.
    QueueFull,
    /// The disk takes nothing.
    StoreBlocked,
    /// What is asked for does not exist.
    NotFound,
    /// The version of the payload is not known.
    Version,
    /// There is no such topic below `self/`.
    UnknownTopic,
    /// A document of the bridge is bigger than its reader takes.
    SetAside,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 20] = [
        Self::BadJson,
        Self::NotObject,
        Self::MissingField,
        Self::BadField,
        Self::BadId,
        Self::BadTarget,
        Self::ReservedKey,
        Self::TooBig,
        Self::NoRoute,
        Self::NoToken,
        Self::NotMember,
        Self::Forbidden,
        Self::Duplicate,
        Self::RateLimited,
        Self::QueueFull,
        Self::StoreBlocked,
        Self::NotFound,
        Self::Version,
        Self::UnknownTopic,
        Self::SetAside,
    ];
}

/// The word in documents. It never changes.
impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// An input that was not taken, and why. The text names fields, never their values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Rejection {
    code: ErrorCode,
    detail: String,
    ref_id: Option<MessageId>,
}

impl Rejection {
    /// A rejection; `detail` is cut by [`cut_detail`] and must not hold a value out of the payload.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        detail.truncate(cut_detail(&detail).len());
        Self { code, detail, ref_id: None }
    }

    /// The same, of the message with this id.
    pub fn about(self, ref_id: Option<MessageId>) -> Self {
        Self { ref_id, ..self }
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// What exactly is wrong, for a person.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The message's id, if one could be read: then its sender gets a `failed` status as well.
    pub fn ref_id(&self) -> Option<&MessageId> {
        self.ref_id.as_ref()
    }

    /// That of a field; `fault` says of it what is wrong and must not hold its value.
    pub fn bad_field(name: &str, fault: impl fmt::Display) -> Self {
        Self::new(ErrorCode::BadField, format!("`{name}` {fault}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::status::DETAIL_MAX;

    #[test]
    fn the_word_of_a_code_is_its_json_form() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<ErrorCode>(&format!("\"{code}\"")).unwrap(), code);
        }
    }

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        let rejection = Rejection::new(ErrorCode::BadField, "é".repeat(300));
        assert_eq!(rejection.detail(), "é".repeat(DETAIL_MAX));
        assert_eq!(Rejection::new(ErrorCode::BadField, "short").detail(), "short");
    }
}
