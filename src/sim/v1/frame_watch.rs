//! The socket of a connection, seen frame by frame. The library answers pings by itself, chooses the last stream of a
//! GOAWAY by itself and puts no words into it; the real server is stricter and more talkative, so both directions are
//! watched here, and a GOAWAY is put in between two of the library's frames.

use super::socket::Socket;
use bytes::{Buf, BytesMut};
use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client says first (RFC 9113, section 3.4).
const PREFACE_LEN: usize = 24;
/// Length, type, flags and stream (section 4.1).
const HEAD_LEN: usize = 9;
/// The code of a reset.
const CODE_LEN: usize = 4;

const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const ACK: u8 = 0x1;
const REFUSED_STREAM: u32 = 0x7;

/// How the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Close,
    Reset,
}

/// The socket that the library is given.
pub(super) struct FrameWatch {
    socket: Socket,
    sight: Sight,
}

/// What was seen on a socket, and what is to happen to it.
///
/// Shared by the library, which owns the socket, and the connection's task, which owns the library; both are polled by
/// the same task, so the lock is never waited for.
#[derive(Clone)]
pub(super) struct Sight(Arc<Mutex<State>>);

struct State {
    inbound: Cursor,
    outbound: Cursor,
    /// Pings since the last request.
    pings: u32,
    /// Streams that the library refused.
    refused: u64,
    /// Streams that were refused on purpose.
    pardoned: HashSet<u32>,
    /// To be written at the next end of a frame.
    waiting: BytesMut,
    end: Option<End>,
}

impl FrameWatch {
    pub(super) fn new(socket: Socket) -> (Self, Sight) {
        let sight = Sight(Arc::new(Mutex::new(State {
            inbound: Cursor::behind(PREFACE_LEN),
            outbound: Cursor::behind(0),
            pings: 0,
            refused: 0,
            pardoned: HashSet::new(),
            waiting: BytesMut::new(),
            end: None,
        })));
        (Self { socket, sight: sight.clone() }, sight)
    }

    /// Writes what waits, if the library is not in the middle of a frame.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.sight.state();
        while !state.waiting.is_empty() && state.outbound.is_between_frames() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &state.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.waiting.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl Sight {
    /// Pings since the last request.
    pub(super) fn pings(&self) -> u32 {
        self.state().pings
    }

    /// Whether [`Sight::take_refused`] gives something.
    pub(super) fn has_refused(&self) -> bool {
        self.state().refused > 0
    }

    /// Streams beyond the limit since the last call.
    pub(super) fn take_refused(&self) -> u64 {
        std::mem::take(&mut self.state().refused)
    }

    /// The next refusal of `stream` is no fault of the client.
    pub(super) fn pardon(&self, stream: u32) {
        self.state().pardoned.insert(stream);
    }

    /// Tells the client to go: nothing beyond `last` was or will be looked at.
    pub(super) fn goaway(&self, last: u32, code: u32, words: &str) {
        let mut state = self.state();
        let length = u32::try_from(8 + words.len()).unwrap_or(u32::MAX).to_be_bytes();
        state.waiting.extend_from_slice(&length[1..]);
        state.waiting.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0]);
        state.waiting.extend_from_slice(&last.to_be_bytes());
        state.waiting.extend_from_slice(&code.to_be_bytes());
        state.waiting.extend_from_slice(words.as_bytes());
    }

    /// Ends the connection when the library next reads.
    pub(super) fn end(&self, end: End) {
        self.state().end = Some(end);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn came(&mut self, bytes: &[u8]) {
        let pings = &mut self.pings;
        self.inbound.feed(bytes, |frame| match frame.kind {
            PING if frame.flags & ACK == 0 => *pings += 1,
            HEADERS => *pings = 0,
            _ => {}
        });
    }

    fn went(&mut self, bytes: &[u8]) {
        let Self { outbound, refused, pardoned, .. } = self;
        outbound.feed(bytes, |frame| {
            if frame.kind == RST_STREAM && frame.code == REFUSED_STREAM && !pardoned.remove(&frame.stream) {
                *refused += 1;
            }
        });
    }
}

impl AsyncRead for FrameWatch {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let end = this.sight.state().end;
        match end {
            Some(End::Close) => return Poll::Ready(Ok(())),
            Some(End::Reset) => {
                // Lets the kernel send a reset when the socket is dropped.
                let _ = this.socket.tcp().set_zero_linger();
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            None => {}
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.socket).poll_read(cx, buffer))?;
        this.sight.state().came(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FrameWatch {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_waiting(cx))?;
        if self.sight.state().end.is_some() {
            // The library closes with a GOAWAY of its own, which must not contradict ours.
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = ready!(Pin::new(&mut self.socket).poll_write(cx, bytes))?;
        self.sight.state().went(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A frame as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// The code of a reset, otherwise 0.
    code: u32,
}

/// Follows the frames of one direction, whatever the pieces that they come in.
#[derive(Debug)]
struct Cursor {
    /// Bytes until the next head.
    skip: usize,
    head: [u8; HEAD_LEN + CODE_LEN],
    have: usize,
}

impl Cursor {
    fn behind(skip: usize) -> Self {
        Self { skip, head: [0; HEAD_LEN + CODE_LEN], have: 0 }
    }

    fn is_between_frames(&self) -> bool {
        self.skip == 0 && self.have == 0
    }

    fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if let Some((frame, rest)) = self.frame() {
                seen(frame);
                (self.skip, self.have) = (rest, 0);
            }
        }
    }

    /// The frame whose head is complete, and how many bytes of it are still to come.
    fn frame(&self) -> Option<(Frame, usize)> {
        if self.have < HEAD_LEN {
            return None;
        }
        let [a, b, c, kind, flags, s0, s1, s2, s3, c0, c1, c2, c3] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let wanted = if kind == RST_STREAM { HEAD_LEN + CODE_LEN.min(length) } else { HEAD_LEN };
        if self.have < wanted {
            return None;
        }
        let code = if wanted == HEAD_LEN + CODE_LEN { u32::from_be_bytes([c0, c1, c2, c3]) } else { 0 };
        // The first bit is reserved.
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Some((Frame { kind, flags, stream, code }, length + HEAD_LEN - self.have))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> (Vec<u8>, Vec<Frame>) {
        let mut bytes = vec![b'p'; PREFACE_LEN];
        bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        bytes.extend_from_slice(&[0, 0, 4, RST_STREAM, 0, 0x80, 0, 0, 3, 0, 0, 0, 7]);
        bytes.extend_from_slice(&[0, 0, 2, HEADERS, 5, 0, 0, 1, 1, 9, 9]);
        let frame = |kind, flags, stream, code| Frame { kind, flags, stream, code };
        (bytes, vec![frame(4, 0, 0, 0), frame(PING, 0, 0, 0), frame(RST_STREAM, 0, 3, 7), frame(HEADERS, 5, 257, 0)])
    }

    proptest! {
        #[test]
        fn frames_are_seen_whatever_the_pieces(cuts in prop::collection::vec(1usize..9, 0..80)) {
            let (bytes, wanted) = frames();
            let (mut cursor, mut seen) = (Cursor::behind(PREFACE_LEN), Vec::new());
            let mut rest = &bytes[..];
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, left) = rest.split_at(cut.min(rest.len()));
                cursor.feed(piece, |frame| seen.push(frame));
                rest = left;
            }
            prop_assert_eq!(seen, wanted);
            prop_assert!(cursor.is_between_frames());
        }

        #[test]
        fn no_bytes_break_the_cursor(bytes: Vec<u8>) {
            Cursor::behind(0).feed(&bytes, |_| {});
        }
    }
}
