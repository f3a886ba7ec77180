//! What there is for the client: from its queues through its window to the socket.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::farewell::End;
use super::out::{OUT_LIMIT, Out};
use super::{Connection, Seat};
use crate::broker::hub::{Feed, Session, SharedQueue};
use crate::broker::session::aliases::{Alias, Outward};
use crate::broker::session::{Flight, Item, Lane, Pulled, Sent, Source};
use crate::broker::wire::{self, AckKind, PublishOut, Version};
use crate::chat::qos::QoS;
use crate::mqtt::SetAside;
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metric;
use crate::store::{QueueRow, StoreError};

/// How many messages may be acknowledged by the client and not by the store before no more are sent.
const TAKEN: usize = 4_096;
/// How many bytes of a topic alias a PUBLISH has more (MQTT 5, 3.3.2.3.4).
const ALIAS_BYTES: usize = 3;

type Stored<T> = BoxFuture<'static, Result<T, StoreError>>;

/// What one connection is sent.
pub(super) struct Sender {
    /// The queues; the next turn is that of `turn`.
    pub(super) feeds: Vec<Feed>,
    turn: usize,
    aliases: Outward,
    /// Questions of the queues to the store.
    fills: Vec<(Lane, Stored<Vec<QueueRow>>)>,
    /// What is sent as soon as the store has the packet identifiers, in its order.
    staged: Vec<(Lane, Item, Option<Sent>)>,
    /// Those identifiers, of the rows with these numbers.
    ids: Vec<(u64, u16)>,
    assigning: Option<Stored<()>>,
    /// What the client has.
    pub(super) taken: Vec<Flight>,
    /// Rows for which PUBREC came.
    pub(super) released: Vec<u64>,
    settling: Option<Stored<()>>,
}

impl Sender {
    pub(super) fn new(session: &Session, alias_maximum: u16) -> Self {
        Self {
            feeds: session.feeds(),
            turn: 0,
            aliases: Outward::new(alias_maximum),
            fills: Vec::new(),
            staged: Vec::new(),
            ids: Vec::new(),
            assigning: None,
            taken: Vec::new(),
            released: Vec::new(),
            settling: None,
        }
    }

    /// Whether something was written that the store can be told of now.
    pub(super) fn has_written(&self) -> bool {
        !self.taken.is_empty() && self.settling.is_none()
    }

    /// Nothing more is sent: who else reads the queues asks for what they lack, and takes it.
    pub(super) fn abandon(&mut self, link: &super::Link) {
        self.fills.clear();
        self.feeds.iter().for_each(|feed| feed.queue.pass_on(link));
    }

    /// What was watched for is on the socket: nothing else will be heard of it.
    pub(super) fn written(&mut self, out: &mut Out) {
        self.taken.extend(std::iter::from_fn(|| out.next_written()));
    }
}

impl Connection {
    /// Begins with what was half done on a connection before this one.
    pub(super) fn resume(&mut self) {
        for id in self.seat.own.window.released() {
            self.say(AckKind::Pubrel, id, 0, None);
        }
    }

