//! The connections that are kept: opens them, replaces those that end or drain, and passes them commands.

use super::CcsConfig;
use super::access::Access;
use super::connection::{Cause, Command, Connection, Ended, Note};
use super::monitor::{ConnectionPhase, ConnectionState, Metric};
use super::redial::{Outcome, Pacer, Slot};
use crate::ccs::event::{DrainCause, Reason};
use crate::transport::{Change, Link, Outage};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Acknowledgements that may wait for one connection; with more, its peer does not read and it is given up.
const ACKS: usize = 8192;
/// Connections that one connection may have draining beside it; no further one is opened before one of them ends.
const DRAINING_MAX: usize = 4;

/// The connections that are kept.
pub(super) struct Pool {
    config: CcsConfig,
    access: watch::Receiver<Access>,
    /// One for each connection that is to be kept.
    seats: Vec<Seat>,
    links: HashMap<u64, Peer>,
    pacer: Pacer,
    last_connection: u64,
    /// Part of every resource, so that two bridges do not drive each other out.
    mark: u32,
    notes: mpsc::Sender<Note>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
    auth_failed: bool,
}

/// The place of one connection that is to be kept.
struct Seat {
    slot: Slot,
    current: Option<u64>,
    draining: usize,
}

/// A connection that exists or is being opened.
struct Peer {
    seat: usize,
    phase: Phase,
    orders: mpsc::Sender<Command>,
    kill: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Up { since: Instant },
    Draining,
}

/// Nobody takes the command: the connection is gone, or as good as gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoTaker;

impl Pool {
    /// A roster without connections; they report to `notes`.
    pub(super) fn new(config: CcsConfig, access: watch::Receiver<Access>, notes: mpsc::Sender<Note>) -> Self {
        let seat = |_| Seat { slot: Slot::new(), current: None, draining: 0 };
        Self {
            access,
            seats: (0..config.connections).map(seat).collect(),
            links: HashMap::new(),
            pacer: Pacer::default(),
            last_connection: 0,
            mark: rand::random(),
            notes,
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            auth_failed: false,
            config,
        }
    }

    /// Opens all connections.
    pub(super) fn start(&mut self) {
        for seat in 0..self.seats.len() {
            self.fill(seat, Duration::ZERO);
        }
    }

    /// Lets all connections end in good order, and opens no more.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether [`Pool::stop`] was called.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
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

    /// A connection is logged in.
    pub(super) fn ready(&mut self, connection: u64, jid: &str) {
        let Some(peer) = self.links.get_mut(&connection) else { return };
        peer.phase = Phase::Up { since: now() };
        self.auth_failed = false;
        self.config.monitor.add(Metric::Connects, 1);
        tracing::info!(connection, jid, "connection takes messages");
    }

    /// A connection is draining: opens the next one beside it.
    pub(super) fn draining(&mut self, connection: u64, cause: DrainCause) {
        let Some(peer) = self.links.get_mut(&connection) else { return };
        let served = peer.served();
        peer.phase = Phase::Draining;
        self.config.monitor.add(Metric::Drains, 1);
        tracing::info!(connection, ?cause, "connection is draining");
        let index = peer.seat;
        let seat = &mut self.seats[index];
        seat.draining += 1;
        seat.current = None;
        let delay = seat.slot.delay(Outcome::Served(served), rand::random());
        self.fill(index, delay);
    }

    /// A connection is over: opens the next one, unless it has been replaced already. Yields what an operator may want
    /// to hear of it: attempts that fail before the login are in the log, and a drain was told.
    pub(super) fn ended(&mut self, connection: u64, ended: &Ended) -> Option<Change> {
        let peer = self.links.remove(&connection)?;
        self.config.monitor.add(Metric::Disconnects, 1);
        let refused = matches!(ended.cause, Cause::Session(Reason::AuthFailed { .. }));
        if refused {
            self.auth_failed = true;
            self.config.monitor.add(Metric::AuthFailures, 1);
        }
        let (version, dialer) = {
            let now = self.access.borrow();
            (now.version, Arc::clone(&now.dialer))
        };
        let seat = &mut self.seats[peer.seat];
        let delay = if peer.phase == Phase::Draining {
            seat.draining -= 1;
            Duration::ZERO
        } else {
            seat.current = None;
            let outcome = match (refused, ended.authenticated) {
                (true, _) => Outcome::Refused,
                (false, true) => Outcome::Served(peer.served()),
                (false, false) => Outcome::Failed,
            };
            let delay = seat.slot.delay(outcome, rand::random());
            // What failed with the files of before says nothing of those that were read meanwhile.
            if ended.access < version { Duration::ZERO } else { delay }
        };
        log_end((connection, dialer.server()), peer.phase, ended, delay);
        self.fill(peer.seat, delay);
        let detail = format!("{}: {}", dialer.server(), ended.cause);
        match peer.phase {
            _ if self.is_stopping() => None,
            _ if refused => Some(Change::AuthFailed { detail }),
            Phase::Up { .. } => Some(Change::Lost { detail }),
            Phase::Opening | Phase::Draining => None,
        }
    }

