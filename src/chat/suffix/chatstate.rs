//! `chatstate`: who is writing. Delivered while it is true, or not at all.

use super::read::{conversation, device};
use crate::chat::id::Owner;
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Limits, Rejection};
use crate::chat::topic::Device;
use serde::Serialize;
use serde_json::json;

/// The same state of one writer to one reader within this time is not passed on, in milliseconds.
pub const REPEATED_MS: u64 = 3_000;
/// Most chat states of one user that are passed on in a second.
pub const PER_SECOND: u32 = 5;

/// What somebody does in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Writes.
    Composing,
    /// Has stopped writing.
    Paused,
    /// Looks at the conversation.
    Active,
    /// Has looked away.
    Inactive,
    /// Has left it.
    Gone,
}

/// A chat state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatState {
    /// Who is to see it.
    pub to: Owner,
    /// What is to be seen.
    pub state: State,
    /// The device, as its client says; the embedded broker knows better.
    pub dev: Option<Device>,
}

impl ChatState {
    /// Reads a payload. The spellings of old clients (`COMPOSING`, `INACTVE`) are understood.
    ///
    /// # Errors
    /// With the code of topics.md.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        fields.version()?;
        let to = conversation(&mut fields, "to")?;
        let missing = || Rejection::new(ErrorCode::MissingField, "`state` is missing");
        let state = match fields.string("state")?.ok_or_else(missing)?.to_ascii_lowercase().as_str() {
            "composing" => State::Composing,
            "paused" => State::Paused,
            "active" => State::Active,
            "inactive" | "inactve" => State::Inactive,
            "gone" => State::Gone,
            _ => return Err(Rejection::bad_field("state", "is none of composing, paused, active, inactive, gone")),
        };
        Ok(Self { to, state, dev: device(&mut fields)? })
    }

    /// What a reader gets. In a group it says in which.
    pub fn to_payload(&self, from: &Owner) -> Vec<u8> {
        let mut told = json!({ "from": from.as_str(), "state": self.state });
        if self.to.is_group() {
            told["group"] = self.to.as_str().into();
        }
        crate::chat::message::json(&told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(payload: &str) -> Result<State, ErrorCode> {
        let parsed = ChatState::parse(payload.as_bytes(), &Limits::default());
        parsed.map(|state| state.state).map_err(|rejection| rejection.code())
    }

    #[test]
    fn the_words_and_their_old_spellings() {
        for (word, state) in [
            ("composing", State::Composing),
            ("COMPOSING", State::Composing),
            ("paused", State::Paused),
            ("active", State::Active),
            ("INACTVE", State::Inactive),
            ("inactive", State::Inactive),
            ("gone", State::Gone),
        ] {
            assert_eq!(parse(&format!(r#"{{"to":"bob","state":"{word}"}}"#)), Ok(state), "{word}");
        }
        assert_eq!(parse(r#"{"to":"bob","state":"away"}"#), Err(ErrorCode::BadField));
        assert_eq!(parse(r#"{"to":"bob"}"#), Err(ErrorCode::MissingField));
        assert_eq!(parse(r#"{"state":"gone"}"#), Err(ErrorCode::MissingField));
    }

    #[test]
    fn the_reader_learns_who_and_what_and_no_device() {
        let state = ChatState::parse(br#"{"to":"bob","state":"COMPOSING","dev":"web"}"#, &Limits::default()).unwrap();
        let payload = state.to_payload(&Owner::new("alice").unwrap());
        assert_eq!(payload, br#"{"from":"alice","state":"composing"}"#);
    }
}
