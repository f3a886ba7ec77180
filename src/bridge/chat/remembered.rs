//! What is remembered by the names of users for longer than a moment, beside what the store has. Whoever gets a name that became
//! free is somebody else, so all of it can be forgotten.

use super::export::Exports;
use super::gatekeeper::Gatekeeper;
use super::limits::Limits;
use crate::bridge::settings::{ChatSettings, Limits as BridgeLimits};
use crate::chat::id::Owner;

/// Shared by those who ask it; each part has its own lock.
#[derive(Debug)]
pub(crate) struct Remembered {
    pub(super) limits: Limits,
    pub(super) exports: Exports,
    /// If there is one.
    pub(super) gatekeeper: Option<Gatekeeper>,
}

impl Remembered {
    pub(crate) fn new(chat: &ChatSettings, limits: &BridgeLimits) -> Self {
        // The name was checked with the configuration.
        let gatekeeper = chat.gatekeeper().ok().flatten().map(Gatekeeper::new);
        Self { limits: Limits::new(limits.of_user()), exports: Exports::default(), gatekeeper }
    }

    /// The user is erased, or the name is about to become free.
    pub(crate) fn forget(&self, user: &Owner) {
        self.limits.forget(user);
        self.exports.forget(user);
        if let Some(gatekeeper) = &self.gatekeeper {
            gatekeeper.forget(user);
        }
    }
}
