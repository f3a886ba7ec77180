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
//! a `DeviceIntake` for each transport). Messages go from one part to the other through the store and its watches only;
//! channels carry what clients say of their presence (`UserPresences`, `BalPresences`) and events for an operator
//! (`Context::events`). The `Publisher` runs only with an external broker: the embedded one reads the documents itself.
//!
//! Words:
//! - A BAL (business application layer) is a backend application; its name is the first level of its topics.
//! - The queue holds messages for devices, the spool what devices sent, until its BAL has it.
//! - A category is the package name of the app that a device's message comes from; routes choose the BAL by it.
//! - A `Recipient` is a hash of the token, topic or condition that a message goes to; order is kept per recipient.
//! - A `Life` is the state of a delivery with its attempts, as it is on disk.

mod announce;
mod attentions;
mod chat;
mod commands;
mod context;
mod device_intake;
mod dispatcher;
mod erasing;
mod expiry;
mod intake;
mod presence;
mod publisher;
mod refused_names;
mod refusing;
mod sending;
mod service_backoff;
pub mod settings;
#[cfg(test)]
mod tests;
mod topic_window;

pub use announce::offline;
pub use context::{BAL_BIRTHS, Settings};

use crate::chat::id::SidSource;
use crate::chat::status::Status;
use crate::chat::transport::Transport;
use crate::mqtt;
use crate::ops::clock::now_ms;
use crate::ops::control::ControlCall;
use crate::ops::health::Readiness;
use crate::ops::message_log;
use crate::ops::metrics::{Metric, Metrics};
use crate::store::{Recorded, Recovery, Store, StoreError};
use crate::transport;
use announce::{Announcer, Watched, Watches};
use attentions::Attentions;
use chat::{CallsKept, Remembered};
use commands::Commands;
use context::Context;
use dispatcher::Dispatcher;
use intake::Intake;
use presence::{BalPresences, UserPresences};
use publisher::Publisher;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Most events for an operator that wait to be published.
const EVENTS: usize = 64;
/// Most messages that chat users wrote by another way than MQTT, and that wait to be taken.
const OUTBOXES: usize = 64;

/// What the bridge takes over.
pub struct Parts {
    /// The queue on disk.
    pub store: Store,
    /// What it found when it was opened.
    pub recovery: Recovery,
    /// The bridge's end of the port to the broker.
    pub mqtt: mqtt::Port,
    /// At least one; each transport once.
    pub transports: Vec<(Transport, transport::Port)>,
    /// What operators ask of it on this machine.
    pub control: mpsc::Receiver<ControlCall>,
    /// Shared with whoever serves `/metrics`.
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
    /// Given by the bridge: the broker may close. The bridge ends once it has.
    pub quiet: CancellationToken,
}

