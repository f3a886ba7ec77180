//! Passwords against the users file.
//!
//! A check is meant to be slow, and everybody may ask for one. So few run at a time, away from the threads that serve
//! clients; and when a thousand devices come back at once, those whose password was right before are recognised by a
//! keyed hash, which is fast and, in another process, worth nothing.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use argon2::{Argon2, PasswordHash, PasswordVerifier};
use ring::hmac;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::users::User;
use crate::chat::principal::{Identity, Role};

/// Checks at a time: half of the processors, within this range. Each takes 19 MiB.
const AT_ONCE: std::ops::RangeInclusive<usize> = 1..=4;
/// The hash that an unknown name is checked against if the file has no user: as much work as a new one.
const DUMMY_HASH: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$ZmNtLW1xdHQtYnJpZGdl$4ZbqGcjdHrGXXsaVBnQHuS0IXtJgXGVqxtKCqjPHHzE";

/// The users and their passwords, as the users file was read.
#[derive(Debug)]
pub(super) struct Passwords {
    users: HashMap<Arc<str>, Entry>,
    /// Of the hashes by which right passwords are recognised; made anew in each process.
    key: hmac::Key,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Entry {
    role: Role,
    hash: Arc<str>,
    /// The keyed hash of the password that was right. There is only one, so that nothing here grows.
    right: OnceLock<hmac::Tag>,
}

impl Passwords {
    /// What was recognised `before` under a hash that is still the same is still recognised.
    pub(super) fn new(users: Vec<User>, before: Option<&Self>) -> Self {
        let entry = |User { name, role, hash }: User| {
            let known = before.and_then(|before| before.users.get(&name)).filter(|known| known.hash == hash);
            let right = known.map(|known| known.right.clone()).unwrap_or_default();
            (name, Entry { role, hash, right })
        };
        let (key, permits) = match before {
            Some(before) => (before.key.clone(), Arc::clone(&before.permits)),
            None => {
                let processors = std::thread::available_parallelism().map_or(1, usize::from);
                let at_once = (processors / 2).clamp(*AT_ONCE.start(), *AT_ONCE.end());
                let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
                (key, Arc::new(Semaphore::new(at_once)))
            }
        };
        Self { users: users.into_iter().map(entry).collect(), key, permits }
    }

    pub(super) fn count(&self) -> usize {
        self.users.len()
    }

    pub(super) fn role_of(&self, user: &str) -> Option<Role> {
        self.users.get(user).map(|entry| entry.role)
    }

    /// Whether this hash and role are still those of the user.
    pub(super) fn is_valid(&self, identity: &Identity, hash: &str) -> bool {
        self.users.get(&identity.user).is_some_and(|entry| entry.role == identity.role && &*entry.hash == hash)
    }

    /// The name as it is kept, if its password was right before: [`Self::recall`] may know it again.
    pub(super) fn remembers(&self, user: &str) -> Option<&Arc<str>> {
        self.users.get_key_value(user).filter(|(_, entry)| entry.right.get().is_some()).map(|(name, _)| name)
    }

    /// The user and the hash, if the password is known to be right. Cheap; says nothing about wrong ones.
    pub(super) fn recall(&self, user: &str, password: &[u8]) -> Option<(Identity, Arc<str>)> {
        let (name, entry) = self.users.get_key_value(user)?;
        let right = entry.right.get()?;
        hmac::verify(&self.key, &marked(name, password), right.as_ref()).ok()?;
        Some(entry.proven(name))
    }

