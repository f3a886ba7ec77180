//! What the v1 side is told at its start.

use super::fault::V1Faults;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// Everything.
#[derive(Debug, Clone)]
pub struct V1Config {
    /// Where messages are taken: TLS with ALPN `h2`, or HTTP/2 in the clear by prior knowledge. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where access tokens are to be had, by HTTP/1.1 with TLS or without. Port 0 takes a free one. The service account
    /// names it with `http` on a loopback address and with `https` elsewhere.
    pub authority: SocketAddr,
    /// The project of the path and of the service account.
    pub project: String,
    /// How long an access token lasts, in seconds.
    pub token_life_s: u64,
    /// How a connection is limited.
    pub connection: ConnectionLimits,
    /// How many messages are taken.
    pub quotas: Quotas,
    /// What goes wrong.
    pub faults: V1Faults,
}

impl Default for V1Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            authority: SocketAddr::from(([127, 0, 0, 1], 0)),
            project: "demo-project".into(),
            token_life_s: 3_599,
            connection: ConnectionLimits::default(),
            quotas: Quotas::default(),
            faults: V1Faults::default(),
        }
    }
}

/// How a connection is limited. The defaults were observed on the real service.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Streams at a time.
    pub streams: u32,
    /// Without a request for so long, it is told to go.
    pub idle: Duration,
    /// As old as this, it is told to go.
    pub age: Duration,
    /// Pings without a request in between after which it is told to calm down.
    pub pings: u32,
    /// By how much time is shortened: `idle` and `age` are divided by it.
    pub time_divisor: u32,
}

impl ConnectionLimits {
    /// `time` on the clock of connections.
    pub(super) fn scaled(&self, time: Duration) -> Duration {
        time / self.time_divisor.max(1)
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            streams: 100,
            idle: Duration::from_secs(4 * 60),
            age: Duration::from_secs(60 * 60),
            pings: 3,
            time_divisor: 1,
        }
    }
}

/// How many messages are taken. The defaults are the documented ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Of the whole project in a minute.
    pub project_per_minute: u64,
    /// For one device in a minute.
    pub device_per_minute: u64,
    /// For one device in an hour.
    pub device_per_hour: u64,
    /// With a collapse key for one device at once; further ones are delivered later.
    pub collapsible_burst: u64,
    /// How much later each, in milliseconds.
    pub collapsible_refill_ms: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            project_per_minute: 600_000,
            device_per_minute: 240,
            device_per_hour: 5_000,
            collapsible_burst: 20,
            collapsible_refill_ms: 3 * 60 * 1_000,
        }
    }
}
