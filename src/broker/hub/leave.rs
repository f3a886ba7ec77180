//! The end of a connection, and of a session.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Hub;
use super::session::{Feed, Own, Session};
use super::wills::Will;
use crate::broker::connection::Link;
use crate::broker::identity::Caller;
use crate::broker::session::Item;
use crate::chat::principal::Identity;
use crate::mqtt::{Change, Sighting};
use crate::ops::clock::now_ms;
use crate::store::{Message, Seen};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// The client said so (DISCONNECT).
    Goodbye {
        /// Its will is to be published all the same, or it gave another reason than 0.
        with_will: bool,
        /// From now on the session is kept for so many seconds.
        expiry_s: Option<u32>,
    },
    /// It just ended.
    Broke,
}

impl Hub {
    /// The connection has ended: the session is nobody's, or ends with it. The will is dealt with when this is over.
    pub(crate) async fn leave(self: &Arc<Self>, session: &Arc<Session>, link: &Arc<Link>, own: Own, leaving: Leaving) {
        let caller = session.lock().caller.clone();
        let left = matches!(leaving, Leaving::Goodbye { with_will: false, .. });
        self.tell_ended(session, caller.as_ref(), link, if left { Change::Left } else { Change::Broke }).await;
        let (will, ends) = self.part(session, link, own, leaving).await;
        if ends {
            self.end_session(session).await;
            if let Some(will) = will {
                self.publish_will(session, will).await;
            }
        } else {
            self.stay(session, will).await;
        }
        // Not before: who comes back waits for it, and finds the session as it is then.
        session.lock().link = None;
        link.gone();
    }

    /// Takes the session from its connection. Yields the will, if it is to be published, and whether the session ends.
    async fn part(
        &self,
        session: &Arc<Session>,
        link: &Arc<Link>,
        mut own: Own,
        leaving: Leaving,
    ) -> (Option<Box<Will>>, bool) {
        let (ends, will) = {
            let mut state = session.lock();
            if let Leaving::Goodbye { expiry_s: Some(expiry_s), .. } = leaving {
                state.expiry_s = self.expiry(expiry_s);
            }
            let unwanted = matches!(leaving, Leaving::Goodbye { with_will: false, .. });
            let will = state.will.take().filter(|_| !unwanted);
            (state.expiry_s == 0 || state.ends_by_take_over, will)
        };
        own.incoming.suspend();
        self.give_back(session, link, own.window.suspend()).await;
        let mut state = session.lock();
        state.left_ms = Some(now_ms());
        state.own = Some(own);
        (will, ends)
    }

    /// What was sent and not acknowledged goes back to where it came from.
    async fn give_back(&self, session: &Arc<Session>, link: &Arc<Link>, unacknowledged: Vec<(u64, Item)>) {
        let mut back: HashMap<u64, Vec<Item>> = HashMap::new();
        for (group, item) in unacknowledged {
            back.entry(group).or_default().push(item);
        }
        let mut seen: Vec<Seen> = Vec::new();
        for Feed { queue, member } in session.feeds() {
            let back = back.remove(&queue.number()).unwrap_or_default();
            match member {
                Some(_) => seen.extend(self.detach_member(&queue, link, back).await),
                None => seen.extend(queue.detach(link, back).into_iter().flat_map(|away| away.seen)),
            }
        }
        // Of groups that the session left before.
        for (group, back) in back {
            if let Some(queue) = self.registry.group_queue(group) {
                seen.extend(self.detach_member(&queue, link, back).await);
            }
        }
        self.documents_seen(seen).await;
    }

    /// The session waits for its client.
    async fn stay(self: &Arc<Self>, session: &Arc<Session>, will: Option<Box<Will>>) {
        let now = now_ms();
        let expiry_s = session.lock().expiry_s;
        let delayed = will.as_ref().filter(|will| will.delay_s > 0).map(|will| {
            let expires_at = will.expiry_s.map(|seconds| u64::from(seconds) * 1_000);
            // The end of the session ends the delay.
            (now + u64::from(will.delay_s.min(expiry_s)) * 1_000, Message { expires_at, ..will.message.clone() })
        });
        let due = delayed.as_ref().map(|(due, _)| *due);
        if let Some(queue) = session.queue.stored() {
            // Nobody waits for the disk: without this it is at the next start as if the connection had been there until now.
            let _ = self.store.session_left(queue, now, expiry_s, delayed).await;
        }
        match (will, due) {
            (Some(will), Some(due)) => {
                session.lock().will = Some(will);
                self.delayed.add(Duration::from_millis(due - now), session);
            }
            (Some(will), None) => self.publish_will(session, will).await,
            (None, _) => {}
        }
    }

    /// The session is no more: nothing is kept for it, and a will that waited is published.
    pub(super) async fn end_session(self: &Arc<Self>, session: &Arc<Session>) {
        self.registry.remove(session);
        self.delayed.cancel(session);
        let subscriptions = std::mem::take(&mut session.lock().subscriptions);
        for (filter, subscription) in subscriptions {
            self.drop_subscription(session, &filter, &subscription).await;
        }
        let will = session.lock().will.take();
        if let Some(will) = will {
            self.publish_will(session, will).await;
        }
        if let Some(queue) = session.queue.stored() {
            session.queue.store_as(None);
            self.registry.not_stored(queue);
            // If the store is closed, the session is found at the next start, and expires.
            let _ = self.store.end_queue(queue).await;
        }
    }

    async fn tell_ended(&self, session: &Session, caller: Option<&Caller>, link: &Link, change: Change) {
        let Some(Caller::Known(Identity { user, role }, _)) = caller else { return };
        let device = crate::broker::identity::device_of(user, &session.client).into();
        let (user, client) = (Arc::clone(user), Arc::clone(&session.client));
        let ended = Sighting { user, role: *role, client, device, connection: link.number(), change };
        self.tell_sighting(ended).await;
    }

    /// Ends sessions whose time without a connection is over.
    pub(super) async fn end_expired(self: &Arc<Self>, now_ms: u64) {
        for session in self.registry.sessions() {
            if session.is_expired(now_ms) {
                // Should its client come back just now, it waits for the end, and finds no session.
                let _turn = self.registry.claim(&session.key).await;
                if session.is_expired(now_ms) {
                    self.end_session(&session).await;
                }
            }
        }
    }
}
