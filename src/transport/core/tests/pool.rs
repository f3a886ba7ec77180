//! Which connections there are.

use super::*;

const POOL: Pool = Pool::Elastic {
    most: 3,
    age: Duration::from_secs(3_600),
    idle: Duration::from_secs(210),
    spare: Duration::from_secs(60),
};

#[test]
fn draining_as_a_nack_on_one_connection_after_the_other_does_not_stop_sending() {
    let mut bench = Bench::fixed(1, 3);
    bench.send(1, 1);
    // None of them is ever closed by the peer.
    for connection in 1..=40 {
        bench.up(connection);
        let sent = bench.take_sent();
        assert_eq!(sent, [(connection, 1)]);
        bench.event(connection, Event::Draining);
        bench.bounce(connection, 1);
        bench.pass_secs(1);
        assert_eq!(bench.dials.len() as u64, connection + 1, "the next one is opened");
        for (closed, manner) in std::mem::take(&mut bench.retired) {
            assert_eq!((closed, manner), (connection - 3, Manner::Now), "the oldest is closed");
            bench.end(closed, End::Retired);
        }
    }
    bench.up(41);
    bench.answer(41, 1);
    assert_eq!(bench.take_reports(), [accepted(1, 1, 40)]);
    assert_eq!(bench.core.snapshot().connections_in(snapshot::ConnectionPhase::Draining), 3);
}

#[test]
fn drains_every_few_seconds_cause_no_pause() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    for connection in 1..=30 {
        bench.pass_secs(4 + connection % 5);
        bench.event(connection, Event::Draining);
        let (next, at) = *bench.dials.last().unwrap();
        assert_eq!((next, at), (connection + 1, bench.time));
        bench.up(next);
        bench.end(connection, End::Failed);
    }
    assert_eq!(bench.dials.len(), 31);
}

#[test]
fn an_account_that_allows_one_connection_loses_the_drained_one_as_soon_as_that_owes_nothing() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.send(1, 1);
    bench.pass_secs(30);
    bench.event(1, Event::Draining);
    bench.end(2, End::TooMany);
    bench.pass_secs(1);
    assert_eq!((bench.dials.len(), &bench.retired[..]), (2, &[][..]), "an answer is missing");
    bench.answer(1, 1);
    // It waits for the acknowledgements that it owes by itself.
    assert_eq!(bench.retired, [(1, Manner::AfterAnswers)]);
    bench.end(1, End::Retired);
    assert_eq!(bench.dials.last(), Some(&(3, bench.time)), "it was no failure");
    bench.up(3);
    // For an answer that does not come it does not wait for long.
    bench.send(2, 2);
    bench.event(3, Event::Draining);
    bench.pass_secs(1);
    bench.end(4, End::TooMany);
    bench.pass(ANSWER);
    assert_eq!(bench.retired[1..], [(3, Manner::Now)]);
    bench.end(3, End::Retired);
    bench.up(5);
    assert_eq!(bench.take_sent().last(), Some(&(5, 2)));
    // Without one that drains it is a failure like any other.
    bench.pass_secs(30);
    bench.answer(5, 2);
    bench.end(5, End::Failed);
    bench.end(6, End::TooMany);
    assert_eq!(bench.dials.len(), 6);
}

#[test]
fn a_refused_key_is_tried_by_one_connection_at_a_time_however_many_there_are() {
    let mut bench = Bench::fixed(30, 3);
    for _ in 0..4 {
        bench.pass_secs(5);
        let (connection, _) = *bench.dials.last().unwrap();
        bench.end(connection, End::AuthFailed);
        bench.pass_secs(5);
        assert_eq!(bench.link(), Link::AUTH_FAILED);
        bench.pass_secs(25 * 60);
    }
    let waits: Vec<u64> = bench.dials.windows(2).map(|pair| (pair[1].1 - pair[0].1).as_secs()).collect();
    assert_eq!(bench.dials.len(), 5, "{waits:?}");
    assert_eq!(bench.core.snapshot().auth_failures, 4);
}

