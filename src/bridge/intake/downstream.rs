//! The messages of BALs and of users who may push, and what clients say to have received.

use super::{Intake, Remaining, TakeError};
use crate::bridge::context::Context;
use crate::bridge::count_told;
use crate::bridge::refusing::reply_topic_of;
use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::{BalReceipt, Downstream, Errand, Sender};
use crate::chat::principal::Role;
use crate::mqtt::{AckWord, Inbound};
use crate::ops::clock::now_ms;
use crate::ops::message_log;
use crate::ops::metrics::Metric;
use crate::store::{Accepted, Deliveries, NewMessage, NewPush, Recorded};
use std::sync::Arc;

impl Intake {
    pub(super) async fn message(&mut self, owner: &Owner, publish: &Inbound) -> Result<Remaining, TakeError> {
        // An admin is no BAL: it reads everything and commands the bridge, and has no outbox.
        let sender = if publish.principal.role == Role::Bal { Sender::Bal } else { Sender::User };
        let limits = self.context.settings.limits.message();
        let message = Downstream::parse(sender, &publish.payload, &limits)
            .inspect_err(|rejection| self.refused_names.tell(rejection, &publish.principal))?;
        let Errand::Push(push) = &message.errand else {
            return self.chat.message(owner, publish).await;
        };
        let Context { settings, store, .. } = &*self.context;
        let transport = settings.transports.pick(owner, message.category.as_deref()).clone();
        message.check_for(&transport)?;
        let reply = reply_topic_of(owner, publish.principal.role, publish.response_topic.as_ref());
        let reply = reply.map_err(|rejection| rejection.about(message.id.clone()))?;
        let (sid, now) = self.context.next_sid();
        let id = message.id.clone().unwrap_or_else(|| MessageId::from(sid));
        let new = NewMessage {
            sid,
            bal: owner.clone(),
            id: id.clone(),
            order: message.order.clone(),
            body: push.to_body().into(),
            accepted_at: now,
            reply,
            correlation: publish.correlation.clone(),
            notice: message.notice(),
            deliveries: Deliveries::Only(NewPush {
                recipient: push.target.recipient(),
                receipt: push.receipt && self.context.tells_delivery(&transport),
                transport,
                deadline_ms: message.deadline_ms(now, publish.expiry),
            }),
        };
        if self.is_stopped {
            return Ok(self.without_room(new, message.id, publish).await?);
        }
        let committed = store.accept(new).await?;
        let (context, owner) = (Arc::clone(&self.context), owner.clone());
        Ok(Box::pin(async move { Ok(accepted(&context, committed.await?, sid, &owner, &id)) }))
    }

    pub(super) async fn receipt(&mut self, owner: &Owner, publish: &Inbound) -> Result<Remaining, TakeError> {
        let receipt = BalReceipt::parse(&publish.payload, &self.context.settings.limits.message())?;
        let (context, owner) = (Arc::clone(&self.context), owner.clone());
        Ok(match receipt {
            // Asked for at once, so that many apps share commits.
            BalReceipt::Each(sids) => {
                let committed = context.store.confirm(&owner, sids, now_ms()).await?;
                Box::pin(async move { Ok(confirmed(&context, &committed.await?)) })
            }
            BalReceipt::UpTo(sid) => Box::pin(async move {
                context.store.acked_up_to(&owner, sid, now_ms()).await?;
                Ok(Some(AckWord::Done))
            }),
        })
    }
}

/// Counts and logs what became of a message; the word for its publisher.
pub(super) fn accepted(
    context: &Context,
    accepted: Accepted,
    sid: Sid,
    owner: &Owner,
    id: &MessageId,
) -> Option<AckWord> {
    match accepted {
        Accepted::Stored => {
            context.metrics.count(Metric::DownstreamAccepted);
            tracing::debug!(target: message_log::TARGET, bal = %owner, %id, %sid, "message on disk, PUBACK follows");
        }
        Accepted::Repeated(status) => {
            context.metrics.count(Metric::DownstreamRepeated);
            tracing::debug!(target: message_log::TARGET, bal = %owner, %id, status = status.word(), "known message, its last status is told again");
        }
        // An external broker has acknowledged it long ago and would take a refusal for the end of it; left alone, it
        // keeps the message and sends it again.
        Accepted::Full if !context.broker.answers_publishers => return None,
        Accepted::Full => return Some(AckWord::Quota),
    }
    Some(AckWord::Done)
}

/// What follows when an app says that it has pushes.
pub(in crate::bridge) fn confirmed(context: &Context, pushes: &[(Sid, Recorded)]) -> Option<AckWord> {
    for (_, recorded) in pushes {
        if let Recorded::Moved { .. } = recorded {
            context.metrics.count(Metric::Receipts);
        }
        count_told(&context.metrics, recorded);
    }
    Some(AckWord::Done)
}