    /// Gives a command to a connection without waiting.
    pub(super) fn order(&mut self, connection: u64, command: Command) -> Result<(), NoTaker> {
        let peer = self.links.get(&connection).ok_or(NoTaker)?;
        peer.orders.try_send(command).map_err(|error| {
            if let mpsc::error::TrySendError::Full(_) = error {
                peer.kill.cancel();
            }
            NoTaker
        })
    }

    /// How all of them together stand.
    pub(super) fn link(&self) -> Link {
        let any = |wanted: fn(&Peer) -> bool| self.links.values().any(wanted);
        if any(Peer::is_up) {
            Link::Up
        } else if any(|peer| peer.phase == Phase::Draining) {
            Link::Draining
        } else {
            Link::Down(if self.auth_failed { Outage::AUTH_FAILED } else { Outage::Unconnected })
        }
    }

    /// How each of them stands.
    pub(super) fn states(&self) -> Vec<ConnectionState> {
        let state = |seat: &Seat| ConnectionState {
            phase: match seat.current.and_then(|id| self.links.get(&id)) {
                None => ConnectionPhase::Stopped,
                Some(peer) if peer.is_up() => ConnectionPhase::Up,
                Some(_) => ConnectionPhase::Connecting,
            },
            draining: seat.draining,
        };
        self.seats.iter().map(state).collect()
    }

    /// Opens a connection on a seat that has none.
    fn fill(&mut self, index: usize, delay: Duration) {
        let seat = &mut self.seats[index];
        if self.stop.is_cancelled() || seat.current.is_some() || seat.draining >= DRAINING_MAX {
            return;
        }
        self.last_connection += 1;
        let id = self.last_connection;
        seat.current = Some(id);
        self.config.monitor.add(Metric::Dials, 1);
        let (orders, orders_rx) = mpsc::channel(self.config.window + ACKS);
        let kill = CancellationToken::new();
        let mut access = self.access.clone();
        access.mark_unchanged();
        let version = access.borrow().version;
        let connection = Connection {
            id,
            start: self.pacer.start(now(), delay),
            session: self.config.session(&format!("{:08x}-{id}", self.mark)),
            access,
            pace: Pacer::apart(index),
            version,
            monitor: Arc::clone(&self.config.monitor),
            orders: orders_rx,
            notes: self.notes.clone(),
            stop: self.stop.clone(),
            kill: kill.clone(),
        };
        self.links.insert(id, Peer { seat: index, phase: Phase::Opening, orders, kill });
        self.tasks.spawn(connection.run().instrument(tracing::info_span!("ccs", connection = id)));
    }
}

impl Peer {
    fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    fn served(&self) -> Duration {
        match self.phase {
            Phase::Up { since } => now().saturating_duration_since(since),
            Phase::Opening | Phase::Draining => Duration::ZERO,
        }
    }
}

/// A connection's summary. Only what nobody expects is a warning.
fn log_end((connection, server): (u64, &str), phase: Phase, ended: &Ended, delay: Duration) {
    let Ended { cause, counters, .. } = ended;
    let next_ms = delay.as_millis();
    match (phase, cause) {
        (_, Cause::Session(Reason::AuthFailed { .. } | Reason::PlainNotOffered { .. })) => {
            tracing::error!(connection, %server, %cause, next_ms, "the push service refuses the login");
        }
        (_, Cause::Session(Reason::Shutdown)) => tracing::info!(connection, ?counters, "connection closed"),
        (Phase::Draining, Cause::Session(Reason::PeerClosed | Reason::Cut)) => {
            tracing::info!(connection, ?counters, "draining connection closed by the peer");
        }
        (Phase::Opening, cause) => tracing::warn!(connection, %server, %cause, next_ms, "connection failed"),
        (_, cause) => tracing::warn!(connection, %server, %cause, ?counters, next_ms, "connection lost"),
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
