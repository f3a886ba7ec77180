//! What a session is told at its birth.

use crate::secret::Secret;
use std::time::Duration;

/// Who logs in where, and the session's limits.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The XMPP domain, `gcm.googleapis.com` unless the server differs; not the name of the host.
    pub xmpp_domain: String,
    /// The sender id with its domain, as in `12345@gcm.googleapis.com`.
    pub user: String,
    /// The server key.
    pub key: Secret,
    /// The resource to ask for.
    pub resource: String,
    /// Messages in flight at most.
    pub window: usize,
    /// What is accepted from the peer.
    pub limits: Limits,
    /// How long to wait for what.
    pub timing: Timing,
}

/// What is accepted from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one stanza.
    pub stanza_bytes: usize,
    /// Elements inside each other.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { stanza_bytes: 1 << 20, depth: 16 }
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the stream header to the bound resource.
    pub login: Duration,
    /// Silence of the peer before it is asked whether it is alive.
    pub ping_interval: Duration,
    /// From the question to any sign of life.
    pub ping_timeout: Duration,
    /// For the answers to what is in flight, when shutting down.
    pub grace: Duration,
    /// For the peer's close tag after ours.
    pub close: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            login: Duration::from_secs(30),
            ping_interval: Duration::from_secs(60),
            ping_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            close: Duration::from_secs(2),
        }
    }
}
