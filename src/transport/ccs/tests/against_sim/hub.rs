//! The hub and the roster without tasks: the real ledger, slots and pacer, and what the two do with them. Mirrors
//! `hub.rs` and `pool.rs`, whose own logic is bound to channels and sockets.

use super::pipe::Weather;
use crate::ccs::event::{Event, Reason};
use crate::ccs::window::NotSent;
use crate::chat::id::Sid;
use crate::transport::ccs::connection::Command;
use crate::transport::ccs::ledger::Ledger;
use crate::transport::ccs::redial::{Outcome, Pacer, Slot};
use crate::transport::{AckRef, Send};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// As in `pool.rs`.
const DRAINING_MAX: usize = 4;

/// What a connection tells the hub.
pub(super) enum Word {
    Event(Event),
    Ended { reason: Option<Reason>, authenticated: bool, unwritten: Vec<Sid> },
}

/// What the hub wants of the world.
pub(super) enum Wish {
    /// Open a connection of this number at this time.
    Dial(u64, Instant),
    /// Give a connection a command; it comes back with [`Hub::refused`] if that one is gone.
    Order(u64, Command),
    /// Something came in; to be acknowledged once it is safe.
    Arrived(Arrival),
}

/// Something that came in.
pub(super) struct Arrival {
    pub(super) ack_ref: AckRef,
    /// The message that a receipt is about.
    pub(super) original: Option<String>,
}

/// The one answer to a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    Accepted { copies: u32 },
    Refused { copies: u32 },
    Lost { copies: u32 },
}

pub(super) struct Hub {
    pub(super) ledger: Ledger,
    seats: Vec<Seat>,
    /// The seat and the phase of each connection.
    links: BTreeMap<u64, (usize, Phase)>,
    pacer: Pacer,
    last_connection: u64,
    stopping: bool,
    pub(super) reports: BTreeMap<Sid, Report>,
    pub(super) wishes: VecDeque<Wish>,
}

struct Seat {
    slot: Slot,
    current: Option<u64>,
    draining: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Up(Instant),
    Draining,
}

impl Hub {
    pub(super) fn new(window: usize, connections: usize, at: Instant) -> Self {
        let seat = |_| Seat { slot: Slot::new(), current: None, draining: 0 };
        let mut hub = Self {
            ledger: Ledger::new(window, connections),
            seats: (0..connections).map(seat).collect(),
            links: BTreeMap::new(),
            pacer: Pacer::default(),
            last_connection: 0,
            stopping: false,
            reports: BTreeMap::new(),
            wishes: VecDeque::new(),
        };
        for seat in 0..connections {
            hub.fill(seat, Duration::ZERO, at);
        }
        hub
    }

    pub(super) fn accept(&mut self, send: Send, now_ms: u64) {
        assert!(self.ledger.accept(send), "the test sends an id twice");
        self.dispatch(now_ms);
    }

    pub(super) fn hear(&mut self, connection: u64, word: Word, at: Instant, now_ms: u64, weather: &mut Weather) {
        match word {
            Word::Event(event) => self.on_event(connection, event, at, weather),
            Word::Ended { reason, authenticated, unwritten } => {
                self.ledger.close(connection, &unwritten);
                self.ended(connection, reason, authenticated, at, weather);
            }
        }
        self.dispatch(now_ms);
    }

