//! The bridge's side: what it publishes that is no document of the store, and whom it hears of.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Hub;
use super::publish::{NewPublish, NotStored, Publisher, Publishing};
use super::session::Session;
use crate::broker::connection::ConnectionHandle;
use crate::broker::identity::Caller;
use crate::chat::access::Rights;
use crate::chat::id::Sid;
use crate::chat::principal::Identity;
use crate::chat::qos::QoS;
use crate::mqtt::{ClientChange, Confirmation, Outbound, Outcome, Sighting};
use crate::store::{AckedBy, Acknowledged, Message, Origin};

/// Publications of the bridge that wait for their commit.
const OPEN: usize = 256;

impl Hub {
    /// Publishes what the bridge gives until the broker stops. What it has not taken by then is answered `Unsent`.
    pub(super) async fn publish_for_bridge(self: &Arc<Self>, mut publish: mpsc::Receiver<Outbound>) {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                Some(()) = open.next() => {}
                next = publish.recv(), if open.len() < OPEN => match next {
                    // In their order, however long each waits for its commit.
                    Some(outbound) => open.push(self.publish_outbound(outbound)),
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
        let Outbound { topic, payload, qos, retain, outcome, .. } = outbound;
        let is_read = may_be_unread || qos == 0 || !self.routes.of(&topic, None).is_empty();
        let message = Message {
            topic: topic.into(),
            payload,
            properties: Bytes::new(),
            qos: QoS::from_u8(qos).unwrap_or(QoS::AtLeastOnce),
            retain,
            expires_at: None,
        };
        let by = Publisher { session: None, rights: &Rights::Nobody, device: None, follows: true };
        let (dup, again, exactly_once, is_will) = (false, false, None, false);
        let (response_topic, correlation) = (None, None);
        let publish = NewPublish { message, dup, again, exactly_once, response_topic, correlation, is_will };
        let publishing = self.publish(by, publish);
        async move {
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
    pub(super) async fn tell_sighting(&self, session: &Session, handle: &ConnectionHandle, change: ClientChange) {
        if session.is_background() {
            return;
        }
        let caller = session.lock().caller.clone();
        let (Some(Caller::Known(Identity { user, role }, _)), Some(device)) = (caller, session.device()) else {
            return;
        };
        let (client, connection) = (Arc::clone(&session.client), handle.number());
        let sighting = Sighting { user, role, client, device, connection, change };
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
