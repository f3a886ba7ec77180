//! A session core, watched: whatever it says has to fit what it was told.

use super::pipe::{Pipe, Weather};
use crate::ccs::event::{Event, Reason};
use crate::ccs::session::{Input, Output, Session};
use crate::ccs::settings::{Limits, SessionConfig, Timing};
use crate::secret::Secret;
use crate::transport::AckRef;
use crate::transport::core::Manner;
use crate::transport::driver::Order;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Short, so that a run sees all of them end.
pub(super) const TIMING: Timing = Timing {
    login: Duration::from_secs(5),
    ping_interval: Duration::from_secs(3),
    ping_timeout: Duration::from_secs(2),
    grace: Duration::from_secs(5),
    close: Duration::from_secs(2),
};

/// What the core wants of a connection.
pub(super) enum Told {
    Order(Order<String>),
    Retire(Manner),
}

/// A client's session on a connection.
pub(super) struct Client {
    session: Session,
    /// Its connection at the server.
    pub(super) server: u64,
    /// What the core wants, with the time at which it gets here.
    pub(super) orders: VecDeque<(u64, Told)>,
    pub(super) deadline: Option<Instant>,
    /// When it reads again.
    pub(super) paused_until: Option<u64>,
    pub(super) closed: Option<Reason>,
    /// Sent and not answered, in the order of sending.
    in_flight: Vec<String>,
    ready: bool,
    ending: bool,
    window: usize,
    pushy: bool,
}

impl Client {
    pub(super) fn new(server: u64, window: usize, pushy: bool, now: Instant) -> Self {
        let config = SessionConfig {
            xmpp_domain: "gcm.googleapis.com".into(),
            user: "42@gcm.googleapis.com".into(),
            key: Secret::new("key"),
            resource: "r".into(),
            window,
            limits: Limits::default(),
            timing: TIMING,
        };
        Self {
            session: Session::new(config, now),
            server,
            orders: VecDeque::new(),
            deadline: None,
            paused_until: None,
            closed: None,
            in_flight: Vec::new(),
            ready: false,
            ending: false,
            window,
            pushy,
        }
    }

    /// Tells the session something, and gives what it says to its neighbours. Its end is kept in `closed`.
    pub(super) fn handle(&mut self, input: Input<'_>, at: Instant) -> (Vec<u8>, Vec<Event>) {
        assert!(self.closed.is_none(), "the shell talks to a session that is over");
        let sent = self.session.in_flight();
        self.session.handle(input, at);
        if let Input::Send { message_id, .. } = input
            && self.session.in_flight() > sent
        {
            assert!(self.ready && !self.ending, "sent on a connection that takes nothing");
            assert!(!self.in_flight.iter().any(|id| id == message_id), "the same id twice");
            self.in_flight.push(message_id.to_owned());
            assert!(self.in_flight.len() <= self.window, "the window is exceeded");
        }
        self.ending |= matches!(input, Input::Shutdown | Input::Close);
        self.take(at)
    }

    pub(super) fn tell(&mut self, told: Told, at: Instant) -> (Vec<u8>, Vec<Event>) {
        match told {
            Told::Order(Order::Send(sid, json)) => {
                self.handle(Input::Send { message_id: &sid.to_string(), json: &json }, at)
            }
            Told::Order(Order::Ack(AckRef { to, message_id, .. })) => {
                assert!(self.session.owed() > 0, "more acknowledgements than there was to acknowledge");
                self.handle(Input::AckUpstream { to: &to, message_id: &message_id }, at)
            }
            Told::Retire(Manner::AfterAnswers) => self.handle(Input::Shutdown, at),
            Told::Retire(Manner::Now) => self.handle(Input::Close, at),
        }
    }

    fn take(&mut self, at: Instant) -> (Vec<u8>, Vec<Event>) {
        let (mut bytes, mut events) = (Vec::new(), Vec::new());
        loop {
            match self.session.poll() {
                Output::Write(more) => {
                    assert!(self.closed.is_none(), "bytes behind the end");
                    bytes.extend_from_slice(&more);
                }
                Output::Event(event) => {
                    assert!(self.closed.is_none(), "{event:?} behind the end");
                    self.hear(&event);
                    events.push(event);
                }
                Output::Wait(deadline) => {
                    assert!(deadline.is_none_or(|deadline| deadline > at), "a deadline that was not met");
                    self.deadline = deadline;
                    break;
                }
            }
        }
        assert_eq!(self.session.in_flight(), self.in_flight.len());
        (bytes, events)
    }

    fn hear(&mut self, event: &Event) {
        match event {
            Event::Ready { .. } => assert!(!std::mem::replace(&mut self.ready, true), "ready twice"),
            Event::Draining => {
                assert!(!std::mem::replace(&mut self.ending, true), "draining twice, or while ending")
            }
            Event::Answered { message_id, .. } | Event::Bounced { message_id } => {
                let at = self.in_flight.iter().position(|id| id == message_id);
                self.in_flight.remove(at.expect("an answer to what is in flight"));
            }
            Event::NotSent { .. } => {
                assert!(self.ending || self.pushy, "no room on a connection that takes messages");
            }
            Event::Upstream(_) | Event::Receipt(_) => {}
            Event::Unusable { .. } => panic!("the simulator speaks well"),
            Event::Closed(reason) => self.closed = Some(reason.clone()),
        }
    }

    pub(super) fn was_open(&self) -> bool {
        self.ready
    }

    /// Whether everything handed up is acknowledged and everything sent is answered.
    pub(super) fn is_quiet(&self) -> bool {
        self.session.owed() == 0 && self.in_flight.is_empty()
    }

    /// The session is over: nothing may come of it any more.
    pub(super) fn bury(mut self, at: Instant) {
        let later = at + Duration::from_secs(3_600);
        let inputs = [
            Input::Bytes(b"<message><gcm xmlns='google:mobile:data'>{}</gcm></message>"),
            Input::Send { message_id: "late", json: "{}" },
            Input::AckUpstream { to: "late", message_id: "late" },
            Input::Resume,
            Input::Tick,
            Input::Shutdown,
            Input::Eof,
        ];
        for input in inputs {
            self.session.handle(input, later);
            assert_eq!(self.session.poll(), Output::Wait(None), "a session speaks behind its end");
        }
        assert_eq!(self.session.in_flight(), self.in_flight.len());
    }
}

/// A connection between a client and the server.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    /// When the network breaks it.
    pub(super) cut_at: Option<u64>,
    /// When the server is to be served.
    pub(super) due: Option<u64>,
    /// The server has said its last; until when it waits for the client to go.
    pub(super) parting_until: Option<u64>,
    pub(super) client_gone: bool,
    pub(super) server_gone: bool,
}

impl Wire {
    pub(super) fn cut(&mut self, now: u64, weather: &mut Weather) {
        self.up.cut(now, weather);
        self.down.cut(now, weather);
        self.cut_at = None;
    }

    /// The client's side closes its socket.
    pub(super) fn client_leaves(&mut self, now: u64, weather: &mut Weather) {
        self.client_gone = true;
        self.down = Pipe::default();
        self.up.end(now, weather);
    }
}
