//! What a subscriber is told while it happens; the demo narrates it, tests wait for it.

use super::fault::Notice;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which connection, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SimEvent {
    /// A client logged in and bound its resource.
    LoggedIn {
        /// On this connection.
        connection: ConnectionId,
        /// Its sender id.
        sender: Arc<str>,
    },
    /// A log-in was refused.
    LoginFailed {
        /// On this connection.
        connection: ConnectionId,
    },
    /// A connection ended.
    Ended {
        /// This one.
        connection: ConnectionId,
    },
    /// A message was taken.
    Accepted {
        /// On this connection.
        connection: ConnectionId,
        /// Its id.
        message_id: Arc<str>,
    },
    /// A message was refused.
    Refused {
        /// On this connection.
        connection: ConnectionId,
        /// Its id.
        message_id: Arc<str>,
        /// The code.
        code: String,
    },
    /// A device got a message.
    Delivered {
        /// The device.
        token: Arc<str>,
        /// The message.
        message_id: Arc<str>,
        /// Which copy of it.
        copy: u32,
    },
    /// Everything that was stored for a device was deleted, because it was too much.
    Deleted {
        /// The device.
        token: Arc<str>,
    },
    /// An app says that it has a message: it would publish so now.
    AppAck {
        /// To this topic.
        topic: Arc<str>,
        /// The message: its `data.mid`.
        id: Arc<str>,
    },
    /// A message was taken by HTTP v1.
    Taken {
        /// Its id: `data.mid`, or the one it was given.
        message_id: Arc<str>,
    },
    /// A message of a device or a receipt was sent to a client.
    Sent {
        /// On this connection.
        connection: ConnectionId,
        /// The device that it comes from or is about.
        token: Arc<str>,
        /// Its id; that of a receipt begins with `dr2:`.
        message_id: Arc<str>,
        /// Which copy of it.
        copy: u32,
    },
    /// A client acknowledged something.
    Acked {
        /// On this connection.
        connection: ConnectionId,
        /// Its id.
        message_id: String,
    },
    /// A connection drains.
    Draining {
        /// This one.
        connection: ConnectionId,
        /// How the client hears of it.
        notice: Notice,
    },
    /// A client broke a rule.
    Violation {
        /// On this connection.
        connection: ConnectionId,
        /// Which.
        rule: &'static str,
    },
}
