//! What all connections share: the devices, the upstream queue, the plan of faults, the counters. Sans-IO: connections call it,
//! the shell asks it whom to wake.

use super::config::SimConfig;
use super::device::DevicePatch;
use super::event::{ConnectionId, SimEvent};
use super::fault::{Dice, DrainPlan, Faults};
use super::stats::Stats;
use super::upstream_queue::{Full, Kind, QueuedMessage, UpstreamQueue};
use super::v1::V1State;
use super::virtual_devices::{Accepted, DeviceError, Happening, Push, Refusal, VirtualDevices};
use crate::ccs::payload::{Inbound, Receipt};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

/// The sender of receipts.
const RECEIPT_FROM: &str = "gcm.googleapis.com";

/// Something that a connection is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Drain(DrainPlan),
    Close,
    Reset,
}

/// What devices are to send: the same message, several times.
#[derive(Debug, Clone, PartialEq)]
pub struct Speech {
    /// The category; `None`: the device's own.
    pub category: Option<String>,
    /// The data: a JSON object.
    pub data: Value,
    /// How often.
    pub count: usize,
    /// The id; `None`: the device counts.
    pub message_id: Option<String>,
}

/// Orders that wait for a connection at most; a stalled one takes none.
const MAX_ORDERS: usize = 16;

#[derive(Debug)]
pub(super) struct Service {
    pub(super) devices: VirtualDevices,
    pub(super) faults: Faults,
    pub(super) stats: Stats,
    pub(super) v1: V1State,
    upstream_queue: UpstreamQueue,
    links: BTreeMap<ConnectionId, VecDeque<Order>>,
    wakes: HashSet<ConnectionId>,
    seed: u64,
    events: Option<Vec<SimEvent>>,
}

impl Service {
    pub(super) fn new(config: &SimConfig) -> Self {
        Self {
            devices: VirtualDevices::new(config.devices.clone()),
            faults: config.faults.clone(),
            stats: Stats::default(),
            v1: V1State::new(config.v1.as_ref(), config.seed),
            upstream_queue: UpstreamQueue::new(config.wire.upstream_window, config.limits.max_queued),
            links: BTreeMap::new(),
            wakes: HashSet::new(),
            seed: config.seed,
            events: None,
        }
    }

    /// A client connected: the connection's number and its dice.
    pub(super) fn connect(&mut self) -> (ConnectionId, Dice) {
        self.stats.connections += 1;
        let id = ConnectionId(self.stats.connections);
        self.links.insert(id, VecDeque::new());
        (id, Dice::new(self.seed, id.0))
    }

    /// The dice of one stream of an HTTP/2 connection; other numbers than those of CCS connections.
    pub(super) fn stream_dice(&self, connection: u64, stream: u32) -> Dice {
        Dice::new(self.seed, 1 << 63 | connection << 32 | u64::from(stream))
    }

    /// The connection can take queued messages now.
    pub(super) fn logged_in(&mut self, connection: ConnectionId, sender: &str) {
        self.stats.logins += 1;
        self.upstream_queue.open(connection);
        self.tell(|| SimEvent::LoggedIn { connection, sender: sender.into() });
    }

    /// The connection takes nothing new.
    pub(super) fn drain(&mut self, connection: ConnectionId, plan: DrainPlan) {
        self.stats.faults.drains += 1;
        self.upstream_queue.drain(connection);
        self.tell(|| SimEvent::Draining { connection, notice: plan.notice });
    }

    /// The connection ended.
    pub(super) fn leave(&mut self, connection: ConnectionId) {
        if self.links.remove(&connection).is_some() {
            self.upstream_queue.leave(connection);
            self.tell(|| SimEvent::Ended { connection });
        }
    }

    /// A message of a client.
    pub(super) fn push(&mut self, push: &Push, now: u64) -> Result<Accepted, Refusal> {
        let outcome = self.devices.push(push, now);
        self.settle();
        outcome
    }

    /// An acknowledgement. False if it is of nothing outstanding on the connection.
    pub(super) fn ack(&mut self, connection: ConnectionId, to: &str, message_id: &str) -> bool {
        let counters = match self.upstream_queue.ack(connection, to, message_id) {
            Some(Kind::Upstream) => &mut self.stats.upstream,
            Some(Kind::Receipt) => &mut self.stats.receipts,
            None => return false,
        };
        counters.acked += 1;
        self.tell(|| SimEvent::Acked { connection, message_id: message_id.to_owned() });
        true
    }

    /// The next queued messages to write on a connection: none, one, or one and its copy.
    pub(super) fn queued(
        &mut self,
        connection: ConnectionId,
        now: u64,
        dice: &mut Dice,
    ) -> Option<(QueuedMessage, usize)> {
        let queued = self.upstream_queue.take(connection, now)?;
        let (counters, chance, fault) = match queued.kind {
            Kind::Upstream => {
                (&mut self.stats.upstream, self.faults.duplicate_upstream, &mut self.stats.faults.duplicate_upstream)
            }
            Kind::Receipt => {
                (&mut self.stats.receipts, self.faults.duplicate_receipt, &mut self.stats.faults.duplicate_receipts)
            }
        };
        if queued.sent == 1 {
            counters.sent += 1;
        } else {
            counters.resent += 1;
        }
        let twice = dice.chance(chance) && self.upstream_queue.repeat(connection, &queued);
        *fault += u64::from(twice);
        self.tell(|| SimEvent::Sent {
            connection,
            token: queued.device.clone(),
            message_id: queued.id.clone(),
            copy: queued.sent,
        });
        Some((queued, 1 + usize::from(twice)))
    }

