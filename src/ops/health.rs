//! `/healthz`, `/readyz` and `/metrics`: plain HTTP, on loopback unless the configuration says otherwise.

use super::metrics::Metrics;
use super::setting::{listen, settings};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What is known of the bridge's parts at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether work is being done: all of the parts below are well.
    pub ready: bool,
    /// Every way to the devices, by its name: `up`, `draining`, `down`, or why no message goes.
    #[serde(flatten)]
    pub transports: BTreeMap<String, &'static str>,
    /// Why a transport sends nothing, or less than it could, and, as `mqtt`, why an external broker is away, or what it refuses;
    /// only what there is to say.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub why: BTreeMap<String, String>,
    /// `open` or `closed`.
    pub mqtt: &'static str,
    /// `ok`, or why nothing can be written.
    pub store: String,
    /// `taking`, or which limit stops the intake.
    pub intake: String,
}

impl Readiness {
    /// Before anything is known of any part.
    pub fn starting() -> Self {
        Self {
            ready: false,
            transports: BTreeMap::new(),
            why: BTreeMap::new(),
            mqtt: "closed",
            store: "ok".to_owned(),
            intake: "taking".to_owned(),
        }
    }
}

settings! {
    /// `[ops]`
    pub struct Ops {
        /// Where `/healthz`, `/readyz` and `/metrics` are served.
        #[serde(deserialize_with = "listen")] pub listen: SocketAddr = ([127, 0, 0, 1], 9090).into();
    }
}

/// Why the port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen} ([ops] listen): {source}")]
pub struct ListenError {
    listen: SocketAddr,
    source: std::io::Error,
}

/// The operator's port, bound but not yet served.
#[derive(Debug)]
pub struct OpsServer {
    listener: TcpListener,
}

impl OpsServer {
    /// Opens the port.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub async fn bind(listen: SocketAddr) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(listen).await.map_err(|source| ListenError { listen, source })?;
        Ok(Self { listener })
    }

    /// The address it got; differs from the wish when that named port 0.
    ///
    /// # Errors
    /// When the system does not know it.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(
        self,
        metrics: Arc<Metrics>,
        readiness: watch::Receiver<Readiness>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .with_state(readiness)
            .route("/metrics", get(metrics_text).with_state(metrics));
        axum::serve(self.listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

async fn readyz(State(readiness): State<watch::Receiver<Readiness>>) -> impl IntoResponse {
    let now = readiness.borrow().clone();
    let code = if now.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(now))
}

async fn metrics_text(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render())
}
