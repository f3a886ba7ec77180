//! The data of the verbs about messages of BALs.

use crate::chat::delivery::Life;
use crate::chat::id::{MessageId, Owner, Recipient, Sid};
use crate::chat::recipient_queue::Pipelining;
use crate::chat::status::Status;
use crate::chat::transport::Transport;
use bytes::Bytes;

/// Most deliveries of one message.
pub const DELIVERIES_MAX: usize = 1_000;

/// A message to be sent, to one recipient or to several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The bridge's id of it.
    pub sid: Sid,
    /// Who sends it.
    pub bal: Owner,
    /// The sender's id of it.
    pub id: MessageId,
    /// Messages of one BAL and key go one after the other: all deliveries of one wait until the one before has been told a
    /// final status, or has no push open any more (to be pushed, or sent and waiting for its receipt). None waits for what
    /// lies in an inbox.
    pub order: Option<String>,
    /// What each recipient gets, as the caller will want it back when it is due.
    pub body: Bytes,
    /// When it came, in Unix milliseconds.
    pub accepted_at: u64,
    /// The topic of the status documents.
    pub reply: String,
    /// MQTT 5 correlation data of the request.
    pub correlation: Option<Bytes>,
    /// Names of ignored fields, told in `accepted`. It is not kept.
    pub notice: Option<String>,
    /// Who gets it.
    pub deliveries: Deliveries,
}

/// Whom a message goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deliveries {
    /// The only recipient, who is named in the body. The delivery goes by the message's own id.
    Only(NewPush),
    /// Recipients with a delivery each.
    Several(SeveralDeliveries),
}

/// A message to be pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPush {
    /// Messages of one recipient are claimed in the order of their `sid`.
    pub recipient: Recipient,
    /// The order of a recipient's messages holds on one transport, not across them.
    pub transport: Transport,
    /// When it is not worth sending any more, in Unix milliseconds.
    pub deadline_ms: u64,
    /// Whether the sender wishes to hear of the delivery to the device, and the transport can tell.
    pub receipt: bool,
}

/// 1 to [`DELIVERIES_MAX`] deliveries of one message, whose ids rise from that of the message on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeveralDeliveries {
    deliveries: Vec<NewDelivery>,
    kept_until: Option<u64>,
}

/// Why deliveries cannot be those of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeliveriesError {
    /// There is none, or there are more than [`DELIVERIES_MAX`].
    #[error("a message cannot have {0} deliveries")]
    Count(usize),
    /// This one's id does not rise above that of the message, or of the delivery before it.
    #[error("the id of the delivery {0} does not follow the one before it")]
    Order(Sid),
}

impl SeveralDeliveries {
    /// The deliveries of the message with this id.
    ///
    /// # Errors
    /// When there is none, there are too many, or their ids do not rise.
    pub fn new(message: Sid, deliveries: Vec<NewDelivery>) -> Result<Self, DeliveriesError> {
        if !(1..=DELIVERIES_MAX).contains(&deliveries.len()) {
            return Err(DeliveriesError::Count(deliveries.len()));
        }
        let mut before = message;
        for NewDelivery { sid, .. } in &deliveries {
            // Each has a row of its own, which its id names.
            if sid.row() <= before.row() {
                return Err(DeliveriesError::Order(*sid));
            }
            before = *sid;
        }
        Ok(Self { deliveries, kept_until: None })
    }

    /// The message stays after its end, with its body, until this time (Unix milliseconds), and at
    /// least as long as any settled message is remembered.
    pub fn kept_until(self, at: u64) -> Self {
        Self { kept_until: Some(at), ..self }
    }

    pub(super) fn parts(&self) -> (&[NewDelivery], Option<u64>) {
        (&self.deliveries, self.kept_until)
    }
}

/// One of several deliveries of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// The bridge's id of it: greater than the message's, and than those of the deliveries before it.
    pub sid: Sid,
    /// Where it goes.
    pub destination: Destination,
}

impl NewDelivery {
    pub(super) fn receipt(&self) -> bool {
        match &self.destination {
            Destination::Push { push, .. } => push.receipt,
            Destination::Inbox { receipt, .. } => *receipt,
        }
    }
}

/// Where one of several deliveries goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To a push service, by its transport.
    Push {
        /// When, and to whom.
        push: NewPush,
        /// What of the message is this recipient's alone, as the caller will want it back with the body.
        address: Bytes,
    },
    /// Into an inbox: the body is published there as it is.
    Inbox {
        /// The topic of the inbox.
        topic: String,
        /// When it is not worth reading any more, in Unix milliseconds; without, it lies there until it is taken.
        deadline_ms: Option<u64>,
        /// Whether the sender wishes to hear that its reader has it. What only a broker has taken waits for the receipt
        /// until the deadline and [`super::RECEIPT_GRACE_MS`] more; without a deadline, so long after it was taken.
        receipt: bool,
    },
}

/// What became of a [`NewMessage`].
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
    /// Hands out messages of this transport only.
    pub transport: Transport,
    /// Unix milliseconds.
    pub now: u64,
    /// For how many messages the transport has room, those included that were accepted as in flight and that it has not
    /// taken yet.
    pub limit: usize,
    /// How many of the messages that were accepted as in flight the dispatcher has taken from the list since the start
    /// ([`super::Store::take_claimed_on_accept`]).
    pub taken_on_accept: u64,
    /// How many of one recipient the transport may have at a time.
    pub pipelining: Pipelining,
}

/// A delivery to be sent now. It is in flight until [`super::Store::record`] says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The bridge's id of it.
    pub sid: Sid,
    /// Who gets it.
    pub recipient: Recipient,
    /// What was given to [`super::Store::accept`].
    pub body: Bytes,
    /// Likewise, of one of several deliveries.
    pub address: Option<Bytes>,
    /// When it was accepted, in Unix milliseconds.
    pub accepted_at: u64,
    /// When it is not worth sending any more, in Unix milliseconds.
    pub deadline_ms: u64,
    /// Its life, this attempt included.
    pub life: Life,
}

/// The answer to a [`DueQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DueBatch {
    /// What to send, in this order.
    pub claimed: Vec<Claimed>,
    /// How many messages were found overdue instead, and expired.
    pub expired: u64,
    /// How many messages of this transport were accepted as in flight, since the store was opened, before these were
    /// handed out.
    pub claimed_on_accept: u64,
    /// When to ask again, in Unix milliseconds; not after `now` when more is due already, `None` when nothing waits.
    pub next_due: Option<u64>,
}

/// What an event did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// No such delivery, or not any more.
    Unknown,
    /// The event does not apply to the delivery in its state; nothing changed.
    NoEffect,
    /// The delivery moved.
    Moved {
        /// The sender of its message.
        bal: String,
        /// The sender's id of the message.
        id: String,
        /// Where the delivery stands now.
        life: Life,
        /// What the sender was told of the message.
        told: &'static [Status],
    },
}
