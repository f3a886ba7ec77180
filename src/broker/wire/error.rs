//! What is wrong with a packet of a client. Always the client's fault.

use std::borrow::Cow;

use thiserror::Error;

use super::super::refusals::Refusal;

/// Why a connection ends because of a packet. The text is for the log, and that of a broken rule for the client too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum PacketError {
    #[error("a length has more than four bytes")]
    Length,
    #[error("a length has more bytes than it needs")]
    Padded,
    #[error("a packet of {size} bytes is over the limit of {limit}")]
    PacketSize { size: usize, limit: usize },
    #[error("the flags of the fixed header are not those of packet type {0}")]
    Flags(u8),
    #[error("QoS 3")]
    Qos,
    #[error("a PUBLISH at QoS 0 that is sent again")]
    Dup,
    #[error("packet type {0} is for servers to send")]
    Direction(u8),
    #[error("packet type {0} is not expected here")]
    Type(u8),
    /// For the connection to find.
    #[error("packet type {0}")]
    FirstPacket(u8),
    #[error("level 3")]
    Mqtt31,
    #[error("level {0}")]
    ProtocolLevel(u8),
    #[error("the protocol name is not MQTT")]
    ProtocolName,
    #[error("the flags of a CONNECT do not fit together")]
    ConnectFlags,
    #[error("a packet ends before its last field")]
    Short,
    #[error("bytes behind the last field")]
    Rest,
    #[error("a text that is not UTF-8, or has a NUL in it")]
    Text,
    #[error("a packet identifier is 0")]
    Identifier,
    #[error("property {0:#x} does not belong here")]
    Property(u8),
    #[error("property {0:#x} is there twice")]
    Duplicate(u8),
    #[error("property {0:#x} has a value that it cannot have")]
    Range(u8),
    #[error("more than {0} user properties")]
    UserProperties(usize),
    #[error("authentication data without a method")]
    Method,
    #[error("reason code {0:#x} does not belong here")]
    Reason(u8),
    #[error("a PUBLISH without a topic")]
    NoTopic,
    #[error("a wildcard in the topic of a PUBLISH")]
    Wildcard,
    #[error("the response topic is none")]
    ResponseTopic,
    #[error("the will's topic is none")]
    WillTopic,
    #[error("a packet without a topic filter")]
    NoFilter,
    #[error("more than {0} topic filters")]
    FilterCount(usize),
    #[error("reserved bits of a subscription are set, or its QoS is 3")]
    Options,
    #[error("a share group without a name")]
    ShareName,
    #[error("no local on a shared subscription")]
    NoLocal,
    /// For the connection to find: it knows the aliases.
    #[error("a topic alias that stands for no topic")]
    AliasUnknown,
    /// The same.
    #[error("a topic alias over the maximum")]
    AliasMaximum,
    /// For the connection to find: it knows what CONNECT said.
    #[error("a session expiry in DISCONNECT after none in CONNECT")]
    SessionExpiry,
}

impl PacketError {
    /// The reason code of MQTT 5 (4.13).
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Length | Self::Padded | Self::Flags(_) | Self::Qos | Self::ConnectFlags | Self::Short => 0x81,
            Self::Rest | Self::Text | Self::Identifier | Self::Property(_) | Self::Options | Self::ProtocolName => 0x81,
            Self::ShareName => 0x8f,
            Self::Wildcard | Self::ResponseTopic | Self::WillTopic => 0x90,
            Self::AliasMaximum => 0x94,
            _ => match self.refusal() {
                Refusal::Malformed => 0x82,
                refusal => refusal.code(),
            },
        }
    }

    /// Under what it is counted and told.
    pub(in crate::broker) fn refusal(self) -> Refusal {
        match self {
            Self::PacketSize { .. } | Self::UserProperties(_) => Refusal::PacketSize,
            Self::FirstPacket(_) => Refusal::FirstPacket,
            Self::Mqtt31 => Refusal::Mqtt31,
            Self::ProtocolLevel(_) => Refusal::ProtocolLevel,
            Self::FilterCount(_) => Refusal::FilterCount,
            _ => Refusal::Malformed,
        }
    }

    /// The reason string for the client: which rule of MQTT a packet breaks, or which limit of ours.
    pub(crate) fn reason(self) -> Cow<'static, str> {
        match (self, self.refusal()) {
            (_, Refusal::Malformed) | (Self::UserProperties(_), _) => Cow::Owned(self.to_string()),
            (_, refusal) => Cow::Borrowed(refusal.rule()),
        }
    }
}
