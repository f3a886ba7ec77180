//! What the bridge says about itself. It waits neither for the store nor for the broker, so that it can say that
//! they do not work.

use super::context::Context;
use crate::chat::message::{BridgeEvent, BridgeState, BridgeStats, BridgeStatus, BrokerKind, CcsState};
use crate::chat::topic::BridgeTopic;
use crate::chat::transport::Transport;
use crate::mqtt::{BrokerLink, Outbound};
use crate::ops::clock::{every, now_ms};
use crate::ops::health::Readiness;
use crate::ops::metrics::Metric;
use crate::store::{StoreError, StoreHealth};
use crate::transport::{Link, Outage};
use futures_util::future::select_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How often counters are published (topics.md, topic 28).
const STATS_EVERY: Duration = Duration::from_secs(10);
/// How often gauges and readiness are looked at.
const ROUND_EVERY: Duration = Duration::from_millis(500);

/// What the announcer watches.
pub(super) struct Watches {
    pub(super) links: Vec<(Transport, watch::Receiver<Link>)>,
    pub(super) broker_link: watch::Receiver<BrokerLink>,
    pub(super) store: watch::Receiver<StoreHealth>,
    pub(super) clients: watch::Receiver<Option<usize>>,
    pub(super) events: mpsc::Receiver<BridgeEvent>,
}

/// The task.
pub(super) struct Announcer {
    context: Arc<Context>,
    watches: Watches,
    publish: mpsc::Sender<Outbound>,
    readiness: watch::Sender<Readiness>,
    said: Option<(BridgeState, BTreeMap<String, &'static str>)>,
}

impl Announcer {
    pub(super) fn new(
        context: Arc<Context>,
        watches: Watches,
        publish: mpsc::Sender<Outbound>,
        readiness: watch::Sender<Readiness>,
    ) -> Self {
        Self { context, watches, publish, readiness, said: None }
    }

