//! Lets `h2` gather small frames: several requests leave in one TLS record and with one call of the system.
//!
//! To a socket that takes several buffers at a time `h2` hands each body of 256 bytes and more by itself, and flushes it,
//! which is a record and a call for each message. Where that is not offered it copies bodies of less than 1 KiB behind
//! what waits already, and writes it all at once.

use crate::transport::dial::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that takes one buffer at a time: `is_write_vectored` stays false.
pub(super) struct Coalesce(pub(super) Box<dyn Stream>);

impl AsyncRead for Coalesce {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Coalesce {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
