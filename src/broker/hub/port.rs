//! The bridge's side: what it publishes that is no document of the store, and whom it hears of.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{Either, ready};
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Hub;
use super::publish::{NewPublish, NotStored, Publisher, Publishing};
use super::routes::MatchedQueue;
use super::session::Session;
use crate::broker::connection::ConnectionHandle;
use crate::broker::identity::Caller;
use crate::broker::session::OutgoingMessage;
use crate::chat::access::Rights;
use crate::chat::id::Sid;
use crate::chat::principal::Identity;
use crate::chat::qos::QoS;
use crate::chat::topic::Side;
use crate::mqtt::{ClientChange, Confirmation, Outbound, Outcome, Sighting, Visibility};
use crate::store::{AckedBy, Acknowledged, Message, Origin, QueueId, Target};

/// Publications of the bridge that wait for their commit.
const OPEN: usize = 256;

/// Does something in its place among the publications of the bridge. Those before it go on: one of them may have the room in the
/// queue of the store for which it waits.
async fn beside(open: &mut FuturesUnordered<impl Future<Output = ()>>, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            () = &mut work => return,
            Some(()) = open.next() => {}
        }
    }
}

impl Hub {
    /// Publishes what the bridge gives until the broker stops. What it has not taken by then is answered `Unsent`.
    pub(super) async fn publish_for_bridge(
        self: &Arc<Self>,
        mut publish: mpsc::Receiver<Outbound>,
        mut visibility: mpsc::Receiver<Visibility>,
    ) {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                Some(()) = open.next() => {}
                Some(change) = visibility.recv() => beside(&mut open, self.take_visibility(change)).await,
                next = publish.recv(), if open.len() < OPEN => match next {
                    // In their order, however long each waits for its commit.
                    Some(outbound) => {
                        // Who gets it was said before.
                        while let Ok(change) = visibility.try_recv() {
                            beside(&mut open, self.take_visibility(change)).await;
                        }
                        open.push(self.publish_outbound(outbound));
                    }
                    None => break,
                },
            }
        }
        publish.close();
        while let Ok(outbound) = publish.try_recv() {
            let _ = outbound.outcome.send(Outcome::Unsent);
        }
        while open.next().await.is_some() {}
    }

    fn publish_outbound(self: &Arc<Self>, outbound: Outbound) -> impl Future<Output = ()> + use<> {
        let may_be_unread = outbound.may_be_unread();
        let Outbound { topic, payload, qos, retain, devices, expires_at, outcome, .. } = outbound;
        let is_read = may_be_unread || qos == 0 || !self.routes.of(&topic, None).is_empty();
        let message = Message {
            topic: topic.into(),
            payload,
            properties: Bytes::new(),
            qos: QoS::from_u8(qos).unwrap_or(QoS::AtLeastOnce),
            retain,
            expires_at,
        };
        if let Some(devices) = devices {
            self.pass_to_devices(message, &devices);
            let _ = outcome.send(Outcome::Confirmed);
            return Either::Left(ready(()));
        }
        let by = Publisher { session: None, rights: &Rights::Nobody, device: None, follows: true };
        let (dup, again, exactly_once, will) = (false, false, None, None);
        let (response_topic, correlation) = (None, None);
        let publish = NewPublish { message, dup, again, exactly_once, response_topic, correlation, will };
        let publishing = self.publish(by, publish);
        Either::Right(async move {
            let answer = match publishing {
                _ if !is_read => Outcome::NoReader,
                Publishing::Refused(_) | Publishing::Promised(_) => Outcome::Confirmed,
                Publishing::Waits(waits) => {
                    let is_stored = match waits.await {
                        Ok(promise) => promise.stored().await,
                        Err(NotStored) => false,
                    };
                    if is_stored { Outcome::Confirmed } else { Outcome::Lost }
                }
            };
            // The receiver may have been dropped.
            let _ = outcome.send(answer);
        })
    }

    /// Gives a message to those of these devices of its owner that are connected and read its topic. It is in memory alone.
    fn pass_to_devices(&self, message: Message, devices: &[Arc<str>]) {
        let message = Arc::new(message);
        for MatchedQueue { queue, ids, qos, .. } in self.routes_of(&message.topic, None) {
            let owner = Side::of(&message.topic).owner();
            let is_one = |handle: &Arc<ConnectionHandle>| {
                owner.and_then(|owner| handle.device_of(owner)).is_some_and(|device| devices.contains(device))
            };
            if queue.consumers().iter().any(is_one) {
                let target = Target { queue: QueueId(0), qos: qos.min(message.qos), retain: false, ids };
                queue.push(OutgoingMessage::memory(Arc::clone(&message), target), self.last_notified());
            }
        }
    }

    /// The bridge is told of what devices have. One that is behind slows them down.
    pub(super) async fn tell_confirmations(&self, confirmations: Vec<Confirmation>) {
        for confirmation in confirmations {
            // While there is room it is told at the stop as well.
            if let Err(TrySendError::Full(confirmation)) = self.confirmations.try_send(confirmation) {
                let _ = self.stop.run_until_cancelled(self.confirmations.send(confirmation)).await;
            }
        }
    }

    /// The bridge is told of each connection of somebody who logged in, but for those in the background: that it came, before
    /// anything that it publishes, and that it ended. A bridge that is behind slows connecting down.
    pub(super) async fn tell_sighting(
        &self,
        session: &Session,
        handle: &ConnectionHandle,
        (change, resumed): (ClientChange, bool),
    ) {
        if session.is_background() {
            return;
        }
        let caller = session.lock().caller.clone();
        let (Some(Caller::Known(Identity { user, role }, _)), Some(device)) = (caller, session.device()) else {
            return;
        };
        let (client, connection) = (Arc::clone(&session.client), handle.number());
        let sighting = Sighting { user, role, client, device, connection, change, resumed };
        let _ = self.stop.run_until_cancelled(self.sightings.send(sighting)).await;
    }
}

/// The copies of messages among what a device of their owner has acknowledged.
pub(super) fn confirmations<'a>(session: &Session, taken: impl Iterator<Item = &'a Acknowledged>) -> Vec<Confirmation> {
    let by_owner = taken.filter(|taken| taken.by == AckedBy::Owner).flat_map(|taken| &taken.documents);
    let copies = by_owner.filter_map(|document| match document.reference.origin {
        Origin::ChatCopy(sid) => Some(sid),
        _ => None,
    });
    let sids: Vec<Sid> = copies.collect();
    let owner = if sids.is_empty() { None } else { session.user.as_ref().zip(session.device()) };
    let confirmation = |sid| {
        let (user, device) = owner.as_ref()?;
        Some(Confirmation { user: Arc::clone(user), device: Arc::clone(device), sid })
    };
    sids.into_iter().filter_map(confirmation).collect()
}
