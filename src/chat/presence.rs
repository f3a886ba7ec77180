//! Whether a chat user is there: one word for all of the user's devices.
//!
//! The embedded broker sees every connection begin and end, so a connection is the truth: a device with one is there,
//! whatever a will says that the broker publishes late. What a client says about itself counts in one way only: it may
//! hide while it is connected.
//!
//! ```text
//!              came                         came
//!   (nothing) ──────▶ Here(visible) ◀──────────────┐
//!                      │        ▲ │ broke          │
//!              offline │ online │ └──────▶ Awaited ┘
//!                      ▼        │             │ its time is over
//!                     Here(hidden) ─────▶   Gone
//! ```
//!
//! A device that left in an orderly way is forgotten at once. One whose connection broke is awaited for a grace period,
//! in which its user still counts as there. After that it is only remembered for its will.

use super::message::{Presence, PresenceState, UserPresence};
use super::topic::Device as DeviceName;
use std::collections::BTreeMap;

/// The device of a client whose id names none.
pub const DEFAULT_DEVICE: &str = "default";
/// How long after the end of a connection an `offline` that names no connection is taken for its will, in milliseconds.
/// The broker publishes a will at once; one that is to wait is withdrawn when its client returns.
pub const LATE_WILL_MS: u64 = 5_000;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a goodbye.
    Left,
    /// Without a word.
    Broke,
}

/// What is known of one user. Times are Unix milliseconds by the caller's clock, which must not go back.
#[derive(Debug)]
pub struct Aggregate {
    grace_ms: u64,
    devices: BTreeMap<String, Device>,
    /// Devices from before a restart: somebody was there, and nothing else is known.
    unaccounted: Option<Absence>,
    last_seen: Option<u64>,
    told: Option<(PresenceState, Option<u64>)>,
}

/// What is known of one device.
#[derive(Debug)]
struct Device {
    standing: Standing,
    /// The word by which the client names its connection.
    conn: Option<String>,
    /// The same of its connection before.
    former: Option<String>,
    /// When a connection of it last broke: the will of that one may be on the way.
    broke_at: Option<u64>,
}

#[derive(Debug)]
enum Standing {
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
struct Absence {
    since: u64,
    until: u64,
}

impl Aggregate {
    /// A user of whom nothing is known, whose devices have `grace_ms` to come back.
    pub fn new(grace_ms: u64) -> Self {
        Self { grace_ms, devices: BTreeMap::new(), unaccounted: None, last_seen: None, told: None }
    }

    /// The user was there when the bridge stopped; `last_seen` is the last time at which that is known for certain.
    pub fn handle_restart(&mut self, last_seen: u64, now_ms: u64) {
        self.unaccounted = Some(Absence { since: last_seen, until: now_ms.saturating_add(self.grace_ms) });
    }

    /// The user was last seen at `last_seen`, long ago: before a restart, as far as this aggregate is concerned.
    pub fn handle_memory(&mut self, last_seen: Option<u64>) {
        self.last_seen = self.last_seen.max(last_seen);
    }

    /// A device has connected.
    pub fn handle_came(&mut self, device: &str, connection: u64, now_ms: u64) {
        self.expire(now_ms);
        if let Some(known) = self.devices.get_mut(device) {
            known.connect(connection);
            return;
        }
        let standing = Standing::Here { connections: vec![connection], hidden: false };
        let new = Device { standing, conn: None, former: None, broke_at: None };
        self.devices.insert(device.to_owned(), new);
    }

    /// A connection of a device has ended.
    pub fn handle_gone(&mut self, device: &str, connection: u64, end: End, now_ms: u64) {
        self.expire(now_ms);
        let Some(known) = self.devices.get_mut(device) else { return };
        let Standing::Here { connections, hidden } = &mut known.standing else { return };
        connections.retain(|&live| live != connection);
        if end == End::Broke {
            known.broke_at = Some(now_ms);
        }
        if !connections.is_empty() {
            return;
        }
        let visible = !*hidden;
        match end {
            End::Left => {
                self.devices.remove(device);
            }
            End::Broke if visible => {
                let until = now_ms.saturating_add(self.grace_ms);
                known.standing = Standing::Awaited(Absence { since: now_ms, until });
                return;
            }
            End::Broke => known.standing = Standing::Gone,
        }
        if visible {
            self.went(now_ms);
        }
    }

