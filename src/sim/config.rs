//! What the simulator is told at its start. Plain values: the command line and the tests fill them in.

use super::fault::Faults;
use super::v1::V1Config;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Everything.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Where the TLS port of CCS is; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the control port is; `None` for no control port. It has no authentication: loopback only.
    pub control: Option<SocketAddr>,
    /// The simulator's certificate.
    pub certificate: CertificateConfig,
    /// Who may log in.
    pub credentials: Credentials,
    /// How the wire behaves.
    pub wire: WireConfig,
    /// The virtual devices.
    pub devices: VirtualDevicesConfig,
    /// The limits of the service around them.
    pub limits: ServiceLimits,
    /// What goes wrong.
    pub faults: Faults,
    /// The side of FCM HTTP v1; `None`: CCS only.
    pub v1: Option<V1Config>,
    /// From which all chance is drawn: the same seed and the same input give the same output.
    pub seed: u64,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 5235)),
            control: Some(SocketAddr::from(([127, 0, 0, 1], 5280))),
            certificate: CertificateConfig::default(),
            credentials: Credentials::Any,
            wire: WireConfig::default(),
            devices: VirtualDevicesConfig::default(),
            limits: ServiceLimits::default(),
            faults: Faults::default(),
            v1: None,
            seed: 1,
        }
    }
}

/// The certificate authority and the names in the server's certificate.
#[derive(Debug, Clone, Default)]
pub struct CertificateConfig {
    /// Where the authority lives (`ca.pem`, `ca.key`): made at the first start, used again at the next ones. `None`
    /// makes one for this run only.
    pub directory: Option<PathBuf>,
    /// Where to write the authority's certificate besides, for clients to trust.
    pub ca_file: Option<PathBuf>,
    /// Names in addition to `localhost`, `127.0.0.1` and `::1`, for example a container's.
    pub names: Vec<String>,
}

/// Who may log in.
#[derive(Clone)]
pub enum Credentials {
    /// Every sender id with every key that is not empty.
    Any,
    /// These senders.
    Only(Vec<Account>),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("Any"),
            Self::Only(accounts) => write!(f, "Only({} accounts)", accounts.len()),
        }
    }
}

/// A sender id and its key. Not `Debug`: the key is a secret.
#[derive(Clone)]
pub struct Account {
    /// The digits in front of the domain.
    pub sender_id: String,
    /// The server key.
    pub key: String,
}

/// How the wire behaves.
#[derive(Debug, Clone)]
pub struct WireConfig {
    /// The domain of the addresses given out.
    pub domain: String,
    /// The domains accepted behind the sender id at the log-in.
    pub login_domains: Vec<String>,
    /// Whether the stream headers begin with an XML declaration. The real server sends none.
    pub declaration: Declaration,
    /// Messages of a client that may be unanswered at a time.
    pub window: usize,
    /// What follows when there are more.
    pub overrun: Overrun,
    /// Messages to a client that may be unacknowledged at a time; then the server waits.
    pub upstream_window: usize,
    /// Silence of ours after which a blank is sent, in milliseconds.
    pub keepalive_ms: u64,
    /// From the connection to the bound resource, in milliseconds.
    pub login_ms: u64,
    /// Bytes of one stanza.
    pub stanza_bytes: usize,
}

impl Default for WireConfig {
    fn default() -> Self {
        Self {
            domain: "gcm.googleapis.com".into(),
            login_domains: vec!["gcm.googleapis.com".into(), "fcm.googleapis.com".into()],
            declaration: Declaration::Omit,
            window: 100,
            overrun: Overrun::Close,
            upstream_window: 100,
            keepalive_ms: 60_000,
            login_ms: 30_000,
            stanza_bytes: 1 << 20,
        }
    }
}

/// Whether to send `<?xml version="1.0"?>` in front of a stream header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declaration {
    /// As the captures show.
    Omit,
    /// As RFC 6120 recommends.
    Send,
}

/// What follows when a client has more messages unanswered than the window allows. Undocumented, so all are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overrun {
    /// It is only counted.
    Nothing,
    /// The message is refused.
    Nack,
    /// The stream is closed.
    Close,
}

/// The virtual devices and what is kept of them.
#[derive(Debug, Clone)]
pub struct VirtualDevicesConfig {
    /// Unknown tokens with this prefix become online devices when they are first used; empty: any token. `None`: only
    /// devices that were set up exist.
    pub auto_devices: Option<String>,
    /// Devices at most.
    pub max_devices: usize,
    /// Messages remembered per device; the oldest are forgotten first.
    pub records_per_device: usize,
    /// Bytes of messages remembered of all devices together; the oldest are forgotten first.
    pub record_bytes: usize,
    /// Messages stored for a device that is away; one more deletes them all (as FCM does).
    pub stored_per_device: usize,
    /// Collapse keys stored for a device that is away; the oldest goes first.
    pub collapse_keys: usize,
    /// Messages on their way to slow devices, all together; more are refused.
    pub on_the_way: usize,
    /// Topics of one device at most.
    pub topics_per_device: usize,
}

impl Default for VirtualDevicesConfig {
    fn default() -> Self {
        Self {
            auto_devices: Some(String::new()),
            max_devices: 200_000,
            records_per_device: 20_000,
            record_bytes: 256 << 20,
            stored_per_device: 100,
            collapse_keys: 4,
            on_the_way: 500_000,
            topics_per_device: 2_000,
        }
    }
}

/// The limits of the service around the devices.
#[derive(Debug, Clone, Copy)]
pub struct ServiceLimits {
    /// Connections at a time; the real service allowed 1000 per sender.
    pub max_connections: usize,
    /// Messages and receipts waiting for a client; more are dropped and counted.
    pub max_queued: usize,
    /// Events kept for a subscriber that is slow; older ones are lost to it.
    pub event_queue: usize,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self { max_connections: 1_000, max_queued: 500_000, event_queue: 4_096 }
    }
}
