//! The words for what becomes of a request. Which answer means what stands in [`super::judge`].

use super::target::Target;
use std::fmt;
use std::time::Duration;

/// How often something is tried that nobody has a word for.
pub const FEW_TRIES: u32 = 3;

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// An answer came.
    Answered(Answer<'a>),
    /// None came, and FCM has certainly not processed the request.
    Unprocessed(Unprocessed),
    /// None came, and nobody knows.
    Ambiguous(Ambiguous),
}

/// An answer.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The header of that name.
    pub retry_after: Option<&'a str>,
    /// The header of that name.
    pub content_type: Option<&'a str>,
    /// The body, or as much of it as came; of one that is longer than [`super::limits::ANSWER_MAX`] at least one byte
    /// more than that.
    pub body: &'a [u8],
}

/// Without the body: FCM likes to repeat tokens.
impl fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

/// Why it is certain that a request was not processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unprocessed {
    /// No byte of it was written.
    NotWritten,
    /// The stream was refused (`REFUSED_STREAM`, RFC 9113 section 8.7).
    RefusedStream,
    /// The connection was ended, and the stream is beyond the last one that was looked at (`GOAWAY`).
    BeyondGoaway,
}

/// Why nobody knows whether a request was processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguous {
    /// No answer in time.
    Timeout,
    /// The connection or the stream broke after the request was written.
    Reset,
}

/// What is known of the request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Whom it was for.
    pub target: &'a Target,
    /// Whether it was certainly within Apple's rules, which FCM answers breaches of in the words for a bad token.
    pub is_within_rules: bool,
    /// With which access token.
    pub access: Access,
    /// When the answer came, in Unix seconds.
    pub now_unix_s: u64,
}

/// How fresh the access token of a request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It may have expired on the way.
    Cached,
    /// It was made for this request, because an older one was refused.
    Refreshed,
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// FCM took the message.
    Sent {
        /// Its name for it (`projects/*/messages/*`); `None` if the answer did not say it.
        name: Option<String>,
    },
    /// It did not, or nobody knows.
    Refused(Refused),
}

/// A message that FCM did not take, as far as anybody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What to do with the message.
    pub then: Then,
    /// What to do with the token.
    pub token: TokenAction,
    /// Whether the device may have got it all the same.
    pub arrival: Arrival,
    /// The word for the application.
    pub code: &'static str,
    /// The explanation for the application: bounded, one line, no token.
    pub detail: String,
}

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Send it at once over another connection.
    Elsewhere,
    /// Get a new access token and send it at once, once.
    Refresh,
    /// Send it again, not sooner than this.
    After {
        /// As FCM asked for.
        wait: Duration,
        /// Who has to wait.
        whose: Share,
    },
    /// Send it again; the wait doubles with each attempt.
    Backoff {
        /// The first wait.
        first: Duration,
        /// Who has to wait.
        whose: Share,
        /// How often.
        tries: Tries,
    },
    /// Keep it until an operator has mended something: nothing else would go through either.
    Hold(Cause),
    /// Whoever owns the policy on duplicates decides; a copy is to be marked as one.
    Undecided,
    /// Never send it again.
    Never,
    /// Never send it again, and tell an operator: others like it will fail as well.
    NeverTellOperator,
}

/// Who has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// This message's receiver.
    Recipient,
    /// Everybody.
    Project,
}

/// How often to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tries {
    /// Until the time to live is over.
    UntilExpiry,
    /// [`FEW_TRIES`] in all.
    Few,
}

/// What to do with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenAction {
    /// Nothing.
    Keep,
    /// Forget it: it is dead.
    Remove,
    /// Do not use it, and do not forget it either: the fault may be ours.
    Quarantine,
}

/// Whether a message may have reached the device in spite of the answer. v1 has no key against duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Certainly not.
    No,
    /// Possibly: some that got a 503 were seen on devices.
    Possible,
}

/// What an operator has to mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A fresh access token is refused: the service account's key was revoked, or the clock is wrong.
    Unauthenticated,
    /// The API is not enabled for the project.
    ApiDisabled,
    /// The service account may not send (`cloudmessaging.messages.create`).
    PermissionDenied,
    /// The project does not exist.
    UnknownProject,
    /// What answers is not FCM: a wrong address or a proxy.
    NotFcm,
    /// So many tokens belong to another sender at once that the key is the wrong one.
    SenderMismatch,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Unauthenticated,
        Self::ApiDisabled,
        Self::PermissionDenied,
        Self::UnknownProject,
        Self::NotFcm,
        Self::SenderMismatch,
    ];

    /// A bounded label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::ApiDisabled => "api_disabled",
            Self::PermissionDenied => "permission_denied",
            Self::UnknownProject => "unknown_project",
            Self::NotFcm => "not_fcm",
            Self::SenderMismatch => "sender_mismatch",
        }
    }
}

/// The words of CCS: what applications were told before v1, and are told still.
pub mod code {
    /// The token is none.
    pub const BAD_REGISTRATION: &str = "BAD_REGISTRATION";
    /// The token is dead.
    pub const DEVICE_UNREGISTERED: &str = "DEVICE_UNREGISTERED";
    /// The token belongs to another sender.
    pub const SENDER_ID_MISMATCH: &str = "SENDER_ID_MISMATCH";
    /// Something in the message is wrong.
    pub const INVALID_JSON: &str = "INVALID_JSON";
    /// The message is too big: the bridge's own word, for CCS has none.
    pub const TOO_BIG: &str = "TOO_BIG";
    /// Too many to this device.
    pub const DEVICE_MESSAGE_RATE_EXCEEDED: &str = "DEVICE_MESSAGE_RATE_EXCEEDED";
    /// Too many to this topic.
    pub const TOPICS_MESSAGE_RATE_EXCEEDED: &str = "TOPICS_MESSAGE_RATE_EXCEEDED";
    /// Too many of this project.
    pub const QUOTA_EXCEEDED: &str = "QUOTA_EXCEEDED";
    /// The key for Apple's service, or for web push, is wrong.
    pub const INVALID_APNS_CREDENTIAL: &str = "INVALID_APNS_CREDENTIAL";
    /// The credentials are wrong.
    pub const AUTHENTICATION_FAILED: &str = "AUTHENTICATION_FAILED";
    /// Overloaded, or out of reach.
    pub const SERVICE_UNAVAILABLE: &str = "SERVICE_UNAVAILABLE";
    /// A fault of FCM.
    pub const INTERNAL_SERVER_ERROR: &str = "INTERNAL_SERVER_ERROR";
    /// The connection ended first.
    pub const CONNECTION_DRAINING: &str = "CONNECTION_DRAINING";
}

impl Refused {
    pub(super) fn new(then: Then, code: &'static str, detail: impl Into<String>) -> Self {
        Self { then, token: TokenAction::Keep, arrival: Arrival::No, code, detail: detail.into() }
    }

    pub(super) fn token(self, token: TokenAction) -> Self {
        Self { token, ..self }
    }

    pub(super) fn possibly_arrived(self) -> Self {
        Self { arrival: Arrival::Possible, ..self }
    }
}
