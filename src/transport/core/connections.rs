//! The connections that exist, and what each has in flight. Pure.
//!
//! ```text
//!              Up                 drained, suspected, aged, or spare             told to end now
//!   Dialing ──────────► Open ────────────────────────────────────► Draining ──────────────────────► Closing
//!      │                  │                                            │                               │
//!      └──────────────────┴─────────────────── Ended ──────────────────┴───────────────────────────────┘
//! ```

use super::redial::SHORT_LIFE;
use super::service::{Pool, ServiceSettings};
use super::snapshot::{ConnectionPhase, ConnectionState};
use crate::chat::id::Sid;
use crate::transport::ConnectionId;
use std::collections::BTreeMap;
use std::time::Instant;

/// The youngest age at which an old connection is replaced, as a part of the age that is configured: those that were
/// opened together do not end together.
pub(super) const AGE_MIN: f64 = 0.9;

#[derive(Debug)]
pub(super) struct Connections {
    pool: Pool,
    window: usize,
    /// The last that was begun.
    pub(super) last: ConnectionId,
    pub(super) all: BTreeMap<ConnectionId, Connection>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) begun: Instant,
    pub(super) phase: Phase,
    /// What was written and is not answered, by its number. Those that have their report all the same stay: at the peer
    /// they still take a place.
    pub(super) in_flight: BTreeMap<u64, InFlight>,
    pub(super) last_answer: Option<Instant>,
    /// The highest number of a message that was answered.
    pub(super) newest_answered: u64,
    /// Answers in a row that did not come in time.
    pub(super) late: u32,
    /// It was told to end after its answers.
    pub(super) retired: bool,
    /// It takes nothing but a message that is sent alone.
    pub(super) kept_apart: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct InFlight {
    pub(super) sid: Sid,
    pub(super) at: Instant,
    /// It had its whole time for an answer, here or on a connection before.
    pub(super) had_time: bool,
}

/// Where a connection stands; see the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Dialing,
    Open {
        capacity: usize,
        since: Instant,
        /// When it is replaced for its age.
        stale: Option<Instant>,
        /// When a message was last given to it.
        used: Instant,
    },
    Draining {
        since: Instant,
        why: DrainReason,
    },
    Closing,
}

/// Why a connection takes nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainReason {
    /// The peer said so or does not read, it is not needed or too old, or the transport stops.
    Ordinary,
    /// It does not answer.
    Suspect,
}

impl Connections {
    pub(super) fn new(settings: &ServiceSettings) -> Self {
        Self { pool: settings.pool, window: settings.window, last: ConnectionId::ALL, all: BTreeMap::new() }
    }

    /// A connection that is about to be opened.
    pub(super) fn dial(&mut self, now: Instant) -> ConnectionId {
        let id = ConnectionId(self.last.0 + 1);
        self.last = id;
        let phase = Phase::Dialing;
        let in_flight = BTreeMap::new();
        let connection = Connection {
            begun: now,
            phase,
            in_flight,
            last_answer: None,
            newest_answered: 0,
            late: 0,
            retired: false,
            kept_apart: false,
        };
        self.all.insert(id, connection);
        id
    }

    /// `random` is drawn evenly from 0 to 1. False if it was to be closed meanwhile.
    pub(super) fn up(&mut self, id: ConnectionId, capacity: usize, now: Instant, random: f64) -> bool {
        let stale = match self.pool {
            Pool::Fixed(_) => None,
            Pool::Elastic { age_max, .. } => Some(now + age_max.mul_f64(AGE_MIN + (1.0 - AGE_MIN) * random)),
        };
        match self.all.get_mut(&id) {
            Some(connection) if connection.phase == Phase::Dialing => {
                connection.phase = Phase::Open { capacity, since: now, stale, used: now };
                true
            }
            _ => false,
        }
    }

