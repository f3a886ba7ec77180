//! Random work on the queues of a broker's sessions, with kills in between, against plain lists.
//!
//! What must hold: nothing that was answered is lost, a queue and a topic keep their order, no row is there twice, what may
//! have been sent before a kill is marked, what never was is not, and news is told once and in order.

use super::sessions::{ALL, ask, put, said, to, took};
use super::*;
use crate::chat::qos::QoS;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Queues: of sessions, and at the end of a group.
const QUEUES: usize = 4;
const GROUP: usize = QUEUES - 1;
const TOPICS: [&str; 2] = ["t/others/x", "t/others/y"];

#[derive(Debug, Clone)]
enum Op {
    /// To those with a bit; it expires after so long.
    Publish {
        to: u8,
        ttl: Option<u64>,
    },
    Tell {
        topic: usize,
    },
    /// From behind the n-th row on.
    Read {
        queue: usize,
        after: usize,
        rows: usize,
    },
    ReadDocuments {
        queue: usize,
        topic: usize,
        rows: usize,
    },
    /// So many from the n-th on.
    Acknowledge {
        queue: usize,
        from: usize,
        count: usize,
    },
    /// The n-th document that the queue can read; the others with a bit get it.
    AcknowledgeDocument {
        queue: usize,
        topic: usize,
        which: usize,
        others: u8,
    },
    /// The n-th document that the queue can read.
    Seen {
        queue: usize,
        topic: usize,
        which: usize,
        still_read: bool,
    },
    Assign {
        queue: usize,
        which: usize,
    },
    Release {
        queue: usize,
        which: usize,
    },
    Leave {
        queue: usize,
    },
    Return {
        queue: usize,
    },
    End {
        queue: usize,
    },
    Pass {
        ms: u64,
    },
    Sweep,
    /// With so many messages on their way, to those with a bit.
    Kill {
        to: Vec<u8>,
    },
    Reopen,
}

fn any_op() -> impl Strategy<Value = Op> {
    let (queue, topic, few) = (0..QUEUES, 0..TOPICS.len(), 0usize..6);
    let ttl = prop_oneof![3 => Just(None), 1 => (1u64..50).prop_map(Some)];
    prop_oneof![
        12 => (1u8..16, ttl).prop_map(|(to, ttl)| Op::Publish { to, ttl }),
        6 => topic.clone().prop_map(|topic| Op::Tell { topic }),
        5 => (queue.clone(), few.clone(), 1usize..4).prop_map(|(queue, after, rows)| Op::Read { queue, after, rows }),
        6 => (queue.clone(), topic.clone(), 1usize..4)
            .prop_map(|(queue, topic, rows)| Op::ReadDocuments { queue, topic, rows }),
        6 => (queue.clone(), few.clone(), 1usize..4)
            .prop_map(|(queue, from, count)| Op::Acknowledge { queue, from, count }),
        6 => (queue.clone(), topic.clone(), few.clone(), 0u8..16)
            .prop_map(|(queue, topic, which, others)| Op::AcknowledgeDocument { queue, topic, which, others }),
        2 => (queue.clone(), topic, few.clone(), any::<bool>())
            .prop_map(|(queue, topic, which, still_read)| Op::Seen { queue, topic, which, still_read }),
        3 => (queue.clone(), few.clone()).prop_map(|(queue, which)| Op::Assign { queue, which }),
        3 => (queue.clone(), few).prop_map(|(queue, which)| Op::Release { queue, which }),
        3 => (0..QUEUES).prop_map(|queue| Op::Leave { queue }),
        5 => (0..QUEUES).prop_map(|queue| Op::Return { queue }),
        1 => queue.prop_map(|queue| Op::End { queue }),
        2 => (1u64..40).prop_map(|ms| Op::Pass { ms }),
        1 => Just(Op::Sweep),
        2 => prop::collection::vec(1u8..16, 0..5).prop_map(|to| Op::Kill { to }),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Debug, Clone)]