#[test]
fn a_snapshot_says_why_no_message_goes_and_when_the_next_try_is() {
    let mut bench = Bench::fixed(1, 2);
    assert_eq!(bench.core.snapshot().trouble, None, "nobody knows anything yet");
    let begun = bench.now().instant;
    bench.pass_secs(3);
    bench.end(1, End::AuthFailed);
    let trouble = bench.core.snapshot().trouble.unwrap();
    assert_eq!((trouble.words.as_str(), trouble.since), ("server: over", Some(begun)));
    assert!(trouble.next_try.unwrap() >= bench.now().instant + Duration::from_secs(30));
    bench.pass_secs(40);
    bench.up(2);
    let snapshot = bench.core.snapshot();
    assert_eq!((snapshot.trouble, snapshot.window, snapshot.connections[0].begun), (None, 2, begun + bench.dials[1].1));
    for number in 1..=2 {
        bench.send(number, number as i64);
    }
    assert_eq!(bench.core.snapshot().trouble, None, "for a moment it is full at any speed");
    let written = bench.now().instant;
    bench.pass_secs(2);
    let trouble = bench.core.snapshot().trouble.unwrap();
    assert_eq!(trouble.words, "the window is full: 2 of 2 messages are unanswered");
    assert_eq!(trouble.since, Some(written));
    bench.answer(2, 1);
    bench.answer(2, 2);
    assert_eq!(bench.core.snapshot().trouble, None);
}

#[test]
fn a_drain_costs_no_more_than_the_next_connection_takes() {
    let mut bench = Bench::fixed(1, 2);
    bench.up(1);
    bench.send(1, 1);
    bench.pass_secs(5);
    bench.take_sent();
    let drained = bench.time;
    bench.event(1, Event::Draining);
    bench.send(2, 2);
    assert_eq!(bench.dials.last(), Some(&(2, drained)), "the next one is opened at once");
    bench.pass(Duration::from_millis(150));
    bench.up(2);
    assert_eq!((bench.take_sent(), bench.time), (vec![(2, 2)], drained + Duration::from_millis(150)));
    assert_eq!(bench.core.snapshot().drains, 1);
}

#[test]
fn the_first_refusal_is_followed_by_half_a_minute_and_other_credentials_by_nothing() {
    let mut bench = Bench::fixed(4, 3);
    bench.end(1, End::AuthFailed);
    bench.pass_secs(29);
    assert_eq!(bench.dials.len(), 1);
    bench.pass_secs(5);
    assert_eq!(bench.dials.len(), 2);
    bench.end(2, End::AuthFailed);
    bench.core.handle_renewed(bench.now());
    bench.drain();
    assert_eq!(bench.dials.last(), Some(&(3, bench.time)));
    // It began with the key of before.
    bench.core.handle_renewed(bench.now());
    bench.end(3, End::AuthFailed);
    bench.pass_secs(1);
    assert_eq!(bench.dials.len(), 4);
    bench.up(4);
    bench.pass_secs(1);
    assert_eq!(bench.dials.len(), 7, "the others follow as soon as one is up");
    assert_eq!(bench.link(), Link::Up);
}

#[test]
fn thirty_connections_that_break_together_come_back_one_after_the_other() {
    let mut bench = Bench::fixed(30, 3);
    bench.up(1);
    for connection in 2..=30 {
        bench.pass_secs(1);
        bench.up(connection);
    }
    bench.pass_secs(60);
    (1..=30).for_each(|connection| bench.end(connection, End::Failed));
    bench.pass_secs(60);
    assert_eq!(bench.dials.len(), 31, "the first finds out whether there is a way");
    bench.up(31);
    bench.pass_secs(10);
    assert_eq!(bench.dials.len(), 60);
}

