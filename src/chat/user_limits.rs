//! How much one chat user may do in a time. Pure: the caller says what time it is.
//!
//! Each limit is a bucket of tokens: what is done takes one, they come back at an even rate, and a full bucket is the burst
//! that is allowed at once. A bucket is kept as the moment at which it is full again, so it needs nobody to fill it, and a user
//! whose buckets are all full is forgotten.

use super::id::Owner;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Most users, and strangers that they wrote to or others that they put into groups, that are remembered. Beyond it the users are forgotten first whose buckets
/// are full soonest.
pub const REMEMBERED_MAX: usize = 200_000;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// Passwords and tokens that a user may show an hour, beside those of log-ins.
const PROOFS_PER_HOUR: u32 = 5;
/// Longest time that a bucket takes to be full, in nanoseconds: a year, so that no sum leaves what a clock can say.
const TIME_MAX: u64 = 365 * 86_400 * 1_000_000_000;

/// What the operator allows each user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowances {
    /// Messages and invitations a second, in the long run.
    pub messages_per_second: u32,
    /// Messages and invitations at once, after a pause.
    pub messages_burst: u32,
    /// Publishes of every kind a second; those beyond are acknowledged later.
    pub publishes_per_second: u32,
    /// Bytes of messages and invitations an hour.
    pub stored_bytes_per_hour: u64,
    /// Recipients an hour who have not the user as a contact, or do not exist.
    pub strangers_per_hour: u32,
    /// Messages and invitations a day to each of them, until they answer.
    pub messages_per_stranger: u32,
    /// Requests a second.
    pub requests_per_second: u32,
    /// Test pushes a minute.
    pub test_pushes_per_minute: u32,
    /// Registrations of devices an hour.
    pub registrations_per_hour: u32,
    /// Reports an hour.
    pub reports_per_hour: u32,
    /// Members of groups a second to whom the user writes.
    pub group_pushes_per_second: u32,
    /// How often a day the user puts the same other one into groups.
    pub same_member_per_day: u32,
}

impl Default for Allowances {
    fn default() -> Self {
        Self {
            messages_per_second: 20,
            messages_burst: 100,
            publishes_per_second: 50,
            stored_bytes_per_hour: 20_000_000,
            strangers_per_hour: 20,
            messages_per_stranger: 5,
            requests_per_second: 10,
            test_pushes_per_minute: 1,
            registrations_per_hour: 10,
            reports_per_hour: 20,
            group_pushes_per_second: 1_000,
            same_member_per_day: 10,
        }
    }
}

/// What a user does that is refused beyond its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// A message or an invitation, of so many bytes.
    Message(u64),
    /// A request.
    Request,
    /// A test push.
    TestPush,
    /// The registration of a device.
    Registration,
    /// A report of another user.
    Report,
    /// A password or a token that is to prove something.
    Proof,
    /// A message to a group, for so many other members.
    GroupPushes(u64),
}

/// What a message to somebody who may have been a stranger came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// The recipient has not the writer as a contact, or does not exist.
    Stranger,
    /// The recipient is no stranger.
    Known,
    /// Nothing was written.
    Nothing,
}

/// What each user has done lately.
#[derive(Debug)]
pub struct UserLimits {
    rates: Rates,
    remembered_max: usize,
    users: HashMap<Owner, User>,
    /// When each user is to be looked at: no later than its buckets are full.
    look_at: BTreeSet<(Instant, Owner)>,
    /// Strangers, and others who were put into groups, of all users together.
    strangers: usize,
}

#[derive(Debug)]
struct Rates {
    messages: Rate,
    publishes: Rate,
    bytes: Rate,
    strangers: Rate,
    each_stranger: Rate,
    requests: Rate,
    test_pushes: Rate,
    registrations: Rate,
    reports: Rate,
    proofs: Rate,
    group_pushes: Rate,
    each_member: Rate,
}

/// How fast a bucket fills, and how much is in it then.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// In which time one comes back, in nanoseconds.
    each: u64,
    burst: u64,
}

/// A bucket: when it is full again, if it is not.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket(Option<Instant>);

#[derive(Debug, Default)]
struct User {
    messages: Bucket,
    publishes: Bucket,
    bytes: Bucket,
    strangers: Bucket,
    requests: Bucket,
    test_pushes: Bucket,
    registrations: Bucket,
    reports: Bucket,
    proofs: Bucket,
    group_pushes: Bucket,
    /// Who was put into groups, and how often.
    added: BTreeMap<Owner, Bucket>,
    /// What was written to each stranger.
    met: BTreeMap<Owner, Bucket>,
    /// No later than this all buckets are full.
    full_at: Option<Instant>,
}