struct ModelRow {
    seq: u64,
    text: String,
    expires_at: Option<u64>,
    packet_id: Option<u16>,
    released: bool,
    /// A reader may have it.
    sent: bool,
    /// A reader may have it, or there was one who could have asked.
    exposed: bool,
    /// The same, before the last start.
    before: (bool, bool),
    /// Of a document: its topic.
    topic: Option<usize>,
}

impl ModelRow {
    /// What it counts for, until it is gone: a released one, too, although its body is not on disk any more.
    fn bytes(&self) -> u64 {
        self.text.len() as u64
    }

    fn goes(&self, now: u64) -> bool {
        self.packet_id.is_none() && self.expires_at.is_some_and(|at| at <= now)
    }
}

#[derive(Debug, Default)]
struct ModelQueue {
    id: Option<QueueId>,
    connected: bool,
    /// By their numbers: documents and messages of clients.
    rows: Vec<ModelRow>,
    /// Topics that it read since it has this connection.
    reads: BTreeSet<usize>,
}

impl ModelQueue {
    fn clients(&mut self) -> impl Iterator<Item = &mut ModelRow> {
        self.rows.iter_mut().filter(|row| row.topic.is_none())
    }

    fn expose(&mut self) {
        self.rows.iter_mut().for_each(|row| row.exposed = true);
    }
}

#[derive(Debug, Clone)]
struct ModelDocument {
    reference: DocumentRef,
    text: String,
    marked: bool,
    /// Queues whose readers may have it.
    readers: BTreeSet<usize>,
}

struct Harness {
    rig: Rig,
    now: u64,
    count: u64,
    queues: Vec<ModelQueue>,
    documents: [Vec<ModelDocument>; 2],
    claimed: BTreeSet<usize>,
    last_seq: u64,
}

impl Harness {
    fn new() -> Self {
        let rig = Rig::in_memory(Limits::default());
        rig.store.listen();
        let queues = (0..QUEUES).map(|_| ModelQueue::default()).collect();
        let (documents, claimed) = ([Vec::new(), Vec::new()], BTreeSet::new());
        Self { rig, now: NOW, count: 0, queues, documents, claimed, last_seq: 0 }
    }

    async fn run(mut self, ops: Vec<Op>) {
        for queue in 0..QUEUES {
            self.come(queue).await;
        }
        for op in ops {
            self.step(op).await;
        }
        self.end().await;
    }

    async fn come(&mut self, queue: usize) {
        let id = if queue == GROUP {
            ask!(self.rig, keep_group, "g/a".to_owned())
        } else {
            self.rig.session(&queue.to_string()).await
        };
        let model = &mut self.queues[queue];
        assert!(model.id.is_none_or(|known| known == id));
        (model.id, model.connected) = (Some(id), true);
        model.expose();
    }

    fn text(&mut self) -> String {
        self.count += 1;
        format!("{}{}", self.count, "x".repeat(usize::try_from(self.count % 7).unwrap()))
    }

    fn chosen(&self, bits: u8) -> Vec<usize> {
        (0..QUEUES).filter(|n| bits & (1 << n) != 0 && self.queues[*n].id.is_some()).collect()
    }

    fn enqueue(&self, text: &str, expires_at: Option<u64>, to: &[usize]) -> Enqueue {
        let ids: Vec<_> = to.iter().filter_map(|queue| self.queues[*queue].id).collect();
        let message = Arc::new(Message { expires_at, qos: QoS::ExactlyOnce, ..(*said("a/b", text)).clone() });
        put(&message, &ids)
    }

    fn put(&mut self, queue: usize, seq: u64, text: &str, expires_at: Option<u64>) {
        let model = &mut self.queues[queue];
        let (packet_id, released, before, topic) = (None, false, (false, false), None);
        let (sent, exposed) = (model.connected, model.connected);
        let text = text.to_owned();
        model.rows.push(ModelRow { seq, text, expires_at, packet_id, released, sent, exposed, before, topic });
    }

    async fn news(&self) -> Vec<CommitEvent> {
        let news = tokio::time::timeout(Duration::ZERO, self.rig.store.commit_events()).await.unwrap_or_default();
        assert!(news.topics.is_empty() && news.queues.is_empty());
        news.items
    }

