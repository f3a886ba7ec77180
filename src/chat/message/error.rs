//! What a client is told about input that was not taken: `{owner}/others/errors`.

use super::{ERRORS_PER_SECOND, ErrorCode, Rejection};
use crate::chat::topic::Side;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write;

/// How much of a rejected payload is shown, in bytes.
pub const SAMPLE_BYTES: usize = 64;
/// Most characters of the topic that an error document repeats; a topic may have 65535 bytes.
const TOPIC_SHOWN: usize = 256;

/// One rejected input. It goes to nobody but the input's own owner: the sample may show part of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorDocument {
    code: ErrorCode,
    detail: String,
    topic: String,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    ref_id: Option<String>,
    ts: u64,
    sample: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redelivered: bool,
}

impl ErrorDocument {
    /// The error of `payload`, published on `topic` (cut to 256 characters) and rejected at `ts` (Unix milliseconds).
    pub fn new(rejection: &Rejection, topic: impl Into<String>, payload: &[u8], ts: u64) -> Self {
        let topic = topic.into();
        // A registration has a token in it, and a proof, which is for the device alone that it was pushed to; a request may have
        // a password; and an unknown topic may be meant for either.
        let shown = if Side::of(&topic).may_hold_secrets() { &[] } else { payload };
        Self {
            code: rejection.code(),
            detail: rejection.detail().to_owned(),
            sample: sample(shown),
            topic: topic.chars().take(TOPIC_SHOWN).collect(),
            ref_id: rejection.ref_id().map(ToString::to_string),
            ts,
            redelivered: false,
        }
    }

    /// Whether its reader may know it already, because the input was published before.
    pub fn redelivered(mut self, redelivered: bool) -> Self {
        self.redelivered = redelivered;
        self
    }

    /// The document to publish.
    pub fn to_payload(&self) -> Vec<u8> {
        super::json(self)
    }
}

/// The document instead of errors that came too fast: `count` were left out until `ts` (Unix milliseconds).
pub fn error_summary(count: u64, ts: u64) -> Vec<u8> {
    let detail = format!("more than {ERRORS_PER_SECOND} errors in a second; `count` of them were left out");
    super::json(&json!({ "code": ErrorCode::RateLimited, "detail": detail, "count": count, "ts": ts }))
}

/// The first bytes as text; what is not UTF-8, or was cut in two, as `\xNN`. JSON escapes the rest.
fn sample(payload: &[u8]) -> String {
    let mut text = String::with_capacity(SAMPLE_BYTES);
    for chunk in payload[..payload.len().min(SAMPLE_BYTES)].utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("a String takes any text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::MessageId;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn an_error_says_what_was_wrong_with_which_input() {
        let rejection = Rejection::new(ErrorCode::BadTarget, "none").about(MessageId::new("a1").ok());
        let document = ErrorDocument::new(&rejection, "bal1/self/messages", b"{\"id\":\"a1\"}", 5);
        let expected = json!({
            "code": "BAD_TARGET", "detail": "none", "topic": "bal1/self/messages", "ref": "a1", "ts": 5,
            "sample": "{\"id\":\"a1\"}",
        });
        assert_eq!(serde_json::from_slice::<Value>(&document.to_payload()).unwrap(), expected);
    }

    #[test]
    fn a_sample_is_short_and_shows_what_is_not_text() {
        assert_eq!(sample(b"plain"), "plain");
        assert_eq!(sample(b"a\xff\xfe\nb"), "a\\xff\\xfe\nb");
        let cut_in_two = "x".repeat(63) + "é";
        assert_eq!(sample(cut_in_two.as_bytes()), "x".repeat(63) + "\\xc3");
        assert_eq!(sample(&[b'x'; 100]).len(), SAMPLE_BYTES);
    }

    #[test]
    fn nothing_is_shown_of_what_may_have_a_password_or_a_token_in_it() {
        let rejection = Rejection::new(ErrorCode::UnknownTopic, "x");
        for (suffix, shown) in [
            ("messages", true),
            ("presence/phone", true),
            ("devices/phone", false),
            ("device/phone", false),
            ("requests/phone", false),
            ("requets", false),
        ] {
            let document = ErrorDocument::new(&rejection, format!("alice/self/{suffix}"), b"hunter2", 0).to_payload();
            assert_eq!(String::from_utf8(document).unwrap().contains("hunter2"), shown, "{suffix}");
        }
    }

    #[test]
    fn a_long_topic_is_cut_between_characters() {
        let rejection = Rejection::new(ErrorCode::UnknownTopic, "x");
        let topic = format!("bal1/self/{}", "é".repeat(30_000));
        let document = ErrorDocument::new(&rejection, topic, b"", 0).to_payload();
        let document: Value = serde_json::from_slice(&document).unwrap();
        assert_eq!(document["topic"], format!("bal1/self/{}", "é".repeat(TOPIC_SHOWN - 10)));
    }

    #[test]
    fn a_summary_counts() {
        let document: Value = serde_json::from_slice(&error_summary(990, 7)).unwrap();
        assert_eq!(document["code"], "RATE_LIMITED");
        assert_eq!((&document["count"], &document["ts"]), (&json!(990), &json!(7)));
        assert_eq!(document.get("sample"), None);
    }

    proptest! {
        #[test]
        fn an_error_about_any_bytes_is_json(payload: Vec<u8>) {
            let rejection = Rejection::new(ErrorCode::BadJson, "x");
            let document = ErrorDocument::new(&rejection, "bal1/self/messages", &payload, 0).to_payload();
            prop_assert!(serde_json::from_slice::<Value>(&document).is_ok());
            prop_assert!(document.len() < 1024, "even if every byte of the sample is escaped twice");
        }
    }
}
