use super::*;
use proptest::prelude::*;

#[expect(clippy::disallowed_methods, reason = "any moment will do as the start of the test's own time")]
fn start() -> Instant {
    Instant::now()
}

fn owner(name: &str) -> Owner {
    Owner::new(name).unwrap()
}

fn limits() -> UserLimits {
    UserLimits::new(Allowances::default())
}

/// How many of `tries` pass at one moment.
fn passes(limits: &mut UserLimits, user: &str, what: Limited, tries: usize, now: Instant) -> usize {
    (0..tries).filter(|_| limits.take(&owner(user), what, now)).count()
}

#[test]
fn what_passes_at_once_and_what_comes_back() {
    for (what, at_once, pause, later) in [
        (Limited::Message(1), 100, SECOND, 20),
        (Limited::Message(1), 100, SECOND / 20, 1),
        (Limited::Message(1_000_000), 20, HOUR / 20, 1),
        (Limited::Request, 10, SECOND, 10),
        (Limited::TestPush, 1, SECOND * 59, 0),
        (Limited::TestPush, 1, MINUTE, 1),
        (Limited::Registration, 10, HOUR / 10, 1),
        (Limited::Registration, 10, DAY, 10),
    ] {
        let (mut limits, now) = (limits(), start());
        assert_eq!(passes(&mut limits, "eve", what, 1_000, now), at_once, "{what:?}");
        assert_eq!(passes(&mut limits, "bob", what, 1_000, now), at_once, "another one is not harmed: {what:?}");
        assert_eq!(passes(&mut limits, "eve", what, 1_000, now + pause), later, "{what:?} after {pause:?}");
    }
}

#[test]
fn a_message_that_is_too_much_takes_nothing_of_either_bucket() {
    let (mut limits, now) = (limits(), start());
    assert_eq!(passes(&mut limits, "eve", Limited::Message(20_000_001), 500, now), 0);
    assert_eq!(passes(&mut limits, "eve", Limited::Message(1), 500, now), 100);
}

#[test]
fn publishes_beyond_the_rate_are_acknowledged_when_their_turn_comes() {
    let (mut limits, now, eve) = (limits(), start(), owner("eve"));
    let delays: Vec<Duration> = (0..150).map(|_| limits.publish(&eve, now)).collect();
    assert!(delays[..50].iter().all(Duration::is_zero));
    assert_eq!((delays[50], delays[149]), (SECOND / 50, SECOND * 2));
    assert_eq!(limits.publish(&owner("bob"), now), Duration::ZERO);
    assert_eq!(limits.publish(&eve, now + SECOND * 3), Duration::ZERO, "what it owed has come back");
}

#[test]
fn twenty_strangers_an_hour_and_five_messages_to_each() {
    let (mut limits, now, eve) = (limits(), start(), owner("eve"));
    let mut meet = |n: usize, now| {
        let other = owner(&format!("u{n}"));
        let may = limits.meet(&eve, &other, now);
        if may {
            limits.met(&eve, &other, Met::Stranger, now);
        }
        may
    };
    assert_eq!((0..1_000).filter(|n| meet(*n, now)).count(), 20);
    assert_eq!((0..1_000).filter(|_| meet(7, now)).count(), 4, "one was written before");
    assert!(meet(20, now + HOUR / 20) && !meet(21, now + HOUR / 20));
    assert!(meet(7, now + DAY / 5) && !meet(7, now + DAY / 5));
}

#[test]
fn whoever_is_no_stranger_takes_nothing_and_an_answer_ends_it() {
    let (mut limits, now, eve) = (limits(), start(), owner("eve"));
    for n in 0..1_000 {
        let other = owner(&format!("u{n}"));
        assert!(limits.meet(&eve, &other, now), "{n}");
        limits.met(&eve, &other, if n % 2 == 0 { Met::Known } else { Met::Nothing }, now);
    }
    let bob = owner("bob");
    for _ in 0..5 {
        assert!(limits.meet(&eve, &bob, now));
    }
    assert!(!limits.meet(&eve, &bob, now));
    limits.met(&eve, &bob, Met::Nothing, now);
    assert!(limits.meet(&eve, &bob, now) && !limits.meet(&eve, &bob, now));
    limits.met(&eve, &bob, Met::Known, now);
    assert!(limits.meet(&eve, &bob, now), "bob has answered");
}

