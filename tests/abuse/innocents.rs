//! Clients that do nothing wrong: pairs that publish and subscribe at QoS 1 and ping, over all four listeners.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::harness::Harness;
use super::packets::{HOME, Line, PINGREQ, PINGRESP, PUBACK, PUBLISH, open_publish, puback, publish};
use super::sockets::SOCKETS;

const PAIRS_PER_WAY: usize = 2;
/// How often each publishes.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);
/// How often each pings.
const PING_EVERY: Duration = Duration::from_millis(500);
const KEEP_ALIVE: u16 = 10;
/// How long the last messages may take to arrive.
const DRAIN: Duration = Duration::from_secs(10);

/// The group.
pub(crate) struct Innocents {
    publishers: JoinSet<Diary>,
    subscribers: JoinSet<Diary>,
    stop_publishing: CancellationToken,
    stop: CancellationToken,
}

/// How it went for one client.
#[derive(Debug, Default)]
struct Diary {
    pair: usize,
    /// The messages that were acknowledged, or received.
    messages: HashSet<u32>,
    cut_off: Option<io::Error>,
    worst_ping: Duration,
    pings: usize,
}

/// How it went for all.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cut_off: usize,
    pub(crate) sent: usize,
    pub(crate) lost: usize,
    pub(crate) pings: usize,
    pub(crate) worst_ping: Duration,
}

impl Innocents {
    pub(crate) async fn gather(harness: &Harness) -> Self {
        let (mut publishers, mut subscribers) = (JoinSet::new(), JoinSet::new());
        let (stop_publishing, stop) = (CancellationToken::new(), CancellationToken::new());
        let ways = SOCKETS.into_iter().flat_map(|kind| [kind; PAIRS_PER_WAY]);
        for (pair, kind) in ways.enumerate() {
            // Every other topic is one of the bridge, which has its own way to the acknowledgement.
            let topic = if pair % 2 == 0 { format!("innocent{pair}/self/note") } else { format!("innocent/{pair}") };
            let open = async |role: &str| {
                Line::open(harness, kind, HOME, &format!("innocent-{role}-{pair}"), KEEP_ALIVE).await.unwrap()
            };
            let mut subscriber = open("subscriber").await;
            subscriber.subscribe(&topic, 1).await.unwrap();
            subscribers.spawn(listen(subscriber, pair, stop.clone()));
            publishers.spawn(speak(open("publisher").await, pair, topic, stop_publishing.clone()));
        }
        Self { publishers, subscribers, stop_publishing, stop }
    }

    /// Ends the group and says how it went.
    pub(crate) async fn part(mut self) -> Tally {
        self.stop_publishing.cancel();
        let mut sent = Vec::new();
        while let Some(diary) = self.publishers.join_next().await {
            sent.push(diary.unwrap());
        }
        // Each subscriber stops by itself when nothing comes any more.
        self.stop.cancel();
        let mut received = Vec::new();
        while let Some(diary) = self.subscribers.join_next().await {
            received.push(diary.unwrap());
        }
        let mut tally = Tally::default();
        for diary in &sent {
            let heard = received.iter().find(|other| other.pair == diary.pair).unwrap();
            tally.sent += diary.messages.len();
            tally.lost += diary.messages.difference(&heard.messages).count();
        }
        for diary in sent.iter().chain(&received) {
            if let Some(error) = &diary.cut_off {
                println!("innocent {} was cut off: {error}", diary.pair);
                tally.cut_off += 1;
            }
            tally.pings += diary.pings;
            tally.worst_ping = tally.worst_ping.max(diary.worst_ping);
        }
        tally
    }
}

async fn speak(mut line: Line, pair: usize, topic: String, stop: CancellationToken) -> Diary {
    let mut diary = Diary { pair, ..Diary::default() };
    let mut rounds = interval(PUBLISH_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pinged = Instant::now();
    for n in 0_u32.. {
        if stop.run_until_cancelled(rounds.tick()).await.is_none() {
            break;
        }
        let round = async {
            let id = u16::try_from(n % 60_000).unwrap() + 1;
            line.say(&publish(&topic, Some(id), &n.to_be_bytes())).await?;
            line.expect(PUBACK).await?;
            diary.messages.insert(n);
            if pinged.elapsed() >= PING_EVERY {
                pinged = Instant::now();
                line.say(PINGREQ).await?;
                line.expect(PINGRESP).await?;
                diary.note_ping(pinged);
            }
            io::Result::Ok(())
        };
        if let Err(error) = round.await {
            diary.cut_off = Some(error);
            break;
        }
    }
    diary
}

async fn listen(mut line: Line, pair: usize, stop: CancellationToken) -> Diary {
    let mut diary = Diary { pair, ..Diary::default() };
    let mut pings = interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pinged = None;
    let lived = async {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = pings.tick(), if pinged.is_none() => {
                    pinged = Some(Instant::now());
                    line.say(PINGREQ).await?;
                }
                packet = line.next() => diary.take(&mut line, packet?, &mut pinged).await?,
            }
        }
        // Nothing is on the way any more once this ping, sent after the last PUBACK, is answered; unless the broker had
        // to queue, for which there is the time limit.
        let _ = timeout(DRAIN, async {
            loop {
                match timeout(PING_EVERY, line.next()).await {
                    Ok(packet) => diary.take(&mut line, packet?, &mut pinged).await?,
                    Err(_quiet) => return io::Result::Ok(()),
                }
            }
        })
        .await;
        io::Result::Ok(())
    };
    let ended = lived.await;
    diary.cut_off = ended.err();
    diary
}

impl Diary {
    async fn take(
        &mut self,
        line: &mut Line,
        packet: (u8, bytes::Bytes),
        pinged: &mut Option<Instant>,
    ) -> io::Result<()> {
        match packet {
            (PUBLISH, body) => {
                let (id, payload) = open_publish(body);
                line.say(&puback(id)).await?;
                self.messages.insert(u32::from_be_bytes(payload[..].try_into().unwrap()));
            }
            (PINGRESP, _) => {
                if let Some(since) = pinged.take() {
                    self.note_ping(since);
                }
            }
            (other, _) => return Err(io::Error::other(format!("packet type {other}"))),
        }
        Ok(())
    }

    fn note_ping(&mut self, since: Instant) {
        self.pings += 1;
        self.worst_ping = self.worst_ping.max(since.elapsed());
    }
}
