//! Every row of the table of answers, from the answer on the wire to the report.

use crate::harness::{Harness, Plan, device, message, sids};
use fcm_mqtt_bridge::chat::delivery::Fate;
use fcm_mqtt_bridge::chat::push::{Priority, Target};
use fcm_mqtt_bridge::chat::refusal::{Arrival, Decision, Refusal, Scope, Until, Wait};
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::sim::v1::V1Faults;
use fcm_mqtt_bridge::sim::v1::config::Quotas as Sold;
use fcm_mqtt_bridge::sim::v1::fault::RetryAfter;
use fcm_mqtt_bridge::transport::fcm_v1::{OnAmbiguous, Timing};
use fcm_mqtt_bridge::transport::{Link, Report, Send};
use serde_json::json;
use std::time::Duration;

/// It goes again after so many seconds, and then after ever longer, for an hour of waiting.
const fn backoff(seconds: u64) -> Decision {
    retry(Wait::Backoff(Duration::from_secs(seconds)), Scope::Message)
}

/// The same where a quota is used up, for those who have to wait.
const fn over_quota(scope: Scope) -> Decision {
    retry(Wait::Backoff(Duration::from_secs(60)), scope)
}

const fn retry(wait: Wait, scope: Scope) -> Decision {
    Decision::Retry { wait, until: Until::Waited(Duration::from_secs(3_600)), scope }
}

/// Nobody knows what it means.
const FEW: Decision =
    Decision::Retry { wait: Wait::Backoff(Duration::from_secs(10)), until: Until::Tries(3), scope: Scope::Message };

/// What is reported of a message to each token, in the order of the table.
async fn table(plan: Plan, rows: &[(&str, Decision, &str, Arrival)]) {
    let mut harness = Harness::open(plan).await;
    for (number, ((word, decision, code, arrival), sid)) in (0..).zip(rows.iter().zip(sids(rows.len()))) {
        let mut report = None;
        // Behind two connections that were told to go before they answered anything there may be none for a while.
        while matches!(report, None | Some(Report::Back { fate: Fate::Lost, copies: 0, .. })) {
            harness.link(Link::Up).await;
            harness.send(message(sid, &format!("sim-{word}:x"), number)).await;
            report = Some(harness.report().await);
        }
        let Some(Report::Back { sid: which, fate: Fate::Refused(said), copies, .. }) = report else {
            panic!("{word}: {report:?}")
        };
        let detail = said.detail;
        assert_eq!(
            (which, said.decision, &*said.code, said.arrival),
            (sid, *decision, *code, *arrival),
            "{word}: {detail}"
        );
        assert!(!detail.is_empty() && !detail.contains("sim-"), "{word}: {detail}");
        assert!(copies <= 1, "{word}: {copies} copies");
    }
    assert_eq!(*harness.port.link.borrow(), Link::Up);
    // A fault is heard of by all who are on its connection, and nobody else was.
    assert_eq!(harness.close().await, []);
}

