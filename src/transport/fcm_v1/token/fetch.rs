//! An access token: what is asked for, and what the answer is worth.

use super::account::{Account, SCOPE, Unsigned};
use super::ask::{AskError, ask};
use crate::chat::status::cut_detail;
use crate::fcm::retry_after;
use crate::ops::clock::now_ms;
use crate::secret::Secret;
use crate::transport::fcm_v1::address::Address;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use serde::Deserialize;
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};
use url::Url;

/// For the whole of it.
const TIMEOUT: Duration = Duration::from_secs(20);
/// A difference of the clocks from which on it explains a refusal. Google takes five minutes or so.
const SKEW_S: u64 = 60;
/// The life of a token of which none is told (RFC 6749 5.1 makes it optional): what is usual. That it was less shows when
/// the token is refused.
const LIFE_USUAL: Duration = Duration::from_secs(3600);
/// Shortest life of a token that is believed: no server is to be asked all the time.
const LIFE_MIN: Duration = Duration::from_secs(4);
/// Longest life of a token that is believed. Google's last an hour, or twelve where that was asked for.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Who gives the tokens.
pub(in crate::transport::fcm_v1) enum Source {
    /// Google's token endpoint, to a service account.
    Account(Box<Account>),
    /// The metadata server of the machine, which is Google's.
    Metadata,
}

/// A token, as it came.
pub(super) struct Fresh {
    pub(super) token: Secret,
    /// How long it is good, from when it was asked for.
    pub(super) life: Duration,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    #[error(transparent)]
    Unsigned(#[from] Unsigned),
    /// Following it would hand the credential to another server.
    #[error("it redirects to {to} (HTTP status {status}), which is not followed with a credential")]
    Redirected { status: u16, to: String },
    /// The answer is a refusal.
    #[error("refused with HTTP status {status}: {detail}")]
    Refused {
        status: u16,
        /// The server's words, cut.
        detail: String,
        /// By how much this machine's clock differs from the server's, if that explains the refusal.
        skew_s: Option<u64>,
        /// For how long the server wants to be left alone, if it says so.
        retry_after: Option<Duration>,
    },
    /// The answer is no JSON with a token, or the token does not fit into a header.
    #[error("the answer holds no access token")]
    NoToken,
}

const NOWHERE: &str = "a place that cannot be read";

/// `token_type` is not looked at: to the request that was made a bearer token is the only answer.
#[derive(Deserialize)]
struct Answer {
    access_token: Secret,
    #[serde(default)]
    expires_in: Value,
}

#[derive(Deserialize)]
struct TokenRefusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl FetchError {
    /// Whether the server has refused this credential: asking again soon changes nothing.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { status: 400..500, .. }) && !self.is_busy()
    }

    /// Whether it has only no time for us.
    fn is_busy(&self) -> bool {
        matches!(self, Self::Refused { status: 408 | 429, .. })
    }
}

impl Source {
    pub(super) async fn fetch(&self, address: &Address) -> Result<Fresh, FetchError> {
        let request = self.request(address)?;
        let work = tokio::time::timeout(TIMEOUT, ask(address, request));
        let (head, body) = work.await.map_err(|_| FetchError::TimedOut)??.into_parts();
        if head.status.is_redirection() {
            let (status, to) = (head.status.as_u16(), place(&address.uri, &head.headers));
            return Err(FetchError::Redirected { status, to });
        }
        if head.status != http::StatusCode::OK {
            return Err(refused(head.status.as_u16(), &head.headers, &body));
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| FetchError::NoToken)?;
        if answer.access_token.reveal().is_empty() {
            return Err(FetchError::NoToken);
        }
        Ok(Fresh { token: answer.access_token, life: life(&answer.expires_in) })
    }

    fn request(&self, address: &Address) -> Result<Request<Bytes>, FetchError> {
        let uri = &address.uri;
        let request = match self {
            Self::Account(account) => {
                let form = account.request(now_ms() / 1000)?;
                let kind = "application/x-www-form-urlencoded";
                Request::builder().method(Method::POST).uri(uri).header(header::CONTENT_TYPE, kind).body(form.into())
            }
            Self::Metadata => {
                let uri = format!("{uri}?scopes={SCOPE}");
                Request::builder().uri(uri).header("Metadata-Flavor", "Google").body(Bytes::new())
            }
        };
        Ok(request.expect("the parts of an address are those of a URI"))
    }
}

