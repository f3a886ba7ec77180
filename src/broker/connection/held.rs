//! Acknowledgements that wait until what they say is true, in the order in which the messages came ([MQTT-4.6.0-2],
//! [MQTT-4.6.0-3]).

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::broker::hub::{NotStored, Promise};
use crate::broker::refusals::Refusal;
use crate::broker::wire::AckKind;
use crate::mqtt::AckWord;
use crate::store::StoreError;

/// Room for acknowledgements that a connection keeps when none is held.
const ROOM_KEPT: usize = 4;

/// The queue of one connection.
#[derive(Default)]
pub(super) struct HeldAcks {
    queue: VecDeque<(AckKind, u16, AckCondition)>,
    pubacks: usize,
}

/// What an acknowledgement waits for.
pub(super) enum AckCondition {
    /// Until the store has the message, and the bridge has answered.
    Stored(Promise),
    /// Only for those before it: it repeats an earlier one, or its message is dropped (`$SYS` in 3.1.1).
    Again,
    /// Only for those before it: the message is refused.
    Refused(Refusal),
    /// Until the packet identifier of the refused message is free on disk.
    Freed(Refusal, BoxFuture<'static, Result<(), StoreError>>),
}

/// What a released acknowledgement says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AckVerdict {
    /// As the bridge or the store says.
    Answered(AckWord),
    /// The message was not taken.
    Refused(Refusal),
    /// The message was not taken, and its identifier is free.
    Freed(Refusal),
    /// The message could not be stored.
    NotStored,
}

impl HeldAcks {
    pub(super) fn push(&mut self, kind: AckKind, id: u16, condition: AckCondition) {
        self.pubacks += usize::from(kind == AckKind::Puback);
        self.queue.push_back((kind, id, condition));
    }

    /// Puts back the acknowledgement that was released last: something else has to be done before it leaves.
    pub(super) fn put_back(&mut self, kind: AckKind, id: u16, condition: AckCondition) {
        self.queue.push_front((kind, id, condition));
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn pubacks(&self) -> usize {
        self.pubacks
    }

    /// Whether the PUBREC of this message is among them.
    pub(super) fn has_pubrec(&self, id: u16) -> bool {
        self.queue.iter().any(|(kind, held, _)| *kind == AckKind::Pubrec && *held == id)
    }

    /// Takes the acknowledgement at the front, if it may leave; none if there is none.
    pub(super) fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<Option<(AckKind, u16, AckVerdict)>> {
        let Some((kind, id, condition)) = self.queue.front_mut() else {
            return Poll::Ready(None);
        };
        let verdict = match condition {
            AckCondition::Stored(promise) => match ready!(promise.poll(cx)) {
                Ok(word) => AckVerdict::Answered(word),
                Err(NotStored) => AckVerdict::NotStored,
            },
            AckCondition::Again => AckVerdict::Answered(AckWord::Done),
            AckCondition::Refused(refusal) => AckVerdict::Refused(*refusal),
            AckCondition::Freed(refusal, forgotten) => match ready!(forgotten.poll_unpin(cx)) {
                Ok(()) => AckVerdict::Freed(*refusal),
                Err(_closed) => AckVerdict::NotStored,
            },
        };
        let released = (*kind, *id, verdict);
        self.pubacks -= usize::from(released.0 == AckKind::Puback);
        self.queue.pop_front();
        if self.queue.is_empty() && self.queue.capacity() > ROOM_KEPT {
            self.queue = VecDeque::new();
        }
        Poll::Ready(Some(released))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn the_room_that_a_burst_needed_is_given_back() {
        let (mut held, mut cx) = (HeldAcks::default(), Context::from_waker(Waker::noop()));
        for id in 1..=1_000 {
            held.push(AckKind::Puback, id, AckCondition::Again);
        }
        for id in 1..=1_000 {
            let released = held.poll_release(&mut cx);
            assert_eq!(released, Poll::Ready(Some((AckKind::Puback, id, AckVerdict::Answered(AckWord::Done)))));
        }
        assert!(held.is_empty() && held.queue.capacity() <= ROOM_KEPT);
    }
}
