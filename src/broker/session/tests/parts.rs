use std::collections::{BTreeMap, BTreeSet};

use super::super::aliases::{Alias, AliasError, ClientAliases, ServerAliases, TOPIC_ALIASES};
use super::super::queue::{QUEUE_ITEMS, TOPICS_MAX};
use super::*;
use crate::store::Seen;

fn topic(name: &str) -> Arc<str> {
    name.into()
}

fn topics(count: usize) -> Vec<Arc<str>> {
    (0..count).map(|n| format!("topic/{n}").into()).collect()
}

#[test]
fn a_document_for_a_qos_2_reader_has_qos_1_and_its_correlation_data_in_wire_form() {
    let message =
        document_message(&topic("d"), Bytes::from_static(b"{}"), Some(&Bytes::from_static(&[1, 2])), (true, None));
    assert_eq!(message.properties[..], [9, 0, 2, 1, 2]);
    assert_eq!(message.payload[..], *b"{\"redelivered\":true}");
    let item = OutgoingMessage::document(message, reference(&topic("d"), 1), QoS::ExactlyOnce, vec![], true);
    assert_eq!((item.qos, item.copy), (QoS::AtLeastOnce, true));
}

#[test]
fn a_queue_from_disk_is_bounded_and_goes_on_where_it_ended() {
    let mut queue = Queue::new(LIMITS);
    let most = QUEUE_ITEMS as u64;
    assert!((1..=most).all(|seq| queue.notify_row(seq, row(seq, "t", 1, QoS::AtLeastOnce))));
    assert!(!queue.notify_row(most + 1, row(most + 1, "t", 1, QoS::AtLeastOnce)));
    assert_eq!(queue.next_read(), None, "there is no room");
    assert_eq!(drain(&mut queue), (1..=most).collect::<Vec<_>>());
    let read = queue.next_read().unwrap();
    assert_eq!(read.what, ReadWhat::Rows(most));
    assert!(!queue.notify_row(most + 2, row(most + 2, "t", 1, QoS::AtLeastOnce)), "a page is under way");
    queue.rows_came(&read, vec![queue_row(most + 1, "t", QoS::AtLeastOnce)]);
    let read = queue.next_read().unwrap();
    queue.rows_came(&read, vec![queue_row(most + 2, "t", QoS::AtLeastOnce)]);
    assert_eq!((drain(&mut queue), queue.next_read()), (vec![most + 1, most + 2], None));
    assert!(queue.notify_row(most + 3, row(most + 3, "t", 1, QoS::AtLeastOnce)));
}

#[test]
fn one_item_always_fits_and_memory_has_its_own_limit() {
    let mut queue = Queue::new(MemoryLimits { messages: 3, bytes: 100 });
    let item = |size| OutgoingMessage::memory(message("t", size, QoS::AtLeastOnce, None), target(QoS::AtLeastOnce, 1));
    assert_eq!(queue.push(item(1_000), None), Pushed::Taken);
    assert!(queue.is_above_half());
    assert_eq!(queue.push(item(1), None), Pushed::Full);
    assert_eq!(drain(&mut queue), [1]);
    assert!((0..3).all(|_| queue.push(item(1), None) == Pushed::Taken));
    assert_eq!(queue.push(item(1), None), Pushed::Full);
}

#[test]
fn a_row_that_is_gone_after_its_notification_is_not_looked_for_again() {
    let mut queue = Queue::new(LIMITS);
    queue.notify_row(1, row(1, "t", 90_000, QoS::AtLeastOnce));
    queue.notify_row(2, row(2, "t", 90_000, QoS::AtLeastOnce));
    queue.notify_row(3, row(3, "t", 90_000, QoS::AtLeastOnce));
    drain(&mut queue);
    let read = queue.next_read().unwrap();
    queue.rows_came(&read, vec![]);
    assert_eq!(queue.next_read(), None);
}

