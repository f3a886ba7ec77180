//! What goes between the core and its driver.

use crate::chat::id::Sid;
use crate::transport::{AckRef, ConnectionId, DeviceMessage, Report};
use std::time::Instant;

/// What a connection says. The first is [`Event::Up`] or [`Event::Ended`], the last is [`Event::Ended`].
#[derive(Debug)]
pub(crate) enum Event<A> {
    /// It takes so many messages at a time.
    Up {
        /// How many; see [`super::ServiceSettings::window`] for the other limit.
        capacity: usize,
    },
    /// It takes another number of messages at a time.
    Capacity(usize),
    /// The peer is ending it: it takes no more messages, and answers those that it has.
    Draining,
    /// The same, because of an error that the peer names: the next one is not begun at once (HTTP/2 only).
    Ejected(String),
    /// The connection is done with this message: an answer came, or none will ([`super::Response`]).
    Answered(Sid, A),
    /// A message was written to it and certainly not taken by the peer.
    NotTaken(Sid),
    /// A message was not written to it at all.
    Unwritten(Sid),
    /// A device sent something; to be acknowledged on this connection.
    Device(DeviceMessage),
    /// The push service says what became of a message on its device; to be acknowledged on this connection.
    Receipt(Receipt),
    /// What was counted below the messages since the last time.
    Counted(Counted),
    Ended(Ended),
}

/// What became of a message on its device.
#[derive(Debug)]
pub(crate) struct Receipt {
    /// The message's id as the push service gave it.
    pub(crate) original: String,
    /// In the push service's words.
    pub(crate) status: String,
    /// When it handed the message to the device, in Unix milliseconds, if it says so.
    pub(crate) handed_over_ms: Option<u64>,
    pub(crate) ack_ref: AckRef,
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) end: End,
    /// Why, for operators.
    pub(crate) detail: String,
    /// Messages that were assigned and never written.
    pub(crate) unwritten: Vec<Sid>,
}

/// How a connection ended, as far as the next one is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It broke, or never came to be.
    Failed,
    AuthFailed,
    /// It never came to be, because the account has as many as it may have.
    TooMany,
    /// The peer sent GOAWAY and closed (HTTP/2 only).
    Dismissed,
    /// It ended after [`Output::Retire`].
    Retired,
}

/// What a connection counts below the messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// Acknowledgements that the peer answered with an error.
    pub bad_acks: u64,
    /// Answers to messages that are not in flight.
    pub unknown_answers: u64,
    /// Payloads that could not be used.
    pub malformed: u64,
    /// Stanzas dropped because they went over a limit.
    pub oversize: u64,
    /// Unknown stanzas, dropped.
    pub ignored: u64,
    /// Sent by us, without those of the peer.
    pub pings: u64,
}

impl std::ops::AddAssign for Counted {
    fn add_assign(&mut self, more: Self) {
        let Self { bad_acks, unknown_answers, malformed, oversize, ignored, pings } = more;
        self.bad_acks += bad_acks;
        self.unknown_answers += unknown_answers;
        self.malformed += malformed;
        self.oversize += oversize;
        self.ignored += ignored;
        self.pings += pings;
    }
}

#[derive(Debug)]
pub(crate) enum Output<R> {
    /// Open a connection of this number.
    Dial(ConnectionId),
    /// Write a message to a connection. If it cannot be handed over, [`Event::Unwritten`].
    Assign {
        connection: ConnectionId,
        sid: Sid,
        request: R,
    },
    Acknowledge(AckRef),
    Retire {
        connection: ConnectionId,
        manner: Manner,
    },
    Report(Report),
    /// Hand up what a device sent.
    DeviceMessage(DeviceMessage),
    /// Nothing more until the next input; [`super::Core::handle_tick`] at this time at the latest.
    Wait(Option<Instant>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// After the answers to what it has, and the acknowledgements that it waits for.
    AfterAnswers,
    /// Now; the stream is closed first, if the protocol has that.
    Now,
}
