//! The codes with which CCS refuses a message.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// A code, as far as anybody has written one down. It is written as CCS writes it, and read as [`NackCode::of`] spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all(serialize = "SCREAMING_SNAKE_CASE", deserialize = "lowercase"))]
pub enum NackCode {
    /// The JSON, a type in it, its size, a reserved key or the time to live is wrong.
    InvalidJson,
    /// The token is malformed or not for this sender.
    BadRegistration,
    /// The token belongs to another sender.
    SenderIdMismatch,
    /// The token is dead.
    DeviceUnregistered,
    /// An acknowledgement of ours was malformed; the id is that of a message from a device.
    BadAck,
    /// Not now.
    ServiceUnavailable,
    /// CCS has a fault.
    InternalServerError,
    /// Too many to this device.
    DeviceMessageRateExceeded,
    /// Too many to this topic's subscribers.
    TopicsMessageRateExceeded,
    /// This connection takes nothing any more, another one does.
    ConnectionDraining,
    /// The certificate for Apple's service is wrong.
    InvalidApnsCredential,
    /// The old name of the rate codes.
    QuotaExceeded,
    /// The credentials are wrong (2013).
    AuthenticationFailed,
    /// The time to live is out of range (2013).
    InvalidTtl,
    /// A field has the wrong type (2013).
    JsonTypeError,
    /// Anything else.
    Unknown,
}

impl NackCode {
    /// What `error` means. The form of 2013 put a sentence there, which begins with the code in one of two spellings
    /// (`InvalidJson : INVALID_TTL : ...`).
    pub fn of(error: &str) -> Self {
        let word = error.trim_start().split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next();
        let plain = word.unwrap_or_default().replace('_', "").to_ascii_lowercase();
        serde_json::from_value(Value::from(plain)).unwrap_or(Self::Unknown)
    }
}

/// CCS's word for it.
impl fmt::Display for NackCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_from_its_word_and_written_back() {
        for word in [
            "INVALID_JSON",
            "BAD_REGISTRATION",
            "SENDER_ID_MISMATCH",
            "DEVICE_UNREGISTERED",
            "BAD_ACK",
            "SERVICE_UNAVAILABLE",
            "INTERNAL_SERVER_ERROR",
            "DEVICE_MESSAGE_RATE_EXCEEDED",
            "TOPICS_MESSAGE_RATE_EXCEEDED",
            "CONNECTION_DRAINING",
            "INVALID_APNS_CREDENTIAL",
            "QUOTA_EXCEEDED",
            "AUTHENTICATION_FAILED",
            "INVALID_TTL",
            "JSON_TYPE_ERROR",
        ] {
            assert_ne!(NackCode::of(word), NackCode::Unknown);
            assert_eq!(NackCode::of(word).to_string(), word);
        }
        assert_eq!(NackCode::of("SOMETHING_NEW"), NackCode::Unknown);
        assert_eq!(NackCode::of(""), NackCode::Unknown);
    }

    #[test]
    fn the_sentences_of_2013_are_known_by_their_first_word() {
        for (sentence, code) in [
            (
                "InvalidJson : JSON_TYPE_ERROR : Field \"time_to_live\" must be a JSON java.lang.Number: abc",
                "INVALID_JSON",
            ),
            ("INVALID_TTL : Invalid value (-1) for \"time_to_live\"", "INVALID_TTL"),
            ("BadRegistration", "BAD_REGISTRATION"),
            ("  DEVICE_UNREGISTERED: gone", "DEVICE_UNREGISTERED"),
        ] {
            assert_eq!(NackCode::of(sentence).to_string(), code);
        }
    }
}