#[test]
fn what_the_queue_is_notified_of_while_an_empty_page_is_under_way_is_read() {
    let notifications: [fn(&mut Queue); 2] =
        [|queue| assert!(!queue.notify_row(1, row(1, "t", 1, QoS::AtLeastOnce))), |queue| queue.behind_on_rows()];
    for notify in notifications {
        let mut queue = Queue::kept(LIMITS);
        queue.open();
        let read = queue.next_read().unwrap();
        notify(&mut queue);
        queue.rows_came(&read, vec![]);
        let read = queue.next_read().unwrap();
        queue.rows_came(&read, vec![queue_row(1, "t", QoS::AtLeastOnce)]);
        assert_eq!(drain(&mut queue), [1]);
    }
}

#[test]
fn qos_0_waits_for_its_place_among_rows_that_are_read() {
    let mut queue = Queue::kept(LIMITS);
    let zero = |n| OutgoingMessage::memory(message("t", 1, QoS::AtMostOnce, None), target(QoS::AtMostOnce, n));
    assert_eq!(queue.push(zero(9), Some(9)), Pushed::Full, "nobody reads");
    queue.open();
    assert_eq!(queue.push(zero(9), None), Pushed::Full, "its place is not known");
    assert_eq!(queue.push(zero(2), Some(1)), Pushed::Taken);
    assert_eq!(queue.push(zero(4), Some(3)), Pushed::Taken);
    let read = queue.next_read().unwrap();
    queue.rows_came(&read, [1, 3].map(|seq| queue_row(seq, "t", QoS::AtLeastOnce)).into());
    assert_eq!(drain(&mut queue), [1, 2, 3]);
    let read = queue.next_read().unwrap();
    queue.rows_came(&read, vec![]);
    assert_eq!(drain(&mut queue), [4]);
}

#[test]
fn what_is_given_back_too_late_is_read_and_comes_once() {
    let (mut queue, d) = (Queue::kept(LIMITS), topic("d"));
    queue.open();
    let read = queue.next_read().unwrap();
    queue.rows_came(&read, vec![queue_row(1, "t", QoS::AtLeastOnce)]);
    queue.notify_document(&reference(&d, 2), document(&d, 2, 10, false));
    read_documents(&mut queue, &d, &[2]);
    let late: Vec<_> = std::iter::from_fn(|| pulled(&mut queue)).collect();
    assert_eq!(late.len(), 2);
    assert_eq!(queue.away(), [Seen { topic: Arc::clone(&d), seq: 2 }]);
    queue.open();
    queue.watch([&d]);
    queue.give_back(late);
    assert_eq!(pulled(&mut queue), None);
    let read = queue.next_read().unwrap();
    queue.rows_came(&read, vec![queue_row(1, "t", QoS::AtLeastOnce)]);
    assert!(pulled(&mut queue).unwrap().copy);
}

#[test]
fn an_expired_row_is_named_and_what_is_only_in_memory_is_dropped() {
    let mut queue = Queue::new(LIMITS);
    let (message, target) = (message("t", 1, QoS::AtLeastOnce, Some(5)), target(QoS::AtLeastOnce, 1));
    queue.push(OutgoingMessage::memory(Arc::clone(&message), target.clone()), None);
    queue.notify_row(1, OutgoingMessage::row(1, message, target));
    assert!(matches!(queue.pull(false, 5), Some(Pulled::Expired(item)) if item.source == Source::Row(1)));
    assert_eq!(queue.pull(true, 5), None);
}

#[test]
fn without_room_in_the_window_qos_0_passes_what_waits_for_it_and_nothing_else_does() {
    let mixed = || {
        let mut queue = Queue::new(LIMITS);
        for n in 1..=6 {
            match n % 2 {
                0 => assert!(queue.notify_row(n, row(n, "t", 1, QoS::AtLeastOnce))),
                _ => {
                    let zero =
                        OutgoingMessage::memory(message("t", 1, QoS::AtMostOnce, None), target(QoS::AtMostOnce, n));
                    assert_eq!(queue.push(zero, Some(n)), Pushed::Taken);
                }
            }
        }
        queue
    };
    assert_eq!(drain(&mut mixed()), [1, 2, 3, 4, 5, 6], "with room nothing passes anything");
    let mut queue = mixed();
    for n in [1, 3, 5] {
        assert!(matches!(queue.pull(false, 0), Some(Pulled::Send(item)) if item.ids == [n]));
    }
    assert_eq!(queue.pull(false, 0), None);
    assert_eq!(drain(&mut queue), [2, 4, 6]);
}

