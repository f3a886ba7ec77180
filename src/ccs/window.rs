//! The messages in flight on one connection: sent, and neither taken nor refused yet.

use std::collections::{BTreeMap, HashMap};

/// Why a message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The session takes no message now: see `Session::capacity`.
    #[error("no room")]
    NoRoom,
    /// A message with this id is in flight; a second one would make the answer ambiguous.
    #[error("the id is in flight already")]
    Duplicate,
}

/// The messages in flight, in the order in which they were sent.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    sent: u64,
    order: BTreeMap<u64, String>,
    place: HashMap<String, u64>,
}

impl Window {
    /// A window for `size` messages.
    pub(super) fn new(size: usize) -> Self {
        Self { size, sent: 0, order: BTreeMap::new(), place: HashMap::new() }
    }

    pub(super) fn free(&self) -> usize {
        self.size.saturating_sub(self.place.len())
    }

    pub(super) fn in_flight(&self) -> usize {
        self.place.len()
    }

    pub(super) fn contains(&self, message_id: &str) -> bool {
        self.place.contains_key(message_id)
    }

    pub(super) fn insert(&mut self, message_id: &str) -> Result<(), NotSent> {
        if self.contains(message_id) {
            return Err(NotSent::Duplicate);
        }
        if self.free() == 0 {
            return Err(NotSent::NoRoom);
        }
        self.sent += 1;
        self.order.insert(self.sent, message_id.to_owned());
        self.place.insert(message_id.to_owned(), self.sent);
        Ok(())
    }

    /// Frees the slot; false if the message is not in flight.
    pub(super) fn settle(&mut self, message_id: &str) -> bool {
        let place = self.place.remove(message_id);
        place.is_some_and(|place| self.order.remove(&place).is_some())
    }

    /// What was never answered, in the order of sending.
    pub(super) fn into_unacked(self) -> Vec<String> {
        self.order.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_keeps_size_and_order(steps in prop::collection::vec((any::<bool>(), 0u8..12), 0..200)) {
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
                prop_assert_eq!(window.free(), 5 - model.len());
                prop_assert_eq!(window.in_flight(), model.len());
            }
            prop_assert_eq!(window.into_unacked(), model);
        }
    }
}
