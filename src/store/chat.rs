//! The data of the verbs about chat between users.
//!
//! A verb decides in its own transaction, by the pure rules of [`crate::chat`]: whether the reader takes the message, its
//! place in the conversation, and whether each device is pushed. What the store cannot know comes with the verb: who is
//! there, and who looks ([`Attended`]).

use crate::chat::attention::Attended;
use crate::chat::contact::{Entry, MuteLevel};
use crate::chat::delivery::State;
use crate::chat::group::GroupDelivery;
use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::{PresenceState, Rejection};
use crate::chat::principal::Role;
use crate::chat::push_decision::{Asked, PushWhen, Rule, Verdict};
use crate::chat::suffix::devices::{Registration, VerifyTokens};
use crate::chat::suffix::invitations::Invitation;
use crate::chat::suffix::messages::UserMessage;
use crate::chat::suffix::requests::Writers;
use crate::chat::topic::Device;
use crate::chat::transport::Transports;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;

/// Most devices of a user that have registered a token.
pub const USER_DEVICES_MAX: usize = 10;
/// Most items of one answer to `sync`, and so many of the newest without a `since`.
pub const SYNC_MAX: usize = 100;
/// Largest answer to `sync`, in bytes of its items.
pub const SYNC_BYTES: usize = 49_152;

/// What the operator has set for chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatPolicy {
    /// Which attended devices hold pushes back.
    pub push_when: PushWhen,
    /// Who may write to a user who has not said so.
    pub writers: Writers,
    /// By which transport an app is pushed.
    pub transports: Transports,
    /// Most messages of one writer that wait for their time.
    pub scheduled_max: u32,
    /// BALs that are told of events, and where; each event takes an id for each of them.
    pub listeners: Vec<super::Route>,
    /// BALs that acknowledge what is in their inboxes explicitly.
    pub explicit: HashSet<Owner>,
    /// Where members read what is written in a group.
    pub group_delivery: GroupDelivery,
}

/// When a verb was asked for, by the wall clock, and what it needs for pushes.
#[derive(Debug, Clone)]
pub struct ChatCall {
    /// Unix milliseconds.
    pub at: u64,
    /// Ids for the pushes that come of it: they rise, and rise above every id that was given out before. Each push takes one;
    /// those for which none is left are not made.
    pub push_sids: Vec<Sid>,
    /// What the operator has set.
    pub policy: Arc<ChatPolicy>,
}

/// A user or BAL, and what is known of it outside of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name.
    pub name: Owner,
    /// What it is; `None`: a user, if the store has heard of it.
    pub role: Option<Role>,
    /// Its devices that somebody is looking at.
    pub attended: Attended,
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// The name.
    pub name: Owner,
    /// A user or a BAL.
    pub role: Role,
    /// The device.
    pub dev: Option<Device>,
    /// It logged in by a token, or by a password; `None`: that is not known.
    pub by_token: Option<bool>,
    /// Its devices that have a connection: they need no push to clear a notification.
    pub connected: Vec<Device>,
    /// It may write to somebody who has it not as a contact: its limit for those is not used up.
    pub strangers: bool,
    /// The gatekeeper lets it write to whom this is for.
    pub let_in: bool,
    /// It wrote into the inbox of its reader, who has the document already; and nothing proves who wrote.
    pub direct: bool,
}

/// A message of a user or BAL to a user or BAL.
#[derive(Debug, Clone)]
pub struct NewChatMessage {
    /// The bridge's id of it.
    pub sid: Sid,
    /// Who wrote it.
    pub from: Writer,
    /// Whom it is for.
    pub to: Peer,
    /// What was written.
    pub message: UserMessage,
    /// Until when its pushes are worth sending, in Unix milliseconds.
    pub deadline_ms: u64,
    /// Where a message to a BAL goes, if it is for one.
    pub route: Option<super::Route>,
}

/// A message that waits for its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledMessage {
    /// Names its row; as a message it gets another id.
    pub sid: Sid,
    /// Who wrote it.
    pub writer: Owner,
    /// A user or a BAL.
    pub role: Role,
    /// The writer's id of it, or the one that it was given.
    pub id: MessageId,
    /// The device that wrote it.
    pub dev: Option<Device>,
    /// Its writer had logged in by a token, or by a password; `None`: that is not known.
    pub by_token: Option<bool>,
    /// When it is to be sent, in Unix milliseconds.
    pub not_before: u64,
    /// For how long its pushes are worth sending from then on, in milliseconds.
    pub ttl_ms: u64,
    /// What its readers get, without the stamp.
    pub document: Bytes,
}

