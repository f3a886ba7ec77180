//! What is said with the store about chat users.

use crate::chat::id::Owner;
use crate::chat::message::PresenceState;

/// How long an offline user's presence is kept, in milliseconds: a year. The broker's retained document outlives it.
pub const PRESENCE_KEPT_MS: u64 = 365 * 24 * 3_600_000;
/// A presence sent less than this before `alive_at` may not be in the broker's store, in milliseconds.
pub const PRESENCE_UNSURE_MS: u64 = 60_000;

/// A presence that is about to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresenceChange {
    /// The chat user.
    pub user: Owner,
    /// Online or offline.
    pub state: PresenceState,
    /// When the last device went, in Unix milliseconds, if one went since the bridge knows of the user.
    pub last_seen: Option<u64>,
    /// When it is said, in Unix milliseconds.
    pub at: u64,
}

/// The presence that was last published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastPresence {
    /// The chat user.
    pub user: Owner,
    /// Online or offline.
    pub state: PresenceState,
    /// The last time, in Unix milliseconds, at which the user is known to have been there.
    pub last_seen: Option<u64>,
}
