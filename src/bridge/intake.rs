//! Downstream, first half: a client's publish is parsed, decided, committed, and only then acknowledged.
//!
//! Publishes are handled in the order of arrival, and many wait for their commit at one time ([`waiting`]). A
//! full queue, a slow disk or a stop all look the same to a publisher: no acknowledgement yet. Where the queue is full, nothing
//! of BALs is taken, so that their order is kept; what chat users write goes on, for their pushes can be decided later. A
//! broker of others sends only so much without an acknowledgement, and wants those in order: there pushes of BALs are refused
//! instead ([`without_room`]), or chat would wait behind them.

mod delayed;
mod denied;
mod direct;
mod downstream;
mod waiting;
mod without_room;

use super::chat::{ChatIntake, KeptCopies, Schedule, is_for_group};
use super::commands;
use super::context::Context;
use super::presence::{self, PresencePublish, PresenceWord};
use super::refused_names::RefusedNames;
use super::refusing::{Refused, Refusing, error};
use crate::chat::erasure::is_reserved;
use crate::chat::id::Owner;
use crate::chat::message::{BridgeEvent, ErrorCode, ErrorDocument, Presence, Rejection, document_id};
use crate::chat::principal::{Principal, Role};
use crate::chat::suffix::receipts::names_messages;
use crate::chat::topic::{BridgeTopic, ChatTopic, ClientTopic, Device, Suffix, is_command_topic};
use crate::mqtt::{Ack, AckWord, Inbound, InboundQueues, Notice, SetAside};
use crate::ops::clock::{at, now_ms};
use crate::ops::metrics::Metric;
use crate::store::StoreError;
use bytes::Bytes;
use delayed::AckTime;
pub(super) use downstream::confirmed;
use futures_util::TryFutureExt;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use waiting::{Order, Taken, Waiting, too_many_behind};

/// How often a stopped intake looks whether there is room again.
const ROOM_CHECK: Duration = Duration::from_millis(100);

/// What remains to be done for one publish: its commits; then the word for its publisher.
pub(super) type Remaining = BoxFuture<'static, Result<Option<AckWord>, StoreError>>;

/// Why a publish is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeError {
    #[error(transparent)]
    Input(#[from] Rejection),
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) struct Intake {
    context: Arc<Context>,
    refusing: Refusing,
    chat: ChatIntake,
    kept_copies: KeptCopies,
    refused_names: RefusedNames,
    /// The queue is full, and has had no room to spare since.
    is_stopped: bool,
    /// For what admins ask.
    commanded: mpsc::Sender<Bytes>,
}

impl Intake {
    pub(super) fn new(context: Arc<Context>, commanded: mpsc::Sender<Bytes>) -> Self {
        let refusing = Refusing::new(Arc::clone(&context));
        let chat = ChatIntake::new(Arc::clone(&context), refusing.clone());
        let (kept_copies, refused_names) = (KeptCopies::default(), RefusedNames::default());
        Self { context, refusing, chat, kept_copies, refused_names, is_stopped: false, commanded }
    }

    /// Sends what users and BALs have written to be sent at a time.
    pub(super) fn schedule(&self) -> Schedule {
        self.chat.schedule()
    }

