//! What a publisher is told of input that cannot be taken: an error document, and `failed` if the id could be read.
//!
//! Some input is refused before it comes to the store and some by the store; both come here.

use super::context::Context;
use super::intake::Remaining;
use crate::chat::id::Owner;
use crate::chat::message::{ErrorCode, ErrorDocument, ErrorGate, Rejection, document_id, error_summary};
use crate::chat::principal::{Principal, Role};
use crate::chat::status::StatusDocument;
use crate::chat::topic::{BridgeTopic, check_response_topic};
use crate::mqtt::{AckWord, Inbound};
use crate::ops::clock::now_ms;
use crate::ops::message_log;
use crate::ops::metrics::Metric;
use crate::store::{Committed, Note, StoreError, UserDocument};
use bytes::Bytes;
use futures_util::TryFutureExt;
use futures_util::future::{ready, try_join_all};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// What of a publish its refusal needs.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    topic: String,
    payload: Bytes,
    dup: bool,
    principal: Principal,
    response_topic: Option<String>,
    correlation: Option<Bytes>,
}

impl Refused {
    /// Whether a status tells what became of it. Of what a user writes, messages and invitations have one.
    fn has_status(&self) -> bool {
        let suffix = self.topic.rsplit('/').next();
        self.principal.role != Role::User || matches!(suffix, Some("messages" | "invitations"))
    }

    pub(super) fn of(publish: &Inbound) -> Self {
        Self {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            dup: publish.dup,
            principal: publish.principal.clone(),
            response_topic: publish.response_topic.clone(),
            correlation: publish.correlation.clone(),
        }
    }
}

/// Refuses input; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Refusing {
    context: Arc<Context>,
    /// A lock because a refusal may come out of the store, in a future of its own; held for an operation on memory.
    gate: Arc<Mutex<ErrorGate>>,
}

impl Refusing {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context, gate: Arc::default() }
    }

    /// When [`Self::summaries`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.gate().deadline().map(Instant::from_std)
    }

    /// Whether another error may be told to this owner now.
    pub(super) fn admits(&self, owner: &Owner) -> bool {
        self.gate().admit(owner, Instant::now().into_std())
    }

    /// Answers input that cannot be taken: an error document, and a `failed` status if its id could be read.
    pub(super) async fn refuse(
        &self,
        owner: &Owner,
        rejection: &Rejection,
        publish: &Refused,
    ) -> Result<Remaining, StoreError> {
        self.context.metrics.count(Metric::DownstreamRejected);
        let (code, detail) = (rejection.code().to_string(), rejection.detail());
        let Principal { role, device, proof, .. } = &publish.principal;
        let (role, device, proof) = (role.word(), device.as_deref(), proof.word());
        tracing::debug!(target: message_log::TARGET, of = %owner, role, device, proof, code, detail, "input refused");
        let at = now_ms();
        // What is refused is not remembered, so only its publisher can know that it was answered before.
        let again = publish.dup;
        let mut commits: Vec<Committed<()>> = Vec::with_capacity(2);
        if self.admits(owner) {
            let document = ErrorDocument::new(rejection, publish.topic.clone(), &publish.payload, at);
            let topic = BridgeTopic::Errors(owner.clone()).to_string();
            commits.push(self.tell(publish, topic, document.redelivered(again).to_payload(), None).await?);
        }
        if let Some(id) = rejection.ref_id().filter(|_| publish.has_status()) {
            let topic = reply_topic(owner, publish).unwrap_or_else(|_| inbox(owner));
            let status = StatusDocument::refused(id.as_str(), at, &code, detail).redelivered(again);
            let correlation = publish.correlation.clone();
            let payload = status.correlation(correlation.as_deref()).to_bytes();
            commits.push(self.tell(publish, topic, payload, correlation).await?);
        }
        let word = if rejection.code() == ErrorCode::UnknownTopic { AckWord::NoSuchTopic } else { AckWord::Done };
        Ok(Box::pin(try_join_all(commits).map_ok(move |_| Some(word))))
    }

    /// Tells somebody by an error document that it may not write a topic. Of what it writes by that `id` in its own outbox this says
    /// nothing, so there is no `failed`; and what was meant for another topic may have a token or a password in it, so nothing of it is
    /// shown.
    pub(super) async fn deny(&self, owner: &Owner, publish: &Refused) -> Result<Remaining, StoreError> {
        if !self.admits(owner) {
            return Ok(Box::pin(ready(Ok(Some(AckWord::Done)))));
        }
        let (at, id) = (now_ms(), document_id(&publish.payload));
        let rejection = Rejection::new(ErrorCode::Forbidden, "you may not write this topic").about(id);
        let document = ErrorDocument::new(&rejection, publish.topic.clone(), &[], at).redelivered(publish.dup);
        let topic = BridgeTopic::Errors(owner.clone()).to_string();
        let committed = self.tell(publish, topic, document.to_payload(), None).await?;
        Ok(Box::pin(committed.map_ok(|()| Some(AckWord::Done))))
    }

    /// What a BAL is told waits for it; what a user is told is dropped where nobody reads it.
    async fn tell(
        &self,
        publish: &Refused,
        topic: String,
        payload: Vec<u8>,
        correlation: Option<Bytes>,
    ) -> Result<Committed<()>, StoreError> {
        let (payload, at) = (Bytes::from(payload), now_ms());
        if publish.principal.role == Role::User {
            return self.context.store.queue_user_document(UserDocument { topic, copy_of: None, payload, at }).await;
        }
        self.context.store.queue_note(Note { topic, payload, correlation, at }).await
    }

    /// Tells owners with more errors than fit into a second how many were left out.
    pub(super) async fn summaries(&self) -> Result<(), StoreError> {
        let finished = self.gate().finish(Instant::now().into_std());
        for (owner, count) in finished {
            let at = now_ms();
            error(&self.context, &owner, error_summary(count, at), at).await?.await?;
        }
        Ok(())
    }

    fn gate(&self) -> MutexGuard<'_, ErrorGate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where statuses go: the inbox, or below the name of the BAL if its MQTT 5 response topic says so. Those of a user never
/// leave the inbox: all devices read them there.
pub(super) fn reply_topic(owner: &Owner, publish: &Refused) -> Result<String, Rejection> {
    reply_topic_of(owner, publish.principal.role, publish.response_topic.as_ref())
}

/// The same for a publish of this role, with this response topic.
pub(super) fn reply_topic_of(owner: &Owner, role: Role, response_topic: Option<&String>) -> Result<String, Rejection> {
    match response_topic.filter(|_| role == Role::Bal) {
        Some(wish) => check_response_topic(owner, wish)
            .map(|()| wish.clone())
            .map_err(|fault| Rejection::new(ErrorCode::Forbidden, fault.to_string())),
        None => Ok(inbox(owner)),
    }
}

fn inbox(owner: &Owner) -> String {
    BridgeTopic::Receipts(owner.clone()).to_string()
}

/// Queues an error document.
pub(super) async fn error(
    context: &Context,
    owner: &Owner,
    document: Vec<u8>,
    at: u64,
) -> Result<Committed<()>, StoreError> {
    let topic = BridgeTopic::Errors(owner.clone()).to_string();
    context.store.queue_note(Note { topic, payload: document.into(), correlation: None, at }).await
}
