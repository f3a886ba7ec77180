//! What goes, what has to wait, and what goes back.

use super::connections::InFlight;
use super::service::{Admission, Location, Message, Service};
use super::snapshot::Trouble;
use super::upkeep::DRAINING_MAX;
use super::{Core, Now, Output};
use crate::chat::delivery::Fate;
use crate::chat::id::{Recipient, Sid};
use crate::transport::ConnectionId;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long messages wait here while no connection takes any. Then they become due again in the store, untried.
pub(super) const RETURN_UNTRIED_AFTER: Duration = Duration::from_secs(5);
/// So many times what the connections carry may be here in all: what they carry, what those carry that drain beside them,
/// and as much again that waits for messages of the same recipient on those.
pub(super) const TAKEN_FACTOR: usize = 1 + 2 * DRAINING_MAX;
/// While no message is answered, how long those behind an unanswered message of their recipient wait in the store: meanwhile
/// a message to another recipient can be the probe.
pub(super) const BEHIND_UNANSWERED_WAIT: Duration = Duration::from_secs(5);
/// Why it waits, for operators.
pub(super) const BEHIND_UNANSWERED: &str = "an earlier message of its recipient is not answered";
/// How long a message may be unanswered after its time to live before it is given up. A push service that is slow has
/// taken it all the same, more often than not.
const EXPIRED_IN_FLIGHT_AFTER: Duration = Duration::from_secs(10);

/// What became of a message that was offered to the connections.
pub(super) enum Offer {
    Sent,
    /// It has to wait, and with it all of its recipient.
    Held,
    /// It is not here any more.
    Gone,
    /// Nothing goes.
    Stop,
}

impl<S: Service> Core<S> {
    /// Gives what waits to the connections that have room, oldest first.
    pub(super) fn dispatch(&mut self, now: Now) {
        self.keep_apart();
        let mut sent = self.isolated_turn(now);
        let mut free = self.connections.free();
        if self.unanswered_at.is_some() {
            free = free.min(usize::from(!self.has_probe()));
        }
        let mut held: HashSet<Recipient> = HashSet::new();
        let (mut from, mut waiting) = (0, 0);
        self.demand = false;
        self.held_back_by = None;
        while let Some((seq, sid)) = self.messages.next_waiting(from) {
            if free == 0 {
                self.demand = true;
                break;
            }
            from = seq + 1;
            let Some(message) = self.messages.all.get(&sid) else { continue };
            let (recipient, isolated) = (message.recipient(), message.breaks.isolates());
            let offer = if isolated || held.contains(&recipient) { Offer::Held } else { self.offer(sid, now) };
            match offer {
                Offer::Sent => {
                    free -= 1;
                    sent = true;
                }
                Offer::Gone => {}
                Offer::Held => {
                    waiting += 1;
                    held.insert(recipient);
                }
                Offer::Stop => break,
            }
        }
        self.held = waiting;
        if !sent {
            self.isolated_last(now);
        }
    }

    fn offer(&mut self, sid: Sid, now: Now) -> Offer {
        let Some(message) = self.messages.all.get(&sid) else { return Offer::Gone };
        if message.send.deadline_ms < now.unix_ms {
            self.report_expired(sid);
            return Offer::Gone;
        }
        let (recipient, refused_by) = (message.recipient(), message.refused_by);
        let avoided = refused_by.filter(|(_, until)| *until > now.instant);
        let connection = match self.messages.connection_of(recipient) {
            Some(connection) if self.connections.has_room(connection) => connection,
            Some(_) => return Offer::Held,
            None => match (self.connections.choose(avoided.map(|(connection, _)| connection)), avoided) {
                (Some(connection), _) => connection,
                (None, Some((_, until))) => {
                    self.demand = true;
                    self.wake_at(until);
                    return Offer::Held;
                }
                (None, None) => return Offer::Held,
            },
        };
        self.admit(sid, connection, now)
    }

    /// Asks the service for a message that has a place on a connection.
    pub(super) fn admit(&mut self, sid: Sid, connection: ConnectionId, now: Now) -> Offer {
        let Some(message) = self.messages.all.get_mut(&sid) else { return Offer::Gone };
        match self.service.admit(message, now) {
            Admission::Go(request) => self.assign(connection, sid, request, now.instant),
            Admission::Skip => Offer::Held,
            Admission::HoldRecipient(until, why) => {
                self.wake_at(until);
                let next_try =
                    self.held_back_by.as_ref().and_then(|held| held.next_try).map_or(until, |first| first.min(until));
                self.held_back_by =
                    Some(Trouble { words: format!("held: {why}"), since: None, next_try: Some(next_try) });
                Offer::Held
            }
            Admission::Wait(until) => {
                until.into_iter().for_each(|until| self.wake_at(until));
                Offer::Stop
            }
            Admission::Back(fate) => {
                self.report_back(sid, fate);
                Offer::Gone
            }
        }
    }

