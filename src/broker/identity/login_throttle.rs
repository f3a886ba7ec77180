//! Who failed to log in too often has to wait. Pure. `K` is what failures are counted by: a network ([`network_of`]), or the
//! like.
//!
//! [`network_of`]: crate::broker::connection_limits::network_of

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
/// Keys that are remembered in each of two generations; beyond it the older generation is forgotten.
const KEYS_MAX: usize = 32_768;

/// Failures by key: each may fail so often, and again as time passes.
#[derive(Debug)]
pub(super) struct LoginThrottle<K> {
    per_minute: f64,
    /// Those that failed since the rotation, and those of the generation before. After a minute without a failure
    /// one has all its failures again, so that nothing is lost with a generation.
    current: HashMap<K, Budget>,
    previous: HashMap<K, Budget>,
    rotated_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Budget {
    left: f64,
    at: Instant,
}

impl<K: Hash + Eq> LoginThrottle<K> {
    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute: per_minute.into(), current: HashMap::new(), previous: HashMap::new(), rotated_at: None }
    }

    /// Whether it has used up its failures.
    pub(super) fn is_used_up(&self, key: &K, now: Instant) -> bool {
        self.left(key, now) < 1.0
    }

    pub(super) fn failed(&mut self, key: K, now: Instant) {
        let left = (self.left(&key, now) - 1.0).max(0.0);
        let over = self.rotated_at.is_none_or(|rotated_at| now.saturating_duration_since(rotated_at) >= MINUTE);
        if over || self.current.len() >= KEYS_MAX {
            self.previous = std::mem::take(&mut self.current);
            self.rotated_at = Some(now);
        }
        self.current.insert(key, Budget { left, at: now });
    }

    /// How often it may still fail.
    fn left(&self, key: &K, now: Instant) -> f64 {
        let Some(Budget { left, at }) = self.current.get(key).or_else(|| self.previous.get(key)) else {
            return self.per_minute;
        };
        let refilled = now.saturating_duration_since(*at).as_secs_f64() / MINUTE.as_secs_f64() * self.per_minute;
        (left + refilled).min(self.per_minute)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::broker::connection_limits::network_of;

    fn start() -> Instant {
        Instant::now()
    }

    fn ip(text: &str) -> IpAddr {
        network_of(text.parse().unwrap())
    }

    #[test]
    fn each_address_has_its_own_failures() {
        let (mut throttle, now) = (LoginThrottle::new(3), start());
        for _ in 0..3 {
            assert!(!throttle.is_used_up(&ip("10.0.0.1"), now));
            throttle.failed(ip("10.0.0.1"), now);
        }
        assert!(throttle.is_used_up(&ip("10.0.0.1"), now) && throttle.is_used_up(&ip("::ffff:10.0.0.1"), now));
        assert!(!throttle.is_used_up(&ip("10.0.0.2"), now));
    }

    #[test]
    fn a_network_of_version_six_counts_as_one() {
        let (mut throttle, now) = (LoginThrottle::new(1), start());
        throttle.failed(ip("2001:db8::1"), now);
        assert!(throttle.is_used_up(&ip("2001:db8::ffff:1"), now));
        assert!(!throttle.is_used_up(&ip("2001:db8:0:1::1"), now));
    }

    #[test]
    fn time_gives_them_back_one_by_one() {
        let (mut throttle, start) = (LoginThrottle::new(60), start());
        for _ in 0..60 {
            throttle.failed(ip("10.0.0.1"), start);
        }
        assert!(throttle.is_used_up(&ip("10.0.0.1"), start + Duration::from_millis(900)));
        let later = start + Duration::from_millis(1_100);
        assert!(!throttle.is_used_up(&ip("10.0.0.1"), later));
        throttle.failed(ip("10.0.0.1"), later);
        assert!(throttle.is_used_up(&ip("10.0.0.1"), later));
        assert!(!throttle.is_used_up(&ip("10.0.0.1"), start + 3 * MINUTE));
    }

    #[test]
    fn a_failure_is_remembered_for_a_minute_whatever_others_do() {
        let (mut throttle, start) = (LoginThrottle::new(2), start());
        let at = |seconds| start + Duration::from_secs(seconds);
        throttle.failed(ip("10.0.0.9"), at(0));
        throttle.failed(ip("10.0.0.1"), at(50));
        throttle.failed(ip("10.0.0.1"), at(50));
        throttle.failed(ip("10.0.0.9"), at(61));
        assert!(throttle.is_used_up(&ip("10.0.0.1"), at(75)));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut throttle, now) = (LoginThrottle::new(1), start());
        for n in 0..3 * KEYS_MAX as u32 {
            throttle.failed(IpAddr::V4(n.into()), now);
        }
        assert!(throttle.current.len() + throttle.previous.len() <= 2 * KEYS_MAX);
    }
}
