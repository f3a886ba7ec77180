//! Answers that do not come.

use super::*;

fn deferred(number: u64) -> Report {
    let fate = Fate::Deferred { wait: dispatch::BEHIND_UNANSWERED_WAIT, why: dispatch::BEHIND_UNANSWERED.into() };
    Report::Back { sid: sid(number), fate, copies: 0, replays: 0 }
}

/// A connection that never answers message 1, and the number of the one that is opened beside it.
fn ignore(harness: &mut Harness, connection: u64) -> u64 {
    harness.pass(ANSWER + TICK);
    assert_eq!(harness.changes.last().map(|(id, _)| *id), Some(connection));
    let detail = "server: no answer to a message within 60 s".to_owned();
    assert_eq!(harness.changes.pop(), Some((connection, ConnectionChange::Lost { detail })));
    harness.dials.last().expect("another one").0
}

#[test]
fn a_connection_that_does_not_answer_a_message_takes_nothing_new_and_another_is_opened_beside_it() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send(1, 1);
    harness.pass_secs(1);
    harness.send(2, 2);
    harness.answer(1, 2);
    assert_eq!(ignore(&mut harness, 1), 2);
    harness.up(2);
    assert_eq!(harness.link(), Link::Up, "others are answered");
    harness.take_sent();
    harness.send(3, 3);
    harness.send(4, 1);
    assert_eq!(harness.take_sent(), [(2, 3)], "the recipient's next one does not overtake");
    harness.answer(2, 3);
    harness.take_reports();
    harness.answer(1, 1);
    assert_eq!(harness.take_reports(), [accepted(1, 1, 0)], "a late answer counts");
    assert_eq!(harness.take_sent(), [(2, 4)]);
    harness.pass_secs(1);
    assert_eq!(harness.retired, [(1, Manner::AfterAnswers)], "nobody waits for it any more");
    assert_eq!(harness.core.snapshot().suspects, 1);
}

#[test]
fn a_message_whose_answer_is_lost_is_sent_again_and_counted_after_twice_the_time_for_an_answer() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send(1, 1);
    harness.pass_secs(1);
    harness.send(2, 2);
    harness.answer(1, 2);
    ignore(&mut harness, 1);
    harness.up(2);
    harness.pass(ANSWER - TICK * 3);
    assert_eq!(harness.retired, []);
    harness.pass(TICK * 3);
    assert_eq!(harness.retired, [(1, Manner::Now)]);
    harness.take_sent();
    harness.end(1, End::Retired);
    assert_eq!(harness.take_sent(), [(2, 1)]);
    harness.take_reports();
    harness.answer(2, 1);
    assert_eq!(harness.take_reports(), [accepted(1, 2, 1)]);
}

#[test]
fn a_connection_that_answers_nothing_is_given_up_before_the_drain_limit_only_if_others_answer() {
    for others in [false, true] {
        let mut harness = Harness::fixed(1, 3);
        harness.up(1);
        harness.send(1, 1);
        ignore(&mut harness, 1);
        harness.up(2);
        if others {
            harness.send(2, 2);
            harness.answer(2, 2);
        }
        harness.pass(ANSWER + TICK);
        assert_eq!(harness.retired, if others { vec![(1, Manner::Now)] } else { vec![] });
        harness.pass(DRAIN);
        assert_eq!(harness.retired, [(1, Manner::Now)]);
    }
}

#[test]
fn a_connection_that_is_only_slow_keeps_its_time_for_what_was_written_last() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send(1, 1);
    harness.pass(ANSWER - TICK);
    harness.send(2, 2);
    harness.pass(TICK * 2);
    harness.up(2);
    harness.pass(ANSWER / 2);
    harness.answer(1, 1);
    harness.pass(ANSWER);
    assert_eq!(harness.retired, [], "in order, and late");
    harness.take_reports();
    harness.answer(1, 2);
    assert_eq!(harness.take_reports(), [accepted(2, 1, 0)]);
}

#[test]
fn a_message_that_three_connections_ignored_while_they_answered_others_is_ambiguous() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send(1, 1);
    for connection in 1..=3 {
        harness.pass_secs(1);
        harness.send(1 + connection, 2);
        harness.answer(connection, 1 + connection);
        assert_eq!(ignore(&mut harness, connection), connection + 1);
        harness.up(connection + 1);
        harness.take_reports();
        // It ends before its time: it was given up already.
        harness.end(connection, End::Failed);
    }
    let reports = harness.take_reports();
    let [Report::Back { fate: Fate::Refused(refusal), copies: 3, replays: 2, .. }] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!((refusal.code.as_str(), refusal.decision), (AMBIGUOUS, Decision::FAIL));
    assert_eq!(refusal.arrival, crate::chat::refusal::Arrival::Maybe);
    assert_eq!(harness.link(), Link::Up);
}

