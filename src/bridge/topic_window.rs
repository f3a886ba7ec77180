//! One topic's publications, in order: a window of unconfirmed ones, and going back when one of them fails. Pure.
//!
//! ```text
//!            outcome NoReader                  all answered
//!  Flowing ───────────────────▶ Breaking ───────────────────▶ Held
//!     ▲  │   outcome Lost          │                            │ a reader may have come
//!     │  └─────────────────────────┘ all answered               ▼
//!     └───────────────────────────────────────────────────── Probing
//!            the probe is confirmed, or trusted
//! ```
//!
//! Order survives failure because nothing new is taken until everything outstanding is answered; then the window goes
//! back to the first unconfirmed document and sends that one alone. The broker does its part: after a failure it
//! answers everything of the topic with `Unsent` until it sees one marked `resume`. A document that is too big for the
//! broker is passed by, and tried again with the next connection.

use crate::mqtt::Outcome;
use std::collections::BTreeMap;

/// How one document is to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublishFlags {
    /// The first one after a failure.
    pub(crate) resume: bool,
    /// It was sent before and its confirmation was lost: the reader may see it twice.
    pub(crate) again: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Flowing,
    Probing,
    Breaking { no_reader: bool },
    Held,
}

#[derive(Debug)]
pub(crate) struct TopicWindow {
    window: usize,
    mode: Mode,
    /// Last document taken.
    cursor: u64,
    /// Taken and unanswered, or answered with a failure while the window breaks.
    open: BTreeMap<u64, bool>,
    /// Everything up to this one may have been seen by a reader.
    seen: u64,
    /// Readers changed while documents were outstanding: an answer `NoReader` may be older than that, so the window probes.
    recheck: bool,
    /// The first document that was set aside; it is behind the cursor, and tried again with the next connection.
    aside: Option<u64>,
    /// There is another connection, and the window goes back to it as soon as nothing is outstanding.
    tries_aside: bool,
}

impl TopicWindow {
    /// A window that starts with the first document of its topic.
    pub(crate) fn new(window: usize) -> Self {
        Self {
            window,
            mode: Mode::Probing,
            cursor: 0,
            open: BTreeMap::new(),
            seen: 0,
            recheck: false,
            aside: None,
            tries_aside: false,
        }
    }

    /// How many more documents may be taken now.
    pub(crate) fn room(&self) -> usize {
        match self.mode {
            Mode::Flowing => self.window - self.open.len().min(self.window),
            Mode::Probing => 1 - self.open.len().min(1),
            Mode::Breaking { .. } | Mode::Held => 0,
        }
    }

    /// Documents after this one are not taken yet.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Whether nothing is outstanding.
    pub(crate) fn idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Starts over with the first document of the topic; for topics whose documents stay until they are explicitly
    /// acknowledged. Does nothing while something is outstanding.
    pub(crate) fn restart(&mut self) {
        if self.idle() && self.cursor > 0 {
            self.seen = self.seen.max(self.cursor);
            self.cursor = 0;
            self.mode = Mode::Probing;
        }
    }

    /// Up to which document a reader may have seen them.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether a window that starts anew with the first document would mark the same ones as published before.
    pub(crate) fn may_be_forgotten(&self) -> bool {
        self.idle() && self.seen <= self.cursor
    }

    /// Whether the window waits for a reader.
    pub(crate) fn held(&self) -> bool {
        self.mode == Mode::Held
    }

    /// Takes document `seq`, which must be beyond the cursor; says how to publish it.
    pub(crate) fn take(&mut self, seq: u64) -> PublishFlags {
        debug_assert!(seq > self.cursor, "documents are taken in order");
        self.cursor = seq;
        self.open.insert(seq, false);
        PublishFlags { resume: self.mode == Mode::Probing, again: seq <= self.seen }
    }

