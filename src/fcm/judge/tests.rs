use super::*;
use crate::chat::refusal::TokenFate;
use proptest::prelude::*;
use serde_json::json;

const TOKEN: &str = "dGhpcyBpcyBhIGZha2U:APA91bF-secret";

const JSON: Option<&str> = Some("application/json; charset=UTF-8");
const HTML: Option<&str> = Some("text/html; charset=UTF-8");

// Bodies as Google sends them.
const SENT: &str = "{\n  \"name\": \"projects/p/messages/0:1500415314455276%31bd1c9631bd1c96\"\n}\n";
const BAD_TOKEN: &str = r#"{
  "error": {
    "code": 400,
    "message": "The registration token is not a valid FCM registration token",
    "status": "INVALID_ARGUMENT",
    "details": [
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "INVALID_ARGUMENT"
      }
    ]
  }
}
"#;
const BAD_TOKEN_FIELD: &str = r#"{
  "error": {
    "code": 400,
    "message": "Request contains an invalid argument.",
    "status": "INVALID_ARGUMENT",
    "details": [
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "INVALID_ARGUMENT"
      },
      {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [
          {
            "field": "message.token",
            "description": "Invalid registration token dGhpcyBpcyBhIGZha2U:APA91bF-secret"
          }
        ]
      }
    ]
  }
}
"#;
const BAD_FID: &str = r#"{"error":{"code":400,"message":"Request contains an invalid argument.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"message.fid","description":"Invalid fid"}]}]}}"#;
const BAD_FIELD: &str = r#"{
  "error": {
    "code": 400,
    "message": "Invalid value at 'message.data[0].value' (TYPE_STRING), 12",
    "status": "INVALID_ARGUMENT",
    "details": [
      {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [
          {
            "field": "message.data[0].value",
            "description": "Invalid value at 'message.data[0].value' (TYPE_STRING), 12"
          }
        ]
      }
    ]
  }
}
"#;
const BAD_BOTH: &str = r#"{"error":{"code":400,"message":"Request contains an invalid argument.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","fieldViolations":[{"field":"message.token","description":"Invalid"},{"field":"message.android.ttl","description":"Illegal duration format"}]}]}}"#;
const NO_RECIPIENT: &str = r#"{
  "error": {
    "code": 400,
    "message": "Recipient of the message is not set.",
    "status": "INVALID_ARGUMENT",
    "details": [
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "INVALID_ARGUMENT"
      }
    ]
  }
}
"#;
const NO_DETAILS_400: &str = r#"{
  "error": {
    "code": 400,
    "message": "Request contains an invalid argument.",
    "status": "INVALID_ARGUMENT"
  }
}
"#;
const EXPIRED_ACCESS: &str = r#"{
  "error": {
    "code": 401,
    "message": "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
    "status": "UNAUTHENTICATED",
    "details": [
      {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "ACCESS_TOKEN_EXPIRED",
        "domain": "googleapis.com",
        "metadata": {
          "service": "fcm.googleapis.com"
        }
      }
    ]
  }
}
"#;
const PAGE_401: &str = "<HTML>\n<HEAD>\n<TITLE>Unauthorized</TITLE>\n</HEAD>\n<BODY BGCOLOR=\"#FFFFFF\" TEXT=\"#000000\">\n<H1>Unauthorized</H1>\n<H2>Error 401</H2>\n</BODY>\n</HTML>\n";
const THIRD_PARTY: &str = r#"{
  "error": {
    "code": 401,
    "message": "Auth error from APNS or Web Push Service",
    "status": "UNAUTHENTICATED",
    "details": [
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "THIRD_PARTY_AUTH_ERROR"
      },
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.ApnsError",
        "statusCode": 403,
        "reason": "InvalidProviderToken"
      }
    ]
  }
}
"#;
const MISMATCH: &str = r#"{
  "error": {
    "code": 403,
    "message": "SenderId mismatch",
    "status": "PERMISSION_DENIED",
    "details": [
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "SENDER_ID_MISMATCH"
      }
    ]
  }
}
"#;
const API_DISABLED: &str = r#"{
  "error": {
    "code": 403,
    "message": "Firebase Cloud Messaging API has not been used in project 12345 before or it is disabled.",
    "status": "PERMISSION_DENIED",
    "details": [
      {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "SERVICE_DISABLED",
        "domain": "googleapis.com",
        "metadata": {
          "consumer": "projects/12345",
          "service": "fcm.googleapis.com"
        }
      }
    ]
  }
}
"#;
const NO_PERMISSION: &str = r#"{"error":{"code":403,"message":"Permission 'cloudmessaging.messages.create' denied on resource '//cloudresourcemanager.googleapis.com/projects/p' (or it may not exist).","status":"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"IAM_PERMISSION_DENIED","domain":"cloudresourcemanager.googleapis.com"}]}}"#;
const UNREGISTERED: &str = r#"{
  "error": {
    "code": 404,
    "message": "Requested entity was not found.",
    "status": "NOT_FOUND",
    "details": [
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "UNREGISTERED"
      }
    ]
  }
}
"#;
const NO_PROJECT: &str = "{\n  \"error\": {\n    \"code\": 404,\n    \"message\": \"Requested entity was not found.\",\n    \"status\": \"NOT_FOUND\"\n  }\n}\n";
const PAGE_404: &str = "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <title>Error 404 (Not Found)!!1</title>\n  <p><b>404.</b> <ins>That\u{2019}s an error.</ins>\n";
const DEVICE_QUOTA: &str = r#"{
  "error": {
    "code": 429,
    "message": "Resource has been exhausted (e.g. check quota).",
    "status": "RESOURCE_EXHAUSTED",
    "details": [
      {
        "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
        "errorCode": "QUOTA_EXCEEDED"
      },
      {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [
          {
            "subject": "device:x",
            "description": "Device message rate exceeded"
          }
        ]
      }
    ]
  }
}
"#;
const TOPIC_QUOTA: &str = r#"{"error":{"code":429,"message":"Topics message rate exceeded","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"QUOTA_EXCEEDED"}]}}"#;
const PROJECT_QUOTA: &str = r#"{"error":{"code":429,"message":"Quota exceeded for quota metric 'Send requests' and limit 'Send requests per minute' of service 'fcm.googleapis.com' for consumer 'project_number:12345'.","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"RATE_LIMIT_EXCEEDED","domain":"googleapis.com"}]}}"#;
const PROJECT_SUBJECT: &str = r#"{"error":{"code":429,"message":"Resource has been exhausted (e.g. check quota).","status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"QUOTA_EXCEEDED"},{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"subject":"project:my-device-app","description":"Message send rate exceeded"}]}]}}"#;
const INTERNAL: &str = r#"{"error":{"code":500,"message":"Internal error encountered.","status":"INTERNAL","details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"INTERNAL"}]}}"#;
const UNAVAILABLE: &str = r#"{"error":{"code":503,"message":"The service is currently unavailable.","status":"UNAVAILABLE","details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"UNAVAILABLE"}]}}"#;
const PAGE_502: &str = "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <title>Error 502 (Server Error)!!1</title>\n  <p><b>502.</b> <ins>That\u{2019}s an error.</ins>\n  <p>The server encountered a temporary error and could not complete your request.<p>Please try again in 30 seconds.  <ins>That\u{2019}s all we know.</ins>\n";
const UNSPECIFIED: &str = r#"{"error":{"code":400,"message":"?","status":"UNKNOWN","details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"UNSPECIFIED_ERROR"}]}}"#;
const NEW_CODE: &str = r#"{"error":{"code":403,"message":"?","status":"PERMISSION_DENIED","details":[{"@type":"type.googleapis.com/google.firebase.fcm.v1.FcmError","errorCode":"TOO_MUCH_MOONLIGHT"}]}}"#;

