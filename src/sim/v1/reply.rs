//! The answers, as Google writes them: two blanks of indentation, a line end at the end, `@type` first. Written here from
//! what was observed and not with the client's codec, so that the two can disagree.

use super::fault::{RETRY_AFTER_MAX_S, RetryAfter, Shape};
use super::fault_kind::FaultKind;
use serde_json::{Map, Value, json};
use std::time::{Duration, UNIX_EPOCH};

const JSON: &str = "application/json; charset=UTF-8";
const HTML: &str = "text/html; charset=UTF-8";

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// The header of that name.
    pub(super) retry_after: Option<String>,
    pub(super) body: String,
}

impl Reply {
    /// 200: the message has this name now.
    pub(super) fn sent(project: &str, id: &str) -> Self {
        Self::document(200, &json!({"name": format!("projects/{project}/messages/{id}")}))
    }

    /// A field that is unknown or of another type: Google's front refuses it before FCM sees it.
    pub(super) fn unreadable(field: Option<&str>, description: &str) -> Self {
        let violation = match field {
            Some(field) => json!({"field": field, "description": description}),
            None => json!({"description": description}),
        };
        fault(400, "INVALID_ARGUMENT", description, [bad_request(violation)])
    }

    /// A field whose value FCM does not take.
    pub(super) fn invalid(field: &str, description: &str) -> Self {
        let violation = json!({"field": field, "description": description});
        fault(400, "INVALID_ARGUMENT", description, [fcm("INVALID_ARGUMENT"), bad_request(violation)])
    }

    /// FCM's word, and no field.
    pub(super) fn no_recipient() -> Self {
        fault(400, "INVALID_ARGUMENT", "Recipient of the message is not set.", [fcm("INVALID_ARGUMENT")])
    }

    /// There is no path like that.
    pub(super) fn no_path() -> Self {
        Self::robot(404, "Not Found", "The requested URL was not found on this server.")
    }

    /// The access token is missing, unknown or too old.
    pub(super) fn unauthorized(shape: Shape, reason: &str) -> Self {
        if shape == Shape::Page {
            return Self::page(401, PAGE_401.to_owned());
        }
        let info = info(reason, "googleapis.com", json!({"service": "fcm.googleapis.com"}));
        fault(401, "UNAUTHENTICATED", UNAUTHENTICATED, [info])
    }

