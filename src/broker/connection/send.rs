//! What there is for the client: from its queues through its window to the socket.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::closing::End;
use super::out::{OUT_LIMIT, Out};
use super::settle::Pubrel;
use super::{Connection, SessionGuard};
use crate::broker::hub::{SendQueue, Session, Settling, SharedQueue};
use crate::broker::session::aliases::{Alias, ServerAliases};
use crate::broker::session::{InFlight, OutgoingMessage, Pulled, QueueRef, Sent, Source};
use crate::broker::wire::{self, PublishOut, Version};
use crate::chat::qos::QoS;
use crate::chat::topic::seen_topic;
use crate::mqtt::SetAside;
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metric;
use crate::store::{GivenRow, QueueRow, StoreError, Target};

/// How many messages may be acknowledged by the client and not by the store before no more are sent.
const TAKEN: usize = 4_096;
/// How many bytes of a topic alias a PUBLISH has more (MQTT 5, 3.3.2.3.4).
const ALIAS_BYTES: usize = 3;

pub(super) type Stored<T> = BoxFuture<'static, Result<T, StoreError>>;

/// What one connection is sent.
pub(super) struct Sender {
    /// The queues; the one at `next` is pulled next.
    pub(super) send_queues: Vec<SendQueue>,
    next: usize,
    aliases: ServerAliases,
    /// Reads of the queues that the store has not answered.
    fills: Vec<(QueueRef, Stored<Vec<QueueRow>>)>,
    /// What is sent as soon as the store has the packet identifiers, in its order.
    awaiting_id: Vec<(QueueRef, OutgoingMessage, Option<Sent>)>,
    /// Those identifiers, of the rows with these numbers.
    ids: Vec<(u64, u16)>,
    pub(super) assigning: Option<Stored<()>>,
    /// Rows of a group to delete from the store before they are sent, where the session is not a lasting one.
    leaving: Vec<InFlight>,
    /// Rows of a group that are to become rows of the session's own queue.
    claimed: Option<(Arc<SharedQueue>, Vec<GivenRow>)>,
    pub(super) giving: Option<Stored<u64>>,
    /// The last row that a group gave to the session's own queue; nothing of a group is sent before it. 0: it was sent.
    given: u64,
    /// Acknowledged by the client, or written at QoS 0; the store is not told yet.
    pub(super) taken: Vec<InFlight>,
    /// PUBRELs that leave when their rows are marked on disk: otherwise the message might be sent again after a crash
    /// to a client that was told to forget its identifier.
    pub(super) pubrels: Vec<Pubrel>,
    pub(super) asking: Option<Settling>,
    pub(super) settling: Option<Stored<()>>,
    /// Yields the identifiers and codes of the PUBRELs whose rows are being marked.
    pub(super) releasing: Option<Stored<Vec<(u16, u8)>>>,
}

impl Sender {
    pub(super) fn new(session: &Session, alias_maximum: u16) -> Self {
        Self {
            send_queues: session.send_queues(),
            next: 0,
            aliases: ServerAliases::new(alias_maximum),
            fills: Vec::new(),
            awaiting_id: Vec::new(),
            ids: Vec::new(),
            assigning: None,
            leaving: Vec::new(),
            claimed: None,
            giving: None,
            given: 0,
            taken: Vec::new(),
            pubrels: Vec::new(),
            asking: None,
            settling: None,
            releasing: None,
        }
    }

    /// Whether something was written that the store can be told of now.
    pub(super) fn has_written(&self) -> bool {
        !self.taken.is_empty() && self.asking.is_none() && self.settling.is_none()
    }

    /// Whether the queue of the group may be pulled. The rows that a group gave before are sent first; while rows are
    /// collected to be given, only the same group may add QoS 2 rows, as many as the window has room for.
    fn may_pull(&self, group: &SendQueue, room: usize) -> bool {
        match &self.claimed {
            None => self.has_taken_given(),
            Some((of, rows)) => {
                Arc::ptr_eq(of, &group.queue) && rows.len() < room && group.queue.next_qos() == Some(QoS::ExactlyOnce)
            }
        }
    }

    fn has_taken_given(&self) -> bool {
        self.giving.is_none() && self.given == 0
    }

