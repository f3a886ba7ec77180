//! What earlier runs left: sessions, groups, retained messages, wills.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Hub;
use super::group::Group;
use super::queue::SharedQueue;
use super::session::{PacketIds, Session, SessionWill};
use crate::broker::identity::Caller;
use crate::broker::routing::retained::RetainedEntry;
use crate::broker::session::{Incoming, Queue};
use crate::ops::clock::now_ms;
use crate::store::{BrokerState, KeptGroup, KeptRetained, KeptSession, KeptWill, StoreError};

impl Hub {
    /// Reads what the store has, before the first client comes.
    ///
    /// # Errors
    ///
    /// If the store is closed.
    pub(in crate::broker) async fn restore(self: &Arc<Self>) -> Result<(), StoreError> {
        self.store.listen();
        let started_at = now_ms();
        self.store.all_left(started_at).await?.await?;
        let BrokerState { sessions, groups, retained, wills } = self.store.broker_state().await?.await?;
        tracing::info!(sessions = sessions.len(), retained = retained.len(), "broker has read its sessions");
        for group in groups {
            self.restore_group(group);
        }
        let mut by_queue = HashMap::with_capacity(sessions.len());
        for session in sessions {
            by_queue.insert(session.queue, self.restore_session(session).await?);
        }
        for KeptRetained { topic, bytes, user, expires_at, .. } in retained {
            let entry = RetainedEntry { bytes, user: user.map(Into::into), expires_at };
            self.lock_retained().keep(topic.into(), entry);
        }
        for KeptWill { queue, due_at, will } in wills {
            if let Some(session) = by_queue.get(&queue) {
                let again = due_at.is_some_and(|due_at| due_at < started_at);
                session.lock().will = Some(Box::new(SessionWill { will, due_at, again }));
                let wait = due_at.unwrap_or_default().saturating_sub(now_ms());
                self.delayed_wills.add(Duration::from_millis(wait), session);
            }
        }
        self.end_empty_groups().await;
        Ok(())
    }

    /// A queue of which something may be on disk, without a reader.
    pub(super) fn kept_queue(&self, name: &Arc<str>) -> Arc<SharedQueue> {
        SharedQueue::new(self.next_number(), name, Queue::kept(self.memory_limits()), self.registry.on_disk())
    }

    fn restore_group(&self, kept: KeptGroup) {
        let KeptGroup { queue: id, name, rows, bytes } = kept;
        let group = self.registry.group(&name, |name| {
            let queue = self.kept_queue(name);
            queue.waits_on_disk(rows, bytes);
            Group::new(Arc::clone(name), queue)
        });
        group.set_kept();
        self.registry.stored_as(id, &group.queue);
    }

    async fn restore_session(self: &Arc<Self>, kept: KeptSession) -> Result<Arc<Session>, StoreError> {
        let KeptSession { queue: id, record, left_at, subscriptions, rows, bytes, incoming } = kept;
        let key: Arc<str> = record.key.into();
        let queue = self.kept_queue(&key);
        queue.waits_on_disk(rows, bytes);
        let user = record.user.as_deref().map(Arc::from);
        let caller = user.clone().zip(record.login).map(|(user, login)| Caller::kept(user, login));
        let rights = self.authenticator.rights_of(user.as_deref(), caller.as_ref());
        let visible = self.visible_to(user.as_ref(), rights.role()).await;
        queue.set_rights(rights, visible);
        self.registry.stored_as(id, &queue);
        let session = Session::new(key, record.user.map(Into::into), record.client.into(), queue);
        {
            let mut state = session.lock();
            state.packet_ids =
                Some(Box::new(PacketIds { incoming: Incoming::kept(&incoming), ..self.new_packet_ids() }));
            state.expiry_s = record.expiry_s;
            state.left_ms = left_at;
            state.caller = caller;
        }
        self.registry.add(&session);
        self.restore_subscriptions(&session, subscriptions).await?;
        Ok(session)
    }
}
