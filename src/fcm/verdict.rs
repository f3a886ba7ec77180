//! The words for what becomes of a request. Which answer means what stands in [`super::judge`].

use super::target::Target;
use crate::chat::refusal::Refusal;
use std::fmt;

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// An answer came.
    Answered(Answer<'a>),
    /// None came, and FCM has certainly not processed the request: why, for humans.
    Unprocessed(&'static str),
    /// None came, and nobody knows: why, for humans.
    Ambiguous(&'static str),
}

/// An answer.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The header of that name.
    pub retry_after: Option<&'a str>,
    /// The header of that name.
    pub date: Option<&'a str>,
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

/// What is known of the request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Whom it was for.
    pub target: &'a Target,
    /// Whether it was certainly within Apple's rules, which FCM answers breaches of in the words for a bad token.
    pub is_within_rules: bool,
    /// With which access token.
    pub access: Access,
    /// What is wished where no answer settles it.
    pub on_ambiguous: OnAmbiguous,
    /// When the answer came, in Unix seconds.
    pub now_unix_s: u64,
}

/// How fresh the access token of a request was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It may have expired on the way.
    Cached,
    /// It was made after an older one was refused, and nobody has passed with it.
    Refreshed,
}

/// What becomes of a message of which nobody knows whether FCM took it: its request was written, and no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAmbiguous {
    /// It is sent again, marked: rather twice than never.
    Retry,
    /// It fails, and its sender decides: rather never than twice.
    Report,
}

/// What follows from what became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// FCM took the message.
    Sent {
        /// Its name for it (`projects/*/messages/*`); `None` if the answer did not say it.
        name: Option<String>,
    },
    /// FCM did not process it: it goes again at once. The refusal counts where it may not.
    Replay(Replay, Refusal),
    /// The fault is the project's, unless others pass: then the refusal counts.
    Fault(Cause, Refusal),
    /// FCM did not take it, or nobody knows.
    Refused(Refusal),
}

/// How a message goes again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Over another connection.
    Elsewhere,
    /// With a newer access token.
    NewToken,
}

/// Why nothing goes. All but [`Cause::Unavailable`] an operator has to mend.
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
    /// FCM puts everybody off.
    Unavailable,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Unauthenticated,
        Self::ApiDisabled,
        Self::PermissionDenied,
        Self::UnknownProject,
        Self::NotFcm,
        Self::SenderMismatch,
        Self::Unavailable,
    ];

    /// A bounded label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::ApiDisabled => "api_disabled",
            Self::PermissionDenied => "permission_denied",
            Self::UnknownProject => "unknown_project",
            Self::NotFcm => "not_fcm",
            Self::SenderMismatch => "sender_mismatch",
            Self::Unavailable => "service_unavailable",
        }
    }
}

/// The words for the application: those of CCS, which were told before v1, and ours where it has none.
pub mod code {
    /// The token is none.
    pub const BAD_REGISTRATION: &str = "BAD_REGISTRATION";
    /// The token is dead.
    pub const DEVICE_UNREGISTERED: &str = "DEVICE_UNREGISTERED";
    /// The token belongs to another sender.
    pub const SENDER_ID_MISMATCH: &str = "SENDER_ID_MISMATCH";
    /// Something in the message is wrong.
    pub const INVALID_JSON: &str = "INVALID_JSON";
    /// The message is too big: the bridge's own word.
    pub const TOO_BIG: &str = "TOO_BIG";
    /// Too many to this device.
    pub const DEVICE_MESSAGE_RATE_EXCEEDED: &str = "DEVICE_MESSAGE_RATE_EXCEEDED";
    /// Too many to this topic.
    pub const TOPICS_MESSAGE_RATE_EXCEEDED: &str = "TOPICS_MESSAGE_RATE_EXCEEDED";
    /// Too many of this project.
    pub const QUOTA_EXCEEDED: &str = "QUOTA_EXCEEDED";
    /// The key for Apple's service, or for web push, is wrong.
    pub const INVALID_APNS_CREDENTIAL: &str = "INVALID_APNS_CREDENTIAL";
    /// Overloaded, or out of reach.
    pub const SERVICE_UNAVAILABLE: &str = "SERVICE_UNAVAILABLE";
    /// A fault of FCM.
    pub const INTERNAL_SERVER_ERROR: &str = "INTERNAL_SERVER_ERROR";
    /// No answer settles whether it was taken: the bridge's own word.
    pub const AMBIGUOUS: &str = "AMBIGUOUS";
    /// The connection ended first.
    pub const CONNECTION_DRAINING: &str = "CONNECTION_DRAINING";
}
