//! All sessions and groups, and the claims by which connections take sessions over one at a time.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use super::group::Group;
use super::on_disk::OnDisk;
use super::queue::SharedQueue;
use super::session::Session;
use crate::broker::connection::ConnectionHandle;
use crate::store::QueueId;

/// How many are looked at in one step.
const PAGE: usize = 1_000;

/// All sessions and groups.
///
/// A lock because connections come and go in their own tasks; it is held for map operations. Whoever looks at all does so in
/// steps of a [`PAGE`].
#[derive(Debug, Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    on_disk: Arc<OnDisk>,
}

#[derive(Debug, Default)]
struct State {
    /// In an order, to be looked at in steps.
    sessions: BTreeMap<Arc<str>, Arc<Session>>,
    /// The connections that have one, by their numbers.
    handles: BTreeMap<u64, Arc<ConnectionHandle>>,
    /// How many sessions each user has.
    per_user: HashMap<Arc<str>, usize>,
    groups: HashMap<Arc<str>, Arc<Group>>,
    /// Their names, by the numbers of their queues.
    group_names: HashMap<u64, Arc<str>>,
    /// The queues that are on disk.
    stored: HashMap<QueueId, Weak<SharedQueue>>,
    /// The claims that are held or waited for, by session key.
    claims: HashMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>,
}

