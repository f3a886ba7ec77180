//! One session with CCS, from the stream header to the end: bytes, commands and `now` in; bytes, events and a deadline
//! out.
//!
//! ```text
//!   Login ──► Open ──► Draining ─┐
//!     │        │          │      │ peer closes, errors, time is up
//!     │        └────┬─────┘      │
//!     │ shutdown    ▼ shutdown   ▼
//!     ├────────► Finishing ──► Closing ──► Closed
//!     └──────────────────────────────────────▲
//! ```
//!
//! One [`Session::handle`], then [`Session::poll`] until it says [`Output::Wait`]. Nothing fails with an error value:
//! the session ends with [`Event::Closed`], once and last, and ignores what comes after. What was
//! never answered by then, its shell knows: it keeps what it sent until it is answered.

use super::event::{Counters, Event, Reason};
use super::login::{Login, Step};
use super::payload::Ack;
use super::settings::SessionConfig;
use super::stanza::Stanza;
use super::write;
use super::xml::{Frame, Framer, FramingError};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Instant;

/// What happened to the session.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// Bytes were read.
    Bytes(&'a [u8]),
    /// The connection has ended.
    Eof,
    /// Time has passed.
    Tick,
    /// A message is to be sent.
    Send {
        /// The id that is inside `json`.
        message_id: &'a str,
        /// The payload.
        json: &'a str,
    },
    /// A message or receipt that came in on this session is safe.
    AckUpstream {
        /// Its sender.
        to: &'a str,
        /// Its id.
        message_id: &'a str,
    },
    /// The shell stops reading: until [`Input::Resume`], silence says nothing about the peer.
    Pause,
    /// The shell reads again.
    Resume,
    /// Close the session as soon as everything in flight is answered, or the grace period is over.
    Shutdown,
    /// Close the session now; what is in flight stays unanswered.
    Close,
}

/// What the session wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Write these bytes.
    Write(Bytes),
    /// Take note.
    Event(Event),
    /// Nothing more until the next input; [`Input::Tick`] at this time at the latest.
    Wait(Option<Instant>),
}

/// One session with CCS.
#[derive(Debug)]
pub struct Session {
    pub(super) config: SessionConfig,
    pub(super) phase: Phase,
    framer: Framer,
    /// Messages in flight: sent, and neither taken nor refused yet.
    pub(super) sent: HashSet<String>,
    timers: BTreeMap<Timer, Instant>,
    /// The shell does not read: silence says nothing about the peer.
    paused: bool,
    pub(super) out: String,
    pub(super) events: VecDeque<Event>,
    pub(super) counters: Counters,
    /// Pings sent; the number of one is its id.
    pings: u64,
    /// Messages and receipts handed up and not acknowledged yet.
    pub(super) owed: usize,
}

/// Where the session stands; see the drawing above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Login(Login),
    Open,
    Draining,
    Finishing,
    Closing,
    Closed,
}

/// What the session may be waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The log-in must be over.
    Login,
    /// Nothing was heard: time to ask.
    Silence,
    /// The peer must have answered.
    Answer,
    /// The shutdown must be over.
    Shutdown,
}

impl Session {
    /// A session on a connection that has just been made; the first output is the stream header.
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        let mut out = String::new();
        write::client_header(&mut out, &config.xmpp_domain);
        Self {
            framer: Framer::new(config.limits.stanza_bytes, config.limits.depth).lenient(),
            sent: HashSet::new(),
            timers: BTreeMap::from([(Timer::Login, now + config.timing.login)]),
            config,
            phase: Phase::Login(Login::Header),
            paused: false,
            out,
            events: VecDeque::new(),
            counters: Counters::default(),
            pings: 0,
            owed: 0,
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        match input {
            Input::Bytes(bytes) => self.handle_bytes(bytes, now),
            Input::Eof if self.phase == Phase::Closing => self.close(Reason::Shutdown),
            Input::Eof => self.close(Reason::Broken),
            Input::Tick => self.handle_tick(now),
            Input::Send { message_id, json } => self.handle_send(message_id, json),
            Input::AckUpstream { to, message_id } => self.handle_ack(to, message_id),
            Input::Pause => {
                self.paused = true;
                self.timers.remove(&Timer::Silence);
                self.timers.remove(&Timer::Answer);
            }
            Input::Resume => {
                self.paused = false;
                self.heard(now);
            }
            Input::Shutdown => self.handle_shutdown(now),
            Input::Close => match self.phase {
                Phase::Login(_) => self.close_stream(Reason::Shutdown),
                Phase::Open | Phase::Draining | Phase::Finishing => self.begin_close(now),
                Phase::Closing | Phase::Closed => {}
            },
        }
        self.finish(now);
    }

