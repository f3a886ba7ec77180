//! Topics of the outbox that only chat has.

use super::Device;
use std::fmt;

/// A topic of a chat user's outbox, but for those that BALs have as well.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChatTopic {
    /// `read`: how far the user has read.
    Read,
    /// `chatstate`: who is writing.
    ChatState,
    /// `profile`, retained: how the user is called.
    Profile,
    /// `invitations`: how strangers become contacts.
    Invitations,
    /// `calls`: what sets up a call.
    Calls,
    /// `devices/{device}`: the token by which it is pushed.
    Devices(Device),
    /// `requests/{device}`: what it asks the bridge.
    Requests(Device),
}

impl ChatTopic {
    pub(super) fn parse(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "read" => Self::Read,
            "chatstate" => Self::ChatState,
            "profile" => Self::Profile,
            "invitations" => Self::Invitations,
            "calls" => Self::Calls,
            _ => {
                let (name, device) = suffix.split_once('/')?;
                let of_device = match name {
                    "devices" => Self::Devices,
                    "requests" => Self::Requests,
                    _ => return None,
                };
                of_device(Device::new(device).ok()?)
            }
        })
    }

    /// The first level below the outbox.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ChatState => "chatstate",
            Self::Profile => "profile",
            Self::Invitations => "invitations",
            Self::Calls => "calls",
            Self::Devices(_) => "devices",
            Self::Requests(_) => "requests",
        }
    }
}

impl fmt::Display for ChatTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Devices(device) | Self::Requests(device) => write!(f, "/{}", device.as_str()),
            Self::Read | Self::ChatState | Self::Profile | Self::Invitations | Self::Calls => Ok(()),
        }
    }
}
