//! The documents of `topics.md`: what clients write is parsed here, what the bridge writes is built here.
//!
//! Invariants: any bytes give a value or a [`Rejection`], never a panic; what was accepted keeps to the limits; no
//! error text holds a token or a value out of a payload.

mod body;
mod bridge;
mod ccs_form;
mod condition;
mod content;
mod direct;
mod downstream;
mod error;
pub(in crate::chat) mod fields;
mod gate;
mod presence;
mod receipt;
mod reject;
mod sender;
mod target;
mod upstream;

pub use body::BodyError;
pub use bridge::{BridgeEvent, BridgeState, BridgeStats, BridgeStatus, BrokerKind, TransportStats};
pub use condition::condition_fault;
pub use direct::{NotDirect, direct_writer};
pub use downstream::{Downstream, Errand, NOW_OR_NEVER_MS, ORDER_MAX};
pub use error::{ErrorDocument, SAMPLE_BYTES, error_summary};
pub use gate::{ERRORS_PER_SECOND, ErrorGate, GATE_OWNERS_MAX};
pub use presence::{CONN_MAX, Presence, PresenceState, UserPresence};
pub use receipt::{BalReceipt, RECEIPT_IDS_MAX};
pub use reject::{ErrorCode, Rejection};
pub use sender::Sender;
pub use target::{CONDITION_MAX, CONDITION_TOPICS_MAX, TOPIC_NAME_MAX};
pub use upstream::{UpstreamMessage, mark_redelivered, may_be_of_user, to_user_message};

use crate::chat::id::MessageId;

/// Longest `collapse`, in characters.
pub const COLLAPSE_MAX: usize = 64;

/// How large a message may be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A whole payload.
    pub payload_bytes: usize,
    /// `data` and `notification` of a message to one device: their keys and values.
    pub push_bytes: usize,
    /// The same of a message to an FCM topic or a condition over topics.
    pub topic_push_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload_bytes: 65_536, push_bytes: 4096, topic_push_bytes: 2048 }
    }
}

/// A payload with `to` set to this recipient.
///
/// # Errors
/// When it is no JSON object, too big, or names another one.
pub fn with_recipient(payload: &[u8], to: &str, limits: &Limits) -> Result<Vec<u8>, Rejection> {
    let mut fields = fields::Fields::read(payload, limits.payload_bytes)?;
    let mut document = fields.rest();
    if document.get("to").is_some_and(|named| named != to) {
        let contradicts = Rejection::bad_field("to", "names somebody else than the topic");
        return Err(contradicts.about(document_id(payload)));
    }
    document.insert("to".to_owned(), to.into());
    Ok(json(&document))
}

/// The `id` of a document that the bridge wrote, if it has one.
pub fn document_id(payload: &[u8]) -> Option<MessageId> {
    #[derive(serde::Deserialize)]
    struct Named {
        id: String,
    }
    let Named { id } = serde_json::from_slice(payload).ok()?;
    MessageId::new(id).ok()
}

/// Room for most documents, so that the text is not moved while it grows.
const ROOM: usize = 512;

pub(in crate::chat) fn json(document: &impl serde::Serialize) -> Vec<u8> {
    let mut text = Vec::with_capacity(ROOM);
    serde_json::to_writer(&mut text, document).expect("text, numbers and maps with text keys have a JSON form");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_into_an_inbox_is_for_its_owner_and_for_nobody_else() {
        let limits = Limits::default();
        let written = |payload: &str| with_recipient(payload.as_bytes(), "bob", &limits);
        for payload in [r#"{"body":"hi"}"#, r#"{"body":"hi","to":"bob"}"#] {
            let document: serde_json::Value = serde_json::from_slice(&written(payload).unwrap()).unwrap();
            assert_eq!(document, serde_json::json!({ "body": "hi", "to": "bob" }));
        }
        let refused = written(r#"{"id":"m1","body":"hi","to":"carol"}"#).unwrap_err();
        assert_eq!((refused.code(), refused.ref_id().map(MessageId::as_str)), (ErrorCode::BadField, Some("m1")));
    }
}
