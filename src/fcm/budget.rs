//! FCM's quotas, kept from this side: of the whole project, and of each device.
//!
//! A request that FCM would refuse with 429 costs a round trip and a minute; one that is held back here goes as soon as
//! it may. Collapsible messages have no budget here: FCM takes all of them, and delivers those beyond 20 late, the newest of
//! each key. The project's share grows from little to all of it within a minute, as Google asks: after a start, after a pause,
//! and after FCM itself stopped it, however short that was.

use super::bucket::{Bucket, Rate};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

/// Most devices that are kept in mind at the same time, a few dozen bytes each. Beyond it those closest to a full
/// budget are forgotten: at worst FCM itself refuses one message of such a device.
pub const DEVICES_MAX: usize = 200_000;
/// How long the project's share takes to grow from little to all of it.
pub const RAMP: Duration = Duration::from_secs(60);
/// A pause so long begins a new ramp.
pub const IDLE: Duration = Duration::from_secs(60);

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// What the ramp begins with, in percent: the first of Google's own steps for a roll-out.
const RAMP_START: u32 = 1;
/// The part of the project's limit that may go at once: a second's worth.
const PROJECT_BURST_PART: u32 = 60;
/// Of a device's limit in a minute, what may go at once. Over a hundred waiting messages FCM drops all of them.
const MINUTE_BURST_PART: u32 = 4;
/// Of a device's limit in an hour, what may go as fast as the minute allows.
const HOUR_BURST_PART: u32 = 5;

/// How much may go. What is set is the project's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub struct Quotas {
    /// Messages of the project in a minute.
    pub project_per_minute: u32,
    /// Messages to one device in a minute.
    pub device_per_minute: u32,
    /// Messages to one device in an hour.
    pub device_per_hour: u32,
}

/// FCM's defaults.
impl Default for Quotas {
    fn default() -> Self {
        Self { project_per_minute: 600_000, device_per_minute: 240, device_per_hour: 5_000 }
    }
}

impl From<u32> for Quotas {
    fn from(project_per_minute: u32) -> Self {
        Self { project_per_minute, ..Self::default() }
    }
}

impl From<Quotas> for u32 {
    fn from(quotas: Quotas) -> Self {
        quotas.project_per_minute
    }
}

/// What a message counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// One device, by a number that is always the same for it.
    Device(i64),
    /// A topic or condition: the project only.
    Topic,
}

/// Whether a message may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// It may, and was counted.
    Go,
    /// Not yet: the project's budget is used up. Nothing was counted.
    ProjectWaits(Duration),
    /// Not yet: this device's budget is used up, by the limit that it names. Nothing was counted, others may go.
    DeviceWaits(Duration, Limit),
}

/// A limit of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// So many in a minute.
    Minute(u32),
    /// So many in an hour.
    Hour(u32),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minute(most) => write!(f, "{most}/min"),
            Self::Hour(most) => write!(f, "{most}/h"),
        }
    }
}

/// All budgets.
#[derive(Debug)]
pub struct Budget {
    rate: Rate,
    project: Bucket,
    ramp_from: Option<Instant>,
    last: Option<Instant>,
    device_rates: [Rate; 2],
    device_limits: [Limit; 2],
    devices: HashMap<i64, Device>,
}

/// What one device had of its minute and of its hour.
type Device = [Bucket; 2];

impl Budget {
    /// Full budgets, before the ramp.
    pub fn new(quotas: &Quotas) -> Self {
        let per = |limit: u32, window, burst_part: u32| Rate::new(limit, window, (limit / burst_part).max(1));
        Self {
            rate: per(quotas.project_per_minute, MINUTE, PROJECT_BURST_PART),
            project: Bucket::default(),
            ramp_from: None,
            last: None,
            device_rates: [
                per(quotas.device_per_minute, MINUTE, MINUTE_BURST_PART),
                per(quotas.device_per_hour, HOUR, HOUR_BURST_PART),
            ],
            device_limits: [Limit::Minute(quotas.device_per_minute), Limit::Hour(quotas.device_per_hour)],
            devices: HashMap::new(),
        }
    }

    /// Counts one message, if it may go.
    pub fn take(&mut self, charge: Charge, now: Instant) -> Grant {
        let project = self.project_wait(now);
        if !project.is_zero() {
            return Grant::ProjectWaits(project);
        }
        if let Charge::Device(recipient) = charge {
            let known = self.devices.get(&recipient);
            let waits = known.into_iter().flatten().zip(self.device_rates).map(|(bucket, rate)| bucket.wait(rate, now));
            let longest = waits.zip(self.device_limits).max_by_key(|(wait, _)| *wait);
            if let Some((wait, limit)) = longest.filter(|(wait, _)| !wait.is_zero()) {
                return Grant::DeviceWaits(wait, limit);
            }
            if known.is_none() {
                self.make_room(now);
            }
            let buckets = self.devices.entry(recipient).or_default();
            buckets.iter_mut().zip(self.device_rates).for_each(|(bucket, rate)| bucket.take(rate, now));
        }
        self.project.take(self.rate_at(now), now);
        if self.is_fresh(now) {
            self.ramp_from = Some(now);
        }
        self.last = Some(now);
        Grant::Go
    }

    /// FCM stopped the project: from its next message on the share grows anew.
    pub fn begin_anew(&mut self) {
        self.last = None;
    }

    /// How long until one more message of the project may go, whoever it is for; zero is now.
    pub fn project_wait(&self, now: Instant) -> Duration {
        self.project.wait(self.rate_at(now), now)
    }

    /// Forgets devices when there are too many: those with a full budget lose nothing by it; should they be few, the
    /// half that is closest to it goes as well, so that this is not done again for each message.
    fn make_room(&mut self, now: Instant) {
        if self.devices.len() < DEVICES_MAX {
            return;
        }
        let debt = |device: &Device| device.iter().map(|bucket| bucket.debt(now)).max();
        self.devices.retain(|_, device| debt(device) > Some(Duration::ZERO));
        if self.devices.len() > DEVICES_MAX / 2 {
            let mut debts: Vec<_> = self.devices.iter().map(|(recipient, device)| (debt(device), *recipient)).collect();
            let middle = debts.len() / 2;
            debts.select_nth_unstable(middle);
            for (_, recipient) in &debts[..=middle] {
                self.devices.remove(recipient);
            }
        }
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= IDLE)
    }

    /// The share of the ramp that is reached. It is only ever slower than the whole rate, so the limit holds.
    fn rate_at(&self, now: Instant) -> Rate {
        let since = match self.ramp_from {
            Some(from) if !self.is_fresh(now) => now.saturating_duration_since(from),
            _ => Duration::ZERO,
        };
        if since >= RAMP {
            return self.rate;
        }
        let percent = since.as_millis() * 100 / RAMP.as_millis();
        self.rate.part(u32::try_from(percent).unwrap_or(100).max(RAMP_START))
    }
}

#[cfg(test)]
mod tests;
