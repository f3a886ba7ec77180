//! At which devices of the chat users somebody is looking, and the messages whose pushes wait for that.
//!
//! ```text
//!   connections ──came, gone──▶ ┌────────────┐ ◀─given, confirmed── messages of chat users
//!   presence ─────active──────▶ │ Attentions │ ──attended──▶ push decision
//!   what a person does ─sign──▶ └────────────┘ ──rung──▶ the same decision once more
//! ```
//!
//! [`crate::chat::attention`] has the rules of one device. A message that is given to several attended devices waits for the
//! first of them that confirms it, and is decided again when the last of them has let it wait for too long, went, or became
//! inactive. With [`PushWhen::PerDevice`] each device waits for itself. A device that went keeps its last sign for as long as
//! that counts: one that reconnects every minute need not be used every minute.
//!
//! Nothing of this is on disk: after a restart, what is neither confirmed nor pushed is decided once more anyway.

mod user;

use self::user::User;
use crate::chat::attention::Attended;
use crate::chat::id::{Owner, Sid};
use crate::chat::push_decision::PushWhen;
use crate::chat::topic::Device;
use crate::ops::clock::at;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Most users; nobody counts as looking at a device of another one. The embedded broker has fewer connections; on an external
/// one, whoever may write below `+/self/` says who is connected.
const USERS_MAX: usize = 100_000;
/// While so many users are known, the signs of one who has no device connected are forgotten.
const USERS_AWAY_MAX: usize = 20_000;
/// Most messages that wait for [`Attentions::rung`]. Further ones are decided at the next start.
const RUNG_MAX: usize = 1_000_000;
/// So far ahead the time of a caller counts as a clock that was set forward, in milliseconds.
const CLOCK_STEP_MS: u64 = 50;

/// The devices of all chat users. All times are Unix milliseconds.
///
/// A mutex shares it: every document of a user tells something of it, and the push decision of every message asks it, which
/// would be a round trip each to a task that owned it. The mutex is held for operations on memory only, never across an await.
#[derive(Debug)]
pub(crate) struct Attentions {
    state: Mutex<State>,
    /// [`Attentions::rung`] has something to return, or a clock runs out earlier than it knew.
    sooner: Notify,
}

#[derive(Debug)]
struct State {
    when: PushWhen,
    sign_counts_ms: u64,
    /// A time of a caller, and when that was: the clock of what happens by itself.
    clock: (u64, Instant),
    users: HashMap<Owner, Entry>,
    /// When to look at whom; each user once at most.
    times: BTreeSet<(u64, Owner)>,
    rung: BTreeMap<Owner, Vec<Sid>>,
    rung_count: usize,
}

#[derive(Debug)]
struct Entry {
    user: User,
    /// The time at which it stands in [`State::times`].
    look_at: Option<u64>,
}

impl Attentions {
    /// Nobody is there. A sign of a person counts for `attended`.
    pub(crate) fn new(attended: Duration) -> Self {
        let state = State {
            when: PushWhen::default(),
            sign_counts_ms: u64::try_from(attended.as_millis()).unwrap_or(u64::MAX),
            clock: (0, Instant::now()),
            users: HashMap::new(),
            times: BTreeSet::new(),
            rung: BTreeMap::new(),
            rung_count: 0,
        };
        Self { state: Mutex::new(state), sooner: Notify::new() }
    }

    /// The same, where pushes are held back as `when` says.
    pub(crate) fn with(self, when: PushWhen) -> Self {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.when = when;
        Self { state: Mutex::new(state), sooner: self.sooner }
    }

    /// A device has connected. At a take-over the old connection may still be there; the device is until the last one ends.
    pub(crate) fn came(&self, user: &Owner, device: &Device, connection: u64, now_ms: u64) {
        self.change(user, Some(USERS_MAX), now_ms, |user, _| {
            user.handle_came(device, connection);
            Vec::new()
        });
    }

    /// A connection of a device has ended.
    pub(crate) fn gone(&self, user: &Owner, device: &Device, connection: u64, now_ms: u64) {
        self.change(user, None, now_ms, |user, now| user.handle_gone(device, connection, now));
    }

