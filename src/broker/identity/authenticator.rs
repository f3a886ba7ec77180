//! One log-in from beginning to end, and what happens to connections when the files change.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::time::Instant;
use tracing::{info, warn};

use super::login_throttle::LoginThrottle;
use super::logins::{LoginPermit, Logins, Proof};
use super::passwords::Passwords;
use super::tokens::{Keys, Token, looks_like_token};
use super::{IdentityError, users};
use crate::broker::BrokerConfig;
use crate::broker::connection::ConnectionHandle;
use crate::broker::connection_limits::network_of;
use crate::broker::refusals::{Refusal, Refused};
use crate::chat::access::Rights;
use crate::chat::principal::{Identity, Role};
use crate::mqtt::Proven;
use crate::store::KeptLogin;

/// So often in a minute a wrong password may be shown for one name whose right one is known, where its address has failed too
/// often.
const GUESSES_PER_MINUTE: u32 = 5;

#[derive(Debug, Clone)]
pub(in crate::broker) enum Caller {
    Anonymous,
    /// Somebody, who showed this.
    Known(Identity, Proof),
}

/// Knows the users and the keys, and who is in.
#[derive(Debug)]
pub(in crate::broker) struct Authenticator {
    config: BrokerConfig,
    /// Replaced as a whole when a file changes. A lock because log-ins read it while that happens.
    credentials: RwLock<Arc<Credentials>>,
    logins: Arc<Logins>,
    /// A lock because log-ins come in their own tasks; it is held for one map operation.
    failures: Mutex<LoginThrottle<IpAddr>>,
    /// Of names at addresses that have failed too often. A lock for the same reason.
    guesses: Mutex<LoginThrottle<(IpAddr, Arc<str>)>>,
}

/// What the files say, as far as they are configured.
#[derive(Debug)]
struct Credentials {
    passwords: Option<Passwords>,
    keys: Option<Keys>,
}

impl Credentials {
    /// Reads the files. Passwords that were recognised with those of `before` still are.
    fn read(config: &BrokerConfig, before: Option<&Self>) -> Result<Self, IdentityError> {
        let users = config.users_file.as_deref().map(users::read).transpose()?;
        let keys = config.jwt.is_used().then(|| Keys::load(&config.jwt)).transpose()?;
        let before = before.and_then(|before| before.passwords.as_ref());
        Ok(Self { passwords: users.map(|users| Passwords::new(users, before)), keys })
    }

    /// The role that the users file gives to a user.
    fn role_of(&self, user: &str) -> Option<Role> {
        self.passwords.as_ref()?.role_of(user)
    }
}

impl Authenticator {
    /// Reads the files that are configured.
    pub(in crate::broker) fn new(config: &BrokerConfig) -> Result<Self, IdentityError> {
        let new = Self {
            config: config.clone(),
            credentials: RwLock::new(Arc::new(Credentials::read(config, None)?)),
            logins: Logins::new(config.limits.connections_per_user),
            failures: Mutex::new(LoginThrottle::new(config.limits.login_failures_per_minute)),
            guesses: Mutex::new(LoginThrottle::new(GUESSES_PER_MINUTE)),
        };
        new.warn_of_roles();
        Ok(new)
    }

    /// Finds out who somebody at this address is. Behind a proxy it is the one that the proxy says.
    pub(in crate::broker) async fn login(
        &self,
        user: Option<&str>,
        password: Option<&[u8]>,
        address: IpAddr,
    ) -> Result<Caller, Refused> {
        let user = user.filter(|user| !user.is_empty());
        let password = password.filter(|password| !password.is_empty());
        let credentials = self.credentials();
        let knows_nobody = credentials.passwords.is_none() && credentials.keys.is_none();
        let says_nothing = user.is_none() && password.is_none();
        if !says_nothing && !knows_nobody {
            let checked = self.check(user, password.unwrap_or_default(), address).await;
            if matches!(&checked, Err(Refused { refusal: Refusal::Credentials, .. })) {
                self.failures().failed(network_of(address), Instant::now());
            }
            return checked;
        }
        // The listeners are on loopback, but there may be a proxy in front of them.
        match self.config.anonymous {
            true if address.to_canonical().is_loopback() => Ok(Caller::Anonymous),
            true => {
                let detail = "from outside: anonymous clients come from loopback only".to_owned();
                Err(Refusal::NoUser.with(detail))
            }
            false => Err(Refusal::NoUser.into()),
        }
    }

