//! The end of a connection, and of a session.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::timeout;

use super::Hub;
use super::admit::DISK;
use super::session::{PacketIds, Session};
use crate::broker::connection::ConnectionHandle;
use crate::broker::session::OutgoingMessage;
use crate::mqtt::ClientChange;
use crate::ops::clock::now_ms;

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
    /// The connection has ended: the session stays without one, or ends. Its will is published or scheduled when this
    /// returns.
    pub(crate) async fn leave(
        self: &Arc<Self>,
        session: &Arc<Session>,
        handle: &Arc<ConnectionHandle>,
        mut packet_ids: PacketIds,
        leaving: Leaving,
    ) {
        let left = matches!(leaving, Leaving::Goodbye { with_will: false, .. });
        let change = if left { ClientChange::Left } else { ClientChange::Broke };
        self.tell_sighting(session, handle, (change, false)).await;
        let ends = {
            let mut state = session.lock();
            if let Leaving::Goodbye { expiry_s: Some(expiry_s), .. } = leaving
                && !session.is_background()
            {
                state.expiry_s = self.expiry(expiry_s);
            }
            state.will.take_if(|_| left);
            state.expiry_s == 0 || state.ends_by_take_over
        };
        packet_ids.incoming.suspend();
        self.give_back(session, handle, packet_ids.window.suspend()).await;
        {
            let mut state = session.lock();
            state.left_ms = Some(now_ms());
            state.packet_ids = Some(Box::new(packet_ids));
        }
        if ends {
            self.end_session(session).await;
        } else {
            self.stay(session).await;
        }
        // Not before: who comes back waits for it, and finds the session as it is then.
        session.lock().handle = None;
        self.registry.disconnect(handle);
        handle.gone();
    }

    /// What was sent and not acknowledged goes back to where it came from.
    async fn give_back(
        &self,
        session: &Arc<Session>,
        handle: &Arc<ConnectionHandle>,
        unacknowledged: Vec<(u64, OutgoingMessage)>,
    ) {
        let mut back: HashMap<u64, Vec<OutgoingMessage>> = HashMap::new();
        for (group, item) in unacknowledged {
            back.entry(group).or_default().push(item);
        }
        let of_session = session.send_queues().into_iter().map(|send_queue| send_queue.queue);
        // Of groups that the session left before.
        let former = back.keys().filter_map(|group| self.registry.group_queue(*group));
        let queues: BTreeMap<_, _> = of_session.chain(former).map(|queue| (queue.number(), queue)).collect();
        for (number, queue) in queues {
            let back = back.remove(&number).unwrap_or_default();
            if number != session.queue.number() {
                self.detach_member(&queue, handle, back).await;
            } else if let Some(seen) = queue.detach(handle, back) {
                self.documents_seen(seen).await;
            }
        }
    }

    /// The session waits for its client.
    async fn stay(self: &Arc<Self>, session: &Arc<Session>) {
        let now = now_ms();
        let (expiry_s, delay_s) = {
            let state = session.lock();
            // The end of the session ends the delay.
            (state.expiry_s, state.will.as_ref().map(|will| will.will.delay_s.min(state.expiry_s)))
        };
        if let Some(queue) = session.queue.stored() {
            let will_due = delay_s.map(|delay_s| now + u64::from(delay_s) * 1_000);
            if let Some(will) = &mut session.lock().will {
                will.due_at = will_due;
            }
            // Nobody waits for the disk: without this it is at the next start as if the connection had been there until now.
            let _ = timeout(DISK, self.store.session_left(queue, now, expiry_s, will_due)).await;
        }
        match delay_s {
            Some(0) => self.publish_will_of(session).await,
            Some(delay_s) => self.delayed_wills.add(Duration::from_secs(delay_s.into()), session),
            None => {}
        }
    }

    /// The session is no more: nothing is kept for it, and a will that waited is published.
    pub(super) async fn end_session(self: &Arc<Self>, session: &Arc<Session>) {
        self.delayed_wills.cancel(session);
        for filter in session.filters() {
            self.drop_subscription(session, &filter).await;
        }
        let will_due = session.lock().will.as_ref().map(|will| will.due_at);
        self.publish_will_of(session).await;
        if let Some(due_at) = will_due
            && self.stop.is_cancelled()
        {
            // Perhaps the bridge does not take it any more. If so the store has it, and the next start publishes it.
            return self.end_after_start(session, due_at).await;
        }
        // If the store is closed, the next start finds it. While the disk refuses, it is at least asked for before all that
        // follows.
        if let Some(id) = self.registry.forget_stored(&session.queue) {
            let store = self.store.clone();
            let end = async move {
                if let Ok(ended) = store.end_queue(id).await {
                    let _ = timeout(DISK, ended).await;
                }
            };
            self.go_on(end).await;
        }
        // Not before its end was asked for: a new session with the same key would get its name on disk, and end with it.
        self.registry.remove(session);
    }

    async fn end_after_start(&self, session: &Session, will_due: Option<u64>) {
        if let Some(queue) = session.queue.stored() {
            let now = now_ms();
            let _ = timeout(DISK, self.store.session_left(queue, now, 0, will_due.or(Some(now)))).await;
        }
    }

    /// Ends sessions whose time without a connection is over.
    pub(super) async fn end_expired(self: &Arc<Self>, now_ms: u64) {
        let mut after: Arc<str> = "".into();
        loop {
            let page = self.registry.sessions(&after);
            let Some(last) = page.last() else { return };
            after = Arc::clone(&last.key);
            for session in page.iter().filter(|session| session.is_expired(now_ms)) {
                // Should its client come back just now, it waits for the end, and finds no session.
                let _claim = self.registry.claim(&session.key).await;
                if session.is_expired(now_ms) {
                    self.end_session(session).await;
                }
            }
            yield_now().await;
        }
    }
}
