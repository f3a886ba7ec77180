//! Which message is where, and in which order.

use super::*;

#[test]
fn there_is_room_for_the_windows_of_all_connections_and_no_more() {
    let mut bench = Bench::fixed(2, 2);
    bench.up(1);
    bench.pass_secs(1);
    bench.up(2);
    for number in 1..=4 {
        assert!(bench.core.has_room());
        bench.send(number, number as i64);
    }
    assert!(!bench.core.has_room());
    assert_eq!(bench.take_sent(), [(1, 1), (2, 2), (1, 3), (2, 4)], "they share the load");
    bench.answer(1, 1);
    assert_eq!(bench.take_reports(), [accepted(1, 1, 0)]);
    assert!(bench.core.has_room());
    bench.answer(1, 1);
    assert_eq!(
        (bench.take_reports(), bench.core.snapshot().counted.unknown_answers),
        (vec![], 1),
        "it is answered once"
    );
}

#[test]
fn a_peer_that_takes_less_than_the_window_is_given_less() {
    let mut bench = Bench::fixed(1, 5);
    bench.event(1, Event::Up { capacity: 1 });
    bench.send(1, 1);
    bench.send(2, 2);
    assert_eq!(bench.take_sent(), [(1, 1)]);
    bench.event(1, Event::Capacity(2));
    assert_eq!(bench.take_sent(), [(1, 2)]);
}

#[test]
fn what_a_lost_connection_left_goes_first_and_in_order() {
    let mut bench = Bench::fixed(1, 4);
    bench.up(1);
    for number in 1..=3 {
        bench.send(number, number as i64);
    }
    bench.answer(1, 2);
    bench.end_unwritten(1, End::Failed, &[3]);
    bench.send(4, 4);
    bench.take_sent();
    bench.pass_secs(1);
    bench.up(2);
    assert_eq!(bench.take_sent(), [(2, 1), (2, 3), (2, 4)]);
    assert_eq!((bench.core.snapshot().written, bench.core.snapshot().reconnects), (6, 1));
    bench.take_reports();
    [1, 3, 4].into_iter().for_each(|number| bench.answer(2, number));
    let expected = [accepted(1, 2, 1), accepted(3, 1, 0), accepted(4, 1, 0)];
    assert_eq!(bench.take_reports(), expected, "what never left is no copy");
}

#[test]
fn a_recipient_stays_on_one_connection_while_any_of_its_messages_is_unanswered() {
    let mut bench = Bench::fixed(2, 2);
    bench.up(1);
    bench.pass_secs(1);
    bench.up(2);
    for (number, recipient) in [(1, 50), (2, 50), (3, 50), (4, 60)] {
        bench.send(number, recipient);
    }
    assert_eq!(bench.take_sent(), [(1, 1), (1, 2), (2, 4)], "the third waits for its own connection");
    bench.answer(1, 1);
    assert_eq!(bench.take_sent(), [(1, 3)]);
}

#[test]
fn nothing_overtakes_what_a_draining_connection_still_has() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    for (number, recipient) in [(1, 50), (2, 50), (9, 90)] {
        bench.send(number, recipient);
    }
    assert!(!bench.core.has_room());
    bench.answer(1, 9);
    bench.event(1, Event::Draining);
    bench.pass_secs(1);
    bench.up(2);
    bench.take_sent();
    assert!(bench.core.has_room());
    bench.send(3, 50);
    bench.send(4, 60);
    assert_eq!(bench.take_sent(), [(2, 4)]);
    bench.answer(2, 4);
    bench.bounce(1, 2);
    assert_eq!(bench.take_sent(), []);
    bench.end(1, End::Failed);
    assert_eq!(bench.take_sent(), [(2, 1), (2, 2), (2, 3)]);
    bench.take_reports();
    [1, 2, 3].into_iter().for_each(|number| bench.answer(2, number));
    assert_eq!(bench.take_reports(), [accepted(1, 2, 1), accepted(2, 1, 1), accepted(3, 1, 0)]);
}

#[test]
fn what_waits_behind_a_draining_connection_leaves_room_for_others() {
    let mut bench = Bench::fixed(1, 2);
    bench.up(1);
    bench.send(1, 50);
    bench.event(1, Event::Draining);
    bench.pass_secs(1);
    bench.up(2);
    for number in 2..=4 {
        assert!(bench.core.has_room());
        bench.send(number, 50);
    }
    assert!(bench.core.has_room(), "the new connection stands idle");
    bench.take_sent();
    bench.send(5, 60);
    assert_eq!(bench.take_sent(), [(2, 5)]);
    while bench.core.has_room() {
        bench.send(6 + bench.core.snapshot().pending as u64, 50);
    }
    assert_eq!(bench.core.snapshot().pending, 2 * dispatch::TAKEN_FACTOR, "and there is an end of it");
}

