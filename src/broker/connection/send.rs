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
use crate::broker::hub::{Feed, Session, Settling, SharedQueue};
use crate::broker::session::aliases::{Alias, Outward};
use crate::broker::session::{Flight, Item, Lane, Pulled, Sent, Source};
use crate::broker::wire::{self, PublishOut, Version};
use crate::chat::qos::QoS;
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
    /// The queues; the one at `turn` is pulled next.
    pub(super) feeds: Vec<Feed>,
    turn: usize,
    aliases: Outward,
    /// Reads of the queues that the store has not answered.
    fills: Vec<(Lane, Stored<Vec<QueueRow>>)>,
    /// What is sent as soon as the store has the packet identifiers, in its order.
    staged: Vec<(Lane, Item, Option<Sent>)>,
    /// Those identifiers, of the rows with these numbers.
    ids: Vec<(u64, u16)>,
    pub(super) assigning: Option<Stored<()>>,
    /// Rows of a group to delete from the store before they are sent, where the session is not a lasting one.
    leaving: Vec<Flight>,
    /// Rows of a group that are to become rows of the session's own queue.
    claimed: Option<(Arc<SharedQueue>, Vec<GivenRow>)>,
    pub(super) giving: Option<Stored<u64>>,
    /// The last row that a group gave to the session's own queue; nothing of a group is sent before it. 0: it was sent.
    given: u64,
    /// Acknowledged by the client, or written at QoS 0; the store is not told yet.
    pub(super) taken: Vec<Flight>,
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
            feeds: session.feeds(),
            turn: 0,
            aliases: Outward::new(alias_maximum),
            fills: Vec::new(),
            staged: Vec::new(),
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
    fn may_pull(&self, group: &Feed, room: usize) -> bool {
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
    pub(super) fn abandon(&mut self, link: &super::Link) {
        self.fills.clear();
        self.feeds.iter().for_each(|feed| feed.queue.pass_on(link));
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
        let (now, mut staged) = (now_ms(), 0);
        while !self.out.is_full() && staged < OUT_LIMIT && self.sender.taken.len() < TAKEN {
            let Some((feed, pulled)) = self.pull(now) else { break };
            busy = true;
            staged += self.deliver(&feed, pulled)?;
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
    fn pull(&mut self, now: u64) -> Option<(Feed, Pulled)> {
        let room = self.guard.own.window.has_room();
        let (count, turn) = (self.sender.feeds.len(), self.sender.turn);
        if self.sender.given > 0 && self.guard.session.queue.has_passed(self.sender.given) {
            self.sender.given = 0;
        }
        (0..count).find_map(|step| {
            let at = (turn + step) % count;
            let feed = &self.sender.feeds[at];
            if feed.member.is_some() && !self.sender.may_pull(feed, self.guard.own.window.room_left()) {
                return None;
            }
            let pulled = feed.queue.pull(&self.guard.link, room, now)?;
            let feed = feed.clone();
            self.sender.turn = at + 1;
            Some((feed, pulled))
        })
    }

    /// Sends an item, if it is for this client at all. Yields how many bytes wait for the store.
    fn deliver(&mut self, feed: &Feed, pulled: Pulled) -> Result<usize, End> {
        let lane = lane(feed);
        let item = match pulled {
            Pulled::Item(item) => for_member(item, feed),
            // At QoS 2 what was begun comes to its end: the client may know the identifier.
            Pulled::Expired(item) if lane == Lane::Own && self.guard.own.window.knows(&item.source) => item,
            Pulled::Expired(item) => {
                self.discard(lane, item);
                return Ok(0);
            }
        };
        if !self.rights.may_read(&item.message.topic) {
            self.guard.hub.refusals.metrics().count(Metric::DeliveriesFiltered);
            self.withhold(&feed.queue, lane, item);
            return Ok(0);
        }
        let size = wire::publish_size(self.form.version, &packet(&item, None));
        if size > self.form.max_packet {
            if let Source::Document(reference) = &item.source {
                let (topic, payload) = (Arc::clone(&reference.topic), item.message.payload.clone());
                let document = SetAside { topic, payload, bytes: size, most: self.form.max_packet };
                self.guard.hub.too_big(&self.guard.session, document);
            } else {
                // It is dropped (MQTT 5, 3.1.2.11.4).
                self.guard.hub.refusals.metrics().count(Metric::BrokerTooBig);
            }
            self.withhold(&feed.queue, lane, item);
            return Ok(0);
        }
        if item.qos == QoS::AtMostOnce {
            return Ok(self.stage(lane, item, None));
        }
        if lane != Lane::Own && item.qos == QoS::ExactlyOnce {
            return self.deliver_for_good(feed, item);
        }
        // The window had room: if no identifier is free now, the client is to come again.
        let sent = self.guard.own.window.take_id(&item, lane).ok_or(End::Broke)?;
        Ok(self.stage(lane, item, Some(sent)))
    }

    /// At QoS 2 a message is completed with the member of the group that it was sent to, or with nobody ([MQTT-4.8.2-4],
    /// [MQTT-4.8.2-5]): before it is sent it leaves the group, for the queue of a lasting session or for this connection.
    fn deliver_for_good(&mut self, feed: &Feed, mut item: Item) -> Result<usize, End> {
        if let Source::Row(seq) = item.source {
            if let Some(queue) = self.guard.session.queue.stored() {
                let Item { message, qos, retain, ids, copy, .. } = item;
                let row = GivenRow { seq, message, target: Target { queue, qos, retain, ids }, copy };
                self.sender.claimed.get_or_insert_with(|| (Arc::clone(&feed.queue), Vec::new())).1.push(row);
                return Ok(0);
            }
            self.sender.leaving.push(Flight::unsent(lane(feed), &item));
            item.source = Source::Memory;
        }
        let sent = self.guard.own.window.take_id(&item, Lane::Own).ok_or(End::Broke)?;
        Ok(self.stage(Lane::Own, item, Some(sent)))
    }

    /// Has the store make the claimed rows rows of the session's own queue, from which they are sent.
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

    /// This client is not sent the item. A document stays for another subscriber; anything else is acknowledged.
    fn withhold(&mut self, queue: &SharedQueue, lane: Lane, item: Item) {
        match &item.source {
            Source::Document(reference) => queue.set_aside(reference),
            _ => self.discard(lane, item),
        }
    }

    fn discard(&mut self, lane: Lane, item: Item) {
        if lane == Lane::Own {
            self.guard.own.window.forget(&item.source);
        }
        self.sender.taken.push(Flight::unsent(lane, &item));
    }

    /// Sends an item, or puts it behind one whose packet identifier the store has to have first. Yields the bytes that wait.
    fn stage(&mut self, lane: Lane, item: Item, sent: Option<Sent>) -> usize {
        if let (Source::Row(seq), Some(Sent { id, must_store: true, .. })) = (&item.source, sent) {
            self.sender.ids.push((*seq, id));
        }
        if self.sender.ids.is_empty() && self.sender.leaving.is_empty() {
            self.send(lane, item, sent);
            return 0;
        }
        let size = item.size();
        self.sender.staged.push((lane, item, sent));
        size
    }

    fn send(&mut self, lane: Lane, item: Item, sent: Option<Sent>) {
        self.write(&item, sent);
        // At QoS 0 the bytes on the socket are the acknowledgement.
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

    /// Has the store learn the packet identifiers of what is staged, or that a group has it no longer.
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
        for (lane, item, sent) in mem::take(&mut self.sender.staged) {
            self.send(lane, item, sent);
        }
        Ok(Poll::Ready(()))
    }

    /// Other members of the groups may be sent what this client has no room for.
    fn pass_on(&self) {
        let is_free = self.sender.assigning.is_none() && self.sender.has_taken_given();
        let has_room = !self.out.is_full() && is_free && self.guard.own.window.has_room();
        for feed in self.sender.feeds.iter().filter(|feed| !has_room && feed.member.is_some()) {
            feed.queue.pass_on(&self.guard.link);
        }
    }

    /// Asks the store for what the queues lack. Yields whether anything was asked.
    fn ask(&mut self) -> bool {
        let SessionGuard { hub, session, .. } = &self.guard;
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
                let released = self.guard.own.window.restore(row);
                self.sender.pubrels.extend(released.map(|id| Pubrel { id, code: 0, row: None }));
            }
        }
        Ok(any)
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
