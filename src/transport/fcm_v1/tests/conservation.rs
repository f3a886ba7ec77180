//! Bad days drawn from a seed: whatever FCM does, each message ends once, in its recipient's order, and a device sees a
//! second copy only of a message that is marked.

use super::harness::{Harness, config, message, sids, soon};
use super::peer::{CANCEL, Peer, REFUSED_STREAM};
use super::{FcmConfig, OnAmbiguous, Sid};
use crate::chat::delivery::Fate;
use crate::chat::refusal::{Arrival, Decision, RetryClock, RetryHistory, Scope};
use crate::transport::Report;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

const MESSAGES: usize = 240;
const RECIPIENTS: i64 = 12;
/// How often a retry that is due is looked at while the one before it is not settled.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Waits begin at zero here.
const CLOCK: RetryClock = RetryClock { now_ms: 0, deadline_ms: u64::MAX, longest: Duration::MAX, permille: 0 };

/// What the devices saw: each copy that FCM processed, in order.
type Devices = Arc<Mutex<Vec<String>>>;

/// One bad day.
async fn day(seed: u64, on_ambiguous: OnAmbiguous) {
    let quotas = super::Quotas { device_per_minute: 1_000, device_per_hour: 1_000_000, ..super::Quotas::default() };
    let mut harness = Harness::open(FcmConfig { connections: 3, streams: 20, quotas, on_ambiguous, ..config() });
    let devices = Devices::default();
    let (_, replacement) = mpsc::channel(1);
    let dialled = std::mem::replace(&mut harness.dialled, replacement);
    let mut fcm = JoinSet::new();
    fcm.spawn(serve(dialled, Arc::clone(&devices), seed));
    let mut bridge = Bridge::new(on_ambiguous);
    soon(bridge.exchange(&mut harness)).await;
    bridge.check(&devices.lock().unwrap(), seed);
    fcm.abort_all();
    let last = harness.close().await;
    assert!(last.iter().all(|report| matches!(report, Report::Connection { .. })), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn each_message_ends_once_and_only_a_marked_one_is_seen_twice() {
    for seed in 0..12 {
        day(seed, OnAmbiguous::Retry).await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_no_duplicate_is_wanted_what_nobody_answered_fails() {
    for seed in 100..112 {
        day(seed, OnAmbiguous::Report).await;
    }
}

/// The bridge's part: it sends again what is to be sent again, and keeps a recipient's order while it waits.
struct Bridge {
    on_ambiguous: OnAmbiguous,
    unanswered: usize,
    waiting: VecDeque<(Sid, i64)>,
    tried: HashMap<Sid, RetryHistory>,
    recipients: HashMap<Sid, i64>,
    /// Recipients of whom a message is with the transport: it gets one of each at a time.
    out: HashSet<i64>,
    /// What waits for another try, oldest first, by recipient.
    retries: HashMap<i64, BTreeMap<Sid, Instant>>,
    ended: HashMap<Sid, Refused>,
    doubted: HashSet<Sid>,
}

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    No,
    Yes,
}

impl Bridge {
    fn new(on_ambiguous: OnAmbiguous) -> Self {
        let waiting: VecDeque<(Sid, i64)> = sids(MESSAGES).into_iter().zip((0..RECIPIENTS).cycle()).collect();
        let recipients = waiting.iter().copied().collect();
        let (tried, retries) = (HashMap::new(), HashMap::new());
        let out = HashSet::new();
        Self {
            on_ambiguous,
            unanswered: 0,
            waiting,
            tried,
            recipients,
            out,
            retries,
            ended: HashMap::new(),
            doubted: HashSet::new(),
        }
    }

    async fn exchange(&mut self, harness: &mut Harness) {
        while self.ended.len() < MESSAGES {
            let next = self.next();
            let wake = self.retries.values().flat_map(BTreeMap::values).min().copied();
            let wake = wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                permit = harness.port.sends.reserve(), if next.is_some() => {
                    let (sid, recipient) = next.unwrap();
                    self.took(sid, recipient);
                    self.tried.entry(sid).or_default();
                    permit.unwrap().send(message(sid, recipient));
                }
                report = harness.port.reports.recv() => self.hear(report.unwrap()),
                () = tokio::time::sleep_until(wake.max(Instant::now() + LOOK_AGAIN)), if next.is_none() => {}
            }
        }
    }

    /// What may be handed over: a retry that is due and the oldest of its recipient, or the next that was never tried.
    fn next(&self) -> Option<(Sid, i64)> {
        let due = |(recipient, line): (&i64, &BTreeMap<Sid, Instant>)| {
            let (sid, at) = line.first_key_value()?;
            (*at <= Instant::now() && !self.out.contains(recipient)).then_some((*sid, *recipient))
        };
        let fresh = || {
            let free = |(_, of): &&(Sid, i64)| !self.retries.contains_key(of) && !self.out.contains(of);
            self.waiting.iter().find(free).copied()
        };
        self.retries.iter().find_map(due).or_else(fresh)
    }

    fn took(&mut self, sid: Sid, recipient: i64) {
        self.waiting.retain(|(waiting, _)| *waiting != sid);
        self.out.insert(recipient);
        // A retry stays the head of its line until its answer; it only is not due any more.
        if let Some(at) = self.retries.get_mut(&recipient).and_then(|line| line.get_mut(&sid)) {
            *at = Instant::now() + Duration::from_secs(100_000);
        }
    }

    fn hear(&mut self, report: Report) {
        match report {
            Report::Back { sid, fate: Fate::Accepted { .. }, copies, .. } => {
                self.doubt(sid, copies > 1);
                self.end(sid, Refused::No);
            }
            Report::Back { sid, fate: Fate::Refused(refusal), copies, .. } => {
                self.doubt(sid, copies > 1 || refusal.arrival == Arrival::Maybe);
                if refusal.code == "AMBIGUOUS" {
                    self.unanswered += 1;
                    let fails = refusal.decision == Decision::FAIL;
                    assert_eq!(fails, self.on_ambiguous == OnAmbiguous::Report, "{refusal:?}");
                }
                let again = match refusal.decision {
                    Decision::Retry { scope: Scope::Service, .. } => Some((0, self.tried[&sid])),
                    Decision::Retry { wait, until, .. } => self.tried[&sid].next_try(wait, until, CLOCK),
                    Decision::Fail { .. } => None,
                };
                match again {
                    Some((due_ms, tried)) => {
                        self.tried.insert(sid, tried);
                        self.later(sid, Duration::from_millis(due_ms));
                    }
                    None => self.end(sid, Refused::Yes),
                }
            }
            Report::Back { sid, fate: Fate::Deferred { wait, .. }, .. } => self.later(sid, wait),
            Report::Back { sid, fate: Fate::Lost, copies: 0, .. } => self.later(sid, LOOK_AGAIN),
            Report::Connection { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn doubt(&mut self, sid: Sid, doubt: bool) {
        if doubt {
            self.doubted.insert(sid);
        }
    }

    fn later(&mut self, sid: Sid, wait: Duration) {
        assert!(!self.ended.contains_key(&sid), "{sid} had ended");
        self.out.remove(&self.recipients[&sid]);
        self.retries.entry(self.recipients[&sid]).or_default().insert(sid, Instant::now() + wait);
    }

    fn end(&mut self, sid: Sid, refused: Refused) {
        assert_eq!(self.ended.insert(sid, refused), None, "{sid} ended twice");
        let recipient = self.recipients[&sid];
        self.out.remove(&recipient);
        if let Some(line) = self.retries.get_mut(&recipient) {
            line.remove(&sid);
            if line.is_empty() {
                self.retries.remove(&recipient);
            }
        }
    }

    fn check(&self, devices: &[String], seed: u64) {
        assert!(self.unanswered > 0, "seed {seed}: a day without darkness");
        let mut seen: HashMap<Sid, usize> = HashMap::new();
        let mut last: HashMap<i64, Sid> = HashMap::new();
        for mid in devices {
            let sid = Sid::parse(mid).unwrap();
            let copies = seen.entry(sid).or_default();
            *copies += 1;
            if *copies == 1 {
                let before = last.insert(self.recipients[&sid], sid);
                assert!(before < Some(sid), "seed {seed}: {sid} was overtaken by {before:?}");
            } else {
                assert!(self.doubted.contains(&sid), "seed {seed}: {sid} was seen twice and is not marked");
            }
        }
        for (sid, refused) in &self.ended {
            assert!(*refused == Refused::Yes || seen.contains_key(sid), "seed {seed}: {sid} was never seen");
        }
    }
}

async fn serve(mut dialled: mpsc::Receiver<DuplexStream>, devices: Devices, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut connections = JoinSet::new();
    while let Some(stream) = dialled.recv().await {
        if rng.random_bool(0.1) {
            continue;
        }
        let (devices, rng) = (Arc::clone(&devices), StdRng::seed_from_u64(rng.random()));
        connections.spawn(connection(stream, devices, rng));
    }
}

/// Works on the requests in any order, as FCM does.
async fn connection(stream: DuplexStream, devices: Devices, mut rng: StdRng) {
    let mut peer = Peer::accept(stream, rng.random_range(1..30)).await;
    let mut open: Vec<super::peer::Asked> = Vec::new();
    let end = rng.random_range(5..60);
    let (mut served, mut looked_at) = (0, 1);
    loop {
        let patience = Duration::from_millis(rng.random_range(1..400));
        match tokio::time::timeout(patience, peer.asked()).await {
            Ok(Some(asked)) => open.push(asked),
            Ok(None) => return,
            Err(_) if open.is_empty() => {}
            Err(_) => {
                let asked = open.swap_remove(rng.random_range(0..open.len()));
                served += 1;
                looked_at = asked.stream.max(looked_at);
                answer(&mut peer, &asked, &devices, &mut rng).await;
            }
        }
        if served == end {
            // Ends: says which streams it looked at, works on some of those, and goes.
            let newest = open.iter().map(|asked| asked.stream).max().unwrap_or(1);
            let last = if rng.random_bool(0.5) { newest } else { newest.saturating_sub(8) | 1 }.max(looked_at);
            peer.go_away(last, 0).await;
            open.retain(|asked| asked.stream <= last);
            for asked in &open {
                if rng.random_bool(0.7) {
                    answer(&mut peer, asked, &devices, &mut rng).await;
                }
            }
            return;
        }
    }
}

async fn answer(peer: &mut Peer, asked: &super::peer::Asked, devices: &Devices, rng: &mut StdRng) {
    let process = || devices.lock().unwrap().push(asked.mid());
    let stream = asked.stream;
    match rng.random_range(0..100) {
        0..70 => {
            process();
            peer.take(stream).await;
        }
        70..75 => peer.reset(stream, REFUSED_STREAM).await,
        75..79 => {
            process();
            peer.reset(stream, CANCEL).await;
        }
        79..82 => peer.reset(stream, CANCEL).await,
        82..85 => process(),
        85..87 => {}
        87..91 => {
            if rng.random_bool(0.5) {
                process();
            }
            peer.fault(stream, 503, Some("UNAVAILABLE"), &[]).await;
        }
        91..94 => peer.fault(stream, 429, Some("QUOTA_EXCEEDED"), &[("retry-after", "7")]).await,
        94..96 => peer.answer(stream, "401", &[], "<html>").await,
        96..98 => peer.fault(stream, 404, Some("UNREGISTERED"), &[]).await,
        _ => peer.answer(stream, "502", &[], "<html><title>Error 502</title>").await,
    }
}
