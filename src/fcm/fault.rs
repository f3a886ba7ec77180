//! What FCM says when it refuses: `google.rpc.Status` as JSON, with `google.firebase.fcm.v1.FcmError` in its details.

use serde_json::{Map, Value};

const FCM_ERROR: &str = "google.firebase.fcm.v1.FcmError";
const APNS_ERROR: &str = "google.firebase.fcm.v1.ApnsError";
const BAD_REQUEST: &str = "google.rpc.BadRequest";
const QUOTA_FAILURE: &str = "google.rpc.QuotaFailure";
const ERROR_INFO: &str = "google.rpc.ErrorInfo";

/// Most details, and violations in one, that are looked at.
const DETAILS_MAX: usize = 32;

/// A refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// `error.message`: for a person. May repeat a token.
    pub message: String,
    /// FCM's own code.
    pub code: Option<FcmCode>,
    /// What is wrong with which field.
    pub violations: Vec<Violation>,
    /// Which quota is used up, in words.
    pub quotas: Vec<String>,
    /// Whether one of them is the project's: it is named as its subject (`project:...`).
    pub is_of_project: bool,
    /// Why Google's front refused, for example `SERVICE_DISABLED`.
    pub reason: Option<String>,
    /// Apple's word, for example `InvalidProviderToken`.
    pub apns: Option<String>,
}

/// A field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its path, for example `message.token`.
    pub field: String,
    /// What is wrong. May repeat the value.
    pub description: String,
}

/// FCM's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FcmCode {
    /// Something in the request is wrong.
    InvalidArgument,
    /// The token is dead.
    Unregistered,
    /// The token belongs to another sender.
    SenderIdMismatch,
    /// Too many messages.
    QuotaExceeded,
    /// Overloaded.
    Unavailable,
    /// FCM has a fault.
    Internal,
    /// The key for Apple's service, or for web push, is wrong.
    ThirdPartyAuthError,
    /// Anything else, `UNSPECIFIED_ERROR` among it.
    Unknown,
}

impl FcmCode {
    /// What `word` means; `None` if it is one of `google.rpc.Code` that FCM does not use. Servers that stand in for FCM
    /// repeat `error.status` where its code should be; that says no more than the HTTP status does.
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "CANCELLED" | "DEADLINE_EXCEEDED" | "NOT_FOUND" | "ALREADY_EXISTS" | "PERMISSION_DENIED" => None,
            "UNAUTHENTICATED" | "RESOURCE_EXHAUSTED" | "FAILED_PRECONDITION" | "ABORTED" => None,
            "OUT_OF_RANGE" | "UNIMPLEMENTED" | "DATA_LOSS" => None,
            _ => Some(serde_json::from_value(Value::from(word)).unwrap_or(Self::Unknown)),
        }
    }
}

impl Fault {
    /// Takes it from a document; `None` if that does not speak of an error in Google's form.
    pub fn of(document: &Map<String, Value>) -> Option<Self> {
        let error = document.get("error")?.as_object()?;
        let mut fault = Self { message: text(error.get("message")), ..Self::default() };
        let details = || error.get("details").and_then(Value::as_array).into_iter().flatten().take(DETAILS_MAX);
        for detail in details() {
            fault.take(detail);
        }
        // A detail that does not say what it is counts only where none says that it is FCM's.
        let untyped = || details().filter(|detail| detail.get("@type").is_none()).find_map(code);
        fault.code = fault.code.or_else(untyped);
        Some(fault)
    }

    fn take(&mut self, detail: &Value) {
        let list = |name: &str| detail.get(name).and_then(Value::as_array).into_iter().flatten().take(DETAILS_MAX);
        let word = |name: &str| detail.get(name).and_then(Value::as_str);
        // Google writes camel case; servers that stand in for it also the names of the fields themselves.
        match word("@type").and_then(|kind| kind.rsplit('/').next()) {
            Some(FCM_ERROR) if self.code.is_none() => self.code = code(detail),
            Some(APNS_ERROR) if self.apns.is_none() => self.apns = word("reason").map(str::to_owned),
            Some(ERROR_INFO) if self.reason.is_none() => self.reason = word("reason").map(str::to_owned),
            Some(BAD_REQUEST) => {
                self.violations.extend(list("fieldViolations").chain(list("field_violations")).map(|violation| {
                    Violation { field: text(violation.get("field")), description: text(violation.get("description")) }
                }))
            }
            Some(QUOTA_FAILURE) => {
                self.quotas.extend(list("violations").map(|violation| text(violation.get("description"))));
                let subject = |violation: &Value| text(violation.get("subject")).to_ascii_lowercase();
                self.is_of_project |= list("violations").any(|violation| subject(violation).starts_with("project"));
            }
            _ => {}
        }
    }
}

