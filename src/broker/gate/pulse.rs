//! Signs of life that the engine wants and the client need not give.
//!
//! The engine ends a connection from which it has read nothing for one and a half times the keep alive, or for 300
//! seconds if the client asked for none. MQTT asks for neither: without keep alive a client may be silent for ever
//!, and a client whose PUBLISH waits here has spoken. So in both cases the engine
//! gets a PINGREQ in time, and the client does not see its answer. Peers that are gone are found by TCP's keep-alive.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How long the engine is left without a packet where the client gave no keep alive. It loses patience after 300 s.
const WITHOUT_KEEP_ALIVE: Duration = Duration::from_secs(200);

/// What the engine reads as a sign of life.
pub(super) const PINGREQ: &[u8] = &[0xc0, 0];

/// Whether the client may have spoken and the gate does not pass it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    Yes,
    No,
}

/// The signs of life of one connection.
#[derive(Debug)]
pub(super) struct Pulse {
    /// The longest time without a packet.
    every: Duration,
    may_be_silent: bool,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    /// PINGRESPs that the client must not see.
    unasked: usize,
}

impl Pulse {
    /// Begins with the CONNECT, whose keep alive this is.
    pub(super) fn new(keep_alive: u16) -> Self {
        let every = match keep_alive {
            0 => WITHOUT_KEEP_ALIVE,
            seconds => Duration::from_secs(seconds.into()),
        };
        Self { every, may_be_silent: keep_alive == 0, last: Instant::now(), timer: None, unasked: 0 }
    }

    /// The engine got a packet.
    pub(super) fn fed(&mut self) {
        self.last = Instant::now();
    }

    /// Ready when the engine has to get a [`PINGREQ`].
    pub(super) fn poll_beat(&mut self, cx: &mut Context<'_>, waiting: Waiting) -> Poll<()> {
        if !self.may_be_silent && waiting == Waiting::No {
            return Poll::Pending;
        }
        let due = self.last + self.every;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(cx));
        self.ask();
        self.fed();
        Poll::Ready(())
    }

    /// The engine gets a [`PINGREQ`].
    pub(super) fn ask(&mut self) {
        self.unasked += 1;
    }

    /// Whether this PINGRESP answers a packet that the client did not send. They have no identifiers, so it may as well
    /// be the one before.
    pub(super) fn swallows(&mut self) -> bool {
        let swallows = self.unasked > 0;
        self.unasked -= usize::from(swallows);
        swallows
    }
}
