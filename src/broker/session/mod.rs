//! What a session is while it runs: the messages that wait for it, its packet identifiers, its topic aliases. No I/O, no clock.
//!
//! ```text
//!  notified live ───┐                                             ┌─ QoS 0 ─> socket
//!  read from disk ──┴─> Queue ──pull──> OutgoingMessage ──take_id─┴─ Window ─> socket ─> PUBACK, PUBCOMP ─> InFlight ─> store
//! ```
//!
//! A [`Queue`] belongs to a session or to a group that shares a subscription; it knows how far the disk was read and holds
//! a bounded piece of what waits. A [`Window`] belongs to a session and outlives its connections, as do the identifiers of
//! [`Incoming`]; [`aliases`] belong to one connection. What is unacknowledged is on disk, so that a session that is away
//! keeps identifiers only, and reads the same messages again when it is back.

pub(crate) mod aliases;
mod incoming;
mod outgoing_message;
mod queue;
mod window;

#[cfg(test)]
mod tests;

pub(crate) use incoming::{Arrived, Incoming};
pub(crate) use outgoing_message::{OutgoingMessage, Source, document_message};
pub(crate) use queue::{MemoryLimits, PageRequest, Pulled, Pushed, Queue, ReadWhat};
pub(crate) use window::{InFlight, PubrecOutcome, QueueRef, Sent, Window};
