//! One HTTP/2 connection: takes streams, has each served, and tells the client to go when it is
//! time.
//!
//! ```text
//!   Open ──idle, age, order, plan, too many pings──► Leaving ──all answered, or it takes too long──► Closing
//! ```

use super::config::ConnectionLimits;
use super::frame_watch::{End, FrameWatch, Sight};
use super::socket::Socket;
use super::stream::{self, Done};
use crate::sim::fault::Dice;
use crate::sim::handle::Shared;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// From the connection to the client's preface.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// For open streams to be answered after a GOAWAY.
const GRACE: Duration = Duration::from_secs(10);

/// For the last answers, and a GOAWAY, to be read before the connection is closed.
const LINGER: Duration = Duration::from_millis(250);

/// Something that a connection is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Goaway,
    Reset,
}

/// What a connection needs of its surroundings.
pub(super) struct Setting {
    pub(super) shared: Arc<Shared>,
    pub(super) limits: ConnectionLimits,
    pub(super) number: u64,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) stop: CancellationToken,
}

/// Serves a connection until it ends.
pub(super) async fn run(mut setting: Setting, socket: Socket) {
    let (watch, sight) = FrameWatch::new(socket);
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(setting.limits.streams);
    let mut h2 = match timeout(HANDSHAKE_TIME, builder.handshake::<_, Bytes>(watch)).await {
        Ok(Ok(h2)) => h2,
        Ok(Err(error)) => return tracing::info!(%error, "HTTP/2 handshake failed"),
        Err(_) => return tracing::info!("HTTP/2 handshake took too long"),
    };
    let mut connection = ServedConnection::new(&setting, sight);
    let mut work = FuturesUnordered::new();
    while connection.ended.is_none() {
        let due = connection.due(work.is_empty());
        tokio::select! {
            biased;
            () = setting.stop.cancelled(), if connection.is_open() => connection.leave(Parting::Shutdown),
            Some(order) = setting.orders.recv() => connection.apply_order(order),
            Some(done) = work.next(), if !work.is_empty() => connection.done(done),
            event = next(&mut h2, &connection) => match event {
                Event::Stream(request, respond) => {
                    if let Some((request, respond, dice)) = connection.stream(*request, respond, work.len()) {
                        work.push(stream::serve(connection.shared.clone(), request, respond, dice));
                    }
                }
                // Counted below.
                Event::Refused => {}
                Event::TooManyPings => connection.leave(Parting::Pings),
                Event::Ended(how) => connection.ended = Some(how),
            },
            () = sleep_until(due) => connection.timed(work.is_empty()),
        }
        connection.tell(work.len());
    }
    let streams = work.len();
    drop(work);
    connection.over(streams);
}

/// What happened on the socket.
enum Event {
    Stream(Box<Request<RecvStream>>, SendResponse<Bytes>),
    /// Streams beyond the limit were refused.
    Refused,
    TooManyPings,
    Ended(How),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Closed,
    /// The client broke the protocol.
    Protocol,
    Lost,
}

/// The next thing on the socket. Cancel-safe: the library keeps everything.
async fn next(h2: &mut Connection<FrameWatch, Bytes>, connection: &ServedConnection) -> Event {
    poll_fn(|cx| {
        let polled = h2.poll_accept(cx);
        if connection.is_open() && connection.sight.pings() >= connection.limits.pings {
            return Poll::Ready(Event::TooManyPings);
        }
        if polled.is_pending() && connection.sight.has_refused() {
            return Poll::Ready(Event::Refused);
        }
        polled.map(|accepted| match accepted {
            Some(Ok((request, respond))) => Event::Stream(Box::new(request), respond),
            Some(Err(error)) if error.is_io() || error.is_remote() => Event::Ended(How::Lost),
            Some(Err(_)) => Event::Ended(How::Protocol),
            None => Event::Ended(How::Closed),
        })
    })
    .await
}

/// Why a client is told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parting {
    Idle,
    Age,
    Pings,
    Order,
    Shutdown,
}

