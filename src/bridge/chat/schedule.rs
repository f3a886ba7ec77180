//! Messages that are to be sent at a time: sent when it comes, as if they were written then.
//!
//! One clock runs for the next of them. What was due while the bridge was not running is due at its start. All rules are asked when
//! it is sent, the gatekeeper among them: what its writer has to send next waits for the answer, and nobody else's does. Over a broker of
//! others every message about which the gatekeeper has to be asked comes this way, and is due at once.

use super::gatekeeper::Gatekeeper;
use super::groups::Writing;
use super::limits::Limits;
use super::messages::Kept;
use super::{PUSHES, peer};
use crate::bridge::context::Context;
use crate::chat::id::{GroupId, Owner};
use crate::chat::message::{ErrorCode, Limits as MessageLimits, Rejection, Sender};
use crate::chat::principal::Role;
use crate::chat::suffix::messages::UserMessage;
use crate::mqtt::BrokerLink;
use crate::ops::clock::{Clock, at, now_ms};
use crate::store::{ChatOutcome, ChatPolicy, NewChatMessage, Peer, ScheduledMessage, StoreError, Writer};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, try_join_all};
use futures_util::stream::FuturesUnordered;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Messages that are sent at one time: their verbs share commits.
const AT_ONCE: usize = 100;
/// A clock that is set forward, or a machine that slept, is noticed so much later at most.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// One that is more than its writer may send to groups at once is tried again so much later, in milliseconds.
const PUT_OFF_MS: u64 = 1_000;
/// Writers about whom the gatekeeper is asked; beyond it the others wait for an answer.
const ASKED_MAX: usize = 64;

/// What is left to do once the store was asked.
type Sent<'a> = BoxFuture<'a, Result<(), StoreError>>;

/// Sends them.
pub(in crate::bridge) struct Schedule {
    context: Arc<Context>,
    policy: Arc<ChatPolicy>,
    limits: Limits,
    /// If there is one.
    gatekeeper: Option<Gatekeeper>,
    /// Without the broker it cannot be asked.
    broker_link: Option<watch::Receiver<BrokerLink>>,
}

/// Messages about which the gatekeeper is asked, one of a writer at a time.
#[derive(Default)]
pub(super) struct AtGatekeeper<'a> {
    writers: HashSet<Owner>,
    answers: FuturesUnordered<BoxFuture<'a, Result<Owner, StoreError>>>,
}

impl Schedule {
    pub(super) fn new(
        context: Arc<Context>,
        policy: Arc<ChatPolicy>,
        limits: Limits,
        gatekeeper: Option<Gatekeeper>,
    ) -> Self {
        Self { context, policy, limits, gatekeeper, broker_link: None }
    }

    /// Works until `stop`. What is on its way to the disk then is sent, or waits for the next start.
    pub(in crate::bridge) async fn run(
        mut self,
        broker_link: watch::Receiver<BrokerLink>,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        self.broker_link = Some(broker_link);
        stop.run_until_cancelled(self.work()).await.unwrap_or(Ok(()))
    }

    async fn work(&self) -> Result<(), StoreError> {
        let (mut clock, mut asked) = (Clock::new(), AtGatekeeper::default());
        loop {
            let next = self.next(&asked.writers).await?;
            let now = clock.now();
            let is_full = asked.answers.len() >= self.asked_max();
            if next.is_some_and(|next| next <= now) && !is_full {
                self.send_due(now, &mut asked).await?;
                continue;
            }
            let wake_at = next.map(|next| clock.instant(next).min(Instant::now() + LOOK_AGAIN));
            tokio::select! {
                () = self.context.scheduled.notified() => {}
                () = at(wake_at), if !is_full => {}
                Some(writer) = asked.answers.next() => {
                    asked.writers.remove(&writer?);
                }
            }
        }
    }

    /// No more than may be open at one time, or those beyond would be let in to nobody.
    fn asked_max(&self) -> usize {
        ASKED_MAX.min(Gatekeeper::questions_max(&self.context))
    }

    /// When the next one is to be sent, but for those of these writers.
    async fn next(&self, but_of: &HashSet<Owner>) -> Result<Option<u64>, StoreError> {
        let store = &self.context.store;
        if but_of.is_empty() {
            return store.chat_scheduled_next().await?.await;
        }
        let first = store.chat_scheduled_due(u64::MAX, 1, but_of.clone()).await?.await?;
        Ok(first.first().map(|waiting| waiting.not_before))
    }

