//! The messages in flight on one connection: sent, and neither taken nor refused yet.

use std::collections::HashSet;

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The session takes no message now: it is not open, or its window is full.
    #[error("no room")]
    NoRoom,
    /// A message with this id is in flight; a second one would make the answer ambiguous.
    #[error("the id is in flight already")]
    Duplicate,
}

/// The messages in flight.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    sent: HashSet<String>,
}

impl Window {
    /// A window for `size` messages.
    pub(super) fn new(size: usize) -> Self {
        Self { size, sent: HashSet::new() }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn contains(&self, message_id: &str) -> bool {
        self.sent.contains(message_id)
    }

    pub(super) fn insert(&mut self, message_id: &str) -> Result<(), NotSent> {
        if self.contains(message_id) {
            return Err(NotSent::Duplicate);
        }
        if self.in_flight() >= self.size {
            return Err(NotSent::NoRoom);
        }
        self.sent.insert(message_id.to_owned());
        Ok(())
    }

    /// Frees the slot; false if the message is not in flight.
    pub(super) fn settle(&mut self, message_id: &str) -> bool {
        self.sent.remove(message_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_keeps_its_size_and_knows_what_is_in_flight(
            steps in prop::collection::vec((any::<bool>(), 0u8..12), 0..200)
        ) {
            let mut window = Window::new(5);
            let mut model: Vec<String> = Vec::new();
            for (send, id) in steps {
                let id = id.to_string();
                let known = model.contains(&id);
                if send {
                    let expected = match (known, model.len()) {
                        (true, _) => Err(NotSent::Duplicate),
                        (false, 5) => Err(NotSent::NoRoom),
                        _ => { model.push(id.clone()); Ok(()) }
                    };
                    prop_assert_eq!(window.insert(&id), expected);
                } else {
                    model.retain(|other| *other != id);
                    prop_assert_eq!(window.settle(&id), known);
                }
                prop_assert_eq!(window.in_flight(), model.len());
                prop_assert!(model.iter().all(|id| window.contains(id)));
            }
        }
    }
}
