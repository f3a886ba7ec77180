//! One connection: dials, then keeps up to its share of requests open until it ends.
//!
//! ```text
//!            orders                          streams
//!   hub ───────────────► Connection ─────────────────► FCM
//!       ◄───────────────  one task   ◄─────────────────
//!            notes
//! ```

use super::Timing;
use super::coalesce::Coalesce;
use super::exchange::{Order, Reply, exchange};
use crate::chat::id::Sid;
use crate::transport::dial::{DialError, Dialer, Stream};
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
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Streams that are opened before the peer has said how many it takes: until then it has not shown that it speaks
/// HTTP/2 at all.
const STREAMS_BEFORE_SETTINGS: usize = 0;
/// Longest head of an answer, in bytes as RFC 9113 section 6.5.2 counts them; FCM's have a few hundred.
const HEAD_MAX: u32 = 32 * 1024;
/// Most orders that are taken at a time, to be written together.
const ORDERS: usize = 32;

/// What a connection tells the hub.
#[derive(Debug)]
pub(super) struct Note {
    /// Which connection.
    pub(super) connection: u64,
    /// What it says.
    pub(super) word: Word,
}

/// The content of a [`Note`].
#[derive(Debug)]
pub(super) enum Word {
    /// It takes so many requests at a time.
    Takes(usize),
    /// The peer ends it: it takes no more requests, and answers those that it has (GOAWAY).
    Leaves,
    /// What became of a request.
    Reply(Sid, Reply),
    /// It is over; these never left. Comes once and last.
    Ended(Cause, Vec<Sid>),
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
    Silent(std::time::Duration),
    /// The hub needs it no more.
    #[error("no longer needed")]
    Retired,
}

/// One connection, not dialled yet.
pub(super) struct Connection {
    /// Its number, counted from the start of the process.
    pub(super) id: u64,
    /// When to dial.
    pub(super) start: Instant,
    /// Most requests at a time.
    pub(super) streams: usize,
    /// How long to wait for what.
    pub(super) timing: Timing,
    /// How to get there.
    pub(super) dialer: Arc<Dialer>,
    /// What to ask for.
    pub(super) uri: Uri,
    /// What to do.
    pub(super) orders: mpsc::Receiver<Order>,
    /// Where to tell.
    pub(super) notes: mpsc::Sender<Note>,
    /// To end it after the answers to what is open.
    pub(super) retire: CancellationToken,
    /// To end it at once.
    pub(super) kill: CancellationToken,
}

/// What happened, for one turn.
enum Turn {
    Wire(WireEvent),
    Reply(Sid, Reply),
    /// So many orders came; none means that there will be no more.
    Orders(usize),
    Tick,
    Retire,
}

impl Connection {
    /// Runs the connection to its end.
    pub(super) async fn run(mut self) {
        let kill = self.kill.clone();
        let cause = tokio::select! {
            biased;
            () = kill.cancelled() => Cause::Retired,
            cause = self.live() => cause,
        };
        self.orders.close();
        let mut unwritten = Vec::new();
        while let Some(order) = self.orders.recv().await {
            unwritten.push(order.sid);
        }
        self.tell(Word::Ended(cause, unwritten)).await;
    }

    async fn live(&mut self) -> Cause {
        let dialed = tokio::select! {
            () = self.retire.cancelled() => return Cause::Retired,
            dialed = self.dial() => dialed,
        };
        match dialed {
            Err(error) => Cause::Dial(error),
            Ok(stream) => match Wire::open(stream).await {
                Err(error) => Cause::Http(error),
                Ok(wire) => self.converse(wire).await,
            },
        }
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, DialError> {
        tokio::time::sleep_until(self.start).await;
        self.dialer.dial().await
    }

    /// Every future in the `select!` is cancel-safe: requests live in `open`, the wire in `wire`.
    async fn converse(&mut self, mut wire: Wire) -> Cause {
        let mut open: FuturesUnordered<BoxFuture<'static, (Sid, Reply)>> = FuturesUnordered::new();
        let mut pulse = Pulse::new(self.timing);
        let mut takes = true;
        let mut settled = Settled::Until(Instant::now() + self.timing.request);
        let retire = self.retire.clone();
        let mut orders = Vec::with_capacity(ORDERS);
        loop {
            if !takes && open.is_empty() {
                return Cause::Retired;
            }
            let quiet = open.is_empty();
            // The wire comes first: an answer that is in the socket must not lose against its time limit.
            let turn = tokio::select! {
                biased;
                event = wire.event(self.streams) => Turn::Wire(event),
                Some((sid, reply)) = open.next() => Turn::Reply(sid, reply),
                () = pulse.next(quiet) => Turn::Tick,
                () = settled.overdue() => return Cause::Silent(self.timing.request),
                // What was ordered before the retirement is still done.
                count = self.orders.recv_many(&mut orders, ORDERS), if takes => Turn::Orders(count),
                () = retire.cancelled(), if takes => Turn::Retire,
            };
            match turn {
                Turn::Wire(WireEvent::Takes(count)) => {
                    settled = Settled::Yes;
                    self.tell(Word::Takes(count)).await;
                }
                Turn::Wire(WireEvent::Leaves) => self.tell(Word::Leaves).await,
                Turn::Wire(WireEvent::Pong) => pulse.pong(),
                Turn::Wire(WireEvent::Ended(cause)) => {
                    drop(wire);
                    self.drain(open).await;
                    return cause;
                }
                Turn::Reply(sid, reply) => self.tell(Word::Reply(sid, reply)).await,
                Turn::Orders(0) | Turn::Retire => takes = false,
                Turn::Orders(_) => {
                    for order in orders.drain(..) {
                        open.push(Box::pin(exchange(wire.send.clone(), self.uri.clone(), order, self.timing)));
                    }
                }
                Turn::Tick => match pulse.beat(&mut wire.pings) {
                    Beat::Going => {}
                    Beat::Lost => {
                        // Nothing more will come: what is open is as good as reset.
                        drop(wire);
                        self.drain(open).await;
                        return Cause::Silent(self.timing.pong);
                    }
                },
            }
        }
    }

    /// The wire is gone, so each open request has its end already.
    async fn drain(&self, mut open: FuturesUnordered<BoxFuture<'static, (Sid, Reply)>>) {
        while let Some((sid, reply)) = open.next().await {
            self.tell(Word::Reply(sid, reply)).await;
        }
    }

    async fn tell(&self, word: Word) {
        // The hub may have gone; then nobody needs to know.
        let _ = self.notes.send(Note { connection: self.id, word }).await;
    }
}

/// What the connection below the requests does.
enum WireEvent {
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
struct Wire {
    connection: client::Connection<Coalesce, Bytes>,
    send: SendRequest<Bytes>,
    pings: PingPong,
    told: Told,
}

/// What the hub knows of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Takes(usize),
    Leaves,
}

impl Wire {
    async fn open(stream: Box<dyn Stream>) -> Result<Self, h2::Error> {
        let (send, mut connection) = client::Builder::new()
            .enable_push(false)
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .max_header_list_size(HEAD_MAX)
            .handshake(Coalesce(stream))
            .await?;
        let pings = connection.ping_pong().expect("a new connection has its pings");
        Ok(Self { connection, send, pings, told: Told::Takes(STREAMS_BEFORE_SETTINGS) })
    }

    /// Moves bytes until something happens. Cancel-safe.
    async fn event(&mut self, limit: usize) -> WireEvent {
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

/// When to ping: only while a request is open, or FCM ends the connection for the pings (fcm-v1.md 3.6).
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
