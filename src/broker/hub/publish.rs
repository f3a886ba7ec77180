//! A message of a client on its way to everybody who gets it, and what its acknowledgement waits for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::Hub;
use super::queue::SharedQueue;
use super::routes::MatchedQueue;
use super::session::Session;
use crate::broker::refusals::Refusal;
use crate::broker::session::{OutgoingMessage, Pushed};
use crate::chat::access::Rights;
use crate::chat::principal::{Principal, Proof, Role};
use crate::chat::qos::QoS;
use crate::chat::topic::Side;
use crate::mqtt::{Ack, AckWord, Inbound};
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metric;
use crate::store::{Committed, Enqueue, Message, QueueId, RowCount, StoreError, Target, WillRef};

/// How long an acknowledgement waits for a queue in memory that is more than half full.
pub(super) const SLOW_QUEUE_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Publisher<'a> {
    /// The session, unless it is the bridge.
    pub(crate) session: Option<&'a Arc<Session>>,
    pub(crate) rights: &'a Rights,
    /// Which of its user's devices it is.
    pub(crate) device: Option<&'a Arc<str>>,
    /// Messages before this one may not be on disk yet.
    pub(crate) follows: bool,
}

/// A message that is for the bridge.
struct ForBridge {
    principal: Principal,
    /// The topic of the publisher's outbox.
    topic: String,
    /// Into whose inbox it was published.
    routed_to: Option<Arc<str>>,
}

impl Publisher<'_> {
    /// Whether only the bridge gets what is published. It checks what a user says of itself, and publishes what others see;
    /// passwords and tokens, also on a topic that is misspelt, are for it alone; and a connection in the background has no
    /// presence, and is told so.
    fn is_unseen(&self, topic: &str) -> bool {
        let Some(session) = self.session else { return false };
        if Side::of(topic).is_command() {
            return true;
        }
        let (side, is_user) = (Side::of(topic), self.rights.role() == Some(Role::User));
        is_user && side.is_unseen_of_user() || session.is_background() && side.is_presence_said()
    }

    /// As whom it publishes on `topic`.
    pub(super) fn principal(&self, topic: &str) -> Option<Principal> {
        let mut principal = self.rights.principal(self.device.cloned(), topic)?;
        principal.background = self.session.is_some_and(|session| session.is_background());
        if principal.has_logged_in() && self.session.is_some_and(|session| session.came_by_token()) {
            principal.proof = Proof::SignedToken;
        }
        Some(principal)
    }

    /// Whether and how a message on `topic` is for the bridge.
    fn for_bridge(&self, topic: &str) -> Option<ForBridge> {
        let routed = self.rights.routed(topic);
        let side = Side::of(topic);
        if routed.is_none() && !matches!(side, Side::Outbox { .. }) && !side.is_command() {
            return None;
        }
        let principal = self.principal(topic)?;
        let written = routed.map_or_else(|| topic.to_owned(), |routed| routed.outbox_of(&principal.name));
        Some(ForBridge { principal, topic: written, routed_to: routed.map(|routed| routed.peer.into()) })
    }
}

#[derive(Debug)]
pub(crate) struct NewPublish {
    pub(crate) message: Message,
    /// It may have come before.
    pub(crate) dup: bool,
    /// At QoS 2: it came before under its identifier, and its readers in memory have it. Those on disk get it now if the
    /// store did not take it then.
    pub(crate) again: bool,
    /// Of a QoS 2 message: its packet identifier.
    pub(crate) exactly_once: Option<u16>,
    /// Where its publisher wants an answer.
    pub(crate) response_topic: Option<String>,
    /// What the answer is to carry.
    pub(crate) correlation: Option<Bytes>,
    /// It is this will, which is on disk.
    pub(crate) will: Option<WillRef>,
}

