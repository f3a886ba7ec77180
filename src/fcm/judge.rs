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
use super::verdict::{Access, Answer, Asked, Cause, OnAmbiguous, Outcome, Replay, Verdict, code};
use crate::chat::refusal::{Arrival, Decision, Refusal, Scope, Until, Wait};
use serde_json::Value;
use std::time::Duration;

/// First wait after a fault of FCM.
pub const FAULT_WAIT: Duration = Duration::from_secs(10);
/// First wait after a quota was used up and FCM does not say for how long.
pub const QUOTA_WAIT: Duration = Duration::from_secs(60);
/// How long a message is tried again after refusals that are not about it: Google's own advice.
pub const RETRY_FOR: Duration = Duration::from_secs(3600);
/// How often something is tried that nobody has a word for.
pub const FEW_TRIES: u32 = 3;

/// For humans: why there is no answer, where the connection or the stream ended first.
pub const BROKEN: &str = "the connection broke before the answer";

/// What follows from `outcome`.
pub fn judge(outcome: &Outcome<'_>, asked: &Asked<'_>) -> Verdict {
    match outcome {
        Outcome::Answered(answer) if (200..300).contains(&answer.status) => taken(answer, asked),
        Outcome::Answered(answer) => refused(answer, asked),
        Outcome::Unprocessed(why) => {
            Verdict::Replay(Replay::Elsewhere, again(None, code::CONNECTION_DRAINING)).with(*why)
        }
        Outcome::Ambiguous(why) => Verdict::Refused(undecided(asked.on_ambiguous)).with(*why),
    }
}

/// What follows where a connection ended before the answer, or the bridge did.
pub fn unanswered(on_ambiguous: OnAmbiguous) -> Refusal {
    Refusal { detail: BROKEN.to_owned(), ..undecided(on_ambiguous) }
}

/// A 2xx: FCM's name for the message. Without one it is as good as cut short.
fn taken(answer: &Answer<'_>, asked: &Asked<'_>) -> Verdict {
    let detail = || detail::of_body(answer.status, answer.content_type, answer.body, asked.target);
    // The status says that the message was taken, and the document that it was not. Neither is believed: not the document,
    // which could cost a token, and not the status, which could lose the message.
    let contradictory = |detail: String| Verdict::Refused(undecided(asked.on_ambiguous)).with(detail);
    // A page with status 200, from something in between, took no message; but who knows what stands behind it.
    let another_server = || Verdict::Fault(Cause::NotFcm, undecided(asked.on_ambiguous)).with(detail());
    let fields = match Document::read(answer.body, answer.content_type) {
        Document::Object(fields) => fields,
        Document::Broken if mentions_error(answer.body) => return contradictory(detail()),
        Document::Empty | Document::Broken => return Verdict::Sent { name: None },
        Document::Other | Document::Words => return another_server(),
    };
    match (fields.get("name"), fields.get("error")) {
        (Some(Value::String(name)), _) => Verdict::Sent { name: Some(name.clone()) },
        (_, None | Some(Value::Null)) => Verdict::Sent { name: None },
        (_, Some(_)) => match Fault::of(&fields) {
            Some(fault) => contradictory(detail::of_fault(&fault, asked.target).unwrap_or_else(detail)),
            None => another_server(),
        },
    }
}

/// Whether the beginning of a document speaks of an error.
fn mentions_error(body: &[u8]) -> bool {
    const FIELD: &[u8] = b"\"error\"";
    body.windows(FIELD.len()).any(|part| part == FIELD)
}

