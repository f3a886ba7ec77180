//! What is claimed and not handed over yet, in order. Pure.
//!
//! A message that goes back to the store is claimed again later. Whatever was claimed before that, even by a claim whose
//! answer is still to come, must not pass it: those of its recipient go back as well.

use crate::transport::Send;
use std::collections::{HashMap, VecDeque};

/// The messages that are claimed and not handed over.
#[derive(Debug, Default)]
pub(super) struct Ready {
    queue: VecDeque<(u64, Send)>,
    /// Counts the claims; there is one at a time.
    claim: u64,
    /// Whose messages went back, and the last claim that was asked for before. Cleared when no older claim is left.
    back: HashMap<i64, u64>,
    /// The latest of these claims.
    last_back: u64,
}

impl Ready {
    /// A claim is asked for. What it brings is looked up behind everything that went back so far.
    pub(super) fn asked(&mut self) {
        self.claim += 1;
    }

    /// The claim has brought a message.
    pub(super) fn push(&mut self, send: Send) {
        self.queue.push_back((self.claim, send));
    }

    /// The next message, and whether it would pass one that went back.
    pub(super) fn pop(&mut self) -> Option<(Send, bool)> {
        let (claim, send) = self.queue.pop_front()?;
        if claim > self.last_back {
            self.back.clear();
        }
        let passes = self.back.get(&send.recipient).is_some_and(|back| claim <= *back);
        Some((send, passes))
    }

    /// A message of `recipient` goes back.
    pub(super) fn went_back(&mut self, recipient: i64) {
        self.back.insert(recipient, self.claim);
        self.last_back = self.claim;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::{SidSource, Token};
    use crate::chat::push::{Priority, Push, Target};

    fn send(recipient: i64) -> Send {
        let push = Push {
            target: Target::Token(Token::new("T").unwrap()),
            data: serde_json::Map::new(),
            notification: None,
            priority: Priority::High,
            collapse: None,
            receipt: false,
            fcm: serde_json::Map::new(),
        };
        Send { sid: SidSource::after(None).next(1, 1), push, recipient, accepted_ms: 0, deadline_ms: 1 }
    }

    fn pops(ready: &mut Ready) -> Vec<(i64, bool)> {
        std::iter::from_fn(|| ready.pop().map(|(send, passes)| (send.recipient, passes))).collect()
    }

    #[test]
    fn what_a_claim_under_way_brings_passes_nothing_that_went_back() {
        let mut ready = Ready::default();
        ready.asked();
        ready.push(send(7));
        // The next claim is asked for, and its answer comes after this.
        ready.asked();
        let (first, passes) = ready.pop().unwrap();
        assert_eq!((first.recipient, passes), (7, false));
        ready.went_back(7);
        ready.push(send(7));
        ready.push(send(8));
        assert_eq!(pops(&mut ready), [(7, true), (8, false)]);
        ready.asked();
        ready.push(send(7));
        assert_eq!(pops(&mut ready), [(7, false)], "the one that went back, once more");
        assert!(ready.back.is_empty());
    }

    #[test]
    fn what_is_ready_already_passes_nothing_that_went_back() {
        let mut ready = Ready::default();
        ready.asked();
        (0..3).for_each(|_| ready.push(send(7)));
        ready.pop();
        ready.went_back(7);
        assert_eq!(pops(&mut ready), [(7, true), (7, true)]);
    }
}
