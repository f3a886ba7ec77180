//! The embedded MQTT broker: MQTT 3.1.1 and 5, with its sessions in the store.
//!
//! ```text
//!  listen ── TCP, TLS, WebSocket ──▶ connection ── wire: bytes to packets and back
//!                                        │   ▲
//!                          PUBLISH, ...  ▼   │ session: queue, window, packet identifiers
//!                                       hub ── routing: who reads a topic
//!                                        │   ▲
//!                      bridge ◀─ Inbound ┤   │ what each commit brought
//!                                        ▼   │
//!                                       store
//! ```
//!
//! A PUBLISH is parsed, and judged for its size, in `wire`; for the rights of its client in `connection/publish`; it is
//! routed and stored from `hub/publish`; its acknowledgement is held in `connection/held` until the store has committed it
//! (`store/sqlite/sessions/queue`). That a client has a document is told to the store in `hub/documents`.
//!
//! What clients, and the bridge, may rely on:
//!
//! * A PUBACK (QoS 1) or PUBREC (QoS 2) leaves after everything it promises is on disk: the rows of the lasting sessions that
//!   get the message, its place among the retained ones, its packet identifier at QoS 2; and, on a topic of the bridge,
//!   after its [`AckWord`](crate::mqtt::AckWord). They leave in the order of the messages. A message that the bridge lets go
//!   without a word ends its publisher's connection, so that it comes again.
//! * The bridge's documents stay in the store's outbox until a reader has one at QoS 1, or, where nobody reads its topic at
//!   more than QoS 0, until it is on the socket of one. Other lasting sessions get it all the same. Those for chat users
//!   ([`Origin::is_dropped_unread`](crate::store::Origin::is_dropped_unread)) are dropped while no connection and no lasting
//!   session reads their topic.
//! * What may have been sent before has the flag DUP, also after a crash.
//! * What comes in on `{user}/...` comes from that user, unless anonymous clients are allowed, and says who that is
//!   ([`Principal`](crate::chat::principal::Principal)): by the log-in of the connection, of a will by that of who left it. Nobody is delivered what
//!   the access rules ([`Rights`](crate::chat::access::Rights)) do not let them read.
//! * A session belongs to a user and a client id. A connection that takes one over gets its CONNACK after the one before
//!   has ended wholly, its will included.
//! * Each connection of somebody who logged in is told when it begins, before anything it says, and once when it ends,
//!   before its will ([`Sighting`](crate::mqtt::Sighting)). A DISCONNECT with reason 0 is a goodbye; every other end,
//!   a take-over too, is a break.
//! * Memory depends on how many clients, subscriptions and topics of retained messages there are, within limits with names
//!   ([`BrokerLimits`]), and not on what waits.
//! * While the disk refuses, what needs it is not acknowledged; everything else goes on.

mod connection;
mod connection_limits;
mod hub;
pub mod identity;
mod import;
mod listen;
mod refusals;
mod routing;
mod session;
mod settings;
mod wire;

pub use refusals::TARGET as REFUSALS;
pub use settings::{BrokerConfig, BrokerLimits, Engine, JwtConfig, Listen, TlsFiles};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::mqtt::{BrokerLink, Outlet};
use crate::ops::files::FileWatch;
use crate::ops::metrics::Metrics;
use crate::store::{Recorded, Store, StoreError};
use hub::Hub;
use listen::Listeners;
pub use listen::TlsError;

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
    /// The folder in which an earlier release kept sessions and retained messages cannot be read.
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
    /// The store was closed, or failed, before the broker had read its sessions.
    #[error("the sessions of the broker could not be read")]
    Store(#[from] StoreError),
}

