//! Which connections there are.

use super::redial::SPACING;
use super::*;

const POOL: Pool = Pool::Elastic {
    most: 3,
    age_max: Duration::from_secs(3_600),
    idle_max: Duration::from_secs(210),
    spare_idle_max: Duration::from_secs(60),
};

#[test]
fn draining_as_a_nack_on_one_connection_after_the_other_does_not_stop_sending() {
    let mut harness = Harness::fixed(1, 3);
    harness.send(1, 1);
    // None of them is ever closed by the peer.
    for connection in 1..=40 {
        harness.up(connection);
        harness.send(100 + connection, 2);
        let sent = harness.take_sent();
        assert_eq!(sent, [(connection, 1), (connection, 100 + connection)]);
        harness.answer(connection, 100 + connection);
        harness.take_reports();
        harness.event(connection, Event::Draining);
        harness.bounce(connection, 1);
        harness.pass_secs(1);
        assert_eq!(harness.dials.len() as u64, connection + 1, "the next one is opened");
        for (closed, manner) in std::mem::take(&mut harness.retired) {
            assert_eq!((closed, manner), (connection - 3, Manner::Now), "the oldest is closed");
            harness.end(closed, End::Retired);
        }
    }
    harness.up(41);
    harness.answer(41, 1);
    assert_eq!(harness.take_reports(), [accepted(1, 1, 40)]);
    assert_eq!(harness.core.snapshot().connections_in(snapshot::ConnectionPhase::Draining), 3);
}

#[test]
fn drains_every_few_seconds_cause_no_pause() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    for connection in 1..=30 {
        harness.send(connection, 1);
        harness.answer(connection, connection);
        harness.pass_secs(4 + connection % 5);
        harness.event(connection, Event::Draining);
        let (next, at) = *harness.dials.last().unwrap();
        assert_eq!((next, at), (connection + 1, harness.time));
        harness.up(next);
        harness.end(connection, End::Failed);
    }
    assert_eq!(harness.dials.len(), 31);
}

#[test]
fn a_session_that_answered_is_replaced_at_once_however_short_it_was() {
    let mut harness = Harness::fixed(1, 3);
    for connection in 1..=30 {
        assert_eq!(harness.dials.last(), Some(&(connection, harness.time)));
        harness.up(connection);
        harness.send(connection, 1);
        harness.pass_secs(1);
        harness.answer(connection, connection);
        harness.end(connection, End::Failed);
    }
}

#[test]
fn a_peer_that_drains_each_connection_before_it_answers_anything_is_dialled_more_and_more_rarely() {
    for end in [None, Some(End::Dismissed)] {
        let mut harness = Harness::fixed(1, 3);
        let mut connection = 1;
        while harness.time < Duration::from_secs(3_600) {
            harness.up(connection);
            match end {
                None => harness.event(connection, Event::Draining),
                Some(end) => harness.end(connection, end),
            }
            harness.pass(SPACING);
            harness.end(connection, End::Failed);
            while harness.dials.last().unwrap().0 == connection {
                harness.pass(Duration::from_millis(100));
            }
            connection += 1;
        }
        assert!((60..400).contains(&harness.dials.len()), "{}", harness.dials.len());
        let first_two = harness.dials[1].1;
        assert!(first_two <= SPACING, "the first is ordinary life");
    }
}

#[test]
fn a_peer_that_ends_connections_because_of_an_error_is_dialled_more_and_more_rarely() {
    let mut harness = Harness::fixed(1, 3);
    let mut connection = 1;
    while harness.time < Duration::from_secs(3_600) {
        harness.up(connection);
        harness.event(connection, Event::Ejected("calm".to_owned()));
        let lost = ConnectionChange::Lost { detail: "server: calm".to_owned() };
        assert_eq!(harness.changes.pop(), Some((connection, lost)));
        harness.end(connection, End::Failed);
        while harness.dials.last().unwrap().0 == connection {
            harness.pass(Duration::from_millis(100));
        }
        connection += 1;
    }
    assert!((60..400).contains(&harness.dials.len()), "{}", harness.dials.len());
    // After a long life it begins anew.
    harness.up(connection);
    harness.pass_secs(60);
    let ejected = harness.time;
    harness.event(connection, Event::Ejected("calm".to_owned()));
    harness.pass_secs(60);
    assert!(harness.dials.last().unwrap().1 - ejected <= Duration::from_secs(1));
}

