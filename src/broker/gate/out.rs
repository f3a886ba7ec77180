//! What waits for the socket, and how long it may.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep};

/// How long the socket may take nothing of what waits for it. After that the client does not read, or is gone.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// The bytes on their way out of one connection.
#[derive(Debug, Default)]
pub(super) struct Out {
    bytes: BytesMut,
    /// TLS and WebSocket keep what they took until they are told to flush.
    unflushed: bool,
    /// Runs while the socket takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
}

/// Why bytes could not leave.
#[derive(Debug)]
pub(super) enum OutError {
    /// The client does not read.
    Stalled,
    /// The socket failed.
    Io(io::Error),
}

impl From<io::Error> for OutError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Out {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Gives `stream` what it takes. Ready when it has everything and has flushed it.
    pub(super) fn poll_drain<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<Result<(), OutError>>
    where
        S: AsyncWrite + Unpin,
    {
        if self.bytes.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        let before = self.bytes.len();
        let drained = self.poll_write(stream, cx);
        if drained.is_ready() {
            self.stall = None;
            return drained.map_err(OutError::Io);
        }
        let deadline = Instant::now() + WRITE_STALL;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(WRITE_STALL)));
        if self.bytes.len() < before {
            stall.as_mut().reset(deadline);
        }
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(OutError::Stalled))
    }

    fn poll_write<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.bytes.advance(written);
            self.unflushed = true;
        }
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }
}
