//! Random work with crashes in between, against a model in memory.
//!
//! What must hold: nothing that was answered is lost, statuses rise and end once, nothing overtakes an older message of
//! the same recipient or order key, no upstream message is published twice after it was confirmed, what may be a
//! repetition is marked, and no status is told twice without a mark.

use super::*;
use crate::chat::delivery::{Due, Life, State};
use crate::chat::status::Status;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

const HOUR: u64 = 3_600_000;

#[derive(Debug, Clone)]
enum Op {
    Accept {
        id: u8,
        recipient: i64,
        order: Option<u8>,
        receipt: bool,
        ttl: u64,
    },
    /// Some of the messages have to wait, which ones `park` says; none if it is 0.
    Take {
        limit: usize,
        park: u64,
    },
    Unpark(i64),
    /// What happens to the n-th delivery.
    Record {
        which: usize,
        what: What,
    },
    Receive {
        ccs_id: u8,
        acks: Option<Acks>,
    },
    Route,
    /// Reads some documents of a topic and confirms the first of them.
    Publish {
        topic: usize,
        read: usize,
        confirm: usize,
    },
    Ack {
        which: usize,
        up_to: bool,
    },
    Pass {
        ms: u64,
    },
    Sweep,
    Crash,
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Accepted,
    Receipt,
    Retry(u64),
    Replayed(u32),
    Refused,
    Deferred(u64),
    Lost(u32),
    Cancelled,
}

impl What {
    fn event(self, now: u64) -> Event {
        match self {
            Self::Accepted => accepted(),
            Self::Receipt => Event::Receipt,
            Self::Retry(delay) => retry(now + delay),
            Self::Replayed(times) => Event::Replayed { times },
            Self::Refused => refused(Decision::FAIL, "INVALID_JSON"),
            Self::Deferred(delay) => Event::Deferred { due_ms: now + delay },
            Self::Lost(copies) => Event::Lost { copies },
            Self::Cancelled => Event::Cancelled,
        }
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    let what = prop_oneof![
        4 => Just(What::Accepted),
        3 => Just(What::Receipt),
        3 => (1u64..5000).prop_map(What::Retry),
        2 => (1u64..5000).prop_map(What::Deferred),
        1 => (1u32..3).prop_map(What::Replayed),
        1 => Just(What::Refused),
        2 => (0u32..2).prop_map(What::Lost),
        1 => Just(What::Cancelled),
    ];
    let order = prop::option::weighted(0.3, 0u8..2);
    let ttl = prop_oneof![1 => Just(2000), 4 => Just(10 * HOUR)];
    let acks = prop_oneof![3 => Just(Some(Acks::OnPublish)), 2 => Just(Some(Acks::Explicit)), 1 => Just(None)];
    prop_oneof![
        6 => (0u8..20, 0i64..3, order, any::<bool>(), ttl)
            .prop_map(|(id, recipient, order, receipt, ttl)| Op::Accept { id, recipient, order, receipt, ttl }),
        4 => (1usize..4, prop_oneof![Just(0), any::<u64>()]).prop_map(|(limit, park)| Op::Take { limit, park }),
        2 => (0i64..3).prop_map(Op::Unpark),
        8 => (0usize..20, what).prop_map(|(which, what)| Op::Record { which, what }),
        4 => (0u8..12, acks).prop_map(|(ccs_id, acks)| Op::Receive { ccs_id, acks }),
        1 => Just(Op::Route),
        4 => (0usize..3, 1usize..6, 0usize..6)
            .prop_map(|(topic, read, confirm)| Op::Publish { topic, read, confirm }),
        1 => (0usize..12, any::<bool>()).prop_map(|(which, up_to)| Op::Ack { which, up_to }),
        2 => (1u64..3000).prop_map(|ms| Op::Pass { ms }),
        2 => Just(Op::Sweep),
        1 => Just(Op::Crash),
        1 => Just(Op::Reopen),
    ]
}

const EXPLICIT: &str = "bal1/others/acked";
const TOPICS: [&str; 3] = [RECEIPTS, MESSAGES, EXPLICIT];

#[derive(Debug)]
struct ModelDelivery {
    id: String,
    sid: Sid,
    recipient: i64,
    order: Option<String>,
    deadline: u64,
    life: Life,
    due: Due,
    /// Since when it stands in its recipient's line.
    in_line_ms: u64,
}

#[derive(Debug)]
struct ModelUpstream {
    sid: Sid,
    ccs_id: String,
    topic: Option<&'static str>,
    confirmed: bool,
    acked: bool,
}

impl ModelUpstream {
    fn waits(&self) -> bool {
        if self.topic == Some(EXPLICIT) { !self.acked } else { !self.confirmed }
    }
}

/// The real store and what it should be.
struct World {
    rig: Rig,
    now: u64,
    deliveries: Vec<ModelDelivery>,
    upstream: Vec<ModelUpstream>,
    /// Documents handed out and not confirmed, by topic and number.
    read: BTreeSet<(usize, u64)>,
    /// Those of them that were so at a crash, or were published and wait for an acknowledgement: to be marked.
    marked: BTreeSet<(usize, u64)>,
    confirmed: BTreeSet<(usize, u64)>,
    told: BTreeMap<String, Vec<Status>>,
    /// The statuses that were handed out without a mark, by message; and as which document.
    unmarked: BTreeMap<(String, u8), u64>,
    /// Whose messages the gate has held, and what for.
    held: Arc<Mutex<Vec<(i64, Hold)>>>,
}

impl World {
    fn new() -> Self {
        Self {
            rig: Rig::new(Limits::default()),
            now: NOW,
            deliveries: Vec::new(),
            upstream: Vec::new(),
            read: BTreeSet::new(),
            marked: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            told: BTreeMap::new(),
            unmarked: BTreeMap::new(),
            held: Arc::default(),
        }
    }

