//! The connections: which are opened, given up and ended, and when.

use super::connections::{Connection, DrainReason, InFlight, Phase};
use super::redial::Failure;
use super::service::{Location, Response, Service};
use super::{Core, End, Ended, Manner, Now, Output};
use crate::chat::id::Sid;
use crate::transport::{ConnectionChange, ConnectionId, Report};
use std::time::{Duration, Instant};

/// Connections that may be draining for each one that is kept. Beyond that the oldest is closed for the next.
pub(super) const DRAINING_MAX: usize = 4;
/// So many times its time for an answer a message has on a connection that answers, or where others do.
const SUSPECT_ANSWERS: u32 = 2;
/// After so many answers in a row that did not come in time a connection is replaced, though its peer lives.
const LATE_MAX: u32 = 5;

impl<S: Service> Core<S> {
    pub(super) fn upkeep(&mut self, now: Instant) {
        for id in self.connections.dispensable(now) {
            self.connections.drain(id, DrainReason::Ordinary, now);
            self.redial.reset_failures();
            self.retire(id);
        }
        if self.at_connection_limit {
            self.end_draining(now);
        }
        while self.connections.wants_more(self.demand, now) && self.may_dial(now) {
            let draining = self.connections.count(Connection::is_draining);
            if draining >= DRAINING_MAX * self.settings.pool.most() {
                self.close_oldest_draining();
            }
            self.redial.begun(now);
            self.snapshot.dials += 1;
            let id = self.connections.dial(now);
            self.outputs.push_back(Output::Dial(id));
        }
    }

    /// The account allows no connection beside those that drain: each of them ends as soon as it owes no answer, or only
    /// answers that are overdue.
    fn end_draining(&mut self, now: Instant) {
        for id in self.connections.ids(Connection::is_draining) {
            match (self.connections.all.get(&id).and_then(Connection::oldest), self.settings.answer_timeout) {
                (None, _) => self.retire(id),
                (Some(oldest), Some(answer)) if self.is_overdue(oldest, answer, now) => self.close(id),
                (Some(_), _) => {}
            }
        }
    }

    /// While no connection is up, or one has failed, attempts go one at a time: the limits are the account's.
    fn may_dial(&mut self, now: Instant) -> bool {
        let alone = self.redial.is_failing() || !self.connections.any(Connection::is_open);
        if alone && self.connections.any(Connection::is_dialing) {
            return false;
        }
        if self.at_connection_limit && self.connections.any(Connection::is_ending) {
            return false;
        }
        match self.redial.wait(now) {
            Some(until) => {
                self.wake_at(until);
                false
            }
            None => true,
        }
    }

    fn close_oldest_draining(&mut self) {
        let draining = self.connections.all.iter().filter_map(|(id, one)| Some((one.draining_since()?, *id)));
        if let Some((_, oldest)) = draining.min() {
            tracing::info!(connection = oldest.0, "too many connections are draining: the oldest is closed");
            self.close(oldest);
        }
    }

    /// A connection is to end after its answers.
    pub(super) fn retire(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.all.get_mut(&id) else { return };
        if !std::mem::replace(&mut connection.retired, true) {
            self.outputs.push_back(Output::Retire { connection: id, manner: Manner::AfterAnswers });
        }
    }

    pub(super) fn close(&mut self, id: ConnectionId) {
        if self.connections.close(id) {
            self.outputs.push_back(Output::Retire { connection: id, manner: Manner::Now });
        }
    }

    /// One that was to be closed meanwhile stays so.
    pub(super) fn on_up(&mut self, id: ConnectionId, capacity: usize, now: Now) {
        let random = self.random();
        if self.connections.up(id, capacity, now.instant, random) {
            self.redial.up();
            self.failure = None;
            self.at_connection_limit = false;
            self.snapshot.connects += 1;
            tracing::info!(connection = id.0, capacity, "connection takes messages");
            self.report(Report::Connection { connection: id, change: ConnectionChange::Up });
        }
    }