/// What becomes of a publish.
pub(crate) enum Publishing {
    /// It is on its way.
    Promised(Promise),
    /// It is on its way once this is ready; nothing else of the publisher may pass it.
    Waits(BoxFuture<'static, Result<Promise, NotStored>>),
    /// It was not taken.
    Refused(Refusal),
}

/// What an acknowledgement waits for.
#[derive(Debug, Default)]
pub(crate) struct Promise {
    stored: Option<Committed<bool>>,
    word: Option<oneshot::Receiver<AckWord>>,
    said: Option<AckWord>,
    slow: Vec<Arc<SharedQueue>>,
    room_timeout: Option<Pin<Box<Sleep>>>,
}

/// The message could not be stored, or the bridge dropped it: it has to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotStored;

impl Promise {
    /// That of a message of which the bridge has the last word.
    pub(super) fn when_answered(word: oneshot::Receiver<AckWord>) -> Self {
        Self { word: Some(word), ..Self::default() }
    }

    /// Whether something is on its way to the disk.
    pub(crate) fn goes_by_the_disk(&self) -> bool {
        self.stored.is_some()
    }

    /// Waits until what is to be on disk is there, or will never be.
    pub(super) async fn stored(self) -> bool {
        match self.stored {
            Some(stored) => stored.await.is_ok(),
            None => true,
        }
    }

    /// Ready when everything that the acknowledgement says is true.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<AckWord, NotStored>> {
        if let Some(stored) = &mut self.stored {
            let stored = ready!(Pin::new(stored).poll(cx));
            self.stored = None;
            if stored.is_err() {
                return Poll::Ready(Err(NotStored));
            }
        }
        if let Some(word) = &mut self.word {
            let word = ready!(Pin::new(word).poll(cx));
            self.word = None;
            match word {
                Ok(word) => self.said = Some(word),
                Err(_dropped) => return Poll::Ready(Err(NotStored)),
            }
        }
        ready!(self.poll_slow(cx));
        Poll::Ready(Ok(self.said.unwrap_or(AckWord::Done)))
    }

    /// Waits until the queues in memory have room, for [`SLOW_QUEUE_WAIT`]; then their connections end.
    fn poll_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.slow.retain(|queue| !queue.has_room(cx.waker()));
        if self.slow.is_empty() {
            return Poll::Ready(());
        }
        let room_timeout = self.room_timeout.get_or_insert_with(|| Box::pin(sleep(SLOW_QUEUE_WAIT)));
        ready!(room_timeout.as_mut().poll(cx));
        for queue in self.slow.drain(..) {
            end_slow(&queue);
        }
        Poll::Ready(())
    }
}

/// Ends the connections of a queue that exists in memory alone and is full.
pub(super) fn end_slow(queue: &SharedQueue) {
    for handle in queue.consumers() {
        handle.end(Refusal::SlowConsumer);
    }
}

#[derive(Default)]
pub(super) struct Destinations {
    pub(super) targets: Vec<Target>,
    pub(super) counted: Counted,
    slow: Vec<Arc<SharedQueue>>,
}

/// The queues in which a message is counted as waiting on disk, until it is certain that it comes there.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) queues: Vec<Arc<SharedQueue>>,
    pub(super) bytes: u64,
}

impl Counted {
    /// They count it from now on: the store was asked to keep it.
    pub(super) fn keep(mut self) {
        self.queues.clear();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.left_the_disk(RowCount { rows: 1, bytes: self.bytes });
        }
    }
}

/// What the store is asked to keep.
struct ForDisk {
    message: Enqueue,
    counted: Counted,
    again: bool,
}