    /// 0 also for a connection whose task has ended and whose `Ended` is still to come.
    pub(super) fn set_capacity(&mut self, id: ConnectionId, new: usize) {
        if let Some(Phase::Open { capacity, .. }) = self.all.get_mut(&id).map(|connection| &mut connection.phase) {
            *capacity = new;
        }
    }

    /// A connection takes nothing new from now on. False if it did not before.
    pub(super) fn drain(&mut self, id: ConnectionId, why: DrainReason, now: Instant) -> bool {
        let Some(connection) = self.all.get_mut(&id).filter(|connection| connection.is_open()) else { return false };
        connection.phase = Phase::Draining { since: now, why };
        true
    }

    /// A connection is about to be ended. False if it is closing already, or is not there.
    pub(super) fn close(&mut self, id: ConnectionId) -> bool {
        let Some(connection) = self.all.get_mut(&id).filter(|one| one.phase != Phase::Closing) else { return false };
        connection.phase = Phase::Closing;
        true
    }

    /// Those for which `wanted` holds, oldest first.
    pub(super) fn ids(&self, wanted: impl Fn(&Connection) -> bool) -> Vec<ConnectionId> {
        self.all.iter().filter(|(_, connection)| wanted(connection)).map(|(id, _)| *id).collect()
    }

    pub(super) fn count(&self, wanted: impl Fn(&Connection) -> bool) -> usize {
        self.all.values().filter(|connection| wanted(connection)).count()
    }

    pub(super) fn any(&self, wanted: impl Fn(&Connection) -> bool) -> bool {
        self.all.values().any(wanted)
    }

    /// How many messages the connections take now.
    pub(super) fn free(&self) -> usize {
        self.all.values().map(|connection| connection.room(self.window)).sum()
    }

    /// How many unanswered messages those that are open take.
    pub(super) fn capacity(&self) -> usize {
        let capacity = |one: &Connection| if let Phase::Open { capacity, .. } = one.phase { capacity } else { 0 };
        self.all.values().map(|one| capacity(one).min(self.window)).sum()
    }

    pub(super) fn has_room(&self, id: ConnectionId) -> bool {
        self.all.get(&id).is_some_and(|connection| connection.room(self.window) > 0)
    }

    /// The connection for a recipient for whom nothing is in flight: with a fixed pool the one with the least in flight, so
    /// that they share the load; with an elastic one the oldest, so that those beyond the need fall idle.
    pub(super) fn choose(&self, avoided: Option<ConnectionId>) -> Option<ConnectionId> {
        let mut free = self.all.iter().filter(|(id, one)| Some(**id) != avoided && one.room(self.window) > 0);
        let chosen = match self.pool {
            Pool::Fixed(_) => free.min_by_key(|(_, connection)| connection.in_flight.len()),
            Pool::Elastic { .. } => free.next(),
        };
        chosen.map(|(id, _)| *id)
    }

    pub(super) fn assign(&mut self, id: ConnectionId, number: u64, flight: InFlight) {
        let Some(connection) = self.all.get_mut(&id) else { return };
        connection.in_flight.insert(number, flight);
        if let Phase::Open { used, .. } = &mut connection.phase {
            *used = flight.at;
        }
    }

    /// A message is not on its connection any more. Returns its number there.
    pub(super) fn unassign(&mut self, id: ConnectionId, sid: Sid) -> Option<u64> {
        let connection = self.all.get_mut(&id)?;
        let number = connection.in_flight.iter().find(|(_, flight)| flight.sid == sid).map(|(number, _)| *number)?;
        connection.in_flight.remove(&number).map(|_| number)
    }

    /// A message was answered on its connection.
    pub(super) fn answered(&mut self, id: ConnectionId, sid: Sid) {
        let number = self.unassign(id, sid);
        if let (Some(number), Some(connection)) = (number, self.all.get_mut(&id)) {
            connection.newest_answered = connection.newest_answered.max(number);
        }
    }