    /// The access token is good for something else.
    pub(super) fn scope_insufficient() -> Self {
        let words = "Request had insufficient authentication scopes.";
        let info = info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "googleapis.com", json!({"service": "fcm.googleapis.com"}));
        fault(403, "PERMISSION_DENIED", words, [info])
    }

    /// The answer to a request with this fault; `None` if it has no answer of its own. `field` is that of the target.
    pub(super) fn of(kind: FaultKind, field: &str) -> Option<Self> {
        Some(match kind {
            FaultKind::InvalidRegistration => {
                let words = "The registration token is not a valid FCM registration token";
                fault(400, "INVALID_ARGUMENT", words, [fcm("INVALID_ARGUMENT")])
            }
            FaultKind::InvalidTokenField => {
                let violation = json!({"field": field, "description": "Invalid registration token"});
                fault(400, "INVALID_ARGUMENT", INVALID, [fcm("INVALID_ARGUMENT"), bad_request(violation)])
            }
            FaultKind::InvalidField => Self::invalid("message.android.ttl", "Invalid time to live"),
            FaultKind::InvalidArgument => fault(400, "INVALID_ARGUMENT", INVALID, [fcm("INVALID_ARGUMENT")]),
            FaultKind::NoDetails => fault(400, "INVALID_ARGUMENT", INVALID, []),
            FaultKind::Unauthenticated => Self::unauthorized(Shape::Json, "ACCESS_TOKEN_EXPIRED"),
            FaultKind::UnauthenticatedPage => Self::unauthorized(Shape::Page, ""),
            FaultKind::TooLarge => {
                Self::robot(413, "Request Entity Too Large", "Your client issued a request that was too large.")
            }
            FaultKind::NotFoundPage => Self::no_path(),
            FaultKind::ThirdPartyAuthError
            | FaultKind::SenderIdMismatch
            | FaultKind::PermissionDenied
            | FaultKind::ApiDisabled
            | FaultKind::Unregistered
            | FaultKind::NoProject
            | FaultKind::UnspecifiedError
            | FaultKind::NewCode => refusal(kind),
            FaultKind::ProjectQuota | FaultKind::DeviceQuota | FaultKind::TopicQuota | FaultKind::QuotaExceeded => {
                quota(kind)
            }
            FaultKind::Internal | FaultKind::AcceptInternal => {
                fault(500, "INTERNAL", "Internal error encountered.", [fcm("INTERNAL")])
            }
            FaultKind::BadGateway | FaultKind::AcceptBadGateway => Self::robot(502, "Server Error", TRY_AGAIN),
            FaultKind::Unavailable | FaultKind::AcceptUnavailable => {
                fault(503, "UNAVAILABLE", "The service is currently unavailable.", [fcm("UNAVAILABLE")])
            }
            FaultKind::GatewayTimeout => Self::robot(504, "Gateway Timeout", TRY_AGAIN),
            FaultKind::Accept
            | FaultKind::RefuseStream
            | FaultKind::Goaway
            | FaultKind::ResetStream
            | FaultKind::ResetConnection
            | FaultKind::Silence
            | FaultKind::AcceptResetStream
            | FaultKind::AcceptResetConnection
            | FaultKind::AcceptSilence
            | FaultKind::AcceptCut => return None,
        })
    }

    /// With a word about trying again, at `now` in Unix milliseconds.
    pub(super) fn retry(mut self, after: RetryAfter, now: u64) -> Self {
        self.retry_after = match after {
            RetryAfter::Absent => None,
            RetryAfter::Seconds(seconds) => Some(seconds.min(RETRY_AFTER_MAX_S).to_string()),
            RetryAfter::Date(seconds) => {
                let then = Duration::from_millis(now) + Duration::from_secs(seconds.min(RETRY_AFTER_MAX_S));
                UNIX_EPOCH.checked_add(then).map(httpdate::fmt_http_date)
            }
        };
        self
    }

    fn document(status: u16, body: &Value) -> Self {
        Self { status, content_type: JSON, retry_after: None, body: format!("{body:#}\n") }
    }

    fn page(status: u16, body: String) -> Self {
        Self { status, content_type: HTML, retry_after: None, body }
    }

    /// The page with the broken robot.
    fn robot(status: u16, title: &str, words: &str) -> Self {
        let body = format!(
            "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  \
             <meta name=viewport content=\"initial-scale=1, minimum-scale=1, width=device-width\">\n  \
             <title>Error {status} ({title})!!1</title>\n  \
             <p><b>{status}.</b> <ins>That\u{2019}s an error.</ins>\n  \
             <p>{words}  <ins>That\u{2019}s all we know.</ins>\n"
        );
        Self::page(status, body)
    }
}

const INVALID: &str = "Request contains an invalid argument.";
const UNAUTHENTICATED: &str = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or \
                               other valid authentication credential. See \
                               https://developers.google.com/identity/sign-in/web/devconsole-project.";
const PAGE_401: &str = "<HTML>\n<HEAD>\n<TITLE>Unauthorized</TITLE>\n</HEAD>\n<BODY BGCOLOR=\"#FFFFFF\" \
                        TEXT=\"#000000\">\n<H1>Unauthorized</H1>\n<H2>Error 401</H2>\n</BODY>\n</HTML>\n";
const TRY_AGAIN: &str = "The server encountered a temporary error and could not complete your request.<p>Please try again \
                         in 30 seconds.";

/// The refusals that are about rights and existence.
fn refusal(kind: FaultKind) -> Reply {
    let not_found = "Requested entity was not found.";
    match kind {
        FaultKind::ThirdPartyAuthError => {
            let apns = json!({
                "@type": "type.googleapis.com/google.firebase.fcm.v1.ApnsError",
                "statusCode": 403,
                "reason": "InvalidProviderToken",
            });
            let words = "Auth error from APNS or Web Push Service";
            fault(401, "UNAUTHENTICATED", words, [fcm("THIRD_PARTY_AUTH_ERROR"), apns])
        }
        FaultKind::SenderIdMismatch => {
            fault(403, "PERMISSION_DENIED", "SenderId mismatch", [fcm("SENDER_ID_MISMATCH")])
        }
        FaultKind::PermissionDenied => {
            let words = "Permission 'cloudmessaging.messages.create' denied on resource \
                         '//cloudresourcemanager.googleapis.com/projects/demo' (or it may not exist).";
            let permission = json!({"permission": "cloudmessaging.messages.create"});
            let info = info("IAM_PERMISSION_DENIED", "cloudresourcemanager.googleapis.com", permission);
            fault(403, "PERMISSION_DENIED", words, [info])
        }
        FaultKind::ApiDisabled => {
            let words = "Firebase Cloud Messaging API has not been used in project 12345 before or it is disabled. Enable it \
                 and retry.";
            let consumer = json!({"consumer": "projects/12345", "service": "fcm.googleapis.com"});
            fault(403, "PERMISSION_DENIED", words, [info("SERVICE_DISABLED", "googleapis.com", consumer)])
        }
        FaultKind::Unregistered => fault(404, "NOT_FOUND", not_found, [fcm("UNREGISTERED")]),
        FaultKind::UnspecifiedError => fault(400, "UNKNOWN", "Unknown error.", [fcm("UNSPECIFIED_ERROR")]),
        FaultKind::NewCode => fault(403, "PERMISSION_DENIED", "Not now.", [fcm("TOO_MUCH_MOONLIGHT")]),
        _ => fault(404, "NOT_FOUND", not_found, []),
    }
}

