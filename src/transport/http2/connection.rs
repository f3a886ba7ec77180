//! One connection: dials, then keeps up to its share of requests open until it ends.

use super::coalesce::{Coalesce, WritesFirst};
use super::exchange::{Reply, Request, post, read_reply};
use crate::chat::id::Sid;
use crate::ops::clock::at;
use crate::transport::core::{End, Event, Manner};
use crate::transport::dial::{Dialer, Stream};
use crate::transport::driver::{Order, Task};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong, Reason};
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
    /// How to get there, for the connections that are still to be opened.
    pub(in crate::transport) dialer: watch::Receiver<Arc<Dialer>>,
    pub(in crate::transport) uri: Uri,
    /// Most requests at a time on one connection.
    pub(in crate::transport) streams: usize,
    /// Most bytes of an answer that are looked at.
    pub(in crate::transport) answer_max: usize,
    /// For an answer, and for the peer's settings.
    pub(in crate::transport) request: Duration,
    /// Between pings on a connection with open requests.
    pub(in crate::transport) ping: Duration,
    /// For the answer to a ping.
    pub(in crate::transport) pong: Duration,
}

pub(super) type Responses = FuturesUnordered<BoxFuture<'static, (Sid, Reply)>>;

pub(in crate::transport) async fn run(mut task: Task<Request, Reply>, server: Server) {
    let (end, detail) = live(&mut task, &server).await;
    task.end(end, detail).await;
}

fn retired() -> (End, String) {
    (End::Retired, "no longer needed".to_owned())
}

/// HTTP/2 did not come about, or broke.
fn broken(error: &h2::Error) -> (End, String) {
    (End::Failed, format!("HTTP/2: {error}"))
}

/// Whether it is a GOAWAY of the peer with an error code, such as `ENHANCE_YOUR_CALM`.
fn ejects(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() != Some(Reason::NO_ERROR)
}

/// The peer's settings did not come, or no answer to a ping.
fn timed_out(waited: Duration) -> (End, String) {
    (End::Failed, format!("no word from the peer within {} s", waited.as_secs()))
}

/// Waits for the word to end in a certain manner. Cancel-safe.
async fn told(retire: &mut watch::Receiver<Option<Manner>>, wanted: impl Fn(Manner) -> bool) {
    if retire.wait_for(|manner| manner.is_some_and(&wanted)).await.is_err() {
        // The driver is gone, and this task with it.
        std::future::pending().await
    }
}

async fn live(task: &mut Task<Request, Reply>, server: &Server) -> (End, String) {
    let dialer = Arc::clone(&server.dialer.borrow());
    let stream = match task.dial(&dialer).await {
        Err(ended) => return ended,
        Ok(stream) => stream,
    };
    let mut close_now = task.retire.clone();
    let opened = tokio::select! {
        biased;
        () = told(&mut close_now, is_now) => return retired(),
        opened = Wire::open(stream) => opened,
    };
    match opened {
        Err(error) => broken(&error),
        Ok(wire) => run_requests(task, server, wire).await,
    }
}

fn is_now(manner: Manner) -> bool {
    manner == Manner::Now
}

/// Every future in the `select!` is cancel-safe: requests live in `open`, the wire in `wire`.
async fn run_requests(task: &mut Task<Request, Reply>, server: &Server, mut wire: Wire) -> (End, String) {
    let mut open = Responses::new();
    let mut keep_alive = KeepAlive::new(server);
    let mut close_now = task.retire.clone();
    let mut takes = true;
    let mut settings_due = Some(Instant::now() + server.request);
    let mut orders = Vec::with_capacity(ORDERS);
    let ended = loop {
        if !takes && open.is_empty() {
            break retired();
        }
        let quiet = open.is_empty();
        // The wire comes first: an answer that is in the socket must not lose against its time limit, and what is known
        // of a GOAWAY is known before another request is handed over.
        tokio::select! {
            biased;
            event = wire.event(server.streams) => match event {
                WireEvent::Takes(capacity) => {
                    let is_first = settings_due.take().is_some();
                    task.events.send(if is_first { Event::Up { capacity } } else { Event::Capacity(capacity) }).await;
                }
                WireEvent::Leaves(None) => task.events.send(Event::Draining).await,
                WireEvent::Leaves(Some(error)) => task.events.send(Event::Ejected(error)).await,
                WireEvent::Pong => keep_alive.pong(),
                WireEvent::Ended(ended) => break ended,
            },
            Some((sid, reply)) = open.next() => task.events.send(Event::Answered(sid, reply)).await,
            // Also told to end now, it hands up the answers that are there.
            () = told(&mut close_now, is_now) => break retired(),
            () = keep_alive.next(quiet) => if !keep_alive.send_ping(&mut wire.pings) {
                break timed_out(server.pong);
            },
            () = at(settings_due) => break timed_out(server.request),
            // What was ordered before the retirement is still done.
            count = task.orders.recv_many(&mut orders, ORDERS), if takes => match count {
                0 => takes = false,
                _ => for sid in wire.post(&mut orders, &mut open, server) {
                    task.events.send(Event::Unwritten(sid)).await;
                },
            },
            () = told(&mut task.retire, |_| true), if takes => takes = false,
        }
    };
    // Without the wire each open request has its end: what is not answered by now is as good as reset. Where the core ended the
    // connection itself, it knows of those.
    drop(wire);
    let was_told = *task.retire.borrow() == Some(Manner::Now);
    while let Some((sid, reply)) = open.next().await {
        if !(was_told && matches!(reply, Reply::Broken | Reply::Late)) {
            task.events.send(Event::Answered(sid, reply)).await;
        }
    }
    ended
}