    /// Open, and not about to be replaced for its age or for idling.
    pub(super) fn is_fresh(&self, connection: &Connection, now: Instant) -> bool {
        let Phase::Open { stale, used, .. } = connection.phase else { return false };
        let idles = match self.pool {
            Pool::Fixed(_) => false,
            Pool::Elastic { idle_max, .. } => connection.in_flight.is_empty() && now >= used + idle_max,
        };
        !idles && stale.is_none_or(|stale| now < stale)
    }

    /// Those of an elastic pool that go: old ones when another is there, and spare ones that idle.
    pub(super) fn dispensable(&self, now: Instant) -> Vec<ConnectionId> {
        let Pool::Elastic { spare_idle_max, .. } = self.pool else { return Vec::new() };
        let mut fresh = self.count(|connection| self.is_fresh(connection, now));
        let mut gone = Vec::new();
        for (id, connection) in &self.all {
            let Phase::Open { used, .. } = connection.phase else { continue };
            let goes = if self.is_fresh(connection, now) {
                let goes = connection.in_flight.is_empty() && now >= used + spare_idle_max && fresh > 1;
                fresh -= usize::from(goes);
                goes
            } else {
                fresh > 0
            };
            if goes {
                gone.push(*id);
            }
        }
        gone
    }

    /// Whether one more is to be opened. `demand` is whether messages wait although every connection is full.
    pub(super) fn wants_more(&self, demand: bool, now: Instant) -> bool {
        let dialing = self.count(Connection::is_dialing);
        match self.pool {
            Pool::Fixed(most) => dialing + self.count(Connection::is_open) < most,
            Pool::Elastic { most, .. } => {
                let fresh = self.count(|connection| self.is_fresh(connection, now));
                let useful = self.any(|connection| self.is_fresh(connection, now) && connection.takes());
                // Those that take no messages are open, but of no use: one more than is configured may be open.
                let useless = !useful && fresh <= most;
                dialing == 0 && (fresh == 0 || useless || (demand && fresh < most))
            }
        }
    }

    pub(super) fn states(&self) -> Vec<ConnectionState> {
        let state = |(connection, one): (&ConnectionId, &Connection)| ConnectionState {
            connection: *connection,
            phase: match one.phase {
                Phase::Dialing => ConnectionPhase::Opening,
                Phase::Open { .. } => ConnectionPhase::Up,
                Phase::Draining { .. } => ConnectionPhase::Draining,
                Phase::Closing => ConnectionPhase::Closing,
            },
            begun: one.begun,
            unanswered: one.in_flight.len(),
        };
        self.all.iter().map(state).collect()
    }
}

impl Connection {
    pub(super) fn is_dialing(&self) -> bool {
        self.phase == Phase::Dialing
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining_since().is_some()
    }

    pub(super) fn draining_since(&self) -> Option<Instant> {
        if let Phase::Draining { since, .. } = self.phase { Some(since) } else { None }
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. } | Phase::Closing)
    }

    /// Whether it is kept only for the answers that it did not give in time.
    pub(super) fn is_suspect(&self) -> bool {
        matches!(self.phase, Phase::Draining { why: DrainReason::Suspect, .. })
    }

    /// Whether it takes messages, now or after an answer.
    pub(super) fn takes(&self) -> bool {
        matches!(self.phase, Phase::Open { capacity: 1.., .. })
    }

    /// When the oldest message was written that is not answered.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.in_flight.values().next().map(|flight| flight.at)
    }

    /// Whether it took messages for a short time only, and answered none.
    pub(super) fn is_short_lived(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Open { since, .. } if now < since + SHORT_LIFE) && self.last_answer.is_none()
    }

    fn room(&self, window: usize) -> usize {
        match self.phase {
            Phase::Open { .. } if self.kept_apart => 0,
            Phase::Open { capacity, .. } => capacity.min(window).saturating_sub(self.in_flight.len()),
            Phase::Dialing | Phase::Draining { .. } | Phase::Closing => 0,
        }
    }
}
