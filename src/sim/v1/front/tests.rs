//! Requests on a clock of numbers.

use super::*;
use crate::fcm::fault::{Fault, FcmCode};
use crate::sim::SimConfig;
use crate::sim::config::VirtualDevicesConfig;
use crate::sim::device::{DevicePatch, Presence};
use crate::sim::v1::V1Config;
use crate::sim::v1::config::Quotas;
use crate::sim::v1::fault::{Rule, V1Faults};
use crate::sim::v1::tokens::Grant;
use serde_json::{Value, json};

/// Sun, 06 Nov 1994 08:49:37 GMT
const NOW: u64 = 784_111_777_000;

struct Harness {
    service: Service,
    dice: Dice,
    header: String,
    now: u64,
}

impl Harness {
    fn new(v1: V1Config) -> Self {
        Self::with_devices(v1, VirtualDevicesConfig::default())
    }

    fn with_devices(v1: V1Config, devices: VirtualDevicesConfig) -> Self {
        let mut service = Service::new(&SimConfig { v1: Some(v1), devices, ..SimConfig::default() });
        let header = format!("Bearer {}", service.v1.tokens.sell(Grant::Messages, u64::MAX));
        Self { service, dice: Dice::new(1, 1), header, now: NOW }
    }

    fn quotas(quotas: Quotas) -> Self {
        Self::new(V1Config { quotas, ..V1Config::default() })
    }

    fn ask(&mut self, body: &[u8]) -> Answer {
        let ask = Ask {
            method: "POST",
            path: "/v1/projects/demo-project/messages:send",
            authority: Some("fcm.googleapis.com"),
            authorization: Some(&self.header),
            body: Some(body),
        };
        answer(&mut self.service, &ask, &mut self.dice, self.now)
    }

    fn send(&mut self, message: Value) -> Reply {
        match self.ask(json!({"message": message}).to_string().as_bytes()).manner {
            Manner::Whole(reply) => reply,
            manner => panic!("{manner:?}"),
        }
    }

    fn statuses(&mut self, token: &str, count: usize) -> Vec<u16> {
        (0..count).map(|_| self.send(json!({"token": token})).status).collect()
    }

    /// The ids that a device got.
    fn got(&self, token: &str) -> Vec<String> {
        let device = self.service.devices.device(token, 0, 100);
        device.map_or_else(Vec::new, |device| device.messages.into_iter().map(|record| record.message_id).collect())
    }
}

#[test]
fn a_device_has_its_quota_and_the_wait_is_told_in_both_forms() {
    let mut harness = Harness::quotas(Quotas { device_per_minute: 2, ..Quotas::default() });
    harness.statuses("t", 2);
    harness.now += 15_000;
    let reply = harness.send(json!({"token": "t"}));
    assert_eq!((reply.status, reply.retry_after.as_deref()), (429, Some("45")));
    let fault = Fault::of(&serde_json::from_str(&reply.body).unwrap()).unwrap();
    assert_eq!((fault.code, &*fault.quotas[0]), (Some(FcmCode::QuotaExceeded), "Device message rate exceeded"));
    harness.service.v1.faults.quota_retry_after = Some(RetryAfter::Date(30));
    let reply = harness.send(json!({"token": "t"}));
    assert_eq!(reply.retry_after.as_deref(), Some("Sun, 06 Nov 1994 08:50:22 GMT"));
    assert_eq!(harness.statuses("other", 1), [200]);
    harness.now += 45_000;
    assert_eq!(harness.statuses("t", 1), [200]);
    assert_eq!((harness.got("t").len(), harness.service.v1.stats.accepted), (3, 4), "429 delivers nothing");
}

#[test]
fn the_projects_quota_counts_mistakes_but_not_429() {
    let mut harness = Harness::quotas(Quotas { project_per_minute: 3, ..Quotas::default() });
    assert_eq!(harness.send(json!({})).status, 400);
    assert_eq!(harness.statuses("sim-device-quota:x", 4), [429; 4]);
    assert_eq!(harness.statuses("sim-unregistered:x", 1), [404]);
    assert_eq!(harness.statuses("t", 2), [200, 429]);
    harness.now += 60_000;
    assert_eq!(harness.statuses("t", 1), [200]);
}

#[test]
fn collapsible_messages_beyond_the_burst_are_taken_at_once_and_delivered_late() {
    let quotas = Quotas { collapsible_burst: 2, collapsible_refill_ms: 1_000, ..Quotas::default() };
    let mut harness = Harness::quotas(quotas);
    for id in ["1", "2", "3", "4"] {
        let message = json!({"token": "t", "data": {"mid": id}, "android": {"collapse_key": "k"}});
        assert_eq!(harness.send(message).status, 200);
    }
    assert_eq!(harness.got("t"), ["1", "2"]);
    assert_eq!(harness.service.next_due(), Some(NOW + 1_000));
    harness.service.tick(NOW + 1_000);
    assert_eq!(harness.got("t"), ["1", "2", "4"], "the newer one took the place of the older");
    assert_eq!((harness.service.next_due(), harness.service.v1.stats.held_back), (None, 2));
}

#[test]
fn what_is_stored_for_a_device_that_is_away_expires() {
    let mut harness = Harness::new(V1Config::default());
    let state = |state| DevicePatch { state: Some(state), ..DevicePatch::default() };
    harness.service.put("t", state(Presence::Offline), NOW).unwrap();
    for (id, ttl) in [("now-or-never", "0s"), ("short", "1.5s"), ("long", "60s")] {
        let message = json!({"token": "t", "data": {"mid": id}, "android": {"ttl": ttl}});
        assert_eq!(harness.send(message).status, 200);
    }
    harness.service.put("t", state(Presence::Online), NOW + 1_500).unwrap();
    assert_eq!(harness.got("t"), ["long"]);
}

