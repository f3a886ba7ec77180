//! Why the broker refuses or cuts off a client, and where it says so.
//!
//! Every refusal and every cut-off goes through [`Refusals::report`]: one line for the operator with address, user, client
//! id and rule, and one counter with the reason as its label. What the client is told stands in the same table: the
//! reason code and the reason string of MQTT 5, and the return code of a CONNACK in 3.1.1, which has no other word.
//!
//! Of a packet that breaks a rule of MQTT, the reason string names the rule ([`wire::PacketError`](super::wire::PacketError)).
//!
//! What a client wrote is shown escaped and cut ([`shown`]). Log lines are limited ([`log_limit`]), so that one noisy client
//! hides neither others nor other reasons; the counter counts all.

use std::borrow::Cow;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{info, warn};

use crate::ops::metrics::{Metric, Metrics};
use log_limit::LogLimit;

mod log_limit;

/// The target of the lines, for filters of the log.
pub const TARGET: &str = module_path!();
/// So many characters are shown of what a stranger wrote.
const SHOWN: usize = 64;

/// Why a client is refused or cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    AddressConnections,
    Connections,
    ConnectTimeout,
    ProxyHeader,
    TlsHandshake,
    PlainOnTls,
    TlsOnPlain,
    OtherProtocol,
    WebSocket,
    FirstPacket,
    Mqtt31,
    ProtocolLevel,
    Malformed,
    PacketSize,
    ClientIdLength,
    ClientIdMissing,
    AuthMethod,
    NoUser,
    Credentials,
    LoginThrottle,
    UserConnections,
    Sessions,
    Busy,
    WillTopic,
    TopicLimit,
    FilterCount,
    PublishDenied,
    SysTopic,
    SubscribeDenied,
    FilterInvalid,
    Subscriptions,
    Retained,
    Quota,
    ReceiveMaximum,
    KeepAlive,
    NotReading,
    NotStored,
    TakenOver,
    TokenExpired,
    Revoked,
    Erased,
    SlowConsumer,
    QueueFull,
    DocumentSize,
}

/// One refusal as everybody sees it.
struct RefusalEntry {
    #[cfg_attr(not(test), expect(dead_code, reason = "it is there to be read, and a test compares it with its place"))]
    refusal: Refusal,
    /// Of the counter. Never changes: dashboards and alarms go by it.
    label: &'static str,
    /// The rule, for the log and for the reason string of MQTT 5. Says nothing that a stranger must not know.
    rule: &'static str,
    /// The reason code of MQTT 5 (2.4), in whatever packet carries it.
    code: u8,
    /// The return code of a CONNACK in 3.1.1 (3.2.2.3); 0 where it has none.
    connack: u8,
}

/// A row of [`TABLE`].
const fn row(refusal: Refusal, label: &'static str, rule: &'static str, code: u8, connack: u8) -> RefusalEntry {
    RefusalEntry { refusal, label, rule, code, connack }
}

