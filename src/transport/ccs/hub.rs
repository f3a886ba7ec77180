//! Between the bridge and the connections: takes messages while there is room, gives them to connections, and turns
//! what the connections say into reports.
//!
//! Nothing in here waits for the bridge: while a report has no place in the channel, the hub takes neither messages
//! nor notes, and goes on passing acknowledgements. So the two sides cannot wait for each other.

use super::CcsConfig;
use super::connection::{Cause, Command, Connection, Ended, Note, Word};
use super::dial::Dialer;
use super::ledger::{Ledger, Settled};
use super::monitor::{ConnectionPhase, ConnectionState, Metric, Monitor};
use super::refusal;
use super::slots::{Outcome, Pacer, Slot};
use crate::ccs::event::{Event, Reason};
use crate::ccs::payload;
use crate::ccs::window::NotSent;
use crate::chat::id::{Sid, Token};
use crate::ops::clock::now_ms;
use crate::transport::{Link, Outlet, Refusal, Report, Send, Tag, Upstream};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Notes that the connections may have waiting for the hub.
const NOTES: usize = 1024;
/// Acknowledgements that may wait for one connection; with more, its peer does not read and it is given up.
const ACKS: usize = 8192;
/// Connections that one connection may have draining beside it; no further one is opened before one of them ends.
const DRAINING_MAX: usize = 4;
/// How often the waiting messages are looked at for an ended time to live.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// The hub; see the module.
pub(super) struct Hub {
    config: CcsConfig,
    dialer: Arc<Dialer>,
    monitor: Arc<Monitor>,
    ledger: Ledger,
    /// One for each connection that is to be kept.
    slots: Vec<Seat>,
    links: HashMap<u64, Peer>,
    pacer: Pacer,
    last_connection: u64,
    /// Part of every resource, so that two bridges do not drive each other out.
    mark: u32,
    outbox: VecDeque<Report>,
    notes: mpsc::Sender<Note>,
    tasks: JoinSet<()>,
    stop: CancellationToken,
    auth_failed: bool,
}

/// One of the connections that are to be kept.
struct Seat {
    slot: Slot,
    current: Option<u64>,
    draining: usize,
}

/// A connection as the hub knows it.
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

/// What happened, for one turn of the hub.
enum Turn {
    Stop,
    Ack(Option<Tag>),
    Room,
    Note(Note),
    Send(Option<Send>),
    Tick,
    TaskEnded,
}

/// Which of the bridge's channels are still of use.
struct Intake {
    sends: bool,
    acks: bool,
}

impl Hub {
    pub(super) fn new(config: CcsConfig, dialer: Dialer) -> (Self, mpsc::Receiver<Note>) {
        let (notes, notes_rx) = mpsc::channel(NOTES);
        let seat = |_| Seat { slot: Slot::new(), current: None, draining: 0 };
        let hub = Self {
            dialer: Arc::new(dialer),
            monitor: Arc::clone(&config.monitor),
            ledger: Ledger::new(config.window, config.connections),
            slots: (0..config.connections).map(seat).collect(),
            links: HashMap::new(),
            pacer: Pacer::default(),
            last_connection: 0,
            mark: rand::random(),
            outbox: VecDeque::new(),
            notes,
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            auth_failed: false,
            config,
        };
        (hub, notes_rx)
    }

    /// Runs until `stop`, and then until every connection has ended in good order.
    pub(super) async fn run(mut self, mut outlet: Outlet, mut notes: mpsc::Receiver<Note>, stop: CancellationToken) {
        for seat in 0..self.slots.len() {
            self.fill(seat, Duration::ZERO);
        }
        let mut intake = Intake { sends: true, acks: true };
        let mut ticker = tokio::time::interval(EXPIRY_INTERVAL);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(self.stop.is_cancelled() && self.tasks.is_empty()) {
            let idle = self.outbox.is_empty();
            let turn = tokio::select! {
                biased;
                () = stop.cancelled(), if !self.stop.is_cancelled() => Turn::Stop,
                tag = outlet.acks.recv(), if intake.acks => Turn::Ack(tag),
                permit = outlet.reports.reserve(), if !idle => match (permit, self.outbox.pop_front()) {
                    (Ok(permit), Some(report)) => {
                        permit.send(report);
                        Turn::Room
                    }
                    // Nobody is left to report to.
                    _ => Turn::Stop,
                },
                Some(note) = notes.recv(), if idle => Turn::Note(note),
                send = outlet.sends.recv(), if idle && intake.sends && self.ledger.has_room() => Turn::Send(send),
                _ = ticker.tick(), if idle => Turn::Tick,
                Some(ended) = self.tasks.join_next() => {
                    // A connection does not panic; if it does, so does the transport.
                    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                    Turn::TaskEnded
                }
            };
            self.take(turn, &mut intake, &mut outlet);
            self.dispatch();
            self.publish(&outlet);
        }
        self.finish(outlet, notes).await;
    }

