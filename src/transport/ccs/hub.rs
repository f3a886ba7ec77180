//! Between the bridge and the connections: takes messages while there is room, gives them to connections, and turns
//! what the connections say into reports.
//!
//! Nothing in here waits for the bridge: while a report has no place in the channel, the hub takes neither messages
//! nor notes, and goes on passing acknowledgements. So the two sides cannot wait for each other.

use super::CcsConfig;
use super::access::Access;
use super::connection::{Command, Note, Word};
use super::ledger::{Ledger, Settled};
use super::monitor::{Metric, Monitor};
use super::pool::{NoTaker, Pool};
use crate::ccs::event::{DrainCause, Event};
use crate::ccs::nack::NackCode;
use crate::ccs::payload;
use crate::ccs::refusal;
use crate::ccs::window::NotSent;
use crate::chat::id::{Sid, Token};
use crate::chat::push::Target;
use crate::chat::refusal::{Decision, Fault, Refusal};
use crate::ops::clock::now_ms;
use crate::transport::{AckRef, Change, Outlet, Report, Send, Upstream};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Notes that the connections may have waiting for the hub.
const NOTES: usize = 1024;
/// How often the waiting messages are looked at for an ended time to live.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// The hub; see the module.
pub(super) struct Hub {
    monitor: Arc<Monitor>,
    ledger: Ledger,
    pool: Pool,
    notes: mpsc::Receiver<Note>,
    /// Reports that the bridge has not taken yet; while there are any, little else is done.
    outbox: VecDeque<Report>,
    sends_open: bool,
    acks_open: bool,
}

/// What happened, for one turn of the hub.
enum Turn {
    Stop,
    Ack(Option<AckRef>),
    Reported,
    /// The bridge has gone.
    Deaf,
    Note(Note),
    Send(Option<Send>),
    Tick,
    TaskEnded,
}

impl Hub {
    /// A hub without connections.
    pub(super) fn new(config: CcsConfig, access: watch::Receiver<Access>) -> Self {
        let (notes_tx, notes) = mpsc::channel(NOTES);
        Self {
            monitor: Arc::clone(&config.monitor),
            ledger: Ledger::new(config.window, config.connections),
            pool: Pool::new(config, access, notes_tx),
            notes,
            outbox: VecDeque::new(),
            sends_open: true,
            acks_open: true,
        }
    }

    /// Runs until `stop`, and then until every connection has ended in good order.
    pub(super) async fn run(mut self, mut outlet: Outlet, stop: CancellationToken) {
        self.pool.start();
        self.publish(&outlet);
        let mut ticker = tokio::time::interval(EXPIRY_INTERVAL);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !(self.pool.is_stopping() && self.pool.is_empty()) {
            let free = self.outbox.is_empty();
            let room = self.ledger.has_room() || self.ledger.has_room_to_wait(outlet.sends.max_capacity());
            // Not biased: neither direction may starve the other.
            let turn = tokio::select! {
                () = stop.cancelled(), if !self.pool.is_stopping() => Turn::Stop,
                ack_ref = outlet.acks.recv(), if self.acks_open => Turn::Ack(ack_ref),
                permit = outlet.reports.reserve(), if !free => match (permit, self.outbox.pop_front()) {
                    (Ok(permit), Some(report)) => {
                        permit.send(report);
                        Turn::Reported
                    }
                    _ => Turn::Deaf,
                },
                Some(note) = self.notes.recv(), if free => Turn::Note(note),
                send = outlet.sends.recv(), if free && self.sends_open && room => Turn::Send(send),
                _ = ticker.tick(), if free => Turn::Tick,
                Some(()) = self.pool.join_next() => Turn::TaskEnded,
            };
            self.take(turn, &mut outlet);
            self.dispatch();
        }
        self.finish(outlet).await;
    }

    fn take(&mut self, turn: Turn, outlet: &mut Outlet) {
        match turn {
            Turn::Stop => self.stop(outlet),
            Turn::Deaf => {
                self.outbox.clear();
                self.stop(outlet);
            }
            Turn::Ack(Some(ack_ref)) => self.acknowledge(ack_ref),
            Turn::Ack(None) => self.acks_open = false,
            Turn::Note(note) => {
                let changes_connections = note.changes_connections();
                self.hear(note);
                if changes_connections {
                    self.publish(outlet);
                }
            }
            Turn::Send(Some(send)) => {
                let sid = send.sid;
                if !self.ledger.accept(send) {
                    tracing::error!(%sid, "message given twice");
                }
            }
            Turn::Send(None) => self.sends_open = false,
            Turn::Tick => {
                let expired = self.ledger.expire(now_ms());
                self.report_expired(expired);
            }
            Turn::Reported | Turn::TaskEnded => {}
        }
    }

