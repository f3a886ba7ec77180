//! One log-in from beginning to end, and what happens to those who are in when the files change.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::time::Instant;
use tracing::{info, warn};

use super::brake::Brake;
use super::passwords::{Passwords, Proven};
use super::roster::{Place, Proof, Roster};
use super::tokens::{Keys, Token, looks_like_token};
use super::{Identity, IdentityError, users};
use crate::broker::access::Rights;
use crate::broker::link::Link;
use crate::broker::{BrokerConfig, JwtConfig};
use crate::mqtt::Role;
use crate::ops::metrics::{Metric, Metrics};

/// Failed log-ins told in the log per minute; the rest is counted.
const TOLD_PER_MINUTE: u32 = 60;
/// So much of a user name that nobody has is shown.
const SHOWN: usize = 64;

/// What a client shows.
#[derive(Clone, Copy)]
pub(in crate::broker) struct Login<'a> {
    pub(in crate::broker) user: Option<&'a str>,
    pub(in crate::broker) password: Option<&'a [u8]>,
    pub(in crate::broker) address: IpAddr,
}

/// Who a client is.
#[derive(Debug, Clone)]
pub(in crate::broker) enum Caller {
    /// Anybody.
    Anonymous,
    /// Somebody, who showed this.
    Known(Identity, Proof),
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Refusal {
    /// It did not say who it is.
    Nameless,
    /// User name, password or token are wrong; which of them is not told.
    Credentials,
    /// Too many from its address failed.
    Limited,
    /// Its user has too many connections.
    Crowded,
}

/// Knows the users and the keys, and who is in.
#[derive(Debug)]
pub(in crate::broker) struct Doorman {
    anonymous: Anonymous,
    passwords: Option<Passwords>,
    /// Replaced as a whole when a file changes. A lock because log-ins read it while that happens.
    keys: Option<RwLock<Arc<Keys>>>,
    /// Who is a BAL by the configuration.
    bals: BTreeSet<String>,
    roster: Arc<Roster>,
    /// A lock because log-ins come in their own tasks; it is held for one map operation.
    failures: Mutex<Failures>,
}

/// Whether those who do not say who they are may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anonymous {
    Welcome,
    Refused,
}

#[derive(Debug)]
struct Failures {
    brake: Brake,
    /// Of the log itself, whose one address is everybody.
    log: Brake,
    untold: u64,
}

/// What the files say.
#[derive(Debug)]
pub(super) struct Files {
    users: Option<Vec<users::User>>,
    keys: Option<Keys>,
}

impl Files {
    pub(super) fn read(config: &BrokerConfig) -> Result<Self, IdentityError> {
        let users = config.users_file.as_deref().map(users::read).transpose()?;
        let keys = config.jwt.as_ref().map(|jwt: &JwtConfig| Keys::load(jwt)).transpose()?;
        Ok(Self { users, keys })
    }
}

impl Doorman {
    /// Reads the files that are configured.
    pub(in crate::broker) fn new(config: &BrokerConfig) -> Result<Self, IdentityError> {
        let Files { users, keys } = Files::read(config)?;
        let limits = &config.limits;
        let new = Self {
            anonymous: if config.anonymous { Anonymous::Welcome } else { Anonymous::Refused },
            passwords: users.map(Passwords::new),
            keys: keys.map(|keys| RwLock::new(Arc::new(keys))),
            bals: config.bals.clone(),
            roster: Roster::new(limits.connections_per_user),
            failures: Mutex::new(Failures {
                brake: Brake::new(limits.login_failures_per_minute),
                log: Brake::new(TOLD_PER_MINUTE),
                untold: 0,
            }),
        };
        new.warn_of_roles();
        Ok(new)
    }

    /// Finds out who somebody is.
    pub(in crate::broker) async fn login(&self, login: Login<'_>, metrics: &Metrics) -> Result<Caller, Refusal> {
        let user = login.user.filter(|user| !user.is_empty());
        let password = login.password.filter(|password| !password.is_empty());
        let knows_nobody = self.passwords.is_none() && self.keys.is_none();
        let says_nothing = user.is_none() && password.is_none();
        if says_nothing || knows_nobody {
            return match self.anonymous {
                Anonymous::Welcome => Ok(Caller::Anonymous),
                Anonymous::Refused => Err(Refusal::Nameless),
            };
        }
        let checked = self.check(user, password.unwrap_or_default(), login.address).await;
        match checked {
            Ok(caller) => Ok(caller),
            Err(Wrong::Limited) => {
                metrics.count(Metric::LoginsLimited);
                Err(Refusal::Limited)
            }
            Err(Wrong::Credentials(why)) => {
                metrics.count(Metric::LoginsFailed);
                self.failed(login.address, user, &why);
                Err(Refusal::Credentials)
            }
        }
    }

