//! One client per push service; the bridge reaches it only through its [`Port`].
//!
//! The port is the ends of bounded channels, so a test double is simply the other end of them. A transport takes
//! [`Send`]s while it has room, answers each with exactly one [`Report`], and hands up what devices send. What carries an
//! [`AckRef`] is to be acknowledged to the push service, after the commit, through [`Port::acks`].
//!
//! All transports share the `core`, which decides and knows neither bytes nor a clock, and the `driver`, which runs it.
//! What differs is a file (and a folder) per push service: its settings, the task of one connection, and the decisions of
//! `core::Service`.

pub mod backoff;
pub mod ccs;
pub(crate) mod core;
mod dial;
pub(crate) mod driver;
pub mod fcm_v1;
mod http2;

pub use self::core::event::Counted;
pub use self::core::snapshot::{ConnectionPhase, ConnectionState, Snapshot, Trouble};
use crate::chat::delivery::Fate;
use crate::chat::id::{Recipient, Sid, Token, short_hash};
use crate::chat::push::{Push, TTL_MAX};
use crate::chat::recipient_queue::Pipelining;
use std::fmt;
use tokio::sync::{mpsc, watch};

/// One message to send. Its id at the push service is the text of `sid`.
#[derive(Debug, Clone, PartialEq)]
pub struct Send {
    /// The bridge's id; reports name it.
    pub sid: Sid,
    /// Without what is told of it apart: its id and its time to live.
    pub push: Push,
    /// Sends of the same recipient stay in order, on one connection while any of them is unanswered.
    pub recipient: Recipient,
    /// When the bridge took it, in Unix milliseconds. From then to the deadline is what its sender asked for; "now or
    /// never" is less than a second.
    pub accepted_ms: u64,
    /// When it is not worth sending any more, in Unix milliseconds. The remaining time to live is counted from it.
    pub deadline_ms: u64,
}

impl Send {
    /// What is left of the time to live, in seconds. Rounded up, because 0 is "now or never", which is only for a message
    /// that was meant so; and never more than its sender asked for.
    pub fn ttl_left(&self, now_ms: u64) -> u32 {
        let asked_s = self.deadline_ms.saturating_sub(self.accepted_ms) / 1000;
        let left_s = self.deadline_ms.saturating_sub(now_ms).div_ceil(1000);
        u32::try_from(left_s.max(1).min(asked_s)).map_or(TTL_MAX, |seconds| seconds.min(TTL_MAX))
    }
}

/// A connection of a transport, counted from 1 at the start of the process; 0 is all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// What is told of all connections together.
    pub const ALL: Self = Self(0);
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where an acknowledgement of something received has to go: it counts only on the connection it came in on.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AckRef {
    /// The connection that it came in on.
    pub connection: ConnectionId,
    /// The sender to acknowledge to: a registration token, or the push service's own address for a receipt.
    pub to: String,
    /// The id to acknowledge, byte for byte as it was received.
    pub message_id: String,
}

/// Without the token itself.
impl fmt::Debug for AckRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AckRef")
            .field("connection", &self.connection.0)
            .field("to", &short_hash(&self.to))
            .field("message_id", &self.message_id)
            .finish()
    }
}

/// What a transport tells the bridge.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// A message that was taken comes back.
    Back {
        /// Of [`Send::sid`].
        sid: Sid,
        /// What became of it.
        fate: Fate,
        /// How often it was written to a connection and may have been taken; above 1 the device may see it twice.
        copies: u32,
        /// Writes to a connection after the first, whatever became of the earlier ones.
        replays: u32,
    },
    /// The push service says what became of a message on the device.
    Receipt {
        /// The original message's id as the push service gave it; it may be unknown.
        original: String,
        /// `MESSAGE_SENT_TO_DEVICE` is the only one ever documented.
        status: String,
        /// When the push service handed the message to the device, in Unix milliseconds, if it says so.
        handed_over_ms: Option<u64>,
        /// How often the original was written to a connection, if it is unanswered on one; else 0.
        copies: u32,
        /// To be acknowledged once the receipt is on disk.
        ack_ref: AckRef,
    },
    /// A connection stands differently; for operators, nothing follows from it. [`Port::link`] sums all of them up.
    Connection {
        /// [`ConnectionId::ALL`] for what concerns no single one.
        connection: ConnectionId,
        /// What happened to it.
        change: ConnectionChange,
    },
}