/// All refusals, in the order of the enum.
const TABLE: &[RefusalEntry] = &[
    row(Refusal::AddressConnections, "address_connections", "the address has too many connections", 0x97, 3),
    row(Refusal::Connections, "connections", "all places are taken: new connections wait", 0x97, 3),
    row(Refusal::ConnectTimeout, "connect_timeout", "no CONNECT came in time", 0x80, 0),
    row(Refusal::ProxyHeader, "proxy_header", "the connection has no PROXY header that can be read", 0x81, 0),
    row(Refusal::TlsHandshake, "tls_handshake", "the TLS handshake failed", 0x81, 0),
    row(Refusal::PlainOnTls, "plain_on_tls", "this is the port for TLS, and the client speaks without it", 0x81, 0),
    row(Refusal::TlsOnPlain, "tls_on_plain", "this is the port without TLS, and the client speaks TLS", 0x81, 0),
    row(Refusal::OtherProtocol, "other_protocol", "the client speaks another protocol than this port", 0x81, 0),
    row(Refusal::WebSocket, "websocket", "the client does not keep to MQTT over WebSocket", 0x81, 0),
    row(Refusal::FirstPacket, "first_packet", "the first packet is not a CONNECT", 0x82, 0),
    row(Refusal::Mqtt31, "mqtt_3_1", "MQTT 3.1 is not spoken here, only 3.1.1 and 5", 0x84, 1),
    row(Refusal::ProtocolLevel, "protocol_level", "the protocol level is neither that of MQTT 3.1.1 nor of 5", 0x84, 1),
    row(Refusal::Malformed, "malformed", "a packet breaks a rule of MQTT", 0x81, 0),
    row(Refusal::PacketSize, "packet_size", "a packet is over the size limit", 0x95, 0),
    row(Refusal::ClientIdLength, "client_id_length", "the client id is longer than 256 bytes", 0x85, 2),
    row(Refusal::ClientIdMissing, "client_id_missing", "an empty client id needs a clean session in 3.1.1", 0x85, 2),
    row(Refusal::AuthMethod, "auth_method", "no authentication method is known here", 0x8c, 0),
    row(Refusal::NoUser, "no_user", "the client does not say who it is, and anonymous clients are not let in", 0x87, 5),
    row(Refusal::Credentials, "credentials", "user name, password or token are wrong", 0x86, 5),
    row(Refusal::LoginThrottle, "login_throttle", "too many log-ins from the address have failed", 0x9f, 3),
    row(Refusal::UserConnections, "user_connections", "the user has too many connections", 0x97, 3),
    row(Refusal::Sessions, "sessions", "there are too many sessions", 0x88, 3),
    row(Refusal::Busy, "busy", "the log-in took too long", 0x89, 3),
    row(
        Refusal::WillTopic,
        "will_topic",
        "the client may not write the topic of its will: it is not published",
        0x87,
        0,
    ),
    row(Refusal::TopicLimit, "topic_limit", "a topic or filter is over a limit", 0x90, 0),
    row(Refusal::FilterCount, "filter_count", "too many filters are in one packet", 0x97, 0),
    row(Refusal::PublishDenied, "publish_denied", "the client may not write this topic", 0x87, 0),
    row(Refusal::SysTopic, "sys_topic", "topics below $SYS are the broker's own: the message is dropped", 0x87, 0),
    row(Refusal::SubscribeDenied, "subscribe_denied", "the client may not read what the filter asks for", 0x87, 0),
    row(Refusal::FilterInvalid, "filter_invalid", "the topic filter breaks a rule of MQTT", 0x8f, 0),
    row(Refusal::Subscriptions, "subscriptions", "the client has too many subscriptions", 0x97, 0),
    row(Refusal::Retained, "retained", "there is no room for the retained message", 0x97, 0),
    row(Refusal::Quota, "quota", "the queue of the bridge is full: publish the message again later", 0x97, 0),
    row(Refusal::ReceiveMaximum, "receive_maximum", "more messages are open than the receive maximum", 0x93, 0),
    row(Refusal::KeepAlive, "keep_alive", "the client was silent for one and a half times its keep alive", 0x8d, 0),
    row(Refusal::NotReading, "not_reading", "the client does not read", 0x80, 0),
    row(Refusal::NotStored, "not_stored", "a message could not be made safe: publish it again", 0x83, 0),
    row(Refusal::TakenOver, "taken_over", "another connection of the user took the client id over", 0x8e, 0),
    row(Refusal::TokenExpired, "token_expired", "the token has expired", 0xa0, 0),
    row(Refusal::Revoked, "revoked", "the users file does not let the user in any more", 0x98, 0),
    row(Refusal::Erased, "erased", "the user was erased", 0x98, 0),
    row(Refusal::SlowConsumer, "slow_reader", "the client does not take its messages as fast as they come", 0x97, 0),
    row(Refusal::QueueFull, "queue_full", "too many messages wait for the session: it gets no new ones", 0x97, 0),
    row(
        Refusal::DocumentSize,
        "document_size",
        "a document is bigger than the packets that the client takes: it is set aside",
        0x95,
        0,
    ),
];