#[tokio::test(start_paused = true)]
async fn every_answer_has_its_report() {
    use Arrival::{Maybe, No};
    let rows = [
        ("invalid-registration", Decision::FAIL, "INVALID_JSON", No),
        ("invalid-token-field", Decision::REMOVE_TOKEN, "BAD_REGISTRATION", No),
        ("invalid-field", Decision::FAIL, "INVALID_JSON", No),
        ("invalid-argument", Decision::FAIL, "INVALID_JSON", No),
        ("no-details", Decision::FAIL, "INVALID_JSON", No),
        ("third-party-auth-error", Decision::FAIL_FOR_OPERATOR, "INVALID_APNS_CREDENTIAL", No),
        ("sender-id-mismatch", Decision::QUARANTINE_TOKEN, "SENDER_ID_MISMATCH", No),
        ("unregistered", Decision::REMOVE_TOKEN, "DEVICE_UNREGISTERED", No),
        ("too-large", Decision::FAIL, "TOO_BIG", No),
        ("device-quota", over_quota(Scope::Recipient), "DEVICE_MESSAGE_RATE_EXCEEDED", No),
        ("topic-quota", over_quota(Scope::Recipient), "TOPICS_MESSAGE_RATE_EXCEEDED", No),
        ("quota-exceeded", over_quota(Scope::Recipient), "QUOTA_EXCEEDED", No),
        ("internal", backoff(10), "INTERNAL_SERVER_ERROR", Maybe),
        ("bad-gateway", backoff(10), "INTERNAL_SERVER_ERROR", Maybe),
        ("gateway-timeout", backoff(10), "INTERNAL_SERVER_ERROR", Maybe),
        ("unavailable", backoff(10), "SERVICE_UNAVAILABLE", Maybe),
        ("unspecified-error", FEW, "INTERNAL_SERVER_ERROR", No),
        ("new-code", FEW, "INTERNAL_SERVER_ERROR", No),
        ("refuse-stream", backoff(10), "CONNECTION_DRAINING", No),
        ("goaway", backoff(10), "CONNECTION_DRAINING", No),
        ("reset-stream", backoff(10), "AMBIGUOUS", Maybe),
        ("silence", backoff(10), "AMBIGUOUS", Maybe),
        ("accept-reset-stream", backoff(10), "AMBIGUOUS", Maybe),
        ("accept-silence", backoff(10), "AMBIGUOUS", Maybe),
        ("accept-unavailable", backoff(10), "SERVICE_UNAVAILABLE", Maybe),
        ("accept-internal", backoff(10), "INTERNAL_SERVER_ERROR", Maybe),
        ("accept-bad-gateway", backoff(10), "INTERNAL_SERVER_ERROR", Maybe),
    ];
    table(Plan::default(), &rows).await;
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_reset_are_in_doubt_too() {
    let mut harness = Harness::open(Plan::default()).await;
    for (number, (word, sid)) in (0..).zip(["reset-connection", "accept-reset-connection"].into_iter().zip(sids(2))) {
        harness.send(message(sid, &format!("sim-{word}:x"), number)).await;
        let report = harness.report().await;
        let expected = matches!(&report, Report::Back { sid: which, fate: Fate::Refused(refusal), copies: 1, .. }
            if *which == sid && refusal.code == "AMBIGUOUS" && refusal.arrival == Arrival::Maybe
                && refusal.decision == backoff(10));
        assert!(expected, "{word}: {report:?}");
        harness.link(Link::Up).await;
    }
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_knows_is_only_reported_if_that_is_wanted() {
    let rows = ["reset-stream", "silence", "accept-reset-stream", "accept-silence"]
        .map(|word| (word, Decision::FAIL, "AMBIGUOUS", Arrival::Maybe));
    table(Plan { on_ambiguous: OnAmbiguous::Report, ..Plan::default() }, &rows).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_after_its_status_was_one() {
    let mut harness = Harness::open(Plan::default()).await;
    let sid = sids(1)[0];
    harness.send(message(sid, "sim-accept-cut:x", 1)).await;
    let fate = Fate::Accepted { canonical: None, provider_id: None, detail: None, can_confirm: false };
    let expected = Report::Back { sid, fate, copies: 1, replays: 0 };
    assert_eq!(harness.report().await, expected);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_one_within_the_time_for_it_and_none_beyond() {
    let timing = Timing { request: Duration::from_secs(12), ..Timing::default() };
    let mut harness = Harness::open(Plan { timing, speed: 50, ..Plan::default() }).await;
    let sids = sids(2);
    harness.send(message(sids[0], "sim-accept~9000:x", 1)).await;
    assert!(matches!(harness.report().await, Report::Back { fate: Fate::Accepted { .. }, .. }));
    harness.send(message(sids[1], "sim-accept~30000:x", 1)).await;
    let report = harness.report().await;
    assert!(
        matches!(report, Report::Back { fate: Fate::Refused(Refusal { arrival: Arrival::Maybe, .. }), copies: 1, .. }),
        "{report:?}"
    );
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_fcm_says_about_trying_again_is_obeyed_in_both_forms() {
    let mut harness = Harness::open(Plan::default()).await;
    let rows = [
        ("unavailable+7", 7..=7),
        // Dates are in whole seconds, of two clocks.
        ("unavailable@40", 39..=41),
        ("internal+15", 15..=15),
        ("bad-gateway@100000", 3_600..=3_600),
        ("device-quota+90", 90..=90),
        ("quota-exceeded+0", 1..=1),
    ];
    for (number, ((word, seconds), sid)) in (0..).zip(rows.into_iter().zip(sids(6))) {
        harness.send(message(sid, &format!("sim-{word}:x"), number)).await;
        let report = harness.report().await;
        let Report::Back { fate: Fate::Refused(refusal), .. } = &report else { panic!("{word}: {report:?}") };
        let Decision::Retry { wait: Wait::AtLeast(wait), .. } = refusal.decision else { panic!("{word}: {report:?}") };
        assert!(seconds.contains(&wait.as_secs()), "{word}: {wait:?}");
    }
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_used_up_quota_of_the_project_pauses_everybody_and_then_they_go_on() {
    for (quota_retry_after, wait, seconds) in [
        (RetryAfter::Absent, Wait::Backoff(Duration::from_secs(60)), 60),
        (RetryAfter::Seconds(90), Wait::AtLeast(Duration::from_secs(90)), 90),
    ] {
        let faults = V1Faults { quota_retry_after: Some(quota_retry_after), ..V1Faults::default() };
        let mut harness = Harness::open(Plan { faults, speed: 50, ..Plan::default() }).await;
        let (sids, usual) = (sids(3), harness.v1.quotas());
        harness.v1.set_quotas(Sold { project_per_minute: 1, ..usual });
        harness.send(message(sids[2], &device(3), 3)).await;
        assert!(matches!(harness.report().await, Report::Back { fate: Fate::Accepted { .. }, .. }));
        harness.send(message(sids[0], &device(1), 1)).await;
        let report = harness.report().await;
        let Report::Back { fate: Fate::Refused(refusal), .. } = report else { panic!("{report:?}") };
        assert_eq!((refusal.decision, refusal.arrival), (retry(wait, Scope::Service), Arrival::No));
        assert_eq!(refusal.code, "QUOTA_EXCEEDED");
        harness.link(Link::Down("quota_exceeded")).await;
        harness.v1.set_quotas(usual);
        let (before, began) = (harness.v1.stats().requests, tokio::time::Instant::now());
        harness.send(message(sids[1], &device(2), 2)).await;
        assert_eq!(
            harness.report().await,
            Report::Back { sid: sids[1], fate: Fate::Lost, copies: 0, replays: 0 },
            "everybody waits"
        );
        harness.link(Link::Up).await;
        assert!((seconds - 5..seconds + 5).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        assert_eq!(harness.v1.stats().requests, before);
        harness.send(message(sids[1], &device(2), 2)).await;
        assert!(matches!(harness.report().await, Report::Back { fate: Fate::Accepted { .. }, .. }));
        harness.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_given_up_after_an_hour_of_tries_or_when_its_time_is_over() {
    let mut harness = Harness::open(Plan { speed: 100, ..Plan::default() }).await;
    let sids = sids(4);
    let hour = Duration::from_secs(3_600);
    for (sid, (word, expected)) in sids.iter().zip([
        ("unavailable", Until::Waited(hour)),
        ("quota-exceeded", Until::Waited(hour)),
        ("new-code", Until::Tries(3)),
    ]) {
        harness.send(message(*sid, &format!("sim-{word}:x"), 1)).await;
        let report = harness.report().await;
        let Report::Back { fate: Fate::Refused(refusal), .. } = &report else { panic!("{word}: {report:?}") };
        assert!(matches!(refusal.decision, Decision::Retry { until, .. } if until == expected), "{word}: {report:?}");
    }
    harness.send(Send { deadline_ms: now_ms() - 1, ..message(sids[3], &device(2), 2) }).await;
    let report = harness.report().await;
    assert!(matches!(report, Report::Back { fate: Fate::Expired, copies: 0, .. }), "{report:?}");
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn topics_and_conditions_have_no_token_to_lose() {
    let mut harness = Harness::open(Plan::default()).await;
    for (target, sid) in
        [Target::Topic("news".to_owned()), Target::Condition("'news' in topics".to_owned())].into_iter().zip(sids(2))
    {
        let mut send = message(sid, "unused", 1);
        send.push.target = target;
        harness.send(send).await;
        assert!(matches!(harness.report().await, Report::Back { fate: Fate::Accepted { .. }, .. }));
    }
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_with_all_that_apple_browsers_and_android_have_is_in_order() {
    let mut harness = Harness::open(Plan::default()).await;
    let (sid, mut push) = (sids(1)[0], message(sids(1)[0], &device(1), 1).push);
    let object = |value: serde_json::Value| serde_json::from_value(value).unwrap();
    push.notification = Some(object(json!({"title": "t", "body": "b", "subtitle": "s", "badge": "3", "icon": "i",
        "sound": {"critical": 1, "name": "bell.caf", "volume": 0.5}, "title_loc_args": ["x"], "visibility": "SECRET"})));
    push.collapse = Some("\u{e9}".repeat(64));
    push.fcm = object(json!({
        "content_available": true, "mutable_content": true, "restricted_package_name": "com.example",
        "android": {"directBootOk": true, "ttl": 3600, "priority": "high", "data": {"count": 1},
            "notification": {"channelId": "c", "defaultSound": true, "notificationCount": "3", "vibrateTimings": [0.5]}},
        "apns": {"headers": {"apns-push-type": "alert", "apns-priority": 10, "apns-expiration": 0}, "payload": {"aps": {"thread-id": "t"}, "mine": {"x": [1]}},
            "fcmOptions": {"image": "https://example.com/x.png"}},
        "webpush": {"headers": {"urgency": "low", "TTL": 60}, "data": {"n": [1]}, "notification": {"requireInteraction": true},
            "fcm_options": {"link": "https://example.com/"}},
        "fcmOptions": {"analyticsLabel": "label"},
    }));
    harness.send(Send { push, ..message(sid, &device(1), 1) }).await;
    let report = harness.report().await;
    assert!(matches!(report, Report::Back { fate: Fate::Accepted { .. }, .. }), "{report:?}");
    harness.close().await;
}

/// The simulator keeps Google's rule, and refuses what is against it in the words for a bad token.
#[tokio::test(start_paused = true)]
async fn no_message_that_shows_nothing_is_refused_for_what_it_says_to_apple() {
    let mut harness = Harness::open(Plan::default()).await;
    let blocks = [
        json!({}),
        json!({"content_available": true}),
        json!({"mutable_content": true}),
        json!({"apns": {"headers": {"Apns-Priority": "10"}}}),
        json!({"apns": {"headers": {"apns-collapse-id": "c"}, "payload": {"mine": [1]}}}),
        json!({"apns": {"payload": {"aps": {"content-available": 0, "thread-id": "t"}}}}),
        json!({"apns": {"fcmOptions": {"analyticsLabel": "label"}}}),
    ];
    for (number, (fcm, sid)) in (0..).zip(blocks.into_iter().zip(sids(7))) {
        let mut send = message(sid, &device(number), number);
        send.push.priority = Priority::High;
        send.push.collapse = Some("chat".to_owned());
        send.push.fcm = serde_json::from_value(fcm.clone()).unwrap();
        harness.send(send).await;
        let report = harness.report().await;
        assert!(matches!(report, Report::Back { fate: Fate::Accepted { .. }, .. }), "{fcm}: {report:?}");
    }
    harness.close().await;
}
