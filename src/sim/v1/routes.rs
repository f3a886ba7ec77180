//! The part of the control port that is about v1.
//!
//! | request | effect |
//! | --- | --- |
//! | `GET /v1` | where everything is: `{base_url, token_url, project, credentials_file}` |
//! | `GET /v1/stats` | the counters |
//! | `GET /v1/faults`, `PUT /v1/faults` | the plan of faults; `PUT` replaces it, `{}` ends all faults |
//! | `GET /v1/quotas`, `PUT /v1/quotas` | how many messages are taken; what is absent is as documented by Google |
//! | `GET /v1/acks?after=&limit=` | what apps would have published by now: `[{seq, token, topic, id, at}]` |
//! | `GET /v1/tokens`, `DELETE /v1/tokens` | the access tokens that were sold; `DELETE` takes them back |
//! | `POST /v1/goaway`, `POST /v1/reset` | `{connection?}` |
//!
//! Devices are those of `/devices`. Without a v1 side all is 404.

use super::config::Quotas;
use super::fault::V1Faults;
use super::handle::V1Handle;
use crate::sim::control::{Page, Refused, Told, body};
use crate::sim::handle::SimHandle;
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

/// The paths below `/v1`.
pub(in crate::sim) fn router() -> Router<SimHandle> {
    Router::new()
        .route("/v1", get(async |Side(v1): Side| Json(places(&v1))))
        .route("/v1/stats", get(async |Side(v1): Side| Json(v1.stats())))
        .route("/v1/faults", get(async |Side(v1): Side| Json(v1.faults())).put(put_faults))
        .route("/v1/quotas", get(async |Side(v1): Side| Json(v1.quotas())).put(put_quotas))
        .route("/v1/acks", get(acks))
        .route("/v1/tokens", get(async |Side(v1): Side| Json(v1.tokens())).delete(revoke))
        .route("/v1/goaway", post(goaway))
        .route("/v1/reset", post(reset))
}

/// The v1 side, if there is one.
struct Side(V1Handle);

impl FromRequestParts<SimHandle> for Side {
    type Rejection = Refused;

    async fn from_request_parts(_: &mut Parts, sim: &SimHandle) -> Result<Self, Refused> {
        sim.v1().map(Self).ok_or_else(|| Refused(StatusCode::NOT_FOUND, "there is no v1 side".to_owned()))
    }
}

fn places(v1: &V1Handle) -> Value {
    json!({
        "base_url": v1.base_url(),
        "token_url": v1.token_url(),
        "project": v1.project(),
        "credentials_file": v1.credentials_file(),
    })
}

async fn put_faults(Side(v1): Side, bytes: Result<Bytes, BytesRejection>) -> Result<Json<V1Faults>, Refused> {
    v1.set_faults(body(bytes)?).map_err(Refused::bad)?;
    Ok(Json(v1.faults()))
}

async fn put_quotas(Side(v1): Side, bytes: Result<Bytes, BytesRejection>) -> Result<Json<Quotas>, Refused> {
    v1.set_quotas(body(bytes)?);
    Ok(Json(v1.quotas()))
}

async fn acks(Side(v1): Side, query: Result<Query<Page>, QueryRejection>) -> Result<Json<Value>, Refused> {
    let page = Page::read(query)?;
    Ok(Json(json!(v1.app_acks(page.after, page.limit()))))
}

async fn revoke(Side(v1): Side) -> Json<Value> {
    Json(json!({"revoked": v1.revoke_tokens()}))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    connection: Option<u64>,
}

async fn goaway(Side(v1): Side, bytes: Result<Bytes, BytesRejection>) -> Result<Json<Told>, Refused> {
    let Which { connection } = body(bytes)?;
    Ok(Json(Told { connections: v1.goaway(connection) }))
}

async fn reset(Side(v1): Side, bytes: Result<Bytes, BytesRejection>) -> Result<Json<Told>, Refused> {
    let Which { connection } = body(bytes)?;
    Ok(Json(Told { connections: v1.reset(connection) }))
}