#[test]
fn a_message_was_tried_as_often_as_it_was_written() {
    let mut bench = Bench::fixed(2, 2);
    bench.up(1);
    bench.pass_secs(1);
    bench.send(1, 1);
    bench.event(1, Event::Unwritten(sid(1)));
    bench.bounce(1, 1);
    bench.pass_secs(1);
    bench.end(1, End::Failed);
    bench.up(2);
    bench.answer(2, 1);
    assert_eq!(bench.take_sent(), [(1, 1), (1, 1), (1, 1), (2, 1)]);
    assert_eq!(bench.take_reports(), [accepted(1, 2, 2)]);
}

#[test]
fn a_message_goes_rather_to_another_connection_than_the_one_that_would_not_take_it() {
    let mut bench = Bench::fixed(2, 2);
    bench.up(1);
    bench.pass_secs(1);
    bench.up(2);
    bench.send(1, 1);
    bench.event(1, Event::Answered(sid(1), Answer::Is(Verdict::Elsewhere)));
    assert_eq!(bench.take_sent(), [(1, 1), (2, 1)]);
    bench.event(1, Event::Capacity(0));
    bench.event(2, Event::Answered(sid(1), Answer::Is(Verdict::Elsewhere)));
    assert_eq!(bench.take_sent(), [], "there is only this one");
    bench.pass(ELSEWHERE_WAIT);
    assert_eq!(bench.take_sent(), [(2, 1)]);
    bench.event(2, Event::Answered(sid(1), Answer::Is(Verdict::Again)));
    assert_eq!(bench.take_sent(), [(2, 1)]);
    bench.answer(2, 1);
    assert_eq!(bench.take_reports(), [accepted(1, 1, 3)]);
    assert_eq!(bench.core.snapshot().not_taken, 2);
}

#[test]
fn what_is_too_late_is_neither_sent_nor_kept() {
    let mut bench = Bench::fixed(1, 2);
    bench.send_until(1, 1, 1_000);
    bench.send_until(2, 1, 2_500);
    bench.pass_secs(1);
    assert_eq!(bench.take_reports(), []);
    bench.pass_secs(1);
    assert_eq!(bench.take_reports(), [expired(1, 0)]);
    bench.up(1);
    assert_eq!(bench.take_sent(), [(1, 2)]);
    bench.end(1, End::Failed);
    bench.pass_secs(1);
    bench.up(2);
    assert_eq!((bench.take_sent(), bench.take_reports()), (vec![], vec![expired(2, 1)]));
    assert_eq!(bench.core.snapshot().pending, 0);
}

#[test]
fn a_message_that_the_device_has_is_not_sent_again() {
    let mut bench = Bench::fixed(1, 2);
    bench.up(1);
    bench.send(1, 1);
    bench.send(2, 2);
    bench.event(1, receipt(1));
    let copies = |report: &Report| if let Report::Receipt { copies, .. } = report { Some(*copies) } else { None };
    assert_eq!(bench.take_reports().iter().map(copies).collect::<Vec<_>>(), [Some(1)], "its answer is still to come");
    bench.end(1, End::Failed);
    assert_eq!(bench.take_reports(), [accepted(1, 1, 0)], "the answer never came, and the device has it");
    bench.event(1, receipt(2));
    let reports = bench.take_reports();
    assert_eq!(reports[0], accepted(2, 1, 0), "it waited to be sent again");
    bench.take_sent();
    bench.pass_secs(1);
    bench.up(2);
    assert_eq!((bench.take_sent(), bench.core.snapshot().pending), (vec![], 0));
}

#[test]
fn what_cannot_go_for_long_goes_back_to_the_disk_untried() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.send(1, 1);
    bench.end(1, End::Failed);
    bench.send(2, 1);
    bench.send(3, 3);
    bench.pass_secs(4);
    assert_eq!(bench.take_reports(), [], "a connection is replaced in less");
    bench.pass_secs(2);
    assert_eq!(bench.take_reports(), [lost(3, 0)], "what may have been taken stays, and what is behind it");
    bench.send(4, 4);
    assert_eq!(bench.take_reports(), [lost(4, 0)]);
    bench.take_sent();
    bench.up(2);
    assert_eq!(bench.take_sent(), [(2, 1), (2, 2)]);
}

