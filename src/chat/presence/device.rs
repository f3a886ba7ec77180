//! One device: whether it is connected, and which documents are wills of connections that are over.

use super::Evidence;
use crate::chat::message::{Presence, PresenceState};

/// How long after the end of a connection an `offline` that names no connection is taken for its will, in milliseconds.
/// The broker publishes a will at once; one that is to wait is withdrawn when its client returns.
pub const LATE_WILL_MS: u64 = 5_000;

/// What is known of one device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) standing: Standing,
    /// The word by which the client names its connection.
    pub(super) conn: Option<String>,
    /// The same of its connection before.
    former: Option<String>,
    /// When a connection of it last broke: the will of that one may be on the way.
    pub(super) broke_at: Option<u64>,
    /// Whether it has registered a token, if that is known.
    pub(super) has_token: Option<bool>,
    /// It said something, or its will did, and has not taken it back: the broker keeps that.
    pub(super) said: bool,
}

#[derive(Debug)]
pub(super) enum Standing {
    /// Connected. At a take-over the old connection may still be among the numbers.
    Here {
        connections: Vec<u64>,
        /// By its own word.
        hidden: bool,
    },
    /// The connection broke.
    Awaited(Absence),
    /// Nothing but memory.
    Gone,
}

/// A time away that does not count if it ends soon enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct Absence {
    /// Not known of a user whom only a retained document of the bridge remembers.
    pub(super) since: Option<u64>,
    pub(super) until: u64,
}

impl Device {
    /// One of which nothing is known but that it is not there.
    pub(super) fn gone() -> Self {
        Self { standing: Standing::Gone, conn: None, former: None, broke_at: None, has_token: None, said: false }
    }

    /// A new connection starts visible, and with a name of its own.
    pub(super) fn connect(&mut self, connection: u64) {
        self.former = self.conn.take().or_else(|| self.former.take());
        let mut connections = match std::mem::replace(&mut self.standing, Standing::Gone) {
            Standing::Here { connections, .. } => connections,
            Standing::Awaited(_) | Standing::Gone => Vec::with_capacity(1),
        };
        connections.push(connection);
        self.standing = Standing::Here { connections, hidden: false };
    }

    /// The newest connection.
    pub(super) fn connection(&self) -> Option<u64> {
        match &self.standing {
            Standing::Here { connections, .. } => connections.last().copied(),
            Standing::Awaited(_) | Standing::Gone => None,
        }
    }

    /// Whether this is the will of a connection that another one has replaced.
    pub(super) fn is_late_will(&self, word: &Presence, now_ms: u64) -> bool {
        if word.state == PresenceState::Online {
            return false;
        }
        let old = word.conn.is_some() && word.conn == self.former;
        match (&word.conn, &self.conn) {
            (Some(will), Some(birth)) if will != birth => true,
            (Some(_), Some(_)) if !old => false,
            (Some(_), None) if old => true,
            // It names no connection, or gives all of them the same name.
            _ => self.broke_at.is_some_and(|at| now_ms < at.saturating_add(LATE_WILL_MS)),
        }
    }

    /// Whether what the broker keeps of it is to be cleared when it is forgotten. A device that is seen leaves nothing behind:
    /// what it said ends with its connection.
    pub(super) fn is_to_be_cleared(&self, evidence: Evidence) -> bool {
        self.said && (evidence == Evidence::Connections || self.has_token == Some(false))
    }

    /// Whether the user is there because of this device.
    pub(super) fn counts(&self) -> bool {
        match self.standing {
            Standing::Here { hidden, .. } => !hidden,
            Standing::Awaited(_) => true,
            Standing::Gone => false,
        }
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        match self.standing {
            Standing::Here { .. } => None,
            Standing::Awaited(absence) => Some(absence.until),
            Standing::Gone => Some(self.broke_at.map_or(0, |at| at.saturating_add(LATE_WILL_MS))),
        }
    }
}
