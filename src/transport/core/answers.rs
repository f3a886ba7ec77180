//! What becomes of messages: answers, what comes instead of one, and what devices send.

use super::service::{Location, Message, Response, Service};
use super::{Core, CoreState, ELSEWHERE_WAIT, Now, OnConnectionEnd, Output, Receipt, Verdict};
use crate::chat::delivery::{AMBIGUOUS, Fate};
use crate::chat::id::Sid;
use crate::chat::refusal::{Decision, Fault, Refusal};
use crate::transport::{ConnectionId, DeviceMessage, Report};
use std::time::Instant;

/// A message that so many connections left unanswered, while they answered others, is not sent again.
const IGNORED_MAX: u32 = 3;

impl<S: Service> Core<S> {
    /// An answer came, or a connection says that none came in time.
    pub(super) fn on_answered(&mut self, connection: ConnectionId, sid: Sid, answer: S::Answer, now: Now) {
        let response = self.service.response(&answer);
        self.note_response(connection, response, now.instant);
        match response {
            Response::Answer => self.connections.answered(connection, sid),
            Response::Late | Response::None => {
                self.connections.unassign(connection, sid);
            }
        }
        let there = |message: &&mut Message<S::Memo>| message.is_on(connection);
        let Some(message) = self.messages.all.get_mut(&sid).filter(there) else {
            // It has its report already: its time to live ended, or a receipt came.
            self.snapshot.counted.unknown_answers += 1;
            return;
        };
        match self.service.decide(message, answer, now) {
            Verdict::Back(fate) => self.report_back(sid, fate),
            Verdict::Again => self.requeue_unprocessed(sid, None),
            Verdict::Elsewhere => self.on_not_taken(connection, sid, now.instant),
        }
    }

    /// A connection certainly did not take a message that was written to it.
    pub(super) fn on_not_taken(&mut self, connection: ConnectionId, sid: Sid, now: Instant) {
        self.snapshot.not_taken += 1;
        self.connections.unassign(connection, sid);
        if self.messages.all.get(&sid).is_some_and(|message| message.is_on(connection)) {
            self.requeue_unprocessed(sid, Some((connection, now + ELSEWHERE_WAIT)));
        }
    }

    /// It waits again; the write does not count as a copy.
    fn requeue_unprocessed(&mut self, sid: Sid, refused_by: Option<(ConnectionId, Instant)>) {
        let Some(message) = self.messages.all.get_mut(&sid).filter(|message| message.location != Location::Waiting)
        else {
            return;
        };
        message.copies -= 1;
        message.refused_by = refused_by;
        self.messages.requeue(sid);
    }

    /// The connection has not written a message: it waits again, and its try is taken back.
    pub(super) fn on_unwritten(&mut self, connection: ConnectionId, sid: Sid) {
        self.connections.unassign(connection, sid);
        if let Some(message) = self.messages.all.get_mut(&sid).filter(|message| message.is_on(connection)) {
            message.tries -= 1;
            self.requeue_unprocessed(sid, None);
        }
    }

    pub(super) fn on_device_message(&mut self, message: DeviceMessage) {
        self.outputs.push_back(Output::DeviceMessage(message));
    }

    /// A device has the message, so the push service took it, whatever became of its answer. Waiting: it is reported
    /// accepted now. In flight: it is marked `received`; if its connection ends without the answer, `on_unanswered` reports it
    /// accepted.
    pub(super) fn on_receipt(&mut self, receipt: Receipt, now: Instant) {
        let sid = Sid::parse(&receipt.original);
        let message = sid.and_then(|sid| self.messages.all.get_mut(&sid)).filter(|message| message.copies > 0);
        let copies = message.as_ref().map_or(0, |message| message.copies);
        let waits = message.is_some_and(|message| {
            message.received = true;
            message.location == Location::Waiting
        });
        if copies > 0 {
            self.note_taken(now);
        }
        let gone = sid.filter(|_| waits);
        if let Some(sid) = gone {
            self.report_back(sid, Fate::ACCEPTED);
        }
        let Receipt { original, status, handed_over_ms, ack_ref } = receipt;
        let copies = if gone.is_some() { 0 } else { copies };
        self.report(Report::Receipt { original, status, handed_over_ms, copies, ack_ref });
    }

    /// A message goes back to the bridge.
    pub(super) fn report_back(&mut self, sid: Sid, fate: Fate) {
        let Some(message) = self.messages.remove(sid) else { return };
        if let Fate::Refused(refusal) = &fate {
            log_refusal(sid, refusal);
        }
        let replays = match fate {
            // It was not tried, or (`Lost`) is started again by the store.
            Fate::Lost | Fate::Deferred { .. } | Fate::Unsendable { .. } => 0,
            Fate::Accepted { .. } | Fate::Refused(_) | Fate::Expired => message.replays(),
        };
        self.report(Report::Back { sid, fate, copies: message.copies, replays });
    }

    /// A connection ended without an answer, which is noted as a break already. `ignored`: it answered others that were
    /// written later. At a stop `finish`
    /// reports the message.
    pub(super) fn on_unanswered(&mut self, sid: Sid, ignored: bool) {
        let Some(message) = self.messages.all.get_mut(&sid) else { return };
        if message.received {
            return self.report_back(sid, Fate::ACCEPTED);
        }
        message.ignored += u32::from(ignored);
        let (ignored, breaks) = (message.ignored, message.breaks.is_proven());
        match &self.settings.on_connection_end {
            OnConnectionEnd::Rewrite if ignored >= IGNORED_MAX => {
                self.give_up(sid, "three connections answered others, and never this message");
            }
            OnConnectionEnd::Rewrite if breaks => {
                self.give_up(sid, "three connections broke over this message alone, and answered others before");
            }
            OnConnectionEnd::Ambiguous(refusal) if self.state == CoreState::Running => {
                let fate = Fate::Refused(refusal.clone());
                self.report_back(sid, fate);
            }
            OnConnectionEnd::Rewrite | OnConnectionEnd::Ambiguous(_) => self.messages.requeue(sid),
        }
    }

    /// Nobody knows whether a message was taken, and it is not sent again.
    fn give_up(&mut self, sid: Sid, detail: &'static str) {
        self.report_back(sid, Fate::Refused(Refusal::new(Decision::FAIL, AMBIGUOUS, detail).maybe_arrived()));
    }
}

fn log_refusal(sid: Sid, refusal: &Refusal) {
    let code = refusal.code.as_str();
    if matches!(refusal.decision, Decision::Fail { fault: Fault::Operator, .. }) {
        tracing::error!(%sid, code, "message refused, the push service's settings need a look");
    } else {
        tracing::debug!(%sid, code, decision = ?refusal.decision, "message refused");
    }
}