/// The right of one connection to take or end a session. Others that claim it wait in the order in which they came.
#[derive(Debug)]
pub(crate) struct SessionClaim {
    registry: Arc<Registry>,
    key: Arc<str>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Registry {
    /// Waits until no other connection has the claim.
    pub(super) async fn claim(self: &Arc<Self>, key: &Arc<str>) -> SessionClaim {
        let claim = Arc::clone(self.lock().claims.entry(Arc::clone(key)).or_default());
        // Made before the wait: should the wait be cut short, nothing is left behind.
        let mut session_claim = SessionClaim { registry: Arc::clone(self), key: Arc::clone(key), guard: None };
        session_claim.guard = Some(claim.lock_owned().await);
        session_claim
    }

    /// How many connections have the claim or wait for it.
    #[cfg(test)]
    pub(super) fn claims_of(&self, key: &str) -> usize {
        self.lock().claims.get(key).map_or(0, |claim| Arc::strong_count(claim) - 1)
    }

    /// The claim, if no other connection has it or waits for it.
    pub(super) fn try_claim(self: &Arc<Self>, key: &Arc<str>) -> Option<SessionClaim> {
        let claim = Arc::clone(self.lock().claims.entry(Arc::clone(key)).or_default());
        let mut session_claim = SessionClaim { registry: Arc::clone(self), key: Arc::clone(key), guard: None };
        session_claim.guard = Some(claim.try_lock_owned().ok()?);
        Some(session_claim)
    }

    pub(super) fn session(&self, key: &str) -> Option<Arc<Session>> {
        self.lock().sessions.get(key).cloned()
    }

    /// How many sessions there are, and how many this user has.
    pub(super) fn count(&self, user: Option<&str>) -> (usize, usize) {
        let state = self.lock();
        (state.sessions.len(), user.and_then(|user| state.per_user.get(user)).copied().unwrap_or_default())
    }

    /// The sessions of a user, whose keys begin with the name ([`crate::broker::identity`]).
    pub(super) fn sessions_of(&self, user: &str) -> Vec<Arc<Session>> {
        let (first, last) = (format!("{user}:"), format!("{user};"));
        let state = self.lock();
        let of_default = state.sessions.get(user).into_iter();
        let of_others =
            state.sessions.range::<str, _>((Excluded(&*first), Excluded(&*last))).map(|(_, session)| session);
        of_default.chain(of_others).cloned().collect()
    }

    pub(super) fn add(&self, session: &Arc<Session>) {
        let mut state = self.lock();
        if let Some(user) = &session.user {
            *state.per_user.entry(Arc::clone(user)).or_default() += 1;
        }
        state.sessions.insert(Arc::clone(&session.key), Arc::clone(session));
    }

    /// Forgets a session, unless another one has its place.
    pub(super) fn remove(&self, session: &Arc<Session>) {
        let mut state = self.lock();
        if !state.sessions.get(&session.key).is_some_and(|there| Arc::ptr_eq(there, session)) {
            return;
        }
        state.sessions.remove(&session.key);
        if let Some(user) = &session.user
            && let Some(count) = state.per_user.get_mut(user)
        {
            *count -= 1;
            if *count == 0 {
                state.per_user.remove(user);
            }
        }
    }

    /// The group of this name, made by `new` if there is none.
    pub(super) fn group(&self, name: &str, new: impl FnOnce(&Arc<str>) -> Arc<Group>) -> Arc<Group> {
        let mut state = self.lock();
        if let Some(group) = state.groups.get(name) {
            return Arc::clone(group);
        }
        let group = new(&name.into());
        state.group_names.insert(group.queue.number(), Arc::clone(&group.name));
        state.groups.insert(Arc::clone(&group.name), Arc::clone(&group));
        group
    }

    pub(super) fn empty_groups(&self) -> Vec<Arc<Group>> {
        self.lock().groups.values().filter(|group| group.is_empty()).cloned().collect()
    }

    pub(super) fn remove_group(&self, group: &Arc<Group>) {
        let mut state = self.lock();
        state.groups.remove(&group.name);
        state.group_names.remove(&group.queue.number());
    }

    /// The queue of a group, as long as that has members.
    pub(super) fn group_queue(&self, number: u64) -> Option<Arc<SharedQueue>> {
        let state = self.lock();
        let group = state.groups.get(state.group_names.get(&number)?)?;
        Some(Arc::clone(&group.queue))
    }

    /// A queue is on disk under this name.
    pub(super) fn stored_as(&self, id: QueueId, queue: &Arc<SharedQueue>) {
        queue.store_as(Some(id));
        self.lock().stored.insert(id, Arc::downgrade(queue));
    }

    /// A queue is on disk no longer. Yields its name there, if it was.
    pub(super) fn forget_stored(&self, queue: &SharedQueue) -> Option<QueueId> {
        let id = queue.stored()?;
        queue.store_as(None);
        self.lock().stored.remove(&id);
        Some(id)
    }

    pub(super) fn stored(&self, id: QueueId) -> Option<Arc<SharedQueue>> {
        self.lock().stored.get(&id)?.upgrade()
    }

    /// What waits on disk, over all queues.
    pub(super) fn on_disk(&self) -> &Arc<OnDisk> {
        &self.on_disk
    }

    /// A connection has a session now.
    pub(super) fn connect(&self, handle: &Arc<ConnectionHandle>) {
        self.lock().handles.insert(handle.number(), Arc::clone(handle));
    }

    /// It has none any more.
    pub(super) fn disconnect(&self, handle: &ConnectionHandle) {
        self.lock().handles.remove(&handle.number());
    }

    /// How many connections have a session.
    pub(super) fn connected(&self) -> usize {
        self.lock().handles.len()
    }

    /// The next sessions behind a key.
    pub(super) fn sessions(&self, after: &str) -> Vec<Arc<Session>> {
        let behind = (Excluded(after), Unbounded);
        self.lock().sessions.range::<str, _>(behind).take(PAGE).map(|(_, session)| Arc::clone(session)).collect()
    }

    /// The next connections behind a number.
    pub(super) fn handles(&self, after: u64) -> Vec<Arc<ConnectionHandle>> {
        self.lock().handles.range(after + 1..).take(PAGE).map(|(_, handle)| Arc::clone(handle)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SessionClaim {
    fn drop(&mut self) {
        self.guard = None;
        let mut state = self.registry.lock();
        // The map has one; whoever waits has another.
        if state.claims.get(&self.key).is_some_and(|claim| Arc::strong_count(claim) == 1) {
            state.claims.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn those_who_want_a_session_come_in_turn_and_leave_nothing_behind() {
        let registry = Arc::new(Registry::default());
        let (one, other): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let first = registry.claim(&one).await;
        let mut second = Box::pin(registry.claim(&one));
        assert!((&mut second).now_or_never().is_none());
        let mut third = Box::pin(registry.claim(&one));
        assert!((&mut third).now_or_never().is_none());
        drop(registry.claim(&other).await);
        drop(first);
        assert!((&mut third).now_or_never().is_none(), "the second is before it");
        drop(second.now_or_never().unwrap());
        drop(third.now_or_never().unwrap());
        assert!(registry.lock().claims.is_empty());
    }

    #[tokio::test]
    async fn who_does_not_wait_gets_a_claim_that_is_free_and_leaves_nothing_behind() {
        let registry = Arc::new(Registry::default());
        let key: Arc<str> = "a".into();
        let first = registry.try_claim(&key).unwrap();
        assert!(registry.try_claim(&key).is_none());
        drop(first);
        drop(registry.try_claim(&key).unwrap());
        assert!(registry.lock().claims.is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_is_forgotten() {
        let registry = Arc::new(Registry::default());
        let key: Arc<str> = "a".into();
        let first = registry.claim(&key).await;
        assert!(registry.claim(&key).now_or_never().is_none());
        drop(first);
        assert!(registry.lock().claims.is_empty());
    }
}
