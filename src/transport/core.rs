//! What all transports share, sans-IO: connections, messages and `now` in; what to do and a deadline out.
//!
//! ```text
//!   handle_send, handle_ack ─────────►┌──────────────── Core ────────────────┐
//!                                     │ Messages: which is where, in order    │──► Dial, Assign, Acknowledge, Retire
//!   handle_event (from connections) ─►│ Connections, Redial: which there are  │──► Report, DeviceMessage
//!                                     │ Service: admit, decide                │──► Wait(deadline)
//!   handle_tick, handle_stop ────────►└───────────────────────────────────────┘
//! ```
//!
//! One `handle_*`, then [`Core::poll`] until it says [`Output::Wait`]. What differs from one push service to the next is
//! [`ServiceSettings`] and [`Service`]; sockets, tasks and channels are the driver's ([`super::driver`]).
//!
//! What it promises:
//! - Each message taken is answered by exactly one report.
//! - A recipient's messages are on one connection at a time, and go in the order in which they were taken, also when a
//!   connection's messages are sent again. Which of them may be under way together is the store's to say.
//! - No connection has more than its capacity unanswered; an acknowledgement goes to its own connection or nowhere.
//! - A message is written again only if it was certainly not taken, or is counted as a further copy.
//! - It keeps no message that cannot go for long: it goes back to the bridge untried.

mod answers;
mod connections;
mod dispatch;
pub(crate) mod event;
mod isolation;
mod messages;
mod redial;
pub(crate) mod service;
pub(crate) mod snapshot;
mod upkeep;

pub(crate) use event::{Counted, End, Ended, Event, Manner, Output, Receipt};
pub(crate) use service::{Admission, Message, OnConnectionEnd, Pool, Response, Service, ServiceSettings, Verdict};

use super::{AckRef, ConnectionId, Link, Report, Send, UNANSWERED};
use crate::chat::delivery::Fate;
use crate::chat::id::Sid;
use crate::chat::refusal::{Decision, Refusal};
use connections::{Connection, Connections, DrainReason};
use messages::Messages;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use redial::{ELASTIC_BURST, Redial};
use snapshot::{Snapshot, Trouble};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often time limits are checked: of messages, of answers, of draining connections.
pub(super) const TICK: Duration = Duration::from_secs(1);
/// A look at the core that comes so much later than it asked for was held up, and with it what came in meanwhile.
const HELD_UP: Duration = Duration::from_secs(5);
/// How long a message prefers any other connection to the one that would not take it.
const ELSEWHERE_WAIT: Duration = Duration::from_millis(250);

