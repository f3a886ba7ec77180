//! The port of the authority: access tokens for a signed assertion, or, as on Google's machines, for the asking. HTTP/1.1
//! with TLS or without: clients insist on TLS beyond their own machine, and the metadata server has none.

use super::account::Account;
use super::fault::AuthorityFault;
use super::oauth::{self, Denied};
use super::socket::{self, Greeting, Socket};
use super::state::V1State;
use super::tokens::Grant;
use crate::sim::handle::Shared;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

/// Bytes of a form at most.
const MAX_FORM: usize = 64 << 10;

/// The last second of the year 9999.
const DATE_MAX_S: u64 = 253_402_300_799;

/// What every request to the metadata server has, and every answer of it.
const FLAVOR: &str = "Metadata-Flavor";

const METADATA_TOKEN: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
const METADATA_PROJECT: &str = "/computeMetadata/v1/project/project-id";

/// Where an assertion is exchanged.
pub(super) const TOKEN_PATH: &str = "/token";

/// What the authority knows.
pub(super) struct Authority {
    pub(super) shared: Arc<Shared>,
    pub(super) account: Arc<Account>,
    pub(super) token_uri: String,
}

/// Sockets that have not said what they speak at a time; more have to wait.
const MAX_GREETINGS: usize = 100;

/// For the listener to recover, for example from having no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where clients of the authority come in.
pub(super) struct Wicket {
    listener: TcpListener,
    tls: TlsAcceptor,
    greetings: JoinSet<Result<Socket, Greeting>>,
}

impl Wicket {
    pub(super) fn new(listener: TcpListener, tls: &Arc<ServerConfig>) -> Self {
        Self { listener, tls: TlsAcceptor::from(tls.clone()), greetings: JoinSet::new() }
    }
}

impl Listener for Wicket {
    type Io = Socket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Socket, SocketAddr) {
        loop {
            tokio::select! {
                Some(greeted) = self.greetings.join_next() => match greeted {
                    Ok(Ok(socket)) => {
                        if let Ok(address) = socket.tcp().peer_addr() {
                            return (socket, address);
                        }
                    }
                    Ok(Err(error)) => tracing::info!(%error, "client not understood"),
                    Err(error) => tracing::error!(%error, "a greeting failed"),
                },
                accepted = self.listener.accept(), if self.greetings.len() < MAX_GREETINGS => match accepted {
                    Ok((socket, _)) => {
                        let tls = self.tls.clone();
                        self.greetings.spawn(async move { socket::greet(socket, &tls).await });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Serves the port until `stop`.
pub(super) async fn serve(wicket: Wicket, authority: Authority, stop: CancellationToken) {
    let router = Router::new()
        .route(TOKEN_PATH, post(token))
        .route(METADATA_TOKEN, get(metadata_token))
        .route(METADATA_PROJECT, get(metadata_project))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .with_state(Arc::new(authority));
    let served = axum::serve(wicket, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "authority's port failed");
    }
}

async fn token(State(authority): State<Arc<Authority>>, form: Bytes) -> Response {
    let (fault, skew, now) =
        authority.shared.with(|service, now| (service.v1.faults.authority, service.v1.faults.clock_skew_s, now));
    let seconds = i64::try_from(now / 1_000).unwrap_or(i64::MAX).saturating_add(skew);
    let checked = match fault {
        Some(AuthorityFault::Unavailable) => {
            return refused(&authority, StatusCode::SERVICE_UNAVAILABLE, "backend_error", "Backend Error");
        }
        Some(AuthorityFault::InvalidGrant) => Err(Denied::Account),
        // Outside the lock: a signature takes its time.
        None => oauth::check(&form, &authority.account, &authority.token_uri, seconds),
    };
    let mut response = match checked {
        Ok(grant) => answer(&authority.shared.with(|service, now| sell(&mut service.v1, grant, now))),
        Err(denied) => refused(&authority, StatusCode::BAD_REQUEST, denied.word(), &denied.to_string()),
    };
    // A server whose clock is ahead says so here as well; by this header a client finds out whose clock is wrong.
    if let Some(date) = date(seconds) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

/// A time in Unix seconds, as the header `Date` has it.
fn date(seconds: i64) -> Option<header::HeaderValue> {
    let then = UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))?;
    // What follows the year 9999 cannot be written.
    let writable = then < UNIX_EPOCH + Duration::from_secs(DATE_MAX_S);
    writable.then(|| header::HeaderValue::try_from(httpdate::fmt_http_date(then)).ok())?
}

fn refused(authority: &Authority, status: StatusCode, word: &'static str, description: &str) -> Response {
    authority.shared.with(|service, _| *service.v1.stats.token_refusals.entry(word).or_insert(0) += 1);
    let body = json!({"error": word, "error_description": description});
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], format!("{body:#}\n")).into_response()
}

async fn metadata_token(State(authority): State<Arc<Authority>>, headers: HeaderMap) -> Response {
    if !is_flavored(&headers) {
        return unflavored();
    }
    let sold = authority.shared.with(|service, now| match service.v1.faults.authority {
        None => Some(sell(&mut service.v1, Grant::Messages, now)),
        Some(_) => None,
    });
    match sold {
        Some(body) => flavored(answer(&body)),
        None => refused(&authority, StatusCode::SERVICE_UNAVAILABLE, "backend_error", "Backend Error"),
    }
}

async fn metadata_project(State(authority): State<Arc<Authority>>, headers: HeaderMap) -> Response {
    if !is_flavored(&headers) {
        return unflavored();
    }
    let project = authority.shared.with(|service, _| service.v1.project.to_string());
    flavored(([(header::CONTENT_TYPE, "application/text")], project).into_response())
}

fn sell(state: &mut V1State, grant: Grant, now: u64) -> Value {
    let expires_at = now.saturating_add(state.token_life_s.saturating_mul(1_000));
    let text = state.tokens.sell(grant, expires_at);
    state.stats.tokens += 1;
    json!({"access_token": text, "expires_in": state.token_life_s, "token_type": "Bearer"})
}

fn answer(body: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], body.to_string()).into_response()
}

fn is_flavored(headers: &HeaderMap) -> bool {
    headers.get(FLAVOR).is_some_and(|flavor| flavor == "Google")
}

fn flavored(mut response: Response) -> Response {
    response.headers_mut().insert("metadata-flavor", header::HeaderValue::from_static("Google"));
    response
}

fn unflavored() -> Response {
    let words = "Missing required header \"Metadata-Flavor\": \"Google\"\n";
    (StatusCode::FORBIDDEN, [(header::CONTENT_TYPE, "text/html; charset=UTF-8")], words).into_response()
}
