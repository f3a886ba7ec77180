//! The clock, the schedule and the two sides; and what has to be true in the end.

use super::client::{Client, TIMING, Told, Wire};
use super::pipe::{Item, Weather};
use super::script::{Action, Case, faults};
use crate::ccs::event::{Answer, Event, Reason};
use crate::ccs::session::Input;
use crate::chat::delivery::Fate;
use crate::chat::id::{Recipient, Sid, SidSource, Token};
use crate::chat::push::{Priority, Push, Target};
use crate::secret::Secret;
use crate::sim::SimConfig;
use crate::sim::config::{Overrun, WireConfig};
use crate::sim::device::{DEFAULT_CATEGORY, DevicePatch, Presence};
use crate::sim::event::SimEvent;
use crate::sim::stats::{Stats, Violations};
use crate::sim::tests::{Harness, Parting};
use crate::transport::ccs::connection::{end_of, event_of};
use crate::transport::ccs::{Ccs, CcsConfig};
use crate::transport::core::{Core, End, Ended, Event as CoreEvent, Now, Output};
use crate::transport::driver::Order;
use crate::transport::{AckRef, ConnectionId, ConnectionPhase, DeviceMessage, Link, Report, Send, Snapshot};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// The server's patience with a client that does not close its side.
const PARTING: u64 = 2_000;
/// How long an answer may take, and how long a connection is kept for those that it owes: short, so that a run sees both.
const ANSWER: u64 = 9_000;
const DRAIN: u64 = 20_000;
/// Steps of one moment at most: a run that turns in circles fails. Bytes may come one at a time.
const STEPS: usize = 200_000;

pub(super) struct Run {
    case: Case,
    base: Instant,
    now: u64,
    weather: Weather,
    steps: usize,
    actions: VecDeque<(u64, Action)>,
    no_route_until: u64,

    harness: Harness,
    harness_due: Option<u64>,
    wires: BTreeMap<u64, Wire>,

    core: Core<Ccs>,
    /// When the core wants to be looked at again.
    core_due: Option<Instant>,
    clients: BTreeMap<ConnectionId, Client>,
    dials: VecDeque<ConnectionId>,
    events: VecDeque<(u64, ConnectionId, CoreEvent<Answer>)>,
    /// The one answer to each message.
    reports: BTreeMap<Sid, Report>,

    sids: SidSource,
    waiting: VecDeque<Send>,
    /// Until when the messages of a device wait.
    deferred: BTreeMap<Recipient, u64>,
    acks: VecDeque<(u64, AckRef)>,
    /// Everything ever sent, in order, with its device and whether a receipt was asked for.
    sent: Vec<(Sid, u8, bool)>,
    /// The ids handed up, in order, of each device.
    upstream: BTreeMap<String, Vec<String>>,
    receipts: BTreeSet<String>,
    /// What the server ever refused but for draining: trying such a message again may change the order.
    refused: BTreeSet<String>,
    reasons: Vec<Reason>,
    stopping: bool,
}

