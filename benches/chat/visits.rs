//! Users who are not connected look in: their phone connects, asks for what it missed, and goes.

use crate::client::Client;
use crate::devices::{Shared, VERSION};
use crate::users::{self, Device};
use crate::wire;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// A reply has at most 100 items, and a user may have written some of them.
const COMPARED: usize = 50;
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it took.
pub(crate) struct Visit {
    pub(crate) connected: Duration,
    pub(crate) replied: Duration,
}

#[derive(Deserialize)]
struct Reply<'a> {
    ok: bool,
    #[serde(borrow, default)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    sid: &'a str,
}

/// What was taken for the user before the visit has to be in the reply.
pub(crate) async fn visit(broker: SocketAddr, user: usize, model: Shared) -> Result<Visit> {
    let name = users::name(user);
    let (login, id) = (users::login(user), users::client_id(user, Device::Phone));
    let taken = model.borrow().taken_for(user, COMPARED);
    let start = Instant::now();
    let mut client = Client::log_in(broker, VERSION, &id, &login).await?;
    let connected = start.elapsed();
    let request = json!({ "id": "catching-up", "op": "sync" }).to_string();
    let (packets, mut outgoing) = mpsc::channel(1);
    packets.try_send(wire::publish(VERSION, &format!("{name}/self/requests/phone"), 1, request.as_bytes()))?;
    let mut reply = Vec::new();
    let serving = client.serve(&mut outgoing, |message| {
        if message.topic.ends_with(b"/others/replies/phone") {
            reply = message.payload.to_vec();
        } else {
            model.borrow_mut().hear(user, Device::Phone, message);
        }
        !reply.is_empty()
    });
    timeout(PATIENCE, serving).await.with_context(|| format!("no reply for {name}"))??;
    let replied = start.elapsed();
    let Reply { ok, items } = serde_json::from_slice(&reply)?;
    ensure!(ok, "{name}: {}", String::from_utf8_lossy(&reply));
    let items: HashSet<&str> = items.iter().map(|item| item.sid).collect();
    for sid in taken.iter().filter(|sid| !items.contains(&***sid)) {
        model.borrow_mut().faults.add("lost: in the reply to sync", || format!("{sid} for {name}"));
    }
    client.disconnect().await?;
    Ok(Visit { connected, replied })
}
