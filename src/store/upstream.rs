//! The data of the verbs about messages of devices.

use super::documents::Origin;
use crate::chat::id::{Owner, Sid, Token};
use bytes::Bytes;

/// Where upstream messages go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The BAL.
    pub bal: Owner,
    /// The topic of the BAL on which they are published.
    pub topic: String,
    /// What makes a message done.
    pub acks: Acks,
}

/// What makes an upstream message done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// That the broker, or the subscriber, has it.
    OnPublish,
    /// That the BAL says so (`ack = explicit`).
    Explicit,
}

impl Acks {
    pub(super) fn origin(self, sid: Sid) -> Origin {
        match self {
            Self::OnPublish => Origin::Upstream(sid),
            Self::Explicit => Origin::UpstreamToAck(sid),
        }
    }
}

/// A message from a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The bridge's id of it.
    pub sid: Sid,
    /// Where it goes; `None` keeps it until [`super::Store::give_routes`] finds a route.
    pub route: Option<Route>,
    /// The device.
    pub token: Token,
    /// The device's id of it.
    pub message_id: String,
    /// The app.
    pub category: Option<String>,
    /// The document to publish.
    pub payload: Bytes,
    /// When it came, in Unix milliseconds.
    pub at: u64,
}

/// What became of an upstream message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// It is on disk; acknowledge it.
    Stored,
    /// It was on disk already; acknowledge it again.
    Duplicate,
    /// The spool is full: do not acknowledge it.
    Full,
}

/// A message of a device that came when there was no route for its app, and waits for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrouted {
    /// Its place among those that wait.
    pub seq: u64,
    /// The bridge's id of it.
    pub sid: Sid,
    /// The app.
    pub category: Option<String>,
}
