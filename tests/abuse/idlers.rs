//! Connections that do nothing.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::house::{CONNECT_SECONDS, House};
use super::packets::{HOME, Line};
use super::scenario;
use super::ways::{WAYS, Way};

const CLIENTS: usize = 10_000;

/// What a client that stops halfway has said by then.
fn begun(way: Way, n: usize) -> &'static [u8] {
    match (way, n % 2) {
        (_, 0) => b"",
        (Way::Tcp, _) => &[0x10, 0x40, 0, 4, b'M'],
        (Way::Tls | Way::Wss, _) => &[22, 3, 1, 2, 0, 1],
        (Way::Ws, _) => b"GET /mqtt HTTP/1.1\r\nHost: ",
    }
}

async fn stop_halfway(house: &House, way: Way, n: usize) -> TcpStream {
    let mut stream = TcpStream::connect(house.address(way)).await.unwrap();
    stream.write_all(begun(way, n)).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and wants the machine for itself: ./tests/run --abuse"]
async fn handshakes_that_stop_halfway() {
    const EACH: usize = 500;
    scenario("idle handshakes", 64, async |house| {
        let mut slowest = Duration::ZERO;
        let mut idle = Vec::new();
        // Twice, so that the second crowd comes while the first is being cut off.
        for round in 0..2 {
            for way in WAYS {
                for n in 0..EACH {
                    idle.push(stop_halfway(house, way, n).await);
                }
            }
            for n in 0..40 {
                let start = Instant::now();
                let client = format!("comer-{round}-{n}");
                Line::open(house, WAYS[n % WAYS.len()], HOME, &client, 10).await.expect("the good get in");
                slowest = slowest.max(start.elapsed());
            }
            let all = (idle.len()) as u64;
            let patience = Duration::from_secs(4 * CONNECT_SECONDS);
            house.metric_until("bridge_broker_connect_timeouts_total", patience, |late| late == all).await;
        }
        assert!(slowest < Duration::from_secs(CONNECT_SECONDS), "nobody waited for an idler: {slowest:?}");
        format!("{} handshakes; the slowest good one took {} ms", idle.len(), slowest.as_millis())
    })
    .await;
}

/// Ten thousand come, and leave again. Says how much memory was in use while they were there.
async fn crowd(house: &House) -> u64 {
    let mut idle = Vec::new();
    for n in 0..CLIENTS {
        // One in ten over each of the others: the handshakes are what takes the time of this test.
        let way = WAYS[if n % 10 < 3 { n % 10 + 1 } else { 0 }];
        let from = [127, 0, 2, u8::try_from(n % 100).unwrap() + 1].into();
        idle.push(Line::open(house, way, from, &format!("idler-{n}"), 0).await.unwrap());
    }
    let open = house.metric("bridge_broker_connections").await;
    assert!(open >= CLIENTS as u64, "{open} are open");
    let memory = house.memory();
    drop(idle);
    house.metric_until("bridge_broker_connections", Duration::from_secs(30), |open| open < 100).await;
    memory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and wants the machine for itself: ./tests/run --abuse"]
async fn ten_thousand_that_say_nothing() {
    scenario("10,000 idle clients", 512, async |house| {
        let before = house.memory();
        let first = crowd(house).await;
        // The allocator keeps what the crowd needed. It must be enough for the next one.
        let second = crowd(house).await;
        assert!(second - before <= (first - before) * 5 / 4, "it grows: {before}, {first}, {second} MiB");
        let each = (first - before) * 1024 / CLIENTS as u64;
        format!("twice; {each} KiB each")
    })
    .await;
}
