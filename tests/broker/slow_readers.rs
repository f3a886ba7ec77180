//! Readers that read slowly or not at all: the others do not notice, a publisher is held up for a second at most, and what is
//! lost is said. Figures are printed; times are asserted only where a wait without end would show.

use std::time::Duration;

use fcm_mqtt_bridge::broker::BrokerLimits;
use fcm_mqtt_bridge::mqtt::Outcome;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::harness::{Harness, outcome};
use super::peer::{Connect, PUBACK, Peer, Seen, V5};

const MESSAGES: usize = 1_000;
/// Of one payload. All of them are more than the buffers of a connection hold.
const BYTES: usize = 8 * 1024;
/// Readers that read nothing at the same time.
const STUCK: usize = 5;
const QUOTA_EXCEEDED: u8 = 0x97;
/// A publisher is held for one second at most; a busy machine adds to it.
const LONGEST_HOLD: Duration = Duration::from_secs(4);

/// A broker whose queues are full after a part of the messages.
async fn small_queues() -> Harness {
    let limits = BrokerLimits { queued_messages: 300, publish_rate: 1_000_000, ..BrokerLimits::default() };
    Harness::with(limits).await
}

/// A client with a small receive buffer that has subscribed, and reads no more.
async fn stuck(harness: &Harness, client: &str, clean: bool, qos: u8) -> Peer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let mut peer = Peer::over(socket.connect(harness.address).await.unwrap(), V5);
    let expiry = if clean { 0 } else { 3600 };
    peer.say_connect(&Connect { client, clean, expiry, ..Connect::default() }).await;
    assert_eq!(peer.next().await, Seen::ConnAck { resumed: false, code: 0 });
    peer.subscribe("load/#", qos).await;
    peer
}

fn payload(n: usize) -> String {
    format!("{n:0>BYTES$}")
}

fn number(payload: &str) -> usize {
    payload.parse().unwrap()
}

/// When each message came to a reader that takes part; it reads until it has all of them, in order.
fn read_all(mut peer: Peer) -> JoinSet<(Peer, Vec<Instant>)> {
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        let mut times = Vec::new();
        for n in 0..MESSAGES {
            let (payload, id, dup) = peer.message().await;
            assert_eq!((number(&payload), dup), (n, false));
            times.push(Instant::now());
            peer.ack(PUBACK, id).await;
        }
        (peer, times)
    });
    reading
}

async fn joined<T: 'static>(mut tasks: JoinSet<T>) -> T {
    tasks.join_next().await.expect("a task").unwrap()
}

/// The p-th hundredth, and the most.
fn figures(mut times: Vec<Duration>) -> (Duration, Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1])
}

/// Publishes all messages, each after the PUBACK of the one before, while somebody reads them as he should. Yields how long
/// that reader and the publisher waited: the median, the 99th hundredth, and the most.
async fn load(harness: &Harness, what: &str) -> [(Duration, Duration, Duration); 2] {
    let mut fine = Peer::new(harness, "fine").await;
    fine.subscribe("load/#", 1).await;
    let reading = read_all(fine);
    let mut publisher = Peer::new(harness, "publisher").await;
    let (mut said, mut waits) = (Vec::new(), Vec::new());
    for n in 0..MESSAGES {
        let start = Instant::now();
        publisher.publish("load/x", 1, &payload(n)).await;
        assert!(matches!(publisher.next().await, Seen::Ack(PUBACK, 1, code) if code < 0x80));
        said.push(start);
        waits.push(start.elapsed());
    }
    let (fine, came) = joined(reading).await;
    fine.disconnect().await;
    publisher.disconnect().await;
    let latencies = said.iter().zip(came).map(|(said, came)| came - *said).collect();
    let all @ [reader, publisher] = [figures(latencies), figures(waits)];
    println!("{what}: reader {reader:?}, publisher {publisher:?} (median, p99, most)");
    assert!(publisher.2 < LONGEST_HOLD, "{what}: the publisher waited for {:?}", publisher.2);
    assert!(reader.1 < LONGEST_HOLD, "{what}: the others wait for {:?}", reader.1);
    all
}

