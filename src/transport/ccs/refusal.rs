//! What a refusal of CCS means for the message: the one place where nack codes become policy.

use crate::ccs::event::Rejection;
use crate::ccs::nack::NackCode;
use crate::chat::push::Target;
use crate::chat::status::cut_detail;
use crate::transport::Refusal;
use std::time::Duration;

/// First delay after a fault of CCS: its documents ask for one second, doubling.
const FAULT: Duration = Duration::from_secs(1);
/// First delay after a rate code: at once would make it worse.
const RATE: Duration = Duration::from_secs(60);
/// Longest code that is passed on, in characters; the sentences of 2013 are longer and are in the detail as well.
const CODE_MAX: usize = 64;

/// What follows from a nack. [`NackCode::ConnectionDraining`] and [`NackCode::BadAck`] never get here from a session;
/// should they, the message is as good as with any fault.
pub(super) fn of_nack(code: NackCode) -> Refusal {
    match code {
        NackCode::BadRegistration | NackCode::DeviceUnregistered => Refusal::BadToken,
        NackCode::InvalidJson | NackCode::InvalidTtl | NackCode::JsonTypeError | NackCode::BadAck => Refusal::Never,
        NackCode::SenderIdMismatch | NackCode::AuthenticationFailed | NackCode::InvalidApnsCredential => {
            Refusal::Operator
        }
        NackCode::DeviceMessageRateExceeded | NackCode::TopicsMessageRateExceeded | NackCode::QuotaExceeded => {
            Refusal::Backoff(RATE)
        }
        NackCode::ServiceUnavailable
        | NackCode::InternalServerError
        | NackCode::ConnectionDraining
        | NackCode::Unknown => Refusal::Backoff(FAULT),
    }
}

/// What follows from a stanza error.
pub(super) fn of_rejection(rejection: Rejection) -> Refusal {
    match rejection {
        Rejection::Permanent => Refusal::Never,
        Rejection::Temporary => Refusal::Backoff(FAULT),
    }
}

/// The code to pass on: the known word, or what CCS said, cut.
pub(super) fn code_text(code: NackCode, error: &str, target: &Target) -> String {
    match code {
        NackCode::Unknown => scrub(error, target).chars().take(CODE_MAX).collect(),
        known => known.as_str().to_owned(),
    }
}

/// CCS's words without the token, which it likes to repeat, and cut to a sane length.
pub(super) fn detail_text(text: &str, target: &Target) -> String {
    cut_detail(&scrub(text, target)).to_owned()
}

fn scrub(text: &str, target: &Target) -> String {
    match target {
        Target::Token(token) => text.replace(token.reveal(), "<token>"),
        Target::Topic(_) | Target::Condition(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::Token;
    use crate::ops::metrics::Metrics;

    #[test]
    fn every_code_has_its_consequence() {
        let consequence = |code| match of_nack(NackCode::of(code)) {
            Refusal::Backoff(first) => format!("backoff {}", first.as_secs()),
            other => format!("{other:?}"),
        };
        for (code, expected) in [
            ("INVALID_JSON", "Never"),
            ("BAD_REGISTRATION", "BadToken"),
            ("SENDER_ID_MISMATCH", "Operator"),
            ("DEVICE_UNREGISTERED", "BadToken"),
            ("BAD_ACK", "Never"),
            ("SERVICE_UNAVAILABLE", "backoff 1"),
            ("INTERNAL_SERVER_ERROR", "backoff 1"),
            ("DEVICE_MESSAGE_RATE_EXCEEDED", "backoff 60"),
            ("TOPICS_MESSAGE_RATE_EXCEEDED", "backoff 60"),
            ("QUOTA_EXCEEDED", "backoff 60"),
            ("INVALID_APNS_CREDENTIAL", "Operator"),
            ("AUTHENTICATION_FAILED", "Operator"),
            ("InvalidJson : INVALID_TTL : Invalid value", "Never"),
            ("INVALID_TTL : Invalid value", "Never"),
            ("JSON_TYPE_ERROR", "Never"),
            ("A_NEW_CODE", "backoff 1"),
        ] {
            assert_eq!(consequence(code), expected, "{code}");
        }
    }

    #[test]
    fn every_known_code_is_counted_under_its_own_name() {
        let metrics = Metrics::new();
        let known = NackCode::ALL.into_iter().filter(|code| *code != NackCode::Unknown);
        for code in known.clone() {
            metrics.refused("ccs", code.as_str());
        }
        assert_eq!(metrics.refusals(), known.map(|code| (code.as_str().to_owned(), 1)).collect());
    }

    #[test]
    fn a_detail_holds_no_token_and_no_novel() {
        let target = Target::Token(Token::new("APA91b-secret").unwrap());
        assert_eq!(
            detail_text("Invalid token on 'to' field: APA91b-secret!", &target),
            "Invalid token on 'to' field: <token>!"
        );
        assert_eq!(detail_text(&"é".repeat(1000), &target).chars().count(), 256);
        assert_eq!(code_text(NackCode::Unknown, "NEW for APA91b-secret", &target), "NEW for <token>");
        assert_eq!(code_text(NackCode::InvalidJson, "InvalidJson : x", &target), "INVALID_JSON");
    }
}