    /// Gives somebody who is let in a place on the roster.
    pub(in crate::broker) fn enter(
        &self,
        caller: &Caller,
        client: &str,
        link: &Arc<Link>,
    ) -> Result<Option<Place>, Refusal> {
        let Caller::Known(identity, proof) = caller else {
            return Ok(None);
        };
        let place = self.roster.enter(identity, proof, client, link).ok_or(Refusal::Crowded)?;
        // The files may have changed since the check; from now on a change finds the place.
        if self.stands(identity, proof) { Ok(Some(place)) } else { Err(Refusal::Credentials) }
    }

    /// What somebody may do who is known by name alone: the owner of a session that was kept, or of a will. `None` is
    /// an anonymous client. Without a line in the users file it is a chat user whose token was good.
    pub(in crate::broker) fn rights_of(&self, user: Option<&str>) -> Rights {
        let Some(user) = user else {
            return match self.anonymous {
                Anonymous::Welcome => Rights::Anonymous,
                Anonymous::Refused => Rights::Nobody,
            };
        };
        let by_token = self.keys.as_ref().map(|_| Role::User);
        match self.passwords.as_ref().and_then(|passwords| passwords.role_of(user)).or(by_token) {
            Some(role) => Rights::Known(Identity { user: user.into(), role }),
            None => Rights::Nobody,
        }
    }

    /// Whether the users file has this name.
    pub(in crate::broker) fn has(&self, user: &str) -> bool {
        self.passwords.as_ref().is_some_and(|passwords| passwords.role_of(user).is_some())
    }

    /// The files now say this: whoever is in and could not come in again goes.
    pub(super) fn replace(&self, files: Files) {
        let mut users = 0;
        if let (Some(passwords), Some(all)) = (&self.passwords, files.users) {
            users = all.len();
            passwords.replace(all);
        }
        if let (Some(keys), Some(new)) = (&self.keys, files.keys) {
            *keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        }
        self.warn_of_roles();
        let ended = self.roster.review(|identity, proof| self.stands(identity, proof));
        info!(users, ended, "users and keys were read again");
    }

    /// Tells in the log, as long as it is not too much, what some client did.
    pub(in crate::broker) fn tell(&self, told: impl FnOnce(u64)) {
        let mut failures = self.failures();
        let (everybody, now) = (IpAddr::from([0, 0, 0, 0]), now());
        if failures.log.holds(everybody, now) {
            failures.untold += 1;
            return;
        }
        failures.log.failed(everybody, now);
        let untold = std::mem::take(&mut failures.untold);
        drop(failures);
        told(untold);
    }

    async fn check(&self, user: Option<&str>, password: &[u8], address: IpAddr) -> Result<Caller, Wrong> {
        if self.is_held(address) {
            return Err(Wrong::Limited);
        }
        if let (Some(keys), Some(token)) = (&self.keys, looks_like_token(password)) {
            let keys = Arc::clone(&keys.read().unwrap_or_else(PoisonError::into_inner));
            let Token { identity, expires_ms } =
                keys.check(token, user).map_err(|why| Wrong::Credentials(format!("token: {why}")))?;
            if self.is_somebody_else(&identity) {
                return Err(Wrong::Credentials(
                    "token: a user's, for the name of somebody with another role".to_owned(),
                ));
            }
            return Ok(Caller::Known(identity, Proof::Token { expires_ms }));
        }
        let wrong = || Wrong::Credentials("user name or password".to_owned());
        let (Some(passwords), Some(user)) = (&self.passwords, user) else {
            return Err(wrong());
        };
        let proven = match passwords.recall(user, password) {
            Some(proven) => Some(proven),
            None => {
                let turn = passwords.turn().await.ok_or_else(wrong)?;
                // Others of the same address may have failed while this one waited.
                if self.is_held(address) {
                    return Err(Wrong::Limited);
                }
                passwords.check(turn, user, password).await
            }
        };
        let Proven { identity, hash } = proven.ok_or_else(wrong)?;
        Ok(Caller::Known(identity, Proof::Password(hash)))
    }

    fn stands(&self, identity: &Identity, proof: &Proof) -> bool {
        match proof {
            Proof::Password(hash) => self.passwords.as_ref().is_some_and(|passwords| passwords.stands(identity, hash)),
            Proof::Token { .. } => !self.is_somebody_else(identity),
        }
    }

