//! What a session tells its shell.

use super::nack::NackCode;
use super::payload::{PayloadError, Receipt, Upstream};
use super::xml::FramingError;

/// Something that happened in a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The login is over, messages may be sent.
    Ready {
        /// Our address as the server gave it; it may have changed the resource.
        jid: String,
    },
    /// The connection takes no new messages. It goes on answering old ones until the peer closes it.
    Draining(DrainCause),
    /// CCS took a message.
    Acked {
        /// Which one.
        message_id: String,
        /// The token to use from now on (canonical id).
        canonical: Option<String>,
    },
    /// CCS refused a message.
    Nacked {
        /// Which one.
        message_id: String,
        /// What the code means.
        code: NackCode,
        /// The code as it came.
        error: String,
        /// The explanation.
        description: String,
    },
    /// CCS did not look at a message because the connection is draining: it belongs on another connection.
    Bounced {
        /// Which one.
        message_id: String,
    },
    /// CCS refused the stanza that a message was in.
    Rejected {
        /// Which message.
        message_id: String,
        /// Whether the same stanza may pass later.
        rejection: Rejection,
        /// The condition, for example `bad-request`.
        condition: String,
        /// CCS's words.
        text: String,
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

/// How the peer let us know that a connection is draining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainCause {
    /// By the control message.
    Control,
    /// Only by refusing a message for it.
    Nack,
}

/// What a stanza error means for the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The stanza will never pass.
    Permanent,
    /// The peer had a fault or asks to wait (RFC 6120, 8.3.2).
    Temporary,
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
    /// The server sent what makes no sense at this point of the login.
    #[error("out of order: {0}")]
    Protocol(&'static str),
    /// The server closed the stream.
    #[error("the server closed the stream")]
    PeerClosed,
    /// The connection ended in mid-stream.
    #[error("the connection was cut")]
    Cut,
    /// The login took too long.
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