    /// The peer ends the connection: that is no failure, and the next one is wanted at once, unless it does so again and
    /// again before it answers anything.
    pub(super) fn on_draining(&mut self, id: ConnectionId, now: Now) {
        let is_short = self.is_short_lived(id, now.instant);
        if !self.connections.drain(id, DrainReason::Ordinary, now.instant) {
            return;
        }
        self.snapshot.drains += 1;
        self.drained(id, is_short, now.instant);
        tracing::info!(connection = id.0, "connection is draining");
        self.report(Report::Connection { connection: id, change: ConnectionChange::Draining });
    }

    /// The peer ends the connection because of an error.
    pub(super) fn on_ejected(&mut self, id: ConnectionId, detail: String, now: Now) {
        let is_short = self.is_short_lived(id, now.instant);
        if !self.connections.drain(id, DrainReason::Ordinary, now.instant) {
            return;
        }
        if !is_short {
            self.redial.reset_failures();
        }
        self.count_failure(id, Failure::Ejected, now.instant);
        let detail = format!("{}: {detail}", self.settings.server);
        tracing::warn!(connection = id.0, detail, "the push service ends the connection because of an error");
        self.failure = Some(detail.clone());
        self.report(Report::Connection { connection: id, change: ConnectionChange::Lost { detail } });
    }

    fn is_short_lived(&self, id: ConnectionId, now: Instant) -> bool {
        self.connections.all.get(&id).is_some_and(|connection| connection.is_short_lived(now))
    }

    /// A connection takes no more, by its peer's wish.
    fn drained(&mut self, id: ConnectionId, is_short: bool, now: Instant) {
        if is_short {
            self.count_failure(id, Failure::ShortLife, now);
        } else {
            self.redial.drained();
        }
    }

    fn count_failure(&mut self, id: ConnectionId, failure: Failure, now: Instant) {
        if id > self.last_with_old_credentials {
            let random = self.random();
            self.redial.failed(failure, now, random);
        }
    }

    /// Notes what the end of a message on a connection says of its peer.
    pub(super) fn note_response(&mut self, id: ConnectionId, response: Response, now: Instant) {
        let Some(connection) = self.connections.all.get_mut(&id) else { return };
        match response {
            Response::Answer => {
                connection.late = 0;
                connection.last_answer = Some(now);
                self.note_taken(now);
            }
            Response::Late => {
                connection.late += 1;
                if connection.late >= LATE_MAX {
                    self.suspect(id, now, "answers do not come in time".to_owned());
                    self.retire(id);
                }
            }
            Response::None => {}
        }
    }

    /// Notes that the push service takes messages.
    pub(super) fn note_taken(&mut self, now: Instant) {
        self.last_answer = Some(now);
        if self.unanswered_at.take().is_some() {
            tracing::info!("messages are answered again");
        }
    }

    /// Whether something written at a time waits for its answer for longer than it may. While the driver was held up no
    /// answer could be seen, so that time does not count.
    pub(super) fn is_overdue(&self, written: Instant, limit: Duration, now: Instant) -> bool {
        now >= written.max(self.responsive_since) + limit
    }

