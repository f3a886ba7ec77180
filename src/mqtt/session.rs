//! One connection to an external broker, from CONNECT to its end.
//!
//! ```text
//!              ┌─ receive ──► held ──► forward ──► Outlet::inbound ──► bridge
//!   library ◄──┤                │
//!   (socket)   ├─ acknowledge ◄─┘ in the order of arrival, each when its word comes
//!              └─ talk: SUBSCRIBE, link up, publish ◄── Outlet::publish
//! ```
//!
//! The four run side by side in one task. Each has its own loop, so that none is cancelled in the middle of
//! something, and `receive` polls the library whatever the others wait for: pings and acknowledgements go out while the
//! bridge is busy.

use super::config::Plan;
use super::inbound::{InboundSender, is_of_user};
use super::link::{Acknowledged, Arrived, Event, Failure, Leave, Protocol, Terms};
use super::packet_suspect::PacketSuspect;
use super::talk::{Close, Flight, Links, Talk};
use super::{Ack, AckWord, BrokerLink, Inbound, Outlet};
use crate::chat::principal::Senders;
use bytes::Bytes;
use std::collections::HashSet;
use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// MQTT numbers unacknowledged messages with 16 bits, so there cannot be more of them.
const MOST_UNACKNOWLEDGED: usize = u16::MAX as usize;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// As asked.
    Stopped,
    /// Otherwise.
    Failed {
        /// Why.
        failure: Failure,
        /// How long the broker was up, if it ever was.
        open: Option<Duration>,
    },
}

/// What a connection did, for its last line in the log.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) opened: OnceLock<Instant>,
    received: AtomicU64,
    acknowledged: AtomicU64,
    withheld: AtomicU64,
    dropped: AtomicU64,
    pub(super) published: AtomicU64,
    pub(super) confirmed: AtomicU64,
}

impl Tally {
    /// Counts one; answers whether it is the first.
    pub(super) fn count(number: &AtomicU64) -> bool {
        number.fetch_add(1, Ordering::Relaxed) == 0
    }

    fn open_for(&self) -> Option<Duration> {
        self.opened.get().map(Instant::elapsed)
    }

    fn log(&self, broker: &str) {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        info!(
            broker,
            open_for = ?self.open_for(),
            received = read(&self.received),
            acknowledged = read(&self.acknowledged),
            withheld = read(&self.withheld),
            dropped = read(&self.dropped),
            published = read(&self.published),
            confirmed = read(&self.confirmed),
            "the connection to the broker has ended"
        );
    }
}

/// Connects, and works until the connection ends.
pub(super) async fn run<P: Protocol>(
    plan: &Plan,
    outlet: &mut Outlet,
    flight: &mut Flight,
    stop: &CancellationToken,
) -> End {
    let limits = &plan.config.limits;
    // What a broker may send ahead of the acknowledgements (MQTT 5) fits into the bridge's queue.
    let window = u16::try_from(outlet.inbound.max_capacity()).unwrap_or(u16::MAX);
    let (client, mut events) = P::open(plan, window);
    let connected = tokio::select! {
        () = stop.cancelled() => return End::Stopped,
        connected = timeout(limits.connect, connect::<P>(&mut events)) => connected,
    };
    let terms = match connected.unwrap_or(Err(Failure::Silent(limits.connect))) {
        Ok(terms) => terms,
        Err(failure) => return End::Failed { failure, open: None },
    };
    info!(broker = plan.address, session_present = terms.session_present, "connected to the broker");
    if !terms.session_present {
        // Before the SUBSCRIBE, so that nothing which the broker keeps comes earlier; and before that is told.
        outlet.sessions.send_modify(|sessions| *sessions = sessions.wrapping_add(1));
    }
    for notice in flight.session_log.connected(&terms, limits.session_expiry_secs(), &plan.address) {
        // If the bridge is behind with notices, the log has to do.
        _ = outlet.notices.try_send(notice);
    }

    let session = Session { plan, terms, window: usize::from(window), stop, tally: Tally::default() };
    let ended = session.work::<P>(&client, &mut events, flight, outlet).await;
    // Whatever has no answer now gets none: the library lets go of it.
    drop((client, events));
    outlet.broker_link.send_replace(BrokerLink::Down);
    let biggest = flight.land(&session.tally).await;
    session.tally.log(&plan.address);
    let failure = match ended {
        Ok(Close::Stop) => return End::Stopped,
        Ok(Close::Redelivery) => Failure::Redelivery,
        Err(failure) => failure,
    };
    let open = session.tally.open_for();
    flight.packet_suspect.ended(&failure, biggest, PacketSuspect::is_long(open, limits.retry_max));
    End::Failed { failure, open }
}

