//! What operators are shown of the store.

use crate::chat::delivery::State;
use crate::chat::status::Status;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What stands in the place of a transport where a delivery goes into an inbox.
pub const INBOX: &str = "inbox";

/// What is known of one id.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Trace {
    /// A message of a BAL with one delivery.
    Delivery(Box<TraceDelivery>),
    /// A message with several.
    Message(Box<TraceMessage>),
    /// A message from a device.
    Upstream(TraceUpstream),
}

/// The life of a message of a BAL. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceDelivery {
    /// The bridge's id.
    pub sid: String,
    /// The sender.
    pub bal: String,
    /// The sender's id.
    pub id: String,
    /// A number that stands for the recipient.
    pub recipient: i64,
    /// By which transport it goes.
    pub transport: String,
    /// The push service's own name for it.
    pub provider_id: Option<String>,
    /// Its order key; messages of one BAL and key go one after the other.
    pub order: Option<String>,
    /// Where it stands.
    pub state: State,
    /// When it is due, if it has to wait.
    pub due_at: Option<u64>,
    /// True while it waits for an earlier one of its recipient.
    pub behind: Option<bool>,
    /// When it is not worth sending any more, if that time ever comes.
    pub deadline: Option<u64>,
    /// When it was taken.
    pub accepted_at: u64,
    /// When it was last handed to a transport.
    pub claimed_at: Option<u64>,
    /// When the push service took it.
    pub sent_at: Option<u64>,
    /// When the final word was spoken.
    pub final_at: Option<u64>,
    /// How often it was handed to a transport.
    pub attempt: u32,
    /// Whether the device may have got it twice.
    pub dup_possible: bool,
    /// Whether the sender wishes to hear of the delivery.
    pub receipt: bool,
    /// Why it failed.
    pub code: Option<String>,
    /// The same, for humans.
    pub detail: Option<String>,
    /// Where its statuses go.
    pub reply: String,
    /// Status documents that nobody has read yet.
    pub statuses_unread: u64,
    /// What was unusual: retries, losses, crashes, new tokens (as hashes).
    pub log: Value,
    /// The hash of the device's token, as long as the message is kept to be sent.
    pub token_hash: Option<String>,
    /// The bytes that are still kept to be sent.
    pub body_bytes: u64,
}

/// A message with several deliveries. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceMessage {
    /// The bridge's id.
    pub sid: String,
    /// The sender.
    pub bal: String,
    /// The sender's id.
    pub id: String,
    /// Its order key, until the next message of the key need not wait for it any more.
    pub order: Option<String>,
    /// The last status that was told.
    pub status: Status,
    /// When it was taken.
    pub accepted_at: u64,
    /// When the first of its deliveries was taken by whom it was handed to.
    pub sent_at: Option<u64>,
    /// When the last status was told.
    pub told_at: u64,
    /// When the final word on the last of its deliveries was spoken.
    pub final_at: Option<u64>,
    /// Until when it is kept after that, if it is.
    pub kept_until: Option<u64>,
    /// Whether a device may have got it twice.
    pub dup_possible: bool,
    /// Whether the sender wishes to hear of any delivery.
    pub receipt: bool,
    /// Why the last of those that failed did.
    pub code: Option<String>,
    /// Where its statuses go.
    pub reply: String,
    /// Status documents that nobody has read yet.
    pub statuses_unread: u64,
    /// The bytes that are still kept, to be sent or after its end.
    pub body_bytes: u64,
    /// Its deliveries, in the order of their ids. `bal` and `id` of each are those of the message. One into an inbox has the
    /// transport [`INBOX`], and its topic as `reply`.
    pub deliveries: Vec<TraceDelivery>,
}

/// The life of a message from a device. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TraceUpstream {
    /// The bridge's id.
    pub sid: String,
    /// The BAL; absent without a route.
    pub bal: Option<String>,
    /// The app.
    pub category: Option<String>,
    /// Its topic.
    pub topic: String,
    /// When it came.
    pub received_at: u64,
    /// When it was published first.
    pub published_at: Option<u64>,
    /// When it was done.
    pub final_at: Option<u64>,
    /// Whether it is still kept for its BAL.
    pub kept: bool,
}

/// The store in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Summary {
    /// Deliveries to devices by state: of a message, as many as it has.
    pub deliveries: BTreeMap<String, u64>,
    /// Upstream messages kept for their BALs.
    pub spool: u64,
    /// Documents that wait to be published, by topic; the spool's topics are among them.
    pub outbox: BTreeMap<String, u64>,
}
