//! The bridge's part, and its book-keeping: it hands messages over, sends again what is to be sent again, keeps each
//! recipient's order while it waits, and at the end looks at the devices.

use crate::harness::{Harness, device, message, sids};
use fcm_mqtt_bridge::chat::delivery::Fate;
use fcm_mqtt_bridge::chat::id::Sid;
use fcm_mqtt_bridge::chat::refusal::{Arrival, Decision, RetryClock, RetryHistory, Scope};
use fcm_mqtt_bridge::sim::SimHandle;
use fcm_mqtt_bridge::sim::v1::V1Handle;
use fcm_mqtt_bridge::transport::{Link, Report, Send};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// Looks for what is due at least as often as this.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Waits begin at zero here.
const CLOCK: RetryClock = RetryClock { now_ms: 0, deadline_ms: u64::MAX, longest: Duration::MAX, permille: 0 };

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Accepted,
    /// For good.
    Refused(Decision),
    /// With the transport; written to a connection so often.
    Lost(u32),
}

/// A message that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    Fresh,
    /// It waits for another try.
    Due(Instant),
    /// The transport has it.
    Out,
}

pub(crate) struct Bridge {
    /// By recipient, oldest first.
    queues: BTreeMap<i64, BTreeMap<Sid, Stand>>,
    recipients: HashMap<Sid, i64>,
    tried: HashMap<Sid, RetryHistory>,
    pub(crate) ends: HashMap<Sid, End>,
    /// A report said that the device may have had it more than once, or all the same.
    doubted: HashSet<Sid>,
    /// Most messages that are handed over, for now.
    pub(crate) released: usize,
    /// Whom to begin with when looking for the next.
    turn: i64,
    /// What comes back from now on has ended.
    stopping: bool,
}

impl Bridge {
    /// So many messages, in turn to so many devices.
    pub(crate) fn new(messages: usize, devices: usize) -> Self {
        let recipients: HashMap<Sid, i64> =
            sids(messages).into_iter().zip((0..i64::try_from(devices).unwrap()).cycle()).collect();
        let mut queues: BTreeMap<i64, BTreeMap<Sid, Stand>> = BTreeMap::new();
        for (sid, recipient) in &recipients {
            queues.entry(*recipient).or_default().insert(*sid, Stand::Fresh);
        }
        let (tried, ends, doubted) = (HashMap::new(), HashMap::new(), HashSet::new());
        Self { queues, recipients, tried, ends, doubted, released: messages, turn: 0, stopping: false }
    }

    /// Exchanges until `enough` messages have ended. Calls `meddle` with how many have, at each of them.
    pub(crate) async fn exchange(
        &mut self,
        harness: &mut Harness,
        enough: usize,
        mut meddle: impl FnMut(usize, &V1Handle),
    ) {
        while self.ends.len() < enough {
            let (before, next) = (self.ends.len(), self.next(*harness.port.link.borrow()));
            tokio::select! {
                permit = harness.port.sends.reserve(), if next.is_some() => {
                    let (sid, recipient) = next.unwrap();
                    permit.unwrap().send(self.hand_over(sid, recipient));
                }
                report = harness.port.reports.recv() => self.take(report.unwrap()),
                () = tokio::time::sleep(LOOK_AGAIN), if next.is_none() => {}
            }
            if self.ends.len() > before {
                meddle(self.ends.len(), &harness.v1);
            }
        }
    }

    /// All of them.
    pub(crate) async fn exchange_all(&mut self, harness: &mut Harness, meddle: impl FnMut(usize, &V1Handle)) {
        self.exchange(harness, self.recipients.len(), meddle).await;
    }

    /// Goes on for so long.
    pub(crate) async fn exchange_for(&mut self, harness: &mut Harness, seconds: u64) {
        let all = self.exchange_all(harness, |_, _| {});
        let _ = tokio::time::timeout(Duration::from_secs(seconds), all).await;
    }

    /// Stops the transport in the midst of it, and hears what it says at the end.
    pub(crate) async fn stop(&mut self, harness: &mut Harness) {
        harness.stop_transport.cancel();
        self.stopping = true;
        while let Some(report) = crate::harness::soon(harness.port.reports.recv()).await {
            self.take(report);
        }
        let out = self.queues.values().flat_map(BTreeMap::values).filter(|stand| **stand == Stand::Out).count();
        assert_eq!(out, 0, "given to the transport, and never heard of again");
    }