impl Parting {
    /// Google's words.
    const fn words(self) -> &'static str {
        match self {
            Self::Idle => "session_timeout",
            Self::Age | Self::Order => "max_age",
            Self::Pings => "too_many_pings",
            Self::Shutdown => "server_shutting_down",
        }
    }

    const fn code(self) -> Reason {
        match self {
            Self::Pings => Reason::ENHANCE_YOUR_CALM,
            Self::Idle | Self::Age | Self::Order | Self::Shutdown => Reason::NO_ERROR,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// A GOAWAY was sent; what came before it is still answered.
    Leaving {
        until: Instant,
    },
    /// The library is told that the client has closed; if it does not listen, the socket is dropped.
    Closing {
        until: Instant,
    },
}

struct ServedConnection {
    shared: Arc<Shared>,
    limits: ConnectionLimits,
    number: u64,
    sight: Sight,
    phase: Phase,
    ended: Option<How>,
    born: Instant,
    last_use: Instant,
    /// The last stream that is looked at.
    last: u32,
    taken: u64,
    /// Streams beyond a GOAWAY: dropping one would reset it, and the real server says no more about it.
    unprocessed: Vec<SendResponse<Bytes>>,
    /// Streams as the counters know them.
    told: usize,
}

impl ServedConnection {
    fn new(setting: &Setting, sight: Sight) -> Self {
        let now = Instant::now();
        Self {
            shared: setting.shared.clone(),
            limits: setting.limits,
            number: setting.number,
            sight,
            phase: Phase::Open,
            ended: None,
            born: now,
            last_use: now,
            last: 0,
            taken: 0,
            unprocessed: Vec::new(),
            told: 0,
        }
    }

    fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// When [`ServedConnection::timed`] has something to do.
    fn due(&self, idle: bool) -> Instant {
        match self.phase {
            Phase::Leaving { until } | Phase::Closing { until } => until,
            Phase::Open if idle => self.aged().min(self.last_use + self.limits.scaled(self.limits.idle)),
            Phase::Open => self.aged(),
        }
    }

    fn aged(&self) -> Instant {
        self.born + self.limits.scaled(self.limits.age)
    }

    fn timed(&mut self, idle: bool) {
        let now = Instant::now();
        match self.phase {
            Phase::Open if self.aged() <= now => self.leave(Parting::Age),
            Phase::Open if self.due(idle) <= now => self.leave(Parting::Idle),
            Phase::Leaving { until } if until <= now => {
                self.sight.end(End::Close);
                self.phase = Phase::Closing { until: now + LINGER };
            }
            Phase::Closing { until } if until <= now => self.ended = Some(How::Lost),
            Phase::Open | Phase::Leaving { .. } | Phase::Closing { .. } => {}
        }
    }

    fn apply_order(&mut self, order: Order) {
        match order {
            Order::Reset => self.sight.end(End::Reset),
            Order::Goaway if self.is_open() => self.leave(Parting::Order),
            Order::Goaway => {}
        }
    }

    /// Takes a new stream, unless it comes behind a GOAWAY.
    fn stream(
        &mut self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        open: usize,
    ) -> Option<(Request<RecvStream>, SendResponse<Bytes>, Dice)> {
        let id = respond.stream_id().as_u32();
        if !self.is_open() {
            self.skip(respond);
            return None;
        }
        self.last = id;
        self.taken += 1;
        self.last_use = Instant::now();
        let (dice, goaway_after) = self.shared.with(|service, _| {
            let peak = &mut service.v1.stats.streams_peak;
            *peak = (*peak).max(open + 1);
            (service.stream_dice(self.number, id), service.v1.faults.goaway_after)
        });
        if goaway_after.is_some_and(|after| self.taken >= after) {
            self.leave(Parting::Age);
        }
        Some((request, respond, dice))
    }

    fn done(&mut self, done: Done) {
        self.last_use = Instant::now();
        match done {
            Done::Answered => {}
            Done::ResetConnection => self.sight.end(End::Reset),
            Done::Refuse(mut respond) => self.refuse(&mut respond),
            // Only the last stream can be the first beyond the last one; others are refused, which means the same.
            Done::Goaway(mut respond) if !self.is_open() || respond.stream_id().as_u32() != self.last => {
                self.refuse(&mut respond);
            }
            Done::Goaway(respond) => {
                self.last = self.last.saturating_sub(2);
                self.skip(respond);
                self.leave(Parting::Age);
            }
        }
    }

    fn refuse(&self, respond: &mut SendResponse<Bytes>) {
        self.sight.pardon(respond.stream_id().as_u32());
        respond.send_reset(Reason::REFUSED_STREAM);
    }

    fn skip(&mut self, respond: SendResponse<Bytes>) {
        self.shared.with(|service, _| service.v1.stats.unprocessed += 1);
        if self.unprocessed.len() < self.limits.streams as usize {
            self.unprocessed.push(respond);
        }
    }

    fn leave(&mut self, parting: Parting) {
        tracing::debug!(connection = self.number, why = parting.words(), "client is told to go");
        self.sight.goaway(self.last, parting.code().into(), parting.words());
        let grace = match parting {
            Parting::Pings | Parting::Idle => LINGER,
            Parting::Age | Parting::Order => GRACE,
            Parting::Shutdown => 2 * LINGER,
        };
        self.phase = Phase::Leaving { until: Instant::now() + grace };
        self.shared.with(|service, _| {
            *service.v1.stats.goaways.entry(parting.words()).or_insert(0) += 1;
            service.v1.stats.violations.pings += u64::from(parting == Parting::Pings);
        });
    }

    /// Tells the counters what has changed.
    fn tell(&mut self, streams: usize) {
        if let Phase::Leaving { until } = &mut self.phase
            && streams == 0
        {
            *until = (*until).min(Instant::now() + LINGER);
        }
        let refused = self.sight.take_refused();
        if refused > 0 || streams != self.told {
            self.shared.with(|service, _| {
                let stats = &mut service.v1.stats;
                stats.violations.streams += refused;
                stats.open_streams = stats.open_streams + streams - self.told;
            });
            self.told = streams;
        }
    }

    fn over(mut self, streams: usize) {
        if self.ended == Some(How::Protocol) {
            self.shared.with(|service, _| service.v1.stats.violations.protocol += 1);
        }
        self.tell(0);
        tracing::info!(connection = self.number, how = ?self.ended, requests = self.taken, streams, "client gone");
    }
}
