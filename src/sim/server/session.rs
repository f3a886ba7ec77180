//! A logged-in client: takes what it wants, refuses what the real server refuses, does to it what the plan of faults
//! says.
//!
//! A message is *unanswered* from its decoding until its answer is handed to the socket, so a client that keeps its
//! window is never accused of having left it.

use super::End;
use super::answer::{self, Answer, Word};
use super::draft::{Draft, Invalid};
use super::request::Request;
use crate::ccs::payload::Ack;
use crate::ccs::stanza::{Iq, IqPayload};
use crate::ccs::write;
use crate::sim::config::{Overrun, WireConfig};
use crate::sim::event::{ConnectionId, SimEvent};
use crate::sim::fault::{Dice, DrainPlan, Notice};
use crate::sim::service::Service;
use crate::sim::stats::Violations;
use crate::sim::virtual_devices::Refusal;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Messages of a client that may be unanswered even if leaving the window goes unpunished: they take memory.
const MAX_UNANSWERED: usize = 10_000;

/// What a logged-in client is owed, and what is to happen to it.
#[derive(Debug)]
pub(super) struct Session {
    connection: ConnectionId,
    jid: String,
    answers: VecDeque<Answer>,
    /// How often each id is unanswered; more than once is a violation.
    in_flight: HashMap<Arc<str>, u32>,
    unanswered: usize,
    received: u64,
    draining: bool,
    close_at: Option<u64>,
    reset_at: Option<u64>,
    stalled_until: Option<u64>,
}

/// What a session needs of its surroundings for one step.
pub(super) struct Room<'a> {
    pub(super) service: &'a mut Service,
    pub(super) wire: &'a WireConfig,
    pub(super) dice: &'a mut Dice,
    pub(super) out: &'a mut String,
    pub(super) now: u64,
}

/// What is decided about a message.
enum Verdict {
    Answer(Word),
    /// Taken, and never answered.
    Silence,
    End(End),
}

impl Session {
    pub(super) fn new(connection: ConnectionId, jid: String) -> Self {
        Self {
            connection,
            jid,
            answers: VecDeque::new(),
            in_flight: HashMap::new(),
            unanswered: 0,
            received: 0,
            draining: false,
            close_at: None,
            reset_at: None,
            stalled_until: None,
        }
    }

    /// Takes a request. Gives the end of the connection if that follows from it.
    pub(super) fn request(&mut self, request: Request, room: &mut Room<'_>) -> Option<End> {
        match request {
            Request::LoggedIn { sender } => room.service.logged_in(self.connection, &sender),
            Request::Push { message_id, to, odd_type, draft } => {
                if odd_type {
                    self.violation("message_type", room).message_type += 1;
                }
                return self.message(message_id, to, draft, room);
            }
            Request::Ack { id, json, ack } => self.ack(id.as_deref(), &json, &ack, room),
            Request::BadAck { message_id } => {
                self.violation("bad_ack", room).bad_ack += 1;
                let word = Word::nack("BAD_ACK", "Bad ack message: Missing Required Field: to");
                answer::write(room.out, &mut room.service.stats, &Answer::at_once(message_id, word));
            }
            Request::BadStanza { id, json, text } => {
                self.violation("bad_stanza", room).bad_stanza += 1;
                room.service.stats.stanza_error(400);
                answer::bad_request(room.out, id.as_deref(), &self.jid, &json, text);
            }
            Request::Question(iq) => self.question(&iq, room),
            Request::OutOfPlace => self.violation("out_of_place", room).out_of_place += 1,
            Request::Oversize => {
                self.violation("oversize", room).oversize += 1;
                return Some(end_with(room, "policy-violation"));
            }
            Request::Broken(error) => {
                tracing::debug!(connection = self.connection.0, %error, "stream cannot be read");
                self.violation("malformed", room).malformed += 1;
                return Some(end_with(room, "not-well-formed"));
            }
            Request::Close => self.close_at = Some(room.now),
            Request::LoginFailed | Request::Early => {}
        }
        None
    }

