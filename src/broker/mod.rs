//! The embedded MQTT broker: the front door without an external broker.
//!
//! An engine (`mqtt5`) speaks the protocol; this folder decides. It accepts the connections, stands between each socket
//! and the engine (`gate`), turns the engine's events into [`Inbound`](crate::mqtt::Inbound) messages (`events`),
//! delivers the bridge's publications and knows which of them arrived (`confirm`, `sessions`), and says who may write
//! where (`auth`). It moves topics and bytes and knows no word of the chat.
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
//! * A will on a topic of the bridge comes in like any message, when the engine publishes it.
//! * At most [`BrokerLimits::unconfirmed`] publications are unconfirmed over all topics; then no more are taken. A
//!   subscriber that never acknowledges holds its own publications only, as long as the bridge keeps fewer than that
//!   open for it.
//! * Sessions and retained messages live as long as the process.
//!
//! The engine logs under the target `mqtt5`. Connecting, publishing and disconnecting in an orderly way, or by closing
//! the socket, it warns of nothing; it warns of clients that break rules, fall silent or stop reading.

mod accept;
mod acks;
mod auth;
mod confirm;
mod desk;
mod events;
mod filters;
mod frames;
mod gate;
mod link;
mod outgoing;
mod sessions;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::mqtt::{Door, Outlet};

/// How often expired sessions and messages are removed.
const SWEEP: Duration = Duration::from_secs(30);
/// How often it is told how many clients are connected.
const COUNT: Duration = Duration::from_secs(1);

/// Settings of the embedded broker.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where to listen. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Whether clients may connect without saying who they are. Only on a loopback address.
    pub anonymous: bool,
    /// The limits.
    pub limits: BrokerLimits,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 1883)), anonymous: true, limits: BrokerLimits::default() }
    }
}

/// Limits of the embedded broker. Whatever clients do, memory stays within them.
#[derive(Debug, Clone)]
pub struct BrokerLimits {
    /// Connections at a time; more wait in the listener's queue.
    pub connections: usize,
    /// The biggest packet of a client, and the biggest retained message, in bytes.
    pub packet_bytes: usize,
    /// How long a connection may take to say CONNECT.
    pub connect_timeout: Duration,
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
            connections: 10_000,
            packet_bytes: 256 * 1024,
            connect_timeout: Duration::from_secs(10),
            held_acks: 256,
            unconfirmed: 4_096,
            sessions: 50_000,
            session_expiry: Duration::from_secs(7 * 24 * 3600),
            subscriptions: 1_000,
            queued_messages: 10_000,
            queued_bytes: 64 * 1024 * 1024,
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
    /// The engine failed to start.
    #[error("the broker engine did not start: {0}")]
    Engine(String),
}

/// A broker that listens, but does not answer yet.
#[derive(Debug)]
pub struct Broker {
    listener: TcpListener,
    address: SocketAddr,
    config: BrokerConfig,
}

impl Broker {
    /// Checks the configuration and opens the socket.
    ///
    /// # Errors
    ///
    /// If the address is taken or cannot be used, is open to strangers, or a limit is 0.
    pub async fn bind(config: BrokerConfig) -> Result<Self, BrokerError> {
        config.check()?;
        let wanted = config.listen;
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BrokerError::Taken(wanted),
            _ => BrokerError::Listen { address: wanted, source },
        };
        let listener = TcpListener::bind(wanted).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, config })
    }

    /// The address, with the port that the system chose if the configuration said 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves clients until `stop`. Publications that are not confirmed by then are answered `Lost`.
    ///
    /// # Errors
    ///
    /// If the engine does not start.
    pub async fn run(self, outlet: Outlet, stop: CancellationToken) -> Result<(), BrokerError> {
        let Self { listener, address, config: BrokerConfig { anonymous, limits, .. } } = self;
        let Outlet { inbound, publish, door, readers, clients } = outlet;
        let ledger = Arc::new(confirm::Ledger::default());
        let desk = Arc::new(accept::desk(Arc::clone(&ledger), &limits));
        desk.router.initialize().await.map_err(|error| BrokerError::Engine(error.to_string()))?;
        let events = Arc::new(events::Events { desk: Arc::clone(&desk), inbound, readers, stop: stop.clone() });
        let sessions = limits.sessions;
        let rules = auth::Rules { anonymous, sessions, ledger: Arc::clone(&ledger), events: Arc::clone(&events) };
        let unconfirmed = limits.unconfirmed;
        let engine = accept::Engine::new(events, Arc::new(rules), limits);

        door.send_replace(Door::Open);
        info!(%address, "broker is open");
        let publishing =
            outgoing::run(publish, Arc::clone(&ledger), Arc::clone(&desk.router), unconfirmed, stop.clone());
        tokio::join!(
            engine.run(listener, stop.clone()),
            publishing,
            sweep(&desk, &stop),
            count(&ledger, clients, &stop)
        );
        door.send_replace(Door::Closed);
        ledger.close();
        info!(%address, "broker is closed");
        Ok(())
    }
}

impl BrokerConfig {
    fn check(&self) -> Result<(), BrokerError> {
        if self.anonymous && !self.listen.ip().is_loopback() {
            return Err(BrokerError::Exposed(self.listen));
        }
        let limits = &self.limits;
        let counts = [
            ("connections", limits.connections),
            ("packet_bytes", limits.packet_bytes),
            ("held_acks", limits.held_acks.into()),
            ("unconfirmed", limits.unconfirmed),
            ("sessions", limits.sessions),
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
