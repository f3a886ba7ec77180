//! The server's side of one connection, sans-IO: bytes and `now` go in; chunks of bytes, a deadline and the end come
//! out.
//!
//! [`Connection::receive`] decodes and needs nothing that connections share; [`Connection::serve`] does what was
//! decoded, with the shared [`Service`] in hand. Then [`Connection::poll_write`] until it is empty, and wait for bytes,
//! the deadline or a wake.

mod answer;
mod draft;
mod login;
mod request;
mod session;

use super::config::{Credentials, WireConfig};
use super::event::{ConnectionId, SimEvent};
use super::fault::Dice;
use super::service::{Order, Service};
use crate::ccs::write;
use crate::ccs::xml::{Frame, Framer};
use bytes::Bytes;
use login::{Fault, Login, LoginContext, Step};
use request::Request;
use session::{Room, Session};
use std::collections::VecDeque;

/// Elements inside each other at most.
const MAX_DEPTH: usize = 16;

/// Largest piece of a write that is cut up on purpose, in bytes.
const MAX_PIECE: u64 = 256;

/// What all connections are told at their birth.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    pub(super) wire: WireConfig,
    pub(super) credentials: Credentials,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// What is written is still sent, then the connection is closed.
    Close,
    /// What is written is lost.
    Reset,
}

/// The server's side of one connection.
#[derive(Debug)]
pub(super) struct Connection {
    id: ConnectionId,
    dice: Dice,
    framer: Framer,
    phase: Phase,
    requests: VecDeque<Request>,
    out: String,
    chunks: VecDeque<Bytes>,
    stalled: bool,
    login_until: u64,
    keepalive_at: u64,
}

#[derive(Debug)]
enum Phase {
    Login(Login),
    Session(Session),
    /// Takes no more bytes; the requests before the end may still be there.
    Deaf,
    Ended(End),
}

impl Connection {
    /// A client has just connected.
    pub(super) fn new(id: ConnectionId, dice: Dice, profile: &Profile, now: u64) -> Self {
        Self {
            id,
            dice,
            framer: Framer::new(profile.wire.stanza_bytes, MAX_DEPTH),
            phase: Phase::Login(Login::Greeting),
            requests: VecDeque::new(),
            out: String::new(),
            chunks: VecDeque::new(),
            stalled: false,
            login_until: now.saturating_add(profile.wire.login_ms),
            keepalive_at: u64::MAX,
        }
    }

    /// Decodes bytes as they were read.
    pub(super) fn receive(&mut self, bytes: &[u8], profile: &Profile) {
        self.framer.push(bytes);
        loop {
            match self.framer.next() {
                Ok(Some(frame)) => self.frame(frame, profile),
                Ok(None) => return,
                Err(error) => return self.broken(error),
            }
        }
    }

    fn frame(&mut self, frame: Frame, profile: &Profile) {
        let login = match std::mem::replace(&mut self.phase, Phase::Deaf) {
            Phase::Login(login) => login,
            phase => {
                if matches!(phase, Phase::Session(_)) {
                    self.requests.extend(Request::read(frame));
                }
                self.phase = phase;
                return;
            }
        };
        let mut context = LoginContext { profile, dice: &mut self.dice, out: &mut self.out };
        match login.frame(frame, &mut context) {
            Step::Next(login) => self.phase = Phase::Login(login),
            Step::Restart(login) => {
                self.framer.restart();
                self.phase = Phase::Login(login);
            }
            Step::Bound { sender, jid } => {
                self.phase = Phase::Session(Session::new(self.id, jid));
                self.requests.push_back(Request::LoggedIn { sender });
            }
            Step::Over(Fault::Refused) => self.requests.push_back(Request::LoginFailed),
            Step::Over(Fault::Early) => self.requests.push_back(Request::Early),
            Step::Over(Fault::Closed) => self.requests.push_back(Request::Close),
        }
    }

    fn broken(&mut self, error: crate::ccs::xml::FramingError) {
        // The framer repeats its error for ever; it is told once.
        if !matches!(self.requests.back(), Some(Request::Broken(_))) {
            self.requests.push_back(Request::Broken(error));
        }
    }

    /// Does what was decoded, ordered, or is due.
    pub(super) fn serve(&mut self, service: &mut Service, profile: &Profile, now: u64) {
        self.apply_orders(service, profile, now);
        self.stalled = self.is_stalled(service, now);
        while !self.stalled
            && self.end().is_none()
            && let Some(request) = self.requests.pop_front()
        {
            self.request(request, service, profile, now);
            self.stalled = self.is_stalled(service, now);
        }
        if !self.stalled {
            self.flush(service, profile, now);
            self.pack(service, profile, now);
        }
    }

