//! Messages that are to be sent at a time: what their writer is told of them until then, on `receipts`.

use crate::chat::message::Rejection;
use serde::Serialize;

/// Where a message stands that is to be sent at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduledStatus {
    /// It waits for its time, in Unix milliseconds.
    Scheduled(u64),
    /// Its writer took it back.
    Cancelled,
    /// Its time came, and it was refused.
    Failed(Rejection),
}

/// A document of the writer's `receipts`.
#[derive(Debug, Serialize)]
struct Document<'a> {
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    ts: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redelivered: bool,
}

/// What the writer of the message `id` is told at `ts` (Unix milliseconds); `redelivered`: it was told before.
pub fn scheduled_document(id: &str, status: &ScheduledStatus, ts: u64, redelivered: bool) -> Vec<u8> {
    let (word, not_before, rejection) = match status {
        ScheduledStatus::Scheduled(at) => ("scheduled", Some(*at), None),
        ScheduledStatus::Cancelled => ("cancelled", None, None),
        ScheduledStatus::Failed(rejection) => ("failed", None, Some(rejection)),
    };
    let code = rejection.map(|rejection| rejection.code().to_string());
    let detail = rejection.map(Rejection::detail);
    crate::chat::message::json(&Document { id, status: word, not_before, code, detail, ts, redelivered })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::message::ErrorCode;
    use serde_json::{Value, json};

    #[test]
    fn the_writer_is_told_when_and_why_not() {
        let rejection = Rejection::new(ErrorCode::NotFound, "nobody");
        for (status, again, expected) in [
            (
                ScheduledStatus::Scheduled(7),
                false,
                json!({"id": "m1", "status": "scheduled", "not_before": 7, "ts": 5}),
            ),
            (
                ScheduledStatus::Scheduled(7),
                true,
                json!({"id": "m1", "status": "scheduled", "not_before": 7, "ts": 5, "redelivered": true}),
            ),
            (ScheduledStatus::Cancelled, false, json!({"id": "m1", "status": "cancelled", "ts": 5})),
            (
                ScheduledStatus::Failed(rejection),
                false,
                json!({"id": "m1", "status": "failed", "code": "NOT_FOUND", "detail": "nobody", "ts": 5}),
            ),
        ] {
            let document: Value = serde_json::from_slice(&scheduled_document("m1", &status, 5, again)).unwrap();
            assert_eq!(document, expected);
        }
    }
}