/// What happened to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionChange {
    /// It takes messages.
    Up,
    /// The push service is ending it.
    Draining,
    /// It took messages, and ended without a drain, or is suspected of losing answers and takes no more messages.
    Lost {
        /// For operators: the server, and why.
        detail: String,
    },
    /// The push service refused the credentials.
    AuthFailed {
        /// For operators: the server, and its own words.
        detail: String,
    },
}

/// What a device sent, as far as it can be understood.
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceMessage {
    /// To be acknowledged once it is on disk.
    Upstream(ReceivedUpstream),
    /// One that cannot be understood. The push service sends it again and again, and counts it, until it is acknowledged.
    Rejected(RejectedUpstream),
}

/// A message from a device that cannot be understood. To be acknowledged once it is on disk as rejected.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedUpstream {
    /// What is wrong with it, in one word for operators.
    pub code: &'static str,
    /// The beginning of what came, at most [`SAMPLE_MAX`] characters, without a registration token.
    pub sample: String,
    /// Also for one whose sender is no token.
    pub ack_ref: AckRef,
}

/// Longest [`RejectedUpstream::sample`], in characters.
pub const SAMPLE_MAX: usize = 256;

/// A message from a device that can be understood.
#[derive(Debug, Clone, PartialEq)]
pub struct ReceivedUpstream {
    /// The device's registration token.
    pub from: Token,
    /// The app's package name; may be absent.
    pub category: Option<String>,
    /// The device's id of the message, unique only per device.
    pub message_id: String,
    /// The application's data, as it came. Empty if there was none.
    pub data: serde_json::Map<String, serde_json::Value>,
    /// Not part of the message: another copy of it has another one.
    pub ack_ref: AckRef,
}

/// The word for operators where messages are written and none is answered.
pub const UNANSWERED: &str = "unanswered";

/// How the connection to the push service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// No message is taken, for the reason given, in one word for operators. The transport tries again by itself.
    Down(&'static str),
    /// One message at a time is taken, as a probe; the word is that of [`Link::Down`] before it.
    Probing(&'static str),
    /// At least one connection takes messages.
    Up,
    /// Connections exist, but all of them are draining; another one is about to take over.
    Draining,
}

impl Link {
    /// There is no connection.
    pub const UNCONNECTED: Self = Self::Down("down");
    /// The push service refused the credentials.
    pub const AUTH_FAILED: Self = Self::Down("auth_failed");
    /// Messages are written, and none is answered.
    pub const UNANSWERED: Self = Self::Down(UNANSWERED);

    /// The word for operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Probing(word) | Self::Down(word) => word,
        }
    }
}

/// What the bridge has to know of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// How many messages of one recipient it takes at a time.
    pub pipelining: Pipelining,
    /// Whether anybody says that a device has a message: the push service, or the app itself. If not, `sent` is the last
    /// word.
    pub delivery: bool,
}

impl Default for Capabilities {
    /// What is safe over any transport.
    fn default() -> Self {
        Self { pipelining: Pipelining::OneAtATime, delivery: true }
    }
}

/// The bridge's end of the port.
#[derive(Debug)]
pub struct Port {
    /// Those of [`Capabilities::default`] until the transport's owner sets others.
    pub capabilities: Capabilities,
    /// Messages to send; full means: wait.
    pub sends: mpsc::Sender<Send>,
    /// Acknowledgements of upstream messages and receipts. They pass even when no message does.
    pub acks: mpsc::Sender<AckRef>,
    /// Connections that brought device messages which the bridge had no room to keep, and has now. Each ends after its answers:
    /// the push service sends what is not acknowledged once more, but only when a connection has ended.
    pub resends: mpsc::Sender<ConnectionId>,
    /// One for each message, receipts, and news of connections. It ends when the transport has.
    pub reports: mpsc::Receiver<Report>,
    /// What devices send. A queue of its own: no answer that waits for a commit holds it up.
    pub device_messages: mpsc::Receiver<DeviceMessage>,
    /// All connections together.
    pub link: watch::Receiver<Link>,
    /// What is counted, a second old at most.
    pub snapshot: watch::Receiver<Snapshot>,
}

