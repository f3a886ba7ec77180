use super::*;
use proptest::prelude::*;

#[expect(clippy::disallowed_methods, reason = "any moment will do as the start of the test's own time")]
fn start() -> Instant {
    Instant::now()
}

fn to(recipient: i64) -> Charge {
    Charge::Device(recipient)
}

/// A budget whose project is past its ramp at the returned moment.
fn warm(quotas: &Quotas) -> (Budget, Instant) {
    let (mut budget, mut now) = (Budget::new(quotas), start());
    for _ in 0..=RAMP.as_secs() {
        assert_eq!(budget.take(Charge::Topic, now), Grant::Go);
        now += Duration::from_secs(1);
    }
    (budget, now)
}

/// How many go within a second when as many as possible want to.
fn second(budget: &mut Budget, charge: Charge, from: Instant) -> u32 {
    let mut went = 0;
    for ms in 0..1000 {
        while budget.take(charge, from + Duration::from_millis(ms)) == Grant::Go {
            went += 1;
        }
    }
    went
}

#[test]
fn the_project_gets_faster_from_second_to_second_for_a_minute() {
    let (mut budget, start) = (Budget::new(&Quotas::default()), start());
    let rates: Vec<u32> = (0..70).map(|s| second(&mut budget, Charge::Topic, start + Duration::from_secs(s))).collect();
    assert!((100..=300).contains(&rates[0]), "{}", rates[0]);
    assert!(rates[..60].windows(2).all(|pair| pair[0] < pair[1] + 200), "{rates:?}");
    assert!((4_000..=6_000).contains(&rates[30]), "{}", rates[30]);
    assert!((9_500..=10_000).contains(&rates[65]), "{}", rates[65]);
    // After a pause it begins again.
    let later = start + Duration::from_secs(70) + IDLE;
    assert!((100..=300).contains(&second(&mut budget, Charge::Topic, later)));
}

#[test]
fn after_fcm_stopped_the_project_it_begins_slowly_however_short_that_was() {
    let (mut budget, now) = warm(&Quotas::default());
    // In a second after a rest a second's worth goes at once, and as much again meanwhile.
    assert!(second(&mut budget, Charge::Topic, now) > 19_000);
    budget.begin_anew();
    let rates: Vec<u32> =
        [5, 35, 70].into_iter().map(|s| second(&mut budget, Charge::Topic, now + Duration::from_secs(s))).collect();
    assert!((100..=300).contains(&rates[0]) && (9_000..=11_000).contains(&rates[1]) && rates[2] > 19_000, "{rates:?}");
}

#[test]
fn a_small_quota_lets_through_what_it_allows_also_after_a_pause() {
    for per_minute in [2, 20, 60, 600] {
        let quotas = Quotas { project_per_minute: per_minute, ..Quotas::default() };
        let (mut budget, mut now) = (Budget::new(&quotas), start());
        for _ in 0..10 {
            assert_eq!(budget.take(Charge::Topic, now), Grant::Go, "{per_minute}");
            now += IDLE + Duration::from_secs(1);
        }
        // From the first message on what waits goes as fast as the quota has it, or once a second.
        budget.take(Charge::Topic, now);
        let wait = budget.project_wait(now + Duration::from_millis(1));
        let longest = MINUTE / (per_minute - 1).min(60) + Duration::from_secs(1);
        assert!(wait < longest, "{per_minute}: {wait:?}");
    }
}

#[test]
fn one_device_does_not_hold_up_another() {
    let (mut budget, now) = warm(&Quotas::default());
    let burst = (0..).take_while(|_| budget.take(to(1), now) == Grant::Go).count();
    assert_eq!(burst, 60);
    assert!(
        matches!(budget.take(to(1), now), Grant::DeviceWaits(wait, Limit::Minute(_)) if wait <= Duration::from_millis(334))
    );
    assert_eq!(budget.take(to(2), now), Grant::Go);
    assert_eq!(budget.take(Charge::Topic, now), Grant::Go);
}

