//! Answers that do not come.

use super::*;

fn deferred(number: u64) -> Report {
    let fate = Fate::Deferred { wait: dispatch::BEHIND_UNANSWERED_WAIT, why: dispatch::BEHIND_UNANSWERED.into() };
    Report::Back { sid: sid(number), fate, copies: 0, replays: 0 }
}

/// A connection that never answers message 1, and the number of the one that is opened beside it.
fn ignore(bench: &mut Bench, connection: u64) -> u64 {
    bench.pass(ANSWER + TICK);
    assert_eq!(bench.changes.last().map(|(id, _)| *id), Some(connection));
    let detail = "server: no answer to a message within 60 s".to_owned();
    assert_eq!(bench.changes.pop(), Some((connection, Change::Lost { detail })));
    bench.dials.last().expect("another one").0
}

#[test]
fn a_connection_that_does_not_answer_a_message_takes_nothing_new_and_another_is_opened_beside_it() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.send(1, 1);
    bench.pass_secs(1);
    bench.send(2, 2);
    bench.answer(1, 2);
    assert_eq!(ignore(&mut bench, 1), 2);
    bench.up(2);
    assert_eq!(bench.link(), Link::Up, "others are answered");
    bench.take_sent();
    bench.send(3, 3);
    bench.send(4, 1);
    assert_eq!(bench.take_sent(), [(2, 3)], "the recipient's next one does not overtake");
    bench.answer(2, 3);
    bench.take_reports();
    bench.answer(1, 1);
    assert_eq!(bench.take_reports(), [accepted(1, 1, 0)], "a late answer counts");
    assert_eq!(bench.take_sent(), [(2, 4)]);
    bench.pass_secs(1);
    assert_eq!(bench.retired, [(1, Manner::AfterAnswers)], "nobody waits for it any more");
    assert_eq!(bench.core.snapshot().suspects, 1);
}

#[test]
fn what_is_not_answered_until_the_drain_limit_is_sent_again_and_counted() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.send(1, 1);
    bench.pass_secs(1);
    bench.send(2, 2);
    bench.answer(1, 2);
    ignore(&mut bench, 1);
    bench.up(2);
    bench.pass(DRAIN + TICK);
    assert_eq!(bench.retired, [(1, Manner::Now)]);
    bench.take_sent();
    bench.end(1, End::Retired);
    assert_eq!(bench.take_sent(), [(2, 1)]);
    bench.take_reports();
    bench.answer(2, 1);
    assert_eq!(bench.take_reports(), [accepted(1, 2, 1)]);
}

#[test]
fn a_message_that_three_connections_ignored_while_they_answered_others_is_ambiguous() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.send(1, 1);
    for connection in 1..=3 {
        bench.pass_secs(1);
        bench.send(1 + connection, 2);
        bench.answer(connection, 1 + connection);
        assert_eq!(ignore(&mut bench, connection), connection + 1);
        bench.up(connection + 1);
        bench.take_reports();
        // It ends before its time: it was given up already.
        bench.end(connection, End::Failed);
    }
    let reports = bench.take_reports();
    let [Report::Back { fate: Fate::Refused(refusal), copies: 3, replays: 2, .. }] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!((refusal.code.as_str(), refusal.decision), (AMBIGUOUS, Decision::FAIL));
    assert_eq!(refusal.arrival, crate::chat::refusal::Arrival::Maybe);
    assert_eq!(bench.link(), Link::Up);
}