/// A broker that listens, but does not answer yet.
#[derive(Debug)]
pub struct Broker {
    listeners: Listeners,
    authenticator: Arc<identity::Authenticator>,
    files: FileWatch,
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
pub struct BrokerDependencies {
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Where sessions and documents are.
    pub store: Store,
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
    /// If an address is taken or cannot be used, is open to strangers, `held_acks` is 0, or a file of users or
    /// keys is wrong.
    pub async fn bind(config: BrokerConfig) -> Result<Self, BrokerError> {
        check(&config)?;
        let files = identity::watched_files(&config);
        let authenticator = Arc::new(identity::Authenticator::new(&config)?);
        let listeners = Listeners::bind(&config.listen)?;
        Ok(Self { listeners, authenticator, files, config })
    }

    /// Checks the configuration and reads users, keys and certificates, as [`Broker::bind`] does; opens no sockets.
    ///
    /// # Errors
    ///
    /// If something is open to strangers, `held_acks` is 0, or a file or folder cannot be used.
    pub fn check(config: &BrokerConfig) -> Result<(), BrokerError> {
        check(config)?;
        identity::Authenticator::new(config)?;
        Listeners::check(&config.listen)?;
        match config.data.as_deref().map(|folder| (folder, std::fs::metadata(folder))) {
            Some((folder, Ok(found))) if !found.is_dir() => {
                let reason = io::Error::from(io::ErrorKind::NotADirectory).to_string();
                Err(BrokerError::Data { folder: folder.to_owned(), reason })
            }
            _ => Ok(()),
        }
    }

    /// Where the sockets were bound, with the ports that the system chose.
    pub fn addresses(&self) -> Bound {
        self.listeners.bound
    }

    /// Serves clients until `stop`.
    ///
    /// # Errors
    ///
    /// If the store is closed before the first client is served, or the folder of an earlier release cannot be read.
    pub async fn run(
        self,
        outlet: Outlet,
        dependencies: BrokerDependencies,
        stop: CancellationToken,
    ) -> Result<(), BrokerError> {
        let Self { listeners, authenticator, files, config } = self;
        let BrokerConfig { data, limits, autosubscribe, group_delivery, .. } = config;
        let Outlet {
            inbound,
            publish,
            broker_link,
            clients,
            sightings,
            confirmations,
            notices,
            directory,
            visibility,
            evictions,
            ..
        } = outlet;
        let BrokerDependencies { metrics, reload, store, told } = dependencies;
        let dependencies = hub::HubDependencies {
            limits,
            autosubscribe,
            group_delivery,
            refusals: Arc::new(refusals::Refusals::new(metrics)),
            store,
            told,
            authenticator: Arc::clone(&authenticator),
            inbound,
            sightings,
            confirmations,
            notices,
            stop: stop.clone(),
        };
        let hub = Hub::new(dependencies);
        directory.answer_from(hub::KnownUsers(Arc::downgrade(&hub)));
        let import = match data {
            Some(folder) => hub.import(&folder).await?,
            None => None,
        };
        hub.restore().await?;
        if let Some(import) = import {
            hub.finish_import(import).await?;
        }
        broker_link.send_replace(BrokerLink::Up);
        let Bound { tcp, tls, ws, wss } = listeners.bound;
        let [tcp, tls, ws, wss] = [tcp, tls, ws, wss].map(|address| address.map(tracing::field::display));
        info!(tcp, tls, ws, wss, "broker is open");
        let closed = CancellationToken::new();
        let listening = listeners.run(Arc::clone(&hub), reload.clone(), stop.clone());
        tokio::join!(
            async {
                listening.await;
                closed.cancel();
            },
            hub.work((publish, visibility), evictions, clients, &closed),
            authenticator.keep(files, reload, &stop),
        );
        broker_link.send_replace(BrokerLink::Down);
        info!("broker is closed");
        Ok(())
    }
}

fn check(config: &BrokerConfig) -> Result<(), BrokerError> {
    match config.exposed() {
        Some((_, address)) => Err(BrokerError::Exposed(address)),
        None if config.limits.held_acks == 0 => Err(BrokerError::NoRoom("held_acks")),
        None => Ok(()),
    }
}