/// A connection that stands.
struct Session<'a> {
    plan: &'a Plan,
    terms: Terms,
    window: usize,
    stop: &'a CancellationToken,
    tally: Tally,
}

impl Session<'_> {
    async fn work<P: Protocol>(
        &self,
        client: &P::Client,
        events: &mut P::Events,
        flight: &mut Flight,
        outlet: &mut Outlet,
    ) -> Result<Close, Failure> {
        let Self { plan, terms, stop, tally, .. } = self;
        let Outlet { inbound, publish, broker_link, connections, readers, notices, .. } = outlet;
        // Twice the window, because QoS 0 may take one half of it.
        let (users_tx, users) = mpsc::channel(2 * self.window);
        let (others_tx, others) = mpsc::channel(2 * self.window);
        let held = Held { users: users_tx, others: others_tx };
        let (acks_tx, acks) = mpsc::channel(MOST_UNACKNOWLEDGED);
        let withheld = Notify::new();
        let longest = usize::try_from(plan.config.limits.max_packet_bytes).unwrap_or(usize::MAX - 1);
        let links = Links { broker_link, connections, readers };
        let mut talk: Talk<'_, P> = Talk { plan, terms: *terms, client, flight, links, notices, tally };
        let intake =
            Intake { longest, held, acks: acks_tx, owed: HashSet::new(), senders: &plan.config.senders, tally };
        let mut receiving = pin!(intake.receive::<P>(events));
        let close = tokio::select! {
            failure = &mut receiving => return Err(failure),
            never = forward(users, inbound) => match never {},
            never = forward(others, inbound) => match never {},
            never = acknowledge::<P>(client, acks, &withheld, tally) => match never {},
            closed = talk.run(publish, stop, &withheld) => closed?,
        };
        let leave = if flight.is_empty() { Leave::InOrder } else { Leave::AtOnce };
        let goodbye = async {
            P::disconnect(client, leave).await;
            pending().await
        };
        // The link ends with a failure once the DISCONNECT is out. In time or not: there is nothing more to do.
        _ = timeout(plan.config.limits.grace, async {
            tokio::select! { ended = receiving => ended, never = goodbye => never }
        })
        .await;
        Ok(close)
    }
}

async fn connect<P: Protocol>(events: &mut P::Events) -> Result<Terms, Failure> {
    loop {
        if let Event::Connected(terms) = P::next(events).await? {
            return Ok(terms);
        }
    }
}

/// An acknowledgement that waits for its word.
struct Owed<A> {
    ack: A,
    word: oneshot::Receiver<AckWord>,
}

/// What the bridge has not taken yet: chat users do not wait behind BALs for which there is no room.
struct Held {
    users: mpsc::Sender<Inbound>,
    others: mpsc::Sender<Inbound>,
}

impl Held {
    fn queue_of(&self, inbound: &Inbound) -> &mpsc::Sender<Inbound> {
        if is_of_user(inbound) { &self.users } else { &self.others }
    }
}

struct Intake<'a, A> {
    /// Longest payload that is kept whole, in bytes.
    longest: usize,
    held: Held,
    acks: mpsc::Sender<Owed<A>>,
    /// Packet ids of messages whose acknowledgement has not left: what comes with one of them is a copy. Brokers of MQTT 3.1.1
    /// may send it on the same connection, and to acknowledge both would be an error.
    owed: HashSet<u16>,
    senders: &'a Senders,
    tally: &'a Tally,
}

