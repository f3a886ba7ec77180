//! What goes to clients and has to be acknowledged: messages of devices, and receipts. It waits here, goes out on one of
//! the connections, and comes back when that connection ends without the acknowledgement.
//!
//! ```text
//!   submit ──► waiting (no connection)
//!      │          │ open
//!      ▼          ▼
//!   queue of a connection ──take──► outstanding ──ack──► gone
//!      ▲                               │
//!      └────────── leave ──────────────┘ (to another connection, or waiting)
//! ```
//!
//! A device's queued messages stay on one connection as long as it is there, so they keep their order.

use super::event::ConnectionId;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// What a queued message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message of a device.
    Upstream,
    /// A receipt.
    Receipt,
}

/// Something to send to a client until it is acknowledged.
#[derive(Debug, Clone)]
pub(super) struct QueuedMessage {
    pub(super) kind: Kind,
    /// To whom the acknowledgement is addressed.
    pub(super) from: Arc<str>,
    /// Its id.
    pub(super) id: Arc<str>,
    /// The device it is about; chooses the connection.
    pub(super) device: Arc<str>,
    /// The whole payload.
    pub(super) json: Arc<str>,
    /// Not to be sent before this time, in Unix milliseconds.
    pub(super) not_before: u64,
    /// How often it was sent.
    pub(super) sent: u32,
}

/// The queued messages of all connections.
#[derive(Debug)]
pub(super) struct UpstreamQueue {
    window: usize,
    limit: usize,
    total: usize,
    waiting: VecDeque<QueuedMessage>,
    queues: BTreeMap<ConnectionId, ConnectionQueue>,
    /// The connections among which queued messages are spread: those not draining, or else all.
    takers: Vec<ConnectionId>,
    /// Connections that have something new to send.
    changed: HashSet<ConnectionId>,
}

#[derive(Debug, Default)]
struct ConnectionQueue {
    draining: bool,
    queue: VecDeque<QueuedMessage>,
    /// By sender and id. Two queued messages may have the same: the receipts of a message that a device got twice.
    outstanding: HashMap<Box<str>, Vec<Outstanding>>,
    /// Copies without an acknowledgement.
    unacked: usize,
    next_seq: u64,
}

#[derive(Debug)]
struct Outstanding {
    queued: QueuedMessage,
    seq: u64,
    copies: usize,
}

