//! What a connection does with a GOAWAY, against a peer that speaks frame by frame.

use super::connection::{Responses, Wire, WireEvent};
use super::*;
use crate::chat::id::{Sid, SidSource};
use crate::transport::ConnectionId;
use crate::transport::core::{Event, Manner};
use crate::transport::dial::{Dialer, Stream};
use crate::transport::driver::{Order, Task};
use crate::transport::fcm_v1::tests::peer::{NO_ERROR, Peer};
use http::HeaderValue;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// A shutdown notice rules no stream out (RFC 9113, section 6.8).
const NO_STREAM: u32 = i32::MAX.unsigned_abs();
const SECOND: Duration = Duration::from_secs(1);

struct Driven {
    orders: mpsc::Sender<Order<Request>>,
    retire: watch::Sender<Option<Manner>>,
    events: mpsc::Receiver<(ConnectionId, Event<Reply>)>,
    peer: Peer,
    _tasks: JoinSet<()>,
}

impl Driven {
    /// A connection that is up, to a peer that takes so many streams.
    async fn open(streams: u32) -> Self {
        let (dialled_tx, mut dialled) = mpsc::channel(1);
        let (orders, orders_rx) = mpsc::channel(16);
        let (retire, retire_rx) = watch::channel(None);
        let (events_tx, events) = mpsc::channel(16);
        let task = Task::new(ConnectionId(1), orders_rx, retire_rx, events_tx);
        let mut tasks = JoinSet::new();
        tasks.spawn(run(task, server(Dialer::memory(dialled_tx))));
        let peer = Peer::accept(dialled.recv().await.unwrap(), streams).await;
        let mut driven = Self { orders, retire, events, peer, _tasks: tasks };
        assert!(matches!(driven.event().await, Event::Up { .. }));
        // Nothing is under way but what the test begins.
        assert!(tokio::time::timeout(SECOND, driven.peer.asked()).await.is_err());
        driven
    }

    fn order(&self, sid: Sid) {
        self.orders.try_send(Order::Send(sid, request(sid))).unwrap();
    }

    async fn event(&mut self) -> Event<Reply> {
        self.events.recv().await.expect("the connection runs").1
    }

    /// The next event that is no word about the connection itself.
    async fn fate(&mut self) -> Event<Reply> {
        loop {
            match self.event().await {
                Event::Draining | Event::Capacity(_) => {}
                event => return event,
            }
        }
    }
}

fn server(dialer: Dialer) -> Server {
    Server {
        dialer: watch::channel(Arc::new(dialer)).1,
        uri: "https://memory/".parse().unwrap(),
        streams: 100,
        answer_max: 1024,
        request: 20 * SECOND,
        ping: 10 * SECOND,
        pong: 10 * SECOND,
    }
}

