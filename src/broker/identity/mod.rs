//! Who somebody is: what a client shows when it connects, checked against the users file and the keys of tokens.

use std::sync::Arc;

use crate::mqtt::Role;

/// Somebody who logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user name, which is the first level of their topics.
    pub user: Arc<str>,
    /// What they are.
    pub role: Role,
}