impl Hub {
    /// Gives a message to everybody who reads its topic. Whether its publisher may publish there is known to be so.
    pub(crate) fn publish(self: &Arc<Self>, by: Publisher<'_>, publish: NewPublish) -> Publishing {
        let NewPublish { mut message, dup, again, exactly_once, response_topic, correlation, will } = publish;
        let retained = message.retain;
        let is_unseen = by.is_unseen(&message.topic);
        // The bridge may retain what it likes.
        message.retain &= by.session.is_none() || by.rights.may_retain(&message.topic) && !is_unseen;
        let user = by.session.and_then(|session| session.user.as_deref());
        let incoming = by.session.and_then(|session| session.queue.stored()).zip(exactly_once);
        // Only the session that is kept has a connection before this one.
        let again = again && incoming.is_some();
        let retain = match self.retain(&message, user, again) {
            Ok(retain) => retain,
            Err(refusal) => return Publishing::Refused(refusal),
        };
        let inbound = by.for_bridge(&message.topic).map(|ForBridge { principal, topic, routed_to }| {
            let (ack, word) = Ack::new();
            let inbound = Inbound {
                principal,
                topic,
                payload: message.payload.clone(),
                retain: false,
                retained,
                denied: false,
                routed_to,
                at_most_once: message.qos == QoS::AtMostOnce,
                dup,
                expiry: message.expires_at.map(seconds_until),
                response_topic,
                correlation,
                ack,
            };
            (inbound, word)
        });
        let is_routed = inbound.as_ref().is_some_and(|(inbound, _)| inbound.routed_to.is_some());
        let message = Arc::new(message);
        let number = by.session.map(|session| session.queue.number());
        let Destinations { targets, counted, slow } = match again {
            // The bridge alone writes into inboxes.
            _ if is_routed || is_unseen => Destinations::default(),
            true => self.lasting(&message, number),
            false => self.distribute(&message, number, by.follows),
        };
        let message = Enqueue { message, targets, incoming, retain, will };
        self.promise(ForDisk { message, counted, again }, slow, inbound)
    }

    /// Puts a message into the queues of its readers that are in memory, and says which ones on disk get it.
    pub(super) fn distribute(&self, message: &Arc<Message>, publisher: Option<u64>, follows: bool) -> Destinations {
        self.deliver_to(message, self.routes_of(&message.topic, publisher), follows)
    }

    /// The same for these queues of those that read its topic.
    pub(super) fn deliver_to(
        &self,
        message: &Arc<Message>,
        routes: impl IntoIterator<Item = MatchedQueue>,
        follows: bool,
    ) -> Destinations {
        let mut found = Destinations::default();
        found.counted.bytes = message.bytes();
        for MatchedQueue { queue, qos, retain_as_published, ids } in routes {
            let (qos, retain) = (qos.min(message.qos), message.retain && retain_as_published);
            let stored = queue.stored();
            let target = Target { queue: stored.unwrap_or(QueueId(0)), qos, retain, ids };
            // A message at QoS 0 must not pass those before it that are on their way to the disk.
            let by_disk = stored.is_some() && (qos > QoS::AtMostOnce || follows && queue.is_connected());
            if !by_disk {
                self.deliver(message, &queue, target, &mut found.slow);
            } else if qos == QoS::AtMostOnce {
                found.targets.push(target);
            } else if self.has_room_on_disk(&queue, message) {
                found.targets.push(target);
                found.counted.queues.push(queue);
            }
        }
        found
    }

    /// The lasting queues for a message that came before. Whether they have room was asked when it came first.
    fn lasting(&self, message: &Message, publisher: Option<u64>) -> Destinations {
        let routes = self.routes.of(&message.topic, publisher).into_iter();
        let targets = routes.filter_map(|MatchedQueue { queue, qos, retain_as_published, ids }| {
            let (queue, qos, retain) = (queue.stored()?, qos.min(message.qos), message.retain && retain_as_published);
            (qos > QoS::AtMostOnce).then_some(Target { queue, qos, retain, ids })
        });
        Destinations { targets: targets.collect(), ..Destinations::default() }
    }

    /// For a queue that is in memory, or at QoS 0.
    fn deliver(
        &self,
        message: &Arc<Message>,
        queue: &Arc<SharedQueue>,
        target: Target,
        slow: &mut Vec<Arc<SharedQueue>>,
    ) {
        let qos = target.qos;
        let pushed = queue.push(OutgoingMessage::memory(Arc::clone(message), target), self.last_notified());
        if qos == QoS::AtMostOnce {
            if pushed == Pushed::Full {
                self.metrics.count(Metric::BrokerDropped);
            }
        } else if pushed == Pushed::Full {
            end_slow(queue);
        } else if queue.is_above_half() {
            slow.push(Arc::clone(queue));
        }
    }