#[test]
fn an_account_that_allows_one_connection_loses_the_drained_one_as_soon_as_that_owes_nothing() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send(1, 1);
    harness.pass_secs(30);
    harness.event(1, Event::Draining);
    harness.end(2, End::TooMany);
    harness.pass_secs(1);
    assert_eq!((harness.dials.len(), &harness.retired[..]), (2, &[][..]), "an answer is missing");
    harness.answer(1, 1);
    // It waits for the acknowledgements that it owes by itself.
    assert_eq!(harness.retired, [(1, Manner::AfterAnswers)]);
    harness.end(1, End::Retired);
    assert_eq!(harness.dials.last(), Some(&(3, harness.time)), "it was no failure");
    harness.up(3);
    // For an answer that does not come it does not wait for long.
    harness.send(2, 2);
    harness.event(3, Event::Draining);
    harness.pass_secs(1);
    harness.end(4, End::TooMany);
    harness.pass(ANSWER);
    assert_eq!(harness.retired[1..], [(3, Manner::Now)]);
    harness.end(3, End::Retired);
    harness.up(5);
    assert_eq!(harness.take_sent().last(), Some(&(5, 2)));
    // Without one that drains it is a failure like any other.
    harness.pass_secs(30);
    harness.answer(5, 2);
    harness.end(5, End::Failed);
    harness.end(6, End::TooMany);
    assert_eq!(harness.dials.len(), 6);
}

#[test]
fn a_refused_key_is_tried_by_one_connection_at_a_time_however_many_there_are() {
    let mut harness = Harness::fixed(30, 3);
    for _ in 0..4 {
        harness.pass_secs(5);
        let (connection, _) = *harness.dials.last().unwrap();
        harness.end(connection, End::AuthFailed);
        harness.pass_secs(5);
        assert_eq!(harness.link(), Link::AUTH_FAILED);
        harness.pass_secs(25 * 60);
    }
    let waits: Vec<u64> = harness.dials.windows(2).map(|pair| (pair[1].1 - pair[0].1).as_secs()).collect();
    assert_eq!(harness.dials.len(), 5, "{waits:?}");
    assert_eq!(harness.core.snapshot().auth_failures, 4);
}

#[test]
fn a_snapshot_says_why_no_message_goes_and_when_the_next_try_is() {
    let mut harness = Harness::fixed(1, 2);
    assert_eq!(harness.core.snapshot().trouble, None, "nobody knows anything yet");
    let begun = harness.now().instant;
    harness.pass_secs(3);
    harness.end(1, End::AuthFailed);
    let trouble = harness.core.snapshot().trouble.unwrap();
    assert_eq!((trouble.words.as_str(), trouble.since), ("server: over", Some(begun)));
    assert!(trouble.next_try.unwrap() >= harness.now().instant + Duration::from_secs(30));
    harness.pass_secs(40);
    harness.up(2);
    let snapshot = harness.core.snapshot();
    assert_eq!(
        (snapshot.trouble, snapshot.window, snapshot.connections[0].begun),
        (None, 2, begun + harness.dials[1].1)
    );
    for number in 1..=2 {
        harness.send(number, number as i64);
    }
    assert_eq!(harness.core.snapshot().trouble, None, "for a moment it is full at any speed");
    let written = harness.now().instant;
    harness.pass_secs(2);
    let trouble = harness.core.snapshot().trouble.unwrap();
    assert_eq!(trouble.words, "the window is full: 2 of 2 messages are unanswered");
    assert_eq!(trouble.since, Some(written));
    harness.answer(2, 1);
    harness.answer(2, 2);
    assert_eq!(harness.core.snapshot().trouble, None);
}

#[test]
fn a_drain_costs_no_more_than_the_next_connection_takes() {
    let mut harness = Harness::fixed(1, 2);
    harness.up(1);
    harness.send(1, 1);
    harness.pass_secs(5);
    harness.take_sent();
    let drained = harness.time;
    harness.event(1, Event::Draining);
    harness.send(2, 2);
    assert_eq!(harness.dials.last(), Some(&(2, drained)), "the next one is opened at once");
    harness.pass(Duration::from_millis(150));
    harness.up(2);
    assert_eq!((harness.take_sent(), harness.time), (vec![(2, 2)], drained + Duration::from_millis(150)));
    assert_eq!(harness.core.snapshot().drains, 1);
}

#[test]
fn the_first_refusal_is_followed_by_half_a_minute_and_other_credentials_by_nothing() {
    let mut harness = Harness::fixed(4, 3);
    harness.end(1, End::AuthFailed);
    harness.pass_secs(29);
    assert_eq!(harness.dials.len(), 1);
    harness.pass_secs(5);
    assert_eq!(harness.dials.len(), 2);
    harness.end(2, End::AuthFailed);
    harness.core.handle_renewed(harness.now());
    harness.drain();
    assert_eq!(harness.dials.last(), Some(&(3, harness.time)));
    // It began with the key of before.
    harness.core.handle_renewed(harness.now());
    harness.end(3, End::AuthFailed);
    harness.pass_secs(1);
    assert_eq!(harness.dials.len(), 4);
    harness.up(4);
    harness.pass_secs(1);
    assert_eq!(harness.dials.len(), 7, "the others follow as soon as one is up");
    assert_eq!(harness.link(), Link::Up);
}