fn request(sid: Sid) -> Request {
    let body = format!(r#"{{"message":{{"data":{{"mid":"{sid}"}}}}}}"#).into();
    Request { body, authorization: HeaderValue::from_static("Bearer x") }
}

fn sid() -> Sid {
    SidSource::default().next(1_700_000_000_000, 1)
}

/// Whatever the connection is doing when the GOAWAY comes: a request is on the wire before it, or never.
#[tokio::test(start_paused = true)]
async fn no_request_is_written_after_a_goaway_was_read_and_one_that_was_not_is_no_try() {
    let (mut before, mut never) = (0, 0);
    for yields in 0..12 {
        for first in [false, true] {
            let mut driven = Driven::open(100).await;
            let sid = sid();
            if first {
                driven.peer.go_away(NO_STREAM, NO_ERROR).await;
            }
            driven.order(sid);
            for _ in 0..yields {
                tokio::task::yield_now().await;
            }
            let written = driven.peer.has_request();
            if !first {
                driven.peer.go_away(NO_STREAM, NO_ERROR).await;
            }
            let asked = tokio::time::timeout(SECOND, driven.peer.asked()).await;
            let asked = asked.unwrap_or_default();
            assert_eq!(asked.is_some(), written, "{yields} {first}");
            match asked {
                Some(asked) => {
                    before += 1;
                    driven.peer.take(asked.stream).await;
                    assert!(matches!(driven.fate().await, Event::Answered(of, Reply::Answered { .. }) if of == sid));
                }
                None => {
                    never += 1;
                    let fate = driven.fate().await;
                    let is_unwritten = match &fate {
                        Event::Unwritten(of) => *of == sid,
                        Event::Ended(ended) => ended.unwritten == [sid],
                        _ => false,
                    };
                    assert!(is_unwritten, "{yields} {first}: {fate:?}");
                }
            }
        }
    }
    assert!(before > 3 && never > 3, "{before} {never}");
}

/// Writes down what is read and written.
struct Watched(DuplexStream, Arc<Mutex<Vec<&'static str>>>);

impl Stream for Watched {}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.0).poll_read(cx, buffer);
        if read.is_ready() {
            self.1.lock().unwrap().push("read");
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.1.lock().unwrap().push("write");
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_handed_over_is_written_before_a_goaway_that_comes_later_is_read() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let log = Arc::new(Mutex::new(Vec::new()));
    let (wire, peer) = tokio::join!(Wire::open(Box::new(Watched(ours, Arc::clone(&log)))), Peer::accept(theirs, 100));
    let (mut wire, mut peer) = (wire.unwrap(), peer);
    assert!(matches!(wire.event(100).await, WireEvent::Takes(100)));
    // The rest of the greetings.
    let _ = tokio::time::timeout(SECOND, futures_util::future::join(wire.event(100), peer.asked())).await;
    let mut orders = vec![Order::Send(sid(), request(sid()))];
    let mut open = Responses::new();
    assert!(wire.post(&mut orders, &mut open, &server(Dialer::memory(mpsc::channel(1).0))).is_empty());
    peer.go_away(NO_STREAM, NO_ERROR).await;
    log.lock().unwrap().clear();
    assert!(matches!(wire.event(100).await, WireEvent::Leaves(None)));
    assert_eq!(log.lock().unwrap()[..2], ["write", "read"]);
    assert!(peer.has_request());
}

#[tokio::test(start_paused = true)]
async fn what_a_goaway_rules_out_was_not_processed() {
    let mut driven = Driven::open(100).await;
    let mut source = SidSource::default();
    driven.order(source.next(1_700_000_000_000, 1));
    driven.order(source.next(1_700_000_000_000, 1));
    let first = driven.peer.next().await;
    driven.peer.next().await;
    driven.peer.go_away(first.stream, NO_ERROR).await;
    let fate = driven.fate().await;
    let beyond = matches!(fate, Event::Answered(_, Reply::BeyondGoaway));
    assert!(beyond, "{fate:?}");
    driven.peer.take(first.stream).await;
    assert!(matches!(driven.fate().await, Event::Answered(..)));
    assert!(matches!(driven.event().await, Event::Ended(_)));
}

#[tokio::test(start_paused = true)]
async fn a_goaway_with_an_error_code_is_told_as_that_whether_or_not_a_request_is_open() {
    const ENHANCE_YOUR_CALM: u32 = 11;
    for is_open in [false, true] {
        let mut driven = Driven::open(100).await;
        if is_open {
            driven.order(sid());
            driven.peer.next().await;
        }
        driven.peer.go_away(NO_STREAM, ENHANCE_YOUR_CALM).await;
        let event = driven.event().await;
        assert!(matches!(event, Event::Ejected(_)), "{is_open}: {event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_more_requests_than_the_peer_takes_none_waits_on_the_connection() {
    let mut driven = Driven::open(1).await;
    let mut source = SidSource::default();
    let sids: Vec<Sid> = (0..3).map(|_| source.next(1_700_000_000_000, 1)).collect();
    sids.iter().for_each(|sid| driven.order(*sid));
    let asked = driven.peer.next().await;
    assert_eq!(asked.mid(), sids[0].to_string());
    for sid in &sids[1..] {
        assert!(matches!(driven.fate().await, Event::Unwritten(of) if of == *sid));
    }
    driven.peer.take(asked.stream).await;
    let fate = driven.fate().await;
    assert!(
        matches!(&fate, Event::Answered(of, Reply::Answered { status: 200, body, .. })
        if *of == sids[0] && body.starts_with(b"{\"name\"")),
        "{fate:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_to_end_now_hands_up_the_answers_that_are_there_and_what_it_has_not_written() {
    let mut driven = Driven::open(100).await;
    let mut source = SidSource::default();
    let sids: Vec<Sid> = (0..3).map(|_| source.next(1_700_000_000_000, 1)).collect();
    driven.order(sids[0]);
    driven.order(sids[1]);
    let answered = driven.peer.next().await;
    driven.peer.next().await;
    driven.peer.take(answered.stream).await;
    driven.order(sids[2]);
    driven.retire.send_replace(Some(Manner::Now));
    let (mut taken, mut unwritten) = (Vec::new(), Vec::new());
    loop {
        match driven.fate().await {
            Event::Answered(sid, Reply::Answered { status: 200, .. }) => taken.push(sid),
            Event::Unwritten(sid) => unwritten.push(sid),
            Event::Ended(ended) => {
                unwritten.extend(ended.unwritten);
                break;
            }
            event => panic!("{event:?}"),
        }
    }
    // Of the second it is not said what became: the end says that it is unanswered.
    assert_eq!((taken, unwritten), (vec![sids[0]], vec![sids[2]]));
}
