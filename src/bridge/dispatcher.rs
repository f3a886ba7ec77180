//! Downstream, second half: what is due goes to the transport, and its answers go into the store.
//!
//! Also upstream, first half, because both come out of the same queue of reports: commit, then acknowledge.
//!
//! One task owns all of it, so the order book needs no thought about who else looks: claims, answers and commits are
//! handled one at a time, and every commit is awaited in the order in which it was asked for.

mod ready;
mod reports;

use super::context::{Context, locked};
use super::crowd::Crowd;
use super::expiry;
use super::order::OrderBook;
use super::service_backoff::ServiceBackoff;
use super::upstream::DeviceIntake;
use crate::chat::delivery::Event;
use crate::chat::id::{Sid, Token};
use crate::chat::message::ErrorCode;
use crate::chat::push::{Push, Target};
use crate::chat::refusal::Tried;
use crate::chat::transport::Transport;
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metric;
use crate::store::{Claimed, Committed, DueQuery, Gate, Hold, Recorded, StoreError, Taken};
use crate::transport::{AckRef, Link, Port, Send};
use ready::Ready;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Most answers that wait for their commit at one time.
const COMMITS_MAX: usize = 4_096;
/// How often the store is asked for work when nothing rings; due times are found by it.
const LOOK: Duration = Duration::from_millis(250);
/// How long the next message of a crowd waits for a place, in milliseconds. A device takes a few in a second (fcm-v1.md
/// 3.5), a topic as many as there are round trips.
const PACE_MS: u64 = 100;

/// A message that the transport has.
#[derive(Debug, Clone)]
struct Flight {
    recipient: i64,
    attempt: u32,
    tried: Tried,
    deadline_ms: u64,
    token: Option<Token>,
    /// Whether a copy of it may be with the push service already.
    copied: bool,
}

/// What a commit was for, and what follows from it.
enum After {
    /// An answer of the push service to a message, and its recipient if the message was in flight.
    Answer(Sid, Option<i64>),
    /// A receipt of a device; it is acknowledged now.
    Receipt { original: String, ack_ref: AckRef },
}

/// The window's task.
pub(super) struct Dispatcher {
    context: Arc<Context>,
    transport: Transport,
    port: Port,
    desk: DeviceIntake,
    /// [`Context::book`] of the transport.
    book: Arc<Mutex<OrderBook>>,
    service_backoff: ServiceBackoff,
    pause_until: Option<Instant>,
    flights: HashMap<i64, Flight>,
    /// How many of them the metrics know of.
    shown: usize,
    ready: Ready,
    taking: Option<Committed<Taken>>,
    more: bool,
    commits: VecDeque<(Committed<Recorded>, After)>,
}

impl Dispatcher {
    /// A window for what goes by `transport`.
    pub(super) fn new(context: Arc<Context>, transport: Transport, port: Port) -> Self {
        let book = context.book(&transport);
        Self {
            desk: DeviceIntake::new(Arc::clone(&context), port.acks.clone()),
            context,
            transport,
            port,
            book,
            service_backoff: ServiceBackoff::default(),
            pause_until: None,
            flights: HashMap::new(),
            shown: 0,
            ready: Ready::default(),
            taking: None,
            more: true,
            commits: VecDeque::new(),
        }
    }

