//! What a session tells its shell.

use super::payload::{PayloadError, Receipt, Upstream};
use super::xml::FramingError;
use crate::chat::refusal::Refusal;

/// Something that happened in a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The log-in is over, messages may be sent.
    Ready {
        /// Our address as the server gave it; it may have changed the resource.
        jid: String,
    },
    /// The connection takes no new messages. It goes on answering old ones until the peer closes it.
    Draining,
    /// CCS answered a message.
    Answered {
        /// Which one.
        message_id: String,
        /// What it says.
        answer: Answer,
    },
    /// CCS did not look at a message because the connection is draining: it belongs on another connection.
    Bounced {
        /// Which one.
        message_id: String,
    },
    /// A message was not sent: the session takes none now, or one of this id is in flight, and the answer would be
    /// ambiguous.
    NotSent {
        /// Which one.
        message_id: String,
    },
    /// A device sent a message. To be acknowledged on this session, and on no other.
    Upstream(Upstream),
    /// A device sent a message that cannot be used, but acknowledged; and it comes again until it is.
    Unusable {
        /// Its sender, as it came.
        from: String,
        /// Its id.
        message_id: String,
        /// What is wrong with it.
        error: PayloadError,
        /// All of it.
        json: String,
    },
    /// A message reached its device. To be acknowledged like one from a device.
    Receipt(Receipt),
    /// The session is over. Comes exactly once, and last.
    Closed(Reason),
}

/// What CCS says of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It took it.
    Taken {
        /// The token to use from now on, if that is another one (canonical id).
        canonical: Option<String>,
        /// Which devices of a group it did not go to, if that is what it was for.
        group: Option<GroupResult>,
    },
    /// It refused it, or the stanza that it was in. The texts may hold the token.
    Refused(Refusal),
}

/// What became of a message to a device group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupResult {
    /// How many of its devices it went to.
    pub success: u64,
    /// Of how many it did not.
    pub failure: u64,
    /// The tokens of these, as far as CCS names them.
    pub failed: Vec<String>,
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The credentials were refused.
    #[error("the login was refused: {condition}")]
    AuthFailed {
        /// For example `not-authorized`.
        condition: String,
    },
    /// The server does not offer SASL PLAIN.
    #[error("the server offers no PLAIN login, only {offered:?}")]
    PlainNotOffered {
        /// What it offers.
        offered: Vec<String>,
    },
    /// The server refused the resource.
    #[error("the resource was refused: {condition}")]
    BindFailed {
        /// For example `conflict`.
        condition: String,
    },
    /// The server ended the stream with an error.
    #[error("stream error: {condition}")]
    StreamError {
        /// For example `system-shutdown`.
        condition: String,
    },
    /// The server sent what cannot be read.
    #[error("unreadable: {0}")]
    Malformed(#[from] FramingError),
    /// The server sent what makes no sense at this point of the log-in.
    #[error("out of order: {0}")]
    Protocol(&'static str),
    /// The server closed the stream.
    #[error("the server closed the stream")]
    PeerClosed,
    /// The connection broke in mid-stream.
    #[error("the connection was cut")]
    Broken,
    /// The log-in took too long.
    #[error("the login took too long")]
    LoginTimeout,
    /// The peer is dead: it did not answer a ping.
    #[error("the peer does not answer")]
    PingTimeout,
    /// We closed it, as asked.
    #[error("shut down")]
    Shutdown,
}

/// What a session counts that is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Acknowledgements that CCS did not understand (`BAD_ACK`, stanza error 406).
    pub bad_acks: u64,
    /// Answers to messages that are not in flight.
    pub unknown_answers: u64,
    /// Payloads that could not be read.
    pub malformed: u64,
    /// Stanzas thrown away because they went over a limit.
    pub oversize: u64,
    /// Stanzas and types that nobody knows.
    pub ignored: u64,
    /// Pings sent.
    pub pings: u64,
}
