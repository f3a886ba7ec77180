//! Whom a broker knows.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::chat::principal::{Role, Senders};

/// Answers what somebody is, as far as the broker knows. Cheap to clone, and to be asked from anywhere. Before the broker runs
/// it knows nobody.
#[derive(Clone, Default)]
pub struct Directory(Arc<OnceLock<Box<dyn RoleSource>>>);

/// From what a broker knows who is who.
pub trait RoleSource: Send + Sync {
    /// What `name` is; `None`: nobody of that name is known now.
    fn role_of(&self, name: &str) -> Option<Role>;
}

impl Directory {
    /// What `name` is. The embedded broker knows who is in the users file, who the configuration says is a BAL, and who logged in
    /// and has a session now, connected or not; of another broker only the names of BALs are known. `None`: nobody of that
    /// name is known now.
    pub fn role_of(&self, name: &str) -> Option<Role> {
        self.0.get().and_then(|source| source.role_of(name))
    }

    /// The broker runs, and knows this. Only the first one counts: a port has one broker.
    pub fn answer_from(&self, source: impl RoleSource + 'static) {
        let _ = self.0.set(Box::new(source));
    }
}

impl RoleSource for Senders {
    fn role_of(&self, name: &str) -> Option<Role> {
        self.role_of(name)
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("is_answered", &self.0.get().is_some()).finish()
    }
}