    /// What became of document `seq`. True when it is confirmed and may be forgotten.
    pub(crate) fn answered(&mut self, seq: u64, outcome: Outcome) -> bool {
        if !self.open.contains_key(&seq) {
            return false;
        }
        let confirmed = outcome == Outcome::Confirmed;
        if confirmed || outcome == Outcome::SetAside {
            if !confirmed {
                self.aside = Some(self.aside.map_or(seq, |first| first.min(seq)));
            }
            self.open.remove(&seq);
            self.recheck &= !self.open.is_empty();
            if self.mode == Mode::Probing {
                self.mode = Mode::Flowing;
            }
        } else {
            self.open.insert(seq, true);
            if outcome == Outcome::Lost {
                self.seen = self.seen.max(seq);
            }
            let before = matches!(self.mode, Mode::Breaking { no_reader: true });
            self.mode = Mode::Breaking { no_reader: before || outcome == Outcome::NoReader };
        }
        if let Mode::Breaking { no_reader } = self.mode {
            self.settle_break(no_reader);
        }
        confirmed
    }

    /// The broker was connected to anew, and may take what was set aside.
    pub(crate) fn connected(&mut self) {
        self.tries_aside = self.aside.is_some();
    }

    /// Goes back to what was set aside if there is another connection and nothing is outstanding; whether it did.
    pub(crate) fn goes_back(&mut self) -> bool {
        if !self.tries_aside || !self.idle() {
            return false;
        }
        self.tries_aside = false;
        let Some(first) = self.aside.take().filter(|first| *first <= self.cursor) else { return false };
        self.cursor = first - 1;
        self.mode = Mode::Probing;
        true
    }

    /// A reader may have come.
    pub(crate) fn readers_changed(&mut self) {
        if self.mode == Mode::Held {
            self.mode = Mode::Probing;
        } else {
            // An answer that is on its way may be older than this news: after it, look once more instead of waiting.
            self.recheck = !self.open.is_empty();
        }
    }

