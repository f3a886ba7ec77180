//! What may go, and goes.

use super::{Flight, Hub, Spare, TICK};
use crate::chat::id::Sid;
use crate::chat::push::{Push, Target};
use crate::fcm::breaker::{Admission, Ticket};
use crate::fcm::budget::{Charge, Grant};
use crate::fcm::request::{Request, RequestError, translate};
use crate::fcm::target;
use crate::fcm::verdict::Access;
use crate::ops::clock::now_ms;
use crate::transport::fcm::encode;
use crate::transport::fcm::exchange::{Order, Reply};
use crate::transport::fcm::ledger::Pending;
use crate::transport::fcm::pool::{Demand, NoTaker, Room};
use crate::transport::fcm::token::Bearer;
use crate::transport::{Report, Send};
use std::time::Duration;
use tokio::time::Instant;

/// How long a message waits for another connection than the one that would not process it.
const ELSEWHERE_WAIT: Duration = Duration::from_millis(250);
/// How long a probe waits for a message that was not refused yet.
const STRANGER_WAIT: Duration = TICK;
/// A device's budget that is used up for longer than this sends its messages back to the disk.
const WAIT_HERE_MAX: Duration = Duration::from_secs(1);
/// Whether a message may go.
enum Permit {
    Go(Ticket),
    /// Nothing may, before this is over.
    Wait(Duration),
    /// Nothing of its recipient may.
    LineWaits(Duration),
}

impl Hub {
    /// Lets go what may go, oldest first.
    pub(super) fn dispatch(&mut self, now: Instant) -> Demand {
        self.wake = self.ledger.release(now.into_std()).map(Instant::from_std);
        let mut demand = Demand::Met;
        loop {
            let Some(pending) = self.candidate(now) else { return demand };
            let (sid, recipient) = (pending.send.sid, pending.send.recipient.number());
            if pending.send.deadline_ms < now_ms() {
                if let Some(pending) = self.ledger.settle(sid) {
                    self.expired(&pending);
                }
                continue;
            }
            let connection = match self.pool.room(pending.refused_by) {
                Room::On(connection) => connection,
                Room::OnlyThere(connection) if pending.waited => connection,
                Room::OnlyThere(_) => {
                    demand = Demand::Waiting;
                    self.wait_for_another(sid, recipient, now);
                    continue;
                }
                Room::Nowhere => return Demand::Waiting,
            };
            let Some(bearer) = self.tokens.bearer(now) else { return demand };
            let wait = self.project_waits(pending, now);
            if !wait.is_zero() {
                self.wake_in(wait, now);
                return demand;
            }
            let ready = match self.prepare(&pending.send) {
                Ok(ready) => ready,
                Err(fault) => {
                    self.refuse_ourselves(sid, fault);
                    continue;
                }
            };
            match self.permit(sid, now) {
                Permit::Go(ticket) => self.send(sid, ready, (connection, bearer, ticket), now),
                Permit::Wait(wait) => {
                    self.wake_in(wait, now);
                    return demand;
                }
                Permit::LineWaits(wait) if wait <= WAIT_HERE_MAX => {
                    self.ledger.hold(recipient, (now + wait).into_std());
                    self.wake_in(wait, now);
                }
                Permit::LineWaits(wait) => self.defer_line(recipient, sid, wait),
            }
        }
    }

    /// The message that goes next. While nothing may go, it finds out whether that has changed; then rather one that was
    /// not refused itself, for the fault may be with those that were, and nobody else shall wait for them.
    fn candidate(&self, now: Instant) -> Option<&Pending> {
        let anybody = self.spare.as_ref().is_some_and(|spare| spare.anybody <= now);
        if self.breaker.cause().is_none() || anybody { self.ledger.next() } else { self.ledger.next_probe() }
    }

    /// A connection that would not process a message is not asked again at once, while another may be had.
    fn wait_for_another(&mut self, sid: Sid, recipient: i64, now: Instant) {
        if let Some(pending) = self.ledger.get_mut(sid) {
            pending.waited = true;
        }
        self.ledger.hold(recipient, (now + ELSEWHERE_WAIT).into_std());
        self.wake_in(ELSEWHERE_WAIT, now);
    }

