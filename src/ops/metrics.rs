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

/// What is counted or measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Messages of BALs that are on disk for the first time.
    DownstreamAccepted,
    /// Messages of BALs whose id was known; their last status was repeated.
    DownstreamRepeated,
    /// Inputs that were refused with an error document.
    DownstreamRejected,
    /// Publishes on a topic below `self/` that is none of the bridge's.
    UnknownTopics,
    /// Messages given to a transport, each time.
    DownstreamAttempts,
    /// Messages that the push service took.
    DownstreamSent,
    /// Messages that a device confirmed.
    DownstreamDelivered,
    /// Messages that ended as `failed`.
    DownstreamFailed,
    /// Messages that ended as `expired`.
    DownstreamExpired,
    /// Refusals after which a message is tried again.
    DownstreamRetries,
    /// Copies of messages that were written to the push service after the first one.
    DownstreamResent,
    /// Upstream messages on disk for the first time.
    UpstreamReceived,
    /// Upstream messages that were known already: acknowledged again, not published again.
    UpstreamDuplicates,
    /// Upstream messages for which no route exists; kept.
    UpstreamUnrouted,
    /// Delivery receipts, from the push service or (FCM HTTP v1) from the app.
    Receipts,
    /// Delivery receipts from the push service for messages that nobody here sent.
    ReceiptsUnknown,
    /// Documents that the next hop confirmed.
    Published,
    /// Documents that were published again because their confirmation was lost.
    Republished,
    /// Documents held because nobody reads their topic (each time one is found so).
    PublishHeld,
    /// Log-ins with wrong credentials.
    LoginsFailed,
    /// Log-ins refused unchecked, because too many from their address had failed.
    LoginsLimited,
    /// Messages and wills of clients on topics that they may not write.
    PublishesDenied,
    /// Subscriptions that could never have got anything, or shared ones that would have got too much.
    SubscriptionsDenied,
    /// Messages withheld from a subscriber who may not read their topic.
    DeliveriesFiltered,
    /// Connections that the embedded broker accepted.
    BrokerAccepted,
    /// Times that it accepted no more because all places were taken.
    BrokerFull,
    /// Connections closed at once because their address had too many.
    BrokerAddressRefused,
    /// Log-ins refused because their user had too many connections.
    BrokerUserRefused,
    /// Connections that did not come to a CONNECT in time.
    BrokerConnectTimeouts,
    /// Connections that failed before: PROXY header, TLS, WebSocket, or a first packet that is no CONNECT.
    BrokerHandshakesFailed,
    /// Connections closed because a packet was over the limit.
    BrokerPacketsTooBig,
    /// Packets with topics or filters over a limit.
    BrokerTopicsRefused,
    /// Messages of clients that had to wait because they came too fast.
    BrokerPublishSlowed,
    /// Connections closed because the client did not read.
    BrokerStalled,
    /// Transactions on disk.
    Commits,
    /// Connections of the embedded broker, whatever they have come to.
    BrokerConnections,
    /// Messages waiting for the push service.
    QueueRows,
    /// Their payload bytes.
    QueueBytes,
    /// Messages of devices waiting for their BAL.
    SpoolRows,
    /// Their payload bytes.
    SpoolBytes,
    /// Messages claimed for the push service and not answered yet.
    InFlight,
    /// 1 when the MQTT side is connected and subscribed.
    BrokerUp,
    /// 1 when the disk refuses writes.
    StoreBlocked,
    /// 1 when a limit stops the intake.
    IntakeStopped,
}