    /// Ends the reads, and wakes other consumers of the queues, which ask for the same again.
    pub(super) fn abandon(&mut self, session: &Session, handle: &super::ConnectionHandle) {
        self.fills.clear();
        // Also of those that a SUBSCRIBE without its SUBACK added.
        session.send_queues().iter().for_each(|send_queue| send_queue.queue.pass_on(handle));
    }

    /// Moves what the socket has of QoS 0 to the acknowledged: no other acknowledgement comes for it.
    pub(super) fn written(&mut self, out: &mut Out) {
        self.taken.extend(std::iter::from_fn(|| out.next_written()));
    }
}

impl Connection {
    /// Writes what there is, as far as window and socket have room. Yields whether there was anything.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut busy = self.poll_fills(cx)?;
        if self.poll_assigned(cx)?.is_pending() {
            return Ok(busy);
        }
        self.poll_given(cx)?;
        let (now, mut awaiting_bytes) = (now_ms(), 0);
        while !self.out.is_full() && awaiting_bytes < OUT_LIMIT && self.sender.taken.len() < TAKEN {
            let Some((send_queue, pulled)) = self.pull(now) else { break };
            busy = true;
            awaiting_bytes += self.deliver(&send_queue, pulled)?;
        }
        self.assign();
        let _ = self.poll_assigned(cx)?;
        self.give();
        self.poll_given(cx)?;
        self.pass_on();
        if self.ask() {
            busy |= self.poll_fills(cx)?;
        }
        Ok(busy)
    }

    /// What comes next, of each queue in turn.
    fn pull(&mut self, now: u64) -> Option<(SendQueue, Pulled)> {
        let room = self.guard.packet_ids.window.has_room();
        let (count, next) = (self.sender.send_queues.len(), self.sender.next);
        if self.sender.given > 0 && self.guard.session.queue.has_passed(self.sender.given) {
            self.sender.given = 0;
        }
        (0..count).find_map(|step| {
            let at = (next + step) % count;
            let send_queue = &self.sender.send_queues[at];
            if send_queue.member.is_some()
                && !self.sender.may_pull(send_queue, self.guard.packet_ids.window.room_left())
            {
                return None;
            }
            let pulled = send_queue.queue.pull(&self.guard.handle, room, now)?;
            let send_queue = send_queue.clone();
            self.sender.next = at + 1;
            Some((send_queue, pulled))
        })
    }

    /// Sends a message, if it is for this client at all. Yields how many bytes wait for the store.
    fn deliver(&mut self, send_queue: &SendQueue, pulled: Pulled) -> Result<usize, End> {
        let queue_ref = queue_ref(send_queue);
        let item = match pulled {
            Pulled::Send(item) => for_member(item, send_queue),
            // At QoS 2 what was begun comes to its end: the client may know the identifier.
            Pulled::Expired(item) if queue_ref == QueueRef::Own && self.guard.packet_ids.window.knows(&item.source) => {
                item
            }
            Pulled::Expired(item) => {
                self.discard(queue_ref, item);
                return Ok(0);
            }
        };
        if !self.guard.session.queue.may_read(&item.message.topic) {
            self.guard.hub.refusals.metrics().count(Metric::DeliveriesFiltered);
            self.withhold(&send_queue.queue, queue_ref, item);
            return Ok(0);
        }
        let size = wire::publish_size(self.encoding.version, &packet(&item, None));
        if size > self.encoding.max_packet {
            if let Source::Document(reference) = &item.source {
                let (topic, payload) = (Arc::clone(&reference.topic), item.message.payload.clone());
                let document = SetAside { topic, payload, bytes: size, most: self.encoding.max_packet };
                self.guard.hub.too_big(&self.guard.session, document);
            } else {
                // It is dropped (MQTT 5, 3.1.2.11.4).
                self.guard.hub.refusals.metrics().count(Metric::BrokerTooBig);
            }
            self.withhold(&send_queue.queue, queue_ref, item);
            return Ok(0);
        }
        if item.qos == QoS::AtMostOnce {
            return Ok(self.await_id(queue_ref, item, None));
        }
        if queue_ref != QueueRef::Own && item.qos == QoS::ExactlyOnce {
            return self.deliver_for_good(send_queue, item);
        }
        // The window had room: if no identifier is free now, the client is to come again.
        let sent = self.guard.packet_ids.window.take_id(&item, queue_ref).ok_or(End::Broke)?;
        Ok(self.await_id(queue_ref, item, Some(sent)))
    }

    /// At QoS 2 a message is completed with the member of the group that it was sent to, or with nobody ([MQTT-4.8.2-4],
    /// [MQTT-4.8.2-5]): before it is sent it leaves the group, for the queue of a lasting session or for this connection.
    fn deliver_for_good(&mut self, send_queue: &SendQueue, mut item: OutgoingMessage) -> Result<usize, End> {
        if let Source::Row(seq) = item.source {
            if let Some(queue) = self.guard.session.queue.stored() {
                let OutgoingMessage { message, qos, retain, ids, copy, .. } = item;
                let row = GivenRow { seq, message, target: Target { queue, qos, retain, ids }, copy };
                self.sender.claimed.get_or_insert_with(|| (Arc::clone(&send_queue.queue), Vec::new())).1.push(row);
                return Ok(0);
            }
            self.sender.leaving.push(InFlight::unsent(queue_ref(send_queue), &item));
            item.source = Source::Memory;
        }
        let sent = self.guard.packet_ids.window.take_id(&item, QueueRef::Own).ok_or(End::Broke)?;
        Ok(self.await_id(QueueRef::Own, item, Some(sent)))
    }

    /// Has the store move the claimed rows to the session's own queue, from which they are sent.
    pub(super) fn give(&mut self) {
        if let Some((group, rows)) = self.sender.claimed.take() {
            self.sender.giving = Some(self.guard.hub.give(group, &self.guard.session, rows));
        }
    }

    fn poll_given(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if let Some(giving) = &mut self.sender.giving
            && let Poll::Ready(given) = giving.poll_unpin(cx)
        {
            self.sender.giving = None;
            self.sender.given = given.map_err(|_closed| End::NotStored)?;
        }
        Ok(())
    }

    /// This client is not sent the message. A document stays for another subscriber; anything else is acknowledged.
    fn withhold(&mut self, queue: &SharedQueue, queue_ref: QueueRef, item: OutgoingMessage) {
        match &item.source {
            Source::Document(reference) => queue.set_aside(reference),
            _ => self.discard(queue_ref, item),
        }
    }

    fn discard(&mut self, queue_ref: QueueRef, item: OutgoingMessage) {
        if queue_ref == QueueRef::Own {
            self.guard.packet_ids.window.forget(&item.source);
        }
        self.sender.taken.push(InFlight::unsent(queue_ref, &item));
    }

    /// Sends a message, or puts it behind one whose packet identifier the store has to have first. Yields the bytes that wait.
    fn await_id(&mut self, queue_ref: QueueRef, item: OutgoingMessage, sent: Option<Sent>) -> usize {
        if let (Source::Row(seq), Some(Sent { id, must_store: true, .. })) = (&item.source, sent) {
            self.sender.ids.push((*seq, id));
        }
        if self.sender.ids.is_empty() && self.sender.leaving.is_empty() {
            self.send(queue_ref, item, sent);
            return 0;
        }
        let size = item.size();
        self.sender.awaiting_id.push((queue_ref, item, sent));
        size
    }

    fn send(&mut self, queue_ref: QueueRef, item: OutgoingMessage, sent: Option<Sent>) {
        self.write(&item, sent);
        // At QoS 0 the bytes on the socket are the acknowledgement.
        if sent.is_none() && item.source != Source::Memory {
            self.out.watch(InFlight::unsent(queue_ref, &item));
        }
    }

    fn write(&mut self, item: &OutgoingMessage, sent: Option<Sent>) {
        let mut publish = packet(item, sent);
        let size = wire::publish_size(self.encoding.version, &publish);
        let fits = size.saturating_add(ALIAS_BYTES) <= self.encoding.max_packet;
        let alias = if fits && self.encoding.version == Version::V5 {
            self.sender.aliases.of(&item.message.topic)
        } else {
            None
        };
        match alias {
            Some(Alias::New(alias)) => publish.alias = Some(alias),
            Some(Alias::Known(alias)) => (publish.alias, publish.topic) = (Some(alias), ""),
            None => {}
        }
        wire::publish(self.out.buffer(), self.encoding.version, &publish);
    }

    /// Has the store learn the packet identifiers of what awaits them (`awaiting_id`), or that a group has it no longer.
    pub(super) fn assign(&mut self) {
        let (ids, leaving) = (mem::take(&mut self.sender.ids), mem::take(&mut self.sender.leaving));
        if let (false, Some(queue)) = (ids.is_empty(), self.guard.session.queue.stored()) {
            let store = self.guard.hub.store.clone();
            self.sender.assigning = Some(Box::pin(async move { store.assign(queue, ids).await?.await }));
        } else if !leaving.is_empty() {
            let asking = self.guard.hub.acknowledged(&self.guard.session, leaving, true);
            self.sender.assigning = asking.map(|asking| async { asking.await?.await }.boxed());
        }
    }

    /// Ready when nothing waits for the store to learn its packet identifier; what did is written.
    fn poll_assigned(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        if let Some(assigning) = &mut self.sender.assigning {
            let Poll::Ready(assigned) = assigning.poll_unpin(cx) else { return Ok(Poll::Pending) };
            assigned.map_err(|_closed| End::NotStored)?;
            self.sender.assigning = None;
        }
        for (queue_ref, item, sent) in mem::take(&mut self.sender.awaiting_id) {
            self.send(queue_ref, item, sent);
        }
        Ok(Poll::Ready(()))
    }

    /// Other members of the groups may be sent what this client has no room for.
    fn pass_on(&self) {
        let is_free = self.sender.assigning.is_none() && self.sender.has_taken_given();
        let has_room = !self.out.is_full() && is_free && self.guard.packet_ids.window.has_room();
        for send_queue in self.sender.send_queues.iter().filter(|send_queue| !has_room && send_queue.member.is_some()) {
            send_queue.queue.pass_on(&self.guard.handle);
        }
    }

    /// Asks the store for what the queues lack. Yields whether anything was asked.
    fn ask(&mut self) -> bool {
        let SessionGuard { hub, session, .. } = &self.guard;
        let Sender { send_queues, fills, .. } = &mut self.sender;
        let before = fills.len();
        fills.extend(send_queues.iter().filter_map(|send_queue| {
            let read = send_queue.queue.next_read()?;
            Some((queue_ref(send_queue), hub.fill(session, Arc::clone(&send_queue.queue), read)))
        }));
        fills.len() > before
    }

    /// Yields whether an answer of the store came.
    fn poll_fills(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut answered = Vec::new();
        self.sender.fills.retain_mut(|(queue_ref, fill)| match fill.poll_unpin(cx) {
            Poll::Pending => true,
            Poll::Ready(rows) => {
                answered.push((*queue_ref, rows));
                false
            }
        });
        let any = !answered.is_empty();
        for (queue_ref, rows) in answered {
            let rows = rows.map_err(|_closed| End::NotStored)?;
            // Identifiers from before a restart, known before the rows are sent.
            for row in rows.iter().filter(|_| queue_ref == QueueRef::Own) {
                let released = self.guard.packet_ids.window.restore(row);
                self.sender.pubrels.extend(released.map(|id| Pubrel { id, code: 0, row: None }));
            }
        }
        Ok(any)
    }
}

fn queue_ref(send_queue: &SendQueue) -> QueueRef {
    if send_queue.member.is_some() { QueueRef::Group(send_queue.queue.number()) } else { QueueRef::Own }
}

/// What a group is sent goes to a member as that asked for it.
fn for_member(mut item: OutgoingMessage, send_queue: &SendQueue) -> OutgoingMessage {
    if let Some(member) = &send_queue.member {
        item.qos = item.qos.min(member.qos);
        item.retain &= member.retain_as_published;
        item.ids = member.id.into_iter().collect();
    }
    item
}

/// The PUBLISH of a message; its expiry is what is left of it.
fn packet(item: &OutgoingMessage, sent: Option<Sent>) -> PublishOut<'_> {
    let message = &item.message;
    let left = message.expires_at.map(|at| at.saturating_sub(now_ms()).div_ceil(1_000));
    PublishOut {
        dup: sent.is_some_and(|sent| sent.dup),
        qos: item.qos,
        retain: item.retain,
        topic: seen_topic(&message.topic),
        id: sent.map_or(0, |sent| sent.id),
        alias: None,
        expiry_s: left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
        subscriptions: &item.ids,
        properties: &message.properties,
        payload: &message.payload,
    }
}
