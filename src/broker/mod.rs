//! The embedded MQTT broker: the front door without an external broker.
//!
//! An engine (`mqtt5`) speaks the protocol; this folder decides. It accepts the connections, stands between each socket
//! and the engine (`gate`), turns the engine's events into [`Inbound`](crate::mqtt::Inbound) messages (`events`),
//! delivers the bridge's publications and knows which of them arrived (`confirm`, `sessions`), finds out who somebody is
//! (`identity`) and says who may write and read what (`access`, asked through `auth`). It moves topics and bytes and knows
//! no word of the chat but those that the access rules name.
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
//! * What comes in on `{user}/...` comes from that user, unless anonymous clients are allowed. Nobody is delivered what
//!   [`access`] does not let them read, and who may not read a publication is no reader of it.
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

pub mod access;
mod acks;
mod auth;
mod confirm;
mod desk;
mod disk;
mod engine;
mod events;
mod faults;
mod filters;
mod frames;
mod gate;
pub mod identity;
mod link;
mod listen;
mod outgoing;
mod parked;
mod seats;
mod sessions;
mod turns;

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

use crate::mqtt::{Door, Former, MarkCopy, Outlet};
use crate::ops::metrics::Metrics;
use disk::{Disk, Past};
use listen::Listeners;
pub use listen::TlsError;

/// How often expired sessions and messages are removed.
const SWEEP: Duration = Duration::from_secs(30);
/// How often it is told how many clients are connected.
const COUNT: Duration = Duration::from_secs(1);

/// Settings of the embedded broker.
#[derive(Debug, Clone, Default)]
pub struct BrokerConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Whether clients may connect without saying who they are. Only if all listeners are on loopback addresses.
    pub anonymous: bool,
    /// The users file. See [`identity`].
    pub users_file: Option<PathBuf>,
    /// How JSON Web Tokens are checked; `None` takes none.
    pub jwt: Option<JwtConfig>,
    /// The folder for sessions and retained messages; `None` keeps them in memory, as long as the process lives.
    pub data: Option<PathBuf>,
    /// The limits.
    pub limits: BrokerLimits,
}

/// Where the broker listens. Port 0 takes any free one.
#[derive(Debug, Clone, Default)]
pub struct Listen {
    /// MQTT over TCP.
    pub tcp: Option<SocketAddr>,
    /// MQTT over TLS.
    pub tls: Option<SocketAddr>,
    /// MQTT over WebSocket, path `/mqtt`.
    pub ws: Option<SocketAddr>,
    /// MQTT over WebSocket over TLS, path `/mqtt`.
    pub wss: Option<SocketAddr>,
    /// Certificate and key, for `tls` and `wss`.
    pub identity: Option<TlsFiles>,
    /// Web pages from these origins may connect (`https://chat.example.com`); empty: from any. Clients that are no
    /// browsers send no origin and are not asked.
    pub origins: Vec<String>,
    /// Whether a proxy in front says whom it speaks for (PROXY protocol, version 1 or 2), on all listeners.
    pub proxy_protocol: bool,
}

impl Listen {
    /// MQTT over TCP only.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self { tcp: Some(address), ..Self::default() }
    }
}

/// The files of a TLS listener, PEM. Read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Whose client certificates are taken. If set, a client must have one.
    pub client_ca: Option<PathBuf>,
}

/// Which JSON Web Tokens are taken as passwords (RFC 7519). `sub` is the user, `exp` ends the connection, and `role`
/// is `user` (also without it), `bal` or `admin`.
#[derive(Debug, Clone, Default)]
pub struct JwtConfig {
    /// HS256: a file with the secret.
    pub secret_file: Option<PathBuf>,
    /// RS256 or ES256: a file with the public key, PEM.
    pub key_file: Option<PathBuf>,
    /// RS256 or ES256: a file with a JSON Web Key Set (RFC 7517).
    pub jwks_file: Option<PathBuf>,
    /// What `aud` must hold, if set.
    pub audience: Option<String>,
    /// What `iss` must be, if set.
    pub issuer: Option<String>,
}

