//! One request and what became of it: the place where HTTP/2's ways to fail become certain or ambiguous.

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use tokio::time::{Instant, timeout_at};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

#[derive(Debug)]
pub(in crate::transport) struct Request {
    pub(in crate::transport) body: Bytes,
    /// The header `authorization`.
    pub(in crate::transport) authorization: HeaderValue,
}

/// What became of a request that was written.
#[derive(Debug)]
pub(in crate::transport) enum Reply {
    Answered {
        status: u16,
        headers: HeaderMap,
        /// Its body, or the beginning of a long one.
        body: Bytes,
    },
    /// None came, and the server has not processed the request: the stream was refused (`REFUSED_STREAM`, RFC 9113
    /// section 8.7).
    RefusedStream,
    /// The same: the connection was ended, and the stream is beyond the last one that was looked at (`GOAWAY`).
    BeyondGoaway,
    /// None came in time. Nobody knows whether the request was processed.
    Late,
    /// The connection or the stream broke. Nobody knows either.
    Broken,
}

/// Hands the whole request to the connection; it leaves in the order of the calls.
pub(super) fn post(mut send: SendRequest<Bytes>, uri: Uri, order: Request) -> Result<ResponseFuture, h2::Error> {
    let mut request = http::Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    request.headers_mut().insert(header::CONTENT_TYPE, JSON);
    request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(order.body.len()));
    request.headers_mut().insert(header::AUTHORIZATION, order.authorization);
    let (response, mut stream) = send.send_request(request, false)?;
    stream.send_data(order.body, true)?;
    Ok(response)
}

/// Waits until `end`; a stream that is dropped then is reset. Of an answer's body at most `longest` bytes are read, and one
/// more, which says that there were more.
pub(super) async fn read_reply(response: ResponseFuture, end: Instant, longest: usize) -> Reply {
    let (head, stream) = match timeout_at(end, response).await {
        Ok(Ok(response)) => response.into_parts(),
        Ok(Err(error)) => return failure(&error),
        Err(_) => return Reply::Late,
    };
    let body = body(stream, end, longest).await;
    Reply::Answered { status: head.status.as_u16(), headers: head.headers, body }
}

/// The body, or as much of it as anybody will look at. One that breaks off, or is not complete by `end`, ends there: the
/// server has decided when it sends a status.
async fn body(mut stream: RecvStream, end: Instant, longest: usize) -> Bytes {
    let mut whole = BytesMut::new();
    while whole.len() <= longest
        && let Ok(Some(Ok(chunk))) = timeout_at(end, stream.data()).await
    {
        let room = longest + 1 - whole.len();
        whole.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if stream.flow_control().release_capacity(chunk.len()).is_err() {
            break;
        }
    }
    whole.freeze()
}

/// A stream that ended without an answer.
fn failure(error: &h2::Error) -> Reply {
    if error.is_go_away() && error.is_remote() {
        // `h2` ends with this only the streams beyond the last one that the GOAWAY names (RFC 9113, section 6.8).
        return Reply::BeyondGoaway;
    }
    if error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        return Reply::RefusedStream;
    }
    Reply::Broken
}
