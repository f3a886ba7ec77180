//! Nothing is lost and nothing is doubled in silence, whatever becomes of the connections.

use crate::bridge::{Bridge, End};
use crate::harness::{Harness, Plan, pause};
use crate::log::Log;
use fcm_mqtt_bridge::sim::v1::config::ConnectionLimits;
use fcm_mqtt_bridge::sim::v1::fault::Rule;
use fcm_mqtt_bridge::sim::v1::stats::{V1Stats, V1Violations};
use fcm_mqtt_bridge::sim::v1::{FaultKind, V1Faults};
use fcm_mqtt_bridge::transport::Link;
use fcm_mqtt_bridge::transport::fcm_v1::{STREAMS_MAX, Timing};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn seldom(then: FaultKind, chance: f64) -> Rule {
    Rule { chance, ..Rule::always(then) }
}

fn kept_the_rules(stats: &V1Stats) {
    assert_eq!(stats.violations, V1Violations::default());
    assert!(stats.streams_peak <= STREAMS_MAX, "{} streams", stats.streams_peak);
}

#[tokio::test(start_paused = true)]
async fn in_quiet_times_everything_arrives_once_over_as_many_connections_as_it_takes() {
    let log = Log::listen();
    let faults = V1Faults { latency_ms: 300, jitter_ms: 300, ..V1Faults::default() };
    let mut harness = Harness::open(Plan { faults, ..Plan::default() }).await;
    let mut bridge = Bridge::new(2_000, 400);
    bridge.exchange_all(&mut harness, |_, _| {}).await;
    bridge.check(&harness.sim);
    let stats = harness.v1.stats();
    kept_the_rules(&stats);
    assert_eq!((bridge.count(End::Accepted), bridge.doubted(), stats.duplicates), (2_000, 0, 0));
    assert_eq!((stats.connections, stats.streams_peak, stats.tokens), (4, STREAMS_MAX, 1));
    assert_eq!(harness.close().await, []);
    assert_eq!(log.lines("WARN"), [""; 0]);
    assert_eq!(log.lines("ERROR"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_told_to_go_cost_nothing_and_leave_no_doubt() {
    let usual = V1Faults { latency_ms: 50, jitter_ms: 100, ..V1Faults::default() };
    let often = V1Faults { goaway_after: Some(40), ..usual.clone() };
    let rules = vec![seldom(FaultKind::Goaway, 0.01), seldom(FaultKind::RefuseStream, 0.05)];
    let beyond = V1Faults { rules, ..usual.clone() };
    let mut harness = Harness::open(Plan { faults: usual, ..Plan::default() }).await;
    let mut bridge = Bridge::new(2_400, 300);
    let meddle = |ended: usize, v1: &fcm_mqtt_bridge::sim::v1::V1Handle| match ended {
        300 | 600 => assert!(v1.goaway(None) > 0),
        900 => v1.set_faults(often.clone()).unwrap(),
        1_600 => v1.set_faults(beyond.clone()).unwrap(),
        _ => {}
    };
    bridge.exchange_all(&mut harness, meddle).await;
    bridge.check(&harness.sim);
    let stats = harness.v1.stats();
    kept_the_rules(&stats);
    assert_eq!((bridge.count(End::Accepted), bridge.doubted(), stats.duplicates), (2_400, 0, 0));
    assert!(stats.goaways["max_age"] > 10 && stats.fault_kinds["refuse-stream"] > 10, "{stats:?}");
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn connections_are_replaced_before_fcm_ends_them_for_their_age() {
    // An hour is ten minutes, and four minutes are forty seconds.
    let limits = ConnectionLimits { time_divisor: 6, ..ConnectionLimits::default() };
    let usual = Timing::default();
    let timing = Timing { age: usual.age / 6, idle: usual.idle / 6, spare: usual.spare / 6, ..usual };
    let faults = V1Faults { latency_ms: 1_000, ..V1Faults::default() };
    let mut harness = Harness::open(Plan { limits, timing, faults, speed: 100, ..Plan::default() }).await;
    let mut bridge = Bridge::new(6_000, 20);
    // One after the other for each device: a hundred seconds of work, three times, and idling between.
    for round in 1..=3 {
        bridge.released = round * 2_000;
        bridge.exchange(&mut harness, round * 2_000, |_, _| {}).await;
        harness.link(Link::Up).await;
        for _ in 0..400 {
            pause(1).await;
            assert_eq!(*harness.port.link.borrow(), Link::Up, "a successor is there before the old one goes");
        }
    }
    bridge.check(&harness.sim);
    let stats = harness.v1.stats();
    kept_the_rules(&stats);
    assert_eq!((bridge.doubted(), stats.duplicates), (0, 0));
    assert!(stats.goaways.is_empty(), "{:?}", stats.goaways);
    assert!(stats.connections > 30, "{} connections", stats.connections);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_fcm_ends_for_its_age_all_the_same_costs_nothing() {
    let limits = ConnectionLimits { age: 7 * SECOND, idle: 3 * SECOND, ..ConnectionLimits::default() };
    let faults = V1Faults { latency_ms: 200, jitter_ms: 400, ..V1Faults::default() };
    let mut harness = Harness::open(Plan { limits, faults, ..Plan::default() }).await;
    let mut bridge = Bridge::new(1_500, 20);
    bridge.exchange(&mut harness, 750, |_, _| {}).await;
    pause(30).await;
    // Whatever age the last connection had, the next one is young when it has nothing to do any more.
    bridge.exchange(&mut harness, 770, |_, _| {}).await;
    pause(30).await;
    bridge.exchange_all(&mut harness, |_, _| {}).await;
    bridge.check(&harness.sim);
    let stats = harness.v1.stats();
    kept_the_rules(&stats);
    assert_eq!((bridge.count(End::Accepted), bridge.doubted(), stats.duplicates), (1_500, 0, 0));
    assert!(stats.goaways["max_age"] > 2 && stats.goaways["session_timeout"] > 0, "{:?}", stats.goaways);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_few_streams_is_given_few() {
    let limits = ConnectionLimits { streams: 7, ..ConnectionLimits::default() };
    let faults = V1Faults { latency_ms: 100, jitter_ms: 100, ..V1Faults::default() };
    let mut harness = Harness::open(Plan { limits, faults, ..Plan::default() }).await;
    let mut bridge = Bridge::new(600, 100);
    bridge.exchange_all(&mut harness, |_, _| {}).await;
    bridge.check(&harness.sim);
    let stats = harness.v1.stats();
    kept_the_rules(&stats);
    assert_eq!((stats.streams_peak, stats.connections, bridge.doubted()), (7, 4, 0));
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_take_longer_than_a_ping_keep_their_connection() {
    let faults = V1Faults { latency_ms: 15_000, jitter_ms: 4_000, ..V1Faults::default() };
    let mut harness = Harness::open(Plan { faults, speed: 50, ..Plan::default() }).await;
    let mut bridge = Bridge::new(200, 200);
    bridge.exchange_all(&mut harness, |_, _| {}).await;
    bridge.check(&harness.sim);
    let stats = harness.v1.stats();
    kept_the_rules(&stats);
    assert_eq!((bridge.count(End::Accepted), bridge.doubted(), stats.duplicates), (200, 0, 0));
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_under_load_says_of_each_message_what_became_of_it() {
    for (grace, latency_ms) in [(5 * SECOND, 300), (SECOND, 15_000)] {
        let faults = V1Faults { latency_ms, jitter_ms: latency_ms, ..V1Faults::default() };
        let timing = Timing { grace, ..Timing::default() };
        let mut harness = Harness::open(Plan { faults, timing, ..Plan::default() }).await;
        let mut bridge = Bridge::new(3_000, 1_000);
        bridge.exchange(&mut harness, 50, |_, _| {}).await;
        bridge.stop(&mut harness).await;
        let lost = bridge.ends.values().filter(|end| matches!(end, End::Lost(1..))).count();
        assert_eq!(lost > 0, grace == SECOND, "{lost} were in flight at the end");
        assert!(bridge.count(End::Lost(0)) > 0, "nothing was waiting");
        bridge.check(&harness.sim);
        kept_the_rules(&harness.v1.stats());
        harness.close().await;
    }
}
