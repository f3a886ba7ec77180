//! Between the bridge and the connections: takes messages while there is room, lets them go when breaker, budget, token
//! and connection allow it, and turns what becomes of them into reports.
//!
//! Nothing in here waits for the bridge: while a report has no place in the channel, the hub takes neither messages nor
//! notes. What it holds is bounded by what the connections can carry and one line.

mod answer;
mod departure;
mod remarks;

use super::connection::{Note, Word};
use super::exchange::Reply;
use super::hearing::Hearing;
use super::ledger::{Ledger, Pending, Taken};
use super::pool::Pool;
use super::renewal::Api;
use super::token::{self, TokenSource};
use super::{FcmConfig, NO_TOKEN, OnAmbiguous, QUOTA};
use crate::chat::delivery::AMBIGUOUS;
use crate::chat::id::Sid;
use crate::chat::refusal::{Decision, Refusal};
use crate::fcm::breaker::{Breaker, Ticket};
use crate::fcm::budget::Budget;
use crate::fcm::target;
use crate::fcm::verdict::Access;
use crate::ops::clock::now_ms;
use crate::transport::{Change, ConnectionId, LINE_MAX, Link, Outage, Outlet, Report, Send};
use remarks::Remarks;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Notes that the connections may have waiting for the hub.
const NOTES: usize = 1024;
/// How often everything is looked at that no event announces: ended times to live, the age of connections.
const TICK: Duration = Duration::from_secs(1);

/// The hub; see the module.
pub(super) struct Hub {
    config: FcmConfig,
    ledger: Ledger,
    pool: Pool,
    tokens: TokenSource,
    breaker: Breaker,
    budget: Budget,
    flights: HashMap<Sid, Flight>,
    /// A probe that nobody was there for when it was due.
    spare: Option<Spare>,
    /// Answers so far that only a project gets that is in order.
    passed: u64,
    /// Faults of the project since the last of them.
    faults: u32,
    /// The last access token, by its generation, that was new and refused all the same: whatever message comes with it to
    /// be a probe, it is not new any more.
    bad_token: u64,
    /// The newest credentials that a token was had with.
    credentials: u64,
    /// Pauses of the project in a row that FCM set no time for.
    pauses: u32,
    /// That access tokens are refused to us, as it was told.
    denied: Option<Arc<str>>,
    notes: mpsc::Receiver<Note>,
    /// Reports that the bridge has not taken yet; while there are any, little else is done.
    outbox: VecDeque<Report>,
    hearing: Hearing,
    phase: Phase,
    sends_open: bool,
    /// When something may go that may not now.
    wake: Option<Instant>,
    tally: Tally,
    remarks: Remarks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// Until then answers are waited for.
    Stopping(Instant),
    /// They were waited for long enough.
    Ending,
}

/// A probe without a message.
struct Spare {
    ticket: Ticket,
    /// From then on a message that was refused itself may be the probe.
    anybody: Instant,
}

