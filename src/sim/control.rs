//! The control port: JSON over HTTP for scripts. It has no authentication and belongs on a loopback address.
//!
//! | request | effect |
//! | --- | --- |
//! | `GET /healthz` | 200 once the simulator runs |
//! | `GET /stats` | the counters |
//! | `GET /devices?skip=&limit=` | the devices |
//! | `GET /devices/{token}?after=&limit=` | a device and what it got |
//! | `PUT /devices/{token}` | changes it, or makes it; fields that are absent stay as they are |
//! | `POST /devices/{token}/upstream` | it sends: `{category?, data?, count?, message_id?}` |
//! | `POST /upstream` | many send: `{devices, per_device?, prefix?, category?, data?}` |
//! | `GET /faults`, `PUT /faults` | the plan of faults; `PUT` replaces it, `{}` ends all faults |
//! | `POST /drain` | `{connection?, notice?, close_ms?}`; without a connection: all |
//! | `POST /close`, `POST /reset` | `{connection?}` |
//!
//! The paths of the v1 side are in `v1/routes.rs`.
//!
//! Errors are a status and `{"error": ".."}`. A token in a path may be percent-encoded.

use super::event::ConnectionId;
use super::fault::{DrainPlan, Notice};
use super::handle::{MAX_SPEECHES, SimHandle};
use super::service::Speech;
use super::v1;
use super::virtual_devices::DeviceError;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, body::Bytes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Bytes of a request at most.
const MAX_BODY: usize = 1 << 20;

/// Devices or deliveries in one answer, at most and by default.
const MAX_LIST: usize = 1_000;

/// Bytes of the data of a message of a device at most, as documented.
const MAX_DATA: usize = 4_096;

/// Serves the control port until `stop`.
pub(super) async fn serve(listener: TcpListener, sim: SimHandle, stop: CancellationToken) {
    let served = axum::serve(listener, router(sim)).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "control port failed");
    }
}

fn router(sim: SimHandle) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(json!({"status": "ok"}))))
        .route("/stats", get(async |State(sim): State<SimHandle>| Json(sim.stats())))
        .route("/devices", get(devices))
        .route("/devices/{token}", get(device).put(put_device))
        .route("/devices/{token}/upstream", post(upstream))
        .route("/upstream", post(upstream_of_many))
        .route("/faults", get(async |State(sim): State<SimHandle>| Json(sim.faults())).put(put_faults))
        .route("/drain", post(drain))
        .route("/close", post(close))
        .route("/reset", post(reset))
        .merge(v1::router())
        .fallback(async || Refused(StatusCode::NOT_FOUND, "no such path".into()))
        .method_not_allowed_fallback(async || Refused(StatusCode::METHOD_NOT_ALLOWED, "no such method here".into()))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(sim)
}

/// Why a request was refused.
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl Refused {
    pub(super) fn bad(error: impl ToString) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<DeviceError> for Refused {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::NoDevice => Self(StatusCode::NOT_FOUND, error.to_string()),
            DeviceError::Silent(_) | DeviceError::Taken => Self(StatusCode::CONFLICT, error.to_string()),
            _ => Self::bad(error),
        }
    }
}

/// A body of JSON, whatever its content type is called: `curl -d` calls it a form. Empty: all defaults.
pub(super) fn body<T: DeserializeOwned>(bytes: Result<Bytes, BytesRejection>) -> Result<T, Refused> {
    let bytes = bytes.map_err(|error| Refused(error.status(), error.body_text()))?;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(Refused::bad)
}

/// A token in a path, decoded.
struct Token(String);

impl<S: Send + Sync> FromRequestParts<S> for Token {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(token)| Self(token)).map_err(|error| Refused(error.status(), error.body_text()))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Page {
    skip: usize,
    pub(super) after: u64,
    limit: Option<usize>,
}

impl Page {
    pub(super) fn read(query: Result<Query<Self>, QueryRejection>) -> Result<Self, Refused> {
        query.map(|Query(page)| page).map_err(Refused::bad)
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(MAX_LIST).min(MAX_LIST)
    }
}