    async fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            self.now += 1;
            self = self.apply(op).await;
            let unsent = self.deliveries.iter().filter(|d| d.life.unsent()).count() as u64;
            let waiting = self.upstream.iter().filter(|u| u.waits()).count() as u64;
            let figures = self.rig.store.figures();
            assert_eq!((figures.queue_rows, figures.spool_rows), (unsent, waiting));
        }
        self.finish().await;
    }

    async fn apply(mut self, op: Op) -> Self {
        match op {
            Op::Accept { id, recipient, order, receipt, ttl } => {
                let mut new = self.rig.new_delivery(&format!("a{id}"));
                new.recipient = recipient;
                new.order = order.map(|key| key.to_string());
                new.receipt = receipt;
                new.accepted_at = self.now;
                new.deadline_ms = self.now + ttl;
                self.accept(new).await;
            }
            Op::Take { limit, park } => self.take(limit, park).await,
            Op::Unpark(recipient) => self.unpark(recipient).await,
            Op::Record { which, what } => self.record(which, what).await,
            Op::Receive { ccs_id, acks } => self.receive(ccs_id, acks).await,
            Op::Route => self.route().await,
            Op::Publish { topic, read, confirm } => self.publish(topic, read, confirm).await,
            Op::Ack { which, up_to } => self.ack(which, up_to).await,
            Op::Pass { ms } => self.now += ms,
            Op::Sweep => {
                self.rig.sweep_all(self.now).await;
                let now = self.now;
                self.expire(|d| d.life.state == State::Sent && d.deadline + RECEIPT_GRACE_MS > now).await;
            }
            Op::Crash => {
                self.rig = self.rig.crash();
                self.restarted();
            }
            Op::Reopen => {
                self.rig = self.rig.reopen().await;
                self.restarted();
            }
        }
        self
    }

    async fn accept(&mut self, new: NewDelivery) {
        let id = new.id.to_string();
        let known = self.deliveries.iter().find(|d| d.id == id).map(|d| d.life.status());
        let behind = new.order.is_some() && self.deliveries.iter().any(|d| d.order == new.order && !d.life.settled());
        let (sid, recipient, order) = (new.sid, new.recipient, new.order.clone());
        let life = Life::new(if behind { State::Waiting } else { State::Due }, new.receipt);
        let deadline = new.deadline_ms;
        let outcome = self.rig.accept(new).await;
        assert_eq!(outcome, known.map_or(Accepted::Stored, Accepted::Repeated));
        if known.is_none() {
            let (due, in_line_ms) = (Due::InTurn, self.now);
            self.deliveries.push(ModelDelivery { id, sid, recipient, order, deadline, life, due, in_line_ms });
        }
    }

    /// Holds a third of what it is asked about, if `park` is not 0: half of that for up to four seconds.
    fn gate(&self, park: u64) -> Gate {
        let (now, held) = (self.now, self.held.clone());
        Gate::new(move || {
            let held = held.clone();
            move |recipient: i64, row: i64| {
                let chance = (park ^ row.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
                let until = now + 1 + (chance >> 8) % 4000;
                let hold = if chance.is_multiple_of(2) { Hold::Until(until) } else { Hold::UntilCalled };
                (park != 0 && chance.is_multiple_of(3)).then(|| {
                    held.lock().unwrap().push((recipient, hold));
                    hold
                })
            }
        })
    }

    async fn unpark(&mut self, recipient: i64) {
        self.rig.unpark(recipient).await;
        self.held.lock().unwrap().retain(|held| *held != (recipient, Hold::UntilCalled));
    }

    async fn take(&mut self, limit: usize, park: u64) {
        let taken = self.rig.take_by(self.now, limit, self.gate(park)).await;
        let (now, count) = (self.now, taken.claimed.len());
        self.expire(|d| d.deadline > now).await;
        assert!(taken.claimed.len() <= limit);
        for claimed in taken.claimed {
            let index = self.deliveries.iter().position(|d| d.sid == claimed.sid).expect("known");
            let older = &self.deliveries[..index];
            let this = &self.deliveries[index];
            assert!(this.deadline > now && !matches!(this.due, Due::At(due) if due > now), "{this:?} at {now}");
            let overtaken = older.iter().find(|d| {
                d.recipient == this.recipient && d.life.state == State::Due && d.in_line_ms <= this.in_line_ms
            });
            assert!(overtaken.is_none(), "{this:?} overtook {overtaken:?}");
            let unsettled = older.iter().find(|d| d.order.is_some() && d.order == this.order && !d.life.settled());
            assert!(unsettled.is_none(), "{this:?} did not wait for {unsettled:?}");
            let step = this.life.step(&Event::Claimed).expect("was due");
            assert_eq!(claimed.attempt, step.life.attempt);
            assert_eq!(claimed.body, format!("body of {}", this.id));
            self.deliveries[index].life = step.life;
        }
        if count < limit {
            self.nobody_is_forgotten();
        }
    }

    /// What is due and was not handed out stands behind somebody who waits for his time, or is held.
    fn nobody_is_forgotten(&self) {
        let now = self.now;
        let held = self.held.lock().unwrap();
        let is_held = |recipient| {
            held.iter().any(|(whose, hold)| *whose == recipient && !matches!(hold, Hold::Until(time) if *time <= now))
        };
        let waits = |d: &ModelDelivery| matches!(d.due, Due::At(due) if due > now);
        for (index, this) in self.deliveries.iter().enumerate() {
            let due = |d: &ModelDelivery| d.life.state == State::Due && d.recipient == this.recipient;
            let behind = || self.deliveries[..=index].iter().any(|d| due(d) && waits(d));
            assert!(!due(this) || is_held(this.recipient) || behind(), "{this:?} was forgotten at {now}");
        }
    }

    async fn record(&mut self, which: usize, what: What) {
        let Some(delivery) = self.deliveries.get(which) else { return };
        let event = what.event(self.now);
        let recorded = self.rig.record(delivery.sid, event.clone(), self.now).await;
        match delivery.life.step(&event) {
            None => assert_eq!(recorded, Recorded::Swallowed),
            Some(step) => {
                let Recorded::Moved { told, life, .. } = recorded else { panic!("{recorded:?}, not {step:?}") };
                assert_eq!((told, life), (step.tell, step.life));
                self.step(which, &event);
            }
        }
    }

    /// Moves one delivery of the model, and the next of its order key after the final word.
    fn step(&mut self, index: usize, event: &Event) {
        let Some(step) = self.deliveries[index].life.step(event) else { return };
        let delivery = &mut self.deliveries[index];
        delivery.life = step.life;
        delivery.due = step.due.unwrap_or(delivery.due);
        if *event == Event::Turn {
            delivery.in_line_ms = self.now;
        }
        let order = delivery.order.clone();
        if step.life.settled() && order.is_some() {
            let next = self.deliveries.iter().position(|d| d.order == order && !d.life.settled());
            if let Some(next) = next {
                self.step(next, &Event::Turn);
            }
        }
    }

    /// The store may have expired what is overdue, or not have come to it yet; `must_not` says what it had no right to.
    async fn expire(&mut self, must_not: impl Fn(&ModelDelivery) -> bool) {
        let inspector = self.rig.inspector();
        for index in 0..self.deliveries.len() {
            let delivery = &self.deliveries[index];
            if delivery.life.settled() {
                continue;
            }
            let trace = inspector.trace(&delivery.sid.to_string()).unwrap();
            let [Trace::Delivery(life)] = &trace[..] else { panic!("{delivery:?} is gone") };
            if life.state == State::Expired {
                assert!(delivery.deadline <= self.now && !must_not(delivery), "{delivery:?} at {}", self.now);
                self.step(index, &Event::Expired { copies: 0, held: None });
            }
        }
    }

    async fn receive(&mut self, ccs_id: u8, acks: Option<Acks>) {
        let ccs_id = format!("m{ccs_id}");
        let mut message = self.rig.upstream(&ccs_id, acks);
        if let Some(route) = message.route.as_mut().filter(|_| acks == Some(Acks::Explicit)) {
            route.topic = EXPLICIT.to_owned();
        }
        let topic = acks.map(|acks| if acks == Acks::Explicit { EXPLICIT } else { MESSAGES });
        let sid = message.sid;
        let known = self.upstream.iter().any(|u| u.ccs_id == ccs_id);
        let outcome = self.rig.receive(message).await;
        assert_eq!(outcome, if known { Received::Duplicate } else { Received::Stored });
        if !known {
            self.upstream.push(ModelUpstream { sid, ccs_id, topic, confirmed: false, acked: false });
        }
    }

    async fn route(&mut self) {
        let route = Route { bal: Owner::new("bal1").unwrap(), topic: MESSAGES.to_owned(), acks: Acks::OnPublish };
        let routed = self.rig.store.route_held(move |_| Some(route.clone())).await.unwrap();
        let held: Vec<_> = self.upstream.iter_mut().filter(|u| u.topic.is_none()).collect();
        assert_eq!(routed, held.len() as u64);
        for upstream in held {
            upstream.topic = Some(MESSAGES);
        }
    }

    async fn publish(&mut self, topic: usize, read: usize, confirm: usize) {
        let waiting = self.rig.store.next_to_publish(TOPICS[topic].into(), 0, read).await.unwrap().await.unwrap();
        for document in &waiting {
            let key = (topic, document.reference.seq);
            assert!(topic == 2 || !self.confirmed.contains(&key), "{document:?} was confirmed before");
            assert_eq!(document.redelivered, self.marked.contains(&key), "{document:?}");
            self.read.insert(key);
            self.hand_out(document);
        }
        assert!(waiting.windows(2).all(|pair| pair[0].reference.seq < pair[1].reference.seq));
        let confirmed = &waiting[..confirm.min(waiting.len())];
        self.rig.publish(confirmed).await;
        for document in confirmed {
            self.confirm(topic, document);
        }
    }

    /// A reader sees it, unless the connection breaks before.
    fn hand_out(&mut self, document: &Waiting) {
        let Origin::Status(_) = document.reference.origin else { return };
        let status: Value = serde_json::from_slice(&document.payload).unwrap();
        if document.redelivered || status["redelivered"] == true {
            return;
        }
        let which = (status["id"].as_str().unwrap().to_owned(), status_of(&status) as u8);
        let first = *self.unmarked.entry(which).or_insert(document.reference.seq);
        assert_eq!(first, document.reference.seq, "told twice without a mark: {document:?}");
    }

    fn confirm(&mut self, topic: usize, document: &Waiting) {
        let key = (topic, document.reference.seq);
        self.confirmed.insert(key);
        match document.reference.origin {
            Origin::Status(_) => {
                let status: Value = serde_json::from_slice(&document.payload).unwrap();
                let id = status["id"].as_str().unwrap().to_owned();
                self.told.entry(id).or_default().push(status_of(&status));
            }
            Origin::Upstream(sid) | Origin::UpstreamToAck(sid) => {
                let upstream = self.upstream.iter_mut().find(|u| u.sid == sid).unwrap();
                assert_eq!(upstream.topic, Some(TOPICS[topic]));
                upstream.confirmed = true;
            }
            Origin::Note => panic!("no notes were written"),
        }
        if topic == 2 {
            self.marked.insert(key);
        }
    }

    async fn ack(&mut self, which: usize, up_to: bool) {
        let Some(upstream) = self.upstream.get(which) else { return };
        let (sid, topic) = (upstream.sid, upstream.topic);
        let what = if up_to { Acknowledged::UpTo(sid) } else { Acknowledged::These(vec![sid]) };
        if topic != Some(EXPLICIT) {
            return;
        }
        let dropped = self.rig.store.acked(&Owner::new("bal1").unwrap(), what, self.now).await.unwrap();
        let covered = self
            .upstream
            .iter_mut()
            .filter(|u| u.topic == Some(EXPLICIT) && !u.acked && (u.sid == sid || up_to && u.sid < sid));
        assert_eq!(dropped, covered.map(|u| u.acked = true).count() as u64);
    }

    fn restarted(&mut self) {
        self.marked.append(&mut self.read);
        let mut crashed = 0;
        for index in 0..self.deliveries.len() {
            if self.deliveries[index].life.state == State::InFlight {
                self.step(index, &Event::Crashed);
                crashed += 1;
            }
        }
        assert_eq!(self.rig.recovery.crashed, crashed);
        self.held.lock().unwrap().retain(|(_, hold)| *hold != Hold::UntilCalled);
        for delivery in self.deliveries.iter_mut().filter(|d| d.life.attempt == 0) {
            // Whatever it was put off for, it is looked at again.
            if let Due::At(_) = delivery.due {
                delivery.due = Due::First;
            }
        }
        let retrying = self.deliveries.iter().filter(|d| d.life.state == State::Due && d.life.attempt > 0);
        assert!(self.rig.recovery.retrying.iter().map(|r| r.sid).eq(retrying.map(|d| d.sid)));
    }

    /// Lets everything come to its end, and looks back.
    async fn finish(mut self) {
        self.route().await;
        for recipient in 0..3 {
            self.unpark(recipient).await;
        }
        for _ in 0..100 {
            self.now += 6000;
            self.take(100, 0).await;
            for index in 0..self.deliveries.len() {
                if matches!(self.deliveries[index].life.state, State::InFlight | State::Sent) {
                    self.record(index, What::Receipt).await;
                }
            }
        }
        self.now += 11 * HOUR;
        self.rig.sweep_all(self.now).await;
        self.expire(|_| false).await;
        for topic in 0..TOPICS.len() {
            self.publish(topic, 1000, 1000).await;
        }
        for delivery in &self.deliveries {
            assert!(delivery.life.settled(), "{delivery:?} never ended");
            let mut told = self.told.remove(&delivery.id).unwrap_or_default();
            // A status is told again when its id is; that repeats the last one.
            told.dedup();
            assert_eq!(told.first(), Some(&Status::Accepted), "{delivery:?}");
            assert_eq!(told.last(), Some(&delivery.life.status()), "{delivery:?}");
            assert!(told.windows(2).all(|pair| pair[0].rank() < pair[1].rank()), "{told:?}");
        }
        assert!(self.upstream.iter().all(|u| u.confirmed || u.acked), "{:?}", self.upstream);
    }
}

fn status_of(document: &Value) -> Status {
    let all = [
        Status::Accepted,
        Status::Sent,
        Status::Delivered,
        Status::Read,
        Status::Failed,
        Status::Expired,
        Status::Cancelled,
    ];
    all.into_iter().find(|status| serde_json::to_value(status).unwrap() == document["status"]).expect("a known word")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_store_keeps_its_promises(ops in prop::collection::vec(any_op(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(World::new().run(ops));
    }
}
