//! What a transport counts, and how its connections stand, for metrics and status topics.

use super::event::Counted;
use crate::transport::ConnectionId;
use std::collections::BTreeMap;

/// Most different codes of refusal that are counted under their own name; some services let the peer invent them.
const REFUSAL_CODES_MAX: usize = 64;
/// What the others are counted as.
const OTHER_CODES: &str = "other";

/// The counters since the start, and the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Messages handed to a connection.
    pub sent: u64,
    /// Of these, the ones that had been handed to an earlier connection and may have been taken there.
    pub resent: u64,
    /// Messages that the push service took.
    pub accepted: u64,
    /// Messages that it refused. By code: [`Snapshot::refusals`].
    pub rejected: u64,
    /// Messages that a connection did not take, so that they went to another.
    pub not_taken: u64,
    /// Messages whose time to live ended here.
    pub expired: u64,
    /// Messages left without an answer when the transport stopped.
    pub lost: u64,
    /// Messages from devices.
    pub upstream: u64,
    /// Others, that could not be understood.
    pub upstream_rejected: u64,
    /// Receipts.
    pub receipts: u64,
    /// Acknowledgements passed on.
    pub acks: u64,
    /// Acknowledgements whose connection is gone: what they are for comes again.
    pub stale_acks: u64,
    /// Acknowledgements that the peer did not understand.
    pub bad_acks: u64,
    /// Answers to messages that are not in flight.
    pub unknown_answers: u64,
    /// Payloads that could not be used.
    pub malformed: u64,
    /// Pieces over a limit.
    pub oversize: u64,
    /// Connections begun.
    pub dials: u64,
    /// Connections that took messages.
    pub connects: u64,
    /// Connections that ended.
    pub disconnects: u64,
    /// Log-ins refused.
    pub auth_failures: u64,
    /// Connections that the peer began to drain.
    pub drains: u64,
    /// Connections that were given up because answers did not come.
    pub suspects: u64,
    /// Pings sent.
    pub pings: u64,
    /// Refusals by code, the rarest of too many as `other`.
    pub refusals: BTreeMap<String, u64>,
    /// Messages taken from the bridge and without a report.
    pub pending: usize,
    /// The connections, oldest first.
    pub connections: Vec<ConnectionState>,
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionState {
    /// Which one.
    pub connection: ConnectionId,
    /// Whether messages go out.
    pub phase: ConnectionPhase,
    /// Messages on it that are not answered.
    pub unanswered: usize,
}

/// Whether messages go out over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionPhase {
    /// It is being opened.
    Opening,
    /// It takes messages.
    Up,
    /// It takes none any more, and is kept for the answers that it owes.
    Draining,
    /// It is being closed.
    Closing,
}

impl Snapshot {
    /// How many connections stand so.
    pub fn connections_in(&self, phase: ConnectionPhase) -> usize {
        self.connections.iter().filter(|state| state.phase == phase).count()
    }

    pub(super) fn refused(&mut self, code: &str) {
        self.rejected += 1;
        let known = self.refusals.len() < REFUSAL_CODES_MAX || self.refusals.contains_key(code);
        *self.refusals.entry(if known { code } else { OTHER_CODES }.to_owned()).or_default() += 1;
    }

    pub(super) fn add(&mut self, counted: Counted) {
        self.bad_acks += counted.bad_acks;
        self.unknown_answers += counted.unknown_answers;
        self.malformed += counted.malformed;
        self.oversize += counted.oversize;
        self.pings += counted.pings;
    }
}