impl<A> Intake<'_, A> {
    /// Moves the link until it ends.
    async fn receive<P: Protocol<Ack = A>>(mut self, events: &mut P::Events) -> Failure {
        loop {
            match P::next(events).await {
                Ok(Event::Arrived(arrived)) => {
                    if let Err(failure) = self.take(arrived).await {
                        return failure;
                    }
                }
                Ok(Event::Acknowledged(id)) => _ = self.owed.remove(&id),
                Ok(Event::Connected(_) | Event::Other) => {}
                Err(failure) => return failure,
            }
        }
    }

    async fn take(&mut self, arrived: Arrived<A>) -> Result<(), Failure> {
        if arrived.ack.is_some() && !self.owed.insert(arrived.packet_id) {
            debug!(packet_id = arrived.packet_id, "a copy of a message that is not acknowledged yet is dropped");
            return Ok(());
        }
        let Ok(topic) = String::from_utf8(arrived.topic.to_vec()) else {
            return Err(Failure::Protocol("a topic is not UTF-8".into()));
        };
        debug!(topic, bytes = arrived.payload.len(), retain = arrived.retain, "a message came");
        Tally::count(&self.tally.received);
        let (ack, word) = Ack::new();
        // The bridge refuses it for its length, so one byte more than it takes is enough; a copy lets go of the rest.
        let payload = match arrived.payload.get(..=self.longest) {
            Some(beginning) => Bytes::copy_from_slice(beginning),
            None => arrived.payload,
        };
        let inbound = Inbound {
            principal: self.senders.principal(&topic),
            topic,
            payload,
            retain: arrived.retain,
            retained: false,
            denied: false,
            routed_to: None,
            at_most_once: arrived.ack.is_none(),
            dup: arrived.dup,
            expiry: arrived.expiry,
            response_topic: arrived.response_topic,
            correlation: arrived.correlation,
            ack,
        };
        let Some(owed) = arrived.ack.map(|ack| Owed { ack, word }) else {
            self.take_unsafe(inbound);
            return Ok(());
        };
        if let Err(TrySendError::Full(_)) = self.acks.try_send(owed) {
            return Err(Failure::Protocol("more unacknowledged messages than packet ids".into()));
        }
        // An MQTT 5 broker keeps to the receive maximum, so there is room. With MQTT 3.1.1 the broker's own limit may be
        // higher than ours: then the link waits, and the socket after it. That must not be for longer than the
        // keep-alive, or the broker closes; it would send everything again.
        _ = self.held.queue_of(&inbound).send(inbound).await;
        Ok(())
    }

    /// With QoS 0 nobody was promised anything, and it must not stand in the way of those who were.
    fn take_unsafe(&self, inbound: Inbound) {
        let held = self.held.queue_of(&inbound);
        let room = held.capacity() > held.max_capacity() / 2;
        if room && held.try_send(inbound).is_ok() {
            return;
        }
        if Tally::count(&self.tally.dropped) {
            warn!("messages published with QoS 0 are dropped: they come faster than they can be stored");
        }
    }
}

/// Hands messages to the bridge, as fast as it takes them.
async fn forward(mut held: mpsc::Receiver<Inbound>, inbound: &InboundSender) -> Infallible {
    while let Some(message) = held.recv().await {
        // The bridge dropped its end: it is stopping, the message stays unacknowledged.
        _ = inbound.send(message).await;
    }
    pending().await
}

/// Sends acknowledgements in the order of arrival (MQTT 3.1.1 and 5, 4.6). A message that is left unacknowledged is a
/// gap; those behind it still get theirs.
async fn acknowledge<P: Protocol>(
    client: &P::Client,
    mut acks: mpsc::Receiver<Owed<P::Ack>>,
    withheld: &Notify,
    tally: &Tally,
) -> Infallible {
    while let Some(Owed { ack, word }) = acks.recv().await {
        let done = match word.await {
            Ok(word) => P::acknowledge(client, ack, word).await,
            Err(_) => Acknowledged::Withheld,
        };
        match done {
            Acknowledged::Sent => _ = Tally::count(&tally.acknowledged),
            Acknowledged::Withheld => {
                Tally::count(&tally.withheld);
                withheld.notify_one();
            }
        }
    }
    pending().await
}
