//! The connections: opens as many as the work needs, replaces those that grow old, and hands them requests.
//!
//! ```text
//!   Opening ── takes requests ──► Open ── GOAWAY, or a successor is there ──► Leaving ── last answer ──► gone
//! ```
//!
//! One connection is always kept, so that the first message after a pause pays no handshake and somebody notices when
//! FCM is out of reach. Further ones come when all are full, and go when nothing needs them.

use super::FcmConfig;
use super::connection::{Cause, Connection, Note};
use super::exchange::Order;
use super::renewal::Api;
use crate::transport::Change;
use crate::transport::backoff::Backoff;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Waits between connections that came to nothing: the first ceiling, and the last.
const REDIAL_FIRST: Duration = Duration::from_secs(1);
const REDIAL_MAX: Duration = Duration::from_secs(30);
/// After so many requests in a row without an answer in time a connection is replaced, though it answers pings: those
/// only show that its near end lives.
const UNANSWERED_MAX: u32 = 5;

/// The connections.
pub(super) struct Pool {
    config: FcmConfig,
    api: Api,
    connections: BTreeMap<u64, Slot>,
    last: u64,
    backoff: Backoff,
    /// No connection is dialled before this.
    redial: Instant,
    notes: mpsc::Sender<Note>,
    tasks: JoinSet<()>,
    kill: CancellationToken,
}

/// A connection that exists or is being opened.
struct Slot {
    phase: Phase,
    in_flight: usize,
    /// Whether any request was answered on it.
    served: bool,
    /// Requests in a row that were not answered in time.
    unanswered: u32,
    orders: mpsc::Sender<Order>,
    retire: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Open {
        takes: usize,
        /// When it is replaced, because FCM would end it soon.
        stale: Instant,
        used: Instant,
    },
    Leaving,
}

/// Whether there is work that waits for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// What there is suffices.
    Met,
    /// All connections are full.
    Waiting,
}

/// Where there is room for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// On this connection.
    On(u64),
    /// Only on the one that is not wanted.
    OnlyThere(u64),
    /// On none.
    Nowhere,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// FCM said something.
    Answered,
    /// It did not, in the time for it.
    Late,
    /// The stream or the connection broke.
    Broken,
}

/// Nobody takes the order: the connection is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoTaker;

impl Pool {
    /// A pool without connections; they report to `notes`.
    pub(super) fn new(config: FcmConfig, api: Api, notes: mpsc::Sender<Note>) -> Self {
        Self {
            config,
            api,
            connections: BTreeMap::new(),
            last: 0,
            backoff: Backoff::new(REDIAL_FIRST, REDIAL_MAX),
            redial: Instant::now(),
            notes,
            tasks: JoinSet::new(),
            kill: CancellationToken::new(),
        }
    }

    /// Opens, replaces and retires connections as it is time to.
    pub(super) fn tend(&mut self, demand: Demand, now: Instant) {
        self.retire_stale(now);
        let fresh = self.connections.values().filter(|slot| slot.fresh(now, &self.config));
        let (open, useful) = fresh.fold((0, 0), |(open, useful), slot| (open + 1, useful + usize::from(slot.takes())));
        let opening = self.connections.values().any(|slot| slot.phase == Phase::Opening);
        // Those that take no requests are open, but of no use: one more than is configured may be.
        let useless = useful == 0 && open <= self.config.connections;
        let wanted = open == 0 || useless || (demand == Demand::Waiting && open < self.config.connections);
        if wanted && !opening {
            self.open(now);
        }
    }

    /// A connection with room for a request: the oldest, so that those beyond the need fall idle; but not `shunned`.
    pub(super) fn room(&self, shunned: Option<u64>) -> Room {
        let mut free = self.connections.iter().filter(|(_, slot)| slot.room() > 0).map(|(id, _)| *id).peekable();
        match free.peek() {
            None => Room::Nowhere,
            Some(&first) => free.find(|id| Some(*id) != shunned).map_or(Room::OnlyThere(first), Room::On),
        }
    }

    /// Whether any connection takes requests, now or after an answer.
    pub(super) fn is_open(&self) -> bool {
        self.connections.values().any(Slot::takes)
    }

    /// Hands a request to a connection.
    pub(super) fn order(&mut self, connection: u64, order: Order, now: Instant) -> Result<(), NoTaker> {
        let slot = self.connections.get_mut(&connection).ok_or(NoTaker)?;
        let taken = slot.orders.try_send(order).map_err(|_| NoTaker);
        slot.in_flight += usize::from(taken.is_ok());
        if let Phase::Open { takes, used, .. } = &mut slot.phase {
            match taken {
                Ok(()) => *used = now,
                // Its last word is on its way here.
                Err(NoTaker) => *takes = 0,
            }
        }
        taken
    }

    /// A connection says how many requests it takes at a time.
    pub(super) fn takes(&mut self, connection: u64, count: usize, now: Instant) -> Option<Change> {
        let slot = self.connections.get_mut(&connection)?;
        match &mut slot.phase {
            Phase::Opening => {
                // Spread, so that connections that were opened together do not end together.
                let age = self.config.timing.age.mul_f64(rand::random_range(0.9..1.0));
                slot.phase = Phase::Open { takes: count, stale: now + age, used: now };
                tracing::info!(connection, streams = count, "connection takes messages");
                return Some(Change::Up);
            }
            Phase::Open { takes, .. } => {
                *takes = count;
                tracing::info!(connection, streams = count, "connection takes another number of messages");
            }
            Phase::Leaving => {}
        }
        None
    }

