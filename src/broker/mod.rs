//! The embedded MQTT broker: the front door without an external broker.
//!
//! An engine (`mqtt5`) speaks the protocol; this folder decides. It accepts the connections, stands between each socket
//! and the engine (`gate`), turns the engine's events into [`Inbound`](crate::mqtt::Inbound) messages (`events`),
//! delivers the bridge's publications and knows which of them arrived (`confirm`, `sessions`), finds out who somebody is
//! (`identity`, asked by `admission`), says who may write and read what (`access`, asked through `auth`), and why somebody
//! is refused or cut off (`refusals`). It moves topics and bytes and knows no word of the chat but those that the access
//! rules name.
//!
//! What the bridge may rely on:
//!
//! * A PUBACK (QoS 1) or PUBREC (QoS 2) for a topic of the bridge leaves only after the bridge said
//!   [`AckWord::Done`](crate::mqtt::AckWord::Done), in the order of the messages. A message that the bridge lets go
//!   without a word ends the publisher's connection, so that it is sent again.
//! * A publication at QoS 1 is `Confirmed` when a subscriber acknowledged it (if all have QoS 0: when it is on the
//!   socket), `NoReader` when no connected session has a matching subscription, `Lost` when the last connected session
//!   that had a copy went. Retained publications and those at QoS 0 are `Confirmed` at once, and so is one that is
//!   bigger than all its readers take, as MQTT 5 wants it (3.1.2.11.4).
//! * What comes in on `{user}/...` comes from that user, unless anonymous clients are allowed, and says who that is
//!   ([`Principal`](crate::chat::principal::Principal)): by the log-in of the connection, of a will by that of who left it. Nobody is delivered what
//!   the access rules ([`Rights`](crate::chat::access::Rights)) do not let them read, and who may not read a publication is no reader of it.
//! * A session belongs to a user and a client id. Only the engine knows it by one key ([`identity`]).
//! * A will on a topic of the bridge comes in like any message, when the engine publishes it.
//! * Each connection of somebody who logged in is told when it begins, before anything it says, and once when it ends,
//!   before its will ([`Sighting`](crate::mqtt::Sighting)). A DISCONNECT with reason 0 is a goodbye; every other end,
//!   a take-over too, is a break.
//! * At most [`BrokerLimits::unconfirmed`] publications are unconfirmed over all topics; then no more are taken. A
//!   subscriber that never acknowledges holds its own publications only, as long as the bridge keeps fewer than that
//!   open for it.
//! * Sessions, their subscriptions and retained messages are on disk before they are acknowledged, if there is a folder
//!   for them ([`BrokerConfig::data`]). What was sent to a session and not acknowledged outlives an orderly stop; after
//!   a crash the bridge publishes it again.
//!
//! The engine logs under the target `mqtt5`. Connecting, publishing and disconnecting in an orderly way, or by closing
//! the socket, it warns of nothing; it warns of clients that break rules, fall silent or stop reading.

mod acks;
mod admission;
mod auth;
mod confirm;
mod connection;
mod desk;
mod disk;
mod engine;
mod events;
mod faults;
mod filters;
mod former_keys;
mod frames;
mod gate;
mod hub;
pub mod identity;
mod import;
mod link;
mod listen;
mod outgoing;
mod parked;
mod readers;
mod refusals;
mod routing;
mod seats;
mod serving;
mod session;
mod sessions;
mod settings;
mod turns;
mod wills;
mod wire;

pub use refusals::TARGET as REFUSALS;
pub use settings::{BrokerConfig, BrokerLimits, JwtConfig, Listen, TlsFiles};

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::mqtt::{BrokerLink, Former, MarkCopy, Outlet};
use crate::ops::metrics::Metrics;
use crate::store::{Recorded, Store, StoreError};
use disk::{Disk, Past};
use listen::Listeners;
pub use listen::TlsError;

/// How often expired sessions and messages are removed.
const SWEEP: Duration = Duration::from_secs(30);
/// How often it is told how many clients are connected.
const COUNT: Duration = Duration::from_secs(1);

