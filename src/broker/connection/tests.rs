//! A connection as its client sees it, byte for byte, with a hub behind it and no other part of the broker.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures_util::FutureExt;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, unconstrained};
use tokio::time::{Instant, advance, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::broker::BrokerConfig;
use crate::broker::hub::{HubDependencies, NewPublish, Publisher, Publishing};
use crate::broker::identity::Authenticator;
use crate::broker::refusals::Refusals;
use crate::chat::group::GroupDelivery;
use crate::chat::qos::QoS;
use crate::mqtt::{AckWord, InboundQueues, Notice, Sighting, inbound_queues};
use crate::ops::clock::now_ms;
use crate::ops::metrics::{Metric, Metrics};
use crate::store::sqlite::{self as store, WriterThread};
use crate::store::{Message, Note, StoreHealth};

const V311: u8 = 4;
const V5: u8 = 5;
const PUBLISH: u8 = 0x30;
const DUP: u8 = 8;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
/// A topic of the bridge: its acknowledgements wait for a word.
const HELD: &str = "bal1/self/messages";
/// The property of a CONNECT that makes a session last.
const FOR_EVER: &[u8] = &[0x11, 0xff, 0xff, 0xff, 0xff];

struct Harness {
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    inbound: InboundQueues,
    notices: mpsc::Receiver<Notice>,
    stop: CancellationToken,
    _sightings: mpsc::Receiver<Sighting>,
    _writer: WriterThread,
    folder: TempDir,
}

impl Harness {
    fn new() -> Self {
        Self::with(BrokerLimits { packet_bytes: 10_000, ..BrokerLimits::default() })
    }

    fn with(limits: BrokerLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = store::Settings::new(folder.path().join("store"));
        settings.retry_pause = Duration::from_millis(1);
        settings.max_commit_delay = Duration::ZERO;
        let (store, writer, _) = store::open(&settings, now_ms()).unwrap();
        let metrics = Arc::new(Metrics::new());
        let config = BrokerConfig { anonymous: true, limits: limits.clone(), ..BrokerConfig::default() };
        let (inbound_tx, inbound) = inbound_queues(64);
        let (sightings, _sightings) = mpsc::channel(64);
        let (notices_tx, notices) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let hub = Hub::new(HubDependencies {
            limits,
            autosubscribe: true,
            group_delivery: GroupDelivery::Inbox,
            refusals: Arc::new(Refusals::new(Arc::clone(&metrics))),
            store,
            told: |_, _| (),
            authenticator: Arc::new(Authenticator::new(&config).unwrap()),
            inbound: inbound_tx,
            sightings,
            confirmations: mpsc::channel(1).0,
            notices: notices_tx,
            stop: stop.clone(),
        });
        Self { hub, metrics, inbound, notices, stop, _sightings, _writer: writer, folder }
    }

    /// A client that has said nothing, over a pipe of that size.
    #[expect(clippy::disallowed_methods, reason = "the client joins the task")]
    fn dial(&self, pipe: usize) -> Client {
        let (stream, far) = duplex(pipe);
        let deadline = Instant::now() + Duration::from_secs(10);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let hub = Arc::clone(&self.hub);
        let task = tokio::spawn(async move {
            if let Some(connection) = open(&hub, Box::new(far), peer, deadline).await {
                connection.run().await;
            }
        });
        Client { stream, version: V5, task }
    }

    async fn connect(&self, connect: Connect<'_>) -> Client {
        let mut client = self.dial(1 << 20);
        client.version = connect.version;
        client.send(&connect.bytes()).await;
        let (first, body) = client.next().await.expect("a CONNACK");
        assert_eq!((first, body[1]), (0x20, 0), "{body:x?}");
        client
    }

    async fn client(&self, version: u8) -> Client {
        self.connect(Connect { version, ..Connect::default() }).await
    }

    /// The store commits nothing as long as this is there.
    fn block_disk(&self) -> rusqlite::Connection {
        let other = rusqlite::Connection::open(self.folder.path().join("store")).unwrap();
        other.busy_timeout(Duration::from_secs(10)).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        other
    }

    /// The store commits nothing, and has no room for more but what is reserved, as long as this is there.
    async fn fill_store(&self) -> rusqlite::Connection {
        let (disk, store) = (self.block_disk(), &self.hub.store);
        // What it tries to commit is not taken from the room any more.
        drop(store.is_imported().await.unwrap());
        store.health().wait_for(|health| *health != StoreHealth::Ok).await.unwrap();
        while let Some(asked) = unconstrained(store.is_imported()).now_or_never() {
            drop(asked.unwrap());
        }
        disk
    }

    fn handle(&self) -> Arc<ConnectionHandle> {
        self.hub.connected().last().expect("a connection")
    }
}

struct Connect<'a> {
    version: u8,
    client: &'a str,
    flags: u8,
    keep_alive: u16,
    properties: &'a [u8],
    /// What follows the client id.
    rest: &'a [u8],
}

impl Default for Connect<'_> {
    fn default() -> Self {
        Self { version: V5, client: "c", flags: 2, keep_alive: 0, properties: &[], rest: &[] }
    }
}

impl Connect<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut body = [&text("MQTT")[..], &[self.version, self.flags]].concat();
        body.put_u16(self.keep_alive);
        if self.version == V5 {
            body.put_u8(self.properties.len() as u8);
            body.extend_from_slice(self.properties);
        }
        body.extend(text(self.client));
        body.extend_from_slice(self.rest);
        packet(0x10, &body)
    }
}

