use std::time::Duration;

use mqtt5::QoS;
use mqtt5::packet::Packet;
use mqtt5::packet::puback::PubAckPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::transport::packet_io::encode_packet_to_buffer;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::*;
use crate::broker::confirm::{Keeping, Ledger};
use crate::broker::parked::ParkedLimits;
use crate::mqtt::{Ack, AckWord};

const LIMITS: GateLimits = GateLimits { packet: 10_000, held: 2 };

struct World {
    /// The engine's side.
    gate: Gate<DuplexStream>,
    client: DuplexStream,
    link: Arc<Link>,
}

fn world(pipe: usize) -> World {
    let (client, stream) = duplex(pipe);
    let link = Link::new(Arc::new(Ledger::new(Keeping {
        durable: false,
        parked: ParkedLimits { publications: 1, topics: 1 },
        mark_copy: None,
    })));
    let peer = SocketAddr::from(([127, 0, 0, 1], 1));
    World { gate: Gate::new(stream, peer, Arc::clone(&link), Arc::default(), LIMITS), client, link }
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
async fn an_end_without_connect_is_told_apart() {
    let connect = [&[0x10, 12, 0, 4], &b"MQTT"[..], &[4, 2, 0, 0, 0, 0]].concat();
    let World { mut gate, mut client, .. } = world(4096);
    client.write_all(&connect).await.unwrap();
    drop(client);
    assert_eq!(read(&mut gate).await, Some(connect));
    assert_eq!(read(&mut gate).await, Some(Vec::new()));

    let World { mut gate, client, .. } = world(4096);
    drop(client);
    assert_eq!(gate.read(&mut [0; 10]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
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

/// A CONNECT of MQTT 5 that went through, and its CONNACK.
async fn connected(world: &mut World) {
    world.client.write_all(&CONNECT).await.unwrap();
    assert_eq!(read(&mut world.gate).await.as_deref(), Some(&CONNECT[..]));
    world.gate.write_all(&CONNACK).await.unwrap();
    world.gate.flush().await.unwrap();
    assert_eq!(arrived(&mut world.client).await, CONNACK);
}

const CONNECT: [u8; 15] = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0];
const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];

#[tokio::test(start_paused = true)]
async fn a_client_is_told_why_it_is_sent_away() {
    for (end, reason) in [(End::Revoked, 0x98), (End::Expired, 0xa0)] {
        let mut world = world(4096);
        connected(&mut world).await;
        let link = Arc::clone(&world.link);
        let engine = async { world.gate.read(&mut [0; 10]).await.unwrap_err().kind() };
        let (kind, ()) = tokio::join!(engine, async { link.end(end) });
        assert_eq!(kind, io::ErrorKind::ConnectionReset);
        assert!(world.gate.write_all(&puback(1)).await.is_err());
        assert_eq!(arrived(&mut world.client).await, [0xe0, 1, reason]);
    }
}

#[tokio::test(start_paused = true)]
async fn before_its_connack_a_client_is_told_nothing() {
    let mut world = world(4096);
    world.client.write_all(&CONNECT).await.unwrap();
    read(&mut world.gate).await;
    world.link.end(End::Revoked);
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

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_mqtt_ends() {
    let mut world = world(4096);
    world.client.write_all(&[0x30, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    let error = world.gate.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the pieces in which the engine writes and the socket takes: what may pass comes out whole, and the
    /// acknowledgements in their order.
    #[test]
    fn what_the_engine_writes_arrives_under_every_split(
        steps in prop::collection::vec((any::<bool>(), 1..60usize), 1..12),
        chunk in 1..40usize,
        pipe in 1..200usize,
    ) {
        let runtime = Builder::new_current_thread().build().unwrap();
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
    let mut world = world(4096);
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