    /// Gives up connections that owe an answer for too long, and ends those that were waited for long enough.
    ///
    /// When a message passes its time for an answer for the first time, and nothing was answered since it was written, one
    /// message at a time is sent as a probe from then on, until
    /// - any message is answered, however late, or a receipt comes for one that is not; or
    /// - a connection takes messages, no probe is in flight, and for `answer_seconds` neither has a probe gone unanswered
    ///   nor a message gone back because it is behind an unanswered one: a service is not down because nobody uses it.
    ///
    /// A message passes its time for the first time once, on whichever connection; one whose time to live ended counts like
    /// any other.
    pub(super) fn watch_answers(&mut self, now: Now) {
        let now = now.instant;
        if let Some(answer) = self.settings.answer_timeout {
            if self.note_overdue(answer, now) && self.unanswered_at.replace(now).is_none() {
                tracing::error!(server = %self.settings.server, "no message is answered: one at a time is sent as a probe until one is");
            }
            let owes = |one: &Connection| one.oldest().is_some_and(|written| self.is_overdue(written, answer, now));
            for id in self.connections.ids(|one| one.is_open() && owes(one)) {
                self.suspect(id, now, format!("no answer to a message within {} s", answer.as_secs()));
            }
            for id in self.connections.ids(Connection::is_suspect) {
                if !self.is_waited_for(id) {
                    self.retire(id);
                } else if self.has_lost_answers(id, answer, now) {
                    self.close(id);
                }
            }
            let is_old = |at: Option<Instant>| at.is_none_or(|at| now >= at + answer);
            let unused = self.connections.any(Connection::takes) && !self.has_probe() && is_old(self.held_back);
            if unused && self.unanswered_at.is_some() && is_old(self.unanswered_at) {
                self.unanswered_at = None;
                tracing::info!("no message came to be the probe: the connection counts as up again");
            }
        }
        let ends = |one: &Connection| {
            one.draining_since().is_some_and(|since| self.is_overdue(since, self.settings.drain_limit, now))
        };
        self.connections.ids(ends).into_iter().for_each(|id| self.close(id));
    }

    /// Marks the messages that have passed their time for an answer by now. Returns whether one did so for the first time
    /// while nothing was answered since it was written.
    fn note_overdue(&mut self, answer: Duration, now: Instant) -> bool {
        let (responsive_since, last_answer) = (self.responsive_since, self.last_answer);
        let mut nothing_answered = false;
        for connection in self.connections.all.values_mut().filter(|one| one.is_open() || one.is_suspect()) {
            let overdue = |flight: &&mut InFlight| now >= flight.at.max(responsive_since) + answer;
            for flight in connection.in_flight.values_mut().take_while(overdue) {
                if std::mem::replace(&mut flight.had_time, true) {
                    continue;
                }
                // What goes because an answer came is written in the same moment.
                nothing_answered |= last_answer.is_none_or(|last| last <= flight.at);
                if let Some(message) = self.messages.all.get_mut(&flight.sid) {
                    message.had_time = true;
                }
            }
        }
        nothing_answered
    }

    /// The bridge has not kept something that a connection brought, and has room for it now: the connection ends after its
    /// answers, so that the push service sends it once more.
    pub(crate) fn handle_forgotten(&mut self, id: ConnectionId, now: Now) {
        if self.state != super::CoreState::Running || !self.connections.all.contains_key(&id) {
            return;
        }
        if self.connections.drain(id, DrainReason::Ordinary, now.instant) {
            self.redial.drained();
            tracing::info!(
                connection = id.0,
                "connection is replaced: messages of devices that it brought are to come again"
            );
        }
        self.retire(id);
        self.work(now);
    }

    /// A connection that loses answers takes nothing new, and another is opened beside it.
    fn suspect(&mut self, id: ConnectionId, now: Instant, why: String) {
        if !self.connections.drain(id, DrainReason::Suspect, now) {
            return;
        }
        self.snapshot.suspects += 1;
        self.redial.drained();
        tracing::warn!(connection = id.0, server = %self.settings.server, why, "connection takes no more messages: another one is opened");
        let detail = format!("{}: {why}", self.settings.server);
        self.report(Report::Connection { connection: id, change: ConnectionChange::Lost { detail } });
    }

    /// Whether a message waits for its answer on a connection.
    fn is_waited_for(&self, id: ConnectionId) -> bool {
        self.connections.all.get(&id).is_some_and(|connection| {
            let ours = |sid: Sid| self.messages.all.get(&sid).is_some_and(|message| message.is_on(id));
            connection.in_flight.values().any(|flight| ours(flight.sid))
        })
    }

    /// Whether all messages on a suspected connection had [`SUSPECT_ANSWERS`] times their time, and others that were written
    /// later were answered there, or on another connection since it was suspected: their answers are lost, and every message
    /// of their recipients waits for them.
    fn has_lost_answers(&self, id: ConnectionId, answer: Duration, now: Instant) -> bool {
        let Some(connection) = self.connections.all.get(&id) else { return false };
        let (Some((oldest, _)), Some((_, newest))) =
            (connection.in_flight.first_key_value(), connection.in_flight.last_key_value())
        else {
            return false;
        };
        let since = connection.draining_since();
        let answers = |one: &Connection| one.is_open() && one.last_answer.is_some() && one.last_answer >= since;
        let others = connection.newest_answered > *oldest || self.connections.any(answers);
        others && self.is_overdue(newest.at, answer * SUSPECT_ANSWERS, now)
    }