#[test]
fn an_acknowledgement_goes_to_its_own_connection_or_nowhere() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    let ack_ref = |connection| AckRef { connection: ConnectionId(connection), to: "t".into(), message_id: "m".into() };
    bench.core.handle_ack(ack_ref(1));
    bench.core.handle_ack(ack_ref(2));
    bench.drain();
    assert_eq!(bench.acks, [ack_ref(1)]);
    bench.end(1, End::Failed);
    bench.core.handle_ack(ack_ref(1));
    bench.drain();
    assert_eq!(bench.acks, [ack_ref(1)]);
    let counted = bench.core.snapshot();
    assert_eq!((counted.acks, counted.stale_acks), (1, 2));
}

#[test]
fn a_connection_that_cannot_be_given_a_message_is_given_no_other() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.send(1, 1);
    bench.core.handle_gone(ConnectionId(1), sid(1), bench.now());
    bench.drain();
    assert_eq!(bench.take_sent(), [(1, 1)]);
    bench.end(1, End::Failed);
    bench.pass_secs(1);
    bench.up(2);
    bench.answer(2, 1);
    assert_eq!(bench.take_reports(), [accepted(1, 1, 0)]);
}

#[test]
fn a_connection_that_is_given_up_because_its_peer_does_not_read_is_replaced_and_given_nothing_more() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.pass_secs(1);
    bench.core.handle_given_up(ConnectionId(1), bench.now());
    bench.drain();
    bench.send(1, 1);
    assert_eq!((bench.take_sent(), bench.dials.len(), bench.link()), (vec![], 2, Link::Draining));
    bench.up(2);
    assert_eq!(bench.take_sent(), [(2, 1)]);
}

#[test]
fn an_elastic_pool_opens_connections_when_all_are_full_and_closes_those_that_idle() {
    let mut bench = Bench::new(settings(POOL, 1));
    bench.up(1);
    for number in 1..=5 {
        bench.send(number, number as i64);
        bench.pass_secs(1);
        bench.dials.last().copied().into_iter().for_each(|(connection, _)| bench.up(connection));
    }
    assert_eq!(bench.dials.len(), 3, "no more than that");
    assert_eq!(bench.take_sent(), [(1, 1), (2, 2), (3, 3)]);
    for connection in 1..=3 {
        bench.answer(connection, connection);
    }
    assert_eq!(bench.take_sent(), [(1, 4), (2, 5)]);
    bench.pass_secs(50);
    bench.answer(1, 4);
    bench.send(6, 6);
    assert_eq!(bench.take_sent(), [(1, 6)], "the oldest with room is used");
    bench.answer(1, 6);
    bench.pass_secs(20);
    assert_eq!(bench.retired, [(3, Manner::AfterAnswers)], "spare");
    bench.end(3, End::Retired);
    bench.pass_secs(30);
    assert_eq!(bench.dials.len(), 3);
}

#[test]
fn an_old_connection_goes_when_its_successor_is_there() {
    let mut bench = Bench::new(Settings { answer: None, ..settings(POOL, 1) });
    bench.up(1);
    let mut number = 0;
    while bench.dials.len() == 1 {
        number += 1;
        bench.send(number, 1);
        bench.answer(1, number);
        bench.pass_secs(60);
    }
    let age = Duration::from_secs(3_600);
    assert!((age.mul_f64(AGE_MIN)..=age + Duration::from_secs(60)).contains(&bench.time), "{:?}", bench.time);
    assert_eq!(bench.retired, []);
    bench.up(2);
    assert_eq!(bench.retired, [(1, Manner::AfterAnswers)]);
    bench.take_sent();
    bench.send(number + 1, 1);
    assert_eq!(bench.take_sent(), [(2, number + 1)]);
    // The last one is replaced before the peer ends it for idling.
    bench.answer(2, number + 1);
    bench.end(1, End::Retired);
    bench.pass_secs(209);
    assert_eq!(bench.dials.len(), 2);
    bench.pass_secs(2);
    assert_eq!(bench.dials.len(), 3);
    bench.up(3);
    assert_eq!(bench.retired.last(), Some(&(2, Manner::AfterAnswers)));
}