impl UserLimits {
    /// With these limits for each user.
    pub fn new(allowances: Allowances) -> Self {
        Self {
            rates: Rates::new(allowances),
            remembered_max: REMEMBERED_MAX,
            users: HashMap::new(),
            look_at: BTreeSet::new(),
            strangers: 0,
        }
    }

    /// A user publishes something, of whatever kind: how much later it is to be acknowledged.
    pub fn publish(&mut self, user: &Owner, now: Instant) -> Duration {
        self.change(user, now, |user, rates| user.publishes.owe(rates.publishes, now))
    }

    /// A user does something: whether that is within the limit. What is not takes nothing.
    pub fn take(&mut self, user: &Owner, what: Limited, now: Instant) -> bool {
        self.change(user, now, |user, rates| match what {
            Limited::Message(bytes) => {
                let (mut messages, mut stored) = (user.messages, user.bytes);
                let taken = messages.take(rates.messages, 1, now) && stored.take(rates.bytes, bytes, now);
                if taken {
                    (user.messages, user.bytes) = (messages, stored);
                }
                taken
            }
            Limited::Request => user.requests.take(rates.requests, 1, now),
            Limited::TestPush => user.test_pushes.take(rates.test_pushes, 1, now),
            Limited::Registration => user.registrations.take(rates.registrations, 1, now),
            Limited::Report => user.reports.take(rates.reports, 1, now),
            Limited::Proof => user.proofs.take(rates.proofs, 1, now),
            Limited::GroupPushes(count) => user.group_pushes.take(rates.group_pushes, count, now),
        })
    }

    /// A user is about to write to somebody: whether that may be a stranger. If so, it counts as one until [`Self::met`] says
    /// what it came to.
    pub fn meet(&mut self, user: &Owner, other: &Owner, now: Instant) -> bool {
        self.change(user, now, |user, rates| user.meet(other, rates, now))
    }

    /// What came of it, where [`Self::meet`] said that it may be a stranger.
    pub fn met(&mut self, user: &Owner, other: &Owner, met: Met, now: Instant) {
        if met != Met::Stranger && self.users.contains_key(user) {
            self.change(user, now, |user, rates| user.not_met(other, met, rates, now));
        }
    }

    /// Whoever has this name from now on is somebody else: nothing is known of what was done by it, nor of what was written to it, nor
    /// into which groups it was put.
    pub fn forget_name(&mut self, name: &Owner) {
        self.look_at.retain(|(_, user)| user != name);
        self.forget(name);
        for user in self.users.values_mut() {
            let known = [user.met.remove(name), user.added.remove(name)];
            self.strangers -= known.into_iter().flatten().count();
        }
    }

    /// A user is about to put others into a group: whether that is within the limit for each of them. If not, it takes nothing.
    pub fn add(&mut self, user: &Owner, others: &[Owner], now: Instant) -> bool {
        self.change(user, now, |user, rates| user.add(others, rates, now))
    }

    /// Nobody was put into a group, where [`Self::add`] said that it is within the limit.
    pub fn not_added(&mut self, user: &Owner, others: &[Owner], now: Instant) {
        if self.users.contains_key(user) {
            self.change(user, now, |user, rates| {
                for other in others {
                    if let Some(added) = user.added.get_mut(other) {
                        added.give_back(rates.each_member);
                    }
                }
            });
        }
    }

    /// How many users and strangers are remembered: at most [`REMEMBERED_MAX`].
    pub fn remembered(&self) -> usize {
        self.users.len() + self.strangers
    }

    fn change<T>(&mut self, name: &Owner, now: Instant, change: impl FnOnce(&mut User, &Rates) -> T) -> T {
        while let Some((_, name)) = self.look_at.first().filter(|(at, _)| *at <= now).cloned() {
            self.forget_if_full(&name, now);
        }
        let is_new = !self.users.contains_key(name);
        let user = self.users.entry(name.clone()).or_default();
        let before = user.others();
        let done = change(user, &self.rates);
        user.full_at = user.full_at.max(user.latest());
        self.strangers = self.strangers + user.others() - before;
        if is_new {
            self.look_at.insert((user.full_at.unwrap_or(now), name.clone()));
        }
        while self.remembered() > self.remembered_max
            && let Some((_, name)) = self.look_at.pop_first()
        {
            self.forget(&name);
        }
        done
    }

    /// Looks at the user whose time has come; one whose buckets are not full yet is looked at when they are.
    fn forget_if_full(&mut self, name: &Owner, now: Instant) {
        self.look_at.pop_first();
        match self.users.get(name).and_then(|user| user.full_at).filter(|at| *at > now) {
            Some(full_at) => drop(self.look_at.insert((full_at, name.clone()))),
            None => self.forget(name),
        }
    }

