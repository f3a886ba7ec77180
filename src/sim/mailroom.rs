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
//! A device's letters stay on one connection as long as it is there, so they keep their order.

use super::event::ConnectionId;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// What a letter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message of a device.
    Upstream,
    /// A receipt.
    Receipt,
}

/// Something to send to a client until it is acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Letter {
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

/// The letters of all connections.
#[derive(Debug)]
pub(super) struct Mailroom {
    window: usize,
    limit: usize,
    total: usize,
    waiting: VecDeque<Letter>,
    lanes: BTreeMap<ConnectionId, Lane>,
    /// The connections among which letters are spread: those not draining, or else all.
    takers: Vec<ConnectionId>,
    /// Connections that have something new to send.
    changed: HashSet<ConnectionId>,
}

#[derive(Debug, Default)]
struct Lane {
    draining: bool,
    queue: VecDeque<Letter>,
    /// By sender and id. Two letters may have the same: the receipts of a message that a device got twice.
    outstanding: HashMap<Box<str>, Vec<Outstanding>>,
    /// Copies without an acknowledgement.
    unacked: usize,
    next_seq: u64,
}

#[derive(Debug)]
struct Outstanding {
    letter: Letter,
    seq: u64,
    copies: usize,
}

/// There are too many letters already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Mailroom {
    /// `window` copies may be unacknowledged on a connection; there may be `limit` letters in all.
    pub(super) fn new(window: usize, limit: usize) -> Self {
        Self {
            window,
            limit,
            total: 0,
            waiting: VecDeque::new(),
            lanes: BTreeMap::new(),
            takers: Vec::new(),
            changed: HashSet::new(),
        }
    }

    /// Letters that were not acknowledged yet.
    pub(super) fn len(&self) -> usize {
        self.total
    }

    /// Takes a letter.
    pub(super) fn submit(&mut self, letter: Letter) -> Result<(), Full> {
        if self.total >= self.limit {
            return Err(Full);
        }
        self.total += 1;
        self.assign(letter);
        Ok(())
    }

    /// A connection can take letters now.
    pub(super) fn open(&mut self, connection: ConnectionId) {
        self.lanes.insert(connection, Lane::default());
        self.choose_takers();
        for letter in std::mem::take(&mut self.waiting) {
            self.assign(letter);
        }
    }

    /// A connection begins to drain. What it has not sent yet goes to another connection if there is one.
    pub(super) fn drain(&mut self, connection: ConnectionId) {
        let Some(lane) = self.lanes.get_mut(&connection) else {
            return;
        };
        lane.draining = true;
        let queue = std::mem::take(&mut lane.queue);
        self.choose_takers();
        for letter in queue {
            self.assign(letter);
        }
    }

    /// A connection ended. What was not acknowledged on it is sent again, in its order.
    pub(super) fn leave(&mut self, connection: ConnectionId) {
        let Some(lane) = self.lanes.remove(&connection) else {
            return;
        };
        self.changed.remove(&connection);
        self.choose_takers();
        let mut unacked: Vec<Outstanding> = lane.outstanding.into_values().flatten().collect();
        unacked.sort_by_key(|outstanding| outstanding.seq);
        for letter in unacked.into_iter().map(|outstanding| outstanding.letter).chain(lane.queue) {
            self.assign(letter);
        }
    }

    /// The next letter for a connection, if its window allows one and it is time.
    pub(super) fn take(&mut self, connection: ConnectionId, now: u64) -> Option<Letter> {
        let lane = self.lanes.get_mut(&connection)?;
        if lane.unacked >= self.window || lane.queue.front()?.not_before > now {
            return None;
        }
        let mut letter = lane.queue.pop_front()?;
        letter.sent += 1;
        lane.unacked += 1;
        let (seq, copies) = (lane.next_seq, 1);
        lane.next_seq += 1;
        let outstanding = lane.outstanding.entry(key(&letter.from, &letter.id)).or_default();
        outstanding.push(Outstanding { letter: letter.clone(), seq, copies });
        Some(letter)
    }

    /// Sends a letter just taken once more. False if the window does not allow it.
    pub(super) fn repeat(&mut self, connection: ConnectionId, letter: &Letter) -> bool {
        let lane = self.lanes.get_mut(&connection).filter(|lane| lane.unacked < self.window);
        let Some(lane) = lane else { return false };
        let same = lane.outstanding.get_mut(&key(&letter.from, &letter.id)).and_then(|same| same.last_mut());
        let Some(outstanding) = same else { return false };
        outstanding.copies += 1;
        lane.unacked += 1;
        true
    }

    /// When [`Mailroom::take`] may give something that it does not give now, apart from acknowledgements.
    pub(super) fn next_due(&self, connection: ConnectionId) -> Option<u64> {
        let lane = self.lanes.get(&connection)?;
        let front = lane.queue.front()?;
        (lane.unacked < self.window).then_some(front.not_before)
    }

    /// An acknowledgement. Gives what was acknowledged, or `None` if nothing of that name is outstanding on the
    /// connection.
    pub(super) fn ack(&mut self, connection: ConnectionId, from: &str, id: &str) -> Option<Kind> {
        let lane = self.lanes.get_mut(&connection)?;
        let key = key(from, id);
        let same = lane.outstanding.get_mut(&key)?;
        let outstanding = same.first_mut()?;
        let kind = outstanding.letter.kind;
        outstanding.copies -= 1;
        lane.unacked -= 1;
        if outstanding.copies == 0 {
            same.remove(0);
            self.total -= 1;
        }
        if same.is_empty() {
            lane.outstanding.remove(&key);
        }
        Some(kind)
    }

    /// The connections that got something to send since the last call.
    pub(super) fn take_changed(&mut self) -> impl Iterator<Item = ConnectionId> {
        self.changed.drain()
    }

    /// Chooses a connection by the device.
    fn assign(&mut self, letter: Letter) {
        let mut hasher = DefaultHasher::new();
        letter.device.hash(&mut hasher);
        let choice = hasher.finish().checked_rem(self.takers.len() as u64).and_then(|at| usize::try_from(at).ok());
        let connection = choice.and_then(|at| self.takers.get(at).copied());
        match connection.and_then(|connection| self.lanes.get_mut(&connection)) {
            Some(lane) => {
                lane.queue.push_back(letter);
                self.changed.extend(connection);
            }
            None => self.waiting.push_back(letter),
        }
    }

    fn choose_takers(&mut self) {
        let open = self.lanes.iter().filter(|(_, lane)| !lane.draining).map(|(&connection, _)| connection);
        self.takers = open.collect();
        if self.takers.is_empty() {
            self.takers = self.lanes.keys().copied().collect();
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

    fn letter(device: &str, id: &str) -> Letter {
        let (kind, not_before, sent) = (Kind::Upstream, 0, 0);
        Letter { kind, from: device.into(), id: id.into(), device: device.into(), json: "{}".into(), not_before, sent }
    }

    fn taken(mailroom: &mut Mailroom, connection: ConnectionId) -> Vec<String> {
        std::iter::from_fn(|| mailroom.take(connection, 0)).map(|letter| letter.id.to_string()).collect()
    }

    #[test]
    fn letters_wait_for_a_connection_and_for_its_window() {
        let mut mailroom = Mailroom::new(2, 10);
        for id in ["1", "2", "3"] {
            mailroom.submit(letter("d", id)).unwrap();
        }
        mailroom.open(ConnectionId(1));
        assert_eq!(mailroom.take_changed().collect::<Vec<_>>(), [ConnectionId(1)]);
        assert_eq!(taken(&mut mailroom, ConnectionId(1)), ["1", "2"]);
        assert_eq!(mailroom.ack(ConnectionId(1), "d", "1"), Some(Kind::Upstream));
        assert_eq!(taken(&mut mailroom, ConnectionId(1)), ["3"]);
        assert_eq!(mailroom.len(), 2);
    }

    #[test]
    fn what_was_not_acknowledged_comes_again_in_its_order_elsewhere() {
        let mut mailroom = Mailroom::new(3, 10);
        mailroom.open(ConnectionId(1));
        for id in ["9", "1", "5", "7"] {
            mailroom.submit(letter("d", id)).unwrap();
        }
        assert_eq!(taken(&mut mailroom, ConnectionId(1)), ["9", "1", "5"]);
        mailroom.ack(ConnectionId(1), "d", "1");
        mailroom.leave(ConnectionId(1));
        mailroom.open(ConnectionId(2));
        assert_eq!(taken(&mut mailroom, ConnectionId(2)), ["9", "5", "7"]);
    }

    #[test]
    fn an_acknowledgement_counts_only_on_its_own_connection_and_once() {
        let mut mailroom = Mailroom::new(3, 10);
        mailroom.open(ConnectionId(1));
        mailroom.submit(letter("d", "1")).unwrap();
        mailroom.open(ConnectionId(2));
        assert_eq!(mailroom.ack(ConnectionId(1), "d", "1"), None, "it was not sent yet");
        taken(&mut mailroom, ConnectionId(1));
        assert_eq!(mailroom.ack(ConnectionId(2), "d", "1"), None);
        assert_eq!(mailroom.ack(ConnectionId(1), "other", "1"), None);
        assert_eq!(mailroom.ack(ConnectionId(1), "d", "1"), Some(Kind::Upstream));
        assert_eq!(mailroom.ack(ConnectionId(1), "d", "1"), None);
    }

    #[test]
    fn each_copy_of_a_letter_wants_its_own_acknowledgement() {
        let mut mailroom = Mailroom::new(2, 10);
        mailroom.open(ConnectionId(1));
        mailroom.submit(letter("d", "1")).unwrap();
        let first = mailroom.take(ConnectionId(1), 0).unwrap();
        assert!(mailroom.repeat(ConnectionId(1), &first));
        assert!(!mailroom.repeat(ConnectionId(1), &first), "the window is full");
        assert!(mailroom.ack(ConnectionId(1), "d", "1").is_some());
        assert_eq!(mailroom.len(), 1);
        assert!(mailroom.ack(ConnectionId(1), "d", "1").is_some());
        assert_eq!(mailroom.len(), 0);
    }

    #[test]
    fn letters_of_the_same_name_are_all_kept() {
        let mut mailroom = Mailroom::new(3, 10);
        mailroom.open(ConnectionId(1));
        for _ in 0..2 {
            mailroom.submit(letter("d", "dr2:1")).unwrap();
        }
        assert_eq!(taken(&mut mailroom, ConnectionId(1)).len(), 2);
        mailroom.leave(ConnectionId(1));
        mailroom.open(ConnectionId(2));
        assert_eq!(taken(&mut mailroom, ConnectionId(2)).len(), 2);
        assert!(mailroom.ack(ConnectionId(2), "d", "dr2:1").is_some());
        assert_eq!(mailroom.len(), 1);
        assert!(mailroom.ack(ConnectionId(2), "d", "dr2:1").is_some());
        assert_eq!((mailroom.len(), mailroom.ack(ConnectionId(2), "d", "dr2:1")), (0, None));
    }

    #[test]
    fn a_draining_connection_gets_letters_only_if_it_is_the_only_one() {
        let mut mailroom = Mailroom::new(1, 10);
        mailroom.open(ConnectionId(1));
        mailroom.drain(ConnectionId(1));
        mailroom.submit(letter("d", "1")).unwrap();
        assert_eq!(taken(&mut mailroom, ConnectionId(1)), ["1"]);
        mailroom.open(ConnectionId(2));
        mailroom.submit(letter("d", "2")).unwrap();
        assert_eq!(taken(&mut mailroom, ConnectionId(2)), ["2"]);
        mailroom.open(ConnectionId(3));
        mailroom.submit(letter("d", "3")).unwrap();
        mailroom.drain(ConnectionId(2));
        mailroom.drain(ConnectionId(3));
        mailroom.open(ConnectionId(4));
        mailroom.ack(ConnectionId(2), "d", "2");
        let moved = [taken(&mut mailroom, ConnectionId(2)), taken(&mut mailroom, ConnectionId(3))].concat();
        assert_eq!(moved, ["3"], "with all of them draining it stays where it is");
    }

    #[test]
    fn devices_are_spread_over_connections_and_keep_theirs() {
        let mut mailroom = Mailroom::new(1_000, 10_000);
        for connection in 1..=4 {
            mailroom.open(ConnectionId(connection));
        }
        for n in 0..400 {
            mailroom.submit(letter(&format!("d{}", n % 100), &n.to_string())).unwrap();
        }
        let shares: Vec<Vec<String>> =
            (1..=4).map(|connection| taken(&mut mailroom, ConnectionId(connection))).collect();
        assert!(shares.iter().all(|share| share.len() > 40), "{:?}", shares.iter().map(Vec::len).collect::<Vec<_>>());
        for share in shares {
            let numbers: Vec<u32> = share.iter().map(|id| id.parse().unwrap()).collect();
            assert!(numbers.is_sorted());
        }
    }

    #[test]
    fn the_room_is_limited() {
        let mut mailroom = Mailroom::new(1, 2);
        assert_eq!([1, 2, 3].map(|n| mailroom.submit(letter("d", &n.to_string())).is_ok()), [true, true, false]);
    }
}
