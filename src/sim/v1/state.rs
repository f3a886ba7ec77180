//! What the v1 side keeps beside the devices: its plan, its quotas, the access tokens, the confirmations, the counters.
//! Sans-IO.

use super::config::V1Config;
use super::fault::V1Faults;
use super::quota::QuotaUse;
use super::stats::V1Stats;
use super::tokens::Tokens;
use crate::sim::device::Confirm;
use crate::sim::fault::Dice;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;

/// Confirmations remembered; the oldest are forgotten first.
const MAX_CONFIRMATIONS: usize = 10_000;

/// Which of the seed's dice make access tokens; no connection has that number.
const TOKEN_DICE: u64 = u64::MAX;

/// An app says that it has a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppAck {
    /// Counted from 1.
    pub seq: u64,
    /// The device.
    pub token: String,
    /// Where the app says so: `data.ack`.
    pub topic: String,
    /// The message: `data.mid`.
    pub id: String,
    /// When, in Unix milliseconds: as a rule not before its sender has heard that the message was taken.
    pub at: u64,
}

#[derive(Debug)]
pub(in crate::sim) struct V1State {
    pub(super) project: Arc<str>,
    pub(super) token_life_s: u64,
    pub(super) faults: V1Faults,
    pub(super) quota: QuotaUse,
    pub(super) tokens: Tokens,
    pub(super) stats: V1Stats,
    confirmations: VecDeque<AppAck>,
}

impl V1State {
    /// `config` is `None` where there is no v1 side.
    pub(in crate::sim) fn new(config: Option<&V1Config>, seed: u64) -> Self {
        let config = config.cloned().unwrap_or_default();
        Self {
            project: config.project.into(),
            token_life_s: config.token_life_s,
            faults: config.faults,
            quota: QuotaUse::new(config.quotas),
            tokens: Tokens::new(Dice::new(seed, TOKEN_DICE)),
            stats: V1Stats::default(),
            confirmations: VecDeque::new(),
        }
    }

    /// An app says that it has a message, which it got at `at`; its sender hears at `answered_at` that it was taken.
    pub(in crate::sim) fn confirmed(&mut self, token: &str, confirm: &Confirm, answered_at: u64, at: u64) {
        self.stats.confirmations += 1;
        if self.confirmations.len() == MAX_CONFIRMATIONS {
            self.confirmations.pop_front();
        }
        self.confirmations.push_back(AppAck {
            seq: self.stats.confirmations,
            token: token.to_owned(),
            topic: confirm.topic.to_string(),
            id: confirm.id.to_string(),
            at: if self.faults.confirm_before_answer { at } else { at.max(answered_at) },
        });
    }

    /// Up to `limit` confirmations behind number `after` that have been made at `now`.
    pub(super) fn confirmations(&self, after: u64, limit: usize, now: u64) -> Vec<AppAck> {
        let behind = self.confirmations.iter().filter(|ack| ack.seq > after);
        behind.take_while(|ack| ack.at <= now).take(limit).cloned().collect()
    }

    /// The next message that was held back and is to be delivered now.
    pub(in crate::sim) fn release(&mut self, now: u64) -> Option<crate::sim::virtual_devices::Push> {
        self.quota.release(now)
    }

    /// When [`V1State::release`] gives something.
    pub(in crate::sim) fn next_due(&self) -> Option<u64> {
        self.quota.next_due()
    }
}