#[test]
fn where_nothing_is_answered_nothing_fails_and_one_message_at_a_time_finds_out_when_that_ends() {
    let mut bench = Bench::fixed(1, 9);
    bench.up(1);
    (1..=3).for_each(|number| bench.send(number, number as i64));
    bench.take_sent();
    ignore(&mut bench, 1);
    assert_eq!(bench.link(), Link::UNANSWERED);
    bench.up(2);
    assert_eq!(bench.link(), Link::Probing(UNANSWERED), "it asks for a message");
    assert!(bench.core.has_room());
    (4..=6).for_each(|number| bench.send(number, number as i64));
    assert_eq!(bench.take_sent(), [(2, 4)]);
    assert_eq!(bench.take_reports(), [lost(5, 0), lost(6, 0)], "the disk is the only queue");
    assert_eq!(bench.link(), Link::UNANSWERED);
    for connection in 2..=30 {
        assert_eq!(ignore(&mut bench, connection), connection + 1);
        bench.up(connection + 1);
        if bench.link() == Link::Probing(UNANSWERED) {
            bench.send(100 + connection, 100 + connection as i64);
        }
        for (closed, _) in std::mem::take(&mut bench.retired) {
            bench.end(closed, End::Retired);
        }
    }
    assert_eq!(bench.take_reports(), [], "nobody knows anything of any of them");
    let sent = bench.take_sent();
    let twice = sent.windows(2).any(|pair| pair[0].0 == pair[1].0);
    assert!(!twice && sent.len() > 20, "one at a time: {sent:?}");
    let probe = sent.last().unwrap().1;
    bench.answer(31, probe);
    assert_eq!(bench.link(), Link::Up);
    assert!(bench.take_sent().len() > 1, "and all go again");
}

#[test]
fn the_time_to_live_ends_the_wait_for_an_answer_and_the_recipient_goes_on() {
    let mut bench = Bench::fixed(1, 2);
    bench.up(1);
    bench.send_until(1, 1, 5_000);
    bench.send(2, 1);
    bench.send(3, 1);
    bench.answer(1, 2);
    bench.take_reports();
    bench.pass_secs(9);
    assert_eq!(bench.take_reports(), [], "a push service that is slow has taken it all the same");
    bench.pass_secs(2);
    assert_eq!(bench.take_reports(), [expired(1, 1)]);
    assert_eq!(bench.take_sent(), [(1, 1), (1, 2), (1, 3)]);
    bench.send(4, 1);
    assert_eq!(bench.take_sent(), [], "at the peer it still takes a place");
    bench.answer(1, 1);
    assert_eq!(bench.take_reports(), [], "it has its report");
    assert_eq!(bench.take_sent(), [(1, 4)]);
}

#[test]
fn a_window_full_of_messages_that_are_never_answered_blocks_nothing_for_long() {
    let mut bench = Bench::fixed(1, 100);
    bench.up(1);
    (1..=100).for_each(|number| bench.send_until(number, number as i64, 5_000));
    bench.pass_secs(11);
    assert_eq!(bench.take_reports().len(), 100);
    bench.send(101, 7);
    bench.pass(ANSWER - Duration::from_secs(11) + TICK);
    bench.take_sent();
    bench.up(2);
    assert_eq!((bench.take_reports(), bench.link()), (vec![lost(101, 0)], Link::Probing(UNANSWERED)));
    bench.send(101, 7);
    assert_eq!(bench.take_sent(), [(2, 101)]);
}

#[test]
fn answers_that_keep_coming_too_late_replace_the_connection() {
    let late = |number| Event::Answered(sid(number), Answer::Late);
    let mut bench = Bench::new(Settings { answer: None, ..settings(Pool::Fixed(1), 99) });
    bench.up(1);
    bench.pass_secs(1);
    for number in [1, 2, 3, 4] {
        bench.send(number, number as i64);
        bench.event(1, late(number));
    }
    bench.send(5, 5);
    bench.answer(1, 5);
    for number in [6, 7, 8, 9, 10] {
        assert_eq!(bench.retired, []);
        bench.send(number, number as i64);
        bench.event(1, late(number));
    }
    assert_eq!(bench.retired, [(1, Manner::AfterAnswers)], "five in a row");
    assert_eq!(bench.dials.len(), 2);
    assert_ne!(bench.link(), Link::UNANSWERED);
}

