use std::num::NonZeroU32;
use std::time::Duration;

use bytes::BytesMut;
use mqtt5::QoS;
use mqtt5::packet::Packet;
use mqtt5::packet::puback::PubAckPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::transport::packet_io::encode_packet_to_buffer;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::*;
use crate::broker::confirm::{Keeping, Ledger};
use crate::broker::parked::ParkedLimits;
use crate::mqtt::{Ack, AckWord};

const LIMITS: GateLimits =
    GateLimits { packet: 10_000, held: 2, topics: TopicLimits { bytes: 100, levels: 4, filters: 4 } };

struct World {
    /// The engine's side.
    gate: Gate<DuplexStream>,
    client: DuplexStream,
    link: Arc<Link>,
    metrics: Arc<Metrics>,
}

fn world(pipe: usize) -> World {
    let (client, stream) = duplex(pipe);
    let link = Link::new(Arc::new(Ledger::new(Keeping {
        durable: false,
        parked: ParkedLimits { publications: 1, topics: 1 },
        mark_copy: None,
    })));
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    let metrics = Arc::new(Metrics::new());
    let refusals = Arc::new(Refusals::new(Arc::clone(&metrics)));
    let gate = Gate::new(stream, peer, Arc::clone(&link), LIMITS, refusals);
    World { gate, client, link, metrics }
}

/// A gate whose client has sent its CONNECT.
async fn connected(level: u8, keep_alive: u8) -> World {
    let mut world = world(4096);
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, keep_alive];
    if level == 5 {
        body.push(0);
    }
    body.extend([0, 1, b'c']);
    let connect = Frame::new(0x10, &body);
    world.client.write_all(connect.bytes()).await.unwrap();
    world.gate.connected().await.unwrap();
    assert_eq!(read(&mut world.gate).await.as_deref(), Some(connect.bytes()));
    world
}

fn publish(id: u16, payload: &[u8]) -> Vec<u8> {
    encode(Packet::Publish(PublishPacket::new("a/self/b", payload.to_vec(), QoS::AtLeastOnce).with_packet_id(id)))
}

fn puback(id: u16) -> Vec<u8> {
    encode(Packet::PubAck(PubAckPacket::new(id)))
}

fn encode(packet: Packet) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    encode_packet_to_buffer(&packet, &mut bytes).unwrap();
    bytes.to_vec()
}

/// What the engine reads at once.
async fn read(gate: &mut Gate<DuplexStream>) -> Option<Vec<u8>> {
    let mut buffer = [0; 4096];
    let read = timeout(Duration::from_secs(1), gate.read(&mut buffer)).await.ok()?;
    Some(buffer[..read.unwrap()].to_vec())
}

/// What has arrived at the client.
async fn arrived(client: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let size = timeout(Duration::from_secs(1), client.read(&mut bytes)).await.map_or(0, |size| size.unwrap());
    bytes.truncate(size);
    bytes
}

#[tokio::test(start_paused = true)]
async fn the_engine_reads_one_packet_at_a_time() {
    let mut world = world(4096);
    world.client.write_all(&[publish(1, b"one"), publish(2, b"two")].concat()).await.unwrap();
    assert_eq!(read(&mut world.gate).await, Some(publish(1, b"one")));
    assert_eq!(read(&mut world.gate).await, Some(publish(2, b"two")));
    assert_eq!(read(&mut world.gate).await, None);
}

