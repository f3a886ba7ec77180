//! One MQTT connection: a task that reads, handles, sends and writes, over any stream of bytes.
//!
//! ```text
//!            ┌────────────────────────── Connection::poll ──────────────────────────┐
//!  socket ──▶│ receive ──PUBLISH──▶ publish ──▶ hub ──Promise──▶ held ──PUBACK──▶ out │──▶ socket
//!            │    └──PUBACK, PUBCOMP──▶ window ──▶ hub        send ──PUBLISH──▶ out   │
//!            └─────────────────────────────────────────────────▲──────────────────────┘
//!                                       the session's queue ────┘
//! ```
//!
//! Whoever has something for the connection puts it where the connection looks (a queue, a promise, its [`ConnectionHandle`]) and wakes
//! it. It looks in this order: is it to end? which acknowledgements may leave (`held`)? what has the client sent
//! (`receive`)? what is there for the client (`send`)? Nothing of the client is read while 64 kB wait for the socket, or
//! while as many acknowledgements are held as it may have open; so nothing grows with what a client sends or does not read.
//!
//! Reading and writing use buffers of the thread. A silent connection has none: only the beginning of a packet that is not
//! whole is kept. Silence and stalled sockets are found by a sweep ([`ConnectionHandle::overdue`]), not by timers.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, join};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::time::Sleep;
use tracing::debug;

use super::hub::{Admitted, AfterSubscribe, Hub, Leaving, PacketIds, Session};
use super::identity::LoginPermit;
use super::refusals::Refusal;
use super::session::aliases::ClientAliases;
use super::session::{Incoming, Window};
use super::settings::BrokerLimits;
use super::wire::{ClientEncoding, Connect, WireLimits};
use crate::chat::access::Rights;
use crate::chat::principal::Role;
use closing::{End, close};
pub(crate) use handle::{ConnectionHandle, Ending};
pub(crate) use handshake::{HandshakeError, open};
use held::HeldAcks;
use out::Out;
use publish::PublishState;
pub(crate) use rate::UserRates;
use rate::{ConnectionRates, Rates};
use request::Request;
use send::Sender;

mod closing;
mod handle;
mod handshake;
mod held;
mod out;
mod publish;
mod rate;
mod receive;
mod request;
mod send;
mod settle;

/// How often a connection looks at everything before its task yields.
const ROUNDS: usize = 4;

/// Bytes of MQTT, whatever they are wrapped in.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What packets may ask for.
fn wire_limits(limits: &BrokerLimits) -> WireLimits {
    WireLimits {
        packet: limits.packet_bytes,
        topic_bytes: limits.topic_bytes,
        topic_levels: limits.topic_levels,
        filters: limits.subscriptions,
        user_properties: limits.user_properties,
    }
}

/// One connection whose client was let in.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    out: Out,
    /// In what form the client takes packets.
    encoding: ClientEncoding,
    guard: SessionGuard,
    rights: Rights,
    device: Option<Arc<str>>,
    /// Among the connections of its user.
    login_permit: Option<LoginPermit>,
    /// CONNECT asked for a session that outlives the connection.
    lasting: bool,
    /// What the client sent and was not handled: the beginning of a packet, or what has to wait.
    kept: Vec<u8>,
    /// What it sent has to wait.
    blocked: bool,
    /// Bytes of a packet that is not whole, since the client was last taken to be alive.
    since_life: u16,
    aliases: ClientAliases,
    rates: Option<Box<ConnectionRates>>,
    /// Until the next packet may pass.
    slowed: Option<Pin<Box<Sleep>>>,
    publish_state: PublishState,
    held: HeldAcks,
    requests: VecDeque<Request>,
    /// What follows a SUBACK.
    following: Vec<AfterSubscribe>,
    sender: Sender,
}

/// The session, as long as it is this connection's.
struct SessionGuard {
    hub: Arc<Hub>,
    handle: Arc<ConnectionHandle>,
    session: Arc<Session>,
    /// What of it is this connection's, until it is given back.
    packet_ids: PacketIds,
    left: bool,
}

impl SessionGuard {
    /// Gives the session back, once.
    fn leave(&mut self, leaving: Leaving) -> Option<BoxFuture<'static, ()>> {
        if mem::replace(&mut self.left, true) {
            return None;
        }
        let packet_ids =
            mem::replace(&mut self.packet_ids, PacketIds { window: Window::new(0), incoming: Incoming::default() });
        let (hub, handle, session) = (Arc::clone(&self.hub), Arc::clone(&self.handle), Arc::clone(&self.session));
        Some(Box::pin(async move { hub.leave(&session, &handle, packet_ids, leaving).await }))
    }
}

impl Drop for SessionGuard {
    /// The task was cut short, or panicked. Others may wait for the session.
    fn drop(&mut self) {
        if let (Some(leave), Ok(runtime)) = (self.leave(Leaving::Broke), Handle::try_current()) {
            runtime.spawn(leave);
        }
    }
}

