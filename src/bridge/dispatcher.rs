//! Downstream, second half: what is due goes to the transport, and its answers go into the store.
//!
//! No message waits in here: only as many are claimed as the transport's channel has room for, and what cannot be handed
//! over all the same goes back to the disk. Commits are awaited in the order in which they were asked for.
//!
//! Claimed on acceptance: the store stores a new message for which the transport has room as in flight in `accept` itself,
//! and puts it into a list, which `take_claimed_on_accept` empties. `take_due` never returns it.

mod reports;

use super::context::{Context, oldest};
use super::device_intake::{DeviceIntake, DevicePort};
use super::sending::Standing;
use super::service_backoff::ServiceBackoff;
use crate::chat::delivery::{Event, Fate, Life};
use crate::chat::id::{Recipient, Sid, Token};
use crate::chat::message::ErrorCode;
use crate::chat::push::{Push, Target};
use crate::chat::recipient_queue::Pipelining;
use crate::chat::transport::Transport;
use crate::mqtt::Inbound;
use crate::ops::clock::{every, now_ms};
use crate::ops::metrics::Metric;
use crate::store::{Claimed, Committed, DueBatch, DueQuery, Recorded, StoreError};
use crate::transport::{AckRef, Capabilities, Link, Port, Report, Send};
use futures_util::future::OptionFuture;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Most answers that wait for their commit at one time.
const COMMITS_MAX: usize = 4_096;
/// How often the store is asked for work when no watch changes; due times are found by it.
const LOOK: Duration = Duration::from_millis(250);

/// A message that the transport has.
#[derive(Debug, Clone)]
struct InFlight {
    recipient: Recipient,
    /// As it was when the message was handed over.
    life: Life,
    deadline_ms: u64,
    token: Option<Token>,
}

/// Nothing is sent for a while, since the push service refuses.
#[derive(Debug, Clone)]
pub(super) struct Pause {
    pub(super) until: Instant,
    /// The code of the refusal that set `until`.
    pub(super) code: String,
}

/// Whether new messages may be claimed on acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// The store was told of room.
    Open,
    /// The transport takes nothing, or a message went back to the disk. Until the store has said that nothing is claimed on
    /// acceptance any more, what it hands out goes back as well, so that it does not pass that message.
    Closing,
    Closed,
}

/// What a commit was for, and what follows from it.
enum After {
    /// What became of a message.
    Answer(Sid),
    /// A receipt of a device; it is acknowledged now.
    Receipt { original: String, ack_ref: AckRef },
}

pub(super) struct Dispatcher {
    context: Arc<Context>,
    transport: Transport,
    capabilities: Capabilities,
    sends: mpsc::Sender<Send>,
    acks: mpsc::Sender<AckRef>,
    reports: mpsc::Receiver<Report>,
    link: watch::Receiver<Link>,
    /// By which transports an operator lets nothing be sent.
    paused: watch::Receiver<BTreeSet<Transport>>,
    service_backoff: ServiceBackoff,
    /// The last pause, also when it is over.
    pause: watch::Sender<Option<Pause>>,
    in_flight: HashMap<Sid, InFlight>,
    /// How many of them the metrics know of.
    reported_in_flight: usize,
    taking: Option<Committed<DueBatch>>,
    /// Whether something may be due that the store was not asked for yet.
    more: bool,
    /// When it was last asked.
    asked_at: Instant,
    gate: Gate,
    /// How many messages claimed on acceptance were taken from the list.
    taken_on_accept: u64,
    commits: VecDeque<(Committed<Recorded>, After)>,
}

impl Dispatcher {
    /// A dispatcher for what goes by `transport`, and the task beside it for what comes.
    ///
    /// `outboxes` takes what chat users write by their devices.
    pub(super) fn new(
        context: Arc<Context>,
        transport: Transport,
        port: Port,
        outboxes: mpsc::Sender<Inbound>,
    ) -> (Self, DeviceIntake) {
        let Port { capabilities, sends, acks, resends, reports, device_messages, link, .. } = port;
        let port = DevicePort { messages: device_messages, acks: acks.clone(), resends };
        let intake = DeviceIntake::new(Arc::clone(&context), transport.clone(), port, outboxes);
        let dispatcher = Self {
            paused: context.sending.paused(),
            context,
            transport,
            capabilities,
            sends,
            acks,
            reports,
            link,
            service_backoff: ServiceBackoff::default(),
            pause: watch::channel(None).0,
            in_flight: HashMap::new(),
            reported_in_flight: 0,
            taking: None,
            more: true,
            asked_at: Instant::now(),
            gate: Gate::Closed,
            taken_on_accept: 0,
            commits: VecDeque::new(),
        };
        (dispatcher, intake)
    }

