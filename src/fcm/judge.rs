//! What an answer of FCM means: the one place where HTTP statuses and FCM's codes become policy.
//!
//! The rows follow Google's list of error codes and its guide to scaling: 4xx are final, 5xx wait ten seconds at least,
//! 429 a minute. A token is only ever given up for a word that means the token and nothing else, so that a page from
//! something in between, or half an answer, never costs one.

use super::detail;
use super::fault::{Fault, FcmCode};
use super::limits::ANSWER_MAX;
use super::retry_after;
use super::target::{Kind, Target};
use super::verdict::{
    Access, Ambiguous, Answer, Asked, Cause, Code, Outcome, Refused, Share, Then, TokenAction, Tries, Unprocessed,
    Verdict,
};
use serde_json::Value;
use std::time::Duration;

/// First wait after a fault of FCM.
pub const FAULT_WAIT: Duration = Duration::from_secs(10);
/// First wait after a quota was used up and FCM does not say for how long.
pub const QUOTA_WAIT: Duration = Duration::from_secs(60);

/// What follows from `outcome`.
#[must_use]
pub fn judge(outcome: &Outcome<'_>, asked: &Asked<'_>) -> Verdict {
    match outcome {
        Outcome::Answered(answer) if (200..300).contains(&answer.status) => taken(answer, asked),
        Outcome::Answered(answer) => Verdict::Refused(refused(answer, asked)),
        Outcome::Unprocessed(why) => {
            let detail = match why {
                Unprocessed::NotWritten => "the connection ended before the message was written",
                Unprocessed::RefusedStream => "the connection had no room for the message",
                Unprocessed::BeyondGoaway => "the connection was ended before the message was looked at",
            };
            Verdict::Refused(Refused::new(Then::Elsewhere, Code::ConnectionDraining, detail))
        }
        Outcome::Ambiguous(why) => {
            let detail = match why {
                Ambiguous::Timeout => "no answer in time",
                Ambiguous::Reset => "the connection broke before the answer",
            };
            Verdict::Refused(Refused::new(Then::Undecided, Code::ServiceUnavailable, detail).possibly_arrived())
        }
    }
}

/// A 2xx. Only FCM's own word counts: a page with status 200, from something in between, took no message.
fn taken(answer: &Answer<'_>, asked: &Asked<'_>) -> Verdict {
    let body = &answer.body[..answer.body.len().min(ANSWER_MAX)];
    let document: Option<Value> = serde_json::from_slice(body).ok();
    let name = document.as_ref().and_then(|document| document.get("name")).and_then(Value::as_str);
    let kind = answer.content_type.unwrap_or_default().trim_start().to_ascii_lowercase();
    // Without a name it is as good as cut short; but a whole document about an error is not FCM's word for "taken".
    let says_error = document.as_ref().is_some_and(|document| document.get("error").is_some());
    if name.is_some() || (kind.starts_with("application/json") && !says_error) {
        return Verdict::Sent { name: name.map(str::to_owned) };
    }
    let detail = detail::of_body(answer.status, answer.content_type, body, asked.target);
    Verdict::Refused(Refused::new(Then::Hold(Cause::NotFcm), Code::AuthenticationFailed, detail).possibly_arrived())
}

fn refused(answer: &Answer<'_>, asked: &Asked<'_>) -> Refused {
    let fault = Fault::parse(answer.body);
    let detail = match &fault {
        Some(fault) => detail::of_fault(fault, asked.target),
        None => detail::of_body(answer.status, answer.content_type, answer.body, asked.target),
    };
    let fault = fault.unwrap_or_default();
    let wait = answer.retry_after.and_then(|header| retry_after::parse(header, asked.now_unix_s));
    match (answer.status, fault.code) {
        (503, _) | (400..500, Some(FcmCode::Unavailable)) => unavailable(wait, detail),
        (500.., _) | (400..500, Some(FcmCode::Internal)) => {
            again(wait, FAULT_WAIT, Share::Recipient, Code::InternalServerError, detail).possibly_arrived()
        }
        (429, _) | (400..500, Some(FcmCode::QuotaExceeded)) => quota(&fault, wait, asked.target.kind(), detail),
        (400..500, Some(code)) => of_code(code, &fault, asked, detail),
        (400..500, None) => without_code(answer.status, &fault, asked, detail),
        // 1xx and 3xx: FCM has none, so this is another server.
        _ => Refused::new(Then::Hold(Cause::NotFcm), Code::AuthenticationFailed, detail),
    }
}