/// Limits of the embedded broker. Whatever clients do, memory stays within them.
#[derive(Debug, Clone)]
pub struct BrokerLimits {
    /// Connections at a time, over all listeners; more wait in the listener's queue.
    pub connections: usize,
    /// Connections at a time from one address.
    pub connections_per_address: usize,
    /// Connections at a time of one user.
    pub connections_per_user: usize,
    /// How long a connection may take from its first byte to CONNECT: PROXY header, TLS, WebSocket and CONNECT together.
    pub connect_timeout: Duration,
    /// Failed log-ins from one address within a minute; what comes beyond is refused unchecked.
    pub login_failures_per_minute: u32,
    /// The biggest packet of a client, and the biggest retained message, in bytes.
    pub packet_bytes: usize,
    /// The longest topic or filter, in bytes.
    pub topic_bytes: usize,
    /// Levels of a topic or filter.
    pub topic_levels: usize,
    /// Messages of one chat user's connection per second; who sends more is read more slowly. BALs are held up by the
    /// disk alone.
    pub publish_rate: u32,
    /// Acknowledgements held back per connection. A client that sends more is not read until some are released; MQTT 5
    /// clients are told the number.
    pub held_acks: u16,
    /// Publications of the bridge that are not confirmed, over all topics. Also to be kept below `queued_messages`.
    pub unconfirmed: usize,
    /// Sessions, connected or not.
    pub sessions: usize,
    /// The longest time for which a session is kept without a connection.
    pub session_expiry: Duration,
    /// Subscriptions of one client.
    pub subscriptions: usize,
    /// Messages sent to one client that it has not acknowledged.
    pub inflight: u16,
    /// Messages that wait for one session; the oldest go first.
    pub queued_messages: usize,
    /// The same, in bytes.
    pub queued_bytes: usize,
    /// Retained messages.
    pub retained_messages: usize,
}

impl Default for BrokerLimits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_address: 10_000,
            connections_per_user: 1_000,
            connect_timeout: Duration::from_secs(10),
            login_failures_per_minute: 60,
            packet_bytes: 256 * 1024,
            topic_bytes: 1_024,
            topic_levels: 16,
            publish_rate: 200,
            held_acks: 256,
            unconfirmed: 4_096,
            sessions: 50_000,
            session_expiry: Duration::from_secs(7 * 24 * 3600),
            subscriptions: 1_000,
            inflight: 64,
            queued_messages: 10_000,
            queued_bytes: 4 * 1024 * 1024,
            retained_messages: 100_000,
        }
    }
}

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

    /// The addresses.
    #[must_use]
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
        let Self { listeners, doorman, files, config: BrokerConfig { data, limits, .. } } = self;
        let Outlet { inbound, publish, former, door, readers, clients, sightings } = outlet;
        let Surroundings { metrics, reload, mark_copy } = surroundings;
        let (disk, past) = Disk::open(data.as_deref(), engine::queues(&limits)).await?;
        let desk = Arc::new(engine::desk(disk, &limits, mark_copy));
        let unconfirmed = Arc::new(Semaphore::new(limits.unconfirmed));
        recover(&desk, &limits).await?;
        desk.restore(past, |user| doorman.rights_of(user)).await;
        claims(&desk, former, past, &unconfirmed, &stop).await;

        let events =
            Arc::new(events::Events { desk: Arc::clone(&desk), inbound, readers, sightings, stop: stop.clone() });
        let sessions = limits.sessions;
        let rules = auth::Rules {
            doorman: Arc::clone(&doorman),
            sessions,
            turns: Arc::default(),
            publish_rate: NonZeroU32::new(limits.publish_rate),
            events: Arc::clone(&events),
            metrics: Arc::clone(&metrics),
        };
        let engine = Arc::new(engine::Engine::new(events, Arc::new(rules), limits, metrics));

        door.send_replace(Door::Open);
        info!(addresses = ?listeners.addresses(), "broker is open");
        tokio::join!(
            listeners.run(engine, reload.clone(), stop.clone()),
            outgoing::run(publish, &desk, unconfirmed, &stop),
            desk.keep_written(&stop),
            sweep(&desk, &stop),
            files.run(&doorman, reload, &stop),
            count(&desk.ledger, clients, &stop)
        );
        door.send_replace(Door::Closed);
        desk.close().await;
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

impl BrokerConfig {
    fn check(&self) -> Result<(), BrokerError> {
        let Listen { tcp, tls, ws, wss, .. } = &self.listen;
        let exposed = [tcp, tls, ws, wss].into_iter().flatten().find(|address| !address.ip().is_loopback());
        if let (true, Some(address)) = (self.anonymous, exposed) {
            return Err(BrokerError::Exposed(*address));
        }
        let limits = &self.limits;
        let counts = [
            ("connections", limits.connections),
            ("connections_per_address", limits.connections_per_address),
            ("connections_per_user", limits.connections_per_user),
            ("packet_bytes", limits.packet_bytes),
            ("topic_bytes", limits.topic_bytes),
            ("topic_levels", limits.topic_levels),
            ("held_acks", limits.held_acks.into()),
            ("unconfirmed", limits.unconfirmed),
            ("sessions", limits.sessions),
            ("inflight", limits.inflight.into()),
            // The engine takes 0 for "no limit" in the next two.
            ("subscriptions", limits.subscriptions),
            ("retained_messages", limits.retained_messages),
            ("queued_messages", limits.queued_messages),
            ("queued_bytes", limits.queued_bytes),
        ];
        match counts.iter().find(|(_, count)| *count == 0) {
            Some((name, _)) => Err(BrokerError::NoRoom(name)),
            None => Ok(()),
        }
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