/// What the connection below the requests does.
#[derive(Debug)]
pub(super) enum WireEvent {
    /// It takes so many requests at a time from now on.
    Takes(usize),
    /// It takes no more, because of the error that the peer names, if it does.
    Leaves(Option<String>),
    Pong,
    Ended((End, String)),
}

/// HTTP/2 on one stream of bytes.
pub(super) struct Wire {
    connection: client::Connection<Coalesce, Bytes>,
    send: SendRequest<Bytes>,
    writes_first: WritesFirst,
    pings: PingPong,
    /// How many requests it takes at a time, as it was told; `None` is no more at all.
    takes: Option<usize>,
    /// How it ended, until that is told.
    ended: Option<(End, String)>,
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
        Ok(Self { connection, send, writes_first, pings, takes: Some(STREAMS_BEFORE_SETTINGS), ended: None })
    }

    /// Hands requests over, and sees to it that they are written before anything else is read. Those that do not get to
    /// the peer come back: it is ending the connection, or takes fewer than it did, and what `h2` kept for later it would
    /// write after a GOAWAY.
    pub(super) fn post(&mut self, orders: &mut Vec<Order<Request>>, open: &mut Responses, server: &Server) -> Vec<Sid> {
        let most = self.takes.unwrap_or(0);
        let mut unwritten = Vec::new();
        for order in orders.drain(..) {
            // Nothing comes in that would have to be acknowledged.
            let Order::Send(sid, request) = order else { continue };
            let posted = (open.len() < most).then(|| post(self.send.clone(), server.uri.clone(), request));
            match posted {
                Some(Ok(response)) => {
                    let (end, longest) = (Instant::now() + server.request, server.answer_max);
                    open.push(Box::pin(async move { (sid, read_reply(response, end, longest).await) }));
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
        if let Some(ended) = self.ended.take() {
            return Poll::Ready(WireEvent::Ended(ended));
        }
        if let Poll::Ready(ended) = Pin::new(&mut self.connection).poll(cx) {
            let ended = match ended {
                Err(error) if ejects(&error) && self.takes.take().is_some() => {
                    self.ended = Some(broken(&error));
                    return Poll::Ready(WireEvent::Leaves(Some(error.to_string())));
                }
                Err(error) => broken(&error),
                Ok(()) if self.is_dismissed(cx) => (End::Dismissed, "ended by the peer".to_owned()),
                Ok(()) => (End::Failed, "closed by the peer".to_owned()),
            };
            return Poll::Ready(WireEvent::Ended(ended));
        }
        // `h2` says of a GOAWAY only that no further request can be made.
        let leaves = if let Poll::Ready(Err(error)) = self.send.poll_ready(cx) { Some(error) } else { None };
        let takes = leaves.is_none().then(|| self.send.current_max_send_streams().min(limit));
        if self.takes != takes {
            self.takes = takes;
            let error = leaves.filter(ejects).map(|error| error.to_string());
            return Poll::Ready(takes.map_or(WireEvent::Leaves(error), WireEvent::Takes));
        }
        self.pings.poll_pong(cx).map(|pong| match pong {
            Ok(_) => WireEvent::Pong,
            Err(error) => WireEvent::Ended(broken(&error)),
        })
    }

    /// Whether a GOAWAY came before the end.
    fn is_dismissed(&mut self, cx: &mut Context<'_>) -> bool {
        matches!(self.send.poll_ready(cx), Poll::Ready(Err(error)) if error.is_go_away() && error.is_remote())
    }
}

/// When to ping: only while a request is open, for some servers end a connection for the pings.
struct KeepAlive {
    ping: Duration,
    pong: Duration,
    next: Option<Instant>,
    /// Until when the ping that is on its way has to be answered.
    due: Option<Instant>,
}

impl KeepAlive {
    fn new(server: &Server) -> Self {
        Self { ping: server.ping, pong: server.pong, next: None, due: None }
    }

    /// Waits until a ping is to be sent, or to be missed. Cancel-safe.
    async fn next(&mut self, quiet: bool) {
        if quiet && self.due.is_none() {
            self.next = None;
            return std::future::pending().await;
        }
        let at = self.due.unwrap_or_else(|| *self.next.get_or_insert_with(|| Instant::now() + self.ping));
        tokio::time::sleep_until(at).await;
    }

    /// Sends the ping. False if the last one was missed.
    fn send_ping(&mut self, pings: &mut PingPong) -> bool {
        if self.due.is_some() {
            return false;
        }
        self.next = None;
        if pings.send_ping(Ping::opaque()).is_ok() {
            self.due = Some(Instant::now() + self.pong);
        }
        true
    }

    fn pong(&mut self) {
        self.due = None;
    }
}
