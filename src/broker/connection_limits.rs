//! How many connections somebody has: an address, or a user.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An IPv6 customer has a network of this size for themselves (RFC 6177), and could be a new address at each attempt.
const IPV6_PREFIX: u32 = 64;

/// Connections counted by their key. There are as many entries as there are keys with a connection.
#[derive(Debug)]
pub(super) struct ConnectionLimits<K> {
    most: usize,
    /// A lock because permits are given back by whoever drops them. Never held across an await.
    taken: Mutex<HashMap<K, usize>>,
}

/// One connection's place in the count; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct ConnectionPermit<K: Eq + Hash> {
    limits: Arc<ConnectionLimits<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> ConnectionLimits<K> {
    /// `most` is the number of connections with the same key.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// A place under `key`, if there is one left.
    pub(super) fn take(self: &Arc<Self>, key: K) -> Option<ConnectionPermit<K>> {
        let mut taken = self.lock();
        let count = taken.entry(key.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(ConnectionPermit { limits: Arc::clone(self), key })
    }
}

impl<K> ConnectionLimits<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for ConnectionPermit<K> {
    fn drop(&mut self) {
        let mut taken = self.limits.lock();
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

/// The address under which connections are counted: IPv6 by its network, IPv4 as it is, however it is written.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = u128::MAX << (u128::BITS - IPV6_PREFIX);
            Ipv6Addr::from_bits(address.to_bits() & network).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_places() {
        let limits: Arc<ConnectionLimits<Arc<str>>> = ConnectionLimits::new(2);
        let take = |user: &str| limits.take(user.into());
        let (first, _second) = (take("alice").unwrap(), take("alice").unwrap());
        assert!(take("alice").is_none());
        let _other = take("bob").unwrap();
        drop(first);
        let _third = take("alice").unwrap();
        assert!(take("alice").is_none());
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let limits = ConnectionLimits::new(1);
        drop(limits.take("alice"));
        assert!(limits.lock().is_empty());
        let kept = limits.take("alice");
        assert!(limits.take("alice").is_none());
        assert_eq!(limits.lock().len(), 1, "a refusal leaves nothing behind");
        drop(kept);
        assert!(limits.lock().is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_origin() {
        let network_of = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(network_of("2001:db8:1:2:aaaa::1"), "2001:db8:1:2::");
        assert_eq!(network_of("2001:db8:1:2:bbbb::2"), "2001:db8:1:2::");
        assert_eq!(network_of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network_of("192.0.2.8"), "192.0.2.8");
    }
}
