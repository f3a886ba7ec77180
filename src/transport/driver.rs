//! Runs a [`Core`]: every connection is a task of its own behind two bounded channels, so one slow socket or one TLS
//! handshake holds nobody up.
//!
//! ```text
//!             sends, acks                     orders
//!   bridge ──────────────► driver (Core) ───────────────► task of a connection ◄──► push service
//!          ◄──────────────               ◄───────────────
//!             reports, device messages        events
//! ```
//!
//! Nothing in here waits for the bridge: while a report has no place in its queue, the driver takes neither messages nor
//! events, and goes on passing acknowledgements. So the two sides cannot wait for each other.

use super::core::{Core, End, Ended, Event, Manner, Now, Output, Service, ServiceSettings};
use super::dial::{Dialer, Stream};
use super::{AckRef, ConnectionId, DeviceMessage, Outlet, Report, Snapshot};
use crate::chat::delivery::Fate;
use crate::chat::id::Sid;
use crate::ops::clock::{at, now_ms};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use tokio::sync::mpsc::error::{SendError, TrySendError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Events that the connections may have waiting for the driver, and reports that may come of them at once.
const EVENTS: usize = 1024;
/// Acknowledgements that may wait for one connection; with more, its peer does not read and it is given up.
const ACKS: usize = 8192;
/// Device messages that may wait for the bridge before events are not taken any more: the spool may be full while
/// answers still find their place.
const DEVICE_MESSAGES: usize = 256;

/// A connection's end of its two channels. Its task dials, and says [`Event::Up`] or [`Event::Ended`].
pub(crate) struct Task<R, A> {
    pub(crate) id: ConnectionId,
    /// What to write. Closed only together with the driver.
    pub(crate) orders: mpsc::Receiver<Order<R>>,
    /// How to end, once that is known; it may change from [`Manner::AfterAnswers`] to [`Manner::Now`].
    pub(crate) retire: watch::Receiver<Option<Manner>>,
    /// Where to tell. [`Event::Ended`] is the last.
    pub(crate) events: EventSender<A>,
}

impl<R, A> Task<R, A> {
    /// Dials, unless the connection is to end before.
    pub(super) async fn dial(&mut self, dialer: &Dialer) -> Result<Box<dyn Stream>, (End, String)> {
        tokio::select! {
            biased;
            _ = self.retire.changed() => Err((End::Retired, "no longer needed".to_owned())),
            dialed = dialer.dial() => dialed.map_err(|error| (End::Failed, error.to_string())),
        }
    }

    /// Says how the connection ended, and what it has not written.
    pub(crate) async fn end(mut self, end: End, detail: String) {
        self.orders.close();
        let mut unwritten = Vec::new();
        while let Some(order) = self.orders.recv().await {
            if let Order::Send(sid, _) = order {
                unwritten.push(sid);
            }
        }
        self.events.send(Event::Ended(Ended { end, detail, unwritten })).await;
    }
}

#[cfg(test)]
impl<R, A> Task<R, A> {
    /// A connection with the test on all its other ends.
    pub(crate) fn new(
        id: ConnectionId,
        orders: mpsc::Receiver<Order<R>>,
        retire: watch::Receiver<Option<Manner>>,
        events: mpsc::Sender<(ConnectionId, Event<A>)>,
    ) -> Self {
        Self { id, orders, retire, events: EventSender { id, events } }
    }
}

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Order<R> {
    Send(Sid, R),
    Ack(AckRef),
}

/// Tells the driver what a connection says.
pub(crate) struct EventSender<A> {
    id: ConnectionId,
    events: mpsc::Sender<(ConnectionId, Event<A>)>,
}

impl<A> EventSender<A> {
    /// Waits for room. Without a driver the event is lost: nothing depends on it any more.
    pub(crate) async fn send(&self, event: Event<A>) {
        let _ = self.events.send((self.id, event)).await;
    }

    /// Sends as many events as there is room for. Without a driver all of them are lost.
    pub(crate) fn send_some(&self, events: &mut VecDeque<Event<A>>) {
        while let Some(event) = events.pop_front() {
            match self.events.try_send((self.id, event)) {
                Ok(()) => {}
                Err(TrySendError::Full((_, event))) => return events.push_front(event),
                Err(TrySendError::Closed(_)) => events.clear(),
            }
        }
    }

    /// Waits until there is room. Cancel-safe.
    pub(crate) async fn ready(&self) {
        let _ = self.events.reserve().await;
    }
}

/// News for the core that come from neither side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// The access token or its failure has changed: what was not admitted may be now.
    Look,
    /// Other credentials are there.
    Renewed,
}

