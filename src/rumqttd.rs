//! rumqttd as the engine of the embedded broker (`[broker] engine = "rumqttd"`): on loopback, in memory.
//!
//! ```text
//!   clients ──► listen ──► thread `rumqttd`: a task per client ──► thread `router-0`: sessions, messages
//!                 ▲
//!   mqtt/ ────────┘  the bridge is one of the clients; a PUBACK says that rumqttd has the message, no more
//! ```
//!
//! # Why
//!
//! It is a fast broker that many know, and enough for one machine whose clients are trusted. It has no access rules,
//! forgets everything with the process, and some of what clients may well do ends it for all. What can be kept from it
//! there, the wire keeps (`wire`); what cannot (a DISCONNECT amid many messages may panic the router), the bridge does
//! not outlive. So it stays on loopback, and says so at each start.
//!
//! Its parts are driven one by one instead of by its `Broker`, which neither returns when the router fails nor can be
//! stopped, and would have a port for each MQTT version. Its in-process link is no way in for the bridge: it knows QoS 0
//! only.

mod wire;

use crate::broker::BrokerLimits;
use crate::mqtt::{self, BrokerLink, ClientConfig, ClientError, Outlet};
use ::rumqttd::meters::MetersLink;
use ::rumqttd::{ConnectionSettings, LinkType, Router, RouterConfig, Server, ServerSettings};
use std::future::ready;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::thread::{self, JoinHandle};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::Wire;

/// The only router, whose thread is named after it.
const ROUTER: usize = 0;
/// How often another free port is tried when the one that was free a moment ago is taken.
const PORT_ATTEMPTS: usize = 5;
/// The ring of each filter is dropped in parts of this share.
const SEGMENTS: usize = 10;
/// rumqttd panics below it.
const SEGMENT_BYTES_MIN: usize = 1_024;
/// Most events on their way to the router.
const EVENTS: usize = 1_000;
/// Packets that are read from one connection before the router is told; rumqttd's own default.
const READ_BATCH: usize = 100;
/// QoS 0 messages that go to one connection at a time; its channel holds as many.
const WRITE_BATCH: u64 = 200;

/// Why rumqttd could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RumqttdError {
    /// The address is taken or not ours.
    #[error("rumqttd cannot listen on {listen} ([broker] listen): {source}")]
    Listen {
        /// Where it should have.
        listen: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("no thread for rumqttd: {0}")]
    Thread(io::Error),
    /// Nobody can connect any more.
    #[error("rumqttd ended: its listener failed: {0}")]
    Listener(String),
    /// It passes on nothing any more; whatever it held is lost.
    #[error("rumqttd ended: its router failed")]
    Router,
    /// The bridge's own client cannot work as configured.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A running rumqttd.
///
/// Its router's thread outlives it, idle: rumqttd has no way to end one.
pub struct Engine {
    address: SocketAddr,
    listener: Listener,
    /// Nothing comes here but the news that the router is gone: it drops the other end.
    router: MetersLink,
}

impl Engine {
    /// Starts rumqttd; when this returns, clients can connect. With port 0 it gets a free one.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub async fn start(listen: SocketAddr, limits: &BrokerLimits) -> Result<Self, RumqttdError> {
        let mut address = free(listen)?;
        let tx = Router::new(ROUTER, router_config(limits)).spawn();
        let router = MetersLink::new(tx.clone()).map_err(|_| RumqttdError::Router)?;
        let mut attempts = if listen.port() == 0 { PORT_ATTEMPTS } else { 1 };
        let listener = loop {
            let wire = Wire::new(limits.connections);
            attempts -= 1;
            match Listener::open(Server::new(server_settings(address, limits), tx.clone(), wire)).await {
                Err(RumqttdError::Listener(_)) if attempts > 0 => address = free(listen)?,
                opened => break opened?,
            }
        };
        tracing::warn!(
            %address,
            "the broker is rumqttd: no access rules, nothing of it survives a restart, and one ordinary client can end it"
        );
        Ok(Self { address, listener, router })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drives `outlet` as the bridge's client of this rumqttd until `stop`, and then closes its listener.
    ///
    /// # Errors
    /// When rumqttd ended under the client, or the client's configuration is wrong.
    pub async fn run(self, client: ClientConfig, outlet: Outlet, stop: CancellationToken) -> Result<(), RumqttdError> {
        let Self { mut listener, router, .. } = self;
        let broker_link = outlet.broker_link.clone();
        let why = tokio::select! {
            worked = mqtt::run(client, outlet, stop) => {
                listener.close().await;
                return Ok(worked?);
            }
            // The thread may be waiting for the router now, without end, so nobody waits for the thread.
            () = gone(&router) => RumqttdError::Router,
            ended = &mut listener.ended => RumqttdError::Listener(ended.unwrap_or_else(|_| PANICKED.to_owned())),
        };
        broker_link.send_replace(BrokerLink::Down);
        tracing::error!(%why, "the bridge has lost its broker and ends");
        Err(why)
    }
}