    fn take(&mut self, turn: Turn, intake: &mut Intake, outlet: &mut Outlet) {
        match turn {
            Turn::Stop => {
                tracing::info!(pending = self.ledger.pending(), "transport stops");
                intake.sends = false;
                outlet.sends.close();
                self.stop.cancel();
            }
            Turn::Ack(Some(tag)) => self.acknowledge(tag),
            Turn::Ack(None) => intake.acks = false,
            Turn::Note(Note { connection, word: Word::Event(event) }) => self.on_event(connection, event),
            Turn::Note(Note { connection, word: Word::Ended(ended) }) => self.on_ended(connection, ended),
            Turn::Send(Some(send)) => {
                let sid = send.sid;
                if !self.ledger.accept(send) {
                    tracing::error!(%sid, "message given twice");
                }
            }
            Turn::Send(None) => intake.sends = false,
            Turn::Tick => {
                let expired = self.ledger.expire(now_ms());
                self.report_expired(expired);
            }
            Turn::Room | Turn::TaskEnded => {}
        }
    }

    /// Reports what is left, and what was never taken.
    async fn finish(mut self, mut outlet: Outlet, mut notes: mpsc::Receiver<Note>) {
        while let Ok(note) = notes.try_recv() {
            match note.word {
                Word::Event(event) => self.on_event(note.connection, event),
                Word::Ended(ended) => self.on_ended(note.connection, ended),
            }
        }
        let unsettled = std::mem::replace(&mut self.ledger, Ledger::new(0, 0)).into_unsettled();
        let lost = unsettled.len();
        self.monitor.add(Metric::Lost, lost as u64);
        self.outbox.extend(unsettled.into_iter().map(|s| Report::Lost { sid: s.sid, copies: s.copies }));
        outlet.sends.close();
        while let Some(send) = outlet.sends.recv().await {
            self.outbox.push_back(Report::Lost { sid: send.sid, copies: 0 });
        }
        self.publish(&outlet);
        for report in self.outbox {
            if outlet.reports.send(report).await.is_err() {
                break;
            }
        }
        tracing::info!(lost, "transport stopped");
    }

    /// Opens a connection in a seat that has none.
    fn fill(&mut self, seat: usize, delay: Duration) {
        let entry = &mut self.slots[seat];
        if self.stop.is_cancelled() || entry.current.is_some() || entry.draining >= DRAINING_MAX {
            return;
        }
        self.last_connection += 1;
        let id = self.last_connection;
        entry.current = Some(id);
        self.monitor.add(Metric::Dials, 1);
        let (orders, orders_rx) = mpsc::channel(self.config.window + ACKS);
        let kill = CancellationToken::new();
        let connection = Connection {
            id,
            start: self.pacer.start(tokio::time::Instant::now().into_std(), delay),
            session: self.config.session(&format!("{:08x}-{id}", self.mark)),
            dialer: Arc::clone(&self.dialer),
            orders: orders_rx,
            notes: self.notes.clone(),
            stop: self.stop.clone(),
            kill: kill.clone(),
        };
        self.links.insert(id, Peer { seat, phase: Phase::Opening, orders, kill });
        self.tasks.spawn(connection.run().instrument(tracing::info_span!("ccs", connection = id)));
    }

    fn on_event(&mut self, connection: u64, event: Event) {
        match event {
            Event::Ready { jid } => self.on_ready(connection, &jid),
            Event::Draining(cause) => self.on_draining(connection, cause),
            Event::Acked { message_id, canonical } => {
                let Some(settled) = self.settle(&message_id) else { return };
                self.monitor.add(Metric::Accepted, 1);
                let canonical = canonical.and_then(|token| Token::new(token).ok());
                self.outbox.push_back(Report::Accepted { sid: settled.sid, canonical, copies: settled.copies });
            }
            Event::Nacked { message_id, code, error, description } => {
                self.monitor.add_nack(code);
                let Some(settled) = self.settle(&message_id) else { return };
                let code_text = refusal::code_text(code, &error, &settled.target);
                self.refuse(settled, refusal::of_nack(code), code_text, &description);
            }
            Event::Rejected { message_id, rejection, condition, text } => {
                self.monitor.add(Metric::Rejected, 1);
                let Some(settled) = self.settle(&message_id) else { return };
                self.refuse(settled, refusal::of_rejection(rejection), condition, &text);
            }
            Event::Bounced { message_id } => {
                self.monitor.add(Metric::Bounced, 1);
                self.take_back(&message_id);
            }
            Event::NotSent { message_id, reason: NotSent::NoRoom } => self.take_back(&message_id),
            Event::NotSent { reason: NotSent::Duplicate, .. } => {
                tracing::error!(connection, "message given to a connection twice");
            }
            Event::Upstream(upstream) => self.on_upstream(connection, upstream),
            Event::Receipt(receipt) => self.on_receipt(connection, receipt),
            // A connection keeps the end of its session to itself and says `Ended`.
            Event::Closed(_) => {}
        }
    }

