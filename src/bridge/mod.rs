//! The hall: the only place where the domain, the store, the front door and the back door meet.
//!
//! ```text
//!   front door ──Inbound──▶ Intake ──commit──▶ store ──due──▶ Pusher ──Send──▶ back door
//!       ▲                                       │ ▲             │  ▲               │
//!       └───Outbound── Publisher ◀──documents───┘ └───commit────┘  └────Report─────┘
//! ```
//!
//! Invariant: nothing is acknowledged to either side before its commit, and nothing is forgotten before the other side
//! has confirmed it. Each of the parts is one task and owns its state (there is a `Pusher` for each way to
//! the devices); they meet only in the store and its watches.
//! Another one, `attendance`, tells who is there.

mod attendance;
mod brake;
mod broom;
mod crowd;
mod hall;
mod intake;
mod lane;
mod order;
mod presence;
mod publisher;
mod pusher;
mod refused_names;
mod steward;
#[cfg(test)]
mod tests;
mod upstream;

pub use hall::{Room, Settings};
pub use publisher::mark_copy;
pub use steward::offline;

use crate::chat::status::Status;
use crate::chat::way::Way;
use crate::mqtt;
use crate::ops::health::Readiness;
use crate::ops::metrics::{Metric, Metrics};
use crate::store::{Recovery, Store, StoreError};
use crate::transport;
use hall::Hall;
use std::sync::Arc;
use steward::{Steward, Watches};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Most events for an operator that wait to be published.
const EVENTS: usize = 64;

/// What a bridge is made of.
#[derive(Debug)]
pub struct Parts {
    /// The queue on disk.
    pub store: Store,
    /// What it found when it was opened.
    pub recovery: Recovery,
    /// The front door.
    pub mqtt: mqtt::Port,
    /// The back doors, one for each way to the devices; at least one.
    pub transports: Vec<(Way, transport::Port)>,
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
    /// Given by the lanes: the front door may close. They end once it has.
    pub quiet: CancellationToken,
}

/// Runs the lanes until both stops are given and the transport has ended.
///
/// # Errors
/// When the store is closed before the lanes are.
pub async fn run(settings: Settings, parts: Parts, stops: Stops) -> Result<(), StoreError> {
    let Parts { store, recovery, mqtt, transports, metrics, readiness } = parts;
    let (events_tx, events) = mpsc::channel(EVENTS);
    let health = store.health();
    let ways = transports.iter().map(|(way, _)| way.clone());
    let hall = Arc::new(Hall::new(settings, store, metrics, events_tx, &recovery, ways));
    // Before anything new comes in, which has to line up behind it.
    let routing = Arc::clone(&hall);
    let routed = hall.store.route_held(move |category| routing.route(category)).await?;
    if routed > 0 {
        tracing::info!(routed, "messages of devices that waited for a route have one now");
    }
    let presences = presence::Presences::new();
    let links = transports.iter().map(|(way, port)| (way.clone(), port.link.clone())).collect();
    let (door, clients) = (mqtt.door.clone(), mqtt.clients.clone());
    let watches = Watches { links, door, store: health, clients, events };
    let steward = Steward::new(Arc::clone(&hall), watches, mqtt.publish.clone(), readiness);
    let mqtt::Port { inbound, publish, former, door, readers, sightings, .. } = mqtt;
    let attendance = attendance::Attendance::new(Arc::clone(&hall), presences.clone(), publish.clone(), door.clone());
    let (words_tx, words) = mpsc::channel(attendance::WORDS);
    let front = publisher::Front { publish, door, readers, former };
    let publisher = publisher::Publisher::new(Arc::clone(&hall), presences, front, recovery.former);
    let intake = intake::Intake::new(Arc::clone(&hall), words_tx);

    let mut tasks = JoinSet::new();
    for (way, port) in transports {
        tasks.spawn(pusher::Pusher::new(Arc::clone(&hall), way, port).run(stops.intake.clone()));
    }
    tasks.spawn(broom::run(hall, stops.publish.clone()));
    tasks.spawn(intake.run(inbound, stops.intake.clone(), stops.quiet.clone()));
    let others = CancellationToken::new();
    let parting = publisher::Parting { stop: stops.publish.clone(), others: others.clone(), quiet: stops.quiet };
    tasks.spawn(publisher.run(parting));
    tasks.spawn(attendance.run(sightings, words, stops.publish.clone()));
    tasks.spawn(async move {
        let ended = steward.run(stops.publish).await;
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
