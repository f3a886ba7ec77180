//! What the server writes behind the log-in, in the spelling of the captures: answers as `<data:gcm>` without any
//! attributes, messages of devices as `<gcm>` with `type="normal"`.

use crate::ccs::payload::{Accepted, Inbound, Nack};
use crate::ccs::write::{self, ErrorWords, Spelling};
use crate::sim::stats::Stats;
use std::sync::Arc;

/// An answer to a message.
#[derive(Debug)]
pub(super) struct Answer {
    /// When to send it, in Unix milliseconds.
    pub(super) due: u64,
    pub(super) message_id: Arc<str>,
    /// To whom the message was addressed.
    pub(super) from: Option<String>,
    pub(super) word: Word,
}

/// Taken or not.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    Ack { canonical: Option<Arc<str>> },
    Nack { code: String, text: String },
}

impl Word {
    pub(super) fn nack(code: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Nack { code: code.into(), text: text.into() }
    }
}

impl Answer {
    pub(super) fn at_once(message_id: Arc<str>, word: Word) -> Self {
        Self { due: 0, message_id, from: None, word }
    }
}

/// Writes and counts an answer.
pub(super) fn write(out: &mut String, stats: &mut Stats, answer: &Answer) {
    let (message_id, from) = (answer.message_id.to_string(), answer.from.clone());
    let payload = match &answer.word {
        Word::Ack { canonical } => {
            stats.acks += 1;
            {
                let registration_id = canonical.as_deref().map(str::to_owned);
                Inbound::Ack(Accepted { message_id, from, registration_id, ..Accepted::default() })
            }
        }
        Word::Nack { code, text } => {
            stats.nack(code);
            let (error, error_description) = (code.clone(), Some(text.clone()));
            let message_id = Some(message_id);
            Inbound::Nack(Nack { message_id, from, error, error_description, registration_id: None })
        }
    };
    write::server_message(out, &[], Spelling::DataGcm, &payload.to_json());
}

/// Says that the connection is draining.
pub(super) fn draining(out: &mut String) {
    let control = Inbound::Control { control_type: "CONNECTION_DRAINING".to_owned() };
    write::server_message(out, &[], Spelling::DataGcm, &control.to_json());
}

/// Writes a message of a device or a receipt.
pub(super) fn queued(out: &mut String, jid: &str, domain: &str, json: &str) {
    let from = format!("devices@{domain}");
    write::server_message(out, &[("type", "normal"), ("from", &from), ("to", jid)], Spelling::Gcm, json);
}

/// Refuses a message that has no id to answer to.
pub(super) fn bad_request(out: &mut String, id: Option<&str>, jid: &str, json: &str, text: &str) {
    let words = ErrorWords { code: 400, kind: "modify", condition: "bad-request", text };
    write::message_error(out, id.unwrap_or_default(), jid, json, &words);
}

/// Refuses an acknowledgement of nothing outstanding.
pub(super) fn foreign_ack(out: &mut String, id: Option<&str>, jid: &str, json: &str) {
    let text = "Received acks for messages not sent over this connection";
    let words = ErrorWords { code: 406, kind: "modify", condition: "not-acceptable", text };
    write::message_error(out, id.unwrap_or_default(), jid, json, &words);
}
