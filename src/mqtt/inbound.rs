//! What clients published, on its way to the bridge: two queues, so that one may stand still.
//!
//! ```text
//!   chat users ──▶ users ──┐
//!                          ├──▶ the intake of the bridge
//!   all others ──▶ others ─┘    (not of `others` while there is no room for pushes)
//! ```
//!
//! What BALs publish are pushes: while there is no room for them, nobody takes them, and whoever publishes more waits. Chat users
//! need no room there, and must not wait behind a BAL. Each client is of one kind, so the order of what it publishes is kept.
//!
//! Of one chat user no more than [`OF_USER_MAX`] are in the queue: whoever publishes by many connections waits for itself, and
//! others wait behind that many of it.

use super::Inbound;
use crate::chat::principal::Role;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::mpsc::error::{SendError, TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Messages of one chat user in the queue.
const OF_USER_MAX: usize = 64;
/// So many users are remembered before those without a message are looked for.
const USERS_KEPT: usize = 1_024;

/// The broker's end. Full means: wait.
#[derive(Debug, Clone)]
pub struct InboundSender {
    users: mpsc::Sender<(Inbound, OwnedSemaphorePermit)>,
    others: mpsc::Sender<Inbound>,
    places: Arc<Places>,
}

/// The places of each chat user in the queue. A lock because each connection sends for itself; held for a map operation.
#[derive(Debug, Default)]
struct Places(Mutex<HashMap<Arc<str>, Weak<Semaphore>>>);

impl Places {
    fn of(&self, user: &Arc<str>) -> Arc<Semaphore> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = users.get(user).and_then(Weak::upgrade) {
            return there;
        }
        // Where all have messages the map grows by that many before it is looked through again.
        if users.len() >= USERS_KEPT && users.len() == users.capacity() {
            users.retain(|_, places| places.strong_count() > 0);
        }
        let new = Arc::new(Semaphore::new(OF_USER_MAX));
        users.insert(Arc::clone(user), Arc::downgrade(&new));
        new
    }
}

/// The bridge's end.
#[derive(Debug)]
pub struct InboundQueues {
    users: mpsc::Receiver<(Inbound, OwnedSemaphorePermit)>,
    others: mpsc::Receiver<Inbound>,
}

/// Makes both ends; each of the two queues has room for `size` messages.
pub fn inbound_queues(size: usize) -> (InboundSender, InboundQueues) {
    let (users, users_rx) = mpsc::channel(size);
    let (others, others_rx) = mpsc::channel(size);
    (InboundSender { users, others, places: Arc::default() }, InboundQueues { users: users_rx, others: others_rx })
}

/// Whether it goes by the queue of chat users.
pub(super) fn is_of_user(inbound: &Inbound) -> bool {
    inbound.principal.role == Role::User
}

impl InboundSender {
    /// Hands a message to the bridge.
    ///
    /// # Errors
    /// When the bridge has dropped its end.
    pub async fn send(&self, inbound: Inbound) -> Result<(), SendError<Inbound>> {
        if !is_of_user(&inbound) {
            return self.others.send(inbound).await;
        }
        let places = self.places.of(&inbound.principal.name);
        match places.acquire_owned().await {
            Ok(place) => self.users.send((inbound, place)).await.map_err(|SendError((inbound, _))| SendError(inbound)),
            // Nobody closes it.
            Err(_closed) => Err(SendError(inbound)),
        }
    }

    /// How many messages each of the queues has room for.
    pub fn max_capacity(&self) -> usize {
        self.others.max_capacity()
    }
}

impl InboundQueues {
    /// The next message of anybody; `None`: the broker has dropped its end. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Inbound> {
        self.next(true).await
    }

    /// The next message of a chat user; `with_others`: of anybody, where neither of the two queues waits for ever behind the
    /// other. `None`: the broker has dropped its end. Cancel-safe.
    pub async fn next(&mut self, with_others: bool) -> Option<Inbound> {
        tokio::select! {
            Some((inbound, _place)) = self.users.recv() => Some(inbound),
            Some(inbound) = self.others.recv(), if with_others => Some(inbound),
            else => None,
        }
    }

    /// A message that is there.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_recv(&mut self) -> Result<Inbound, TryRecvError> {
        self.users.try_recv().map(|(inbound, _place)| inbound).or_else(|_| self.others.try_recv())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::principal::{Principal, Proof};
    use crate::mqtt::Ack;
    use futures_util::FutureExt;
    use std::pin::pin;
    use std::time::Duration;

    fn of(role: Role, name: &str) -> Inbound {
        let principal = Principal { name: name.into(), role, device: None, background: false, proof: Proof::Login };
        Inbound::new(principal, format!("{name}/self/messages"), Default::default(), Ack::new().0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_has_so_many_places_and_others_have_theirs() {
        let (sender, mut queues) = inbound_queues(2 * OF_USER_MAX);
        for _ in 0..OF_USER_MAX {
            sender.send(of(Role::User, "eve")).await.unwrap();
        }
        let mut later = pin!(sender.send(of(Role::User, "eve")));
        assert!((&mut later).now_or_never().is_none());
        sender.send(of(Role::User, "alice")).await.unwrap();
        for _ in 0..OF_USER_MAX {
            assert_eq!(&*queues.recv().await.unwrap().principal.name, "eve");
        }
        assert_eq!(&*queues.recv().await.unwrap().principal.name, "alice");
        later.await.unwrap();
        assert_eq!(&*queues.try_recv().unwrap().principal.name, "eve");
    }

    #[test]
    fn users_without_a_message_are_forgotten() {
        let places = Places::default();
        let kept = places.of(&"alice".into());
        for number in 0..100 * USERS_KEPT {
            places.of(&format!("u{number}").into());
        }
        assert!(places.0.lock().unwrap().len() <= 4 * USERS_KEPT);
        assert!(Arc::ptr_eq(&places.of(&"alice".into()), &kept));
    }

    #[tokio::test(start_paused = true)]
    async fn users_pass_others_for_whom_there_is_no_room() {
        let (sender, mut queues) = inbound_queues(2);
        for inbound in [of(Role::Bal, "bal1"), of(Role::Admin, "root"), of(Role::User, "alice")] {
            sender.send(inbound).await.unwrap();
        }
        let full = tokio::time::timeout(Duration::from_secs(1), sender.send(of(Role::Bal, "bal1"))).await;
        assert!(full.is_err(), "what nobody takes fills its queue, and its publisher waits");
        assert_eq!(&*queues.next(false).await.unwrap().principal.name, "alice");
        let none = tokio::time::timeout(Duration::from_secs(1), queues.next(false)).await;
        assert!(none.is_err());
        drop(sender);
        let rest =
            [queues.recv().await, queues.recv().await].map(|inbound| inbound.unwrap().principal.name.to_string());
        assert_eq!(rest, ["bal1", "root"]);
        assert!(queues.recv().await.is_none());
    }
}
