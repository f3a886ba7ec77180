//! One connection: dials, then keeps up to its share of requests open until it ends.

use super::coalesce::{Coalesce, WritesFirst};
use super::exchange::{Reply, Request, hear, post};
use crate::chat::id::Sid;
use crate::transport::core::{End, Event, Manner};
use crate::transport::dial::{DialError, Dialer, Stream};
use crate::transport::driver::{Order, Task};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use http::Uri;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Streams that are opened before the peer has said how many it takes: until then it has not shown that it speaks
/// HTTP/2 at all.
const STREAMS_BEFORE_SETTINGS: usize = 0;
/// Longest head of an answer, in bytes as RFC 9113 section 6.5.2 counts them.
const HEAD_MAX: u32 = 32 * 1024;
/// Most orders that are taken at a time, to be written together.
const ORDERS: usize = 32;

/// Where requests go, and the limits.
#[derive(Clone)]
pub(in crate::transport) struct Server {
    /// How to get there.
    pub(in crate::transport) dialer: Arc<Dialer>,
    /// What to post to.
    pub(in crate::transport) uri: Uri,
    /// Most requests at a time on one connection.
    pub(in crate::transport) streams: usize,
    /// Most bytes of an answer that are looked at.
    pub(in crate::transport) answer_max: usize,
    /// How long to wait for what.
    pub(in crate::transport) timing: Timing,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(in crate::transport) struct Timing {
    /// For an answer, and for the peer's settings.
    pub(in crate::transport) request: Duration,
    /// Between pings on a connection with open requests.
    pub(in crate::transport) ping: Duration,
    /// For the answer to a ping.
    pub(in crate::transport) pong: Duration,
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    /// It never came to be.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// HTTP/2 did not come about, or broke.
    #[error("HTTP/2: {0}")]
    Http(#[from] h2::Error),
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// The peer ended it in good order (GOAWAY) while nothing was open.
    #[error("ended by the peer")]
    Dismissed,
    /// The peer does not answer: its settings did not come, or no answer to a ping.
    #[error("no word from the peer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It is not needed any more.
    #[error("no longer needed")]
    Retired,
}

impl Cause {
    fn end(&self) -> End {
        match self {
            Self::Dial(_) | Self::Http(_) | Self::Closed | Self::Silent(_) => End::Failed,
            Self::Dismissed => End::Dismissed,
            Self::Retired => End::Retired,
        }
    }
}

pub(super) type Responses = FuturesUnordered<BoxFuture<'static, (Sid, Reply)>>;

/// What happened, for one turn.
enum Turn {
    Wire(WireEvent),
    Reply(Sid, Reply),
    /// So many orders came; none means that there will be no more.
    Orders(usize),
    Tick,
    Retire,
}

/// Runs a connection to its end.
pub(in crate::transport) async fn run(mut task: Task<Request, Reply>, server: Server) {
    let mut kill = task.retire.clone();
    let cause = tokio::select! {
        biased;
        () = told(&mut kill, |manner| manner == Manner::Now) => Cause::Retired,
        cause = live(&mut task, &server) => cause,
    };
    task.end(cause.end(), cause.to_string()).await;
}

/// Waits for the word to end in a certain manner. Cancel-safe.
async fn told(retire: &mut watch::Receiver<Option<Manner>>, wanted: impl Fn(Manner) -> bool) {
    if retire.wait_for(|manner| manner.is_some_and(&wanted)).await.is_err() {
        // The driver is gone, and this task with it.
        std::future::pending().await
    }
}

async fn live(task: &mut Task<Request, Reply>, server: &Server) -> Cause {
    let mut retire = task.retire.clone();
    let dialed = tokio::select! {
        () = told(&mut retire, |_| true) => return Cause::Retired,
        dialed = server.dialer.dial() => dialed,
    };
    match dialed {
        Err(error) => Cause::Dial(error),
        Ok(stream) => match Wire::open(stream).await {
            Err(error) => Cause::Http(error),
            Ok(wire) => converse(task, server, wire).await,
        },
    }
}

/// Every future in the `select!` is cancel-safe: requests live in `open`, the wire in `wire`.
async fn converse(task: &mut Task<Request, Reply>, server: &Server, mut wire: Wire) -> Cause {
    let timing = server.timing;
    let mut open = Responses::new();
    let mut pulse = Pulse::new(timing);
    let mut takes = true;
    let mut settled = Settled::Until(Instant::now() + timing.request);
    let mut orders = Vec::with_capacity(ORDERS);
    loop {
        if !takes && open.is_empty() {
            return Cause::Retired;
        }
        let quiet = open.is_empty();
        // The wire comes first: an answer that is in the socket must not lose against its time limit, and what is known
        // of a GOAWAY is known before another request is handed over.
        let turn = tokio::select! {
            biased;
            event = wire.event(server.streams) => Turn::Wire(event),
            Some((sid, reply)) = open.next() => Turn::Reply(sid, reply),
            () = pulse.next(quiet) => Turn::Tick,
            () = settled.overdue() => return Cause::Silent(timing.request),
            // What was ordered before the retirement is still done.
            count = task.orders.recv_many(&mut orders, ORDERS), if takes => Turn::Orders(count),
            () = told(&mut task.retire, |_| true), if takes => Turn::Retire,
        };
        match turn {
            Turn::Wire(WireEvent::Takes(capacity)) => {
                let event = match std::mem::replace(&mut settled, Settled::Yes) {
                    Settled::Until(_) => Event::Up { capacity },
                    Settled::Yes => Event::Capacity(capacity),
                };
                task.events.send(event).await;
            }
            Turn::Wire(WireEvent::Leaves) => task.events.send(Event::Draining).await,
            Turn::Wire(WireEvent::Pong) => pulse.pong(),
            Turn::Wire(WireEvent::Ended(cause)) => {
                drop(wire);
                drain(task, open).await;
                return cause;
            }
            Turn::Reply(sid, reply) => task.events.send(Event::Answered(sid, reply)).await,
            Turn::Orders(0) | Turn::Retire => takes = false,
            Turn::Orders(_) => {
                for sid in wire.post(&mut orders, &mut open, server) {
                    task.events.send(Event::Unwritten(sid)).await;
                }
            }
            Turn::Tick => match pulse.beat(&mut wire.pings) {
                Beat::Going => {}
                Beat::Lost => {
                    // Nothing more will come: what is open is as good as reset.
                    drop(wire);
                    drain(task, open).await;
                    return Cause::Silent(timing.pong);
                }
            },
        }
    }
}

/// The wire is gone, so each open request has its end already.
async fn drain(task: &Task<Request, Reply>, mut open: Responses) {
    while let Some((sid, reply)) = open.next().await {
        task.events.send(Event::Answered(sid, reply)).await;
    }
}

/// What the connection below the requests does.
#[derive(Debug)]
pub(super) enum WireEvent {
    /// It takes so many requests at a time from now on.
    Takes(usize),
    /// It takes no more.
    Leaves,
    /// A ping was answered.
    Pong,
    /// It is over.
    Ended(Cause),
}

/// HTTP/2 on one stream of bytes.
pub(super) struct Wire {
    connection: client::Connection<Coalesce, Bytes>,
    send: SendRequest<Bytes>,
    writes_first: WritesFirst,
    pings: PingPong,
    told: Told,
}

/// What was told of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Takes(usize),
    Leaves,
}

impl Wire {
    pub(super) async fn open(stream: Box<dyn Stream>) -> Result<Self, h2::Error> {
        let stream = Coalesce::new(stream);
        let writes_first = stream.writes_first();
        let (send, mut connection) = client::Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .max_header_list_size(HEAD_MAX)
            .handshake(stream)
            .await?;
        let pings = connection.ping_pong().expect("a new connection has its pings");
        Ok(Self { connection, send, writes_first, pings, told: Told::Takes(STREAMS_BEFORE_SETTINGS) })
    }