pub(crate) struct Driver<S: Service, C> {
    core: Core<S>,
    connect: C,
    events: mpsc::Receiver<(ConnectionId, Event<S::Answer>)>,
    events_tx: mpsc::Sender<(ConnectionId, Event<S::Answer>)>,
    wakes: mpsc::Receiver<Wake>,
    orders_max: usize,
    connections: HashMap<ConnectionId, Ends<S::Request>>,
    tasks: JoinSet<()>,
    /// What the bridge has not taken yet.
    reports: VecDeque<Report>,
    device_messages: VecDeque<DeviceMessage>,
    deadline: Option<Instant>,
    published: Option<Instant>,
}

struct Ends<R> {
    orders: mpsc::Sender<Order<R>>,
    retire: watch::Sender<Option<Manner>>,
}

impl<S, C, F> Driver<S, C>
where
    S: Service,
    C: FnMut(Task<S::Request, S::Answer>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    pub(crate) fn new(settings: ServiceSettings, service: S, wakes: mpsc::Receiver<Wake>, connect: C) -> Self {
        let (events_tx, events) = mpsc::channel(EVENTS);
        let orders_max = settings.window + ACKS;
        Self {
            core: Core::new(settings, service, rand::random(), now()),
            connect,
            events,
            events_tx,
            wakes,
            orders_max,
            connections: HashMap::new(),
            tasks: JoinSet::new(),
            reports: VecDeque::new(),
            device_messages: VecDeque::new(),
            deadline: None,
            published: None,
        }
    }

    /// Runs until `stop`, and then until every connection has ended in good order and everything is reported.
    pub(crate) async fn run(mut self, mut outlet: Outlet, stop: CancellationToken) {
        let (mut stopping, mut gone) = (false, false);
        loop {
            if stopping || gone {
                outlet.sends.close();
                self.core.handle_stop(now());
            }
            self.run_outputs();
            if gone {
                // The bridge has dropped its end of the port: no report can be delivered.
                self.reports.clear();
                self.device_messages.clear();
            }
            self.publish(&outlet);
            if self.core.is_over() {
                break;
            }
            let free = self.reports.is_empty() && self.device_messages.len() <= DEVICE_MESSAGES;
            let room = free && self.core.has_room();
            // Not biased: neither direction may starve the other. There is always something to wait for: the events, whose
            // channel ends here, or somebody to take what is told.
            tokio::select! {
                () = stop.cancelled(), if !stopping => stopping = true,
                Some(ack_ref) = outlet.acks.recv() => self.core.handle_ack(ack_ref),
                Some(connection) = outlet.resends.recv() => self.core.handle_forgotten(connection, now()),
                permit = outlet.reports.reserve(), if !self.reports.is_empty() => {
                    gone |= !hand_over(permit, &mut self.reports);
                }
                permit = outlet.device_messages.reserve(), if !self.device_messages.is_empty() => {
                    gone |= !hand_over(permit, &mut self.device_messages);
                }
                Some((connection, event)) = self.events.recv(), if free => self.take_event(connection, event),
                Some(send) = outlet.sends.recv(), if room => self.core.handle_send(send, now()),
                () = at(self.deadline), if free => self.look(),
                Some(wake) = self.wakes.recv(), if free => match wake {
                    Wake::Look => self.look(),
                    Wake::Renewed => self.core.handle_renewed(now()),
                },
                // A connection does not panic; if it does, so does the transport.
                Some(Err(error)) = self.tasks.join_next() => std::panic::resume_unwind(error.into_panic()),
            }
        }
        self.finish(outlet).await;
    }

    fn take_event(&mut self, connection: ConnectionId, event: Event<S::Answer>) {
        if let Event::Ended(_) = event {
            self.connections.remove(&connection);
        }
        self.core.handle_event(connection, event, now());
    }

    /// Looks at what no event announces, after what came in before now: an answer that waits here is not to be found missing.
    fn look(&mut self) {
        for _ in 0..self.events.len() {
            let Ok((connection, event)) = self.events.try_recv() else { break };
            self.take_event(connection, event);
            self.run_outputs();
        }
        self.core.handle_tick(now());
    }

    fn run_outputs(&mut self) {
        loop {
            match self.core.poll() {
                Output::Dial(id) => self.dial(id),
                Output::Assign { connection, sid, request } => {
                    if !self.order(connection, Order::Send(sid, request)) {
                        self.core.handle_gone(connection, sid, now());
                    }
                }
                Output::Acknowledge(ack_ref) => {
                    self.order(ack_ref.connection, Order::Ack(ack_ref));
                }
                Output::Retire { connection, manner } => self.retire(connection, manner),
                Output::Report(report) => self.reports.push_back(report),
                Output::DeviceMessage(message) => self.device_messages.push_back(message),
                Output::Wait(deadline) => {
                    self.deadline = deadline.map(Instant::from_std);
                    return;
                }
            }
        }
    }

    fn dial(&mut self, id: ConnectionId) {
        let (orders, orders_rx) = mpsc::channel(self.orders_max);
        let (retire, retire_rx) = watch::channel(None);
        let events = EventSender { id, events: self.events_tx.clone() };
        let task = (self.connect)(Task { id, orders: orders_rx, retire: retire_rx, events });
        self.tasks.spawn(task.instrument(tracing::info_span!("connection", id = id.0)));
        self.connections.insert(id, Ends { orders, retire });
    }

    /// False if nobody takes the order: the connection is gone, or as good as gone.
    fn order(&mut self, connection: ConnectionId, order: Order<S::Request>) -> bool {
        let Some(ends) = self.connections.get(&connection) else { return false };
        let sent = ends.orders.try_send(order);
        if let Err(TrySendError::Full(_)) = sent {
            self.retire(connection, Manner::Now);
            self.core.handle_given_up(connection, now());
        }
        sent.is_ok()
    }

    fn retire(&mut self, connection: ConnectionId, manner: Manner) {
        if let Some(ends) = self.connections.get(&connection) {
            ends.retire.send_if_modified(|old| *old != Some(Manner::Now) && old.replace(manner) != Some(manner));
        }
    }

    /// Tells how the connections stand; the counters with a change of that, and else at most once a second.
    fn publish(&mut self, outlet: &Outlet) {
        let time = now();
        let link = self.core.link(time);
        let changed = outlet.link.send_if_modified(|old| std::mem::replace(old, link) != link);
        let instant = Instant::from_std(time.instant);
        if changed || self.published.is_none_or(|last| instant >= last + super::core::TICK) {
            self.published = Some(instant);
            outlet.snapshot.send_replace(self.core.snapshot());
        }
    }

    /// Reports what was never taken, and waits until the tasks of the connections have closed their sockets.
    async fn finish(mut self, mut outlet: Outlet) {
        // The bridge may wait for room for an acknowledgement; it would never read what is reported below.
        outlet.acks.close();
        while let Some(send) = outlet.sends.recv().await {
            self.core.handle_send(send, now());
        }
        self.run_outputs();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
        self.published = None;
        self.publish(&outlet);
        // What devices sent and nobody took is not acknowledged: it comes again.
        let lost = self.reports.iter().filter(|report| matches!(report, Report::Back { fate: Fate::Lost, .. })).count();
        for report in self.reports {
            if outlet.reports.send(report).await.is_err() {
                break;
            }
        }
        let Snapshot { written, not_taken, acks, connects, reconnects, drains, .. } = self.core.snapshot();
        tracing::info!(lost, written, not_taken, acks, connects, reconnects, drains, "transport stopped");
    }
}

/// Hands over the next; false if nobody is there to take it.
fn hand_over<T>(permit: Result<mpsc::Permit<'_, T>, SendError<()>>, queue: &mut VecDeque<T>) -> bool {
    match (permit, queue.pop_front()) {
        (Ok(permit), Some(next)) => {
            permit.send(next);
            true
        }
        _ => false,
    }
}

fn now() -> Now {
    Now { instant: Instant::now().into_std(), unix_ms: now_ms() }
}

#[cfg(test)]
mod tests;