#[test]
fn a_message_that_three_drained_connections_ignored_while_they_answered_others_is_ambiguous() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.send(1, 1);
    let mut others = 100;
    let mut drained = |bench: &mut Bench, connection: u64, wait: Duration| {
        bench.pass_secs(1);
        others += 1;
        bench.send(others, 2);
        bench.answer(connection, others);
        bench.event(connection, Event::Draining);
        bench.up(connection + 1);
        bench.take_reports();
        bench.pass(wait);
        bench.end(connection, End::Failed);
    };
    // It may not have had the time.
    for connection in 1..=5 {
        drained(&mut bench, connection, Duration::from_secs(30));
        assert_eq!(bench.take_reports(), []);
    }
    for connection in 6..=8 {
        assert_eq!(bench.take_reports(), []);
        drained(&mut bench, connection, ANSWER);
    }
    let reports = bench.take_reports();
    let [Report::Back { fate: Fate::Refused(refusal), copies: 8, .. }] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((refusal.code.as_str(), refusal.decision), (AMBIGUOUS, Decision::FAIL));
}

#[test]
fn while_nothing_is_answered_what_is_behind_an_unanswered_message_goes_back_so_that_others_can_find_out() {
    let mut bench = Bench::fixed(1, 2);
    bench.up(1);
    bench.send(1, 1);
    bench.send(2, 2);
    ignore(&mut bench, 1);
    bench.up(2);
    bench.take_reports();
    for number in 3..=40 {
        assert!(bench.core.has_room(), "{number}");
        assert_eq!(bench.link(), Link::Probing(UNANSWERED));
        bench.send(number, 1 + (number % 2) as i64);
        assert_eq!(bench.take_reports(), [deferred(number)], "its recipient does not ask again at once");
    }
    bench.take_sent();
    bench.send(41, 3);
    assert_eq!(bench.take_sent(), [(2, 41)]);
    bench.answer(2, 41);
    assert_eq!(bench.link(), Link::Up);
}

#[test]
fn what_was_not_taken_stays_before_a_later_one_that_may_have_been_while_nothing_is_answered() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    (1..=3).for_each(|number| bench.send(number, 1));
    ignore(&mut bench, 1);
    bench.up(2);
    bench.take_reports();
    bench.take_sent();
    bench.bounce(1, 1);
    bench.bounce(1, 3);
    assert_eq!(bench.take_reports(), [deferred(3)]);
    bench.end(1, End::Failed);
    assert_eq!(bench.take_sent(), [(2, 1)]);
    bench.answer(2, 1);
    assert_eq!(bench.take_sent(), [(2, 2)]);
}

/// A service over which nothing else is sent, and that does not answer message 1, on its second connection.
fn quiet(deadline_ms: u64) -> Bench {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.send_until(1, 1, deadline_ms);
    ignore(&mut bench, 1);
    bench.up(2);
    assert_eq!(bench.link(), Link::Probing(UNANSWERED));
    bench
}

#[test]
fn one_message_without_an_answer_on_a_quiet_service_says_nothing_for_ever() {
    let mut bench = quiet(NEVER);
    bench.pass(ANSWER - TICK * 2);
    assert_eq!(bench.link(), Link::Probing(UNANSWERED), "another one may come to find out with");
    bench.pass(TICK * 2);
    let mut up = 2;
    for _ in 0..7_200 {
        assert_eq!(bench.link(), Link::Up, "the same message says nothing new");
        bench.pass_secs(1);
        for (closed, _) in std::mem::take(&mut bench.retired) {
            bench.end(closed, End::Retired);
        }
        let (last, _) = *bench.dials.last().unwrap();
        if std::mem::replace(&mut up, last) < last {
            bench.up(last);
        }
    }
    assert!(bench.take_sent().len() > 5, "it is sent again and again");
    assert_eq!(bench.take_reports(), []);
    bench.send(2, 2);
    bench.pass(ANSWER + TICK);
    assert_eq!(bench.link(), Link::UNANSWERED, "another one that is not answered either does");
}

#[test]
fn a_message_that_finds_out_and_is_not_answered_says_it_for_as_long_again() {
    let mut bench = quiet(NEVER);
    bench.pass(ANSWER / 2);
    bench.send(2, 2);
    assert_eq!(bench.link(), Link::UNANSWERED);
    ignore(&mut bench, 2);
    bench.up(3);
    bench.pass(ANSWER - TICK * 2);
    assert_eq!(bench.link(), Link::Probing(UNANSWERED));
    bench.pass(TICK * 2);
    assert_eq!(bench.link(), Link::Up);
}

