//! One request for an access token, over HTTP/1.1: the metadata server speaks nothing newer, and one request an hour
//! needs no connection that is kept.

use super::account::{Account, SCOPE, Unsigned};
use crate::ops::clock::now_ms;
use crate::secret::Secret;
use crate::transport::dial::DialError;
use crate::transport::fcm::address::Address;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::time::{Duration, UNIX_EPOCH};

/// For the whole of it.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Longest answer that is read, in bytes; a token has about a kilobyte.
const ANSWER_MAX: usize = 64 * 1024;
/// Longest explanation that is passed on, in characters.
const DETAIL_MAX: usize = 256;
/// A difference of the clocks from which on it explains a refusal. Google takes five minutes or so.
const SKEW_S: u64 = 60;
/// Shortest life of a token that is believed.
const LIFE_MIN: Duration = Duration::from_secs(1);
/// Longest life of a token that is believed. Google's last an hour, or twelve where that was asked for.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Who gives the tokens.
pub(in crate::transport::fcm) enum Source {
    /// Google's token endpoint, to a service account.
    Account(Box<Account>),
    /// The metadata server of the machine, which is Google's.
    Metadata,
}

/// A token, as it came.
pub(super) struct Fresh {
    /// The token.
    pub(super) token: Secret,
    /// How long it is good, from when it was asked for.
    pub(super) life: Duration,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The connection broke, or what came is no HTTP.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// No answer in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// The request could not be signed.
    #[error(transparent)]
    Unsigned(#[from] Unsigned),
    /// The answer is too long or was cut short.
    #[error("the answer is longer than {ANSWER_MAX} bytes, or was cut short")]
    Body,
    /// The answer is a refusal.
    #[error("refused with HTTP status {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The server's words, cut.
        detail: String,
        /// By how much this machine's clock differs from the server's, if that explains the refusal.
        skew_s: Option<u64>,
    },
    /// The answer holds no token that can be used.
    #[error("the answer holds no access token")]
    NoToken,
}

#[derive(Deserialize)]
struct Answer {
    access_token: Secret,
    expires_in: u64,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Source {
    /// Asks for a token.
    pub(super) async fn fetch(&self, address: &Address) -> Result<Fresh, FetchError> {
        let request = self.request(address)?;
        let work = exchange(address, request);
        let (status, headers, body) = tokio::time::timeout(TIMEOUT, work).await.map_err(|_| FetchError::TimedOut)??;
        if status != http::StatusCode::OK {
            return Err(refused(status.as_u16(), &headers, &body));
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| FetchError::NoToken)?;
        let life = Duration::from_secs(answer.expires_in);
        let usable = life >= LIFE_MIN && !answer.access_token.reveal().is_empty();
        let life = life.min(LIFE_MAX);
        usable.then_some(Fresh { token: answer.access_token, life }).ok_or(FetchError::NoToken)
    }

    fn request(&self, address: &Address) -> Result<Request<Full<Bytes>>, FetchError> {
        let (path, host) = (address.uri.path(), address.uri.authority().map_or("", |authority| authority.as_str()));
        let request = Request::builder().header(header::HOST, host);
        let request = match self {
            Self::Account(account) => {
                let form = account.request(now_ms() / 1000)?;
                let kind = "application/x-www-form-urlencoded";
                request.method(Method::POST).uri(path).header(header::CONTENT_TYPE, kind).body(form.into())
            }
            Self::Metadata => {
                let path = format!("{path}?scopes={SCOPE}");
                request.uri(path).header("Metadata-Flavor", "Google").body(Full::default())
            }
        };
        Ok(request.expect("the parts of an address are those of a URI"))
    }
}

async fn exchange(
    address: &Address,
    request: Request<Full<Bytes>>,
) -> Result<(http::StatusCode, HeaderMap, Bytes), FetchError> {
    let stream = address.dialer.dial().await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|_| FetchError::Body)?;
        Ok((head.status, head.headers, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // Its end may carry the end of the answer.
        ended = connection => {
            ended?;
            answer.await
        }
    }
}

fn refused(status: u16, headers: &HeaderMap, body: &[u8]) -> FetchError {
    let refusal: Option<Refusal> = serde_json::from_slice(body).ok();
    let stale = refusal.as_ref().is_some_and(|refusal| refusal.error == "invalid_grant");
    let words = match refusal {
        Some(Refusal { error, error_description }) => format!("{error} {error_description}"),
        None => "without an explanation".to_owned(),
    };
    let detail = words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(DETAIL_MAX).collect();
    FetchError::Refused { status, detail, skew_s: skew(headers, now_ms() / 1000).filter(|_| stale) }
}

/// By how many seconds the clocks differ, if it is many.
fn skew(headers: &HeaderMap, now_s: u64) -> Option<u64> {
    let theirs = httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()?;
    let theirs = theirs.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(theirs.abs_diff(now_s)).filter(|skew| *skew >= SKEW_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_is_named_as_the_reason() {
        let mut headers = HeaderMap::new();
        headers.insert(header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
        let body = br#"{"error":"invalid_grant","error_description":"Invalid JWT: check your iat"}"#;
        let FetchError::Refused { detail, skew_s, .. } = refused(400, &headers, body) else { panic!() };
        assert_eq!(detail, "invalid_grant Invalid JWT: check your iat");
        assert!(skew_s.is_some_and(|skew| skew > 900_000_000), "{skew_s:?}");
        assert_eq!(skew(&headers, 784_111_777 + 59), None);
        assert_eq!(skew(&headers, 784_111_777 - 90), Some(90));
        let FetchError::Refused { skew_s, .. } = refused(400, &headers, br#"{"error":"invalid_client"}"#) else {
            panic!()
        };
        assert_eq!(skew_s, None);
    }
}
