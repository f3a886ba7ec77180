//! The data of the verbs about groups.
//!
//! A group is one row, and a row for each member with its positions; a message in it is one row, whoever reads it. The rules
//! are those of [`crate::chat::group`].

use super::chat::{Peer, Seeing, Writer};
use super::sessions::Target;
use crate::chat::attention::Attended;
use crate::chat::group::{GroupChange, GroupRole, GroupSettings, SettingsChange};
use crate::chat::id::{GroupId, Owner, Sid};
use crate::chat::message::Rejection;
use crate::chat::suffix::messages::UserMessage;
use bytes::Bytes;
use std::sync::Arc;

/// Most groups in which a user is.
pub const USER_GROUPS_MAX: usize = 50;
/// Most groups in which a user was, and of which the user keeps what was written then: the newest.
pub const USER_FORMER_GROUPS_MAX: usize = 100;
/// Most times that somebody was in one group, of which it keeps what was written then: the newest.
pub const MEMBERSHIPS_MAX: usize = 20;
/// Most groups in which a BAL is.
pub const BAL_GROUPS_MAX: usize = 1_000;
/// Largest page of a roster, in bytes of its names.
pub const MEMBERS_BYTES: usize = 32_768;

/// A message to a group.
#[derive(Debug, Clone)]
pub struct NewGroupMessage {
    /// The bridge's id of it.
    pub sid: Sid,
    /// Who wrote it.
    pub from: Writer,
    /// The group.
    pub group: GroupId,
    /// What was written.
    pub message: UserMessage,
    /// Until when its pushes are worth sending, in Unix milliseconds.
    pub deadline_ms: u64,
    /// The members at one of whose devices somebody is looking, by name.
    pub attended: Vec<(Owner, Attended)>,
}

/// Somebody subscribes to topics of groups, and is to be told how these are.
#[derive(Debug, Clone)]
pub struct GroupStateQuery {
    /// Who subscribes.
    pub user: Owner,
    /// To what, without a user.
    pub filter: String,
    /// The last group that is known by now; empty: none.
    pub after: String,
    /// The queue that keeps it, if the session outlives its connection.
    pub target: Option<Target>,
}

/// How the groups of a user are: the next one that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatePage {
    /// The group.
    pub group: Owner,
    /// What is said of it.
    pub states: Vec<GroupState>,
}

/// One document that says how a group is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// That of the document for the member.
    pub topic: Arc<str>,
    /// What it says.
    pub payload: Bytes,
}

/// What became of a message to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupOutcome {
    /// It is on disk.
    Done {
        /// Members with a push that was not made: it waits for the confirmation of an attended device, or for an id or room.
        waiting: Vec<Owner>,
    },
    /// It is known; its writer was told again.
    Repeated,
    /// It waits for its time.
    Scheduled,
    /// It is refused.
    Refused(Rejection),
}

/// Somebody makes a group, or changes one.
#[derive(Debug, Clone)]
pub struct NewGroupChange {
    /// The id of the notice.
    pub sid: Sid,
    /// Who asks.
    pub by: Writer,
    /// The group.
    pub group: GroupId,
    /// What is to be done.
    pub what: GroupAction,
    /// Those who are named in it, and what is known of each: some may be invited.
    pub named: Vec<Named>,
}

/// Somebody who is named in a change.
#[derive(Debug, Clone)]
pub struct Named {
    /// Who.
    pub peer: Peer,
    /// An id for an invitation of theirs.
    pub sid: Sid,
    /// The one who asks may write to them even if they have the asker not as a contact.
    pub strangers: bool,
}

/// What is to be done with a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupAction {
    /// It is to be made, with those who are named.
    Create(SettingsChange),
    /// It is to change.
    Change(GroupChange),
}

/// What became of a change of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupChanged {
    /// Its version now.
    pub version: u64,
    /// Those to whom it was done: who are in the group now, or no longer.
    pub done: Vec<Owner>,
    /// Those who were invited. The second: pushes of the invitation wait for the confirmation of attended devices.
    pub invited: Vec<(Owner, Sid, bool)>,
    /// Whose contacts have changed by it.
    pub seen: Vec<Seeing>,
}

/// A group as a member sees it, and a page of its roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPage {
    /// What it is called, and how it works.
    pub settings: GroupSettings,
    /// The version of its roster.
    pub version: u64,
    /// How many members it has.
    pub members: u64,
    /// What the asker may do.
    pub role: GroupRole,
    /// Members by name.
    pub items: Vec<GroupMember>,
    /// There is none behind them.
    pub complete: bool,
}

/// Somebody who is in a group, as another member sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Who.
    pub user: Owner,
    /// What this one may do.
    pub role: GroupRole,
    /// The newest message of the asker of which the asker is told that this one has it.
    pub received: Option<Sid>,
    /// The same of those that this one has read.
    pub read: Option<Sid>,
}
