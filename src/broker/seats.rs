//! How many connections an address has. Those of a user are counted where their users are known (`identity`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An IPv6 customer has a network of this size for themselves (RFC 6177), and could be a new address at each attempt.
const IPV6_PREFIX: u32 = 64;

/// Connections counted by their origin. There are as many entries as there are origins with a connection.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    /// A lock because seats are given back by whoever drops them. Never held across an await.
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place in the count; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    origin: IpAddr,
}

impl Seats {
    /// `most` is the number of connections from one origin.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// A place for a connection from `address`, if there is one left.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let origin = origin(address);
        let mut taken = self.lock();
        let count = taken.entry(origin).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Seat { seats: Arc::clone(self), origin })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        if let Some(count) = taken.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.origin);
            }
        }
    }
}

/// The address under which connections are counted: IPv6 by its network, IPv4 as it is, however it is written.
fn origin(address: IpAddr) -> IpAddr {
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

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_origin_has_its_own_places() {
        let seats = Seats::new(2);
        let take = |text: &str| seats.take(address(text));
        let (first, _second) = (take("192.0.2.1").unwrap(), take("192.0.2.1").unwrap());
        assert!(take("::ffff:192.0.2.1").is_none());
        let _other = take("192.0.2.2").unwrap();
        drop(first);
        let _third = take("192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let (seats, home) = (Seats::new(1), address("192.0.2.1"));
        drop(seats.take(home));
        assert!(seats.lock().is_empty());
        let kept = seats.take(home);
        assert!(seats.take(home).is_none());
        assert_eq!(seats.lock().len(), 1, "a refusal leaves nothing behind");
        drop(kept);
        assert!(seats.lock().is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_origin() {
        let origin = |text: &str| origin(address(text)).to_string();
        assert_eq!(origin("2001:db8:1:2:aaaa::1"), "2001:db8:1:2::");
        assert_eq!(origin("2001:db8:1:2:bbbb::2"), "2001:db8:1:2::");
        assert_eq!(origin("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(origin("192.0.2.8"), "192.0.2.8");
    }
}