    async fn publish(&mut self, to: u8, ttl: Option<u64>) {
        let (to, text, expires_at) = (self.chosen(to), self.text(), ttl.map(|ttl| self.now + ttl));
        ask!(self.rig, enqueue, self.enqueue(&text, expires_at, &to));
        let mut told: BTreeMap<QueueId, u64> = BTreeMap::new();
        for fresh in self.news().await {
            let CommitEvent::Row { seq, message, target } = fresh else { panic!("{fresh:?}") };
            assert_eq!(message.payload, text);
            assert!(seq > self.last_seq && told.insert(target.queue, seq).is_none());
        }
        let connected: BTreeSet<_> = to.iter().filter(|q| self.queues[**q].connected).collect();
        assert_eq!(told.len(), connected.len(), "all with a connection, and nobody else");
        // Nobody says what number it has who is away: it is looked up.
        let seq = told.values().next().copied().or_else(|| self.newest());
        self.last_seq = seq.unwrap_or(self.last_seq);
        to.into_iter().for_each(|queue| self.put(queue, self.last_seq, &text, expires_at));
    }

    fn newest(&self) -> Option<u64> {
        let file = rusqlite::Connection::open(&self.rig.settings.path).unwrap();
        let seq = file.query_row("SELECT max(seq) FROM queue", [], |row| row.get::<_, Option<i64>>(0)).unwrap();
        seq.map(|seq| u64::try_from(seq).unwrap())
    }

    async fn tell(&mut self, topic: usize) {
        let text = self.text();
        let (payload, at) = (Bytes::from(text.clone()), self.now);
        ask!(self.rig, queue_note, Note { topic: TOPICS[topic].to_owned(), payload, correlation: None, at });
        let news = self.news().await;
        let [CommitEvent::Document { reference, payload, .. }] = &news[..] else { panic!("{news:?}") };
        assert!(*payload == text && &*reference.topic == TOPICS[topic] && reference.seq > self.last_seq);
        self.last_seq = reference.seq;
        let readers = (0..QUEUES).filter(|queue| self.queues[*queue].reads.contains(&topic)).collect();
        self.documents[topic].push(ModelDocument { reference: reference.clone(), text, marked: false, readers });
    }

    async fn read(&mut self, queue: usize, after: usize, rows: usize) {
        let now = self.now;
        let model = &mut self.queues[queue];
        let Some(id) = model.id else { return };
        let after = after.checked_sub(1).and_then(|n| model.clients().nth(n).map(|row| row.seq)).unwrap_or(0);
        let page = ask!(self.rig, read_rows, id, after, Page { rows, bytes: usize::MAX }, now);
        let expected: Vec<_> =
            model.clients().filter(|row| row.seq > after && !row.goes(now)).map(|row| row.clone()).collect();
        assert_eq!(page.rows.len(), expected.len().min(rows));
        for (row, expected) in page.rows.iter().zip(&expected) {
            let text = if expected.released { "" } else { &expected.text };
            assert_eq!((row.seq, &row.message.payload[..]), (expected.seq, text.as_bytes()), "in order");
            assert_eq!((row.packet_id, row.released), (expected.packet_id, expected.released));
            let (sent, exposed) = expected.before;
            assert!(row.maybe_sent || !sent, "not marked: {expected:?}");
            assert!(!row.maybe_sent || exposed, "marked: {expected:?}");
        }
        let last = page.rows.last().map_or(0, |row| row.seq);
        let passed = |row: &ModelRow| row.topic.is_none() && row.seq > after && (row.seq < last || !page.more);
        let went: Vec<_> = model.rows.extract_if(.., |row| passed(row) && row.goes(now)).collect();
        let bytes = went.iter().map(ModelRow::bytes).sum();
        // One behind the last row may have been looked at before the page was known to be full.
        assert!(page.expired == RowCount { rows: went.len() as u64, bytes } || page.more);
        for row in model.rows.iter_mut().filter(|row| row.seq <= last) {
            row.exposed = true;
            row.sent |= row.topic.is_none() && row.seq > after;
        }
    }

