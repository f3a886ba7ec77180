//! Connections that do nothing.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::harness::{CONNECT_SECONDS, Harness};
use super::packets::{HOME, Line};
use super::scenario;
use super::sockets::{SOCKETS, SocketKind};

const CLIENTS: usize = 10_000;

/// What a client that stops halfway has said by then.
fn begun(kind: SocketKind, n: usize) -> &'static [u8] {
    match (kind, n % 2) {
        (_, 0) => b"",
        (SocketKind::Tcp, _) => &[0x10, 0x40, 0, 4, b'M'],
        (SocketKind::Tls | SocketKind::Wss, _) => &[22, 3, 1, 2, 0, 1],
        (SocketKind::Ws, _) => b"GET /mqtt HTTP/1.1\r\nHost: ",
    }
}

async fn stop_halfway(harness: &Harness, kind: SocketKind, n: usize) -> TcpStream {
    let mut stream = TcpStream::connect(harness.address(kind)).await.unwrap();
    stream.write_all(begun(kind, n)).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and wants the machine for itself: ./tests/run --abuse"]
async fn handshakes_that_stop_halfway() {
    const EACH: usize = 500;
    scenario("idle handshakes", 64, async |harness| {
        let mut slowest = Duration::ZERO;
        let mut idle = Vec::new();
        // Twice, so that the second crowd comes while the first is being cut off.
        for round in 0..2 {
            for kind in SOCKETS {
                for n in 0..EACH {
                    idle.push(stop_halfway(harness, kind, n).await);
                }
            }
            for n in 0..40 {
                let start = Instant::now();
                let client = format!("comer-{round}-{n}");
                Line::open(harness, SOCKETS[n % SOCKETS.len()], HOME, &client, 10).await.expect("the good get in");
                slowest = slowest.max(start.elapsed());
            }
            let all = (idle.len()) as u64;
            let patience = Duration::from_secs(4 * CONNECT_SECONDS);
            harness.metric_until("bridge_broker_connect_timeouts_total", patience, |late| late == all).await;
        }
        assert!(slowest < Duration::from_secs(CONNECT_SECONDS), "nobody waited for an idler: {slowest:?}");
        format!("{} handshakes; the slowest good one took {} ms", idle.len(), slowest.as_millis())
    })
    .await;
}

/// Ten thousand come, and leave again. Says how much memory was in use while they were there.
async fn crowd(harness: &Harness) -> u64 {
    let mut idle = Vec::new();
    for n in 0..CLIENTS {
        // One in ten over each of the others: the handshakes are what takes the time of this test.
        let kind = SOCKETS[if n % 10 < 3 { n % 10 + 1 } else { 0 }];
        let from = [127, 0, 2, u8::try_from(n % 100).unwrap() + 1].into();
        idle.push(Line::open(harness, kind, from, &format!("idler-{n}"), 0).await.unwrap());
    }
    let open = harness.metric("bridge_broker_connections").await;
    assert!(open >= CLIENTS as u64, "{open} are open");
    let memory = harness.memory();
    drop(idle);
    harness.metric_until("bridge_broker_connections", Duration::from_secs(30), |open| open < 100).await;
    memory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and wants the machine for itself: ./tests/run --abuse"]
async fn ten_thousand_that_say_nothing() {
    scenario("10,000 idle clients", 512, async |harness| {
        let before = harness.memory();
        let first = crowd(harness).await;
        // The allocator keeps what the crowd needed. It must be enough for the next one.
        let second = crowd(harness).await;
        assert!(second - before <= (first - before) * 5 / 4, "it grows: {before}, {first}, {second} MiB");
        let each = (first - before) * 1024 / CLIENTS as u64;
        format!("twice; {each} KiB each")
    })
    .await;
}