    fn message(
        &mut self,
        message_id: Arc<str>,
        to: Option<String>,
        draft: Result<Box<Draft>, Invalid>,
        room: &mut Room<'_>,
    ) -> Option<End> {
        self.received += 1;
        self.unanswered += 1;
        let stats = &mut room.service.stats;
        stats.messages += 1;
        stats.most_unanswered = stats.most_unanswered.max(self.unanswered);
        let copies = self.in_flight.entry(message_id.clone()).or_insert(0);
        *copies += 1;
        if *copies > 1 {
            self.violation("duplicate_id", room).duplicate_id += 1;
        }
        let latency = room.service.faults.latency(room.dice);
        let due = self.answers.back().map_or(0, |last| last.due).max(room.now.saturating_add(latency));
        match self.judge(draft, due, room) {
            Verdict::Answer(word) => {
                self.tell(&message_id, &word, room);
                self.answers.push_back(Answer { due, message_id, from: to, word });
            }
            Verdict::Silence => {
                room.service.stats.faults.lost_acks += 1;
                let reset_at = room.now.saturating_add(room.service.faults.lose_ack_reset_ms);
                self.reset_at = Some(self.reset_at.map_or(reset_at, |earlier| earlier.min(reset_at)));
            }
            Verdict::End(end) => return Some(end),
        }
        self.count_down(room);
        None
    }

    fn judge(&mut self, draft: Result<Box<Draft>, Invalid>, due: u64, room: &mut Room<'_>) -> Verdict {
        if self.unanswered > room.wire.window {
            self.violation("window", room).window += 1;
            match room.wire.overrun {
                Overrun::Nothing if self.unanswered <= MAX_UNANSWERED => {}
                Overrun::Nack if self.unanswered <= MAX_UNANSWERED => {
                    let text = "Too many messages of this connection are unanswered";
                    return Verdict::Answer(Word::nack("SERVICE_UNAVAILABLE", text));
                }
                Overrun::Nothing | Overrun::Nack | Overrun::Close => {
                    return Verdict::End(end_with(room, "policy-violation"));
                }
            }
        }
        if self.draining {
            let text = "Connection is draining, send over another connection";
            return Verdict::Answer(Word::nack("CONNECTION_DRAINING", text));
        }
        if let Some(code) = room.service.faults.take_nack(room.dice) {
            room.service.stats.faults.nacks += 1;
            return Verdict::Answer(Word::nack(code, "Refused by the plan of faults"));
        }
        let draft = match draft {
            Ok(draft) => draft,
            Err(invalid) => {
                self.violation("invalid_json", room).invalid_json += 1;
                return Verdict::Answer(Word::nack("INVALID_JSON", invalid.to_string()));
            }
        };
        match room.service.push(&draft.into_push(room.now, due), room.now) {
            Ok(_) if room.dice.chance(room.service.faults.lose_ack) => Verdict::Silence,
            Ok(accepted) => Verdict::Answer(Word::Ack { canonical: accepted.canonical }),
            Err(refusal) => Verdict::Answer(refuse(refusal, room)),
        }
    }

    /// Carries out the faults that wait for a number of messages.
    fn count_down(&mut self, room: &mut Room<'_>) {
        let now = room.now;
        let reached = |at: Option<u64>| at == Some(self.received);
        let faults = &room.service.faults;
        let (drain, close) = (reached(faults.drain_after), reached(faults.close_after));
        let (reset, stall) = (reached(faults.reset_after), reached(faults.stall_after));
        let (plan, stall_ms) = (faults.drain, faults.stall_ms);
        if drain {
            self.drain(plan, room);
        }
        if close {
            self.close(room);
        }
        if reset {
            self.reset_at = Some(now);
        }
        if stall {
            room.service.stats.faults.stalls += 1;
            self.stalled_until = Some(now.saturating_add(stall_ms));
        }
    }

    /// Begins to drain; once.
    pub(super) fn drain(&mut self, plan: DrainPlan, room: &mut Room<'_>) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.close_at = plan.close_ms.map(|ms| room.now.saturating_add(ms));
        room.service.drain(self.connection, plan);
        if plan.notice == Notice::Control {
            answer::draining(room.out);
        }
    }

    /// Closes the stream once everything due is written.
    pub(super) fn close(&mut self, room: &mut Room<'_>) {
        room.service.stats.faults.closes += 1;
        self.close_at = Some(room.now);
    }

