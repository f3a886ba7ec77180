//! The engine as we run it: its parts, and one connection served by it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mqtt5::MqttError;
use mqtt5::broker::client_handler::ClientHandler;
use mqtt5::broker::config::BrokerConfig as EngineConfig;
use mqtt5::broker::resource_monitor::{ResourceLimits, ResourceMonitor};
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::storage::QueueLimits;
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::transport::BrokerTransport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use super::BrokerLimits;
use super::admission::Admission;
use super::auth::Rules;
use super::confirm::{Keeping, Ledger};
use super::desk::Desk;
use super::disk::Disk;
use super::events::Events;
use super::gate::{Gate, GateLimits, TopicLimits};
use super::identity::SESSION_KEY_ROOM;
use super::link::{LINK, Link};
use super::parked::ParkedLimits;
use super::refusals::{Refusal, Refusals, Who};
use crate::mqtt::MarkCopy;
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metric;

/// MQTT 5 topic aliases per connection; the engine keeps a topic for each.
const TOPIC_ALIASES: u16 = 32;
/// Messages between the engine's router and one client, before they go to the session's queue. At QoS 0 there is no queue:
/// what does not fit is lost, and of the retained messages that one SUBSCRIBE finds all have to fit at once.
const LANE: usize = 1_024;
/// Which part of the unconfirmed publications may wait for sessions without a connection.
const PARKED_PART: usize = 2;
/// On how many topics.
const PARKED_TOPICS: usize = 4_096;
/// A window that no limit of the engine's monitor depends on: all its limits are off, ours hold before it.
const MONITOR_WINDOW: Duration = Duration::from_secs(1);
/// The longest wait for the end of a token before the wall clock is asked again, which may have been set.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// What all connections share.
pub(super) struct Engine {
    config: Arc<EngineConfig>,
    desk: Arc<Desk>,
    events: Arc<Events>,
    rules: Arc<Rules>,
    admission: Admission,
    stats: Arc<BrokerStats>,
    monitor: Arc<ResourceMonitor>,
    shutdown: broadcast::Sender<()>,
    pub(super) limits: BrokerLimits,
    pub(super) refusals: Arc<Refusals>,
}

/// What one session's queue may hold.
pub(super) fn queues(limits: &BrokerLimits) -> QueueLimits {
    QueueLimits { max_messages: limits.queued_messages, max_bytes: limits.queued_bytes }
}

/// The engine's router on its storage.
pub(super) fn desk(disk: Disk, limits: &BrokerLimits, mark_copy: Option<MarkCopy>) -> Desk {
    let parked = ParkedLimits { publications: limits.unconfirmed / PARKED_PART, topics: PARKED_TOPICS };
    let keeping = Keeping { durable: disk.is_durable(), parked, mark_copy };
    let router = MessageRouter::with_storage(Arc::clone(&disk.storage))
        .with_retained_limits(limits.retained_messages, limits.packet_bytes);
    Desk { router: Arc::new(router), disk, ledger: Arc::new(Ledger::new(keeping)) }
}

