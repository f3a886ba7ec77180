//! The one place that reads the wall clock, and what tasks wait by.

use std::future::pending;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Unix milliseconds. A clock before 1970 reads as 0.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now_ms() -> u64 {
    #[cfg(test)]
    if let Some(held) = HELD.get() {
        return held;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
thread_local! {
    /// What the wall clock reads in this thread, if a test holds it.
    static HELD: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// The wall clock of this thread, which stands still but for what a test lets pass, until this is dropped.
#[cfg(test)]
pub(crate) struct HeldClock(());

#[cfg(test)]
impl HeldClock {
    pub(crate) fn at(ms: u64) -> Self {
        HELD.set(Some(ms));
        Self(())
    }

    pub(crate) fn pass(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        HELD.set(HELD.get().map(|held| held.saturating_add(by)));
    }
}

#[cfg(test)]
impl Drop for HeldClock {
    fn drop(&mut self) {
        HELD.set(None);
    }
}

/// The monotonic clock of the machine, which a paused clock of tokio's does not move: for what the system does in a thread of
/// its own.
#[expect(clippy::disallowed_methods, reason = "tokio's clock may be paused or ahead where this is compared")]
pub fn machine_now() -> std::time::Instant {
    std::time::Instant::now()
}

/// A time as operators read it, of Unix milliseconds.
pub fn utc(ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// Ticks at once, and then every `period`. A tick that comes late puts off those after it.
pub fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Waits until `deadline`; without one, for ever.
pub async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}

/// How far the wall clock may be ahead before it counts as set forward (or the machine as woken up), in milliseconds.
const STEP_MS: u64 = 10_000;

/// The wall clock of the start, carried on by the monotonic one. It follows the wall clock forward, and never back: a
/// user must not stay online for an hour because an hour was put back.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    /// Starts from the wall clock.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), start_ms: now_ms() }
    }

    /// Unix milliseconds.
    pub(crate) fn now(&mut self) -> u64 {
        self.at(now_ms())
    }

    /// When it will be `ms`.
    pub(crate) fn instant(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms.saturating_sub(self.start_ms))
    }

    fn at(&mut self, wall: u64) -> u64 {
        let carried = self.start_ms.saturating_add(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX));
        let behind = wall.saturating_sub(carried);
        if behind <= STEP_MS {
            return carried;
        }
        self.start_ms += behind;
        wall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_wall_clock_forward_only() {
        let mut clock = Clock { start: Instant::now(), start_ms: 1_000_000 };
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.at(0), 1_001_000, "set back");
        assert_eq!(clock.at(1_001_000 + STEP_MS), 1_001_000, "a little ahead");
        assert_eq!(clock.at(5_000_000), 5_000_000, "set forward");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(clock.at(5_000_000), 5_002_000);
        assert_eq!(clock.instant(5_003_000), Instant::now() + Duration::from_secs(1));
    }
}