/// Why the broker cannot run.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// Somebody else has the port.
    #[error("{0} is taken by another process")]
    Taken(SocketAddr),
    /// Anybody who reaches the address could read and write everything.
    #[error("{0} is not a loopback address, where anonymous clients are not allowed")]
    Exposed(SocketAddr),
    /// There is no listener.
    #[error("no listener is configured")]
    Nowhere,
    /// The address cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A limit that leaves no room for anything.
    #[error("limit `{0}` must be at least 1")]
    NoRoom(&'static str),
    /// The folder of sessions and retained messages cannot be used.
    #[error("the broker's folder {}: {reason}", .folder.display())]
    Data {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The users file or a key of tokens is missing or wrong.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// TLS without a certificate.
    #[error("a TLS listener is configured, but no certificate and key for it")]
    NoCertificate,
    /// The certificate or what belongs to it cannot be used.
    #[error("the TLS listeners cannot start: {0}")]
    Tls(#[from] TlsError),
    /// The engine failed to start.
    #[error("the broker engine did not start: {0}")]
    Engine(String),
}

/// A broker that listens, but does not answer yet.
#[derive(Debug)]
pub struct Broker {
    listeners: Listeners,
    doorman: Arc<identity::Doorman>,
    files: identity::Watch,
    config: BrokerConfig,
}

/// Where the listeners are, with the ports that the system chose where the configuration said 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bound {
    /// MQTT over TCP.
    pub tcp: Option<SocketAddr>,
    /// MQTT over TLS.
    pub tls: Option<SocketAddr>,
    /// MQTT over WebSocket.
    pub ws: Option<SocketAddr>,
    /// MQTT over WebSocket over TLS.
    pub wss: Option<SocketAddr>,
}

/// What a running broker needs besides its end of the port.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// How copies are marked of which nobody knows whether they were acknowledged.
    pub mark_copy: Option<MarkCopy>,
    /// Where sessions and documents are.
    pub store: Option<Store>,
    /// Counts what became of a delivery.
    pub told: fn(&Metrics, &Recorded),
    /// Changes when the operator wants users, keys and certificates to be read again.
    pub reload: watch::Receiver<u64>,
}

impl Broker {
    /// Checks the configuration, reads users and keys, and opens the sockets.
    ///
    /// # Errors
    ///
    /// If an address is taken or cannot be used, is open to strangers, a limit is 0, or a file of users or keys is wrong.
    pub async fn bind(config: BrokerConfig) -> Result<Self, BrokerError> {
        config.check()?;
        let files = identity::Watch::new(&config);
        let doorman = Arc::new(identity::Doorman::new(&config)?);
        let listeners = Listeners::bind(&config.listen)?;
        Ok(Self { listeners, doorman, files, config })
    }

    /// Checks the configuration and reads users, keys and certificates, as [`Broker::bind`] does; opens no sockets.
    ///
    /// # Errors
    ///
    /// If something is open to strangers, a limit is 0, or a file or folder cannot be used.
    pub fn check(config: &BrokerConfig) -> Result<(), BrokerError> {
        config.check()?;
        identity::Doorman::new(config)?;
        Listeners::check(&config.listen)?;
        config.data.as_deref().map_or(Ok(()), Disk::check)
    }

    /// Whether its sessions are in the store.
    pub fn is_core(&self) -> bool {
        self.config.core
    }

    /// The addresses.
    pub fn addresses(&self) -> Bound {
        self.listeners.addresses()
    }

    /// Serves clients until `stop`. Publications that are not confirmed by then are answered `Lost`.
    ///
    /// # Errors
    ///
    /// If the engine does not start.
    pub async fn run(
        self,
        outlet: Outlet,
        surroundings: Surroundings,
        stop: CancellationToken,
    ) -> Result<(), BrokerError> {
        if self.config.core {
            return self.run_core(outlet, surroundings, stop).await;
        }
        let Self { listeners, doorman, files, config: BrokerConfig { data, limits, .. } } = self;
        let Outlet { inbound, publish, former, broker_link, readers, clients, sightings } = outlet;
        let Surroundings { metrics, reload, mark_copy, .. } = surroundings;
        let (disk, past) = Disk::open(data.as_deref(), engine::queues(&limits)).await?;
        former_keys::adopt(&disk).await;
        let desk = Arc::new(engine::desk(disk, &limits, mark_copy));
        let unconfirmed = Arc::new(Semaphore::new(limits.unconfirmed));
        recover(&desk, &limits).await?;
        desk.restore(past, |user| doorman.rights_of(user)).await;
        claims(&desk, former, past, &unconfirmed, &stop).await;

        let refusals = Arc::new(refusals::Refusals::new(metrics));
        let events = Arc::new(events::Events {
            desk: Arc::clone(&desk),
            inbound,
            readers,
            sightings,
            refusals: Arc::clone(&refusals),
            stop: stop.clone(),
        });
        let admission = admission::Admission {
            doorman: Arc::clone(&doorman),
            ledger: Arc::clone(&desk.ledger),
            sessions: limits.sessions,
            turns: Arc::default(),
            publish_rate: NonZeroU32::new(limits.publish_rate),
            refusals: Arc::clone(&refusals),
        };
        let rules = auth::Rules { doorman: Arc::clone(&doorman), events, refusals };
        let engine = serving::Engine::Former(Arc::new(engine::Engine::new(rules, admission, limits)));

        broker_link.send_replace(BrokerLink::Up);
        info!(addresses = ?listeners.addresses(), "broker is open");
        tokio::join!(
            listeners.run(engine, reload.clone(), stop.clone()),
            outgoing::run(publish, &desk, unconfirmed, &stop),
            desk.keep_written(&stop),
            sweep(&desk, &stop),
            files.run(&doorman, reload, &stop),
            count(&desk.ledger, clients, &stop)
        );
        broker_link.send_replace(BrokerLink::Down);
        desk.close().await;
        info!("broker is closed");
        Ok(())
    }
}