    pub(super) async fn send_due<'a>(&'a self, now: u64, asked: &mut AtGatekeeper<'a>) -> Result<(), StoreError> {
        let free = self.asked_max().saturating_sub(asked.answers.len()).max(1);
        let most = if self.gatekeeper.is_some() { AT_ONCE.min(free) } else { AT_ONCE };
        let due = self.context.store.chat_scheduled_due(now, most, asked.writers.clone()).await?.await?;
        let mut sent: Vec<Sent<'_>> = Vec::with_capacity(due.len());
        for waiting in due {
            if asked.writers.contains(&waiting.writer) {
                continue;
            }
            let (writer, by_token) = (waiting.writer.as_str(), waiting.by_token);
            let role = self.context.directory.writes_as(writer, waiting.role, by_token);
            let Some(role @ (Role::User | Role::Bal)) = role else {
                let why = Rejection::new(ErrorCode::Forbidden, "its writer may write no more");
                sent.push(Box::pin(self.context.store.chat_refuse_scheduled(waiting, why, now).await?));
                continue;
            };
            let waiting = ScheduledMessage { role, ..waiting };
            let message = match self.read(&waiting) {
                Ok(message) => message,
                // What could be written once may be refused by a later release.
                Err(why) => {
                    sent.push(Box::pin(self.context.store.chat_refuse_scheduled(waiting, why, now).await?));
                    continue;
                }
            };
            if let Some(group) = message.to.group() {
                sent.push(self.send_to_group(&waiting, (group, message), now).await?);
            } else if let Some(gatekeeper) = self.gatekeeper.as_ref().filter(|_| self.asks(&waiting, &message)) {
                asked.writers.insert(waiting.writer.clone());
                asked.answers.push(Box::pin(self.behind_gatekeeper(gatekeeper, waiting, message)));
            } else {
                sent.push(self.send(&waiting, message, (false, now)).await?);
            }
        }
        try_join_all(sent).await.map(drop)
    }

    fn read(&self, waiting: &ScheduledMessage) -> Result<UserMessage, Rejection> {
        let sender = if waiting.role == Role::Bal { Sender::Bal } else { Sender::User };
        // It is as long as it is: with its type and its id it may be longer than what was published.
        let payload_bytes = waiting.document.len();
        let limits = MessageLimits { payload_bytes, ..self.context.settings.limits.message() };
        UserMessage::parse(sender, &waiting.document, &limits)
    }

    /// Whether its writer may be a stranger to whom it is for.
    fn asks(&self, waiting: &ScheduledMessage, message: &UserMessage) -> bool {
        let is_to_bal = self.context.directory.role_of(message.to.as_str()) == Some(Role::Bal);
        waiting.role == Role::User && message.to != waiting.writer && !is_to_bal
    }

    /// Sends it when the gatekeeper has said whether its writer is let in.
    async fn behind_gatekeeper(
        &self,
        gatekeeper: &Gatekeeper,
        waiting: ScheduledMessage,
        message: UserMessage,
    ) -> Result<Owner, StoreError> {
        if let Some(mut broker_link) = self.broker_link.clone() {
            // If it has gone, the bridge stops.
            let _ = broker_link.wait_for(|link| *link == BrokerLink::Up).await;
        }
        let let_in = gatekeeper.lets_in(&self.context, &waiting.writer, &message.to).await?;
        self.send(&waiting, message, (let_in, now_ms())).await?.await?;
        Ok(waiting.writer)
    }

    /// Asks the store, and yields what follows when it has done so.
    async fn send(
        &self,
        waiting: &ScheduledMessage,
        message: UserMessage,
        (let_in, now): (bool, u64),
    ) -> Result<Sent<'_>, StoreError> {
        let ScheduledMessage { sid: row, writer: owner, role, dev, by_token, ttl_ms, .. } = waiting;
        let known = peer(&self.context, &message.to, now);
        let to = if known.name == *owner { Peer { role: Some(*role), ..known } } else { known };
        let meeting = self.asks(waiting, &message).then(|| self.limits.meet(owner, &to.name));
        let strangers = meeting.as_ref().is_none_or(|meeting| meeting.may);
        let connected = self.context.attentions.connected(owner);
        let (name, role, dev, by_token, direct) = (owner.clone(), *role, dev.clone(), *by_token, false);
        let from = Writer { name, role, dev, by_token, connected, strangers, let_in, direct };
        let route = (to.role == Some(Role::Bal)).then(|| self.context.route_to(&to.name));
        let in_order = self.context.next_written().await;
        let (sid, _) = in_order.id();
        let deadline_ms = now.saturating_add(*ttl_ms);
        let writer = from.name.clone();
        let new = NewChatMessage { sid, from, to: to.clone(), message, deadline_ms, route };
        let call = self.context.chat_call(now, PUSHES, &self.policy);
        let committed = self.context.store.chat_send_scheduled(*row, new, call).await?;
        let kept = Kept::new(&self.context, (sid, now), (&writer, &to), meeting, committed);
        drop(in_order);
        Ok(Box::pin(async move {
            if let ChatOutcome::Done { seen, .. } = kept.outcome(&self.context).await? {
                self.context.show(seen).await;
            }
            Ok(())
        }))
    }

    /// The same of one to a group.
    async fn send_to_group(
        &self,
        waiting: &ScheduledMessage,
        (group, message): (GroupId, UserMessage),
        now: u64,
    ) -> Result<Sent<'_>, StoreError> {
        let writing = Writing::of_waiting(waiting, group, message);
        let Ok(members) = writing.members(&self.context, &self.limits, None).await? else {
            let until = now.saturating_add(PUT_OFF_MS);
            return Ok(Box::pin(self.context.store.chat_put_off_scheduled(waiting.sid, until).await?));
        };
        let asked = writing.ask(&self.context, &self.policy, &members).await?;
        Ok(Box::pin(async move { asked.outcome(&self.context).await.map(drop) }))
    }
}
