//! One connection: dials, then moves bytes between the socket and the session until it ends.
//!
//! ```text
//!            orders                        bytes
//!   hub ───────────────► Connection ───────────────► CCS
//!       ◄───────────────  (Session)  ◄───────────────
//!            notes
//! ```
//!
//! Back-pressure: while the hub takes no notes, the socket is not read; orders go on being written. A peer that does
//! not read stops the orders, and the hub gives the connection up when too many of them wait.

use super::access::Access;
use super::ledger::Order;
use super::monitor::Monitor;
use crate::ccs::event::{Counters, Event, Reason};
use crate::ccs::session::{Input, Output, Session};
use crate::ccs::settings::SessionConfig;
use crate::chat::id::Sid;
use crate::transport::AckRef;
use crate::transport::dial::{DialError, Stream};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Bytes read at once: one TLS record.
const READ_BYTES: usize = 16 * 1024;
/// Bytes waiting to be written above which no order is taken.
const OUT_BYTES: usize = 256 * 1024;
/// Orders taken at once, so that they leave in one write.
const ORDER_BATCH: usize = 64;
/// For the last words on a connection that is over.
const GOODBYE: Duration = Duration::from_secs(2);

/// What the hub wants of a connection.
#[derive(Debug)]
pub(super) enum Command {
    /// Send a message.
    Send(Order),
    /// Acknowledge something received.
    Ack(AckRef),
}

/// What a connection tells the hub.
#[derive(Debug)]
pub(super) struct Note {
    /// Which connection.
    pub(super) connection: u64,
    /// What it says.
    pub(super) word: Word,
}

impl Note {
    /// Whether the connections stand differently after it.
    pub(super) fn changes_connections(&self) -> bool {
        matches!(self.word, Word::Ended(_) | Word::Event(Event::Ready { .. } | Event::Draining(_)))
    }
}

/// The content of a [`Note`].
#[derive(Debug)]
pub(super) enum Word {
    /// Something happened in the session; never its end.
    Event(Event),
    /// It is over. Comes once and last.
    Ended(Ended),
}

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Why.
    pub(super) cause: Cause,
    /// Whether the server had accepted the credentials.
    pub(super) authenticated: bool,
    /// What the session did.
    pub(super) counters: Counters,
    /// [`Access::version`] of its log-in.
    pub(super) access: u64,
    /// Orders to send that never reached the session.
    pub(super) unwritten: Vec<Sid>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    /// It never came to be.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The session is over.
    #[error(transparent)]
    Session(Reason),
    /// The hub gave it up.
    #[error("the peer does not read")]
    GivenUp,
}

/// One connection, not dialled yet.
pub(super) struct Connection {
    /// Its number, counted from the start of the process.
    pub(super) id: u64,
    /// When to dial.
    pub(super) start: Instant,
    /// How to log in.
    pub(super) session: SessionConfig,
    /// How to get there, and the key. It dials without more waiting when that changes, but for `pace`.
    pub(super) access: watch::Receiver<Access>,
    /// Keeps connections apart that stop waiting together.
    pub(super) pace: Duration,
    /// [`Access::version`] of the log-in.
    pub(super) version: u64,
    /// Where to count.
    pub(super) monitor: Arc<Monitor>,
    /// What to do.
    pub(super) orders: mpsc::Receiver<Command>,
    /// Where to tell.
    pub(super) notes: mpsc::Sender<Note>,
    /// To end it in good order.
    pub(super) stop: CancellationToken,
    /// To end it at once.
    pub(super) kill: CancellationToken,
}

impl Connection {
    /// Runs the connection to its end.
    pub(super) async fn run(mut self) {
        let (kill, stop) = (self.kill.clone(), self.stop.clone());
        let dialed = tokio::select! {
            biased;
            () = kill.cancelled() => Err(Cause::GivenUp),
            () = stop.cancelled() => Err(Cause::Session(Reason::Shutdown)),
            dialed = self.dial() => dialed.map_err(Cause::Dial),
        };
        match dialed {
            Err(cause) => self.end(cause, None).await,
            Ok(stream) => {
                let (reader, mut writer) = tokio::io::split(stream);
                let mut talk = Talk::new(self.session.clone(), Arc::clone(&self.monitor));
                let cause = self.converse(&mut talk, reader, &mut writer).await;
                let last_words = std::mem::take(&mut talk.out);
                for event in std::mem::take(&mut talk.inbox) {
                    self.note(Word::Event(event)).await;
                }
                let speaks = matches!(cause, Cause::Session(ref reason) if !matches!(reason, Reason::Cut));
                self.end(cause, Some(&talk.session)).await;
                if speaks {
                    say_goodbye(writer, last_words).await;
                }
            }
        }
    }

    async fn dial(&mut self) -> Result<Box<dyn Stream>, DialError> {
        tokio::select! {
            () = tokio::time::sleep_until(self.start.into()) => {}
            Ok(()) = self.access.changed() => tokio::time::sleep(self.pace).await,
        }
        let Access { key, dialer, version } = self.access.borrow_and_update().clone();
        self.session.key = key;
        self.version = version;
        dialer.dial().await
    }