    /// Works until `stop`; the last word is the status `offline`.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let (mut stats, mut round) = (every(STATS_EVERY), every(ROUND_EVERY));
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = round.tick() => {}
                _ = stats.tick() => {
                    self.announce(BridgeTopic::Stats, self.stats().to_payload(), 0, false);
                }
                changed = self.watches.broker_link.changed() => {
                    // A broker that was away, or another one, may not have the retained status.
                    self.said = None;
                    if changed.is_err() { break }
                }
                // Whoever changes them may have gone: the last word is in there, and no further one comes.
                () = news(&mut self.watches.links) => {}
                Ok(()) = self.watches.store.changed() => {}
                Some(event) = self.watches.events.recv() => {
                    self.announce(BridgeTopic::Events, event.to_payload(now_ms()), 1, false);
                }
            }
            self.measure();
            self.say();
        }
        self.farewell().await;
        Ok(())
    }

    fn measure(&mut self) {
        let metrics = &self.context.metrics;
        let numbers = self.context.store.figures();
        metrics.set(Metric::QueueRows, numbers.queue_rows);
        metrics.set(Metric::QueueBytes, numbers.queue_bytes);
        metrics.set(Metric::SpoolRows, numbers.spool_rows);
        metrics.set(Metric::SpoolBytes, numbers.spool_bytes);
        metrics.set(Metric::Commits, numbers.commits);
        let links: Vec<(Transport, Link)> = self
            .watches
            .links
            .iter_mut()
            .map(|(transport, link)| (transport.clone(), *link.borrow_and_update()))
            .collect();
        let open = *self.watches.broker_link.borrow() == BrokerLink::Up;
        let store = self.watches.store.borrow_and_update().clone();
        for (transport, link) in &links {
            metrics.set_up(&transport.to_string(), *link == Link::Up);
        }
        metrics.set(Metric::BrokerUp, u64::from(open));
        metrics.set(Metric::StoreBlocked, u64::from(store != StoreHealth::Ok));
        let stopped = metrics.get(Metric::IntakeStopped) == 1;
        let ready = open && !links.iter().any(|(_, link)| matches!(link, Link::Down(_) | Link::Probing(_)));
        let now = Readiness {
            ready: ready && store == StoreHealth::Ok && !stopped,
            transports: links.iter().map(|(transport, link)| (transport.to_string(), link.as_str())).collect(),
            mqtt: if open { "open" } else { "closed" },
            store: match store {
                StoreHealth::Ok => "ok".to_owned(),
                StoreHealth::Blocked { reason } => reason,
            },
            intake: if stopped { "stopped: limits.queue_rows or queue_bytes is reached" } else { "taking" }.to_owned(),
        };
        self.readiness.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    /// Publishes the retained status when it has changed.
    fn say(&mut self) {
        if *self.watches.broker_link.borrow() != BrokerLink::Up {
            return;
        }
        let status = self.status();
        let said = Some((status.state, status.transports.clone()));
        if self.said == said {
            return;
        }
        if self.announce(BridgeTopic::Status, status.to_payload(), 1, true) {
            self.said = said;
        }
    }

    fn status(&self) -> BridgeStatus {
        let state = if self.readiness.borrow().ready { BridgeState::Online } else { BridgeState::Degraded };
        let links = &self.watches.links;
        let ccs =
            links.iter().find(|(transport, _)| *transport == Transport::Ccs).map(|(_, link)| match *link.borrow() {
                Link::Up => CcsState::Up,
                Link::Draining => CcsState::Draining,
                Link::Down(_) | Link::Probing(_) => CcsState::Down,
            });
        let transports =
            links.iter().map(|(transport, link)| (transport.to_string(), link.borrow().as_str())).collect();
        BridgeStatus { state, ccs, transports, ..self.offline() }
    }

    fn offline(&self) -> BridgeStatus {
        let settings = &self.context.settings;
        offline(settings.started_ms, settings.broker, self.watches.links.iter().map(|(transport, _)| transport))
    }

    fn stats(&self) -> BridgeStats {
        let metrics = &self.context.metrics;
        BridgeStats {
            ts: now_ms(),
            upstream: metrics.get(Metric::UpstreamReceived),
            downstream: metrics.get(Metric::DownstreamAccepted),
            acks: metrics.get(Metric::DownstreamSent),
            nacks: metrics.refusals(),
            receipts: metrics.get(Metric::Receipts),
            duplicates: metrics.get(Metric::UpstreamDuplicates) + metrics.get(Metric::DownstreamRepeated),
            spool: metrics.get(Metric::SpoolRows),
            queue: metrics.get(Metric::QueueRows),
            sessions: self.watches.clients.borrow().map(|clients| clients as u64),
        }
    }

    /// Publishes without a promise: these are news, not messages. False when the broker has no room for it.
    fn announce(&self, topic: BridgeTopic, payload: Vec<u8>, qos: u8, retain: bool) -> bool {
        let (outbound, _) = plain(topic, payload, qos, retain);
        self.publish.try_send(outbound).is_ok()
    }

    async fn farewell(&self) {
        let status = self.offline().to_payload();
        let (outbound, outcome) = plain(BridgeTopic::Status, status, 1, true);
        if *self.watches.broker_link.borrow() == BrokerLink::Up && self.publish.send(outbound).await.is_ok() {
            let _ = outcome.await;
        }
    }
}

/// Waits until one of the links changes. A transport that has gone says nothing more.
async fn news(links: &mut [(Transport, watch::Receiver<Link>)]) {
    let change = async |link: &mut watch::Receiver<Link>| {
        if link.changed().await.is_err() {
            std::future::pending().await
        }
    };
    select_all(links.iter_mut().map(|(_, link)| Box::pin(change(link)))).await;
}

/// The status of a bridge that is not there: also its will.
pub fn offline<'a>(
    started_ms: u64,
    broker: BrokerKind,
    transports: impl Iterator<Item = &'a Transport> + Clone,
) -> BridgeStatus {
    BridgeStatus {
        state: BridgeState::Offline,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: started_ms,
        ccs: transports.clone().any(|transport| *transport == Transport::Ccs).then_some(CcsState::Down),
        transports: transports.map(|transport| (transport.to_string(), Outage::Unconnected.as_str())).collect(),
        broker,
        ts: now_ms(),
    }
}

fn plain(
    topic: BridgeTopic,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
) -> (Outbound, oneshot::Receiver<crate::mqtt::Outcome>) {
    let (tell, outcome) = oneshot::channel();
    let outbound = Outbound {
        topic: topic.to_string(),
        payload: payload.into(),
        qos,
        retain,
        expiry: None,
        correlation: None,
        mark_copy: None,
        resume: true,
        outcome: tell,
    };
    (outbound, outcome)
}
