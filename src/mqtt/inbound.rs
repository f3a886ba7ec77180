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

use super::Inbound;
use crate::chat::principal::Role;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{SendError, TryRecvError};

/// The broker's end. Full means: wait.
#[derive(Debug, Clone)]
pub struct InboundSender {
    users: mpsc::Sender<Inbound>,
    others: mpsc::Sender<Inbound>,
}

/// The bridge's end.
#[derive(Debug)]
pub struct InboundQueues {
    users: mpsc::Receiver<Inbound>,
    others: mpsc::Receiver<Inbound>,
}

/// Makes both ends; each of the two queues has room for `size` messages.
pub fn inbound_queues(size: usize) -> (InboundSender, InboundQueues) {
    let (users, users_rx) = mpsc::channel(size);
    let (others, others_rx) = mpsc::channel(size);
    (InboundSender { users, others }, InboundQueues { users: users_rx, others: others_rx })
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
        let queue = if is_of_user(&inbound) { &self.users } else { &self.others };
        queue.send(inbound).await
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
            Some(inbound) = self.users.recv() => Some(inbound),
            Some(inbound) = self.others.recv(), if with_others => Some(inbound),
            else => None,
        }
    }

    /// A message that is there.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_recv(&mut self) -> Result<Inbound, TryRecvError> {
        self.users.try_recv().or_else(|_| self.others.try_recv())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::principal::{Principal, Proof};
    use crate::mqtt::Ack;
    use std::time::Duration;

    fn of(role: Role, name: &str) -> Inbound {
        let principal = Principal { name: name.into(), role, device: None, background: false, proof: Proof::Login };
        Inbound::new(principal, format!("{name}/self/messages"), Default::default(), Ack::new().0)
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