    /// When [`Service::queued`] may give something.
    pub(super) fn upstream_due(&self, connection: ConnectionId) -> Option<u64> {
        self.upstream_queue.next_due(connection)
    }

    /// The next order for a connection.
    pub(super) fn take_order(&mut self, connection: ConnectionId) -> Option<Order> {
        self.links.get_mut(&connection)?.pop_front()
    }

    /// Gives an order to one connection, or to all. Gives back to how many.
    pub(super) fn order(&mut self, connection: Option<ConnectionId>, order: Order) -> usize {
        let mut told = 0;
        for (&id, orders) in &mut self.links {
            if connection.is_none_or(|wanted| wanted == id) && orders.len() < MAX_ORDERS {
                orders.push_back(order);
                self.wakes.insert(id);
                told += 1;
            }
        }
        told
    }

    /// Changes the plan of faults.
    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        self.wakes.extend(self.links.keys());
    }

    /// Changes a device, or makes it.
    pub(super) fn put(&mut self, token: &str, patch: DevicePatch, now: u64) -> Result<(), DeviceError> {
        let outcome = self.devices.put(token, patch, now);
        self.settle();
        outcome
    }

    /// Lets a device send.
    pub(super) fn speak(&mut self, token: &str, speech: &Speech) -> Result<(), DeviceError> {
        let data = speech.data.to_string();
        for _ in 0..speech.count {
            self.devices.speak(token, speech.category.as_deref(), data.clone(), speech.message_id.clone())?;
            self.settle();
        }
        Ok(())
    }

    /// Lets arrive what is due.
    pub(super) fn tick(&mut self, now: u64) {
        while let Some(push) = self.v1.release(now) {
            // The device may be gone by now; nobody is told.
            let _ = self.devices.push(&push, now);
        }
        self.devices.tick(now);
        self.settle();
    }

    /// When [`Service::tick`] is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.devices.next_due().into_iter().chain(self.v1.next_due()).min()
    }

    /// The connections that have something to do since the last call.
    pub(super) fn take_wakes(&mut self) -> Vec<ConnectionId> {
        self.wakes.extend(self.upstream_queue.take_changed());
        self.wakes.drain().collect()
    }

    /// The counters and how things stand.
    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.now.connections = self.links.len();
        stats.now.devices = self.devices.len();
        stats.now.unacked = self.upstream_queue.len();
        stats
    }

    /// Whether events are collected. Off by default: they cost time.
    pub(super) fn collect_events(&mut self, wanted: bool) {
        if self.events.is_some() != wanted {
            self.events = wanted.then(Vec::new);
        }
    }

    /// The events since the last call.
    pub(super) fn take_events(&mut self) -> Vec<SimEvent> {
        self.events.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn tell(&mut self, event: impl FnOnce() -> SimEvent) {
        if let Some(events) = &mut self.events {
            events.push(event());
        }
    }

    /// Makes queued messages of what happened at the devices.
    fn settle(&mut self) {
        while let Some(happening) = self.devices.poll() {
            match happening {
                Happening::Said { token, category, message_id, data } => {
                    let json = upstream_json(&token, &category, &message_id, &data);
                    self.submit(QueuedMessage {
                        kind: Kind::Upstream,
                        from: token.clone(),
                        id: message_id.into(),
                        device: token,
                        json: json.into(),
                        not_before: 0,
                        sent: 0,
                    });
                }
                Happening::Confirmed { token, confirm, answered_at, at } => {
                    self.v1.confirmed(&token, &confirm, answered_at, at);
                    self.tell(|| SimEvent::AppAck { topic: confirm.topic, id: confirm.id });
                }
                Happening::Deleted { token } => {
                    self.stats.emptied += 1;
                    self.tell(|| SimEvent::Deleted { token });
                }
                Happening::Delivered { token, category, message, copy, at, receipt } => {
                    self.stats.delivered += 1;
                    self.stats.duplicates += u64::from(copy > 1);
                    self.tell(|| SimEvent::Delivered { token: token.clone(), message_id: message.id.clone(), copy });
                    if receipt && !self.faults.no_receipts {
                        let not_before = if self.faults.receipt_before_ack { at } else { message.answered_at };
                        let (id, json) = receipt_json(&token, &category, &message.id, at);
                        let (kind, from) = (Kind::Receipt, RECEIPT_FROM.into());
                        self.submit(QueuedMessage {
                            kind,
                            from,
                            id: id.into(),
                            device: token,
                            json: json.into(),
                            not_before,
                            sent: 0,
                        });
                    }
                }
            }
        }
    }

    fn submit(&mut self, queued: QueuedMessage) {
        let counters = match queued.kind {
            Kind::Upstream => &mut self.stats.upstream,
            Kind::Receipt => &mut self.stats.receipts,
        };
        counters.made += 1;
        if self.upstream_queue.submit(queued) == Err(Full) {
            counters.dropped += 1;
        }
    }
}

fn upstream_json(token: &Arc<str>, category: &str, message_id: &str, data: &str) -> String {
    let [token, category, message_id] = [&**token, category, message_id].map(Value::from);
    format!(r#"{{"category":{category},"data":{data},"message_id":{message_id},"from":{token}}}"#)
}

fn receipt_json(token: &str, category: &str, original: &str, at: u64) -> (String, String) {
    let id = format!("dr2:{original}");
    let receipt = Receipt {
        from: RECEIPT_FROM.to_owned(),
        message_id: id.clone(),
        category: Some(category.to_owned()),
        original_message_id: Some(original.to_owned()),
        status: Some("MESSAGE_SENT_TO_DEVICE".to_owned()),
        device_registration_id: Some(token.to_owned()),
        sent_at_ms: Some(at),
    };
    (id, Inbound::Receipt(receipt).to_json())
}