    /// A retry that is due and the oldest of its recipient, or what was never tried of one who waits for none. Of each
    /// recipient the transport has one at a time; of all together none while it is down, and one while it is probing.
    fn next(&mut self, link: Link) -> Option<(Sid, i64)> {
        let (now, released) = (Instant::now(), self.tried.len() < self.released);
        let is_out = |queue: &BTreeMap<Sid, Stand>| queue.values().any(|stand| *stand == Stand::Out);
        match link {
            Link::Up => {}
            Link::Probing(_) if !self.queues.values().any(is_out) => {}
            Link::Probing(_) | Link::Down(_) | Link::Draining => return None,
        }
        let first = |queue: &BTreeMap<Sid, Stand>| match queue.first_key_value()? {
            _ if is_out(queue) => None,
            (sid, Stand::Due(at)) if *at <= now => Some(*sid),
            (sid, Stand::Fresh) if released => Some(*sid),
            _ => None,
        };
        let behind = self.queues.range(self.turn..).chain(self.queues.range(..self.turn));
        let found = behind.filter_map(|(recipient, queue)| Some((first(queue)?, *recipient))).next();
        self.turn = found.map_or(self.turn, |(_, recipient)| recipient + 1);
        found
    }

    fn hand_over(&mut self, sid: Sid, recipient: i64) -> Send {
        self.tried.entry(sid).or_default();
        self.queues.get_mut(&recipient).unwrap().insert(sid, Stand::Out);
        message(sid, &device(recipient), recipient)
    }

    fn take(&mut self, report: Report) {
        match report {
            Report::Back { sid, fate: Fate::Accepted { provider_id, .. }, copies, .. } => {
                assert!(provider_id.is_none_or(|name| name.starts_with("projects/demo-project/messages/")));
                self.doubt(sid, copies > 1);
                self.end(sid, End::Accepted);
            }
            Report::Back { sid, fate: Fate::Refused(refusal), copies, .. } => {
                self.doubt(sid, copies > 1 || refusal.arrival == Arrival::Maybe);
                let tried = self.tried.entry(sid).or_default();
                let again = match refusal.decision {
                    Decision::Retry { scope: Scope::Service, .. } => Some((0, *tried)),
                    Decision::Retry { wait, until, .. } => tried.next_try(wait, until, CLOCK),
                    Decision::Fail { .. } => None,
                };
                match again {
                    Some((due_ms, more)) => {
                        *tried = more;
                        self.later(sid, Duration::from_millis(due_ms));
                    }
                    // One that is spent is given up with the token kept.
                    None if matches!(refusal.decision, Decision::Retry { .. }) => {
                        self.end(sid, End::Refused(Decision::FAIL));
                    }
                    None => self.end(sid, End::Refused(refusal.decision)),
                }
            }
            Report::Back { sid, fate: Fate::Deferred { wait, .. }, .. } => self.later(sid, wait),
            Report::Back { sid, fate: Fate::Lost, copies: 0, .. } if !self.stopping => self.later(sid, Duration::ZERO),
            Report::Back { sid, fate: Fate::Lost, copies, .. } => {
                self.doubt(sid, copies > 0);
                self.end(sid, End::Lost(copies));
            }
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
        let before =
            self.queues.get_mut(&self.recipients[&sid]).unwrap().insert(sid, Stand::Due(Instant::now() + wait));
        assert_eq!(before, Some(Stand::Out), "a report on {sid}, which the transport did not have");
    }

    fn end(&mut self, sid: Sid, end: End) {
        let queue = self.queues.get_mut(&self.recipients[&sid]).unwrap();
        assert_eq!(queue.remove(&sid), Some(Stand::Out), "a report on {sid}, which the transport did not have");
        assert_eq!(self.ends.insert(sid, end), None, "{sid} ended twice");
    }

    pub(crate) fn count(&self, wanted: End) -> usize {
        self.ends.values().filter(|end| **end == wanted).count()
    }

    /// What was reported as accepted is at its device, what was reported as certainly not is not, nothing is there twice
    /// that was not marked, and what is there is in order.
    pub(crate) fn check(&self, sim: &SimHandle) {
        let mut seen: HashMap<Sid, usize> = HashMap::new();
        for recipient in self.queues.keys() {
            let mut last = None;
            for record in sim.received(&device(*recipient)) {
                let sid = Sid::parse(record.data["mid"].as_str().unwrap()).unwrap();
                assert_eq!(self.recipients[&sid], *recipient, "{sid} came to another device");
                let copies = seen.entry(sid).or_default();
                *copies += 1;
                if *copies == 1 {
                    assert!(last < Some(sid), "{sid} was overtaken by {last:?}");
                    last = Some(sid);
                } else {
                    assert!(self.doubted.contains(&sid), "{sid} is there {copies} times and is not marked");
                }
            }
        }
        for (sid, end) in &self.ends {
            let there = seen.contains_key(sid);
            assert!(there || *end != End::Accepted, "{sid} was accepted and is not there");
            let certain = matches!(end, End::Refused(_) | End::Lost(0)) && !self.doubted.contains(sid);
            assert!(!(there && certain), "{sid} is there, but {end:?} without a doubt");
        }
    }

    /// How many messages may be at their devices more than once, as far as the bridge knows.
    pub(crate) fn doubted(&self) -> usize {
        self.doubted.len()
    }
}
