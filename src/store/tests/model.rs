//! Random work with crashes in between, against a model in memory.
//!
//! What must hold: nothing that was answered is lost, statuses rise and end once, what is handed out is exactly what the
//! rule of [`crate::chat::recipient_queue`] lets go, nothing overtakes an older message of the same order key, nobody
//! starves, no upstream message is published twice after it was confirmed, what may be a repetition is marked, and no
//! status is told twice without a mark. Of a message with several deliveries each goes its own way, and the sender is told
//! what they have come to together.

use super::several::{INBOX_OF, inbox, without_receipt};
use super::*;
use crate::chat::delivery::{Due, Life, State};
use crate::chat::recipient_queue::Ahead;
use crate::chat::status::Status;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const HOUR: u64 = 3_600_000;

#[derive(Debug, Clone)]
enum Op {
    Accept {
        id: u8,
        recipient: i64,
        transport_id: usize,
        order: Option<u8>,
        receipt: bool,
        ttl: u64,
    },
    /// A message to so many: by this transport to this recipient, or into the inbox, with the wish for a receipt or without.
    AcceptSeveral {
        id: u8,
        to: Vec<(usize, i64, bool)>,
        order: Option<u8>,
        ttl: u64,
        kept: bool,
    },
    /// Claims what is due, in one transaction with what happened to a delivery (`answer`). So many of those claimed on
    /// acceptance are not with the dispatcher yet (`behind`).
    Take {
        transport_id: usize,
        limit: usize,
        behind: u64,
        answer: Option<(usize, What)>,
    },
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
        by: AckedBy,
    },
    Ack {
        which: usize,
        up_to: bool,
    },
    /// The owner of a name says that it has the n-th delivery, by its id or by that of its message.
    Confirm {
        which: usize,
        of_message: bool,
        name: &'static str,
    },
    Pass {
        ms: u64,
    },
    Sweep,
    /// From then on CCS takes so many messages of a recipient at a time.
    Crash {
        most: usize,
    },
    Reopen {
        most: usize,
    },
    /// The same, without the second transport: what is still to be pushed by it goes by the first one.
    Reroute {
        most: usize,
    },
}

#[derive(Debug, Clone, Copy)]
enum What {
    Accepted,
    Receipt,
    Retry(u64),
    Replayed(u32, u64),
    Refused,
    Deferred(u64),
    Lost(u32),
    Cancelled,
}

impl What {
    fn event(self, now: u64) -> Event {
        match self {
            Self::Accepted => accepted(),
            Self::Receipt => Event::RECEIPT,
            Self::Retry(delay) => retry(now + delay),
            Self::Replayed(times, delay) => after(times, retry(now + delay)),
            Self::Refused => refused(Decision::FAIL, "INVALID_JSON"),
            Self::Deferred(delay) => {
                at(now, back(Fate::Deferred { wait: Duration::from_millis(delay), why: "quota".into() }, 0))
            }
            Self::Lost(copies) => back(Fate::Lost, copies),
            Self::Cancelled => Event::Cancelled,
        }
    }
}

fn any_what() -> impl Strategy<Value = What> + Clone {
    prop_oneof![
        4 => Just(What::Accepted),
        3 => Just(What::Receipt),
        3 => (1u64..5000).prop_map(What::Retry),
        2 => (1u64..5000).prop_map(What::Deferred),
        1 => (1u32..3, 1u64..5000).prop_map(|(times, delay)| What::Replayed(times, delay)),
        1 => Just(What::Refused),
        2 => (0u32..2).prop_map(What::Lost),
        1 => Just(What::Cancelled),
    ]
}

/// What the dispatcher and its transports do, as often as it takes to fill queues of a few recipients.
fn any_several(
    ids: impl Strategy<Value = u8>,
    order: impl Strategy<Value = Option<u8>>,
    ttl: impl Strategy<Value = u64>,
) -> impl Strategy<Value = Op> {
    let to = prop::collection::vec((0usize..3, 0i64..3, any::<bool>()), 1..5);
    (ids, to, order, ttl, any::<bool>()).prop_map(|(id, to, order, ttl, kept)| Op::AcceptSeveral {
        id,
        to,
        order,
        ttl,
        kept,
    })
}