struct Client {
    stream: DuplexStream,
    version: u8,
    task: JoinHandle<()>,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet, or none if the connection has ended.
    async fn next(&mut self) -> Option<(u8, Bytes)> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some((first, body.into()))
    }

    /// An acknowledgement: first byte, identifier, code.
    async fn ack(&mut self) -> (u8, u16, u8) {
        let (first, mut body) = self.next().await.expect("an acknowledgement");
        let id = body.get_u16();
        (first, id, body.first().copied().unwrap_or_default())
    }

    /// Nothing waits for this client.
    async fn quiet(&mut self) {
        self.send(&[0xc0, 0]).await;
        assert_eq!(self.next().await, Some((0xd0, Bytes::new())));
    }

    /// Says goodbye, and returns when its session is away.
    async fn leave(mut self) {
        self.send(&[0xe0, 0]).await;
        self.closed().await;
        self.task.await.unwrap();
    }

    async fn closed(&mut self) {
        assert_eq!(self.next().await, None);
    }

    async fn publish(&mut self, flags: u8, topic: &str, id: u16, payload: &str) {
        let bytes = publish(self.version, flags, topic, id, &[], payload);
        self.send(&bytes).await;
    }

    async fn subscribe(&mut self, filter: &str, qos: u8) {
        let properties: &[u8] = if self.version == V5 { &[0] } else { &[] };
        self.send(&packet(0x82, &[&[0, 77], properties, &text(filter), &[qos]].concat())).await;
        assert_eq!(self.next().await.unwrap().0, 0x90);
    }

    /// A message: topic, identifier (0 at QoS 0) and payload; and the properties.
    async fn message(&mut self) -> (String, u16, String, Bytes) {
        let (first, mut body) = self.next().await.expect("a message");
        assert_eq!(first & 0xf0, 0x30, "{first:x} {body:x?}");
        let length = body.get_u16().into();
        let topic = String::from_utf8(body.split_to(length).to_vec()).unwrap();
        let id = if first & 6 == 0 { 0 } else { body.get_u16() };
        let mut properties = Bytes::new();
        if self.version == V5 {
            let length = body.get_u8().into();
            properties = body.split_to(length);
        }
        (topic, id, String::from_utf8(body.to_vec()).unwrap(), properties)
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut packet, mut length) = (vec![first], body.len());
    loop {
        let more = if length > 0x7f { 0x80 } else { 0 };
        packet.push((length & 0x7f) as u8 | more);
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

fn publish(version: u8, flags: u8, topic: &str, id: u16, properties: &[u8], payload: &str) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 6 != 0 {
        body.put_u16(id);
    }
    if version == V5 {
        body.put_u8(properties.len() as u8);
        body.extend_from_slice(properties);
    }
    body.extend_from_slice(payload.as_bytes());
    packet(0x30 | flags, &body)
}

fn acked(first: u8, id: u16) -> Vec<u8> {
    [&[first, 2][..], &id.to_be_bytes()].concat()
}

