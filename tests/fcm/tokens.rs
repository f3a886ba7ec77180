//! Access tokens under load: whatever becomes of them, it costs no message.

use crate::bridge::{Bridge, End};
use crate::harness::{Harness, Plan, TokensFrom, device, message, pause, sids};
use crate::log::Log;
use fcm_mqtt_bridge::chat::delivery::Fate;
use fcm_mqtt_bridge::sim::v1::fault::{AuthorityFault, Shape};
use fcm_mqtt_bridge::sim::v1::{V1Faults, V1Handle};
use fcm_mqtt_bridge::transport::{Link, Report};

const NO_TOKEN: Link = Link::Down("no_access_token");

fn usual() -> V1Faults {
    V1Faults { latency_ms: 50, jitter_ms: 150, ..V1Faults::default() }
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_few_seconds_are_renewed_in_time_and_once_each() {
    let log = Log::listen();
    let plan = Plan { token_life_s: 8, faults: usual(), tokens_from: TokensFrom::ServiceAccount, ..Plan::default() };
    let mut harness = Harness::open(plan).await;
    let began = tokio::time::Instant::now();
    let mut bridge = Bridge::new(8_000, 20);
    bridge.exchange_all(&mut harness, |_, _| {}).await;
    bridge.check(&harness.sim);
    let (stats, elapsed) = (harness.v1.stats(), began.elapsed().as_secs());
    assert_eq!((bridge.count(End::Accepted), bridge.doubted()), (8_000, 0));
    assert_eq!(stats.statuses.get(&401), None, "an old token was used");
    // Half of its life.
    assert!(stats.tokens <= elapsed / 4 + 1 && stats.tokens > 5, "{} in {elapsed} s", stats.tokens);
    harness.close().await;
    assert_eq!(log.lines("WARN"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_are_taken_back_are_replaced_once_and_nothing_is_lost() {
    for unauthorized in [Shape::Json, Shape::Page] {
        let faults = V1Faults { unauthorized, ..usual() };
        let mut harness = Harness::open(Plan { faults, ..Plan::default() }).await;
        let mut bridge = Bridge::new(2_000, 300);
        let meddle = |ended: usize, v1: &V1Handle| {
            if [300, 800, 1_300].contains(&ended) {
                assert_eq!(v1.revoke_tokens(), 1);
            }
        };
        bridge.exchange_all(&mut harness, meddle).await;
        bridge.check(&harness.sim);
        let stats = harness.v1.stats();
        assert_eq!((bridge.count(End::Accepted), bridge.doubted(), stats.duplicates), (2_000, 0, 0));
        assert!(stats.statuses[&401] > 30, "{:?}", stats.statuses);
        assert_eq!(stats.tokens, 4, "the first, and one for each that was taken back");
        harness.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_authority_is_down_the_old_token_is_used_and_then_messages_wait() {
    let log = Log::listen();
    let mut harness = Harness::open(Plan { token_life_s: 120, faults: usual(), speed: 50, ..Plan::default() }).await;
    harness.link(Link::Up).await;
    harness.v1.set_faults(V1Faults { authority: Some(AuthorityFault::Unavailable), ..usual() }).unwrap();
    // Half of its life is over, and it is asked for another in vain.
    pause(80).await;
    assert!(harness.v1.stats().token_refusals["backend_error"] > 0);
    let mut bridge = Bridge::new(600, 100);
    bridge.released = 300;
    bridge.exchange(&mut harness, 300, |_, _| {}).await;
    assert_eq!(*harness.port.link.borrow(), Link::Up);
    assert!(!log.lines("WARN").is_empty() && log.lines("ERROR").is_empty());
    harness.link(NO_TOKEN).await;
    let before = harness.v1.stats();
    let late = sids(1)[0];
    harness.send(message(late, &device(1_000), 1_000)).await;
    assert_eq!(
        harness.report().await,
        Report::Back { sid: late, fate: Fate::Lost, copies: 0, replays: 0 },
        "it waits on the disk"
    );
    pause(60).await;
    let since = harness.v1.stats();
    assert_eq!(since.requests, before.requests, "nothing goes without a token");
    let asked = since.token_refusals["backend_error"] - before.token_refusals["backend_error"];
    assert!((1..60).contains(&asked), "{asked} times in a minute");
    assert!(log.lines("ERROR").iter().all(|line| line.contains("no access token")));
    harness.v1.set_faults(usual()).unwrap();
    let mended = tokio::time::Instant::now();
    harness.link(Link::Up).await;
    assert!(mended.elapsed().as_secs() <= 6, "{:?} longer than the outage", mended.elapsed());
    harness.send(message(late, &device(1_000), 1_000)).await;
    assert!(
        matches!(harness.report().await, Report::Back { sid, fate: Fate::Accepted { .. }, copies: 1, .. } if sid == late)
    );
    bridge.released = 600;
    bridge.exchange_all(&mut harness, |_, _| {}).await;
    bridge.check(&harness.sim);
    assert_eq!((bridge.count(End::Accepted), bridge.doubted()), (600, 0));
    assert_eq!(harness.v1.stats().statuses.get(&401), None);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_wrong_is_named_and_mended_nothing_was_lost() {
    let log = Log::listen();
    let faults = V1Faults { clock_skew_s: -7_200, ..usual() };
    let mut harness = Harness::open(Plan { faults, tokens_from: TokensFrom::ServiceAccount, ..Plan::default() }).await;
    let sid = sids(1)[0];
    harness.link(NO_TOKEN).await;
    harness.send(message(sid, &device(1), 1)).await;
    assert_eq!(harness.report().await, Report::Back { sid, fate: Fate::Lost, copies: 0, replays: 0 });
    assert!(harness.v1.stats().token_refusals["invalid_grant"] > 0);
    let errors = log.lines("ERROR");
    assert!(errors.iter().all(|line| line.contains("the clock of this machine is wrong")), "{errors:?}");
    assert!(errors[0].contains("skew_s=72") || errors[0].contains("skew_s=71"), "{errors:?}");
    harness.v1.set_faults(usual()).unwrap();
    harness.link(Link::Up).await;
    harness.send(message(sid, &device(1), 1)).await;
    assert!(
        matches!(harness.report().await, Report::Back { sid: which, fate: Fate::Accepted { .. }, copies: 1, .. } if which == sid)
    );
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_unknown_is_no_matter_of_the_clock() {
    let log = Log::listen();
    let faults = V1Faults { authority: Some(AuthorityFault::InvalidGrant), ..usual() };
    let mut harness = Harness::open(Plan { faults, tokens_from: TokensFrom::ServiceAccount, ..Plan::default() }).await;
    harness.link(NO_TOKEN).await;
    let errors = log.lines("ERROR");
    assert!(errors[0].contains("invalid_grant") && !errors[0].contains("clock of this"), "{errors:?}");
    harness.close().await;
}