fn token() -> Target {
    Target::named("token", TOKEN).unwrap()
}

fn asked(target: &Target, access: Access) -> Asked<'_> {
    // Sun, 06 Nov 1994 08:49:37 GMT
    Asked { target, is_within_rules: true, access, on_ambiguous: OnAmbiguous::Retry, now_unix_s: 784_111_777 }
}

fn judged(target: &Target, access: Access, answer: Answer<'_>) -> Verdict {
    judge(&Outcome::Answered(answer), &asked(target, access))
}

fn answer<'a>(status: u16, content_type: Option<&'a str>, body: &'a str) -> Answer<'a> {
    Answer { status, retry_after: None, date: None, content_type, body: body.as_bytes() }
}

/// What a row of the tables below says of a verdict, but for its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Elsewhere,
    NewToken,
    Fault(Cause),
    Is(Decision),
}

struct Seen {
    says: Says,
    token: TokenFate,
    arrival: Arrival,
    code: String,
    detail: String,
}

/// A verdict that is not "sent".
fn seen(verdict: Verdict) -> Seen {
    let (says, refusal) = match verdict {
        Verdict::Sent { name } => panic!("sent as {name:?}"),
        Verdict::Replay(Replay::Elsewhere, refusal) => (Says::Elsewhere, refusal),
        Verdict::Replay(Replay::NewToken, refusal) => (Says::NewToken, refusal),
        Verdict::Fault(cause, refusal) => (Says::Fault(cause), refusal),
        Verdict::Refused(refusal) => (Says::Is(refusal.decision), refusal),
    };
    let token = if let Decision::Fail { token, .. } = refusal.decision { token } else { TokenFate::Keep };
    Seen { says, token, arrival: refusal.arrival, code: refusal.code, detail: refusal.detail }
}

const fn retry(wait: Wait, until: Until, scope: Scope) -> Says {
    Says::Is(Decision::Retry { wait, until, scope })
}

const fn seconds(first: u64, scope: Scope) -> Says {
    retry(Wait::Backoff(Duration::from_secs(first)), Until::Waited(RETRY_FOR), scope)
}

