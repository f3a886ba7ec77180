//! Acknowledgements that wait until what they say is true, in the order in which the messages came ([MQTT-4.6.0-2],
//! [MQTT-4.6.0-3]).

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use crate::broker::hub::{NotSafe, Promise};
use crate::broker::refusals::Refusal;
use crate::broker::wire::AckKind;
use crate::mqtt::AckWord;

/// The queue of one connection.
#[derive(Debug, Default)]
pub(super) struct Held {
    queue: VecDeque<Entry>,
    /// How many of them are PUBACKs.
    pubacks: usize,
}

#[derive(Debug)]
struct Entry {
    kind: AckKind,
    id: u16,
    says: Says,
}

/// What an acknowledgement waits for.
#[derive(Debug)]
pub(super) enum Says {
    /// The message is safe.
    Safe(Promise),
    /// Nothing but those before: the message was safe before, or is dropped.
    Again,
    /// Nothing but those before: the message was not taken.
    No(Refusal),
}

/// An acknowledgement that may leave.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) kind: AckKind,
    pub(super) id: u16,
    pub(super) word: Word,
}

/// What it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// As the bridge or the store says.
    Safe(Result<AckWord, NotSafe>),
    /// What was said before.
    Again,
    /// The message was not taken.
    No(Refusal),
}

impl Held {
    pub(super) fn push(&mut self, kind: AckKind, id: u16, says: Says) {
        self.pubacks += usize::from(kind == AckKind::Puback);
        self.queue.push_back(Entry { kind, id, says });
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many PUBACKs there are.
    pub(super) fn pubacks(&self) -> usize {
        self.pubacks
    }

    /// Whether the PUBREC of this message is among them.
    pub(super) fn has_pubrec(&self, id: u16) -> bool {
        self.queue.iter().any(|entry| entry.kind == AckKind::Pubrec && entry.id == id)
    }

    /// Takes the acknowledgement at the front, if it may leave; none if there is none.
    pub(super) fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<Option<Released>> {
        let Some(Entry { kind, id, says }) = self.queue.front_mut() else {
            return Poll::Ready(None);
        };
        let word = match says {
            Says::Safe(promise) => Word::Safe(ready!(promise.poll(cx))),
            Says::Again => Word::Again,
            Says::No(refusal) => Word::No(*refusal),
        };
        let released = Released { kind: *kind, id: *id, word };
        self.pubacks -= usize::from(released.kind == AckKind::Puback);
        self.queue.pop_front();
        Poll::Ready(Some(released))
    }

    /// Lets go the PUBACKs that still wait: their messages come again over another connection. What is left are PUBRECs, which
    /// decide whether their messages may come again.
    pub(super) fn keep_pubrecs(&mut self) {
        self.queue.retain(|entry| entry.kind == AckKind::Pubrec && matches!(entry.says, Says::Safe(_)));
        self.pubacks = 0;
    }
}
