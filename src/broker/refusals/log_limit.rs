//! How many log lines may be written about refusals.
//!
//! Each reason has so many in a minute. Half of them (`firsts`) are kept for addresses that had none of these in the last
//! minute: a client that tries again and again uses up the other half (`others`) only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
/// Lines of one reason within a minute for addresses that had none of these in the last minute.
pub(super) const FIRSTS_PER_MINUTE: u32 = 10;
/// Lines of one reason within a minute beside these. The rest is counted, and the next line says how many were left out.
pub(super) const OTHERS_PER_MINUTE: u32 = 10;
/// So many pairs of a reason and an address are remembered; beyond, the oldest is forgotten.
pub(super) const REMEMBERED: usize = 256;

/// What may be written now.
#[derive(Debug)]
pub(super) struct LogLimit {
    reasons: Vec<Reason>,
    /// When an address last had a line from the `firsts` of a reason.
    told: HashMap<(usize, IpAddr), Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Reason {
    firsts: Allowance,
    others: Allowance,
    untold: u64,
}

/// What is left of so many lines per minute.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    most: f64,
    left: f64,
    at: Instant,
}

impl LogLimit {
    pub(super) fn new(reasons: usize) -> Self {
        let full =
            Reason { firsts: Allowance::of(FIRSTS_PER_MINUTE), others: Allowance::of(OTHERS_PER_MINUTE), untold: 0 };
        Self { reasons: vec![full; reasons], told: HashMap::new() }
    }

    /// Whether a line of a reason may be written about an address, and how many of the reason were left out before it.
    pub(super) fn take(&mut self, reason: usize, address: IpAddr) -> Option<u64> {
        let now = Instant::now();
        let Reason { firsts, others, untold } = self.reasons.get_mut(reason)?;
        let is_first = self.told.get(&(reason, address)).is_none_or(|then| now.duration_since(*then) >= MINUTE);
        if !(is_first && firsts.take(now) || others.take(now)) {
            *untold += 1;
            return None;
        }
        let untold = std::mem::take(untold);
        if is_first {
            self.remember((reason, address), now);
        }
        Some(untold)
    }

    fn remember(&mut self, pair: (usize, IpAddr), now: Instant) {
        if self.told.len() >= REMEMBERED
            && !self.told.contains_key(&pair)
            && let Some(oldest) = self.told.iter().min_by_key(|(_, then)| **then).map(|(pair, _)| *pair)
        {
            self.told.remove(&oldest);
        }
        self.told.insert(pair, now);
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.told.len()
    }
}

impl Allowance {
    fn of(per_minute: u32) -> Self {
        let most = f64::from(per_minute);
        Self { most, left: most, at: Instant::now() }
    }

    fn take(&mut self, now: Instant) -> bool {
        let refilled = now.duration_since(self.at).as_secs_f64() / MINUTE.as_secs_f64() * self.most;
        (self.left, self.at) = ((self.left + refilled).min(self.most), now);
        let has_one = self.left >= 1.0;
        if has_one {
            self.left -= 1.0;
        }
        has_one
    }
}
