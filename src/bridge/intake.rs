//! Downstream, first half: a client's publish is parsed, decided, committed, and only then acknowledged.
//!
//! Publishes are handled in the order of arrival, and many wait for their commit at one time; acknowledgements leave in
//! the same order. A full queue, a slow disk or a stop all look the same to a publisher: no acknowledgement yet.

use super::context::{Context, oldest};
use super::count_status;
use super::refused_names::RefusedNames;
use super::user_presence::Word;
use crate::chat::id::{MessageId, Owner, Recipient, Sid};
use crate::chat::message::{
    Admission, BalReceipt, BrokerKind, Downstream, Errand, ErrorCode, ErrorDocument, ErrorGate, Presence, Rejection,
    Sender, error_summary,
};
use crate::chat::topic::{BridgeTopic, ClientTopic, Device, check_response_topic};
use crate::chat::transport::Transport;
use crate::mqtt::{Ack, AckWord, Inbound, Principal, Role};
use crate::ops::clock::{at, now_ms};
use crate::ops::message_log;
use crate::ops::metrics::Metric;
use crate::store::{Accepted, Committed, NewDelivery, Note, Recorded, Rejected, StoreError};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a stopped intake looks whether there is room again.
const ROOM_CHECK: Duration = Duration::from_millis(100);

/// What remains to be done for one publish: its commits; then the word for its publisher.
type Remaining = Pin<Box<dyn Future<Output = Result<Option<AckWord>, StoreError>> + Send>>;

/// The window's first half.
pub(super) struct Intake {
    context: Arc<Context>,
    words: mpsc::Sender<Word>,
    gate: ErrorGate,
    refused_names: RefusedNames,
    waiting: VecDeque<(Remaining, Ack)>,
}

impl Intake {
    pub(super) fn new(context: Arc<Context>, words: mpsc::Sender<Word>) -> Self {
        Self {
            context,
            words,
            gate: ErrorGate::default(),
            refused_names: RefusedNames::default(),
            waiting: VecDeque::new(),
        }
    }