/// How long a token is good by `expires_in`: a number of seconds, also in quotes or with a fraction, as servers have it. Some say
/// 0 or -1 of one that never ends.
fn life(expires_in: &Value) -> Duration {
    let seconds = match expires_in {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let believed = |seconds: f64| seconds.clamp(LIFE_MIN.as_secs_f64(), LIFE_MAX.as_secs_f64());
    seconds.filter(|seconds| *seconds > 0.0).map_or(LIFE_USUAL, |seconds| Duration::from_secs_f64(believed(seconds)))
}

/// Where a redirection from `uri` leads to: scheme, host and port alone, for what follows them in a URL may be secret.
fn place(uri: &Uri, headers: &HeaderMap) -> String {
    let found = || {
        let location = headers.get(header::LOCATION)?.to_str().ok()?;
        let url = Url::parse(&uri.to_string()).ok()?.join(location).ok()?;
        Some(url.origin().ascii_serialization()).filter(|_| url.has_host())
    };
    found().unwrap_or_else(|| NOWHERE.to_owned())
}

fn refused(status: u16, headers: &HeaderMap, body: &[u8]) -> FetchError {
    let refusal: Option<TokenRefusal> = serde_json::from_slice(body).ok();
    let stale = refusal.as_ref().is_some_and(|refusal| refusal.error == "invalid_grant");
    let words = match refusal {
        Some(TokenRefusal { error, error_description }) => format!("{error} {error_description}"),
        None => "without an explanation".to_owned(),
    };
    let detail = cut_detail(&words).replace(char::is_control, " ");
    let (text, now_s) = (|name| headers.get(name)?.to_str().ok(), now_ms() / 1000);
    let retry_after = text(header::RETRY_AFTER).and_then(|asked| retry_after::parse(asked, text(header::DATE), now_s));
    FetchError::Refused { status, detail, skew_s: skew(headers, now_s).filter(|_| stale), retry_after }
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
    #[test]
    fn the_life_of_a_token_is_read_in_all_the_ways_that_servers_write_it() {
        let s = Duration::from_secs;
        for (written, read) in [
            ("3599", s(3599)),
            ("\"3599\"", s(3599)),
            ("\" 3599 \"", s(3599)),
            ("3599.5", s(3599) + Duration::from_millis(500)),
            ("\"3599.0\"", s(3599)),
            ("3.599e3", s(3599)),
            ("null", LIFE_USUAL),
            ("\"\"", LIFE_USUAL),
            ("\"an hour\"", LIFE_USUAL),
            ("\"NaN\"", LIFE_USUAL),
            ("true", LIFE_USUAL),
            ("{\"seconds\": 5}", LIFE_USUAL),
            ("0", LIFE_USUAL),
            ("\"0\"", LIFE_USUAL),
            ("-1", LIFE_USUAL),
            ("-1e300", LIFE_USUAL),
            ("\"-inf\"", LIFE_USUAL),
            ("0.5", LIFE_MIN),
            ("1e300", LIFE_MAX),
            ("18446744073709551615", LIFE_MAX),
            ("\"inf\"", LIFE_MAX),
        ] {
            assert_eq!(life(&serde_json::from_str(written).unwrap()), read, "{written}");
        }
        let answer: Answer = serde_json::from_str(r#"{"access_token": "x"}"#).unwrap();
        assert_eq!(life(&answer.expires_in), LIFE_USUAL);
    }

    #[test]
    fn a_redirection_is_told_without_what_may_be_secret() {
        let uri = "https://tokens.example:8443/a/token".parse().unwrap();
        for (location, told) in [
            ("https://other.example/token?key=hush", "https://other.example"),
            ("http://me:hush@other.example:8080/hush", "http://other.example:8080"),
            ("//other.example/hush", "https://other.example"),
            ("/hush#hush", "https://tokens.example:8443"),
            ("mailto:hush@other.example", NOWHERE),
            ("https://[hush", NOWHERE),
        ] {
            let headers = HeaderMap::from_iter([(header::LOCATION, location.parse().unwrap())]);
            assert_eq!(place(&uri, &headers), told, "{location}");
        }
        assert_eq!(place(&uri, &HeaderMap::new()), NOWHERE);
    }
}
