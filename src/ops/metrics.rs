//! Every number that `/metrics` and `_bridge/stats` show, named in one place.

mod cell;
mod transports;

use cell::{Cell, Kind, labelled_counter};
use prometheus::{Encoder, IntCounterVec, Registry, TextEncoder};
use std::collections::BTreeMap;
use transports::Transports;

/// Clients refused or cut off, by reason.
const CLIENTS_REFUSED: &str = "bridge_broker_refusals_total";
/// How the names of metrics begin that only the embedded broker counts.
const OF_BROKER: &[&str] = &[
    "bridge_broker_",
    "bridge_logins_",
    "bridge_publishes_denied_",
    "bridge_subscriptions_denied_",
    "bridge_deliveries_filtered_",
];

/// Declares [`Metric`] and its table in one place: variant, kind, name, and what is counted, for operators and readers.
macro_rules! metrics {
    ($($variant:ident($kind:ident, $name:literal, $help:literal);)+) => {
        /// What is counted or measured.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Metric {
            $(#[doc = $help] $variant,)+
        }

        /// All metrics, in the order of the enum: name, kind, help.
        const TABLE: &[(&str, Kind, &str)] = &[$(($name, Kind::$kind, $help)),+];
    };
}

metrics! {
    DownstreamAccepted(Counter, "bridge_downstream_accepted_total", "Messages of BALs accepted (on disk)");
    DownstreamRepeated(Counter, "bridge_downstream_repeated_total",
        "Messages whose id was known already: their last status is told again");
    DownstreamRejected(Counter, "bridge_downstream_rejected_total", "Inputs refused with an error document");
    UnknownTopics(Counter, "bridge_unknown_topics_total", "Publishes on a topic below self/ that the bridge does not have");
    DownstreamAttempts(Counter, "bridge_downstream_attempts_total", "Tries to send a message, once each has ended");
    DownstreamSent(Counter, "bridge_downstream_sent_total", "Messages that the push service took");
    DownstreamDelivered(Counter, "bridge_downstream_delivered_total", "Messages that a device confirmed");
    DownstreamFailed(Counter, "bridge_downstream_failed_total", "Messages that ended as failed");
    DownstreamExpired(Counter, "bridge_downstream_expired_total", "Messages that ended as expired");
    DownstreamRetries(Counter, "bridge_downstream_retries_total", "Refusals after which a message is tried again");
    DownstreamResent(Counter, "bridge_downstream_resent_total",
        "Further copies of messages written to the push service");
    UpstreamReceived(Counter, "bridge_upstream_received_total", "Messages of devices stored (on disk)");
    UpstreamDuplicates(Counter, "bridge_upstream_duplicates_total", "Messages of devices that were known already");
    UpstreamUnrouted(Counter, "bridge_upstream_unrouted_total", "Messages of devices kept without a route");
    Receipts(Counter, "bridge_receipts_total", "Delivery receipts, from the push service or from the app");
    ReceiptsUnknown(Counter, "bridge_receipts_unknown_total",
        "Delivery receipts from the push service for unknown messages");
    Published(Counter, "bridge_published_total", "Documents confirmed by the next hop");
    Republished(Counter, "bridge_republished_total", "Documents published again after a lost confirmation");
    PublishHeld(Counter, "bridge_publish_held_total", "Times a topic was found to have no reader");
    LoginsFailed(Counter, "bridge_logins_failed_total", "Log-ins with wrong credentials");
    LoginsLimited(Counter, "bridge_logins_limited_total",
        "Log-ins refused unchecked after too many failures from their address");
    PublishesDenied(Counter, "bridge_publishes_denied_total", "Messages of clients on topics that they may not write");
    SubscriptionsDenied(Counter, "bridge_subscriptions_denied_total",
        "Subscriptions that their client may not read, or shared ones that would have got too much");
    DeliveriesFiltered(Counter, "bridge_deliveries_filtered_total",
        "Messages withheld from subscribers who may not read their topic");
    BrokerAccepted(Counter, "bridge_broker_accepted_total", "Connections accepted by the embedded broker");
    BrokerFull(Counter, "bridge_broker_full_total", "Times that all places for connections were taken");
    BrokerAddressRefused(Counter, "bridge_broker_address_refused_total",
        "Connections closed at once: too many from their address");
    BrokerUserRefused(Counter, "bridge_broker_user_refused_total",
        "Log-ins refused: too many connections of their user");
    BrokerConnectTimeouts(Counter, "bridge_broker_connect_timeouts_total",
        "Connections that did not come to a CONNECT in time");
    BrokerHandshakesFailed(Counter, "bridge_broker_handshakes_failed_total",
        "Connections that failed before a CONNECT: PROXY header, TLS, WebSocket, or another packet first");
    BrokerPacketsTooBig(Counter, "bridge_broker_packets_too_big_total", "Connections closed: a packet over the limit");
    BrokerTopicsRefused(Counter, "bridge_broker_topics_refused_total", "Packets with topics or filters over a limit");
    BrokerPublishSlowed(Counter, "bridge_broker_publish_slowed_total",
        "Messages that had to wait because they came too fast");
    BrokerStalled(Counter, "bridge_broker_stalled_total", "Connections closed: the client did not read");
    Commits(Gauge, "bridge_store_commits", "Transactions on disk since the start");
    BrokerDropped(Counter, "bridge_broker_dropped_total", "Messages at QoS 0 for which a reader had no room");
    BrokerTooBig(Counter, "bridge_broker_too_big_total", "Messages dropped: bigger than the packets that their reader takes");
    BrokerConnections(Gauge, "bridge_broker_connections", "Connections of the embedded broker");
    BrokerSessions(Gauge, "bridge_broker_sessions", "Sessions of the embedded broker, connected or not");
    BrokerQueuedRows(Gauge, "bridge_broker_queued_rows",
        "Messages of clients on disk that wait for sessions, once for each session");
    BrokerQueuedBytes(Gauge, "bridge_broker_queued_bytes", "Bytes of messages of clients that wait for sessions");
    BrokerRetained(Gauge, "bridge_broker_retained", "Retained messages");
    BrokerRetainedBytes(Gauge, "bridge_broker_retained_bytes", "Bytes of retained messages");
    QueueRows(Gauge, "bridge_queue_rows", "Messages waiting for the push service");
    QueueBytes(Gauge, "bridge_queue_bytes", "Payload bytes of messages waiting for the push service");
    SpoolRows(Gauge, "bridge_spool_rows", "Messages of devices waiting for their BAL");
    SpoolBytes(Gauge, "bridge_spool_bytes", "Payload bytes of messages of devices waiting for their BAL");
    InFlight(Gauge, "bridge_in_flight", "Messages claimed for the push service, unanswered");
    BrokerUp(Gauge, "bridge_mqtt_up", "1 when the MQTT side is connected and subscribed");
    StoreBlocked(Gauge, "bridge_store_blocked", "1 when the disk refuses writes");
    IntakeStopped(Gauge, "bridge_intake_stopped", "1 when a limit stops the intake");
}

