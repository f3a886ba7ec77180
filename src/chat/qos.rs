//! The quality of service of an MQTT message (MQTT 5, 4.3).

use serde::Deserialize;

/// How a message is delivered. The greater one promises more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[repr(u8)]
pub enum QoS {
    /// At most once: nobody acknowledges it.
    AtMostOnce = 0,
    /// At least once: it is sent until its PUBACK.
    AtLeastOnce = 1,
    /// Exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// The one with this number; there is none above 2.
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}