    /// Works until `stop`, then finishes what is on its way to the disk. What is still in `inbound`, and comes until
    /// `quiet`, is not acknowledged: its publisher sends it again. `outboxes` is what users wrote by another way than MQTT.
    pub(super) async fn run(
        mut self,
        (mut inbound, mut outboxes): (InboundQueues, mpsc::Receiver<Inbound>),
        mut notices: mpsc::Receiver<Notice>,
        stop: CancellationToken,
        quiet: CancellationToken,
    ) -> Result<(), StoreError> {
        let limit = self.context.settings.limits.inflight_publishes;
        let mut waiting = Waiting::default();
        // A publisher whose acknowledgement is dropped is cut off, and may still have documents of ours to acknowledge.
        let mut unanswered = Vec::new();
        loop {
            let (summaries, has_room) = (self.refusing.deadline(), self.has_room());
            let takes_bals = has_room || self.refuses_pushes();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                (done, ack) = waiting.next() => release(done?, ack),
                () = at(summaries) => waiting.beside(self.refusing.summaries()).await?,
                due = self.chat.calls_due() => {
                    let (now, due) = due?;
                    for over in waiting.beside(self.chat.end_calls(now, due)).await? {
                        waiting.push(Order::Free, None, over);
                    }
                }
                Some(notice) = notices.recv() => match notice {
                    Notice::SetAside(document) => waiting.beside(self.set_aside(&document)).await?,
                    Notice::QueueFull { session, refused } => {
                        self.context.emit_event(BridgeEvent::QueueFull { session: session.to_string(), refused });
                    }
                    Notice::SessionLost => {
                        self.context.emit_event(BridgeEvent::SessionLost);
                        waiting.beside(presence::session_lost(&self.context)).await?;
                    }
                    Notice::SessionShort { seconds, asked } => {
                        self.context.emit_event(BridgeEvent::SessionShort { seconds, asked });
                    }
                },
                Some(publish) = outboxes.recv(), if waiting.len() < limit => self.begin(&mut waiting, publish).await?,
                next = inbound.next(takes_bals), if waiting.len() < limit => match next {
                    Some(publish) if self.comes_again(&publish) => {}
                    Some(publish) => self.begin(&mut waiting, publish).await?,
                    None => break,
                },
                () = tokio::time::sleep(ROOM_CHECK), if !has_room => {}
            }
        }
        // What is still in it comes again by the way by which it came.
        outboxes.close();
        while outboxes.try_recv().is_ok() {}
        waiting.end_delays();
        while !waiting.is_empty() {
            let (word, ack) = waiting.next().await;
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

    /// Whether pushes of BALs are taken: not from a full queue on until it has room to spare.
    fn has_room(&mut self) -> bool {
        if !self.is_stopped && !self.context.queue_has_room() {
            tracing::error!("the queue is full: no pushes of BALs are taken until the push service has taken some");
            self.context.queue_full.store(true, Ordering::Relaxed);
            self.is_stopped = true;
        } else if self.is_stopped && self.context.queue_has_slack() {
            self.context.queue_full.store(false, Ordering::Relaxed);
            tracing::info!("the queue has room again");
            self.is_stopped = false;
        }
        !self.is_stopped
    }

    /// Whether a broker of others sends a publish once more: the connection on which it came has ended without a word for it.
    /// To take this copy as well would be to do it twice. The publishers of the embedded broker are clients, of which nobody
    /// knows whether they come back.
    fn comes_again(&self, publish: &Inbound) -> bool {
        !self.context.broker.answers_publishers && !publish.at_most_once && publish.ack.is_dead()
    }

    /// Begins with a publish, beside those that wait.
    async fn begin(&mut self, waiting: &mut Waiting, publish: Inbound) -> Result<(), StoreError> {
        let is_delayed = publish.principal.role == Role::User && !publish.principal.writes_by_push_service();
        if is_delayed && waiting.is_in_debt(&publish.principal.name) {
            // Without a word its publisher is cut off, and what was not read cost no more than that.
            tracing::debug!(
                user = &*publish.principal.name,
                "publish not taken: too many of this user wait for their PUBACK"
            );
            return Ok(());
        }
        let has_too_many = waiting.has_too_many(&publish.principal.name);
        let taken = waiting.beside(self.take(publish, has_too_many)).await?;
        waiting.extend(taken);
        Ok(())
    }

    /// Begins with a publish; what remains of it goes on beside others. `has_too_many`: nothing of this user may wait behind
    /// another one.
    async fn take(&mut self, publish: Inbound, has_too_many: bool) -> Result<Option<Taken>, StoreError> {
        if publish.retain {
            self.context.bal_presences.kept_copy_came(Instant::now());
        }
        if publish.denied {
            return self.denied(publish).await;
        }
        if is_command_topic(&publish.topic) {
            self.command(publish);
            return Ok(None);
        }
        let Some(publish) = self.as_written(publish).await else { return Ok(None) };
        let Some(topic) = self.topic_of(&publish).await else {
            publish.ack.release(AckWord::Done);
            return Ok(None);
        };
        if self.context.store.is_erased(topic.owner().as_str()) {
            return self.left_out(publish.ack).await.map(Some);
        }
        let mut delay = Duration::ZERO;
        if publish.principal.role == Role::User {
            // A name that is said without a proof makes nobody exist.
            if !publish.principal.is_direct() {
                self.chat.heard_of(topic.owner()).await?;
            }
            delay = self.chat.delay(topic.owner());
        }
        if !delay.is_zero() && publish.at_most_once {
            publish.ack.release(AckWord::Done);
            return Ok(None);
        }
        let order = self.order(&topic, &publish);
        let taken = match &topic {
            ClientTopic::Presence(owner, device) => match self.presence(&topic, device.as_ref(), &publish) {
                Ok(presence) => {
                    let (owner, device) = (owner.clone(), device.clone());
                    let said = PresencePublish { owner, device, presence, ack: publish.ack };
                    if publish.principal.role == Role::Bal && !self.context.broker.sees_clients {
                        let told = presence::bal_said(&self.context, said, publish.retain).await?;
                        return Ok(Some((Order::Free, None, told)));
                    }
                    // Nobody to tell means that the bridge stops: without a word the client says it again.
                    let _ = self.context.presences.send(PresenceWord::Said(said)).await;
                    return Ok(None);
                }
                Err(rejection) => Err(rejection.into()),
            },
            _ if has_too_many && matches!(order, Order::OfUser(_)) => Err(too_many_behind(&publish.payload).into()),
            topic => self.taken(topic, &publish).await,
        };
        let (order, remaining) = match taken {
            Ok(remaining) => (order, remaining),
            Err(TakeError::Input(rejection)) => {
                let refused = self.refusing.refuse(topic.owner(), &rejection, &Refused::of(&publish)).await?;
                // Nothing was done that the user's next one could come too early for.
                (if matches!(order, Order::OfUser(_)) { Order::Free } else { order }, refused)
            }
            Err(TakeError::Store(error)) => return Err(error),
        };
        // A broker of others has acknowledged it long ago, and would be held up with what it sends of everybody else; so would a
        // push service.
        let holds_up_others = !self.context.broker.answers_publishers || publish.principal.writes_by_push_service();
        let is_late = !delay.is_zero() && !holds_up_others;
        let ack_time = is_late.then(|| AckTime { at: Instant::now() + delay, user: topic.owner().clone() });
        Ok(Some((order, ack_time, (remaining, publish.ack))))
    }

    /// What comes in the name of a person who is erased is left out. The name is taken a moment before that is on disk; the
    /// publisher is told when it is.
    async fn left_out(&self, ack: Ack) -> Result<Taken, StoreError> {
        let committed = self.context.store.erases().await?;
        Ok((Order::Free, None, (Box::pin(committed.map_ok(|_| Some(AckWord::Done))), ack)))
    }

    /// What somebody says of its presence.
    fn presence(
        &self,
        topic: &ClientTopic,
        device: Option<&Device>,
        publish: &Inbound,
    ) -> Result<Option<Presence>, Rejection> {
        let forbidden = |detail| Err(Rejection::new(ErrorCode::Forbidden, detail));
        if publish.principal.background {
            return forbidden("a connection in the background (`:bg`) has no presence");
        }
        if device.is_some_and(|device| is_of_another(&publish.principal, device)) {
            return forbidden("`presence/` is followed by the name of another device");
        }
        check_size(topic, publish)?;
        Presence::parse(&publish.payload, &self.context.settings.limits.message())
    }

    /// For what a publish has to wait.
    fn order(&self, topic: &ClientTopic, publish: &Inbound) -> Order {
        match (topic, publish.principal.role) {
            // Its push service hands over one after the other of a device; it waits for nothing that its user publishes elsewhere.
            (_, Role::User) if publish.principal.writes_by_push_service() => Order::Free,
            // What a request does and its answer are several steps, and the next request may take them back.
            (_, Role::Bal | Role::Admin) => Order::Kept,
            (ClientTopic::Chat(user, ChatTopic::Requests(_)), Role::User) => Order::OfUser(user.clone()),
            (ClientTopic::Messages(user), Role::User) if self.chat.keeps_order() || is_for_group(publish) => {
                Order::OfUser(user.clone())
            }
            // What follows an offer is of a call only once the gatekeeper has answered.
            (ClientTopic::Chat(user, ChatTopic::Calls), Role::User) if self.chat.keeps_order() => {
                Order::OfUser(user.clone())
            }
            (_, Role::User) => Order::Free,
        }
    }

    /// Passes on what an admin asks. Nothing of it is kept: without a reply it is asked again.
    fn command(&self, publish: Inbound) {
        let Inbound { principal, payload, retain, ack, .. } = publish;
        // A retained copy is an old command.
        if principal.role == Role::Admin && principal.has_logged_in() && !retain {
            commands::ask(&self.context, &self.commanded, payload);
        }
        ack.release(AckWord::Done);
    }

    /// The topic of what a client says now; `None` where nobody does, or where the topic names nobody.
    async fn topic_of(&mut self, publish: &Inbound) -> Option<ClientTopic> {
        // A name that cannot be a topic level has no inbox that an error could go to.
        let topic = ClientTopic::parse(&publish.topic).ok()??;
        if is_reserved(topic.owner().as_str()) {
            return None;
        }
        // A retained copy is an old message that was dealt with when it was new; presence is meant to be retained.
        if publish.retain && !may_be_retained(&topic) {
            if publish.principal.role == Role::User && !publish.payload.is_empty() {
                self.kept_copies.clear(&self.context, &publish.topic).await;
            }
            return None;
        }
        (!self.kept_copies.is_own_clear(publish)).then_some(topic)
    }

    /// What a client says on any topic but presence.
    async fn taken(&mut self, topic: &ClientTopic, publish: &Inbound) -> Result<Remaining, TakeError> {
        let is_user = publish.principal.role == Role::User;
        check_size(topic, publish)?;
        match topic {
            // Of a BAL the flag is ignored.
            _ if is_user && publish.retained && !may_be_retained(topic) => {
                let rejection = Rejection::bad_field("retain", "is set, and this topic is not retained");
                Err(rejection.about(document_id(&publish.payload)).into())
            }
            // Users write to users and BALs. What a BAL writes is a push, unless it has nothing but a name.
            ClientTopic::Messages(owner) if is_user => {
                let taken = self.chat.message(owner, publish).await;
                if let Err(TakeError::Input(rejection)) = &taken {
                    self.refused_names.tell(rejection, &publish.principal);
                }
                taken
            }
            ClientTopic::Messages(owner) => self.message(owner, publish).await,
            ClientTopic::Receipts(owner) if is_user || names_messages(&publish.payload) => {
                self.chat.receipt(owner, publish).await
            }
            ClientTopic::Receipts(owner) => self.receipt(owner, publish).await,
            ClientTopic::Chat(owner, chat) => self.chat.take(owner, chat, publish).await,
            ClientTopic::Other(owner, suffix) if !is_user && suffix.is_replies() => {
                self.chat.gatekeeper_answers(owner, &publish.payload).unwrap_or(Ok(()))?;
                Ok(Box::pin(std::future::ready(Ok(Some(AckWord::Done)))))
            }
            ClientTopic::Other(_, suffix) if concerns(&publish.principal, suffix) => {
                self.context.metrics.count(Metric::UnknownTopics);
                let rejection = Rejection::new(ErrorCode::UnknownTopic, suffix.fault());
                // A user may wait for the answer to a request.
                let id = document_id(&publish.payload).filter(|_| is_user);
                Err(rejection.about(id).into())
            }
            ClientTopic::Other(..) | ClientTopic::Presence(..) => {
                Ok(Box::pin(std::future::ready(Ok(Some(AckWord::Done)))))
            }
        }
    }

    /// Tells the operator and the owner of a document that a reader could not take it. Of error documents nothing is said:
    /// what is said of one would be an error document as well.
    async fn set_aside(&mut self, document: &SetAside) -> Result<(), StoreError> {
        let SetAside { topic, payload, bytes, most } = document;
        let owner = match BridgeTopic::parse(topic) {
            Ok(Some(BridgeTopic::Errors(_))) => return Ok(()),
            _ => topic.split('/').next().and_then(|owner| Owner::new(owner).ok()),
        };
        let Some(owner) = owner.filter(|owner| self.refusing.admits(owner)) else {
            return Ok(());
        };
        let (id, at) = (document_id(payload), now_ms());
        let (who, until) = match self.context.broker.takes_documents {
            true => ("its reader takes", "for a reader that takes more"),
            false => ("the broker takes", "until the broker takes more"),
        };
        let detail =
            format!("{who} packets of at most {most} bytes, and the document makes one of {bytes}; it waits {until}");
        let topic = topic.to_string();
        let rejection = Rejection::new(ErrorCode::SetAside, detail).about(id.clone());
        let told = ErrorDocument::new(&rejection, topic.clone(), payload, at).to_payload();
        let id = id.map(|id| id.to_string());
        self.context.emit_event(BridgeEvent::DocumentSetAside { topic, id, bytes: *bytes, most: *most });
        error(&self.context, &owner, told, at).await?.await
    }
}

/// Whether a user speaks for a device that is another one than that of the connection, where that is known.
fn is_of_another(principal: &Principal, device: &Device) -> bool {
    principal.role == Role::User && principal.device.as_deref().is_some_and(|own| own != device.as_str())
}

/// What is meant to be retained, and is read as it is published.
fn may_be_retained(topic: &ClientTopic) -> bool {
    topic.rules().is_some_and(|rules| rules.retained)
}

/// Whether a user may write so much there. What a BAL writes has the limits of topics.md for BALs.
fn check_size(topic: &ClientTopic, publish: &Inbound) -> Result<(), Rejection> {
    match topic.rules() {
        Some(rules) if publish.principal.role == Role::User && publish.payload.len() > rules.max_bytes => {
            let detail = format!("the payload is longer than {} bytes", rules.max_bytes);
            Err(Rejection::new(ErrorCode::TooBig, detail).about(document_id(&publish.payload)))
        }
        _ => Ok(()),
    }
}

/// Whether a publish below `self/` that has no meaning is an error. What a BAL writes there is for the bridge; chat users
/// may use such topics among themselves, unless the name looks like a typing error.
fn concerns(principal: &Principal, suffix: &Suffix) -> bool {
    !suffix.is_reserved() && (principal.role == Role::Bal || suffix.nearest().is_some())
}

pub(super) fn release(word: Option<AckWord>, ack: Ack) {
    if let Some(word) = word {
        ack.release(word);
    }
}
