//! How many messages are taken: of the project, and for one device.
//!
//! Counted in windows that begin with their first message, so that a client which keeps to its limit in every window is
//! never refused. Collapsible messages beyond their burst are not refused but held back, and replace each other there.

use super::config::Quotas;
use crate::sim::virtual_devices::Push;
use std::collections::{BTreeMap, HashMap};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;

/// Devices whose use is remembered before those at rest are forgotten.
const MAX_DEVICES: usize = 200_000;

/// Messages held back at a time; more are delivered at once.
const MAX_HELD: usize = 10_000;

/// Which quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Project,
    Device,
}

/// A quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exceeded {
    pub(super) whose: Whose,
    /// Until it is not any more.
    pub(super) wait_ms: u64,
}

/// What was used of all quotas, and what is held back.
#[derive(Debug)]
pub(super) struct QuotaUse {
    pub(super) quotas: Quotas,
    project: Window,
    devices: HashMap<Box<str>, Use>,
    /// By the time of delivery.
    held: BTreeMap<(u64, u64), Held>,
    /// By device and collapse key.
    places: HashMap<(Box<str>, Box<str>), (u64, u64)>,
    next_held: u64,
}

#[derive(Debug)]
struct Held {
    key: (Box<str>, Box<str>),
    push: Push,
}

#[derive(Debug, Default, Clone, Copy)]
struct Use {
    minute: Window,
    hour: Window,
    /// When the burst of collapsible messages is whole again.
    whole_at: u64,
}

impl QuotaUse {
    pub(super) fn new(quotas: Quotas) -> Self {
        let (project, devices) = (Window::default(), HashMap::new());
        Self { quotas, project, devices, held: BTreeMap::new(), places: HashMap::new(), next_held: 0 }
    }

    /// Whether the project may send one more.
    pub(super) fn check_project(&self, now: u64) -> Result<(), Exceeded> {
        let left = self.project.check(self.quotas.project_per_minute, MINUTE_MS, now);
        left.map_err(|wait_ms| Exceeded { whose: Whose::Project, wait_ms })
    }

    /// The project has sent one: whatever came of it, unless that was 429.
    pub(super) fn count_project(&mut self, now: u64) {
        self.project.count(MINUTE_MS, now);
    }

    /// Counts one for a device, if it may have one more.
    pub(super) fn take_device(&mut self, token: &str, now: u64) -> Result<(), Exceeded> {
        let quotas = self.quotas;
        let used = self.used(token, now);
        let minute = used.minute.check(quotas.device_per_minute, MINUTE_MS, now);
        let hour = used.hour.check(quotas.device_per_hour, HOUR_MS, now);
        minute.and(hour).map_err(|wait_ms| Exceeded { whose: Whose::Device, wait_ms })?;
        used.minute.count(MINUTE_MS, now);
        used.hour.count(HOUR_MS, now);
        Ok(())
    }

    /// Gives a collapsible message back if it is to be delivered at once; otherwise it is held back.
    pub(super) fn hold(&mut self, token: &str, collapse: &str, push: Push, now: u64) -> Option<Push> {
        let key = (token.into(), collapse.into());
        if let Some(held) = self.places.get(&key).and_then(|place| self.held.get_mut(place)) {
            held.push = push;
            return None;
        }
        let (burst, refill) = (self.quotas.collapsible_burst, self.quotas.collapsible_refill_ms);
        let used = self.used(token, now);
        let whole_at = used.whole_at.max(now).saturating_add(refill);
        let due = whole_at.saturating_sub(burst.saturating_mul(refill));
        used.whole_at = whole_at;
        if due <= now || self.held.len() >= MAX_HELD {
            return Some(push);
        }
        let place = (due, self.next_held);
        self.next_held += 1;
        self.places.insert(key.clone(), place);
        self.held.insert(place, Held { key, push });
        None
    }

    /// The next message whose time has come.
    pub(super) fn release(&mut self, now: u64) -> Option<Push> {
        let entry = self.held.first_entry().filter(|entry| entry.key().0 <= now)?;
        let held = entry.remove();
        self.places.remove(&held.key);
        Some(held.push)
    }