    /// Enters an authenticated connection among the log-ins, if its user may have another one.
    pub(in crate::broker) fn enter(
        &self,
        caller: &Caller,
        client: &str,
        handle: &Arc<ConnectionHandle>,
    ) -> Result<Option<LoginPermit>, Refusal> {
        let Caller::Known(identity, proof) = caller else {
            return Ok(None);
        };
        let login_permit = self.logins.enter(identity, proof, client, handle).ok_or(Refusal::UserConnections)?;
        // The files may have changed since the check; from now on a change of them ends the connection.
        if self.is_valid(identity, proof) { Ok(Some(login_permit)) } else { Err(Refusal::Credentials) }
    }

    /// What somebody is, by the users file, the configuration, or a connection that is there.
    pub(in crate::broker) fn role_of(&self, user: &str) -> Option<Role> {
        let in_file = self.credentials().role_of(user);
        let configured = || self.config.bals.contains(user).then_some(Role::Bal);
        in_file.or_else(configured).or_else(|| self.logins.role_of(user))
    }

    /// As what somebody may still write who wrote as `then`. Whom the files and the configuration do not know may have a token, where
    /// there are any, or need nothing, unless it is known to have shown a password; else it is nobody any more.
    pub(in crate::broker) fn writes_as(&self, user: &str, then: Role, by_token: Option<bool>) -> Option<Role> {
        let has_keys = self.credentials().keys.is_some();
        let needs_no_line = match by_token {
            Some(by_token) => by_token && has_keys,
            None => has_keys || self.config.anonymous,
        };
        self.role_of(user).or_else(|| needs_no_line.then_some(then))
    }

    /// What is kept for the owner of a session without a connection, who had come as this caller, if that is known. No user is an
    /// anonymous client. Where there are keys, whoever has no line in the users file may come back with a token, by another key than
    /// the last one too: as what that one said, or as a chat user.
    pub(in crate::broker) fn rights_of(&self, user: Option<&str>, caller: Option<&Caller>) -> Rights {
        let Some(user) = user else {
            return if self.config.anonymous { Rights::Anonymous } else { Rights::Nobody };
        };
        let credentials = self.credentials();
        let has_keys = credentials.keys.is_some();
        let said = caller.and_then(Caller::by_token).filter(|said| has_keys && !self.is_somebody_else(said));
        let in_file = || credentials.role_of(user).or_else(|| has_keys.then_some(Role::User));
        rights(user.into(), said.map(|said| said.role).or_else(in_file))
    }

    /// What somebody who was let in may do by now. Whoever showed a password is what the users file says now, and nobody
    /// without a line there. A token stands for itself, as at the log-in, as long as there is its key.
    pub(in crate::broker) fn rights_now(&self, caller: &Caller) -> Rights {
        let Caller::Known(identity, proof) = caller else {
            return Rights::Anonymous;
        };
        let role = match proof {
            Proof::Password(_) => self.credentials().role_of(&identity.user),
            Proof::Token { .. } => Some(identity.role).filter(|_| self.is_valid(identity, proof)),
        };
        rights(Arc::clone(&identity.user), role)
    }

    /// Whether clients may come that do not say who they are.
    pub(in crate::broker) fn takes_anonymous(&self) -> bool {
        self.config.anonymous
    }

    /// Whether the users file has this name.
    #[cfg(test)]
    pub(in crate::broker) fn has(&self, user: &str) -> bool {
        self.credentials().role_of(user).is_some()
    }

    /// Reads the files again and ends the connections whose password, token or key is not valid any more.
    pub(super) fn reread(&self) -> Result<(), IdentityError> {
        let credentials = Credentials::read(&self.config, Some(&self.credentials()))?;
        let users = credentials.passwords.as_ref().map_or(0, Passwords::count);
        *self.credentials.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
        self.warn_of_roles();
        let ended = self.logins.end_invalid(|identity, proof| self.is_valid(identity, proof));
        info!(users, ended, "users and keys were read again");
        Ok(())
    }