fn refused(answer: &Answer<'_>, asked: &Asked<'_>) -> Verdict {
    let document = Document::read(answer.body, answer.content_type);
    // Whether it was meant to be JSON, and is not, or not all of it.
    let unread = match document {
        Document::Broken => true,
        Document::Empty | Document::Words => is_json(answer.content_type),
        Document::Object(_) | Document::Other => false,
    };
    let fault = if let Document::Object(fields) = &document { Fault::of(fields) } else { None };
    let is_in_form = fault.is_some();
    let detail = fault.as_ref().and_then(|fault| detail::of_fault(fault, asked.target));
    let detail =
        detail.unwrap_or_else(|| detail::of_body(answer.status, answer.content_type, answer.body, asked.target));
    let fault = fault.unwrap_or_default();
    let wait = answer.retry_after.and_then(|header| retry_after::parse(header, answer.date, asked.now_unix_s));
    let is_vague = answer.status == 400 && fault.code.is_none() && fault.violations.is_empty();
    // Of the text for a bad token it is known what else it is said of.
    let is_vague = is_vague && !fault.message.contains("registration token");
    let verdict = match (answer.status, code_at(answer.status, &fault)) {
        (500.., Some(FcmCode::Unknown)) => Verdict::Refused(unknown().maybe_arrived()),
        (503, _) | (400..500, Some(FcmCode::Unavailable)) => fault_of_fcm(wait, code::SERVICE_UNAVAILABLE),
        (500.., _) | (400..500, Some(FcmCode::Internal)) => fault_of_fcm(wait, code::INTERNAL_SERVER_ERROR),
        (429, _) | (400..500, Some(FcmCode::QuotaExceeded)) => Verdict::Refused(quota(&fault, wait, asked.target)),
        (400..500, Some(code)) => Verdict::Refused(of_code(code, &fault, asked)),
        (400 | 403 | 404, None) if unread => Verdict::Refused(unknown()),
        (401, None) if unread && asked.access == Access::Refreshed => Verdict::Refused(unknown()),
        // FCM says in its form what is wrong with a message, or nothing at all. Anything else comes from a proxy, which may say
        // it of all messages.
        (400, None) if !is_in_form && document != Document::Empty => of_project(Cause::NotFcm),
        // FCM says in JSON what a key may not do. A page or plain words come from a proxy.
        (403, None) if document == Document::Words => of_project(Cause::NotFcm),
        (400 | 401 | 403 | 404 | 413, None) => without_code(answer.status, &fault, asked),
        // FCM has no other, and no message is to fail for what a proxy or another server says of all of them.
        (400..500, None) if !is_in_form => of_project(Cause::NotFcm),
        (400..500, None) => without_code(answer.status, &fault, asked),
        // 1xx and 3xx: FCM has none, so this is another server.
        _ => of_project(Cause::NotFcm),
    };
    match verdict {
        Verdict::Refused(refusal) if is_vague && refusal.decision == Decision::FAIL => {
            Verdict::Refused(refusal).with(detail + " (perhaps the message is too big)")
        }
        verdict => verdict.with(detail),
    }
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
fn of_code(code: FcmCode, fault: &Fault, asked: &Asked<'_>) -> Refusal {
    match code {
        FcmCode::Unregistered if asked.target.kind().is_device() => {
            refusal(Decision::REMOVE_TOKEN, code::DEVICE_UNREGISTERED)
        }
        FcmCode::Unregistered => of_message(code::DEVICE_UNREGISTERED),
        FcmCode::SenderIdMismatch => refusal(Decision::QUARANTINE_TOKEN, code::SENDER_ID_MISMATCH),
        FcmCode::ThirdPartyAuthError => refusal(Decision::FAIL_FOR_OPERATOR, code::INVALID_APNS_CREDENTIAL),
        FcmCode::InvalidArgument => wrong_argument(fault, asked),
        FcmCode::QuotaExceeded | FcmCode::Unavailable | FcmCode::Internal | FcmCode::Unknown => unknown(),
    }
}

/// A 4xx without a word of FCM: its front speaks, or another server.
fn without_code(status: u16, fault: &Fault, asked: &Asked<'_>) -> Verdict {
    match status {
        400 => Verdict::Refused(wrong_argument(fault, asked)),
        401 if asked.access == Access::Cached => {
            Verdict::Replay(Replay::NewToken, again(None, code::INTERNAL_SERVER_ERROR))
        }
        401 => of_project(Cause::Unauthenticated),
        403 if fault.reason.as_deref() == Some("SERVICE_DISABLED") => of_project(Cause::ApiDisabled),
        403 => of_project(Cause::PermissionDenied),
        404 => of_project(Cause::UnknownProject),
        413 => Verdict::Refused(of_message(code::TOO_BIG)),
        _ => Verdict::Refused(of_message(code::INVALID_JSON)),
    }
}

/// The token is given up if it is what is wrong: the field that it was sent in is named, no other one is, and the request
/// was within Apple's rules. The words "not a valid FCM registration token" are no proof: FCM says them of messages to
/// living Apple devices whose `apns` block it refuses.
fn wrong_argument(fault: &Fault, asked: &Asked<'_>) -> Refusal {
    let sent = asked.target.kind().field();
    let on_sent = |one: &Violation| one.field.strip_prefix("message.").unwrap_or(&one.field) == sent;
    let blames_token = !fault.violations.is_empty() && fault.violations.iter().all(on_sent);
    if blames_token && asked.is_within_rules && asked.target.kind().is_device() {
        refusal(Decision::REMOVE_TOKEN, code::BAD_REGISTRATION)
    } else {
        of_message(code::INVALID_JSON)
    }
}

/// Which quota it is, FCM says in words, or it names the project as the subject; without either it is the one of the
/// target.
fn quota(fault: &Fault, wait: Option<Duration>, target: &Target) -> Refusal {
    let words = fault.quotas.iter().chain([&fault.message]).map(|text| text.to_ascii_lowercase()).collect::<String>();
    let is_of_project = fault.is_of_project || words.contains("project") || words.contains("per minute");
    let (scope, code) = match target.kind() {
        _ if words.contains("device") => (Scope::Recipient, code::DEVICE_MESSAGE_RATE_EXCEEDED),
        _ if words.contains("topic") => (Scope::Recipient, code::TOPICS_MESSAGE_RATE_EXCEEDED),
        _ if is_of_project => (Scope::Service, code::QUOTA_EXCEEDED),
        Kind::Topic | Kind::Condition => (Scope::Recipient, code::TOPICS_MESSAGE_RATE_EXCEEDED),
        Kind::Token | Kind::Fid => (Scope::Recipient, code::QUOTA_EXCEEDED),
    };
    let wait = wait.map_or(Wait::Backoff(QUOTA_WAIT), Wait::AtLeast);
    refusal(Decision::Retry { wait, until: Until::Waited(RETRY_FOR), scope }, code)
}

/// A fault of FCM; some messages were seen on devices all the same.
fn fault_of_fcm(wait: Option<Duration>, code: &'static str) -> Verdict {
    Verdict::Refused(again(wait, code).maybe_arrived())
}

/// Nothing settles whether the message was taken: the one place where it is decided what follows.
fn undecided(on_ambiguous: OnAmbiguous) -> Refusal {
    let refusal = match on_ambiguous {
        OnAmbiguous::Retry => again(None, code::AMBIGUOUS),
        OnAmbiguous::Report => of_message(code::AMBIGUOUS),
    };
    refusal.maybe_arrived()
}

/// A fault of the project. A message that meets it alone waits by itself.
fn of_project(cause: Cause) -> Verdict {
    Verdict::Fault(cause, again(None, code::INTERNAL_SERVER_ERROR))
}

/// Nobody has a word for it, or nobody could read it.
fn unknown() -> Refusal {
    let wait = Wait::Backoff(FAULT_WAIT);
    let decision = Decision::Retry { wait, until: Until::Tries(FEW_TRIES), scope: Scope::Message };
    refusal(decision, code::INTERNAL_SERVER_ERROR)
}

fn again(wait: Option<Duration>, code: &'static str) -> Refusal {
    let wait = wait.map_or(Wait::Backoff(FAULT_WAIT), Wait::AtLeast);
    refusal(Decision::Retry { wait, until: Until::Waited(RETRY_FOR), scope: Scope::Message }, code)
}

fn of_message(code: &'static str) -> Refusal {
    refusal(Decision::FAIL, code)
}

/// The detail is still to come.
fn refusal(decision: Decision, code: &'static str) -> Refusal {
    Refusal::new(decision, code, "")
}

impl Verdict {
    fn with(mut self, words: impl Into<String>) -> Self {
        if let Self::Replay(_, refusal) | Self::Fault(_, refusal) | Self::Refused(refusal) = &mut self {
            refusal.detail = words.into();
        }
        self
    }

    /// Whether the project and its credentials are in order, as far as an answer can show it.
    pub(super) fn shows_all_well(&self) -> bool {
        match self {
            Self::Sent { .. } => true,
            Self::Refused(Refusal { decision, arrival, .. }) => {
                matches!(decision, Decision::Fail { .. }) && *arrival == Arrival::No
            }
            Self::Replay(..) | Self::Fault(..) => false,
        }
    }
}

#[cfg(test)]
mod tests;
