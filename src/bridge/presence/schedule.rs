//! Which chat users there is something to tell about, and when. Pure: the task around it has the clock and the channels.
//!
//! A user is known from the first connection until everything is told and no late will is to be expected. At most one
//! document of a user is on its way; what happens meanwhile is summed up in the next one.

use crate::bridge::context::BIRTHS;
use crate::chat::id::Owner;
use crate::chat::message::{Presence, PresenceState, UserPresence};
use crate::chat::presence::{Aggregate, DeviceChange, End, Evidence};
use crate::chat::topic::Device;
use crate::store::LastPresence;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Shortest time between two documents of one user, however wildly its connections come and go; also the pause before
/// one that failed is published again. In milliseconds.
pub(super) const PUBLICATION_PAUSE_MS: u64 = 1_000;
/// The broker tells of a client's own word on the aggregate's topic before it keeps it as the retained one. After this
/// time it has, and the bridge's document replaces it. In milliseconds.
pub(super) const OVERWRITTEN_MS: u64 = 500;
/// How long a user of whom all is told stays known, in milliseconds: a will may be on its way, which the contract advises
/// to delay by up to 10 seconds.
pub(super) const LATE_WILL_MS: u64 = 15_000;
/// While more users are known, one of whom all is told is forgotten without waiting for a late will.
const LATE_WILL_USERS_MAX: usize = 20_000;
/// Most users who are known by what clients say; further ones are not told about. Connections are limited by the broker.
const USERS_MAX: usize = 100_000;
/// How long an external broker may take to deliver the births that it keeps, in milliseconds: those who were online before
/// are not told to be offline earlier.
const BIRTHS_MS: u64 = BIRTHS.as_millis() as u64;
/// What failed so often in a row is published again after longer and longer pauses, for it may be refused for ever.
const FAILURES: u32 = 4;
/// The pause is doubled so often at most: to about a minute.
const DOUBLINGS_MAX: u32 = 6;

/// All users of whom something may be to be told.
#[derive(Debug)]
pub(super) struct Schedule {
    evidence: Evidence,
    grace_ms: u64,
    users: HashMap<Owner, User>,
    /// When to look at whom; each user once at most.
    times: BTreeSet<(u64, Owner)>,
    /// Users who want to be seen by nobody, whether they are known now or not.
    hidden: HashSet<Owner>,
    /// Devices whose retained presence is to be cleared.
    cleared: Vec<(Owner, Device)>,
}

/// A document that is to be published.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) user: Owner,
    pub(super) document: UserPresence,
    /// The user wants to be seen by nobody: what the store remembers does not belong into the document.
    pub(super) hidden: bool,
}

#[derive(Debug)]
struct User {
    aggregate: Aggregate,
    /// A document is on its way.
    telling: bool,
    /// When the next document may go.
    next_allowed_at: u64,
    /// How often in a row it failed.
    failures: u32,
    /// When to publish again because the client has overwritten the document.
    repeat_at: Option<u64>,
    /// When the user was last heard of.
    last_event_at: u64,
    /// The time at which it stands in [`Schedule::times`].
    look_at: Option<u64>,
}

impl Schedule {
    pub(super) fn new(evidence: Evidence, grace_ms: u64) -> Self {
        let (users, times, hidden, cleared) = Default::default();
        Self { evidence, grace_ms, users, times, hidden, cleared }
    }

    /// What was last said before the restart: it is said anew, once it is known.
    pub(super) fn recover(&mut self, last: LastPresence, now: u64) {
        let LastPresence { user, state, last_seen } = last;
        self.ensure(&user);
        let until = self.return_until(now);
        self.change(&user, now, |user| match state {
            PresenceState::Online => user.aggregate.handle_restart(last_seen, until),
            PresenceState::Offline => user.aggregate.handle_memory(last_seen),
        });
    }

