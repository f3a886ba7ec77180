//! What a refusal of CCS means for the message: the one place where nack codes become decisions.

use super::event::Rejection;
use super::nack::NackCode;
use crate::chat::refusal::{Decision, Refusal, Scope, Until, Wait};
use std::time::Duration;

/// First delay after a fault of CCS: its documents ask for one second, doubling.
const FAULT: Duration = Duration::from_secs(1);
/// First delay after a rate code: at once would make it worse.
const RATE: Duration = Duration::from_secs(60);
/// Longest code that is passed on, in characters; the sentences of 2013 are longer and are in the detail as well.
const CODE_MAX: usize = 64;

/// What follows from a nack, whose `error` and `description` are in CCS's words; those like to repeat the `token`, which is
/// taken out. [`NackCode::ConnectionDraining`] and [`NackCode::BadAck`] never get here from a session; should they, the
/// message is as good as with any fault.
pub fn of_nack(code: NackCode, error: &str, description: &str, token: Option<&str>) -> Refusal {
    let text = match code {
        NackCode::Unknown => scrub(error, token).chars().take(CODE_MAX).collect(),
        known => known.as_str().to_owned(),
    };
    refusal(decision(code), text, description, token)
}

/// What follows from a stanza error.
pub fn of_rejection(rejection: Rejection, condition: String, text: &str, token: Option<&str>) -> Refusal {
    let decision = match rejection {
        Rejection::Permanent => Decision::FAIL,
        Rejection::Temporary => again(FAULT, Scope::Message),
    };
    refusal(decision, condition, text, token)
}

fn decision(code: NackCode) -> Decision {
    match code {
        NackCode::BadRegistration | NackCode::DeviceUnregistered => Decision::REMOVE_TOKEN,
        NackCode::InvalidJson | NackCode::InvalidTtl | NackCode::JsonTypeError | NackCode::BadAck => Decision::FAIL,
        NackCode::SenderIdMismatch | NackCode::AuthenticationFailed | NackCode::InvalidApnsCredential => {
            Decision::FAIL_FOR_OPERATOR
        }
        NackCode::DeviceMessageRateExceeded | NackCode::TopicsMessageRateExceeded | NackCode::QuotaExceeded => {
            again(RATE, Scope::Recipient)
        }
        NackCode::ServiceUnavailable
        | NackCode::InternalServerError
        | NackCode::ConnectionDraining
        | NackCode::Unknown => again(FAULT, Scope::Message),
    }
}

fn again(first: Duration, scope: Scope) -> Decision {
    Decision::Retry { wait: Wait::Backoff(first), until: Until::Deadline, scope }
}

fn refusal(decision: Decision, code: String, text: &str, token: Option<&str>) -> Refusal {
    Refusal::new(decision, code, scrub(text, token))
}

fn scrub(text: &str, token: Option<&str>) -> String {
    token.map_or_else(|| text.to_owned(), |token| text.replace(token, "<token>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_consequence() {
        for (code, expected) in [
            ("INVALID_JSON", Decision::FAIL),
            ("BAD_REGISTRATION", Decision::REMOVE_TOKEN),
            ("SENDER_ID_MISMATCH", Decision::FAIL_FOR_OPERATOR),
            ("DEVICE_UNREGISTERED", Decision::REMOVE_TOKEN),
            ("BAD_ACK", Decision::FAIL),
            ("SERVICE_UNAVAILABLE", again(FAULT, Scope::Message)),
            ("INTERNAL_SERVER_ERROR", again(FAULT, Scope::Message)),
            ("DEVICE_MESSAGE_RATE_EXCEEDED", again(RATE, Scope::Recipient)),
            ("TOPICS_MESSAGE_RATE_EXCEEDED", again(RATE, Scope::Recipient)),
            ("QUOTA_EXCEEDED", again(RATE, Scope::Recipient)),
            ("INVALID_APNS_CREDENTIAL", Decision::FAIL_FOR_OPERATOR),
            ("AUTHENTICATION_FAILED", Decision::FAIL_FOR_OPERATOR),
            ("InvalidJson : INVALID_TTL : Invalid value", Decision::FAIL),
            ("INVALID_TTL : Invalid value", Decision::FAIL),
            ("JSON_TYPE_ERROR", Decision::FAIL),
            ("A_NEW_CODE", again(FAULT, Scope::Message)),
        ] {
            assert_eq!(of_nack(NackCode::of(code), code, "", None).decision, expected, "{code}");
        }
    }

    #[test]
    fn neither_code_nor_detail_holds_the_token() {
        let of = |code, error, text| of_nack(code, error, text, Some("APA91b-secret"));
        let refusal = of(NackCode::BadRegistration, "BAD_REGISTRATION", "Invalid token on 'to' field: APA91b-secret!");
        assert_eq!(refusal.detail, "Invalid token on 'to' field: <token>!");
        assert_eq!(of(NackCode::Unknown, "NEW for APA91b-secret", "").code, "NEW for <token>");
        assert_eq!(of(NackCode::InvalidJson, "InvalidJson : x", "").code, "INVALID_JSON");
        assert_eq!(of(NackCode::Unknown, &"é".repeat(1000), "").code.chars().count(), CODE_MAX);
    }
}