    /// The device gave a sign of a person. If it is not known as connected yet, the sign counts from its coming on.
    pub(crate) fn sign(&self, user: &Owner, device: &Device, now_ms: u64) {
        self.change(user, Some(USERS_AWAY_MAX), now_ms, |user, now| {
            user.handle_sign(device, now);
            Vec::new()
        });
    }

    /// The device says whether somebody looks at it, until its connection ends. `true` is a sign of a person.
    pub(crate) fn active(&self, user: &Owner, device: &Device, active: bool, now_ms: u64) {
        if active {
            self.sign(user, device, now_ms);
        }
        self.change(user, None, now_ms, |user, now| user.handle_active(device, active, now));
    }

    /// The device takes back that nobody looks at it, which is no sign of a person.
    pub(crate) fn unsaid(&self, user: &Owner, device: &Device, now_ms: u64) {
        self.change(user, None, now_ms, |user, _| {
            user.handle_unsaid(device);
            Vec::new()
        });
    }

    /// The devices of a user that somebody is looking at.
    pub(crate) fn attended(&self, user: &Owner, now_ms: u64) -> Attended {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = state.now(now_ms);
        state.users.get(user).map(|entry| entry.user.attended(now)).unwrap_or_default()
    }

    /// The devices of a user that have a connection.
    pub(crate) fn connected(&self, user: &Owner) -> Vec<Device> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.users.get(user).map(|entry| entry.user.connected_devices()).unwrap_or_default()
    }

    /// A message goes to the attended devices of a user: each has 15 s to confirm it. To be called only if there are some; if
    /// they have gone meanwhile, [`Self::rung`] returns the message at once.
    ///
    /// To be called once the store has been asked to keep the message: whoever decides again asks the store, which answers in
    /// the order in which it was asked.
    pub(crate) fn given(&self, user: &Owner, sid: Sid, now_ms: u64) {
        self.change(user, Some(usize::MAX), now_ms, |user, now| user.handle_given(sid, now));
    }

    /// The message was refused after all: nothing waits for it.
    pub(crate) fn taken_back(&self, user: &Owner, sid: Sid) {
        self.change(user, None, 0, |user, _| {
            user.handle_taken_back(sid);
            Vec::new()
        });
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.not_rung(user, sid);
    }

    /// Whether the device that confirms the message is attended, or was when it got the message. Without a device it is not.
    pub(crate) fn confirmed(&self, user: &Owner, device: Option<&Device>, sid: Sid, now_ms: u64) -> bool {
        let Some(device) = device else { return false };
        let mut attended = false;
        self.change(user, None, now_ms, |user, now| {
            attended = user.handle_confirmed(device, sid, now);
            Vec::new()
        });
        attended
    }

    /// Whoever has this name from now on is somebody else: nobody looks, and nothing waits.
    pub(crate) fn forget(&self, user: &Owner) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = state.users.remove(user).and_then(|entry| entry.look_at) {
            state.times.remove(&(at, user.clone()));
        }
        let rung = state.rung.remove(user).map_or(0, |sids| sids.len());
        state.rung_count -= rung;
    }

    /// The messages up to this one, of any conversation, for which pushes wait for the device's confirmation.
    pub(crate) fn waited_for(&self, user: &Owner, device: &Device, sid: Sid) -> Vec<Sid> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.users.get(user).map(|entry| entry.user.waited_for(device, sid)).unwrap_or_default()
    }

    /// Waits until messages are to be decided again, and returns them, those of each user oldest first. One task may call
    /// it. Cancel-safe: what is not returned stays.
    pub(crate) async fn rung(&self) -> Vec<(Owner, Vec<Sid>)> {
        loop {
            let wake_at = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.poll();
                if !state.rung.is_empty() {
                    return state.take_rung();
                }
                state.wake_at()
            };
            tokio::select! {
                () = self.sooner.notified() => {}
                () = at(wake_at) => {}
            }
        }
    }

    /// Something happened to a user. One who is not known becomes known while there are fewer than `new_below`, if that is
    /// given; else nothing follows.
    fn change(
        &self,
        name: &Owner,
        new_below: Option<usize>,
        now_ms: u64,
        change: impl FnOnce(&mut User, u64) -> Vec<Sid>,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.wake_at();
        let now = state.set_clock(now_ms);
        state.change(name, new_below, |user| change(user, now));
        if state.wake_at().is_some_and(|at| before.is_none_or(|before| at < before)) {
            self.sooner.notify_one();
        }
    }
}