    /// The broker has forgotten what it kept: all is to be told again, and who was there has the time of the births to say so.
    /// Returns the connections that count no longer.
    pub(super) fn broker_lost(&mut self, now: u64) -> Vec<(Owner, Device, u64)> {
        let until = self.return_until(now);
        let names: Vec<Owner> = self.users.keys().cloned().collect();
        let mut ended = Vec::new();
        for name in names {
            self.change(&name, now, |user| {
                let connections = user.aggregate.handle_broker_lost(now, until).into_iter();
                ended.extend(connections.map(|(device, connection)| (name.clone(), device, connection)));
                user.failures = 0;
            });
        }
        self.cleared.clear();
        ended
    }

    pub(super) fn came(&mut self, user: &Owner, device: &Device, connection: u64, now: u64) {
        self.ensure(user);
        self.change(user, now, |user| user.aggregate.handle_came(device, connection, now));
    }

    pub(super) fn gone(&mut self, user: &Owner, device: &Device, connection: u64, end: End, now: u64) {
        self.change(user, now, |user| user.aggregate.handle_gone(device, connection, end, now));
    }

    /// A client said how it is, on its device's topic or on that of the aggregate. It may be no chat user. What follows for
    /// its devices.
    pub(super) fn said(
        &mut self,
        name: &Owner,
        device: Option<&Device>,
        said: Option<&Presence>,
        now: u64,
    ) -> Vec<(Device, DeviceChange)> {
        let births = self.evidence == Evidence::Births;
        let aggregate = said.filter(|said| births && device.is_none() && said.may_be_aggregate());
        let online = said.is_some_and(|said| said.state == PresenceState::Online);
        if births && online && self.users.len() < USERS_MAX && self.ensure(name) && aggregate.is_some() {
            // The bridge said it before a restart that the store does not remember, or a client forges it.
            let until = self.return_until(now);
            self.change(name, now, |user| user.aggregate.handle_restart(None, until));
        }
        let mut changes = Vec::new();
        self.change(name, now, |user| {
            let copy = aggregate.is_some_and(|aggregate| user.aggregate.has_told(aggregate));
            if aggregate.is_none() {
                changes = user.aggregate.handle_said(device, said, now);
            }
            if device.is_none() && !copy {
                user.repeat_at = Some(now + OVERWRITTEN_MS);
            }
        });
        changes
    }

    /// Whether a user wants to be seen by nobody. It is remembered until it is taken back.
    pub(super) fn hide(&mut self, name: &Owner, hidden: bool, now: u64) {
        if hidden {
            self.hidden.insert(name.clone())
        } else {
            self.hidden.remove(name)
        };
        // Also of one who is away: a document with the time of the last visit may be kept.
        self.ensure(name);
        self.change(name, now, |user| user.aggregate.handle_hide(hidden));
    }

    /// A user is erased: what is to be told goes.
    pub(super) fn erased(&mut self, name: &Owner) {
        if let Some(at) = self.users.remove(name).and_then(|user| user.look_at) {
            self.times.remove(&(at, name.clone()));
        }
        self.hidden.remove(name);
        self.cleared.retain(|(user, _)| user != name);
    }

    /// A user wanted to be seen by nobody before the start.
    pub(super) fn is_hidden(&mut self, name: Owner) {
        self.hidden.insert(name);
    }

    /// Whether a device of a user has registered a token. The retained presence of one that has none is cleared after it
    /// went, if the broker keeps births; that of one of which nothing is said is left.
    pub(super) fn token(&mut self, name: &Owner, device: &Device, has_token: bool) {
        if let Some(user) = self.users.get_mut(name) {
            user.aggregate.handle_token(device, has_token);
        }
    }

    /// The next document that is due. What becomes of it is to be [told](Self::told).
    pub(super) fn next(&mut self, now: u64) -> Option<Due> {
        while let Some((_, user)) = self.times.first().filter(|(at, _)| *at <= now).cloned() {
            if let Some(due) = self.look(&user, now) {
                return Some(due);
            }
        }
        None
    }

    /// A device that went and whose retained presence is to be cleared.
    pub(super) fn next_cleared(&mut self) -> Option<(Owner, Device)> {
        self.cleared.pop()
    }