    fn apply_orders(&mut self, service: &mut Service, profile: &Profile, now: u64) {
        while self.end().is_none()
            && let Some(order) = service.take_order(self.id)
        {
            let mut room = Room { service, wire: &profile.wire, dice: &mut self.dice, out: &mut self.out, now };
            match (order, &mut self.phase) {
                (Order::Reset, _) => {
                    room.service.stats.faults.resets += 1;
                    self.phase = Phase::Ended(End::Reset);
                }
                (Order::Drain(plan), Phase::Session(session)) => session.drain(plan, &mut room),
                (Order::Close, Phase::Session(session)) => session.close(&mut room),
                (Order::Close, _) => self.close(),
                (Order::Drain(_), _) => {}
            }
        }
    }

    fn request(&mut self, request: Request, service: &mut Service, profile: &Profile, now: u64) {
        if let Phase::Session(session) = &mut self.phase {
            let mut room = Room { service, wire: &profile.wire, dice: &mut self.dice, out: &mut self.out, now };
            if let Some(end) = session.request(request, &mut room) {
                self.finish(end);
            }
            return;
        }
        let connection = self.id;
        match request {
            Request::LoginFailed => {
                service.stats.login_failures += 1;
                service.tell(|| SimEvent::LoginFailed { connection });
            }
            Request::Early => {
                service.stats.violations.early += 1;
                service.tell(|| SimEvent::Violation { connection, rule: "early" });
            }
            Request::Broken(error) => {
                tracing::debug!(connection = connection.0, %error, "stream cannot be read");
                service.stats.violations.malformed += 1;
                service.tell(|| SimEvent::Violation { connection, rule: "malformed" });
                self.fail_login("not-well-formed", profile);
            }
            _ => {}
        }
        self.phase = Phase::Ended(End::Close);
    }

    fn flush(&mut self, service: &mut Service, profile: &Profile, now: u64) {
        match &mut self.phase {
            Phase::Session(session) => {
                let mut room = Room { service, wire: &profile.wire, dice: &mut self.dice, out: &mut self.out, now };
                if let Some(end) = session.flush(&mut room) {
                    self.finish(end);
                }
            }
            Phase::Login(_) if self.login_until <= now => self.fail_login("connection-timeout", profile),
            _ => {}
        }
    }

    /// Ends a log-in with a stream error; the error needs a stream to be in (RFC 6120, 4.9.1).
    fn fail_login(&mut self, condition: &str, profile: &Profile) {
        if matches!(self.phase, Phase::Login(Login::Greeting | Login::Restarting { .. })) {
            write::server_header(&mut self.out, &profile.wire.domain, &format!("{:016X}", self.dice.any()));
        }
        write::stream_error(&mut self.out, condition);
        self.close();
    }

    fn finish(&mut self, end: End) {
        match end {
            End::Close => self.close(),
            End::Reset => self.phase = Phase::Ended(End::Reset),
        }
    }

    fn close(&mut self) {
        self.out.push_str(write::STREAM_CLOSE);
        self.phase = Phase::Ended(End::Close);
    }

    /// Makes chunks of what was written, and sees to the keep-alive.
    fn pack(&mut self, service: &Service, profile: &Profile, now: u64) {
        let in_session = matches!(self.phase, Phase::Session(_));
        if in_session && self.out.is_empty() && self.keepalive_at <= now {
            self.out.push(' ');
        }
        if self.out.is_empty() {
            return;
        }
        self.keepalive_at = now.saturating_add(profile.wire.keepalive_ms);
        let mut bytes = Bytes::from(std::mem::take(&mut self.out));
        if service.faults.split_writes {
            while !bytes.is_empty() {
                let piece = usize::try_from(1 + self.dice.below(MAX_PIECE)).unwrap_or(1).min(bytes.len());
                self.chunks.push_back(bytes.split_to(piece));
            }
        } else {
            self.chunks.push_back(bytes);
        }
    }

    fn is_stalled(&self, service: &Service, now: u64) -> bool {
        service.faults.stall || matches!(&self.phase, Phase::Session(session) if session.is_stalled(now))
    }

    /// The next bytes to write, each chunk as a record of its own.
    pub(super) fn poll_write(&mut self) -> Option<Bytes> {
        self.chunks.pop_front()
    }

    /// Whether the connection wants to read now.
    pub(super) fn wants_read(&self) -> bool {
        !self.stalled && self.end().is_none()
    }

    /// How the connection has ended, once it has.
    pub(super) fn end(&self) -> Option<End> {
        match self.phase {
            Phase::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// When [`Connection::serve`] is due without anything new.
    pub(super) fn deadline(&self, service: &Service, now: u64) -> Option<u64> {
        match &self.phase {
            Phase::Session(session) if self.stalled => session.stalled_until().filter(|&until| until > now),
            Phase::Session(session) => {
                let own = session.deadline(service);
                Some(own.map_or(self.keepalive_at, |own| own.min(self.keepalive_at)))
            }
            Phase::Login(_) if !self.stalled => Some(self.login_until),
            Phase::Login(_) | Phase::Deaf | Phase::Ended(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