#[test]
fn where_nothing_is_answered_nothing_fails_and_one_message_at_a_time_finds_out_when_that_ends() {
    let mut harness = Harness::fixed(1, 9);
    harness.up(1);
    (1..=3).for_each(|number| harness.send(number, number as i64));
    harness.take_sent();
    ignore(&mut harness, 1);
    assert_eq!(harness.link(), Link::UNANSWERED);
    harness.up(2);
    assert_eq!(harness.link(), Link::Probing(UNANSWERED), "it asks for a message");
    assert!(harness.core.has_room());
    (4..=6).for_each(|number| harness.send(number, number as i64));
    assert_eq!(harness.take_sent(), [(2, 4)]);
    assert_eq!(harness.take_reports(), [lost(5, 0), lost(6, 0)], "the disk is the only queue");
    assert_eq!(harness.link(), Link::UNANSWERED);
    for connection in 2..=30 {
        assert_eq!(ignore(&mut harness, connection), connection + 1);
        harness.up(connection + 1);
        if harness.link() == Link::Probing(UNANSWERED) {
            harness.send(100 + connection, 100 + connection as i64);
        }
        for (closed, _) in std::mem::take(&mut harness.retired) {
            harness.end(closed, End::Retired);
        }
    }
    assert_eq!(harness.take_reports(), [], "nobody knows anything of any of them");
    let sent = harness.take_sent();
    let twice = sent.windows(2).any(|pair| pair[0].0 == pair[1].0);
    assert!(!twice && sent.len() > 20, "one at a time: {sent:?}");
    let probe = sent.last().unwrap().1;
    harness.answer(31, probe);
    assert_eq!(harness.link(), Link::Up);
    assert!(harness.take_sent().len() > 1, "and all go again");
}

#[test]
fn a_service_that_falls_silent_while_its_window_is_full_is_found_out_like_any_other() {
    let mut harness = Harness::fixed(1, 1);
    harness.up(1);
    harness.send(1, 1);
    harness.send(2, 2);
    harness.pass_secs(1);
    harness.answer(1, 1);
    assert_eq!(harness.take_sent(), [(1, 1), (1, 2)]);
    ignore(&mut harness, 1);
    assert_eq!(harness.link(), Link::UNANSWERED);
}

#[test]
fn the_time_to_live_ends_the_wait_for_an_answer_and_the_recipient_goes_on() {
    let mut harness = Harness::fixed(1, 2);
    harness.up(1);
    harness.send_until(1, 1, 5_000);
    harness.send(2, 1);
    harness.send(3, 1);
    harness.answer(1, 2);
    harness.take_reports();
    harness.pass_secs(9);
    assert_eq!(harness.take_reports(), [], "a push service that is slow has taken it all the same");
    harness.pass_secs(2);
    assert_eq!(harness.take_reports(), [expired(1, 1)]);
    assert_eq!(harness.take_sent(), [(1, 1), (1, 2), (1, 3)]);
    harness.send(4, 1);
    assert_eq!(harness.take_sent(), [], "at the peer it still takes a place");
    harness.answer(1, 1);
    assert_eq!(harness.take_reports(), [], "it has its report");
    assert_eq!(harness.take_sent(), [(1, 4)]);
}

#[test]
fn a_window_full_of_messages_that_are_never_answered_blocks_nothing_for_long() {
    let mut harness = Harness::fixed(1, 100);
    harness.up(1);
    (1..=100).for_each(|number| harness.send_until(number, number as i64, 5_000));
    harness.pass_secs(11);
    assert_eq!(harness.take_reports().len(), 100);
    harness.send(101, 7);
    harness.pass(ANSWER - Duration::from_secs(11) + TICK);
    harness.take_sent();
    harness.up(2);
    assert_eq!((harness.take_reports(), harness.link()), (vec![lost(101, 0)], Link::Probing(UNANSWERED)));
    harness.send(101, 7);
    assert_eq!(harness.take_sent(), [(2, 101)]);
}

#[test]
fn answers_that_keep_coming_too_late_replace_the_connection() {
    let late = |number| Event::Answered(sid(number), Answer::Late);
    let mut harness = Harness::new(ServiceSettings { answer_timeout: None, ..settings(Pool::Fixed(1), 99) });
    harness.up(1);
    harness.pass_secs(1);
    for number in [1, 2, 3, 4] {
        harness.send(number, number as i64);
        harness.event(1, late(number));
    }
    harness.send(5, 5);
    harness.answer(1, 5);
    for number in [6, 7, 8, 9, 10] {
        assert_eq!(harness.retired, []);
        harness.send(number, number as i64);
        harness.event(1, late(number));
    }
    assert_eq!(harness.retired, [(1, Manner::AfterAnswers)], "five in a row");
    assert_eq!(harness.dials.len(), 2);
    assert_ne!(harness.link(), Link::UNANSWERED);
}