impl Run {
    pub(super) fn new(case: Case) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
        let base = Instant::now();
        let wire = WireConfig {
            window: case.window,
            overrun: Overrun::Nothing,
            upstream_window: 5,
            login_ms: 10_000,
            ..WireConfig::default()
        };
        let mut harness = Harness::new(SimConfig { wire, seed: case.seed, ..SimConfig::default() });
        for device in 0..case.devices {
            harness.put(&token(device), DevicePatch::default(), 0);
        }
        let window = case.window + if case.pushy { 2 } else { 0 };
        let config = CcsConfig {
            window,
            connections: case.connections,
            answer: Duration::from_millis(ANSWER),
            drain: Duration::from_millis(DRAIN),
            timing: TIMING,
            ..CcsConfig::new("42", Secret::new("key"))
        };
        let now = Now { instant: base, unix_ms: 0 };
        let core = Core::new(config.settings("sim"), Ccs, case.seed, now);
        let mut run = Self {
            base,
            now: 0,
            weather: Weather::new(case.seed, case.latency_ms, case.piece),
            steps: 0,
            actions: case.script.iter().cloned().collect(),
            no_route_until: 0,
            harness,
            harness_due: None,
            wires: BTreeMap::new(),
            core,
            core_due: None,
            clients: BTreeMap::new(),
            dials: VecDeque::new(),
            events: VecDeque::new(),
            reports: BTreeMap::new(),
            sids: SidSource::default(),
            waiting: VecDeque::new(),
            deferred: BTreeMap::new(),
            acks: VecDeque::new(),
            sent: Vec::new(),
            upstream: BTreeMap::new(),
            receipts: BTreeSet::new(),
            refused: BTreeSet::new(),
            reasons: Vec::new(),
            stopping: false,
            case,
        };
        run.apply_outputs();
        run
    }

    pub(super) fn stats(&self) -> (Stats, Snapshot) {
        (self.harness.stats(), self.core.snapshot())
    }

    /// Lets time pass.
    pub(super) fn until(&mut self, end: u64) {
        loop {
            while self.step() {
                self.steps += 1;
                assert!(self.steps < STEPS, "the two sides turn in circles at {} ms", self.now);
            }
            match self.next_due().filter(|due| *due <= end) {
                Some(due) => {
                    assert!(due > self.now, "something is due, and nobody does it");
                    self.now = due;
                    self.steps = 0;
                }
                None => break,
            }
        }
        self.now = end;
    }

    /// Ends the trouble.
    pub(super) fn calm_down(&mut self) {
        assert!(self.actions.is_empty());
        self.harness.set_faults(faults(&[]));
    }

    /// Lets time pass until nothing is left to do, which has to be before `end`.
    pub(super) fn until_quiet(&mut self, end: u64) {
        while !self.is_quiet() {
            assert!(self.now < end, "there is no end of it: {}", self.whats_left());
            self.until(self.now + 1_000);
        }
    }

    fn is_quiet(&self) -> bool {
        self.waiting.is_empty()
            && self.events.is_empty()
            && self.acks.is_empty()
            && self.core.snapshot().pending == 0
            && self.is_whole()
            && self.harness.stats().now.unacked == 0
            && self.wires.len() == self.clients.len()
            && self.clients.values().all(Client::is_quiet)
            && (0..self.case.devices).all(|device| self.harness.device(&token(device)).summary.on_the_way == 0)
    }

    /// Whether there are exactly the connections that are to be kept, and all of them serve, and operators are told so.
    fn is_whole(&self) -> bool {
        let states = self.core.snapshot().connections;
        self.core.link(self.time()) == Link::Up
            && states.len() == self.case.connections
            && states.iter().all(|state| state.phase == ConnectionPhase::Up)
    }

    fn whats_left(&self) -> String {
        format!(
            "{} waiting, {} pending, {} unacknowledged at the server, {} clients, {} wires",
            self.waiting.len(),
            self.core.snapshot().pending,
            self.harness.stats().now.unacked,
            self.clients.len(),
            self.wires.len()
        )
    }

    /// Does something that is due; false if nothing is.
    fn step(&mut self) -> bool {
        self.act()
            || self.bridge()
            || self.dial()
            || self.listen()
            || self.tick()
            || self.next_input()
            || self.network()
            || self.serve()
    }

    fn next_due(&self) -> Option<u64> {
        let soonest = [
            self.actions.front().map(|(due, _)| *due),
            self.acks.front().map(|(due, _)| *due),
            self.events.front().map(|(due, ..)| *due),
            self.core_due.map(|due| self.ms(due)),
            self.harness_due,
        ];
        let clients = self.clients.values().flat_map(|client| {
            let wire = &self.wires[&client.server];
            let bytes = if client.paused_until.is_some() { None } else { wire.down.due() };
            let order = client.orders.front().map(|(due, _)| *due);
            [client.deadline.map(|deadline| self.ms(deadline)), client.paused_until, bytes, order]
        });
        let wires = self.wires.iter().flat_map(|(server, wire)| {
            let bytes = if self.reads(*server, wire) { wire.up.due() } else { None };
            [wire.cut_at, wire.due, wire.parting_until, bytes]
        });
        soonest.into_iter().chain(clients).chain(wires).flatten().min()
    }

    // The schedule.

    fn act(&mut self) -> bool {
        if self.actions.front().is_none_or(|(due, _)| *due > self.now) {
            return false;
        }
        let Some((_, action)) = self.actions.pop_front() else { return false };
        let device = |device: u8| token(device % self.case.devices);
        let patch = DevicePatch::default();
        match action {
            Action::Push { device, count, receipt } => self.push(device % self.case.devices, count, receipt),
            Action::Speak { device: of, count } => self.harness.speak(&device(of), count.into()),
            Action::Slow { device: of, delay_ms } => {
                let patch = DevicePatch { state: Some(Presence::Slow), delay_ms: Some(delay_ms), ..patch };
                self.harness.put(&device(of), patch, self.now);
            }
            Action::Online { device: of } => {
                self.harness.put(&device(of), DevicePatch { state: Some(Presence::Online), ..patch }, self.now);
            }
            Action::Echo { device: of } => {
                let patch = DevicePatch { echo: Some(DEFAULT_CATEGORY.into()), ..patch };
                self.harness.put(&device(of), patch, self.now);
            }
            Action::Faults(list) => self.harness.set_faults(faults(&list)),
            Action::Drain { at, plan } => self.at(at, |run, server| run.harness.drain(server, plan)),
            Action::Close { at } => self.at(at, |run, server| run.harness.close(server)),
            Action::Reset { at } => self.at(at, |run, server| run.harness.reset(server)),
            Action::Cut { at } => self.at(at, |run, server| run.wire(server, |wire| wire.cut_at = Some(0))),
            Action::Silence { at, ms } => self.at(at, |run, server| {
                let until = run.now + ms;
                run.wire(server, |wire| {
                    wire.up.hold(until);
                    wire.down.hold(until);
                    wire.cut_at = Some(until);
                });
            }),
            Action::Pause { at, ms } => self.pause(at, ms),
            Action::NoRoute { ms } => self.no_route_until = self.now + ms,
        }
        true
    }

    /// Does something to one of the connections, if there is any.
    fn at(&mut self, at: u8, what: impl FnOnce(&mut Self, u64)) {
        let server = self.wires.keys().nth(usize::from(at) % self.wires.len().max(1)).copied();
        if let Some(server) = server {
            what(self, server);
        }
    }

    fn wire(&mut self, server: u64, what: impl FnOnce(&mut Wire)) {
        what(self.wires.get_mut(&server).expect("a wire"));
    }

    fn pause(&mut self, at: u8, ms: u64) {
        let chosen = self.clients.keys().nth(usize::from(at) % self.clients.len().max(1)).copied();
        if let Some(id) = chosen {
            self.clients.get_mut(&id).expect("a client").paused_until = Some(self.now + ms);
            self.tell(id, Input::Pause);
        }
    }

    // The bridge: sends while there is room, acknowledges a while after it was told.

    fn push(&mut self, device: u8, count: u8, receipt: bool) {
        for _ in 0..count {
            let sid = self.sids.next(1 + self.now, self.sent.len() as u64);
            self.sent.push((sid, device, receipt));
            self.waiting.push_back(send(sid, device, receipt));
        }
    }

    fn bridge(&mut self) -> bool {
        if self.core.has_room()
            && matches!(self.core.link(self.time()), Link::Up | Link::Probing(_))
            && let Some(send) = self.next_due_send()
        {
            self.core.handle_send(send, self.time());
            self.apply_outputs();
            return true;
        }
        if self.acks.front().is_some_and(|(due, _)| *due <= self.now)
            && let Some((_, ack_ref)) = self.acks.pop_front()
        {
            self.core.handle_ack(ack_ref);
            self.apply_outputs();
            return true;
        }
        false
    }

    /// The first that waits for nothing but the transport.
    fn next_due_send(&mut self) -> Option<Send> {
        self.deferred.retain(|_, until| *until > self.now);
        let place = self.waiting.iter().position(|send| !self.deferred.contains_key(&send.recipient))?;
        self.waiting.remove(place)
    }

    fn time(&self) -> Now {
        Now { instant: self.instant(), unix_ms: self.now }
    }

    fn tick(&mut self) -> bool {
        let due = self.core_due.is_some_and(|due| due <= self.instant());
        if due {
            self.core.handle_tick(self.time());
            self.apply_outputs();
        }
        due
    }

    /// Does what the core wants.
    fn apply_outputs(&mut self) {
        loop {
            match self.core.poll() {
                Output::Dial(id) => self.dials.push_back(id),
                Output::Assign { connection, sid, request } => {
                    if !self.tell_later(connection, Told::Order(Order::Send(sid, request))) {
                        self.core.handle_gone(connection, sid, self.time());
                    }
                }
                Output::Acknowledge(ack_ref) => {
                    self.tell_later(ack_ref.connection, Told::Order(Order::Ack(ack_ref)));
                }
                Output::Retire { connection, manner } => {
                    if let Some(place) = self.dials.iter().position(|id| *id == connection) {
                        self.dials.remove(place);
                        self.end(connection, End::Retired);
                    }
                    self.tell_later(connection, Told::Retire(manner));
                }
                Output::Report(report) => self.reported(report),
                Output::DeviceMessage(DeviceMessage::Upstream(message)) => self.arrived(message.ack_ref, None),
                Output::DeviceMessage(DeviceMessage::Rejected(rejected)) => panic!("{rejected:?}"),
                Output::Wait(deadline) => {
                    self.core_due = deadline;
                    break;
                }
            }
        }
    }

    fn reported(&mut self, report: Report) {
        let sid = match report {
            Report::Back { sid, .. } => sid,
            Report::Receipt { original, ack_ref, .. } => return self.arrived(ack_ref, Some(original)),
            Report::Connection { .. } => return,
        };
        let untried = matches!(report, Report::Back { fate: Fate::Lost | Fate::Deferred { .. }, copies: 0, .. });
        if untried && !self.stopping {
            // Back to the disk, whence it comes again in its turn.
            let (_, device, receipt) = *self.sent.iter().find(|(sent, ..)| *sent == sid).expect("what was sent");
            let send = send(sid, device, receipt);
            if let Report::Back { fate: Fate::Deferred { wait, .. }, .. } = report {
                self.deferred.insert(send.recipient, self.now + u64::try_from(wait.as_millis()).expect("a short wait"));
            }
            let place = self.waiting.partition_point(|send| send.sid < sid);
            self.waiting.insert(place, send);
            return;
        }
        assert_eq!(self.reports.insert(sid, report), None, "{sid} is reported twice");
    }

    /// False if the connection is gone.
    fn tell_later(&mut self, connection: ConnectionId, told: Told) -> bool {
        let Some(client) = self.clients.get_mut(&connection) else { return false };
        let earlier = client.orders.back().map_or(0, |(due, _)| *due);
        // Where the core gives sessions more than they take, it offers again what was not sent: not in the same instant.
        let least = if self.case.pushy { 50 } else { 0 };
        let due = earlier.max(self.now + least + self.weather.upto(self.case.lag_ms));
        client.orders.push_back((due, told));
        true
    }

    fn arrived(&mut self, ack_ref: AckRef, original: Option<String>) {
        match original {
            Some(original) => {
                self.receipts.insert(original);
            }
            None => self.upstream.entry(ack_ref.to.clone()).or_default().push(ack_ref.message_id.clone()),
        }
        let earlier = self.acks.back().map_or(0, |(due, _)| *due);
        self.acks.push_back((earlier.max(self.now + self.weather.upto(2 * self.case.lag_ms)), ack_ref));
    }

    // The client's side.

    fn dial(&mut self) -> bool {
        let Some(id) = self.dials.pop_front() else { return false };
        if self.now < self.no_route_until {
            self.end(id, End::Failed);
            return true;
        }
        let server = self.harness.connect(self.now);
        self.wires.insert(server, Wire { due: Some(self.now), ..Wire::default() });
        self.clients.insert(id, Client::new(server, self.case.window, self.case.pushy, self.instant()));
        self.tell(id, Input::Tick);
        true
    }

    /// A connection that never came to be is over.
    fn end(&mut self, id: ConnectionId, end: End) {
        let detail = "no route".to_owned();
        self.say(id, CoreEvent::Ended(Ended { end, detail, unwritten: Vec::new() }));
    }

    /// The core hears what a connection said.
    fn listen(&mut self) -> bool {
        if self.events.front().is_none_or(|(due, ..)| *due > self.now) {
            return false;
        }
        let Some((_, id, event)) = self.events.pop_front() else { return false };
        self.core.handle_event(id, event, self.time());
        self.apply_outputs();
        true
    }

    /// A session gets what is due for it.
    fn next_input(&mut self) -> bool {
        let at = self.instant();
        for (&id, client) in &mut self.clients {
            if client.deadline.is_some_and(|deadline| deadline <= at) {
                self.tell(id, Input::Tick);
                return true;
            }
            if client.paused_until.is_some_and(|until| until <= self.now) {
                client.paused_until = None;
                self.tell(id, Input::Resume);
                return true;
            }
            if client.orders.front().is_some_and(|(due, _)| *due <= self.now)
                && let Some((_, told)) = client.orders.pop_front()
            {
                let said = client.tell(told, at);
                self.pass_on(id, said);
                return true;
            }
            let wire = self.wires.get_mut(&client.server).expect("a wire");
            if client.paused_until.is_none()
                && let Some(item) = wire.down.pop(self.now)
            {
                match item {
                    Item::Bytes(bytes) => self.tell(id, Input::Bytes(&bytes)),
                    Item::End => self.tell(id, Input::Eof),
                }
                return true;
            }
        }
        false
    }

    fn tell(&mut self, id: ConnectionId, input: Input<'_>) {
        let at = self.instant();
        let said = self.clients.get_mut(&id).expect("a client").handle(input, at);
        self.pass_on(id, said);
    }

    fn pass_on(&mut self, id: ConnectionId, (bytes, events): (Vec<u8>, Vec<Event>)) {
        let client = self.clients.get_mut(&id).expect("a client");
        let closed = client.closed.clone();
        let wire = self.wires.get_mut(&client.server).expect("a wire");
        wire.up.push(&bytes, self.now, &mut self.weather);
        let was_open = client.was_open();
        for event in events {
            if let Some(event) = event_of(id, event, self.case.window + if self.case.pushy { 2 } else { 0 }) {
                self.say(id, event);
            }
        }
        let Some(reason) = closed else { return };
        let client = self.clients.remove(&id).expect("a client");
        let wire = self.wires.get_mut(&client.server).expect("a wire");
        wire.client_leaves(self.now, &mut self.weather);
        if wire.server_gone {
            self.wires.remove(&client.server);
        }
        let unwritten = client.orders.iter().filter_map(|(_, told)| match told {
            Told::Order(Order::Send(sid, _)) => Some(*sid),
            Told::Order(Order::Ack(_)) | Told::Retire(_) => None,
        });
        let unwritten = unwritten.collect();
        let (end, detail) = (end_of(&reason, was_open), reason.to_string());
        self.reasons.push(reason);
        self.say(id, CoreEvent::Ended(Ended { end, detail, unwritten }));
        client.bury(self.instant());
    }

    fn say(&mut self, id: ConnectionId, event: CoreEvent<Answer>) {
        let earlier = self.events.back().map_or(0, |(due, ..)| *due);
        let due = earlier.max(self.now + self.weather.upto(self.case.lag_ms));
        self.events.push_back((due, id, event));
    }

    // The network and the server's side.

    fn network(&mut self) -> bool {
        for (&server, wire) in &mut self.wires {
            if wire.cut_at.is_some_and(|at| at <= self.now) {
                wire.cut(self.now, &mut self.weather);
                return true;
            }
            if wire.parting_until.is_some_and(|until| until <= self.now) {
                self.leave(server);
                return true;
            }
        }
        let ready = self
            .wires
            .iter()
            .find(|(server, wire)| self.reads(**server, wire) && wire.up.due().is_some_and(|due| due <= self.now));
        let Some(server) = ready.map(|(server, _)| *server) else { return false };
        let wire = self.wires.get_mut(&server).expect("a wire");
        match wire.up.pop(self.now) {
            Some(Item::Bytes(bytes)) if wire.parting_until.is_none() => {
                self.harness.receive(server, &bytes);
                wire.due = Some(self.now);
            }
            Some(Item::Bytes(_)) | None => {}
            Some(Item::End) => self.leave(server),
        }
        true
    }

    /// Whether the server reads: it throws away what comes behind its own end.
    fn reads(&self, server: u64, wire: &Wire) -> bool {
        wire.parting_until.is_some() || self.harness.wants_read(server)
    }

    fn serve(&mut self) -> bool {
        self.harness_due = self.harness.tick(self.now);
        for server in self.harness.take_wakes() {
            if let Some(wire) = self.wires.get_mut(&server) {
                wire.due = Some(self.now);
            }
        }
        let due =
            self.wires.iter().find(|(_, wire)| wire.due.is_some_and(|due| due <= self.now)).map(|(server, _)| *server);
        let Some(server) = due else { return false };
        let wire = self.wires.get_mut(&server).expect("a wire");
        if wire.parting_until.is_some() || wire.server_gone {
            wire.due = None;
            return true;
        }
        let served = self.harness.serve(server, self.now);
        for event in self.harness.take_events() {
            match event {
                SimEvent::Refused { message_id, code, .. } if code != "CONNECTION_DRAINING" => {
                    self.refused.insert(message_id.to_string());
                }
                _ => {}
            }
        }
        wire.due = served.due.map(|due| due.max(self.now + 1));
        if !wire.client_gone {
            for chunk in &served.chunks {
                wire.down.push(chunk, self.now, &mut self.weather);
            }
        }
        match served.parting {
            Some(Parting::Close) => {
                if !wire.client_gone {
                    wire.down.end(self.now, &mut self.weather);
                }
                wire.parting_until = Some(self.now + PARTING);
            }
            Some(Parting::Reset) => {
                wire.cut(self.now, &mut self.weather);
                wire.parting_until = Some(self.now);
            }
            None => {}
        }
        true
    }

    /// The server's side of a connection is gone. The wire stays as long as the client has its end.
    fn leave(&mut self, server: u64) {
        self.harness.leave(server);
        let wire = self.wires.get_mut(&server).expect("a wire");
        (wire.parting_until, wire.due, wire.server_gone) = (None, None, true);
        if wire.client_gone {
            self.wires.remove(&server);
        } else if wire.down.due().is_none() {
            // The client has to hear of it, whatever the server had said before.
            wire.down.end(self.now, &mut self.weather);
        }
    }

    // The end.

    /// A burst, and in the middle of it all sessions are shut down.
    pub(super) fn shut_down(&mut self, patience: u64) {
        for device in 0..self.case.devices {
            self.push(device, 4, true);
            self.harness.speak(&token(device), 2);
        }
        let moment = self.now + self.weather.upto(2 * self.case.latency_ms + 20);
        self.until(moment);
        self.stopping = true;
        let before = self.reasons.len();
        self.core.handle_stop(self.time());
        self.apply_outputs();
        self.until(self.now + patience);
        assert!(self.clients.is_empty(), "a session does not end");
        assert!(self.reasons[before..].iter().all(|reason| *reason == Reason::Shutdown), "{:?}", self.reasons);
        assert!(self.core.is_over());
        for send in std::mem::take(&mut self.waiting) {
            self.core.handle_send(send, self.time());
        }
        self.apply_outputs();
    }

    /// What holds once everything is answered and acknowledged.
    pub(super) fn check_quiet(&self) {
        assert!(self.reports.values().all(|report| !matches!(report, Report::Back { fate: Fate::Lost, .. })));
        self.check_devices();
        let stats = self.harness.stats();
        for device in (0..self.case.devices).map(token) {
            let said = self.harness.device(&device).summary.sent;
            let handed: &[String] = self.upstream.get(&device).map_or(&[], Vec::as_slice);
            for number in 1..=said {
                assert!(handed.contains(&number.to_string()), "message {number} of {device} was never handed up");
            }
            if stats.connections == 1 && stats.faults.duplicate_upstream == 0 {
                assert_eq!(*handed, (1..=said).map(|number| number.to_string()).collect::<Vec<_>>());
            }
        }
        for (sid, device, receipt) in &self.sent {
            let id = sid.to_string();
            let there = self.harness.device(&token(*device)).messages.iter().any(|message| message.message_id == id);
            assert_eq!(self.receipts.contains(&id), *receipt && there, "the receipt of {sid}");
        }
        let handed: usize = self.upstream.values().map(Vec::len).sum();
        assert!(stats.upstream.acked <= handed as u64, "acknowledged without having been handed up");
    }

    /// What holds always, looked at in the end.
    pub(super) fn check_end(&self) {
        self.check_devices();
    }

    fn check_devices(&self) {
        let stats = self.harness.stats();
        assert_eq!(stats.violations, Violations::default());
        assert!(stats.most_unanswered <= self.case.window);
        assert_eq!((stats.upstream.dropped, stats.receipts.dropped), (0, 0));
        assert_eq!(self.reports.len(), self.sent.len(), "each send is reported once");
        for device in 0..self.case.devices {
            let got = self.harness.device(&token(device)).messages;
            let mine = self.sent.iter().filter(|(_, to, _)| *to == device).map(|(sid, ..)| *sid);
            for sid in mine.clone() {
                let id = sid.to_string();
                let copies = got.iter().filter(|message| message.message_id == id).count();
                let report = &self.reports[&sid];
                let (least, most) = match report {
                    Report::Back { fate: Fate::Accepted { .. }, copies, .. } => (1, copies),
                    // The last copy was refused.
                    Report::Back { fate: Fate::Refused(_), copies, .. } => (0, &(copies - 1)),
                    Report::Back { fate: Fate::Lost, copies, .. } => (0, copies),
                    other => panic!("{other:?}"),
                };
                assert!((least..=*most as usize).contains(&copies), "{sid}: {report:?}, {copies} at the device");
            }
            // Copies aside, a device gets what was sent in the order in which it was sent.
            let order: BTreeMap<String, usize> = mine.enumerate().map(|(at, sid)| (sid.to_string(), at)).collect();
            let once = got.iter().filter(|message| message.copy == 1 && !self.refused.contains(&message.message_id));
            let first: Vec<usize> = once.map(|message| order[&message.message_id]).collect();
            assert!(self.case.pushy || first.is_sorted(), "device {device} got {first:?}");
        }
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    /// Rounded up: nothing happens before its time.
    fn ms(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.base).as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000)).expect("a short run")
    }
}

fn send(sid: Sid, device: u8, receipt: bool) -> Send {
    let push = Push {
        target: Target::Token(Token::new(token(device)).expect("a token")),
        data: Map::from_iter([("k".to_owned(), Value::from("]]>&\u{1F600}"))]),
        notification: None,
        priority: Priority::High,
        collapse: None,
        receipt,
        fcm: Map::new(),
    };
    Send { sid, push, recipient: Recipient(device.into()), accepted_ms: 0, deadline_ms: u64::MAX }
}

fn token(device: u8) -> String {
    format!("device-{device}")
}
