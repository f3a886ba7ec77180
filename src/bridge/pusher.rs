//! Downstream, second half: what is due goes to the transport, and its answers go into the store.
//!
//! Also upstream, first half, because both come out of the same queue of reports: commit, then acknowledge.
//!
//! One task owns all of it, so the order book needs no thought about who else looks: claims, answers and commits are
//! handled one at a time, and every commit is awaited in the order in which it was asked for.

use super::brake::Brake;
use super::hall::Hall;
use super::order::OrderBook;
use super::upstream::UpstreamDesk;
use crate::chat::delivery::Event;
use crate::chat::id::{Sid, Token};
use crate::chat::message::BridgeEvent;
use crate::chat::push::{Push, Target};
use crate::chat::status::TokenAction;
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metric;
use crate::ops::story;
use crate::store::{Committed, DueQuery, Recorded, Retrying, StoreError, Taken};
use crate::transport::{Link, Port, Refusal, Report, Send, Tag};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Most answers that wait for their commit at one time.
const COMMITS_MAX: usize = 4_096;
/// The only status of a receipt that was ever documented (ccs.md 3.4).
const DELIVERED: &str = "MESSAGE_SENT_TO_DEVICE";
/// How often the store is asked for work when nothing rings; due times and parked messages are found by it.
const LOOK: Duration = Duration::from_millis(250);
/// A refusal with a first delay below this concerns the push service as a whole; longer ones concern one device or topic.
const WHOLE_SERVICE: Duration = Duration::from_secs(30);

/// A message that the transport has.
#[derive(Debug, Clone)]
struct Flight {
    recipient: i64,
    attempt: u32,
    deadline_ms: u64,
    token: Option<Token>,
}

/// What a commit was for, and what follows from it.
enum After {
    /// An answer of the push service to a message.
    Answer(Sid),
    /// A receipt of a device; it is acknowledged now.
    Receipt { original: String, tag: Tag },
}

/// The lane's task.
pub(super) struct Pusher {
    hall: Arc<Hall>,
    port: Port,
    desk: UpstreamDesk,
    /// Shared with the store's writer, which asks it while it looks for due messages; held for one look-up.
    book: Arc<Mutex<OrderBook>>,
    brake: Brake,
    pause_until: Option<Instant>,
    flights: HashMap<i64, Flight>,
    ready: VecDeque<Send>,
    taking: Option<Committed<Taken>>,
    more: bool,
    commits: VecDeque<(Committed<Recorded>, After)>,
}

impl Pusher {
    /// `retrying` are the messages that were handed out before the last stop.
    pub(super) fn new(hall: Arc<Hall>, port: Port, retrying: &[Retrying]) -> Self {
        let mut book = OrderBook::default();
        for message in retrying {
            book.retry(message.recipient, message.sid.row(), message.due_ms);
        }
        Self {
            desk: UpstreamDesk::new(Arc::clone(&hall), port.acks.clone()),
            hall,
            port,
            book: Arc::new(Mutex::new(book)),
            brake: Brake::default(),
            pause_until: None,
            flights: HashMap::new(),
            ready: VecDeque::new(),
            taking: None,
            more: true,
            commits: VecDeque::new(),
        }
    }