#[test]
fn a_message_that_three_drained_connections_ignored_while_they_answered_others_is_ambiguous() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send(1, 1);
    let mut others = 100;
    let mut drained = |harness: &mut Harness, connection: u64, wait: Duration| {
        harness.pass_secs(1);
        others += 1;
        harness.send(others, 2);
        harness.answer(connection, others);
        harness.event(connection, Event::Draining);
        harness.up(connection + 1);
        harness.take_reports();
        harness.pass(wait);
        harness.end(connection, End::Failed);
    };
    // It may not have had the time.
    for connection in 1..=5 {
        drained(&mut harness, connection, Duration::from_secs(30));
        assert_eq!(harness.take_reports(), []);
    }
    for connection in 6..=8 {
        assert_eq!(harness.take_reports(), []);
        drained(&mut harness, connection, ANSWER);
    }
    let reports = harness.take_reports();
    let [Report::Back { fate: Fate::Refused(refusal), copies: 8, .. }] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((refusal.code.as_str(), refusal.decision), (AMBIGUOUS, Decision::FAIL));
}

#[test]
fn while_nothing_is_answered_what_is_behind_an_unanswered_message_goes_back_so_that_others_can_find_out() {
    let mut harness = Harness::fixed(1, 2);
    harness.up(1);
    harness.send(1, 1);
    harness.send(2, 2);
    ignore(&mut harness, 1);
    harness.up(2);
    harness.take_reports();
    for number in 3..=40 {
        assert!(harness.core.has_room(), "{number}");
        assert_eq!(harness.link(), Link::Probing(UNANSWERED));
        harness.send(number, 1 + (number % 2) as i64);
        assert_eq!(harness.take_reports(), [deferred(number)], "its recipient does not ask again at once");
    }
    harness.take_sent();
    harness.send(41, 3);
    assert_eq!(harness.take_sent(), [(2, 41)]);
    harness.answer(2, 41);
    assert_eq!(harness.link(), Link::Up);
}

#[test]
fn what_was_not_taken_stays_before_a_later_one_that_may_have_been_while_nothing_is_answered() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    (1..=3).for_each(|number| harness.send(number, 1));
    ignore(&mut harness, 1);
    harness.up(2);
    harness.take_reports();
    harness.take_sent();
    harness.bounce(1, 1);
    harness.bounce(1, 3);
    assert_eq!(harness.take_reports(), [deferred(3)]);
    harness.end(1, End::Failed);
    assert_eq!(harness.take_sent(), [(2, 1)]);
    harness.answer(2, 1);
    assert_eq!(harness.take_sent(), [(2, 2)]);
}

/// A service over which nothing else is sent, and that does not answer message 1, on its second connection.
fn quiet(deadline_ms: u64) -> Harness {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send_until(1, 1, deadline_ms);
    ignore(&mut harness, 1);
    harness.up(2);
    assert_eq!(harness.link(), Link::Probing(UNANSWERED));
    harness
}

#[test]
fn one_message_without_an_answer_on_a_quiet_service_says_nothing_for_ever() {
    let mut harness = quiet(NEVER);
    harness.pass(ANSWER - TICK * 2);
    assert_eq!(harness.link(), Link::Probing(UNANSWERED), "another one may come to find out with");
    harness.pass(TICK * 2);
    let mut up = 2;
    for _ in 0..7_200 {
        assert_eq!(harness.link(), Link::Up, "the same message says nothing new");
        harness.pass_secs(1);
        for (closed, _) in std::mem::take(&mut harness.retired) {
            harness.end(closed, End::Retired);
        }
        let (last, _) = *harness.dials.last().unwrap();
        if std::mem::replace(&mut up, last) < last {
            harness.up(last);
        }
    }
    assert!(harness.take_sent().len() > 5, "it is sent again and again");
    assert_eq!(harness.take_reports(), []);
    harness.send(2, 2);
    harness.pass(ANSWER + TICK);
    assert_eq!(harness.link(), Link::UNANSWERED, "another one that is not answered either does");
}