    /// Writes what there is, as far as window and socket have room. Yields whether there was anything.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut busy = self.poll_fills(cx)?;
        if self.poll_assigned(cx)?.is_pending() {
            return Ok(busy);
        }
        let (now, mut staged) = (now_ms(), 0);
        while !self.out.is_full() && staged < OUT_LIMIT && self.sender.taken.len() < TAKEN {
            let Some((feed, pulled)) = self.pull(now) else { break };
            busy = true;
            staged += self.deliver(&feed, pulled)?;
        }
        self.assign();
        let _ = self.poll_assigned(cx)?;
        self.pass_on();
        if self.ask() {
            busy |= self.poll_fills(cx)?;
        }
        Ok(busy)
    }

    /// What comes next, of each queue in turn.
    fn pull(&mut self, now: u64) -> Option<(Feed, Pulled)> {
        let room = self.seat.own.window.has_room();
        let Sender { feeds, turn, .. } = &mut self.sender;
        let count = feeds.len();
        (0..count).find_map(|step| {
            let at = (*turn + step) % count;
            let feed = &feeds[at];
            let pulled = feed.queue.pull(&self.seat.link, room, now)?;
            *turn = at + 1;
            Some((feed.clone(), pulled))
        })
    }

    /// Sends an item, if it is for this client at all. Yields how many bytes wait for the store.
    fn deliver(&mut self, feed: &Feed, pulled: Pulled) -> Result<usize, End> {
        let lane = lane(feed);
        let item = match pulled {
            Pulled::Item(item) => for_member(item, feed),
            Pulled::Expired(item) => {
                self.discard(lane, item);
                return Ok(0);
            }
        };
        if !self.rights.may_read(&item.message.topic) {
            self.seat.hub.refusals.metrics().count(Metric::DeliveriesFiltered);
            self.withhold(&feed.queue, lane, item);
            return Ok(0);
        }
        let size = wire::publish_size(self.form.version, &packet(&item, None));
        if size > self.form.max_packet {
            if let Source::Document(reference) = &item.source {
                let (topic, payload) = (Arc::clone(&reference.topic), item.message.payload.clone());
                let document = SetAside { topic, payload, bytes: size, most: self.form.max_packet };
                self.seat.hub.too_big(&self.seat.session, document);
            } else {
                // It is dropped (MQTT 5, 3.1.2.11.4).
                self.seat.hub.refusals.metrics().count(Metric::BrokerTooBig);
            }
            self.withhold(&feed.queue, lane, item);
            return Ok(0);
        }
        if item.qos == QoS::AtMostOnce {
            return Ok(self.stage(lane, item, None));
        }
        // The window had room: if no identifier is free now, the client is to come again.
        let sent = self.seat.own.window.take_id(&item, lane).ok_or(End::Broke)?;
        Ok(self.stage(lane, item, Some(sent)))
    }

    /// The client is not sent this: another reader is to have the document, and of anything else it is rid.
    fn withhold(&mut self, queue: &SharedQueue, lane: Lane, item: Item) {
        match &item.source {
            Source::Document(reference) => queue.set_aside(reference),
            _ => self.discard(lane, item),
        }
    }

    fn discard(&mut self, lane: Lane, item: Item) {
        if lane == Lane::Own {
            self.seat.own.window.forget(&item.source);
        }
        self.sender.taken.push(Flight::unsent(lane, &item));
    }

    /// Sends an item, or puts it behind one whose packet identifier the store has to have first. Yields the bytes that wait.
    fn stage(&mut self, lane: Lane, item: Item, sent: Option<Sent>) -> usize {
        if let (Source::Row(seq), Some(Sent { id, must_store: true, .. })) = (&item.source, sent) {
            self.sender.ids.push((*seq, id));
        }
        if self.sender.ids.is_empty() {
            self.send(lane, item, sent);
            return 0;
        }
        let size = item.size();
        self.sender.staged.push((lane, item, sent));
        size
    }

    fn send(&mut self, lane: Lane, item: Item, sent: Option<Sent>) {
        self.write(&item, sent);
        // At QoS 0 nothing else will be heard of it, and it is kept somewhere.
        if sent.is_none() && item.source != Source::Memory {
            self.out.watch(Flight::unsent(lane, &item));
        }
    }

    fn write(&mut self, item: &Item, sent: Option<Sent>) {
        let mut publish = packet(item, sent);
        let size = wire::publish_size(self.form.version, &publish);
        let fits = size.saturating_add(ALIAS_BYTES) <= self.form.max_packet;
        let alias =
            if fits && self.form.version == Version::V5 { self.sender.aliases.of(&item.message.topic) } else { None };
        match alias {
            Some(Alias::New(alias)) => publish.alias = Some(alias),
            Some(Alias::Known(alias)) => (publish.alias, publish.topic) = (Some(alias), ""),
            None => {}
        }
        wire::publish(self.out.buffer(), self.form.version, &publish);
    }

    /// Has the store learn the packet identifiers of what is staged.
    fn assign(&mut self) {
        let ids = mem::take(&mut self.sender.ids);
        if let (false, Some(queue)) = (ids.is_empty(), self.seat.session.queue.stored()) {
            let store = self.seat.hub.store.clone();
            self.sender.assigning = Some(Box::pin(async move { store.assign(queue, ids).await?.await }));
        }
    }

    /// Ready when nothing waits for the store to learn its packet identifier; what did is written.
    fn poll_assigned(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        if let Some(assigning) = &mut self.sender.assigning {
            let Poll::Ready(assigned) = assigning.poll_unpin(cx) else { return Ok(Poll::Pending) };
            assigned.map_err(|_closed| End::NotStored)?;
            self.sender.assigning = None;
        }
        for (lane, item, sent) in mem::take(&mut self.sender.staged) {
            self.send(lane, item, sent);
        }
        Ok(Poll::Ready(()))
    }

    /// Other members of the groups may be sent what this client has no room for.
    fn pass_on(&self) {
        let has_room = !self.out.is_full() && self.sender.assigning.is_none() && self.seat.own.window.has_room();
        for feed in self.sender.feeds.iter().filter(|feed| !has_room && feed.member.is_some()) {
            feed.queue.pass_on(&self.seat.link);
        }
    }

    /// Asks the store for what the queues lack. Yields whether anything was asked.
    fn ask(&mut self) -> bool {
        let Seat { hub, session, .. } = &self.seat;
        let Sender { feeds, fills, .. } = &mut self.sender;
        let before = fills.len();
        fills.extend(feeds.iter().filter_map(|feed| {
            let read = feed.queue.next_read()?;
            Some((lane(feed), hub.fill(session, Arc::clone(&feed.queue), read)))
        }));
        fills.len() > before
    }

    /// Yields whether an answer of the store came.
    fn poll_fills(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut answered = Vec::new();
        self.sender.fills.retain_mut(|(lane, fill)| match fill.poll_unpin(cx) {
            Poll::Pending => true,
            Poll::Ready(rows) => {
                answered.push((*lane, rows));
                false
            }
        });
        let any = !answered.is_empty();
        for (lane, rows) in answered {
            let rows = rows.map_err(|_closed| End::NotStored)?;
            // Identifiers from before a restart, known before the rows are sent.
            for row in rows.iter().filter(|_| lane == Lane::Own) {
                if let Some(id) = self.seat.own.window.restore(row) {
                    self.say(AckKind::Pubrel, id, 0, None);
                }
            }
        }
        Ok(any)
    }

    /// Has hub and store know what the client has.
    pub(super) fn poll_acknowledged(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        loop {
            if let Some(settling) = &mut self.sender.settling {
                let Poll::Ready(settled) = settling.poll_unpin(cx) else { return Ok(Poll::Pending) };
                self.sender.settling = None;
                settled.map_err(|_closed| End::NotStored)?;
            }
            if self.sender.taken.is_empty() && self.sender.released.is_empty() {
                return Ok(Poll::Ready(()));
            }
            let (taken, released) = (mem::take(&mut self.sender.taken), mem::take(&mut self.sender.released));
            let settle = self.seat.hub.acknowledged(&self.seat.session, taken);
            let (store, queue) = (self.seat.hub.store.clone(), self.seat.session.queue.stored());
            if settle.is_none() && (released.is_empty() || queue.is_none()) {
                continue;
            }
            self.sender.settling = Some(Box::pin(async move {
                if let Some(queue) = queue.filter(|_| !released.is_empty()) {
                    store.released(queue, released).await?.await?;
                }
                if let Some(settle) = settle { settle.await } else { Ok(()) }
            }));
        }
    }
}

fn lane(feed: &Feed) -> Lane {
    if feed.member.is_some() { Lane::Group(feed.queue.number()) } else { Lane::Own }
}

/// What a group is sent goes to a member as that asked for it.
fn for_member(mut item: Item, feed: &Feed) -> Item {
    if let Some(member) = &feed.member {
        item.qos = item.qos.min(member.qos);
        item.retain &= member.retain_as_published;
        item.ids = member.id.into_iter().collect();
    }
    item
}

/// The PUBLISH of an item; its expiry is what is left of it.
fn packet(item: &Item, sent: Option<Sent>) -> PublishOut<'_> {
    let message = &item.message;
    let left = message.expires_at.map(|at| at.saturating_sub(now_ms()).div_ceil(1_000));
    PublishOut {
        dup: sent.is_some_and(|sent| sent.dup),
        qos: item.qos,
        retain: item.retain,
        topic: &message.topic,
        id: sent.map_or(0, |sent| sent.id),
        alias: None,
        expiry_s: left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
        subscriptions: &item.ids,
        properties: &message.properties,
        payload: &message.payload,
    }
}
