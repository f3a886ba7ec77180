//! How a transport is, for metrics, status topics and who asks. What its reports tell, the bridge counts by itself.

use super::event::Counted;
use crate::transport::ConnectionId;
use std::time::Instant;

/// The counters since the start, and the state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Messages written to a connection, further copies too.
    pub written: u64,
    /// Messages that a connection did not take, so that they went to another.
    pub not_taken: u64,
    /// Acknowledgements passed to the connection that they belong to.
    pub acks: u64,
    /// Acknowledgements whose connection is gone: what they are for comes again.
    pub stale_acks: u64,
    /// What connections count below the messages.
    pub counted: Counted,
    /// Connections begun, whether they came up or not.
    pub dials: u64,
    /// Connections that took messages.
    pub connects: u64,
    /// Of these, the ones that were ended by the peer or the network.
    pub reconnects: u64,
    /// Log-ins refused.
    pub auth_failures: u64,
    /// Connections that the peer began to drain.
    pub drains: u64,
    /// Connections that were given up because answers did not come.
    pub suspects: u64,
    /// Messages taken from the bridge and without a report.
    pub pending: usize,
    /// How many unanswered messages the connections that are up take.
    pub window: usize,
    /// The connections, oldest first.
    pub connections: Vec<ConnectionState>,
    /// The cause that comes first; `None` if all is well.
    pub trouble: Option<Trouble>,
    /// When the access token was asked for, where the service wants one and has it.
    pub access_token_requested_at: Option<Instant>,
}

/// Why no message goes, or fewer than could.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// For operators.
    pub words: String,
    /// Since when; without, since a moment ago.
    pub since: Option<Instant>,
    /// When something is tried again that may end it. It may be over.
    pub next_try: Option<Instant>,
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionState {
    /// Never [`ConnectionId::ALL`].
    pub connection: ConnectionId,
    /// Whether messages go out.
    pub phase: ConnectionPhase,
    /// When it was dialled.
    pub begun: Instant,
    /// Messages on it that are not answered.
    pub unanswered: usize,
}

/// Whether messages go out over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionPhase {
    /// Until it takes messages: name, TCP, TLS, log-in.
    Opening,
    /// It takes messages.
    Up,
    /// It takes none any more, and is kept for the answers that it owes.
    Draining,
    /// It was told to end without waiting for answers.
    Closing,
}

impl ConnectionPhase {
    /// In the order of a connection's life.
    pub const ALL: [Self; 4] = [Self::Opening, Self::Up, Self::Draining, Self::Closing];

    /// The word for operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Closing => "closing",
        }
    }
}

impl Snapshot {
    /// How many connections stand so.
    pub fn connections_in(&self, phase: ConnectionPhase) -> usize {
        self.connections.iter().filter(|state| state.phase == phase).count()
    }

    /// Messages on all connections that are not answered.
    pub fn unanswered(&self) -> usize {
        self.connections.iter().map(|state| state.unanswered).sum()
    }
}