    /// Hands requests over, and sees to it that they are written before anything else is read. Those that do not get to
    /// the peer come back: it is ending the connection, or takes fewer than it did, and what `h2` kept for later it would
    /// write after a GOAWAY.
    pub(super) fn post(&mut self, orders: &mut Vec<Order<Request>>, open: &mut Responses, server: &Server) -> Vec<Sid> {
        let most = if let Told::Takes(most) = self.told { most } else { 0 };
        let mut unwritten = Vec::new();
        for order in orders.drain(..) {
            // Nothing comes in that would have to be acknowledged.
            let Order::Send(sid, request) = order else { continue };
            let posted = (open.len() < most).then(|| post(self.send.clone(), server.uri.clone(), request));
            match posted {
                Some(Ok(response)) => {
                    let (end, longest) = (Instant::now() + server.timing.request, server.answer_max);
                    open.push(Box::pin(async move { (sid, hear(response, end, longest).await) }));
                }
                Some(Err(_)) | None => unwritten.push(sid),
            }
        }
        self.writes_first.begin();
        unwritten
    }

    /// Moves bytes until something happens. Cancel-safe.
    pub(super) async fn event(&mut self, limit: usize) -> WireEvent {
        std::future::poll_fn(|cx| self.poll(limit, cx)).await
    }