async fn devices(
    State(sim): State<SimHandle>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Refused> {
    let page = Page::read(query)?;
    Ok(Json(sim.devices(page.skip, page.limit())).into_response())
}

async fn device(
    State(sim): State<SimHandle>,
    Token(token): Token,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Refused> {
    let page = Page::read(query)?;
    let device = sim.device(&token, page.after, page.limit()).ok_or(DeviceError::NoDevice)?;
    Ok(Json(device).into_response())
}

async fn put_device(
    State(sim): State<SimHandle>,
    Token(token): Token,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    sim.put_device(&token, body(bytes)?)?;
    Ok(Json(sim.device(&token, u64::MAX, 0)).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpeechBody {
    category: Option<String>,
    #[serde(default)]
    data: Map<String, Value>,
    #[serde(default = "one")]
    count: usize,
    message_id: Option<String>,
}

fn one() -> usize {
    1
}

fn speech(said: SpeechBody, times: usize) -> Result<Speech, Refused> {
    if said.count.saturating_mul(times) > MAX_SPEECHES {
        return Err(Refused::bad(format_args!("at most {MAX_SPEECHES} messages in one request")));
    }
    let data = Value::Object(said.data);
    if data.to_string().len() > MAX_DATA {
        return Err(Refused::bad(format_args!("data has at most {MAX_DATA} bytes")));
    }
    Ok(Speech { category: said.category, data, count: said.count, message_id: said.message_id })
}

async fn upstream(
    State(sim): State<SimHandle>,
    Token(token): Token,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let speech = speech(body(bytes)?, 1)?;
    sim.upstream(&token, &speech)?;
    Ok(Json(json!({"sent": speech.count})).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManyBody {
    devices: usize,
    #[serde(default = "one")]
    per_device: usize,
    #[serde(default = "device_prefix")]
    prefix: String,
    category: Option<String>,
    #[serde(default)]
    data: Map<String, Value>,
}

fn device_prefix() -> String {
    "device-".to_owned()
}

async fn upstream_of_many(
    State(sim): State<SimHandle>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Response, Refused> {
    let ManyBody { devices, per_device, prefix, category, data } = body(bytes)?;
    let speech = speech(SpeechBody { category, data, count: per_device, message_id: None }, devices)?;
    for device in 0..devices {
        sim.upstream(&format!("{prefix}{device}"), &speech)?;
    }
    Ok(Json(json!({"sent": devices * per_device})).into_response())
}

async fn put_faults(State(sim): State<SimHandle>, bytes: Result<Bytes, BytesRejection>) -> Result<Response, Refused> {
    sim.set_faults(body(bytes)?).map_err(Refused::bad)?;
    Ok(Json(sim.faults()).into_response())
}

/// To how many connections an order went.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    pub(super) connections: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    connection: Option<ConnectionId>,
    notice: Option<Notice>,
    close_ms: Option<u64>,
}

async fn drain(State(sim): State<SimHandle>, bytes: Result<Bytes, BytesRejection>) -> Result<Response, Refused> {
    let DrainBody { connection, notice, close_ms } = body(bytes)?;
    let usual = sim.faults().drain;
    let plan = DrainPlan { notice: notice.unwrap_or(usual.notice), close_ms: close_ms.or(usual.close_ms) };
    Ok(Json(Told { connections: sim.drain(connection, plan) }).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    connection: Option<ConnectionId>,
}

async fn close(State(sim): State<SimHandle>, bytes: Result<Bytes, BytesRejection>) -> Result<Response, Refused> {
    let Which { connection } = body(bytes)?;
    Ok(Json(Told { connections: sim.close(connection) }).into_response())
}

async fn reset(State(sim): State<SimHandle>, bytes: Result<Bytes, BytesRejection>) -> Result<Response, Refused> {
    let Which { connection } = body(bytes)?;
    Ok(Json(Told { connections: sim.reset(connection) }).into_response())
}

#[cfg(test)]
mod tests;
