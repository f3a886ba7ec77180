//! A socket with or without TLS, told apart by its first byte, so that one port speaks both.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;

/// The first byte of a TLS handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// From the connection to the end of the TLS handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// A socket with or without TLS.
pub(super) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum Greeting {
    #[error("the client offers other protocols by ALPN")]
    Alpn,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it took too long")]
    Slow,
}

/// Waits for the client's first byte, and for TLS if it is one of that.
pub(super) async fn greet(socket: TcpStream, tls: &TlsAcceptor) -> Result<Socket, Greeting> {
    let greeted = async {
        let mut first = [0];
        socket.peek(&mut first).await?;
        if first != [TLS_HANDSHAKE] {
            return Ok(Socket::Plain(socket));
        }
        tls.accept(socket).await.map(|stream| Socket::Tls(Box::new(stream)))
    };
    match timeout(HANDSHAKE_TIME, greeted).await {
        Ok(Ok(socket)) => Ok(socket),
        Ok(Err(error)) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::NoApplicationProtocol) => Err(Greeting::Alpn),
            _ => Err(error.into()),
        },
        Err(_) => Err(Greeting::Slow),
    }
}

impl Socket {
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// What was agreed on by ALPN; `None` without TLS.
    pub(super) fn alpn(&self) -> Option<Option<&[u8]>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.get_ref().1.alpn_protocol()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