impl Connection {
    fn new(
        hub: &Arc<Hub>,
        handle: &Arc<ConnectionHandle>,
        (stream, out): (Box<dyn Stream>, Out),
        (connect, admitted): (&Connect<'_>, Admitted),
        rest: &[u8],
    ) -> Self {
        let Admitted { session, packet_ids, rights, login_permit, claim, .. } = admitted;
        // The CONNACK is written: whoever takes the session over from now on takes it from this connection.
        drop(claim);
        let is_user = matches!(&rights, Rights::Known(identity) if identity.role == Role::User);
        let rate = |limit: u32| NonZeroU32::new(limit).filter(|_| is_user);
        let [messages, packets, bytes] =
            [hub.limits.publish_rate, hub.limits.packet_rate, hub.limits.byte_rate].map(rate);
        let rates = Rates::new(messages, packets, bytes);
        let user = session.user.as_ref().filter(|_| is_user);
        let user_rates = user.and_then(|user| hub.user_rates.of(user, || Rates::new(messages, None, bytes)));
        let (sender, device) = (Sender::new(&session, connect.topic_alias_maximum), session.device());
        let mut connection = Self {
            stream,
            out,
            encoding: connect.encoding(),
            guard: SessionGuard { hub: Arc::clone(hub), handle: Arc::clone(handle), session, packet_ids, left: false },
            rights,
            device,
            login_permit,
            lasting: connect.session_expiry_s > 0,
            kept: rest.to_vec(),
            blocked: false,
            since_life: 0,
            aliases: ClientAliases::default(),
            rates: ConnectionRates::new(rates, user_rates),
            slowed: None,
            publish_state: PublishState::default(),
            held: HeldAcks::default(),
            requests: VecDeque::new(),
            following: Vec::new(),
            sender,
        };
        connection.resume();
        connection
    }

    /// Serves the client until the connection ends.
    pub(crate) async fn run(mut self: Box<Self>) {
        let end = poll_fn(|cx| self.poll(cx)).await;
        debug!(peer = %self.guard.handle.who().address, ?end, "connection ended");
        Box::pin(self.finish(end)).await;
    }

    /// Ready when the connection ends.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let handle = Arc::clone(&self.guard.handle);
        handle.register(cx.waker());
        for _ in 0..ROUNDS {
            match self.poll_round(cx, &handle) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Looks at everything once. Yields whether there may be more to do at once.
    fn poll_round(&mut self, cx: &mut Context<'_>, handle: &ConnectionHandle) -> Result<bool, End> {
        let denied = match handle.ending() {
            None => false,
            Some(Ending::Refused(Refusal::PublishDenied)) => true,
            Some(Ending::Stop) => {
                // What came before, such as the bridge's word that it is going: as much as the client takes at once.
                let _ = self.poll_send(cx)?;
                let _ = self.out.poll_drain(&mut self.stream, handle, cx)?;
                return Err(End::Ended(Ending::Stop));
            }
            Some(ending) => return Err(End::Ended(ending)),
        };
        let was_full = self.out.is_full();
        // Before the held ones, of which it may become the first.
        let _ = self.poll_publish(cx)?;
        self.poll_held(cx)?;
        self.poll_requests(cx)?;
        let received = !denied && self.poll_receive(cx)?;
        let _ = self.poll_acknowledged(cx)?;
        let sent = !denied && self.poll_send(cx)?;
        let drained = self.out.poll_drain(&mut self.stream, handle, cx)?;
        self.sender.written(&mut self.out);
        // First what the client has a right to know: which of the messages before are safe.
        if denied && self.held.is_empty() && drained.is_ready() {
            return Err(End::Ended(Ending::Refused(Refusal::PublishDenied)));
        }
        let written = self.sender.has_written();
        Ok(received || sent || written || was_full && !self.out.is_full())
    }

    /// Gives the session back and says the last words.
    async fn finish(mut self: Box<Self>, end: End) {
        // Others do not wait any more for what this connection was still to read.
        self.guard.handle.stop();
        // Nobody goes on with these, and one of them may hold what the end of the session waits for.
        self.requests.clear();
        self.following.clear();
        self.publish_state = PublishState::default();
        if let Some((refusal, detail)) = end.told() {
            self.report_end(refusal, detail);
        }
        // Others of its groups are not to wait for it.
        self.sender.abandon(&self.guard.session, &self.guard.handle);
        end.say(self.out.buffer(), self.encoding);
        // As far as the socket takes it at once: what follows may take a while.
        let handle = Arc::clone(&self.guard.handle);
        let _ = poll_fn(|cx| Poll::Ready(self.out.poll_drain(&mut self.stream, &handle, cx))).await;
        self.sender.written(&mut self.out);
        // Asked of the store before the session is somebody else's, who does not wait for the answer.
        let settled = self.settle_rest().await;
        if let Some(leave) = self.guard.leave(end.leaving()) {
            join(settled, leave).await;
        }
        self.login_permit = None;
        if let Some(patience) = end.patience() {
            let Self { stream, out, guard, .. } = *self;
            close(stream, out, &guard.handle, patience).await;
        }
    }

    /// Tells why the connection ends, if nobody was told before.
    fn report_end(&self, refusal: Refusal, detail: &str) {
        if self.guard.handle.note_end() {
            self.report(refusal, detail);
        }
    }

    /// Tells that something was refused.
    fn report(&self, refusal: Refusal, detail: &str) {
        self.guard.hub.refusals.report(refusal, &self.guard.handle.who(), detail);
    }
}

#[cfg(test)]
mod tests;
