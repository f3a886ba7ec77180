//! What an answer of FCM means: the one place where HTTP statuses and FCM's codes become policy.
//!
//! The rows follow Google's list of error codes and its guide to scaling: 4xx are final, 5xx wait ten seconds at least,
//! 429 a minute. A token is only ever given up for a word that means the token and nothing else, so that a page from
//! something in between, or half an answer, never costs one. Nor does half an answer stop the project: for all that is
//! known, it spoke of one token.
//!
//! A 2xx is FCM's word for "taken", whatever became of the words after it: to send such a message again makes a duplicate
//! for certain, and to count it as sent loses one only where a server takes messages and drops them. What is not FCM
//! shows by saying something else: a page, or plain words.

use super::detail;
use super::document::{Document, is_json};
use super::fault::{Fault, FcmCode, Violation};
use super::retry_after;
use super::target::{Kind, Target};
use super::verdict::{
    Access, Ambiguous, Answer, Asked, Cause, Outcome, Refused, Share, Then, TokenAction, Tries, Unprocessed, Verdict,
    code,
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
    Verdict::Refused(match outcome {
        Outcome::Answered(answer) if (200..300).contains(&answer.status) => {
            return taken(answer, asked).map_or_else(Verdict::Refused, |name| Verdict::Sent { name });
        }
        Outcome::Answered(answer) => refused(answer, asked),
        Outcome::Unprocessed(why) => {
            let detail = match why {
                Unprocessed::NotWritten => "the connection ended before the message was written",
                Unprocessed::RefusedStream => "the connection had no room for the message",
                Unprocessed::BeyondGoaway => "the connection was ended before the message was looked at",
            };
            Refused::new(Then::Elsewhere, code::CONNECTION_DRAINING, detail)
        }
        Outcome::Ambiguous(why) => {
            let detail = match why {
                Ambiguous::Timeout => "no answer in time",
                Ambiguous::Reset => "the connection broke before the answer",
            };
            Refused::new(Then::Undecided, code::SERVICE_UNAVAILABLE, detail).possibly_arrived()
        }
    })
}

/// A 2xx: FCM's name for the message. Without one it is as good as cut short.
fn taken(answer: &Answer<'_>, asked: &Asked<'_>) -> Result<Option<String>, Refused> {
    let detail = || detail::of_body(answer.status, answer.content_type, answer.body, asked.target);
    let fields = match Document::read(answer.body, answer.content_type) {
        Document::Object(fields) => fields,
        Document::Broken if mentions_error(answer.body) => return Err(contradictory(detail())),
        Document::Empty | Document::Broken => return Ok(None),
        Document::Other | Document::Words => return Err(another_server(detail())),
    };
    match (fields.get("name"), fields.get("error")) {
        (Some(Value::String(name)), _) => Ok(Some(name.clone())),
        (_, None | Some(Value::Null)) => Ok(None),
        (_, Some(_)) => Err(match Fault::of(&fields) {
            Some(fault) => contradictory(detail::of_fault(&fault, asked.target).unwrap_or_else(detail)),
            None => another_server(detail()),
        }),
    }
}

/// Whether the beginning of a document speaks of an error.
fn mentions_error(body: &[u8]) -> bool {
    const FIELD: &[u8] = b"\"error\"";
    body.windows(FIELD.len()).any(|part| part == FIELD)
}

/// The status says that the message was taken, and the document that it was not. Neither is believed: not the document,
/// which could cost a token, and not the status, which could lose the message.
fn contradictory(detail: String) -> Refused {
    Refused::new(Then::Undecided, code::INTERNAL_SERVER_ERROR, detail).possibly_arrived()
}

/// A page with status 200, from something in between, took no message; but who knows what stands behind it.
fn another_server(detail: String) -> Refused {
    Refused::new(Then::Hold(Cause::NotFcm), code::AUTHENTICATION_FAILED, detail).possibly_arrived()
}

fn refused(answer: &Answer<'_>, asked: &Asked<'_>) -> Refused {
    let document = Document::read(answer.body, answer.content_type);
    // Whether it was meant to be JSON, and is not, or not all of it.
    let unread = match document {
        Document::Broken => true,
        Document::Empty | Document::Words => is_json(answer.content_type),
        Document::Object(_) | Document::Other => false,
    };
    let fault = if let Document::Object(fields) = &document { Fault::of(fields) } else { None };
    let detail = fault.as_ref().and_then(|fault| detail::of_fault(fault, asked.target));
    let detail =
        detail.unwrap_or_else(|| detail::of_body(answer.status, answer.content_type, answer.body, asked.target));
    let fault = fault.unwrap_or_default();
    let wait = answer.retry_after.and_then(|header| retry_after::parse(header, asked.now_unix_s));
    let refused = match (answer.status, code_at(answer.status, &fault)) {
        (503, _) | (400..500, Some(FcmCode::Unavailable)) => again(wait, code::SERVICE_UNAVAILABLE),
        (500.., _) | (400..500, Some(FcmCode::Internal)) => again(wait, code::INTERNAL_SERVER_ERROR),
        (429, _) | (400..500, Some(FcmCode::QuotaExceeded)) => quota(&fault, wait, asked.target),
        (400..500, Some(code)) => of_code(code, &fault, asked),
        (400 | 403 | 404, None) if unread => unknown(),
        (401, None) if unread && asked.access == Access::Refreshed => unknown(),
        // FCM says in JSON what a key may not do. A page or plain words come from a proxy.
        (403, None) if document == Document::Words => hold(Cause::NotFcm),
        (400..500, None) => without_code(answer.status, &fault, asked),
        // 1xx and 3xx: FCM has none, so this is another server.
        _ => hold(Cause::NotFcm),
    };
    let is_vague = answer.status == 400 && fault.code.is_none() && fault.violations.is_empty();
    // Of the text for a bad token it is known what else it is said of.
    let is_vague = is_vague && !fault.message.contains("registration token");
    let doubt = if is_vague && refused.then == Then::Never { " (perhaps the message is too big)" } else { "" };
    Refused { detail: detail + doubt, ..refused }
}