    /// What to do next. After [`Output::Wait`] it takes another input for more.
    pub fn poll(&mut self) -> Output {
        if !self.out.is_empty() {
            return Output::Write(Bytes::from(std::mem::take(&mut self.out)));
        }
        match self.events.pop_front() {
            Some(event) => Output::Event(event),
            None => Output::Wait(self.timers.values().min().copied()),
        }
    }

    /// How many messages are sent and not answered.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// How much that was handed up is not acknowledged.
    #[cfg(all(test, feature = "sim"))]
    pub(crate) fn owed(&self) -> usize {
        self.owed
    }

    /// What was counted since the last time.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        self.heard(now);
        self.framer.push(bytes);
        while self.phase != Phase::Closed {
            match self.framer.next() {
                Ok(Some(frame)) => self.handle_frame(frame, now),
                Ok(None) => return,
                Err(error) => self.fail_framing(error),
            }
        }
    }

    fn handle_frame(&mut self, frame: Frame, now: Instant) {
        let (frame, damage) = match frame {
            Frame::Damaged { element, error } => {
                self.counters.malformed += 1;
                tracing::warn!(%error, "unreadable stanza");
                let Some(element) = element else { return };
                (Frame::Stanza(element), Some(error))
            }
            frame => (frame, None),
        };
        match (self.phase, frame) {
            (_, Frame::Damaged { .. }) => {}
            (_, Frame::Close) => self.handle_close(),
            (_, Frame::Dropped(limit)) => {
                self.counters.oversize += 1;
                tracing::warn!(%limit, "stanza dropped");
            }
            (Phase::Login(login), Frame::Header(header)) => {
                let step = login.header(&header);
                self.advance(step, now);
            }
            (Phase::Login(login), Frame::Stanza(element)) => {
                let step = login.stanza(Stanza::read(&element), &self.config, &mut self.out);
                self.advance(step, now);
            }
            (_, Frame::Header(_)) => self.counters.ignored += 1,
            (_, Frame::Stanza(element)) => self.handle_stanza(Stanza::read(&element), damage),
        }
    }

    fn advance(&mut self, step: Step, now: Instant) {
        match step {
            Step::Wait(login) => self.phase = Phase::Login(login),
            Step::Ignore(_) => self.counters.ignored += 1,
            Step::Restart(login) => {
                self.framer.restart();
                self.phase = Phase::Login(login);
            }
            Step::Bound { jid } => {
                self.timers.remove(&Timer::Login);
                self.phase = Phase::Open;
                self.heard(now);
                self.events.push_back(Event::Ready { jid });
            }
            Step::Fail(reason) => self.close_stream(reason),
        }
    }

    fn handle_tick(&mut self, now: Instant) {
        while let Some(timer) = self.pop_fired(now) {
            match timer {
                Timer::Login => self.close_stream(Reason::LoginTimeout),
                Timer::Silence => {
                    self.counters.pings += 1;
                    self.pings += 1;
                    let id = format!("ping-{}", self.pings);
                    write::ping(&mut self.out, &id, Some(&self.config.xmpp_domain));
                    self.timers.insert(Timer::Answer, now + self.config.timing.ping_timeout);
                }
                Timer::Answer => {
                    write::stream_error(&mut self.out, "connection-timeout");
                    self.close_stream(Reason::PingTimeout);
                }
                Timer::Shutdown if self.phase == Phase::Finishing => self.begin_close(now),
                Timer::Shutdown => self.close(Reason::Shutdown),
            }
        }
    }

    /// Takes out a timer that has fired, the earliest first.
    fn pop_fired(&mut self, now: Instant) -> Option<Timer> {
        let (&timer, _) = self.timers.iter().filter(|(_, at)| **at <= now).min_by_key(|(_, at)| **at)?;
        self.timers.remove(&timer);
        Some(timer)
    }

    fn handle_send(&mut self, message_id: &str, json: &str) {
        let takes = self.phase == Phase::Open && self.sent.len() < self.config.window;
        if takes && self.sent.insert(message_id.to_owned()) {
            write::message(&mut self.out, message_id, json);
        } else {
            self.events.push_back(Event::NotSent { message_id: message_id.to_owned() });
        }
    }

    /// Acknowledgements pass the window: CCS does not count them, and queued behind it they would block both sides.
    fn handle_ack(&mut self, to: &str, message_id: &str) {
        if !matches!(self.phase, Phase::Open | Phase::Draining | Phase::Finishing) {
            self.counters.ignored += 1;
            return;
        }
        self.owed = self.owed.saturating_sub(1);
        let ack = Ack { to: to.to_owned(), message_id: message_id.to_owned() };
        write::message(&mut self.out, "", &ack.to_json());
    }

    fn handle_shutdown(&mut self, now: Instant) {
        match self.phase {
            Phase::Login(_) => self.close_stream(Reason::Shutdown),
            Phase::Open | Phase::Draining => {
                self.phase = Phase::Finishing;
                self.timers.insert(Timer::Shutdown, now + self.config.timing.grace);
            }
            Phase::Finishing | Phase::Closing | Phase::Closed => {}
        }
    }

    fn handle_close(&mut self) {
        let reason = if self.phase == Phase::Closing { Reason::Shutdown } else { Reason::PeerClosed };
        self.close_stream(reason);
    }

    /// What follows from the input just handled, whatever it was.
    fn finish(&mut self, now: Instant) {
        if self.phase == Phase::Finishing && self.sent.is_empty() && self.owed == 0 {
            self.begin_close(now);
        }
    }

    pub(super) fn begin_draining(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
            self.events.push_back(Event::Draining);
        }
    }

    /// Every byte is a sign of life.
    fn heard(&mut self, now: Instant) {
        self.timers.remove(&Timer::Answer);
        let pings = matches!(self.phase, Phase::Open | Phase::Draining | Phase::Finishing);
        if pings && !self.paused {
            self.timers.insert(Timer::Silence, now + self.config.timing.ping_interval);
        }
    }

    fn fail_framing(&mut self, error: FramingError) {
        if self.phase == Phase::Closing {
            return self.close(Reason::Shutdown);
        }
        if !matches!(self.phase, Phase::Login(_)) {
            write::stream_error(&mut self.out, "not-well-formed");
        }
        self.close_stream(Reason::Malformed(error));
    }

    /// Says goodbye and waits for the peer to say it too.
    fn begin_close(&mut self, now: Instant) {
        self.out.push_str(write::STREAM_CLOSE);
        self.phase = Phase::Closing;
        self.timers = BTreeMap::from([(Timer::Shutdown, now + self.config.timing.close)]);
    }

    /// Says goodbye and is gone. During the log-in it just goes: the peer may have begun a new stream already, of which
    /// nothing is heard yet, and a closing tag of the old one would be out of place there.
    pub(super) fn close_stream(&mut self, reason: Reason) {
        if !matches!(self.phase, Phase::Closing | Phase::Login(_)) {
            self.out.push_str(write::STREAM_CLOSE);
        }
        self.close(reason);
    }

    fn close(&mut self, reason: Reason) {
        self.phase = Phase::Closed;
        self.timers.clear();
        self.events.push_back(Event::Closed(reason));
    }
}

#[cfg(test)]
mod tests;