    fn on_ready(&mut self, connection: u64, jid: &str) {
        let Some(peer) = self.links.get_mut(&connection) else { return };
        peer.phase = Phase::Up { since: tokio::time::Instant::now().into_std() };
        self.ledger.open(connection);
        self.auth_failed = false;
        self.monitor.add(Metric::Connects, 1);
        tracing::info!(connection, jid, "connection takes messages");
    }

    fn on_draining(&mut self, connection: u64, cause: crate::ccs::event::DrainCause) {
        let Some(peer) = self.links.get_mut(&connection) else { return };
        let served = peer.served();
        peer.phase = Phase::Draining;
        let seat = peer.seat;
        self.ledger.drain(connection);
        self.monitor.add(Metric::Drains, 1);
        tracing::info!(connection, ?cause, "connection is draining");
        let entry = &mut self.slots[seat];
        entry.draining += 1;
        entry.current = None;
        let delay = entry.slot.delay(Outcome::Served(served), rand::random());
        self.fill(seat, delay);
    }

    fn on_ended(&mut self, connection: u64, ended: Ended) {
        let Some(peer) = self.links.remove(&connection) else { return };
        self.ledger.close(connection, &ended.unwritten);
        self.count(&ended);
        let refused = matches!(ended.cause, Cause::Session(Reason::AuthFailed { .. }));
        self.auth_failed |= refused;
        let entry = &mut self.slots[peer.seat];
        let delay = if peer.phase == Phase::Draining {
            entry.draining -= 1;
            Duration::ZERO
        } else {
            entry.current = None;
            let outcome = match (refused, ended.authenticated) {
                (true, _) => Outcome::Refused,
                (false, true) => Outcome::Served(peer.served()),
                (false, false) => Outcome::Failed,
            };
            entry.slot.delay(outcome, rand::random())
        };
        log_end(connection, peer.phase, &ended, delay);
        self.fill(peer.seat, delay);
    }

    fn count(&self, ended: &Ended) {
        let counters = &ended.counters;
        self.monitor.add(Metric::Disconnects, 1);
        self.monitor.add(Metric::BadAcks, counters.bad_acks);
        self.monitor.add(Metric::UnknownAnswers, counters.unknown_answers);
        self.monitor.add(Metric::Malformed, counters.malformed);
        self.monitor.add(Metric::Oversize, counters.oversize);
        self.monitor.add(Metric::Pings, counters.pings);
        if let Cause::Session(Reason::AuthFailed { .. }) = ended.cause {
            self.monitor.add(Metric::AuthFailures, 1);
        }
    }

    fn on_upstream(&mut self, connection: u64, upstream: payload::Upstream) {
        let tag = Tag { connection, to: upstream.from.clone(), message_id: upstream.message_id.clone() };
        let Ok(from) = Token::new(upstream.from) else {
            self.monitor.add(Metric::Malformed, 1);
            tracing::warn!(connection, "upstream message from an impossible token left unacknowledged");
            return;
        };
        self.monitor.add(Metric::Upstream, 1);
        let payload::Upstream { category, message_id, data, .. } = upstream;
        self.outbox.push_back(Report::Upstream(Upstream { from, category, message_id, data, tag }));
    }

    fn on_receipt(&mut self, connection: u64, receipt: payload::Receipt) {
        self.monitor.add(Metric::Receipts, 1);
        let own_id = receipt.message_id.strip_prefix("dr2:").unwrap_or(&receipt.message_id).to_owned();
        self.outbox.push_back(Report::Receipt {
            original: receipt.original_message_id.unwrap_or(own_id),
            status: receipt.status.unwrap_or_default(),
            sent_at_ms: receipt.sent_at_ms,
            tag: Tag { connection, to: receipt.from, message_id: receipt.message_id },
        });
    }

    /// An acknowledgement counts only on its own connection; without that, what it is for comes again.
    fn acknowledge(&mut self, tag: Tag) {
        let connection = tag.connection;
        match self.order(connection, Command::Ack(tag)) {
            Ok(()) => self.monitor.add(Metric::Acks, 1),
            Err(NoTaker) => {
                self.monitor.add(Metric::StaleAcks, 1);
                tracing::debug!(connection, "acknowledgement for a connection that is gone");
            }
        }
    }