    /// Goes back to the first unconfirmed document once everything outstanding is answered.
    fn settle_break(&mut self, no_reader: bool) {
        if self.open.values().any(|failed| !failed) {
            return;
        }
        if let Some(&first) = self.open.keys().next() {
            self.cursor = first - 1;
        }
        self.open.clear();
        let wait = no_reader && !std::mem::take(&mut self.recheck);
        self.mode = if wait { Mode::Held } else { Mode::Probing };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(topic_window: &mut TopicWindow, seqs: std::ops::RangeInclusive<u64>) -> Vec<PublishFlags> {
        seqs.map(|seq| topic_window.take(seq)).collect()
    }

    #[test]
    fn the_first_is_a_probe_and_opens_the_window() {
        let mut topic_window = TopicWindow::new(3);
        assert_eq!(topic_window.room(), 1);
        assert!(topic_window.take(1).resume);
        assert_eq!(topic_window.room(), 0);
        assert!(topic_window.answered(1, Outcome::Confirmed));
        assert_eq!(topic_window.room(), 3);
        assert!(!topic_window.take(2).resume);
    }

    #[test]
    fn without_a_reader_the_topic_is_held_until_one_comes() {
        let mut topic_window = TopicWindow::new(3);
        topic_window.take(1);
        assert!(!topic_window.answered(1, Outcome::NoReader));
        assert!(topic_window.held() && topic_window.room() == 0);
        topic_window.readers_changed();
        assert_eq!((topic_window.room(), topic_window.cursor()), (1, 0));
        assert_eq!(topic_window.take(1), PublishFlags { resume: true, again: false });
    }

    #[test]
    fn a_loss_goes_back_to_the_first_unconfirmed_and_marks_what_may_have_been_seen() {
        let mut topic_window = TopicWindow::new(10);
        topic_window.take(1);
        topic_window.answered(1, Outcome::Confirmed);
        take(&mut topic_window, 2..=6);
        topic_window.answered(2, Outcome::Confirmed);
        topic_window.answered(3, Outcome::Lost);
        topic_window.answered(4, Outcome::Confirmed);
        assert_eq!(topic_window.room(), 0, "nothing new while the rest is unanswered");
        topic_window.answered(5, Outcome::Lost);
        topic_window.answered(6, Outcome::NoReader);
        assert!(topic_window.held());
        topic_window.readers_changed();
        assert_eq!(topic_window.cursor(), 2);
        assert_eq!(topic_window.take(3), PublishFlags { resume: true, again: true });
        topic_window.answered(3, Outcome::Confirmed);
        assert!(topic_window.take(5).again);
        assert!(!topic_window.take(6).again, "it never went out");
    }

    #[test]
    fn news_of_a_reader_that_overtakes_the_answer_is_not_missed() {
        let mut topic_window = TopicWindow::new(3);
        topic_window.take(1);
        topic_window.readers_changed();
        topic_window.answered(1, Outcome::NoReader);
        assert_eq!(topic_window.room(), 1, "it probes once more");
        topic_window.take(1);
        topic_window.answered(1, Outcome::NoReader);
        assert!(topic_window.held(), "but only once");
    }

    #[test]
    fn what_is_set_aside_holds_nobody_and_is_tried_again_with_the_next_connection() {
        let mut topic_window = TopicWindow::new(3);
        topic_window.take(1);
        assert!(!topic_window.answered(1, Outcome::SetAside), "it stays on disk");
        take(&mut topic_window, 2..=3);
        topic_window.answered(2, Outcome::Confirmed);
        assert!(!topic_window.goes_back(), "nothing has changed");
        topic_window.connected();
        assert!(!topic_window.goes_back(), "not while something is outstanding");
        topic_window.answered(3, Outcome::Confirmed);
        assert!(topic_window.goes_back());
        assert_eq!(topic_window.take(1), PublishFlags { resume: true, again: false });
        topic_window.answered(1, Outcome::Confirmed);
        topic_window.connected();
        assert!(!topic_window.goes_back());
    }

    #[test]
    fn a_restart_marks_what_was_published_before() {
        let mut topic_window = TopicWindow::new(3);
        topic_window.take(4);
        topic_window.restart();
        assert_eq!(topic_window.cursor(), 4, "not while something is outstanding");
        topic_window.answered(4, Outcome::Confirmed);
        topic_window.restart();
        assert_eq!(topic_window.take(4), PublishFlags { resume: true, again: true });
        topic_window.answered(4, Outcome::Confirmed);
        assert!(!topic_window.take(5).again);
    }

    proptest! {
        /// Against a reader who keeps what arrives in order: whatever fails, each document arrives, the first copies
        /// are in order, and every further copy is marked.
        #[test]
        fn everything_arrives_in_order(outcomes in prop::collection::vec(0u8..6, 0..200), window in 1usize..8) {
            let mut topic_window = TopicWindow::new(window);
            let total = 30u64;
            let mut waiting: Vec<u64> = (1..=total).collect();
            let mut flying: Vec<u64> = Vec::new();
            let mut broken = false;
            let mut first_copies: Vec<u64> = Vec::new();
            let mut outcomes = outcomes.into_iter();
            for _ in 0..10_000 {
                while topic_window.room() > 0 {
                    let Some(&seq) = waiting.iter().find(|&&seq| seq > topic_window.cursor()) else { break };
                    let flags = topic_window.take(seq);
                    broken &= !flags.resume;
                    flying.push(seq);
                    if first_copies.contains(&seq) {
                        prop_assert!(flags.again, "copy of {seq} without a mark");
                    }
                }
                if flying.is_empty() {
                    if topic_window.held() { topic_window.readers_changed(); continue; }
                    break;
                }
                let seq = flying.remove(0);
                let outcome = if broken { Outcome::Unsent } else {
                    match outcomes.next() { Some(0) => Outcome::Lost, Some(1) => Outcome::NoReader, _ => Outcome::Confirmed }
                };
                // A reader may have seen a document whose confirmation was lost, unless the broker failed it unsent.
                if outcome != Outcome::NoReader && !broken && !first_copies.contains(&seq) {
                    first_copies.push(seq);
                }
                broken |= outcome != Outcome::Confirmed;
                if topic_window.answered(seq, outcome) {
                    waiting.retain(|&s| s != seq);
                }
            }
            prop_assert!(waiting.is_empty());
            prop_assert_eq!(first_copies, (1..=total).collect::<Vec<_>>());
        }
    }
}
