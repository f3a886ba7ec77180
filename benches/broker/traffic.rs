//! Messages on their way through.

use crate::client::{Client, Load};
use crate::process::{self, SELF};
use crate::server::{Server, WINDOW};
use crate::table::Figure;
use crate::wire::{Session, Version};
use anyhow::Result;
use serde_json::json;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) const MESSAGES_PER_SECOND: &str = "messages/s";
/// A usual text.
pub(crate) const TEXT: &str = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut \
                               labore et dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation.";
const VERSION: Version = Version::V5;
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
    let load = to_devices(messages, TOPIC);
    let mut publisher = Client::connect(server.address, VERSION, Session::Clean, "publisher").await?;
    let meter = Meter::start(server)?;
    publisher.publish(&load, WINDOW).await?;
    meter.stop("PUBACKs/s", messages, Instant::now())
}

/// Messages to devices, from the BAL's PUBLISH until it reads that the push service has delivered them. It publishes on one
/// connection and reads on another.
pub(crate) async fn downstream(server: &Server, messages: usize) -> Result<Vec<Figure>> {
    let load = to_devices(messages, TEXT);
    let mut publisher = Client::connect(server.address, VERSION, Session::Clean, "publisher").await?;
    let mut reader = Client::connect(server.address, VERSION, Session::Clean, "reader").await?;
    reader.subscribe(&["client1/others/receipts".to_owned()]).await?;
    let meter = Meter::start(server)?;
    let (mut delivered, mut last) = (0, meter.start);
    let nothing = Load::none();
    let reading = reader.exchange(&nothing, WINDOW, |status| {
        if str::from_utf8(status.payload).is_ok_and(|text| text.contains(r#""status":"delivered""#)) {
            delivered += 1;
            last = Instant::now();
        }
        delivered == messages
    });
    let (published, read) = tokio::join!(publisher.publish(&load, WINDOW), reading);
    published.and(read)?;
    let mut figures = meter.stop(MESSAGES_PER_SECOND, delivered, last)?;
    figures.push(Figure::most("missing", messages - delivered));
    Ok(figures)
}

/// Pushes of the BAL `client1`, for a thousand devices in turn.
fn to_devices(messages: usize, text: &str) -> Load {
    Load::new(VERSION, messages, |n| {
        let push = json!({ "id": format!("m{n}"), "token": format!("device-{}", n % 1_000), "data": { "text": text } });
        ("client1/self/messages".to_owned(), push.to_string().into_bytes())
    })
}

/// Counts from the first PUBLISH on.
pub(crate) struct Meter<'a> {
    server: &'a Server,
    cpu: Duration,
    driver: Duration,
    pub(crate) start: Instant,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(server: &'a Server) -> Result<Self> {
        Ok(Self { server, cpu: server.cpu()?, driver: process::cpu(SELF)?, start: Instant::now() })
    }

    /// What it took for so many messages, of which the last one came at `end`. `rate` is the name of their rate.
    pub(crate) fn stop(self, rate: &'static str, messages: usize, end: Instant) -> Result<Vec<Figure>> {
        let (seconds, messages) = ((end - self.start).as_secs_f64(), messages as f64);
        let cpu_used = (self.server.cpu()? - self.cpu).as_secs_f64();
        let driver = (process::cpu(SELF)? - self.driver).as_secs_f64();
        Ok(vec![
            Figure::new(rate, 0, messages / seconds),
            Figure::new("processor s per 100,000", 2, cpu_used * 100_000.0 / messages),
            Figure::new("  the driver's own", 2, driver * 100_000.0 / messages),
        ])
    }
}
