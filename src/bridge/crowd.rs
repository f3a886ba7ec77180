//! Keeps many messages to one recipient from being claimed before their turn, where a transport sends them one at a
//! time: they would only come back, and each way costs a write. Pure.

use std::collections::HashMap;

/// Messages of one recipient that a transport has which sends them one at a time; the others wait on disk.
const LINE_MAX: usize = 1;

/// How many messages of each recipient the transport has, or is about to get.
#[derive(Debug, Clone)]
pub(super) struct Crowd(HashMap<i64, usize>);

impl Crowd {
    /// The transport has messages of these recipients.
    pub(super) fn of(flying: impl Iterator<Item = i64>) -> Self {
        let mut counts = HashMap::new();
        for recipient in flying {
            *counts.entry(recipient).or_insert(0) += 1;
        }
        Self(counts)
    }

    /// Takes a place for one more message; false if there is none.
    pub(super) fn takes(&mut self, recipient: i64) -> bool {
        let count = self.0.entry(recipient).or_insert(0);
        let room = *count < LINE_MAX;
        *count += usize::from(room);
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_has_as_many_places_as_its_line() {
        let mut crowd = Crowd::of(std::iter::repeat_n(7, LINE_MAX - 1).chain([8]));
        let places: Vec<_> = (0..3).map(|_| crowd.takes(7)).collect();
        assert_eq!(places, [true, false, false]);
        assert!(crowd.takes(8), "others are not concerned");
    }
}
