//! What a refusal of CCS means for the message: the one place where nack codes become decisions.

use super::nack::NackCode;
use super::payload::Nack;
use crate::chat::refusal::{Decision, Refusal, Scope, Until, Wait};
use std::time::Duration;

/// First delay after a fault of CCS: its documents ask for one second, doubling.
const FAULT: Duration = Duration::from_secs(1);
/// First delay after a rate code: at once would make it worse.
const RATE: Duration = Duration::from_secs(60);
/// Longest code that is passed on, in characters; the sentences of 2013 are longer and are in the detail as well.
const CODE_MAX: usize = 64;

/// What follows from a nack, in CCS's words. [`NackCode::ConnectionDraining`] and [`NackCode::BadAck`] never get here from a
/// session; should they, the message is as good as with any fault. A nack without a code has that of a fault.
pub fn of_nack(nack: &Nack) -> Refusal {
    let code = match nack.code() {
        NackCode::Unknown if nack.error.trim().is_empty() => NackCode::InternalServerError.to_string(),
        NackCode::Unknown => nack.error.clone(),
        known => known.to_string(),
    };
    Refusal::new(decision(nack.code()), code, nack.description())
}

/// What follows from a stanza error, which is XMPP's word for what CCS has codes for: the stanza could not be read, or, if that is
/// temporary, not now. The condition goes into the detail.
pub fn of_rejection(temporary: bool, condition: &str, text: &str) -> Refusal {
    let (decision, code) = match temporary {
        true => (again(FAULT, Scope::Message), NackCode::ServiceUnavailable),
        false => (Decision::FAIL, NackCode::InvalidJson),
    };
    let detail = if text.is_empty() { condition.to_owned() } else { format!("{condition}: {text}") };
    Refusal::new(decision, code.to_string(), detail)
}

/// CCS likes to repeat the token: the same without it, and with a code that is not too long.
pub fn without_token(mut refusal: Refusal, token: Option<&str>) -> Refusal {
    if let Some(token) = token {
        refusal.code = refusal.code.replace(token, "<token>");
        refusal.detail = refusal.detail.replace(token, "<token>");
    }
    refusal.code = refusal.code.chars().take(CODE_MAX).collect();
    refusal
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
            ("", again(FAULT, Scope::Message)),
        ] {
            assert_eq!(of_nack(&nack(code, "")).decision, expected, "{code}");
        }
    }

    #[test]
    fn a_nack_without_a_code_is_told_as_a_fault_of_ccs() {
        for error in ["", " \n"] {
            assert_eq!(of_nack(&nack(error, "why")).code, "INTERNAL_SERVER_ERROR");
        }
    }

    #[test]
    fn a_stanza_error_has_the_code_of_a_nack_and_its_condition_in_the_detail() {
        let told = |temporary, text| {
            let Refusal { decision, code, detail, .. } = of_rejection(temporary, "bad-request", text);
            (decision, code, detail)
        };
        let expected = (Decision::FAIL, "INVALID_JSON".to_owned(), "bad-request: Missing".to_owned());
        assert_eq!(told(false, "Missing"), expected);
        let later = (again(FAULT, Scope::Message), "SERVICE_UNAVAILABLE".to_owned(), "bad-request".to_owned());
        assert_eq!(told(true, ""), later);
    }

    #[test]
    fn neither_code_nor_detail_holds_the_token() {
        let of = |error: &str, text| without_token(of_nack(&nack(error, text)), Some("APA91b-secret"));
        let refusal = of("BAD_REGISTRATION", "Invalid token on 'to' field: APA91b-secret!");
        assert_eq!(refusal.detail, "Invalid token on 'to' field: <token>!");
        assert_eq!(of("NEW for APA91b-secret", "").code, "NEW for <token>");
        assert_eq!(of("InvalidJson : x", "").code, "INVALID_JSON");
        assert_eq!(of(&"é".repeat(1000), "").code.chars().count(), CODE_MAX);
        assert_eq!(of(&format!("{} APA91b-secret", "x".repeat(CODE_MAX - 5)), "").code.find("APA"), None);
    }

    fn nack(error: &str, description: &str) -> Nack {
        Nack {
            message_id: Some("m".to_owned()),
            from: None,
            error: error.to_owned(),
            error_description: Some(description.to_owned()),
            registration_id: None,
        }
    }
}
