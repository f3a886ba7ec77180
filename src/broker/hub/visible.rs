//! Whose presence and profile each chat user sees: of those whose contact the user is, and of BALs. Each delivery is asked,
//! so a wide subscription is granted and brings what its user sees.
//!
//! The set of a user is there as long as a session of the user is, for all of them: read from the store when the first one
//! begins, and changed as the bridge says. Everybody sees their own.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use super::Hub;
use super::publish::Destinations;
use super::session::Session;
use crate::broker::identity::Authenticator;
use crate::chat::id::Owner;
use crate::chat::principal::Role;
use crate::chat::topic::{ChatTopic, ClientTopic, Side};
use crate::mqtt::Visibility;
use crate::store::{Enqueue, StoreError, VisibleTo};

/// Topics of which it is asked at one time what is retained.
const PAGE: usize = 64;

/// Whom one user sees.
#[derive(Debug)]
pub(crate) struct VisibleUsers {
    user: Arc<str>,
    authenticator: Arc<Authenticator>,
    /// A lock because all deliveries to the user ask, and the bridge changes it; held for an operation on a set.
    state: RwLock<State>,
}

#[derive(Debug)]
enum State {
    /// What was changed while the store is asked: it may answer as it was before.
    Loading { changes: HashMap<Box<str>, bool>, hides: Option<bool> },
    /// `hides`: the user sees no presence of others, because nobody sees that of the user.
    Known { users: HashSet<Box<str>>, hides: bool },
}

impl State {
    fn hides(&self) -> bool {
        match self {
            Self::Loading { hides, .. } => hides.unwrap_or(false),
            Self::Known { hides, .. } => *hides,
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Loading { changes, .. } => changes.get(name).is_some_and(|is_visible| *is_visible),
            Self::Known { users, .. } => users.contains(name),
        }
    }
}

/// Those of all users who have a session. A lock because connections come in their own tasks; held for map operations.
#[derive(Debug, Default)]
pub(super) struct Visibilities(Mutex<HashMap<Arc<str>, Weak<VisibleUsers>>>);

impl VisibleUsers {
    /// Whether the user sees what is published on `topic`, as far as that depends on who is seen.
    pub(super) fn shows(&self, topic: &str) -> bool {
        let Some(owner) = Side::of(topic).shown_owner() else { return true };
        if *owner == *self.user {
            return true;
        }
        let state = self.read();
        let is_hidden = state.hides() && Side::of(topic).is_presence();
        !is_hidden && (state.has(owner) || self.authenticator.role_of(owner) == Some(Role::Bal))
    }

    pub(super) fn is_known(&self) -> bool {
        matches!(*self.read(), State::Known { .. })
    }

    /// What the store has. What was said meanwhile is newer.
    pub(super) fn load(&self, VisibleTo { users: names, presence }: VisibleTo) {
        let mut state = self.write();
        let State::Loading { changes, hides } = &mut *state else { return };
        let hides = hides.unwrap_or(!presence);
        let mut known: HashSet<Box<str>> = names.into_iter().map(|name| name.as_str().into()).collect();
        for (name, is_visible) in changes.drain() {
            if is_visible {
                known.insert(name)
            } else {
                known.remove(&name)
            };
        }
        *state = State::Known { users: known, hides };
    }

    fn change(&self, name: &str, is_visible: bool) {
        match &mut *self.write() {
            State::Loading { changes, .. } => _ = changes.insert(name.into(), is_visible),
            State::Known { users, .. } if is_visible => _ = users.insert(name.into()),
            State::Known { users, .. } => _ = users.remove(name),
        }
    }

    fn hide(&self, on: bool) {
        match &mut *self.write() {
            State::Loading { hides, .. } => *hides = Some(on),
            State::Known { hides, .. } => *hides = on,
        }
    }