    fn poll(&mut self, limit: usize, cx: &mut Context<'_>) -> Poll<WireEvent> {
        if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
            let cause = match ended {
                Err(error) => Cause::Http(error),
                Ok(()) if self.is_dismissed(cx) => Cause::Dismissed,
                Ok(()) => Cause::Closed,
            };
            return Poll::Ready(WireEvent::Ended(cause));
        }
        // `h2` says of a GOAWAY only that no further request can be made.
        let leaves = matches!(self.send.poll_ready(cx), Poll::Ready(Err(_)));
        let news = if leaves { Told::Leaves } else { Told::Takes(self.send.current_max_send_streams().min(limit)) };
        if self.told != news {
            self.told = news;
            return Poll::Ready(match news {
                Told::Leaves => WireEvent::Leaves,
                Told::Takes(count) => WireEvent::Takes(count),
            });
        }
        self.pings.poll_pong(cx).map(|pong| match pong {
            Ok(_) => WireEvent::Pong,
            Err(error) => WireEvent::Ended(Cause::Http(error)),
        })
    }

    /// Whether a GOAWAY came before the end.
    fn is_dismissed(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.send.poll_ready(cx), Poll::Ready(Err(error)) if error.is_go_away() && error.is_remote())
    }
}

/// Whether the peer's settings have come.
#[derive(Debug, Clone, Copy)]
enum Settled {
    /// They have to, until then.
    Until(Instant),
    Yes,
}

impl Settled {
    async fn overdue(self) {
        match self {
            Self::Until(end) => tokio::time::sleep_until(end).await,
            Self::Yes => std::future::pending().await,
        }
    }
}

/// When to ping: only while a request is open, for some servers end a connection for the pings.
struct Pulse {
    timing: Timing,
    next: Option<Instant>,
    /// Until when the ping that is on its way has to be answered.
    due: Option<Instant>,
}

enum Beat {
    Going,
    Lost,
}

impl Pulse {
    fn new(timing: Timing) -> Self {
        Self { timing, next: None, due: None }
    }

    /// Waits until a ping is to be sent, or to be missed. Cancel-safe.
    async fn next(&mut self, quiet: bool) {
        if quiet && self.due.is_none() {
            self.next = None;
            return std::future::pending().await;
        }
        let at = self.due.unwrap_or_else(|| *self.next.get_or_insert_with(|| Instant::now() + self.timing.ping));
        tokio::time::sleep_until(at).await;
    }

    fn beat(&mut self, pings: &mut PingPong) -> Beat {
        if self.due.is_some() {
            return Beat::Lost;
        }
        self.next = None;
        if pings.send_ping(Ping::opaque()).is_ok() {
            self.due = Some(Instant::now() + self.timing.pong);
        }
        Beat::Going
    }

    fn pong(&mut self) {
        self.due = None;
    }
}
