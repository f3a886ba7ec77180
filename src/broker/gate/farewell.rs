//! The end of a connection that has to go because of what the client sent.

use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::super::faults::Fault;
use super::super::frames::connect::Reasons;
use super::super::frames::{Frame, FrameError, Version};
use super::super::refusals::{Refusal, Who};
use super::Gate;
use super::out::Out;

const CONNACK: u8 = 0x20;
const DISCONNECT: u8 = 0xe0;

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
        match error {
            FrameError::TooBig { .. } => self.cut(Refusal::PacketSize, &error.to_string()),
            FrameError::Length => self.cut(Refusal::Malformed, &error.to_string()),
        }
    }

    /// The client has sent what the specification forbids.
    pub(super) fn refuse_packet(&mut self, fault: Fault) {
        let why = fault.to_string();
        let words = self.last_words(Refusal::Malformed, fault.code(), &why);
        self.take_leave(Refusal::Malformed, &why, &words);
    }

    /// The client has to go, and is told why as far as its version has a word for it.
    pub(super) fn cut(&mut self, refusal: Refusal, detail: &str) {
        let words = self.last_words(refusal, refusal.code(), refusal.rule());
        self.take_leave(refusal, detail, &words);
    }

    /// The same with other words for the client.
    pub(super) fn take_leave(&mut self, refusal: Refusal, detail: &str, words: &[u8]) {
        self.tell_end(refusal, detail);
        self.out.push(words);
        self.farewell = Some(Farewell::new(refusal.rule()));
    }

    /// Tells why the connection ends, if nobody was told before.
    pub(super) fn tell_end(&self, refusal: Refusal, detail: impl Display) {
        if self.link.note_end() {
            self.tell(refusal, detail);
        }
    }

    /// Tells that something was refused.
    pub(super) fn tell(&self, refusal: Refusal, detail: impl Display) {
        let who = self.link.who().unwrap_or_else(|| Who::at(self.peer));
        self.refusals.tell(refusal, &who, detail);
    }

    /// The packet that ends the connection: a CONNACK as long as there was none. A server of 3.1.1 has no DISCONNECT to
    /// send.
    pub(super) fn last_words(&self, refusal: Refusal, code: u8, why: &str) -> Vec<u8> {
        let no_session = 0;
        let words = match (self.link.version(), self.link.has_begun()) {
            (Version::V311, true) => None,
            (Version::V311, false) => refusal.connack().map(|code| Frame::new(CONNACK, &[no_session, code])),
            (Version::V5, true) => Some(self.explained(Frame::new(DISCONNECT, &[code]), why)),
            (Version::V5, false) => {
                let plain = Frame::new(CONNACK, &[no_session, code, 0]);
                Some(self.explained(plain, why))
            }
        };
        words.filter(|frame| self.takes(frame)).map_or_else(Vec::new, |frame| frame.bytes().to_vec())
    }

    /// The same packet with a reason string, if the client wants one and takes a packet of that size.
    pub(super) fn explained(&self, frame: Frame, why: &str) -> Frame {
        if self.link.reasons() == Reasons::Unwanted || self.link.version() == Version::V311 {
            return frame;
        }
        let explained = frame.with_reason_string(why);
        if self.takes(&explained) { explained } else { frame }
    }

    /// Whether the client takes a packet of that size.
    pub(super) fn takes(&self, frame: &Frame) -> bool {
        self.link.max_packet().is_none_or(|most| frame.bytes().len() <= most)
    }

    /// The client takes no packet of the size of its CONNACK.
    pub(super) fn refuse_for_connack(&mut self) {
        let most = self.link.max_packet().unwrap_or_default();
        self.cut(Refusal::PacketSize, &format!("no CONNACK fits into the {most} bytes that the client takes"));
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