#[test]
fn one_more_than_configured_is_opened_where_none_takes_messages() {
    let mut bench = Bench::new(settings(POOL, 1));
    for connection in 1..=4 {
        bench.pass_secs(1);
        bench.event(connection, Event::Up { capacity: 0 });
    }
    bench.pass_secs(10);
    assert_eq!(bench.dials.len(), 4);
    assert_eq!(bench.link(), Link::UNCONNECTED);
}

#[test]
fn a_connection_that_served_and_was_drained_ends_the_back_off_of_those_before_it() {
    let mut bench = Bench::fixed(1, 3);
    for connection in 1..=8 {
        bench.end(connection, End::Failed);
        bench.pass_secs(61);
    }
    for served in [9, 11, 13, 15] {
        bench.up(served);
        bench.pass_secs(5);
        bench.event(served, Event::Draining);
        bench.end(served, End::Dismissed);
        bench.end(served + 1, End::Failed);
        let failed = bench.time;
        bench.pass_secs(60);
        let (next, at) = *bench.dials.last().unwrap();
        assert_eq!(next, served + 2);
        assert!(at - failed <= Duration::from_secs(1), "it waits for {:?}", at - failed);
    }
}

#[test]
fn a_connection_that_served_and_was_replaced_for_its_age_ends_the_back_off_of_those_before_it() {
    let mut bench = Bench::new(settings(POOL, 1));
    for connection in 1..=8 {
        bench.end(connection, End::Failed);
        bench.pass_secs(61);
    }
    bench.up(9);
    bench.pass_secs(211);
    bench.up(10);
    assert_eq!(bench.retired, [(9, Manner::AfterAnswers)]);
    bench.send(1, 1);
    bench.send(2, 2);
    bench.pass_secs(1);
    let failed = bench.time;
    bench.end(11, End::Failed);
    bench.pass_secs(60);
    let (next, at) = *bench.dials.last().unwrap();
    assert_eq!(next, 12);
    assert!(at - failed <= Duration::from_secs(1), "it waits for {:?}", at - failed);
}

#[test]
fn an_account_that_still_counts_the_drained_connection_for_a_while_is_asked_every_second() {
    let mut bench = Bench::fixed(1, 3);
    bench.up(1);
    bench.pass_secs(30);
    bench.event(1, Event::Draining);
    bench.end(2, End::TooMany);
    bench.pass_secs(1);
    bench.end(1, End::Retired);
    for connection in 3..=20 {
        assert_eq!(bench.dials.len() as u64, connection);
        bench.end(connection, End::TooMany);
        bench.pass_secs(1);
    }
    // If that goes on, it is a failure like any other.
    bench.pass_secs(30);
    let mut waits = Vec::new();
    for _ in 0..10 {
        let failed = bench.time;
        bench.end(bench.dials.last().unwrap().0, End::TooMany);
        bench.pass_secs(61);
        waits.push((bench.dials.last().unwrap().1 - failed).as_secs());
    }
    assert!(waits.iter().any(|wait| *wait > 20), "{waits:?}");
}

#[test]
fn a_draining_connection_stands_for_the_next_one_only_as_long_as_messages_wait_for_that() {
    for (end, outage) in [(End::AuthFailed, Link::AUTH_FAILED), (End::Failed, Link::UNCONNECTED)] {
        let mut bench = Bench::fixed(1, 3);
        bench.up(1);
        bench.send(1, 1);
        bench.event(1, Event::Draining);
        bench.pass_secs(1);
        bench.end(2, end);
        bench.pass_secs(3);
        assert_eq!(bench.link(), Link::Draining, "a connection is replaced in less");
        bench.pass_secs(1);
        assert_eq!(bench.link(), outage);
        bench.pass_secs(60);
        bench.up(bench.dials.last().unwrap().0);
        assert_eq!(bench.link(), Link::Up);
    }
}
