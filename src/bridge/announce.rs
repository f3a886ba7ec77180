//! What the bridge says about itself. It waits neither for the store nor for the broker, so that it can say that
//! they do not work.

mod drop_log;
mod transports;

pub(super) use transports::Watched;

use super::context::Context;
use crate::chat::message::{BridgeEvent, BridgeState, BridgeStats, BridgeStatus, BrokerKind};
use crate::chat::topic::BridgeTopic;
use crate::chat::transport::Transport;
use crate::mqtt::{BrokerLink, Outbound, Outcome};
use crate::ops::clock::{at, every, machine_now, now_ms};
use crate::ops::health::Readiness;
use crate::ops::metrics::{Histogram, Metric};
use crate::store::{COMMIT_LIMITS, CommitTimes, QueueState, StoreError, StoreFigures, StoreHealth};
use crate::transport::Link;
use drop_log::DropLog;
use futures_util::future::{BoxFuture, OptionFuture, select_all};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use transports::View;

/// How long the stop waits for the broker to confirm that the bridge is offline.
const END_WAIT: Duration = Duration::from_secs(2);
/// How often counters are published (topics.md, topic 28).
const STATS_EVERY: Duration = Duration::from_secs(10);
/// When the status is published once more after a broker of others is there again. A will of the connection before may come late
/// there, over what this one has said.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// How often gauges and readiness are looked at.
const ROUND_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Watches {
    pub(super) transports: Vec<Watched>,
    pub(super) broker_link: watch::Receiver<BrokerLink>,
    pub(super) broker_trouble: watch::Receiver<Option<String>>,
    pub(super) store: watch::Receiver<StoreHealth>,
    pub(super) clients: watch::Receiver<Option<usize>>,
    pub(super) events: mpsc::Receiver<BridgeEvent>,
}

pub(super) struct Announcer {
    context: Arc<Context>,
    watches: Watches,
    readiness: watch::Sender<Readiness>,
    said: Option<(BridgeState, BTreeMap<String, &'static str>)>,
    /// What waited for each transport when the store was last looked at.
    queues: BTreeMap<String, QueueState>,
    looking: Option<BoxFuture<'static, Result<Vec<QueueState>, StoreError>>>,
    /// What became of the counters that were published last.
    stats_told: Option<oneshot::Receiver<Outcome>>,
    drops: DropLog,
}

impl Announcer {
    pub(super) fn new(context: Arc<Context>, watches: Watches, readiness: watch::Sender<Readiness>) -> Self {
        let (said, queues, looking, stats_told, drops) = (None, BTreeMap::new(), None, None, DropLog::default());
        Self { context, watches, readiness, said, queues, looking, stats_told, drops }
    }

