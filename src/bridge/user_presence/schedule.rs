//! Which chat users there is something to tell about, and when. Pure: the task around it has the clock and the channels.
//!
//! A user is in the book from the first connection until everything is told and no late word is to be expected. At most
//! one document of a user is on its way; what happens meanwhile is summed up in the next one.

use crate::chat::id::Owner;
use crate::chat::message::{Presence, PresenceState, UserPresence};
use crate::chat::presence::{Aggregate, End};
use crate::chat::topic::Device;
use crate::store::LastPresence;
use std::collections::{BTreeSet, HashMap};

/// Shortest time between two documents of one user, however wildly its connections come and go; also the pause before
/// one that failed is published again. In milliseconds.
pub(super) const PUBLICATION_PAUSE_MS: u64 = 1_000;
/// The broker tells of a client's own word on the aggregate's topic before it keeps it as the retained one. After this
/// time it has, and the bridge's document replaces it. In milliseconds.
pub(super) const OVERWRITTEN_MS: u64 = 500;
/// How long a user of whom all is told stays in the book, in milliseconds: a will may be on its way, which the contract
/// advises to delay by up to 10 seconds.
pub(super) const LINGER_MS: u64 = 15_000;
/// Most users in the book for any of them to linger.
const LINGERING_MAX: usize = 20_000;

/// All users of whom something may be to be told.
#[derive(Debug)]
pub(super) struct Book {
    grace_ms: u64,
    users: HashMap<Owner, Entry>,
    /// When to look at whom; each user once at most.
    agenda: BTreeSet<(u64, Owner)>,
}

#[derive(Debug)]
struct Entry {
    aggregate: Aggregate,
    phase: Phase,
    /// When the next document may go.
    rested_at: u64,
    /// When to publish again because the client has overwritten the document.
    repeat_at: Option<u64>,
    /// When the user was last heard of.
    touched_at: u64,
    /// Its place in the agenda.
    look_at: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Quiet,
    /// A document is on its way.
    Telling,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Errand {
    pub(super) user: Owner,
    pub(super) document: UserPresence,
}

/// Whose word it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaker {
    /// A chat user in the book.
    User,
    /// Somebody else.
    Stranger,
}

/// Whether the document is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Published,
    Failed,
}

impl Book {
    pub(super) fn new(grace_ms: u64) -> Self {
        Self { grace_ms, users: HashMap::new(), agenda: BTreeSet::new() }
    }

    /// What was last said before the restart: it is said anew, once it is known.
    pub(super) fn recover(&mut self, last: LastPresence, now: u64) {
        let LastPresence { user, state, last_seen } = last;
        let aggregate = &mut self.entry(&user, now).aggregate;
        match state {
            PresenceState::Online => aggregate.handle_restart(last_seen.unwrap_or(now), now),
            PresenceState::Offline => aggregate.handle_memory(last_seen),
        }
        self.touch(&user, now);
    }

    pub(super) fn came(&mut self, user: &Owner, device: &str, connection: u64, now: u64) {
        self.entry(user, now).aggregate.handle_came(device, connection, now);
        self.touch(user, now);
    }

    pub(super) fn gone(&mut self, user: &Owner, device: &str, connection: u64, end: End, now: u64) {
        if let Some(entry) = self.users.get_mut(user) {
            entry.aggregate.handle_gone(device, connection, end, now);
            self.touch(user, now);
        }
    }

    /// A client said how it is, on its device's topic or on that of the aggregate.
    pub(super) fn said(&mut self, user: &Owner, device: Option<&Device>, word: Option<&Presence>, now: u64) -> Speaker {
        let Some(entry) = self.users.get_mut(user) else { return Speaker::Stranger };
        entry.aggregate.handle_said(device, word, now);
        if device.is_none() {
            entry.repeat_at = Some(now + OVERWRITTEN_MS);
        }
        self.touch(user, now);
        Speaker::User
    }

    /// The next document that is due. Its fate is to be [told](Self::told).
    pub(super) fn next(&mut self, now: u64) -> Option<Errand> {
        while let Some((_, user)) = self.agenda.first().filter(|(at, _)| *at <= now).cloned() {
            if let Some(document) = self.look(&user, now) {
                return Some(Errand { user, document });
            }
        }
        None
    }

