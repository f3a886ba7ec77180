//! `devices/{dev}`: a device registers the token by which it is pushed, or takes it back.

use crate::chat::id::{TOKEN_MAX, Token};
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Limits, Rejection};
use serde::{Deserialize, Serialize};

/// Longest `app` (a package name), in characters.
pub const APP_MAX: usize = 255;
/// Longest `lang` (BCP 47), in characters.
pub const LANG_MAX: usize = 35;
/// Longest `proof`, in characters.
pub const PROOF_MAX: usize = 64;

/// What a device runs on: what a push has to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// Android.
    Android,
    /// iOS: what is to be seen is a notification.
    Ios,
    /// A browser.
    Web,
}

/// How much a push says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Who and what.
    #[default]
    Full,
    /// Which message, without a word of it: the app asks for it.
    Id,
    /// That there is something.
    Doorbell,
}

/// A registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// By which it is pushed.
    pub token: Token,
    /// What it runs on.
    pub platform: Platform,
    /// The app: it chooses transport and project.
    pub app: Option<String>,
    /// The language of fixed texts.
    pub lang: Option<String>,
    /// How much a push says.
    pub format: Format,
    /// The word that was pushed to the token, if it belonged to another user before.
    pub proof: Option<String>,
}

/// What a device says of its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceWord {
    /// It can be pushed.
    Register(Registration),
    /// It can no longer be pushed.
    Unregister,
}

impl DeviceWord {
    /// Reads a payload; an empty one takes the registration back.
    ///
    /// # Errors
    /// With the code of topics.md. No text of a rejection holds the token.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        if payload.is_empty() {
            return Ok(Self::Unregister);
        }
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        fields.version()?;
        if fields.has("key") {
            return Err(Rejection::bad_field("key", "has no meaning in this release"));
        }
        let missing = |name: &str| Rejection::new(ErrorCode::MissingField, format!("`{name}` is missing"));
        let token = fields.string("token")?.ok_or_else(|| missing("token"))?;
        let bad_token = |_| Rejection::bad_field("token", format_args!("is no token of 1 to {TOKEN_MAX} characters"));
        let token = Token::new(token).map_err(bad_token)?;
        let platform = match fields.string("platform")?.ok_or_else(|| missing("platform"))?.as_str() {
            "android" => Platform::Android,
            "ios" => Platform::Ios,
            "web" => Platform::Web,
            _ => return Err(Rejection::bad_field("platform", "is none of android, ios, web")),
        };
        let format = match fields.string("format")?.as_deref() {
            None | Some("full") => Format::Full,
            Some("id") => Format::Id,
            Some("doorbell") => Format::Doorbell,
            Some(_) => return Err(Rejection::bad_field("format", "is none of full, id, doorbell")),
        };
        let app = fields.word("app", APP_MAX)?;
        let lang = fields.word("lang", LANG_MAX)?;
        let proof = fields.word("proof", PROOF_MAX)?;
        Ok(Self::Register(Registration { token, platform, app, lang, format, proof }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parse(payload: &Value) -> Result<DeviceWord, ErrorCode> {
        DeviceWord::parse(payload.to_string().as_bytes(), &Limits::default()).map_err(|rejection| rejection.code())
    }

    #[test]
    fn a_registration_has_a_token_and_a_platform() {
        let DeviceWord::Register(least) = parse(&json!({"token": "t-1", "platform": "ios"})).unwrap() else { panic!() };
        assert_eq!((least.platform, least.format, least.app), (Platform::Ios, Format::Full, None));
        let all = json!({"token": "t-1", "platform": "web", "app": "com.x", "lang": "de-CH", "format": "doorbell", "proof": "p"});
        let DeviceWord::Register(all) = parse(&all).unwrap() else { panic!() };
        assert_eq!(
            (all.lang.as_deref(), all.format, all.proof.as_deref()),
            (Some("de-CH"), Format::Doorbell, Some("p"))
        );
        assert_eq!(DeviceWord::parse(b"", &Limits::default()), Ok(DeviceWord::Unregister));
    }

    #[test]
    fn anything_else_is_told_without_the_token() {
        for (payload, code) in [
            (json!({"platform": "ios"}), ErrorCode::MissingField),
            (json!({"token": "t-1"}), ErrorCode::MissingField),
            (json!({"token": "", "platform": "ios"}), ErrorCode::BadField),
            (json!({"token": "t".repeat(TOKEN_MAX + 1), "platform": "ios"}), ErrorCode::BadField),
            (json!({"token": "t-1", "platform": "symbian"}), ErrorCode::BadField),
            (json!({"token": "t-1", "platform": "ios", "format": "all"}), ErrorCode::BadField),
            (json!({"token": "t-1", "platform": "ios", "key": "k"}), ErrorCode::BadField),
            (json!({"token": ["hush"], "platform": "ios"}), ErrorCode::BadField),
        ] {
            assert_eq!(parse(&payload), Err(code), "{payload}");
        }
        let hushed = DeviceWord::parse(br#"{"token":"hush hush","platform":"ios","format":"x"}"#, &Limits::default());
        assert!(!hushed.unwrap_err().to_string().contains("hush"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = DeviceWord::parse(&bytes, &Limits::default());
        }
    }
}
