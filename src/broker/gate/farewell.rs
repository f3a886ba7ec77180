//! The end of a connection that has to go because of what the client sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tracing::debug;

use super::super::faults::Fault;
use super::super::frames::FrameError;
use super::out::Out;
use super::{Gate, judge};
use crate::ops::metrics::Metric;

/// How long the client has to read why it has to go.
const LINGER: Duration = Duration::from_secs(2);
/// How much is thrown away at once.
const CHUNK: usize = 8 * 1024;

/// A connection that is being closed. It is listened to for a while: data that nobody reads makes TCP throw away what
/// is on its way to the other side, and that is where the client would learn why.
#[derive(Debug)]
pub(super) struct Farewell {
    why: &'static str,
    over: Pin<Box<Sleep>>,
    shut: bool,
}

impl Farewell {
    pub(super) fn new(why: &'static str) -> Self {
        Self { why, over: Box::pin(sleep(LINGER)), shut: false }
    }

    pub(super) fn why(&self) -> &'static str {
        self.why
    }

    /// Ready when the client has read the last words, or had the time to.
    pub(super) fn poll_end<S>(&mut self, out: &mut Out, stream: &mut S, cx: &mut Context<'_>) -> Poll<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.poll_last_words(out, stream, cx).is_ready() {
            return Poll::Ready(());
        }
        self.over.as_mut().poll(cx)
    }

    fn poll_last_words<S>(&mut self, out: &mut Out, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if ready!(out.poll_drain(stream, cx)).is_err() {
            return Poll::Ready(Ok(()));
        }
        if !self.shut {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            self.shut = true;
        }
        let mut chunk = [0; CHUNK];
        loop {
            let mut unread = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut unread))?;
            if unread.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// The stream of the client makes no sense, or too much of it at once.
    pub(super) fn refuse_stream(&mut self, error: FrameError) {
        let version = self.link.version();
        match error {
            FrameError::TooBig { .. } => {
                self.metrics.count(Metric::BrokerPacketsTooBig);
                self.take_leave(&judge::too_large(version), "a packet is over the limit");
            }
            FrameError::Length => self.take_leave(&judge::malformed(version), "the stream is not MQTT"),
        }
    }

    /// The client has sent what the specification forbids.
    pub(super) fn refuse_packet(&mut self, fault: Fault) {
        debug!(peer = %self.peer, %fault, "client broke a rule");
        self.take_leave(&judge::disconnect(self.link.version(), fault.code()), "a packet breaks a rule");
    }

    pub(super) fn take_leave(&mut self, words: &[u8], why: &'static str) {
        self.out.push(words);
        self.farewell = Some(Farewell::new(why));
    }

    pub(super) fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(farewell) = &mut self.farewell else {
            return Poll::Ready(closed("it was closed"));
        };
        ready!(farewell.poll_end(&mut self.out, &mut self.stream, cx));
        Poll::Ready(closed(farewell.why()))
    }
}

/// The engine takes an error with the first two words for an ordinary end of the connection and does not warn.
pub(super) fn closed(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, format!("Connection reset: {why}"))
}

pub(super) fn not_mqtt(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("Connection reset: {error}"))
}
