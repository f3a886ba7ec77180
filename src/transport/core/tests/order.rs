//! Which message is where, and in which order.

use super::*;

#[test]
fn there_is_room_for_the_windows_of_all_connections_and_no_more() {
    let mut harness = Harness::fixed(2, 2);
    harness.up(1);
    harness.pass_secs(1);
    harness.up(2);
    for number in 1..=4 {
        assert!(harness.core.has_room());
        harness.send(number, number as i64);
    }
    assert!(!harness.core.has_room());
    assert_eq!(harness.take_sent(), [(1, 1), (2, 2), (1, 3), (2, 4)], "they share the load");
    harness.answer(1, 1);
    assert_eq!(harness.take_reports(), [accepted(1, 1, 0)]);
    assert!(harness.core.has_room());
    harness.answer(1, 1);
    assert_eq!(
        (harness.take_reports(), harness.core.snapshot().counted.unknown_answers),
        (vec![], 1),
        "it is answered once"
    );
}

#[test]
fn a_peer_that_takes_less_than_the_window_is_given_less() {
    let mut harness = Harness::fixed(1, 5);
    harness.event(1, Event::Up { capacity: 1 });
    harness.send(1, 1);
    harness.send(2, 2);
    assert_eq!(harness.take_sent(), [(1, 1)]);
    harness.event(1, Event::Capacity(2));
    assert_eq!(harness.take_sent(), [(1, 2)]);
}

#[test]
fn what_a_lost_connection_left_goes_first_and_in_order() {
    let mut harness = Harness::fixed(1, 4);
    harness.up(1);
    for number in 1..=3 {
        harness.send(number, number as i64);
    }
    harness.answer(1, 2);
    harness.end_unwritten(1, End::Failed, &[3]);
    harness.send(4, 4);
    harness.take_sent();
    harness.pass_secs(1);
    harness.up(2);
    assert_eq!(harness.take_sent(), [(2, 1), (2, 3), (2, 4)]);
    assert_eq!((harness.core.snapshot().written, harness.core.snapshot().reconnects), (6, 1));
    harness.take_reports();
    [1, 3, 4].into_iter().for_each(|number| harness.answer(2, number));
    let expected = [accepted(1, 2, 1), accepted(3, 1, 0), accepted(4, 1, 0)];
    assert_eq!(harness.take_reports(), expected, "what never left is no copy");
}

#[test]
fn a_recipient_stays_on_one_connection_while_any_of_its_messages_is_unanswered() {
    let mut harness = Harness::fixed(2, 2);
    harness.up(1);
    harness.pass_secs(1);
    harness.up(2);
    for (number, recipient) in [(1, 50), (2, 50), (3, 50), (4, 60)] {
        harness.send(number, recipient);
    }
    assert_eq!(harness.take_sent(), [(1, 1), (1, 2), (2, 4)], "the third waits for its own connection");
    harness.answer(1, 1);
    assert_eq!(harness.take_sent(), [(1, 3)]);
}

#[test]
fn nothing_overtakes_what_a_draining_connection_still_has() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    for (number, recipient) in [(1, 50), (2, 50), (9, 90)] {
        harness.send(number, recipient);
    }
    assert!(!harness.core.has_room());
    harness.answer(1, 9);
    harness.event(1, Event::Draining);
    harness.pass_secs(1);
    harness.up(2);
    harness.take_sent();
    assert!(harness.core.has_room());
    harness.send(3, 50);
    harness.send(4, 60);
    assert_eq!(harness.take_sent(), [(2, 4)]);
    harness.answer(2, 4);
    harness.bounce(1, 2);
    assert_eq!(harness.take_sent(), []);
    harness.end(1, End::Failed);
    assert_eq!(harness.take_sent(), [(2, 1), (2, 2), (2, 3)]);
    harness.take_reports();
    [1, 2, 3].into_iter().for_each(|number| harness.answer(2, number));
    assert_eq!(harness.take_reports(), [accepted(1, 2, 1), accepted(2, 1, 1), accepted(3, 1, 0)]);
}

#[test]
fn what_waits_behind_a_draining_connection_leaves_room_for_others() {
    let mut harness = Harness::fixed(1, 2);
    harness.up(1);
    harness.send(1, 50);
    harness.event(1, Event::Draining);
    harness.pass_secs(1);
    harness.up(2);
    for number in 2..=4 {
        assert!(harness.core.has_room());
        harness.send(number, 50);
    }
    assert!(harness.core.has_room(), "the new connection stands idle");
    harness.take_sent();
    harness.send(5, 60);
    assert_eq!(harness.take_sent(), [(2, 5)]);
    while harness.core.has_room() {
        harness.send(6 + harness.core.snapshot().pending as u64, 50);
    }
    assert_eq!(harness.core.snapshot().pending, 2 * dispatch::TAKEN_FACTOR, "and there is an end of it");
}