    /// Where an address has failed too often, others behind it are not to suffer: nobody guesses a token, and a password that was
    /// right before is recognised without work. Of anybody else nothing is checked.
    async fn check(&self, user: Option<&str>, password: &[u8], address: IpAddr) -> Result<Caller, Refused> {
        let credentials = self.credentials();
        let failures = self.check_failures(address);
        if let (Some(keys), Some(token)) = (&credentials.keys, looks_like_token(password)) {
            let checked = self.check_token(keys, token, user);
            return checked.or_else(|refused| failures.and(Err(refused)));
        }
        let wrong = || wrong("user name or password");
        let (Some(passwords), Some(user)) = (&credentials.passwords, user) else {
            return failures.and_then(|()| Err(wrong()));
        };
        let mut proven = match failures {
            Ok(()) => passwords.recall(user, password),
            Err(refused) => Some(self.recall_only(passwords, (user, password), address).ok_or(refused)?),
        };
        if proven.is_none() {
            let permit = passwords.permit().await.ok_or_else(wrong)?;
            // Others of the same address may have failed while this one waited, and the files may have changed.
            self.check_failures(address)?;
            if let Some(passwords) = &self.credentials().passwords {
                proven = passwords.check(permit, user, password).await;
            }
        }
        let (identity, hash) = proven.ok_or_else(wrong)?;
        Ok(Caller::Known(identity, Proof::Password(hash)))
    }

    fn check_token(&self, keys: &Keys, token: &str, user: Option<&str>) -> Result<Caller, Refused> {
        let Token { identity, expires_ms, key, .. } =
            keys.check(token, user).map_err(|why| wrong(format!("token: {why}")))?;
        if self.is_somebody_else(&identity) {
            return Err(wrong("token: a user's, for the name of somebody with another role"));
        }
        Ok(Caller::Known(identity, Proof::Token { expires_ms, key }))
    }

    /// Whether a password is known to be right, at an address that has failed too often. What costs nothing is not to be a way to
    /// guess: each name may fail there a few times.
    fn recall_only(
        &self,
        passwords: &Passwords,
        (user, password): (&str, &[u8]),
        address: IpAddr,
    ) -> Option<(Identity, Arc<str>)> {
        let (now, name) = (Instant::now(), (network_of(address), Arc::clone(passwords.remembers(user)?)));
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        if guesses.is_used_up(&name, now) {
            return None;
        }
        let recalled = passwords.recall(user, password);
        if recalled.is_none() {
            guesses.failed(name, now);
        }
        recalled
    }

    /// Whether `secret` is the password of a chat user, or a token of that one that was issued just now.
    pub(in crate::broker) async fn prove(&self, user: &str, secret: &str) -> Proven {
        let credentials = self.credentials();
        if let (Some(keys), Some(token)) = (&credentials.keys, looks_like_token(secret.as_bytes())) {
            let is_own = |token: Token| token.identity.role == Role::User && token.is_fresh;
            return if keys.check(token, Some(user)).is_ok_and(is_own) { Proven::Yes } else { Proven::No };
        }
        let Some(passwords) = &credentials.passwords else {
            return if credentials.keys.is_some() { Proven::No } else { Proven::Unknown };
        };
        let Some(permit) = passwords.permit().await else { return Proven::No };
        let proven = passwords.check(permit, user, secret.as_bytes()).await;
        if proven.is_some_and(|(identity, _)| identity.role == Role::User) { Proven::Yes } else { Proven::No }
    }

    fn is_valid(&self, identity: &Identity, proof: &Proof) -> bool {
        match proof {
            Proof::Password(hash) => {
                self.credentials().passwords.as_ref().is_some_and(|passwords| passwords.is_valid(identity, hash))
            }
            Proof::Token { key, .. } => {
                let has_key = self.credentials().keys.as_ref().is_some_and(|keys| keys.has(key));
                has_key && !self.is_somebody_else(identity)
            }
        }
    }

    /// Whether a chat user would get the topics of a BAL or an admin by having its name. Who makes tokens for chat users
    /// often lets them choose their names; a token that says `bal` or `admin` was made on purpose.
    fn is_somebody_else(&self, identity: &Identity) -> bool {
        let role = self.credentials().role_of(&identity.user);
        identity.role == Role::User
            && (role.is_some_and(|role| role != Role::User) || self.config.bals.contains(&*identity.user))
    }

    /// The users file is the operator's own word and holds, but it contradicts the configuration.
    fn warn_of_roles(&self) {
        let credentials = self.credentials();
        for bal in self.config.bals.iter().filter(|bal| credentials.role_of(bal).is_some_and(|role| role != Role::Bal))
        {
            warn!(user = bal, "the configuration names a BAL whose role in the users file is another; it may not push");
        }
    }

