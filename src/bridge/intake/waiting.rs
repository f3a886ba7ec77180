//! Publishes on their way to the disk, and those whose acknowledgement is put off.
//!
//! What BALs publish is done in its order, one after the other, and so are the requests of each user. What else users publish
//! may take a second commit where it is refused: each goes on by itself, so that nobody waits for what another one did. The
//! broker keeps the order of the acknowledgements of a connection.

use super::delayed::{AckTime, Delayed};
use super::{Remaining, release};
use crate::bridge::context::oldest;
use crate::chat::id::Owner;
use crate::chat::message::{ErrorCode, Rejection, document_id};
use crate::mqtt::{Ack, AckWord};
use crate::ops::clock::at;
use crate::store::StoreError;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use tokio::time::Instant;

/// Publishes of one user that wait behind another one, at most: as many as a user may write at once.
const BEHIND_OF_USER_MAX: usize = 100;
/// The same of all users. The less of it is left the less one user may take, so that many who have much waiting leave some to
/// everybody else. Who has none under way may begin all the same.
const BEHIND_MAX: usize = 1_000;
/// So many of each user may wait in any case, also where nothing is left. Users who have one under way are limited by
/// `inflight_publishes`, and so is this.
const BEHIND_ALWAYS: usize = 4;

/// What came of a publish, and where its publisher is told.
pub(super) type Done = (Result<Option<AckWord>, StoreError>, Ack);

/// What remains of a publish: in which order, not before which time, what is to be done, and who is told.
pub(super) type Taken = (Order, Option<AckTime>, (Remaining, Ack));
/// What goes on by itself: whose next one it lets go on, and when its publisher is told.
type Going = (Option<Owner>, Option<AckTime>, Done);
/// What waits behind another one of its user.
type Behind = (Option<AckTime>, (Remaining, Ack));

/// Whether a publish goes on before those that came earlier are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// It waits for them.
    Kept,
    /// It waits for those of this user that wait for one another.
    OfUser(Owner),
    /// It waits for none.
    Free,
}

/// Why nothing more of a user is taken.
pub(super) fn too_many_behind(payload: &[u8]) -> Rejection {
    let detail = "too many messages and requests of this user wait to be done";
    Rejection::new(ErrorCode::RateLimited, detail).about(document_id(payload))
}

/// All that is not acknowledged yet.
#[derive(Default)]
pub(super) struct Waiting {
    kept: VecDeque<(Remaining, Ack)>,
    /// Behind the first of each user, which is among the free ones.
    of_users: HashMap<Owner, VecDeque<Behind>>,
    behind: usize,
    free: FuturesUnordered<BoxFuture<'static, Going>>,
    /// Nothing waits for its time any more.
    delays_ended: bool,
    delayed: Delayed,
}

impl Waiting {
    /// How many are on their way to the disk. Those that wait behind another one of their user, or for their time, take nobody's
    /// place.
    pub(super) fn len(&self) -> usize {
        self.kept.len() + self.free.len()
    }

    /// Whether nothing more may wait behind what this user has under way: each may wait for the answer of a BAL.
    pub(super) fn has_too_many(&self, user: &str) -> bool {
        // Below this nobody has too many.
        if self.behind < BEHIND_OF_USER_MAX {
            return false;
        }
        let behind = Owner::new(user).ok().and_then(|user| self.of_users.get(&user));
        let left = BEHIND_MAX.saturating_sub(self.behind);
        behind.is_some_and(|behind| behind.len() >= left.clamp(BEHIND_ALWAYS, BEHIND_OF_USER_MAX))
    }

    /// Whether so many acknowledgements of this user wait for their time that nothing more is done for it.
    pub(super) fn is_in_debt(&self, user: &str) -> bool {
        self.delayed.is_full_for(user)
    }