/// All metrics, in the order of the enum: name, kind, help.
const TABLE: &[(Metric, &str, Kind, &str)] = &[
    (
        Metric::DownstreamAccepted,
        "bridge_downstream_accepted_total",
        Kind::Counter,
        "Messages of BALs accepted (on disk)",
    ),
    (
        Metric::DownstreamRepeated,
        "bridge_downstream_repeated_total",
        Kind::Counter,
        "Messages whose id was known already",
    ),
    (
        Metric::DownstreamRejected,
        "bridge_downstream_rejected_total",
        Kind::Counter,
        "Inputs refused with an error document",
    ),
    (
        Metric::UnknownTopics,
        "bridge_unknown_topics_total",
        Kind::Counter,
        "Publishes on a topic that the bridge does not have, probably misspelt",
    ),
    (
        Metric::DownstreamAttempts,
        "bridge_downstream_attempts_total",
        Kind::Counter,
        "Messages given to a transport, each time",
    ),
    (Metric::DownstreamSent, "bridge_downstream_sent_total", Kind::Counter, "Messages that the push service took"),
    (
        Metric::DownstreamDelivered,
        "bridge_downstream_delivered_total",
        Kind::Counter,
        "Messages that a device confirmed",
    ),
    (Metric::DownstreamFailed, "bridge_downstream_failed_total", Kind::Counter, "Messages that ended as failed"),
    (Metric::DownstreamExpired, "bridge_downstream_expired_total", Kind::Counter, "Messages that ended as expired"),
    (
        Metric::DownstreamRetries,
        "bridge_downstream_retries_total",
        Kind::Counter,
        "Refusals after which a message is tried again",
    ),
    (
        Metric::DownstreamResent,
        "bridge_downstream_resent_total",
        Kind::Counter,
        "Further copies of messages written to the push service",
    ),
    (Metric::UpstreamReceived, "bridge_upstream_received_total", Kind::Counter, "Messages of devices stored (on disk)"),
    (
        Metric::UpstreamDuplicates,
        "bridge_upstream_duplicates_total",
        Kind::Counter,
        "Messages of devices that were known already",
    ),
    (
        Metric::UpstreamUnrouted,
        "bridge_upstream_unrouted_total",
        Kind::Counter,
        "Messages of devices kept without a route",
    ),
    (
        Metric::Receipts,
        "bridge_receipts_total",
        Kind::Counter,
        "Delivery receipts, from the push service or from the app",
    ),
    (
        Metric::ReceiptsUnknown,
        "bridge_receipts_unknown_total",
        Kind::Counter,
        "Delivery receipts from the push service for unknown messages",
    ),
    (Metric::Published, "bridge_published_total", Kind::Counter, "Documents confirmed by the next hop"),
    (
        Metric::Republished,
        "bridge_republished_total",
        Kind::Counter,
        "Documents published again after a lost confirmation",
    ),
    (Metric::PublishHeld, "bridge_publish_held_total", Kind::Counter, "Times a topic was found to have no reader"),
    (Metric::LoginsFailed, "bridge_logins_failed_total", Kind::Counter, "Log-ins with wrong credentials"),
    (
        Metric::LoginsLimited,
        "bridge_logins_limited_total",
        Kind::Counter,
        "Log-ins refused unchecked after too many failures from their address",
    ),
    (
        Metric::PublishesDenied,
        "bridge_publishes_denied_total",
        Kind::Counter,
        "Messages of clients on topics that they may not write",
    ),
    (
        Metric::SubscriptionsDenied,
        "bridge_subscriptions_denied_total",
        Kind::Counter,
        "Subscriptions to topics that their client may not read",
    ),
    (
        Metric::DeliveriesFiltered,
        "bridge_deliveries_filtered_total",
        Kind::Counter,
        "Messages withheld from subscribers who may not read their topic",
    ),
    (
        Metric::BrokerAccepted,
        "bridge_broker_accepted_total",
        Kind::Counter,
        "Connections accepted by the embedded broker",
    ),
    (Metric::BrokerFull, "bridge_broker_full_total", Kind::Counter, "Times that all places for connections were taken"),
    (
        Metric::BrokerAddressRefused,
        "bridge_broker_address_refused_total",
        Kind::Counter,
        "Connections closed at once: too many from their address",
    ),
    (
        Metric::BrokerUserRefused,
        "bridge_broker_user_refused_total",
        Kind::Counter,
        "Log-ins refused: too many connections of their user",
    ),
    (
        Metric::BrokerConnectTimeouts,
        "bridge_broker_connect_timeouts_total",
        Kind::Counter,
        "Connections that did not come to a CONNECT in time",
    ),
    (
        Metric::BrokerHandshakesFailed,
        "bridge_broker_handshakes_failed_total",
        Kind::Counter,
        "Connections that failed before a CONNECT",
    ),
    (
        Metric::BrokerPacketsTooBig,
        "bridge_broker_packets_too_big_total",
        Kind::Counter,
        "Connections closed: a packet over the limit",
    ),
    (
        Metric::BrokerTopicsRefused,
        "bridge_broker_topics_refused_total",
        Kind::Counter,
        "Packets with topics or filters over a limit",
    ),
    (
        Metric::BrokerPublishSlowed,
        "bridge_broker_publish_slowed_total",
        Kind::Counter,
        "Messages that had to wait because they came too fast",
    ),
    (
        Metric::BrokerStalled,
        "bridge_broker_stalled_total",
        Kind::Counter,
        "Connections closed: the client did not read",
    ),
    (Metric::Commits, "bridge_store_commits", Kind::Gauge, "Transactions on disk since the start"),
    (Metric::BrokerConnections, "bridge_broker_connections", Kind::Gauge, "Connections of the embedded broker"),
    (Metric::QueueRows, "bridge_queue_rows", Kind::Gauge, "Messages waiting for the push service"),
    (Metric::QueueBytes, "bridge_queue_bytes", Kind::Gauge, "Payload bytes of messages waiting for the push service"),
    (Metric::SpoolRows, "bridge_spool_rows", Kind::Gauge, "Messages of devices waiting for their BAL"),
    (
        Metric::SpoolBytes,
        "bridge_spool_bytes",
        Kind::Gauge,
        "Payload bytes of messages of devices waiting for their BAL",
    ),
    (Metric::InFlight, "bridge_in_flight", Kind::Gauge, "Messages claimed for the push service, unanswered"),
    (Metric::BrokerUp, "bridge_mqtt_up", Kind::Gauge, "1 when the MQTT side is connected and subscribed"),
    (Metric::StoreBlocked, "bridge_store_blocked", Kind::Gauge, "1 when the disk refuses writes"),
    (Metric::IntakeStopped, "bridge_intake_stopped", Kind::Gauge, "1 when a limit stops the intake"),
];

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
            .map(|&(_, name, kind, help)| Cell::new(shown(name).then_some(&registry), name, kind, help))
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

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (i, (metric, name, ..)) in TABLE.iter().enumerate() {
            assert_eq!(*metric as usize, i, "{name} is out of place");
        }
        assert_eq!(TABLE.len(), Metric::IntakeStopped as usize + 1);
    }

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
        for (_, name, ..) in TABLE {
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} is missing");
        }
    }
}