    fn ack(&mut self, id: Option<&str>, json: &str, ack: &Ack, room: &mut Room<'_>) {
        if !room.service.ack(self.connection, &ack.to, &ack.message_id) {
            self.violation("foreign_ack", room).foreign_ack += 1;
            room.service.stats.stanza_error(406);
            answer::foreign_ack(room.out, id, &self.jid, json);
        }
    }

    fn question(&self, iq: &Iq, room: &mut Room<'_>) {
        let id = iq.id.as_deref();
        match iq.payload {
            IqPayload::Ping | IqPayload::Session => write::iq_result(room.out, id, Some(&self.jid)),
            _ => write::iq_error(room.out, id, Some(&self.jid), "service-unavailable"),
        }
    }

    /// Writes everything that is due; ends the connection if that is due.
    pub(super) fn flush(&mut self, room: &mut Room<'_>) -> Option<End> {
        if self.reset_at.is_some_and(|at| at <= room.now) {
            // Before the answers: what a reset destroys is just these.
            room.service.stats.faults.resets += 1;
            return Some(End::Reset);
        }
        if room.service.faults.receipt_before_ack {
            self.write_queued(room);
        }
        while self.answers.front().is_some_and(|answer| answer.due <= room.now)
            && let Some(answer) = self.answers.pop_front()
        {
            answer::write(room.out, &mut room.service.stats, &answer);
            self.unanswered -= 1;
            if let Some(copies) = self.in_flight.get_mut(&answer.message_id) {
                *copies -= 1;
                if *copies == 0 {
                    self.in_flight.remove(&answer.message_id);
                }
            }
        }
        self.write_queued(room);
        self.close_at.is_some_and(|at| at <= room.now).then_some(End::Close)
    }

    fn write_queued(&self, room: &mut Room<'_>) {
        while let Some((queued, copies)) = room.service.queued(self.connection, room.now, room.dice) {
            for _ in 0..copies {
                answer::queued(room.out, &self.jid, &room.wire.domain, &queued.json);
            }
        }
    }

    /// Whether the session neither takes nor gives anything now.
    pub(super) fn is_stalled(&self, now: u64) -> bool {
        self.stalled_until.is_some_and(|until| now < until)
    }

    /// Until when it is stalled, or was.
    pub(super) fn stalled_until(&self) -> Option<u64> {
        self.stalled_until
    }

    /// When [`Session::flush`] is due.
    pub(super) fn deadline(&self, service: &Service) -> Option<u64> {
        let answer = self.answers.front().map(|answer| answer.due);
        [answer, self.close_at, self.reset_at, service.upstream_due(self.connection)].into_iter().flatten().min()
    }

    fn tell(&self, message_id: &Arc<str>, word: &Word, room: &mut Room<'_>) {
        let (connection, message_id) = (self.connection, message_id.clone());
        room.service.tell(|| match word {
            Word::Ack { .. } => SimEvent::Accepted { connection, message_id },
            Word::Nack { code, .. } => SimEvent::Refused { connection, message_id, code: code.clone() },
        });
    }

    fn violation<'a>(&self, rule: &'static str, room: &'a mut Room<'_>) -> &'a mut Violations {
        tracing::debug!(connection = self.connection.0, rule, "client broke a rule");
        room.service.tell(|| SimEvent::Violation { connection: self.connection, rule });
        &mut room.service.stats.violations
    }
}

fn refuse(refusal: Refusal, room: &mut Room<'_>) -> Word {
    match refusal {
        Refusal::BadToken => Word::nack("BAD_REGISTRATION", "Invalid token on 'to' field"),
        Refusal::Unregistered => Word::nack("DEVICE_UNREGISTERED", "The app on the device is not registered any more"),
        Refusal::Full => Word::nack("SERVICE_UNAVAILABLE", "No more virtual devices: the limit is reached"),
        Refusal::Ordered(code) => {
            room.service.stats.faults.nacks += 1;
            Word::nack(code, "Refused by order for this device")
        }
    }
}

fn end_with(room: &mut Room<'_>, condition: &str) -> End {
    write::stream_error(room.out, condition);
    End::Close
}
