//! Every metric: its name, what it is, and what it counts. `config/metrics.md` is the same list for operators.

use super::cell::Kind;

/// Declares [`Metric`] and its table in one place: variant, kind, name, labels if it has any, and what is counted.
macro_rules! metrics {
    ($($variant:ident($kind:ident, $name:literal, $([$($label:literal),+],)? $help:literal);)+) => {
        /// What is counted or measured.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Metric {
            $(#[doc = $help] $variant,)+
        }

        /// All metrics, in the order of the enum.
        pub(super) const TABLE: &[Row] = &[$(Row {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($($label),+)?],
            help: $help,
        }),+];
    };
}

/// A metric, as it is shown.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

metrics! {
    DownstreamAccepted(Counter, "bridge_downstream_accepted_total", "Messages of BALs accepted (on disk)");
    DownstreamRepeated(Counter, "bridge_downstream_repeated_total",
        "Messages whose id was known already: their last status is told again");
    DownstreamRejected(Counter, "bridge_downstream_rejected_total", "Inputs refused with an error document");
    DirectIgnored(Counter, "bridge_direct_ignored_total", "Documents that clients wrote into inboxes and that name no user as their writer (chat.direct)");
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
    StoreBlocked(Gauge, "bridge_store_blocked", "1 when the disk refuses writes, or has not answered for 10 s");
    IntakeStopped(Gauge, "bridge_intake_stopped", "1 when a limit stops the intake: of pushes, or of what devices send");
    StoreVerbs(Counter, "bridge_store_verbs_total",
        "Changes that the transactions hold; divided by `bridge_store_commit_seconds_count`, changes per transaction");
    NotesDropped(Counter, "bridge_documents_dropped_total",
        "Errors, statuses of what was refused, and events that nobody read, dropped because too many of them waited");
    MqttReconnects(Counter, "bridge_mqtt_reconnects_total", "Times that the MQTT side was connected anew");
    ClientsRefused(Counter, "bridge_broker_refusals_total", ["reason"],
        "Clients of the embedded broker refused or cut off");
    Refusals(Counter, "bridge_refusals_total", ["transport", "code"],
        "Messages that a transport came back with untaken, by code");
    UpstreamRejected(Counter, "bridge_upstream_rejected_total", ["transport", "code"],
        "Messages of devices that could not be understood, acknowledged all the same, by code");
    TransportUp(Gauge, "bridge_transport_up", ["transport"], "1 when the transport takes messages");
    TransportState(Gauge, "bridge_transport_state", ["transport", "state"],
        "1 for the word that `/readyz` has for the transport, 0 for those that it had before");
    TransportPause(Gauge, "bridge_transport_pause_seconds", ["transport"],
        "How long nothing is sent yet, because the push service refused: many messages in a row, or one for all");
    TransportPaused(Gauge, "bridge_transport_paused", ["transport"],
        "1 while an operator lets nothing be sent: until `resume`, or the next start");
    NextTry(Gauge, "bridge_transport_next_try_seconds", ["transport"],
        "How long until something is tried again that failed: a connection, or one message that finds out; 0 is now or never");
    Connections(Gauge, "bridge_transport_connections", ["transport", "state"],
        "Connections to the push service: opening, up, draining, closing");
    ConnectionAge(Gauge, "bridge_transport_connection_age_seconds", ["transport"],
        "How old the oldest connection is that takes messages");
    Unanswered(Gauge, "bridge_transport_unanswered", ["transport"],
        "Messages written to connections and not answered");
    Window(Gauge, "bridge_transport_window", ["transport"],
        "How many unanswered messages the connections that are up take");
    TokenAge(Gauge, "bridge_transport_access_token_age_seconds", ["transport"],
        "How old the access token is; only where there is one");
    Written(Counter, "bridge_transport_written_total", ["transport"], "Messages written to a connection, further copies too");
    NotTaken(Counter, "bridge_transport_not_taken_total", ["transport"],
        "Messages that a connection certainly did not take, so that they went to another");
    Dials(Counter, "bridge_transport_dials_total", ["transport"], "Connections begun");
    Connects(Counter, "bridge_transport_connects_total", ["transport"], "Connections that took messages");
    Reconnects(Counter, "bridge_transport_reconnects_total", ["transport"],
        "Connections that took messages and were ended by the push service or the network");
    AuthFailures(Counter, "bridge_transport_auth_failures_total", ["transport"], "Log-ins that the push service refused");
    Drains(Counter, "bridge_transport_drains_total", ["transport"], "Connections that the push service began to drain");
    Suspects(Counter, "bridge_transport_suspects_total", ["transport"],
        "Connections given up because answers did not come");
    Pings(Counter, "bridge_transport_pings_total", ["transport"], "Pings sent to the push service");
    Acks(Counter, "bridge_transport_acks_total", ["transport"], "Messages of devices and receipts acknowledged");
    StaleAcks(Counter, "bridge_transport_stale_acks_total", ["transport"],
        "Acknowledgements whose connection was gone: what they are for comes again");
    BadAcks(Counter, "bridge_transport_bad_acks_total", ["transport"],
        "Acknowledgements that the push service did not understand");
    UnknownAnswers(Counter, "bridge_transport_unknown_answers_total", ["transport"],
        "Answers to messages that were not waiting for one");
    Malformed(Counter, "bridge_transport_malformed_total", ["transport"], "Payloads that could not be read");
    Oversize(Counter, "bridge_transport_oversize_total", ["transport"], "Pieces thrown away because they went over a limit");
    Ignored(Counter, "bridge_transport_ignored_total", ["transport"], "Stanzas and types that nobody knows");
    Queued(Gauge, "bridge_queue_messages", ["transport", "state"],
        "Messages to be sent: due, put_off until a time, behind another of their recipient");
    OldestQueued(Gauge, "bridge_queue_oldest_seconds", ["transport"],
        "How long ago the oldest message was accepted that is to be sent");
}