    /// When [`QuotaUse::release`] gives something.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.held.keys().next().map(|(due, _)| *due)
    }

    fn used(&mut self, token: &str, now: u64) -> &mut Use {
        if self.devices.len() >= MAX_DEVICES && !self.devices.contains_key(token) {
            self.devices.retain(|_, used| used.hour.since.saturating_add(HOUR_MS) > now || used.whole_at > now);
            if self.devices.len() >= MAX_DEVICES {
                // None is at rest: memory is bounded all the same.
                self.devices.clear();
            }
        }
        self.devices.entry(token.into()).or_default()
    }
}

/// A number of messages since the first of them.
#[derive(Debug, Default, Clone, Copy)]
struct Window {
    since: u64,
    count: u64,
}

impl Window {
    /// Whether one more fits; if not, how long until it does.
    fn check(&self, limit: u64, span: u64, now: u64) -> Result<(), u64> {
        let end = self.since.saturating_add(span);
        if now >= end || self.count < limit { Ok(()) } else { Err(end - now) }
    }

    fn count(&mut self, span: u64, now: u64) {
        if now >= self.since.saturating_add(span) {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::device::Message;
    use crate::sim::virtual_devices::{Mode, Target};
    use std::sync::Arc;

    const NOW: u64 = 1_700_000_000_000;

    fn state() -> QuotaUse {
        QuotaUse::new(Quotas {
            project_per_minute: 5,
            device_per_minute: 2,
            device_per_hour: 3,
            collapsible_burst: 2,
            collapsible_refill_ms: 1_000,
        })
    }

    fn push(id: &str) -> Push {
        let message = Message {
            id: id.into(),
            data: "{}".into(),
            notification: None,
            collapse: None,
            expires_at: u64::MAX,
            apns: None,
            answered_at: 0,
            receipt: false,
            confirm: None,
        };
        Push { target: Target::Token("t".into()), message: Arc::new(message), mode: Mode::Deliver }
    }

    #[test]
    fn the_project_has_a_window_that_begins_with_its_first_message() {
        let mut state = state();
        for _ in 0..5 {
            assert_eq!(state.check_project(NOW), Ok(()));
            state.count_project(NOW);
        }
        let exceeded = Exceeded { whose: Whose::Project, wait_ms: 50_000 };
        assert_eq!(state.check_project(NOW + 10_000), Err(exceeded));
        assert_eq!(state.check_project(NOW + 60_000), Ok(()));
    }

    #[test]
    fn a_device_has_a_minute_and_an_hour() {
        let mut state = state();
        let wait = |wait_ms| Err(Exceeded { whose: Whose::Device, wait_ms });
        assert_eq!([state.take_device("t", NOW), state.take_device("t", NOW)], [Ok(()), Ok(())]);
        assert_eq!(state.take_device("t", NOW), wait(60_000));
        assert_eq!(state.take_device("other", NOW), Ok(()));
        assert_eq!(state.take_device("t", NOW + 60_000), Ok(()));
        assert_eq!(state.take_device("t", NOW + 60_001), wait(HOUR_MS - 60_001));
        assert_eq!(state.take_device("t", NOW + HOUR_MS), Ok(()));
    }

    #[test]
    fn collapsible_messages_beyond_the_burst_are_late_and_replace_each_other() {
        let mut state = state();
        assert!(state.hold("t", "a", push("1"), NOW).is_some());
        assert!(state.hold("t", "a", push("2"), NOW).is_some());
        assert!(state.hold("t", "a", push("3"), NOW).is_none());
        assert!(state.hold("t", "a", push("4"), NOW).is_none());
        assert!(state.hold("t", "b", push("5"), NOW).is_none());
        assert_eq!(state.next_due(), Some(NOW + 1_000));
        assert_eq!(state.release(NOW + 999), None);
        assert_eq!(state.release(NOW + 1_000), Some(push("4")));
        assert_eq!((state.release(NOW + 1_000), state.next_due()), (None, Some(NOW + 2_000)));
        assert_eq!(state.release(NOW + 2_000), Some(push("5")));
        assert!(state.hold("t", "a", push("6"), NOW + 3_000).is_some(), "one has come back");
    }
}