const NEVER: Says = Says::Is(Decision::FAIL);
const GONE: Says = Says::Is(Decision::REMOVE_TOKEN);
const OPERATOR: Says = Says::Is(Decision::FAIL_FOR_OPERATOR);
const FEW: Says = retry(Wait::Backoff(FAULT_WAIT), Until::Tries(FEW_TRIES), Scope::Message);
const MINUTE: Says = seconds(60, Scope::Recipient);
const FAULT: Says = seconds(10, Scope::Message);

/// Every row of the table of answers.
#[test]
fn every_answer_has_its_consequence() {
    let rows = [
        (400, JSON, BAD_TOKEN, NEVER, code::INVALID_JSON),
        (400, JSON, BAD_TOKEN_FIELD, GONE, code::BAD_REGISTRATION),
        (400, JSON, BAD_FIELD, NEVER, code::INVALID_JSON),
        (400, JSON, BAD_BOTH, NEVER, code::INVALID_JSON),
        (400, JSON, NO_RECIPIENT, NEVER, code::INVALID_JSON),
        (400, JSON, NO_DETAILS_400, NEVER, code::INVALID_JSON),
        (400, HTML, PAGE_404, Says::Fault(Cause::NotFcm), code::INTERNAL_SERVER_ERROR),
        (400, JSON, r#"{"message":"Bad Request"}"#, Says::Fault(Cause::NotFcm), code::INTERNAL_SERVER_ERROR),
        (400, None, "bad request", Says::Fault(Cause::NotFcm), code::INTERNAL_SERVER_ERROR),
        (400, None, "", NEVER, code::INVALID_JSON),
        (401, JSON, EXPIRED_ACCESS, Says::NewToken, code::INTERNAL_SERVER_ERROR),
        (401, HTML, PAGE_401, Says::NewToken, code::INTERNAL_SERVER_ERROR),
        (401, JSON, THIRD_PARTY, OPERATOR, code::INVALID_APNS_CREDENTIAL),
        (403, JSON, MISMATCH, Says::Is(Decision::QUARANTINE_TOKEN), code::SENDER_ID_MISMATCH),
        (403, JSON, API_DISABLED, Says::Fault(Cause::ApiDisabled), code::INTERNAL_SERVER_ERROR),
        (403, JSON, NO_PERMISSION, Says::Fault(Cause::PermissionDenied), code::INTERNAL_SERVER_ERROR),
        (403, None, "", Says::Fault(Cause::PermissionDenied), code::INTERNAL_SERVER_ERROR),
        (403, HTML, "<html>Blocked by policy", Says::Fault(Cause::NotFcm), code::INTERNAL_SERVER_ERROR),
        (403, None, "blocked by policy", Says::Fault(Cause::NotFcm), code::INTERNAL_SERVER_ERROR),
        (404, JSON, UNREGISTERED, GONE, code::DEVICE_UNREGISTERED),
        (404, JSON, NO_PROJECT, Says::Fault(Cause::UnknownProject), code::INTERNAL_SERVER_ERROR),
        (404, HTML, PAGE_404, Says::Fault(Cause::UnknownProject), code::INTERNAL_SERVER_ERROR),
        (413, HTML, "<html>", NEVER, code::TOO_BIG),
        (404, JSON, "[]", Says::Fault(Cause::UnknownProject), code::INTERNAL_SERVER_ERROR),
        (405, None, "", Says::Fault(Cause::NotFcm), code::INTERNAL_SERVER_ERROR),
        (407, HTML, "<html>Log in first", Says::Fault(Cause::NotFcm), code::INTERNAL_SERVER_ERROR),
        (408, None, "too slow", Says::Fault(Cause::NotFcm), code::INTERNAL_SERVER_ERROR),
        (421, JSON, "[]", Says::Fault(Cause::NotFcm), code::INTERNAL_SERVER_ERROR),
        (405, JSON, NO_DETAILS_400, NEVER, code::INVALID_JSON),
        (429, JSON, DEVICE_QUOTA, MINUTE, code::DEVICE_MESSAGE_RATE_EXCEEDED),
        (429, JSON, TOPIC_QUOTA, MINUTE, code::TOPICS_MESSAGE_RATE_EXCEEDED),
        (429, JSON, PROJECT_QUOTA, seconds(60, Scope::Service), code::QUOTA_EXCEEDED),
        (429, JSON, PROJECT_SUBJECT, seconds(60, Scope::Service), code::QUOTA_EXCEEDED),
        (429, None, "", MINUTE, code::QUOTA_EXCEEDED),
        (500, JSON, INTERNAL, FAULT, code::INTERNAL_SERVER_ERROR),
        (500, None, "not JSON", FAULT, code::INTERNAL_SERVER_ERROR),
        (502, HTML, PAGE_502, FAULT, code::INTERNAL_SERVER_ERROR),
        (504, HTML, "", FAULT, code::INTERNAL_SERVER_ERROR),
        (503, JSON, UNAVAILABLE, FAULT, code::SERVICE_UNAVAILABLE),
        (503, HTML, "<html>", FAULT, code::SERVICE_UNAVAILABLE),
        // A word that only a 404 may have, on a fault of the server: the status counts.
        (500, JSON, UNREGISTERED, FAULT, code::INTERNAL_SERVER_ERROR),
        (400, JSON, UNSPECIFIED, FEW, code::INTERNAL_SERVER_ERROR),
        (403, JSON, NEW_CODE, FEW, code::INTERNAL_SERVER_ERROR),
        (500, JSON, NEW_CODE, FEW, code::INTERNAL_SERVER_ERROR),
        (503, JSON, UNSPECIFIED, FEW, code::INTERNAL_SERVER_ERROR),
        (302, HTML, "<html>", Says::Fault(Cause::NotFcm), code::INTERNAL_SERVER_ERROR),
        (200, HTML, "<html>Welcome to our WLAN", Says::Fault(Cause::NotFcm), code::AMBIGUOUS),
    ];
    for (status, content_type, body, says, code) in rows {
        let seen = seen(judged(&token(), Access::Cached, answer(status, content_type, body)));
        assert_eq!((seen.says, &*seen.code), (says, code), "{status} {body}");
        let doubtful = status >= 500 || status == 200;
        assert_eq!(seen.arrival == Arrival::Maybe, doubtful, "{status} {body}");
        assert!(!seen.detail.is_empty(), "{status} {body}");
    }
}

#[test]
fn what_fcm_took_has_a_name() {
    let name = Some("projects/p/messages/0:1500415314455276%31bd1c9631bd1c96".to_owned());
    for content_type in [JSON, None, HTML, Some("text/plain")] {
        let whole = judged(&token(), Access::Cached, answer(200, content_type, SENT));
        assert_eq!(whole, Verdict::Sent { name: name.clone() }, "{content_type:?}");
        // Cut short it is taken all the same: sending it again would make a duplicate.
        for end in 0..SENT.len() {
            let verdict = judged(&token(), Access::Cached, answer(200, content_type, &SENT[..end]));
            let whole = end + 1 >= SENT.len();
            assert_eq!(verdict, Verdict::Sent { name: name.clone().filter(|_| whole) }, "{content_type:?} {end}");
        }
    }
}

#[test]
fn what_was_taken_needs_no_name_and_no_content_type() {
    let named = Some("projects/p/messages/1");
    for (status, content_type, body, name) in [
        (200, None, "", None),
        (200, HTML, "", None),
        (200, Some("text/plain"), " \r\n", None),
        (204, None, "", None),
        (200, None, "{}", None),
        (200, HTML, r#"{"message_id":"1"}"#, None),
        (201, Some("text/plain"), r#"{"name":7}"#, None),
        (200, JSON, r#"{"error":null}"#, None),
        (200, JSON, r#"{"error":null,"name":"projects/p/messages/1"}"#, named),
        (200, None, r#"[{"name":"projects/p/messages/1"}]"#, named),
        (200, None, "\u{feff}{\"name\":\"projects/p/messages/1\"}", named),
        (200, JSON, r#"{"name" "projects/p/messages/1"}"#, None),
    ] {
        let verdict = judged(&token(), Access::Cached, answer(status, content_type, body));
        assert_eq!(verdict, Verdict::Sent { name: name.map(str::to_owned) }, "{content_type:?} {body}");
    }
    let torn = Answer { body: b"{\"name\":\"projects/p/messages/\xff\"}", ..answer(200, None, "") };
    let name = Some("projects/p/messages/\u{fffd}".to_owned());
    assert_eq!(judged(&token(), Access::Cached, torn), Verdict::Sent { name });
    let huge = format!("{{\"x\":\"{}\"}}", "x".repeat(1 << 20));
    assert_eq!(judged(&token(), Access::Cached, answer(200, JSON, &huge)), Verdict::Sent { name: None });
}

#[test]
fn a_success_that_speaks_of_an_error_may_be_either() {
    let undecided = (FAULT, code::AMBIGUOUS);
    let foreign = (Says::Fault(Cause::NotFcm), code::AMBIGUOUS);
    for (content_type, body, expected) in [
        (JSON, UNREGISTERED, undecided),
        (None, UNREGISTERED, undecided),
        (JSON, BAD_TOKEN, undecided),
        (JSON, r#"{"error":{}}"#, undecided),
        (JSON, r#"[{"error":{"code":503}}]"#, undecided),
        // Half of it, too.
        (JSON, "{\n  \"error\": {\n    \"code\": 404,", undecided),
        // Not in Google's form it is somebody else's.
        (JSON, r#"{"error":"upstream timed out"}"#, foreign),
        (JSON, "null", foreign),
        (JSON, "[]", foreign),
        (JSON, "OK", foreign),
        (None, "OK", foreign),
        (JSON, "<html>", foreign),
        (HTML, "<html>{\"name\":\"x\"}", foreign),
    ] {
        let refused = seen(judged(&token(), Access::Cached, answer(200, content_type, body)));
        assert_eq!((refused.says, &*refused.code), expected, "{body}");
        assert_eq!((refused.token, refused.arrival), (TokenFate::Keep, Arrival::Maybe), "{body}");
        assert!(!refused.detail.is_empty(), "{body}");
    }
}

/// A refusal in Google's form.
fn fault(status: u16, message: &str, details: Value) -> String {
    json!({"error": {"code": status, "message": message, "status": "X", "details": details}}).to_string()
}

#[test]
fn a_401_is_about_the_access_token_whatever_its_code() {
    let coded = |code: &str| fault(401, "?", json!([{"errorCode": code}]));
    let mut bodies: Vec<String> =
        ["UNAUTHENTICATED", "PERMISSION_DENIED", "MOONLIGHT"].into_iter().map(coded).collect();
    let others = ["UNSPECIFIED_ERROR", "INVALID_ARGUMENT", "UNREGISTERED", "SENDER_ID_MISMATCH", "QUOTA_EXCEEDED"];
    bodies.extend(others.into_iter().chain(["UNAVAILABLE", "INTERNAL", "UNKNOWN"]).map(coded));
    for body in bodies {
        for (access, then) in
            [(Access::Cached, Says::NewToken), (Access::Refreshed, Says::Fault(Cause::Unauthenticated))]
        {
            let refused = seen(judged(&token(), access, answer(401, JSON, &body)));
            assert_eq!((refused.says, refused.token), (then, TokenFate::Keep), "{body}");
        }
    }
    let refused = seen(judged(&token(), Access::Cached, answer(401, JSON, &coded("THIRD_PARTY_AUTH_ERROR"))));
    assert_eq!(refused.says, OPERATOR);
}

#[test]
fn a_canonical_word_is_no_code_of_fcm() {
    for (status, code, then) in [
        (400, "FAILED_PRECONDITION", NEVER),
        (400, "INVALID_ARGUMENT", NEVER),
        (403, "PERMISSION_DENIED", Says::Fault(Cause::PermissionDenied)),
        (403, "INVALID_ARGUMENT", Says::Fault(Cause::PermissionDenied)),
        (404, "NOT_FOUND", Says::Fault(Cause::UnknownProject)),
        (404, "INVALID_ARGUMENT", Says::Fault(Cause::UnknownProject)),
        (429, "RESOURCE_EXHAUSTED", MINUTE),
        (404, "MOONLIGHT", FEW),
        (404, "UNKNOWN", FEW),
    ] {
        let body = fault(status, "?", json!([{"errorCode": code}]));
        let refused = seen(judged(&token(), Access::Cached, answer(status, JSON, &body)));
        assert_eq!((refused.says, refused.token), (then, TokenFate::Keep), "{status} {code}");
    }
}

#[test]
fn a_dead_token_is_known_in_the_words_of_other_servers_too() {
    let details = [
        json!([{"errorCode": "UNREGISTERED"}]),
        json!([{"@type": "google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED"}]),
    ];
    let bodies = details.map(|details| fault(404, "?", details));
    for body in bodies.iter().flat_map(|body| [body.clone(), format!("[{body}]"), format!("\u{feff}{body}")]) {
        let torn = body.replace("\"?\"", "\"#\"").into_bytes();
        let torn: Vec<u8> = torn.into_iter().map(|byte| if byte == b'#' { 0xe9 } else { byte }).collect();
        for body in [body.as_bytes(), &torn] {
            let refused = seen(judged(&token(), Access::Cached, Answer { body, ..answer(404, None, "") }));
            let expected = (GONE, code::DEVICE_UNREGISTERED);
            assert_eq!((refused.says, &*refused.code), expected, "{}", String::from_utf8_lossy(body));
        }
    }
}

#[test]
fn a_token_is_given_up_only_if_it_is_the_one_field_that_is_named() {
    const WORDS: &str = "The registration token is not a valid FCM registration token";
    let on = |fields: &[(&str, &str)]| {
        let fields: Vec<_> =
            fields.iter().map(|(field, words)| json!({"field": field, "description": words})).collect();
        json!([{"@type": "google.rpc.BadRequest", "fieldViolations": fields}])
    };
    let (token_, ttl) = (("message.token", "Invalid"), ("message.android.ttl", "Illegal duration format"));
    for (status, message, details, bad) in [
        (400, "?", on(&[token_]), true),
        (400, "?", on(&[("token", "?")]), true),
        (400, "?", on(&[token_, ("token", "?")]), true),
        // The other kind of target was not sent.
        (400, "?", on(&[("message.fid", "?")]), false),
        (400, "?", on(&[("fid", "?")]), false),
        (400, "?", on(&[token_, ("fid", "?")]), false),
        (400, "?", on(&[("message.message.token", "?")]), false),
        (400, WORDS, on(&[]), false),
        (400, "not a valid FCM registration token", on(&[]), false),
        (400, WORDS, on(&[ttl]), false),
        (400, WORDS, on(&[token_, ttl]), false),
        (400, "?", on(&[("message.token", WORDS), ttl]), false),
        (400, "?", on(&[token_, ttl]), false),
        (400, "?", on(&[ttl]), false),
        (400, "?", on(&[("message.data", "?")]), false),
        (400, WORDS, on(&[token_]), true),
        (400, "Invalid value at 'message.android' (TYPE), \"not a valid FCM registration token\"", on(&[ttl]), false),
        (400, "?", on(&[("message.android", WORDS)]), false),
        // What is wrong with a message is said with a 400.
        (403, WORDS, on(&[token_]), false),
        (404, WORDS, on(&[token_]), false),
        (413, WORDS, on(&[token_]), false),
    ] {
        for code in [None, Some("INVALID_ARGUMENT")] {
            let mut details = details.clone();
            details.as_array_mut().unwrap().extend(code.map(|code| json!({"errorCode": code})));
            let body = fault(status, message, details);
            let refused = seen(judged(&token(), Access::Cached, answer(status, JSON, &body)));
            let token = if bad { TokenFate::Remove } else { TokenFate::Keep };
            assert_eq!(refused.token, token, "{status} {body}");
            assert_eq!(refused.code == code::BAD_REGISTRATION, bad, "{status} {body}");
        }
    }
}

#[test]
fn a_violation_on_the_kind_of_target_that_was_not_sent_costs_nothing() {
    let fid = Target::named("fid", "cAbCdEfGhIjKlMnOpQrStU").unwrap();
    let refused = seen(judged(&fid, Access::Cached, answer(400, JSON, BAD_FID)));
    assert_eq!((&*refused.code, refused.token), (code::BAD_REGISTRATION, TokenFate::Remove));
    for (target, field, gone) in [
        (&fid, "message.fid", true),
        (&fid, "fid", true),
        (&fid, "message.token", false),
        (&fid, "token", false),
        (&token(), "message.fid", false),
    ] {
        let details = json!([{"@type": "google.rpc.BadRequest", "fieldViolations": [{"field": field}]}]);
        let body = fault(400, "?", details);
        let refused = seen(judged(target, Access::Cached, answer(400, JSON, &body)));
        assert_eq!(refused.token == TokenFate::Remove, gone, "{field}");
    }
}

#[test]
fn a_bad_token_is_no_proof_if_the_request_may_have_broken_apples_rules() {
    for is_within_rules in [true, false] {
        let target = token();
        let asked = Asked { is_within_rules, ..asked(&target, Access::Cached) };
        let refused = seen(judge(&Outcome::Answered(answer(400, JSON, BAD_TOKEN_FIELD)), &asked));
        let expected = if is_within_rules { (code::BAD_REGISTRATION, GONE) } else { (code::INVALID_JSON, NEVER) };
        assert_eq!((&*refused.code, refused.says), expected);
        // That the app was removed is said of the token alone.
        let gone = seen(judge(&Outcome::Answered(answer(404, JSON, UNREGISTERED)), &asked));
        assert_eq!(gone.token, TokenFate::Remove);
    }
}

#[test]
fn only_words_that_may_mean_the_size_are_given_that_doubt() {
    let detail = |message: &str| {
        seen(judged(&token(), Access::Cached, answer(400, JSON, &fault(400, message, json!([]))))).detail
    };
    assert!(detail("Request contains an invalid argument.").contains("too big"));
    assert!(!detail("The registration token is not a valid FCM registration token").contains("too big"));
}

#[test]
fn what_could_not_be_read_stops_nobody_else() {
    let huge = format!("{}{}", UNREGISTERED.trim_end().trim_end_matches('}'), " ".repeat(1 << 20)) + "}";
    let page = format!("<html>{}", "x".repeat(1 << 20));
    for (content_type, body, unread) in [
        (JSON, &UNREGISTERED[..100], true),
        (None, &UNREGISTERED[..100], true),
        (HTML, &UNREGISTERED[..100], true),
        (JSON, "{\"error\" {}}", true),
        (JSON, "not found", true),
        (JSON, "", true),
        (JSON, &huge, true),
        (None, &huge, true),
        (None, "not found", false),
        (None, "", false),
        (HTML, PAGE_404, false),
        (HTML, &page, false),
        (JSON, NO_PROJECT, false),
        (JSON, "{}", false),
    ] {
        for (status, access, by_status) in [
            (400, Access::Cached, NEVER),
            (401, Access::Refreshed, Says::Fault(Cause::Unauthenticated)),
            (403, Access::Cached, Says::Fault(Cause::PermissionDenied)),
            (404, Access::Cached, Says::Fault(Cause::UnknownProject)),
        ] {
            let refused = seen(judged(&token(), access, answer(status, content_type, body)));
            let start: String = body.chars().take(40).collect();
            let page = status == 403 && !body.is_empty() && !body.starts_with(['{', '[']);
            let foreign = status == 400 && !body.is_empty() && body != NO_PROJECT;
            let by_status = if page || foreign { Says::Fault(Cause::NotFcm) } else { by_status };
            assert_eq!(refused.says, if unread { FEW } else { by_status }, "{status} {content_type:?} {start}");
            assert_eq!((refused.token, refused.arrival), (TokenFate::Keep, Arrival::No), "{status} {start}");
        }
        // What the status says for certain it says of half an answer, too.
        let of_another = if body == NO_PROJECT { NEVER } else { Says::Fault(Cause::NotFcm) };
        for (status, then) in [(401, Says::NewToken), (405, of_another), (429, MINUTE), (500, FAULT)] {
            let refused = seen(judged(&token(), Access::Cached, answer(status, content_type, body)));
            assert_eq!(refused.says, then, "{status}");
        }
    }
}

#[test]
fn an_error_that_is_not_of_googles_form_is_judged_by_its_status() {
    for body in [r#"{"error":"no"}"#, r#"{"error":null}"#, r#"{"message":"no"}"#, "[]", "\u{feff}{}"] {
        for (status, then) in [
            (400, Says::Fault(Cause::NotFcm)),
            (401, Says::NewToken),
            (403, Says::Fault(Cause::PermissionDenied)),
            (404, Says::Fault(Cause::UnknownProject)),
            (429, MINUTE),
            (503, FAULT),
        ] {
            let refused = seen(judged(&token(), Access::Cached, answer(status, JSON, body)));
            assert_eq!((refused.says, refused.token), (then, TokenFate::Keep), "{status} {body}");
        }
    }
}

#[test]
fn a_second_401_needs_an_operator() {
    for (content_type, body) in [(JSON, EXPIRED_ACCESS), (HTML, PAGE_401), (None, "")] {
        let refused = seen(judged(&token(), Access::Refreshed, answer(401, content_type, body)));
        assert_eq!((refused.says, refused.token), (Says::Fault(Cause::Unauthenticated), TokenFate::Keep));
    }
}

#[test]
fn retry_after_is_obeyed_in_both_forms() {
    for (status, header, wait) in [
        (429, "120", Some(120)),
        (503, "Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
        (500, "15", Some(15)),
        (503, "soon", None),
    ] {
        let answer = Answer { retry_after: Some(header), ..answer(status, JSON, UNAVAILABLE) };
        let refused = seen(judged(&token(), Access::Cached, answer));
        let Says::Is(Decision::Retry { wait: seen, .. }) = refused.says else { panic!("{header}: {:?}", refused.says) };
        assert_eq!(seen, wait.map_or(Wait::Backoff(FAULT_WAIT), |wait| Wait::AtLeast(Duration::from_secs(wait))));
    }
    // A date is counted from the server's own clock, if it says its time.
    let busy = answer(503, JSON, UNAVAILABLE);
    let date = Some("Sun, 06 Nov 1994 09:49:37 GMT");
    let late = Answer { retry_after: Some("Sun, 06 Nov 1994 09:50:07 GMT"), date, ..busy };
    let wait = Wait::AtLeast(Duration::from_secs(30));
    let expected = retry(wait, Until::Waited(RETRY_FOR), Scope::Message);
    assert_eq!(seen(judged(&token(), Access::Cached, late)).says, expected);
    let never = Answer { retry_after: Some("5"), ..answer(404, JSON, UNREGISTERED) };
    assert_eq!(seen(judged(&token(), Access::Cached, never)).says, GONE);
}

#[test]
fn without_an_answer_it_matters_whether_fcm_could_have_seen_it() {
    let target = token();
    for on_ambiguous in [OnAmbiguous::Retry, OnAmbiguous::Report] {
        let asked = Asked { on_ambiguous, ..asked(&target, Access::Cached) };
        let unprocessed = seen(judge(&Outcome::Unprocessed("why"), &asked));
        assert_eq!((unprocessed.says, unprocessed.arrival), (Says::Elsewhere, Arrival::No));
        assert_eq!((&*unprocessed.code, &*unprocessed.detail), (code::CONNECTION_DRAINING, "why"));
        let expected = if on_ambiguous == OnAmbiguous::Retry { FAULT } else { NEVER };
        let ambiguous = seen(judge(&Outcome::Ambiguous("why"), &asked));
        assert_eq!((ambiguous.says, ambiguous.arrival), (expected, Arrival::Maybe));
        assert_eq!((&*ambiguous.code, &*ambiguous.detail), (code::AMBIGUOUS, "why"));
        // Of an answer that contradicts itself, and of one by another server, the same is wished; not of a refusal.
        let of = |status, body| judge(&Outcome::Answered(answer(status, JSON, body)), &asked);
        assert_eq!(seen(of(200, UNREGISTERED)).says, expected);
        let Verdict::Fault(Cause::NotFcm, refusal) = of(200, "OK") else { panic!("{body:?}", body = of(200, "OK")) };
        assert_eq!((Says::Is(refusal.decision), refusal.arrival), (expected, Arrival::Maybe));
        assert_eq!(seen(of(503, UNAVAILABLE)).says, FAULT);
    }
}

#[test]
fn a_topic_has_no_token_to_lose() {
    for target in [Target::named("topic", "news").unwrap(), Target::named("condition", "'a' in topics").unwrap()] {
        for (status, body) in [(400, BAD_TOKEN), (400, BAD_TOKEN_FIELD), (404, UNREGISTERED)] {
            let refused = seen(judged(&target, Access::Cached, answer(status, JSON, body)));
            assert_eq!(refused.says, NEVER, "{body}");
        }
        let refused = seen(judged(&target, Access::Cached, answer(429, None, "")));
        assert_eq!(refused.code, code::TOPICS_MESSAGE_RATE_EXCEEDED);
    }
}

#[test]
fn half_an_answer_never_costs_a_token() {
    for (status, body) in [(400, BAD_TOKEN), (400, BAD_TOKEN_FIELD), (403, MISMATCH), (404, UNREGISTERED)] {
        for end in 0..body.trim_end().len() {
            if !body.is_char_boundary(end) {
                continue;
            }
            let refused = seen(judged(&token(), Access::Cached, answer(status, JSON, &body[..end])));
            assert_eq!(refused.token, TokenFate::Keep, "{status} cut at {end}");
        }
    }
}

#[test]
fn a_huge_page_gives_a_short_detail() {
    let page = format!("<html>{}", "x".repeat(1 << 20));
    assert!(seen(judged(&token(), Access::Cached, answer(502, HTML, &page))).detail.len() < 300);
}

#[test]
fn a_detail_is_helpful_and_holds_no_token() {
    let detail =
        |status, content_type, body| seen(judged(&token(), Access::Cached, answer(status, content_type, body))).detail;
    assert_eq!(
        detail(400, JSON, BAD_TOKEN_FIELD),
        "Request contains an invalid argument.; message.token: Invalid registration token <token>"
    );
    assert_eq!(detail(401, JSON, THIRD_PARTY), "Auth error from APNS or Web Push Service (InvalidProviderToken)");
    assert_eq!(detail(401, HTML, PAGE_401), "HTTP status 401, a page: Unauthorized");
    assert_eq!(detail(502, HTML, PAGE_502), "HTTP status 502, a page: Error 502 (Server Error)!!1");
    assert!(detail(400, JSON, NO_DETAILS_400).ends_with("(perhaps the message is too big)"));
    assert_eq!(detail(500, None, ""), "HTTP status 500 without an explanation");
}

#[test]
fn the_words_are_those_of_ccs_and_of_the_bridge() {
    use crate::ccs::nack::NackCode;
    assert_eq!(code::AMBIGUOUS, crate::chat::delivery::AMBIGUOUS);
    for code in [
        code::BAD_REGISTRATION,
        code::DEVICE_UNREGISTERED,
        code::SENDER_ID_MISMATCH,
        code::INVALID_JSON,
        code::DEVICE_MESSAGE_RATE_EXCEEDED,
        code::TOPICS_MESSAGE_RATE_EXCEEDED,
        code::QUOTA_EXCEEDED,
        code::INVALID_APNS_CREDENTIAL,
        code::SERVICE_UNAVAILABLE,
        code::INTERNAL_SERVER_ERROR,
        code::CONNECTION_DRAINING,
    ] {
        assert_eq!(NackCode::of(code).to_string(), code);
    }
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    let real = [SENT, BAD_TOKEN_FIELD, MISMATCH, UNREGISTERED, DEVICE_QUOTA, PAGE_502];
    prop_oneof![
        any::<Vec<u8>>(),
        // A real one with one byte changed.
        (prop::sample::select(real.to_vec()), any::<prop::sample::Index>(), any::<u8>()).prop_map(
            |(body, at, byte)| {
                let mut bytes = body.as_bytes().to_vec();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                bytes
            }
        ),
    ]
}

proptest! {
    #[test]
    fn any_answer_gives_a_verdict(
        status in prop_oneof![Just(200u16), Just(400), Just(401), Just(403), Just(404), Just(429), Just(503), any::<u16>()],
        retry_after: Option<String>,
        date: Option<String>,
        content_type: Option<String>,
        body in any_body(),
        now_unix_s: u64,
    ) {
        let target = token();
        let outcome = Outcome::Answered(Answer {
            status,
            retry_after: retry_after.as_deref(),
            date: date.as_deref(),
            content_type: content_type.as_deref(),
            body: &body,
        });
        let verdict = judge(&outcome, &Asked { now_unix_s, ..asked(&target, Access::Cached) });
        if !matches!(verdict, Verdict::Sent { .. }) {
            let seen = seen(verdict);
            prop_assert!(!seen.detail.contains(TOKEN));
            prop_assert!(seen.token == TokenFate::Keep || (400..500).contains(&status));
            let at_once = matches!(seen.says, Says::Is(Decision::Retry { wait: Wait::AtLeast(Duration::ZERO), .. }));
            prop_assert!(!at_once);
        }
    }
}
