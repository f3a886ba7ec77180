//! Settings in layers: defaults < file < environment (`BRIDGE__SECTION__KEY`). `config/bridge.toml` documents every key.
//!
//! The whole configuration is checked before anything is opened: unknown keys are refused with the nearest right name,
//! secrets are read from their files, limits are compared with each other.

use crate::chat::id::Owner;
use crate::chat::transport::Transport;
use crate::ops::logs::Format;
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

mod address;
mod broker;
mod check;
mod environment;
mod fields;
mod files;
mod layers;
mod listeners;
mod rumqttd;
mod transports;

pub use address::address;
pub use broker::{Broker, Engine, Listen};
pub use check::ConfigError;
pub(crate) use transports::section;
pub use transports::{Fcm, FcmProject, GOOGLE_CREDENTIALS, OnAmbiguous, TransportSection};

/// Everything that can be set.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// By which way messages go to the devices.
    pub transport: TransportSection,
    /// The CCS session.
    pub ccs: Ccs,
    /// FCM HTTP v1.
    pub fcm: Fcm,
    /// The MQTT side.
    pub mqtt: Mqtt,
    /// The embedded broker.
    pub broker: Broker,
    /// The queue on disk.
    pub store: Store,
    /// Which BAL gets the messages of which app.
    pub routes: Routes,
    /// What differs from BAL to BAL.
    pub bals: BTreeMap<String, Bal>,
    /// Health and metrics.
    pub ops: Ops,
    /// Log lines.
    pub log: Log,
    /// Every limit that has a name.
    pub limits: Limits,
}

/// `[ccs]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ccs {
    /// Name or address of the server; its certificate must carry it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The XMPP domain, in the stream header and behind the `@` of the user.
    pub domain: String,
    /// The sender id (project number).
    pub sender_id: String,
    /// The server key. Better in a file.
    pub api_key: Option<Secret>,
    /// A file with the server key in it.
    pub api_key_file: Option<PathBuf>,
    /// Certificate authorities to trust instead of the platform's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Most unanswered messages on one connection.
    pub window: usize,
    /// Connections in parallel.
    pub connections: usize,
    /// Seconds that an answer may take before its connection is suspected of losing answers.
    pub answer_seconds: u64,
}

impl Default for Ccs {
    fn default() -> Self {
        Self {
            host: "fcm-xmpp.googleapis.com".into(),
            port: 5235,
            domain: "gcm.googleapis.com".into(),
            sender_id: String::new(),
            api_key: None,
            api_key_file: None,
            ca_file: None,
            window: 100,
            connections: 1,
            answer_seconds: 60,
        }
    }
}

/// Which broker is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerKind {
    /// The one in this process.
    Embedded,
    /// Another one, over the network.
    External,
}

/// Which MQTT version the bridge speaks to an external broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MqttVersion {
    /// MQTT 5.
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
}

/// `[mqtt]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// Which broker is used.
    pub broker: BrokerKind,
    /// External: `mqtt://`, `mqtts://`, `ws://` or `wss://`, with host and port.
    pub url: String,
    /// External: which MQTT version.
    pub version: MqttVersion,
    /// External: the bridge's user name there.
    pub username: Option<String>,
    /// External: its password. Better in a file.
    pub password: Option<Secret>,
    /// External: a file with the password in it.
    pub password_file: Option<PathBuf>,
    /// External: the bridge's client id; the broker keeps its session under this name.
    pub client_id: String,
    /// External: certificate authorities to trust instead of the platform's, PEM.
    pub ca_file: Option<PathBuf>,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            broker: BrokerKind::Embedded,
            url: "mqtt://127.0.0.1:1883".into(),
            version: MqttVersion::V5,
            username: None,
            password: None,
            password_file: None,
            client_id: "fcm-mqtt-bridge".into(),
            ca_file: None,
        }
    }
}

/// `[store]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// The SQLite file. Its folder is made when it is not there.
    pub path: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Self { path: "data/bridge.db".into() }
    }
}

/// `[routes]`: `category -> BAL`, and `default_bal` for all others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Routes {
    /// Gets what no other route names.
    pub default_bal: Option<String>,
    /// App package name to BAL.
    #[serde(flatten)]
    pub categories: BTreeMap<String, String>,
}

/// How upstream messages to a BAL are known to have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckMode {
    /// By the MQTT acknowledgement.
    #[default]
    Mqtt,
    /// By a `received` on `{bal}/self/receipts`.
    Explicit,
}

/// `[bals.NAME]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bal {
    /// What counts as arrived.
    pub ack: AckMode,
}

/// `[ops]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ops {
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    #[serde(deserialize_with = "address::deserialize")]
    pub listen: SocketAddr,
}

impl Default for Ops {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 9090).into() }
    }
}

/// `[log]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter per module.
    pub level: String,
    /// How lines look.
    pub format: Format,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into(), format: Format::Text }
    }
}