    fn stop(&mut self, outlet: &mut Outlet) {
        if !self.pool.is_stopping() {
            tracing::info!(pending = self.ledger.pending(), "transport stops");
        }
        self.sends_open = false;
        outlet.sends.close();
        self.pool.stop();
    }

    /// Reports what is left, and what was never taken.
    async fn finish(mut self, mut outlet: Outlet) {
        // The bridge may wait for room for an acknowledgement; it would never read what is reported below.
        outlet.acks.close();
        while let Ok(note) = self.notes.try_recv() {
            self.hear(note);
        }
        let unsettled = std::mem::replace(&mut self.ledger, Ledger::new(0, 0)).into_unsettled();
        self.outbox.extend(unsettled.into_iter().map(|s| Report::Lost { sid: s.sid, copies: s.copies }));
        while let Some(send) = outlet.sends.recv().await {
            self.outbox.push_back(Report::Lost { sid: send.sid, copies: 0 });
        }
        let lost = self.outbox.iter().filter(|report| matches!(report, Report::Lost { .. })).count();
        self.monitor.add(Metric::Lost, lost as u64);
        self.monitor.set_pending(0);
        self.publish(&outlet);
        for report in self.outbox {
            if outlet.reports.send(report).await.is_err() {
                break;
            }
        }
        tracing::info!(lost, "transport stopped");
    }

    fn hear(&mut self, Note { connection, word }: Note) {
        match word {
            Word::Event(event) => self.on_event(connection, event),
            Word::Ended(ended) => {
                let received = self.ledger.close(connection, &ended.unwritten);
                received.into_iter().for_each(|settled| self.taken(settled));
                let change = self.pool.ended(connection, &ended);
                self.outbox.extend(change.map(|change| Report::Connection { connection, change }));
            }
        }
    }