/// A 4xx in FCM's own words.
fn of_code(code: FcmCode, fault: &Fault, asked: &Asked<'_>, detail: String) -> Refused {
    match code {
        FcmCode::Unregistered if asked.target.kind().is_device() => {
            Refused::new(Then::Never, Code::DeviceUnregistered, detail).token(TokenAction::Remove)
        }
        FcmCode::Unregistered => Refused::new(Then::Never, Code::DeviceUnregistered, detail),
        FcmCode::SenderIdMismatch => {
            Refused::new(Then::NeverTellOperator, Code::SenderIdMismatch, detail).token(TokenAction::Quarantine)
        }
        FcmCode::ThirdPartyAuthError => Refused::new(Then::NeverTellOperator, Code::InvalidApnsCredential, detail),
        FcmCode::InvalidArgument if blames_token(fault, asked.target) => {
            Refused::new(Then::Never, Code::BadRegistration, detail).token(TokenAction::Remove)
        }
        FcmCode::InvalidArgument => Refused::new(Then::Never, Code::InvalidJson, detail),
        FcmCode::QuotaExceeded
        | FcmCode::Unavailable
        | FcmCode::Internal
        | FcmCode::UnspecifiedError
        | FcmCode::Unknown => {
            let then = Then::Backoff { first: FAULT_WAIT, whose: Share::Recipient, tries: Tries::Few };
            Refused::new(then, Code::InternalServerError, detail)
        }
    }
}

/// A 4xx without a word of FCM: its front speaks, or another server.
fn without_code(status: u16, fault: &Fault, asked: &Asked<'_>, detail: String) -> Refused {
    let hold = |cause| Refused::new(Then::Hold(cause), Code::AuthenticationFailed, String::new());
    let refused = match status {
        400 if blames_token(fault, asked.target) => {
            Refused::new(Then::Never, Code::BadRegistration, String::new()).token(TokenAction::Remove)
        }
        400 if fault.violations.is_empty() => {
            let detail = format!("{detail} (perhaps the message is too big)");
            return Refused::new(
                Then::Never,
                Code::InvalidJson,
                detail.chars().take(detail::DETAIL_MAX).collect::<String>(),
            );
        }
        401 if asked.access == Access::Cached => Refused::new(Then::Refresh, Code::AuthenticationFailed, String::new()),
        401 => hold(Cause::Unauthenticated),
        403 if fault.reason.as_deref() == Some("SERVICE_DISABLED") => hold(Cause::ApiDisabled),
        403 => hold(Cause::PermissionDenied),
        404 => hold(Cause::UnknownProject),
        _ => Refused::new(Then::Never, Code::InvalidJson, String::new()),
    };
    Refused { detail, ..refused }
}

/// Whether the token is what is wrong, and nothing else.
fn blames_token(fault: &Fault, target: &Target) -> bool {
    const WORDS: &str = "The registration token is not a valid FCM registration token";
    let on_token = |field: &str| matches!(field, "message.token" | "message.fid");
    let named = !fault.violations.is_empty() && fault.violations.iter().all(|one| on_token(&one.field));
    let said = fault.violations.is_empty() && fault.message.contains(WORDS);
    target.kind().is_device() && (named || said)
}

fn unavailable(wait: Option<Duration>, detail: String) -> Refused {
    again(wait, FAULT_WAIT, Share::Recipient, Code::ServiceUnavailable, detail).possibly_arrived()
}

/// Which quota it is, FCM says in words only; without them it is the one of the target.
fn quota(fault: &Fault, wait: Option<Duration>, kind: Kind, detail: String) -> Refused {
    let words = fault.quotas.iter().chain([&fault.message]).map(|text| text.to_ascii_lowercase()).collect::<String>();
    let (whose, code) = match kind {
        _ if words.contains("device") => (Share::Recipient, Code::DeviceMessageRateExceeded),
        _ if words.contains("topic") => (Share::Recipient, Code::TopicsMessageRateExceeded),
        _ if words.contains("project") || words.contains("per minute") => (Share::Project, Code::QuotaExceeded),
        Kind::Topic | Kind::Condition => (Share::Recipient, Code::TopicsMessageRateExceeded),
        Kind::Token | Kind::Fid => (Share::Recipient, Code::QuotaExceeded),
    };
    again(wait, QUOTA_WAIT, whose, code, detail)
}

fn again(wait: Option<Duration>, first: Duration, whose: Share, code: Code, detail: String) -> Refused {
    let then = match wait {
        Some(wait) => Then::After { wait, whose },
        None => Then::Backoff { first, whose, tries: Tries::UntilExpiry },
    };
    Refused::new(then, code, detail)
}

#[cfg(test)]
mod tests;