    async fn read_documents(&mut self, queue: usize, topic: usize, rows: usize) {
        let model = &mut self.queues[queue];
        let Some(id) = model.id.filter(|_| model.connected) else { return };
        let page = Page { rows, bytes: usize::MAX };
        let found = ask!(self.rig, read_documents, TOPICS[topic].into(), Some(id), 0, page);
        self.claimed.insert(topic);
        model.reads.insert(topic);
        model.expose();
        let own = model.rows.iter_mut().filter(|row| row.topic == Some(topic));
        let own = own.map(|row| (row.seq, row.text.clone(), Some(row)));
        let own: Vec<_> = own.collect();
        let outbox = self.documents[topic].iter().map(|document| (document.reference.seq, document.text.clone(), None));
        let mut expected: Vec<(u64, String, Option<&mut ModelRow>)> = outbox.chain(own).collect();
        expected.sort_by_key(|(seq, ..)| *seq);
        assert_eq!((found.documents.len(), found.more), (expected.len().min(rows), expected.len() > rows));
        for (document, (seq, text, own)) in found.documents.iter().zip(expected) {
            let waiting = &document.waiting;
            assert_eq!((waiting.reference.seq, &waiting.payload[..]), (seq, text.as_bytes()), "in one order");
            match own {
                Some(row) => {
                    assert!(waiting.redelivered || !row.before.0, "not marked: {row:?}");
                    row.sent = true;
                }
                None => {
                    let model = self.documents[topic].iter_mut().find(|model| model.reference.seq == seq).unwrap();
                    assert_eq!(waiting.redelivered, model.marked);
                    model.readers.insert(queue);
                }
            }
        }
        // What comes from now on is told to it.
        self.documents[topic].iter_mut().for_each(|document| _ = document.readers.insert(queue));
    }

    async fn acknowledge(&mut self, queue: usize, from: usize, count: usize) {
        let model = &mut self.queues[queue];
        let Some(id) = model.id else { return };
        let gone: Vec<_> = model.clients().skip(from).take(count).map(|row| row.clone()).collect();
        let rows: Vec<_> = gone.iter().map(|row| row.seq).collect();
        let settled = ask!(self.rig, acknowledged, took(Some(id), &rows, Vec::new()));
        let bytes = gone.iter().map(ModelRow::bytes).sum();
        assert_eq!(settled.rows, RowCount { rows: gone.len() as u64, bytes });
        model.rows.retain(|row| row.topic.is_some() || !rows.contains(&row.seq));
    }

    async fn acknowledge_document(&mut self, queue: usize, topic: usize, which: usize, others: u8) {
        let Some(id) = self.queues[queue].id else { return };
        let others: Vec<_> = self.chosen(others).into_iter().filter(|other| *other != queue).collect();
        let own = self.queues[queue].rows.iter().filter(|row| row.topic == Some(topic));
        let own: Vec<_> = own.map(|row| row.seq).collect();
        let seq = own.iter().copied().chain(self.documents[topic].iter().map(|d| d.reference.seq)).nth(which);
        let Some(seq) = seq else { return };
        let reference = DocumentRef { topic: TOPICS[topic].into(), seq, origin: Origin::Note };
        let targets = others.iter().filter_map(|other| self.queues[*other].id).map(to).collect();
        let taken = AckedDocument { reference, others: targets };
        ask!(self.rig, acknowledged, took(Some(id), &[], vec![taken]));
        self.queues[queue].rows.retain(|row| row.seq != seq);
        let Some(at) = self.documents[topic].iter().position(|d| d.reference.seq == seq) else { return };
        let ModelDocument { text, readers, marked, .. } = self.documents[topic].remove(at);
        for other in others {
            let model = &mut self.queues[other];
            let (expires_at, packet_id, released, before) = (None, None, false, (marked, true));
            let (sent, exposed, text) = (model.connected || readers.contains(&other), true, text.clone());
            let topic = Some(topic);
            model.rows.push(ModelRow { seq, text, expires_at, packet_id, released, sent, exposed, before, topic });
            model.rows.sort_by_key(|row| row.seq);
        }
    }