    /// Nothing is on its way to the disk, or waits for its time.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.delayed.deadline().is_none()
    }

    /// What remains to be done for a publish, not to be acknowledged before its time. What BALs publish has none.
    pub(super) fn push(&mut self, order: Order, ack_time: Option<AckTime>, publish: (Remaining, Ack)) {
        match order {
            Order::Kept => self.kept.push_back(publish),
            Order::Free => self.begin(None, ack_time, publish),
            Order::OfUser(user) => match self.of_users.get_mut(&user) {
                Some(behind) => {
                    behind.push_back((ack_time, publish));
                    self.behind += 1;
                }
                None => {
                    self.of_users.insert(user.clone(), VecDeque::new());
                    self.begin(Some(user), ack_time, publish);
                }
            },
        }
    }

    fn begin(&self, user: Option<Owner>, ack_time: Option<AckTime>, (remaining, ack): (Remaining, Ack)) {
        self.free.push(Box::pin(async move { (user, ack_time, (remaining.await, ack)) }));
    }

    /// The first of a user is done: the next one is the first.
    fn go_on(&mut self, user: Owner) {
        match self.of_users.get_mut(&user).and_then(VecDeque::pop_front) {
            Some((ack_time, next)) => {
                self.behind -= 1;
                self.begin(Some(user), ack_time, next);
            }
            None => drop(self.of_users.remove(&user)),
        }
    }

    /// Another one, if anything remains of it.
    pub(super) fn extend(&mut self, taken: Option<Taken>) {
        if let Some((order, ack_time, publish)) = taken {
            self.push(order, ack_time, publish);
        }
    }

    /// Does something that may wait for room in the queue of the store, while all of these go on: one of them may have got that
    /// room, and gives it back only when it is polled.
    pub(super) async fn beside<T>(
        &mut self,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                (word, ack) = self.next() => release(word?, ack),
            }
        }
    }

    /// Those that wait for their time wait no longer, nor do those that are done from now on.
    pub(super) fn end_delays(&mut self) {
        self.delays_ended = true;
    }

    /// The next one that is done. Cancel-safe: it is taken out only when it is done.
    pub(super) async fn next(&mut self) -> Done {
        loop {
            tokio::select! {
                done = oldest(&mut self.kept) => return done,
                Some((user, ack_time, done)) = self.free.next(), if !self.free.is_empty() => {
                    if let Some(user) = user {
                        self.go_on(user);
                    }
                    match ack_time.filter(|ack_time| ack_time.at > Instant::now() && !self.delays_ended) {
                        Some(ack_time) => self.delayed.push(ack_time, done),
                        None => return done,
                    }
                }
                () = at(self.delayed.deadline().map(|ack_time| if self.delays_ended { Instant::now() } else { ack_time })) => {
                    if let Some(done) = self.delayed.pop() {
                        return done;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::time::Duration;

    fn word(word: AckWord) -> (Remaining, Ack) {
        (Box::pin(ready(Ok(Some(word)))), Ack::new().0)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_free_waits_for_none_before_it() {
        let mut waiting = Waiting::default();
        for order in [Order::Kept, Order::Free] {
            waiting.push(order, None, (Box::pin(pending()), Ack::new().0));
        }
        waiting.push(Order::Kept, None, word(AckWord::Quota));
        waiting.push(Order::Free, None, word(AckWord::Done));
        assert_eq!(waiting.next().await.0.unwrap(), Some(AckWord::Done));
        assert_eq!(waiting.len(), 3);
        tokio::select! {
            _ = waiting.next() => panic!("the order is kept"),
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_waits_for_itself_alone() {
        let (alice, bob) = (Owner::new("alice").unwrap(), Owner::new("bob").unwrap());
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let mut waiting = Waiting::default();
        let slow: Remaining = Box::pin(async move {
            let _ = wait.await;
            Ok(Some(AckWord::Quota))
        });
        waiting.push(Order::OfUser(alice.clone()), None, (slow, Ack::new().0));
        waiting.push(Order::OfUser(alice), None, word(AckWord::NoSuchTopic));
        waiting.push(Order::OfUser(bob), None, word(AckWord::Done));
        assert_eq!(waiting.next().await.0.unwrap(), Some(AckWord::Done));
        assert_eq!((waiting.len(), waiting.behind), (1, 1));
        go.send(()).unwrap();
        assert_eq!(waiting.next().await.0.unwrap(), Some(AckWord::Quota));
        assert_eq!(waiting.next().await.0.unwrap(), Some(AckWord::NoSuchTopic));
        assert!(waiting.is_empty() && waiting.of_users.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_wait_behind_one_and_take_nobodys_place() {
        let mut waiting = Waiting::default();
        let mut fill = |n: usize| {
            let name = Owner::new(format!("user{n}")).unwrap();
            waiting.push(Order::OfUser(name.clone()), None, (Box::pin(pending()), Ack::new().0));
            let before = waiting.behind;
            while !waiting.has_too_many(name.as_str()) {
                waiting.push(Order::OfUser(name.clone()), None, word(AckWord::Done));
            }
            (waiting.behind - before, waiting.behind, waiting.len())
        };
        assert!((0..9).all(|n| fill(n).0 == BEHIND_OF_USER_MAX));
        // Each takes half of what is left, and nobody gets nothing.
        let shares: Vec<usize> = (9..14).map(|n| fill(n).0).collect();
        assert_eq!(shares, [50, 25, 13, 6, BEHIND_ALWAYS]);
        let (share, behind, len) = (14..100).map(fill).last().unwrap();
        assert_eq!((share, len), (BEHIND_ALWAYS, 100));
        assert!(behind <= BEHIND_MAX + BEHIND_ALWAYS * 100);
        assert!(!waiting.has_too_many("somebody"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_waited_for_until_the_delays_are_ended() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let ack_time = |seconds| {
            let (at, user) = (start + Duration::from_secs(seconds), Owner::new("alice").unwrap());
            Some(AckTime { at, user })
        };
        waiting.push(Order::Free, ack_time(9), word(AckWord::Done));
        waiting.push(Order::Free, ack_time(99), word(AckWord::Quota));
        assert_eq!(waiting.next().await.0.unwrap(), Some(AckWord::Done));
        assert_eq!(start.elapsed(), Duration::from_secs(9));
        assert_eq!(waiting.len(), 0, "they take nobody's place");
        assert!(!waiting.is_empty());
        waiting.end_delays();
        assert_eq!(waiting.next().await.0.unwrap(), Some(AckWord::Quota));
        assert_eq!(start.elapsed(), Duration::from_secs(9));
    }

    /// What is put off is done all the same: somebody may have to be told of it.
    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_turn_is_done_at_once() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let (tell, told) = tokio::sync::oneshot::channel();
        let remaining: Remaining = Box::pin(async move {
            tell.send(Instant::now()).unwrap();
            Ok(Some(AckWord::Done))
        });
        let ack_time = AckTime { at: start + Duration::from_secs(9), user: Owner::new("alice").unwrap() };
        waiting.push(Order::Free, Some(ack_time), (remaining, Ack::new().0));
        waiting.next().await.0.unwrap();
        assert_eq!(told.await.unwrap(), start);
        assert_eq!(start.elapsed(), Duration::from_secs(9));
    }
}
