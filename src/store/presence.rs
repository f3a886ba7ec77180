//! What is said with the store about chat users.

use crate::chat::id::Owner;
use crate::chat::message::PresenceState;

/// How long who is away is remembered, in milliseconds: a year. The broker's retained document outlives it.
pub const PRESENCE_KEPT_MS: u64 = 365 * 24 * 3_600_000;
/// What was said so shortly before the last sign of life may not have reached the broker's disk, in milliseconds.
pub const PRESENCE_UNSURE_MS: u64 = 60_000;

/// What is about to be said about a chat user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    /// Who.
    pub user: Owner,
    /// There or not.
    pub state: PresenceState,
    /// When the last device went, in Unix milliseconds, if one went since the bridge knows of the user.
    pub last_seen: Option<u64>,
    /// When it is said, in Unix milliseconds.
    pub at: u64,
}

/// What was last said about a chat user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastPresence {
    /// Who.
    pub user: Owner,
    /// There or not.
    pub state: PresenceState,
    /// The last time, in Unix milliseconds, at which the user is known to have been there.
    pub last_seen: Option<u64>,
}
