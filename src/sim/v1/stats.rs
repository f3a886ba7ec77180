//! What was counted on the v1 side.

use super::fault_kind::FaultKind;
use serde::Serialize;
use std::collections::BTreeMap;

/// All counters. They only grow, except for `open_connections` and `open_streams`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct V1Stats {
    /// Requests that were read whole.
    pub requests: u64,
    /// Messages that were taken for devices, those with a lost answer included.
    pub accepted: u64,
    /// Messages that were only validated.
    pub validated: u64,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// What was made to go wrong, by its word.
    // The word of earlier releases, which scripts at the control port read.
    #[serde(rename = "mishaps")]
    pub fault_kinds: BTreeMap<&'static str, u64>,
    /// Deliveries to devices, those of CCS included.
    pub delivered: u64,
    /// Deliveries of an id that the device had already, those of CCS included.
    pub duplicates: u64,
    /// Collapsible messages that were held back.
    pub held_back: u64,
    /// Confirmations of apps.
    pub confirmations: u64,
    /// Access tokens that were sold.
    pub tokens: u64,
    /// Requests for an access token that were refused, by OAuth's word.
    pub token_refusals: BTreeMap<&'static str, u64>,
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections now.
    pub open_connections: usize,
    /// Streams now.
    pub open_streams: usize,
    /// Most streams of one connection at a time.
    pub streams_peak: usize,
    /// Connections that were told to go, by the reason.
    pub goaways: BTreeMap<&'static str, u64>,
    /// Streams that came behind that and were never looked at.
    pub unprocessed: u64,
    /// What clients did wrong.
    pub violations: V1Violations,
}

/// What clients did wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct V1Violations {
    /// Streams beyond the limit.
    pub streams: u64,
    /// Connections with too many pings.
    pub pings: u64,
    /// Connections that broke HTTP/2.
    pub protocol: u64,
    /// TLS without ALPN `h2`.
    pub alpn: u64,
    /// Requests without `:authority`.
    pub authority: u64,
}

impl V1Stats {
    pub(super) fn answer(&mut self, status: u16) {
        *self.statuses.entry(status).or_insert(0) += 1;
    }

    pub(super) fn count_fault(&mut self, kind: FaultKind) {
        *self.fault_kinds.entry(kind.as_str()).or_insert(0) += 1;
    }
}