    fn on_event(&mut self, connection: u64, event: Event) {
        match event {
            Event::Ready { jid } => {
                self.ledger.open(connection);
                self.pool.ready(connection, &jid);
                self.outbox.push_back(Report::Connection { connection, change: Change::Up });
            }
            Event::Draining(cause) => self.on_draining(connection, cause),
            Event::Acked { message_id, canonical } => self.on_acked(&message_id, canonical),
            Event::Nacked { message_id, code, error, description } => {
                self.monitor.add_nack(code);
                let Some(settled) = self.settle(&message_id) else { return };
                let refusal = refusal::of_nack(code, &error, &description, token(&settled.target));
                self.refuse(&settled, refusal);
            }
            Event::Rejected { message_id, rejection, condition, text } => {
                self.monitor.add(Metric::Rejected, 1);
                let Some(settled) = self.settle(&message_id) else { return };
                let refusal = refusal::of_rejection(rejection, condition, &text, token(&settled.target));
                self.refuse(&settled, refusal);
            }
            Event::Bounced { message_id } => {
                self.monitor.add_nack(NackCode::ConnectionDraining);
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

    fn on_draining(&mut self, connection: u64, cause: DrainCause) {
        self.ledger.drain(connection);
        self.pool.draining(connection, cause);
        self.outbox.push_back(Report::Connection { connection, change: Change::Draining });
    }

    fn on_acked(&mut self, message_id: &str, canonical: Option<String>) {
        let Some(settled) = self.settle(message_id) else { return };
        self.monitor.add(Metric::Accepted, 1);
        let canonical = canonical.and_then(|token| Token::new(token).ok());
        self.outbox.push_back(accepted(settled, canonical));
    }

    fn on_upstream(&mut self, connection: u64, upstream: payload::Upstream) {
        let ack_ref = AckRef { connection, to: upstream.from.clone(), message_id: upstream.message_id.clone() };
        let Ok(from) = Token::new(upstream.from) else {
            self.monitor.add(Metric::Malformed, 1);
            tracing::warn!(connection, "upstream message from an impossible token left unacknowledged");
            return;
        };
        self.monitor.add(Metric::Upstream, 1);
        let payload::Upstream { category, message_id, data, .. } = upstream;
        self.outbox.push_back(Report::Upstream(Upstream { from, category, message_id, data, ack_ref }));
    }

    fn on_receipt(&mut self, connection: u64, receipt: payload::Receipt) {
        self.monitor.add(Metric::Receipts, 1);
        // Its data is optional; the id is then all that is left to tell what it is about.
        let from_id = receipt.message_id.strip_prefix("dr2:").unwrap_or(&receipt.message_id).to_owned();
        let original = receipt.original_message_id.unwrap_or(from_id);
        let sid = Sid::parse(&original);
        if let Some(settled) = sid.and_then(|sid| self.ledger.received(sid)) {
            self.taken(settled);
        }
        self.outbox.push_back(Report::Receipt {
            copies: sid.map_or(0, |sid| self.ledger.copies(sid)),
            original,
            status: receipt.status.unwrap_or_default(),
            sent_at_ms: receipt.sent_at_ms,
            ack_ref: AckRef { connection, to: receipt.from, message_id: receipt.message_id },
        });
    }

    /// The push service took a message, as a receipt shows; its answer is lost.
    fn taken(&mut self, settled: Settled) {
        self.monitor.add(Metric::Accepted, 1);
        self.outbox.push_back(accepted(settled, None));
    }

    /// An acknowledgement counts only on its own connection; without that, what it is for comes again.
    fn acknowledge(&mut self, ack_ref: AckRef) {
        let connection = ack_ref.connection;
        match self.pool.order(connection, Command::Ack(ack_ref)) {
            Ok(()) => self.monitor.add(Metric::Acks, 1),
            Err(NoTaker) => {
                self.monitor.add(Metric::StaleAcks, 1);
                tracing::debug!(connection, "acknowledgement for a connection that is gone");
            }
        }
    }

    fn dispatch(&mut self) {
        if !self.pool.is_stopping() {
            let dispatch = self.ledger.dispatch(now_ms());
            self.monitor.add(Metric::Sent, dispatch.orders.len() as u64);
            self.monitor.add(Metric::Resent, dispatch.resends);
            for (connection, order) in dispatch.orders {
                let sid = order.sid;
                tracing::debug!(connection, %sid, "message sent");
                if let Err(NoTaker) = self.pool.order(connection, Command::Send(order)) {
                    self.ledger.drain(connection);
                    self.ledger.take_back_unwritten(sid);
                }
            }
            self.report_expired(dispatch.expired);
        }
        self.monitor.set_pending(self.ledger.pending());
    }

    fn settle(&mut self, message_id: &str) -> Option<Settled> {
        self.ledger.settle(Sid::parse(message_id)?)
    }

    fn take_back(&mut self, message_id: &str) {
        if let Some(sid) = Sid::parse(message_id) {
            self.ledger.take_back(sid);
        }
    }

    fn refuse(&mut self, &Settled { sid, copies, replays, .. }: &Settled, refusal: Refusal) {
        let code = &refusal.code;
        if matches!(refusal.decision, Decision::Fail { fault: Fault::Operator, .. }) {
            tracing::error!(%sid, code, "message refused, the push service's settings need a look");
        } else {
            tracing::debug!(%sid, code, decision = ?refusal.decision, "message refused");
        }
        self.outbox.push_back(Report::Refused { sid, refusal, copies, replays });
    }

    fn report_expired(&mut self, expired: Vec<Settled>) {
        self.monitor.add(Metric::Expired, expired.len() as u64);
        let report = |Settled { sid, copies, replays, .. }| Report::Expired { sid, copies, replays, held: None };
        self.outbox.extend(expired.into_iter().map(report));
    }

    fn publish(&self, outlet: &Outlet) {
        let link = self.pool.link();
        outlet.link.send_if_modified(|old| std::mem::replace(old, link) != link);
        self.monitor.set_connections(self.pool.states());
    }
}

fn token(target: &Target) -> Option<&str> {
    match target {
        Target::Token(token) => Some(token.reveal()),
        Target::Topic(_) | Target::Condition(_) => None,
    }
}

fn accepted(Settled { sid, copies, replays, .. }: Settled, canonical: Option<Token>) -> Report {
    Report::Accepted { sid, canonical, provider_id: None, detail: None, copies, replays }
}