    /// The peer ends a connection.
    pub(super) fn leaves(&mut self, connection: u64) -> Option<Change> {
        let slot = self.connections.get_mut(&connection)?;
        let before = std::mem::replace(&mut slot.phase, Phase::Leaving);
        if before != Phase::Leaving {
            tracing::info!(connection, open = slot.in_flight, "connection is being ended by the push service");
        }
        matches!(before, Phase::Open { .. }).then_some(Change::Draining)
    }

    /// A request came to its end on a connection.
    pub(super) fn done(&mut self, connection: u64, end: End) {
        let Some(slot) = self.connections.get_mut(&connection) else { return };
        slot.in_flight = slot.in_flight.saturating_sub(1);
        match end {
            End::Answered => {
                slot.served = true;
                slot.unanswered = 0;
                self.backoff.reset();
            }
            End::Late => slot.unanswered += 1,
            End::Broken => {}
        }
        if slot.unanswered >= UNANSWERED_MAX && matches!(slot.phase, Phase::Open { .. }) {
            tracing::warn!(
                connection,
                requests = slot.unanswered,
                "no answers come on this connection: it is replaced"
            );
            slot.phase = Phase::Leaving;
            slot.retire.cancel();
        }
    }

    /// A connection is over.
    pub(super) fn ended(&mut self, connection: u64, cause: &Cause, now: Instant) -> Option<Change> {
        let slot = self.connections.remove(&connection)?;
        if slot.retire.is_cancelled() {
            tracing::info!(connection, "connection replaced");
            return None;
        }
        if !slot.served {
            // Also one that idled: FCM ends it after minutes, so the short wait does no harm.
            self.redial = now + self.backoff.next(rand::random());
        }
        let was_open = matches!(slot.phase, Phase::Open { .. });
        let server = self.server();
        match cause {
            Cause::Dismissed => {
                tracing::info!(connection, "connection was ended by the push service");
                return was_open.then_some(Change::Draining);
            }
            _ if slot.served => tracing::info!(connection, %server, %cause, "connection ended"),
            _ => tracing::warn!(connection, %server, %cause, "connection came to nothing"),
        }
        was_open.then(|| Change::Lost { detail: format!("{server}: {cause}") })
    }

    /// Where the connections go to, and which key of the configuration says so.
    pub(super) fn server(&self) -> String {
        self.api.dialer.borrow().server().to_owned()
    }

    /// Opens no more connections, and lets all of them end after their last answers.
    pub(super) fn stop(&self) {
        for slot in self.connections.values() {
            slot.retire.cancel();
        }
    }

    /// Ends what is left.
    pub(super) fn kill(&self) {
        self.kill.cancel();
    }

    /// Whether nothing runs any more.
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for the end of a task. Cancel-safe.
    pub(super) async fn join_next(&mut self) -> Option<()> {
        // A connection does not panic; if it does, so does the transport.
        self.tasks.join_next().await.map(|ended| ended.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())))
    }

    /// Connections that FCM would end soon go when there is another; extra ones that idle go as well.
    fn retire_stale(&mut self, now: Instant) {
        let mut fresh = self.connections.values().filter(|slot| slot.fresh(now, &self.config)).count();
        for (connection, slot) in &mut self.connections {
            let Phase::Open { used, .. } = slot.phase else { continue };
            let spare = slot.in_flight == 0 && now >= used + self.config.timing.spare;
            let goes = match slot.fresh(now, &self.config) {
                false => fresh > 0,
                true => spare && fresh > 1,
            };
            if goes {
                fresh -= usize::from(slot.fresh(now, &self.config));
                slot.phase = Phase::Leaving;
                slot.retire.cancel();
                tracing::debug!(connection, open = slot.in_flight, "connection retired");
            }
        }
    }

    fn open(&mut self, now: Instant) {
        self.last += 1;
        let id = self.last;
        let (orders_tx, orders) = mpsc::channel(self.config.streams);
        let retire = CancellationToken::new();
        let connection = Connection {
            id,
            start: self.redial.max(now),
            streams: self.config.streams,
            timing: self.config.timing,
            dialer: Arc::clone(&self.api.dialer.borrow()),
            uri: self.api.uri.clone(),
            orders,
            notes: self.notes.clone(),
            retire: retire.clone(),
            kill: self.kill.clone(),
        };
        self.tasks.spawn(connection.run().instrument(tracing::info_span!("connection", id)));
        let slot =
            Slot { phase: Phase::Opening, in_flight: 0, served: false, unanswered: 0, orders: orders_tx, retire };
        self.connections.insert(id, slot);
    }
}

impl Slot {
    /// Whether it takes requests, now or after an answer.
    fn takes(&self) -> bool {
        matches!(self.phase, Phase::Open { takes: 1.., .. })
    }

    fn room(&self) -> usize {
        match self.phase {
            Phase::Open { takes, .. } => takes.saturating_sub(self.in_flight),
            Phase::Opening | Phase::Leaving => 0,
        }
    }

    /// Open, and not about to be ended for its age or for idling.
    fn fresh(&self, now: Instant, config: &FcmConfig) -> bool {
        match self.phase {
            Phase::Open { stale, used, .. } => now < stale && (self.in_flight > 0 || now < used + config.timing.idle),
            Phase::Opening | Phase::Leaving => false,
        }
    }
}
