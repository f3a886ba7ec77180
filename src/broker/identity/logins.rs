//! Who is connected, and by which password or token: to count a user's connections, and to end those that are not valid
//! any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::tokens::KeyPrint;
use crate::broker::connection::ConnectionHandle;
use crate::broker::refusals::Refusal;
use crate::chat::principal::{Identity, Role};

/// What somebody showed to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::broker) enum Proof {
    /// A password that matches this hash of the users file. Holds as long as the file says the same.
    Password(Arc<str>),
    /// A token. Holds until a time, as long as the files have its key.
    Token {
        /// When that is, in Unix milliseconds.
        expires_ms: u64,
        /// By which its signature was checked.
        key: KeyPrint,
    },
}

/// Everybody who logged in and is connected.
///
/// A lock because connections come and go in their own tasks; it is held for a map operation, or a pass over the map
/// when the users file has changed.
#[derive(Debug)]
pub(super) struct Logins {
    users: Mutex<HashMap<Arc<str>, Vec<Entry>>>,
    per_user: usize,
}

#[derive(Debug)]
struct Entry {
    /// That of the connection.
    number: u64,
    client: Box<str>,
    identity: Identity,
    proof: Proof,
    handle: Weak<ConnectionHandle>,
}

/// A connection's entry among the log-ins; dropping it removes the entry.
#[derive(Debug)]
pub(in crate::broker) struct LoginPermit {
    logins: Arc<Logins>,
    user: Arc<str>,
    number: u64,
}

impl Logins {
    /// `per_user` is the number of connections that each user may have.
    pub(super) fn new(per_user: usize) -> Arc<Self> {
        Arc::new(Self { users: Mutex::default(), per_user })
    }

    /// Enters a connection, unless the user has as many already.
    pub(super) fn enter(
        self: &Arc<Self>,
        identity: &Identity,
        proof: &Proof,
        client: &str,
        handle: &Arc<ConnectionHandle>,
    ) -> Option<LoginPermit> {
        let mut users = self.lock();
        let entries = users.entry(Arc::clone(&identity.user)).or_default();
        // A connection of the same client is about to be taken over.
        if entries.iter().filter(|entry| &*entry.client != client).count() >= self.per_user {
            return None;
        }
        let (identity, proof) = (identity.clone(), proof.clone());
        let (user, number) = (Arc::clone(&identity.user), handle.number());
        entries.push(Entry { number, client: client.into(), identity, proof, handle: Arc::downgrade(handle) });
        Some(LoginPermit { logins: Arc::clone(self), user, number })
    }

    /// What a user who is connected is.
    pub(super) fn role_of(&self, user: &str) -> Option<Role> {
        self.lock().get(user)?.first().map(|entry| entry.identity.role)
    }

    /// Ends the connections whose identity and proof are not valid any more. Returns how many.
    pub(super) fn end_invalid(&self, is_valid: impl Fn(&Identity, &Proof) -> bool) -> usize {
        let users = self.lock();
        let fallen = users.values().flatten().filter(|entry| !is_valid(&entry.identity, &entry.proof));
        let handles: Vec<Arc<ConnectionHandle>> = fallen.filter_map(|entry| entry.handle.upgrade()).collect();
        // Dropping the last reference to a connection drops its entry, which takes this lock.
        drop(users);
        for handle in &handles {
            handle.end(Refusal::Revoked);
        }
        handles.len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Entry>>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LoginPermit {
    fn drop(&mut self) {
        let mut users = self.logins.lock();
        let Some(entries) = users.get_mut(&self.user) else {
            return;
        };
        entries.retain(|entry| entry.number != self.number);
        if entries.is_empty() {
            users.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::connection::Ending;

    fn handle() -> Arc<ConnectionHandle> {
        ConnectionHandle::new(([127, 0, 0, 1], 1).into())
    }

    fn alice() -> Identity {
        Identity { user: "alice".into(), role: Role::User }
    }

    fn enter(logins: &Arc<Logins>, client: &str, handle: &Arc<ConnectionHandle>) -> Option<LoginPermit> {
        logins.enter(&alice(), &Proof::Password("hash".into()), client, handle)
    }

    #[test]
    fn a_user_has_so_many_places_and_a_client_takes_over_its_own() {
        let logins = Logins::new(2);
        let first = enter(&logins, "alice:1", &handle());
        let second = enter(&logins, "alice:2", &handle());
        assert!(first.is_some() && second.is_some());
        assert!(enter(&logins, "alice:3", &handle()).is_none());
        assert!(enter(&logins, "alice:2", &handle()).is_some());
        drop(first);
        assert!(enter(&logins, "alice:3", &handle()).is_some());
        drop(second);
        assert!(logins.lock().is_empty());
    }

    #[test]
    fn a_review_ends_those_who_fell_and_no_others() {
        let logins = Logins::new(2);
        let (stays, goes) = (handle(), handle());
        let _first = enter(&logins, "alice:1", &stays);
        let token = Proof::Token { expires_ms: 1, key: KeyPrint::default() };
        let _second = logins.enter(&alice(), &token, "alice:2", &goes);
        assert_eq!(logins.end_invalid(|_, proof| *proof != token), 1);
        assert_eq!((stays.ending(), goes.ending()), (None, Some(Ending::Refused(Refusal::Revoked))));
    }
}