    /// Works until the transport has ended and all its answers are on disk. After `stop` nothing new is claimed.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut look = every(LOOK);
        let mut reports_end = false;
        let mut due = self.context.store.due();
        while !(reports_end && self.is_idle()) {
            self.show_flights();
            self.claim(&stop).await?;
            let sends = self.port.sends.clone();
            let busy = !self.desk.idle();
            let flows = self.is_up() && !self.is_paused();
            tokio::select! {
                done = front(&mut self.commits), if !self.commits.is_empty() => self.committed(done?).await?,
                ready = self.desk.wait(), if busy => self.desk.finish(ready?).await?,
                taken = answer(&mut self.taking) => self.taken(taken?).await?,
                permit = sends.reserve(), if flows && !self.ready.is_empty() => match permit {
                    Ok(permit) => if let Some(send) = self.next_ready().await? {
                        permit.send(send);
                    },
                    Err(_) => self.give_back().await?,
                },
                report = self.port.reports.recv(), if !reports_end && self.commits.len() < COMMITS_MAX => match report {
                    Some(report) => self.report(report).await?,
                    None => {
                        reports_end = true;
                        self.desk.give_up();
                        self.give_back().await?;
                    }
                },
                Some(message) = self.port.device_messages.recv() => self.desk.take(message).await?,
                Ok(()) = due.changed() => self.more = true,
                // The transport may have gone; then no further news comes.
                Ok(()) = self.port.link.changed() => self.more = true,
                _ = look.tick() => {
                    self.more = true;
                    if !self.is_up() {
                        // Nobody knows for how long; in the store they expire in time.
                        self.give_back().await?;
                    }
                }
            }
        }
        self.show_flights();
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.commits.is_empty() && self.ready.is_empty() && self.taking.is_none() && self.desk.idle()
    }

    fn is_up(&self) -> bool {
        matches!(*self.port.link.borrow(), Link::Up | Link::Probing(_))
    }

    fn is_paused(&self) -> bool {
        self.pause_until.is_some_and(|until| Instant::now() < until)
    }

    /// Asks the store for due messages, if there is room for them and somebody to send them.
    async fn claim(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        let limit = self.context.settings.claims.saturating_sub(self.flights.len());
        // Asking for a handful at a time would make every commit a small one.
        let enough = limit * 2 >= self.context.settings.claims;
        let wanted = self.more && enough && self.taking.is_none();
        if !wanted || self.is_paused() || !self.is_up() || stop.is_cancelled() {
            return Ok(());
        }
        let now = now_ms();
        let query = DueQuery { transport: self.transport.clone(), now, limit, gate: self.gate(now) };
        // Whatever rings from here on is news that the answer may not know of.
        self.more = false;
        self.taking = Some(self.context.store.take_due(query).await?);
        self.ready.asked();
        Ok(())
    }

    /// Who has to wait: what is behind a retry for the end of it, what finds no place with the transport for a moment.
    fn gate(&self, now: u64) -> Gate {
        let (book, crowd) = (Arc::clone(&self.book), self.crowd());
        Gate::new(move || {
            let (book, mut crowd) = (Arc::clone(&book), crowd.clone());
            move |recipient, row| {
                if locked(&book).blocks(recipient, row) {
                    return Some(Hold::UntilCalled);
                }
                let full = crowd.as_mut().is_some_and(|crowd| !crowd.takes(recipient));
                full.then(|| Hold::Until(now.saturating_add(PACE_MS)))
            }
        })
    }

    /// Over v1 a recipient's messages go one at a time; over CCS many are under way together.
    fn crowd(&self) -> Option<Crowd> {
        let one_at_a_time = self.transport != Transport::Ccs;
        one_at_a_time.then(|| Crowd::of(self.flights.values().map(|flight| flight.recipient)))
    }

    async fn taken(&mut self, taken: Taken) -> Result<(), StoreError> {
        // It hands out, and looks at, so many at a time.
        self.more |= taken.next_due.is_some_and(|due| due <= now_ms());
        expiry::expired(&self.context, &taken.expired).await?;
        for message in taken.claimed {
            match Push::from_body(&message.body) {
                Ok(push) => self.claimed(message, push),
                Err(error) => {
                    // Written by a later release, or damaged. Its sender is told, and can send it again.
                    tracing::error!(sid = %message.sid, %error, "a stored message cannot be read");
                    let event = Event::Unsendable {
                        code: ErrorCode::BadJson.as_str().to_owned(),
                        detail: "the bridge cannot read the stored message".to_owned(),
                    };
                    self.record(message.sid, Some(message.recipient), event).await?;
                }
            }
        }
        Ok(())
    }

    fn claimed(&mut self, message: Claimed, push: Push) {
        let Claimed { sid, recipient, attempt, tried, accepted_at: accepted_ms, deadline_ms, .. } = message;
        let copied = message.dup_possible;
        let token = if let Target::Token(token) = &push.target { Some(token.clone()) } else { None };
        self.flights.insert(sid.row(), Flight { recipient, attempt, tried, deadline_ms, token, copied });
        self.ready.push(Send { sid, push, recipient, accepted_ms, deadline_ms });
    }

    /// The next message for the transport. What has come to be behind a refused one meanwhile goes back.
    async fn next_ready(&mut self) -> Result<Option<Send>, StoreError> {
        while let Some((send, passes)) = self.ready.pop() {
            let blocked = self.book().blocks(send.recipient, send.sid.row());
            if !passes && !blocked {
                self.context.metrics.count(Metric::DownstreamAttempts);
                return Ok(Some(send));
            }
            self.put_back(send).await?;
        }
        Ok(None)
    }

    /// Everything that is claimed and not handed over goes back to the store.
    async fn give_back(&mut self) -> Result<(), StoreError> {
        while let Some((send, _)) = self.ready.pop() {
            self.put_back(send).await?;
        }
        Ok(())
    }

    async fn put_back(&mut self, Send { sid, recipient, .. }: Send) -> Result<(), StoreError> {
        self.flights.remove(&sid.row());
        self.ready.went_back(recipient);
        self.record(sid, Some(recipient), Event::Lost { copies: 0 }).await
    }

    async fn record(&mut self, sid: Sid, recipient: Option<i64>, event: Event) -> Result<(), StoreError> {
        let committed = self.context.store.record(sid, event, now_ms()).await?;
        self.commits.push_back((committed, After::Answer(sid, recipient)));
        Ok(())
    }

    /// Tells the metrics how many messages are under way: several windows share the gauge.
    fn show_flights(&mut self) {
        let now = self.flights.len();
        if now != self.shown {
            self.context.metrics.shift(Metric::InFlight, i64::try_from(now).unwrap_or(i64::MAX) - self.shown as i64);
            self.shown = now;
        }
    }

    fn book(&self) -> MutexGuard<'_, OrderBook> {
        locked(&self.book)
    }
}

async fn front(commits: &mut VecDeque<(Committed<Recorded>, After)>) -> Result<Recorded, StoreError> {
    match commits.front_mut() {
        Some((committed, _)) => committed.await,
        None => std::future::pending().await,
    }
}

async fn answer<T>(asked: &mut Option<Committed<T>>) -> Result<T, StoreError> {
    let Some(committed) = asked else { return std::future::pending().await };
    let answer = committed.await;
    *asked = None;
    answer
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
