//! What the phones got, as the simulator of the push service tells it.

use crate::users::{self, Users};
use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A push that a phone got.
pub(crate) struct Arrived {
    pub(crate) user: usize,
    /// The bridge's id of the push.
    pub(crate) id: String,
    pub(crate) matter: Matter,
    pub(crate) data: String,
    /// In Unix milliseconds.
    pub(crate) at_ms: u64,
}

/// What it tells of.
pub(crate) enum Matter {
    Message {
        sid: String,
        /// The conversation.
        with: String,
        /// In a group who wrote it.
        by: String,
    },
    /// That there is something.
    Sync,
    Other,
}

#[derive(Deserialize)]
struct DeviceView {
    messages: Vec<RecordView>,
}

#[derive(Deserialize)]
struct RecordView {
    message_id: String,
    data: Map<String, Value>,
    at: u64,
}

#[derive(Deserialize)]
struct Stats {
    delivered: usize,
}

/// The control port of the simulator.
pub(crate) struct Control {
    requests: SendRequest<Empty<Bytes>>,
    /// Owns the task of the connection.
    _connection: JoinSet<hyper::Result<()>>,
}

impl Control {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let (requests, connection) = http1::handshake(TokioIo::new(TcpStream::connect(address).await?)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Ok(Self { requests, _connection: tasks })
    }

    /// How many pushes all phones together got.
    pub(crate) async fn delivered(&mut self) -> Result<usize> {
        let stats: Option<Stats> = self.ask("/stats").await?;
        Ok(stats.context("the simulator counts")?.delivered)
    }

    /// All of them.
    pub(crate) async fn arrived(&mut self, users: Users) -> Result<Vec<Arrived>> {
        let mut arrived = Vec::new();
        for user in users.all() {
            let device: Option<DeviceView> = self.ask(&format!("/devices/{}", users::token(user))).await?;
            let records = device.into_iter().flat_map(|device| device.messages);
            arrived.extend(records.map(|record| Arrived::of(user, record)));
        }
        Ok(arrived)
    }

    /// Nothing, if there is no such device: it got nothing.
    async fn ask<T: DeserializeOwned>(&mut self, path: &str) -> Result<Option<T>> {
        self.requests.ready().await?;
        let request = Request::get(path).header("host", "simulator").body(Empty::new())?;
        let response = self.requests.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        ensure!(status == StatusCode::OK, "{path}: {status}");
        Ok(Some(serde_json::from_slice(&body)?))
    }
}

impl Arrived {
    fn of(user: usize, record: RecordView) -> Self {
        let text = |key: &str| record.data.get(key).and_then(Value::as_str).unwrap_or_default();
        let matter = match text("type") {
            _ if text("account") != users::name(user) => Matter::Other,
            "message" => {
                let [sid, with, by] = ["sid", "with", "by"].map(|key| text(key).to_owned());
                Matter::Message { sid, with, by }
            }
            "sync" => Matter::Sync,
            _ => Matter::Other,
        };
        let data = Value::Object(record.data.clone()).to_string();
        Self { user, id: record.message_id, matter, data, at_ms: record.at }
    }
}