#[tokio::test(start_paused = true)]
async fn nothing_but_a_connect_comes_first() {
    for first in [&[0xc0, 0][..], &[0x10, 0xff, 0xff, 0xff, 0xff], &[0x10, 0xff, 0xff, 0x7f], &publish(1, b"")] {
        let mut world = world(4096);
        world.client.write_all(first).await.unwrap();
        timeout(Duration::from_secs(1), world.gate.connected()).await.unwrap().unwrap_err();
    }
    let World { mut gate, client, .. } = world(4096);
    drop(client);
    gate.connected().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn an_end_after_the_connect_is_an_end() {
    let World { mut gate, client, .. } = connected(4, 60).await;
    drop(client);
    assert_eq!(read(&mut gate).await, Some(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_held_acknowledgement_leaves_while_the_engine_reads() {
    let mut world = world(4096);
    let (ack, word) = Ack::new();
    world.link.hold(1, word);
    world.gate.write_all(&puback(1)).await.unwrap();
    world.gate.flush().await.unwrap();
    assert!(arrived(&mut world.client).await.is_empty());
    let engine = async { read(&mut world.gate).await };
    let bridge = async {
        ack.release(AckWord::Done);
        arrived(&mut world.client).await
    };
    let (nothing, bytes) = tokio::join!(engine, bridge);
    assert_eq!((nothing, bytes), (None, puback(1)));
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_only_a_publish_waits() {
    let mut world = world(4096);
    let mut acks = Vec::new();
    for id in 1..=2 {
        let (ack, word) = Ack::new();
        world.link.hold(id, word);
        acks.push(ack);
        world.gate.write_all(&puback(id)).await.unwrap();
    }
    let ping = [0xc0, 0];
    world.client.write_all(&[&ping[..], &publish(3, b""), &ping[..]].concat()).await.unwrap();
    assert_eq!(read(&mut world.gate).await.as_deref(), Some(&ping[..]));
    assert_eq!(read(&mut world.gate).await, None);
    acks.remove(0).release(AckWord::Done);
    assert_eq!(read(&mut world.gate).await, Some(publish(3, b"")));
    assert_eq!(read(&mut world.gate).await.as_deref(), Some(&ping[..]));
}

#[tokio::test(start_paused = true)]
async fn a_full_socket_stops_the_engine() {
    let mut world = world(16);
    let big = publish(1, &[0; 2 * OUT_LIMIT]);
    timeout(Duration::from_secs(1), world.gate.write_all(&big)).await.unwrap().unwrap();
    assert!(timeout(Duration::from_secs(1), world.gate.flush()).await.is_err());
    assert!(timeout(Duration::from_secs(1), world.gate.write_all(&puback(1))).await.is_err());
    let client = async {
        let mut bytes = vec![0; big.len()];
        world.client.read_exact(&mut bytes).await.unwrap();
        bytes
    };
    let (flushed, bytes) = tokio::join!(world.gate.flush(), client);
    flushed.unwrap();
    assert_eq!(bytes, big);
}

/// A client of MQTT 5 that has its CONNACK.
async fn greeted() -> World {
    let mut world = connected(5, 0).await;
    world.gate.write_all(&CONNACK).await.unwrap();
    world.gate.flush().await.unwrap();
    assert_eq!(arrived(&mut world.client).await, CONNACK);
    world
}

/// A DISCONNECT of MQTT 5 that says why.
fn disconnect(code: u8, why: &str) -> Vec<u8> {
    Frame::new(0xe0, &[code]).with_reason_string(why).bytes().to_vec()
}

const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];

#[tokio::test(start_paused = true)]
async fn a_client_is_told_why_it_is_sent_away() {
    for (end, label) in [(Refusal::Revoked, "revoked"), (Refusal::TokenExpired, "token_expired")] {
        let mut world = greeted().await;
        let link = Arc::clone(&world.link);
        let engine = async { world.gate.read(&mut [0; 10]).await.unwrap_err().kind() };
        let (kind, ()) = tokio::join!(engine, async { link.end(end) });
        assert_eq!(kind, io::ErrorKind::ConnectionReset);
        assert!(world.gate.write_all(&puback(1)).await.is_err());
        assert_eq!(arrived(&mut world.client).await, disconnect(end.code(), end.rule()));
        assert_eq!(world.metrics.clients_refused(label), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn before_its_connack_a_client_is_told_nothing() {
    let mut world = connected(5, 0).await;
    world.link.end(Refusal::Revoked);
    assert!(world.gate.write_all(&CONNACK).await.is_err());
    assert!(arrived(&mut world.client).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_withheld_is_answered_for_the_client() {
    let mut world = world(4096);
    world.link.identify("nobody".into());
    for (qos, answer) in [
        (QoS::AtMostOnce, None),
        (QoS::AtLeastOnce, Some(vec![0x40, 2, 0, 9])),
        (QoS::ExactlyOnce, Some(vec![0x50, 3, 0, 9, 0x87])),
    ] {
        let packet = PublishPacket::new("alice/others/messages", "secret", qos).with_packet_id(9);
        world.gate.write_all(&encode(Packet::Publish(packet))).await.unwrap();
        world.gate.flush().await.unwrap();
        assert!(arrived(&mut world.client).await.is_empty());
        assert_eq!(read(&mut world.gate).await, answer);
    }
    assert_eq!(world.gate.metrics.get(Metric::DeliveriesFiltered), 3);
}

/// What the client reads until the end, after it sent `bytes`; the engine sees nothing of them.
async fn last_words(world: World, bytes: &[u8]) -> Vec<u8> {
    let World { mut gate, mut client, .. } = world;
    let engine = async {
        let error = gate.read(&mut [0; 10]).await.unwrap_err();
        assert!(error.to_string().starts_with("Connection reset"), "{error}");
        drop(gate);
    };
    let client = async {
        client.write_all(bytes).await.unwrap();
        let mut words = Vec::new();
        client.read_to_end(&mut words).await.unwrap();
        words
    };
    tokio::join!(engine, client).1
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_why_it_has_to_go() {
    let not_mqtt = [0x30, 0xff, 0xff, 0xff, 0xff];
    let too_big = [0x30, 0xff, 0x7f];
    for (bytes, refusal) in [(&not_mqtt[..], Refusal::Malformed), (&too_big, Refusal::PacketSize)] {
        let metrics = |world: &World| Arc::clone(&world.metrics);
        let words = disconnect(refusal.code(), refusal.rule());
        assert_eq!(last_words(greeted().await, bytes).await, words);
        let old = connected(4, 60).await;
        let counted = metrics(&old);
        assert_eq!(last_words(old, bytes).await, Vec::<u8>::new());
        assert_eq!(counted.clients_refused(refusal.label()), 1);
        // Before its CONNACK a client waits for one.
        let words = [&[0, refusal.code()][..], &words[3..]].concat();
        let connack = last_words(connected(5, 60).await, bytes).await;
        assert_eq!((connack[0], &connack[2..4]), (0x20, &words[..2]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_listen_is_not_told_for_long() {
    let mut world = connected(5, 60).await;
    world.client.write_all(&[0x30, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    timeout(Duration::from_secs(3), world.gate.read(&mut [0; 10])).await.unwrap().unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_topic_over_the_limit_is_refused_in_its_turn() {
    let mut world = connected(5, 60).await;
    let (ack, word) = Ack::new();
    world.link.hold(1, word);
    world.gate.write_all(&puback(1)).await.unwrap();
    let long = Frame::new(0x32, &[&[0, 9][..], b"a/b/c/d/e", &[0, 2, 0]].concat());
    world.client.write_all(&[long.bytes(), &publish(3, b"next")].concat()).await.unwrap();
    assert_eq!(read(&mut world.gate).await, None, "two are held");
    ack.release(AckWord::Done);
    assert_eq!(read(&mut world.gate).await, Some(publish(3, b"next")));
    let refused = Frame::new(0x40, &[0, 2, 0x90]).with_reason_string(Refusal::TopicLimit.rule());
    assert_eq!(arrived(&mut world.client).await, [&puback(1)[..], refused.bytes()].concat());
    assert_eq!(world.metrics.get(Metric::BrokerTopicsRefused), 1);
}

#[tokio::test(start_paused = true)]
async fn without_keep_alive_the_engine_hears_of_a_silent_client() {
    let mut world = connected(4, 0).await;
    for _ in 0..3 {
        let mut beat = [0; 10];
        let size = timeout(Duration::from_secs(299), world.gate.read(&mut beat)).await.unwrap().unwrap();
        assert_eq!(&beat[..size], PINGREQ);
        world.gate.write_all(&[0xd0, 0]).await.unwrap();
        assert!(arrived(&mut world.client).await.is_empty(), "the client did not ask");
    }
    world.client.write_all(PINGREQ).await.unwrap();
    assert_eq!(read(&mut world.gate).await.as_deref(), Some(PINGREQ));
    world.gate.write_all(&[0xd0, 0]).await.unwrap();
    assert_eq!(arrived(&mut world.client).await, [0xd0, 0]);
}

#[tokio::test(start_paused = true)]
async fn with_a_keep_alive_the_client_has_to_speak_for_itself() {
    let mut world = connected(4, 10).await;
    timeout(Duration::from_secs(1_000), world.gate.read(&mut [0; 10])).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_publish_waits_here_is_not_silent() {
    let mut world = connected(4, 10).await;
    let mut acks = Vec::new();
    for id in 1..=2 {
        let (ack, word) = Ack::new();
        world.link.hold(id, word);
        acks.push(ack);
        world.gate.write_all(&puback(id)).await.unwrap();
    }
    world.client.write_all(&publish(3, b"")).await.unwrap();
    for _ in 0..5 {
        let mut beat = [0; 10];
        let size = timeout(Duration::from_secs(14), world.gate.read(&mut beat)).await.unwrap().unwrap();
        assert_eq!(&beat[..size], PINGREQ);
    }
    acks.remove(0).release(AckWord::Done);
    assert_eq!(read(&mut world.gate).await, Some(publish(3, b"")));
}

#[tokio::test(start_paused = true)]
async fn who_publishes_too_fast_is_read_more_slowly() {
    let mut world = connected(4, 60).await;
    world.link.set_publish_rate(NonZeroU32::new(10));
    let start = Instant::now();
    let engine = async {
        for id in 1..=40 {
            let mut buffer = [0; 100];
            let size = world.gate.read(&mut buffer).await.unwrap();
            assert_eq!(buffer[..size], publish(id, b""));
        }
        start.elapsed()
    };
    let client = async {
        for id in 1..=40 {
            world.client.write_all(&publish(id, b"")).await.unwrap();
        }
    };
    let (took, ()) = tokio::join!(engine, client);
    assert!((1_900..2_200).contains(&took.as_millis()), "20 at once, 20 in two seconds: {took:?}");
    assert_eq!(world.metrics.get(Metric::BrokerPublishSlowed), 20);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut_off() {
    let mut world = world(16);
    let start = Instant::now();
    world.gate.write_all(&publish(1, &[0; 1000])).await.unwrap();
    // As long as it reads a little, it stays.
    for _ in 0..5 {
        assert!(timeout(Duration::from_secs(20), world.gate.flush()).await.is_err());
        world.client.read_exact(&mut [0; 16]).await.unwrap();
    }
    let error = world.gate.read(&mut [0; 10]).await.unwrap_err();
    assert!(error.to_string().contains("does not read"), "{error}");
    assert!((120..135).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(world.metrics.get(Metric::BrokerStalled), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a client sends in whatever pieces, the engine reads the same, and what waits stays within the limit.
    #[test]
    fn garbage_reads_the_same_under_every_split(
        garbage in prop::collection::vec(prop_oneof![Just(0x30), Just(0x10), Just(0), Just(2), Just(0x82), any::<u8>()], 0..300),
        piece in 1..60usize,
    ) {
        let seen = |pipe| {
            let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let World { mut gate, mut client, .. } = world(pipe);
                let engine = async {
                    let (mut bytes, mut buffer) = (Vec::new(), [0; 64]);
                    while let Ok(size @ 1..) = gate.read(&mut buffer).await {
                        bytes.extend_from_slice(&buffer[..size]);
                        assert!(gate.incoming.len() <= LIMITS.packet + READ_CHUNK);
                    }
                    drop(gate);
                    bytes
                };
                let client = async {
                    let _ = client.write_all(&garbage).await;
                    let _ = client.shutdown().await;
                    let _ = client.read_to_end(&mut Vec::new()).await;
                };
                tokio::join!(engine, client).0
            })
        };
        prop_assert_eq!(seen(1 << 20), seen(piece));
    }

    /// Whatever the pieces in which the engine writes and the socket takes: what may pass comes out whole, and the
    /// acknowledgements in their order.
    #[test]
    fn what_the_engine_writes_arrives_under_every_split(
        steps in prop::collection::vec((any::<bool>(), 1..60usize), 1..12),
        chunk in 1..40usize,
        pipe in 1..200usize,
    ) {
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut world = world(pipe);
            let (mut written, mut acks, mut passing, mut held) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for (id, (is_ack, size)) in (1..).zip(steps) {
                if is_ack {
                    let (ack, word) = Ack::new();
                    world.link.hold(id, word);
                    acks.push(ack);
                    held.extend(puback(id));
                    written.extend(puback(id));
                } else {
                    passing.extend(publish(id, &vec![0; size]));
                    written.extend(publish(id, &vec![0; size]));
                }
            }
            let engine = async {
                for piece in written.chunks(chunk) {
                    world.gate.write_all(piece).await.unwrap();
                    world.gate.flush().await.unwrap();
                }
                for ack in acks.into_iter().rev() {
                    ack.release(AckWord::Done);
                }
                world.gate.flush().await.unwrap();
            };
            let expected = [passing, held].concat();
            let client = async {
                let mut bytes = vec![0; expected.len()];
                world.client.read_exact(&mut bytes).await.unwrap();
                bytes
            };
            let ((), bytes) = tokio::join!(engine, client);
            assert_eq!(bytes, expected);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_nudge_is_a_ping_that_the_client_does_not_see() {
    const PINGRESP: [u8; 2] = [0xd0, 0];
    let mut world = connected(5, 60).await;
    assert_eq!(read(&mut world.gate).await, None);
    let nudged = Arc::clone(&world.link);
    let (ping, ()) = tokio::join!(read(&mut world.gate), async {
        tokio::task::yield_now().await;
        nudged.nudge();
    });
    assert_eq!(ping.as_deref(), Some(PINGREQ));
    assert_eq!(read(&mut world.gate).await, None);
    // The client's own ping is answered once.
    world.client.write_all(PINGREQ).await.unwrap();
    assert_eq!(read(&mut world.gate).await.as_deref(), Some(PINGREQ));
    for _ in 0..2 {
        world.gate.write_all(&PINGRESP).await.unwrap();
    }
    assert_eq!(arrived(&mut world.client).await, PINGRESP);
}

#[tokio::test(start_paused = true)]
async fn refusals_that_the_client_does_not_read_stop_the_reading_until_it_does() {
    const COUNT: usize = 5_000;
    let World { mut gate, client, .. } = connected(5, 0).await;
    gate.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap();
    let refused = PublishPacket::new("a/b/c/d/e", "", QoS::AtLeastOnce).with_packet_id(9);
    let flood = encode(Packet::Publish(refused)).repeat(COUNT);
    let answer = Frame::new(0x40, &[0, 9, 0x90]).with_reason_string(Refusal::TopicLimit.rule());
    let (mut inbound, mut outbound) = tokio::io::split(client);
    let mut writing = JoinSet::new();
    writing.spawn(async move {
        outbound.write_all(&flood).await.unwrap();
        outbound
    });
    assert_eq!(read(&mut gate).await, None);
    assert!(gate.out.len() < OUT_LIMIT + answer.bytes().len(), "{} bytes wait", gate.out.len());
    assert!(writing.try_join_next().is_none());
    let mut connack = [0; 5];
    inbound.read_exact(&mut connack).await.unwrap();
    let mut answers = vec![0; COUNT * answer.bytes().len()];
    tokio::select! {
        read = read(&mut gate) => panic!("{read:?}"),
        all = inbound.read_exact(&mut answers) => drop(all.unwrap()),
    }
    assert!(answers.chunks(answer.bytes().len()).all(|chunk| chunk == answer.bytes()));
    writing.join_next().await.unwrap().unwrap();
}