#[test]
fn a_service_holds_messages_recipients_or_everybody_back() {
    let mut bench = Bench::fixed(1, 9);
    bench.up(1);
    let start = bench.start;
    let later = start + Duration::from_millis(700);
    let hold = |bench: &mut Bench, recipient, hold| bench.core.service.holds.insert(recipient, hold);
    hold(&mut bench, 1, Hold::Skip);
    hold(&mut bench, 2, Hold::Until(later));
    let unsendable = Fate::Unsendable { code: "BAD".to_owned(), detail: "no good".to_owned() };
    hold(&mut bench, 3, Hold::Back(Fate::Lost));
    hold(&mut bench, 4, Hold::Back(unsendable.clone()));
    hold(&mut bench, 7, Hold::Back(Fate::Deferred { wait: Duration::from_secs(3), why: "quota".into() }));
    [1, 2, 3, 4, 7, 5].into_iter().for_each(|number| bench.send(number, number as i64));
    assert_eq!(bench.take_sent(), [(1, 5)]);
    let back = |number, fate| Report::Back { sid: sid(number), fate, copies: 0, replays: 0 };
    let deferred = Fate::Deferred { wait: Duration::from_secs(3), why: "quota".into() };
    assert_eq!(bench.take_reports(), [lost(3, 0), back(4, unsendable), back(7, deferred)]);
    bench.core.service.holds.remove(&2);
    bench.pass(Duration::from_millis(700));
    assert_eq!(bench.take_sent(), [(1, 2)], "the core looks when the time is over");
    hold(&mut bench, 1, Hold::All(start + Duration::from_millis(900)));
    bench.send(6, 6);
    assert_eq!(bench.take_sent(), []);
    bench.core.service.holds.clear();
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.take_sent(), [(1, 1), (1, 6)]);
}

#[test]
fn what_is_ambiguous_by_the_services_rule_is_reported_and_not_sent_again() {
    let replay = Replay::Ambiguous(ambiguous());
    let mut bench = Bench::new(Settings { replay, ..settings(Pool::Fixed(1), 3) });
    bench.up(1);
    bench.send(1, 1);
    bench.end(1, End::Failed);
    let refusal = ambiguous();
    assert_eq!(
        bench.take_reports(),
        [Report::Back { sid: sid(1), fate: Fate::Refused(refusal), copies: 1, replays: 0 }]
    );
}

#[test]
fn a_stop_takes_nothing_waits_for_answers_and_reports_the_rest() {
    let mut bench = Bench::fixed(1, 2);
    bench.up(1);
    (1..=3).for_each(|number| bench.send(number, number as i64));
    bench.core.handle_stop(bench.now());
    bench.drain();
    assert_eq!(bench.retired, [(1, Manner::AfterAnswers)]);
    assert!(!bench.core.has_room());
    bench.answer(1, 1);
    bench.send(4, 4);
    assert_eq!(bench.take_reports(), [accepted(1, 1, 0), lost(4, 0)]);
    bench.pass_secs(10);
    assert_eq!(bench.retired[1..], [(1, Manner::Now)], "the grace period is over");
    bench.end(1, End::Retired);
    assert!(bench.core.is_over());
    assert_eq!(bench.take_reports(), [lost(2, 1), lost(3, 0)]);
    assert_eq!(bench.dials.len(), 1);
}

#[test]
fn connections_that_end_with_all_their_answers_owed_leave_room_for_others() {
    let mut bench = Bench::fixed(1, 2);
    let mut number = 0;
    let mut send = |bench: &mut Bench, recipient: i64| {
        number += 1;
        bench.send(number, recipient);
        number
    };
    for connection in 1..=4 {
        bench.up(connection);
        send(&mut bench, connection as i64);
        send(&mut bench, 10 + connection as i64);
        bench.event(connection, Event::Draining);
        bench.pass_secs(1);
    }
    bench.up(5);
    bench.take_sent();
    // Three for each of two recipients, as many as there may be of one.
    for recipient in [1, 2, 1, 2, 1, 2] {
        assert!(bench.core.has_room());
        send(&mut bench, recipient);
    }
    assert!(bench.core.has_room(), "the new connection stands idle");
    let first = send(&mut bench, 50);
    let second = send(&mut bench, 51);
    assert_eq!(bench.take_sent(), [(5, first), (5, second)]);
    assert!(!bench.core.has_room(), "it is full");
}

#[test]
fn a_stop_while_the_next_connection_waits_for_its_time_only_waits_for_answers() {
    let mut bench = Bench::fixed(2, 2);
    bench.up(1);
    bench.send(1, 1);
    bench.pass_secs(1);
    bench.end(2, End::AuthFailed);
    bench.pass_secs(27);
    bench.core.handle_stop(bench.now());
    bench.drain();
    // Passing time fails where the core asks to be looked at in vain.
    bench.pass_secs(9);
    bench.answer(1, 1);
    bench.end(1, End::Retired);
    assert!(bench.core.is_over());
}