    /// Works until `stop`, then finishes what is on its way to the disk. What is still in `inbound`, and comes until
    /// `quiet`, is not acknowledged: its publisher sends it again.
    pub(super) async fn run(
        mut self,
        mut inbound: mpsc::Receiver<Inbound>,
        stop: CancellationToken,
        quiet: CancellationToken,
    ) -> Result<(), StoreError> {
        let limit = self.context.settings.inflight_publishes;
        // A publisher whose acknowledgement is dropped is cut off, and may still have documents of ours to acknowledge.
        let mut unanswered = Vec::new();
        loop {
            let summaries = self.gate.deadline().map(Instant::from_std);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                (word, ack) = oldest(&mut self.waiting) => release(word?, ack),
                () = at(summaries) => self.summaries().await?,
                next = inbound.recv(), if self.waiting.len() < limit => match next {
                    Some(publish) => {
                        if !self.room(&stop).await? {
                            unanswered.push(publish.ack);
                            break;
                        }
                        self.take(publish).await?;
                    }
                    None => break,
                },
            }
        }
        while !self.waiting.is_empty() {
            let (word, ack) = oldest(&mut self.waiting).await;
            release(word?, ack);
        }
        loop {
            tokio::select! {
                () = quiet.cancelled() => return Ok(()),
                next = inbound.recv(), if unanswered.len() < limit => match next {
                    Some(Inbound { ack, .. }) => unanswered.push(ack),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Waits while the queue is full; false when the bridge stops meanwhile.
    async fn room(&mut self, stop: &CancellationToken) -> Result<bool, StoreError> {
        if self.context.queue_has_room() {
            return Ok(true);
        }
        tracing::error!("the queue is full: publishes are not acknowledged until the push service has taken some");
        self.context.metrics.set(Metric::IntakeStopped, 1);
        while !self.context.queue_has_slack() {
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                (word, ack) = oldest(&mut self.waiting) => release(word?, ack),
                () = tokio::time::sleep(ROOM_CHECK) => {}
            }
        }
        self.context.metrics.set(Metric::IntakeStopped, 0);
        tracing::info!("the queue has room again");
        Ok(true)
    }

    async fn take(&mut self, publish: Inbound) -> Result<(), StoreError> {
        let topic = match ClientTopic::parse(&publish.topic) {
            // A retained copy is an old message that was dealt with when it was new; presence is meant to be retained.
            Ok(Some(topic)) if !publish.retain || matches!(topic, ClientTopic::Presence(..)) => topic,
            // Suffixes that nobody knows belong to somebody else. A name that cannot be a topic level has no inbox
            // that an error could go to.
            _ => {
                publish.ack.release(AckWord::Done);
                return Ok(());
            }
        };
        match topic {
            ClientTopic::Messages(owner) => self.message(owner, publish).await,
            ClientTopic::Receipts(owner) => self.receipt(owner, publish).await,
            ClientTopic::Presence(owner, device) => self.presence(owner, device, publish).await,
        }
    }

    async fn message(&mut self, owner: Owner, publish: Inbound) -> Result<(), StoreError> {
        let sender = sender(&publish.principal);
        let message = match Downstream::parse(sender, &publish.payload, &self.context.settings.message) {
            Ok(message) => message,
            Err(rejection) => {
                if rejection.code() == ErrorCode::Forbidden {
                    self.refused_names.tell(&publish.principal);
                }
                return self.refuse(&owner, &rejection, None, publish).await;
            }
        };
        let transport = self.context.settings.transports.pick(&owner, message.category.as_deref()).clone();
        if let Err(rejection) = message.check_for(&transport) {
            return self.refuse(&owner, &rejection, None, publish).await;
        }
        let reply = match reply_topic(&owner, &publish) {
            Ok(reply) => reply,
            Err(rejection) => return self.refuse(&owner, &rejection.about(message.id), None, publish).await,
        };
        match message.errand {
            Errand::Push(ref push) => {
                let (body, recipient, receipt) = (push.to_body(), push.target.recipient(), push.receipt);
                self.accept(&message, Facts { owner, transport, body, recipient, receipt, reply }, publish).await
            }
            Errand::Name => {
                let detail = "`to` names nobody who has registered a device";
                let rejection = Rejection::new(ErrorCode::NoToken, detail).about(message.id);
                self.refuse(&owner, &rejection, Some(reply), publish).await
            }
        }
    }
}

/// What the store needs to know of a push beside what the message says.
struct Facts {
    owner: Owner,
    transport: Transport,
    body: Vec<u8>,
    recipient: Recipient,
    receipt: bool,
    reply: String,
}

impl Intake {
    async fn accept(&mut self, message: &Downstream, facts: Facts, publish: Inbound) -> Result<(), StoreError> {
        let (sid, now) = self.context.next_sid();
        let Facts { owner, transport, body, recipient, receipt, reply } = facts;
        let id = message.id.clone().unwrap_or_else(|| MessageId::from(sid));
        let new = NewDelivery {
            sid,
            bal: owner.clone(),
            id: id.clone(),
            recipient,
            receipt: receipt && self.context.hears_of_delivery(&transport),
            transport,
            order: message.order.clone(),
            body: body.into(),
            accepted_at: now,
            deadline_ms: message.deadline_ms(now, publish.expiry),
            reply,
            correlation: publish.correlation,
        };
        let committed = self.context.store.accept(new).await?;
        let context = Arc::clone(&self.context);
        let done = async move { Ok(told(&context, committed.await?, sid, &owner, &id)) };
        self.waiting.push_back((Box::pin(done), publish.ack));
        Ok(())
    }

    async fn receipt(&mut self, owner: Owner, publish: Inbound) -> Result<(), StoreError> {
        match BalReceipt::parse(&publish.payload, &self.context.settings.message) {
            Ok(receipt) => {
                let context = Arc::clone(&self.context);
                let done: Remaining = match receipt {
                    // Asked for at once, so that a crowd of apps shares commits.
                    BalReceipt::Each(sids) => {
                        let committed = context.store.confirm(&owner, sids, now_ms()).await?;
                        Box::pin(async move { Ok(confirmed(&context, &committed.await?)) })
                    }
                    BalReceipt::UpTo(sid) => Box::pin(async move {
                        context.store.acked_up_to(&owner, sid, now_ms()).await?;
                        Ok(Some(AckWord::Done))
                    }),
                };
                self.waiting.push_back((done, publish.ack));
                Ok(())
            }
            Err(rejection) => self.refuse(&owner, &rejection, None, publish).await,
        }
    }

    async fn presence(&mut self, owner: Owner, device: Option<Device>, publish: Inbound) -> Result<(), StoreError> {
        match Presence::parse(&publish.payload, &self.context.settings.message) {
            Ok(presence) => {
                let Inbound { topic, ack, .. } = publish;
                // Nobody to tell means that the bridge stops: without a word the client says it again.
                let _ = self.words.send(Word { owner, device, topic, presence, ack }).await;
                Ok(())
            }
            Err(rejection) => self.refuse(&owner, &rejection, None, publish).await,
        }
    }

    /// Answers input that cannot be taken: an error document, and a `failed` status if its id could be read.
    async fn refuse(
        &mut self,
        owner: &Owner,
        rejection: &Rejection,
        reply: Option<String>,
        publish: Inbound,
    ) -> Result<(), StoreError> {
        self.context.metrics.count(Metric::DownstreamRejected);
        let (code, detail) = (rejection.code().to_string(), rejection.detail());
        let Principal { role, device, proof, .. } = &publish.principal;
        tracing::debug!(target: message_log::TARGET, bal = %owner, ?role, ?device, ?proof, code, detail, "input refused");
        let at = now_ms();
        // What is refused is not remembered, so only its publisher can know that it was answered before.
        let again = publish.dup;
        let mut commits: Vec<Committed<()>> = Vec::with_capacity(2);
        if self.gate.admit(owner, Instant::now().into_std()) == Admission::Publish {
            let document = ErrorDocument::new(rejection, publish.topic.clone(), &publish.payload, at);
            commits.push(error(&self.context, owner.clone(), document.redelivered(again).to_payload(), at).await?);
        }
        if let Some(id) = rejection.ref_id() {
            let rejected = Rejected {
                id: id.clone(),
                reply: reply.unwrap_or_else(|| BridgeTopic::Receipts(owner.clone()).to_string()),
                correlation: publish.correlation,
                code,
                detail: detail.to_owned(),
                at,
                again,
            };
            commits.push(self.context.store.reject(rejected).await?);
        }
        let done = async move {
            for commit in commits {
                commit.await?;
            }
            Ok(Some(AckWord::Done))
        };
        self.waiting.push_back((Box::pin(done), publish.ack));
        Ok(())
    }

    /// Tells owners with more errors than fit into a second how many were left out.
    async fn summaries(&mut self) -> Result<(), StoreError> {
        for suppressed in self.gate.finish(Instant::now().into_std()) {
            let at = now_ms();
            error(&self.context, suppressed.owner, error_summary(suppressed.count, at), at).await?.await?;
        }
        Ok(())
    }
}

fn release(word: Option<AckWord>, ack: Ack) {
    if let Some(word) = word {
        ack.release(word);
    }
}

/// What the sender may ask for. An admin is no BAL: it reads everything and commands the bridge, and has no outbox.
fn sender(principal: &Principal) -> Sender {
    match principal.role {
        Role::Bal => Sender::Bal,
        Role::User | Role::Admin => Sender::User,
    }
}

/// Where statuses go: the inbox, or below the name of the BAL if its MQTT 5 response topic says so. Those of a user never
/// leave the inbox: all devices read them there.
fn reply_topic(owner: &Owner, publish: &Inbound) -> Result<String, Rejection> {
    match publish.response_topic.as_ref().filter(|_| publish.principal.role == Role::Bal) {
        Some(wish) => check_response_topic(owner, wish)
            .map(|()| wish.clone())
            .map_err(|e| Rejection::new(ErrorCode::Forbidden, format!("the response topic {e}"))),
        None => Ok(BridgeTopic::Receipts(owner.clone()).to_string()),
    }
}

async fn error(context: &Context, owner: Owner, document: Vec<u8>, at: u64) -> Result<Committed<()>, StoreError> {
    let topic = BridgeTopic::Errors(owner).to_string();
    context.store.tell(Note { topic, payload: document.into(), correlation: None, at }).await
}

/// Counts and tells what became of a message; the word for its publisher.
fn told(context: &Context, accepted: Accepted, sid: Sid, owner: &Owner, id: &MessageId) -> Option<AckWord> {
    match accepted {
        Accepted::Stored => {
            context.metrics.count(Metric::DownstreamAccepted);
            tracing::debug!(target: message_log::TARGET, bal = %owner, %id, %sid, "message on disk, PUBACK follows");
        }
        Accepted::Repeated(status) => {
            context.metrics.count(Metric::DownstreamRepeated);
            tracing::debug!(target: message_log::TARGET, bal = %owner, %id, ?status, "known message, its last status is told again");
        }
        // An external broker has acknowledged it long ago and would take a refusal for the end of it; left alone, it
        // keeps the message and sends it again.
        Accepted::Full if context.settings.broker == BrokerKind::External => return None,
        Accepted::Full => return Some(AckWord::Quota),
    }
    Some(AckWord::Done)
}

/// What follows from the word of an app that it has pushes.
fn confirmed(context: &Context, pushes: &[(Sid, Recorded)]) -> Option<AckWord> {
    for (_, recorded) in pushes {
        let Recorded::Moved { bal, id, told, .. } = recorded else { continue };
        context.metrics.count(Metric::Receipts);
        for status in *told {
            count_status(&context.metrics, *status);
            tracing::debug!(target: message_log::TARGET, bal, id, ?status, "confirmed by the app: status on disk");
        }
    }
    Some(AckWord::Done)
}
