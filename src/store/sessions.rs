//! What is said with the store about the sessions of an MQTT broker: their queues, subscriptions, retained messages, wills.

use super::documents::{AckedBy, DocumentRef, OutboxDocument};
use super::downstream::Recorded;
use crate::chat::id::Sid;
use crate::chat::principal::Role;
use crate::chat::qos::QoS;
use bytes::Bytes;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Events of commits that wait to be taken from the store, at most; beyond it only the names of topics and queues are
/// kept.
pub const COMMIT_EVENTS_MAX: usize = 8192;
/// Their bytes, at most: topics, payloads, properties.
pub const COMMIT_EVENTS_BYTES: usize = 16 << 20;

/// Names a queue: of a session, or of a group that shares a subscription. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub i64);

/// An application message as it was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The topic, never an alias.
    pub topic: Arc<str>,
    /// The payload.
    pub payload: Bytes,
    /// The properties of MQTT 5 that go to readers unchanged, as they are on the wire: payload format, content type, response
    /// topic, correlation data, user properties. Message expiry, topic alias and subscription ids are not among them.
    pub properties: Bytes,
    /// As it was published; a reader gets it with this or with what it asked for, the lower one.
    pub qos: QoS,
    /// Whether it was published to be retained.
    pub retain: bool,
    /// When it is not worth delivering any more, in Unix milliseconds.
    pub expires_at: Option<u64>,
}

impl Message {
    /// What it counts for wherever bytes of messages are counted: payload and properties.
    pub fn bytes(&self) -> u64 {
        (self.payload.len() + self.properties.len()) as u64
    }
}

/// How a message goes to the reader of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The queue.
    pub queue: QueueId,
    /// The quality of service with which it is delivered.
    pub qos: QoS,
    /// The retain flag that the reader sees.
    pub retain: bool,
    /// The identifiers of the subscriptions that match.
    pub ids: Vec<u32>,
}

/// A session that outlives its connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionRecord {
    /// Its name in the store: made of user and client id.
    pub key: String,
    /// Whose it is; `None` for a client without a log-in.
    pub user: Option<String>,
    /// The MQTT client id.
    pub client: String,
    /// How long it is kept without a connection, in seconds; `u32::MAX`: for ever.
    pub expiry_s: u32,
    /// How its user logged in last; `None`: without a log-in, or that is not known.
    #[serde(skip)]
    pub login: Option<KeptLogin>,
}

/// How somebody logged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptLogin {
    /// As what.
    pub role: Role,
    /// The SHA-256 of the key by which the token was signed; `None`: it was a password.
    pub token_key: Option<[u8; 32]>,
}

/// A subscription of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSubscription {
    /// The filter, whole, with `$share/` where it is shared.
    pub filter: String,
    /// The options, as in the packet (MQTT 5, 3.8.3.1).
    pub options: u8,
    /// The identifier that the client gave it.
    pub id: Option<u32>,
}

/// A session as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSession {
    /// Names it to all other verbs.
    pub queue: QueueId,
    /// Whose it is.
    pub record: SessionRecord,
    /// When its last connection ended, in Unix milliseconds; `None` while it has one, or had one at a crash.
    pub left_at: Option<u64>,
    /// What it subscribed to.
    pub subscriptions: Vec<KeptSubscription>,
    /// Messages of clients that wait for it.
    pub rows: u64,
    /// [`Message::bytes`] of all of them.
    pub bytes: u64,
    /// Packet identifiers of QoS 2 messages that it published and has not released.
    pub incoming: Vec<u16>,
}

/// A session from elsewhere, with all that is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedSession {
    /// Whose it is.
    pub record: SessionRecord,
    /// When its last connection ended, in Unix milliseconds.
    pub left_at: u64,
    /// What it subscribed to.
    pub subscriptions: Vec<KeptSubscription>,
    /// The messages that wait for it, in the order in which they are sent.
    pub messages: Vec<ImportedMessage>,
    /// Packet identifiers of QoS 2 messages that it published and has not released, and that nobody has got yet.
    pub incoming: Vec<u16>,
}