/// FCM's code, where it may say it. A 401 is about the access token whatever else it says, unless it is about another
/// service's key; and what is wrong with a message is said with a 400, so that with a 403 or 404 the status counts.
fn code_at(status: u16, fault: &Fault) -> Option<FcmCode> {
    fault.code.filter(|code| match status {
        401 => *code == FcmCode::ThirdPartyAuthError,
        400 => true,
        _ => *code != FcmCode::InvalidArgument,
    })
}

/// A 4xx in FCM's own words.
fn of_code(code: FcmCode, fault: &Fault, asked: &Asked<'_>) -> Refused {
    match code {
        FcmCode::Unregistered if asked.target.kind().is_device() => {
            new(Then::Never, code::DEVICE_UNREGISTERED).token(TokenAction::Remove)
        }
        FcmCode::Unregistered => new(Then::Never, code::DEVICE_UNREGISTERED),
        FcmCode::SenderIdMismatch => {
            new(Then::NeverTellOperator, code::SENDER_ID_MISMATCH).token(TokenAction::Quarantine)
        }
        FcmCode::ThirdPartyAuthError => new(Then::NeverTellOperator, code::INVALID_APNS_CREDENTIAL),
        FcmCode::InvalidArgument => wrong_argument(fault, asked),
        FcmCode::QuotaExceeded | FcmCode::Unavailable | FcmCode::Internal | FcmCode::Unknown => unknown(),
    }
}

/// A 4xx without a word of FCM: its front speaks, or another server.
fn without_code(status: u16, fault: &Fault, asked: &Asked<'_>) -> Refused {
    match status {
        400 => wrong_argument(fault, asked),
        401 if asked.access == Access::Cached => new(Then::Refresh, code::AUTHENTICATION_FAILED),
        401 => hold(Cause::Unauthenticated),
        403 if fault.reason.as_deref() == Some("SERVICE_DISABLED") => hold(Cause::ApiDisabled),
        403 => hold(Cause::PermissionDenied),
        404 => hold(Cause::UnknownProject),
        413 => new(Then::Never, code::TOO_BIG),
        _ => new(Then::Never, code::INVALID_JSON),
    }
}

/// The token is given up if it is what is wrong: the field that it was sent in is named, no other one is, and the request
/// was within Apple's rules. The words "not a valid FCM registration token" are no proof: FCM says them of messages to
/// living Apple devices whose `apns` block it refuses.
fn wrong_argument(fault: &Fault, asked: &Asked<'_>) -> Refused {
    let sent = asked.target.kind().field();
    let on_sent = |one: &Violation| one.field.strip_prefix("message.").unwrap_or(&one.field) == sent;
    let blames_token = !fault.violations.is_empty() && fault.violations.iter().all(on_sent);
    if blames_token && asked.is_within_rules && asked.target.kind().is_device() {
        new(Then::Never, code::BAD_REGISTRATION).token(TokenAction::Remove)
    } else {
        new(Then::Never, code::INVALID_JSON)
    }
}

/// Which quota it is, FCM says in words only; without them it is the one of the target.
fn quota(fault: &Fault, wait: Option<Duration>, target: &Target) -> Refused {
    let words = fault.quotas.iter().chain([&fault.message]).map(|text| text.to_ascii_lowercase()).collect::<String>();
    let (whose, code) = match target.kind() {
        _ if words.contains("device") => (Share::Recipient, code::DEVICE_MESSAGE_RATE_EXCEEDED),
        _ if words.contains("topic") => (Share::Recipient, code::TOPICS_MESSAGE_RATE_EXCEEDED),
        _ if words.contains("project") || words.contains("per minute") => (Share::Project, code::QUOTA_EXCEEDED),
        Kind::Topic | Kind::Condition => (Share::Recipient, code::TOPICS_MESSAGE_RATE_EXCEEDED),
        Kind::Token | Kind::Fid => (Share::Recipient, code::QUOTA_EXCEEDED),
    };
    new(later(wait, QUOTA_WAIT, whose), code)
}

/// A fault of FCM; some messages were seen on devices all the same.
fn again(wait: Option<Duration>, code: &'static str) -> Refused {
    new(later(wait, FAULT_WAIT, Share::Recipient), code).possibly_arrived()
}

fn later(wait: Option<Duration>, first: Duration, whose: Share) -> Then {
    match wait {
        Some(wait) => Then::After { wait, whose },
        None => Then::Backoff { first, whose, tries: Tries::UntilExpiry },
    }
}

/// Nobody has a word for it, or nobody could read it.
fn unknown() -> Refused {
    let then = Then::Backoff { first: FAULT_WAIT, whose: Share::Recipient, tries: Tries::Few };
    new(then, code::INTERNAL_SERVER_ERROR)
}

fn hold(cause: Cause) -> Refused {
    new(Then::Hold(cause), code::AUTHENTICATION_FAILED)
}

/// The detail is still to come.
fn new(then: Then, code: &'static str) -> Refused {
    Refused::new(then, code, String::new())
}

#[cfg(test)]
mod tests;