impl State {
    /// The later one of the caller's time and the time that has passed here. A caller's clock that is set back, or starts from
    /// another time than another one's, moves nothing back.
    fn now(&self, now_ms: u64) -> u64 {
        let (ms, at) = self.clock;
        now_ms.max(ms.saturating_add(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)))
    }

    /// The same, and what happens by itself follows a clock that is set forward.
    fn set_clock(&mut self, now_ms: u64) -> u64 {
        if now_ms > self.now(0).saturating_add(CLOCK_STEP_MS) {
            self.clock = (now_ms, Instant::now());
        }
        self.now(now_ms)
    }

    fn change(&mut self, name: &Owner, new_below: Option<usize>, change: impl FnOnce(&mut User) -> Vec<Sid>) {
        if !self.users.contains_key(name) {
            if new_below.is_none_or(|limit| self.users.len() >= limit) {
                return;
            }
            let user = User::new(self.when, self.sign_counts_ms);
            self.users.insert(name.clone(), Entry { user, look_at: None });
        }
        let crowded = self.users.len() > USERS_AWAY_MAX;
        let Some(entry) = self.users.get_mut(name) else { return };
        let again = change(&mut entry.user);
        let forget = entry.user.is_empty() || (crowded && entry.user.is_away());
        let look_at = if forget { None } else { entry.user.deadline() };
        if entry.look_at != look_at {
            if let Some(before) = entry.look_at {
                self.times.remove(&(before, name.clone()));
            }
            self.times.extend(look_at.map(|at| (at, name.clone())));
            entry.look_at = look_at;
        }
        if forget {
            self.users.remove(name);
        }
        self.ring(name, again);
    }

    fn ring(&mut self, name: &Owner, mut sids: Vec<Sid>) {
        if sids.is_empty() {
            return;
        }
        if self.rung_count + sids.len() > RUNG_MAX {
            tracing::error!(left = sids.len(), "too many messages wait for their second push decision");
            sids.truncate(RUNG_MAX - self.rung_count);
        }
        self.rung_count += sids.len();
        self.rung.entry(name.clone()).or_default().append(&mut sids);
    }

    fn not_rung(&mut self, name: &Owner, sid: Sid) {
        let Some(sids) = self.rung.get_mut(name) else { return };
        let before = sids.len();
        sids.retain(|rung| *rung != sid);
        self.rung_count -= before - sids.len();
        if sids.is_empty() {
            self.rung.remove(name);
        }
    }

    /// Looks at those whose clocks have run out.
    fn poll(&mut self) {
        let now = self.now(0);
        while let Some((_, name)) = self.times.first().filter(|(at, _)| *at <= now).cloned() {
            self.change(&name, None, |user| user.poll(now));
        }
    }

    fn take_rung(&mut self) -> Vec<(Owner, Vec<Sid>)> {
        self.rung_count = 0;
        let rung = std::mem::take(&mut self.rung).into_iter();
        let oldest_first = |(user, mut sids): (Owner, Vec<Sid>)| {
            sids.sort_unstable();
            (user, sids)
        };
        rung.map(oldest_first).collect()
    }

    /// When there is something to return.
    fn wake_at(&self) -> Option<Instant> {
        let (ms, at) = self.clock;
        if !self.rung.is_empty() {
            return Some(at);
        }
        let (deadline, _) = self.times.first()?;
        at.checked_add(Duration::from_millis(deadline.saturating_sub(ms)))
    }
}

#[cfg(test)]
mod tests;