    /// When to ask for the next one.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.times.first().map(|(at, _)| *at)
    }

    /// Whether the document of `user` that was on its way is published.
    pub(super) fn told(&mut self, user: &Owner, published: bool, now: u64) {
        self.change(user, now, |user| {
            user.telling = false;
            user.failures = if published { 0 } else { user.failures.saturating_add(1) };
            let doublings = user.failures.saturating_sub(FAILURES).min(DOUBLINGS_MAX);
            user.next_allowed_at = now + (PUBLICATION_PAUSE_MS << doublings);
            if !published {
                user.aggregate.handle_loss();
            }
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Makes a user known; false if the user is already.
    fn ensure(&mut self, name: &Owner) -> bool {
        if self.users.contains_key(name) {
            return false;
        }
        let mut aggregate = Aggregate::new(self.evidence, self.grace_ms);
        aggregate.handle_hide(self.hidden.contains(name));
        let user = User {
            aggregate,
            telling: false,
            next_allowed_at: 0,
            failures: 0,
            repeat_at: None,
            last_event_at: 0,
            look_at: None,
        };
        self.users.insert(name.clone(), user);
        true
    }

    /// How long those have to come back who were online before a restart.
    fn return_until(&self, now: u64) -> u64 {
        let births = if self.evidence == Evidence::Births { BIRTHS_MS } else { 0 };
        now.saturating_add(self.grace_ms.max(births))
    }

    /// Something happened to a user, who is looked at when its pause is over. Nothing follows if it is not known.
    fn change(&mut self, name: &Owner, now: u64, change: impl FnOnce(&mut User)) {
        let Some(user) = self.users.get_mut(name) else { return };
        change(user);
        // Before the device may come again: what it says then is not to be cleared.
        if self.evidence == Evidence::Connections {
            let cleared = std::iter::from_fn(|| user.aggregate.poll_cleared());
            self.cleared.extend(cleared.map(|device| (name.clone(), device)));
        }
        user.last_event_at = now;
        if !user.telling {
            user.place(&mut self.times, name, Some(now.max(user.next_allowed_at)));
        }
    }

    /// Returns the user's document if one is due, and puts the user in at its next time, or forgets it.
    fn look(&mut self, name: &Owner, now: u64) -> Option<Due> {
        let full = self.users.len() > LATE_WILL_USERS_MAX;
        let user = self.users.get_mut(name)?;
        if user.repeat_at.take_if(|at| *at <= now).is_some() {
            user.aggregate.handle_loss();
        }
        let document = user.aggregate.poll_document(now);
        let cleared = std::iter::from_fn(|| user.aggregate.poll_cleared());
        self.cleared.extend(cleared.map(|device| (name.clone(), device)));
        user.telling = document.is_some();
        let done = !user.telling && user.aggregate.is_idle() && user.repeat_at.is_none();
        let forget_at = if full { now } else { user.last_event_at + LATE_WILL_MS };
        if done && forget_at <= now {
            user.place(&mut self.times, name, None);
            self.users.remove(name);
            return None;
        }
        let next = user.aggregate.deadline().into_iter().chain(user.repeat_at).chain(done.then_some(forget_at)).min();
        let next = next.filter(|_| !user.telling).map(|at| at.max(user.next_allowed_at));
        user.place(&mut self.times, name, next);
        let hidden = self.hidden.contains(name);
        document.map(|document| Due { user: name.clone(), document, hidden })
    }
}

impl User {
    fn place(&mut self, times: &mut BTreeSet<(u64, Owner)>, name: &Owner, at: Option<u64>) {
        if self.look_at == at {
            return;
        }
        if let Some(before) = self.look_at {
            times.remove(&(before, name.clone()));
        }
        if let Some(at) = at {
            times.insert((at, name.clone()));
        }
        self.look_at = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PresenceState::{Offline, Online};

    const GRACE: u64 = 2_000;
    const START: u64 = 1_000_000;

    fn alice() -> Owner {
        Owner::new("alice").unwrap()
    }

    fn phone() -> Device {
        Device::new("phone").unwrap()
    }

    /// A schedule with alice online, told, and rested.
    fn schedule() -> Schedule {
        let mut schedule = Schedule::new(Evidence::Connections, GRACE);
        schedule.came(&alice(), &phone(), 1, START - PUBLICATION_PAUSE_MS);
        assert_eq!(due(&mut schedule, START - PUBLICATION_PAUSE_MS), [(Online, None)]);
        schedule.told(&alice(), true, START - PUBLICATION_PAUSE_MS);
        assert_eq!(due(&mut schedule, START), []);
        schedule
    }

    fn due(schedule: &mut Schedule, now: u64) -> Vec<(PresenceState, Option<u64>)> {
        let documents = std::iter::from_fn(|| schedule.next(now));
        documents.map(|due| (due.document.state, due.document.last_seen)).collect()
    }

    fn legacy(schedule: &mut Schedule, state: PresenceState, now: u64) {
        schedule.said(&alice(), None, Some(&Presence::bare(state)), now);
    }

    #[test]
    fn one_document_is_on_its_way_at_a_time_and_the_next_has_the_latest() {
        let mut schedule = schedule();
        schedule.gone(&alice(), &phone(), 1, End::Left, START);
        assert_eq!(due(&mut schedule, START), [(Offline, Some(START))]);
        schedule.came(&alice(), &phone(), 2, START + 10);
        schedule.gone(&alice(), &phone(), 2, End::Left, START + 20);
        schedule.came(&alice(), &phone(), 3, START + 30);
        assert_eq!((due(&mut schedule, START + 5_000), schedule.deadline()), (vec![], None));
        schedule.told(&alice(), true, START + 6_000);
        assert_eq!(due(&mut schedule, START + 5_999 + PUBLICATION_PAUSE_MS), []);
        assert_eq!(due(&mut schedule, START + 6_000 + PUBLICATION_PAUSE_MS), [(Online, Some(START + 20))]);
    }

    #[test]
    fn a_flapping_client_costs_one_document_per_pause() {
        let mut schedule = Schedule::new(Evidence::Connections, GRACE);
        let mut documents = 0;
        for n in 0..200 {
            let now = START + n * 50;
            schedule.came(&alice(), &phone(), n, now);
            schedule.gone(&alice(), &phone(), n, End::Left, now + 20);
            for _ in due(&mut schedule, now + 25) {
                documents += 1;
                schedule.told(&alice(), true, now + 25);
            }
        }
        assert_eq!(documents, 200 * 50 / PUBLICATION_PAUSE_MS);
        let end = START + 100 * PUBLICATION_PAUSE_MS;
        assert_eq!(due(&mut schedule, end), [(Offline, Some(START + 199 * 50 + 20))]);
    }

    #[test]
    fn what_failed_is_told_again_as_it_is_by_then() {
        let mut schedule = schedule();
        schedule.gone(&alice(), &phone(), 1, End::Left, START);
        assert_eq!(due(&mut schedule, START).len(), 1);
        schedule.told(&alice(), false, START + 1);
        assert_eq!(schedule.deadline(), Some(START + 1 + PUBLICATION_PAUSE_MS));
        assert_eq!(due(&mut schedule, START + 1 + PUBLICATION_PAUSE_MS), [(Offline, Some(START))]);
        schedule.came(&alice(), &phone(), 2, START + 1_500);
        schedule.told(&alice(), false, START + 2_000);
        assert_eq!(due(&mut schedule, START + 2_000 + PUBLICATION_PAUSE_MS), [(Online, Some(START))]);
    }

    #[test]
    fn what_fails_again_and_again_is_told_less_and_less_often() {
        let (mut schedule, mut now, mut pauses) = (schedule(), START, Vec::new());
        schedule.gone(&alice(), &phone(), 1, End::Left, now);
        for _ in 0..14 {
            assert_eq!(due(&mut schedule, now).len(), 1);
            schedule.told(&alice(), false, now);
            let next = schedule.deadline().unwrap();
            pauses.push((next - now) / PUBLICATION_PAUSE_MS);
            now = next;
        }
        assert_eq!(pauses, [1, 1, 1, 1, 2, 4, 8, 16, 32, 64, 64, 64, 64, 64]);
        assert_eq!(due(&mut schedule, now).len(), 1);
        schedule.told(&alice(), true, now);
        schedule.came(&alice(), &phone(), 2, now);
        assert_eq!(schedule.deadline(), Some(now + PUBLICATION_PAUSE_MS));
    }

    #[test]
    fn a_clients_own_word_on_the_topic_is_replaced() {
        let mut schedule = schedule();
        legacy(&mut schedule, Online, START);
        assert_eq!(due(&mut schedule, START + OVERWRITTEN_MS - 1), []);
        assert_eq!(due(&mut schedule, START + OVERWRITTEN_MS), [(Online, None)]);
        schedule.told(&alice(), true, START + OVERWRITTEN_MS);
        let later = START + 10_000;
        legacy(&mut schedule, Offline, later);
        assert_eq!(due(&mut schedule, later), [(Offline, Some(later))], "at once, because it is news");
        schedule.told(&alice(), true, later);
        assert_eq!(due(&mut schedule, later + PUBLICATION_PAUSE_MS), [(Offline, Some(later))], "and over the word");
        schedule.told(&alice(), true, later + PUBLICATION_PAUSE_MS);
        assert_eq!(due(&mut schedule, later + 100_000), []);
    }

    #[test]
    fn who_is_gone_is_forgotten_when_no_late_word_can_come() {
        let mut schedule = schedule();
        schedule.gone(&alice(), &phone(), 1, End::Broke, START);
        assert_eq!(due(&mut schedule, START + GRACE), [(Offline, Some(START))]);
        schedule.told(&alice(), true, START + GRACE);
        let will = START + GRACE + LATE_WILL_MS - 1;
        assert_eq!(due(&mut schedule, will), []);
        legacy(&mut schedule, Offline, will);
        assert_eq!(due(&mut schedule, will + OVERWRITTEN_MS), [(Offline, Some(START))], "its late will is replaced");
        schedule.told(&alice(), true, will + OVERWRITTEN_MS);
        let end = will + OVERWRITTEN_MS + LATE_WILL_MS;
        assert_eq!(due(&mut schedule, end), []);
        assert!(schedule.is_empty() && schedule.deadline().is_none());
        legacy(&mut schedule, Offline, end);
        assert!(schedule.is_empty() && schedule.deadline().is_none(), "a later word makes nobody known");
    }

    #[test]
    fn who_was_online_before_a_restart_is_told_about_when_it_is_known() {
        let mut schedule = Schedule::new(Evidence::Connections, GRACE);
        let last = |user: &str, state, last_seen| LastPresence { user: Owner::new(user).unwrap(), state, last_seen };
        schedule.recover(last("alice", Online, Some(START - 9)), START);
        schedule.recover(last("bob", Online, Some(START - 9)), START);
        schedule.recover(last("carol", Offline, Some(START - 7)), START);
        assert_eq!(due(&mut schedule, START), [(Offline, Some(START - 7))], "carol: the broker may not have kept it");
        schedule.came(&alice(), &phone(), 1, START + 10);
        assert_eq!(due(&mut schedule, START + 10), [(Online, None)]);
        assert_eq!(due(&mut schedule, START + GRACE), [(Offline, Some(START - 9))], "bob");
    }

    /// A schedule for a broker that shows documents only.
    fn by_births() -> Schedule {
        Schedule::new(Evidence::Births, GRACE)
    }

    fn birth(schedule: &mut Schedule, state: PresenceState, now: u64) {
        let word = Presence { conn: Some("c1".to_owned()), ..Presence::bare(state) };
        schedule.said(&alice(), Some(&phone()), Some(&word), now);
    }

    /// A document comes back on the topic of the aggregate.
    fn copy(schedule: &mut Schedule, state: PresenceState, ts: u64, now: u64) {
        schedule.said(&alice(), None, Some(&Presence { ts: Some(ts), ..Presence::bare(state) }), now);
    }

    #[test]
    fn a_birth_makes_a_user_known_and_a_copy_of_what_was_told_changes_nothing() {
        let mut schedule = by_births();
        birth(&mut schedule, Offline, START);
        assert!(schedule.is_empty(), "nobody was there");
        birth(&mut schedule, Online, START);
        assert_eq!(due(&mut schedule, START), [(Online, None)]);
        copy(&mut schedule, Online, START, START + 1);
        schedule.told(&alice(), true, START + 2);
        copy(&mut schedule, Online, START, START + 3);
        assert_eq!(due(&mut schedule, START + 100_000), []);
        birth(&mut schedule, Offline, START + 100_000);
        assert_eq!(due(&mut schedule, START + 100_000 + GRACE), [(Offline, Some(START + 100_000))]);
    }

    #[test]
    fn a_document_that_a_client_forges_is_replaced_and_is_no_birth() {
        let mut schedule = by_births();
        birth(&mut schedule, Online, START);
        assert_eq!(due(&mut schedule, START), [(Online, None)]);
        schedule.told(&alice(), true, START);
        copy(&mut schedule, Offline, START + 7, START + 2_000);
        assert_eq!(due(&mut schedule, START + 2_000 + OVERWRITTEN_MS), [(Online, None)]);
        schedule.told(&alice(), true, START + 2_000 + OVERWRITTEN_MS);
        legacy(&mut schedule, Online, START + 5_000);
        assert_eq!(due(&mut schedule, START + 5_000 + OVERWRITTEN_MS), [(Online, None)], "an old client's birth, too");
    }

    #[test]
    fn who_is_online_by_an_old_document_alone_is_offline_when_births_had_their_time() {
        let mut schedule = by_births();
        copy(&mut schedule, Online, START - 50_000, START);
        assert_eq!(due(&mut schedule, START + BIRTHS_MS - 1), []);
        assert_eq!(due(&mut schedule, START + BIRTHS_MS), [(Offline, None)]);
        let mut schedule = by_births();
        copy(&mut schedule, Online, START - 50_000, START);
        birth(&mut schedule, Online, START + 1);
        assert_eq!(due(&mut schedule, START + BIRTHS_MS), [(Online, None)]);
        copy(&mut schedule, Offline, START - 50_000, START);
        assert_eq!(due(&mut schedule, START + 2 * BIRTHS_MS), []);
    }

    #[test]
    fn after_a_restart_births_have_their_time() {
        let mut schedule = by_births();
        schedule.recover(LastPresence { user: alice(), state: Online, last_seen: Some(START - 9) }, START);
        assert_eq!(due(&mut schedule, START + BIRTHS_MS - 1), []);
        assert_eq!(due(&mut schedule, START + BIRTHS_MS), [(Offline, Some(START - 9))]);
    }

    #[test]
    fn who_wants_to_be_seen_by_nobody_stays_so_while_nothing_is_known() {
        let mut schedule = schedule();
        schedule.hide(&alice(), true, START);
        let due = schedule.next(START).unwrap();
        assert_eq!((due.hidden, due.document.state, due.document.last_seen), (true, Offline, None));
        schedule.told(&alice(), true, START);
        schedule.gone(&alice(), &phone(), 1, End::Left, START);
        assert!(schedule.next(START + LATE_WILL_MS + PUBLICATION_PAUSE_MS).is_none() && schedule.is_empty());
        schedule.came(&alice(), &phone(), 2, START + 60_000);
        let due = schedule.next(START + 60_000).unwrap();
        assert_eq!((due.hidden, due.document.state, due.document.last_seen), (true, Offline, None));
        schedule.told(&alice(), true, START + 60_000);
        schedule.hide(&alice(), false, START + 70_000);
        assert!(schedule.next(START + 70_000).is_some_and(|due| !due.hidden && due.document.state == Online));
    }

    #[test]
    fn what_a_broker_keeps_of_a_device_without_a_token_is_cleared() {
        let mut schedule = by_births();
        birth(&mut schedule, Online, START);
        schedule.token(&alice(), &phone(), false);
        assert_eq!(due(&mut schedule, START), [(Online, None)]);
        schedule.told(&alice(), true, START);
        birth(&mut schedule, Offline, START + 2_000);
        assert_eq!(due(&mut schedule, START + 2_000 + GRACE), [(Offline, Some(START + 2_000))]);
        schedule.told(&alice(), true, START + 2_000 + GRACE);
        assert_eq!(schedule.next_cleared(), None);
        assert_eq!(due(&mut schedule, START + 60_000), []);
        assert_eq!((schedule.next_cleared(), schedule.next_cleared()), (Some((alice(), phone())), None));
    }
}