    fn forget(&mut self, name: &Owner) {
        self.strangers -= self.users.remove(name).map_or(0, |user| user.others());
    }
}

impl User {
    fn meet(&mut self, other: &Owner, rates: &Rates, now: Instant) -> bool {
        if let Some(written) = self.met.get_mut(other) {
            return written.take(rates.each_stranger, 1, now);
        }
        if !self.strangers.take(rates.strangers, 1, now) {
            return false;
        }
        self.met.retain(|_, written| !written.is_full(now));
        let mut written = Bucket::default();
        let may = written.take(rates.each_stranger, 1, now);
        self.met.insert(other.clone(), written);
        may
    }

    fn not_met(&mut self, other: &Owner, met: Met, rates: &Rates, now: Instant) {
        let Some(written) = self.met.get_mut(other) else { return };
        written.give_back(rates.each_stranger);
        if met == Met::Known || written.is_full(now) {
            self.met.remove(other);
            // An empty map keeps room for eleven, and most users write to people whom they know.
            if self.met.is_empty() {
                self.met = BTreeMap::new();
            }
            self.strangers.give_back(rates.strangers);
        }
    }

    fn add(&mut self, others: &[Owner], rates: &Rates, now: Instant) -> bool {
        self.added.retain(|_, added| !added.is_full(now));
        let may = |other| self.added.get(other).copied().unwrap_or_default().take(rates.each_member, 1, now);
        if !others.iter().all(may) {
            return false;
        }
        for other in others {
            self.added.entry(other.clone()).or_default().take(rates.each_member, 1, now);
        }
        true
    }

    /// How many others are remembered.
    fn others(&self) -> usize {
        self.met.len() + self.added.len()
    }

    /// When the last bucket is full that takes the longest.
    fn latest(&self) -> Option<Instant> {
        let own = [
            self.messages,
            self.publishes,
            self.bytes,
            self.strangers,
            self.requests,
            self.test_pushes,
            self.registrations,
            self.reports,
            self.proofs,
            self.group_pushes,
        ];
        own.iter().chain(self.met.values()).chain(self.added.values()).filter_map(|bucket| bucket.0).max()
    }
}

impl Bucket {
    /// Takes so many, if there are.
    fn take(&mut self, rate: Rate, count: u64, now: Instant) -> bool {
        let full_at = self.since(now) + rate.time(count);
        if full_at - now > rate.time(rate.burst) {
            return false;
        }
        self.0 = Some(full_at);
        true
    }

    /// Takes one, if need be one that is still to come; returns when that comes.
    fn owe(&mut self, rate: Rate, now: Instant) -> Duration {
        let full_at = self.since(now) + rate.time(1);
        self.0 = Some(full_at);
        (full_at - now).saturating_sub(rate.time(rate.burst))
    }

    fn give_back(&mut self, rate: Rate) {
        self.0 = self.0.and_then(|at| at.checked_sub(rate.time(1)));
    }

    fn is_full(&self, now: Instant) -> bool {
        self.since(now) == now
    }

    fn since(&self, now: Instant) -> Instant {
        self.0.map_or(now, |full_at| full_at.max(now))
    }
}

impl Rate {
    fn new(count: u64, time: Duration, burst: u64) -> Self {
        let each = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / count.max(1);
        Self { each, burst }
    }

    /// In which time so many come back.
    fn time(self, count: u64) -> Duration {
        Duration::from_nanos(self.each.saturating_mul(count).min(TIME_MAX))
    }
}

impl Rates {
    fn new(of: Allowances) -> Self {
        let even = |count: u32, time| Rate::new(count.into(), time, count.into());
        Self {
            messages: Rate::new(of.messages_per_second.into(), SECOND, of.messages_burst.into()),
            publishes: even(of.publishes_per_second, SECOND),
            bytes: Rate::new(of.stored_bytes_per_hour, HOUR, of.stored_bytes_per_hour),
            strangers: even(of.strangers_per_hour, HOUR),
            each_stranger: even(of.messages_per_stranger, DAY),
            requests: even(of.requests_per_second, SECOND),
            test_pushes: even(of.test_pushes_per_minute, MINUTE),
            registrations: even(of.registrations_per_hour, HOUR),
            reports: even(of.reports_per_hour, HOUR),
            proofs: even(PROOFS_PER_HOUR, HOUR),
            group_pushes: even(of.group_pushes_per_second, SECOND),
            each_member: even(of.same_member_per_day, DAY),
        }
    }
}

#[cfg(test)]
mod tests;