/// A message for a session. QoS and retain flag are those with which it is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedMessage {
    /// The message.
    pub message: Message,
    /// The identifiers of the subscriptions that matched.
    pub ids: Vec<u32>,
    /// How far it got, if it was sent.
    pub sent: Option<ImportedSent>,
}

/// How far a message got that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportedSent {
    /// Its packet identifier.
    pub packet_id: u16,
    /// QoS 2: its PUBREC has come, its PUBCOMP has not. It has no body any more.
    pub released: bool,
}

/// The queue of a shared subscription with at least one lasting member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptGroup {
    /// Names it to all other verbs.
    pub queue: QueueId,
    /// `{group}/{filter}`, as behind `$share/`.
    pub name: String,
    /// Messages of clients that wait for it.
    pub rows: u64,
    /// [`Message::bytes`] of all of them.
    pub bytes: u64,
}

/// A retained message, without its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptRetained {
    /// Its topic.
    pub topic: String,
    /// [`Message::bytes`].
    pub bytes: u64,
    /// Who published it; `None` for the bridge and for clients without a log-in.
    pub user: Option<String>,
    /// As it was published.
    pub qos: u8,
    /// When it is to be dropped, in Unix milliseconds.
    pub expires_at: Option<u64>,
}

/// What a client wants published when its connection breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// The message. Its expiry counts from the time at which it is published: here it is the interval in milliseconds.
    pub message: Message,
    /// How long it waits for the client to come back, in seconds.
    pub delay_s: u32,
}

/// Which will of a session is meant: by the time of the answer it may have another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WillRef {
    /// The queue of the session.
    pub queue: QueueId,
    /// When it is due, in Unix milliseconds; `None` if the store was told of no end of its connection.
    pub due_at: Option<u64>,
}

/// The will of a session as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptWill {
    /// The session's queue.
    pub queue: QueueId,
    /// When it is to be published, in Unix milliseconds; `None` while the session has a connection.
    pub due_at: Option<u64>,
    /// The will.
    pub will: Will,
}

/// All that a broker has to know before its first client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerState {
    /// The sessions.
    pub sessions: Vec<KeptSession>,
    /// The groups.
    pub groups: Vec<KeptGroup>,
    /// The retained messages.
    pub retained: Vec<KeptRetained>,
    /// The wills.
    pub wills: Vec<KeptWill>,
}

/// What becomes of the retained message of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retain {
    /// The message takes its place; it was published by this user.
    Keep(Option<String>),
    /// It is dropped.
    Clear,
}

/// A message, and everything its acknowledgement promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enqueue {
    /// The message.
    pub message: Arc<Message>,
    /// The queues that get it. One that has ended meanwhile gets nothing. With QoS 0 it is not kept: they are notified of it in
    /// its place among the others, and that is all.
    pub targets: Vec<Target>,
    /// The packet identifier of a QoS 2 message, taken by the session with this queue. If the session has taken it before
    /// and not released it, this is a copy, and nothing is done.
    pub incoming: Option<(QueueId, u16)>,
    /// What becomes of the retained message of its topic.
    pub retain: Option<Retain>,
    /// It is this will, which is not kept any longer.
    pub will: Option<WillRef>,
}

/// QoS 2: a row of a group that is for one member alone from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenRow {
    /// Its number.
    pub seq: u64,
    /// The message.
    pub message: Arc<Message>,
    /// The queue of the member, and how it is delivered.
    pub target: Target,
    /// Another member may have it.
    pub copy: bool,
}

/// A message in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRow {
    /// Its number: growing over the whole store, never used twice.
    pub seq: u64,
    /// The message; of one that was released, without its body.
    pub message: Arc<Message>,
    /// How it is delivered; `queue` is the queue that was read.
    pub target: Target,
    /// QoS 2: the packet identifier that it was given.
    pub packet_id: Option<u16>,
    /// QoS 2: its PUBREC has come, its PUBCOMP has not.
    pub released: bool,
    /// It may have been sent before the last start, or by another member of the group that gave the row away. What was
    /// sent since then its window knows itself.
    pub maybe_sent: bool,
}