    /// Those who are known to be seen.
    fn names(&self) -> Vec<Box<str>> {
        match &*self.read() {
            State::Loading { .. } => Vec::new(),
            State::Known { users, .. } => users.iter().cloned().collect(),
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visibilities {
    /// The set of a user, which is made if there is none.
    pub(super) fn of(&self, user: &Arc<str>, authenticator: &Arc<Authenticator>) -> Arc<VisibleUsers> {
        let mut users = self.lock();
        if let Some(there) = users.get(user).and_then(Weak::upgrade) {
            return there;
        }
        let state = RwLock::new(State::Loading { changes: HashMap::new(), hides: None });
        let new = Arc::new(VisibleUsers { user: Arc::clone(user), authenticator: Arc::clone(authenticator), state });
        users.insert(Arc::clone(user), Arc::downgrade(&new));
        new
    }

    /// As the bridge says. Of a user without a session the store says it later. Yields the topics of which the user may be
    /// shown from now on what is retained.
    fn change(&self, Visibility { watcher, of, visible }: &Visibility) -> Vec<String> {
        let Some(there) = self.lock().get(watcher).and_then(Weak::upgrade) else { return Vec::new() };
        let shown = match of {
            Some(of) => {
                there.change(of, *visible);
                [presence_of(of), profile_of(of)].into_iter().flatten().collect()
            }
            None => {
                there.hide(!visible);
                there.names().iter().filter_map(|of| presence_of(of)).collect()
            }
        };
        if *visible { shown } else { Vec::new() }
    }

    /// Whoever has this name from now on is somebody else.
    pub(super) fn forget(&self, user: &str) {
        self.lock().remove(user);
    }

    /// Forgets the users who have no session any more.
    pub(super) fn tidy(&self) {
        self.lock().retain(|_, there| there.strong_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Weak<VisibleUsers>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the presence of somebody is retained.
fn presence_of(name: &str) -> Option<String> {
    Some(ClientTopic::Presence(Owner::new(name).ok()?, None).to_string())
}

fn profile_of(name: &str) -> Option<String> {
    Some(ClientTopic::Chat(Owner::new(name).ok()?, ChatTopic::Profile).to_string())
}

impl Hub {
    /// Whom a user sees from now on, as the bridge says. What is retained of those comes to the devices of the user that read it.
    pub(super) async fn take_visibility(&self, change: Visibility) {
        let shown = self.visibilities.change(&change);
        let sessions = if shown.is_empty() { Vec::new() } else { self.registry.sessions_of(&change.watcher) };
        for topics in shown.chunks(PAGE) {
            if self.show(&sessions, topics).await.is_err() {
                // The store is closed, and with it everything ends.
                return;
            }
        }
    }

    /// Gives some sessions what is retained on topics that they read. The bridge alone publishes there, and waits: what it
    /// publishes next comes behind this.
    async fn show(&self, sessions: &[Arc<Session>], topics: &[String]) -> Result<(), StoreError> {
        let is_read = |topic: &str| sessions.iter().any(|session| self.routes.to(topic, &session.queue).is_some());
        let is_kept = |topic: &str| self.lock_retained().get(topic).is_some();
        let wanted: Vec<String> = topics.iter().filter(|topic| is_kept(topic) && is_read(topic)).cloned().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        for message in self.store.read_retained(wanted).await?.await? {
            let message = Arc::new(message);
            let routes = sessions.iter().filter_map(|session| self.routes.to(&message.topic, &session.queue));
            // Nobody waits here for a reader that is slow: one that is full ends, and gets all of it when it subscribes anew.
            let Destinations { targets, counted, .. } = self.deliver_to(&message, routes, true);
            if !targets.is_empty() {
                let (incoming, retain, will) = (None, None, None);
                // The queues are notified of what is committed.
                let _committed = self.store.enqueue(Enqueue { message, targets, incoming, retain, will }).await?;
                counted.keep();
            }
        }
        Ok(())
    }

    /// Whom somebody of this role sees; `None`: everybody. While the disk refuses, it is only who is said to be visible from
    /// now on.
    pub(super) async fn visible_to(&self, user: Option<&Arc<str>>, role: Option<Role>) -> Option<Arc<VisibleUsers>> {
        let user = user.filter(|_| role == Some(Role::User))?;
        let visible = self.visibilities.of(user, &self.authenticator);
        if let (false, Ok(owner)) = (visible.is_known(), Owner::new(&**user)) {
            let (store, loaded) = (self.store.clone(), Arc::clone(&visible));
            let load = async move {
                if let Ok(asked) = store.chat_visible_to(owner).await
                    && let Ok(names) = asked.await
                {
                    loaded.load(names);
                }
            };
            self.go_on(load).await;
        }
        Some(visible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::BrokerConfig;

    #[test]
    fn what_is_said_while_the_store_is_asked_is_newer_than_its_answer() {
        let authenticator = Arc::new(Authenticator::new(&BrokerConfig::default()).unwrap());
        let visibilities = Visibilities::default();
        let visible = visibilities.of(&"alice".into(), &authenticator);
        let say = |of: Option<&str>, visible| {
            visibilities.change(&Visibility { watcher: "alice".into(), of: of.map(Into::into), visible })
        };
        say(Some("carol"), false);
        say(None, false);
        let users = ["bob", "carol"].map(|name| Owner::new(name).unwrap()).into();
        visible.load(VisibleTo { users, presence: true });
        let shown = |topic: &str| visible.shows(topic);
        assert_eq!(["bob/self/profile", "carol/self/profile", "bob/self/presence"].map(shown), [true, false, false]);
        // What an answer said that comes later still, because two sessions asked, is older as well.
        visible.load(VisibleTo { users: Vec::new(), presence: true });
        assert_eq!(["bob/self/profile", "bob/self/presence"].map(shown), [true, false]);
        assert_eq!(say(None, true), ["bob/self/presence"], "what is retained of it is shown now");
        assert!(shown("bob/self/presence"));
        assert_eq!(say(Some("carol"), true), ["carol/self/presence", "carol/self/profile"]);
        assert!(say(Some("carol"), false).is_empty());
    }
}