    /// Whether another message of a client may wait on disk for this queue; counts it.
    pub(super) fn has_room_on_disk(&self, queue: &SharedQueue, message: &Message) -> bool {
        let (rows, bytes) = queue.on_disk();
        let size = message.bytes();
        let fits = rows < self.limits.queued_messages as u64 && bytes + size <= self.limits.queued_bytes as u64;
        if fits {
            queue.waits_on_disk(1, size);
        } else {
            self.report_queue_full(queue);
        }
        fits
    }

    fn promise(
        self: &Arc<Self>,
        for_disk: ForDisk,
        slow: Vec<Arc<SharedQueue>>,
        inbound: Option<(Inbound, oneshot::Receiver<AckWord>)>,
    ) -> Publishing {
        let Enqueue { targets, retain, incoming, will, .. } = &for_disk.message;
        let on_disk = !targets.is_empty() || retain.is_some() || incoming.is_some() || will.is_some();
        if !on_disk && inbound.is_none() {
            return Publishing::Promised(Promise { slow, ..Promise::default() });
        }
        let hub = Arc::clone(self);
        Publishing::Waits(Box::pin(async move {
            let mut promise = Promise { slow, ..Promise::default() };
            let (mut inbound, is_will) = (inbound, for_disk.message.will.is_some());
            // The store forgets a will together with what it makes of it, so the bridge has it on disk before that: after a
            // kill between the two it comes once more instead of never.
            if is_will && let Some(will) = inbound.take() {
                hub.give_bridge(will).await?.await.map_err(|_dropped| NotStored)?;
            }
            if on_disk {
                promise.stored = hub.keep_message(for_disk).await.map_err(|_failed| NotStored)?;
            }
            if let Some(inbound) = inbound {
                promise.word = Some(hub.give_bridge(inbound).await?);
            }
            Ok(promise)
        }))
    }

    /// A bridge that is behind slows its publishers down. A message that it does not take any more is dropped with its
    /// acknowledgement, so that its publisher sends it again.
    pub(super) async fn give_bridge(
        &self,
        (inbound, word): (Inbound, oneshot::Receiver<AckWord>),
    ) -> Result<oneshot::Receiver<AckWord>, NotStored> {
        match self.stop.run_until_cancelled(self.inbound.send(inbound)).await {
            Some(Ok(())) => Ok(word),
            Some(Err(_)) | None => Err(NotStored),
        }
    }

    /// Has the store keep a message. Yields what tells when it is there, unless it is.
    async fn keep_message(self: &Arc<Self>, for_disk: ForDisk) -> Result<Option<Committed<bool>>, StoreError> {
        let ForDisk { message, counted, again } = for_disk;
        let (targets, bytes) = (if again { message.targets.clone() } else { Vec::new() }, message.message.bytes());
        let stored = match message.will {
            Some(_) => self.store.enqueue_will(message).await?,
            None => self.store.enqueue(message).await?,
        };
        counted.keep();
        if !again {
            return Ok(Some(stored));
        }
        let hub = Arc::clone(self);
        let counted = async move {
            if stored.await? {
                let queues = targets.iter().filter_map(|target| hub.registry.stored(target.queue));
                queues.for_each(|queue| queue.waits_on_disk(1, bytes));
            }
            Ok(None)
        };
        // In a task, as the store keeps it even if the connection ends meanwhile.
        self.going_on.spawn(counted).await.unwrap_or(Err(StoreError::Closed))
    }
}

fn seconds_until(at_ms: u64) -> u32 {
    u32::try_from(at_ms.saturating_sub(now_ms()).div_ceil(1_000)).unwrap_or(u32::MAX)
}