/// A number of rows of `queue`, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowCount {
    /// Messages of clients; documents count 0.
    pub rows: u64,
    /// Their bytes, as in [`KeptSession::bytes`].
    pub bytes: u64,
}

/// The next rows of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowPage {
    /// The rows, in their order.
    pub rows: Vec<QueueRow>,
    /// What had expired on the way.
    pub expired: RowCount,
    /// There are further ones behind these; if not, the broker is notified of all that come later.
    pub more: bool,
}

/// A document for the reader of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedDocument {
    /// The document. The origin of one that was settled before is the same as it was then.
    pub waiting: OutboxDocument,
    /// How it goes to the reader, if it was settled by another one: it is a row of this queue alone now.
    pub own: Option<Target>,
}

/// The next documents of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DocumentPage {
    /// The documents, in their order.
    pub documents: Vec<QueuedDocument>,
    /// There are further ones behind these; if not, the broker is notified of all that come later.
    pub more: bool,
}

/// How much one look into a queue brings at most. One row always comes, if there is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// At most so many rows.
    pub rows: usize,
    /// Bytes of payloads and properties.
    pub bytes: usize,
}

/// A document that a reader has, and whom else it is still for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckedDocument {
    /// The document.
    pub reference: DocumentRef,
    /// Lasting queues that it becomes a row of, if it was not settled before. Those rows count for no limit.
    pub others: Vec<Target>,
}

/// What the reader of a queue has acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// The queue, if it is a lasting one.
    pub queue: Option<QueueId>,
    /// Numbers of rows of the queue.
    pub rows: Vec<u64>,
    /// Documents.
    pub documents: Vec<AckedDocument>,
    /// Whose the acknowledgement is.
    pub by: AckedBy,
    /// When, in Unix milliseconds.
    pub at: u64,
    /// Somebody waits until it is on disk: it does not wait for a transaction of others.
    pub is_awaited: bool,
}

/// What came of an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AckOutcome {
    /// The rows of clients that went now: one that had expired meanwhile is not among them.
    pub rows: RowCount,
    /// What became of the deliveries among the documents.
    pub moved: Vec<(Sid, Recorded)>,
}

/// What a commit brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitEvent {
    /// A row of a queue.
    Row {
        /// Its number.
        seq: u64,
        /// The message.
        message: Arc<Message>,
        /// The queue, and how it is delivered.
        target: Target,
    },
    /// A document.
    Document {
        /// Its name.
        reference: DocumentRef,
        /// The document.
        payload: Bytes,
        /// MQTT 5 correlation data.
        correlation: Option<Bytes>,
        /// It is of no use from this time on, in Unix milliseconds.
        expires_at: Option<u64>,
    },
    /// Rows of a queue went that nobody acknowledged.
    Gone {
        /// The queue.
        queue: QueueId,
        /// What they counted for.
        gone: RowCount,
    },
}

/// What the last commits brought, in their order; then the names of what there was no room for, which is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitEvents {
    /// What came.
    pub items: Vec<CommitEvent>,
    /// Topics that got further documents.
    pub topics: BTreeSet<String>,
    /// Queues that got further rows.
    pub queues: BTreeSet<QueueId>,
    /// What went out of queues without an acknowledgement.
    pub gone: BTreeMap<QueueId, RowCount>,
    /// How many commits had told something when this was taken, as [`crate::store::Store::commits_told`].
    pub commits: u64,
}

/// What the sweep of the queues did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweptQueues {
    /// Rows that had expired, by queue.
    pub expired: BTreeMap<QueueId, RowCount>,
    /// Topics whose retained messages had expired.
    pub retained: Vec<String>,
    /// There is more to do at once.
    pub more: bool,
}

/// A session, as operators are shown it. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionSummary {
    /// Whose it is.
    #[serde(flatten)]
    pub record: SessionRecord,
    /// When its last connection ended; absent while it has one.
    pub left_at: Option<u64>,
    /// How many subscriptions it has.
    pub subscriptions: u64,
    /// Messages of clients that wait for it.
    pub rows: u64,
    /// [`Message::bytes`] of all of them.
    pub bytes: u64,
    /// Documents of the bridge that another reader has had and that wait for this one.
    pub documents: u64,
}