    /// An error for an address that failed too often.
    fn check_failures(&self, address: IpAddr) -> Result<(), Refused> {
        let is_over = self.failures().is_used_up(&network_of(address), Instant::now());
        if is_over { Err(Refusal::LoginThrottle.into()) } else { Ok(()) }
    }

    fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn failures(&self) -> MutexGuard<'_, LoginThrottle<IpAddr>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    /// What somebody who logged in is.
    pub(in crate::broker) fn role(&self) -> Option<Role> {
        match self {
            Self::Anonymous => None,
            Self::Known(identity, _) => Some(identity.role),
        }
    }

    pub(in crate::broker) fn rights(&self) -> Rights {
        match self {
            Self::Anonymous => Rights::Anonymous,
            Self::Known(identity, _) => Rights::Known(identity.clone()),
        }
    }

    /// What the token said, if it came with one.
    pub(in crate::broker) fn by_token(&self) -> Option<&Identity> {
        match self {
            Self::Known(identity, Proof::Token { .. }) => Some(identity),
            _ => None,
        }
    }

    /// What is kept of it with its session.
    pub(in crate::broker) fn to_kept(&self) -> Option<KeptLogin> {
        let Self::Known(Identity { role, .. }, proof) = self else { return None };
        let token_key = match proof {
            Proof::Password(_) => None,
            Proof::Token { key, .. } => Some(key.bytes()),
        };
        Some(KeptLogin { role: *role, token_key })
    }

    /// Who had a session before the last start. Which password it was is not kept, nor when the token ended: they are asked of a
    /// connection alone.
    pub(in crate::broker) fn kept(user: Arc<str>, KeptLogin { role, token_key }: KeptLogin) -> Self {
        let proof = match token_key {
            None => Proof::Password("".into()),
            Some(key) => Proof::Token { expires_ms: 0, key: key.into() },
        };
        Self::Known(Identity { user, role }, proof)
    }

    /// When its connection has to end, in Unix milliseconds.
    pub(in crate::broker) fn expires_ms(&self) -> Option<u64> {
        match self {
            Self::Known(_, Proof::Token { expires_ms, .. }) => Some(*expires_ms),
            _ => None,
        }
    }
}

fn wrong(detail: impl Into<String>) -> Refused {
    Refusal::Credentials.with(detail)
}

fn rights(user: Arc<str>, role: Option<Role>) -> Rights {
    role.map_or(Rights::Nobody, |role| Rights::Known(Identity { user, role }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::JwtConfig;
    use crate::broker::identity::users::{Cost, UsersFile};
    use crate::broker::refusals::tests::Log;

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
        let _guard = log.listen();
        let authenticator = Authenticator::new(&config).unwrap();
        let told = || {
            let text = log.text();
            text.lines().filter(|line| line.contains("may not push")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(
            matches!(&told()[..], [line] if line.contains("WARN") && line.contains("user=\"shop\"")),
            "{:?}",
            told()
        );
        authenticator.reread().unwrap();
        assert_eq!(told().len(), 2);
    }

    #[tokio::test]
    async fn the_detail_of_a_failure_says_what_is_wrong_and_not_what_was_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let mut file = UsersFile::open(&path).unwrap();
        file.add_with("alice", Role::User, "right", Cost { memory_kib: 8, rounds: 1 }).unwrap();
        file.save().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "x".repeat(32)).unwrap();
        let jwt = JwtConfig { secret_file: Some(secret), ..JwtConfig::default() };
        let authenticator =
            Authenticator::new(&BrokerConfig { users_file: Some(path), jwt, ..BrokerConfig::default() }).unwrap();
        let why = async |password: &str| {
            let (user, address) = (Some("alice"), IpAddr::from([10, 0, 0, 1]));
            authenticator.login(user, Some(password.as_bytes()), address).await.unwrap_err()
        };
        let denied = |detail: &str| Refusal::Credentials.with(detail);
        assert_eq!(why("hunter2").await, denied("user name or password"));
        assert_eq!(why("hunter2.hunter2.hunter2").await, denied("token: it is malformed"));
        let (user, password, address) = (None, None, IpAddr::from([10, 0, 0, 1]));
        let nameless = authenticator.login(user, password, address).await.unwrap_err();
        assert_eq!(nameless, Refusal::NoUser.into());
    }
}