    /// Works until the transport has ended and all its answers are on disk. After `stop` nothing new is claimed.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut look = every(LOOK);
        let mut reports_end = false;
        let mut due = self.context.store.due();
        let mut on_accept_wakes = self.context.store.on_accept_wakes();
        loop {
            // While `take_due` is under way, its answer says which messages of the list go before its own.
            if self.taking.is_none() {
                self.hand_over(Vec::new(), self.taken_on_accept).await?;
            }
            if reports_end && self.commits.is_empty() && self.taking.is_none() && self.gate == Gate::Closed {
                break;
            }
            self.update_gauge();
            self.claim(&stop).await?;
            self.tell_standing();
            tokio::select! {
                (recorded, after) = oldest(&mut self.commits) => self.committed(&recorded?, after).await,
                Some(taken) = OptionFuture::from(self.taking.as_mut()) => {
                    self.taking = None;
                    self.on_taken(taken?).await?;
                }
                report = self.reports.recv(), if !reports_end && self.commits.len() < COMMITS_MAX => match report {
                    Some(report) => self.report(report).await?,
                    None => reports_end = true,
                },
                Ok(()) = due.changed() => self.more = true,
                Ok(()) = on_accept_wakes.changed() => {}
                // The transport may have gone; then no further news comes.
                Ok(()) = self.link.changed() => self.more = true,
                Ok(()) = self.paused.changed() => self.more = true,
                _ = look.tick() => self.more = true,
            }
        }
        self.update_gauge();
        Ok(())
    }

    /// How many messages to claim: as many as the transport's channel has room for. While the transport probes: one message,
    /// and only when its channel is empty.
    fn room(&self) -> usize {
        if !self.is_open() {
            return 0;
        }
        let claims = self.context.settings.claims;
        let free = self.sends.capacity();
        if let Link::Probing(_) = *self.link.borrow() {
            return usize::from(free == self.sends.max_capacity());
        }
        let room = claims.saturating_sub(self.in_flight.len()).min(free);
        // A claim of a few messages costs a commit like one of many, so it waits until half of the claims are free. Where
        // answers take long that may not happen for long: then each look claims as many as there is room for.
        if room * 2 >= claims || self.asked_at.elapsed() >= LOOK { room } else { 0 }
    }

    /// Whether the transport takes messages now.
    fn is_open(&self) -> bool {
        let takes = matches!(*self.link.borrow(), Link::Up | Link::Probing(_));
        let is_allowed = !self.paused.borrow().contains(&self.transport);
        takes && is_allowed && self.gate != Gate::Closing && !self.is_paused() && !self.sends.is_closed()
    }

    fn is_paused(&self) -> bool {
        self.pause.borrow().as_ref().is_some_and(|pause| Instant::now() < pause.until)
    }

    /// When it sends nothing, and why.
    pub(super) fn pauses(&self) -> watch::Receiver<Option<Pause>> {
        self.pause.subscribe()
    }

    /// Asks the store for due messages, if there is room for them; or tells it that there is none any more.
    async fn claim(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        let open = !stop.is_cancelled() && self.is_open();
        let limit = if open { self.room() } else { 0 };
        let closes = !open && self.gate != Gate::Closed;
        if self.taking.is_some() || !closes && (limit == 0 || !self.more) {
            return Ok(());
        }
        self.gate = if open { Gate::Open } else { Gate::Closing };
        let (pipelining, taken_on_accept) = (self.capabilities.pipelining, self.taken_on_accept);
        let query = DueQuery { transport: self.transport.clone(), now: now_ms(), limit, taken_on_accept, pipelining };
        // A change from here on may be missing in the answer; it sets `more` again.
        self.more = false;
        self.asked_at = Instant::now();
        self.taking = Some(self.context.store.take_due(query).await?);
        Ok(())
    }

    /// Hands over what the store has given out, and asks again while more is due.
    async fn on_taken(&mut self, taken: DueBatch) -> Result<(), StoreError> {
        // The store looks at a limited number of messages at a time: more may be due.
        self.more |= taken.next_due.is_some_and(|due| due <= now_ms());
        self.context.metrics.add(Metric::DownstreamExpired, taken.expired);
        let closed = self.gate == Gate::Closing;
        self.hand_over(taken.claimed, taken.claimed_on_accept).await?;
        if closed {
            // What went back before, and what was claimed on acceptance until now, is on the disk again.
            self.gate = Gate::Closed;
            self.more = true;
        }
        Ok(())
    }

    /// Sends what was claimed on acceptance before `claimed`, then `claimed`, then the rest of the list.
    /// `claimed_on_accept` is the length of the list, counted since the start, when the store answered.
    async fn hand_over(&mut self, claimed: Vec<Claimed>, claimed_on_accept: u64) -> Result<(), StoreError> {
        let mut before = self.context.store.take_claimed_on_accept(&self.transport);
        let first = usize::try_from(claimed_on_accept.saturating_sub(self.taken_on_accept)).unwrap_or(usize::MAX);
        let behind = before.split_off(first.min(before.len()));
        self.taken_on_accept += (before.len() + behind.len()) as u64;
        // Asked once: of what is claimed together nothing may pass what goes back.
        let mut open = self.is_open();
        for message in before.into_iter().chain(claimed).chain(behind) {
            match Push::from_body_for(&message.body, message.address.as_deref()) {
                Ok(push) => open = self.hand_over_one(message, push, open).await?,
                Err(error) => {
                    // Written by a later release, or damaged. Its sender is told, and can send it again.
                    tracing::error!(sid = %message.sid, %error, "a stored message cannot be read");
                    let code = ErrorCode::BadJson.to_string();
                    let detail = "the bridge cannot read the stored message".to_owned();
                    self.record(message.sid, self.returned_unwritten(Fate::Unsendable { code, detail })).await?;
                }
            }
        }
        Ok(())
    }

    /// Hands a message over; false if that is not possible any more. It goes back to the disk where the transport has gone,
    /// or takes nothing any more: nobody knows for how long, and there it expires in time.
    async fn hand_over_one(&mut self, message: Claimed, push: Push, open: bool) -> Result<bool, StoreError> {
        let Claimed { sid, recipient, life, accepted_at: accepted_ms, deadline_ms, .. } = message;
        let token = if let Target::Token(token) = &push.target { Some(token.clone()) } else { None };
        let send = Send { sid, push, recipient, accepted_ms, deadline_ms };
        if !open || self.sends.try_send(send).is_err() {
            self.gate = Gate::Closing;
            self.record(sid, self.returned_unwritten(Fate::Lost)).await?;
            return Ok(false);
        }
        self.in_flight.insert(sid, InFlight { recipient, life, deadline_ms, token });
        Ok(true)
    }

    /// Stores what became of a message; its commit is awaited in `commits`.
    async fn record(&mut self, sid: Sid, event: Event) -> Result<(), StoreError> {
        let committed = self.context.store.record(sid, event, now_ms()).await?;
        self.commits.push_back((committed, After::Answer(sid)));
        // Asks for due messages at once: `take_due`, queued behind this `record`, mostly runs in the same group commit and
        // finds the recipient's next message.
        self.more |= self.capabilities.pipelining == Pipelining::OneAtATime;
        Ok(())
    }

    /// Tells whoever waits for the end of what is on its way.
    fn tell_standing(&self) {
        let closed = self.gate == Gate::Closed && self.taking.is_none();
        self.context.sending.stands(&self.transport, Standing { closed, in_flight: self.in_flight.len() });
    }

    /// Tells the metrics how many messages are in flight: several dispatchers share the gauge.
    fn update_gauge(&mut self) {
        let now = self.in_flight.len();
        if now != self.reported_in_flight {
            self.context
                .metrics
                .shift(Metric::InFlight, i64::try_from(now).unwrap_or(i64::MAX) - self.reported_in_flight as i64);
            self.reported_in_flight = now;
        }
    }
}