/// The time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// For waits.
    pub(crate) instant: Instant,
    /// For times to live, in Unix milliseconds.
    pub(crate) unix_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Core<S: Service> {
    settings: ServiceSettings,
    service: S,
    messages: Messages<S::Memo>,
    connections: Connections,
    redial: Redial,
    snapshot: Snapshot,
    outputs: VecDeque<Output<S::Request>>,
    state: CoreState,
    rng: Xoshiro256PlusPlus,
    /// The last answer on any connection, or receipt for a message that is not answered.
    last_answer: Option<Instant>,
    /// When a connection last broke with a message unanswered.
    last_break: Option<Instant>,
    /// When a message last passed its time for an answer for the first time, while nothing was answered since it was
    /// written. While this is set, one message at a time is sent as a probe; see [`Core::watch_answers`].
    unanswered_at: Option<Instant>,
    /// When a message last went back because it is behind one that is not answered.
    held_back: Option<Instant>,
    /// Since when the driver takes events without delay: an answer that came before may have waited for it.
    responsive_since: Instant,
    /// The push service refused a connection because the account has as many as it may, with those that drain.
    at_connection_limit: bool,
    /// The last connection that was dialled before other credentials were read: how it and earlier ones end says nothing of
    /// those.
    last_with_old_credentials: ConnectionId,
    /// Since when no connection takes messages.
    unable_since: Option<Instant>,
    /// Why the last connection ended or did not come up, until one takes messages.
    failure: Option<String>,
    /// Messages wait although all connections are full.
    demand: bool,
    /// Messages that wait for one of their recipient.
    held: usize,
    /// What the service holds recipients back for.
    held_back_by: Option<Trouble>,
    /// When a message may go, or a connection may be opened, that may not now.
    wake: Option<Instant>,
    next_tick: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CoreState {
    Running,
    /// Answers are waited for until then, and after that for nothing but the ends of the connections.
    Stopping(Option<Instant>),
    /// Everything is reported.
    Over,
}

impl<S: Service> Core<S> {
    /// Has no connection yet. All of its random numbers come from `seed`.
    pub(crate) fn new(settings: ServiceSettings, service: S, seed: u64, now: Now) -> Self {
        let is_elastic = matches!(settings.pool, Pool::Elastic { .. });
        let mut core = Self {
            messages: Messages::new(),
            connections: Connections::new(&settings),
            redial: Redial::new(settings.redial_max, if is_elastic { ELASTIC_BURST } else { 1 }),
            snapshot: Snapshot::default(),
            outputs: VecDeque::new(),
            state: CoreState::Running,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            last_answer: None,
            last_break: None,
            unanswered_at: None,
            held_back: None,
            responsive_since: now.instant,
            at_connection_limit: false,
            last_with_old_credentials: ConnectionId::ALL,
            unable_since: Some(now.instant),
            failure: None,
            demand: false,
            held: 0,
            held_back_by: None,
            wake: None,
            next_tick: now.instant + TICK,
            settings,
            service,
        };
        core.work(now);
        core
    }

    /// Takes a message from the bridge; to be called only while [`Core::has_room`], or after [`Core::handle_stop`].
    pub(crate) fn handle_send(&mut self, send: Send, now: Now) {
        let sid = send.sid;
        if !self.messages.take(send) {
            tracing::error!(%sid, "message given twice");
        } else if self.state == CoreState::Running {
            self.work(now);
        } else {
            self.report_back(sid, Fate::Lost);
        }
    }

    /// Passes an acknowledgement to the connection that what it is for came in on; without that one, it comes again.
    pub(crate) fn handle_ack(&mut self, ack_ref: AckRef) {
        let connection = ack_ref.connection;
        if self.connections.all.contains_key(&connection) {
            self.snapshot.acks += 1;
            self.outputs.push_back(Output::Acknowledge(ack_ref));
        } else {
            self.snapshot.stale_acks += 1;
            tracing::debug!(connection = connection.0, "acknowledgement for a connection that is gone");
        }
    }

    pub(crate) fn handle_event(&mut self, connection: ConnectionId, event: Event<S::Answer>, now: Now) {
        match event {
            Event::Up { capacity } => self.on_up(connection, capacity, now),
            Event::Capacity(capacity) => self.connections.set_capacity(connection, capacity),
            Event::Draining => self.on_draining(connection, now),
            Event::Ejected(detail) => self.on_ejected(connection, detail, now),
            Event::Answered(sid, answer) => self.on_answered(connection, sid, answer, now),
            Event::NotTaken(sid) => self.on_not_taken(connection, sid, now.instant),
            Event::Unwritten(sid) => self.on_unwritten(connection, sid),
            Event::Device(message) => self.on_device_message(message),
            Event::Receipt(receipt) => self.on_receipt(receipt, now.instant),
            Event::Counted(counted) => self.snapshot.counted += counted,
            Event::Ended(ended) => self.on_ended(connection, ended, now),
        }
        self.work(now);
    }

    /// A connection was given up, since its peer does not read: it takes nothing new, and another is opened.
    pub(crate) fn handle_given_up(&mut self, connection: ConnectionId, now: Now) {
        if self.connections.drain(connection, DrainReason::Ordinary, now.instant) {
            tracing::warn!(connection = connection.0, "the peer does not read: its connection is given up");
        }
        self.work(now);
    }

    /// A connection could not be given the message that was assigned to it: its task ends, and `Ended` follows.
    pub(crate) fn handle_gone(&mut self, connection: ConnectionId, sid: Sid, now: Now) {
        self.connections.set_capacity(connection, 0);
        self.on_unwritten(connection, sid);
        self.work(now);
    }

    /// Time has passed, or the service has heard something.
    pub(crate) fn handle_tick(&mut self, now: Now) {
        if now.instant >= self.next_tick {
            if now.instant >= self.next_tick + HELD_UP {
                self.responsive_since = now.instant;
            }
            self.next_tick = now.instant + TICK;
            self.expire(now);
            self.watch_answers(now);
        }
        if let CoreState::Stopping(Some(end)) = self.state
            && now.instant >= end
        {
            self.state = CoreState::Stopping(None);
            self.connections.ids(|_| true).into_iter().for_each(|id| self.close(id));
        }
        self.work(now);
    }

    /// Other credentials are there: what was refused for the old ones is tried at once.
    pub(crate) fn handle_renewed(&mut self, now: Now) {
        self.last_with_old_credentials = self.connections.last;
        self.redial.renewed();
        self.work(now);
    }

    /// Takes no more, and lets every connection end after its answers, or when the grace period is over.
    pub(crate) fn handle_stop(&mut self, now: Now) {
        if self.state != CoreState::Running {
            return;
        }
        tracing::info!(pending = self.messages.all.len(), "transport stops");
        self.state = CoreState::Stopping(Some(now.instant + self.settings.stop_timeout));
        // Nothing goes any more.
        self.wake = None;
        for id in self.connections.ids(|_| true) {
            if self.connections.all.get(&id).is_some_and(Connection::is_dialing) {
                self.close(id);
            } else {
                self.connections.drain(id, DrainReason::Ordinary, now.instant);
                self.retire(id);
            }
        }
        self.work(now);
    }

    /// To be called until it returns [`Output::Wait`].
    pub(crate) fn poll(&mut self) -> Output<S::Request> {
        self.outputs.pop_front().unwrap_or_else(|| Output::Wait(self.deadline()))
    }

    /// Whether another message may be taken. Neither what a connection that takes nothing new has in flight counts, nor
    /// what waits for that: those beside it would stand idle.
    pub(crate) fn has_room(&self) -> bool {
        let most = self.settings.window * self.settings.pool.most();
        let all = self.messages.all.len();
        if self.state != CoreState::Running || all >= most * dispatch::TAKEN_FACTOR {
            return false;
        }
        // What comes now goes back untried, or its time to live is watched at least.
        if self.unanswered_at.is_some() || self.unable_since.is_some() {
            return true;
        }
        let ending: usize =
            self.connections.all.values().filter(|one| one.is_ending()).map(|one| one.in_flight.len()).sum();
        all.saturating_sub(ending + self.held) < most
    }

    /// Whether everything is over: no connection is left, and everything is reported.
    pub(crate) fn is_over(&self) -> bool {
        self.state == CoreState::Over
    }

    /// How the connections together stand.
    pub(crate) fn link(&self, now: Now) -> Link {
        let able = self.state == CoreState::Running && self.connections.any(Connection::takes);
        if let Some(link) = self.service.link_override(able, now) {
            return link;
        }
        // A drained connection is replaced in less: after that time the link is down.
        let replaced = self.unable_since.is_none_or(|since| now.instant < since + dispatch::RETURN_UNTRIED_AFTER);
        let draining = replaced && self.connections.any(Connection::is_draining);
        if self.unanswered_at.is_some() && (able || draining) {
            let asks = able && !self.has_probe();
            return if asks { Link::Probing(UNANSWERED) } else { Link::UNANSWERED };
        }
        match (able, draining) {
            (true, _) => Link::Up,
            (false, true) => Link::Draining,
            (false, false) if self.redial.is_refused() => Link::AUTH_FAILED,
            (false, false) => Link::UNCONNECTED,
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            pending: self.messages.all.len(),
            window: self.connections.capacity(),
            connections: self.connections.states(),
            trouble: self.trouble(),
            access_token_requested_at: self.service.access_token_requested_at(),
            ..self.snapshot.clone()
        }
    }

    /// Why no message goes, or fewer than could: the cause that comes first.
    fn trouble(&self) -> Option<Trouble> {
        let trouble = |words, since, next_try| Some(Trouble { words, since, next_try });
        if let Some(trouble) = self.service.trouble() {
            return Some(trouble);
        }
        if self.unanswered_at.is_some() {
            return trouble(
                "no message is answered: one at a time finds out when that ends".to_owned(),
                self.unanswered_at,
                None,
            );
        }
        if self.unable_since.is_some() {
            let next_try = self.redial.next_try();
            return self.failure.clone().and_then(|words| trouble(words, self.unable_since, next_try));
        }
        self.held_back_by.clone().or_else(|| self.full_window())
    }

    /// Tells that all connections have as many unanswered messages as they may, for [`TICK`] or longer.
    fn full_window(&self) -> Option<Trouble> {
        let up = || self.connections.all.values().filter(|one| one.is_open());
        let (unanswered, capacity) = (up().map(|one| one.in_flight.len()).sum::<usize>(), self.connections.capacity());
        let oldest = up().filter_map(Connection::oldest).min()?;
        let is_full = unanswered >= capacity && oldest + TICK * 2 <= self.next_tick;
        let words = format!("the window is full: {unanswered} of {capacity} messages are unanswered");
        is_full.then_some(Trouble { words, since: Some(oldest), next_try: None })
    }

    /// Sends what may go, and opens, drains and ends connections: to be called after each input.
    fn work(&mut self, now: Now) {
        match self.state {
            CoreState::Running => {
                self.wake = None;
                let able = self.connections.any(Connection::takes);
                self.unable_since = if able { None } else { self.unable_since.or(Some(now.instant)) };
                self.dispatch(now);
                self.upkeep(now.instant);
                self.return_untried(now.instant);
            }
            CoreState::Stopping(_) if self.connections.all.is_empty() => self.finish(),
            CoreState::Stopping(_) | CoreState::Over => {}
        }
        if let Some(change) = self.service.take_change(now) {
            self.report(Report::Connection { connection: ConnectionId::ALL, change });
        }
    }

    /// Reports what is left when the last connection is gone.
    fn finish(&mut self) {
        self.state = CoreState::Over;
        for (sid, copies) in self.messages.oldest_first() {
            let fate = match &self.settings.on_connection_end {
                OnConnectionEnd::Ambiguous(refusal)
                    if copies > 0 && matches!(refusal.decision, Decision::Fail { .. }) =>
                {
                    let detail = "the bridge stopped before the answer came".to_owned();
                    Fate::Refused(Refusal { detail, ..refusal.clone() })
                }
                _ => Fate::Lost,
            };
            self.report_back(sid, fate);
        }
    }

    fn report(&mut self, report: Report) {
        self.outputs.push_back(Output::Report(report));
    }

    fn random(&mut self) -> f64 {
        self.rng.random_range(0.0..1.0)
    }

    fn wake_at(&mut self, moment: Instant) {
        self.wake = Some(self.wake.map_or(moment, |wake| wake.min(moment)));
    }

    fn deadline(&self) -> Option<Instant> {
        let stop = if let CoreState::Stopping(end) = self.state { end } else { None };
        let tick = (self.state != CoreState::Over).then_some(self.next_tick);
        let service = if self.state == CoreState::Running { self.service.deadline() } else { None };
        [tick, stop, self.wake, service].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