/// What waits for its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledPage {
    /// At most [`SYNC_MAX`] of them, and about [`SYNC_BYTES`].
    pub items: Vec<ScheduledMessage>,
    /// There is none behind them.
    pub complete: bool,
}

/// An invitation, or an answer to one.
#[derive(Debug, Clone)]
pub struct NewInvitation {
    /// The bridge's id of it.
    pub sid: Sid,
    /// Who wrote it.
    pub from: Writer,
    /// Whom it is for.
    pub to: Peer,
    /// What was written.
    pub invitation: Invitation,
}

/// What became of what a user wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatOutcome {
    /// It is on disk.
    Done {
        /// Whose contacts have changed by it: who sees the first one's presence now, or no longer.
        seen: Vec<Seeing>,
        /// The reader has not the writer as a contact: limits for strangers count it.
        stranger: bool,
        /// Whether pushes wait for the confirmation of attended devices.
        waits: bool,
        /// What the device has by its receipt: the messages that it names, and those of [`NewReceipt::waited`] that lie before
        /// them in their conversation, where it is about those as well.
        confirmed: Vec<Sid>,
    },
    /// It waits for its time, and its writer was told so.
    Scheduled,
    /// It is known; its writer was told again.
    Repeated,
    /// It is refused.
    Refused(Rejection),
    /// There is no room for it in the inbox of its BAL: nothing was stored.
    Full,
}

/// Whether one user sees another one's presence and profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeing {
    /// Who sees.
    pub watcher: Owner,
    /// Who is seen.
    pub of: Owner,
    /// Whether it is so from now on.
    pub visible: bool,
}

/// What a device of a user has, or its user has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReceipt {
    /// Whose device it is.
    pub user: Owner,
    /// The device, if it is known.
    pub dev: Option<Device>,
    /// Somebody is looking at that device.
    pub attended: bool,
    /// The user's devices that have a connection.
    pub connected: Vec<Device>,
    /// The messages.
    pub of: ReceiptOf,
    /// Messages of any conversation, none newer than those, of which pushes wait for this device.
    pub waited: Vec<Sid>,
    /// Its user has read them.
    pub read: bool,
}

impl NewReceipt {
    /// In how many conversations it may be read, at most.
    pub fn conversations(&self) -> usize {
        match &self.of {
            ReceiptOf::Each(sids) => sids.len(),
            ReceiptOf::UpTo(_) | ReceiptOf::In(..) => 1,
        }
    }
}

/// Which messages a receipt is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiptOf {
    /// These.
    Each(Vec<Sid>),
    /// This one, and all of its conversation before it.
    UpTo(Sid),
    /// The same, in the conversation with this peer.
    In(Owner, Sid),
}

/// A device registers, or takes its registration back.
#[derive(Debug, Clone)]
pub struct DeviceChange {
    /// Whose device it is.
    pub user: Owner,
    /// The device.
    pub dev: Device,
    /// What it registers; `None`: it takes that back.
    pub registration: Option<Registration>,
    /// The word to push to the token if it has to be proved whose it is.
    pub proof: String,
    /// Whether each token, no token, or that of another user has to be proved.
    pub verify: VerifyTokens,
}

/// A change of what a user has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingChange {
    /// What is set about another user.
    About(Owner, EntryChange),
    /// Who may write.
    Writers(Writers),
    /// Whether others see when the user is there.
    HidePresence(bool),
    /// Whether others see what the user has read.
    HideRead(bool),
}

/// A change of what a user has set about another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryChange {
    /// No pushes until then, in Unix milliseconds, or only those of this level; `None`: pushes again.
    Mute(Option<(u64, MuteLevel)>),
    /// Nothing of the other one any more; or the end of that.
    Block(bool),
    /// The other one is no contact any more.
    RemoveContact,
}

/// What a user has set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserSettings {
    /// Who may write; `None`: as the server has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writers: Option<Writers>,
    /// Others do not see when the user is there.
    pub hide_presence: bool,
    /// Others do not see what the user has read.
    pub hide_read: bool,
}

