//! Faults of our own side: nothing goes, nothing is lost, no token pays, and it ends by itself once somebody has mended it.

use crate::bridge::{Bridge, End};
use crate::harness::{Harness, Plan, device, message, sids};
use crate::log::Log;
use fcm_mqtt_bridge::chat::delivery::Fate;
use fcm_mqtt_bridge::chat::refusal::Decision;
use fcm_mqtt_bridge::sim::v1::fault::Rule;
use fcm_mqtt_bridge::sim::v1::{FaultKind, V1Faults, V1Handle};
use fcm_mqtt_bridge::transport::{Link, Report};

fn usual() -> V1Faults {
    V1Faults { latency_ms: 50, jitter_ms: 100, ..V1Faults::default() }
}

fn always(then: FaultKind) -> V1Faults {
    V1Faults { rules: vec![Rule::always(then)], ..usual() }
}

/// Something goes wrong in mid-load and stays so for some minutes.
async fn outage(then: FaultKind, word: &'static str) {
    let log = Log::listen();
    let mut harness = Harness::open(Plan { faults: usual(), speed: 200, ..Plan::default() }).await;
    let mut bridge = Bridge::new(1_000, 200);
    let meddle = |ended: usize, v1: &V1Handle| {
        if ended == 400 {
            v1.set_faults(always(then)).unwrap();
        }
    };
    bridge.exchange(&mut harness, 400, meddle).await;
    harness.link(Link::Down(word)).await;
    // The answers to what was on its way.
    bridge.exchange_for(&mut harness, 3).await;
    let before = harness.v1.stats();
    assert_eq!(before.open_streams, 0);
    bridge.exchange_for(&mut harness, 5 * 60).await;
    let since = harness.v1.stats();
    // After 10, 20, 40, 80, 160 seconds.
    let probes = since.requests - before.requests;
    assert!((4..=6).contains(&probes), "{word}: {probes} probes in five minutes");
    assert_eq!(*harness.port.link.borrow(), Link::Down(word));
    let errors = log.lines("ERROR");
    assert!(errors.len() == 1 && errors[0].contains(word), "{errors:?}");
    harness.v1.set_faults(usual()).unwrap();
    bridge.exchange_all(&mut harness, |_, _| {}).await;
    harness.link(Link::Up).await;
    bridge.check(&harness.sim);
    assert_eq!((bridge.count(End::Accepted), bridge.doubted()), (1_000, 0), "{word}");
    assert_eq!(harness.v1.stats().duplicates, 0);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_off_holds_everything() {
    outage(FaultKind::ApiDisabled, "api_disabled").await;
}

#[tokio::test(start_paused = true)]
async fn a_permission_that_is_missing_holds_everything() {
    outage(FaultKind::PermissionDenied, "permission_denied").await;
}

#[tokio::test(start_paused = true)]
async fn a_project_that_does_not_exist_holds_everything() {
    outage(FaultKind::NoProject, "unknown_project").await;
}

#[tokio::test(start_paused = true)]
async fn a_path_that_does_not_exist_holds_everything() {
    outage(FaultKind::NotFoundPage, "unknown_project").await;
}

#[tokio::test(start_paused = true)]
async fn access_tokens_that_are_refused_again_and_again_hold_everything() {
    outage(FaultKind::Unauthenticated, "unauthenticated").await;
    outage(FaultKind::UnauthenticatedPage, "unauthenticated").await;
}

#[tokio::test(start_paused = true)]
async fn many_mismatches_at_once_are_our_fault_and_cost_few_devices() {
    let mut harness = Harness::open(Plan { faults: usual(), speed: 200, ..Plan::default() }).await;
    let mut bridge = Bridge::new(1_000, 200);
    let meddle = |ended: usize, v1: &V1Handle| {
        if ended == 100 {
            v1.set_faults(always(FaultKind::SenderIdMismatch)).unwrap();
        }
    };
    bridge.exchange(&mut harness, 110, meddle).await;
    harness.link(Link::Down("sender_mismatch")).await;
    bridge.exchange_for(&mut harness, 3).await;
    harness.v1.set_faults(usual()).unwrap();
    bridge.exchange_all(&mut harness, |_, _| {}).await;
    harness.link(Link::Up).await;
    bridge.check(&harness.sim);
    let paid = bridge.count(End::Refused(Decision::QUARANTINE_TOKEN));
    assert!((1..60).contains(&paid), "{paid} devices");
    assert_eq!(bridge.count(End::Accepted) + paid, 1_000);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_key_for_apple_is_a_matter_of_its_devices_only() {
    let mut harness = Harness::open(Plan { faults: usual(), ..Plan::default() }).await;
    let sids = sids(80);
    for (number, sid) in (0..).zip(&sids) {
        let token = if number % 2 == 0 { format!("sim-third-party-auth-error:{number}") } else { device(number) };
        harness.send(message(*sid, &token, number)).await;
    }
    let (mut refused, mut accepted) = (0, 0);
    for _ in &sids {
        match harness.report().await {
            Report::Back { fate: Fate::Accepted { .. }, .. } => accepted += 1,
            Report::Back { fate: Fate::Refused(refusal), .. }
                if refusal.decision == Decision::FAIL_FOR_OPERATOR && refusal.code == "INVALID_APNS_CREDENTIAL" =>
            {
                refused += 1
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(*harness.port.link.borrow(), Link::Up);
    }
    assert_eq!((refused, accepted), (40, 40));
    harness.close().await;
}