#[test]
fn what_does_not_go_is_not_counted() {
    let quotas = Quotas { device_per_minute: 4, ..Quotas::default() };
    let (mut budget, now) = warm(&quotas);
    assert_eq!(budget.take(to(1), now), Grant::Go);
    for _ in 0..1000 {
        assert!(matches!(budget.take(to(1), now), Grant::DeviceWaits(..)));
    }
    let Grant::DeviceWaits(wait, _) = budget.take(to(1), now) else { panic!() };
    assert_eq!(budget.take(to(1), now + wait), Grant::Go);
}

#[test]
fn memory_is_bounded_whatever_the_number_of_devices() {
    let quotas = Quotas { project_per_minute: u32::MAX, ..Quotas::default() };
    let (mut budget, now) = warm(&quotas);
    // One device that has sent much stays in mind, while those with one message make room.
    while budget.take(to(-1), now) == Grant::Go {}
    let devices = i64::try_from(DEVICES_MAX).unwrap();
    let mut later = now;
    for recipient in 0..devices + devices / 2 {
        later += Duration::from_nanos(500);
        assert_eq!(budget.take(to(recipient), later), Grant::Go);
        assert!(budget.devices.len() <= DEVICES_MAX);
    }
    assert!(matches!(budget.take(to(-1), later), Grant::DeviceWaits(..)), "it was forgotten");
    // Full budgets are forgotten without any loss.
    let later = now + HOUR * 2;
    for recipient in 0..devices {
        budget.take(to(-2 - recipient), later);
    }
    assert!(budget.devices.len() <= DEVICES_MAX);
}

proptest! {
    #[test]
    fn no_window_ever_holds_more_than_a_quota(
        steps in prop::collection::vec((0u64..3000, 0i64..3), 1..300),
        project in 20u32..200,
        device in 4u32..40,
        hour in 20u32..60,
    ) {
        let quotas = Quotas {
            project_per_minute: project,
            device_per_minute: device,
            device_per_hour: hour,
        };
        let (mut budget, mut now) = (Budget::new(&quotas), start());
        let mut went: Vec<(Instant, i64)> = Vec::new();
        for (pause, recipient) in steps {
            now += Duration::from_millis(pause);
            while budget.take(to(recipient), now) == Grant::Go {
                went.push((now, recipient));
            }
        }
        let most = |window: Duration, whose: Option<i64>| {
            let times: Vec<Instant> =
                went.iter().filter(|(_, r)| whose.is_none_or(|w| w == *r)).map(|(at, _)| *at).collect();
            (0..times.len()).map(|i| times[i..].iter().take_while(|at| **at < times[i] + window).count()).max()
        };
        prop_assert!(most(MINUTE, None).unwrap_or(0) <= project as usize);
        for recipient in 0..3 {
            prop_assert!(most(MINUTE, Some(recipient)).unwrap_or(0) <= device as usize);
            prop_assert!(most(HOUR, Some(recipient)).unwrap_or(0) <= hour as usize);
        }
    }

    #[test]
    fn after_the_wait_it_goes(taken in 1u32..500, recipient in 0i64..2) {
        let (mut budget, mut now) = (Budget::new(&Quotas::default()), start());
        for _ in 0..taken {
            match budget.take(to(recipient), now) {
                Grant::Go => {}
                Grant::ProjectWaits(wait) | Grant::DeviceWaits(wait, _) => {
                    prop_assert!(!wait.is_zero());
                    now += wait;
                    // The other of the two budgets may be used up as well.
                    if let Grant::ProjectWaits(wait) | Grant::DeviceWaits(wait, _) = budget.take(to(recipient), now) {
                        now += wait;
                        prop_assert_eq!(budget.take(to(recipient), now), Grant::Go);
                    }
                }
            }
        }
    }
}
