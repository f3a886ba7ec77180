//! Between the bridge and the connections: takes messages while there is room, lets them go when breaker, budget, token
//! and connection allow it, and turns what becomes of them into reports.
//!
//! Nothing in here waits for the bridge: while a report has no place in the channel, the hub takes neither messages nor
//! notes. What it holds is bounded by what the connections can carry and one line.

use super::address::Address;
use super::connection::{Note, Word};
use super::exchange::{Order, Reply};
use super::ledger::{LINE_MAX, Ledger, Pending, Processed, Taken};
use super::policy::{self, Consequence, Efforts, Pause};
use super::pool::{Demand, NoTaker, Pool};
use super::token::{Bearer, Wallet};
use super::{FcmConfig, encode};
use crate::chat::delivery::Arrival;
use crate::chat::id::Sid;
use crate::chat::push::{Push, TTL_MAX, Target};
use crate::fcm::breaker::{Admission, Breaker, Reaction, Ticket};
use crate::fcm::budget::{Budget, Charge, Grant, Kind};
use crate::fcm::judge::judge;
use crate::fcm::request::{Request, RequestError, translate};
use crate::fcm::target;
use crate::fcm::verdict::{Access, Asked, Cause, Refused, Verdict};
use crate::ops::clock::now_ms;
use crate::transport::{Change, Link, Outage, Outlet, Refusal, Report, Send};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Notes that the connections may have waiting for the hub.
const NOTES: usize = 1024;
/// How often everything is looked at that no event announces: ended times to live, the age of connections.
const TICK: Duration = Duration::from_secs(1);
/// A device's budget that is used up for longer than this sends its messages back to the disk.
const WAIT_HERE_MAX: Duration = Duration::from_secs(1);
/// Longest pause of a project that FCM did not ask for in so many words.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// The word for operators when the project's quota is used up, and when there is no access token.
const QUOTA: &str = "quota_exceeded";
const NO_TOKEN: &str = "no_access_token";

/// The hub; see the module.
pub(super) struct Hub {
    config: FcmConfig,
    ledger: Ledger,
    pool: Pool,
    wallet: Wallet,
    breaker: Breaker,
    budget: Budget,
    flights: HashMap<Sid, Flight>,
    /// A probe that nobody was there for when it was due.
    spare: Option<Ticket>,
    /// Pauses of the project in a row that FCM set no time for.
    pauses: u32,
    notes: mpsc::Receiver<Note>,
    /// Reports that the bridge has not taken yet; while there are any, little else is done.
    outbox: VecDeque<Report>,
    phase: Phase,
    sends_open: bool,
    /// When something may go that may not now.
    wake: Option<Instant>,
    tally: Tally,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Until then answers are waited for.
    Stopping(Instant),
}

/// A message on a connection.
struct Flight {
    ticket: Ticket,
    probe: bool,
    target: target::Target,
    access: Access,
    generation: u64,
}

/// Whether a message may go.
enum Permit {
    Go(Ticket),
    /// Nothing may, before this is over.
    Wait(Duration),
    /// Nothing of its recipient may.
    LineWaits(Duration),
}

/// What was done, for the last line of the log.
#[derive(Debug, Default)]
struct Tally {
    written: u64,
    accepted: u64,
    refused: u64,
    replayed: u64,
    ambiguous: u64,
    deferred: u64,
    expired: u64,
}

/// What happened, for one turn of the hub.
enum Turn {
    Stop,
    Reported,
    /// The bridge has gone.
    Deaf,
    Note(Note),
    Send(Option<Send>),
    Tick,
    Woken,
    Overtime,
}