    /// Whether a chat user would get the topics of a BAL or an admin by having its name. Who makes tokens for chat users
    /// often lets them choose their names; a token that says `bal` or `admin` was made on purpose.
    fn is_somebody_else(&self, identity: &Identity) -> bool {
        let role = self.passwords.as_ref().and_then(|passwords| passwords.role_of(&identity.user));
        identity.role == Role::User
            && (role.is_some_and(|role| role != Role::User) || self.bals.contains(&*identity.user))
    }

    /// The users file is the operator's own word and holds, but it contradicts the configuration.
    fn warn_of_roles(&self) {
        let Some(passwords) = &self.passwords else { return };
        for bal in &self.bals {
            if passwords.role_of(bal).is_some_and(|role| role != Role::Bal) {
                warn!(
                    user = bal,
                    "the configuration names a BAL whose role in the users file is another; it may not push"
                );
            }
        }
    }

    fn is_held(&self, address: IpAddr) -> bool {
        self.failures().brake.holds(address, now())
    }

    fn failed(&self, address: IpAddr, user: Option<&str>, why: &str) {
        self.failures().brake.failed(address, now());
        let user = shown(user.unwrap_or_default());
        self.tell(|untold| warn!(%address, user, why, untold, "log-in failed"));
    }

    fn failures(&self) -> MutexGuard<'_, Failures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    pub(in crate::broker) fn rights(&self) -> Rights {
        match self {
            Self::Anonymous => Rights::Anonymous,
            Self::Known(identity, _) => Rights::Known(identity.clone()),
        }
    }

    /// When its connection has to end, in Unix milliseconds.
    pub(in crate::broker) fn expires_ms(&self) -> Option<u64> {
        match self {
            Self::Known(_, Proof::Token { expires_ms }) => Some(*expires_ms),
            _ => None,
        }
    }
}

/// Why a check failed.
enum Wrong {
    Credentials(String),
    Limited,
}

/// What a stranger wrote, fit for a log line.
pub(in crate::broker) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::broker::identity::users::{Cost, UsersFile};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_bal_to_whom_the_users_file_gives_another_role_is_told_at_the_start_and_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let cheap = Cost { memory_kib: 8, rounds: 1 };
        let mut file = UsersFile::open(&path).unwrap();
        for (name, role) in [("shop", Role::User), ("bal1", Role::Bal), ("alice", Role::User)] {
            file.add_with(name, role, "x", cheap).unwrap();
        }
        file.save().unwrap();
        let bals = ["shop", "bal1", "unknown"].map(str::to_owned).into();
        let config = BrokerConfig { users_file: Some(path), bals, ..BrokerConfig::default() };
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let doorman = Doorman::new(&config).unwrap();
        let told = || {
            let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            text.lines().filter(|line| line.contains("may not push")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(
            matches!(&told()[..], [line] if line.contains("WARN") && line.contains("user=\"shop\"")),
            "{:?}",
            told()
        );
        doorman.replace(Files::read(&config).unwrap());
        assert_eq!(told().len(), 2);
    }

    #[tokio::test]
    async fn failures_are_told_without_passwords_and_not_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let mut file = UsersFile::open(&path).unwrap();
        file.add_with("alice", Role::User, "right", Cost { memory_kib: 8, rounds: 1 }).unwrap();
        file.save().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "x".repeat(32)).unwrap();
        let jwt = Some(JwtConfig { secret_file: Some(secret), ..JwtConfig::default() });
        let doorman = Doorman::new(&BrokerConfig { users_file: Some(path), jwt, ..BrokerConfig::default() }).unwrap();
        let (log, metrics) = (Log::default(), Metrics::new());
        let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        for n in 0..100u32 {
            let password = if n % 2 == 0 { "hunter2" } else { "hunter2.hunter2.hunter2" };
            let user = if n == 0 { "a\nb" } else { "alice" };
            let login = Login { user: Some(user), password: Some(password.as_bytes()), address: IpAddr::V4(n.into()) };
            assert_eq!(doorman.login(login, &metrics).await.unwrap_err(), Refusal::Credentials);
        }
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("address=0.0.0.1 user=\"alice\" why=\"token: it is malformed\""), "{text}");
        assert!(text.lines().all(|line| line.contains("WARN")), "a name broke a line:\n{text}");
        let lines = text.lines().count();
        assert!((60..80).contains(&lines), "{lines} lines");
        assert_eq!(metrics.get(Metric::LoginsFailed), 100);
    }
}
