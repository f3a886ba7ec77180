//! What a client says first.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::frames::{Framer, Kind};
use super::farewell::{closed, not_mqtt};
use super::judge::{Verdict, judge};
use super::pulse::Pulse;
use super::{Gate, GateLimits};
use crate::ops::metrics::Metric;

/// The biggest CONNECT: whoever has not shown who they are gets no room for more.
const CONNECT_LIMIT: usize = 64 * 1024;

/// Cuts out the first packet.
pub(super) fn first_framer(limits: &GateLimits) -> Framer {
    Framer::new(limits.packet.min(CONNECT_LIMIT))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// Waits for the CONNECT. The engine need not be started for anybody who sends none.
    ///
    /// # Errors
    ///
    /// If something else comes, or a CONNECT that is over a limit.
    pub(in crate::broker) async fn connected(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_connected(cx)).await
    }

    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.farewell.is_some() {
            return self.poll_farewell(cx).map(Err);
        }
        let connect = loop {
            match self.incoming.next_frame().map_err(not_mqtt)? {
                Some(frame) if frame.kind() == Kind::Connect => break frame,
                Some(_) => return Poll::Ready(Err(closed("the first packet is not a CONNECT"))),
                None if ready!(self.poll_fill(cx))? == 0 => return Poll::Ready(Err(closed("the client hung up"))),
                None => {}
            }
        };
        self.incoming.set_limit(self.limits.packet);
        self.pulse = Some(Pulse::new(connect.connect().map_or(0, |connect| connect.keep_alive)));
        self.link.saw_connect(&connect);
        match judge(connect, self.link.version(), &self.limits.topics) {
            Verdict::End(words) => {
                self.metrics.count(Metric::BrokerTopicsRefused);
                self.take_leave(&words, "the topic of the will is over a limit");
                self.poll_farewell(cx).map(Err)
            }
            Verdict::Pass(frame) | Verdict::Trimmed(frame) | Verdict::Refuse(frame) => {
                self.next = Some(frame);
                Poll::Ready(Ok(()))
            }
        }
    }
}