impl Hub {
    /// A hub without connections.
    pub(super) fn new(config: FcmConfig, api: Address, wallet: Wallet) -> Self {
        let (notes_tx, notes) = mpsc::channel(NOTES);
        Self {
            ledger: Ledger::default(),
            pool: Pool::new(config.clone(), api, notes_tx),
            wallet,
            breaker: Breaker::default(),
            budget: Budget::new(&config.quotas),
            flights: HashMap::new(),
            spare: None,
            pauses: 0,
            notes,
            outbox: VecDeque::new(),
            phase: Phase::Running,
            sends_open: true,
            wake: None,
            tally: Tally::default(),
            config,
        }
    }

    /// Runs until `stop`, and then until every connection has ended in good order, or the grace period has.
    pub(super) async fn run(mut self, mut outlet: Outlet, stop: CancellationToken) {
        // v1 brings nothing that would have to be acknowledged.
        outlet.acks.close();
        let mut ticker = tokio::time::interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.phase == Phase::Running || !self.pool.is_empty() {
            self.work(&outlet);
            let free = self.outbox.is_empty();
            let room = self.ledger.len() < self.config.connections * self.config.streams + LINE_MAX;
            let overtime = if let Phase::Stopping(end) = self.phase { Some(end) } else { None };
            // Not biased: neither direction may starve the other.
            let turn = tokio::select! {
                () = stop.cancelled(), if overtime.is_none() => Turn::Stop,
                () = at(overtime) => Turn::Overtime,
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
                () = at(self.wake), if free => Turn::Woken,
                () = self.wallet.changed(), if free => Turn::Woken,
                Some(()) = self.pool.join_next() => Turn::Woken,
            };
            self.take(turn, &mut outlet);
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
            Turn::Overtime => self.pool.kill(),
            Turn::Note(note) => self.hear(note),
            Turn::Send(Some(send)) => self.accept(send),
            Turn::Send(None) => self.sends_open = false,
            Turn::Tick => {
                let expired = self.ledger.expire(now_ms(), std_now());
                expired.into_iter().for_each(|pending| self.expired(&pending));
            }
            Turn::Reported | Turn::Woken => {}
        }
    }

    /// Everything that can be done without waiting.
    fn work(&mut self, outlet: &Outlet) {
        let now = Instant::now();
        if self.phase == Phase::Running && self.outbox.is_empty() {
            let demand = self.dispatch(now);
            self.keep_probe(now);
            self.pool.tend(demand, now);
        }
        let link = self.link(now);
        outlet.link.send_if_modified(|old| std::mem::replace(old, link) != link);
    }

    fn stop(&mut self, outlet: &mut Outlet) {
        if self.phase == Phase::Running {
            tracing::info!(pending = self.ledger.len(), "transport stops");
            self.phase = Phase::Stopping(Instant::now() + self.config.timing.grace);
        }
        self.sends_open = false;
        outlet.sends.close();
        self.pool.stop();
    }

    /// Reports what is left, and what was never taken.
    async fn finish(mut self, mut outlet: Outlet) {
        while let Ok(note) = self.notes.try_recv() {
            self.hear(note);
        }
        let unsettled = std::mem::take(&mut self.ledger).into_unsettled();
        let lost = unsettled.len();
        self.outbox.extend(unsettled.into_iter().map(|p| Report::Lost { sid: p.send.sid, copies: p.copies }));
        while let Some(send) = outlet.sends.recv().await {
            self.outbox.push_back(Report::Lost { sid: send.sid, copies: 0 });
        }
        outlet.link.send_replace(Link::Down(Outage::Unconnected));
        for report in self.outbox {
            if outlet.reports.send(report).await.is_err() {
                break;
            }
        }
        tracing::info!(lost, tally = ?self.tally, "transport stopped");
    }

    fn accept(&mut self, send: Send) {
        let sid = send.sid;
        match self.ledger.accept(send, std_now()) {
            Taken::Waits => {}
            Taken::Behind(wait) => self.defer(sid, wait),
            Taken::Twice => tracing::error!(%sid, "message given twice"),
        }
    }