    /// Waits until a check may run. Waiting is bounded: each check belongs to a connection, of which there is a limited
    /// number, and the log-in ends after 10 seconds.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// The user and the hash, if the password is right. Takes as long for a user who does not exist.
    pub(super) async fn check(
        &self,
        permit: OwnedSemaphorePermit,
        user: &str,
        password: &[u8],
    ) -> Option<(Identity, Arc<str>)> {
        let found = self.users.get_key_value(user);
        // A hash that is as much work as that of a user.
        let any = found.map(|(_, entry)| entry).or_else(|| self.users.values().next());
        let hash = any.map_or_else(|| DUMMY_HASH.into(), |entry| Arc::clone(&entry.hash));
        let shown = password.to_vec();
        // Goes on if the client leaves meanwhile, and keeps its permit until then.
        let checked = tokio::task::spawn_blocking(move || {
            let right = is_right(&hash, &shown);
            drop(permit);
            right
        });
        let (name, entry) = checked.await.unwrap_or(false).then_some(found).flatten()?;
        let _ = entry.right.set(hmac::sign(&self.key, &marked(name, password)));
        Some(entry.proven(name))
    }
}

impl Entry {
    fn proven(&self, name: &Arc<str>) -> (Identity, Arc<str>) {
        (Identity { user: Arc::clone(name), role: self.role }, Arc::clone(&self.hash))
    }
}

fn is_right(hash: &str, password: &[u8]) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

/// A name has no NUL: no two pairs have the same mark.
fn marked(name: &str, password: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b"\0", password].concat()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::broker::identity::users::{self, Cost, UsersFile};

    const CHEAP: Cost = Cost { memory_kib: 8, rounds: 1 };

    fn users(all: &[(&str, Role, &str)]) -> Vec<User> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let mut file = UsersFile::open(&path).unwrap();
        for (name, role, password) in all {
            file.add_with(name, *role, password, CHEAP).unwrap();
        }
        file.save().unwrap();
        users::read(Path::new(&path)).unwrap()
    }

    async fn check(passwords: &Passwords, user: &str, password: &str) -> bool {
        let permit = passwords.permit().await.unwrap();
        passwords.check(permit, user, password.as_bytes()).await.is_some()
    }

    #[tokio::test]
    async fn only_the_right_password_of_the_right_user_is_taken() {
        let passwords = Passwords::new(users(&[("alice", Role::User, "one"), ("bob", Role::Bal, "two")]), None);
        assert!(check(&passwords, "alice", "one").await);
        for (user, password) in [("alice", "two"), ("alice", ""), ("bob", "one"), ("carol", "one"), ("", "one")] {
            assert!(!check(&passwords, user, password).await, "{user} {password}");
        }
    }

    #[tokio::test]
    async fn a_right_password_is_recognised_and_nothing_else() {
        let passwords = Passwords::new(users(&[("alice", Role::User, "one")]), None);
        assert_eq!(passwords.recall("alice", b"one"), None);
        assert!(check(&passwords, "alice", "one").await && !check(&passwords, "alice", "two").await);
        assert_eq!(passwords.recall("alice", b"one").map(|(identity, _)| identity.role), Some(Role::User));
        assert_eq!(passwords.recall("alice", b"two"), None);
        assert_eq!(passwords.recall("bob", b"one"), None);
    }

    #[tokio::test]
    async fn a_new_hash_forgets_the_old_password() {
        let before = users(&[("alice", Role::User, "one"), ("bob", Role::Bal, "two")]);
        let passwords = Passwords::new(before.clone(), None);
        assert!(check(&passwords, "alice", "one").await && check(&passwords, "bob", "two").await);
        let (alice, of_alice) = passwords.recall("alice", b"one").unwrap();
        let (bob, of_bob) = passwords.recall("bob", b"two").unwrap();
        let mut after = users(&[("alice", Role::User, "three")]);
        after.push(before[1].clone());
        let passwords = Passwords::new(after, Some(&passwords));
        assert_eq!(passwords.recall("alice", b"one"), None);
        assert!(!passwords.is_valid(&alice, &of_alice));
        assert!(passwords.recall("bob", b"two").is_some());
        assert!(passwords.is_valid(&bob, &of_bob));
        let passwords = Passwords::new(Vec::new(), Some(&passwords));
        assert!(!passwords.is_valid(&bob, &of_bob));
    }

    #[test]
    fn the_dummy_hash_costs_what_a_new_hash_costs() {
        let hash = PasswordHash::new(DUMMY_HASH).unwrap();
        let params = argon2::Params::try_from(&hash).unwrap();
        let cost = Cost { memory_kib: params.m_cost(), rounds: params.t_cost() };
        assert_eq!((cost, params.p_cost()), (Cost::default(), 1));
        assert!(!is_right(DUMMY_HASH, b""));
    }
}
