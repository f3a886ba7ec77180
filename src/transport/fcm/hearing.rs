//! What the bridge had heard when it handed a message over. Pure.
//!
//! Both queues of the port keep their order, but neither says anything of the other: a message may have lain in its queue
//! since before the bridge heard the report by which it would have kept it back. So both are counted, and looked at
//! together: what comes behind all that is in the one queue now was handed over by a bridge that has heard all that has
//! left the other.

use std::collections::VecDeque;

/// The counters of both queues.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Reports that were put into their queue.
    told: u64,
    /// Messages that were taken out of theirs.
    taken: u64,
    /// Reports that the bridge had heard when it handed the next message over, or an earlier state of that.
    heard: u64,
    /// Both grow from mark to mark, and no two stand behind the same message: there are never more than the queue of
    /// messages is long, and one.
    marks: VecDeque<Mark>,
}

/// Whoever comes behind the first `handed_over` messages comes from a bridge that has heard the first `heard` reports.
#[derive(Debug)]
struct Mark {
    handed_over: u64,
    heard: u64,
}

/// How far the two sides are, in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct News {
    /// There are so many.
    pub(super) told: u64,
    /// The bridge had heard so many at least when it handed the present message over.
    pub(super) heard: u64,
}

impl Hearing {
    /// A report went into its queue.
    pub(super) fn told(&mut self) {
        self.told += 1;
    }

    /// A message came out of its queue.
    pub(super) fn taken(&mut self) {
        self.pass_marks();
        self.taken += 1;
    }

    /// Looks at both queues: so many reports are in the one, and (looked at later) so many messages in the other.
    pub(super) fn look(&mut self, reports: usize, messages: usize) {
        let heard = self.told.saturating_sub(reports as u64);
        let handed_over = self.taken + messages as u64;
        match self.marks.back_mut() {
            Some(last) if last.handed_over == handed_over => last.heard = heard,
            last if last.as_ref().map_or(self.heard, |last| last.heard) == heard => {}
            _ => self.marks.push_back(Mark { handed_over, heard }),
        }
        self.pass_marks();
    }

    /// How far it is, with so many reports still to go into their queue.
    pub(super) fn news(&self, outbox: usize) -> News {
        News { told: self.told + outbox as u64, heard: self.heard }
    }

    /// The next message comes behind all that was taken.
    fn pass_marks(&mut self) {
        while let Some(mark) = self.marks.front().filter(|mark| mark.handed_over <= self.taken) {
            self.heard = mark.heard;
            self.marks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Op {
        HandOver,
        Take,
        Tell,
        Hear,
        Look,
    }

    proptest! {
        /// Against a bridge that writes down with each message what it has heard.
        #[test]
        fn the_bridge_has_heard_what_is_said_of_it(ops in prop::collection::vec(
            prop::sample::select(vec![Op::HandOver, Op::Take, Op::Tell, Op::Hear, Op::Look]), 0..200)) {
            let mut hearing = Hearing::default();
            let (mut messages, mut reports, mut heard) = (VecDeque::new(), 0usize, 0u64);
            for op in ops {
                match op {
                    Op::HandOver => messages.push_back(heard),
                    Op::Take => {
                        let Some(then) = messages.pop_front() else { continue };
                        hearing.taken();
                        prop_assert!(hearing.news(0).heard <= then);
                    }
                    Op::Tell => {
                        reports += 1;
                        hearing.told();
                    }
                    Op::Hear if reports > 0 => {
                        reports -= 1;
                        heard += 1;
                    }
                    Op::Hear => {}
                    Op::Look => {
                        hearing.look(reports, messages.len());
                        prop_assert!(hearing.marks.len() <= messages.len() + 1);
                    }
                }
            }
            // With nothing on its way it is known exactly.
            while messages.pop_front().is_some() {
                hearing.taken();
            }
            hearing.look(reports, 0);
            prop_assert_eq!(hearing.news(0).heard, heard);
        }
    }
}
