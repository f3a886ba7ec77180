//! Random publishing, hearing, reading, pulling, acknowledging, cutting, restarting.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::broker::session::outgoing_message::SourceKey;

const INFLIGHT: u16 = 5;
const SIZES: [usize; 4] = [10, 1_000, 60_000, 90_000];

#[derive(Debug, Clone)]
struct Row {
    topic: &'static str,
    size: usize,
    qos: QoS,
    expires_at: Option<u64>,
    packet_id: Option<u16>,
    released: bool,
    maybe_sent: bool,
}

#[derive(Debug, Clone)]
enum News {
    Row(u64, Row),
    Document(Arc<str>, u64, usize),
}

#[derive(Debug)]
enum Answer {
    Rows(Vec<QueueRow>),
    Documents(Vec<OutgoingMessage>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flying {
    Published(QoS),
    Released,
}

/// The last messages of a topic. At QoS 0 a message may be before its place, but only where the window was full.
#[derive(Debug, Clone, Copy, Default)]
struct Last {
    at_qos_0: u64,
    /// Of those that nothing earlier may follow.
    in_place: u64,
}

struct Harness {
    now: u64,
    seq: u64,
    /// The last number of which the queue was notified.
    notified: Option<u64>,
    rows: BTreeMap<u64, Row>,
    documents: BTreeMap<(Arc<str>, u64), (usize, bool)>,
    news: VecDeque<News>,
    queue: Queue,
    window: Window,
    connected: bool,
    reads: Vec<(PageRequest, Option<Answer>)>,
    /// What the client is to acknowledge, by its packet identifier.
    flying: BTreeMap<u16, Flying>,
    /// What the server has in flight, over all connections.
    ids: BTreeMap<SourceKey, u16>,
    /// Sent over this connection.
    sent: BTreeSet<SourceKey>,
    /// Sent before this connection, and never acknowledged.
    doubtful: BTreeSet<SourceKey>,
    /// QoS 2: the client owns it.
    owned: BTreeSet<SourceKey>,
    /// How far each topic is over this connection.
    last: HashMap<Arc<str>, Last>,
}

impl Harness {
    fn new() -> Self {
        Self {
            now: 1,
            seq: 0,
            notified: None,
            rows: BTreeMap::new(),
            documents: BTreeMap::new(),
            news: VecDeque::new(),
            queue: Queue::new(LIMITS),
            window: Window::new(INFLIGHT),
            connected: true,
            reads: Vec::new(),
            flying: BTreeMap::new(),
            ids: BTreeMap::new(),
            sent: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            owned: BTreeSet::new(),
            last: HashMap::new(),
        }
    }

    fn act(&mut self, action: u8, argument: u8) {
        match action {
            0..3 => self.publish_row(argument),
            3..5 => self.publish_document(argument),
            5 => self.push(["r0", "r1"][usize::from(argument % 2)]),
            6..10 => (0..=argument % 4).for_each(|_| self.hear()),
            10 => self.hear_names(),
            11..14 => self.ask(),
            14..16 => self.execute(argument),
            16..19 => self.answer(argument),
            19 => {
                if let Some((read, _)) = (!self.reads.is_empty()).then(|| self.reads.remove(0)) {
                    self.queue.read_failed(&read);
                }
            }
            20..26 => (0..=argument % 4).for_each(|_| self.pull()),
            26..32 => self.acknowledge(argument),
            32 => self.cut(argument),
            33..35 => self.resume(argument),
            35 => self.restart(),
            _ => self.now += 2,
        }
    }

    fn publish_row(&mut self, argument: u8) {
        self.seq += 1;
        let row = Row {
            topic: ["r0", "r1"][usize::from(argument % 2)],
            size: SIZES[usize::from(argument / 2 % 4)],
            qos: if argument & 8 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce },
            expires_at: (argument > 200).then_some(self.now + 4),
            packet_id: None,
            released: false,
            maybe_sent: false,
        };
        self.rows.insert(self.seq, row.clone());
        self.news.push_back(News::Row(self.seq, row));
    }

    fn publish_document(&mut self, argument: u8) {
        self.seq += 1;
        let topic: Arc<str> = ["d0", "d1", "d2"][usize::from(argument % 3)].into();
        let size = SIZES[usize::from(argument / 3 % 4)];
        self.documents.insert((Arc::clone(&topic), self.seq), (size, false));
        self.news.push_back(News::Document(topic, self.seq, size));
    }

    /// QoS 0. A publisher's next message is taken when the queue was notified of its last one.
    fn push(&mut self, topic: &'static str) {
        if !self.news.iter().any(|news| matches!(news, News::Row(_, row) if row.topic == topic)) {
            self.seq += 1;
            let (message, qos) = (message(topic, 10, QoS::AtMostOnce, None), QoS::AtMostOnce);
            self.queue.push(OutgoingMessage::memory(message, target(qos, self.seq)), self.notified);
        }
    }

    fn hear(&mut self) {
        match self.news.pop_front() {
            Some(News::Row(seq, row)) => {
                self.notified = Some(seq);
                let message = message(row.topic, row.size, row.qos, row.expires_at);
                self.queue.notify_row(seq, OutgoingMessage::row(seq, message, target(row.qos, seq)));
            }
            Some(News::Document(topic, seq, size)) => {
                self.notified = Some(seq);
                self.queue.notify_document(&reference(&topic, seq), document(&topic, seq, size, false));
            }
            None => {}
        }
    }

    fn hear_names(&mut self) {
        for news in std::mem::take(&mut self.news) {
            self.notified = None;
            match news {
                News::Row(..) => self.queue.behind_on_rows(),
                News::Document(topic, ..) => self.queue.behind_on(&topic),
            }
        }
    }

    fn ask(&mut self) {
        if let Some(read) = self.connected.then(|| self.queue.next_read()).flatten() {
            self.reads.push((read, None));
        }
    }

    /// The store looks.
    fn execute(&mut self, argument: u8) {
        let Some((read, answer @ None)) = self.reads.last_mut() else { return };
        let mut left = read.page.bytes;
        let mut fits = |index: usize, size: usize| {
            let fits = index == 0 || index < 1 + usize::from(argument) && size <= left;
            left = left.saturating_sub(size);
            fits
        };
        *answer = Some(match &read.what {
            ReadWhat::Rows(after) => {
                let rows = self.rows.range(after + 1..).enumerate().take_while(|(n, (_, row))| fits(*n, row.size));
                let rows = rows.map(|(_, (&seq, row))| QueueRow {
                    seq,
                    message: message(row.topic, row.size, row.qos, row.expires_at),
                    target: target(row.qos, seq),
                    packet_id: row.packet_id,
                    released: row.released,
                    maybe_sent: row.maybe_sent,
                });
                Answer::Rows(rows.collect())
            }
            ReadWhat::Documents(topic, after) => {
                let all = self.documents.range((Arc::clone(topic), after + 1)..).take_while(|((t, _), _)| t == topic);
                let some = all.enumerate().take_while(|(n, (_, (size, _)))| fits(*n, *size));
                Answer::Documents(
                    some.map(|(_, ((_, seq), (size, again)))| document(topic, *seq, *size, *again)).collect(),
                )
            }
            ReadWhat::Topics => panic!("there are few topics"),
        });
    }

    fn answer(&mut self, argument: u8) {
        let at = usize::from(argument) % self.reads.len().max(1);
        if self.reads.get(at).is_none_or(|(_, answer)| answer.is_none()) {
            return;
        }
        match self.reads.remove(at) {
            (read, Some(Answer::Rows(rows))) if self.connected => {
                for id in rows.iter().filter_map(|row| self.window.restore(row)) {
                    self.flying.insert(id, Flying::Released);
                }
                self.queue.rows_came(&read, rows);
            }
            (read, Some(Answer::Documents(documents))) => self.queue.documents_came(&read, documents),
            _ => {}
        }
    }

    fn pull(&mut self) {
        if !self.connected {
            return;
        }
        let room = self.window.has_room();
        match self.queue.pull(room, self.now) {
            Some(Pulled::Expired(item)) => {
                let Source::Row(seq) = item.source else { panic!("only rows expire here") };
                self.window.forget(&item.source);
                self.settle(&SourceKey::Row(seq));
            }
            Some(Pulled::Send(item)) => {
                self.is_in_order(&item, room);
                self.send(&item);
            }
            None => {}
        }
    }

    /// Nothing passes anything of its topic, but for QoS 0 where the window has no room.
    fn is_in_order(&mut self, item: &OutgoingMessage, room: bool) {
        let (number, topic) = (item.ids[0].into(), &item.message.topic);
        let last = self.last.entry(Arc::clone(topic)).or_default();
        let qos_0 = item.qos == QoS::AtMostOnce;
        let before = if qos_0 { last.in_place.max(last.at_qos_0) } else { last.in_place };
        assert!(before < number, "{number} of {topic} came after {last:?}");
        if qos_0 {
            last.at_qos_0 = number;
        }
        if room || !qos_0 {
            last.in_place = number;
        }
    }

    fn send(&mut self, item: &OutgoingMessage) {
        let Some(key) = item.source.key() else { return };
        let sent = self.window.take_id(item, QueueRef::Own).unwrap();
        assert!(!self.owned.contains(&key), "{key:?} was owned by the client");
        assert!(self.sent.insert(key.clone()), "{key:?} comes twice");
        assert!(sent.dup || !self.doubtful.contains(&key), "{key:?} is a copy");
        if let Some(id) = self.ids.insert(key.clone(), sent.id) {
            assert_eq!(id, sent.id, "{key:?} has another identifier");
        }
        let same: Vec<_> = self.ids.iter().filter(|(_, id)| **id == sent.id).collect();
        assert_eq!(same.len(), 1, "{same:?}");
        assert_eq!(self.flying.insert(sent.id, Flying::Published(item.qos)), None);
        assert!(self.flying.values().filter(|state| matches!(state, Flying::Published(_))).count() <= INFLIGHT.into());
        if let (true, SourceKey::Row(seq)) = (sent.must_store, &key) {
            self.rows.get_mut(seq).unwrap().packet_id = Some(sent.id);
        }
    }

    fn acknowledge(&mut self, argument: u8) {
        let at = usize::from(argument) % self.flying.len().max(1);
        let Some((&id, &state)) = self.flying.iter().nth(at) else { return };
        match state {
            Flying::Published(QoS::ExactlyOnce) => {
                let PubrecOutcome::Release(Some(seq)) = self.window.pubrec(id, false) else { panic!("{id} is no row") };
                self.rows.get_mut(&seq).unwrap().released = true;
                self.owned.insert(SourceKey::Row(seq));
                self.flying.insert(id, Flying::Released);
                assert_eq!(self.window.pubrec(id, false), PubrecOutcome::AlreadyReleased);
            }
            Flying::Published(_) => {
                let key = self.window.puback(id).unwrap().source.key().unwrap();
                self.flying.remove(&id);
                self.settle(&key);
            }
            Flying::Released => {
                let key = self.window.pubcomp(id).unwrap().source.key().unwrap();
                self.flying.remove(&id);
                self.settle(&key);
            }
        }
    }

    fn settle(&mut self, key: &SourceKey) {
        self.ids.remove(key);
        match key {
            SourceKey::Row(seq) => drop(self.rows.remove(seq)),
            SourceKey::Document(topic, seq) => {
                self.documents.remove(&(Arc::clone(topic), *seq));
                self.queue.acknowledged(&reference(topic, *seq));
            }
        }
    }

    fn cut(&mut self, argument: u8) {
        if !self.connected {
            return;
        }
        self.connected = false;
        assert_eq!(self.window.suspend(), []);
        for seen in self.queue.away() {
            for (_, (_, redelivered)) in self.documents.range_mut((Arc::clone(&seen.topic), 0)..=(seen.topic, seen.seq))
            {
                *redelivered = true;
            }
        }
        self.doubtful.extend(std::mem::take(&mut self.sent));
        self.flying.clear();
        self.last.clear();
        if argument.is_multiple_of(2) {
            self.reads.clear();
        }
    }

    fn resume(&mut self, argument: u8) {
        if self.connected {
            return;
        }
        self.connected = true;
        self.window.resume(1 + u16::from(argument % 8));
        self.flying = self.window.released().into_iter().map(|(id, _)| (id, Flying::Released)).collect();
        self.queue.open();
        let topics: BTreeSet<_> = self.documents.keys().map(|(topic, _)| Arc::clone(topic)).collect();
        self.queue.watch(&topics);
    }

    /// The process is killed. The store says which rows were handed out, and that documents of claimed topics were seen.
    fn restart(&mut self) {
        self.cut(0);
        self.news.clear();
        self.reads.clear();
        self.notified = None;
        let sent = |key: &SourceKey| self.doubtful.contains(key);
        self.rows.iter_mut().for_each(|(seq, row)| row.maybe_sent |= sent(&SourceKey::Row(*seq)));
        self.ids.retain(|key, _| matches!(key, SourceKey::Row(seq) if self.rows[seq].packet_id.is_some()));
        (self.queue, self.window) = (Queue::kept(LIMITS), Window::new(INFLIGHT));
    }

    fn settles(&mut self) {
        self.resume(3);
        for _ in 0..10_000 {
            (0..10).for_each(|_| self.hear());
            self.ask();
            self.execute(200);
            (0..self.reads.len()).for_each(|at| self.answer(at as u8));
            (0..10).for_each(|_| self.pull());
            (0..10).for_each(|_| self.acknowledge(0));
            if self.rows.is_empty() && self.documents.is_empty() && self.news.is_empty() {
                assert_eq!(self.window.len(), 0);
                return;
            }
        }
        panic!("never delivered: {:?} {:?}", self.rows, self.documents);
    }
}

proptest! {
    #[test]
    fn everything_arrives_in_order_and_says_when_it_may_come_twice(
        actions in prop::collection::vec((0..38_u8, any::<u8>()), 0..300)
    ) {
        let mut harness = Harness::new();
        for (action, argument) in actions {
            harness.act(action, argument);
        }
        harness.settles();
    }
}
