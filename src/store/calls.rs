//! The data of the verbs about calls.

use super::chat::{Peer, Writer};
use crate::chat::id::{Owner, Sid};
use crate::chat::suffix::calls::Signal;
use bytes::Bytes;

/// Most calls whose time is over that one look gives.
pub const CALLS_DUE_MAX: usize = 64;

/// A signal of a call, of a user or BAL to a user, or of a user to a BAL that rang.
#[derive(Debug, Clone)]
pub struct NewSignal {
    /// The bridge's id of it; that of an offer names the call.
    pub sid: Sid,
    /// The id of the message about the call, should this end it.
    pub message: Sid,
    /// Who wrote it.
    pub from: Writer,
    /// Whom it is for.
    pub to: Peer,
    /// What was written.
    pub signal: Signal,
    /// Until when it is worth delivering, in Unix milliseconds; an offer rings until then.
    pub until: u64,
}

/// A call whose time is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCall {
    /// The sid of its offer.
    pub offer: Sid,
    /// Who was rung.
    pub callee: Owner,
}

/// What a look at the times of all calls gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DueCalls {
    /// At most [`CALLS_DUE_MAX`]. They are to be ended.
    pub due: Vec<DueCall>,
    /// When to look again, in Unix milliseconds, unless there is no call at all.
    pub next: Option<u64>,
}

/// A call is to end because its time is over.
#[derive(Debug, Clone)]
pub struct OverdueCall {
    /// The sid of its offer.
    pub offer: Sid,
    /// The id of the document that says so.
    pub sid: Sid,
    /// The id of the message about the call.
    pub message: Sid,
    /// Who was rung.
    pub callee: Peer,
}

/// What a device is told of a call that began before it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSignal {
    /// The document.
    pub payload: Bytes,
    /// Until when it is worth delivering, in Unix milliseconds.
    pub until: u64,
}