    /// When to ask for the next one.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.agenda.first().map(|(at, _)| *at)
    }

    pub(super) fn told(&mut self, user: &Owner, fate: Fate, now: u64) {
        let Some(entry) = self.users.get_mut(user) else { return };
        entry.phase = Phase::Quiet;
        entry.rested_at = now + PUBLICATION_PAUSE_MS;
        if fate == Fate::Failed {
            entry.aggregate.handle_loss();
        }
        self.touch(user, now);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    fn entry(&mut self, user: &Owner, now: u64) -> &mut Entry {
        let grace_ms = self.grace_ms;
        self.users.entry(user.clone()).or_insert_with(|| Entry {
            aggregate: Aggregate::new(grace_ms),
            phase: Phase::Quiet,
            rested_at: 0,
            repeat_at: None,
            touched_at: now,
            look_at: None,
        })
    }

    fn touch(&mut self, user: &Owner, now: u64) {
        let Some(entry) = self.users.get_mut(user) else { return };
        entry.touched_at = now;
        if entry.phase == Phase::Quiet {
            entry.place(&mut self.agenda, user, Some(now.max(entry.rested_at)));
        }
    }

    fn look(&mut self, user: &Owner, now: u64) -> Option<UserPresence> {
        let crowded = self.users.len() > LINGERING_MAX;
        let entry = self.users.get_mut(user)?;
        if entry.repeat_at.take_if(|at| *at <= now).is_some() {
            entry.aggregate.handle_loss();
        }
        let document = entry.aggregate.poll_document(now);
        let next = match (document, entry.aggregate.deadline().into_iter().chain(entry.repeat_at).min()) {
            (Some(_), _) => {
                entry.phase = Phase::Telling;
                None
            }
            (None, None) if entry.aggregate.is_idle() => Some(entry.touched_at + LINGER_MS),
            (None, next) => next,
        };
        let done = document.is_none() && entry.aggregate.is_idle() && entry.repeat_at.is_none();
        if done && (crowded || next.is_some_and(|at| at <= now)) {
            entry.place(&mut self.agenda, user, None);
            self.users.remove(user);
        } else {
            let rested_at = entry.rested_at;
            entry.place(&mut self.agenda, user, next.map(|at| at.max(rested_at)));
        }
        document
    }
}