#[test]
fn an_answer_for_a_connection_that_is_gone_is_none() {
    let mut queue = Queue::kept(LIMITS);
    queue.open();
    let late = queue.next_read().unwrap();
    queue.away();
    assert_eq!(queue.next_read(), None, "nobody reads");
    queue.open();
    let read = queue.next_read().unwrap();
    queue.rows_came(&late, vec![queue_row(1, "t", QoS::AtLeastOnce)]);
    queue.rows_came(&read, vec![queue_row(1, "t", QoS::AtLeastOnce)]);
    assert_eq!(drain(&mut queue), [1]);
}

/// Asks for documents of one topic and answers.
fn read_documents(queue: &mut Queue, topic: &Arc<str>, seqs: &[u64]) -> u64 {
    let read = queue.next_read().unwrap();
    let ReadWhat::Documents(asked, after) = read.what.clone() else { panic!("{read:?}") };
    assert_eq!(asked, *topic);
    let behind = seqs.iter().filter(|seq| **seq > after);
    queue.documents_came(&read, behind.map(|&seq| document(topic, seq, 10, false)).collect());
    after
}

#[test]
fn a_document_that_was_set_aside_is_offered_again_only_when_asked_for() {
    let (mut queue, d) = (Queue::new(LIMITS), topic("d"));
    queue.watch([&d]);
    read_documents(&mut queue, &d, &[1, 2, 3]);
    read_documents(&mut queue, &d, &[1, 2, 3]);
    let too_big = pulled(&mut queue).unwrap();
    assert_eq!(too_big.ids, [1]);
    queue.set_aside(&reference(&d, 1));
    assert_eq!((pulled(&mut queue).unwrap().ids, queue.next_read()), (vec![2], None));
    queue.offer_again();
    assert_eq!(read_documents(&mut queue, &d, &[1, 2, 3]), 0);
    read_documents(&mut queue, &d, &[1, 2, 3]);
    assert_eq!(drain(&mut queue), [3, 1], "2 is on its way");
    assert_eq!(queue.away(), [Seen { topic: d, seq: 3 }]);
}

#[test]
fn topics_whose_documents_were_set_aside_leave_room_for_others_and_are_not_offered_again() {
    let (mut queue, all) = (Queue::new(LIMITS), topics(TOPICS_MAX + 5));
    queue.watch(&all);
    let mut offered = set_all_aside(&mut queue, &all);
    assert_eq!(offered.len(), all.len());
    assert!(offered.iter().all(|(_, seqs)| *seqs == [1]), "something comes twice");
    for topic in [&all[0], &all[TOPICS_MAX + 4]] {
        assert!(!queue.is_to_read(&reference(topic, 1)));
        assert!(queue.notify_document(&reference(topic, 2), document(topic, 2, 10, false)));
        assert_eq!((drain(&mut queue), queue.next_read()), (vec![2], None));
        queue.acknowledged(&reference(topic, 2));
    }
    queue.offer_again();
    offered = set_all_aside(&mut queue, &all);
    assert!(offered.len() == all.len() && offered.iter().all(|(_, seqs)| *seqs == [1]));
    assert_eq!(queue.away().len(), all.len());
}

