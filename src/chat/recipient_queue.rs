//! The order of a recipient's messages: which of them may be handed to their transport now. Pure.
//!
//! A recipient (a token, a topic, a condition) has one queue on each transport, in the order of acceptance. A message may
//! be handed out when three things hold of the others in its queue ([`Pipelining::behind`]):
//!
//! 1. **None that is older waits.** It may wait for its time after a refusal, behind another one, or for the dispatcher to
//!    come to it: nothing passes it.
//! 2. **None that is older is in flight again**, that is: was tried before, and refused, lost with a copy written, or found
//!    in flight at a start. It was in trouble once. If it is refused once more, what was sent beside it has passed it.
//! 3. **Fewer than *k* are in flight**, where *k* is what the transport is capable of ([`Pipelining`]).
//!
//! So what may pass an older message is only what was in flight together with it when it was refused: over a transport
//! that answers many at a time, at most *k* - 1 messages, once; over one that takes one at a time, nothing.
//!
//! A message behind another of its `order` key (`State::Waiting`) is in no queue yet, and holds up nobody. When its turn
//! comes it takes its place by the time of its acceptance: before what is younger and not in flight.
//!
//! The store applies the rule where the queue is, to facts from its rows and to what it has handed out
//! (`store/sqlite/recipient_queue.rs`). Nobody else decides about order; a transport keeps the order in which it is given a
//! recipient's messages.

/// How many messages of one recipient a transport may have at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipelining {
    /// Each is answered before the next goes: requests that run side by side may overtake each other on the way.
    OneAtATime,
    /// So many are on their way together, on a connection that keeps their order; at least one.
    Pipelined(usize),
}

/// What a message finds in its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// An older one waits to be handed out.
    pub waiting: bool,
    /// An older one is in flight, and not for the first time.
    pub again: bool,
    /// How many are in flight, older or not.
    pub in_flight: usize,
}

/// What a message has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// An older one that waits.
    Waiting,
    /// What is in flight.
    InFlight,
}

impl Pipelining {
    /// What a message has to wait for; `None` when it may be handed out.
    pub const fn behind(self, ahead: Ahead) -> Option<Behind> {
        if ahead.waiting {
            Some(Behind::Waiting)
        } else if ahead.again || ahead.in_flight >= self.most() {
            Some(Behind::InFlight)
        } else {
            None
        }
    }

    /// The number *k*.
    pub const fn most(self) -> usize {
        match self {
            Self::OneAtATime => 1,
            Self::Pipelined(0) => 1,
            Self::Pipelined(most) => most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: Pipelining = Pipelining::Pipelined(3);
    const NOTHING: Ahead = Ahead { waiting: false, again: false, in_flight: 0 };

    #[test]
    fn a_message_waits_for_an_older_one_that_waits_whatever_is_in_flight() {
        for in_flight in 0..4 {
            let ahead = Ahead { waiting: true, in_flight, ..NOTHING };
            assert_eq!(
                [Pipelining::OneAtATime, THREE].map(|pipelining| pipelining.behind(ahead)),
                [Some(Behind::Waiting); 2]
            );
        }
    }

    #[test]
    fn so_many_go_together_as_the_transport_is_capable_of() {
        let go = |pipelining: Pipelining| {
            (0..9).take_while(|&in_flight| pipelining.behind(Ahead { in_flight, ..NOTHING }).is_none()).count()
        };
        assert_eq!([Pipelining::OneAtATime, THREE].map(go), [1, 3]);
    }

    #[test]
    fn nothing_goes_beside_an_older_one_that_is_tried_again() {
        assert_eq!(THREE.behind(Ahead { again: true, in_flight: 1, ..NOTHING }), Some(Behind::InFlight));
        assert_eq!(THREE.behind(Ahead { in_flight: 1, ..NOTHING }), None);
    }
}
