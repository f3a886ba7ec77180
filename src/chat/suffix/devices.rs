//! `devices/{dev}`: a device registers the token by which it is pushed, or takes it back.

use crate::chat::id::{TOKEN_MAX, Token};
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Limits, Rejection};
use crate::chat::quiet::Quiet;
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

/// Who counts what is unread on the icon of the app.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Badge {
    /// The app, which is told the number.
    #[default]
    Client,
    /// The system of the device, where it takes the number out of a push: iOS. The app is told it as well.
    Server,
    /// Nobody, and nobody is told the number.
    Off,
}

/// A registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// By which it is pushed.
    pub token: Token,
    /// How.
    pub form: PushForm,
    /// The word that was pushed to the token, if it belonged to another user before.
    pub proof: Option<String>,
}

/// What a push to a device has to be like. Its JSON is its form on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushForm {
    /// What it runs on.
    pub platform: Platform,
    /// The app: it chooses transport and project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The language of fixed texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
    /// How much a push says.
    #[serde(default)]
    pub format: Format,
    /// It is pushed once in each absence.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// Who counts what is unread.
    #[serde(default)]
    pub badge: Badge,
    /// When pushes make no sound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Quiet>,
}

/// When a token has to be proved before its registration counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyTokens {
    /// When another user has it.
    #[default]
    Moved,
    /// At every registration of a token that the device did not have before.
    Always,
    /// Never: whoever registers a token gets it, also from another user.
    Never,
}

/// What happened to the registration of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceEvent {
    /// It can be pushed by this token.
    Registered,
    /// It can be pushed by this token instead of the one before.
    Replaced,
    /// It cannot be pushed any more.
    Unregistered,
    /// It was silent for long, or its token is refused; pushes are still tried.
    Stale,
    /// The token is another user's now, or this user's.
    Moved,
    /// A word was pushed to the token, to be repeated.
    VerifySent,
}

/// What the devices of a user are told of one of them: a document of `devices`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct DeviceDocument<'a> {
    /// What happened.
    pub event: DeviceEvent,
    /// The device.
    pub dev: &'a str,
    /// A short hash of the token, never the token.
    pub token_hash: &'a str,
    /// Why, in the words of the push service or of the bridge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'a str>,
    /// When, in Unix milliseconds.
    pub ts: u64,
}

impl DeviceDocument<'_> {
    /// The document to publish.
    pub fn to_payload(&self) -> Vec<u8> {
        crate::chat::message::json(self)
    }
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
        let badge = match fields.string("badge")?.as_deref() {
            None | Some("client") => Badge::Client,
            Some("server") => Badge::Server,
            Some("off") => Badge::Off,
            Some(_) => return Err(Rejection::bad_field("badge", "is none of server, client, off")),
        };
        let first = fields.flag("first")?.unwrap_or(false);
        let quiet = Quiet::read(&mut fields)?;
        let app = fields.word("app", APP_MAX)?;
        let lang = fields.word("lang", LANG_MAX)?;
        let proof = fields.word("proof", PROOF_MAX)?;
        let form = PushForm { platform, app, lang, format, first, badge, quiet };
        Ok(Self::Register(Registration { token, form, proof }))
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
        assert_eq!((least.form.platform, least.form.format, least.form.app), (Platform::Ios, Format::Full, None));
        let all = json!({"token": "t-1", "platform": "web", "app": "com.x", "lang": "de-CH", "format": "doorbell", "proof": "p"});
        let DeviceWord::Register(all) = parse(&all).unwrap() else { panic!() };
        assert_eq!(
            (all.form.lang.as_deref(), all.form.format, all.proof.as_deref()),
            (Some("de-CH"), Format::Doorbell, Some("p"))
        );
        assert_eq!(DeviceWord::parse(b"", &Limits::default()), Ok(DeviceWord::Unregister));
    }

    #[test]
    fn what_was_registered_before_there_were_more_settings_is_read() {
        let before = r#"{"platform":"ios","app":"com.x","lang":"de","format":"id"}"#;
        let form: PushForm = serde_json::from_str(before).unwrap();
        assert_eq!((form.first, form.badge, &form.quiet), (false, Badge::Client, &None));
        let quiet = json!({"from": "22:00", "to": "07:00", "tz": "Europe/Berlin"});
        let all = json!({"token": "t", "platform": "ios", "first": true, "badge": "server", "quiet": quiet});
        let DeviceWord::Register(all) = parse(&all).unwrap() else { panic!() };
        assert!(all.form.first && all.form.badge == Badge::Server && all.form.quiet.is_some());
        let text = serde_json::to_string(&all.form).unwrap();
        assert_eq!(serde_json::from_str::<PushForm>(&text).unwrap(), all.form);
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
            (json!({"token": "t-1", "platform": "ios", "first": "yes"}), ErrorCode::BadField),
            (json!({"token": "t-1", "platform": "ios", "badge": true}), ErrorCode::BadField),
            (json!({"token": "t-1", "platform": "ios", "badge": "on"}), ErrorCode::BadField),
            (json!({"token": "t-1", "platform": "ios", "quiet": {"from": "22:00"}}), ErrorCode::BadField),
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
