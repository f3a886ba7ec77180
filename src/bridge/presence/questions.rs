//! What the store is to be asked of devices that have come: each question once, so that they are no more than there are devices.

use crate::chat::id::Owner;
use crate::chat::topic::Device;
use std::collections::{HashSet, VecDeque};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// Which calls that began before a device (`None`: all of the user) is to hear of.
    Late(Owner, Option<Device>),
    /// Whether a device has registered a token.
    Token(Owner, Device),
}

/// Those that were not asked yet, in their order.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: VecDeque<Question>,
    known: HashSet<Question>,
}

impl Questions {
    pub(super) fn push(&mut self, question: Question) {
        if self.known.insert(question.clone()) {
            self.waiting.push_back(question);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Question> {
        let question = self.waiting.pop_front()?;
        self.known.remove(&question);
        Some(question)
    }
}