    /// How long the project's budget holds this message back. Asked before the message is written, which would be in vain
    /// at every turn of the hub otherwise.
    fn project_waits(&self, pending: &Pending, now: Instant) -> Duration {
        let counts = pending.probe.is_none() && self.spare.is_none() && self.breaker.cause().is_none();
        if counts { self.budget.project_wait(now.into_std()) } else { Duration::ZERO }
    }

    fn prepare(&self, send: &Send) -> Result<(target::Target, Request), RequestError> {
        let now = now_ms();
        let ttl_s = send.ttl_left(now);
        let message = encode::message(&send.push, send.sid.to_string(), ttl_s, self.config.confirm_to.as_deref())?;
        let target = message.target.clone();
        Ok((target, translate(message, now / 1000)?))
    }

    fn permit(&mut self, sid: Sid, now: Instant) -> Permit {
        let Some(pending) = self.ledger.get_mut(sid) else { return Permit::Wait(TICK) };
        if let Some(ticket) = pending.probe.take().or_else(|| self.spare.take().map(|spare| spare.ticket)) {
            return Permit::Go(ticket);
        }
        if self.breaker.cause().is_none() {
            match self.budget.take(charge(&pending.send.push, pending.send.recipient.number()), now.into_std()) {
                Grant::Go => {}
                Grant::ProjectWaits(wait) => return Permit::Wait(wait),
                Grant::DeviceWaits(wait) => return Permit::LineWaits(wait),
            }
        }
        match self.breaker.admit(now.into_std()) {
            Admission::Go(ticket) => Permit::Go(ticket),
            Admission::Wait { wait, .. } => Permit::Wait(wait),
        }
    }

    /// The message itself is one that FCM would refuse.
    fn refuse_ourselves(&mut self, sid: Sid, fault: RequestError) {
        if self.ledger.settle(sid).is_none() {
            return;
        }
        self.tally.refused += 1;
        let (code, detail) = (fault.code().to_owned(), fault.to_string());
        self.outbox.push_back(Report::Unsendable { sid, code, detail });
    }

    fn send(
        &mut self,
        sid: Sid,
        (target, request): (target::Target, Request),
        (connection, bearer, ticket): (u64, Bearer, Ticket),
        now: Instant,
    ) {
        let Some(pending) = self.ledger.get_mut(sid) else { return };
        let refused = pending.refused_token.map(|refused| refused.max(self.bad_token));
        let newer = refused.is_some_and(|refused| bearer.generation > refused);
        let access = if newer { Access::Refreshed } else { Access::Cached };
        let dropped = self.remarks.note(request.losses);
        self.ledger.fly(sid);
        let probe = self.breaker.cause().is_some();
        let (generation, passed, is_within_rules) = (bearer.generation, self.passed, request.is_within_rules);
        let flight = Flight { ticket, probe, passed, target, is_within_rules, dropped, access, generation };
        self.flights.insert(sid, flight);
        self.tally.written += 1;
        tracing::debug!(connection, %sid, "message sent");
        let order = Order { sid, body: request.body.into(), authorization: bearer.header };
        if let Err(NoTaker) = self.pool.order(connection, order, now) {
            self.hear_reply(connection, sid, &Reply::unwritten());
        }
    }

    /// When nobody was there for the probe that is due, the next message will be it; and somebody has to send one. Those
    /// that were refused have to wait a moment for a better one.
    pub(super) fn keep_probe(&mut self, now: Instant) {
        let idle = self.flights.is_empty() && self.ledger.next_probe().is_none();
        if self.spare.is_some() || !idle || self.breaker.cause().is_none() {
            return;
        }
        match self.breaker.admit(now.into_std()) {
            Admission::Go(ticket) => {
                self.spare = Some(Spare { ticket, anybody: now + STRANGER_WAIT });
                self.wake_in(STRANGER_WAIT, now);
            }
            Admission::Wait { wait, .. } => self.wake_in(wait, now),
        }
    }

    fn wake_in(&mut self, wait: Duration, now: Instant) {
        let then = now + wait;
        self.wake = Some(self.wake.map_or(then, |wake| wake.min(then)));
    }
}

fn charge(push: &Push, recipient: i64) -> Charge {
    match push.target {
        Target::Token(_) => Charge::Device(recipient),
        Target::Topic(_) | Target::Condition(_) => Charge::Topic,
    }
}