    /// Works until `stop`; the last word is the status `offline`.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let (mut stats, mut round) = (every(STATS_EVERY), every(ROUND_EVERY));
        let (mut was_up, mut say_again) = (false, None);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = round.tick() => {}
                _ = stats.tick() => {
                    self.publish_stats();
                    let store = self.context.store.clone();
                    self.looking.get_or_insert_with(|| Box::pin(async move { store.queue_states(now_ms()).await }));
                }
                Some(found) = OptionFuture::from(self.looking.as_mut()) => {
                    self.looking = None;
                    self.looked(found);
                }
                changed = self.watches.broker_link.changed() => {
                    // A broker that was away, or another one, may not have the retained status.
                    self.said = None;
                    let up = *self.watches.broker_link.borrow_and_update() == BrokerLink::Up;
                    self.context.metrics.add(Metric::MqttReconnects, u64::from(up && was_up));
                    was_up |= up;
                    say_again = (up && !self.context.broker.takes_documents).then(|| Instant::now() + SAY_AGAIN);
                    if changed.is_err() { break }
                }
                () = at(say_again) => (self.said, say_again) = (None, None),
                // Whoever changes them may have gone: the last word is in there, and no further one comes.
                () = news(&mut self.watches.transports) => {}
                Ok(()) = self.watches.store.changed() => {}
                Some(event) = self.watches.events.recv() => {
                    let (event, _) = Outbound::new(BridgeTopic::Events, event.to_payload(now_ms()));
                    self.announce(event);
                }
            }
            self.measure();
            self.say();
        }
        self.announce_end().await;
        Ok(())
    }

    /// Publishes the counters, while the broker is up and has taken the last ones: old ones are of no use to anybody.
    fn publish_stats(&mut self) {
        let up = *self.watches.broker_link.borrow() == BrokerLink::Up;
        let waits = |told: &mut oneshot::Receiver<Outcome>| matches!(told.try_recv(), Err(TryRecvError::Empty));
        if !up || self.stats_told.as_mut().is_some_and(waits) {
            return;
        }
        let (stats, told) = Outbound::new(BridgeTopic::Stats, self.stats().to_payload());
        if self.announce(Outbound { qos: 0, ..stats }) {
            self.stats_told = Some(told);
        }
    }

    fn looked(&mut self, found: Result<Vec<QueueState>, StoreError>) {
        match found {
            Ok(queues) => self.queues = queues.into_iter().map(|queue| (queue.transport.clone(), queue)).collect(),
            // What is wrong with the store is told where it writes.
            Err(error) => tracing::debug!(%error, "the queue could not be counted"),
        }
    }

    fn measure(&mut self) {
        self.context.store.check_disk(machine_now());
        let metrics = &self.context.metrics;
        let numbers = self.context.store.figures();
        metrics.set(Metric::QueueRows, numbers.queue_rows);
        metrics.set(Metric::QueueBytes, numbers.queue_bytes);
        metrics.set(Metric::SpoolRows, numbers.spool_rows);
        metrics.set(Metric::SpoolBytes, numbers.spool_bytes);
        metrics.set(Metric::StoreVerbs, numbers.verbs);
        metrics.set(Metric::NotesDropped, numbers.notes_dropped);
        self.drops.tell(numbers.notes_dropped, Instant::now());
        metrics.set_commits(commits(&numbers));
        let views: Vec<View> = self.watches.transports.iter_mut().map(|one| View::of(one, &self.queues)).collect();
        views.iter().for_each(|view| view.show(metrics));
        let up = *self.watches.broker_link.borrow() == BrokerLink::Up;
        let store = self.watches.store.borrow_and_update().clone();
        metrics.set(Metric::BrokerUp, u64::from(up));
        let is_blocked = store != StoreHealth::Ok;
        metrics.set(Metric::StoreBlocked, u64::from(is_blocked));
        let limits = self.limits_reached();
        metrics.set(Metric::IntakeStopped, u64::from(limits.is_some()));
        let ready = up && !views.iter().any(|view| matches!(view.link, Link::Down(_) | Link::Probing(_)));
        let of_broker = self.watches.broker_trouble.borrow().clone().map(|why| ("mqtt".to_owned(), why));
        let now = Readiness {
            // Where the spool is full it is still ready for the BALs, which alone can change that.
            ready: ready && !is_blocked && !self.context.queue_full.load(Ordering::Relaxed),
            why: views.iter().filter_map(|view| Some((view.name.clone(), view.why()?))).chain(of_broker).collect(),
            transports: views.into_iter().map(|view| (view.name, view.link.as_str())).collect(),
            mqtt: if up { "open" } else { "closed" },
            store: match store {
                StoreHealth::Ok => "ok".to_owned(),
                StoreHealth::Blocked { reason } => reason,
            },
            intake: match limits {
                Some(limits) => format!("stopped: {limits}"),
                None if is_blocked => "stopped: the store is blocked".to_owned(),
                None => "taking".to_owned(),
            },
        };
        self.readiness.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
    }

    /// Which limits stop the intake, of pushes and of what devices send.
    fn limits_reached(&self) -> Option<String> {
        let queue = self.context.queue_full.load(Ordering::Relaxed);
        let queue = queue.then_some("limits.queue_rows or queue_bytes is reached");
        let spool = (!self.context.spool_has_room()).then_some(
            "limits.spool_rows or spool_bytes is reached, and messages of devices wait until BALs take some",
        );
        let limits: Vec<&str> = queue.into_iter().chain(spool).collect();
        (!limits.is_empty()).then(|| limits.join("; "))
    }

    /// Publishes the retained status when it has changed.
    fn say(&mut self) {
        let up = *self.watches.broker_link.borrow() == BrokerLink::Up;
        let status = self.status();
        let said = Some((status.state, status.transports.clone()));
        if up && self.said != said && self.announce(retained(&status).0) {
            self.said = said;
        }
    }

    fn status(&self) -> BridgeStatus {
        let now = self.readiness.borrow();
        let state = if now.ready { BridgeState::Online } else { BridgeState::Degraded };
        BridgeStatus { state, transports: now.transports.clone(), ..self.offline() }
    }

    fn offline(&self) -> BridgeStatus {
        let settings = &self.context.settings;
        offline(settings.started_ms, settings.broker, self.watches.transports.iter().map(|one| &one.transport))
    }

    fn stats(&mut self) -> BridgeStats {
        let views = self.watches.transports.iter_mut().map(|one| View::of(one, &self.queues));
        let transports = views.map(|view| view.stats()).collect();
        let metrics = &self.context.metrics;
        let Readiness { store, intake, .. } = self.readiness.borrow().clone();
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
            store,
            intake,
            transports,
        }
    }

    /// Publishes without a promise: these are news, not messages. False when the broker has no room for it.
    fn announce(&self, outbound: Outbound) -> bool {
        self.context.publish.try_send(outbound).is_ok()
    }

    /// Waits for the broker's word, but not so long that the stop has no time left to write what was confirmed.
    async fn announce_end(&mut self) {
        let (outbound, outcome) = retained(&self.offline());
        let told = async {
            if *self.watches.broker_link.borrow() == BrokerLink::Up && self.context.publish.send(outbound).await.is_ok()
            {
                let _ = outcome.await;
            }
        };
        if tokio::time::timeout(END_WAIT, told).await.is_err() {
            tracing::warn!("the broker did not confirm that the bridge is offline");
        }
    }
}