    /// Works until the transport has ended and all its answers are on disk. After `stop` nothing new is claimed.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reports_end = false;
        let mut due = self.hall.store.due();
        while !(reports_end && self.commits.is_empty() && self.desk.idle()) {
            self.claim(&stop).await?;
            let sends = self.port.sends.clone();
            let busy = !self.desk.idle();
            tokio::select! {
                done = front(&mut self.commits), if !self.commits.is_empty() => self.committed(done?).await,
                ready = self.desk.wait(), if busy => self.desk.finish(ready?).await?,
                claimed = taken(&mut self.taking) => self.claimed(claimed?),
                permit = sends.reserve(), if !self.ready.is_empty() => match (permit, self.ready.pop_front()) {
                    (Ok(permit), Some(send)) => permit.send(send),
                    // The transport has ended; the store still has these as claimed, and sends them after a restart.
                    _ => self.ready.clear(),
                },
                report = self.port.reports.recv(), if !reports_end && self.commits.len() < COMMITS_MAX => match report {
                    Some(report) => self.report(report).await?,
                    None => reports_end = true,
                },
                changed = due.changed() => self.more |= changed.is_ok(),
                _ = look.tick() => self.more = true,
                _ = self.port.link.changed(), if !reports_end => self.more = true,
            }
        }
        Ok(())
    }

    /// Asks the store for due messages, if there is room for them and somebody to send them.
    async fn claim(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        let limit = self.hall.settings.claims.saturating_sub(self.flights.len());
        let paused = self.pause_until.is_some_and(|until| Instant::now() < until);
        let up = *self.port.link.borrow() == Link::Up;
        // Asking for a handful at a time would make every commit a small one.
        let enough = limit * 2 >= self.hall.settings.claims;
        if !self.more || !enough || paused || !up || self.taking.is_some() || stop.is_cancelled() {
            return Ok(());
        }
        let (book, now) = (Arc::clone(&self.book), now_ms());
        let blocked = move |recipient: i64, row: i64| {
            book.lock().unwrap_or_else(PoisonError::into_inner).blocked(recipient, row, now)
        };
        let query = DueQuery { now, limit, blocked: Arc::new(blocked) };
        self.taking = Some(self.hall.store.take_due(query).await?);
        Ok(())
    }

    fn claimed(&mut self, taken: Taken) {
        self.more = !taken.claimed.is_empty();
        for message in taken.claimed {
            let push = match Push::from_body(&message.body) {
                Ok(push) => push,
                Err(error) => {
                    // Written by a later release, or damaged; it is left claimed, and an operator is told.
                    tracing::error!(sid = %message.sid, %error, "a stored message cannot be read");
                    continue;
                }
            };
            self.hall.metrics.count(Metric::DownstreamAttempts);
            let token = if let Target::Token(token) = &push.target { Some(token.clone()) } else { None };
            let flight = Flight {
                recipient: message.recipient,
                attempt: message.attempt,
                deadline_ms: message.deadline_ms,
                token,
            };
            self.flights.insert(message.sid.row(), flight);
            self.ready.push_back(Send {
                sid: message.sid,
                push,
                recipient: message.recipient,
                deadline_ms: message.deadline_ms,
            });
        }
        self.hall.metrics.set(Metric::InFlight, self.flights.len() as u64);
    }

    async fn report(&mut self, report: Report) -> Result<(), StoreError> {
        match report {
            Report::Accepted { sid, canonical, copies } => {
                self.brake.release();
                self.land(sid);
                self.count_copies(copies);
                self.record(sid, Event::Accepted { copies, canonical }).await
            }
            Report::Refused { sid, refusal, code, detail, copies } => {
                self.hall.metrics.nack(&code);
                self.count_copies(copies);
                let event = self.refused(sid, refusal, code, detail, copies);
                self.record(sid, event).await
            }
            Report::Lost { sid, copies } => {
                // The order book keeps it: nothing of this recipient may overtake it.
                self.flights.remove(&sid.row());
                self.record(sid, Event::Lost { copies }).await
            }
            Report::Upstream(upstream) => self.desk.take(upstream).await,
            Report::Receipt { original, status, tag, .. } => self.receipt(original, &status, tag).await,
        }
    }

    async fn receipt(&mut self, original: String, status: &str, tag: Tag) -> Result<(), StoreError> {
        self.hall.metrics.count(Metric::Receipts);
        match Sid::parse(&original) {
            Some(sid) if status == DELIVERED => {
                let committed = self.hall.store.record(sid, Event::Receipt, now_ms()).await?;
                self.commits.push_back((committed, After::Receipt { original, tag }));
            }
            _ => {
                self.hall.metrics.count(Metric::ReceiptsUnknown);
                tracing::debug!(original, status, "receipt that means nothing here, acknowledged");
                self.acknowledge(tag).await;
            }
        }
        Ok(())
    }

    async fn record(&mut self, sid: Sid, event: Event) -> Result<(), StoreError> {
        let committed = self.hall.store.record(sid, event, now_ms()).await?;
        self.commits.push_back((committed, After::Answer(sid)));
        Ok(())
    }

    /// Takes the message out of the air, for good.
    fn land(&mut self, sid: Sid) -> Option<Flight> {
        let flight = self.flights.remove(&sid.row())?;
        self.book.lock().unwrap_or_else(PoisonError::into_inner).settled(flight.recipient, sid.row());
        self.hall.metrics.set(Metric::InFlight, self.flights.len() as u64);
        Some(flight)
    }

    fn refused(&mut self, sid: Sid, refusal: Refusal, code: String, detail: String, copies: u32) -> Event {
        let delay = match refusal {
            Refusal::RetryAfter(delay) => Some(delay),
            Refusal::Backoff(first) => {
                if first < WHOLE_SERVICE {
                    self.pause();
                }
                let attempt = self.flights.get(&sid.row()).map_or(1, |flight| flight.attempt);
                Some(self.doubled(first, attempt))
            }
            Refusal::BadToken | Refusal::Never | Refusal::Operator | Refusal::Expired => None,
        };
        if let Some(delay) = delay {
            return self.again(sid, delay, code, copies);
        }
        self.brake.release();
        let flight = self.land(sid);
        let token_action = match refusal {
            Refusal::Expired => return Event::Expired,
            Refusal::BadToken => TokenAction::Remove,
            _ => TokenAction::Keep,
        };
        match refusal {
            Refusal::BadToken => {
                if let Some(token) = flight.and_then(|flight| flight.token) {
                    self.hall.tell(BridgeEvent::TokenRemoved { token, code: code.clone() });
                }
            }
            Refusal::Operator => {
                tracing::error!(%sid, code, "the push service refuses for a reason that an operator has to mend");
                self.hall.tell(BridgeEvent::Refused { code: code.clone(), id: sid });
            }
            _ => {}
        }
        Event::Refused { code, detail, token_action, copies }
    }

    fn again(&mut self, sid: Sid, delay: Duration, code: String, copies: u32) -> Event {
        self.hall.metrics.count(Metric::DownstreamRetries);
        let due_ms = now_ms() + u64::try_from(delay.as_millis()).unwrap_or(u64::MAX / 2);
        let Some(flight) = self.flights.remove(&sid.row()) else {
            return Event::Retry { due_ms, code, copies };
        };
        // At its deadline it is looked at once more, to be found expired.
        let due_ms = due_ms.min(flight.deadline_ms);
        self.book.lock().unwrap_or_else(PoisonError::into_inner).retry(flight.recipient, sid.row(), due_ms);
        tracing::debug!(target: story::TARGET, %sid, code, attempt = flight.attempt, in_ms = delay.as_millis(), "refused for now: will be tried again");
        Event::Retry { due_ms, code, copies }
    }

    /// The delay doubles with each attempt, and half of it again is left to chance, so that it never shrinks and never
    /// comes in step with others.
    fn doubled(&self, first: Duration, attempt: u32) -> Duration {
        let longest = Duration::from_secs(self.hall.settings.retry_max_seconds);
        let delay = first.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(longest);
        delay + delay.mul_f64(rand::random_range(0.0..0.5))
    }

    fn pause(&mut self) {
        if let Some(pause) = self.brake.refused() {
            tracing::warn!(seconds = pause.as_secs(), "the push service refuses everything: sending pauses");
            self.pause_until = Some(Instant::now() + pause);
        }
    }

    fn count_copies(&self, copies: u32) {
        if copies > 1 {
            self.hall.metrics.add(Metric::DownstreamResent, u64::from(copies - 1));
        }
    }

    async fn committed(&mut self, recorded: Recorded) {
        let Some((_, after)) = self.commits.pop_front() else { return };
        self.told(&recorded, &after);
        if let After::Receipt { tag, .. } = after {
            self.acknowledge(tag).await;
        }
    }

    fn told(&self, recorded: &Recorded, after: &After) {
        match recorded {
            Recorded::Moved { bal, id, told, .. } => {
                for status in *told {
                    super::count_status(&self.hall.metrics, *status);
                    tracing::debug!(target: story::TARGET, bal, id, ?status, "status on disk");
                }
            }
            Recorded::Swallowed => {}
            Recorded::Unknown => match after {
                After::Receipt { original, .. } => {
                    self.hall.metrics.count(Metric::ReceiptsUnknown);
                    tracing::debug!(original, "receipt for a message that is not remembered");
                }
                After::Answer(sid) => tracing::warn!(%sid, "answer for a message that is not remembered"),
            },
        }
    }

    /// The transport may have ended, or the connection: the push service repeats what it did not see acknowledged.
    async fn acknowledge(&self, tag: Tag) {
        let _ = self.port.acks.send(tag).await;
    }
}

async fn front(commits: &mut VecDeque<(Committed<Recorded>, After)>) -> Result<Recorded, StoreError> {
    match commits.front_mut() {
        Some((committed, _)) => committed.await,
        None => std::future::pending().await,
    }
}

async fn taken(taking: &mut Option<Committed<Taken>>) -> Result<Taken, StoreError> {
    let Some(committed) = taking else { return std::future::pending().await };
    let claimed = committed.await;
    *taking = None;
    claimed
}