    /// A client said how it is; `None` takes back what it said. Without a device it is a client of old that has only
    /// one: it speaks for the one device that is connected, or, among several, for [`DEFAULT_DEVICE`].
    pub fn handle_said(&mut self, device: Option<&DeviceName>, word: Option<&Presence>, now_ms: u64) {
        let Some(name) = device.map_or_else(|| self.speaker(), |device| Some(device.as_str().to_owned())) else {
            return;
        };
        let Some(known) = self.devices.get_mut(&name) else { return };
        if known.hides(word, now_ms) {
            self.went(now_ms);
        }
    }

    /// What was told has been lost or overwritten: [`Self::poll_document`] has it again.
    pub fn handle_loss(&mut self) {
        self.told = None;
    }

    /// What others are to be told, if it differs from what they were told last.
    pub fn poll_document(&mut self, now_ms: u64) -> Option<UserPresence> {
        self.expire(now_ms);
        let visible = self.devices.values().any(Device::counts);
        if !visible && self.unaccounted.is_some() {
            return None;
        }
        let state = if visible { PresenceState::Online } else { PresenceState::Offline };
        let changed = match self.told {
            None => true,
            Some((told, _)) if told != state => true,
            // Was there and gone again before it could be told.
            Some((_, last_seen)) => state == PresenceState::Offline && last_seen != self.last_seen,
        };
        changed.then(|| {
            self.told = Some((state, self.last_seen));
            UserPresence { state, ts: now_ms, last_seen: self.last_seen }
        })
    }

    /// When to poll again although nothing happened.
    pub fn deadline(&self) -> Option<u64> {
        let devices = self.devices.values().filter_map(Device::deadline);
        devices.chain(self.unaccounted.map(|absence| absence.until)).min()
    }

    /// Whether nothing is left that could still change by itself or by the end of a connection.
    pub fn is_idle(&self) -> bool {
        self.devices.is_empty() && self.unaccounted.is_none()
    }

    fn expire(&mut self, now_ms: u64) {
        let mut went = None;
        self.devices.retain(|_, device| {
            if let Standing::Awaited(absence) = device.standing
                && absence.until <= now_ms
            {
                device.standing = Standing::Gone;
                went = went.max(Some(absence.since));
            }
            device.deadline().is_none_or(|deadline| deadline > now_ms)
        });
        if let Some(absence) = self.unaccounted.take_if(|absence| absence.until <= now_ms) {
            went = went.max(Some(absence.since));
        }
        self.last_seen = self.last_seen.max(went);
    }

    fn went(&mut self, at: u64) {
        self.last_seen = self.last_seen.max(Some(at));
    }

    /// Who speaks without saying which device it is.
    fn speaker(&self) -> Option<String> {
        let mut connected = self.devices.iter().filter(|(_, device)| matches!(device.standing, Standing::Here { .. }));
        let (first, _) = connected.next()?;
        let name = if connected.next().is_none() { first } else { DEFAULT_DEVICE };
        Some(name.to_owned())
    }
}

impl Device {
    /// A new connection starts visible, and with a name of its own.
    fn connect(&mut self, connection: u64) {
        self.former = self.conn.take().or_else(|| self.former.take());
        let mut connections = match &mut self.standing {
            Standing::Here { connections, .. } => std::mem::take(connections),
            Standing::Awaited(_) | Standing::Gone => Vec::with_capacity(1),
        };
        connections.push(connection);
        self.standing = Standing::Here { connections, hidden: false };
    }

    /// Takes what its client says. Whether it was visible until then, and no longer is.
    fn hides(&mut self, word: Option<&Presence>, now_ms: u64) -> bool {
        let late = word.is_some_and(|word| self.is_late_will(word, now_ms));
        let Standing::Here { hidden, .. } = &mut self.standing else { return false };
        if late {
            return false;
        }
        if let Some(conn) = word.and_then(|word| word.conn.clone()) {
            self.conn = Some(conn);
        }
        let before = *hidden;
        *hidden = word.is_some_and(|word| word.state == PresenceState::Offline);
        *hidden && !before
    }

    /// Whether this is the will of a connection that another one has replaced.
    fn is_late_will(&self, word: &Presence, now_ms: u64) -> bool {
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

    /// Whether the user is there because of this device.
    fn counts(&self) -> bool {
        match self.standing {
            Standing::Here { hidden, .. } => !hidden,
            Standing::Awaited(_) => true,
            Standing::Gone => false,
        }
    }

    fn deadline(&self) -> Option<u64> {
        match self.standing {
            Standing::Here { .. } => None,
            Standing::Awaited(absence) => Some(absence.until),
            Standing::Gone => Some(self.broke_at.map_or(0, |at| at.saturating_add(LATE_WILL_MS))),
        }
    }
}

#[cfg(test)]
mod tests;
