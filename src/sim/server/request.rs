//! What a logged-in client sends, decoded. Decoding needs nothing that connections share, so the shell does it without
//! holding the lock.

use super::draft::{Draft, Invalid};
use crate::ccs::payload::{Ack, Outbound, PayloadError};
use crate::ccs::stanza::{Iq, IqKind, Message, Stanza};
use crate::ccs::xml::{Frame, FramingError};
use serde_json::Value;
use std::sync::Arc;

/// Something that a client wants, or has done wrong.
#[derive(Debug)]
pub(super) enum Request {
    /// The log-in is complete.
    LoggedIn { sender: String },
    /// The log-in was refused.
    LoginFailed,
    /// A stanza came before the log-in was complete.
    Early,
    /// A message for devices, or why it is none.
    Push { message_id: Arc<str>, to: Option<String>, odd_type: bool, draft: Result<Box<Draft>, Invalid> },
    /// An acknowledgement.
    Ack { id: Option<String>, json: String, ack: Ack },
    /// An acknowledgement that does not say of whose message.
    BadAck { message_id: Arc<str> },
    /// A message that has no id to answer to.
    BadStanza { id: Option<String>, json: String, text: &'static str },
    /// A question.
    Question(Iq),
    /// A stanza that has no place here.
    OutOfPlace,
    /// A stanza over a limit.
    Oversize,
    /// The stream cannot be read any further.
    Broken(FramingError),
    /// The client closed the stream.
    Close,
}

impl Request {
    /// Decodes a frame behind the log-in. `None`: nothing follows from it.
    pub(super) fn read(frame: Frame) -> Option<Self> {
        match frame {
            Frame::Stanza(element) => match Stanza::read(&element) {
                Stanza::Message(message) => Some(Self::message(message)),
                Stanza::Iq(iq) => matches!(iq.kind, IqKind::Get | IqKind::Set).then_some(Self::Question(iq)),
                // The client is allowed to find fault with the stream; after that it is over (RFC 6120, 4.9.1.1).
                Stanza::StreamError { .. } => Some(Self::Close),
                _ => Some(Self::OutOfPlace),
            },
            Frame::Header(_) | Frame::Damaged { .. } => Some(Self::OutOfPlace),
            Frame::Dropped(_) => Some(Self::Oversize),
            Frame::Close => Some(Self::Close),
        }
    }

    fn message(message: Message) -> Self {
        let (id, Some(json)) = (message.id, message.json) else {
            return Self::OutOfPlace;
        };
        match Outbound::parse(&json) {
            Ok(Outbound::Ack(ack)) => Self::Ack { id, json, ack },
            Ok(Outbound::Downstream(downstream)) if downstream.message_id.is_empty() => {
                Self::BadStanza { id, json, text: MISSING_ID }
            }
            Ok(Outbound::Downstream(downstream)) => Self::Push {
                message_id: downstream.message_id.as_str().into(),
                to: downstream.to.clone().or_else(|| downstream.condition.clone()),
                odd_type: downstream.fields.contains_key("message_type"),
                draft: Draft::check(downstream).map(Box::new),
            },
            // The only field that is wanted of an acknowledgement besides its id.
            Err(PayloadError::Field("to")) => match message_id(&json) {
                Some(message_id) => Self::BadAck { message_id },
                None => Self::BadStanza { id, json, text: MISSING_ID },
            },
            Err(PayloadError::Field(_)) => Self::BadStanza { id, json, text: MISSING_ID },
            Err(PayloadError::Json { .. } | PayloadError::NotObject | PayloadError::Stanza(_)) => {
                Self::BadStanza { id, json, text: "InvalidJson: JSON_PARSING_ERROR : Not a JSON object\n" }
            }
        }
    }
}

/// As the real server spells it, line feed included.
const MISSING_ID: &str = "InvalidJson: JSON_PARSING_ERROR : Missing Required Field: message_id\n";

fn message_id(json: &str) -> Option<Arc<str>> {
    let fields: Value = serde_json::from_str(json).ok()?;
    fields.get("message_id")?.as_str().map(Into::into)
}
