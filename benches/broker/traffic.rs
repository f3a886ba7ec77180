//! Messages on their way through.

use crate::client::{Client, Load};
use crate::server::{Server, WINDOW, cpu};
use crate::table::Figure;
use crate::wire::{Session, Version};
use anyhow::Result;
use serde_json::json;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

const PAYLOAD: usize = 100;
const TOPIC: &str = "bench/through";

/// From one publisher to so many readers with this session, all of them connected.
pub(crate) async fn through(
    server: &Server,
    version: Version,
    session: Session,
    readers: usize,
    messages: usize,
) -> Result<Vec<Figure>> {
    let load = Load::new(version, messages, |_| (TOPIC.to_owned(), vec![b'x'; PAYLOAD]));
    let mut connected = Vec::new();
    for n in 0..readers {
        let mut reader = Client::connect(server.address, version, session, &format!("reader-{n}")).await?;
        reader.subscribe(&[TOPIC.to_owned()]).await?;
        connected.push(reader);
    }
    let mut publisher = Client::connect(server.address, version, Session::Clean, "publisher").await?;
    let meter = Meter::start(server)?;
    let mut reading = JoinSet::new();
    for mut reader in connected {
        reading.spawn(async move { reader.read(messages, |_| {}).await });
    }
    publisher.publish(&load, WINDOW).await?;
    let (mut delivered, mut last) = (0, meter.start);
    while let Some(read) = reading.join_next().await {
        let read = read??;
        delivered += read.messages;
        last = last.max(read.last);
    }
    let mut figures = meter.stop("deliveries/s", delivered, last)?;
    figures.push(Figure::most("missing", readers * messages - delivered));
    Ok(figures)
}

/// Messages to devices: each is acknowledged when the bridge has it on disk.
pub(crate) async fn held(server: &Server, messages: usize) -> Result<Vec<Figure>> {
    let version = Version::V5;
    let load = Load::new(version, messages, |n| {
        let body =
            json!({ "id": format!("m{n}"), "token": format!("device-{}", n % 1_000), "data": { "text": TOPIC } });
        ("client1/self/messages".to_owned(), body.to_string().into_bytes())
    });
    let mut publisher = Client::connect(server.address, version, Session::Clean, "publisher").await?;
    let meter = Meter::start(server)?;
    publisher.publish(&load, WINDOW).await?;
    meter.stop("PUBACKs/s", messages, Instant::now())
}

/// Counts from the first PUBLISH on.
struct Meter<'a> {
    server: &'a Server,
    cpu: Duration,
    driver: Duration,
    start: Instant,
}

impl<'a> Meter<'a> {
    fn start(server: &'a Server) -> Result<Self> {
        Ok(Self { server, cpu: server.cpu()?, driver: cpu("self")?, start: Instant::now() })
    }

    /// What it took for so many messages, of which the last one came at `end`. `rate` is the name of their rate.
    fn stop(self, rate: &'static str, messages: usize, end: Instant) -> Result<Vec<Figure>> {
        let (seconds, messages) = ((end - self.start).as_secs_f64(), messages as f64);
        let cpu_used = (self.server.cpu()? - self.cpu).as_secs_f64();
        let driver = (cpu("self")? - self.driver).as_secs_f64();
        Ok(vec![
            Figure::new(rate, 0, messages / seconds),
            Figure::new("processor s per 100,000", 2, cpu_used * 100_000.0 / messages),
            Figure::new("  the driver's own", 2, driver * 100_000.0 / messages),
        ])
    }
}
