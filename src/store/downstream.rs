//! What is said with the store about messages of BALs.

use crate::chat::delivery::Life;
use crate::chat::id::{MessageId, Owner, Recipient, Sid};
use crate::chat::recipient_queue::Pace;
use crate::chat::status::Status;
use crate::chat::transport::Transport;
use bytes::Bytes;

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// The bridge's id of it.
    pub sid: Sid,
    /// Who sends it.
    pub bal: Owner,
    /// The sender's id of it.
    pub id: MessageId,
    /// Messages of one recipient are claimed in the order of their `sid`.
    pub recipient: Recipient,
    /// By which transport it goes.
    pub transport: Transport,
    /// Messages of one BAL and key go one after the other, each after the final word on the one before.
    pub order: Option<String>,
    /// The push, as the caller will want it back when it is due.
    pub body: Bytes,
    /// When it came, in Unix milliseconds.
    pub accepted_at: u64,
    /// When it is not worth sending any more, in Unix milliseconds.
    pub deadline_ms: u64,
    /// Whether the sender wishes to hear of the delivery to the device.
    pub receipt: bool,
    /// The topic of the status documents.
    pub reply: String,
    /// MQTT 5 correlation data of the request.
    pub correlation: Option<Bytes>,
    /// What `accepted` says of the document beside that. It is not kept.
    pub notice: Option<String>,
}

/// What became of a [`NewDelivery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is on disk, and so is the status `accepted`.
    Stored,
    /// The same id of the same BAL is known; this status is told again, marked, unless its first telling is unread.
    Repeated(Status),
    /// The queue is full; nothing was stored.
    Full,
}

/// What to hand out.
#[derive(Debug, Clone)]
pub struct DueQuery {
    /// Only what goes by this one.
    pub transport: Transport,
    /// Unix milliseconds.
    pub now: u64,
    /// At most this many.
    pub limit: usize,
    /// How many of one recipient the transport may have at a time.
    pub pace: Pace,
}

/// A message to be sent now. It is in flight until [`super::Store::record`] says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The bridge's id of it.
    pub sid: Sid,
    /// Who gets it.
    pub recipient: Recipient,
    /// What was given to [`super::Store::accept`].
    pub body: Bytes,
    /// When it was accepted, in Unix milliseconds.
    pub accepted_at: u64,
    /// When it is not worth sending any more, in Unix milliseconds.
    pub deadline_ms: u64,
    /// Its life, this attempt included.
    pub life: Life,
}

/// The answer to a [`DueQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// What to send, in this order.
    pub claimed: Vec<Claimed>,
    /// How many were found overdue instead, and expired.
    pub expired: u64,
    /// When to ask again, in Unix milliseconds; not after `now` when more is due already, `None` when nothing waits.
    pub next_due: Option<u64>,
}

/// What an event did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// No such delivery, or not any more.
    Unknown,
    /// It means nothing (any more).
    Swallowed,
    /// The delivery moved.
    Moved {
        /// Its sender.
        bal: String,
        /// Its sender's id of it.
        id: String,
        /// Where it stands now.
        life: Life,
        /// What the sender was told.
        told: &'static [Status],
    },
}