    /// Messages without an answer wait again or go back, and [`Self::redial_after`] says when the next connection is opened.
    pub(super) fn on_ended(&mut self, id: ConnectionId, ended: Ended, now: Now) {
        ended.unwritten.iter().for_each(|sid| self.on_unwritten(id, *sid));
        let Some(connection) = self.connections.all.remove(&id) else { return };
        let answer = self.settings.answer_timeout;
        for (number, flight) in &connection.in_flight {
            let location = Location::InFlight { connection: id, number: *number };
            if self.messages.all.get(&flight.sid).is_some_and(|message| message.location == location) {
                let had_time = answer.is_some_and(|answer| self.is_overdue(flight.at, answer, now.instant));
                let given_up = connection.is_ending() && had_time;
                if connection.last_answer.is_none_or(|last| last <= flight.at) {
                    let others = self.last_answer.is_some_and(|last| last >= flight.at);
                    self.note_break(&connection, flight.sid, given_up && others, now.instant);
                }
                self.on_unanswered(flight.sid, given_up && connection.newest_answered > *number);
            }
        }
        self.snapshot.auth_failures += u64::from(ended.end == End::AuthFailed);
        self.snapshot.reconnects += u64::from(!connection.is_dialing() && ended.end != End::Retired);
        let change = self.redial_after(id, &connection, &ended, now.instant);
        if self.state == super::CoreState::Running
            && let Some(change) = change
        {
            self.report(Report::Connection { connection: id, change });
        }
    }

    /// What an end means for the next connection, and what operators are to hear of it: attempts that fail before the
    /// log-in are in the log, and a drain was told.
    fn redial_after(
        &mut self,
        id: ConnectionId,
        ending: &Connection,
        ended: &Ended,
        now: Instant,
    ) -> Option<ConnectionChange> {
        let Ended { end, detail, .. } = ended;
        let (connection, server) = (id.0, &self.settings.server);
        let detail = format!("{server}: {detail}");
        let words = detail.clone();
        let is_short = ending.is_short_lived(now);
        let (failure, change) = match (ending.phase, end) {
            (_, End::AuthFailed) => {
                tracing::error!(connection, detail, "the push service refuses the login");
                (Failure::Refused, Some(ConnectionChange::AuthFailed { detail }))
            }
            (Phase::Draining { .. } | Phase::Closing, _) | (_, End::Retired) => {
                tracing::info!(connection, detail, "connection closed");
                self.at_connection_limit = false;
                self.redial.ended(now);
                return None;
            }
            (Phase::Dialing, End::TooMany) if self.connections.any(Connection::is_ending) => {
                tracing::info!(connection, detail, "the next connection waits for the end of a draining one");
                self.at_connection_limit = true;
                return None;
            }
            (Phase::Dialing, End::TooMany) if self.redial.may_count_ended(now) => {
                tracing::info!(connection, detail, "the push service counts a connection that has ended");
                (Failure::ConnectionLimit, None)
            }
            (Phase::Open { .. }, End::Dismissed) => {
                tracing::info!(connection, detail, "connection was ended by the push service");
                self.drained(id, is_short, now);
                return Some(ConnectionChange::Draining);
            }
            (Phase::Open { .. }, _) => {
                tracing::warn!(connection, detail, "connection lost");
                let failure = if is_short { Failure::ShortLife } else { Failure::Lost };
                (failure, Some(ConnectionChange::Lost { detail }))
            }
            (Phase::Dialing, _) => {
                tracing::warn!(connection, detail, "connection failed");
                (Failure::Unconnected, None)
            }
        };
        self.failure = Some(words);
        self.count_failure(id, failure, now);
        change
    }
}
