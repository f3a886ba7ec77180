//! Whom a broker knows.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::chat::principal::{Role, Senders};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

/// Answers what somebody is, as far as the broker knows. Cheap to clone, and to be asked from anywhere. Before the broker runs
/// it knows nobody.
#[derive(Clone, Default)]
pub struct Directory(Arc<OnceLock<Box<dyn RoleSource>>>);

/// From what a broker knows who is who.
pub trait RoleSource: Send + Sync {
    /// What `name` is; `None`: nobody of that name is known now.
    fn role_of(&self, name: &str) -> Option<Role>;

    /// As what `name` may still write who wrote as `then`, and had logged in by a token, or by a password, or it is not known how
    /// (`by_token`); `None`: it is nobody any more. Whoever was a BAL and is none any more is a chat user.
    fn writes_as(&self, name: &str, then: Role, by_token: Option<bool>) -> Option<Role>;

    /// Whether `secret` is the password of a chat user, or a token of that one that was issued just now.
    fn prove(&self, _name: &str, _secret: &str) -> BoxFuture<'static, Proven> {
        ready(Proven::Unknown).boxed()
    }
}

/// Whether somebody has shown to be who they say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven {
    /// It is so.
    Yes,
    /// It is not.
    No,
    /// The broker cannot say: others check who logs in there.
    Unknown,
}

impl Directory {
    /// What `name` is. The embedded broker knows who is in the users file, who the configuration says is a BAL, and who logged in
    /// and has a session now, connected or not; of another broker only the names of BALs are known. `None`: nobody of that
    /// name is known now.
    pub fn role_of(&self, name: &str) -> Option<Role> {
        self.0.get().and_then(|source| source.role_of(name))
    }

    /// As what `name` may still write who wrote as `then`, and had logged in by a token, or by a password, or it is not known how
    /// (`by_token`); `None`: it is nobody any more. Before the broker runs everybody stays what they were.
    pub fn writes_as(&self, name: &str, then: Role, by_token: Option<bool>) -> Option<Role> {
        self.0.get().map_or(Some(then), |source| source.writes_as(name, then, by_token))
    }

    /// Whether `secret` is the password of the chat user `name`, or a token of that one that was issued in the last ten minutes.
    pub async fn prove(&self, name: &str, secret: &str) -> Proven {
        match self.0.get().map(|source| source.prove(name, secret)) {
            Some(proven) => proven.await,
            None => Proven::Unknown,
        }
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

    fn writes_as(&self, name: &str, _then: Role, _by_token: Option<bool>) -> Option<Role> {
        Some(self.principal(name).role)
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("is_answered", &self.0.get().is_some()).finish()
    }
}
