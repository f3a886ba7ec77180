//! Whom a broker knows.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::chat::principal::Role;

/// Answers what somebody is, as far as the broker knows. Cheap to clone, and to be asked from anywhere. Before the broker runs
/// it knows nobody.
#[derive(Clone, Default)]
pub struct Directory(Arc<OnceLock<Box<dyn Fn(&str) -> Option<Role> + Send + Sync>>>);

impl Directory {
    /// What `name` is. The embedded broker knows who is in the users file, who the configuration says is a BAL, and who logged in
    /// and has a session now, connected or not; of another broker only the names of BALs are known. `None`: nobody of that
    /// name is known now.
    pub fn role_of(&self, name: &str) -> Option<Role> {
        self.0.get().and_then(|answer| answer(name))
    }

    /// The broker runs, and `answer` knows whom it knows. Only the first one counts: a port has one broker.
    pub fn answer_with(&self, answer: impl Fn(&str) -> Option<Role> + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(answer));
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("is_answered", &self.0.get().is_some()).finish()
    }
}