    async fn seen(&mut self, queue: usize, topic: usize, which: usize, still_read: bool) {
        let own = self.queues[queue].rows.iter().filter(|row| row.topic == Some(topic)).map(|row| row.seq);
        let mut seqs: Vec<_> = own.chain(self.documents[topic].iter().map(|d| d.reference.seq)).collect();
        seqs.sort_unstable();
        let Some(&seq) = seqs.get(which) else { return };
        let id = self.queues[queue].id;
        ask!(self.rig, documents_seen, id, vec![Seen { topic: TOPICS[topic].into(), seq }], still_read);
        let own = self.queues[queue].rows.iter_mut().filter(|row| row.topic == Some(topic) && row.seq <= seq);
        own.for_each(|row| row.before.0 = true);
        self.documents[topic].iter_mut().filter(|d| d.reference.seq <= seq).for_each(|d| d.marked = true);
        if !still_read {
            self.claimed.remove(&topic);
            self.queues.iter_mut().for_each(|queue| _ = queue.reads.remove(&topic));
        }
    }

    async fn qos_2(&mut self, queue: usize, which: usize, release: bool) {
        let model = &mut self.queues[queue];
        let Some(id) = model.id else { return };
        let Some(row) = model.clients().nth(which) else { return };
        if release && row.packet_id.is_some() {
            ask!(self.rig, released, id, vec![row.seq]);
            (row.released, row.expires_at) = (true, None);
        } else if !release {
            let packet_id = u16::try_from(which + 1).unwrap();
            ask!(self.rig, assign, id, vec![(row.seq, packet_id)]);
            row.packet_id = Some(packet_id);
        }
    }

    async fn leave(&mut self, queue: usize) {
        let model = &mut self.queues[queue];
        if let Some(id) = model.id.filter(|_| model.connected) {
            ask!(self.rig, session_left, id, self.now, 60, None);
            (model.connected, model.reads) = (false, BTreeSet::new());
        }
    }

    /// Who had a connection is away now.
    async fn all_left(&mut self) {
        ask!(self.rig, all_left, self.now);
        for queue in &mut self.queues {
            (queue.connected, queue.reads) = (false, BTreeSet::new());
        }
    }

    async fn sweep(&mut self) {
        loop {
            let swept = ask!(self.rig, sweep_queues, self.now);
            for (id, dropped) in swept.expired {
                let model = self.queues.iter_mut().find(|queue| queue.id == Some(id)).expect("a queue that is there");
                let went: Vec<_> = model.rows.extract_if(.., |row| row.goes(self.now)).collect();
                let bytes = went.iter().map(ModelRow::bytes).sum();
                assert_eq!(dropped, RowCount { rows: went.len() as u64, bytes });
            }
            if !swept.more {
                return;
            }
        }
    }

    async fn kill(&mut self, to: Vec<u8>) {
        let mut on_their_way = Vec::new();
        for bits in to {
            let (to, text) = (self.chosen(bits), self.text());
            drop(self.rig.store.enqueue(self.enqueue(&text, None, &to)).await.unwrap());
            on_their_way.push((to, text));
        }
        let rig = std::mem::replace(&mut self.rig, Rig::in_memory(Limits::default()));
        self.rig = rig.crash();
        self.restarted();
        // Those that got to the disk before the kill are the first of them, in all their queues.
        let mut tails: Vec<Vec<QueueRow>> = Vec::new();
        for queue in &mut self.queues {
            let last = queue.rows.iter().map(|row| row.seq).max().unwrap_or(0).max(self.last_seq);
            let rows = match queue.id {
                Some(id) => ask!(self.rig, read_rows, id, last, ALL, self.now).rows,
                None => Vec::new(),
            };
            // Whoever reads behind what is there may have read that as well.
            if !rows.is_empty() {
                queue.expose();
            }
            tails.push(rows);
        }
        for (to, text) in on_their_way {
            let there: BTreeSet<usize> = (0..QUEUES)
                .filter(|queue| tails[*queue].first().is_some_and(|row| row.message.payload == text))
                .collect();
            let expected: BTreeSet<usize> = to.into_iter().collect();
            if there.is_empty() && !expected.is_empty() {
                break;
            }
            assert_eq!(there, expected);
            for queue in there {
                let row = tails[queue].remove(0);
                self.last_seq = self.last_seq.max(row.seq);
                self.put(queue, row.seq, &text, None);
                let put = self.queues[queue].rows.last_mut().unwrap();
                (put.sent, put.exposed, put.before) = (true, true, (false, true));
            }
        }
        assert!(tails.iter().all(Vec::is_empty), "what nobody published: {tails:?}");
        self.all_left().await;
    }

