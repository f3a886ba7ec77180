//! Keeps a client with a bug from drowning its own error topic, and the bridge.

use crate::chat::id::Owner;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Most errors that one owner is told of within a second; then one summary follows.
pub const ERRORS_PER_SECOND: u64 = 10;
/// Most owners whose errors are counted at the same time. Errors of further ones are left out for that second.
pub const GATE_OWNERS_MAX: usize = 10_000;

const WINDOW: Duration = Duration::from_secs(1);

/// Counts errors per owner. A window begins with an owner's first error and ends a second later; a window that left
/// errors out ends with a summary.
#[derive(Debug, Default)]
pub struct ErrorGate {
    windows: HashMap<Owner, Window>,
}

#[derive(Debug)]
struct Window {
    ends: Instant,
    published: u64,
    left_out: u64,
}

impl ErrorGate {
    /// Counts one error of `owner`; whether it is to be told. Call [`ErrorGate::finish`] first if its time has come.
    pub fn admit(&mut self, owner: &Owner, now: Instant) -> bool {
        if let Some(window) = self.windows.get_mut(owner) {
            return window.admit();
        }
        if self.windows.len() >= GATE_OWNERS_MAX {
            return false;
        }
        let opened = || Window { ends: now + WINDOW, published: 0, left_out: 0 };
        self.windows.entry(owner.clone()).or_insert_with(opened).admit()
    }

    /// Ends the windows whose second is over, and says of whom they left out how many.
    pub fn finish(&mut self, now: Instant) -> Vec<(Owner, u64)> {
        let over = self.windows.extract_if(|_, window| window.ends <= now);
        over.filter(|(_, window)| window.left_out > 0).map(|(owner, window)| (owner, window.left_out)).collect()
    }

    /// When [`ErrorGate::finish`] has something to do next.
    pub fn deadline(&self) -> Option<Instant> {
        self.windows.values().map(|window| window.ends).min()
    }
}

impl Window {
    fn admit(&mut self) -> bool {
        let room = self.published < ERRORS_PER_SECOND;
        let count = if room { &mut self.published } else { &mut self.left_out };
        *count += 1;
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[expect(clippy::disallowed_methods, reason = "any moment will do as the start of the test's own time")]
    fn start() -> Instant {
        Instant::now()
    }

    fn owner(name: &str) -> Owner {
        Owner::new(name).unwrap()
    }

    #[test]
    fn a_thousand_errors_in_a_second_are_ten_and_a_summary() {
        let (mut gate, now, bal) = (ErrorGate::default(), start(), owner("bal1"));
        let published = (0..1000).filter(|_| gate.admit(&bal, now)).count();
        assert_eq!(published, 10);
        assert_eq!(gate.finish(now + WINDOW / 2), []);
        assert_eq!(gate.deadline(), Some(now + WINDOW));
        assert_eq!(gate.finish(now + WINDOW), [(bal.clone(), 990)]);
        assert_eq!(gate.deadline(), None);
        assert!(gate.admit(&bal, now + WINDOW));
    }

    #[test]
    fn a_few_errors_need_no_summary() {
        let (mut gate, now) = (ErrorGate::default(), start());
        for _ in 0..10 {
            assert!(gate.admit(&owner("bal1"), now));
        }
        assert_eq!(gate.finish(now + WINDOW), []);
    }

    #[test]
    fn one_owners_errors_do_not_silence_another() {
        let (mut gate, now) = (ErrorGate::default(), start());
        for _ in 0..50 {
            gate.admit(&owner("bal1"), now);
        }
        assert!(gate.admit(&owner("bal2"), now));
    }

    #[test]
    fn memory_is_bounded_whatever_the_number_of_owners() {
        let (mut gate, now) = (ErrorGate::default(), start());
        for n in 0..GATE_OWNERS_MAX {
            assert!(gate.admit(&owner(&n.to_string()), now));
        }
        assert!(!gate.admit(&owner("one-more"), now));
        gate.finish(now + WINDOW);
        assert!(gate.admit(&owner("one-more"), now + WINDOW));
    }

    proptest! {
        #[test]
        fn every_error_is_told_or_counted(steps in prop::collection::vec((0u8..3, 0u64..400), 1..200)) {
            let (mut gate, mut now) = (ErrorGate::default(), start());
            let (mut published, mut counted) = (0u64, 0u64);
            for &(who, pause_ms) in &steps {
                now += Duration::from_millis(pause_ms);
                counted += gate.finish(now).iter().map(|(_, count)| count).sum::<u64>();
                published += u64::from(gate.admit(&owner(&who.to_string()), now));
            }
            counted += gate.finish(now + WINDOW).iter().map(|(_, count)| count).sum::<u64>();
            prop_assert_eq!(published + counted, steps.len() as u64);
            prop_assert_eq!(gate.deadline(), None);
        }
    }
}