#[test]
fn the_end_of_the_message_that_finds_out_ends_the_question_as_well() {
    let mut bench = quiet(5_000);
    let expires = bench.now().unix_ms + 5_000;
    bench.send_until(2, 2, expires);
    ignore(&mut bench, 2);
    assert_eq!(bench.take_reports(), [expired(1, 1), expired(2, 1)]);
    bench.up(3);
    bench.pass(ANSWER);
    assert_eq!(bench.link(), Link::Up);
}

#[test]
fn a_receipt_for_a_message_that_is_not_answered_shows_that_messages_are_taken() {
    let mut bench = quiet(NEVER);
    bench.event(2, receipt(9));
    assert_eq!(bench.link(), Link::Probing(UNANSWERED), "it is none of those");
    bench.event(2, receipt(1));
    assert_eq!(bench.link(), Link::Up);
}

#[test]
fn a_stream_that_breaks_is_no_answer() {
    let mut bench = quiet(NEVER);
    bench.event(1, Event::Answered(sid(1), Answer::Broken));
    assert_ne!(bench.link(), Link::Up);
    let mut bench = Bench::new(Settings { answer: None, ..settings(Pool::Fixed(1), 99) });
    bench.up(1);
    for number in 1..=10 {
        assert_eq!(bench.retired, []);
        bench.send(number, 1);
        let answer = if number % 2 == 0 { Answer::Late } else { Answer::Broken };
        bench.event(1, Event::Answered(sid(number), answer));
    }
    assert_eq!(bench.retired, [(1, Manner::AfterAnswers)], "five came late, and none in time between them");
}

#[test]
fn after_a_driver_was_held_up_the_answers_that_it_has_not_seen_have_their_time_again() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.send_until(1, 1, 5_000);
    bench.send(2, 2);
    bench.pass_secs(1);
    bench.time += ANSWER;
    bench.pass_secs(9);
    bench.answer(1, 1);
    assert_eq!(bench.take_reports(), [accepted(1, 1, 0)]);
    assert_eq!((bench.changes.len(), bench.link()), (1, Link::Up));
    bench.pass(ANSWER - Duration::from_secs(10));
    assert_eq!(bench.changes.len(), 1);
    bench.pass_secs(2);
    assert_eq!(bench.changes.len(), 2, "and no more than that");
}

#[test]
fn a_message_whose_connection_was_only_cut_asks_like_any_other() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    (1..=3).for_each(|number| bench.send(number, number as i64));
    bench.pass_secs(10);
    bench.end(1, End::Failed);
    bench.pass_secs(10);
    bench.up(2);
    bench.take_sent();
    ignore(&mut bench, 2);
    assert_eq!(bench.link(), Link::UNANSWERED, "they had no time for an answer before");
}

#[test]
fn a_message_that_is_overdue_after_its_connection_was_given_up_for_an_older_one_asks_as_well() {
    let mut bench = quiet(NEVER);
    bench.pass(ANSWER + TICK);
    assert_eq!(bench.link(), Link::Up, "nothing to find out with");
    bench.pass(DRAIN);
    bench.end(1, End::Retired);
    assert_eq!(bench.take_sent().last(), Some(&(2, 1)));
    bench.pass(ANSWER / 2);
    bench.send(2, 2);
    bench.pass(ANSWER / 2 + TICK);
    let (last, _) = *bench.dials.last().unwrap();
    assert_eq!((last, bench.link()), (3, Link::Draining), "given up for what was ignored before");
    bench.up(3);
    assert_eq!(bench.link(), Link::Up);
    bench.pass(ANSWER / 2);
    assert_eq!(bench.link(), Link::Probing(UNANSWERED));
}

#[test]
fn while_messages_wait_behind_an_unanswered_one_the_question_stays() {
    let mut bench = quiet(NEVER);
    for n in 0..30 {
        bench.send(2 + n, 1);
        assert_eq!(bench.take_reports(), [deferred(2 + n)]);
        assert_eq!(bench.link(), Link::Probing(UNANSWERED), "after {n} times 5 s");
        bench.pass_secs(5);
    }
    bench.pass(ANSWER);
    assert_eq!(bench.link(), Link::Up, "nobody uses it any more");
}