#[test]
fn thirty_connections_that_break_together_come_back_one_after_the_other() {
    let mut harness = Harness::fixed(30, 3);
    harness.up(1);
    for connection in 2..=30 {
        harness.pass_secs(1);
        harness.up(connection);
    }
    harness.pass_secs(60);
    (1..=30).for_each(|connection| harness.end(connection, End::Failed));
    harness.pass_secs(60);
    assert_eq!(harness.dials.len(), 31, "the first finds out whether there is a way");
    harness.up(31);
    harness.pass_secs(10);
    assert_eq!(harness.dials.len(), 60);
}

#[test]
fn an_acknowledgement_goes_to_its_own_connection_or_nowhere() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    let ack_ref = |connection| AckRef { connection: ConnectionId(connection), to: "t".into(), message_id: "m".into() };
    harness.core.handle_ack(ack_ref(1));
    harness.core.handle_ack(ack_ref(2));
    harness.drain();
    assert_eq!(harness.acks, [ack_ref(1)]);
    harness.end(1, End::Failed);
    harness.core.handle_ack(ack_ref(1));
    harness.drain();
    assert_eq!(harness.acks, [ack_ref(1)]);
    let counted = harness.core.snapshot();
    assert_eq!((counted.acks, counted.stale_acks), (1, 2));
}

#[test]
fn a_connection_that_cannot_be_given_a_message_is_given_no_other() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send(1, 1);
    harness.core.handle_gone(ConnectionId(1), sid(1), harness.now());
    harness.drain();
    assert_eq!(harness.take_sent(), [(1, 1)]);
    harness.end(1, End::Failed);
    harness.pass_secs(1);
    harness.up(2);
    harness.answer(2, 1);
    assert_eq!(harness.take_reports(), [accepted(1, 1, 0)]);
}

#[test]
fn a_connection_that_is_given_up_because_its_peer_does_not_read_is_replaced_and_given_nothing_more() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.pass_secs(1);
    harness.core.handle_given_up(ConnectionId(1), harness.now());
    harness.drain();
    harness.send(1, 1);
    assert_eq!((harness.take_sent(), harness.dials.len(), harness.link()), (vec![], 2, Link::Draining));
    harness.up(2);
    assert_eq!(harness.take_sent(), [(2, 1)]);
}

#[test]
fn an_elastic_pool_opens_connections_when_all_are_full_and_closes_those_that_idle() {
    let mut harness = Harness::new(settings(POOL, 1));
    harness.up(1);
    for number in 1..=5 {
        harness.send(number, number as i64);
        harness.pass_secs(1);
        harness.dials.last().copied().into_iter().for_each(|(connection, _)| harness.up(connection));
    }
    assert_eq!(harness.dials.len(), 3, "no more than that");
    assert_eq!(harness.take_sent(), [(1, 1), (2, 2), (3, 3)]);
    for connection in 1..=3 {
        harness.answer(connection, connection);
    }
    assert_eq!(harness.take_sent(), [(1, 4), (2, 5)]);
    harness.pass_secs(50);
    harness.answer(1, 4);
    harness.send(6, 6);
    assert_eq!(harness.take_sent(), [(1, 6)], "the oldest with room is used");
    harness.answer(1, 6);
    harness.pass_secs(20);
    assert_eq!(harness.retired, [(3, Manner::AfterAnswers)], "spare");
    harness.end(3, End::Retired);
    harness.pass_secs(30);
    assert_eq!(harness.dials.len(), 3);
}

#[test]
fn an_old_connection_goes_when_its_successor_is_there() {
    let mut harness = Harness::new(ServiceSettings { answer_timeout: None, ..settings(POOL, 1) });
    harness.up(1);
    let mut number = 0;
    while harness.dials.len() == 1 {
        number += 1;
        harness.send(number, 1);
        harness.answer(1, number);
        harness.pass_secs(60);
    }
    let age = Duration::from_secs(3_600);
    assert!((age.mul_f64(AGE_MIN)..=age + Duration::from_secs(60)).contains(&harness.time), "{:?}", harness.time);
    assert_eq!(harness.retired, []);
    harness.up(2);
    assert_eq!(harness.retired, [(1, Manner::AfterAnswers)]);
    harness.take_sent();
    harness.send(number + 1, 1);
    assert_eq!(harness.take_sent(), [(2, number + 1)]);
    // The last one is replaced before the peer ends it for idling.
    harness.answer(2, number + 1);
    harness.end(1, End::Retired);
    harness.pass_secs(209);
    assert_eq!(harness.dials.len(), 2);
    harness.pass_secs(2);
    assert_eq!(harness.dials.len(), 3);
    harness.up(3);
    assert_eq!(harness.retired.last(), Some(&(2, Manner::AfterAnswers)));
}

