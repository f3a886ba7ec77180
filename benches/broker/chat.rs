//! Messages between users who are all connected, beside their payloads through a broker that knows nothing of users.

use crate::client::{Client, Load};
use crate::login::Login;
use crate::server::{Server, WINDOW};
use crate::table::Figure;
use crate::traffic::{MESSAGES_PER_SECOND, Meter, TEXT};
use crate::wire::{Message, Session, Version};
use anyhow::Result;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

const VERSION: Version = Version::V5;
/// One user of each writes, the other one reads.
const PAIRS: usize = 4;

/// What became of the messages of a pair, or of all of them.
struct Ended {
    missing: usize,
    /// When the last document came that was waited for.
    last: Instant,
}

/// From user to user, each with one device. It is over when every message came stamped to the writer and to the reader, and
/// the writer was told `sent` and `delivered` of each.
pub(crate) async fn between_users(server: &Server, messages: usize) -> Result<Vec<Figure>> {
    let mut pairs = Vec::new();
    for n in 0..PAIRS {
        let names = [writer(n), reader(n)];
        let [writer, reader] = names.each_ref().map(|name| Login::of(name));
        let mut writer = Client::log_in(server.address, VERSION, &names[0], &writer).await?;
        let mut reader = Client::log_in(server.address, VERSION, &names[1], &reader).await?;
        // Only contacts are told `delivered`.
        greet(&mut writer, &names[0], &names[1]).await?;
        greet(&mut reader, &names[1], &names[0]).await?;
        pairs.push((writer, reader));
    }
    measure(server, messages, pairs, |load, mut writer, mut reader| async move {
        let (written, read) = tokio::join!(write(&mut writer, &load), read(&mut reader, load.len()));
        let (written, read) = (written?, read?);
        Ok(Ended { missing: written.missing + read.missing, last: written.last.max(read.last) })
    })
    .await
}

/// As many publishers, each with one reader.
pub(crate) async fn passed_through(server: &Server, messages: usize) -> Result<Vec<Figure>> {
    let mut pairs = Vec::new();
    for n in 0..PAIRS {
        let writer = Client::connect(server.address, VERSION, Session::Clean, &writer(n)).await?;
        let mut reader = Client::connect(server.address, VERSION, Session::Clean, &reader(n)).await?;
        reader.subscribe(&[outbox(n)]).await?;
        pairs.push((writer, reader));
    }
    measure(server, messages, pairs, |load, mut writer, mut reader| async move {
        let (published, read) = tokio::join!(writer.publish(&load, WINDOW), reader.read(load.len(), |_| {}));
        let (_, read) = (published?, read?);
        Ok(Ended { missing: load.len() - read.messages, last: read.last })
    })
    .await
}

/// Counts from the first PUBLISH on. `exchange` is what a pair does with its share of the messages.
async fn measure<E>(
    server: &Server,
    messages: usize,
    pairs: Vec<(Client, Client)>,
    exchange: impl Fn(Load, Client, Client) -> E,
) -> Result<Vec<Figure>>
where
    E: Future<Output = Result<Ended>> + Send + 'static,
{
    let each = messages / PAIRS;
    let loads: Vec<Load> = (0..PAIRS).map(|n| load(n, each)).collect();
    let meter = Meter::start(server)?;
    let mut all = Ended { missing: 0, last: meter.start };
    let mut exchanges = JoinSet::new();
    for (load, (writer, reader)) in loads.into_iter().zip(pairs) {
        exchanges.spawn(exchange(load, writer, reader));
    }
    while let Some(ended) = exchanges.join_next().await {
        let ended = ended??;
        all = Ended { missing: all.missing + ended.missing, last: all.last.max(ended.last) };
    }
    let mut figures = meter.stop(MESSAGES_PER_SECOND, each * PAIRS, all.last)?;
    figures.push(Figure::most("missing", all.missing));
    Ok(figures)
}

/// One message, which makes `to` a contact of the user. Returns when it is on disk.
async fn greet(client: &mut Client, user: &str, to: &str) -> Result<()> {
    let greeting = json!({ "id": "greeting", "to": to, "body": "Hello" }).to_string().into_bytes();
    let load = Load::new(VERSION, 1, |_| (format!("{user}/self/messages"), greeting.clone()));
    client.exchange(&load, 1, |message| is_told(message, "sent")).await
}

/// Publishes the messages, until all that its user is told of them has come.
async fn write(client: &mut Client, load: &Load) -> Result<Ended> {
    let each = load.len();
    let (mut stamped, mut sent, mut delivered) = (Marks::new(each), Marks::new(each), Marks::new(each));
    let mut last = Instant::now();
    let reads = |message: &Message<'_>| {
        if message.topic.ends_with(b"/others/messages") {
            stamped.set(message);
        } else if is_told(message, "sent") {
            sent.set(message);
        } else if is_told(message, "delivered") {
            delivered.set(message);
        }
        last = Instant::now();
        stamped.missing + sent.missing + delivered.missing == 0
    };
    client.exchange(load, WINDOW, reads).await?;
    Ok(Ended { missing: stamped.missing + sent.missing + delivered.missing, last })
}

/// Reads until so many messages have come.
async fn read(client: &mut Client, each: usize) -> Result<Ended> {
    let (mut came, mut last) = (Marks::new(each), Instant::now());
    let reads = |message: &Message<'_>| {
        if message.topic.ends_with(b"/others/messages") {
            came.set(message);
            last = Instant::now();
        }
        came.missing == 0
    };
    client.exchange(&Load::none(), WINDOW, reads).await?;
    Ok(Ended { missing: came.missing, last })
}

/// Of which messages something was heard.
struct Marks {
    heard: Vec<bool>,
    missing: usize,
}

impl Marks {
    fn new(messages: usize) -> Self {
        Self { heard: vec![false; messages], missing: messages }
    }

    /// A receipt with `up_to` is of all messages up to this one.
    fn set(&mut self, message: &Message<'_>) {
        let Some(n) = number(message.payload).filter(|n| *n < self.heard.len()) else { return };
        let first = if holds(message.payload, r#""up_to":true"#) { 0 } else { n };
        for heard in &mut self.heard[first..=n] {
            self.missing -= usize::from(!std::mem::replace(heard, true));
        }
    }
}

fn load(pair: usize, messages: usize) -> Load {
    let (topic, to) = (outbox(pair), reader(pair));
    let message = |n| json!({ "id": format!("m{n}"), "to": to, "body": TEXT }).to_string().into_bytes();
    Load::new(VERSION, messages, |n| (topic.clone(), message(n)))
}

fn is_told(message: &Message<'_>, status: &str) -> bool {
    message.topic.ends_with(b"/others/receipts") && holds(message.payload, &format!(r#""status":"{status}""#))
}

/// The number of the message that a document is of, unless it is of a greeting.
fn number(payload: &[u8]) -> Option<usize> {
    const BEFORE: &str = r#""id":"m"#;
    let text = str::from_utf8(payload).ok()?;
    let rest = &text[text.find(BEFORE)? + BEFORE.len()..];
    rest[..rest.find('"')?].parse().ok()
}

fn holds(payload: &[u8], words: &str) -> bool {
    str::from_utf8(payload).is_ok_and(|text| text.contains(words))
}

fn outbox(pair: usize) -> String {
    format!("{}/self/messages", writer(pair))
}

fn writer(pair: usize) -> String {
    format!("writer-{pair}")
}

fn reader(pair: usize) -> String {
    format!("reader-{pair}")
}
