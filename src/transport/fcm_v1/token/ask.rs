//! One request and its answer on a connection of its own: one token an hour needs none that is kept.
//!
//! In HTTP/2 where the server chooses that, else in HTTP/1.1; the metadata server speaks nothing newer. For HTTP/2 `h2` itself:
//! hyper would start tasks of its own, which nobody could join.

use crate::transport::dial::{DialError, Stream};
use crate::transport::fcm_v1::address::{Address, H2};
use bytes::{Bytes, BytesMut};
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::io;

/// Longest head of an answer, in bytes.
const HEAD_MAX: usize = 32 * 1024;
/// Longest answer that is read, in bytes; a token has about a kilobyte.
const ANSWER_MAX: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke, or what came is no HTTP/1.1.
    #[error("HTTP: {0}")]
    Http1(#[from] hyper::Error),
    /// The same of HTTP/2.
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    /// It is longer than any answer with a token.
    #[error("the answer is longer than {ANSWER_MAX} bytes")]
    TooLong,
}

/// Sends `request`, whose URI is whole, to where it says.
pub(super) async fn ask(address: &Address, request: Request<Bytes>) -> Result<Response<Bytes>, AskError> {
    let stream = address.dialer.dial().await?;
    if stream.protocol() == Some(H2.as_bytes()) {
        over_http2(stream, request).await
    } else {
        over_http1(stream, request).await
    }
}

async fn over_http1(stream: Box<dyn Stream>, request: Request<Bytes>) -> Result<Response<Bytes>, AskError> {
    let (mut sender, connection) = http1::Builder::new().max_buf_size(HEAD_MAX).handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (head, body) = sender.send_request(to_origin(request)).await?.into_parts();
        let body = body_of_http1(&head.headers, body).await?;
        Ok(Response::from_parts(head, body))
    };
    beside(answer, connection).await
}

async fn over_http2(stream: Box<dyn Stream>, request: Request<Bytes>) -> Result<Response<Bytes>, AskError> {
    let head_max = u32::try_from(HEAD_MAX).unwrap_or(u32::MAX);
    let mut builder = h2::client::Builder::new();
    let (sender, connection) = builder.enable_push(false).max_header_list_size(head_max).handshake(stream).await?;
    let answer = async {
        let (mut head, body) = request.into_parts();
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        // Kept until the answer is there: without it the connection ends.
        let mut sender = sender.ready().await?;
        let (response, mut stream) = sender.send_request(Request::from_parts(head, ()), false)?;
        stream.send_data(body, true)?;
        let (head, body) = response.await?.into_parts();
        Ok(Response::from_parts(head, body_of_http2(body).await?))
    };
    beside(answer, connection).await
}

/// Waits for the answer while the connection below it moves the bytes. A connection that ends, even with an error, may have
/// brought the whole answer: many servers close without a GOAWAY or a close_notify. If it did not, the answer is the error.
async fn beside<T, C>(answer: impl Future<Output = Result<T, AskError>>, connection: C) -> Result<T, AskError>
where
    C: Future,
{
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// As HTTP/1.1 has it: the path in the first line, the host in a header.
fn to_origin(request: Request<Bytes>) -> Request<Full<Bytes>> {
    let (mut head, body) = request.into_parts();
    let host = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(host) = host {
        head.headers.insert(header::HOST, host);
    }
    let path = head.uri.path_and_query().cloned();
    head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Request::from_parts(head, body.into())
}

async fn body_of_http1(headers: &HeaderMap, mut body: Incoming) -> Result<Bytes, AskError> {
    let measured = headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => add(&mut whole, frame.data_ref().map_or(&[][..], |data| data))?,
            // It ends with the connection, which TLS wants to be said (RFC 8446 6.1), and Python's servers do not say.
            // Whether it is whole shows in the JSON.
            Err(error) if !measured && is_end(&error) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(whole.freeze())
}

async fn body_of_http2(mut stream: h2::RecvStream) -> Result<Bytes, AskError> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        add(&mut whole, &chunk)?;
    }
    Ok(whole.freeze())
}

fn add(whole: &mut BytesMut, chunk: &[u8]) -> Result<(), AskError> {
    if whole.len() + chunk.len() > ANSWER_MAX {
        return Err(AskError::TooLong);
    }
    whole.extend_from_slice(chunk);
    Ok(())
}

/// Whether the connection was just closed.
fn is_end(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof)
}