#[test]
fn a_message_was_tried_as_often_as_it_was_written() {
    let mut harness = Harness::fixed(2, 2);
    harness.up(1);
    harness.pass_secs(1);
    harness.send(1, 1);
    harness.event(1, Event::Unwritten(sid(1)));
    harness.bounce(1, 1);
    harness.pass_secs(1);
    harness.end(1, End::Failed);
    harness.up(2);
    harness.answer(2, 1);
    assert_eq!(harness.take_sent(), [(1, 1), (1, 1), (1, 1), (2, 1)]);
    assert_eq!(harness.take_reports(), [accepted(1, 2, 2)]);
}

#[test]
fn a_message_goes_rather_to_another_connection_than_the_one_that_would_not_take_it() {
    let mut harness = Harness::fixed(2, 2);
    harness.up(1);
    harness.pass_secs(1);
    harness.up(2);
    harness.send(1, 1);
    harness.event(1, Event::Answered(sid(1), Answer::Is(Verdict::Elsewhere)));
    assert_eq!(harness.take_sent(), [(1, 1), (2, 1)]);
    harness.event(1, Event::Capacity(0));
    harness.event(2, Event::Answered(sid(1), Answer::Is(Verdict::Elsewhere)));
    assert_eq!(harness.take_sent(), [], "there is only this one");
    harness.pass(ELSEWHERE_WAIT);
    assert_eq!(harness.take_sent(), [(2, 1)]);
    harness.event(2, Event::Answered(sid(1), Answer::Is(Verdict::Again)));
    assert_eq!(harness.take_sent(), [(2, 1)]);
    harness.answer(2, 1);
    assert_eq!(harness.take_reports(), [accepted(1, 1, 3)]);
    assert_eq!(harness.core.snapshot().not_taken, 2);
}

#[test]
fn what_is_too_late_is_neither_sent_nor_kept() {
    let mut harness = Harness::fixed(1, 2);
    harness.send_until(1, 1, 1_000);
    harness.send_until(2, 1, 2_500);
    harness.pass_secs(1);
    assert_eq!(harness.take_reports(), []);
    harness.pass_secs(1);
    assert_eq!(harness.take_reports(), [expired(1, 0)]);
    harness.up(1);
    assert_eq!(harness.take_sent(), [(1, 2)]);
    harness.end(1, End::Failed);
    harness.pass_secs(1);
    harness.up(2);
    assert_eq!((harness.take_sent(), harness.take_reports()), (vec![], vec![expired(2, 1)]));
    assert_eq!(harness.core.snapshot().pending, 0);
}

#[test]
fn a_message_that_the_device_has_is_not_sent_again() {
    let mut harness = Harness::fixed(1, 2);
    harness.up(1);
    harness.send(1, 1);
    harness.send(2, 2);
    harness.event(1, receipt(1));
    let copies = |report: &Report| if let Report::Receipt { copies, .. } = report { Some(*copies) } else { None };
    assert_eq!(harness.take_reports().iter().map(copies).collect::<Vec<_>>(), [Some(1)], "its answer is still to come");
    harness.end(1, End::Failed);
    assert_eq!(harness.take_reports(), [accepted(1, 1, 0)], "the answer never came, and the device has it");
    harness.event(1, receipt(2));
    let reports = harness.take_reports();
    assert_eq!(reports[0], accepted(2, 1, 0), "it waited to be sent again");
    harness.take_sent();
    harness.pass_secs(1);
    harness.up(2);
    assert_eq!((harness.take_sent(), harness.core.snapshot().pending), (vec![], 0));
}

#[test]
fn what_cannot_go_for_long_goes_back_to_the_disk_untried() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send(1, 1);
    harness.end(1, End::Failed);
    harness.send(2, 1);
    harness.send(3, 3);
    harness.pass_secs(4);
    assert_eq!(harness.take_reports(), [], "a connection is replaced in less");
    harness.pass_secs(2);
    assert_eq!(harness.take_reports(), [lost(3, 0)], "what may have been taken stays, and what is behind it");
    harness.send(4, 4);
    assert_eq!(harness.take_reports(), [lost(4, 0)]);
    harness.take_sent();
    harness.up(2);
    assert_eq!(harness.take_sent(), [(2, 1), (2, 2)]);
}