#[test]
fn what_was_sent_and_left_for_others_comes_again_only_as_a_copy() {
    let (mut queue, d) = (Queue::new(LIMITS), topic("d"));
    queue.watch([&d]);
    read_documents(&mut queue, &d, &[1, 2, 3]);
    read_documents(&mut queue, &d, &[1, 2, 3]);
    assert_eq!(drain(&mut queue), [1, 2, 3]);
    queue.set_aside(&reference(&d, 1));
    queue.left_for_others(&reference(&d, 2));
    queue.left_for_others(&reference(&d, 3));
    queue.watch([&d]);
    queue.look_for_topics();
    assert!(!queue.is_to_read(&reference(&d, 2)));
    let read = queue.next_read().unwrap();
    queue.topics_came(&read, std::slice::from_ref(&d));
    assert_eq!(queue.next_read(), None);
    queue.offer_again();
    assert_eq!(read_documents(&mut queue, &d, &[1, 2, 3, 4]), 0);
    let again: Vec<_> = std::iter::from_fn(|| pulled(&mut queue)).map(|item| (item.ids[0], item.copy)).collect();
    assert_eq!(again, [(1, true), (2, true), (3, true), (4, false)]);
    queue.left_for_others(&reference(&d, 2));
    assert_eq!(queue.unwatch(|_| false), [Seen { topic: Arc::clone(&d), seq: 4 }]);
    queue.watch([&d]);
    read_documents(&mut queue, &d, &[]);
    [1, 3, 4].iter().for_each(|&seq| queue.acknowledged(&reference(&d, seq)));
    assert_eq!(queue.unwatch(|_| false), [Seen { topic: d, seq: 3 }]);
    assert_eq!(queue.away(), []);
}

/// Sets the only document of each topic aside, until there is nothing more to read. Yields what was offered.
fn set_all_aside(queue: &mut Queue, all: &[Arc<str>]) -> BTreeMap<Arc<str>, Vec<u64>> {
    let mut offered: BTreeMap<Arc<str>, Vec<u64>> = BTreeMap::new();
    while let Some(read) = queue.next_read() {
        match &read.what {
            ReadWhat::Documents(topic, 0) => {
                queue.documents_came(&read, vec![document(topic, 1, 10, false)]);
                for seq in drain(queue) {
                    queue.set_aside(&reference(topic, seq));
                    offered.entry(Arc::clone(topic)).or_default().push(seq);
                }
            }
            ReadWhat::Documents(..) => queue.documents_came(&read, vec![]),
            ReadWhat::Topics => queue.topics_came(&read, all),
            ReadWhat::Rows(_) => panic!("no rows are here"),
        }
    }
    offered
}

#[test]
fn what_a_former_member_gives_back_does_not_come_beside_what_was_read_since() {
    let (mut queue, d) = (Queue::kept(LIMITS), topic("d"));
    let read_all = |queue: &mut Queue| {
        queue.open();
        queue.watch([&d]);
        while let Some(read) = queue.next_read() {
            match &read.what {
                ReadWhat::Rows(0) => queue.rows_came(&read, vec![queue_row(1, "t", QoS::AtLeastOnce)]),
                ReadWhat::Rows(_) => queue.rows_came(&read, vec![]),
                ReadWhat::Documents(topic, 0) => queue.documents_came(&read, vec![document(topic, 2, 10, false)]),
                ReadWhat::Documents(..) => queue.documents_came(&read, vec![]),
                ReadWhat::Topics => panic!("there is one topic"),
            }
        }
        std::iter::from_fn(|| pulled(queue)).collect::<Vec<_>>()
    };
    let former = read_all(&mut queue);
    assert_eq!(queue.away(), [Seen { topic: topic("d"), seq: 2 }]);
    let present = read_all(&mut queue);
    assert_eq!((former.len(), present.len()), (2, 2));
    queue.give_back(former);
    assert_eq!(pulled(&mut queue), None, "another member has them");
    queue.give_back(present);
    assert_eq!(drain(&mut queue), [1, 2]);
}

#[test]
fn documents_of_a_subscription_that_ended_and_came_back_come_once() {
    let (mut queue, d) = (Queue::new(LIMITS), topic("d"));
    queue.notify_document(&reference(&d, 1), document(&d, 1, 10, false));
    read_documents(&mut queue, &d, &[1, 2, 3]);
    assert_eq!(pulled(&mut queue).unwrap().ids, [1]);
    assert_eq!(queue.unwatch(|_| false), [Seen { topic: Arc::clone(&d), seq: 1 }]);
    assert_eq!((pulled(&mut queue), queue.next_read()), (None, None));
    queue.watch([&d]);
    assert_eq!(read_documents(&mut queue, &d, &[1, 2, 3]), 1);
    assert_eq!(drain(&mut queue), [2, 3]);
}

