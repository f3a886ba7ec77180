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
    queue: VecDeque<(AckKind, u16, Says)>,
    /// How many of them are PUBACKs.
    pubacks: usize,
}

/// What an acknowledgement waits for.
#[derive(Debug)]
pub(super) enum Says {
    /// The message is safe.
    Safe(Promise),
    /// Nothing but those before: it was said before, or the message is dropped.
    Again,
    /// Nothing but those before: the message was not taken.
    No(Refusal),
}

/// What an acknowledgement that may leave says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// As the bridge or the store says.
    Said(AckWord),
    /// The message was not taken.
    No(Refusal),
    /// The message could not be made safe.
    NotSafe,
}

impl Held {
    pub(super) fn push(&mut self, kind: AckKind, id: u16, says: Says) {
        self.pubacks += usize::from(kind == AckKind::Puback);
        self.queue.push_back((kind, id, says));
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
        self.queue.iter().any(|(kind, held, _)| *kind == AckKind::Pubrec && *held == id)
    }

    /// Takes the acknowledgement at the front, if it may leave; none if there is none.
    pub(super) fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<Option<(AckKind, u16, Word)>> {
        let Some((kind, id, says)) = self.queue.front_mut() else {
            return Poll::Ready(None);
        };
        let word = match says {
            Says::Safe(promise) => match ready!(promise.poll(cx)) {
                Ok(word) => Word::Said(word),
                Err(NotSafe) => Word::NotSafe,
            },
            Says::Again => Word::Said(AckWord::Done),
            Says::No(refusal) => Word::No(*refusal),
        };
        let released = (*kind, *id, word);
        self.pubacks -= usize::from(released.0 == AckKind::Puback);
        self.queue.pop_front();
        Poll::Ready(Some(released))
    }

    /// The same at the end of the connection, when PUBACKs do not count any more: their messages come again over another
    /// one. PUBRECs decide whether theirs may.
    pub(super) fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<Option<(AckKind, u16, Word)>> {
        self.queue.retain(|(kind, _, says)| *kind == AckKind::Pubrec && matches!(says, Says::Safe(_)));
        self.pubacks = 0;
        self.poll_release(cx)
    }

    /// The acknowledgements that wait until a message is safe.
    pub(super) fn promised(&self) -> impl Iterator<Item = (AckKind, u16)> {
        self.queue.iter().filter(|(.., says)| matches!(says, Says::Safe(_))).map(|(kind, id, _)| (*kind, *id))
    }
}