    fn dispatch(&mut self) {
        if !self.stop.is_cancelled() {
            let dispatch = self.ledger.dispatch(now_ms());
            self.monitor.add(Metric::Sent, dispatch.orders.len() as u64);
            self.monitor.add(Metric::Resent, dispatch.resends);
            for (connection, order) in dispatch.orders {
                let sid = order.sid;
                tracing::debug!(connection, %sid, "message sent");
                if self.order(connection, Command::Send(order)).is_err() {
                    self.ledger.drain(connection);
                    self.ledger.take_back(sid);
                }
            }
            self.report_expired(dispatch.expired);
        }
        self.monitor.set_pending(self.ledger.pending());
    }

    /// Gives a command to a connection without waiting. One that takes nothing any more is given up.
    fn order(&mut self, connection: u64, command: Command) -> Result<(), NoTaker> {
        let peer = self.links.get(&connection).ok_or(NoTaker)?;
        match peer.orders.try_send(command) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(NoTaker),
            Err(mpsc::error::TrySendError::Full(_)) => {
                peer.kill.cancel();
                Err(NoTaker)
            }
        }
    }

    fn settle(&mut self, message_id: &str) -> Option<Settled> {
        self.ledger.settle(Sid::parse(message_id)?)
    }

    fn take_back(&mut self, message_id: &str) {
        if let Some(sid) = Sid::parse(message_id) {
            self.ledger.take_back(sid);
        }
    }

    fn refuse(&mut self, settled: Settled, refusal: Refusal, code: String, text: &str) {
        if refusal == Refusal::Operator {
            tracing::error!(sid = %settled.sid, code, "message refused, the push service's settings need a look");
        } else {
            tracing::debug!(sid = %settled.sid, code, ?refusal, "message refused");
        }
        let detail = refusal::detail_text(text, &settled.target);
        self.outbox.push_back(Report::Refused { sid: settled.sid, refusal, code, detail, copies: settled.copies });
    }

    fn report_expired(&mut self, expired: Vec<Settled>) {
        self.monitor.add(Metric::Expired, expired.len() as u64);
        self.outbox.extend(expired.into_iter().map(|settled| Report::Refused {
            sid: settled.sid,
            refusal: Refusal::Expired,
            code: "EXPIRED".to_owned(),
            detail: "the time to live ended before the message could be sent".to_owned(),
            copies: settled.copies,
        }));
    }

    fn publish(&self, outlet: &Outlet) {
        let is_up = |peer: &Peer| matches!(peer.phase, Phase::Up { .. });
        let link = if self.links.values().any(is_up) {
            Link::Up
        } else if self.links.values().any(|peer| peer.phase == Phase::Draining) {
            Link::Draining
        } else {
            Link::Down { auth_failed: self.auth_failed }
        };
        outlet.link.send_if_modified(|old| std::mem::replace(old, link) != link);
        let state = |seat: &Seat| ConnectionState {
            phase: match seat.current.and_then(|id| self.links.get(&id)) {
                None => ConnectionPhase::Stopped,
                Some(peer) if is_up(peer) => ConnectionPhase::Up,
                Some(_) => ConnectionPhase::Connecting,
            },
            draining: seat.draining,
        };
        self.monitor.set_connections(self.slots.iter().map(state).collect());
    }
}

/// Nobody takes the command: the connection is gone, or as good as gone.
struct NoTaker;

impl Peer {
    fn served(&self) -> Duration {
        match self.phase {
            Phase::Up { since } => tokio::time::Instant::now().into_std().saturating_duration_since(since),
            Phase::Opening | Phase::Draining => Duration::ZERO,
        }
    }
}

/// A connection's summary. Only what nobody expects is a warning.
fn log_end(connection: u64, phase: Phase, ended: &Ended, delay: Duration) {
    let Ended { cause, counters, .. } = ended;
    let next_ms = delay.as_millis();
    match cause {
        Cause::Session(Reason::AuthFailed { .. } | Reason::PlainNotOffered { .. }) => {
            tracing::error!(connection, %cause, next_ms, "the push service refuses the login");
        }
        Cause::Session(Reason::Shutdown) => tracing::info!(connection, ?counters, "connection closed"),
        Cause::Session(Reason::PeerClosed | Reason::Cut) if phase == Phase::Draining => {
            tracing::info!(connection, ?counters, "draining connection closed by the peer");
        }
        cause => tracing::warn!(connection, %cause, ?counters, next_ms, "connection lost"),
    }
}