    /// Every future in the `select!` is cancel-safe: what it has taken is in `talk` or still where it was.
    async fn converse(
        &mut self,
        talk: &mut Talk,
        mut reader: impl AsyncRead + Unpin,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Cause {
        let mut bytes = vec![0; READ_BYTES];
        let mut orders = Vec::with_capacity(ORDER_BATCH);
        loop {
            talk.pump(&self.notes, self.id);
            if let Some(reason) = talk.ended.take() {
                return Cause::Session(reason);
            }
            tokio::select! {
                biased;
                () = self.kill.cancelled() => return Cause::GivenUp,
                () = self.stop.cancelled(), if !talk.stopping => talk.stop(),
                _ = self.notes.reserve(), if !talk.inbox.is_empty() => {}
                () = sleep_until(talk.deadline) => talk.handle(Input::Tick),
                taken = self.orders.recv_many(&mut orders, ORDER_BATCH), if talk.takes_orders() => {
                    if taken == 0 {
                        talk.orders_ended = true;
                        talk.stop();
                    }
                    orders.drain(..).for_each(|order| talk.obey(order));
                }
                written = write_some(writer, &mut talk.out, &mut talk.flushed), if talk.has_to_write() => {
                    if let Err(error) = written {
                        tracing::debug!(kind = ?error.kind(), "write failed");
                        talk.handle(Input::Eof);
                    }
                }
                read = reader.read(&mut bytes), if talk.inbox.is_empty() => match read {
                    Ok(0) => talk.handle(Input::Eof),
                    Ok(count) => talk.handle(Input::Bytes(&bytes[..count])),
                    Err(error) => {
                        tracing::debug!(kind = ?error.kind(), "read failed");
                        talk.handle(Input::Eof);
                    }
                },
            }
        }
    }

    async fn end(&mut self, cause: Cause, session: Option<&Session>) {
        self.orders.close();
        let mut unwritten = Vec::new();
        while let Ok(command) = self.orders.try_recv() {
            if let Command::Send(order) = command {
                unwritten.push(order.sid);
            }
        }
        let authenticated = session.is_some_and(Session::was_authenticated);
        let counters = session.map(Session::counters).unwrap_or_default();
        let access = self.version;
        self.note(Word::Ended(Ended { cause, authenticated, counters, access, unwritten })).await;
    }

    async fn note(&self, word: Word) {
        // An error means that the hub is gone, and with it everybody who could care.
        let _ = self.notes.send(Note { connection: self.id, word }).await;
    }
}

/// A session and what lies between it and its two neighbours.
struct Talk {
    session: Session,
    monitor: Arc<Monitor>,
    /// What the monitor knows of the session's counters.
    counted: Counters,
    /// Bytes for the socket.
    out: BytesMut,
    /// Whether the socket has passed on what was written to it.
    flushed: bool,
    /// Events for the hub. While there are any, nothing is read.
    inbox: VecDeque<Event>,
    deadline: Option<Instant>,
    ended: Option<Reason>,
    stopping: bool,
    orders_ended: bool,
    paused: bool,
}

impl Talk {
    fn new(config: SessionConfig, monitor: Arc<Monitor>) -> Self {
        Self {
            session: Session::new(config, now()),
            monitor,
            counted: Counters::default(),
            out: BytesMut::new(),
            flushed: true,
            inbox: VecDeque::new(),
            deadline: None,
            ended: None,
            stopping: false,
            orders_ended: false,
            paused: false,
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.session.handle(input, now());
        let counters = self.session.counters();
        self.monitor.add_session(&std::mem::replace(&mut self.counted, counters), &counters);
        self.poll();
    }

    fn poll(&mut self) {
        loop {
            match self.session.poll() {
                Output::Write(bytes) => self.out.extend_from_slice(&bytes),
                Output::Event(Event::Closed(reason)) => self.ended = Some(reason),
                Output::Event(event) => self.inbox.push_back(event),
                Output::Wait(deadline) => {
                    self.deadline = deadline;
                    return;
                }
            }
        }
    }

    /// Brings the events to the hub as far as it takes them.
    fn pump(&mut self, notes: &mpsc::Sender<Note>, connection: u64) {
        self.poll();
        while !self.inbox.is_empty() {
            match notes.try_reserve() {
                Ok(permit) => {
                    if let Some(event) = self.inbox.pop_front() {
                        permit.send(Note { connection, word: Word::Event(event) });
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => break,
                Err(mpsc::error::TrySendError::Closed(())) => self.inbox.clear(),
            }
        }
        let paused = !self.inbox.is_empty();
        if paused != self.paused {
            self.paused = paused;
            self.handle(if paused { Input::Pause } else { Input::Resume });
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Send(Order { sid, json }) => {
                self.handle(Input::Send { message_id: &sid.to_string(), json: &json });
            }
            Command::Ack(ack_ref) => {
                self.handle(Input::AckUpstream { to: &ack_ref.to, message_id: &ack_ref.message_id })
            }
        }
    }

    fn stop(&mut self) {
        if !self.stopping {
            self.stopping = true;
            self.handle(Input::Shutdown);
        }
    }

    fn takes_orders(&self) -> bool {
        !self.orders_ended && self.out.len() < OUT_BYTES
    }

    fn has_to_write(&self) -> bool {
        !self.out.is_empty() || !self.flushed
    }
}

/// Writes something, or passes on what was written. A TLS stream holds back a part of it until it is flushed.
async fn write_some(
    writer: &mut (impl AsyncWrite + Unpin),
    out: &mut BytesMut,
    flushed: &mut bool,
) -> std::io::Result<()> {
    if out.is_empty() {
        writer.flush().await?;
        *flushed = true;
    } else {
        *flushed = false;
        if writer.write_buf(out).await? == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

async fn say_goodbye(mut writer: impl AsyncWrite + Unpin, mut out: BytesMut) {
    let goodbye = async {
        writer.write_all_buf(&mut out).await?;
        writer.shutdown().await
    };
    // The connection is over either way.
    let _ = tokio::time::timeout(GOODBYE, goodbye).await;
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
