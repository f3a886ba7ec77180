//! `profile`: how a user is called and looks. Its name is the title of pushes.

use crate::chat::message::fields::Fields;
use crate::chat::message::{Limits, Rejection};

/// Largest payload, in bytes.
pub const BYTES_MAX: usize = 2_048;
/// Longest `name`, in characters.
pub const NAME_MAX: usize = 64;
/// Longest `status`, in characters.
pub const STATUS_MAX: usize = 140;
/// Longest `image`, in characters: an address.
pub const IMAGE_MAX: usize = 1_024;

/// A profile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// How the user is called.
    pub name: Option<String>,
    /// Where the picture is.
    pub image: Option<String>,
    /// What the user says.
    pub status: Option<String>,
}

impl Profile {
    /// Reads a payload; an empty one takes the profile back.
    ///
    /// # Errors
    /// With the code of topics.md.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Option<Self>, Rejection> {
        if payload.is_empty() {
            return Ok(None);
        }
        let mut fields = Fields::read(payload, BYTES_MAX.min(limits.payload_bytes))?;
        fields.version()?;
        let name = fields.word("name", NAME_MAX)?;
        let image = fields.word("image", IMAGE_MAX)?;
        Ok(Some(Self { name, image, status: fields.word("status", STATUS_MAX)? }))
    }
}

/// A name as a push may show it: without control characters and without those that turn the direction of writing, by which
/// one name can be made to look like another.
pub fn shown_name(name: &str) -> String {
    let turns = |c: &char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}');
    name.chars().filter(|c| !c.is_control() && !turns(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::message::ErrorCode;

    fn parse(payload: &str) -> Result<Option<Profile>, ErrorCode> {
        Profile::parse(payload.as_bytes(), &Limits::default()).map_err(|rejection| rejection.code())
    }

    #[test]
    fn a_profile_has_its_limits_and_can_be_taken_back() {
        assert_eq!(parse(""), Ok(None));
        let full = parse(r#"{"name":"Alice","image":"https://a/b.png","status":"here","x":1}"#).unwrap().unwrap();
        assert_eq!((full.name.as_deref(), full.status.as_deref()), (Some("Alice"), Some("here")));
        for (name, max) in [("name", NAME_MAX), ("status", STATUS_MAX), ("image", IMAGE_MAX)] {
            assert!(parse(&format!(r#"{{"{name}":"{}"}}"#, "x".repeat(max))).is_ok(), "{name}");
            let beyond = format!(r#"{{"{name}":"{}"}}"#, "x".repeat(max + 1));
            assert_eq!(parse(&beyond), Err(ErrorCode::BadField), "{name}");
        }
        assert_eq!(parse(&format!(r#"{{"x":"{}"}}"#, "x".repeat(BYTES_MAX))), Err(ErrorCode::TooBig));
    }

    #[test]
    fn a_name_cannot_be_turned_around() {
        assert_eq!(shown_name("Al\u{202e}ice\u{7}\u{2066}"), "Alice");
    }
}