#[test]
fn a_service_holds_messages_recipients_or_everybody_back() {
    let mut harness = Harness::fixed(1, 9);
    harness.up(1);
    let start = harness.start;
    let later = start + Duration::from_millis(700);
    let hold = |harness: &mut Harness, recipient, hold| harness.core.service.holds.insert(recipient, hold);
    hold(&mut harness, 1, Hold::Skip);
    hold(&mut harness, 2, Hold::Until(later));
    let unsendable = Fate::Unsendable { code: "BAD".to_owned(), detail: "no good".to_owned() };
    hold(&mut harness, 3, Hold::Back(Fate::Lost));
    hold(&mut harness, 4, Hold::Back(unsendable.clone()));
    hold(&mut harness, 7, Hold::Back(Fate::Deferred { wait: Duration::from_secs(3), why: "quota".into() }));
    [1, 2, 3, 4, 7, 5].into_iter().for_each(|number| harness.send(number, number as i64));
    assert_eq!(harness.take_sent(), [(1, 5)]);
    let back = |number, fate| Report::Back { sid: sid(number), fate, copies: 0, replays: 0 };
    let deferred = Fate::Deferred { wait: Duration::from_secs(3), why: "quota".into() };
    assert_eq!(harness.take_reports(), [lost(3, 0), back(4, unsendable), back(7, deferred)]);
    harness.core.service.holds.remove(&2);
    harness.pass(Duration::from_millis(700));
    assert_eq!(harness.take_sent(), [(1, 2)], "the core looks when the time is over");
    hold(&mut harness, 1, Hold::All(start + Duration::from_millis(900)));
    harness.send(6, 6);
    assert_eq!(harness.take_sent(), []);
    harness.core.service.holds.clear();
    harness.pass(Duration::from_millis(200));
    assert_eq!(harness.take_sent(), [(1, 1), (1, 6)]);
}

#[test]
fn what_is_ambiguous_by_the_services_rule_is_reported_and_not_sent_again() {
    let on_connection_end = OnConnectionEnd::Ambiguous(ambiguous());
    let mut harness = Harness::new(ServiceSettings { on_connection_end, ..settings(Pool::Fixed(1), 3) });
    harness.up(1);
    harness.send(1, 1);
    harness.end(1, End::Failed);
    let refusal = ambiguous();
    assert_eq!(
        harness.take_reports(),
        [Report::Back { sid: sid(1), fate: Fate::Refused(refusal), copies: 1, replays: 0 }]
    );
}

#[test]
fn a_stop_takes_nothing_waits_for_answers_and_reports_the_rest() {
    let mut harness = Harness::fixed(1, 2);
    harness.up(1);
    (1..=3).for_each(|number| harness.send(number, number as i64));
    harness.core.handle_stop(harness.now());
    harness.drain();
    assert_eq!(harness.retired, [(1, Manner::AfterAnswers)]);
    assert!(!harness.core.has_room());
    harness.answer(1, 1);
    harness.send(4, 4);
    assert_eq!(harness.take_reports(), [accepted(1, 1, 0), lost(4, 0)]);
    harness.pass_secs(10);
    assert_eq!(harness.retired[1..], [(1, Manner::Now)], "the grace period is over");
    harness.end(1, End::Retired);
    assert!(harness.core.is_over());
    assert_eq!(harness.take_reports(), [lost(2, 1), lost(3, 0)]);
    assert_eq!(harness.dials.len(), 1);
}

#[test]
fn connections_that_end_with_all_their_answers_owed_leave_room_for_others() {
    let mut harness = Harness::fixed(1, 2);
    let mut number = 0;
    let mut send = |harness: &mut Harness, recipient: i64| {
        number += 1;
        harness.send(number, recipient);
        number
    };
    for connection in 1..=4 {
        harness.up(connection);
        send(&mut harness, connection as i64);
        send(&mut harness, 10 + connection as i64);
        harness.pass_secs(10);
        harness.event(connection, Event::Draining);
        harness.pass_secs(1);
    }
    harness.up(5);
    harness.take_sent();
    // Three for each of two recipients, as many as there may be of one.
    for recipient in [1, 2, 1, 2, 1, 2] {
        assert!(harness.core.has_room());
        send(&mut harness, recipient);
    }
    assert!(harness.core.has_room(), "the new connection stands idle");
    let first = send(&mut harness, 50);
    let second = send(&mut harness, 51);
    assert_eq!(harness.take_sent(), [(5, first), (5, second)]);
    assert!(!harness.core.has_room(), "it is full");
}

#[test]
fn a_stop_while_the_next_connection_waits_for_its_time_only_waits_for_answers() {
    let mut harness = Harness::fixed(2, 2);
    harness.up(1);
    harness.send(1, 1);
    harness.pass_secs(1);
    harness.end(2, End::AuthFailed);
    harness.pass_secs(27);
    harness.core.handle_stop(harness.now());
    harness.drain();
    // Passing time fails where the core asks to be looked at in vain.
    harness.pass_secs(9);
    harness.answer(1, 1);
    harness.end(1, End::Retired);
    assert!(harness.core.is_over());
}
