//! What the transport counts, and how its connections stand, for metrics and status topics.

use crate::ccs::event::Counters;
use crate::ccs::nack::NackCode;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Messages handed to a connection.
    Sent,
    /// Of these, the ones that had been handed to an earlier connection.
    Resent,
    /// Messages that CCS took.
    Accepted,
    /// Messages refused by a stanza error. Nacks are counted by code: [`Monitor::nacks`].
    Rejected,
    /// Messages whose time to live ended here.
    Expired,
    /// Messages left unanswered when the transport stopped.
    Lost,
    /// Messages from devices.
    Upstream,
    /// Receipts.
    Receipts,
    /// Acknowledgements passed on.
    Acks,
    /// Acknowledgements whose connection is gone: what they are for comes again.
    StaleAcks,
    /// Acknowledgements that CCS did not understand.
    BadAcks,
    /// Answers to messages that are not in flight.
    UnknownAnswers,
    /// Payloads that could not be used.
    Malformed,
    /// Stanzas over a limit.
    Oversize,
    /// Connections begun.
    Dials,
    /// Connections that took messages.
    Connects,
    /// Connections that ended.
    Disconnects,
    /// Logins refused.
    AuthFailures,
    /// Connections that CCS began to drain.
    Drains,
    /// Pings sent.
    Pings,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Sent,
        Self::Resent,
        Self::Accepted,
        Self::Rejected,
        Self::Expired,
        Self::Lost,
        Self::Upstream,
        Self::Receipts,
        Self::Acks,
        Self::StaleAcks,
        Self::BadAcks,
        Self::UnknownAnswers,
        Self::Malformed,
        Self::Oversize,
        Self::Dials,
        Self::Connects,
        Self::Disconnects,
        Self::AuthFailures,
        Self::Drains,
        Self::Pings,
    ];
}

/// How one of the connections that are kept stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionState {
    /// Whether messages go out.
    pub phase: ConnectionPhase,
    /// Connections that it replaced and that are still draining.
    pub draining: usize,
}

/// Whether messages go out over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConnectionPhase {
    /// None, and none is being opened.
    #[default]
    Stopped,
    /// It is being opened, or waits for its next attempt.
    Connecting,
    /// It takes messages.
    Up,
}

/// The counters and states of a transport. Shared: one task writes, others look.
#[derive(Debug)]
pub struct Monitor {
    counters: [AtomicU64; Metric::ALL.len()],
    nacks: [AtomicU64; NackCode::ALL.len()],
    pending: AtomicU64,
    connections: watch::Sender<Vec<ConnectionState>>,
}

impl Default for Monitor {
    fn default() -> Self {
        Self {
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            nacks: std::array::from_fn(|_| AtomicU64::new(0)),
            pending: AtomicU64::new(0),
            connections: watch::Sender::new(Vec::new()),
        }
    }
}

impl Monitor {
    /// How often `metric` happened.
    #[must_use]
    pub fn count(&self, metric: Metric) -> u64 {
        self.counters[metric as usize].load(Ordering::Relaxed)
    }

    /// How many messages were refused with `code`.
    #[must_use]
    pub fn nacks(&self, code: NackCode) -> u64 {
        self.nacks[code as usize].load(Ordering::Relaxed)
    }

    /// How many messages are taken from the bridge and not settled.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// The states of the connections, one each, and their changes.
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<Vec<ConnectionState>> {
        self.connections.subscribe()
    }

    pub(super) fn add(&self, metric: Metric, count: u64) {
        self.counters[metric as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_nack(&self, code: NackCode) {
        self.nacks[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Adds what a session counted since `before`.
    pub(super) fn add_session(&self, before: &Counters, after: &Counters) {
        for (metric, before, after) in [
            (Metric::BadAcks, before.bad_acks, after.bad_acks),
            (Metric::UnknownAnswers, before.unknown_answers, after.unknown_answers),
            (Metric::Malformed, before.malformed, after.malformed),
            (Metric::Oversize, before.oversize, after.oversize),
            (Metric::Pings, before.pings, after.pings),
        ] {
            if after > before {
                self.add(metric, after - before);
            }
        }
    }

    pub(super) fn set_pending(&self, pending: usize) {
        self.pending.store(pending as u64, Ordering::Relaxed);
    }

    pub(super) fn set_connections(&self, states: Vec<ConnectionState>) {
        self.connections.send_if_modified(|old| {
            let changed = *old != states;
            *old = states;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_and_code_has_a_counter_of_its_own() {
        let monitor = Monitor::default();
        for (n, metric) in Metric::ALL.into_iter().enumerate() {
            monitor.add(metric, n as u64 + 1);
        }
        for (n, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(monitor.count(metric), n as u64 + 1);
        }
        for code in NackCode::ALL {
            monitor.add_nack(code);
        }
        assert!(NackCode::ALL.into_iter().all(|code| monitor.nacks(code) == 1));
    }
}
