//! MQTT over WebSocket: the upgrade, and the frames as one stream of bytes.

use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{CONNECTION, CONTENT_LENGTH, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

/// Where MQTT is (MQTT 5, 6 names none; this is what clients assume).
const PATHS: [&str; 2] = ["/mqtt", "/mqtt/"];
/// What the client must offer, and the server choose [MQTT-6.0.0-3, -4]; and what 3.1 called it.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// What is said to a page that may not come.
const FOREIGN: &str = "the origin of this page is not in broker.ws_origins; with broker.anonymous pages of this machine alone \
                       are let in without that";
/// How much is read from the socket at once.
const READ_CHUNK: usize = 4 * 1024;
/// The biggest frame that is sent. MQTT packets may be cut anywhere [MQTT-6.0.0-2].
const WRITE_FRAME: usize = 16 * 1024;
/// Room for one frame that the socket did not take, and for a pong or a close behind it.
const WRITE_ROOM: usize = 2 * WRITE_FRAME;
/// Packets of the biggest size that a message may have in it: clients in browsers put all that they have to say at a
/// time into one message (mqtt.js does after a reconnect).
const PACKETS_PER_MESSAGE: usize = 4;

/// A WebSocket as a stream of bytes.
#[derive(Debug)]
pub(super) struct WebSocket<S> {
    inner: WebSocketStream<S>,
    /// What is left of the last message.
    in_hand: Bytes,
}

/// The pages from which a WebSocket may be opened. Programs that are no browsers send no origin and are not asked.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins {
    /// These. Without any all are welcome, unless it is `of_this_machine`.
    pub(super) listed: Vec<String>,
    /// Those of this machine besides: nobody logs in, and any page that somebody here looks at could be anybody.
    pub(super) of_this_machine: bool,
}

impl Origins {
    /// Whether a page with this origin (RFC 6454, 7) is welcome.
    fn has(&self, origin: &str) -> bool {
        let is_listed = |known: &String| origin.eq_ignore_ascii_case(known.trim_end_matches('/'));
        if self.of_this_machine {
            return is_of_this_machine(origin) || self.listed.iter().any(is_listed);
        }
        self.listed.is_empty() || self.listed.iter().any(is_listed)
    }
}

/// Whether the host of an origin is a loopback address, or a name of one (RFC 6761, 6.3). A name that leads there by DNS is
/// anybody's.
fn is_of_this_machine(origin: &str) -> bool {
    let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
    if authority.starts_with("[::1]") {
        return true;
    }
    let host = authority.split(':').next().unwrap_or_default().to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(|ip: Ipv4Addr| ip.is_loopback())
}

/// Takes a connection from its HTTP request to a WebSocket. Pages from other than these `origins` are refused. `packet` is the size of the biggest MQTT packet.
///
/// # Errors
///
/// If the client does not ask for MQTT over WebSocket in the right words. It was told so, if it spoke HTTP.
pub(super) async fn upgrade<S>(stream: S, origins: &Origins, packet: usize) -> Result<WebSocket<S>, Box<Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let most = packet.saturating_mul(PACKETS_PER_MESSAGE);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_CHUNK)
        // Each frame goes to the socket at once: whoever writes here has a buffer already.
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_ROOM)
        .max_message_size(Some(most))
        .max_frame_size(Some(most));
    #[expect(clippy::result_large_err, reason = "the library wants the refusal by value")]
    let decide = |request: &Request, response: Response| decide(request, response, origins);
    let inner = accept_hdr_async_with_config(stream, decide, Some(config)).await.map_err(Box::new)?;
    Ok(WebSocket { inner, in_hand: Bytes::new() })
}

#[expect(clippy::result_large_err, reason = "the library wants the refusal by value")]
fn decide(request: &Request, mut response: Response, origins: &Origins) -> Result<Response, ErrorResponse> {
    if !PATHS.contains(&request.uri().path()) {
        return Err(refusal(StatusCode::NOT_FOUND, "MQTT is at the path /mqtt"));
    }
    // Only browsers send an origin, and they do so always.
    let is_welcome = |origin: &HeaderValue| origin.to_str().is_ok_and(|origin| origins.has(origin));
    if !request.headers().get(ORIGIN).is_none_or(is_welcome) {
        return Err(refusal(StatusCode::FORBIDDEN, FOREIGN));
    }
    let offered: Vec<&str> = request
        .headers()
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let Some(chosen) = SUBPROTOCOLS.into_iter().find(|known| offered.contains(known)) else {
        return Err(refusal(StatusCode::BAD_REQUEST, "the subprotocol is mqtt"));
    };
    response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
    Ok(response)
}

fn refusal(status: StatusCode, why: &'static str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(why.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(why.len()));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Why there was no upgrade, for the operator.
pub(super) fn why(error: &Error) -> String {
    match error {
        Error::Http(response) => match response.body() {
            Some(body) => format!("{}: {}", response.status(), String::from_utf8_lossy(body)),
            None => error.to_string(),
        },
        error => error.to_string(),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Says why the connection ends, as far as the socket takes it at once.
    fn close(&mut self, code: CloseCode, why: &'static str, cx: &mut Context<'_>) -> io::Error {
        let frame = CloseFrame { code, reason: why.into() };
        let mut inner = Pin::new(&mut self.inner);
        if inner.as_mut().start_send(Message::Close(Some(frame))).is_ok() {
            let _ = inner.poll_flush(cx);
        }
        io::Error::new(io::ErrorKind::InvalidData, format!("Connection reset: {why}"))
    }

    fn fail(&mut self, error: Error, cx: &mut Context<'_>) -> io::Error {
        match error {
            Error::Io(error) => error,
            Error::Capacity(_) => self.close(CloseCode::Size, "a WebSocket message is over the limit", cx),
            _ => self.close(CloseCode::Protocol, "the stream is not WebSocket", cx),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        while socket.in_hand.is_empty() {
            match ready!(Pin::new(&mut socket.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => socket.in_hand = bytes,
                // [MQTT-6.0.0-1]
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(socket.close(CloseCode::Unsupported, "MQTT comes in binary frames", cx)));
                }
                // The library answers pings and the close.
                Some(Ok(_)) => {}
                None | Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(socket.fail(error, cx))),
            }
        }
        let size = socket.in_hand.len().min(buf.remaining());
        buf.put_slice(&socket.in_hand.split_to(size));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = Pin::new(&mut self.get_mut().inner);
        // Not ready as long as the frame before has not left.
        ready!(inner.as_mut().poll_ready(cx)).map_err(into_io)?;
        let frame = &buf[..buf.len().min(WRITE_FRAME)];
        inner.start_send(Message::Binary(Bytes::copy_from_slice(frame))).map_err(into_io)?;
        Poll::Ready(Ok(frame.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx).map_err(into_io)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        // Whoever is gone needs no close frame.
        let _ = ready!(Pin::new(&mut socket.inner).poll_close(cx));
        Pin::new(socket.inner.get_mut()).poll_shutdown(cx)
    }
}

/// Nothing can be written after the close; the connection has ended in order then.
fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        error => io::Error::new(io::ErrorKind::BrokenPipe, format!("Connection reset: {error}")),
    }
}

#[cfg(test)]
mod tests;