#[test]
fn a_message_that_finds_out_and_is_not_answered_says_it_for_as_long_again() {
    let mut harness = quiet(NEVER);
    harness.pass(ANSWER / 2);
    harness.send(2, 2);
    assert_eq!(harness.link(), Link::UNANSWERED);
    ignore(&mut harness, 2);
    harness.up(3);
    harness.pass(ANSWER - TICK * 2);
    assert_eq!(harness.link(), Link::Probing(UNANSWERED));
    harness.pass(TICK * 2);
    assert_eq!(harness.link(), Link::Up);
}

#[test]
fn the_end_of_the_message_that_finds_out_ends_the_question_as_well() {
    let mut harness = quiet(5_000);
    let expires = harness.now().unix_ms + 5_000;
    harness.send_until(2, 2, expires);
    ignore(&mut harness, 2);
    assert_eq!(harness.take_reports(), [expired(1, 1), expired(2, 1)]);
    harness.up(3);
    harness.pass(ANSWER);
    assert_eq!(harness.link(), Link::Up);
}

#[test]
fn a_receipt_for_a_message_that_is_not_answered_shows_that_messages_are_taken() {
    let mut harness = quiet(NEVER);
    harness.event(2, receipt(9));
    assert_eq!(harness.link(), Link::Probing(UNANSWERED), "it is none of those");
    harness.event(2, receipt(1));
    assert_eq!(harness.link(), Link::Up);
}

#[test]
fn a_stream_that_breaks_is_no_answer() {
    let mut harness = quiet(NEVER);
    harness.event(1, Event::Answered(sid(1), Answer::Broken));
    assert_ne!(harness.link(), Link::Up);
    let mut harness = Harness::new(ServiceSettings { answer_timeout: None, ..settings(Pool::Fixed(1), 99) });
    harness.up(1);
    for number in 1..=10 {
        assert_eq!(harness.retired, []);
        harness.send(number, 1);
        let answer = if number % 2 == 0 { Answer::Late } else { Answer::Broken };
        harness.event(1, Event::Answered(sid(number), answer));
    }
    assert_eq!(harness.retired, [(1, Manner::AfterAnswers)], "five came late, and none in time between them");
}

#[test]
fn after_a_driver_was_held_up_the_answers_that_it_has_not_seen_have_their_time_again() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send_until(1, 1, 5_000);
    harness.send(2, 2);
    harness.pass_secs(1);
    harness.time += ANSWER;
    harness.pass_secs(9);
    harness.answer(1, 1);
    assert_eq!(harness.take_reports(), [accepted(1, 1, 0)]);
    assert_eq!((harness.changes.len(), harness.link()), (1, Link::Up));
    harness.pass(ANSWER - Duration::from_secs(10));
    assert_eq!(harness.changes.len(), 1);
    harness.pass_secs(2);
    assert_eq!(harness.changes.len(), 2, "and no more than that");
}

#[test]
fn a_message_whose_connection_was_only_cut_asks_like_any_other() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    (1..=3).for_each(|number| harness.send(number, number as i64));
    harness.pass_secs(10);
    harness.end(1, End::Failed);
    harness.pass_secs(10);
    harness.up(2);
    harness.take_sent();
    ignore(&mut harness, 2);
    assert_eq!(harness.link(), Link::UNANSWERED, "they had no time for an answer before");
}

#[test]
fn a_message_that_is_overdue_after_its_connection_was_given_up_for_an_older_one_asks_as_well() {
    let mut harness = quiet(NEVER);
    harness.pass(ANSWER + TICK);
    assert_eq!(harness.link(), Link::Up, "nothing to find out with");
    harness.pass(DRAIN);
    harness.end(1, End::Retired);
    assert_eq!(harness.take_sent().last(), Some(&(2, 1)));
    harness.pass(ANSWER / 2);
    harness.send(2, 2);
    harness.pass(ANSWER / 2 + TICK);
    let (last, _) = *harness.dials.last().unwrap();
    assert_eq!((last, harness.link()), (3, Link::Draining), "given up for what was ignored before");
    harness.up(3);
    assert_eq!(harness.link(), Link::Up);
    harness.pass(ANSWER / 2);
    assert_eq!(harness.link(), Link::Probing(UNANSWERED));
}

#[test]
fn while_messages_wait_behind_an_unanswered_one_the_question_stays() {
    let mut harness = quiet(NEVER);
    for n in 0..30 {
        harness.send(2 + n, 1);
        assert_eq!(harness.take_reports(), [deferred(2 + n)]);
        assert_eq!(harness.link(), Link::Probing(UNANSWERED), "after {n} times 5 s");
        harness.pass_secs(5);
    }
    harness.pass(ANSWER);
    assert_eq!(harness.link(), Link::Up, "nobody uses it any more");
}