/// There are too many queued messages already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl UpstreamQueue {
    /// `window` copies may be unacknowledged on a connection; there may be `limit` queued messages in all.
    pub(super) fn new(window: usize, limit: usize) -> Self {
        Self {
            window,
            limit,
            total: 0,
            waiting: VecDeque::new(),
            queues: BTreeMap::new(),
            takers: Vec::new(),
            changed: HashSet::new(),
        }
    }

    /// Queued messages that were not acknowledged yet.
    pub(super) fn len(&self) -> usize {
        self.total
    }

    /// Takes a queued message.
    pub(super) fn submit(&mut self, queued: QueuedMessage) -> Result<(), Full> {
        if self.total >= self.limit {
            return Err(Full);
        }
        self.total += 1;
        self.assign(queued);
        Ok(())
    }

    /// A connection can take queued messages now.
    pub(super) fn open(&mut self, connection: ConnectionId) {
        self.queues.insert(connection, ConnectionQueue::default());
        self.choose_takers();
        for queued in std::mem::take(&mut self.waiting) {
            self.assign(queued);
        }
    }

    /// A connection begins to drain. What it has not sent yet goes to another connection if there is one.
    pub(super) fn drain(&mut self, connection: ConnectionId) {
        let Some(queue) = self.queues.get_mut(&connection) else {
            return;
        };
        queue.draining = true;
        let queue = std::mem::take(&mut queue.queue);
        self.choose_takers();
        for queued in queue {
            self.assign(queued);
        }
    }

    /// A connection ended. What was not acknowledged on it is sent again, in its order.
    pub(super) fn leave(&mut self, connection: ConnectionId) {
        let Some(queue) = self.queues.remove(&connection) else {
            return;
        };
        self.changed.remove(&connection);
        self.choose_takers();
        let mut unacked: Vec<Outstanding> = queue.outstanding.into_values().flatten().collect();
        unacked.sort_by_key(|outstanding| outstanding.seq);
        for queued in unacked.into_iter().map(|outstanding| outstanding.queued).chain(queue.queue) {
            self.assign(queued);
        }
    }

    /// The next queued message for a connection, if its window allows one and it is time.
    pub(super) fn take(&mut self, connection: ConnectionId, now: u64) -> Option<QueuedMessage> {
        let queue = self.queues.get_mut(&connection)?;
        if queue.unacked >= self.window || queue.queue.front()?.not_before > now {
            return None;
        }
        let mut queued = queue.queue.pop_front()?;
        queued.sent += 1;
        queue.unacked += 1;
        let (seq, copies) = (queue.next_seq, 1);
        queue.next_seq += 1;
        let outstanding = queue.outstanding.entry(key(&queued.from, &queued.id)).or_default();
        outstanding.push(Outstanding { queued: queued.clone(), seq, copies });
        Some(queued)
    }

    /// Sends a queued message just taken once more. False if the window does not allow it.
    pub(super) fn repeat(&mut self, connection: ConnectionId, queued: &QueuedMessage) -> bool {
        let queue = self.queues.get_mut(&connection).filter(|queue| queue.unacked < self.window);
        let Some(queue) = queue else { return false };
        let same = queue.outstanding.get_mut(&key(&queued.from, &queued.id)).and_then(|same| same.last_mut());
        let Some(outstanding) = same else { return false };
        outstanding.copies += 1;
        queue.unacked += 1;
        true
    }

    /// When [`UpstreamQueue::take`] may give something that it does not give now, apart from acknowledgements.
    pub(super) fn next_due(&self, connection: ConnectionId) -> Option<u64> {
        let queue = self.queues.get(&connection)?;
        let front = queue.queue.front()?;
        (queue.unacked < self.window).then_some(front.not_before)
    }

    /// An acknowledgement. Gives what was acknowledged, or `None` if nothing of that name is outstanding on the
    /// connection.
    pub(super) fn ack(&mut self, connection: ConnectionId, from: &str, id: &str) -> Option<Kind> {
        let queue = self.queues.get_mut(&connection)?;
        let key = key(from, id);
        let same = queue.outstanding.get_mut(&key)?;
        let outstanding = same.first_mut()?;
        let kind = outstanding.queued.kind;
        outstanding.copies -= 1;
        queue.unacked -= 1;
        if outstanding.copies == 0 {
            same.remove(0);
            self.total -= 1;
        }
        if same.is_empty() {
            queue.outstanding.remove(&key);
        }
        Some(kind)
    }

    /// The connections that got something to send since the last call.
    pub(super) fn take_changed(&mut self) -> impl Iterator<Item = ConnectionId> {
        self.changed.drain()
    }

    /// Chooses a connection by the device.
    fn assign(&mut self, queued: QueuedMessage) {
        let mut hasher = DefaultHasher::new();
        queued.device.hash(&mut hasher);
        let choice = hasher.finish().checked_rem(self.takers.len() as u64).and_then(|at| usize::try_from(at).ok());
        let connection = choice.and_then(|at| self.takers.get(at).copied());
        match connection.and_then(|connection| self.queues.get_mut(&connection)) {
            Some(queue) => {
                queue.queue.push_back(queued);
                self.changed.extend(connection);
            }
            None => self.waiting.push_back(queued),
        }
    }

    fn choose_takers(&mut self) {
        let open = self.queues.iter().filter(|(_, queue)| !queue.draining).map(|(&connection, _)| connection);
        self.takers = open.collect();
        if self.takers.is_empty() {
            self.takers = self.queues.keys().copied().collect();
        }
    }
}