    fn assign(&mut self, connection: ConnectionId, sid: Sid, request: S::Request, now: Instant) -> Offer {
        let had_time = self.messages.all.get(&sid).is_some_and(|message| message.had_time);
        let Some(number) = self.messages.assign(sid, connection) else { return Offer::Gone };
        self.connections.assign(connection, number, InFlight { sid, at: now, had_time });
        self.snapshot.written += 1;
        tracing::debug!(connection = connection.0, %sid, "message sent");
        self.outputs.push_back(Output::Assign { connection, sid, request });
        Offer::Sent
    }

    /// Whether a probe is in flight: any message on a connection that takes more.
    pub(super) fn has_probe(&self) -> bool {
        self.connections.any(|connection| connection.takes() && !connection.in_flight.is_empty())
    }

    /// Gives messages that were never written back to the store when they cannot go for long.
    pub(super) fn return_untried(&mut self, now: Instant) {
        let away = self.unable_since.is_some_and(|since| now >= since + RETURN_UNTRIED_AFTER);
        if self.unanswered_at.is_some() {
            self.return_behind_unanswered(now);
        } else if !away {
            return;
        }
        // Of whom something may have been taken already, the rest waits behind that.
        let tried = self.messages.waiting_where(|message| message.copies > 0).into_iter();
        let stays: HashSet<Recipient> =
            tried.filter_map(|sid| Some(self.messages.all.get(&sid)?.recipient())).collect();
        let goes = |message: &Message<S::Memo>| {
            let recipient = message.recipient();
            let under_way = stays.contains(&recipient) || self.messages.connection_of(recipient).is_some();
            message.copies == 0 && !under_way
        };
        for sid in self.messages.waiting_where(goes) {
            self.report_back(sid, Fate::Lost);
        }
    }

    /// What waits behind an unanswered message of its recipient takes no room from those that could be the probe. A message
    /// that was taken before the unanswered one stays: that one may have to go again, and then after it.
    fn return_behind_unanswered(&mut self, now: Instant) {
        let tried = self.messages.newest_tried();
        let behind = |message: &Message<S::Memo>| {
            message.copies == 0 && tried.get(&message.recipient()).is_some_and(|tried| message.seq > *tried)
        };
        for sid in self.messages.waiting_where(behind) {
            self.held_back = Some(now);
            self.report_back(sid, Fate::Deferred { wait: BEHIND_UNANSWERED_WAIT, why: BEHIND_UNANSWERED.into() });
        }
    }

    /// Takes out what is not worth sending any more, and what was not answered for long after that.
    pub(super) fn expire(&mut self, now: Now) {
        let late = |deadline_ms: u64| deadline_ms < now.unix_ms;
        for sid in self.messages.waiting_where(|message| late(message.send.deadline_ms)) {
            self.report_expired(sid);
        }
        let Some(answer) = self.settings.answer_timeout else { return };
        let answer_limit = answer.min(EXPIRED_IN_FLIGHT_AFTER);
        let overdue = self.connections.all.iter().flat_map(|(id, connection)| {
            let too_long = connection
                .in_flight
                .iter()
                .take_while(|(_, flight)| self.is_overdue(flight.at, answer_limit, now.instant));
            too_long.map(move |(number, flight)| (*id, *number, flight.sid))
        });
        let ours = |(connection, number, sid): &(ConnectionId, u64, Sid)| {
            self.messages.all.get(sid).is_some_and(|message| {
                let location = Location::InFlight { connection: *connection, number: *number };
                late(message.send.deadline_ms) && message.location == location
            })
        };
        // They stay where they are: at the peer they still take a place.
        let ended: Vec<Sid> = overdue.filter(ours).map(|(_, _, sid)| sid).collect();
        ended.into_iter().for_each(|sid| self.report_expired(sid));
    }

    fn report_expired(&mut self, sid: Sid) {
        // A receipt came, so it was taken in time.
        let received = self.messages.all.get(&sid).is_some_and(|message| message.received);
        self.report_back(sid, if received { Fate::ACCEPTED } else { Fate::Expired });
    }
}