/// The refusals that are about too much. FCM says in words only of what.
fn quota(kind: FaultKind) -> Reply {
    let exhausted = "Resource has been exhausted (e.g. check quota).";
    let failure = |subject: &str, description: &str| {
        json!({
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"subject": subject, "description": description}],
        })
    };
    let exceeded = fcm("QUOTA_EXCEEDED");
    match kind {
        FaultKind::ProjectQuota => {
            let words = "Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute' of \
                         service 'fcm.googleapis.com' for consumer 'project_number:12345'.";
            let failure = failure("project:12345", "Send requests per minute");
            fault(429, "RESOURCE_EXHAUSTED", words, [exceeded, failure])
        }
        FaultKind::DeviceQuota => {
            let failure = failure("device", "Device message rate exceeded");
            fault(429, "RESOURCE_EXHAUSTED", exhausted, [exceeded, failure])
        }
        FaultKind::TopicQuota => {
            let failure = failure("topic", "Topic message rate exceeded");
            fault(429, "RESOURCE_EXHAUSTED", "Topics message rate exceeded", [exceeded, failure])
        }
        _ => fault(429, "RESOURCE_EXHAUSTED", exhausted, [exceeded]),
    }
}

fn fault<const N: usize>(code: u16, status: &str, message: &str, details: [Value; N]) -> Reply {
    let mut error = Map::new();
    error.insert("code".to_owned(), code.into());
    error.insert("message".to_owned(), message.into());
    error.insert("status".to_owned(), status.into());
    if N > 0 {
        error.insert("details".to_owned(), Value::from(details.to_vec()));
    }
    Reply::document(code, &json!({"error": error}))
}

fn fcm(code: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
}

fn bad_request(violation: Value) -> Value {
    json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]})
}

fn info(reason: &str, domain: &str, metadata: Value) -> Value {
    json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": domain, "metadata": metadata})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_written_as_google_writes_it() {
        let reply = Reply::of(FaultKind::Unregistered, "message.token").unwrap();
        assert_eq!((reply.status, reply.content_type), (404, "application/json; charset=UTF-8"));
        assert_eq!(
            reply.body,
            "{\n  \"error\": {\n    \"code\": 404,\n    \"message\": \"Requested entity was not found.\",\n    \
             \"status\": \"NOT_FOUND\",\n    \"details\": [\n      {\n        \"@type\": \
             \"type.googleapis.com/google.firebase.fcm.v1.FcmError\",\n        \"errorCode\": \"UNREGISTERED\"\n      \
             }\n    ]\n  }\n}\n"
        );
        let reply = Reply::of(FaultKind::NoDetails, "message.token").unwrap();
        assert_eq!(
            reply.body,
            "{\n  \"error\": {\n    \"code\": 400,\n    \"message\": \"Request contains an invalid argument.\",\n    \
             \"status\": \"INVALID_ARGUMENT\"\n  }\n}\n"
        );
    }

    #[test]
    fn retry_after_has_two_forms() {
        let now = 784_111_777_000;
        let reply = || Reply::of(FaultKind::Unavailable, "message.token").unwrap();
        assert_eq!(reply().retry(RetryAfter::Seconds(7), now).retry_after.as_deref(), Some("7"));
        let date = reply().retry(RetryAfter::Date(30), now).retry_after;
        assert_eq!(date.as_deref(), Some("Sun, 06 Nov 1994 08:50:07 GMT"));
        let far = reply().retry(RetryAfter::Date(u64::MAX), now).retry_after;
        assert_eq!(far.as_deref(), Some("Sun, 13 Nov 1994 08:49:37 GMT"));
    }

    #[test]
    fn every_fault_with_an_answer_names_its_status_in_it() {
        for (kind, word) in FaultKind::ALL {
            let Some(reply) = Reply::of(kind, "message.token") else { continue };
            assert!(reply.status >= 400, "{word}");
            assert!(reply.body.contains(&reply.status.to_string()), "{word}: {}", reply.body);
        }
    }
}
