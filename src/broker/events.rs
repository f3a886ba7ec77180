//! What the engine tells about its clients, turned into what the bridge and the ledger need to know.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use mqtt5::QoS;
use mqtt5::WillMessage;
use mqtt5::broker::events::{
    BrokerEventHandler, ClientConnectEvent, ClientDisconnectEvent, ClientPublishEvent, ClientSubscribeEvent,
    ClientUnsubscribeEvent, PublishAction, SubAckReasonCode,
};
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::gate::REFUSED_FILTER;
use super::link::{self, InHand, Link};
use super::refusals::{Refusal, Refusals};
use crate::chat::access::Rights;
use crate::chat::topic::Side;
use crate::mqtt::{Ack, Change, Inbound, Sighting};

/// The event handler of all connections.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) desk: Arc<Desk>,
    pub(super) inbound: mpsc::Sender<Inbound>,
    pub(super) readers: watch::Sender<u64>,
    pub(super) sightings: mpsc::Sender<Sighting>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) stop: CancellationToken,
}

fn is_for_bridge(topic: &str) -> bool {
    matches!(Side::of(topic), Side::Outbox { .. })
}

impl Events {
    async fn connected(&self, event: ClientConnectEvent) {
        let Some(link) = link::current() else {
            return;
        };
        link.identify(event.client_id.clone());
        self.desk.attach(&event.client_id, &link).await;
        self.wake_publisher();
        // Nothing that the client says is read before this is told. Without a CONNACK it is about to go.
        if link.has_begun() {
            self.tell(link.came()).await;
        }
    }

    /// Hands a message to the bridge. The engine goes on at once: the gate holds its acknowledgement back.
    async fn published(&self, event: ClientPublishEvent) -> PublishAction {
        if !is_for_bridge(&event.topic) {
            return PublishAction::Continue;
        }
        let is_kept = !event.retain || Side::of(&event.topic).may_be_retained();
        let action = if is_kept { PublishAction::Continue } else { PublishAction::Handled };
        // The engine has asked for every message whether its client may publish it, and without a connection it raises
        // no event, so nothing is swallowed here.
        let Some(link) = link::current() else {
            return PublishAction::Handled;
        };
        let Some(principal) = link.rights().principal(link.device(), &event.topic) else {
            return PublishAction::Handled;
        };
        let InHand { expiry, dup } = link.in_hand();
        let (ack, word) = Ack::new();
        if let (Some(id), true) = (event.packet_id, event.qos != QoS::AtMostOnce) {
            link.hold(id, word);
        }
        let inbound = Inbound {
            principal,
            topic: event.topic.to_string(),
            payload: event.payload,
            retain: false,
            dup,
            expiry,
            response_topic: event.response_topic.map(|topic| topic.to_string()),
            correlation: event.correlation_data,
            ack,
        };
        self.hand_over(inbound).await;
        action
    }

    async fn disconnected(&self, event: ClientDisconnectEvent) {
        let Some(link) = link::current() else {
            return;
        };
        self.desk.detach(&event.client_id, &link).await;
        let goodbye = !event.unexpected && event.reason == ReasonCode::Success;
        // Before the will: who hears of the will knows by then that its connection is gone.
        self.tell(link.ended(if goodbye { Change::Left } else { Change::Broke })).await;
        // The engine has published it by now, if it may be.
        if event.unexpected
            && let Some((will, rights)) = link.take_will()
        {
            self.will(will, link.device(), &rights).await;
        }
    }

    /// The engine publishes a will with these rights.
    pub(super) async fn will(&self, will: WillMessage, device: Option<Arc<str>>, rights: &Rights) {
        if !is_for_bridge(&will.topic) {
            return;
        }
        let Some(principal) = rights.principal(device, &will.topic) else {
            return;
        };
        let (ack, _nobody_waits) = Ack::new();
        let inbound = Inbound {
            principal,
            topic: will.topic,
            payload: will.payload.into(),
            retain: false,
            dup: false,
            expiry: will.properties.message_expiry_interval,
            response_topic: will.properties.response_topic,
            correlation: will.properties.correlation_data.map(Bytes::from),
            ack,
        };
        self.hand_over(inbound).await;
    }

    /// Waits for room: a bridge that is behind slows its publishers down. A message that is not taken is dropped with
    /// its acknowledgement, so that its publisher sends it again.
    async fn hand_over(&self, inbound: Inbound) {
        let _ = self.stop.run_until_cancelled(self.inbound.send(inbound)).await;
    }

    /// Waits for room likewise.
    async fn tell(&self, sighting: Option<Sighting>) {
        if let Some(sighting) = sighting {
            let _ = self.stop.run_until_cancelled(self.sightings.send(sighting)).await;
        }
    }

    /// The task of a connection ends, however it ends. If the engine had no time for an event, because it was cut short
    /// or panicked, the end is told here, as far as there is room.
    pub(super) fn vanished(&self, link: &Link) {
        if let Some(sighting) = link.ended(Change::Broke) {
            let _ = self.sightings.try_send(sighting);
        }
    }

    async fn subscribed(&self, event: ClientSubscribeEvent) {
        if let Some(link) = link::current() {
            self.tell_refused(&link, &event);
        }
        self.desk.subscribe(&event.client_id).await;
        self.wake_publisher();
    }

    /// Tells the filters that the engine refuses, but for those whose place it was given by the gate, which told them.
    fn tell_refused(&self, link: &Link, event: &ClientSubscribeEvent) {
        let Some(who) = link.who() else { return };
        let mut told = link.filters_replaced();
        for asked in &event.subscriptions {
            let refusal = match asked.result {
                SubAckReasonCode::QuotaExceeded => Refusal::Subscriptions,
                SubAckReasonCode::TopicFilterInvalid if told > 0 && &*asked.topic_filter == REFUSED_FILTER => {
                    told -= 1;
                    continue;
                }
                SubAckReasonCode::TopicFilterInvalid => Refusal::FilterInvalid,
                _ => continue,
            };
            self.refusals.tell(refusal, &who, &asked.topic_filter);
        }
    }

    fn wake_publisher(&self) {
        self.readers.send_modify(|version| *version = version.wrapping_add(1));
    }
}

impl BrokerEventHandler for Events {
    fn on_client_connect<'a>(&'a self, event: ClientConnectEvent) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.connected(event))
    }

    fn on_client_subscribe<'a>(&'a self, event: ClientSubscribeEvent) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.subscribed(event))
    }

    fn on_client_unsubscribe<'a>(
        &'a self,
        event: ClientUnsubscribeEvent,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move { self.desk.subscribe(&event.client_id).await })
    }

    fn on_client_publish<'a>(
        &'a self,
        event: ClientPublishEvent,
    ) -> Pin<Box<dyn Future<Output = PublishAction> + Send + 'a>> {
        Box::pin(self.published(event))
    }

    fn on_client_disconnect<'a>(
        &'a self,
        event: ClientDisconnectEvent,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(self.disconnected(event))
    }
}

#[cfg(test)]
mod tests;