#[test]
fn whose_buckets_are_full_is_forgotten() {
    let (mut limits, now, eve) = (limits(), start(), owner("eve"));
    limits.publish(&eve, now);
    assert!(limits.meet(&eve, &owner("bob"), now));
    assert_eq!(limits.remembered(), 2);
    limits.publish(&owner("carol"), now + DAY / 5 - SECOND);
    assert_eq!(limits.remembered(), 3, "one message to a stranger comes back in a fifth of a day");
    limits.publish(&owner("carol"), now + DAY / 5);
    assert_eq!(limits.remembered(), 1);
}

#[test]
fn memory_is_bounded_and_whoever_has_done_the_least_is_forgotten_first() {
    let (mut limits, now, eve) = (limits(), start(), owner("eve"));
    limits.remembered_max = 100;
    assert_eq!(passes(&mut limits, "eve", Limited::Registration, 20, now), 10);
    limits.publish(&owner("carol"), now + SECOND);
    for n in 0..10_000 {
        limits.publish(&owner(&format!("u{n}")), now + SECOND);
        limits.meet(&owner("mallory"), &owner(&format!("u{n}")), now + SECOND);
        assert!(limits.remembered() <= 100);
    }
    assert!(!limits.take(&eve, Limited::Registration, now + SECOND), "eve is still remembered");
}

proptest! {
    #[test]
    fn no_window_has_more_than_its_burst_and_what_came_back(
        steps in prop::collection::vec((0u64..400, 0usize..40), 1..20),
    ) {
        let (mut limits, mut now, eve) = (limits(), start(), owner("eve"));
        let mut passed: Vec<Instant> = Vec::new();
        for (pause, tries) in steps {
            now += Duration::from_millis(pause);
            for _ in 0..tries {
                let may = limits.take(&eve, Limited::Message(1), now);
                // In the order of their times: behind the first of a window are all of it.
                let window = passed.iter().enumerate().map(|(index, from)| {
                    let count = (passed.len() - index) as f64;
                    count + 1.0 - 20.0 * (now - *from).as_secs_f64()
                });
                let most = window.fold(1.0, f64::max);
                // Refused exactly when it would be one more than some window may have.
                prop_assert_eq!(may, most <= 100.0 + 1e-6, "{} at once", most);
                if may {
                    passed.push(now);
                }
            }
        }
    }

    #[test]
    fn the_turns_of_publishes_keep_their_order(pauses in prop::collection::vec(0u64..40, 1..300)) {
        let (mut limits, mut now, eve) = (limits(), start(), owner("eve"));
        let mut before = now;
        for pause in pauses {
            now += Duration::from_millis(pause);
            let turn = now + limits.publish(&eve, now);
            prop_assert!(turn >= before);
            before = turn;
        }
    }
}

#[test]
fn whoever_gets_a_name_that_became_free_is_somebody_else() {
    let (mut limits, now) = (limits(), start());
    let (eve, bob) = (owner("eve"), owner("bob"));
    assert_eq!(passes(&mut limits, "eve", Limited::Request, 100, now), 10);
    assert_eq!((0..10).filter(|_| limits.meet(&bob, &eve, now)).count(), 5);
    assert!(limits.meet(&eve, &bob, now));
    while limits.add(&bob, std::slice::from_ref(&eve), now) {}
    limits.forget_name(&eve);
    assert_eq!((limits.remembered(), limits.look_at.len(), limits.strangers), (1, 1, 0));
    assert_eq!(passes(&mut limits, "eve", Limited::Request, 100, now), 10);
    assert!(limits.meet(&bob, &eve, now) && limits.add(&bob, std::slice::from_ref(&eve), now));
}
