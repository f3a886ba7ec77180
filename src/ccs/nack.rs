//! The codes with which CCS refuses a message.

/// A code, as far as anybody has written one down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// All of them, for counters.
    pub const ALL: [Self; 16] = [
        Self::InvalidJson,
        Self::BadRegistration,
        Self::SenderIdMismatch,
        Self::DeviceUnregistered,
        Self::BadAck,
        Self::ServiceUnavailable,
        Self::InternalServerError,
        Self::DeviceMessageRateExceeded,
        Self::TopicsMessageRateExceeded,
        Self::ConnectionDraining,
        Self::InvalidApnsCredential,
        Self::QuotaExceeded,
        Self::AuthenticationFailed,
        Self::InvalidTtl,
        Self::JsonTypeError,
        Self::Unknown,
    ];

    /// What `error` means. The form of 2013 put a sentence there, which begins with the code in one of two spellings
    /// (`InvalidJson : INVALID_TTL : ...`).
    pub fn of(error: &str) -> Self {
        let word = error.trim_start().split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next();
        let plain = |word: &str| word.chars().filter(|c| *c != '_').collect::<String>().to_ascii_lowercase();
        let word = plain(word.unwrap_or_default());
        Self::ALL.into_iter().find(|code| plain(code.as_str()) == word).unwrap_or(Self::Unknown)
    }

    /// CCS's word for it; a bounded label for counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "INVALID_JSON",
            Self::BadRegistration => "BAD_REGISTRATION",
            Self::SenderIdMismatch => "SENDER_ID_MISMATCH",
            Self::DeviceUnregistered => "DEVICE_UNREGISTERED",
            Self::BadAck => "BAD_ACK",
            Self::ServiceUnavailable => "SERVICE_UNAVAILABLE",
            Self::InternalServerError => "INTERNAL_SERVER_ERROR",
            Self::DeviceMessageRateExceeded => "DEVICE_MESSAGE_RATE_EXCEEDED",
            Self::TopicsMessageRateExceeded => "TOPICS_MESSAGE_RATE_EXCEEDED",
            Self::ConnectionDraining => "CONNECTION_DRAINING",
            Self::InvalidApnsCredential => "INVALID_APNS_CREDENTIAL",
            Self::QuotaExceeded => "QUOTA_EXCEEDED",
            Self::AuthenticationFailed => "AUTHENTICATION_FAILED",
            Self::InvalidTtl => "INVALID_TTL",
            Self::JsonTypeError => "JSON_TYPE_ERROR",
            Self::Unknown => "UNKNOWN",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_back_from_its_word() {
        for code in NackCode::ALL {
            assert_eq!(NackCode::of(code.as_str()), code);
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
            assert_eq!(NackCode::of(sentence).as_str(), code);
        }
    }
}