/// `[limits]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest payload taken from a client, bytes.
    pub payload_bytes: usize,
    /// Most messages waiting for the push service; beyond it the intake stops.
    pub queue_rows: u64,
    /// Most payload bytes waiting for the push service; beyond it the intake stops.
    pub queue_bytes: u64,
    /// Most upstream messages waiting for their BAL; beyond it CCS gets no acknowledgements.
    pub spool_rows: u64,
    /// Most payload bytes waiting for BALs.
    pub spool_bytes: u64,
    /// How long a settled message is remembered, hours.
    pub history_hours: u64,
    /// Most settled messages remembered.
    pub history_rows: u64,
    /// Most publishes of clients that wait for their commit at one time.
    pub inflight_publishes: usize,
    /// Most unconfirmed publications of the bridge on one topic.
    pub topic_window: usize,
    /// Longest wait before a refused message is tried again, seconds.
    pub retry_max_seconds: u64,
    /// Most client connections of the embedded broker.
    pub broker_connections: usize,
    /// Most of them from one address.
    pub broker_connections_per_address: usize,
    /// Most of them of one user.
    pub broker_connections_per_user: usize,
    /// How long a client may take until its CONNECT is complete, seconds.
    pub broker_connect_seconds: u64,
    /// Failed log-ins from one address per minute before further ones are refused unchecked.
    pub broker_login_failures_per_minute: u32,
    /// Largest packet taken from a client, bytes.
    pub broker_packet_bytes: usize,
    /// Longest topic or filter, bytes.
    pub broker_topic_bytes: usize,
    /// Most levels of a topic or filter; never more than 128, whatever is set.
    pub broker_topic_levels: usize,
    /// Most messages per second of one chat user's connection.
    pub broker_publish_rate: u32,
    /// Most packets per second of one chat user's connection.
    pub broker_packet_rate: u32,
    /// Most bytes per second of one chat user's connection.
    pub broker_byte_rate: u32,
    /// Longest keep alive of an MQTT 5 client, seconds; 0: as long as it likes.
    pub broker_keep_alive_seconds: u16,
    /// Most user properties of one packet of a client.
    pub broker_user_properties: usize,
    /// Most subscriptions of one client.
    pub broker_subscriptions: usize,
    /// Most unacknowledged messages to one client.
    pub broker_inflight: u16,
    /// Most messages of clients waiting for one session.
    pub broker_queued_messages: usize,
    /// Most of their bytes.
    pub broker_queued_bytes: usize,
    /// Most sessions, connected or not.
    pub broker_sessions: usize,
    /// Most of them of one user.
    pub broker_sessions_per_user: usize,
    /// How long a session is kept without a connection, hours.
    pub broker_session_hours: u64,
    /// Most retained messages.
    pub broker_retained_messages: usize,
    /// Most of them of one user.
    pub broker_retained_messages_per_user: usize,
    /// Most bytes of them of one user.
    pub broker_retained_bytes_per_user: usize,
    /// How long a stop may take before what is left is abandoned to the next start, seconds.
    pub stop_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            payload_bytes: 65_536,
            queue_rows: 1_000_000,
            queue_bytes: 2_000_000_000,
            spool_rows: 1_000_000,
            spool_bytes: 2_000_000_000,
            history_hours: 24,
            history_rows: 1_000_000,
            inflight_publishes: 1_000,
            topic_window: 500,
            retry_max_seconds: 3_600,
            broker_connections: 20_000,
            broker_connections_per_address: 10_000,
            broker_connections_per_user: 1_000,
            broker_connect_seconds: 10,
            broker_login_failures_per_minute: 60,
            broker_packet_bytes: 262_144,
            broker_topic_bytes: 1_024,
            broker_topic_levels: 16,
            broker_publish_rate: 200,
            broker_packet_rate: 1_000,
            broker_byte_rate: 4_000_000,
            broker_keep_alive_seconds: 0,
            broker_user_properties: 100,
            broker_subscriptions: 1_000,
            broker_inflight: 64,
            broker_queued_messages: 10_000,
            broker_queued_bytes: 4_194_304,
            broker_sessions: 50_000,
            broker_sessions_per_user: 1_000,
            broker_session_hours: 168,
            broker_retained_messages: 100_000,
            broker_retained_messages_per_user: 10_000,
            broker_retained_bytes_per_user: 16_000_000,
            stop_seconds: 10,
        }
    }
}

/// The settings, and what was read from the files they name.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings as they apply.
    pub settings: Settings,
    /// The CCS server key, if CCS is spoken.
    pub api_key: Option<Secret>,
    /// The password at the external broker.
    pub mqtt_password: Option<Secret>,
}

impl Settings {
    /// Reads `file` (if any) and the environment over the defaults, and checks the result.
    ///
    /// # Errors
    /// Names the key, what is wrong with it, and what would be right.
    pub fn load(file: Option<&Path>) -> Result<Loaded, ConfigError> {
        check::load(file, &environment::variables())
    }

    /// Reads the same layers without asking whether they are complete and fit together: for commands that need a key or
    /// two of them.
    ///
    /// # Errors
    /// When a file cannot be read, a key is unknown, or a value has the wrong form.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        layers::read(file, &environment::variables())
    }

    /// Checks that the files that these settings name can be read; what is in them is for the parts to see.
    ///
    /// # Errors
    /// Names the key, and why its file cannot be read.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        files::check(self)
    }

    /// Variables of the environment that begin like one of ours and are not read.
    pub fn unread_variables() -> Vec<String> {
        environment::unread(environment::variables().keys())
    }

    /// The BAL of each route, checked.
    ///
    /// # Errors
    /// When a name cannot be a topic level.
    pub fn owners(&self) -> Result<(BTreeMap<String, Owner>, Option<Owner>), ConfigError> {
        check::owners(&self.routes)
    }

    /// Everybody who is a BAL by the configuration: the names of `[bals]` and the targets of `[routes]`.
    pub fn bals(&self) -> BTreeSet<String> {
        let Routes { default_bal, categories } = &self.routes;
        self.bals.keys().chain(categories.values()).chain(default_bal).cloned().collect()
    }

    /// By which way messages go: the default, and that of each category; checked.
    ///
    /// # Errors
    /// When a text names no way.
    pub fn transports(&self) -> Result<(Transport, HashMap<String, Transport>), ConfigError> {
        transports::transports(&self.transport)
    }

    /// The settings as TOML, with secrets hidden.
    pub fn shown(&self) -> String {
        check::shown(self)
    }
}