#[tokio::test(start_paused = true)]
async fn a_connack_says_what_the_broker_takes_and_no_more() {
    let harness = Harness::new();
    let mut old = harness.dial(1000);
    old.send(&Connect { version: V311, ..Connect::default() }.bytes()).await;
    assert_eq!(old.next().await, Some((0x20, Bytes::from_static(&[0, 0]))));
    let mut new = harness.dial(1000);
    new.send(&Connect { client: "new", ..Connect::default() }.bytes()).await;
    let told = [0, 0, 11, 0x21, 1, 0, 0x27, 0, 0, 0x27, 0x10, 0x22, 0, 32];
    assert_eq!(new.next().await, Some((0x20, Bytes::copy_from_slice(&told))));
    let mut nameless = harness.dial(1000);
    nameless.send(&Connect { client: "", ..Connect::default() }.bytes()).await;
    let (_, body) = nameless.next().await.unwrap();
    assert!(body.windows(8).any(|bytes| bytes == b"\x12\0\x1dauto-"), "{body:x?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_but_a_connect_comes_first_and_in_time() {
    let harness = Harness::new();
    for (bytes, reason) in [
        (&[0xc0, 0][..], "first_packet"),
        (&[0x32, 0xff], "first_packet"),
        (&[0x10, 0xff, 0xff, 0xff, 0xff], "malformed"),
        (&[0x10, 0xff, 0xff, 0x7f], "packet_size"),
        (&[0x11, 0], "malformed"),
        (&[], "connect_timeout"),
    ] {
        let before = harness.metrics.clients_refused(reason);
        let mut client = harness.dial(1000);
        client.send(bytes).await;
        client.closed().await;
        assert_eq!(harness.metrics.clients_refused(reason), before + 1, "{bytes:x?}");
        client.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_let_in_is_told_why() {
    let harness = Harness::new();
    let connect = |name: &str, level: u8| {
        let rest: &[u8] = if level == V5 { &[0] } else { &[] };
        packet(0x10, &[&text(name)[..], &[level, 2, 0, 0], rest, &text("c")].concat())
    };
    for (connect, answer) in [
        (connect("MQIsdp", 3), Some(&[0, 1][..])),
        (connect("MQTT", 3), Some(&[0, 1])),
        (connect("MQTT", 6), Some(&[0, 0x84, 0])),
        (connect("HTTP", 4), None),
        // A will on a wildcard.
        (Connect { flags: 6, rest: b"\0\0\x01#\0\0", ..Connect::default() }.bytes(), Some(&[0, 0x90])),
        // An authentication method.
        (Connect { properties: b"\x15\0\x01x", ..Connect::default() }.bytes(), Some(&[0, 0x8c])),
        // A client id that is missing in a session that is to last.
        (Connect { version: V311, client: "", flags: 0, ..Connect::default() }.bytes(), Some(&[0, 2])),
    ] {
        let mut client = harness.dial(1000);
        client.send(&connect).await;
        let seen = client.next().await.map(|(first, body)| {
            assert_eq!(first, 0x20);
            body
        });
        let head = answer.map(|answer| answer.len()).unwrap_or_default();
        assert_eq!(seen.as_ref().map(|body| &body[..head]), answer, "{connect:x?}");
        client.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connack_that_is_too_big_is_a_refusal() {
    let harness = Harness::new();
    for (most, answer) in [(12, true), (5, true), (4, false)] {
        let mut client = harness.dial(1000);
        client.send(&Connect { properties: &[0x27, 0, 0, 0, most], ..Connect::default() }.bytes()).await;
        if answer {
            let (first, body) = client.next().await.unwrap();
            assert_eq!((first, &body[..2]), (0x20, &[0, 0x95][..]));
            assert!(body.len() + 2 <= most.into());
        }
        client.closed().await;
    }
    assert_eq!(harness.metrics.clients_refused("packet_size"), 3);
    harness.client(V5).await.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn pubacks_wait_for_their_words_in_order_and_others_pass() {
    for version in [V311, V5] {
        let mut harness = Harness::new();
        let mut client = harness.client(version).await;
        for id in 1..=3 {
            client.publish(2, HELD, id, "x").await;
        }
        client.publish(2, "elsewhere", 4, "x").await;
        client.quiet().await;
        client.subscribe("a", 0).await;
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(harness.inbound.recv().await.unwrap().ack);
        }
        let [one, two, three] = <[_; 3]>::try_from(held).unwrap();
        three.release(AckWord::Quota);
        two.release(AckWord::NoSuchTopic);
        client.quiet().await;
        one.release(AckWord::Done);
        let (no_topic, quota) = if version == V5 { (0x10, 0x97) } else { (0, 0) };
        assert_eq!(client.ack().await, (PUBACK, 1, 0));
        assert_eq!(client.ack().await, (PUBACK, 2, no_topic));
        if version == V5 {
            assert_eq!(client.ack().await, (PUBACK, 3, quota));
        }
        assert_eq!(client.ack().await, (PUBACK, 4, 0));
        client.quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_word_ends_the_connection_without_one() {
    let mut harness = Harness::new();
    let mut client = harness.client(V5).await;
    client.publish(2, HELD, 1, "x").await;
    client.publish(2, HELD, 2, "x").await;
    harness.inbound.recv().await.unwrap().ack.release(AckWord::Done);
    drop(harness.inbound.recv().await);
    assert_eq!(client.ack().await, (PUBACK, 1, 0));
    client.closed().await;
    assert_eq!(harness.metrics.clients_refused("not_stored"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_message_at_qos_2_comes_in_once() {
    for version in [V311, V5] {
        let mut harness = Harness::new();
        let mut client = harness.client(version).await;
        client.publish(4, HELD, 7, "once").await;
        client.publish(0xc, HELD, 7, "once").await;
        client.quiet().await;
        harness.inbound.recv().await.unwrap().ack.release(AckWord::Done);
        assert_eq!(client.ack().await, (PUBREC, 7, 0));
        client.publish(0xc, HELD, 7, "once").await;
        assert_eq!(client.ack().await, (PUBREC, 7, 0));
        client.send(&acked(PUBREL, 7)).await;
        assert_eq!(client.ack().await, (PUBCOMP, 7, 0));
        client.send(&acked(PUBREL, 7)).await;
        assert_eq!(client.ack().await, (PUBCOMP, 7, if version == V5 { 0x92 } else { 0 }));
        assert!(harness.inbound.try_recv().is_err());
        // One that is refused leaves its identifier free.
        for _ in 0..3 {
            client.publish(4, HELD, 8, "again").await;
            harness.inbound.recv().await.unwrap().ack.release(AckWord::Quota);
            if version == V5 {
                assert_eq!(client.ack().await, (PUBREC, 8, 0x97));
            }
            client.quiet().await;
        }
    }
}

#[tokio::test]
async fn a_message_at_qos_2_that_was_held_at_a_cut_comes_again_as_one_that_may_be_known() {
    let mut harness = Harness::new();
    let connect = || Connect { version: V311, flags: 0, ..Connect::default() };
    let mut client = harness.connect(connect()).await;
    client.publish(4, HELD, 7, "once").await;
    let held = harness.inbound.recv().await.unwrap();
    drop(client.stream);
    client.task.await.unwrap();
    let mut client = harness.connect(connect()).await;
    client.publish(0xc, HELD, 7, "once").await;
    client.quiet().await;
    let again = harness.inbound.try_recv().unwrap();
    assert!(again.dup);
    held.ack.release(AckWord::Done);
    again.ack.release(AckWord::Done);
    assert_eq!(client.ack().await, (PUBREC, 7, 0));
    client.send(&acked(PUBREL, 7)).await;
    assert_eq!(client.ack().await, (PUBCOMP, 7, 0));
}

#[tokio::test]
async fn a_message_at_qos_2_that_comes_again_goes_to_its_readers_once_and_counts_once() {
    let mut harness = Harness::with(BrokerLimits { queued_messages: 2, ..BrokerLimits::default() });
    let lasting = |client| Connect { version: V311, client, flags: 0, ..Connect::default() };
    let mut away = harness.connect(lasting("away")).await;
    away.subscribe(HELD, 1).await;
    away.leave().await;
    let mut reader = harness.connect(Connect { client: "r", ..Connect::default() }).await;
    reader.subscribe(HELD, 1).await;
    let mut client = harness.connect(lasting("c")).await;
    client.publish(4, HELD, 7, "once").await;
    let first = harness.inbound.recv().await.unwrap();
    assert_eq!(reader.message().await.2, "once");
    drop(client.stream);
    client.task.await.unwrap();
    let mut client = harness.connect(lasting("c")).await;
    client.publish(0xc, HELD, 7, "once").await;
    let again = harness.inbound.recv().await.unwrap();
    assert!(again.dup);
    first.ack.release(AckWord::Done);
    again.ack.release(AckWord::Done);
    assert_eq!(client.ack().await, (PUBREC, 7, 0));
    reader.quiet().await;
    client.publish(2, HELD, 8, "another").await;
    harness.inbound.recv().await.unwrap().ack.release(AckWord::Done);
    assert_eq!(client.ack().await, (PUBACK, 8, 0));
    assert_eq!(harness.metrics.clients_refused("queue_full"), 0);
}

#[tokio::test]
async fn a_refused_message_at_qos_2_of_3_1_1_is_its_readers_once_however_often_it_comes() {
    let mut harness = Harness::new();
    let mut reader = harness.connect(Connect { client: "r", ..Connect::default() }).await;
    reader.subscribe(HELD, 0).await;
    for (flags, word) in [(4, AckWord::Quota), (0xc, AckWord::Quota), (0xc, AckWord::Done)] {
        let mut client = harness.connect(Connect { version: V311, flags: 0, ..Connect::default() }).await;
        client.publish(flags, HELD, 7, "once").await;
        harness.inbound.recv().await.unwrap().ack.release(word);
        if word == AckWord::Done {
            assert_eq!(client.ack().await, (PUBREC, 7, 0));
        }
        client.quiet().await;
        drop(client.stream);
        client.task.await.unwrap();
    }
    assert_eq!(reader.message().await.2, "once");
    reader.quiet().await;
}

#[tokio::test]
async fn an_identifier_is_free_on_disk_before_the_pubrec_that_refuses_its_message() {
    let mut harness = Harness::new();
    let mut client = harness.connect(Connect { flags: 0, properties: FOR_EVER, ..Connect::default() }).await;
    client.publish(4, HELD, 7, "too much").await;
    let held = harness.inbound.recv().await.unwrap().ack;
    let disk = harness.block_disk();
    held.release(AckWord::Quota);
    client.quiet().await;
    drop(disk);
    assert_eq!(client.ack().await, (PUBREC, 7, 0x97));
    let state = harness.hub.store.broker_state().await.unwrap().await.unwrap();
    assert!(state.sessions[0].incoming.is_empty());
}

#[tokio::test]
async fn a_pubrel_leaves_when_the_disk_knows_that_its_reader_has_the_message() {
    let harness = Harness::new();
    let lasting = || Connect { client: "r", flags: 0, properties: FOR_EVER, ..Connect::default() };
    let mut reader = harness.connect(lasting()).await;
    reader.subscribe("t", 2).await;
    reader.leave().await;
    let mut writer = harness.client(V5).await;
    writer.publish(4, "t", 1, "x").await;
    assert_eq!(writer.ack().await, (PUBREC, 1, 0));
    let mut reader = harness.connect(lasting()).await;
    let (_, id, ..) = reader.message().await;
    let disk = harness.block_disk();
    reader.send(&acked(PUBREC, id)).await;
    reader.quiet().await;
    drop(disk);
    assert_eq!(reader.ack().await, (PUBREL, id, 0));
    drop(reader.stream);
    reader.task.await.unwrap();
    let mut reader = harness.connect(lasting()).await;
    assert_eq!(reader.ack().await, (PUBREL, id, 0));
    reader.send(&acked(PUBCOMP, id)).await;
    reader.quiet().await;
}

#[tokio::test]
async fn a_lasting_session_is_taken_over_while_the_disk_refuses() {
    let harness = Harness::new();
    let lasting = || Connect { client: "r", flags: 0, properties: FOR_EVER, ..Connect::default() };
    let mut reader = harness.connect(lasting()).await;
    reader.subscribe("t", 1).await;
    reader.leave().await;
    let mut writer = harness.client(V5).await;
    for (id, text) in [(1, "acknowledged"), (2, "not acknowledged")] {
        writer.publish(2, "t", id, text).await;
        assert_eq!(writer.ack().await, (PUBACK, id, 0));
    }
    let mut reader = harness.connect(lasting()).await;
    let (one, two) = (reader.message().await, reader.message().await);
    assert_eq!((&*one.2, &*two.2), ("acknowledged", "not acknowledged"));
    let disk = harness.block_disk();
    reader.send(&acked(PUBACK, one.1)).await;
    reader.quiet().await;
    let mut next = harness.dial(1 << 20);
    next.send(&lasting().bytes()).await;
    let (first, body) = next.next().await.unwrap();
    assert_eq!((first, &body[..2]), (0x20, &[1, 0][..]), "the session is there");
    next.quiet().await;
    drop(disk);
    assert_eq!(next.message().await.2, "not acknowledged");
    next.send(&acked(PUBACK, two.1)).await;
    next.quiet().await;
}

#[tokio::test]
async fn a_session_is_taken_over_while_its_shared_subscription_waits_for_the_disk() {
    let harness = Harness::new();
    let lasting = |client| Connect { client, flags: 0, properties: FOR_EVER, ..Connect::default() };
    let mut reader = harness.connect(lasting("r")).await;
    let mut other = harness.connect(lasting("o")).await;
    other.subscribe("$share/other/t", 1).await;
    let disk = harness.block_disk();
    reader.send(&packet(0x82, &[&[0, 77, 0][..], &text("$share/g/t"), &[1]].concat())).await;
    for client in ["r", "o"] {
        let mut next = harness.dial(1 << 20);
        next.send(&lasting(client).bytes()).await;
        let (first, body) = next.next().await.unwrap();
        assert_eq!((first, &body[..2]), (0x20, &[1, 0][..]), "the session is there: {client}");
    }
    drop(disk);
    let mut next = harness.connect(lasting("n")).await;
    next.subscribe("$share/g/t", 1).await;
}

#[tokio::test]
async fn a_member_of_a_group_is_taken_over_while_the_end_of_another_group_waits_for_the_disk() {
    let harness = Harness::new();
    let lasting = |client| Connect { client, flags: 0, properties: FOR_EVER, ..Connect::default() };
    let (mut last, mut other) = (harness.connect(lasting("l")).await, harness.connect(lasting("o")).await);
    last.subscribe("$share/g/t", 1).await;
    other.subscribe("$share/other/t", 1).await;
    let _disk = harness.block_disk();
    last.send(&packet(0xa2, &[&[0, 78, 0][..], &text("$share/g/t")].concat())).await;
    let mut next = harness.dial(1 << 20);
    next.send(&lasting("o").bytes()).await;
    let (first, body) = next.next().await.unwrap();
    assert_eq!((first, &body[..2]), (0x20, &[1, 0][..]), "the session is there");
}

#[tokio::test]
async fn members_of_a_group_whose_windows_were_full_are_sent_more_when_they_have_room() {
    let harness = Harness::new();
    let with_window_of_one = |client| Connect { client, properties: &[0x21, 0, 1], ..Connect::default() };
    let (mut one, mut other) =
        (harness.connect(with_window_of_one("one")).await, harness.connect(with_window_of_one("other")).await);
    for member in [&mut one, &mut other] {
        member.subscribe("$share/g/t", 1).await;
    }
    let mut writer = harness.client(V5).await;
    for n in 1..=6 {
        writer.publish(2, "t", n, "x").await;
        assert_eq!(writer.ack().await, (PUBACK, n, 0));
        let either = async {
            tokio::select! {
                (_, id, ..) = one.message() => (true, id),
                (_, id, ..) = other.message() => (false, id),
            }
        };
        let (is_one, id) = timeout(Duration::from_secs(10), either).await.expect("somebody is sent it");
        let member = if is_one { &mut one } else { &mut other };
        member.send(&acked(PUBACK, id)).await;
        member.quiet().await;
    }
}

#[tokio::test]
async fn a_subscription_that_may_not_be_on_disk_is_written_when_it_is_made_again() {
    let harness = Harness::new();
    let lasting = || Connect { client: "r", flags: 0, properties: FOR_EVER, ..Connect::default() };
    let mut reader = harness.connect(lasting()).await;
    let disk = harness.block_disk();
    let subscribe = packet(0x82, &[&[0, 77, 0][..], &text("t"), &[1]].concat());
    reader.send(&subscribe).await;
    let mut next = harness.dial(1 << 20);
    next.send(&lasting().bytes()).await;
    assert_eq!(next.next().await.unwrap().0, 0x20);
    next.send(&subscribe).await;
    assert!(timeout(Duration::from_millis(100), next.next()).await.is_err(), "it is not known to be on disk");
    drop(disk);
    assert_eq!(next.next().await.unwrap().0, 0x90);
    let state = harness.hub.store.broker_state().await.unwrap().await.unwrap();
    assert_eq!(state.sessions[0].subscriptions.len(), 1);
}

fn few_held() -> BrokerLimits {
    BrokerLimits { held_acks: 2, ..BrokerLimits::default() }
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_runs_ahead_is_not_read_and_is_not_silent() {
    let mut harness = Harness::with(few_held());
    let mut client = harness.connect(Connect { keep_alive: 10, ..Connect::default() }).await;
    for id in 1..=3 {
        client.publish(2, HELD, id, "x").await;
    }
    client.send(&[0xc0, 0]).await;
    let held = [harness.inbound.recv().await.unwrap().ack, harness.inbound.recv().await.unwrap().ack];
    sleep(Duration::from_secs(100)).await;
    assert!(harness.inbound.try_recv().is_err());
    let handle = harness.handle();
    assert_eq!(handle.overdue(ConnectionHandle::clock(), 0), None, "it may have spoken");
    for ack in held {
        ack.release(AckWord::Done);
    }
    harness.inbound.recv().await.unwrap().ack.release(AckWord::Done);
    for expected in [(PUBACK, 1), (PUBACK, 2)] {
        let (first, id, _) = client.ack().await;
        assert_eq!((first, id), expected);
    }
    let mut rest = [client.next().await.unwrap().0, client.next().await.unwrap().0];
    rest.sort();
    assert_eq!(rest, [PUBACK, 0xd0]);
    assert_eq!(handle.overdue(ConnectionHandle::clock(), 0), None);
    sleep(Duration::from_secs(16)).await;
    assert_eq!(handle.overdue(ConnectionHandle::clock(), 0), Some(Refusal::KeepAlive));
}

#[tokio::test(start_paused = true)]
async fn more_open_exchanges_than_the_receive_maximum_end_a_connection_of_mqtt_5_alone() {
    let harness = Harness::with(few_held());
    for (version, qos) in [(V5, 4), (V5, 2), (V311, 4)] {
        let mut client = harness.client(version).await;
        for id in 1..=2 {
            client.publish(4, "t", id, "x").await;
            assert_eq!(client.ack().await, (PUBREC, id, 0));
        }
        client.publish(0xc, "t", 2, "x").await;
        assert_eq!(client.ack().await, (PUBREC, 2, 0), "that is none more");
        client.publish(qos, "t", 3, "x").await;
        if version == V311 {
            assert_eq!(client.ack().await, (PUBREC, 3, 0));
            continue;
        }
        let (first, body) = client.next().await.unwrap();
        assert_eq!((first, body[0]), (0xe0, 0x93));
        client.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_keeps_no_connection_alive_and_a_big_message_on_its_way_does() {
    let harness = Harness::new();
    let mut client = harness.connect(Connect { keep_alive: 10, ..Connect::default() }).await;
    let message = publish(V5, 2, "t", 1, &[], &"x".repeat(4_000));
    let handle = harness.handle();
    let due = || handle.overdue(ConnectionHandle::clock(), 0);
    // A slow line: each part in time, the whole not.
    for part in message.chunks(300) {
        client.send(part).await;
        sleep(Duration::from_secs(14)).await;
        assert_eq!(due(), None);
    }
    assert_eq!(client.ack().await, (PUBACK, 1, 0));
    client.quiet().await;
    for (byte, expected) in message.iter().zip([None, None, None, Some(Refusal::KeepAlive)]) {
        client.send(&[*byte]).await;
        sleep(Duration::from_secs(4)).await;
        assert_eq!(due(), expected);
    }
    client.send(&message[4..]).await;
    assert_eq!(client.ack().await, (PUBACK, 1, 0));
    assert_eq!(due(), None, "a whole one counts");
}

#[tokio::test(start_paused = true)]
async fn a_denied_message_is_told_or_ends_the_connection_after_the_held_ones() {
    let mut harness = Harness::new();
    let mut new = harness.client(V5).await;
    new.publish(2, "a/others/messages", 1, "x").await;
    new.publish(4, "$SYS/x", 2, "x").await;
    new.publish(0, "a/others/messages", 0, "x").await;
    assert_eq!(new.ack().await, (PUBACK, 1, 0x87));
    assert_eq!(new.ack().await, (PUBREC, 2, 0x87));
    new.quiet().await;
    let mut old = harness.connect(Connect { version: V311, client: "old", ..Connect::default() }).await;
    old.publish(2, "$SYS/x", 1, "dropped").await;
    assert_eq!(old.ack().await, (PUBACK, 1, 0));
    old.publish(2, HELD, 2, "x").await;
    old.publish(2, "a/others/messages", 3, "denied").await;
    old.publish(2, HELD, 4, "too late").await;
    let held = harness.inbound.recv().await.unwrap().ack;
    sleep(Duration::from_secs(1)).await;
    held.release(AckWord::Done);
    assert_eq!(old.ack().await, (PUBACK, 2, 0));
    old.closed().await;
    assert!(harness.inbound.try_recv().is_err());
    assert_eq!(harness.metrics.clients_refused("publish_denied"), 3);
    assert_eq!(harness.metrics.clients_refused("sys_topic"), 2);
}

#[tokio::test(start_paused = true)]
async fn aliases_stand_for_topics_both_ways() {
    let harness = Harness::new();
    let mut client = harness.connect(Connect { properties: &[0x22, 0, 1], ..Connect::default() }).await;
    client.subscribe("#", 0).await;
    let alias = |topic, n| publish(V5, 0, topic, 0, &[0x23, 0, n], "x");
    client.send(&[alias("a", 1), alias("", 1), alias("b", 32), alias("", 32)].concat()).await;
    let (topic, _, _, properties) = client.message().await;
    assert_eq!((&*topic, &properties[..]), ("a", &[0x23, 0, 1][..]));
    let (topic, _, _, properties) = client.message().await;
    assert_eq!((&*topic, &properties[..]), ("", &[0x23, 0, 1][..]));
    for _ in 0..2 {
        let (topic, _, _, properties) = client.message().await;
        assert_eq!((&*topic, properties.len()), ("b", 0), "it takes one alias");
    }
    for (n, code) in [(2, 0x82), (33, 0x94)] {
        let mut wrong = harness.connect(Connect { client: "wrong", ..Connect::default() }).await;
        wrong.send(&alias("", n)).await;
        let (first, body) = wrong.next().await.unwrap();
        assert_eq!((first, body[0]), (0xe0, code));
        wrong.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_window_of_a_client_is_kept_and_what_is_too_big_is_left_out() {
    let harness = Harness::new();
    let properties = &[0x21, 0, 2, 0x27, 0, 0, 0, 100];
    let mut reader = harness.connect(Connect { properties, ..Connect::default() }).await;
    reader.subscribe("t", 2).await;
    let mut writer = harness.connect(Connect { client: "w", ..Connect::default() }).await;
    writer.publish(2, "t", 9, &"x".repeat(100)).await;
    assert_eq!(writer.ack().await, (PUBACK, 9, 0));
    for (n, flags) in [(1, 2), (2, 4), (3, 2), (4, 4)] {
        writer.publish(flags, "t", n, &n.to_string()).await;
        writer.ack().await;
    }
    let (one, two) = (reader.message().await, reader.message().await);
    assert_eq!((&*one.2, &*two.2), ("1", "2"));
    reader.quiet().await;
    reader.send(&acked(PUBREC, two.1)).await;
    assert_eq!(reader.ack().await, (PUBREL, two.1, 0));
    reader.quiet().await;
    reader.send(&acked(PUBCOMP, two.1)).await;
    let three = reader.message().await;
    assert_eq!(three.2, "3");
    reader.send(&acked(PUBACK, one.1)).await;
    let four = reader.message().await;
    assert_eq!(four.2, "4");
    // A refusal ends the exchange; identifiers that are none are answered where there is an answer.
    reader.send(&[&[PUBREC, 3][..], &four.1.to_be_bytes(), &[0x99]].concat()).await;
    reader.send(&[acked(PUBACK, 999), acked(PUBCOMP, 999), acked(PUBREC, 999)].concat()).await;
    assert_eq!(reader.ack().await, (PUBREL, 999, 0x92));
    reader.quiet().await;
}

#[tokio::test]
async fn what_was_acknowledged_before_the_end_of_a_connection_does_not_come_again_where_another_reader_is_behind() {
    let harness = Harness::new();
    let topic = "bal1/others/messages";
    for _ in 0..4 {
        let (topic, payload) = (topic.to_owned(), Bytes::from("x".repeat(150_000)));
        harness
            .hub
            .store
            .queue_note(Note { topic, payload, correlation: None, at: now_ms() })
            .await
            .unwrap()
            .await
            .unwrap();
    }
    // Its queue is full before it has read all of them.
    let mut behind = harness.connect(Connect { client: "b", properties: &[0x21, 0, 1], ..Connect::default() }).await;
    behind.subscribe(topic, 1).await;
    behind.message().await;
    let lasting = Connect { client: "r", flags: 0, properties: FOR_EVER, ..Connect::default() };
    let mut reader = harness.connect(lasting).await;
    reader.subscribe(topic, 1).await;
    for _ in 0..4 {
        let id = reader.message().await.1;
        reader.send(&acked(PUBACK, id)).await;
    }
    let handle = harness.handle();
    reader.send(&[0xe0, 0]).await;
    handle.wait_gone().await;
    assert!(handle.ending().is_some(), "nobody waits for what it was to read");
    assert_eq!(harness.hub.store.topics_to_publish().await.unwrap().await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_document_whose_acknowledgement_did_not_come_to_the_store_before_the_connection_ended_comes_again_as_a_copy()
{
    let harness = Harness::new();
    let (topic, payload) = ("bal1/others/messages".to_owned(), Bytes::from("x"));
    harness
        .hub
        .store
        .queue_note(Note { topic, payload, correlation: None, at: now_ms() })
        .await
        .unwrap()
        .await
        .unwrap();
    let mut reader = harness.client(V311).await;
    reader.subscribe("bal1/others/messages", 1).await;
    let (_, id, _, _) = reader.message().await;
    let (disk, handle) = (harness.fill_store().await, harness.handle());
    reader.send(&acked(PUBACK, id)).await;
    reader.quiet().await;
    reader.task.abort();
    handle.wait_gone().await;
    drop(disk);
    let mut next = harness.client(V311).await;
    next.subscribe("bal1/others/messages", 1).await;
    let (first, _) = next.next().await.unwrap();
    assert_eq!(first, PUBLISH | DUP | 2, "{first:x}");
}

#[tokio::test]
async fn a_document_that_its_reader_cannot_take_is_told_of_once_for_a_connection_and_those_behind_it_go_on() {
    let mut harness = Harness::new();
    let (topic, big) = ("bal1/others/messages", "x".repeat(100));
    for payload in [&*big, "1", "2"] {
        let (topic, payload) = (topic.to_owned(), Bytes::from(payload.to_owned()));
        harness
            .hub
            .store
            .queue_note(Note { topic, payload, correlation: None, at: now_ms() })
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let properties = &[0x27, 0, 0, 0, 100];
    for _connection in 0..2 {
        let mut reader = harness.connect(Connect { properties, ..Connect::default() }).await;
        reader.subscribe(topic, 1).await;
        assert_eq!((reader.message().await.2, reader.message().await.2), ("1".to_owned(), "2".to_owned()));
        reader.quiet().await;
        let Notice::SetAside(told) = harness.notices.try_recv().unwrap() else { panic!("a document was set aside") };
        assert_eq!((&*told.topic, told.payload.len(), told.bytes > 100, told.most), (topic, 100, true, 100));
        assert!(harness.notices.try_recv().is_err());
    }
    assert_eq!(harness.metrics.clients_refused("document_size"), 2);
    let mut reader = harness.client(V5).await;
    reader.subscribe(topic, 1).await;
    assert_eq!(reader.message().await.2, big, "another one gets it");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_holds_no_more_than_a_little_and_is_overdue() {
    let harness = Harness::new();
    let mut reader = harness.dial(64);
    reader.send(&Connect { client: "r", ..Connect::default() }.bytes()).await;
    reader.next().await.unwrap();
    let handle = harness.handle();
    reader.subscribe("t", 0).await;
    let mut writer = harness.client(V5).await;
    for _ in 0..1_000 {
        writer.publish(0, "t", 0, &"x".repeat(1_000)).await;
    }
    writer.quiet().await;
    assert_eq!(handle.overdue(ConnectionHandle::clock(), 0), None);
    // As long as it reads a little, it stays.
    for _ in 0..3 {
        advance(Duration::from_secs(20)).await;
        reader.stream.read_exact(&mut [0; 64]).await.unwrap();
        writer.quiet().await;
        assert_eq!(handle.overdue(ConnectionHandle::clock(), 0), None);
    }
    advance(Duration::from_secs(31)).await;
    assert_eq!(handle.overdue(ConnectionHandle::clock(), 0), Some(Refusal::NotReading));
    handle.end(Refusal::NotReading);
    reader.task.await.unwrap();
    assert_eq!(harness.metrics.get(Metric::BrokerStalled), 1);
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the test joins the task")]
async fn a_flood_of_what_is_answered_at_once_stops_with_the_reading_of_the_answers() {
    const COUNT: usize = 20_000;
    let harness = Harness::new();
    let mut client = harness.dial(1 << 14);
    client.send(&Connect::default().bytes()).await;
    client.next().await.unwrap();
    let (mut inbound, mut outbound) = tokio::io::split(client.stream);
    let flood = tokio::spawn(async move {
        for _ in 0..COUNT {
            outbound.write_all(&publish(V5, 2, "$SYS/x", 9, &[], &"x".repeat(100))).await.unwrap();
        }
        outbound
    });
    sleep(Duration::from_secs(1)).await;
    assert!(!flood.is_finished(), "it is not read any more");
    let reason = Refusal::SysTopic.rule();
    let mut answers = vec![0; COUNT * (2 + 4 + 3 + reason.len())];
    inbound.read_exact(&mut answers).await.unwrap();
    flood.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_last_words_say_why() {
    for (end, code) in [(Some(Refusal::Revoked), 0x98), (Some(Refusal::TakenOver), 0x8e), (None, 0x8b)] {
        let harness = Harness::new();
        let mut new = harness.client(V5).await;
        let mut old = harness.connect(Connect { version: V311, client: "old", ..Connect::default() }).await;
        for handle in harness.hub.connected() {
            match end {
                Some(why) => handle.end(why),
                None => handle.stop(),
            }
        }
        let (first, body) = new.next().await.unwrap();
        assert_eq!((first, body[0]), (0xe0, code));
        assert_eq!(body.len() > 1, end.is_some());
        new.closed().await;
        old.closed().await;
        let told: u64 = ["revoked", "taken_over"].iter().map(|reason| harness.metrics.clients_refused(reason)).sum();
        assert_eq!(told, if end.is_some() { 2 } else { 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_those_who_have_said_nothing() {
    let harness = Harness::new();
    let mut silent = harness.dial(100);
    tokio::task::yield_now().await;
    harness.stop.cancel();
    silent.closed().await;
    silent.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_packet_that_breaks_a_rule_ends_the_connection_with_its_reason() {
    let harness = Harness::new();
    for (bytes, code) in [
        (packet(0x32, b"\0\x01a\0\0\0"), 0x81),
        (Connect::default().bytes(), 0x82),
        (packet(0xf0, b""), 0x82),
        (packet(0x30, &[0; 20_000]), 0x95),
        // A session expiry after none.
        (packet(0xe0, &[0, 5, 0x11, 0, 0, 0, 9]), 0x82),
    ] {
        let mut client = harness.client(V5).await;
        client.send(&bytes).await;
        let (first, body) = client.next().await.unwrap();
        assert_eq!((first, body[0]), (0xe0, code), "{:x?}", &bytes[..4]);
        client.closed().await;
        let mut old = harness.client(V311).await;
        old.send(&if bytes[0] == 0xe0 { packet(0xe0, &[0]) } else { bytes }).await;
        old.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_will_is_left_by_all_ends_but_a_goodbye() {
    let harness = Harness::new();
    let mut reader = harness.connect(Connect { client: "r", ..Connect::default() }).await;
    reader.subscribe("w", 0).await;
    for (n, words) in [(1, &[0xe0, 0][..]), (2, &[0xe0, 1, 4]), (3, &[0xe0, 1, 0]), (4, &[0xf0, 0]), (5, &[])] {
        let rest = [&[0][..], &text("w"), &text(&n.to_string())].concat();
        let mut client = harness.connect(Connect { flags: 6, rest: &rest, ..Connect::default() }).await;
        client.send(words).await;
        if n == 5 {
            // Its task is cut short.
            client.task.abort();
            let _ = client.task.await;
        } else {
            drop(client.stream);
            client.task.await.unwrap();
        }
        if [2, 4, 5].contains(&n) {
            assert_eq!(reader.message().await.2, n.to_string());
        } else {
            reader.quiet().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_expires_counts_down() {
    let harness = Harness::new();
    let mut client = harness.client(V5).await;
    client.subscribe("t", 0).await;
    client.send(&publish(V5, 0, "t", 0, &[0x02, 0, 0, 0, 100], "x")).await;
    let (.., properties) = client.message().await;
    assert!([[2, 0, 0, 0, 99], [2, 0, 0, 0, 100]].contains(&<[u8; 5]>::try_from(&properties[..]).unwrap()));
}

#[test]
fn a_silent_connection_is_small() {
    let sizes = [size_of::<Connection>(), size_of::<ConnectionHandle>(), size_of::<Session>()];
    assert!(sizes.iter().sum::<usize>() < 1_450, "{sizes:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever a client sends in whatever pieces, it gets the same.
    #[test]
    fn garbage_reads_the_same_under_every_split(
        garbage in prop::collection::vec(
            prop_oneof![Just(0x30), Just(0xc0), Just(0), Just(2), Just(0x82), Just(1), any::<u8>()], 0..200),
        piece in 1..40usize,
        version in prop_oneof![Just(V311), Just(V5)],
    ) {
        let seen = |pipe: usize| {
            let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let harness = Harness::new();
                let client = harness.dial(pipe);
                let (mut inbound, mut outbound) = tokio::io::split(client.stream);
                let connect = Connect { version, ..Connect::default() }.bytes();
                let bytes = [&connect[..], &[0xc0, 0], &garbage[..]].concat();
                let writing = async {
                    let _ = outbound.write_all(&bytes).await;
                    let _ = outbound.shutdown().await;
                };
                let mut seen = Vec::new();
                let _ = tokio::join!(writing, inbound.read_to_end(&mut seen));
                seen
            })
        };
        prop_assert_eq!(seen(1 << 16), seen(piece));
    }
}

#[tokio::test]
async fn a_retained_message_that_has_expired_is_swept_and_the_others_stay() {
    let harness = Harness::new();
    let mut client = harness.client(V5).await;
    for (topic, expiry) in [("gone", &[2, 0, 0, 0, 0][..]), ("stays", &[][..])] {
        client.send(&publish(V5, 3, topic, 7, expiry, "x")).await;
        assert_eq!(client.next().await.unwrap().0, 0x40, "{topic}");
    }
    harness.hub.drop_expired().await;
    let mut seen = Vec::new();
    client.send(&packet(0x82, &[&[0, 77, 0][..], &text("#"), &[0]].concat())).await;
    while seen.len() < 2 {
        let (first, body) = client.next().await.unwrap();
        seen.push((first >> 4, body.windows(5).any(|word| word == b"stays")));
    }
    seen.sort_unstable();
    assert_eq!(seen, [(3, true), (9, false)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_at_qos_0_passes_none_of_its_publisher_that_came_to_the_disk_or_is_on_its_way() {
    let harness = Harness::new();
    harness.hub.store.listen();
    let kept = Connect { client: "reader", flags: 0, properties: FOR_EVER, ..Connect::default() };
    let mut reader = harness.connect(kept).await;
    reader.subscribe("t", 1).await;
    let mut publisher = harness.client(V5).await;
    publisher.publish(2, "t", 1, "1").await;
    assert_eq!(publisher.ack().await.1, 1);
    // The queues were not told of it yet.
    let disk = harness.block_disk();
    publisher.publish(0, "t", 0, "2").await;
    publisher.quiet().await;
    reader.quiet().await;
    distribute_once(&harness);
    assert_eq!(reader.message().await.2, "1");
    publisher.publish(0, "t", 0, "3").await;
    publisher.quiet().await;
    reader.quiet().await;
    drop(disk);
    // Asked for last, so it is there last.
    harness.hub.store.is_imported().await.unwrap().await.unwrap();
    distribute_once(&harness);
    assert_eq!([reader.message().await.2, reader.message().await.2], ["2", "3"]);
    publisher.publish(0, "t", 0, "4").await;
    assert_eq!(reader.message().await.2, "4", "nothing is before it");
}

#[tokio::test(start_paused = true)]
async fn a_message_at_qos_0_that_nobody_reads_lets_none_pass_those_before_it() {
    let harness = Harness::new();
    harness.hub.store.listen();
    let kept = Connect { client: "reader", flags: 0, properties: FOR_EVER, ..Connect::default() };
    let mut reader = harness.connect(kept).await;
    reader.subscribe("t", 1).await;
    let mut publisher = harness.client(V5).await;
    publisher.publish(2, "t", 1, "1").await;
    assert_eq!(publisher.ack().await.1, 1);
    // The queues were not told of it yet, so the next one goes by the disk as well.
    let disk = harness.block_disk();
    for (topic, text) in [("t", "2"), ("unread", "x"), ("t", "3")] {
        publisher.publish(0, topic, 0, text).await;
    }
    publisher.quiet().await;
    drop(disk);
    harness.hub.store.is_imported().await.unwrap().await.unwrap();
    distribute_once(&harness);
    let told = [reader.message().await.2, reader.message().await.2, reader.message().await.2];
    assert_eq!(told, ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_published_before_the_stop_comes_before_the_end() {
    let harness = Harness::new();
    let mut reader = harness.client(V5).await;
    reader.subscribe("t", 1).await;
    let mut publisher = harness.connect(Connect { client: "publisher", ..Connect::default() }).await;
    publisher.publish(0, "t", 0, "first").await;
    assert_eq!(reader.message().await.2, "first");
    let by = Publisher { session: None, rights: &Rights::Nobody, device: None, follows: false };
    let (topic, payload, properties) = ("t".into(), "last".into(), Bytes::new());
    let message = Message { topic, payload, properties, qos: QoS::AtLeastOnce, retain: false, expires_at: None };
    let (dup, again, exactly_once, will) = (false, false, None, None);
    let last = NewPublish { message, dup, again, exactly_once, response_topic: None, correlation: None, will };
    assert!(matches!(harness.hub.publish(by, last), Publishing::Promised(_)));
    harness.hub.end_connections();
    assert_eq!(reader.message().await.2, "last");
    assert_eq!(reader.next().await.map(|(first, body)| (first, body[0])), Some((0xe0, 0x8b)));
    reader.closed().await;
}

/// The events that a hub without a task for them has not taken.
fn distribute_once(harness: &Harness) {
    let distributed = harness.hub.distribute_events();
    tokio::pin!(distributed);
    assert!(unconstrained(distributed).now_or_never().is_none(), "it waits for more");
}
