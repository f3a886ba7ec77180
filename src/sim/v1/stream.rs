//! One stream: reads a request, lets [`super::front`] decide about it, and answers as decided.

use super::front::{self, Ask, Manner};
use super::reply::Reply;
use crate::sim::fault::Dice;
use crate::sim::handle::Shared;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response, header};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Bytes of a body at most.
const MAX_BODY: usize = 256 << 10;

/// What became of a stream.
pub(super) enum Done {
    Answered,
    ResetConnection,
    Refuse(SendResponse<Bytes>),
    Goaway(SendResponse<Bytes>),
}

/// Reads a request, lets it be decided, and answers.
pub(super) async fn serve(
    shared: Arc<Shared>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    mut dice: Dice,
) -> Done {
    let (head, body) = request.into_parts();
    let Ok(body) = read(body).await else {
        // The client has reset the stream.
        return Done::Answered;
    };
    let text = |headers: &HeaderMap, name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let host = text(&head.headers, header::HOST);
    let authorization = text(&head.headers, header::AUTHORIZATION);
    let ask = Ask {
        method: head.method.as_str(),
        path: head.uri.path(),
        authority: head.uri.authority().map(http::uri::Authority::as_str).or(host.as_deref()),
        authorization: authorization.as_deref(),
        body: body.as_deref(),
    };
    let answer = shared.with(|service, now| front::answer(service, &ask, &mut dice, now));
    if answer.delay_ms > 0 {
        sleep(Duration::from_millis(answer.delay_ms)).await;
    }
    match answer.manner {
        // Fails only if the client has reset the stream; then nobody reads it.
        Manner::Whole(reply) => drop(whole(&mut respond, reply)),
        Manner::Cut(reply) => cut(&mut respond, reply).await,
        Manner::ResetStream => respond.send_reset(Reason::INTERNAL_ERROR),
        Manner::RefuseStream => return Done::Refuse(respond),
        Manner::ResetConnection => return Done::ResetConnection,
        Manner::Goaway => return Done::Goaway(respond),
        // Until the client has had enough.
        Manner::Silence => drop(poll_fn(|cx| respond.poll_reset(cx)).await),
    }
    Done::Answered
}

/// A whole body; `None` if it is too big.
async fn read(mut body: RecvStream) -> Result<Option<Vec<u8>>, h2::Error> {
    let mut bytes = Vec::new();
    let mut size = 0;
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        size += piece.len();
        if size <= MAX_BODY {
            bytes.extend_from_slice(&piece);
        }
    }
    Ok((size <= MAX_BODY).then_some(bytes))
}

/// As observed: the body in one frame, the end in another.
fn whole(respond: &mut SendResponse<Bytes>, reply: Reply) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(head(&reply), false)?;
    stream.send_data(reply.body.into(), false)?;
    stream.send_data(Bytes::new(), true)
}

async fn cut(respond: &mut SendResponse<Bytes>, reply: Reply) {
    let Ok(mut stream) = respond.send_response(head(&reply), false) else { return };
    let mut body = Bytes::from(reply.body);
    body.truncate(body.len() / 2);
    let _ = stream.send_data(body, false);
    // A reset takes back what is not written yet, so the connection has its turn first.
    tokio::task::yield_now().await;
    stream.send_reset(Reason::INTERNAL_ERROR);
}

fn head(reply: &Reply) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(reply.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = head.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(reply.content_type));
    if let Some(value) = reply.retry_after.as_deref().and_then(|value| value.parse().ok()) {
        headers.insert(header::RETRY_AFTER, value);
    }
    head
}
