//! Messages over which connections break.

use super::*;

/// Ends the connection that is up, and brings the next one up. Returns its number.
fn breaks(harness: &mut Harness, connection: u64) -> u64 {
    harness.end(connection, End::Failed);
    harness.pass_secs(1);
    while harness.dials.last().unwrap().0 == connection {
        harness.pass_secs(1);
    }
    harness.take_sent();
    harness.up(connection + 1);
    connection + 1
}

fn ambiguous_sids(reports: Vec<Report>) -> Vec<u64> {
    let failed = reports.into_iter().filter_map(|report| match report {
        Report::Back { sid, fate: Fate::Refused(refusal), .. } => {
            assert_eq!((refusal.code.as_str(), refusal.decision), (AMBIGUOUS, Decision::FAIL));
            assert_eq!(refusal.arrival, crate::chat::refusal::Arrival::Maybe);
            Some(sid.millis())
        }
        _ => None,
    });
    failed.collect()
}

#[test]
fn a_message_over_which_connections_break_goes_alone_and_after_others_until_it_is_given_up() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    (1..=3).for_each(|number| harness.send(number, number as i64));
    assert_eq!(harness.take_sent(), [(1, 1), (1, 2), (1, 3)]);
    assert_eq!(breaks(&mut harness, 1), 2);
    assert_eq!(harness.take_sent(), [(2, 1), (2, 2), (2, 3)], "once says nothing");
    breaks(&mut harness, 2);
    assert_eq!(harness.take_sent(), [(3, 1)], "nobody knows which it was");
    harness.send(4, 4);
    assert_eq!(harness.take_sent(), [], "it is alone");
    breaks(&mut harness, 3);
    assert_eq!(harness.take_sent(), [(4, 4)], "those first over which nothing broke");
    harness.pass_secs(1);
    harness.answer(4, 4);
    assert_eq!(harness.take_sent(), [(4, 2)]);
    harness.answer(4, 2);
    assert_eq!(harness.take_sent(), [(4, 3)]);
    harness.answer(4, 3);
    let mut connection = 4;
    for number in 5..=7 {
        assert_eq!(harness.take_sent(), [(connection, 1)]);
        assert!(ambiguous_sids(harness.take_reports()).is_empty());
        harness.send(number, number as i64);
        connection = breaks(&mut harness, connection);
        assert_eq!(harness.take_sent(), [(connection, number)]);
        harness.pass_secs(1);
        harness.answer(connection, number);
    }
    assert_eq!(ambiguous_sids(harness.take_reports()), [1]);
    assert_eq!((harness.take_sent(), harness.core.snapshot().pending), (vec![], 0));
}

#[test]
fn others_are_sent_while_a_message_over_which_connections_break_waits_for_its_turn() {
    let mut harness = Harness::fixed(1, 9);
    harness.up(1);
    harness.send(1, 1);
    (1..=3).for_each(|connection| _ = breaks(&mut harness, connection));
    assert_eq!(harness.take_sent(), [], "another one is to be answered first");
    for number in 2..=4 {
        harness.send(number, 2);
    }
    assert_eq!(harness.take_sent(), [(4, 2), (4, 3), (4, 4)]);
    harness.send(5, 1);
    assert_eq!(harness.take_sent(), [], "its recipient's next one does not overtake");
    harness.pass_secs(1);
    harness.answer(4, 3);
    harness.send(6, 6);
    assert_eq!(harness.take_sent(), [], "the connection is kept free for it");
    harness.answer(4, 2);
    harness.answer(4, 4);
    assert_eq!(harness.take_sent(), [(4, 1)]);
    harness.answer(4, 1);
    assert_eq!(harness.take_sent(), [(4, 5), (4, 6)], "it was innocent");
    assert!(ambiguous_sids(harness.take_reports()).is_empty());
}

#[test]
fn where_no_connection_answers_anything_no_message_fails_over_their_breaks() {
    let mut harness = Harness::fixed(1, 9);
    harness.up(1);
    (1..=4).for_each(|number| harness.send(number, number as i64));
    let mut connection = 1;
    for _ in 0..40 {
        connection = breaks(&mut harness, connection);
        harness.pass(ANSWER / 4);
    }
    assert!(ambiguous_sids(harness.take_reports()).is_empty());
    let mut answered = 0;
    for _ in 0..200 {
        harness.pass_secs(1);
        for (connection, number) in harness.take_sent() {
            harness.answer(connection, number);
            answered += 1;
        }
    }
    assert_eq!((answered, harness.core.snapshot().pending), (4, 0));
}

#[test]
fn a_message_that_makes_its_connection_silent_is_sent_alone_as_well() {
    let mut harness = Harness::fixed(1, 9);
    harness.up(1);
    harness.send(1, 1);
    for round in 1..=2 {
        harness.pass(ANSWER + TICK);
        let (next, _) = *harness.dials.last().unwrap();
        assert_eq!(next, round + 1);
        harness.up(next);
        harness.send(1 + round, 1 + round as i64);
        harness.pass_secs(1);
        harness.answer(next, 1 + round);
        harness.take_sent();
        harness.pass(ANSWER + TICK);
        assert_eq!(harness.retired.last(), Some(&(round, Manner::Now)), "others are answered");
        harness.end(round, End::Retired);
        assert_eq!(harness.take_sent(), [(next, 1)]);
    }
    harness.send(9, 9);
    assert_eq!(harness.take_sent(), []);
}

#[test]
fn with_several_connections_the_others_go_on_while_one_has_a_message_alone() {
    let mut harness = Harness::fixed(2, 9);
    harness.up(1);
    harness.send(1, 1);
    harness.end(1, End::Failed);
    harness.pass_secs(10);
    let mut up = 1;
    for _ in 0..2 {
        let (next, _) = *harness.dials.last().unwrap();
        assert!(next > up);
        up = next;
        harness.up(next);
        harness.end(next, End::Failed);
        harness.pass_secs(70);
    }
    let (next, _) = *harness.dials.last().unwrap();
    harness.take_sent();
    harness.up(next);
    assert_eq!(harness.take_sent(), [(next, 1)]);
    harness.pass_secs(1);
    harness.up(next + 1);
    (2..=4).for_each(|number| harness.send(number, number as i64));
    assert_eq!(harness.take_sent(), [(next + 1, 2), (next + 1, 3), (next + 1, 4)]);
    harness.answer(next, 1);
    harness.send(5, 5);
    assert_eq!(harness.take_sent(), [(next, 5)]);
}
