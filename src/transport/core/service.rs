//! What differs from one push service to the next: data ([`ServiceSettings`]), and a few decisions ([`Service`]).

use super::Now;
use super::isolation::Breaks;
use super::snapshot::Trouble;
use crate::chat::delivery::Fate;
use crate::chat::id::Recipient;
use crate::chat::refusal::Refusal;
use crate::transport::{ConnectionChange, ConnectionId, Link, Send};
use std::borrow::Cow;
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
pub(crate) struct ServiceSettings {
    /// The server as operators know it: `host:port (key of the configuration)`.
    pub(crate) server: String,
    pub(crate) pool: Pool,
    /// Most messages that one connection has unanswered, whatever it says itself.
    pub(crate) window: usize,
    /// What becomes of messages that a connection leaves unanswered at its end.
    pub(crate) on_connection_end: OnConnectionEnd,
    /// How long an answer may take before its connection is suspected of losing answers. `None` where every connection
    /// ends each wait itself and says so ([`Service::response`]).
    pub(crate) answer_timeout: Option<Duration>,
    /// How long a connection that takes nothing new is kept for the answers that it owes. Generous: ending it ourselves
    /// loses them.
    pub(crate) drain_limit: Duration,
    /// Longest wait between attempts to connect that fail before any log-in.
    pub(crate) redial_max: Duration,
    /// For the answers to what is in flight when the transport stops.
    pub(crate) stop_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    /// So many, with the messages spread among them.
    Fixed(usize),
    /// One, and more while all are full. The oldest with room is used, so that those beyond the need fall idle.
    Elastic {
        most: usize,
        /// How old one gets at most; a tenth less for some, so that those opened together do not end together.
        age_max: Duration,
        /// How long the last one may idle before it is replaced.
        idle_max: Duration,
        /// How long one beyond the first may idle before it is closed.
        spare_idle_max: Duration,
    },
}

impl Pool {
    /// Most connections that take messages at a time.
    pub(crate) fn most(&self) -> usize {
        match self {
            Self::Fixed(most) | Self::Elastic { most, .. } => *most,
        }
    }
}

/// What becomes of messages that a connection leaves unanswered at its end: written, and nobody knows whether taken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OnConnectionEnd {
    /// They are written again on the next connection; `copies` > 1 makes the status say `dup_possible`.
    Rewrite,
    /// They go back to the bridge with this, which is told as "may have arrived".
    Ambiguous(Refusal),
}

/// A message that was taken from the bridge and has no report yet.
#[derive(Debug)]
pub(crate) struct Message<M> {
    pub(crate) send: Send,
    /// How often it was written to a connection and may have been taken.
    pub(crate) copies: u32,
    /// How often it was written to a connection, taken or not.
    pub(crate) tries: u32,
    /// What the service remembers of it.
    pub(crate) memo: M,
    /// Its place in the order of being taken.
    pub(super) seq: u64,
    pub(super) location: Location,
    /// The connection that would not take it, and until when any other one is preferred.
    pub(super) refused_by: Option<(ConnectionId, Instant)>,
    /// Connections that were given up with it unanswered, while others were answered there.
    pub(super) ignored: u32,
    /// Connections that broke with it unanswered.
    pub(super) breaks: Breaks,
    /// It had its whole time for an answer on some connection, so it says nothing new when that happens again.
    pub(super) had_time: bool,
    /// A receipt came: the device has it, only its answer is missing.
    pub(super) received: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Location {
    Waiting,
    /// On a connection, as the `number`th that was sent at all.
    InFlight {
        connection: ConnectionId,
        number: u64,
    },
}

impl<M> Message<M> {
    /// Writes to a connection after the first, whatever became of the earlier ones.
    pub(crate) fn replays(&self) -> u32 {
        self.tries.saturating_sub(1)
    }

    pub(super) fn is_on(&self, id: ConnectionId) -> bool {
        matches!(self.location, Location::InFlight { connection, .. } if connection == id)
    }

    pub(crate) fn recipient(&self) -> Recipient {
        self.send.recipient
    }
}

#[derive(Debug)]
pub(crate) enum Admission<R> {
    /// It may; this is what its connection writes.
    Go(R),
    /// This one may not, others may.
    Skip,
    /// Nothing of its recipient may before this, for the reason that operators are told.
    HoldRecipient(Instant, Cow<'static, str>),
    /// Nothing may until this time, or a `Wake::Look`.
    Wait(Option<Instant>),
    /// It goes back to the bridge with this, untried; others may go.
    Back(Fate),
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// The message goes back to the bridge with this.
    Back(Fate),
    /// It was certainly not processed: it keeps its place and goes again as soon as it is admitted.
    Again,
    /// The same, and rather on another connection than the one that would not have it.
    Elsewhere,
}

/// What the end of a message on a connection says of its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Response {
    /// It answers.
    Answer,
    /// No answer came in time. After several in a row the connection is replaced.
    Late,
    /// The stream or the connection ended before an answer, which says neither.
    None,
}

/// The decisions of a push service. No clock, no I/O: every input is an argument.
pub(crate) trait Service {
    /// What the service remembers of a message while it is here.
    type Memo: Default;
    /// A message as its connection writes it.
    type Request;
    /// What a connection says of a message.
    type Answer;

    /// Whether a message may go now. Asked oldest first, with a place on a connection kept for it: after
    /// [`Admission::Go`] it certainly is handed over.
    fn admit(&mut self, message: &mut Message<Self::Memo>, now: Now) -> Admission<Self::Request>;

    /// What an answer means for the message. Refusals are counted by their code, so nothing is to be counted here.
    fn decide(&mut self, message: &mut Message<Self::Memo>, answer: Self::Answer, now: Now) -> Verdict;

    /// What an answer says of the connection that it came on.
    fn response(&self, _answer: &Self::Answer) -> Response {
        Response::Answer
    }

    /// Why nothing goes whatever the connections do: [`Link::Down`] or [`Link::Probing`] with the word for it. `able`
    /// is whether a connection takes messages.
    fn link_override(&self, _able: bool, _now: Now) -> Option<Link> {
        None
    }

    /// Why [`Service::link_override`] says that nothing goes.
    fn trouble(&self) -> Option<Trouble> {
        None
    }

    /// When the access token was asked for, if there is one.
    fn access_token_requested_at(&self) -> Option<Instant> {
        None
    }

    /// What operators are to hear, once each.
    fn take_change(&mut self, _now: Now) -> Option<ConnectionChange> {
        None
    }

    /// When [`Service::link_override`] or [`Service::admit`] may answer differently without being told anything.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}
