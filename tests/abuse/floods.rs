//! Subscribers that stop halfway, and publishers that never do.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::harness::{Harness, QUEUED_MIB};
use super::packets::{HOME, Line, PUBLISH, publish};
use super::scenario;
use super::sockets::{SOCKETS, SocketKind};

const SUBSCRIBERS: usize = 20;
const PAYLOAD: usize = 16 * 1024;
/// What the subscribers may cost: their queues, as much again for what has left them while it was being written to disk,
/// and as much for messages on their way and the allocator. 220 to 250 MiB were measured where this allows 304.
const ROOM: u64 = (3 * SUBSCRIBERS * QUEUED_MIB + 64) as u64;
/// How long the broker lets a socket take nothing, and some time to notice.
const STALL: Duration = Duration::from_secs(45);

/// Publishes as fast as the broker acknowledges, 32 at a time, until `until`. Says how many.
async fn flood(harness: &Harness, until: Instant) -> usize {
    let mut line = Line::open(harness, SocketKind::Tcp, HOME, "flooder", 0).await.unwrap();
    let payload = vec![7; PAYLOAD];
    let mut count = 0;
    while Instant::now() < until {
        let burst: Vec<u8> = (1..=32).flat_map(|id| publish("flood", Some(id), &payload)).collect();
        line.say(&burst).await.unwrap();
        for _ in 0..32 {
            line.next().await.unwrap();
        }
        count += 32;
    }
    count
}

/// Half of them at QoS 0, on each way.
fn deaf_qos(n: usize) -> u8 {
    u8::try_from(n / SOCKETS.len() % 2).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and wants the machine for itself: ./tests/run --abuse"]
async fn subscribers_that_never_read() {
    scenario("never reads", ROOM, async |harness| {
        let mut deaf = Vec::new();
        for n in 0..SUBSCRIBERS {
            let kind = SOCKETS[n % SOCKETS.len()];
            let mut line = Line::open(harness, kind, HOME, &format!("deaf-{n}"), 0).await.unwrap();
            line.subscribe("flood", deaf_qos(n)).await.unwrap();
            deaf.push(line);
        }
        let count = flood(harness, Instant::now() + STALL).await;
        // At QoS 1 there are at most `broker_inflight` messages on the way, for which the system has room.
        let stalled = (0..SUBSCRIBERS).filter(|&n| deaf_qos(n) == 0).count() as u64;
        let cut = harness.metric_until("bridge_broker_stalled_total", STALL, |cut| cut >= stalled).await;
        drop(deaf);
        format!("{SUBSCRIBERS} subscribers, {count} messages of {PAYLOAD} bytes; {cut} cut off")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and wants the machine for itself: ./tests/run --abuse"]
async fn subscribers_that_never_acknowledge() {
    scenario("never acknowledges", ROOM, async |harness| {
        let mut readers = JoinSet::new();
        for n in 0..SUBSCRIBERS {
            let kind = SOCKETS[n % SOCKETS.len()];
            let mut line = Line::open(harness, kind, HOME, &format!("mute-{n}"), 0).await.unwrap();
            line.subscribe("flood", 1).await.unwrap();
            readers.spawn(async move {
                let mut seen = 0;
                while let Ok(Ok((PUBLISH, _))) = timeout(Duration::from_secs(3), line.next()).await {
                    seen += 1;
                }
                (line, seen)
            });
        }
        // Once all queues are full, and what the allocator keeps has settled, it must not matter how long this goes on.
        let before = harness.memory();
        let short = flood(harness, Instant::now() + Duration::from_secs(40)).await;
        let then = harness.peak_memory() - before;
        let long = flood(harness, Instant::now() + Duration::from_secs(40)).await;
        let later = harness.peak_memory() - before;
        assert!(later <= then * 5 / 4, "{short} messages took {then} MiB, {long} more took {later}");
        let count = short + long;
        let seen: Vec<usize> = readers.join_all().await.into_iter().map(|(_line, seen)| seen).collect();
        assert!(seen.iter().all(|&seen| (1..=64).contains(&seen)), "more than `broker_inflight` were sent: {seen:?}");
        format!("{SUBSCRIBERS} subscribers, {count} messages of {PAYLOAD} bytes")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and wants the machine for itself: ./tests/run --abuse"]
async fn five_thousand_that_connect_flood_and_hang_up() {
    const CYCLES: usize = 5_000;
    const AT_A_TIME: usize = 50;
    scenario("connect, flood, hang up", 128, async |harness| {
        let cycles = async |worker: usize| {
            let mut flooded = 0;
            for n in (worker..CYCLES).step_by(AT_A_TIME) {
                let kind = if n % 10 == 0 { SOCKETS[n / 10 % SOCKETS.len()] } else { SocketKind::Tcp };
                let from = [127, 0, 1, u8::try_from(n % 200).unwrap() + 1].into();
                // The same client id comes again and again, so that connections also displace each other.
                let client = format!("hooligan-{}", n % (2 * AT_A_TIME));
                let Ok(mut line) = Line::open(harness, kind, from, &client, 0).await else {
                    continue;
                };
                let topic = format!("hooligan{n}/self/note");
                let burst: Vec<u8> = (1..=20).flat_map(|id| publish(&topic, Some(id), &[7; 1000])).collect();
                flooded += usize::from(line.say(&burst).await.is_ok());
            }
            flooded
        };
        let flooded: usize = futures_util::future::join_all((0..AT_A_TIME).map(cycles)).await.into_iter().sum();
        // Some are displaced by the next of their name before they are done.
        assert!(flooded >= CYCLES * 9 / 10, "only {flooded} came to flood");
        format!("{CYCLES} cycles of 20 messages, {flooded} of them to the end")
    })
    .await;
}
