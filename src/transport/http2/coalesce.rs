//! The bytes below `h2`: several requests leave in one TLS record and with one call of the system, and none leaves after
//! a GOAWAY was read.
//!
//! To a socket that takes several buffers at a time `h2` hands each body of 256 bytes and more by itself, and flushes it,
//! which is a record and a call for each message. Where that is not offered it copies bodies of less than 1 KiB behind
//! what waits already, and writes it all at once.
//!
//! `h2` reads before it writes. So a GOAWAY that comes between the moment in which it takes a request and the one in which
//! it writes it would be read first, and unless it rules the request out by its number, the request would be written all
//! the same. Therefore nothing is read between these moments.

use crate::transport::dial::Stream;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that takes one buffer at a time: `is_write_vectored` stays false.
pub(super) struct Coalesce {
    stream: Box<dyn Stream>,
    writes_first: WritesFirst,
}

/// Nothing is read before what there is to write was written, or until the peer does not take it. Shared between the
/// stream and who hands requests over, both of them in one task.
#[derive(Debug, Clone, Default)]
pub(super) struct WritesFirst(Arc<AtomicBool>);

impl WritesFirst {
    /// Requests were handed over.
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn holds(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whoever wanted to read meanwhile has to be woken.
    fn end(&self, cx: &Context<'_>) {
        if self.0.swap(false, Ordering::Relaxed) {
            cx.waker().wake_by_ref();
        }
    }
}

impl Coalesce {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, writes_first: WritesFirst::default() }
    }

    pub(super) fn writes_first(&self) -> WritesFirst {
        self.writes_first.clone()
    }
}

impl AsyncRead for Coalesce {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.writes_first.holds() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Coalesce {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_pending() {
            // The peer may wait for us to read.
            self.writes_first.end(cx);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.writes_first.end(cx);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
