//! Publishes of users who publish faster than they may: done, and to be acknowledged when their time comes.

use super::waiting::Done;
use crate::chat::id::Owner;
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;

/// Most acknowledgements of one user that wait for their time. Until one of them has left, nothing more of the user is done: its
/// publisher is cut off, and sends again. One connection of the embedded broker has 256 unacknowledged publishes at most.
pub(super) const OF_USER_MAX: usize = 1_000;
/// The same for all users.
const ALL_MAX: usize = 100_000;

/// When a publish is to be acknowledged, and who published it.
#[derive(Debug, Clone)]
pub(super) struct AckTime {
    pub(super) at: Instant,
    pub(super) user: Owner,
}

/// What came of publishes, by their time; those of one moment in the order in which they came.
#[derive(Default)]
pub(super) struct Delayed {
    due: BTreeMap<(Instant, u64), (Owner, Done)>,
    of_users: HashMap<Owner, usize>,
    count: u64,
}

impl Delayed {
    pub(super) fn push(&mut self, AckTime { at, user }: AckTime, done: Done) {
        let of_user = self.of_users.get(&user).copied().unwrap_or(0);
        if of_user < OF_USER_MAX && self.due.len() < ALL_MAX {
            self.of_users.insert(user.clone(), of_user + 1);
            self.due.insert((at, self.count), (user, done));
            self.count += 1;
        }
    }

    /// Whether there is no room for another one of this user.
    pub(super) fn is_full_for(&self, user: &str) -> bool {
        // Below this nobody has too many.
        if self.due.len() < OF_USER_MAX {
            return false;
        }
        let of_user = Owner::new(user).ok().and_then(|user| self.of_users.get(&user).copied());
        of_user.unwrap_or(0) >= OF_USER_MAX || self.due.len() >= ALL_MAX
    }

    /// When the next time comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.keys().next().map(|(ack_time, _)| *ack_time)
    }

    /// The first one.
    pub(super) fn pop(&mut self) -> Option<Done> {
        let (_, (user, done)) = self.due.pop_first()?;
        match self.of_users.get_mut(&user) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.of_users.remove(&user)),
        }
        Some(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Ack, AckWord};
    use std::time::Duration;

    fn ack_time(at: Instant, user: &str) -> AckTime {
        AckTime { at, user: Owner::new(user).unwrap() }
    }

    fn done(word: AckWord) -> Done {
        (Ok(Some(word)), Ack::new().0)
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_their_order() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut delayed = Delayed::default();
        for (at, word) in [(now + second, AckWord::Done), (now + second, AckWord::Quota), (now, AckWord::NoSuchTopic)] {
            delayed.push(ack_time(at, "alice"), done(word));
        }
        assert_eq!(delayed.deadline(), Some(now));
        let words = std::iter::from_fn(|| delayed.pop()).map(|(word, _)| word.unwrap().unwrap()).collect::<Vec<_>>();
        assert_eq!(words, [AckWord::NoSuchTopic, AckWord::Done, AckWord::Quota]);
        assert_eq!(delayed.deadline(), None);
        assert!(delayed.of_users.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_user_takes_no_room_of_others() {
        let mut delayed = Delayed::default();
        for _ in 0..=OF_USER_MAX {
            delayed.push(ack_time(Instant::now(), "alice"), done(AckWord::Done));
        }
        delayed.push(ack_time(Instant::now(), "bob"), done(AckWord::Quota));
        assert_eq!(delayed.due.len(), OF_USER_MAX + 1);
        assert!(delayed.is_full_for("alice") && !delayed.is_full_for("bob"));
        while delayed.pop().is_some() {}
        delayed.push(ack_time(Instant::now(), "alice"), done(AckWord::Done));
        assert_eq!(delayed.due.len(), 1);
    }
}