impl Engine {
    pub(super) fn new(rules: Rules, admission: Admission, limits: BrokerLimits) -> Self {
        let events = Arc::clone(&rules.events);
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
            config: Arc::new(engine_config(Arc::clone(&events), &limits)),
            desk,
            events,
            refusals: Arc::clone(&rules.refusals),
            rules: Arc::new(rules),
            admission,
            stats: Arc::new(BrokerStats::new()),
            monitor: Arc::new(monitor),
            shutdown,
            limits,
        }
    }

    /// Serves one client until its connection ends. Its CONNECT must be there by `deadline`; the engine is started
    /// only when it is let in, so that whoever says nothing costs next to nothing.
    pub(super) async fn serve<S>(&self, stream: S, peer: SocketAddr, deadline: Instant)
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let mut shutdown = self.shutdown.subscribe();
        let link = Link::new(Arc::clone(&self.desk.ledger));
        let mut gate = Gate::new(stream, peer, Arc::clone(&link), self.gate_limits(), Arc::clone(&self.refusals));
        tokio::select! {
            opened = self.open(&mut gate, peer, &link, deadline) => if !opened { return },
            _ = shutdown.recv() => return,
        }
        let handler = ClientHandler::new(
            // The one variant that takes a stream of ours.
            BrokerTransport::WebSocket(Box::new(gate)),
            peer,
            Arc::clone(&self.config),
            Arc::clone(&self.desk.router),
            Arc::clone(&self.rules) as _,
            Some(Arc::clone(&self.desk.disk.storage)),
            Arc::clone(&self.stats),
            Arc::clone(&self.monitor),
            shutdown,
        );
        let _until_the_end = Visit { link: Arc::clone(&link), events: Arc::clone(&self.events) };
        // On the heap, because it is big, and all who only knock would need as much memory.
        let served = LINK.scope(Arc::clone(&link), Box::pin(handler.run()));
        let overdue = async {
            until(link.expires_ms().await).await;
            link.end(Refusal::TokenExpired);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = served => match ended {
                Ok(()) => debug!(%peer, "connection ended"),
                Err(error) => self.report(&error, peer, &link),
            },
            () = overdue => {}
        }
    }

    /// Waits for the CONNECT and lets the client in. Yields false if that came to nothing, of which everybody was told.
    async fn open<S>(&self, gate: &mut Gate<S>, peer: SocketAddr, link: &Arc<Link>, deadline: Instant) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match timeout_at(deadline, gate.connected()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.refusals.metrics().count(Metric::BrokerHandshakesFailed);
                debug!(%peer, %error, "connection closed before its CONNECT");
                return false;
            }
            Err(_late) => {
                self.refusals.tell(Refusal::ConnectTimeout, &Who::at(peer), "");
                return false;
            }
        }
        let Some(hello) = gate.hello() else {
            return false;
        };
        // On the heap: hashing a password keeps much at hand.
        let denied = match Box::pin(self.admission.admit(&hello, peer, link)).await {
            Ok(key) => {
                gate.admit(&key);
                return true;
            }
            Err(denied) => denied,
        };
        gate.refuse(denied.refusal, &denied.detail).await;
        false
    }

    /// Tells why the engine ended a connection, if it did and nobody was told.
    fn report(&self, error: &MqttError, peer: SocketAddr, link: &Link) {
        debug!(%peer, %error, "connection ended");
        let refusal = match error {
            MqttError::KeepAliveTimeout => Refusal::KeepAlive,
            MqttError::Timeout => Refusal::NotReading,
            MqttError::PacketTooLarge { .. } => Refusal::PacketSize,
            MqttError::ProtocolError(_)
            | MqttError::MalformedPacket(_)
            | MqttError::InvalidTopicName(_)
            | MqttError::InvalidTopicFilter(_)
            | MqttError::InvalidPacketType(_)
            | MqttError::InvalidQoS(_)
            | MqttError::InvalidReasonCode(_)
            | MqttError::InvalidPropertyId(_)
            | MqttError::DuplicatePropertyId(_) => Refusal::Malformed,
            _ => return,
        };
        if link.note_end() {
            let who = link.who().unwrap_or_else(|| Who::at(peer));
            self.refusals.tell(refusal, &who, error);
        }
    }

    fn gate_limits(&self) -> GateLimits {
        let limits = &self.limits;
        let topics =
            TopicLimits { bytes: limits.topic_bytes, levels: limits.topic_levels, filters: limits.subscriptions };
        GateLimits { packet: limits.packet_bytes, held: limits.held_acks.into(), topics }
    }

    /// Tells all connections to end.
    pub(super) fn end(&self) {
        // An error means that there is no connection to be told.
        let _ = self.shutdown.send(());
    }
}

/// Waits until a time in Unix milliseconds.
async fn until(then_ms: u64) {
    loop {
        let left = then_ms.saturating_sub(now_ms());
        if left == 0 {
            return;
        }
        sleep(Duration::from_millis(left).min(CLOCK_CHECK)).await;
    }
}

/// Lasts as long as the task of a connection.
struct Visit {
    link: Arc<Link>,
    events: Arc<Events>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.events.vanished(&self.link);
    }
}

fn engine_config(events: Arc<Events>, limits: &BrokerLimits) -> EngineConfig {
    EngineConfig {
        max_clients: limits.connections,
        // The gate tells clients the limit without the room.
        max_packet_size: limits.packet_bytes.saturating_add(SESSION_KEY_ROOM),
        session_expiry_interval: limits.session_expiry,
        topic_alias_maximum: TOPIC_ALIASES,
        // One more than the gate tells clients: after a cut a full window of QoS 2 comes again, and the engine counts
        // what it has before it looks whether that is the same.
        server_receive_maximum: Some(limits.held_acks.saturating_add(1)),
        max_outbound_inflight: limits.inflight,
        max_subscriptions_per_client: limits.subscriptions,
        max_retained_messages: limits.retained_messages,
        max_retained_message_size: limits.packet_bytes,
        client_channel_capacity: LANE,
        sys_topics_enabled: false,
        event_handler: Some(events),
        ..EngineConfig::default()
    }
}