fn any_op_of_queues() -> impl Strategy<Value = Op> {
    let order = prop::option::weighted(0.2, 0u8..2);
    let ttl = prop_oneof![1 => Just(4000), 9 => Just(10 * HOUR)];
    let answer = prop::option::of((0usize..40, any_what()));
    prop_oneof![
        3 => any_several(any::<u8>(), order.clone(), ttl.clone()),
        8 => (any::<u8>(), 0i64..2, 0usize..2, order, ttl).prop_map(|(id, recipient, transport_id, order, ttl)| {
            Op::Accept { id, recipient, transport_id, order, receipt: false, ttl }
        }),
        8 => (0usize..2, prop_oneof![0usize..3, Just(20)], prop_oneof![3 => Just(0), 1 => 1u64..3], answer)
            .prop_map(|(transport_id, limit, behind, answer)| Op::Take { transport_id, limit, behind, answer }),
        12 => (0usize..40, any_what()).prop_map(|(which, what)| Op::Record { which, what }),
        4 => (1u64..3000).prop_map(|ms| Op::Pass { ms }),
        1 => Just(Op::Sweep),
        1 => (1usize..5).prop_map(|most| Op::Crash { most }),
        1 => (1usize..5).prop_map(|most| Op::Reopen { most }),
        1 => (1usize..5).prop_map(|most| Op::Reroute { most }),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let what = any_what();
    let order = prop::option::weighted(0.3, 0u8..2);
    let ttl = prop_oneof![1 => Just(2000), 4 => Just(10 * HOUR)];
    let acks = prop_oneof![3 => Just(Some(Acks::OnPublish)), 2 => Just(Some(Acks::Explicit)), 1 => Just(None)];
    let by = prop_oneof![Just(AckedBy::Owner), Just(AckedBy::Broker)];
    prop_oneof![
        5 => any_several(0u8..20, order.clone(), ttl.clone()),
        6 => (0u8..20, 0i64..3, 0usize..2, order, any::<bool>(), ttl).prop_map(|(id, recipient, transport_id, order, receipt, ttl)| {
            Op::Accept { id, recipient, transport_id, order, receipt, ttl }
        }),
        4 => (0usize..2, prop_oneof![1usize..4, Just(20)])
            .prop_map(|(transport_id, limit)| Op::Take { transport_id, limit, behind: 0, answer: None }),
        10 => (0usize..40, what).prop_map(|(which, what)| Op::Record { which, what }),
        4 => (0u8..12, acks).prop_map(|(ccs_id, acks)| Op::Receive { ccs_id, acks }),
        1 => Just(Op::Route),
        5 => (0usize..4, 1usize..6, 0usize..6, by)
            .prop_map(|(topic, read, confirm, by)| Op::Publish { topic, read, confirm, by }),
        1 => (0usize..12, any::<bool>()).prop_map(|(which, up_to)| Op::Ack { which, up_to }),
        3 => (0usize..40, any::<bool>(), prop_oneof![3 => Just("alice"), 1 => Just("bob")])
            .prop_map(|(which, of_message, name)| Op::Confirm { which, of_message, name }),
        2 => prop_oneof![6 => 1u64..3000, 1 => Just(RECEIPT_GRACE_MS)].prop_map(|ms| Op::Pass { ms }),
        2 => Just(Op::Sweep),
        1 => (1usize..5).prop_map(|most| Op::Crash { most }),
        1 => (1usize..5).prop_map(|most| Op::Reopen { most }),
        1 => (1usize..5).prop_map(|most| Op::Reroute { most }),
    ]
}

const EXPLICIT: &str = "bal1/others/acked";
const TOPICS: [&str; 4] = [RECEIPTS, MESSAGES, EXPLICIT, INBOX_OF];
/// The inbox, where a number stands for a transport, and among the topics.
const INBOX_ID: usize = 2;
const INBOX_TOPIC: usize = 3;

#[derive(Debug)]
struct ModelMessage {
    sid: Sid,
    id: String,
    order: Option<String>,
    told: Vec<Status>,
}

#[derive(Debug)]
struct ModelDelivery {
    /// Its number among the messages.
    message: usize,
    sid: Sid,
    recipient: i64,
    transport_id: usize,
    /// What is the recipient's alone, where there are several.
    address: Option<Bytes>,
    /// [`u64::MAX`]: never.
    deadline: u64,
    sent_at: u64,
    life: Life,
    due: Due,
    /// Whether it was tried before it was handed out.
    again: bool,
}

impl ModelDelivery {
    /// When it expires.
    fn end(&self) -> u64 {
        match (self.life.state, self.deadline) {
            (State::Sent, u64::MAX) => self.sent_at + RECEIPT_GRACE_MS,
            (State::Sent, deadline) => deadline + RECEIPT_GRACE_MS,
            (_, deadline) => deadline,
        }
    }
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
struct Harness {
    rig: Rig,
    now: u64,
    messages: Vec<ModelMessage>,
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
    /// Each transport's.
    pipelinings: [Pipelining; 2],
    /// Room for messages claimed on acceptance, by transport, at most: none before it was asked for what is due, nor once
    /// something was left to be due.
    room: [usize; 2],
    /// How many were claimed on acceptance.
    claimed_on_accept: [u64; 2],
}

impl Harness {
    fn new() -> Self {
        Self {
            rig: Rig::in_memory(Limits::default()),
            now: NOW,
            messages: Vec::new(),
            deliveries: Vec::new(),
            upstream: Vec::new(),
            read: BTreeSet::new(),
            marked: BTreeSet::new(),
            confirmed: BTreeSet::new(),
            told: BTreeMap::new(),
            unmarked: BTreeMap::new(),
            pipelinings: [Pipelining::Pipelined(2), Pipelining::OneAtATime],
            room: [0; 2],
            claimed_on_accept: [0; 2],
        }
    }

    async fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            self.now += 1;
            self = self.apply(op).await;
            let (rows, bytes) = self.queued();
            let waiting = self.upstream.iter().filter(|u| u.waits()).count() as u64;
            let figures = self.rig.store.figures();
            assert_eq!((figures.queue_rows, figures.queue_bytes, figures.spool_rows), (rows, bytes, waiting));
        }
        self.finish().await;
    }

    async fn apply(mut self, op: Op) -> Self {
        match op {
            Op::Accept { id, recipient, transport_id, order, receipt, ttl } => {
                let mut new = self.rig.new_message(&format!("a{id}"));
                new.push().recipient = Recipient(recipient);
                new.push().transport = transport(transport_id);
                new.push().receipt = receipt;
                new.order = order.map(|key| key.to_string());
                new.accepted_at = self.now;
                new.push().deadline_ms = self.now + ttl;
                self.accept(new).await;
            }
            Op::AcceptSeveral { id, to, order, ttl, kept } => {
                let deadline = self.now + ttl;
                let to = to.into_iter().map(|(transport_id, recipient, receipt)| {
                    let to = destination(transport_id, recipient, deadline);
                    if receipt { to } else { without_receipt(to) }
                });
                let to = to.collect();
                let (new, _) = self.rig.several(&format!("a{id}"), to);
                let Deliveries::Several(several) = new.deliveries else { unreachable!("it was made so") };
                let several = if kept { several.kept_until(self.now + 3000) } else { several };
                let (order, deliveries) = (order.map(|key| key.to_string()), Deliveries::Several(several));
                self.accept(NewMessage { order, accepted_at: self.now, deliveries, ..new }).await;
            }
            Op::Take { transport_id, limit, behind, answer } => {
                let behind = behind.min(self.claimed_on_accept[transport_id]);
                self.take(transport_id, limit, behind, answer).await;
            }
            Op::Record { which, what } => self.record(which, what).await,
            Op::Receive { ccs_id, acks } => self.receive(ccs_id, acks).await,
            Op::Route => self.route().await,
            Op::Publish { topic, read, confirm, by } => self.publish(topic, read, confirm, by).await,
            Op::Ack { which, up_to } => self.ack(which, up_to).await,
            Op::Confirm { which, of_message, name } => self.confirm_delivery(which, of_message, name).await,
            Op::Pass { ms } => self.now += ms,
            Op::Sweep => {
                self.rig.sweep_all(self.now).await;
                self.expire().await;
            }
            Op::Crash { most } => {
                self.rig = self.rig.crash();
                self.restarted(most);
            }
            Op::Reopen { most } => {
                self.rig = self.rig.reopen().await;
                self.restarted(most);
            }
            Op::Reroute { most } => {
                let both = std::mem::replace(&mut self.rig.settings.transports, vec![transport(0)]);
                self.rig = self.rig.reopen().await;
                self.rig.settings.transports = both;
                let moved = self
                    .deliveries
                    .iter_mut()
                    .filter(|d| d.transport_id == 1 && d.life.unsent())
                    .map(|d| d.transport_id = 0);
                assert_eq!(self.rig.recovery.rerouted, moved.count() as u64);
                self.restarted(most);
            }
        }
        self
    }

    /// The rows and bytes of what is to be pushed. What several recipients get is there once.
    fn queued(&self) -> (u64, u64) {
        let (mut rows, mut bytes, mut shared) = (0, 0, BTreeSet::new());
        for delivery in self.deliveries.iter().filter(|d| d.transport_id != INBOX_ID && d.life.unsent()) {
            rows += 1;
            bytes += delivery.address.as_ref().map_or(0, Bytes::len);
            shared.insert(delivery.message);
        }
        bytes += shared.into_iter().map(|message| self.body(message).len()).sum::<usize>();
        (rows, bytes as u64)
    }

    fn body(&self, message: usize) -> String {
        format!("body of {}", self.messages[message].id)
    }

    fn settled(&self, message: usize) -> bool {
        self.deliveries.iter().filter(|d| d.message == message).all(|d| d.life.settled())
    }

    /// Whether messages of the same order key wait for it: while it waits itself, and until a final status, or the end of its
    /// last push.
    fn holds(&self, message: usize) -> bool {
        let mut deliveries = self.deliveries.iter().filter(|d| d.message == message);
        let last = self.messages[message].told.last();
        let over = !matches!(last, Some(Status::Accepted | Status::Sent));
        deliveries.any(|d| d.life.state == State::Waiting || d.transport_id != INBOX_ID && !d.life.settled() && !over)
    }

    /// The first of those with this order key that others wait for.
    fn first_of(&self, order: &Option<String>) -> Option<usize> {
        (0..self.messages.len()).find(|&at| order.is_some() && self.messages[at].order == *order && self.holds(at))
    }

    async fn accept(&mut self, new: NewMessage) {
        let (id, order) = (new.id.as_str().to_owned(), new.order.clone());
        let known =
            self.messages.iter().find(|message| message.id == id).and_then(|message| message.told.last().copied());
        let state = if self.first_of(&order).is_some() { State::Waiting } else { State::Due };
        let (message, message_sid, due, again, sent_at) = (self.messages.len(), new.sid, Due::InTurn, false, 0);
        let of_push = |sid, push: &NewPush, address| {
            let (recipient, transport_id) = (push.recipient.0, usize::from(push.transport != Transport::Ccs));
            let (deadline, life) = (push.deadline_ms, Life::new(state, push.receipt));
            ModelDelivery { message, sid, recipient, transport_id, address, deadline, sent_at, life, due, again }
        };
        let deliveries: Vec<_> = match &new.deliveries {
            Deliveries::Only(push) => vec![of_push(new.sid, push, None)],
            Deliveries::Several(several) => several
                .parts()
                .0
                .iter()
                .map(|new| match &new.destination {
                    Destination::Push { push, address } => of_push(new.sid, push, Some(address.clone())),
                    Destination::Inbox { deadline_ms, receipt, .. } => {
                        let life = Life::new(state, *receipt);
                        let life = life.step(&Event::Claimed).map_or(life, |step| step.life);
                        let (sid, deadline) = (new.sid, deadline_ms.unwrap_or(u64::MAX));
                        let (recipient, transport_id, address) = (0, INBOX_ID, None);
                        ModelDelivery {
                            message,
                            sid,
                            recipient,
                            transport_id,
                            address,
                            deadline,
                            sent_at,
                            life,
                            due,
                            again,
                        }
                    }
                })
                .collect(),
        };
        let outcome = self.rig.accept(new).await;
        assert_eq!(outcome, known.map_or(Accepted::Stored, Accepted::Repeated));
        if known.is_none() {
            self.messages.push(ModelMessage { sid: message_sid, id, order, told: vec![Status::Accepted] });
            self.deliveries.extend(deliveries);
        }
        (0..2).for_each(|transport_id| self.check_claimed_on_accept(transport_id));
    }

    /// What was claimed on acceptance had room, and nothing that is due might have gone before it.
    fn check_claimed_on_accept(&mut self, transport_id: usize) {
        for claimed in self.rig.store.take_claimed_on_accept(&transport(transport_id)) {
            let index = self.deliveries.iter().position(|d| d.sid == claimed.sid).expect("known");
            assert_eq!(index, self.deliveries.len() - 1, "it is the newest");
            let due = (0..=index).filter(|&index| self.is_due(index, transport_id)).collect::<Vec<_>>();
            assert_eq!(due, [index], "something was due: {:?}", self.deliveries);
            assert!(self.deliveries[index].deadline > self.now);
            self.room[transport_id] = self.room[transport_id].checked_sub(1).expect("room");
            self.claimed_on_accept[transport_id] += 1;
            self.claimed(index, claimed);
        }
    }

    /// Whether it is to go now by this transport, and may.
    fn is_due(&self, index: usize, transport_id: usize) -> bool {
        let this = &self.deliveries[index];
        let due = this.life.state == State::Due && !matches!(this.due, Due::At(due) if due > self.now);
        due && this.transport_id == transport_id && self.may_go(index, &BTreeSet::new())
    }

    fn claimed(&mut self, index: usize, claimed: Claimed) {
        let this = &self.deliveries[index];
        let step = this.life.step(&Event::Claimed).expect("was due");
        assert_eq!(claimed.life, step.life);
        assert_eq!((claimed.body, &claimed.address), (self.body(this.message).into(), &this.address));
        let delivery = &mut self.deliveries[index];
        (delivery.life, delivery.again) = (step.life, claimed.life.attempt > 1);
    }

    /// What the rule says of a delivery that is due, from the facts of the model; `later` may not have been due yet.
    fn may_go(&self, index: usize, later: &BTreeSet<usize>) -> bool {
        let this = &self.deliveries[index];
        let queue = |d: &&ModelDelivery| d.recipient == this.recipient && d.transport_id == this.transport_id;
        let in_flight = |d: &&ModelDelivery| d.life.state == State::InFlight;
        let older = || self.deliveries[..index].iter().filter(queue);
        let waiting = self.deliveries[..index].iter().enumerate().filter(|(at, _)| !later.contains(at));
        let ahead = Ahead {
            waiting: waiting.map(|(_, d)| d).filter(queue).any(|d| d.life.state == State::Due),
            again: older().filter(in_flight).any(|d| d.again),
            in_flight: self.deliveries.iter().filter(queue).filter(in_flight).count(),
        };
        self.pipelinings[this.transport_id].behind(ahead).is_none()
    }

    async fn take(&mut self, transport_id: usize, limit: usize, behind: u64, answer: Option<(usize, What)>) {
        let answer = answer.filter(|(which, _)| *which < self.deliveries.len());
        let answer = answer.map(|(which, what)| (which, what.event(self.now)));
        let recorded = match &answer {
            Some((which, event)) => {
                Some(self.rig.store.record(self.deliveries[*which].sid, event.clone(), self.now).await.unwrap())
            }
            None => None,
        };
        let taken_on_accept = self.claimed_on_accept[transport_id] - behind;
        let query = DueQuery {
            transport: transport(transport_id),
            now: self.now,
            limit,
            taken_on_accept,
            pipelining: self.pipelinings[transport_id],
        };
        let taken = self.rig.store.take_due(query).await.unwrap();
        if let Some(((which, event), recorded)) = answer.zip(recorded) {
            self.recorded(which, &event, recorded.await.unwrap());
        }
        let limit = limit.saturating_sub(usize::try_from(behind).unwrap());
        self.taken(transport_id, limit, taken.await.unwrap()).await;
    }

    async fn taken(&mut self, transport_id: usize, limit: usize, taken: DueBatch) {
        let (now, count) = (self.now, taken.claimed.len());
        let more = taken.next_due.is_some_and(|due| due <= now);
        // What expires on the way may give a turn, before or after something else is handed out.
        let behind = |(index, d): (usize, &ModelDelivery)| (d.life.state == State::Waiting).then_some(index);
        let later = self.deliveries.iter().enumerate().filter_map(behind).collect();
        self.expire().await;
        assert!(taken.claimed.len() <= limit);
        assert_eq!(taken.claimed_on_accept, self.claimed_on_accept[transport_id]);
        self.room[transport_id] = if more { 0 } else { limit - count };
        for claimed in taken.claimed {
            let index = self.deliveries.iter().position(|d| d.sid == claimed.sid).expect("known");
            let this = &self.deliveries[index];
            assert!(this.deadline > now && !matches!(this.due, Due::At(due) if due > now), "{this:?} at {now}");
            assert!(
                this.transport_id == transport_id && self.may_go(index, &later),
                "{this:?} passed another: {:?}",
                self.deliveries
            );
            if self.holds(this.message)
                && let Some(first) = self.first_of(&self.messages[this.message].order)
            {
                assert_eq!(first, this.message, "{this:?} did not wait for {:?}", self.messages[first]);
            }
            self.claimed(index, claimed);
        }
        let left = (0..self.deliveries.len()).find(|&index| self.is_due(index, transport_id));
        assert!(
            count == limit || more || left.is_none(),
            "forgotten at {now}: {:?}",
            left.map(|index| &self.deliveries[index])
        );
    }

    async fn record(&mut self, which: usize, what: What) {
        let Some(delivery) = self.deliveries.get(which) else { return };
        let event = what.event(self.now);
        let recorded = self.rig.record(delivery.sid, event.clone(), self.now).await;
        self.recorded(which, &event, recorded);
    }

    fn recorded(&mut self, which: usize, event: &Event, recorded: Recorded) {
        let Some(expected) = self.step(which, event) else {
            assert_eq!(recorded, Recorded::NoEffect);
            // Tries count, also where their answer comes too late for anything else.
            let life = &mut self.deliveries[which].life;
            if let (Event::Back { replays, .. }, State::Sent | State::Delivered) = (event, life.state) {
                life.attempt += replays;
            }
            return;
        };
        let Recorded::Moved { told, life, id, .. } = recorded else { panic!("{recorded:?}, not {expected:?}") };
        let delivery = &self.deliveries[which];
        assert_eq!((told, life), (&*expected, delivery.life));
        assert_eq!(id, self.messages[delivery.message].id);
    }

    /// Moves one delivery of the model, and the next message of its order key after the final word. Returns what is told.
    fn step(&mut self, index: usize, event: &Event) -> Option<Vec<Status>> {
        let delivery = &mut self.deliveries[index];
        let mut step = delivery.life.step(event)?;
        if delivery.transport_id == INBOX_ID && step.due.is_some() {
            step = step.life.step(&Event::Claimed)?;
        }
        delivery.life = step.life;
        delivery.due = step.due.unwrap_or(delivery.due);
        if delivery.life.state == State::Sent {
            delivery.sent_at = self.now;
        }
        let message = delivery.message;
        let told = self.tell(message);
        while !self.holds(message)
            && let Some(next) = self.first_of(&self.messages[message].order)
        {
            let behind = |&index: &usize| {
                let delivery = &self.deliveries[index];
                delivery.message == next && delivery.life.state == State::Waiting
            };
            for index in (0..self.deliveries.len()).filter(behind).collect::<Vec<_>>() {
                self.step(index, &Event::Turn);
            }
            if self.holds(next) {
                break;
            }
        }
        Some(told)
    }

    /// What the sender of a message is told, from where its deliveries stand.
    fn tell(&mut self, message: usize) -> Vec<Status> {
        let any = |state| self.deliveries.iter().any(|d| d.message == message && d.life.state == state);
        let last = self.messages[message].told.last();
        let news = match last.unwrap() {
            Status::Accepted if any(State::Delivered) => vec![Status::Sent, Status::Delivered],
            Status::Sent if any(State::Delivered) => vec![Status::Delivered],
            Status::Accepted if any(State::Sent) => vec![Status::Sent],
            Status::Accepted | Status::Sent if self.settled(message) && !any(State::Sent) => {
                let ends = [(State::Expired, Status::Expired), (State::Failed, Status::Failed)];
                let end = ends.into_iter().find(|(state, _)| any(*state));
                vec![end.map_or(Status::Cancelled, |(_, status)| status)]
            }
            _ => Vec::new(),
        };
        self.messages[message].told.extend(&news);
        news
    }

    /// The store may have expired what is overdue, or not have come to it yet.
    async fn expire(&mut self) {
        let inspector = self.rig.inspector();
        for index in 0..self.deliveries.len() {
            let delivery = &self.deliveries[index];
            if delivery.life.settled() {
                continue;
            }
            let trace = inspector.trace(&delivery.sid.to_string()).unwrap();
            let state = match &trace[..] {
                [Trace::Delivery(only)] => Some(only.state),
                [Trace::Message(message)] => {
                    message.deliveries.iter().find(|d| d.sid == delivery.sid.to_string()).map(|d| d.state)
                }
                _ => None,
            };
            if state.unwrap_or_else(|| panic!("{delivery:?} is gone")) == State::Expired {
                assert!(delivery.end() <= self.now, "{delivery:?} at {}", self.now);
                self.step(index, &Event::Expired);
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
        let routed = self.rig.give_routes(2, |_| Some(route(MESSAGES, Acks::OnPublish))).await;
        let held: Vec<_> = self.upstream.iter_mut().filter(|u| u.topic.is_none()).collect();
        assert_eq!(routed, held.len() as u64);
        for upstream in held {
            upstream.topic = Some(MESSAGES);
        }
    }

    async fn publish(&mut self, topic: usize, read: usize, confirm: usize, by: AckedBy) {
        let waiting = self.rig.store.next_to_publish(TOPICS[topic].into(), 0, read).await.unwrap().await.unwrap();
        for document in &waiting {
            let key = (topic, document.reference.seq);
            assert!(topic == 2 || !self.confirmed.contains(&key), "{document:?} was confirmed before");
            assert_eq!(document.redelivered, self.marked.contains(&key), "{document:?}");
            self.read.insert(key);
            self.hand_out(document);
        }
        if topic == INBOX_TOPIC {
            let unread =
                self.deliveries.iter().filter(|d| d.transport_id == INBOX_ID && d.life.state == State::InFlight);
            assert_eq!(waiting.len(), unread.count().min(read));
        }
        assert!(waiting.windows(2).all(|pair| pair[0].reference.seq < pair[1].reference.seq));
        let confirmed = &waiting[..confirm.min(waiting.len())];
        let references = confirmed.iter().map(|document| document.reference.clone()).collect();
        let mut moved =
            self.rig.store.documents_acked(references, by, self.now).await.unwrap().await.unwrap().into_iter();
        for document in confirmed {
            if let Some(index) = self.confirm(topic, document) {
                let event = if by == AckedBy::Owner { Event::RECEIPT } else { accepted() };
                let (sid, recorded) = moved.next().expect("it moves");
                assert_eq!(sid, self.deliveries[index].sid);
                assert_ne!(recorded, Recorded::NoEffect, "it was there to be read");
                self.recorded(index, &event, recorded);
            }
        }
        assert_eq!(moved.next(), None, "nothing else moves");
    }

    /// A reader sees it, unless the connection breaks before.
    fn hand_out(&mut self, document: &OutboxDocument) {
        if let Origin::Delivery(sid) = document.reference.origin {
            let delivery = self.deliveries.iter().find(|d| d.sid == sid).expect("known");
            assert_eq!(delivery.life.state, State::InFlight, "{delivery:?}");
            assert_eq!(document.payload, self.body(delivery.message));
        }
        let Origin::Status(_) = document.reference.origin else { return };
        let status: Value = serde_json::from_slice(&document.payload).unwrap();
        if document.redelivered || status["redelivered"] == true {
            return;
        }
        let which = (status["id"].as_str().unwrap().to_owned(), status_of(&status) as u8);
        let first = *self.unmarked.entry(which).or_insert(document.reference.seq);
        assert_eq!(first, document.reference.seq, "told twice without a mark: {document:?}");
    }

    /// Returns the delivery that it is.
    fn confirm(&mut self, topic: usize, document: &OutboxDocument) -> Option<usize> {
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
            Origin::Delivery(sid) => return self.deliveries.iter().position(|d| d.sid == sid),
            Origin::Note | Origin::ChatCopy(_) | Origin::UserNote => panic!("none of these were written"),
        }
        if topic == 2 {
            self.marked.insert(key);
        }
        None
    }

    async fn confirm_delivery(&mut self, which: usize, of_message: bool, name: &str) {
        let Some(delivery) = self.deliveries.get(which) else { return };
        let (message, one) = (delivery.message, delivery.sid);
        let sid = if of_message { self.messages[message].sid } else { one };
        let (owner, at) = (Owner::new(name).unwrap(), self.now);
        let recorded = self.rig.store.confirm(&owner, vec![sid], at).await.unwrap().await.unwrap();
        // By the id of its message only what lay in an inbox: an app that got a push knows its own.
        let named =
            |d: &ModelDelivery| d.sid == sid || d.message == message && of_message && d.transport_id == INBOX_ID;
        let counts = |d: &ModelDelivery| match d.transport_id {
            INBOX_ID => name == "alice",
            transport_id => transport_id == 1,
        };
        let found = |&index: &usize| named(&self.deliveries[index]) && counts(&self.deliveries[index]);
        let expected: Vec<_> = (0..self.deliveries.len()).filter(found).collect();
        let sids: Vec<_> = recorded.iter().map(|(sid, _)| *sid).collect();
        assert_eq!(sids, expected.iter().map(|&index| self.deliveries[index].sid).collect::<Vec<_>>());
        for (index, (_, recorded)) in expected.into_iter().zip(recorded) {
            self.recorded(index, &Event::RECEIPT, recorded);
        }
    }

    async fn ack(&mut self, which: usize, up_to: bool) {
        let Some(upstream) = self.upstream.get(which) else { return };
        let (sid, topic) = (upstream.sid, upstream.topic);
        if topic != Some(EXPLICIT) {
            return;
        }
        let (bal, spool) = (Owner::new("bal1").unwrap(), self.rig.store.figures().spool_rows);
        if up_to {
            self.rig.store.acked_up_to(&bal, sid, self.now).await.unwrap();
        } else {
            self.rig.store.confirm(&bal, vec![sid], self.now).await.unwrap().await.unwrap();
        }
        let dropped = spool - self.rig.store.figures().spool_rows;
        let covered = self
            .upstream
            .iter_mut()
            .filter(|u| u.topic == Some(EXPLICIT) && !u.acked && (u.sid == sid || up_to && u.sid < sid));
        assert_eq!(dropped, covered.map(|u| u.acked = true).count() as u64);
    }

    fn restarted(&mut self, most: usize) {
        self.pipelinings[0] = Pipelining::Pipelined(most);
        (self.room, self.claimed_on_accept) = ([0; 2], [0; 2]);
        self.marked.append(&mut self.read);
        let mut crashed = 0;
        for index in 0..self.deliveries.len() {
            let delivery = &self.deliveries[index];
            if delivery.transport_id != INBOX_ID && delivery.life.state == State::InFlight {
                self.step(index, &Event::Crashed);
                crashed += 1;
            }
        }
        assert_eq!(self.rig.recovery.crashed, crashed);
    }

    /// Lets everything come to its end, and looks back.
    async fn finish(mut self) {
        self.route().await;
        for _ in 0..self.deliveries.len() + 1 {
            self.now += 6000;
            for transport_id in 0..2 {
                self.take(transport_id, 100, 0, None).await;
            }
            for index in 0..self.deliveries.len() {
                if matches!(self.deliveries[index].life.state, State::InFlight | State::Sent) {
                    self.record(index, What::Receipt).await;
                }
            }
            if self.deliveries.iter().all(|delivery| delivery.life.settled()) {
                break;
            }
        }
        assert!(self.deliveries.iter().all(|delivery| delivery.life.settled()), "starved: {:?}", self.deliveries);
        self.now += 11 * HOUR;
        self.rig.sweep_all(self.now).await;
        self.expire().await;
        for topic in 0..TOPICS.len() {
            self.publish(topic, 1000, 1000, AckedBy::Owner).await;
        }
        for (number, message) in self.messages.iter().enumerate() {
            assert!(self.settled(number), "{message:?} never ended");
            let mut told = self.told.remove(&message.id).unwrap_or_default();
            // A status is told again when its id is; that repeats the last one.
            told.dedup();
            assert_eq!(told, message.told, "{message:?}");
            assert!(told.windows(2).all(|pair| pair[0].rank() < pair[1].rank()), "{told:?}");
        }
        assert!(self.upstream.iter().all(|u| u.confirmed || u.acked), "{:?}", self.upstream);
    }
}

fn destination(transport_id: usize, recipient: i64, deadline_ms: u64) -> Destination {
    if transport_id == INBOX_ID {
        return inbox();
    }
    let (recipient, transport) = (Recipient(recipient), transport(transport_id));
    let push = NewPush { recipient, transport, deadline_ms, receipt: true };
    Destination::Push { push, address: Bytes::from(format!("to {}", recipient.0)) }
}

fn transport(transport_id: usize) -> Transport {
    Transport::parse(["ccs", "fcm-v1"][transport_id]).unwrap()
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
        runtime.block_on(Harness::new().run(ops));
    }

    #[test]
    fn a_recipients_messages_go_as_the_rule_says_and_nobody_starves(
        ops in prop::collection::vec(any_op_of_queues(), 1..160),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Harness::new().run(ops));
    }
}
