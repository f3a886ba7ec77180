//! What was counted. A test reads these to see what a client did wrong and what was done to it.

use serde::Serialize;
use std::collections::BTreeMap;

/// All counters. They only grow, except for the gauges under `now`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Connections that were accepted.
    pub connections: u64,
    /// Log-ins that went well.
    pub logins: u64,
    /// Log-ins that were refused.
    pub login_failures: u64,
    /// Messages that clients sent for devices.
    pub messages: u64,
    /// Answers: taken.
    pub acks: u64,
    /// Answers: refused, by code.
    pub nacks: BTreeMap<String, u64>,
    /// Stanza errors, by code.
    pub stanza_errors: BTreeMap<u16, u64>,
    /// Deliveries to devices.
    pub delivered: u64,
    /// Deliveries of an id that the device had already.
    pub duplicates: u64,
    /// Times that everything stored for a device was deleted, because it was too much.
    pub emptied: u64,
    /// Messages of devices.
    pub upstream: Letters,
    /// Receipts.
    pub receipts: Letters,
    /// Most messages of one client that were unanswered at a time.
    pub most_unanswered: usize,
    /// What clients did wrong.
    pub violations: Violations,
    /// What was done to clients on purpose.
    pub faults: FaultStats,
    /// How things stand.
    pub now: Gauges,
}

/// Counters of what goes to clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Letters {
    /// Made by devices.
    pub made: u64,
    /// Sent for the first time.
    pub sent: u64,
    /// Sent again on another connection.
    pub resent: u64,
    /// Acknowledged, each copy.
    pub acked: u64,
    /// Not kept, because there were too many.
    pub dropped: u64,
}

/// What clients did wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Violations {
    /// Messages beyond the window.
    pub window: u64,
    /// Messages with an id that was still unanswered.
    pub duplicate_id: u64,
    /// Acknowledgements of what was not outstanding on their connection.
    pub foreign_ack: u64,
    /// Acknowledgements that were malformed.
    pub bad_ack: u64,
    /// Messages with a `message_type` that is not theirs to use.
    pub message_type: u64,
    /// Messages without `message_id`, or that are not JSON.
    pub bad_stanza: u64,
    /// Messages that were refused for what is in them.
    pub invalid_json: u64,
    /// Stanzas before the log-in was complete.
    pub early: u64,
    /// Presence and other stanzas that have no place here.
    pub out_of_place: u64,
    /// Stanzas over a limit.
    pub oversize: u64,
    /// Streams that were not well-formed.
    pub malformed: u64,
}

/// What was done to clients on purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FaultStats {
    /// Answers that were never sent.
    pub lost_acks: u64,
    /// Refusals out of thin air, those ordered for a device included.
    pub nacks: u64,
    /// Connections that were drained.
    pub drains: u64,
    /// Streams that were closed.
    pub closes: u64,
    /// Connections that were reset.
    pub resets: u64,
    /// Connections that were stalled for a while.
    pub stalls: u64,
    /// Messages of devices that were sent twice at once.
    pub duplicate_upstream: u64,
    /// Receipts that were sent twice at once.
    pub duplicate_receipts: u64,
}

/// How things stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Gauges {
    /// Connections.
    pub connections: usize,
    /// Devices.
    pub devices: usize,
    /// Messages of devices and receipts without an acknowledgement.
    pub unacked: usize,
}

impl Stats {
    /// The word under which further codes are counted once there are many.
    const OTHER: &'static str = "OTHER";
    /// Codes that are counted by their names.
    const MAX_CODES: usize = 64;

    pub(super) fn nack(&mut self, code: &str) {
        if let Some(count) = self.nacks.get_mut(code) {
            *count += 1;
            return;
        }
        let code = if self.nacks.len() < Self::MAX_CODES { code } else { Self::OTHER };
        *self.nacks.entry(code.to_owned()).or_insert(0) += 1;
    }

    pub(super) fn stanza_error(&mut self, code: u16) {
        *self.stanza_errors.entry(code).or_insert(0) += 1;
    }
}