#[test]
fn topics_beyond_the_limit_are_found_when_others_are_done() {
    let (mut queue, all) = (Queue::new(LIMITS), topics(TOPICS_MAX + 5));
    queue.watch(&all);
    let mut waiting: BTreeSet<_> = all.iter().cloned().collect();
    while !waiting.is_empty() {
        let read = queue.next_read().unwrap();
        match &read.what {
            ReadWhat::Documents(topic, 0) => {
                queue.documents_came(&read, vec![document(topic, 1, 10, false)]);
                assert_eq!(drain(&mut queue), [1]);
                queue.acknowledged(&reference(topic, 1));
                assert!(waiting.remove(topic), "{topic} comes twice");
            }
            ReadWhat::Documents(..) => queue.documents_came(&read, vec![]),
            ReadWhat::Topics => queue.topics_came(&read, &waiting.iter().cloned().collect::<Vec<_>>()),
            ReadWhat::Rows(_) => panic!("no rows are here"),
        }
    }
}

#[test]
fn what_a_row_was_sent_with_before_a_restart_it_is_sent_with_again() {
    let mut window = Window::new(10);
    let stored = |seq, packet_id, released| QueueRow {
        packet_id: Some(packet_id),
        released,
        maybe_sent: true,
        ..queue_row(seq, "t", QoS::ExactlyOnce)
    };
    assert_eq!(window.restore(&stored(1, 0x8001, true)), Some(0x8001));
    assert_eq!(window.restore(&stored(2, 0x8002, false)), None);
    assert_eq!(window.restore(&stored(1, 0x8001, true)), None, "its PUBREL was sent");
    let sent = window.take_id(&row(3, "t", 1, QoS::AtLeastOnce), QueueRef::Group(1)).unwrap();
    assert_eq!(sent, Sent { id: 1, dup: false, must_store: false });
    let again = OutgoingMessage::from(stored(2, 0x8002, false));
    assert_eq!(window.take_id(&again, QueueRef::Own), Some(Sent { id: 0x8002, dup: true, must_store: true }));
    assert_eq!(window.take_id(&row(4, "t", 1, QoS::ExactlyOnce), QueueRef::Own).unwrap().id, 0x8003);
    assert!(window.pubcomp(0x8001).is_some());
}

#[test]
fn acknowledgements_of_another_kind_or_of_nothing_settle_nothing() {
    let mut window = Window::new(10);
    let one = window.take_id(&row(1, "t", 1, QoS::AtLeastOnce), QueueRef::Own).unwrap().id;
    let two = window.take_id(&row(2, "t", 1, QoS::ExactlyOnce), QueueRef::Own).unwrap().id;
    assert_eq!((window.puback(two), window.pubcomp(two), window.pubcomp(one)), (None, None, None));
    assert_eq!((window.pubrec(one, false), window.pubrec(99, true)), (PubrecOutcome::Unknown, PubrecOutcome::Unknown));
    assert!(matches!(window.pubrec(two, true), PubrecOutcome::Done(_)));
    assert!(window.puback(one).is_some());
    assert_eq!(window.len(), 0);
}

#[test]
fn the_window_is_the_smaller_of_both_maxima() {
    let mut window = Window::new(2);
    window.resume(1);
    assert!(window.take_id(&row(1, "t", 1, QoS::AtLeastOnce), QueueRef::Own).is_some());
    assert_eq!(window.take_id(&row(2, "t", 1, QoS::AtLeastOnce), QueueRef::Own), None);
    window.suspend();
    window.resume(65_535);
    let again = window.take_id(&row(1, "t", 1, QoS::AtLeastOnce), QueueRef::Own);
    assert_eq!(again, Some(Sent { id: 1, dup: true, must_store: false }));
    assert!(window.has_room());
}

#[test]
fn identifiers_of_what_is_gone_from_the_disk_are_free() {
    let mut window = Window::new(10);
    assert!((1..4).all(|seq| window.take_id(&row(seq, "t", 1, QoS::AtLeastOnce), QueueRef::Own).is_some()));
    window.suspend();
    assert_eq!(window.take_id(&row(3, "t", 1, QoS::AtLeastOnce), QueueRef::Own).unwrap().id, 3);
    assert_eq!(window.len(), 1);
}

