//! One request and what became of it: the place where HTTP/2's ways to fail become certain or ambiguous.

use super::Timing;
use super::pool::End;
use crate::chat::id::Sid;
use crate::fcm::limits::ANSWER_MAX;
use crate::fcm::verdict::{Ambiguous, Answer, Outcome, Unprocessed};
use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use tokio::time::{Instant, timeout_at};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A message as it is to be posted.
#[derive(Debug)]
pub(super) struct Order {
    /// Which message.
    pub(super) sid: Sid,
    /// The JSON.
    pub(super) body: Bytes,
    /// The header `authorization`.
    pub(super) authorization: HeaderValue,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// An answer came.
    Answered {
        /// The HTTP status.
        status: u16,
        /// Its headers.
        headers: HeaderMap,
        /// Its body, or the beginning of a long one.
        body: Bytes,
    },
    /// None came, and FCM has certainly not processed the request.
    Unprocessed(Unprocessed),
    /// None came, and nobody knows.
    Ambiguous(Ambiguous),
}

impl Reply {
    /// The connection was gone before the request could be handed to it.
    pub(super) fn unwritten() -> Self {
        Self::Unprocessed(Unprocessed::NotWritten)
    }

    /// The same, for the judge.
    pub(super) fn outcome(&self) -> Outcome<'_> {
        match self {
            Self::Answered { status, headers, body } => Outcome::Answered(Answer {
                status: *status,
                retry_after: text(headers, header::RETRY_AFTER),
                content_type: text(headers, header::CONTENT_TYPE),
                body,
            }),
            Self::Unprocessed(why) => Outcome::Unprocessed(*why),
            Self::Ambiguous(why) => Outcome::Ambiguous(*why),
        }
    }
}

impl From<&Reply> for End {
    fn from(reply: &Reply) -> Self {
        match reply {
            Reply::Answered { .. } => Self::Answered,
            Reply::Ambiguous(Ambiguous::Timeout) => Self::Late,
            Reply::Ambiguous(Ambiguous::Reset) | Reply::Unprocessed(_) => Self::Broken,
        }
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Posts `order` to `uri` and waits for what becomes of it.
pub(super) async fn exchange(send: SendRequest<Bytes>, uri: Uri, order: Order, timing: Timing) -> (Sid, Reply) {
    let sid = order.sid;
    let reply = match post(send, uri, order) {
        Err(_) => Reply::unwritten(),
        Ok(response) => hear(response, Instant::now() + timing.request).await,
    };
    (sid, reply)
}

/// Hands the whole request to the connection; it leaves in the order of the calls.
fn post(mut send: SendRequest<Bytes>, uri: Uri, order: Order) -> Result<ResponseFuture, h2::Error> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    request.headers_mut().insert(header::CONTENT_TYPE, JSON);
    request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(order.body.len()));
    request.headers_mut().insert(header::AUTHORIZATION, order.authorization);
    let (response, mut stream) = send.send_request(request, false)?;
    stream.send_data(order.body, true)?;
    Ok(response)
}

/// Waits until `end`; a stream that is dropped then is reset.
async fn hear(response: ResponseFuture, end: Instant) -> Reply {
    let (head, stream) = match timeout_at(end, response).await {
        Ok(Ok(response)) => response.into_parts(),
        Ok(Err(error)) => return failure(&error),
        Err(_) => return Reply::Ambiguous(Ambiguous::Timeout),
    };
    let body = body(stream, end).await;
    Reply::Answered { status: head.status.as_u16(), headers: head.headers, body }
}

/// The body, or as much of it as anybody will look at. One that breaks off, or is not complete by `end`, ends there: FCM
/// has decided when it sends a status, and the judge knows the beginning of a document from a whole one.
async fn body(mut stream: RecvStream, end: Instant) -> Bytes {
    let mut whole = BytesMut::new();
    while whole.len() <= ANSWER_MAX
        && let Ok(Some(Ok(chunk))) = timeout_at(end, stream.data()).await
    {
        // One byte more than the judge takes tells him that there was more.
        let room = ANSWER_MAX + 1 - whole.len();
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
        return Reply::Unprocessed(Unprocessed::BeyondGoaway);
    }
    if error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        return Reply::Unprocessed(Unprocessed::RefusedStream);
    }
    Reply::Ambiguous(Ambiguous::Reset)
}
