//! How far one sequence on disk was read: the rows of a queue, or the documents of a topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::store::Seen;

/// A place in a sequence of numbers, and what of it is in memory or handed out.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Up to here everything was taken.
    taken: u64,
    state: State,
    /// It waits for its turn to be read, or is being read.
    scheduled: bool,
    /// The lowest number that was set aside.
    aside: Option<u64>,
    /// The highest number that was sent and left on disk for others; 0: none was.
    left: u64,
    /// What is in memory or handed out, and which of both. Not used for rows.
    items: BTreeMap<u64, ItemState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What it is notified of is taken.
    Live,
    /// There may be something on disk.
    Behind {
        /// The last number that it was notified of; when that was read, the cursor is live.
        target: Option<u64>,
        /// A notification came since the last page was asked for.
        news: bool,
    },
    /// No subscription matches any more.
    Unwatched,
}

/// ```text
///  Loaded ── hand_out ──> HandedOut ── take_back ──> GivenBack ── hand_out ──> HandedOut
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ItemState {
    Loaded,
    HandedOut,
    /// In memory again: somebody may have seen it.
    GivenBack,
}

impl Cursor {
    /// Of a sequence of which nothing is on disk.
    pub(super) fn live() -> Self {
        Self { taken: 0, state: State::Live, scheduled: false, aside: None, left: 0, items: BTreeMap::new() }
    }

    /// Of a sequence that is to be read from its beginning.
    pub(super) fn behind() -> Self {
        Self { state: State::Behind { target: None, news: false }, ..Self::live() }
    }

    pub(super) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    pub(super) fn is_behind(&self) -> bool {
        matches!(self.state, State::Behind { .. })
    }

    /// Whether it may be forgotten: reading from the beginning would bring nothing that was here already.
    pub(super) fn is_idle(&self) -> bool {
        self.is_live() && self.items.is_empty() && !self.leaves_something()
    }

    /// Whether it has nothing to do, but has to be remembered: reading from the beginning would bring something that was
    /// here already.
    pub(super) fn is_remembered(&self) -> bool {
        self.is_live() && self.items.is_empty() && self.leaves_something()
    }

    /// Whether it has no use any more.
    pub(super) fn is_done(&self) -> bool {
        self.state == State::Unwatched && self.items.is_empty()
    }

    pub(super) fn has_reached(&self, seq: u64) -> bool {
        seq <= self.taken || self.items.contains_key(&seq)
    }

    /// Something was committed. Whether it is taken now.
    pub(super) fn notify(&mut self, seq: u64, room: bool) -> bool {
        if seq <= self.taken {
            return false;
        }
        let taken = self.is_live() && room;
        if taken {
            self.taken = seq;
        } else {
            self.state = State::Behind { target: Some(seq), news: true };
        }
        taken
    }

    /// Something was committed; its number is not known.
    pub(super) fn fall_behind(&mut self) {
        self.state = State::Behind { target: None, news: true };
    }

    /// A subscription matches (again).
    pub(super) fn watch(&mut self) {
        if self.state == State::Unwatched {
            self.fall_behind();
        }
    }

    /// No subscription matches any more; what is not handed out is dropped.
    pub(super) fn unwatch(&mut self) {
        if let Some((&first, _)) = self.items.iter().find(|(_, state)| **state != ItemState::HandedOut) {
            self.taken = first - 1;
        }
        self.items.retain(|_, state| *state == ItemState::HandedOut);
        (self.state, self.scheduled) = (State::Unwatched, false);
    }

    /// A page is asked for: behind which number.
    pub(super) fn ask(&mut self) -> Option<u64> {
        let State::Behind { news, .. } = &mut self.state else { return None };
        *news = false;
        Some(self.taken)
    }

    /// A page came, with this last number; `None`: it was empty. The cursor is live once `last` reaches the number
    /// that it was notified of, or when the page was empty and no notification came since it was asked for.
    pub(super) fn answer(&mut self, last: Option<u64>) {
        self.scheduled = false;
        self.taken = self.taken.max(last.unwrap_or(0));
        let State::Behind { target, news } = self.state else { return };
        let reached = target.is_some_and(|target| target <= self.taken);
        if reached || last.is_none() && !news {
            self.state = State::Live;
        }
    }

    /// Whether it has to join the topics that wait to be read; then it counts as waiting.
    pub(super) fn schedule(&mut self) -> bool {
        let now = self.is_behind() && !self.scheduled;
        self.scheduled |= now;
        now
    }

    /// Its page will not come.
    pub(super) fn not_answered(&mut self) {
        self.scheduled = false;
    }

    /// Something is in memory now; `false` if it was already.
    pub(super) fn add(&mut self, seq: u64) -> bool {
        let known = self.items.contains_key(&seq);
        self.items.entry(seq).or_insert(ItemState::Loaded);
        !known
    }

    pub(super) fn hand_out(&mut self, seq: u64) {
        self.items.insert(seq, ItemState::HandedOut);
    }

    /// What was handed out is in memory again; `false` if it was not handed out.
    pub(super) fn take_back(&mut self, seq: u64) -> bool {
        let state = self.items.get_mut(&seq).filter(|state| **state == ItemState::HandedOut);
        state.map(|state| *state = ItemState::GivenBack).is_some()
    }

    pub(super) fn remove(&mut self, seq: u64) {
        self.items.remove(&seq);
        // An empty map keeps room for eleven, and there is one for each topic of each session.
        if self.items.is_empty() {
            self.items = BTreeMap::new();
        }
    }

    /// What was handed out stays on disk for others.
    pub(super) fn leave(&mut self, seq: u64) {
        self.items.remove(&seq);
        self.left = self.left.max(seq);
    }

    /// Whether it may have been sent and left on disk.
    pub(super) fn has_left(&self, seq: u64) -> bool {
        seq <= self.left
    }

    pub(super) fn set_aside(&mut self, seq: u64) {
        self.remove(seq);
        self.aside = Some(self.aside.map_or(seq, |aside| aside.min(seq)));
    }

    pub(super) fn has_aside(&self) -> bool {
        self.aside.is_some()
    }

    /// Goes back to what was set aside. Whether there was something.
    pub(super) fn rewind(&mut self) -> bool {
        let Some(aside) = self.aside.take() else { return false };
        self.taken = self.taken.min(aside.saturating_sub(1));
        self.fall_behind();
        true
    }

    /// Up to where a reader may have seen it without an acknowledgement.
    pub(super) fn seen(&self, topic: &Arc<str>) -> Seen {
        let went_out = self.items.iter().rev().find(|(_, state)| **state != ItemState::Loaded);
        Seen { topic: Arc::clone(topic), seq: went_out.map_or(0, |(seq, _)| *seq).max(self.left) }
    }

    fn leaves_something(&self) -> bool {
        self.aside.is_some() || self.left > 0
    }
}