/// The numbers of one bridge.
pub struct Metrics {
    registry: Registry,
    cells: Vec<Cell>,
    transports: Transports,
    clients_refused: IntCounterVec,
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        Self::showing(|_| true)
    }

    /// The metrics of a bridge in which the embedded broker does not run: without those that only it counts, which would
    /// stand at zero whatever the other broker does.
    pub fn without_broker() -> Self {
        Self::showing(|name| !OF_BROKER.iter().any(|prefix| name.starts_with(prefix)))
    }

    fn showing(shown: impl Fn(&str) -> bool) -> Self {
        let registry = Registry::new();
        let cells = TABLE
            .iter()
            .map(|&(name, kind, help)| Cell::new(shown(name).then_some(&registry), name, kind, help))
            .collect();
        let transports = Transports::new(&registry);
        let clients_refused = labelled_counter(
            shown(CLIENTS_REFUSED).then_some(&registry),
            CLIENTS_REFUSED,
            "Clients of the embedded broker refused or cut off",
            &["reason"],
        );
        Self { registry, cells, transports, clients_refused }
    }

    /// Adds one to a counter.
    pub fn count(&self, metric: Metric) {
        self.add(metric, 1);
    }

    /// Adds to a counter.
    pub fn add(&self, metric: Metric, by: u64) {
        match &self.cells[metric as usize] {
            Cell::Counter(counter) => counter.inc_by(by),
            Cell::Gauge(gauge) => gauge.add(i64::try_from(by).unwrap_or(i64::MAX)),
        }
    }

    /// Sets a gauge; a counter is left alone.
    pub fn set(&self, metric: Metric, value: u64) {
        if let Cell::Gauge(gauge) = &self.cells[metric as usize] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    /// Changes a gauge that several parts share; a counter is left alone.
    pub fn shift(&self, metric: Metric, by: i64) {
        if let Cell::Gauge(gauge) = &self.cells[metric as usize] {
            gauge.add(by);
        }
    }

    /// Counts a message that a transport, named as it is configured, came back with untaken, by the code it gave.
    pub fn refused(&self, transport: &str, code: &str) {
        self.transports.refused(transport, code);
    }

    /// Counts a message of a device that could not be understood, by what is wrong with it.
    pub fn upstream_rejected(&self, transport: &str, code: &'static str) {
        self.transports.upstream_rejected(transport, code);
    }

    /// Says of a transport, named as it is configured, whether it takes messages.
    pub fn set_up(&self, transport: &str, up: bool) {
        self.transports.set_up(transport, up);
    }

    /// Counts clients that the embedded broker refused or cut off, by its reason.
    pub fn client_refused(&self, reason: &'static str, by: u64) {
        self.clients_refused.with_label_values(&[reason]).inc_by(by);
    }

    /// How many were refused for a reason since the start.
    pub fn clients_refused(&self, reason: &'static str) -> u64 {
        self.clients_refused.with_label_values(&[reason]).get()
    }

    /// The present value.
    pub fn get(&self, metric: Metric) -> u64 {
        match &self.cells[metric as usize] {
            Cell::Counter(counter) => counter.get(),
            Cell::Gauge(gauge) => u64::try_from(gauge.get()).unwrap_or(0),
        }
    }

    /// Refusals of all transports since the start, by code; only codes that occurred.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        self.transports.refusals()
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out).expect("writing to memory does not fail");
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
    }

    #[test]
    fn where_another_broker_is_used_nothing_is_said_of_the_embedded_one() {
        let metrics = Metrics::without_broker();
        metrics.count(Metric::DownstreamAccepted);
        metrics.count(Metric::LoginsFailed);
        let text = text(&metrics);
        for word in ["bridge_broker_", "bridge_logins_", "_denied_", "bridge_deliveries_filtered"] {
            assert!(!text.contains(word), "{text}");
        }
        assert!(text.contains("bridge_downstream_accepted_total 1\n"), "{text}");
    }

    #[test]
    fn the_text_format_names_every_metric() {
        let metrics = Metrics::new();
        metrics.count(Metric::DownstreamAccepted);
        metrics.set(Metric::QueueRows, 7);
        let text = text(&metrics);
        assert!(text.contains("bridge_downstream_accepted_total 1\n"), "{text}");
        assert!(text.contains("bridge_queue_rows 7\n"), "{text}");
        for (name, ..) in TABLE {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} is missing");
        }
    }
}