/// The status, for who subscribes later as well.
fn retained(status: &BridgeStatus) -> (Outbound, oneshot::Receiver<Outcome>) {
    let (outbound, outcome) = Outbound::new(BridgeTopic::Status, status.to_payload());
    (Outbound { retain: true, ..outbound }, outcome)
}

/// How long the transactions of the store took.
fn commits(figures: &StoreFigures) -> Histogram {
    let StoreFigures { commits: count, times: CommitTimes { buckets, sum }, .. } = *figures;
    let buckets = COMMIT_LIMITS.iter().map(Duration::as_secs_f64).zip(buckets).collect();
    Histogram { buckets, count, sum: sum.as_secs_f64() }
}

/// Waits until one of the links changes. A transport that has gone says nothing more.
async fn news(transports: &mut [Watched]) {
    let change = async |link: &mut watch::Receiver<Link>| {
        if link.changed().await.is_err() {
            std::future::pending().await
        }
    };
    select_all(transports.iter_mut().map(|one| Box::pin(change(&mut one.link)))).await;
}

/// The status of a bridge that is not there: also its will.
pub fn offline<'a>(
    started_ms: u64,
    broker: BrokerKind,
    transports: impl Iterator<Item = &'a Transport>,
) -> BridgeStatus {
    BridgeStatus {
        state: BridgeState::Offline,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: started_ms,
        transports: transports.map(|transport| (transport.to_string(), Link::UNCONNECTED.as_str())).collect(),
        broker,
        ts: now_ms(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn in_the_will_no_transport_is_up() {
        let transports = [Transport::Ccs, Transport::parse("fcm-v1").unwrap()];
        let will = offline(1, BrokerKind::External, transports.iter()).to_payload();
        let will: Value = serde_json::from_slice(&will).unwrap();
        assert_eq!((&will["state"], &will["ccs"]), (&json!("offline"), &json!("down")));
        assert_eq!(will["transports"], json!({"ccs": "down", "fcm-v1": "down"}));
    }
}
