//! The engine as we run it, and the loop that accepts connections for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mqtt5::broker::client_handler::ClientHandler;
use mqtt5::broker::config::BrokerConfig as EngineConfig;
use mqtt5::broker::resource_monitor::{ResourceLimits, ResourceMonitor};
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::storage::{DynamicStorage, MemoryBackend, QueueLimits};
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::transport::BrokerTransport;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::BrokerLimits;
use super::auth::Rules;
use super::confirm::Ledger;
use super::desk::Desk;
use super::events::Events;
use super::gate::{Gate, GateLimits};
use super::link::{LINK, Link};

/// MQTT 5 topic aliases per connection; the engine keeps a topic for each.
const TOPIC_ALIASES: u16 = 32;
/// Messages between the engine's router and one client, before they go to the session's queue.
const LANE: usize = 256;
/// Pause after the system refused a connection, which it does when it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections may take to end once they were told.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// A window that no limit of the engine's monitor depends on: all its limits are off, ours hold before it.
const MONITOR_WINDOW: Duration = Duration::from_secs(1);

/// What all connections share.
pub(super) struct Engine {
    config: Arc<EngineConfig>,
    desk: Arc<Desk>,
    rules: Arc<Rules>,
    stats: Arc<BrokerStats>,
    monitor: Arc<ResourceMonitor>,
    shutdown: broadcast::Sender<()>,
    limits: BrokerLimits,
}

/// The engine's router and its storage, in memory: sessions and retained messages live as long as the process.
pub(super) fn desk(ledger: Arc<Ledger>, limits: &BrokerLimits) -> Desk {
    let queues = QueueLimits { max_messages: limits.queued_messages, max_bytes: limits.queued_bytes };
    let storage = Arc::new(DynamicStorage::Memory(MemoryBackend::with_queue_limits(queues)));
    let router = MessageRouter::with_storage(Arc::clone(&storage))
        .with_retained_limits(limits.retained_messages, limits.packet_bytes);
    Desk { router: Arc::new(router), storage, ledger }
}

impl Engine {
    pub(super) fn new(events: Arc<Events>, rules: Arc<Rules>, limits: BrokerLimits) -> Self {
        let desk = Arc::clone(&events.desk);
        let (shutdown, _) = broadcast::channel(1);
        let monitor = ResourceMonitor::new(ResourceLimits {
            max_connections: limits.connections,
            max_connections_per_ip: limits.connections,
            max_message_rate_per_client: 0,
            max_bandwidth_per_client: 0,
            max_connection_rate: u32::MAX,
            rate_limit_window: MONITOR_WINDOW,
        });
        Self {
            config: Arc::new(engine_config(events, &limits)),
            desk,
            rules,
            stats: Arc::new(BrokerStats::new()),
            monitor: Arc::new(monitor),
            shutdown,
            limits,
        }
    }

    /// Accepts connections until `stop`, then ends them all.
    pub(super) async fn run(&self, listener: TcpListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => report(ended),
                // The listener's queue holds those for which there is no room.
                accepted = listener.accept(), if connections.len() < self.limits.connections => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(self.serve(stream, peer));
                    }
                    Err(error) => {
                        warn!(%error, "could not accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        self.end(connections).await;
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr) -> impl Future<Output = ()> + Send + 'static {
        let link = Link::new(Arc::clone(&self.desk.ledger));
        let nodelay = stream.set_nodelay(true);
        let limits = GateLimits { packet: self.limits.packet_bytes, held: self.limits.held_acks.into() };
        let gate = Gate::new(stream, peer, Arc::clone(&link), limits);
        let handler = ClientHandler::new(
            // The one variant that takes a stream of ours.
            BrokerTransport::WebSocket(Box::new(gate)),
            peer,
            Arc::clone(&self.config),
            Arc::clone(&self.desk.router),
            Arc::clone(&self.rules) as _,
            Some(Arc::clone(&self.desk.storage)),
            Arc::clone(&self.stats),
            Arc::clone(&self.monitor),
            self.shutdown.subscribe(),
        );
        let connect_timeout = self.limits.connect_timeout;
        async move {
            if let Err(error) = nodelay {
                debug!(%peer, %error, "could not switch off Nagle's algorithm");
            }
            let silent = async {
                sleep(connect_timeout).await;
                if link.has_said_connect() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                ended = LINK.scope(Arc::clone(&link), handler.run()) => match ended {
                    Ok(()) => debug!(%peer, "connection ended"),
                    Err(error) => debug!(%peer, %error, "connection ended"),
                },
                () = silent => debug!(%peer, "connection closed: no CONNECT in time"),
            }
        }
    }

    async fn end(&self, mut connections: JoinSet<()>) {
        // An error means that there is no connection to be told.
        let _ = self.shutdown.send(());
        let drained = timeout(STOP_GRACE, async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        });
        if drained.await.is_err() {
            warn!(connections = connections.len(), "connections did not end in time and were cut");
            connections.shutdown().await;
        }
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "the broker engine panicked in one connection");
    }
}

fn engine_config(events: Arc<Events>, limits: &BrokerLimits) -> EngineConfig {
    EngineConfig {
        max_clients: limits.connections,
        max_packet_size: limits.packet_bytes,
        session_expiry_interval: limits.session_expiry,
        topic_alias_maximum: TOPIC_ALIASES,
        server_receive_maximum: Some(limits.held_acks),
        max_subscriptions_per_client: limits.subscriptions,
        max_retained_messages: limits.retained_messages,
        max_retained_message_size: limits.packet_bytes,
        client_channel_capacity: LANE,
        sys_topics_enabled: false,
        event_handler: Some(events),
        ..EngineConfig::default()
    }
}