/// The last packet of a reader that is ended. What came before has no holes.
async fn last_word(peer: &mut Peer) -> Seen {
    let (mut last, mut next) = (Seen::Closed, 0);
    loop {
        match peer.next().await {
            Seen::Closed => return last,
            Seen::Publish { payload, id, .. } => {
                assert_eq!(number(&payload), next, "a hole");
                next += 1;
                last = Seen::Publish { topic: String::new(), payload: String::new(), id, dup: false, retain: false };
            }
            other => last = other,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clean_readers_that_stop_reading_are_told_and_ended_and_nobody_else_notices() {
    let harness = small_queues().await;
    load(&harness, "without them").await;
    let (mut readers, mut silent) = (Vec::new(), JoinSet::new());
    for n in 0..STUCK {
        readers.push(stuck(&harness, &format!("stuck{n}"), true, 1).await);
        let mut peer = Peer::new(&harness, &format!("silent{n}")).await;
        peer.subscribe("load/#", 1).await;
        // It reads, and acknowledges nothing.
        silent.spawn(async move { last_word(&mut peer).await });
    }
    load(&harness, "clean readers at QoS 1 that read or acknowledge nothing").await;
    for last in silent.join_all().await {
        assert_eq!(last, Seen::Disconnect(QUOTA_EXCEEDED));
    }
    for reader in &mut readers {
        // Where nothing is read the last word may have found no room.
        let last = last_word(reader).await;
        assert!(matches!(last, Seen::Disconnect(QUOTA_EXCEEDED) | Seen::Publish { .. }), "{last:?}");
    }
    harness.close().await;
}

#[tokio::test]
async fn a_group_whose_members_are_all_busy_holds_up_no_acknowledgement_of_others() {
    let harness = Harness::with(BrokerLimits { inflight: 1, ..BrokerLimits::default() }).await;
    let mut workers = Vec::new();
    for client in ["one", "two"] {
        let mut worker = Peer::new(&harness, client).await;
        worker.subscribe("$share/g/bal1/others/#", 1).await;
        workers.push(worker);
    }
    let mut outside = Peer::new(&harness, "outside").await;
    outside.subscribe("bal1/others/#", 1).await;
    // From the third topic on each of the workers has one, and no room for more.
    for n in 0..5 {
        let answer = harness.publish(&format!("bal1/others/t{n}"), "x").await;
        let (_, id, _) = outside.message().await;
        outside.ack(PUBACK, id).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed, "{n}");
        if n == 1 {
            for worker in &mut workers {
                worker.message().await;
            }
        }
    }
    for worker in &mut workers {
        worker.quiet().await;
    }
    harness.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_at_qos_0_that_stop_reading_hold_nobody_up() {
    let harness = small_queues().await;
    let mut readers = Vec::new();
    for n in 0..STUCK {
        readers.push(stuck(&harness, &format!("stuck{n}"), n % 2 == 0, 0).await);
    }
    let [_, (_, _, most)] = load(&harness, "readers at QoS 0 that read nothing").await;
    assert!(most < LONGEST_HOLD);
    harness.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_with_a_lasting_session_goes_on_where_it_stopped_reading() {
    let limits = BrokerLimits {
        publish_rate: 1_000_000,
        queued_messages: 10 * MESSAGES,
        queued_bytes: 10 * MESSAGES * BYTES,
        ..BrokerLimits::default()
    };
    let harness = Harness::with(limits).await;
    let reader = stuck(&harness, "stuck", false, 1).await;
    let mut cut = stuck(&harness, "cut", false, 1).await;
    load(&harness, "lasting readers that read nothing").await;

    // It reads again, over the same connection.
    let (mut reader, _) = joined(read_all(reader)).await;
    reader.quiet().await;
    // It has got some, and comes back for all.
    let (first, _, dup) = cut.message().await;
    assert_eq!((number(&first), dup), (0, false));
    drop(cut);
    let (mut back, resumed) = Peer::lasting(&harness, "cut").await;
    assert!(resumed);
    let mut fresh = false;
    for n in 0..MESSAGES {
        let (payload, id, dup) = back.message().await;
        assert_eq!(number(&payload), n);
        // Once one is new, all behind it are.
        assert!(!(fresh && dup), "{n} is marked and was never sent");
        assert!(n > 0 || dup, "the first one was read before");
        fresh = !dup;
        back.ack(PUBACK, id).await;
    }
    back.quiet().await;
    harness.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_reader_that_keeps_up_in_the_end_is_not_ended() {
    let harness = small_queues().await;
    let slow = stuck(&harness, "slow", true, 1).await;
    // It reads in its own time: the queue is full now and then, and the publisher is held until it is not.
    let reading = read_all(slow);
    load(&harness, "a clean reader with a small buffer that reads").await;
    let (mut slow, _) = joined(reading).await;
    slow.quiet().await;
    harness.close().await;
}