#[test]
fn the_end_of_a_connection_gives_back_what_is_a_groups_and_keeps_what_was_released() {
    let mut window = Window::new(10);
    let released = window.take_id(&row(1, "t", 1, QoS::ExactlyOnce), QueueRef::Own).unwrap().id;
    assert!(matches!(window.pubrec(released, false), PubrecOutcome::Release(_)));
    for seq in 2..4 {
        window.take_id(&row(seq, "t", 1, QoS::AtLeastOnce), QueueRef::Group(5)).unwrap();
    }
    let back: Vec<_> = window.suspend().into_iter().map(|(group, item)| (group, item.source)).collect();
    assert_eq!(back, [(5, Source::Row(2)), (5, Source::Row(3))]);
    assert_eq!(window.released(), [(released, Some(1))]);
}

#[test]
fn a_pubrec_of_a_former_connection_waits_until_the_message_is_sent_over_this_one() {
    let mut window = Window::new(10);
    let id = window.take_id(&row(1, "t", 1, QoS::ExactlyOnce), QueueRef::Own).unwrap().id;
    window.suspend();
    window.resume(10);
    assert_eq!(window.pubrec(id, false), PubrecOutcome::Early);
    assert_eq!(window.take_id(&row(1, "t", 1, QoS::ExactlyOnce), QueueRef::Own).map(|sent| sent.id), Some(id));
    assert_eq!(window.pubrec(id, false), PubrecOutcome::Release(Some(1)));
}

#[test]
fn a_qos_2_message_is_taken_once() {
    let mut incoming = Incoming::kept(&[7]);
    assert_eq!(
        incoming.arrived(7, 10),
        Arrived::Repeat { acknowledged: false },
        "whether the bridge had it is not known"
    );
    assert_eq!(incoming.arrived(1, 2), Arrived::New);
    assert_eq!(incoming.arrived(1, 2), Arrived::Repeat { acknowledged: false });
    assert_eq!(incoming.arrived(2, 2), Arrived::TooMany);
    incoming.acknowledged(1);
    incoming.suspend();
    assert_eq!(incoming.arrived(2, 2), Arrived::New, "a new connection has its whole maximum");
    assert_eq!(incoming.arrived(1, 2), Arrived::Repeat { acknowledged: true });
    assert!(incoming.release(1) && !incoming.release(1));
    assert_eq!(incoming.open(), 1);
}

#[test]
fn aliases_stand_for_topics_both_ways() {
    let mut client_aliases = ClientAliases::default();
    assert_eq!(client_aliases.resolve(0, "t"), Err(AliasError::Invalid));
    assert_eq!(client_aliases.resolve(TOPIC_ALIASES + 1, "t"), Err(AliasError::Invalid));
    assert_eq!(client_aliases.resolve(TOPIC_ALIASES, ""), Err(AliasError::Unknown));
    assert_eq!(client_aliases.resolve(3, "t"), Ok(topic("t")));
    assert_eq!(
        (client_aliases.resolve(3, ""), client_aliases.resolve(2, "")),
        (Ok(topic("t")), Err(AliasError::Unknown))
    );
    assert_eq!(client_aliases.set_over_limit(TOPIC_ALIASES + 1), Err(AliasError::Invalid));
    assert_eq!(client_aliases.set_over_limit(3), Err(AliasError::OverLimit));
    assert_eq!(client_aliases.resolve(3, ""), Err(AliasError::OverLimit), "it stands for the former topic no longer");
    assert_eq!(client_aliases.resolve(3, "u"), Ok(topic("u")));
    let mut server_aliases = ServerAliases::new(1);
    assert_eq!(server_aliases.of(&topic("a")), Some(Alias::New(1)));
    assert_eq!((server_aliases.of(&topic("b")), server_aliases.of(&topic("a"))), (None, Some(Alias::Known(1))));
    assert_eq!(ServerAliases::new(0).of(&topic("a")), None);
}
