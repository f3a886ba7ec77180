//! The bridge: the only place where the domain, the store, the broker and the transport meet.
//!
//! ```text
//!   broker ──Inbound──▶ Intake ──commit──▶ store ──due──▶ Dispatcher ──Send──▶ transport
//!       ▲                                       │ ▲             │  ▲               │
//!       └───Outbound── Publisher ◀──documents───┘ └───commit────┘  └────Report─────┘
//! ```
//!
//! Invariant: nothing is acknowledged to either side before its commit, and nothing is forgotten before the other side
//! has confirmed it. Each of the parts is one task and owns its state (there is a `Dispatcher` and, for what devices send,
//! a `DeviceIntake` for each transport); they meet only in the store and its watches.
//! Another one, `user_presence`, tells who is there.

mod announce;
mod bal_presence;
mod context;
mod dispatcher;
mod expiry;
mod intake;
mod publisher;
mod refused_names;
mod service_backoff;
#[cfg(test)]
mod tests;
mod topic_window;
mod upstream;
mod user_presence;

pub use announce::offline;
pub use context::{Room, Settings};
pub use publisher::mark_copy;

use crate::chat::status::Status;
use crate::chat::transport::Transport;
use crate::mqtt;
use crate::ops::health::Readiness;
use crate::ops::metrics::{Metric, Metrics};
use crate::store::{Recovery, Store, StoreError};
use crate::transport;
use announce::{Announcer, Watches};
use context::Context;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Most events for an operator that wait to be published.
const EVENTS: usize = 64;

/// What a bridge is made of.
pub struct Parts {
    /// The queue on disk.
    pub store: Store,
    /// What it found when it was opened.
    pub recovery: Recovery,
    /// The broker.
    pub mqtt: mqtt::Port,
    /// The transports, one for each transport to the devices; at least one.
    pub transports: Vec<(Transport, transport::Port)>,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// Where to say how it goes.
    pub readiness: watch::Sender<Readiness>,
}

/// When to stop: first the intake (and new sends), later the publications.
#[derive(Debug, Clone, Default)]
pub struct Stops {
    /// Take nothing new from clients, claim nothing new for the push service.
    pub intake: CancellationToken,
    /// Publish nothing more. To be cancelled after the transport has ended.
    pub publish: CancellationToken,
    /// Given by the windows: the broker may close. They end once it has.
    pub quiet: CancellationToken,
}

/// Runs the windows until both stops are given and the transport has ended.
///
/// # Errors
/// When the store is closed before the windows are.
pub async fn run(settings: Settings, parts: Parts, stops: Stops) -> Result<(), StoreError> {
    let Parts { store, recovery, mqtt, transports, metrics, readiness } = parts;
    let (events_tx, events) = mpsc::channel(EVENTS);
    let health = store.health();
    let capabilities = transports.iter().map(|(transport, port)| (transport.clone(), port.capabilities)).collect();
    let context = Arc::new(Context::new(settings, store, metrics, events_tx, &recovery, capabilities));
    // Before anything new comes in, which has to line up behind it.
    let routing = Arc::clone(&context);
    let routed = context.store.route_held(move |category| routing.route(category)).await?;
    if routed > 0 {
        tracing::info!(routed, "messages of devices that waited for a route have one now");
    }
    let bal_presences = bal_presence::BalPresences::new();
    let links = transports.iter().map(|(transport, port)| (transport.clone(), port.link.clone())).collect();
    let (broker_link, clients) = (mqtt.broker_link.clone(), mqtt.clients.clone());
    let watches = Watches { links, broker_link, store: health, clients, events };
    let announce = Announcer::new(Arc::clone(&context), watches, mqtt.publish.clone(), readiness);
    let mqtt::Port { inbound, publish, former, broker_link, readers, sightings, .. } = mqtt;
    let user_presence = user_presence::UserPresences::new(
        Arc::clone(&context),
        bal_presences.clone(),
        publish.clone(),
        broker_link.clone(),
    );
    let (words_tx, words) = mpsc::channel(user_presence::WORDS);
    let front = publisher::Front { publish, broker_link, readers, former };
    let publisher = publisher::Publisher::new(Arc::clone(&context), bal_presences, front, recovery.former);
    let intake = intake::Intake::new(Arc::clone(&context), words_tx);

    let mut tasks = JoinSet::new();
    for (transport, port) in transports {
        let (dispatcher, device_intake) = dispatcher::Dispatcher::new(Arc::clone(&context), transport, port);
        tasks.spawn(dispatcher.run(stops.intake.clone()));
        tasks.spawn(device_intake.run());
    }
    tasks.spawn(expiry::run(context, stops.publish.clone()));
    tasks.spawn(intake.run(inbound, stops.intake.clone(), stops.quiet.clone()));
    let others = CancellationToken::new();
    let parting = publisher::Parting { stop: stops.publish.clone(), others: others.clone(), quiet: stops.quiet };
    tasks.spawn(publisher.run(parting));
    tasks.spawn(user_presence.run(sightings, words, stops.publish.clone()));
    tasks.spawn(async move {
        let ended = announce.run(stops.publish).await;
        others.cancel();
        ended
    });
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(result) => result?,
            // A panic is a bug; it must not go on half alive.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok(())
}

fn count_status(metrics: &Metrics, status: Status) {
    match status {
        Status::Sent => metrics.count(Metric::DownstreamSent),
        Status::Delivered => metrics.count(Metric::DownstreamDelivered),
        Status::Failed => metrics.count(Metric::DownstreamFailed),
        Status::Expired => metrics.count(Metric::DownstreamExpired),
        Status::Accepted | Status::Read | Status::Cancelled => {}
    }
}