    fn on_event(&mut self, connection: u64, event: Event, at: Instant, weather: &mut Weather) {
        match event {
            Event::Ready { .. } => {
                self.ledger.open(connection);
                self.links.get_mut(&connection).expect("a known connection").1 = Phase::Up(at);
            }
            Event::Draining(_) => {
                self.ledger.drain(connection);
                let (seat, phase) = self.links.get_mut(&connection).expect("a known connection");
                let Phase::Up(since) = std::mem::replace(phase, Phase::Draining) else { panic!("drains in {phase:?}") };
                let index = *seat;
                let seat = &mut self.seats[index];
                seat.draining += 1;
                seat.current = None;
                let delay = seat.slot.delay(Outcome::Served(at - since), weather.part());
                self.fill(index, delay, at);
            }
            Event::Acked { message_id, .. } => self.settle(&message_id, |copies| Report::Accepted { copies }),
            Event::Nacked { message_id, .. } | Event::Rejected { message_id, .. } => {
                self.settle(&message_id, |copies| Report::Refused { copies });
            }
            Event::Bounced { message_id } | Event::NotSent { message_id, reason: NotSent::NoRoom } => {
                self.ledger.take_back(Sid::parse(&message_id).expect("an id of ours"));
            }
            Event::NotSent { reason: NotSent::Duplicate, .. } => panic!("a message was given to a connection twice"),
            Event::Upstream(upstream) => {
                let ack_ref = AckRef { connection, to: upstream.from, message_id: upstream.message_id };
                self.wishes.push_back(Wish::Arrived(Arrival { ack_ref, original: None }));
            }
            Event::Receipt(receipt) => {
                let ack_ref = AckRef { connection, to: receipt.from, message_id: receipt.message_id };
                let original = receipt.original_message_id;
                assert!(original.is_some(), "the simulator's receipts name their message");
                self.wishes.push_back(Wish::Arrived(Arrival { ack_ref, original }));
            }
            Event::Closed(_) => {}
        }
    }

    fn ended(
        &mut self,
        connection: u64,
        reason: Option<Reason>,
        authenticated: bool,
        at: Instant,
        weather: &mut Weather,
    ) {
        let (index, phase) = self.links.remove(&connection).expect("ends once");
        let seat = &mut self.seats[index];
        assert!(!matches!(reason, Some(Reason::AuthFailed { .. })), "the credentials are good");
        let delay = match phase {
            Phase::Draining => {
                seat.draining -= 1;
                Duration::ZERO
            }
            Phase::Opening | Phase::Up(_) => {
                seat.current = None;
                let served = if let Phase::Up(since) = phase { at - since } else { Duration::ZERO };
                let outcome = if authenticated { Outcome::Served(served) } else { Outcome::Failed };
                seat.slot.delay(outcome, weather.part())
            }
        };
        self.fill(index, delay, at);
    }

    /// A command did not reach its connection.
    pub(super) fn refused(&mut self, connection: u64, command: &Command) {
        if let Command::Send(order) = command {
            self.ledger.drain(connection);
            self.ledger.take_back(order.sid);
        }
    }

    fn dispatch(&mut self, now_ms: u64) {
        if self.stopping {
            return;
        }
        let dispatch = self.ledger.dispatch(now_ms);
        assert!(dispatch.expired.is_empty(), "nothing expires here");
        let orders = dispatch.orders.into_iter();
        self.wishes.extend(orders.map(|(connection, order)| Wish::Order(connection, Command::Send(order))));
    }

    fn settle(&mut self, message_id: &str, report: impl Fn(u32) -> Report) {
        let sid = Sid::parse(message_id).expect("an id of ours");
        let settled = self.ledger.settle(sid).expect("an answer settles a message");
        self.report(sid, report(settled.copies));
    }

    pub(super) fn report(&mut self, sid: Sid, report: Report) {
        assert_eq!(self.reports.insert(sid, report), None, "{sid} is reported twice");
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Reports what is left when all connections are gone.
    pub(super) fn finish(&mut self) {
        let unsettled = std::mem::replace(&mut self.ledger, Ledger::new(0, 0)).into_unsettled();
        for settled in unsettled {
            self.report(settled.sid, Report::Lost { copies: settled.copies });
        }
    }

    /// Whether the hub has exactly the connections that are to be kept, and all of them serve.
    pub(super) fn is_whole(&self) -> bool {
        self.links.len() == self.seats.len() && self.links.values().all(|(_, phase)| matches!(phase, Phase::Up(_)))
    }

    fn fill(&mut self, index: usize, delay: Duration, at: Instant) {
        let seat = &mut self.seats[index];
        if self.stopping || seat.current.is_some() || seat.draining >= DRAINING_MAX {
            return;
        }
        self.last_connection += 1;
        seat.current = Some(self.last_connection);
        self.links.insert(self.last_connection, (index, Phase::Opening));
        self.wishes.push_back(Wish::Dial(self.last_connection, self.pacer.start(at, delay)));
    }
}