impl Refusal {
    fn row(self) -> &'static RefusalEntry {
        &TABLE[self as usize]
    }

    pub(super) fn label(self) -> &'static str {
        self.row().label
    }

    pub(super) fn rule(self) -> &'static str {
        self.row().rule
    }

    pub(super) fn code(self) -> u8 {
        self.row().code
    }

    /// The return code of a CONNACK in 3.1.1, where it has one for this.
    pub(super) fn connack(self) -> Option<u8> {
        Some(self.row().connack).filter(|code| *code != 0)
    }

    /// A limit is reached, or somebody may be guessing passwords. Otherwise a client does something that it may not.
    fn is_warning(self) -> bool {
        matches!(
            self,
            Self::AddressConnections
                | Self::Connections
                | Self::Credentials
                | Self::LoginThrottle
                | Self::UserConnections
                | Self::Sessions
                | Self::Busy
                | Self::QueueFull
                | Self::DocumentSize
        )
    }

    /// An older counter that counts it too.
    fn metric(self) -> Option<Metric> {
        Some(match self {
            Self::AddressConnections => Metric::BrokerAddressRefused,
            Self::Connections => Metric::BrokerFull,
            Self::ConnectTimeout => Metric::BrokerConnectTimeouts,
            Self::ProxyHeader
            | Self::TlsHandshake
            | Self::PlainOnTls
            | Self::TlsOnPlain
            | Self::OtherProtocol
            | Self::WebSocket => Metric::BrokerHandshakesFailed,
            Self::PacketSize => Metric::BrokerPacketsTooBig,
            Self::Credentials => Metric::LoginsFailed,
            Self::LoginThrottle => Metric::LoginsLimited,
            Self::UserConnections => Metric::BrokerUserRefused,
            Self::WillTopic | Self::PublishDenied | Self::SysTopic => Metric::PublishesDenied,
            Self::TopicLimit | Self::FilterCount => Metric::BrokerTopicsRefused,
            Self::SubscribeDenied => Metric::SubscriptionsDenied,
            Self::NotReading => Metric::BrokerStalled,
            _ => return None,
        })
    }
}

/// Of whom a line speaks: shown as [`shown`] does, and hence no name by which anybody is known again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Who {
    /// Where it is.
    pub(super) address: SocketAddr,
    user: Box<str>,
    client: Box<str>,
}

/// A refusal with what is said of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    /// The reason code of MQTT 5.
    pub(super) code: u8,
    /// The reason string.
    pub(super) reason: Cow<'static, str>,
    /// For the log alone: a stranger is not told whether it was the name or the password.
    pub(super) detail: String,
}

impl Refusal {
    pub(super) fn with(self, detail: impl Into<String>) -> Refused {
        Refused { refusal: self, code: self.code(), reason: self.rule().into(), detail: detail.into() }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        refusal.with("")
    }
}

impl Who {
    /// Somebody of whom nothing else is known.
    pub(super) fn at(address: SocketAddr) -> Self {
        Self { address, user: Box::default(), client: Box::default() }
    }

    /// The same, under the names that it gives itself.
    pub(super) fn named(address: SocketAddr, user: Option<&str>, client: &str) -> Self {
        Self { address, user: shown(user.unwrap_or_default()).into(), client: shown(client).into() }
    }

    /// The same, once it is known who it is: a token need not come with a user name.
    pub(super) fn as_user(&self, user: &str) -> Self {
        Self { user: shown(user).into(), ..self.clone() }
    }
}

/// What a stranger wrote, fit for a log line.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

/// Counts refusals and tells them.
#[derive(Debug)]
pub(super) struct Refusals {
    metrics: Arc<Metrics>,
    /// A lock because connections are refused in tasks of their own; it is held to look through a short list.
    log_limit: Mutex<LogLimit>,
}

impl Refusals {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        TABLE.iter().for_each(|row| metrics.client_refused(row.label, 0));
        Self { metrics, log_limit: Mutex::new(LogLimit::new(TABLE.len())) }
    }

    /// Where everything else is counted.
    pub(super) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Counts a refusal which nobody could be told of.
    pub(super) fn count(&self, refusal: Refusal) {
        self.metrics.client_refused(refusal.label(), 1);
        if let Some(metric) = refusal.metric() {
            self.metrics.count(metric);
        }
    }

    /// Counts a refusal and tells the operator, as long as that is not too much. `detail` is for the log alone; what is in
    /// it of a client is cut and escaped here.
    pub(super) fn report(&self, refusal: Refusal, who: &Who, detail: impl Display) {
        self.count(refusal);
        let Some(untold) = self.may_log(refusal, who.address.ip()) else {
            return;
        };
        let (reason, rule) = (refusal.label(), refusal.rule());
        let Who { address, user, client } = who;
        let detail = shown(&detail.to_string());
        if refusal.is_warning() {
            warn!(target: TARGET, %address, user, client, reason, rule, detail, untold, "client refused");
        } else {
            info!(target: TARGET, %address, user, client, reason, rule, detail, untold, "client refused");
        }
    }

    fn may_log(&self, refusal: Refusal, address: IpAddr) -> Option<u64> {
        let mut log_limit = self.log_limit.lock().unwrap_or_else(PoisonError::into_inner);
        log_limit.take(refusal as usize, address.to_canonical())
    }
}

#[cfg(test)]
pub(super) mod tests;