impl Broker {
    async fn run_core(
        self,
        outlet: Outlet,
        surroundings: Surroundings,
        stop: CancellationToken,
    ) -> Result<(), BrokerError> {
        let Self { listeners, doorman, files, config: BrokerConfig { data, limits, .. } } = self;
        let Outlet { inbound, publish, broker_link, clients, sightings, .. } = outlet;
        let Surroundings { metrics, reload, store, told, .. } = surroundings;
        let store = store.ok_or_else(|| BrokerError::Engine("without a store".to_owned()))?;
        let refusals = Arc::new(refusals::Refusals::new(metrics));
        let parts = hub::Parts {
            limits,
            refusals,
            store,
            told,
            doorman: Arc::clone(&doorman),
            inbound,
            sightings,
            stop: stop.clone(),
        };
        let hub = hub::Hub::new(parts);
        let failed = |error: StoreError| BrokerError::Engine(error.to_string());
        let import = match data {
            Some(folder) => hub.import(&folder).await?,
            None => None,
        };
        hub.restore().await.map_err(failed)?;
        if let Some(import) = import {
            hub.finish_import(import).await?;
        }
        broker_link.send_replace(BrokerLink::Up);
        info!(addresses = ?listeners.addresses(), "broker is open");
        let closed = CancellationToken::new();
        let listening = listeners.run(serving::Engine::Core(Arc::clone(&hub)), reload.clone(), stop.clone());
        tokio::join!(
            async {
                listening.await;
                closed.cancel();
            },
            hub.work(publish, clients, &closed),
            files.run(&doorman, reload, &stop),
        );
        broker_link.send_replace(BrokerLink::Down);
        info!("broker is closed");
        Ok(())
    }
}

/// Lets the engine read what it has on disk.
async fn recover(desk: &desk::Desk, limits: &BrokerLimits) -> Result<(), BrokerError> {
    let failed = |error: mqtt5::MqttError| BrokerError::Engine(error.to_string());
    desk.router.initialize().await.map_err(failed)?;
    let longest = u32::try_from(limits.session_expiry.as_secs()).unwrap_or(u32::MAX);
    let sessions = desk.router.recover_sessions(longest).await.map_err(failed)?;
    let retained = desk.router.retained_count().await;
    info!(sessions, retained, "broker has read its folder");
    Ok(())
}

/// Hears what the bridge may have published in an earlier run, and leaves it with the sessions that have it; or takes
/// it from them, if it is not sure that they have all of it.
async fn claims(
    desk: &desk::Desk,
    mut former: mpsc::Receiver<Former>,
    past: Past,
    unconfirmed: &Arc<Semaphore>,
    stop: &CancellationToken,
) {
    let mut unwanted = HashSet::new();
    while let Some(Some(claim)) = stop.run_until_cancelled(former.recv()).await {
        if past == Past::Torn {
            let topic = claim.topic.as_bytes();
            unwanted.extend(claim.payloads.iter().map(|payload| confirm::mark(topic, payload)));
        }
        desk.ledger.adopt(claim, Arc::clone(unconfirmed).try_acquire_owned().ok());
    }
    match past {
        Past::Whole => desk.ledger.adopted(),
        Past::Torn => desk.cleanse(&unwanted).await,
    }
}

async fn count(ledger: &confirm::Ledger, clients: watch::Sender<Option<usize>>, stop: &CancellationToken) {
    let mut rounds = interval(COUNT);
    while stop.run_until_cancelled(rounds.tick()).await.is_some() {
        clients.send_replace(Some(ledger.connected()));
    }
}

async fn sweep(desk: &desk::Desk, stop: &CancellationToken) {
    let mut rounds = interval(SWEEP);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut suspects = HashSet::new();
    while stop.run_until_cancelled(rounds.tick()).await.is_some() {
        desk.sweep(&mut suspects).await;
    }
}
