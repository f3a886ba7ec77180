//! What connections and subscriptions cost.

use crate::client::Client;
use crate::process::{self, SELF};
use crate::server::Server;
use crate::table::Figure;
use crate::wire::{Session, Version};
use anyhow::Result;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Clients that are connected and silent.
pub(crate) const IDLE: usize = 10_000;
/// Clients that connect at one time.
const AT_ONCE: usize = 16;
const CLEAN: usize = 20_000;
const LASTING: usize = 5_000;
/// What a client of this bridge may have by default.
const FILTERS: usize = 1_000;
/// Enough for the kernel's unit of processor time.
const TIMES: u32 = 100;

/// Ten thousand come and go, and another ten thousand come.
pub(crate) async fn idle(server: &Server) -> Result<Vec<Figure>> {
    let before = server.memory()?;
    let first = memory_with_idle(server).await?;
    let second = memory_with_idle(server).await?;
    let each = |more: f64| more / IDLE as f64;
    Ok(vec![
        Figure::new("kB each", 2, each(first - before)),
        Figure::new("kB each that a second round adds", 2, each(second - first)),
    ])
}

/// Returns when the broker has closed all of them.
async fn memory_with_idle(server: &Server) -> Result<f64> {
    let mut clients = Vec::new();
    for n in 0..IDLE {
        clients.push(Client::connect(server.address, Version::V5, Session::Clean, &format!("idle-{n}")).await?);
    }
    let memory = server.memory()?;
    for client in clients {
        client.disconnect().await?;
    }
    Ok(memory)
}

/// Clients that connect and leave again. A lasting session is a new one each time.
pub(crate) async fn connects(server: &Server, session: Session) -> Result<Vec<Figure>> {
    let each = if session == Session::Clean { CLEAN } else { LASTING } / AT_ONCE;
    let (cpu, driver, start, broker) = (server.cpu()?, process::cpu(SELF)?, Instant::now(), server.address);
    let mut clients = JoinSet::new();
    for n in 0..AT_ONCE {
        clients.spawn(async move {
            for time in 0..each {
                let client = Client::connect(broker, Version::V5, session, &format!("client-{n}-{time}")).await?;
                client.disconnect().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let (seconds, connects) = (start.elapsed().as_secs_f64(), (each * AT_ONCE) as u32);
    Ok(vec![
        Figure::new("connects/s", 0, f64::from(connects) / seconds),
        Figure::new("processor ms each", 3, milliseconds((server.cpu()? - cpu) / connects)),
        Figure::new("  the driver's own", 3, milliseconds((process::cpu(SELF)? - driver) / connects)),
    ])
}

/// A client with a lasting session subscribes again to what it is subscribed to.
pub(crate) async fn resubscribe(server: &Server) -> Result<Vec<Figure>> {
    let filters: Vec<String> = (0..FILTERS).map(|n| format!("bench/filter/{n}")).collect();
    let mut client = Client::connect(server.address, Version::V5, Session::Lasting, "subscriber").await?;
    client.subscribe(&filters).await?;
    let (cpu, start) = (server.cpu()?, Instant::now());
    for _ in 0..TIMES {
        client.subscribe(&filters).await?;
    }
    Ok(vec![
        Figure::new("processor ms", 2, milliseconds((server.cpu()? - cpu) / TIMES)),
        Figure::new("ms until the SUBACK", 2, milliseconds(start.elapsed() / TIMES)),
    ])
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
