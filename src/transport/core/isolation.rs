//! Messages over which connections break: they are sent alone, and given up when that goes on.
//!
//! ```text
//!              broke the second time                    broke the third time alone, others were answered between
//!   with others ────────────────────► alone, after others ──────────────────────────────────────────────────────► ambiguous
//!                                        │
//!                                        └─► answered, or a receipt came
//! ```
//!
//! A push service may end the stream whenever it reads a certain message. As the oldest one it would be the first on each next
//! connection, and nothing behind it would ever be answered. Which of the unanswered messages it was nobody can say, so all
//! of them are sent alone; the innocent are answered then. After a break others go first: their answer shows that the next
//! break is the message's own, and a service that answers nobody makes no message fail.

use super::connections::Connection;
use super::dispatch::Offer;
use super::service::{Location, Message, Service};
use super::{Core, Now};
use crate::chat::id::Sid;
use crate::transport::ConnectionId;
use std::time::{Duration, Instant};

/// After so many connections that broke a message is sent alone.
const TOGETHER_MAX: u32 = 2;
/// A message over which so many connections broke on which it was alone is not sent again.
const ALONE_MAX: u32 = 3;
/// How long a message that broke its connection alone waits for the answer to another one, where the service has no time for
/// an answer.
const ALONE_WAIT: Duration = Duration::from_secs(60);

/// The connections that broke with a message unanswered, and with nothing answered since it was written.
#[derive(Debug, Default)]
pub(super) struct Breaks {
    all: u32,
    /// On which it was alone, and another message was answered since the one before.
    alone: u32,
    last: Option<Instant>,
    /// It was alone on the last one.
    was_alone: bool,
}

impl Breaks {
    /// Whether the message is sent alone.
    pub(super) fn isolates(&self) -> bool {
        self.all >= TOGETHER_MAX
    }

    /// Whether nothing else can have broken the connections.
    pub(super) fn is_proven(&self) -> bool {
        self.alone >= ALONE_MAX
    }

    fn note(&mut self, was_alone: bool, last_answer: Option<Instant>, now: Instant) {
        let others_answered = self.last.is_some_and(|last| last_answer.is_some_and(|answer| answer > last));
        self.all += 1;
        self.alone += u32::from(was_alone && others_answered);
        self.was_alone = was_alone;
        self.last = Some(now);
    }

    /// Until when it waits for the answer to another message. It may be over.
    fn waits_until(&self, last_answer: Option<Instant>, wait: Duration) -> Option<Instant> {
        let last = self.last.filter(|last| self.was_alone && last_answer.is_none_or(|answer| answer <= *last))?;
        Some(last + wait)
    }
}

impl<S: Service> Core<S> {
    /// A connection ended with a message unanswered; `was_given_up` says that it had no answer for too long, and that others
    /// had one meanwhile.
    pub(super) fn note_break(&mut self, connection: &Connection, sid: Sid, was_given_up: bool, now: Instant) {
        if !connection.is_open() && !was_given_up {
            return;
        }
        let Some(message) = self.messages.all.get_mut(&sid) else { return };
        let was_alone = message.breaks.isolates() && connection.in_flight.len() == 1;
        message.breaks.note(was_alone, self.last_answer, now);
        self.last_break = Some(now);
        if message.breaks.isolates() {
            tracing::debug!(%sid, was_alone, "connections break over a message: it is sent alone");
            self.messages.isolate(sid);
        }
    }

    /// Keeps the connections on which an isolated message is in flight free of others.
    pub(super) fn keep_apart(&mut self) {
        self.connections.all.values_mut().for_each(|connection| connection.kept_apart = false);
        let isolated = self.messages.isolated().filter_map(|sid| match self.messages.all.get(&sid)?.location {
            Location::InFlight { connection, .. } => Some(connection),
            Location::Waiting => None,
        });
        for id in isolated {
            if let Some(connection) = self.connections.all.get_mut(&id) {
                connection.kept_apart = true;
            }
        }
    }

    /// The turn of an isolated message, where the last break was followed by an answer: a connection is kept free for it,
    /// and it goes as soon as that is empty. Returns whether a message was sent.
    pub(super) fn isolated_turn(&mut self, now: Now) -> bool {
        let answers = self.last_break.is_none_or(|at| self.last_answer.is_some_and(|answer| answer > at));
        if !answers || self.unanswered_at.is_some() {
            return false;
        }
        let Some((sid, connection)) = self.next_isolated(now.instant) else { return false };
        self.send_alone(sid, connection, now)
    }

    /// The turn of an isolated message where nothing else goes.
    pub(super) fn isolated_last(&mut self, now: Now) -> bool {
        if self.unanswered_at.is_some() && self.has_probe() {
            return false;
        }
        let idle = |core: &Self, id| core.connections.all.get(&id).is_some_and(|one| one.in_flight.is_empty());
        match self.next_isolated(now.instant) {
            Some((sid, connection)) if idle(self, connection) => self.send_alone(sid, connection, now),
            _ => false,
        }
    }

    fn send_alone(&mut self, sid: Sid, id: ConnectionId, now: Now) -> bool {
        let Some(connection) = self.connections.all.get_mut(&id) else { return false };
        let is_empty = connection.in_flight.is_empty();
        let sent = is_empty && matches!(self.admit(sid, id, now), Offer::Sent);
        if let Some(connection) = self.connections.all.get_mut(&id) {
            connection.kept_apart = sent || !is_empty;
        }
        sent
    }

    /// The isolated message that goes next, and where: those that never broke a connection alone first, and the oldest of
    /// them.
    fn next_isolated(&mut self, now: Instant) -> Option<(Sid, ConnectionId)> {
        let wait = self.settings.answer_timeout.unwrap_or(ALONE_WAIT);
        let mut next: Option<((bool, u64), Sid, ConnectionId)> = None;
        let mut wakes = Vec::new();
        for sid in self.messages.isolated() {
            let Some(message) = self.messages.all.get(&sid).filter(|one| one.location == Location::Waiting) else {
                continue;
            };
            let waits = message.breaks.waits_until(self.last_answer, wait).filter(|until| *until > now);
            let rank = (message.breaks.was_alone, message.seq);
            match (waits, self.place_alone(message)) {
                (Some(until), _) => wakes.push(until),
                (None, Some(connection)) if next.is_none_or(|(least, ..)| rank < least) => {
                    next = Some((rank, sid, connection));
                }
                (None, _) => {}
            }
            // None of those behind it has a lower rank.
            if next.is_some_and(|((was_alone, _), ..)| !was_alone) {
                break;
            }
        }
        wakes.into_iter().for_each(|until| self.wake_at(until));
        next.map(|(_, sid, connection)| (sid, connection))
    }

    /// The connection for an isolated message, if none of its recipient has to go before it: the one with the least in
    /// flight, or that of its recipient.
    fn place_alone(&self, message: &Message<S::Memo>) -> Option<ConnectionId> {
        let recipient = message.recipient();
        if self.messages.is_behind_another(message) {
            return None;
        }
        let of_recipient = self.messages.connection_of(recipient);
        let takes = self.connections.all.iter().filter(|(id, one)| {
            one.takes() && !one.kept_apart && of_recipient.is_none_or(|connection| connection == **id)
        });
        takes.min_by_key(|(_, one)| one.in_flight.len()).map(|(id, _)| *id)
    }
}
