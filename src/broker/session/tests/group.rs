//! The queue of a group, whose members come and go, at QoS 1. At QoS 2 a message leaves the queue before it is sent.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::store::Seen;

const GROUP: QueueRef = QueueRef::Group(7);

struct Harness {
    seq: u64,
    rows: BTreeSet<u64>,
    /// Documents of one topic, and whether they are marked on disk.
    documents: BTreeMap<u64, bool>,
    queue: Queue,
    members: Vec<Member>,
    /// Handed out before, and not acknowledged.
    doubtful: BTreeSet<u64>,
}

struct Member {
    window: Window,
    connected: bool,
    flying: BTreeMap<u16, u64>,
}

impl Harness {
    fn new() -> Self {
        let member = || Member { window: Window::new(3), connected: false, flying: BTreeMap::new() };
        let members = (0..3).map(|_| member()).collect();
        let (rows, documents, doubtful) = Default::default();
        Self { seq: 0, rows, documents, queue: Queue::kept(LIMITS), members, doubtful }
    }

    fn act(&mut self, action: u8, argument: u8) {
        let member = usize::from(argument % 3);
        match action {
            0..2 => {
                self.seq += 1;
                self.rows.insert(self.seq);
                self.queue.notify_row(self.seq, row(self.seq, "t", usize::from(argument) * 300, QoS::AtLeastOnce));
            }
            2 => {
                self.seq += 1;
                self.documents.insert(self.seq, false);
                let item = document(&topic(), self.seq, usize::from(argument) * 300, false);
                self.queue.notify_document(&reference(&topic(), self.seq), item);
            }
            3 => self.read(),
            4..7 => self.pull(member),
            7..10 => self.acknowledge(member, argument / 3),
            10 => self.cut(member),
            _ => self.join(member),
        }
    }

    fn read(&mut self) {
        let Some(read) = self.queue.next_read() else { return };
        match &read.what {
            ReadWhat::Rows(after) => {
                let rows = self.rows.range(after + 1..).take(3).map(|&seq| queue_row(seq, "t", QoS::AtLeastOnce));
                self.queue.rows_came(&read, rows.collect());
            }
            ReadWhat::Documents(topic, after) => {
                let documents = self.documents.range(after + 1..).take(3);
                let documents = documents.map(|(&seq, &again)| document(topic, seq, 10, again)).collect();
                self.queue.documents_came(&read, documents);
            }
            ReadWhat::Topics => panic!("there is one topic"),
        }
    }

    fn pull(&mut self, member: usize) {
        let Member { window, connected: true, flying } = &mut self.members[member] else { return };
        let Some(Pulled::Send(item)) = self.queue.pull(window.has_room(), 0) else { return };
        let seq = u64::from(item.ids[0]);
        assert!(item.copy || !self.doubtful.contains(&seq), "{seq} is a copy");
        let sent = window.take_id(&item, GROUP).unwrap();
        assert!(!sent.must_store);
        assert_eq!(flying.insert(sent.id, seq), None);
        self.only_once(seq);
    }

    fn only_once(&self, seq: u64) {
        let holders = self.members.iter().flat_map(|member| member.flying.values()).filter(|held| **held == seq);
        assert_eq!(holders.count(), 1, "{seq} is with several members");
    }

    fn acknowledge(&mut self, member: usize, which: u8) {
        let Member { window, flying, .. } = &mut self.members[member];
        let at = usize::from(which) % flying.len().max(1);
        let Some((&id, &seq)) = flying.iter().nth(at) else { return };
        flying.remove(&id);
        let flight = window.puback(id).unwrap();
        assert_eq!(flight.queue_ref, GROUP);
        let was_there = match &flight.source {
            Source::Row(of) => *of == seq && self.rows.remove(of),
            Source::Document(document) => {
                self.queue.acknowledged(document);
                document.seq == seq && self.documents.remove(&seq).is_some()
            }
            Source::Memory => panic!("all is on disk"),
        };
        assert!(was_there, "{seq} was acknowledged before");
    }

    fn cut(&mut self, member: usize) {
        let Member { window, connected, flying } = &mut self.members[member];
        if !std::mem::take(connected) {
            return;
        }
        flying.clear();
        let items: Vec<_> = window.suspend().into_iter().map(|(_, item)| item).collect();
        self.doubtful.extend(items.iter().map(|item| u64::from(item.ids[0])));
        self.queue.give_back(items);
        if !self.members.iter().any(|member| member.connected) {
            for Seen { seq, .. } in self.queue.away() {
                self.documents.range_mut(..=seq).for_each(|(_, marked)| *marked = true);
            }
        }
    }

    fn join(&mut self, member: usize) {
        let Member { window, connected, .. } = &mut self.members[member];
        *connected = true;
        window.resume(10);
        self.queue.open();
        self.queue.watch([&topic()]);
    }
}

fn topic() -> Arc<str> {
    "d".into()
}

proptest! {
    #[test]
    fn a_member_that_goes_leaves_its_part_to_the_others(
        actions in prop::collection::vec((0..13_u8, any::<u8>()), 0..200)
    ) {
        let mut harness = Harness::new();
        for (action, argument) in actions {
            harness.act(action, argument);
        }
        (0..3).for_each(|member| harness.join(member));
        for round in 0..1_000 {
            harness.read();
            harness.pull(round % 3);
            harness.acknowledge(round % 3, 0);
        }
        let left = (harness.rows, harness.documents);
        prop_assert!(left.0.is_empty() && left.1.is_empty(), "never delivered: {left:?}");
    }
}
