//! Messages that are to be sent at a time: sent when it comes, as if they were written then.
//!
//! One clock runs for the next of them. What was due while the bridge was not running is due at its start.

use super::limits::Limits;
use super::{PUSHES, peer};
use crate::bridge::context::Context;
use crate::chat::message::{Limits as MessageLimits, Sender};
use crate::chat::principal::Role;
use crate::chat::suffix::messages::UserMessage;
use crate::ops::clock::{Clock, at};
use crate::store::{ChatOutcome, ChatPolicy, Committed, NewChatMessage, Peer, ScheduledMessage, StoreError, Writer};
use futures_util::future::{BoxFuture, try_join_all};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Messages that are sent at one time: their verbs share commits.
const AT_ONCE: usize = 100;
/// A clock that is set forward, or a machine that slept, is noticed so much later at most.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Sends them.
pub(in crate::bridge) struct Schedule {
    context: Arc<Context>,
    policy: Arc<ChatPolicy>,
    limits: Limits,
}

impl Schedule {
    pub(super) fn new(context: Arc<Context>, policy: Arc<ChatPolicy>, limits: Limits) -> Self {
        Self { context, policy, limits }
    }

    /// Works until `stop`. What is on its way to the disk then is sent, or waits for the next start.
    pub(in crate::bridge) async fn run(self, stop: CancellationToken) -> Result<(), StoreError> {
        stop.run_until_cancelled(self.work()).await.unwrap_or(Ok(()))
    }

    async fn work(&self) -> Result<(), StoreError> {
        let mut clock = Clock::new();
        loop {
            let next = self.context.store.chat_scheduled_next().await?.await?;
            let now = clock.now();
            if next.is_some_and(|next| next <= now) {
                self.send_due(now).await?;
                continue;
            }
            let wake_at = next.map(|next| clock.instant(next).min(Instant::now() + LOOK_AGAIN));
            tokio::select! {
                () = self.context.scheduled.notified() => {}
                () = at(wake_at) => {}
            }
        }
    }

    pub(super) async fn send_due(&self, now: u64) -> Result<(), StoreError> {
        let due = self.context.store.chat_scheduled_due(now, AT_ONCE).await?.await?;
        let mut sent: Vec<BoxFuture<'_, Result<(), StoreError>>> = Vec::with_capacity(due.len());
        for waiting in due {
            sent.push(self.send(waiting, now).await?);
        }
        try_join_all(sent).await.map(drop)
    }

    /// Asks the store, and yields what follows when it has done so.
    async fn send(
        &self,
        waiting: ScheduledMessage,
        now: u64,
    ) -> Result<BoxFuture<'_, Result<(), StoreError>>, StoreError> {
        let ScheduledMessage { sid: row, writer: owner, role, dev, ttl_ms, document, .. } = &waiting;
        let sender = if *role == Role::Bal { Sender::Bal } else { Sender::User };
        // It is as long as it is: with its type and its id it may be longer than what was published.
        let limits = MessageLimits { payload_bytes: document.len(), ..self.context.settings.limits.message() };
        let message = match UserMessage::parse(sender, document, &limits) {
            Ok(message) => message,
            // What could be written once may be refused by a later release.
            Err(why) => {
                let refused = self.context.store.chat_refuse_scheduled(waiting, why, now).await?;
                return Ok(Box::pin(refused));
            }
        };
        let known = peer(&self.context, &message.to, now);
        let to = if known.name == *owner { Peer { role: Some(*role), ..known } } else { known };
        let may_be_stranger = *role == Role::User && to.role != Some(Role::Bal) && to.name != *owner;
        let meeting = may_be_stranger.then(|| self.limits.meet(owner, &to.name));
        let strangers = meeting.as_ref().is_none_or(|meeting| meeting.may);
        let connected = self.context.attentions.connected(owner);
        let from = Writer {
            name: owner.clone(),
            role: *role,
            dev: dev.clone(),
            connected,
            strangers,
            let_in: false,
            direct: false,
        };
        let route = (to.role == Some(Role::Bal)).then(|| self.context.route_to(&to.name));
        let in_order = self.context.next_written().await;
        let (sid, _) = in_order.id();
        let (reader, waits) = (to.name.clone(), to.attended.any());
        let new = NewChatMessage { sid, from, to, message, deadline_ms: now.saturating_add(*ttl_ms), route };
        let call = self.context.chat_call(now, PUSHES, &self.policy);
        let committed: Committed<ChatOutcome> = self.context.store.chat_send_scheduled(*row, new, call).await?;
        drop(in_order);
        if waits {
            self.context.attentions.given(&reader, sid, now);
        }
        Ok(Box::pin(async move {
            let outcome = committed.await?;
            if waits && !matches!(outcome, ChatOutcome::Done { waits: true, .. }) {
                self.context.attentions.taken_back(&reader, sid);
            }
            if let Some(meeting) = meeting {
                meeting.came_to(&outcome);
            }
            match outcome {
                ChatOutcome::Done { seen, .. } => self.context.show(seen).await,
                _ => Ok(()),
            }
        }))
    }
}