/// A message on a connection.
struct Flight {
    ticket: Ticket,
    probe: bool,
    /// [`Hub::passed`] when it was sent.
    passed: u64,
    target: target::Target,
    /// See [`Request::is_within_rules`](crate::fcm::request::Request::is_within_rules).
    is_within_rules: bool,
    /// What of the message did not travel, for its sender.
    dropped: Option<String>,
    access: Access,
    generation: u64,
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
    pub(super) fn new(config: FcmConfig, api: Api, tokens: TokenSource) -> Self {
        let (notes_tx, notes) = mpsc::channel(NOTES);
        Self {
            ledger: Ledger::default(),
            pool: Pool::new(config.clone(), api, notes_tx),
            tokens,
            breaker: Breaker::default(),
            budget: Budget::new(&config.quotas),
            flights: HashMap::new(),
            spare: None,
            passed: 0,
            faults: 0,
            bad_token: 0,
            credentials: token::FIRST,
            pauses: 0,
            denied: None,
            notes,
            outbox: VecDeque::new(),
            hearing: Hearing::default(),
            phase: Phase::Running,
            sends_open: true,
            wake: None,
            tally: Tally::default(),
            remarks: Remarks::default(),
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
            // The reports first: what they are compared with may only have grown since.
            let reports = outlet.reports.max_capacity() - outlet.reports.capacity();
            self.hearing.look(reports, outlet.sends.len());
            let free = self.outbox.is_empty();
            let room = self.ledger.len() < self.config.connections * self.config.streams + LINE_MAX;
            let overtime = if let Phase::Stopping(end) = self.phase { Some(end) } else { None };
            // Not biased: neither direction may starve the other.
            let turn = tokio::select! {
                () = stop.cancelled(), if self.phase == Phase::Running => Turn::Stop,
                () = at(overtime) => Turn::Overtime,
                permit = outlet.reports.reserve(), if !free => match (permit, self.outbox.pop_front()) {
                    (Ok(permit), Some(report)) => {
                        permit.send(report);
                        self.hearing.told();
                        Turn::Reported
                    }
                    _ => Turn::Deaf,
                },
                Some(note) = self.notes.recv(), if free => Turn::Note(note),
                send = outlet.sends.recv(), if free && self.sends_open && room => Turn::Send(send),
                _ = ticker.tick(), if free => Turn::Tick,
                () = at(self.wake), if free => Turn::Woken,
                () = self.tokens.changed(), if free => Turn::Woken,
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
            Turn::Overtime => {
                self.phase = Phase::Ending;
                self.pool.kill();
            }
            Turn::Note(note) => self.hear(note),
            Turn::Send(Some(send)) => self.accept(send),
            Turn::Send(None) => self.sends_open = false,
            Turn::Tick => {
                let expired = self.ledger.expire(now_ms(), std_now(), self.hearing.news(self.outbox.len()));
                expired.into_iter().for_each(|pending| self.expired(&pending));
            }
            Turn::Reported | Turn::Woken => {}
        }
    }

    /// Everything that can be done without waiting.
    fn work(&mut self, outlet: &Outlet) {
        let now = Instant::now();
        self.hear_credentials(now);
        if self.phase == Phase::Running && self.outbox.is_empty() {
            let demand = self.dispatch(now);
            self.keep_probe(now);
            self.pool.tend(demand, now);
        }
        self.tell_denied(now);
        let link = self.link(now);
        outlet.link.send_if_modified(|old| std::mem::replace(old, link) != link);
    }

    /// With credentials that were read again it is found out at once whether what was refused for the old ones goes.
    fn hear_credentials(&mut self, now: Instant) {
        let credentials = self.tokens.credentials();
        if credentials > self.credentials {
            self.credentials = credentials;
            self.breaker.hurry(now.into_std());
            // A ticket of before says nothing any more.
            self.spare = None;
        }
    }

    /// No token means no message, so it is told as any other fault of the credentials is.
    fn tell_denied(&mut self, now: Instant) {
        let denied = self.tokens.refusal(now);
        if let (None, Some(words)) = (&self.denied, &denied) {
            let change = Change::AuthFailed { detail: format!("{NO_TOKEN}: {words}") };
            self.outbox.push_back(Report::Connection { connection: ConnectionId::ALL, change });
        }
        self.denied = denied;
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
        let on_ambiguous = self.config.on_ambiguous;
        self.outbox.extend(unsettled.into_iter().map(|pending| unanswered(&pending, on_ambiguous)));
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
        self.hearing.taken();
        match self.ledger.accept(send, std_now(), self.hearing.news(self.outbox.len())) {
            Taken::Waits => {}
            Taken::Behind(wait) => self.defer(sid, wait),
            Taken::Twice => tracing::error!(%sid, "message given twice"),
        }
    }

    fn hear(&mut self, Note { connection, word }: Note) {
        let change = match word {
            Word::Takes(count) => self.pool.takes(connection, count, Instant::now()),
            Word::Leaves => self.pool.leaves(connection),
            Word::Reply(sid, reply) => {
                self.hear_reply(connection, sid, &reply);
                None
            }
            Word::Ended(cause, unwritten) => {
                for sid in unwritten {
                    self.hear_reply(connection, sid, &Reply::unwritten());
                }
                self.pool.ended(connection, &cause, Instant::now())
            }
        };
        let connection = ConnectionId::new(connection);
        self.outbox.extend(change.map(|change| Report::Connection { connection, change }));
    }

    /// Everything of a recipient goes back to the disk, because this message has to wait, or is gone already.
    fn defer_line(&mut self, recipient: i64, sid: Sid, wait: Duration) {
        let told = self.hearing.news(self.outbox.len()).told;
        for behind in self.ledger.give_back(recipient, sid, std_now() + wait, told) {
            self.defer(behind, wait);
        }
    }

    fn defer(&mut self, sid: Sid, wait: Duration) {
        self.tally.deferred += 1;
        self.outbox.push_back(Report::Deferred { sid, wait });
    }

    fn expired(&mut self, pending: &Pending) {
        self.tally.expired += 1;
        self.outbox.push_back(Report::Expired {
            sid: pending.send.sid,
            copies: pending.copies,
            replays: pending.tries.saturating_sub(1),
            held: pending.held.map(|cause| cause.as_str().to_owned()),
        });
    }

    fn link(&self, now: Instant) -> Link {
        match self.breaker.cause() {
            Some(cause) if self.spare.is_none() => return Link::Down(Outage::Refused(cause.as_str())),
            Some(cause) if self.ledger.len() > 0 && self.is_able(now) => return Link::Probing(cause.as_str()),
            _ if self.tokens.is_empty_handed(now) => return Link::Down(Outage::Refused(NO_TOKEN)),
            _ if self.budget.paused_until(now.into_std()).is_some() => return Link::Down(Outage::Refused(QUOTA)),
            _ => {}
        }
        if self.is_able(now) { Link::Up } else { Link::Down(Outage::Unconnected) }
    }

    fn is_able(&self, now: Instant) -> bool {
        self.phase == Phase::Running && self.pool.is_open() && self.tokens.bearer(now).is_some()
    }
}

/// What is told at the end of a message without an answer.
fn unanswered(pending: &Pending, on_ambiguous: OnAmbiguous) -> Report {
    let Pending { send, copies, tries, .. } = pending;
    if *copies == 0 || on_ambiguous == OnAmbiguous::Retry {
        return Report::Lost { sid: send.sid, copies: *copies };
    }
    let detail = "the bridge stopped before the answer came";
    let refusal = Refusal::new(Decision::FAIL, AMBIGUOUS, detail).maybe_arrived();
    Report::Refused { sid: send.sid, refusal, copies: *copies, replays: tries.saturating_sub(1) }
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