#[test]
fn one_more_than_configured_is_opened_where_none_takes_messages() {
    let mut harness = Harness::new(settings(POOL, 1));
    for connection in 1..=4 {
        harness.pass_secs(1);
        harness.event(connection, Event::Up { capacity: 0 });
    }
    harness.pass_secs(10);
    assert_eq!(harness.dials.len(), 4);
    assert_eq!(harness.link(), Link::UNCONNECTED);
}

#[test]
fn a_connection_that_served_and_was_drained_ends_the_back_off_of_those_before_it() {
    let mut harness = Harness::fixed(1, 3);
    for connection in 1..=8 {
        harness.end(connection, End::Failed);
        harness.pass_secs(61);
    }
    for served in [9, 11, 13, 15] {
        harness.up(served);
        harness.pass_secs(10);
        harness.event(served, Event::Draining);
        harness.end(served, End::Dismissed);
        harness.end(served + 1, End::Failed);
        let failed = harness.time;
        harness.pass_secs(60);
        let (next, at) = *harness.dials.last().unwrap();
        assert_eq!(next, served + 2);
        assert!(at - failed <= Duration::from_secs(1), "it waits for {:?}", at - failed);
    }
}

#[test]
fn a_connection_that_served_and_was_replaced_for_its_age_ends_the_back_off_of_those_before_it() {
    let mut harness = Harness::new(settings(POOL, 1));
    for connection in 1..=8 {
        harness.end(connection, End::Failed);
        harness.pass_secs(61);
    }
    harness.up(9);
    harness.pass_secs(211);
    harness.up(10);
    assert_eq!(harness.retired, [(9, Manner::AfterAnswers)]);
    harness.send(1, 1);
    harness.send(2, 2);
    harness.pass_secs(1);
    let failed = harness.time;
    harness.end(11, End::Failed);
    harness.pass_secs(60);
    let (next, at) = *harness.dials.last().unwrap();
    assert_eq!(next, 12);
    assert!(at - failed <= Duration::from_secs(1), "it waits for {:?}", at - failed);
}

#[test]
fn an_account_that_still_counts_the_drained_connection_for_a_while_is_asked_every_second() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.pass_secs(30);
    harness.event(1, Event::Draining);
    harness.end(2, End::TooMany);
    harness.pass_secs(1);
    harness.end(1, End::Retired);
    for connection in 3..=20 {
        assert_eq!(harness.dials.len() as u64, connection);
        harness.end(connection, End::TooMany);
        harness.pass_secs(1);
    }
    // If that goes on, it is a failure like any other.
    harness.pass_secs(30);
    let mut waits = Vec::new();
    for _ in 0..10 {
        let failed = harness.time;
        harness.end(harness.dials.last().unwrap().0, End::TooMany);
        harness.pass_secs(61);
        waits.push((harness.dials.last().unwrap().1 - failed).as_secs());
    }
    assert!(waits.iter().any(|wait| *wait > 20), "{waits:?}");
}

#[test]
fn a_draining_connection_stands_for_the_next_one_only_as_long_as_messages_wait_for_that() {
    for (end, outage) in [(End::AuthFailed, Link::AUTH_FAILED), (End::Failed, Link::UNCONNECTED)] {
        let mut harness = Harness::fixed(1, 3);
        harness.up(1);
        harness.send(1, 1);
        harness.event(1, Event::Draining);
        harness.pass_secs(1);
        harness.end(2, end);
        harness.pass_secs(3);
        assert_eq!(harness.link(), Link::Draining, "a connection is replaced in less");
        harness.pass_secs(1);
        assert_eq!(harness.link(), outage);
        harness.pass_secs(60);
        harness.up(harness.dials.last().unwrap().0);
        assert_eq!(harness.link(), Link::Up);
    }
}

#[test]
fn a_connection_that_brought_what_was_not_kept_is_replaced_and_ends_after_its_answers() {
    let mut harness = Harness::fixed(1, 3);
    harness.up(1);
    harness.send(1, 1);
    harness.pass_secs(1);
    for connection in [1, 1, 7] {
        harness.core.handle_forgotten(ConnectionId(connection), harness.now());
        harness.drain();
    }
    assert_eq!(harness.retired, [(1, Manner::AfterAnswers)]);
    assert_eq!(harness.dials.len(), 2);
    harness.up(2);
    harness.send(2, 2);
    harness.answer(1, 1);
    assert_eq!(harness.take_reports(), [accepted(1, 1, 0)]);
    harness.end(1, End::Retired);
    assert_eq!((harness.take_sent(), harness.dials.len()), (vec![(1, 1), (2, 2)], 2));
}