/// The thread that accepts connections and reads and writes them.
struct Listener {
    thread: JoinHandle<()>,
    /// Why it ended; nothing when the thread panicked.
    ended: oneshot::Receiver<String>,
    /// Closes it when dropped, and all connections with it.
    stop: DropGuard,
}

/// Said for a thread that could not say anything.
const PANICKED: &str = "its thread panicked";

impl Listener {
    /// Binds and serves.
    async fn open(server: Server<Wire>) -> Result<Self, RumqttdError> {
        let (started_tx, started) = oneshot::channel();
        let (ended_tx, ended) = oneshot::channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // A thread of its own: to log a client in, rumqttd waits for its router without letting others run.
        let serving = move || _ = ended_tx.send(serve(server, started_tx, &stopped));
        let thread = thread::Builder::new().name("rumqttd".to_owned()).spawn(serving).map_err(RumqttdError::Thread)?;
        match started.await {
            Ok(()) => Ok(Self { thread, ended, stop: stop.drop_guard() }),
            Err(_) => Err(RumqttdError::Listener(ended.await.unwrap_or_else(|_| PANICKED.to_owned()))),
        }
    }

    /// Closes it and waits until its port is free. Not to be called when `ended` has spoken.
    async fn close(self) {
        drop(self.stop);
        // Its last word, so the join waits for next to nothing.
        _ = self.ended.await;
        _ = self.thread.join();
    }
}

/// Serves until `stop`; answers why it ended.
fn serve(mut server: Server<Wire>, started: oneshot::Sender<()>, stop: &CancellationToken) -> String {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return error.to_string(),
    };
    runtime.block_on(async {
        let mut serving = pin!(server.start(LinkType::Remote));
        // The first poll binds: when that did not end it, it listens.
        tokio::select! {
            biased;
            ended = &mut serving => return reason(ended),
            () = ready(()) => { _ = started.send(()); }
        }
        tokio::select! {
            ended = serving => reason(ended),
            () = stop.cancelled() => "stopped".to_owned(),
        }
    })
}

fn reason<E: std::fmt::Display>(ended: Result<(), E>) -> String {
    ended.map_or_else(|error| error.to_string(), |()| "it stopped by itself".to_owned())
}

/// Waits until the router drops its end.
async fn gone(router: &MetersLink) {
    while router.next().await.is_ok() {}
}

/// A free address in place of `listen`: rumqttd binds by itself, does not tell the port it got, and says in its log
/// alone that it got none.
fn free(listen: SocketAddr) -> Result<SocketAddr, RumqttdError> {
    let bound = TcpListener::bind(listen).and_then(|listener| listener.local_addr());
    bound.map_err(|source| RumqttdError::Listen { listen, source })
}

fn router_config(limits: &BrokerLimits) -> RouterConfig {
    RouterConfig {
        // It must never refuse one (`wire`); it hears of each end a little later than the wire, which counts.
        max_connections: limits.connections + EVENTS,
        max_outgoing_packet_count: WRITE_BATCH,
        max_segment_size: (limits.queued_bytes / SEGMENTS).max(SEGMENT_BYTES_MIN),
        max_segment_count: SEGMENTS,
        ..RouterConfig::default()
    }
}

fn server_settings(listen: SocketAddr, limits: &BrokerLimits) -> ServerSettings {
    ServerSettings {
        name: "rumqttd".to_owned(),
        listen,
        tls: None,
        // It would wait that long after each connection, before it takes the next one.
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: u16::try_from(limits.connect_timeout.as_millis()).unwrap_or(u16::MAX),
            max_payload_size: limits.packet_bytes,
            max_inflight_count: READ_BATCH,
            auth: None,
            external_auth: None,
            // Without it, a message that nobody has ever subscribed to may cost its publisher the connection.
            dynamic_filters: true,
        },
    }
}