    fn hear(&mut self, Note { connection, word }: Note) {
        match word {
            Word::Takes(count) => self.pool.takes(connection, count, Instant::now()),
            Word::Leaves => self.pool.leaves(connection),
            Word::Reply(sid, reply) => self.hear_reply(connection, sid, &reply),
            Word::Ended(cause, unwritten) => {
                for sid in unwritten {
                    self.hear_reply(connection, sid, &Reply::unwritten());
                }
                self.pool.ended(connection, &cause, Instant::now());
            }
        }
    }

    /// Lets go what may go, oldest first.
    fn dispatch(&mut self, now: Instant) -> Demand {
        self.wake = self.ledger.release(now.into_std()).map(Instant::from_std);
        loop {
            let Some(pending) = self.ledger.next() else { return Demand::Met };
            let (sid, recipient) = (pending.send.sid, pending.send.recipient);
            if pending.send.deadline_ms < now_ms() {
                if let Some(pending) = self.ledger.settle(sid) {
                    self.expired(&pending);
                }
                continue;
            }
            let Some(connection) = self.pool.room() else { return Demand::Waiting };
            let Some(bearer) = self.wallet.bearer(now) else { return Demand::Met };
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
                    return Demand::Met;
                }
                Permit::LineWaits(wait) if wait <= WAIT_HERE_MAX => {
                    self.ledger.hold(recipient, (now + wait).into_std());
                    self.wake_in(wait, now);
                }
                Permit::LineWaits(wait) => self.defer_line(recipient, sid, wait),
            }
        }
    }

    fn prepare(&self, send: &Send) -> Result<(target::Target, Request), RequestError> {
        let now = now_ms();
        // What is left of it, in whole seconds: of "now or never" that is 0.
        let ttl_s =
            u32::try_from(send.deadline_ms.saturating_sub(now) / 1000).map_or(TTL_MAX, |left| left.min(TTL_MAX));
        let message = encode::message(&send.push, send.sid.to_string(), ttl_s, self.config.confirm_to.as_deref())?;
        let target = message.target.clone();
        Ok((target, translate(message, now / 1000)?))
    }

    fn permit(&mut self, sid: Sid, now: Instant) -> Permit {
        let Some(pending) = self.ledger.get_mut(sid) else { return Permit::Wait(TICK) };
        if let Some(ticket) = pending.probe.take().or_else(|| self.spare.take()) {
            return Permit::Go(ticket);
        }
        if self.breaker.cause().is_none() {
            match self.budget.take(charge(&pending.send.push, pending.send.recipient), now.into_std()) {
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

    fn send(
        &mut self,
        sid: Sid,
        (target, request): (target::Target, Request),
        (connection, bearer, ticket): (u64, Bearer, Ticket),
        now: Instant,
    ) {
        let Some(pending) = self.ledger.get_mut(sid) else { return };
        let newer = pending.refused_token.is_some_and(|refused| bearer.generation > refused);
        let access = if newer { Access::Refreshed } else { Access::Cached };
        if !request.losses.is_empty() && pending.copies == 0 {
            tracing::debug!(%sid, losses = ?request.losses, "fields that v1 has no place for");
        }
        self.ledger.fly(sid);
        let probe = self.breaker.cause().is_some();
        self.flights.insert(sid, Flight { ticket, probe, target, access, generation: bearer.generation });
        self.tally.written += 1;
        tracing::debug!(connection, %sid, "message sent");
        let order = Order { sid, body: request.body.into(), authorization: bearer.header };
        if let Err(NoTaker) = self.pool.order(connection, order, now) {
            self.pool.leaves(connection);
            self.hear_reply(connection, sid, &Reply::unwritten());
        }
    }

    /// When nobody was there for the probe that is due, the next message will be it; and somebody has to send one.
    fn keep_probe(&mut self, now: Instant) {
        let idle = self.flights.is_empty() && self.ledger.len() == 0;
        if self.spare.is_some() || !idle || self.breaker.cause().is_none() {
            return;
        }
        match self.breaker.admit(now.into_std()) {
            Admission::Go(ticket) => self.spare = Some(ticket),
            Admission::Wait { wait, .. } => self.wake_in(wait, now),
        }
    }

    fn hear_reply(&mut self, connection: u64, sid: Sid, reply: &Reply) {
        let Some(Flight { ticket, probe, target, access, generation }) = self.flights.remove(&sid) else { return };
        self.pool.done(connection, matches!(reply, Reply::Answered { .. }));
        let Some(pending) = self.ledger.get_mut(sid) else { return };
        let (now, recipient) = (std_now(), pending.send.recipient);
        let asked = Asked { target: &target, access, now_unix_s: now_ms() / 1000 };
        let verdict = judge(&reply.outcome(), &asked);
        let efforts = Efforts { attempt: pending.send.attempt, replays: pending.replays };
        let consequence = match &verdict {
            Verdict::Sent { .. } => None,
            Verdict::Refused(refused) => Some(policy::consequence(refused, efforts, self.config.on_ambiguous)),
        };
        // What goes again at once has not had its last word.
        if let Some(Consequence::Replay | Consequence::Refresh) = consequence {
            pending.replays += 1;
            pending.probe = probe.then_some(ticket);
            self.tally.replayed += 1;
            if consequence == Some(Consequence::Refresh) {
                pending.refused_token = Some(generation);
                self.wallet.refuse(generation);
            }
            self.ledger.back(sid, Processed::No);
            return;
        }
        let before = self.breaker.cause();
        let reaction = self.breaker.answered(ticket, &verdict, recipient, now);
        self.tell_breaker(before, &verdict, connection);
        match (verdict, consequence, reaction) {
            (Verdict::Refused(refused), _, Reaction::Hold(_))
            | (Verdict::Refused(refused), Some(Consequence::Hold(_)), _) => {
                self.keep(sid, &refused);
            }
            (Verdict::Refused(refused), Some(Consequence::Report { refusal, project }), _) => {
                self.report(sid, &refused, refusal);
                self.pause_project(project);
            }
            (Verdict::Sent { name }, ..) => self.sent(sid, name),
            (Verdict::Refused(_), ..) => {}
        }
    }

    fn sent(&mut self, sid: Sid, provider_id: Option<String>) {
        let Some(pending) = self.ledger.settle(sid) else { return };
        self.tally.accepted += 1;
        self.pauses = 0;
        self.outbox.push_back(Report::Accepted { sid, canonical: None, provider_id, copies: pending.copies });
    }

    /// It waits here until the breaker lets it go again.
    fn keep(&mut self, sid: Sid, refused: &Refused) {
        if let Some(pending) = self.ledger.get_mut(sid) {
            // The next token may be a good one, but the one after a pause is as old as any.
            pending.refused_token = None;
        }
        let processed = match policy::arrival(refused) {
            Arrival::No => Processed::No,
            Arrival::Possible => Processed::Perhaps,
        };
        self.ledger.back(sid, processed);
    }

    fn report(&mut self, sid: Sid, refused: &Refused, refusal: Refusal) {
        let Some(Pending { send, copies, .. }) = self.ledger.settle(sid) else { return };
        let (code, arrival) = (policy::code(refused, refusal), policy::arrival(refused));
        self.tally.refused += 1;
        self.tally.ambiguous += u64::from(refused.then == crate::fcm::verdict::Then::Undecided);
        if matches!(refusal, Refusal::Operator | Refusal::Quarantine) {
            tracing::error!(%sid, code, "message refused, the push service's settings need a look");
        } else {
            tracing::debug!(%sid, code, ?refusal, "message refused");
        }
        let detail = refused.detail.clone();
        self.outbox.push_back(Report::Refused { sid, refusal, code: code.to_owned(), detail, copies, arrival });
        if let Refusal::RetryAfter(wait) | Refusal::Backoff(wait) = refusal {
            self.defer_line(send.recipient, sid, wait);
        }
    }

    /// The message itself is one that FCM would refuse.
    fn refuse_ourselves(&mut self, sid: Sid, fault: RequestError) {
        let Some(Pending { copies, .. }) = self.ledger.settle(sid) else { return };
        self.tally.refused += 1;
        self.outbox.push_back(Report::Refused {
            sid,
            refusal: Refusal::Never,
            code: fault.code().to_owned(),
            detail: fault.to_string(),
            copies,
            arrival: Arrival::No,
        });
    }

    /// Everything of a recipient goes back to the disk, because this message has to wait, or is gone already.
    fn defer_line(&mut self, recipient: i64, sid: Sid, wait: Duration) {
        for behind in self.ledger.give_back(recipient, sid, std_now() + wait) {
            self.defer(behind, wait);
        }
    }

    fn defer(&mut self, sid: Sid, wait: Duration) {
        self.tally.deferred += 1;
        self.outbox.push_back(Report::Deferred { sid, wait });
    }

    fn expired(&mut self, pending: &Pending) {
        self.tally.expired += 1;
        self.outbox.push_back(Report::Refused {
            sid: pending.send.sid,
            refusal: Refusal::Expired,
            code: "EXPIRED".to_owned(),
            detail: "the time to live ended before the message could be sent".to_owned(),
            copies: pending.copies,
            arrival: Arrival::No,
        });
    }

    fn pause_project(&mut self, pause: Option<Pause>) {
        let now = std_now();
        let wait = match pause {
            None => return,
            Some(Pause::Exactly(wait)) => wait,
            // What was on its way when the pause began says nothing new.
            Some(Pause::From(_)) if self.budget.paused_until(now).is_some() => return,
            Some(Pause::From(first)) => {
                self.pauses += 1;
                first.saturating_mul(1 << (self.pauses - 1).min(16)).min(PAUSE_MAX)
            }
        };
        if self.budget.paused_until(now).is_none() {
            tracing::warn!(seconds = wait.as_secs(), "the project's quota is used up: sending pauses");
        }
        self.budget.pause(wait, now);
    }

    fn tell_breaker(&mut self, before: Option<Cause>, verdict: &Verdict, connection: u64) {
        match (before, self.breaker.cause(), verdict) {
            (None, Some(cause), Verdict::Refused(refused)) => {
                tracing::error!(
                    cause = cause.as_str(),
                    detail = refused.detail,
                    "nothing is sent until this is mended"
                );
                let detail = format!("{}: {}", cause.as_str(), refused.detail);
                self.outbox.push_back(Report::Connection { connection, change: Change::AuthFailed { detail } });
            }
            (Some(cause), None, _) => tracing::info!(cause = cause.as_str(), "messages are sent again"),
            _ => {}
        }
    }

    fn link(&self, now: Instant) -> Link {
        match self.breaker.cause() {
            Some(cause) if self.spare.is_none() => return Link::Down(Outage::Refused(cause.as_str())),
            _ if self.wallet.is_empty_handed(now) => return Link::Down(Outage::Refused(NO_TOKEN)),
            _ if self.budget.paused_until(now.into_std()).is_some() => return Link::Down(Outage::Refused(QUOTA)),
            _ => {}
        }
        let up = self.phase == Phase::Running && self.pool.is_open() && self.wallet.bearer(now).is_some();
        if up { Link::Up } else { Link::Down(Outage::Unconnected) }
    }

    fn wake_in(&mut self, wait: Duration, now: Instant) {
        let then = now + wait;
        self.wake = Some(self.wake.map_or(then, |wake| wake.min(then)));
    }
}

fn charge(push: &Push, recipient: i64) -> Charge {
    let kind = if push.collapse.is_some() { Kind::Collapsible } else { Kind::Plain };
    match push.target {
        Target::Token(_) => Charge::Device { recipient, kind },
        Target::Topic(_) | Target::Condition(_) => Charge::Topic,
    }
}

fn std_now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
