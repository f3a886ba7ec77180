//! Messages that wait for clients that are away.

use crate::client::{Client, Load};
use crate::server::{Needs, Server, Side, WINDOW};
use crate::table::Figure;
use crate::wire::{Session, Version};
use anyhow::Result;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;

const VERSION: Version = Version::V5;
const SESSIONS: usize = 100;
const MESSAGES_EACH: usize = 60;
const LARGE: usize = 60_000;
const BEFORE_KILL: usize = 6_000;
const KB_PER_MB: f64 = 1_024.0;

/// Large messages for many sessions: memory while they wait, and whether all of them arrive.
pub(crate) async fn waiting(server: &Server) -> Result<Vec<Figure>> {
    let before = server.memory()?;
    for n in 0..SESSIONS {
        leave_session(server.address, &id(n), &topic(n)).await?;
    }
    let load = Load::new(VERSION, SESSIONS, |n| (topic(n), vec![b'x'; LARGE]));
    let mut publisher = Client::connect(server.address, VERSION, Session::Clean, "publisher").await?;
    for _ in 0..MESSAGES_EACH {
        publisher.publish(&load, WINDOW).await?;
    }
    let waiting = server.memory()?;
    let (mut missing, mut forgotten) = (SESSIONS * MESSAGES_EACH, 0);
    for n in 0..SESSIONS {
        let mut reader = Client::connect(server.address, VERSION, Session::Lasting, &id(n)).await?;
        if reader.session_present {
            missing -= reader.read(MESSAGES_EACH, |_| {}).await?.messages;
        } else {
            forgotten += 1;
        }
        reader.disconnect().await?;
    }
    Ok(vec![
        Figure::new("MB while they wait", 0, (waiting - before) / KB_PER_MB),
        Figure::new("MB at the peak", 0, (server.peak_memory()? - before) / KB_PER_MB),
        Figure::most("missing", missing),
        Figure::most("sessions that the broker has no more", forgotten),
    ])
}

/// Acknowledged messages for a session that is away, and the broker is killed at the last PUBACK.
pub(crate) async fn killed(side: Side<'_>, folder: &Path) -> Result<Vec<Figure>> {
    let server = Server::start(side, &Needs::Nothing, folder).await?;
    leave_session(server.address, &id(0), &topic(0)).await?;
    let load = Load::new(VERSION, BEFORE_KILL, |n| (topic(0), n.to_string().into_bytes()));
    let mut publisher = Client::connect(server.address, VERSION, Session::Clean, "publisher").await?;
    publisher.publish(&load, WINDOW).await?;
    drop(server);
    let server = Server::start(side, &Needs::Nothing, folder).await?;
    let mut reader = Client::connect(server.address, VERSION, Session::Lasting, &id(0)).await?;
    let mut found = HashSet::new();
    if reader.session_present {
        reader.read(BEFORE_KILL, |payload| _ = found.insert(payload.to_vec())).await?;
    }
    Ok(vec![Figure::most("lost", BEFORE_KILL - found.len())])
}

/// A client subscribes to a topic, and leaves with a session that lasts.
async fn leave_session(broker: SocketAddr, id: &str, topic: &str) -> Result<()> {
    let mut client = Client::connect(broker, VERSION, Session::Lasting, id).await?;
    client.subscribe(&[topic.to_owned()]).await?;
    client.disconnect().await
}

fn id(n: usize) -> String {
    format!("away-{n}")
}

fn topic(n: usize) -> String {
    format!("bench/away/{n}")
}
