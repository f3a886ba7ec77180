//! How many connections an address has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An IPv6 customer has a network of this size for themselves (RFC 6177), and could be a new address at each attempt.
const IPV6_PREFIX: u32 = 64;

/// Connections counted by the networks that they come from. There are as many entries as there are networks with one.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    most: usize,
    /// A lock because permits are given back by whoever drops them. Never held across an await.
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place in the count; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    network: IpAddr,
}

impl ConnectionLimits {
    /// `most` is the number of connections from the same network.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// A place for a connection from this address, if there is one left.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionPermit> {
        let network = network_of(address);
        let mut taken = self.lock();
        let count = taken.entry(network).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(ConnectionPermit { limits: Arc::clone(self), network })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut taken = self.limits.lock();
        if let Some(count) = taken.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.network);
            }
        }
    }
}

/// The address under which connections are counted: IPv6 by its network, IPv4 as it is, however it is written.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (u128::BITS - IPV6_PREFIX))).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_network_has_its_own_places() {
        let limits = ConnectionLimits::new(2);
        let take = |address: &str| limits.take(ip(address));
        let (first, _second) = (take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap());
        assert!(take("2001:db8::1").is_none() && take("2001:db8::3").is_none());
        let _other = take("192.0.2.7").unwrap();
        drop(first);
        let _third = take("2001:db8::3").unwrap();
        assert!(take("2001:db8::1").is_none());
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let limits = ConnectionLimits::new(1);
        let alice = ip("192.0.2.7");
        drop(limits.take(alice));
        assert!(limits.lock().is_empty());
        let kept = limits.take(alice);
        assert!(limits.take(alice).is_none());
        assert_eq!(limits.lock().len(), 1, "a refusal leaves nothing behind");
        drop(kept);
        assert!(limits.lock().is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_origin() {
        let network_of = |text: &str| network_of(ip(text)).to_string();
        assert_eq!(network_of("2001:db8:1:2:aaaa::1"), "2001:db8:1:2::");
        assert_eq!(network_of("2001:db8:1:2:bbbb::2"), "2001:db8:1:2::");
        assert_eq!(network_of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network_of("192.0.2.8"), "192.0.2.8");
    }
}
