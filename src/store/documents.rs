//! The data of the verbs about documents that wait to be published.

use crate::chat::id::Sid;
use bytes::Bytes;
use std::sync::Arc;

/// Unread notes (errors, refusals before any delivery, events) kept per topic; beyond it the oldest is dropped and
/// counted.
pub const NOTES_PER_TOPIC: u32 = 1000;

/// A document that belongs to no delivery: an error, an event, the refusal of a message that never became a delivery. The
/// id of such a message is not remembered: it may come again, corrected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The MQTT topic on which it is published.
    pub topic: String,
    /// The document.
    pub payload: Bytes,
    /// MQTT 5 correlation data of what it answers.
    pub correlation: Option<Bytes>,
    /// When it was written, in Unix milliseconds.
    pub at: u64,
}

/// What a document is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A status of this message.
    Status(Sid),
    /// This upstream message; done when it is published.
    Upstream(Sid),
    /// This upstream message; done when its BAL acknowledges it.
    UpstreamToAck(Sid),
    /// Nothing the store knows of.
    Note,
    /// This delivery into an inbox: the document is what its message says.
    Delivery(Sid),
    /// A copy of this message between chat users, for one side of the conversation; or of the offer of a call.
    ChatCopy(Sid),
    /// Anything else that a chat user is told.
    UserNote,
}

impl Origin {
    /// Whether it is for those who read its topic now, or have a session that does: without any it is dropped. A chat user
    /// asks later for what was missed.
    pub fn is_dropped_unread(self) -> bool {
        matches!(self, Self::ChatCopy(_) | Self::UserNote)
    }
}

/// By whom a document was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckedBy {
    /// The broker, or a client that is not the owner of the topic.
    Broker,
    /// The owner of the topic, from one of its devices.
    Owner,
}

/// Names one document of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentRef {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its number: growing, never used twice, not even after a restart.
    pub seq: u64,
    /// What it is about.
    pub origin: Origin,
}

/// A document of the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxDocument {
    /// Names it, for [`super::Store::documents_acked`].
    pub reference: DocumentRef,
    /// The document.
    pub payload: Bytes,
    /// Published with it as MQTT 5 correlation data.
    pub correlation: Option<Bytes>,
    /// Whether it may have been published before.
    pub redelivered: bool,
    /// It is of no use from this time on, in Unix milliseconds.
    pub expires_at: Option<u64>,
}

/// A document for a chat user, which is [dropped unread](Origin::is_dropped_unread).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserDocument {
    /// The MQTT topic on which it is published.
    pub topic: String,
    /// The message that it is a copy of ([`Origin::ChatCopy`]); of anything else `None` ([`Origin::UserNote`]).
    pub copy_of: Option<Sid>,
    /// The document.
    pub payload: Bytes,
    /// When it was written, in Unix milliseconds.
    pub at: u64,
}

/// How far the documents of a topic are dropped because nobody reads it: those that are
/// [dropped unread](Origin::is_dropped_unread).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The topic.
    pub topic: Arc<str>,
    /// Up to the document with this number, included.
    pub up_to: u64,
}

/// How far the documents of a topic may have been sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The topic.
    pub topic: Arc<str>,
    /// Up to this document, included.
    pub seq: u64,
}