/// Most contacts of one page: with long names and all that is said of each, still within the largest payload.
pub const CONTACTS_PAGE: usize = 100;

/// Contacts by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactPage {
    /// At most [`CONTACTS_PAGE`].
    pub items: Vec<Contact>,
    /// There is none behind them.
    pub complete: bool,
}

/// Somebody about whom a user has set something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Who.
    pub user: Owner,
    /// The JSON of the profile, if there is one.
    pub profile: Option<String>,
    /// What is set.
    pub entry: Entry,
    /// Whether they are there, as far as the user may see it.
    pub presence: Option<SeenPresence>,
}

/// Whom a user sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VisibleTo {
    /// Those whose contact the user is: their profiles, and their presence.
    pub users: Vec<Owner>,
    /// Their presence as well: who hides sees that of nobody.
    pub presence: bool,
}

/// Whether a contact is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenPresence {
    /// There or not.
    pub state: PresenceState,
    /// When the last device went, in Unix milliseconds, if that is known.
    pub last_seen: Option<u64>,
}

/// A device of a user, as its user and operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownDevice {
    /// Its name.
    pub dev: Device,
    /// A short hash of its token.
    pub token_hash: String,
    /// When it registered, in Unix milliseconds.
    pub registered_at: u64,
    /// When it was last pushed, in Unix milliseconds.
    pub pushed_at: Option<u64>,
    /// The JSON of the last refusal.
    pub error: Option<String>,
}

/// A page of what a user has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncPage {
    /// Stamped documents, in their order.
    pub items: Vec<Bytes>,
    /// The `since` of the next page.
    pub next: Option<Sid>,
    /// There is nothing behind these.
    pub complete: bool,
    /// Something between `since` and the first of them is not kept any more.
    pub gap: bool,
}

/// Messages of which pushes waited for attended devices at the last stop, or wait for room in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecided {
    /// Whose pushes they are.
    pub user: Owner,
    /// The messages, oldest first.
    pub sids: Vec<Sid>,
}

/// The rules that a test push does not ask.
pub const TEST_PUSH_SKIPS: [Rule; 4] = [Rule::Never, Rule::Blocked, Rule::Muted, Rule::Attended];

/// A device that gets a test push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TestPush {
    /// Its name.
    pub dev: String,
    /// A short hash of its token.
    pub token_hash: String,
    /// The rules that were not asked.
    pub skipped: [Rule; 4],
}

/// Why the devices of a user were pushed for a message, or were not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PushExplanation {
    /// The message.
    pub sid: String,
    /// Who wrote it.
    pub from: String,
    /// When it was stored, in Unix milliseconds.
    pub ts: u64,
    /// When it was last decided, in Unix milliseconds; `None`: the user had no device with a token.
    pub decided_at: Option<u64>,
    /// What was asked then, the same for all devices.
    pub asked: Option<Asked>,
    /// Devices that somebody was looking at then.
    pub attended: Vec<String>,
    /// Some push still waits for one of them.
    pub waits: bool,
    /// Some device of the user has confirmed the message.
    pub received: bool,
    /// Each device that had a token then, by name.
    pub devices: Vec<ExplainedDevice>,
    /// The rule for any device, where none had a token and nothing was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
}

/// What was decided for one device, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedDevice {
    /// Its name.
    pub dev: String,
    /// What followed.
    pub verdict: Verdict,
    /// The rule that said so.
    pub rule: Rule,
    /// Its push waited for itself alone, and it confirmed the message.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub confirmed: bool,
    /// The push, if there was one and its end is remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<ExplainedPush>,
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedPush {
    /// Its own id.
    pub sid: String,
    /// By which transport.
    pub transport: String,
    /// Where it stands.
    pub state: State,
    /// How often it was tried.
    pub attempt: u32,
    /// Why it failed or expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// A user that the store knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserSummary {
    /// The name.
    pub user: String,
    /// Devices with a token.
    pub devices: u64,
    /// Unread messages over all conversations.
    pub unread: u64,
}

/// How much of what chat users wrote is kept: `chat.keep_days` and `chat.keep_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long, in milliseconds.
    pub for_ms: u64,
    /// So many bytes of documents at most; the oldest go.
    pub bytes: u64,
}