impl Entry {
    fn place(&mut self, agenda: &mut BTreeSet<(u64, Owner)>, user: &Owner, at: Option<u64>) {
        if self.look_at == at {
            return;
        }
        if let Some(before) = self.look_at {
            agenda.remove(&(before, user.clone()));
        }
        if let Some(at) = at {
            agenda.insert((at, user.clone()));
        }
        self.look_at = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Fate::{Failed, Published};
    use PresenceState::{Offline, Online};

    const GRACE: u64 = 2_000;
    const START: u64 = 1_000_000;

    fn alice() -> Owner {
        Owner::new("alice").unwrap()
    }

    /// A book with alice online, told, and rested.
    fn book() -> Book {
        let mut book = Book::new(GRACE);
        book.came(&alice(), "phone", 1, START - PUBLICATION_PAUSE_MS);
        assert_eq!(due(&mut book, START - PUBLICATION_PAUSE_MS), [(Online, None)]);
        book.told(&alice(), Published, START - PUBLICATION_PAUSE_MS);
        assert_eq!(due(&mut book, START), []);
        book
    }

    fn due(book: &mut Book, now: u64) -> Vec<(PresenceState, Option<u64>)> {
        let errands = std::iter::from_fn(|| book.next(now));
        errands.map(|errand| (errand.document.state, errand.document.last_seen)).collect()
    }

    fn legacy(book: &mut Book, state: PresenceState, now: u64) -> Speaker {
        book.said(&alice(), None, Some(&Presence { state, ts: None, conn: None }), now)
    }

    #[test]
    fn one_document_is_on_its_way_at_a_time_and_the_next_has_the_latest() {
        let mut book = book();
        book.gone(&alice(), "phone", 1, End::Left, START);
        assert_eq!(due(&mut book, START), [(Offline, Some(START))]);
        book.came(&alice(), "phone", 2, START + 10);
        book.gone(&alice(), "phone", 2, End::Left, START + 20);
        book.came(&alice(), "phone", 3, START + 30);
        assert_eq!((due(&mut book, START + 5_000), book.deadline()), (vec![], None));
        book.told(&alice(), Published, START + 6_000);
        assert_eq!(due(&mut book, START + 5_999 + PUBLICATION_PAUSE_MS), []);
        assert_eq!(due(&mut book, START + 6_000 + PUBLICATION_PAUSE_MS), [(Online, Some(START + 20))]);
    }

    #[test]
    fn a_flapping_client_costs_one_document_per_pause() {
        let mut book = Book::new(GRACE);
        let mut documents = 0;
        for n in 0..200 {
            let now = START + n * 50;
            book.came(&alice(), "phone", n, now);
            book.gone(&alice(), "phone", n, End::Left, now + 20);
            for _ in due(&mut book, now + 25) {
                documents += 1;
                book.told(&alice(), Published, now + 25);
            }
        }
        assert_eq!(documents, 200 * 50 / PUBLICATION_PAUSE_MS);
        let end = START + 100 * PUBLICATION_PAUSE_MS;
        assert_eq!(due(&mut book, end), [(Offline, Some(START + 199 * 50 + 20))]);
    }

    #[test]
    fn what_failed_is_told_again_as_it_is_by_then() {
        let mut book = book();
        book.gone(&alice(), "phone", 1, End::Left, START);
        assert_eq!(due(&mut book, START).len(), 1);
        book.told(&alice(), Failed, START + 1);
        assert_eq!(book.deadline(), Some(START + 1 + PUBLICATION_PAUSE_MS));
        assert_eq!(due(&mut book, START + 1 + PUBLICATION_PAUSE_MS), [(Offline, Some(START))]);
        book.came(&alice(), "phone", 2, START + 1_500);
        book.told(&alice(), Failed, START + 2_000);
        assert_eq!(due(&mut book, START + 2_000 + PUBLICATION_PAUSE_MS), [(Online, Some(START))]);
    }

    #[test]
    fn a_clients_own_word_on_the_topic_is_replaced() {
        let mut book = book();
        assert_eq!(legacy(&mut book, Online, START), Speaker::User);
        assert_eq!(due(&mut book, START + OVERWRITTEN_MS - 1), []);
        assert_eq!(due(&mut book, START + OVERWRITTEN_MS), [(Online, None)]);
        book.told(&alice(), Published, START + OVERWRITTEN_MS);
        let later = START + 10_000;
        legacy(&mut book, Offline, later);
        assert_eq!(due(&mut book, later), [(Offline, Some(later))], "at once, because it is news");
        book.told(&alice(), Published, later);
        assert_eq!(due(&mut book, later + PUBLICATION_PAUSE_MS), [(Offline, Some(later))], "and over the word");
        book.told(&alice(), Published, later + PUBLICATION_PAUSE_MS);
        assert_eq!(due(&mut book, later + 100_000), []);
    }

    #[test]
    fn who_is_gone_is_forgotten_when_no_late_word_can_come() {
        let mut book = book();
        book.gone(&alice(), "phone", 1, End::Broke, START);
        assert_eq!(due(&mut book, START + GRACE), [(Offline, Some(START))]);
        book.told(&alice(), Published, START + GRACE);
        let will = START + GRACE + LINGER_MS - 1;
        assert_eq!(due(&mut book, will), []);
        assert_eq!(legacy(&mut book, Offline, will), Speaker::User);
        assert_eq!(due(&mut book, will + OVERWRITTEN_MS), [(Offline, Some(START))], "its late will is replaced");
        book.told(&alice(), Published, will + OVERWRITTEN_MS);
        let end = will + OVERWRITTEN_MS + LINGER_MS;
        assert_eq!(due(&mut book, end), []);
        assert!(book.is_empty() && book.deadline().is_none());
        assert_eq!(legacy(&mut book, Offline, end), Speaker::Stranger);
    }

    #[test]
    fn who_was_online_before_a_restart_is_told_about_when_it_is_known() {
        let mut book = Book::new(GRACE);
        let last = |user: &str, state, last_seen| LastPresence { user: Owner::new(user).unwrap(), state, last_seen };
        book.recover(last("alice", Online, Some(START - 9)), START);
        book.recover(last("bob", Online, Some(START - 9)), START);
        book.recover(last("carol", Offline, Some(START - 7)), START);
        assert_eq!(due(&mut book, START), [(Offline, Some(START - 7))], "carol: the broker may not have kept it");
        book.came(&alice(), "phone", 1, START + 10);
        assert_eq!(due(&mut book, START + 10), [(Online, None)]);
        assert_eq!(due(&mut book, START + GRACE), [(Offline, Some(START - 9))], "bob");
    }
}
