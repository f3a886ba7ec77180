//! The end of a connection that has to go because of what the client sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::super::frames::FrameError;
use super::out::Out;

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

/// The engine takes an error with the first two words for an ordinary end of the connection and does not warn.
pub(super) fn closed(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, format!("Connection reset: {why}"))
}

pub(super) fn not_mqtt(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("Connection reset: {error}"))
}