/// The transport's end of the port.
#[derive(Debug)]
pub struct Outlet {
    /// See [`Port::sends`].
    pub sends: mpsc::Receiver<Send>,
    /// See [`Port::acks`].
    pub acks: mpsc::Receiver<AckRef>,
    /// See [`Port::resends`].
    pub resends: mpsc::Receiver<ConnectionId>,
    /// See [`Port::reports`].
    pub reports: mpsc::Sender<Report>,
    /// See [`Port::device_messages`].
    pub device_messages: mpsc::Sender<DeviceMessage>,
    /// See [`Port::link`].
    pub link: watch::Sender<Link>,
    /// See [`Port::snapshot`].
    pub snapshot: watch::Sender<Snapshot>,
}

/// Makes both ends, of a transport with the least capabilities. `sends`, `acks` and `reports` are the sizes of the queues, in
/// messages; that of device messages is as long as that of reports, and that of `resends` as that of `acks`. The bridge hands over no more than `sends` that the
/// transport has not taken.
pub fn port(sends: usize, acks: usize, reports: usize) -> (Port, Outlet) {
    let (sends, sends_out) = mpsc::channel(sends);
    let (resends, resends_out) = mpsc::channel(acks);
    let (acks, acks_out) = mpsc::channel(acks);
    let (reports_in, reports_out) = mpsc::channel(reports);
    let (device_messages_in, device_messages) = mpsc::channel(reports);
    let (link_in, link) = watch::channel(Link::UNCONNECTED);
    let (snapshot_in, snapshot) = watch::channel(Snapshot::default());
    let capabilities = Capabilities::default();
    let port = Port { capabilities, sends, acks, resends, reports: reports_out, device_messages, link, snapshot };
    let outlet = Outlet {
        sends: sends_out,
        acks: acks_out,
        resends: resends_out,
        reports: reports_in,
        device_messages: device_messages_in,
        link: link_in,
        snapshot: snapshot_in,
    };
    (port, outlet)
}

#[cfg(test)]
mod tests {
    pub(super) mod log;

    use super::*;
    use crate::chat::id::SidSource;
    use crate::chat::message::NOW_OR_NEVER_MS;
    use crate::chat::push::{Priority, Target};

    fn message(accepted_ms: u64, deadline_ms: u64) -> Send {
        let push = Push {
            target: Target::Topic("news".to_owned()),
            data: serde_json::Map::new(),
            notification: None,
            priority: Priority::Normal,
            collapse: None,
            receipt: false,
            fcm: serde_json::Map::new(),
        };
        let sid = SidSource::default().next(1, 1);
        Send { sid, push, recipient: Recipient(1), accepted_ms, deadline_ms }
    }

    #[test]
    fn what_is_left_of_the_time_to_live_is_rounded_up_and_never_more_than_was_asked_for() {
        const ACCEPTED: u64 = 1_700_000_000_123;
        const FOUR_WEEKS_MS: u64 = 2_419_200_000;
        for (life_ms, after_ms, ttl_s) in [
            (3_600_000, 0, 3_600),
            (3_600_000, 1, 3_600),
            (3_600_000, 999, 3_600),
            (3_600_000, 1_000, 3_599),
            (3_600_000, 3_599_999, 1),
            (3_600_000, 3_600_000, 1),
            (3_600_000, 3_600_001, 1),
            (1_000, 0, 1),
            (1_000, 999, 1),
            (2_000, 999, 2),
            (2_000, 1_001, 1),
            (NOW_OR_NEVER_MS, 0, 0),
            (NOW_OR_NEVER_MS, 998, 0),
            (NOW_OR_NEVER_MS, 2_000, 0),
            (FOUR_WEEKS_MS, 0, TTL_MAX),
            (2 * FOUR_WEEKS_MS, 0, TTL_MAX),
        ] {
            let send = message(ACCEPTED, ACCEPTED + life_ms);
            assert_eq!(send.ttl_left(ACCEPTED + after_ms), ttl_s, "{life_ms} after {after_ms}");
        }
        // The clock was set back meanwhile.
        let send = message(ACCEPTED, ACCEPTED + 60_000);
        assert_eq!(send.ttl_left(ACCEPTED - 3_600_000), 60);
    }
}