/// No token and no id has a NUL character in it.
fn key(from: &str, id: &str) -> Box<str> {
    [from, "\0", id].concat().into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(device: &str, id: &str) -> QueuedMessage {
        let (kind, not_before, sent) = (Kind::Upstream, 0, 0);
        QueuedMessage {
            kind,
            from: device.into(),
            id: id.into(),
            device: device.into(),
            json: "{}".into(),
            not_before,
            sent,
        }
    }

    fn taken(upstream_queue: &mut UpstreamQueue, connection: ConnectionId) -> Vec<String> {
        std::iter::from_fn(|| upstream_queue.take(connection, 0)).map(|queued| queued.id.to_string()).collect()
    }

    #[test]
    fn messages_wait_for_a_connection_and_for_its_window() {
        let mut upstream_queue = UpstreamQueue::new(2, 10);
        for id in ["1", "2", "3"] {
            upstream_queue.submit(queued("d", id)).unwrap();
        }
        upstream_queue.open(ConnectionId(1));
        assert_eq!(upstream_queue.take_changed().collect::<Vec<_>>(), [ConnectionId(1)]);
        assert_eq!(taken(&mut upstream_queue, ConnectionId(1)), ["1", "2"]);
        assert_eq!(upstream_queue.ack(ConnectionId(1), "d", "1"), Some(Kind::Upstream));
        assert_eq!(taken(&mut upstream_queue, ConnectionId(1)), ["3"]);
        assert_eq!(upstream_queue.len(), 2);
    }

    #[test]
    fn what_was_not_acknowledged_comes_again_in_its_order_elsewhere() {
        let mut upstream_queue = UpstreamQueue::new(3, 10);
        upstream_queue.open(ConnectionId(1));
        for id in ["9", "1", "5", "7"] {
            upstream_queue.submit(queued("d", id)).unwrap();
        }
        assert_eq!(taken(&mut upstream_queue, ConnectionId(1)), ["9", "1", "5"]);
        upstream_queue.ack(ConnectionId(1), "d", "1");
        upstream_queue.leave(ConnectionId(1));
        upstream_queue.open(ConnectionId(2));
        assert_eq!(taken(&mut upstream_queue, ConnectionId(2)), ["9", "5", "7"]);
    }

    #[test]
    fn an_acknowledgement_counts_only_on_its_own_connection_and_once() {
        let mut upstream_queue = UpstreamQueue::new(3, 10);
        upstream_queue.open(ConnectionId(1));
        upstream_queue.submit(queued("d", "1")).unwrap();
        upstream_queue.open(ConnectionId(2));
        assert_eq!(upstream_queue.ack(ConnectionId(1), "d", "1"), None, "it was not sent yet");
        taken(&mut upstream_queue, ConnectionId(1));
        assert_eq!(upstream_queue.ack(ConnectionId(2), "d", "1"), None);
        assert_eq!(upstream_queue.ack(ConnectionId(1), "other", "1"), None);
        assert_eq!(upstream_queue.ack(ConnectionId(1), "d", "1"), Some(Kind::Upstream));
        assert_eq!(upstream_queue.ack(ConnectionId(1), "d", "1"), None);
    }

    #[test]
    fn each_copy_of_a_message_wants_its_own_acknowledgement() {
        let mut upstream_queue = UpstreamQueue::new(2, 10);
        upstream_queue.open(ConnectionId(1));
        upstream_queue.submit(queued("d", "1")).unwrap();
        let first = upstream_queue.take(ConnectionId(1), 0).unwrap();
        assert!(upstream_queue.repeat(ConnectionId(1), &first));
        assert!(!upstream_queue.repeat(ConnectionId(1), &first), "the window is full");
        assert!(upstream_queue.ack(ConnectionId(1), "d", "1").is_some());
        assert_eq!(upstream_queue.len(), 1);
        assert!(upstream_queue.ack(ConnectionId(1), "d", "1").is_some());
        assert_eq!(upstream_queue.len(), 0);
    }

    #[test]
    fn messages_of_the_same_name_are_all_kept() {
        let mut upstream_queue = UpstreamQueue::new(3, 10);
        upstream_queue.open(ConnectionId(1));
        for _ in 0..2 {
            upstream_queue.submit(queued("d", "dr2:1")).unwrap();
        }
        assert_eq!(taken(&mut upstream_queue, ConnectionId(1)).len(), 2);
        upstream_queue.leave(ConnectionId(1));
        upstream_queue.open(ConnectionId(2));
        assert_eq!(taken(&mut upstream_queue, ConnectionId(2)).len(), 2);
        assert!(upstream_queue.ack(ConnectionId(2), "d", "dr2:1").is_some());
        assert_eq!(upstream_queue.len(), 1);
        assert!(upstream_queue.ack(ConnectionId(2), "d", "dr2:1").is_some());
        assert_eq!((upstream_queue.len(), upstream_queue.ack(ConnectionId(2), "d", "dr2:1")), (0, None));
    }

    #[test]
    fn a_draining_connection_gets_messages_only_if_it_is_the_only_one() {
        let mut upstream_queue = UpstreamQueue::new(1, 10);
        upstream_queue.open(ConnectionId(1));
        upstream_queue.drain(ConnectionId(1));
        upstream_queue.submit(queued("d", "1")).unwrap();
        assert_eq!(taken(&mut upstream_queue, ConnectionId(1)), ["1"]);
        upstream_queue.open(ConnectionId(2));
        upstream_queue.submit(queued("d", "2")).unwrap();
        assert_eq!(taken(&mut upstream_queue, ConnectionId(2)), ["2"]);
        upstream_queue.open(ConnectionId(3));
        upstream_queue.submit(queued("d", "3")).unwrap();
        upstream_queue.drain(ConnectionId(2));
        upstream_queue.drain(ConnectionId(3));
        upstream_queue.open(ConnectionId(4));
        upstream_queue.ack(ConnectionId(2), "d", "2");
        let moved = [taken(&mut upstream_queue, ConnectionId(2)), taken(&mut upstream_queue, ConnectionId(3))].concat();
        assert_eq!(moved, ["3"], "with all of them draining it stays where it is");
    }

    #[test]
    fn devices_are_spread_over_connections_and_keep_theirs() {
        let mut upstream_queue = UpstreamQueue::new(1_000, 10_000);
        for connection in 1..=4 {
            upstream_queue.open(ConnectionId(connection));
        }
        for n in 0..400 {
            upstream_queue.submit(queued(&format!("d{}", n % 100), &n.to_string())).unwrap();
        }
        let shares: Vec<Vec<String>> =
            (1..=4).map(|connection| taken(&mut upstream_queue, ConnectionId(connection))).collect();
        assert!(shares.iter().all(|share| share.len() > 40), "{:?}", shares.iter().map(Vec::len).collect::<Vec<_>>());
        for share in shares {
            let numbers: Vec<u32> = share.iter().map(|id| id.parse().unwrap()).collect();
            assert!(numbers.is_sorted());
        }
    }

    #[test]
    fn the_room_is_limited() {
        let mut upstream_queue = UpstreamQueue::new(1, 2);
        assert_eq!([1, 2, 3].map(|n| upstream_queue.submit(queued("d", &n.to_string())).is_ok()), [true, true, false]);
    }
}
