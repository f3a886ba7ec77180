//! The data of the verbs by which a client that forgot everything gets its conversations back, and of those by which a user puts
//! them away.

use crate::chat::contact::Entry;
use crate::chat::group::{GroupRole, Post};
use crate::chat::id::{Owner, Sid};
use crate::chat::suffix::requests::{DeletionOf, HistoryFrom};
use crate::chat::topic::Device;
use bytes::Bytes;

/// The conversations of a user, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationPage {
    /// At most as many as were asked for.
    pub items: Vec<ConversationItem>,
    /// There is none behind them.
    pub complete: bool,
    /// Unread messages over all conversations, also those of other pages.
    pub unread: u64,
    /// Of those, how many name the user.
    pub mentions: u64,
}

/// Most invitations that a conversation is shown with: who invites into more groups than a user may be in is a machine.
pub const OPEN_MAX: usize = 50;

/// A conversation, as one of its users sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationItem {
    /// The other side.
    pub with: Owner,
    /// Where it stands in the order; the `before` of what follows.
    pub place: Sid,
    /// The JSON of the other one's profile, if there is one.
    pub profile: Option<String>,
    /// The user may see that profile. (That of a BAL may be seen by everybody.)
    pub sees_profile: bool,
    /// The stamped newest item, if it is kept.
    pub last: Option<Bytes>,
    /// Messages that the user has of it, also those that are not kept any more.
    pub count: u64,
    /// Unread messages.
    pub unread: u64,
    /// Of those, how many name the user.
    pub mentions: u64,
    /// The user has read up to here.
    pub read: Option<Sid>,
    /// The newest own message of which the user was told that it was delivered.
    pub peer_received: Option<Sid>,
    /// The newest own message of which the user was told that it was read.
    pub peer_read: Option<Sid>,
    /// What the user has set about the other one.
    pub entry: Entry,
    /// The user has put it away.
    pub archived: bool,
    /// It is a group in which the user is no longer.
    pub is_former: bool,
    /// Of a group in which the user is.
    pub group: Option<GroupSummary>,
    /// The stamped invitations that are open, of either side, newest first; at most [`OPEN_MAX`].
    pub invitations: Vec<Bytes>,
    /// Older ones are open, too.
    pub more_invitations: bool,
}

/// What of a group changes with its roster and settings: whoever knows this version needs not ask for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSummary {
    /// How often it was changed.
    pub version: u64,
    /// How many members it has.
    pub members: u64,
    /// What the user may do.
    pub role: GroupRole,
    /// Who writes in it.
    pub post: Post,
}

/// Which part of a conversation is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The other side.
    pub with: Owner,
    /// Where.
    pub from: HistoryFrom,
    /// How many items, at most [`PAGE_MAX`](crate::chat::suffix::requests::PAGE_MAX).
    pub limit: usize,
}

/// A page of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// Stamped documents, oldest first, of at most [`SYNC_BYTES`](super::SYNC_BYTES) unless there is only one.
    pub items: Vec<Bytes>,
    /// There is nothing more in the direction that was asked for.
    pub complete: bool,
}

/// A user deletes the own copy of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Who.
    pub user: Owner,
    /// At which device.
    pub dev: Option<Device>,
    /// The user's devices that have a connection.
    pub connected: Vec<Device>,
    /// What.
    pub of: DeletionOf,
    /// What the user's devices are told: a JSON object, which gets `up_to` where all of a conversation is deleted.
    pub told: Bytes,
}

/// A user puts a conversation away, or takes it out again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archiving {
    /// Who.
    pub user: Owner,
    /// At which device.
    pub dev: Option<Device>,
    /// The user's devices that have a connection.
    pub connected: Vec<Device>,
    /// The other side.
    pub with: Owner,
    /// Away, until a new message comes.
    pub on: bool,
    /// What the user's devices are told.
    pub told: Bytes,
}