/// Runs the bridge until both stops are given and the transport has ended.
///
/// # Errors
/// When the store is closed before the bridge has ended.
pub async fn run(settings: Settings, parts: Parts, stops: Stops) -> Result<(), StoreError> {
    let Parts { store, recovery, mqtt, transports, control, metrics, readiness } = parts;
    let mqtt::Port { capabilities: broker, inbound, publish, broker_link, readers, trouble, .. } = mqtt;
    let (broker_sessions, broker_connections) = (mqtt.sessions, mqtt.connections);
    let (clients, sightings, notices) = (mqtt.clients, mqtt.sightings, mqtt.notices);
    let (directory, confirmations) = (mqtt.directory, mqtt.confirmations);
    let (events_tx, events) = mpsc::channel(EVENTS);
    let (presences_tx, presences) = mpsc::channel(presence::PRESENCES);
    let (visibility, evictions) = (mqtt.visibility, mqtt.evictions);
    let capabilities = transports.iter().map(|(transport, port)| (transport.clone(), port.capabilities)).collect();
    let sids = Mutex::new(SidSource::after(recovery.last_sid));
    let written = tokio::sync::Mutex::new(());
    let bal_presences = BalPresences::default();
    let attentions = Attentions::new(settings.chat.attended).with(settings.chat.push_when);
    let remembered = Remembered::new(&settings.chat, &settings.limits);
    let context = Context {
        settings,
        store,
        metrics,
        events: events_tx,
        presences: presences_tx,
        visibility,
        evictions,
        erasing: Default::default(),
        erase_begun: Default::default(),
        publish,
        bal_presences,
        broker_sessions,
        queue_full: Default::default(),
        sending: Default::default(),
        calls_kept: CallsKept::new(now_ms()),
        attentions,
        remembered,
        scheduled: Notify::new(),
        broker,
        directory,
        capabilities,
        sids,
        written,
    };
    let context = Arc::new(context);
    if !context.broker.sees_clients {
        context.bal_presences.recover(context.store.bals_away().await?.await?);
    }
    let routed = device_intake::give_routes(&context).await?;
    if routed > 0 {
        tracing::info!(routed, "messages of devices that waited for a route have one now");
    }
    let user_presences = UserPresences::new(Arc::clone(&context), broker_link.clone());
    let (outboxes, written) = mpsc::channel(OUTBOXES);
    let (commanded, commands) = mpsc::channel(commands::WAITING_MAX);
    let intake = Intake::new(Arc::clone(&context), commanded);

    let mut tasks = JoinSet::new();
    let mut watched = Vec::with_capacity(transports.len());
    for (transport, port) in transports {
        let (link, snapshot) = (port.link.clone(), port.snapshot.clone());
        let (dispatcher, device_intake) =
            Dispatcher::new(Arc::clone(&context), transport.clone(), port, outboxes.clone());
        let (pause, paused) = (dispatcher.pauses(), context.sending.paused());
        watched.push(Watched { transport, link, snapshot, pause, paused });
        tasks.spawn(dispatcher.run(stops.intake.clone()));
        tasks.spawn(device_intake.run());
    }
    let (transports, store) = (watched, context.store.health());
    let broker_trouble = trouble;
    let watches = Watches { transports, broker_link: broker_link.clone(), broker_trouble, store, clients, events };
    let announce = Announcer::new(Arc::clone(&context), watches, readiness);
    tasks.spawn(chat::watch_pushes(Arc::clone(&context), confirmations, stops.publish.clone()));
    tasks.spawn(intake.schedule().run(broker_link.clone(), stops.publish.clone()));
    tasks.spawn(Commands::new(Arc::clone(&context)).run((control, commands), stops.intake.clone()));
    tasks.spawn(erasing::resume(Arc::clone(&context), stops.intake.clone()));
    tasks.spawn(expiry::run(Arc::clone(&context), stops.publish.clone()));
    tasks.spawn(intake.run((inbound, written), notices, stops.intake.clone(), stops.quiet.clone()));
    tasks.spawn(user_presences.run(sightings, presences, stops.publish.clone()));
    let announced = CancellationToken::new();
    if context.broker.takes_documents {
        let (quiet, announced) = (stops.quiet.clone(), announced.clone());
        tasks.spawn(async move {
            announced.cancelled().await;
            quiet.cancel();
            Ok(())
        });
    } else {
        let publisher = Publisher::new(Arc::clone(&context), (broker_link, broker_connections), readers);
        tasks.spawn(publisher.run(stops.clone(), announced.clone()));
    }
    tasks.spawn(async move {
        let ended = announce.run(stops.publish).await;
        announced.cancel();
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

/// Counts and logs the statuses of a delivery that are on disk now.
pub fn count_told(metrics: &Metrics, recorded: &Recorded) {
    let Recorded::Moved { bal, id, told, .. } = recorded else { return };
    for status in *told {
        match status {
            Status::Sent => metrics.count(Metric::DownstreamSent),
            Status::Delivered => metrics.count(Metric::DownstreamDelivered),
            Status::Failed => metrics.count(Metric::DownstreamFailed),
            Status::Expired => metrics.count(Metric::DownstreamExpired),
            Status::Accepted | Status::Read | Status::Cancelled => {}
        }
        // Of a push of the bridge's own it is the user that it is for.
        tracing::debug!(target: message_log::TARGET, of = bal, id, status = status.word(), "status on disk");
    }
}