#[test]
fn copies_of_a_message_are_seen_by_their_mid() {
    let mut harness = Harness::new(V1Config::default());
    for _ in 0..2 {
        assert_eq!(harness.send(json!({"token": "t", "data": {"mid": "m"}})).status, 200);
        assert_eq!(harness.send(json!({"token": "t"})).status, 200);
    }
    assert_eq!((harness.service.stats.delivered, harness.service.stats.duplicates), (4, 1));
}

#[test]
fn topics_reach_their_subscribers() {
    let mut harness = Harness::new(V1Config::default());
    let topics = Some(["news".to_owned()].into());
    harness.service.put("t", DevicePatch { topics, ..DevicePatch::default() }, NOW).unwrap();
    assert_eq!(harness.send(json!({"topic": "news", "data": {"mid": "1"}})).status, 200);
    assert_eq!(harness.send(json!({"condition": "'news' in topics", "data": {"mid": "2"}})).status, 200);
    assert_eq!(harness.got("t"), ["1", "2"]);
}

#[test]
fn tokens_that_never_were_are_told_in_words_and_nothing_is_only_validated_for_them() {
    let devices = VirtualDevicesConfig { auto_devices: None, ..VirtualDevicesConfig::default() };
    let mut harness = Harness::with_devices(V1Config::default(), devices);
    let reply = harness.send(json!({"token": "t"}));
    assert_eq!(Some(reply), Reply::of(FaultKind::InvalidRegistration, "message.token"));
    let body = json!({"validateOnly": true, "message": {"token": "t"}}).to_string();
    assert!(matches!(harness.ask(body.as_bytes()).manner, Manner::Whole(reply) if reply.status == 400));
    harness.service.put("t", DevicePatch::default(), NOW).unwrap();
    let Manner::Whole(reply) = harness.ask(body.as_bytes()).manner else { panic!() };
    assert_eq!(reply, Reply::sent("demo-project", "fake_message_id"));
    assert_eq!((harness.got("t").len(), harness.service.v1.stats.validated), (0, 1));
}

#[test]
fn the_place_comes_first_then_the_token_then_the_project() {
    let mut harness = Harness::new(V1Config::default());
    let header = harness.header.clone();
    let good = Ask {
        method: "POST",
        path: "/v1/projects/demo-project/messages:send",
        authority: Some("a"),
        authorization: Some(&header),
        body: Some(br#"{"message":{"token":"t"}}"#),
    };
    let mut status = |ask: Ask<'_>| match answer(&mut harness.service, &ask, &mut harness.dice, NOW).manner {
        Manner::Whole(reply) => reply.status,
        manner => panic!("{manner:?}"),
    };
    assert_eq!(status(good), 200);
    for (ask, wanted) in [
        (Ask { authority: None, ..good }, 404),
        (Ask { method: "GET", ..good }, 404),
        (Ask { path: "/v1/projects/demo-project/messages", ..good }, 404),
        (Ask { path: "/v1/projects/other/messages:send", ..good }, 404),
        (Ask { path: "/v1/projects/other/messages:send", authorization: None, ..good }, 401),
        (Ask { authorization: Some("Basic x"), ..good }, 401),
        (Ask { authorization: Some("Bearer x"), ..good }, 401),
        (Ask { body: None, ..good }, 413),
        (Ask { body: Some(b"{"), ..good }, 400),
    ] {
        assert_eq!(status(ask), wanted, "{} {} {:?}", ask.method, ask.path, ask.authorization);
    }
    assert_eq!(harness.service.v1.stats.violations.authority, 1);
}

#[test]
fn the_same_seed_makes_the_same_things_go_wrong() {
    let run = |seed| {
        let rules = vec![Rule { chance: 0.3, ..Rule::always(FaultKind::Unavailable) }];
        let faults = V1Faults { rules, jitter_ms: 50, ..V1Faults::default() };
        let mut harness = Harness::new(V1Config { faults, ..V1Config::default() });
        harness.dice = Dice::new(seed, 1);
        let body = json!({"message": {"token": "t"}}).to_string();
        (0..50).map(|_| harness.ask(body.as_bytes())).collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn an_app_confirms_when_its_sender_has_heard_or_before_if_it_is_to() {
    let mut harness = Harness::new(V1Config::default());
    let message =
        json!({"token": "t", "data": {"mid": "m", "ack": "self/receipts"}, "apns": {"payload": {"aps": {"badge": 1}}}});
    let confirmed = |harness: &Harness, now: u64| harness.service.v1.confirmations(0, 10, now).len();
    harness.service.v1.faults.latency_ms = 50;
    harness.send(message.clone());
    assert_eq!((confirmed(&harness, NOW + 49), confirmed(&harness, NOW + 50)), (0, 1));
    harness.service.v1.faults = V1Faults { latency_ms: 50, confirm_before_answer: true, ..V1Faults::default() };
    harness.send(message);
    assert_eq!(confirmed(&harness, NOW + 50), 2);
    let device = harness.service.devices.device("t", 0, 10).unwrap();
    assert_eq!(device.messages[1].apns, Some(json!({"payload": {"aps": {"badge": 1}}})));
}