    fn restarted(&mut self) {
        self.rig.store.listen();
        for queue in &mut self.queues {
            queue.reads.clear();
            for row in &mut queue.rows {
                row.before = (row.before.0 | row.sent, row.before.1 | row.exposed);
            }
        }
        for topic in std::mem::take(&mut self.claimed) {
            self.documents[topic].iter_mut().for_each(|document| document.marked = true);
        }
    }

    async fn step(&mut self, op: Op) {
        match op {
            Op::Publish { to, ttl } => self.publish(to, ttl).await,
            Op::Tell { topic } => self.tell(topic).await,
            Op::Read { queue, after, rows } => self.read(queue, after, rows).await,
            Op::ReadDocuments { queue, topic, rows } => self.read_documents(queue, topic, rows).await,
            Op::Acknowledge { queue, from, count } => self.acknowledge(queue, from, count).await,
            Op::AcknowledgeDocument { queue, topic, which, others } => {
                self.acknowledge_document(queue, topic, which, others).await;
            }
            Op::Seen { queue, topic, which, still_read } => self.seen(queue, topic, which, still_read).await,
            Op::Assign { queue, which } => self.qos_2(queue, which, false).await,
            Op::Release { queue, which } => self.qos_2(queue, which, true).await,
            Op::Leave { queue } => self.leave(queue).await,
            Op::Return { queue } => self.come(queue).await,
            Op::End { queue } => {
                if let Some(id) = self.queues[queue].id {
                    ask!(self.rig, end_queue, id);
                    self.queues[queue] = ModelQueue::default();
                }
            }
            Op::Pass { ms } => self.now += ms,
            Op::Sweep => self.sweep().await,
            Op::Kill { to } => self.kill(to).await,
            Op::Reopen => {
                let rig = std::mem::replace(&mut self.rig, Rig::in_memory(Limits::default()));
                self.rig = rig.reopen().await;
                self.restarted();
                self.all_left().await;
            }
        }
    }

    /// Everything is there, counted, and goes without a trace.
    async fn end(mut self) {
        let state = ask!(self.rig, broker_state);
        let counted = state.sessions.iter().map(|s| (s.queue, s.rows, s.bytes));
        let counted = counted.chain(state.groups.iter().map(|g| (g.queue, g.rows, g.bytes)));
        let counted: BTreeMap<_, _> = counted.map(|(queue, rows, bytes)| (queue, (rows, bytes))).collect();
        let mut expected = BTreeMap::new();
        for queue in self.queues.iter_mut().filter(|queue| queue.id.is_some()) {
            let bytes = queue.clients().map(|row| row.bytes()).sum::<u64>();
            expected.insert(queue.id.unwrap(), (queue.clients().count() as u64, bytes));
        }
        assert_eq!(counted, expected);
        for queue in 0..QUEUES {
            self.come(queue).await;
            self.read(queue, 0, usize::MAX).await;
            self.acknowledge(queue, 0, usize::MAX).await;
            for topic in 0..TOPICS.len() {
                self.read_documents(queue, topic, usize::MAX).await;
                while self.queues[queue].rows.iter().any(|row| row.topic == Some(topic)) {
                    self.acknowledge_document(queue, topic, 0, 0).await;
                }
            }
        }
        assert_eq!(self.rig.count("queue") + self.rig.count("bodies"), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn queues_keep_what_was_answered_in_order_and_mark_what_may_have_been_sent(
        ops in prop::collection::vec(any_op(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Harness::new().run(ops));
    }
}
