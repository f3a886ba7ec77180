//! What can be made to go wrong with a request, by name. The names are used in tokens, in plans of faults and in
//! counters.

use serde::{Deserialize, Serialize};

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum FaultKind {
    /// Nothing goes wrong. With a delay: a slow answer.
    Accept,
    /// 400: the token is none, said in words.
    InvalidRegistration,
    /// 400: the token is none, said by a violation on its field.
    InvalidTokenField,
    /// 400: another field is wrong.
    InvalidField,
    /// 400: FCM's word and no field.
    InvalidArgument,
    /// 400 without any details, as for messages that are too big.
    NoDetails,
    /// 401 in JSON.
    Unauthenticated,
    /// 401 as a page.
    UnauthenticatedPage,
    /// 401: Apple's or web push's key is wrong.
    ThirdPartyAuthError,
    /// 403: the token is of another project.
    SenderIdMismatch,
    /// 403: the service account may not send.
    PermissionDenied,
    /// 403: the API is off.
    ApiDisabled,
    /// 404: the token is dead.
    Unregistered,
    /// 404 without FCM's word: there is no such project.
    NoProject,
    /// 404 as a page: there is no such path.
    NotFoundPage,
    /// 413 as a page.
    TooLarge,
    /// 429 of the project.
    ProjectQuota,
    /// 429 of the device.
    DeviceQuota,
    /// 429 of the topic.
    TopicQuota,
    /// 429 that does not say of what.
    QuotaExceeded,
    /// 500.
    Internal,
    /// 502 as a page.
    BadGateway,
    /// 503.
    Unavailable,
    /// 504 as a page.
    GatewayTimeout,
    /// A 400 that FCM itself cannot explain.
    UnspecifiedError,
    /// A 403 with a word that nobody knows yet.
    NewCode,
    /// Not looked at: the stream is refused.
    RefuseStream,
    /// Not looked at: the connection is told to go, and this stream is beyond the last one.
    Goaway,
    /// Not taken, and the client cannot know: the stream is reset.
    ResetStream,
    /// Not taken, and the client cannot know: the connection is reset.
    ResetConnection,
    /// Not taken, and never answered.
    Silence,
    /// Taken; then the stream is reset.
    AcceptResetStream,
    /// Taken; then the connection is reset.
    AcceptResetConnection,
    /// Taken, and never answered.
    AcceptSilence,
    /// Taken, and answered by 503.
    AcceptUnavailable,
    /// Taken, and answered by 500.
    AcceptInternal,
    /// Taken, and answered by 502.
    AcceptBadGateway,
    /// Taken, and the stream is reset in the middle of the answer.
    AcceptCut,
}

impl FaultKind {
    /// All of them with their words.
    pub const ALL: [(Self, &'static str); 38] = [
        (Self::Accept, "accept"),
        (Self::InvalidRegistration, "invalid-registration"),
        (Self::InvalidTokenField, "invalid-token-field"),
        (Self::InvalidField, "invalid-field"),
        (Self::InvalidArgument, "invalid-argument"),
        (Self::NoDetails, "no-details"),
        (Self::Unauthenticated, "unauthenticated"),
        (Self::UnauthenticatedPage, "unauthenticated-page"),
        (Self::ThirdPartyAuthError, "third-party-auth-error"),
        (Self::SenderIdMismatch, "sender-id-mismatch"),
        (Self::PermissionDenied, "permission-denied"),
        (Self::ApiDisabled, "api-disabled"),
        (Self::Unregistered, "unregistered"),
        (Self::NoProject, "no-project"),
        (Self::NotFoundPage, "not-found-page"),
        (Self::TooLarge, "too-large"),
        (Self::ProjectQuota, "project-quota"),
        (Self::DeviceQuota, "device-quota"),
        (Self::TopicQuota, "topic-quota"),
        (Self::QuotaExceeded, "quota-exceeded"),
        (Self::Internal, "internal"),
        (Self::BadGateway, "bad-gateway"),
        (Self::Unavailable, "unavailable"),
        (Self::GatewayTimeout, "gateway-timeout"),
        (Self::UnspecifiedError, "unspecified-error"),
        (Self::NewCode, "new-code"),
        (Self::RefuseStream, "refuse-stream"),
        (Self::Goaway, "goaway"),
        (Self::ResetStream, "reset-stream"),
        (Self::ResetConnection, "reset-connection"),
        (Self::Silence, "silence"),
        (Self::AcceptResetStream, "accept-reset-stream"),
        (Self::AcceptResetConnection, "accept-reset-connection"),
        (Self::AcceptSilence, "accept-silence"),
        (Self::AcceptUnavailable, "accept-unavailable"),
        (Self::AcceptInternal, "accept-internal"),
        (Self::AcceptBadGateway, "accept-bad-gateway"),
        (Self::AcceptCut, "accept-cut"),
    ];

    /// What `word` means: one of ours, or one of FCM's such as `SENDER_ID_MISMATCH`.
    pub fn of(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase().replace('_', "-");
        Self::ALL.into_iter().find(|(_, name)| *name == word).map(|(kind, _)| kind)
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        Self::ALL.into_iter().find(|(kind, _)| *kind == self).map_or("accept", |(_, name)| name)
    }

    /// Whether the message is delivered all the same.
    pub const fn is_taken(self) -> bool {
        matches!(
            self,
            Self::Accept
                | Self::AcceptResetStream
                | Self::AcceptResetConnection
                | Self::AcceptSilence
                | Self::AcceptUnavailable
                | Self::AcceptInternal
                | Self::AcceptBadGateway
                | Self::AcceptCut
        )
    }
}

/// Nothing is called that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of the things that can go wrong")]
pub struct UnknownFaultKind(String);

impl TryFrom<String> for FaultKind {
    type Error = UnknownFaultKind;

    fn try_from(word: String) -> Result<Self, UnknownFaultKind> {
        Self::of(&word).ok_or(UnknownFaultKind(word))
    }
}

impl From<FaultKind> for &'static str {
    fn from(kind: FaultKind) -> Self {
        kind.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::FaultKind;

    #[test]
    fn every_word_means_its_own_kind_of_fault_in_every_spelling() {
        for (kind, word) in FaultKind::ALL {
            assert_eq!((FaultKind::of(word), kind.as_str()), (Some(kind), word));
            assert_eq!(FaultKind::of(&word.to_uppercase().replace('-', "_")), Some(kind));
        }
        assert_eq!(FaultKind::of("sunshine"), None);
    }
}