/// FCM's code in a detail, if there is one.
fn code(detail: &Value) -> Option<FcmCode> {
    let word = |name: &str| detail.get(name).and_then(Value::as_str);
    word("errorCode").or_else(|| word("error_code")).and_then(FcmCode::of)
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fcm::document::Document;
    use crate::fcm::limits::ANSWER_MAX;
    use proptest::prelude::*;
    use serde_json::json;

    /// In front of the name of a detail's type, which is what counts (`google.protobuf.Any`).
    const TYPE_PREFIX: &str = "type.googleapis.com/";

    const WORDS: [&str; 9] = [
        "UNSPECIFIED_ERROR",
        "INVALID_ARGUMENT",
        "UNREGISTERED",
        "SENDER_ID_MISMATCH",
        "QUOTA_EXCEEDED",
        "UNAVAILABLE",
        "INTERNAL",
        "THIRD_PARTY_AUTH_ERROR",
        "UNKNOWN",
    ];

    /// Reads a body.
    fn parse(body: &[u8]) -> Option<Fault> {
        if let Document::Object(fields) = Document::read(body, None) { Fault::of(&fields) } else { None }
    }

    fn word(code: FcmCode) -> &'static str {
        WORDS.into_iter().find(|word| FcmCode::of(word) == Some(code)).unwrap()
    }

    impl Fault {
        /// The body as FCM writes it.
        fn to_json(&self) -> String {
            let mut error = Map::new();
            error.insert("code".to_owned(), Value::from(400));
            error.insert("message".to_owned(), Value::from(self.message.as_str()));
            error.insert("status".to_owned(), Value::from("X"));
            let details = self.details();
            if !details.is_empty() {
                error.insert("details".to_owned(), Value::Array(details));
            }
            // Google's own bodies are indented by two and end their last line.
            format!("{:#}\n", json!({ "error": error }))
        }

        fn details(&self) -> Vec<Value> {
            let mut details = Vec::new();
            if let Some(code) = self.code {
                details.push(json!({ "@type": type_url(FCM_ERROR), "errorCode": word(code) }));
            }
            if let Some(reason) = &self.apns {
                details.push(json!({ "@type": type_url(APNS_ERROR), "statusCode": 400, "reason": reason }));
            }
            if let Some(reason) = &self.reason {
                details.push(json!({ "@type": type_url(ERROR_INFO), "reason": reason, "domain": "googleapis.com" }));
            }
            if !self.violations.is_empty() {
                let fields = self.violations.iter().map(|v| json!({ "field": v.field, "description": v.description }));
                details.push(json!({ "@type": type_url(BAD_REQUEST), "fieldViolations": fields.collect::<Vec<_>>() }));
            }
            if !self.quotas.is_empty() {
                let subject = if self.is_of_project { "project:12345" } else { "device" };
                let quotas = self.quotas.iter().map(|words| json!({ "subject": subject, "description": words }));
                details.push(json!({ "@type": type_url(QUOTA_FAILURE), "violations": quotas.collect::<Vec<_>>() }));
            }
            details
        }
    }

    /// A type as it stands in `@type`.
    fn type_url(kind: &str) -> String {
        format!("{TYPE_PREFIX}{kind}")
    }

    fn fault() -> impl Strategy<Value = Fault> {
        let violation = (".{0,9}", ".{0,9}").prop_map(|(field, description)| Violation { field, description });
        (
            (".{0,9}", prop::option::of(prop::sample::select(WORDS.map(|word| FcmCode::of(word).unwrap()).to_vec()))),
            prop::collection::vec(violation, 0..3),
            prop::collection::vec(".{0,9}", 0..3),
            prop::option::of(".{0,9}"),
            prop::option::of(".{0,9}"),
            any::<bool>(),
        )
            .prop_map(|((message, code), violations, quotas, reason, apns, is_of_project)| Fault {
                message,
                code,
                violations,
                is_of_project: is_of_project && !quotas.is_empty(),
                quotas,
                reason,
                apns,
            })
    }

    proptest! {
        #[test]
        fn a_fault_survives_its_json(fault in fault()) {
            prop_assert_eq!(parse(fault.to_json().as_bytes()), Some(fault));
        }

        #[test]
        fn no_bytes_break_the_parser(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn a_body_cut_short_at_any_byte_is_none() {
        let fault = Fault { code: Some(FcmCode::Unregistered), ..Fault::default() };
        let json = fault.to_json();
        let whole = json.trim_end().len();
        for end in 0..whole {
            assert_eq!(parse(&json.as_bytes()[..end]), None, "{end}");
        }
        assert!(parse(&json.as_bytes()[..whole]).is_some());
    }

    #[test]
    fn details_are_understood_in_any_order_and_spelling_and_among_others() {
        let details = [
            json!({"@type": type_url(FCM_ERROR), "errorCode": "UNREGISTERED"}),
            json!({"@type": type_url(BAD_REQUEST), "field_violations": [{"field": "message.token", "description": "?"}]}),
            json!({"@type": "type.googleapis.com/google.rpc.Help", "links": [{"url": "https://x"}]}),
            json!({"@type": ERROR_INFO, "reason": "R", "domain": "d", "metadata": {"errorCode": "INTERNAL"}}),
            json!({"@type": FCM_ERROR}),
            json!({"errorCode": "INTERNAL"}),
        ];
        for turn in 0..details.len() {
            let mut turned = details.to_vec();
            turned.rotate_left(turn);
            let body = json!({"error": {"code": 404, "details": turned}, "more": [1]}).to_string();
            let fault = parse(body.as_bytes()).unwrap();
            assert_eq!((fault.code, fault.reason.as_deref()), (Some(FcmCode::Unregistered), Some("R")), "{turn}");
            assert_eq!(fault.violations.len(), 1);
        }
    }

    #[test]
    fn a_code_is_found_under_any_name_of_its_detail() {
        let code = |details: Value| parse(json!({"error": {"details": details}}).to_string().as_bytes()).unwrap().code;
        let dead = Some(FcmCode::Unregistered);
        for (details, expected) in [
            (json!([{"@type": type_url(FCM_ERROR), "error_code": "UNREGISTERED"}]), dead),
            (json!([{"@type": FCM_ERROR, "errorCode": "UNREGISTERED"}]), dead),
            (json!([{"@type": format!("/{FCM_ERROR}"), "errorCode": "UNREGISTERED"}]), dead),
            (json!([{"@type": format!("https://example.com/types/{FCM_ERROR}"), "errorCode": "UNREGISTERED"}]), dead),
            (json!([{"errorCode": "UNREGISTERED"}]), dead),
            (json!([{"links": []}, {"error_code": "UNREGISTERED"}]), dead),
            // What says of itself that it is something else does not speak for FCM.
            (json!([{"@type": "google.rpc.ErrorInfo", "errorCode": "UNREGISTERED"}]), None),
            (json!([{"@type": "x.FcmError", "errorCode": "UNREGISTERED"}]), None),
            (json!([{"@type": FCM_ERROR, "errorCode": 7}]), None),
            (json!([{"@type": FCM_ERROR, "errorCode": "NOT_FOUND"}]), None),
            (json!([{"errorCode": "UNAUTHENTICATED"}, {"errorCode": "UNREGISTERED"}]), dead),
            (json!([{"errorCode": "RESOURCE_EXHAUSTED"}, {"errorCode": "MOONLIGHT"}]), Some(FcmCode::Unknown)),
        ] {
            assert_eq!(code(details.clone()), expected, "{details}");
        }
    }

    #[test]
    fn a_fault_is_understood_in_a_list_and_with_a_byte_that_is_not_utf_8() {
        let whole = json!({"error": {"message": "caf?", "details": [{"errorCode": "UNREGISTERED"}]}}).to_string();
        for body in [format!("[{whole}]"), format!("[\n{whole}\n]\n"), whole.clone()] {
            let mut bytes = body.into_bytes();
            let at = bytes.iter().position(|byte| *byte == b'?').unwrap();
            bytes[at] = 0xe9;
            assert_eq!(parse(&bytes).unwrap().code, Some(FcmCode::Unregistered));
        }
        assert_eq!(parse(format!("[{whole},{whole}]").as_bytes()), None);
    }

    #[test]
    fn what_is_no_fault_of_fcm_is_none() {
        for body in ["", "null", "[]", "{}", r#"{"error":"invalid_grant"}"#, "<!DOCTYPE html>", "{\"name\":\"x\"}"] {
            assert_eq!(parse(body.as_bytes()), None, "{body}");
        }
        let deep = "[".repeat(ANSWER_MAX);
        assert_eq!(parse(deep.as_bytes()), None);
        let huge = format!("{{\"error\":{{\"message\":\"{}\"}}}}", "x".repeat(ANSWER_MAX));
        assert_eq!(parse(huge.as_bytes()), None);
        let odd = br#"{"error":{"code":"404","status":7,"details":[1,{"@type":4},{"@type":"x"},null]}}"#;
        assert_eq!(parse(odd), Some(Fault::default()));
    }
}
